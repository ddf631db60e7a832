"""When a market is open: worked out by hand, and on every day and hour that real markets had candles."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.calendars import Calendar, candle_of, expected_opens, is_expected, next_open
from domain.candles import IntArray, Timeframe
from tests.domain.reference import reference_columns

FX, XNYS, ALWAYS = Calendar.FX, Calendar.XNYS, Calendar.ALWAYS
calendars = st.sampled_from(Calendar)
timeframes = st.sampled_from(Timeframe)
moments = st.datetimes(datetime(1999, 1, 1), datetime(2029, 1, 1))  # noqa: DTZ001  # bounds are naive


def ms(when: str) -> int:
    return int(datetime.fromisoformat(when).replace(tzinfo=UTC).timestamp()) * 1000


def opens(calendar: Calendar, timeframe: Timeframe, first: str, until: str) -> list[str]:
    found = expected_opens(calendar, timeframe, ms(first), ms(until))
    return words(found)


def words(times: IntArray) -> list[str]:
    return [str(word) for word in np.datetime_as_string(times.astype("datetime64[ms]"), unit="m")]


def real_opens(name: str) -> IntArray:
    return reference_columns(name)["ts"].astype(np.int64)


def strayed(name: str, calendar: Calendar, timeframe: Timeframe) -> tuple[list[str], list[str]]:
    """What a file lacks of what its calendar expects, and what it has beyond."""
    there = real_opens(name)
    expected = expected_opens(calendar, timeframe, int(there[0]), int(there[-1]) + 1)
    missing, beyond = np.setdiff1d(expected, there), np.setdiff1d(there, expected)
    np.testing.assert_array_equal(is_expected(calendar, timeframe, there), ~np.isin(there, beyond))
    return words(missing), words(beyond)


# -- by hand ---------------------------------------------------------------------------------------------------------------


def test_around_the_clock_every_multiple_is_expected_from_the_first_in_the_span_to_before_its_end() -> None:
    assert opens(ALWAYS, Timeframe.H8, "2024-03-09T00:01", "2024-03-10T08:00") == [
        "2024-03-09T08:00", "2024-03-09T16:00", "2024-03-10T00:00",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("first", "until", "expected"),
    [
        ("2024-03-08T20:00", "2024-03-10T22:00", ["2024-03-08T20:00", "2024-03-08T21:00", "2024-03-10T21:00"]),
        ("2024-03-01T20:00", "2024-03-03T23:00", ["2024-03-01T20:00", "2024-03-01T21:00", "2024-03-03T22:00"]),
        ("2024-12-24T17:00", "2024-12-25T23:00", ["2024-12-24T17:00", "2024-12-24T18:00", "2024-12-25T22:00"]),
        ("2021-12-31T18:00", "2022-01-02T23:00", ["2021-12-31T18:00", "2022-01-02T22:00"]),
    ],
    ids=["the weekend summer time begins on", "the one before", "Christmas on a Wednesday", "New Year on a Saturday"],
)  # fmt: skip
def test_currencies_trade_from_sunday_to_friday_by_new_york_s_clock(
    first: str, until: str, expected: list[str]
) -> None:
    assert opens(FX, Timeframe.H1, first, until) == expected


def test_a_day_of_currencies_has_the_date_of_its_end_and_there_is_none_on_sunday() -> None:
    assert opens(FX, Timeframe.D1, "2024-12-20T00:00", "2024-12-28T00:00") == [
        "2024-12-20T00:00", "2024-12-23T00:00", "2024-12-24T00:00", "2024-12-26T00:00", "2024-12-27T00:00",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("timeframe", "expected"),
    [
        (Timeframe.D1, ["2024-11-27T00:00", "2024-11-29T00:00"]),
        (Timeframe.H4, ["2024-11-27T12:00", "2024-11-27T16:00", "2024-11-27T20:00", "2024-11-29T12:00", "2024-11-29T16:00"]),
        (Timeframe.H1, [
            "2024-11-27T14:00", "2024-11-27T15:00", "2024-11-27T16:00", "2024-11-27T17:00", "2024-11-27T18:00",
            "2024-11-27T19:00", "2024-11-27T20:00", "2024-11-29T14:00", "2024-11-29T15:00", "2024-11-29T16:00",
            "2024-11-29T17:00",
        ]),
    ],
)  # fmt: skip
def test_new_york_rests_on_thanksgiving_and_closes_at_one_on_the_day_after(
    timeframe: Timeframe, expected: list[str]
) -> None:
    assert opens(XNYS, timeframe, "2024-11-27T00:00", "2024-11-30T00:00") == expected


def test_the_first_minute_of_a_session_is_half_past_nine_and_the_last_the_one_before_it_closes() -> None:
    minutes = opens(XNYS, Timeframe.M1, "2024-07-02T00:00", "2024-07-04T00:00")

    assert (minutes[0], minutes[389], minutes[390], minutes[-1], len(minutes)) == (
        "2024-07-02T13:30", "2024-07-02T19:59", "2024-07-03T13:30", "2024-07-03T16:59", 390 + 210,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("calendar", "day", "half_hours"),
    [
        (Calendar.XNYS, "2025-06-19", 0), (Calendar.XNAS, "2025-06-19", 0), (Calendar.XLON, "2025-06-19", 17),
        (Calendar.XTSE, "2025-06-19", 13), (Calendar.XTSE, "2025-07-01", 0), (Calendar.XLON, "2025-08-25", 0),
        (Calendar.XLON, "2025-12-24", 9), (Calendar.XTSE, "2025-12-24", 7), (Calendar.XLON, "2022-09-19", 0),
    ],
)  # fmt: skip
def test_each_exchange_has_its_own_holidays_hours_and_early_closes(
    calendar: Calendar, day: str, half_hours: int
) -> None:
    assert len(expected_opens(calendar, Timeframe.M30, ms(day), ms(day) + 86_400_000)) == half_hours


@pytest.mark.parametrize(
    ("calendar", "timeframe", "after", "expected"),
    [
        (ALWAYS, Timeframe.M5, "2024-03-09T12:00", "2024-03-09T12:05"),
        (ALWAYS, Timeframe.M5, "2024-03-09T12:01", "2024-03-09T12:05"),
        (FX, Timeframe.M1, "2024-03-08T21:59", "2024-03-10T21:00"),
        (FX, Timeframe.D1, "2024-03-08T00:00", "2024-03-11T00:00"),
        (XNYS, Timeframe.M1, "2001-09-10T19:59", "2001-09-17T13:30"),
        (XNYS, Timeframe.D1, "2012-10-26T00:00", "2012-10-31T00:00"),
        (XNYS, Timeframe.D1, "1914-07-30T00:00", "1914-11-30T00:00"),
        (XNYS, Timeframe.H1, "2023-12-29T20:00", "2024-01-02T14:00"),
    ],
)
def test_the_next_candle_is_that_of_the_next_session(
    calendar: Calendar, timeframe: Timeframe, after: str, expected: str
) -> None:
    assert next_open(calendar, timeframe, ms(after)) == ms(expected)


def test_a_time_beyond_all_sessions_is_refused_and_expected_of_nobody() -> None:
    with pytest.raises(ValueError, match="wanted a time from 1900 to 2199, was"):
        next_open(XNYS, Timeframe.D1, 10**15)

    absurd = np.array([-(10**17), ms("2024-07-02T13:30"), 10**17], dtype=np.int64)
    assert is_expected(XNYS, Timeframe.M1, absurd).tolist() == [False, True, False]


@pytest.mark.parametrize("timeframe", [Timeframe.D1, Timeframe.H1])
def test_in_the_midst_of_a_long_closure_nothing_is_expected(timeframe: Timeframe) -> None:
    midst = np.array([ms("2001-09-13T00:00"), ms("2001-09-14T00:00")])

    assert is_expected(XNYS, timeframe, midst).tolist() == [False, False]
    assert opens(XNYS, timeframe, "2001-09-13T00:00", "2001-09-15T00:00") == []


@pytest.mark.parametrize(
    ("calendar", "timeframe", "at", "expected"),
    [
        (ALWAYS, Timeframe.D1, "2024-07-06T23:59", "2024-07-06T00:00"),
        (FX, Timeframe.H4, "2024-07-05T20:59", "2024-07-05T20:00"),
        (FX, Timeframe.D1, "2024-07-04T20:59", "2024-07-04T00:00"),
        (FX, Timeframe.D1, "2024-07-04T21:00", "2024-07-05T00:00"),
        (FX, Timeframe.D1, "2024-07-07T21:00", "2024-07-08T00:00"),
        (XNYS, Timeframe.D1, "2024-07-03T13:00", "2024-07-03T00:00"),
        (XNYS, Timeframe.D1, "2024-07-03T17:00", "2024-07-05T00:00"),
    ],
)
def test_a_moment_falls_into_the_day_of_its_session(
    calendar: Calendar, timeframe: Timeframe, at: str, expected: str
) -> None:
    assert candle_of(calendar, timeframe, np.array([ms(at)])).tolist() == [ms(expected)]


# -- whatever is asked -------------------------------------------------------------------------------------------------------


@given(calendar=calendars, timeframe=timeframes, start=moments, days=st.integers(0, 30))
def test_what_is_expected_is_on_the_grid_ascends_and_follows_itself(
    calendar: Calendar, timeframe: Timeframe, start: datetime, days: int
) -> None:
    first = ms(start.isoformat())
    found = expected_opens(calendar, timeframe, first, first + days * 86_400_000)

    assert (np.diff(found) > 0).all()
    assert is_expected(calendar, timeframe, found).all()
    np.testing.assert_array_equal(candle_of(Calendar.ALWAYS, timeframe, found), found)
    for this, following in zip(found[:3].tolist(), found[1:4].tolist(), strict=False):
        assert next_open(calendar, timeframe, this) == following


@given(calendar=calendars, timeframe=timeframes, start=moments, cut=st.integers(0, 14 * 86_400_000))
def test_two_spans_expect_what_their_union_does(
    calendar: Calendar, timeframe: Timeframe, start: datetime, cut: int
) -> None:
    first = ms(start.isoformat())
    whole = expected_opens(calendar, timeframe, first, first + 14 * 86_400_000)
    left = expected_opens(calendar, timeframe, first, first + cut)
    right = expected_opens(calendar, timeframe, first + cut, first + 14 * 86_400_000)

    np.testing.assert_array_equal(np.concatenate((left, right)), whole)


# -- real markets ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "calendar"),
    [
        ("equity/lean_1d/SPY-1d.csv.gz", Calendar.XNYS), ("equity/lean_1d/BAC-1d.csv.gz", Calendar.XNYS),
        ("equity/lean_1d/AIG-1d.csv.gz", Calendar.XNYS), ("equity/backtesting_py/GOOG.csv.gz", Calendar.XNAS),
    ],
)  # fmt: skip
def test_new_york_was_open_on_exactly_the_days_that_shares_were_traded_on(name: str, calendar: Calendar) -> None:
    assert strayed(name, calendar, Timeframe.D1) == ([], [])


def test_currencies_were_traded_in_exactly_the_hours_that_are_expected_but_one_night() -> None:
    missing, beyond = strayed("fx/oanda_1h/EURUSD-1h.csv.gz", FX, Timeframe.H1)

    night = opens(ALWAYS, Timeframe.H1, "2015-08-20T19:00", "2015-08-21T04:00")
    assert (missing, beyond) == (night, [])


def test_another_broker_of_currencies_has_two_hours_that_began_after_the_close() -> None:
    missing, beyond = strayed("fx/backtesting_py/EURUSD.csv.gz", FX, Timeframe.H1)

    assert (missing, beyond) == ([], ["2017-10-06T21:00", "2017-10-20T21:00"])


@pytest.mark.parametrize("side", ["bid", "ask"])
def test_minutes_of_currencies_lack_those_in_which_no_price_moved_and_none_is_beyond(side: str) -> None:
    missing, beyond = strayed(f"fx/fxcm_1m/gbpusd-m1-{side}-2012.csv.gz", FX, Timeframe.M1)

    assert (len(missing), beyond) == (124, [])
