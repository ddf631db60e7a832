"""The loops of ``kernel.py``: compiled where numba is there and worth its start, else as they stand; beside them those of a
sweep."""

# As in ``kernel``.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"
from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass

from backtesting.engine.kernel import PARTS, smooth, walk


def crosses(fast, slow, kinds):
    """Into ``kinds``: enter long where ``fast`` comes to be above ``slow``, leave where it comes to be below."""
    if len(kinds) == 0:
        return
    kinds[0] = 0
    for i in range(1, len(kinds)):
        now, before = fast[i] - slow[i], fast[i - 1] - slow[i - 1]
        # False with NaN on either candle.
        kinds[i] = (now > 0 and before <= 0) * 1 + (now < 0 and before >= 0) * 2


def deepest(equity, first, start):
    """How far, as a fraction, ``equity`` fell at most below the highest that it was, ``start`` before the first."""
    peak, worst, bar = start, 0.0, start
    for i in range(first, len(equity)):
        if equity[i] > peak:
            peak = equity[i]
            bar = peak * (1 + worst)
        elif equity[i] < bar:
            worst, bar = equity[i] / peak - 1, equity[i]
    return worst


# In a cold process numba takes a second to be there: a plain loop has gone over so many candles by then.
WORTH_COMPILING = 2_000_000


@dataclass(frozen=True, slots=True)
class Loops:
    """The loops of this file, compiled or as they stand."""

    walk: Callable[..., tuple[int, int]]
    smooth: Callable[..., None]
    crosses: Callable[..., None]
    deepest: Callable[..., float]
    is_compiled: bool


PLAIN = Loops(walk, smooth, crosses, deepest, is_compiled=False)


@functools.cache
def compiled() -> Loops:
    """The loops compiled, from the cache on disk where they were before; as they stand where numba is not installed."""
    if importlib.util.find_spec("numba") is None:
        return PLAIN
    # Here, not at the top: it takes longer to import than most backtests take to run.
    numba, extending = importlib.import_module("numba"), importlib.import_module("numba.extending")
    # Without counting references to the callers' buffers: that took most of the time, and nothing is made that could leak.
    for part in PARTS:
        extending.register_jitable(_nrt=False)(part)
    jit = numba.njit(cache=True, nogil=True, _nrt=False)
    return Loops(jit(walk), jit(smooth), jit(crosses), jit(deepest), is_compiled=True)


def loops_for(candles: int) -> Loops:
    """What is quickest for so many candles: compiled where that is at hand already or worth its start."""
    return compiled() if "numba" in sys.modules or candles >= WORTH_COMPILING else PLAIN
