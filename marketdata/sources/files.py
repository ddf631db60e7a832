"""Candles from files: a last resort for a feed, and what replays are made of.

A source's symbol is the path of a file or directory below the one that R3EDGE_CANDLE_FILES names; nothing outside of that is
read, however the path is spelled and wherever a link in it leads. A file is read once and remembered until it changes, so
that asking every minute costs a look at its size. Whoever writes one replaces it whole: half of a line is refused, but half
of a number is a number.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from django.conf import settings

from domain.candles import IntArray, Timeframe
from exchanges.gateway import CandleReport
from marketdata.columns import NUMBERS, Unreadable, arrow
from marketdata.layouts import files_of, parts, require_timeframe
from marketdata.models import Feed
from marketdata.sources import SourceFailed

# What a process remembers of files: some three million rows.
MOST_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class _Remembered:
    """The candles of one file, oldest first, as it was when it had this size and time of change."""

    stamp: tuple[int, int]
    open_ms: IntArray
    table: Any

    @property
    def bytes(self) -> int:
        size: int = self.table.nbytes
        return size


_lock = threading.Lock()
_read: OrderedDict[tuple[Path, Timeframe], _Remembered] = OrderedDict()
# When each file begins and ends, also of those whose candles had to make room.
_spans: dict[tuple[Path, Timeframe], tuple[tuple[int, int], int, int]] = {}


class FileSource:
    """Candles of ``feed`` from the file, or the files of the directory, at ``symbol``."""

    def __init__(self, feed: Feed, symbol: str) -> None:
        self._market_symbol = feed.market.symbol
        self._timeframe = Timeframe(feed.timeframe)
        self._symbol = symbol

    def candles(self, since: datetime, limit: int) -> Sequence[CandleReport]:
        since_ms = int(since.timestamp() * 1000)
        found: list[CandleReport] = []
        for path in self._files():
            first, last = _span(path, self._timeframe)
            if last < since_ms:
                continue
            if len(found) >= limit and found[limit - 1].open_at.timestamp() * 1000 < first:
                break
            found += _reports(_remembered(path, self._timeframe), since_ms, limit)
            # Files may overlap: what they tell alike is told once, what they tell differently is for the checks.
            found = list(dict.fromkeys(sorted(found, key=lambda report: report.open_at)))
        return found[:limit]

    def _files(self) -> list[Path]:
        path = file_path(self._symbol)
        try:
            found = files_of([path], self._market_symbol, self._timeframe)
        except (Unreadable, OSError) as error:
            raise SourceFailed(str(error)) from error
        for file in found:
            _require_inside(file, self._symbol)
        return sorted(found, key=lambda file: _span(file, self._timeframe)[0])


def file_path(symbol: str) -> Path:
    """Where the file or directory is that a source's symbol names. Raises SourceFailed, a final one: where there is none that
    may be read, a person has to act."""
    root = _root()
    if not symbol or "\0" in symbol or Path(symbol).is_absolute() or ".." in Path(symbol).parts:
        raise SourceFailed(f"wanted a path below R3EDGE_CANDLE_FILES, was {symbol[:100]!r}", is_final=True)
    path = root / symbol
    _require_inside(path, symbol)
    if not path.exists():
        raise SourceFailed(
            f"wanted a file or directory below R3EDGE_CANDLE_FILES, was none at {symbol!r}", is_final=True
        )
    return path


def _root() -> Path:
    root: Path | None = settings.CANDLE_FILES
    if root is None:
        raise SourceFailed("wanted a directory of candle files in R3EDGE_CANDLE_FILES, was none", is_final=True)
    return root


def _require_inside(path: Path, symbol: str) -> None:
    """Wherever its links lead."""
    try:
        is_inside = path.resolve().is_relative_to(_root().resolve())
    except (OSError, RuntimeError):  # a circle of links
        is_inside = False
    if not is_inside:
        raise SourceFailed(f"wanted a path below R3EDGE_CANDLE_FILES, led out of it at {symbol[:100]!r}", is_final=True)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise SourceFailed(f"wanted a file, was at {path.name}: {error.strerror}") from error
    return found.st_size, found.st_mtime_ns


def _span(path: Path, timeframe: Timeframe) -> tuple[int, int]:
    """When the first and the last candle of a file open; one without candles ends before it begins."""
    known = _spans.get((path, timeframe))
    if known is None or known[0] != _stamp(path):
        _remembered(path, timeframe)
        known = _spans[path, timeframe]
    return known[1:]


def _remembered(path: Path, timeframe: Timeframe) -> _Remembered:
    key = path, timeframe
    try:
        stamp = _stamp(path)
        with _lock:
            found = _read.get(key)
            if found is not None and found.stamp == stamp:
                _read.move_to_end(key)
                return found
        fresh = _opened(path, timeframe, stamp)
    except (Unreadable, OSError) as error:
        raise SourceFailed(str(error)) from error
    with _lock:
        _read[key] = fresh
        _read.move_to_end(key)
        first, last = (int(fresh.open_ms[0]), int(fresh.open_ms[-1])) if len(fresh.open_ms) else (1, 0)
        _spans[key] = stamp, first, last
        while len(_read) > 1 and sum(one.bytes for one in _read.values()) > MOST_BYTES:
            _read.popitem(last=False)
    return fresh


def _opened(path: Path, timeframe: Timeframe, stamp: tuple[int, int]) -> _Remembered:
    pa = arrow()
    tables, opens = [], []
    for number, part in enumerate(parts(path)):
        if number == 0:
            require_timeframe(part, timeframe, path.name)
        tables.append(part.table)
        opens.append(part.candles.open_ms)
    if not tables:
        return _Remembered(stamp, np.empty(0, dtype=np.int64), pa.table({name: [] for name in ("open_ms", *NUMBERS)}))
    table, open_ms = pa.concat_tables(tables), np.concatenate(opens)
    # Rows of one time stay in their order: which of them is right is for the checks to tell.
    order = np.argsort(open_ms, kind="stable")
    return _Remembered(stamp, open_ms[order], table.take(order))


def _reports(found: _Remembered, since_ms: int, limit: int) -> list[CandleReport]:
    at = int(np.searchsorted(found.open_ms, since_ms))
    rows = found.table.slice(at, limit)
    columns = [rows.column(name).to_pylist() for name in ("open_ms", *NUMBERS)]
    return [
        CandleReport(datetime.fromtimestamp(open_ms / 1000, tz=UTC), *map(Decimal, numbers))
        for open_ms, *numbers in zip(*columns, strict=True)
    ]
