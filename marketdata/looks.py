"""One feed while it is collected: what is asked of which source, and whether the answer passes.

An answer passes when its newest closed candle can be taken and leaves its feed no older than it must be; after one that does
not, the feed's next source is asked. Nothing is written here.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
from django.db import connection
from django.utils import timezone

from domain.calendars import Calendar, next_open
from domain.candles import Candles, Timeframe
from domain.quality import Finding, Flaw, inspect
from exchanges.gateway import CandleReport
from marketdata.failover import Choice, is_worth_waiting
from marketdata.models import Feed, SourceKind
from marketdata.quarantine import Batch
from marketdata.sources import SourceFailed

logger = logging.getLogger(__name__)

# How much history a feed starts with: enough for the longest warm-up a strategy may declare.
HISTORY = 1000
# The most one request may return at KuCoin is 1500; a longer gap is filled over several collections.
REQUEST_LIMIT = 1500
# A source is asked while so much of the lease is left, which is longer than a request lasts: nobody else asks meanwhile.
ASK_TAKES = timedelta(seconds=12)
# A feed is stale when its last candle closed more than two timeframes ago by the venue's clock, and a minute of our own. A
# venue that could not be asked a few times proves nothing yet: after an absence of ours every last candle is old.
STALE_AFTER_TIMEFRAMES = 2
STALE_MARGIN = timedelta(seconds=60)
# A price that moves by no more than this from one candle to the next is no jump by any measure. Where one does in an answer
# this short, it is measured by so many candles that are stored.
CALM = 1.1
FEW_ROWS = 100
ROWS_BEFORE = 201

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Look:
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
    is_late: bool = False

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
        return self.is_dropped or self.is_late or self.served is not None or (self.answer is None and not self.choices)

    @property
    def lane(self) -> Hashable:
        kind = self.choices[0].kind
        return f"exchange-{self.feed.market.exchange_id}" if kind is SourceKind.EXCHANGE else kind.name

    @property
    def has_news(self) -> bool:
        """Whether the answer that passed has a newer candle than the feed."""
        return self.served is not None and _has_news(self, self.served[1])

    @property
    def batches(self) -> list[tuple[Choice, Batch]]:
        """Whatever was said, the one that counts first: the answer that passed, or the first that did not."""
        return [*([self.served] if self.served else []), *self.failed, *self.old]

    def next_open(self, after: datetime) -> datetime:
        """When the first candle opens that the feed's calendar expects after ``after``."""
        ms = next_open(self.calendar, self.timeframe, _ms(after))
        return datetime.fromtimestamp(ms / 1000, tz=UTC)

    def stale_at(self, last_open_at: datetime | None) -> datetime | None:
        """When, in our time, the feed is stale with that last candle; None while the venue's clock stands still. Candles that
        its calendar does not expect make nothing late."""
        exchange, timeframe, venue_now = self.feed.market.exchange, self.timeframe, self.venue_now
        if exchange.clock_speed <= 0:
            return None
        if last_open_at is None:  # nothing in all of the history that was asked for
            last_open_at = timeframe.open_of(venue_now) - HISTORY * timeframe.length
        for _ in range(STALE_AFTER_TIMEFRAMES):
            last_open_at = self.next_open(last_open_at)
        return self.asked_at + exchange.wall_delay(last_open_at + timeframe.length - venue_now) + STALE_MARGIN

    def ask(self) -> None:
        """Ask the next source; whatever goes wrong is noted here."""
        choice, self.asked_at = self.choices[0], timezone.now()
        if self.feed.leased_until is None or self.asked_at > self.feed.leased_until - ASK_TAKES:
            self.is_late = True  # it waited too long for its turn: somebody else might have it before it is answered
            return
        try:
            self.answer = choice.source.candles(self.since, REQUEST_LIMIT)
        except SourceFailed as error:
            self.failures.append((self.choices.pop(0), error))
            if is_worth_waiting(error):
                # Thousands of feeds that close at once would go over to the next source, and back, whenever it is short.
                self.choices.clear()
        except Exception:
            self.drop()

    def drop(self) -> None:
        """Leave it: its lease runs out and the sweep rings again; its neighbours need not wait."""
        logger.exception("feed %s was not collected", self.feed.pk)
        self.is_dropped = True


# -- judging ----------------------------------------------------------------------------------------------------------


def looks_judge(looks: Sequence[Look]) -> None:
    """Inspect the answers that have come: one that passes is taken, after one that does not the next source is asked."""
    fresh = [look for look in looks if look.answer is not None]
    before = _stored_before([look for look in fresh if _needs_measure(look.answer or ())])
    for look in fresh:
        try:
            _judge_one(look, before.get(look.feed.pk))
        except Exception:
            look.drop()


def _needs_measure(rows: Sequence[CandleReport]) -> bool:
    if not 0 < len(rows) <= FEW_ROWS:
        return False
    close = float(rows[0].open)
    for row in rows:
        if not (float(row.high) <= close * CALM and close <= float(row.low) * CALM):  # false for what is no number, too
            return True
        close = float(row.close)
    return False


def _judge_one(look: Look, before: Candles | None) -> None:
    choice, answer, look.answer = look.choices.pop(0), look.answer or (), None
    rows = [row for row in answer if row.open_at >= look.since]
    inspection = inspect(_arrays(rows), look.timeframe, look.calendar, now_ms=_ms(look.venue_now), before=before)
    batch = Batch(look.feed.pk, choice.kind, rows, inspection)
    if (flaw := _failure(batch)) is not None:
        look.failed.append((choice, batch))
        look.failures.append((choice, SourceFailed(flaw)))
    elif _is_old(look, batch, choice):
        look.old.append((choice, batch))
    else:
        look.served = choice, batch
        if look.has_news:
            error = SourceFailed("wanted newer candles, another source has them")
            look.failures += [(old, error) for old, _ in look.old]
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


def _is_old(look: Look, batch: Batch, choice: Choice) -> bool:
    """Whether a feed would be stale with nothing newer than this answer; of a source that failed when it was asked last,
    whether it has no news, for one that stands still would be taken for well otherwise."""
    if choice.is_on_trial and not _has_news(look, batch):
        return True
    stale_at = look.stale_at(_last_open_at(look, batch))
    return stale_at is not None and stale_at <= look.asked_at


def _has_news(look: Look, batch: Batch) -> bool:
    return _last_open_at(look, batch) != look.feed.last_open_at


def _last_open_at(look: Look, batch: Batch) -> datetime | None:
    """When the feed's last candle opens with what is good of ``batch``, or only jumps."""
    bad = {finding.index for finding in batch.inspection.findings if finding.flaw is not Flaw.JUMP}
    good = [row.open_at for index, row in enumerate(batch.rows) if index not in bad]
    return max([*good, *([look.feed.last_open_at] if look.feed.last_open_at else [])], default=None)


def _arrays(rows: Sequence[CandleReport]) -> Candles:
    return Candles.from_rows(
        (_ms(row.open_at), float(row.open), float(row.high), float(row.low), float(row.close), float(row.volume))
        for row in rows
    )


def _stored_before(looks: Sequence[Look]) -> dict[int, Candles]:
    """By feed, the last candles that are stored, up to the first one asked for, which an answer may be without: one statement
    for all, and each column as the bytes of an array."""
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
                    SELECT * FROM marketdata_candle WHERE feed_id = asked.feed_id AND open_at <= asked.since
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


def _ms(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(milliseconds=1)  # never rounded up: no candle closes before its time
