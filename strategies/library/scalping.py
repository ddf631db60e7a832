"""Scalping: buy a quick fall below the usual range once it is exhausted and the pace turns, and leave after a small
recovery.

Four views have to agree: the price was below the lower Bollinger band and the RSI oversold a few candles ago at most,
the MACD's histogram rises again, and the close is back above the band. Stop and target are a few average ranges away.
Wins in lively markets without a trend, on short timeframes and at low fees; loses in a slide, where every recovery is
sold, and wherever fees and spread are a large part of the average range.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from domain.candles import Candles, FloatArray
from domain.catalogue import indicator_of
from domain.exit_plan import ExitPlan
from domain.indicators import crossed_above, ema_settles, wilder_settles
from domain.strategy import Line, Parameters, Role, SignalArrays, Strategy

MACD = {"fast": 12, "slow": 26, "signal": 9}


class ScalpingParameters(Parameters):
    # Both are the signal's own, in average ranges.
    stop_loss_percent: Decimal | None = Field(
        default=None, gt=0, lt=100, title="Stop-loss, %", description="Leave when the price is this far against us."
    )
    take_profit_percent: Decimal | None = Field(
        default=None, gt=0, le=1000, title="Take-profit, %", description="Leave when the price is this far for us."
    )
    period: int = Field(
        default=20, ge=2, le=200, title="Bands' period", description="Candles in the average and bands."
    )
    width: float = Field(
        default=2.0, gt=0, le=10, title="Bands' width", description="Standard deviations from the average to a band."
    )
    rsi_period: int = Field(default=7, ge=2, le=50, title="RSI period", description="Candles the RSI looks back.")
    oversold: float = Field(
        default=30, gt=0, lt=100, title="Oversold", description="The RSI has to have been below this."
    )
    overbought: float = Field(
        default=70, gt=0, lt=100, title="Overbought", description="Leave when the RSI rises above."
    )
    patience: int = Field(
        default=3,
        ge=1,
        le=20,
        title="Patience",
        description="Candles for which a fall below band and level is remembered.",
    )
    atr_period: int = Field(
        default=14, ge=2, le=100, title="Range's period", description="Candles that the true range is averaged over."
    )
    stop_atr: float = Field(
        default=1.5, gt=0, le=20, title="Stop, ranges", description="Average true ranges from the entry to the stop."
    )
    target_atr: float = Field(
        default=2.0,
        gt=0,
        le=20,
        title="Target, ranges",
        description="Average true ranges from the entry to the target.",
    )

    @model_validator(mode="after")
    def _oversold_is_lower(self) -> Self:
        if self.oversold >= self.overbought:
            raise ValueError(
                f"wanted oversold below overbought, was oversold={self.oversold} and overbought={self.overbought}"
            )
        return self


class Scalping(Strategy[ScalpingParameters]):
    name = "scalping"
    title = "Scalping"
    parameters_type = ScalpingParameters

    @property
    def exit_plan(self) -> ExitPlan:
        return super().exit_plan.model_copy(update={"is_stop_from_signal": True, "is_target_from_signal": True})

    @property
    def warm_up(self) -> int:
        wanted = self.parameters
        return max(
            wanted.period + wanted.patience + 1,
            wilder_settles(wanted.rsi_period) + wanted.patience + 1,
            wilder_settles(wanted.atr_period),
            ema_settles(MACD["slow"]) + ema_settles(MACD["signal"]) + 2,
        )

    @property
    def chart(self) -> tuple[Line, ...]:
        wanted = self.parameters
        bands = {"period": wanted.period, "width": wanted.width}
        return (
            *(Line(role, "bollinger", role.value.lower(), bands) for role in (Role.UPPER, Role.MIDDLE, Role.LOWER)),
            Line(Role.OSCILLATOR, "rsi", "rsi", {"period": wanted.rsi_period}, pane="rsi"),
            Line(Role.LEVEL, pane="rsi", level=wanted.oversold),
            Line(Role.LEVEL, pane="rsi", level=wanted.overbought),
            Line(Role.HISTOGRAM, "macd", "histogram", MACD, pane="macd"),
        )

    def signals(self, candles: Candles) -> SignalArrays:
        wanted, close = self.parameters, candles.close
        lower = indicator_of(candles, "bollinger", period=wanted.period, width=wanted.width)["lower"]
        strength = indicator_of(candles, "rsi", period=wanted.rsi_period)["rsi"]
        pace = indicator_of(candles, "macd", **MACD)["histogram"]
        reach = indicator_of(candles, "atr", period=wanted.atr_period)["atr"]
        turns = np.zeros(len(close), dtype=np.bool_)
        turns[1:] = pace[1:] > pace[:-1]
        fell = _lately((candles.low < lower) & (strength < wanted.oversold), wanted.patience)
        agree = fell & turns & (close > lower) & (reach > 0)
        agree[1:] &= ~agree[:-1]  # once for each fall
        exhausted = np.full(len(close), wanted.overbought, dtype=np.float64)
        leave = crossed_above(strength, exhausted)
        return SignalArrays(
            entries=(agree & ~leave).astype(np.int8),
            exits=leave.astype(np.int8),
            confidence=_depth(strength, wanted.oversold, wanted.patience),
            stops=np.maximum(close - wanted.stop_atr * reach, close / 100),
            targets=close + wanted.target_atr * reach,
        )


def _lately(happened: NDArray[np.bool_], within: int) -> NDArray[np.bool_]:
    """Where it happened on this candle or one of the ``within`` before it."""
    lately = happened.copy()
    for back in range(1, min(within, len(happened) - 1) + 1):
        lately[back:] |= happened[:-back]
    return lately


def _depth(strength: FloatArray, oversold: float, within: int) -> FloatArray:
    """How sure it is: from 0.5 where the RSI just touched the level to 1 where it lay at nothing."""
    deepest = strength.copy()
    for back in range(1, min(within, len(strength) - 1) + 1):
        deepest[back:] = np.fmin(deepest[back:], strength[:-back])
    return np.clip(1 - 0.5 * deepest / oversold, 0.5, 1.0)
