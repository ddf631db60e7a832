"""Momentum rotation: hold this market while it is among the strongest of several, measured by how far each has risen.

One configuration for each market of the list makes a portfolio that rotates by itself. Wins where strength lasts, as
it does in most markets over weeks and months; loses at sharp turns, when what was strongest falls first and furthest.
"""

from __future__ import annotations

from decimal import Decimal

import numpy as np
from pydantic import Field, field_validator

from domain.candles import Candles, FloatArray, Timeframe
from domain.catalogue import indicator_of
from domain.informative import Informative, Others
from domain.strategy import Line, Parameters, Role, SignalArrays, Strategy


class MomentumRotationParameters(Parameters):
    # It is held for as long as it is strong.
    stop_loss_percent: Decimal | None = Field(
        default=Decimal(10),
        gt=0,
        lt=100,
        title="Stop-loss, %",
        description="Leave when the price is this far against us.",
    )
    take_profit_percent: Decimal | None = Field(
        default=None, gt=0, le=1000, title="Take-profit, %", description="Leave when the price is this far for us."
    )
    rivals: str = Field(
        default="",
        max_length=400,
        title="Rivals",
        description="The other markets of the list, such as ETH/USDT, SOL/USDT; none: it has to rise, and that is all.",
    )
    held: int = Field(
        default=1, ge=1, le=20, title="Markets held", description="How many of the strongest are held at a time."
    )
    timeframe: Timeframe = Field(
        default=Timeframe.D1, title="Momentum's timeframe", description="On whose candles strength is measured."
    )
    lookback: int = Field(
        default=30,
        ge=1,
        le=500,
        title="Lookback",
        description="Candles over which the rise of each market is measured.",
    )
    least_percent: float = Field(
        default=0.0,
        ge=-100,
        le=1000,
        title="Least rise, %",
        description="A market that rose no more is not held at all.",
    )

    @field_validator("rivals")
    @classmethod
    def _is_a_list(cls, value: str) -> str:
        names = [one.strip() for one in value.split(",") if one.strip()]
        if len(names) != len(set(names)):
            raise ValueError(f"wanted each market once, was {value}")
        if len(names) > 20:
            raise ValueError(f"wanted at most 20 markets, was {len(names)}")
        return ", ".join(names)


class MomentumRotation(Strategy[MomentumRotationParameters]):
    name = "momentum_rotation"
    title = "Momentum rotation"
    parameters_type = MomentumRotationParameters

    @property
    def warm_up(self) -> int:
        return 2

    @property
    def informative(self) -> tuple[Informative, ...]:
        # A change over ``lookback``, now and on the candle before.
        frame, length = self.parameters.timeframe, self.parameters.lookback + 2
        names = [one.strip() for one in self.parameters.rivals.split(",") if one.strip()]
        return tuple(Informative(frame, symbol, warm_up=length) for symbol in ("", *names))

    @property
    def chart(self) -> tuple[Line, ...]:
        lookback = {"period": self.parameters.lookback}
        own, *rivals = self.informative
        return (
            Line(Role.FAST, "roc", "roc", lookback, pane="momentum", timeframe=own.timeframe.value),
            *(
                Line(
                    Role.SLOW, "roc", "roc", lookback, pane="momentum", timeframe=one.timeframe.value, symbol=one.symbol
                )
                for one in rivals
            ),
            Line(Role.LEVEL, pane="momentum", level=self.parameters.least_percent),
        )

    def signals_with(self, candles: Candles, others: Others) -> SignalArrays:
        own, *rivals = (self._rise(others, one) for one in self.informative)
        stronger = np.zeros(len(candles), dtype=np.int64)
        for rival in rivals:
            stronger += rival > own  # what is not known yet is not stronger
        strong = (own > self.parameters.least_percent) & (stronger < self.parameters.held)
        is_known = ~np.isnan(own)
        became, ended = np.zeros(len(candles), dtype=np.bool_), np.zeros(len(candles), dtype=np.bool_)
        became[1:] = strong[1:] & ~strong[:-1] & is_known[:-1]
        ended[1:] = ~strong[1:] & strong[:-1]
        return SignalArrays.of_turns(became, ended)

    def _rise(self, others: Others, one: Informative) -> FloatArray:
        return others.align(one, indicator_of(others[one], "roc", period=self.parameters.lookback)["roc"])
