"""Many feeds at once: claimed together, asked side by side, stored as answers come, whatever becomes of their neighbours."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from domain.candles import Timeframe
from exchanges.gateway import CandleReport, ExchangeUnavailable
from exchanges.models import Exchange
from marketdata import lanes
from marketdata.collection import LEASE, feed_collect, feeds_collect, feeds_due
from marketdata.looks import ASK_TAKES
from marketdata.models import Candle, Feed
from marketdata.outcomes import LONGEST_BACK_OFF
from marketdata.sources import exchange as exchange_source
from tests.conftest import Bells
from tests.factories import NOON, events, make_exchange, make_feed, make_market
from tests.marketdata.conftest import MINUTE, Shelf, candle, needed_feed, opens
from tests.race import at_once, elsewhere

pytestmark = pytest.mark.django_db
in_the_open = pytest.mark.django_db(transaction=True)  # with bells that ring, or more than one connection

SECOND = timedelta(seconds=1)


def many_feeds(shelf: Shelf, count: int, venue: str = "simulator") -> list[Feed]:
    """Feeds that are due, of one venue whose clock is ours, each with all candles but the last that closed."""
    exchange = make_exchange(venue, clock_anchor_at=NOON, clock_venue_at=NOON)
    last: dict[str, Any] = {"is_needed": True, "next_due_at": shelf.now, "last_open_at": NOON - 2 * MINUTE}
    feeds = [make_feed(make_market(exchange, f"C{number:03}/USDT"), **last) for number in range(count)]
    Candle.objects.bulk_create(
        Candle(feed=feed, volume=Decimal(1), open_at=NOON - 2 * MINUTE, **dict.fromkeys(PRICES, Decimal(50000)))
        for feed in feeds
    )
    Candle.objects.update(collected_at=NOON)
    return feeds


PRICES = ("open", "high", "low", "close")


def ids_of(feeds: list[Feed]) -> list[int]:
    return [feed.pk for feed in feeds]


class Venues:
    """By name of a venue, what it does when it is asked for a symbol; without a word it answers as the shelf does."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.words: dict[str, Callable[[str], object]] = {}
        self.asked: list[str] = []

    def gateway_for(self, exchange: Exchange, markets: object = ()) -> Any:
        venues = self

        class Gateway:
            def candles(self, symbol: str, timeframe: str, since: datetime, limit: int) -> list[CandleReport]:
                venues.asked.append(f"{exchange.name} {symbol}")
                if exchange.name in venues.words:
                    venues.words[exchange.name](symbol)
                return venues.shelf.candles(symbol, timeframe, since, limit)

        return Gateway()


@pytest.fixture
def venues(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> Venues:
    venues = Venues(shelf)
    monkeypatch.setattr(exchange_source, "gateway_for", venues.gateway_for)
    monkeypatch.setattr(lanes, "_lanes", {})  # no thread of an earlier test is still at work in them
    return venues


# -- side by side -------------------------------------------------------------------------------------------------------


@in_the_open
def test_a_batch_is_stored_and_announced_with_its_bells_in_few_messages(shelf: Shelf, bells: Bells) -> None:
    feeds = many_feeds(shelf, 30)

    assert feeds_collect(ids_of(feeds)) == 30

    assert [opens(feed) for feed in feeds] == [[NOON - MINUTE]] * 30
    assert sorted(event["feed"] for event in events("marketdata")) == sorted(str(feed) for feed in feeds)
    rung = [feed_id for bell in bells.rung("strategies.evaluate") for feed_id in bell["feed_ids"]]
    assert sorted(rung) == ids_of(feeds)
    assert set(Feed.objects.values_list("last_open_at", "next_due_at", "leased_until", "misses")) == {
        (NOON - MINUTE, NOON + MINUTE, None, 0)
    }


@in_the_open
def test_two_hundred_feeds_shared_by_four_collectors_are_each_asked_about_once(venues: Venues, shelf: Shelf) -> None:
    feeds = many_feeds(shelf, 200)

    results = at_once([lambda: feeds_collect(ids_of(feeds))] * 4)

    assert sum(results) == 200
    assert sorted(venues.asked) == sorted(f"simulator {feed.market.symbol}" for feed in feeds)
    assert Candle.objects.filter(open_at=NOON - MINUTE).count() == 200
    assert len(events("marketdata")) == 200


def test_a_hundred_feeds_take_no_more_statements_than_ten(shelf: Shelf, venues: Venues) -> None:
    few, many = many_feeds(shelf, 10, "few"), many_feeds(shelf, 100, "many")

    with CaptureQueriesContext(connection) as of_ten:
        feeds_collect(ids_of(few))
    with CaptureQueriesContext(connection) as of_hundred:
        feeds_collect(ids_of(many))

    # Answers that come a tenth of a second later are a round of their own, on a machine that is busy.
    assert len(of_hundred) <= 3 * len(of_ten) < 60


@in_the_open
def test_a_venue_that_hangs_holds_up_neither_another_s_feeds_nor_its_own_first_answers(
    venues: Venues, shelf: Shelf
) -> None:
    good, slow = many_feeds(shelf, 3, "good"), many_feeds(shelf, 40, "slow")
    first, hanging = slow[0], threading.Event()
    venues.words["slow"] = lambda symbol: symbol == first.market.symbol or hanging.wait(20)
    collector = threading.Thread(target=elsewhere, args=(lambda: feeds_collect(ids_of(slow + good)),))

    collector.start()
    try:
        stored = Candle.objects.filter(open_at=NOON - MINUTE)
        for _ in range(100):
            if stored.count() >= 4:
                break
            threading.Event().wait(0.05)
        ready = sorted(stored.values_list("feed_id", flat=True))
        was_hanging = not hanging.is_set()
    finally:
        hanging.set()
        collector.join(20)

    assert was_hanging
    assert ready == sorted(ids_of([first, *good]))
    assert Candle.objects.filter(open_at=NOON - MINUTE).count() == 43


def test_a_feed_whose_turn_comes_late_in_its_lease_is_left_to_whoever_is_next(
    venues: Venues, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "LANE_THREADS", 1)
    first, second = many_feeds(shelf, 2)

    def take_long(symbol: str) -> None:
        shelf.now += LEASE - ASK_TAKES + SECOND

    venues.words["simulator"] = take_long
    feeds_collect([first.pk, second.pk])

    second.refresh_from_db()
    assert venues.asked == [f"simulator {first.market.symbol}"]
    assert (opens(first), opens(second)) == ([NOON - MINUTE], [])
    assert (second.leased_until, second.misses, second.last_error) == (None, 0, "")
    assert feeds_due(shelf.now) == [second.pk]


def test_a_row_that_no_column_holds_is_the_trouble_of_its_own_feed(
    shelf: Shelf, venues: Venues, monkeypatch: pytest.MonkeyPatch
) -> None:
    feeds = many_feeds(shelf, 3)
    usual, symbol_of_one = shelf.candles, feeds[1].market.symbol

    def candles(symbol: str, *rest: Any) -> list[CandleReport]:
        rows = usual(symbol, *rest)
        return [candle(row.open_at, "1e30") for row in rows] if symbol == symbol_of_one else rows

    monkeypatch.setattr(shelf, "candles", candles)
    assert feeds_collect(ids_of(feeds)) == 2

    assert [opens(feed) for feed in feeds] == [[NOON - MINUTE], [], [NOON - MINUTE]]


@in_the_open
def test_what_a_source_reads_in_a_lane_leaves_no_connection_open(shelf: Shelf, venues: Venues) -> None:
    feeds = many_feeds(shelf, 8)
    venues.words["simulator"] = lambda symbol: Feed.objects.count()

    before = connections_open()
    assert feeds_collect(ids_of(feeds)) == 8

    assert connections_open() == before


def connections_open() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = %s",
                       ["client backend"])  # fmt: skip
        [(count,)] = cursor.fetchall()
        return int(count)


# -- refused for the rate -------------------------------------------------------------------------------------------------


def refusing(shelf: Shelf, seconds: float) -> None:
    def refuse() -> None:
        raise ExchangeUnavailable("wanted 3 of the 1200, was used up", retry_after=timedelta(seconds=seconds))

    shelf.meanwhile = refuse


def test_a_refused_feed_is_due_again_when_its_rate_allows_it_without_a_failure(shelf: Shelf) -> None:
    feed = needed_feed(shelf)
    refusing(shelf, 7)

    assert feed_collect(feed.pk) == 0

    feed.refresh_from_db()
    assert (feed.misses, feed.last_error) == (0, "wanted 3 of the 1200, was used up")
    assert feeds_due(shelf.now + 7 * SECOND) == []
    assert feeds_due(shelf.now + 7.001 * SECOND) == [feed.pk]

    shelf.meanwhile = lambda: None
    shelf.now += 8 * SECOND
    assert feed_collect(feed.pk) == 1

    feed.refresh_from_db()
    assert (feed.last_error, feed.next_due_at, feed.leased_until) == ("", NOON + MINUTE, None)


def test_a_refused_feed_keeps_its_place_before_those_that_became_due_later(shelf: Shelf) -> None:
    early = needed_feed(shelf)
    refusing(shelf, 2)
    feed_collect(early.pk)
    late = make_feed(early.market, Timeframe.M5, is_needed=True, next_due_at=shelf.now + SECOND)

    assert feeds_due(shelf.now + 3 * SECOND) == [early.pk, late.pk]


def test_failures_before_a_refusal_are_neither_forgotten_nor_more(shelf: Shelf) -> None:
    feed = needed_feed(shelf, misses=3, last_error="away")
    refusing(shelf, 2)

    feed_collect(feed.pk)

    feed.refresh_from_db()
    assert feed.misses == 3


def test_nobody_is_left_alone_for_longer_than_the_longest_pause(shelf: Shelf) -> None:
    feed = needed_feed(shelf)
    refusing(shelf, 3600)

    feed_collect(feed.pk)

    assert feeds_due(shelf.now + LONGEST_BACK_OFF + SECOND) == [feed.pk]


def test_a_feed_that_is_refused_again_and_again_becomes_stale_and_not_at_the_first_refusal(shelf: Shelf) -> None:
    feed = needed_feed(shelf, last_open_at=NOON - timedelta(hours=9))
    refusing(shelf, 5)
    stale = []

    for _ in range(2):
        feed_collect(feed.pk)
        feed.refresh_from_db()
        stale.append(feed.stale_since)
        shelf.now += 6 * SECOND

    assert stale == [None, NOON + 36 * SECOND]


# -- told otherwise, late -------------------------------------------------------------------------------------------------


@in_the_open
def test_a_late_revision_replaces_the_candle_keeps_both_values_and_tells_no_strategy(
    shelf: Shelf, bells: Bells, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = needed_feed(shelf)
    feed_collect(feed.pk)
    bells.clear()
    usual = shelf.candles

    def revised(*asked: Any) -> list[CandleReport]:
        return [candle(row.open_at, "50001" if row.open_at == NOON - MINUTE else "50000") for row in usual(*asked)]

    monkeypatch.setattr(shelf, "candles", revised)
    shelf.now, shelf.held_back = NOON + MINUTE, {NOON}
    assert feed_collect(feed.pk) == 0

    feed.refresh_from_db()
    [revision] = feed.revisions.all()
    assert feed.candles.get(open_at=NOON - MINUTE).close == 50001
    assert (revision.open_at, revision.was_close, revision.close) == (NOON - MINUTE, 50000, 50001)
    assert (feed.changes, feed.last_open_at) == (1, NOON - MINUTE)
    assert len(events("marketdata")) == 1
    assert bells.rung("strategies.evaluate") == []


@in_the_open
def test_a_candle_that_was_missing_behind_the_last_is_stored_and_no_news_to_a_strategy(
    shelf: Shelf, bells: Bells
) -> None:
    feed = needed_feed(shelf, last_open_at=NOON - MINUTE)
    feed.candles.all().delete()

    assert feed_collect(feed.pk) == 1

    assert opens(feed) == [NOON - MINUTE]
    assert events("marketdata") == []
    assert bells.rung("strategies.evaluate") == []
