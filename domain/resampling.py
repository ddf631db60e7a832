"""Longer candles from shorter ones, and candles from trades: exact, and only where nothing is missing.

Pure. A longer candle is made when every shorter one is there that the market's calendar expects within it: a high that nobody
saw would make a wrong one, which looks like any other. None is made instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from domain.calendars import DAY_MS, Calendar, candle_of, expected_opens, is_expected
from domain.candles import Candles, FloatArray, IntArray, Timeframe

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
PRECISION = 60  # digits: a column holds 36, and Python's own 28 would round their sum


class ExactCandle(Protocol):
    """A candle in exact figures, a dataclass of whatever floor."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def open_at(self) -> datetime: ...
    @property
    def open(self) -> Decimal: ...
    @property
    def high(self) -> Decimal: ...
    @property
    def low(self) -> Decimal: ...
    @property
    def close(self) -> Decimal: ...
    @property
    def volume(self) -> Decimal: ...


C = TypeVar("C", bound=ExactCandle)


@dataclass(frozen=True, slots=True)
class ExactTrade:
    """What was traded between others."""

    traded_at: datetime
    price: Decimal
    quantity: Decimal


@dataclass(frozen=True, slots=True)
class TradedCandle:
    """A candle of trades, in exact figures."""

    open_at: datetime
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal


def require_shorter(shorter: Timeframe, longer: Timeframe, calendar: Calendar) -> None:
    """Raise ValueError where no ``longer`` candle is made of whole ``shorter`` ones."""
    if shorter.seconds >= longer.seconds or longer.seconds % shorter.seconds:
        raise ValueError(f"wanted candles that make up whole ones of {longer.value}, was {shorter.value}")
    if calendar is Calendar.FX and longer is Timeframe.D1 and shorter.seconds > Timeframe.H1.seconds:
        # The day ends at 17:00 New York, amid a longer candle in winter or in summer.
        raise ValueError(f"wanted candles of 1h or shorter for days of currencies, was {shorter.value}")


def resample(candles: Candles, shorter: Timeframe, longer: Timeframe, calendar: Calendar) -> Candles:
    """The complete candles of ``longer`` that those of ``shorter``, oldest first, make up."""
    rows, starts = _complete(candles.open_ms, shorter, longer, calendar)
    if not len(rows):
        return candles.upto(0)
    ends = np.append(starts[1:], len(rows)) - 1
    return Candles(
        candle_of(calendar, longer, candles.open_ms[rows[starts]]),
        candles.open[rows[starts]],
        np.maximum.reduceat(candles.high[rows], starts),
        np.minimum.reduceat(candles.low[rows], starts),
        candles.close[rows[ends]],
        np.add.reduceat(candles.volume[rows], starts),
    )


def resample_exact(candles: Sequence[C], shorter: Timeframe, longer: Timeframe, calendar: Calendar) -> list[C]:
    """As ``resample``, in the figures that came: of each candle's own kind, and what else it has from the first of them."""
    opens = np.array([_ms(candle.open_at) for candle in candles], dtype=np.int64)
    rows, starts = _complete(opens, shorter, longer, calendar)
    names = candle_of(calendar, longer, opens[rows[starts]]).tolist()
    made = []
    for name, some in zip(names, np.split(rows, starts)[1:], strict=True):
        parts = [candles[row] for row in some.tolist()]
        whole = {
            "open_at": EPOCH + name * MILLISECOND,
            "high": max(part.high for part in parts),
            "low": min(part.low for part in parts),
            "close": parts[-1].close,
            "volume": _total(part.volume for part in parts),
        }
        made.append(replace(parts[0], **whole))
    return made


def candles_of_trades(
    traded_ms: IntArray, price: FloatArray, quantity: FloatArray, timeframe: Timeframe, from_ms: int, until_ms: int
) -> Candles:
    """The candles of trades, oldest first, of which all from ``from_ms`` to before ``until_ms`` are given; none where nobody
    traded, nor one that reaches beyond that span."""
    names, rows, starts = _traded(traded_ms, timeframe, from_ms, until_ms)
    if not len(names):
        return Candles(names, *(np.empty(0) for _ in range(5)))
    price = price[rows]
    ends = np.append(starts[1:], len(price)) - 1
    return Candles(
        names,
        price[starts],
        np.maximum.reduceat(price, starts),
        np.minimum.reduceat(price, starts),
        price[ends],
        np.add.reduceat(quantity[rows], starts),
    )


def candles_of_trades_exact(
    trades: Sequence[ExactTrade], timeframe: Timeframe, from_at: datetime, until_at: datetime
) -> list[TradedCandle]:
    """As ``candles_of_trades``, in the figures that came."""
    traded_ms = np.array([_ms(trade.traded_at) for trade in trades], dtype=np.int64)
    names, rows, starts = _traded(traded_ms, timeframe, _ms(from_at), _ms(until_at))
    made = []
    for name, some in zip(names.tolist(), np.split(np.arange(len(trades))[rows], starts)[1:], strict=True):
        parts = [trades[row] for row in some.tolist()]
        prices = [trade.price for trade in parts]
        volume = _total(trade.quantity for trade in parts)
        open_at = EPOCH + name * MILLISECOND
        made.append(TradedCandle(open_at, prices[0], max(prices), min(prices), prices[-1], volume))
    return made


def _complete(
    opens: IntArray, shorter: Timeframe, longer: Timeframe, calendar: Calendar
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The rows that make up complete candles of ``longer``, and where among these each of them begins."""
    require_shorter(shorter, longer, calendar)
    if (np.diff(opens) <= 0).any():
        raise ValueError("wanted candles oldest first, each of its time once, was otherwise")
    rows = np.flatnonzero(is_expected(calendar, shorter, opens))
    if not len(rows):
        return rows, rows
    names, starts, counts = np.unique(candle_of(calendar, longer, opens[rows]), return_index=True, return_counts=True)
    if calendar is Calendar.ALWAYS:
        is_whole = counts == longer.seconds // shorter.seconds
    else:
        # A day may begin on the date before its own, and a candle of a day off has no part that is expected.
        wanted = expected_opens(calendar, shorter, int(names[0]) - DAY_MS, int(names[-1]) + 2 * DAY_MS)
        wanted_names, wanted_counts = np.unique(candle_of(calendar, longer, wanted), return_counts=True)
        is_whole = counts == wanted_counts[np.searchsorted(wanted_names, names)]
    kept = np.repeat(is_whole, counts)
    ends = np.cumsum(counts[is_whole])
    return rows[kept], ends - counts[is_whole]


def _traded(
    traded_ms: IntArray, timeframe: Timeframe, from_ms: int, until_ms: int
) -> tuple[IntArray, slice, NDArray[np.intp]]:
    """Names of the candles that lie within the span and in which somebody traded, the trades within these, and where among
    these trades each candle begins."""
    if (np.diff(traded_ms) < 0).any():
        raise ValueError("wanted trades oldest first, was otherwise")
    step = timeframe.seconds * 1000
    lower, upper = np.searchsorted(traded_ms, (-(-from_ms // step) * step, until_ms // step * step)).tolist()
    names, starts = np.unique(traded_ms[lower:upper] // step * step, return_index=True)
    return names, slice(lower, upper), starts


def _total(values: Iterable[Decimal]) -> Decimal:
    with localcontext(prec=PRECISION):
        return sum(values, Decimal(0))


def _ms(at: datetime) -> int:
    return (at - EPOCH) // MILLISECOND
