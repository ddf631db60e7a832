"""Bollinger breakout: buy when the price leaves its usual range upwards, leave when it is back at its average.

Wins when a quiet market wakes up and runs; loses on every excursion that turns back at once, which in a quiet market
is most of them.
"""

from __future__ import annotations

from decimal import Decimal

from pydantic import Field

from domain.candles import Candles
from domain.catalogue import indicator_of
from domain.indicators import crossed_above
from domain.strategy import Line, Parameters, Role, SignalArrays, Strategy


class BollingerBreakoutParameters(Parameters):
    # A run is left at the average: a near target would cut off what pays for the false starts.
    take_profit_percent: Decimal | None = Field(
        default=None, gt=0, le=1000, title="Take-profit, %", description="Leave when the price is this far for us."
    )
    period: int = Field(
        default=20, ge=2, le=500, title="Bands' period", description="Candles in the average and bands."
    )
    width: float = Field(
        default=2.0, gt=0, le=10, title="Bands' width", description="Standard deviations from the average to a band."
    )


class BollingerBreakout(Strategy[BollingerBreakoutParameters]):
    name = "bollinger_breakout"
    title = "Bollinger breakout"
    parameters_type = BollingerBreakoutParameters

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
        return SignalArrays.of_turns(
            crossed_above(candles.close, bands["upper"]), crossed_above(bands["middle"], candles.close)
        )
