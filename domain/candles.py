"""Candles as arrays, named by their open time, and the timeframes they come in.

A candle is closed when its timeframe has passed on the venue's clock; nothing here decides on an open one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_UNIT_SECONDS = {"m": 60, "h": 3600, "d": 86400}


class Timeframe(StrEnum):
    """How long a candle lasts. All of them divide the UTC day, so opens are multiples of the length since the epoch."""

    M1 = "1m"
    M3 = "3m"
    M5 = "5m"
    M15 = "15m"
    M30 = "30m"
    H1 = "1h"
    H2 = "2h"
    H4 = "4h"
    H6 = "6h"
    H8 = "8h"
    H12 = "12h"
    D1 = "1d"

    @property
    def seconds(self) -> int:
        return int(self.value[:-1]) * _UNIT_SECONDS[self.value[-1]]

    @property
    def length(self) -> timedelta:
        return timedelta(seconds=self.seconds)

    def open_of(self, at: datetime) -> datetime:
        """The open time of the candle that ``at`` falls into."""
        return datetime.fromtimestamp(at.timestamp() // self.seconds * self.seconds, tz=UTC)

    def is_closed(self, open_at: datetime, now: datetime) -> bool:
        """Whether the candle that opened at ``open_at`` can no longer change, by the venue's clock ``now``."""
        return open_at + self.length <= now


@dataclass(frozen=True, slots=True)
class Extremes:
    """The highest and the lowest price of some closed candles, and the open time of the last of them."""

    high: Decimal
    low: Decimal
    until: datetime


class _Remembered:
    """What something else may hang on, and lose with it; apart, so that the slots of candles are their arrays."""

    __slots__ = ("__weakref__",)


@dataclass(frozen=True, slots=True)
class Candles(_Remembered):
    """Closed candles of one feed, oldest first: parallel arrays of one length, ``open_ms`` in epoch milliseconds UTC."""

    open_ms: IntArray
    open: FloatArray
    high: FloatArray
    low: FloatArray
    close: FloatArray
    volume: FloatArray

    def __post_init__(self) -> None:
        lengths = {field.name: len(getattr(self, field.name)) for field in fields(self)}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"wanted arrays of one length, was {lengths}")

    @classmethod
    def from_rows(cls, rows: Iterable[Sequence[float]]) -> Candles:
        """From rows of (open_ms, open, high, low, close, volume), oldest first."""
        table = np.array(list(rows), dtype=np.float64).reshape(-1, 6)
        return cls(table[:, 0].astype(np.int64), *(np.ascontiguousarray(table[:, column]) for column in range(1, 6)))

    def __len__(self) -> int:
        return len(self.open_ms)

    def upto(self, length: int) -> Candles:
        """The first ``length`` candles: history as it stood when the last of them closed."""
        return self.between(0, length)

    def between(self, start: int, end: int) -> Candles:
        """The candles at indices ``start`` to before ``end``; they share the arrays of these."""
        return Candles(*(getattr(self, field.name)[start:end] for field in fields(self)))
