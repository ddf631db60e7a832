"""Feeds at the API: what they are collected from, what is wrong with them, and how one comes into being."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from domain.candles import Timeframe
from domain.quality import Flaw
from marketdata.models import CandleGap, CandleRevision, Feed, FeedSource, GapStatus, QuarantinedCandle, SourceKind
from tests.api.conftest import Api
from tests.factories import NOON, make_candles, make_feed, make_market

MINUTE = timedelta(minutes=1)


def doubted(feed: Feed) -> None:
    """Two sources, three gaps of which one is filled, a row in quarantine and one released, a revision."""
    FeedSource.objects.create(feed=feed, rank=1, kind=SourceKind.FILE, symbol="spare.csv")
    first = FeedSource.objects.create(
        feed=feed,
        rank=0,
        kind=SourceKind.EXCHANGE,
        failures=3,
        last_error="away",
        failed_at=NOON,
        retry_at=NOON + MINUTE,
    )
    Feed.objects.filter(pk=feed.pk).update(source=first, stale_since=NOON)
    for number, status in enumerate((GapStatus.OPEN, GapStatus.OPEN, GapStatus.FILLED)):
        at = NOON - (number * 3 + 9) * MINUTE
        CandleGap.objects.create(feed=feed, from_at=at, until_at=at + MINUTE, missing=1, status=status, found_at=NOON)
    for number, released_at in enumerate((None, NOON)):
        QuarantinedCandle.objects.create(
            feed=feed, open_at=NOON - number * MINUTE, flaw=Flaw.JUMP, detail="wanted 50000, was 5", row={"close": "5"},
            source=SourceKind.YAHOO, seen_at=NOON, last_seen_at=NOON, released_at=released_at,
        )  # fmt: skip
    prices = dict.fromkeys(("open", "high", "low", "close", "volume"), Decimal("1.50"))
    CandleRevision.objects.create(
        feed=feed, open_at=NOON, seen_at=NOON, was_source=SourceKind.EXCHANGE, source=SourceKind.FILE, **prices,
        **{f"was_{name}": Decimal(1) for name in prices},
    )  # fmt: skip


def test_a_feed_tells_its_sources_and_what_is_doubted(alice: Api) -> None:
    feed = make_feed()
    make_candles(feed, [1.0, 2.0, 3.0], NOON)
    doubted(feed)

    answer = alice.get(f"feeds/{feed.pk}").json()

    first, second = answer.pop("sources")
    assert answer == {
        "id": feed.pk, "exchange_name": "simulator", "market": feed.market_id, "symbol": "BTC/USDT", "timeframe": "1m",
        "calendar": "24/7", "is_needed": False, "next_due_at": None, "last_open_at": "2024-05-01T12:00:00Z", "misses": 0,
        "last_error": "", "stale_since": "2024-05-01T12:00:00Z", "source": first["id"], "gaps_open": 2, "quarantined": 1,
        "revised": 1, "changes": 0, "first_open_at": "2024-05-01T11:58:00Z",
    }  # fmt: skip
    assert first == {
        "id": first["id"], "rank": 0, "kind": "EXCHANGE", "symbol": "", "failures": 3, "last_error": "away",
        "failed_at": "2024-05-01T12:00:00Z", "retry_at": "2024-05-01T12:01:00Z",
    }  # fmt: skip
    assert (second["kind"], second["symbol"], second["failed_at"]) == ("FILE", "spare.csv", None)


def test_a_list_of_feeds_counts_each_ones_own(alice: Api) -> None:
    feed, other = make_feed(), make_feed(timeframe=Timeframe.H1)
    doubted(feed)

    rows = {row["id"]: row for row in alice.get("feeds").json()["results"]}

    assert [rows[feed.pk][name] for name in ("gaps_open", "quarantined", "revised")] == [2, 1, 1]
    assert [rows[other.pk][name] for name in ("gaps_open", "quarantined", "revised")] == [0, 0, 0]
    assert alice.ids("feeds", is_stale="true") == [feed.pk]
    assert alice.ids("feeds", is_stale="false", calendar="24/7") == [other.pk]


def test_revisions_are_listed_with_both_values(alice: Api) -> None:
    feed = make_feed()
    doubted(feed)
    doubted(make_feed(timeframe=Timeframe.H1))

    [row] = alice.get(f"feeds/{feed.pk}/revisions").json()["results"]

    assert (row["was_close"], row["close"], row["was_source"], row["source"]) == ("1", "1.5", "EXCHANGE", "FILE")


def test_rows_in_quarantine_are_listed_as_they_came(alice: Api) -> None:
    feed = make_feed()
    doubted(feed)

    rows = alice.get(f"feeds/{feed.pk}/quarantine").json()["results"]

    assert [(row["flaw"], row["row"], row["source"], row["released_at"]) for row in rows] == [
        ("JUMP", {"close": "5"}, "YAHOO", "2024-05-01T12:00:00Z"),
        ("JUMP", {"close": "5"}, "YAHOO", None),
    ]


def test_a_superuser_lists_where_the_candles_come_from(root: Api, alice: Api) -> None:
    feed = make_feed(timeframe=Timeframe.H1)
    wanted = [{"kind": "YAHOO", "symbol": "BTC-USD"}, {"kind": "EXCHANGE"}]

    refused = alice.call("put", f"feeds/{feed.pk}/sources", {"sources": wanted})
    answer = root.call("put", f"feeds/{feed.pk}/sources", {"sources": wanted})
    none = root.call("put", f"feeds/{feed.pk}/sources", {"sources": []})

    assert (refused.status_code, refused.json()["detail"]) == (403, "wanted a superuser, was an ordinary trader")
    assert [(one["kind"], one["symbol"]) for one in answer.json()["sources"]] == [
        ("YAHOO", "BTC-USD"),
        ("EXCHANGE", ""),
    ]
    assert (none.status_code, none.json()["sources"]) == (200, [])


@pytest.mark.parametrize(
    ("sources", "detail"),
    [
        ([{"kind": "MAGIC"}], 'sources: 0: kind: "MAGIC" is not a valid choice.'),
        ([{"symbol": "X"}], "sources: 0: kind: This field is required."),
        ("YAHOO", 'sources: Expected a list of items but got type "str".'),
        ([{"kind": "YAHOO", "symbol": "X"}] * 2, "wanted each source once, was Yahoo Finance X twice"),
    ],
)
def test_sources_that_are_none_are_refused(root: Api, sources: Any, detail: str) -> None:
    feed = make_feed(timeframe=Timeframe.H1)
    doubted(feed)

    answer = root.call("put", f"feeds/{feed.pk}/sources", {"sources": sources})

    assert (answer.status_code, answer.json()["detail"]) == (400, detail)
    assert feed.sources.count() == 2


@pytest.mark.parametrize("path", ["revisions", "quarantine"])
def test_doubts_about_no_feed_are_a_404(alice: Api, path: str) -> None:
    assert alice.get(f"feeds/99999999/{path}").status_code == 404


def test_a_trader_makes_a_feed_and_making_it_again_changes_nothing(alice: Api, bob: Api) -> None:
    market = make_market()

    made = alice.post("feeds", {"exchange": "simulator", "symbol": "BTC/USDT", "timeframe": "4h"})
    again = bob.post("feeds", {"market": market.pk, "timeframe": "4h"})

    assert (made.status_code, again.status_code) == (201, 200)
    assert made.json() == again.json()
    assert (made.json()["symbol"], made.json()["timeframe"], made.json()["is_needed"]) == ("BTC/USDT", "4h", False)
    assert Feed.objects.count() == 1


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"timeframe": "1h"}, "market: wanted a market's id, or exchange and symbol, was neither"),
        ({"exchange": "simulator", "symbol": "BTC/USDT"}, "timeframe: This field is required."),
        ({"exchange": "simulator", "symbol": "BTC/USDT", "timeframe": "7m"}, 'timeframe: "7m" is not a valid choice.'),
        (
            {"exchange": "simulator", "symbol": "ETH/USDT", "timeframe": "1h"},
            "market: wanted a market that is traded, was ETH/USDT at simulator, which is not",
        ),
    ],
)
def test_a_feed_of_nothing_is_refused(alice: Api, body: dict[str, Any], detail: str) -> None:
    make_market()
    make_market(symbol="ETH/USDT", is_active=False)

    answer = alice.post("feeds", body)

    assert (answer.status_code, answer.json()["detail"]) == (400, detail)
    assert not Feed.objects.exists()


def test_the_quality_of_a_feed_is_looked_through_when_asked_for(alice: Api) -> None:
    feed = make_feed()
    make_candles(feed, [1.0, 2.0], NOON - 3 * MINUTE)
    make_candles(feed, [3.0], NOON)
    doubted(feed)

    answer = alice.get(f"feeds/{feed.pk}/quality").json()

    assert answer == {
        "feed": feed.pk, "rows": 3, "first_at": "2024-05-01T11:56:00Z", "last_at": "2024-05-01T12:00:00Z",
        "is_clean": False, "missing": 2, "gap_count": 1, "confirmed": 0,
        "gaps": [{"from_at": "2024-05-01T11:58:00Z", "until_at": "2024-05-01T12:00:00Z", "missing": 2}], "flaws": {},
        "findings": [], "zero_volume": 0, "revisions": 1, "quarantined": 1,
    }  # fmt: skip


def test_a_feed_without_candles_has_no_quality_to_speak_of(alice: Api) -> None:
    feed = make_feed()

    answer = alice.get(f"feeds/{feed.pk}/quality").json()

    assert (answer["rows"], answer["first_at"], answer["is_clean"], answer["gaps"]) == (0, None, True, [])
    assert alice.get("feeds/99999999/quality").status_code == 404
