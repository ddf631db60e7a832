"""Groups through the form and the buttons."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import User
from django.test import Client

from exchanges.models import Account
from sessions.models import SessionGroup, TradingSession
from tests.admin.conftest import errors_of, told, url_of, words_of
from tests.factories import make_account, make_config, make_exchange

PRESSED = {"_form_submitted": "True"}


def filled_in(config: Any, *accounts: Account, **changes: str) -> dict[str, Any]:
    return {
        "name": "trend", "config": config.pk, "accounts": [account.pk for account in accounts],
        "sizing_method": "FIXED_QUOTE", "sizing_amount": "250", **changes,
    }  # fmt: skip


def test_a_form_makes_a_session_for_each_account_and_a_button_starts_them(desk: Client, alice: User) -> None:
    config = make_config(alice)
    accounts = [make_account(alice, name=name) for name in ("a", "b")]

    made = desk.post(url_of(SessionGroup, "add"), filled_in(config, *accounts))
    group = SessionGroup.objects.get()
    response = desk.post(url_of(SessionGroup, "start", group.pk), PRESSED)

    assert made.status_code == 302
    assert told(response)[-1] == "trend: start: 2 of 2 done"
    assert list(group.sessions.values_list("status", flat=True)) == ["ACTIVE"] * 2
    page = words_of(desk.get(url_of(SessionGroup, "change", group.pk)))
    assert "2 ACTIVE" in page
    assert "trend-a" in page
    assert "FIXED_QUOTE 250 " in page


def test_who_refuses_is_named(desk: Client, alice: User) -> None:
    accounts = [make_account(alice, name=name) for name in ("a", "b")]
    desk.post(url_of(SessionGroup, "add"), filled_in(make_config(alice), *accounts))
    Account.objects.filter(name="a").update(status="PAUSED", status_reason="keys")

    response = desk.post(url_of(SessionGroup, "start", SessionGroup.objects.get().pk), PRESSED)

    refusal = "trend: start: 1 of 2 done; trend-a: wanted an active account, was PAUSED: keys"
    assert told(response)[-1] == refusal


def test_what_does_not_fit_is_said_at_its_field_and_nothing_is_made(desk: Client, alice: User, bob: User) -> None:
    config = make_config(alice)
    far = make_account(alice, name="far", exchange=make_exchange("other"))
    near, bobs = make_account(alice, name="near"), make_account(bob, name="bobs")

    elsewhere = desk.post(url_of(SessionGroup, "add"), filled_in(config, near, far))
    theirs = desk.post(url_of(SessionGroup, "add"), filled_in(config, bobs))
    nothing = desk.post(url_of(SessionGroup, "add"), filled_in(config, near, sizing_amount="0"))

    assert errors_of(elsewhere) == {"accounts": ["far: wanted a market of other, was BTC/USDT of simulator"]}
    assert list(errors_of(theirs)) == ["accounts"]
    assert list(errors_of(nothing)) == ["accounts"]
    assert (SessionGroup.objects.count(), TradingSession.objects.count()) == (0, 0)


def test_a_group_is_renamed_and_keeps_its_sessions(desk: Client, alice: User) -> None:
    desk.post(url_of(SessionGroup, "add"), filled_in(make_config(alice), make_account(alice)))
    group = SessionGroup.objects.get()

    desk.post(url_of(SessionGroup, "change", group.pk), {"name": "renamed"})

    group.refresh_from_db()
    assert (group.name, group.sessions.count()) == ("renamed", 1)
