"""Halts at the API: who may trip and lift what, and how a session shows the one that holds it."""

from __future__ import annotations

from typing import Any

import pytest

from money.halts import halt_trip
from money.models import TradingHalt
from tests.api.conftest import Api
from tests.factories import make_account, make_session


def test_a_trader_halts_an_account_and_lifts_it_with_a_word(alice: Api) -> None:
    account = make_account()

    tripped = alice.post("halts", {"scope": "ACCOUNT", "id": account.pk, "mode": "REDUCE_ONLY", "cause": "news"})
    again = alice.post("halts", {"scope": "ACCOUNT", "id": account.pk, "mode": "REDUCE_ONLY", "cause": "news"})
    lifted = alice.post(f"halts/{tripped.json()['id']}/lift", {"note": "over"})

    row = tripped.json()
    assert (tripped.status_code, again.status_code, again.json()["id"], lifted.status_code) == (
        201,
        201,
        row["id"],
        200,
    )
    assert {name: row[name] for name in ("scope", "account", "session", "owner", "mode", "is_in_force", "cause")} == {
        "scope": "ACCOUNT", "account": account.pk, "session": None, "owner": None, "mode": "REDUCE_ONLY",
        "is_in_force": True, "cause": "news",
    }  # fmt: skip
    assert (row["tripped_by"], row["rule"]) == ("alice", "")
    row = lifted.json()
    assert (row["is_in_force"], row["lifted_by"], row["lift_note"]) == (False, "alice", "over")


def test_lifting_again_answers_with_what_was_done(alice: Api) -> None:
    halt = halt_trip("HALT", "news", account_id=make_account().pk, actor="alice")

    answers = [alice.post(f"halts/{halt.pk}/lift", {"note": note}) for note in ("over", "really over")]

    assert [(answer.status_code, answer.json()["lift_note"]) for answer in answers] == [(200, "over"), (200, "over")]


def test_a_session_and_all_of_ones_own_can_be_halted(alice: Api) -> None:
    session = make_session()

    one = alice.post("halts", {"scope": "SESSION", "id": session.pk, "cause": "news"}).json()
    own = alice.post("halts", {"scope": "OWNER", "cause": "holidays"}).json()

    assert (one["session"], one["mode"]) == (session.pk, "HALT")
    assert own["owner"] == alice.user_id


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"scope": "GALAXY"}, "scope", '"GALAXY" is not a valid choice.'),
        ({"id": None}, "id", "wanted the id of the account, was none"),
        ({"id": 0}, "id", "Ensure this value is greater than or equal to 1."),
        ({"id": 10**30}, "id", f"Ensure this value is less than or equal to {2**63 - 1}."),
        ({"id": 99999999}, "id", "wanted the id of one of your accounts, was 99999999"),
        ({"mode": "PANIC"}, "mode", '"PANIC" is not a valid choice.'),
        ({"cause": ""}, "cause", "This field may not be blank."),
        ({"cause": "x" * 201}, "cause", "Ensure this field has no more than 200 characters."),
    ],
)
def test_a_bad_halt_is_refused_with_its_field(alice: Api, change: dict[str, Any], field: str, message: str) -> None:
    answer = alice.post("halts", {"scope": "ACCOUNT", "id": make_account().pk, "cause": "news", **change})

    assert answer.status_code == 400
    assert answer.json()["fields"] == {field: [message]}
    assert not TradingHalt.objects.exists()


@pytest.mark.parametrize("note", ["", "   ", None])
def test_lifting_without_a_word_is_refused(alice: Api, note: str | None) -> None:
    halt = halt_trip("HALT", "news", account_id=make_account().pk, actor="alice")

    answer = alice.post(f"halts/{halt.pk}/lift", {"note": note})

    assert (answer.status_code, list(answer.json()["fields"])) == (400, ["note"])
    assert TradingHalt.objects.filter(lifted_at=None).exists()


def test_another_traders_rows_cannot_be_halted(alice: Api, bob: Api) -> None:
    account = make_account(owner=bob.user, name="b")
    session = make_session(account)
    assert bob.user is not None

    for scope, pk in (("SESSION", session.pk), ("ACCOUNT", account.pk), ("OWNER", bob.user.pk)):
        answer = alice.post("halts", {"scope": scope, "id": pk, "cause": "envy"})
        assert answer.status_code == 400
        assert answer.json()["fields"] == {"id": [f"wanted the id of one of your {scope.lower()}s, was {pk}"]}

    assert not TradingHalt.objects.exists()


def test_the_platform_is_superusers_to_halt_and_to_let_go_on(alice: Api, root: Api) -> None:
    refused = alice.post("halts", {"scope": "PLATFORM", "cause": "news"})
    with_id = root.post("halts", {"scope": "PLATFORM", "id": 1, "cause": "news"})
    tripped = root.post("halts", {"scope": "PLATFORM", "mode": "FLATTEN", "cause": "news"})
    pk = tripped.json()["id"]
    kept = alice.post(f"halts/{pk}/lift", {"note": "please"})
    lifted = root.post(f"halts/{pk}/lift", {"note": "over"})

    assert (refused.status_code, refused.json()["code"]) == (403, "permission_denied")
    assert with_id.json()["fields"] == {"id": ["wanted none for the platform, was 1"]}
    assert (tripped.status_code, tripped.json()["scope"]) == (201, "PLATFORM")
    assert kept.json()["detail"] == "wanted a superuser to lift what the platform decided, was an ordinary trader"
    assert (kept.status_code, lifted.status_code) == (403, 200)


def test_what_a_superuser_halted_by_hand_is_not_the_traders_to_lift_and_a_rules_is(alice: Api, root: Api) -> None:
    account = make_account()
    by_hand = root.post("halts", {"scope": "ACCOUNT", "id": account.pk, "cause": "fraud?"}).json()["id"]
    by_rule = halt_trip("HALT", "figures", account_id=account.pk, rule="DRAWDOWN").pk

    answers = [alice.post(f"halts/{pk}/lift", {"note": "over"}).status_code for pk in (by_hand, by_rule)]

    assert answers == [403, 200]


def test_the_list_is_ones_own_and_what_holds_everybody_narrowed_by_what_is_in_force(alice: Api, bob: Api) -> None:
    session = make_session()
    bobs = make_account(owner=bob.user, name="b")
    own = halt_trip("HALT", "one", session_id=session.pk, actor="alice").pk
    halt_trip("HALT", "two", account_id=bobs.pk)
    everybodys = halt_trip("FLATTEN", "three").pk
    alice.post(f"halts/{own}/lift", {"note": "over"})

    assert alice.ids("halts") == [everybodys, own]
    assert alice.ids("halts", is_in_force="true") == [everybodys]
    assert alice.ids("halts", session=session.pk) == [own]


def test_a_session_shows_the_strongest_halt_that_holds_it(alice: Api) -> None:
    session = make_session()
    assert alice.get(f"sessions/{session.pk}").json()["halt"] is None
    halt_trip("HALT", "weak", session_id=session.pk)
    strong = halt_trip("REDUCE_ONLY", "strong", owner_id=alice.user_id)

    [listed] = alice.get("sessions").json()["results"]

    assert listed["halt"] == {"id": strong.pk, "mode": "REDUCE_ONLY", "cause": "strong", "rule": ""}
    assert alice.get(f"sessions/{session.pk}").json()["halt"] == listed["halt"]
