"""History on demand: a span of a feed is fetched page by page, whoever dies meanwhile, and each candle of it is stored once.

A page's candles, its counts and the cursor behind it are one transaction, fenced by the lease under which the page was
asked for: a worker that was killed, overtaken or told to stop costs a page's request and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser, User
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import DateTimeField, ExpressionWrapper, F, Value
from django.db.models.functions import Coalesce
from django.utils import timezone

from domain.candles import Timeframe
from marketdata.gaps import gaps_find
from marketdata.history import (
    PAGE,
    Answer,
    feed_lock,
    free_and_due,
    gaps_settle,
    page_of,
    page_store,
    past_tell,
    sources_of_past,
)
from marketdata.models import LIVE_BACKFILLS, Backfill, BackfillStatus, Feed
from marketdata.partitions import CANDLES, partitions_ensure
from marketdata.sources import SourceFailed
from pipeline.claims import settled
from pipeline.crashpoints import crashpoint
from pipeline.topics import ring

# Longer than any source takes for a page, or two that are asked one after the other.
LEASE = timedelta(seconds=60)
# Backfills that are at a page at once, whatever the number of workers: the other threads of the queue collect what is live.
AT_ONCE = 2
# The bell of the next page has this long to be heard before the sweep rings.
BELL_PATIENCE = timedelta(seconds=2)
LONGEST_PAUSE = timedelta(minutes=5)
# Where one source has nothing, one that cannot be asked is waited for as often as this; what it may have is a gap then.
FAILURES_BEFORE_SKIP = 3
# There was no market of ours before; an earlier time is a slip of the pen that would ask for nothing for days.
OLDEST = datetime(2009, 1, 1, tzinfo=UTC)


class UnableToBackfill(Exception):
    """Its status does not allow this."""


def backfill_request(feed: Feed, from_at: datetime, until_at: datetime, requested_by: User | None = None) -> Backfill:
    """Have the candles of ``feed`` fetched that open from ``from_at`` to before ``until_at``; the one that is at it already,
    where the same was asked for before. Raises ValidationError, by field."""
    now = timezone.now()
    span_check(feed, from_at, until_at, now)
    span: dict[str, Any] = {"feed": feed, "from_at": from_at, "until_at": until_at}
    for _ in range(3):  # of two who ask at once the second finds the first's; which may end just then
        live = Backfill.objects.filter(**span, status__in=LIVE_BACKFILLS).first()
        if live is not None:
            return live
        try:
            with transaction.atomic():
                asked = Backfill.objects.create(**span, cursor_at=from_at, requested_by=requested_by, not_before_at=now)
                _tell(asked, BackfillStatus.QUEUED, requested_by.get_username() if requested_by else "system")
                _ring_on(asked.pk)
                return asked
        except IntegrityError:
            continue
    raise UnableToBackfill(f"wanted one backfill of {feed}, was asked for by several at once: ask again")


def span_check(feed: Feed, from_at: datetime, until_at: datetime, now: datetime) -> None:
    """Raises ValidationError, by field, for a span of which nobody can have all candles, or none."""
    timeframe, latest = Timeframe(feed.timeframe), span_end(feed, now)
    ends = {"from_at": from_at, "until_at": until_at}
    naive = {name: f"wanted a time with its zone, was {at}" for name, at in ends.items() if timezone.is_naive(at)}
    if naive:
        raise ValidationError(naive)
    wrong: dict[str, str] = {}
    if from_at < OLDEST:
        wrong["from_at"] = f"wanted {OLDEST:%Y-%m-%d} or later, was {_told(from_at)}"
    elif from_at >= latest:
        wrong["from_at"] = f"wanted a candle that has closed, before {_told(latest)}, was {_told(from_at)}"
    if until_at > latest:
        wrong["until_at"] = f"wanted candles that have closed, until {_told(latest)}, was {_told(until_at)}"
    elif until_at <= from_at:
        wrong["until_at"] = f"wanted a time after {_told(from_at)}, was {_told(until_at)}"
    for name, at in ends.items():
        if name not in wrong and (near := timeframe.open_of(at)) != at:
            wrong[name] = f"wanted the open of a {timeframe} candle, e.g. {_told(near)}, was {_told(at, 'seconds')}"
    if wrong:
        raise ValidationError(wrong)


def span_end(feed: Feed, now: datetime) -> datetime:
    """Up to when the candles of a feed have closed: the latest ``until_at``."""
    return Timeframe(feed.timeframe).open_of(feed.market.exchange.time_at(now))


def backfill_step(backfill_id: int) -> bool:
    """Fetch and store the next page, and ring for the one after it; whether there is one.

    One page a message: whatever live collection asks for meanwhile gets its turn in between. A source that does not serve
    leaves the backfill to the sweep after a pause; one that never will ends it.
    """
    now = timezone.now()
    lease = _claim(backfill_id, now)
    if lease is None:
        return False
    crashpoint("backfill.claimed")
    backfill = Backfill.objects.select_related("feed__market__exchange").get(pk=backfill_id)
    feed, cursor_at = backfill.feed, backfill.cursor_at
    venue_now = feed.market.exchange.time_at(now)
    page_until = min(cursor_at + PAGE * Timeframe(feed.timeframe).length, backfill.until_at, span_end(feed, now))
    try:
        if page_until <= cursor_at:  # its clock was set back since this was asked for
            raise SourceFailed(
                f"wanted a venue's clock past {cursor_at:%Y-%m-%d %H:%M}, was {venue_now:%Y-%m-%d %H:%M}"
            )
        answer = _first_answer(
            feed, cursor_at, page_until, now, venue_now, may_skip=backfill.failures >= FAILURES_BEFORE_SKIP
        )
    except SourceFailed as error:
        _wait_or_fail(backfill, lease, error)
        return False
    crashpoint("backfill.fetched")
    partitions_ensure(CANDLES, (row.open_at for row in answer.rows))
    has_more = settled(lambda: _page_done(backfill, lease, answer))
    crashpoint("backfill.stored")
    if not has_more:
        _look_for_holes(backfill)
    return has_more


def backfill_cancel(backfill_id: int, *, actor: str = "system") -> bool:
    """End it where it is; whether it was going on. What was stored stays."""
    with transaction.atomic():
        is_mine = Backfill.objects.filter(pk=backfill_id).move(
            BackfillStatus.CANCELED, ended_at=timezone.now(), leased_until=None, not_before_at=None
        )
        if is_mine:
            _tell(Backfill.objects.select_related("feed").get(pk=backfill_id), BackfillStatus.CANCELED, actor)
    return bool(is_mine)


def backfill_retry(backfill_id: int, *, actor: str = "system") -> None:
    """Go on where one stopped that failed or was cancelled. Raises UnableToBackfill."""
    now = timezone.now()
    # The time in which it was over is left out of its pace.
    paused = Value(now, output_field=DateTimeField()) - F("ended_at")
    started_at = ExpressionWrapper(F("started_at") + paused, output_field=DateTimeField())
    ended = Backfill.objects.filter(pk=backfill_id)
    try:
        with transaction.atomic():
            if not ended.move(
                BackfillStatus.QUEUED,
                started_at=started_at,
                ended_at=None,
                not_before_at=now,
                failures=0,
                last_error="",
            ):
                status = ended.values_list("status", flat=True).first()
                raise UnableToBackfill(f"wanted a backfill that failed or was cancelled, was {status}")
            _tell(Backfill.objects.select_related("feed").get(pk=backfill_id), BackfillStatus.QUEUED, actor)
            _ring_on(backfill_id)
    except IntegrityError as error:
        raise UnableToBackfill("wanted a span that is not being fetched, was asked for again since") from error


def backfill_is_commanded_by(backfill: Backfill, user: AbstractBaseUser | AnonymousUser) -> bool:
    """Whether ``user`` may cancel and retry it: who asked for it, and superusers."""
    is_superuser = bool(getattr(user, "is_superuser", False))
    return is_superuser or (user.pk is not None and backfill.requested_by_id == user.pk)


def backfills_waiting(now: datetime) -> list[int]:
    """Backfills that nobody is at although their pause is over: what the sweep rings for, no more than may run."""
    waiting = Backfill.objects.filter(free_and_due(now - BELL_PATIENCE), status__in=LIVE_BACKFILLS)
    return list(waiting.order_by("pk").values_list("pk", flat=True)[:AT_ONCE])


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a backfill is: ``percent`` of its span, rows that passed their checks in each second since it began, and the
    time that is ``left`` at its pace so far; None while that cannot be told."""

    percent: float
    rows_seen: int
    rows_new: int
    rows_per_second: float | None
    left: timedelta | None


def progress(backfill: Backfill, now: datetime) -> Progress:
    """How far ``backfill`` is at ``now``. Pure."""
    done, span = backfill.cursor_at - backfill.from_at, backfill.until_at - backfill.from_at
    percent = int(1000 * done / span) / 10  # cut, not rounded: what is not done is not 100
    spent = (backfill.ended_at or now) - backfill.started_at if backfill.started_at else timedelta(0)
    pace = backfill.rows_seen / spent.total_seconds() if spent > timedelta(0) else None
    left = spent * ((span - done) / done) if pace is not None and done and backfill.status in LIVE_BACKFILLS else None
    return Progress(percent, backfill.rows_seen, backfill.rows_new, pace, left)


def _claim(backfill_id: int, now: datetime) -> datetime | None:
    """Lease it for one page; the lease, or None where somebody is at it, it pauses, it is over, or enough others run."""
    running = Backfill.objects.filter(status=BackfillStatus.RUNNING)
    if running.filter(leased_until__gt=now).exclude(pk=backfill_id).count() >= AT_ONCE:
        return None
    lease = now + LEASE
    mine = Backfill.objects.filter(free_and_due(now), pk=backfill_id)
    if mine.filter(status=BackfillStatus.RUNNING).update(leased_until=lease):
        return lease
    started_at = Coalesce(F("started_at"), Value(now, output_field=DateTimeField()))
    with transaction.atomic():
        if not mine.move(BackfillStatus.RUNNING, leased_until=lease, started_at=started_at):
            return None
        _tell(Backfill.objects.select_related("feed").get(pk=backfill_id), BackfillStatus.RUNNING)
    return lease


def _first_answer(
    feed: Feed, from_at: datetime, until_at: datetime, now: datetime, venue_now: datetime, *, may_skip: bool
) -> Answer:
    """The page of the first source that has something good of it; an empty one where those that answer have nothing and no
    other is to be waited for. Raises SourceFailed otherwise, a final one where none will ever answer."""
    errors: list[SourceFailed] = []
    empty: Answer | None = None
    for choice in sources_of_past(feed, now):
        try:
            answer = page_of(choice, feed, from_at, until_at, venue_now)
        except SourceFailed as error:
            errors.append(error)
            continue
        if answer.good_at:
            return answer
        empty = empty or answer
    is_final = all(error.is_final for error in errors)
    if empty is not None and (may_skip or is_final):
        return empty
    waits = [error.retry_after for error in errors if error.retry_after is not None]
    reason = "; ".join(str(error) for error in errors)
    raise SourceFailed(reason, retry_after=min(waits, default=None), is_final=is_final)


def _page_done(backfill: Backfill, lease: datetime, answer: Answer) -> bool:
    """Store a page and move the cursor behind it, if the lease is still ours; whether there is a next one."""
    feed, now = backfill.feed, timezone.now()
    is_last = answer.told_until >= backfill.until_at
    with transaction.atomic():
        mine = Backfill.objects.filter(pk=backfill.pk, status=BackfillStatus.RUNNING)
        # First, for it locks the row: who was overtaken, or cancelled, stores and counts nothing.
        if not mine.filter(leased_until=lease).update(
            cursor_at=answer.told_until, failures=0, last_error="", leased_until=None, not_before_at=now
        ):  # fmt: skip
            return False
        feed_lock(feed.pk)
        stored = page_store(feed, answer, now)
        mine.update(rows_seen=F("rows_seen") + len(stored.taken_at), rows_new=F("rows_new") + stored.new)
        gaps_settle(feed, backfill.cursor_at, answer.told_until, now, is_last=is_last)
        if is_last:
            mine.move(BackfillStatus.DONE, ended_at=now, not_before_at=None)
            _tell(Backfill.objects.select_related("feed").get(pk=backfill.pk), BackfillStatus.DONE)
        else:
            _ring_on(backfill.pk)
    return not is_last


def _look_for_holes(backfill: Backfill) -> None:
    """Record what is missing of the span: nobody had it, or it failed a check. What lies before the first candle there is was
    before the market; a look that a dead worker owes is made with the daily one."""
    first_at = backfill.feed.candles.order_by("open_at").values_list("open_at", flat=True).first()
    if first_at is not None and first_at < backfill.until_at:
        gaps_find(backfill.feed_id, max(backfill.from_at, first_at), backfill.until_at)


def _wait_or_fail(backfill: Backfill, lease: datetime, error: SourceFailed) -> None:
    now, reason = timezone.now(), str(error)[:200]
    mine = Backfill.objects.filter(pk=backfill.pk, status=BackfillStatus.RUNNING, leased_until=lease)
    if error.is_final:
        with transaction.atomic():
            if mine.move(BackfillStatus.FAILED, ended_at=now, last_error=reason, leased_until=None, not_before_at=None):
                _tell(Backfill.objects.select_related("feed").get(pk=backfill.pk), BackfillStatus.FAILED)
        return
    # Who is asked to wait has not failed.
    failures = backfill.failures + (error.retry_after is None)
    pause = error.retry_after or min(timedelta(seconds=2 ** min(failures, 9)), LONGEST_PAUSE)
    mine.update(leased_until=None, not_before_at=now + pause, failures=failures, last_error=reason)


def _told(at: datetime, timespec: str = "minutes") -> str:
    return at.replace(tzinfo=None).isoformat(" ", timespec)


def _tell(backfill: Backfill, status: BackfillStatus, actor: str = "system") -> None:
    facts: dict[str, object] = {
        "backfill": status, "from_at": backfill.from_at, "until_at": backfill.until_at, "rows_new": backfill.rows_new,
        "reason": backfill.last_error, "feed": str(backfill.feed),
    }  # fmt: skip
    past_tell(backfill.feed_id, facts, actor=actor, backfill_id=backfill.pk)


def _ring_on(backfill_id: int) -> None:
    transaction.on_commit(lambda: ring("marketdata.backfill", backfill_ids=[backfill_id]), robust=True)
