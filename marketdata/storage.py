"""Candles into their table and out of it: each once per feed and open time, whoever brings it and how often.

What is told otherwise than before replaces what was stored, and both values are kept; what was stored is never lost. All who
store here lock the feeds first, in the order of their ids, so that of two who bring the same candle the second sees what the
first has stored. Rows go in by COPY and out as arrays, without an object for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg
from django.db import connection, transaction

from domain.candles import Candles, Extremes, FloatArray, IntArray, Timeframe
from exchanges.gateway import CandleReport
from marketdata.models import SourceKind
from marketdata.partitions import CANDLES, partitions_ensure
from pipeline.claims import settled

if TYPE_CHECKING:
    import pyarrow

# What one transaction of an import stores: so long a collector of the feed waits, so much is done again after a crash.
CHUNK = 50_000
# What one answer to a long read holds: the server makes all of it before it sends the first byte.
READ_CHUNK = 250_000
PRICES = ("open", "high", "low", "close", "volume")
# How many timeframes back the wanted candles may lie, in multiples of their number: nearly always; markets that are closed
# most of the day.
REACHES = (1.2, 8.0)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TO_2000_MS = 946_684_800_000
# An array of eight-byte values as the server sends it: a head of 20 bytes, then each value after its length.
_HEAD = 20
_FLOATS = np.dtype([("length", ">i4"), ("value", ">f8")])
_TIMES = np.dtype([("length", ">i4"), ("value", ">i8")])


@dataclass(frozen=True, slots=True)
class Merged:
    """What became of rows, counted by feed: ``new`` were not there, ``revised`` were told otherwise than before."""

    new: dict[int, int] = field(default_factory=dict)
    revised: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of the rows of an import; ``seen`` is how many open times there were, so it is the sum of the others."""

    seen: int
    new: int
    revised: int
    unchanged: int


# -- in -----------------------------------------------------------------------------------------------------------------


def candles_merge(rows: Sequence[tuple[int, CandleReport, SourceKind]]) -> Merged:
    """Store closed candles of any feeds, as (feed, candle, where it came from): one statement, whatever their number. Of
    two rows of one feed and open time the later counts. The feeds stay locked until the transaction ends, which it must run
    in. ``changes`` of a feed grows by what was altered, or added before its ``last_open_at``; that itself is left alone."""
    if not rows:
        return Merged()
    distinct = list({(feed_id, report.open_at): (feed_id, report, source) for feed_id, report, source in rows}.values())
    reports = [report for _, report, _ in distinct]
    opens = [report.open_at for report in reports]
    given = {
        "feed_ids": [feed_id for feed_id, _, _ in distinct],
        "sources": [int(source) for _, _, source in distinct],
        "open_at": _literal(map(datetime.isoformat, opens)),
        **{name: _literal(str(getattr(report, name)) for report in reports) for name in PRICES},
    }
    return _merge(_MERGE_ROWS, given, min(opens), max(opens))


def candles_import(feed_id: int, table: pyarrow.Table, source: SourceKind) -> Imported:
    """Store history of one feed: ``open_ms`` as int64 and open, high, low, close and volume as strings or decimals, in any
    order; of two rows of one open time the later counts. Call it outside of a transaction.

    It is stored in chunks, the oldest first, each in its own transaction: an import that was interrupted is resumed by
    running it again. What cannot be stored exactly as a price (no value, or one that is not a number) ends it with the
    database's error, and nothing of that chunk is stored; what is doubtful is for the caller to have taken out before.

    ``last_open_at`` of the feed goes forward with what came unless the feed is needed: then it is the collector's, who
    finds the candles stored already and moves it when their time has come.
    """
    ordered = _ordered(table)
    open_ms = ordered.column("open_ms").to_numpy()
    months = np.unique(open_ms.astype("datetime64[ms]").astype("datetime64[M]"))
    partitions_ensure(CANDLES, [_at(int(month)) for month in months.astype("datetime64[ms]").astype(np.int64)])
    new = revised = 0
    for start in range(0, len(open_ms), CHUNK):
        chunk = ordered.slice(start, CHUNK)
        first, last = (_at(int(open_ms[row])) for row in (start, start + len(chunk) - 1))
        text = _text_of(chunk)
        merged = settled(lambda: _import_chunk(feed_id, text, source, first, last))  # noqa: B023  # called at once
        new += merged.new.get(feed_id, 0)
        revised += merged.revised.get(feed_id, 0)
    return Imported(len(open_ms), new, revised, len(open_ms) - new - revised)


def _import_chunk(feed_id: int, text: memoryview, source: SourceKind, first: datetime, last: datetime) -> Merged:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_IMPORT_TABLE)
        # Django does not turn what COPY complains of into errors of its own by itself.
        with connection.wrap_database_errors, cursor.copy(_IMPORT_COPY) as copy:
            copy.write(text)
        merged = _merge(_MERGE_IMPORT, {"feed_ids": [feed_id], "feed_id": feed_id, "source": int(source)}, first, last)
        cursor.execute(
            """
            UPDATE marketdata_feed SET last_open_at = %(last)s
            WHERE id = %(feed_id)s AND NOT is_needed AND (last_open_at IS NULL OR last_open_at < %(last)s)
            """,
            {"feed_id": feed_id, "last": last},
        )
        cursor.execute("DROP TABLE candle_import")
    return merged


def _merge(statement: str, given: dict[str, Any], first: datetime, last: datetime) -> Merged:
    with connection.cursor() as cursor:
        # A statement of its own: the next one sees what those have stored who held the locks before.
        cursor.execute(
            "SELECT FROM marketdata_feed WHERE id = ANY(%s) ORDER BY id FOR NO KEY UPDATE", [given["feed_ids"]]
        )
        cursor.execute(statement, {**given, "first": first, "last": last})
        found = cursor.fetchall()
    return Merged({pk: new for pk, new, _ in found if new}, {pk: revised for pk, _, revised in found if revised})


def _literal(values: Iterable[str]) -> str:
    """An array as the server reads it: the driver would look up each value's type, in most of the time the whole takes."""
    return f"{{{','.join(values)}}}"


def _ordered(table: pyarrow.Table) -> pyarrow.Table:
    """The columns of an import, oldest row first, each open time once."""
    missing = [name for name in ("open_ms", *PRICES) if name not in table.column_names]
    if missing:
        raise ValueError(f"wanted the columns open_ms, {', '.join(PRICES)}, was without {', '.join(missing)}")
    table = table.select(["open_ms", *PRICES])
    if table.column("open_ms").null_count:
        raise ValueError(f"wanted an open time in every row, was {table.column('open_ms').null_count} without")
    open_ms = table.column("open_ms").to_numpy()
    if open_ms.dtype != np.int64:
        raise ValueError(f"wanted open_ms as int64, was {table.column('open_ms').type}")
    if (np.diff(open_ms) > 0).all():
        return table
    order = np.argsort(open_ms, kind="stable")
    is_last = np.append(np.diff(open_ms[order]) > 0, True)
    return table.take(order[is_last])


def _text_of(chunk: pyarrow.Table) -> memoryview:
    """Rows as COPY reads them. Text carries a number exactly, and Arrow writes it without a Python object for each."""
    import pyarrow  # noqa: PLC0415  # 0.3 s and 60 MB, only where files are imported
    from pyarrow import csv  # noqa: PLC0415

    columns = [chunk.column("open_ms"), *(chunk.column(name).cast(pyarrow.string()) for name in PRICES)]
    sink = pyarrow.BufferOutputStream()
    csv.write_csv(
        pyarrow.table(columns, names=["open_ms", *PRICES]),
        sink,
        csv.WriteOptions(include_header=False, quoting_style="none"),
    )
    return memoryview(sink.getvalue())


def _at(milliseconds: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=milliseconds)


# What was there before is seen as it was when the statement began, so what it inserts itself is not taken for a revision. The
# bounds say nothing new: with them the planner opens no partition of another time.
_MERGE = """
, inserted AS (
    INSERT INTO marketdata_candle (feed_id, source, open_at, open, high, low, close, volume, collected_at)
    SELECT *, clock_timestamp() FROM given ON CONFLICT DO NOTHING RETURNING feed_id, open_at
), differing AS (
    SELECT given.*, was.source AS was_source, was.open AS was_open, was.high AS was_high, was.low AS was_low,
           was.close AS was_close, was.volume AS was_volume
    FROM given JOIN marketdata_candle was USING (feed_id, open_at)
    WHERE was.feed_id = ANY(%(feed_ids)s) AND was.open_at BETWEEN %(first)s AND %(last)s
      AND (given.open, given.high, given.low, given.close, given.volume)
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
    FROM differing d
    WHERE c.feed_id = d.feed_id AND c.open_at = d.open_at AND c.open_at BETWEEN %(first)s AND %(last)s
), counted AS (
    SELECT feed_id, count(*) FILTER (WHERE is_new) AS new, count(*) FILTER (WHERE NOT is_new) AS revised,
           count(*) FILTER (WHERE NOT is_new OR what.open_at < feed.last_open_at) AS changes
    FROM (
        SELECT feed_id, open_at, true FROM inserted UNION ALL SELECT feed_id, open_at, false FROM differing
    ) AS what (feed_id, open_at, is_new) JOIN marketdata_feed feed ON feed.id = what.feed_id
    GROUP BY feed_id
), noted AS (
    UPDATE marketdata_feed f SET changes = f.changes + counted.changes FROM counted
    WHERE f.id = counted.feed_id AND counted.changes > 0
)
SELECT feed_id, new, revised FROM counted
"""
_MERGE_ROWS = f"""
WITH given AS (
    SELECT * FROM unnest(
        %(feed_ids)s::bigint[], %(sources)s::smallint[], %(open_at)s::timestamptz[], %(open)s::numeric(36,18)[],
        %(high)s::numeric(36,18)[], %(low)s::numeric(36,18)[], %(close)s::numeric(36,18)[], %(volume)s::numeric(36,18)[]
    ) AS row (feed_id, source, open_at, open, high, low, close, volume)
){_MERGE}"""  # noqa: S608
_MERGE_IMPORT = f"""
WITH given AS (
    SELECT %(feed_id)s::bigint AS feed_id, %(source)s::smallint AS source,
           timestamptz 'epoch' + open_ms * interval '1 millisecond' AS open_at, open, high, low, close, volume
    FROM candle_import
){_MERGE}"""  # noqa: S608
_IMPORT_COPY = "COPY candle_import FROM STDIN WITH (DELIMITER ',', NULL '')"
_IMPORT_TABLE = """
CREATE TEMPORARY TABLE candle_import (
    open_ms bigint NOT NULL, open numeric(36,18) NOT NULL, high numeric(36,18) NOT NULL, low numeric(36,18) NOT NULL,
    close numeric(36,18) NOT NULL, volume numeric(36,18) NOT NULL,
    CONSTRAINT candle_import_is_a_number CHECK ('NaN' NOT IN (open, high, low, close, volume))
)
"""


# -- out ----------------------------------------------------------------------------------------------------------------


def candles_window(feed_id: int, limit: int, until: datetime | None = None) -> Candles:
    """The last ``limit`` closed candles of a feed as arrays, oldest first; with ``until``, of those that opened before it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT timeframe, last_open_at FROM marketdata_feed WHERE id = %s", [feed_id])
        feeds = cursor.fetchall()
    found = Candles.from_rows([])
    for timeframe, last_open_at in feeds:
        end = until or last_open_at
        # Where they most likely are, then ever further back, then anywhere: only a bound leaves partitions out.
        spans = [limit * reach * Timeframe(timeframe).length for reach in REACHES] if end else []
        for since in [*(end - span for span in spans), None]:
            found = _window(feed_id, limit, since, until)
            if len(found) == limit:
                break
    return found


def candles_arrays(feed_id: int, from_at: datetime, until_at: datetime) -> Candles:
    """All candles that opened at ``from_at`` or later and before ``until_at``: for reads of any length."""
    parts: list[Candles] = []
    while not parts or len(parts[-1]) == READ_CHUNK:
        if parts:
            from_at = _at(int(parts[-1].open_ms[-1]) + 1)
        parts.append(_arrays(_READ, [feed_id, from_at, until_at, READ_CHUNK]))
    if len(parts) == 1:
        return parts[0]
    return Candles(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("open_ms", *PRICES)))


def candles_extremes(asked: Sequence[tuple[int, datetime]]) -> list[Extremes | None]:
    """For each feed and time, the extremes of its closed candles that opened after that time; None where there are none."""
    if not asked:
        return []
    with connection.cursor() as cursor:
        # The second bound says nothing new: with it the planner opens no partition that is older than all of them.
        cursor.execute(
            """
            SELECT found.high, found.low, found.until
            FROM unnest(%s::bigint[], %s::timestamptz[]) WITH ORDINALITY AS asked (feed_id, since, number)
            CROSS JOIN LATERAL (
                SELECT max(high) AS high, min(low) AS low, max(open_at) AS until FROM marketdata_candle
                WHERE feed_id = asked.feed_id AND open_at > asked.since AND open_at > %s
            ) AS found
            ORDER BY asked.number
            """,
            [[feed_id for feed_id, _ in asked], [since for _, since in asked], min(since for _, since in asked)],
        )
        return [None if until is None else Extremes(high, low, until) for high, low, until in cursor.fetchall()]


def _window(feed_id: int, limit: int, since: datetime | None, until: datetime | None) -> Candles:
    bounds = [at for at in (since, until) if at is not None]
    conditions = ("AND open_at >= %s " if since else "") + ("AND open_at < %s " if until else "")
    candles = _arrays(_ARRAYS.format(conditions, "DESC"), [feed_id, *bounds, limit])
    return Candles(*(np.ascontiguousarray(getattr(candles, name)[::-1]) for name in ("open_ms", *PRICES)))


def _arrays(query: str, values: list[Any]) -> Candles:
    """What a query of _ARRAYS finds, in its order."""
    connection.ensure_connection()
    # Binary, which Django's own cursor cannot: half the bytes. Never prepared: a plan is made for these bounds.
    with psycopg.Cursor(connection.connection) as cursor:
        cursor.execute(query, values, prepare=False, binary=True)
        [(times, *prices)] = cursor.fetchall()
    if times is None:
        return Candles.from_rows([])
    open_ms: IntArray = np.frombuffer(times, _TIMES, offset=_HEAD)["value"] // 1000 + _TO_2000_MS
    floats: list[FloatArray] = [np.frombuffer(one, _FLOATS, offset=_HEAD)["value"].astype(np.float64) for one in prices]
    return Candles(open_ms.astype(np.int64), *floats)


# Whole columns as the server's own array format: no object for a row, neither here nor in the driver.
_ARRAYS = """
SELECT array_send(array_agg(open_at)), array_send(array_agg(open)), array_send(array_agg(high)), array_send(array_agg(low)),
       array_send(array_agg(close)), array_send(array_agg(volume))
FROM (
    SELECT open_at, open::float8, high::float8, low::float8, close::float8, volume::float8
    FROM marketdata_candle WHERE feed_id = %s {} ORDER BY open_at {} LIMIT %s
) AS found
"""
_READ = _ARRAYS.format("AND open_at >= %s AND open_at < %s", "")
