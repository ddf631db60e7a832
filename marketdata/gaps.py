"""What is missing of a feed's candles, and what is wrong with those that are there."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from domain.calendars import Calendar, expected_opens
from domain.candles import IntArray, Timeframe
from domain.quality import Finding, Flaw
from marketdata.models import Candle, CandleGap, CandleRevision, Feed, GapStatus, QuarantinedCandle


@dataclass(frozen=True, slots=True)
class Gap:
    """Candles that are expected and not there: ``missing`` of them from ``from_ms`` to before ``until_ms``."""

    from_ms: int
    until_ms: int
    missing: int


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
    """What is missing of a feed from its first candle to its last."""
    return list(feed_check(feed_id).gaps)


def feed_check(feed_id: int) -> Report:
    """Look through all that is stored of a feed; writes nothing."""
    feed = Feed.objects.select_related("market__exchange").get(pk=feed_id)
    timeframe, calendar = Timeframe(feed.timeframe), Calendar(feed.calendar)
    stored = Candle.objects.filter(feed_id=feed_id).order_by("open_at").values_list("open_at", "volume")
    times, volumes = zip(*stored, strict=True) if stored else ((), ())
    opens = np.array([int(at.timestamp() * 1000) for at in times], dtype=np.int64)
    missing = _gaps(opens, timeframe, calendar)
    quarantine = QuarantinedCandle.objects.filter(feed_id=feed_id, released_at=None)
    confirmed = CandleGap.objects.filter(
        feed_id=feed_id,
        status=GapStatus.CONFIRMED,
        from_at__in=[datetime.fromtimestamp(gap.from_ms / 1000, tz=UTC) for gap in missing],
    )
    return Report(
        feed_id=feed_id, feed=str(feed), timeframe=timeframe, calendar=calendar, rows=len(times),
        first_at=times[0] if times else None, last_at=times[-1] if times else None, gaps=tuple(missing),
        confirmed=confirmed.count(), flaws=Counter(), findings=(), zero_volume=sum(not volume for volume in volumes),
        revisions=CandleRevision.objects.filter(feed_id=feed_id).count(), quarantined=quarantine.count(),
    )  # fmt: skip


def _gaps(opens: IntArray, timeframe: Timeframe, calendar: Calendar) -> list[Gap]:
    if not len(opens):
        return []
    expected = expected_opens(calendar, timeframe, int(opens[0]), int(opens[-1]) + 1)
    lower, upper = np.searchsorted(expected, opens[:-1], side="right"), np.searchsorted(expected, opens[1:])
    return [
        Gap(int(expected[lower[at]]), int(opens[at + 1]), int(upper[at] - lower[at]))
        for at in np.flatnonzero(upper > lower).tolist()
    ]
