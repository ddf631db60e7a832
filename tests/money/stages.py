"""Entries that wait to be valued, and accounts with a past."""

from __future__ import annotations

import math
from datetime import timedelta
from decimal import Decimal
from typing import Any

from django.utils import timezone

from domain.candles import Timeframe
from exchanges.models import Account, Market
from money.models import EquityPoint, Valuation
from money.tasks import value
from orders.models import Order
from positions.models import Intent, Position
from sessions.models import TradingSession
from tests.factories import (
    NOON,
    make_account,
    make_candles,
    make_feed,
    make_limits,
    make_open_position,
    make_order,
    make_position,
    make_quote,
    make_session,
    make_signal,
)

D = Decimal


def requested(account: Account | None = None, price: str = "50000", **fields: Any) -> Order:
    """An entry that waits to be valued, of a new session of ``account`` (default: one of 10,000 USDT without limits)."""
    account = account or Account.objects.first()
    if account is None:
        account = make_account()
        make_limits(account)
    session = make_session(account, **fields)
    make_quote(session.config.feed.market, price)
    return make_order(make_position(session, exits=session.exit_plan.model_dump(mode="json")))


def valued(order: Order) -> Order:
    value([order.pk])
    order.refresh_from_db()
    return order


def session_of(order: Order) -> Any:
    """The session that asked for it, as a queryset."""
    return TradingSession.objects.filter(positions__intents=order.intent_id)


def without_stop(order: Order) -> None:
    session_of(order).update(sizing_method="RISK_PER_TRADE", sizing_amount=D(1))
    Position.objects.update(exits={})


def check_of(order: Order, limit: str) -> dict[str, Any]:
    [found] = [check for check in Valuation.objects.get(order=order).checks if check["limit"] == limit]
    return dict(found)


def signalled(order: Order, **fields: Any) -> Order:
    """The order, entered on a signal that says so."""
    signal = make_signal(session_of(order).get().config)
    type(signal).objects.filter(pk=signal.pk).update(**fields)
    Position.objects.update(entry_signal=signal)
    return order


def added_to(position: Position) -> Order:
    """A second entry of a position that is open."""
    intent = Intent.objects.create(position=position, purpose="ENTRY", step=1)
    make_quote(position.market)
    return Order.objects.create(
        account=position.account, market=position.market, intent_id=intent.pk, side="BUY", position_side=position.side,
    )  # fmt: skip


def under(order: Order, **limits: Any) -> Order:
    """The order, of an account with these limits."""
    make_limits(order.account, **limits)
    return order


def by_record(order: Order, least: int = 1) -> Order:
    """The order, of a session that is sized by half of Kelly after so many trades."""
    session_of(order).update(sizing_method="KELLY", sizing_amount=D(50), kelly_min_trades=least)
    return order


def lost(order: Order, result: str, minutes_ago: int = 1) -> None:
    """The order's session closed a position of 1,000 with that result."""
    closed_at = timezone.now() - timedelta(minutes=minutes_ago)
    make_position(
        session_of(order).get(), status="CLOSED", realized_pnl=D(result), entered=D("0.02"), entry_price=D(50000),
        closed_at=closed_at,
    )  # fmt: skip


def was_worth(order: Order, equity: str, **fields: Any) -> None:
    """A point of the account's equity curve, a second ago unless ``fields`` say otherwise."""
    EquityPoint.objects.create(
        account=order.account, currency="USDT", equity=D(equity),
        **{"at": timezone.now() - timedelta(seconds=1), "peak": D(equity), **fields},
    )  # fmt: skip


def at_price(order: Order, price: str) -> None:
    Order.objects.filter(pk=order.pk).update(order_type="LIMIT", price=D(price))


def levered(order: Order, leverage: str) -> None:
    Market.objects.update(kind=Market.Kind.LINEAR_FUTURE)
    Order.objects.filter(pk=order.pk).update(leverage=D(leverage))


def held_by_another(order: Order, side: str) -> None:
    """Another session of the account holds contracts of the order's market."""
    Market.objects.update(kind=Market.Kind.LINEAR_FUTURE)
    make_open_position(make_session(order.account), side=side)


def moved(order: Order, **limits: Any) -> None:
    """The market went up and down by some percent every hour."""
    make_limits(order.account, **limits)
    feed = make_feed(order.market, Timeframe.H1)
    make_candles(feed, [100 + 20 * math.sin(hour * hour) for hour in range(120)], NOON)
