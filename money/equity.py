"""The equity curve: what sessions, accounts and owners were worth, one point of each per tick at most, thinned with age.

A session's equity is what it has won or lost in all: bought and sold, held at the last price, fees and funding taken in. An
account's is its book's: what it holds and what its positions are worth. An owner's is the sum of their accounts of one
currency. Of each, ``realized_pnl`` is what is no longer at risk (fees paid and funding included, so that with
``unrealized_pnl`` it makes up what positions brought), and ``peak`` goes on from the point before.

Ticks lie on a grid of the session's period since the epoch, so that whoever looks twice, or at once with somebody else,
means the same tick and writes it once. A tick that nobody wrote stays empty: the next point tells the state of then. A
deposit or a withdrawal moves an account's equity like a gain or a loss; nothing here can tell them apart.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db import connection, transaction
from django.db.models import Exists, F, Min, OuterRef, Q, Subquery

from domain.market import ZERO, OrderType
from domain.orders import AT_VENUE_STATUSES
from exchanges.models import Account
from money.book import account_book
from money.models import EquityPoint
from orders.models import Fill, Order
from pipeline.claims import settled
from sessions.models import TRACKED_STATUSES, TradingSession

logger = logging.getLogger(__name__)

SHORTEST_TICK = timedelta(seconds=1)
# A session that stopped longer ago has had its last point, if anybody was there to write it.
STOP_IS_NEWS_FOR = timedelta(days=7)
# While a fill is not in the balance yet, or an exit may be, a book errs on the cautious side: that is right for limits, and
# would be a hole in a curve. So long an account is waited for.
MOTION_PATIENCE = timedelta(minutes=5)
HOURLY_AFTER, DAILY_AFTER = timedelta(days=2), timedelta(days=60)
# Sessions, accounts or owners whose old points are thinned by one statement.
THIN_BATCH = 100

# What positions brought, in quote currency. From sums of money, not from averages of what was closed: so it is exact while
# a part is sold, and where a venue took its fee out of the quantity. An open position is worth the last price.
WORTH = """
    coalesce(sum(CASE p.status WHEN 'OPEN'
        THEN (p.exit_price * p.exited - p.entry_price * p.entered + {mark} * p.quantity) * {size} * {sign} - p.fees
        ELSE p.realized_pnl END + p.funding), 0) AS equity,
    coalesce(sum(CASE p.status WHEN 'OPEN' THEN ({mark} - p.entry_price) * p.quantity * {size} * {sign} END), 0)
        AS unrealized,
    coalesce(sum(p.fees), 0) AS fees,
    coalesce(sum(p.funding), 0) AS funding,
    coalesce(sum(CASE p.status WHEN 'OPEN' THEN {mark} * p.quantity * {size} END), 0) AS exposure
    FROM positions_position AS p
    JOIN exchanges_market AS m ON m.id = p.market_id
    LEFT JOIN exchanges_quote AS q ON q.market_id = p.market_id
""".format(
    mark="coalesce(q.last, p.mark_price, p.entry_price)",
    size="m.contract_size",
    sign="CASE p.side WHEN 'LONG' THEN 1 ELSE -1 END",
)

# One point for each session that holds something, or whose newest position has changed, since its last one.
SESSIONS = f"""
    INSERT INTO money_equitypoint (
        session_id, currency, at, equity, realized_pnl, unrealized_pnl, fees, funding, exposure, peak, drawdown
    )
    SELECT s.id, s.currency, s.tick, w.equity, w.equity - w.unrealized, w.unrealized, w.fees, w.funding, w.exposure,
        greatest(s.peak, w.equity), greatest(s.peak, w.equity) - w.equity
    FROM (
        SELECT s.id, a.currency, s.has_exposure, last.at, last.peak, date_bin(
            greatest(make_interval(secs => s.tick_seconds / nullif(e.clock_speed, 0)), %(shortest)s), %(now)s, 'epoch'
        ) AS tick
        FROM trading_sessions_tradingsession AS s
        JOIN exchanges_account AS a ON a.id = s.account_id
        JOIN exchanges_exchange AS e ON e.id = a.exchange_id
        LEFT JOIN LATERAL (
            SELECT at, peak FROM money_equitypoint WHERE session_id = s.id ORDER BY at DESC LIMIT 1
        ) AS last ON true
        WHERE s.has_exposure OR s.status = ANY(%(tracked)s) OR s.stopped_at > %(news)s
    ) AS s
    LEFT JOIN LATERAL (
        SELECT folded_at FROM positions_position WHERE session_id = s.id ORDER BY id DESC LIMIT 1
    ) AS newest ON true
    CROSS JOIN LATERAL (SELECT {WORTH} WHERE p.session_id = s.id) AS w
    WHERE (s.at IS NULL OR s.at < s.tick)
        AND (s.has_exposure OR newest.folded_at > coalesce(s.at, '-infinity'))
    ORDER BY s.id  -- each row takes a key lock on its session, in the order of whoever locks several
    ON CONFLICT DO NOTHING
"""  # noqa: S608  # made of the constants above

ACCOUNTS = f"""
    SELECT due.id, w.* FROM unnest(%(accounts)s::bigint[]) AS due (id)
    CROSS JOIN LATERAL (SELECT {WORTH} WHERE p.account_id = due.id) AS w
"""  # noqa: S608  # the same

# By subject: the last point of each bucket stays, and the first that was as high as any.
THIN = """
    DELETE FROM money_equitypoint WHERE id IN (
        SELECT id FROM (
            SELECT id,
                row_number() OVER (
                    PARTITION BY {subject}, currency,
                        date_trunc(CASE WHEN at < %(daily)s THEN 'day' ELSE 'hour' END, at, 'UTC')
                    ORDER BY at DESC
                ) AS from_last,
                row_number() OVER (PARTITION BY {subject}, currency ORDER BY equity DESC, at) AS from_highest
            FROM money_equitypoint WHERE {subject} = ANY(%(ids)s) AND at < %(hourly)s
        ) AS old
        WHERE from_last > 1 AND from_highest > 1
    )
"""


# The last point of each of so many equal stretches of (since, until].
THINNED = """
    SELECT DISTINCT ON (stretch) * FROM (
        SELECT *, least(
            floor(extract(epoch FROM %(until)s - at) / %(width)s), %(points)s - 1
        ) AS stretch
        FROM money_equitypoint
        WHERE {subject}_id = %(id)s AND currency = %(currency)s AND at > %(since)s AND at <= %(until)s
    ) AS wanted
    ORDER BY stretch DESC, at DESC
"""


@dataclass(frozen=True, slots=True)
class _AtWork:
    """An account with a session that is tracked, holds something, or stopped since its last point: our time between its
    ticks, and its own and its owner's last point."""

    account_id: int
    owner_id: int
    currency: str
    every: timedelta
    last_at: datetime | None
    last_peak: Decimal | None
    owner_last_at: datetime | None
    owner_last_peak: Decimal | None


@dataclass(frozen=True, slots=True)
class _Worth:
    """What positions brought, named as the statement names it; in the account's currency."""

    equity: Decimal
    unrealized: Decimal
    fees: Decimal
    funding: Decimal
    exposure: Decimal

    def __add__(self, other: _Worth) -> _Worth:
        return _Worth(
            self.equity + other.equity,
            self.unrealized + other.unrealized,
            self.fees + other.fees,
            self.funding + other.funding,
            self.exposure + other.exposure,
        )


def equity_record(now: datetime) -> int:
    """Write the points that are due at ``now``, our time; how many. One owner's that cannot be written do not keep the others
    from theirs."""
    written = _sessions_record(now)
    by_purse: dict[tuple[int, str], list[_AtWork]] = defaultdict(list)
    for one in _accounts_at_work(now):
        by_purse[one.owner_id, one.currency].append(one)
    for (owner_id, currency), at_work in by_purse.items():
        try:
            written += _purse_record(owner_id, currency, at_work, now)
        except Exception:  # the next run is not far
            logger.exception("no equity was recorded for owner %s", owner_id)
    return written


def equity_thin(now: datetime) -> int:
    """Of points older than two days keep the last of each hour, older than sixty days the last of each UTC day, and always
    the highest and the newest; how many are gone."""
    bounds = {
        "hourly": (now - HOURLY_AFTER).astimezone(UTC).replace(minute=0, second=0, microsecond=0),
        "daily": (now - DAILY_AFTER).astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0),
    }
    sessions = list(TradingSession.objects.order_by("pk").values_list("pk", flat=True))
    accounts = list(Account.objects.order_by("pk").values_list("pk", "owner_id"))
    subjects = {
        "session_id": sessions,
        "account_id": [pk for pk, _ in accounts],
        "owner_id": sorted({owner_id for _, owner_id in accounts}),
    }
    gone = 0
    for subject, ids in subjects.items():
        for start in range(0, len(ids), THIN_BATCH):
            with connection.cursor() as cursor:
                cursor.execute(THIN.format(subject=subject), {"ids": ids[start : start + THIN_BATCH], **bounds})
                gone += int(cursor.rowcount)
    return gone


def curve_thinned(
    subject: str, pk: int, currency: str, *, since: datetime, until: datetime, points: int
) -> list[EquityPoint]:
    """The curve of one ``session``, ``account`` or ``owner`` after ``since`` and up to ``until``, oldest first: the last
    point of each of ``points`` equal stretches of that time."""
    facts = {
        "id": pk, "currency": currency, "since": since, "until": until, "points": points,
        "width": (until - since).total_seconds() / points,
    }  # fmt: skip
    return list(EquityPoint.objects.raw(THINNED.format(subject=subject), facts))


def tick_of(now: datetime, every: timedelta) -> datetime:
    """The tick that ``now`` belongs to: the last multiple of ``every`` since the epoch."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return now - (now - epoch) % max(every, SHORTEST_TICK)


def _sessions_record(now: datetime) -> int:
    facts: dict[str, Any] = {
        "now": now, "shortest": SHORTEST_TICK, "tracked": [str(status) for status in TRACKED_STATUSES],
        "news": now - STOP_IS_NEWS_FOR,
    }  # fmt: skip

    def write() -> int:
        with connection.cursor() as cursor:
            cursor.execute(SESSIONS, facts)
            return int(cursor.rowcount)

    return settled(write)


def _accounts_at_work(now: datetime) -> list[_AtWork]:
    own = EquityPoint.objects.filter(account=OuterRef("pk")).order_by("-at")
    owners = EquityPoint.objects.filter(owner=OuterRef("owner"), currency=OuterRef("currency")).order_by("-at")
    at_work = Q(sessions__status__in=TRACKED_STATUSES) | Q(sessions__has_exposure=True)
    ended = Q(sessions__stopped_at__gt=now - STOP_IS_NEWS_FOR) & (
        Q(last_at=None) | Q(sessions__stopped_at__gt=F("last_at"))
    )
    accounts = (
        Account.objects.select_related("exchange")
        .annotate(
            last_at=Subquery(own.values("at")[:1]),
            last_peak=Subquery(own.values("peak")[:1]),
            owner_last_at=Subquery(owners.values("at")[:1]),
            owner_last_peak=Subquery(owners.values("peak")[:1]),
        )
        .filter(at_work | ended)
        .annotate(tick_seconds=Min("sessions__tick_seconds"))
        .order_by("pk")
    )
    return [
        _AtWork(
            one.pk, one.owner_id, one.currency, one.exchange.wall_delay(timedelta(seconds=one.tick_seconds)),
            one.last_at, one.last_peak, one.owner_last_at, one.owner_last_peak,
        )
        for one in accounts
    ]  # fmt: skip


def _purse_record(owner_id: int, currency: str, at_work: Sequence[_AtWork], now: datetime) -> int:
    """Write what is due of one owner's accounts of one currency, and of the owner; how many points."""
    due = [one for one in at_work if _is_due(one.last_at, now, one.every)]
    last_at, last_peak = at_work[0].owner_last_at, at_work[0].owner_last_peak
    shortest = min(one.every for one in at_work)
    is_owner_due = _is_due(last_at, now, shortest)
    if not due and not is_owner_due:
        return 0
    with _one_moment():
        accounts = Account.objects.filter(owner=owner_id, currency=currency).order_by("pk")
        books = {account.pk: book for account in accounts if (book := account_book(account)) is not None}
        moving = _accounts_in_motion(list(books))
        worths = _worths(list(books))
    points = []
    for one in due:
        pk = one.account_id
        if pk in books and not (pk in moving and _is_waited_for(one.last_at, now, one.every)):
            facts = (books[pk].equity, books[pk].exposure, worths[pk], one.last_peak)
            points.append(_point(currency, tick_of(now, one.every), *facts, account_id=pk))
    if is_owner_due and books and not (moving and _is_waited_for(last_at, now, shortest)):
        equity = sum((book.equity for book in books.values()), ZERO)
        exposure = sum((book.exposure for book in books.values()), ZERO)
        total = sum(worths.values(), _Worth(ZERO, ZERO, ZERO, ZERO, ZERO))
        points.append(_point(currency, tick_of(now, shortest), equity, exposure, total, last_peak, owner_id=owner_id))
    EquityPoint.objects.bulk_create(points, ignore_conflicts=True)
    return len(points)


def _is_due(last_at: datetime | None, now: datetime, every: timedelta) -> bool:
    return last_at is None or last_at < tick_of(now, every)


@contextmanager
def _one_moment() -> Iterator[None]:
    """Read all of a book as of the same moment: a fill between two of its queries would be counted by one of them only."""
    is_outermost = not connection.in_atomic_block
    with transaction.atomic():
        if is_outermost:
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield


def _accounts_in_motion(account_ids: Sequence[int]) -> set[int]:
    """Those of which a fill may not be in the balance yet, or is perhaps there already and not in the books."""
    fills = Fill.objects.filter(account=OuterRef("pk"), recorded_at__gt=OuterRef("balances_synced_at"))
    exits = Order.objects.filter(
        account=OuterRef("pk"), status__in=AT_VENUE_STATUSES, is_exit=True, order_type=OrderType.MARKET
    )
    moving = Account.objects.filter(Exists(fills) | Exists(exits), pk__in=list(account_ids))
    return set(moving.values_list("pk", flat=True))


def _is_waited_for(last_at: datetime | None, now: datetime, every: timedelta) -> bool:
    return last_at is None or now < last_at + every + MOTION_PATIENCE


def _worths(account_ids: Sequence[int]) -> dict[int, _Worth]:
    with connection.cursor() as cursor:
        cursor.execute(ACCOUNTS, {"accounts": list(account_ids)})
        return {pk: _Worth(*figures) for pk, *figures in cursor.fetchall()}


def _point(
    currency: str,
    at: datetime,
    equity: Decimal,
    exposure: Decimal,
    worth: _Worth,
    last_peak: Decimal | None,
    **subject: int,
) -> EquityPoint:
    peak = equity if last_peak is None else max(last_peak, equity)
    return EquityPoint(
        currency=currency, at=at, equity=equity, realized_pnl=worth.equity - worth.unrealized,
        unrealized_pnl=worth.unrealized, fees=worth.fees, funding=worth.funding, exposure=exposure, peak=peak,
        drawdown=(peak - equity) / peak if peak > 0 else ZERO, **subject,
    )  # fmt: skip
