"""Which of a feed's sources is asked: the first that serves. A switch is told, and undone when an earlier one is back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from marketdata.models import Feed, FeedSource, SourceKind
from marketdata.sources import Source, SourceFailed
from marketdata.sources.exchange import ExchangeSource


@dataclass(frozen=True, slots=True)
class Choice:
    """A source to ask now; ``row`` is empty for a feed that lists none and has its exchange."""

    kind: SourceKind
    source: Source
    row: FeedSource | None = None


def sources_to_ask(feed: Feed, now: datetime) -> list[Choice]:
    """The sources of a feed in the order in which to ask them now: the first answer that passes its checks is taken. One
    that has to be left alone for a while is not among them."""
    return [Choice(SourceKind.EXCHANGE, ExchangeSource(feed.market, feed.timeframe))]


def source_served(feed: Feed, choice: Choice, now: datetime) -> None:
    """Note that ``choice`` gave candles that passed their checks. Must run in a transaction; publishes a switch."""


def source_failed(feed: Feed, choice: Choice, error: SourceFailed, now: datetime) -> None:
    """Note that ``choice`` gave none, or none that passed."""
