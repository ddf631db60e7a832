"""Every exit there is, from the signal to the last digit of a simulated venue's books."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from domain.exits import ExitReason
from domain.orders import OrderStatus
from domain.strategy import SignalKind
from exchanges.models import Market
from money.halts import halt_carry_out, halt_trip
from orders.lookups import order_look
from orders.models import Fill, Order
from pipeline.topics import Topic
from positions.contracts import contracts_read
from positions.models import Position
from positions.reconciliation import account_reconcile
from positions.services import session_exit, sessions_track
from positions.watch import prices_watch
from sessions.models import SessionStatus
from sessions.services import session_stop
from tests.contracts import FuturesVenue
from tests.factories import events, let_pass, make_candles
from tests.flows.steps import (
    START_AT,
    assert_closed,
    carry_out,
    entered,
    exits_of,
    said_in_tests,
    say,
    session_with,
    watched,
)
from tests.venue import Venue

D = Decimal

# What a market order pays at 50,000, with the simulator's 0.005 % of slippage: 0.02 are 1000.05 USDT.
ENTRY = D("50002.5")


@pytest.mark.parametrize(
    ("exits", "signal", "stop", "above", "below"),
    [
        ({"stop_loss_percent": "2"}, {}, "49002.45", "49002.5", "49002.4"),
        ({"stop_loss_atr": "2"}, {"atr": D(400)}, "49202.5", "49202.6", "49202.5"),
        ({"is_stop_from_signal": True}, {"stop_price": D(48500)}, "48500", "48500.1", "48500"),
    ],
    ids=["by percent", "by average range", "by the signal"],
)
def test_a_stop_loss(
    venue: Venue, exits: dict[str, Any], signal: dict[str, Any], stop: str, above: str, below: str
) -> None:
    position = entered(session_with(venue, exits), **signal)
    assert (position.entry_price, position.quantity, position.stop_price) == (ENTRY, D("0.02"), D(stop))

    watched(venue, above)
    assert exits_of(position) == []
    watched(venue, below)

    assert_closed(venue, position, ExitReason.STOP_LOSS, "0.02")


def test_a_target_of_two_levels_is_taken_in_parts(venue: Venue) -> None:
    targets = [{"percent": "2", "fraction": "0.25"}, {"percent": "4"}]
    position = entered(session_with(venue, {"targets": targets}))

    watched(venue, "51002.5")
    assert exits_of(position) == []
    watched(venue, "51002.6")
    assert exits_of(position) == [("TAKE_PROFIT", D("0.005"))]
    watched(venue, "52002.6")

    assert_closed(venue, position, ExitReason.TAKE_PROFIT, "0.005", "0.015")


def test_a_target_of_three_levels_and_a_stop_for_what_is_left(venue: Venue) -> None:
    targets = [{"percent": "1", "fraction": "0.5"}, {"percent": "2", "fraction": "0.3"}, {"percent": "3"}]
    position = entered(session_with(venue, {"targets": targets, "stop_loss_percent": "1"}))

    watched(venue, "50503")
    watched(venue, "51003")
    assert exits_of(position) == [("TAKE_PROFIT", D("0.01")), ("TAKE_PROFIT", D("0.006"))]
    watched(venue, "49502")

    assert_closed(venue, position, ExitReason.STOP_LOSS, "0.01", "0.006", "0.004")


def test_three_levels_are_taken_one_after_the_other_when_the_price_leaps_over_all(venue: Venue) -> None:
    targets = [{"percent": "1", "fraction": "0.5"}, {"percent": "2", "fraction": "0.3"}, {"percent": "3"}]
    position = entered(session_with(venue, {"targets": targets}))

    for _ in targets:
        watched(venue, "52000")

    assert_closed(venue, position, ExitReason.TAKE_PROFIT, "0.01", "0.006", "0.004")


def test_the_target_that_the_signal_names(venue: Venue) -> None:
    position = entered(session_with(venue, {"is_target_from_signal": True}), target_price=D(51234))

    watched(venue, "51233.9")
    assert exits_of(position) == []
    watched(venue, "51234")

    assert_closed(venue, position, ExitReason.TAKE_PROFIT, "0.02")


def test_a_trailing_stop_stands_once_it_is_activated_and_follows_closed_candles(venue: Venue) -> None:
    session = session_with(venue, {"trailing_percent": "1", "trailing_activation_percent": "2"})
    position = entered(session)
    feed = session.config.feed

    make_candles(feed, [51000.0], START_AT + timedelta(minutes=1))  # 2 % are 51,002.55
    watched(venue, "51000")
    assert not Position.objects.exclude(stop_price=None).exists()
    make_candles(feed, [52000.0, 51900.0], START_AT + timedelta(minutes=3))
    watched(venue, "51900")
    position.refresh_from_db()
    assert position.stop_price == 51480
    watched(venue, "51480")

    assert_closed(venue, position, ExitReason.TRAILING_STOP, "0.02")


def test_a_stop_goes_to_break_even(venue: Venue) -> None:
    exits = {"stop_loss_percent": "2", "break_even_percent": "1", "break_even_offset_percent": "0.2"}
    session = session_with(venue, exits)
    position = entered(session)

    make_candles(session.config.feed, [50600.0], START_AT + timedelta(minutes=1))
    watched(venue, "50300")
    position.refresh_from_db()
    assert position.stop_price == ENTRY * D("1.002")
    watched(venue, "50102")

    assert_closed(venue, position, ExitReason.BREAK_EVEN, "0.02")


def test_the_time_is_up(venue: Venue) -> None:
    position = entered(session_with(venue, {"max_hold_minutes": 30}))

    venue.advance(1799)
    sessions_track([position.session_id])
    assert not Position.objects.exclude(exit_reason="").exists()
    venue.advance(1)
    sessions_track([position.session_id])
    carry_out()

    assert_closed(venue, position, ExitReason.TIME_EXIT, "0.02")


def test_the_gain_that_is_asked_for_falls_with_time(venue: Venue) -> None:
    roi = [{"minutes": 0, "percent": "4"}, {"minutes": 20, "percent": "1"}]
    position = entered(session_with(venue, {"roi": roi}))

    watched(venue, "50600")
    assert exits_of(position) == []
    venue.advance(1200)
    sessions_track([position.session_id])
    watched(venue, "50600")

    assert_closed(venue, position, ExitReason.ROI, "0.02")


@pytest.mark.parametrize("kind", [SignalKind.EXIT_LONG, SignalKind.ENTER_SHORT])
def test_a_signal_against_it_closes_a_long(venue: Venue, kind: SignalKind) -> None:
    session = session_with(venue, {})
    position = entered(session)

    venue.advance(60)
    say(session, kind, minute=1)
    carry_out()

    assert_closed(venue, position, ExitReason.EXIT_SIGNAL, "0.02")
    assert Position.objects.count() == 1  # a market that cannot be sold short is only left


def test_a_market_exit_by_hand(venue: Venue) -> None:
    position = entered(session_with(venue, {"stop_loss_percent": "2"}))

    session_exit(position.session_id, actor="alice")
    sessions_track([position.session_id])
    carry_out()

    assert_closed(venue, position, ExitReason.MARKET_EXIT, "0.02")


def test_a_session_that_is_stopped(venue: Venue) -> None:
    session = session_with(venue, {"stop_loss_percent": "2"})
    position = entered(session)

    session_stop(session.pk)
    sessions_track([session.pk])
    carry_out()
    sessions_track([session.pk])

    assert_closed(venue, position, ExitReason.SESSION_STOP, "0.02")
    session.refresh_from_db()
    assert session.status == SessionStatus.STOPPED


def test_a_halt_that_flattens(venue: Venue) -> None:
    position = entered(session_with(venue, {"stop_loss_percent": "2"}))

    halt = halt_trip("FLATTEN", "news", account_id=venue.account.pk, actor="alice")
    halt_carry_out(halt.pk)
    sessions_track([position.session_id])
    carry_out()

    assert_closed(venue, position, ExitReason.HALT, "0.02")


def test_what_was_added_is_stopped_at_the_average_price(venue: Venue) -> None:
    session = session_with(venue, {"stop_loss_percent": "2"}, max_entries=2)
    position = entered(session)

    venue.advance(60)
    venue.price("49500")
    say(session, minute=1)
    carry_out()
    position.refresh_from_db()
    # 1000.05 USDT buy 0.020202 at 49,502.5, beside 0.02 at 50,002.5
    average = (D("0.02") * ENTRY + D("0.020202") * D("49502.5")) / D("0.040202")
    assert position.quantity == D("0.040202")
    assert abs(position.entry_price - average) < D("1e-12")
    assert position.stop_price == round(position.entry_price * D("0.98"), 18)
    watched(venue, "48760")
    assert exits_of(position) == []
    watched(venue, "48756")

    assert_closed(venue, position, ExitReason.STOP_LOSS, "0.040202")


def test_what_is_too_small_to_be_sold_after_a_part_is_booked_as_dust(venue: Venue) -> None:
    position = entered(session_with(venue, {"stop_loss_percent": "2", "targets": [
        {"percent": "1", "fraction": "0.99"}, {"percent": "9"},
    ]}))  # fmt: skip
    watched(venue, "50600")
    assert exits_of(position) == [("TAKE_PROFIT", D("0.0198"))]
    Market.objects.filter(pk=venue.market.pk).update(min_notional=D(10))  # 0.0002 are worth 9.8 at the stop

    watched(venue, "49000")

    position.refresh_from_db()
    assert position.dust == D("0.0002")
    assert len(events(Topic.ALERTS, alert="DUST")) == 1
    prices_watch()
    sessions_track([position.session_id])
    assert (len(venue.orders()), len(events(Topic.ALERTS, alert="DUST"))) == (2, 1)
    assert (position.status, position.exit_reason, venue.balance("BTC")) == ("CLOSED", "STOP_LOSS", D("0.0002"))


# -- contracts -----------------------------------------------------------------------------------------------------------


def short(futures: FuturesVenue, exits: dict[str, Any], leverage: int = 3) -> Position:
    position = entered(session_with(futures, exits, leverage=D(leverage)), SignalKind.ENTER_SHORT)
    assert (position.side, position.quantity, position.entry_price) == ("SHORT", 20, 50_000)
    return position


def test_a_short_is_stopped_above(futures: FuturesVenue) -> None:
    position = short(futures, {"stop_loss_percent": "2", "targets": [{"percent": "2"}]})

    watched(futures, "50999.9")
    assert exits_of(position) == []
    watched(futures, "51000")

    assert_closed(futures, position, ExitReason.STOP_LOSS, "20")


def test_a_short_takes_its_targets_below(futures: FuturesVenue) -> None:
    targets = [{"percent": "2", "fraction": "0.5"}, {"percent": "4"}]
    position = short(futures, {"stop_loss_percent": "2", "targets": targets})

    watched(futures, "49000.1")
    assert exits_of(position) == []
    watched(futures, "49000")
    watched(futures, "48000")

    assert_closed(futures, position, ExitReason.TAKE_PROFIT, "10", "10")


def test_exits_of_a_short_that_rest_there_are_carried_out_while_nobody_watches(futures: FuturesVenue) -> None:
    targets = [{"percent": "2", "fraction": "0.5"}, {"percent": "4"}]
    exits = {"stop_loss_percent": "2", "targets": targets}
    position = entered(session_with(futures, exits, leverage=D(3), is_resting=True), SignalKind.ENTER_SHORT)
    carry_out()
    waiting = sorted((one["stopPrice"], one["size"]) for one in futures.books["stopOrders"])

    futures.price("49000")
    futures.advance(60)
    futures.price("51000")
    left_there = [one["currentQty"] for one in futures.books["positions"]]
    for order in Order.objects.filter(status=OrderStatus.OPENED):
        order_look(let_pass(order, 30).pk)
    sessions_track([position.session_id])
    for order in Order.objects.filter(status=OrderStatus.OPENED):
        order_look(let_pass(order, 30).pk)

    assert waiting == [("48000", 10), ("49000", 10), ("51000", 20)]
    assert left_there == [0]
    position.refresh_from_db()
    assert (position.status, position.exit_reason) == ("CLOSED", ExitReason.STOP_LOSS)
    assert exits_of(position) == [("TAKE_PROFIT", D("10"))]
    # The stop took the ten that were left of its twenty; the rest of it was cancelled by the venue.
    assert sorted(Order.objects.filter(is_exit=True).values_list("status", "filled")) == [
        ("CANCELED", D(0)), ("CANCELED", D(10)), ("CLOSED", D(10)),
    ]  # fmt: skip
    assert (futures.wallet(), position.quantity) == (10_000 + position.realized_pnl, 0)
    assert not [one for one in futures.books["stopOrders"] if one["isActive"]]
    assert account_reconcile(futures.account.pk) == []


@pytest.mark.parametrize("kind", [SignalKind.ENTER_LONG, SignalKind.ENTER_SHORT])
def test_contracts_are_left_before_the_venue_liquidates(futures: FuturesVenue, kind: SignalKind) -> None:
    position = entered(session_with(futures, {"liquidation_guard_percent": "50"}, leverage=D(5)), kind)
    contracts_read(futures.account.pk)
    position.refresh_from_db()
    assert position.liquidation_price is not None
    guard = (50_000 + position.liquidation_price) / 2
    assert position.stop_price == guard
    sign = 1 if kind is SignalKind.ENTER_LONG else -1

    watched(futures, str(round(guard + sign, 1)))
    assert exits_of(position) == []
    watched(futures, str(round(guard - sign, 1)))

    assert_closed(futures, position, ExitReason.LIQUIDATION_GUARD, "20")


def test_what_the_venue_liquidates_is_booked_as_that(futures: FuturesVenue) -> None:
    position = entered(session_with(futures, {"liquidation_guard_percent": None}, leverage=D(5)))

    futures.price("30000")
    account_reconcile(futures.account.pk)
    carry_out()

    position.refresh_from_db()
    assert (position.status, position.exit_reason, position.quantity) == ("CLOSED", ExitReason.LIQUIDATED, 0)
    assert futures.wallet() == 10_000 + position.realized_pnl
    account_reconcile(futures.account.pk)
    sessions_track([position.session_id])
    assert len(futures.books["fills"]) == Fill.objects.count() == 2


def test_every_reason_to_leave_has_a_scenario_here() -> None:
    assert said_in_tests(globals(), r"ExitReason\.([A-Z_]+)") == {reason.name for reason in ExitReason}
