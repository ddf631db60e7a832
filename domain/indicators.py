"""Indicators over float arrays, with TA-Lib's conventions and seeding. By name, with bounds: ``domain/catalogue.py``.

Every function returns arrays as long as its input, NaN where the indicator is not yet defined, and the value at ``i`` depends
on inputs up to ``i`` only. Sums over a window are made afresh for each, never running, and always in the same order: the same
window gives the same bits wherever history began.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from domain.candles import FloatArray, IntArray

DAY_MS = 86_400_000
# After so many time constants an average's seed weighs less than a part in a million.
_SETTLED = 14
# Windows worked on at once: a long history times a long window is never in memory as a whole.
_CHUNK = 4096

# Wilder's averages of values, from the one at the period on and given the one before, into the array.
Smoothing = Callable[[FloatArray, int, float, FloatArray], None]


def ema_settles(period: int) -> int:
    """After how many values an exponential average has forgotten, but for a part in a million, what it was seeded with."""
    return period + math.ceil(_SETTLED * (period + 1) / 2)


def wilder_settles(period: int) -> int:
    """As ``ema_settles``, for what Wilder averages (RSI, average true range): these look one value further back."""
    return period * (_SETTLED + 1) + 1


def sma(values: FloatArray, period: int) -> FloatArray:
    """Simple moving average over ``period`` values; defined from index ``period - 1`` on."""
    return _by_parts(values, period, np.add) / period


def wma(values: FloatArray, period: int) -> FloatArray:
    """Average weighted 1 to ``period``, the newest most; defined from index ``period - 1`` on."""
    weights = np.arange(1, period + 1, dtype=np.float64)
    return _by_window(values, period, lambda windows: (windows * weights).sum(axis=1) / weights.sum())


def stddev(values: FloatArray, period: int) -> FloatArray:
    """Standard deviation of the last ``period`` values as a whole population, as TA-Lib has it; from ``period - 1`` on."""
    _require_period(period)
    result = np.full(len(values), np.nan)
    for start in range(0, len(values) - period + 1, _CHUNK):
        squares = _squares(values[start : start + _CHUNK + period - 1], period)
        result[start + period - 1 : start + period - 1 + len(squares)] = np.sqrt(squares / period)
    return result


def ema(values: FloatArray, period: int) -> FloatArray:
    """Exponential average with weight 2 / (period + 1) on the newest, seeded with the plain mean of the first ``period``;
    defined from index ``period - 1`` on."""
    return _ema(values, period, period - 1)


def macd(values: FloatArray, fast: int, slow: int, signal: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Fast less slow exponential average, the average of that over ``signal``, and the one less the other; all defined from
    index ``slow + signal - 2`` on. Both averages begin at the same candle, as in TA-Lib: the fast one is not ``ema``'s."""
    _require_period(fast)
    _require_period(slow)
    _require_period(signal)
    if fast >= slow:
        raise ValueError(f"wanted fast below slow, was fast={fast} and slow={slow}")
    line = _ema(values, fast, slow - 1) - _ema(values, slow, slow - 1)
    average = np.full(len(values), np.nan)
    average[slow - 1 :] = ema(line[slow - 1 :], signal)
    line[: slow + signal - 2] = np.nan
    return line, average, line - average


def bollinger(values: FloatArray, period: int, width: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Upper band, average and lower band: ``width`` standard deviations around the plain average."""
    middle, reach = sma(values, period), width * stddev(values, period)
    return middle + reach, middle, middle - reach


def roc(values: FloatArray, period: int) -> FloatArray:
    """Change against ``period`` values ago, in percent; defined from index ``period`` on."""
    _require_period(period)
    result = np.full(len(values), np.nan)
    if len(values) > period:
        before = values[:-period]
        result[period:] = np.where(before != 0, values[period:] / np.where(before != 0, before, 1) - 1, 0) * 100
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
    for index, (up, down) in enumerate(zip(gains[period:].tolist(), losses[period:].tolist(), strict=True), period + 1):
        gain = (gain * (period - 1) + up) / period
        loss = (loss * (period - 1) + down) / period
        result[index] = _strength(gain, loss)
    return result


def atr(
    high: FloatArray, low: FloatArray, close: FloatArray, period: int, smooth: Smoothing | None = None
) -> FloatArray:
    """Wilder's average true range, in the unit of the prices. The first candle has no true range, as it has no close before
    it; seeded with the plain mean of the next ``period`` ones as TA-Lib does, and defined from index ``period`` on.
    ``smooth`` may be something quicker that takes the same steps."""
    _require_period(period)
    result = np.full(len(close), np.nan)
    if len(close) <= period:
        return result
    before = close[:-1]
    ranges = np.maximum(high[1:], before) - np.minimum(low[1:], before)
    average = float(ranges[:period].mean())
    result[period] = average
    if smooth is not None:
        smooth(ranges, period, average, result[1:])
        return result
    for index, one in enumerate(ranges[period:].tolist(), period + 1):
        average = (average * (period - 1) + one) / period
        result[index] = average
    return result


def stochastic(
    high: FloatArray, low: FloatArray, close: FloatArray, period: int, smooth: int, signal: int
) -> tuple[FloatArray, FloatArray]:
    """Where the close stands in the range of ``period`` candles, 0 to 100, averaged over ``smooth`` (the slow %K), and the
    average of that over ``signal`` (%D). A range of nothing reads 0. Both from ``period + smooth + signal - 3`` on."""
    upper, _, lower = donchian(high, low, period)
    reach = upper - lower
    defined = max(period - 1, 0)
    raw = np.where(reach[defined:] > 0, (close - lower)[defined:] / np.where(reach > 0, reach, 1)[defined:], 0) * 100
    slow = np.full(len(close), np.nan)
    slow[defined:] = sma(raw, smooth)
    average = np.full(len(close), np.nan)
    first = defined + smooth - 1
    average[first:] = sma(slow[first:], signal)
    slow[: first + signal - 1] = np.nan
    return slow, average


def donchian(high: FloatArray, low: FloatArray, period: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The highest high of the last ``period`` candles, this one included, the middle, and the lowest low."""
    upper, lower = _by_parts(high, period, np.maximum), _by_parts(low, period, np.minimum)
    return upper, (upper + lower) / 2, lower


def adx(high: FloatArray, low: FloatArray, close: FloatArray, period: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Wilder's average directional index and the two directional indicators (plus, minus), 0 to 100. The indicators are
    defined from index ``period`` on, the index from ``2 * period - 1`` on; seeded as TA-Lib does."""
    _require_period(period)
    index, plus, minus = (np.full(len(close), np.nan) for _ in range(3))
    up, down = np.diff(high), -np.diff(low)
    rises, falls = np.where((up > 0) & (up > down), up, 0.0), np.where((down > 0) & (down > up), down, 0.0)
    ranges = np.maximum(high[1:], close[:-1]) - np.minimum(low[1:], close[:-1])
    head = period - 1  # TA-Lib's sums begin with one value less than a period
    rise, fall, reach = float(rises[:head].sum()), float(falls[:head].sum()), float(ranges[:head].sum())
    strengths, average = 0.0, np.nan
    steps = zip(rises[head:].tolist(), falls[head:].tolist(), ranges[head:].tolist(), strict=True)
    for at, (one_rise, one_fall, one_range) in enumerate(steps, period):
        rise += one_rise - rise / period
        fall += one_fall - fall / period
        reach += one_range - reach / period
        plus[at], minus[at] = (100 * rise / reach, 100 * fall / reach) if reach > 0 else (0.0, 0.0)
        total = rise + fall
        strength = 100 * abs(rise - fall) / total if total > 0 and reach > 0 else None
        if at < 2 * period:
            strengths += strength or 0.0
            average = strengths / period
        elif strength is not None:
            average = (average * (period - 1) + strength) / period
        if at >= 2 * period - 1:
            index[at] = average
    return index, plus, minus


def cci(high: FloatArray, low: FloatArray, close: FloatArray, period: int) -> FloatArray:
    """Commodity channel index: how far the typical price is from its average, in units of 0.015 mean deviations; from
    ``period - 1`` on. A market that does not move reads 0."""
    return _by_window((high + low + close) / 3, period, _channel)


def mfi(high: FloatArray, low: FloatArray, close: FloatArray, volume: FloatArray, period: int) -> FloatArray:
    """Money flow index, 0 to 100: the share of what was traded at a risen typical price; from ``period`` on. Without any
    flow it reads 0. TA-Lib reads 0 below a flow of one unit already, which would depend on the unit of the prices."""
    _require_period(period)
    result = np.full(len(close), np.nan)
    if len(close) > period:
        typical = (high + low + close) / 3
        change, flow = np.diff(typical), (typical * volume)[1:]
        total = _by_parts(np.where(change != 0, flow, 0.0), period, np.add)
        risen = _by_parts(np.where(change > 0, flow, 0.0), period, np.add)
        share = np.where(total > 0, risen / np.where(total > 0, total, 1), 0) * 100
        result[period:] = np.minimum(share, 100.0)[period - 1 :]
    return result


def obv(close: FloatArray, volume: FloatArray) -> FloatArray:
    """On-balance volume: the first volume, and from then on volumes added on a risen close and taken off on a fallen one."""
    steps = volume.astype(np.float64, copy=True)
    steps[1:] *= np.sign(np.diff(close))
    return np.asarray(np.cumsum(steps), dtype=np.float64)


def vwap(
    open_ms: IntArray, high: FloatArray, low: FloatArray, close: FloatArray, volume: FloatArray, anchor_hour: int = 0
) -> FloatArray:
    """Average typical price weighted by volume since the day began, at ``anchor_hour`` UTC. Undefined until the first day
    that begins within the candles, for the beginning of an earlier one is not known, and while nothing was traded."""
    result = np.full(len(close), np.nan)
    days = (open_ms - anchor_hour * 3_600_000) // DAY_MS
    starts = np.flatnonzero(np.diff(days)) + 1
    if len(days) and open_ms[0] == days[0] * DAY_MS + anchor_hour * 3_600_000:
        starts = np.concatenate(([0], starts))
    money = (high + low + close) / 3 * volume
    for start, end in pairwise([*starts.tolist(), len(close)]):
        traded = np.cumsum(volume[start:end])
        result[start:end] = np.where(traded > 0, np.cumsum(money[start:end]) / np.where(traded > 0, traded, 1), np.nan)
    return result


def supertrend(
    high: FloatArray, low: FloatArray, close: FloatArray, period: int, factor: float
) -> tuple[FloatArray, FloatArray]:
    """A stop that trails the middle of the candles at ``factor`` average true ranges and changes sides when the close
    crosses it, and the direction: 1 below a rising market, -1 above a falling one. Defined from index ``period`` on."""
    line, direction = np.full(len(close), np.nan), np.full(len(close), np.nan)
    reach = factor * atr(high, low, close, period)
    middle = (high + low) / 2
    uppers, lowers = (middle + reach).tolist(), (middle - reach).tolist()
    closes = close.tolist()
    if len(closes) <= period:
        return line, direction
    upper, lower, trend = uppers[period], lowers[period], -1.0
    for at in range(period, len(closes)):
        before = closes[at - 1]
        upper = uppers[at] if uppers[at] < upper or before > upper else upper
        lower = lowers[at] if lowers[at] > lower or before < lower else lower
        if trend < 0 and closes[at] > upper:
            trend = 1.0
        elif trend > 0 and closes[at] < lower:
            trend = -1.0
        line[at], direction[at] = (lower if trend > 0 else upper), trend
    return line, direction


def crossed_above(fast: FloatArray, slow: FloatArray) -> NDArray[np.bool_]:
    """True where ``fast`` is above ``slow`` and was not on the candle before; False wherever either is undefined."""
    crossed = np.zeros(len(fast), dtype=np.bool_)
    # Neither holds of what is undefined.
    np.logical_and(fast[1:] > slow[1:], fast[:-1] <= slow[:-1], out=crossed[1:])
    return crossed


def _by_window(values: FloatArray, period: int, reduce: Callable[[FloatArray], FloatArray]) -> FloatArray:
    """``reduce`` of every window of ``period`` values, at the window's last index."""
    _require_period(period)
    result = np.full(len(values), np.nan)
    if len(values) >= period:
        windows = np.lib.stride_tricks.sliding_window_view(values, period)
        for start in range(0, len(windows), _CHUNK):
            end = min(start + _CHUNK, len(windows))
            result[start + period - 1 : end + period - 1] = reduce(windows[start:end])
    return result


def _by_parts(values: FloatArray, period: int, combine: np.ufunc) -> FloatArray:
    """All of every window of ``period`` values combined by ``combine``, at the window's last index: parts of twice the length
    are made of two before, and a window of the parts that its length is the sum of."""
    _require_period(period)
    result = np.full(len(values), np.nan)
    for start in range(0, len(values) - period + 1, _CHUNK):
        part = values[start : start + _CHUNK + period - 1]
        whole, covered, length = part, 0, 1
        while True:
            if period & length:
                whole = combine(whole[: len(part) - covered], part[covered:]) if covered else part
                covered += length
            if covered == period:
                break
            part, length = combine(part[:-length], part[length:]), length * 2
        result[start + period - 1 : start + period - 1 + len(whole)] = whole
    return result


def _squares(values: FloatArray, period: int) -> FloatArray:
    """The squared deviations from its mean, summed, of every window of ``period`` values: as in ``_by_parts``, two parts with
    their means and squares making one, which loses no digits to large prices (Chan, Golub and LeVeque, 1979)."""
    mean, squares, length = values, np.zeros(len(values)), 1
    whole_mean, whole, covered = mean, squares, 0
    while True:
        if period & length:
            if not covered:
                whole_mean, whole = mean, squares
            else:
                count = len(mean) - covered
                off = mean[covered:] - whole_mean[:count]
                share = length / (covered + length)
                whole = whole[:count] + squares[covered:] + off * off * (covered * share)
                whole_mean = whole_mean[:count] + off * share
            covered += length
        if covered == period:
            return whole
        off = mean[length:] - mean[:-length]
        squares = squares[:-length] + squares[length:] + off * off * (length / 2)
        mean, length = (mean[:-length] + mean[length:]) / 2, length * 2


def _ema(values: FloatArray, period: int, first: int) -> FloatArray:
    """The exponential average from index ``first`` on, seeded with the mean of the ``period`` values that end there."""
    _require_period(period)
    result = np.full(len(values), np.nan)
    if len(values) <= first:
        return result
    weight = 2 / (period + 1)
    average = float(values[first - period + 1 : first + 1].mean())
    result[first] = average
    for index, value in enumerate(values[first + 1 :].tolist(), first + 1):
        average += (value - average) * weight
        result[index] = average
    return result


def _channel(windows: FloatArray) -> FloatArray:
    mean = windows.mean(axis=1)
    deviation = np.abs(windows - mean[:, None]).mean(axis=1)
    off = windows[:, -1] - mean
    return np.where(deviation > 0, off / (0.015 * np.where(deviation > 0, deviation, 1)), 0.0)


def _strength(gain: float, loss: float) -> float:
    total = gain + loss
    return 100.0 * (gain / total) if total > 0 else 0.0  # in this order, or all gains could read a hair above 100


def _require_period(period: int) -> None:
    if period < 1:
        raise ValueError(f"wanted a period of at least 1, was {period}")
