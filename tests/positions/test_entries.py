"""From a signal to an entry order, once; and from its fills to a position."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import IntegrityError
from django.utils import timezone

from domain.candles import Timeframe
from domain.exit_plan import ExitPlan, TargetLevel
from domain.orders import OrderStatus
from domain.strategy import SignalKind
from orders.models import Order
from positions import services, trading
from positions.models import Intent, Position, PositionStatus
from positions.tasks import fan_out, follow_orders, sweep_sessions, track
from sessions.models import SessionStatus, TradingSession
from tests.factories import (
    events,
    finish,
    make_account,
    make_config,
    make_feed,
    make_fill,
    make_market,
    make_open_position,
    make_order,
    make_position,
    make_quote,
    make_session,
    make_signal,
)

pytestmark = pytest.mark.django_db

MINUTE = Timeframe.M1


def entering_session(**fields: Any) -> TradingSession:
    """An active session whose strategy has just said: enter."""
    session = make_session(**fields)
    make_signal(session.config)
    return session


def entry_of(session: TradingSession) -> Order:
    return Order.objects.get(intent_id__in=Intent.objects.filter(position__session=session, purpose="ENTRY"))


def test_a_fresh_signal_becomes_a_position_to_be_and_an_order_without_quantity() -> None:
    session = entering_session()

    track([session.pk])

    session.refresh_from_db()
    position, order = Position.objects.get(), Order.objects.get()
    assert (position.status, position.side, position.quantity) == (PositionStatus.PENDING, "LONG", 0)
    assert position.exit_plan == ExitPlan(stop_loss_percent=Decimal(2), targets=(TargetLevel(percent=Decimal(4)),))
    assert (order.status, order.side, order.quantity, order.is_exit) == (OrderStatus.REQUESTED, "BUY", None, False)
    assert order.intent_id == position.intents.get().pk
    assert position.entry_signal_id == session.last_signal_id
    assert session.has_exposure
    assert [event["status"] for event in events("raworders")] == ["REQUESTED"]


def test_the_session_s_own_percents_outrank_the_strategy_s() -> None:
    session = entering_session(stop_loss_percent=Decimal("1.5"), take_profit_percent=Decimal(9))

    track([session.pk])

    position = Position.objects.get()
    assert position.exit_plan == ExitPlan(stop_loss_percent=Decimal("1.5"), targets=(TargetLevel(percent=Decimal(9)),))


def test_a_signal_is_acted_on_once_whoever_tells_of_it_how_often() -> None:
    session = entering_session()
    [signal] = session.config.signals.all()

    fan_out([signal.pk])
    track([session.pk, session.pk])
    fan_out([signal.pk, signal.pk])

    assert Order.objects.count() == Position.objects.count() == 1


def test_a_signal_that_led_to_a_finished_position_does_not_lead_to_another() -> None:
    session = entering_session()
    track([session.pk])
    finish(entry_of(session), OrderStatus.DENIED)
    track([session.pk])

    track([session.pk])

    assert [position.status for position in Position.objects.all()] == [PositionStatus.ABANDONED]
    with pytest.raises(IntegrityError, match="position_once_per_signal"):
        make_position(session, entry_signal=session.config.signals.get())


@pytest.mark.parametrize(
    ("age", "is_acted_on"),
    [(timedelta(0), True), (MINUTE.length, True), (MINUTE.length + timedelta(seconds=11), False)],
)
def test_an_entry_signal_counts_until_its_candle_s_successor_has_closed(age: timedelta, is_acted_on: bool) -> None:
    session = make_session()
    make_signal(session.config, closed_at=timezone.now() - age)

    track([session.pk])

    session.refresh_from_db()
    assert Position.objects.exists() is is_acted_on
    assert session.last_signal_id is not None


def test_a_stale_exit_signal_still_counts() -> None:
    session = make_session()
    make_open_position(session)
    make_signal(session.config, SignalKind.EXIT_LONG, closed_at=timezone.now() - timedelta(minutes=5))

    track([session.pk])

    assert Order.objects.get(is_exit=True).reason == "EXIT_SIGNAL"


def test_a_signal_on_a_candle_from_before_the_start_is_none_of_this_run_s_business() -> None:
    close_at = MINUTE.open_of(timezone.now())
    session = make_session(signals_after=close_at)
    make_signal(session.config, closed_at=close_at)

    track([session.pk])

    session.refresh_from_db()
    assert not Position.objects.exists()
    assert session.last_signal_id is not None


@pytest.mark.parametrize(
    "status", [SessionStatus.CREATED, SessionStatus.SUSPENDED, SessionStatus.HALTED, SessionStatus.STOPPED]
)
def test_only_an_active_session_enters(status: SessionStatus) -> None:
    session = entering_session(status=status)

    track([session.pk])

    assert not Position.objects.exists()


def test_a_stopping_session_that_holds_nothing_stops_instead_of_entering() -> None:
    session = entering_session(status=SessionStatus.STOPPING)

    track([session.pk])

    session.refresh_from_db()
    assert session.status == SessionStatus.STOPPED
    assert not Position.objects.exists()


def test_a_signal_while_a_position_is_held_opens_no_second_one() -> None:
    session = make_session()
    make_open_position(session)
    make_signal(session.config)

    track([session.pk])

    assert Position.objects.count() == 1


def test_fills_make_the_position_and_its_levels(django_capture_on_commit_callbacks: Callable[..., Any]) -> None:
    session = entering_session()
    track([session.pk])
    order = entry_of(session)
    Order.objects.filter(pk=order.pk).update(quantity=Decimal("0.03"))
    make_fill(order, "0.01", "50000", fee="0.5")
    make_fill(order, "0.02", "50300", fee="1.006")
    finish(order, OrderStatus.CLOSED, filled="")

    follow_orders([order.pk])
    follow_orders([order.pk])

    position = Position.objects.get()
    assert (position.status, position.quantity, position.entered) == (
        PositionStatus.OPEN,
        Decimal("0.03"),
        Decimal("0.03"),
    )
    assert (position.entry_price, position.fees, position.realized_pnl) == (Decimal(50200), Decimal("1.506"), 0)
    assert (position.stop_price, position.target_price) == (Decimal(49196), Decimal(52208))
    assert [event["event"] for event in events("positions")] == ["OPENED"]


def test_what_was_bought_of_a_cancelled_entry_is_held_and_protected() -> None:
    session = entering_session()
    track([session.pk])
    order = finish(entry_of(session), OrderStatus.CANCELED, filled="0.004")

    follow_orders([order.pk])

    position = Position.objects.get()
    assert (position.status, position.quantity, position.stop_price) == (
        PositionStatus.OPEN,
        Decimal("0.004"),
        Decimal(49000),
    )


@pytest.mark.parametrize(
    "status", [OrderStatus.DENIED, OrderStatus.REJECTED, OrderStatus.CANCELED, OrderStatus.NOT_PLACED]
)
def test_an_entry_that_came_to_nothing_is_abandoned_and_the_next_signal_works(status: OrderStatus) -> None:
    session = make_session()
    make_signal(session.config, closed_at=timezone.now() - timedelta(seconds=30))
    track([session.pk])
    order = finish(entry_of(session), status)

    follow_orders([order.pk])
    session.refresh_from_db()
    was_exposed = session.has_exposure
    make_signal(session.config, closed_at=timezone.now())
    track([session.pk])

    assert [p.status for p in Position.objects.order_by("pk")] == [PositionStatus.ABANDONED, PositionStatus.PENDING]
    assert not was_exposed
    assert [event["event"] for event in events("positions")] == ["ABANDONED"]


def test_an_entry_of_unknown_outcome_is_waited_for() -> None:
    session = entering_session()
    track([session.pk])
    Order.objects.update(status=OrderStatus.UNKNOWN)
    make_signal(session.config, SignalKind.EXIT_LONG, closed_at=timezone.now())

    track([session.pk])

    session.refresh_from_db()
    assert Position.objects.get().status == PositionStatus.PENDING
    assert Order.objects.count() == 1
    # The exit signal is not spent: what the order comes to decides what it means.
    assert session.last_signal_id == Position.objects.get().entry_signal_id


def test_an_exit_signal_that_came_while_the_entry_was_at_work_is_acted_on_after_its_fill() -> None:
    session = entering_session()
    track([session.pk])
    order = entry_of(session)
    make_signal(session.config, SignalKind.EXIT_LONG, closed_at=timezone.now())
    track([session.pk])
    Order.objects.filter(pk=order.pk).update(quantity=Decimal("0.02"))
    order.refresh_from_db()

    follow_orders([finish(order).pk])

    assert Order.objects.get(is_exit=True).reason == "EXIT_SIGNAL"


@pytest.mark.django_db(transaction=True)
def test_an_entry_rings_for_its_valuing(bells: Any) -> None:
    session = entering_session()

    track([session.pk])

    assert bells.rung("money.value") == [{"order_ids": [Order.objects.get().pk]}]


@pytest.mark.django_db(transaction=True)
def test_a_signal_reaches_the_first_sessions_at_once_and_the_rest_by_messages_in_batches(
    bells: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "TRACK_BATCH", 3)
    config = make_config(feed=make_feed(make_market()))
    sessions = [make_session(make_account(config.owner, name=f"a{n}"), config) for n in range(7)]
    idle = make_session(make_account(config.owner, name="idle"), config, status=SessionStatus.SUSPENDED)
    exposed = make_session(
        make_account(config.owner, name="exposed"), config, status=SessionStatus.SUSPENDED, has_exposure=True
    )
    signal = make_signal(config)
    bells.clear()

    fan_out([signal.pk])

    entered = set(Position.objects.values_list("session_id", flat=True))
    [bell] = bells.rung("positions.track")
    assert entered == {session.pk for session in sessions[:3]}
    assert bell["session_ids"] == [*(session.pk for session in sessions[3:]), exposed.pk]
    assert idle.pk not in bell["session_ids"]
    track(bell["session_ids"])
    assert Position.objects.count() == 7


def test_a_session_that_cannot_be_looked_at_does_not_stop_the_others_of_its_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sessions = [entering_session(account=make_account(name=f"a{n}")) for n in range(4)]
    poison, enter = sessions[1], trading.position_enter
    monkeypatch.setattr(
        services, "position_enter", lambda one, *rest: 1 / 0 if one.session.pk == poison.pk else enter(one, *rest)
    )

    track([session.pk for session in sessions])

    entered = set(Position.objects.values_list("session_id", flat=True))
    assert entered == {session.pk for session in sessions if session != poison}


def test_a_configuration_whose_parameters_no_longer_fit_stops_only_its_own_session() -> None:
    broken, fine = entering_session(), entering_session(account=make_account(name="other"))
    broken.config.parameters = {"fast": "no number"}
    broken.config.save()

    track([broken.pk, fine.pk])

    assert [position.session_id for position in Position.objects.all()] == [fine.pk]


@pytest.mark.django_db(transaction=True)
def test_signals_and_fills_whose_bells_were_lost_are_found_by_the_sweep(bells: Any) -> None:
    entering = entering_session()
    filled = make_session(make_account(name="filled"))
    finish(make_order(make_position(filled), status=OrderStatus.READY))
    make_session(make_account(name="idle"))
    bells.clear()

    sweep_sessions()
    [bell] = bells.rung("positions.track")
    track(bell["session_ids"])
    bells.clear()
    sweep_sessions()

    assert bell["session_ids"] == sorted([entering.pk, filled.pk])
    assert Position.objects.get(session=filled).status == PositionStatus.OPEN
    assert Position.objects.get(session=entering).status == PositionStatus.PENDING
    assert bells.rung("positions.track") == []


def test_a_signal_nobody_saw_for_ten_minutes_is_no_news() -> None:
    session = make_session()
    make_signal(session.config)
    now = timezone.now()
    session.config.signals.update(created_at=now - timedelta(minutes=10))

    assert services.sessions_unsettled(now) == []
    assert services.sessions_unsettled(now - timedelta(seconds=1)) == [session.pk]


def test_orders_that_belong_to_no_position_concern_no_session() -> None:
    session = make_session()
    order = make_order(make_position(session))
    Intent.objects.all().delete()

    assert services.sessions_of_orders([order.pk]) == []
    follow_orders([order.pk])


def test_the_price_when_the_entry_was_filled_does_not_trigger_its_stop() -> None:
    session = entering_session()
    market = session.config.feed.market
    track([session.pk])
    Order.objects.update(quantity=Decimal("0.02"))
    make_quote(market, "40000")

    follow_orders([finish(entry_of(session)).pk])
    track([session.pk])

    assert not Order.objects.filter(is_exit=True).exists()


def test_a_signal_on_an_older_candle_that_comes_after_a_newer_one_is_no_news() -> None:
    session = make_session()
    now = timezone.now()
    newest = make_signal(session.config, SignalKind.EXIT_LONG)
    track([session.pk])
    make_signal(session.config, closed_at=newest.candle_close_at - MINUTE.length)

    assert services.sessions_unsettled(now) == []

    make_signal(session.config, closed_at=newest.candle_close_at + MINUTE.length)
    assert services.sessions_unsettled(now) == [session.pk]
