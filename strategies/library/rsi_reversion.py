"""RSI mean reversion: buy when a fall has run too far, leave when the market has recovered.

Wins where prices swing around a level; loses when a fall is the start of a trend, which is what the stop-loss is for.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import Field, model_validator

from domain.candles import Candles
from domain.catalogue import indicator_of
from domain.indicators import crossed_above, wilder_settles
from domain.strategy import Line, Parameters, Role, SignalArrays, Strategy


class RsiReversionParameters(Parameters):
    period: int = Field(default=14, ge=2, le=100, title="RSI period", description="Candles the RSI looks back.")
    oversold: float = Field(
        default=30, gt=0, lt=100, title="Oversold", description="Buy when the RSI rises back above this."
    )
    recovered: float = Field(
        default=55, gt=0, lt=100, title="Recovered", description="Leave when the RSI rises above this."
    )

    @model_validator(mode="after")
    def _oversold_is_lower(self) -> Self:
        if self.oversold >= self.recovered:
            raise ValueError(
                f"wanted oversold below recovered, was oversold={self.oversold} and recovered={self.recovered}"
            )
        return self


class RsiReversion(Strategy[RsiReversionParameters]):
    name = "rsi_reversion"
    title = "RSI mean reversion"
    parameters_type = RsiReversionParameters

    @property
    def warm_up(self) -> int:
        return wilder_settles(self.parameters.period) + 1

    @property
    def chart(self) -> tuple[Line, ...]:
        return (
            Line(Role.OSCILLATOR, "rsi", "rsi", {"period": self.parameters.period}, pane="rsi"),
            Line(Role.LEVEL, pane="rsi", level=self.parameters.oversold),
            Line(Role.LEVEL, pane="rsi", level=self.parameters.recovered),
        )

    def signals(self, candles: Candles) -> SignalArrays:
        strength = indicator_of(candles, "rsi", period=self.parameters.period)["rsi"]
        buy = crossed_above(strength, np.full(len(strength), self.parameters.oversold))
        leave = crossed_above(strength, np.full(len(strength), self.parameters.recovered))
        return SignalArrays(entries=buy.astype(np.int8), exits=leave.astype(np.int8))
