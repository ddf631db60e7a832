"""DataCollect's doors."""

from __future__ import annotations

from celery import shared_task

from marketdata import collection
from pipeline.sweeps import Waiting, sweep

# Few messages for many feeds: a collector claims of them some at a time, and another what it has not claimed yet.
WAITING = (Waiting("feed with a closed candle", collection.feeds_due, "marketdata.collect", "feed_ids", batch=1000),)


@shared_task(name="marketdata.collect")
def collect(feed_ids: list[int]) -> None:
    collection.feeds_collect(feed_ids)


@shared_task(name="marketdata.sweep")
def sweep_feeds() -> None:
    sweep(*WAITING)
