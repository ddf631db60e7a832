"""Keeping clocks and markets fresh; noticing streams that went away."""

from __future__ import annotations

import logging

from celery import shared_task
from django.utils import timezone

from exchanges import services, vitals
from exchanges.gateway import ExchangeUnavailable
from pipeline.sweeps import Waiting, sweep

logger = logging.getLogger(__name__)

WAITING = (Waiting("exchange read long ago", services.exchanges_due, "exchanges.sync", "exchange_ids", batch=1),)


@shared_task(name="exchanges.sync")
def sync(exchange_ids: list[int]) -> None:
    for exchange_id in exchange_ids:
        try:
            services.exchange_sync(exchange_id)
        except ExchangeUnavailable as error:
            logger.warning("exchange %s was not read: %s", exchange_id, error)


@shared_task(name="exchanges.sweep")
def sweep_exchanges() -> None:
    sweep(*WAITING)
    vitals.streams_lost_alert(timezone.now())
