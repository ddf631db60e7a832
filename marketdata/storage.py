"""Candles into their table and out of it as arrays: each once per feed and open time, whoever brings it and how often.

What is told otherwise than before replaces what was stored, and both values are kept; what was stored is never lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from django.db import connection, transaction

from exchanges.gateway import CandleReport
from marketdata.models import SourceKind


@dataclass(frozen=True, slots=True)
class Merged:
    """What became of rows, counted by feed: ``new`` were not there, ``revised`` were told otherwise than before."""

    new: dict[int, int] = field(default_factory=dict)
    revised: dict[int, int] = field(default_factory=dict)


def candles_merge(rows: Sequence[tuple[int, CandleReport, SourceKind]]) -> Merged:
    """Store closed candles of any feeds, as (feed, candle, where it came from): one statement, whatever their number. The
    rows of one call must not have a feed and open time twice. Must run in a transaction."""
    if not rows:
        return Merged()
    reports = [report for _, report, _ in rows]
    with connection.cursor() as cursor:
        cursor.execute(
            _MERGE,
            [
                [feed_id for feed_id, _, _ in rows],
                [int(source) for _, _, source in rows],
                *(
                    [getattr(report, name) for report in reports]
                    for name in ("open_at", "open", "high", "low", "close", "volume")
                ),
            ],
        )
        found = cursor.fetchall()
    return Merged({pk: new for pk, new, _ in found if new}, {pk: revised for pk, _, revised in found if revised})


# What was there before is seen as it was when the statement began, so what it inserts itself is not taken for a revision.
_MERGE = """
WITH given AS (
    SELECT * FROM unnest(
        %s::bigint[], %s::smallint[], %s::timestamptz[],
        %s::numeric(36,18)[], %s::numeric(36,18)[], %s::numeric(36,18)[], %s::numeric(36,18)[], %s::numeric(36,18)[]
    ) AS row (feed_id, source, open_at, open, high, low, close, volume)
), inserted AS (
    INSERT INTO marketdata_candle (feed_id, source, open_at, open, high, low, close, volume, collected_at)
    SELECT *, clock_timestamp() FROM given ON CONFLICT DO NOTHING RETURNING feed_id
), differing AS (
    SELECT given.*, was.source AS was_source, was.open AS was_open, was.high AS was_high, was.low AS was_low,
           was.close AS was_close, was.volume AS was_volume
    FROM given JOIN marketdata_candle was USING (feed_id, open_at)
    WHERE (given.open, given.high, given.low, given.close, given.volume)
        IS DISTINCT FROM (was.open, was.high, was.low, was.close, was.volume)
), kept AS (
    INSERT INTO marketdata_candlerevision (
        feed_id, open_at, was_open, was_high, was_low, was_close, was_volume, open, high, low, close, volume,
        was_source, source, seen_at
    )
    SELECT feed_id, open_at, was_open, was_high, was_low, was_close, was_volume, open, high, low, close, volume,
           was_source, source, clock_timestamp()
    FROM differing
), revised AS (
    UPDATE marketdata_candle c
    SET open = d.open, high = d.high, low = d.low, close = d.close, volume = d.volume, source = d.source
    FROM differing d WHERE c.feed_id = d.feed_id AND c.open_at = d.open_at
), counted AS (
    SELECT feed_id, count(*) FILTER (WHERE is_new) AS new, count(*) FILTER (WHERE NOT is_new) AS revised
    FROM (SELECT feed_id, true FROM inserted UNION ALL SELECT feed_id, false FROM differing) AS what (feed_id, is_new)
    GROUP BY feed_id
), noted AS (
    UPDATE marketdata_feed f SET changes = changes + counted.revised FROM counted
    WHERE f.id = counted.feed_id AND counted.revised > 0
)
SELECT feed_id, new, revised FROM counted
"""


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of the rows of an import."""

    seen: int
    new: int
    revised: int
    unchanged: int


def candles_import(feed_id: int, table: Any, source: SourceKind) -> Imported:
    """Store closed candles of one feed, each time once among them: a pyarrow table of ``open_ms`` and five columns of numbers
    as text. In chunks with a transaction each."""
    names = ("open_ms", "open", "high", "low", "close", "volume")
    seen = new = revised = 0
    for batch in table.to_batches(max_chunksize=10_000):
        rows = [
            (feed_id, CandleReport(datetime.fromtimestamp(open_ms / 1000, tz=UTC), *map(Decimal, numbers)), source)
            for open_ms, *numbers in zip(*(batch.column(name).to_pylist() for name in names), strict=True)
        ]
        with transaction.atomic():
            merged = candles_merge(rows)
        seen += len(rows)
        new += sum(merged.new.values())
        revised += sum(merged.revised.values())
    return Imported(seen, new, revised, seen - new - revised)
