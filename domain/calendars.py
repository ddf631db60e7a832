"""When a market is open: which candles are to be expected, so that a missing one is told from a closed market.

Pure: times are epoch milliseconds UTC. A candle has the name that ``domain/candles.py`` gives it, a multiple of its length,
and is expected when its market is open for any part of it: the first hour of a session from 09:30 is that of 09:00. The
exception is the day of a market that closes: it is the day of its session, named by the session's date, 00:00 UTC, whatever
the hours. A day of currencies ends at 17:00 New York and is named by the date of its end, Monday to Friday.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from functools import cache
from zoneinfo import ZoneInfo

import holidays
import numpy as np
from holidays.constants import HALF_DAY, PUBLIC
from numpy.typing import NDArray

from domain.candles import IntArray, Timeframe

DAY_MS = 86_400_000
# No session is looked for before or after these years: a time beyond is no time of a candle.
FIRST_YEAR, LAST_YEAR = 1900, 2199
# The longest a market was ever closed: New York, from July to November 1914.
LONGEST_CLOSURE_MS = 140 * DAY_MS
NEW_YORK = ZoneInfo("America/New_York")


class Calendar(StrEnum):
    """Around the clock; the currencies' week; a stock exchange, by its market identifier code. The holidays and early closes
    of New York are known since 1953 (it traded on Saturdays before), of Nasdaq since 1971, of London since 2000, of Toronto
    since 2002."""

    ALWAYS = "24/7"
    FX = "FX"
    XNYS = "XNYS"
    XNAS = "XNAS"
    XLON = "XLON"
    XTSE = "XTSE"


@dataclass(frozen=True, slots=True)
class _Hours:
    """A session in its own time zone; ``early`` is when it ends before a holiday, as it has since the 1990s."""

    zone: ZoneInfo
    opens: time
    closes: time
    early: time


_HOURS = {
    Calendar.FX: _Hours(NEW_YORK, time(17), time(17), time(14)),
    Calendar.XNYS: _Hours(NEW_YORK, time(9, 30), time(16), time(13)),
    Calendar.XNAS: _Hours(NEW_YORK, time(9, 30), time(16), time(13)),
    Calendar.XLON: _Hours(ZoneInfo("Europe/London"), time(8), time(16, 30), time(12, 30)),
    Calendar.XTSE: _Hours(ZoneInfo("America/Toronto"), time(9, 30), time(16), time(13)),
}


@dataclass(frozen=True, slots=True)
class _Sessions:
    """Consecutive sessions: the date of each at 00:00 UTC, and when it opens and closes."""

    day_ms: IntArray
    open_ms: IntArray
    close_ms: IntArray


def expected_opens(calendar: Calendar, timeframe: Timeframe, from_ms: int, until_ms: int) -> IntArray:
    """Open times of the candles that a complete history has from ``from_ms`` to before ``until_ms``, ascending."""
    step = timeframe.seconds * 1000
    if calendar is Calendar.ALWAYS:
        return np.arange(-(-from_ms // step) * step, until_ms, step, dtype=np.int64)
    if from_ms >= until_ms:
        return np.empty(0, dtype=np.int64)
    sessions = _sessions(calendar, from_ms, until_ms)
    if timeframe is Timeframe.D1:
        opens = sessions.day_ms
    else:
        first = sessions.open_ms // step
        counts = -(-sessions.close_ms // step) - first
        # Each session's grid, one after the other: its first candle, and one step more for each row since.
        starts = np.cumsum(counts) - counts
        opens = (np.repeat(first - starts, counts) + np.arange(counts.sum())) * step
        # One candle may see the end of a session and the beginning of the next.
        opens = opens[np.diff(opens, prepend=-1) > 0]
    lower, upper = np.searchsorted(opens, (from_ms, until_ms))
    return opens[lower:upper]


def next_open(calendar: Calendar, timeframe: Timeframe, after_ms: int) -> int:
    """Open time of the first candle expected after the one that opened, or would have, at ``after_ms``."""
    if calendar is Calendar.ALWAYS:
        step = timeframe.seconds * 1000
        return (after_ms // step + 1) * step
    for span_ms in (4 * DAY_MS, LONGEST_CLOSURE_MS):
        opens = expected_opens(calendar, timeframe, after_ms + 1, after_ms + 1 + span_ms)
        if len(opens):
            return int(opens[0])
    raise ValueError(f"wanted a time from {FIRST_YEAR} to {LAST_YEAR}, was {after_ms}")


def is_expected(calendar: Calendar, timeframe: Timeframe, open_ms: IntArray) -> NDArray[np.bool_]:
    """Whether a complete history has a candle that opens then; ``open_ms`` in any order, and of any value."""
    step = timeframe.seconds * 1000
    on_grid: NDArray[np.bool_] = open_ms % step == 0
    if calendar is Calendar.ALWAYS or not on_grid.any():
        return on_grid
    # A time beyond all sessions is in none, and must not ask for the sessions of a thousand years.
    asked = np.clip(open_ms, _year_ms(FIRST_YEAR), _year_ms(LAST_YEAR))
    sessions = _sessions(calendar, int(asked.min()), int(asked.max()))
    last = len(sessions.day_ms) - 1
    if last < 0:
        on_grid[:] = False
    elif timeframe is Timeframe.D1:
        at = np.minimum(np.searchsorted(sessions.day_ms, open_ms), last)
        on_grid &= sessions.day_ms[at] == open_ms
    else:
        # The first session that has not closed by then: the candle sees some of it, or none of any.
        at = np.minimum(np.searchsorted(sessions.close_ms, open_ms, side="right"), last)
        on_grid &= (sessions.open_ms[at] < open_ms + step) & (open_ms < sessions.close_ms[at])
    return on_grid


def candle_of(calendar: Calendar, timeframe: Timeframe, at_ms: IntArray) -> IntArray:
    """The open time of the candle that each moment falls into; one at which the market is closed falls into the next
    session's day."""
    if calendar is Calendar.ALWAYS or timeframe is not Timeframe.D1 or not len(at_ms):
        step = timeframe.seconds * 1000
        return at_ms // step * step
    sessions = _sessions(calendar, int(at_ms.min()), int(at_ms.max()) + LONGEST_CLOSURE_MS)
    return sessions.day_ms[np.searchsorted(sessions.close_ms, at_ms, side="right")]


@cache
def _year_ms(year: int) -> int:
    return int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) * 1000


def _sessions(calendar: Calendar, from_ms: int, until_ms: int) -> _Sessions:
    """The sessions that touch the days of the span, and perhaps a few more."""
    first, last = (
        datetime.fromtimestamp(min(max(at_ms, _year_ms(FIRST_YEAR)), _year_ms(LAST_YEAR)) / 1000, tz=UTC).year
        for at_ms in (from_ms - 2 * DAY_MS, until_ms + 2 * DAY_MS)
    )
    years = [_sessions_of_year(calendar, year) for year in range(first, last + 1)]
    names = ("day_ms", "open_ms", "close_ms")
    whole = years[0] if len(years) == 1 else _Sessions(*(np.concatenate([getattr(y, n) for y in years]) for n in names))
    lower, upper = np.searchsorted(whole.day_ms, (from_ms - 2 * DAY_MS, until_ms + 2 * DAY_MS)).tolist()
    return _Sessions(whole.day_ms[lower:upper], whole.open_ms[lower:upper], whole.close_ms[lower:upper])


@cache
def _sessions_of_year(calendar: Calendar, year: int) -> _Sessions:
    hours = _HOURS[calendar]
    closed, early = _days_off(calendar, year)
    rows: list[tuple[int, float, float]] = []
    for number in range((date(year + 1, 1, 1) - date(year, 1, 1)).days):
        day = date(year, 1, 1) + timedelta(days=number)
        if day in closed:
            continue
        opens_on = day if hours.opens < hours.closes else day - timedelta(days=1)
        closes = hours.early if day in early else hours.closes
        rows.append(
            (
                int(datetime.combine(day, time(), UTC).timestamp()) * 1000,
                datetime.combine(opens_on, hours.opens, hours.zone).timestamp() * 1000,
                datetime.combine(day, closes, hours.zone).timestamp() * 1000,
            )
        )
    columns = np.ascontiguousarray(np.array(rows, dtype=np.int64).reshape(-1, 3).T)
    columns.flags.writeable = False  # every caller is handed the same
    return _Sessions(*columns)


def _days_off(calendar: Calendar, year: int) -> tuple[set[date], set[date]]:
    """Dates without a session, and those whose session ends early."""
    weekend = {
        date.fromordinal(ordinal)
        for ordinal in range(date(year, 1, 1).toordinal(), date(year + 1, 1, 1).toordinal())
        if date.fromordinal(ordinal).weekday() > 4
    }
    if calendar is Calendar.FX:
        return weekend | {date(year, 1, 1), date(year, 12, 25)}, {date(year, 12, 24), date(year, 12, 31)}
    closed = holidays.financial_holidays(calendar.value, years=year, categories=(PUBLIC,))
    early = holidays.financial_holidays(calendar.value, years=year, categories=(HALF_DAY,))
    return weekend | set(closed), set(early) - set(closed)
