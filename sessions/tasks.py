"""SessionManager's and SchedulerService's doors."""

from __future__ import annotations

import logging

from celery import shared_task
from django.utils import timezone

from marketdata.services import feeds_untold
from pipeline.sweeps import Waiting, sweep
from sessions import services

logger = logging.getLogger(__name__)

WAITING = (
    Waiting("account paused", services.sessions_of_paused_accounts, "sessions.halt", "session_ids"),
    Waiting("feed whose standstill or return nobody was told of", feeds_untold, "sessions.tell", "feed_ids"),
)


@shared_task(name="sessions.halt")
def halt(session_ids: list[int]) -> None:
    for session_id in session_ids:
        services.session_halt_if_paused(session_id)


@shared_task(name="sessions.tell")
def tell(feed_ids: list[int]) -> None:
    for feed_id in feed_ids:
        try:
            services.feed_tell(feed_id)
        except Exception:  # the sweep rings again; its neighbours need not wait
            logger.exception("nobody was told of feed %s", feed_id)


@shared_task(name="sessions.tick")
def tick() -> None:
    services.ticks_claim(timezone.now())


@shared_task(name="sessions.sweep")
def sweep_sessions() -> None:
    sweep(*WAITING)
    services.needs_align()
