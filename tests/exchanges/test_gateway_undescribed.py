"""An exchange that nobody has described: everything ccxt can do there, and nothing believed that it does not prove."""

from __future__ import annotations

import traceback
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from domain.market import OrderType
from exchanges.ccxt_gateway import CcxtGateway, ccxt_load, is_ccxt_exchange
from exchanges.gateway import (
    ExchangeUnavailable,
    Gateway,
    KeyRights,
    OrderOutcomeUnknown,
    OrderRejected,
    StatusReport,
    VenueStatus,
)
from exchanges.venues import VENUES
from tests.exchanges.canned import Asked, Canned
from tests.exchanges.conftest import ticket

BTC = {
    "symbol": "BTC/USDT", "id": "BTCUSDT", "base": "BTC", "quote": "USDT", "baseId": "BTC", "quoteId": "USDT",
    "type": "spot", "spot": True, "swap": False, "active": True,
    "precision": {"amount": "0.000001", "price": "0.01"}, "limits": {},
}  # fmt: skip
NOW = datetime.now(tz=UTC).replace(microsecond=0)
NOW_MS = int(NOW.timestamp() * 1000)
ORDER: dict[str, Any] = {
    "symbol": "BTCUSDT", "orderId": "C02__1", "clientOrderId": "order-1", "price": "40000", "origQty": "0.02",
    "executedQty": "0.01", "cummulativeQuoteQty": "400.00000001", "status": "PARTIALLY_FILLED", "type": "LIMIT",
    "side": "BUY", "time": NOW_MS - 60_000, "updateTime": NOW_MS - 50_000, "isWorking": True,
}  # fmt: skip
CLOCK = {"serverTime": NOW_MS}
OPEN, DONE, SEND = "GET /api/v3/openOrders", "GET /api/v3/allOrders", "POST /api/v3/order"


def opened(answers: dict[str, Any], status: int = 200) -> tuple[Canned, CcxtGateway]:
    """The table, and a gateway to mexc, which nobody has described, that knows BTC/USDT."""
    assert "mexc" not in VENUES
    canned = Canned({"GET /api/v3/time": CLOCK, **answers}, dict.fromkeys(answers, status))
    return canned, canned.gateway("mexc", BTC)


def test_any_exchange_that_ccxt_has_can_be_opened() -> None:
    names = ccxt_load().exchanges

    gateways: list[Gateway] = [CcxtGateway(name) for name in names]

    assert len(gateways) > 90
    late = {name for name, gateway in zip(names, gateways, strict=True) if gateway.refuses_late_requests}
    assert late == {"kucoin", "kucoinfutures", "binance"}
    assert not is_ccxt_exchange("nowhere")


def test_an_order_is_one_request_with_our_id() -> None:
    canned, gateway = opened({SEND: {"symbol": "BTCUSDT", "orderId": "C02__1"}})

    made = gateway.order_create(ticket(order_type=OrderType.LIMIT, price=Decimal(40000)))

    assert made == "C02__1"
    assert canned.lines() == [SEND]
    assert canned.asked[0].query["newClientOrderId"] == "order-1"
    assert not gateway.refuses_late_requests


@pytest.mark.parametrize(
    "answer",
    [
        {"code": 30004, "msg": "Insufficient position"},
        {"code": 10072, "msg": "Api key info invalid"},
        {"code": 700003, "msg": "Timestamp for this request is outside of the recvWindow."},
        {"code": 429, "msg": "Too Many Requests"},
        {"code": 1, "msg": "who knows"},
        {},
        "<html>502</html>",
        "",
    ],
)
@pytest.mark.parametrize("status", [200, 400, 401, 429, 502])
def test_whatever_it_says_to_an_order_leaves_the_outcome_unknown(answer: Any, status: int) -> None:
    canned, gateway = opened({SEND: answer}, status)

    with pytest.raises(OrderOutcomeUnknown):
        gateway.order_create(ticket(order_type=OrderType.LIMIT, price=Decimal(40000)))

    assert canned.lines() == [SEND]


def test_what_ccxt_proves_before_a_request_is_a_rejection() -> None:
    canned, gateway = opened({})

    for changes in ({"symbol": "NOPE/USDT"}, {"quantity": Decimal("0.0000001")}):
        with pytest.raises(OrderRejected) as raised:
            gateway.order_create(ticket(**changes))
        assert raised.value.code == "LOCAL"

    assert canned.asked == []


def test_leverage_is_refused_where_nobody_has_described_how_the_venue_is_told_of_it() -> None:
    canned, gateway = opened({})

    with pytest.raises(OrderRejected, match="wanted a leverage of 1 .*, was 3") as raised:
        gateway.order_create(ticket(leverage=Decimal(3)))

    assert raised.value.code == "LOCAL"
    assert gateway.positions() == []  # it knows of no contracts
    assert gateway.fundings_since("BTC/USDT", NOW) == []
    assert canned.asked == []


@pytest.mark.parametrize("place", [OPEN, DONE])
def test_an_order_is_looked_for_among_the_open_and_the_done(place: str) -> None:
    canned, gateway = opened({OPEN: [], DONE: [], place: [{**ORDER, "clientOrderId": "order-0"}, ORDER]})

    found = gateway.order_find("BTC/USDT", "order-1")

    assert found is not None
    assert (found.exchange_order_id, found.client_order_id, found.is_open) == ("C02__1", "order-1", True)
    assert (found.quantity, found.filled, found.filled_quote) == (
        Decimal("0.02"), Decimal("0.01"), Decimal("400.00000001"),
    )  # fmt: skip
    assert canned.lines()[0] == OPEN


def test_an_order_that_is_in_neither_list_is_not_found() -> None:
    _, gateway = opened({OPEN: [{**ORDER, "clientOrderId": "order-2"}], DONE: [{**ORDER, "clientOrderId": "order-3"}]})

    assert gateway.order_find("BTC/USDT", "order-1") is None


@pytest.mark.parametrize(
    "lists", [{OPEN: []}, {DONE: []}, {OPEN: [], DONE: "<html></html>"}, {OPEN: {"code": 1}, DONE: []}]
)
def test_a_list_that_cannot_be_read_proves_nothing(lists: dict[str, Any]) -> None:
    _, gateway = opened(lists)

    with pytest.raises(ExchangeUnavailable):
        gateway.order_find("BTC/USDT", "order-1")


def test_an_order_without_its_senders_id_may_be_ours() -> None:
    _, gateway = opened({OPEN: [{**ORDER, "clientOrderId": ""}], DONE: []})

    with pytest.raises(ExchangeUnavailable, match="one of them may be this one"):
        gateway.order_find("BTC/USDT", "order-1")


def test_a_venue_without_a_list_of_done_orders_never_says_that_there_is_no_such_order() -> None:
    canned = Canned({"*/open_orders/*": []})
    gateway = canned.gateway("bitstamp", BTC)

    with pytest.raises(ExchangeUnavailable, match="bitstamp"):
        gateway.order_find("BTC/USDT", "order-1")
    with pytest.raises(ExchangeUnavailable, match="bitstamp does not list orders that are done"):
        gateway.orders_done("BTC/USDT", NOW)


def test_done_orders_are_read_to_both_ends_and_open_ones_left_out() -> None:
    rows = [
        {**ORDER, "orderId": f"C02__{n}", "clientOrderId": f"o{n}", "time": NOW_MS + n, "status": status}
        for n, status in enumerate(["FILLED", "CANCELED", "NEW", "PARTIALLY_CANCELED", "FILLED"])
    ]

    def newest_two(asked: Asked) -> list[dict[str, Any]]:
        start, end = int(asked.query.get("startTime", 0)), int(asked.query.get("endTime", 10**15))
        return [row for row in rows if start <= row["time"] <= end][-2:]

    _, gateway = opened({DONE: newest_two})

    found = gateway.orders_done("BTC/USDT", NOW)

    assert [(order.client_order_id, order.is_canceled) for order in found] == [
        ("o0", False), ("o1", True), ("o3", True), ("o4", False),
    ]  # fmt: skip
    assert found[0].created_at == NOW


def test_fills_are_told_since_a_time_and_those_of_an_order_are_picked_out_of_all_since_it_was_made() -> None:
    trade = {
        "symbol": "BTCUSDT", "id": "f1", "orderId": "C02__1", "price": "40000", "qty": "0.01", "quoteQty": "400",
        "commission": "0.4", "commissionAsset": "USDT", "time": NOW_MS, "isBuyer": True, "isMaker": False,
    }  # fmt: skip
    trades = [trade, {**trade, "id": "f2", "orderId": "C02__2"}, {**trade, "id": "f3", "time": NOW_MS + 1}]
    canned, gateway = opened({"GET /api/v3/order": ORDER, "GET /api/v3/myTrades": trades})

    assert [fill.trade_id for fill in gateway.fills_since("BTC/USDT", NOW)] == ["f1", "f2", "f3"]
    assert [fill.trade_id for fill in gateway.fills_since("BTC/USDT", NOW + timedelta(milliseconds=1))] == ["f3"]
    canned.asked.clear()
    first, second = gateway.order_fills("BTC/USDT", "C02__1")
    assert (first.trade_id, second.trade_id, first.exchange_order_id) == ("f1", "f3", "C02__1")
    assert (first.fee, first.fee_currency) == (Decimal("0.4"), "USDT")
    assert int(canned.asked[1].query["startTime"]) == ORDER["time"]


def test_what_it_does_not_tell_is_not_made_up() -> None:
    canned, gateway = opened({})
    bitstamp = Canned().gateway("bitstamp", BTC)

    assert gateway.key_rights() == KeyRights(None, None, None)
    assert gateway.symbols_open() is None
    assert canned.asked == []
    assert bitstamp.status() == StatusReport(VenueStatus.OPEN)


def test_its_own_word_about_its_state_counts_where_it_has_one() -> None:
    _, up = opened({"GET /api/v3/ping": {}})
    _, down = opened({"GET /api/v3/ping": {"msg": "back soon"}})

    assert up.status().status is VenueStatus.OPEN
    assert down.status() == StatusReport(VenueStatus.CLOSED, '{"msg":"back soon"}')


def test_prices_in_significant_digits_have_no_tick_and_are_refused() -> None:
    with pytest.raises(ExchangeUnavailable, match="bitfinex has significant digits"):
        Canned().gateway("bitfinex").markets()


@pytest.mark.parametrize("ccxt_id", ["bitfinex", "mexc"])
def test_markets_that_cannot_be_read_cost_a_gateway_none_of_its_keys(ccxt_id: str) -> None:
    gateway = Canned({"GET /*": "<html></html>"}).gateway(ccxt_id)

    with pytest.raises(ExchangeUnavailable):
        gateway.markets()

    assert gateway._venue.apiKey == "key-of-bob"
    assert gateway._venue.secret == "canary-secret-of-bob"


def test_a_venue_that_repeats_a_key_does_not_bring_it_into_our_words() -> None:
    refusal = {"code": 10072, "msg": "no such key: key-of-bob"}
    _, gateway = opened({"GET /api/v3/account": refusal, SEND: refusal}, status=400)

    with pytest.raises(ExchangeUnavailable, match="no such key: …") as read:
        gateway.balances()
    with pytest.raises(OrderOutcomeUnknown, match="no such key: …") as sent:
        gateway.order_create(ticket())

    # What a log shows of an error is its causes too.
    for error in (read.value, sent.value):
        assert "key-of-bob" not in "".join(traceback.format_exception(error))


def test_a_page_in_the_middle_is_not_taken_for_nothing() -> None:
    _, gateway = opened({OPEN: "<html></html>", "GET /api/v3/myTrades": "", "GET /api/v3/account": "<html></html>"})

    for read in (
        lambda: gateway.orders_open("BTC/USDT"),
        lambda: gateway.fills_since("BTC/USDT", NOW),
        gateway.balances,
    ):
        with pytest.raises(ExchangeUnavailable):
            read()
