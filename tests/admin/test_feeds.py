"""A feed's page: where its candles come from and what is doubted about them, and who may change the first."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.test import Client

from domain.candles import Timeframe
from domain.quality import Flaw
from marketdata.admin import chart
from marketdata.models import (
    Candle,
    CandleGap,
    CandleRevision,
    Feed,
    FeedSource,
    GapStatus,
    QuarantinedCandle,
    SourceKind,
)
from tests.admin.conftest import make_trader, signed_in, url_of, words_of
from tests.factories import NOON, make_candles, make_exchange, make_feed, make_market

HOUR = timedelta(hours=1)


@pytest.fixture
def feed(db: None) -> Feed:
    """An hourly feed with three candles, two sources of which the first fails, a gap, a row in quarantine, a revision."""
    feed = make_feed(timeframe=Timeframe.H1, is_needed=True)
    make_candles(feed, [100.0, 102.0, 101.0], NOON)
    FeedSource.objects.create(
        feed=feed, rank=1, kind=SourceKind.EXCHANGE, failures=3, last_error="away", failed_at=NOON
    )
    second = FeedSource.objects.create(feed=feed, rank=2, kind=SourceKind.YAHOO, symbol="BTC-USD")
    Feed.objects.filter(pk=feed.pk).update(source=second)
    CandleGap.objects.create(
        feed=feed,
        from_at=NOON - 9 * HOUR,
        until_at=NOON - 5 * HOUR,
        missing=4,
        found_at=NOON,
        last_error="nobody has it",
    )
    QuarantinedCandle.objects.create(
        feed=feed, open_at=NOON, flaw=Flaw.JUMP, detail="wanted some 100, was 1000", row={"close": "1000"},
        source=SourceKind.YAHOO, seen_at=NOON, last_seen_at=NOON,
    )  # fmt: skip
    prices = dict.fromkeys(("open", "high", "low", "close", "volume"), Decimal("101.5"))
    CandleRevision.objects.create(
        feed=feed, open_at=NOON, seen_at=NOON, was_source=SourceKind.EXCHANGE, source=SourceKind.YAHOO, **prices,
        **{f"was_{name}": Decimal(101) for name in prices},
    )  # fmt: skip
    feed.refresh_from_db()
    return feed


def filled(feed: Feed, *rows: tuple[int, int, str], **values: Any) -> dict[str, Any]:
    """The feed's form with these sources as (rank, kind, symbol): those there are first, then new ones."""
    existing = list(feed.sources.order_by("rank"))
    form: dict[str, Any] = {
        "calendar": feed.calendar, "sources-TOTAL_FORMS": len(rows), "sources-INITIAL_FORMS": len(existing),
        "sources-MIN_NUM_FORMS": 0, "sources-MAX_NUM_FORMS": 1000, "_save": "Save",
    }  # fmt: skip
    for number, (rank, kind, symbol) in enumerate(rows):
        form |= {
            f"sources-{number}-rank": rank, f"sources-{number}-kind": kind, f"sources-{number}-symbol": symbol,
            f"sources-{number}-feed": feed.pk,
            f"sources-{number}-id": existing[number].pk if number < len(existing) else "",
        }  # fmt: skip
    return form | values


def sources(feed: Feed) -> list[tuple[int, str]]:
    return list(feed.sources.order_by("rank").values_list("kind", "symbol"))


def test_the_page_tells_where_candles_come_from_and_what_is_doubted(desk: Client, feed: Feed) -> None:
    page = desk.get(url_of(Feed, "change", feed.pk))

    words = words_of(page)
    for told in (
        "Source Yahoo Finance BTC-USD since 2024-05-01 10:00:00", "Open gaps 1", "In quarantine 1", "Revisions 1",
        "1 Exchange FAILS 3 2024-05-01 12:00:00 - away", "2 Yahoo Finance BTC-USD SERVES",
        "2024-05-01 03:00:00 2024-05-01 07:00:00 4 OPEN - nobody has it", "Last close 101",
    ):  # fmt: skip
        assert told in words


def test_a_feed_without_sources_or_candles_says_so(desk: Client) -> None:
    words = words_of(desk.get(url_of(Feed, "change", make_feed().pk)))

    assert "Source simulator no candle yet" in words
    assert "Last close" not in words


def test_a_feed_of_an_exchange_of_which_there_is_only_data_has_what_was_read_in(desk: Client) -> None:
    feed = make_feed(make_market(make_exchange("nyse", ccxt_id=""), "SPY/USD"), Timeframe.D1)
    assert "Source files read in no candle yet" in words_of(desk.get(url_of(Feed, "change", feed.pk)))

    FeedSource.objects.create(feed=feed, rank=1, kind=SourceKind.YAHOO, symbol="SPY")
    assert "Source Yahoo Finance SPY no candle yet" in words_of(desk.get(url_of(Feed, "change", feed.pk)))


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (CandleGap, "2024-05-01 03:00"),
        (QuarantinedCandle, "wanted some 100, was 1000"),
        (CandleRevision, "101.5"),
    ],
)
def test_what_is_doubted_is_listed_and_shown_and_cannot_be_edited(
    desk: Client, root: User, feed: Feed, model: type[Any], told: str
) -> None:
    row = model.objects.get()
    other = make_feed()

    assert told in words_of(desk.get(url_of(model, "changelist")))
    assert told in words_of(desk.get(url_of(model, "changelist"), {"feed": feed.pk}))
    assert told not in words_of(desk.get(url_of(model, "changelist"), {"feed": other.pk}))
    assert desk.get(url_of(model, "change", row.pk)).status_code == 200
    for action, arguments in (("add", ()), ("change", (row.pk,)), ("delete", (row.pk,))):
        assert signed_in(root).post(url_of(model, action, *arguments), {"post": "yes"}).status_code == 403


def test_sources_are_changed_as_a_list_and_who_did_it_is_on_record(root: User, feed: Feed) -> None:
    rows = (2, SourceKind.EXCHANGE, ""), (1, SourceKind.YAHOO, "BTC-USD"), (9, SourceKind.RESAMPLED, "1m")

    response = signed_in(root).post(url_of(Feed, "change", feed.pk), filled(feed, *rows, calendar="FX"))

    feed.refresh_from_db()
    assert response.status_code == 302
    assert sources(feed) == [(SourceKind.YAHOO, "BTC-USD"), (SourceKind.EXCHANGE, ""), (SourceKind.RESAMPLED, "1m")]
    assert (feed.calendar, feed.source) == ("FX", None)  # the first is asked anew
    entry = LogEntry.objects.get()
    assert entry.user == root
    assert "Calendar" in entry.get_change_message()
    assert "Shorter candles 1m" in entry.get_change_message()


def test_sources_that_stay_as_they_were_keep_their_state(root: User, feed: Feed) -> None:
    before = list(feed.sources.order_by("rank").values())

    signed_in(root).post(
        url_of(Feed, "change", feed.pk), filled(feed, (1, SourceKind.EXCHANGE, ""), (2, SourceKind.YAHOO, "BTC-USD"))
    )

    assert list(feed.sources.order_by("rank").values()) == before


def test_a_source_is_taken_off_the_list(root: User, feed: Feed) -> None:
    rows = (1, SourceKind.EXCHANGE, ""), (2, SourceKind.YAHOO, "BTC-USD")

    signed_in(root).post(url_of(Feed, "change", feed.pk), {**filled(feed, *rows), "sources-0-DELETE": "on"})

    assert sources(feed) == [(SourceKind.YAHOO, "BTC-USD")]


def test_the_same_source_twice_is_refused_in_the_form_and_nothing_is_changed(root: User, feed: Feed) -> None:
    rows = (1, SourceKind.EXCHANGE, ""), (2, SourceKind.YAHOO, "BTC-USD"), (3, SourceKind.YAHOO, "BTC-USD")
    before = sources(feed)

    page = signed_in(root).post(url_of(Feed, "change", feed.pk), filled(feed, *rows, calendar="FX"))

    feed.refresh_from_db()
    assert page.status_code == 200
    assert "wanted each source once, was Yahoo Finance BTC-USD twice" in words_of(page)
    assert sources(feed) == before
    assert feed.calendar == "24/7"


def test_sources_are_not_changed_where_something_else_is_refused(root: User, feed: Feed) -> None:
    before = sources(feed)

    page = signed_in(root).post(
        url_of(Feed, "change", feed.pk), filled(feed, (1, SourceKind.YAHOO, "ETH-USD"), calendar="MARS")
    )

    assert page.status_code == 200
    assert sources(feed) == before


def test_a_trader_reads_the_sources_and_cannot_change_them(desk: Client, feed: Feed) -> None:
    before = sources(feed)

    page = desk.get(url_of(Feed, "change", feed.pk))
    answer = desk.post(url_of(Feed, "change", feed.pk), filled(feed, (1, SourceKind.YAHOO, "X"), calendar="FX"))

    assert "sources-TOTAL_FORMS" not in page.content.decode()
    assert answer.status_code == 403
    assert sources(feed) == before


def test_a_member_of_staff_with_the_permission_changes_them(feed: Feed) -> None:
    carol = make_trader("carol")
    carol.user_permissions.add(
        *Permission.objects.filter(
            content_type__app_label="marketdata", codename__in=[
                "change_feed", "view_feedsource", "add_feedsource", "change_feedsource", "delete_feedsource",
            ],
        )
    )  # fmt: skip
    rows = (1, SourceKind.EXCHANGE, ""), (2, SourceKind.YAHOO, "ETH-USD")

    signed_in(carol).post(url_of(Feed, "change", feed.pk), filled(feed, *rows))

    assert sources(feed) == [(SourceKind.EXCHANGE, ""), (SourceKind.YAHOO, "ETH-USD")]


@pytest.mark.parametrize("action", ["add", "delete"])
def test_feeds_are_not_added_or_deleted_by_hand(root: User, feed: Feed, action: str) -> None:
    arguments = () if action == "add" else (feed.pk,)

    answer = signed_in(root).post(url_of(Feed, action, *arguments), {"post": "yes"})

    assert answer.status_code == 403
    assert Feed.objects.count() == 1


def test_candles_are_drawn_from_the_lowest_to_the_highest(db: None) -> None:
    risen = Candle(open_at=NOON, open=10, high=20, low=10, close=15)
    fallen = Candle(open_at=NOON + HOUR, open=15, high=15, low=0, close=5)

    drawn = chart([risen, fallen])

    # Two halves of 500 by 80: 20 is at the top, 0 at the bottom.
    assert re.findall(r' d="([^"]*)"', drawn) == [
        "M125.0 0.0V40.0M50.0 40.0h150.0V20.0h-150.0z", "M375.0 20.0V80.0M300.0 20.0h150.0V60.0h-150.0z",
    ]  # fmt: skip
    assert "Candles from 2024-05-01 12:00:00 to 2024-05-01 13:00:00" in drawn
    assert chart([risen]) == ""


def test_a_market_that_stands_still_is_a_line_in_the_middle(db: None) -> None:
    still = Candle(open_at=NOON, open=5, high=5, low=5, close=5)

    assert set(re.findall(r"V([\d.]+)", chart([still, still]))) == {"40.0"}


def test_gaps_that_are_filled_are_not_among_the_open_ones(desk: Client, feed: Feed) -> None:
    CandleGap.objects.update(status=GapStatus.FILLED)

    assert "Open gaps 0" in words_of(desk.get(url_of(Feed, "change", feed.pk)))
