"""Lists of orders and fills: all of them, whoever made them, however many pages the venue makes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import pytest

from domain.market import OrderType, Side
from exchanges.gateway import (
    ExchangeUnavailable,
    FillReport,
    Gateway,
    KeyRights,
    OrderReport,
    VenueStatus,
)
from exchanges.paging import walk_both_ways, walk_by_cursor, walk_forward
from exchanges.venues import VENUES, WEEK_MS
from tests.exchanges.canned import Canned
from tests.exchanges.conftest import CREDENTIALS, START_AT, Desk, ticket
from tests.exchanges.test_gateway_reads import NO_ANSWERS, refused_keys
from tests.simulator.conftest import KEY, START_MS

DONE, FILLS, ACTIVE, CLOCK = (
    "/api/v1/hf/orders/done",
    "/api/v1/hf/fills",
    "/api/v1/hf/orders/active",
    "/api/v1/timestamp",
)

LISTS: dict[str, Callable[[Gateway], Any]] = {
    "orders_open": lambda gateway: gateway.orders_open("BTC/USDT"),
    "orders_done": lambda gateway: gateway.orders_done("BTC/USDT", START_AT),
    "fills_since": lambda gateway: gateway.fills_since("BTC/USDT", START_AT),
    "symbols_open": lambda gateway: gateway.symbols_open(),
    "order_get": lambda gateway: gateway.order_get("BTC/USDT", "some-order"),
    "status": lambda gateway: gateway.status(),
    "key_rights": lambda gateway: gateway.key_rights(),
}

A_DAY = timedelta(days=1)


def resting(client_order_id: str, **changes: Any) -> Any:
    return ticket(client_order_id, **{"order_type": OrderType.LIMIT, "price": Decimal(40000), **changes})


def by_hand(desk: Desk, symbol: str = "BTC/USDT", price: str = "41000") -> str:
    """A limit order without a client order id, made on the venue's own page; its id."""
    made = desk.simulator.client().private_post_hf_orders(
        {"symbol": symbol.replace("/", "-"), "side": "buy", "type": "limit", "size": "0.02", "price": price}
    )
    return str(made["data"]["orderId"])


def days_later(desk: Desk, days: float) -> None:
    desk.simulator.control("clock", advance_s=int(days * 86_400))


def bought(desk: Desk, gateway: Gateway, number: int, **changes: Any) -> list[str]:
    """So many orders at market, a second apart; their ids."""
    made = []
    for n in range(number):
        made.append(gateway.order_create(ticket(f"order-{n}", **changes)))
        desk.simulator.control("clock", advance_s=1)
    return made


def short_pages(monkeypatch: pytest.MonkeyPatch, size: int, span_ms: int = WEEK_MS) -> None:
    history = partial(walk_by_cursor, size=size, span_ms=span_ms)
    monkeypatch.setitem(VENUES, "kucoin", dataclasses.replace(VENUES["kucoin"], history=history))


def test_open_orders_are_one_request_oldest_first_whoever_made_them(desk: Desk) -> None:
    first = desk.gateway.order_create(resting("order-1", quantity=Decimal("0.5")))
    days_later(desk, 0.5)
    second = by_hand(desk)
    desk.gateway.order_create(resting("elsewhere", symbol="ETH/USDT", price=Decimal(100)))
    desk.gateway.order_create(ticket("done-already"))
    found: list[OrderReport] = []

    asked = desk.asked_by(lambda: found.extend(desk.gateway.orders_open("BTC/USDT")))

    assert asked == [("GET", ACTIVE)]
    assert found == [
        OrderReport(
            first, "order-1", "BTC/USDT", Side.BUY, Decimal("0.5"), Decimal(0), Decimal(0), is_open=True,
            is_canceled=False, order_type=OrderType.LIMIT, price=Decimal(40000), created_at=START_AT,
        ),
        OrderReport(
            second, "", "BTC/USDT", Side.BUY, Decimal("0.02"), Decimal(0), Decimal(0), is_open=True,
            is_canceled=False, order_type=OrderType.LIMIT, price=Decimal(41000), created_at=START_AT + A_DAY / 2,
        ),
    ]  # fmt: skip


def test_done_orders_are_those_filled_and_those_cancelled_with_exact_figures(desk: Desk) -> None:
    filled = desk.gateway.order_create(ticket("order-1", quantity=Decimal("0.1")))
    days_later(desk, 1)
    canceled = desk.gateway.order_create(resting("order-2"))
    desk.gateway.order_cancel("BTC/USDT", canceled)
    desk.gateway.order_create(resting("still-open"))

    found = desk.gateway.orders_done("BTC/USDT", START_AT)

    assert found == [
        OrderReport(
            filled, "order-1", "BTC/USDT", Side.BUY, Decimal("0.1"), Decimal("0.1"), Decimal("5000.25"), is_open=False,
            is_canceled=False, order_type=OrderType.MARKET, price=None, created_at=START_AT,
        ),
        OrderReport(
            canceled, "order-2", "BTC/USDT", Side.BUY, Decimal("0.02"), Decimal(0), Decimal(0), is_open=False,
            is_canceled=True, order_type=OrderType.LIMIT, price=Decimal(40000), created_at=START_AT + A_DAY,
        ),
    ]  # fmt: skip


def test_an_order_made_before_and_done_after_is_not_among_those_made_since(desk: Desk) -> None:
    old = desk.gateway.order_create(resting("order-1"))
    days_later(desk, 1)
    desk.gateway.order_cancel("BTC/USDT", old)
    new = desk.gateway.order_create(ticket("order-2"))

    since = desk.gateway.orders_done("BTC/USDT", START_AT + A_DAY)
    longer = desk.gateway.orders_done("BTC/USDT", START_AT)

    assert [order.exchange_order_id for order in since] == [new]
    assert [order.exchange_order_id for order in longer] == [old, new]


def test_a_page_of_which_only_some_were_made_since_is_not_taken_for_the_last(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_pages(monkeypatch, 2)
    gateway = desk.opened()
    old = [gateway.order_create(resting(f"old-{n}")) for n in range(3)]
    days_later(desk, 1)
    new = bought(desk, gateway, 3)
    for order_id in old:  # done last, so they fill the first pages; made first, so they are not wanted
        gateway.order_cancel("BTC/USDT", order_id)

    found = gateway.orders_done("BTC/USDT", START_AT + A_DAY)

    assert [order.exchange_order_id for order in found] == new


@pytest.mark.parametrize("size", [1, 2, 3, 6, 7, 8, 100])
def test_every_page_of_done_orders_and_of_fills_is_read(desk: Desk, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    short_pages(monkeypatch, size)
    gateway = desk.opened()
    made = bought(desk, gateway, 7)

    orders = gateway.orders_done("BTC/USDT", START_AT)
    fills = gateway.fills_since("BTC/USDT", START_AT)

    assert [order.exchange_order_id for order in orders] == made
    assert [fill.exchange_order_id for fill in fills] == made
    assert len({fill.trade_id for fill in fills}) == 7


def test_more_than_one_page_of_a_true_length_is_read(desk: Desk) -> None:
    made = bought(desk, desk.gateway, 101, quantity=Decimal("0.0001"))
    fills: list[FillReport] = []

    asked = desk.asked_by(lambda: fills.extend(desk.gateway.fills_since("BTC/USDT", START_AT)))

    assert asked == [("GET", CLOCK), ("GET", FILLS), ("GET", FILLS)]
    assert [fill.exchange_order_id for fill in fills] == made
    assert [order.exchange_order_id for order in desk.gateway.orders_done("BTC/USDT", START_AT)] == made


def test_weeks_ago_is_read_week_by_week(desk: Desk) -> None:
    made: list[str] = []
    for _ in range(4):
        made.append(desk.gateway.order_create(ticket(f"order-{len(made)}")))
        days_later(desk, 6.7)
    fills: list[FillReport] = []

    asked = desk.asked_by(lambda: fills.extend(desk.gateway.fills_since("BTC/USDT", START_AT)))

    assert asked == [("GET", CLOCK), *[("GET", FILLS)] * 4]
    assert [fill.exchange_order_id for fill in fills] == made
    assert [order.exchange_order_id for order in desk.gateway.orders_done("BTC/USDT", START_AT)] == made


def test_what_happens_on_either_side_of_a_weeks_end_is_seen_once(desk: Desk) -> None:
    desk.gateway.order_create(ticket("order-0"))
    for after_ms, name in ((WEEK_MS - 1, "order-1"), (WEEK_MS, "order-2"), (WEEK_MS + 1, "order-3")):
        desk.simulator.control("clock", now_ms=START_MS + after_ms)
        desk.gateway.order_create(ticket(name))
    days_later(desk, 8)

    found = desk.gateway.orders_done("BTC/USDT", START_AT)

    assert [order.client_order_id for order in found] == ["order-0", "order-1", "order-2", "order-3"]
    assert len(desk.gateway.fills_since("BTC/USDT", START_AT)) == 4


def test_the_moment_asked_for_belongs_to_the_list_and_the_one_before_does_not(desk: Desk) -> None:
    desk.gateway.order_create(ticket("order-1"))

    assert len(desk.gateway.fills_since("BTC/USDT", START_AT)) == 1
    assert len(desk.gateway.orders_done("BTC/USDT", START_AT)) == 1
    assert desk.gateway.fills_since("BTC/USDT", START_AT + timedelta(milliseconds=1)) == []
    assert desk.gateway.orders_done("BTC/USDT", START_AT + timedelta(milliseconds=1)) == []


def test_fills_are_told_whoever_made_the_order_oldest_first_with_fee_and_order(desk: Desk) -> None:
    hand_id = by_hand(desk, price="41000")
    days_later(desk, 1)
    ours_id = desk.gateway.order_create(ticket("order-1"))
    days_later(desk, 1)
    desk.simulator.pin("40900")

    ours, hand = desk.gateway.fills_since("BTC/USDT", START_AT)

    assert (hand.exchange_order_id, hand.quantity, hand.price) == (hand_id, Decimal("0.02"), Decimal(40900))
    assert (hand.fee, hand.fee_currency, hand.side) == (Decimal("0.818"), "USDT", Side.BUY)
    assert (ours.exchange_order_id, ours.price, ours.fee) == (ours_id, Decimal("50002.5"), Decimal("1.00005"))
    assert ours.filled_at == START_AT + A_DAY


def test_where_there_is_nothing_there_is_an_empty_list(desk: Desk) -> None:
    assert desk.gateway.orders_open("BTC/USDT") == []
    assert desk.gateway.orders_done("BTC/USDT", START_AT) == []
    assert desk.gateway.fills_since("BTC/USDT", START_AT) == []
    assert desk.gateway.symbols_open() == []
    assert desk.gateway.order_get("BTC/USDT", "no-such-order") is None


@pytest.mark.parametrize("fault", [name for name in NO_ANSWERS if name not in ("hang",)])
def test_no_answer_is_never_taken_for_an_empty_list(desk: Desk, fault: str) -> None:
    desk.fault(**NO_ANSWERS[fault], count=None)

    outcomes = {name: refused_keys(read, desk.gateway) for name, read in LISTS.items()}

    assert outcomes == dict.fromkeys(LISTS, False)


@pytest.mark.parametrize("skip", [0, 1, 2])
def test_a_page_that_does_not_come_makes_the_whole_list_unavailable(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, skip: int
) -> None:
    short_pages(monkeypatch, 1)
    gateway = desk.opened()
    for n in range(3):
        gateway.order_create(ticket(f"order-{n}"))
    desk.fault(kind="html", path=DONE, skip=skip)

    with pytest.raises(ExchangeUnavailable):
        gateway.orders_done("BTC/USDT", START_AT)


def test_a_full_page_that_names_no_next_one_is_no_end(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    short_pages(monkeypatch, 1)
    gateway = desk.opened()
    order_id = gateway.order_create(ticket())
    row = f'{{"id":"{order_id}","symbol":"BTC-USDT","side":"buy","size":"1","active":false,"createdAt":{START_MS}}}'
    desk.fault(kind="body", body=f'{{"code":"200000","data":{{"items":[{row}]}}}}', path=DONE)

    with pytest.raises(ExchangeUnavailable, match="made no sense"):
        gateway.orders_done("BTC/USDT", START_AT)


@pytest.mark.parametrize("name", ["orders_open", "orders_done"])
@pytest.mark.parametrize(
    "row",
    [
        f'{{"symbol":"BTC-USDT","side":"buy","size":"1","active":false,"createdAt":{START_MS}}}',
        '{"id":"x1","symbol":"BTC-USDT","side":"buy","size":"1","active":true}',
        f'{{"id":"x1","symbol":"BTC-USDT","side":"sideways","size":"1","active":true,"createdAt":{START_MS}}}',
    ],
    ids=["no id", "no time", "no side"],
)
def test_a_row_that_is_no_order_makes_the_list_unavailable(desk: Desk, name: str, row: str) -> None:
    data = f"[{row}]" if name == "orders_open" else f'{{"lastId":1,"items":[{row.replace("true", "false")}]}}'
    desk.fault(kind="body", body=f'{{"code":"200000","data":{data}}}', path="/api/v1/hf/orders/*")

    with pytest.raises(ExchangeUnavailable):
        LISTS[name](desk.gateway)


@pytest.mark.parametrize("name", ["orders_open", "orders_done", "fills_since", "order_get"])
def test_a_market_the_gateway_was_not_told_of_is_unavailable_without_a_request_about_it(desk: Desk, name: str) -> None:
    nobody = desk.opened()
    nobody._venue.set_markets([])

    def asked() -> None:
        with pytest.raises(ExchangeUnavailable, match="BadSymbol"):
            LISTS[name](nobody)

    assert set(desk.asked_by(asked)) <= {("GET", CLOCK)}


def test_symbols_with_open_orders_are_one_request_and_named_our_way_even_unknown_ones(desk: Desk) -> None:
    by_hand(desk)
    by_hand(desk, "ETH/USDT", "100")
    desk.gateway.order_create(ticket("done-already"))
    nobody = desk.opened()
    nobody._venue.set_markets([])
    found: list[Any] = []

    asked = desk.asked_by(lambda: found.append(desk.gateway.symbols_open()))

    assert asked == [("GET", "/api/v1/hf/orders/active/symbols")]
    assert sorted(found[0]) == ["BTC/USDT", "ETH/USDT"]
    assert sorted(nobody.symbols_open() or []) == ["BTC/USDT", "ETH/USDT"]


def test_an_order_is_found_by_the_venues_id_in_one_request_whoever_made_it(desk: Desk) -> None:
    ours, hand = desk.gateway.order_create(resting("order-1")), by_hand(desk)
    found: list[OrderReport | None] = []

    asked = desk.asked_by(lambda: found.extend([desk.gateway.order_get("BTC/USDT", one) for one in (ours, hand)]))

    assert asked == [("GET", f"/api/v1/hf/orders/{ours}"), ("GET", f"/api/v1/hf/orders/{hand}")]
    assert [order.client_order_id for order in found if order] == ["order-1", ""]
    assert found[0] == desk.gateway.order_find("BTC/USDT", "order-1")


def test_a_look_up_by_the_venues_id_answered_with_another_order_proves_nothing(desk: Desk) -> None:
    row = f'{{"id":"x2","symbol":"BTC-USDT","side":"buy","size":"1","active":false,"createdAt":{START_MS}}}'
    desk.fault(kind="body", body=f'{{"code":"200000","data":{row}}}')

    with pytest.raises(ExchangeUnavailable, match="not the order"):
        desk.gateway.order_get("BTC/USDT", "x1")


def test_an_order_by_funds_has_no_quantity_until_it_says_one(desk: Desk) -> None:
    client = desk.simulator.client()
    made = client.private_post_hf_orders({"symbol": "BTC-USDT", "side": "buy", "type": "market", "funds": "1000"})

    found = desk.gateway.order_get("BTC/USDT", str(made["data"]["orderId"]))

    assert found is not None
    assert (found.is_open, found.order_type, found.client_order_id) == (False, OrderType.MARKET, "")
    assert found.filled_quote <= 1000 < found.filled_quote + 1


def test_a_stop_order_that_waits_is_no_order_yet(desk: Desk) -> None:
    desk.simulator.client().private_post_stop_order(
        {
            "clientOid": "stop-1",
            "symbol": "BTC-USDT",
            "side": "sell",
            "type": "market",
            "size": "0.1",
            "stopPrice": "45000",
        }
    )
    waiting = desk.gateway.orders_open("BTC/USDT"), desk.gateway.orders_done("BTC/USDT", START_AT)

    desk.simulator.pin("44000")

    assert waiting == ([], [])
    assert [order.side for order in desk.gateway.orders_done("BTC/USDT", START_AT)] == [Side.SELL]


@pytest.mark.parametrize(
    "word", list(zip(("open", "cancelonly", "close"), ("OPEN", "CANCEL_ONLY", "CLOSED"), strict=True))
)
def test_the_venue_says_whether_it_takes_orders_and_why_not(desk: Desk, word: tuple[str, str]) -> None:
    desk.simulator.control("settings", status=word[0], statusMessage="upgrading")

    report = desk.gateway.status()

    assert (report.status, report.message) == (VenueStatus(word[1]), "upgrading")


def test_a_status_nobody_has_described_is_no_status(desk: Desk) -> None:
    desk.fault(kind="body", body='{"code":"200000","data":{"status":"halfway","msg":""}}')

    with pytest.raises(ExchangeUnavailable):
        desk.gateway.status()


@pytest.mark.parametrize(
    ("changes", "rights"),
    [
        ({}, KeyRights(can_trade=True, can_withdraw=False, is_bound_to_addresses=False)),
        ({"permissions": "General"}, KeyRights(False, False, False)),
        ({"permissions": "General, Spot, Transfer"}, KeyRights(True, True, False)),
        ({"permissions": "General,Spot,InnerTransfer"}, KeyRights(True, False, False)),
        ({"ipWhitelist": "127.0.0.1"}, KeyRights(True, False, True)),
    ],
)
def test_the_venue_says_what_the_keys_may_do(desk: Desk, changes: dict[str, str], rights: KeyRights) -> None:
    account = {"secret": CREDENTIALS.secret, "passphrase": CREDENTIALS.passphrase}
    desk.simulator.control("accounts", apiKey=KEY, **account, **changes)

    assert desk.gateway.key_rights() == rights


def test_a_real_venue_is_not_asked_for_its_time_before_every_list() -> None:
    canned = Canned({"GET /api/v1/hf/fills": {"code": "200000", "data": {"items": [], "lastId": 0}}})
    market = {"symbol": "BTC/USDT", "id": "BTC-USDT", "base": "BTC", "quote": "USDT", "type": "spot", "spot": True}
    gateway = canned.gateway("kucoin", market)

    assert gateway.fills_since("BTC/USDT", datetime.now(tz=UTC) - timedelta(days=12)) == []

    first, second = (one.query for one in canned.asked)
    assert canned.lines() == ["GET /api/v1/hf/fills"] * 2
    assert int(first["endAt"]) - int(first["startAt"]) == WEEK_MS - 1
    assert int(second["startAt"]) == int(first["endAt"]) + 1
    assert "endAt" not in second


def venue_of(rows: list[dict[str, Any]], *, cap: int, is_newest_first: bool) -> Callable[..., Any]:
    """A fetch of a venue that gives at most ``cap`` rows, from one end of what was asked for."""

    def fetch(since: int | None, params: dict[str, Any]) -> tuple[list[dict[str, Any]], Any]:
        start, until = params.get("startTime", since), params.get("until", 10**15)
        asked = [row for row in rows if start <= row["timestamp"] <= until]
        cut = min(cap, params.get("limit", cap))
        return (asked[-cut:] if is_newest_first else asked[:cut]), None

    return fetch


@pytest.mark.parametrize("cap", [2, 3, 7, 50])
@pytest.mark.parametrize("is_newest_first", [False, True])
def test_pages_of_a_length_nobody_told_us_are_read_from_whichever_end(cap: int, is_newest_first: bool) -> None:
    rows = [{"id": str(n), "timestamp": 1000 + n // 2} for n in range(0, 14, 2)]

    found = walk_both_ways(venue_of(rows, cap=cap, is_newest_first=is_newest_first), 1001, 9999)

    assert sorted(row["timestamp"] for row in found) == [1001, 1002, 1003, 1004, 1005, 1006]


@pytest.mark.parametrize("size", [3, 4, 7, 9, 50])
def test_pages_that_begin_with_the_oldest_are_read_to_the_newest(size: int) -> None:
    rows = [{"id": str(n), "timestamp": 1000 + n // 2} for n in range(9)]

    found = walk_forward(venue_of(rows, cap=1000, is_newest_first=False), 1000, 9999, size=size, since_name="startTime")

    assert found == rows


def test_more_rows_at_one_time_than_a_page_takes_are_not_passed_over_in_silence() -> None:
    rows = [{"id": str(n), "timestamp": 1000} for n in range(5)]

    with pytest.raises(ValueError, match="a full page without news"):
        walk_forward(venue_of(rows, cap=9, is_newest_first=False), 1000, 9999, size=2, since_name="startTime")


def test_both_fills_of_a_trade_with_oneself_are_told(desk: Desk) -> None:
    rows = ",".join(
        f'{{"id":{n},"tradeId":77,"orderId":"x{n}","symbol":"BTC-USDT","side":"{side}","price":"1","size":"2",'
        f'"fee":"0.1","feeCurrency":"USDT","createdAt":{START_MS}}}'
        for n, side in ((1, "buy"), (2, "sell"))
    )
    desk.fault(kind="body", body=f'{{"code":"200000","data":{{"lastId":1,"items":[{rows}]}}}}', path=FILLS)

    fills = desk.gateway.fills_since("BTC/USDT", START_AT)

    assert [(fill.trade_id, fill.exchange_order_id) for fill in fills] == [("77", "x1"), ("77", "x2")]
