"""MACD: follow a move when its pace overtakes its own average.

Wins where moves gather pace and hold it for a while; loses in a market without direction, where the two lines cross
and cross back, and gives part of a long trend away, for a pause is enough to make it leave.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from domain.candles import Candles
from domain.catalogue import indicator_of
from domain.indicators import crossed_above, ema_settles
from domain.strategy import Line, Parameters, Role, Sides, SignalArrays, Strategy


class MacdParameters(Parameters):
    fast: int = Field(default=12, ge=2, le=200, title="Fast average", description="Candles in the short average.")
    slow: int = Field(default=26, ge=3, le=500, title="Slow average", description="Candles in the long average.")
    signal: int = Field(
        default=9, ge=2, le=200, title="Signal", description="Candles that the difference of both is averaged over."
    )
    sides: Sides = Field(default=Sides.LONG, title="Sides", description="Trade rising markets, falling ones, or both.")

    @model_validator(mode="after")
    def _fast_is_shorter(self) -> Self:
        if self.fast >= self.slow:
            raise ValueError(f"wanted fast below slow, was fast={self.fast} and slow={self.slow}")
        return self


class Macd(Strategy[MacdParameters]):
    name = "macd"
    title = "MACD"
    parameters_type = MacdParameters

    @property
    def warm_up(self) -> int:
        # The average of the difference begins where the difference does, and both forget in turn.
        return ema_settles(self.parameters.slow) + ema_settles(self.parameters.signal) + 1

    @property
    def chart(self) -> tuple[Line, ...]:
        return tuple(
            Line(role, "macd", output, self._lengths(), pane="macd")
            for role, output in ((Role.FAST, "macd"), (Role.SIGNAL, "signal"), (Role.HISTOGRAM, "histogram"))
        )

    def signals(self, candles: Candles) -> SignalArrays:
        found = indicator_of(candles, "macd", **self._lengths())
        line, signal = found["macd"], found["signal"]
        return SignalArrays.of_turns(crossed_above(line, signal), crossed_above(signal, line), self.parameters.sides)

    def _lengths(self) -> dict[str, int]:
        return {"fast": self.parameters.fast, "slow": self.parameters.slow, "signal": self.parameters.signal}
