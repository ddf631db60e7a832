"""DataCollect's doors."""

from __future__ import annotations

import logging

from celery import shared_task
from django.utils import timezone

from marketdata import partitions, services
from pipeline.sweeps import Waiting, sweep

logger = logging.getLogger(__name__)

WAITING = (Waiting("feed with a closed candle", services.feeds_due, "marketdata.collect", "feed_ids", batch=5),)


@shared_task(name="marketdata.collect")
def collect(feed_ids: list[int]) -> None:
    for feed_id in feed_ids:
        try:
            services.feed_collect(feed_id)
        except Exception:  # its lease runs out and the sweep rings again; its neighbours need not wait
            logger.exception("feed %s was not collected", feed_id)


@shared_task(name="marketdata.sweep")
def sweep_feeds() -> None:
    sweep(*WAITING)


@shared_task(name="marketdata.housekeep")
def housekeep() -> None:
    partitions.housekeep(timezone.now())
