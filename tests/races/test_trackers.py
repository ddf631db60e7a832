"""Many trackers on one session, and many commands at once: one of each, whoever comes first."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from domain.orders import OrderStatus
from domain.strategy import SignalKind
from orders.models import Order
from orders.services import orders_cancel
from positions import services
from positions.models import Position, PositionStatus
from positions.watch import sessions_tick
from sessions.models import SessionStatus, TradingSession
from sessions.services import UnableToCommand, session_start, session_stop
from tests.factories import (
    events,
    finish,
    make_account,
    make_open_position,
    make_order,
    make_position,
    make_quote,
    make_session,
    make_signal,
)
from tests.race import at_once

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_signal_told_eight_times_at_once_opens_one_position(bells: Any) -> None:
    session = make_session()
    signal = make_signal(session.config)
    calls: list[Callable[[], Any]] = [lambda: services.signals_fan_out([signal.pk])] * 4
    calls += [lambda: services.sessions_track([session.pk])] * 4

    results = at_once(calls)

    assert results == [None] * 8
    assert (Position.objects.count(), Order.objects.count()) == (1, 1)
    assert bells.rung("money.value") == [{"order_ids": [Order.objects.get().pk]}]


def test_a_crossed_stop_seen_by_tick_watch_signal_and_hand_at_once_sells_once(bells: Any) -> None:
    position = make_open_position(make_session())
    make_quote(position.market, "48000")
    signal = make_signal(position.session.config, SignalKind.EXIT_LONG)

    results = at_once(
        [
            lambda: services.sessions_track([position.session_id]),
            lambda: sessions_tick([position.session_id]),
            lambda: services.signals_fan_out([signal.pk]),
            lambda: services.session_exit(position.session_id),
            lambda: services.orders_follow(list(Order.objects.values_list("pk", flat=True))),
        ]
    )

    assert not [result for result in results if isinstance(result, Exception)]
    assert Order.objects.filter(is_exit=True).count() == 1


def test_fills_followed_by_many_trackers_in_any_order_fold_once(bells: Any) -> None:
    sessions = [make_session(make_account(name=f"a{n}")) for n in range(6)]
    orders = [finish(make_order(make_position(session), status=OrderStatus.READY)) for session in sessions]
    ids = [order.pk for order in orders]
    shuffled = random.Random(7)

    results = at_once([lambda: services.orders_follow(shuffled.sample(ids, len(ids)))] * 5)

    assert results == [None] * 5
    assert set(Position.objects.values_list("status", "quantity")) == {(PositionStatus.OPEN, orders[0].quantity)}
    assert [event["event"] for event in events("positions")] == ["OPENED"] * 6


def test_a_double_click_on_start_starts_once(bells: Any) -> None:
    session = make_session(status=SessionStatus.CREATED)

    results = at_once([lambda: session_start(session.pk)] * 6)

    session.refresh_from_db()
    assert sum(result is None for result in results) == 1
    assert {type(result) for result in results if result is not None} == {UnableToCommand}
    assert (session.status, session.run) == (SessionStatus.ACTIVE, 1)
    assert [event["command"] for event in events("command")] == ["start"]


def test_a_double_click_on_stop_sells_once_and_stops_once(bells: Any) -> None:
    position = make_open_position(make_session())

    results = at_once([lambda: session_stop(position.session_id)] * 6)
    at_once([lambda: services.sessions_track([position.session_id])] * 4)
    finish(Order.objects.get(is_exit=True))
    at_once([lambda: services.sessions_track([position.session_id])] * 4)

    assert sum(result is None for result in results) == 1
    assert TradingSession.objects.get().status == SessionStatus.STOPPED
    assert [event["command"] for event in events("command")] == ["stop", "stopped"]


def test_a_stop_and_an_entry_at_once_leave_no_order_to_be_sent(bells: Any) -> None:
    session = make_session()
    make_signal(session.config)

    at_once([lambda: services.sessions_track([session.pk]), lambda: session_stop(session.pk)])
    for _ in range(3):
        services.sessions_track([session.pk])

    assert TradingSession.objects.get().status == SessionStatus.STOPPED
    assert set(Order.objects.values_list("status", flat=True)) <= {OrderStatus.CANCELED}


def test_trackers_and_cancellers_of_the_same_rows_never_wait_for_each_other_for_ever(bells: Any) -> None:
    sessions = [make_session(make_account(name=f"a{n}"), status=SessionStatus.STOPPING) for n in range(5)]
    orders = [make_order(make_position(session), status=OrderStatus.OPENED) for session in sessions]
    forth, back = [session.pk for session in sessions], [session.pk for session in reversed(sessions)]

    results = at_once(
        [
            *([lambda: services.sessions_track(forth)] * 3),
            *([lambda: services.sessions_track(back)] * 3),
            lambda: orders_cancel(orders),
            lambda: orders_cancel(orders[::-1]),
        ]
    )

    assert results == [None] * 8
    assert set(Order.objects.values_list("is_cancel_wanted", flat=True)) == {True}
