"""PositionTracker's doors."""

from __future__ import annotations

from celery import shared_task

from pipeline.sweeps import Waiting, sweep
from positions import services, watch

WAITING = (Waiting("session that needs a look", services.sessions_unsettled, "positions.track", "session_ids"),)


@shared_task(name="positions.fan_out")
def fan_out(signal_ids: list[int]) -> None:
    services.signals_fan_out(signal_ids)


@shared_task(name="positions.track")
def track(session_ids: list[int]) -> None:
    services.sessions_track(session_ids)


@shared_task(name="positions.follow_orders")
def follow_orders(order_ids: list[int]) -> None:
    services.orders_follow(order_ids)


@shared_task(name="positions.tick")
def tick(session_ids: list[int]) -> None:
    watch.sessions_tick(session_ids)


@shared_task(name="positions.watch")
def watch_prices() -> None:
    watch.prices_watch()


@shared_task(name="positions.sweep")
def sweep_sessions() -> None:
    sweep(*WAITING)
