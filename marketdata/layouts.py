"""Candle files, ours and other people's, as exact columns: the layout is told by the file, and nobody is asked for it.

A file is read whole or refused with its place: what was found there, and what was wanted. Numbers keep the digits that the
file has (a binary float its shortest), times become epoch milliseconds UTC, and nothing is judged: what a candle may be is
told by ``domain/quality.py``. No Python object is made for a row, nor is more than a part of a file in memory at once (JSON
excepted, which has no parts).

- CSV, also compressed (.gz, .zst), with a header: ours (ts, open, high, low, close, volume) in any order among any others;
- Binance's archive: a zip of such CSV, without a header (twelve columns) or, since 2025, with one;
- freqtrade's: JSON, a list of [ms, open, high, low, close, volume], also compressed; Feather and Parquet with a date;
- Parquet and Feather with the columns of our CSV.

A time is a number of s, ms, us or ns since 1970 (told by its size) or ISO 8601, in UTC where it names no zone.
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from domain.candles import Timeframe
from marketdata.columns import NUMBER, NUMBERS, TIMES, Part, Unreadable, arrow, columns_of, part_of, words_of

# A part of a file, of rows or of text with about as many.
PART_ROWS = 100_000
PART_BYTES = 6_000_000
# Enough for a header, and for the first rows.
_HEAD_BYTES = 65_536

# Binance's, where it names none.
_BINANCE = ("open_time", *NUMBERS, "close_time", "quote_volume", "count", "taker_buy", "taker_buy_quote", "ignore")

CSV, JSON, ZIP, PARQUET, FEATHER = "csv", "json", "zip", "parquet", "feather"
_KINDS = {".csv": CSV, ".json": JSON, ".zip": ZIP, ".parquet": PARQUET, ".feather": FEATHER, ".arrow": FEATHER}
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_KNOWN = ", ".join([*_KINDS, *(f"{kind}{packed}" for kind in (".csv", ".json") for packed in _COMPRESSIONS)])

_FREQTRADE_NAME = re.compile(r"([A-Z0-9.]+)_([A-Z0-9.]+?)(?:_([A-Z0-9.]+))?-(\d+[smhdwMy]+)(?:-([a-z_]+))?")
_BINANCE_NAME = re.compile(r"([A-Z0-9]+)-(\d+(?:mo|[smhdw]))(?:-\d{4}-\d\d(?:-\d\d)?)?")


@dataclass(frozen=True, slots=True)
class Named:
    """What the name of a file says: ``pair`` in the words of a symbol where it separates the two, else both in one."""

    pair: str
    timeframe: str

    def is_of(self, symbol: str, timeframe: Timeframe) -> bool:
        """Whether its candles may be those of ``symbol``. Binance's names tell neither where the base ends nor what it is
        settled in, and a share has no quote."""
        whole = [symbol] if "/" in self.pair else [symbol, symbol.split(":")[0], symbol.split("/")[0]]
        return self.timeframe == timeframe and _squeezed(self.pair) in [_squeezed(word) for word in whole]


def kind_of(path: Path) -> tuple[str, str | None]:
    """The kind of a file and how it is compressed, by its name. Raises Unreadable."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = _COMPRESSIONS.get(suffixes[-1]) if suffixes else None
    rest = suffixes[:-1] if packed else suffixes
    kind = _KINDS.get(rest[-1]) if rest else None
    if kind is None or (packed and kind not in (CSV, JSON)):
        raise Unreadable(f"{path.name}: wanted a file that ends in one of {_KNOWN}, was {''.join(suffixes) or 'none'}")
    return kind, packed


def named(path: Path) -> Named | None:
    """What the name of ``path`` says of its candles; None where it is no name of freqtrade's or Binance's."""
    name = path.name.split(".csv")[0].split(".json")[0]
    for suffix in _KINDS:
        name = name.removesuffix(suffix)
    if found := _FREQTRADE_NAME.fullmatch(name):
        base, quote, settled, timeframe, what = found.groups()
        # It keeps mark prices and funding rates beside the candles, in the same layout.
        is_other = what not in (None, "spot", "futures")
        return Named(
            f"{base}/{quote}" + (f":{settled}" if settled else ""), f"{timeframe} {what}" if is_other else timeframe
        )
    if found := _BINANCE_NAME.fullmatch(name):
        return Named(found[1], found[2])
    return None


def files_of(paths: Sequence[Path], symbol: str, timeframe: Timeframe) -> list[Path]:
    """The files that ``paths`` name. Of a directory those in a layout known here whose name is not that of another market or
    timeframe; a file named by itself has to be of these. Opens none of them. Raises Unreadable."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = [file for file in sorted(path.iterdir()) if file.is_file() and _may_be(file, symbol, timeframe)]
            if not inside:
                raise Unreadable(f"{path}: wanted candles of {symbol} {timeframe} in it, was none ({_KNOWN})")
            found += inside
        elif not path.is_file():
            raise Unreadable(f"{path}: wanted a file, was {'something else' if path.exists() else 'nothing'}")
        else:
            if (name := named(path)) is not None and not name.is_of(symbol, timeframe):
                raise Unreadable(
                    f"{path.name}: wanted candles of {symbol} {timeframe}, was named those of {name.pair} {name.timeframe}"
                )
            found.append(path)
    return list(dict.fromkeys(found))


def require_candles(paths: Sequence[Path], symbol: str, timeframe: Timeframe) -> None:
    """Raises Unreadable, or OSError, where ``paths`` are of something else by their names, or cannot be read from the
    beginning: what would be made or changed for them can be left alone."""
    for path in files_of(paths, symbol, timeframe):
        if (part := next(parts(path, _HEAD_BYTES), None)) is not None:
            require_timeframe(part, timeframe, path.name)


def in_order(files: Sequence[Path]) -> list[Path]:
    """``files`` in the order of their first candles; those without any come first. Raises as ``parts``."""
    return sorted(files, key=_first_open) if len(files) > 1 else list(files)


def parts(path: Path, size: int = PART_BYTES) -> Iterator[Part]:
    """What ``path`` has, part by part (of lines: so many bytes), as it stands there. Raises Unreadable, also after some
    parts: of the one that cannot be read nothing is given. A file that cannot be had at all raises OSError."""
    kind, packed = kind_of(path)
    row = 0
    with _refusing(path.name):
        for batch, done in _READ[kind](path, packed, size):
            if batch.num_rows:
                yield part_of(path.name, batch, done, row)
                row += batch.num_rows


def require_timeframe(part: Part, timeframe: Timeframe, name: str) -> None:
    """Raises Unreadable where the steps between candles say that they are of another timeframe: one every fifth minute is no
    hour, and what never comes closer than an hour is no minute."""
    steps = np.diff(np.unique(part.candles.open_ms))
    if len(steps) < 10:
        return
    usual, least, wanted = int(np.median(steps)), int(steps.min()), timeframe.seconds * 1000
    if usual < wanted or least > wanted:
        raise Unreadable(f"{name}: wanted candles of {timeframe}, was one every {usual / 60_000:g} minutes")


def _may_be(path: Path, symbol: str, timeframe: Timeframe) -> bool:
    with suppress(Unreadable):
        kind_of(path)
        name = named(path)
        return name is None or name.is_of(symbol, timeframe)
    return False


def _first_open(path: Path) -> int:
    part = next(parts(path, _HEAD_BYTES), None)
    return int(part.candles.open_ms.min()) if part is not None else 0


def _squeezed(word: str) -> str:
    return re.sub(r"[^A-Z0-9]", "", word.upper())


# -- what a file is made of ---------------------------------------------------------------------------------------------


def _csv_file(path: Path, packed: str | None, size: int) -> Iterator[tuple[Any, float]]:
    whole = path.stat().st_size or 1
    with _stream(path, packed) as (stream, _):
        head = _first_line(stream.read(_HEAD_BYTES))
    with _stream(path, packed) as (stream, raw):
        blocks = _Blocks(stream, raw.tell)
        for number, batch in enumerate(_csv_batches(path.name, blocks, head, size)):
            yield batch, blocks.end_of(number) / whole


def _zip_file(path: Path, packed: str | None, size: int) -> Iterator[tuple[Any, float]]:
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if member.filename.lower().endswith(".csv")]
        if not members:
            was = ", ".join(archive.namelist()[:3]) or "nothing"
            raise Unreadable(f"{path.name}: wanted a .csv file in it, was {was}")
        for number, member in enumerate(sorted(members, key=lambda member: member.filename)):
            with archive.open(member) as stream:
                head = _first_line(stream.read(_HEAD_BYTES))
            with archive.open(member) as stream:
                blocks = _Blocks(stream, stream.tell)
                for block, batch in enumerate(_csv_batches(f"{path.name}, {member.filename}", blocks, head, size)):
                    yield batch, (number + blocks.end_of(block) / (member.file_size or 1)) / len(members)


def _csv_batches(name: str, stream: Any, head: list[str], size: int) -> Iterator[Any]:
    if not head:
        raise Unreadable(f"{name}: wanted a header and candles, was an empty line or nothing")
    has_header = re.match(NUMBER, head[0]) is None
    if not has_header and len(head) != len(_BINANCE):
        raise Unreadable(
            f"{name}: wanted a header with {', '.join((TIMES[0], *NUMBERS))}, or {len(_BINANCE)} columns as Binance has, "
            f"was {len(head)} columns without a header"
        )
    yield from _lines(name, stream, head if has_header else _BINANCE, int(has_header), size)


def _lines(name: str, stream: Any, names: Sequence[str], skip: int, size: int) -> Iterator[Any]:
    """Lines of text as columns of text, those that candles need."""
    pa = arrow()
    columns = list(columns_of(name, names).values())
    wrong: list[Any] = []

    def note(row: Any) -> str:
        wrong.append(row)
        return "error"

    try:
        yield from pa.csv.open_csv(
            stream,
            # In one thread: only one who counts knows the number of a row.
            pa.csv.ReadOptions(use_threads=False, block_size=size, column_names=list(names), skip_rows=skip),
            pa.csv.ParseOptions(invalid_row_handler=note),
            pa.csv.ConvertOptions(
                include_columns=columns, column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        if wrong:
            row = wrong[0]
            raise Unreadable(
                f"{name}, line {row.number}: wanted {row.expected_columns} columns, was {row.actual_columns}: "
                f"{row.text[:60]!r}"
            ) from error
        if "Empty CSV file" not in str(error):
            raise


def _json_file(path: Path, packed: str | None, size: int) -> Iterator[tuple[Any, float]]:
    with _stream(path, packed) as (stream, _):
        text = stream.read().translate(None, b" \t\r\n")
    if text == b"[]":
        return
    if not (text.startswith(b"[[") and text.endswith(b"]]")):
        was = text[:40].decode(errors="replace") or "nothing"
        raise Unreadable(f"{path.name}: wanted a list of [ms, open, high, low, close, volume], was {was}")
    # Rows of numbers with no bracket in them: the same as lines, and read as such.
    lines = text[2:-2].replace(b"],[", b"\n")
    stream = io.BytesIO(lines)
    blocks = _Blocks(stream, stream.tell)
    for number, batch in enumerate(_lines(path.name, blocks, (TIMES[0], *NUMBERS), 0, size)):
        yield batch, blocks.end_of(number) / (len(lines) or 1)


def _parquet_file(path: Path, packed: str | None, size: int) -> Iterator[tuple[Any, float]]:
    with arrow().parquet.ParquetFile(path) as file:
        columns = list(columns_of(path.name, file.schema_arrow.names).values())
        done = 0
        for batch in file.iter_batches(batch_size=PART_ROWS, columns=columns):
            done += batch.num_rows
            yield batch, done / file.metadata.num_rows


def _feather_file(path: Path, packed: str | None, size: int) -> Iterator[tuple[Any, float]]:
    pa = arrow()
    with pa.memory_map(str(path)) as mapped:
        file = pa.ipc.open_file(mapped)
        columns = list(columns_of(path.name, file.schema.names).values())
        for number in range(file.num_record_batches):
            batch = file.get_batch(number).select(columns)
            for at in range(0, batch.num_rows, PART_ROWS):
                done = min(at + PART_ROWS, batch.num_rows) / batch.num_rows
                yield batch.slice(at, PART_ROWS), (number + done) / file.num_record_batches


_READ: dict[str, Callable[[Path, str | None, int], Iterator[tuple[Any, float]]]] = {
    CSV: _csv_file,
    JSON: _json_file,
    ZIP: _zip_file,
    PARQUET: _parquet_file,
    FEATHER: _feather_file,
}


class _Blocks(io.BufferedIOBase):
    """Text of a file that notes how far it was when each block ended: the reader is blocks ahead of the rows it gives."""

    def __init__(self, text: Any, where: Callable[[], int]) -> None:
        self._text, self._where = text, where
        self._ends: list[int] = []

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        block: bytes = self._text.read(size)
        self._ends.append(self._where())
        return block

    def end_of(self, number: int) -> int:
        return self._ends[min(number, len(self._ends) - 1)]


@contextmanager
def _stream(path: Path, packed: str | None) -> Iterator[tuple[Any, Any]]:
    """The text of a file, and the file itself."""
    pa = arrow()
    with pa.OSFile(str(path), "rb") as raw:
        if packed is None:
            yield raw, raw
        else:
            with pa.CompressedInputStream(raw, packed) as stream:
                yield stream, raw


@contextmanager
def _refusing(name: str, what: str = "candles") -> Iterator[None]:
    """What readers raise about what they read is ours to tell."""
    try:
        yield
    except (arrow().ArrowException, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise Unreadable(f"{name}: wanted {what}, was: {words_of(error)}") from error
    except OSError as error:
        if error.errno is not None:
            raise
        # Not the disk: pyarrow says so of a compressed file that is broken.
        raise Unreadable(f"{name}: wanted {what}, was: {words_of(error)}") from error


def _first_line(text: bytes) -> list[str]:
    line = text.decode("utf-8-sig", errors="replace").split("\n", 1)[0].strip()
    return next(csv.reader([line]), [])
