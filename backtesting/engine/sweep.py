"""One market, one plan and many pairs of moving averages: what each pair comes to, by the fast loop and on several threads.

Each average is computed once, whoever asks for it, and nothing is kept of a pair but its figures; so a thousand pairs take
the memory of a few.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from backtesting.engine.course import Course, tables_of
from backtesting.engine.inputs import ENTER
from backtesting.engine.kernel import BOOK_COLUMNS, PNL, REFUSED_COLUMNS, TRADE_COLUMNS, Terms
from backtesting.engine.loops import Loops, compiled
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


def table(values: FloatArray, periods: Sequence[int]) -> dict[int, FloatArray]:
    """The plain moving average of each period, each computed once, for a sweep to share."""
    return {period: sma(values, period) for period in sorted(set(periods))}


def sweep(
    terms: Terms, course: Course, pairs: Sequence[tuple[int, int]], threads: int = 1, loops: Loops | None = None
) -> list[Swept]:
    """``course``, which is of one market, once for each pair of periods (fast, slow), its signals being the crosses of their
    averages; in the order of the pairs. Averages are shared, and each thread owns one set of buffers however many pairs there
    are."""
    if len(course.plans) != 1:
        raise ValueError(f"wanted a course of one market, was {len(course.plans)}")
    chosen = loops or compiled()
    shared = table(course.close, [period for pair in pairs for period in pair])
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
        size = len(course.close)
        self._terms, self._course, self._loops = terms, course, loops
        self._kinds = np.zeros(size, np.int8)
        self._market = np.zeros(size // 2 + 2, np.int64)  # one crossing upwards in two candles at most
        self._equity = np.empty(size)
        self._trades = np.empty((size // 2 + 2, TRADE_COLUMNS))
        self._refused = np.empty((size // 2 + 2, REFUSED_COLUMNS), np.int64)
        self._tables = tables_of(course)
        self._books, self._held, self._prices = np.zeros((1, BOOK_COLUMNS)), np.zeros(1, np.int64), np.zeros(1)

    def try_pair(self, fast: FloatArray, slow: FloatArray, first: int) -> Swept:
        course, loops = self._course, self._loops
        loops.crosses(fast, slow, self._kinds)
        begin = max(first - 1, 0)
        asks = np.flatnonzero(self._kinds[begin:-1] == ENTER) + begin + 1
        count, _ = loops.walk(
            self._terms, *self._tables, course.paid_ms, course.rates, course.clock, *course.prices, self._kinds,
            *course.words, asks, self._market[: len(asks)], asks, first, self._books, self._held, self._prices,
            self._equity, self._trades, self._refused,
        )  # fmt: skip
        results = self._trades[:count, PNL]
        won = results[results > 0]
        return Swept(
            trades=count,
            winners=len(won),
            profit=float(won.sum()),
            loss=float(results[results <= 0].sum()),
            equity=float(self._equity[-1]) if len(course.close) > first else self._terms.cash,
            drawdown=float(loops.deepest(self._equity, first, self._terms.cash)),
        )
