"""One market, one plan and many pairs of moving averages: what each pair comes to, by the fast loop and on several threads.

Each average is computed once, whoever asks for it, and nothing is kept of a pair but its figures; so a thousand pairs take
the memory of a few.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from backtesting.kernel import BLOCK, PNL, TRADE_COLUMNS, Course, Loops, Terms, compiled
from domain.candles import FloatArray
from domain.indicators import sma


class Swept(NamedTuple):
    """What one pair of a sweep came to."""

    trades: int
    winners: int
    profit: float
    loss: float
    equity: float
    drawdown: float


def table(values: FloatArray, periods: Sequence[int], loops: Loops | None = None) -> dict[int, FloatArray]:
    """The plain moving average of each period, each computed once, for a sweep to share."""
    chosen = loops or compiled()
    found = {}
    for period in sorted(set(periods)):
        if chosen.is_compiled and 1 <= period <= BLOCK:
            found[period] = np.empty(len(values))
            chosen.averages(values, period, found[period])
        else:
            found[period] = sma(values, period)
    return found


def sweep(
    terms: Terms, course: Course, pairs: Sequence[tuple[int, int]], threads: int = 1, loops: Loops | None = None
) -> list[Swept]:
    """``course`` once for each pair of periods (fast, slow), its signals being the crosses of their averages; in the order of
    the pairs. Averages are shared, and each thread owns one set of buffers however many pairs there are."""
    chosen = loops or compiled()
    shared = table(course.candles.close, [period for pair in pairs for period in pair], chosen)
    found: list[Swept | None] = [None] * len(pairs)
    numbers = iter(range(len(pairs)))  # taken by whichever thread is free

    def work() -> None:
        mine = _Buffers(terms, course, chosen)
        for number in numbers:
            fast, slow = pairs[number]
            found[number] = mine.try_pair(shared[fast], shared[slow], max(course.first, slow))

    with ThreadPoolExecutor(threads) as pool:
        for one in [pool.submit(work) for _ in range(threads)]:
            one.result()
    return [one for one in found if one is not None]


class _Buffers:
    """What one thread of a sweep writes to, again and again."""

    def __init__(self, terms: Terms, course: Course, loops: Loops) -> None:
        size = len(course.candles)
        self._terms, self._course, self._loops = terms, course, loops
        self._kinds = np.zeros(size, np.int8)
        self._equity = np.empty(size)
        self._trades = np.empty((size // 2 + 2, TRADE_COLUMNS))
        self._refused = np.empty((size // 2 + 2, 3), np.int64)
        self._steps = (
            np.array(course.levels, np.float64).reshape(-1, 2), np.array(course.roi, np.float64).reshape(-1, 2)
        )  # fmt: skip

    def try_pair(self, fast: FloatArray, slow: FloatArray, first: int) -> Swept:
        candles, loops = self._course.candles, self._loops
        loops.crosses(fast, slow, self._kinds)
        count, _ = loops.walk(
            self._terms, candles.open_ms, candles.open, candles.high, candles.low, candles.close, self._kinds,
            self._course.stops, self._course.targets, *self._steps, first, self._equity, self._trades, self._refused,
        )  # fmt: skip
        results = self._trades[:count, PNL]
        won = results[results > 0]
        return Swept(
            trades=count,
            winners=len(won),
            profit=float(won.sum()),
            loss=float(results[results <= 0].sum()),
            equity=float(self._equity[-1]) if len(candles) > first else self._terms.cash,
            drawdown=float(loops.deepest(self._equity, first, self._terms.cash)),
        )
