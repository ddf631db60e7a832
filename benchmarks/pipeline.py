"""Candle closed to order accepted: through real workers, beat, PostgreSQL, Valkey and the simulated exchange over HTTP.

The times are the rows' own (a candle's ``collected_at``, an order's ``sent_at`` …) and the journal's, all of one machine's
clock. Three loads: one chain at a time, many configurations on one candle, many sessions on one configuration.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import connection
from django.utils import timezone

from benchmarks.floor import chains_floor
from benchmarks.live import CannotRun, Live, Usage, platform_running, simulator_start, used_between, wait_until
from benchmarks.report import Report, Spread, Table
from benchmarks.world import Venue, candles_announce
from domain.candles import Timeframe
from embedded.processes import has_task_events
from marketdata.models import Candle, Feed
from orders.models import Order
from pipeline.topics import ring
from positions.models import Position, PositionStatus
from sessions.models import SessionStatus, TradingSession
from strategies.models import Signal, StrategyConfig

WARM_UP_CHAINS = 50
FETCHES = 30
QUIET_SECONDS = 0.03
CHAIN_LIMIT_SECONDS = 15.0
CROWD_LIMIT_SECONDS = 240.0

GOAL_P50_MS, GOAL_P99_MS, GOAL_CHAINS_PER_SECOND, GOAL_LAST_ORDER_S = 30, 80, 60, 20

# From one row's time to the next; together they are the chain.
HOPS = (
    ("candle stored → signal", "stored", "signal"),
    ("signal → order requested", "signal", "requested"),
    ("order requested → valued", "requested", "valued"),
    ("order valued → claimed", "valued", "claimed"),
    ("order claimed → accepted", "claimed", "accepted"),
    ("candle stored → order accepted", "stored", "accepted"),
    ("… → fills folded into the position", "stored", "folded"),
    ("of which: valued order journaled → its task begins", "announced", "claimed"),
)

CHAIN_TIMES = """
    SELECT c.collected_at, s.created_at, o.requested_at, o.valued_at, e.at, o.sent_at, o.opened_at, p.folded_at
    FROM orders_order AS o
    JOIN positions_intent AS i ON i.id = o.intent_id
    JOIN positions_position AS p ON p.id = i.position_id
    JOIN strategies_signal AS s ON s.id = p.entry_signal_id
    JOIN strategies_strategyconfig AS k ON k.id = s.config_id
    JOIN marketdata_candle AS c ON c.feed_id = k.feed_id AND c.open_at = s.candle_open_at
    JOIN pipeline_event AS e ON e.topic = 'orders' AND e.key = o.id AND e.data->>'status' = 'READY'
    WHERE o.id > %s AND NOT o.is_exit AND o.opened_at IS NOT NULL
    ORDER BY o.id
"""


@dataclass(frozen=True, slots=True)
class Chain:
    """When each stop of one chain was reached."""

    stored: datetime
    signal: datetime
    requested: datetime
    valued: datetime
    announced: datetime
    claimed: datetime
    accepted: datetime
    folded: datetime | None

    def ms(self, begin: str, end: str) -> float:
        first, last = getattr(self, begin), getattr(self, end)
        return float((last - first).total_seconds() * 1000) if last is not None else float("nan")


def run(options: argparse.Namespace) -> Report:
    report = Report("pipeline")
    with platform_running() as live:
        venue = Venue.at(simulator_start(live))
        fetched = _fetch(venue)
        accounts = venue.accounts(options.accounts)
        one_by_one = _one_by_one(venue, accounts, options.chains)
        floor = chains_floor(venue, options.chains)
        before = live.usage()
        many = _many_configs(venue, accounts, options.configs)
        after = live.usage()
        shared = _one_config(venue, options.sessions)
        _low_load(report, one_by_one, fetched, floor)
        _crowds(report, many, shared, floor)
        _processes(report, before, after, live.usage(), len(many))
        _complaints(report, live)
    return report


def _fetch(venue: Venue) -> list[float]:
    """Milliseconds from "a candle is due" (the bell rung) to the candle stored, fetched from the exchange by a worker."""
    feed = venue.feed(Timeframe.M1, "ETH/USDT")
    taken = []
    for _ in range(FETCHES):
        venue.step(60)
        open_at = Timeframe.M1.open_of(venue.now) - Timeframe.M1.length
        began = timezone.now()
        Feed.objects.filter(pk=feed.pk).update(next_due_at=began, leased_until=None)
        ring("marketdata.collect", feed_ids=[feed.pk])
        stored = Candle.objects.filter(feed=feed, open_at=open_at)
        wait_until(stored.exists, "a collected candle", CHAIN_LIMIT_SECONDS, pause=0.01)
        taken.append((stored.get().collected_at - began).total_seconds() * 1000)
        wait_until(lambda: not _is_leased(feed), "the end of a collection", CHAIN_LIMIT_SECONDS)
        Feed.objects.filter(pk=feed.pk).update(next_due_at=None)
    return taken[FETCHES // 10 :]


def _is_leased(feed: Feed) -> bool:
    return Feed.objects.filter(pk=feed.pk, leased_until__isnull=False).exists()


def _one_by_one(venue: Venue, accounts: Sequence[object], count: int) -> list[Chain]:
    """Chains one after the other, each with a session and configuration of its own, until its position is open."""
    feed = venue.feed(Timeframe.M1)
    total = WARM_UP_CHAINS + count
    configs = venue.configs(feed, total, is_needed=False)
    pairs = [(accounts[index % len(accounts)], config) for index, config in enumerate(configs)]
    sessions = venue.sessions(pairs, SessionStatus.CREATED)  # type: ignore[arg-type]
    first = 0
    for index, session in enumerate(sessions):
        if index == WARM_UP_CHAINS:
            first = _last_order_id()
        _one_chain(feed, session)
    return _chains_since(first)


def _one_chain(feed: Feed, session: TradingSession) -> None:
    mine = TradingSession.objects.filter(pk=session.pk)
    mine.update(status=SessionStatus.ACTIVE)
    StrategyConfig.objects.filter(pk=session.config_id).update(is_needed=True)
    candles_announce(feed)
    is_open = Position.objects.filter(session=session, status=PositionStatus.OPEN)
    wait_until(is_open.exists, f"the position of {session}", CHAIN_LIMIT_SECONDS, pause=0.02)
    # Out of the way of the next: what is not active is not evaluated.
    StrategyConfig.objects.filter(pk=session.config_id).update(is_needed=False)
    mine.update(status=SessionStatus.SUSPENDED)
    time.sleep(QUIET_SECONDS)


def _many_configs(venue: Venue, accounts: Sequence[object], count: int) -> list[Chain]:
    """One candle that ``count`` configurations answer, each with one session."""
    feed = venue.feed(Timeframe.M5)
    configs = venue.configs(feed, count, is_needed=True)
    pairs = [(accounts[index % len(accounts)], config) for index, config in enumerate(configs)]
    venue.sessions(pairs, SessionStatus.ACTIVE)  # type: ignore[arg-type]
    return _crowd(feed, count)


@dataclass(frozen=True, slots=True)
class Shared:
    """How a crowd of sessions on one configuration came through."""

    chains: list[Chain]
    evaluations: int


def _one_config(venue: Venue, count: int) -> Shared:
    """One candle and one configuration that ``count`` sessions share, each on an account of its own."""
    feed = venue.feed(Timeframe.M15)
    [config] = venue.configs(feed, 1, is_needed=True)
    venue.sessions([(account, config) for account in venue.accounts(count)], SessionStatus.ACTIVE)
    chains = _crowd(feed, count)
    return Shared(chains, Signal.objects.filter(config=config).count())


def _crowd(feed: Feed, count: int) -> list[Chain]:
    first = _last_order_id()
    time.sleep(2 * QUIET_SECONDS)
    candles_announce(feed)
    orders = Order.objects.filter(pk__gt=first, is_exit=False)
    accepted = orders.filter(opened_at__isnull=False)
    try:
        wait_until(lambda: accepted.count() >= count, "", CROWD_LIMIT_SECONDS, pause=0.25)
    except CannotRun:
        became = Counter(f"{status} {reason}".strip() for status, reason in orders.values_list("status", "reason"))
        raise CannotRun(
            f"wanted {count} accepted orders within {CROWD_LIMIT_SECONDS:g} s, was {accepted.count()}: {dict(became)}"
        ) from None
    session_ids = Position.objects.filter(intents__in=orders.values("intent_id")).values("session_id")
    settled = Position.objects.filter(session__in=session_ids, status=PositionStatus.OPEN)
    wait_until(lambda: settled.count() >= count, "every position to be open", CROWD_LIMIT_SECONDS, pause=0.5)
    TradingSession.objects.filter(pk__in=session_ids).update(status=SessionStatus.SUSPENDED)
    return _chains_since(first)


def _last_order_id() -> int:
    return Order.objects.order_by("-pk").values_list("pk", flat=True).first() or 0


def _chains_since(order_id: int) -> list[Chain]:
    with connection.cursor() as cursor:
        cursor.execute(CHAIN_TIMES, [order_id])
        return [Chain(*row) for row in cursor.fetchall()]


def _low_load(
    report: Report, chains: list[Chain], fetched: list[float], floor: tuple[list[float], list[float]]
) -> None:
    table = report.table(
        f"One chain at a time ({len(chains)} chains; milliseconds)",
        "",
        "p50",
        "p99",
        "max",
        "goal p50/p99",
        "× floor p50",
    )
    database, order = Spread.of(floor[0]), Spread.of(floor[1])
    whole = Spread.of([one + other for one, other in zip(*floor, strict=True)])
    hops = {name: Spread.of([chain.ms(begin, end) for chain in chains]) for name, begin, end in HOPS}
    _row(table, "candle due → fetched and stored", Spread.of(fetched))
    for name, spread in hops.items():
        is_end_to_end = name == "candle stored → order accepted"
        goal = f"{GOAL_P50_MS} / {GOAL_P99_MS}" if is_end_to_end else ""
        _row(table, name, spread, goal, f"{spread.p50 / whole.p50:.1f}" if is_end_to_end else "")
    _row(table, "floor: the chain's six transactions in plain psycopg", database)
    _row(table, "floor: one signed order by plain requests", order)
    _row(table, "floor: both", whole, "", "1.0")
    report.figures["low_load_ms"] = {
        "fetched": Spread.of(fetched).figures(), **{name: spread.figures() for name, spread in hops.items()},
        "floor_transactions": database.figures(), "floor_order": order.figures(), "floor": whole.figures(),
        "goal": {"p50": GOAL_P50_MS, "p99": GOAL_P99_MS},
    }  # fmt: skip


def _row(table: Table, name: str, spread: Spread, goal: str = "", ratio: str = "") -> None:
    table.add(name, spread.p50, spread.p99, spread.most, goal, ratio)


def _crowds(report: Report, many: list[Chain], shared: Shared, floor: tuple[list[float], list[float]]) -> None:
    floor_rate = 1000 * len(floor[0]) / (sum(floor[0]) + sum(floor[1]))
    table = report.table("Many at once", "", "measured", "goal", "floor")
    rate, last = len(many) / _seconds(many), _seconds(shared.chains)
    sessions = len(shared.chains)
    table.add(f"{len(many)} configurations on one candle: chains per second", rate, f">= {GOAL_CHAINS_PER_SECOND}",
              f"{floor_rate:.0f}")  # fmt: skip
    table.add("… from the candle to the last order accepted, s", _seconds(many), "", "")
    table.add(f"{sessions} sessions on one configuration: last order accepted, s", last, f"<= {GOAL_LAST_ORDER_S}",
              f"{sessions / floor_rate:.1f}")  # fmt: skip
    table.add("… chains per second", sessions / last, "", f"{floor_rate:.0f}")
    table.add("… times the signal was evaluated", shared.evaluations, "1", "")
    report.figures["crowds"] = {
        "configs": len(many), "chains_per_second": round(rate, 1), "goal_chains_per_second": GOAL_CHAINS_PER_SECOND,
        "sessions_sharing": sessions, "last_order_s": round(last, 2), "goal_last_order_s": GOAL_LAST_ORDER_S,
        "evaluations": shared.evaluations, "floor_chains_per_second": round(floor_rate, 1),
    }  # fmt: skip


def _seconds(chains: list[Chain]) -> float:
    span: timedelta = max(chain.accepted for chain in chains) - min(chain.stored for chain in chains)
    return span.total_seconds()


def _processes(
    report: Report, before: dict[str, Usage], after: dict[str, Usage], at_end: dict[str, Usage], chains: int
) -> None:
    events = "on" if has_task_events(os.environ) else "off"
    table = report.table(
        f"Processes (task events {events})", "", "CPU ms/chain, many at once", "CPU s, whole run", "PSS MB", "RSS MB"
    )
    spent = used_between(before, after)
    for name, usage in at_end.items():
        table.add(name, 1000 * spent[name] / chains, usage.cpu_s, f"{usage.pss_mb:.0f}", f"{usage.rss_mb:.0f}")
    report.figures["task_events"] = events
    report.figures["processes"] = {
        name: {
            "cpu_ms_per_chain": round(1000 * spent[name] / chains, 2), "cpu_s": round(usage.cpu_s, 2),
            "pss_mb": round(usage.pss_mb, 1), "rss_mb": round(usage.rss_mb, 1),
        }
        for name, usage in at_end.items()
    }  # fmt: skip


def _complaints(report: Report, live: Live) -> None:
    complaints = live.warnings()
    report.figures["complaints"] = complaints[:50]
    if complaints:
        table = report.table(f"The processes complained {len(complaints)} times", "")
        for line in complaints[:10]:
            table.add(line[:160])
