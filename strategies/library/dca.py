"""Cost averaging: buy at regular times whatever the price, less the deeper the market has fallen, and sell with a
gain on the average.

A session needs as many entries as it shall buy, and to weigh its amounts by confidence for the falls to count. Wins
in a market that rises in the long run and whose setbacks end; loses in one that does not come back, for it has no
stop of its own: how much is bought in all is what limits the loss.
"""

from __future__ import annotations

from decimal import Decimal

import numpy as np
from pydantic import Field

from domain.candles import Candles
from domain.catalogue import indicator_of
from domain.strategy import Line, Parameters, Role, SignalArrays, Strategy

HOUR_MS = 3_600_000


class DcaParameters(Parameters):
    # To sell after a fall is what it exists not to do.
    stop_loss_percent: Decimal | None = Field(
        default=None, gt=0, lt=100, title="Stop-loss, %", description="Leave when the price is this far against us."
    )
    take_profit_percent: Decimal | None = Field(
        default=Decimal(10), gt=0, le=1000, title="Take-profit, %", description="Sell this far above the average entry."
    )
    every_hours: int = Field(
        default=24, ge=1, le=720, title="Every, hours", description="Buy on the first candle of each such span."
    )
    lookback: int = Field(
        default=200,
        ge=2,
        le=1000,
        title="Lookback",
        description="Candles among which the high is that a fall is measured from.",
    )
    caution: float = Field(
        default=2.0, ge=0, le=20, title="Caution", description="Amount taken off, in % for each % fallen from the high."
    )
    least: float = Field(
        default=0.2, gt=0, le=1, title="Least", description="Part of the amount that is bought at any rate."
    )


class Dca(Strategy[DcaParameters]):
    name = "dca"
    title = "Cost averaging (DCA)"
    parameters_type = DcaParameters

    @property
    def warm_up(self) -> int:
        return self.parameters.lookback

    @property
    def chart(self) -> tuple[Line, ...]:
        return (Line(Role.UPPER, "donchian", "upper", {"period": self.parameters.lookback}),)

    def signals(self, candles: Candles) -> SignalArrays:
        spans = candles.open_ms // (self.parameters.every_hours * HOUR_MS)
        high = indicator_of(candles, "donchian", period=self.parameters.lookback)["upper"]
        enter = np.zeros(len(candles), dtype=np.int8)
        enter[1:] = (np.diff(spans) > 0) & ~np.isnan(high[1:])
        fallen = np.divide(high - candles.close, high, out=np.zeros(len(candles)), where=high > 0)
        confidence = np.clip(1 - self.parameters.caution * fallen, self.parameters.least, 1.0)
        return SignalArrays(entries=enter, exits=np.zeros(len(candles), dtype=np.int8), confidence=confidence)
