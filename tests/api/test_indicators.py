"""Indicators at the API: along the candles of a feed, with their parameters checked by the catalogue."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from domain.catalogue import CATALOGUE
from marketdata.models import Feed
from tests.api.conftest import Api
from tests.factories import NOON, make_candles, make_feed


@pytest.fixture
def feed(db: None) -> Feed:
    """Five candles of a minute, closing at 2, 4, 6, 8 and 4, the last opened at noon."""
    feed = make_feed()
    make_candles(feed, [2.0, 4.0, 6.0, 8.0, 4.0], NOON)
    feed.refresh_from_db()
    return feed


def test_an_indicator_is_told_at_each_candle(alice: Api, feed: Feed) -> None:
    answer = alice.get("indicators", feed=feed.pk, name="sma", period=4)

    assert answer.json() == {
        "feed": feed.pk, "name": "sma", "parameters": {"period": 4}, "next": None,
        "results": [
            {"open_at": "2024-05-01T11:56:00Z", "sma": None},
            {"open_at": "2024-05-01T11:57:00Z", "sma": None},
            {"open_at": "2024-05-01T11:58:00Z", "sma": None},
            {"open_at": "2024-05-01T11:59:00Z", "sma": 5.0},
            {"open_at": "2024-05-01T12:00:00Z", "sma": 5.5},
        ],
    }  # fmt: skip


def test_candles_before_the_span_are_looked_at_for_it(alice: Api, feed: Feed) -> None:
    late = alice.get("indicators", feed=feed.pk, name="sma", period=4, limit=1).json()
    spanned = alice.get("indicators", feed=feed.pk, name="sma", period=4, **{"from": "2024-05-01T12:00Z"}).json()

    assert late["results"] == spanned["results"] == [{"open_at": "2024-05-01T12:00:00Z", "sma": 5.5}]
    assert "until=2024-05-01T12%3A00%3A00Z" in late["next"]


def test_an_indicator_of_several_lines_has_them_side_by_side_in_every_format(alice: Api, feed: Feed) -> None:
    query = {"feed": feed.pk, "name": "donchian", "period": 5}

    as_json = alice.get("indicators", **query).json()["results"]
    csv = alice.get("indicators", **query, format="csv").content.decode().splitlines()
    arrow = alice.get("indicators", **query, format="arrow").content
    table = pa.ipc.open_stream(arrow).read_all()

    assert as_json[-1] == {"open_at": "2024-05-01T12:00:00Z", "upper": 8.0, "middle": 5.0, "lower": 2.0}
    assert csv[0] == "ts,upper,middle,lower"
    assert csv[-2:] == ["1714564740000,,,", "1714564800000,8.0,5.0,2.0"]
    assert table.column("upper").to_pylist() == [None] * 4 + [8.0]


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ({}, "name: This field is required."),
        ({"name": "magic"}, 'name: "magic" is not a valid choice.'),
        ({"name": "sma", "period": 0}, "period: Input should be greater than or equal to 1"),
        ({"name": "sma", "period": "1e99"}, "period: Input should be a valid integer"),
        ({"name": "sma", "perod": 5}, "perod: Extra inputs are not permitted"),
        ({"name": "macd", "fast": 30}, "wanted fast below slow, was fast=30 and slow=26"),
        ({"name": "bollinger", "width": "nan"}, "width: Input should be less than or equal to 10"),
    ],
)
def test_what_an_indicator_does_not_take_is_refused(alice: Api, feed: Feed, query: dict[str, Any], detail: str) -> None:
    answer = alice.get("indicators", feed=feed.pk, **query)

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid")
    assert answer.json()["detail"].startswith(detail)


def test_a_new_candle_makes_what_one_has_out_of_date(alice: Api, feed: Feed) -> None:
    path = {"feed": feed.pk, "name": "ema", "period": 2}
    before = alice.get("indicators", **path)
    make_candles(feed, [5.0], NOON + timedelta(minutes=1))

    after = alice.get("indicators", **path)

    assert before.headers["ETag"] != after.headers["ETag"]
    assert len(after.json()["results"]) == 6
    assert after.json()["results"][:5] == before.json()["results"]


def test_the_catalogue_tells_every_indicator_with_its_bounds(alice: Api) -> None:
    rows = {row["name"]: row for row in alice.get("indicators/catalogue").json()}

    assert rows.keys() == CATALOGUE.keys()
    assert (rows["bollinger"]["columns"], rows["bollinger"]["outputs"]) == (["close"], ["upper", "middle", "lower"])
    period = rows["sma"]["parameters"]["properties"]["period"]
    assert (period["default"], period["minimum"], period["maximum"]) == (20, 1, 1000)


def test_every_indicator_of_the_catalogue_can_be_asked_for(alice: Api) -> None:
    feed = make_feed()
    make_candles(feed, (100 + np.sin(np.arange(800))).round(4).tolist(), NOON)

    for name, indicator in CATALOGUE.items():
        last = alice.get("indicators", feed=feed.pk, name=name, limit=1).json()["results"][0]
        assert last.keys() == {"open_at", *indicator.outputs}
        assert None not in last.values(), name
