"""A venue of candles and a clock that tests set by hand, so that every due time can be told exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace

import pytest

from domain.candles import Timeframe
from exchanges.gateway import CandleReport, ExchangeUnavailable
from marketdata import services
from marketdata.models import Feed
from marketdata.sources import exchange
from tests.factories import NOON, make_exchange, make_feed, make_market

MINUTE = timedelta(minutes=1)


def candle(open_at: datetime, close: str = "50000") -> CandleReport:
    price = Decimal(close)
    return CandleReport(open_at, price, price, price, price, Decimal(1))


@dataclass
class Shelf:
    """What a venue has to give: every candle up to the open one but those ``held_back``, and the ``unasked`` ones before;
    ``asked`` is from when on it was asked. ``meanwhile`` happens while the answer is on its way."""

    now: datetime = NOON + timedelta(seconds=30)
    held_back: set[datetime] = field(default_factory=set)
    unasked: list[datetime] = field(default_factory=list)
    asked: list[datetime] = field(default_factory=list)
    error: str = ""
    meanwhile: Callable[[], object] = lambda: None

    def candles(self, symbol: str, timeframe: str, since: datetime, limit: int) -> list[CandleReport]:
        length = Timeframe(timeframe).length
        self.asked.append(since)
        if self.error:
            raise ExchangeUnavailable(self.error)
        count = min(limit, max(0, (self.now - since) // length + 1))
        opens = [since + number * length for number in range(count)]
        answer = [candle(open_at) for open_at in (*self.unasked, *opens) if open_at not in self.held_back]
        self.meanwhile()
        return answer


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """The venue behind every gateway that marketdata is handed, and the wall clock it looks at."""
    shelf = Shelf()
    monkeypatch.setattr(exchange, "gateway_for", lambda _, markets=(): shelf)
    monkeypatch.setattr(services, "timezone", SimpleNamespace(now=lambda: shelf.now))
    return shelf


def needed_feed(shelf: Shelf, timeframe: Timeframe = Timeframe.M1, **fields: object) -> Feed:
    """A feed that is due, of a venue whose clock is ours; it has all candles but the last that closed."""
    last = timeframe.open_of(shelf.now) - 2 * timeframe.length
    market = make_market(make_exchange(clock_anchor_at=NOON, clock_venue_at=NOON))
    defaults = {"is_needed": True, "next_due_at": shelf.now, "last_open_at": last}
    return make_feed(market, timeframe, **{**defaults, **fields})
