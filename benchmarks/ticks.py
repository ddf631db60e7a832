"""Sessions per tick: all of them due at once, claimed by the scheduler and valued by the real light worker.

Also the price watch's search: the SQL time of finding the few positions whose stop or target a price has crossed, among as
many open ones.
"""

from __future__ import annotations

import argparse
import time
from datetime import timedelta
from decimal import Decimal
from statistics import median
from typing import Any

from django.db import connection, models, transaction
from django.utils import timezone

from benchmarks.floor import ticks_floor
from benchmarks.live import CannotRun, Live, platform_running, simulator_start, used_between, wait_until
from benchmarks.report import Report, Spread
from benchmarks.world import PRICE, Venue
from domain.candles import Timeframe
from domain.market import PositionSide
from exchanges.models import Account, Quote
from positions.models import Position, PositionStatus
from positions.watch import sessions_due
from sessions.models import SessionStatus, SessionTick, TradingSession
from strategies.models import StrategyConfig

GOALS_S = {10_000: 2.0, 100_000: 10.0}
GOAL_CROSSED_MS = 1.0
SESSIONS_PER_CONFIG = 100
TICK_LIMIT_SECONDS = 300.0
WATCH_ROUNDS = 50
CROSSED = 10
FOREVER = timedelta(days=1)


def run(options: argparse.Namespace) -> Report:
    report = Report("ticks")
    table = report.table(
        f"Sessions with an open position, all due at once (median of {options.rounds} rounds)",
        "sessions", "seconds", "sessions/s", "goal s", "floor s", "× floor", "CPU s: worker-light", "CPU s: postgres",
    )  # fmt: skip
    crossed = report.table(
        f"Finding {CROSSED} positions whose stop was crossed", "open positions", "p50 ms", "p99 ms", "goal ms"
    )
    rows = []
    with platform_running() as live:
        venue = Venue.at(simulator_start(live))
        populate = Population(venue)
        for count in sorted(options.sessions):
            populate.grow_to(count)
            seconds, cpu = _rounds(live, options.rounds, count)
            floor, search = median(ticks_floor(count, options.rounds)), _crossed(venue)
            goal = GOALS_S.get(count)
            table.add(
                count, seconds, count / seconds, f"< {goal:g}" if goal else "", floor, seconds / floor,
                cpu.get("worker-light", 0.0), cpu.get("postgres", 0.0),
            )  # fmt: skip
            crossed.add(count, search.p50, search.p99, f"{GOAL_CROSSED_MS:g}")
            rows.append(
                {
                    "sessions": count, "seconds": round(seconds, 3), "sessions_per_s": round(count / seconds),
                    "goal_s": goal, "floor_s": round(floor, 3), "times_floor": round(seconds / floor, 1),
                    "cpu_s": {name: round(spent, 2) for name, spent in cpu.items()},
                    "crossed_ms": search.figures(), "crossed_goal_ms": GOAL_CROSSED_MS,
                }
            )  # fmt: skip
        report.figures["complaints"] = live.warnings()[:50]
    report.figures["ticks"] = rows
    return report


class Population:
    """Active sessions with an open position each: one made in full, the rest copied from it inside the database."""

    def __init__(self, venue: Venue) -> None:
        feed = venue.feed(Timeframe.M1)
        [account], [config] = venue.accounts(1), venue.configs(feed, 1, is_needed=True)
        [session] = venue.sessions([(account, config)], SessionStatus.ACTIVE)
        TradingSession.objects.filter(pk=session.pk).update(has_exposure=True)
        price = Decimal(PRICE)
        position = Position.objects.create(
            session=session, account=account, market=venue.market(), side=PositionSide.LONG, status=PositionStatus.OPEN,
            quantity=Decimal("0.002"), entered=Decimal("0.002"), entry_price=price, 
            exits={"stop_loss_percent": "2", "targets": [{"percent": "4"}]}, stop_price=price * Decimal("0.98"),
            target_price=price * Decimal("1.04"),
            opened_at=timezone.now(), folded_at=timezone.now() - timedelta(minutes=1),
        )  # fmt: skip
        SessionTick.objects.create(session=session, due_at=timezone.now() + FOREVER, every=FOREVER)
        rows: tuple[models.Model, ...] = (account, config, session, position)
        self._first = {type(row): row.pk for row in rows}
        self._count = 1

    def grow_to(self, count: int) -> None:
        """Copy until there are ``count``; several sessions of one account never share a configuration."""
        configs = -(-count // SESSIONS_PER_CONFIG)
        made = Account.objects.filter(pk__gte=self._first[Account]).count()
        _copy(Account, self._first[Account], made, min(count, SESSIONS_PER_CONFIG), name="'account-' || n")
        made = StrategyConfig.objects.filter(pk__gte=self._first[StrategyConfig]).count()
        _copy(StrategyConfig, self._first[StrategyConfig], made, configs, name="'many-' || n")
        account = f"{self._first[Account]} + n %% {SESSIONS_PER_CONFIG}"
        session = f"{self._first[TradingSession]} + n"
        _copy(
            TradingSession, self._first[TradingSession], self._count, count, account_id=account,
            config_id=f"{self._first[StrategyConfig]} + n / {SESSIONS_PER_CONFIG}", name="'session-' || n",
        )  # fmt: skip
        _copy(Position, self._first[Position], self._count, count, session_id=session, account_id=account)
        _copy(SessionTick, self._first[TradingSession], self._count, count)
        self._count = count
        with connection.cursor() as cursor:  # what autovacuum does within a minute
            cursor.execute("VACUUM ANALYZE")


def _copy(model: type[models.Model], first: int, start: int, stop: int, **changed: str) -> None:
    """Copies ``start`` to ``stop`` of the row ``first``: n is added to its key, ``changed`` are SQL expressions of n."""
    table, key = model._meta.db_table, str(model._meta.pk.column)
    changed[key] = f"{first} + n"
    columns = [str(field.column) for field in model._meta.concrete_fields if not field.generated]
    values = [changed.get(column, f'"{column}"') for column in columns]
    names = ", ".join(f'"{column}"' for column in columns)
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} ({names}) SELECT {', '.join(values)} FROM {table}, generate_series(%s, %s) AS n "
            f"WHERE {key} = %s",
            [start, stop - 1, first],
        )
        cursor.execute("SELECT pg_get_serial_sequence(%s, %s)", [table, key])
        [(sequence,)] = cursor.fetchall()
        if sequence:
            cursor.execute("SELECT setval(%s, %s)", [sequence, first + stop])


def _rounds(live: Live, rounds: int, count: int) -> tuple[float, dict[str, float]]:
    """Median seconds of a round, and the CPU seconds by process of the last one."""
    taken, spent = [], {}
    for _ in range(rounds):
        before = live.usage()
        taken.append(_round(count))
        spent = used_between(before, live.usage())
    return median(taken), spent


def _round(count: int) -> float:
    """Seconds from "all are due" to "the last is valued"."""
    SessionTick.objects.update(due_at=timezone.now() - timedelta(seconds=1))
    began_at, began = timezone.now(), time.monotonic()
    ring_tick()
    unvalued = Position.objects.filter(status=PositionStatus.OPEN).exclude(valued_at__gte=began_at)
    wait_until(lambda: not unvalued.exists(), f"{count} positions to be valued", TICK_LIMIT_SECONDS, pause=0.02)
    return time.monotonic() - began


def ring_tick() -> None:
    """What beat does every second; rung here so that the wait for its next second is not part of the figure."""
    from celery import current_app  # noqa: PLC0415

    current_app.send_task("sessions.tick")


def _crossed(venue: Venue) -> Spread:
    """Milliseconds of SQL to find the positions that a price has crossed, a few of all."""
    taken = []
    statements: list[float] = []

    def timed(execute: Any, *arguments: Any) -> Any:
        began = time.perf_counter()
        try:
            return execute(*arguments)
        finally:
            statements.append((time.perf_counter() - began) * 1000)

    with transaction.atomic():  # rolled back, so that the platform's own watch sees none of it
        few = Position.objects.filter(status=PositionStatus.OPEN).order_by("-pk")[:CROSSED]
        Position.objects.filter(pk__in=list(few.values_list("pk", flat=True))).update(stop_price=Decimal(PRICE) + 1)
        Quote.objects.filter(market=venue.market()).update(quoted_at=timezone.now())
        for _ in range(WATCH_ROUNDS):
            statements.clear()
            with connection.execute_wrapper(timed):
                found = sessions_due(timezone.now())
            taken.append(sum(statements))
        transaction.set_rollback(True)
    if len(found) != min(CROSSED, Position.objects.count()):
        raise CannotRun(f"wanted {CROSSED} crossed positions found, was {len(found)}")
    return Spread.of(taken)
