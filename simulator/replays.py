"""Candles that somebody gives, checked, and replayed exactly."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path

import numpy as np

from simulator.prices import DAY_MINUTES, FLAT_VOLUME, MINUTE_MS, First, Minutes, flat, joined, to_ticks

MAX_REPLAY_DAYS = 5 * 366

CandleRow = tuple[int, Decimal, Decimal, Decimal, Decimal, float]  # open time in ms, open, high, low, close, volume


class Replay:
    """Given one-minute candles, exactly; a gap between them trades nothing, and after the last the price stays. What came
    first inside a candle is not in it: ``first_extreme`` says."""

    def __init__(self, rows: Iterable[CandleRow], tick: Decimal, first_extreme: First | None = None) -> None:
        self.first_extreme = first_extreme
        self._rows = sorted(rows)
        if not self._rows:
            raise ValueError("wanted at least one candle, was none")
        _check_rows(self._rows)
        first, last = self._rows[0][0] // MINUTE_MS, self._rows[-1][0] // MINUTE_MS
        places = np.array([row[0] // MINUTE_MS - first for row in self._rows])
        given = np.array([[int(to_ticks(price, tick)) for price in row[1:5]] for row in self._rows], np.int64)
        # Each minute points at the newest candle at or before it; a minute of a gap repeats that candle's close.
        newest = np.searchsorted(places, np.arange(last - first + 1), side="right") - 1
        traded = places[newest] == np.arange(last - first + 1)
        close = given[newest, 3]
        self._first = first
        self._known = Minutes(
            first,
            np.where(traded, given[newest, 0], close),
            np.where(traded, given[newest, 1], close),
            np.where(traded, given[newest, 2], close),
            close,
            np.where(traded, np.array([row[5] for row in self._rows])[newest], 0.0),
        )

    @property
    def first_minute(self) -> int:
        return self._first

    @property
    def stop_minute(self) -> int:
        """The minute after the last candle."""
        return self._first + len(self._known)

    def minutes(self, start: int, stop: int) -> Minutes:
        known = self._known
        parts = []
        if start < self._first:
            parts.append(flat(start, min(stop, self._first), int(known.open[0]), 0.0))
        low, high = max(start, self._first), min(stop, self.stop_minute)
        if low < high:
            parts.append(known.cut(low, high))
        if stop > self.stop_minute:
            parts.append(flat(max(start, self.stop_minute), stop, int(known.close[-1]), FLAT_VOLUME))
        return joined(start, parts)

    def with_tick(self, tick: Decimal) -> Replay:
        return Replay(self._rows, tick, self.first_extreme)


def parse_rows(rows: Iterable[Sequence[object]]) -> list[CandleRow]:
    """Candle rows of [ms, open, high, low, close, volume] as given by a caller; ValueError says what is wrong."""
    parsed: list[CandleRow] = []
    for row in rows:
        if not isinstance(row, list | tuple) or len(row) != 6:
            raise ValueError(f"wanted candles of [ms, open, high, low, close, volume], was {row!r}")
        try:
            numbers = [Decimal(str(value)) for value in row]
        except ArithmeticError:
            raise ValueError(f"wanted numbers in a candle, was {row!r}") from None
        if not all(number.is_finite() for number in numbers):
            raise ValueError(f"wanted finite numbers in a candle, was {row!r}")
        parsed.append((int(numbers[0]), numbers[1], numbers[2], numbers[3], numbers[4], float(numbers[5])))
    return parsed


def read_candles(file: Path) -> list[CandleRow]:
    """The candles of a CSV file, gzipped or not: columns ts (ms), open, high, low, close, volume, in any order."""
    columns = ("ts", "open", "high", "low", "close", "volume")
    opener = gzip.open if file.suffix == ".gz" else open
    with opener(file, "rt", encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        missing = [column for column in columns if column not in (reader.fieldnames or [])]
        if missing:
            raise ValueError(f"{file}: wanted columns {', '.join(columns)}, missing {', '.join(missing)}")
        return parse_rows([[row[column] for column in columns] for row in reader])


def decimals_of(rows: Iterable[CandleRow]) -> int:
    """The most decimal places that a price of ``rows`` is written with."""
    return max(max(0, -int(price.normalize().as_tuple().exponent)) for row in rows for price in row[1:5])


def _check_rows(rows: Sequence[CandleRow]) -> None:
    previous = -1
    for at, open_, high, low, close, volume in rows:
        if at % MINUTE_MS or at < 0:
            raise ValueError(f"wanted candles that open on a whole minute, was {at}")
        if at == previous:
            raise ValueError(f"wanted one candle a minute, was two at {at}")
        if not 0 < low <= min(open_, close) <= max(open_, close) <= high or volume < 0:
            raise ValueError(f"wanted 0 < low <= open, close <= high in the candle at {at}")
        previous = at
    if rows[-1][0] - rows[0][0] > MAX_REPLAY_DAYS * DAY_MINUTES * MINUTE_MS:
        raise ValueError(f"wanted candles of at most {MAX_REPLAY_DAYS} days")
    steps = sorted(later[0] - earlier[0] for earlier, later in zip(rows, rows[1:], strict=False))
    if steps and steps[len(steps) // 2] != MINUTE_MS:
        raise ValueError(f"wanted one-minute candles, was a candle every {steps[len(steps) // 2] // MINUTE_MS} minutes")
