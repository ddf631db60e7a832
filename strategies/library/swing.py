"""Swing: with the trend of a longer timeframe, buy the end of a setback on a shorter one and hold for days.

The trend rises while its fast average is above its slow one; a setback ends when the close overtakes the short
average again. The stop is a few average ranges away and follows. Wins in markets that climb in steps; loses at the
end of every trend, on the last setback, which does not end, and sits out markets without direction.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from domain.candles import Candles, Timeframe
from domain.catalogue import indicator_of
from domain.exit_plan import ExitPlan
from domain.indicators import crossed_above, ema_settles
from domain.informative import Informative, Others
from domain.strategy import Line, Parameters, Role, SignalArrays, Strategy


class SwingParameters(Parameters):
    # Its stop is in average ranges, and follows; a trend has no target.
    stop_loss_percent: Decimal | None = Field(
        default=None, gt=0, lt=100, title="Stop-loss, %", description="Leave when the price is this far against us."
    )
    take_profit_percent: Decimal | None = Field(
        default=None, gt=0, le=1000, title="Take-profit, %", description="Leave when the price is this far for us."
    )
    period: int = Field(
        default=20, ge=2, le=200, title="Setback's average", description="A setback ends when the close overtakes it."
    )
    trend_timeframe: Timeframe = Field(
        default=Timeframe.D1, title="Trend's timeframe", description="On whose candles the large trend is seen."
    )
    trend_fast: int = Field(
        default=20, ge=2, le=200, title="Trend's fast average", description="Candles of the trend's timeframe."
    )
    trend_slow: int = Field(
        default=50, ge=3, le=300, title="Trend's slow average", description="Candles of the trend's timeframe."
    )
    stop_atr: Decimal = Field(
        default=Decimal(3),
        gt=0,
        le=20,
        title="Stop, ranges",
        description="Average true ranges from the best price to the stop.",
    )

    @model_validator(mode="after")
    def _fast_is_shorter(self) -> Self:
        if self.trend_fast >= self.trend_slow:
            raise ValueError(
                f"wanted trend_fast below trend_slow, was trend_fast={self.trend_fast} and trend_slow={self.trend_slow}"
            )
        return self


class Swing(Strategy[SwingParameters]):
    name = "swing"
    title = "Swing (trend on two timeframes)"
    parameters_type = SwingParameters

    @property
    def exit_plan(self) -> ExitPlan:
        stop = self.parameters.stop_atr
        return super().exit_plan.model_copy(update={"stop_loss_atr": stop, "trailing_atr": stop})

    @property
    def warm_up(self) -> int:
        return ema_settles(self.parameters.period) + 1

    @property
    def informative(self) -> tuple[Informative, ...]:
        # One more, for the candle before may have been in another day.
        return (Informative(self.parameters.trend_timeframe, warm_up=ema_settles(self.parameters.trend_slow) + 1),)

    @property
    def chart(self) -> tuple[Line, ...]:
        wanted, large = self.parameters, self.parameters.trend_timeframe.value
        return (
            Line(Role.FAST, "ema", "ema", {"period": wanted.period}),
            Line(Role.TREND, "ema", "ema", {"period": wanted.trend_fast}, timeframe=large),
            Line(Role.SLOW, "ema", "ema", {"period": wanted.trend_slow}, timeframe=large),
        )

    def signals_with(self, candles: Candles, others: Others) -> SignalArrays:
        [large] = self.informative
        fast = indicator_of(others[large], "ema", period=self.parameters.trend_fast)["ema"]
        slow = indicator_of(others[large], "ema", period=self.parameters.trend_slow)["ema"]
        trend = others.align(large, fast - slow)
        average = indicator_of(candles, "ema", period=self.parameters.period)["ema"]
        buy = crossed_above(candles.close, average) & (trend > 0)
        return SignalArrays.of_turns(buy, crossed_above(np.zeros(len(trend)), trend))
