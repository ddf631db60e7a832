"""Feeds with more than one source, and markets that are closed at times: whom a collection asks, and when it asks next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from domain.calendars import Calendar
from domain.candles import Timeframe
from domain.quality import Flaw
from exchanges.gateway import CandleReport
from marketdata import collection, looks
from marketdata.collection import feed_collect, feeds_collect
from marketdata.failover import Choice
from marketdata.looks import STALE_MARGIN
from marketdata.models import Candle, Feed, FeedSource, QuarantinedCandle, SourceKind
from marketdata.sources import SourceFailed
from tests.factories import NOON
from tests.marketdata.conftest import MINUTE, Shelf, candle, needed_feed, opens
from tests.marketdata.test_batches import Venues, ids_of, many_feeds, venues
from tests.marketdata.test_quarantine import Doubts, doubts

pytestmark = pytest.mark.django_db

__all__ = ["doubts", "venues"]  # fixtures

LAST = NOON - MINUTE
SECOND = timedelta(seconds=1)


@dataclass
class Place:
    """A source that answers with ``rows``, or fails as it is told."""

    kind: SourceKind
    rows: list[CandleReport] = field(default_factory=list)
    error: SourceFailed | None = None
    failures: int = 0
    asked: int = 0
    meanwhile: Callable[[], object] = lambda: None

    def candles(self, since: datetime, limit: int) -> list[CandleReport]:
        self.asked += 1
        self.meanwhile()
        if self.error:
            raise self.error
        return self.rows


@dataclass
class Places:
    """The sources of every feed in their order, and what was told of them."""

    places: list[Place] = field(default_factory=list)
    told: list[str] = field(default_factory=list)


def choice_of(place: Place) -> Choice:
    return Choice(place.kind, place, FeedSource(kind=place.kind, failures=place.failures))


@pytest.fixture
def places(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> Places:
    known = Places()
    monkeypatch.setattr(collection, "sources_to_ask", lambda feed, now: [choice_of(place) for place in known.places])
    monkeypatch.setattr(
        collection, "source_served", lambda feed, choice, now: known.told.append(f"{choice.kind.name} served")
    )
    monkeypatch.setattr(
        collection, "source_failed",
        lambda feed, choice, error, now: known.told.append(f"{choice.kind.name} failed: {error}"),
    )  # fmt: skip
    return known


def refreshed(feed: Feed) -> Feed:
    feed.refresh_from_db()
    return feed


# -- the next in line -----------------------------------------------------------------------------------------------------


def test_the_first_source_that_answers_is_taken_and_no_other_is_asked(shelf: Shelf, places: Places) -> None:
    feed = needed_feed(shelf)
    second = Place(SourceKind.YAHOO, [candle(LAST, "2")])
    places.places = [Place(SourceKind.EXCHANGE, [candle(LAST)]), second]

    assert feed_collect(feed.pk) == 1

    assert second.asked == 0
    assert places.told == ["EXCHANGE served"]


def test_where_one_fails_the_next_is_asked_in_the_same_collection(shelf: Shelf, places: Places) -> None:
    feed = needed_feed(shelf)
    places.places = [
        Place(SourceKind.EXCHANGE, error=SourceFailed("away")),
        Place(SourceKind.YAHOO, [candle(LAST, "2")]),
    ]

    assert feed_collect(feed.pk) == 1

    stored = Candle.objects.get(open_at=LAST)
    assert (stored.close, stored.source) == (2, SourceKind.YAHOO)
    assert places.told == ["EXCHANGE failed: away", "YAHOO served"]
    assert (refreshed(feed).last_error, feed.misses, feed.next_due_at) == ("", 0, NOON + MINUTE)


def test_one_that_hangs_for_so_long_that_no_other_can_be_asked_has_failed_and_the_next_collection_asks_another(
    shelf: Shelf, places: Places
) -> None:
    feed = needed_feed(shelf)

    def hang() -> None:
        shelf.now += timedelta(seconds=10)

    second = Place(SourceKind.YAHOO, [candle(LAST, "2")])
    places.places = [Place(SourceKind.EXCHANGE, error=SourceFailed("timed out"), meanwhile=hang), second]

    assert feed_collect(feed.pk) == 0

    assert (refreshed(feed).leased_until, second.asked) == (None, 0)
    assert places.told == ["EXCHANGE failed: timed out"]


def test_an_answer_whose_newest_candle_is_bad_is_quarantined_and_the_next_source_s_is_taken(
    shelf: Shelf, places: Places, doubts: Doubts
) -> None:
    feed = needed_feed(shelf)
    doubts.flaws[1.0] = Flaw.NOT_A_PRICE
    places.places = [Place(SourceKind.EXCHANGE, [candle(LAST, "1")]), Place(SourceKind.YAHOO, [candle(LAST, "2")])]

    assert feed_collect(feed.pk) == 1

    assert Candle.objects.get(open_at=LAST).close == 2
    assert [(kept.source, kept.row["close"]) for kept in QuarantinedCandle.objects.all()] == [
        (SourceKind.EXCHANGE, "1")
    ]
    assert places.told == ["EXCHANGE failed: NOT_A_PRICE: wanted a close near 50000, was 1.0", "YAHOO served"]


def test_a_bad_row_behind_a_good_one_fails_no_source(shelf: Shelf, places: Places, doubts: Doubts) -> None:
    feed = needed_feed(shelf, last_open_at=NOON - 4 * MINUTE)
    doubts.flaws[49999.0] = Flaw.BAD_OHLC
    places.places = [
        Place(SourceKind.EXCHANGE, [candle(NOON - 2 * MINUTE, "49999"), candle(LAST)]),
        Place(SourceKind.YAHOO, [candle(LAST, "2")]),
    ]

    feed_collect(feed.pk)

    assert opens(feed) == [LAST]
    assert places.told == ["EXCHANGE served"]


def test_a_jump_fails_no_source(shelf: Shelf, places: Places, doubts: Doubts) -> None:
    feed = needed_feed(shelf)
    doubts.flaws[1.0] = Flaw.JUMP
    places.places = [Place(SourceKind.EXCHANGE, [candle(LAST, "1")]), Place(SourceKind.YAHOO, [candle(LAST, "2")])]

    feed_collect(feed.pk)
    shelf.now += SECOND
    feed_collect(feed.pk)

    assert Candle.objects.get(open_at=LAST).close == 1
    assert places.told == ["EXCHANGE served", "EXCHANGE served"]


def test_a_source_that_stands_still_gives_way_to_one_with_newer_candles(shelf: Shelf, places: Places) -> None:
    old = NOON - 9 * MINUTE
    feed = needed_feed(shelf, last_open_at=old)
    places.places = [Place(SourceKind.EXCHANGE, [candle(old)]), Place(SourceKind.YAHOO, [candle(LAST, "2")])]

    feed_collect(feed.pk)

    assert opens(feed) == [LAST]
    assert places.told == ["EXCHANGE failed: wanted newer candles, another source has them", "YAHOO served"]


def test_where_nobody_has_anything_newer_no_source_is_blamed_and_the_feed_is_stale(
    shelf: Shelf, places: Places
) -> None:
    old = NOON - 9 * MINUTE
    feed = needed_feed(shelf, last_open_at=old)
    places.places = [Place(SourceKind.EXCHANGE, [candle(old)]), Place(SourceKind.YAHOO, [candle(old)])]

    feed_collect(feed.pk)

    assert places.told == []
    assert refreshed(feed).stale_since == shelf.now


def test_a_source_that_failed_before_serves_again_with_news_only(shelf: Shelf, places: Places) -> None:
    feed = needed_feed(shelf)
    tried, second = Place(SourceKind.EXCHANGE, [candle(NOON - 2 * MINUTE)], failures=1), Place(SourceKind.YAHOO)
    places.places = [tried, second]

    second.rows = [candle(NOON - 2 * MINUTE)]  # nobody has it yet
    feed_collect(feed.pk)
    nobody = list(places.told)
    second.rows, shelf.now = [candle(LAST, "2")], shelf.now + SECOND
    feed_collect(feed.pk)

    assert nobody == []
    assert places.told == ["EXCHANGE failed: wanted newer candles, another source has them", "YAHOO served"]

    tried.rows, shelf.now = [candle(NOON)], NOON + MINUTE
    feed_collect(feed.pk)
    assert places.told[2:] == ["EXCHANGE served"]


def test_a_source_that_wants_a_moment_is_waited_for_and_no_other_is_asked(shelf: Shelf, places: Places) -> None:
    feed = needed_feed(shelf)
    short, second = SourceFailed("over its rate", retry_after=3 * SECOND), Place(SourceKind.YAHOO, [candle(LAST)])
    places.places = [Place(SourceKind.EXCHANGE, error=short), second]

    feed_collect(feed.pk)

    assert second.asked == 0
    assert (refreshed(feed).leased_until, feed.misses) == (shelf.now + 3 * SECOND, 0)


def test_where_every_source_fails_the_feed_says_why_of_each(shelf: Shelf, places: Places) -> None:
    feed = needed_feed(shelf)
    places.places = [
        Place(SourceKind.EXCHANGE, error=SourceFailed("away")),
        Place(SourceKind.YAHOO, error=SourceFailed("over its rate", retry_after=timedelta(seconds=9))),
    ]

    assert feed_collect(feed.pk) == 0

    assert refreshed(feed).last_error == "away; over its rate"
    assert (feed.misses, feed.next_due_at) == (1, shelf.now + SECOND)
    assert places.told == ["EXCHANGE failed: away", "YAHOO failed: over its rate"]


def test_where_only_a_bad_answer_is_to_be_had_its_good_rows_are_taken_and_it_is_looked_for_again(
    shelf: Shelf, places: Places, doubts: Doubts
) -> None:
    feed = needed_feed(shelf, last_open_at=NOON - 3 * MINUTE)
    doubts.flaws[49999.0] = Flaw.BAD_OHLC
    places.places = [
        Place(SourceKind.EXCHANGE, [candle(NOON - 2 * MINUTE), candle(LAST, "1")]),
        Place(SourceKind.YAHOO, error=SourceFailed("away")),
    ]

    feed_collect(feed.pk)

    assert opens(feed) == [NOON - 2 * MINUTE]
    assert (refreshed(feed).misses, feed.last_error, feed.next_due_at) == (1, "", shelf.now + SECOND)


def test_where_all_sources_are_to_be_left_alone_the_feed_waits(shelf: Shelf, places: Places) -> None:
    feed = needed_feed(shelf)

    assert feed_collect(feed.pk) == 0

    assert refreshed(feed).last_error == "wanted a source to ask, all of them are left alone for a while"
    assert (feed.misses, feed.next_due_at) == (1, shelf.now + SECOND)


def test_in_a_batch_each_feed_goes_down_its_own_line(venues: Venues, shelf: Shelf, places: Places) -> None:
    feeds = many_feeds(shelf, 6)
    places.places = [
        Place(SourceKind.EXCHANGE, error=SourceFailed("away")),
        Place(SourceKind.YAHOO, [candle(LAST, "2")]),
    ]

    assert feeds_collect(ids_of(feeds)) == 6

    assert set(Candle.objects.filter(open_at=LAST).values_list("source", flat=True)) == {SourceKind.YAHOO}
    assert sorted(places.told) == ["EXCHANGE failed: away"] * 6 + ["YAHOO served"] * 6


# -- a market that closes ---------------------------------------------------------------------------------------------------

FRIDAY_EVENING = datetime(2024, 5, 3, 23, 59, tzinfo=UTC)
MONDAY = datetime(2024, 5, 6, tzinfo=UTC)


@pytest.fixture
def weekdays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A calendar that is open from Monday to Friday, UTC."""

    def next_open(calendar: Calendar, timeframe: Timeframe, after_ms: int) -> int:
        step = timeframe.seconds * 1000
        open_ms = (after_ms // step + 1) * step
        while datetime.fromtimestamp(open_ms / 1000, tz=UTC).weekday() > 4:
            open_ms += step
        return open_ms

    monkeypatch.setattr(looks, "next_open", next_open)


def test_after_the_last_candle_of_the_week_the_next_look_is_when_the_first_of_the_next_has_closed(
    shelf: Shelf, weekdays: None
) -> None:
    shelf.now = FRIDAY_EVENING + MINUTE + SECOND
    feed = needed_feed(shelf, last_open_at=FRIDAY_EVENING - MINUTE)

    assert feed_collect(feed.pk) == 1

    assert opens(feed) == [FRIDAY_EVENING]
    assert (refreshed(feed).next_due_at, feed.misses) == (MONDAY + MINUTE, 0)


def test_over_a_weekend_nothing_is_looked_for_again_and_nothing_becomes_stale(shelf: Shelf, weekdays: None) -> None:
    shelf.now = FRIDAY_EVENING + timedelta(days=1)
    shelf.held_back = {FRIDAY_EVENING + number * MINUTE for number in range(1, 3000)}
    feed = needed_feed(shelf, last_open_at=FRIDAY_EVENING)

    feed_collect(feed.pk)

    assert (refreshed(feed).next_due_at, feed.misses, feed.stale_since) == (MONDAY + MINUTE, 0, None)


@pytest.mark.parametrize(("early", "is_stale"), [(SECOND, False), (timedelta(0), True)])
def test_after_the_weekend_two_candles_that_do_not_come_make_it_stale(
    shelf: Shelf, weekdays: None, early: timedelta, is_stale: bool
) -> None:
    shelf.now = MONDAY + 2 * MINUTE + STALE_MARGIN - early
    shelf.held_back = {FRIDAY_EVENING + number * MINUTE for number in range(1, 5000)}
    feed = needed_feed(shelf, last_open_at=FRIDAY_EVENING)

    feed_collect(feed.pk)

    assert (refreshed(feed).stale_since is not None) is is_stale
