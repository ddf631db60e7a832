"""Feeds whose candles do not come, and feeds of which the stream has shown more than was collected."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from domain.candles import Timeframe
from domain.strategy import SignalKind
from exchanges.models import Exchange
from exchanges.services import exchange_clock_sync
from marketdata.collection import LEASE, feed_collect
from marketdata.looks import STALE_MARGIN
from marketdata.models import Feed
from marketdata.outcomes import STALE_AFTER_FAILURES
from marketdata.services import feed_need, feed_note_told, feeds_hasten, feeds_untold
from marketdata.tasks import collect
from strategies.models import Signal
from strategies.services import feed_evaluate
from tests.factories import NOON, make_config, make_feed
from tests.marketdata.conftest import MINUTE, Shelf, needed_feed
from tests.race import at_once
from tests.venue import Venue

pytestmark = pytest.mark.django_db
in_the_open = pytest.mark.django_db(transaction=True)  # with more than one connection

SECOND = timedelta(seconds=1)
LAST = NOON - MINUTE  # opened then, closed at noon
STALE_AT = NOON + 2 * MINUTE + STALE_MARGIN


def standing_feed(shelf: Shelf, **fields: Any) -> Feed:
    """A feed whose last candle closed at noon; the venue has none that is newer."""
    shelf.now = NOON + SECOND
    shelf.held_back = {NOON + number * MINUTE for number in range(600)}
    return needed_feed(shelf, **{"last_open_at": LAST, **fields})


def collect_until(shelf: Shelf, feed: Feed, until: Callable[[], bool]) -> None:
    """Collect whenever it is due, as the sweep does."""
    while not until():
        feed.refresh_from_db()
        assert feed.next_due_at is not None
        shelf.now = max(shelf.now, feed.next_due_at)
        feed_collect(feed.pk)
        feed.refresh_from_db()


# -- stale --------------------------------------------------------------------------------------------------------------


def test_a_feed_without_candles_is_stale_two_timeframes_and_a_minute_after_its_last_one_closed(shelf: Shelf) -> None:
    feed = standing_feed(shelf)

    collect_until(shelf, feed, lambda: feed.stale_since is not None)

    assert feed.stale_since == shelf.now == STALE_AT


@pytest.mark.parametrize(("early", "is_stale"), [(SECOND, False), (timedelta(0), True)])
def test_not_a_second_sooner(shelf: Shelf, early: timedelta, is_stale: bool) -> None:
    feed = standing_feed(shelf)
    shelf.now = STALE_AT - early

    feed_collect(feed.pk)

    feed.refresh_from_db()
    assert (feed.stale_since is not None) is is_stale


def test_a_long_candle_s_feed_is_looked_at_when_it_becomes_stale_and_not_a_candle_later(shelf: Shelf) -> None:
    shelf.now, hour = NOON + timedelta(hours=2, seconds=10), timedelta(hours=1)
    shelf.held_back = {NOON + number * hour for number in range(9)}
    feed = needed_feed(shelf, Timeframe.H1, last_open_at=NOON - hour, misses=5)

    feed_collect(feed.pk)
    feed.refresh_from_db()
    assert feed.next_due_at == NOON + 2 * hour + STALE_MARGIN
    shelf.now = feed.next_due_at
    feed_collect(feed.pk)

    feed.refresh_from_db()
    assert feed.stale_since == shelf.now


def test_a_stale_feed_stays_so_since_then_until_a_candle_comes(shelf: Shelf) -> None:
    feed = standing_feed(shelf)
    collect_until(shelf, feed, lambda: feed.stale_since is not None)
    since = feed.stale_since

    collect_until(shelf, feed, lambda: shelf.now > STALE_AT + 3 * MINUTE)
    still_since = feed.stale_since
    shelf.held_back = set()
    collect_until(shelf, feed, lambda: feed.last_open_at is not None and feed.last_open_at > LAST)

    assert still_since == since
    assert feed.stale_since is None


def test_a_venue_that_goes_on_answering_with_old_candles_makes_a_stale_feed(shelf: Shelf) -> None:
    feed = standing_feed(shelf)
    shelf.unasked = [LAST - MINUTE, LAST]
    shelf.now = STALE_AT

    feed_collect(feed.pk)

    feed.refresh_from_db()
    assert (feed.last_open_at, feed.stale_since, feed.last_error) == (LAST, STALE_AT, "")


@pytest.mark.parametrize("is_first", [True, False])
def test_one_failure_after_a_long_absence_of_ours_makes_no_feed_stale_but_several_do(
    shelf: Shelf, is_first: bool
) -> None:
    feed = needed_feed(shelf, last_open_at=None if is_first else NOON - timedelta(hours=9))
    shelf.error = "away"

    for _ in range(STALE_AFTER_FAILURES):
        feed.refresh_from_db()
        assert feed.stale_since is None
        shelf.now += LEASE
        Feed.objects.update(next_due_at=shelf.now)
        feed_collect(feed.pk)

    feed.refresh_from_db()
    assert (feed.stale_since, feed.last_error) == (shelf.now, "away")


def test_a_feed_whose_venue_is_away_but_whose_candles_are_fresh_is_not_stale(shelf: Shelf) -> None:
    feed = needed_feed(shelf, misses=STALE_AFTER_FAILURES, last_error="away")
    shelf.error = "away"

    feed_collect(feed.pk)

    feed.refresh_from_db()
    assert feed.stale_since is None


@pytest.mark.parametrize(("speed", "is_stale"), [(0.0, False), (1.0, True), (60.0, False), (0.1, False)])
def test_a_clock_that_stands_still_makes_nothing_stale_and_the_margin_is_a_minute_of_ours(
    shelf: Shelf, speed: float, is_stale: bool
) -> None:
    feed = standing_feed(shelf)
    Exchange.objects.update(clock_speed=speed, clock_anchor_at=NOON, clock_venue_at=NOON)
    shelf.now = NOON + (STALE_AT - NOON) / max(speed, 1)

    feed_collect(feed.pk)

    feed.refresh_from_db()
    assert (feed.stale_since is not None) is is_stale


def test_a_feed_that_is_no_longer_needed_is_no_longer_stale(shelf: Shelf) -> None:
    feed = standing_feed(shelf, stale_since=NOON, stale_told_at=NOON)

    feed_need(feed.pk, False)

    feed.refresh_from_db()
    assert (feed.stale_since, feed.stale_told_at) == (None, None)


def test_a_collector_that_was_overtaken_does_not_judge(shelf: Shelf) -> None:
    feed = standing_feed(shelf)
    shelf.now = STALE_AT
    shelf.meanwhile = lambda: Feed.objects.update(leased_until=STALE_AT + 2 * LEASE)

    feed_collect(feed.pk)

    feed.refresh_from_db()
    assert feed.stale_since is None


# -- who has been told ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stale_since", "told_at", "is_found"),
    [(NOON, None, True), (None, NOON, True), (NOON, NOON, False), (None, None, False)],
)
def test_a_standstill_or_a_return_that_nobody_was_told_of_is_found(
    stale_since: object, told_at: object, is_found: bool
) -> None:
    feed = make_feed(is_needed=True, stale_since=stale_since, stale_told_at=told_at)

    assert feeds_untold(timezone.now()) == ([feed.pk] if is_found else [])
    assert feed_note_told(feed) is is_found
    assert feeds_untold(timezone.now()) == []


@in_the_open
def test_of_many_who_would_tell_one_does() -> None:
    feed = make_feed(is_needed=True, stale_since=NOON)

    assert sorted(at_once([lambda: feed_note_told(feed)] * 4)) == [False, False, False, True]


def test_nobody_is_told_of_what_is_no_longer_so() -> None:
    feed = make_feed(is_needed=True, stale_since=NOON)
    Feed.objects.update(stale_since=None)

    assert not feed_note_told(feed)


# -- the stream was quicker -----------------------------------------------------------------------------------------------


@in_the_open
def test_a_feed_of_which_a_newer_candle_has_begun_is_due_now(shelf: Shelf) -> None:
    feed = needed_feed(shelf, next_due_at=NOON + MINUTE)

    assert feeds_hasten({feed.pk: NOON}) == {feed.pk: True}

    feed.refresh_from_db()
    assert feed.next_due_at == shelf.now


def test_a_feed_that_has_the_candle_already_is_left_alone(shelf: Shelf) -> None:
    feed = needed_feed(shelf, last_open_at=NOON - MINUTE, next_due_at=NOON + MINUTE)

    assert feeds_hasten({feed.pk: NOON, 12345: NOON}) == {feed.pk: False}

    feed.refresh_from_db()
    assert feed.next_due_at == NOON + MINUTE


def test_a_candle_that_has_not_closed_by_our_notion_of_the_clock_is_asked_about_again(shelf: Shelf) -> None:
    feed = needed_feed(shelf, last_open_at=NOON - MINUTE, next_due_at=NOON + MINUTE)

    too_soon = feeds_hasten({feed.pk: NOON + MINUTE})
    shelf.now = NOON + MINUTE

    assert (too_soon, feeds_hasten({feed.pk: NOON + MINUTE})) == ({}, {feed.pk: True})


def test_a_feed_that_could_not_be_read_waits_out_its_pause(shelf: Shelf) -> None:
    feed = needed_feed(shelf, next_due_at=NOON + MINUTE, last_error="429", misses=3)

    assert feeds_hasten({feed.pk: NOON}) == {feed.pk: False}

    feed.refresh_from_db()
    assert feed.next_due_at == NOON + MINUTE


# -- a real venue ---------------------------------------------------------------------------------------------------------


def lagging(venue: Venue, minutes: int) -> Feed:
    """A feed of a venue whose clock runs and whose candles are that old."""
    venue.simulator.control("clock", speed=1)
    Exchange.objects.filter(pk=venue.exchange.pk).update(clock_speed=1.0)
    exchange_clock_sync(venue.exchange.pk)
    venue.simulator.control("settings", candleLagMs=minutes * 60_000)
    return make_feed(venue.market, is_needed=True, next_due_at=timezone.now())


@in_the_open
@pytest.mark.parametrize(("minutes", "is_stale"), [(2, False), (10, True)])
def test_a_venue_whose_candles_are_old_makes_a_stale_feed_and_no_signal(
    venue: Venue, minutes: int, is_stale: bool
) -> None:
    feed = lagging(venue, minutes)
    make_config(venue.account.owner, feed, is_needed=True)

    collect([feed.pk])
    feed_evaluate(feed.pk)

    feed.refresh_from_db()
    assert (feed.stale_since is not None) is is_stale
    signal = Signal.objects.get()
    assert (signal.kind, signal.reason) == (SignalKind.NOTHING, "STALE: a newer candle has closed since")


@in_the_open
def test_a_venue_whose_candles_are_new_again_makes_the_feed_fresh(venue: Venue) -> None:
    feed = lagging(venue, 10)
    collect([feed.pk])
    venue.simulator.control("settings", candleLagMs=0)
    Feed.objects.update(next_due_at=timezone.now())

    collect([feed.pk])

    feed.refresh_from_db()
    assert feed.stale_since is None
