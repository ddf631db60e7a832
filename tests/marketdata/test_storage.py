"""Candles in and out: each once, exact, both values of what was revised kept, whoever brings them and in whatever order."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow
import pytest
from django.db import DatabaseError, IntegrityError, connection, transaction

from domain.candles import Timeframe
from exchanges.gateway import CandleReport
from marketdata import storage
from marketdata.models import Candle, CandleRevision, Feed, SourceKind
from marketdata.storage import (
    Imported,
    Merged,
    candles_arrays,
    candles_extremes,
    candles_import,
    candles_merge,
    candles_window,
)
from tests.factories import NOON, make_feed
from tests.marketdata.conftest import MINUTE, candle
from tests.race import at_once

EXACT = ("0.1", "12345678901234567.123456789012345678", "0.000000000000000001", "999999999999999999", "0")


def ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def table_of(rows: list[tuple[datetime, str]]) -> pyarrow.Table:
    """Candles flat at their close, as an import takes them."""
    prices = [close for _, close in rows]
    return pyarrow.table(
        {"open_ms": pyarrow.array([ms(at) for at, _ in rows], pyarrow.int64())}
        | {name: pyarrow.array(prices, pyarrow.string()) for name in ("open", "high", "low", "close")}
        | {"volume": pyarrow.array(["1"] * len(rows), pyarrow.string())}
    )


def minutes(count: int, close: str = "7", start: datetime = NOON) -> list[tuple[datetime, str]]:
    return [(start + number * MINUTE, close) for number in range(count)]


def stored(feed: Feed) -> list[tuple[datetime, Any]]:
    return list(feed.candles.order_by("open_at").values_list("open_at", "close"))


def revisions(feed: Feed) -> list[tuple[datetime, Any, Any]]:
    return list(feed.revisions.order_by("pk").values_list("open_at", "was_close", "close"))


def changes(feed: Feed) -> int:
    return Feed.objects.values_list("changes", flat=True).get(pk=feed.pk)


# -- live ---------------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_candles_of_many_feeds_are_counted_by_feed() -> None:
    one, other = make_feed(), make_feed(timeframe=Timeframe.M5)
    candles_merge([(one.pk, candle(NOON, "1"), SourceKind.EXCHANGE)])

    merged = candles_merge(
        [
            (one.pk, candle(NOON, "2"), SourceKind.YAHOO),
            (one.pk, candle(NOON + MINUTE, "3"), SourceKind.YAHOO),
            (other.pk, candle(NOON, "4"), SourceKind.YAHOO),
        ]
    )

    assert merged == Merged(new={one.pk: 1, other.pk: 1}, revised={one.pk: 1})
    assert stored(one) == [(NOON, 2), (NOON + MINUTE, 3)]
    assert revisions(one) == [(NOON, 1, 2)]
    assert CandleRevision.objects.values_list("was_source", "source").get() == (SourceKind.EXCHANGE, SourceKind.YAHOO)


@pytest.mark.django_db
def test_storing_the_same_again_changes_nothing() -> None:
    feed = make_feed()
    rows = [(feed.pk, candle(NOON, "0.1"), SourceKind.EXCHANGE)]
    candles_merge(rows)
    collected_at = Candle.objects.get().collected_at

    assert candles_merge(rows) == Merged()
    assert Candle.objects.get().collected_at == collected_at
    assert (revisions(feed), changes(feed)) == ([], 0)


@pytest.mark.django_db
def test_of_two_rows_of_one_candle_the_later_counts() -> None:
    feed = make_feed()

    merged = candles_merge([(feed.pk, candle(NOON, close), SourceKind.EXCHANGE) for close in ("1", "3", "2")])

    assert merged == Merged(new={feed.pk: 1})
    assert (stored(feed), revisions(feed)) == ([(NOON, 2)], [])


@pytest.mark.django_db
def test_a_feed_counts_what_changed_before_its_last_candle_and_no_new_end() -> None:
    feed = make_feed(last_open_at=NOON)

    candles_merge([(feed.pk, candle(NOON + MINUTE), SourceKind.EXCHANGE)])
    assert changes(feed) == 0

    candles_merge([(feed.pk, candle(NOON - 2 * MINUTE), SourceKind.EXCHANGE)])
    assert changes(feed) == 1

    candles_merge([(feed.pk, candle(NOON + MINUTE, "2"), SourceKind.EXCHANGE)])
    assert changes(feed) == 2


def test_of_two_who_bring_the_same_new_candle_with_two_values_one_revises_the_other(transactional_db: None) -> None:
    feed = make_feed()

    def store(close: str) -> Merged:
        with transaction.atomic():
            return candles_merge([(feed.pk, candle(NOON, close), SourceKind.EXCHANGE)])

    results = at_once([lambda: store("1"), lambda: store("2")])

    assert sorted(map(str, results)) == sorted(map(str, [Merged(new={feed.pk: 1}), Merged(revised={feed.pk: 1})]))
    [(_, was, now)] = revisions(feed)
    assert {was, now} == {1, 2}
    assert stored(feed) == [(NOON, now)]


def test_many_who_bring_the_same_revision_of_many_feeds_keep_it_once(transactional_db: None) -> None:
    feeds = [make_feed(timeframe=frame) for frame in list(Timeframe)[:6]]

    def store(close: str, order: int) -> Merged:
        with transaction.atomic():
            return candles_merge([(feed.pk, candle(NOON, close), SourceKind.EXCHANGE) for feed in feeds[::order]])

    store("1", 1)
    results = at_once([lambda order=order: store("2", order) for order in (1, -1) * 4])

    assert sum(result == Merged(revised={feed.pk: 1 for feed in feeds}) for result in results) == 1
    assert sum(result == Merged() for result in results) == 7
    assert [revisions(feed) for feed in feeds] == [[(NOON, 1, 2)]] * 6


# -- history ------------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_an_import_counts_what_was_new_revised_and_there() -> None:
    feed = make_feed()
    first = candles_import(feed.pk, table_of(minutes(4)), SourceKind.FILE)

    again = candles_import(
        feed.pk, table_of([(NOON, "7"), (NOON + MINUTE, "8"), (NOON + 9 * MINUTE, "9")]), SourceKind.YAHOO
    )

    assert first == Imported(seen=4, new=4, revised=0, unchanged=0)
    assert again == Imported(seen=3, new=1, revised=1, unchanged=1)
    assert revisions(feed) == [(NOON + MINUTE, 7, 8)]
    assert list(feed.candles.order_by("open_at").values_list("source", flat=True)) == [3, 1, 3, 3, 1]


@pytest.mark.django_db
@pytest.mark.parametrize("kind", [pyarrow.string(), pyarrow.decimal128(38, 18)])
def test_numbers_arrive_exactly(kind: pyarrow.DataType) -> None:
    feed = make_feed()
    columns = {
        name: pyarrow.array([Decimal(value)], pyarrow.decimal128(38, 18)).cast(kind)
        if kind != pyarrow.string()
        else pyarrow.array([value])
        for name, value in zip(("open", "high", "low", "close", "volume"), EXACT, strict=True)
    }

    candles_import(feed.pk, pyarrow.table({"open_ms": pyarrow.array([ms(NOON)]), **columns}), SourceKind.FILE)

    row = Candle.objects.values_list("open_at", "open", "high", "low", "close", "volume").get()
    assert row == (NOON, *map(Decimal, EXACT))


@pytest.mark.django_db
def test_rows_in_any_order_are_stored_and_of_two_of_one_time_the_later_counts() -> None:
    feed = make_feed()
    rows = [(NOON + 2 * MINUTE, "3"), (NOON, "1"), (NOON + MINUTE, "2"), (NOON, "9")]

    assert candles_import(feed.pk, table_of(rows), SourceKind.FILE) == Imported(3, 3, 0, 0)
    assert stored(feed) == [(NOON, 9), (NOON + MINUTE, 2), (NOON + 2 * MINUTE, 3)]
    assert revisions(feed) == []


@pytest.mark.django_db
def test_an_import_of_nothing_stores_nothing() -> None:
    assert candles_import(make_feed().pk, table_of([]), SourceKind.FILE) == Imported(0, 0, 0, 0)


@pytest.mark.parametrize("bad", ["NaN", "Infinity", "", "1,5", "dear", None, "1e19"])
def test_what_is_no_price_ends_an_import_and_the_chunks_before_stay(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch, bad: str
) -> None:
    monkeypatch.setattr(storage, "CHUNK", 2)
    feed = make_feed()
    rows = minutes(4)

    with pytest.raises((DatabaseError, pyarrow.ArrowInvalid)):
        candles_import(feed.pk, table_of([*rows[:3], (rows[3][0], bad)]), SourceKind.FILE)

    assert stored(feed) == [(NOON, 7), (NOON + MINUTE, 7)]
    assert candles_import(feed.pk, table_of(rows), SourceKind.FILE) == Imported(4, 2, 0, 2)


@pytest.mark.django_db
def test_an_import_says_which_column_it_wants() -> None:
    with pytest.raises(ValueError, match="was without volume"):
        candles_import(make_feed().pk, table_of(minutes(1)).drop_columns("volume"), SourceKind.FILE)
    with pytest.raises(ValueError, match="wanted open_ms as int64, was string"):
        candles_import(
            make_feed().pk,
            table_of(minutes(1)).set_column(0, "open_ms", pyarrow.array(["1"])),
            SourceKind.FILE,
        )


def test_an_import_that_died_is_resumed_by_running_it_again(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "CHUNK", 10)
    feed, table, merge, left = make_feed(), table_of(minutes(25)), storage._merge, [2]

    def dies(*args: object) -> Merged:
        merged = merge(*args)  # type: ignore[arg-type]
        if not left[0]:
            raise IntegrityError("the worker is gone, its transaction with it")
        left[0] -= 1
        return merged

    with monkeypatch.context() as patch:
        patch.setattr(storage, "_merge", dies)
        with pytest.raises(IntegrityError):
            candles_import(feed.pk, table, SourceKind.FILE)

    assert len(stored(feed)) == 20
    assert candles_import(feed.pk, table, SourceKind.FILE) == Imported(seen=25, new=5, revised=0, unchanged=20)
    assert stored(feed) == [(at, 7) for at, _ in minutes(25)]
    assert revisions(feed) == []


def test_two_who_import_the_same_at_once_store_it_once(transactional_db: None) -> None:
    feed = make_feed()

    results = at_once([lambda: candles_import(feed.pk, table_of(minutes(500)), SourceKind.FILE)] * 3)

    assert sorted(result.new for result in results) == [0, 0, 500]
    assert len(stored(feed)) == 500
    assert revisions(feed) == []


@pytest.mark.django_db
@pytest.mark.parametrize(("is_needed", "expected"), [(False, NOON + 2 * MINUTE), (True, NOON)])
def test_an_import_moves_the_last_candle_on_unless_it_is_the_collectors(is_needed: bool, expected: datetime) -> None:
    feed = make_feed(is_needed=is_needed, last_open_at=NOON)

    candles_import(feed.pk, table_of(minutes(3)), SourceKind.FILE)
    candles_import(feed.pk, table_of(minutes(2, start=NOON - 9 * MINUTE)), SourceKind.FILE)

    feed.refresh_from_db()
    assert (feed.last_open_at, feed.changes) == (expected, 2)


def test_an_import_of_years_has_its_months(transactional_db: None) -> None:
    feed = make_feed()
    try:
        candles_import(
            feed.pk,
            table_of(
                [(datetime(2031, 1, 31, tzinfo=NOON.tzinfo), "1"), (datetime(2031, 3, 1, tzinfo=NOON.tzinfo), "2")]
            ),
            SourceKind.FILE,
        )

        with connection.cursor() as cursor:
            cursor.execute("SELECT tableoid::regclass::text, count(*) FROM marketdata_candle GROUP BY 1 ORDER BY 1")
            assert cursor.fetchall() == [("marketdata_candle_2031_01", 1), ("marketdata_candle_2031_03", 1)]
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS marketdata_candle_2031_01, marketdata_candle_2031_03")


# -- reads --------------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_window_until_a_time_ends_before_it() -> None:
    feed = make_feed(last_open_at=NOON + 9 * MINUTE)
    candles_import(
        feed.pk, table_of([(at, str(number)) for number, (at, _) in enumerate(minutes(10))]), SourceKind.FILE
    )

    window = candles_window(feed.pk, 2, until=NOON + 5 * MINUTE)

    assert list(window.open_ms) == [ms(NOON + 3 * MINUTE), ms(NOON + 4 * MINUTE)]
    assert list(window.close) == [3.0, 4.0]


@pytest.mark.django_db
@pytest.mark.parametrize("gap", [timedelta(0), timedelta(hours=1), timedelta(days=3), timedelta(days=800)])
def test_a_window_reaches_over_any_gap(gap: timedelta) -> None:
    feed = make_feed(last_open_at=NOON)
    candles_merge(
        [
            (feed.pk, candle(NOON, "2"), SourceKind.EXCHANGE),
            (feed.pk, candle(NOON - MINUTE - gap, "1"), SourceKind.EXCHANGE),
            (feed.pk, candle(NOON - 2 * MINUTE - gap, "0"), SourceKind.EXCHANGE),
        ]
    )

    assert list(candles_window(feed.pk, 2).close) == [1.0, 2.0]


@pytest.mark.django_db
@pytest.mark.parametrize("last_open_at", [None, NOON - timedelta(days=9), NOON + timedelta(days=9)])
def test_a_window_is_the_newest_whatever_the_feed_says_of_its_last(last_open_at: datetime | None) -> None:
    feed = make_feed(last_open_at=last_open_at)
    candles_import(feed.pk, table_of(minutes(5)), SourceKind.FILE)
    Feed.objects.filter(pk=feed.pk).update(last_open_at=last_open_at)

    assert list(candles_window(feed.pk, 3).open_ms) == [ms(NOON + number * MINUTE) for number in (2, 3, 4)]


@pytest.mark.django_db
def test_a_window_can_be_computed_with_and_written_to() -> None:
    feed = make_feed()
    candles_merge([(feed.pk, CandleReport(NOON, *map(Decimal, ("0.1", "0.3", "0.05", "0.2", "9"))), SourceKind.FILE)])

    window = candles_window(feed.pk, 5)

    assert (window.open_ms.dtype, window.close.dtype) == (np.dtype(np.int64), np.dtype(np.float64))
    assert all(column.flags.writeable and column.flags.c_contiguous for column in (window.open_ms, window.close))
    assert [column[0] for column in (window.open, window.high, window.low, window.close, window.volume)] == [
        0.1, 0.3, 0.05, 0.2, 9.0,
    ]  # fmt: skip


@pytest.mark.django_db
@pytest.mark.parametrize("chunk", [3, 4, 100])
def test_a_long_read_is_whole_whatever_its_chunks(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(storage, "READ_CHUNK", chunk)
    feed = make_feed()
    candles_import(
        feed.pk, table_of([(at, str(number)) for number, (at, _) in enumerate(minutes(14))]), SourceKind.FILE
    )

    found = candles_arrays(feed.pk, NOON + MINUTE, NOON + 13 * MINUTE)

    assert list(found.close) == [float(number) for number in range(1, 13)]
    assert list(found.open_ms) == [ms(NOON + number * MINUTE) for number in range(1, 13)]
    assert len(candles_arrays(feed.pk, NOON - MINUTE, NOON)) == 0


@pytest.mark.django_db
def test_extremes_are_of_what_opened_after_the_time_asked_for() -> None:
    one, other = make_feed(), make_feed(timeframe=Timeframe.M5)
    for feed, closes in ((one, "1937"), (other, "28")):
        candles_merge(
            [(feed.pk, candle(NOON + at * MINUTE, close), SourceKind.FILE) for at, close in enumerate(closes)]
        )

    found = candles_extremes([(one.pk, NOON + MINUTE), (other.pk, NOON - MINUTE), (one.pk, NOON + 3 * MINUTE)])

    assert found[2] is None
    assert [(each.high, each.low, each.until) for each in found if each] == [
        (Decimal(7), Decimal(3), NOON + 3 * MINUTE), (Decimal(8), Decimal(2), NOON + MINUTE),
    ]  # fmt: skip
