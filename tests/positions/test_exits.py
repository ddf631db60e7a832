"""Leaving a position: for which reason, by which order, and what happens when the order fails."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from domain.exits import ExitReason
from domain.orders import OrderStatus
from domain.strategy import SignalKind
from orders.models import Order
from positions import services
from positions.models import Intent, Position, PositionStatus
from positions.tasks import follow_orders, sweep_exposed_sessions, sweep_sessions, track
from sessions.models import SessionStatus, TradingSession
from tests.conftest import Bells
from tests.factories import (
    events,
    finish,
    make_account,
    make_fill,
    make_market,
    make_open_position,
    make_order,
    make_position,
    make_quote,
    make_session,
    make_signal,
)
from tests.race import elsewhere, happens_before

pytestmark = pytest.mark.django_db


def held(entry_price: str = "50000", quantity: str = "0.02", **fields: Any) -> Position:
    """A position of 0.02 BTC bought at 50,000: stop at 49,000, target at 52,000."""
    return make_open_position(make_session(**fields), entry_price, quantity)


def exit_order() -> Order:
    return Order.objects.filter(is_exit=True).order_by("-pk")[0]


def see(position: Position, price: str) -> None:
    """The session is looked at with this price."""
    make_quote(position.market, price)
    track([position.session_id])


@pytest.mark.parametrize(
    ("price", "reason"),
    [("49000", "STOP_LOSS"), ("48000", "STOP_LOSS"), ("52000", "TAKE_PROFIT"), ("60000", "TAKE_PROFIT")],
)
def test_a_crossed_level_sells_all_that_is_held(price: str, reason: str) -> None:
    position = held()

    see(position, price)

    order = exit_order()
    position.refresh_from_db()
    assert (order.status, order.side, order.order_type) == (OrderStatus.READY, "SELL", "MARKET")
    assert (order.quantity, order.reason, position.exit_reason) == (Decimal("0.02"), reason, reason)
    assert order.valued_at is not None
    assert order.not_before_at is None
    assert [event["status"] for event in events("orders")] == ["READY"]


def test_an_entry_signal_that_comes_with_a_stop_is_acted_on_once_the_position_is_gone() -> None:
    position = held()
    signal = make_signal(position.session.config)

    see(position, "48000")
    assert (exit_order().reason, position.session.positions.count()) == ("STOP_LOSS", 1)
    finish(exit_order(), price="48000")
    follow_orders([exit_order().pk])
    track([position.session_id])  # seen before, and acted on once

    first, second = position.session.positions.order_by("pk")
    assert (first.status, second.status, second.entry_signal) == ("CLOSED", "PENDING", signal)


def test_a_signal_to_sell_short_that_comes_with_a_stop_says_nothing_more_on_spot() -> None:
    position = held()
    make_signal(position.session.config, SignalKind.ENTER_SHORT)

    see(position, "48000")
    finish(exit_order(), price="48000")
    follow_orders([exit_order().pk])

    assert [one.status for one in position.session.positions.all()] == ["CLOSED"]
    assert not events("positions", event="NOT_TRADABLE")


@pytest.mark.parametrize("price", ["49000.1", "50000", "51999.9"])
def test_a_price_between_the_levels_changes_nothing(price: str) -> None:
    position = held()

    see(position, price)

    assert not Order.objects.filter(is_exit=True).exists()


def test_a_short_position_s_levels_lie_the_other_way_round() -> None:
    position = held()
    Position.objects.update(side="SHORT", stop_price=Decimal(51000), target_price=Decimal(48000))
    Order.objects.update(side="SELL", position_side="SHORT")
    for fill in Order.objects.get().fills.all():
        fill.side = "SELL"
        fill.save()

    see(position, "51000")

    assert (exit_order().side, exit_order().reason) == ("BUY", "STOP_LOSS")


def test_being_looked_at_again_sells_no_second_time() -> None:
    position = held()

    see(position, "48000")
    see(position, "47000")
    track([position.session_id] * 3)

    assert Order.objects.filter(is_exit=True).count() == 1


def test_a_price_older_than_the_fills_or_too_old_is_no_reason_to_act() -> None:
    position = held()
    make_quote(position.market, "40000", age=timedelta(seconds=1))
    track([position.session_id])
    Position.objects.update(folded_at=timezone.now() - timedelta(hours=1))
    make_quote(position.market, "40000", age=timedelta(seconds=31))

    track([position.session_id])

    assert not Order.objects.filter(is_exit=True).exists()


def test_an_exit_signal_leaves_the_position() -> None:
    position = held()
    make_signal(position.session.config, SignalKind.EXIT_LONG)

    track([position.session_id])

    assert exit_order().reason == "EXIT_SIGNAL"


def test_the_other_side_s_exit_signal_does_not() -> None:
    position = held()
    make_signal(position.session.config, SignalKind.EXIT_SHORT)

    track([position.session_id])

    assert not Order.objects.filter(is_exit=True).exists()


def test_the_trader_leaves_by_hand_and_keeps_the_session() -> None:
    position = held()

    asked = services.session_exit(position.session_id)
    track([position.session_id])
    follow_orders([finish(exit_order(), price="50500").pk])

    position.refresh_from_db()
    session = TradingSession.objects.get()
    assert asked
    assert (position.status, position.exit_reason, position.is_exit_wanted) == ("CLOSED", "MARKET_EXIT", False)
    assert position.realized_pnl == Decimal("0.02") * 500 - 2
    assert (session.status, session.has_exposure) == (SessionStatus.ACTIVE, False)
    assert services.session_exit(session.pk) is False


def test_a_position_left_for_another_reason_says_so_and_one_that_is_being_left_keeps_its_own() -> None:
    position, leaving = held(), held(account=make_account(name="leaving"))
    Position.objects.filter(pk=leaving.pk).update(exit_reason="STOP_LOSS")

    for one in (position, leaving):
        services.session_exit(one.session_id, reason=ExitReason.HALT)
        track([one.session_id])

    reasons = dict(Order.objects.filter(is_exit=True).values_list("account", "reason"))
    assert reasons == {position.account_id: "HALT", leaving.account_id: "STOP_LOSS"}
    assert set(Position.objects.values_list("exit_reason", flat=True)) == {"HALT", "STOP_LOSS"}


@pytest.mark.django_db(transaction=True)
def test_an_exit_for_a_reason_of_its_own_waits_for_nobody_who_looks_at_its_session(bells: Bells) -> None:
    position = held()

    with transaction.atomic():
        TradingSession.objects.locked().get(pk=position.session_id)
        assert elsewhere(lambda: services.session_exit(position.session_id, reason=ExitReason.HALT))

    position.refresh_from_db()
    assert (position.is_exit_wanted, position.exit_reason) == (True, ExitReason.HALT)


@pytest.mark.parametrize("status", [SessionStatus.SUSPENDED, SessionStatus.HALTED])
def test_a_session_that_takes_no_entries_keeps_its_exits(status: SessionStatus) -> None:
    position = held()
    TradingSession.objects.update(status=status)

    see(position, "48900")

    assert exit_order().reason == "STOP_LOSS"


def test_stopping_closes_the_position_and_then_ends_the_session() -> None:
    position = held()
    TradingSession.objects.update(status=SessionStatus.STOPPING)

    track([position.session_id])
    still = TradingSession.objects.get().status
    follow_orders([finish(exit_order()).pk])

    position.refresh_from_db()
    assert (still, TradingSession.objects.get().status) == (SessionStatus.STOPPING, SessionStatus.STOPPED)
    assert (position.status, position.exit_reason) == (PositionStatus.CLOSED, "SESSION_STOP")


@pytest.mark.parametrize("status", [OrderStatus.SUBMITTING, OrderStatus.UNKNOWN, OrderStatus.OPENED])
def test_stopping_waits_for_an_entry_in_flight_and_wants_it_gone(status: OrderStatus) -> None:
    session = make_session(status=SessionStatus.STOPPING, has_exposure=True)
    order = make_order(make_position(session), status=status)

    track([session.pk])
    track([session.pk])

    order.refresh_from_db()
    assert order.is_cancel_wanted
    assert TradingSession.objects.get().status == SessionStatus.STOPPING
    follow_orders([finish(order, OrderStatus.CANCELED).pk])
    assert TradingSession.objects.get().status == SessionStatus.STOPPED
    assert Position.objects.get().status == PositionStatus.ABANDONED


def test_stopping_takes_back_an_entry_that_was_not_sent() -> None:
    session = make_session(status=SessionStatus.STOPPING, has_exposure=True)
    order = make_order(make_position(session), status=OrderStatus.READY)

    track([session.pk])
    follow_orders([order.pk])

    order.refresh_from_db()
    assert order.status == OrderStatus.CANCELED
    assert TradingSession.objects.get().status == SessionStatus.STOPPED


def test_an_entry_found_filled_after_the_stop_is_sold_before_the_session_ends() -> None:
    session = make_session(status=SessionStatus.STOPPING, has_exposure=True)
    entry = make_order(make_position(session), status=OrderStatus.UNKNOWN)
    track([session.pk])

    follow_orders([finish(entry).pk])
    still = TradingSession.objects.get().status
    follow_orders([finish(exit_order()).pk])

    assert (still, TradingSession.objects.get().status) == (SessionStatus.STOPPING, SessionStatus.STOPPED)
    assert Position.objects.get().status == PositionStatus.CLOSED


def test_stopping_waits_for_an_exit_of_unknown_outcome() -> None:
    position = held()
    see(position, "48000")
    Order.objects.filter(is_exit=True).update(status=OrderStatus.UNKNOWN)
    TradingSession.objects.update(status=SessionStatus.STOPPING)

    track([position.session_id])

    assert TradingSession.objects.get().status == SessionStatus.STOPPING
    assert Order.objects.filter(is_exit=True).count() == 1


def test_a_stop_hit_while_the_entry_still_fills_cancels_the_rest_first() -> None:
    session = make_session()
    entry = make_order(make_position(session), status=OrderStatus.OPENED, quantity=Decimal("0.02"))
    make_fill(entry, "0.005", "50000")
    track([session.pk])
    position = Position.objects.get()

    see(position, "48000")
    entry.refresh_from_db()
    exits_before_the_cancel = Order.objects.filter(is_exit=True).count()
    make_fill(entry, "0.003", "49000")
    finish(entry, OrderStatus.CANCELED)
    track([session.pk])
    see(position, "48000")

    assert entry.is_cancel_wanted
    assert exits_before_the_cancel == 0
    assert exit_order().quantity == Decimal("0.008")


def test_what_an_exit_did_not_sell_is_sold_by_the_next_though_the_price_came_back() -> None:
    position = held()
    see(position, "48000")
    follow_orders([finish(exit_order(), OrderStatus.CANCELED, filled="0.015", price="48000").pk])
    make_quote(position.market, "50000")
    track([position.session_id])

    rest = exit_order()
    follow_orders([finish(rest, price="50000").pk])

    position.refresh_from_db()
    assert (rest.quantity, rest.reason) == (Decimal("0.005"), "STOP_LOSS")
    assert (position.status, position.exited, position.exit_price) == ("CLOSED", Decimal("0.02"), Decimal(48500))
    assert position.realized_pnl == Decimal("0.02") * -1500 - 3


@pytest.mark.parametrize("status", [OrderStatus.REJECTED, OrderStatus.NOT_PLACED, OrderStatus.CANCELED])
@pytest.mark.parametrize("reason", ["STOP_LOSS", "EXIT_SIGNAL", "MARKET_EXIT"])
def test_a_failed_exit_is_tried_again_after_a_pause_whatever_began_it(status: OrderStatus, reason: str) -> None:
    position = held()
    if reason == "STOP_LOSS":
        make_quote(position.market, "48000")
    elif reason == "EXIT_SIGNAL":
        make_signal(position.session.config, SignalKind.EXIT_LONG)
    else:
        services.session_exit(position.session_id)
    track([position.session_id])
    first = finish(exit_order(), status)
    make_quote(position.market, "50000")

    follow_orders([first.pk])

    second = exit_order()
    assert (first.reason, second.reason) == (reason, reason)
    assert second.pk != first.pk
    assert second.intent_id == first.intent_id
    assert second.client_order_id != first.client_order_id
    assert second.not_before_at is not None
    assert timedelta(seconds=1) < second.not_before_at - timezone.now() <= timedelta(seconds=2)


def test_the_pauses_between_failed_exits_grow_to_a_minute_and_no_further() -> None:
    position = held()
    pauses = []
    see(position, "48000")

    for _ in range(60):
        finish(exit_order(), OrderStatus.REJECTED)
        track([position.session_id])
        not_before_at = exit_order().not_before_at
        assert not_before_at is not None
        pauses.append(round((not_before_at - timezone.now()).total_seconds()))

    assert pauses == [2, 4, 8, 16, 32, *[60] * 55]


def test_an_exit_that_keeps_failing_is_told_of_once() -> None:
    position = held()
    see(position, "48000")
    told = []

    for _ in range(6):
        finish(exit_order(), OrderStatus.REJECTED)
        track([position.session_id])
        told.append(len(events("alerts", alert="EXIT_KEEPS_FAILING")))

    assert told == [0, 0, 1, 1, 1, 1]
    assert events("alerts")[0]["failures"] == 3


@pytest.mark.parametrize(
    ("quantity", "price"),
    [("0.000009", "48000"), ("0.0000149", "6000")],
    ids=["less than the smallest order", "worth less than the smallest order"],
)
def test_what_is_too_small_to_be_sold_is_booked_as_dust_and_told_once(quantity: str, price: str) -> None:
    make_market(min_notional=Decimal("0.1"))
    position = held(quantity=quantity)

    see(position, price)
    see(position, price)

    position.refresh_from_db()
    assert (position.status, position.dust, position.exit_reason) == ("CLOSED", Decimal(quantity), "STOP_LOSS")
    assert position.closed_at is not None
    assert not Order.objects.filter(is_exit=True).exists()
    assert len(events("alerts", alert="DUST")) == 1
    assert not TradingSession.objects.get().has_exposure


def test_dust_left_by_fees_in_base_currency_ends_the_position_all_the_same() -> None:
    position = held(quantity="0.02")
    make_signal(position.session.config, SignalKind.EXIT_LONG)
    Order.objects.get().fills.update(fee=Decimal("0.0000023"), fee_currency="BTC")
    Position.objects.update(quantity=Decimal("0.0199977"))

    track([position.session_id])
    sold = exit_order().quantity
    follow_orders([finish(exit_order(), price="51000").pk])
    track([position.session_id])

    position.refresh_from_db()
    assert sold == Decimal("0.01999")
    assert (position.status, position.dust) == (PositionStatus.CLOSED, Decimal("0.0000077"))


def test_a_stop_of_a_session_holding_dust_ends_it() -> None:
    position = held(quantity="0.000009")
    TradingSession.objects.update(status=SessionStatus.STOPPING)

    track([position.session_id])
    track([position.session_id])

    assert TradingSession.objects.get().status == SessionStatus.STOPPED


def test_replaying_fills_and_looks_changes_no_figure() -> None:
    position = held()
    see(position, "52100")
    order = finish(exit_order(), price="52000")
    follow_orders([order.pk])
    before = Position.objects.values().get()

    follow_orders([order.pk] * 3)
    track([position.session_id] * 3)

    assert Position.objects.values().get() == before
    assert before["realized_pnl"] == Decimal("0.02") * 2000 - 2


@pytest.mark.django_db(transaction=True)
def test_an_exit_asked_for_while_the_tracker_folds_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    session = make_session()
    entry = finish(make_order(make_position(session), status=OrderStatus.READY))
    happens_before(monkeypatch, services, "fold", lambda: services.session_exit(session.pk))

    follow_orders([entry.pk])

    assert Position.objects.get().is_exit_wanted
    track([session.pk])
    assert exit_order().reason == "MARKET_EXIT"


@pytest.mark.django_db(transaction=True)
def test_a_valuation_that_happens_while_the_tracker_folds_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from positions.watch import sessions_tick

    position = held()
    make_quote(position.market, "50500")
    make_fill(Order.objects.get(), "0.01", "50000")
    happens_before(monkeypatch, services, "fold", lambda: sessions_tick([position.session_id]))

    track([position.session_id])

    position.refresh_from_db()
    assert (position.valuations, position.mark_price, position.quantity) == (1, Decimal(50500), Decimal("0.03"))


@pytest.mark.django_db(transaction=True)
def test_exits_whose_bells_were_lost_are_found_by_the_sweep(bells: Any) -> None:
    by_hand = held(account=make_account(name="by hand"))
    Position.objects.update(is_exit_wanted=True)
    stopping = make_session(make_account(name="stopping"), status=SessionStatus.STOPPING)
    suspended = held(account=make_account(name="suspended"))
    TradingSession.objects.filter(pk=suspended.session_id).update(status=SessionStatus.SUSPENDED)
    make_signal(suspended.session.config, SignalKind.EXIT_LONG)
    failed = held(account=make_account(name="failed"))
    finish(make_order(failed, "EXIT", OrderStatus.READY), OrderStatus.REJECTED)
    held(account=make_account(name="content"))
    bells.clear()

    sweep_sessions()
    sweep_exposed_sessions()

    assert bells.rung("positions.track") == [{"session_ids": [stopping.pk]}]
    [bell] = bells.rung("exits.track")
    assert bell["session_ids"] == sorted([by_hand.session_id, suspended.session_id, failed.session_id])


@pytest.mark.django_db(transaction=True)
def test_an_exit_rings_for_its_submission(bells: Any) -> None:
    position = held()
    bells.clear()

    see(position, "48000")

    assert bells.rung("exits.submit") == [{"order_ids": [exit_order().pk]}]
    assert bells.rung("orders.submit") == []


@pytest.mark.django_db(transaction=True)
def test_a_session_tracked_by_somebody_else_meanwhile_is_left_as_they_left_it(monkeypatch: pytest.MonkeyPatch) -> None:
    position = held()
    make_quote(position.market, "48000")
    happens_before(monkeypatch, services, "_gather", lambda: track([position.session_id]))

    track([position.session_id])

    assert Order.objects.filter(is_exit=True).count() == 1


@pytest.mark.django_db(transaction=True)
def test_one_intent_never_has_two_live_orders() -> None:
    position = held()
    see(position, "48000")
    twin = exit_order()
    twin.pk, twin.client_order_id = None, "another"

    with pytest.raises(Exception, match="order_one_live_per_intent"):
        twin.save()

    assert elsewhere(lambda: Intent.objects.filter(purpose="EXIT").count()) == 1
