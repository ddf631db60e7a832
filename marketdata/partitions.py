"""Candles and trades by month: the month before it begins, history when it comes, and what the policy ends goes in one piece.

Whatever no month covers is stored in the rest and moved out of it later, so that no row waits for a partition. A table that
is a TimescaleDB hypertable makes its chunks itself; only retiring is ours then. That branch is tested against a plain table
and a function of TimescaleDB's name and signature, not against the extension.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.conf import settings
from django.db import IntegrityError, OperationalError, connection, transaction
from django.db.backends.utils import CursorWrapper

from exchanges.models import Exchange
from marketdata.models import CandleGap

logger = logging.getLogger(__name__)

MONTHS_AHEAD = 2
# While a lock is waited for, whoever comes later waits behind it: give way soon.
LOCK_PATIENCE = "2s"
# A feed that is needed keeps its newest candles whatever their age: enough for the longest warm-up a strategy may declare.
KEPT_FOR_NEEDED = 1000


@dataclass(frozen=True, slots=True)
class Partitioned:
    """A table partitioned by month of ``column``."""

    table: str
    column: str

    def partition(self, month: datetime) -> str:
        return f"{self.table}_{month:%Y_%m}"


CANDLES = Partitioned("marketdata_candle", "open_at")
TRADES = Partitioned("marketdata_markettrade", "traded_at")


def partitions_ensure(what: Partitioned, moments: Iterable[datetime]) -> list[str]:
    """Make the partitions that rows of these ``moments`` belong into, and move those of them that wait in the rest there;
    the names of those it made. Call it before history is stored, outside of any transaction; what opens now has its
    partition already.

    A month is made in one transaction of its own: a reader sees its rows where they were or where they are. Somebody who
    reads for long (a dump) is given way to: the rows are then stored in the rest, and the next housekeeping moves them.
    """
    months = sorted({_month_of(moment) for moment in moments})
    with connection.cursor() as cursor:
        if not months or not _is_native(cursor, what):
            return []
        there = set(_partitions(cursor, what))
    made: list[str] = []
    for month in months:
        try:
            if what.partition(month) not in there and _make(what, month):
                made.append(what.partition(month))
        except (
            OperationalError,
            IntegrityError,
        ) as error:  # IntegrityError: rows of it have come into the rest just now
            logger.warning(
                "%s was not made, a later run will (%s)", what.partition(month), str(error).strip().splitlines()[0]
            )
            break
    return made


def partitions_retire(what: Partitioned, before: datetime) -> list[str]:
    """Drop the partitions whose last row can only be older than ``before``; the names of those it dropped."""
    with connection.cursor() as cursor:
        if not _is_native(cursor, what):
            cursor.execute("SELECT drop_chunks(%s, older_than => %s)", [what.table, before])
            dropped = [str(name) for (name,) in cursor.fetchall()]
        else:
            old = [name for name, month in sorted(_partitions(cursor, what).items()) if _following(month) <= before]
            dropped = [name for name in old if _drop(what, name)]
    for name in dropped:
        logger.info("retired %s: all of it is older than %s", name, before.isoformat())
    return dropped


def housekeep(now: datetime) -> None:
    """Make the partitions of this month and the two after it, move what waits in the rest, and retire what is old.

    A venue's clock may be ahead of ours or behind it: partitions are made by the later one and retired by the earlier.
    """
    clocks = [now, *(exchange.time_at(now) for exchange in Exchange.objects.filter(is_enabled=True))]
    for what in (CANDLES, TRADES):
        partitions_ensure(what, [*_ahead(now), *_ahead(max(clocks)), *_waiting(what)])
    kept = {CANDLES: settings.KEEP_CANDLES_DAYS, TRADES: settings.KEEP_TRADES_DAYS}
    for what, days in kept.items():
        if days is not None:
            before = min(clocks) - timedelta(days=days)
            before = min(before, _needed_since() or before) if what is CANDLES else before
            if partitions_retire(what, before) and what is CANDLES:
                # What is missing of months that are gone is missed by nobody.
                CandleGap.objects.filter(until_at__lte=_month_of(before)).delete()


def _needed_since() -> datetime | None:
    """The oldest candle among the newest KEPT_FOR_NEEDED of any feed that is needed: no policy takes it. A feed that is
    needed from later on starts with what is left, and asks its source for the rest."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT min(oldest.open_at) FROM marketdata_feed feed CROSS JOIN LATERAL (
                SELECT min(open_at) AS open_at FROM (
                    SELECT open_at FROM marketdata_candle WHERE feed_id = feed.id ORDER BY open_at DESC LIMIT %s
                ) AS newest
            ) AS oldest WHERE feed.is_needed
            """,
            [KEPT_FOR_NEEDED],
        )
        [(since,)] = cursor.fetchall()
    return since  # type: ignore[no-any-return]


def _make(what: Partitioned, month: datetime) -> bool:
    """Make one partition with the rows of its month that wait in the rest; whether it was made by this call."""
    name, rest, column = what.partition(month), f"{what.table}_rest", what.column
    span = [month, _following(month)]
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_PATIENCE}'")
        # Attaching conflicts with itself and with no insert: of two makers the second sees what the first has made, and
        # nobody who waits for this holds anything of the rest, whichever month it is for.
        cursor.execute(f"LOCK TABLE ONLY {what.table} IN SHARE UPDATE EXCLUSIVE MODE")
        if name in _partitions(cursor, what):
            return False
        if has_rows := _has_rows(cursor, rest, column, span):
            # To move rows, readers are kept out too: one that has chosen its partitions already would miss what has moved.
            cursor.execute(f"LOCK TABLE ONLY {what.table} IN ACCESS EXCLUSIVE MODE")
        cursor.execute(f"LOCK TABLE {rest} IN ACCESS EXCLUSIVE MODE")
        cursor.execute(
            f"CREATE TABLE {name} (LIKE {what.table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES)"
        )
        if has_rows:
            cursor.execute(
                f"WITH moved AS (DELETE FROM {rest} WHERE {column} >= %s AND {column} < %s RETURNING *) "  # noqa: S608
                f"INSERT INTO {name} SELECT * FROM moved",
                span,
            )
        cursor.execute(f"ALTER TABLE {what.table} ATTACH PARTITION {name} FOR VALUES FROM (%s) TO (%s)", span)
    return True


def _has_rows(cursor: CursorWrapper, table: str, column: str, span: Sequence[datetime]) -> bool:
    cursor.execute(f"SELECT EXISTS (SELECT FROM {table} WHERE {column} >= %s AND {column} < %s)", span)  # noqa: S608
    [(has_rows,)] = cursor.fetchall()
    return bool(has_rows)


def _drop(what: Partitioned, name: str) -> bool:
    """Detach and drop one partition; False if somebody reads for so long that it is left to the next run."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_PATIENCE}'")
            cursor.execute(f"LOCK TABLE ONLY {what.table} IN ACCESS EXCLUSIVE MODE")
            if name not in _partitions(cursor, what):
                return False
            cursor.execute(f"ALTER TABLE {what.table} DETACH PARTITION {name}")
            cursor.execute(f"DROP TABLE {name}")
    except OperationalError as error:
        logger.warning("%s was not retired, the next run will (%s)", name, str(error).strip().splitlines()[0])
        return False
    return True


def _is_native(cursor: CursorWrapper, what: Partitioned) -> bool:
    """Whether the table is partitioned by PostgreSQL itself; else it is a hypertable."""
    cursor.execute("SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass(%s)", [what.table])
    [(is_native,)] = cursor.fetchall()
    return bool(is_native)


def _partitions(cursor: CursorWrapper, what: Partitioned) -> dict[str, datetime]:
    """The partitions there are, without the rest, and their months."""
    cursor.execute(
        """
        SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent = to_regclass(%s) AND pg_get_expr(relpartbound, inhrelid) <> 'DEFAULT'
        """,
        [what.table],
    )
    names = [str(name) for (name,) in cursor.fetchall()]
    return {name: datetime.strptime(name, f"{what.table}_%Y_%m").replace(tzinfo=UTC) for name in names}


def _waiting(what: Partitioned) -> list[datetime]:
    """A moment in each month that has rows in the rest."""
    with connection.cursor() as cursor:
        if not _is_native(cursor, what):
            return []
        cursor.execute(f"SELECT DISTINCT date_trunc('month', {what.column}, 'UTC') FROM {what.table}_rest")  # noqa: S608
        return [month for (month,) in cursor.fetchall()]


def _ahead(now: datetime) -> list[datetime]:
    months = [_month_of(now)]
    for _ in range(MONTHS_AHEAD):
        months.append(_following(months[-1]))
    return months


def _month_of(moment: datetime) -> datetime:
    at = moment.astimezone(UTC)
    return datetime(at.year, at.month, 1, tzinfo=UTC)


def _following(month: datetime) -> datetime:
    return datetime(month.year + month.month // 12, month.month % 12 + 1, 1, tzinfo=UTC)
