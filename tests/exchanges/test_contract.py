"""What every gateway promises, tried on each of them: the docstrings of ``exchanges/gateway.py``, line by line."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest

from domain.market import OrderType, Side, Trigger
from exchanges.gateway import (
    ExchangeUnavailable,
    KeyRights,
    OrderOutcomeUnknown,
    OrderRejected,
    OrderReport,
    StatusReport,
    VenueStatus,
)
from tests.exchanges.conftest import ticket
from tests.exchanges.stages import STAGES, Stage

BTC = "BTC/USDT"
MINUTE = timedelta(minutes=1)


@pytest.fixture(params=STAGES)
def stage(request: pytest.FixtureRequest, transactional_db: None) -> Iterator[Stage]:
    with STAGES[request.param]() as opened:
        yield opened


def limit(client_order_id: str, price: str = "40000", **changes: Any) -> Any:
    return ticket(client_order_id, **{"order_type": OrderType.LIMIT, "price": Decimal(price), **changes})


def stop(client_order_id: str, price: str = "49000", trigger: Trigger = Trigger.FALLING, **changes: Any) -> Any:
    """Sell 0.1 BTC at market once the price is there, unless ``changes`` say otherwise."""
    fields = {
        "order_type": OrderType.STOP,
        "side": Side.SELL,
        "quantity": Decimal("0.1"),
        "trigger": trigger,
        **changes,
    }
    return ticket(client_order_id, stop_price=Decimal(price), **fields)


def stop_limit(client_order_id: str) -> Any:
    """The same for 49,500 or more: below the market when it is set out, above it when it begins."""
    return dataclasses.replace(stop(client_order_id), price=Decimal(49500))


def stop_found(stage: Stage, client_order_id: str) -> OrderReport:
    order = stage.gateway.stop_find(BTC, client_order_id)
    assert order is not None
    return order


def found(stage: Stage, client_order_id: str) -> OrderReport:
    order = stage.gateway.order_find(BTC, client_order_id)
    assert order is not None
    return order


def values_of(report: Any) -> Iterator[Any]:
    for one in dataclasses.fields(report):
        value = getattr(report, one.name)
        yield from values_of(value) if dataclasses.is_dataclass(value) else [value]


def held(stage: Stage) -> dict[str, tuple[Decimal, Decimal]]:
    return {row.currency: (row.total, row.free) for row in stage.gateway.balances()}


def test_times_are_aware_and_utc(stage: Stage) -> None:
    stage.gateway.order_create(ticket("order-1"))
    since = stage.now - 5 * MINUTE
    times = [
        stage.gateway.time(),
        *(candle.open_at for candle in stage.gateway.candles(BTC, "1m", since, 10)),
        *(order.created_at for order in stage.gateway.orders_done(BTC, since)),
        *(fill.filled_at for fill in stage.gateway.fills_since(BTC, since)),
    ]

    assert len(times) > 6
    assert {at.utcoffset() for at in times if at is not None} == {timedelta(0)}
    assert {at.tzinfo for at in times if at is not None} == {UTC}


def test_figures_are_exact_decimals_and_nothing_is_a_float(stage: Stage) -> None:
    stage.gateway.order_create(ticket("order-1"))
    order_id = stage.gateway.order_create(limit("order-2"))
    since = stage.now - 5 * MINUTE
    gateway = stage.gateway
    reports: list[Any] = [
        *gateway.markets(), *gateway.quotes([BTC]), *gateway.candles(BTC, "1m", since, 3), *gateway.balances(),
        found(stage, "order-1"), gateway.order_get(BTC, order_id), *gateway.orders_open(BTC),
        *gateway.orders_done(BTC, since), *gateway.fills_since(BTC, since), gateway.status(), gateway.key_rights(),
    ]  # fmt: skip

    kinds = {type(value) for report in reports for value in values_of(report) if not isinstance(value, Enum)}

    assert kinds <= {str, bool, Decimal, datetime, dict, type(None)}
    assert len({type(report) for report in reports}) == 8
    assert all(value.is_finite() for report in reports for value in values_of(report) if isinstance(value, Decimal))


def test_the_venue_takes_orders_and_says_what_the_keys_may_do(stage: Stage) -> None:
    assert stage.gateway.status() == StatusReport(VenueStatus.OPEN)
    assert isinstance(stage.gateway.key_rights(), KeyRights)
    assert stage.gateway.key_rights().can_trade is not False


def test_markets_have_the_rules_that_sizing_needs(stage: Stage) -> None:
    [market] = [market for market in stage.gateway.markets() if market.rules.symbol == BTC]

    rules = market.rules
    assert (rules.base, rules.quote, market.kind, market.is_active) == ("BTC", "USDT", "SPOT", True)
    assert rules.tick_size > 0
    assert rules.lot_size > 0
    assert rules.taker_fee >= 0


def test_quotes_follow_the_price_and_leave_out_what_is_not_known(stage: Stage) -> None:
    stage.price("51000.1")

    [quote] = stage.gateway.quotes(["NOPE/USDT", BTC])

    assert (quote.symbol, quote.last) == (BTC, Decimal("51000.1"))
    assert quote.bid <= quote.last <= quote.ask
    assert stage.gateway.quotes([]) == []


def test_candles_begin_where_asked_oldest_first_up_to_the_limit_and_end_with_the_open_one(stage: Stage) -> None:
    this_minute = stage.now.replace(second=0, microsecond=0)

    some = stage.gateway.candles(BTC, "1m", this_minute - 30 * MINUTE, 7)
    last = stage.gateway.candles(BTC, "1m", this_minute - 2 * MINUTE, 100)

    assert [candle.open_at for candle in some] == [this_minute - n * MINUTE for n in range(30, 23, -1)]
    assert [candle.open_at for candle in last] == [this_minute - n * MINUTE for n in (2, 1, 0)]
    assert all(candle.low <= min(candle.open, candle.close) for candle in some)
    assert all(candle.high >= max(candle.open, candle.close) for candle in some)


def test_trades_of_others_come_oldest_first_from_where_asked_up_to_the_limit(stage: Stage) -> None:
    everything = stage.gateway.trades_since(BTC, stage.now - 60 * MINUTE, 1000)
    since = everything[-10].at

    later = stage.gateway.trades_since(BTC, since, 1000)
    some = stage.gateway.trades_since(BTC, since, 3)

    assert len(everything) == 100  # the venue shows no more
    assert everything == sorted(everything, key=lambda trade: trade.at)
    assert {trade.at.utcoffset() for trade in everything} == {timedelta(0)}
    assert len({trade.trade_id for trade in everything}) == 100
    assert later[:10] == everything[-10:]
    assert some == everything[-10:-7]
    assert all(isinstance(trade.price, Decimal) and trade.price > 0 < trade.quantity for trade in everything)
    assert {type(trade.is_buy) for trade in everything} == {bool}


def test_a_spot_market_has_no_funding_rates(stage: Stage) -> None:
    assert stage.gateway.funding_rates_since(BTC, stage.now - 600 * MINUTE, 100) == []


def test_an_order_is_sent_once_and_answered_with_the_venues_id(stage: Stage) -> None:
    before = stage.orders_sent()

    order_id = stage.gateway.order_create(limit("order-1"))

    assert found(stage, "order-1").exchange_order_id == order_id
    if before is not None:
        assert stage.orders_sent() == before + 1


def test_a_market_order_is_done_with_figures_that_agree_with_its_fills_and_the_balances(stage: Stage) -> None:
    before = held(stage)
    order_id = stage.gateway.order_create(ticket("order-1", quantity=Decimal("0.1")))

    order, fills, after = found(stage, "order-1"), stage.gateway.order_fills(BTC, order_id), held(stage)

    assert (order.is_open, order.is_canceled, order.side, order.symbol) == (False, False, Side.BUY, BTC)
    assert (order.quantity, order.filled) == (Decimal("0.1"), Decimal("0.1"))
    assert (order.order_type, order.price) == (OrderType.MARKET, None)
    assert sum(fill.quantity for fill in fills) == Decimal("0.1")
    assert sum(fill.quantity * fill.price for fill in fills) == order.filled_quote
    assert {(fill.exchange_order_id, fill.symbol, fill.side) for fill in fills} == {(order_id, BTC, Side.BUY)}
    assert {fill.fee_currency for fill in fills} == {"USDT"}
    paid = order.filled_quote + sum(fill.fee for fill in fills)
    assert after["BTC"][0] == before["BTC"][0] + Decimal("0.1")
    assert after["USDT"][0] == before["USDT"][0] - paid


def test_a_limit_order_rests_and_holds_its_money_until_its_price_is_met(stage: Stage) -> None:
    free = held(stage)["USDT"][1]
    order_id = stage.gateway.order_create(limit("order-1", quantity=Decimal("0.5")))
    resting, holding = found(stage, "order-1"), held(stage)["USDT"]

    stage.price("39990")

    done = found(stage, "order-1")
    [fill] = stage.gateway.order_fills(BTC, order_id)
    assert (resting.is_open, resting.is_canceled, resting.filled, resting.filled_quote) == (
        True,
        False,
        Decimal(0),
        Decimal(0),
    )
    assert (resting.order_type, resting.price) == (OrderType.LIMIT, Decimal(40000))
    assert holding[1] <= free - 20_000
    assert holding[0] == free
    assert (done.is_open, done.is_canceled, done.filled) == (False, False, Decimal("0.5"))
    assert fill.quantity == Decimal("0.5")
    assert fill.price <= 40000


def test_an_order_half_filled_is_open_and_says_how_much_and_both_when_it_is_cancelled(stage: Stage) -> None:
    order_id = stage.gateway.order_create(limit("order-1", quantity=Decimal("0.5")))
    if not stage.fill(order_id, "0.2"):
        pytest.skip("no part of an order can be filled here")
    half = found(stage, "order-1")

    stage.gateway.order_cancel(BTC, order_id)

    gone = found(stage, "order-1")
    assert (half.is_open, half.is_canceled, half.filled, half.filled_quote) == (
        True,
        False,
        Decimal("0.2"),
        Decimal(8000),
    )
    assert (gone.is_open, gone.is_canceled, gone.filled, gone.quantity) == (False, True, Decimal("0.2"), Decimal("0.5"))
    assert [fill.quantity for fill in stage.gateway.order_fills(BTC, order_id)] == [Decimal("0.2")]


def test_nothing_is_found_where_there_is_nothing(stage: Stage) -> None:
    gateway = stage.gateway

    assert gateway.order_find(BTC, "never-sent") is None
    assert gateway.order_get(BTC, "no-such-order") is None
    assert gateway.orders_open(BTC) == []
    assert gateway.orders_done(BTC, stage.now - MINUTE) == []
    assert gateway.fills_since(BTC, stage.now - MINUTE) == []
    assert not gateway.symbols_open()


def test_both_look_ups_say_the_same(stage: Stage) -> None:
    order_id = stage.gateway.order_create(limit("order-1"))

    assert found(stage, "order-1") == stage.gateway.order_get(BTC, order_id)
    assert [found(stage, "order-1")] == stage.gateway.orders_open(BTC)

    stage.gateway.order_cancel(BTC, order_id)

    assert found(stage, "order-1") == stage.gateway.order_get(BTC, order_id)
    assert [found(stage, "order-1")] == stage.gateway.orders_done(BTC, stage.now - MINUTE)


def test_open_orders_are_everybodys_oldest_first(stage: Stage) -> None:
    first = stage.gateway.order_create(limit("order-1"))
    stage.wait(1)
    second = stage.order_by_somebody_else(Side.SELL, "0.1", "60000", "theirs")
    stage.wait(1)
    third = stage.order_by_somebody_else(Side.BUY, "0.1", "30000")
    stage.wait(1)
    stage.gateway.order_create(ticket("done"))

    orders = stage.gateway.orders_open(BTC)

    expected = [(first, "order-1"), (second, "theirs"), (third, "")]
    assert [(order.exchange_order_id, order.client_order_id) for order in orders] == [
        (order_id, name) for order_id, name in expected if order_id is not None
    ]
    assert [order.created_at for order in orders] == sorted(order.created_at for order in orders if order.created_at)
    assert stage.gateway.symbols_open() in (None, [BTC])


def test_done_orders_are_those_made_since_oldest_first_and_none_that_is_open(stage: Stage) -> None:
    early = stage.gateway.order_create(limit("early"))
    stage.wait(10)
    since = stage.now
    filled = stage.gateway.order_create(ticket("filled"))
    stage.wait(1)
    canceled = stage.gateway.order_create(limit("canceled"))
    stage.wait(1)
    stage.gateway.order_create(limit("open"))
    for order_id in (canceled, early):
        stage.gateway.order_cancel(BTC, order_id)

    orders = stage.gateway.orders_done(BTC, since)
    longer = stage.gateway.orders_done(BTC, since - MINUTE)

    assert [(order.exchange_order_id, order.is_canceled) for order in orders] == [(filled, False), (canceled, True)]
    assert [order.client_order_id for order in longer] == ["early", "filled", "canceled"]


def test_fills_are_everybodys_since_then_oldest_first(stage: Stage) -> None:
    stage.gateway.order_create(ticket("before"))
    stage.wait(10)
    since = stage.now
    theirs = stage.order_by_somebody_else(Side.SELL, "0.1", "49000")
    stage.wait(1)
    ours = stage.gateway.order_create(ticket("ours"))

    fills = stage.gateway.fills_since(BTC, since)

    ids = list(dict.fromkeys(fill.exchange_order_id for fill in fills))
    assert ids == [one for one in (theirs, ours) if one is not None]
    assert [fill.filled_at for fill in fills] == sorted(fill.filled_at for fill in fills)
    assert [fill for fill in fills if fill.exchange_order_id == ours] == stage.gateway.order_fills(BTC, ours)
    assert len({(fill.exchange_order_id, fill.trade_id) for fill in fills}) == len(fills)


def test_a_cancelled_order_is_cancelled_and_gives_its_money_back(stage: Stage) -> None:
    before = held(stage)
    order_id = stage.gateway.order_create(limit("order-1"))

    stage.gateway.order_cancel(BTC, order_id)

    order = found(stage, "order-1")
    assert (order.is_open, order.is_canceled, order.filled) == (False, True, Decimal(0))
    assert stage.gateway.order_fills(BTC, order_id) == []
    assert held(stage) == before


def test_cancelling_what_is_done_cancelled_or_never_was_is_no_error(stage: Stage) -> None:
    done, gone = stage.gateway.order_create(ticket("done")), stage.gateway.order_create(limit("gone"))

    for order_id in (done, gone, gone, "no-such-order"):
        stage.gateway.order_cancel(BTC, order_id)

    assert (found(stage, "done").is_canceled, found(stage, "gone").is_canceled) == (False, True)


def test_an_order_beyond_the_accounts_means_is_rejected_with_the_venues_code_and_leaves_nothing(stage: Stage) -> None:
    before = held(stage)

    with pytest.raises(OrderRejected) as raised:
        stage.gateway.order_create(limit("order-1", quantity=Decimal(100)))

    assert raised.value.code
    assert not raised.value.is_refused_key
    assert stage.gateway.order_find(BTC, "order-1") is None
    assert held(stage) == before


def test_an_order_on_a_market_that_is_not_there_is_rejected(stage: Stage) -> None:
    with pytest.raises(OrderRejected):
        stage.gateway.order_create(limit("order-1", symbol="NOPE/USDT"))


def test_a_live_client_order_id_sent_again_makes_no_second_order_and_is_no_rejection(stage: Stage) -> None:
    order_id = stage.gateway.order_create(limit("order-1"))

    try:
        again = stage.gateway.order_create(limit("order-1"))
    except OrderOutcomeUnknown:
        again = order_id

    assert again == order_id
    assert [order.exchange_order_id for order in stage.gateway.orders_open(BTC)] == [order_id]


def test_a_request_past_its_window_is_not_placed_where_the_gateway_says_so(stage: Stage) -> None:
    if not stage.gateway.refuses_late_requests:
        pytest.skip("this venue keeps no deadline")
    late = ticket("late", sent_at=datetime.now(tz=UTC) - timedelta(seconds=10), window_ms=5000)

    with pytest.raises((OrderOutcomeUnknown, OrderRejected, ExchangeUnavailable)):
        stage.gateway.order_create(late)

    assert stage.gateway.order_find(BTC, "late") is None


def test_a_stop_order_waits_is_found_by_our_id_holds_nothing_and_is_no_order_yet(stage: Stage) -> None:
    before = held(stage)
    order_id = stage.gateway.order_create(stop("stop-1"))

    waiting = stop_found(stage, "stop-1")

    assert (waiting.exchange_order_id, waiting.client_order_id) == (order_id, "stop-1")
    assert (waiting.is_waiting, waiting.is_open, waiting.is_canceled, waiting.filled) == (True, True, False, Decimal(0))
    assert (waiting.order_type, waiting.side, waiting.quantity) == (OrderType.STOP, Side.SELL, Decimal("0.1"))
    assert stage.gateway.stops_open(BTC) == [waiting]
    assert stage.gateway.orders_open(BTC) == []
    assert not stage.gateway.symbols_open()
    assert held(stage) == before


@pytest.mark.parametrize(
    ("side", "trigger", "level", "price"),
    [
        (Side.SELL, Trigger.FALLING, "49000", "48900"),
        (Side.SELL, Trigger.RISING, "51000", "51100"),
        (Side.BUY, Trigger.FALLING, "49000", "48900"),
        (Side.BUY, Trigger.RISING, "51000", "51100"),
    ],
)
def test_a_stop_order_is_filled_when_its_price_is_met_from_its_side(
    stage: Stage, side: Side, trigger: Trigger, level: str, price: str
) -> None:
    stage.gateway.order_create(stop("stop-1", level, trigger, side=side))
    stage.price("50100")
    stage.price("49900")
    still = stop_found(stage, "stop-1")

    stage.price(price)

    done = stop_found(stage, "stop-1")
    fills = stage.gateway.order_fills(BTC, done.exchange_order_id)
    assert still.is_waiting
    assert (done.client_order_id, done.side, done.order_type) == ("stop-1", side, OrderType.MARKET)
    assert (done.is_waiting, done.is_open, done.is_canceled, done.filled) == (False, False, False, Decimal("0.1"))
    assert sum(fill.quantity for fill in fills) == Decimal("0.1")
    assert abs(done.filled_quote / done.filled / Decimal(price) - 1) < Decimal("0.002")
    assert stage.gateway.stops_open(BTC) == []


def test_a_stop_order_whose_price_is_there_already_begins_at_once(stage: Stage) -> None:
    stage.gateway.order_create(stop("stop-1", "50500"))

    assert stop_found(stage, "stop-1").filled == Decimal("0.1")


def test_a_stop_order_with_a_limit_rests_with_it_once_its_price_is_met(stage: Stage) -> None:
    stage.gateway.order_create(stop_limit("stop-1"))
    stage.price("48900")

    resting = stop_found(stage, "stop-1")

    assert (resting.is_waiting, resting.is_open, resting.order_type) == (False, True, OrderType.LIMIT)
    assert (resting.price, resting.filled) == (Decimal(49500), Decimal(0))
    assert stage.gateway.orders_open(BTC) == [resting]
    assert held(stage)["BTC"] == (Decimal(1), Decimal("0.9"))

    stage.price("49600")

    assert stop_found(stage, "stop-1").filled == Decimal("0.1")


def test_what_a_stop_order_became_is_cancelled_by_the_id_that_it_has_now(stage: Stage) -> None:
    order_id = stage.gateway.order_create(stop_limit("stop-1"))
    stage.price("48900")

    said = stage.gateway.stop_cancel(BTC, order_id)
    stage.gateway.order_cancel(BTC, stop_found(stage, "stop-1").exchange_order_id)

    order = stop_found(stage, "stop-1")
    assert not said
    assert (order.is_open, order.is_canceled, order.filled) == (False, True, Decimal(0))
    assert held(stage)["BTC"] == (Decimal(1), Decimal(1))


def test_a_stop_order_that_waits_is_cancelled_once_and_said_to_be_gone(stage: Stage) -> None:
    order_id = stage.gateway.order_create(stop("stop-1"))

    said = [stage.gateway.stop_cancel(BTC, one) for one in (order_id, order_id, "no-such-order")]

    after = stage.gateway.stop_find(BTC, "stop-1")
    assert said == [True, False, False]
    assert after is None or after.is_canceled
    assert stage.gateway.stops_open(BTC) == []
    stage.price("48000")
    assert held(stage)["BTC"] == (Decimal(1), Decimal(1))


def test_a_stop_order_that_the_balance_does_not_cover_when_it_is_met_is_cancelled(stage: Stage) -> None:
    stage.gateway.order_create(stop("stop-1", quantity=Decimal(1)))
    stage.gateway.order_create(ticket("sold", side=Side.SELL, quantity=Decimal("0.5")))

    stage.price("48900")

    order = stop_found(stage, "stop-1")
    assert (order.is_open, order.is_waiting, order.is_canceled, order.filled) == (False, False, True, Decimal(0))
    assert held(stage)["BTC"] == (Decimal("0.5"), Decimal("0.5"))


def test_stop_and_target_rest_side_by_side_for_the_same_coins(stage: Stage) -> None:
    stage.gateway.order_create(stop("stop-1", quantity=Decimal(1)))
    stage.wait(1)
    stage.gateway.order_create(stop("target-1", "52000", Trigger.RISING, quantity=Decimal(1)))
    names = [order.client_order_id for order in stage.gateway.stops_open(BTC)]

    stage.price("52100")

    assert names == ["stop-1", "target-1"]
    assert stop_found(stage, "target-1").filled == 1
    assert stop_found(stage, "stop-1").is_waiting


def test_a_waiting_client_order_id_sent_again_makes_no_second_order_and_is_no_rejection(stage: Stage) -> None:
    order_id = stage.gateway.order_create(stop("stop-1"))

    with pytest.raises(OrderOutcomeUnknown):
        stage.gateway.order_create(stop("stop-1"))

    assert [order.exchange_order_id for order in stage.gateway.stops_open(BTC)] == [order_id]


def test_no_stop_order_is_found_where_there_is_none(stage: Stage) -> None:
    assert stage.gateway.stop_find(BTC, "never-sent") is None
    assert stage.gateway.stops_open(BTC) == []
