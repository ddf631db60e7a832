"""Stop orders through ccxt: what is sent of them, and how one is found wherever it is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from domain.market import OrderType, Side, Trigger
from exchanges import ccxt_stops
from exchanges.ccxt_gateway import CcxtGateway
from exchanges.gateway import ExchangeUnavailable, OrderOutcomeUnknown, OrderRejected
from tests.exchanges.canned import Asked, Canned
from tests.exchanges.conftest import Desk, ticket
from tests.simulator.conftest import START_MS

BTC = "BTC/USDT"
STOPS = "/api/v1/stop-order"
STOP_LOOK_UP = f"{STOPS}/queryOrderByClientOid"
LOOK_UP = "/api/v1/hf/orders/client-order/stop-1"
NOT_THERE = {"kind": "code", "code": "400100", "msg": "order not exist."}


def stop(client_order_id: str = "stop-1", **changes: Any) -> Any:
    """Sell 0.1 BTC at market once the price has fallen to 49,000, unless ``changes`` say otherwise."""
    fields = {"order_type": OrderType.STOP, "side": Side.SELL, "quantity": Decimal("0.1"), "trigger": Trigger.FALLING}
    return ticket(client_order_id, **{**fields, "stop_price": Decimal(49000), **changes})


def stop_row(number: int, **changes: Any) -> dict[str, Any]:
    """KuCoin's words for a stop order that waits."""
    row = {
        "id": f"vs{number:04}", "symbol": "BTC-USDT", "status": "NEW", "type": "market", "side": "sell", "price": None,
        "size": "0.1", "clientOid": f"stop-{number}", "createdAt": START_MS + number, "stop": "loss",
        "stopTriggerTime": None, "stopPrice": "49000", "tradeType": "TRADE",
    }  # fmt: skip
    return {**row, **changes}


CONTRACT = "BTC/USDT:USDT"
CONTRACT_ORDERS = "/api/v1/orders"
# KuCoin's words for a stop order on a contract that waits.
CONTRACT_ROW = {
    "id": "1", "symbol": "XBTUSDTM", "type": "market", "side": "sell", "price": None, "size": 7, "value": "0", "dealSize": 0,
    "stop": "down", "stopPriceType": "TP", "stopTriggered": None, "stopPrice": "49000", "leverage": "3",
    "clientOid": "stop-1", "isActive": True, "cancelExist": False, "createdAt": START_MS, "updatedAt": START_MS,
    "status": "open", "filledValue": "0", "filledSize": 0, "reduceOnly": True,
}  # fmt: skip
Contracts = Callable[[dict[str, Any]], tuple[Canned, CcxtGateway]]


@pytest.fixture
def contracts(desk: Desk) -> Contracts:
    """A gateway to contracts that answers from a table."""
    known = CcxtGateway("kucoinfutures", desk.simulator.url).markets()
    [info] = [one.venue_info for one in known if one.rules.symbol == CONTRACT]

    def opened(answers: dict[str, Any]) -> tuple[Canned, CcxtGateway]:
        table = Canned({name: {"code": "200000", "data": answer} for name, answer in answers.items()})
        return table, table.gateway("kucoinfutures", info)

    return opened


def canned(desk: Desk, answers: dict[str, Any]) -> tuple[Canned, CcxtGateway]:
    [info] = [one.venue_info for one in desk.gateway.markets() if one.rules.symbol == BTC]
    table = Canned({name: {"code": "200000", "data": answer} for name, answer in answers.items()})
    return table, table.gateway("kucoin", info)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, {"side": "sell", "type": "market", "stop": "loss", "stopPrice": "49000"}),
        ({"trigger": Trigger.RISING}, {"side": "sell", "type": "market", "stop": "entry", "stopPrice": "49000"}),
        (
            {"side": Side.BUY, "trigger": Trigger.RISING, "price": Decimal("49100.5")},
            {"side": "buy", "type": "limit", "stop": "entry", "stopPrice": "49000", "price": "49100.5"},
        ),
        (
            {"side": Side.BUY, "order_type": OrderType.LIMIT, "price": Decimal(48900)},
            {"side": "buy", "type": "limit", "stop": "loss", "stopPrice": "49000", "price": "48900"},
        ),
    ],
)
def test_a_stop_order_is_one_request_that_says_what_it_waits_for(
    desk: Desk, changes: dict[str, Any], said: dict[str, str]
) -> None:
    table, gateway = canned(desk, {f"POST {STOPS}": {"orderId": "vs1"}})

    made = gateway.order_create(stop(**changes))

    assert made == "vs1"
    assert table.lines() == [f"POST {STOPS}"]
    assert table.asked[0].form == {"clientOid": "stop-1", "symbol": "BTC-USDT", "size": "0.1", **said}


def test_a_late_stop_order_may_be_taken_for_nothing_is_written_of_its_deadline(desk: Desk) -> None:
    assert desk.gateway.refuses_late_requests
    assert not desk.gateway.refuses_late_stops


def test_a_stop_order_without_a_side_to_come_from_is_not_sent(desk: Desk) -> None:
    table, gateway = canned(desk, {})

    with pytest.raises(OrderRejected, match="wanted the side from which the stop price is met") as raised:
        gateway.order_create(stop(trigger=None))

    assert raised.value.code == "LOCAL"
    assert table.asked == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, {"side": "sell", "type": "market", "stop": "down"}),
        ({"trigger": Trigger.RISING}, {"side": "sell", "type": "market", "stop": "up"}),
        ({"side": Side.BUY}, {"side": "buy", "type": "market", "stop": "down"}),
        (
            {"side": Side.BUY, "trigger": Trigger.RISING, "price": Decimal(49100)},
            {"side": "buy", "type": "limit", "stop": "up", "price": "49100"},
        ),
    ],
)
def test_a_stop_order_on_contracts_waits_for_the_last_price_from_the_side_of_its_trigger(
    contracts: Contracts, changes: dict[str, Any], said: dict[str, Any]
) -> None:
    table, gateway = contracts({f"POST {CONTRACT_ORDERS}": {"orderId": "1"}})
    fields = {"symbol": CONTRACT, "quantity": Decimal(7), "leverage": Decimal(3), "is_reduce_only": True}

    made = gateway.order_create(stop(**{**fields, **changes}))

    assert (made, table.lines()) == ("1", [f"POST {CONTRACT_ORDERS}"])
    assert table.asked[0].form == {
        "clientOid": "stop-1", "symbol": "XBTUSDTM", "size": 7, "leverage": 3, "marginMode": "ISOLATED",
        "reduceOnly": True, "stopPrice": "49000", "stopPriceType": "TP", **said,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({"stopTriggered": None}, ("STOP", True, True, False, 0)),
        ({"stopTriggered": False}, ("STOP", True, True, False, 0)),
        ({"isActive": False, "cancelExist": True}, ("STOP", False, False, True, 0)),
        ({"isActive": False, "cancelExist": False}, ("STOP", False, False, True, 0)),
        ({"stopTriggered": True}, ("MARKET", False, True, False, 0)),
        ({"stopTriggered": True, "stop": "", "isActive": False, "filledSize": 7}, ("MARKET", False, False, False, 7)),
        ({"isActive": False, "filledSize": 7}, ("MARKET", False, False, False, 7)),
        (
            {"stopTriggered": True, "isActive": False, "cancelExist": True, "filledSize": 4},
            ("MARKET", False, False, True, 4),
        ),
        ({"stopTriggered": True, "isActive": False, "cancelExist": True}, ("MARKET", False, False, True, 0)),
    ],
)
def test_a_contract_s_stop_order_is_read_by_the_venue_s_own_words(
    contracts: Contracts, said: dict[str, Any], found: tuple[Any, ...]
) -> None:
    _, gateway = contracts({f"GET {CONTRACT_ORDERS}/byClientOid": {**CONTRACT_ROW, **said}})

    order = gateway.stop_find(CONTRACT, "stop-1")

    assert order is not None
    assert (order.order_type, order.is_waiting, order.is_open, order.is_canceled, order.filled) == found
    assert (order.exchange_order_id, order.quantity) == ("1", Decimal(7))


def test_one_that_was_met_and_shows_neither_a_fill_nor_a_cancellation_is_not_called_done(contracts: Contracts) -> None:
    row = {**CONTRACT_ROW, "stopTriggered": True, "isActive": False}
    _, gateway = contracts({f"GET {CONTRACT_ORDERS}/byClientOid": row})

    with pytest.raises(ExchangeUnavailable, match="the order that came of it is not shown") as raised:
        gateway.stop_find(CONTRACT, "stop-1")

    assert raised.value.is_answer


def test_where_a_contract_s_stop_order_is_not_known_there_is_none(contracts: Contracts) -> None:
    table, gateway = contracts({})
    table.answers[f"GET {CONTRACT_ORDERS}/byClientOid"] = {"code": "100001", "msg": "error.getOrder.orderNotExist"}

    assert gateway.stop_find(CONTRACT, "stop-1") is None


@pytest.mark.parametrize("ccxt_id", ["binance", "mexc"])
def test_where_nobody_wrote_down_how_stop_orders_are_kept_none_is_sent(ccxt_id: str) -> None:
    table = Canned({})
    gateway = table.gateway(ccxt_id)

    with pytest.raises(OrderRejected, match="wanted an order without a stop price") as raised:
        gateway.order_create(stop())

    assert raised.value.code == "LOCAL"
    assert not gateway.refuses_late_stops
    assert gateway.stops_open(BTC) == []
    assert not gateway.stop_cancel(BTC, "vs1")
    assert table.asked == []


@pytest.mark.parametrize("fault", [{"kind": "drop"}, {"kind": "body", "body": ""}, {"kind": "http", "status": 502}])
def test_a_stop_order_whose_answer_was_lost_is_unknown_and_found(desk: Desk, fault: dict[str, Any]) -> None:
    desk.fault(method="POST", path=STOPS, when="after", **fault)

    with pytest.raises(OrderOutcomeUnknown):
        desk.gateway.order_create(stop())

    found = desk.gateway.stop_find(BTC, "stop-1")
    assert found is not None
    assert found.is_waiting
    assert [order.exchange_order_id for order in desk.gateway.stops_open(BTC)] == [found.exchange_order_id]


def test_one_that_waits_is_one_question_and_what_it_became_is_two(desk: Desk) -> None:
    desk.gateway.order_create(stop())
    first = desk.asked_by(lambda: desk.gateway.stop_find(BTC, "stop-1"))

    desk.simulator.pin("48900")

    assert first == [("GET", STOP_LOOK_UP)]
    assert desk.asked_by(lambda: desk.gateway.stop_find(BTC, "stop-1")) == [("GET", STOP_LOOK_UP), ("GET", LOOK_UP)]


def test_what_it_became_has_another_id_and_the_same_name(desk: Desk) -> None:
    waited_as = desk.gateway.order_create(stop())
    desk.simulator.pin("48900")

    found = desk.gateway.stop_find(BTC, "stop-1")

    [order] = desk.orders()
    assert found is not None
    assert found == desk.gateway.order_get(BTC, order["id"])
    assert (found.exchange_order_id, found.client_order_id) == (order["id"], "stop-1")
    assert order["id"] != waited_as


def test_one_that_was_met_and_is_not_shown_as_an_order_is_not_gone_for_a_minute(desk: Desk) -> None:
    desk.gateway.order_create(stop())
    desk.simulator.pin("48900")
    desk.fault(method="GET", path=LOOK_UP, count=None, **NOT_THERE)

    with pytest.raises(ExchangeUnavailable, match="the stop price was met, and the order is not shown yet"):
        desk.gateway.stop_find(BTC, "stop-1")

    desk.simulator.control("clock", advance_s=int(ccxt_stops.BECOMES_WITHIN / timedelta(seconds=1)) + 1)
    assert desk.gateway.stop_find(BTC, "stop-1") is None


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "body", "body": '{"code":"200000","data":{}}'},
        {"kind": "body", "body": '{"code":"200000"}'},
        {"kind": "body", "body": '{"code":"200000","data":[{}]}'},
        {"kind": "body", "body": '{"code":"200000","data":[7]}'},
        {"kind": "http", "status": 503, "body": "<html></html>"},
        {"kind": "drop"},
    ],
)
def test_an_answer_that_makes_no_sense_is_not_taken_for_nothing_there(desk: Desk, fault: dict[str, Any]) -> None:
    desk.gateway.order_create(stop())
    desk.fault(method="GET", path=STOP_LOOK_UP, **fault)

    with pytest.raises(ExchangeUnavailable):
        desk.gateway.stop_find(BTC, "stop-1")


def test_an_answer_about_another_order_is_not_taken_for_ours(desk: Desk) -> None:
    _, gateway = canned(desk, {f"GET {STOP_LOOK_UP}": [stop_row(2)]})

    with pytest.raises(ExchangeUnavailable, match="something that is not the order"):
        gateway.stop_find(BTC, "stop-1")


@pytest.mark.parametrize("status", ["fail", "CANCELED"])
def test_one_that_failed_when_it_was_met_is_cancelled(desk: Desk, status: str) -> None:
    _, gateway = canned(desk, {f"GET {STOP_LOOK_UP}": [stop_row(1, status=status)]})

    found = gateway.stop_find(BTC, "stop-1")

    assert found is not None
    assert (found.is_open, found.is_waiting, found.is_canceled, found.filled) == (False, False, True, Decimal(0))


def test_a_long_list_is_read_page_by_page(desk: Desk) -> None:
    rows = [stop_row(number) for number in range(501)]

    def page(asked: Asked) -> Any:
        size, number = int(asked.query["pageSize"]), int(asked.query["currentPage"])
        return {"code": "200000", "data": {"items": rows[::-1][size * (number - 1) : size * number]}}

    table, _ = canned(desk, {})
    table.answers[f"GET {STOPS}"] = page
    gateway = table.gateway("kucoin", *[one.venue_info for one in desk.gateway.markets() if one.rules.symbol == BTC])

    found = gateway.stops_open(BTC)

    assert [order.client_order_id for order in found] == [f"stop-{number}" for number in range(501)]
    assert table.lines() == [f"GET {STOPS}"] * 2


def test_a_list_whose_pages_bring_nothing_new_ends(desk: Desk) -> None:
    rows = [stop_row(number) for number in range(500)]
    table, gateway = canned(desk, {f"GET {STOPS}": {"items": rows}})

    assert len(gateway.stops_open(BTC)) == 500
    assert table.lines() == [f"GET {STOPS}"] * 2
