"""DataCollect's doors."""

from __future__ import annotations

import logging

from celery import shared_task
from django.utils import timezone

from marketdata import backfills, collection, gaps, partitions, repairs, tapes
from pipeline.sweeps import Waiting, sweep

logger = logging.getLogger(__name__)

WAITING = (
    # Few messages for many feeds: a collector claims of them some at a time, and another what it has not claimed yet.
    Waiting("feed with a closed candle", collection.feeds_due, "marketdata.collect", "feed_ids", batch=1000),
    Waiting("feed not looked through for a day", gaps.feeds_unchecked, "marketdata.look_through", "feed_ids"),
    Waiting("backfill to go on", backfills.backfills_waiting, "marketdata.backfill", "backfill_ids", batch=1),
    Waiting("gap to be asked for again", repairs.gaps_due, "marketdata.repair", "gap_ids", batch=20),
    Waiting("tape to be read", tapes.tapes_due, "marketdata.collect_tapes", "tape_ids", batch=5),
)


@shared_task(name="marketdata.collect")
def collect(feed_ids: list[int]) -> None:
    collection.feeds_collect(feed_ids)


@shared_task(name="marketdata.look_through")
def look_through(feed_ids: list[int]) -> None:
    for feed_id in feed_ids:
        gaps.feed_look_through(feed_id)


@shared_task(name="marketdata.backfill")
def backfill(backfill_ids: list[int]) -> None:
    for backfill_id in backfill_ids:
        try:
            backfills.backfill_step(backfill_id)
        except Exception:  # its lease runs out and the sweep rings again
            logger.exception("the next page of backfill %s was not stored", backfill_id)


@shared_task(name="marketdata.repair")
def repair(gap_ids: list[int]) -> None:
    repairs.gaps_repair(gap_ids)


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


@shared_task(name="marketdata.housekeep")
def housekeep() -> None:
    partitions.housekeep(timezone.now())
