"""Supertrend: stay with the market while it holds above a line that trails it by a few average ranges, and turn when
it does not.

Wins in trends, whose noise the line is far enough away to bear; loses twice the distance of the line at every turn in
a market that goes sideways.
"""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
from pydantic import Field

from domain.candles import Candles
from domain.catalogue import indicator_of
from domain.exit_plan import ExitPlan
from domain.indicators import wilder_settles
from domain.strategy import Line, Parameters, Role, Sides, SignalArrays, Strategy

# How many candles, for a line one average range away, until any two histories have crossed it on the same candle: a walk gets
# as far as that in a number of steps that grows with the square of the distance.
_TURNS = 60


class SupertrendParameters(Parameters):
    # The line is the stop, and trends have no target.
    stop_loss_percent: Decimal | None = Field(
        default=None, gt=0, lt=100, title="Stop-loss, %", description="Leave when the price is this far against us."
    )
    take_profit_percent: Decimal | None = Field(
        default=None, gt=0, le=1000, title="Take-profit, %", description="Leave when the price is this far for us."
    )
    period: int = Field(
        default=10, ge=2, le=100, title="Range's period", description="Candles that the true range is averaged over."
    )
    factor: float = Field(
        default=3.0, ge=0.5, le=6, title="Distance", description="Average true ranges from the middle to the line."
    )
    sides: Sides = Field(default=Sides.LONG, title="Sides", description="Trade rising markets, falling ones, or both.")


class Supertrend(Strategy[SupertrendParameters]):
    name = "supertrend"
    title = "Supertrend"
    parameters_type = SupertrendParameters

    @property
    def exit_plan(self) -> ExitPlan:
        return super().exit_plan.model_copy(update={"is_stop_from_signal": True})

    @property
    def warm_up(self) -> int:
        return wilder_settles(self.parameters.period) + math.ceil(_TURNS * self.parameters.factor**2)

    @property
    def chart(self) -> tuple[Line, ...]:
        return (Line(Role.STOP, "supertrend", "supertrend", self._line()),)

    def signals(self, candles: Candles) -> SignalArrays:
        found = indicator_of(candles, "supertrend", **self._line())
        direction = found["direction"]
        turned = np.zeros(len(direction), dtype=np.bool_)
        turned[1:] = ~np.isnan(direction[:-1]) & (direction[1:] != direction[:-1])
        stops = np.maximum(found["supertrend"], candles.close / 100)
        return SignalArrays.of_turns(
            turned & (direction > 0), turned & (direction < 0), self.parameters.sides, stops=stops
        )

    def _line(self) -> dict[str, float]:
        return {"period": self.parameters.period, "factor": self.parameters.factor}
