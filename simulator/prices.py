"""Where prices come from: seeded walks, pinned prices and whatever else is a ``Source``, one timeline per symbol.

Everything is a whole number of ticks, so prices are exact. A minute has one path (open, first extreme, second extreme,
close, straight lines between), and every ticker, candle and match is read off that path: they cannot disagree. Which extreme
is first its source may say; else a rising candle visits its low first, a falling one its high.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

MINUTE_MS = 60_000
DAY_MINUTES = 1_440
HISTORY_DAYS = 400
MAX_TICKS = 1 << 53
FLAT_VOLUME = 1.0  # what trades in a minute whose price does not move: something, so that the candle exists

# Offsets inside a minute at which the path meets the candle's open, first extreme, second extreme and close.
_OFFSETS = (0, 15_000, 45_000, MINUTE_MS)

_REGIME_MINUTES = 30
_REGIME_SIGMA = (0.45, 1.0, 2.5)  # calm, normal, wild: multiples of the volatility asked for
_REGIME_VOLUME = (0.5, 1.0, 3.0)
_REGIME_NEXT = ((0.90, 0.10, 0.00), (0.06, 0.88, 0.06), (0.00, 0.20, 0.80))  # row: now; column: the next half hour
_QUOTE_PER_MINUTE = 400_000.0

# Minutes that are looked through at once for a price.
_LOOK_THROUGH = 10_000

Point = tuple[int, int]  # (market time in ms, price in ticks)
IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


class First(StrEnum):
    """Which extreme of a candle its path visits first."""

    LOW = "low"
    HIGH = "high"


@dataclass(frozen=True, slots=True)
class Minutes:
    """Consecutive one-minute candles: prices in ticks, volume in base units; volume 0 means that nothing traded."""

    first: int
    open: IntArray
    high: IntArray
    low: IntArray
    close: IntArray
    volume: FloatArray

    def __len__(self) -> int:
        return len(self.open)

    def cut(self, start: int, stop: int) -> Minutes:
        """The minutes from ``start`` up to but without ``stop``; both inside."""
        part = slice(start - self.first, stop - self.first)
        return Minutes(start, self.open[part], self.high[part], self.low[part], self.close[part], self.volume[part])


def joined(first: int, parts: Sequence[Minutes]) -> Minutes:
    """``parts``, which follow one another from minute ``first`` on, as one."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        nothing = np.zeros(0, np.int64)
        return Minutes(first, nothing, nothing, nothing, nothing, np.zeros(0, np.float64))
    return Minutes(
        first,
        np.concatenate([part.open for part in parts]),
        np.concatenate([part.high for part in parts]),
        np.concatenate([part.low for part in parts]),
        np.concatenate([part.close for part in parts]),
        np.concatenate([part.volume for part in parts]),
    )


class Source(Protocol):
    """Something that knows the one-minute candles of every minute from ``first_minute`` on."""

    @property
    def first_extreme(self) -> First | None:
        """Which extreme the path of every minute visits first; None: as the candle's direction has it."""
        ...

    @property
    def first_minute(self) -> int:
        """The first minute with a candle; before it the price is known but nothing has traded."""
        ...

    def minutes(self, start: int, stop: int) -> Minutes: ...

    def with_tick(self, tick: Decimal) -> Source:
        """The same prices in ticks of another size."""
        ...


class Walk:
    """A geometric random walk whose volatility switches between calm, normal and wild by a Markov chain.

    A pure function of (seed, symbol, anchor, price, tick, sigma): days are generated when first read, forward and
    backward from ``anchor``, the minute at which the price is ``price``; history reaches ``HISTORY_DAYS`` back.
    """

    first_extreme = None

    def __init__(self, seed: int, symbol: str, anchor: int, price: Decimal, tick: Decimal, sigma: float) -> None:
        self._name = (seed, symbol, anchor, price)
        self._anchor = anchor
        self._tick = tick
        self._sigma = sigma
        digest = hashlib.sha256(f"{seed}/{symbol}".encode()).digest()
        self._entropy = int.from_bytes(digest[:16], "big")
        self._days: dict[int, Minutes] = {}
        start = math.log(float(price))
        self._ahead = (0, start, 1)  # next day forward, log price at its beginning, regime
        self._behind = (-1, start, 1)  # next day backward, log price at its end, regime

    @property
    def first_minute(self) -> int:
        return self._anchor - HISTORY_DAYS * DAY_MINUTES

    def minutes(self, start: int, stop: int) -> Minutes:
        parts = []
        at = start
        while at < stop:
            day, offset = divmod(at - self._anchor, DAY_MINUTES)
            until = min(stop, at - offset + DAY_MINUTES)
            parts.append(self._day(day).cut(at, until))
            at = until
        return joined(start, parts)

    def with_tick(self, tick: Decimal) -> Walk:
        seed, symbol, anchor, price = self._name
        return Walk(seed, symbol, anchor, price, tick, self._sigma)

    def _day(self, day: int) -> Minutes:
        found = self._days.get(day)
        while found is None:
            if day >= 0:
                self._extend_ahead()
            else:
                self._extend_behind()
            found = self._days.get(day)
        return found

    def _extend_ahead(self) -> None:
        day, level, regime = self._ahead
        steps, sigma, volume, regime, rng = self._draw(day, regime)
        closes = level + np.cumsum(steps)
        self._ahead = (day + 1, float(closes[-1]), regime)
        self._store(day, np.concatenate(([level], closes[:-1])), closes, sigma, volume, rng)

    def _extend_behind(self) -> None:
        day, level, regime = self._behind
        steps, sigma, volume, regime, rng = self._draw(day, regime)
        opens = level - np.cumsum(steps)[::-1]
        self._behind = (day - 1, float(opens[0]), regime)
        self._store(day, opens, np.concatenate((opens[1:], [level])), sigma, volume, rng)

    def _draw(self, day: int, regime: int) -> tuple[FloatArray, FloatArray, FloatArray, int, np.random.Generator]:
        rng = np.random.Generator(np.random.PCG64([self._entropy, day + (1 << 32)]))
        regimes = []
        for draw in rng.random(DAY_MINUTES // _REGIME_MINUTES).tolist():
            calmer, same, _ = _REGIME_NEXT[regime]
            regime = 0 if draw < calmer else 1 if draw < calmer + same else 2
            regimes.append(regime)
        sigma = np.repeat(np.array(_REGIME_SIGMA)[regimes], _REGIME_MINUTES) * self._sigma
        volume = np.repeat(np.array(_REGIME_VOLUME)[regimes], _REGIME_MINUTES) * rng.lognormal(0.0, 0.5, DAY_MINUTES)
        return sigma * rng.standard_normal(DAY_MINUTES), sigma, volume, regime, rng

    def _store(
        self,
        day: int,
        opens: FloatArray,
        closes: FloatArray,
        sigma: FloatArray,
        volume: FloatArray,
        rng: np.random.Generator,
    ) -> None:
        # The extremes of a Brownian path between two known ends have these closed forms, so a minute costs two draws.
        step = closes - opens
        above = (step + np.sqrt(step**2 - 2 * sigma**2 * np.log1p(-rng.random(DAY_MINUTES)))) / 2
        below = (step - np.sqrt(step**2 - 2 * sigma**2 * np.log1p(-rng.random(DAY_MINUTES)))) / 2
        tick = float(self._tick)
        self._days[day] = Minutes(
            self._anchor + day * DAY_MINUTES,
            _ticks(np.exp(opens) / tick),
            _ticks(np.exp(opens + above) / tick),
            _ticks(np.exp(opens + below) / tick),
            _ticks(np.exp(closes) / tick),
            np.round(volume * _QUOTE_PER_MINUTE * np.exp(-closes), 8),
        )


class Pinned:
    """One price, from ever to ever."""

    first_extreme = None

    def __init__(self, price: Decimal, tick: Decimal) -> None:
        self._price = price
        self._in_ticks = to_ticks(price, tick)

    @property
    def first_minute(self) -> int:
        return 0

    def minutes(self, start: int, stop: int) -> Minutes:
        return flat(start, stop, self._in_ticks, FLAT_VOLUME)

    def with_tick(self, tick: Decimal) -> Pinned:
        return Pinned(self._price, tick)


class Timeline:
    """The price of one symbol at every moment: sources, each valid from a moment until the next one's."""

    def __init__(self, source: Source, tick: Decimal) -> None:
        self.tick = tick
        self._starts = [0]
        self._sources: list[Source] = [source]
        self._path_of: tuple[int, list[Point]] = (-1, [])
        self.version = 0  # grows whenever a price that was known may be another

    def switch(self, at_ms: int, source: Source) -> None:
        """From ``at_ms`` on the price comes from ``source``; whatever was planned from then on is dropped."""
        keep = bisect_right(self._starts, at_ms - 1)
        self._starts[keep:] = [at_ms]
        self._sources[keep:] = [source]
        self._path_of = (-1, [])
        self.version += 1

    def source_at(self, at_ms: int) -> Source:
        return self._sources[bisect_right(self._starts, at_ms) - 1]

    def retick(self, tick: Decimal) -> None:
        """Measure all prices, past ones too, in ticks of another size."""
        self.tick = tick
        self._sources = [source.with_tick(tick) for source in self._sources]
        self._path_of = (-1, [])
        self.version += 1

    @property
    def first_minute(self) -> int:
        return self._sources[0].first_minute

    def price_at(self, at_ms: int) -> int:
        """The price in ticks; at a jump, the price after it."""
        path = self.path(at_ms // MINUTE_MS)
        index = bisect_right(path, at_ms, key=_time_of) - 1
        return _between(path[index], path[index + 1], at_ms) if index + 1 < len(path) else path[index][1]

    def path(self, minute: int) -> list[Point]:
        """The points between which the price moves in straight lines; two points of one time are a jump."""
        if self._path_of[0] == minute:
            return self._path_of[1]
        begin, end = minute * MINUTE_MS, (minute + 1) * MINUTE_MS
        path: list[Point] = []
        for start, stop, source in self._pieces(begin, end):
            path.extend(_clipped(_path_of(source.minutes(minute, minute + 1), source.first_extreme), start, stop))
        self._path_of = (minute, path)
        return path

    def first_met(self, after_ms: int, until_ms: int, below: int | None, above: int | None) -> int | None:
        """The first moment after ``after_ms``, ``until_ms`` at the latest, at which the price in ticks is ``below`` or less,
        or ``above`` or more; None where it is not."""

        def is_met(at_ms: int) -> bool:
            price = self.price_at(at_ms)
            return (below is not None and price <= below) or (above is not None and price >= above)

        minute, last = (after_ms + 1) // MINUTE_MS, until_ms // MINUTE_MS
        while minute <= last:
            some = self.minutes(minute, min(minute + _LOOK_THROUGH, last + 1))
            reaching = np.zeros(len(some), np.bool_)
            if below is not None:
                reaching |= some.low <= below
            if above is not None:
                reaching |= some.high >= above
            for number in np.flatnonzero(reaching).tolist():
                begin = (minute + number) * MINUTE_MS
                start, end = max(begin, after_ms + 1), min(begin + MINUTE_MS - 1, until_ms)
                turns = [at_ms for at_ms, _ in self.path(minute + number) if start < at_ms < end]
                # Up to each of these the price moves one way; at a turn it may leap.
                looks = [start, *(at_ms for turn in turns for at_ms in (turn - 1, turn)), end]
                for before, look in zip([start - 1, *looks], looks, strict=False):
                    if is_met(look):
                        return before + 1 + bisect_left(range(before + 1, look + 1), True, key=is_met)
            minute += len(some)
        return None

    def minutes(self, start: int, stop: int) -> Minutes:
        """The one-minute candles from minute ``start`` up to but without ``stop``."""
        parts: list[Minutes] = []
        at = start
        for begin, end, source in self._pieces(start * MINUTE_MS, stop * MINUTE_MS):
            whole_from, whole_until = -(-begin // MINUTE_MS), end // MINUTE_MS
            if begin % MINUTE_MS and begin // MINUTE_MS >= at:
                parts.append(self._mixed(begin // MINUTE_MS))
                at = begin // MINUTE_MS + 1
            if max(whole_from, at) < whole_until:
                parts.append(source.minutes(max(whole_from, at), whole_until))
                at = whole_until
        return joined(start, parts)

    def partial(self, now_ms: int) -> Minutes:
        """The open candle of the minute that ``now_ms`` lies in: what has been seen of its path so far."""
        minute = now_ms // MINUTE_MS
        begin = minute * MINUTE_MS
        seen = [ticks for at, ticks in self.path(minute) if at <= now_ms]
        close = self.price_at(now_ms)
        volume = float(self.minutes(minute, minute + 1).volume[0]) * max(now_ms - begin, 1) / MINUTE_MS
        return _candle(minute, seen[0], [*seen, close], close, volume)

    def _pieces(self, begin: int, end: int) -> Iterator[tuple[int, int, Source]]:
        index = bisect_right(self._starts, begin) - 1
        while index < len(self._starts) and self._starts[index] < end:
            until = self._starts[index + 1] if index + 1 < len(self._starts) else end
            yield max(begin, self._starts[index]), min(end, until), self._sources[index]
            index += 1

    def _mixed(self, minute: int) -> Minutes:
        begin, end = minute * MINUTE_MS, (minute + 1) * MINUTE_MS
        volume = 0.0
        for start, stop, source in self._pieces(begin, end):
            volume += float(source.minutes(minute, minute + 1).volume[0]) * (stop - start) / MINUTE_MS
        prices = [ticks for _, ticks in self.path(minute)]
        return _candle(minute, prices[0], prices, prices[-1], volume)


def to_ticks(price: Decimal, tick: Decimal) -> int:
    """The nearest whole number of ticks, at least one; ValueError for a price that is not one of this world."""
    ticks = int((price / tick).to_integral_value(rounding=ROUND_HALF_UP))
    if ticks > MAX_TICKS:
        raise ValueError(f"wanted a price of at most {MAX_TICKS} ticks of {tick}, was {price}")
    return max(1, ticks)


def _time_of(point: Point) -> int:
    return point[0]


def _ticks(prices: FloatArray) -> IntArray:
    return np.maximum(np.rint(prices).astype(np.int64), 1)


def flat(start: int, stop: int, ticks: int, volume: float) -> Minutes:
    """Minutes of one price."""
    price = np.full(stop - start, ticks, np.int64)
    return Minutes(start, price, price, price, price, np.full(stop - start, volume))


def _candle(minute: int, open_: int, prices: Sequence[int], close: int, volume: float) -> Minutes:
    open_array, high, low, close_array = (np.array([price]) for price in (open_, max(prices), min(prices), close))
    return Minutes(minute, open_array, high, low, close_array, np.array([volume]))


def _path_of(minute: Minutes, first: First | None) -> list[Point]:
    open_, high, low, close = (int(array[0]) for array in (minute.open, minute.high, minute.low, minute.close))
    is_low_first = close >= open_ if first is None else first is First.LOW
    extremes = (low, high) if is_low_first else (high, low)
    begin = minute.first * MINUTE_MS
    return [(begin + offset, ticks) for offset, ticks in zip(_OFFSETS, (open_, *extremes, close), strict=True)]


def _clipped(path: list[Point], start: int, stop: int) -> list[Point]:
    """The part of ``path`` from ``start`` to ``stop``, with points at both ends."""
    if path[0][0] == start and path[-1][0] == stop:
        return path
    inner = [point for point in path if start < point[0] < stop]
    return [(start, _on(path, start)), *inner, (stop, _on(path, stop))]


def _on(path: list[Point], at_ms: int) -> int:
    index = min(bisect_right(path, at_ms, key=_time_of), len(path) - 1)
    return _between(path[index - 1], path[index], at_ms)


def _between(before: Point, after: Point, at_ms: int) -> int:
    (start, low), (stop, high) = before, after
    return high if stop == start else low + (high - low) * (at_ms - start) // (stop - start)
