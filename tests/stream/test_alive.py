"""Connections break, tokens expire, venues and services go away: the stream comes back, and says what happened once."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar

import pytest
from django.db import connection
from django.utils import timezone

from domain.candles import Timeframe
from exchanges import streaming as venue_streaming
from exchanges.credentials import Credentials
from exchanges.models import Account, Exchange, Quote
from exchanges.tasks import sweep_exchanges
from exchanges.vitals import stream_ended, stream_lost, stream_seen, streams_lost_alert
from marketdata.models import Feed
from pipeline.models import Event
from r3edge_site import streaming
from r3edge_site.streaming import Ear
from tests.conftest import Bells
from tests.factories import NOON, events, make_account, make_config, make_exchange, make_feed, make_session, make_user
from tests.race import at_once
from tests.simulator.conftest import Simulator, simulator
from tests.stream.conftest import listening, seen_at, topics_of, wait_connected, wait_for_topics
from tests.venue import START_MS, Venue
from tests.workers import wait_until

CANDLES, PRICES, ORDERS = "/market/candles:BTC-USDT_1min", "/market/ticker:BTC-USDT", "/spotMarket/tradeOrders"
START_AT = datetime.fromtimestamp(START_MS / 1000, tz=UTC)
MINUTE = timedelta(minutes=1)

in_flow = pytest.mark.flow


def a_session(venue: Venue) -> Feed:
    """The needed feed of a session that trades."""
    feed = make_feed(venue.market, is_needed=True)
    make_session(venue.account, make_config(venue.account.owner, feed))
    return feed


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine takes its time to connect again; that is no loss yet."""
    monkeypatch.setattr(streaming, "DOWN_AFTER", 60.0)


def told() -> list[str]:
    """The alerts about streams, oldest first."""
    return [event["alert"] for event in events("alerts") if str(event["alert"]).startswith("STREAM")]


def kill_connections_to_the_database() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def price_comes(venue: Venue, price: str) -> None:
    venue.simulator.pin(price)
    wait_until(lambda: Quote.objects.get(market=venue.market).last == int(price), f"the price {price}", 20)


# -- the connection -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("patient")
@in_flow
def test_a_stream_that_is_alive_is_written_down_and_one_that_is_ended_no_longer(venue: Venue) -> None:
    a_session(venue)
    with listening(venue.exchange.name):
        wait_connected(venue)
        first = seen_at(venue)
        wait_until(lambda: seen_at(venue) > first, "a later sign of life", 10)

    assert seen_at(venue) is None
    assert told() == []


@pytest.mark.usefixtures("patient")
@in_flow
@pytest.mark.parametrize("trouble", ["drop", "expireTokens"])
def test_a_connection_that_was_cut_is_opened_again_and_nobody_is_bothered(venue: Venue, trouble: str) -> None:
    a_session(venue)
    with listening():
        wait_for_topics(venue, CANDLES, PRICES, ORDERS)
        venue.simulator.control("stream", **{trouble: True})
        wait_until(lambda: topics_of(venue) == set(), "everybody cut off", 10)
        wait_for_topics(venue, CANDLES, PRICES, ORDERS)
        price_comes(venue, "51000")

    assert told() == []


@in_flow
def test_a_venue_that_went_away_is_told_of_once_and_so_is_its_return(venue: Venue) -> None:
    a_session(venue)
    with listening():
        wait_connected(venue)
        venue.fault(path="*/bullet-public", kind="http", status=503, body="", count=None)
        venue.simulator.control("stream", drop=True)
        wait_until(lambda: told() == ["STREAM_DOWN"], "the loss told", 15)
        went_at = seen_at(venue)
        venue.heal()
        wait_until(lambda: told() == ["STREAM_DOWN", "STREAM_BACK"], "the return told", 30)
        wait_connected(venue)

    assert went_at is None
    assert told() == ["STREAM_DOWN", "STREAM_BACK"]
    [lost, _] = events("alerts")
    assert lost["exchange"] == venue.exchange.name
    assert lost["reason"].endswith("; candles, prices and orders are polled meanwhile")


@in_flow
def test_a_venue_that_is_not_there_at_the_start_is_told_of(venue: Venue) -> None:
    a_session(venue)
    Exchange.objects.filter(pk=venue.exchange.pk).update(base_url="http://127.0.0.1:9")
    with listening():
        wait_until(lambda: told() == ["STREAM_DOWN"], "the loss told", 15)


@in_flow
def test_a_feed_on_which_the_stream_is_mute_while_polling_finds_candles_is_told_of(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "RENEW_SILENT_EVERY", 3.0)
    feed = a_session(venue)
    Feed.objects.filter(pk=feed.pk).update(last_open_at=START_AT - MINUTE)
    with listening():
        wait_for_topics(venue, CANDLES)
        wait_connected(venue)
        venue.simulator.control("stream", topic="/market/candles*", muteS=600)
        Feed.objects.filter(pk=feed.pk).update(last_open_at=START_AT + 2 * MINUTE)
        wait_until(lambda: told() == ["STREAM_DOWN"], "the silence told", 15)
        venue.simulator.control("stream")
        wait_until(lambda: told() == ["STREAM_DOWN", "STREAM_BACK"], "the return told", 15)

    assert events("alerts")[0]["reason"].startswith("it says nothing of BTC/USDT 1m, where there are candles")


@pytest.mark.usefixtures("patient")
@in_flow
def test_a_database_that_cuts_its_connections_costs_a_moment(venue: Venue) -> None:
    a_session(venue)
    with listening():
        wait_connected(venue)
        for price in ("50100", "50200"):
            kill_connections_to_the_database()
            price_comes(venue, price)

    assert told() == []


@in_flow
def test_a_broker_that_is_away_keeps_no_price_from_being_stored(venue: Venue, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()

    def away(*_: object, **__: object) -> bool:
        asked.set()
        return False

    monkeypatch.setattr(streaming, "ring", away)
    a_session(venue)
    with listening():
        wait_for_topics(venue, PRICES, ORDERS)
        client = venue.simulator.client()
        client.load_markets()
        client.create_order("BTC/USDT", "limit", "buy", 0.001, 40_000, {"clientOid": "by-hand"})
        assert asked.wait(10)
        price_comes(venue, "50100")


@in_flow
def test_keys_that_the_venue_refuses_leave_the_prices_alone(venue: Venue) -> None:
    a_session(venue)
    venue.simulator.control("accounts", apiKey="key-of-alice", secret="changed", passphrase="changed")
    with listening():
        wait_for_topics(venue, PRICES)
        price_comes(venue, "50100")

        assert ORDERS not in topics_of(venue)


class Redirecting(BaseHTTPRequestHandler):
    """Sends whoever asks for a token elsewhere, and notes who came there."""

    followed: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        if self.path == "/stolen":
            self.followed.append(self.path)
        self.send_response(307)
        self.send_header("Location", "/stolen")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_a_venue_that_redirects_is_not_followed(simulator: Simulator) -> None:
    client = simulator.client()
    client.apiKey = ""
    client.load_markets()
    infos = {"BTC/USDT": client.market("BTC/USDT")}
    with HTTPServer(("127.0.0.1", 0), Redirecting) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        async def listen() -> None:
            url = f"http://127.0.0.1:{server.server_port}"
            keys = Credentials("key", "secret", "passphrase")
            stream = venue_streaming.VenueStream("venue", "kucoin", url, lambda event: None, keys)
            stream.want(venue_streaming.Topics(has_orders=True, prices=frozenset(infos)), infos)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(stream.run(), 2)
            assert stream.trouble

        asyncio.run(listen())
        server.shutdown()

    assert Redirecting.followed == []


# -- who is told, and once ----------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_one_alert_goes_to_each_trader_with_an_account_in_use_there() -> None:
    exchange, alice, bob = make_exchange(), make_user("alice"), make_user("bob")
    first = make_account(alice, exchange)
    make_account(alice, exchange, name="second")
    of_bob = make_account(bob, exchange, name="bobs")
    paused = make_account(make_user("carol"), exchange, name="carols")
    Account.objects.filter(pk=paused.pk).update(status=Account.Status.PAUSED)
    make_account(make_user("dave"), make_exchange("other"), name="daves")

    assert stream_lost(exchange.pk, "it broke")

    assert [(row.key, row.owner_id) for row in journal()] == [(first.pk, alice.pk), (of_bob.pk, bob.pk)]


def journal() -> list[Event]:
    return list(Event.objects.filter(topic="alerts").order_by("pk"))


@pytest.mark.django_db(transaction=True)
def test_of_many_who_notice_a_loss_one_tells() -> None:
    exchange = make_account().exchange
    stream_seen(exchange.pk)

    results = at_once([lambda: stream_lost(exchange.pk, "it broke")] * 4)

    assert sorted(results) == [False, False, False, True]
    assert told() == ["STREAM_DOWN"]


@pytest.mark.django_db
def test_losses_and_returns_are_told_in_turns_and_a_first_sign_of_life_is_no_return() -> None:
    exchange = make_account().exchange

    stream_seen(exchange.pk)
    stream_lost(exchange.pk, "once")
    stream_lost(exchange.pk, "twice")
    stream_seen(exchange.pk)
    stream_seen(exchange.pk)
    stream_ended(exchange.pk)
    stream_seen(exchange.pk)
    stream_lost(exchange.pk, "again")

    assert told() == ["STREAM_DOWN", "STREAM_BACK", "STREAM_DOWN"]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("age", "alerts", "is_cleared"),
    [
        (timedelta(seconds=50), [], False),
        (timedelta(seconds=70), ["STREAM_DOWN"], True),
        (timedelta(hours=25), [], True),
    ],
)
def test_a_process_that_went_away_without_a_word_is_told_of_by_the_sweep_once(
    age: timedelta, alerts: list[str], is_cleared: bool, bells: Bells
) -> None:
    exchange = make_account().exchange
    Exchange.objects.filter(pk=exchange.pk).update(stream_seen_at=timezone.now() - age)

    sweep_exchanges()
    sweep_exchanges()

    exchange.refresh_from_db()
    assert told() == alerts
    assert (exchange.stream_seen_at is None) is is_cleared


@pytest.mark.django_db
def test_a_stream_that_came_back_while_the_sweep_looked_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    exchange = make_account().exchange
    now = timezone.now()
    Exchange.objects.filter(pk=exchange.pk).update(stream_seen_at=now)

    assert not stream_lost(exchange.pk, "seen long ago", not_since=now - MINUTE)
    assert streams_lost_alert(now) == 0
    assert told() == []


# -- silence ------------------------------------------------------------------------------------------------------------


def test_a_feed_is_silent_when_polling_is_ahead_by_a_whole_candle_for_a_while() -> None:
    ear, length = Ear(NOON), Timeframe.M1.length

    heard_nothing_yet = [ear.is_silent(NOON + number * MINUTE, length, at) for number, at in ((0, 0.0), (1, 100.0))]
    ahead = [ear.is_silent(NOON + 2 * MINUTE, length, at) for at in (200.0, 200.5, 201.5)]
    ear.heard = NOON + 3 * MINUTE
    caught_up = ear.is_silent(NOON + 2 * MINUTE, length, 300.0)

    assert heard_nothing_yet == [False, False]
    assert ahead == [False, False, True]
    assert not caught_up


__all__ = ["simulator"]
