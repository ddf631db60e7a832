"""Submitting orders: sent once, whatever happens around it."""

from __future__ import annotations

from decimal import Decimal

from domain.orders import OrderStatus
from orders import services
from orders.models import Order
from tests.factories import make_config, make_feed, make_order, make_position, make_session
from tests.venue import Venue


def ready_order(venue: Venue) -> Order:
    session = make_session(venue.account, make_config(venue.account.owner, make_feed(venue.market)))
    return make_order(make_position(session), status=OrderStatus.READY)


def test_a_ready_market_order_is_sent_filled_and_closed(venue: Venue) -> None:
    order = ready_order(venue)

    services.order_submit(order.pk)

    order.refresh_from_db()
    [sent] = venue.orders()
    assert (order.status, order.filled) == (OrderStatus.CLOSED, Decimal("0.02"))
    assert sent["clientOid"] == order.client_order_id
    assert order.fills.count() == 1
