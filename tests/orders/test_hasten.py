"""News of an order makes its look-up due, and changes nothing else."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from domain.orders import OrderStatus
from orders.models import Order
from orders.services import orders_hasten
from tests.factories import make_order, make_position, make_session

S = OrderStatus
LATER = timedelta(hours=1)

pytestmark = pytest.mark.django_db


def an_order(status: str, **fields: Any) -> Order:
    return make_order(make_position(make_session()), status=status, not_before_at=timezone.now() + LATER, **fields)


@pytest.mark.parametrize(
    ("status", "lookups", "is_due"),
    [
        (S.OPENED, 0, True),
        (S.OPENED, 3, True),
        (S.UNKNOWN, 0, True),
        (S.UNKNOWN, 1, False),  # misses are counted: they must not come faster
        (S.SUBMITTING, 0, False),
        (S.READY, 0, False),
        (S.CLOSED, 0, False),
        (S.NOT_PLACED, 0, False),
    ],
)
def test_what_may_be_looked_at_now_is_due_and_stays_what_it_is(status: str, lookups: int, is_due: bool) -> None:
    order = an_order(status, lookups=lookups)

    assert orders_hasten(order.account_id, [order.client_order_id]) == ([order.pk] if is_due else [], False)

    changed = Order.objects.get(pk=order.pk)
    assert changed.not_before_at is not None
    assert (changed.not_before_at <= timezone.now()) is is_due
    assert (changed.status, changed.lookups) == (status, lookups)


def test_an_order_that_is_due_already_is_not_put_off() -> None:
    order = an_order(S.OPENED)
    due_at = timezone.now() - LATER
    Order.objects.update(not_before_at=due_at)

    orders_hasten(order.account_id, [order.client_order_id])

    order.refresh_from_db()
    assert order.not_before_at == due_at


@pytest.mark.parametrize("name", ["by-hand", ""])
def test_an_order_that_is_not_ours_is_known_for_what_it_is(name: str) -> None:
    order = an_order(S.OPENED)

    assert orders_hasten(order.account_id, [name]) == ([], True)
    assert orders_hasten(order.account_id, [order.client_order_id, name]) == ([order.pk], True)


def test_an_order_of_another_account_is_not_ours() -> None:
    order = an_order(S.OPENED)

    assert orders_hasten(order.account_id + 1, [order.client_order_id]) == ([], True)
