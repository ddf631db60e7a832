"""Keeping fresh what is known of venues and keys; noticing streams that went away."""

from __future__ import annotations

import logging

from celery import shared_task
from django.utils import timezone

from exchanges import accounts, services, vitals
from exchanges.gateway import ExchangeUnavailable
from pipeline.sweeps import Waiting, sweep

logger = logging.getLogger(__name__)

SYNC = Waiting("exchange read long ago", services.exchanges_due, "exchanges.sync", "exchange_ids", batch=1)
KEYS = Waiting(
    "keys not checked for a day", accounts.accounts_with_unchecked_keys, "exchanges.check_keys", "account_ids", batch=20
)
STATUS = Waiting(
    "status read long ago", services.exchanges_to_read_status_of, "exchanges.read_status", "exchange_ids", batch=1
)
WAITING = (SYNC, KEYS, STATUS)


@shared_task(name="exchanges.sync")
def sync(exchange_ids: list[int]) -> None:
    for exchange_id in exchange_ids:
        try:
            services.exchange_sync(exchange_id)
        except ExchangeUnavailable as error:
            logger.warning("exchange %s was not read: %s", exchange_id, error)


@shared_task(name="exchanges.read_status")
def read_status(exchange_ids: list[int]) -> None:
    for exchange_id in exchange_ids:
        try:
            services.exchange_status_read(exchange_id)
        except ExchangeUnavailable as error:
            logger.warning("the status of exchange %s was not read: %s", exchange_id, error)


@shared_task(name="exchanges.check_keys")
def check_keys(account_ids: list[int]) -> None:
    for account_id in account_ids:
        try:
            accounts.keys_check(account_id)
        except ExchangeUnavailable as error:
            logger.warning("the keys of account %s were not checked: %s", account_id, error)


@shared_task(name="exchanges.sweep")
def sweep_exchanges() -> None:
    sweep(SYNC, KEYS)
    vitals.streams_lost_alert(timezone.now())


@shared_task(name="exchanges.watch")
def watch_exchanges() -> None:
    sweep(STATUS)
