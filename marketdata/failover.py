"""Which of a feed's sources is asked: the first that serves. A switch is told once, and undone when an earlier one is back.

One that failed is left alone for a growing pause, so that it costs its timeout now and then and not at every candle. Where
two tell a past candle differently, the one that goes before the other is right (``may_tell``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.core.exceptions import ValidationError
from django.db import connection, transaction
from django.db.models import F, Value
from django.db.models.functions import Coalesce

from domain.calendars import Calendar
from domain.candles import Timeframe
from domain.resampling import require_shorter
from exchanges.gateway import CandleReport
from marketdata.models import Feed, FeedSource, SourceKind
from marketdata.sources import Source, SourceFailed, alphavantage, yahoo
from marketdata.sources.alphavantage import AlphaVantageSource
from marketdata.sources.exchange import ExchangeSource
from marketdata.sources.files import FileSource, file_path
from marketdata.sources.resampled import ResampledSource
from marketdata.sources.yahoo import YahooSource
from pipeline.topics import Note, Topic, publish_all

SHORTEST_PAUSE = timedelta(seconds=10)
LONGEST_PAUSE = timedelta(minutes=5)
# Nothing changes until a person acts; what that person did is then seen within the hour.
FINAL_PAUSE = timedelta(hours=1)
# A rate that is used up for no longer than this is no reason to ask elsewhere.
WORTH_WAITING = timedelta(seconds=10)

# What a source of the web calls a market: nothing that would make another address of it.
_SYMBOL = re.compile(r"[A-Za-z0-9^][A-Za-z0-9.,^=&/_:+-]{0,63}")


@dataclass(frozen=True, slots=True)
class Choice:
    """A source to ask now; ``row`` is empty for a feed that lists none and has its exchange."""

    kind: SourceKind
    source: Source
    row: FeedSource | None = None

    @property
    def is_on_trial(self) -> bool:
        """Whether it failed when it was asked last. It serves again when it gives something newer than what is stored; while
        it does not, the next is asked at once: one that answers and stands still would be taken for well otherwise."""
        return self.row is not None and self.row.failures > 0


def sources_to_ask(feed: Feed, now: datetime) -> list[Choice]:
    """The sources of a feed in the order in which to ask them now, never none: the first answer that passes its checks is
    taken. One that has to be left alone for a while is not among them, unless all of them have to: then it is the one
    that may be asked first. Reads ``feed.sources``: prefetch them for many feeds."""
    rows = list(feed.sources.all())
    if not rows:
        return [Choice(SourceKind.EXCHANGE, ExchangeSource(feed.market, feed.timeframe))]
    free = [row for row in rows if row.retry_at is None or row.retry_at <= now]
    asked = free or [min(rows, key=lambda row: row.retry_at or now)]
    return [Choice(SourceKind(row.kind), _opened(feed, row), row) for row in asked]


def is_worth_waiting(error: SourceFailed) -> bool:
    """Whether the source only wants to be asked some seconds later: then nobody has failed, and nobody else is asked. Many
    feeds that close at once would go over to the next source otherwise, and back, whenever the budget is short."""
    return error.retry_after is not None and error.retry_after <= WORTH_WAITING


def source_served(feed: Feed, choice: Choice, now: datetime) -> None:
    """Note that ``choice`` gave candles that passed their checks and are newer than those that were there. Must run in a
    transaction; publishes a switch."""
    row = choice.row
    if row is None or (not row.failures and row.pk == feed.source_id):
        return
    # The feed before its sources, as whoever lists others in their place does.
    serving_id = Feed.objects.select_for_update(no_key=True).values_list("source_id", flat=True).get(pk=feed.pk)
    rows = {other.pk: other for other in FeedSource.objects.filter(feed=feed)}
    if row.pk not in rows:
        return
    if rows[row.pk].failures:
        FeedSource.objects.filter(pk=row.pk).update(failures=0, last_error="", failed_at=None, retry_at=None)
    if serving_id == row.pk:
        return
    Feed.objects.filter(pk=feed.pk).update(source=row)
    was = rows[serving_id] if serving_id is not None else next(iter(rows.values()))
    if was.pk == row.pk:
        return  # the first, as it was to be
    is_back = row.rank < was.rank
    facts = {"feed": str(feed), "source": str(row), "was": str(was), "is_back": is_back}
    if not is_back:
        facts["reason"] = was.last_error
    # Nothing to evaluate: what the candles it gave tell is published with them.
    publish_all(Topic.MARKETDATA, [Note(feed.pk, {"feed_id": feed.pk}, facts)], wakes=False)


def source_failed(feed: Feed, choice: Choice, error: SourceFailed, now: datetime) -> None:
    """Note that ``choice`` gave none, or none that passed; it is left alone for a while. One worth waiting for has not
    failed."""
    row = choice.row
    if row is None or is_worth_waiting(error):
        return
    if error.retry_after is not None:
        pause = error.retry_after
    elif error.is_final:
        pause = FINAL_PAUSE
    else:
        pause = min(SHORTEST_PAUSE * 2 ** min(row.failures, 10), LONGEST_PAUSE)
    FeedSource.objects.filter(pk=row.pk).update(
        failures=F("failures") + 1,
        last_error=" ".join(str(error).replace("\0", "").split())[:200],
        failed_at=Coalesce("failed_at", Value(now)),
        retry_at=now + pause,
    )


def may_tell(feed: Feed, choice: Choice, reports: Sequence[CandleReport]) -> list[CandleReport]:
    """Those of ``reports`` that may be stored as told by ``choice``: all but those of times whose stored candle came from a
    source that goes before it."""
    [told] = may_tell_all([(feed, choice, reports)])
    return told


def may_tell_all(told: Sequence[tuple[Feed, Choice, Sequence[CandleReport]]]) -> list[list[CandleReport]]:
    """``may_tell`` for many feeds by one query, and by none where each was told by its first source."""
    asked = [
        (number, feed.pk, before, min(opens), max(opens))
        for number, (feed, choice, reports) in enumerate(told)
        if (before := _kinds_before(feed, choice)) and (opens := [report.open_at for report in reports])
    ]
    theirs: set[tuple[int, datetime]] = set()
    if asked:
        with connection.cursor() as cursor:
            cursor.execute(
                """
                SELECT asked.number, candle.open_at
                FROM unnest(%s::int[], %s::bigint[], %s::int[], %s::timestamptz[], %s::timestamptz[])
                    AS asked (number, feed_id, before, first, last)
                JOIN marketdata_candle candle
                    ON candle.feed_id = asked.feed_id AND candle.open_at BETWEEN asked.first AND asked.last
                WHERE asked.before >> candle.source & 1 = 1
                """,
                [list(column) for column in zip(*asked, strict=True)],
            )
            theirs = set(cursor.fetchall())
    return [
        [report for report in reports if (number, report.open_at) not in theirs]
        for number, (_, _, reports) in enumerate(told)
    ]


def _kinds_before(feed: Feed, choice: Choice) -> int:
    """The kinds of source that go before ``choice``, each a bit; where one kind is listed twice its best rank counts."""
    if choice.row is None:
        return 0
    kinds = {row.kind for row in feed.sources.all() if row.rank < choice.row.rank} - {int(choice.kind)}
    return sum(1 << kind for kind in kinds)


class _Unusable:
    """What a row names that nothing here can open: it fails like any other source, and the next is asked."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def candles(self, since: datetime, limit: int) -> Sequence[CandleReport]:
        raise SourceFailed(self._reason, is_final=True)


def _opened(feed: Feed, row: FeedSource) -> Source:
    try:
        return _OPENERS[SourceKind(row.kind)](feed, row.symbol)
    except (KeyError, ValueError) as error:
        return _Unusable(f"wanted a source that can be opened, was {row}: {error}")


# -- which sources a feed has -------------------------------------------------------------------------------------------


def feed_sources_set(feed: Feed, sources: Sequence[tuple[int, str]], *, actor: str = "system") -> bool:
    """List the sources of ``feed``, as (kind, symbol), the one to ask first first; none: the exchange of its market. Whether
    this changed anything; if so, all of them are asked anew whatever they did before. Raises ValidationError."""
    wanted = [(_kind(kind), symbol.strip()) for kind, symbol in sources]
    for number, (kind, symbol) in enumerate(wanted):
        if (kind, symbol) in wanted[:number]:
            raise ValidationError(f"wanted each source once, was {kind.label} {symbol} twice")
        _CHECKS[kind](feed, symbol)
    with transaction.atomic():
        Feed.objects.select_for_update(no_key=True).get(pk=feed.pk)
        if list(FeedSource.objects.filter(feed=feed).values_list("kind", "symbol")) == wanted:
            return False
        FeedSource.objects.filter(feed=feed).delete()
        rows = FeedSource.objects.bulk_create(
            FeedSource(feed=feed, rank=rank, kind=kind, symbol=symbol)
            for rank, (kind, symbol) in enumerate(wanted, start=1)
        )
        facts = {"feed": str(feed), "sources": [str(row) for row in rows]}
        publish_all(Topic.MARKETDATA, [Note(feed.pk, {"feed_id": feed.pk}, facts)], actor=actor, wakes=False)
    return True


def _kind(value: int) -> SourceKind:
    if value not in _OPENERS:
        known = ", ".join(f"{int(kind)} ({kind.label})" for kind in _OPENERS)
        raise ValidationError(f"wanted a kind of source, one of {known}, was {value}")
    return SourceKind(value)


def _check_exchange(feed: Feed, symbol: str) -> None:
    if feed.market.exchange.is_only_data:
        raise ValidationError(f"wanted a source other than its exchange, {feed.market.exchange} is only data")
    if symbol not in ("", feed.market.symbol):
        raise ValidationError(f"wanted no symbol for the market's own exchange, was {symbol}")


def _check_yahoo(feed: Feed, symbol: str) -> None:
    _check_web(SourceKind.YAHOO, symbol)
    _check_timeframe(SourceKind.YAHOO, feed, yahoo.INTERVALS)


def _check_alpha_vantage(feed: Feed, symbol: str) -> None:
    _check_web(SourceKind.ALPHA_VANTAGE, symbol)
    _check_timeframe(SourceKind.ALPHA_VANTAGE, feed, alphavantage.INTERVALS)


def _check_web(kind: SourceKind, symbol: str) -> None:
    if not _SYMBOL.fullmatch(symbol):
        raise ValidationError(f"wanted what {kind.label} calls the market, such as AAPL, was {symbol[:64]!r}")


def _check_timeframe(kind: SourceKind, feed: Feed, offered: Iterable[str]) -> None:
    if feed.timeframe not in offered:
        raise ValidationError(f"wanted a timeframe that {kind.label} has ({', '.join(offered)}), was {feed.timeframe}")


def _check_file(feed: Feed, symbol: str) -> None:
    try:
        file_path(symbol)
    except SourceFailed as error:
        raise ValidationError(str(error)) from error


def _check_resampled(feed: Feed, symbol: str) -> None:
    length = Timeframe(feed.timeframe).seconds
    shorter = [frame.value for frame in Timeframe if frame.seconds < length and length % frame.seconds == 0]
    if symbol not in shorter:
        known = ", ".join(shorter) or "there is none"
        raise ValidationError(f"wanted a timeframe that {feed.timeframe} is made of ({known}), was {symbol[:64]!r}")
    try:
        require_shorter(Timeframe(symbol), Timeframe(feed.timeframe), Calendar(feed.calendar))
    except ValueError as error:
        raise ValidationError(str(error)) from error


_OPENERS: dict[SourceKind, Callable[[Feed, str], Source]] = {
    SourceKind.EXCHANGE: lambda feed, symbol: ExchangeSource(feed.market, feed.timeframe),
    SourceKind.YAHOO: lambda feed, symbol: YahooSource(symbol, feed.timeframe),
    SourceKind.ALPHA_VANTAGE: lambda feed, symbol: AlphaVantageSource(symbol, feed.timeframe),
    SourceKind.FILE: FileSource,
    SourceKind.RESAMPLED: lambda feed, symbol: ResampledSource(feed, Timeframe(symbol)),
}

_CHECKS: dict[SourceKind, Callable[[Feed, str], None]] = {
    SourceKind.EXCHANGE: _check_exchange,
    SourceKind.YAHOO: _check_yahoo,
    SourceKind.ALPHA_VANTAGE: _check_alpha_vantage,
    SourceKind.FILE: _check_file,
    SourceKind.RESAMPLED: _check_resampled,
}
