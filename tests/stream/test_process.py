"""The stream as a process beside real workers: what it is worth, what it survives, and how it ends."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.utils import timezone

from embedded.checkout import ROOT
from exchanges.models import Exchange, Quote
from marketdata.models import Candle, Feed
from marketdata.tasks import collect
from orders.models import Order
from positions.models import Position, PositionStatus
from tests.conftest import Bells
from tests.factories import events, make_config, make_exchange, make_feed, make_open_position, make_session
from tests.stream.conftest import seen_at, wait_connected, wait_for_topics
from tests.stream.gate import gate_to
from tests.venue import Venue
from tests.workers import Process, Workers, database_url, wait_until, workers_running

CANDLES, PRICES, ORDERS = "/market/candles:BTC-USDT_1min", "/market/ticker:BTC-USDT", "/spotMarket/tradeOrders"

pytestmark = pytest.mark.flow


@pytest.fixture
def workers() -> Iterator[Workers]:
    with workers_running() as running:
        yield running


def stream(workers: Workers, *names: str, **env: str) -> Process:
    workers.start("stream", [sys.executable, str(ROOT / "manage.py"), "stream", *names], **env)
    workers.wait_ready("stream")
    return workers.processes["stream"]


def a_session(venue: Venue) -> Feed:
    feed = make_feed(venue.market, is_needed=True, next_due_at=timezone.now())
    make_session(venue.account, make_config(venue.account.owner, feed))
    return feed


def price_comes(venue: Venue, price: str, seconds: float = 20) -> None:
    venue.simulator.pin(price)
    wait_until(lambda: Quote.objects.get(market=venue.market).last == int(price), f"the price {price}", seconds)


def test_without_beat_a_closed_candle_is_collected_and_a_crossed_stop_is_left_at(
    venue: Venue, workers: Workers, bells: Bells
) -> None:
    feed = a_session(venue)
    collect([feed.pk])
    Feed.objects.filter(pk=feed.pk).update(next_due_at=timezone.now() + timedelta(hours=1))
    candles = Candle.objects.count()
    session = make_session(venue.account, make_config(venue.account.owner, feed))
    position = make_open_position(session, exits={"stop_loss_percent": "1"})
    venue.simulator.control("accounts", apiKey="key-of-alice", secret="canary-secret-of-alice",
                            passphrase="canary-passphrase-of-alice", balances={"USDT": "9000", "BTC": "0.02"})  # fmt: skip
    bells.clear()
    workers.start_worker("worker-exits")
    workers.start_worker("worker-light")
    workers.wait_ready("worker-exits", "worker-light")
    stream(workers)
    wait_for_topics(venue, CANDLES, PRICES, ORDERS)

    venue.advance(61)
    wait_until(lambda: Candle.objects.count() == candles + 1, "the candle", 20)
    venue.simulator.pin("49400")
    wait_until(lambda: Position.objects.get(pk=position.pk).status == PositionStatus.CLOSED, "the position left", 20)

    assert Order.objects.get(is_exit=True).reason == "STOP_LOSS"
    assert len(venue.orders()) == 1


def test_it_ends_within_two_seconds_of_being_asked_and_says_that_nobody_listens(venue: Venue, workers: Workers) -> None:
    a_session(venue)
    process = stream(workers, venue.exchange.name)
    wait_connected(venue)

    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.wait(10)

    assert time.monotonic() - began < 2 + 1  # and a moment for a busy machine
    assert process.returncode == 0, workers.log("stream")
    assert seen_at(venue) is None
    assert [event for event in events("alerts") if event["alert"] == "STREAM_DOWN"] == []


def test_killed_it_leaves_its_last_sign_of_life_for_the_sweep(venue: Venue, workers: Workers) -> None:
    a_session(venue)
    stream(workers)
    wait_connected(venue)
    workers.kill("stream")

    assert seen_at(venue) is not None


def test_it_survives_a_database_and_a_broker_that_are_away_for_a_while(venue: Venue, workers: Workers) -> None:
    a_session(venue)
    with gate_to(database_url()) as database, gate_to(settings.CELERY_BROKER_URL) as broker:
        process = stream(workers, DATABASE_URL=database.through, REDIS_URL=broker.through)
        wait_for_topics(venue, PRICES)
        price_comes(venue, "50100")
        for gate in (database, broker):
            gate.shut()
            venue.simulator.pin("50200")
            time.sleep(3)
            gate.open()
            price_comes(venue, "50300")
            price_comes(venue, "50100")

        assert process.poll() is None
        log = workers.log("stream")

    assert "canary" not in log
    assert settings.DATABASES["default"]["PASSWORD"] not in log


def test_a_name_that_is_no_enabled_exchange_s_is_refused(venue: Venue) -> None:
    make_exchange("off", is_enabled=False)

    with pytest.raises(CommandError, match="wanted names of enabled exchanges, was nope, off"):
        call_command("stream", "off", venue.exchange.name, "nope")

    assert Exchange.objects.get(pk=venue.exchange.pk).stream_seen_at is None


def test_it_ends_in_time_though_its_database_hangs(venue: Venue, workers: Workers) -> None:
    a_session(venue)
    with gate_to(database_url()) as database:
        process = stream(workers, DATABASE_URL=database.through)
        wait_connected(venue)
        database.stall()
        time.sleep(1)  # until somebody waits for it

        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.wait(10)

    assert time.monotonic() - began < 2 + 1
