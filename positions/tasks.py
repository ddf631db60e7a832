"""PositionTracker's doors, and those of positions that are to be protected or left on a queue of their own."""

from __future__ import annotations

import logging
from functools import partial

from celery import shared_task
from django.utils import timezone

from exchanges.gateway import ExchangeUnavailable
from pipeline.sweeps import Waiting, sweep, swept_apart
from positions import contracts, funding, late, protection, reconciliation, resting, services, watch
from sessions.services import sessions_awaiting_recovery

logger = logging.getLogger(__name__)

flat_unsettled = partial(services.sessions_unsettled, has_exposure=False)
exposed_unsettled = partial(services.sessions_unsettled, has_exposure=True)

WAITING = (
    Waiting("session that needs a look", flat_unsettled, "positions.track", "session_ids"),
    Waiting("session with a position that needs a look", exposed_unsettled, "exits.track", "session_ids"),
    Waiting("exit due, or stop to move", watch.sessions_due, "exits.track", "session_ids"),
    Waiting(
        "position without a stop in force, or with one again",
        protection.positions_to_tell_of,
        "positions.tell_protection",
        "position_ids",
    ),
    Waiting("funding after the end", funding.positions_funded_late, "positions.fund", "position_ids"),
    Waiting("resting exit of a position that is over", resting.orders_left_behind, "exits.cancel_resting", "order_ids"),
    Waiting("recovery asked for", sessions_awaiting_recovery, "positions.recover", "session_ids", batch=1),
    Waiting(
        "account not compared lately",
        reconciliation.accounts_to_reconcile,
        "positions.reconcile",
        "account_ids",
        batch=1,
    ),
    Waiting("contracts not asked about lately", contracts.accounts_due, "positions.contracts", "account_ids", batch=1),
)


@shared_task(name="positions.fan_out")
def fan_out(signal_ids: list[int]) -> None:
    services.signals_fan_out(signal_ids)


@shared_task(name="positions.track")
def track(session_ids: list[int]) -> None:
    services.sessions_track(session_ids)


@shared_task(name="exits.track")
def track_exits(session_ids: list[int]) -> None:
    services.sessions_track(session_ids)


@shared_task(name="positions.follow_orders")
def follow_orders(order_ids: list[int]) -> None:
    late.positions_take_up(order_ids)
    services.orders_follow(order_ids)


@shared_task(name="exits.follow_orders")
def follow_fills(order_ids: list[int]) -> None:
    follow_orders(order_ids)


@shared_task(name="positions.fund")
def fund(position_ids: list[int]) -> None:
    late.positions_fund(position_ids)


@shared_task(name="positions.tell_protection")
def tell_protection(position_ids: list[int]) -> None:
    for position_id in position_ids:
        protection.position_protection_tell(position_id)


@shared_task(name="exits.cancel_resting")
def cancel_resting(order_ids: list[int]) -> None:
    resting.orders_let_go(order_ids, timezone.now())


@shared_task(name="positions.reconcile")
def reconcile(account_ids: list[int]) -> None:
    for account_id in account_ids:
        reconciliation.account_reconcile_if_due(account_id)


@shared_task(name="positions.contracts")
def read_contracts(account_ids: list[int]) -> None:
    for account_id in account_ids:
        try:
            if contracts.contracts_read(account_id):
                reconciliation.account_reconcile_soon(account_id)
        except ExchangeUnavailable as error:
            logger.warning("contracts of account %s were not read: %s", account_id, error)


@shared_task(name="positions.count_fundings")
def count_fundings(funding_ids: list[int]) -> None:
    contracts.fundings_count(funding_ids)


@shared_task(name="positions.recover")
def recover(session_ids: list[int]) -> None:
    for session_id in session_ids:
        try:
            reconciliation.session_recovery_carry_out(session_id)
        except Exception:  # the sweep rings again; its neighbours need not wait
            logger.exception("session %s was not recovered", session_id)


@shared_task(name="positions.tick")
def tick(session_ids: list[int]) -> None:
    watch.sessions_tick(session_ids)


@shared_task(name="exits.watch")
def watch_prices() -> None:
    watch.prices_watch()


@shared_task(name="positions.sweep")
def sweep_sessions() -> None:
    sweep(*swept_apart("positions", WAITING))


@shared_task(name="exits.sweep-positions")
def sweep_exposed_sessions() -> None:
    sweep(*swept_apart("exits", WAITING))
