"""What the gateway reads: exact decimals, aware times, few requests, and nothing made of an answer that is none."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import requests

from domain.market import OrderType
from exchanges.ccxt_gateway import CcxtGateway
from exchanges.credentials import Credentials
from exchanges.gateway import BalanceReport, CandleReport, ExchangeUnavailable, Gateway, QuoteReport
from tests.exchanges.conftest import CREDENTIALS, START_AT, Desk, ticket
from tests.simulator.conftest import KEY, SECRET, START_MS

HTML = "<html><body>502 Bad Gateway</body></html>"

READS: dict[str, Callable[[Gateway], Any]] = {
    "time": lambda gateway: gateway.time(),
    "markets": lambda gateway: gateway.markets(),
    "quotes": lambda gateway: gateway.quotes(["BTC/USDT"]),
    "candles": lambda gateway: gateway.candles("BTC/USDT", "1m", START_AT - timedelta(minutes=5), 10),
    "balances": lambda gateway: gateway.balances(),
    "order_find": lambda gateway: gateway.order_find("BTC/USDT", "order-1"),
    "order_cancel": lambda gateway: gateway.order_cancel("BTC/USDT", "no-such-order"),
    "order_fills": lambda gateway: gateway.order_fills("BTC/USDT", "no-such-order"),
}

NO_ANSWERS: dict[str, dict[str, Any]] = {
    "hang": {"kind": "hang"},
    "drop": {"kind": "drop"},
    "http 500": {"kind": "http", "status": 500, "body": HTML},
    "http 503, empty": {"kind": "http", "status": 503, "body": ""},
    "http 524": {"kind": "http", "status": 524, "body": HTML},
    "http 403, html": {"kind": "http", "status": 403, "body": HTML},
    "http 401, html": {"kind": "http", "status": 401, "body": HTML},
    "http 429": {"kind": "http", "status": 429, "body": '{"code":"429000","msg":"Too many requests"}'},
    "html": {"kind": "body", "body": HTML},
    "empty": {"kind": "body", "body": ""},
    "truncated": {"kind": "body", "body": '{"code":"200000","data":[{"currency":"USDT","typ'},
    "no data": {"kind": "body", "body": '{"code":"200000"}'},
    "null data": {"kind": "body", "body": '{"code":"200000","data":null}'},
    "a number": {"kind": "body", "body": "7"},
    "a list": {"kind": "body", "body": "[]"},
    "unknown code": {"kind": "code", "code": "999999", "msg": "who knows"},
    "wrong clock": {"kind": "code", "code": "400002", "msg": "Invalid KC-API-TIMESTAMP", "status": 401},
}


def refused_keys(read: Callable[[Gateway], Any], gateway: Gateway) -> bool | None:
    """Whether the read blamed the keys for being unavailable; None when it was available."""
    try:
        read(gateway)
    except ExchangeUnavailable as error:
        return error.is_refused_key
    return None


@pytest.mark.parametrize("fault", [name for name in NO_ANSWERS if name != "hang"])
def test_a_read_without_an_answer_is_unavailable_and_no_fault_of_the_keys(desk: Desk, fault: str) -> None:
    desk.fault(**NO_ANSWERS[fault], count=None)

    outcomes = {name: refused_keys(read, desk.gateway) for name, read in READS.items()}

    assert outcomes == dict.fromkeys(READS, False)


def test_a_venue_that_hangs_costs_the_timeout_and_no_more(desk: Desk) -> None:
    desk.fault(kind="hang")

    started = datetime.now(tz=UTC)
    with pytest.raises(ExchangeUnavailable, match="RequestTimeout"):
        desk.gateway.time()

    assert datetime.now(tz=UTC) - started < timedelta(seconds=5)


def test_the_venues_clock_is_read_to_the_millisecond_in_utc(desk: Desk) -> None:
    desk.simulator.control("clock", now_ms=START_MS + 1234)

    assert desk.gateway.time() == START_AT + timedelta(milliseconds=1234)
    assert desk.gateway.time().tzinfo is UTC


def test_markets_come_with_exact_rules_and_the_higher_of_both_minimums(desk: Desk) -> None:
    desk.simulator.control(
        "symbols", symbol="PEPE-USDT", priceIncrement="0.0000000001", baseIncrement="0.0001", baseMinSize="0.0003",
        baseMaxSize="123456789.1234", quoteMinSize="0.25", minFunds="0.3", takerFee="0.0008", makerFee="0.0006",
    )  # fmt: skip

    [report] = [report for report in desk.gateway.markets() if report.rules.symbol == "PEPE/USDT"]

    rules = report.rules
    assert (rules.base, rules.quote, report.kind, report.is_active) == ("PEPE", "USDT", "SPOT", True)
    assert (rules.tick_size, rules.lot_size) == (Decimal("0.0000000001"), Decimal("0.0001"))
    assert (rules.min_quantity, rules.max_quantity) == (Decimal("0.0003"), Decimal("123456789.1234"))
    assert rules.min_notional == Decimal("0.3")
    assert (rules.taker_fee, rules.maker_fee) == (Decimal("0.0008"), Decimal("0.0006"))
    assert rules.contract_size == 1


def test_a_market_that_is_not_traded_is_shown_as_such(desk: Desk) -> None:
    desk.simulator.control("symbols", symbol="ETH-USDT", enableTrading=False)

    reports = {report.rules.symbol: report.is_active for report in desk.gateway.markets()}

    assert reports == {"BTC/USDT": True, "ETH/USDT": False}


def test_a_venue_that_lists_nothing_is_not_believed(desk: Desk) -> None:
    desk.fault(kind="body", body='{"code":"200000","data":[]}', path="/api/v2/symbols")

    with pytest.raises(ExchangeUnavailable, match="wanted markets, was an empty list"):
        desk.gateway.markets()


def test_markets_are_read_without_keys_and_the_keys_still_sign_afterwards(desk: Desk) -> None:
    asked = desk.asked_by(desk.gateway.markets)

    assert sorted(asked) == [("GET", "/api/v1/market/allTickers"), ("GET", "/api/v2/symbols")]
    assert {line["apiKey"] for line in desk.simulator.oracle()["requests"][-2:]} == {""}
    assert desk.gateway.balances()


def test_quotes_are_one_request_whatever_their_number_and_leave_out_what_is_not_known(desk: Desk) -> None:
    desk.simulator.pin("3000.01", "ETH-USDT")
    quotes: list[QuoteReport] = []

    asked = desk.asked_by(lambda: quotes.extend(desk.gateway.quotes(["BTC/USDT", "NOPE/USDT", "ETH/USDT"])))

    assert asked == [("GET", "/api/v1/market/allTickers")]
    assert {quote.symbol: quote.last for quote in quotes} == {"BTC/USDT": 50000, "ETH/USDT": Decimal("3000.01")}
    assert all(quote.bid < quote.last < quote.ask for quote in quotes)


def test_no_quotes_are_no_request(desk: Desk) -> None:
    assert desk.asked_by(lambda: desk.gateway.quotes([])) == []
    assert desk.gateway.quotes(["NOPE/USDT"]) == []


def test_a_quote_with_a_hole_in_it_is_left_out(desk: Desk) -> None:
    rows = (
        '{"symbol":"BTC-USDT","buy":"1","sell":null,"last":"1"},{"symbol":"ETH-USDT","buy":"1","sell":"3","last":"2"}'
    )
    desk.fault(kind="body", body=f'{{"code":"200000","data":{{"time":1,"ticker":[{rows}]}}}}')

    assert [quote.symbol for quote in desk.gateway.quotes(["BTC/USDT", "ETH/USDT"])] == ["ETH/USDT"]


def test_a_price_that_is_no_number_is_no_price(desk: Desk) -> None:
    row = '{"symbol":"BTC-USDT","buy":"NaN","sell":"1","last":"1"}'
    desk.fault(kind="body", body=f'{{"code":"200000","data":{{"time":1,"ticker":[{row}]}}}}')

    with pytest.raises(ExchangeUnavailable, match="made no sense"):
        desk.gateway.quotes(["BTC/USDT"])


def test_candles_come_oldest_first_with_every_digit_and_the_open_one_last(desk: Desk) -> None:
    desk.simulator.control("symbols", symbol="PEPE-USDT", priceIncrement="0.000000000001")
    first = START_MS - 3 * 60_000
    prices = ["0.000012345679", "0.000012345681", "0.000012345677", "0.000012345678"]
    rows = [[first + i * 60_000, *[str(p) for p in prices], "7"] for i in range(4)]
    desk.simulator.control("market/PEPE-USDT/candles", candles=rows)
    gateway = desk.opened()

    candles = gateway.candles("PEPE/USDT", "1m", START_AT - timedelta(minutes=3), 1500)

    assert [candle.open_at for candle in candles] == [START_AT - timedelta(minutes=n) for n in (3, 2, 1, 0)]
    assert (candles[0].open, candles[0].high) == (Decimal("0.000012345679"), Decimal("0.000012345681"))
    assert (candles[0].low, candles[0].close) == (Decimal("0.000012345677"), Decimal("0.000012345678"))


def test_candles_begin_where_asked_and_are_no_more_than_the_limit(desk: Desk) -> None:
    since = START_AT - timedelta(minutes=30)

    candles = desk.gateway.candles("BTC/USDT", "1m", since, 7)

    assert [candle.open_at for candle in candles] == [since + timedelta(minutes=n) for n in range(7)]


def test_balances_are_exact_and_one_request_even_on_a_new_gateway(desk: Desk) -> None:
    desk.simulator.open_account(USDT="123456789.123456789012345678", BTC="0.00000001")
    gateway = CcxtGateway("kucoin", desk.simulator.url, CREDENTIALS)
    balances: list[BalanceReport] = []

    asked = desk.asked_by(lambda: balances.extend(gateway.balances()))

    assert asked == [("GET", "/api/v1/accounts")]
    assert {row.currency: row.total for row in balances} == {
        "USDT": Decimal("123456789.123456789012345678"),
        "BTC": Decimal("0.00000001"),
    }


def test_what_is_held_for_an_order_is_not_free(desk: Desk) -> None:
    desk.gateway.order_create(ticket(order_type=OrderType.LIMIT, price=Decimal(40000), quantity=Decimal("0.5")))

    [usdt] = [row for row in desk.gateway.balances() if row.currency == "USDT"]

    assert usdt.total == 1_000_000
    assert Decimal(979_900) < usdt.free <= Decimal(980_000)


def test_nothing_that_is_reported_is_a_float(desk: Desk) -> None:
    desk.gateway.order_create(ticket())
    found = desk.gateway.order_find("BTC/USDT", "order-1")
    assert found is not None
    reports: list[Any] = [
        *desk.gateway.markets(), *desk.gateway.quotes(["BTC/USDT"]), *desk.gateway.balances(), found,
        *desk.gateway.candles("BTC/USDT", "1m", START_AT - timedelta(minutes=5), 10),
        *desk.gateway.order_fills("BTC/USDT", found.exchange_order_id),
        *desk.gateway.orders_done("BTC/USDT", START_AT), *desk.gateway.fills_since("BTC/USDT", START_AT),
    ]  # fmt: skip

    assert {type(value) for report in reports for value in _values(report)} <= {str, bool, Decimal, datetime, type(None)} | {
        type(found.side), type(found.order_type), dict,
    }  # fmt: skip
    assert len({type(report) for report in reports}) == 6


def _values(report: Any) -> Iterator[Any]:
    for one in fields(report):
        value = getattr(report, one.name)
        if is_dataclass(value):
            yield from _values(value)
        else:
            yield value


@pytest.mark.parametrize(
    ("credentials", "changes"),
    [
        (Credentials("nobody", SECRET, "x"), {}),
        (Credentials(KEY, "wrong-secret", "canary-passphrase-of-alice"), {}),
        (Credentials(KEY, SECRET, "wrong-passphrase"), {}),
        (Credentials(KEY, "", ""), {}),
        (CREDENTIALS, {"permissions": "Margin"}),
        (CREDENTIALS, {"ipWhitelist": "10.1.2.3"}),
    ],
    ids=["unknown key", "wrong secret", "wrong passphrase", "no secret", "permission lost", "address not allowed"],
)
def test_refused_keys_are_told_from_a_venue_that_is_away(
    desk: Desk, credentials: Credentials, changes: dict[str, str]
) -> None:
    if changes:
        desk.simulator.control("accounts", apiKey=KEY, secret=SECRET, passphrase=CREDENTIALS.passphrase, **changes)
    gateway = desk.opened(credentials)

    with pytest.raises(ExchangeUnavailable) as raised:
        gateway.balances()

    assert raised.value.is_refused_key


def test_what_is_said_of_a_failure_holds_no_secret_no_query_and_nothing_a_row_refuses(desk: Desk) -> None:
    desk.fault(kind="body", body="<html>\0\ud83d\ude00\n</html>", status=500)

    with pytest.raises(ExchangeUnavailable) as raised:
        desk.gateway.balances()

    said = str(raised.value)
    assert said.isprintable()
    assert len(said) < 200
    assert not any(secret in said for secret in (KEY, SECRET, CREDENTIALS.passphrase, "?"))


def test_every_request_goes_to_the_address_given(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    send = requests.Session.send

    def noted(self: requests.Session, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        asked.append(str(request.url))
        return send(self, request, **options)

    monkeypatch.setattr(requests.Session, "send", noted)
    gateway = desk.opened()
    for read in READS.values():
        read(gateway)
    gateway.order_create(ticket())

    assert len(asked) >= len(READS)
    assert [url for url in asked if not url.startswith(f"{desk.simulator.url}/api/")] == []


def test_a_redirect_is_not_followed_with_our_signature(desk: Desk) -> None:
    class Redirecting(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", desk.simulator.url + self.path)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Redirecting) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        gateway = CcxtGateway("kucoin", f"http://127.0.0.1:{server.server_port}", CREDENTIALS)

        def refused() -> None:
            with pytest.raises(ExchangeUnavailable):
                gateway.balances()

        asked = desk.asked_by(refused)
        server.shutdown()

    assert asked == []


@pytest.mark.parametrize("base_url", ["127.0.0.1:9", "ftp://127.0.0.1:9", "http://127.0.0.1:9", "http://127.0.0.1:9/"])
def test_an_address_nobody_answers_at_is_unavailable(base_url: str) -> None:
    with pytest.raises(ExchangeUnavailable):
        CcxtGateway("kucoin", base_url).time()


@pytest.mark.parametrize("ccxt_id", ["nowhere", "Exchange", "base", "__doc__", ""])
def test_what_ccxt_does_not_speak_to_is_refused_by_name(ccxt_id: str) -> None:
    with pytest.raises(ValueError, match=f"wanted an exchange that ccxt speaks to, was '{ccxt_id}'"):
        CcxtGateway(ccxt_id)


def test_rules_that_changed_replace_those_known_before(desk: Desk) -> None:
    desk.simulator.control("symbols", symbol="ETH-USDT", baseIncrement="0.1")
    gateway = desk.opened()
    desk.simulator.control("symbols", symbol="ETH-USDT", baseIncrement="0.001", baseMinSize="0.001")

    gateway.know((report.rules.symbol, report.venue_info) for report in gateway.markets())
    gateway.order_create(ticket(symbol="ETH/USDT", quantity=Decimal("0.123")))

    assert [order["size"] for order in desk.orders()] == ["0.123"]


@pytest.mark.parametrize(("ccxt_id", "has_contracts"), [("kucoin", False), ("binance", True)])
def test_markets_learned_one_by_one_are_known_as_those_learned_together(ccxt_id: str, has_contracts: bool) -> None:
    infos: list[dict[str, Any]] = [
        {
            "id": f"{base}USDT", "symbol": f"{base}/USDT{':USDT' if is_contract else ''}", "base": base, "quote": "USDT",
            "baseId": base, "quoteId": "USDT", "spot": not is_contract, "swap": is_contract, "contract": is_contract,
            "linear": is_contract or None, "type": "swap" if is_contract else "spot",
            "precision": {"price": "0.1", "amount": "0.001"},
        }
        for base in ("BTC", "ETH", "SOL")
        for is_contract in ((False, True) if has_contracts else (False,))  # both of one id: it names two markets
    ]  # fmt: skip
    together, one_by_one = CcxtGateway(ccxt_id, "http://127.0.0.1:9"), CcxtGateway(ccxt_id, "http://127.0.0.1:9")

    together.know((info["symbol"], info) for info in infos)
    for info in infos:
        one_by_one.know([(info["symbol"], info)])

    for name in ("markets", "markets_by_id", "currencies_by_id"):
        assert getattr(one_by_one._venue, name) == getattr(together._venue, name)
    assert sorted(one_by_one._venue.symbols) == sorted(together._venue.symbols)


def test_a_market_more_is_learned_without_reading_the_others_again(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = CcxtGateway("kucoin", "http://127.0.0.1:9")
    read: list[int] = []
    usual = gateway._venue.set_markets

    def counted(markets: list[Any]) -> Any:
        read.append(len(markets))
        return usual(markets)

    monkeypatch.setattr(gateway._venue, "set_markets", counted)

    for number in range(20):
        symbol = f"M{number}/USDT"
        gateway.know([(symbol, {"id": symbol, "symbol": symbol, "base": f"M{number}", "quote": "USDT", "spot": True})])

    assert read == [1] * 20
    assert len(gateway._venue.markets) == 20


def test_a_candle_report_is_a_plain_value() -> None:
    one = CandleReport(START_AT, *(Decimal(n) for n in range(5)))

    assert one == CandleReport(START_AT, *(Decimal(n) for n in range(5)))
    assert not hasattr(one, "__dict__")
