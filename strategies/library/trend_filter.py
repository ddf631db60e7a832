"""Moving-average crossover, with the trend: enter as the plain crossover does, and only while a longer timeframe
rises.

Wins where the small trend goes with the large one, and sits out the falling markets in which a crossover bleeds;
loses the first part of every turn, for the large trend is the last to know of it, and the small losses of a market
that goes sideways above its average. It leaves as the crossover does, whatever the large trend says.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import Field, model_validator

from domain.candles import Candles, Timeframe
from domain.indicators import crossed_above, sma
from domain.informative import Informative, Others
from domain.strategy import Line, Parameters, Role, SignalArrays, Strategy


class TrendFilterParameters(Parameters):
    fast: int = Field(default=20, ge=2, le=200, title="Fast average", description="Candles in the short average.")
    slow: int = Field(default=50, ge=3, le=500, title="Slow average", description="Candles in the long average.")
    trend_timeframe: Timeframe = Field(
        default=Timeframe.D1, title="Trend's timeframe", description="On whose candles the large trend is seen."
    )
    trend_period: int = Field(
        default=200, ge=2, le=500, title="Trend's average", description="It rises while it closes above this average."
    )
    trend_symbol: str = Field(
        default="",
        max_length=40,
        title="Trend's market",
        description="Whose trend it is, such as BTC/USDT; empty: the market's own.",
    )

    @model_validator(mode="after")
    def _fast_is_shorter(self) -> Self:
        if self.fast >= self.slow:
            raise ValueError(f"wanted fast below slow, was fast={self.fast} and slow={self.slow}")
        return self


class TrendFilter(Strategy[TrendFilterParameters]):
    name = "trend_filter"
    title = "SMA crossover with the trend"
    parameters_type = TrendFilterParameters

    @property
    def warm_up(self) -> int:
        return self.parameters.slow + 1

    @property
    def informative(self) -> tuple[Informative, ...]:
        wanted = self.parameters
        return (Informative(wanted.trend_timeframe, wanted.trend_symbol, warm_up=wanted.trend_period),)

    @property
    def chart(self) -> tuple[Line, ...]:
        wanted = self.parameters
        return (
            Line(Role.FAST, "sma", "sma", {"period": wanted.fast}),
            Line(Role.SLOW, "sma", "sma", {"period": wanted.slow}),
            Line(
                Role.TREND, "sma", "sma", {"period": wanted.trend_period},
                timeframe=wanted.trend_timeframe.value, symbol=wanted.trend_symbol,
            ),
        )  # fmt: skip

    def signals_with(self, candles: Candles, others: Others) -> SignalArrays:
        fast, slow = sma(candles.close, self.parameters.fast), sma(candles.close, self.parameters.slow)
        [large] = self.informative
        trend = others[large].close
        above = others.align(large, trend - sma(trend, self.parameters.trend_period))
        enter = crossed_above(fast, slow) & (above > 0)  # no average yet: not above it
        return SignalArrays(entries=enter.astype(np.int8), exits=crossed_above(slow, fast).astype(np.int8))
