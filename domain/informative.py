"""What a strategy may know beside its own candles: those of further markets and timeframes, trades, funding rates.

Of all of it only what had closed, or happened, by the close of the last candle that the strategy is asked about: ``Others``
cuts what it is given, so that live, in a backtest and on truncated history the same facts are seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from domain.candles import Candles, FloatArray, IntArray, Timeframe


@dataclass(frozen=True, slots=True)
class Informative:
    """Candles that a strategy looks at beside its own: of ``symbol`` at the same exchange (empty: of the same market).
    ``warm_up`` of them must have closed before its first signal can be trusted."""

    timeframe: Timeframe
    symbol: str = ""
    warm_up: int = 1

    def __str__(self) -> str:
        return f"{self.symbol} {self.timeframe}".strip()


class TapeKind(StrEnum):
    """What else there is of a market: trades between others; what longs pay shorts."""

    TRADES = "TRADES"
    FUNDING = "FUNDING"


@dataclass(frozen=True, slots=True)
class Trades:
    """Trades between others, oldest first: parallel arrays. Before ``whole_since_ms`` some or all may be missing."""

    at_ms: IntArray
    price: FloatArray
    quantity: FloatArray
    is_buy: NDArray[np.bool_]
    whole_since_ms: int = 0

    def __len__(self) -> int:
        return len(self.at_ms)

    def upto(self, length: int) -> Trades:
        """The first ``length`` of them."""
        first = slice(length)
        return Trades(
            self.at_ms[first], self.price[first], self.quantity[first], self.is_buy[first], self.whole_since_ms
        )


@dataclass(frozen=True, slots=True)
class FundingRates:
    """What longs paid shorts (negative: shorts paid longs) at each time, as a fraction of the value, oldest first."""

    at_ms: IntArray
    rate: FloatArray

    def __len__(self) -> int:
        return len(self.at_ms)

    def upto(self, length: int) -> FundingRates:
        """The first ``length`` of them."""
        return FundingRates(self.at_ms[:length], self.rate[:length])


T = TypeVar("T", Trades, FundingRates)


def _no_trades() -> Trades:
    return Trades(np.empty(0, np.int64), np.empty(0), np.empty(0), np.empty(0, np.bool_))


def _no_rates() -> FundingRates:
    return FundingRates(np.empty(0, np.int64), np.empty(0))


@dataclass(frozen=True, slots=True)
class Facts:
    """All there is to look at, of whatever time: what ``Others`` are cut from."""

    candles: Mapping[Informative, Candles] = field(default_factory=dict)
    trades: Trades = field(default_factory=_no_trades)
    funding: FundingRates = field(default_factory=_no_rates)


class Others:
    """The other facts as they stood when the last of some base candles closed.

    ``others[informative]`` is the candles that had closed by then; ``trades`` and ``funding`` what had happened before.
    ``align`` puts what was computed on such candles onto the base candles, each as it was known at the close of that one.
    ``symbol`` is the market of the base candles; empty where nobody said.
    """

    def __init__(self, candles: Candles, timeframe: Timeframe, facts: Facts, symbol: str = "") -> None:
        self.timeframe, self.symbol = timeframe, symbol
        self._facts = facts
        self._close_ms = candles.open_ms + timeframe.seconds * 1000
        end_ms = int(self._close_ms[-1]) if len(candles) else None
        self._candles = {one: _closed(held, one.timeframe, end_ms) for one, held in facts.candles.items()}
        self.trades = _before(facts.trades, end_ms)
        self.funding = _before(facts.funding, end_ms)

    def __getitem__(self, informative: Informative) -> Candles:
        if informative not in self._candles:
            known = ", ".join(map(str, self._candles)) or "none"
            raise KeyError(f"wanted one of the informative feeds that the strategy names ({known}), was {informative}")
        return self._candles[informative]

    def align(self, informative: Informative, values: FloatArray) -> FloatArray:
        """``values``, one for each candle of ``others[informative]``, along the base candles: at each the value of the last
        candle that had closed by its close; NaN before the first."""
        held = self[informative]
        if len(values) != len(held):
            raise ValueError(f"wanted a value for each of the {len(held)} candles of {informative}, was {len(values)}")
        last = np.searchsorted(held.open_ms + informative.timeframe.seconds * 1000, self._close_ms, side="right") - 1
        return _picked(values, last)

    def align_funding(self) -> FloatArray:
        """The last funding rate that was paid before the close of each base candle; NaN before the first."""
        return _picked(self.funding.rate, np.searchsorted(self.funding.at_ms, self._close_ms, side="left") - 1)

    def align_trades(self, values: FloatArray) -> FloatArray:
        """The sum of ``values``, one for each of ``trades``, within each base candle; NaN where some of its trades may be
        missing."""
        if len(values) != len(self.trades):
            raise ValueError(f"wanted a value for each of {len(self.trades)} trades, was {len(values)}")
        open_ms = self._close_ms - self.timeframe.seconds * 1000
        within = np.searchsorted(open_ms, self.trades.at_ms, side="right") - 1
        # No running sum: the same trades give the same bits wherever history began.
        is_in_one = (
            (within >= 0) & (self.trades.at_ms < self._close_ms[within]) if len(open_ms) else np.zeros(0, np.bool_)
        )
        sums = np.bincount(within[is_in_one], weights=np.asarray(values)[is_in_one], minlength=len(open_ms))
        return np.where(open_ms >= self.trades.whole_since_ms, sums, np.nan)

    def upto(self, candles: Candles) -> Others:
        """The same facts as they stood when the last of ``candles`` closed."""
        return Others(candles, self.timeframe, self._facts, self.symbol)

    def remembering(self, candles: Candles) -> Others:
        """The same facts as they stood when the last of ``candles`` closed, to somebody who knows the candles of each
        informative feed from its warm-up before the first of ``candles`` on."""
        span_ms = (int(candles.open_ms[-1]) - int(candles.open_ms[0])) + self.timeframe.seconds * 1000
        known = {}
        for one, held in Others(candles, self.timeframe, self._facts)._candles.items():
            length = span_ms // (one.timeframe.seconds * 1000) + one.warm_up
            known[one] = held.between(max(len(held) - length, 0), len(held))
        return Others(candles, self.timeframe, Facts(known, self._facts.trades, self._facts.funding), self.symbol)


def nothing_beside(candles: Candles, timeframe: Timeframe = Timeframe.M1) -> Others:
    """For a strategy that looks at its own candles only."""
    return Others(candles, timeframe, Facts())


def known_from(facts: Facts, informatives: Iterable[Informative], candles: Candles, timeframe: Timeframe) -> int:
    """The index of the first of ``candles`` that may be traded in, as far as those beside them tell: at the close of the one
    before the warm-up of each of ``informatives`` had closed. As many as there are candles where one never has."""
    first = 0
    for one in informatives:
        if not one.warm_up:
            continue
        held = facts.candles.get(one)
        if held is None or len(held) < one.warm_up:
            return len(candles)
        known_ms = int(held.open_ms[one.warm_up - 1]) + one.timeframe.seconds * 1000
        first = max(first, int(np.searchsorted(candles.open_ms + timeframe.seconds * 1000, known_ms)) + 1)
    return min(first, len(candles))


def _closed(candles: Candles, timeframe: Timeframe, end_ms: int | None) -> Candles:
    if end_ms is None:
        return candles.upto(0)
    return candles.upto(int(np.searchsorted(candles.open_ms, end_ms - timeframe.seconds * 1000, side="right")))


def _before(tape: T, end_ms: int | None) -> T:
    return tape.upto(0 if end_ms is None else int(np.searchsorted(tape.at_ms, end_ms, side="left")))


def _picked(values: FloatArray, last: IntArray) -> FloatArray:
    found = np.full(len(last), np.nan)
    is_known = last >= 0
    found[is_known] = np.asarray(values, dtype=np.float64)[last[is_known]]
    return found
