"""Places that tell a feed's past: each has what a test puts there, and says when it was asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from exchanges.gateway import CandleReport
from marketdata import backfills, history, repairs
from marketdata.failover import Choice
from marketdata.models import Feed, FeedSource, SourceKind
from marketdata.sources import SourceFailed
from tests.factories import NOON, make_exchange, make_feed, make_market
from tests.marketdata.conftest import MINUTE, candle


@dataclass
class Place:
    """A source with every minute's candle up to ``ends_at`` but those ``without``; at most ``at_most`` in an answer.
    ``changed`` are told otherwise. ``meanwhile`` happens while the answer is on its way."""

    kind: SourceKind = SourceKind.EXCHANGE
    row: FeedSource | None = None
    ends_at: datetime = NOON
    begins_at: datetime = NOON - timedelta(days=365)
    without: set[datetime] = field(default_factory=set)
    changed: dict[datetime, CandleReport] = field(default_factory=dict)
    at_most: int = 1500
    error: SourceFailed | None = None
    asked: list[datetime] = field(default_factory=list)
    meanwhile: Callable[[], object] = lambda: None

    def candles(self, since: datetime, limit: int) -> Sequence[CandleReport]:
        self.asked.append(since)
        self.meanwhile()
        if self.error is not None:
            raise self.error
        opens = [since + number * MINUTE for number in range(min(limit, self.at_most))]
        there = [at for at in opens if self.begins_at <= at < self.ends_at and at not in self.without]
        return [self.changed.get(at) or candle(at) for at in there]


@dataclass
class Places:
    """The sources of every feed, first ones first, and the clock that tests set by hand. A place with an error that is left
    alone is not offered."""

    now: datetime = NOON
    sources: list[Place] = field(default_factory=lambda: [Place()])

    @property
    def first(self) -> Place:
        return self.sources[0]


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> Places:
    """The sources behind every feed, and the time it is."""
    places = Places()
    monkeypatch.setattr(
        history,
        "sources_to_ask",
        lambda feed, now: [Choice(place.kind, place, place.row) for place in places.sources],
    )
    for module in (backfills, repairs):
        clock = SimpleNamespace(now=lambda: places.now, is_naive=lambda at: at.tzinfo is None)
        monkeypatch.setattr(module, "timezone", clock)
    return places


def minutes_feed(**fields: Any) -> Feed:
    """A feed of minutes of a venue whose clock is ours."""
    return make_feed(make_market(make_exchange(clock_anchor_at=NOON, clock_venue_at=NOON)), **fields)


def opens(feed: Feed) -> list[datetime]:
    return list(feed.candles.order_by("open_at").values_list("open_at", flat=True))


def span(from_at: datetime, count: int) -> list[datetime]:
    return [from_at + number * MINUTE for number in range(count)]
