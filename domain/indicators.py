"""Indicators over float arrays, with TA-Lib's conventions and seeding.

Every function returns an array as long as its input, NaN where the indicator is not yet defined, and the value at ``i``
depends on inputs up to ``i`` only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from domain.candles import FloatArray


def sma(values: FloatArray, period: int) -> FloatArray:
    """Simple moving average over ``period`` values; defined from index ``period - 1`` on."""
    _require_period(period)
    result = np.full(len(values), np.nan)
    if len(values) >= period:
        # Summing each window afresh, not by a running sum: the same window gives the same bits wherever history began.
        windows = np.lib.stride_tricks.sliding_window_view(values, period)
        result[period - 1 :] = windows.mean(axis=1)
    return result


def rsi(values: FloatArray, period: int) -> FloatArray:
    """Wilder's relative strength index, 0 to 100, seeded with the plain mean of the first ``period`` changes as TA-Lib
    does; defined from index ``period`` on. A market that does not move reads 0, as in TA-Lib."""
    _require_period(period)
    result = np.full(len(values), np.nan)
    if len(values) <= period:
        return result
    changes = np.diff(values)
    gains = np.where(changes > 0, changes, 0.0)
    losses = np.where(changes < 0, -changes, 0.0)
    gain, loss = float(gains[:period].mean()), float(losses[:period].mean())
    result[period] = _strength(gain, loss)
    for index in range(period, len(changes)):
        gain = (gain * (period - 1) + float(gains[index])) / period
        loss = (loss * (period - 1) + float(losses[index])) / period
        result[index + 1] = _strength(gain, loss)
    return result


def atr(high: FloatArray, low: FloatArray, close: FloatArray, period: int) -> FloatArray:
    """Wilder's average true range, in the unit of the prices. The first candle has no true range, as it has no close before
    it; seeded with the plain mean of the next ``period`` ones as TA-Lib does, and defined from index ``period`` on."""
    _require_period(period)
    result = np.full(len(close), np.nan)
    if len(close) <= period:
        return result
    before = close[:-1]
    ranges = np.maximum(high[1:], before) - np.minimum(low[1:], before)
    average = float(ranges[:period].mean())
    result[period] = average
    for index, one in enumerate(ranges[period:].tolist(), period + 1):
        average = (average * (period - 1) + one) / period
        result[index] = average
    return result


def crossed_above(fast: FloatArray, slow: FloatArray) -> NDArray[np.bool_]:
    """True where ``fast`` is above ``slow`` and was not on the candle before; False wherever either is undefined."""
    above = fast > slow
    defined = ~(np.isnan(fast) | np.isnan(slow))
    crossed = np.zeros(len(fast), dtype=np.bool_)
    crossed[1:] = above[1:] & ~above[:-1] & defined[1:] & defined[:-1]
    return crossed


def _strength(gain: float, loss: float) -> float:
    total = gain + loss
    return 100.0 * (gain / total) if total > 0 else 0.0  # in this order, or all gains could read a hair above 100


def _require_period(period: int) -> None:
    if period < 1:
        raise ValueError(f"wanted a period of at least 1, was {period}")
