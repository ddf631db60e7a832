"""Traders are told when the candles of their sessions do not come, and when they come again: once each."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User

from domain.candles import Timeframe
from marketdata.models import Feed
from pipeline.models import Event
from sessions.models import SessionStatus, TradingSession
from sessions.services import feed_tell
from sessions.tasks import sweep_sessions, tell
from tests.conftest import Bells
from tests.factories import NOON, make_account, make_config, make_feed, make_session, make_user
from tests.race import at_once

pytestmark = pytest.mark.django_db
in_the_open = pytest.mark.django_db(transaction=True)  # with bells that ring, or more than one connection


def a_session(owner: User, feed: Feed, **fields: Any) -> TradingSession:
    account = make_account(owner, feed.market.exchange, name=f"account {TradingSession.objects.count()}")
    return make_session(account, make_config(owner, feed), **fields)


def stale_feed(**fields: Any) -> Feed:
    return make_feed(**{"is_needed": True, "stale_since": NOON, "last_open_at": NOON, **fields})


def alerts() -> list[Event]:
    return list(Event.objects.filter(topic="alerts").order_by("pk"))


def test_each_trader_with_a_session_on_the_feed_is_told_what_is_known() -> None:
    feed, alice, bob = stale_feed(), make_user("alice"), make_user("bob")
    first = a_session(alice, feed)
    a_session(alice, feed)
    holding = a_session(bob, feed, status=SessionStatus.SUSPENDED, has_exposure=True)
    a_session(make_user("carol"), feed, status=SessionStatus.STOPPED)
    a_session(make_user("dave"), make_feed(timeframe=Timeframe.M5))

    tell([feed.pk])

    told = [(event.key, event.owner_id, event.session_id, event.data["sessions"]) for event in alerts()]
    assert told == [(first.pk, alice.pk, first.pk, 2), (holding.pk, bob.pk, holding.pk, 1)]
    assert alerts()[0].data == {
        "alert": "FEED_STALE",
        "feed": "simulator-BTC/USDT-1m",
        "last_open_at": "2024-05-01 12:00:00+00:00",
        "reason": "the venue answers and has no newer candle: it stands still, or nobody trades there;"
        " no entry is decided meanwhile",
        "sessions": 2,
    }


def test_a_venue_that_cannot_be_read_is_named_as_the_reason() -> None:
    feed = stale_feed(last_error="NetworkError: kucoin GET")
    a_session(make_user(), feed)

    tell([feed.pk])

    assert alerts()[0].data["reason"].startswith("the venue cannot be read: NetworkError: kucoin GET")


def test_told_twice_is_told_once_and_so_is_the_return() -> None:
    feed = stale_feed()
    a_session(make_user(), feed)

    tell([feed.pk, feed.pk])
    Feed.objects.update(stale_since=None)
    tell([feed.pk])
    tell([feed.pk])

    assert [event.data["alert"] for event in alerts()] == ["FEED_STALE", "FEED_BACK"]


@in_the_open
def test_a_lost_bell_is_rung_again_by_the_sweep(bells: Bells) -> None:
    feed = stale_feed()
    a_session(make_user(), feed)
    bells.clear()

    sweep_sessions()

    assert bells.rung("sessions.tell") == [{"feed_ids": [feed.pk]}]


@in_the_open
def test_of_many_who_would_tell_one_does() -> None:
    feed = stale_feed()
    a_session(make_user(), feed)

    assert sorted(at_once([lambda: feed_tell(feed.pk)] * 4)) == [0, 0, 0, 1]
    assert len(alerts()) == 1


def test_a_feed_that_is_gone_keeps_its_neighbours_from_nothing() -> None:
    feed = stale_feed()
    a_session(make_user(), feed)

    tell([12345, feed.pk])

    assert len(alerts()) == 1


def test_a_feed_that_is_fresh_is_nothing_to_tell_of() -> None:
    feed = stale_feed(stale_since=None)
    a_session(make_user(), feed)

    tell([feed.pk])

    assert alerts() == []
    assert feed.stale_told_at is None
