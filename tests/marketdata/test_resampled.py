"""Longer candles made of the shorter ones that are stored: exact, whole or not at all."""

from __future__ import annotations

import csv
import gzip
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.core.exceptions import ValidationError

from domain.calendars import Calendar
from domain.candles import Timeframe
from exchanges.gateway import CandleReport
from marketdata.failover import feed_sources_set
from marketdata.models import Feed, SourceKind
from marketdata.services import candles_store
from marketdata.sources import SourceFailed
from marketdata.sources.resampled import ResampledSource
from tests.domain.reference import reference_json, reference_path
from tests.factories import NOON, make_feed
from tests.marketdata.conftest import candle

pytestmark = pytest.mark.django_db

MINUTE = timedelta(minutes=1)


def minute(number: int) -> CandleReport:
    """The candle of the ``number``th minute from noon on: each with figures of its own, to the last digit."""
    price = Decimal("0.000000000000000001") * (number + 1)
    return CandleReport(NOON + number * MINUTE, 10 + price, 20 + price, 5 - price, 11 + price, Decimal("0.1") + price)


def minutes_stored(feed: Feed, numbers: range, last: int | None = None) -> Feed:
    """The feed of minutes of ``feed``'s market, those of ``numbers`` stored, collected up to the ``last``."""
    minutes = make_feed(feed.market, Timeframe.M1, is_needed=True)
    candles_store(minutes.pk, [minute(number) for number in numbers])
    last_open_at = NOON + (numbers[-1] if last is None else last) * MINUTE
    Feed.objects.filter(pk=minutes.pk).update(last_open_at=last_open_at)
    return minutes


def source(feed: Feed) -> ResampledSource:
    return ResampledSource(feed, Timeframe.M1)


def test_a_longer_candle_is_what_its_shorter_ones_make_to_the_last_digit() -> None:
    feed = make_feed(timeframe=Timeframe.M5)
    minutes_stored(feed, range(10))

    rows = source(feed).candles(NOON, 10)

    assert rows == [
        CandleReport(NOON, Decimal("10.000000000000000001"), Decimal("20.000000000000000005"),
                     Decimal("4.999999999999999995"), Decimal("11.000000000000000005"), Decimal("0.500000000000000015")),
        CandleReport(NOON + 5 * MINUTE, Decimal("10.000000000000000006"), Decimal("20.000000000000000010"),
                     Decimal("4.999999999999999990"), Decimal("11.000000000000000010"), Decimal("0.500000000000000040")),
    ]  # fmt: skip


def test_a_candle_whose_last_minute_is_not_there_yet_is_not_given_and_is_no_failure() -> None:
    feed = make_feed(timeframe=Timeframe.M5)
    minutes_stored(feed, range(9))

    assert [row.open_at for row in source(feed).candles(NOON, 10)] == [NOON]
    assert source(feed).candles(NOON + 5 * MINUTE, 10) == []


def test_a_candle_that_lacks_a_minute_is_a_failure_and_none_after_it_is_given() -> None:
    feed = make_feed(timeframe=Timeframe.M5)
    minutes = minutes_stored(feed, range(20))
    minutes.candles.filter(open_at=NOON + 7 * MINUTE).delete()

    assert [row.open_at for row in source(feed).candles(NOON, 10)] == [NOON]
    with pytest.raises(SourceFailed, match="wanted 5 candles of 1m from 2024-05-01 12:05 on, were 4"):
        source(feed).candles(NOON + 5 * MINUTE, 10)


def test_history_from_before_the_first_minute_is_a_failure_so_that_another_source_is_asked() -> None:
    feed = make_feed(timeframe=Timeframe.M5)
    minutes_stored(feed, range(10))

    with pytest.raises(SourceFailed, match="wanted 5 candles of 1m from 2024-05-01 11:55 on, were 0"):
        source(feed).candles(NOON - 5 * MINUTE, 10)


@pytest.mark.parametrize(("since", "limit", "opens"), [
    (NOON, 1, [NOON]),
    (NOON + MINUTE, 10, [NOON + 5 * MINUTE, NOON + 10 * MINUTE]),
])  # fmt: skip
def test_no_more_than_asked_come_back_and_none_that_began_before(
    since: datetime, limit: int, opens: list[datetime]
) -> None:
    feed = make_feed(timeframe=Timeframe.M5)
    minutes_stored(feed, range(15))

    assert [row.open_at for row in source(feed).candles(since, limit)] == opens


@pytest.mark.parametrize("is_there", [False, True])
def test_shorter_candles_that_nobody_collects_are_a_failure_once_there_are_no_more(is_there: bool) -> None:
    feed = make_feed(timeframe=Timeframe.M5)
    if is_there:
        minutes = minutes_stored(feed, range(10))
        Feed.objects.filter(pk=minutes.pk).update(is_needed=False)

    with pytest.raises(SourceFailed, match="wanted candles of 1m to be collected for somebody, were not"):
        source(feed).candles(NOON + 10 * MINUTE, 10)


def test_history_is_made_of_shorter_candles_that_nobody_collects_any_more() -> None:
    feed = make_feed(timeframe=Timeframe.M5)
    minutes = minutes_stored(feed, range(10))
    Feed.objects.filter(pk=minutes.pk).update(is_needed=False)

    assert [row.open_at for row in source(feed).candles(NOON, 10)] == [NOON, NOON + 5 * MINUTE]


def test_days_of_real_hours_are_those_that_the_venue_tells_itself() -> None:
    hours = real_candles("market/binance_spot_1h/BTC_USDT-1h.csv.gz")
    told = {day.open_at: day for day in real_candles("market/binance_spot_1d/BTC_USDT-1d.csv.gz")}
    checks = reference_json("expected/resample_consistency.json")
    [expected] = [check for check in checks if check["check"] == "open binance 1h->1d BTC"]
    feed = make_feed(timeframe=Timeframe.D1)
    base = make_feed(feed.market, Timeframe.H1, is_needed=True)
    candles_store(base.pk, hours)
    Feed.objects.filter(pk=base.pk).update(last_open_at=hours[-1].open_at)

    made: list[CandleReport] = []
    at = hours[0].open_at
    while at <= hours[-1].open_at:
        try:
            rows = ResampledSource(feed, Timeframe.H1).candles(at, 1500)
        except SourceFailed:
            rows = []  # a day of which the venue lost hours: the next source's to tell
        made += rows
        at = rows[-1].open_at + timedelta(days=1) if rows else at + timedelta(days=1)

    assert len(made) == expected["bars_compared"] == 718
    prices = [(row.open, row.high, row.low, row.close) for row in made]
    assert prices == [(day.open, day.high, day.low, day.close) for day in (told[row.open_at] for row in made)]
    # The recorded volumes went through floats.
    assert max(abs(row.volume - told[row.open_at].volume) for row in made) < Decimal("0.000001")


def real_candles(name: str) -> list[CandleReport]:
    with gzip.open(reference_path(name), "rt") as lines:
        cells = [row for row in csv.reader(lines) if row[0].isdigit()]
    return [
        CandleReport(datetime.fromtimestamp(int(at) / 1000, tz=UTC), *map(Decimal, figures)) for at, *figures in cells
    ]


def test_a_day_of_currencies_begins_on_the_evening_before() -> None:
    feed = make_feed(timeframe=Timeframe.D1, calendar=Calendar.FX)
    hours = make_feed(feed.market, Timeframe.H1, calendar=Calendar.FX, is_needed=True)
    sunday = datetime(2024, 5, 5, 21, tzinfo=UTC)  # 17:00 in New York
    rows = [candle(sunday + number * timedelta(hours=1), str(number + 1)) for number in range(48)]
    candles_store(hours.pk, rows)
    Feed.objects.filter(pk=hours.pk).update(last_open_at=rows[-1].open_at)

    days = ResampledSource(feed, Timeframe.H1).candles(datetime(2024, 5, 4, tzinfo=UTC), 10)

    assert days == [
        CandleReport(datetime(2024, 5, 6, tzinfo=UTC), *map(Decimal, (1, 24, 1, 24, 24))),
        CandleReport(datetime(2024, 5, 7, tzinfo=UTC), *map(Decimal, (25, 48, 25, 48, 24))),
    ]


def test_the_day_of_a_market_that_closes_is_told_when_its_last_hour_is_there() -> None:
    feed = make_feed(timeframe=Timeframe.D1, calendar=Calendar.XNYS)
    hours = make_feed(feed.market, Timeframe.H1, calendar=Calendar.XNYS, is_needed=True)
    friday = datetime(2024, 5, 3, tzinfo=UTC)
    rows = [candle(friday + hour * timedelta(hours=1), str(hour)) for hour in range(13, 20)]
    candles_store(hours.pk, rows)
    told = []
    for last in rows[-2:]:
        Feed.objects.filter(pk=hours.pk).update(last_open_at=last.open_at)
        told.append([row.open_at for row in ResampledSource(feed, Timeframe.H1).candles(friday, 10)])

    assert told == [[], [friday]]


def test_days_of_currencies_are_not_made_of_candles_that_see_the_end_of_one_and_the_next() -> None:
    feed = make_feed(timeframe=Timeframe.D1, calendar=Calendar.FX)
    hours = make_feed(feed.market, Timeframe.H4, calendar=Calendar.FX, is_needed=True, last_open_at=NOON)
    candles_store(hours.pk, [CandleReport(NOON, *[Decimal(1)] * 5)])

    with pytest.raises(SourceFailed, match="wanted candles of 1h or shorter for days of currencies, was 4h") as raised:
        ResampledSource(feed, Timeframe.H4).candles(NOON, 10)
    assert raised.value.is_final
    with pytest.raises(ValidationError, match="wanted candles of 1h or shorter for days of currencies, was 4h"):
        feed_sources_set(feed, [(SourceKind.RESAMPLED, "4h")])
