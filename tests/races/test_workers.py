"""Two real workers, one order and far too many bells: one order at the exchange."""

from __future__ import annotations

import pytest

from domain.orders import OrderStatus
from orders.models import Fill, Order
from pipeline.topics import ring
from tests.factories import events
from tests.venue import Venue
from tests.workers import wait_until, workers_running

ORDERS = "/api/v1/hf/orders"


@pytest.mark.flow
def test_fifty_bells_for_each_of_two_workers_send_every_order_once(venue: Venue) -> None:
    orders = [venue.ready_order() for _ in range(5)]
    ids = [order.pk for order in orders]
    # Some of them end as unknown first, so that looks and submissions of one order overlap.
    venue.fault(method="POST", path=ORDERS, kind="drop", when="after", count=2)
    for _ in range(10):
        ring("orders.submit", batch=1, order_ids=ids)
        ring("orders.look", batch=2, order_ids=ids)

    with workers_running() as workers:
        workers.start_worker("worker-light-one", ("orders",))
        workers.start_worker("worker-light-two", ("orders",))
        workers.wait_ready("worker-light-one", "worker-light-two")
        ring("orders.submit", batch=1, order_ids=ids)

        def are_closed() -> bool:
            ring("orders.look", batch=1, order_ids=ids)
            return Order.objects.filter(status=OrderStatus.CLOSED).count() == len(ids)

        wait_until(are_closed, "all orders closed")

    there = venue.orders()
    assert sorted(order["clientOid"] for order in there) == sorted(order.client_order_id for order in orders)
    assert len(venue.requests_of("POST", ORDERS)) == 5
    assert Fill.objects.count() == 5
    statuses = [event["status"] for event in events("orderUpdates")]
    assert sorted(statuses) == ["CLOSED"] * 5 + ["OPENED"] * 5 + ["UNKNOWN"] * 2
    assert [event["new_fills"] for event in events("tradeUpdates")] == [1] * 5
