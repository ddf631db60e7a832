"""Real collection workers: one that dies in the middle of a batch, and two that share one. No candle is missing or double."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

import pytest
from django.db.models import F
from django.utils import timezone

from domain.candles import Timeframe
from exchanges.models import Exchange
from exchanges.services import exchange_sync
from marketdata.collection import LEASE
from marketdata.models import Candle, CandleRevision, Feed
from marketdata.tasks import sweep_feeds
from pipeline.topics import ring
from strategies.models import Signal
from strategies.tasks import sweep_candles
from tests.factories import events, make_config, make_user
from tests.venue import Venue
from tests.workers import Workers, wait_until, workers_running

CANDLES = "/api/v1/market/candles"
TIMEFRAMES = (Timeframe.M1, Timeframe.M3, Timeframe.M5, Timeframe.M15, Timeframe.M30)

pytestmark = pytest.mark.flow


@pytest.fixture
def workers() -> Iterator[Workers]:
    with workers_running() as running:
        yield running


def feeds_at(venue: Venue, markets: int) -> list[Feed]:
    """Feeds that are due, of so many markets in five timeframes each; they have all candles but the last three."""
    for number in range(markets):
        venue.simulator.control("symbols", symbol=f"M{number:02}-USDT")
    exchange_sync(venue.exchange.pk)
    # As good as still: no candle closes before the test is over, and nobody looks every second whether it has.
    Exchange.objects.filter(pk=venue.exchange.pk).update(clock_speed=1e-5)
    venue.exchange.refresh_from_db()
    now = timezone.now()
    return Feed.objects.bulk_create(
        Feed(
            market=market, timeframe=timeframe.value, is_needed=True, next_due_at=now,
            last_open_at=timeframe.open_of(venue.exchange.time_at(now)) - 4 * timeframe.length,
        )
        for market in venue.exchange.markets.filter(symbol__regex=r"^M\d\d/USDT$")
        for timeframe in TIMEFRAMES
    )  # fmt: skip


def assert_each_candle_once(venue: Venue, feeds: list[Feed]) -> None:
    """Of every feed the last candle it had and the three after it, announced once; nothing was told otherwise."""
    now = venue.exchange.time_at(timezone.now())
    expected = {
        (feed.pk, timeframe.open_of(now) - back * timeframe.length)
        for feed in feeds
        for timeframe in [Timeframe(feed.timeframe)]
        for back in range(1, 5)
    }
    stored = list(Candle.objects.values_list("feed_id", "open_at"))
    assert set(stored) == expected
    assert len(stored) == len(expected)
    assert not CandleRevision.objects.exists()
    assert Counter(event["feed"] for event in events("marketdata")) == Counter(str(feed) for feed in feeds)
    rows = Feed.objects.filter(pk__in=[feed.pk for feed in feeds])
    assert set(rows.values_list("leased_until", "misses", "last_error")) == {(None, 0, "")}


def all_are_collected() -> bool:
    return not Feed.objects.filter(is_needed=True, next_due_at__lte=timezone.now()).exists()


def let_leases_pass() -> None:
    Feed.objects.filter(leased_until__isnull=False).update(
        leased_until=F("leased_until") - LEASE - timedelta(seconds=1)
    )


# Of the second round: some of the batch is stored by then, some was answered, some is being asked for.
@pytest.mark.parametrize("point", ["candles.fetched:2", "candles.stored:2", "bells.before:2"])
def test_a_collector_that_is_killed_in_the_middle_of_a_batch_loses_and_doubles_no_candle(
    venue: Venue, workers: Workers, point: str
) -> None:
    feeds = feeds_at(venue, 40)
    ids = [feed.pk for feed in feeds]
    # Answers trickle in, so that there is more than one round.
    venue.fault(method="GET", path=CANDLES, kind="delay", when="before", seconds=0.1, count=None)
    workers.start_worker("worker-light-first", ("marketdata",), R3EDGE_CRASH_AT=point)
    workers.wait_ready("worker-light-first")

    ring("marketdata.collect", batch=len(ids), feed_ids=ids)
    first = workers.processes["worker-light-first"]
    first.wait(30)
    assert first.returncode == -signal.SIGKILL, workers.log("worker-light-first")
    stored_by_the_dead = Candle.objects.values("feed_id").distinct().count()
    leased_by_the_dead = Feed.objects.filter(leased_until__isnull=False).count()
    venue.heal()
    workers.start_worker("worker-light-second", ("marketdata",))
    workers.wait_ready("worker-light-second")
    sweep_feeds()
    wait_until(lambda: Feed.objects.filter(leased_until=None).count() == len(ids) - leased_by_the_dead, "the rest")
    let_leases_pass()

    def swept() -> bool:
        sweep_feeds()
        return all_are_collected()

    wait_until(swept, f"the dead worker's share to be collected\n{workers.log('worker-light-second')}")

    assert 0 < stored_by_the_dead < len(ids)
    assert 0 < leased_by_the_dead < len(ids)
    assert_each_candle_once(venue, feeds)


def test_what_a_collector_announced_with_its_last_breath_is_evaluated_once(venue: Venue, workers: Workers) -> None:
    feeds = feeds_at(venue, 1)
    owner = make_user()
    configs = [make_config(owner, feed, is_needed=True) for feed in feeds]
    workers.start_worker("worker-light-first", ("marketdata",), R3EDGE_CRASH_AT="bells.before")
    workers.start_worker("worker-strategies")
    workers.wait_ready("worker-light-first", "worker-strategies")

    ring("marketdata.collect", feed_ids=[feed.pk for feed in feeds])
    workers.processes["worker-light-first"].wait(30)
    unheard = Signal.objects.count()
    sweep_candles()
    sweep_candles()
    wait_until(
        lambda: Signal.objects.count() == len(configs),
        f"every configuration to answer\n{workers.log('worker-strategies')}",
    )

    assert unheard == 0
    assert Counter(Signal.objects.values_list("config_id", flat=True)) == Counter(config.pk for config in configs)
    assert_each_candle_once(venue, feeds)


def test_two_workers_share_two_hundred_feeds_and_ask_about_each_once(venue: Venue, workers: Workers) -> None:
    feeds = feeds_at(venue, 40)
    ids = [feed.pk for feed in feeds]
    venue.fault(method="GET", path=CANDLES, kind="delay", when="before", seconds=0.05, count=None)
    for name in ("worker-light-first", "worker-light-second"):
        workers.start_worker(name, ("marketdata",))
    workers.wait_ready("worker-light-first", "worker-light-second")

    for _ in range(3):  # and far too many bells
        for half in (ids[:100], ids[100:], ids):
            ring("marketdata.collect", batch=200, feed_ids=half)

    def swept() -> bool:
        sweep_feeds()
        return all_are_collected()

    wait_until(swept, f"two hundred feeds\n{workers.log('worker-light-first')}")

    assert_each_candle_once(venue, feeds)
    assert len(venue.requests_of("GET", CANDLES)) == 200
