"""Guarded moves: along the table or not at all, and the row count says who won."""

from __future__ import annotations

import pytest

from domain.orders import OrderStatus
from orders.models import Order
from tests.factories import make_order, make_position, make_session
from tests.race import at_once

S = OrderStatus


@pytest.mark.django_db
def test_a_move_that_the_table_allows_moves_the_row() -> None:
    order = make_order(make_position(make_session()), status=S.READY)

    assert Order.objects.filter(pk=order.pk).move(S.SUBMITTING, detail="on its way") == 1

    order.refresh_from_db()
    assert (order.status, order.detail) == (S.SUBMITTING, "on its way")


@pytest.mark.django_db
def test_a_row_that_stands_elsewhere_is_not_moved() -> None:
    order = make_order(make_position(make_session()), status=S.CANCELED)

    assert Order.objects.filter(pk=order.pk).move(S.SUBMITTING) == 0

    order.refresh_from_db()
    assert order.status == S.CANCELED


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("to", "among", "text"),
    [
        (S.REQUESTED, None, "no move from anywhere to REQUESTED"),
        (S.OPENED, (S.DENIED,), "no move from DENIED to OPENED"),
        (S.SUBMITTING, (S.READY, S.UNKNOWN), "no move from UNKNOWN to SUBMITTING"),
        (S.CLOSED, (), "no move from anywhere to CLOSED"),
    ],
)
def test_a_move_that_the_table_does_not_know_is_refused(to: str, among: tuple[str, ...] | None, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Order.objects.all().move(to, among=among)


@pytest.mark.django_db(transaction=True)
def test_of_many_who_claim_a_row_at_once_one_wins() -> None:
    order = make_order(make_position(make_session()), status=S.READY)

    won = at_once([lambda: Order.objects.filter(pk=order.pk).move(S.SUBMITTING)] * 8)

    assert sorted(won) == [0] * 7 + [1]
