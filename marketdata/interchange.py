"""Candles from files into the database, and out of it into files: each once, inspected, and with every digit.

Reading in goes part by part: what is good of one is stored, what is not is quarantined with the reason, and whoever is
interrupted reads in again, for what is there already changes nothing. Writing out is one look at the database, however long
it takes; a file stands under its name only when it is whole, and read in again it tells the same candles.
"""

from __future__ import annotations

import gzip
import io
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from django.db import connection
from django.utils import timezone
from numpy.typing import NDArray

from domain.calendars import Calendar
from domain.candles import Candles, Timeframe
from domain.quality import Finding, Flaw, Inspection, inspect
from marketdata.columns import NUMBERS, Part, Unreadable, arrow
from marketdata.gaps import gaps_find
from marketdata.layouts import (
    CSV,
    FEATHER,
    JSON,
    PARQUET,
    PART_BYTES,
    files_of,
    in_order,
    kind_of,
    parts,
    require_timeframe,
)
from marketdata.models import Feed, SourceKind
from marketdata.quarantine import rows_keep
from marketdata.storage import candles_import

T = TypeVar("T")

# Stored candles that the first of a file are compared with: a check of jumps looks 200 back.
BEFORE = 250
# Where most of a part has the same flaw, nothing is wrong with the rows, but with what they are taken for.
ENOUGH_TO_TELL = 20


class UnableToWriteOut(Exception):
    """There is nothing to write, or no place for it."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is: rows so far, how much of all in percent, and the time that is ``left`` at this pace."""

    rows: int
    percent: float
    rows_per_second: float
    left: timedelta | None


Tell = Callable[[Progress], object]


@dataclass(slots=True)
class ReadIn:
    """What became of the rows of some files. ``still_open`` candles are left out, and those that are ``ahead`` of what is
    collected now are left to the collection, which announces them; ``flaws`` counts what the quarantined rows have."""

    files: int = 0
    seen: int = 0
    new: int = 0
    revised: int = 0
    unchanged: int = 0
    quarantined: int = 0
    still_open: int = 0
    ahead: int = 0
    first_at: datetime | None = None
    last_at: datetime | None = None
    flaws: Counter[Flaw] = field(default_factory=Counter)


def candles_read_in(
    feed: Feed, paths: Sequence[Path], *, takes_jumps: bool = False, tell: Tell = lambda progress: None
) -> ReadIn:
    """Read files of candles of ``feed``, or directories of such, in the order of their time. ``takes_jumps``: prices that
    jump are taken as they are, for somebody has looked at them. Raises Unreadable, or OSError; what was read before it is
    stored then.

    Call it in no transaction: each part is one of its own.
    """
    timeframe = Timeframe(feed.timeframe)
    files = in_order(files_of(paths, feed.market.symbol, timeframe))
    sizes = [path.stat().st_size for path in files]
    pace, done = _Pace(), ReadIn(files=len(files))
    before: Candles | None = None
    for number, path in enumerate(files):
        for part in _ahead(_checked(path, timeframe)):
            if before is None:
                before = _stored_before(feed.pk, int(part.candles.open_ms.min()))
            kept = _part_read_in(feed, path.name, part, before, takes_jumps, done)
            before = kept if len(kept) else before
            share = (sum(sizes[:number]) + sizes[number] * part.done) / (sum(sizes) or 1)
            tell(pace.at(done.seen, share))
    if done.new:
        gaps_find(feed.pk)
    return done


def candles_write_out(
    feed: Feed,
    path: Path,
    from_at: datetime | None = None,
    until_at: datetime | None = None,
    *,
    is_freqtrade: bool = False,
    may_replace: bool = False,
    tell: Tell = lambda progress: None,
) -> int:
    """Write the candles of ``feed`` that open from ``from_at`` (empty: the first) to before ``until_at`` (empty: after the
    last), oldest first, in the layout that the end of the file's name tells; how many they were. Numbers are exact, but for
    freqtrade's Feather and Parquet, which are of floats. Raises UnableToWriteOut, Unreadable for a name that tells no layout,
    or OSError; the file is as it was then."""
    opened = _writer_for(path, is_freqtrade)
    if path.exists() and not may_replace:
        raise UnableToWriteOut(f"wanted the name of a new file, {path} is there already")
    where = "feed_id = %s" + " AND open_at >= %s" * (from_at is not None) + " AND open_at < %s" * (until_at is not None)
    values: list[Any] = [feed.pk, *(at for at in (from_at, until_at) if at is not None)]
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM marketdata_candle WHERE {where}", values)  # noqa: S608  # no words of others
        rows = int(cursor.fetchone()[0])
        if not rows:
            raise UnableToWriteOut(f"wanted candles of {feed} in this span, was none")
        pace, written = _Pace(), 0
        with _whole(path) as unfinished, opened(unfinished) as write:
            numbers = ", ".join(f"trim_scale({name})" for name in NUMBERS)
            query = f"""COPY (
                SELECT (extract(epoch FROM open_at) * 1000)::bigint, {numbers}
                FROM marketdata_candle WHERE {where} ORDER BY open_at
            ) TO STDOUT (FORMAT csv)"""  # noqa: S608
            with cursor.copy(query, values) as copy:
                for text in _gathered(copy):
                    write(text)
                    written += text.count(b"\n")
                    tell(pace.at(written, min(written / rows, 1.0)))
    return written


# -- in -----------------------------------------------------------------------------------------------------------------


def _checked(path: Path, timeframe: Timeframe) -> Iterator[Part]:
    for number, part in enumerate(parts(path)):
        if number == 0:
            require_timeframe(part, timeframe, path.name)
        yield part


def _part_read_in(
    feed: Feed, name: str, part: Part, before: Candles | None, takes_jumps: bool, done: ReadIn
) -> Candles:
    """Inspect and store one part; the good rows of it, oldest first."""
    now = timezone.now()
    venue_ms = int(feed.market.exchange.time_at(now).timestamp() * 1000)
    timeframe, calendar = Timeframe(feed.timeframe), Calendar(feed.calendar)
    inspection = inspect(part.candles, timeframe, calendar, now_ms=venue_ms, before=before)
    _require_some_good(name, part, inspection)
    is_taken = inspection.is_good.copy()
    by_row: dict[int, list[Finding]] = {}
    for finding in inspection.findings:
        by_row.setdefault(finding.index, []).append(finding)
    bad: list[tuple[Finding, dict[str, str]]] = []
    rows: set[int] = set()
    for at, findings in by_row.items():
        flaws = {finding.flaw for finding in findings}
        if Flaw.STILL_OPEN in flaws:
            done.still_open += 1
        elif takes_jumps and flaws == {Flaw.JUMP}:
            is_taken[at] = True
        else:
            words = part.table.slice(at, 1).to_pylist()[0]
            bad += [(finding, {word: words[word] for word in NUMBERS}) for finding in findings]
            rows.add(at)
    rows_keep([(feed.pk, _at(one.open_ms), int(SourceKind.FILE), one, row) for one, row in bad], now)
    is_ahead = is_taken & _is_ahead(feed.pk, part.candles)
    is_taken &= ~is_ahead
    if is_taken.any():
        imported = candles_import(feed.pk, part.table.filter(arrow().array(is_taken)), SourceKind.FILE)
        done.new += imported.new
        done.revised += imported.revised
        done.unchanged += imported.unchanged
    done.seen += len(part.candles)
    done.quarantined += len(rows)
    done.ahead += int(is_ahead.sum())
    done.flaws.update(finding.flaw for finding, _ in bad)
    taken = _rows_of(part.candles, np.flatnonzero(is_taken))
    if len(taken):
        first, last = _at(int(taken.open_ms[0])), _at(int(taken.open_ms[-1]))
        done.first_at = first if done.first_at is None else min(done.first_at, first)
        done.last_at = last if done.last_at is None else max(done.last_at, last)
    return taken


def _require_some_good(name: str, part: Part, inspection: Inspection) -> None:
    flaws = Counter(finding.flaw for finding in inspection.findings if finding.flaw is not Flaw.STILL_OPEN)
    for flaw, count in flaws.most_common(1):
        if len(part.candles) >= ENOUGH_TO_TELL and count > len(part.candles) / 2:
            first = next(finding for finding in inspection.findings if finding.flaw is flaw)
            raise Unreadable(
                f"{name}: wanted candles of which most pass their checks, was {flaw} of {count} in {len(part.candles)}, "
                f"the first at {_at(first.open_ms):%Y-%m-%d %H:%M}: {first.detail}"
            )


def _is_ahead(feed_id: int, candles: Candles) -> NDArray[np.bool_]:
    """Which candles are later than the last one of a feed that is collected now. They would be no news to its collection any
    more, and so to no strategy."""
    collected = Feed.objects.filter(pk=feed_id, is_needed=True, last_open_at__isnull=False)
    last_open_at = collected.values_list("last_open_at", flat=True).first()
    if last_open_at is None:
        return np.zeros(len(candles), dtype=np.bool_)
    ahead: NDArray[np.bool_] = candles.open_ms > last_open_at.timestamp() * 1000
    return ahead


def _stored_before(feed_id: int, open_ms: int) -> Candles:
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT (extract(epoch FROM open_at) * 1000)::float8,
                   open::float8, high::float8, low::float8, close::float8, volume::float8
            FROM marketdata_candle WHERE feed_id = %s AND open_at < %s ORDER BY open_at DESC LIMIT %s
            """,
            [feed_id, _at(open_ms), BEFORE],
        )
        return Candles.from_rows(reversed(cursor.fetchall()))


def _rows_of(candles: Candles, rows: NDArray[np.intp]) -> Candles:
    """Some rows, oldest first."""
    rows = rows[np.argsort(candles.open_ms[rows], kind="stable")]
    return Candles(*(getattr(candles, column.name)[rows] for column in fields(candles)))


def _ahead(rows: Iterator[T]) -> Iterator[T]:
    """The same, each read while what is done with the one before is done."""
    with ThreadPoolExecutor(1, thread_name_prefix="candles") as reader:
        coming = reader.submit(next, rows, None)
        while (row := coming.result()) is not None:
            coming = reader.submit(next, rows, None)
            yield row


# -- out ----------------------------------------------------------------------------------------------------------------

Write = Callable[[bytes], object]


def _writer_for(path: Path, is_freqtrade: bool) -> Callable[[Path], Any]:
    """What makes a writer of lines of text (time and numbers) into a file like ``path``."""
    kind, packed = kind_of(path)
    if kind == CSV and not is_freqtrade:
        return lambda file: _csv_writer(file, packed)
    if kind == JSON and is_freqtrade:
        return lambda file: _json_writer(file, packed)
    if kind in (PARQUET, FEATHER):
        return lambda file: _table_writer(file, kind, is_freqtrade)
    wanted = (
        ".json, .json.gz, .feather or .parquet for freqtrade" if is_freqtrade else ".csv, .csv.gz, .parquet or .feather"
    )
    raise UnableToWriteOut(f"wanted a file that ends in {wanted}, was {path.name}")


@contextmanager
def _csv_writer(path: Path, packed: str | None) -> Iterator[Write]:
    with _packed(path, packed) as stream:
        stream.write(f"ts,{','.join(NUMBERS)}\n".encode())
        yield stream.write


@contextmanager
def _json_writer(path: Path, packed: str | None) -> Iterator[Write]:
    with _packed(path, packed) as stream:
        opening = b"[["

        def write(text: bytes) -> None:
            nonlocal opening
            stream.write(opening + text.rstrip(b"\n").replace(b"\n", b"],["))
            opening = b"],["

        yield write
        stream.write(b"]]")


def _packed(path: Path, packed: str | None) -> Any:
    if packed == "gzip":
        return gzip.open(path, "wb", compresslevel=4)  # 9, as pyarrow has it, takes nine times as long for 4 % less
    return arrow().output_stream(str(path), compression=packed)


@contextmanager
def _table_writer(path: Path, kind: str, is_freqtrade: bool) -> Iterator[Write]:
    pa = arrow()
    number = pa.float64() if is_freqtrade else pa.decimal128(38, 18)
    time_name = "date" if is_freqtrade else "ts"
    schema = pa.schema([(time_name, pa.timestamp("ms", "UTC")), *((name, number) for name in NUMBERS)])
    types = {time_name: pa.int64(), **dict.fromkeys(NUMBERS, pa.string())}
    with open(path, "wb") as file:
        writer = (
            pa.parquet.ParquetWriter(file, schema, compression="zstd")
            if kind == PARQUET
            else pa.ipc.new_file(file, schema, options=pa.ipc.IpcWriteOptions(compression="lz4"))
        )
        with writer:

            def write(text: bytes) -> None:
                table = pa.csv.read_csv(
                    io.BytesIO(text),
                    pa.csv.ReadOptions(column_names=schema.names),
                    convert_options=pa.csv.ConvertOptions(column_types=types),
                )
                writer.write_table(table.cast(schema))

            yield write


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A file beside ``path`` that takes its place once it is written, and on the disk."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield unfinished
        with open(unfinished, "rb") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        with suppress(FileNotFoundError):
            unfinished.unlink()


def _gathered(pieces: Any) -> Iterator[bytes]:
    """Rows of text in parts of some size."""
    rows = bytearray()
    for piece in pieces:
        rows += piece
        if len(rows) >= PART_BYTES:
            yield bytes(rows)
            rows.clear()
    if rows:
        yield bytes(rows)


# -- both ---------------------------------------------------------------------------------------------------------------


class _Pace:
    def __init__(self) -> None:
        self._began = time.monotonic()

    def at(self, rows: int, share: float) -> Progress:
        spent = max(time.monotonic() - self._began, 1e-6)
        left = timedelta(seconds=spent * (1 - share) / share) if share > 0 else None
        return Progress(rows, int(1000 * share) / 10, rows / spent, left)


def _at(open_ms: int) -> datetime:
    return datetime.fromtimestamp(open_ms / 1000, tz=UTC)
