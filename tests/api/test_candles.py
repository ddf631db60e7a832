"""Candles at the API: which span, in which order and format, page by page, and nothing sent twice that did not change."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from django.db import transaction
from django.db.models import F
from rest_framework.test import APIClient

from domain.calendars import Calendar
from domain.candles import Timeframe
from domain.quality import Inspection
from exchanges.gateway import CandleReport
from marketdata.failover import sources_to_ask
from marketdata.history import Answer, page_store
from marketdata.models import Feed
from marketdata.services import candles_store
from marketdata.tables import ARROW
from tests.api.conftest import Api
from tests.factories import NOON, make_candles, make_feed, make_market

MINUTE = timedelta(minutes=1)


@pytest.fixture
def feed(db: None) -> Feed:
    """Ten candles of a minute, closing at 1 to 10, the last opened at noon."""
    feed = make_feed()
    make_candles(feed, [float(close) for close in range(1, 11)], NOON)
    feed.refresh_from_db()
    return feed


def closes(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.content
    return [row["close"] for row in answer.json()["results"]]


def ask(user: Api, path: str, **headers: str) -> Any:
    client = APIClient()
    client.force_authenticate(user.user)
    return client.get(f"/api/v1/{path}", headers=headers)


def pages(user: Api, **query: Any) -> list[list[str]]:
    """The closes of all pages, following each one's word on the next."""
    found, answer = [], user.get("candles", **query)
    while True:
        found.append(closes(answer))
        url = answer.json()["next"]
        if url is None:
            return found
        answer = ask(user, url.partition("/api/v1/")[2])


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, "1 2 3 4 5 6 7 8 9 10"),
        ({"limit": 3}, "8 9 10"),
        ({"limit": 3, "order": "newest"}, "10 9 8"),
        ({"limit": 3, "order": "oldest"}, "1 2 3"),
        ({"from": "2024-05-01T11:55:00Z"}, "5 6 7 8 9 10"),
        ({"from": "2024-05-01T11:55:00Z", "limit": 2}, "5 6"),
        ({"from": "2024-05-01T11:55:00Z", "limit": 2, "order": "newest"}, "10 9"),
        ({"until": "2024-05-01T11:55:00Z", "limit": 2}, "3 4"),
        ({"until": "2024-05-01T11:55:00Z", "limit": 2, "order": "oldest"}, "1 2"),
        ({"from": "2024-05-01T11:55:00Z", "until": "2024-05-01T11:57:00Z"}, "5 6"),
        ({"from": "2024-05-01T13:57:00+02:00"}, "7 8 9 10"),
        ({"from": "2024-05-01 11:58:30"}, "9 10"),
        ({"from": str(int(NOON.timestamp() * 1000))}, "10"),
        ({"from": "2024-05-02"}, ""),
        ({"until": "2024-05-01"}, ""),
    ],
)
def test_a_span_and_an_order_choose_the_rows(alice: Api, feed: Feed, query: dict[str, Any], expected: str) -> None:
    answer = alice.get("candles", feed=feed.pk, **query)

    assert closes(answer) == expected.split()


def test_a_feed_is_named_by_its_market_and_timeframe_too(alice: Api, feed: Feed) -> None:
    make_feed(timeframe=Timeframe.H1)

    answer = alice.get("candles", exchange="simulator", symbol="BTC/USDT", timeframe="1m", limit=1).json()

    assert answer == {
        "feed": feed.pk,
        "next": "http://testserver/api/v1/candles?exchange=simulator&limit=1&symbol=BTC%2FUSDT&timeframe=1m"
        "&until=2024-05-01T12%3A00%3A00Z",
        "results": [
            {"open_at": "2024-05-01T12:00:00Z", "open": "10", "high": "10", "low": "10", "close": "10", "volume": "1"}
        ],
    }


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ({"exchange": "simulator", "symbol": "BTC/USDT"}, "feed: wanted the id of a feed, or exchange, symbol and timeframe"),
        (
            {"exchange": "simulator", "symbol": "LTC/USDT", "timeframe": "5m"},
            "timeframe: wanted a timeframe that LTC/USDT has a feed of (1h), was 5m",
        ),
        (
            {"exchange": "simulator", "symbol": "ETH/USDT", "timeframe": "1m"},
            "symbol: wanted a market of simulator with a feed, was 'ETH/USDT'",
        ),
        ({"exchange": "nowhere"}, "exchange: wanted the id or the name of an exchange, was 'nowhere'"),
        ({"feed": "FEED", "timeframe": "1h"}, "feed: wanted the feed that is named beside it, was simulator-BTC/USDT-1m"),
        ({"feed": "FEED", "from": "noon"}, "from: wanted a time (ISO 8601 or epoch milliseconds), was 'noon'"),
        ({"feed": "FEED", "from": "2024-02-30"}, "from: wanted a time (ISO 8601 or epoch milliseconds), was '2024-02-30'"),
        ({"feed": "FEED", "until": "9" * 40}, "until: wanted a time (ISO 8601 or epoch milliseconds), was '999"),
        ({"feed": "FEED", "until": "0001-01-01T00:00:00+14:00"}, "until: wanted a time (ISO 8601 or epoch milliseconds)"),
        ({"feed": "FEED", "order": "best"}, 'order: "best" is not a valid choice.'),
        ({"feed": "FEED", "limit": 100_001}, "limit: Ensure this value is less than or equal to 100000."),
        ({"feed": "FEED", "limit": 1501, "format": "json"}, "limit: Ensure this value is less than or equal to 1500."),
    ],
)  # fmt: skip
def test_a_question_that_cannot_be_answered_is_refused(
    alice: Api, feed: Feed, query: dict[str, Any], detail: str
) -> None:
    make_feed(make_market(symbol="LTC/USDT"), Timeframe.H1)

    answer = alice.get("candles", **{name: feed.pk if value == "FEED" else value for name, value in query.items()})

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid")
    assert answer.json()["detail"].startswith(detail)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"order": "oldest"}, ["1 2 3 4", "5 6 7 8", "9 10"]),
        ({"from": "2024-05-01T11:57:00Z"}, ["7 8 9 10"]),
        ({"from": "2024-05-01T11:56:00Z"}, ["6 7 8 9", "10"]),
        ({"order": "newest"}, ["10 9 8 7", "6 5 4 3", "2 1"]),
        ({}, ["7 8 9 10", "3 4 5 6", "1 2"]),
    ],
)
def test_pages_lead_through_all_rows(alice: Api, feed: Feed, query: dict[str, Any], expected: list[str]) -> None:
    assert pages(alice, feed=feed.pk, limit=4, **query) == [page.split() for page in expected]


def test_pages_stay_put_while_candles_arrive(alice: Api, feed: Feed) -> None:
    newest = alice.get("candles", feed=feed.pk, limit=4, order="newest")
    oldest = alice.get("candles", feed=feed.pk, limit=6, order="oldest")
    make_candles(feed, [11.0, 12.0], NOON + 2 * MINUTE)

    after_newest = ask(alice, newest.json()["next"].partition("/api/v1/")[2])
    after_oldest = ask(alice, oldest.json()["next"].partition("/api/v1/")[2])

    assert closes(after_newest) == ["6", "5", "4", "3"]
    assert closes(after_oldest) == ["7", "8", "9", "10", "11", "12"]


def test_a_hole_longer_than_any_page_hides_nothing(alice: Api) -> None:
    feed = make_feed()
    make_candles(feed, [1.0, 2.0], NOON - timedelta(days=400))
    make_candles(feed, [3.0], NOON)

    assert closes(alice.get("candles", feed=feed.pk, limit=2)) == ["2", "3"]
    assert closes(alice.get("candles", feed=feed.pk, limit=2, **{"from": "2023-03-28T12:00:00Z"})) == ["2", "3"]


def test_prices_are_exact_in_every_format(alice: Api) -> None:
    feed = make_feed()
    texts = ("0.1", "123456789012345678.123456789012345678", "0.000000000000000001", "100", "0")
    candles_store(feed.pk, [CandleReport(NOON, *(Decimal(text) for text in texts))])

    [row] = alice.get("candles", feed=feed.pk).json()["results"]
    csv = alice.get("candles", feed=feed.pk, format="csv")
    stream = ask(alice, f"candles?feed={feed.pk}", accept=ARROW)
    table = pa.ipc.open_stream(io.BytesIO(stream.content)).read_all()

    assert tuple(row[name] for name in ("open", "high", "low", "close", "volume")) == texts
    assert csv.content.decode() == f"ts,open,high,low,close,volume\n1714564800000,{','.join(texts)}\n"
    assert csv.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert stream.headers["Content-Type"] == ARROW
    assert table.schema.field("ts").type == pa.timestamp("ms", tz="UTC")
    assert {str(field.type) for field in list(table.schema)[1:]} == {"decimal128(38, 18)"}
    assert table.to_pylist() == [
        {"ts": NOON, **dict(zip(("open", "high", "low", "close", "volume"), map(Decimal, texts), strict=True))}
    ]


def test_arrow_has_floats_where_they_are_asked_for(alice: Api, feed: Feed) -> None:
    stream = alice.get("candles", feed=feed.pk, format="arrow", prices="float64", limit=2)

    table = pa.ipc.open_stream(io.BytesIO(stream.content)).read_all()

    assert table.column("close").to_pylist() == [9.0, 10.0]
    assert str(table.schema.field("close").type) == "double"


def test_a_feed_without_candles_has_none_in_every_format(alice: Api) -> None:
    feed = make_feed()

    as_json, csv, arrow = (alice.get("candles", feed=feed.pk, format=name) for name in ("json", "csv", "arrow"))

    assert as_json.json() == {"feed": feed.pk, "next": None, "results": []}
    assert csv.content == b"ts,open,high,low,close,volume\n"
    assert pa.ipc.open_stream(io.BytesIO(arrow.content)).read_all().num_rows == 0


def test_bulk_formats_take_more_rows_and_lead_on_by_a_header(alice: Api, feed: Feed) -> None:
    whole = alice.get("candles", feed=feed.pk, format="csv", limit=1501)
    part = alice.get("candles", feed=feed.pk, format="csv", limit=4, order="oldest")

    assert len(whole.content.splitlines()) == 11
    assert "Link" not in whole.headers
    url = part.headers["Link"].removeprefix("<").removesuffix('>; rel="next"')
    rest = ask(alice, url.partition("/api/v1/")[2]).content.splitlines()
    assert [line.split(b",")[4] for line in rest[1:]] == [b"5", b"6", b"7", b"8"]


def test_a_format_by_the_header_that_nobody_speaks_is_refused_in_json(alice: Api, feed: Feed) -> None:
    answer = ask(alice, f"candles?feed={feed.pk}", accept="application/xml")

    assert (answer.status_code, answer.json()["code"]) == (406, "not_acceptable")


def test_a_format_by_its_name_that_nobody_speaks_is_refused_with_those_there_are(alice: Api, feed: Feed) -> None:
    answer = alice.get("candles", feed=feed.pk, format="xml")

    words = "wanted one of json, csv, arrow, was 'xml'"
    assert (answer.status_code, answer.json()) == (
        400, {"code": "invalid", "detail": f"format: {words}", "fields": {"format": [words]}},
    )  # fmt: skip


def test_a_span_that_ends_before_it_begins_is_refused_and_an_empty_one_is_not(alice: Api, feed: Feed) -> None:
    refused = alice.get("candles", feed=feed.pk, **{"from": "2024-05-02", "until": "2024-05-01T12:00"})
    empty = alice.get("candles", feed=feed.pk, **{"from": "2024-05-02", "until": "2024-05-02"})

    assert (refused.status_code, refused.json()["detail"]) == (
        400, "until: wanted a time not before 2024-05-02T00:00:00Z, was 2024-05-01T12:00:00Z",
    )  # fmt: skip
    assert (empty.status_code, empty.json()["results"]) == (200, [])


def test_a_refusal_is_json_whatever_was_asked_for(alice: Api, nobody: Api) -> None:
    answers = alice.get("candles", format="csv"), ask(nobody, "candles", accept=ARROW)

    assert [answer.status_code for answer in answers] == [400, 401]
    assert [answer.headers["Content-Type"] for answer in answers] == ["application/json"] * 2
    assert [answer.json()["code"] for answer in answers] == ["invalid", "not_authenticated"]


def test_who_has_the_rows_already_is_told_so_without_reading_them(
    alice: Api, feed: Feed, django_assert_num_queries: Callable[[int], AbstractContextManager[Any]]
) -> None:
    first = alice.get("candles", feed=feed.pk)

    with django_assert_num_queries(1):  # the feed alone
        again = ask(alice, f"candles?feed={feed.pk}", **{"if-none-match": first.headers["ETag"]})

    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]
    assert first.headers["Cache-Control"] == again.headers["Cache-Control"] == "private, no-cache"
    assert "Accept" in again.headers["Vary"]


@pytest.mark.parametrize(
    ("query", "change", "is_known"),
    [
        ("limit=5", {}, True),
        ("limit=5", {"last_open_at": NOON + MINUTE}, False),
        ("limit=5", {"changes": F("changes") + 1}, False),
        ("until=2024-05-01T12:00:00Z", {"last_open_at": NOON + MINUTE}, True),  # nothing before it comes any more
        ("until=2024-05-01T12:00:00Z", {"changes": F("changes") + 1}, False),
        ("until=2024-05-01T12:01:00Z", {"last_open_at": NOON + MINUTE}, False),
    ],
)
def test_what_one_has_is_out_of_date_when_its_rows_may_have_changed(
    alice: Api, feed: Feed, query: str, change: dict[str, Any], is_known: bool
) -> None:
    path = f"candles?feed={feed.pk}&{query}"
    tag = ask(alice, path).headers["ETag"]
    if change:
        Feed.objects.filter(pk=feed.pk).update(**change)

    answer = ask(alice, path, **{"if-none-match": tag})

    assert answer.status_code == (304 if is_known else 200)


def test_each_question_and_format_has_a_tag_of_its_own(alice: Api, feed: Feed) -> None:
    other = make_feed(make_market(symbol="ETH/USDT"), last_open_at=NOON)
    paths = [f"candles?feed={feed.pk}", f"candles?feed={feed.pk}&limit=5", f"candles?feed={other.pk}"]

    tags = {ask(alice, path).headers["ETag"] for path in paths}
    tags |= {ask(alice, paths[0], accept=kind).headers["ETag"] for kind in ("text/csv", ARROW)}

    assert len(tags) == 5


def test_times_of_no_whole_second_are_no_reason_to_fail(alice: Api) -> None:
    feed = make_feed()
    at = datetime.fromisoformat("2024-05-01T12:00:00.250+00:00")
    candles_store(feed.pk, [CandleReport(at, *[Decimal(1)] * 5)])

    assert alice.get("candles", feed=feed.pk, format="csv").content.splitlines()[1].startswith(b"1714564800250,")


@pytest.fixture
def minutes(db: None) -> Feed:
    """Twenty-two minutes from 12:00 on, each a price higher, with what happened at 12:07 missing."""
    feed = make_feed()
    rows = []
    for minute in range(22):
        open_, close = Decimal(100 + minute), Decimal(101 + minute)
        if minute != 7:
            rows.append(
                CandleReport(NOON + minute * MINUTE, open_, close + Decimal("0.5"), open_ - 1, close, Decimal("0.1"))
            )
    candles_store(feed.pk, rows)
    Feed.objects.filter(pk=feed.pk).update(last_open_at=NOON + 21 * MINUTE)
    feed.refresh_from_db()
    return feed


FIVES = {"exchange": "simulator", "symbol": "BTC/USDT", "timeframe": "5m"}


def test_a_timeframe_without_a_feed_is_made_of_a_shorter_one_where_it_is_whole(alice: Api, minutes: Feed) -> None:
    answer = alice.get("candles", **FIVES).json()

    # 12:05 lacks a minute, 12:20 is not over.
    assert answer == {
        "feed": minutes.pk, "timeframe": "5m", "next": None,
        "results": [
            {"open_at": f"2024-05-01T12:{at}:00Z", "open": open_, "high": high, "low": low, "close": close, "volume": "0.5"}
            for at, open_, high, low, close in (
                ("00", "100", "105.5", "99", "105"),
                ("10", "110", "115.5", "109", "115"),
                ("15", "115", "120.5", "114", "120"),
            )
        ],
    }  # fmt: skip


def test_the_longest_timeframe_that_makes_it_up_is_taken(alice: Api, minutes: Feed) -> None:
    make_feed(timeframe=Timeframe.M3)  # makes up no whole 5m
    five = make_feed(timeframe=Timeframe.M5, last_open_at=NOON)
    make_feed(timeframe=Timeframe.H1)

    assert alice.get("candles", **{**FIVES, "timeframe": "30m"}).json()["feed"] == five.pk
    assert alice.get("candles", **FIVES).json().keys() == {"feed", "next", "results"}  # it has a feed of its own now


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"order": "oldest"}, [["105"], ["115"], ["120"]]),
        ({"order": "newest"}, [["120"], ["115"], ["105"]]),
        ({}, [["120"], ["115"], ["105"]]),
        ({"from": "2024-05-01T12:01:00Z", "until": "2024-05-01T12:15:00Z"}, [["115"]]),
        ({"from": "2024-05-01T12:10:00Z"}, [["115"], ["120"]]),
    ],
)
def test_pages_of_longer_candles_lead_through_all_of_them(
    alice: Api, minutes: Feed, monkeypatch: pytest.MonkeyPatch, query: dict[str, Any], expected: list[list[str]]
) -> None:
    found = [page for page in pages(alice, **FIVES, **query, limit=1) if page]

    assert found == expected


def test_a_day_of_many_candles_is_paged_by_what_is_read(alice: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("marketdata.candle_api.MOST_READ", 3000)
    feed = make_feed(timeframe=Timeframe.M30)
    midnight = NOON.replace(hour=0)
    make_candles(
        feed, [float(number) for number in range(48 * 200)], midnight + timedelta(days=199, hours=23, minutes=30)
    )
    query = {"exchange": "simulator", "symbol": "BTC/USDT", "timeframe": "1d", "limit": 1500}

    forward = pages(alice, **query, order="oldest")
    backward = pages(alice, **query, order="newest")

    assert max(map(len, forward)) == 62
    assert [close for page in forward for close in page] == [str(48 * day + 47) for day in range(200)]
    assert [close for page in backward for close in page] == [str(48 * day + 47) for day in reversed(range(200))]


def test_longer_candles_that_one_has_are_out_of_date_when_their_last_part_comes(alice: Api, minutes: Feed) -> None:
    path = "candles?exchange=simulator&symbol=BTC/USDT&timeframe=5m&until=2024-05-01T12:21:00Z"
    tag = ask(alice, path).headers["ETag"]
    make_candles(minutes, [122.0, 123.0, 124.0], NOON + 24 * MINUTE)

    answer = ask(alice, path, **{"if-none-match": tag})

    assert closes(answer)[-1] == "124"


def test_json_that_is_to_be_indented_is_json(alice: Api, feed: Feed) -> None:
    answer = ask(alice, f"candles?feed={feed.pk}&limit=2", Accept="application/json; indent=4")

    assert closes(answer) == ["9", "10"]


def test_what_is_filled_in_of_a_feed_that_nobody_collects_is_told_to_who_has_seen_it_empty(
    alice: Api, db: None
) -> None:
    feed = make_feed()
    tag = ask(alice, f"candles?feed={feed.pk}")["ETag"]
    [choice] = sources_to_ask(feed, NOON)
    rows = [CandleReport(NOON, *[Decimal(1)] * 5)]
    answer = Answer(choice, rows, Inspection(np.array([True]), ()), NOON + MINUTE)
    with transaction.atomic():
        page_store(feed, answer, NOON)

    again = ask(alice, f"candles?feed={feed.pk}", **{"If-None-Match": tag})

    assert closes(again) == ["1"]


def test_a_longer_candle_is_made_of_a_feed_that_has_candles(alice: Api, feed: Feed) -> None:
    make_feed(feed.market, Timeframe.M3)

    answer = alice.get("candles", exchange=feed.market.exchange.name, symbol=feed.market.symbol, timeframe="15m")

    assert answer.json()["feed"] == feed.pk


def test_longer_candles_of_another_calendar_are_others(alice: Api, minutes: Feed) -> None:
    path = f"candles?exchange={minutes.market.exchange.name}&symbol=BTC/USDT&timeframe=5m"
    tag = ask(alice, path)["ETag"]
    Feed.objects.filter(pk=minutes.pk).update(calendar=Calendar.FX)

    answers = [ask(alice, path, **{"If-None-Match": tag}).status_code]
    Feed.objects.filter(pk=minutes.pk).update(calendar=Calendar.ALWAYS)
    answers.append(ask(alice, path, **{"If-None-Match": tag}).status_code)

    assert answers == [200, 304]
