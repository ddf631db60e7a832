"""What becomes of an order that is sent: refused, unknown, or there; and how it is found again."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import requests

from domain.market import OrderType, Side
from exchanges.ccxt_gateway import CcxtGateway
from exchanges.credentials import Credentials
from exchanges.gateway import ExchangeUnavailable, FillReport, OrderOutcomeUnknown, OrderRejected
from exchanges.venues import VENUES
from tests.exchanges.conftest import CREDENTIALS, START_AT, Desk, ticket
from tests.simulator.conftest import KEY, SECRET

HTML = "<html><body>Bad Gateway</body></html>"
ORDERS = "/api/v1/hf/orders"

# Codes and messages of KuCoin's after which the order certainly does not exist.
REJECTIONS = [
    *("200001", "200003", "200004", "210021", "230003", "260100", "600100", "600101", "600203", "300000", "300003"),
    *("400370", "400350", "400760", "400200", "400400", "400600", "400000", "900001", "400303", "101030", "112010"),
    *("400500", "404000"),
]
REJECTION_MESSAGES = [
    "account.available.amount",
    "Order size below the minimum requirement.",
    "The quantity is below the minimum requirement.",
]
REFUSED_KEYS = ["400001", "400003", "400004", "400005", "400006", "400007", "400401", "411100"]
NOT_LOOKED_AT = ["400002", "429000", "429"]
UNKNOWNS = ["500000", "500", "503", "408000", "126044", "126033", "200002", "999999"]

FAILURES: dict[str, dict[str, Any]] = {
    "hang": {"kind": "hang"},
    "drop": {"kind": "drop"},
    **{f"http {status}": {"kind": "http", "status": status, "body": HTML} for status in (400, 403, 500, 502, 503, 504)},
    **{f"http {status}": {"kind": "http", "status": status, "body": HTML} for status in (401, 429, 520, 523, 524)},
    "http 523, empty": {"kind": "http", "status": 523, "body": ""},
    "html": {"kind": "body", "body": HTML},
    "empty": {"kind": "body", "body": ""},
    "truncated": {"kind": "body", "body": '{"code":"200000","data":{"orderId":"5c35c0'},
    "no data": {"kind": "body", "body": '{"code":"200000"}'},
    "null data": {"kind": "body", "body": '{"code":"200000","data":null}'},
    "no order id": {"kind": "body", "body": '{"code":"200000","data":{}}'},
    "a number": {"kind": "body", "body": "7"},
    "a list": {"kind": "body", "body": "[]"},
    "no code": {"kind": "body", "body": '{"msg":"hello"}'},
}


def test_an_order_is_one_request_and_answers_with_the_venues_id(desk: Desk) -> None:
    ids: list[str] = []

    asked = desk.asked_by(lambda: ids.append(desk.gateway.order_create(ticket())))

    [order] = desk.orders()
    assert asked == [("POST", ORDERS)]
    assert ids == [order["id"]]
    assert (order["clientOid"], order["side"], order["type"], order["size"]) == ("order-1", "buy", "market", "0.02")


def test_a_first_order_on_a_new_gateway_is_the_first_request(desk: Desk) -> None:
    infos = [(report.rules.symbol, report.venue_info) for report in desk.gateway.markets()]
    gateway = CcxtGateway("kucoin", desk.simulator.url, CREDENTIALS)
    gateway.know(infos)

    assert desk.asked_by(lambda: gateway.order_create(ticket())) == [("POST", ORDERS)]


@pytest.mark.parametrize("quantity", ["0.00000001", "0.000000500000000000", "1E-7", "1E+0", "0.12345678"])
def test_a_quantity_arrives_digit_by_digit_however_it_is_written(desk: Desk, quantity: str) -> None:
    desk.simulator.control(
        "symbols", symbol="BTC-USDT", baseIncrement="0.00000001", baseMinSize="0.00000001", minFunds="0"
    )
    gateway = desk.opened()

    gateway.order_create(ticket(quantity=Decimal(quantity)))

    assert Decimal(desk.orders()[0]["size"]) == Decimal(quantity)


def test_a_limit_order_carries_its_price(desk: Desk) -> None:
    desk.gateway.order_create(ticket(order_type=OrderType.LIMIT, price=Decimal("49000.1")))

    [order] = desk.orders()
    assert (order["type"], order["price"], order["active"]) == ("limit", "49000.1", True)


def test_a_request_that_arrives_after_its_window_is_not_placed(desk: Desk) -> None:
    late = datetime.now(tz=UTC) - timedelta(seconds=10)

    with pytest.raises(OrderOutcomeUnknown):
        desk.gateway.order_create(ticket(sent_at=late, window_ms=5000))

    assert desk.orders() == []


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", FAILURES)
def test_whatever_is_no_clear_word_leaves_the_outcome_unknown_and_is_not_sent_again(
    desk: Desk, name: str, when: str
) -> None:
    desk.fault(**FAILURES[name], when=when, method="POST")

    def sent() -> None:
        with pytest.raises(OrderOutcomeUnknown):
            desk.gateway.order_create(ticket())

    assert desk.asked_by(sent) == [("POST", ORDERS)]
    assert len(desk.orders()) == (1 if when == "after" else 0)
    assert (desk.gateway.order_find("BTC/USDT", "order-1") is not None) is (when == "after")


@pytest.mark.parametrize("code", UNKNOWNS)
@pytest.mark.parametrize("status", [200, 500])
def test_a_code_that_proves_nothing_leaves_the_outcome_unknown(desk: Desk, code: str, status: int) -> None:
    desk.fault(kind="code", code=code, msg="try again later", status=status, when="after")

    with pytest.raises(OrderOutcomeUnknown):
        desk.gateway.order_create(ticket())

    assert len(desk.orders()) == 1


@pytest.mark.parametrize("code", REJECTIONS)
def test_a_code_of_the_white_list_is_a_rejection_with_that_code(desk: Desk, code: str) -> None:
    desk.fault(kind="code", code=code, msg="no")

    with pytest.raises(OrderRejected) as raised:
        desk.gateway.order_create(ticket())

    assert (raised.value.code, raised.value.is_refused_key) == (code, False)


@pytest.mark.parametrize("message", REJECTION_MESSAGES)
def test_a_bad_parameter_is_a_rejection_when_its_message_says_so(desk: Desk, message: str) -> None:
    desk.fault(kind="code", code="400100", msg=message)

    with pytest.raises(OrderRejected) as raised:
        desk.gateway.order_create(ticket())

    assert raised.value.code == "400100"


def test_a_duplicate_of_a_live_order_is_unknown_for_it_may_be_ours(desk: Desk) -> None:
    resting = ticket(order_type=OrderType.LIMIT, price=Decimal(40000))
    desk.gateway.order_create(resting)

    with pytest.raises(OrderOutcomeUnknown):
        desk.gateway.order_create(resting)

    found = desk.gateway.order_find("BTC/USDT", "order-1")
    assert found is not None
    assert found.exchange_order_id == desk.orders()[0]["id"]


@pytest.mark.parametrize("code", REFUSED_KEYS)
def test_refused_keys_are_a_rejection_that_says_so(desk: Desk, code: str) -> None:
    desk.fault(kind="code", code=code, msg="no", status=401)

    with pytest.raises(OrderRejected) as raised:
        desk.gateway.order_create(ticket())

    assert (raised.value.code, raised.value.is_refused_key) == (code, True)


def test_keys_that_are_not_there_are_refused_without_a_request(desk: Desk) -> None:
    gateway = desk.opened(Credentials(KEY, "", ""))
    refused: list[OrderRejected] = []

    def sent() -> None:
        with pytest.raises(OrderRejected) as raised:
            gateway.order_create(ticket())
        refused.append(raised.value)

    assert desk.asked_by(sent) == []
    assert [(error.code, error.is_refused_key) for error in refused] == [("LOCAL", True)]


@pytest.mark.parametrize("code", NOT_LOOKED_AT)
@pytest.mark.parametrize("status", [200, 401, 429])
def test_a_request_that_was_not_looked_at_may_be_sent_again(desk: Desk, code: str, status: int) -> None:
    desk.fault(kind="code", code=code, msg="slow down", status=status)

    with pytest.raises(ExchangeUnavailable):
        desk.gateway.order_create(ticket())
    desk.gateway.order_create(ticket())

    assert len(desk.orders()) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"symbol": "NOPE/USDT"},
        {"quantity": Decimal("0.000000001")},
        {"order_type": OrderType.LIMIT, "price": Decimal("0.00001")},
    ],
    ids=["unknown market", "less than a lot", "price less than a tick"],
)
def test_what_cannot_be_sent_is_refused_here_without_a_request(desk: Desk, changes: dict[str, Any]) -> None:
    refused: list[OrderRejected] = []

    def sent() -> None:
        with pytest.raises(OrderRejected) as raised:
            desk.gateway.order_create(ticket(**changes))
        refused.append(raised.value)

    assert desk.asked_by(sent) == []
    assert [(error.code, error.is_refused_key) for error in refused] == [("LOCAL", False)]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (requests.exceptions.SSLError, "EOF occurred in violation of protocol"),
        (requests.exceptions.ContentDecodingError, "failed to decode it"),
        (requests.exceptions.TooManyRedirects, "exceeded 0 redirects"),
        (requests.exceptions.ChunkedEncodingError, "IncompleteRead"),
        (requests.exceptions.ConnectionError, "Connection aborted."),
        (requests.exceptions.ReadTimeout, "Read timed out."),
        (RuntimeError, "can't start new thread"),
    ],
)
def test_an_answer_lost_by_the_wire_is_unknown_though_ccxt_calls_some_of_it_a_refusal(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, error: type[Exception], message: str
) -> None:
    send = requests.Session.send

    def sent_and_lost(*args: Any, **options: Any) -> requests.Response:
        send(*args, **options)
        raise error(message)

    monkeypatch.setattr(requests.Session, "send", sent_and_lost)
    with pytest.raises(OrderOutcomeUnknown):
        desk.gateway.order_create(ticket())

    monkeypatch.setattr(requests.Session, "send", send)
    assert len(desk.orders()) == 1


def test_an_order_is_found_by_our_id_with_exact_figures(desk: Desk) -> None:
    exchange_order_id = desk.gateway.order_create(ticket(quantity=Decimal("0.1")))

    found = desk.gateway.order_find("BTC/USDT", "order-1")

    assert found is not None
    assert (found.exchange_order_id, found.client_order_id) == (exchange_order_id, "order-1")
    assert (found.symbol, found.side) == ("BTC/USDT", Side.BUY)
    assert (found.quantity, found.filled) == (Decimal("0.1"), Decimal("0.1"))
    assert found.filled_quote == Decimal("5000.25")
    assert (found.is_open, found.is_canceled) == (False, False)


def test_an_order_that_rests_is_open_until_it_is_cancelled(desk: Desk) -> None:
    order_id = desk.gateway.order_create(ticket(order_type=OrderType.LIMIT, price=Decimal(40000)))
    resting = desk.gateway.order_find("BTC/USDT", "order-1")

    desk.gateway.order_cancel("BTC/USDT", order_id)

    gone = desk.gateway.order_find("BTC/USDT", "order-1")
    assert resting is not None
    assert gone is not None
    assert (resting.is_open, resting.is_canceled) == (True, False)
    assert (gone.is_open, gone.is_canceled) == (False, True)
    assert resting.filled == gone.filled == 0


def test_an_order_cancelled_half_filled_says_both(desk: Desk) -> None:
    body = (
        '{"code":"200000","data":{"id":"x1","clientOid":"order-1","symbol":"BTC-USDT","type":"limit","side":"sell",'
        '"size":"1","dealSize":"0.4","dealFunds":"20000.123456789","cancelledSize":"0.6","active":false,"cancelExist":true}}'
    )
    desk.fault(kind="body", body=body)

    found = desk.gateway.order_find("BTC/USDT", "order-1")

    assert found is not None
    assert (found.side, found.quantity, found.filled) == (Side.SELL, Decimal(1), Decimal("0.4"))
    assert found.filled_quote == Decimal("20000.123456789")
    assert (found.is_open, found.is_canceled) == (False, True)


def test_an_order_nobody_sent_is_not_found(desk: Desk) -> None:
    assert desk.gateway.order_find("BTC/USDT", "never-sent") is None


def test_an_order_on_another_market_is_not_found_here(desk: Desk) -> None:
    desk.gateway.order_create(ticket())

    assert desk.gateway.order_find("ETH/USDT", "order-1") is None


@pytest.mark.parametrize(
    "fields",
    [
        '"clientOid":"order-1","symbol":"BTC-USDT","side":"buy","size":"1","dealSize":"0"',
        '"id":"x1","clientOid":"order-1","symbol":"BTC-USDT","side":"buy","size":"1","dealSize":"0"',
        '"id":"x1","clientOid":"order-2","symbol":"BTC-USDT","side":"buy","size":"1","dealSize":"0","active":false',
        '"id":"x1","clientOid":"order-1","symbol":"BTC-USDT","side":"sideways","size":"1","active":false',
        '"id":"x1","clientOid":"order-1","symbol":"BTC-USDT","side":"buy","size":"NaN","active":false',
    ],
    ids=["no id", "neither active nor not", "somebody else's", "no side", "no size"],
)
def test_a_look_up_answered_with_something_else_proves_nothing(desk: Desk, fields: str) -> None:
    desk.fault(kind="body", body=f'{{"code":"200000","data":{{{fields}}}}}')

    with pytest.raises(ExchangeUnavailable):
        desk.gateway.order_find("BTC/USDT", "order-1")


def test_the_market_of_an_order_is_the_one_the_venue_says(desk: Desk) -> None:
    fields = '"id":"x1","clientOid":"order-1","symbol":"ETH-USDT","side":"buy","size":"1","dealSize":"0","active":true'
    desk.fault(kind="body", body=f'{{"code":"200000","data":{{{fields}}}}}')

    found = desk.gateway.order_find("BTC/USDT", "order-1")

    assert found is not None
    assert found.symbol == "ETH/USDT"


def test_cancelling_what_is_done_or_never_was_is_no_error(desk: Desk) -> None:
    order_id = desk.gateway.order_create(ticket())

    desk.gateway.order_cancel("BTC/USDT", order_id)
    desk.gateway.order_cancel("BTC/USDT", "no-such-order")

    found = desk.gateway.order_find("BTC/USDT", "order-1")
    assert found is not None
    assert found.filled == Decimal("0.02")


def test_fills_are_exact_and_carry_the_fee_and_its_currency(desk: Desk) -> None:
    order_id = desk.gateway.order_create(ticket(quantity=Decimal("0.02")))

    [fill] = desk.gateway.order_fills("BTC/USDT", order_id)

    assert (fill.exchange_order_id, fill.symbol, fill.side) == (order_id, "BTC/USDT", Side.BUY)
    assert (fill.quantity, fill.price) == (Decimal("0.02"), Decimal("50002.5"))
    assert (fill.fee, fill.fee_currency) == (Decimal("1.00005"), "USDT")
    assert fill.filled_at == START_AT


@pytest.mark.parametrize("page", [1, 2, 4, 5, 6, 100])
def test_every_page_of_fills_is_read(desk: Desk, monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    monkeypatch.setitem(VENUES, "kucoin", dataclasses.replace(VENUES["kucoin"], fills_page=page))
    gateway = desk.opened()
    order_id = gateway.order_create(ticket(quantity=Decimal(10)))

    fills = gateway.order_fills("BTC/USDT", order_id)

    told = [fill["tradeId"] for fill in desk.simulator.oracle()["fills"]]
    assert len(told) == 5
    assert [fill.trade_id for fill in fills] == [str(trade_id) for trade_id in told]
    assert sum(fill.quantity for fill in fills) == 10


def test_a_venue_that_gives_the_same_page_again_is_asked_for_every_fill_since_the_order_was_made(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = dataclasses.replace(VENUES["kucoin"], fills_page=2, fills_next=lambda page: {})
    monkeypatch.setitem(VENUES, "kucoin", same)
    gateway = desk.opened()
    gateway.order_create(ticket("another"))
    order_id = gateway.order_create(ticket(quantity=Decimal(10)))

    fills = gateway.order_fills("BTC/USDT", order_id)

    assert len(fills) == 5
    assert {fill.exchange_order_id for fill in fills} == {order_id}
    assert sum(fill.quantity for fill in fills) == 10


def test_what_an_order_did_long_ago_is_still_told_in_one_request(desk: Desk) -> None:
    order_id = desk.gateway.order_create(ticket())
    desk.simulator.control("clock", advance_s=30 * 86_400)
    found: list[FillReport] = []

    asked = desk.asked_by(lambda: found.extend(desk.gateway.order_fills("BTC/USDT", order_id)))

    assert asked == [("GET", "/api/v1/hf/fills")]
    assert [fill.quantity for fill in found] == [Decimal("0.02")]


def test_an_order_without_fills_has_none(desk: Desk) -> None:
    order_id = desk.gateway.order_create(ticket(order_type=OrderType.LIMIT, price=Decimal(40000)))

    assert desk.gateway.order_fills("BTC/USDT", order_id) == []


def test_a_venue_that_knows_no_such_order_has_answered(desk: Desk) -> None:
    desk.fault(kind="code", code="400100", msg="order not exist.", method="GET", path="/api/v1/hf/fills")

    with pytest.raises(ExchangeUnavailable) as raised:
        desk.gateway.order_fills("BTC/USDT", "nobody")

    assert raised.value.is_answer


def test_no_secret_shows_in_what_is_said_of_a_failed_order(desk: Desk) -> None:
    desk.fault(kind="code", code="400005", msg="Invalid KC-API-SIGN", status=401)

    with pytest.raises(OrderRejected) as raised:
        desk.gateway.order_create(ticket())

    said = f"{raised.value!r} {raised.value.__cause__!r} {desk.gateway!r} {desk.gateway}"
    assert not any(secret in said for secret in (SECRET, CREDENTIALS.passphrase))
