"""The page of backfills: a form that asks for history, a bar that moves, and buttons for who asked."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from marketdata.backfills import backfill_request
from marketdata.models import Backfill, Feed
from tests.admin.conftest import errors_of, signed_in, told, url_of, words_of
from tests.api.test_backfills import DAY, hours_feed, made_by
from tests.factories import NOON


def filled_in(feed: Feed, **changes: str) -> dict[str, Any]:
    return {
        "feed": feed.pk, "from_at_0": "2024-04-01", "from_at_1": "00:00:00", "until_at_0": "2024-05-01",
        "until_at_1": "00:00:00", **changes,
    }  # fmt: skip


def test_the_form_asks_for_history_and_twice_for_the_same_is_once(desk: Client, alice: User) -> None:
    feed = hours_feed()

    page = desk.get(url_of(Backfill, "add"))
    answers = [desk.post(url_of(Backfill, "add"), filled_in(feed)) for _ in range(2)]

    one = Backfill.objects.get()
    assert "Times are UTC" in words_of(page)
    assert [answer.status_code for answer in answers] == [302, 302]
    assert (one.feed, one.requested_by, one.status) == (feed, alice, "QUEUED")
    assert (one.until_at - one.from_at).days == 30


def test_a_span_that_cannot_be_is_refused_at_its_field(desk: Client) -> None:
    response = desk.post(
        url_of(Backfill, "add"), filled_in(hours_feed(), from_at_1="00:30:00", until_at_0="2030-01-01")
    )

    assert errors_of(response) == {
        "from_at": ["wanted the open of a 1h candle, e.g. 2024-04-01 00:00, was 2024-04-01 00:30:00"],
        "until_at": ["wanted candles that have closed, until 2024-05-01 12:00, was 2030-01-01 00:00"],
    }
    assert not Backfill.objects.exists()


def test_the_page_shows_how_far_it_is(desk: Client) -> None:
    one = made_by(None)
    Backfill.objects.update(
        status="DONE",
        cursor_at=NOON - DAY / 4,
        rows_seen=18,
        rows_new=1700,
        started_at=NOON,
        ended_at=NOON + DAY / 86400,
    )

    page, live, listed = (desk.get(url) for url in (
        url_of(Backfill, "change", one.pk), url_of(Backfill, "sections", one.pk), url_of(Backfill, "changelist"),
    ))  # fmt: skip

    for answer in (page, live):
        assert "75 %" in words_of(answer)
        assert "1,700 new of 18 that came" in words_of(answer)
        assert "18 rows/s" in words_of(answer)
        assert "width: 75.0%" in answer.content.decode()
    assert 'hx-trigger="every 2s"' in page.content.decode()
    assert "width: 75.0%" in listed.content.decode()
    assert "alice" not in live.content.decode()


def press(client: Client, button: str, one: Backfill) -> Any:
    return client.post(url_of(Backfill, button, one.pk), {"_form_submitted": "True"})


def test_who_asked_cancels_and_goes_on(desk: Client, alice: User) -> None:
    one = made_by(alice)
    page = desk.get(url_of(Backfill, "change", one.pk)).content.decode()

    cancelled = press(desk, "cancel", one)
    one.refresh_from_db()
    after = one.status
    page_after = desk.get(url_of(Backfill, "change", one.pk)).content.decode()
    retried = press(desk, "retry", one)
    one.refresh_from_db()

    assert (after, one.status) == ("CANCELED", "QUEUED")
    assert ("stop_circle" in page, "play_circle" in page) == (True, False)
    assert ("stop_circle" in page_after, "play_circle" in page_after) == (False, True)
    assert told(cancelled)[0].endswith(": stopped")
    assert told(retried)[-1].endswith(": goes on")
    assert told(press(desk, "retry", one))[-1].endswith("wanted a backfill that failed or was cancelled, was QUEUED")


@pytest.mark.parametrize("button", ["cancel", "retry"])
def test_what_somebody_else_asked_for_is_theirs_to_command(desk: Client, bob: User, root: User, button: str) -> None:
    one = made_by(bob)
    page = desk.get(url_of(Backfill, "change", one.pk)).content.decode()

    press(desk, button, one)

    one.refresh_from_db()
    assert one.status == "QUEUED"
    assert "stop_circle" not in page
    press(signed_in(root), "cancel", one)
    one.refresh_from_db()
    assert one.status == "CANCELED"


def test_nothing_of_a_backfill_is_edited_or_deleted(root: User) -> None:
    one = backfill_request(hours_feed(), NOON - DAY, NOON, root)
    client = signed_in(root)

    client.post(url_of(Backfill, "change", one.pk), filled_in(one.feed, from_at_0="2024-01-01"))
    deleted = client.post(url_of(Backfill, "delete", one.pk), {"post": "yes"})

    one.refresh_from_db()
    assert (one.from_at, deleted.status_code) == (NOON - DAY, 403)
