"""Making paper accounts: money instead of keys, never both."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from django.test import Client

from exchanges.accounts import PaperRefused, account_create, account_rekey
from exchanges.credentials import Credentials
from exchanges.models import Account, PaperBalance, RiskProfile
from exchanges.paper_gateway import PaperGateway
from exchanges.services import gateway_for
from tests.factories import make_exchange, make_user

pytestmark = pytest.mark.django_db

NEEDLESS = "wanted nothing here for {}, was given"


@pytest.fixture
def trader(client: Client) -> Client:
    client.force_login(make_user())
    return client


def post(client: Client, **body: Any) -> Any:
    fields = {"exchange": make_exchange().pk, "name": "paper", **body}
    return client.post("/api/v1/accounts", fields, content_type="application/json")


def test_a_paper_account_is_made_with_its_money_and_no_keys(trader: Client, bells: Any) -> None:
    answer = post(trader, is_paper=True, paper_balance="10000.5")

    account = Account.objects.get()
    [balance] = PaperBalance.objects.all()
    assert answer.status_code == 201, answer.json()
    assert (answer.json()["is_paper"], answer.json()["key_hint"]) == (True, "")
    assert "paper_balance" not in answer.json()
    assert (balance.account, balance.currency, balance.total, balance.held) == (account, "USDT", Decimal("10000.5"), 0)
    assert RiskProfile.objects.filter(account=account).exists()
    assert isinstance(gateway_for(account.exchange, account), PaperGateway)


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ({"is_paper": True}, "paper_balance: This field is required."),
        ({"is_paper": True, "paper_balance": "-1"}, "paper_balance: Ensure this value is greater than or equal to 0."),
        ({"is_paper": True, "paper_balance": "1", "secret": "s"}, "secret: " + NEEDLESS.format("a paper account")),
        ({}, "api_key: This field is required."),
        (
            {"api_key": "k", "secret": "s", "paper_balance": "1"},
            "paper_balance: " + NEEDLESS.format("an account with keys"),
        ),
    ],
)
def test_keys_and_paper_money_do_not_mix(trader: Client, body: dict[str, Any], errors: str) -> None:
    answer = post(trader, **body)

    assert answer.status_code == 400
    assert errors in answer.json()["detail"]
    assert not Account.objects.exists()


def test_nobody_trades_contracts_on_paper(trader: Client, bells: Any) -> None:
    exchange = make_exchange("futures", ccxt_id="kucoinfutures")
    words = "wanted an exchange of spot markets for a paper account: the paper books know no margin, was futures"

    answer = post(trader, exchange=exchange.pk, is_paper=True, paper_balance="1")
    with pytest.raises(PaperRefused, match=words):
        account_create(owner=make_user(), exchange=exchange, name="paper", currency="USDT", paper_balance=Decimal(1))

    assert (answer.status_code, f"exchange: {words}" in answer.json()["detail"]) == (400, True)
    assert not Account.objects.exists()


def test_a_paper_account_takes_no_keys_later(trader: Client, bells: Any) -> None:
    account_id = post(trader, is_paper=True, paper_balance="1").json()["id"]

    answer = trader.patch(
        f"/api/v1/accounts/{account_id}", {"api_key": "k", "secret": "s"}, content_type="application/json"
    )
    account_rekey(account_id, Credentials("k", "s"))

    assert answer.status_code == 400
    assert Account.objects.get().key_hint == ""


def test_an_account_is_either_on_paper_or_has_keys(bells: Any) -> None:
    made: dict[str, Any] = {"owner": make_user(), "exchange": make_exchange(), "name": "x", "currency": "USDT"}
    with pytest.raises(ValueError, match="either keys or a paper balance"):
        account_create(**made)
    with pytest.raises(ValueError, match="either keys or a paper balance"):
        account_create(**made, credentials=Credentials("k", "s"), paper_balance=Decimal(1))
