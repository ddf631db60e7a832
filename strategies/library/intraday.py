"""Intraday: buy the first break above the day's opening range while the price is above the day's average by volume,
and be out by the end of the day.

A day begins with the first candle after ``anchor_hour`` UTC: of a market that never closes at that hour, of one with
sessions at its opening. Wins on days that choose a direction early and keep it; loses on days that come back to their
middle, and, by fees, on timeframes whose opening range is hardly more than the spread.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from domain.candles import Candles, FloatArray, IntArray
from domain.catalogue import indicator_of
from domain.exit_plan import ExitPlan
from domain.indicators import DAY_MS, crossed_above
from domain.strategy import Line, Parameters, Role, SignalArrays, Strategy

MINUTE_MS = 60_000
# A day in candles of a minute: of longer ones it is several days, which does no harm.
DAY = 24 * 60


class IntradayParameters(Parameters):
    # The stop is the other edge of the range; the day's end and its average are the ways out.
    stop_loss_percent: Decimal | None = Field(
        default=None, gt=0, lt=100, title="Stop-loss, %", description="Leave when the price is this far against us."
    )
    take_profit_percent: Decimal | None = Field(
        default=None, gt=0, le=1000, title="Take-profit, %", description="Leave when the price is this far for us."
    )
    anchor_hour: int = Field(
        default=0,
        ge=0,
        le=23,
        title="Day begins at",
        description="Hour, UTC; of a market with sessions one before them.",
    )
    range_minutes: int = Field(
        default=60, ge=1, le=720, title="Opening range, minutes", description="From the day's first candle on."
    )
    entry_minutes: int = Field(
        default=720, ge=2, le=1440, title="Last entry, minutes", description="After the day's first candle."
    )
    leave_minutes: int = Field(
        default=1380,
        ge=3,
        le=1440,
        title="Out by, minutes",
        description="After the day's first candle, whatever the price.",
    )

    @model_validator(mode="after")
    def _one_after_the_other(self) -> Self:
        if not self.range_minutes < self.entry_minutes < self.leave_minutes:
            raise ValueError(
                "wanted the range to end before the last entry and that before the way out, was "
                f"range_minutes={self.range_minutes}, entry_minutes={self.entry_minutes} and "
                f"leave_minutes={self.leave_minutes}"
            )
        return self


class Intraday(Strategy[IntradayParameters]):
    name = "intraday"
    title = "Intraday (VWAP and opening range)"
    parameters_type = IntradayParameters

    @property
    def exit_plan(self) -> ExitPlan:
        return super().exit_plan.model_copy(update={"is_stop_from_signal": True})

    @property
    def warm_up(self) -> int:
        return DAY + 1  # all of a day, and a candle before it, by which its beginning is known

    @property
    def chart(self) -> tuple[Line, ...]:
        return (Line(Role.MIDDLE, "vwap", "vwap", {"anchor_hour": self.parameters.anchor_hour}),)

    def signals(self, candles: Candles) -> SignalArrays:
        wanted, close = self.parameters, candles.close
        starts = _day_starts(candles.open_ms, wanted.anchor_hour)
        day = np.searchsorted(starts, np.arange(len(close)), side="right") - 1
        is_known = day >= 0
        minutes = np.full(len(close), -1, dtype=np.int64)
        minutes[is_known] = (candles.open_ms[is_known] - candles.open_ms[starts[day[is_known]]]) // MINUTE_MS
        is_opening = is_known & (minutes < wanted.range_minutes)
        top, bottom = _of_the_opening(candles, day, is_opening, len(starts))
        average = indicator_of(candles, "vwap", anchor_hour=wanted.anchor_hour)["vwap"]
        may_enter = is_known & ~is_opening & (minutes < wanted.entry_minutes)
        broke = may_enter & (close > top)
        enter = _first_of_day(broke, day, len(starts)) & (close > average) & (bottom < close)
        leave = crossed_above(average, close) & ~is_opening
        leave |= is_known & (minutes >= wanted.leave_minutes)
        return SignalArrays(
            entries=enter.astype(np.int8), exits=leave.astype(np.int8), stops=np.where(enter, bottom, np.nan)
        )


def _day_starts(open_ms: IntArray, anchor_hour: int) -> IntArray:
    """The index of the first candle of each day that begins within the candles."""
    since = open_ms - anchor_hour * 3_600_000
    starts = np.flatnonzero(np.diff(since // DAY_MS)) + 1
    if len(since) and since[0] % DAY_MS == 0:
        starts = np.concatenate(([0], starts))
    return starts


def _of_the_opening(
    candles: Candles, day: IntArray, is_opening: np.ndarray[tuple[int], np.dtype[np.bool_]], days: int
) -> tuple[FloatArray, FloatArray]:
    """The highest high and the lowest low of the opening range of each candle's day, NaN where that is not known."""
    top, bottom = np.full(days + 1, -np.inf), np.full(days + 1, np.inf)
    np.maximum.at(top, day[is_opening], candles.high[is_opening])
    np.minimum.at(bottom, day[is_opening], candles.low[is_opening])
    top[-1] = bottom[-1] = np.nan  # of day -1: it began before the candles
    return top[day], bottom[day]


def _first_of_day(
    happened: np.ndarray[tuple[int], np.dtype[np.bool_]], day: IntArray, days: int
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Where it happened for the first time on that day."""
    first = np.zeros(len(happened), dtype=np.bool_)
    found, at = np.unique(day[happened], return_index=True)
    first[np.flatnonzero(happened)[at]] = True
    return first
