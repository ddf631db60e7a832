"""What is wrong with a batch of candles, and what is missing between them: each flaw found has a name, a place and words.
Nothing is dropped here.

Pure: the caller keeps what is good, quarantines the rest, and says which was which.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from math import exp, log

import numpy as np
from numpy.typing import NDArray

from domain.calendars import Calendar, expected_opens, is_expected
from domain.candles import Candles, FloatArray, IntArray, Timeframe

BoolArray = NDArray[np.bool_]

# A jump is measured in the market's own unit: the median absolute deviation of its last log returns, scaled to what is the
# standard deviation of a normal walk. Returns have fat tails: the worst hour of March 2020 is some 50 of them.
JUMP_WINDOW = 200
JUMP_RETURNS = 20  # fewer are no measure
JUMP_DEVIATIONS = 100
# Never less than this, as a market that hardly moves has a tiny unit; and whatever the unit, five times as much or a fifth is
# a misplaced decimal and no move. The latter alone judges a market that has not moved at all, or that is hardly known.
JUMP_AT_LEAST = log(1.3)
JUMP_AT_MOST = log(5)
# A move that stays is a move: so many candles after it, where they are known, speak for it by the middle one of their closes.
JUMP_AFTER = 5
JUMP_AFTER_FIRST = 3  # so many at least for the first row of all, which nothing but these can speak for


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

    is_good: BoolArray
    findings: tuple[Finding, ...]
    zero_volume: int = 0


@dataclass(frozen=True, slots=True)
class Gap:
    """Candles that are expected and not there: ``missing`` of them from ``from_ms`` to before ``until_ms``."""

    from_ms: int
    until_ms: int
    missing: int

    @property
    def from_at(self) -> datetime:
        return datetime.fromtimestamp(self.from_ms / 1000, tz=UTC)

    @property
    def until_at(self) -> datetime:
        return datetime.fromtimestamp(self.until_ms / 1000, tz=UTC)


def inspect(
    candles: Candles, timeframe: Timeframe, calendar: Calendar, *, now_ms: int, before: Candles | None = None
) -> Inspection:
    """Look at a batch as it came, in its own order. ``now_ms`` is the venue's time; ``before`` are candles already stored, of
    times just before the batch, that jumps are measured by.

    Of rows of one time that say the same, the first is good. Of rows of one time that differ none is: nothing tells which of
    them is right, and to ask again costs less than to decide on a wrong price. A row out of order is one that comes after a
    later one; that one is fine. A row that is still open, off the grid or no price is looked at no further.
    """
    opens, volume = candles.open_ms, candles.volume
    prices = (candles.open, candles.high, candles.low, candles.close)
    step = timeframe.seconds * 1000
    found: list[Finding] = []

    def note(flaw: Flaw, rows: BoolArray, wanted: str, was: str) -> None:
        if not rows.any():
            return
        for at in np.flatnonzero(rows).tolist():
            words = was.format(*(price[at] for price in prices), volume[at], at=opens[at])
            found.append(Finding(at, int(opens[at]), flaw, f"wanted {wanted}, was {words}"))

    is_open = opens > now_ms - step
    note(Flaw.STILL_OPEN, is_open, "a closed candle", "one that is still open")
    is_price = np.isfinite(volume) & (volume >= 0)
    for price in prices:
        is_price &= np.isfinite(price) & (price > 0)
    note(Flaw.NOT_A_PRICE, ~is_open & ~is_price, "four prices and a volume", "{} {} {} {} and {}")
    is_off_grid = ~is_open & (opens % step != 0)
    note(Flaw.OFF_GRID, is_off_grid, f"a time of {timeframe.value} candles", "{at} ms, between two of them")
    is_known = ~is_open & is_price & ~is_off_grid

    is_bad = is_known & (
        (candles.high < np.maximum(candles.open, candles.close))
        | (candles.low > np.minimum(candles.open, candles.close))
    )
    note(Flaw.BAD_OHLC, is_bad, "the high highest and the low lowest", "open {}, high {}, low {}, close {}")
    latest = np.maximum.accumulate(np.where(is_known, opens, np.iinfo(np.int64).min)) if len(opens) else opens
    is_late = is_known & (opens < latest)
    note(Flaw.OUT_OF_ORDER, is_late, "the oldest first", "after a later one")
    is_outside = is_known & ~is_expected(calendar, timeframe, opens)
    note(Flaw.OUT_OF_SESSION, is_outside, f"a time at which {calendar.value} is open", "one at which it is closed")
    twice = _duplicates(candles, np.flatnonzero(is_known & ~is_bad))
    found += twice

    is_good = is_known & ~is_bad & ~is_late & ~is_outside
    is_good[[finding.index for finding in twice]] = False
    jumps = _jumps(candles, np.flatnonzero(is_good), step, before)
    found += jumps
    is_good[[finding.index for finding in jumps]] = False
    found.sort(key=lambda finding: finding.index)
    return Inspection(is_good, tuple(found), int(np.count_nonzero(volume == 0)))


def gaps(open_ms: IntArray, timeframe: Timeframe, calendar: Calendar, from_ms: int, until_ms: int) -> list[Gap]:
    """What is missing of the candles that open from ``from_ms`` to before ``until_ms``, of which ``open_ms`` (ascending) are
    there. Missing candles with none between them that is there are one gap, over a weekend too; it ends where the next one
    opens that is there, or at ``until_ms``."""
    there = open_ms[np.searchsorted(open_ms, from_ms) : np.searchsorted(open_ms, until_ms)]
    step = timeframe.seconds * 1000
    there = there[there % step == 0]  # what is off the grid is none of those expected, and would hide one beside it
    # From each candle, or border, to the next: only what is longer than a step can hold a gap.
    starts, ends = np.append(from_ms - 1, there), np.append(there, until_ms)
    wide = np.flatnonzero(ends - starts > step)
    expected = expected_opens(calendar, timeframe, from_ms, until_ms)
    lower = np.searchsorted(expected, starts[wide], side="right")
    upper = np.searchsorted(expected, ends[wide])
    return [
        Gap(int(expected[first]), int(ends[at]), int(last - first))
        for at, first, last in zip(wide.tolist(), lower.tolist(), upper.tolist(), strict=True)
        if last > first
    ]


def _duplicates(candles: Candles, rows: NDArray[np.intp]) -> list[Finding]:
    if len(rows) < 2:
        return []
    rows = rows[np.argsort(candles.open_ms[rows], kind="stable")]
    opens = candles.open_ms[rows]
    found = []
    for open_ms in np.unique(opens[1:][np.diff(opens) == 0]).tolist():
        lower, upper = np.searchsorted(opens, (open_ms, open_ms + 1))
        same = rows[lower:upper].tolist()
        told = {at: _row(candles, at) for at in same}
        if len(set(told.values())) == 1:
            found += [
                Finding(at, open_ms, Flaw.DUPLICATE, "wanted one row of its time, was the same again")
                for at in same[1:]
            ]
        else:
            for at in same:
                other = next(row for row in told.values() if row != told[at])
                words = " ".join(f"{value:.12g}" for value in other)
                found.append(
                    Finding(at, open_ms, Flaw.DUPLICATE, f"wanted one row of its time, was another too: {words}")
                )
    return found


def _row(candles: Candles, at: int) -> tuple[float, ...]:
    return tuple(
        float(column[at]) for column in (candles.open, candles.high, candles.low, candles.close, candles.volume)
    )


def _jumps(candles: Candles, rows: NDArray[np.intp], step: int, before: Candles | None) -> list[Finding]:
    """Those of ``rows`` whose prices reach farther from the last good close than the market ever moves, and do not stay."""
    rows = rows[np.argsort(candles.open_ms[rows], kind="stable")]
    if not len(rows):
        return []
    earlier = 0 if before is None else int(np.searchsorted(before.open_ms, candles.open_ms[rows[0]]))
    earlier_from = max(0, earlier - JUMP_WINDOW - 1)

    def column(name: str) -> FloatArray:
        given: FloatArray = getattr(candles, name)[rows]
        return given if before is None else np.append(getattr(before, name)[earlier_from:earlier], given)

    opens, high, low, close = (column(name) for name in ("open_ms", "high", "low", "close"))
    first = len(close) - len(rows)  # of the batch
    begins = max(first, 1)
    before_it = close[begins - 1 : -1]
    reach = np.maximum(high[begins:] / before_it, before_it / low[begins:])
    suspects = (np.flatnonzero(reach > exp(JUMP_AT_LEAST)) + begins).tolist()
    suspects = [0] * (first == 0) + suspects
    if not suspects:
        return []
    returns = np.diff(np.log(close))
    suspects.reverse()
    found: list[Finding] = []
    flagged: set[int] = set()
    while suspects:
        at = suspects.pop()
        if at in flagged:
            continue
        last_good = at - 1
        while last_good in flagged:
            last_good -= 1
        after = close[at + 1 : at + 1 + JUMP_AFTER]
        if last_good < 0 and len(after) < JUMP_AFTER_FIRST:
            continue
        # The price before and the price after: to be far from both is a jump.
        level = float(np.median(after)) if len(after) else float(close[last_good])
        last = float(close[last_good]) if last_good >= 0 else level
        steps = (opens[at] - opens[last_good]) / step if last_good >= 0 else 1
        limit = _jump_limit(returns, at, steps)
        if max(high[at] / max(last, level), min(last, level) / low[at]) > limit:
            flagged.add(at)
            words = (
                f"wanted prices within a factor of {limit:.3g} of {last:.12g}, was {low[at]:.12g} to {high[at]:.12g}"
            )
            found.append(Finding(int(rows[at - first]), int(opens[at]), Flaw.JUMP, words))
            if at + 1 < len(close):
                suspects.append(at + 1)  # how it stands to the last good one, nobody has looked at
    return found


def _jump_limit(returns: FloatArray, at: int, steps: float) -> float:
    """By what factor the row at ``at`` may be away from one ``steps`` before; ``returns`` end at each row but the first."""
    trailing = returns[max(0, at - 1 - JUMP_WINDOW) : max(0, at - 1)]
    if len(trailing) < JUMP_RETURNS:
        trailing = returns[:JUMP_WINDOW]  # the beginning of a history is measured by what follows
    if len(trailing) < JUMP_RETURNS:
        return exp(JUMP_AT_MOST)
    unit = 1.4826 * float(np.median(np.abs(trailing - np.median(trailing))))
    if unit == 0:
        return exp(JUMP_AT_MOST)
    # What a market does in so many candles grows with the root of their number.
    return exp(min(max(JUMP_DEVIATIONS * unit * steps**0.5, JUMP_AT_LEAST), JUMP_AT_MOST))
