"""What the charts of a backtest's page are drawn from: few enough numbers that a page of any run stays small.

All candles where there are few. Where there are many, two views of them: those around trades as they were, and all of them
merged into longer ones; what was left out is told. Arrays become bytes that compress well and lose nothing that is seen:
prices are whole numbers of their last decimal.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from backtesting.curve import Curve
from backtesting.engine.inputs import REASONS, Columns, MarketInput, Result
from domain.candles import Candles, FloatArray, IntArray
from domain.catalogue import indicator_of
from domain.informative import Others
from domain.strategy import Line

# So many numbers of candles and lines are drawn: 45,000 candles beside ten lines, 60,000 beside five.
MOST_VALUES = 720_000
MOST_CANDLES = 60_000
# A view of all candles merged has at most so many, over all markets.
MOST_MERGED = 12_000
MOST_POINTS = 6_000
MOST_TRADES = 20_000
MOST_LINES = 24
# Beyond so many trades their figures keep seven digits.
EXACT_TRADES = 5_000
# How many candles are shown before and after what is looked at; fewer where there is no room.
MARGINS = (120, 60, 30, 10, 3)
COLUMNS = 6
# Stands for NaN among whole numbers.
MISSING = -(2**31)
MOST_DIGITS = 9
FACTORS = (2, 3, 4, 5, 6, 8, 12, 15, 20, 24, 30, 48, 60, 96, 120, 144, 240, 288, 480, 720, 1440, 2880, 10_080)

Flags = NDArray[np.bool_]


@dataclass(slots=True)
class Packing:
    """Arrays as the bytes of one another's end; each is found again by what ``whole`` or ``plain`` answers."""

    parts: list[bytes] = field(default_factory=list)
    size: int = 0

    def whole(self, values: FloatArray | IntArray, decimals: int = 0) -> dict[str, Any]:
        """Numbers rounded to ``decimals``, each by its distance from the one before; NaN stays NaN."""
        scaled = np.asarray(values, dtype=np.float64) * 10.0**decimals
        numbers = np.where(np.isfinite(scaled), np.round(scaled), MISSING).astype(np.int64)
        # The distance wraps around at 32 bits, and so does the sum of them.
        return {**self._add(np.diff(numbers, prepend=0).astype(np.int32)), "decimals": decimals}

    def plain(self, values: Any, kind: str) -> dict[str, Any]:
        """Numbers as they are in memory, of numpy's ``kind``, least significant byte first."""
        return self._add(np.ascontiguousarray(values, dtype=f"<{kind}"))

    def packed(self) -> bytes:
        return zlib.compress(b"".join(self.parts), 6)

    def _add(self, array: NDArray[Any]) -> dict[str, Any]:
        # All first bytes, then all second ones: what changes seldom lies together.
        held = array.view(np.uint8).reshape(len(array), array.itemsize).T.tobytes()
        found = {"kind": array.dtype.str[1:], "from": self.size, "length": len(array)}
        self.parts.append(held)
        self.size += len(held)
        return found


def chart_of(markets: Sequence[MarketInput], result: Result, cash: float) -> tuple[dict[str, Any], bytes]:
    """What the page's script draws, and the bytes of the arrays that it names by where they lie."""
    packing = Packing()
    drawn = {
        "equity": _equity(packing, markets, result, cash),
        "markets": [_market(packing, market, result.columns, len(markets)) for market in markets],
        "trades": _trades(packing, markets, result.columns),
    }
    return drawn, packing.packed()


def decimals_of(values: FloatArray, most_digits: int = MOST_DIGITS) -> int:
    """How many decimals write every one of ``values``; where none of at most ``most_digits`` digits do, as many as those."""
    known = values[np.isfinite(values)]
    largest = float(np.max(np.abs(known), initial=0.0))
    most = min(12, most_digits - int(np.ceil(np.log10(largest)))) if largest > 0 else 0
    return next((few for few in range(most) if np.array_equal(np.round(known, few), known)), most)


def _equity(packing: Packing, markets: Sequence[MarketInput], result: Result, cash: float) -> dict[str, Any]:
    equity = np.asarray(result.equity, dtype=np.float64)
    curve = Curve(np.concatenate(([cash], equity)), result.open_ms, 0)
    held = curve.held(markets).values[1:] * cash
    peaks = np.maximum.accumulate(curve.values)[1:]
    falls = equity / peaks - 1 if len(equity) else equity
    kept = _corners(equity, MOST_POINTS)
    if len(falls):
        kept = np.union1d(kept, np.argmin(falls))
    return {
        "of": len(equity),
        "time": packing.whole(result.open_ms[kept] // 1000),
        "equity": packing.whole(equity[kept], decimals_of(equity)),
        "held": packing.whole(held[kept], decimals_of(held)),
        "drawdown": packing.whole(falls[kept], 6),
    }


def _corners(values: FloatArray, most: int) -> IntArray:
    """The indices of at most ``most`` of them: of each stretch its end, its highest and its lowest."""
    size = len(values)
    if size <= most:
        return np.arange(size)
    edges = np.linspace(0, size, most // 3 + 1).astype(np.int64)
    kept = []
    for start, end in zip(edges[:-1], edges[1:], strict=True):
        part = values[start:end]
        kept += [start + int(np.argmax(part)), start + int(np.argmin(part)), end - 1]
    return np.unique(kept)


def _trades(packing: Packing, markets: Sequence[MarketInput], columns: Columns) -> dict[str, Any]:
    """The last of the trades in columns; those of few different words by their number."""
    last = slice(max(len(columns) - MOST_TRADES, 0), None)
    symbols = [market.symbol for market in markets]
    places = np.array([symbols.index(one) for one in columns.symbols], dtype=np.int64)
    kind = "f8" if len(columns.pnl[last]) <= EXACT_TRADES else "f4"
    names = ("entry_price", "exit_price", "quantity", "pnl", "gain", "fees", "funding")
    return {
        "of": len(columns),
        "reasons": [one or "" for one in REASONS],
        "market": packing.plain(places[columns.market[last]], "u2"),
        "is_long": packing.plain(columns.side[last] > 0, "u1"),
        "reason": packing.plain(columns.reason[last], "u1"),
        "tag": _words(packing, columns.tags, last, len(columns)),
        "exit_tag": _words(packing, columns.exit_tags, last, len(columns)),
        "entry_time": packing.whole(columns.entry_ms[last] // 1000),
        "exit_time": packing.whole(columns.exit_ms[last] // 1000),
        **{name: packing.plain(getattr(columns, name)[last], kind) for name in names},
    }


def _words(packing: Packing, words: Sequence[str] | None, last: slice, size: int) -> dict[str, Any]:
    """Each different word once, and for each trade which of them it has."""
    said = ["" for _ in range(size)][last] if words is None else words[last]
    numbers = {word: number for number, word in enumerate(dict.fromkeys(said))}
    return {**packing.plain([numbers[word] for word in said], "u2"), "words": list(numbers)}


def _market(packing: Packing, market: MarketInput, trades: Columns, parts: int) -> dict[str, Any]:
    candles, step = market.candles, market.timeframe.seconds
    lines, missing = _lines(market)
    room = min(MOST_CANDLES, MOST_VALUES // (COLUMNS + len(lines))) // parts
    decimals = decimals_of(np.concatenate((candles.open, candles.high, candles.low, candles.close)))
    levels = [line for line in _hints(market) if not line.indicator and line.level is not None]
    told: dict[str, Any] = {
        "symbol": market.symbol,
        "timeframe": market.timeframe.value,
        "step": step,
        "decimals": decimals,
        "candles": len(candles),
        "lines": [{"label": label_of(line), "role": line.role.value, "pane": line.pane} for line, _ in lines],
        "levels": [{"pane": line.pane, "value": line.level} for line in levels],
        "missing": missing,
    }

    def view(name: str, shown: Candles, picked: Any, factor: int = 1, gaps: Sequence[int] = ()) -> dict[str, Any]:
        return {
            "name": name, "factor": factor, "gaps": list(gaps), "time": packing.whole(shown.open_ms // 1000),
            "volume": packing.plain(_rough(shown.volume), "f4"),
            **{one: packing.whole(getattr(shown, one), decimals) for one in ("open", "high", "low", "close")},
            "lines": [packing.whole(values[picked], _line_decimals(line, values, decimals)) for line, values in lines],
        }  # fmt: skip

    if len(candles) <= room:
        return {**told, "views": [view("all", candles, slice(None))]}
    is_own = np.array([one == market.symbol for one in trades.symbols], dtype=np.bool_)[trades.market]
    spans = np.column_stack((trades.entry_ms[is_own], trades.exit_ms[is_own]))
    merged, ends, factor = _merged(candles, step * 1000, max(MOST_MERGED // parts, 1))
    views = [view("merged", merged, ends, factor)]
    near = np.flatnonzero(near_trades(candles.open_ms, spans, room - len(merged)))
    if len(near):
        gaps = np.flatnonzero(np.diff(near) > 1) + 1
        picked = Candles(
            *(getattr(candles, name)[near] for name in ("open_ms", "open", "high", "low", "close", "volume"))
        )
        views.insert(0, view("near", picked, near, gaps=gaps.tolist()))
    return {**told, "views": views}


def near_trades(open_ms: IntArray, spans: IntArray, room: int) -> Flags:
    """Which candles are around trades, at most ``room`` of them: whole trades with as much before and after them as there
    is room for, else their entries and exits only, else those of the last trades. ``spans`` has a row of entry and exit time
    for each trade, oldest first."""
    size = len(open_ms)
    entries, exits = (np.maximum(np.searchsorted(open_ms, spans[:, one], side="right") - 1, 0) for one in (0, 1))
    ends = np.concatenate((entries, exits))
    for starts, stops in ((entries, exits), (ends, ends)):
        for margin in MARGINS:
            flags = _covered(starts - margin, stops + margin, size)
            if np.count_nonzero(flags) <= room:
                return flags
    few, many = 0, len(entries)
    while few < many:  # as many of the last trades as there is room for
        middle = (few + many + 1) // 2
        last = np.concatenate((entries[-middle:], exits[-middle:]))
        if np.count_nonzero(_covered(last - MARGINS[-1], last + MARGINS[-1], size)) <= room:
            few = middle
        else:
            many = middle - 1
    last = np.concatenate((entries[len(entries) - few :], exits[len(exits) - few :]))
    return _covered(last - MARGINS[-1], last + MARGINS[-1], size)


def _covered(starts: IntArray, stops: IntArray, size: int) -> Flags:
    steps = np.zeros(size + 1, dtype=np.int64)
    np.add.at(steps, np.clip(starts, 0, size), 1)
    np.add.at(steps, np.clip(stops + 1, 0, size), -1)
    return np.cumsum(steps[:-1]) > 0


def _merged(candles: Candles, step_ms: int, most: int) -> tuple[Candles, IntArray, int]:
    """At most ``most`` longer candles, the index of the last one merged into each, and how many times as long they are."""
    size = len(candles)
    factor = next((one for one in FACTORS if one * most >= size * 1.02), -(-size // most) + 1)
    while True:
        groups = candles.open_ms // (step_ms * factor)
        starts = np.flatnonzero(np.diff(groups, prepend=groups[0] - 1))
        if len(starts) <= most:
            break
        factor *= 2
    ends = np.append(starts[1:], size) - 1
    return (
        Candles(
            groups[starts] * step_ms * factor,
            candles.open[starts],
            np.maximum.reduceat(candles.high, starts),
            np.minimum.reduceat(candles.low, starts),
            candles.close[ends],
            np.add.reduceat(candles.volume, starts),
        ),
        ends,
        factor,
    )


def _rough(values: FloatArray) -> NDArray[np.float32]:
    """With the first twelve bits of each only: a bar of volume shows no more."""
    bits = np.asarray(values, dtype=np.float32).view(np.uint32)
    return (bits & np.uint32(0xFFFFF000)).view(np.float32)


def _hints(market: MarketInput) -> tuple[Line, ...]:
    return () if market.strategy is None else market.strategy.chart


def _lines(market: MarketInput) -> tuple[list[tuple[Line, FloatArray]], list[str]]:
    """The values of each line that the strategy hints at along the candles, and in words those that cannot be drawn."""
    wanted = [line for line in _hints(market) if line.indicator]
    found, missing = [], [f"{label_of(line)}: more than {MOST_LINES} lines" for line in wanted[MOST_LINES:]]
    for line in wanted[:MOST_LINES]:
        try:
            found.append((line, _values(market, line) * line.scale))
        except (KeyError, ValueError, ValidationError) as refused:
            missing.append(f"{label_of(line)}: {refused.args[0] if refused.args else refused}")
    return found, missing


def _values(market: MarketInput, line: Line) -> FloatArray:
    parameters: Mapping[str, Any] = line.parameters
    is_own = line.timeframe in ("", market.timeframe.value) and line.symbol in ("", market.symbol)
    if is_own:
        return indicator_of(market.candles, line.indicator, **parameters)[line.output]
    others = Others(market.candles, market.timeframe, market.facts)
    for informative in market.facts.candles:
        timeframe, symbol = line.timeframe or market.timeframe.value, line.symbol
        if informative.timeframe.value == timeframe and informative.symbol == symbol:
            values = indicator_of(others[informative], line.indicator, **parameters)[line.output]
            return others.align(informative, values)
    raise ValueError(f"no candles of {line.symbol or market.symbol} {line.timeframe} were given")


def label_of(line: Line) -> str:
    """What a reader calls it: `SMA 20`, `Bollinger upper 20 2.0`, `EMA 50 (1d)`."""
    output = "" if line.output == line.indicator else line.output
    scale = "" if line.scale == 1 else f"× {line.scale:.4g}"
    where = " ".join(filter(None, (line.symbol, line.timeframe)))
    words = (line.indicator.upper() if len(line.indicator) < 5 else line.indicator.capitalize(), output)
    return " ".join(filter(None, (*words, *map(str, line.parameters.values()), scale, where and f"({where})")))


def _line_decimals(line: Line, values: FloatArray, price_decimals: int) -> int:
    return min(price_decimals + 1, decimals_of(values)) if line.pane == "price" else decimals_of(values, 6)
