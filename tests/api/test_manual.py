"""Orders by hand at the API: placed once for each key, refused by field, cancelled once."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from exchanges.models import Market
from orders.models import Order
from positions.models import Position
from sessions.models import TradingSession
from tests.api.conftest import Api
from tests.factories import make_account, make_market, make_open_position, make_order, make_quote, make_session


def new_order(**values: Any) -> dict[str, Any]:
    account = make_account()
    make_quote(make_market(account.exchange))
    return {"account": account.pk, "symbol": "BTC/USDT", "side": "BUY", "quantity": "0.02", "key": "k1", **values}


def test_an_order_is_placed_once_for_each_key(alice: Api) -> None:
    exits = {"stop_loss_percent": "2", "targets": [{"percent": "4.0"}]}
    values = new_order(order_type="LIMIT", price="49000.0", exits=exits)
    in_other_words = {"stop_loss_percent": "2.0", "targets": [{"percent": 4}]}

    placed = alice.post("orders", values)
    again = alice.post("orders", {**values, "price": "49000", "exits": in_other_words})
    other = alice.post("orders", {**values, "price": "48000"})

    row = placed.json()
    order = Order.objects.get()
    assert (placed.status_code, again.status_code, again.json()["id"]) == (201, 200, row["id"])
    assert {name: row[name] for name in ("id", "status", "side", "order_type", "quantity", "price", "reason", "session")} == {
        "id": order.pk, "status": "REQUESTED", "side": "BUY", "order_type": "LIMIT", "quantity": "0.02", "price": "49000",
        "reason": "MANUAL", "session": TradingSession.objects.get().pk,
    }  # fmt: skip
    assert (other.status_code, other.json()) == (
        409,
        {
            "code": "key_already_used",
            "detail": f"wanted a new key for a new order, was 'k1', which order {order.pk} has",
        },
    )
    assert Position.objects.get().exit_plan.stop_loss_percent == Decimal(2)


def test_a_market_is_named_by_its_id_or_its_symbol(alice: Api) -> None:
    values = new_order()
    market = make_market()
    del values["symbol"]

    by_id = alice.post("orders", {**values, "market": market.pk})
    neither = alice.post("orders", {**values, "key": "k2"})
    wrong = alice.post("orders", {**values, "key": "k2", "symbol": "BTC-USDT"})
    both = alice.post("orders", {**values, "key": "k2", "market": market.pk, "symbol": "ETH/USDT"})

    assert (by_id.status_code, by_id.json()["symbol"]) == (201, "BTC/USDT")
    assert neither.json()["fields"] == {"market": ["wanted a market's id or its symbol, was neither"]}
    assert wrong.json()["fields"] == {"symbol": ["wanted a symbol of simulator, was 'BTC-USDT'"]}
    assert both.json()["fields"] == {"symbol": ["wanted that of the market, BTC/USDT, was 'ETH/USDT'"]}


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"key": ""}, "key", "This field may not be blank."),
        ({"key": "x" * 65}, "key", "Ensure this field has no more than 64 characters."),
        ({"account": 10**30}, "account", f'Invalid pk "{10**30}" - object does not exist.'),
        ({"side": "LONG"}, "side", '"LONG" is not a valid choice.'),
        ({"order_type": "ICEBERG"}, "order_type", '"ICEBERG" is not a valid choice.'),
        ({"quantity": "NaN"}, "quantity", "A valid number is required."),
        ({"quantity": "-1"}, "quantity", "wanted at least 0.00001, was -1"),
        ({"quantity": None}, "quantity", "wanted quantity or amount, was neither"),
        ({"order_type": "LIMIT"}, "price", "wanted the price of a LIMIT order, was none"),
        ({"order_type": "STOP"}, "stop_price", "wanted the stop price of a STOP order, was none"),
        ({"leverage": "2"}, "leverage", "wanted 1 to 1 on BTC/USDT, was 2"),
        ({"exits": []}, "exits", 'Expected a dictionary of items but got type "list".'),
        ({"exits": {"trailing_percent": "x"}}, "exits", "trailing_percent: Input should be a valid decimal"),
        ({"side": "SELL"}, "side", "wanted BUY, was SELL: 'by hand BTC/USDT on main' holds nothing of BTC"),
    ],
)  # fmt: skip
def test_a_bad_order_is_refused_with_its_field(alice: Api, change: dict[str, Any], field: str, message: str) -> None:
    answer = alice.post("orders", new_order(**change))

    assert (answer.status_code, answer.json()["fields"]) == (400, {field: [message]})
    assert not Order.objects.exists()


def test_no_more_leverage_is_asked_for_than_the_venue_gives(alice: Api) -> None:
    values = new_order(leverage="21")
    lent = {"limits": {"leverage": {"max": 20}}}
    Market.objects.update(kind=Market.Kind.LINEAR_FUTURE, venue_info=lent)

    answer = alice.post("orders", values)

    assert answer.json()["fields"] == {"leverage": ["wanted 1 to 20 on BTC/USDT, was 21"]}
    assert alice.post("orders", {**values, "leverage": "20"}).status_code == 201


def test_another_traders_account_reads_as_unknown(alice: Api, bob: Api) -> None:
    theirs = make_account(owner=bob.user, name="b")

    answer = alice.post("orders", new_order(account=theirs.pk))

    assert answer.json()["fields"] == {"account": [f'Invalid pk "{theirs.pk}" - object does not exist.']}


def test_an_order_is_cancelled_and_an_exit_is_not(alice: Api) -> None:
    order = alice.post("orders", new_order()).json()["id"]
    leaving = make_order(make_open_position(make_session(make_account(name="b"))), "EXIT", status="READY")

    answers = [alice.post(f"orders/{order}/cancel") for _ in range(2)]
    refused = alice.post(f"orders/{leaving.pk}/cancel")

    assert [(answer.status_code, answer.json()["status"]) for answer in answers] == [(200, "CANCELED")] * 2
    assert (refused.status_code, refused.json()) == (
        409,
        {
            "code": "unable_to_command",
            "detail": "to cancel an order it must be an entry of ours, was an exit, which is carried through",
        },
    )
