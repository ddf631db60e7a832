"""The journal's door."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from pipeline import services


@shared_task(name="pipeline.housekeep")
def housekeep() -> None:
    services.journal_partitions_ensure(timezone.now())
