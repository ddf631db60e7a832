"""History on demand: a span of a feed that is to be fetched, and how far that is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.contrib.auth.models import User
from django.core.exceptions import ValidationError

from marketdata.models import LIVE_BACKFILLS, Backfill, Feed


class UnableToBackfill(Exception):
    """Its status does not allow this."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a backfill is: ``percent`` of its span, rows in each second since it began, and the time that is ``left``; None
    while that cannot be told."""

    percent: float
    rows_seen: int
    rows_new: int
    rows_per_second: float | None
    left: timedelta | None


def backfill_request(feed: Feed, from_at: datetime, until_at: datetime, requested_by: User | None = None) -> Backfill:
    """Have the candles of ``feed`` fetched that open from ``from_at`` to before ``until_at``; the one that is at it already,
    where the same was asked for before. Raises ValidationError."""
    if until_at <= from_at:
        raise ValidationError(
            {"until_at": f"wanted a time after {from_at:%Y-%m-%d %H:%M}, was {until_at:%Y-%m-%d %H:%M}"}
        )
    live = Backfill.objects.filter(feed=feed, from_at=from_at, until_at=until_at, status__in=LIVE_BACKFILLS).first()
    return live or Backfill.objects.create(
        feed=feed, from_at=from_at, until_at=until_at, cursor_at=from_at, requested_by=requested_by
    )


def progress(backfill: Backfill, now: datetime) -> Progress:
    """How far ``backfill`` is at ``now``. Pure."""
    done, span = backfill.cursor_at - backfill.from_at, backfill.until_at - backfill.from_at
    spent = (backfill.ended_at or now) - backfill.started_at if backfill.started_at else timedelta(0)
    pace = backfill.rows_seen / spent.total_seconds() if spent > timedelta(0) else None
    left = spent * ((span - done) / done) if pace is not None and done and backfill.status in LIVE_BACKFILLS else None
    return Progress(int(1000 * done / span) / 10, backfill.rows_seen, backfill.rows_new, pace, left)
