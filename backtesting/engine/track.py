"""One market as a run goes over it: where it stands, what was said, and the next candle at which anything may happen."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

import numpy as np

from backtesting.engine.account import Held, Line, since
from backtesting.engine.inputs import ENTER, LEAVE, MarketInput, Settings, kinds_of
from domain.candles import FloatArray, IntArray
from domain.exit_plan import ExitPlan
from domain.exits import ExitLevels, next_time_step
from domain.indicators import atr
from domain.market import ONE, ZERO, PositionSide, round_quantity, to_decimal
from domain.words import range_said

ATR_PERIOD = 14
# A price is looked for in floats this much nearer than it is, and then asked for exactly.
NEARER = 1e-9
FIRST_LOOK, LONGER = 64, 4


class Bar(NamedTuple):
    """One candle, or one of those inside it, exactly."""

    ms: int
    open: Decimal
    high: Decimal
    low: Decimal


@dataclass(slots=True)
class Entry:
    """An entry at work: what is left of it, and the candle whose signal it is of. At ``price`` and better, where the strategy
    named one."""

    side: PositionSide
    left: Decimal
    spoken_in: int
    price: Decimal | None = None
    leverage: Decimal = ONE
    plan: ExitPlan | None = None


class Track(Line):
    """One market as the run goes over it; ``index`` is the candle at which it is due next."""

    def __init__(self, number: int, market: MarketInput, clock: IntArray, settings: Settings) -> None:
        candles, signals = market.candles, market.said()
        steps = np.searchsorted(clock, candles.open_ms)
        last = np.searchsorted(candles.open_ms, clock, side="right") - 1
        closes = candles.close[np.maximum(last, 0)] if len(candles) else np.full(len(clock), np.nan)
        super().__init__(closes=closes)
        self.number, self.market, self.steps, self.signals = number, market, steps, signals
        self._plan, self.rules = market.exit_plan, market.rules_or_none
        self.adviser = market.advised_by()
        # Whoever wants to be asked at every close.
        self.watcher = self.adviser if self.adviser is not None and self.adviser.is_watching else None
        self.kinds = kinds_of(signals, market.first)
        self.first = min(market.first, len(candles))
        self.entry: Entry | None = None
        self.index = self.first
        self.used = ZERO  # of the volume of the candle at ``index``
        self.closed: list[tuple[Decimal, datetime]] = []  # newest first
        self.record: list[float] = []  # newest first
        self._share = settings.volume_share
        self.asking = np.flatnonzero(np.abs(self.kinds) == ENTER)
        self._speaking = {
            side: np.flatnonzero(
                (self.kinds == side.sign * LEAVE) | (self.kinds == -side.sign * ENTER)
                if self._plan.is_exit_signal_used
                else np.zeros(len(self.kinds), np.bool_)
            )
            for side in PositionSide
        }
        self._max_entries = settings.max_entries
        self._adding = {side: np.flatnonzero(self.kinds == side.sign * ENTER) for side in PositionSide}
        self._atr: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.kinds)

    @property
    def ms(self) -> int:
        return int(self.market.candles.open_ms[self.index])

    @property
    def plan(self) -> ExitPlan:
        """How what is held is left."""
        return self._plan if self.held is None or self.held.plan is None else self.held.plan

    @property
    def said(self) -> int:
        """What was said on the candle before, which is acted on now."""
        return int(self.kinds[self.index - 1]) if self.index > 0 else 0

    def tag(self, index: int) -> str:
        """What the entry signal of the candle at ``index`` is called."""
        tags = self.signals.tags if self.market.tags is None else self.market.tags
        return "" if tags is None else str(tags[index])

    def bars(self) -> list[Bar]:
        """The candles inside the one at ``index``, or that one itself."""
        candles, detail, i = self.market.candles, self.market.detail, self.index
        if detail is not None:
            end = self.ms + self.market.timeframe.seconds * 1000
            low, high = np.searchsorted(detail.open_ms, (self.ms, end))
            if low < high:
                return [_bar(detail.open_ms, detail.open, detail.high, detail.low, j) for j in range(low, high)]
        return [_bar(candles.open_ms, candles.open, candles.high, candles.low, i)]

    def price(self, step: int) -> Decimal:
        """What it costs when the candles of ``step`` open: its own open, or its last close where it has no candle."""
        after = int(np.searchsorted(self.steps, step))
        if after < len(self.steps) and self.steps[after] == step:
            return to_decimal(float(self.market.candles.open[after]))
        return to_decimal(float(self.closes[step]))

    def room(self) -> Decimal | None:
        """What may still be traded of the volume of this candle; None: anything."""
        if self._share is None:
            return None
        return max(to_decimal(float(self.market.candles.volume[self.index])) * self._share - self.used, ZERO)

    def fillable(self, wanted: Decimal) -> Decimal:
        room = self.room()
        return wanted if room is None or room >= wanted else round_quantity(room, self.rules)

    def named(self, prices: FloatArray | None, index: int) -> Decimal | None:
        """What an array of the signals says of the candle at ``index``; NaN is no word."""
        return None if prices is None or np.isnan(prices[index]) else to_decimal(float(prices[index]))

    def volatility(self, index: int) -> Decimal | None:
        if self._atr is None:
            candles = self.market.candles
            self._atr = atr(candles.high, candles.low, candles.close, ATR_PERIOD)
        return range_said(float(self._atr[index]))

    def next_index(self, levels: ExitLevels | None, last_time_ms: int | None) -> int:
        """The next candle, after the one at ``index``, at which something may happen."""
        after, held = self.index + 1, self.held
        if self.entry is not None or (held is not None and held.leaving is not None):
            return after
        if held is not None and self.watcher is not None:
            return after
        if held is None or levels is None:
            return first_at(self.asking, self.index, len(self))
        ends = [first_at(self._speaking[held.side], self.index, len(self))]
        step = next_time_step(self.plan, since(held.opened_ms, last_time_ms or self.ms))
        if step is not None:
            ends.append(self._index_of(held.opened_ms + int(step.total_seconds() * 1000), is_within=True))
        if (funding := self.market.funding) is not None:
            paid = int(np.searchsorted(funding.at_ms, self.ms, side="right"))
            ends += [self._index_of(int(funding.at_ms[paid]))] if paid < len(funding) else []
        if held.entries < self._max_entries:
            ends.append(first_at(self._adding[held.side], self.index, len(self)))
        return self._touched(held, levels, after, max(min(ends), after))

    def _index_of(self, ms: int, *, is_within: bool = False) -> int:
        """The first candle that opens at ``ms`` or later; with candles inside candles that within which it lies."""
        open_ms = self.market.candles.open_ms
        if is_within and self.market.detail is not None:
            return max(int(np.searchsorted(open_ms, ms, side="right")) - 1, 0)
        return int(np.searchsorted(open_ms, ms))

    def _touched(self, held: Held, levels: ExitLevels, start: int, end: int) -> int:
        """The first candle of ``start`` to before ``end`` that may meet a level, or is the best so far where that counts."""
        candles, sign = self.market.candles, held.side.sign
        against, along = (candles.low, candles.high) if sign > 0 else (candles.high, candles.low)
        stop = -sign * np.inf if levels.stop is None else float(levels.stop) * (1 + sign * NEARER)
        target = sign * np.inf if levels.target is None else float(levels.target) * (1 - sign * NEARER)
        best = sign * np.inf
        if self.plan.is_following:
            best = float(held.facts.entry_price) * (1 - sign * NEARER) if held.best is None else float(held.best)
        look = FIRST_LOOK
        while start < end:
            part = slice(start, min(start + look, end))
            ahead = along[part] * sign
            hit = (against[part] * sign <= stop * sign) | (ahead >= target * sign) | (ahead > best * sign)
            if hit.any():
                return start + int(np.argmax(hit))
            start, look = start + look, look * LONGER
        return end


def _bar(open_ms: IntArray, open_: FloatArray, high: FloatArray, low: FloatArray, index: int) -> Bar:
    return Bar(
        int(open_ms[index]),
        to_decimal(float(open_[index])),
        to_decimal(float(high[index])),
        to_decimal(float(low[index])),
    )


def first_at(indices: np.ndarray[tuple[int, ...], np.dtype[np.int64]], index: int, end: int) -> int:
    """The candle after the first of ``indices`` that is at ``index`` or later; ``end`` where there is none."""
    found = int(np.searchsorted(indices, index))
    return min(int(indices[found]) + 1, end) if found < len(indices) else end
