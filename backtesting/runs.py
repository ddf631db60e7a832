"""Backtests on the platform: asked for, computed by whoever is free, followed, stopped, and made again.

A run is computed outside of any transaction, under a lease that is renewed while it goes on, and stored in one short
transaction that the lease fences: whoever dies, is overtaken or told to stop leaves no half of a result, and what was lost
is computed again. The same words on the same code and the same candles come to the same trades, and two hashes say so.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from celery.exceptions import SoftTimeLimitExceeded
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import F, Func, IntegerField, JSONField, Max, Subquery, TextField, Value
from django.db.models.functions import Cast
from django.utils import timezone

from backtesting.engine import backtest
from backtesting.engine.inputs import MarketInput, Refused, Result, Settings
from backtesting.figures import figures_of, trade_of, trade_row
from backtesting.fingerprints import code_hash, data_hash
from backtesting.gathering import NothingToTest
from backtesting.leases import LEASE, Lease, LeaseLost
from backtesting.models import LIVE_JOBS, BacktestFeed, BacktestResult, BacktestRun, Job, JobStatus
from backtesting.packing import finite, packed, printable, unpacked
from backtesting.setups import Asked, candles_missing, markets_of, setup_validated
from backtesting.words import WrongWords
from domain.market import PositionSide
from domain.orders import Denial
from marketdata.history import free_and_due
from marketdata.models import Feed
from pipeline.crashpoints import crashpoint
from pipeline.topics import Note, Topic, publish_all, ring
from strategies.library import LIBRARY
from strategies.soundness import where

logger = logging.getLogger(__name__)

TASK = "backtesting.run"
# A run that ends its worker so often (for want of memory, say) would end every next one.
MOST_TRIES = 3
# Of one owner's that wait or run at once.
MOST_LIVE = 500
# What a sweep rings for at once: the workers ask for the next one by themselves whenever they have done one.
RUNG_AT_ONCE = 4
# What one run may take; then it is ended, by its worker itself and, where that does not hear, by force.
LONGEST_SECONDS = 3600
ERROR_LENGTH = 500
# Some 30 MB of a row; nobody reads as many, and figures of more say nothing else.
MOST_TRADES = 100_000
# Of the curve that is drawn small beside the figures.
CURVE_POINTS = 240


class UnableToBacktest(Exception):
    """Its status does not allow this, or too many wait already."""


class TooMuch(Exception):
    """More came of it than can be kept."""


def run_request(owner: User, asked: Asked, *, name: str = "", repeats: BacktestRun | None = None) -> BacktestRun:
    """Have a backtest computed. Raises ValidationError, by field, and UnableToBacktest."""
    room_check(owner)
    columns = setup_validated(asked)
    with transaction.atomic():
        run = BacktestRun.objects.create(
            owner=owner, name=(name or _named(asked))[: BacktestRun.NAME_LENGTH], repeats=repeats,
            not_before_at=timezone.now(), **columns,
        )  # fmt: skip
        BacktestFeed.objects.bulk_create(
            BacktestFeed(run=run, feed=feed, place=place) for place, feed in enumerate(asked.feeds)
        )
        _tell(run, JobStatus.QUEUED, actor=owner.get_username())
        _ring(run.pk)
    return run


def room_check(owner: User) -> None:
    """Raises UnableToBacktest where as many of the owner's wait as may."""
    if BacktestRun.objects.filter(owner=owner, status__in=LIVE_JOBS).count() >= MOST_LIVE:
        raise UnableToBacktest(f"wanted at most {MOST_LIVE} backtests of yours that wait, was as many: cancel some")


def run_repeat(run: BacktestRun, owner: User) -> BacktestRun:
    """The same words computed again, as a run of its own that says what has changed since (``run_repetition``). Raises as
    ``run_request``."""
    asked = Asked(
        strategy=run.strategy, feeds=run_feeds(run), from_at=run.from_at, until_at=run.until_at,
        parameters=run.parameters, settings=run.settings, limits=run.limits, exits=run.exits,
        detail_timeframe=run.detail_timeframe,
    )  # fmt: skip
    return run_request(owner, asked, name=run.name, repeats=run)


def run_cancel(run_id: int, *, actor: str = "system") -> bool:
    """End it; whether it was going on. Whoever computes it is told with the next renewal of the lease."""
    with transaction.atomic():
        is_mine = BacktestRun.objects.filter(pk=run_id).move(
            JobStatus.CANCELED, ended_at=timezone.now(), leased_until=None, not_before_at=None
        )
        if is_mine:
            _tell(BacktestRun.objects.get(pk=run_id), JobStatus.CANCELED, actor=actor)
    return bool(is_mine)


def run_retry(run_id: int, *, actor: str = "system") -> None:
    """Have one computed again that failed or was cancelled. Raises UnableToBacktest."""
    ended = BacktestRun.objects.filter(pk=run_id)
    with transaction.atomic():
        if not ended.move(
            JobStatus.QUEUED, started_at=None, ended_at=None, not_before_at=timezone.now(), tries=0, done=0, last_error=""
        ):  # fmt: skip
            status = ended.values_list("status", flat=True).first()
            raise UnableToBacktest(f"wanted a backtest that failed or was cancelled, was {status}")
        _tell(BacktestRun.objects.get(pk=run_id), JobStatus.QUEUED, actor=actor)
        _ring(run_id)


def run_delete(run_id: int) -> None:
    """Forget one that has ended, and all that came of it. Raises UnableToBacktest."""
    _, counts = BacktestRun.objects.filter(pk=run_id).exclude(status__in=LIVE_JOBS).delete()
    if not counts:
        raise UnableToBacktest("wanted a backtest that has ended, was one that goes on: cancel it first")


def run_compute(run_id: int) -> bool:
    """Compute one run; whether its result, or its failure, was stored by this call. Where somebody is at it, or it is over,
    nothing happens."""
    lease_until = _claim(run_id, timezone.now())
    return lease_until is not None and _claimed_compute(run_id, lease_until)


def _claimed_compute(run_id: int, lease_until: datetime) -> bool:
    crashpoint("backtest.claimed")
    run = BacktestRun.objects.get(pk=run_id)
    begun, lease = time.monotonic(), Lease(run, lease_until)
    try:
        with lease:
            columns, long = _computed(run, lease)
    except LeaseLost:
        return False
    except (ValidationError, NothingToTest, WrongWords, TooMuch) as error:
        return _fail(lease, run_id, "; ".join(error.messages) if isinstance(error, ValidationError) else str(error))
    except SoftTimeLimitExceeded:
        return _fail(lease, run_id, f"wanted a backtest of at most {LONGEST_SECONDS / 60:g} minutes, took longer")
    except Exception as error:
        # A strategy is somebody's code, and what it raises is for them to read.
        logger.exception("backtest %s failed", run_id)
        return _fail(lease, run_id, f"{type(error).__name__}: {error}{where(error)}")
    crashpoint("backtest.computed")
    return _store(lease, run, {**columns, "seconds": round(time.monotonic() - begun, 3)}, long)


def run_compute_next() -> int | None:
    """Compute the run whose turn it is, and ring for the next; which it was. Any bell says that there is something to be
    computed, and none that it is before somebody else's: so nobody's hundred runs are in the way of another's one."""
    for run_id in runs_waiting(timezone.now()):
        lease_until = _claim(run_id, timezone.now())
        if lease_until is not None:
            # One, whatever came of it: the time that this may take has begun with the first.
            _claimed_compute(run_id, lease_until)
            if waiting := runs_waiting(timezone.now()):
                ring(TASK, batch=1, run_ids=waiting[:1])
            return run_id
    return None


def runs_waiting(now: datetime) -> list[int]:
    """Runs that nobody is at, in their turn: the owners by turns, who has the fewest at work and waited longest first, and of
    each the oldest. No more than the sweep rings for at once."""
    live = BacktestRun.objects.filter(status__in=LIVE_JOBS)
    running = Counter(live.filter(leased_until__gt=now).values_list("owner_id", flat=True))
    waiting = live.filter(free_and_due(now)).order_by("pk").values_list("pk", "owner_id")
    of_owner: dict[int, list[int]] = {}
    for pk, owner_id in waiting:
        of_owner.setdefault(owner_id, []).append(pk)
    served = dict(
        BacktestRun.objects.filter(owner_id__in=of_owner).values_list("owner_id").annotate(last=Max("started_at"))
    )
    turns = [
        (place + running[owner_id], served[owner_id] is not None, served[owner_id] or now, pk)
        for owner_id, pks in of_owner.items()
        for place, pk in enumerate(pks[:RUNG_AT_ONCE])
    ]
    return [pk for *_, pk in sorted(turns)[:RUNG_AT_ONCE]]


def run_feeds(run: BacktestRun) -> list[Feed]:
    """Its feeds, in the order in which they were named."""
    return [place.feed for place in run.places.select_related("feed__market__exchange")]


def run_result(run: BacktestRun) -> tuple[Result, Settings, list[MarketInput], bool]:
    """What a run that is DONE came to, and on what: its candles are read anew, and the last says whether they are the same
    still. Raises as ``run_compute`` would where they are not there any more, and UnableToBacktest where it is not done."""
    if run.status != JobStatus.DONE:
        raise UnableToBacktest(f"wanted a backtest that is done, was {run.status}")
    markets, settings = markets_of(run, run_feeds(run))
    stored = BacktestResult.objects.get(pk=run.pk)
    curve = unpacked(stored.equity)
    refused = [
        Refused(row["symbol"], datetime.fromisoformat(row["at"]), PositionSide(row["side"]), Denial(row["denial"]))
        for row in stored.refused
    ]
    result = Result([trade_of(row) for row in stored.trades], curve["open_ms"], curve["equity"], refused)
    return result, settings, markets, data_hash(markets) == run.data_hash


def run_trades(run_id: int, start: int, limit: int) -> tuple[int, list[dict[str, Any]]]:
    """How many trades a run has, and ``limit`` of their rows from the one at ``start`` on, or, where that is negative, the
    last ones; in the order in which they ended. The database cuts them out: there may be a hundred thousand."""
    span = f"$[{start} to {start + limit - 1}]" if start >= 0 else f"$[last - {limit - 1} to last]"
    part = Func(
        F("trades"), Cast(Value(span), _JsonPath()), function="jsonb_path_query_array", output_field=JSONField()
    )
    count = Func(F("trades"), function="jsonb_array_length", output_field=IntegerField())
    return BacktestResult.objects.annotate(part=part, count=count).values_list("count", "part").get(pk=run_id)


class _JsonPath(TextField):  # type: ignore[type-arg]  # not subscriptable at run time
    """PostgreSQL's type of a path into JSON, to cast a text to."""

    def db_type(self, connection: Any) -> str:
        return "jsonpath"


@dataclass(frozen=True, slots=True)
class Repetition:
    """How a run that is done compares with the one that it repeats."""

    has_same_code: bool
    has_same_data: bool
    has_same_trades: bool

    def __str__(self) -> str:
        if self.has_same_trades and self.has_same_code and self.has_same_data:
            return "the same code on the same candles, and the same trades"
        changed = [
            word
            for word, same in (("the code", self.has_same_code), ("the market data", self.has_same_data))
            if not same
        ]
        told = f"{' and '.join(changed)} changed since" if changed else "neither code nor market data changed since"
        return f"{told}; the trades are {'the same' if self.has_same_trades else 'others'}"


def run_repetition(run: BacktestRun) -> Repetition | None:
    """What has changed since the run that ``run`` repeats; None where it repeats none, or one of the two is not done."""
    first = run.repeats
    if first is None or {run.status, first.status} != {JobStatus.DONE}:
        return None
    of_first = BacktestResult.objects.filter(pk=first.pk).values("trades")
    has_same_trades = BacktestResult.objects.filter(pk=run.pk, trades=Subquery(of_first)).exists()
    return Repetition(run.code_hash == first.code_hash, run.data_hash == first.data_hash, has_same_trades)


def _claim(run_id: int, now: datetime) -> datetime | None:
    """Lease it; until when, or None where somebody is at it, it is over, or it ended too many workers."""
    until = now + LEASE
    mine = BacktestRun.objects.filter(free_and_due(now), pk=run_id)
    left = mine.filter(status=JobStatus.RUNNING)
    with transaction.atomic():
        if left.filter(tries__gte=MOST_TRIES).move(
            JobStatus.FAILED, among=(JobStatus.RUNNING,), ended_at=now, leased_until=None, not_before_at=None,
            last_error=f"wanted a worker that lives to its end, was {MOST_TRIES} that ended before: too little memory?",
        ):  # fmt: skip
            _tell(BacktestRun.objects.get(pk=run_id), JobStatus.FAILED)
            return None
        if left.update(leased_until=until, tries=F("tries") + 1, done=0, started_at=now):
            return until
        if not mine.move(JobStatus.RUNNING, leased_until=until, tries=F("tries") + 1, done=0, started_at=now):
            return None
        _tell(BacktestRun.objects.get(pk=run_id), JobStatus.RUNNING)
    return until


def _computed(run: BacktestRun, lease: Lease) -> tuple[dict[str, Any], dict[str, Any]]:
    """What came of it, as columns of the run and of its result."""
    feeds = run_feeds(run)
    markets, settings = markets_of(run, feeds, lease.tick)
    count = sum(len(market.candles) for market in markets)
    lease.expect(count)
    hashes = {"code_hash": code_hash(type(run.build())), "data_hash": data_hash(markets)}
    result = backtest(markets, settings, lease.tick)
    if len(result.trades) > MOST_TRADES:
        raise TooMuch(f"wanted at most {MOST_TRADES:,} trades, was {len(result.trades):,}: choose a shorter span")
    lease.tick(1.0)
    # Which candles are missing is the calendars' to say.
    figures = figures_of(result, settings, markets, checks_holes=False)
    figures["warnings"] += _holes(run, feeds)
    figures |= {"curve": curve_thinned(result), "order": list(figures["stats"])}
    lease.tick(1.0)
    long = {
        "trades": finite([trade_row(trade) for trade in result.trades]),
        "refused": [
            {"symbol": one.symbol, "at": one.at.isoformat(), "side": one.side.value, "denial": one.denial.value}
            for one in result.refused
        ],
        "equity": packed(open_ms=result.open_ms, equity=np.asarray(result.equity, np.float64)),
    }
    return {"figures": finite(figures), "candles": count, "total": count, "done": count, **hashes}, long


def curve_thinned(result: Result) -> list[list[float]]:
    """The equity at ``CURVE_POINTS`` times at most, the first and the last among them: [epoch milliseconds, value]."""
    size = len(result.equity)
    places = np.unique(np.linspace(0, max(size - 1, 0), min(size, CURVE_POINTS)).astype(np.int64))
    return [[int(result.open_ms[place]), float(result.equity[place])] for place in places]


def _holes(run: BacktestRun, feeds: Sequence[Feed]) -> list[dict[str, str]]:
    missing = {str(feed): candles_missing(feed, run.from_at, run.until_at) for feed in feeds}
    return [
        {"code": "CANDLES_MISSING", "text": f"{count:,} candles of {feed} are missing: what happened then was not seen"}
        for feed, count in missing.items()
        if count
    ]


def _store(lease: Lease, run: BacktestRun, columns: dict[str, Any], long: dict[str, Any]) -> bool:
    with transaction.atomic():
        # First, for it locks the row: who was overtaken, or cancelled, stores nothing.
        if not lease.mine.move(
            JobStatus.DONE, ended_at=timezone.now(), leased_until=None, not_before_at=None, last_error="", **columns
        ):
            return False
        BacktestResult.objects.create(run=run, **long)
        _tell(BacktestRun.objects.get(pk=run.pk), JobStatus.DONE)
    crashpoint("backtest.stored")
    return True


def _fail(lease: Lease, run_id: int, reason: str) -> bool:
    with transaction.atomic():
        is_mine = lease.mine.move(
            JobStatus.FAILED, ended_at=timezone.now(), leased_until=None, not_before_at=None,
            last_error=printable(reason, ERROR_LENGTH),
        )  # fmt: skip
        if is_mine:
            _tell(BacktestRun.objects.get(pk=run_id), JobStatus.FAILED)
    return bool(is_mine)


def _named(asked: Asked) -> str:
    symbols = ", ".join(feed.market.symbol for feed in asked.feeds)
    frames = ", ".join(dict.fromkeys(feed.timeframe for feed in asked.feeds))
    return f"{LIBRARY[asked.strategy].title} {symbols} {frames}"


def _tell(run: Job, status: JobStatus, *, actor: str = "system") -> None:
    facts = {"backtest": status, "name": run.name, "reason": run.last_error}
    note = Note(key=run.pk, ids={"run_id": run.pk, "owner_id": run.owner_id}, data=facts)
    publish_all(Topic.RESEARCH, [note], actor=actor)


def _ring(run_id: int) -> None:
    transaction.on_commit(lambda: ring(TASK, batch=1, run_ids=[run_id]), robust=True)
