"""StrategyExecutor's doors."""

from __future__ import annotations

from celery import shared_task

from pipeline.sweeps import Waiting, sweep
from strategies import services

WAITING = (
    Waiting("candle without an answer", services.feeds_unevaluated, "strategies.evaluate", "feed_ids", batch=20),
)


@shared_task(name="strategies.evaluate")
def evaluate(feed_ids: list[int]) -> None:
    for feed_id in feed_ids:
        services.feed_evaluate(feed_id)


@shared_task(name="strategies.sweep")
def sweep_candles() -> None:
    sweep(*WAITING)
