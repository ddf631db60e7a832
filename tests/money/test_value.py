"""Valuing: each sizing method's exact quantity, each refusal's exact code, and the log of both."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import ROUND_DOWN, Decimal
from typing import Any

import pytest
from django.utils import timezone

from domain.orders import DENIAL_TEXTS, Denial, OrderStatus
from exchanges.gateway import ExchangeUnavailable
from exchanges.models import Account, Balance, Market, Quote
from money import services
from money.models import TradingHalt, Valuation
from money.tasks import sweep_orders, value
from orders.models import Order
from orders.services import orders_cancel
from positions.models import Position
from sessions.models import SessionStatus
from tests.factories import (
    events,
    let_pass,
    make_account,
    make_balance,
    make_config,
    make_limits,
    make_market,
    make_open_position,
    make_order,
    make_position,
    make_quote,
    make_session,
    make_user,
)
from tests.money.stages import (
    at_price,
    by_record,
    check_of,
    held_by_another,
    levered,
    lost,
    moved,
    requested,
    session_of,
    under,
    valued,
    was_worth,
    without_stop,
)
from tests.race import at_once, happens_before
from tests.venue import Venue

pytestmark = pytest.mark.django_db

D = Decimal


@pytest.mark.parametrize(
    ("method", "amount", "stop", "quantity"),
    [
        ("FIXED_QUOTE", "1000", None, "0.02"),
        ("FIXED_QUOTE", "1234.56", None, "0.02469"),
        ("PERCENT_OF_EQUITY", "10", None, "0.02"),
        ("PERCENT_OF_EQUITY", "33.333", None, "0.06666"),
        ("RISK_PER_TRADE", "1", "2", "0.1"),
        ("RISK_PER_TRADE", "0.5", "4", "0.025"),
        # all there is, less what slippage (0.5 %) and the fee (0.1 %) may take: 10,000 / 1.006 / 50,000
        ("FIXED_QUOTE", "50000", None, "0.1988"),
        ("RISK_PER_TRADE", "10", "1", "0.1988"),
    ],
)
def test_each_method_gives_its_exact_quantity(method: str, amount: str, stop: str | None, quantity: str) -> None:
    order = requested(
        sizing_method=method, sizing_amount=D(amount), stop_loss_percent=None if stop is None else D(stop)
    )

    valued(order)

    assert (order.status, order.quantity) == (OrderStatus.READY, D(quantity))
    assert order.reserved == D(quantity) * 50000 * D("1.006")
    assert order.valued_at is not None


def test_quantities_are_cut_to_the_lot_and_to_the_market_s_most() -> None:
    order = requested(sizing_amount=D(5000))
    Market.objects.update(lot_size=D("0.003"), max_quantity=D("0.08"))

    assert valued(order).quantity == D("0.078")


def test_an_entry_is_valued_at_the_price_it_would_pay() -> None:
    order = requested(sizing_amount=D(1000))
    Quote.objects.update(ask=D(62500))

    assert valued(order).quantity == D("0.016")


@pytest.mark.parametrize(("side", "limit", "price"), [
    ("SHORT", "25000", 50000), ("SHORT", "60000", 60000), ("LONG", "40000", 40000), ("LONG", "60000", 60000),
])  # fmt: skip
def test_a_limit_is_valued_at_what_it_may_come_to(side: str, limit: str, price: int) -> None:
    order = under(requested(), max_exposure=D(603))
    levered(order, "1")
    at_price(order, limit)
    Order.objects.update(position_side=side, side="SELL" if side == "SHORT" else "BUY")

    valued(order)

    # Sold short at 25,000 while the market is at 50,000 it fills at 50,000.
    assert order.valuation.price == price
    assert order.quantity == (D(603) / D("1.001") / price).quantize(D("0.00001"), ROUND_DOWN)


@pytest.mark.parametrize(("is_future", "side", "verdict"), [
    (True, "SHORT", Denial.OPPOSITE_POSITION), (True, "LONG", "APPROVED"), (False, "LONG", "APPROVED"),
])  # fmt: skip
def test_two_sessions_hold_one_side_of_a_market_of_contracts(is_future: bool, side: str, verdict: str) -> None:
    first, second = requested(), requested()
    if is_future:
        Market.objects.update(kind=Market.Kind.LINEAR_FUTURE)
    Position.objects.filter(intents=first.intent_id).update(side=side)
    Order.objects.filter(pk=first.pk).update(position_side=side, side="SELL" if side == "SHORT" else "BUY")

    value([first.pk, second.pk])  # asked for in one batch

    assert [row.verdict for row in Valuation.objects.order_by("order")] == ["APPROVED", verdict]


def test_an_order_that_cannot_be_valued_keeps_no_other_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    others = make_account(make_user("bob"), name="other")
    make_limits(others)
    broken, beside, elsewhere = requested(), requested(), requested(others)
    judge = services._judge
    monkeypatch.setattr(services, "_judge", lambda wish, *rest: 1 / 0 if wish.order == broken else judge(wish, *rest))

    value([broken.pk, beside.pk, elsewhere.pk])

    statuses = [Order.objects.get(pk=order.pk).status for order in (broken, beside, elsewhere)]
    assert statuses == [OrderStatus.REQUESTED, OrderStatus.READY, OrderStatus.READY]
    with pytest.raises(ZeroDivisionError):  # told to whoever asked for it alone
        value([broken.pk])


def test_more_is_asked_for_than_a_column_holds() -> None:
    order = requested(sizing_method="PERCENT_OF_EQUITY", sizing_amount=D(10) ** 17)

    assert valued(order).quantity == D("0.1988")
    assert order.valuation.wanted == D(10) ** 18 - 1


def test_a_bound_may_be_as_large_as_a_column_holds() -> None:
    order = under(requested(), max_leverage=D(10) ** 17, cooldown_losses=1, cooldown_minutes=2**31 - 1)

    assert valued(order).status == OrderStatus.READY
    assert check_of(order, "max_leverage of the account")["bound"] == str(10**21)
    second = requested(order.account)
    lost(second, "-1", minutes_ago=10_000)
    assert valued(second).reason == Denial.COOLDOWN


def test_equity_counts_what_is_held() -> None:
    account = make_account()
    make_limits(account)
    make_open_position(make_session(account))
    order = requested(account, price="100000", sizing_method="PERCENT_OF_EQUITY", sizing_amount=D(10))

    # 10,000 - 1,001 + 0.02 * 100,000 = 10,999
    assert valued(order).quantity == D("0.01099")


Change = Callable[[Order], Any]

DENIALS: dict[Denial, Change] = {
    Denial.SESSION_NOT_ACTIVE: lambda order: session_of(order).update(status=SessionStatus.SUSPENDED),
    Denial.REQUEST_TOO_OLD: lambda order: let_pass(order, 31),
    Denial.ACCOUNT_PAUSED: lambda order: Account.objects.update(status=Account.Status.PAUSED),
    Denial.MARKET_NOT_TRADABLE: lambda order: Market.objects.update(is_active=False),
    Denial.SIDE_NOT_TRADABLE: lambda order: Order.objects.update(position_side="SHORT", side="SELL"),
    Denial.OPPOSITE_POSITION: lambda order: held_by_another(order, "SHORT"),
    Denial.NO_FRESH_PRICE: lambda order: make_quote(order.market, age=timedelta(seconds=31)),
    Denial.BALANCE_UNKNOWN: lambda order: Account.objects.update(balances_synced_at=None),
    Denial.NO_STOP_LOSS: lambda order: without_stop(order),
    Denial.HALTED: lambda order: TradingHalt.objects.create(account=order.account, cause="a test", tripped_by="alice"),
    Denial.COOLDOWN: lambda order: lost(under(order, cooldown_losses=1), "-1"),
    Denial.MAX_ORDERS_PER_MINUTE: lambda order: make_limits(order.account, max_orders_per_minute=0),
    Denial.MAX_DAILY_LOSS: lambda order: was_worth(under(order, max_daily_loss_percent=D(1)), "10102"),
    Denial.MAX_DRAWDOWN: lambda order: was_worth(under(order, max_drawdown_percent=D(1)), "10102"),
    Denial.PRICE_BAND: lambda order: at_price(under(order, price_band_percent=D(5)), "52500.1"),
    Denial.MAX_LEVERAGE: lambda order: levered(under(order, max_leverage=D(3)), "3.5"),
    Denial.NO_VOLATILITY: lambda order: session_of(order).update(sizing_method="VOLATILITY"),
    Denial.NO_RECORD: lambda order: session_of(order).update(sizing_method="KELLY"),
    Denial.NO_EDGE: lambda order: lost(by_record(order), "-1"),
    Denial.NO_HISTORY: lambda order: make_limits(order.account, max_var_percent=D(5)),
    Denial.MAX_RISK_PER_TRADE: lambda order: make_limits(order.account, max_risk_per_trade_percent=D(0)),
    Denial.MAX_OPEN_RISK: lambda order: make_limits(order.account, max_open_risk_percent=D(0)),
    Denial.MAX_MARKET_EXPOSURE: lambda order: make_limits(order.account, max_market_exposure_percent=D(0)),
    Denial.MAX_CURRENCY_EXPOSURE: lambda order: make_limits(order.account, max_currency_exposure_percent=D(0)),
    Denial.MAX_NET_EXPOSURE: lambda order: make_limits(order.account, max_net_exposure_percent=D(0)),
    Denial.MAX_CORRELATED_EXPOSURE: lambda order: moved(order, max_correlated_exposure_percent=D(0)),
    Denial.MAX_VAR: lambda order: moved(order, max_var_percent=D(0)),
    Denial.MAX_CVAR: lambda order: moved(order, max_cvar_percent=D(0)),
    Denial.MAX_OPEN_POSITIONS: lambda order: make_limits(order.account, max_open_positions=0),
    Denial.MAX_EXPOSURE: lambda order: make_limits(order.account, max_exposure=D(0)),
    Denial.INSUFFICIENT_BALANCE: lambda order: make_balance(order.account, "0", free="0"),
    Denial.BELOW_MIN_QUANTITY: lambda order: Market.objects.update(min_quantity=D(1)),
    Denial.BELOW_MIN_NOTIONAL: lambda order: Market.objects.update(min_notional=D(1001)),
}


def venue_away(*_: Any) -> None:
    raise ExchangeUnavailable("nobody there")


def test_every_denial_there_is_has_a_test() -> None:
    assert set(DENIALS) == set(Denial)


@pytest.mark.parametrize("denial", Denial)
def test_a_refusal_is_a_denied_order_with_its_code(denial: Denial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "quotes_refresh", venue_away)
    order = requested()
    DENIALS[denial](order)

    valued(order)

    assert (order.status, order.reason, order.detail) == (OrderStatus.DENIED, denial, DENIAL_TEXTS[denial])
    assert (order.quantity, order.reserved) == (None, 0)
    assert order.closed_at is not None
    assert order.valuation.verdict == denial
    assert [event["status"] for event in events("orderUpdates")] == ["DENIED"]
    assert events("orders") == []


def test_a_balance_of_nothing_is_insufficient_not_unknown() -> None:
    order = requested()
    Balance.objects.all().delete()

    assert valued(order).reason == Denial.INSUFFICIENT_BALANCE


def test_an_approval_logs_what_it_was_decided_on() -> None:
    account = make_account()
    make_limits(account, max_exposure=D(1500))
    make_open_position(make_session(account))
    order = make_order(make_position(make_session(account, sizing_amount=D(800))))
    make_quote(order.market)

    valued(order)

    row = Valuation.objects.get()
    capped = D(500) / D("1.006")
    assert (row.verdict, row.is_approved) == (Valuation.APPROVED, True)
    assert (row.price, row.equity, row.free_balance) == (50000, 9999, 8999)
    assert (row.exposure, row.open_positions, row.wanted) == (1000, 1, 800)
    assert row.capped is not None
    assert abs(row.capped - capped) < D("1e-17")
    assert row.quantity == order.quantity == D("0.00994")


def test_a_denial_logs_the_book_it_was_decided_on() -> None:
    account = make_account()
    make_limits(account, max_open_positions=1)
    make_open_position(make_session(account))
    order = requested(account)

    valued(order)

    row = Valuation.objects.get()
    assert (row.verdict, row.is_approved, row.open_positions) == (Denial.MAX_OPEN_POSITIONS, False, 1)
    assert (row.equity, row.quantity) == (9999, None)


def test_valuing_twice_changes_nothing() -> None:
    order = requested()

    value([order.pk, order.pk])
    value([order.pk])

    assert Valuation.objects.count() == 1
    assert [event["status"] for event in events("orders")] == ["READY"]


@pytest.mark.parametrize("status", [s for s in OrderStatus if s != OrderStatus.REQUESTED])
def test_only_a_requested_order_is_valued(status: OrderStatus) -> None:
    order = requested()
    Order.objects.update(status=status)

    valued(order)

    assert (order.status, order.quantity) == (status, None)
    assert not Valuation.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_an_order_cancelled_in_between_is_neither_valued_nor_announced(
    bells: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = requested()
    bells.clear()
    happens_before(monkeypatch, services, "size", lambda: orders_cancel([order]))

    valued(order)

    assert (order.status, order.quantity) == (OrderStatus.CANCELED, None)
    assert not Valuation.objects.exists()
    assert bells.rung("orders.submit") == []
    assert events("orders") == []


@pytest.mark.django_db(transaction=True)
def test_two_workers_at_once_value_an_order_once(bells: Any) -> None:
    order = requested()

    at_once([lambda: services.orders_value([order.pk])] * 4)

    assert Valuation.objects.count() == 1
    assert bells.rung("orders.submit") == [{"order_ids": [order.pk]}]


@pytest.mark.django_db(transaction=True)
def test_a_lost_valuing_bell_is_rung_again_by_the_sweep(bells: Any) -> None:
    fresh, late = requested(), requested()
    let_pass(late, 4)
    bells.clear()

    sweep_orders()

    assert bells.rung("money.value") == [{"order_ids": [late.pk]}]
    assert fresh.status == OrderStatus.REQUESTED


def test_orders_of_a_batch_see_what_the_ones_before_them_took() -> None:
    account = make_account()
    make_limits(account, max_exposure=D(2500))
    orders = [requested(account) for _ in range(4)]

    value([order.pk for order in orders])

    rows = [(v.verdict, v.exposure) for v in Valuation.objects.order_by("order_id")]
    assert rows == [("APPROVED", 0), ("APPROVED", 1006), ("APPROVED", 2012), (Denial.MAX_EXPOSURE, D("2499.91"))]


def test_old_prices_and_unread_balances_are_read_before_they_are_needed(venue: Venue) -> None:
    account = venue.account
    make_limits(account)
    session = make_session(account, make_config(account.owner))
    config_market = session.config.feed.market
    assert config_market == make_market(account.exchange)
    Quote.objects.update(quoted_at=timezone.now() - timedelta(seconds=20), ask=D(1), bid=D(1), last=D(1))
    Account.objects.update(balances_synced_at=None)
    order = make_order(make_position(session))

    valued(order)

    assert (order.status, order.quantity) == (OrderStatus.READY, D("0.01999900"))
    assert Quote.objects.get(market=config_market).ask == D("50002.5")


def test_a_venue_that_cannot_be_asked_denies_for_want_of_a_price(venue: Venue) -> None:
    account = venue.account
    session = make_session(account, make_config(account.owner))
    Quote.objects.update(quoted_at=timezone.now() - timedelta(seconds=40))
    venue.fault(method="GET", path="/api/v1/market/allTickers", kind="drop")
    order = make_order(make_position(session))

    assert valued(order).reason == Denial.NO_FRESH_PRICE
