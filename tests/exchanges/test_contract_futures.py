"""What every gateway promises, kept by the one to contracts: KuCoin's futures, against the simulator.

A contract is 0.001 BTC: 50 USDT at 50,000. The wallet holds 10,000 USDT.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import pytest

from domain.market import MarginMode, OrderType, PositionSide, Side, Trigger
from exchanges import ccxt_gateway
from exchanges.ccxt_gateway import CcxtGateway
from exchanges.gateway import (
    BalanceReport,
    ExchangeUnavailable,
    FundingReport,
    KeyRights,
    OrderOutcomeUnknown,
    OrderRejected,
    OrderReport,
    PositionReport,
    StatusReport,
    VenueStatus,
)
from exchanges.paging import walk_backward, walk_by_page
from exchanges.venues import VENUES, WEEK_MS
from tests.exchanges.conftest import CREDENTIALS, ticket
from tests.simulator.conftest import KEY, PASSPHRASE, SECRET, START_MS, Simulator, made_exchange

BTC = "BTC/USDT:USDT"
MINUTE = timedelta(minutes=1)
START_AT = datetime.fromtimestamp(START_MS / 1000, tz=UTC)


@dataclass
class Desk:
    """A simulator without slippage at 50,000, and a gateway to its contracts."""

    simulator: Simulator
    gateway: CcxtGateway

    def asked_by(self, call: Any) -> list[tuple[str, str]]:
        before = len(self.simulator.oracle()["requests"])
        call()
        return [(line["method"], line["path"]) for line in self.simulator.oracle()["requests"][before:]]

    def later(self, seconds: int) -> None:
        self.simulator.control("clock", advance_s=seconds)

    def wallet(self) -> tuple[Any, Any]:
        [usdt] = [row for row in self.gateway.balances() if row.currency == "USDT"]
        return usdt.total, usdt.free

    def found(self, client_order_id: str) -> Any:
        order = self.gateway.order_find(BTC, client_order_id)
        assert isinstance(order, OrderReport)
        return order


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    # A venue that hangs costs a test a second instead of ten.
    monkeypatch.setattr(ccxt_gateway, "HTTP_TIMEOUT_MS", 1000)
    with Simulator(made_exchange("BTC-USDT", "ETH-USDT", slippage="0")) as simulator:
        simulator.control(
            "accounts", apiKey=KEY, secret=SECRET, passphrase=PASSPHRASE, futures={"USDT": "10000"},
            permissions="General,Spot,Futures",
        )  # fmt: skip
        simulator.pin("50000")
        gateway = CcxtGateway("kucoinfutures", simulator.url, CREDENTIALS)
        gateway.know((report.rules.symbol, report.venue_info) for report in gateway.markets())
        yield Desk(simulator, gateway)


def market(client_order_id: str, contracts: int = 10, side: Side = Side.BUY, **changes: Any) -> Any:
    fields = {"symbol": BTC, "side": side, "quantity": Decimal(contracts), "leverage": Decimal(5)}
    return ticket(client_order_id, **{**fields, **changes})


def limit(client_order_id: str, price: str = "40000", **changes: Any) -> Any:
    return market(client_order_id, order_type=OrderType.LIMIT, price=Decimal(price), **changes)


def test_markets_are_the_linear_perpetuals_with_the_rules_that_sizing_needs(desk: Desk) -> None:
    [btc] = [one for one in desk.gateway.markets() if one.rules.symbol == BTC]

    rules: Any = btc.rules
    assert (rules.base, rules.quote, btc.kind, btc.is_active) == ("BTC", "USDT", "LINEAR_FUTURE", True)
    assert (rules.lot_size, rules.min_quantity, rules.contract_size) == (1, 1, Decimal("0.001"))
    assert (rules.tick_size, rules.maker_fee, rules.taker_fee) == (Decimal("0.1"), Decimal("0.0002"), Decimal("0.0006"))
    assert btc.venue_info["limits"]["leverage"]["max"] == "100"
    assert rules.notional(Decimal(10), Decimal(50_000)) == 500


def test_prices_of_all_contracts_are_one_request(desk: Desk) -> None:
    desk.simulator.pin("51000.1")

    asked = desk.asked_by(lambda: desk.gateway.quotes([BTC, "ETH/USDT:USDT", "NOPE/USDT:USDT"]))
    quotes = {quote.symbol: quote for quote in desk.gateway.quotes([BTC, "ETH/USDT:USDT"])}

    assert asked == [("GET", "/api/v1/allTickers")]
    assert set(quotes) == {BTC, "ETH/USDT:USDT"}
    assert quotes[BTC].last == Decimal("51000.1")
    assert quotes[BTC].bid <= quotes[BTC].last <= quotes[BTC].ask


def test_candles_come_whole_though_the_venue_gives_few_at_once(desk: Desk) -> None:
    this_minute = desk.gateway.time().replace(second=0, microsecond=0)

    some = desk.gateway.candles(BTC, "1m", this_minute - 30 * MINUTE, 7)
    many = desk.gateway.candles(BTC, "1m", this_minute - 650 * MINUTE, 1500)

    assert [candle.open_at for candle in some] == [this_minute - n * MINUTE for n in range(30, 23, -1)]
    assert [candle.open_at for candle in many] == [this_minute - n * MINUTE for n in range(650, -1, -1)]
    assert many[-1].close == 50_000


def test_trades_of_others_come_with_ids_sides_and_whole_contracts(desk: Desk) -> None:
    now = desk.gateway.time()

    trades = desk.gateway.trades_since(BTC, now - 60 * MINUTE, 1000)

    assert len(trades) == 100
    assert [trade.at for trade in trades] == sorted(trade.at for trade in trades)
    assert now - MINUTE < trades[-1].at <= now
    assert {trade.quantity for trade in trades} == {Decimal(1)}
    assert trades[-1].price == 50_000
    assert desk.gateway.trades_since(BTC, trades[-2].at, 1) == [trades[-2]]


def test_funding_rates_come_whole_though_the_venue_gives_few_at_once(desk: Desk) -> None:
    now = desk.gateway.time()
    since = now - timedelta(days=100)

    rates = desk.gateway.funding_rates_since(BTC, since, 1000)
    some = desk.gateway.funding_rates_since(BTC, rates[5].at, 7)

    assert len(rates) == 300
    assert {later.at - one.at for one, later in zip(rates, rates[1:], strict=False)} == {timedelta(hours=8)}
    assert since <= rates[0].at < since + timedelta(hours=8)
    assert now - timedelta(hours=8) < rates[-1].at <= now
    assert {rate.rate for rate in rates} == {Decimal("0.0001")}
    assert some == rates[5:12]


def test_the_last_funding_rate_costs_one_request(desk: Desk) -> None:
    now = desk.gateway.time()
    [last] = desk.gateway.funding_rates_since(BTC, now - timedelta(hours=8) + timedelta(seconds=1), 1000)

    asked = desk.asked_by(lambda: desk.gateway.funding_rates_since(BTC, last.at, 1000))

    assert asked == [("GET", "/api/v1/timestamp"), ("GET", "/api/v1/contract/funding-rates")]


def test_the_venue_says_its_status_and_what_the_keys_may_do_with_contracts(desk: Desk) -> None:
    able = desk.gateway.key_rights()
    desk.simulator.control("accounts", apiKey=KEY, permissions="General,Spot")

    assert desk.gateway.status() == StatusReport(VenueStatus.OPEN)
    assert able == KeyRights(can_trade=True, can_withdraw=False, is_bound_to_addresses=able.is_bound_to_addresses)
    assert desk.gateway.key_rights().can_trade is False
    with pytest.raises(OrderRejected) as raised:
        desk.gateway.order_create(market("order-1"))
    assert (raised.value.code, raised.value.is_refused_key) == ("400007", True)


def test_a_market_order_is_done_with_figures_that_agree_with_its_fills_and_the_wallet(desk: Desk) -> None:
    order_id = desk.gateway.order_create(market("order-1"))

    order: Any = desk.found("order-1")
    fills: list[Any] = desk.gateway.order_fills(BTC, order_id)

    assert (order.is_open, order.is_canceled, order.side, order.symbol) == (False, False, Side.BUY, BTC)
    assert (order.exchange_order_id, order.quantity, order.filled, order.filled_quote) == (order_id, 10, 10, 500)
    assert [(fill.quantity, fill.price, fill.fee, fill.fee_currency) for fill in fills] == [
        (10, 50_000, Decimal("0.3"), "USDT")
    ]
    assert desk.gateway.order_get(BTC, order_id) == order
    assert desk.gateway.orders_done(BTC, START_AT) == [order]
    assert desk.gateway.fills_since(BTC, START_AT) == fills
    assert desk.wallet() == (Decimal("9999.7"), Decimal("9899.7"))


def test_the_wallet_is_without_what_open_positions_gain_and_the_position_says_its_liquidation_price(desk: Desk) -> None:
    desk.gateway.order_create(market("order-1", side=Side.SELL))

    desk.simulator.pin("49000")

    [held] = desk.gateway.positions()
    assert held == PositionReport(
        BTC, PositionSide.SHORT, Decimal(10), Decimal(50_000), Decimal(5), MarginMode.ISOLATED, held.liquidation_price
    )
    # (500 + 100) / (10 * 0.001 * 1.005), on the tick below
    assert held.liquidation_price == Decimal("59701.4")
    assert desk.wallet() == (Decimal("9999.7"), Decimal("9899.7"))
    assert {row.currency: row.total for row in desk.gateway.balances()} == {
        "USDT": Decimal("9999.7"), "USDC": Decimal(0)
    }  # fmt: skip


def test_figures_are_exact_decimals_and_times_are_utc(desk: Desk) -> None:
    order_id = desk.gateway.order_create(market("order-1"))
    desk.gateway.order_create(limit("order-2"))
    desk.later(8 * 3600)
    gateway = desk.gateway
    reports: list[Any] = [
        *gateway.markets(), *gateway.quotes([BTC]), *gateway.candles(BTC, "1m", START_AT, 3), *gateway.balances(),
        *gateway.orders_open(BTC), *gateway.orders_done(BTC, START_AT), *gateway.fills_since(BTC, START_AT),
        *gateway.positions(), *gateway.fundings_since(BTC, START_AT), gateway.order_get(BTC, order_id),
    ]  # fmt: skip

    values = [value for report in reports for value in dataclasses.asdict(report).values()]
    values += [
        value for report in reports if hasattr(report, "rules") for value in dataclasses.asdict(report.rules).values()
    ]

    assert len({type(report) for report in reports}) == 8
    assert not [value for value in values if isinstance(value, float)]
    assert {value.utcoffset() for value in values if isinstance(value, datetime)} == {timedelta(0)}


def test_an_order_goes_out_once_with_leverage_margin_mode_and_whole_contracts(desk: Desk) -> None:
    asked = desk.asked_by(lambda: desk.gateway.order_create(limit("order-1", quantity=Decimal("7.000"))))

    [order] = desk.simulator.oracle()["futures"]["orders"]
    assert asked == [("POST", "/api/v1/orders")]
    assert (order["size"], order["leverage"], order["marginMode"], order["reduceOnly"]) == (7, "5", "ISOLATED", False)
    assert (order["clientOid"], order["price"], order["side"]) == ("order-1", "40000", "buy")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quantity": Decimal("1.5")}, "wanted a whole number of contracts, was 1.5"),
        ({"leverage": Decimal(101)}, "wanted a leverage of at most 100, was 101"),
        ({"symbol": "NOPE/USDT:USDT"}, "NOPE"),
    ],
)
def test_what_no_contract_can_be_is_rejected_before_it_is_sent(desk: Desk, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(OrderRejected, match=words) as raised:
        desk.gateway.order_create(market("order-1", **changes))

    assert raised.value.code == "LOCAL"
    assert desk.simulator.oracle()["futures"]["orders"] == []


def test_reduce_only_closes_what_is_held_and_no_more(desk: Desk) -> None:
    desk.gateway.order_create(market("order-1", 4))
    closing = desk.gateway.order_create(market("order-2", 9, Side.SELL, is_reduce_only=True))

    order = desk.found("order-2")
    with pytest.raises(OrderRejected) as raised:
        desk.gateway.order_create(market("order-3", 1, Side.SELL, is_reduce_only=True))

    assert (order.exchange_order_id, order.quantity, order.filled, order.is_open) == (closing, 9, 4, False)
    assert desk.gateway.positions() == []
    assert raised.value.code == "300009"


def test_a_limit_order_rests_holds_its_margin_and_gives_it_back(desk: Desk) -> None:
    order_id = desk.gateway.order_create(limit("order-1"))
    resting, holding, symbols = desk.found("order-1"), desk.wallet(), desk.gateway.symbols_open()

    desk.gateway.order_cancel(BTC, order_id)

    gone = desk.found("order-1")
    assert (resting.is_open, resting.order_type, resting.price) == (True, OrderType.LIMIT, 40_000)
    assert (holding, symbols) == ((Decimal(10_000), Decimal("9919.76")), [BTC])
    assert (gone.is_open, gone.is_canceled, gone.filled) == (False, True, 0)
    assert (desk.wallet(), desk.gateway.symbols_open()) == ((10_000, 10_000), [])
    assert desk.gateway.orders_open(BTC) == []
    assert desk.gateway.order_fills(BTC, order_id) == []


def test_open_orders_are_found_on_markets_that_nobody_has_spoken_of(desk: Desk) -> None:
    desk.gateway.order_create(limit("order-1"))
    desk.gateway.order_create(limit("order-2", price="100", symbol="ETH/USDT:USDT"))

    assert CcxtGateway("kucoinfutures", desk.simulator.url, CREDENTIALS).symbols_open() == [BTC, "ETH/USDT:USDT"]


def test_nothing_is_found_where_there_is_nothing_and_cancelling_it_is_no_error(desk: Desk) -> None:
    done = desk.gateway.order_create(market("done"))

    for order_id in (done, done, "0123"):
        desk.gateway.order_cancel(BTC, order_id)

    assert desk.gateway.order_find(BTC, "never-sent") is None
    assert desk.gateway.order_get(BTC, "0123") is None
    assert desk.gateway.fundings_since(BTC, START_AT) == []
    assert not desk.found("done").is_canceled


def test_an_order_beyond_the_margin_is_rejected_and_leaves_nothing(desk: Desk) -> None:
    with pytest.raises(OrderRejected) as raised:
        desk.gateway.order_create(market("order-1", 2000, leverage=Decimal(5)))
    with pytest.raises(OrderRejected) as other_mode:
        desk.gateway.order_create(market("order-2", margin_mode=MarginMode.CROSS))

    assert (raised.value.code, other_mode.value.code) == ("300003", "330005")
    assert desk.gateway.order_find(BTC, "order-1") is None
    assert desk.wallet() == (10_000, 10_000)


def test_a_code_that_may_mean_anything_is_no_rejection(desk: Desk) -> None:
    desk.simulator.control("faults", method="POST", path="*/orders", when="after", kind="code", code="100001", msg="x")

    with pytest.raises(OrderOutcomeUnknown):
        desk.gateway.order_create(limit("order-1"))

    assert desk.found("order-1").is_open


def test_a_live_client_order_id_sent_again_makes_no_second_order_and_is_no_rejection(desk: Desk) -> None:
    order_id = desk.gateway.order_create(limit("order-1"))

    with pytest.raises(OrderOutcomeUnknown):
        desk.gateway.order_create(limit("order-1"))

    assert [order.exchange_order_id for order in desk.gateway.orders_open(BTC)] == [order_id]


def test_a_request_of_an_old_claim_is_refused_unseen_and_the_next_is_stamped_anew(desk: Desk) -> None:
    late = market("late", sent_at=datetime.now(tz=UTC) - timedelta(seconds=10))

    with pytest.raises(ExchangeUnavailable, match="400002"):
        desk.gateway.order_create(late)

    assert desk.gateway.refuses_late_requests
    assert desk.gateway.order_find(BTC, "late") is None
    assert desk.gateway.order_create(market("in-time"))


def test_lists_are_read_whole_page_by_page(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    traits = VENUES["kucoinfutures"]
    short = dataclasses.replace(
        traits, history=partial(walk_by_page, size=2, span_ms=WEEK_MS), fundings=partial(walk_backward, size=2)
    )
    monkeypatch.setitem(VENUES, "kucoinfutures", short)
    gateway = CcxtGateway("kucoinfutures", desk.simulator.url, CREDENTIALS)
    gateway.know((report.rules.symbol, report.venue_info) for report in gateway.markets())
    for number in range(5):
        gateway.order_create(market(f"order-{number}", 1))
        desk.later(1)
    desk.later(3 * 86_400)

    orders = gateway.orders_done(BTC, START_AT)
    fills = gateway.fills_since(BTC, START_AT)
    fundings = gateway.fundings_since(BTC, START_AT)

    assert [order.client_order_id for order in orders] == [f"order-{number}" for number in range(5)]
    assert [fill.exchange_order_id for fill in fills] == [order.exchange_order_id for order in orders]
    assert [one.paid_at for one in fundings] == [
        START_AT.replace(hour=12, minute=0, second=0) + n * timedelta(hours=8) for n in range(9)
    ]


def test_funding_is_a_payment_once_each_with_its_sign(desk: Desk) -> None:
    desk.simulator.control("symbols", symbol="XBTUSDTM", fundingRate="0.0005")
    desk.gateway.order_create(market("order-1"))
    desk.later(86_400)

    found = desk.gateway.fundings_since(BTC, START_AT)
    later = desk.gateway.fundings_since(BTC, found[1].paid_at)

    assert [(one.amount, one.currency, one.symbol) for one in found] == [(Decimal("-0.25"), "USDT", BTC)] * 3
    assert len({one.funding_id for one in found}) == 3
    assert later == found[1:]
    assert isinstance(found[0], FundingReport)


def test_a_liquidation_is_an_order_of_the_venue_s_own_and_says_so(desk: Desk) -> None:
    ours = desk.gateway.order_create(market("order-1"))

    desk.simulator.pin("40000")

    first: Any
    forced: Any
    [first, forced] = desk.gateway.orders_done(BTC, START_AT)
    assert (first.exchange_order_id, first.is_liquidation) == (ours, False)
    assert (forced.client_order_id, forced.side, forced.filled, forced.is_liquidation) == ("", Side.SELL, 10, True)
    assert desk.gateway.positions() == []


def test_refused_keys_and_a_silent_venue_are_told_apart(desk: Desk) -> None:
    desk.simulator.control("faults", method="GET", path="*/positions", when="before", kind="http", status=502, body="")
    with pytest.raises(ExchangeUnavailable) as silent:
        desk.gateway.positions()
    desk.simulator.control("accounts", apiKey=KEY, permissions="")
    with pytest.raises(ExchangeUnavailable) as refused:
        desk.gateway.positions()

    assert (silent.value.is_refused_key, silent.value.is_answer) == (False, False)
    assert (refused.value.is_refused_key, refused.value.is_answer) == (True, True)


def test_a_wallet_is_never_read_from_somebody_else_s_page(desk: Desk) -> None:
    desk.simulator.control("faults", method="GET", path="*/account-overview", when="before", kind="html")

    with pytest.raises(ExchangeUnavailable):
        desk.gateway.balances()

    assert BalanceReport("USDT", Decimal(10_000), Decimal(10_000)) in desk.gateway.balances()


def stop(client_order_id: str, level: str = "49000", trigger: Trigger = Trigger.FALLING, **changes: Any) -> Any:
    fields = {"order_type": OrderType.STOP, "side": Side.SELL, "trigger": trigger, "stop_price": Decimal(level)}
    return market(client_order_id, **{**fields, "is_reduce_only": True, **changes})


def stop_found(desk: Desk, client_order_id: str) -> Any:
    order = desk.gateway.stop_find(BTC, client_order_id)
    assert isinstance(order, OrderReport)
    return order


def test_a_stop_order_waits_is_found_by_our_id_holds_nothing_and_is_no_order_yet(desk: Desk) -> None:
    desk.gateway.order_create(market("order-1"))
    before = desk.wallet()

    order_id = desk.gateway.order_create(stop("stop-1"))

    waiting = stop_found(desk, "stop-1")
    assert (waiting.exchange_order_id, waiting.client_order_id, waiting.order_type) == (order_id, "stop-1", "STOP")
    assert (waiting.is_waiting, waiting.is_open, waiting.is_canceled, waiting.filled) == (True, True, False, 0)
    assert (waiting.side, waiting.quantity) == (Side.SELL, 10)
    assert desk.gateway.stops_open(BTC) == [waiting]
    assert (desk.gateway.orders_open(BTC), desk.gateway.symbols_open(), desk.wallet()) == ([], [], before)


@pytest.mark.parametrize(
    ("side", "trigger", "level", "price"),
    [
        (Side.SELL, Trigger.FALLING, "49000", "48900"),
        (Side.SELL, Trigger.RISING, "51000", "51100"),
        (Side.BUY, Trigger.FALLING, "49000", "48900"),
        (Side.BUY, Trigger.RISING, "51000", "51100"),
    ],
)
def test_a_stop_order_is_filled_under_its_id_when_its_price_is_met_from_its_side(
    desk: Desk, side: Side, trigger: Trigger, level: str, price: str
) -> None:
    desk.gateway.order_create(market("order-1", side=side.opposite))
    order_id = desk.gateway.order_create(stop("stop-1", level, trigger, side=side))
    desk.simulator.pin("50100")
    desk.simulator.pin("49900")
    still = stop_found(desk, "stop-1")

    desk.simulator.pin(price)

    done = stop_found(desk, "stop-1")
    assert still.is_waiting
    assert (done.exchange_order_id, done.side, done.order_type) == (order_id, side, OrderType.MARKET)
    assert (done.is_waiting, done.is_open, done.is_canceled, done.filled) == (False, False, False, 10)
    fills: list[Any] = desk.gateway.order_fills(BTC, order_id)
    assert [(fill.quantity, fill.price) for fill in fills] == [(10, Decimal(price))]
    assert (desk.gateway.stops_open(BTC), desk.gateway.positions()) == ([], [])


def test_what_was_met_is_one_question_and_says_when_it_was_made(desk: Desk) -> None:
    desk.gateway.order_create(market("order-1"))
    made_at = desk.gateway.time()
    desk.gateway.order_create(stop("stop-1"))
    desk.later(3600)
    desk.simulator.pin("48900")

    assert desk.asked_by(lambda: desk.gateway.stop_find(BTC, "stop-1")) == [("GET", "/api/v1/orders/byClientOid")]
    assert stop_found(desk, "stop-1").created_at == made_at


def test_a_stop_order_with_a_limit_rests_with_it_once_its_price_is_met_and_is_cancelled_as_any_order(
    desk: Desk,
) -> None:
    desk.gateway.order_create(market("order-1"))
    order_id = desk.gateway.order_create(stop("stop-1", price=Decimal(49500)))
    desk.simulator.pin("48900")

    resting = stop_found(desk, "stop-1")
    at_work = desk.gateway.orders_open(BTC)
    desk.gateway.order_cancel(BTC, order_id)

    gone = stop_found(desk, "stop-1")
    assert (resting.is_waiting, resting.is_open, resting.order_type, resting.price) == (False, True, "LIMIT", 49_500)
    assert at_work == [resting]
    assert (gone.is_waiting, gone.is_open, gone.is_canceled, gone.filled) == (False, False, True, 0)


def test_a_stop_order_that_waits_is_cancelled_and_only_the_look_that_follows_says_so(desk: Desk) -> None:
    desk.gateway.order_create(market("order-1"))
    order_id = desk.gateway.order_create(stop("stop-1"))

    said = [desk.gateway.stop_cancel(BTC, one) for one in (order_id, order_id, "0123")]

    after = stop_found(desk, "stop-1")
    assert said == [False, False, False]
    assert (after.is_waiting, after.is_open, after.is_canceled, after.filled) == (False, False, True, 0)
    assert desk.gateway.stops_open(BTC) == []
    desk.simulator.pin("48000")
    assert [report.quantity for report in desk.gateway.positions()] == [10]


def test_of_a_stop_over_all_and_targets_no_more_is_sold_than_is_held(desk: Desk) -> None:
    desk.gateway.order_create(market("order-1"))
    desk.gateway.order_create(stop("stop-1"))
    desk.gateway.order_create(stop("target-1", "52000", Trigger.RISING, quantity=Decimal(4)))
    desk.gateway.order_create(stop("target-2", "53000", Trigger.RISING, quantity=Decimal(6)))
    names = [order.client_order_id for order in desk.gateway.stops_open(BTC)]

    desk.simulator.pin("52100")
    desk.simulator.pin("48900")
    after_stop = desk.gateway.positions()
    desk.simulator.pin("53100")

    target, over, last = (stop_found(desk, name) for name in ("target-1", "stop-1", "target-2"))
    assert sorted(names) == ["stop-1", "target-1", "target-2"]
    assert (target.filled, over.filled, over.is_canceled, last.filled, last.is_canceled) == (4, 6, True, 0, True)
    assert after_stop == desk.gateway.positions() == []


def test_a_stop_order_of_an_old_claim_is_refused_unseen(desk: Desk) -> None:
    late = stop("late", sent_at=datetime.now(tz=UTC) - timedelta(seconds=10))

    with pytest.raises(ExchangeUnavailable, match="400002"):
        desk.gateway.order_create(late)

    assert desk.gateway.refuses_late_stops
    assert desk.gateway.stop_find(BTC, "late") is None


def test_a_waiting_client_order_id_sent_again_makes_no_second_order_and_is_no_rejection(desk: Desk) -> None:
    order_id = desk.gateway.order_create(stop("stop-1"))

    with pytest.raises(OrderOutcomeUnknown):
        desk.gateway.order_create(stop("stop-1"))

    assert [order.exchange_order_id for order in desk.gateway.stops_open(BTC)] == [order_id]


def mode_of(desk: Desk) -> tuple[str, str]:
    """Margin mode and cross leverage of the market there."""
    client = desk.simulator.client(KEY, SECRET, PASSPHRASE)
    mode = client.futuresPrivateGetPositionGetMarginMode({"symbol": "XBTUSDTM"})["data"]["marginMode"]
    return mode, client.futuresPrivateGetGetCrossUserLeverage({"symbol": "XBTUSDTM"})["data"]["leverage"]


def test_margin_mode_and_cross_leverage_are_brought_to_those_of_the_next_order(desk: Desk) -> None:
    desk.gateway.margin_match(BTC, MarginMode.CROSS, Decimal(5))
    crossed = mode_of(desk)
    desk.gateway.order_create(market("order-1", margin_mode=MarginMode.CROSS))
    again = desk.asked_by(lambda: desk.gateway.margin_match(BTC, MarginMode.CROSS, Decimal(5)))
    [held] = desk.gateway.positions()
    desk.gateway.order_create(market("order-2", side=Side.SELL, margin_mode=MarginMode.CROSS, is_reduce_only=True))
    desk.gateway.margin_match(BTC, MarginMode.ISOLATED, Decimal(2))

    assert (crossed, mode_of(desk)) == (("CROSS", "5"), ("ISOLATED", "5"))
    assert (held.margin_mode, held.leverage) == (MarginMode.CROSS, Decimal(5))
    assert again == [("GET", "/api/v2/position/getMarginMode"), ("GET", "/api/v2/getCrossUserLeverage")]


def test_no_other_mode_and_no_other_leverage_come_to_what_is_held(desk: Desk) -> None:
    desk.gateway.margin_match(BTC, MarginMode.CROSS, Decimal(5))
    desk.gateway.order_create(market("order-1", margin_mode=MarginMode.CROSS))

    with pytest.raises(ExchangeUnavailable, match="330006") as switched:
        desk.gateway.margin_match(BTC, MarginMode.ISOLATED, Decimal(5))
    with pytest.raises(OrderRejected, match="wanted a leverage of 3, what is held there has 5") as levered:
        desk.gateway.margin_match(BTC, MarginMode.CROSS, Decimal(3))

    assert (switched.value.is_answer, levered.value.code) == (True, "LEVERAGE")
    assert mode_of(desk) == ("CROSS", "5")
