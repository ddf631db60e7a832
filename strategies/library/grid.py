"""Grid: levels at equal steps below a moving average; buy at each that the price falls to, and sell in parts above.

A session needs as many entries as there are levels to fill the grid; each part is sold one step further above the
average entry. Wins in a market that swings around its average; loses in a long fall, fully bought, until the stop
beyond the last level, and misses the trends it sells into.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from domain.candles import Candles
from domain.catalogue import indicator_of
from domain.exit_plan import ExitPlan, TargetLevel
from domain.strategy import Line, Parameters, Role, SignalArrays, Strategy


class GridParameters(Parameters):
    stop_loss_percent: Decimal | None = Field(
        default=Decimal(10),
        gt=0,
        lt=100,
        title="Stop-loss, %",
        description="Leave all of it this far below the average entry.",
    )
    take_profit_percent: Decimal | None = Field(
        default=None, gt=0, le=1000, title="Take-profit, %", description="Leave all of it here, and not step by step."
    )
    period: int = Field(
        default=100, ge=2, le=500, title="Base's period", description="Candles in the average that the grid hangs on."
    )
    step_percent: Decimal = Field(
        default=Decimal(1), gt=0, le=20, title="Step, %", description="From one level to the next, of the base."
    )
    levels: int = Field(
        default=5, ge=1, le=10, title="Levels", description="How many of them are bought below the base."
    )

    @model_validator(mode="after")
    def _lies_above_nothing(self) -> Self:
        if self.step_percent * self.levels >= 100:
            raise ValueError(
                f"wanted step_percent times levels below 100, was step_percent={self.step_percent} and levels={self.levels}"
            )
        return self


class Grid(Strategy[GridParameters]):
    name = "grid"
    title = "Grid"
    parameters_type = GridParameters

    @property
    def exit_plan(self) -> ExitPlan:
        wanted = self.parameters
        if wanted.take_profit_percent is not None:
            return super().exit_plan
        part = round(Decimal(1) / wanted.levels, 4)
        return ExitPlan(
            stop_loss_percent=wanted.stop_loss_percent,
            targets=tuple(
                TargetLevel(percent=wanted.step_percent * number, fraction=part)
                for number in range(1, wanted.levels + 1)
            ),
        )

    @property
    def warm_up(self) -> int:
        return self.parameters.period + 1

    @property
    def chart(self) -> tuple[Line, ...]:
        base, step = {"period": self.parameters.period}, float(self.parameters.step_percent) / 100
        return (
            Line(Role.MIDDLE, "sma", "sma", base),
            *(Line(Role.LOWER, "sma", "sma", base, scale=1 - step * at) for at in range(1, self.parameters.levels + 1)),
        )

    def signals(self, candles: Candles) -> SignalArrays:
        base = indicator_of(candles, "sma", period=self.parameters.period)["sma"]
        below = np.zeros(len(candles))
        is_known = ~np.isnan(base)
        below[is_known] = (1 - candles.close[is_known] / base[is_known]) * 100 / float(self.parameters.step_percent)
        depth = np.clip(np.floor(below), 0, None)
        enter = np.zeros(len(candles), dtype=np.int8)
        fell = (depth[1:] > depth[:-1]) & (depth[:-1] < self.parameters.levels) & is_known[:-1]
        enter[1:] = fell
        return SignalArrays(entries=enter, exits=np.zeros(len(candles), dtype=np.int8))
