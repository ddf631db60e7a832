"""Further entries into a position that is held: each signal once, valued like any other, and none while it is being left."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone

from domain.candles import Timeframe
from domain.orders import OrderStatus
from domain.strategy import SignalKind
from orders.models import Order
from positions.models import Intent, Position
from positions.tasks import fan_out, follow_orders, sweep_exposed_sessions, track
from sessions.models import SessionStatus, TradingSession
from tests.factories import (
    events,
    finish,
    make_account,
    make_open_position,
    make_quote,
    make_session,
    make_signal,
)
from tests.race import at_once

pytestmark = pytest.mark.django_db

MINUTE = Timeframe.M1.length


def held(max_entries: int = 3, **fields: Any) -> Position:
    position = make_open_position(fields.pop("session", None) or make_session(), max_entries=max_entries, **fields)
    make_quote(position.market)
    return position


def says(position: Position, kind: SignalKind = SignalKind.ENTER_LONG, minutes: int = 0) -> None:
    """The strategy speaks on the candle that closed last, or so many minutes later; the session is looked at."""
    make_signal(position.session.config, kind, Timeframe.M1.open_of(timezone.now()) + minutes * MINUTE)
    track([position.session_id])


def entries() -> list[tuple[int, Order]]:
    steps = {intent.pk: intent.step for intent in Intent.objects.filter(purpose="ENTRY")}
    return [(steps[order.intent_id], order) for order in Order.objects.filter(is_exit=False).order_by("pk")]


def filled(order: Order, price: str, quantity: str = "0.02") -> None:
    Order.objects.filter(pk=order.pk).update(quantity=Decimal(quantity))
    order.refresh_from_db()
    follow_orders([finish(order, price=price).pk])


def test_an_entry_signal_adds_an_order_for_money_to_decide() -> None:
    position = held()

    says(position)

    [_, (step, order)] = entries()
    session = TradingSession.objects.get()
    assert (step, order.status, order.side, order.quantity) == (1, OrderStatus.REQUESTED, "BUY", None)
    assert session.last_signal_id == session.config.signals.get().pk
    assert Position.objects.count() == 1
    assert [event["status"] for event in events("raworders")] == ["REQUESTED"]


def test_levels_follow_the_average_price_of_all_entries() -> None:
    position = held()
    says(position)

    filled(entries()[1][1], "46000")

    position.refresh_from_db()
    assert (position.quantity, position.entry_price) == (Decimal("0.04"), Decimal(48000))
    assert (position.stop_price, position.target_price) == (Decimal(47040), Decimal(49920))


def test_a_signal_adds_once_whoever_tells_of_it_how_often() -> None:
    position = held()
    says(position)
    [signal] = position.session.config.signals.all()

    fan_out([signal.pk] * 3)
    filled(entries()[1][1], "49000")
    fan_out([signal.pk])
    track([position.session_id] * 2)

    assert [step for step, _ in entries()] == [0, 1]


@pytest.mark.django_db(transaction=True)
def test_a_signal_that_many_see_at_once_adds_once(bells: Any) -> None:
    position = held()
    signal = make_signal(position.session.config)

    assert at_once([lambda: fan_out([signal.pk])] * 4) == [None] * 4

    assert [step for step, _ in entries()] == [0, 1]
    assert bells.rung("money.value") == [{"order_ids": [entries()[1][1].pk]}]


@pytest.mark.django_db(transaction=True)
def test_a_signal_to_add_whose_bell_was_lost_is_found_by_the_sweep(bells: Any) -> None:
    position = held()
    make_signal(position.session.config)
    bells.clear()

    sweep_exposed_sessions()

    assert bells.rung("exits.track") == [{"session_ids": [position.session_id]}]


def test_no_more_is_added_than_the_position_may_have() -> None:
    position = held(max_entries=2)
    says(position)
    filled(entries()[1][1], "49000")

    says(position, minutes=1)

    assert [step for step, _ in entries()] == [0, 1]


def test_an_entry_that_came_to_nothing_is_none_and_the_next_signal_tries_again() -> None:
    position = held(max_entries=2)
    says(position)
    follow_orders([finish(entries()[1][1], OrderStatus.DENIED).pk])

    says(position, minutes=1)

    position.refresh_from_db()
    assert [(step, order.status) for step, order in entries()] == [
        (0, OrderStatus.CLOSED),
        (1, OrderStatus.DENIED),
        (2, OrderStatus.REQUESTED),
    ]
    assert (position.status, position.quantity) == ("OPEN", Decimal("0.02"))


@pytest.mark.parametrize(
    ("why", "changes"),
    [
        ("one entry only", {"max_entries": 1}),
        ("being left", {"is_exit_wanted": True}),
        ("begun to be left", {"exit_reason": "STOP_LOSS"}),
    ],
)
def test_nothing_is_added_to_what_may_not_grow_or_is_being_left(why: str, changes: dict[str, Any]) -> None:
    position = held()
    Position.objects.update(**changes)

    says(position)

    assert len(entries()) == 1, why


def test_nothing_is_added_while_an_entry_is_at_work_and_the_signal_waits() -> None:
    position = held()
    says(position)
    says(position, minutes=1)
    while_at_work = len(entries())

    filled(entries()[1][1], "49000")

    assert (while_at_work, [step for step, _ in entries()]) == (2, [0, 1, 2])


def test_a_suspended_session_adds_nothing() -> None:
    position = held()
    TradingSession.objects.update(status=SessionStatus.SUSPENDED)

    says(position)

    assert len(entries()) == 1


def test_a_signal_that_is_old_adds_nothing() -> None:
    position = held()
    make_signal(position.session.config, closed_at=timezone.now() - MINUTE - timedelta(seconds=11))

    track([position.session_id])

    assert len(entries()) == 1


def test_a_stop_cancels_an_entry_that_would_add_and_sells_all() -> None:
    position = held()
    says(position)
    added = entries()[1][1]

    make_quote(position.market, "48000")
    track([position.session_id])
    follow_orders([added.pk])
    make_quote(position.market, "48000")
    track([position.session_id])

    added.refresh_from_db()
    assert added.status == OrderStatus.CANCELED
    assert Order.objects.get(is_exit=True).quantity == Decimal("0.02")


def test_a_stop_does_not_wait_for_an_entry_of_unknown_outcome_and_its_late_fill_is_sold_too() -> None:
    position = held()
    says(position)
    added = entries()[1][1]
    sent_at = timezone.now() - timedelta(seconds=6)
    Order.objects.filter(pk=added.pk).update(status=OrderStatus.UNKNOWN, sent_at=sent_at, quantity=Decimal("0.01"))

    exits_seen = []
    for _ in range(3):  # asked to be cancelled, then left alone, then waited for
        make_quote(position.market, "48000")
        track([position.session_id])
        exits_seen.append(Order.objects.filter(is_exit=True).count())
    follow_orders([finish(Order.objects.get(is_exit=True), price="48000").pk])
    between = Position.objects.get()
    added.refresh_from_db()
    follow_orders([finish(added, price="47900").pk])
    last = Order.objects.filter(is_exit=True).order_by("pk")[1]
    follow_orders([finish(last, price="47800").pk])

    assert (exits_seen, added.is_cancel_wanted) == ([0, 1, 1], True)
    assert (between.status, between.quantity, between.exit_reason) == ("OPEN", 0, "STOP_LOSS")
    assert (last.quantity, last.reason) == (Decimal("0.01"), "STOP_LOSS")
    position.refresh_from_db()
    assert (position.status, position.entered, position.exited) == ("CLOSED", Decimal("0.03"), Decimal("0.03"))


def test_a_stop_waits_for_an_entry_that_was_sent_just_now() -> None:
    position = held()
    says(position)
    Order.objects.filter(pk=entries()[1][1].pk).update(status=OrderStatus.OPENED, sent_at=timezone.now())

    for _ in range(2):
        make_quote(position.market, "48000")
        track([position.session_id])

    assert not Order.objects.filter(is_exit=True).exists()


def test_dust_beside_an_entry_of_unknown_outcome_does_not_end_the_position() -> None:
    position = held(quantity="0.000001")
    says(position)
    added = entries()[1][1]
    sent_at = timezone.now() - timedelta(seconds=6)
    Order.objects.filter(pk=added.pk).update(status=OrderStatus.UNKNOWN, sent_at=sent_at, quantity=Decimal("0.01"))

    for _ in range(2):
        make_quote(position.market, "48000")
        track([position.session_id])
    before = Position.objects.get().status
    added.refresh_from_db()
    follow_orders([finish(added, price="47900").pk])

    assert before == "OPEN"
    assert Order.objects.get(is_exit=True).quantity == Decimal("0.01")


def test_sessions_say_how_often_their_positions_may_be_added_to() -> None:
    session = make_session(make_account(name="adding"), max_entries=5)
    make_signal(session.config)

    track([session.pk])

    assert Position.objects.get().max_entries == 5
