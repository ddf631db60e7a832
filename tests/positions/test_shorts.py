"""The other side: a signal to sell closes what is bought; on spot that is all it can do, on contracts it opens a short."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone

from domain.candles import Timeframe
from domain.orders import OrderStatus
from domain.strategy import SignalKind
from exchanges.models import Market
from orders.models import Order
from pipeline.models import Event
from positions.models import Position, PositionStatus
from positions.tasks import fan_out, follow_orders, sweep_exposed_sessions, track
from sessions.models import TradingSession
from tests.factories import (
    events,
    finish,
    make_account,
    make_config,
    make_exchange,
    make_feed,
    make_market,
    make_open_position,
    make_quote,
    make_session,
    make_signal,
)
from tests.race import at_once

pytestmark = pytest.mark.django_db

CONTRACT: dict[str, Any] = {
    "kind": Market.Kind.LINEAR_FUTURE,
    "contract_size": Decimal("0.001"),
    "lot_size": Decimal(1),
}


def session_of(is_future: bool = True, **fields: Any) -> TradingSession:
    make_market(make_exchange(), **(CONTRACT if is_future else {}))
    return make_session(**fields)


def says(session: TradingSession, kind: SignalKind = SignalKind.ENTER_SHORT, **fields: Any) -> None:
    make_signal(session.config, kind, **fields)
    track([session.pk])


def test_a_signal_to_sell_closes_what_is_held_on_spot() -> None:
    session = session_of(is_future=False)
    position = make_open_position(session)

    says(session)
    order = Order.objects.get(is_exit=True)
    follow_orders([finish(order, price="50500").pk])

    position.refresh_from_db()
    session.refresh_from_db()
    assert (order.reason, order.side, order.is_reduce_only) == ("EXIT_SIGNAL", "SELL", False)
    assert (position.status, position.exit_reason) == (PositionStatus.CLOSED, "EXIT_SIGNAL")
    # It has done what it can: no second thing is made of it.
    assert session.last_signal_id == session.config.signals.get().pk
    assert events("positions", event="NOT_TRADABLE") == []


def test_a_signal_to_sell_that_is_old_closes_all_the_same() -> None:
    session = session_of(is_future=False)
    make_open_position(session)

    says(session, closed_at=timezone.now() - timedelta(minutes=5))

    assert Order.objects.get(is_exit=True).reason == "EXIT_SIGNAL"


def test_a_signal_to_sell_what_is_not_held_on_spot_is_seen_told_once_and_trades_nothing() -> None:
    session = session_of(is_future=False)
    signal = make_signal(session.config, SignalKind.ENTER_SHORT)

    fan_out([signal.pk])
    fan_out([signal.pk])
    track([session.pk])

    session.refresh_from_db()
    [note] = Event.objects.filter(topic="positions", data__event="NOT_TRADABLE")
    assert note.data == {"event": "NOT_TRADABLE", "reason": "SIDE_NOT_TRADABLE", "signal": "ENTER_SHORT"}
    assert (note.ids["session_id"], note.ids["signal_id"]) == (session.pk, signal.pk)
    assert session.last_signal_id == signal.pk
    assert (Order.objects.count(), Position.objects.count(), session.has_exposure) == (0, 0, False)


@pytest.mark.django_db(transaction=True)
def test_of_many_that_see_it_at_once_one_tells(bells: Any) -> None:
    session = session_of(is_future=False)
    make_signal(session.config, SignalKind.ENTER_SHORT)

    at_once([lambda: track([session.pk])] * 4)

    assert len(events("positions", event="NOT_TRADABLE")) == 1


def test_a_signal_to_sell_opens_a_short_with_the_session_s_leverage() -> None:
    session = session_of(leverage=Decimal(3), margin_mode="CROSS")

    says(session)
    order = Order.objects.get()
    status = order.status
    Order.objects.update(quantity=Decimal(20))
    order.refresh_from_db()
    follow_orders([finish(order).pk])

    position = Position.objects.get()
    assert (status, order.side, order.position_side) == (OrderStatus.REQUESTED, "SELL", "SHORT")
    assert (order.leverage, order.margin_mode, order.is_reduce_only) == (3, "CROSS", False)
    assert (position.side, position.leverage, position.margin_mode) == ("SHORT", 3, "CROSS")
    assert (position.status, position.quantity) == ("OPEN", 20)
    assert (position.stop_price, position.target_price) == (Decimal(51000), Decimal(48000))


def test_a_short_is_bought_back_by_an_order_that_can_only_reduce() -> None:
    session = session_of()
    position = make_open_position(session, side="SHORT", quantity="20", leverage=Decimal(3), margin_mode="CROSS")
    make_quote(position.market, "51000")

    track([session.pk])
    order = Order.objects.get(is_exit=True)
    follow_orders([finish(order, price="51000").pk])

    position.refresh_from_db()
    assert (order.side, order.reason, order.quantity) == ("BUY", "STOP_LOSS", 20)
    assert (order.is_reduce_only, order.leverage, order.margin_mode) == (True, 3, "CROSS")
    assert position.realized_pnl == Decimal("0.001") * 20 * -1000 - 2


def test_beside_a_position_of_the_other_side_an_exit_is_not_held_to_what_the_venue_sees() -> None:
    short = make_open_position(session_of(), side="SHORT", quantity="4")
    config = make_config(short.account.owner, make_feed(short.market))
    long = make_open_position(make_session(short.account, config), quantity="10")
    make_quote(short.market, "51000")

    track([short.session_id])
    beside = Order.objects.get(is_exit=True)
    follow_orders([finish(beside, price="51000").pk])
    make_quote(short.market, "49000")
    track([long.session_id])

    alone = Order.objects.get(is_exit=True, position_side="LONG")
    # The venue holds 6 of the long side: it would refuse to reduce a short.
    assert (beside.side, beside.quantity, beside.is_reduce_only) == ("BUY", 4, False)
    assert (alone.side, alone.quantity, alone.is_reduce_only) == ("SELL", 10, True)


def test_a_fresh_signal_of_the_other_side_closes_first_and_turns_once_the_position_is_gone() -> None:
    session = session_of()
    long = make_open_position(session, quantity="20")

    says(session)
    closing = Order.objects.get(is_exit=True)
    while_closing = Position.objects.count()
    follow_orders([finish(closing).pk])

    long.refresh_from_db()
    short = Position.objects.get(side="SHORT")
    assert (while_closing, long.status, closing.reason) == (1, "CLOSED", "EXIT_SIGNAL")
    assert (short.status, short.entry_signal) == ("PENDING", session.config.signals.get())
    assert Order.objects.filter(position_side="SHORT").count() == 1


def test_a_signal_of_the_other_side_that_grew_old_while_the_position_was_closed_turns_nothing() -> None:
    session = session_of()
    make_open_position(session, quantity="20")
    says(session)
    old = timezone.now() - timedelta(minutes=5)
    session.config.signals.update(candle_open_at=old, candle_close_at=old + Timeframe.M1.length)

    follow_orders([finish(Order.objects.get(is_exit=True)).pk])
    track([session.pk])

    session.refresh_from_db()
    assert [position.status for position in Position.objects.all()] == ["CLOSED"]
    assert session.last_signal_id == session.config.signals.get().pk


@pytest.mark.django_db(transaction=True)
def test_a_turn_whose_bell_was_lost_is_found_by_the_sweep(bells: Any) -> None:
    session = session_of()
    make_open_position(session, quantity="20")
    says(session)
    finish(Order.objects.get(is_exit=True))
    bells.clear()

    sweep_exposed_sessions()
    [bell] = bells.rung("exits.track")
    track(bell["session_ids"])

    assert {position.side: position.status for position in Position.objects.all()} == {
        "LONG": "CLOSED",
        "SHORT": "PENDING",
    }


def test_accounts_of_one_configuration_each_open_their_short() -> None:
    make_market(make_exchange(), **CONTRACT)
    config = make_config(feed=make_feed(make_market()))
    sessions = [make_session(make_account(config.owner, name=f"a{n}"), config) for n in range(3)]
    signal = make_signal(config, SignalKind.ENTER_SHORT)

    fan_out([signal.pk])

    assert set(Position.objects.values_list("session", "side")) == {(one.pk, "SHORT") for one in sessions}
