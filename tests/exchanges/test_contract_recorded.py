"""KuCoin's documented answers, replayed: what the gateway reports of each, field by field. The answers are not part of the
project; the tests skip where they are not at hand."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from domain.market import MarketRules, OrderType, Side
from exchanges.ccxt_gateway import CcxtGateway
from exchanges.gateway import (
    BalanceReport,
    CandleReport,
    FillReport,
    KeyRights,
    OrderReport,
    QuoteReport,
    StatusReport,
    TradeReport,
    VenueStatus,
)
from tests.domain.reference import reference_json
from tests.exchanges.canned import Canned
from tests.exchanges.conftest import ticket

DONE_ORDER = OrderReport(
    "6717422bd51c29000775ea03", "5c52e11203aa677f33e493fb", "BTC/USDT", Side.BUY, Decimal("0.00001"), Decimal("0.00001"),
    Decimal("0.677176"), is_open=False, is_canceled=False, order_type=OrderType.LIMIT, price=Decimal(70000),
    created_at=datetime(2024, 10, 22, 6, 11, 55, 444000, tzinfo=UTC),
)  # fmt: skip
OPEN_ORDER = OrderReport(
    "67120bbef094e200070976f6", "5c52e11203aa677f33e493fb", "BTC/USDT", Side.BUY, Decimal("0.00001"), Decimal(0), Decimal(0),
    is_open=True, is_canceled=False, order_type=OrderType.LIMIT, price=Decimal(50000),
    created_at=datetime(2024, 10, 18, 7, 18, 22, 748000, tzinfo=UTC),
)  # fmt: skip


def recorded(file: str, name: str, kind: str = "response") -> Any:
    """One answer (or request) of KuCoin's documentation."""
    examples = reference_json(f"api/kucoin/{file}.json")
    [found] = [one for one in examples if (one["name"], one["kind"]) == (name, kind)]
    return found["json"]


def answering(path: str, answer: Any, method: str = "GET") -> tuple[Canned, CcxtGateway]:
    """A gateway that knows the recorded market and gets ``answer`` at ``path``."""
    canned = Canned(
        {
            "GET /api/v2/symbols": recorded("sdk_spot_market", "get_all_symbols"),
            "GET /api/v1/market/allTickers": recorded("sdk_spot_market", "get_all_tickers"),
            f"{method} {path}": answer,
        }
    )
    gateway = canned.gateway("kucoin")
    gateway.know((report.rules.symbol, report.venue_info) for report in gateway.markets())
    canned.asked.clear()
    return canned, gateway


def test_the_symbols_answer_is_a_market_with_its_rules() -> None:
    _, gateway = answering("/nothing", {})

    [market] = gateway.markets()

    assert market.rules == MarketRules(
        symbol="BTC/USDT", base="BTC", quote="USDT", tick_size=Decimal("0.1"), lot_size=Decimal("0.00000001"),
        min_quantity=Decimal("0.00001"), max_quantity=Decimal(10000000000), min_notional=Decimal("0.1"),
        contract_size=Decimal(1), maker_fee=Decimal("0.001"), taker_fee=Decimal("0.001"),
    )  # fmt: skip
    assert (market.kind, market.is_active) == ("SPOT", True)


def test_the_tickers_answer_is_a_quote() -> None:
    _, gateway = answering("/nothing", {})

    assert gateway.quotes(["BTC/USDT"]) == [
        QuoteReport("BTC/USDT", Decimal("67192.5"), Decimal("67192.6"), Decimal(67193))
    ]


def test_the_klines_answer_has_close_before_high_and_low_and_the_newest_first() -> None:
    canned, gateway = answering("/api/v1/market/candles", recorded("sdk_spot_market", "get_klines"))
    expected = reference_json("expected/api/kucoin_klines_parsed.json")["sdk_spot_market.json::get_klines"]
    rows = expected["expected_ohlcv_ascending"]
    since = datetime.fromtimestamp(rows[0][0] / 1000, tz=UTC)

    candles = gateway.candles("BTC/USDT", "1m", since, 3)

    assert candles == [
        CandleReport(since + timedelta(minutes=n), *(Decimal(str(value)) for value in row[1:]))
        for n, row in enumerate(rows)
    ]
    assert canned.asked[0].query == {
        "symbol": "BTC-USDT", "type": "1min", "startAt": "1566789600", "endAt": "1566789780",
    }  # fmt: skip


def test_the_time_and_status_answers() -> None:
    _, clock = answering("/api/v1/timestamp", recorded("sdk_spot_market", "get_server_time"))
    _, status = answering("/api/v1/status", recorded("sdk_spot_market", "get_service_status"))

    assert clock.time() == datetime(2024, 10, 16, 17, 44, 52, 873000, tzinfo=UTC)
    assert status.status() == StatusReport(VenueStatus.OPEN)


def test_the_key_answer_names_the_right_to_withdraw_and_the_addresses() -> None:
    _, gateway = answering("/api/v1/user/api-key", recorded("sdk_account_account", "get_apikey_info"))

    assert gateway.key_rights() == KeyRights(can_trade=True, can_withdraw=True, is_bound_to_addresses=True)


def test_the_accounts_answer_counts_the_trading_wallet_only() -> None:
    answer = recorded("sdk_account_account", "get_spot_account_list")
    for row in answer["data"]:
        row["type"] = {"trade": "trade_hf"}.get(row["type"], row["type"])  # the same row of today's trading wallet
    canned, gateway = answering("/api/v1/accounts", answer)

    assert gateway.balances() == [BalanceReport("USDT", Decimal("26.66759503"), Decimal("26.66759503"))]
    assert canned.asked[0].query == {"type": "trade_hf"}


@pytest.mark.parametrize("name", ["get_order_by_client_oid", "get_order_by_order_id"])
def test_the_answers_to_both_look_ups_are_the_order(name: str) -> None:
    canned, gateway = answering("/api/v1/hf/orders/*", recorded("sdk_spot_order", name))

    by_ours = gateway.order_find("BTC/USDT", "5c52e11203aa677f33e493fb")
    by_theirs = gateway.order_get("BTC/USDT", "6717422bd51c29000775ea03")

    assert by_ours == by_theirs == DONE_ORDER
    assert canned.lines() == [
        "GET /api/v1/hf/orders/client-order/5c52e11203aa677f33e493fb",
        "GET /api/v1/hf/orders/6717422bd51c29000775ea03",
    ]
    assert [one.query for one in canned.asked] == [{"symbol": "BTC-USDT"}] * 2


def test_the_lists_of_orders() -> None:
    _, live = answering("/api/v1/hf/orders/active", recorded("sdk_spot_order", "get_open_orders"))
    canned, done = answering("/api/v1/hf/orders/done", recorded("sdk_spot_order", "get_closed_orders"))
    since = datetime.now(tz=UTC) - timedelta(days=1)

    assert live.orders_open("BTC/USDT") == [OPEN_ORDER]
    assert done.orders_done("BTC/USDT", since) == []  # made long before
    assert {name: canned.asked[0].query[name] for name in ("symbol", "limit", "startAt", "status")} == {
        "symbol": "BTC-USDT", "limit": "100", "startAt": str(int(since.timestamp() * 1000)), "status": "done",
    }  # fmt: skip
    done._venue.milliseconds = lambda: 1729577600000
    assert done.orders_done("BTC/USDT", datetime(2024, 10, 22, tzinfo=UTC)) == [DONE_ORDER]


def test_the_symbols_with_open_orders_are_named_our_way() -> None:
    _, gateway = answering(
        "/api/v1/hf/orders/active/symbols", recorded("sdk_spot_order", "get_symbols_with_open_order")
    )

    assert gateway.symbols_open() == ["ETH/USDT", "BTC/USDT"]


def test_the_fills_answer() -> None:
    # The row as the older endpoint documents it; today's has its fields and more.
    [row] = recorded("sdk_spot_order", "get_recent_trade_history_old")["data"]
    canned, gateway = answering("/api/v1/hf/fills", {"code": "200000", "data": {"items": [row], "lastId": 1}})
    gateway._venue.milliseconds = lambda: 1732946724082
    fill = FillReport(
        "11732720444522497", "674aab24754b1e00077dbc69", "BTC/USDT", Side.BUY, Decimal("0.00001"), Decimal("96999.6"),
        Decimal("0.000969996"), "USDT", datetime(2024, 11, 30, 6, 5, 24, 82000, tzinfo=UTC),
    )  # fmt: skip

    assert gateway.fills_since("BTC/USDT", fill.filled_at) == [fill]
    assert gateway.order_fills("BTC/USDT", "674aab24754b1e00077dbc69") == [fill]
    assert canned.asked[1].query == {"symbol": "BTC-USDT", "limit": "100", "orderId": "674aab24754b1e00077dbc69"}


def test_the_answers_to_an_order_and_to_its_cancellation() -> None:
    canned, gateway = answering("/api/v1/hf/orders", recorded("sdk_spot_order", "add_order_test"), "POST")
    _, canceling = answering("/api/v1/hf/orders/*", recorded("sdk_spot_order", "cancel_order_by_order_id"), "DELETE")
    documented = recorded("sdk_spot_order", "add_order_test", "request")
    order = ticket(
        documented["clientOid"], order_type=OrderType.LIMIT, price=Decimal(50000), quantity=Decimal("0.00001")
    )

    assert gateway.order_create(order) == "670fd33bf9406e0007ab3945"
    canceling.order_cancel("BTC/USDT", "671124f9365ccb00073debd4")

    sent = canned.asked[0].form
    shared = ("type", "symbol", "side", "price", "size", "clientOid")
    assert {name: sent[name] for name in shared} == {name: documented[name] for name in shared}
    assert sent["clientTimestamp"] == int(order.sent_at.timestamp() * 1000)
    assert sent["allowMaxTimeWindow"] == 5000


def signed(secret: str, plain: str) -> str:
    return base64.b64encode(hmac.new(secret.encode(), plain.encode(), hashlib.sha256).digest()).decode()


def test_requests_are_signed_as_the_official_client_signs() -> None:
    vector = reference_json("api/kucoin/signature_vector.json")
    assert signed(vector["secret"], vector["plain"]) == vector["expected"]
    canned, gateway = answering("/api/v1/hf/orders", recorded("sdk_spot_order", "add_order_test"), "POST")
    canned.answers["GET /api/v1/hf/orders/active"] = recorded("sdk_spot_order", "get_open_orders")

    gateway.order_create(ticket())
    gateway.orders_open("BTC/USDT")

    for one in canned.asked:
        parts = urlsplit(one.url)
        target = unquote(f"{parts.path}?{parts.query}" if parts.query else parts.path)
        plain = one.headers["KC-API-TIMESTAMP"] + one.method + target + one.body
        assert one.headers["KC-API-SIGN"] == signed("canary-secret-of-bob", plain)
        assert one.headers["KC-API-PASSPHRASE"] == signed("canary-secret-of-bob", "canary-words-of-bob")
        assert one.headers["KC-API-KEY-VERSION"] == "2"


def test_trades_of_others_are_known_by_their_sequence() -> None:
    _, gateway = answering("/api/v1/market/histories", recorded("sdk_spot_market", "get_trade_history"))
    at = datetime(2024, 10, 17, 14, 58, 37, 877000, tzinfo=UTC)

    trades = gateway.trades_since("BTC/USDT", at, 2)

    assert trades == [
        TradeReport("10976028003549185", at, True, Decimal(67122), Decimal("0.000025")),
        TradeReport("10976028003549188", at, True, Decimal(67122), Decimal("0.01792257")),
    ]
    assert gateway.trades_since("BTC/USDT", at + timedelta(seconds=1), 2) == []
