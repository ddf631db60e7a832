"""Months of candles and trades: made once, filled from the rest with nothing lost, retired by policy and no sooner."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone

from domain.candles import Timeframe
from marketdata import partitions
from marketdata.models import Candle, Feed, MarketTrade, SourceKind
from marketdata.partitions import CANDLES, TRADES, Partitioned, housekeep, partitions_ensure, partitions_retire
from marketdata.storage import candles_merge
from marketdata.tasks import housekeep as housekeep_task
from tests.factories import NOON, make_exchange, make_feed, make_market
from tests.marketdata.conftest import candle
from tests.race import at_once, happens_after

JANUARY = datetime(2042, 1, 5, tzinfo=UTC)
DECEMBER = datetime(2041, 12, 31, 23, 59, tzinfo=UTC)
NAMES = ["marketdata_candle_2041_12", "marketdata_candle_2042_01"]


def there(what: Partitioned = CANDLES) -> set[str]:
    with connection.cursor() as cursor:
        return set(partitions._partitions(cursor, what))


@pytest.fixture
def months() -> Iterator[None]:
    """Whatever partitions a test makes are gone after it: emptying tables does not drop them."""
    before = there(CANDLES) | there(TRADES)
    yield
    made = (there(CANDLES) | there(TRADES)) - before
    if made:
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE " + ", ".join(made))


@pytest.fixture
def swept(transactional_db: None, months: None) -> None:
    """Committed for real, and swept up."""


def store(feed: Feed, *moments: datetime) -> None:
    candles_merge([(feed.pk, candle(at), SourceKind.EXCHANGE) for at in moments])


def place_of(at: datetime) -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT tableoid::regclass::text FROM marketdata_candle WHERE open_at = %s", [at])
        [(name,)] = cursor.fetchall()
    return str(name)


# -- made ---------------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_months_are_made_for_the_moments_asked_for_and_once() -> None:
    assert partitions_ensure(CANDLES, [JANUARY, DECEMBER, JANUARY]) == NAMES
    assert partitions_ensure(CANDLES, [JANUARY, DECEMBER]) == []
    assert partitions_ensure(CANDLES, []) == []


@pytest.mark.django_db
def test_a_candle_goes_into_the_month_of_its_opening_in_utc() -> None:
    feed = make_feed()
    partitions_ensure(CANDLES, [JANUARY, DECEMBER])

    store(feed, DECEMBER, DECEMBER + timedelta(minutes=1))

    assert [place_of(DECEMBER), place_of(DECEMBER + timedelta(minutes=1))] == NAMES


@pytest.mark.django_db
def test_rows_that_came_before_their_month_move_into_it() -> None:
    feed = make_feed()
    store(feed, DECEMBER, JANUARY)
    assert place_of(JANUARY) == "marketdata_candle_rest"

    assert partitions_ensure(CANDLES, [JANUARY]) == NAMES[1:]

    assert [place_of(DECEMBER), place_of(JANUARY)] == ["marketdata_candle_rest", NAMES[1]]
    assert Candle.objects.count() == 2
    store(feed, JANUARY)  # its key holds there too
    assert Candle.objects.count() == 2


def test_makers_at_once_make_each_month_once(swept: None) -> None:
    made = at_once([lambda: partitions_ensure(CANDLES, [JANUARY, DECEMBER])] * 6)

    assert sorted(name for names in made for name in names) == NAMES


def test_makers_of_different_months_at_once_do_not_wait_in_a_circle(
    swept: None, caplog: pytest.LogCaptureFixture
) -> None:
    months = [datetime(2042, month, 1, tzinfo=UTC) for month in range(1, 7)]

    made = at_once([partial(partitions_ensure, CANDLES, [month]) for month in months])

    assert caplog.text == ""
    assert made == [[f"marketdata_candle_2042_{month:02}"] for month in range(1, 7)]


def test_a_row_that_comes_into_the_rest_while_its_month_is_made_is_moved_by_the_next_run(
    swept: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    feed = make_feed()

    def insert() -> None:
        with transaction.atomic():
            store(feed, JANUARY)

    happens_after(monkeypatch, partitions, "_has_rows", insert)

    assert partitions_ensure(CANDLES, [JANUARY]) == []
    assert "marketdata_candle_2042_01 was not made, a later run will" in caplog.text
    assert place_of(JANUARY) == "marketdata_candle_rest"
    assert partitions_ensure(CANDLES, [JANUARY]) == NAMES[1:]
    assert place_of(JANUARY) == NAMES[1]


def test_a_reader_that_waited_for_the_move_finds_every_row(swept: None, monkeypatch: pytest.MonkeyPatch) -> None:
    feed = make_feed()
    store(feed, DECEMBER, JANUARY)
    counts: list[int] = []

    def count() -> None:
        for _ in range(200):
            counts.append(Candle.objects.filter(feed=feed).count())

    at_once([count, count, lambda: partitions_ensure(CANDLES, [JANUARY, DECEMBER])])

    assert set(counts) == {2}
    assert len(counts) == 400


def test_a_long_read_makes_the_maker_give_way_and_the_rows_go_into_the_rest(
    swept: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(partitions, "LOCK_PATIENCE", "200ms")
    feed = make_feed()
    reader = connection.copy()
    reader.set_autocommit(False)
    try:
        with reader.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM marketdata_candle")
        assert partitions_ensure(CANDLES, [JANUARY]) == []
        with transaction.atomic():
            store(feed, JANUARY)
    finally:
        reader.rollback()
        reader.close()

    assert "marketdata_candle_2042_01 was not made, a later run will" in caplog.text
    assert place_of(JANUARY) == "marketdata_candle_rest"
    assert partitions_ensure(CANDLES, [JANUARY]) == NAMES[1:]
    assert place_of(JANUARY) == NAMES[1]


def test_a_reader_of_another_month_does_not_hold_up_the_maker(swept: None) -> None:
    partitions_ensure(CANDLES, [DECEMBER])
    reader = connection.copy()
    reader.set_autocommit(False)
    try:
        with reader.cursor() as cursor:
            cursor.execute("SELECT FROM marketdata_candle WHERE open_at >= '2041-12-03Z' AND open_at < '2041-12-04Z'")
        assert partitions_ensure(CANDLES, [JANUARY]) == NAMES[1:]
    finally:
        reader.rollback()
        reader.close()


# -- housekeeping -------------------------------------------------------------------------------------------------------


def test_housekeeping_makes_this_month_and_two_more_of_both_tables_and_takes_in_the_rest(swept: None) -> None:
    feed = make_feed()
    store(feed, NOON - timedelta(days=400))
    MarketTrade.objects.create(
        market=feed.market, traded_at=JANUARY, trade_id="1", is_buy=True, price=Decimal(1), quantity=Decimal(1)
    )

    housekeep(DECEMBER)
    housekeep(DECEMBER)

    assert {name for name in there() if "_204" in name} == {*NAMES, "marketdata_candle_2042_02"}
    assert there(TRADES) >= {f"marketdata_markettrade_{month}" for month in ("2041_12", "2042_01", "2042_02")}
    assert place_of(NOON - timedelta(days=400)) == "marketdata_candle_2023_03"
    with connection.cursor() as cursor:
        cursor.execute("SELECT tableoid::regclass::text FROM marketdata_markettrade")
        assert cursor.fetchall() == [("marketdata_markettrade_2042_01",)]


def test_housekeeping_knows_a_venue_whose_clock_is_ahead(swept: None) -> None:
    make_exchange(clock_anchor_at=NOON, clock_venue_at=JANUARY)

    housekeep(NOON)

    assert there() >= {"marketdata_candle_2024_05", "marketdata_candle_2042_01", "marketdata_candle_2042_03"}


def test_the_door_makes_the_months_of_now(swept: None) -> None:
    housekeep_task()

    assert f"marketdata_candle_{timezone.now():%Y_%m}" in there()


# -- retired ------------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_month_is_retired_when_all_of_it_is_older_and_no_sooner(caplog: pytest.LogCaptureFixture) -> None:
    feed = make_feed()
    partitions_ensure(CANDLES, [JANUARY, DECEMBER])
    store(feed, DECEMBER, JANUARY)
    new_year = datetime(2042, 1, 1, tzinfo=UTC)

    with caplog.at_level(logging.INFO):
        assert partitions_retire(CANDLES, new_year - timedelta(microseconds=1)) == []
        assert partitions_retire(CANDLES, new_year) == NAMES[:1]

    assert "retired marketdata_candle_2041_12" in caplog.text
    assert list(Candle.objects.values_list("open_at", flat=True)) == [JANUARY]
    assert partitions_retire(CANDLES, new_year) == []


@pytest.mark.django_db
def test_without_a_policy_candles_stay_and_trades_go_after_ninety_days(settings: Any) -> None:
    feed = make_feed()
    assert (settings.KEEP_CANDLES_DAYS, settings.KEEP_TRADES_DAYS) == (None, 90)
    store(feed, DECEMBER)
    partitions_ensure(TRADES, [DECEMBER])

    housekeep(DECEMBER + timedelta(days=90))
    assert "marketdata_markettrade_2041_12" in there(TRADES)
    housekeep(DECEMBER + timedelta(days=91))

    assert "marketdata_markettrade_2041_12" not in there(TRADES)
    assert place_of(DECEMBER) == NAMES[0]


@pytest.mark.django_db
def test_a_month_that_a_needed_feed_reads_in_stays_whatever_its_age(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.KEEP_CANDLES_DAYS = 1
    monkeypatch.setattr(partitions, "KEPT_FOR_NEEDED", 2)
    needed, idle = make_feed(is_needed=True), make_feed(timeframe=Timeframe.H1)
    november = datetime(2041, 11, 7, tzinfo=UTC)
    store(needed, november, DECEMBER, JANUARY)
    store(idle, november, DECEMBER)

    housekeep(JANUARY + timedelta(days=300))
    assert list(needed.candles.order_by("open_at").values_list("open_at", flat=True)) == [DECEMBER, JANUARY]

    Feed.objects.update(is_needed=False)
    housekeep(JANUARY + timedelta(days=300))
    assert Candle.objects.count() == 0


@pytest.mark.django_db
def test_a_venue_whose_clock_is_behind_keeps_what_is_young_for_it(settings: Any) -> None:
    settings.KEEP_CANDLES_DAYS = 30
    feed = make_feed(make_market(make_exchange(clock_anchor_at=JANUARY, clock_venue_at=NOON)))
    store(feed, NOON - timedelta(days=10))

    housekeep(JANUARY)

    assert feed.candles.count() == 1


def test_a_long_read_makes_retiring_give_way(
    swept: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(partitions, "LOCK_PATIENCE", "200ms")
    partitions_ensure(CANDLES, [DECEMBER])
    reader = connection.copy()
    reader.set_autocommit(False)
    try:
        with reader.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM marketdata_candle")
        assert NAMES[0] not in partitions_retire(CANDLES, JANUARY)
    finally:
        reader.rollback()
        reader.close()

    assert "marketdata_candle_2041_12 was not retired, the next run will" in caplog.text
    assert NAMES[0] in there()


# -- where chunks take the place of months ------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_hypertable_gets_no_partitions_and_is_retired_by_its_own_function() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            """
            CREATE SCHEMA stand_in;
            SET LOCAL search_path TO stand_in, public;
            CREATE TABLE stand_in.marketdata_candle (LIKE public.marketdata_candle INCLUDING ALL);
            CREATE FUNCTION stand_in.drop_chunks(relation regclass, older_than timestamptz) RETURNS SETOF text AS $$
                WITH gone AS (DELETE FROM stand_in.marketdata_candle WHERE open_at < older_than RETURNING open_at)
                SELECT relation::text || ' ' || to_char(open_at AT TIME ZONE 'UTC', 'YYYY-MM-DD') FROM gone
            $$ LANGUAGE sql
            """
        )
    feed = make_feed()
    store(feed, NOON, JANUARY)

    assert partitions_ensure(CANDLES, [NOON, JANUARY]) == []
    assert partitions._waiting(CANDLES) == []
    assert partitions_retire(CANDLES, DECEMBER) == ["marketdata_candle 2024-05-01"]
    assert list(Candle.objects.values_list("open_at", flat=True)) == [JANUARY]
