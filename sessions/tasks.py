"""SessionManager's and SchedulerService's doors."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from pipeline.sweeps import Waiting, sweep
from sessions import services

WAITING = (Waiting("account paused", services.sessions_of_paused_accounts, "sessions.halt", "session_ids"),)


@shared_task(name="sessions.halt")
def halt(session_ids: list[int]) -> None:
    for session_id in session_ids:
        services.session_halt_if_paused(session_id)


@shared_task(name="sessions.tick")
def tick() -> None:
    services.ticks_claim(timezone.now())


@shared_task(name="sessions.sweep")
def sweep_sessions() -> None:
    sweep(*WAITING)
    services.needs_align()
