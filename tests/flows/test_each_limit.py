"""Every limit of an account, met by an entry after real trades at a simulated venue: denied by name and never sent; and one
that keeps it just so goes through."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone

from domain.candles import Timeframe
from domain.limits import Limits
from domain.market import OrderType, Side
from domain.orders import Denial, OrderStatus
from money.halts import halt_lift, halt_trip
from money.models import EquityPoint, Valuation
from money.why import session_why
from orders.models import Order
from positions.manual import ManualAsk, manual_order
from positions.models import Position
from positions.services import sessions_track
from sessions.models import TradingSession
from tests.contracts import FuturesVenue
from tests.factories import make_candles, make_feed, make_limits
from tests.flows.steps import START_AT, carry_out, entered, said_in_tests, say, session_with, watched
from tests.venue import Venue

D = Decimal


@dataclass(frozen=True)
class Case:
    """A limit that denies, and one that lets through, an entry of 1,000 USDT beside one of 1,000 that is held: with slippage
    and fee they are 2,006 of 9,999."""

    denies: dict[str, Any]
    lets_through: dict[str, Any]
    code: Denial


CASES = {
    "max_open_positions": Case({"max_open_positions": 1}, {"max_open_positions": 2}, Denial.MAX_OPEN_POSITIONS),
    "max_exposure": Case({"max_exposure": D(1000)}, {"max_exposure": D(2010)}, Denial.MAX_EXPOSURE),
    **{
        name: Case({name: D(9)}, {name: D("20.2")}, code)
        for name, code in (
            ("max_exposure_percent", Denial.MAX_EXPOSURE),
            ("max_net_exposure_percent", Denial.MAX_NET_EXPOSURE),
            ("max_market_exposure_percent", Denial.MAX_MARKET_EXPOSURE),
            ("max_currency_exposure_percent", Denial.MAX_CURRENCY_EXPOSURE),
            ("max_correlated_exposure_percent", Denial.MAX_CORRELATED_EXPOSURE),
        )
    },
    "max_risk_per_trade_percent": Case(
        {"max_risk_per_trade_percent": D("0.0000000001")}, {"max_risk_per_trade_percent": D("0.21")},
        Denial.MAX_RISK_PER_TRADE,
    ),
    "max_open_risk_percent": Case(
        {"max_open_risk_percent": D("0.19")}, {"max_open_risk_percent": D("0.41")}, Denial.MAX_OPEN_RISK
    ),
    "max_orders_per_minute": Case(
        {"max_orders_per_minute": 1}, {"max_orders_per_minute": 2}, Denial.MAX_ORDERS_PER_MINUTE
    ),
    "max_var_percent": Case({"max_var_percent": D("0.01")}, {"max_var_percent": D(99)}, Denial.MAX_VAR),
    "max_cvar_percent": Case({"max_cvar_percent": D("0.01")}, {"max_cvar_percent": D(99)}, Denial.MAX_CVAR),
}  # fmt: skip


def denied(
    session: TradingSession, venue: Venue, code: Denial, *, is_measured: bool = True, minute: int = 0
) -> dict[str, Any]:
    """The session's entry is denied with that code, ``why`` says so, and the venue never hears of it; the check that did."""
    before = len(venue.requests_of("POST", "*orders*"))
    say(session, minute=minute)
    carry_out()
    order = Order.objects.latest("pk")
    assert (order.status, order.reason, order.filled) == (OrderStatus.DENIED, code, 0)
    assert Valuation.objects.get(order=order).verdict == code
    sentences = session_why(session)["sentences"]
    assert any(f"({code.value})" in line for line in sentences)
    sessions_track([session.pk])
    assert Position.objects.filter(session=session).latest("pk").status == "ABANDONED"
    assert len(venue.requests_of("POST", "*orders*")) == before
    if not is_measured:
        return {}
    [check] = [one for one in Valuation.objects.get(order=order).checks if one["verdict"] == "DENIED"]
    assert check["code"] == code
    assert any(f"{check['after']}" in line and f"at most {check['bound']}" in line for line in sentences)
    return dict(check)


def history(venue: Venue) -> None:
    """The market went up and down by some percent every hour."""
    feed = make_feed(venue.market, Timeframe.H1)
    last = Timeframe.H1.open_of(START_AT) - Timeframe.H1.length
    make_candles(feed, [50000 + 1000 * math.sin(hour * hour) for hour in range(120)], last)


STOP = {"stop_loss_percent": "2"}
KELLY = {"sizing_method": "KELLY", "sizing_amount": D(50), "kelly_min_trades": 1, "kelly_cap_percent": D(10)}


@pytest.mark.parametrize("limit", CASES)
def test_a_limit_on_the_book_denies_what_is_over_it(venue: Venue, limit: str) -> None:
    case = CASES[limit]
    history(venue)
    make_limits(venue.account)
    entered(session_with(venue, STOP))

    make_limits(venue.account, **case.denies)
    check = denied(session_with(venue, STOP), venue, case.code)
    assert check["limit"] == limit
    assert D(check["after"]) > D(check["bound"])
    make_limits(venue.account, **case.lets_through)
    position = entered(session_with(venue, STOP))

    assert position.quantity == D("0.02")
    assert [D(order["size"]) for order in venue.orders()] == [D("0.02"), D("0.02")]


def test_an_entry_is_cut_to_exactly_the_room_that_is_left(venue: Venue) -> None:
    make_limits(venue.account)
    entered(session_with(venue, STOP))
    make_limits(venue.account, max_exposure=D("1503"))

    position = entered(session_with(venue, STOP))

    [check] = Valuation.objects.get(order__filled=position.quantity).checks
    lot = venue.market.lot_size
    assert check["verdict"] == "CUT"
    assert D(check["after"]) <= 1503 < D(check["after"]) + lot * D("50002.5") * D("1.006")
    assert 0 < position.quantity < D("0.02")
    assert D(venue.orders()[-1]["size"]) == position.quantity


def test_more_leverage_than_the_account_allows(futures: FuturesVenue) -> None:
    make_limits(futures.account, max_leverage=D(2))

    check = denied(session_with(futures, STOP, leverage=D(3)), futures, Denial.MAX_LEVERAGE)
    assert (check["after"], check["bound"]) == ("3", "2")
    position = entered(session_with(futures, STOP, leverage=D(2)))

    assert [(one["size"], one["leverage"]) for one in futures.books["orders"]] == [(20, "2")]
    assert position.quantity == 20


@pytest.mark.parametrize(
    ("limit", "code"),
    [("max_daily_loss_percent", Denial.MAX_DAILY_LOSS), ("max_drawdown_percent", Denial.MAX_DRAWDOWN)],
)
def test_a_loss_that_is_not_realised_stops_entries(venue: Venue, limit: str, code: Denial) -> None:
    make_limits(venue.account)
    EquityPoint.objects.create(
        account=venue.account, currency="USDT", equity=D(10000), peak=D(10000), at=timezone.now() - timedelta(seconds=1)
    )  # fmt: skip
    entered(session_with(venue, {}))
    venue.price("45000")  # 0.02 that were bought at 50,002.5 have lost 100.05, and a fee of 1.00005

    make_limits(venue.account, **{limit: D(1)})
    check = denied(session_with(venue, STOP), venue, code)
    assert check["limit"] == limit
    make_limits(venue.account, **{limit: D("1.1")})
    entered(session_with(venue, STOP))

    assert len(venue.orders()) == 2


def test_a_rest_after_losses(venue: Venue) -> None:
    make_limits(venue.account)
    position = entered(session_with(venue, STOP))
    watched(venue, "48900")
    position.refresh_from_db()
    assert (position.status, position.realized_pnl < 0) == ("CLOSED", True)

    make_limits(venue.account, cooldown_losses=1, cooldown_minutes=60)
    check = denied(session_with(venue, STOP), venue, Denial.COOLDOWN)
    assert (check["limit"], check["after"], check["bound"]) == ("cooldown_losses of account", "1", "1")
    make_limits(venue.account, cooldown_losses=2, cooldown_minutes=60)
    entered(session_with(venue, STOP))

    assert len(venue.orders()) == 3


def test_the_rest_is_over_when_its_minutes_are(venue: Venue) -> None:
    make_limits(venue.account)
    entered(session_with(venue, STOP))
    watched(venue, "48900")
    make_limits(venue.account, cooldown_losses=1, cooldown_minutes=5)

    denied(session_with(venue, STOP), venue, Denial.COOLDOWN)
    venue.advance(301)
    entered(session_with(venue, STOP), minute=5)

    assert len(venue.orders()) == 3


def test_a_price_by_hand_that_is_too_far_away(venue: Venue) -> None:
    make_limits(venue.account, price_band_percent=D(10))

    def asked(key: str, price: str) -> Order:
        ask = ManualAsk(key=key, side=Side.BUY, order_type=OrderType.LIMIT, quantity=D("0.02"), price=D(price))
        order, _ = manual_order(venue.account, venue.market, ask, actor="alice")
        carry_out()
        order.refresh_from_db()
        return order

    far = asked("far", "44990")
    assert (far.status, far.reason) == (OrderStatus.DENIED, Denial.PRICE_BAND)
    assert venue.orders() == []
    near = asked("near", "45010")

    assert near.status == OrderStatus.OPENED
    assert [order["price"] for order in venue.orders()] == ["45010"]


@pytest.mark.parametrize("limit", ["max_var_percent", "max_cvar_percent", "max_correlated_exposure_percent"])
def test_what_cannot_be_measured_lets_nothing_through(venue: Venue, limit: str) -> None:
    make_limits(venue.account, **{limit: D(99)})

    check = denied(session_with(venue, STOP), venue, Denial.NO_HISTORY)
    assert check["limit"] == limit
    history(venue)
    entered(session_with(venue, STOP))

    assert len(venue.orders()) == 1


def test_kelly_waits_for_a_record(venue: Venue) -> None:
    make_limits(venue.account)
    session = session_with(venue, {"targets": [{"percent": "2"}]}, **KELLY)

    denied(session, venue, Denial.NO_RECORD, is_measured=False)
    venue.advance(60)
    traded(venue, session, minute=1, price="51100")
    venue.advance(60)
    say(session, minute=2)
    carry_out()

    assert Position.objects.filter(session=session, status="OPEN").count() == 1
    assert len(venue.orders()) == 3


def test_kelly_finds_no_edge_in_a_loss(venue: Venue) -> None:
    make_limits(venue.account)
    session = session_with(venue, STOP, **KELLY)
    traded(venue, session, minute=0, price="48900")
    venue.advance(60)

    denied(session, venue, Denial.NO_EDGE, is_measured=False, minute=1)

    assert len(venue.orders()) == 2


def traded(venue: Venue, session: TradingSession, minute: int, price: str) -> None:
    """The session enters with a fixed size, and leaves at that price."""
    sized = TradingSession.objects.filter(pk=session.pk)
    sized.update(sizing_method="FIXED_QUOTE", sizing_amount=D("1000.05"))
    say(session, minute=minute)
    carry_out()
    watched(venue, price)
    sized.update(sizing_method="KELLY", sizing_amount=KELLY["sizing_amount"])
    assert Position.objects.filter(session=session, status="CLOSED").count() == 1


def test_a_halt_lets_nothing_in_until_it_is_lifted(venue: Venue) -> None:
    make_limits(venue.account)
    halt = halt_trip("HALT", "news", account_id=venue.account.pk, actor="alice")

    denied(session_with(venue, STOP), venue, Denial.HALTED, is_measured=False)
    assert halt_lift(halt.pk, "calm again", actor="alice")
    entered(session_with(venue, STOP))

    assert len(venue.orders()) == 1


# Denials that no limit makes: what an order, its session, its market or its account is, and what it can pay for.
NO_LIMITS = {
    Denial.SESSION_NOT_ACTIVE, Denial.REQUEST_TOO_OLD, Denial.ACCOUNT_PAUSED, Denial.MARKET_NOT_TRADABLE,
    Denial.SIDE_NOT_TRADABLE, Denial.NO_FRESH_PRICE, Denial.BALANCE_UNKNOWN, Denial.NO_STOP_LOSS, Denial.NO_VOLATILITY,
    Denial.INSUFFICIENT_BALANCE, Denial.BELOW_MIN_QUANTITY, Denial.BELOW_MIN_NOTIONAL, Denial.OPPOSITE_POSITION,
}  # fmt: skip
# How a value at risk is measured, not how much there may be of it.
NO_BOUNDS = {"var_method", "var_confidence", "var_horizon_hours"}


def test_every_limit_has_a_scenario_here() -> None:
    told = said_in_tests(globals(), r"\b((?:max|cooldown|price)_[a-z_]+)\b")

    missing = {one.name for one in fields(Limits)} - NO_BOUNDS - set(CASES) - told
    assert missing == set()


def test_every_denial_by_a_limit_has_a_scenario_here() -> None:
    told = {Denial(name) for name in said_in_tests(globals(), r"Denial\.([A-Z_]+)")}

    assert {case.code for case in CASES.values()} | told == set(Denial) - NO_LIMITS
