"""A session's own trades as they are stored, put beside what a backtest would have done (``backtesting/drift.py``)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from django.core.exceptions import ValidationError
from django.db.models import Q
from django.utils import timezone

from backtesting.drift import MOST_CANDLES, Drift, LiveTrade, session_compare
from backtesting.gathering import NothingToTest
from domain.candles import Timeframe
from domain.market import ZERO, PositionSide
from domain.orders import OrderStatus
from exchanges.models import Account
from money.book import account_book
from money.models import EquityPoint, Valuation
from orders.models import Order
from positions.models import Intent, Position, PositionStatus
from positions.services import orders_of_positions
from sessions.models import TradingSession


def session_drift(session: TradingSession, since: datetime | None = None, until: datetime | None = None) -> Drift:
    """The session's trades from ``since`` (default: when its run began) to ``until`` (default: the last candle that is
    stored) beside the backtest's, by the venue's clock. Raises ValidationError for a span too long or that is none, and
    NothingToTest where too little is stored."""
    feed = session.config.feed
    timeframe = Timeframe(feed.timeframe)
    if session.signals_after is None or feed.last_open_at is None:
        raise NothingToTest(f"wanted a session that has run, {session} has not")
    if since is None:
        begun_at = session.account.exchange.time_at(session.started_at or timezone.now())
        since = min(session.signals_after, begun_at)  # a recovery hears signals anew, and the run goes on
    until = min(until or feed.last_open_at + timeframe.length, feed.last_open_at + timeframe.length)
    candles = (until - since) // timeframe.length
    if candles < 1:
        raise ValidationError({"since": f"wanted at least one candle before {until:%Y-%m-%d %H:%M}, was none"})
    if candles > MOST_CANDLES:
        raise ValidationError({"since": f"wanted at most {MOST_CANDLES} candles of {timeframe}, was {candles}"})
    live = _live_trades(session, since, until)
    return session_compare(session, since, until, _cash_of(session, since, live), live)


def _live_trades(session: TradingSession, since: datetime, until: datetime) -> list[LiveTrade]:
    asked = Q(entry_signal__candle_close_at__gt=since, entry_signal__candle_close_at__lt=until)
    by_hand = Q(entry_signal=None, opened_at__gt=since, opened_at__lt=until)
    positions = list(session.positions.filter(asked | by_hand).select_related("entry_signal").order_by("pk"))
    entries = defaultdict(list)
    intents = Intent.objects.filter(position__in=positions, purpose=Intent.Purpose.ENTRY)
    of_entry = set(intents.values_list("pk", flat=True))
    for position_id, order in orders_of_positions(position.pk for position in positions):
        if order.intent_id in of_entry:
            entries[position_id].append(order)
    return [_live_trade(position, entries[position.pk], until) for position in positions]


def _live_trade(position: Position, entries: Sequence[Order], until: datetime) -> LiveTrade:
    asked = {order.intent_id: order.quantity or ZERO for order in entries}  # of several attempts the last
    denied = next((order.reason for order in entries if order.status == OrderStatus.DENIED), "")
    is_left = position.status == PositionStatus.CLOSED and position.closed_at is not None and position.closed_at < until
    has_entered = position.entered > 0
    return LiveTrade(
        position_id=position.pk,
        side=PositionSide(position.side),
        asked_at=position.entry_signal.candle_close_at if position.entry_signal is not None else None,
        asked=sum(asked.values(), ZERO) or None,
        entry_at=position.opened_at if has_entered else None,
        entry_price=position.entry_price if has_entered else None,
        quantity=position.entered if has_entered else None,
        exit_at=position.closed_at if is_left else None,
        exit_price=position.exit_price if is_left else None,
        exit_reason=position.exit_reason if is_left else "",
        pnl=position.realized_pnl if is_left else None,
        denial="" if has_entered else denied,
        fate="" if has_entered else ", ".join(order.status for order in entries),
    )


def _cash_of(session: TradingSession, since: datetime, live: Sequence[LiveTrade]) -> Decimal:
    """What the account was worth when the span began, as near as it was written down: by the valuation of the first entry in
    it, else the last point of the equity curve before, else what it is worth now."""
    of_first = Intent.objects.filter(position__in=[one.position_id for one in live]).values("pk")
    valued = Valuation.objects.filter(order__intent_id__in=of_first, equity__isnull=False).order_by("pk")
    known: Decimal | None = valued.values_list("equity", flat=True).first()
    if known is None and session.started_at is not None:
        points = EquityPoint.objects.filter(account=session.account_id, at__lte=session.started_at).order_by("-at")
        known = points.values_list("equity", flat=True).first()
    if known is None:
        book = account_book(Account.objects.get(pk=session.account_id))
        known = book.equity if book is not None else None
    if known is None or known <= 0:
        raise NothingToTest(
            f"wanted an account with something in it, {session.account} has {known or 'never been read'}"
        )
    return known
