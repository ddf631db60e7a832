"""How soon a position is left, idle and under a saturating load of everything else, with and without a lane for exits.

Two roads: the trader's market exit (asked for to accepted by the venue) and a stop whose price has been crossed (crossed to
accepted, with the wait for the next price watch in it). The times are the orders' own and this process's, all of one
machine's clock. Both loads are measured in the same run, so the ratio is of one machine and moment.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal

import redis
from django.core.management import call_command
from django.db import connection
from django.utils import timezone

from benchmarks.live import Live, platform_running, simulator_start, wait_until
from benchmarks.report import Report, Spread, Table
from benchmarks.world import PRICE, Venue, candles_announce
from domain.candles import Timeframe
from domain.market import OrderType, PositionSide, Side
from domain.orders import OrderStatus
from embedded.processes import WORKERS, Worker
from orders.models import Fill, Order
from pipeline.claims import GuardedQuerySet
from pipeline.topics import ring
from positions.models import Intent, Position, PositionStatus, Reconciliation
from positions.services import session_exit
from sessions.models import SessionStatus, TradingSession

SIZE = Decimal("0.002")
WARM_UP = 5
EXITS_PER_SECOND = 2.5  # of each kind: far below what an idle platform does
EXIT_LIMIT_SECONDS = 900.0
# Long enough that no account of the exits is compared with its venue meanwhile.
LATER = timedelta(hours=1)
# Bells of other work, rung so often: more than the workers of this machine answer.
PUMP_SECONDS = 0.05
BELLS_A_TIME = 20
HANGING_ORDERS = 200
# A venue that answers nobody: every call waits for its client's whole patience.
HANGS_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Lags:
    """Milliseconds from the wish to the venue's acceptance, exit by exit, of both roads."""

    asked: Spread
    crossed: Spread


def run(options: argparse.Namespace) -> Report:
    report = Report("exits")
    table = report.table(
        "Exit wanted → accepted by the venue (milliseconds)", "", "idle p50", "idle p99", "loaded p50", "loaded p99",
        "× p50", "× p99",
    )  # fmt: skip
    layouts = {"with the lane": WORKERS, "without it, in one worker with all else": _merged()}
    for name, workers in layouts.items():
        if "without" in name and options.only_lane:
            continue
        _clean()
        with platform_running(workers) as live:
            _layout(report, table, name, live, options)
            report.figures.setdefault("complaints", {})[name] = len(live.warnings())
    return report


def _merged() -> tuple[Worker, ...]:
    """The same workers without one for exits: their queue is the light worker's, one of many."""
    [lane] = [worker for worker in WORKERS if "exits" in worker.queues]
    others = [worker for worker in WORKERS if worker is not lane]
    return tuple(
        replace(worker, queues=(*worker.queues, *lane.queues)) if "orders" in worker.queues else worker
        for worker in others
    )


def _clean() -> None:
    """An empty database and broker for the next layout."""
    call_command("flush", interactive=False, verbosity=0)
    redis.Redis.from_url(os.environ["REDIS_URL"]).flushdb()  # it was empty when this began


def _layout(report: Report, table: Table, name: str, live: Live, options: argparse.Namespace) -> None:
    venue = Venue.at(simulator_start(live))
    _measure(venue, WARM_UP)
    idle = _measure(venue, options.exits)
    with _saturated(live, venue, options.sessions) as load:
        loaded = _measure(venue, options.exits)
        load.note_backlog()
    for road in ("asked", "crossed"):
        calm, busy = getattr(idle, road), getattr(loaded, road)
        words = {"asked": "exit asked for", "crossed": "stop crossed"}[road]
        ratios = (busy.p50 / calm.p50, busy.p99 / calm.p99)
        table.add(f"{name}: {words}", calm.p50, calm.p99, busy.p50, busy.p99, *ratios)
        report.figures.setdefault(name, {})[road] = {
            "idle_ms": calm.figures(), "loaded_ms": busy.figures(), "times_p50": round(ratios[0], 2),
            "times_p99": round(ratios[1], 2),
        }  # fmt: skip
    report.figures[name]["load"] = load.figures()
    report.figures[name]["pss_mb"] = {one: round(usage.pss_mb, 1) for one, usage in live.usage().items()}


def _measure(venue: Venue, count: int) -> Lags:
    """``count`` exits asked for and as many stops crossed, each begun at its time whether those before are done or not."""
    sessions = _holding(venue, 2 * count)
    asked, crossed = sessions[:count], sessions[count:]
    began: dict[int, datetime] = {}
    for to_ask, to_cross in zip(asked, crossed, strict=True):
        began[to_ask.pk] = timezone.now()
        session_exit(to_ask.pk)
        began[to_cross.pk] = timezone.now()
        # Named by its signal: what stands in the row alone is computed anew at the first look, and is no level then.
        crossed_at = Decimal(PRICE) + 1
        Position.objects.filter(session=to_cross).update(
            exits={"is_stop_from_signal": True}, signal_stop_price=crossed_at, stop_price=crossed_at
        )
        time.sleep(1 / EXITS_PER_SECOND)
    exits = Order.objects.filter(is_exit=True, account__in=[session.account_id for session in sessions])
    accepted = exits.filter(opened_at__isnull=False)
    wait_until(lambda: accepted.count() == len(sessions), f"{len(sessions)} exits", EXIT_LIMIT_SECONDS, pause=0.2)
    at = dict(accepted.values_list("account", "opened_at"))
    return Lags(*(Spread.of([_ms(began[one.pk], at[one.account_id]) for one in some]) for some in (asked, crossed)))


def _ms(begin: datetime, end: datetime | None) -> float:
    return (end - begin).total_seconds() * 1000 if end is not None else float("nan")


def _holding(venue: Venue, count: int) -> list[TradingSession]:
    """Sessions that hold something they can sell, each on an account of its own, as the tracker leaves them."""
    feed = venue.feed(Timeframe.H4)
    [config] = venue.configs(feed, 1, is_needed=False)
    accounts = venue.accounts(count)
    for account in accounts:
        key = account.name
        venue.control(
            "accounts", apiKey=key, secret=f"secret-{key}", passphrase=f"pass-{key}", balances={"BTC": "1"}
        )  # fmt: skip
    sessions = venue.sessions([(account, config) for account in accounts], SessionStatus.ACTIVE)
    price, now = Decimal(PRICE), timezone.now()
    Reconciliation.objects.bulk_create(
        [Reconciliation(account=one, due_at=now + LATER) for one in accounts],
        update_conflicts=True, update_fields=["due_at"], unique_fields=["account"],
    )  # fmt: skip
    common = {"market": venue.market(), "quantity": SIZE}
    positions = Position.objects.bulk_create(
        Position(
            session=session, account_id=session.account_id, side=PositionSide.LONG, status=PositionStatus.OPEN,
            entered=SIZE, entry_price=price, stop_price=price / 2, exits={"stop_loss_percent": "50"}, opened_at=now,
            folded_at=now, **common,
        )
        for session in sessions
    )  # fmt: skip
    intents = Intent.objects.bulk_create(Intent(position=one, purpose=Intent.Purpose.ENTRY) for one in positions)
    orders = Order.objects.bulk_create(
        Order(
            account_id=one.account_id, intent_id=intent.pk, side=Side.BUY, position_side=PositionSide.LONG,
            order_type=OrderType.MARKET, status=OrderStatus.CLOSED, filled=SIZE, filled_quote=SIZE * price,
            valued_at=now, sent_at=now, opened_at=now, closed_at=now, **common,
        )
        for one, intent in zip(positions, intents, strict=True)
    )  # fmt: skip
    Fill.objects.bulk_create(
        Fill(
            order=one, account_id=one.account_id, trade_id=f"bench-{one.pk}", side=Side.BUY, price=price, fee=Decimal(0),
            fee_currency="USDT", filled_at=now, **common,
        )
        for one in orders
    )  # fmt: skip
    TradingSession.objects.filter(pk__in=[session.pk for session in sessions]).update(has_exposure=True)
    Position.objects.filter(pk__in=[one.pk for one in positions]).update(folded_at=timezone.now())
    return sessions


class Load:
    """Everything else that a platform does, more of it than its workers get done: entries to track, value and send by the
    thousand, candles to collect and answer, and a venue that hangs whoever asks it."""

    def __init__(self, live: Live, venue: Venue, sessions: int) -> None:
        self._venue, self._is_over = venue, threading.Event()
        self._feed = venue.feed(Timeframe.M15)
        [self._config] = venue.configs(self._feed, 1, is_needed=True)
        self._sessions = venue.sessions(
            [(account, self._config) for account in venue.accounts(sessions)], SessionStatus.ACTIVE
        )
        self._hanging = _hanging_orders(live, HANGING_ORDERS)
        self._bells = 0
        self._first_order = Order.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
        self._backlog: dict[str, int] = {}
        self._entries_by_status: dict[str, int] = {}
        self._pump = threading.Thread(target=self._ring, name="load", daemon=True)

    def begin(self) -> None:
        """All at once: a candle on which every session enters, the hanging venue's orders, and bells without end."""
        candles_announce(self._feed)
        ring("orders.submit", batch=1, order_ids=self._hanging)
        self._pump.start()
        entries = self._entries()
        wait_until(entries.exists, "the load to begin", EXIT_LIMIT_SECONDS)

    def end(self) -> None:
        self._is_over.set()
        self._pump.join(20)

    def note_backlog(self) -> None:
        """What of the load still waited when the last exit was accepted: more than nothing, or it was no load."""
        client = redis.Redis.from_url(os.environ["REDIS_URL"])
        queues = ("marketdata", "strategies", "positions", "money", "orders")
        self._entries_by_status = Counter(self._entries().values_list("status", flat=True))
        self._backlog = {queue: int(str(client.llen(queue))) for queue in queues}

    def figures(self) -> dict[str, object]:
        return {
            "bells_rung": self._bells, "entries": self._entries_by_status, "hanging_orders": len(self._hanging),
            "backlog": self._backlog,
        }  # fmt: skip

    def _entries(self) -> GuardedQuerySet[Order]:
        accounts = [session.account_id for session in self._sessions]
        return Order.objects.filter(pk__gt=self._first_order, is_exit=False, account__in=accounts)

    def _ring(self) -> None:
        session_ids = [session.pk for session in self._sessions]
        try:
            while not self._is_over.wait(PUMP_SECONDS):
                for _ in range(BELLS_A_TIME):
                    ring("marketdata.collect", feed_ids=[self._feed.pk])
                    ring("strategies.evaluate", feed_ids=[self._feed.pk])
                    ring("positions.track", session_ids=session_ids[:200])
                self._bells += 3 * BELLS_A_TIME
        finally:
            connection.close()


@contextmanager
def _saturated(live: Live, venue: Venue, sessions: int) -> Iterator[Load]:
    load = Load(live, venue, sessions)
    load.begin()
    try:
        yield load
    finally:
        load.end()


def _hanging_orders(live: Live, count: int) -> list[int]:
    """Valued entries of an account at another venue, which answers none of its calls."""
    venue = Venue.at(simulator_start(live, "simulator-hanging"), "hanging")
    [account] = venue.accounts(1)
    venue.control("faults", kind="hang", when="before", path="/api/*", count=None, seconds=HANGS_SECONDS)
    feed, now = venue.feed(Timeframe.H4), timezone.now()
    configs = venue.configs(feed, count, is_needed=False)
    sessions = venue.sessions([(account, config) for config in configs], SessionStatus.ACTIVE)
    positions = Position.objects.bulk_create(
        Position(
            session=session, account=account, market=venue.market(), side=PositionSide.LONG, status=PositionStatus.PENDING
        )
        for session in sessions
    )  # fmt: skip
    intents = Intent.objects.bulk_create(Intent(position=one, purpose=Intent.Purpose.ENTRY) for one in positions)
    orders = Order.objects.bulk_create(
        Order(
            account=account, market=venue.market(), intent_id=intent.pk, side=Side.BUY, position_side=PositionSide.LONG,
            order_type=OrderType.MARKET, status=OrderStatus.READY, quantity=SIZE, valued_at=now,
        )
        for intent in intents
    )  # fmt: skip
    return [order.pk for order in orders]
