"""Cancelling: what was not sent is gone at once; what was is asked for at the venue, and only its answer counts."""

from __future__ import annotations

from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction

from domain.orders import Execution, OrderStatus
from exchanges.ccxt_gateway import CcxtGateway
from orders import lookups, services
from orders.models import Order
from pipeline.claims import GuardedQuerySet
from tests.factories import KEY, events, let_pass
from tests.race import happens_after, happens_before
from tests.venue import Venue

ORDERS = "/api/v1/hf/orders"
CANCEL = "/api/v1/hf/orders/*"


def open_limit_order(venue: Venue, **fields: Any) -> Order:
    order = venue.ready_order(**{"order_type": "LIMIT", "price": Decimal(49000), **fields})
    assert services.order_submit(order.pk) == OrderStatus.OPENED
    order.refresh_from_db()
    return order


@pytest.mark.parametrize("status", [OrderStatus.REQUESTED, OrderStatus.READY])
def test_an_order_that_was_not_sent_is_cancelled_here_and_now(venue: Venue, status: OrderStatus) -> None:
    order = venue.ready_order(reserved=Decimal(1006))
    Order.objects.filter(pk=order.pk).update(status=status)

    services.orders_cancel([order])

    order.refresh_from_db()
    assert (order.status, order.reserved, order.execution) == (OrderStatus.CANCELED, 0, Execution.NOT_EXECUTED)
    assert order.closed_at is not None
    assert services.order_submit(order.pk) is None
    assert venue.orders() == []
    assert [event["status"] for event in events("orderUpdates")] == ["CANCELED"]


def test_cancelling_twice_tells_of_it_once(venue: Venue) -> None:
    order = venue.ready_order()

    services.orders_cancel([order])
    services.orders_cancel([order])

    assert [event["status"] for event in events("orderUpdates")] == ["CANCELED"]


def test_an_open_order_is_cancelled_at_the_venue_and_keeps_what_was_filled(venue: Venue) -> None:
    assert venue.account  # opened before it is given more
    venue.simulator.open_account(KEY, USDT="100000")
    order = open_limit_order(venue, price=Decimal(50003), quantity=Decimal("1.5"), reserved=Decimal(75000))

    services.orders_cancel([order])
    status = lookups.order_look(order.pk)

    order.refresh_from_db()
    [there] = venue.orders()
    assert (status, order.execution) == (OrderStatus.CANCELED, Execution.PARTIALLY_EXECUTED)
    assert there["status"] == "canceled"
    assert order.filled == Decimal(there["dealSize"]) == Decimal("0.99995000")
    assert order.reserved == 0


def test_an_open_order_s_cancellation_rings_for_a_look_after_the_commit(venue: Venue, bells: Any) -> None:
    order = open_limit_order(venue)
    bells.clear()

    with transaction.atomic():
        services.orders_cancel([order])
        before_the_commit = bells.rung("orders.look")

    assert before_the_commit == []
    assert bells.rung("orders.look") == [{"order_ids": [order.pk]}]


def test_a_lost_cancellation_bell_is_rung_again_by_the_sweep(venue: Venue, bells: Any) -> None:
    from orders.tasks import sweep_orders

    order = open_limit_order(venue)
    services.orders_cancel([order])
    bells.clear()

    sweep_orders()

    assert bells.rung("orders.look") == [{"order_ids": [order.pk]}]


def test_a_fill_that_comes_before_the_cancellation_wins(venue: Venue, monkeypatch: pytest.MonkeyPatch) -> None:
    order = open_limit_order(venue)
    happens_before(monkeypatch, CcxtGateway, "order_cancel", lambda: venue.simulator.pin("48900"))

    services.orders_cancel([order])
    status = lookups.order_look(order.pk)

    order.refresh_from_db()
    assert (status, order.filled) == (OrderStatus.CLOSED, Decimal("0.02"))
    assert venue.balance("BTC") == Decimal("0.02")


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "http", "status": 500, "body": "<html></html>"},
        {"kind": "code", "code": "200002", "msg": "Order cancellation for this pair suspended"},
        {"kind": "drop"},
    ],
)
def test_a_cancellation_that_fails_does_not_hide_a_fill(venue: Venue, fault: dict[str, Any]) -> None:
    order = open_limit_order(venue)
    services.orders_cancel([order])
    venue.price("48900")
    venue.fault(method="DELETE", path=CANCEL, **fault)

    assert lookups.order_look(order.pk) == OrderStatus.CLOSED


def test_a_cancellation_that_failed_is_asked_for_again(venue: Venue) -> None:
    order = open_limit_order(venue)
    services.orders_cancel([order])
    venue.fault(method="DELETE", path=CANCEL, kind="drop")

    looks = [lookups.order_look(order.pk), lookups.order_look(order.pk)]

    assert looks == [OrderStatus.OPENED, OrderStatus.CANCELED]


def test_a_cancellation_whose_answer_was_lost_is_seen_at_the_same_look(venue: Venue) -> None:
    order = open_limit_order(venue)
    services.orders_cancel([order])
    venue.fault(method="DELETE", path=CANCEL, kind="drop", when="after")

    assert lookups.order_look(order.pk) == OrderStatus.CANCELED


def test_an_order_wanted_gone_while_it_is_sent_is_cancelled_at_the_venue(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = venue.ready_order(order_type="LIMIT", price=Decimal(49000))
    happens_before(monkeypatch, CcxtGateway, "order_create", lambda: services.orders_cancel([order]))

    submitted = services.order_submit(order.pk)
    looked = lookups.order_look(order.pk)

    [there] = venue.orders()
    assert (submitted, looked) == (OrderStatus.OPENED, OrderStatus.CANCELED)
    assert there["status"] == "canceled"


def test_an_order_wanted_gone_while_the_venue_turns_it_away_is_cancelled_and_not_sent_again(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = venue.ready_order()
    venue.fault(method="POST", path=ORDERS, kind="code", code="429000", msg="later")
    happens_before(monkeypatch, CcxtGateway, "order_create", lambda: services.orders_cancel([order]))

    status = services.order_submit(order.pk)

    assert status == OrderStatus.CANCELED
    assert services.order_submit(let_pass(order, 5).pk) is None
    assert venue.orders() == []


def test_an_unknown_order_wanted_gone_is_found_first_and_cancelled_then(venue: Venue) -> None:
    order = venue.ready_order(order_type="LIMIT", price=Decimal(49000))
    venue.fault(method="POST", path=ORDERS, kind="drop", when="after")
    services.order_submit(order.pk)
    services.orders_cancel([order])

    looks = [lookups.order_look(order.pk), lookups.order_look(order.pk)]

    order.refresh_from_db()
    assert looks == [OrderStatus.OPENED, OrderStatus.CANCELED]
    assert len(venue.orders()) == 1


def test_a_finished_order_is_left_alone(venue: Venue) -> None:
    order = venue.ready_order()
    services.order_submit(order.pk)
    told = events("orderUpdates")

    services.orders_cancel([order])

    order.refresh_from_db()
    assert (order.status, order.is_cancel_wanted) == (OrderStatus.CLOSED, False)
    assert events("orderUpdates") == told


def test_a_sending_and_a_cancellation_at_once_leave_no_order_behind(venue: Venue) -> None:
    from tests.race import at_once

    orders = [venue.ready_order(order_type="LIMIT", price=Decimal(49000), quantity=Decimal("0.001")) for _ in range(6)]
    calls = [lambda order=order: services.order_submit(order.pk) for order in orders]
    calls += [lambda order=order: services.orders_cancel([order]) for order in orders]

    at_once(calls)
    for order in orders:
        lookups.order_look(order.pk)

    assert {order.status for order in Order.objects.all()} == {OrderStatus.CANCELED}
    assert {order["status"] for order in venue.orders()} <= {"canceled"}


def test_an_order_turned_away_in_the_middle_of_its_cancellation_does_not_slip_through(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = venue.ready_order()
    Order.objects.filter(pk=order.pk).update(status=OrderStatus.SUBMITTING)

    def turned_away() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '200ms'")
        with suppress(OperationalError):  # it waits for whoever cancels
            Order.objects.filter(pk=order.pk, status=OrderStatus.SUBMITTING).update(status=OrderStatus.READY)

    happens_after(monkeypatch, GuardedQuerySet, "move", turned_away)

    services.orders_cancel([order])

    order.refresh_from_db()
    assert (order.status, order.is_cancel_wanted) == (OrderStatus.SUBMITTING, True)
