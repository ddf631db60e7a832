"""Two who claim one row with their transactions open at once: the second waits, and takes what the first has left it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

import pytest
from django.db import connection, connections, transaction

from domain.orders import OrderStatus
from orders.models import Order
from tests.factories import make_order, make_position, make_session
from tests.workers import wait_until

S = OrderStatus


class GaveUp(Exception):
    """The first one's transaction ends without a commit."""


def claim(order: Order, *, detail: str) -> int:
    return Order.objects.filter(pk=order.pk).move(S.SUBMITTING, detail=detail)


def somebody_waits_for_a_row() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_clear_snapshot()")  # a transaction otherwise sees one picture of the activity
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        [(waiting,)] = cursor.fetchall()
    return bool(waiting)


def second_claim_while_the_first_is_open(order: Order, then: Callable[[], None]) -> tuple[list[int], list[int]]:
    """Claim in a transaction that ends with ``then``, while another claim has begun; how many rows each moved."""
    first: list[int] = []
    second: list[int] = []

    def come_second() -> None:
        try:
            second.append(claim(order, detail="second"))
        finally:
            connections.close_all()

    late = threading.Thread(target=come_second, daemon=True)
    with suppress(GaveUp), transaction.atomic():
        first.append(claim(order, detail="first"))
        late.start()
        wait_until(somebody_waits_for_a_row, "the second claim at the row", seconds=10)
        then()
    late.join(10)
    return first, second


@pytest.mark.django_db(transaction=True)
def test_a_claim_that_is_committed_leaves_nothing_to_the_one_that_waited() -> None:
    order = make_order(make_position(make_session()), status=S.READY)

    first, second = second_claim_while_the_first_is_open(order, then=lambda: None)

    order.refresh_from_db()
    assert (first, second) == ([1], [0])
    assert (order.status, order.detail) == (S.SUBMITTING, "first")


@pytest.mark.django_db(transaction=True)
def test_a_claim_that_is_rolled_back_leaves_the_row_to_the_one_that_waited() -> None:
    order = make_order(make_position(make_session()), status=S.READY)

    def give_up() -> None:
        raise GaveUp

    first, second = second_claim_while_the_first_is_open(order, then=give_up)

    order.refresh_from_db()
    assert (first, second) == ([1], [1])
    assert (order.status, order.detail) == (S.SUBMITTING, "second")
