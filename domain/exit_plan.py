"""What a trader or a strategy says about leaving: every exit with its parameters, checked to fit together."""

from __future__ import annotations

from decimal import Decimal
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class TargetLevel(BaseModel):
    """A take-profit: ``percent`` beyond the entry price, for ``fraction`` of what was entered (the last one takes the
    rest)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    percent: Decimal = Field(gt=0, le=1000)
    fraction: Decimal = Field(default=Decimal(1), gt=0, le=1)


class RoiStep(BaseModel):
    """From ``minutes`` after the entry on (the venue's time), leave with a gain of ``percent``; 0 is without a loss."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    minutes: int = Field(ge=0, le=5_256_000)
    percent: Decimal = Field(ge=0, le=1000)


class ExitPlan(BaseModel):
    """Every way in which a position is to be left, several at once; what is None or empty is no exit. Percentages are of
    the average entry price, ``trailing_percent`` alone of the best price; ``_atr`` figures are multiples of the average true
    range at the entry."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stop_loss_percent: Decimal | None = Field(default=None, gt=0, lt=100)
    stop_loss_atr: Decimal | None = Field(default=None, gt=0, le=100)
    # The level that the entry signal itself names, where it names one.
    is_stop_from_signal: bool = False
    targets: tuple[TargetLevel, ...] = Field(default=(), max_length=10)
    is_target_from_signal: bool = False
    # The trailing stop follows the best price of the candles that closed since the entry, once that was so far for us; with 0
    # it stands from the entry on, under the entry price.
    trailing_percent: Decimal | None = Field(default=None, gt=0, lt=100)
    trailing_atr: Decimal | None = Field(default=None, gt=0, le=100)
    trailing_activation_percent: Decimal = Field(default=Decimal(0), ge=0, le=1000)
    # Once the best price was so far for us the stop moves to the entry price, and a little further.
    break_even_percent: Decimal | None = Field(default=None, gt=0, le=1000)
    break_even_offset_percent: Decimal = Field(default=Decimal(0), ge=0, le=1000)
    max_hold_minutes: int | None = Field(default=None, ge=1, le=5_256_000)
    roi: tuple[RoiStep, ...] = Field(default=(), max_length=20)
    is_exit_signal_used: bool = True
    # Leave before the venue liquidates: when so much of the way from the entry to the liquidation price is gone.
    liquidation_guard_percent: Decimal | None = Field(default=Decimal(80), gt=0, lt=100)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if sum(target.fraction for target in self.targets[:-1]) >= 1:
            raise ValueError("wanted fractions of targets before the last below 1 together")
        if list(self.targets) != sorted(self.targets, key=lambda target: target.percent):
            raise ValueError("wanted targets from the nearest to the farthest")
        if list(self.roi) != sorted(self.roi, key=lambda step: step.minutes):
            raise ValueError("wanted steps of the ROI table from the earliest to the latest")
        if self.break_even_percent is not None and self.break_even_offset_percent > self.break_even_percent:
            raise ValueError("wanted a break-even offset of at most its activation")
        return self

    @property
    def is_following(self) -> bool:
        """Whether its stop moves with the candles that close."""
        return any(one is not None for one in (self.trailing_percent, self.trailing_atr, self.break_even_percent))
