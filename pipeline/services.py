"""Keeping the journal in shape: a partition for every month before the month begins."""

from __future__ import annotations

from datetime import UTC, datetime

from django.db import connection

MONTHS_AHEAD = 2


def journal_partitions_ensure(now: datetime) -> list[str]:
    """Create the journal's partitions for the month of ``now`` and the two after it; the names of those it made.

    Rows that reached the rest partition first (a platform asleep over New Year) keep their month there: the
    partition is then left out, and the rest partition goes on serving it.
    """
    made = []
    month = datetime(now.year, now.month, 1, tzinfo=UTC)
    with connection.cursor() as cursor:
        for _ in range(MONTHS_AHEAD + 1):
            following = datetime(month.year + month.month // 12, month.month % 12 + 1, 1, tzinfo=UTC)
            name = f"pipeline_event_{month:%Y_%m}"
            cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [name])
            [(exists,)] = cursor.fetchall()
            cursor.execute(
                "SELECT EXISTS (SELECT FROM pipeline_event_rest WHERE at >= %s AND at < %s)", [month, following]
            )
            [(is_taken,)] = cursor.fetchall()
            if not exists and not is_taken:
                cursor.execute(
                    f"CREATE TABLE {name} PARTITION OF pipeline_event "  # the name is made of digits above
                    f"FOR VALUES FROM ('{month.isoformat()}') TO ('{following.isoformat()}')"
                )
                made.append(name)
            month = following
    return made
