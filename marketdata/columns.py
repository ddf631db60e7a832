"""Columns of a file as candles, exactly: times in milliseconds, numbers with the digits they have.

No Python object is made for a row. What cannot be read is refused with its place: what was found there, what was wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, NoReturn

import numpy as np

from domain.candles import Candles, FloatArray, IntArray

NUMBERS = ("open", "high", "low", "close", "volume")
# What a column of open times is called, the first that is there.
TIMES = ("ts", "open_ms", "open_time", "open_at", "timestamp", "date", "datetime", "time")
# Numbers of which size are ns, us, ms and s since 1970 (from 1973 on), and how many make a millisecond; negative: how many
# milliseconds one makes.
_UNITS = ((10**17, 1_000_000), (10**14, 1000), (10**11, 1), (10**8, -1000))
_ISO = r"^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?)?"
_ZONE = r"(Z|[+-]\d\d:?\d\d)$"
# What the database takes for a number, and so do we.
NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
# Words for "there is none": no price, which a check will say of that row alone.
_NONE = ("", "null", "none", "na", "n/a", "nan", "inf", "-inf", "infinity")
# The first number that the columns of candles cannot hold.
_TOO_LARGE = 1e18


class Unreadable(ValueError):
    """A file that is not read: where, what was wanted, and what was there."""


@dataclass(frozen=True, slots=True)
class Part:
    """Consecutive rows of a file: ``table`` (of pyarrow) has ``open_ms`` as int64 and the five numbers as text, ``candles``
    has the same as floats; ``done`` is how much of the file has been read with it, 0 to 1."""

    table: Any
    candles: Candles
    done: float


@cache
def arrow() -> Any:
    """pyarrow and those of its readers that are used here."""
    # 0.3 s and 60 MB, only where files are read or written.
    import pyarrow  # noqa: PLC0415
    import pyarrow.compute  # noqa: PLC0415
    import pyarrow.csv  # noqa: PLC0415
    import pyarrow.feather  # noqa: PLC0415
    import pyarrow.parquet  # noqa: PLC0415

    return pyarrow


def columns_of(name: str, names: Sequence[str]) -> dict[str, str]:
    """Which column of a file is the open time, and which are the numbers, by our names for them."""
    known: dict[str, str] = {}
    for column in names:
        word = column.strip().lower().replace(" ", "_")
        if word in known and word in (*TIMES, *NUMBERS):
            raise Unreadable(f"{name}: wanted one column {word}, was two of them")
        known.setdefault(word, column)
    time = next((word for word in TIMES if word in known), None)
    missing = [word for word in NUMBERS if word not in known]
    if time is None or missing:
        wanted = ", ".join(([f"a time ({', '.join(TIMES)})"] if time is None else []) + missing)
        raise Unreadable(f"{name}: wanted a column for {wanted}, was {', '.join(names)[:120] or 'none'}")
    return {"open_ms": known[time], **{word: known[word] for word in NUMBERS}}


def words_of(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of a part of a file, which knows where it is."""

    name: str
    values: Any
    where: str
    first_row: int

    def refuse(self, at: int, wanted: str, was: object = None) -> NoReturn:
        was = self.values[at].as_py() if was is None else was
        shown = "none" if was is None else repr(was)[:60]
        raise Unreadable(
            f"{self.where}, row {self.first_row + at + 1}, column {self.name}: wanted {wanted}, was {shown}"
        )


def part_of(name: str, batch: Any, done: float, first_row: int) -> Part:
    pa = arrow()
    columns = {
        ours: _Column(theirs, batch.column(theirs), name, first_row)
        for ours, theirs in columns_of(name, batch.schema.names).items()
    }
    opens = _times(columns["open_ms"])
    texts, floats = zip(*(_numbers(columns[word]) for word in NUMBERS), strict=True)
    table = pa.table([pa.array(opens), *texts], names=["open_ms", *NUMBERS])
    return Part(table, Candles(opens, *floats), min(done, 1.0))


def _times(column: _Column) -> IntArray:
    """A column of times as epoch milliseconds."""
    pa = arrow()
    values, kind = column.values, column.values.type
    if values.null_count:
        column.refuse(int(np.flatnonzero(values.is_null())[0]), "a time")
    if pa.types.is_date(kind):
        values, kind = values.cast(pa.timestamp("ms")), pa.timestamp("ms")
    if pa.types.is_timestamp(kind):
        return _in_ms(column, _ints(values), {"s": -1000, "ms": 1, "us": 1000, "ns": 1_000_000}[kind.unit])
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        values = pa.compute.utf8_trim_whitespace(values)
        try:
            values = values.cast(pa.int64())
        except pa.ArrowInvalid:
            return _in_ms(column, _ints(_stamps(column, values)), 1000)
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        column.refuse(0, f"times or numbers, of {column.name} none is {kind}")
    return _since_1970(column, values)


def _since_1970(column: _Column, values: Any) -> IntArray:
    numbers = _ints(values)
    first = int(numbers[0])
    unit = next(((least, factor) for least, factor in _UNITS if least <= first < 1000 * least), None)
    if unit is None:
        column.refuse(0, "a time in s, ms, us or ns since 1970, after 1973", first)
    least, factor = unit
    if len(others := np.flatnonzero((numbers < least) | (numbers >= 1000 * least))):
        column.refuse(int(others[0]), f"a time in the same unit as {first}")
    return _in_ms(column, numbers, factor)


def _in_ms(column: _Column, numbers: IntArray, factor: int) -> IntArray:
    if factor < 0:
        return numbers * -factor
    if len(broken := np.flatnonzero(numbers % factor)):
        column.refuse(int(broken[0]), "whole milliseconds")
    return numbers // factor


def _stamps(column: _Column, words: Any) -> Any:
    """ISO 8601 as microseconds; all of them with a zone, or none."""
    pa = arrow()
    has_zone = pa.compute.match_substring_regex(words, f"{_ISO}{_ZONE}")
    is_bare = pa.compute.match_substring_regex(words, f"{_ISO}$")
    is_with = bool(has_zone[0].as_py())
    right = has_zone if is_with else is_bare
    wanted = "a time in ISO 8601 " + ("with" if is_with else "without") + " a zone, as the rows before it"
    if len(wrong := np.flatnonzero(~right.to_numpy(zero_copy_only=False))):
        at = int(wrong[0])
        column.refuse(at, wanted if at else "a time: a number of s, ms, us or ns since 1970, or ISO 8601")
    try:
        return words.cast(pa.timestamp("us", "UTC" if is_with else None))
    except pa.ArrowInvalid as error:
        raise Unreadable(f"{column.where}, column {column.name}: wanted times, was: {words_of(error)}") from error


def _ints(values: Any) -> IntArray:
    numbers: IntArray = values.cast(arrow().int64()).to_numpy(zero_copy_only=False)
    return numbers


def _numbers(column: _Column) -> tuple[Any, FloatArray]:
    """A column of numbers as text with all its digits, and as floats."""
    pa = arrow()
    kind = column.values.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        text, floats = _from_text(column)
    elif pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind):
        text = column.values.cast(pa.string()).fill_null("nan")
        floats = text.cast(pa.float64())
    else:
        column.refuse(0, f"numbers, of {column.name} none is {kind}")
    array: FloatArray = floats.to_numpy(zero_copy_only=False)
    with np.errstate(invalid="ignore"):
        too_large = np.flatnonzero(np.isfinite(array) & (np.abs(array) >= _TOO_LARGE))
    if len(too_large):
        column.refuse(int(too_large[0]), "a number below 10^18")
    return text, array


def _from_text(column: _Column) -> tuple[Any, Any]:
    pa = arrow()
    words = column.values.cast(pa.string()).fill_null("nan")
    with suppress(pa.ArrowInvalid):
        return words, words.cast(pa.float64())
    words = pa.compute.utf8_trim_whitespace(words)
    is_none = pa.compute.is_in(pa.compute.utf8_lower(words), pa.array(_NONE))
    is_number = pa.compute.match_substring_regex(words, NUMBER)
    wrong = np.flatnonzero(~pa.compute.or_(is_none, is_number).to_numpy(zero_copy_only=False))
    if len(wrong):
        column.refuse(int(wrong[0]), "a number")
    words = pa.compute.if_else(is_none, "nan", words)
    return words, words.cast(pa.float64())
