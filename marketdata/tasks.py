"""DataCollect's doors."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from marketdata import collection, gaps, partitions
from pipeline.sweeps import Waiting, sweep

WAITING = (
    # Few messages for many feeds: a collector claims of them some at a time, and another what it has not claimed yet.
    Waiting("feed with a closed candle", collection.feeds_due, "marketdata.collect", "feed_ids", batch=1000),
    Waiting("feed not looked through for a day", gaps.feeds_unchecked, "marketdata.look_through", "feed_ids"),
)


@shared_task(name="marketdata.collect")
def collect(feed_ids: list[int]) -> None:
    collection.feeds_collect(feed_ids)


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
