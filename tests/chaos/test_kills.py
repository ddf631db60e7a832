"""Processes die, the broker forgets, answers get lost, bells ring twice, all in one seeded order; then the books balance.

R3EDGE_CHAOS_SEED chooses another storm; a storm that finds something says its seed and what it did up to then. The seed
fixes what happens in which order; to which order of ours it happens is up to the processes.
"""

from __future__ import annotations

import inspect
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from celery import current_app
from django.db import models
from django.db.models import Count, F, Q, Sum

from domain.orders import LIVE_STATUSES, OrderStatus
from embedded.processes import beat_command
from exchanges.models import Account, Exchange, Market
from exchanges.services import exchange_clock_sync
from marketdata.models import Feed
from orders.models import Fill, Order
from pipeline.models import Event
from pipeline.topics import QUEUES, ring
from positions.models import Intent, Position, Reconciliation
from positions.reconciliation import account_reconcile
from sessions.models import SessionStatus, TradingSession
from sessions.services import session_create, session_start, session_stop
from strategies.models import Signal, StrategyConfig
from tests.conftest import Bells
from tests.factories import let_pass, make_config, make_feed, make_limits
from tests.venue import START_MS, Venue
from tests.workers import Workers, wait_until, workers_running

SEED = int(os.environ.get("R3EDGE_CHAOS_SEED", "7"))
SPEED = 30
ORDERS = "/api/v1/hf/orders"
PROCESSES = ("worker-light", "worker-strategies", "beat")
# A dead worker's claims are given up after 15 s and its leases after 30 s; nobody waits that long here.
OUTLIVED_SECONDS = 31
ROUND_TRIPS = 3

# Which rows an argument of a task speaks of.
NAMED: dict[str, type[models.Model]] = {
    "account_ids": Account, "exchange_ids": Exchange, "feed_ids": Feed, "order_ids": Order, "session_ids": TradingSession,
    "signal_ids": Signal,
}  # fmt: skip


def bells_of_everything() -> Iterator[tuple[str, str, list[int]]]:
    """Every task of the platform that takes ids, its argument, and the ids of every row there is of that kind."""
    current_app.loader.import_default_modules()
    for name, task in sorted(current_app.tasks.items()):
        arguments = list(inspect.signature(task.run).parameters) if name.split(".")[0] in QUEUES else []
        if arguments:
            [argument] = arguments
            yield name, argument, list(NAMED[argument]._default_manager.order_by("pk").values_list("pk", flat=True))


def ring_everything() -> None:
    for task, argument, ids in bells_of_everything():
        assert ring(task, batch=5, **{argument: ids})


@dataclass
class Storm:
    """What goes wrong, in an order that the seed decides, and what of it has happened."""

    venue: Venue
    workers: Workers
    bells: Bells
    rng: random.Random
    happened: list[str] = field(default_factory=list)

    def deck(self) -> list[tuple[str, Callable[[], None]]]:
        """Everything that can go wrong at least once, shuffled."""
        victims = [*PROCESSES, "worker-light", self.rng.choice(PROCESSES)]
        faults = [(kind, when) for kind in ("hang", "drop", "http") for when in ("before", "after")]
        blows: list[tuple[str, Callable[[], None]]] = [
            *((f"kill {name}", lambda name=name: self.restart(name)) for name in victims),
            *((f"{kind} {when}", lambda kind=kind, when=when: self.spoil(kind, when)) for kind, when in faults),
            *[("empty broker", self.bells.clear)] * 3,
            *[("ring everything", ring_everything)] * 2,
        ]
        self.rng.shuffle(blows)
        return blows

    def rage(self) -> None:
        for name, blow in self.deck():
            time.sleep(self.rng.uniform(0.3, 1.3))
            self.happened.append(name)
            blow()

    def restart(self, name: str) -> None:
        """Kill a process and start it again; its successor finds what it left behind as if long ago."""
        self.workers.kill(name)
        if name == "worker-light":
            for order in Order.objects.filter(Q(status=OrderStatus.SUBMITTING) | Q(leased_until__isnull=False)):
                let_pass(order, OUTLIVED_SECONDS)
            Reconciliation.objects.update(leased_until=None)
            Feed.objects.update(leased_until=F("leased_until") - timedelta(seconds=OUTLIVED_SECONDS))
        if name == "beat":
            self.workers.start(name, beat_command())
        else:
            self.workers.start_worker(name)

    def spoil(self, kind: str, when: str) -> None:
        """Let the next order of ours meet a fault."""
        status = {"status": 500} if kind == "http" else {}
        seconds = {"seconds": 3} if kind == "hang" else {}
        self.venue.fault(method="POST", path=ORDERS, kind=kind, when=when, **status, **seconds)


@contextmanager
def told(storm: Storm) -> Iterator[None]:
    """A failure inside says how to repeat it and what the processes said last."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"R3EDGE_CHAOS_SEED={SEED}; it happened: {', '.join(storm.happened)}")
        for order in Order.objects.order_by("pk"):
            error.add_note(f"{order} {order.side} {order.market.symbol} {order.status} {order.reason}: {order.detail}")
        for name in storm.workers.processes:
            error.add_note(f"{name}:\n{storm.workers.log(name)}")
        raise


def script(venue: Venue, symbol: str, price: float, rng: random.Random) -> None:
    """30 quiet falling minutes, then runs of one to three minutes up and down, of up to 1.2 percent each."""
    closes = [price * (1 - 0.0002 * minute) for minute in range(30)]
    direction = 1
    while len(closes) < 400:
        for _ in range(rng.randint(1, 3)):
            closes.append(closes[-1] * (1 + direction * rng.uniform(0.003, 0.012)))
        direction = -direction
    rounded = [round(close, 1) for close in closes]
    first_ms = START_MS - 30 * 60_000
    rows = [[first_ms + minute * 60_000, *[close] * 4, 1.0] for minute, close in enumerate(rounded)]
    venue.simulator.control(f"market/{symbol}/candles", candles=rows)


def start_sessions(venue: Venue) -> list[int]:
    """Two sessions on each of two markets, all on one account, trading while market time runs SPEED times as fast as ours."""
    account = venue.account
    make_limits(account)
    sessions = []
    for symbol, slow, amount in (
        ("BTC/USDT", 3, 1000),
        ("BTC/USDT", 4, 700),
        ("ETH/USDT", 3, 900),
        ("ETH/USDT", 4, 300),
    ):
        feed = make_feed(Market.objects.get(exchange=venue.exchange, symbol=symbol))
        config = make_config(account.owner, feed, parameters={"fast": 2, "slow": slow})
        sessions.append(
            session_create(
                TradingSession(
                    account=account, config=config, sizing_method="FIXED_QUOTE", sizing_amount=Decimal(amount),
                    stop_loss_percent=Decimal("0.5"), take_profit_percent=Decimal(1),
                )
            ).pk
        )  # fmt: skip
    venue.exchange.clock_speed = SPEED
    venue.exchange.save()
    venue.simulator.control("clock", speed=SPEED)
    exchange_clock_sync(venue.exchange.pk)
    for session_id in sessions:
        session_start(session_id)
    return sessions


def snapshot(venue: Venue) -> dict[str, Any]:
    """All that a second ring could spoil, here and at the exchange."""
    rows: Sequence[type[models.Model]] = (
        Order,
        Fill,
        Intent,
        Position,
        TradingSession,
        Signal,
        StrategyConfig,
        Feed,
        Event,
    )
    oracle = venue.simulator.oracle()
    return {
        **{model.__name__: list(model._default_manager.order_by("pk").values()) for model in rows},
        "exchange": {name: oracle[name] for name in ("orders", "fills", "balances")},
        "sent": len(venue.requests_of("POST", ORDERS)),
    }


def assert_orders_match(venue: Venue) -> None:
    """Each order of the exchange has one row, each row that says it was there has one order, and none was sent twice."""
    there = venue.orders()
    ours = Order.objects.exclude(exchange_order_id="").values_list("client_order_id", "exchange_order_id")
    assert sorted(ours) == sorted((order["clientOid"], order["id"]) for order in there)
    sent = Counter(line["clientOid"] for line in venue.requests_of("POST", ORDERS))
    assert [oid for oid, times in sent.items() if times > 1] == []
    accepted = Order.objects.filter(client_order_id__in=[order["clientOid"] for order in there]).values("intent_id")
    assert list(accepted.annotate(times=Count("pk")).filter(times__gt=1)) == []
    waiting = Order.objects.filter(status__in=LIVE_STATUSES)
    assert list(waiting.values_list("client_order_id", "status")) == []


def assert_fills_match(venue: Venue) -> None:
    """Each fill of the exchange was counted once, and the orders' sums are exactly theirs."""
    ours = [
        (
            fill.order.client_order_id,
            fill.market.symbol.replace("/", "-"),
            fill.trade_id,
            fill.quantity,
            fill.price,
            fill.fee,
        )
        for fill in Fill.objects.select_related("order", "market")
    ]
    theirs = [
        (
            fill["clientOid"], fill["symbol"], str(fill["tradeId"]),
            *(Decimal(fill[name]) for name in ("size", "price", "fee")),
        )
        for fill in venue.simulator.oracle()["fills"]
    ]  # fmt: skip
    assert sorted(ours) == sorted(theirs)
    sums = Order.objects.filter(fills__isnull=False).annotate(
        bought=Sum("fills__quantity"), paid=Sum(F("fills__quantity") * F("fills__price"))
    )
    assert all((order.filled, order.filled_quote) == (order.bought, order.paid) for order in sums)
    assert set(Order.objects.filter(filled__gt=0).values_list("status", flat=True)) == {OrderStatus.CLOSED}


def assert_balances_match(venue: Venue) -> None:
    realized = sum((position.realized_pnl for position in Position.objects.all()), Decimal(0))
    assert 10000 + realized == venue.balance("USDT")
    assert [venue.balance(base) for base in ("BTC", "ETH")] == [0, 0]
    assert set(Position.objects.values_list("status", flat=True)) <= {"CLOSED", "ABANDONED"}


@pytest.mark.flow
def test_after_a_storm_of_kills_losses_and_faults_the_books_balance(venue: Venue, bells: Bells) -> None:
    rng = random.Random(SEED)
    script(venue, "BTC-USDT", 50000.0, rng)
    script(venue, "ETH-USDT", 3000.0, rng)
    with workers_running(*PROCESSES) as workers:
        storm = Storm(venue, workers, bells, rng)
        with told(storm):
            sessions = start_sessions(venue)
            storm.rage()
            traded = Position.objects.filter(status="CLOSED")
            wait_until(lambda: traded.count() >= ROUND_TRIPS, f"{ROUND_TRIPS} positions closed", 30)

            venue.heal()
            workers.wait_ready(*PROCESSES)
            for session_id in sessions:
                session_stop(session_id)
            stopped = TradingSession.objects.filter(status=SessionStatus.STOPPED)
            wait_until(lambda: stopped.count() == len(sessions), "all sessions stopped", 40)

            assert_orders_match(venue)
            assert_fills_match(venue)
            assert_balances_match(venue)
            assert account_reconcile(venue.account.pk) == []

            workers.kill("beat")
            bells.clear()
            before = snapshot(venue)
            assert {task.split(".")[0] for task, _, ids in bells_of_everything() if ids} == set(QUEUES) - {"pipeline"}
            ring_everything()
            wait_until(lambda: not bells.client.exists(*QUEUES, "unacked"), "all bells answered")
            assert snapshot(venue) == before
