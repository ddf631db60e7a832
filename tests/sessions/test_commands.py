"""Commands: what each does from every status, once, whoever else commands in the same instant."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.utils import timezone

from domain.candles import Timeframe
from domain.orders import OrderStatus
from exchanges.models import Account, Exchange
from marketdata.models import Feed
from orders.models import Order
from orders.services import order_submit
from positions.services import orders_follow, sessions_track
from sessions import services
from sessions.models import SESSION_TRANSITIONS, SessionStatus, SessionTick, TradingSession
from sessions.services import (
    SessionAlreadyRunning,
    UnableToCommand,
    needs_align,
    session_create,
    session_halt,
    session_mark_stopped,
    session_note_exposure,
    session_recover,
    session_start,
    session_stop,
    session_suspend,
)
from sessions.tasks import halt, sweep_sessions
from strategies.models import StrategyConfig
from tests.conftest import Bells
from tests.factories import (
    NOON,
    events,
    make_account,
    make_config,
    make_exchange,
    make_feed,
    make_market,
    make_open_position,
    make_session,
    make_user,
)
from tests.race import at_once, happens_before
from tests.venue import Venue

pytestmark = pytest.mark.django_db
in_the_open = pytest.mark.django_db(transaction=True)  # with bells that ring, or more than one connection

S = SessionStatus
RUNNING = (S.ACTIVE, S.SUSPENDED, S.HALTED, S.STOPPING)

COMMANDS: dict[str, Callable[[int], Any]] = {
    "start": session_start,
    "suspend": session_suspend,
    "recover": session_recover,
    "stop": session_stop,
}
LEGAL = {
    ("start", S.CREATED): S.ACTIVE,
    ("start", S.STOPPED): S.ACTIVE,
    ("suspend", S.ACTIVE): S.SUSPENDED,
    # Wanted only: the exchange is re-read first.
    ("recover", S.SUSPENDED): S.SUSPENDED,
    ("recover", S.HALTED): S.HALTED,
    ("stop", S.CREATED): S.STOPPED,
    ("stop", S.ACTIVE): S.STOPPING,
    ("stop", S.SUSPENDED): S.STOPPING,
    ("stop", S.HALTED): S.STOPPING,
}


def fresh(session: TradingSession) -> TradingSession:
    return TradingSession.objects.select_related("config__feed").get(pk=session.pk)


def needs(session: TradingSession) -> tuple[bool, bool]:
    """Whether its feed is collected, and its configuration evaluated."""
    config = fresh(session).config
    return config.feed.is_needed, config.is_needed


def created(**fields: Any) -> TradingSession:
    return make_session(status=S.CREATED, **fields)


# -- the table ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", SessionStatus.values)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_moves_a_session_as_the_table_says_or_not_at_all(command: str, status: str) -> None:
    session = make_session(status=status)
    target = LEGAL.get((command, SessionStatus(status)))

    if target is None:
        with pytest.raises(UnableToCommand, match=f"to {command} a session it must be .*, was {status}"):
            COMMANDS[command](session.pk)
    else:
        COMMANDS[command](session.pk)

    assert fresh(session).status == (target or status)


@pytest.mark.parametrize("status", SessionStatus.values)
def test_a_halt_takes_hold_of_sessions_that_may_trade_and_of_no_other(status: str) -> None:
    session = make_session(status=status)

    is_halted = session_halt(session.pk, "drawdown")

    assert is_halted is (status in (S.ACTIVE, S.SUSPENDED))
    assert fresh(session).status == (S.HALTED if is_halted else status)
    assert len(events("alerts", alert="SESSION_HALTED")) == int(is_halted)


@pytest.mark.parametrize("status", SessionStatus.values)
def test_only_a_stopping_session_can_be_told_flat(status: str) -> None:
    session = make_session(status=status, has_exposure=True)

    was_stopped = session_mark_stopped(session.pk)

    assert was_stopped is (status == S.STOPPING)
    assert fresh(session).status == (S.STOPPED if was_stopped else status)


@pytest.mark.parametrize("source", SessionStatus.values)
@pytest.mark.parametrize("target", SessionStatus.values)
def test_no_move_outside_the_table_can_even_be_written(source: str, target: str) -> None:
    session = make_session(status=source)
    rows = TradingSession.objects.filter(pk=session.pk)

    if target in SESSION_TRANSITIONS[source]:
        assert rows.move(target, among=(source,)) == 1
    else:
        with pytest.raises(ValueError, match="no move from"):
            rows.move(target, among=(source,))

    assert fresh(session).status == (target if target in SESSION_TRANSITIONS[source] else source)


def test_every_status_has_its_line_in_the_table_and_a_way_to_its_end() -> None:
    assert set(SESSION_TRANSITIONS) == set(SessionStatus.values)
    assert all(
        S.STOPPED in SESSION_TRANSITIONS[s] or S.STOPPING in SESSION_TRANSITIONS[s]
        for s in SESSION_TRANSITIONS
        if s != S.STOPPED
    )


# -- start --------------------------------------------------------------------------------------------------------------


@in_the_open
def test_a_start_makes_everything_work_that_the_session_needs(bells: Bells) -> None:
    session = created(tick_seconds=300)
    before = timezone.now()

    session_start(session.pk, actor="alice")

    started = fresh(session)
    tick = SessionTick.objects.get(session=session)
    assert (started.status, started.run, started.stopped_at) == (S.ACTIVE, 1, None)
    assert started.started_at is not None
    assert started.signals_after == started.started_at >= before
    assert (tick.due_at, tick.every) == (started.started_at + timedelta(minutes=5), timedelta(minutes=5))
    assert needs(session) == (True, True)
    assert bells.rung("marketdata.collect") == [{"feed_ids": [session.config.feed_id]}]
    assert bells.rung("strategies.evaluate") == [{"feed_ids": [session.config.feed_id]}]
    assert bells.rung("positions.track") == [{"session_ids": [session.pk]}]
    assert events("command") == [{"command": "start"}]


def test_a_start_reads_signals_from_the_venues_now_on() -> None:
    exchange = make_exchange(clock_speed=0.0, clock_anchor_at=NOON, clock_venue_at=NOON + timedelta(days=1))
    session = created(account=make_account(exchange=exchange))

    session_start(session.pk)

    assert fresh(session).signals_after == NOON + timedelta(days=1)


def test_ticks_are_counted_in_the_venues_time() -> None:
    exchange = make_exchange(clock_speed=60.0)
    session = created(account=make_account(exchange=exchange), tick_seconds=300)

    session_start(session.pk)

    assert SessionTick.objects.get().every == timedelta(seconds=5)


@in_the_open
def test_a_double_start_runs_once(bells: Bells) -> None:
    session = created()

    results = at_once([lambda: session_start(session.pk)] * 5)

    refused = [result for result in results if isinstance(result, UnableToCommand)]
    assert (len(refused), results.count(None)) == (4, 1)
    assert fresh(session).run == 1
    assert SessionTick.objects.count() == 1
    assert events("command") == [{"command": "start"}]
    assert len(bells.rung("positions.track")) == 1


@in_the_open
def test_of_two_sessions_of_one_configuration_on_one_account_one_runs(bells: Bells) -> None:
    first = created()
    twin = created(account=first.account, config=first.config)

    results = at_once([lambda: session_start(first.pk), lambda: session_start(twin.pk)])

    assert sorted(type(result) for result in results if result is not None) == [SessionAlreadyRunning]
    assert TradingSession.objects.filter(status=S.ACTIVE).count() == 1
    assert SessionTick.objects.count() == 1
    assert len(events("command")) == 1


@pytest.mark.parametrize("status", RUNNING)
def test_a_twin_is_refused_as_long_as_the_other_has_not_stopped(status: str) -> None:
    first = make_session(status=status)
    twin = created(account=first.account, config=first.config)

    with pytest.raises(SessionAlreadyRunning, match="another session already runs this configuration on this account"):
        session_start(twin.pk)

    assert fresh(twin).status == S.CREATED
    assert not SessionTick.objects.filter(session=twin).exists()


def test_the_same_configuration_runs_on_two_accounts() -> None:
    first = created()
    other = created(account=make_account(first.account.owner, name="second"), config=first.config)

    session_start(first.pk)
    session_start(other.pk)

    assert (fresh(first).status, fresh(other).status) == (S.ACTIVE, S.ACTIVE)


def test_a_second_run_counts_up_and_forgets_why_the_first_ended() -> None:
    session = make_session(status=S.STOPPED, run=3, stopped_at=NOON, status_reason="halted once")

    session_start(session.pk)

    again = fresh(session)
    assert (again.run, again.stopped_at, again.status_reason) == (4, None, "")


@in_the_open
def test_a_run_is_counted_by_the_row_not_by_what_the_caller_had_read(monkeypatch: pytest.MonkeyPatch) -> None:
    session = created()

    def a_whole_run() -> None:
        session_start(session.pk)
        session_stop(session.pk)
        session_mark_stopped(session.pk)

    happens_before(monkeypatch, services, "_require_active", a_whole_run)
    session_start(session.pk)

    assert fresh(session).run == 2


def test_a_session_of_a_paused_account_does_not_start() -> None:
    session = created()
    Account.objects.update(status=Account.Status.PAUSED, status_reason="400004: wrong passphrase")

    with pytest.raises(UnableToCommand, match="wanted an active account, was PAUSED: 400004: wrong passphrase"):
        session_start(session.pk)

    assert fresh(session).status == S.CREATED


def test_a_session_whose_parameters_no_longer_fit_does_not_start() -> None:
    session = created()
    StrategyConfig.objects.update(parameters={"fast": 9, "slow": 3})

    with pytest.raises(ValidationError):
        session_start(session.pk)

    assert fresh(session).status == S.CREATED
    assert needs(session) == (False, False)


def test_a_session_whose_account_and_configuration_are_not_of_one_owner_does_not_start() -> None:
    session = created()
    StrategyConfig.objects.update(owner=make_user("mallory"))

    with pytest.raises(ValidationError, match="somebody else's"):
        session_start(session.pk)


# -- create --------------------------------------------------------------------------------------------------------------


def new_session(**fields: Any) -> TradingSession:
    account = make_account()
    config = make_config(account.owner, make_feed(make_market(account.exchange)), name="cross")
    return TradingSession(**{"account": account, "config": config, **fields})


def test_a_session_without_a_name_is_named_by_what_it_does() -> None:
    assert session_create(new_session()).name == "cross-simulator-BTC/USDT-1m"
    assert TradingSession.objects.get().status == S.CREATED


def test_a_name_made_of_the_longest_parts_still_fits() -> None:
    exchange = make_exchange("x" * 40)
    account = make_account(exchange=exchange)
    market = make_market(exchange, f"{'B' * 20}/USDT")
    config = make_config(account.owner, make_feed(market, Timeframe.M15), name="n" * 80)
    make_market(exchange).symbol = "y"

    session = session_create(TradingSession(account=account, config=config))

    assert len(TradingSession.objects.get().name) <= 160
    assert session.name.startswith("n" * 80)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"sizing_amount": Decimal(0)}, "sizing_amount"),
        ({"sizing_amount": Decimal(-1)}, "sizing_amount"),
        ({"stop_loss_percent": Decimal(100)}, "stop_loss_percent"),
        ({"take_profit_percent": Decimal(0)}, "take_profit_percent"),
        ({"tick_seconds": 9}, "tick_seconds"),
        ({"tick_seconds": 86_401}, "tick_seconds"),
        ({"sizing_method": "ALL_IN"}, "sizing_method"),
    ],
)
def test_a_session_that_makes_no_sense_is_refused_by_field(changes: dict[str, Any], field: str) -> None:
    session = new_session(**changes)

    with pytest.raises(ValidationError) as raised:
        session_create(session)

    assert field in raised.value.message_dict
    assert not TradingSession.objects.exists()


def test_a_session_on_a_market_of_another_venue_or_currency_is_refused() -> None:
    account = make_account()
    other_venue = make_config(account.owner, make_feed(make_market(make_exchange("other"))))
    other_quote = make_config(account.owner, make_feed(make_market(account.exchange, "ETH/BTC")))

    with pytest.raises(ValidationError, match="wanted a market of simulator, was BTC/USDT of other"):
        session_create(TradingSession(account=account, config=other_venue))
    with pytest.raises(ValidationError, match="wanted a market quoted in USDT, was ETH/BTC"):
        session_create(TradingSession(account=account, config=other_quote))


# -- suspend, halt, stop --------------------------------------------------------------------------------------------------


def test_a_suspended_session_without_exposure_needs_nothing_and_ticks_on() -> None:
    session = created()
    session_start(session.pk)

    session_suspend(session.pk)

    assert needs(session) == (False, False)
    assert SessionTick.objects.filter(session=session).exists()


def test_a_suspended_session_that_holds_something_keeps_its_feed_until_it_is_flat() -> None:
    session = created()
    session_start(session.pk)
    TradingSession.objects.update(has_exposure=True)

    session_suspend(session.pk)
    holding = needs(session)
    session_note_exposure(fresh(session), False)

    assert holding == (True, False)
    assert needs(session) == (False, False)


def test_an_exposure_that_comes_after_the_suspension_takes_the_feed_up_again() -> None:
    session = make_session(status=S.SUSPENDED)

    session_note_exposure(fresh(session), True)

    assert needs(session) == (True, False)
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


@pytest.mark.parametrize("command", ["stop"])
@pytest.mark.parametrize("status", [S.SUSPENDED, S.HALTED])
def test_a_stop_outranks_a_recovery_that_was_asked_for_before_it(command: str, status: str) -> None:
    session = make_session(status=status, recover_requested_at=timezone.now())

    COMMANDS[command](session.pk)

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
    active, idle = make_session(), created()
    Feed.objects.update(is_needed=False)
    StrategyConfig.objects.update(is_needed=False)
    idle_feed = make_feed(timeframe=Timeframe.H1, is_needed=True)
    idle_config = make_config(idle.account.owner, idle_feed, is_needed=True)

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
            *[lambda session=session: session_stop(session.pk) for session in ending],  # type: ignore[misc]
            *[lambda session=session: session_start(session.pk) for session in starting],  # type: ignore[misc]
        ]
    )
    sweep_sessions()

    assert results == [None] * 6
    assert [needs(session) for session in ending] == [(True, False)] * 3
    assert [needs(session) for session in starting] == [(True, True)] * 3


def test_a_venue_is_the_same_for_a_session_as_for_its_account() -> None:
    assert Exchange.objects.count() == 0
    session = make_session()

    assert session.config.feed.market.exchange_id == session.account.exchange_id
