"""Candles of Alpha Vantage: shares, currencies and coins, by plain HTTP.

It answers an error, and a rate that is used up, with HTTP 200 and words in place of candles: neither is ever taken for
"nothing new". Times are told in the zone that the answer names; a daily candle is named by its date, at 00:00 UTC. Prices
are as they were traded, not adjusted for splits or dividends, and exact: they come as text. The key is in the address of
every call, so no error of the HTTP library is passed on, and what the answer says is repeated without it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import requests
from django.conf import settings
from django.utils import timezone

from domain.candles import Timeframe
from exchanges.gateway import CandleReport
from exchanges.venues import Pool
from marketdata.sources import SourceFailed
from marketdata.sources.guarded import Guard, NoAnswer

URL = "https://www.alphavantage.co/query"
TIMEOUT_SECONDS = (3.0, 10.0)
INTERVALS = {"1m": "1min", "5m": "5min", "15m": "15min", "30m": "30min", "1h": "60min", "1d": "daily"}
# So many of the latest candles come where no more are asked for.
COMPACT = 100
# Within a day of shares the whole of an answer reaches this far back; what is older is asked for by month.
WHOLE_REACHES = timedelta(days=28)
PAUSE_OF_A_MINUTE = timedelta(minutes=1)
PAUSE_OF_A_DAY = timedelta(hours=1)  # its day ends at a time that it does not tell
# What it has as currencies; any other pair is one of coins.
CURRENCIES = frozenset((
    "AED", "ARS", "AUD", "BRL", "CAD", "CHF", "CLP", "CNH", "CNY", "COP", "CZK", "DKK", "EUR", "GBP",
    "HKD", "HUF", "IDR", "ILS", "INR", "ISK", "JPY", "KRW", "KWD", "KZT", "MAD", "MXN", "MYR", "NGN",
    "NOK", "NZD", "PEN", "PHP", "PKR", "PLN", "QAR", "RON", "RSD", "RUB", "SAR", "SEK", "SGD", "THB",
    "TRY", "TWD", "UAH", "USD", "VND", "XAG", "XAU", "ZAR",
))  # fmt: skip

# The words for "later", whatever it calls them: a note, an information.
_IS_RATE = re.compile(r"rate limit|call frequency|requests? per|calls per|sparingly|higher api call", re.IGNORECASE)
# "1. open", "1a. open (USD)": the first of a name is in the currency asked for.
_COLUMN = re.compile(r"\d+[ab]?\. (open|high|low|close|volume)\b")


class AlphaVantageSource:
    """Candles of ``symbol``: a share (``IBM``), or two currencies or a coin and a currency (``EUR/USD``, ``BTC/USD``)."""

    def __init__(self, symbol: str, timeframe: str) -> None:
        self._symbol = symbol
        self._timeframe = timeframe

    def candles(self, since: datetime, limit: int) -> list[CandleReport]:
        if settings.ALPHA_VANTAGE_KEY is None:
            raise SourceFailed("wanted R3EDGE_ALPHA_VANTAGE_KEY to be set, was not", is_final=True)
        if self._timeframe not in INTERVALS:
            raise SourceFailed(f"wanted a timeframe of {', '.join(INTERVALS)}, was {self._timeframe}", is_final=True)
        key = settings.ALPHA_VANTAGE_KEY.get_secret_value()
        guard = Guard(
            "alphavantage",
            [Pool(settings.ALPHA_VANTAGE_PER_MINUTE, 60), Pool(settings.ALPHA_VANTAGE_PER_DAY, 86_400)],
        )
        for query in self._queries(since, timezone.now()):
            told = guard.ask(partial(_ask, query, key))
            if rows := [row for row in told if row.open_at >= since]:
                return rows[:limit]
        raise SourceFailed(f"wanted candles from {since:%Y-%m-%d %H:%M} on, were none")

    def _queries(self, since: datetime, now: datetime) -> Iterator[dict[str, str]]:
        """What to ask for candles from ``since`` on: one call, or two where a month may have none of them left."""
        base, _, quote = self._symbol.upper().partition("/")
        interval = INTERVALS[self._timeframe]
        length = Timeframe(self._timeframe).length
        # The latest hundred reach back at least this far: markets that close at times reach further.
        size = {"outputsize": "compact" if now - since <= (COMPACT - 1) * length else "full"}
        is_daily = interval == "daily"
        within = {} if is_daily else {"interval": interval}
        if quote and {base, quote} <= CURRENCIES:
            function = "FX_DAILY" if is_daily else "FX_INTRADAY"
            yield {"function": function, "from_symbol": base, "to_symbol": quote, **within, **size}
        elif quote:
            function = "DIGITAL_CURRENCY_DAILY" if is_daily else "CRYPTO_INTRADAY"
            yield {"function": function, "symbol": base, "market": quote, **within, **({} if is_daily else size)}
        elif is_daily:
            yield {"function": "TIME_SERIES_DAILY", "symbol": self._symbol, **size}
        else:
            # The regular session alone, as the calendar has it.
            share = {"function": "TIME_SERIES_INTRADAY", "symbol": self._symbol, **within}
            share |= {"adjusted": "false", "extended_hours": "false"}
            if now - since <= WHOLE_REACHES:
                yield {**share, **size}
                return
            for month in (since, (since.replace(day=1) + timedelta(days=31))):
                yield {**share, "outputsize": "full", "month": f"{month:%Y-%m}"}


def _ask(query: Mapping[str, str], key: str) -> list[CandleReport]:
    return candles_of(_fetch({**query, "apikey": key}), key)


def _fetch(query: Mapping[str, str]) -> Any:
    """The answer as JSON. Raises SourceFailed, never what has the address in its words."""
    try:
        # No redirect: the key would go wherever it leads.
        response = requests.get(URL, params=query, timeout=TIMEOUT_SECONDS, allow_redirects=False)
        status, answer = response.status_code, response.json() if response.status_code == 200 else None
    except ValueError:  # requests' own JSONDecodeError is one
        raise NoAnswer("wanted JSON, was something else") from None
    except requests.RequestException as error:
        raise NoAnswer(f"wanted an answer, was {type(error).__name__}") from None
    if status == 429:
        raise SourceFailed("wanted a rate that it allows, was HTTP 429", retry_after=PAUSE_OF_A_MINUTE)
    if status != 200:
        raise NoAnswer(f"wanted HTTP 200, was {status}")
    return answer


def candles_of(answer: Any, key: str) -> list[CandleReport]:
    """The candles of an answer, oldest first; raises SourceFailed for one that has words in their place."""
    if not isinstance(answer, dict):
        raise NoAnswer(f"wanted an object, was {type(answer).__name__}")
    name = next((name for name in answer if name.startswith("Time Series")), None)
    if name is None:
        raise _refusal(answer, key)
    meta = answer.get("Meta Data", {})
    zone_name = next((value for label, value in meta.items() if label.endswith("Time Zone")), "")
    try:
        zone = ZoneInfo(zone_name)
        return sorted((_report(at, row, zone) for at, row in answer[name].items()), key=lambda report: report.open_at)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise SourceFailed(f"wanted times in a zone that is known, was {zone_name!r}: {error}") from error
    except (AttributeError, KeyError, TypeError, InvalidOperation) as error:
        raise SourceFailed(f"wanted open, high, low and close of each candle, was {type(error).__name__}") from error


def _report(at: str, row: Mapping[str, str], zone: ZoneInfo) -> CandleReport:
    told = datetime.fromisoformat(at)
    # A day is named by its date in every zone.
    open_at = told.replace(tzinfo=UTC) if len(at) == len("2024-05-01") else told.replace(tzinfo=zone).astimezone(UTC)
    cells: dict[str, Decimal] = {}
    for label, value in row.items():
        if found := _COLUMN.match(label):
            cells.setdefault(found[1], Decimal(value))
    # Currencies have no volume: nobody counts it.
    return CandleReport(
        open_at, cells["open"], cells["high"], cells["low"], cells["close"], cells.get("volume", Decimal(0))
    )


def _refusal(answer: Mapping[str, Any], key: str) -> SourceFailed:
    words = next((answer[name] for name in ("Error Message", "Note", "Information") if name in answer), None)
    if words is None:
        return SourceFailed(f"wanted a time series, was {', '.join(map(str, answer)) or 'empty'}")
    text = str(words).replace(key, "***")  # it likes to repeat the key
    if "Error Message" not in answer and _IS_RATE.search(text):
        is_of_day = "per day" in text and "per minute" not in text
        return SourceFailed(text, retry_after=PAUSE_OF_A_DAY if is_of_day else PAUSE_OF_A_MINUTE)
    return SourceFailed(text, is_final=True)
