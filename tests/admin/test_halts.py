"""The red button and the badge: what a trader presses is what is halted, and only a word why lets it go on."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from domain.orders import DENIAL_TEXTS, Denial
from money.halts import halt_trip
from money.models import TradingHalt
from sessions.models import TradingSession
from tests.admin.conftest import errors_of, signed_in, told, url_of, words_of
from tests.factories import make_account, make_order, make_position, make_session


def filled_in(**changes: Any) -> dict[str, Any]:
    return {
        "scope": "ACCOUNT",
        "session": "",
        "account": "",
        "mode": "HALT",
        "cause": "news",
        "is_confirmed": "on",
        **changes,
    }


def test_the_button_halts_an_account(desk: Client, alice: User) -> None:
    account = make_account(alice)

    page = desk.get(url_of(TradingHalt, "add"))
    response = desk.post(url_of(TradingHalt, "add"), filled_in(account=account.pk, mode="FLATTEN"))

    halt = TradingHalt.objects.get()
    assert "It holds until somebody lifts it" in words_of(page)
    assert response.status_code == 302
    assert (halt.account, halt.session, halt.mode, halt.cause, halt.tripped_by) == (
        account,
        None,
        "FLATTEN",
        "news",
        "alice",
    )


def test_what_was_chosen_of_another_scope_is_not_halted(desk: Client, alice: User) -> None:
    session = make_session(make_account(alice))

    desk.post(url_of(TradingHalt, "add"), filled_in(scope="SESSION", account=session.account_id, session=session.pk))
    desk.post(url_of(TradingHalt, "add"), filled_in(scope="OWNER", account=session.account_id))

    first, second = TradingHalt.objects.order_by("pk")
    assert (first.session, first.account, first.owner) == (session, None, None)
    assert (second.session, second.account, second.owner) == (None, None, alice)


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"account": ""}, "account", "wanted the account to halt, was none"),
        ({"scope": "SESSION"}, "session", "wanted the session to halt, was none"),
        (
            {"scope": "PLATFORM"}, "scope",
            "Select a valid choice. PLATFORM is not one of the available choices.",
        ),
        ({"cause": " "}, "cause", "This field is required."),
        ({"is_confirmed": ""}, "is_confirmed", "This field is required."),
    ],
)  # fmt: skip
def test_a_press_that_says_too_little_is_refused_at_its_field(
    desk: Client, alice: User, changes: dict[str, str], field: str, message: str
) -> None:
    account = make_account(alice)

    response = desk.post(url_of(TradingHalt, "add"), filled_in(**{"account": account.pk, **changes}))

    assert errors_of(response) == {field: [message]}
    assert not TradingHalt.objects.exists()


def test_somebody_elses_account_is_neither_offered_nor_halted(desk: Client, bob: User) -> None:
    account = make_account(bob, name="of bob")

    response = desk.post(url_of(TradingHalt, "add"), filled_in(account=account.pk))

    assert list(errors_of(response)) == ["account"]
    assert not TradingHalt.objects.exists()


def test_a_superuser_halts_the_platform(root: User) -> None:
    signed_in(root).post(url_of(TradingHalt, "add"), filled_in(scope="PLATFORM", owner=""))

    assert TradingHalt.objects.get().scope == "PLATFORM"


def lift(client: Client, halt: TradingHalt, note: str) -> Any:
    return client.post(url_of(TradingHalt, "lift", halt.pk), {"_form_submitted": "True", "note": note})


def test_a_halt_is_lifted_with_a_word(desk: Client, alice: User) -> None:
    halt = halt_trip("HALT", "news", account_id=make_account(alice).pk, actor="alice")

    asked = lift(desk, halt, "")
    halt.refresh_from_db()
    assert (asked.status_code, halt.lifted_at) == (200, None)

    response = lift(desk, halt, "over")

    halt.refresh_from_db()
    assert (halt.lifted_by, halt.lift_note) == ("alice", "over")
    assert told(response)[0].endswith(": lifted")
    assert "lock_open" not in desk.get(url_of(TradingHalt, "change", halt.pk)).content.decode()


def test_what_the_platform_decided_is_not_the_traders_to_lift(desk: Client, alice: User) -> None:
    make_account(alice)
    halt = halt_trip("HALT", "maintenance", actor="root")

    response = lift(desk, halt, "please")

    halt.refresh_from_db()
    assert halt.lifted_at is None
    assert told(response)[0].endswith("wanted a superuser to lift what the platform decided, was an ordinary trader")


def test_a_halted_session_wears_a_badge_and_the_front_page_counts(desk: Client, alice: User) -> None:
    session = make_session(make_account(alice), name="mine")
    plain = words_of(desk.get(url_of(TradingSession, "change", session.pk)))
    halt_trip("REDUCE_ONLY", "bad news", account_id=session.account_id, actor="alice")

    page = words_of(desk.get(url_of(TradingSession, "change", session.pk)))
    listed = words_of(desk.get(url_of(TradingSession, "changelist")))
    front = words_of(desk.get(reverse("admin:index")))

    assert "REDUCE_ONLY" not in plain
    assert "Halted REDUCE_ONLY bad news" in page
    assert "REDUCE_ONLY" in listed
    assert "Halts in force 1 until somebody lifts them" in front


def test_only_what_is_to_be_halted_is_asked_for(desk: Client, alice: User) -> None:
    page = desk.get(url_of(TradingHalt, "add")).content.decode()

    for name in ("session", "account"):
        assert f"scope === &#x27;{name.upper()}&#x27;" in page, name


def test_a_cancelled_entry_says_once_that_it_was_halted(desk: Client, alice: User) -> None:
    order = make_order(make_position(make_session(make_account(alice))), status="READY")

    halt_trip("HALT", "news", account_id=order.account_id, actor="alice")

    page = words_of(desk.get(url_of(TradingSession, "change", TradingSession.objects.get().pk)))
    assert page.count(DENIAL_TEXTS[Denial.HALTED]) == 1
