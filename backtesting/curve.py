"""A curve of an account's worth, and what is told of any such curve, the account's own and that of holding.

Ratios are of days: the value at the last candle of each UTC day that has one. Drawdowns are of all candles' closes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backtesting.engine.inputs import MarketInput, Result, Settings, at
from domain import statistics
from domain.candles import FloatArray, IntArray
from domain.statistics import Falls, deepest_drawdowns, falls, returns_of, yearly

DAY_MS = 86_400_000
YEAR_MS = 365 * DAY_MS

Stats = dict[str, float | int | str | None]


@dataclass(frozen=True, slots=True)
class Curve:
    """What an account was worth: ``values`` begin with the starting capital, the others are at the closes of the candles that
    opened at ``open_ms``, the last of which closed at ``until_ms``."""

    values: FloatArray
    open_ms: IntArray
    until_ms: int

    @classmethod
    def of(cls, result: Result, settings: Settings, markets: Sequence[MarketInput]) -> Curve:
        step = min((market.timeframe.seconds * 1000 for market in markets), default=0)
        until_ms = int(result.open_ms[-1]) + step if len(result.open_ms) else 0
        return cls(np.concatenate(([float(settings.cash)], result.equity)), result.open_ms, until_ms)

    @property
    def years(self) -> float:
        return (self.until_ms - int(self.open_ms[0])) / YEAR_MS if len(self.open_ms) else 0.0

    @property
    def is_lost(self) -> bool:
        """Whether there was nothing left of it at some close: what comes after is no return of anything."""
        return bool(self.values.min() <= 0)

    @property
    def total(self) -> float:
        return float(self.values[-1] / self.values[0] - 1)

    def days(self) -> tuple[FloatArray, float]:
        """The returns of days, and how many of them a year has."""
        if not len(self.open_ms) or self.is_lost:
            return np.empty(0), 365.0
        days = self.open_ms // DAY_MS
        lasts = np.append(np.flatnonzero(days[1:] != days[:-1]), len(days) - 1)
        returns = returns_of(np.concatenate((self.values[:1], self.values[lasts + 1])))
        return returns, len(returns) * 365.0 / float(days[-1] - days[0] + 1)

    def figures(self) -> Stats:
        """What is told of any curve."""
        returns, periods = self.days()
        deepest = float(falls(self.values).depth.min(initial=0.0))
        return {
            "total_return": self.total if self.years else None,
            "cagr": known(self.cagr),
            "volatility": known(statistics.volatility(returns, periods)),
            "sharpe": known(statistics.sharpe(returns, periods)),
            "sortino": known(statistics.sortino(returns, periods)),
            "calmar": divided(self.cagr, -deepest),
            "max_drawdown": deepest if self.years else None,
        }

    @property
    def cagr(self) -> float:
        return yearly(self.total, self.years) if self.years else np.nan

    def moment(self, place: int) -> int:
        """When the value at ``place`` was reached: the close of its candle, as the open of the next one."""
        return int(self.open_ms[place]) if place < len(self.open_ms) else self.until_ms

    def longest_ms(self, fallen: Falls) -> int:
        """How long the longest fall took until the curve was as high again, or until its end."""
        moments = np.append(self.open_ms, self.until_ms)
        ends = np.minimum(fallen.recovery, len(self.values) - 1)
        return int((moments[ends] - moments[fallen.peak]).max(initial=0))

    def held(self, markets: Sequence[MarketInput]) -> Curve:
        """What one unit of money would have been worth along the same candles, had equal parts of it bought each market at
        the open of its first one and held it, at no cost."""
        open_ms = self.open_ms
        parts: list[FloatArray] = []
        for market in markets:
            candles = market.candles
            start = int(np.searchsorted(candles.open_ms, open_ms[0])) if len(open_ms) else len(candles)
            if start == len(candles):
                continue
            if np.array_equal(candles.open_ms[start:], open_ms):  # as one market's are: nothing is looked for
                parts.append(candles.close[start:] / candles.open[start])
                continue
            last = np.searchsorted(candles.open_ms, open_ms, side="right") - 1
            parts.append(np.where(last >= start, candles.close[np.maximum(last, 0)] / candles.open[start], 1.0))
        values = np.add.reduce(parts) / len(parts) if parts else np.ones(len(open_ms))
        return Curve(np.concatenate(([1.0], values)), open_ms, self.until_ms)

    def deepest(self, count: int) -> list[dict[str, Any]]:
        """The ``count`` deepest drawdowns. Times are those of the equity: opens of the candles at whose closes it stood
        there; the starting capital has that of the first."""
        return [
            {
                "from_at": at(int(self.open_ms[max(one.peak, 0)])).isoformat(),
                "low_at": at(int(self.open_ms[one.trough])).isoformat(),
                "until_at": None if one.recovery is None else at(int(self.open_ms[one.recovery])).isoformat(),
                "depth": one.depth,
            }
            for one in deepest_drawdowns(self.values, count)
        ]


def divided(above: float, below: float) -> float | None:
    """None where there is nothing to divide by."""
    return known(above / below) if below else None


def known(figure: float) -> float | None:
    """A figure as JSON can say it: None where it is none, or infinite."""
    return float(figure) if np.isfinite(figure) else None
