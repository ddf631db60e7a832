"""DataCollect's doors."""

from __future__ import annotations

import logging

from celery import shared_task

from marketdata import services, tapes
from pipeline.sweeps import Waiting, sweep

logger = logging.getLogger(__name__)

WAITING = (
    Waiting("feed with a closed candle", services.feeds_due, "marketdata.collect", "feed_ids", batch=5),
    Waiting("tape to be read", tapes.tapes_due, "marketdata.collect_tapes", "tape_ids", batch=5),
)


@shared_task(name="marketdata.collect")
def collect(feed_ids: list[int]) -> None:
    for feed_id in feed_ids:
        try:
            services.feed_collect(feed_id)
        except Exception:  # its lease runs out and the sweep rings again; its neighbours need not wait
            logger.exception("feed %s was not collected", feed_id)


@shared_task(name="marketdata.collect_tapes")
def collect_tapes(tape_ids: list[int]) -> None:
    for tape_id in tape_ids:
        try:
            tapes.tape_collect(tape_id)
        except Exception:  # as for feeds
            logger.exception("tape %s was not collected", tape_id)


@shared_task(name="marketdata.sweep")
def sweep_feeds() -> None:
    sweep(*WAITING)
