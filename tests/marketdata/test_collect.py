"""Collecting candles: each closed one once, whoever asks, however often, and whatever the venue does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import OperationalError
from django.utils import timezone
from psycopg import errors

from domain.candles import Timeframe
from exchanges.gateway import ExchangeUnavailable
from marketdata import collection
from marketdata.collection import LEASE, feed_collect, feeds_due
from marketdata.looks import HISTORY
from marketdata.models import Candle, Feed
from marketdata.outcomes import LOOKS_BEFORE_GAP
from marketdata.services import candles_store
from marketdata.storage import candles_merge
from marketdata.tasks import collect, sweep_feeds
from tests.conftest import Bells
from tests.factories import NOON, events, make_feed
from tests.marketdata.conftest import MINUTE, Shelf, candle, needed_feed, opens
from tests.race import at_once, elsewhere
from tests.simulator.conftest import START_MS
from tests.venue import Venue

pytestmark = pytest.mark.django_db
in_the_open = pytest.mark.django_db(transaction=True)  # with bells that ring, or more than one connection

START_AT = datetime.fromtimestamp(START_MS / 1000, tz=UTC)


# -- marketdata.collect: its work, twice, lost, second ------------------------------------------------------------------


@in_the_open
def test_collecting_from_a_real_venue_stores_history_without_the_open_candle(venue: Venue, bells: Bells) -> None:
    venue.simulator.control("clock", advance_s=30)
    feed = make_feed(venue.market, is_needed=True, next_due_at=timezone.now())

    collect([feed.pk])

    feed.refresh_from_db()
    assert opens(feed) == [START_AT - number * MINUTE for number in range(HISTORY, 0, -1)]
    assert feed.last_open_at == START_AT - MINUTE
    assert (feed.leased_until, feed.misses, feed.last_error) == (None, 0, "")
    assert bells.rung("strategies.evaluate") == [{"feed_ids": [feed.pk]}]
    assert [event["new"] for event in events("marketdata")] == [HISTORY]


def test_a_candle_is_stored_with_every_digit_the_venue_gave(shelf: Shelf) -> None:
    feed = needed_feed(shelf)
    row = candle(NOON - MINUTE, "0.000012345678901234")

    assert candles_store(feed.pk, [row, row]) == 1

    stored = Candle.objects.get(open_at=NOON - MINUTE)
    assert (stored.open, stored.close) == (Decimal("0.000012345678901234"), Decimal("0.000012345678901234"))


@in_the_open
def test_collecting_twice_asks_once_and_announces_once(shelf: Shelf, bells: Bells) -> None:
    feed = needed_feed(shelf)

    collect([feed.pk])
    collect([feed.pk, feed.pk])

    assert shelf.asked == [NOON - 2 * MINUTE]
    assert opens(feed) == [NOON - MINUTE]
    assert len(events("marketdata")) == 1
    assert len(bells.rung("strategies.evaluate")) == 1


@in_the_open
def test_a_candle_that_is_there_already_is_neither_stored_nor_announced_again(shelf: Shelf, bells: Bells) -> None:
    feed = needed_feed(shelf)
    candles_store(feed.pk, [candle(NOON - MINUTE, "49999")])

    assert feed_collect(feed.pk) == 0

    feed.refresh_from_db()
    assert [stored.close for stored in feed.candles.filter(open_at=NOON - MINUTE)] == [50000]
    assert [(was.was_close, was.close) for was in feed.revisions.all()] == [(49999, 50000)]
    assert feed.last_open_at == NOON - MINUTE
    assert events("marketdata") == []
    assert bells.rung("strategies.evaluate") == []


@in_the_open
def test_a_lost_collection_bell_is_rung_again_by_the_sweep(bells: Bells) -> None:
    now = timezone.now()
    late, later = (
        make_feed(timeframe=timeframe, is_needed=True, next_due_at=now - timedelta(seconds=seconds))
        for timeframe, seconds in ((Timeframe.M1, 5), (Timeframe.H1, 9))
    )
    make_feed(timeframe=Timeframe.M5, is_needed=True, next_due_at=now + timedelta(hours=1))
    make_feed(timeframe=Timeframe.M15, is_needed=False, next_due_at=now - timedelta(hours=1))

    sweep_feeds()

    assert bells.rung("marketdata.collect") == [{"feed_ids": [later.pk, late.pk]}]


@in_the_open
def test_one_of_many_collectors_asks_and_stores(shelf: Shelf) -> None:
    feed = needed_feed(shelf)

    results = at_once([lambda: feed_collect(feed.pk)] * 5)

    assert sorted(results) == [0, 0, 0, 0, 1]
    assert shelf.asked == [NOON - 2 * MINUTE]
    assert len(events("marketdata")) == 1


def test_a_feed_that_somebody_is_at_is_left_alone(shelf: Shelf) -> None:
    feed = needed_feed(shelf, leased_until=shelf.now + timedelta(seconds=1))

    assert feed_collect(feed.pk) == 0

    assert shelf.asked == []
    assert feeds_due(shelf.now) == []


def test_the_feed_of_a_dead_collector_is_taken_over_when_its_lease_has_run_out(shelf: Shelf) -> None:
    feed = needed_feed(shelf, leased_until=shelf.now + LEASE)

    shelf.now += LEASE + timedelta(seconds=1)

    assert feeds_due(shelf.now) == [feed.pk]
    assert feed_collect(feed.pk) == 1
    assert opens(feed) == [NOON - MINUTE]


@in_the_open
def test_a_collector_that_was_overtaken_moves_no_clock_and_announces_nothing_twice(shelf: Shelf) -> None:
    feed = needed_feed(shelf)

    def overtaken() -> None:
        shelf.meanwhile = lambda: None
        shelf.now = NOON + MINUTE + timedelta(seconds=1)  # more than a lease later
        assert elsewhere(lambda: feed_collect(feed.pk)) == 2

    shelf.meanwhile = overtaken
    assert feed_collect(feed.pk) == 0

    feed.refresh_from_db()
    assert opens(feed) == [NOON - MINUTE, NOON]
    assert feed.last_open_at == NOON
    assert feed.next_due_at == NOON + 2 * MINUTE
    assert [event["new"] for event in events("marketdata")] == [2]


def test_a_collector_that_failed_after_it_was_overtaken_leaves_the_row_to_the_other(shelf: Shelf) -> None:
    feed = needed_feed(shelf)
    other = shelf.now + 2 * LEASE

    def overtaken() -> None:
        Feed.objects.update(leased_until=other)
        raise ExchangeUnavailable("too late")

    shelf.meanwhile = overtaken
    assert feed_collect(feed.pk) == 0

    feed.refresh_from_db()
    assert (feed.leased_until, feed.misses, feed.last_error) == (other, 0, "")


def test_what_was_imported_while_the_venue_was_asked_is_not_forgotten(shelf: Shelf) -> None:
    feed = needed_feed(shelf)
    shelf.meanwhile = lambda: Feed.objects.update(last_open_at=NOON)

    feed_collect(feed.pk)

    feed.refresh_from_db()
    assert feed.last_open_at == NOON


def test_one_feed_that_breaks_does_not_keep_its_neighbours_waiting(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = needed_feed(shelf)
    broken = make_feed(timeframe=Timeframe.H1, is_needed=True, next_due_at=shelf.now)
    Feed.objects.filter(pk=broken.pk).update(timeframe="7s")

    collect([broken.pk, 12345, feed.pk])

    assert opens(feed) == [NOON - MINUTE]


def test_a_feed_nobody_needs_is_not_asked_for(shelf: Shelf) -> None:
    feed = needed_feed(shelf, is_needed=False)

    assert feed_collect(feed.pk) == 0
    assert shelf.asked == []


# -- closed candles only ------------------------------------------------------------------------------------------------


def test_a_candle_that_closes_while_the_answer_is_on_its_way_is_not_taken_for_whole(shelf: Shelf) -> None:
    feed = needed_feed(shelf)
    shelf.now = NOON + timedelta(seconds=59, milliseconds=900)

    def pass_the_close() -> None:
        shelf.now = NOON + timedelta(seconds=60, milliseconds=200)

    shelf.meanwhile = pass_the_close
    feed_collect(feed.pk)

    feed.refresh_from_db()
    assert opens(feed) == [NOON - MINUTE]
    assert feeds_due(shelf.now) == [feed.pk]


def test_a_candle_is_closed_from_the_very_moment_its_time_is_over(shelf: Shelf) -> None:
    feed = needed_feed(shelf)
    shelf.now = NOON + MINUTE

    feed_collect(feed.pk)

    assert opens(feed) == [NOON - MINUTE, NOON]


def test_closed_is_judged_by_the_venues_clock_not_by_ours(shelf: Shelf) -> None:
    feed = needed_feed(shelf)
    behind = feed.market.exchange
    behind.clock_venue_at = NOON - MINUTE
    behind.save()

    feed_collect(feed.pk)

    assert opens(feed) == []


# -- several, none, late ------------------------------------------------------------------------------------------------


def test_several_candles_that_were_missed_come_in_one_request_and_one_announcement(shelf: Shelf) -> None:
    feed = needed_feed(shelf, last_open_at=NOON - 11 * MINUTE)

    assert feed_collect(feed.pk) == 10

    assert opens(feed) == [NOON - number * MINUTE for number in range(10, 0, -1)]
    assert shelf.asked == [NOON - 11 * MINUTE]
    assert [event["new"] for event in events("marketdata")] == [10]


def test_candles_from_before_what_was_asked_for_are_not_slipped_into_history(shelf: Shelf) -> None:
    feed = needed_feed(shelf)
    shelf.unasked = [NOON - 10 * MINUTE, NOON - 2 * MINUTE]

    assert feed_collect(feed.pk) == 1

    assert opens(feed) == [NOON - MINUTE]


def test_after_a_very_long_absence_only_as_much_as_a_history_is_fetched(shelf: Shelf) -> None:
    feed = needed_feed(shelf, last_open_at=NOON - 5000 * MINUTE)

    assert feed_collect(feed.pk) == HISTORY

    assert shelf.asked == [NOON - HISTORY * MINUTE]


def test_a_first_collection_begins_with_a_history(shelf: Shelf) -> None:
    feed = needed_feed(shelf, last_open_at=None)

    assert feed_collect(feed.pk) == HISTORY
    feed.refresh_from_db()

    assert feed.last_open_at == NOON - MINUTE


def test_the_next_collection_is_due_when_the_next_candle_closes(shelf: Shelf) -> None:
    feed = needed_feed(shelf)

    feed_collect(feed.pk)

    feed.refresh_from_db()
    assert feed.next_due_at == NOON + MINUTE


@pytest.mark.parametrize(("speed", "seconds"), [(60.0, 0.5), (0.5, 60.0), (0.0, 1.0)])
def test_the_next_collection_is_due_by_the_speed_of_the_venues_clock(
    shelf: Shelf, speed: float, seconds: float
) -> None:
    feed = needed_feed(shelf)
    exchange = feed.market.exchange
    exchange.clock_speed, exchange.clock_anchor_at, exchange.clock_venue_at = speed, shelf.now, shelf.now
    exchange.save()

    feed_collect(feed.pk)

    feed.refresh_from_db()
    assert feed.next_due_at == shelf.now + timedelta(seconds=seconds)


def test_a_candle_that_is_late_is_looked_for_again_every_second(shelf: Shelf) -> None:
    feed = needed_feed(shelf)
    shelf.held_back = {NOON - MINUTE}

    feed_collect(feed.pk)

    feed.refresh_from_db()
    assert (feed.misses, feed.next_due_at) == (1, shelf.now + timedelta(seconds=1))
    assert feed.last_open_at == NOON - 2 * MINUTE

    shelf.held_back = set()
    shelf.now += timedelta(seconds=1)
    assert feed_collect(feed.pk) == 1

    feed.refresh_from_db()
    assert (feed.misses, feed.next_due_at, feed.last_open_at) == (0, NOON + MINUTE, NOON - MINUTE)


def test_a_candle_that_does_not_come_is_taken_for_a_gap_after_several_looks(shelf: Shelf) -> None:
    feed = needed_feed(shelf)
    shelf.held_back = {NOON - MINUTE}

    for _ in range(LOOKS_BEFORE_GAP + 1):
        feed_collect(feed.pk)
        shelf.now += timedelta(seconds=1)

    feed.refresh_from_db()
    assert len(shelf.asked) == LOOKS_BEFORE_GAP + 1
    assert (feed.misses, feed.next_due_at) == (0, NOON + MINUTE)


@in_the_open
def test_a_collection_that_lost_a_deadlock_is_stored_again_without_asking_again(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = needed_feed(shelf)
    merge, lost = candles_merge, [errors.DeadlockDetected("deadlock")]

    def losing(rows: Any) -> Any:
        if lost:
            raise OperationalError("gave way") from lost.pop()
        return merge(rows)

    monkeypatch.setattr(collection, "candles_merge", losing)

    assert feed_collect(feed.pk) == 1
    assert (opens(feed), len(shelf.asked), lost) == ([NOON - MINUTE], 1, [])


def test_a_hole_behind_a_newer_candle_is_noted_though_the_newest_is_looked_for_again(shelf: Shelf) -> None:
    feed = needed_feed(shelf, last_open_at=NOON - 4 * MINUTE)
    shelf.held_back = {NOON - 3 * MINUTE, NOON - MINUTE}

    feed_collect(feed.pk)
    shelf.held_back = {NOON - 3 * MINUTE}
    shelf.now += timedelta(seconds=1)
    feed_collect(feed.pk)

    assert opens(feed) == [NOON - 2 * MINUTE, NOON - MINUTE]
    assert [(gap.from_at, gap.missing) for gap in feed.gaps.all()] == [(NOON - 3 * MINUTE, 1)]


def test_a_candle_that_came_after_it_was_given_up_is_stored_with_the_next(shelf: Shelf) -> None:
    feed = needed_feed(shelf)
    shelf.held_back = {NOON - MINUTE}
    for _ in range(LOOKS_BEFORE_GAP + 1):
        feed_collect(feed.pk)
        shelf.now += timedelta(seconds=1)

    shelf.held_back, shelf.now = set(), NOON + MINUTE
    assert feed_collect(feed.pk) == 2

    assert opens(feed) == [NOON - MINUTE, NOON]


def test_a_gap_among_newer_candles_keeps_nobody_waiting(shelf: Shelf) -> None:
    feed = needed_feed(shelf, last_open_at=NOON - 4 * MINUTE)
    shelf.held_back = {NOON - 2 * MINUTE}

    assert feed_collect(feed.pk) == 2

    feed.refresh_from_db()
    assert opens(feed) == [NOON - 3 * MINUTE, NOON - MINUTE]
    assert (feed.misses, feed.next_due_at) == (0, NOON + MINUTE)


# -- a venue that is away -----------------------------------------------------------------------------------------------


def test_a_venue_that_is_away_is_asked_after_growing_pauses_with_the_reason_on_the_row(shelf: Shelf) -> None:
    feed = needed_feed(shelf)
    shelf.error = "NetworkError: kucoin GET"
    pauses = []

    for _ in range(9):
        feed_collect(feed.pk)
        feed.refresh_from_db()
        assert feed.next_due_at is not None
        pauses.append((feed.next_due_at - shelf.now).total_seconds())
        shelf.now = feed.next_due_at

    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert (feed.misses, feed.last_error, feed.leased_until) == (9, "NetworkError: kucoin GET", None)


def test_a_venue_that_is_back_clears_the_reason(shelf: Shelf) -> None:
    feed = needed_feed(shelf, misses=9, last_error="away")

    assert feed_collect(feed.pk) == 1

    feed.refresh_from_db()
    assert (feed.misses, feed.last_error, feed.next_due_at) == (0, "", NOON + MINUTE)


@in_the_open
def test_a_venue_that_is_back_but_behind_is_looked_at_again_at_once(shelf: Shelf) -> None:
    feed = needed_feed(shelf, Timeframe.H1, misses=9, last_error="away")
    shelf.held_back = {NOON - timedelta(hours=1)}

    feed_collect(feed.pk)

    feed.refresh_from_db()
    assert (feed.misses, feed.next_due_at) == (1, shelf.now + timedelta(seconds=1))


def test_a_first_failure_after_several_looks_waits_a_second_only(shelf: Shelf) -> None:
    feed = needed_feed(shelf, misses=4)
    shelf.error = "away"

    feed_collect(feed.pk)

    feed.refresh_from_db()
    assert (feed.misses, feed.next_due_at) == (1, shelf.now + timedelta(seconds=1))


def test_a_reason_longer_than_its_column_is_cut(shelf: Shelf) -> None:
    feed = needed_feed(shelf)
    shelf.error = "x" * 1000

    feed_collect(feed.pk)

    feed.refresh_from_db()
    assert feed.last_error == "x" * 200
