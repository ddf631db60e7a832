"""History of a venue over HTTP, by real workers: it comes whole whatever fails and whoever dies, each candle counted once."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone

from exchanges.budget import Use
from exchanges.guarded_gateway import public_budget
from marketdata.backfills import backfill_request, backfill_step
from marketdata.history import opens_missing
from marketdata.models import Backfill, CandleGap, Feed
from marketdata.tasks import collect, sweep_feeds
from tests.conftest import Bells
from tests.factories import events, make_feed
from tests.venue import START_MS, Venue
from tests.workers import Workers, wait_until, workers_running

pytestmark = pytest.mark.flow

CANDLES = "/api/v1/market/candles"
MINUTE = timedelta(minutes=1)
START_AT = datetime.fromtimestamp(START_MS / 1000, tz=UTC)


# One after the other, each at its own request.
FAULTS: tuple[dict[str, Any], ...] = (
    {"kind": "drop"},
    {"kind": "http", "status": 500},
    {"kind": "html"},
    {"kind": "truncated", "when": "after"},
    {"kind": "http", "status": 429},
    {"kind": "empty"},
)


@pytest.fixture
def workers() -> Iterator[Workers]:
    with workers_running() as running:
        yield running


def minutes_before_start(count: int) -> list[datetime]:
    return [START_AT - number * MINUTE for number in range(count, 0, -1)]


def opens(feed: Feed) -> list[datetime]:
    return list(feed.candles.order_by("open_at").values_list("open_at", flat=True))


def swept_until(workers: Workers, is_so: Callable[[], bool], what: str) -> None:
    """Sweep until it is so, with the pauses of backfills running out at once."""

    def is_so_now() -> bool:
        long_ago = timezone.now() - timedelta(minutes=1)
        Backfill.objects.filter(not_before_at__gt=long_ago, leased_until=None).update(not_before_at=long_ago)
        sweep_feeds()
        return is_so()

    wait_until(is_so_now, f"{what}\n{workers.log(next(iter(workers.processes)))}", 60)


def swept_until_done(workers: Workers, backfill: Backfill) -> None:
    def is_done() -> bool:
        backfill.refresh_from_db()
        return backfill.status == "DONE"

    swept_until(workers, is_done, "the backfill done")


def test_ten_thousand_candles_come_whole_from_a_venue_that_fails_and_has_holes(venue: Venue, workers: Workers) -> None:
    feed = make_feed(venue.market)
    hole = (START_AT - 6000 * MINUTE, START_AT - 4000 * MINUTE)
    from_ms, to_ms = (int(at.timestamp() * 1000) for at in hole)
    venue.simulator.control("market/BTC-USDT/gap", **{"from": from_ms, "to": to_ms, "until": START_MS + 1000})
    for skip, fault in enumerate(FAULTS):
        venue.fault(method="GET", path=CANDLES, skip=skip, **fault)
    workers.start_worker("worker-light", ("marketdata",))
    workers.wait_ready("worker-light")

    backfill = backfill_request(feed, START_AT - 10_000 * MINUTE, START_AT)
    swept_until_done(workers, backfill)

    assert venue.simulator.get("/_sim/faults") == {"faults": []}
    assert (backfill.rows_seen, backfill.rows_new) == (8000, 8000)
    missing = opens_missing(feed, backfill.from_at, START_AT)
    assert (len(missing), missing[0], missing[-1]) == (2000, hole[0], hole[1] - MINUTE)

    gap, _ = CandleGap.objects.get_or_create(
        feed=feed, from_at=hole[0], defaults={"until_at": hole[1], "missing": 2000, "found_at": timezone.now()}
    )
    venue.advance(2)  # now the venue has them after all
    CandleGap.objects.update(not_before_at=None)

    def is_filled() -> bool:
        gap.refresh_from_db()
        return gap.status == "FILLED"

    swept_until(workers, is_filled, "the gap handed to a backfill, and filled by it")

    assert opens(feed) == minutes_before_start(10_000)
    assert CandleGap.objects.get() == gap
    [told] = venue.simulator.get(
        CANDLES, type="1min", symbol="BTC-USDT", startAt=from_ms // 1000, endAt=from_ms // 1000 + 60
    )["data"]
    assert feed.candles.get(open_at=hole[0]).close == Decimal(told[2])


@pytest.mark.parametrize("point", ["backfill.claimed", "backfill.fetched", "backfill.stored"])
def test_a_worker_that_is_killed_in_the_middle_of_a_page_costs_a_request_and_no_candle(
    venue: Venue, workers: Workers, bells: Bells, point: str
) -> None:
    feed = make_feed(venue.market)
    workers.start_worker("worker-light-first", ("marketdata",), R3EDGE_CRASH_AT=f"{point}:2")
    workers.wait_ready("worker-light-first")
    first = workers.processes["worker-light-first"]

    backfill = backfill_request(feed, START_AT - 5000 * MINUTE, START_AT)
    first.wait(20)
    left_behind = Backfill.objects.get()
    workers.processes.pop("worker-light-first")
    bells.clear()
    workers.start_worker("worker-light-second", ("marketdata",))
    workers.wait_ready("worker-light-second")
    Backfill.objects.filter(leased_until__isnull=False).update(leased_until=timezone.now())
    swept_until_done(workers, backfill)

    pages = 2 if point == "backfill.stored" else 1
    assert first.returncode == -signal.SIGKILL
    assert (left_behind.status, left_behind.rows_seen) == ("RUNNING", 1500 * pages)
    assert left_behind.cursor_at == START_AT - (5000 - 1500 * pages) * MINUTE
    assert opens(feed) == minutes_before_start(5000)
    assert (backfill.rows_seen, backfill.rows_new) == (5000, 5000)
    assert len(venue.requests_of("GET", CANDLES)) == 4 + (point == "backfill.fetched")


def test_a_worker_that_is_killed_while_it_fills_a_gap_costs_a_request_and_no_candle(
    venue: Venue, workers: Workers, bells: Bells
) -> None:
    feed = make_feed(venue.market)
    gap = CandleGap.objects.create(
        feed=feed, from_at=START_AT - 5 * MINUTE, until_at=START_AT, missing=5, found_at=timezone.now()
    )
    workers.start_worker("worker-light-first", ("marketdata",), R3EDGE_CRASH_AT="repair.fetched")
    workers.wait_ready("worker-light-first")
    first = workers.processes["worker-light-first"]
    sweep_feeds()
    first.wait(20)
    gap.refresh_from_db()
    left_behind = gap.status, gap.attempts, opens(feed)
    workers.processes.pop("worker-light-first")
    bells.clear()
    workers.start_worker("worker-light-second", ("marketdata",))
    workers.wait_ready("worker-light-second")
    sweep_feeds()
    asked_while_leased = len(venue.requests_of("GET", CANDLES))
    CandleGap.objects.update(leased_until=timezone.now())

    def is_filled() -> bool:
        sweep_feeds()
        gap.refresh_from_db()
        return gap.status == "FILLED"

    wait_until(is_filled, f"the gap filled\n{workers.log('worker-light-second')}")

    assert first.returncode == -signal.SIGKILL
    assert left_behind == ("OPEN", 0, [])
    assert asked_while_leased == 1
    assert opens(feed) == minutes_before_start(5)
    assert len(venue.requests_of("GET", CANDLES)) == 2
    assert [event["gap"] for event in events("marketdata")] == ["FILLED"]


def test_history_waits_without_a_failure_while_its_part_is_used_up_and_live_candles_come(venue: Venue) -> None:
    feed = make_feed(venue.market, is_needed=True, next_due_at=timezone.now())
    public_budget("kucoin", venue.exchange.pk).take(400, Use.READ)  # a fifth of what KuCoin allows
    backfill = backfill_request(feed, START_AT - 5000 * MINUTE, START_AT - 3000 * MINUTE)

    stepped = backfill_step(backfill.pk)
    collect([feed.pk])

    backfill.refresh_from_db()
    assert (stepped, backfill.status, backfill.failures) == (False, "RUNNING", 0)
    assert backfill.last_error == "wanted 3 of the 400 that history calls may use in 30 s, was used up"
    assert backfill.not_before_at is not None
    assert timedelta(seconds=20) < backfill.not_before_at - timezone.now() < timedelta(seconds=40)
    assert opens(feed) == minutes_before_start(1000)
