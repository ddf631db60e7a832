"""An account that holds a position at a simulated venue, and somebody who trades beside us with the same keys."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from domain.orders import OrderStatus
from orders import services
from orders.models import Order
from positions.models import Position, PositionStatus
from positions.reconciliation import account_reconcile
from positions.services import sessions_track
from sessions.models import TradingSession
from tests.factories import (
    KEY,
    PASSPHRASE,
    SECRET,
    let_pass,
    make_config,
    make_feed,
    make_order,
    make_position,
    make_session,
)
from tests.venue import Venue

ByHand = Callable[..., dict[str, Any]]


@pytest.fixture
def by_hand(venue: Venue) -> ByHand:
    """Places an order at the venue with the account's own keys, past us."""
    assert venue.account
    client = venue.simulator.client(KEY, SECRET, PASSPHRASE)
    client.load_markets()

    def place(side: str, amount: str, price: str | None = None) -> dict[str, Any]:
        made: dict[str, Any] = client.create_order("BTC/USDT", "limit" if price else "market", side, amount, price)
        return made

    return place


@pytest.fixture
def session(venue: Venue) -> TradingSession:
    """An active session of the account, its start already compared with the venue."""
    made = make_session(venue.account, make_config(venue.account.owner, make_feed(venue.market)))
    assert account_reconcile(venue.account.pk) == []
    return made


@pytest.fixture
def position(venue: Venue, session: TradingSession) -> Position:
    """0.02 BTC bought at 50,000 by the session, with its levels."""
    return held(session)


def held(session: TradingSession, quantity: str = "0.02") -> Position:
    """A position that the session bought at its venue."""
    made = make_position(session)
    order = make_order(made, status=OrderStatus.READY, quantity=Decimal(quantity))
    assert services.order_submit(order.pk) == OrderStatus.CLOSED
    sessions_track([session.pk])
    made.refresh_from_db()
    assert made.status == PositionStatus.OPEN
    return made


def lost_entry(venue: Venue, session: TradingSession) -> Order:
    """An entry that the venue took and filled, and that we gave up because it showed nothing of it for long."""
    order = make_order(make_position(session), status=OrderStatus.READY, quantity=Decimal("0.02"))
    venue.fault(method="POST", path="/api/v1/hf/orders", when="after", kind="drop")
    services.order_submit(order.pk)
    let_pass(order, 60)
    Order.objects.filter(pk=order.pk).move(OrderStatus.NOT_PLACED, reason="NOT_PLACED", closed_at=order.sent_at)
    sessions_track([session.pk])
    assert Position.objects.get(intents=order.intent_id).status == PositionStatus.ABANDONED
    order.refresh_from_db()
    return order
