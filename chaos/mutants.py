"""Builds of the platform with one guard gone, or with a naive way of talking to a venue: each must fail a scenario.

A list, so it is long. Where a second guard stops what the first lets through, the mutant is without both, and ``second``
says which the other one is. The product is imported when it is patched: this list is read by whoever asks for a name.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from chaos import mutants_books, mutants_money  # noqa: F401  # each registers its own
from chaos.mutant import (
    MUTANTS,
    Change,
    Drop,
    Mutant,
    NoSuchName,
    applied,
    apply,
    drop,
    restore,
    set_to,
    wrapped,
)
from chaos.mutant import mutant as _mutant
from chaos.mutant import patched as _patched


def _unguarded(*statuses: str) -> Change:
    """``GuardedQuerySet.move`` that does not look at the status it moves from, for moves to these."""

    def move(original: Callable[..., int], rows: Any, to: str, *, among: Any = None, **changes: Any) -> int:
        if to in statuses:
            return int(rows.update(status=to, **changes))
        return original(rows, to, among=among, **changes)

    return wrapped(move)


def _unlocked(model: str, *, holding: float = 0.0) -> Change:
    """``select_for_update`` that locks no rows of ``model``, and stays a while between reading them and writing."""

    def select(original: Callable[..., Any], rows: Any, *args: Any, **kwargs: Any) -> Any:
        if rows.model.__name__ != model:
            return original(rows, *args, **kwargs)
        time.sleep(holding)
        return rows.all()

    return wrapped(select)


def _deaf(task: str) -> Change:
    """The sweep's rules without the one that rings ``task``."""

    def change(rules: tuple[Any, ...]) -> tuple[Any, ...]:
        left = tuple(rule for rule in rules if rule.task != task)
        if len(left) == len(rules):
            raise NoSuchName(f"wanted a rule that rings {task}, there is none")
        return left

    return change


def _constraint(table: str, name: str, again: str) -> Drop:
    return Drop(
        f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name}", f"ALTER TABLE {table} ADD CONSTRAINT {name} {again}"
    )


def _index(table: str, name: str, again: str) -> Drop:
    return Drop(f"DROP INDEX IF EXISTS {name}", f"CREATE UNIQUE INDEX {name} ON {table} {again}")


ORDER_LIVE = _index(
    "orders_order",
    "order_one_live_per_intent",
    "(intent_id) WHERE status IN ('REQUESTED', 'READY', 'SUBMITTING', 'UNKNOWN', 'OPENED')",
)
FILL_ONCE = _constraint("orders_fill", "fill_counted_once", "UNIQUE (account_id, market_id, trade_id, side)")
POSITION_PER_SIGNAL = _constraint(
    "positions_position", "position_once_per_signal", "UNIQUE (session_id, entry_signal_id)"
)
POSITION_LIVE = _index(
    "positions_position", "position_one_live_per_session", "(session_id) WHERE status IN ('PENDING', 'OPEN')"
)
SIGNAL_ONCE = _constraint("strategies_signal", "signal_once_per_candle", "UNIQUE (config_id, candle_open_at)")
INTENT_ONCE = _constraint("positions_intent", "intent_once_per_step", "UNIQUE (position_id, purpose, step)")
RUN_ONCE = _index(
    "trading_sessions_tradingsession",
    "session_runs_once_per_account_and_config",
    "(account_id, config_id) WHERE status IN ('ACTIVE', 'SUSPENDED', 'HALTED', 'STOPPING')",
)
CANDLE_ONCE = _constraint("marketdata_candle", "marketdata_candle_pkey", "PRIMARY KEY (feed_id, open_at)")


def _listless(name: str) -> None:
    """Nobody reads a list of orders or fills, nor thinks of one before an order is given up."""

    def read(gateway: Any, account: Any, market: Any) -> Any:
        from orders.lookups import MarketReading  # noqa: PLC0415

        return MarketReading({}, {}, account.exchange.time_at(timezone.now()))

    for place in ("orders.lookups", "positions.reconciliation"):
        _patched(name, place, "market_read")(set_to(read))


# -- naive gateways -----------------------------------------------------------------------------------------------

GATEWAY = "exchanges.ccxt_gateway:CcxtGateway"

_mutant("any_error_is_rejection", "an error of the create call is taken for the venue's no", "answer-lost")


@_patched("any_error_is_rejection", GATEWAY, "_create_failure")
@wrapped
def _rejected(original: Callable[..., Exception], gateway: Any, error: Exception) -> Exception:
    from exchanges.gateway import OrderRejected  # noqa: PLC0415  # the product, when it is patched

    return OrderRejected(str(error)[:100], code="ERROR")


_mutant("resend_on_timeout", "a create call without an answer is made again", "answer-lost")


@_patched("resend_on_timeout", GATEWAY, "order_create")
@wrapped
def _resent(original: Callable[..., str], gateway: Any, ticket: Any) -> str:
    from exchanges.gateway import OrderOutcomeUnknown  # noqa: PLC0415

    try:
        return original(gateway, ticket)
    except OrderOutcomeUnknown:
        return original(gateway, ticket)


_mutant("ccxt_retries", "ccxt repeats requests that failed, behind our back", "answer-lost")


@_patched("ccxt_retries", GATEWAY, "__init__")
@wrapped
def _retrying(original: Callable[..., None], gateway: Any, *args: Any, **kwargs: Any) -> None:
    original(gateway, *args, **kwargs)
    gateway._venue.options |= {"maxRetriesOnFailure": 3, "maxRetriesOnFailureDelay": 10}


_mutant("classic_lookup", "look-ups on the endpoint that does not know done orders", "answer-lost",
        second="the lists' last word")  # fmt: skip
_listless("classic_lookup")


@_patched("classic_lookup", GATEWAY, "order_find")
@wrapped
def _classic(original: Callable[..., Any], gateway: Any, symbol: str, client_order_id: str) -> Any:
    options = gateway._venue.options
    options["hf"] = False
    try:
        return original(gateway, symbol, client_order_id)
    finally:
        options["hf"] = True


_mutant("network_error_is_a_miss", "a look-up that fails counts as one that finds nothing", "look-ups-fail",
        second="the lists' last word")  # fmt: skip
_listless("network_error_is_a_miss")


@_patched("network_error_is_a_miss", GATEWAY, "order_find")
@wrapped
def _blind(original: Callable[..., Any], gateway: Any, symbol: str, client_order_id: str) -> Any:
    from exchanges.gateway import ExchangeUnavailable  # noqa: PLC0415

    try:
        return original(gateway, symbol, client_order_id)
    except ExchangeUnavailable:
        return None


_mutant("no_answer_is_an_answer", "a page that is not the venue's is read as 'there is nothing'", "pages-instead")


@_patched("no_answer_is_an_answer", GATEWAY, "_fetch_answer")
@wrapped
def _gullible(original: Callable[..., Any], gateway: Any, *args: Any, **kwargs: Any) -> Any:
    gateway._is_sent = True
    answer = gateway._fetch(*args, **kwargs)
    return answer if isinstance(answer, dict) else {"code": "200000", "data": {}}


_mutant("deadline_not_sent", "the venue is not told until when it may accept", "arrives-late")


@_patched("deadline_not_sent", "exchanges.venues", "VENUES")
def _undated(venues: dict[str, Any]) -> dict[str, Any]:
    def params(venue: Any, ticket: Any) -> dict[str, Any]:
        kept: dict[str, Any] = venue.order_params(ticket)
        return {name: value for name, value in kept.items() if name != "allowMaxTimeWindow"}

    return {name: replace(venue, order_params=functools.partial(params, venue)) for name, venue in venues.items()}


_mutant("unread_is_unknown", "a refusal before reading is not sent again", "not-looked-at")


@_patched("unread_is_unknown", "exchanges.venues", "VENUES")
def _unread(venues: dict[str, Any]) -> dict[str, Any]:
    return {name: replace(venue, not_looked_at=frozenset()) for name, venue in venues.items()}


# -- orders -------------------------------------------------------------------------------------------------------

_mutant("not_found_is_absent", "the first look-up that finds nothing decides", "reads-lag")
_patched("not_found_is_absent", "orders.lookups", "NOT_PLACED_MISSES")(set_to(0))

_mutant("misses_before_deadline", "look-ups before the deadline count as misses", "reads-lag")


@_patched("misses_before_deadline", "orders.lookups", "_not_found")
@wrapped
def _early(original: Callable[..., str], gateway: Any, order: Any, **said: bool) -> str:
    order.deadline_at = order.sent_at - timedelta(days=1)
    return original(gateway, order, **said)


_mutant("misses_not_spaced", "every look-up counts, however soon after the last", "reads-lag-many-bells")


@_patched("misses_not_spaced", "orders.lookups", "_not_found")
@wrapped
def _unspaced(original: Callable[..., str], gateway: Any, order: Any, **said: bool) -> str:
    order.not_before_at = None
    return original(gateway, order, **said)


_mutant("claim_not_guarded", "an order is claimed whatever its status", "bells-doubled")
_patched("claim_not_guarded", "pipeline.claims:GuardedQuerySet", "move")(_unguarded("SUBMITTING"))

_mutant("outcome_not_guarded", "an outcome is written over whatever is known by then", "outcome-comes-late")
_patched("outcome_not_guarded", "pipeline.claims:GuardedQuerySet", "move")(_unguarded("UNKNOWN", "OPENED"))

_mutant("given_up_for_good", "an order found after it was given up is not taken back", "found-after-given-up")
_patched("given_up_for_good", "orders.ledger", "_take_back")(set_to(lambda order, changes: 0))

_mutant("fills_counted_again", "a fill that is reported again is recorded again", "partial-fills", drops=(FILL_ONCE,))

_mutant(
    "sums_add_up", "an order's sums are counted up look by look instead of summed up from its fills", "partial-fills"
)


@_patched("sums_add_up", "orders.ledger", "_add_fills")
@wrapped
def _added(original: Callable[..., int], order: Any, fills: Any) -> int:
    # What is summed up is what was read, and not what is there.
    known = order.filled, order.filled_quote
    new = original(order, fills)
    if new:
        order.filled = known[0] + sum(fill.quantity for fill in fills)
        order.filled_quote = known[1] + sum(fill.quantity * fill.price for fill in fills)
        order.save(update_fields=["filled", "filled_quote"])
    return new


_mutant("cancel_is_believed", "an order is called cancelled when its cancellation is asked for", "cancel-and-fill")


@_patched("cancel_is_believed", "positions.services", "orders_cancel")
@wrapped
def _believed(original: Callable[..., None], orders: Any, **kwargs: Any) -> None:
    original(orders, **kwargs)
    for order in orders:
        type(order).objects.filter(pk=order.pk).move("CANCELED", among=("OPENED",))


_mutant("quantities_not_asked", "a venue's word 'canceled' counts more than what it filled", "cancel-and-fill")


@_patched("quantities_not_asked", "orders.lookups", "order_record")
@wrapped
def _worded(original: Callable[..., str], order: Any, report: Any, fills: Any) -> str:
    return original(order, replace(report, filled=type(report.filled)(0)), [])


_mutant("old_entries_are_sent", "an entry is sent however long it has waited", "too-old-to-send")
_patched("old_entries_are_sent", "orders.services", "ENTRY_IS_OLD_AFTER")(set_to(timedelta(days=1)))

_mutant("exits_grow_old", "an exit that has waited long is let go of, like an entry", "too-old-to-send")


@_patched("exits_grow_old", "orders.services", "order_submit")
@wrapped
def _forgetful(original: Callable[..., Any], order_id: int) -> Any:
    from orders.models import Order  # noqa: PLC0415
    from orders.services import ENTRY_IS_OLD_AFTER  # noqa: PLC0415

    old = datetime.now().astimezone() - ENTRY_IS_OLD_AFTER
    rows = Order.objects.filter(pk=order_id, valued_at__lt=old)
    return "CANCELED" if rows.move("CANCELED", among=("READY",)) else original(order_id)


_mutant("refused_keys_go_on", "an account whose key is refused is not paused", "account-paused")
for _place in ("orders.services", "orders.lookups", "exchanges.accounts", "positions.reconciliation"):
    _patched("refused_keys_go_on", _place, "account_pause")(set_to(lambda account_id, reason, keys=None: False))

_mutant("looks_not_leased", "an order is looked at by whoever comes, as often as they come", "one-look-at-a-time")
_patched("looks_not_leased", "orders.lookups", "_lease")(set_to(lambda order_id: True))

_mutant("absence_is_proof", "what the venue's lists do not show is not there", "lists-show-nothing")


@_patched("absence_is_proof", "orders.lookups", "_look_by_lists")
@wrapped
def _concluding(original: Callable[..., list[int]], order_ids: Any) -> list[int]:
    from orders.models import Order  # noqa: PLC0415

    unseen = original(order_ids)
    Order.objects.filter(pk__in=unseen, status="UNKNOWN").move("NOT_PLACED")
    return unseen


_mutant("cursor_moves_first", "readings go on from where one began that was never written down",
        "killed-before-the-cursor")  # fmt: skip


@_patched("cursor_moves_first", "orders.lookups", "market_read")
@wrapped
def _ahead(original: Callable[..., Any], gateway: Any, account: Any, market: Any) -> Any:
    return _ahead_of(original, gateway, account, market)


def _ahead_of(original: Callable[..., Any], gateway: Any, account: Any, market: Any) -> Any:
    from orders.models import FillCursor  # noqa: PLC0415

    reading = original(gateway, account, market)
    FillCursor.objects.filter(account=account, market=market).update(read_until=reading.read_at)
    return reading


_patched("cursor_moves_first", "positions.reconciliation", "market_read")(wrapped(_ahead_of))

_mutant("fills_not_listed", "the fills of an order that no list shows any more are not asked for", "long-outage")
_patched("fills_not_listed", GATEWAY, "fills_since")(set_to(lambda self, symbol, since: []))

_mutant("closed_venue_is_asked", "orders are sent to a venue that says it takes none", "venue-closed")


@_patched("closed_venue_is_asked", "orders.services", "Account")
def _everywhere(account: Any) -> Any:
    class Everywhere:
        Status = account.Status

        class objects:  # noqa: N801  # stands for a model's
            @staticmethod
            def filter(*wanted: Any, **values: Any) -> Any:
                values.pop("exchange__status", None)
                return account.objects.filter(*wanted, **values)

    return Everywhere


_mutant("one_limit_for_all", "the accounts of a venue draw from one pool, and one's refusal blocks all",
        "limit-of-one-account")  # fmt: skip


@_patched("one_limit_for_all", "exchanges.guarded_gateway:GuardedGateway", "__init__")
@wrapped
def _pooled(original: Callable[..., None], guarded: Any, gateway: Any, ccxt_id: str, exchange_id: Any, *_: Any) -> None:
    original(guarded, gateway, ccxt_id, exchange_id)


_mutant("circuit_never_opens", "a venue that has stopped answering is asked by everybody", "venue-silent")
_patched("circuit_never_opens", "exchanges.breaker:Breaker", "record")(
    set_to(lambda self, entrance, *, is_failure: None)
)

_mutant("clock_not_learned", "a refusal for our clock teaches nothing", "clock-skew")
_patched("clock_not_learned", GATEWAY, "_learn_clock")(set_to(lambda self: ""))

# -- positions, sessions, money -----------------------------------------------------------------------------------


def _viewing(**changes: Any) -> Change:
    """``decide`` that is shown something else than what is so."""
    return wrapped(lambda original, view: original(replace(view, **changes)))


_mutant(
    "exits_twice", "an exit on its way does not keep another from being asked for", "exit-in-flight",
    drops=(ORDER_LIVE,), second="order_one_live_per_intent",
)  # fmt: skip
_patched("exits_twice", "positions.services", "decide")(_viewing(has_live_exit=False))

_mutant("stop_does_not_wait", "a session is stopped while an order of its is on its way", "stop-in-flight")


@_patched("stop_does_not_wait", "positions.services", "decide")
@wrapped
def _hasty(original: Callable[..., Any], view: Any) -> Any:
    return original(replace(view, side=None) if view.is_stopping and view.quantity <= 0 else view)


_mutant("position_adds_up", "a position is counted up look by look instead of folded from its fills", "partial-fills")


@_patched("position_adds_up", "positions.models:Position", "take")
@wrapped
def _adding(original: Callable[..., None], position: Any, state: Any) -> None:
    had = position.quantity
    original(position, state)
    position.quantity += had


_mutant(
    "trackers_side_by_side", "two trackers look at one session in the same moment", "two-trackers",
    drops=(POSITION_LIVE, POSITION_PER_SIGNAL), second="position_one_live_per_session and position_once_per_signal",
)  # fmt: skip
_patched("trackers_side_by_side", "pipeline.claims:GuardedQuerySet", "locked")(
    lambda original: lambda rows: _unlocked_rows(original, rows, "TradingSession")
)


def _unlocked_rows(original: Callable[..., Any], rows: Any, model: str) -> Any:
    return original(rows) if rows.model.__name__ != model else rows.order_by("pk")


@_patched("trackers_side_by_side", "positions.services", "_write")
@wrapped
def _late(original: Callable[..., None], wishes: Any) -> None:
    time.sleep(0.1)
    original(wishes)


_mutant(
    "signals_seen_again", "a signal is acted on again once its position is closed", "old-signal",
    drops=(POSITION_PER_SIGNAL,), second="position_once_per_signal",
)  # fmt: skip


@_patched("signals_seen_again", "positions.services", "_signal_to_act_on")
@wrapped
def _forgetting(original: Callable[..., Any], one: Any, now: Any) -> Any:
    one.session.last_signal_id = None
    return original(one, now)


_mutant("signals_of_the_last_run", "a run acts on signals of the run before", "stop-start-stop")


@_patched("signals_of_the_last_run", "positions.services", "_signal_to_act_on")
@wrapped
def _nostalgic(original: Callable[..., Any], one: Any, now: Any) -> Any:
    one.session.signals_after -= timedelta(days=1)
    return original(one, now)


_mutant("account_not_locked", "two orders of an account are valued side by side", "one-limit")
_patched("account_not_locked", "django.db.models.query:QuerySet", "select_for_update")(_unlocked("Account"))


@_patched("account_not_locked", "money.services", "account_book")
@wrapped
def _slowly(original: Callable[..., Any], account: Any) -> Any:
    book = original(account)
    time.sleep(0.1)
    return book


_mutant("ticks_not_claimed", "every scheduler ticks what is due", "two-schedulers")


@_patched("ticks_not_claimed", "sessions.services", "ticks_claim")
def _unclaimed(_: Any) -> Callable[[datetime], int]:
    def claim(now: datetime) -> int:
        from pipeline.topics import Note, Topic, publish_all  # noqa: PLC0415
        from sessions.models import SessionTick  # noqa: PLC0415

        due = list(SessionTick.objects.filter(due_at__lte=now))
        time.sleep(0.05)
        with transaction.atomic():
            for tick in due:
                SessionTick.objects.filter(pk=tick.pk).update(due_at=now + tick.every)
            publish_all(Topic.SESSION_REQUEST, [Note(key=tick.pk, ids={"session_id": tick.pk}) for tick in due])
        return len(due)

    return claim


_mutant("starts_not_guarded", "a session is started whatever its status", "double-start", drops=(RUN_ONCE,),
        second="session_runs_once_per_account_and_config")  # fmt: skip
_patched("starts_not_guarded", "pipeline.claims:GuardedQuerySet", "move")(_unguarded("ACTIVE"))

_mutant("suspended_enters", "a suspended session goes on entering", "suspended-keeps-exits")
_patched("suspended_enters", "positions.services", "decide")(_viewing(takes_entries=True))


@_patched("suspended_enters", "money.services", "_refusal")
@wrapped
def _lenient(original: Callable[..., Any], order: Any, session: Any, *rest: Any) -> Any:
    if session is not None:
        session.status = "ACTIVE"
    return original(order, session, *rest)


_mutant("old_prices_count", "an order is valued at a price of long ago", "prices-stop")
_patched("old_prices_count", "money.services", "PRICE_IS_OLD_AFTER")(set_to(timedelta(days=1)))

# -- market data, strategies --------------------------------------------------------------------------------------

_mutant("open_candles_count", "a candle that is still open is stored", "open-candle")


@_patched("open_candles_count", "marketdata.looks", "inspect")
@wrapped
def _inspected_early(original: Callable[..., Any], *what: Any, now_ms: int, **how: Any) -> Any:
    return original(*what, now_ms=now_ms + 86_400_000, **how)


_mutant("collectors_side_by_side", "a feed that is leased is asked for by others too", "many-collectors")


@_patched("collectors_side_by_side", "marketdata.collection", "feeds_collect")
@wrapped
def _unleased(original: Callable[..., int], feed_ids: Sequence[int]) -> int:
    from marketdata.models import Feed  # noqa: PLC0415

    Feed.objects.filter(pk__in=feed_ids, leased_until__isnull=False).update(leased_until=None)
    return original(feed_ids)


_mutant("stale_candles_speak", "a strategy is asked about a candle of long ago", "old-candle")


@_patched("stale_candles_speak", "strategies.services", "_answer")
@wrapped
def _stale(original: Callable[..., Any], strategy: Any, candles: Any, is_stale: bool) -> Any:
    return original(strategy, candles, False)


# -- sweeps: no bell is ever rung again ---------------------------------------------------------------------------

for _app, _task in (
    ("orders", "orders.submit"),
    ("orders", "orders.look"),
    ("orders", "exits.submit"),
    ("orders", "exits.look"),
    ("orders", "orders.balances"),
    ("money", "money.value"),
    ("positions", "positions.track"),
    ("positions", "exits.track"),
    ("positions", "positions.recover"),
    ("positions", "positions.reconcile"),
    ("sessions", "sessions.halt"),
    ("sessions", "sessions.tell"),
    ("strategies", "strategies.evaluate"),
    ("marketdata", "marketdata.collect"),
):
    _name = f"no_sweep_of_{_task.replace('.', '_')}"
    _mutant(_name, f"a bell of {_task} that was lost is not rung again", f"bell-lost-{_task.replace('.', '-')}")
    _patched(_name, f"{_app}.tasks", "WAITING")(_deaf(_task))

# Of these each rule has a name, for they are swept at different paces.
for _rule, _task in (("SYNC", "sync"), ("KEYS", "check-keys"), ("STATUS", "read-status")):
    _name = f"no_sweep_of_exchanges_{_task.replace('-', '_')}"
    _mutant(_name, f"a bell of {_task} that was lost is not rung again", f"bell-lost-exchanges-{_task}")
    _patched(_name, "exchanges.tasks", _rule)(lambda rule: replace(rule, query=lambda now: []))

# A comparison of the account would look at them, too.
for _name in ("no_sweep_of_orders_look", "no_sweep_of_exits_look"):
    _patched(_name, "positions.reconciliation", "_look_at_what_no_list_shows")(set_to(lambda account, shown: None))

# -- constraints: facts of the database, whoever writes ------------------------------------------------------------

for _drop, _what in (
    (ORDER_LIVE, "live_attempts"),
    (FILL_ONCE, "fills"),
    (POSITION_LIVE, "live_positions"),
    (INTENT_ONCE, "intents"),
    (RUN_ONCE, "runs"),
    (SIGNAL_ONCE, "signals"),
    (CANDLE_ONCE, "candles"),
):
    _mutant(
        f"no_constraint_on_{_what}",
        f"the database takes {_what.replace('_', ' ')} twice",
        "second-writer",
        drops=(_drop,),
    )

__all__ = ["MUTANTS", "Mutant", "NoSuchName", "applied", "apply", "drop", "restore"]
