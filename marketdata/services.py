"""Collecting candles (DataCollect) and reading them back (MarketDataService).

A feed is asked for when a candle of it has closed on the venue's clock; only closed candles are stored, each once; and
what was stored is announced in the same transaction that stored it. A feed whose candles do not come is marked stale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from django.db import connection, transaction
from django.db.models import Q
from django.utils import timezone

from domain.candles import Candles, Extremes, Timeframe
from exchanges.gateway import CandleReport, ExchangeUnavailable
from exchanges.models import Exchange, Market
from exchanges.services import gateway_for
from marketdata.models import Feed
from pipeline.topics import Topic, publish

# How much history a feed starts with: enough for the longest warm-up a strategy may declare.
HISTORY = 1000
# The most one request may return at KuCoin is 1500; a longer gap is filled over several collections.
REQUEST_LIMIT = 1500
LEASE = timedelta(seconds=30)
# A venue may publish a candle a little after its close; after this many looks a bucket without trades is taken as such.
LOOKS_BEFORE_GAP = 5
LOOK_AGAIN = timedelta(seconds=1)
LONGEST_BACK_OFF = timedelta(seconds=60)
# A feed is stale when its last candle closed more than two timeframes ago by the venue's clock, and a minute of our own. A
# venue that could not be asked a few times proves nothing yet: after an absence of ours every last candle is old.
STALE_AFTER_TIMEFRAMES = 2
STALE_MARGIN = timedelta(seconds=60)
STALE_AFTER_FAILURES = 5


def feed_ensure(market: Market, timeframe: Timeframe) -> Feed:
    """The feed of ``market`` and ``timeframe``, made if it is the first of its kind."""
    return Feed.objects.get_or_create(market=market, timeframe=timeframe.value)[0]


def feed_need(feed_id: int, is_needed: bool) -> bool:
    """Start or end collection of a feed; whether this changed anything. A feed that is needed again is due at once."""
    next_due_at = timezone.now() if is_needed else None
    changes = {
        "is_needed": is_needed, "next_due_at": next_due_at, "misses": 0, "stale_since": None, "stale_told_at": None,
    }  # fmt: skip
    return bool(Feed.objects.filter(pk=feed_id, is_needed=not is_needed).update(**changes))


def feeds_due(now: datetime) -> list[int]:
    """Feeds with a candle to collect and nobody at it: what the sweep rings for."""
    free = Q(leased_until=None) | Q(leased_until__lt=now)
    return list(
        Feed.objects.filter(free, is_needed=True, next_due_at__lte=now, market__exchange__is_enabled=True)
        .order_by("next_due_at")
        .values_list("pk", flat=True)
    )


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
    Feed.objects.filter(pk__in=wanted, is_needed=True, last_error="", next_due_at__gt=now).update(next_due_at=now)
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


def feed_collect(feed_id: int) -> int:
    """Fetch and store what has closed since the last collection; how many candles are new.

    1. Lease the feed by a guarded update: a second collector finds nothing to claim.
    2. Ask the venue, holding no transaction.
    3. Store the closed candles, the next due time and the announcement in one transaction.

    A venue that cannot be reached leaves the feed due again after a growing pause, with the reason on the row.
    """
    now = timezone.now()
    free = Q(leased_until=None) | Q(leased_until__lt=now)
    lease = now + LEASE
    if not Feed.objects.filter(free, pk=feed_id, is_needed=True, next_due_at__lte=now).update(leased_until=lease):
        return 0
    feed = Feed.objects.select_related("market__exchange").get(pk=feed_id)
    timeframe, exchange = Timeframe(feed.timeframe), feed.market.exchange
    since = _collect_since(feed, timeframe, exchange.time_at(now))
    try:
        reports = gateway_for(exchange, markets=[feed.market]).candles(
            feed.market.symbol, feed.timeframe, since, REQUEST_LIMIT
        )
    except ExchangeUnavailable as error:
        _collect_failed(feed, lease, str(error))
        return 0
    # By the clock as it stood when we asked: a candle may close while the answer is on its way, and what is in the answer
    # is then not the whole of it.
    venue_now = exchange.time_at(now)
    closed = [row for row in reports if row.open_at >= since and timeframe.is_closed(row.open_at, venue_now)]
    last_open_at = max((row.open_at for row in closed), default=feed.last_open_at)
    has_all = last_open_at is not None and last_open_at >= timeframe.open_of(venue_now) - timeframe.length
    looks = 0 if feed.last_error else feed.misses
    is_looking_again = not has_all and looks < LOOKS_BEFORE_GAP
    stale_at = _stale_at(last_open_at, timeframe, exchange, now)
    if is_looking_again:
        next_due_at = timezone.now() + min(LOOK_AGAIN, exchange.wall_delay(timeframe.length))
    else:
        closes_in = timeframe.open_of(venue_now) + timeframe.length - venue_now
        next_due_at = now + exchange.wall_delay(closes_in)
        if stale_at is not None and stale_at > now:
            next_due_at = min(next_due_at, stale_at)  # to say so when it is so, not a candle later
    is_stale = stale_at is not None and stale_at <= now
    with transaction.atomic():
        new = candles_store(feed_id, closed)
        # The lease is the fence: a collector that was overtaken while the venue kept it waiting must not move the clock.
        Feed.objects.filter(pk=feed_id, leased_until=lease).update(
            leased_until=None,
            next_due_at=next_due_at,
            last_open_at=last_open_at,
            misses=looks + 1 if is_looking_again else 0,
            last_error="",
            stale_since=(feed.stale_since or now) if is_stale else None,
        )
        if new:
            publish(
                Topic.MARKETDATA, feed_id, feed_id=feed_id,
                data={"new": new, "last_open_at": last_open_at, "feed": str(feed)},
            )  # fmt: skip
    return new


def candles_store(feed_id: int, rows: Sequence[CandleReport]) -> int:
    """Insert closed candles that are not there yet; how many were new."""
    if not rows:
        return 0
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO marketdata_candle (feed_id, open_at, open, high, low, close, volume, collected_at)
            SELECT %s, row.*, clock_timestamp()
            FROM unnest(%s::timestamptz[], %s::numeric[], %s::numeric[], %s::numeric[], %s::numeric[], %s::numeric[]) AS row
            ON CONFLICT DO NOTHING
            """,
            [
                feed_id,
                *(
                    [getattr(row, name) for row in rows]
                    for name in ("open_at", "open", "high", "low", "close", "volume")
                ),
            ],
        )
        return int(cursor.rowcount)


def candles_window(feed_id: int, limit: int, until: datetime | None = None) -> Candles:
    """The last ``limit`` closed candles of a feed as arrays, oldest first; ``until``: of those that open then or before."""
    # Raw, and floats from the server: five times faster than the ORM, on every evaluation.
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT (extract(epoch FROM open_at) * 1000)::float8,
                   open::float8, high::float8, low::float8, close::float8, volume::float8
            FROM marketdata_candle WHERE feed_id = %s AND open_at <= coalesce(%s, 'infinity'::timestamptz)
            ORDER BY open_at DESC LIMIT %s
            """,
            [feed_id, until, limit],
        )
        return Candles.from_rows(reversed(cursor.fetchall()))


def candles_extremes(asked: Sequence[tuple[int, datetime]]) -> list[Extremes | None]:
    """For each feed and time, the extremes of its closed candles that opened after that time; None where there are none."""
    if not asked:
        return []
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT found.high, found.low, found.until
            FROM unnest(%s::bigint[], %s::timestamptz[]) WITH ORDINALITY AS asked (feed_id, since, number)
            CROSS JOIN LATERAL (
                SELECT max(high) AS high, min(low) AS low, max(open_at) AS until FROM marketdata_candle
                WHERE feed_id = asked.feed_id AND open_at > asked.since
            ) AS found
            ORDER BY asked.number
            """,
            [[feed_id for feed_id, _ in asked], [since for _, since in asked]],
        )
        return [None if until is None else Extremes(high, low, until) for high, low, until in cursor.fetchall()]


def _collect_since(feed: Feed, timeframe: Timeframe, venue_now: datetime) -> datetime:
    history = timeframe.open_of(venue_now) - HISTORY * timeframe.length
    if feed.last_open_at is None:
        return history
    return max(feed.last_open_at + timeframe.length, history)


def _stale_at(
    last_open_at: datetime | None, timeframe: Timeframe, exchange: Exchange, now: datetime
) -> datetime | None:
    """When, in our time, a feed whose last candle is that one is stale; None while the venue's clock stands still."""
    if exchange.clock_speed <= 0:
        return None
    venue_now = exchange.time_at(now)
    if last_open_at is None:  # nothing in all of the history that was asked for
        last_open_at = timeframe.open_of(venue_now) - HISTORY * timeframe.length
    late_at = last_open_at + (1 + STALE_AFTER_TIMEFRAMES) * timeframe.length
    return now + exchange.wall_delay(late_at - venue_now) + STALE_MARGIN


def _collect_failed(feed: Feed, lease: datetime, reason: str) -> None:
    failures = feed.misses if feed.last_error else 0
    pause = min(timedelta(seconds=2 ** min(failures, 6)), LONGEST_BACK_OFF)
    now = timezone.now()
    stale_at = _stale_at(feed.last_open_at, Timeframe(feed.timeframe), feed.market.exchange, now)
    is_stale = stale_at is not None and stale_at <= now and failures + 1 >= STALE_AFTER_FAILURES
    Feed.objects.filter(pk=feed.pk, leased_until=lease).update(
        leased_until=None,
        next_due_at=now + pause,
        misses=failures + 1,
        last_error=reason[:200],
        stale_since=feed.stale_since or (now if is_stale else None),
    )
