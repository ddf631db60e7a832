"""The past of a feed, a page at a time: asked of its sources behind live collection, stored once, and the gaps that it fills.

Whether a source serves is decided by live collection alone: what it says of the past counts neither for it nor against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from django.db import connection
from django.db.models import Q, Value
from django.db.models.functions import Greatest

from domain.calendars import Calendar, expected_opens
from domain.candles import Candles, IntArray, Timeframe
from domain.quality import Inspection, inspect
from exchanges.budget import asking_for_history
from exchanges.gateway import CandleReport
from marketdata.failover import Choice, may_tell, sources_to_ask
from marketdata.models import CandleGap, Feed, GapStatus
from marketdata.quarantine import Batch, batches_sift
from marketdata.sources import SourceFailed
from marketdata.storage import candles_merge, candles_window
from pipeline.topics import Note, Topic, publish_all

# Candles asked for at once: the most that one request gives at KuCoin, and it takes PostgreSQL some 20 ms to store them.
PAGE = 1500
# Stored candles before a page, by which the jumps in it are judged.
BEFORE = 500


@dataclass(frozen=True, slots=True)
class Answer:
    """What one source gave for a span, as it came, what was found in it, and the time up to which it has told all it has."""

    choice: Choice
    rows: list[CandleReport]
    inspection: Inspection
    told_until: datetime

    @property
    def good_at(self) -> set[datetime]:
        """When the candles opened that passed their checks."""
        return {row.open_at for row, is_good in zip(self.rows, self.inspection.is_good, strict=True) if is_good}


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of an answer: open times that were taken, and how many of the candles are new."""

    taken_at: set[datetime]
    new: int


def sources_of_past(feed: Feed, now: datetime) -> list[Choice]:
    """The sources to ask, in order. Raises SourceFailed where none may be asked now."""
    choices = sources_to_ask(feed, now)
    if not choices:
        raise SourceFailed("wanted a source that may be asked now, was none")
    return choices


def page_of(choice: Choice, feed: Feed, from_at: datetime, until_at: datetime, venue_now: datetime) -> Answer:
    """Ask one source for the candles of a span of a page at most, all of them closed at ``venue_now``; nobody is asked what a
    closed market was like. Raises SourceFailed; asks outside of any transaction."""
    timeframe, calendar = Timeframe(feed.timeframe), Calendar(feed.calendar)
    if not len(expected_opens(calendar, timeframe, _ms(from_at), _ms(until_at))):
        return Answer(choice, [], Inspection(np.zeros(0, dtype=np.bool_), ()), until_at)
    with asking_for_history():
        reports = choice.source.candles(from_at, (until_at - from_at) // timeframe.length)
    rows = [report for report in reports if from_at <= report.open_at < until_at]
    inspection = inspect(
        _as_arrays(rows),
        timeframe,
        calendar,
        now_ms=_ms(venue_now),
        before=candles_window(feed.pk, BEFORE, from_at),
    )
    # Some venues give less than was asked for, and go on when they are asked from there. None at all is all there is.
    newest = max((row.open_at for row in rows), default=None)
    told_until = until_at if newest is None else min(timeframe.open_of(newest) + timeframe.length, until_at)
    return Answer(choice, rows, inspection, told_until)


def feed_lock(feed_id: int) -> None:
    """Hold a feed until the transaction ends: before its gaps and its rows in quarantine, as its collector does, so that
    nobody waits in a circle. What only names the feed need not wait."""
    Feed.objects.select_for_update(no_key=True).get(pk=feed_id)


def page_store(feed: Feed, answer: Answer, now: datetime, *, only: set[datetime] | None = None) -> Stored:
    """Store what passed its checks, or of it what opened at the times of ``only``, and keep the rest apart. Must run in a
    transaction that holds the feed (``feed_lock``).

    A source that stands in for another adds what is missing, and alters nothing that one told that goes before it. Nobody is
    woken: a signal is decided once. ``last_open_at`` of a feed that nobody collects goes forward with what came.
    """
    [sifted] = batches_sift([Batch(feed.pk, answer.choice.kind, answer.rows, answer.inspection)], now)
    taken_at = {row.open_at for row in sifted.good}
    wanted = [row for row in sifted.good if only is None or row.open_at in only]
    rows = may_tell(feed, answer.choice, wanted)
    new = candles_merge([(feed.pk, row, answer.choice.kind) for row in rows]).new.get(feed.pk, 0)
    if rows:  # while it is needed that is for its collector to say, who announces it
        last_open_at = Greatest("last_open_at", Value(max(row.open_at for row in rows)))
        Feed.objects.filter(pk=feed.pk, is_needed=False).update(last_open_at=last_open_at)
    return Stored(taken_at, new)


def opens_missing(feed: Feed, from_at: datetime, until_at: datetime) -> list[datetime]:
    """When the candles opened that the calendar expects in a span and that are not there, oldest first."""
    missing = ms_missing(feed, from_at, until_at)
    return [datetime.fromtimestamp(ms / 1000, tz=UTC) for ms in missing.tolist()]


def gaps_settle(feed: Feed, from_at: datetime, until_at: datetime, now: datetime, *, is_last: bool = True) -> int:
    """Look again at the gaps that reach into a span where candles were stored; how many are filled. Without ``is_last``
    those that reach beyond it wait: more is coming. Must run in a transaction; whoever adds to a feed's past calls it.
    """
    gaps = CandleGap.objects.filter(
        feed=feed, status__in=[GapStatus.OPEN, GapStatus.CONFIRMED], from_at__lt=until_at, until_at__gt=from_at
    )
    if not is_last:
        gaps = gaps.filter(until_at__lte=until_at)
    return sum(gap_settle(feed, gap, now) for gap in gaps.order_by("from_at"))


def gap_settle(feed: Feed, gap: CandleGap, now: datetime) -> bool:
    """Count what is missing of one gap; whether it is filled, and it was this call that noted it."""
    left = len(ms_missing(feed, gap.from_at, gap.until_at))
    if left:
        CandleGap.objects.filter(pk=gap.pk, missing__gt=left).update(missing=left)
        return False
    mine = CandleGap.objects.filter(pk=gap.pk)
    if not mine.move(GapStatus.FILLED, ended_at=now, last_error="", leased_until=None, not_before_at=None):
        return False
    gap_tell(feed, gap, GapStatus.FILLED)
    return True


def gap_tell(feed: Feed, gap: CandleGap, status: GapStatus, *, actor: str = "system") -> None:
    """Journal what became of a gap. Nobody is woken. Must run in a transaction."""
    facts = {"gap": status, "missing": gap.missing, "from_at": gap.from_at, "until_at": gap.until_at, "feed": str(feed)}
    past_tell(feed.pk, facts, actor=actor, gap_id=gap.pk)


def past_tell(feed_id: int, facts: dict[str, object], *, actor: str = "system", **ids: int | None) -> None:
    """Journal and broadcast something about a feed's past. It evaluates nothing. Must run in a transaction."""
    publish_all(
        Topic.MARKETDATA, [Note(key=feed_id, ids={"feed_id": feed_id, **ids}, data=facts)], actor=actor, wakes=False
    )


def free_and_due(now: datetime) -> Q:
    """Rows whose pause is over and that nobody is at."""
    free = Q(leased_until=None) | Q(leased_until__lte=now)
    return free & (Q(not_before_at=None) | Q(not_before_at__lte=now))


def ms_missing(feed: Feed, from_at: datetime, until_at: datetime) -> IntArray:
    """As ``opens_missing``, in milliseconds: of years of candles a time each would take seconds."""
    expected = expected_opens(Calendar(feed.calendar), Timeframe(feed.timeframe), _ms(from_at), _ms(until_at))
    with connection.cursor() as cursor:
        # Raw: a gap may be years long.
        cursor.execute(
            "SELECT (extract(epoch FROM open_at) * 1000)::int8 FROM marketdata_candle "
            "WHERE feed_id = %s AND open_at >= %s AND open_at < %s",
            [feed.pk, from_at, until_at],
        )
        stored = np.array([ms for (ms,) in cursor.fetchall()], dtype=np.int64)
    return np.setdiff1d(expected, stored)


def _as_arrays(rows: Sequence[CandleReport]) -> Candles:
    return Candles.from_rows(
        (_ms(row.open_at), *(float(value) for value in (row.open, row.high, row.low, row.close, row.volume)))
        for row in rows
    )


def _ms(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(milliseconds=1)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
