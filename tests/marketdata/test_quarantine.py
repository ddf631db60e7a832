"""What fails a check is kept with its reason and not taken; what only seems wrong is taken when it is said again."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest

from domain.candles import Candles
from domain.quality import Finding, Flaw, Inspection, inspect
from marketdata import looks
from marketdata.collection import feed_collect
from marketdata.models import Feed, QuarantinedCandle, SourceKind
from marketdata.outcomes import LOOKS_BEFORE_GAP
from marketdata.quarantine import ASKED_AGAIN_WITHIN
from marketdata.services import candles_store
from tests.conftest import Bells
from tests.factories import NOON, events
from tests.marketdata.conftest import MINUTE, Shelf, candle, needed_feed, opens

pytestmark = pytest.mark.django_db
in_the_open = pytest.mark.django_db(transaction=True)  # with bells that ring

SECOND = timedelta(seconds=1)
LAST = NOON - MINUTE  # the candle that has closed and is not there yet


class Doubts:
    """Prices of the venue that are not 50,000 by their open time, and what an inspection finds in rows by their close."""

    def __init__(self) -> None:
        self.prices: dict[datetime, str] = {}
        self.flaws: dict[float, Flaw] = {}

    def inspect(self, candles: Any, *rest: Any, **how: Any) -> Inspection:
        found = inspect(candles, *rest, **how)
        more = [
            Finding(index, int(candles.open_ms[index]), self.flaws[close], f"wanted a close near 50000, was {close}")
            for index, close in enumerate(candles.close.tolist())
            if close in self.flaws
        ]
        is_bad = np.isin(candles.close, list(self.flaws))
        return replace(found, is_good=found.is_good & ~is_bad, findings=(*found.findings, *more))


@pytest.fixture
def doubts(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> Doubts:
    doubts = Doubts()
    usual = shelf.candles
    monkeypatch.setattr(looks, "inspect", doubts.inspect)
    monkeypatch.setattr(
        shelf,
        "candles",
        lambda *asked: [candle(row.open_at, doubts.prices.get(row.open_at, "50000")) for row in usual(*asked)],
    )
    return doubts


def refreshed(feed: Feed) -> Feed:
    feed.refresh_from_db()
    return feed


# -- never taken ----------------------------------------------------------------------------------------------------------


def test_a_row_that_fails_a_check_is_kept_as_it_came_with_the_reason_and_not_stored(
    shelf: Shelf, doubts: Doubts
) -> None:
    feed = needed_feed(shelf)
    doubts.prices[LAST], doubts.flaws[49000.0] = "49000", Flaw.BAD_OHLC

    assert feed_collect(feed.pk) == 0

    [kept] = QuarantinedCandle.objects.all()
    assert opens(feed) == []
    assert (kept.feed_id, kept.open_at, kept.flaw, kept.source) == (feed.pk, LAST, "BAD_OHLC", SourceKind.EXCHANGE)
    assert kept.row == dict.fromkeys(("open", "high", "low", "close"), "49000") | {"volume": "1"}
    assert (kept.detail, kept.times, kept.released_at) == ("wanted a close near 50000, was 49000.0", 1, None)
    assert kept.seen_at == kept.last_seen_at == shelf.now


def test_a_row_that_comes_again_and_again_is_one_row_that_counts(shelf: Shelf, doubts: Doubts) -> None:
    feed = needed_feed(shelf)
    doubts.prices[LAST], doubts.flaws[49000.0] = "49000", Flaw.BAD_OHLC

    for _ in range(3):
        feed_collect(feed.pk)
        shelf.now += SECOND

    [kept] = QuarantinedCandle.objects.all()
    assert (kept.times, kept.seen_at, kept.last_seen_at) == (3, NOON + 30 * SECOND, NOON + 32 * SECOND)
    assert opens(feed) == []


def test_after_several_looks_a_bad_row_is_taken_for_a_gap_and_its_neighbours_are_there(
    shelf: Shelf, doubts: Doubts
) -> None:
    feed = needed_feed(shelf)
    doubts.prices[LAST], doubts.flaws[1.0] = "1", Flaw.NOT_A_PRICE

    for _ in range(LOOKS_BEFORE_GAP + 1):
        feed_collect(feed.pk)
        shelf.now += SECOND
    given_up_until = refreshed(feed).next_due_at
    shelf.now = NOON + MINUTE
    feed_collect(feed.pk)

    assert given_up_until == NOON + MINUTE
    assert opens(feed) == [NOON]


def test_the_candle_that_is_still_open_is_no_reason_for_anything(shelf: Shelf, doubts: Doubts) -> None:
    feed = needed_feed(shelf)
    doubts.prices[NOON], doubts.flaws[1.0] = "1", Flaw.BAD_OHLC

    assert feed_collect(feed.pk) == 1

    assert not QuarantinedCandle.objects.exists()
    assert refreshed(feed).next_due_at == NOON + MINUTE


# -- a price that jumps -----------------------------------------------------------------------------------------------------


@in_the_open
def test_a_jump_that_its_source_repeats_a_second_later_is_taken_and_announced(
    shelf: Shelf, doubts: Doubts, bells: Bells
) -> None:
    feed = needed_feed(shelf)
    doubts.prices[LAST], doubts.flaws[20000.0] = "20000", Flaw.JUMP

    first = feed_collect(feed.pk)
    looked_at_again = refreshed(feed).next_due_at
    hidden = opens(feed)
    shelf.now += SECOND
    second = feed_collect(feed.pk)

    [kept] = QuarantinedCandle.objects.all()
    assert (first, hidden, looked_at_again) == (0, [], NOON + 31 * SECOND)
    assert (second, opens(feed)) == (1, [LAST])
    assert feed.candles.get(open_at=LAST).close == 20000
    assert (kept.flaw, kept.times, kept.released_at) == ("JUMP", 2, NOON + 31 * SECOND)
    assert [event["new"] for event in events("marketdata")] == [1]
    assert bells.rung("strategies.evaluate") == [{"feed_ids": [feed.pk]}]
    assert (refreshed(feed).misses, feed.next_due_at) == (0, NOON + MINUTE)


def test_a_jump_that_was_taken_is_not_doubted_again(shelf: Shelf, doubts: Doubts) -> None:
    feed = needed_feed(shelf)
    doubts.prices[LAST], doubts.flaws[20000.0] = "20000", Flaw.JUMP
    for _ in range(2):
        feed_collect(feed.pk)
        shelf.now += SECOND

    shelf.now = NOON + MINUTE
    assert feed_collect(feed.pk) == 1

    [kept] = QuarantinedCandle.objects.all()
    assert (kept.times, kept.released_at) == (2, NOON + 31 * SECOND)
    assert refreshed(feed).next_due_at == NOON + 2 * MINUTE


def test_a_jump_that_its_source_takes_back_never_was(shelf: Shelf, doubts: Doubts) -> None:
    feed = needed_feed(shelf)
    doubts.prices[LAST], doubts.flaws[20000.0] = "20000", Flaw.JUMP
    feed_collect(feed.pk)

    del doubts.prices[LAST]
    shelf.now += SECOND
    feed_collect(feed.pk)

    [kept] = QuarantinedCandle.objects.all()
    assert feed.candles.get(open_at=LAST).close == 50000
    assert (kept.row["close"], kept.times, kept.released_at) == ("20000", 1, None)
    assert not feed.revisions.exists()


def test_jumps_that_differ_each_time_are_never_taken(shelf: Shelf, doubts: Doubts) -> None:
    feed = needed_feed(shelf)

    for number in range(LOOKS_BEFORE_GAP + 1):
        doubts.prices[LAST] = f"{20000 + number}"
        doubts.flaws[20000.0 + number] = Flaw.JUMP
        feed_collect(feed.pk)
        shelf.now += SECOND

    [kept] = QuarantinedCandle.objects.all()
    assert opens(feed) == []
    assert (kept.row["close"], kept.times, kept.released_at) == ("20005", 6, None)
    assert refreshed(feed).next_due_at == NOON + MINUTE


def test_what_is_said_again_in_the_same_moment_is_no_second_word(shelf: Shelf, doubts: Doubts) -> None:
    feed = needed_feed(shelf)
    doubts.prices[LAST], doubts.flaws[20000.0] = "20000", Flaw.JUMP

    feed_collect(feed.pk)
    Feed.objects.update(next_due_at=shelf.now)
    shelf.now += 0.4 * SECOND
    feed_collect(feed.pk)

    assert opens(feed) == []


def test_a_jump_among_candles_that_were_missed_is_asked_for_again_from_where_it_was(
    shelf: Shelf, doubts: Doubts
) -> None:
    feed = needed_feed(shelf, last_open_at=NOON - 8 * MINUTE)
    crash = NOON - 5 * MINUTE
    doubts.prices[crash], doubts.flaws[20000.0] = "20000", Flaw.JUMP

    feed_collect(feed.pk)
    at_first = opens(feed)
    shelf.now += SECOND
    assert feed_collect(feed.pk) == 1

    assert shelf.asked == [NOON - 8 * MINUTE, crash]
    assert at_first == [NOON - number * MINUTE for number in (7, 6, 4, 3, 2, 1)]
    assert opens(feed) == [NOON - number * MINUTE for number in range(7, 0, -1)]
    assert refreshed(feed).next_due_at == NOON + MINUTE


def test_a_jump_among_candles_that_were_missed_is_a_gap_until_it_is_said_again(shelf: Shelf, doubts: Doubts) -> None:
    feed = needed_feed(shelf, last_open_at=NOON - 8 * MINUTE)
    doubts.prices[NOON - 5 * MINUTE], doubts.flaws[20000.0] = "20000", Flaw.JUMP
    feed_collect(feed.pk)

    [gap] = feed.gaps.all()
    assert (gap.from_at, gap.missing, gap.status) == (NOON - 5 * MINUTE, 1, "OPEN")

    shelf.now += SECOND
    feed_collect(feed.pk)
    gap.refresh_from_db()
    assert (gap.status, gap.ended_at) == ("FILLED", shelf.now)


def test_a_jump_of_long_ago_is_not_asked_for_for_ever(shelf: Shelf, doubts: Doubts) -> None:
    feed = needed_feed(shelf, last_open_at=NOON - 8 * MINUTE)
    doubts.prices[NOON - 5 * MINUTE], doubts.flaws[20000.0] = "20000", Flaw.JUMP
    feed_collect(feed.pk)

    shelf.now += ASKED_AGAIN_WITHIN + SECOND
    feed_collect(feed.pk)

    assert shelf.asked == [NOON - 8 * MINUTE, LAST]


def test_a_jump_that_is_wrong_in_itself_is_not_taken_however_often_it_is_said(
    shelf: Shelf, doubts: Doubts, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = needed_feed(shelf)
    doubts.prices[LAST], doubts.flaws[20000.0] = "20000", Flaw.JUMP
    usual = doubts.inspect

    def both(candles: Any, *rest: Any, **how: Any) -> Inspection:
        found = usual(candles, *rest, **how)
        more = tuple(replace(finding, flaw=Flaw.BAD_OHLC) for finding in found.findings if finding.flaw is Flaw.JUMP)
        return replace(found, findings=(*found.findings, *more))

    monkeypatch.setattr(looks, "inspect", both)
    for _ in range(3):
        feed_collect(feed.pk)
        shelf.now += SECOND

    assert opens(feed) == []
    assert sorted(QuarantinedCandle.objects.values_list("flaw", "times")) == [("BAD_OHLC", 3), ("JUMP", 3)]


# -- what a jump is measured by ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("price", "measured_by"), [("54000", None), ("56000", [50000.0, *range(49990, 49985, -1)])])
def test_stored_candles_are_read_only_where_a_price_moves(
    shelf: Shelf, doubts: Doubts, monkeypatch: pytest.MonkeyPatch, price: str, measured_by: list[float] | None
) -> None:
    feed = needed_feed(shelf)
    candles_store(feed.pk, [candle(LAST - (number + 2) * MINUTE, f"{49990 - number}") for number in range(5)])
    doubts.prices[LAST] = price
    seen: list[Candles | None] = []

    def spied(candles: Candles, *rest: Any, before: Candles | None, **how: Any) -> Inspection:
        seen.append(before)
        return inspect(candles, *rest, before=before, **how)

    monkeypatch.setattr(looks, "inspect", spied)
    feed_collect(feed.pk)

    [before] = seen
    assert (None if before is None else before.close.tolist()[::-1]) == measured_by
    if before is not None:
        assert before.open_ms[-1] == int((LAST - MINUTE).timestamp() * 1000)
        assert before.volume.tolist() == [1.0] * 6
