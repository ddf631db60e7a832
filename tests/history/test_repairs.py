"""Gaps: asked for again of every source with growing pauses, filled once, or confirmed when nobody has them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.utils import timezone

from domain.strategy import SignalKind
from marketdata.backfills import backfill_step
from marketdata.models import Backfill, CandleGap, Feed, FeedSource, SourceKind
from marketdata.repairs import (
    AT_ONCE,
    LEASE,
    PAUSES,
    UNASKED_PAUSE,
    UnableToRepair,
    gap_ask_again,
    gaps_due,
    gaps_repair,
)
from marketdata.services import candles_store
from marketdata.sources import SourceFailed
from marketdata.tasks import repair, sweep_feeds
from strategies.models import Signal
from strategies.services import feed_evaluate
from tests.conftest import Bells
from tests.factories import NOON, events, make_candles, make_config, make_exchange, make_feed, make_market
from tests.history.conftest import Place, Places, minutes_feed, opens, span
from tests.marketdata.conftest import MINUTE, candle
from tests.race import at_once, elsewhere

pytestmark = pytest.mark.django_db
in_the_open = pytest.mark.django_db(transaction=True)  # with bells that ring, or more than one connection

START = NOON - 100 * MINUTE


def gap_of(feed: Feed, from_at: datetime, count: int, **fields: object) -> CandleGap:
    return CandleGap.objects.create(
        feed=feed, from_at=from_at, until_at=from_at + count * MINUTE, missing=count, found_at=NOON, **fields
    )


def state(gap: CandleGap) -> tuple[str, int, datetime | None]:
    gap.refresh_from_db()
    return gap.status, gap.attempts, gap.not_before_at


# -- marketdata.repair: its work, twice, lost, second -------------------------------------------------------------------


def test_a_gap_is_asked_for_again_and_filled_and_the_past_is_known_to_have_changed(places: Places) -> None:
    feed = minutes_feed(last_open_at=NOON - MINUTE)
    gap = gap_of(feed, START, 3)

    repair([gap.pk])

    feed.refresh_from_db()
    assert opens(feed) == span(START, 3)
    assert state(gap) == ("FILLED", 0, None)
    assert (gap.ended_at, gap.leased_until, feed.last_open_at) == (NOON, None, NOON - MINUTE)
    assert feed.changes > 0
    [told] = events("marketdata")
    assert (told["gap"], told["missing"], told["from_at"]) == ("FILLED", 3, str(START))


@in_the_open
def test_what_is_filled_is_not_asked_for_twice(places: Places, bells: Bells) -> None:
    gap = gap_of(minutes_feed(), START, 3)

    repair([gap.pk])
    repair([gap.pk, gap.pk])

    assert places.first.asked == [START]
    assert len(events("marketdata")) == 1
    assert bells.rung("strategies.evaluate") == []


@in_the_open
def test_a_gap_whose_bell_was_lost_is_found_by_the_sweep(bells: Bells) -> None:
    feed, now = minutes_feed(), timezone.now()
    due = [gap_of(feed, START, 1), gap_of(feed, START - 9 * MINUTE, 1, not_before_at=now - MINUTE)]
    gap_of(feed, START + 3 * MINUTE, 1, not_before_at=now + MINUTE)
    gap_of(feed, START + 6 * MINUTE, 1, leased_until=now + MINUTE)
    gap_of(feed, START + 9 * MINUTE, 1, status="CONFIRMED")

    sweep_feeds()

    assert bells.rung("marketdata.repair") == [{"gap_ids": [due[1].pk, due[0].pk]}]


@in_the_open
def test_of_many_workers_one_asks_for_a_gap(places: Places) -> None:
    gap = gap_of(minutes_feed(), START, 3)

    results = at_once([lambda: gaps_repair([gap.pk])] * 5)

    assert sorted(results) == [0, 0, 0, 0, 1]
    assert places.first.asked == [START]
    assert len(events("marketdata")) == 1


@in_the_open
def test_a_worker_that_was_overtaken_changes_nothing(places: Places) -> None:
    gap = gap_of(minutes_feed(), START, 3)
    places.first.without = {START}

    def overtaken() -> None:
        places.first.meanwhile = lambda: None
        places.now += LEASE
        assert elsewhere(lambda: gaps_repair([gap.pk])) == 0

    places.first.meanwhile = overtaken
    assert gaps_repair([gap.pk]) == 0

    assert state(gap) == ("OPEN", 1, NOON + LEASE + PAUSES[0])


def test_the_gap_of_a_dead_worker_is_asked_for_when_its_lease_has_run_out(places: Places) -> None:
    gap = gap_of(minutes_feed(), START, 3, leased_until=NOON + LEASE)

    assert gaps_repair([gap.pk]) == 0
    places.now += LEASE
    assert gaps_repair([gap.pk]) == 1


def test_no_more_gaps_are_rung_for_than_may_be_asked_for_at_once(places: Places) -> None:
    feed = minutes_feed()
    gaps = [gap_of(feed, START + 2 * number * MINUTE, 1) for number in range(AT_ONCE + 5)]
    CandleGap.objects.filter(pk__in=[gap.pk for gap in gaps[:2]]).update(leased_until=NOON + LEASE)

    assert gaps_due(NOON) == [gap.pk for gap in gaps[2:AT_ONCE]]


# -- how often, and of whom ---------------------------------------------------------------------------------------------


def test_what_nobody_has_is_asked_for_with_growing_pauses_and_then_confirmed(places: Places) -> None:
    gap = gap_of(minutes_feed(), START, 3)
    places.first.without = set(span(START, 3))

    pauses = []
    while state(gap)[0] == "OPEN":
        if gap.not_before_at is not None:
            pauses.append(gap.not_before_at - places.now)
            assert gaps_repair([gap.pk]) == 0
            places.now = gap.not_before_at
        gaps_repair([gap.pk])

    assert pauses == list(PAUSES)
    assert len(places.first.asked) == len(PAUSES) + 1
    assert (gap.status, gap.attempts, gap.ended_at) == ("CONFIRMED", 5, places.now)
    assert [event["gap"] for event in events("marketdata")] == ["CONFIRMED"]
    assert gaps_due(places.now + timedelta(days=1)) == []


def test_every_source_is_asked_for_what_those_before_it_did_not_have(places: Places) -> None:
    feed = minutes_feed()
    gap = gap_of(feed, START, 3)
    second = Place(SourceKind.YAHOO, without={START + 2 * MINUTE}, changed={START: candle(START, "49999")})
    third = Place(SourceKind.ALPHA_VANTAGE)
    fourth = Place(SourceKind.FILE)
    places.sources = [Place(without=set(span(START + MINUTE, 2))), second, third, fourth]

    assert gaps_repair([gap.pk]) == 1

    stored = feed.candles.order_by("open_at").values_list("source", "close")
    assert [source for source, _ in stored] == [SourceKind.EXCHANGE, SourceKind.YAHOO, SourceKind.ALPHA_VANTAGE]
    assert stored[0][1] == 50000
    assert fourth.asked == []
    assert feed.revisions.count() == 0


def test_a_source_that_cannot_be_asked_makes_it_no_attempt_and_keeps_what_the_others_had(places: Places) -> None:
    feed = minutes_feed()
    gap, later = gap_of(feed, START, 3), gap_of(feed, START + 10 * MINUTE, 1)
    places.sources = [
        Place(without={START}), Place(SourceKind.YAHOO, error=SourceFailed("RequestTimeout")),
    ]  # fmt: skip

    assert gaps_repair([gap.pk, later.pk]) == 1

    assert state(gap) == ("OPEN", 0, NOON + UNASKED_PAUSE)
    assert (gap.missing, gap.last_error, gap.leased_until) == (1, "RequestTimeout", None)
    assert state(later)[0] == "FILLED"


def test_a_source_that_will_never_answer_is_not_waited_for(places: Places) -> None:
    gap = gap_of(minutes_feed(), START, 1)
    places.sources = [
        Place(without={START}), Place(SourceKind.YAHOO, error=SourceFailed("no such symbol", is_final=True)),
    ]  # fmt: skip

    gaps_repair([gap.pk])

    assert state(gap) == ("OPEN", 1, NOON + PAUSES[0])


def test_a_source_that_is_left_alone_for_a_while_makes_it_no_attempt(places: Places) -> None:
    feed = minutes_feed()
    gap = gap_of(feed, START, 1)
    for rank in (0, 1):
        FeedSource.objects.create(feed=feed, rank=rank, kind=rank)
    places.first.without = {START}

    gaps_repair([gap.pk])

    assert state(gap) == ("OPEN", 0, NOON + UNASKED_PAUSE)


def test_once_nobody_may_be_asked_the_other_gaps_of_the_feed_wait_too_and_other_feeds_do_not(places: Places) -> None:
    feed, other = minutes_feed(), make_feed(make_market(symbol="ETH/USDT"))
    places.first.begins_at = NOON - timedelta(days=30)
    gaps = [gap_of(feed, START - number * timedelta(days=3), 1) for number in (2, 1, 0)]
    of_other = gap_of(other, START, 1)
    places.first.error = SourceFailed("over its rate", retry_after=timedelta(seconds=9))

    def recover() -> None:
        if len(places.first.asked) == 2:
            places.first.error = None

    places.first.meanwhile = recover
    assert gaps_repair([gap.pk for gap in (*gaps, of_other)]) == 1

    assert [state(gap) for gap in gaps] == [("OPEN", 0, NOON + timedelta(seconds=9))] * 3
    assert len(places.first.asked) == 2
    assert state(of_other)[0] == "FILLED"


def test_gaps_that_lie_together_share_a_request(places: Places) -> None:
    feed = minutes_feed()
    places.first.begins_at = NOON - timedelta(days=30)
    near = [gap_of(feed, START + number * MINUTE, 2) for number in (0, 5, 80)]
    far = gap_of(feed, START - 2000 * MINUTE, 2)

    assert gaps_repair([gap.pk for gap in (*near, far)]) == 4

    assert places.first.asked == [START - 2000 * MINUTE, START]
    assert len(opens(feed)) == 8


def test_a_source_that_gives_less_than_was_asked_for_is_asked_from_there(places: Places) -> None:
    gap = gap_of(minutes_feed(), START, 90)
    places.first.at_most = 40

    assert gaps_repair([gap.pk]) == 1

    assert places.first.asked == [START, START + 40 * MINUTE, START + 80 * MINUTE]


def test_only_what_is_missing_is_stored(places: Places) -> None:
    feed = minutes_feed()
    candles_store(feed.pk, [candle(START + 2 * MINUTE, "49000")])
    gaps = [gap_of(feed, START, 2), gap_of(feed, START + 3 * MINUTE, 2)]

    gaps_repair([gap.pk for gap in gaps])

    assert [stored.close for stored in feed.candles.order_by("open_at")] == [50000, 50000, 49000, 50000, 50000]
    assert feed.revisions.count() == 0


def test_a_gap_that_somebody_else_has_filled_is_noted_and_nobody_is_asked(places: Places) -> None:
    feed = minutes_feed()
    gap = gap_of(feed, START, 2)
    candles_store(feed.pk, [candle(at) for at in span(START, 2)])

    assert gaps_repair([gap.pk]) == 1

    assert places.first.asked == []
    assert state(gap)[0] == "FILLED"


def test_one_feed_that_breaks_does_not_keep_its_neighbours_waiting(places: Places) -> None:
    feed, broken = minutes_feed(), make_feed(make_market(symbol="ETH/USDT"))
    gaps = [gap_of(broken, START, 1), gap_of(feed, START, 1)]
    Feed.objects.filter(pk=broken.pk).update(timeframe="7s")

    assert gaps_repair([gap.pk for gap in gaps]) == 1


# -- longer than a page -------------------------------------------------------------------------------------------------


def test_a_gap_longer_than_a_page_is_handed_to_a_backfill_which_fills_it(places: Places) -> None:
    feed = minutes_feed()
    gap = gap_of(feed, NOON - 2000 * MINUTE, 2000)

    gaps_repair([gap.pk])
    handed_over = state(gap)
    one = Backfill.objects.get()
    while_it_runs = gaps_repair([gap.pk])
    while backfill_step(one.pk):
        pass

    assert (one.from_at, one.until_at) == (gap.from_at, gap.until_at)
    assert handed_over == ("OPEN", 1, NOON + PAUSES[0])
    assert while_it_runs == 0
    assert state(gap)[0] == "FILLED"
    assert len(opens(feed)) == 2000


def test_a_gap_that_ends_behind_a_weekend_is_asked_for_as_what_it_is(places: Places) -> None:
    feed = minutes_feed(calendar="FX")
    friday, sunday = datetime(2024, 4, 26, 20, 58, tzinfo=UTC), datetime(2024, 4, 28, 21, tzinfo=UTC)
    gap = CandleGap.objects.create(feed=feed, from_at=friday, until_at=sunday, missing=2, found_at=NOON)

    assert gaps_repair([gap.pk]) == 1

    assert (places.first.asked, opens(feed)) == ([friday], [friday, friday + MINUTE])
    assert not Backfill.objects.exists()


def test_gaps_of_what_was_read_in_from_files_wait_for_a_file(places: Places) -> None:
    read_in = make_feed(make_market(make_exchange("shares", base_url="", ccxt_id="")))
    gap_of(read_in, START, 2)
    assert gaps_due(NOON) == []

    FeedSource.objects.create(feed=read_in, rank=1, kind=SourceKind.YAHOO, symbol="AAPL")
    assert len(gaps_due(NOON)) == 1


def test_while_a_backfill_is_at_it_a_long_gap_waits_without_an_attempt(places: Places) -> None:
    gap = gap_of(minutes_feed(), NOON - 2000 * MINUTE, 2000)
    gaps_repair([gap.pk])
    places.now += PAUSES[0]

    gaps_repair([gap.pk])

    assert state(gap) == ("OPEN", 1, places.now + UNASKED_PAUSE)
    assert Backfill.objects.count() == 1


def test_a_long_gap_of_which_nobody_has_anything_is_confirmed_too(places: Places) -> None:
    gap = gap_of(minutes_feed(), NOON - 2000 * MINUTE, 2000)
    places.first.begins_at = NOON

    while state(gap)[0] == "OPEN":
        places.now = max(places.now, gap.not_before_at or places.now)
        gaps_repair([gap.pk])
        for one in Backfill.objects.filter(status="QUEUED"):
            while backfill_step(one.pk):
                pass

    assert (gap.status, gap.attempts) == ("CONFIRMED", 5)
    assert Backfill.objects.filter(status="DONE").count() == 4


def test_a_long_gap_from_before_any_market_of_ours_is_not_asked_for_and_confirmed_like_others(places: Places) -> None:
    gap = gap_of(minutes_feed(), datetime(2008, 1, 1, tzinfo=NOON.tzinfo), 2000)

    gaps_repair([gap.pk])

    assert state(gap) == ("OPEN", 1, NOON + PAUSES[0])
    assert not Backfill.objects.exists()


# -- by hand ------------------------------------------------------------------------------------------------------------


@in_the_open
def test_a_gap_is_asked_for_at_once_when_somebody_says_so(places: Places, bells: Bells) -> None:
    feed = minutes_feed()
    paused = gap_of(feed, START, 1, attempts=2, not_before_at=NOON + MINUTE)
    confirmed = gap_of(feed, START + 5 * MINUTE, 1, status="CONFIRMED", attempts=5, ended_at=NOON)

    gap_ask_again(paused.pk, actor="alice")
    gap_ask_again(confirmed.pk, actor="alice")

    assert state(paused) == ("OPEN", 2, None)
    assert state(confirmed) == ("OPEN", 0, None)
    assert confirmed.ended_at is None
    assert bells.rung("marketdata.repair") == [{"gap_ids": [paused.pk]}, {"gap_ids": [confirmed.pk]}]
    assert [event["gap"] for event in events("marketdata")] == ["OPEN"]


def test_a_gap_that_is_filled_is_not_asked_for_again(places: Places) -> None:
    gap = gap_of(minutes_feed(), START, 1, status="FILLED")

    with pytest.raises(UnableToRepair, match="wanted a gap that is not filled"):
        gap_ask_again(gap.pk)


# -- signals ------------------------------------------------------------------------------------------------------------


@in_the_open
def test_a_recent_gap_that_is_filled_fires_no_signal_again(places: Places, bells: Bells) -> None:
    make_exchange(clock_speed=0.0, clock_anchor_at=NOON, clock_venue_at=NOON)
    feed = minutes_feed()
    config = make_config(feed=feed, is_needed=True)
    make_candles(feed, [10.0, 9.0, 8.0, 7.5, 7.0, 12.0], NOON - MINUTE)
    gap = gap_of(feed, NOON - 3 * MINUTE, 1)
    feed.candles.filter(open_at=gap.from_at).delete()
    feed_evaluate(feed.pk)
    fired = list(Signal.objects.values_list("candle_open_at", "kind"))
    bells.clear()

    places.first.changed = {gap.from_at: candle(gap.from_at, "12")}
    assert gaps_repair([gap.pk]) == 1
    feed_evaluate(feed.pk)

    assert fired == [(NOON - MINUTE, SignalKind.ENTER_LONG)]
    assert list(Signal.objects.filter(config=config).values_list("candle_open_at", "kind")) == fired
    assert bells.rung("strategies.evaluate") == []
