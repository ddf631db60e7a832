"""Candles made of the shorter ones of the same market that are stored: exact, and without a call to anybody.

A candle is given only when every shorter one that its calendar expects is there: the next source is asked for what cannot
be made whole. What is stored serves; what is still to come only while the shorter candles are collected for somebody anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from django.db import connection

from domain.calendars import DAY_MS, Calendar, candle_of, expected_opens
from domain.candles import Timeframe
from domain.resampling import require_shorter
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
        if base is None or base.last_open_at is None:
            raise SourceFailed(f"wanted candles of {self._shorter} to be collected for somebody, were not")
        frame, calendar = Timeframe(self._feed.timeframe), Calendar(base.calendar)
        try:
            require_shorter(self._shorter, frame, calendar)
        except ValueError as error:
            raise SourceFailed(str(error), is_final=True) from error
        first = frame.open_of(since)
        first = first if first == since else first + frame.length
        if not base.is_needed and first + frame.length > base.last_open_at + self._shorter.length:
            raise SourceFailed(f"wanted candles of {self._shorter} to be collected for somebody, were not")
        expected = _expected(calendar, self._shorter, frame, first, first + limit * frame.length)
        # What is not over yet, or whose last candles are not there yet.
        expected = [one for one in expected if one.last_at <= base.last_open_at]
        made = _made(base.pk, expected)
        rows: list[CandleReport] = []
        for number, one in enumerate(expected, start=1):
            report, was = made.get(number, (None, 0))
            if report is None or was != one.count:
                if rows:
                    break  # whoever asks on from here is told why
                raise SourceFailed(
                    f"wanted {one.count} candles of {self._shorter} from {one.first_at:%Y-%m-%d %H:%M} on, were {was}"
                )
            rows.append(report)
        return rows


@dataclass(frozen=True, slots=True)
class _Expected:
    """A longer candle, and the shorter ones that make it: from when to when they open, and how many they are."""

    open_at: datetime
    first_at: datetime
    last_at: datetime
    count: int


def _expected(
    calendar: Calendar, shorter: Timeframe, frame: Timeframe, first: datetime, until: datetime
) -> list[_Expected]:
    """The longer candles that open from ``first`` to before ``until``, oldest first; those of a closed market are not among
    them."""
    from_ms, until_ms = (int(at.timestamp() * 1000) for at in (first, until))
    # A day may begin on the date before its own.
    opens = expected_opens(calendar, shorter, from_ms - DAY_MS, until_ms)
    names, starts, counts = np.unique(candle_of(calendar, frame, opens), return_index=True, return_counts=True)
    return [
        _Expected(_at(name), _at(opens[start]), _at(opens[start + count - 1]), count)
        for name, start, count in zip(names.tolist(), starts.tolist(), counts.tolist(), strict=True)
        if from_ms <= name < until_ms
    ]


def _made(feed_id: int, expected: Sequence[_Expected]) -> dict[int, tuple[CandleReport, int]]:
    """What the stored candles make, by the number of the longer one, from 1 on, each with how many they were."""
    if not expected:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT width_bucket(open_at, %s::timestamptz[]) AS number, (array_agg(open ORDER BY open_at))[1], max(high),
                   min(low), (array_agg(close ORDER BY open_at DESC))[1], sum(volume), count(*)
            FROM marketdata_candle WHERE feed_id = %s AND open_at BETWEEN %s AND %s GROUP BY number
            """,
            [[one.first_at for one in expected], feed_id, expected[0].first_at, expected[-1].last_at],
        )
        return {
            number: (CandleReport(expected[number - 1].open_at, *figures), count)
            for number, *figures, count in cursor.fetchall()
        }


def _at(open_ms: int) -> datetime:
    return datetime.fromtimestamp(int(open_ms) / 1000, tz=UTC)
