"""DataCollect's doors."""

from __future__ import annotations

from celery import shared_task

from marketdata import services
from pipeline.sweeps import Waiting, sweep

WAITING = (Waiting("feed with a closed candle", services.feeds_due, "marketdata.collect", "feed_ids", batch=5),)


@shared_task(name="marketdata.collect")
def collect(feed_ids: list[int]) -> None:
    for feed_id in feed_ids:
        services.feed_collect(feed_id)


@shared_task(name="marketdata.sweep")
def sweep_feeds() -> None:
    sweep(*WAITING)
