"""Exponential moving-average crossover: as the plain one, and quicker to turn, for the newest candles weigh most.

Wins in trends that begin and end sharply; loses more often, and less each time, than the plain crossover in a market
that goes sideways.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from domain.candles import Candles
from domain.catalogue import indicator_of
from domain.indicators import crossed_above, ema_settles
from domain.strategy import Line, Parameters, Role, Sides, SignalArrays, Strategy


class EmaCrossParameters(Parameters):
    fast: int = Field(default=12, ge=2, le=200, title="Fast average", description="Candles in the short average.")
    slow: int = Field(default=26, ge=3, le=500, title="Slow average", description="Candles in the long average.")
    sides: Sides = Field(default=Sides.LONG, title="Sides", description="Trade rising markets, falling ones, or both.")

    @model_validator(mode="after")
    def _fast_is_shorter(self) -> Self:
        if self.fast >= self.slow:
            raise ValueError(f"wanted fast below slow, was fast={self.fast} and slow={self.slow}")
        return self


class EmaCross(Strategy[EmaCrossParameters]):
    name = "ema_cross"
    title = "EMA crossover"
    parameters_type = EmaCrossParameters

    @property
    def warm_up(self) -> int:
        return ema_settles(self.parameters.slow) + 1

    @property
    def chart(self) -> tuple[Line, ...]:
        return (
            Line(Role.FAST, "ema", "ema", {"period": self.parameters.fast}),
            Line(Role.SLOW, "ema", "ema", {"period": self.parameters.slow}),
        )

    def signals(self, candles: Candles) -> SignalArrays:
        fast = indicator_of(candles, "ema", period=self.parameters.fast)["ema"]
        slow = indicator_of(candles, "ema", period=self.parameters.slow)["ema"]
        return SignalArrays.of_turns(crossed_above(fast, slow), crossed_above(slow, fast), self.parameters.sides)
