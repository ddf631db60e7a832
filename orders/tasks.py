"""OrderManager's doors, and those of exit orders on their own queue."""

from __future__ import annotations

import logging
from functools import partial

from celery import shared_task
from django.utils import timezone

from exchanges.accounts import balances_refresh
from exchanges.gateway import ExchangeUnavailable
from orders import fundings, lookups, services
from pipeline.sweeps import Waiting, sweep, swept_apart

logger = logging.getLogger(__name__)

entries_ready = partial(services.orders_ready, is_exit=False)
exits_ready = partial(services.orders_ready, is_exit=True)
entries_to_look_at = partial(services.orders_to_look_at, is_exit=False)
exits_to_look_at = partial(services.orders_to_look_at, is_exit=True)

WAITING = (
    Waiting("entry valued, not submitted", entries_ready, "orders.submit", "order_ids", batch=1),
    Waiting("exit not submitted", exits_ready, "exits.submit", "order_ids", batch=1),
    Waiting("entry at the venue, or perhaps", entries_to_look_at, "orders.look", "order_ids", batch=5),
    Waiting("exit at the venue, or perhaps", exits_to_look_at, "exits.look", "order_ids", batch=5),
    Waiting(
        "balances read before the last fill", services.accounts_with_old_balances, "orders.balances", "account_ids"
    ),
    Waiting("funding not read lately", fundings.accounts_due, "orders.fundings", "account_ids", batch=1),
)


@shared_task(name="orders.submit")
def submit(order_ids: list[int]) -> None:
    for order_id in order_ids:
        services.order_submit(order_id)


@shared_task(name="exits.submit")
def submit_exits(order_ids: list[int]) -> None:
    submit(order_ids)


@shared_task(name="orders.look")
def look(order_ids: list[int]) -> None:
    lookups.orders_look(order_ids)


@shared_task(name="exits.look")
def look_at_exits(order_ids: list[int]) -> None:
    lookups.orders_look(order_ids)


@shared_task(name="orders.balances")
def balances(account_ids: list[int]) -> None:
    for account_id in account_ids:
        try:
            balances_refresh(account_id)
        except ExchangeUnavailable as error:
            logger.warning("balances of account %s were not read: %s", account_id, error)
        except Exception:  # the sweep rings again; its neighbours need not wait
            logger.exception("balances of account %s could not be read", account_id)


@shared_task(name="orders.fundings")
def read_fundings(account_ids: list[int]) -> None:
    for account_id in account_ids:
        fundings.fundings_read(account_id)


@shared_task(name="orders.sweep")
def sweep_orders() -> None:
    sweep(*swept_apart("orders", WAITING))
    services.unknown_orders_alert(timezone.now())
    services.unsent_exits_alert(timezone.now())


@shared_task(name="exits.sweep-orders")
def sweep_exits() -> None:
    sweep(*swept_apart("exits", WAITING))
