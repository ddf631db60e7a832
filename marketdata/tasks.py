"""DataCollect's doors."""

from __future__ import annotations

import logging

from celery import shared_task
from django.utils import timezone

from marketdata import gaps, partitions, services
from pipeline.sweeps import Waiting, sweep

logger = logging.getLogger(__name__)

WAITING = (
    Waiting("feed with a closed candle", services.feeds_due, "marketdata.collect", "feed_ids", batch=5),
    Waiting("feed not looked through for a day", gaps.feeds_unchecked, "marketdata.look_through", "feed_ids"),
)


@shared_task(name="marketdata.collect")
def collect(feed_ids: list[int]) -> None:
    for feed_id in feed_ids:
        try:
            services.feed_collect(feed_id)
        except Exception:  # its lease runs out and the sweep rings again; its neighbours need not wait
            logger.exception("feed %s was not collected", feed_id)


@shared_task(name="marketdata.look_through")
def look_through(feed_ids: list[int]) -> None:
    for feed_id in feed_ids:
        gaps.feed_look_through(feed_id)


@shared_task(name="marketdata.sweep")
def sweep_feeds() -> None:
    sweep(*WAITING)


@shared_task(name="marketdata.housekeep")
def housekeep() -> None:
    partitions.housekeep(timezone.now())
