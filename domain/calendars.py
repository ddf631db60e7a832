"""When a market is open: which candles are to be expected, so that a missing one is told from a closed market.

Pure: times are epoch milliseconds UTC, of the open of a candle.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np

from domain.candles import IntArray, Timeframe


class Calendar(StrEnum):
    """Around the clock; the currencies' week; a stock exchange, by its market identifier code."""

    ALWAYS = "24/7"
    FX = "FX"
    XNYS = "XNYS"


def expected_opens(calendar: Calendar, timeframe: Timeframe, from_ms: int, until_ms: int) -> IntArray:
    """Open times of the candles that a complete history has from ``from_ms`` to before ``until_ms``, ascending."""
    step = timeframe.seconds * 1000
    return np.arange(-(-from_ms // step) * step, until_ms, step, dtype=np.int64)


def next_open(calendar: Calendar, timeframe: Timeframe, after_ms: int) -> int:
    """Open time of the first candle expected after the one that opened, or would have, at ``after_ms``."""
    step = timeframe.seconds * 1000
    return (after_ms // step + 1) * step
