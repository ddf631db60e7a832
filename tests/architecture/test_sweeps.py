"""No message is essential: whatever waits for somebody is found by a query of a scheduled sweep, and only when it is late."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import timedelta
from importlib import import_module
from typing import Any

import pytest
from django.apps import apps
from django.utils import timezone

from backtesting.models import BacktestRun, Study, TrialClaim
from domain.orders import LIVE_STATUSES, OrderStatus
from exchanges.models import Account, Exchange, Quote
from marketdata.models import Backfill, CandleGap
from money.models import TradingHalt
from orders.models import FillCursor, Funding, Order
from pipeline.sweeps import Waiting
from positions.models import Position, Reconciliation
from r3edge_site.celery import app as celery_app
from sessions.models import SESSION_TRANSITIONS, SessionStatus
from tests.factories import (
    make_account,
    make_candles,
    make_config,
    make_exchange,
    make_feed,
    make_fill,
    make_market,
    make_open_position,
    make_order,
    make_position,
    make_session,
    make_signal,
    make_tape,
    make_user,
)

S = OrderStatus
SECOND = timedelta(seconds=1)
# Late for every rule, and before anything else falls due.
LATE = timedelta(seconds=20)

RULES: dict[str, Waiting] = {
    rule.what: rule
    for app in sorted(config.name for config in apps.get_app_configs())
    if app in ("exchanges", "marketdata", "strategies", "orders", "sessions", "positions", "backtesting", "money")
    for rule in import_module(f"{app}.tasks").WAITING
}


def found_by_rules(argument: str, pk: int, after: timedelta = LATE) -> list[str]:
    """What the sweeps would say that row waits for, ``after`` from now."""
    now = timezone.now() + after
    return [what for what, rule in RULES.items() if rule.argument == argument and pk in rule.query(now)]


def an_order(status: OrderStatus) -> Order:
    """An order as its service leaves it in ``status``."""
    now = timezone.now()
    fields: dict[str, dict[str, Any]] = {
        S.SUBMITTING: {"sent_at": now, "deadline_at": now + 5 * SECOND},
        S.UNKNOWN: {"sent_at": now, "not_before_at": now + 2 * SECOND},
        S.OPENED: {"sent_at": now, "opened_at": now, "not_before_at": now + 2 * SECOND},
    }
    return make_order(make_position(make_session()), status=status, **fields.get(status, {}))


def a_ready_order_in_a_pause() -> int:
    order = an_order(S.READY)
    Order.objects.filter(pk=order.pk).update(not_before_at=timezone.now() + 10 * SECOND)
    return order.pk


def an_account_that_has_traded_since_its_balance_was_read() -> int:
    return make_fill(an_order(S.OPENED)).account_id


def an_account_never_read() -> int:
    return make_account(usdt=None).pk


def an_exchange_never_read() -> int:
    return make_account(exchange=make_exchange(markets_synced_at=None)).exchange_id


def an_exchange_read_yesterday() -> int:
    return make_account(exchange=make_exchange(markets_synced_at=timezone.now() - timedelta(days=1))).exchange_id


def an_exchange_whose_status_was_never_read() -> int:
    return make_account().exchange_id


def an_exchange_that_took_no_orders_when_it_was_last_asked() -> int:
    exchange = make_exchange(status="CANCEL_ONLY", status_read_at=timezone.now() + LATE)
    return make_account(exchange=exchange).exchange_id


def an_exchange_that_did_not_answer() -> int:
    exchange = make_exchange(unreachable_at=timezone.now(), status_read_at=timezone.now() + LATE)
    return make_account(exchange=exchange).exchange_id


def an_account_whose_keys_were_never_checked() -> int:
    account = make_account()
    Account.objects.update(keys_checked_at=None)
    return account.pk


def an_account_whose_keys_were_checked_yesterday() -> int:
    account = make_account()
    Account.objects.update(keys_checked_at=timezone.now() - timedelta(days=1))
    return account.pk


def a_feed_whose_candle_has_closed() -> int:
    return make_feed(is_needed=True, next_due_at=timezone.now() + SECOND).pk


def a_feed_whose_collector_died() -> int:
    now = timezone.now()
    return make_feed(is_needed=True, next_due_at=now, leased_until=now + 10 * SECOND).pk


def a_feed_that_was_looked_through_yesterday() -> int:
    now = timezone.now()
    return make_feed(last_open_at=now, checked_at=now - timedelta(days=1) + SECOND).pk


def a_tape_that_is_due() -> int:
    return make_tape(is_needed=True, next_due_at=timezone.now() + SECOND).pk


def a_tape_whose_reader_died() -> int:
    now = timezone.now()
    return make_tape(is_needed=True, next_due_at=now, leased_until=now + 10 * SECOND).pk


def a_feed_with_a_candle_nobody_answered() -> int:
    feed = make_config(is_needed=True).feed
    make_candles(feed, [100.0], timezone.now().replace(second=0, microsecond=0))
    return feed.pk


def a_session_with_a_signal_unseen() -> int:
    session = make_session()
    make_signal(session.config)
    return session.pk


def a_suspended_session_with_a_signal_unseen_and_something_to_leave() -> int:
    session = make_session(status=SessionStatus.SUSPENDED, has_exposure=True)
    make_signal(session.config)
    return session.pk


def a_session_that_stops() -> int:
    return make_session(status=SessionStatus.STOPPING).pk


def a_session_that_stops_and_holds_something() -> int:
    return make_open_position(make_session(status=SessionStatus.STOPPING)).session_id


def a_session_whose_entry_came_to_nothing() -> int:
    position = make_position(make_session())
    make_order(position, status=S.DENIED, closed_at=timezone.now())
    return position.session_id


def a_session_whose_exit_was_filled_after_the_last_look() -> int:
    position = make_open_position(make_session())
    make_order(position, purpose="EXIT", status=S.CLOSED, closed_at=timezone.now() + SECOND)
    return position.session_id


def a_session_that_is_to_leave_its_position_now() -> int:
    position = make_open_position(make_session())
    Position.objects.filter(pk=position.pk).update(is_exit_wanted=True)
    return position.session_id


def a_session_whose_stop_was_crossed() -> int:
    position = make_open_position(make_session(), exits={"stop_loss_percent": "2"})
    Quote.objects.create(market=position.market, bid=1, ask=1, last=1, quoted_at=timezone.now() + SECOND)
    return position.session_id


def a_session_whose_exit_by_time_is_due() -> int:
    position = make_open_position(make_session())
    Position.objects.filter(pk=position.pk).update(exit_due_at=timezone.now() + SECOND)
    return position.session_id


def a_session_whose_stop_follows_a_candle() -> int:
    position = make_open_position(make_session(), exits={"trailing_percent": "2"})
    make_candles(position.session.config.feed, [50_000.0], timezone.now() + SECOND)
    return position.session_id


def a_position_whose_stop_is_not_in_force() -> int:
    position = make_open_position(make_session())
    Position.objects.filter(pk=position.pk).update(stop_price=None)
    return position.pk


def a_position_whose_stop_is_in_force_again() -> int:
    position = make_open_position(make_session(), exits={})
    Position.objects.filter(pk=position.pk).update(unprotected_at=timezone.now())
    return position.pk


def a_closed_position_whose_funding_came_late() -> int:
    position = make_open_position(make_session())
    now = timezone.now()
    Position.objects.filter(pk=position.pk).update(status="CLOSED", closed_at=now + SECOND)
    Funding.objects.create(
        account=position.account, market=position.market, funding_id="1", amount=-1, currency="USDT", paid_at=now
    )
    return position.pk


def a_session_whose_position_was_funded() -> int:
    position = make_open_position(make_session())
    Funding.objects.create(
        account=position.account, market=position.market, funding_id="1", amount=-1, currency="USDT",
        paid_at=timezone.now(),
    )  # fmt: skip
    return position.session_id


def a_suspended_session_that_was_asked_to_recover() -> int:
    return make_session(status=SessionStatus.SUSPENDED, recover_requested_at=timezone.now()).pk


def a_halted_session_that_was_asked_to_recover() -> int:
    return make_session(status=SessionStatus.HALTED, recover_requested_at=timezone.now()).pk


def a_session_that_trades_on_a_paused_account() -> int:
    session = make_session()
    Account.objects.filter(pk=session.account_id).update(status=Account.Status.PAUSED)
    return session.pk


def a_feed_that_stands_still_without_a_word() -> int:
    return make_feed(is_needed=True, stale_since=timezone.now()).pk


def a_feed_that_is_back_without_a_word() -> int:
    return make_feed(is_needed=True, stale_told_at=timezone.now()).pk


def a_backfill_whose_bell_was_lost() -> int:
    now = timezone.now()
    span = {"from_at": now - timedelta(days=1), "until_at": now, "cursor_at": now - timedelta(days=1)}
    return Backfill.objects.create(feed=make_feed(), not_before_at=now, **span).pk


def a_backfill_whose_worker_died() -> int:
    pk = a_backfill_whose_bell_was_lost()
    Backfill.objects.update(status="RUNNING", leased_until=timezone.now() + 10 * SECOND)
    return pk


def a_gap_nobody_has_asked_for() -> int:
    now = timezone.now()
    return CandleGap.objects.create(
        feed=make_feed(), from_at=now - timedelta(hours=1), until_at=now, missing=60, found_at=now
    ).pk


def a_gap_whose_pause_is_over() -> int:
    pk = a_gap_nobody_has_asked_for()
    CandleGap.objects.update(attempts=1, not_before_at=timezone.now() + SECOND)
    return pk


def a_backtest_whose_bell_was_lost() -> int:
    now = timezone.now()
    span = {"from_at": now - timedelta(days=1), "until_at": now}
    return BacktestRun.objects.create(owner=make_user(), strategy="sma_cross", not_before_at=now, **span).pk


def a_backtest_whose_worker_died() -> int:
    pk = a_backtest_whose_bell_was_lost()
    BacktestRun.objects.update(status="RUNNING", leased_until=timezone.now() + 10 * SECOND)
    return pk


def a_study_whose_bell_was_lost(**fields: Any) -> int:
    now = timezone.now()
    return Study.objects.create(
        owner=make_account().owner, kind="OPTIMISE", strategy="sma_cross", from_at=now - LATE, until_at=now,
        **{"not_before_at": now, **fields},
    ).pk  # fmt: skip


def a_study_whose_worker_died_as_it_began() -> int:
    return a_study_whose_bell_was_lost(status="RUNNING", leased_until=timezone.now() + SECOND)


def a_begun_study(claimed: int) -> int:
    begun: dict[str, Any] = {
        "data_hash": "of all",
        "folds": [{}],
        "per_fold": 9,
        "total": 10,
        "stepped_at": timezone.now(),
    }
    return a_study_whose_bell_was_lost(status="RUNNING", claimed=claimed, **begun)


def a_study_with_trials_that_nobody_took() -> int:
    pk = a_begun_study(5)
    TrialClaim.objects.create(study_id=pk, fold=0, first=0, end=5, leased_until=timezone.now() + 2 * LATE)
    return pk


def a_study_with_trials_of_a_worker_that_died() -> int:
    pk = a_begun_study(9)
    TrialClaim.objects.create(study_id=pk, fold=0, first=0, end=5, leased_until=timezone.now() + 2 * LATE)
    TrialClaim.objects.create(study_id=pk, fold=0, first=5, end=9, leased_until=timezone.now() + SECOND)
    return pk


def a_study_with_nothing_left_but_its_result() -> int:
    return a_begun_study(9)


def an_account_never_compared() -> int:
    return make_account().pk


def an_account_whose_comparison_is_due() -> int:
    account = make_account()
    Reconciliation.objects.create(account=account, due_at=timezone.now() + SECOND)
    return account.pk


def an_account_whose_comparer_died() -> int:
    account = make_account()
    now = timezone.now()
    Reconciliation.objects.create(account=account, due_at=now, leased_until=now + 10 * SECOND)
    return account.pk


def an_account_whose_funding_was_never_read() -> int:
    market = make_market(symbol="BTC/USDT:USDT", kind="LINEAR_FUTURE")
    now = timezone.now()
    return FillCursor.objects.create(account=make_account(), market=market, begun_at=now, read_until=now).account_id


def an_account_whose_funding_is_due() -> int:
    account_id = an_account_whose_funding_was_never_read()
    FillCursor.objects.update(fundings_due_at=timezone.now() + SECOND)
    return account_id


def an_account_that_trades_contracts_after_a_rest() -> int:
    now = timezone.now()
    order, market = an_order(S.OPENED), make_market(symbol="BTC/USDT:USDT", kind="LINEAR_FUTURE")
    order.market = market
    make_fill(order)
    FillCursor.objects.create(
        account=order.account, market=market, begun_at=now, read_until=now, fundings_due_at=now + timedelta(hours=5)
    )
    return order.account_id


def an_account_whose_contracts_were_never_asked_about() -> int:
    feed = make_feed(make_market(symbol="BTC/USDT:USDT", kind="LINEAR_FUTURE"))
    return make_open_position(make_session(config=make_config(feed=feed))).account_id


def an_account_whose_contracts_are_to_be_asked_about() -> int:
    account_id = an_account_whose_contracts_were_never_asked_about()
    Reconciliation.objects.create(account_id=account_id, contracts_due_at=timezone.now() + SECOND)
    return account_id


def a_halt_with_an_entry_at_the_venue() -> int:
    order = an_order(S.OPENED)
    return TradingHalt.objects.create(mode="REDUCE_ONLY", account=order.account, cause="news").pk


def a_halt_with_a_position_to_be_left() -> int:
    make_open_position(make_session())
    return TradingHalt.objects.create(mode="FLATTEN", cause="news").pk


def a_halt_with_an_entry_that_was_valued_before_it() -> int:
    session = make_session()
    make_order(make_position(session), status=S.READY)
    return TradingHalt.objects.create(mode="HALT", session=session, cause="news").pk


def an_exit_that_rests_for_a_position_that_is_closed() -> int:
    position = make_open_position(make_session())
    Position.objects.update(status="CLOSED")
    return make_order(position, "REST_STOP", status=S.OPENED).pk


WAITING_ORDERS = {
    S.REQUESTED: "requested, not valued",
    S.READY: "entry valued, not submitted",
    S.SUBMITTING: "entry at the venue, or perhaps",
    S.UNKNOWN: "entry at the venue, or perhaps",
    S.OPENED: "entry at the venue, or perhaps",
}
WAITING_EXITS = {
    S.READY: "exit not submitted",
    S.SUBMITTING: "exit at the venue, or perhaps",
    S.UNKNOWN: "exit at the venue, or perhaps",
    S.OPENED: "exit at the venue, or perhaps",
}
WAITING_ROWS: list[tuple[Callable[[], int], str]] = [
    (an_exit_that_rests_for_a_position_that_is_closed, "exit resting for a position that is over"),
    (a_ready_order_in_a_pause, "entry valued, not submitted"),
    (an_account_that_has_traded_since_its_balance_was_read, "balances read before the last fill"),
    (an_account_never_read, "balances read before the last fill"),
    (an_account_whose_funding_was_never_read, "funding not read lately"),
    (an_account_whose_funding_is_due, "funding not read lately"),
    (an_account_that_trades_contracts_after_a_rest, "funding not read lately"),
    (an_account_whose_contracts_were_never_asked_about, "contracts not asked about lately"),
    (an_account_whose_contracts_are_to_be_asked_about, "contracts not asked about lately"),
    (an_exchange_never_read, "exchange read long ago"),
    (an_exchange_read_yesterday, "exchange read long ago"),
    (an_exchange_whose_status_was_never_read, "status read long ago"),
    (an_exchange_that_took_no_orders_when_it_was_last_asked, "status read long ago"),
    (an_exchange_that_did_not_answer, "status read long ago"),
    (an_account_whose_keys_were_never_checked, "keys not checked for a day"),
    (an_account_whose_keys_were_checked_yesterday, "keys not checked for a day"),
    (a_feed_whose_candle_has_closed, "feed with a closed candle"),
    (a_feed_whose_collector_died, "feed with a closed candle"),
    (a_feed_that_was_looked_through_yesterday, "feed not looked through for a day"),
    (a_tape_that_is_due, "tape to be read"),
    (a_tape_whose_reader_died, "tape to be read"),
    (a_feed_with_a_candle_nobody_answered, "candle without an answer"),
    (a_session_with_a_signal_unseen, "session that needs a look"),
    (a_suspended_session_with_a_signal_unseen_and_something_to_leave, "session with a position that needs a look"),
    (a_session_that_stops, "session that needs a look"),
    (a_session_whose_entry_came_to_nothing, "session that needs a look"),
    (a_session_that_stops_and_holds_something, "session with a position that needs a look"),
    (a_session_whose_exit_was_filled_after_the_last_look, "session with a position that needs a look"),
    (a_session_that_is_to_leave_its_position_now, "session with a position that needs a look"),
    (a_session_whose_position_was_funded, "session with a position that needs a look"),
    (a_session_whose_stop_was_crossed, "exit due, or stop to move"),
    (a_session_whose_exit_by_time_is_due, "exit due, or stop to move"),
    (a_session_whose_stop_follows_a_candle, "exit due, or stop to move"),
    (a_position_whose_stop_is_not_in_force, "position without a stop in force, or with one again"),
    (a_position_whose_stop_is_in_force_again, "position without a stop in force, or with one again"),
    (a_closed_position_whose_funding_came_late, "funding after the end"),
    (a_suspended_session_that_was_asked_to_recover, "recovery asked for"),
    (a_halted_session_that_was_asked_to_recover, "recovery asked for"),
    (a_session_that_trades_on_a_paused_account, "account paused"),
    (a_feed_that_stands_still_without_a_word, "feed whose standstill or return nobody was told of"),
    (a_feed_that_is_back_without_a_word, "feed whose standstill or return nobody was told of"),
    (a_backfill_whose_bell_was_lost, "backfill to go on"),
    (a_backfill_whose_worker_died, "backfill to go on"),
    (a_gap_nobody_has_asked_for, "gap to be asked for again"),
    (a_gap_whose_pause_is_over, "gap to be asked for again"),
    (a_backtest_whose_bell_was_lost, "backtest to be computed"),
    (a_backtest_whose_worker_died, "backtest to be computed"),
    (a_study_whose_bell_was_lost, "study to go on"),
    (a_study_whose_worker_died_as_it_began, "study to go on"),
    (a_study_with_trials_that_nobody_took, "study to go on"),
    (a_study_with_trials_of_a_worker_that_died, "study to go on"),
    (a_study_with_nothing_left_but_its_result, "study to go on"),
    (an_account_never_compared, "account not compared lately"),
    (an_account_whose_comparison_is_due, "account not compared lately"),
    (an_account_whose_comparer_died, "account not compared lately"),
    (a_halt_with_an_entry_at_the_venue, "halt not carried out"),
    (a_halt_with_a_position_to_be_left, "halt not carried out"),
    (a_halt_with_an_entry_that_was_valued_before_it, "halt not carried out"),
]


def test_every_rule_of_every_sweep_is_tried_here() -> None:
    assert {*WAITING_ORDERS.values(), *WAITING_EXITS.values(), *(what for _, what in WAITING_ROWS)} == set(RULES)
    assert set(WAITING_ORDERS) == set(LIVE_STATUSES)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_a_sweep_rings_a_task_that_takes_the_ids_it_finds(rule: Waiting) -> None:
    task = celery_app.tasks[rule.task]

    assert list(inspect.signature(task.run).parameters) == [rule.argument]
    assert rule.batch >= 1


@pytest.mark.django_db
@pytest.mark.parametrize(("status", "what"), WAITING_ORDERS.items())
def test_an_order_that_is_alive_is_found_when_nobody_came(status: OrderStatus, what: str) -> None:
    order = an_order(status)

    assert found_by_rules("order_ids", order.pk) == [what]


@pytest.mark.django_db
@pytest.mark.parametrize(("status", "what"), WAITING_EXITS.items())
def test_an_exit_that_is_alive_is_found_when_nobody_came(status: OrderStatus, what: str) -> None:
    order = an_order(status)
    Order.objects.filter(pk=order.pk).update(is_exit=True)

    assert found_by_rules("order_ids", order.pk) == [what]


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_what_protects_positions_waits_on_their_own_queue(rule: Waiting) -> None:
    assert (rule.task.split(".")[0] == "exits") == (rule.what.startswith("exit ") or "with a position" in rule.what)


@pytest.mark.django_db
@pytest.mark.parametrize("status", LIVE_STATUSES)
def test_an_order_is_left_to_its_bell_while_that_may_still_be_heard(status: OrderStatus) -> None:
    order = an_order(status)

    assert found_by_rules("order_ids", order.pk, after=SECOND) == []


@pytest.mark.django_db
@pytest.mark.parametrize("status", sorted(set(OrderStatus) - set(LIVE_STATUSES)))
def test_an_order_that_has_ended_is_left_alone(status: OrderStatus) -> None:
    order = an_order(status)

    assert found_by_rules("order_ids", order.pk) == []


@pytest.mark.django_db
@pytest.mark.parametrize(("build", "what"), WAITING_ROWS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_row_that_waits_is_found(build: Callable[[], int], what: str) -> None:
    pk = build()

    assert what in found_by_rules(RULES[what].argument, pk)


@pytest.mark.django_db
def test_a_study_whose_last_trials_are_at_work_is_left_alone() -> None:
    pk = a_begun_study(9)
    TrialClaim.objects.create(study_id=pk, fold=0, first=5, end=9, leased_until=timezone.now() + 2 * LATE)

    assert found_by_rules("study_ids", pk) == []


@pytest.mark.django_db
@pytest.mark.parametrize("status", [S.READY, S.UNKNOWN])
def test_an_order_at_a_venue_that_was_switched_off_waits_until_it_is_on_again(status: OrderStatus) -> None:
    order = an_order(status)

    Exchange.objects.update(is_enabled=False)
    while_off = found_by_rules("order_ids", order.pk)
    Exchange.objects.update(is_enabled=True)

    assert while_off == []
    assert found_by_rules("order_ids", order.pk) == [WAITING_ORDERS[status]]


@pytest.mark.django_db
@pytest.mark.parametrize("is_holding", [False, True])
@pytest.mark.parametrize("status", sorted(set(SESSION_TRANSITIONS) - {SessionStatus.STOPPING}))
def test_a_session_at_rest_is_left_alone(status: str, is_holding: bool) -> None:
    session = make_session(status=status)
    if is_holding:
        make_open_position(session)

    assert found_by_rules("session_ids", session.pk) == []
