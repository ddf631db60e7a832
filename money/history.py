"""What limits are measured by besides the book: how markets moved, what the account was worth, what it lost last.

Only what a limit asks for is read. How markets moved is read before the account's lock is taken; the rest is a few rows.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from decimal import Decimal

import numpy as np
from django.db import connection
from django.db.models import Q

from domain.candles import Timeframe
from domain.limits import FEWEST_RETURNS, Limits, Past, Returns
from domain.orders import OrderStatus
from exchanges.models import Account, Market
from money.models import EquityPoint
from orders.models import Order
from positions.models import LIVE_POSITIONS, Position, PositionStatus

# How many periods back markets are looked at, at most.
PERIODS = 1000
# From the finest to the coarsest: the first in which all markets have enough returns side by side.
TIMEFRAMES = tuple(frame for frame in Timeframe if frame.seconds >= Timeframe.H1.seconds)
# What an account was worth before midnight tells of midnight if it is no older than this.
DAY = timedelta(days=1)


def markets_at_work(account_id: int) -> set[str]:
    """The symbols of all markets on which the account holds something, or wants to."""
    live = Position.objects.filter(account=account_id, status__in=LIVE_POSITIONS)
    return set(live.values_list("market__symbol", flat=True))


def returns_of(exchange_id: int, symbols: Collection[str]) -> Returns | None:
    """How the markets moved, by the closes of the candles we have: hourly where they all have enough, else the next longer
    timeframe. Shorter candles tell the closes of longer ones. None where nothing is long enough."""
    markets = dict(Market.objects.filter(exchange=exchange_id, symbol__in=symbols).values_list("pk", "symbol"))
    if not markets:
        return None
    for timeframe in TIMEFRAMES:
        closes = _closes(list(markets), timeframe)
        if len(closes) < len(markets):
            continue
        common = sorted(set.intersection(*(set(prices) for prices in closes.values())))
        ordered = [markets[pk] for pk in closes]
        table = np.array([[closes[pk][at] for pk in closes] for at in common], dtype=np.float64)
        if len(table) <= FEWEST_RETURNS:
            continue
        is_next = np.diff(np.array(common)) == timeframe.seconds  # a gap is no return of one period
        matrix = (table[1:] / table[:-1] - 1)[is_next]
        if len(matrix) >= FEWEST_RETURNS:
            return Returns(tuple(ordered), matrix, timeframe.length)
    return None


def past_of(account: Account, limits: Limits, session_id: int | None, now: datetime) -> Past:
    """What the limits ask of the account's past. Exact when read under the account's lock."""
    closed_by_session, closed_by_account = [], []
    if limits.cooldown_losses is not None:
        closed_by_account = _last_closed(Q(account=account), limits.cooldown_losses)
        if session_id is not None:
            closed_by_session = _last_closed(Q(session=session_id), limits.cooldown_losses)
    return Past(
        day_start_equity=day_start_equity(account, now) if limits.max_daily_loss_percent is not None else None,
        peak_equity=peak_equity(account) if limits.max_drawdown_percent is not None else None,
        entries_last_minute=_entries_last_minute(account, now) if limits.max_orders_per_minute is not None else 0,
        closed_by_session=closed_by_session,
        closed_by_account=closed_by_account,
    )


def peak_equity(account: Account) -> Decimal | None:
    """The highest equity there was, as the curve has it; None before its first point."""
    newest = EquityPoint.objects.filter(account=account, currency=account.currency).order_by("-at")
    return newest.values_list("peak", flat=True).first()


def _closes(market_ids: list[int], timeframe: Timeframe) -> dict[int, dict[int, float]]:
    """By market, its closes by the second in which a candle of ``timeframe`` closed."""
    divisors = [frame for frame in Timeframe if timeframe.seconds % frame.seconds == 0]
    lengths = {frame.value: frame.seconds for frame in divisors}
    found: dict[int, dict[int, float]] = {}
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT feed.market_id, extract(epoch FROM candle.open_at)::bigint + frame.seconds AS closed, candle.close::float8
            FROM marketdata_feed feed
            JOIN unnest(%s::text[], %s::int[]) AS frame(name, seconds) ON frame.name = feed.timeframe
            JOIN marketdata_candle candle ON candle.feed_id = feed.id
            WHERE feed.market_id = ANY(%s)
              AND candle.open_at > feed.last_open_at - make_interval(secs => %s)
              AND (extract(epoch FROM candle.open_at)::bigint + frame.seconds) %% %s = 0
            ORDER BY closed
            """,
            [
                list(lengths), list(lengths.values()), market_ids, PERIODS * timeframe.seconds, timeframe.seconds,
            ],
        )  # fmt: skip
        for market_id, closed, close in cursor.fetchall():
            if close > 0:
                found.setdefault(market_id, {})[closed] = close
    return found


def _last_closed(of: Q, count: int) -> list[tuple[Decimal, datetime]]:
    closed = Position.objects.filter(of, status=PositionStatus.CLOSED, closed_at__isnull=False)
    rows = closed.order_by("-closed_at", "-pk").values_list("realized_pnl", "closed_at")[:count]
    return [(result, closed_at) for result, closed_at in rows if closed_at is not None]


def day_start_equity(account: Account, now: datetime) -> Decimal | None:
    """What the account was worth at midnight UTC: the last known before, else the first known since."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    points = EquityPoint.objects.filter(account=account, currency=account.currency).values_list("equity", flat=True)
    before = points.filter(at__lte=midnight, at__gt=midnight - DAY).order_by("-at").first()
    return before if before is not None else points.filter(at__gt=midnight).order_by("at").first()


def _entries_last_minute(account: Account, now: datetime) -> int:
    let_through = Order.objects.filter(
        account=account, is_exit=False, is_foreign=False, valued_at__gt=now - timedelta(minutes=1)
    )
    return let_through.exclude(status__in=(OrderStatus.REQUESTED, OrderStatus.DENIED)).count()
