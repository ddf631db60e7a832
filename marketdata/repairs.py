"""Gaps are asked for again: of every source, with growing pauses, until they are filled or nobody has them.

An attempt counts when every source of the feed has answered; what could not be asked says nothing. What fills a gap is stored
like any page of the past: it wakes nobody, and no signal is decided anew.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

from domain.candles import Timeframe
from marketdata.backfills import backfill_request
from marketdata.failover import Choice
from marketdata.history import (
    PAGE,
    Answer,
    feed_lock,
    free_and_due,
    gap_settle,
    gap_tell,
    opens_missing,
    page_of,
    page_store,
    sources_of_past,
)
from marketdata.models import LIVE_BACKFILLS, Backfill, CandleGap, Feed, GapStatus
from marketdata.partitions import CANDLES, partitions_ensure
from marketdata.sources import SourceFailed
from pipeline.claims import settled
from pipeline.crashpoints import crashpoint
from pipeline.topics import ring

logger = logging.getLogger(__name__)

LEASE = timedelta(seconds=60)
# After each attempt but the last. A venue fills its own holes within hours, or never.
PAUSES = (timedelta(minutes=1), timedelta(minutes=10), timedelta(hours=1), timedelta(hours=6))
# After an attempt that does not count, unless a source says how long.
UNASKED_PAUSE = timedelta(minutes=5)
# Gaps that are asked for at once, two messages full, whatever the number of workers: the other threads of the queue collect
# what is live.
AT_ONCE = 40


@dataclass(frozen=True, slots=True)
class Found:
    """What came of asking for a span: ``failure`` is why not every source was asked that may have the rest."""

    filled: int
    failure: SourceFailed | None = None
    is_answered: bool = True


class UnableToRepair(Exception):
    """The gap's status does not allow this."""


def gaps_due(now: datetime) -> list[int]:
    """Gaps to be asked for again: what the sweep rings for. Those of one feed stand together, so that few requests serve
    them. Where there is nobody to ask, of a feed that was read in from files, they stay open until a file has them."""
    still_open = CandleGap.objects.filter(status=GapStatus.OPEN)
    still_open = still_open.exclude(feed__market__exchange__ccxt_id="", feed__sources=None)
    room = max(0, AT_ONCE - still_open.filter(leased_until__gt=now).count())
    due = still_open.filter(free_and_due(now)).order_by("feed_id", "from_at")
    return list(due.values_list("pk", flat=True)[:room])


def gaps_repair(gap_ids: Sequence[int]) -> int:
    """Ask again for those of the gaps that are due; how many are filled. Gaps of a feed that lie together share a request;
    once none of its sources may be asked, the others of the feed wait too."""
    now = timezone.now()
    lease = now + LEASE
    with transaction.atomic():
        due = CandleGap.objects.filter(free_and_due(now), pk__in=gap_ids, status=GapStatus.OPEN)
        gaps = list(due.order_by("feed_id", "from_at").select_for_update(skip_locked=True, of=("self",)))
        CandleGap.objects.filter(pk__in=[gap.pk for gap in gaps]).update(leased_until=lease)
    filled = 0
    for feed_id, of_feed in groupby(gaps, key=lambda gap: gap.feed_id):
        try:
            filled += _feed_repair(feed_id, list(of_feed), lease)
        except Exception:  # their lease runs out and the sweep rings again; other feeds need not wait
            logger.exception("the gaps of feed %s were not asked for", feed_id)
    return filled


def gap_ask_again(gap_id: int, *, actor: str = "system") -> None:
    """Ask again now, and as often as for a new one if nobody was found to have it. Raises UnableToRepair for one that is
    filled."""
    with transaction.atomic():
        mine = CandleGap.objects.filter(pk=gap_id)
        if mine.move(
            GapStatus.OPEN, among=[GapStatus.CONFIRMED], attempts=0, ended_at=None, not_before_at=None, last_error=""
        ):
            gap = mine.select_related("feed").get()
            gap_tell(gap.feed, gap, GapStatus.OPEN, actor=actor)
        elif not mine.filter(status=GapStatus.OPEN).update(not_before_at=None):
            raise UnableToRepair("wanted a gap that is not filled, was one that is")
        transaction.on_commit(lambda: ring("marketdata.repair", gap_ids=[gap_id]), robust=True)


def _feed_repair(feed_id: int, gaps: list[CandleGap], lease: datetime) -> int:
    feed = Feed.objects.select_related("market__exchange").get(pk=feed_id)
    filled = 0
    spans = list(_spans(feed, gaps))
    for number, span in enumerate(spans):
        found = _span_repair(feed, span, lease)
        filled += found.filled
        if found.failure is not None:
            # Where nobody answered, nobody need be asked for the rest.
            waiting = span if found.is_answered else [gap for rest in spans[number:] for gap in rest]
            _pause(feed, waiting, lease, found.failure)
            if not found.is_answered:
                break
    return filled


def _spans(feed: Feed, gaps: Sequence[CandleGap]) -> Iterator[list[CandleGap]]:
    """The gaps, oldest first, in groups that a page holds; one that is longer stands alone."""
    page = PAGE * Timeframe(feed.timeframe).length
    span: list[CandleGap] = []
    for gap in gaps:
        if span and gap.until_at - span[0].from_at > page:
            yield span
            span = []
        span.append(gap)
    if span:
        yield span


def _span_repair(feed: Feed, gaps: list[CandleGap], lease: datetime) -> Found:
    """Ask each source for what those before it did not have, and store what came."""
    from_at, until_at = gaps[0].from_at, max(gap.until_at for gap in gaps)
    wanted = {at for gap in gaps for at in opens_missing(feed, gap.from_at, gap.until_at)}
    if wanted:  # a gap may end behind a weekend
        from_at, until_at = min(wanted), max(wanted) + Timeframe(feed.timeframe).length
    if (until_at - from_at) // Timeframe(feed.timeframe).length > PAGE:
        _hand_to_backfill(feed, gaps[0], lease)
        return Found(0)
    answers, failure = _answers(feed, from_at, until_at, wanted)
    crashpoint("repair.fetched")
    partitions_ensure(CANDLES, (row.open_at for answer in answers for row in answer.rows))
    filled = settled(lambda: _span_done(feed, gaps, lease, answers, wanted, is_counted=failure is None))
    return Found(filled, failure, is_answered=bool(answers))


def _answers(
    feed: Feed, from_at: datetime, until_at: datetime, wanted: set[datetime]
) -> tuple[list[Answer], SourceFailed | None]:
    """What the sources have of the candles of ``wanted``, and why not all were asked that may have the rest."""
    now = timezone.now()
    venue_now = feed.market.exchange.time_at(now)
    answers: list[Answer] = []
    missing = set(wanted)
    failure: SourceFailed | None = None
    try:
        choices: list[Choice] = sources_of_past(feed, now) if missing else []
    except SourceFailed as error:
        return [], error
    for choice in choices:
        if not missing:
            break
        asked_at = from_at
        try:
            while any(at >= asked_at for at in missing):  # some give less than they were asked for
                answers.append(page_of(choice, feed, asked_at, until_at, venue_now))
                missing -= answers[-1].good_at
                asked_at = answers[-1].told_until
        except SourceFailed as error:
            if not error.is_final:  # one that will never answer has nothing
                failure = error
    is_left_out = bool(missing) and failure is None and feed.sources.count() > len(choices)
    if is_left_out:
        failure = SourceFailed("wanted every source of the feed, was without those that are left alone for a while")
    return answers, failure if missing else None


def _span_done(
    feed: Feed,
    gaps: list[CandleGap],
    lease: datetime,
    answers: list[Answer],
    wanted: set[datetime],
    *,
    is_counted: bool,
) -> int:
    """Store what came and note what became of the gaps whose lease is still ours; how many are filled."""
    now = timezone.now()
    filled = 0
    with transaction.atomic():
        feed_lock(feed.pk)
        ids = [gap.pk for gap in gaps]
        mine = list(CandleGap.objects.filter(pk__in=ids, status=GapStatus.OPEN, leased_until=lease).locked())
        if not mine:
            return 0
        missing = set(wanted)
        for answer in answers:
            missing -= page_store(feed, answer, now, only=missing).taken_at
        for gap in mine:
            if gap_settle(feed, gap, now):
                filled += 1
            elif is_counted:
                _attempted(feed, gap, now)
    return filled


def _attempted(feed: Feed, gap: CandleGap, now: datetime) -> None:
    """Note that nobody had all of it this time. Must run in a transaction that holds the gap."""
    row = CandleGap.objects.filter(pk=gap.pk)
    attempts = gap.attempts + 1
    if attempts <= len(PAUSES):
        not_before_at = now + PAUSES[attempts - 1]
        row.update(attempts=attempts, not_before_at=not_before_at, last_error="", leased_until=None)
    elif row.move(
        GapStatus.CONFIRMED, among=[GapStatus.OPEN], attempts=attempts, ended_at=now, last_error="", leased_until=None
    ):
        gap_tell(feed, gap, GapStatus.CONFIRMED)


def _hand_to_backfill(feed: Feed, gap: CandleGap, lease: datetime) -> None:
    """A gap longer than a page is a backfill's, which can be stopped and resumed; while one is at it, it is not asked for."""
    now = timezone.now()
    with transaction.atomic():
        feed_lock(feed.pk)
        mine = CandleGap.objects.filter(pk=gap.pk, status=GapStatus.OPEN, leased_until=lease).locked().first()
        if mine is None:
            return
        live = Backfill.objects.filter(feed=feed, from_at__lt=gap.until_at, until_at__gt=gap.from_at)
        if live.filter(status__in=LIVE_BACKFILLS).exists():
            CandleGap.objects.filter(pk=gap.pk).update(leased_until=None, not_before_at=now + UNASKED_PAUSE)
            return
        _attempted(feed, mine, now)
        if mine.attempts < len(PAUSES):
            with suppress(ValidationError):  # older than anybody is asked for
                backfill_request(feed, gap.from_at, gap.until_at)


def _pause(feed: Feed, gaps: Sequence[CandleGap], lease: datetime, error: SourceFailed) -> None:
    """No source may be asked: what is left of the feed's gaps waits. It was no attempt."""
    pause = max(error.retry_after or UNASKED_PAUSE, timedelta(seconds=1))
    mine = CandleGap.objects.filter(pk__in=[gap.pk for gap in gaps], status=GapStatus.OPEN, leased_until=lease)
    with transaction.atomic():
        feed_lock(feed.pk)
        mine.update(leased_until=None, not_before_at=timezone.now() + pause, last_error=str(error)[:200])
