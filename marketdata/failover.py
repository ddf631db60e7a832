"""Which of a feed's sources is asked: the first that serves. A switch is told, and undone when an earlier one is back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.core.exceptions import ValidationError
from django.db import transaction

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


def feed_sources_set(feed: Feed, sources: Sequence[tuple[int, str]], *, actor: str = "system") -> bool:
    """List the sources of ``feed``, as (kind, symbol), the one to ask first first; none: the exchange of its market. Whether
    this changed anything. Raises ValidationError."""
    wanted = [(int(kind), symbol.strip()) for kind, symbol in sources]
    for number, (kind, symbol) in enumerate(wanted):
        if kind not in SourceKind.values:
            raise ValidationError(f"wanted a kind of source, one of {SourceKind.values}, was {kind}")
        if (kind, symbol) in wanted[:number]:
            raise ValidationError(f"wanted each source once, was {SourceKind(kind).label} {symbol} twice")
    with transaction.atomic():
        Feed.objects.select_for_update().get(pk=feed.pk)
        if list(FeedSource.objects.filter(feed=feed).values_list("kind", "symbol")) == wanted:
            return False
        FeedSource.objects.filter(feed=feed).delete()
        FeedSource.objects.bulk_create(
            FeedSource(feed=feed, rank=rank, kind=kind, symbol=symbol)
            for rank, (kind, symbol) in enumerate(wanted, start=1)
        )
    return True
