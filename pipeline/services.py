"""Keeping the journal in shape: a partition for every month before the month begins."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from django.db import OperationalError, connection, transaction
from django.db.backends.utils import CursorWrapper

logger = logging.getLogger(__name__)

MONTHS_AHEAD = 2
# Making a partition locks the whole journal, and while it waits for that lock every hop waits behind it: give way soon.
LOCK_PATIENCE = "2s"


def journal_partitions_ensure(now: datetime) -> list[str]:
    """Create the journal's partitions for the month of ``now`` and the two after it; the names of those it made.

    Rows that reached the rest partition first (a platform asleep over New Year) keep their month there: the
    partition is then left out, and the rest partition goes on serving it. Somebody who reads the journal for long (a
    dump) is given way to, and the partitions are left to the next run.
    """
    made: list[str] = []
    month = datetime(now.year, now.month, 1, tzinfo=UTC)
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_PATIENCE}'")
            # Conflicts with itself and with no insert: of two housekeepers the second sees what the first has made.
            cursor.execute("LOCK TABLE ONLY pipeline_event IN SHARE UPDATE EXCLUSIVE MODE")
            for _ in range(MONTHS_AHEAD + 1):
                following = datetime(month.year + month.month // 12, month.month % 12 + 1, 1, tzinfo=UTC)
                name = f"pipeline_event_{month:%Y_%m}"
                if _is_to_be_made(cursor, name, month, following):
                    cursor.execute(
                        f"CREATE TABLE {name} PARTITION OF pipeline_event "  # the name is made of digits above
                        f"FOR VALUES FROM ('{month.isoformat()}') TO ('{following.isoformat()}')"
                    )
                    made.append(name)
                month = following
    except OperationalError as error:
        logger.warning("no partitions were made, the next run will (%s)", str(error).strip())
        return []
    return made


def _is_to_be_made(cursor: CursorWrapper, name: str, month: datetime, following: datetime) -> bool:
    cursor.execute(
        """
        SELECT to_regclass(%s) IS NULL AND NOT EXISTS (SELECT FROM pipeline_event_rest WHERE at >= %s AND at < %s)
        """,
        [name, month, following],
    )
    [(is_missing,)] = cursor.fetchall()
    return bool(is_missing)
