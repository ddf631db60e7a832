"""Differences at the API: listed, narrowed and decided about; and an account compared when somebody asks."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from pipeline.models import Event
from positions.models import Discrepancy, Position, Reconciliation
from positions.reconciliation import accounts_to_reconcile
from tests.api.conftest import Api
from tests.conftest import Bells
from tests.factories import make_account, make_discrepancy, make_open_position, make_quote, make_session


def test_a_difference_is_shown_with_what_may_be_decided(alice: Api) -> None:
    row = make_discrepancy(make_open_position(make_session()), detail="the account holds 0.01 BTC")

    shown = alice.get(f"discrepancies/{row.pk}").json()

    assert (shown["kind"], shown["status"], shown["symbol"]) == ("MANUAL_CLOSE", "OPEN", "BTC/USDT")
    assert (shown["expected"], shown["found"], shown["detail"]) == ("0.02", "0.01", "the account holds 0.01 BTC")
    assert shown["choices"] == ["ADOPT", "RESIZE", "CLOSE", "IGNORE"]


def test_a_decision_is_carried_out_and_names_who_took_it(alice: Api) -> None:
    position = make_open_position(make_session())
    make_quote(position.market)
    row = make_discrepancy(position)

    answer = alice.post(f"discrepancies/{row.pk}/resolve", {"choice": "RESIZE"})

    assert answer.status_code == 200, answer.content
    shown = answer.json()
    assert (shown["status"], shown["resolution"], shown["resolved_by"]) == ("RESOLVED", "RESIZE", "alice")
    assert shown["choices"] == []
    assert str(Position.objects.get().quantity) == "0.010000000000000000"
    assert Event.objects.filter(topic="alerts", actor="alice", data__alert="DISCREPANCY_RESOLVED").count() == 1


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ({}, 400, "choice: This field is required."),
        ({"choice": "SELL"}, 400, 'choice: "SELL" is not a valid choice.'),
        ({"choice": "VANISHED"}, 400, 'choice: "VANISHED" is not a valid choice.'),
        ({"choice": "RESIZE"}, 400, "choice: for DUST wanted IGNORE, was 'RESIZE'"),
    ],
)
def test_a_decision_that_is_none_is_refused_in_clear_words(
    alice: Api, body: dict[str, str], status: int, detail: str
) -> None:
    row = make_discrepancy(make_open_position(make_session()), kind="DUST")

    answer = alice.post(f"discrepancies/{row.pk}/resolve", body)

    assert (answer.status_code, answer.json()["detail"]) == (status, detail)
    assert Discrepancy.objects.get().status == "OPEN"


def test_a_second_decision_says_what_the_first_one_was(alice: Api) -> None:
    row = make_discrepancy(make_open_position(make_session()))
    alice.post(f"discrepancies/{row.pk}/resolve", {"choice": "IGNORE"})

    answer = alice.post(f"discrepancies/{row.pk}/resolve", {"choice": "IGNORE"})

    assert answer.status_code == 409
    assert answer.json() == {
        "code": "unable_to_resolve",
        "detail": "wanted an open difference, was RESOLVED: IGNORE by alice",
    }


def test_differences_are_narrowed_by_status_kind_and_account(alice: Api) -> None:
    position = make_open_position(make_session())
    one = make_discrepancy(position)
    two = make_discrepancy(position, kind="DUST", subject="x", status="RESOLVED")

    assert alice.ids("discrepancies") == [two.pk, one.pk]
    assert alice.ids("discrepancies", status="OPEN") == [one.pk]
    assert alice.ids("discrepancies", kind="DUST") == [two.pk]
    assert alice.ids("discrepancies", account=position.account_id, position=position.pk) == [two.pk, one.pk]
    assert alice.ids("discrepancies", account=position.account_id + 1) == []


@pytest.mark.django_db(transaction=True)
def test_an_account_is_compared_when_somebody_asks(alice: Api, bells: Bells) -> None:
    account = make_account()
    Reconciliation.objects.create(account=account, due_at=timezone.now() + timedelta(hours=1))
    bells.clear()

    answer = alice.post(f"accounts/{account.pk}/reconcile")

    assert answer.status_code == 202
    assert accounts_to_reconcile(timezone.now()) == [account.pk]
    assert bells.rung("positions.reconcile") == [{"account_ids": [account.pk]}]


def test_the_address_of_a_difference_has_its_right_name() -> None:
    assert reverse("discrepancy-resolve", args=[7]) == "/api/v1/discrepancies/7/resolve"
    assert reverse("strategy-list") == "/api/v1/strategies"
    assert reverse("order-detail", args=[7]) == "/api/v1/orders/7"
