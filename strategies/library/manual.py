"""No signals: the trader decides. What sessions of orders by hand are configured with, so that these are valued, tracked and
protected like all others.
"""

from __future__ import annotations

from decimal import Decimal

import numpy as np
from pydantic import Field

from domain.candles import Candles
from domain.strategy import Parameters, SignalArrays, Strategy


class ManualParameters(Parameters):
    # Whoever enters by hand says how to leave: nobody expects an exit that was not asked for.
    stop_loss_percent: Decimal | None = Field(
        default=None, gt=0, lt=100, title="Stop-loss, %", description="Leave when the price is this far against us."
    )
    take_profit_percent: Decimal | None = Field(
        default=None, gt=0, le=1000, title="Take-profit, %", description="Leave when the price is this far for us."
    )


class Manual(Strategy[ManualParameters]):
    name = "manual"
    title = "By hand"
    parameters_type = ManualParameters

    @property
    def warm_up(self) -> int:
        return 1

    def signals(self, candles: Candles) -> SignalArrays:
        silence = np.zeros(len(candles), dtype=np.int8)
        return SignalArrays(entries=silence, exits=silence.copy())
