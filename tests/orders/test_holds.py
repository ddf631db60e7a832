"""Orders that wait: for a venue that takes none, for a database that cannot write, for a transaction that gave way."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction
from django.utils import timezone
from psycopg import errors

from domain.orders import OrderStatus
from exchanges.models import Exchange
from orders import ledger, lookups, services
from orders.models import Order
from orders.tasks import sweep_orders
from pipeline.claims import settled
from tests.factories import events, let_pass, make_market
from tests.orders.test_lists import limit_orders
from tests.venue import Venue

ORDERS = "/api/v1/hf/orders"
S = OrderStatus


@pytest.mark.parametrize("status", ["CLOSED", "CANCEL_ONLY"])
@pytest.mark.parametrize("is_exit", [False, True])
def test_orders_are_held_while_the_venue_takes_none_and_go_on_alone(venue: Venue, status: str, is_exit: bool) -> None:
    order = venue.ready_order(is_exit=is_exit)
    Exchange.objects.update(status=status, status_message="upgrade")

    assert services.order_submit(order.pk) == S.READY

    order.refresh_from_db()
    assert (order.status, order.detail, order.sent_at) == (S.READY, f"held: simulator is {status}, upgrade", None)
    assert venue.requests_of("POST", ORDERS) == []
    assert services.orders_ready(timezone.now()) == []
    Exchange.objects.update(status="OPEN", status_message="")
    assert services.orders_ready(timezone.now() + services.HELD_PAUSE) == [order.pk]
    assert services.order_submit(let_pass(order, 6).pk) == S.CLOSED


def test_a_cancellation_is_sent_while_the_venue_takes_cancellations_only(venue: Venue) -> None:
    [order] = limit_orders(venue, 1)
    Exchange.objects.update(status="CANCEL_ONLY")

    services.orders_cancel([order])

    assert lookups.order_look(order.pk) == S.CANCELED


def test_an_exit_that_cannot_be_sent_for_a_minute_is_told_of_once(venue: Venue) -> None:
    order = venue.ready_order(is_exit=True)
    venue.fault(method="POST", path=ORDERS, kind="code", code="429000", msg="Too many requests.", count=None)
    services.order_submit(order.pk)
    early = services.unsent_exits_alert(timezone.now())
    services.order_submit(let_pass(order, 61).pk)

    sweep_orders()
    sweep_orders()

    assert early == 0
    assert [event["client_order_id"] for event in events("alerts", alert="EXIT_KEEPS_FAILING")] == [
        order.client_order_id
    ]


def test_an_exit_that_waits_on_purpose_is_not_told_of(venue: Venue) -> None:
    order = let_pass(venue.ready_order(is_exit=True), 61)
    Order.objects.update(not_before_at=timezone.now() + timedelta(seconds=5))

    assert services.unsent_exits_alert(timezone.now()) == 0
    assert services.unsent_exits_alert(timezone.now() + timedelta(seconds=6)) == 1
    assert order.is_exit


def test_a_database_that_cannot_write_sends_nothing(venue: Venue) -> None:
    order = venue.ready_order()
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = '53100'; END $$;"
            "CREATE TRIGGER full_disk BEFORE UPDATE ON orders_order EXECUTE FUNCTION full_disk()"
        )
    try:
        with pytest.raises(OperationalError, match="no space left"):
            services.order_submit(order.pk)
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TRIGGER full_disk ON orders_order; DROP FUNCTION full_disk()")

    assert venue.requests_of("POST", ORDERS) == []
    assert services.order_submit(order.pk) == S.CLOSED


def test_an_outcome_that_lost_a_deadlock_is_written_again_and_nothing_is_sent_again(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = venue.ready_order()
    settle, lost = ledger._settle, [errors.DeadlockDetected("deadlock"), errors.SerializationFailure("serialization")]

    def losing(*args: Any) -> str:
        if lost:
            raise OperationalError("gave way") from lost.pop()
        return settle(*args)

    monkeypatch.setattr(ledger, "_settle", losing)

    assert services.order_submit(order.pk) == S.CLOSED
    assert lost == []
    assert len(venue.requests_of("POST", ORDERS)) == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("error", "is_in_transaction", "tries"),
    [
        (errors.DeadlockDetected("x"), False, 3),
        (errors.DeadlockDetected("x"), True, 1),
        (errors.AdminShutdown("x"), False, 1),
    ],
)
def test_only_a_whole_transaction_that_gave_way_is_tried_again_and_not_for_ever(
    error: Exception, is_in_transaction: bool, tries: int
) -> None:
    made = []

    def work() -> None:
        made.append(1)
        raise OperationalError("x") from error

    with transaction.atomic() if is_in_transaction else nullcontext(), pytest.raises(OperationalError):
        settled(work)

    assert len(made) == tries


@pytest.mark.django_db
def test_a_guarded_move_on_a_joined_condition_is_refused() -> None:
    make_market()

    with pytest.raises(ValueError, match="wanted conditions on its own columns, was a join"):
        Order.objects.filter(account__exchange__is_enabled=True).move(S.CLOSED, among=(S.OPENED,))
