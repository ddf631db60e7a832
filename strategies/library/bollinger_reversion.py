"""Bollinger reversion: buy when the price comes back from below its usual range, leave at its average.

Wins where prices swing around a level; loses when the range itself gives way and the return was a pause in a fall,
which is what the stop, as far below the entry as the average is above it, is for.
"""

from __future__ import annotations

from decimal import Decimal

import numpy as np
from pydantic import Field

from domain.candles import Candles
from domain.catalogue import indicator_of
from domain.exit_plan import ExitPlan
from domain.indicators import crossed_above
from domain.strategy import Line, Parameters, Role, SignalArrays, Strategy


class BollingerReversionParameters(Parameters):
    # The average is the target, wherever it is by then.
    take_profit_percent: Decimal | None = Field(
        default=None, gt=0, le=1000, title="Take-profit, %", description="Leave when the price is this far for us."
    )
    period: int = Field(
        default=20, ge=2, le=500, title="Bands' period", description="Candles in the average and bands."
    )
    width: float = Field(
        default=2.0, gt=0, le=10, title="Bands' width", description="Standard deviations from the average to a band."
    )
    risk: float = Field(
        default=1.0, ge=0.1, le=5, title="Risk to reward",
        description="How far below the entry the stop is, in distances from there to the average.",
    )  # fmt: skip


class BollingerReversion(Strategy[BollingerReversionParameters]):
    name = "bollinger_reversion"
    title = "Bollinger reversion"
    parameters_type = BollingerReversionParameters

    @property
    def exit_plan(self) -> ExitPlan:
        return super().exit_plan.model_copy(update={"is_stop_from_signal": True})

    @property
    def warm_up(self) -> int:
        return self.parameters.period + 1

    @property
    def chart(self) -> tuple[Line, ...]:
        bands = {"period": self.parameters.period, "width": self.parameters.width}
        return tuple(
            Line(role, "bollinger", role.value.lower(), bands) for role in (Role.UPPER, Role.MIDDLE, Role.LOWER)
        )

    def signals(self, candles: Candles) -> SignalArrays:
        bands = indicator_of(candles, "bollinger", period=self.parameters.period, width=self.parameters.width)
        middle = bands["middle"]
        # Not where one jump leads over the average too: there is nothing left to win.
        buy = crossed_above(candles.close, bands["lower"]) & (candles.close < middle)
        stops = np.maximum(candles.close - self.parameters.risk * (middle - candles.close), candles.close / 100)
        return SignalArrays.of_turns(buy, crossed_above(candles.close, middle), stops=stops)
