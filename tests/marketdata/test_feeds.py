"""Feeds: one of a kind, due while somebody needs them, and read back as arrays."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from domain.calendars import Calendar
from domain.candles import Timeframe
from marketdata.models import Feed
from marketdata.services import (
    candles_store,
    candles_window,
    feed_ensure,
    feed_need,
    feeds_due,
)
from tests.factories import NOON, make_exchange, make_feed, make_market
from tests.marketdata.conftest import MINUTE, candle
from tests.race import at_once

pytestmark = pytest.mark.django_db
in_the_open = pytest.mark.django_db(transaction=True)  # with bells that ring, or more than one connection

# -- need ---------------------------------------------------------------------------------------------------------------


@in_the_open
def test_there_is_one_feed_of_a_market_and_timeframe() -> None:
    market = make_market()

    feeds = at_once([lambda: feed_ensure(market, Timeframe.M5)] * 4)

    assert len({feed.pk for feed in feeds}) == 1
    assert not feeds[0].is_needed


def test_a_market_is_open_in_one_timeframe_when_it_is_in_another() -> None:
    hours = make_feed(timeframe=Timeframe.H1, calendar=Calendar.XNYS)

    days = feed_ensure(hours.market, Timeframe.D1)

    assert (days.calendar, feed_ensure(make_market(symbol="ETH/USDT"), Timeframe.D1).calendar) == ("XNYS", "24/7")


@in_the_open
def test_a_feed_that_is_needed_is_due_at_once_and_only_the_first_to_say_so_changes_it() -> None:
    feed = make_feed()

    assert feed_need(feed.pk, True)
    assert feeds_due(timezone.now()) == [feed.pk]

    later = timezone.now() + timedelta(hours=1)
    Feed.objects.update(next_due_at=later)
    assert not feed_need(feed.pk, True)

    feed.refresh_from_db()
    assert feed.next_due_at == later


def test_a_feed_nobody_needs_any_more_is_never_due() -> None:
    feed = make_feed(is_needed=True, next_due_at=timezone.now() - timedelta(days=1))

    assert feed_need(feed.pk, False)
    assert not feed_need(feed.pk, False)

    feed.refresh_from_db()
    assert (feed.is_needed, feed.next_due_at) == (False, None)
    assert feeds_due(timezone.now()) == []


def test_feeds_of_a_venue_that_is_switched_off_are_not_due() -> None:
    off = make_exchange("off", is_enabled=False)
    make_feed(make_market(off), is_needed=True, next_due_at=timezone.now())

    assert feeds_due(timezone.now()) == []


# -- reading back -------------------------------------------------------------------------------------------------------


def test_a_window_is_the_last_candles_oldest_first() -> None:
    feed, other = make_feed(), make_feed(timeframe=Timeframe.M5)
    candles_store(feed.pk, [candle(NOON + number * MINUTE, str(100 + number)) for number in (3, 1, 0, 2)])
    candles_store(other.pk, [candle(NOON + 9 * MINUTE, "7")])

    window = candles_window(feed.pk, 3)

    assert list(window.close) == [101.0, 102.0, 103.0]
    assert list(window.open_ms) == [int((NOON + number * MINUTE).timestamp() * 1000) for number in (1, 2, 3)]


def test_a_window_of_nothing_is_empty() -> None:
    assert len(candles_window(make_feed().pk, 10)) == 0
