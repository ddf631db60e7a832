"""Prices and ticks: one statement values or finds positions, and only those that need it are looked at.

The price watch (every few seconds, one call per exchange) is the fastest exit we track ourselves; the tick (every few
minutes per session) is the valuation and the safety net.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime

from django.db import connection, transaction
from django.db.models import Q
from django.utils import timezone

from exchanges.gateway import ExchangeUnavailable
from exchanges.models import Exchange
from exchanges.services import quotes_refresh
from pipeline.claims import GuardedQuerySet
from positions.resting import stops_met_look
from positions.services import PRICE_IS_OLD_AFTER, sessions_track, sessions_unsettled
from sessions.models import SessionStatus, TradingSession

logger = logging.getLogger(__name__)

# By exchange: held by the thread of this process that asks it for prices. One that hangs costs one thread, and not, watch by
# watch, all that the exits of the others need.
_asking: dict[int, threading.Lock] = {}

VALUE = """
    UPDATE positions_position AS p
    SET mark_price = q.last,
        unrealized_pnl = (q.last - p.entry_price) * p.quantity * m.contract_size * CASE p.side WHEN 'LONG' THEN 1 ELSE -1 END,
        valued_at = %s,
        valuations = p.valuations + 1
    FROM (
        -- In the tracker's order, so that a tick and a look at the same sessions never wait for each other.
        SELECT id FROM positions_position WHERE session_id = ANY(%s) AND status = 'OPEN' ORDER BY session_id FOR UPDATE
    ) AS mine, exchanges_quote AS q JOIN exchanges_market AS m ON m.id = q.market_id
    WHERE p.id = mine.id AND q.market_id = p.market_id
"""

# One arm per partial index (long_stop, long_target, short_stop, short_target, position_exit_due, position_following).
DUE = " UNION ".join(
    (
        *(
            f"""
            SELECT p.session_id FROM exchanges_quote AS q JOIN positions_position AS p ON p.market_id = q.market_id
            WHERE p.status = 'OPEN' AND p.side = '{side}' AND p.{level} {beyond} q.last
                AND q.quoted_at > greatest(p.folded_at, %(since)s)
            """  # noqa: S608  # made of the constants below
            for side, level, beyond in (
                ("LONG", "stop_price", ">="),
                ("LONG", "target_price", "<="),
                ("SHORT", "stop_price", "<="),
                ("SHORT", "target_price", ">="),
            )
        ),
        """
        SELECT session_id FROM positions_position WHERE status = 'OPEN' AND exit_due_at <= %(now)s AND exit_reason = ''
        """,
        """
        SELECT p.session_id FROM marketdata_feed AS f JOIN positions_position AS p ON p.feed_id = f.id
        WHERE p.status = 'OPEN' AND p.is_following AND p.followed_until < f.last_open_at
        """,
    )
)


def sessions_tick(session_ids: Sequence[int]) -> int:
    """Value the open positions of these sessions at the last prices and look at the sessions that need it; how many
    positions were valued."""
    now = timezone.now()
    with connection.cursor() as cursor:
        cursor.execute(VALUE, [now, list(session_ids)])
        valued = int(cursor.rowcount)
    ticked = set(session_ids)
    sessions_track(sorted(ticked.intersection(sessions_due(now)) | set(sessions_unsettled(now, ticked))))
    return valued


def prices_watch() -> int:
    """Read the prices of every market that matters, one call per exchange, and look at the sessions that have an exit due or
    a stop to move; how many. An exchange that has not answered the watch before is not asked again beside it."""
    wanted: dict[int, set[str]] = defaultdict(set)
    markets: list[int] = []
    fields = ("config__feed__market__exchange_id", "config__feed__market__symbol", "config__feed__market_id")
    for exchange_id, symbol, market_id in sessions_concerned().values_list(*fields).distinct():
        wanted[exchange_id].add(symbol)
        markets.append(market_id)
    for exchange in Exchange.objects.filter(pk__in=wanted, is_enabled=True):
        _read_prices(exchange, sorted(wanted[exchange.pk]))
    stops_met_look(markets)
    due = sessions_due(timezone.now())
    sessions_track(due)
    return len(due)


def sessions_concerned() -> GuardedQuerySet[TradingSession]:
    """Sessions to which a price may matter: those that trade, and those that hold something."""
    return TradingSession.objects.filter(Q(status=SessionStatus.ACTIVE) | Q(has_exposure=True))


def _read_prices(exchange: Exchange, symbols: Sequence[str]) -> None:
    asking = _asking.setdefault(exchange.pk, threading.Lock())
    if not asking.acquire(blocking=False):
        return
    try:
        quotes_refresh(exchange.pk, symbols)
    except ExchangeUnavailable as error:
        logger.warning("no prices from %s: %s", exchange.name, error)
    except Exception:
        # Whatever is wrong with one exchange must not keep the exits of the others waiting.
        logger.exception("prices of %s could not be read", exchange.name)
    finally:
        asking.release()


def sessions_due(now: datetime) -> list[int]:
    """Sessions whose open position has its stop or target at or beyond a price that is fresh, and newer than its fills; whose
    exit by time is due; or whose stop follows a candle that has closed since it last moved."""
    with transaction.atomic(), connection.cursor() as cursor:
        # The planner cannot know that a price crosses few levels: it expects a third of them, and would read the table.
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute(DUE, {"since": now - PRICE_IS_OLD_AFTER, "now": now})
        return sorted(row[0] for row in cursor.fetchall())
