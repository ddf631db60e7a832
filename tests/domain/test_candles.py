"""Timeframes and candle arrays: named by their open time, closed by the venue's clock, never longer than what is known."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.candles import Candles, Timeframe

moments = st.datetimes(datetime(2010, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  # bounds are naive
ROWS = [(60_000, 1.0, 4.0, 0.5, 2.0, 10.0), (120_000, 2.0, 3.0, 1.5, 2.5, 20.0), (180_000, 2.5, 2.6, 2.4, 2.6, 30.0)]


@pytest.mark.parametrize(
    ("timeframe", "seconds"),
    [
        ("1m", 60), ("3m", 180), ("5m", 300), ("15m", 900), ("30m", 1_800), ("1h", 3_600), ("2h", 7_200), ("4h", 14_400),
        ("6h", 21_600), ("8h", 28_800), ("12h", 43_200), ("1d", 86_400),
    ],
)  # fmt: skip
def test_a_timeframe_lasts_what_its_name_says(timeframe: str, seconds: int) -> None:
    assert Timeframe(timeframe).seconds == seconds
    assert Timeframe(timeframe).length == timedelta(seconds=seconds)


@pytest.mark.parametrize("timeframe", Timeframe)
def test_every_timeframe_divides_the_day(timeframe: Timeframe) -> None:
    assert 86_400 % timeframe.seconds == 0


@pytest.mark.parametrize(
    ("timeframe", "at", "open_at"),
    [
        (Timeframe.M5, datetime(2024, 5, 1, 12, 7, 59, 999_999, tzinfo=UTC), datetime(2024, 5, 1, 12, 5, tzinfo=UTC)),
        (Timeframe.M5, datetime(2024, 5, 1, 12, 10, tzinfo=UTC), datetime(2024, 5, 1, 12, 10, tzinfo=UTC)),
        (Timeframe.H4, datetime(2024, 5, 1, 3, 59, tzinfo=UTC), datetime(2024, 5, 1, 0, 0, tzinfo=UTC)),
        (Timeframe.D1, datetime(2024, 2, 29, 23, 59, tzinfo=UTC), datetime(2024, 2, 29, tzinfo=UTC)),
        (
            Timeframe.D1,
            datetime(2024, 5, 2, 1, 0, tzinfo=timezone(timedelta(hours=2))),
            datetime(2024, 5, 1, tzinfo=UTC),
        ),
    ],
)
def test_a_moment_falls_into_the_candle_that_opened_last(timeframe: Timeframe, at: datetime, open_at: datetime) -> None:
    assert timeframe.open_of(at) == open_at
    assert timeframe.open_of(at).tzinfo is UTC


@given(at=moments, timeframe=st.sampled_from(Timeframe))
def test_every_moment_lies_in_its_candle_and_the_candle_in_itself(at: datetime, timeframe: Timeframe) -> None:
    open_at = timeframe.open_of(at)

    assert open_at <= at < open_at + timeframe.length
    assert timeframe.open_of(open_at) == open_at


@pytest.mark.parametrize(
    ("now", "is_closed"),
    [
        (datetime(2024, 5, 1, 12, 0, 59, 999_999, tzinfo=UTC), False),
        (datetime(2024, 5, 1, 12, 1, tzinfo=UTC), True),
        (datetime(2024, 5, 1, 11, 59, tzinfo=UTC), False),
    ],
)
def test_a_candle_is_closed_when_its_timeframe_has_passed(now: datetime, is_closed: bool) -> None:
    assert Timeframe.M1.is_closed(datetime(2024, 5, 1, 12, 0, tzinfo=UTC), now) is is_closed


def test_rows_become_parallel_arrays() -> None:
    candles = Candles.from_rows(ROWS)

    assert len(candles) == 3
    assert candles.open_ms.tolist() == [60_000, 120_000, 180_000]
    assert candles.open_ms.dtype == np.int64
    assert candles.open.tolist() == [1.0, 2.0, 2.5]
    assert candles.high.tolist() == [4.0, 3.0, 2.6]
    assert candles.low.tolist() == [0.5, 1.5, 2.4]
    assert candles.close.tolist() == [2.0, 2.5, 2.6]
    assert candles.volume.tolist() == [10.0, 20.0, 30.0]


def test_no_rows_become_no_candles() -> None:
    assert len(Candles.from_rows([])) == 0


def test_history_can_be_cut_off_after_any_candle() -> None:
    candles = Candles.from_rows(ROWS).upto(2)

    assert len(candles) == 2
    assert candles.open_ms.tolist() == [60_000, 120_000]
    assert candles.volume.tolist() == [10.0, 20.0]


def test_arrays_of_different_lengths_are_no_candles() -> None:
    two, three = np.zeros(2), np.zeros(3)

    with pytest.raises(ValueError, match="wanted arrays of one length, was .*'close': 2"):
        Candles(np.zeros(3, dtype=np.int64), three, three, three, two, three)
