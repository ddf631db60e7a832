"""Backfills and gaps at the API: every trader asks and looks, who asked commands, and bad input is told in words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User

from domain.candles import Timeframe
from marketdata.backfills import backfill_cancel, backfill_request
from marketdata.models import Backfill, CandleGap, Feed
from tests.api.conftest import Api
from tests.conftest import Bells
from tests.factories import NOON, make_exchange, make_feed, make_market

DAY = timedelta(days=1)


def hours_feed(symbol: str = "BTC/USDT") -> Feed:
    return make_feed(
        make_market(make_exchange(clock_speed=0.0, clock_anchor_at=NOON, clock_venue_at=NOON), symbol), Timeframe.H1
    )


def wish(feed: Feed, **changes: Any) -> dict[str, Any]:
    return {"feed": feed.pk, "from_at": "2024-04-01T00:00:00Z", "until_at": "2024-05-01T00:00:00Z", **changes}


def made_by(user: User | None, feed: Feed | None = None) -> Backfill:
    return backfill_request(feed or hours_feed(), NOON - DAY, NOON, user)


@pytest.mark.django_db(transaction=True)
def test_a_trader_asks_for_history_and_asking_again_is_the_same(alice: Api, bob: Api, bells: Bells) -> None:
    feed = hours_feed()

    first, again = alice.post("backfills", wish(feed)), bob.post("backfills", wish(feed))

    row = first.json()
    assert (first.status_code, again.status_code, again.json()["id"]) == (201, 201, row["id"])
    assert {name: row[name] for name in ("feed", "exchange_name", "symbol", "timeframe", "status", "is_mine")} == {
        "feed": feed.pk, "exchange_name": "simulator", "symbol": "BTC/USDT", "timeframe": "1h", "status": "QUEUED",
        "is_mine": True,
    }  # fmt: skip
    assert (row["from_at"], row["cursor_at"], row["until_at"]) == (
        "2024-04-01T00:00:00Z", "2024-04-01T00:00:00Z", "2024-05-01T00:00:00Z",
    )  # fmt: skip
    assert row["progress"] == {
        "percent": 0.0, "rows_seen": 0, "rows_new": 0, "rows_per_second": None, "seconds_left": None,
    }  # fmt: skip
    assert again.json()["is_mine"] is False
    assert bells.rung("marketdata.backfill") == [{"backfill_ids": [row["id"]]}]


def test_without_an_end_it_is_all_that_has_closed(alice: Api) -> None:
    body = wish(hours_feed())
    del body["until_at"]

    assert alice.post("backfills", body).json()["until_at"] == "2024-05-01T12:00:00Z"


def test_progress_is_told_in_figures(alice: Api) -> None:
    one = made_by(None)
    Backfill.objects.update(
        status="FAILED", cursor_at=NOON - DAY / 2, rows_seen=12, rows_new=11, started_at=NOON,
        ended_at=NOON + timedelta(seconds=7), last_error="gone",
    )  # fmt: skip

    row = alice.get(f"backfills/{one.pk}").json()

    assert row["progress"] == {
        "percent": 50.0, "rows_seen": 12, "rows_new": 11, "rows_per_second": 1.7, "seconds_left": None,
    }  # fmt: skip
    assert (row["status"], row["last_error"], row["is_mine"]) == ("FAILED", "gone", False)


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"feed": 999}, "feed", 'Invalid pk "999" - object does not exist.'),
        ({"from_at": None}, "from_at", "This field may not be null."),
        ({"from_at": "yesterday"}, "from_at", "Datetime has wrong format"),
        (
            {"from_at": "2024-04-01T00:30:00Z"}, "from_at",
            "wanted the open of a 1h candle, e.g. 2024-04-01 00:00, was 2024-04-01 00:30:00",
        ),
        ({"from_at": "0001-01-01T00:00:00Z"}, "from_at", "wanted 2009-01-01 or later, was 0001-01-01 00:00"),
        (
            {"until_at": "9999-12-31T23:59:59Z"}, "until_at",
            "wanted candles that have closed, until 2024-05-01 12:00, was 9999-12-31 23:59",
        ),
        ({"from_at": "2024-05-01T12:00:00Z"}, "from_at", "wanted a candle that has closed, before 2024-05-01 12:00, was "),
        ({"until_at": "2024-03-01T00:00:00Z"}, "until_at", "wanted a time after 2024-04-01 00:00, was 2024-03-01 00:00"),
    ],
)  # fmt: skip
def test_what_cannot_be_fetched_is_refused_at_its_field(
    alice: Api, changes: dict[str, Any], field: str, message: str
) -> None:
    answer = alice.post("backfills", {**wish(hours_feed()), **changes})

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid")
    assert answer.json()["fields"][field][0].startswith(message)
    assert not Backfill.objects.exists()


def test_who_asked_cancels_and_goes_on(alice: Api) -> None:
    one = made_by(alice.user)

    cancelled = [alice.post(f"backfills/{one.pk}/cancel").json()["status"] for _ in range(2)]
    retried, again = alice.post(f"backfills/{one.pk}/retry"), alice.post(f"backfills/{one.pk}/retry")

    assert cancelled == ["CANCELED", "CANCELED"]
    assert (retried.status_code, retried.json()["status"]) == (200, "QUEUED")
    assert (again.status_code, again.json()["code"]) == (409, "unable_to_backfill")
    assert again.json()["detail"] == "wanted a backfill that failed or was cancelled, was QUEUED"


def test_another_traders_backfill_is_seen_and_not_touched_unless_by_a_superuser(
    alice: Api, bob: Api, root: Api
) -> None:
    one = made_by(bob.user)
    backfill_cancel(one.pk)

    answers = [alice.post(f"backfills/{one.pk}/{verb}") for verb in ("cancel", "retry")]

    assert alice.ids("backfills") == [one.pk]
    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(403, "permission_denied")] * 2
    assert root.post(f"backfills/{one.pk}/retry").json()["status"] == "QUEUED"


def test_what_nobody_asked_for_is_a_superusers_to_cancel(alice: Api, root: Api) -> None:
    one = made_by(None)

    assert alice.post(f"backfills/{one.pk}/cancel").status_code == 403
    assert root.post(f"backfills/{one.pk}/cancel").json()["status"] == "CANCELED"


def test_backfills_are_narrowed(alice: Api) -> None:
    first, second = made_by(None), made_by(None, hours_feed("ETH/USDT"))
    backfill_cancel(first.pk)

    assert alice.ids("backfills") == [second.pk, first.pk]
    assert alice.ids("backfills", status="CANCELED") == [first.pk]
    assert alice.ids("backfills", status=["CANCELED", "QUEUED"]) == [second.pk, first.pk]
    assert alice.ids("backfills", symbol="ETH/USDT", exchange="simulator", timeframe="1h") == [second.pk]
    assert alice.ids("backfills", feed=first.feed_id) == [first.pk]


def gap_of(feed: Feed, from_at: datetime, **fields: Any) -> CandleGap:
    return CandleGap.objects.create(
        feed=feed, from_at=from_at, until_at=from_at + DAY, missing=24, found_at=NOON, **fields
    )


def test_gaps_are_listed_and_narrowed(alice: Api) -> None:
    feed = hours_feed()
    old = gap_of(feed, datetime(2024, 1, 1, tzinfo=UTC), status="FILLED")
    new = gap_of(feed, datetime(2024, 4, 1, tzinfo=UTC))

    row = alice.get(f"gaps/{new.pk}").json()

    assert alice.ids("gaps") == [new.pk, old.pk]
    assert alice.ids("gaps", status="OPEN", feed=feed.pk) == [new.pk]
    assert alice.ids("gaps", since="2024-01-02T00:00:00Z") == [new.pk]
    assert alice.ids("gaps", until="2024-04-01T00:00:00Z") == [old.pk]
    assert (row["symbol"], row["missing"], row["status"], row["attempts"]) == ("BTC/USDT", 24, "OPEN", 0)
    assert alice.call("patch", f"gaps/{new.pk}", {"status": "FILLED"}).status_code == 405


@pytest.mark.django_db(transaction=True)
def test_a_gap_is_asked_for_again_by_hand(alice: Api, bells: Bells) -> None:
    feed = hours_feed()
    gap = gap_of(feed, datetime(2024, 4, 1, tzinfo=UTC), status="CONFIRMED", attempts=5, ended_at=NOON)
    filled = gap_of(feed, datetime(2024, 1, 1, tzinfo=UTC), status="FILLED")

    answer, refused = alice.post(f"gaps/{gap.pk}/repair"), alice.post(f"gaps/{filled.pk}/repair")

    assert (answer.status_code, answer.json()["status"], answer.json()["attempts"]) == (200, "OPEN", 0)
    assert bells.rung("marketdata.repair") == [{"gap_ids": [gap.pk]}]
    assert (refused.status_code, refused.json()["code"]) == (409, "unable_to_repair")
