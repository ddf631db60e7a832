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
from exchanges.models import Account
from pipeline.models import Event
from sessions import services
from sessions.models import SESSION_TRANSITIONS, SessionStatus, SessionTick, TradingSession
from sessions.services import (
    SessionAlreadyRunning,
    UnableToCommand,
    session_create,
    session_halt,
    session_mark_stopped,
    session_recover,
    session_start,
    session_stop,
    session_suspend,
)
from strategies.library.sma_cross import SmaCross
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
    make_session,
    make_user,
)
from tests.race import at_once, happens_before
from tests.sessions.conftest import created, fresh, needs

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
    ends = {S.STOPPED, S.STOPPING}
    assert all(ends & targets for status, targets in SESSION_TRANSITIONS.items() if status != S.STOPPED)


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

    assert [type(result) for result in results if result is not None] == [SessionAlreadyRunning]
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

    happens_before(monkeypatch, services, "account_require_active", a_whole_run)
    session_start(session.pk)

    assert fresh(session).run == 2


def test_the_stop_of_a_session_that_never_started_is_told_by_whom() -> None:
    session = created()

    session_stop(session.pk, actor="alice")

    stopped = Event.objects.get(topic="command", key=session.pk)
    assert (stopped.data, stopped.actor) == ({"command": "stopped"}, "alice")


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


def test_a_session_on_a_strategy_that_nobody_would_ask_live_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    session = session_create(new_session())
    monkeypatch.setattr(SmaCross, "callbacks", ("custom_exit", "custom_stoploss"))
    wanted = (
        "wanted a strategy that decides by its signals alone, was SMA crossover, which has a word in custom_exit, cu"
    )

    with pytest.raises(ValidationError, match=wanted):
        session_create(TradingSession(account=session.account, config=session.config))
    with pytest.raises(ValidationError, match=wanted):
        session_start(session.pk)

    assert TradingSession.objects.get().status == S.CREATED


def test_a_session_on_a_market_of_another_venue_or_currency_is_refused() -> None:
    account = make_account()
    other_venue = make_config(account.owner, make_feed(make_market(make_exchange("other"))))
    other_quote = make_config(account.owner, make_feed(make_market(account.exchange, "ETH/BTC")))

    with pytest.raises(ValidationError, match="wanted a market of simulator, was BTC/USDT of other"):
        session_create(TradingSession(account=account, config=other_venue))
    with pytest.raises(ValidationError, match="wanted a market quoted in USDT, was ETH/BTC"):
        session_create(TradingSession(account=account, config=other_quote))
