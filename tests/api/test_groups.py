"""Groups at the API: one request for several accounts, commands to all of them, and what they hold together."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from exchanges.models import Account
from positions.models import Position
from sessions.models import SessionGroup, TradingSession
from tests.api.conftest import Api
from tests.factories import make_account, make_config, make_exchange, make_open_position


def new_group(**values: Any) -> dict[str, Any]:
    accounts = [make_account(name=name) for name in ("a", "b")]
    return {
        "name": "trend", "config": make_config().pk, "accounts": [account.pk for account in accounts],
        "sizing_method": "FIXED_QUOTE", "sizing_amount": "250", **values,
    }  # fmt: skip


def test_one_request_starts_the_same_strategy_on_several_accounts(alice: Api) -> None:
    answer = alice.post("groups", new_group(start=True))

    row = answer.json()["group"]
    assert answer.status_code == 201
    assert (row["name"], row["statuses"]) == ("trend", {"ACTIVE": 2})
    assert [(one["account_name"], one["status"], one["sizing_amount"]) for one in row["sessions"]] == [
        ("a", "ACTIVE", "250"), ("b", "ACTIVE", "250"),
    ]  # fmt: skip
    assert [one["is_done"] for one in answer.json()["results"]] == [True, True]


def test_without_start_nothing_trades_yet(alice: Api) -> None:
    answer = alice.post("groups", new_group())

    assert (answer.json()["group"]["statuses"], answer.json()["results"]) == ({"CREATED": 2}, [])


def test_a_command_that_one_session_refuses_is_a_207_with_its_words(alice: Api) -> None:
    group = alice.post("groups", new_group()).json()["group"]["id"]
    paused = Account.objects.get(name="a")
    Account.objects.filter(pk=paused.pk).update(status="PAUSED", status_reason="keys")

    partly = alice.post(f"groups/{group}/start")
    Account.objects.update(status="ACTIVE")
    wholly = alice.post(f"groups/{group}/start")

    assert (partly.status_code, wholly.status_code) == (207, 200)
    assert partly.json()["group"]["statuses"] == {"CREATED": 1, "ACTIVE": 1}
    assert partly.json()["results"][0] == {
        "session_id": TradingSession.objects.get(account=paused).pk, "account_id": paused.pk, "is_done": False,
        "detail": "wanted an active account, was PAUSED: keys",
    }  # fmt: skip
    assert [one["detail"] for one in wholly.json()["results"]] == ["", "was ACTIVE already"]


def test_a_group_shows_what_its_sessions_hold_together(alice: Api) -> None:
    group = alice.post("groups", new_group(start=True)).json()["group"]["id"]
    for session, realized in zip(TradingSession.objects.order_by("pk"), ("1.5", "-4"), strict=True):
        position = make_open_position(session)
        Position.objects.filter(pk=position.pk).update(realized_pnl=Decimal(realized), unrealized_pnl=Decimal("0.25"))

    [listed] = alice.get("groups").json()["results"]

    assert listed["totals"] == [{"currency": "USDT", "realized_pnl": "-2.5", "unrealized_pnl": "0.5", "positions": 2}]
    assert [one["realized_pnl"] for one in listed["sessions"]] == ["1.5", "-4"]
    assert alice.get(f"groups/{group}").json() == listed


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"name": ""}, "name", "This field may not be blank."),
        ({"accounts": []}, "accounts", "wanted at least one account, was none"),
        ({"accounts": [10**30]}, "accounts", f'Invalid pk "{10**30}" - object does not exist.'),
        ({"config": None}, "config", "This field may not be null."),
        ({"sizing_amount": "0"}, "sizing_amount", "Ensure this value is greater than or equal to 0.000001."),
        ({"start": "maybe"}, "start", "Must be a valid boolean."),
    ],
)
def test_a_bad_group_is_refused_with_its_field(alice: Api, change: dict[str, Any], field: str, message: str) -> None:
    answer = alice.post("groups", new_group(**change))

    assert (answer.status_code, answer.json()["fields"]) == (400, {field: [message]})
    assert (SessionGroup.objects.count(), TradingSession.objects.count()) == (0, 0)


def test_an_account_elsewhere_or_somebody_elses_is_refused_by_name(alice: Api, bob: Api) -> None:
    elsewhere = make_account(name="far", exchange=make_exchange("other"))
    bobs = make_account(owner=bob.user, name="bobs")
    values = new_group()

    far = alice.post("groups", {**values, "accounts": [*values["accounts"], elsewhere.pk]})
    theirs = alice.post("groups", {**values, "accounts": [bobs.pk]})

    assert far.json()["fields"] == {"accounts": ["far: wanted a market of other, was BTC/USDT of simulator"]}
    assert theirs.json()["fields"] == {"accounts": [f'Invalid pk "{bobs.pk}" - object does not exist.']}


def test_a_name_is_taken_once(alice: Api) -> None:
    values = new_group()
    alice.post("groups", values)

    answer = alice.post("groups", values)

    assert answer.json()["fields"] == {"name": ["wanted a name that none of your other groups has, was 'trend'"]}
