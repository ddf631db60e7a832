"""What is missing of a feed's candles, and what is wrong with those that are there: no gap goes unnoticed.

A gap is recorded once and its row follows it: it shrinks, is split and is filled as candles come, whoever brings them. New
candles are looked at as they are stored; all of a history once a day, a feed at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from django.db import connection, transaction
from django.db.models import Q
from django.utils import timezone
from numpy.typing import NDArray

from domain.calendars import Calendar, expected_opens
from domain.candles import Candles, IntArray, Timeframe
from domain.quality import JUMP_WINDOW, Finding, Flaw, Gap, gaps, inspect
from marketdata.models import CandleGap, CandleRevision, Feed, GapStatus, QuarantinedCandle
from pipeline.claims import settled
from pipeline.topics import Note, Topic, publish_all

CHECK_AFTER = timedelta(days=1)
# The open times of a million candles take half a second: one feed a sweep leaves room for what is due.
CHECKS_AT_ONCE = 1
# Rows inspected at once, and findings told in full; the rest is counted.
CHUNK = 250_000
FINDINGS_TOLD = 100

AFTER_ALL = 2**62  # what is stored had closed by the venue's clock when it came
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
# The server counts microseconds since the year 2000.
POSTGRES_EPOCH_US = 946_684_800_000_000


@dataclass(frozen=True, slots=True)
class Report:
    """What is stored of a feed, and what is to be said of it. ``findings`` are the first of those that ``flaws`` counts;
    ``quarantined`` counts rows that were not taken, ``confirmed`` those of ``gaps`` that nobody has candles for."""

    feed_id: int
    feed: str
    timeframe: Timeframe
    calendar: Calendar
    rows: int
    first_at: datetime | None
    last_at: datetime | None
    gaps: tuple[Gap, ...]
    confirmed: int
    flaws: dict[Flaw, int]
    findings: tuple[Finding, ...]
    zero_volume: int
    revisions: int
    quarantined: int

    @property
    def missing(self) -> int:
        return sum(gap.missing for gap in self.gaps)

    @property
    def is_clean(self) -> bool:
        return not self.gaps and not self.flaws


def gaps_find(feed_id: int, from_at: datetime | None = None, until_at: datetime | None = None) -> list[Gap]:
    """Record what is missing of a feed from ``from_at`` (empty: its first candle) to before ``until_at`` (empty: its last).

    What is new is OPEN, what is there now FILLED, and what has changed its borders keeps its row. Reads open times only, and
    tells the journal what has changed, once for the feed."""
    feed = Feed.objects.get(pk=feed_id)
    seen = _see(feed, from_at, until_at)
    if _is_recorded(feed, seen):  # the ordinary case, and no collector of the feed has waited for the reading
        return seen.found
    return settled(lambda: _look(feed_id, from_at, until_at))


def gaps_note(feed: Feed, opens: Sequence[datetime]) -> list[Gap]:
    """Record what is missing between ``feed.last_open_at``, as it was before, and the candles just stored that open at
    ``opens``, and between these. Asks the database nothing where each follows the one before, as ever in the ordinary case.
    Must run in the transaction that stored them."""
    length = Timeframe(feed.timeframe).length
    new = sorted({at for at in opens if feed.last_open_at is None or at > feed.last_open_at})
    if not new:
        return []
    before = feed.last_open_at if feed.last_open_at is not None else new[0] - length
    if new[-1] - before == len(new) * length:
        return []
    from_ms, until_ms = _ms(before + length), _ms(new[-1]) + 1
    if not gaps(_sorted_ms(new), Timeframe(feed.timeframe), Calendar(feed.calendar), from_ms, until_ms):
        return []
    return _look(feed.pk, before + length, new[-1] + length)


def feeds_unchecked(now: datetime) -> list[int]:
    """Feeds whose history was last looked through a day ago, the first of them: what the sweep rings for."""
    unchecked = Feed.objects.filter(last_open_at__isnull=False, checked_at__lt=now - CHECK_AFTER)
    return list(unchecked.order_by("checked_at").values_list("pk", flat=True)[:CHECKS_AT_ONCE])


def feed_look_through(feed_id: int) -> bool:
    """Look for gaps in all of a feed's history, unless somebody has within a day; whether this did."""
    now = timezone.now()
    if not Feed.objects.filter(pk=feed_id, checked_at__lt=now - CHECK_AFTER).update(checked_at=now):
        return False
    gaps_find(feed_id)
    return True


def feed_check(feed_id: int) -> Report:
    """Inspect all that is stored of a feed, as if it came now; writes nothing."""
    feed = Feed.objects.select_related("market__exchange").get(pk=feed_id)
    timeframe, calendar = Timeframe(feed.timeframe), Calendar(feed.calendar)
    flaws: Counter[Flaw] = Counter()
    findings: list[Finding] = []
    parts: list[IntArray] = []
    rows = zero_volume = 0
    before: Candles | None = None
    for chunk in _stored(feed_id):
        found = inspect(chunk, timeframe, calendar, now_ms=AFTER_ALL, before=before)
        flaws.update(finding.flaw for finding in found.findings)
        findings += found.findings[: FINDINGS_TOLD - len(findings)]
        zero_volume += found.zero_volume
        rows += len(chunk)
        parts.append(chunk.open_ms)
        before = Candles(*(getattr(chunk, name)[-JUMP_WINDOW - 1 :] for name in Candles.__slots__))
    opens = np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
    missing = gaps(opens, timeframe, calendar, int(opens[0]), int(opens[-1]) + 1) if rows else []
    confirmed = set(
        CandleGap.objects.filter(feed_id=feed_id, status=GapStatus.CONFIRMED).values_list("from_at", flat=True)
    )
    return Report(
        feed_id=feed_id, feed=str(feed), timeframe=timeframe, calendar=calendar, rows=rows,
        first_at=_at(int(opens[0])) if rows else None, last_at=_at(int(opens[-1])) if rows else None,
        gaps=tuple(missing), confirmed=sum(gap.from_at in confirmed for gap in missing), flaws=dict(flaws),
        findings=tuple(findings), zero_volume=zero_volume,
        revisions=CandleRevision.objects.filter(feed_id=feed_id).count(),
        quarantined=QuarantinedCandle.objects.filter(feed_id=feed_id, released_at=None).count(),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is missing in a span that no recorded gap reaches beyond."""

    found: list[Gap]
    from_ms: int
    until_ms: int

    @property
    def unfilled(self) -> Q:
        """The recorded gaps of the span."""
        return Q(from_at__lt=_at(self.until_ms), until_at__gt=_at(self.from_ms)) & ~Q(status=GapStatus.FILLED)


def _look(feed_id: int, from_at: datetime | None, until_at: datetime | None) -> list[Gap]:
    with transaction.atomic():
        # One at a time looks at a feed: two who had read different candles would undo what the other wrote.
        feed = Feed.objects.select_for_update(no_key=True).get(pk=feed_id)
        seen = _see(feed, from_at, until_at)
        new, filled = _record(feed, seen)
        if new or filled:
            words = {"feed": str(feed), "gaps": len(seen.found), "missing": sum(gap.missing for gap in seen.found)}
            note = Note(feed_id, {"feed_id": feed_id}, {**words, "new_gaps": new, "filled_gaps": filled})
            publish_all(Topic.MARKETDATA, [note], wakes=False)
    return seen.found


def _see(feed: Feed, from_at: datetime | None, until_at: datetime | None) -> _Seen:
    live = CandleGap.objects.filter(feed=feed).exclude(status=GapStatus.FILLED)
    if from_at is not None:  # what is recorded across a border is looked at whole
        earlier = live.filter(from_at__lt=from_at, until_at__gt=from_at).order_by("from_at").first()
        from_at = earlier.from_at if earlier is not None else from_at
    if until_at is not None:
        later = live.filter(from_at__lt=until_at, until_at__gt=until_at).order_by("-until_at").first()
        until_at = later.until_at if later is not None else until_at
    opens = _opens(feed.pk, from_at, until_at)
    if not len(opens) and (from_at is None or until_at is None):
        return _Seen([], 0, 0)
    from_ms = _ms(from_at) if from_at is not None else int(opens[0])
    until_ms = _ms(until_at) if until_at is not None else int(opens[-1]) + 1
    found = gaps(opens, Timeframe(feed.timeframe), Calendar(feed.calendar), from_ms, until_ms)
    return _Seen(found, from_ms, until_ms)


def _is_recorded(feed: Feed, seen: _Seen) -> bool:
    rows = CandleGap.objects.filter(seen.unfilled, feed=feed).order_by("from_at")
    recorded = list(rows.values_list("from_at", "until_at", "missing"))
    return recorded == [(gap.from_at, gap.until_at, gap.missing) for gap in seen.found]


def _record(feed: Feed, seen: _Seen) -> tuple[int, int]:
    """Make the rows of the span say what was found; how many gaps are new, and how many filled."""
    now = timezone.now()
    timeframe, calendar = Timeframe(feed.timeframe), Calendar(feed.calendar)
    again = Q(from_at__in=[gap.from_at for gap in seen.found], status=GapStatus.FILLED)
    rows = list(CandleGap.objects.filter(seen.unfilled | again, feed=feed).order_by("from_at"))
    live = [row for row in rows if row.status != GapStatus.FILLED]
    reopened = {row.from_at: row for row in rows if row.status == GapStatus.FILLED}
    followed: dict[int, Gap] = {}
    fresh: list[CandleGap] = []
    overlapped: set[int] = set()
    first = rests = 0
    for gap in seen.found:
        while first < len(live) and live[first].until_at <= gap.from_at:
            first += 1
        over = []
        for row in live[first:]:
            if row.from_at >= gap.until_at:
                break
            over.append(row)
        overlapped.update(row.pk for row in over)
        parent = over[0] if over else None
        own = reopened.get(gap.from_at) or next((row for row in over if row.pk not in followed), None)
        if own is not None:
            followed[own.pk] = gap
            continue
        # The rest of a gap in whose midst candles have come: what is known of the whole is known of it.
        known = {} if parent is None else {"status": parent.status, "attempts": parent.attempts}
        rests += parent is not None
        fresh.append(
            CandleGap(feed=feed, from_at=gap.from_at, until_at=gap.until_at, missing=gap.missing, found_at=now, **known)
        )
    gone = [row for row in live if row.pk not in followed]
    filled = [
        row.pk
        for row in gone
        if row.pk not in overlapped and len(expected_opens(calendar, timeframe, _ms(row.from_at), _ms(row.until_at)))
    ]
    # Swallowed by a gap that has grown, or no longer expected by the feed's calendar: nothing of these came.
    CandleGap.objects.filter(pk__in=[row.pk for row in gone if row.pk not in filled]).delete()
    count = CandleGap.objects.filter(pk__in=filled).move(GapStatus.FILLED, ended_at=now) if filled else 0
    CandleGap.objects.bulk_create(fresh, ignore_conflicts=True)
    new = len(fresh) - rests
    for row in rows:
        if row.pk not in followed:
            continue
        gap, this = followed[row.pk], CandleGap.objects.filter(pk=row.pk)
        has_grown = gap.from_at < row.from_at or gap.until_at > row.until_at
        if row.status == GapStatus.FILLED or (row.status == GapStatus.CONFIRMED and has_grown):
            new += this.move(GapStatus.OPEN, attempts=0, not_before_at=None, ended_at=None, found_at=now)
        if (row.from_at, row.until_at, row.missing) != (gap.from_at, gap.until_at, gap.missing):
            this.update(from_at=gap.from_at, until_at=gap.until_at, missing=gap.missing)
    return new, count


def _opens(feed_id: int, from_at: datetime | None, until_at: datetime | None) -> IntArray:
    """Open times stored of a feed, ascending, in milliseconds."""
    query = "SELECT open_at FROM marketdata_candle WHERE feed_id = %s"
    query += " AND open_at >= %s" * (from_at is not None) + " AND open_at < %s" * (until_at is not None)
    values: list[int | datetime] = [feed_id, *(at for at in (from_at, until_at) if at is not None)]
    return _milliseconds(_packed(query + " ORDER BY open_at", values, ()))


def _stored(feed_id: int) -> Iterator[Candles]:
    """All candles of a feed, oldest first, a part at a time."""
    names = ("open", "high", "low", "close", "volume")
    query = f"SELECT open_at, {', '.join(names)} FROM marketdata_candle "  # noqa: S608
    query += "WHERE feed_id = %s AND open_at > %s ORDER BY open_at LIMIT %s"
    after = EPOCH
    while len(table := _packed(query, [feed_id, after, CHUNK], names)):
        opens = _milliseconds(table)
        yield Candles(opens, *(table[name].astype(np.float64) for name in names))
        after = _at(int(opens[-1]))


def _packed(query: str, values: Sequence[int | datetime], prices: Sequence[str]) -> NDArray[np.void]:
    """The rows of a query as arrays by column, ``open_at`` as the server keeps it and ``prices`` as floats. They come as one
    value, eight bytes for each of theirs: a row, even of COPY, costs the client more than reading it costs the server."""
    row = " || ".join(("timestamptz_send(open_at)", *(f"float8send({name}::float8)" for name in prices)))
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT string_agg({row}, '') FROM ({query}) AS row", values)  # noqa: S608
        [packed] = cursor.fetchone()
    return np.frombuffer(packed or b"", dtype=[("open_at", ">i8"), *((name, ">f8") for name in prices)])


def _milliseconds(table: NDArray[np.void]) -> IntArray:
    return (table["open_at"].astype(np.int64) + POSTGRES_EPOCH_US) // 1000


def _sorted_ms(times: Sequence[datetime]) -> IntArray:
    return np.array([_ms(at) for at in times], dtype=np.int64)


def _ms(at: datetime) -> int:
    return (at - EPOCH) // MILLISECOND


def _at(at_ms: int) -> datetime:
    return EPOCH + at_ms * MILLISECOND
