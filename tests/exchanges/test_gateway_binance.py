"""Binance as the second venue that is described: what is sent there, and what its answers mean."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import formatdate
from typing import Any

import pytest

from domain.market import OrderType, Side
from exchanges.gateway import (
    CandleReport,
    ExchangeUnavailable,
    FillReport,
    KeyRights,
    OrderOutcomeUnknown,
    OrderRejected,
    OrderReport,
    QuoteReport,
    TradeReport,
    VenueStatus,
)
from tests.exchanges.canned import Asked, Canned
from tests.exchanges.conftest import ticket

INFO: dict[str, Any] = {
    "timezone": "UTC", "serverTime": 1714560000000, "rateLimits": [], "exchangeFilters": [],
    "symbols": [
        {
            "symbol": "BTCUSDT", "status": "TRADING", "baseAsset": "BTC", "baseAssetPrecision": 8, "quoteAsset": "USDT",
            "quotePrecision": 8, "quoteAssetPrecision": 8, "baseCommissionPrecision": 8, "quoteCommissionPrecision": 8,
            "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET"], "isSpotTradingAllowed": True, "permissions": ["SPOT"],
            "permissionSets": [["SPOT"]],
            "filters": [
                {"filterType": "PRICE_FILTER", "minPrice": "0.01000000", "maxPrice": "1000000.00000000",
                 "tickSize": "0.01000000"},
                {"filterType": "LOT_SIZE", "minQty": "0.00001000", "maxQty": "9000.00000000", "stepSize": "0.00001000"},
                {"filterType": "NOTIONAL", "minNotional": "5.00000000", "applyMinToMarket": True,
                 "maxNotional": "9000000.00000000", "applyMaxToMarket": False, "avgPriceMins": 5},
            ],
        },
    ],
}  # fmt: skip
ORDER: dict[str, Any] = {
    "symbol": "BTCUSDT", "orderId": 28, "orderListId": -1, "clientOrderId": "order-1", "price": "40000.00000000",
    "origQty": "0.02000000", "executedQty": "0.00500000", "cummulativeQuoteQty": "200.00000001", "status": "PARTIALLY_FILLED",
    "timeInForce": "GTC", "type": "LIMIT", "side": "BUY", "stopPrice": "0.00000000", "icebergQty": "0.00000000",
    "time": 1714560000123, "updateTime": 1714560005000, "isWorking": True, "workingTime": 1714560000123,
    "origQuoteOrderQty": "0.00000000", "selfTradePreventionMode": "NONE",
}  # fmt: skip
TRADE: dict[str, Any] = {
    "symbol": "BTCUSDT", "id": 1001, "orderId": 28, "orderListId": -1, "price": "40000.00000000", "qty": "0.00500000",
    "quoteQty": "200.00000000", "commission": "0.00000321", "commissionAsset": "BNB", "time": 1714560000500,
    "isBuyer": True, "isMaker": False, "isBestMatch": True,
}  # fmt: skip
SINCE = datetime(2024, 5, 1, 10, 40, tzinfo=UTC)
SEND = "POST /api/v3/order"


def opened(answers: dict[str, Any] | None = None, status: int = 200, **headers: str) -> tuple[Canned, Any]:
    """The table and a gateway that knows BTC/USDT; ``answers`` come with ``status``."""
    canned = Canned({"GET /api/v3/exchangeInfo": INFO})
    market = canned.gateway("binance").markets()[0]
    canned = Canned(answers or {}, dict.fromkeys(answers or {}, status), headers)
    return canned, canned.gateway("binance", market.venue_info)


def test_its_markets_are_one_request_for_spot_with_exact_rules() -> None:
    canned = Canned({"GET /api/v3/exchangeInfo": INFO})

    [report] = canned.gateway("binance").markets()

    rules = report.rules
    assert canned.lines() == ["GET /api/v3/exchangeInfo"]
    assert canned.asked[0].url.startswith("https://api.binance.com/api/v3/exchangeInfo")
    assert (rules.symbol, rules.base, rules.quote, report.kind) == ("BTC/USDT", "BTC", "USDT", "SPOT")
    assert (rules.tick_size, rules.lot_size) == (Decimal("0.01"), Decimal("0.00001"))
    assert (rules.min_quantity, rules.max_quantity) == (Decimal("0.00001"), Decimal(9000))
    assert rules.min_notional == 5
    assert report.is_active


def test_an_order_is_one_request_with_our_id_and_a_window_that_ends_with_ours() -> None:
    canned, gateway = opened({SEND: {**ORDER, "fills": []}})
    order = ticket(order_type=OrderType.LIMIT, price=Decimal("40000.1"))

    assert gateway.order_create(order) == "28"

    [sent] = canned.asked
    form = sent.form
    assert canned.lines() == [SEND]
    assert (form["symbol"], form["side"], form["type"], form["newClientOrderId"]) == (
        "BTCUSDT",
        "BUY",
        "LIMIT",
        "order-1",
    )
    assert (Decimal(form["quantity"]), Decimal(form["price"])) == (Decimal("0.02"), Decimal("40000.1"))
    assert form["recvWindow"] == "5000"
    assert int(form["timestamp"]) == int(order.sent_at.timestamp() * 1000)
    assert sent.headers["X-MBX-APIKEY"] == "key-of-bob"
    assert "signature" in form
    assert gateway.refuses_late_requests


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (-2010, "Account has insufficient balance for requested action."),
        (-2010, "Market is closed."),
        (-1013, "Filter failure: LOT_SIZE"),
        (-1013, "Filter failure: PRICE_FILTER"),
        (-1013, "Filter failure: NOTIONAL"),
        (-1013, "Filter failure: MAX_NUM_ORDERS"),
        (-1013, "Invalid quantity."),
        (-1111, "Precision is over the maximum defined for this asset."),
        (-1121, "Invalid symbol."),
    ],
)
@pytest.mark.parametrize("status", [400, 200])
def test_a_code_of_the_white_list_is_a_rejection_with_that_code(code: int, message: str, status: int) -> None:
    canned, gateway = opened({SEND: {"code": code, "msg": message}}, status)

    with pytest.raises(OrderRejected) as raised:
        gateway.order_create(ticket())

    assert (raised.value.code, raised.value.is_refused_key) == (str(code), False)
    assert len(canned.asked) == 1


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (-2010, "Duplicate order sent."),
        (-2010, "Order would immediately match and take, or something new."),
        (-1013, "Something new."),
        (-1000, "An unknown error occurred while processing the request."),
        (-1001, "Internal error; unable to process your request. Please try again."),
        (-1006, "An unexpected response was received from the message bus. Execution status unknown."),
        (-1007, "Timeout waiting for response from backend server. Send status unknown; execution status unknown."),
        (-9999, "who knows"),
    ],
)
@pytest.mark.parametrize("status", [400, 503, 200])
def test_a_code_that_proves_nothing_leaves_the_outcome_unknown(code: int, message: str, status: int) -> None:
    canned, gateway = opened({SEND: {"code": code, "msg": message}}, status)

    with pytest.raises(OrderOutcomeUnknown):
        gateway.order_create(ticket())

    assert len(canned.asked) == 1


@pytest.mark.parametrize("body", ["<html>504</html>", "", "[]", "{}", "7", '{"orderId":null}', '{"symbol":"BTCUSDT"'])
@pytest.mark.parametrize("status", [200, 400, 403, 418, 429, 500, 504, 524])
def test_what_is_no_answer_leaves_the_outcome_unknown(body: str, status: int) -> None:
    canned, gateway = opened({SEND: body}, status)

    with pytest.raises(OrderOutcomeUnknown):
        gateway.order_create(ticket())

    assert len(canned.asked) == 1


@pytest.mark.parametrize("code", [-2014, -2015, -1022, -1002])
def test_refused_keys_are_told_of_orders_and_of_reads(code: int) -> None:
    answer = {"code": code, "msg": "Invalid API-key, IP, or permissions for action."}
    _, gateway = opened({SEND: answer, "GET /api/v3/account": answer}, 401)

    with pytest.raises(OrderRejected) as rejected:
        gateway.order_create(ticket())
    with pytest.raises(ExchangeUnavailable) as unavailable:
        gateway.balances()

    assert (rejected.value.code, rejected.value.is_refused_key) == (str(code), True)
    assert unavailable.value.is_refused_key


@pytest.mark.parametrize(("status", "code"), [(429, -1003), (418, -1003), (429, -1015), (400, -1015)])
def test_too_many_requests_may_be_sent_again_when_the_header_says(status: int, code: int) -> None:
    _, gateway = opened({SEND: {"code": code, "msg": "Too many."}}, status, **{"Retry-After": "7"})

    with pytest.raises(ExchangeUnavailable) as raised:
        gateway.order_create(ticket())

    assert raised.value.retry_after == timedelta(seconds=7)


def test_a_wrong_clock_is_refused_once_and_then_known() -> None:
    behind = formatdate(datetime.now(tz=UTC).timestamp() - 30, usegmt=True)
    answer = {"code": -1021, "msg": "Timestamp for this request was 1000ms ahead of the server's time."}
    canned, gateway = opened({SEND: answer}, 400, Date=behind)
    order = ticket()

    with pytest.raises(ExchangeUnavailable, match=r"our clock is \+(29|30)\.\d s off"):
        gateway.order_create(order)
    with pytest.raises(ExchangeUnavailable):
        gateway.order_create(order)

    first, second = (int(one.form["timestamp"]) for one in canned.asked)
    assert first == int(order.sent_at.timestamp() * 1000)
    assert 29_000 < first - second < 31_000


def test_an_order_is_found_by_our_id_and_by_theirs_in_one_request_each() -> None:
    canned, gateway = opened({"GET /api/v3/order": ORDER})

    found, got = gateway.order_find("BTC/USDT", "order-1"), gateway.order_get("BTC/USDT", "28")

    assert [one.query.get("origClientOrderId", one.query.get("orderId")) for one in canned.asked] == ["order-1", "28"]
    assert found == got
    assert found == OrderReport(
        "28", "order-1", "BTC/USDT", Side.BUY, Decimal("0.02"), Decimal("0.005"), Decimal("200.00000001"), is_open=True,
        is_canceled=False, order_type=OrderType.LIMIT, price=Decimal(40000),
        created_at=SINCE + timedelta(milliseconds=123),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("status", "is_open", "is_canceled"),
    [
        ("NEW", True, False),
        ("PARTIALLY_FILLED", True, False),
        ("PENDING_CANCEL", True, False),
        ("FILLED", False, False),
        ("CANCELED", False, True),
        ("EXPIRED", False, True),
        ("EXPIRED_IN_MATCH", False, True),
        ("REJECTED", False, True),
    ],
)
def test_each_status_is_open_done_or_cancelled(status: str, is_open: bool, is_canceled: bool) -> None:
    _, gateway = opened({"GET /api/v3/order": {**ORDER, "status": status}})

    found = gateway.order_find("BTC/USDT", "order-1")

    assert (found.is_open, found.is_canceled) == (is_open, is_canceled)


def test_a_status_nobody_has_described_is_no_order() -> None:
    _, gateway = opened({"GET /api/v3/order": {**ORDER, "status": "HALF_WAY"}})

    with pytest.raises(ExchangeUnavailable):
        gateway.order_find("BTC/USDT", "order-1")


def test_an_order_nobody_sent_is_not_found_and_cancelling_what_is_done_is_no_error() -> None:
    _, gateway = opened({"GET /api/v3/order": {"code": -2013, "msg": "Order does not exist."},
                         "DELETE /api/v3/order": {"code": -2011, "msg": "Unknown order sent."}}, 400)  # fmt: skip

    assert gateway.order_find("BTC/USDT", "order-1") is None
    assert gateway.order_get("BTC/USDT", "28") is None
    gateway.order_cancel("BTC/USDT", "28")


def test_a_cancel_refused_for_another_reason_is_not_taken_for_done() -> None:
    _, gateway = opened({"DELETE /api/v3/order": {"code": -2011, "msg": "The system is restarting."}}, 400)

    with pytest.raises(ExchangeUnavailable):
        gateway.order_cancel("BTC/USDT", "28")


def from_start(rows: list[dict[str, Any]]) -> Any:
    """Rows as Binance gives them: from startTime on (or after fromId), oldest first, ``limit`` at most."""

    def answer(asked: Asked) -> list[dict[str, Any]]:
        start, first = int(asked.query.get("startTime", 0)), int(asked.query.get("fromId", 0))
        chosen = [row for row in rows if row["time"] >= start and row.get("id", first) >= first]
        return chosen[: int(asked.query["limit"])]

    return answer


def test_done_orders_are_every_order_that_is_not_open_page_by_page() -> None:
    at = ORDER["time"]
    states = ["FILLED", "CANCELED", "EXPIRED", "NEW"]
    rows = [
        {**ORDER, "orderId": n, "clientOrderId": f"o{n}", "time": at + n, "status": states[n % 4]} for n in range(1500)
    ]
    canned, gateway = opened({"GET /api/v3/allOrders": from_start(rows)})

    found = gateway.orders_done("BTC/USDT", SINCE)

    assert [order.client_order_id for order in found] == [f"o{n}" for n in range(1500) if n % 4 != 3]
    assert canned.lines() == ["GET /api/v3/allOrders"] * 2


def test_fills_are_read_page_by_page_with_the_fee_in_its_currency() -> None:
    rows = [{**TRADE, "id": n, "time": TRADE["time"] + n} for n in range(1001)]
    canned, gateway = opened({"GET /api/v3/myTrades": from_start(rows)})

    since, of_order = gateway.fills_since("BTC/USDT", SINCE), gateway.order_fills("BTC/USDT", "28")

    assert [fill.trade_id for fill in since] == [fill.trade_id for fill in of_order] == [str(n) for n in range(1001)]
    assert len(canned.asked) == 4
    assert since[0] == FillReport(
        "0", "28", "BTC/USDT", Side.BUY, Decimal("0.005"), Decimal(40000), Decimal("0.00000321"), "BNB",
        SINCE + timedelta(milliseconds=500),
    )  # fmt: skip


def test_what_the_venue_gives_from_before_is_left_out() -> None:
    before = {"time": TRADE["time"] - 60_000}
    _, gateway = opened(
        {
            "GET /api/v3/myTrades": [{**TRADE, **before}, {**TRADE, "id": 1002}],
            "GET /api/v3/allOrders": [{**ORDER, **before, "status": "FILLED"}],
        }
    )

    assert [fill.trade_id for fill in gateway.fills_since("BTC/USDT", SINCE)] == ["1002"]
    assert gateway.orders_done("BTC/USDT", SINCE) == []


def test_open_orders_balances_status_rights_and_symbols() -> None:
    canned, gateway = opened(
        {
            "GET /api/v3/openOrders": [ORDER],
            "GET /api/v3/account": {"balances": [{"asset": "BTC", "free": "0.10000000", "locked": "0.00000001"}]},
            "GET /sapi/v1/system/status": {"status": 0, "msg": "normal"},
            "GET /sapi/v1/account/apiRestrictions": {
                "ipRestrict": False, "enableReading": True, "enableSpotAndMarginTrading": True, "enableWithdrawals": True,
            },
        }
    )  # fmt: skip

    assert [order.exchange_order_id for order in gateway.orders_open("BTC/USDT")] == ["28"]
    assert [(row.currency, row.total, row.free) for row in gateway.balances()] == [
        ("BTC", Decimal("0.10000001"), Decimal("0.1"))
    ]
    assert gateway.status().status is VenueStatus.OPEN
    assert gateway.key_rights() == KeyRights(can_trade=True, can_withdraw=True, is_bound_to_addresses=False)
    assert gateway.symbols_open() == ["BTC/USDT"]
    assert len(canned.asked) == 5


def test_candles_and_quotes_are_exact_and_one_request_each() -> None:
    canned, gateway = opened(
        {
            "GET /api/v3/klines": [
                [1714560000000, "50000.01", "50010.00", "49990.00", "50005.50", "1.23456789", 1714560059999, "61728.0", 9,
                 "0.5", "25000.0", "0"],
            ],
            "GET /api/v3/ticker/24hr": [
                {"symbol": "BTCUSDT", "bidPrice": "50005.49", "askPrice": "50005.51", "lastPrice": "50005.50",
                 "openPrice": "50000", "highPrice": "50010", "lowPrice": "49990", "volume": "1", "quoteVolume": "50000",
                 "closeTime": 1714560059999, "bidQty": "1", "askQty": "1", "weightedAvgPrice": "50001"},
            ],
        }
    )  # fmt: skip

    [candle] = gateway.candles("BTC/USDT", "1m", SINCE, 10)
    [quote] = gateway.quotes(["BTC/USDT", "NOPE/USDT"])

    figures = ("50000.01", "50010", "49990", "50005.5", "1.23456789")
    assert candle == CandleReport(SINCE, *(Decimal(figure) for figure in figures))
    assert quote == QuoteReport("BTC/USDT", Decimal("50005.49"), Decimal("50005.51"), Decimal("50005.5"))
    assert canned.lines() == ["GET /api/v3/klines", "GET /api/v3/ticker/24hr"]


def test_a_venue_in_maintenance_says_so() -> None:
    _, gateway = opened({"GET /sapi/v1/system/status": {"status": 1, "msg": "system_maintenance"}})

    report = gateway.status()

    assert (report.status, report.message) == (VenueStatus.CLOSED, "maintenance")


def test_another_address_keeps_the_paths() -> None:
    canned = Canned({"GET /net/api/v3/time": {"serverTime": 1714560000123}})

    at = canned.gateway("binance", base_url="http://127.0.0.1:9/net").time()

    assert at == SINCE + timedelta(milliseconds=123)
    assert [one.url for one in canned.asked] == ["http://127.0.0.1:9/net/api/v3/time"]


def test_trades_are_asked_for_up_to_now_though_the_venue_would_end_an_hour_later() -> None:
    rows = [
        {
            "a": 26129,
            "p": "0.01633102",
            "q": "4.70443515",
            "f": 27781,
            "l": 27781,
            "T": 1498793709153,
            "m": True,
            "M": True,
        }
    ]
    canned, gateway = opened({"GET /api/v3/aggTrades": rows})
    at = datetime(2017, 6, 30, 3, 35, 9, 153000, tzinfo=UTC)

    trades = gateway.trades_since("BTC/USDT", at, 1000)

    assert trades == [TradeReport("26129", at, False, Decimal("0.01633102"), Decimal("4.70443515"))]
    asked = canned.asked[-1].query
    assert (asked["startTime"], asked["limit"]) == ("1498793709153", "1000")
    assert int(asked["endTime"]) > 1_700_000_000_000
