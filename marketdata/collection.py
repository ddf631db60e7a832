"""Collecting candles (DataCollect): every closed candle once, however many workers collect.

A feed is asked for when a candle of it has closed on the venue's clock. Feeds that are due are leased by one statement,
asked for side by side while no transaction is open, and stored in rounds as their answers come; what was stored is announced
in the same transaction. The lease is the fence: whoever was overtaken writes nothing. What fails a check is quarantined, and
a feed whose candles do not come is marked stale.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from django.db import connection, transaction
from django.db.models import Q
from django.utils import timezone

from domain.calendars import Calendar, next_open
from domain.candles import Candles, Timeframe
from domain.quality import Finding, Flaw, inspect
from exchanges.gateway import CandleReport
from marketdata.failover import Choice, source_failed, source_served, sources_to_ask
from marketdata.lanes import ask_in_lane
from marketdata.models import Feed, SourceKind
from marketdata.quarantine import Batch, Sifted, batches_sift, jumps_doubted
from marketdata.sources import SourceFailed
from marketdata.storage import Merged, candles_merge
from pipeline.crashpoints import crashpoint
from pipeline.topics import Note, Topic, publish_all

logger = logging.getLogger(__name__)

# How much history a feed starts with: enough for the longest warm-up a strategy may declare.
HISTORY = 1000
# The most one request may return at KuCoin is 1500; a longer gap is filled over several collections.
REQUEST_LIMIT = 1500
# A source is asked while at least ASK_TAKES of the lease is left, which is longer than a request lasts: nobody else asks
# meanwhile. What a worker held when it died is taken over after a lease.
LEASE = timedelta(seconds=20)
ASK_TAKES = timedelta(seconds=12)
# A venue may publish a candle a little after its close; after this many looks a bucket without trades is taken as such.
LOOKS_BEFORE_GAP = 5
LOOK_AGAIN = timedelta(seconds=1)
LONGEST_BACK_OFF = timedelta(seconds=60)
# A feed is stale when its last candle closed more than two timeframes ago by the venue's clock, and a minute of our own. A
# venue that could not be asked a few times proves nothing yet: after an absence of ours every last candle is old.
STALE_AFTER_TIMEFRAMES = 2
STALE_MARGIN = timedelta(seconds=60)
STALE_AFTER_FAILURES = 5
# Answers are stored together with those that come this soon after, as many rows at a time.
ROUND_SECONDS = 0.1
ROUND_ROWS = 20_000
# An answer this short is judged by candles that are stored: so many of them.
FEW_ROWS = 100
ROWS_BEFORE = 60

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# Answered from our own disk or database: no network to wait for.
AT_HAND = frozenset({SourceKind.FILE, SourceKind.RESAMPLED})


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

    1. Lease the feeds by one guarded update: a second collector finds nothing to claim.
    2. Ask their sources side by side, holding no transaction.
    3. Store what has come, in rounds: closed candles, next due times and the announcement in one transaction.

    A source that cannot be reached leaves a feed due again after a growing pause, with the reason on the row; one that
    refuses for its rate, after the pause that it asks for.
    """
    now = timezone.now()
    looks = _begin(_claim(list(feed_ids), now), now)
    return sum(_store(some) for some in _rounds(looks))


# -- claiming -----------------------------------------------------------------------------------------------------------


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


@dataclass(slots=True)
class _Look:
    """One feed while it is collected: whom to ask, and what came of it. ``asked_at`` is our time just before the last
    question; a candle that closes while the answer is on its way is not taken for whole."""

    feed: Feed
    since: datetime
    asked_at: datetime
    choices: list[Choice]
    answer: Sequence[CandleReport] | None = None
    failures: list[tuple[Choice, SourceFailed]] = field(default_factory=list)
    failed: list[tuple[Choice, Batch]] = field(default_factory=list)
    old: list[tuple[Choice, Batch]] = field(default_factory=list)
    served: tuple[Choice, Batch] | None = None
    is_dropped: bool = False

    @property
    def timeframe(self) -> Timeframe:
        return Timeframe(self.feed.timeframe)

    @property
    def calendar(self) -> Calendar:
        return Calendar(self.feed.calendar)

    @property
    def venue_now(self) -> datetime:
        return self.feed.market.exchange.time_at(self.asked_at)

    @property
    def is_over(self) -> bool:
        """Whether nobody is left to be asked."""
        return self.is_dropped or self.served is not None or (self.answer is None and not self.choices)

    @property
    def lane(self) -> Hashable:
        kind = self.choices[0].kind
        return f"exchange-{self.feed.market.exchange_id}" if kind is SourceKind.EXCHANGE else kind.name

    @property
    def batches(self) -> list[tuple[Choice, Batch]]:
        """Whatever was said, the one that counts first: the answer that passed, or the first that did not."""
        return [*([self.served] if self.served else []), *self.failed, *self.old]

    def ask(self) -> None:
        """Ask the next source; whatever goes wrong is noted here."""
        choice, self.asked_at = self.choices[0], timezone.now()
        if self.feed.leased_until is None or self.asked_at > self.feed.leased_until - ASK_TAKES:
            self.is_dropped = (
                True  # it waited too long for its turn: somebody else may have it by the time it is answered
            )
            return
        try:
            self.answer = choice.source.candles(self.since, REQUEST_LIMIT)
        except SourceFailed as error:
            self.failures.append((self.choices.pop(0), error))
        except Exception:
            self.drop()

    def drop(self) -> None:
        """Leave it: its lease runs out and the sweep rings again; its neighbours need not wait."""
        logger.exception("feed %s was not collected", self.feed.pk)
        self.is_dropped = True


def _begin(feeds: Sequence[Feed], now: datetime) -> list[_Look]:
    doubted = jumps_doubted([feed.pk for feed in feeds], now) if feeds else {}
    looks = []
    for feed in feeds:
        try:
            since = _since(feed, feed.market.exchange.time_at(now), doubted.get(feed.pk))
            looks.append(_Look(feed, since, now, sources_to_ask(feed, now)))
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


def _rounds(looks: Sequence[_Look]) -> Iterator[list[_Look]]:
    """Ask for all of them side by side; those that are over, some at a time, as soon as they are."""
    if len(looks) == 1:  # no thread is quicker than this one
        [look] = looks
        while not look.is_over:
            look.ask()
            _judge([look])
        yield [look]
        return
    answered: queue.SimpleQueue[_Look] = queue.SimpleQueue()
    asking = [look for look in looks if not look.is_over]
    if over := [look for look in looks if look.is_over]:
        yield over
    for look in sorted(asking, key=lambda look: look.choices[0].kind in AT_HAND):
        _ask(look, answered)
    left = len(asking)
    while left:
        some = _gather(answered, left)
        _judge(some)
        over = [look for look in some if look.is_over]
        left -= len(over)
        for look in some:
            if not look.is_over:
                _ask(look, answered)
        if over:
            yield over


def _ask(look: _Look, answered: queue.SimpleQueue[_Look]) -> None:
    def question() -> None:
        try:
            look.ask()
        finally:
            answered.put(look)

    if look.choices[0].kind in AT_HAND:
        question()
    else:
        ask_in_lane(look.lane, question)


def _gather(answered: queue.SimpleQueue[_Look], left: int) -> list[_Look]:
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


def _judge(looks: Sequence[_Look]) -> None:
    """Inspect the answers that have come: one that passes is taken, after one that does not the next source is asked."""
    fresh = [look for look in looks if look.answer is not None]
    before = _stored_before([look for look in fresh if len(look.answer or ()) <= FEW_ROWS])
    for look in fresh:
        try:
            _judge_one(look, before.get(look.feed.pk))
        except Exception:
            look.drop()


def _judge_one(look: _Look, before: Candles | None) -> None:
    choice, answer, look.answer = look.choices.pop(0), look.answer or (), None
    rows = [row for row in answer if row.open_at >= look.since]
    inspection = inspect(_arrays(rows), look.timeframe, look.calendar, now_ms=_ms(look.venue_now), before=before)
    batch = Batch(look.feed.pk, choice.kind, rows, inspection)
    if (flaw := _failure(batch)) is not None:
        look.failed.append((choice, batch))
        look.failures.append((choice, SourceFailed(flaw)))
    elif _is_old(look, batch):
        look.old.append((choice, batch))
    else:
        look.served = choice, batch
    if not look.choices and look.served is None and look.old:
        look.served = look.old.pop(0)  # nobody has anything newer


def _failure(batch: Batch) -> str | None:
    """Why an answer does not pass: its newest closed candle is one that cannot be taken. A jump can, when it is repeated."""
    flaws: dict[int, list[Finding]] = {}
    for finding in batch.inspection.findings:
        flaws.setdefault(finding.index, []).append(finding)
    open_rows = {index for index, some in flaws.items() if any(one.flaw is Flaw.STILL_OPEN for one in some)}
    closed = [index for index in range(len(batch.rows)) if index not in open_rows]
    newest_at = max((batch.rows[index].open_at for index in closed), default=None)
    newest = [index for index in closed if batch.rows[index].open_at == newest_at]
    bad = [[one for one in flaws.get(index, ()) if one.flaw is not Flaw.JUMP] for index in newest]
    return f"{bad[0][0].flaw}: {bad[0][0].detail}" if bad and all(bad) else None


def _is_old(look: _Look, batch: Batch) -> bool:
    """Whether a feed would be stale with nothing newer than this answer."""
    good = [row.open_at for row, is_good in zip(batch.rows, batch.inspection.is_good, strict=True) if is_good]
    last_open_at = max([*good, *([look.feed.last_open_at] if look.feed.last_open_at else [])], default=None)
    stale_at = _stale_at(look, last_open_at)
    return stale_at is not None and stale_at <= look.asked_at


def _arrays(rows: Sequence[CandleReport]) -> Candles:
    return Candles.from_rows(
        (_ms(row.open_at), float(row.open), float(row.high), float(row.low), float(row.close), float(row.volume))
        for row in rows
    )


def _stored_before(looks: Sequence[_Look]) -> dict[int, Candles]:
    """By feed, the last candles that are stored from before what was asked for: one statement for all, and each column as the
    bytes of an array."""
    if not looks:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT asked.feed_id, found.* FROM unnest(%s::bigint[], %s::timestamptz[]) AS asked (feed_id, since)
            CROSS JOIN LATERAL (
                SELECT string_agg(int8send((extract(epoch FROM open_at) * 1000)::bigint), '' ORDER BY open_at),
                       string_agg(float8send(open::float8), '' ORDER BY open_at),
                       string_agg(float8send(high::float8), '' ORDER BY open_at),
                       string_agg(float8send(low::float8), '' ORDER BY open_at),
                       string_agg(float8send(close::float8), '' ORDER BY open_at),
                       string_agg(float8send(volume::float8), '' ORDER BY open_at)
                FROM (
                    SELECT * FROM marketdata_candle WHERE feed_id = asked.feed_id AND open_at < asked.since
                    ORDER BY open_at DESC LIMIT %s
                ) AS last
            ) AS found
            """,
            [[look.feed.pk for look in looks], [look.since for look in looks], ROWS_BEFORE],
        )
        return {
            feed_id: Candles(
                np.frombuffer(opens, dtype=">i8").astype(np.int64),
                *(np.frombuffer(column, dtype=">f8").astype(np.float64) for column in columns),
            )
            for feed_id, opens, *columns in cursor.fetchall()
            if opens is not None
        }


# -- storing ------------------------------------------------------------------------------------------------------------


def _store(looks: Sequence[_Look]) -> int:
    """Store a round; how many candles were new. Where that fails for all of them together, each is stored by itself."""
    looks = [look for look in looks if not look.is_dropped]
    if not looks:
        return 0
    crashpoint("candles.fetched")
    try:
        with transaction.atomic():
            return _store_round(looks)
    except Exception:
        if len(looks) == 1:
            looks[0].drop()
            return 0
        return sum(_store([look]) for look in looks)


def _store_round(looks: Sequence[_Look]) -> int:
    now = timezone.now()
    looks = _still_ours(looks)
    batches = [(look, choice, batch) for look in looks for choice, batch in look.batches]
    sifted = batches_sift([batch for _, _, batch in batches], now)
    taken: dict[int, tuple[Choice, Sifted]] = {}
    for (look, choice, _), sift in zip(batches, sifted, strict=True):
        taken.setdefault(look.feed.pk, (choice, sift))
    merged = candles_merge(
        [(feed_id, row, choice.kind) for feed_id, (choice, sift) in taken.items() for row in sift.good]
    )
    crashpoint("candles.stored")
    outcomes = [_outcome(look, taken[look.feed.pk][1] if look.feed.pk in taken else None, now) for look in looks]
    _settle(outcomes)
    for look in looks:
        for choice, error in look.failures:
            source_failed(look.feed, choice, error, now)
        if look.served is not None:
            for choice, _ in look.old:
                source_failed(look.feed, choice, SourceFailed("wanted newer candles, another source has them"), now)
            source_served(look.feed, look.served[0], now)
    _announce(outcomes, merged)
    return sum(merged.new.values())


def _still_ours(looks: Sequence[_Look]) -> list[_Look]:
    """Those whose lease is still the one that they were claimed by, locked: a collector that was overtaken while a source
    kept it waiting must not move the clock, nor judge. In the order of their ids, as all who lock several feeds."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT id FROM marketdata_feed f
            JOIN unnest(%s::bigint[], %s::timestamptz[]) AS mine (feed_id, lease) ON f.id = mine.feed_id
            WHERE f.leased_until = mine.lease ORDER BY id FOR UPDATE OF f
            """,
            [[look.feed.pk for look in looks], [look.feed.leased_until for look in looks]],
        )
        ours = {pk for (pk,) in cursor.fetchall()}
    return [look for look in looks if look.feed.pk in ours]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How a feed's row reads after a look."""

    look: _Look
    next_due_at: datetime
    last_open_at: datetime | None
    misses: int = 0
    last_error: str = ""
    stale_since: datetime | None = None
    leased_until: datetime | None = None


def _outcome(look: _Look, sifted: Sifted | None, now: datetime) -> _Outcome:
    if sifted is not None:
        return _answered(look, sifted, now)
    pauses = [error.retry_after for _, error in look.failures]
    if pauses and all(pause is not None for pause in pauses):
        return _refused(look, min(pause for pause in pauses if pause is not None), now)
    return _failed(look, now)


def _answered(look: _Look, sifted: Sifted, now: datetime) -> _Outcome:
    feed, asked_at, venue_now = look.feed, look.asked_at, look.venue_now
    exchange, length = feed.market.exchange, look.timeframe.length
    opens = [row.open_at for row in sifted.good] + ([feed.last_open_at] if feed.last_open_at else [])
    last_open_at = max(opens, default=None)
    has_all = last_open_at is not None and _next_open(look, last_open_at) + length > venue_now
    looks = 0 if feed.last_error else feed.misses
    is_looking_again = (not has_all or bool(sifted.doubted)) and looks < LOOKS_BEFORE_GAP
    stale_at = _stale_at(look, last_open_at)
    if is_looking_again:
        next_due_at = now + min(LOOK_AGAIN, exchange.wall_delay(length))
    else:
        closes_in = _next_open(look, venue_now - length) + length - venue_now
        next_due_at = asked_at + exchange.wall_delay(closes_in)
        if stale_at is not None and stale_at > asked_at:
            next_due_at = min(next_due_at, stale_at)  # to say so when it is so, not a candle later
    is_stale = stale_at is not None and stale_at <= asked_at
    return _Outcome(
        look,
        next_due_at,
        last_open_at,
        misses=looks + 1 if is_looking_again else 0,
        stale_since=(feed.stale_since or asked_at) if is_stale else None,
    )


def _failed(look: _Look, now: datetime) -> _Outcome:
    feed = look.feed
    failures = feed.misses if feed.last_error else 0
    pause = min(timedelta(seconds=2 ** min(failures, 6)), LONGEST_BACK_OFF)
    stale_at = _stale_at(look, feed.last_open_at)
    is_stale = stale_at is not None and stale_at <= now and failures + 1 >= STALE_AFTER_FAILURES
    return _Outcome(
        look,
        now + pause,
        feed.last_open_at,
        misses=failures + 1,
        last_error=_reason(look),
        stale_since=feed.stale_since or (now if is_stale else None),
    )


def _refused(look: _Look, pause: timedelta, now: datetime) -> _Outcome:
    """Nobody looked at the request: no failure is counted, and the feed keeps its place among those that wait. It is leased
    to nobody until it may be asked for again; the second refusal in a row of a feed that is stale says so."""
    feed = look.feed
    stale_at = _stale_at(look, feed.last_open_at)
    is_stale = stale_at is not None and stale_at <= now and bool(feed.last_error)
    return _Outcome(
        look,
        feed.next_due_at or now,
        feed.last_open_at,
        misses=feed.misses if feed.last_error else 0,
        last_error=_reason(look),
        stale_since=feed.stale_since or (now if is_stale else None),
        leased_until=now + min(pause, LONGEST_BACK_OFF),
    )


def _reason(look: _Look) -> str:
    errors = [str(error) for _, error in look.failures]
    return ("; ".join(errors) or "wanted a source to ask, all of them are left alone for a while")[:200]


def _stale_at(look: _Look, last_open_at: datetime | None) -> datetime | None:
    """When, in our time, a feed whose last candle is that one is stale; None while the venue's clock stands still. Candles
    that its calendar does not expect make nothing late."""
    exchange, timeframe = look.feed.market.exchange, look.timeframe
    if exchange.clock_speed <= 0:
        return None
    venue_now = look.venue_now
    if last_open_at is None:  # nothing in all of the history that was asked for
        last_open_at = timeframe.open_of(venue_now) - HISTORY * timeframe.length
    for _ in range(STALE_AFTER_TIMEFRAMES):
        last_open_at = _next_open(look, last_open_at)
    return look.asked_at + exchange.wall_delay(last_open_at + timeframe.length - venue_now) + STALE_MARGIN


def _next_open(look: _Look, after: datetime) -> datetime:
    return _at(next_open(look.calendar, look.timeframe, _ms(after)))


def _settle(outcomes: Sequence[_Outcome]) -> None:
    """Write the feeds' rows, which are locked, by one statement."""
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
                last_open_at = o.last_open_at, misses = o.misses, last_error = o.last_error,
                stale_since = CASE WHEN f.is_needed THEN o.stale_since END
            FROM unnest(
                %s::bigint[], %s::timestamptz[], %s::timestamptz[], %s::timestamptz[], %s::int[], %s::text[],
                %s::timestamptz[]
            ) AS o (id, leased_until, next_due_at, last_open_at, misses, last_error, stale_since)
            WHERE f.id = o.id
            """,
            columns,
        )


def _announce(outcomes: Sequence[_Outcome], merged: Merged) -> None:
    """Tell of feeds with a newer candle than before. What was revised or filled in behind it is no news to a strategy."""
    notes = []
    for outcome in outcomes:
        feed, last_open_at = outcome.look.feed, outcome.last_open_at
        is_newer = last_open_at is not None and (feed.last_open_at is None or last_open_at > feed.last_open_at)
        if is_newer and (new := merged.new.get(feed.pk)):
            data = {"new": new, "last_open_at": last_open_at, "feed": str(feed)}
            notes.append(Note(key=feed.pk, ids={"feed_id": feed.pk}, data=data))
    publish_all(Topic.MARKETDATA, notes)


def _ms(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(milliseconds=1)  # never rounded up: no candle closes before its time


def _at(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, tz=UTC)
