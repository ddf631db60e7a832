"""Thousands of feeds whose candles close in the same instant: from the close to the candle stored, and to its signal.

Real workers, beat's two sweeps, PostgreSQL, Valkey and the simulated exchange over HTTP, its market clock as fast as ours.
Every feed has a configuration that computes an RSI over its window. The floor is a bare loop that sends the same requests to
the same simulator, from as many threads, and stores nothing. What the venue's real budget lets through is measured by itself.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from threading import local

import requests
from django.db import connection
from django.utils import timezone
from django_celery_beat.models import PeriodicTask, PeriodicTasks

from benchmarks.live import CannotRun, Live, platform_running, simulator_start, used_between, wait_until
from benchmarks.report import Report, Spread
from benchmarks.world import Venue
from domain.candles import Timeframe
from embedded.processes import WORKERS, Worker
from exchanges.budget import Use
from exchanges.models import Exchange, Market
from exchanges.services import exchange_clock_sync, quotes_refresh
from exchanges.venues import PUBLIC, venue_of
from marketdata.lanes import LANE_THREADS
from marketdata.models import Feed
from strategies.models import StrategyConfig

# All of them close at a full hour.
TIMEFRAMES = (Timeframe.M1, Timeframe.M3, Timeframe.M5, Timeframe.M15, Timeframe.M30, Timeframe.H1)
HISTORY = 500  # what a strategy is shown
GOAL_SECONDS = 2.0
PLENTY = 100_000_000
SYMBOLS_AT_ONCE = 100
# So much of the venue's time passes before the hour, at least, until everything is warm.
WARM_UP_SECONDS = 60
WARM_UP_FEEDS_PER_SECOND = 50
WARM_EVALUATIONS = 50
LIMIT_SECONDS = 300.0
SWEEPS = ("marketdata.sweep", "strategies.sweep")
# It computes as any strategy does, and says nothing: what follows a signal is another benchmark's.
QUIET = {"period": 14, "oversold": 0.001, "recovered": 99.999}


@dataclass(frozen=True, slots=True)
class Close:
    """Milliseconds after the close, feed by feed."""

    stored: Spread
    evaluated: Spread
    in_time: int

    def figures(self) -> dict[str, object]:
        return {"stored_ms": self.stored.figures(), "evaluated_ms": self.evaluated.figures(), "in_time": self.in_time}


def run(options: argparse.Namespace) -> Report:
    report = Report("closes")
    with platform_running(_workers(options.collectors)) as live:
        _only_sweeps()
        venue = _venue(live, -(-options.feeds // len(TIMEFRAMES)))
        feeds = _feeds(venue, options.feeds)
        hour = _warm_up(venue, feeds)
        before = live.usage()
        close = _close(venue, feeds, hour)
        spent = used_between(before, live.usage())
        floor = _floor(venue, feeds, hour)
        own = _own_budget(venue, feeds)
        _tables(report, close, floor, own)
        _processes(report, spent, len(feeds))
        report.figures["complaints"] = live.warnings()[:50]
    return report


def _workers(collectors: int) -> tuple[Worker, ...]:
    """The platform's own, and so many more for collection alone."""
    [light] = [worker for worker in WORKERS if "marketdata" in worker.queues]
    more = [replace(light, name=f"worker-collect-{number}", queues=("marketdata",)) for number in range(collectors)]
    return (*WORKERS, *more)


def _only_sweeps() -> None:
    """There are no sessions: without this, what nobody needs would no longer be collected."""
    wait_until(lambda: PeriodicTask.objects.filter(task__in=SWEEPS).count() == len(SWEEPS), "beat's schedule", 30)
    PeriodicTask.objects.exclude(task__in=SWEEPS).update(enabled=False)
    PeriodicTasks.update_changed()


def _venue(live: Live, markets: int) -> Venue:
    url = simulator_start(live)
    for number in range(markets):
        requests.post(f"{url}/_sim/symbols", json={"symbol": _symbol(number)}, timeout=30).raise_for_status()
    venue = Venue.at(url)
    Exchange.objects.filter(pk=venue.exchange.pk).update(public_weight=PLENTY)
    return venue


def _symbol(number: int) -> str:
    return f"M{number:04}-USDT"


def _feeds(venue: Venue, count: int) -> list[Feed]:
    """Feeds that nobody is at, each with a configuration that wants its signals."""
    markets = list(
        Market.objects.filter(exchange=venue.exchange, symbol__startswith="M0").exclude(symbol__contains=":")
    )
    pairs = [(market, timeframe) for market in markets for timeframe in TIMEFRAMES][:count]
    if len(pairs) < count:
        raise CannotRun(f"wanted {count} feeds, the venue has markets for {len(pairs)}")
    feeds = Feed.objects.bulk_create(Feed(market=market, timeframe=timeframe.value) for market, timeframe in pairs)
    StrategyConfig.objects.bulk_create(
        StrategyConfig(
            owner=venue.owner, name=f"closes-{feed.pk}", feed=feed, strategy="rsi_reversion", parameters=QUIET,
            is_needed=number < WARM_EVALUATIONS,
        )
        for number, feed in enumerate(feeds)
    )  # fmt: skip
    symbols = [market.symbol for market in markets]
    for start in range(0, len(symbols), SYMBOLS_AT_ONCE):
        quotes_refresh(venue.exchange.pk, symbols[start : start + SYMBOLS_AT_ONCE])
    return feeds


def _warm_up(venue: Venue, feeds: Sequence[Feed]) -> datetime:
    """Let the market run, every feed be collected once and some evaluated; the full hour that comes next."""
    seconds = WARM_UP_SECONDS + len(feeds) // WARM_UP_FEEDS_PER_SECOND
    hour = Timeframe.H1.open_of(venue.now) + timedelta(hours=2)
    venue.control("clock", now_ms=int((hour.timestamp() - seconds) * 1000))
    exchange_clock_sync(venue.exchange.pk)
    venue.exchange.refresh_from_db()
    _seed(venue, feeds)
    venue.control("clock", speed=1)
    exchange_clock_sync(venue.exchange.pk)
    Exchange.objects.filter(pk=venue.exchange.pk).update(clock_speed=1.0)
    venue.exchange.refresh_from_db()
    ids = [feed.pk for feed in feeds]
    Feed.objects.filter(pk__in=ids).update(is_needed=True, next_due_at=timezone.now())
    done = Feed.objects.filter(pk__in=ids, last_error="", leased_until=None, next_due_at__gt=timezone.now())
    wait_until(lambda: done.count() >= len(ids), "every feed to be collected once", LIMIT_SECONDS, pause=0.5)
    wait_until(lambda: not _unanswered(), "some feeds to be evaluated once", LIMIT_SECONDS, pause=0.5)
    _answer_all(venue)
    left = (hour - venue.now).total_seconds()
    if left < 5:
        raise CannotRun(f"wanted a warm platform before the candles close, was {5 - left:.0f} s late")
    return hour


def _unanswered() -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT count(*) FROM strategies_strategyconfig k JOIN marketdata_feed f ON f.id = k.feed_id
            WHERE k.is_needed AND NOT EXISTS (
                SELECT FROM strategies_signal s WHERE s.config_id = k.id AND s.candle_open_at = f.last_open_at
            )
            """
        )
        [(count,)] = cursor.fetchall()
        return int(count)


def _answer_all(venue: Venue) -> None:
    """From now on every configuration is wanted; what its feed has already counts as answered."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO strategies_signal (config_id, candle_open_at, candle_close_at, kind, price, reason, created_at)
            SELECT k.id, f.last_open_at, f.last_open_at, 'NOTHING', 1, 'WARM', clock_timestamp()
            FROM strategies_strategyconfig k JOIN marketdata_feed f ON f.id = k.feed_id
            ON CONFLICT DO NOTHING
            """
        )
    StrategyConfig.objects.filter(owner=venue.owner).update(is_needed=True)


def _seed(venue: Venue, feeds: Sequence[Feed]) -> None:
    """History near the market's price, up to the last candle but one."""
    now = venue.now
    with connection.cursor() as cursor:
        for timeframe in TIMEFRAMES:
            last = timeframe.open_of(now) - 2 * timeframe.length
            ids = [feed.pk for feed in feeds if feed.timeframe == timeframe]
            cursor.execute(
                """
                INSERT INTO marketdata_candle (feed_id, open_at, open, high, low, close, volume, collected_at)
                SELECT f.id, %s - n * make_interval(secs => %s), p.price, p.price, p.price, p.price, 1, clock_timestamp()
                FROM marketdata_feed f JOIN exchanges_quote q ON q.market_id = f.market_id,
                     generate_series(0, %s) AS n,
                     LATERAL (SELECT q.last * (1 + 0.001 * sin(n)::numeric)) AS p (price)
                WHERE f.id = ANY(%s)
                """,
                [last, timeframe.seconds, HISTORY - 1, ids],
            )
            Feed.objects.filter(pk__in=ids).update(last_open_at=last)
        cursor.execute("ANALYZE marketdata_candle")


def _close(venue: Venue, feeds: Sequence[Feed], hour: datetime) -> Close:
    """Wait for the close of the candles that end at ``hour``, and until each is stored and answered."""
    ids = [feed.pk for feed in feeds]
    time.sleep(max(0.0, (hour - venue.now).total_seconds()))
    wait_until(lambda: _stored(ids, hour) >= len(ids), f"{len(ids)} candles", LIMIT_SECONDS, pause=0.5)
    # A candle that closes meanwhile would take the place of one that was not answered yet.
    Feed.objects.filter(pk__in=ids).update(next_due_at=None)
    try:
        wait_until(lambda: len(_times(ids, hour)) >= len(ids), "", LIMIT_SECONDS, pause=1)
    except CannotRun:
        raise CannotRun(f"wanted {len(ids)} signals, was {len(_times(ids, hour))}") from None
    closed_at = venue.exchange.our_time_of(hour, timezone.now())
    rows = [((stored - closed_at).total_seconds() * 1000, (answered - closed_at).total_seconds() * 1000)
            for stored, answered in _times(ids, hour)]  # fmt: skip
    in_time = sum(stored <= GOAL_SECONDS * 1000 for stored, _ in rows)
    return Close(Spread.of([stored for stored, _ in rows]), Spread.of([answered for _, answered in rows]), in_time)


def _stored(ids: Sequence[int], closed_at: datetime) -> int:
    """How many of the feeds have the candle that closed then."""
    feeds = Feed.objects.filter(pk__in=ids)
    return sum(
        feeds.filter(timeframe=timeframe.value, last_open_at__gte=closed_at - timeframe.length).count()
        for timeframe in TIMEFRAMES
    )


def _times(ids: Sequence[int], closed_at: datetime) -> list[tuple[datetime, datetime]]:
    """When each feed's candle that closed then was stored, and answered."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT c.collected_at, s.created_at
            FROM unnest(%s::bigint[]) AS mine (id)
            JOIN strategies_strategyconfig k ON k.feed_id = mine.id
            JOIN strategies_signal s ON s.config_id = k.id AND s.candle_close_at = %s
            JOIN marketdata_candle c ON c.feed_id = k.feed_id AND c.open_at = s.candle_open_at
            """,
            [list(ids), closed_at],
        )
        return [(stored, answered) for stored, answered in cursor.fetchall()]


def _floor(venue: Venue, feeds: Sequence[Feed], hour: datetime) -> Spread:
    """Milliseconds from the beginning until each answer of the same requests is there and parsed."""
    sessions = local()
    markets = {market.pk: market for market in Market.objects.filter(exchange=venue.exchange)}
    queries = [
        {
            "symbol": markets[feed.market_id].symbol.replace("/", "-"),
            "type": _their_timeframe(feed.timeframe),
            "startAt": str(int((hour - 2 * Timeframe(feed.timeframe).length).timestamp())),
            "endAt": str(int((hour + 1498 * Timeframe(feed.timeframe).length).timestamp())),
        }
        for feed in feeds
    ]

    def ask(query: dict[str, str]) -> float:
        if not hasattr(sessions, "http"):
            sessions.http = requests.Session()
        answer = sessions.http.get(f"{venue.url}/api/v1/market/candles", params=query, timeout=10)
        if len(json.loads(answer.text)["data"]) < 2:
            raise CannotRun(f"wanted two candles, was {answer.text[:100]}")
        return (time.perf_counter() - began) * 1000

    with ThreadPoolExecutor(LANE_THREADS) as pool:
        began = time.perf_counter()
        return Spread.of(list(pool.map(ask, queries)))


def _their_timeframe(timeframe: str) -> str:
    """What KuCoin calls it."""
    number, unit = timeframe[:-1], {"m": "min", "h": "hour", "d": "day"}[timeframe[-1]]
    return f"{number}{unit}"


def _own_budget(venue: Venue, feeds: Sequence[Feed]) -> Close:
    """As many feeds of one minute as the venue's own budget lets through at once, on a budget that nobody has used."""
    pool = venue_of(venue.exchange.ccxt_id).allowance.pools[PUBLIC]
    most = min(_let_through(venue), len(feeds))
    minutes = [feed.pk for feed in feeds if feed.timeframe == Timeframe.M1][:most]
    Feed.objects.exclude(pk__in=minutes).update(is_needed=False, next_due_at=None)
    Exchange.objects.filter(pk=venue.exchange.pk).update(public_weight=None)
    venue.exchange.refresh_from_db()
    # Once before it counts, for the gateways are new; then the budget's counter of two windows forgets it.
    mine, later = Feed.objects.filter(pk__in=minutes), timezone.now() + timedelta(days=1)
    mine.update(next_due_at=timezone.now())
    wait_until(lambda: not mine.filter(next_due_at__lte=timezone.now()).exists(), "some feeds", LIMIT_SECONDS)
    mine.update(next_due_at=later)
    time.sleep(2 * pool.seconds)
    close_at = Timeframe.M1.open_of(venue.now) + timedelta(minutes=1)
    if (close_at - venue.now).total_seconds() < 10:
        close_at += timedelta(minutes=1)
    # They have all candles but this one, as if they had been collected all the time.
    venue_last = close_at - timedelta(minutes=2)
    due_at = timezone.now() + (close_at - venue.now)
    mine.update(last_open_at=venue_last, next_due_at=due_at)
    return _close(venue, [feed for feed in feeds if feed.pk in set(minutes)], close_at.astimezone(UTC))


def _let_through(venue: Venue) -> int:
    allowance = venue_of(venue.exchange.ccxt_id).allowance
    _, weight = allowance.calls["candles"]
    return allowance.pools[PUBLIC].weight * Use.READ.value // 100 // weight


def _tables(report: Report, close: Close, floor: Spread, own: Close) -> None:
    count = close.stored.count
    table = report.table(
        f"{count} feeds close at once (milliseconds after the close)", "", "p50", "p99", "max", "goal", "× floor p99"
    )
    goal = f"{GOAL_SECONDS * 1000:.0f}"
    ratio = close.stored.p99 / floor.p99
    table.add("candle stored", close.stored.p50, close.stored.p99, close.stored.most, goal, f"{ratio:.1f}")
    table.add("signal evaluated", close.evaluated.p50, close.evaluated.p99, close.evaluated.most, "", "")
    table.add(
        f"floor: the same requests by {LANE_THREADS} threads, nothing stored",
        floor.p50,
        floor.p99,
        floor.most,
        "",
        "1.0",
    )
    table.add(f"{own.stored.count} feeds at the venue's own budget: candle stored", own.stored.p50, own.stored.p99,
              own.stored.most, goal, "")  # fmt: skip
    table.add("… signal evaluated", own.evaluated.p50, own.evaluated.p99, own.evaluated.most, "", "")
    rates = report.table("Rates", "", "feeds per second", f"stored within {GOAL_SECONDS:g} s")
    rates.add("collected", 1000 * count / close.stored.most, f"{close.in_time} of {count}")
    rates.add("evaluated", 1000 * count / close.evaluated.most, "")
    rates.add("floor", 1000 * count / floor.most, "")
    rates.add(
        "at the venue's own budget", 1000 * own.stored.count / own.stored.most, f"{own.in_time} of {own.stored.count}"
    )
    report.figures |= {
        "feeds": count, **close.figures(), "floor_ms": floor.figures(), "goal_ms": GOAL_SECONDS * 1000,
        "own_budget": own.figures(),
    }  # fmt: skip


def _processes(report: Report, spent: dict[str, float], feeds: int) -> None:
    table = report.table("Processes, from the warm platform to the last signal", "", "CPU s", "CPU ms per feed")
    for name, seconds in spent.items():
        table.add(name, seconds, 1000 * seconds / feeds)
    report.figures["cpu_s"] = {name: round(seconds, 2) for name, seconds in spent.items()}
