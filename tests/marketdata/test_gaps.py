"""Gaps: each found and recorded once, followed while it fills, and told; a history looked through, whoever rings."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from domain.calendars import Calendar
from domain.candles import Timeframe
from domain.quality import Flaw, Gap
from marketdata import gaps as gaps_module
from marketdata.gaps import CHECK_AFTER, feed_check, feed_look_through, feeds_unchecked, gaps_find, gaps_note
from marketdata.models import Candle, CandleGap, CandleRevision, Feed, GapStatus, QuarantinedCandle, SourceKind
from marketdata.services import candles_store
from marketdata.tasks import look_through, sweep_feeds
from tests.conftest import Bells
from tests.factories import NOON, events, make_candles, make_feed
from tests.marketdata.conftest import MINUTE, candle
from tests.race import at_once

pytestmark = pytest.mark.django_db
in_the_open = pytest.mark.django_db(transaction=True)  # with more than one connection

OPEN, FILLED, CONFIRMED = GapStatus.OPEN, GapStatus.FILLED, GapStatus.CONFIRMED


def at(number: int) -> datetime:
    return NOON + number * MINUTE


def with_minutes(*numbers: int, **fields: Any) -> Feed:
    """A feed that has the candles of those minutes after noon."""
    feed = make_feed(last_open_at=at(max(numbers, default=0)), **fields)
    come(feed, *numbers)
    return feed


def come(feed: Feed, *numbers: int) -> None:
    candles_store(feed.pk, [candle(at(number)) for number in numbers])


def go(feed: Feed, *numbers: int) -> None:
    Candle.objects.filter(feed=feed, open_at__in=[at(number) for number in numbers]).delete()


def recorded() -> list[tuple[int, int, int, str]]:
    """Every gap's row as (first minute, end, missing, status)."""
    return [
        ((gap.from_at - NOON) // MINUTE, (gap.until_at - NOON) // MINUTE, gap.missing, gap.status)
        for gap in CandleGap.objects.order_by("from_at")
    ]


# -- found ---------------------------------------------------------------------------------------------------------------


def test_what_is_missing_between_the_first_candle_and_the_last_is_recorded_and_returned() -> None:
    feed = with_minutes(0, 1, 4, 5, 7)

    found = gaps_find(feed.pk)

    assert [(gap.from_at, gap.until_at, gap.missing) for gap in found] == [(at(2), at(4), 2), (at(6), at(7), 1)]
    assert recorded() == [(2, 4, 2, OPEN), (6, 7, 1, OPEN)]


def test_another_feed_s_candles_fill_nothing() -> None:
    feed = with_minutes(0, 2)
    candles_store(make_feed(feed.market, Timeframe.M3).pk, [candle(at(1))])

    assert len(gaps_find(feed.pk)) == 1


def test_a_feed_without_candles_has_no_gaps_unless_a_span_is_asked_about() -> None:
    feed = make_feed()

    assert gaps_find(feed.pk) == []
    assert gaps_find(feed.pk, at(0)) == []
    assert gaps_find(feed.pk, at(0), at(3)) == [Gap(1_714_564_800_000, 1_714_564_980_000, 3)]


def test_a_span_is_looked_at_from_its_first_minute_to_before_its_last() -> None:
    feed = with_minutes(0, 5, 9)

    gaps_find(feed.pk, at(3), at(7))

    assert recorded() == [(3, 5, 2, OPEN), (6, 7, 1, OPEN)]


def test_a_market_that_is_closed_has_no_gap() -> None:
    feed = with_minutes(calendar=Calendar.XNYS.value)
    closes, opens = datetime.fromisoformat("2024-05-01T19:59Z"), datetime.fromisoformat("2024-05-02T13:30Z")
    candles_store(feed.pk, [candle(closes), candle(opens), candle(opens + 2 * MINUTE)])

    assert [(gap.from_at, gap.missing) for gap in gaps_find(feed.pk)] == [(opens + MINUTE, 1)]


def test_looking_twice_changes_nothing_and_tells_nothing_again() -> None:
    feed = with_minutes(0, 1, 4, 5, 7)
    gaps_find(feed.pk)
    rows = list(CandleGap.objects.order_by("pk").values())

    gaps_find(feed.pk)
    gaps_find(feed.pk, at(2), at(5))
    gaps_find(feed.pk, at(3))
    gaps_find(feed.pk, None, at(3))

    assert list(CandleGap.objects.order_by("pk").values()) == rows
    assert len(events("marketdata")) == 1


def test_a_history_of_which_all_is_known_is_read_without_keeping_its_collector_waiting() -> None:
    feed = with_minutes(0, 1, 4)

    with CaptureQueriesContext(connection) as first:
        gaps_find(feed.pk)
    with CaptureQueriesContext(connection) as second:
        gaps_find(feed.pk)

    assert [any("FOR NO KEY UPDATE" in query["sql"] for query in queries) for queries in (first, second)] == [
        True,
        False,
    ]


@in_the_open
def test_of_many_who_look_at_once_each_finds_all_and_each_gap_has_one_row() -> None:
    feed = with_minutes(*range(0, 40, 2))

    results = at_once([lambda: len(gaps_find(feed.pk))] * 4)

    assert results == [19] * 4
    assert CandleGap.objects.count() == 19
    assert len(events("marketdata")) == 1


def test_the_journal_is_told_once_for_a_feed_and_nobody_is_woken(
    bells: Bells, django_capture_on_commit_callbacks: Any
) -> None:
    feed = with_minutes(0, 1, 4, 5, 7)

    with django_capture_on_commit_callbacks(execute=True):
        gaps_find(feed.pk)

    assert events("marketdata") == [{"feed": str(feed), "gaps": 2, "missing": 3, "new_gaps": 2, "filled_gaps": 0}]
    assert bells.rung("strategies.evaluate") == []


# -- followed ------------------------------------------------------------------------------------------------------------


def test_a_gap_whose_candles_have_come_is_filled() -> None:
    feed = with_minutes(0, 1, 4, 5, 7)
    gaps_find(feed.pk)
    CandleGap.objects.filter(from_at=at(6)).move(CONFIRMED)
    come(feed, 2, 3, 6)

    assert gaps_find(feed.pk) == []

    assert recorded() == [(2, 4, 2, FILLED), (6, 7, 1, FILLED)]
    assert CandleGap.objects.filter(ended_at=None).count() == 0
    assert events("marketdata", filled_gaps=2) != []


@pytest.mark.parametrize(
    ("came", "rows"),
    [
        ((1,), [(2, 9, 7, OPEN)]),
        ((8,), [(1, 8, 7, OPEN)]),
        ((3, 4), [(1, 3, 2, OPEN), (5, 9, 4, OPEN)]),
        ((1, 4, 8), [(2, 4, 2, OPEN), (5, 8, 3, OPEN)]),
    ],
)
def test_a_gap_follows_what_is_left_of_it(came: tuple[int, ...], rows: list[tuple[int, int, int, str]]) -> None:
    feed = with_minutes(0, 9)
    gaps_find(feed.pk)
    first = CandleGap.objects.get().pk
    come(feed, *came)

    gaps_find(feed.pk, at(came[0]), at(came[-1] + 1))

    assert recorded() == rows
    assert CandleGap.objects.order_by("from_at")[0].pk == first


def test_the_rest_of_a_gap_that_nobody_has_is_known_to_be_had_by_nobody() -> None:
    feed = with_minutes(0, 9)
    gaps_find(feed.pk)
    CandleGap.objects.all().move(CONFIRMED, attempts=5)
    come(feed, 4)

    gaps_find(feed.pk)

    assert recorded() == [(1, 4, 3, CONFIRMED), (5, 9, 4, CONFIRMED)]
    assert [gap.attempts for gap in CandleGap.objects.all()] == [5, 5]


def test_a_gap_that_grows_over_others_takes_their_place_and_is_open_again() -> None:
    feed = with_minutes(0, 3, 5, 9)
    gaps_find(feed.pk)
    CandleGap.objects.all().move(CONFIRMED, attempts=5)
    go(feed, 3, 5)

    gaps_find(feed.pk)

    assert recorded() == [(1, 9, 8, OPEN)]
    assert CandleGap.objects.get().attempts == 0


def test_candles_that_filled_a_gap_and_are_taken_out_again_open_it_again() -> None:
    feed = with_minutes(0, 9)
    gaps_find(feed.pk)
    come(feed, *range(1, 9))
    gaps_find(feed.pk)
    go(feed, 1, 2)

    gaps_find(feed.pk)

    assert recorded() == [(1, 3, 2, OPEN)]
    assert CandleGap.objects.get().ended_at is None


def test_a_gap_that_the_feed_s_calendar_no_longer_expects_was_none() -> None:
    feed = make_feed(last_open_at=NOON, timeframe=Timeframe.D1)
    days = [datetime.fromisoformat(f"2024-05-0{day}T00:00Z") for day in (1, 3, 6)]  # Wednesday, Friday, Monday
    candles_store(feed.pk, [candle(day) for day in days])
    gaps_find(feed.pk)
    assert CandleGap.objects.count() == 2
    Feed.objects.update(calendar=Calendar.XNYS.value)

    gaps_find(feed.pk)

    assert [gap.from_at.day for gap in CandleGap.objects.all()] == [2]


# -- noted ---------------------------------------------------------------------------------------------------------------


def note(feed: Feed, *numbers: int) -> list[Gap]:
    with transaction.atomic():
        come(feed, *numbers)
        return gaps_note(feed, [at(number) for number in numbers])


def test_candles_that_follow_each_other_cost_no_query() -> None:
    feed = with_minutes(0)

    with (
        CaptureQueriesContext(
            connection,
        ) as queries,
        transaction.atomic(),
    ):
        assert gaps_note(feed, [at(1), at(3), at(2), at(2)]) == []
        assert gaps_note(feed, []) == []

    assert [query["sql"] for query in queries if "marketdata" in query["sql"]] == []


def test_what_is_missing_before_and_between_new_candles_is_recorded() -> None:
    feed = with_minutes(0)

    note(feed, 3, 4, 7)

    assert recorded() == [(1, 3, 2, OPEN), (5, 7, 2, OPEN)]


def test_the_first_candles_of_a_feed_have_no_gap_before_them() -> None:
    feed = make_feed()

    note(feed, 3, 5)

    assert recorded() == [(4, 5, 1, OPEN)]


def test_candles_that_were_there_already_are_no_news() -> None:
    feed = with_minutes(0, 1, 2)

    with CaptureQueriesContext(connection) as queries:
        assert gaps_note(feed, [at(0), at(2), at(3)]) == []
    assert len(queries) == 0


def test_what_somebody_else_has_stored_meanwhile_is_not_missing() -> None:
    feed = with_minutes(0)
    come(feed, 1, 2)

    assert note(feed, 3) == []
    assert recorded() == []


def test_a_weekend_between_two_candles_costs_no_query() -> None:
    friday, monday = datetime.fromisoformat("2024-05-03T00:00Z"), datetime.fromisoformat("2024-05-06T00:00Z")
    feed = make_feed(timeframe=Timeframe.D1, calendar=Calendar.XNYS.value, last_open_at=friday)

    with CaptureQueriesContext(connection) as queries:
        assert gaps_note(feed, [monday]) == []
    assert len(queries) == 0


# -- once a day ----------------------------------------------------------------------------------------------------------


def unchecked(*numbers: int) -> Feed:
    return with_minutes(*numbers, checked_at=timezone.now() - CHECK_AFTER - MINUTE)


def test_a_feed_is_looked_through_a_day_after_the_last_time() -> None:
    feed = unchecked(0, 2)

    look_through([feed.pk])

    assert recorded() == [(1, 2, 1, OPEN)]
    assert feeds_unchecked(timezone.now()) == []
    assert feeds_unchecked(timezone.now() + CHECK_AFTER + MINUTE) == [feed.pk]


def test_a_second_bell_finds_it_looked_through() -> None:
    feed = unchecked(0, 2)
    look_through([feed.pk])
    come(feed, 5)

    assert not feed_look_through(feed.pk)
    assert recorded() == [(1, 2, 1, OPEN)]


def test_a_lost_bell_is_rung_again_by_the_sweep_a_feed_at_a_time_the_longest_unseen_first(bells: Bells) -> None:
    first, second = unchecked(0, 2), make_feed(timeframe=Timeframe.H1)
    Feed.objects.filter(pk=second.pk).update(last_open_at=NOON, checked_at=NOON)
    make_feed(timeframe=Timeframe.D1, checked_at=NOON)  # has nothing to look through

    sweep_feeds()
    assert bells.rung("marketdata.look_through") == [{"feed_ids": [second.pk]}]
    feed_look_through(second.pk)
    sweep_feeds()
    assert bells.rung("marketdata.look_through")[1:] == [{"feed_ids": [first.pk]}]


@in_the_open
def test_of_many_who_are_rung_one_looks() -> None:
    feed = unchecked(0, 2)

    assert sorted(at_once([lambda: feed_look_through(feed.pk)] * 4)) == [False, False, False, True]
    assert recorded() == [(1, 2, 1, OPEN)]


# -- what is to be said of a feed ----------------------------------------------------------------------------------------


def test_a_report_says_what_is_there_what_is_missing_and_what_is_wrong() -> None:
    feed = make_feed(last_open_at=at(59))
    make_candles(feed, [50_000 + number % 7 for number in range(60)], at(59))
    go(feed, 10, 11, 30)
    Candle.objects.filter(open_at=at(20)).update(high=1)
    Candle.objects.filter(open_at=at(40)).update(volume=0)
    Candle.objects.filter(open_at=at(50)).update(high=5_000_000)
    candles_store(feed.pk, [candle(at(51) + timedelta(seconds=1))])
    gaps_find(feed.pk)
    CandleGap.objects.filter(from_at=at(30)).move(CONFIRMED)
    price = {name: Decimal(1) for name in ("open", "high", "low", "close", "volume")}
    CandleRevision.objects.create(
        feed=feed, open_at=at(5), was_source=SourceKind.EXCHANGE, source=SourceKind.FILE, seen_at=NOON,
        **price, **{f"was_{name}": value for name, value in price.items()},
    )  # fmt: skip
    for number, released_at in ((10, None), (11, NOON)):
        QuarantinedCandle.objects.create(
            feed=feed, open_at=at(number), flaw=Flaw.JUMP.value, row={}, source=SourceKind.EXCHANGE, seen_at=NOON,
            last_seen_at=NOON, released_at=released_at,
        )  # fmt: skip
    events_before = len(events("marketdata"))

    report = feed_check(feed.pk)

    assert (report.rows, report.first_at, report.last_at, report.zero_volume) == (58, at(0), at(59), 1)
    assert [(gap.from_at, gap.missing) for gap in report.gaps] == [(at(10), 2), (at(30), 1)]
    assert (report.missing, report.confirmed, report.revisions, report.quarantined) == (3, 1, 1, 1)
    assert report.flaws == {Flaw.BAD_OHLC: 1, Flaw.JUMP: 1, Flaw.OFF_GRID: 1}
    assert [finding.flaw for finding in report.findings] == [Flaw.BAD_OHLC, Flaw.JUMP, Flaw.OFF_GRID]
    assert not report.is_clean
    assert len(events("marketdata")) == events_before


def test_an_empty_feed_is_clean_and_has_no_first_candle() -> None:
    report = feed_check(make_feed().pk)

    assert (report.rows, report.first_at, report.last_at, report.gaps, report.is_clean) == (0, None, None, (), True)


def test_a_long_history_is_inspected_in_parts_that_know_what_came_before(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = make_feed()
    make_candles(feed, [50_000 + number % 7 for number in range(60)], at(59))
    Candle.objects.filter(open_at=at(40)).update(high=5_000_000)
    monkeypatch.setattr(gaps_module, "CHUNK", 2)  # too few to be measured by each other

    report = feed_check(feed.pk)

    assert (report.rows, [(found.flaw, found.open_ms) for found in report.findings]) == (
        60, [(Flaw.JUMP, int(at(40).timestamp()) * 1000)],
    )  # fmt: skip


def test_the_first_findings_are_told_and_all_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = make_feed()
    make_candles(feed, [50_000.0] * 30, at(29))
    Candle.objects.update(high=1)
    monkeypatch.setattr(gaps_module, "FINDINGS_TOLD", 4)

    report = feed_check(feed.pk)

    assert (len(report.findings), report.flaws) == (4, {Flaw.BAD_OHLC: 30})
