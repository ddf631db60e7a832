"""One market with the common exits as one loop over plain numbers: compiled where numba is there, else as it stands.

The rules are those of ``domain/`` and are proven against them: tests drive this loop, the engine and a candle-by-candle
oracle with the same random candles and demand the same trades. What a decimal says exactly a float says within a hair: two
prices closer than ``HAIR`` of themselves are one price here, so that 101.5 less 2 % meets a low of 99.47.

Nothing is allocated in the loops: whoever calls owns the buffers. They let go of the interpreter's lock when compiled.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from domain.candles import Candles, FloatArray, IntArray
from domain.orders import Denial
from domain.strategy import SignalArray

HAIR = 1e-12
# Of how many steps of tick or lot a count may be off by rounding, in part and at least.
COUNT_HAIR, LEAST_HAIR = 1e-14, 1e-9

DENIALS = (
    None,
    Denial.SIDE_NOT_TRADABLE,
    Denial.INSUFFICIENT_BALANCE,
    Denial.BELOW_MIN_QUANTITY,
    Denial.BELOW_MIN_NOTIONAL,
)


class Terms(NamedTuple):
    """The figures of a run. Percentages of the plan are fractions here; 0 or less is no such exit, ``tick`` and ``lot`` of 0
    round nothing. ``stake`` is an amount where ``is_fixed``, else a fraction of equity."""

    cash: float
    is_fixed: bool
    stake: float
    maker_fee: float
    taker_fee: float
    worse: float
    half_spread: float
    margin: float
    can_short: bool
    tick: float
    lot: float
    min_quantity: float
    max_quantity: float
    min_notional: float
    contract: float
    stop: float
    has_signal_stop: bool
    has_signal_target: bool
    trailing: float
    trailing_from: float
    break_even: float
    break_even_offset: float
    max_hold_ms: float
    is_signal_used: bool
    is_closed_at_end: bool


# Columns of what is written of a trade; the reason is a place in ``backtesting.inputs.REASONS``.
SIDE, ENTRY_INDEX, EXIT_INDEX, ENTRY_PRICE, EXIT_PRICE, QUANTITY, PNL, FEES, REASON = range(9)
TRADE_COLUMNS = 9


# One loop: calls would cost more than what they do where it is not compiled. Takes lists or arrays, as are quicker to read.
def walk(  # type: ignore[no-untyped-def]  # noqa: C901
    terms, open_ms, open_, high, low, close, kinds, stops, targets, levels, roi, first, equity, trades, refused
):
    """Go over the candles from ``first`` on. ``levels`` are rows of (gain, sum of fractions so far) of the plan's targets,
    ``roi`` rows of (milliseconds, gain). Writes ``equity`` for each candle, and rows into ``trades`` and ``refused``; the
    answer is how many of each."""
    wallet = terms.cash
    count = denied = 0
    side = 0
    entry = quantity = entered = exited = entry_value = exit_value = fees = 0.0
    best = stop = target = signal_stop = signal_target = 0.0
    entry_index = done = step = stop_reason = target_reason = 0
    is_stale = False
    roi_step = -1
    last = len(open_) - 1
    for i in range(first, last + 1):
        said = kinds[i - 1] if i > 0 else 0
        if side == 0 and said != 1 and said != -1:
            equity[i] = wallet
            continue
        price_open = open_[i]
        is_time_up = False
        if side != 0:
            held = open_ms[i] - open_ms[entry_index]
            is_time_up = 0 < terms.max_hold_ms <= held
            while roi_step + 1 < len(roi) and roi[roi_step + 1][0] <= held:
                roi_step += 1
                is_stale = True
        is_inside = False
        while True:
            if is_stale and side != 0:
                is_stale = False
                stop = target = 0.0
                stop_reason = target_reason = step = 0
                best_now = best if (best - entry) * side > 0 else entry
                if terms.stop > 0:
                    stop, stop_reason = entry * (1 - side * terms.stop), 1
                # NaN is above nothing.
                if terms.has_signal_stop and signal_stop > 0 and (stop_reason == 0 or (signal_stop - stop) * side > 0):
                    stop, stop_reason = signal_stop, 1
                if terms.break_even > 0:
                    armed = entry * (1 + side * terms.break_even)
                    if (best_now - armed) * side >= -HAIR * armed:
                        level = entry * (1 + side * terms.break_even_offset)
                        if stop_reason == 0 or (level - stop) * side > HAIR * stop:
                            stop, stop_reason = level, 2
                if terms.trailing > 0:
                    armed = entry * (1 + side * terms.trailing_from)
                    if (best_now - armed) * side >= -HAIR * armed:
                        level = best_now * (1 - side * terms.trailing)
                        if stop_reason == 0 or (level - stop) * side > HAIR * stop:
                            stop, stop_reason = level, 3
                if done < len(levels):
                    level = entry * (1 + side * levels[done][0])
                    if level > 0:
                        target, target_reason = level, 4
                        step = done + 1 if done + 1 < len(levels) else 0
                if terms.has_signal_target and signal_target > 0:
                    nearer = (target - signal_target) * side
                    if target_reason == 0 or nearer > HAIR * target or (nearer >= -HAIR * target and step > 0):
                        target, target_reason, step = signal_target, 4, 0
                if roi_step >= 0:
                    level = entry * (1 + side * roi[roi_step][1])
                    nearer = (target - level) * side
                    if level > 0 and (
                        target_reason == 0 or nearer > HAIR * target or (nearer >= -HAIR * target and step > 0)
                    ):
                        target, target_reason, step = level, 5, 0
                if target_reason != 0 and terms.tick > 0:
                    ticks = target / terms.tick
                    hair = COUNT_HAIR * ticks + LEAST_HAIR
                    target = (math.ceil(ticks - hair) if side > 0 else math.floor(ticks + hair)) * terms.tick
                    if target <= 0:
                        target_reason = 0
            reason = part = 0
            price = 0.0
            is_limit = False
            if not is_inside:
                if side != 0:
                    if stop_reason != 0 and (price_open - stop) * side <= HAIR * stop:
                        reason, price = stop_reason, price_open
                    elif target_reason != 0 and (price_open - target) * side >= -HAIR * target:
                        reason, price, part, is_limit = target_reason, price_open, step, True
                    elif is_time_up:
                        reason, price = 6, price_open
                    elif terms.is_signal_used and (said == 2 * side or said == -side):
                        reason, price = 7, price_open
                if reason == 0:
                    is_inside = True
                    if side == 0 and (said == 1 or said == -1):
                        wanted = terms.stake if terms.is_fixed else wallet * terms.stake
                        affordable = wallet / (1 + terms.margin)
                        capped = min(wanted, affordable)
                        seen = price_open * (1 + said * terms.half_spread)
                        quantity = min(max(capped, 0.0) / (seen * terms.contract), terms.max_quantity)
                        if terms.lot > 0:
                            lots = quantity / terms.lot
                            quantity = math.floor(lots + COUNT_HAIR * lots + LEAST_HAIR) * terms.lot
                        denial = 0
                        if said < 0 and not terms.can_short:
                            denial = 1
                        elif quantity <= 0 or quantity < terms.min_quantity * (1 - HAIR):
                            denial = 2 if affordable < wanted else 3
                        elif quantity * terms.contract * seen < terms.min_notional * (1 - HAIR):
                            denial = 2 if affordable < wanted else 4
                        if denial != 0:
                            refused[denied][0], refused[denied][1], refused[denied][2] = i, said, denial
                            denied += 1
                            quantity = 0.0
                            break
                        side = 1 if said > 0 else -1
                        entry = price_open * (1 + side * terms.worse)
                        if terms.tick > 0:
                            ticks = entry / terms.tick
                            hair = COUNT_HAIR * ticks + LEAST_HAIR
                            entry = (math.ceil(ticks - hair) if side > 0 else math.floor(ticks + hair)) * terms.tick
                        entered, exited, entry_value, exit_value = quantity, 0.0, quantity * entry, 0.0
                        fees = entry_value * terms.contract * terms.taker_fee
                        wallet -= fees
                        best, done, entry_index, is_stale, is_time_up = entry, 0, i, True, False
                        signal_stop, signal_target = stops[i - 1], targets[i - 1]
                        roi_step = -1
                        while roi_step + 1 < len(roi) and roi[roi_step + 1][0] <= 0:
                            roi_step += 1
                    continue
            elif side == 0:
                break
            elif stop_reason != 0 and ((low[i] if side > 0 else high[i]) - stop) * side <= HAIR * stop:
                reason = stop_reason
                price = min(stop, price_open) if side > 0 else max(stop, price_open)
            elif target_reason != 0 and ((high[i] if side > 0 else low[i]) - target) * side >= -HAIR * target:
                reason, part, is_limit = target_reason, step, True
                price = max(target, price_open) if side > 0 else min(target, price_open)
            else:
                break
            if not is_limit:
                price = price * (1 - side * terms.worse)
                if terms.tick > 0:
                    ticks = price / terms.tick
                    hair = COUNT_HAIR * ticks + LEAST_HAIR
                    price = (math.floor(ticks + hair) if side > 0 else math.ceil(ticks - hair)) * terms.tick
            leaving = quantity
            if part > 0:
                done, is_stale = part, True
                leaving = min(entered * min(levels[part - 1][1], 1.0) - exited, quantity, terms.max_quantity)
                rest = quantity - leaving
                if terms.lot > 0:
                    lots = leaving / terms.lot
                    leaving = math.floor(lots + COUNT_HAIR * abs(lots) + LEAST_HAIR) * terms.lot
                    lots = (quantity - leaving) / terms.lot
                    rest = math.floor(lots + COUNT_HAIR * abs(lots) + LEAST_HAIR) * terms.lot
                if (
                    leaving <= 0
                    or leaving < terms.min_quantity * (1 - HAIR)
                    or leaving * terms.contract * price < terms.min_notional * (1 - HAIR)
                ):
                    continue  # too small to be sold: the next level sells it too
                if (
                    rest <= HAIR * quantity
                    or rest < terms.min_quantity * (1 - HAIR)
                    or rest * terms.contract * price < terms.min_notional * (1 - HAIR)
                ):
                    leaving = quantity
            fee = leaving * price * terms.contract * (terms.maker_fee if is_limit else terms.taker_fee)
            wallet += (price - entry) * leaving * terms.contract * side - fee
            fees += fee
            exit_value += price * leaving
            exited += leaving
            quantity -= leaving
            if part > 0 and quantity > HAIR * entered:
                continue
            row = trades[count]
            row[0], row[1], row[2], row[3], row[4] = side, entry_index, i, entry, exit_value / exited
            row[5], row[6] = entered, (exit_value - entry_value) * terms.contract * side - fees
            row[7], row[8] = fees, reason
            count += 1
            side = 0
            quantity = 0.0
        if side == 0:
            equity[i] = wallet
            continue
        if i > entry_index:
            extreme = high[i] if side > 0 else low[i]
            if (extreme - best) * side > 0:
                best = extreme
                is_stale = is_stale or terms.trailing > 0 or terms.break_even > 0
        equity[i] = wallet + (close[i] - entry) * quantity * terms.contract * side
    if side != 0:
        price, reason, fee = close[last], 0, 0.0
        if terms.is_closed_at_end:
            reason = 8
            price = price * (1 - side * terms.worse)
            if terms.tick > 0:
                ticks = price / terms.tick
                hair = COUNT_HAIR * ticks + LEAST_HAIR
                price = (math.floor(ticks + hair) if side > 0 else math.ceil(ticks - hair)) * terms.tick
            fee = quantity * price * terms.contract * terms.taker_fee
            equity[last] = wallet + (price - entry) * quantity * terms.contract * side - fee
        fees += fee
        exit_value += price * quantity
        row = trades[count]
        row[0], row[1], row[2], row[3], row[4] = side, entry_index, last, entry, exit_value / entered
        row[5], row[6] = entered, (exit_value - entry_value) * terms.contract * side - fees
        row[7], row[8] = fees, reason
        count += 1
    return count, denied


def averages(values, period, out):  # type: ignore[no-untyped-def]  # lists or arrays, as ``walk``
    """The plain mean of every window of at most ``BLOCK`` values into ``out``, NaN before the first: summed in the order that
    numpy sums a window, so that the bits are those of ``domain.indicators.sma``."""
    size = len(values)
    for i in range(min(period - 1, size)):
        out[i] = math.nan
    for end in range(period - 1, size):
        start = end - period + 1
        if period < 8:
            total = 0.0
            for k in range(start, end + 1):
                total += values[k]
        else:
            a, b, c, d = values[start], values[start + 1], values[start + 2], values[start + 3]
            e, f, g, h = values[start + 4], values[start + 5], values[start + 6], values[start + 7]
            k = start + 8
            while k + 8 <= end + 1:
                a += values[k]
                b += values[k + 1]
                c += values[k + 2]
                d += values[k + 3]
                e += values[k + 4]
                f += values[k + 5]
                g += values[k + 6]
                h += values[k + 7]
                k += 8
            total = ((a + b) + (c + d)) + ((e + f) + (g + h))
            while k <= end:
                total += values[k]
                k += 1
        out[end] = total / period


def crosses(fast, slow, kinds):  # type: ignore[no-untyped-def]  # lists or arrays, as ``walk``
    """Into ``kinds``: enter long where ``fast`` comes to be above ``slow``, leave where it comes to be below."""
    if len(kinds) == 0:
        return
    kinds[0] = 0
    for i in range(1, len(kinds)):
        now, before = fast[i] - slow[i], fast[i - 1] - slow[i - 1]
        # False with NaN on either candle.
        kinds[i] = (now > 0 and before <= 0) * 1 + (now < 0 and before >= 0) * 2


def deepest(equity, first, start):  # type: ignore[no-untyped-def]  # lists or arrays, as ``walk``
    """How far, as a fraction, ``equity`` fell at most below the highest that it was, ``start`` before the first."""
    peak, worst = start, 0.0
    for i in range(first, len(equity)):
        peak = max(peak, equity[i])
        worst = min(worst, equity[i] / peak - 1)
    return worst


# The longest window that numpy sums in one go.
BLOCK = 128
# In a cold process numba takes a second to be there: a plain loop has gone over so many candles by then.
WORTH_COMPILING = 2_000_000


@dataclass(frozen=True, slots=True)
class Loops:
    """The loops of this file, compiled or as they stand."""

    walk: Callable[..., tuple[int, int]]
    averages: Callable[..., None]
    crosses: Callable[..., None]
    deepest: Callable[..., float]
    is_compiled: bool


PLAIN = Loops(walk, averages, crosses, deepest, is_compiled=False)


@functools.cache
def compiled() -> Loops:
    """The loops compiled, from the cache on disk where they were before; as they stand where numba is not installed."""
    if importlib.util.find_spec("numba") is None:
        return PLAIN
    # Here, not at the top: it takes longer to import than most backtests take to run.
    jit = importlib.import_module("numba").njit(cache=True, nogil=True)
    return Loops(jit(walk), jit(averages), jit(crosses), jit(deepest), is_compiled=True)


def loops_for(candles: int) -> Loops:
    """What is quickest for so many candles: compiled where that is at hand already or worth its start."""
    return compiled() if "numba" in sys.modules or candles >= WORTH_COMPILING else PLAIN


@dataclass(frozen=True, slots=True, eq=False)
class Walked:
    """What ``walk`` wrote: a row for each trade (columns named above) and for each entry refused (index, side, denial)."""

    trades: FloatArray
    refused: IntArray
    equity: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """What is walked: the candles, what was said along them, and what an entry signal named as its stop and target."""

    candles: Candles
    kinds: SignalArray
    stops: FloatArray
    targets: FloatArray
    levels: Sequence[tuple[float, float]]
    roi: Sequence[tuple[float, float]]
    first: int


def run(terms: Terms, course: Course, loops: Loops | None = None) -> Walked:
    """Walk one course."""
    chosen = loops or loops_for(len(course.candles))
    rows = int(np.count_nonzero(np.abs(course.kinds) == 1)) + 1
    columns: list[NDArray[Any]] = [
        course.candles.open_ms,
        course.candles.open,
        course.candles.high,
        course.candles.low,
        course.candles.close,
    ]
    columns += [course.kinds, course.stops, course.targets]
    size = len(course.candles)
    if chosen.is_compiled:
        equity, trades, refused = np.empty(size), np.empty((rows, TRADE_COLUMNS)), np.empty((rows, 3), np.int64)
        steps = np.array(course.levels, np.float64).reshape(-1, 2), np.array(course.roi, np.float64).reshape(-1, 2)
        count, denied = chosen.walk(terms, *columns, *steps, course.first, equity, trades, refused)
        return Walked(trades[:count], refused[:denied], equity)
    # Plain Python reads a list several times quicker than an array.
    worth = [0.0] * size
    made, no = [[0.0] * TRADE_COLUMNS for _ in range(rows)], [[0, 0, 0] for _ in range(rows)]
    lists = (column.tolist() for column in columns)
    count, denied = chosen.walk(terms, *lists, course.levels, course.roi, course.first, worth, made, no)
    return Walked(
        np.array(made[:count], np.float64).reshape(-1, TRADE_COLUMNS),
        np.array(no[:denied], np.int64).reshape(-1, 3),
        np.array(worth),
    )
