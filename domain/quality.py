"""What is wrong with a batch of candles: each flaw found has a name, a place and words; nothing is dropped here.

Pure: the caller keeps what is good, quarantines the rest, and says which was which.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from domain.calendars import Calendar
from domain.candles import Candles, Timeframe


class Flaw(StrEnum):
    """Why a row cannot be taken as it is."""

    STILL_OPEN = "STILL_OPEN"  # its time is not over yet: it may change
    NOT_A_PRICE = "NOT_A_PRICE"  # a price is missing, not finite, zero or negative, or the volume negative
    BAD_OHLC = "BAD_OHLC"  # the high is not the highest, or the low not the lowest
    OFF_GRID = "OFF_GRID"  # it does not open at a multiple of its timeframe
    OUT_OF_ORDER = "OUT_OF_ORDER"  # it came after a later one
    DUPLICATE = "DUPLICATE"  # another row of the same batch has its time
    OUT_OF_SESSION = "OUT_OF_SESSION"  # its market is closed then
    JUMP = "JUMP"  # its price is far from its neighbours', by their own measure


@dataclass(frozen=True, slots=True)
class Finding:
    """One flaw of the row at ``index`` of the batch; ``detail`` says what was wanted and what was found."""

    index: int
    open_ms: int
    flaw: Flaw
    detail: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found in a batch: ``is_good`` row by row, one finding at least for each row that is not. ``zero_volume``
    counts rows without a trade, which are no flaw."""

    is_good: NDArray[np.bool_]
    findings: tuple[Finding, ...]
    zero_volume: int = 0


def inspect(
    candles: Candles, timeframe: Timeframe, calendar: Calendar, *, now_ms: int, before: Candles | None = None
) -> Inspection:
    """Look at a batch as it came, in its own order. ``now_ms`` is the venue's time; ``before`` are candles already stored, of
    times just before the batch, that jumps are measured by."""
    is_open = candles.open_ms + timeframe.seconds * 1000 > now_ms
    findings = tuple(
        Finding(
            int(at), int(candles.open_ms[at]), Flaw.STILL_OPEN, "wanted a closed candle, was one that is still open"
        )
        for at in np.flatnonzero(is_open)
    )
    return Inspection(~is_open, findings, int((candles.volume == 0).sum()))
