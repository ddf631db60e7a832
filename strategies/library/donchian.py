"""Donchian channel, the turtles' way: enter on a new high of many candles, leave on a new low of fewer, risk a few
ranges.

Wins rarely and much: a few long trends pay for everything; loses a little most of the time, and for months on end in
markets without a trend.
"""

from __future__ import annotations

from decimal import Decimal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from domain.candles import Candles, FloatArray
from domain.catalogue import indicator_of
from domain.exit_plan import ExitPlan
from domain.indicators import wilder_settles
from domain.strategy import Line, Parameters, Role, Sides, SignalArrays, Strategy


class DonchianParameters(Parameters):
    # The stop is the signal's own, and trends have no target.
    stop_loss_percent: Decimal | None = Field(
        default=None, gt=0, lt=100, title="Stop-loss, %", description="Leave when the price is this far against us."
    )
    take_profit_percent: Decimal | None = Field(
        default=None, gt=0, le=1000, title="Take-profit, %", description="Leave when the price is this far for us."
    )
    entry: int = Field(
        default=20, ge=2, le=500, title="Entry channel", description="Enter beyond the extreme of so many candles."
    )
    leave: int = Field(
        default=10, ge=2, le=500, title="Exit channel", description="Leave beyond the other extreme of so many candles."
    )
    atr_period: int = Field(
        default=20, ge=2, le=200, title="Range's period", description="Candles that the true range is averaged over."
    )
    stop_atr: float = Field(
        default=2.0, gt=0, le=20, title="Stop, ranges", description="Average true ranges from the entry to the stop."
    )
    sides: Sides = Field(default=Sides.LONG, title="Sides", description="Trade rising markets, falling ones, or both.")


class Donchian(Strategy[DonchianParameters]):
    name = "donchian"
    title = "Donchian channel (turtle)"
    parameters_type = DonchianParameters

    @property
    def exit_plan(self) -> ExitPlan:
        return super().exit_plan.model_copy(update={"is_stop_from_signal": True})

    @property
    def warm_up(self) -> int:
        # A channel is that of the candle before, and whether it was left is a matter of two candles.
        longest = max(self.parameters.entry, self.parameters.leave)
        return max(longest + 2, wilder_settles(self.parameters.atr_period))

    @property
    def chart(self) -> tuple[Line, ...]:
        channel = {"period": self.parameters.entry}
        near = {"period": self.parameters.leave}
        return (
            Line(Role.UPPER, "donchian", "upper", channel),
            Line(Role.LOWER, "donchian", "lower", channel),
            Line(Role.STOP, "donchian", "upper" if self.parameters.sides is Sides.SHORT else "lower", near),
        )

    def signals(self, candles: Candles) -> SignalArrays:
        wanted, close = self.parameters, candles.close
        far = indicator_of(candles, "donchian", period=wanted.entry)
        near = indicator_of(candles, "donchian", period=wanted.leave)
        up, down = _broken(close, far["upper"], 1), _broken(close, far["lower"], -1)
        reach = wanted.stop_atr * indicator_of(candles, "atr", period=wanted.atr_period)["atr"]
        stops = np.where(up, np.maximum(close - reach, close / 100), np.where(down, close + reach, np.nan))
        none = np.zeros(len(close), dtype=np.int8)
        rises, falls = up.astype(np.int8), down.astype(np.int8)
        if wanted.sides is Sides.LONG:
            leave = _broken(close, near["lower"], -1).astype(np.int8)
            return SignalArrays(rises, leave, stops=stops)
        if wanted.sides is Sides.SHORT:
            leave = _broken(close, near["upper"], 1).astype(np.int8)
            return SignalArrays(-falls, -leave, stops=stops)
        # An exit outranks an entry: of both sides an exit is said only where nothing is entered.
        leave = _broken(close, near["upper"], 1).astype(np.int8) - _broken(close, near["lower"], -1).astype(np.int8)
        return SignalArrays(rises - falls, np.where(rises + falls > 0, none, -leave).astype(np.int8), stops=stops)


def _broken(close: FloatArray, edge: FloatArray, side: int) -> NDArray[np.bool_]:
    """Where the close is beyond the edge that the channel had on the candle before, and was not on that candle."""
    beyond = np.zeros(len(close), dtype=np.bool_)
    beyond[1:] = (close[1:] - edge[:-1]) * side > 0
    begins = beyond.copy()
    begins[1:] &= ~beyond[:-1]
    return begins
