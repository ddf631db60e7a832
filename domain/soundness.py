"""Whether a strategy may be trusted: what it says fits the candles, never changes afterwards, and needs no more history than
its warm-up.

Each check returns the first fault that it finds, with the array, the candle, what was wanted and what was found. Signals must
be the same to the bit. So that averages which never forget their seed pass too, what they say beside (confidence, stops,
targets) may differ by a millionth: a strategy's warm-up is chosen so that no more than this is left of a seed
(``ema_settles``, ``wilder_settles``), and a signal can then differ only where two lines touch to a millionth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from domain.advice import Advice, Entered, PositionView
from domain.candles import Candles, FloatArray
from domain.informative import Others, nothing_beside
from domain.market import ONE, PositionSide, to_decimal
from domain.strategy import SignalArrays, Strategy

TOLERANCE = 1e-6
# For how many candles a made-up position is held.
HELD = 8
WORDS = ("confidence", "stops", "targets")


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one array that a strategy returned; ``index`` is the candle's, None where it is no single one."""

    array: str
    index: int | None
    wanted: str
    found: str

    def __str__(self) -> str:
        where = self.array if self.index is None else f"{self.array} at candle {self.index}"
        return f"{where}: wanted {self.wanted}, was {self.found}"


def malformed(strategy: Strategy[Any], candles: Candles, said: Any) -> Fault | None:
    """What does not fit about what ``strategy`` said of ``candles``: a shape, a type, a value that is no signal, a price that
    is none or on the wrong side of the close, or none where its exit plan is going to use one."""
    if not isinstance(said, SignalArrays):
        return Fault("signals", None, "SignalArrays", type(said).__name__)
    fault = _misshapen(said, len(candles)) or _no_signals("entries", said.entries) or _no_signals("exits", said.exits)
    if fault is not None:
        return fault
    enters = said.entries != 0
    if said.confidence is not None:
        beyond = enters & ((said.confidence < 0) | (said.confidence > 1))
        if beyond.any():
            return _first("confidence", beyond, "0 to 1, or NaN for no word", said.confidence)
    enters[: max(strategy.warm_up - 1, 0)] = False
    return _bad_prices(strategy, candles, said, enters)


def looks_ahead(
    strategy: Strategy[Any],
    candles: Candles,
    others: Others | None = None,
    checks: int = 20,
    cuts: Sequence[int] | None = None,
) -> Fault | None:
    """Where a signal changes when the candles after it, and all else that came later, are cut off.

    A strategy that sees the future makes money only in backtests. ``checks`` cuts are spread over the history; ``cuts`` say
    instead how many candles are left each time.
    """
    beside = others or nothing_beside(candles)
    whole = strategy.signals_with(candles, beside)
    first = min(strategy.warm_up, len(candles))
    lengths = np.linspace(first, len(candles), checks) if cuts is None else cuts
    for length in sorted({int(cut) for cut in lengths if cut >= 1}):
        seen = candles.upto(length)
        part = strategy.signals_with(seen, beside.upto(seen))
        fault = _misshapen(part, length) or _difference(part, whole.between(0, length), tolerance=0.0)
        if fault is not None:
            return fault
    return None


def looks_ahead_at(
    strategy: Strategy[Any], candles: Candles, others: Others | None = None, checks: int = 20
) -> int | None:
    """The index of the candle that ``looks_ahead`` finds, or None."""
    return _index_of(looks_ahead(strategy, candles, others, checks))


def depends_on_older(
    strategy: Strategy[Any], candles: Candles, others: Others | None = None, checks: int = 5
) -> Fault | None:
    """Where, its warm-up over, a signal changes when candles before that warm-up are cut off.

    Live it is shown the newest candles, in a backtest all of them: a strategy that remembers more than it declares says one
    thing here and another there. ``checks`` cuts are spread over the history, which has to be longer than the warm-up; and
    four times as many signals are asked for again with no more than their warm-up, for most candles have none to lose.
    """
    beside, memory = others or nothing_beside(candles), max(strategy.warm_up, 1)
    if len(candles) <= memory:
        return None
    whole = strategy.signals_with(candles, beside)
    spans = [(int(start), len(candles)) for start in np.linspace(1, len(candles) - memory, checks)]
    speaks = memory + np.flatnonzero((whole.entries != 0)[memory:] | (whole.exits != 0)[memory:])
    if len(speaks):
        some = speaks[np.unique(np.linspace(0, len(speaks) - 1, 4 * checks).astype(np.int64))]
        spans += [(int(at) + 1 - memory, int(at) + 1) for at in some]
    for start, end in spans:
        known = candles.between(start, end)
        part = strategy.signals_with(known, beside.remembering(known))
        first = start + memory - 1  # the last candle of the warm-up is the first that can be trusted
        fault = _misshapen(part, len(known)) or _difference(
            part.between(memory - 1, len(known)), whole.between(first, end), TOLERANCE, first
        )
        if fault is not None:
            return fault
    return None


def depends_on_older_at(
    strategy: Strategy[Any], candles: Candles, others: Others | None = None, checks: int = 5
) -> int | None:
    """The index of the candle that ``depends_on_older`` finds, or None."""
    return _index_of(depends_on_older(strategy, candles, others, checks))


def advises_otherwise(
    strategy: Strategy[Any], candles: Candles, others: Others | None = None, checks: int = 20
) -> Fault | None:
    """Where what it advises about a made-up position changes when the candles after it, or those before its warm-up, are cut
    off; as ``looks_ahead`` and ``depends_on_older`` do for signals. Nowhere where it has no word beside these."""
    memory = max(strategy.warm_up, 1)
    if not strategy.callbacks or len(candles) < memory + HELD:
        return None
    beside = others or nothing_beside(candles)
    whole = strategy.adviser(candles, beside)
    for length in sorted({int(cut) for cut in np.linspace(memory + HELD, len(candles), checks)}):
        for start in (0, length - memory):
            known = candles.between(start, length)
            seen = beside.upto(known) if not start else beside.remembering(known)
            part = strategy.adviser(known, seen)
            for side in PositionSide:
                said, later = (
                    adviser.while_held(_made_up(candles, length - 1, index, side, beside))
                    for adviser, index in ((part, length - 1 - start), (whole, length - 1))
                )
                if not _is_like(said, later):
                    return Fault("advice", length - 1, f"{later} as with all candles", f"{said} with a part of them")
    return None


def _made_up(candles: Candles, last: int, index: int, side: PositionSide, others: Others) -> PositionView:
    """A position that was entered some candles before the one at ``last``, which its adviser knows as ``index``."""
    entry, price = (to_decimal(float(candles.close[at])) for at in (last - HELD, last))
    opened, closed = (int(candles.open_ms[at]) + others.timeframe.seconds * 1000 for at in (last - HELD, last))
    opened_at, closed_at = (datetime.fromtimestamp(ms / 1000, tz=UTC) for ms in (opened, closed))
    best = max(entry, price, key=lambda one: one * side.sign)
    bought = Entered(opened_at, entry, ONE, is_entry=True)
    return PositionView(others.symbol, side, index, closed_at, opened_at, price, entry, ONE, best, orders=[bought])


def _is_like(one: Advice, other: Advice) -> bool:
    if one.leave != other.leave:
        return False
    for mine, theirs in ((one.stop, other.stop), (one.target, other.target), (one.add, other.add)):
        if (mine is None) is not (theirs is None):
            return False
        if (
            mine is not None
            and theirs is not None
            and not np.isclose(float(mine), float(theirs), rtol=TOLERANCE, atol=0)
        ):
            return False
    return True


def _index_of(fault: Fault | None) -> int | None:
    return None if fault is None else (fault.index or 0)


def _misshapen(said: SignalArrays, length: int) -> Fault | None:
    for name in ("entries", "exits", *WORDS):
        array, wanted = getattr(said, name), np.float64 if name in WORDS else np.int8
        if array is None and name in WORDS:
            continue
        if not isinstance(array, np.ndarray):
            return Fault(name, None, "a numpy array", type(array).__name__)
        if array.shape != (length,):
            return Fault(name, None, f"one value for each of {length} candles", f"an array of shape {array.shape}")
        if array.dtype != wanted:
            return Fault(name, None, f"values of type {np.dtype(wanted)}", str(array.dtype))
    return None


def _no_signals(name: str, array: NDArray[Any]) -> Fault | None:
    beyond = np.abs(array.astype(np.int16)) > 1
    return _first(name, beyond, "-1, 0 or 1", array) if beyond.any() else None


def _bad_prices(
    strategy: Strategy[Any], candles: Candles, said: SignalArrays, enters: NDArray[np.bool_]
) -> Fault | None:
    plan = strategy.exit_plan
    for name, prices, side, is_used in (
        ("stops", said.stops, -1, plan.is_stop_from_signal),
        ("targets", said.targets, 1, plan.is_target_from_signal),
    ):
        if prices is None:
            if is_used:
                return Fault(name, None, "prices, for its exit plan uses them", "none")
            continue
        infinite = enters & (np.isinf(prices) | (prices <= 0))
        if infinite.any():
            return _first(name, infinite, "a price above 0, or NaN for no word", prices)
        missing = enters & np.isnan(prices)
        if is_used and missing.any():
            return _first(name, missing, "a price at every entry, for its exit plan uses it", prices)
        crossed = enters & ((prices - candles.close) * said.entries * side <= 0)
        if crossed.any():
            index = int(np.argmax(crossed))
            below = "below" if side * int(said.entries[index]) < 0 else "above"
            return _first(name, crossed, f"a price {below} the close of {candles.close[index]}", prices)
    return None


def _difference(part: SignalArrays, whole: SignalArrays, tolerance: float, offset: int = 0) -> Fault | None:
    """Where ``part`` says something else than ``whole`` of the same candles, the first of which is at ``offset``."""
    faults = []
    for name in ("entries", "exits"):
        known, later = getattr(part, name), getattr(whole, name)
        faults.append(_unlike(name, known != later, known, later, offset))
    enters = whole.entries != 0
    for name in WORDS:
        known, later = (_or_no_word(getattr(one, name), len(enters)) for one in (part, whole))
        differs = ~np.isclose(known, later, rtol=tolerance, atol=0, equal_nan=True)
        faults.append(_unlike(name, enters & differs, known, later, offset))
    found = [one for one in faults if one is not None]
    return min(found, key=lambda one: one.index or 0) if found else None


def _unlike(
    name: str, differs: NDArray[np.bool_], known: NDArray[Any], later: NDArray[Any], offset: int
) -> Fault | None:
    if not differs.any():
        return None
    at = int(np.argmax(differs))
    return Fault(name, offset + at, f"{later[at]} as with all history", f"{known[at]} with a part of it")


def _or_no_word(array: FloatArray | None, length: int) -> FloatArray:
    return np.full(length, np.nan) if array is None else array


def _first(name: str, bad: NDArray[np.bool_], wanted: str, array: NDArray[Any]) -> Fault:
    index = int(np.argmax(bad))
    return Fault(name, index, wanted, str(array[index]))
