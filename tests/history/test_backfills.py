"""Backfills: each candle of a span stored once and counted once, whoever asks, dies or comes second."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from django.utils import timezone

from domain.calendars import Calendar
from domain.quality import Flaw
from exchanges.gateway import CandleReport
from marketdata.backfills import (
    AT_ONCE,
    BELL_PATIENCE,
    FAILURES_BEFORE_SKIP,
    LEASE,
    LONGEST_PAUSE,
    UnableToBackfill,
    backfill_cancel,
    backfill_request,
    backfill_retry,
    backfill_step,
    backfills_waiting,
    progress,
)
from marketdata.models import Backfill, CandleGap, Feed, FeedSource, QuarantinedCandle, SourceKind
from marketdata.services import candles_store
from marketdata.sources import SourceFailed
from marketdata.tasks import backfill, sweep_feeds
from tests.conftest import Bells
from tests.factories import NOON, events, make_exchange, make_feed, make_market, make_user
from tests.history.conftest import Place, Places, minutes_feed, opens, span
from tests.marketdata.conftest import MINUTE, candle
from tests.race import at_once, elsewhere

pytestmark = pytest.mark.django_db
in_the_open = pytest.mark.django_db(transaction=True)  # with bells that ring, or more than one connection

START = NOON - 4000 * MINUTE


def asked_for(from_at: datetime = START, until_at: datetime = NOON, feed: Feed | None = None) -> Backfill:
    return backfill_request(feed or minutes_feed(), from_at, until_at)


def played(one: Backfill) -> Backfill:
    """Step until no next page is rung for."""
    while backfill_step(one.pk):
        pass
    one.refresh_from_db()
    return one


def counts(one: Backfill) -> tuple[str, int, int]:
    one.refresh_from_db()
    return one.status, one.rows_seen, one.rows_new


# -- marketdata.backfill: its work, twice, lost, second -----------------------------------------------------------------


def test_a_span_is_fetched_page_by_page_and_every_candle_of_it_is_stored(places: Places) -> None:
    one = played(asked_for())

    assert places.first.asked == [START, START + 1500 * MINUTE, START + 3000 * MINUTE]
    assert opens(one.feed) == span(START, 4000)
    assert counts(one) == ("DONE", 4000, 4000)
    assert (one.cursor_at, one.leased_until, one.not_before_at, one.ended_at) == (NOON, None, None, NOON)
    assert [event["backfill"] for event in events("marketdata")] == ["QUEUED", "RUNNING", "DONE"]


@in_the_open
def test_each_page_rings_for_the_next_and_the_last_for_none(places: Places, bells: Bells) -> None:
    one = asked_for()

    rung = []
    for _ in range(3):
        rung.append(len(bells.rung("marketdata.backfill")))
        backfill([one.pk])
    rung.append(len(bells.rung("marketdata.backfill")))

    assert rung == [1, 2, 3, 3]
    assert bells.rung("marketdata.backfill")[0] == {"backfill_ids": [one.pk]}
    assert bells.rung("strategies.evaluate") == []


def test_what_is_asked_for_twice_is_one_backfill(places: Places) -> None:
    first = asked_for()
    backfill_step(first.pk)

    second = backfill_request(first.feed, START, NOON, make_user("bob"))

    assert second == first
    assert Backfill.objects.count() == 1


@in_the_open
def test_of_many_who_ask_at_once_all_get_the_same(places: Places) -> None:
    feed = minutes_feed()

    asked = at_once([lambda: backfill_request(feed, START, NOON).pk] * 6)

    assert asked == [Backfill.objects.get().pk] * 6


def test_what_is_done_is_not_done_again_by_a_second_bell(places: Places) -> None:
    one = played(asked_for())

    backfill([one.pk, one.pk])

    assert len(places.first.asked) == 3
    assert counts(one) == ("DONE", 4000, 4000)


def test_a_span_that_is_there_is_seen_again_and_nothing_of_it_is_new(places: Places) -> None:
    first = played(asked_for())

    again = played(asked_for(feed=first.feed))

    assert counts(again) == ("DONE", 4000, 0)
    assert first.feed.revisions.count() == 0


@in_the_open
def test_a_lost_bell_is_rung_again_by_the_sweep_and_only_then(places: Places, bells: Bells) -> None:
    one = asked_for()
    bells.clear()
    assert backfills_waiting(places.now) == []

    Backfill.objects.update(not_before_at=timezone.now() - BELL_PATIENCE)
    sweep_feeds()

    assert bells.rung("marketdata.backfill") == [{"backfill_ids": [one.pk]}]


def test_a_running_backfill_whose_bell_was_lost_waits_for_the_sweep_too(places: Places) -> None:
    one = asked_for()
    backfill_step(one.pk)

    assert backfills_waiting(places.now + BELL_PATIENCE) == [one.pk]


def test_the_page_of_a_dead_worker_is_fetched_by_another_when_its_lease_has_run_out(places: Places) -> None:
    one = asked_for()
    Backfill.objects.update(status="RUNNING", started_at=NOON, leased_until=NOON + LEASE)

    while_leased = backfill_step(one.pk), backfills_waiting(NOON + LEASE - MINUTE / 60)
    places.now = NOON + LEASE
    played(one)

    assert while_leased == (False, [])
    assert counts(one) == ("DONE", 4000, 4000)


@in_the_open
def test_of_many_workers_at_one_backfill_one_asks_for_a_page(places: Places) -> None:
    one = asked_for()

    results = at_once([lambda: backfill_step(one.pk)] * 5)

    assert sorted(results) == [False, False, False, False, True]
    assert places.first.asked == [START]
    assert counts(one) == ("RUNNING", 1500, 1500)


@in_the_open
def test_a_worker_that_was_overtaken_stores_nothing_counts_nothing_and_rings_for_nobody(
    places: Places, bells: Bells
) -> None:
    one = asked_for()
    bells.clear()

    def overtaken() -> None:
        places.first.meanwhile = lambda: None
        places.now += LEASE
        assert elsewhere(lambda: backfill_step(one.pk))

    places.first.meanwhile = overtaken
    assert not backfill_step(one.pk)

    assert places.first.asked == [START, START]
    assert counts(one) == ("RUNNING", 1500, 1500)
    assert len(bells.rung("marketdata.backfill")) == 1


@in_the_open
def test_no_more_than_two_are_at_a_page_at_once_and_the_next_comes_when_one_is_done(places: Places) -> None:
    feeds = [make_feed(make_market(symbol=f"{coin}/USDT")) for coin in ("A", "B", "C")]
    busy = [asked_for(feed=feed) for feed in feeds[:AT_ONCE]]
    Backfill.objects.update(status="RUNNING", started_at=NOON, leased_until=NOON + LEASE)
    waiting = asked_for(feed=feeds[AT_ONCE])

    turned_away = backfill_step(waiting.pk)
    Backfill.objects.filter(pk=busy[0].pk).update(leased_until=None)

    assert not turned_away
    assert backfill_step(waiting.pk)


# -- cancelled, retried -------------------------------------------------------------------------------------------------


def test_it_is_cancelled_at_any_time_and_keeps_what_it_has(places: Places) -> None:
    one = asked_for()
    backfill_step(one.pk)

    assert backfill_cancel(one.pk, actor="alice")
    assert not backfill_cancel(one.pk, actor="alice")

    assert not backfill_step(one.pk)
    assert counts(one) == ("CANCELED", 1500, 1500)
    assert len(opens(one.feed)) == 1500
    assert [event["backfill"] for event in events("marketdata")] == ["QUEUED", "RUNNING", "CANCELED"]


@in_the_open
def test_a_page_that_was_on_its_way_when_it_was_cancelled_is_not_stored(places: Places, bells: Bells) -> None:
    one = asked_for()
    bells.clear()
    places.first.meanwhile = lambda: elsewhere(lambda: backfill_cancel(one.pk))

    assert not backfill_step(one.pk)

    assert counts(one) == ("CANCELED", 0, 0)
    assert opens(one.feed) == []
    assert bells.rung("marketdata.backfill") == []


@in_the_open
def test_a_retry_goes_on_where_it_stopped_and_leaves_the_idle_time_out_of_its_pace(
    places: Places, bells: Bells
) -> None:
    one = asked_for()
    backfill_step(one.pk)
    places.now += MINUTE
    backfill_cancel(one.pk)
    bells.clear()
    places.now += timedelta(days=1)

    backfill_retry(one.pk, actor="alice")
    one.refresh_from_db()

    assert (one.status, one.cursor_at, one.ended_at) == ("QUEUED", START + 1500 * MINUTE, None)
    assert bells.rung("marketdata.backfill") == [{"backfill_ids": [one.pk]}]
    assert progress(one, places.now).rows_per_second == 1500 / 60
    played(one)
    assert counts(one) == ("DONE", 4000, 4000)
    assert places.first.asked == [START, START + 1500 * MINUTE, START + 3000 * MINUTE]


def test_what_goes_on_or_is_done_cannot_be_retried(places: Places) -> None:
    one = asked_for()
    with pytest.raises(UnableToBackfill, match="wanted a backfill that failed or was cancelled, was QUEUED"):
        backfill_retry(one.pk)
    played(one)
    with pytest.raises(UnableToBackfill, match="was DONE"):
        backfill_retry(one.pk)

    assert not backfill_cancel(one.pk)


def test_what_was_asked_for_again_since_is_not_retried_beside_it(places: Places) -> None:
    first = asked_for()
    backfill_cancel(first.pk)
    asked_for(feed=first.feed)

    with pytest.raises(UnableToBackfill, match="asked for again"):
        backfill_retry(first.pk)

    assert counts(first)[0] == "CANCELED"


# -- what a source does -------------------------------------------------------------------------------------------------


def test_a_page_without_candles_moves_on(places: Places) -> None:
    places.first.begins_at = NOON - 700 * MINUTE

    one = played(asked_for())

    assert counts(one) == ("DONE", 700, 700)
    assert opens(one.feed) == span(NOON - 700 * MINUTE, 700)


def test_a_source_that_gives_less_than_was_asked_for_is_asked_from_there(places: Places) -> None:
    places.first.at_most = 300

    one = played(asked_for(START, START + 1000 * MINUTE))

    assert places.first.asked == [START + number * MINUTE for number in (0, 300, 600, 900)]
    assert counts(one) == ("DONE", 1000, 1000)


def test_what_was_not_asked_for_is_not_slipped_in(places: Places) -> None:
    one = asked_for(START, START + 10 * MINUTE)
    given = [candle(START + number * MINUTE) for number in range(-5, 100)]
    places.sources = [Given(given)]  # type: ignore[list-item]

    played(one)

    assert opens(one.feed) == span(START, 10)
    assert counts(one) == ("DONE", 10, 10)


class Given:
    """A source with one answer, whatever is asked."""

    kind, row = SourceKind.EXCHANGE, None

    def __init__(self, rows: list[CandleReport]) -> None:
        self.rows = rows

    def candles(self, since: datetime, limit: int) -> list[CandleReport]:
        return self.rows


def test_a_refusal_for_its_rate_waits_as_long_as_it_says_and_is_no_failure(places: Places) -> None:
    one = asked_for()
    places.first.error = SourceFailed("over its rate", retry_after=timedelta(seconds=7))

    assert not backfill_step(one.pk)

    one.refresh_from_db()
    assert (one.status, one.failures, one.last_error, one.leased_until) == ("RUNNING", 0, "over its rate", None)
    assert one.not_before_at == NOON + timedelta(seconds=7)
    assert not backfill_step(one.pk)
    assert len(places.first.asked) == 1
    places.first.error = None
    places.now += timedelta(seconds=7)
    assert backfill_step(one.pk)
    one.refresh_from_db()
    assert one.last_error == ""


def test_a_source_that_is_away_is_asked_again_after_a_growing_pause(places: Places) -> None:
    one = asked_for()
    places.first.error = SourceFailed("RequestTimeout")

    pauses = []
    for _ in range(11):
        backfill_step(one.pk)
        one.refresh_from_db()
        assert one.not_before_at is not None
        pauses.append((one.not_before_at - places.now).total_seconds())
        places.now = one.not_before_at

    assert pauses == [2, 4, 8, 16, 32, 64, 128, 256, *[LONGEST_PAUSE.total_seconds()] * 3]
    assert (one.status, one.failures) == ("RUNNING", 11)
    places.first.error = None
    backfill_step(one.pk)
    one.refresh_from_db()
    assert one.failures == 0


def test_an_error_that_stays_ends_it_with_the_reason(places: Places) -> None:
    one = asked_for()
    places.first.error = SourceFailed("wanted a symbol that it has, was BTC/USDT", is_final=True)

    assert not backfill_step(one.pk)

    one.refresh_from_db()
    assert (one.status, one.last_error, one.ended_at) == ("FAILED", "wanted a symbol that it has, was BTC/USDT", NOON)
    assert [event["reason"] for event in events("marketdata", backfill="FAILED")] == [one.last_error]


def test_an_exchange_of_which_there_is_only_data_is_not_asked_for_ever(bells: Bells) -> None:
    exchange = make_exchange("nyse", ccxt_id="", clock_anchor_at=NOON, clock_venue_at=NOON, clock_speed=0.0)
    one = asked_for(feed=make_feed(make_market(exchange)))

    backfill([one.pk])

    one.refresh_from_db()
    assert (one.status, one.last_error) == ("FAILED", "wanted an exchange that can be called, nyse is only data")


def test_an_exchange_that_is_switched_off_is_waited_for(bells: Bells) -> None:
    exchange = make_exchange("kucoin", is_enabled=False, clock_anchor_at=NOON, clock_venue_at=NOON, clock_speed=0.0)
    one = asked_for(feed=make_feed(make_market(exchange)))

    backfill([one.pk])

    one.refresh_from_db()
    assert (one.status, one.failures) == ("RUNNING", 1)
    assert one.last_error == "wanted an exchange that is enabled, kucoin is not"


def test_where_the_first_source_has_nothing_the_next_is_asked(places: Places) -> None:
    places.first.begins_at = NOON
    places.sources.append(Place(SourceKind.YAHOO))

    one = played(asked_for(START, START + 10 * MINUTE))

    assert counts(one) == ("DONE", 10, 10)
    assert set(one.feed.candles.values_list("source", flat=True)) == {SourceKind.YAHOO}


def test_where_no_source_may_be_asked_it_waits(places: Places) -> None:
    one = asked_for()
    places.sources = []

    backfill_step(one.pk)

    one.refresh_from_db()
    assert (one.status, one.failures) == ("RUNNING", 1)
    assert one.last_error == "wanted a source that may be asked now, was none"


def test_what_the_first_has_nothing_of_is_left_to_the_gaps_when_the_next_stays_away(places: Places) -> None:
    places.first.begins_at = NOON
    places.sources.append(Place(SourceKind.YAHOO, error=SourceFailed("RequestTimeout")))
    one = asked_for(START, START + 10 * MINUTE)

    for _ in range(FAILURES_BEFORE_SKIP):
        backfill_step(one.pk)
        assert counts(one)[0] == "RUNNING"
        places.now += LONGEST_PAUSE
    backfill_step(one.pk)

    assert counts(one) == ("DONE", 0, 0)


def test_the_first_source_revises_what_is_there_and_one_that_stands_in_only_adds(places: Places) -> None:
    feed = minutes_feed()
    candles_store(feed.pk, [candle(START, "49000")])
    rows = [FeedSource.objects.create(feed=feed, rank=rank, kind=kind) for rank, kind in ((0, 0), (1, 1))]
    places.sources = [
        Place(row=rows[0], error=SourceFailed("away")), Place(SourceKind.YAHOO, row=rows[1]),
    ]  # fmt: skip

    played(asked_for(START, START + 2 * MINUTE, feed))
    by_the_second = [stored.close for stored in feed.candles.order_by("open_at")]
    places.first.error = None
    places.first.changed = {START: candle(START, "51000")}
    played(asked_for(START, START + 2 * MINUTE, feed))

    assert by_the_second == [49000, 50000]
    assert [stored.close for stored in feed.candles.order_by("open_at")] == [51000, 50000]
    assert [(was.was_close, was.close) for was in feed.revisions.all()] == [(49000, 51000)]


def test_a_row_that_fails_a_check_is_kept_apart_with_the_reason(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = asked_for(START, START + 3 * MINUTE)
    flaw_at(monkeypatch, Flaw.BAD_OHLC, START + MINUTE)

    played(one)
    played(asked_for(START, START + 3 * MINUTE, one.feed))

    held = QuarantinedCandle.objects.get()
    assert opens(one.feed) == [START, START + 2 * MINUTE]
    assert counts(one) == ("DONE", 2, 2)
    assert (held.open_at, held.flaw, held.times) == (START + MINUTE, "BAD_OHLC", 2)
    assert held.row["close"] == "50000"


def test_a_jump_that_its_source_tells_again_is_taken(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    one = asked_for(START, START + 3 * MINUTE)
    flaw_at(monkeypatch, Flaw.JUMP, START + MINUTE)
    places.first.changed = {START + MINUTE: candle(START + MINUTE, "500000")}

    played(one)
    first = opens(one.feed)
    places.now += MINUTE
    places.first.changed = {START + MINUTE: candle(START + MINUTE, "600000")}
    played(asked_for(START, START + 3 * MINUTE, one.feed))
    second = opens(one.feed)
    places.now += MINUTE
    played(asked_for(START, START + 3 * MINUTE, one.feed))

    assert first == second == [START, START + 2 * MINUTE]
    assert opens(one.feed) == span(START, 3)
    assert one.feed.candles.get(open_at=START + MINUTE).close == Decimal(600000)
    assert QuarantinedCandle.objects.get().released_at == places.now


def test_candles_before_the_last_one_change_the_past_and_later_ones_do_not(places: Places) -> None:
    feed = minutes_feed(is_needed=True, last_open_at=START + 5 * MINUTE)

    played(asked_for(START, START + 2 * MINUTE, feed))
    feed.refresh_from_db()
    changes = feed.changes
    played(asked_for(START + 6 * MINUTE, START + 9 * MINUTE, feed))
    feed.refresh_from_db()

    assert changes > 0
    assert (feed.changes, feed.last_open_at) == (changes, START + 5 * MINUTE)


def test_what_a_closed_market_was_like_is_asked_of_nobody(places: Places) -> None:
    saturday = datetime(2024, 4, 27, 12, tzinfo=NOON.tzinfo)
    places.first.error = SourceFailed("wanted candles from 2024-04-27 12:00 on, were none")

    one = played(asked_for(saturday, saturday + 60 * MINUTE, minutes_feed(calendar=Calendar.XNYS)))

    assert (one.status, one.cursor_at, one.last_error) == ("DONE", saturday + 60 * MINUTE, "")
    assert places.first.asked == []


def test_a_feed_that_nobody_collects_ends_with_the_last_candle_that_came(places: Places) -> None:
    feed = minutes_feed()
    ends = []
    for until_at in (START + 9 * MINUTE, START + 6 * MINUTE):
        played(asked_for(START, until_at, feed))
        feed.refresh_from_db()
        ends.append(feed.last_open_at)

    assert ends == [START + 8 * MINUTE] * 2


def test_a_clock_that_was_set_back_ends_no_span_at_an_open_candle(places: Places) -> None:
    one = asked_for(NOON - 2 * MINUTE, NOON)
    places.now = NOON - MINUTE

    Backfill.objects.update(not_before_at=None)
    backfill_step(one.pk)
    backfill_step(one.pk)

    one.refresh_from_db()
    assert opens(one.feed) == [NOON - 2 * MINUTE]
    assert (one.status, one.cursor_at) == ("RUNNING", NOON - MINUTE)


def test_gaps_of_its_span_are_filled_and_those_that_reach_beyond_are_looked_at_last(places: Places) -> None:
    feed = minutes_feed()
    candles_store(feed.pk, [candle(NOON + MINUTE)])
    gaps = [
        CandleGap.objects.create(
            feed=feed, from_at=from_at, until_at=until_at, missing=missing, status=status, found_at=NOON
        )
        for from_at, until_at, missing, status in (
            (START + 10 * MINUTE, START + 12 * MINUTE, 2, "CONFIRMED"),
            (START + 1490 * MINUTE, START + 1510 * MINUTE, 20, "OPEN"),
            (NOON - MINUTE, NOON + MINUTE, 2, "OPEN"),
        )
    ]

    one = asked_for(feed=feed)
    backfill_step(one.pk)
    after_a_page = [CandleGap.objects.get(pk=gap.pk).status for gap in gaps]
    played(one)

    assert after_a_page == ["FILLED", "OPEN", "OPEN"]
    assert [CandleGap.objects.get(pk=gap.pk).status for gap in gaps] == ["FILLED", "FILLED", "OPEN"]
    assert CandleGap.objects.get(pk=gaps[2].pk).missing == 1
    assert [event["missing"] for event in events("marketdata", gap="FILLED")] == [2, 20]


def flaw_at(monkeypatch: pytest.MonkeyPatch, flaw: Flaw, at: datetime) -> None:
    """Let the inspection find ``flaw`` in whatever opens at that time."""
    import numpy as np

    from domain.candles import Candles
    from domain.quality import Finding, Inspection
    from marketdata import history

    at_ms = int(at.timestamp() * 1000)

    def inspect(candles: Candles, *_: object, **__: object) -> Inspection:
        is_bad = candles.open_ms == at_ms
        findings = tuple(Finding(int(index), at_ms, flaw, "wanted another") for index in np.flatnonzero(is_bad))
        return Inspection(~is_bad, findings)

    monkeypatch.setattr(history, "inspect", inspect)
