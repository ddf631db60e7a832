"""Rows that failed a check, kept as they came and with the reason: nothing that a source gave is dropped in silence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from django.db.models import F

from domain.quality import Finding
from marketdata.models import QuarantinedCandle, SourceKind


def quarantine_note(
    feed_id: int, source: SourceKind, rows: Sequence[tuple[Finding, Mapping[str, Any]]], now: datetime
) -> None:
    """Keep rows with what was found of each; what came before is counted. Must run in a transaction."""
    for finding, row in rows:
        kept, is_new = QuarantinedCandle.objects.get_or_create(
            feed_id=feed_id,
            open_at=datetime.fromtimestamp(finding.open_ms / 1000, tz=UTC),
            flaw=finding.flaw,
            source=source,
            defaults={"detail": finding.detail[:200], "row": dict(row), "seen_at": now, "last_seen_at": now},
        )
        if not is_new:
            again = {"times": F("times") + 1, "last_seen_at": now, "detail": finding.detail[:200], "row": dict(row)}
            QuarantinedCandle.objects.filter(pk=kept.pk).update(**again)
