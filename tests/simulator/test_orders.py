"""Every kind of order, through ccxt's own KuCoin class: what is accepted, refused, filled, held and found again."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import ccxt
import pytest

from simulator.settings import DuplicatePolicy
from tests.simulator.conftest import KEY, START_MS, Simulator, made_exchange

MINUTE_MS = 60_000
BTC = "BTC/USDT"


def info(client: ccxt.kucoin, client_oid: str, symbol: str = BTC) -> dict[str, Any]:
    """The raw answer of a look-up by client order id."""
    found: dict[str, Any] = client.fetch_order(None, symbol, {"clientOid": client_oid})["info"]
    return found


def wallet(simulator: Simulator, currency: str = "USDT") -> tuple[str, str]:
    """(total, held)."""
    balance = simulator.oracle()["balances"][KEY][currency]
    return balance["balance"], balance["holds"]


def path(simulator: Simulator, *candles: tuple[float, float, float, float], symbol: str = "BTC-USDT") -> None:
    """Let the coming minutes be these (open, high, low, close)."""
    rows = [[START_MS + number * MINUTE_MS, *candle, 1] for number, candle in enumerate(candles)]
    simulator.control(f"market/{symbol}/candles", candles=rows)


# -- market orders -------------------------------------------------------------------------------------------------


def test_a_market_buy_pays_half_the_spread_and_the_fee_on_top(alice: ccxt.kucoin, simulator: Simulator) -> None:
    placed = alice.create_order(BTC, "market", "buy", 0.01, params={"clientOid": "m-1"})

    order = info(alice, "m-1")
    assert (placed["id"], placed["clientOrderId"]) == (order["id"], "m-1")
    assert (order["dealSize"], order["dealFunds"], order["fee"]) == ("0.01", "600.03", "0.60003")
    assert (order["active"], order["cancelExist"], order["remainSize"]) == (False, False, "0")
    assert wallet(simulator) == ("9399.36997", "0")
    assert wallet(simulator, "BTC") == ("1.01", "0")


def test_a_market_sell_receives_the_bid_less_the_fee(alice: ccxt.kucoin, simulator: Simulator) -> None:
    alice.create_order(BTC, "market", "sell", 0.5, params={"clientOid": "m-1"})

    order = info(alice, "m-1")
    assert (order["dealSize"], order["dealFunds"], order["fee"]) == ("0.5", "29998.5", "29.9985")
    assert wallet(simulator) == ("39968.5015", "0")


def test_a_large_market_order_eats_into_the_book(alice: ccxt.kucoin, simulator: Simulator) -> None:
    simulator.open_account(USDT="1000000")
    asks = alice.fetch_order_book(BTC, 20)["asks"]

    alice.create_order(BTC, "market", "buy", 3, params={"clientOid": "m-1"})

    fills = alice.fetch_my_trades(BTC)
    assert [(fill["price"], fill["amount"]) for fill in fills[:-1]] == [
        tuple(level) for level in asks[: len(fills) - 1]
    ]
    assert len(fills) == 3
    assert sum(Decimal(fill["info"]["size"]) for fill in fills) == 3
    assert fills[-1]["price"] > fills[0]["price"]


def test_a_market_order_by_funds_spends_whole_lots_and_cancels_the_rest(alice: ccxt.kucoin) -> None:
    alice.create_market_buy_order_with_cost(BTC, 25.123456, {"clientOid": "f-1"})

    order = info(alice, "f-1")
    assert (order["dealSize"], order["dealFunds"]) == ("0.0004187", "25.1232561")
    assert Decimal(order["dealFunds"]) + Decimal(order["cancelledFunds"]) == Decimal("25.123456")
    assert (order["cancelExist"], order["active"], order["size"]) == (True, False, "0")


# -- limit orders --------------------------------------------------------------------------------------------------


def test_a_resting_buy_holds_its_cost_and_fee_until_it_is_cancelled(alice: ccxt.kucoin, simulator: Simulator) -> None:
    placed = alice.create_order(BTC, "limit", "buy", 0.01, 59_000, {"clientOid": "l-1"})
    held = wallet(simulator)

    answer = alice.cancel_order(placed["id"], BTC)

    order = info(alice, "l-1")
    assert held == ("10000", "590.59")
    assert answer["id"] == placed["id"]
    assert (order["cancelExist"], order["cancelledSize"], order["dealSize"]) == (True, "0.01", "0")
    assert wallet(simulator) == ("10000", "0")


def test_a_resting_sell_holds_its_coins(alice: ccxt.kucoin, simulator: Simulator) -> None:
    alice.create_order(BTC, "limit", "sell", 0.4, 61_000)

    assert wallet(simulator, "BTC") == ("1", "0.4")
    assert alice.fetch_balance()["BTC"]["free"] == 0.6


def test_a_limit_fills_at_its_price_when_the_path_reaches_it(alice: ccxt.kucoin, simulator: Simulator) -> None:
    path(simulator, (60_000, 60_100, 59_000, 59_500), (59_500, 59_600, 59_400, 59_500))
    alice.create_order(BTC, "limit", "buy", 0.01, 59_400, {"clientOid": "l-1"})

    simulator.control("clock", advance_s=120)

    order, [fill] = info(alice, "l-1"), alice.fetch_my_trades(BTC)
    assert (order["active"], order["cancelExist"], order["dealFunds"], order["fee"]) == (False, False, "594", "0.594")
    assert (fill["price"], fill["takerOrMaker"], fill["order"]) == (59_400, "maker", order["id"])
    # The minute falls, so it visits 60,100 at 15 s, then 59,000 at 45 s: 59,400 is 700 of 1,100 down that leg.
    assert fill["timestamp"] == START_MS + 15_000 + 19_091
    assert wallet(simulator) == ("9405.406", "0")


def test_a_limit_that_the_price_jumps_over_fills_at_the_better_price(alice: ccxt.kucoin, simulator: Simulator) -> None:
    alice.create_order(BTC, "limit", "buy", 0.01, 59_400, {"clientOid": "l-1"})

    simulator.pin("58000")

    assert info(alice, "l-1")["dealFunds"] == "580"


def test_a_limit_that_crosses_takes_what_its_price_allows_and_rests_with_the_remainder(
    alice: ccxt.kucoin, simulator: Simulator
) -> None:
    simulator.open_account(USDT="1000000")
    ask, size = alice.fetch_order_book(BTC, 20)["asks"][0]

    alice.create_order(BTC, "limit", "buy", 2, ask, {"clientOid": "l-1"})

    order = info(alice, "l-1")
    assert (order["dealSize"], order["active"], order["inOrderBook"]) == (str(size), True, True)
    assert Decimal(order["remainSize"]) == 2 - Decimal(str(size))
    assert Decimal(wallet(simulator)[1]) == Decimal(str(ask)) * Decimal(order["remainSize"]) * Decimal("1.001")


def test_an_order_inside_the_spread_fills_at_its_own_price(alice: ccxt.kucoin, simulator: Simulator) -> None:
    simulator.open_account(USDT="10000", BTC="1")
    alice.create_order(BTC, "limit", "buy", 0.01, 60_001, {"clientOid": "l-1"})  # 60,000 < 60,001 < ask 60,003

    simulator.control("clock", advance_s=1)

    assert info(alice, "l-1")["dealFunds"] == "600.01"


def test_ioc_cancels_what_does_not_fill_at_once(alice: ccxt.kucoin) -> None:
    alice.create_order(BTC, "limit", "buy", 0.01, 59_000, {"clientOid": "i-1", "timeInForce": "IOC"})
    alice.create_order(BTC, "limit", "buy", 0.01, 60_100, {"clientOid": "i-2", "timeInForce": "IOC"})

    missed, hit = info(alice, "i-1"), info(alice, "i-2")
    assert (missed["active"], missed["cancelExist"], missed["dealSize"]) == (False, True, "0")
    assert (hit["active"], hit["cancelExist"], hit["dealFunds"]) == (False, False, "600.03")


def test_fok_fills_whole_or_not_at_all(alice: ccxt.kucoin, simulator: Simulator) -> None:
    simulator.open_account(USDT="1000000")

    alice.create_order(BTC, "limit", "buy", 2, 60_003, {"clientOid": "k-1", "timeInForce": "FOK"})
    alice.create_order(BTC, "limit", "buy", 2, 60_100, {"clientOid": "k-2", "timeInForce": "FOK"})

    assert (info(alice, "k-1")["dealSize"], info(alice, "k-1")["cancelExist"]) == ("0", True)
    assert (info(alice, "k-2")["dealSize"], info(alice, "k-2")["cancelExist"]) == ("2", False)


def test_post_only_never_takes(alice: ccxt.kucoin) -> None:
    alice.create_order(BTC, "limit", "buy", 0.01, 60_100, {"clientOid": "p-1", "postOnly": True})
    alice.create_order(BTC, "limit", "buy", 0.01, 59_900, {"clientOid": "p-2", "postOnly": True})

    assert (info(alice, "p-1")["dealSize"], info(alice, "p-1")["cancelExist"]) == ("0", True)
    assert info(alice, "p-2")["active"] is True


def test_gtt_expires_on_the_market_clock(alice: ccxt.kucoin, simulator: Simulator) -> None:
    alice.create_order(BTC, "limit", "buy", 0.01, 59_000, {"clientOid": "t-1", "timeInForce": "GTT", "cancelAfter": 30})

    simulator.control("clock", advance_s=29)
    before = info(alice, "t-1")["active"]
    simulator.control("clock", advance_s=2)

    after = info(alice, "t-1")
    assert (before, after["active"], after["cancelExist"]) == (True, False, True)
    assert after["lastUpdatedAt"] == START_MS + 30_000


# -- stop orders ---------------------------------------------------------------------------------------------------


def test_a_stop_waits_holds_nothing_and_sells_when_the_price_falls_to_it(
    alice: ccxt.kucoin, simulator: Simulator
) -> None:
    path(simulator, (60_000, 60_100, 58_000, 58_500), (58_500, 58_500, 58_500, 58_500))
    stop = alice.create_order(BTC, "market", "sell", 0.1, params={"stopLossPrice": 59_000, "clientOid": "s-1"})
    [waiting] = alice.fetch_open_orders(BTC, params={"trigger": True})
    held = wallet(simulator, "BTC")

    simulator.control("clock", advance_s=60)

    order = info(alice, "s-1")
    assert (waiting["id"], waiting["status"], waiting["triggerPrice"]) == (stop["id"], "open", 59_000)
    assert held == ("1", "0")
    assert order["id"] != stop["id"]
    assert (order["dealSize"], order["dealFunds"]) == ("0.1", "5899.7")  # 59,000 less half the spread, on a tick
    assert alice.fetch_open_orders(BTC, params={"trigger": True}) == []


def test_a_stop_that_the_price_jumps_over_fills_at_the_worse_price(alice: ccxt.kucoin, simulator: Simulator) -> None:
    path(simulator, (60_000, 60_000, 59_500, 59_500), (57_000, 57_500, 56_900, 57_400))
    alice.create_order(BTC, "market", "sell", 0.1, params={"stopLossPrice": 59_000, "clientOid": "s-1"})

    simulator.control("clock", advance_s=61)

    order = info(alice, "s-1")
    assert (order["dealFunds"], order["createdAt"]) == ("5699.71", START_MS + MINUTE_MS)  # 57,000 - 2.85, down to 0.1


@pytest.mark.parametrize(
    ("side", "params", "pinned", "funds"),
    [
        ("buy", {"stopLossPrice": 61_000}, "61000", "610.031"),
        ("sell", {"takeProfitPrice": 61_000}, "61000", "609.969"),
        ("buy", {"takeProfitPrice": 59_000}, "59000", "590.03"),
    ],
)
def test_stops_fire_in_the_direction_they_were_given(
    alice: ccxt.kucoin, simulator: Simulator, side: str, params: dict[str, int], pinned: str, funds: str
) -> None:
    alice.create_order(BTC, "market", side, 0.01, params={**params, "clientOid": "s-1"})
    simulator.control("clock", advance_s=5)
    waiting = len(alice.fetch_open_orders(BTC, params={"trigger": True}))

    simulator.pin(pinned)

    assert waiting == 1
    assert info(alice, "s-1")["dealFunds"] == funds


def test_a_stop_limit_rests_when_it_has_fired(alice: ccxt.kucoin, simulator: Simulator) -> None:
    path(simulator, (60_000, 60_000, 58_900, 58_900), (58_900, 59_600, 58_900, 59_600))
    alice.create_order(BTC, "limit", "sell", 0.1, 59_500, {"stopLossPrice": 59_000, "clientOid": "s-1"})

    simulator.control("clock", advance_s=60)
    resting = info(alice, "s-1")
    simulator.control("clock", advance_s=60)

    assert (resting["active"], resting["inOrderBook"], resting["price"]) == (True, True, "59500")
    assert info(alice, "s-1")["dealFunds"] == "5950"


def test_a_stop_that_its_balance_no_longer_covers_is_cancelled(alice: ccxt.kucoin, simulator: Simulator) -> None:
    alice.create_order(BTC, "market", "sell", 0.8, params={"stopLossPrice": 59_000, "clientOid": "s-1"})
    alice.create_order(BTC, "market", "sell", 0.5)

    simulator.pin("58900")

    order = info(alice, "s-1")
    assert (order["active"], order["cancelExist"], order["dealSize"]) == (False, True, "0")
    assert wallet(simulator, "BTC") == ("0.5", "0")


def test_a_stop_is_found_and_cancelled_by_either_id(alice: ccxt.kucoin) -> None:
    first = alice.create_order(BTC, "market", "sell", 0.1, params={"stopLossPrice": 59_000, "clientOid": "s-1"})
    second = alice.create_order(BTC, "market", "sell", 0.1, params={"stopLossPrice": 58_000, "clientOid": "s-2"})
    alice.create_order(BTC, "market", "sell", 0.1, params={"stopLossPrice": 57_000, "clientOid": "s-3"})

    by_id = alice.fetch_order(first["id"], BTC, {"trigger": True})
    by_client_oid = alice.fetch_order(None, BTC, {"trigger": True, "clientOid": "s-2"})
    alice.cancel_order(first["id"], BTC, {"trigger": True})
    alice.cancel_order(None, BTC, {"trigger": True, "clientOid": "s-2"})
    left = [order["clientOrderId"] for order in alice.fetch_open_orders(BTC, params={"trigger": True})]
    alice.cancel_all_orders(BTC, {"trigger": True})

    assert (by_id["id"], by_client_oid["id"]) == (first["id"], second["id"])
    assert left == ["s-3"]
    assert alice.fetch_open_orders(BTC, params={"trigger": True}) == []
    with pytest.raises(ccxt.OrderNotFound):
        alice.cancel_order(first["id"], BTC, {"trigger": True})


# -- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({"symbol": "XXX-USDT"}, "900001", "symbol not exists"),
        ({"side": "hold"}, "400100", "side is invalid"),
        ({"type": "iceberg"}, "400100", "type is invalid"),
        ({"size": "0.000001"}, "400100", "Order size below the minimum requirement."),
        ({"size": "99999999999"}, "400100", "Order size exceeds the maximum requirement."),
        ({"size": "0.001000001"}, "600100", "Order size increment invalid."),
        ({"size": "-1"}, "400100", "size is invalid"),
        ({"size": "much"}, "400100", "size is invalid"),
        ({"size": "NaN"}, "400100", "size is invalid"),
        ({"size": None}, "400100", "size or funds is required, not both"),
        ({"funds": "5"}, "400100", "size or funds is required, not both"),
        ({"size": None, "funds": "0.05"}, "600101", "The order funds should more then 0.1 USDT."),
        ({"size": None, "funds": "5.0000001"}, "400100", "Funds increment invalid."),
        ({"size": "1"}, "200004", "Balance insufficient!"),
        ({"side": "sell", "size": "1.1"}, "200004", "Balance insufficient!"),
        ({"type": "limit"}, "400100", "price is required"),
        ({"type": "limit", "price": "59000.05"}, "400100", "Price increment invalid."),
        ({"type": "limit", "price": "66000.1"}, "400370", "Max. price: 66000"),
        ({"type": "limit", "side": "sell", "price": "53999"}, "400760", "order price should be more than 54000"),
        ({"type": "limit", "price": "59000", "timeInForce": "GTX"}, "400100", "timeInForce is invalid"),
        ({"type": "limit", "price": "59000", "timeInForce": "GTT"}, "400100", "cancelAfter is required"),
        ({"clientOid": "has space"}, "400100", "clientOid is invalid"),
        ({"clientOid": "x" * 41}, "400100", "clientOid is invalid"),
    ],
)
def test_what_breaks_a_rule_is_refused_with_its_code(
    alice: ccxt.kucoin, simulator: Simulator, body: dict[str, Any], code: str, message: str
) -> None:
    good = {"symbol": "BTC-USDT", "side": "buy", "type": "market", "size": "0.001", "clientOid": "bad-1"}
    wanted = {name: value for name, value in {**good, **body}.items() if value is not None}

    with pytest.raises(ccxt.BaseError) as caught:
        alice.privatePostHfOrders(wanted)

    assert f'"code":"{code}","msg":"{message}"' in str(caught.value)
    assert simulator.oracle()["counts"]["orders"] == 0


def test_ccxt_calls_missing_money_insufficient_funds(alice: ccxt.kucoin) -> None:
    with pytest.raises(ccxt.InsufficientFunds):
        alice.create_order(BTC, "limit", "buy", 1, 60_000)


def test_what_is_held_cannot_be_spent_again(alice: ccxt.kucoin) -> None:
    alice.create_order(BTC, "limit", "sell", 0.7, 61_000)

    with pytest.raises(ccxt.InsufficientFunds):
        alice.create_order(BTC, "market", "sell", 0.4)


def test_a_request_after_its_deadline_is_refused(alice: ccxt.kucoin, simulator: Simulator) -> None:
    late, early = alice.milliseconds() - 3_000, alice.milliseconds()

    with pytest.raises(ccxt.BadRequest, match="allowMaxTimeWindow"):
        alice.create_order(BTC, "market", "buy", 0.001, params={"clientTimestamp": late, "allowMaxTimeWindow": 2_000})
    alice.create_order(BTC, "market", "buy", 0.001, params={"clientTimestamp": early, "allowMaxTimeWindow": 2_000})

    assert simulator.oracle()["counts"]["orders"] == 1


def test_a_symbol_that_does_not_trade_takes_no_orders(alice: ccxt.kucoin, simulator: Simulator) -> None:
    placed = alice.create_order(BTC, "limit", "buy", 0.001, 59_000)
    simulator.control("symbols", symbol="BTC-USDT", enableTrading=False)

    with pytest.raises(ccxt.BadSymbol, match="400600"):
        alice.create_order(BTC, "market", "buy", 0.001)
    assert alice.cancel_order(placed["id"], BTC)["id"] == placed["id"]


def test_maintenance_takes_cancels_only_and_then_nothing(alice: ccxt.kucoin, simulator: Simulator) -> None:
    first, second = (alice.create_order(BTC, "limit", "buy", 0.001, 59_000)["id"] for _ in range(2))

    simulator.control("settings", status="cancelonly")
    with pytest.raises(ccxt.ExchangeError, match="200001"):
        alice.create_order(BTC, "market", "buy", 0.001)
    alice.cancel_order(first, BTC)
    simulator.control("settings", status="close")
    with pytest.raises(ccxt.ExchangeError, match="200002"):
        alice.cancel_order(second, BTC)

    assert alice.fetch_status()["status"] == "maintenance"


# -- client order ids ----------------------------------------------------------------------------------------------


def attempts(start: Callable[..., Simulator], policy: DuplicatePolicy) -> list[str]:
    """How three orders of one client order id end: the first live, the first live, then the first cancelled."""
    simulator = start(made_exchange(duplicates=policy))
    simulator.open_account()
    simulator.pin("60000")
    client = simulator.client()
    outcomes = []
    for number in range(3):
        if number == 2:
            client.cancel_all_orders(BTC)
        try:
            client.create_order(BTC, "limit", "buy", 0.001, 59_000, {"clientOid": "same"})
            outcomes.append("accepted")
        except ccxt.BadRequest as error:
            outcomes.append("duplicated" if "clientOidDuplicated" in str(error) else str(error))
    return outcomes


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (DuplicatePolicy.ACTIVE, ["accepted", "duplicated", "accepted"]),
        (DuplicatePolicy.ALWAYS, ["accepted", "duplicated", "duplicated"]),
        (DuplicatePolicy.NEVER, ["accepted", "accepted", "accepted"]),
    ],
)
def test_a_client_order_id_may_be_used_again_as_the_policy_says(
    start_with: Callable[..., Simulator], policy: DuplicatePolicy, expected: list[str]
) -> None:
    assert attempts(start_with, policy) == expected


def test_the_policy_can_be_changed_while_it_runs(alice: ccxt.kucoin, simulator: Simulator) -> None:
    simulator.control("settings", duplicateClientOid="always")
    alice.create_order(BTC, "market", "buy", 0.001, params={"clientOid": "once"})

    with pytest.raises(ccxt.BadRequest, match="clientOidDuplicated"):
        alice.create_order(BTC, "market", "buy", 0.001, params={"clientOid": "once"})


def test_the_id_of_a_waiting_stop_is_taken_too(alice: ccxt.kucoin) -> None:
    alice.create_order(BTC, "market", "sell", 0.1, params={"stopLossPrice": 59_000, "clientOid": "s-1"})

    with pytest.raises(ccxt.BadRequest, match="clientOidDuplicated"):
        alice.create_order(BTC, "market", "buy", 0.001, params={"clientOid": "s-1"})


# -- finding and cancelling ----------------------------------------------------------------------------------------


def test_an_order_is_found_by_either_id_live_and_finished(alice: ccxt.kucoin) -> None:
    placed = alice.create_order(BTC, "limit", "buy", 0.001, 59_000, {"clientOid": "l-1"})
    live = [alice.fetch_order(placed["id"], BTC), alice.fetch_order(None, BTC, {"clientOid": "l-1"})]
    alice.cancel_order(None, BTC, {"clientOid": "l-1"})
    finished = [alice.fetch_order(placed["id"], BTC), alice.fetch_order(None, BTC, {"clientOid": "l-1"})]

    assert [order["status"] for order in (*live, *finished)] == ["open", "open", "canceled", "canceled"]
    assert {order["id"] for order in (*live, *finished)} == {placed["id"]}


@pytest.mark.parametrize("search", [{}, {"clientOid": "never-sent"}])
def test_what_was_never_placed_is_not_found(alice: ccxt.kucoin, search: dict[str, str]) -> None:
    with pytest.raises(ccxt.OrderNotFound):
        alice.fetch_order("670fd33bf9406e0007ab3945", BTC, search)
    with pytest.raises(ccxt.OrderNotFound):
        alice.cancel_order("670fd33bf9406e0007ab3945", BTC, search)


def test_a_finished_order_cannot_be_cancelled(alice: ccxt.kucoin) -> None:
    placed = alice.create_order(BTC, "market", "buy", 0.001)

    with pytest.raises(ccxt.OrderNotFound, match="order_not_exist_or_not_allow_to_cancel"):
        alice.cancel_order(placed["id"], BTC)


def test_the_synchronous_calls_return_the_final_state(alice: ccxt.kucoin) -> None:
    bought = alice.create_order(BTC, "market", "buy", 0.001, params={"sync": True})
    rested = alice.create_order(BTC, "limit", "buy", 0.001, 59_000, {"sync": True, "clientOid": "l-1"})
    cancelled = alice.cancel_order(None, BTC, {"sync": True, "clientOid": "l-1"})

    assert [bought["info"][name] for name in ("status", "dealSize", "remainSize")] == ["done", "0.001", "0"]
    assert [rested["info"][name] for name in ("status", "dealSize", "remainSize")] == ["open", "0", "0.001"]
    assert [cancelled["info"][name] for name in ("status", "canceledSize", "orderId")] == [
        "done",
        "0.001",
        rested["id"],
    ]


def test_a_test_order_is_checked_and_not_placed(alice: ccxt.kucoin, simulator: Simulator) -> None:
    alice.create_order(BTC, "market", "buy", 0.001, params={"test": True})

    with pytest.raises(ccxt.InsufficientFunds):
        alice.create_order(BTC, "market", "buy", 10, params={"test": True})
    assert simulator.oracle()["counts"]["orders"] == 0


def test_open_orders_are_cancelled_by_symbol_and_all_at_once(alice: ccxt.kucoin) -> None:
    for symbol, price in ((BTC, 59_000), (BTC, 58_000), ("ETH/USDT", 2_900)):
        alice.create_order(symbol, "limit", "buy", 0.01, price)
    symbols = alice.privateGetHfOrdersActiveSymbols()["data"]["symbols"]

    alice.cancel_all_orders(BTC)
    after_one = alice.privateGetHfOrdersActiveSymbols()["data"]["symbols"]
    answer = alice.privateDeleteHfOrdersCancelAll()["data"]

    assert (symbols, after_one) == (["BTC-USDT", "ETH-USDT"], ["ETH-USDT"])
    assert answer == {"succeedSymbols": ["ETH-USDT"], "failedSymbols": []}
    assert alice.fetch_open_orders("ETH/USDT") == []


def test_finished_orders_and_fills_are_paged_without_loss(alice: ccxt.kucoin) -> None:
    ids = [alice.create_order(BTC, "market", "buy", 0.0001, params={"clientOid": f"p-{n}"})["id"] for n in range(25)]

    def pages(read: Callable[[dict[str, Any]], Any]) -> list[list[dict[str, Any]]]:
        found: list[list[dict[str, Any]]] = []
        last_id = None
        while True:
            query = {"symbol": "BTC-USDT", "limit": 10, **({"lastId": last_id} if last_id else {})}
            page = read(query)["data"]
            if not page["items"]:
                return found
            found.append(page["items"])
            last_id = page["lastId"]

    done, fills = pages(alice.privateGetHfOrdersDone), pages(alice.privateGetHfFills)

    assert [len(page) for page in done] == [10, 10, 5]
    assert [order["id"] for page in done for order in page] == ids[::-1]
    assert [fill["orderId"] for page in fills for fill in page] == ids[::-1]
    assert len({fill["tradeId"] for page in fills for fill in page}) == 25
    assert len(alice.privateGetHfOrdersDone({"symbol": "BTC-USDT"})["data"]["items"]) == 20


def test_finished_orders_are_found_in_a_window_of_a_week_at_most(alice: ccxt.kucoin, simulator: Simulator) -> None:
    alice.create_order(BTC, "market", "buy", 0.001, params={"clientOid": "old"})
    simulator.control("clock", advance_s=8 * 86_400)
    alice.create_order(BTC, "market", "buy", 0.001, params={"clientOid": "new"})

    recent, older = alice.fetch_closed_orders(BTC), alice.fetch_closed_orders(BTC, since=START_MS)

    assert [order["clientOrderId"] for order in recent] == ["new"]
    assert [order["clientOrderId"] for order in older] == ["old"]
    with pytest.raises(ccxt.BadRequest, match="7 days"):
        alice.privateGetHfOrdersDone({"symbol": "BTC-USDT", "startAt": START_MS, "endAt": START_MS + 8 * 86_400_000})


def test_the_fills_of_one_order_are_found_by_its_id(alice: ccxt.kucoin) -> None:
    first = alice.create_order(BTC, "market", "buy", 0.001)
    alice.create_order(BTC, "market", "buy", 0.002)

    [fill] = alice.fetch_order_trades(first["id"], BTC)

    assert (fill["order"], fill["amount"], fill["fee"]) == (
        first["id"],
        0.001,
        {"currency": "USDT", "cost": 0.060003, "rate": 0.001},
    )


def test_trade_ids_repeat_from_symbol_to_symbol(alice: ccxt.kucoin) -> None:
    alice.create_order(BTC, "market", "buy", 0.001)
    alice.create_order("ETH/USDT", "market", "buy", 0.01)

    assert [alice.fetch_my_trades(symbol)[0]["id"] for symbol in (BTC, "ETH/USDT")] == ["1", "1"]


def test_the_oracle_knows_every_accepted_order_and_every_request(alice: ccxt.kucoin, simulator: Simulator) -> None:
    alice.create_order(BTC, "market", "buy", 0.001, params={"clientOid": "o-1"})
    alice.create_order(BTC, "limit", "buy", 0.001, 59_000, {"clientOid": "o-2"})
    with pytest.raises(ccxt.InsufficientFunds):
        alice.create_order(BTC, "market", "buy", 100, params={"clientOid": "o-3"})

    oracle = simulator.oracle(apiKey=KEY)

    assert [(order["clientOid"], order["status"]) for order in oracle["orders"]] == [("o-1", "done"), ("o-2", "open")]
    assert [fill["clientOid"] for fill in oracle["fills"]] == ["o-1"]
    posts = [line for line in oracle["requests"] if line["method"] == "POST"]
    assert [(line["clientOid"], line["code"]) for line in posts] == [
        ("o-1", "200000"),
        ("o-2", "200000"),
        ("o-3", "200004"),
    ]
    assert abs(oracle["orders"][0]["arrivedAt"] - alice.milliseconds()) < 60_000
    assert simulator.oracle(apiKey="somebody-else")["counts"] == {
        "orders": 0,
        "stopOrders": 0,
        "fills": 0,
        "requests": 0,
        "active": 0,
    }
