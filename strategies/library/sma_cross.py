"""Moving-average crossover: follow a trend once the recent average overtakes the longer one.

Wins in long, clean trends; loses a little on every false start in a market that goes sideways.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import Field, model_validator

from domain.candles import Candles
from domain.indicators import crossed_above, sma
from domain.strategy import Line, Parameters, Role, SignalArrays, Strategy


class SmaCrossParameters(Parameters):
    fast: int = Field(default=20, ge=2, le=200, title="Fast average", description="Candles in the short average.")
    slow: int = Field(default=50, ge=3, le=500, title="Slow average", description="Candles in the long average.")

    @model_validator(mode="after")
    def _fast_is_shorter(self) -> Self:
        if self.fast >= self.slow:
            raise ValueError(f"wanted fast below slow, was fast={self.fast} and slow={self.slow}")
        return self


class SmaCross(Strategy[SmaCrossParameters]):
    name = "sma_cross"
    title = "SMA crossover"
    parameters_type = SmaCrossParameters

    @property
    def warm_up(self) -> int:
        return self.parameters.slow + 1

    @property
    def chart(self) -> tuple[Line, ...]:
        return (
            Line(Role.FAST, "sma", "sma", {"period": self.parameters.fast}),
            Line(Role.SLOW, "sma", "sma", {"period": self.parameters.slow}),
        )

    def signals(self, candles: Candles) -> SignalArrays:
        fast = sma(candles.close, self.parameters.fast)
        slow = sma(candles.close, self.parameters.slow)
        up, down = crossed_above(fast, slow), crossed_above(slow, fast)
        return SignalArrays(entries=up.astype(np.int8), exits=down.astype(np.int8))
