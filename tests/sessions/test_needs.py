"""Needs: what sessions keep collected and evaluated, and what the sweep sets right."""

from __future__ import annotations

import pytest
from django.utils import timezone

from domain.candles import Timeframe
from domain.orders import OrderStatus
from exchanges.models import Account
from marketdata.models import Feed
from orders.models import Order
from orders.services import order_submit
from positions.services import orders_follow, sessions_track
from sessions import services
from sessions.models import SessionStatus, SessionTick, TradingSession
from sessions.services import (
    UnableToCommand,
    needs_align,
    session_halt,
    session_mark_stopped,
    session_start,
    session_stop,
    session_suspend,
    sessions_note_exposure,
)
from sessions.tasks import halt, sweep_sessions
from strategies.models import StrategyConfig
from tests.conftest import Bells
from tests.factories import (
    events,
    make_account,
    make_config,
    make_feed,
    make_market,
    make_open_position,
    make_session,
)
from tests.race import at_once, happens_before
from tests.sessions.conftest import created, fresh, needs
from tests.venue import Venue

pytestmark = pytest.mark.django_db
in_the_open = pytest.mark.django_db(transaction=True)  # with bells that ring, or more than one connection

S = SessionStatus
# -- suspend, halt, stop --------------------------------------------------------------------------------------------------


def test_a_suspended_session_without_exposure_needs_nothing_and_ticks_on() -> None:
    session = created()
    session_start(session.pk)

    session_suspend(session.pk)

    assert needs(session) == (False, False)
    assert SessionTick.objects.filter(session=session).exists()


def test_a_suspended_session_that_holds_something_keeps_its_feed_and_exit_signals_until_it_is_flat() -> None:
    session = created()
    session_start(session.pk)
    TradingSession.objects.update(has_exposure=True)

    session_suspend(session.pk)
    holding = needs(session)
    sessions_note_exposure([fresh(session)], False)

    assert holding == (True, True)
    assert needs(session) == (False, False)


def test_an_exposure_that_comes_after_the_suspension_takes_the_feed_up_again() -> None:
    session = make_session(status=S.SUSPENDED)

    sessions_note_exposure([fresh(session)], True)

    assert needs(session) == (True, True)
    assert fresh(session).has_exposure


@in_the_open
def test_a_halt_of_many_is_told_once(bells: Bells) -> None:
    session = make_session()

    results = at_once([lambda: session_halt(session.pk, "drawdown")] * 4)

    assert sorted(results) == [False, False, False, True]
    assert (fresh(session).status, fresh(session).status_reason) == (S.HALTED, "drawdown")
    assert events("alerts") == [{"alert": "SESSION_HALTED", "reason": "drawdown"}]


def test_a_halt_outranks_a_recovery_that_was_asked_for_before_it() -> None:
    session = make_session(status=S.SUSPENDED, recover_requested_at=timezone.now())

    session_halt(session.pk, "drawdown")

    assert fresh(session).recover_requested_at is None


@pytest.mark.parametrize("status", [S.SUSPENDED, S.HALTED])
def test_a_stop_outranks_a_recovery_that_was_asked_for_before_it(status: str) -> None:
    session = make_session(status=status, recover_requested_at=timezone.now())

    session_stop(session.pk)

    assert (fresh(session).status, fresh(session).recover_requested_at) == (S.STOPPING, None)


@in_the_open
def test_a_stop_and_a_suspension_at_once_end_in_one_status_that_both_agree_with(bells: Bells) -> None:
    session = make_session()

    results = at_once([lambda: session_suspend(session.pk), lambda: session_stop(session.pk)])

    refused = [result for result in results if isinstance(result, UnableToCommand)]
    assert fresh(session).status == S.STOPPING
    assert len(refused) == len(results) - len(events("command"))


@in_the_open
def test_a_double_stop_is_told_once(bells: Bells) -> None:
    session = make_session()

    results = at_once([lambda: session_stop(session.pk)] * 4)

    assert sum(isinstance(result, UnableToCommand) for result in results) == 3
    assert events("command") == [{"command": "stop"}]


def test_a_session_that_never_started_is_stopped_at_once() -> None:
    session = created()

    session_stop(session.pk)

    assert fresh(session).status == S.STOPPED
    assert fresh(session).stopped_at is not None


def test_a_stopped_session_ticks_no_more_and_needs_nothing() -> None:
    session = created()
    session_start(session.pk)
    session_stop(session.pk)

    assert session_mark_stopped(session.pk)
    assert not session_mark_stopped(session.pk)

    assert not SessionTick.objects.exists()
    assert needs(session) == (False, False)
    assert not fresh(session).has_exposure
    assert [event["command"] for event in events("command")] == ["start", "stop", "stopped"]


@in_the_open
def test_a_tracker_that_comes_second_ends_nothing_twice(bells: Bells) -> None:
    session = make_session(status=S.STOPPING)

    results = at_once([lambda: session_mark_stopped(session.pk)] * 4)

    assert sorted(results) == [False, False, False, True]
    assert events("command") == [{"command": "stopped"}]


def test_a_stop_is_done_only_when_the_venue_has_sold_what_was_held(venue: Venue) -> None:
    venue.simulator.open_account(USDT="9000", BTC="0.02")
    account = make_account(exchange=venue.exchange)
    session = make_session(account, make_config(account.owner, make_feed(venue.market)))
    make_open_position(session)

    session_stop(session.pk)
    sessions_track([session.pk])
    leaving = Order.objects.get(is_exit=True)
    held = fresh(session).status

    order_submit(leaving.pk)
    orders_follow([leaving.pk])

    assert held == S.STOPPING
    assert Order.objects.get(pk=leaving.pk).status == OrderStatus.CLOSED
    assert fresh(session).status == S.STOPPED
    assert venue.balance("BTC") == 0


# -- sessions.halt --------------------------------------------------------------------------------------------------------


@in_the_open
def test_sessions_on_a_paused_account_are_rung_for_by_the_sweep_and_halted_once(bells: Bells) -> None:
    session = make_session()
    suspended = make_session(session.account, status=S.SUSPENDED)
    elsewhere = make_session(make_account(session.account.owner, name="other"))
    Account.objects.filter(pk=session.account_id).update(status=Account.Status.PAUSED)

    sweep_sessions()
    [rung] = bells.rung("sessions.halt")
    halt(**rung)
    halt(**rung)
    bells.clear()
    sweep_sessions()

    assert rung == {"session_ids": [session.pk]}
    assert (fresh(session).status, fresh(session).status_reason) == (S.HALTED, "the account is paused")
    assert (fresh(suspended).status, fresh(elsewhere).status) == (S.SUSPENDED, S.ACTIVE)
    assert len(events("alerts")) == 1
    assert bells.rung("sessions.halt") == []


@in_the_open
def test_a_bell_that_comes_after_the_account_is_active_again_halts_nothing(bells: Bells) -> None:
    session = make_session()
    Account.objects.update(status=Account.Status.PAUSED)
    sweep_sessions()
    [rung] = bells.rung("sessions.halt")
    Account.objects.update(status=Account.Status.ACTIVE)

    halt(**rung)

    assert fresh(session).status == S.ACTIVE
    assert events("alerts") == []


# -- needs ----------------------------------------------------------------------------------------------------------------


def test_a_feed_of_two_sessions_is_collected_until_both_are_done_with_it() -> None:
    first = created()
    second = created(account=first.account, config=make_config(first.account.owner, first.config.feed))
    session_start(first.pk)
    session_start(second.pk)

    session_stop(first.pk)
    after_one = needs(first), needs(second)
    session_stop(second.pk)

    assert after_one == ((True, False), (True, True))
    assert (needs(first), needs(second)) == ((False, False), (False, False))


def test_a_configuration_of_two_sessions_is_evaluated_until_neither_is_active() -> None:
    first = created()
    second = created(account=make_account(first.account.owner, name="second"), config=first.config)
    session_start(first.pk)
    session_start(second.pk)

    session_suspend(first.pk)
    after_one = needs(first)
    session_halt(second.pk, "enough")

    assert after_one == (True, True)
    assert needs(second) == (False, False)


def test_needs_that_came_out_of_step_are_set_right_both_ways() -> None:
    active = make_session()
    Feed.objects.update(is_needed=False)
    StrategyConfig.objects.update(is_needed=False)
    idle_feed = make_feed(timeframe=Timeframe.H1, is_needed=True)
    idle_config = make_config(active.account.owner, idle_feed, is_needed=True)

    needs_align()
    needs_align()

    idle_feed.refresh_from_db()
    idle_config.refresh_from_db()
    assert needs(active) == (True, True)
    assert (idle_feed.is_needed, idle_feed.next_due_at, idle_config.is_needed) == (False, None, False)


def test_aligning_does_not_touch_what_is_in_step() -> None:
    session = make_session()
    needs_align()
    due = fresh(session).config.feed.next_due_at

    needs_align()

    assert fresh(session).config.feed.next_due_at == due


@in_the_open
@pytest.mark.parametrize("moment", ["_feed_refresh", "_config_refresh"])
def test_a_session_that_starts_while_needs_are_aligned_keeps_its_feed(
    monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    session = created()
    Feed.objects.update(is_needed=True)
    StrategyConfig.objects.update(is_needed=True)
    happens_before(monkeypatch, services, moment, lambda: session_start(session.pk))

    needs_align()

    assert needs(session) == (True, True)


@in_the_open
def test_commands_on_one_feed_in_the_same_instant_leave_needs_that_the_sweep_sets_right(bells: Bells) -> None:
    account = make_account()
    feed = make_feed(make_market(account.exchange))
    ending = [make_session(account, make_config(account.owner, feed)) for _ in range(3)]
    starting = [created(account=account, config=make_config(account.owner, feed)) for _ in range(3)]
    needs_align()

    results = at_once(
        [
            *[lambda session=session: session_stop(session.pk) for session in ending],
            *[lambda session=session: session_start(session.pk) for session in starting],
        ]
    )
    sweep_sessions()

    assert results == [None] * 6
    assert [needs(session) for session in ending] == [(True, False)] * 3
    assert [needs(session) for session in starting] == [(True, True)] * 3
