"""StrategyExecutor's doors."""

from __future__ import annotations

import logging

from celery import shared_task

from pipeline.sweeps import Waiting, sweep
from strategies import services
from strategies.informatives import feeds_informed

logger = logging.getLogger(__name__)

WAITING = (
    Waiting("candle without an answer", services.feeds_unevaluated, "strategies.evaluate", "feed_ids", batch=20),
)


@shared_task(name="strategies.evaluate")
def evaluate(feed_ids: list[int]) -> None:
    # A candle may be what others waited for.
    for feed_id in dict.fromkeys([*feed_ids, *feeds_informed(feed_ids)]):
        try:
            services.feed_evaluate(feed_id)
        except Exception:  # the sweep rings again; its neighbours need not wait
            logger.exception("feed %s was not evaluated", feed_id)


@shared_task(name="strategies.sweep")
def sweep_candles() -> None:
    sweep(*WAITING)
