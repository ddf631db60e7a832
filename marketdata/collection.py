"""Collecting candles (DataCollect): every closed candle once, however many workers collect.

A feed is asked for when a candle of it has closed on the venue's clock. Feeds that are due are leased by one statement,
asked for side by side while no transaction is open, and stored in rounds as their answers come; what was stored is announced
in the same transaction. The lease is the fence: whoever was overtaken writes nothing. What fails a check is quarantined, and
a feed whose candles do not come is marked stale.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import connection, transaction
from django.db.models import Q
from django.utils import timezone

from domain.candles import Timeframe
from marketdata.failover import Choice, may_tell_all, source_failed, source_served, sources_to_ask
from marketdata.gaps import gaps_note
from marketdata.history import gaps_settle
from marketdata.lanes import ask_in_lane
from marketdata.looks import HISTORY, Look, looks_judge
from marketdata.models import Feed, SourceKind
from marketdata.outcomes import Outcome, outcome_of
from marketdata.partitions import CANDLES, partitions_ensure
from marketdata.quarantine import Sifted, batches_sift, jumps_doubted
from marketdata.storage import Merged, candles_merge
from pipeline.claims import settled
from pipeline.crashpoints import crashpoint
from pipeline.topics import Note, Topic, publish_all

logger = logging.getLogger(__name__)

# Longer than a request may last and the time that it waits for its turn; what a worker held when it died is taken over after
# it.
LEASE = timedelta(seconds=20)
# So many feeds are leased by one statement, and so few of them are left to be answered when more are: what is leased is soon
# asked for.
CLAIM = 200
CLAIM_AHEAD = 100
# Tasks of one process that collect many feeds at once; they share its lanes, and more of them would only take threads from
# whatever else it serves.
COLLECTORS = 2
# Answers are stored together with those that come this soon after, as many rows at a time.
ROUND_SECONDS = 0.1
ROUND_ROWS = 20_000

# What opened before that is history: the months about now are made ahead.
HISTORY_AFTER = timedelta(days=1)

# Answered from our own disk or database: no network to wait for.
AT_HAND = frozenset({SourceKind.FILE, SourceKind.RESAMPLED})

_collectors = threading.BoundedSemaphore(COLLECTORS)


def feeds_due(now: datetime) -> list[int]:
    """Feeds with a candle to collect and nobody at it, those that wait longest first: what the sweep rings for."""
    free = Q(leased_until=None) | Q(leased_until__lt=now)
    return list(
        Feed.objects.filter(free, is_needed=True, next_due_at__lte=now, market__exchange__is_enabled=True)
        .order_by("next_due_at")
        .values_list("pk", flat=True)
    )


def feed_collect(feed_id: int) -> int:
    """``feeds_collect`` for one feed."""
    return feeds_collect([feed_id])


def feeds_collect(feed_ids: Iterable[int]) -> int:
    """Fetch and store what has closed since the last collection of those feeds that are due; how many candles are new.

    1. Lease feeds, some at a time, by one guarded update: a second collector finds nothing to claim.
    2. Ask their sources side by side, holding no transaction.
    3. Store what has come, in rounds: closed candles, next due times and the announcement in one transaction.

    A source that cannot be reached leaves a feed due again after a growing pause, with the reason on the row; one that
    refuses for its rate, after the pause that it asks for. Where this process is busy with many feeds already these are left
    as they are, for whoever is free when the sweep rings again.
    """
    ids = list(dict.fromkeys(feed_ids))
    if len(ids) == 1:
        return sum(_store([_ask_here(look)]) for look in _claimed(ids))
    if not _collectors.acquire(blocking=False):
        return 0
    try:
        claims = (_claimed(ids[start : start + CLAIM]) for start in range(0, len(ids), CLAIM))
        return sum(_store(some) for some in _rounds(claims))
    finally:
        _collectors.release()


# -- claiming -----------------------------------------------------------------------------------------------------------


def _claimed(feed_ids: Sequence[int]) -> list[Look]:
    now = timezone.now()
    return _begin(_claim(feed_ids, now), now)


def _claim(feed_ids: Sequence[int], now: datetime) -> list[Feed]:
    """Lease those of the feeds that are due; the longest waiting first."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE marketdata_feed SET leased_until = %s WHERE id IN (
                SELECT id FROM marketdata_feed
                WHERE id = ANY(%s::bigint[]) AND is_needed AND next_due_at <= %s
                    AND (leased_until IS NULL OR leased_until < %s)
                FOR UPDATE SKIP LOCKED
            ) RETURNING id
            """,
            [now + LEASE, list(feed_ids), now, now],
        )
        claimed = [pk for (pk,) in cursor.fetchall()]
    if not claimed:
        return []
    feeds = Feed.objects.filter(pk__in=claimed).order_by("next_due_at", "pk")
    return list(feeds.select_related("market__exchange", "source").prefetch_related("sources"))


def _begin(feeds: Sequence[Feed], now: datetime) -> list[Look]:
    doubted = jumps_doubted([feed.pk for feed in feeds], now) if feeds else {}
    looks = []
    for feed in feeds:
        try:
            since = _since(feed, feed.market.exchange.time_at(now), doubted.get(feed.pk))
            looks.append(Look(feed, since, now, sources_to_ask(feed, now)))
        except Exception:
            logger.exception("feed %s was not collected", feed.pk)
    return looks


def _since(feed: Feed, venue_now: datetime, doubted_at: datetime | None) -> datetime:
    """From the last candle that is there: its source may tell it otherwise by now. From a doubted one, to hear it again."""
    timeframe = Timeframe(feed.timeframe)
    history = timeframe.open_of(venue_now) - HISTORY * timeframe.length
    if feed.last_open_at is None:
        return history
    return max(history, min(feed.last_open_at, doubted_at or feed.last_open_at))


# -- asking -------------------------------------------------------------------------------------------------------------


def _ask_here(look: Look) -> Look:
    """Ask for one feed alone: no thread is quicker than this one."""
    while not look.is_over:
        look.ask()
        looks_judge([look])
    return look


def _rounds(claims: Iterator[list[Look]]) -> Iterator[list[Look]]:
    """Ask for all of them side by side; those that are over, some at a time, as soon as they are."""
    answered: queue.SimpleQueue[Look] = queue.SimpleQueue()
    left, is_last = 0, False
    while left or not is_last:
        while left <= CLAIM_AHEAD and not is_last:
            looks = next(claims, None)
            is_last = looks is None
            left += len(looks or ())
            # Those that cost the network's time first.
            for look in sorted(looks or (), key=lambda look: bool(look.choices) and look.choices[0].kind in AT_HAND):
                _ask(look, answered)
        if not left:
            break
        some = _gather(answered, left)
        looks_judge(some)
        over = [look for look in some if look.is_over]
        left -= len(over)
        for look in some:
            if not look.is_over:
                _ask(look, answered)
        if over:
            yield over


def _ask(look: Look, answered: queue.SimpleQueue[Look]) -> None:
    def question() -> None:
        try:
            look.ask()
        finally:
            answered.put(look)

    if look.is_over:
        answered.put(look)
    elif look.choices[0].kind in AT_HAND:
        question()
    else:
        ask_in_lane(look.lane, question)


def _gather(answered: queue.SimpleQueue[Look], left: int) -> list[Look]:
    """The next answer, and those of the ``left`` that come just after it."""
    some = [answered.get()]
    rows = len(some[0].answer or ())
    until = time.monotonic() + ROUND_SECONDS
    while len(some) < left and rows < ROUND_ROWS:
        try:
            some.append(answered.get(timeout=max(0.0, until - time.monotonic())))
        except queue.Empty:
            break
        rows += len(some[-1].answer or ())
    return some


# -- storing ------------------------------------------------------------------------------------------------------------


def _store(looks: Sequence[Look]) -> int:
    """Store a round; how many candles were new. Where that fails for all of them together, each is stored by itself."""
    _release([look for look in looks if look.is_late])
    looks = [look for look in looks if not look.is_dropped and not look.is_late]
    if not looks:
        return 0
    crashpoint("candles.fetched")
    partitions_ensure(CANDLES, _history(looks))
    try:
        return settled(lambda: _store_round(looks))
    except Exception:
        if len(looks) == 1:
            looks[0].drop()
            return 0
        return sum(_store([look]) for look in looks)


def _history(looks: Sequence[Look]) -> Iterator[datetime]:
    """What came of long ago: a month that is over may not have been made yet."""
    for look in looks:
        before = look.venue_now - HISTORY_AFTER
        yield from (row.open_at for _, batch in look.batches for row in batch.rows if row.open_at < before)


@transaction.atomic
def _store_round(looks: Sequence[Look]) -> int:
    now = timezone.now()
    looks = _still_ours(looks)
    batches = [(look, choice, batch) for look in looks for choice, batch in look.batches]
    sifted = batches_sift([batch for _, _, batch in batches], now)
    taken: dict[int, tuple[Choice, Sifted]] = {}
    for (look, choice, _), sift in zip(batches, sifted, strict=True):
        taken.setdefault(look.feed.pk, (choice, sift))
    feeds = {look.feed.pk: look.feed for look in looks}
    told = may_tell_all([(feeds[feed_id], choice, sift.good) for feed_id, (choice, sift) in taken.items()])
    merged = candles_merge(
        [
            (feed_id, row, choice.kind)
            for (feed_id, (choice, _)), rows in zip(taken.items(), told, strict=True)
            for row in rows
        ]
    )
    crashpoint("candles.stored")
    outcomes = [outcome_of(look, taken[look.feed.pk][1] if look.feed.pk in taken else None, now) for look in looks]
    _settle(outcomes)
    for feed_id, (_, sift) in taken.items():
        _note_gaps(feeds[feed_id], [row.open_at for row in sift.good], now)
    for look in looks:
        _note_failures(look, now)
        if look.served is not None and look.has_news:
            source_served(look.feed, look.served[0], now)
    _announce(outcomes, merged)
    return sum(merged.new.values())


def _release(looks: Sequence[Look]) -> None:
    """Leave feeds of which not every source was asked to whoever comes next: who then asks none that took all the time."""
    if looks:
        now = timezone.now()
        with transaction.atomic():
            mine = _still_ours(looks)
            for look in mine:
                _note_failures(look, now)
            Feed.objects.filter(pk__in=[look.feed.pk for look in mine]).update(leased_until=None)


def _note_gaps(feed: Feed, opens: Sequence[datetime], now: datetime) -> None:
    """Record holes behind the newest candle at once, whatever is looked for again: nobody looks behind it later."""
    gaps_note(feed, opens)
    past = [open_at for open_at in opens if feed.last_open_at is not None and open_at < feed.last_open_at]
    if past:  # a jump that was said again
        gaps_settle(feed, past[0], past[-1] + Timeframe(feed.timeframe).length, now)


def _note_failures(look: Look, now: datetime) -> None:
    for choice, error in look.failures:
        source_failed(look.feed, choice, error, now)


def _still_ours(looks: Sequence[Look]) -> list[Look]:
    """Those whose lease is still the one that they were claimed by, locked: a collector that was overtaken while a source
    kept it waiting must not move the clock, nor judge. In the order of their ids, as all who lock several feeds."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT id FROM marketdata_feed f
            JOIN unnest(%s::bigint[], %s::timestamptz[]) AS mine (feed_id, lease) ON f.id = mine.feed_id
            WHERE f.leased_until = mine.lease ORDER BY id FOR NO KEY UPDATE OF f
            """,
            [[look.feed.pk for look in looks], [look.feed.leased_until for look in looks]],
        )
        ours = {pk for (pk,) in cursor.fetchall()}
    return [look for look in looks if look.feed.pk in ours]


def _settle(outcomes: Sequence[Outcome]) -> None:
    """Write the feeds' rows, which are locked, by one statement. What somebody imported meanwhile is not forgotten."""
    if not outcomes:
        return
    columns: list[list[Any]] = [
        [outcome.look.feed.pk for outcome in outcomes],
        *(
            [getattr(outcome, name) for outcome in outcomes]
            for name in ("leased_until", "next_due_at", "last_open_at", "misses", "last_error", "stale_since")
        ),
    ]
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE marketdata_feed f
            SET leased_until = o.leased_until, next_due_at = CASE WHEN f.is_needed THEN o.next_due_at END,
                last_open_at = greatest(f.last_open_at, o.last_open_at), misses = o.misses, last_error = o.last_error,
                stale_since = CASE WHEN f.is_needed THEN o.stale_since END
            FROM unnest(
                %s::bigint[], %s::timestamptz[], %s::timestamptz[], %s::timestamptz[], %s::int[], %s::text[],
                %s::timestamptz[]
            ) AS o (id, leased_until, next_due_at, last_open_at, misses, last_error, stale_since)
            WHERE f.id = o.id
            """,
            columns,
        )


def _announce(outcomes: Sequence[Outcome], merged: Merged) -> None:
    """Tell of feeds with a newer candle than before. What was revised or filled in behind it is no news to a strategy."""
    notes = []
    for outcome in outcomes:
        feed, last_open_at = outcome.look.feed, outcome.last_open_at
        is_newer = last_open_at is not None and (feed.last_open_at is None or last_open_at > feed.last_open_at)
        if is_newer and (new := merged.new.get(feed.pk)):
            data = {"new": new, "last_open_at": last_open_at, "feed": str(feed)}
            notes.append(Note(key=feed.pk, ids={"feed_id": feed.pk}, data=data))
    publish_all(Topic.MARKETDATA, notes)
