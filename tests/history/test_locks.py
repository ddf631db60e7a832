"""Whoever tells a feed's past locks the feed before anything else of it, as its collector does: nobody waits in a circle."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import connection, connections, transaction
from django.utils import timezone

from domain.quality import Flaw
from exchanges.gateway import CandleReport
from marketdata.backfills import backfill_request, backfill_step
from marketdata.collection import _claimed, _still_ours
from marketdata.models import Backfill, CandleGap, Feed, QuarantinedCandle, SourceKind
from marketdata.repairs import _pause, gaps_repair
from marketdata.sources import SourceFailed
from tests.factories import NOON
from tests.history.conftest import Places, minutes_feed
from tests.marketdata.conftest import MINUTE
from tests.race import elsewhere

pytestmark = pytest.mark.django_db(transaction=True)  # with more than one connection


@contextmanager
def collecting(feed: Feed, meanwhile: Callable[[], object]) -> Iterator[None]:
    """As the collector of ``feed`` does, hold it, while somebody else waits for what it holds; whoever waits for that one
    too gives up soon."""

    def run() -> None:
        try:
            meanwhile()
        finally:
            connections.close_all()

    other = threading.Thread(target=run, daemon=True)
    with transaction.atomic():
        Feed.objects.select_for_update().get(pk=feed.pk)
        other.start()
        _until_blocked()
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = '300ms'")
        yield
    other.join(10)
    assert not other.is_alive(), "waited 10 s in vain: the other to end"


def _until_blocked() -> None:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_stat_clear_snapshot()")
            cursor.execute("SELECT pid FROM pg_stat_activity WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid))")
            if cursor.fetchone():
                return
        time.sleep(0.01)
    raise AssertionError("waited 10 s in vain: somebody to wait for the feed")


def gap_of(feed: Feed, first: int, missing: int) -> CandleGap:
    from_at = NOON - first * MINUTE
    return CandleGap.objects.create(
        feed=feed, from_at=from_at, until_at=from_at + missing * MINUTE, missing=missing, found_at=NOON
    )


def test_a_page_of_the_past_keeps_bad_rows_only_when_it_has_the_feed(places: Places) -> None:
    feed, wrong = minutes_feed(), NOON - 5 * MINUTE
    price = Decimal(50000)
    places.first.changed[wrong] = CandleReport(wrong, price, price - 1, price, price, Decimal(1))
    one = backfill_request(feed, NOON - 10 * MINUTE, NOON)

    with collecting(feed, lambda: backfill_step(one.pk)):
        QuarantinedCandle.objects.create(
            feed=feed, open_at=wrong, flaw=Flaw.BAD_OHLC, source=SourceKind.EXCHANGE, row={}, seen_at=NOON,
            last_seen_at=NOON,
        )  # fmt: skip

    assert QuarantinedCandle.objects.get().times == 2
    assert feed.candles.count() == 9


def test_a_gap_is_handed_to_a_backfill_only_by_who_has_the_feed(places: Places) -> None:
    feed = minutes_feed()
    gap = gap_of(feed, 3000, 2000)

    with collecting(feed, lambda: gaps_repair([gap.pk])):
        CandleGap.objects.filter(pk=gap.pk).update(last_error="seen")

    assert Backfill.objects.count() == 1


def test_gaps_are_put_off_only_by_who_has_the_feed(places: Places) -> None:
    feed = minutes_feed()
    gaps = [gap_of(feed, 30, 2), gap_of(feed, 20, 2)]
    CandleGap.objects.update(leased_until=NOON)

    with collecting(feed, lambda: _pause(feed, gaps, NOON, SourceFailed("away"))):
        for gap in reversed(gaps):
            CandleGap.objects.filter(pk=gap.pk).update(last_error="seen")

    assert set(CandleGap.objects.values_list("last_error", "leased_until")) == {("away", None)}


def test_what_only_names_a_feed_does_not_wait_for_its_collector(places: Places) -> None:
    feed = minutes_feed(is_needed=True, next_due_at=timezone.now() - timedelta(seconds=1))
    looks = _claimed([feed.pk])

    with transaction.atomic():
        assert _still_ours(looks) == looks
        asked = elsewhere(lambda: backfill_request(feed, NOON - 10 * MINUTE, NOON).pk)

    assert Backfill.objects.get().pk == asked
