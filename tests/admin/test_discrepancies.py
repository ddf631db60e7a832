"""Differences in the admin: what may be decided is offered, and a button decides."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from positions.models import Discrepancy
from tests.admin.conftest import told, url_of, words_of
from tests.factories import make_account, make_discrepancy, make_open_position, make_quote, make_session

PRESSED = {"_form_submitted": "True"}


def offered(desk: Client, row: Discrepancy) -> list[str]:
    page = desk.get(url_of(Discrepancy, "change", row.pk)).content.decode()
    return [name for name in ("adopt", "resize", "close", "ignore") if url_of(Discrepancy, name, row.pk) in page]


def test_what_may_be_decided_is_offered_while_the_difference_is_open(desk: Client, alice: User) -> None:
    position = make_open_position(make_session(make_account(alice)))
    manual, dust = make_discrepancy(position), make_discrepancy(position, kind="DUST", subject="x")
    done = make_discrepancy(position, kind="DUST", subject="y", status="RESOLVED", resolution="IGNORE")

    assert offered(desk, manual) == ["adopt", "resize", "close", "ignore"]
    assert offered(desk, dust) == ["ignore"]
    assert offered(desk, done) == []


def test_a_button_decides_and_says_so(desk: Client, alice: User) -> None:
    position = make_open_position(make_session(make_account(alice)))
    make_quote(position.market)
    row = make_discrepancy(position)

    response = desk.post(url_of(Discrepancy, "resize", row.pk), PRESSED)

    row.refresh_from_db()
    assert (row.status, row.resolution, row.resolved_by) == ("RESOLVED", "RESIZE", "alice")
    assert told(response) == [f"MANUAL_CLOSE position:{position.pk}: decided: RESIZE"]


@pytest.mark.parametrize("button", ["adopt", "resize", "close", "ignore"])
def test_somebody_elses_difference_is_not_decided_about(desk: Client, bob: User, button: str) -> None:
    row = make_discrepancy(make_open_position(make_session(make_account(bob))))

    desk.post(url_of(Discrepancy, button, row.pk), PRESSED)

    row.refresh_from_db()
    assert row.status == "OPEN"


def test_the_front_page_counts_ones_own_open_differences(desk: Client, alice: User, bob: User) -> None:
    make_discrepancy(make_open_position(make_session(make_account(alice))))
    make_discrepancy(make_open_position(make_session(make_account(bob))))

    assert "Discrepancies 1 with the venues" in words_of(desk.get(reverse("admin:index")))


def test_an_open_difference_looks_like_a_question_and_not_like_success(desk: Client, alice: User) -> None:
    position = make_open_position(make_session(make_account(alice)))
    row = make_discrepancy(position)

    page = desk.get(url_of(Discrepancy, "change", row.pk))

    words = words_of(page)
    assert "OPEN wants a decision" in words
    assert "Expected 0.02 BTC by our books" in words
    assert "Found 0.01 BTC at simulator" in words
    assert "LONG 0.02 (OPEN)" in words
    # The page itself has a button that is called Close and only leads back.
    assert "Close at market" in words
    assert "bg-orange" in page.content.decode()
