"""Candles made of the shorter ones of the same market that are stored: exact, and without a call to anybody.

A candle is given only when every shorter one that its calendar expects is there: the next source is asked for what cannot
be made whole. What is stored serves; what is still to come only while the shorter candles are collected for somebody anyway.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import numpy as np
from django.db import connection

from domain.calendars import Calendar, expected_opens
from domain.candles import Timeframe
from exchanges.gateway import CandleReport
from marketdata.models import Feed
from marketdata.sources import SourceFailed


class ResampledSource:
    """Candles of ``feed`` made of those of its market in the timeframe ``shorter``."""

    def __init__(self, feed: Feed, shorter: Timeframe) -> None:
        self._feed = feed
        self._shorter = shorter

    def candles(self, since: datetime, limit: int) -> list[CandleReport]:
        base = Feed.objects.filter(market=self._feed.market_id, timeframe=self._shorter.value).first()
        frame = Timeframe(self._feed.timeframe)
        first = frame.open_of(since)
        first = first if first == since else first + frame.length
        if (
            base is None
            or base.last_open_at is None
            or (not base.is_needed and first + frame.length > base.last_open_at + self._shorter.length)
        ):
            raise SourceFailed(f"wanted candles of {self._shorter} to be collected for somebody, were not")
        until = min(first + limit * frame.length, base.last_open_at + self._shorter.length)
        expected = _counts(Calendar(base.calendar), self._shorter, frame, first, first + limit * frame.length)
        made = {report.open_at: (report, count) for report, count in _made(base.pk, frame, first, until)}
        rows: list[CandleReport] = []
        for open_at, count in expected:
            if open_at + frame.length > until:
                break  # it is not over yet, or its last candles are not there yet
            report, was = made.get(open_at, (None, 0))
            if report is None or was < count:
                if rows:
                    break  # whoever asks on from here is told why
                raise SourceFailed(
                    f"wanted {count} candles of {self._shorter} from {open_at:%Y-%m-%d %H:%M} on, were {was}"
                )
            rows.append(report)
        return rows


def _counts(
    calendar: Calendar, shorter: Timeframe, frame: Timeframe, first: datetime, until: datetime
) -> Iterable[tuple[datetime, int]]:
    """How many shorter candles make each longer one, by its open time; those of a closed market are not among them."""
    step = frame.seconds * 1000
    opens = expected_opens(calendar, shorter, int(first.timestamp() * 1000), int(until.timestamp() * 1000))
    for open_ms, count in zip(*np.unique(opens // step * step, return_counts=True), strict=True):
        yield datetime.fromtimestamp(int(open_ms) / 1000, tz=UTC), int(count)


def _made(feed_id: int, frame: Timeframe, first: datetime, until: datetime) -> Iterable[tuple[CandleReport, int]]:
    """The longer candles that the stored ones make, each with how many they were."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT date_bin(make_interval(secs => %s), open_at, TIMESTAMPTZ '1970-01-01 00:00:00Z') AS bucket,
                   (array_agg(open ORDER BY open_at))[1], max(high), min(low), (array_agg(close ORDER BY open_at DESC))[1],
                   sum(volume), count(*)
            FROM marketdata_candle WHERE feed_id = %s AND open_at >= %s AND open_at < %s GROUP BY bucket
            """,
            [frame.seconds, feed_id, first, until],
        )
        for open_at, opened, high, low, close, volume, count in cursor.fetchall():
            yield CandleReport(open_at, opened, high, low, close, volume), count
