"""Trades and funding rates of the markets of which a strategy asks for them: each stored once, and no hole left untold.

A tape is collected like a feed: leased by a guarded update, asked for while no transaction is held, stored together with how
far it reaches. Each reading begins with the last row that is stored; a venue whose answer does not go back to it has shown
fewer trades than there were, and the tape is whole only from there on.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from django.db import connection, transaction
from django.db.models import F, Q
from django.utils import timezone

from domain.candles import Timeframe
from domain.informative import FundingRates, TapeKind, Trades
from exchanges.gateway import ExchangeUnavailable, FundingRateReport, TradeReport
from exchanges.models import Market
from exchanges.services import gateway_for
from marketdata.models import Feed, FundingRate, MarketTrade, Tape
from pipeline.topics import ring

logger = logging.getLogger(__name__)

# Some venues show the last hundred trades only: the more often they are read, the fewer holes. A rate is paid hours apart.
# Both are read, besides, when a candle closes of a feed of their market: its configurations wait for them.
EVERY = {TapeKind.TRADES: timedelta(seconds=5), TapeKind.FUNDING: timedelta(minutes=5)}
# With how much a tape begins, where the venue still has it.
HISTORY = {TapeKind.TRADES: timedelta(minutes=10), TapeKind.FUNDING: timedelta(days=200)}
# However fast a venue's clock runs.
SOONEST = timedelta(seconds=1)
REQUEST_LIMIT = 1000
# A venue may show a trade, or a rate, a moment after it happened.
PUBLISHED_WITHIN = timedelta(seconds=1)
LEASE = timedelta(seconds=60)
LONGEST_BACK_OFF = timedelta(seconds=60)
# Trades that a strategy is given at most, the newest of them.
MOST_TRADES = 200_000
# The last rate before a window is known within it, too: no venue lets more time pass between two.
LONGEST_BETWEEN_RATES = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class _Reading:
    """What a venue was asked and said: rows from ``since`` on, up to ``reach``; ``has_hole`` where some before the first of
    them may be missing."""

    rows: Sequence[TradeReport | FundingRateReport]
    whole_since: datetime
    reach: datetime
    has_hole: bool
    has_more: bool


def tape_ensure(market: Market, kind: TapeKind) -> Tape:
    """The tape of that kind of ``market``, made if it is the first."""
    return Tape.objects.get_or_create(market=market, kind=kind.value)[0]


def tape_need(tape_id: int, is_needed: bool) -> bool:
    """Start or end collection of a tape; whether this changed anything. One that is needed again is due at once."""
    next_due_at = timezone.now() if is_needed else None
    changed = Tape.objects.filter(pk=tape_id, is_needed=not is_needed)
    return bool(changed.update(is_needed=is_needed, next_due_at=next_due_at, misses=0))


def tapes_due(now: datetime) -> list[int]:
    """Tapes to read, with nobody at it: what the sweep rings for."""
    free = Q(leased_until=None) | Q(leased_until__lt=now)
    due = Tape.objects.filter(free, is_needed=True, next_due_at__lte=now, market__exchange__is_enabled=True)
    return list(due.order_by("next_due_at").values_list("pk", flat=True))


def tape_collect(tape_id: int) -> int:
    """Fetch and store what came since the last reading; how many rows are new.

    A venue that cannot be reached leaves the tape due again after a growing pause, with the reason on the row. Configurations
    whose last candle waited for the tape are asked.
    """
    now = timezone.now()
    free = Q(leased_until=None) | Q(leased_until__lt=now)
    lease = now + LEASE
    if not Tape.objects.filter(free, pk=tape_id, is_needed=True, next_due_at__lte=now).update(leased_until=lease):
        return 0
    tape = Tape.objects.select_related("market__exchange").get(pk=tape_id)
    try:
        reading = _read(tape, now)
    except ExchangeUnavailable as error:
        _collect_failed(tape, lease, str(error))
        return 0
    with transaction.atomic():
        new = _store(tape, reading.rows)
        # The lease is the fence, as for feeds: whoever was overtaken stores rows, which are the same, and moves nothing.
        moved = Tape.objects.filter(pk=tape_id, leased_until=lease).update(
            leased_until=None,
            next_due_at=timezone.now() if reading.has_more else _next_due_at(tape, reading.reach, now),
            last_at=reading.reach,
            whole_since=reading.whole_since,
            holes=F("holes") + 1 if reading.has_hole else F("holes"),
            misses=0,
            last_error="",
        )
        if moved:
            _ring_waiting(tape, reading.reach)
    if reading.has_hole:
        logger.warning("%s: what happened before %s may be missing", tape, reading.whole_since)
    return new


def trades_window(tape: Tape, from_at: datetime, until: datetime) -> Trades:
    """Trades of a tape from ``from_at`` to before ``until``, at most ``MOST_TRADES``, as arrays."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT (extract(epoch FROM traded_at) * 1000)::bigint, price::float8, quantity::float8, is_buy
            FROM marketdata_markettrade WHERE market_id = %s AND traded_at >= %s AND traded_at < %s
            ORDER BY traded_at DESC, trade_id DESC LIMIT %s
            """,
            [tape.market_id, from_at, until, MOST_TRADES],
        )
        rows = cursor.fetchall()[::-1]
    whole_ms = _ms(until if tape.whole_since is None else tape.whole_since)
    if len(rows) == MOST_TRADES:
        whole_ms = max(whole_ms, rows[0][0] + 1)
    table = np.array(rows, dtype=np.float64).reshape(-1, 4)
    return Trades(
        table[:, 0].astype(np.int64), table[:, 1].copy(), table[:, 2].copy(), table[:, 3].astype(np.bool_), whole_ms
    )


def funding_window(tape: Tape, from_at: datetime, until: datetime) -> FundingRates:
    """Funding rates of a tape before ``until``, from the last before ``from_at`` on, as arrays."""
    paid = FundingRate.objects.filter(
        market=tape.market_id, paid_at__gte=from_at - LONGEST_BETWEEN_RATES, paid_at__lt=until
    )
    rows = list(paid.order_by("paid_at").values_list("paid_at", "rate"))
    return FundingRates(
        np.array([_ms(paid_at) for paid_at, _ in rows], dtype=np.int64),
        np.array([float(rate) for _, rate in rows], dtype=np.float64),
    )


def _read(tape: Tape, now: datetime) -> _Reading:
    exchange, kind, symbol = tape.market.exchange, TapeKind(tape.kind), tape.market.symbol
    asked_at = exchange.time_at(now)
    begins_at = asked_at - HISTORY[kind]
    # One that was not needed for long begins anew: what lies between is told as a hole, not made up for.
    is_followed = tape.last_at is not None and tape.last_at >= begins_at
    last_at = _last_stored(tape) if is_followed else None
    since = last_at or begins_at
    gateway = gateway_for(exchange, markets=[tape.market])
    rows: Sequence[TradeReport | FundingRateReport]
    if kind is TapeKind.TRADES:
        rows = [row for row in gateway.trades_since(symbol, since, REQUEST_LIMIT) if row.at >= since]
    else:
        rows = [row for row in gateway.funding_rates_since(symbol, since, REQUEST_LIMIT) if row.at >= since]
    reach = asked_at - PUBLISHED_WITHIN
    has_more = len(rows) >= REQUEST_LIMIT and rows[-1].at > since
    if has_more:
        reach = rows[-1].at
    if tape.last_at is not None:
        reach = max(reach, tape.last_at)
    # Of trades we know those that were shown, and not whether the first had others in its own millisecond.
    shown = rows[0].at + timedelta(milliseconds=1) if rows else reach
    if last_at is None:  # nothing to go back to
        begins = shown if kind is TapeKind.TRADES else since
        return _Reading(rows, begins, reach, has_hole=tape.whole_since is not None, has_more=has_more)
    has_hole = bool(rows) and rows[0].at > last_at
    return _Reading(rows, shown if has_hole else tape.whole_since or shown, reach, has_hole, has_more)


def _last_stored(tape: Tape) -> datetime | None:
    if tape.kind == TapeKind.FUNDING:
        return (
            FundingRate.objects.filter(market=tape.market_id)
            .order_by("-paid_at")
            .values_list("paid_at", flat=True)
            .first()
        )
    trades = MarketTrade.objects.filter(market=tape.market_id)
    return trades.order_by("-traded_at").values_list("traded_at", flat=True).first()


def _store(tape: Tape, rows: Sequence[TradeReport | FundingRateReport]) -> int:
    if not rows:
        return 0
    trades = [row for row in rows if isinstance(row, TradeReport)]
    rates = [row for row in rows if isinstance(row, FundingRateReport)]
    with connection.cursor() as cursor:
        if trades:
            cursor.execute(
                """
                INSERT INTO marketdata_markettrade (market_id, traded_at, trade_id, is_buy, price, quantity)
                SELECT %s, row.*
                FROM unnest(%s::timestamptz[], %s::text[], %s::boolean[], %s::numeric[], %s::numeric[]) AS row
                ON CONFLICT DO NOTHING
                """,
                [tape.market_id, *([getattr(row, name) for row in trades] for name in
                                   ("at", "trade_id", "is_buy", "price", "quantity"))],
            )  # fmt: skip
        else:
            cursor.execute(
                """
                INSERT INTO marketdata_fundingrate (market_id, paid_at, rate)
                SELECT %s, row.* FROM unnest(%s::timestamptz[], %s::numeric[]) AS row ON CONFLICT DO NOTHING
                """,
                [tape.market_id, [row.at for row in rates], [row.rate for row in rates]],
            )
        return int(cursor.rowcount)


def _ring_waiting(tape: Tape, reach: datetime) -> None:
    """Ring for the feeds of the market whose last candle closed since the last reading, up to what this one reaches."""
    closed = []
    for feed in Feed.objects.filter(market=tape.market_id, is_needed=True, last_open_at__isnull=False):
        close_at = (feed.last_open_at or reach) + Timeframe(feed.timeframe).length
        if close_at <= reach and not tape.reaches(close_at):
            closed.append(feed.pk)
    if closed:
        transaction.on_commit(lambda: _ring(closed), robust=True)


def _ring(feed_ids: Sequence[int]) -> None:
    ring("strategies.evaluate", batch=20, feed_ids=feed_ids)


def _next_due_at(tape: Tape, reach: datetime, now: datetime) -> datetime:
    """In our time: after ``EVERY``, or when what happened before the next close of a needed feed can be read."""
    exchange, due_at = tape.market.exchange, now + EVERY[TapeKind(tape.kind)]
    needed = Feed.objects.filter(market=tape.market_id, is_needed=True).values_list("timeframe", flat=True)
    for timeframe in {Timeframe(value) for value in needed}:
        readable_at = timeframe.open_of(reach) + timeframe.length + PUBLISHED_WITHIN
        due_at = min(due_at, now + exchange.wall_delay(readable_at - exchange.time_at(now)))
    return max(due_at, now + SOONEST)


def _collect_failed(tape: Tape, lease: datetime, reason: str) -> None:
    pause = min(timedelta(seconds=2 ** min(tape.misses, 6)), LONGEST_BACK_OFF)
    Tape.objects.filter(pk=tape.pk, leased_until=lease).update(
        leased_until=None, next_due_at=timezone.now() + pause, misses=tape.misses + 1, last_error=reason[:200]
    )


def _ms(at: datetime) -> int:
    return round(at.astimezone(UTC).timestamp() * 1000)
