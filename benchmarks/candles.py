"""Candles in and out: history imported, one candle of many feeds stored, a window and a long span read into arrays.

Each beside a floor of the same run and the same server: what the database does when nothing is compared, kept or counted.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from statistics import median

import numpy as np
import psycopg
import pyarrow
from django.db import connection, transaction

from benchmarks.report import Report, Spread, Table
from domain.candles import Candles, Timeframe
from exchanges.gateway import CandleReport
from exchanges.models import Exchange, Market
from marketdata.gaps import gaps_find
from marketdata.models import Feed, SourceKind
from marketdata.partitions import CANDLES, partitions_ensure
from marketdata.services import candles_window
from marketdata.storage import PRICES, candles_arrays, candles_import, candles_merge

BEGINS = datetime(2021, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
GOAL_NEW, GOAL_OVERWRITING = 200_000, 100_000
GOAL_LIVE_MS = {500: 10.0}
GOAL_WINDOW_MS = 1.0
WINDOW = 500
READS = 200
LIVE_ROUNDS = 20
COLUMNS = "(feed_id, open_at, open, high, low, close, volume, collected_at, source)"
INSERT = f"INSERT INTO bench_candle {COLUMNS} VALUES (%s, %s, %s, %s, %s, %s, %s, now(), 0)"  # digits and names only


def run(options: argparse.Namespace) -> Report:
    report = Report("candles")
    exchange = Exchange.objects.create(name="bench", ccxt_id="kucoin", base_url="http://127.0.0.1:9")
    feeds = _feeds(exchange, max(options.feeds))
    table = _history(options.rows, options.months)
    _imports(report, feeds[0], table)
    _live(report, feeds[1:], options.feeds)
    _reads(report, feeds[0], table)
    return report


def _feeds(exchange: Exchange, count: int) -> list[Feed]:
    markets = Market.objects.bulk_create(
        Market(
            exchange=exchange, symbol=f"C{number}/USDT", base=f"C{number}", quote="USDT", tick_size=Decimal("0.1"),
            lot_size=Decimal("0.00001"), min_quantity=Decimal("0.00001"), min_notional=Decimal("0.1"),
            taker_fee=Decimal("0.001"), maker_fee=Decimal("0.001"), synced_at=BEGINS,
        )
        for number in range(count + 1)
    )  # fmt: skip
    return Feed.objects.bulk_create(Feed(market=market, timeframe=Timeframe.M1.value) for market in markets)


def _history(rows: int, months: int) -> pyarrow.Table:
    """Candles a minute apart, evenly over that many months, with prices of as many digits as venues give."""
    begins = np.datetime64(BEGINS.replace(tzinfo=None), "M")
    starts = (begins + np.arange(months)).astype("datetime64[ms]").astype(np.int64)
    share = -(-rows // months)
    if share > 28 * 1440:
        raise ValueError(f"wanted at most {28 * 1440 * months} rows in {months} months, was {rows}")
    open_ms = (starts[:, None] + np.arange(share) * 60_000).ravel()[:rows]
    return _table(open_ms, seed=1)


def _table(open_ms: np.ndarray, seed: int) -> pyarrow.Table:
    random = np.random.default_rng(seed)
    close = np.round(50_000 + random.normal(0, 20, len(open_ms)).cumsum() % 9_000, 1)
    values = (close - 1.5, close + 3.7, close - 4.2, close, np.round(random.random(len(open_ms)) * 100, 8))
    texts = {
        name: pyarrow.array(np.round(one, 8)).cast(pyarrow.string()) for name, one in zip(PRICES, values, strict=True)
    }
    return pyarrow.table({"open_ms": pyarrow.array(open_ms, pyarrow.int64()), **texts})


def _imports(report: Report, feed: Feed, table: pyarrow.Table) -> None:
    shown = report.table(
        f"Import of {len(table):,} rows of one feed (floor: plain COPY into an empty partition)",
        "rows", "rows/s", "goal", "floor rows/s", "× floor",
    )  # fmt: skip
    floor = len(table) / _copy_floor(feed, table)
    other = _table(table.column("open_ms").to_numpy(), seed=2)
    runs = {"new": (table, GOAL_NEW), "the same again": (table, 0), "all overwritten": (other, GOAL_OVERWRITING)}
    for name, (given, goal) in runs.items():
        seconds = _seconds(partial(candles_import, feed.pk, given, SourceKind.FILE))
        rate = len(given) / seconds
        shown.add(name, rate, f"> {goal:,}" if goal else "", floor, floor / rate)
        report.figures.setdefault("import", {})[name] = {"rows_per_s": round(rate), "floor_rows_per_s": round(floor)}
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE marketdata_candle")


def _copy_floor(feed: Feed, table: pyarrow.Table) -> float:
    """Seconds of the same rows, as text that is ready, through COPY into an empty table with the same key."""
    opened = table.column("open_ms").to_numpy().astype("datetime64[ms]")
    columns = [table.column(name).to_pylist() for name in PRICES]
    lines = [
        f"{feed.pk}\t{at}Z\t" + "\t".join(row) + "\t2024-01-01Z\t0\n" for at, *row in zip(opened, *columns, strict=True)
    ]
    text = "".join(lines).encode()
    with psycopg.connect(os.environ["DATABASE_URL"]) as floor:
        floor.execute("CREATE TABLE bench_candle (LIKE marketdata_candle INCLUDING ALL)")
        began = time.perf_counter()
        with floor.cursor().copy(f"COPY bench_candle {COLUMNS} FROM STDIN") as copy:
            copy.write(text)
        floor.commit()
        taken = time.perf_counter() - began
        floor.execute("DROP TABLE bench_candle")
    return taken


def _live(report: Report, feeds: list[Feed], counts: tuple[int, ...]) -> None:
    shown = report.table(
        f"One candle of each of so many feeds, in one transaction (milliseconds, {LIVE_ROUNDS} rounds)",
        "feeds", "p50", "p99", "goal", "executemany", "a psycopg loop", "× executemany",
    )  # fmt: skip
    at = datetime.now(UTC).replace(second=0, microsecond=0)
    partitions_ensure(CANDLES, [at, at + timedelta(days=1)])
    for count in counts:
        batches = [_batch(feeds[:count], at + number * MINUTE) for number in range(LIVE_ROUNDS)]
        at += LIVE_ROUNDS * MINUTE
        taken = Spread.of([_milliseconds(partial(_merge, batch)) for batch in batches])
        many, one_by_one = _live_floors(batches)
        goal = GOAL_LIVE_MS.get(count)
        shown.add(count, taken.p50, taken.p99, f"< {goal:g}" if goal else "", many, one_by_one, taken.p50 / many)
        report.figures.setdefault("live_ms", {})[str(count)] = {
            **taken.figures(), "executemany": round(many, 3), "loop": round(one_by_one, 3),
        }  # fmt: skip


def _batch(feeds: list[Feed], at: datetime) -> list[tuple[int, CandleReport, SourceKind]]:
    prices = [Decimal(text) for text in ("50000.1", "50003.7", "49995.9", "50000.4", "12.34567891")]
    return [(feed.pk, CandleReport(at, *prices), SourceKind.EXCHANGE) for feed in feeds]


def _merge(batch: list[tuple[int, CandleReport, SourceKind]]) -> None:
    with transaction.atomic():
        merged = candles_merge(batch)
    if sum(merged.new.values()) != len(batch):
        raise RuntimeError(f"wanted {len(batch)} new candles, was {merged}")


def _live_floors(batches: list[list[tuple[int, CandleReport, SourceKind]]]) -> tuple[float, float]:
    """Milliseconds of plain inserts of the same rows into a table with the same key: executemany, and one after the other."""
    taken: dict[bool, list[float]] = {True: [], False: []}
    with psycopg.connect(os.environ["DATABASE_URL"]) as floor:
        for is_many, times in taken.items():
            floor.execute("CREATE TABLE bench_candle (LIKE marketdata_candle INCLUDING ALL)")
            floor.commit()
            for batch in batches:
                rows = [(pk, row.open_at, row.open, row.high, row.low, row.close, row.volume) for pk, row, _ in batch]
                began = time.perf_counter()
                with floor.cursor() as cursor:
                    if is_many:
                        cursor.executemany(INSERT, rows)
                    else:
                        for row in rows:
                            cursor.execute(INSERT, row)
                floor.commit()
                times.append((time.perf_counter() - began) * 1000)
            floor.execute("DROP TABLE bench_candle")
    return median(taken[True]), median(taken[False])


def _reads(report: Report, feed: Feed, table: pyarrow.Table) -> None:
    open_ms = table.column("open_ms").to_numpy()
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_inherits WHERE inhparent = 'marketdata_candle'::regclass")
        [(partitions,)] = cursor.fetchall()
    shown = report.table(
        f"Reads among {len(open_ms):,} rows in {partitions} partitions (milliseconds; floor: a bare SELECT and fetchall)",
        "read", "p50", "p99", "goal", "floor p50", "× floor",
    )  # fmt: skip
    last = datetime.fromtimestamp(int(open_ms[-1]) / 1000, UTC)
    with psycopg.connect(os.environ["DATABASE_URL"]) as floor:
        _row(report, shown, f"window of {WINDOW}", GOAL_WINDOW_MS, READS,
             lambda: candles_window(feed.pk, WINDOW), lambda: _select(floor, feed, WINDOW), WINDOW)  # fmt: skip
        _row(report, shown, f"window of {WINDOW} until", GOAL_WINDOW_MS, READS,
             lambda: candles_window(feed.pk, WINDOW, last), lambda: _select(floor, feed, WINDOW), WINDOW)  # fmt: skip
        _row(report, shown, f"all {len(open_ms):,}", 1000.0 * len(open_ms) / 1e6, 3,
             lambda: candles_arrays(feed.pk, BEGINS, last + MINUTE), lambda: _select(floor, feed, len(open_ms)),
             len(open_ms))  # fmt: skip
        gaps_find(feed.pk)  # what is missing is recorded: from now on it is the ordinary look
        checks = Spread.of([_milliseconds(lambda: gaps_find(feed.pk)) for _ in range(3)])
        opens = Spread.of([_milliseconds(lambda: _opens(floor, feed)) for _ in range(3)])
        shown.add(f"gap check of {len(open_ms):,}", checks.p50, checks.p99, "", opens.p50, checks.p50 / opens.p50)
        report.figures["gap_check_ms"] = {**checks.figures(), "floor": opens.figures()}


def _row(
    report: Report, shown: Table, name: str, goal: float, rounds: int, read: Callable[[], Candles],
    bare: Callable[[], int], wanted: int,
) -> None:  # fmt: skip
    found = len(read())
    if found != wanted or bare() != wanted:
        raise RuntimeError(f"wanted {wanted} candles, was {found}")
    taken = Spread.of([_milliseconds(read) for _ in range(rounds)])
    floor = Spread.of([_milliseconds(bare) for _ in range(rounds)])
    shown.add(name, taken.p50, taken.p99, f"< {goal:g}", floor.p50, taken.p50 / floor.p50)
    report.figures.setdefault("read_ms", {})[name] = {**taken.figures(), "floor": floor.figures()}


def _select(floor: psycopg.Connection, feed: Feed, limit: int) -> int:
    found = floor.execute(
        "SELECT open_at, open, high, low, close, volume FROM marketdata_candle WHERE feed_id = %s "
        "ORDER BY open_at DESC LIMIT %s",
        [feed.pk, limit],
    ).fetchall()
    floor.commit()
    return len(found)


def _opens(floor: psycopg.Connection, feed: Feed) -> int:
    found = floor.execute(
        "SELECT open_at FROM marketdata_candle WHERE feed_id = %s ORDER BY open_at", [feed.pk]
    ).fetchall()
    floor.commit()
    return len(found)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _milliseconds(work: Callable[[], object]) -> float:
    return _seconds(work) * 1000
