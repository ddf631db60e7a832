"""Candles of Yahoo Finance, through the HTTP client of ``yfinance``: its cookies and its likeness to a browser are what
Yahoo answers to. What is in the answer is read here, so that every figure is what Yahoo sent and every row is accounted for.

* Yahoo keeps prices as 32-bit floats and sends them with the digits of a 64-bit one (74.06 as 74.05999755859375). A price is
  the shortest decimal that is the same 32-bit float: no digit that Yahoo never had, and none lost.
* Prices are in today's shares: those before a split are divided by it, and differ from what was told before the split. They
  are not adjusted for dividends.
* A daily candle is named by the date of its session, at 00:00 UTC; others by their open. Weeks and months are not offered,
  nor half hours, for which Yahoo is known to answer whole ones: those are made of stored quarters.
* Rows without a price are left out and counted in the log.

yfinance is 100 MB with what it needs, and imported when it is first asked: ``./r3edge install sources`` installs it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from django.conf import settings
from django.utils import timezone

from domain.candles import Timeframe
from exchanges.gateway import CandleReport
from exchanges.venues import Pool
from marketdata.sources import SourceFailed
from marketdata.sources.guarded import Guard, NoAnswer

logger = logging.getLogger(__name__)

URL = "https://query2.finance.yahoo.com/v8/finance/chart"
TIMEOUT_SECONDS = 8.0
INTERVALS = {"1m": "1m", "5m": "5m", "15m": "15m", "1h": "1h", "1d": "1d"}
# It answers no more than eight days of minutes at once.
MOST_MINUTES = timedelta(days=7)
# A session may begin on the day before its date in UTC.
LONGEST_LEAD = timedelta(days=1)
PAUSE_OF_RATE = timedelta(minutes=2)
# What it says of a symbol, or a question, that will not be right another time.
_FINAL = ("Not Found", "Bad Request")


class YahooSource:
    """Candles of ``symbol``, as Yahoo calls it: ``AAPL``, ``BTC-USD``, ``EURUSD=X``."""

    def __init__(self, symbol: str, timeframe: str) -> None:
        self._symbol = symbol
        self._timeframe = timeframe

    def candles(self, since: datetime, limit: int) -> list[CandleReport]:
        if self._timeframe not in INTERVALS:
            raise SourceFailed(f"wanted a timeframe of {', '.join(INTERVALS)}, was {self._timeframe}", is_final=True)
        client = _client()
        query = self._query(since, timezone.now())
        guard = Guard("yahoo", [Pool(settings.YAHOO_PER_MINUTE, 60)])
        chart = guard.ask(lambda: _chart(_fetch(client, self._symbol, query)))
        rows, nulls = _reports(chart, Timeframe(self._timeframe))
        if nulls:
            logger.info("Yahoo %s %s: left out %d rows without a price", self._symbol, self._timeframe, nulls)
        for split in chart.get("events", {}).get("splits", {}).values():
            logger.info("Yahoo %s: prices before its split %s are divided by it", self._symbol, split.get("splitRatio"))
        wanted = [row for row in rows if row.open_at >= since][:limit]
        if not wanted:
            raise SourceFailed(f"wanted candles from {since:%Y-%m-%d %H:%M} on, were none")
        return wanted

    def _query(self, since: datetime, now: datetime) -> dict[str, Any]:
        # To the end, however long the market was closed meanwhile: what is over the limit is cut off here.
        until = min(now, since + MOST_MINUTES) if self._timeframe == "1m" else now
        lead = LONGEST_LEAD if self._timeframe == "1d" else timedelta(0)
        return {
            "interval": INTERVALS[self._timeframe],
            "period1": int((since - lead).timestamp()),
            "period2": max(int(until.timestamp()), int(since.timestamp())) + 1,
            "includePrePost": "false",
            "events": "split",
        }


@cache
def _client() -> Any:
    """yfinance's client, one for this process and safe between its threads, as patient as we are and silent."""
    try:
        # Here and not above: it is not installed for everybody, and takes a second to import.
        import yfinance  # noqa: PLC0415
        from curl_cffi.requests import Session  # noqa: PLC0415
        from yfinance.data import YfData  # noqa: PLC0415
    except ImportError as error:
        raise SourceFailed(
            f"wanted yfinance to be installed, was not ({error.name}): ./r3edge install sources", is_final=True
        ) from error
    # Its cookies, which it would keep in the home directory otherwise.
    yfinance.set_tz_cache_location(str(settings.YAHOO_CACHE_DIR))
    yfinance.config.network.retries = 0
    session = Session(impersonate="chrome")
    ask = session.request

    def request(method: str, url: str, **options: Any) -> Any:
        # It would wait half a minute for each of the cookies it asks for on its way.
        return ask(method, url, **{**options, "timeout": TIMEOUT_SECONDS})

    session.request = request
    return YfData(session=session)


def _fetch(client: Any, symbol: str, query: Mapping[str, Any]) -> Any:
    """The answer as JSON, or SourceFailed."""
    try:
        response = client.get(f"{URL}/{quote(symbol, safe='')}", params=dict(query), timeout=TIMEOUT_SECONDS)
        status = response.status_code
        answer = response.json() if status < 500 else None
    except Exception as error:  # of three libraries, and no class that they share
        if type(error).__name__ == "YFRateLimitError":
            raise SourceFailed("wanted a rate that Yahoo allows, was over it", retry_after=PAUSE_OF_RATE) from error
        raise NoAnswer(f"wanted an answer of Yahoo's, was {type(error).__name__}") from error
    if status >= 500:
        raise NoAnswer(f"wanted an answer of Yahoo's, was HTTP {status}")
    return answer


def _chart(answer: Any) -> dict[str, Any]:
    """The one result of an answer; raises SourceFailed for the error in its place."""
    chart = answer.get("chart") if isinstance(answer, dict) else None
    if not isinstance(chart, dict):
        raise NoAnswer("wanted a chart, was something else")
    if error := chart.get("error"):
        raise SourceFailed(f"{error.get('code')}: {error.get('description')}", is_final=error.get("code") in _FINAL)
    results = chart.get("result") or [{}]
    result: dict[str, Any] = results[0]
    return result


def _reports(chart: Mapping[str, Any], frame: Timeframe) -> tuple[list[CandleReport], int]:
    """The candles of a chart, oldest first, and how many of its rows have no price."""
    try:
        times: Sequence[int] = chart.get("timestamp") or []
        table: Mapping[str, Sequence[float | None]] = chart["indicators"]["quote"][0] if times else {}
        columns = [table[name] for name in ("open", "high", "low", "close", "volume")] if times else [[]] * 5
        opens = _sessions(times, chart["meta"]) if frame is Timeframe.D1 else [_utc(at) for at in times]
        reports: dict[datetime, CandleReport] = {}
        nulls = 0
        for open_at, *cells in zip(opens, *columns, strict=True):
            if any(cell is None or not math.isfinite(cell) for cell in cells[:4]):
                nulls += 1
                continue
            opened, high, low, close = map(_price, cells[:4])
            row = CandleReport(open_at, opened, high, low, close, Decimal(repr(cells[4] or 0)))
            # What is traded just now comes as a row of its own, after the one of its session.
            reports[open_at] = _joined(reports[open_at], row) if open_at in reports else row
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, ZoneInfoNotFoundError) as error:
        raise SourceFailed(f"wanted a chart that can be read, was {type(error).__name__}: {error}") from error
    return _on_grid(sorted(reports.values(), key=lambda report: report.open_at), frame), nulls


def _on_grid(rows: list[CandleReport], frame: Timeframe) -> list[CandleReport]:
    """Without the last row where that is the trading of just now. Stocks begin at half past: Yahoo's hours are then none."""
    if rows and frame.open_of(rows[-1].open_at) != rows[-1].open_at:
        rows = rows[:-1]
    for row in rows:
        if frame.open_of(row.open_at) != row.open_at:
            raise SourceFailed(
                f"wanted candles that open at multiples of {frame}, was {row.open_at:%H:%M}: those of 15m are",
                is_final=True,
            )
    return rows


def _joined(first: CandleReport, then: CandleReport) -> CandleReport:
    return CandleReport(
        first.open_at, first.open, max(first.high, then.high), min(first.low, then.low), then.close,
        max(first.volume, then.volume),
    )  # fmt: skip


def _utc(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, tz=UTC)


def _sessions(times: Sequence[int], meta: Mapping[str, Any]) -> list[datetime]:
    """The date of each session, at 00:00 UTC. By the zone and not by the offset that comes with it, which is today's."""
    zone = ZoneInfo(meta["exchangeTimezoneName"])
    dates = [datetime.fromtimestamp(at, tz=zone).date() for at in times]
    return [datetime(date.year, date.month, date.day, tzinfo=UTC) for date in dates]


def _price(cell: float) -> Decimal:
    """The shortest decimal that is the same 32-bit float, or the very number where it is none."""
    with np.errstate(over="ignore"):
        narrow = np.float32(cell)
    return Decimal(str(narrow)) if float(narrow) == cell else Decimal(repr(cell))
