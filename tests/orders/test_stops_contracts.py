"""Stop orders on contracts through the protocol: one that is met goes on under the id it waited under."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from domain.orders import Execution, OrderStatus
from exchanges.services import gateway_for
from orders import lookups, services
from orders.ledger import order_record
from orders.models import Order
from tests.contracts import FuturesVenue
from tests.factories import let_pass, make_order, make_position
from tests.race import at_once

S = OrderStatus
ORDERS = "/api/v1/orders"
LOOK_UP = f"{ORDERS}/byClientOid"
NOT_THERE = {"kind": "code", "code": "100001", "msg": "error.getOrder.orderNotExist"}


def waiting_stop(futures: FuturesVenue, **fields: Any) -> Order:
    """A buy of 10 contracts at market once the price has risen to 51,000, which waits there and is due for a look."""
    defaults = {
        "order_type": "STOP", "stop_price": Decimal(51000), "trigger": "RISING", "quantity": Decimal(10),
        "leverage": Decimal(5), "status": S.READY,
    }  # fmt: skip
    order = make_order(make_position(futures.session(), leverage=Decimal(5)), **{**defaults, **fields})
    assert services.order_submit(order.pk) == S.OPENED
    return let_pass(order, 3)


def looked_at(order: Order) -> Order:
    lookups.order_look(let_pass(order, 20).pk)
    order.refresh_from_db()
    return order


def test_one_whose_price_is_met_waits_no_more_and_is_filled_under_its_id(futures: FuturesVenue) -> None:
    order = waiting_stop(futures)
    order.refresh_from_db()
    waited_as, was_waiting = order.exchange_order_id, order.waits_for_price
    futures.price("51100")

    looked_at(order)

    assert (was_waiting, order.waits_for_price) == (True, False)
    assert (order.status, order.execution, order.exchange_order_id) == (S.CLOSED, Execution.FULLY_EXECUTED, waited_as)
    assert [(fill.quantity, fill.price) for fill in order.fills.all()] == [(10, 51_100)]
    assert [one["id"] for one in futures.books["orders"]] == [waited_as]


def test_what_it_became_is_followed_and_cancelled_as_any_order(futures: FuturesVenue) -> None:
    order = waiting_stop(futures, price=Decimal(50500))
    futures.price("51100")
    looked_at(order)
    half_way = (order.status, order.waits_for_price, order.stop_order_id)
    services.orders_cancel([order])

    looked_at(order)

    assert half_way == (S.OPENED, False, "")
    assert (order.status, order.filled, futures.books["orders"][0]["cancelExist"]) == (S.CANCELED, 0, True)


def test_word_of_the_time_when_it_waited_does_not_bring_that_back(futures: FuturesVenue) -> None:
    order = waiting_stop(futures, price=Decimal(50500))
    late: Any = gateway_for(futures.exchange, futures.account, [futures.market]).stop_find(
        futures.market.symbol, order.client_order_id
    )
    futures.price("51100")
    looked_at(order)

    order_record(order, late, [])

    order.refresh_from_db()
    assert late.is_waiting
    assert (order.status, order.waits_for_price) == (S.OPENED, False)


def test_a_cancelled_one_is_gone_when_the_look_that_follows_shows_it(futures: FuturesVenue) -> None:
    order = waiting_stop(futures)
    services.orders_cancel([order])

    looked_at(order)

    assert (order.status, order.filled) == (S.CANCELED, 0)
    assert [one["isActive"] for one in futures.books["stopOrders"]] == [False]


def test_a_cancelled_one_that_the_venue_forgets_is_gone_after_three_looks(futures: FuturesVenue) -> None:
    order = waiting_stop(futures)
    futures.fault(method="GET", path=LOOK_UP, count=None, **NOT_THERE)
    services.orders_cancel([order])

    statuses = [looked_at(order).status for _ in range(3)]

    assert statuses == [S.OPENED, S.OPENED, S.CANCELED]
    assert order.detail == "not found 3 times"


@pytest.mark.parametrize("kind", ["drop", "http"])
def test_one_whose_answer_was_lost_is_found_where_it_waits(futures: FuturesVenue, kind: str) -> None:
    fault = {"status": 502, "body": ""} if kind == "http" else {}
    futures.fault(method="POST", path=ORDERS, when="after", kind=kind, **fault)
    order = make_order(
        make_position(futures.session()), status=S.READY, order_type="STOP", stop_price=Decimal(51000), trigger="RISING",
        quantity=Decimal(10), leverage=Decimal(5),
    )  # fmt: skip

    unknown = services.order_submit(order.pk)
    looked_at(order)

    assert (unknown, order.status, order.waits_for_price) == (S.UNKNOWN, S.OPENED, True)
    assert [one["id"] for one in futures.books["stopOrders"]] == [order.stop_order_id]


def test_lists_show_what_waits_what_was_met_and_what_was_filled(futures: FuturesVenue) -> None:
    waits = waiting_stop(futures, stop_price=Decimal(60000))
    rests = waiting_stop(futures, price=Decimal(50500))
    filled = waiting_stop(futures)
    futures.advance(3600)
    futures.price("51100")
    before = len(futures.requests_of("GET", LOOK_UP))

    lookups.orders_look([let_pass(order, 20).pk for order in (waits, rests, filled)])

    for order in (waits, rests, filled):
        order.refresh_from_db()
    assert [(one.status, one.waits_for_price, one.filled) for one in (waits, rests, filled)] == [
        (S.OPENED, True, 0), (S.OPENED, False, 0), (S.CLOSED, False, 10),
    ]  # fmt: skip
    assert len(futures.requests_of("GET", LOOK_UP)) == before


def test_looks_at_once_count_its_fill_once(futures: FuturesVenue) -> None:
    order = waiting_stop(futures)
    futures.price("51100")

    at_once([lambda: lookups.order_look(order.pk)] * 3)

    order.refresh_from_db()
    assert (order.status, order.filled, order.fills.count()) == (S.CLOSED, 10, 1)
