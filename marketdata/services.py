"""Feeds and who needs them, and reading their candles back (MarketDataService).

A feed is collected (``marketdata/collection.py``) exactly while it is needed; a candle that the stream sees begin makes it
due at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from domain.calendars import Calendar
from domain.candles import Timeframe
from exchanges.gateway import CandleReport
from exchanges.models import Market
from marketdata.collection import feed_collect, feeds_collect, feeds_due
from marketdata.models import Feed, SourceKind
from marketdata.storage import candles_arrays, candles_extremes, candles_merge, candles_window

__all__ = [
    "candles_arrays", "candles_extremes", "candles_store", "candles_window", "feed_collect", "feed_ensure", "feed_need",
    "feed_note_told", "feeds_collect", "feeds_due", "feeds_hasten", "feeds_untold",
]  # fmt: skip


def feed_ensure(market: Market, timeframe: Timeframe) -> Feed:
    """The feed of ``market`` and ``timeframe``, made if it is the first of its kind, open when the market's others are."""
    defaults: dict[str, Any] = {"calendar": lambda: _calendar_of(market)}
    return Feed.objects.get_or_create(market=market, timeframe=timeframe.value, defaults=defaults)[0]


def _calendar_of(market: Market) -> str:
    known = Feed.objects.filter(market=market).order_by("pk").values_list("calendar", flat=True).first()
    return known or Calendar.ALWAYS.value


def feed_need(feed_id: int, is_needed: bool) -> bool:
    """Start or end collection of a feed; whether this changed anything. A feed that is needed again is due at once."""
    next_due_at = timezone.now() if is_needed else None
    changes = {
        "is_needed": is_needed, "next_due_at": next_due_at, "misses": 0, "stale_since": None, "stale_told_at": None,
    }  # fmt: skip
    return bool(Feed.objects.filter(pk=feed_id, is_needed=not is_needed).update(**changes))


def feeds_hasten(seen: Mapping[int, datetime]) -> dict[int, bool]:
    """Make feeds due now of which a newer candle was seen to begin, by feed the open time of the newest seen. By feed,
    whether there is something to collect; those whose candle has not closed by our notion of the venue's clock are left
    out: ask again in a moment.

    A feed that could not be read waits out its pause, whatever was seen.
    """
    now = timezone.now()
    verdicts: dict[int, bool] = {}
    for feed in Feed.objects.filter(pk__in=seen, is_needed=True).select_related("market__exchange"):
        timeframe = Timeframe(feed.timeframe)
        closed_at = seen[feed.pk] - timeframe.length  # the open time of the candle that must have closed by now
        if feed.last_open_at is not None and feed.last_open_at >= closed_at:
            verdicts[feed.pk] = False
        elif timeframe.is_closed(closed_at, feed.market.exchange.time_at(now)):
            verdicts[feed.pk] = not feed.last_error
    wanted = [pk for pk, is_due in verdicts.items() if is_due]
    # Locked in the order of their ids, as the collector locks those that it stores together.
    later = Feed.objects.filter(pk__in=wanted, is_needed=True, last_error="", next_due_at__gt=now)
    with transaction.atomic():
        Feed.objects.filter(pk__in=later.order_by("pk").select_for_update(no_key=True).values("pk")).update(
            next_due_at=now
        )
    return verdicts


def feeds_untold(now: datetime) -> list[int]:
    """Feeds that are stale, or no longer, without the traders having been told: what the sweep rings for."""
    changed = Q(stale_since__isnull=False, stale_told_at=None) | Q(stale_since=None, stale_told_at__isnull=False)
    return list(Feed.objects.filter(changed, is_needed=True).values_list("pk", flat=True))


def feed_note_told(feed: Feed) -> bool:
    """Note that the traders are told of what ``feed`` says of itself; whether it was this call's to tell. Must run in the
    transaction that tells them."""
    untold = Feed.objects.filter(pk=feed.pk, is_needed=True, stale_since=feed.stale_since)
    if feed.stale_since is None:
        return bool(untold.filter(stale_told_at__isnull=False).update(stale_told_at=None))
    return bool(untold.filter(stale_told_at=None).update(stale_told_at=timezone.now()))


def candles_store(feed_id: int, rows: Sequence[CandleReport], source: SourceKind = SourceKind.EXCHANGE) -> int:
    """Store closed candles of one feed; how many were not there yet."""
    with transaction.atomic():
        return candles_merge([(feed_id, row, source) for row in rows]).new.get(feed_id, 0)
