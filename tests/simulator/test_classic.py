"""The older order endpoints through ccxt with hf=False, and the trap in them."""

from __future__ import annotations

import ccxt
import pytest

from tests.simulator.conftest import KEY, Simulator

BTC = "BTC/USDT"


@pytest.fixture
def classic(simulator: Simulator) -> ccxt.kucoin:
    simulator.open_account(USDT="10000", BTC="1")
    simulator.pin("60000")
    client = simulator.client(options={"hf": False, "uta": False})
    client.load_markets()
    return client


def test_an_order_lives_its_life_on_the_older_endpoints(simulator: Simulator, classic: ccxt.kucoin) -> None:
    placed = classic.create_order(BTC, "limit", "buy", 0.01, 59_000, {"clientOid": "c-1"})
    found = classic.fetch_order(None, BTC, {"clientOid": "c-1"})
    open_orders = classic.fetch_open_orders(BTC)
    simulator.pin("58000")

    done = classic.fetch_order(placed["id"])

    assert (placed["clientOrderId"], found["id"], found["status"]) == (None, placed["id"], "open")
    assert [order["id"] for order in open_orders] == [placed["id"]]
    assert (done["status"], done["filled"], done["average"]) == ("closed", 0.01, 58_000)
    assert [order["id"] for order in classic.fetch_closed_orders(BTC)] == [placed["id"]]
    assert [trade["order"] for trade in classic.fetch_my_trades(BTC)] == [placed["id"]]
    assert [trade["amount"] for trade in classic.fetch_order_trades(placed["id"], BTC)] == [0.01]
    assert simulator.oracle()["requests"][-1]["path"] == "/api/v1/fills"


def test_a_filled_order_does_not_exist_by_its_client_order_id(classic: ccxt.kucoin) -> None:
    placed = classic.create_order(BTC, "market", "buy", 0.01, params={"clientOid": "c-1"})

    with pytest.raises(ccxt.OrderNotFound):
        classic.fetch_order(None, BTC, {"clientOid": "c-1"})

    assert classic.fetch_order(placed["id"])["status"] == "closed"


def test_cancels_answer_with_the_ids_that_they_cancel(classic: ccxt.kucoin) -> None:
    ids = [
        classic.create_order(BTC, "limit", "buy", 0.01, price, {"clientOid": f"c-{price}"})["id"]
        for price in (59_000, 58_000, 57_000, 56_000)
    ]

    one = classic.cancel_order(ids[0])
    other = classic.cancel_order(None, None, {"clientOid": "c-58000"})
    rest = classic.private_delete_orders({"symbol": "BTC-USDT"})["data"]

    assert one["id"] == ids[0]
    assert other["info"]["cancelledOrderId"] == ids[1]
    assert rest == {"cancelledOrderIds": ids[2:]}
    with pytest.raises(ccxt.OrderNotFound):
        classic.cancel_order(ids[0])


def test_both_generations_see_one_set_of_books(simulator: Simulator, classic: ccxt.kucoin) -> None:
    placed = classic.create_order(BTC, "limit", "buy", 0.01, 59_000)

    newer = simulator.client().fetch_order(placed["id"], BTC)

    assert newer["status"] == "open"
    assert simulator.oracle()["balances"][KEY]["USDT"]["holds"] == "590.59"
