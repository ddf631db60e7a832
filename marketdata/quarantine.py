"""Rows that failed a check: kept as they came, with the reason and how often they came; none is dropped in silence.

One flaw may be the truth: a price that jumps. What a source says of it again on a later look is taken after all, so that a
real crash is hidden from exits and strategies for no longer than it takes to ask twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from django.db import connection
from django.db.models import Min

from domain.quality import Finding, Flaw, Inspection
from exchanges.gateway import CandleReport
from marketdata.models import QuarantinedCandle, SourceKind

# What was said again sooner may be the same answer, out of somebody's cache.
REPEATED_AFTER = timedelta(seconds=0.5)
# A jump that its source did not repeat within this is no news any more: it is a gap, and repaired as one.
ASKED_AGAIN_WITHIN = timedelta(seconds=15)

FIELDS = ("open", "high", "low", "close", "volume")
PRICES = FIELDS[:-1]  # of a candle that has just closed the volume may still grow


@dataclass(frozen=True, slots=True)
class Batch:
    """What one source said of one feed, as it came, and what was found in it."""

    feed_id: int
    source: SourceKind
    rows: Sequence[CandleReport]
    inspection: Inspection


@dataclass(frozen=True, slots=True)
class Sifted:
    """``good`` is to be stored, oldest first and each time once; ``doubted`` are open times of jumps that were not taken yet:
    their source is to be asked again in a moment."""

    good: list[CandleReport]
    doubted: list[datetime]


@dataclass(frozen=True, slots=True)
class _Bad:
    batch: Batch
    row: CandleReport
    findings: tuple[Finding, ...]

    @property
    def is_jump(self) -> bool:
        return all(finding.flaw is Flaw.JUMP for finding in self.findings)

    @property
    def key(self) -> tuple[int, datetime, int]:
        return self.batch.feed_id, self.row.open_at, int(self.batch.source)

    def words(self) -> dict[str, str]:
        return {name: str(getattr(self.row, name)) for name in FIELDS}


def batches_sift(batches: Sequence[Batch], now: datetime) -> list[Sifted]:
    """Tell what is to be stored of each batch, in their order, and keep what is not: one statement for all of them, and one
    more where a price jumped. A candle that is still open is left out and nothing else: it is the ordinary last row of an
    answer. Must run in a transaction."""
    bad = [_bad_rows(batch) for batch in batches]
    every = [one for some in bad for one in some]
    repeated = _repeated([one for one in every if one.is_jump], now)
    _keep([one for one in every if one.key not in repeated], now)
    _release(repeated, now)
    sifted = []
    for batch, some in zip(batches, bad, strict=True):
        good = {row.open_at: row for row, is_good in zip(batch.rows, batch.inspection.is_good, strict=True) if is_good}
        good |= {one.row.open_at: one.row for one in some if one.key in repeated}
        doubted = sorted({one.row.open_at for one in some if one.is_jump and one.key not in repeated})
        sifted.append(Sifted([good[open_at] for open_at in sorted(good)], doubted))
    return sifted


def jumps_doubted(feed_ids: Iterable[int], now: datetime) -> dict[int, datetime]:
    """By feed, the first open time of the jumps that were seen a moment ago and are to be asked for again."""
    fresh = QuarantinedCandle.objects.filter(
        feed_id__in=list(feed_ids), flaw=Flaw.JUMP, released_at=None, last_seen_at__gt=now - ASKED_AGAIN_WITHIN
    )
    return dict(fresh.values_list("feed_id").annotate(first=Min("open_at")))


def _bad_rows(batch: Batch) -> list[_Bad]:
    by_row: dict[int, list[Finding]] = {}
    for finding in batch.inspection.findings:
        by_row.setdefault(finding.index, []).append(finding)
    return [
        _Bad(batch, batch.rows[index], tuple(findings))
        for index, findings in sorted(by_row.items())
        if not any(finding.flaw is Flaw.STILL_OPEN for finding in findings)
    ]


def _repeated(jumps: Sequence[_Bad], now: datetime) -> set[tuple[int, datetime, int]]:
    """The keys of those jumps that the same source told alike on a look before this one."""
    if not jumps:
        return set()
    before = {
        (feed_id, open_at, source): (row, last_seen_at, released_at)
        for feed_id, open_at, source, row, last_seen_at, released_at in QuarantinedCandle.objects.filter(
            feed_id__in={one.batch.feed_id for one in jumps}, open_at__in={one.row.open_at for one in jumps}, flaw=Flaw.JUMP
        ).values_list("feed_id", "open_at", "source", "row", "last_seen_at", "released_at")
    }  # fmt: skip
    repeated = set()
    for one in jumps:
        if (was := before.get(one.key)) is None:
            continue
        row, last_seen_at, released_at = was
        is_later = released_at is not None or last_seen_at <= now - REPEATED_AFTER
        if is_later and all(Decimal(row[name]) == getattr(one.row, name) for name in PRICES):
            repeated.add(one.key)
    return repeated


def _release(keys: set[tuple[int, datetime, int]], now: datetime) -> None:
    if not keys:
        return
    feed_ids, opens, sources = zip(*sorted(keys), strict=True)
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE marketdata_quarantinedcandle q SET released_at = %s, last_seen_at = %s, times = times + 1
            FROM unnest(%s::bigint[], %s::timestamptz[], %s::smallint[]) AS said (feed_id, open_at, source)
            WHERE q.feed_id = said.feed_id AND q.open_at = said.open_at AND q.source = said.source AND q.flaw = %s
                AND q.released_at IS NULL
            """,
            [now, now, list(feed_ids), list(opens), list(sources), Flaw.JUMP.value],
        )


def _keep(bad: Sequence[_Bad], now: datetime) -> None:
    rows_keep([(*one.key, finding, one.words()) for one in bad for finding in one.findings], now)


def rows_keep(bad: Iterable[tuple[int, datetime, int, Finding, dict[str, str]]], now: datetime) -> None:
    """Keep rows, as (feed, open time, source, what was found, the row as it came); one that came before is counted, and is no
    longer released."""
    # The last word of a batch about a time counts, and once: it may say the same twice, which is a flaw of its own. In the
    # order of the key, so that two who keep at once never wait for each other in a circle.
    kept = {(feed_id, at, source, finding.flaw.value): (finding, row) for feed_id, at, source, finding, row in bad}
    if not kept:
        return
    keys = sorted(kept)
    feed_ids, opens, sources, flaws = zip(*keys, strict=True)
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO marketdata_quarantinedcandle AS q
                (feed_id, open_at, source, flaw, detail, "row", times, seen_at, last_seen_at)
            SELECT bad.*, 1, %s, %s FROM unnest(
                %s::bigint[], %s::timestamptz[], %s::smallint[], %s::text[], %s::text[], %s::jsonb[]
            ) AS bad
            ON CONFLICT (feed_id, open_at, flaw, source) DO UPDATE
            SET times = q.times + 1, last_seen_at = excluded.last_seen_at, detail = excluded.detail, "row" = excluded."row",
                released_at = NULL
            """,
            [
                now,
                now,
                list(feed_ids),
                list(opens),
                list(sources),
                list(flaws),
                [kept[key][0].detail[:200] for key in keys],
                [json.dumps(kept[key][1]) for key in keys],
            ],
        )
