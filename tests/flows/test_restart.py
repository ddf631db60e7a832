"""The orders worker dies at the worst moments: the exchange holds each order at most once, and we know of it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from decimal import Decimal

import pytest

from domain.orders import OrderStatus
from orders.models import Fill, Order
from orders.tasks import look, submit, sweep_orders
from pipeline.topics import ring
from positions.models import Position, PositionStatus
from positions.services import sessions_track
from positions.tasks import sweep_exposed_sessions, sweep_sessions
from sessions.models import SessionStatus, TradingSession
from tests.conftest import Bells
from tests.factories import let_pass
from tests.venue import Venue
from tests.workers import Process, Workers, wait_until, workers_running

ORDERS = "/api/v1/hf/orders"

pytestmark = pytest.mark.flow


@pytest.fixture
def workers() -> Iterator[Workers]:
    with workers_running() as running:
        yield running


def start(workers: Workers, name: str, *queues: str, **env: str) -> Process:
    workers.start_worker(name, queues, **env)
    workers.wait_ready(name)
    return workers.processes[name]


def die_at(workers: Workers, crashpoint: str, order: Order) -> None:
    """A worker takes the order's bell and is killed, as by SIGKILL, at ``crashpoint``."""
    process = start(workers, "worker-light-first", "orders", R3EDGE_CRASH_AT=crashpoint)
    ring("orders.submit", order_ids=[order.pk])
    process.wait(20)
    assert process.returncode == -signal.SIGKILL, workers.log("worker-light-first")


def status_of(order: Order) -> str:
    order.refresh_from_db()
    return order.status


def swept_until(order: Order, status: str, by_hand: Bells | None = None) -> None:
    """Sweep, with time passing on the order's row, until it has ``status``; a worker answers the bells, or ``by_hand``."""

    def is_there() -> bool:
        if status_of(order) != status:
            let_pass(order, 6)
            sweep_orders()
        if by_hand is not None:
            for bell in by_hand.rung("orders.look"):
                look(**bell)
            by_hand.clear()
        return status_of(order) == status

    wait_until(is_there, f"the order {status}", 20)


def assert_equal_books(venue: Venue) -> None:
    sessions_track(list(TradingSession.objects.values_list("pk", flat=True)))
    held = sum((p.quantity for p in Position.objects.filter(status=PositionStatus.OPEN)), Decimal(0))
    assert held == venue.balance("BTC")
    ours = sorted(Fill.objects.values_list("trade_id", flat=True))
    assert ours == sorted(str(fill["tradeId"]) for fill in venue.simulator.oracle()["fills"])
    paid = sum((fill.quantity * fill.price + fill.fee for fill in Fill.objects.filter(side="BUY")), Decimal(0))
    assert 10000 - paid == venue.balance("USDT")


def test_killed_between_claim_and_call_the_order_is_not_placed_and_never_sent(venue: Venue, workers: Workers) -> None:
    order = venue.ready_order()

    die_at(workers, "order.claimed", order)
    left_behind = status_of(order)
    start(workers, "worker-light-second", "orders")
    swept_until(order, OrderStatus.NOT_PLACED)

    assert left_behind == OrderStatus.SUBMITTING
    assert venue.orders() == []
    assert venue.requests_of("POST", ORDERS) == []
    assert_equal_books(venue)


def test_killed_between_answer_and_commit_the_order_is_adopted_and_exists_once(venue: Venue, workers: Workers) -> None:
    order = venue.ready_order()

    die_at(workers, "order.answered", order)
    left_behind = status_of(order)
    start(workers, "worker-light-second", "orders")
    swept_until(order, OrderStatus.CLOSED)

    [there] = venue.orders()
    assert left_behind == OrderStatus.SUBMITTING
    assert (order.exchange_order_id, order.filled) == (there["id"], Decimal("0.02"))
    assert len(venue.requests_of("POST", ORDERS)) == 1
    assert_equal_books(venue)


def test_killed_while_an_accepted_request_hangs_the_order_is_adopted_and_exists_once(
    venue: Venue, workers: Workers, bells: Bells
) -> None:
    order = venue.ready_order()
    venue.fault(method="POST", path=ORDERS, kind="hang", when="after")

    start(workers, "worker-light-first", "orders")
    ring("orders.submit", order_ids=[order.pk])
    wait_until(lambda: venue.orders(), "the order accepted")
    workers.kill("worker-light-first")
    left_behind = status_of(order)
    submit([order.pk])
    swept_until(order, OrderStatus.CLOSED, by_hand=bells)

    assert left_behind == OrderStatus.SUBMITTING
    assert len(venue.orders()) == len(venue.requests_of("POST", ORDERS)) == 1
    assert_equal_books(venue)


def test_killed_while_a_request_hangs_before_it_was_seen_the_order_is_not_placed(
    venue: Venue, workers: Workers, bells: Bells
) -> None:
    order = venue.ready_order()
    venue.fault(method="POST", path=ORDERS, kind="hang", when="before")

    start(workers, "worker-light-first", "orders")
    ring("orders.submit", order_ids=[order.pk])
    wait_until(lambda: venue.requests_of("POST", ORDERS), "the request arrived")
    workers.kill("worker-light-first")
    swept_until(order, OrderStatus.NOT_PLACED, by_hand=bells)

    assert venue.orders() == []
    assert len(venue.requests_of("POST", ORDERS)) == 1
    assert_equal_books(venue)


def test_a_broker_that_forgot_everything_loses_nothing(venue: Venue, workers: Workers, bells: Bells) -> None:
    order = venue.ready_order()
    let_pass(order, 4)
    ring("orders.submit", order_ids=[order.pk])
    bells.clear()
    start(workers, "worker-light-first", "orders", "positions", "exits")

    sweep_orders()
    wait_until(lambda: status_of(order) == OrderStatus.CLOSED, "the order closed")
    sweep_exposed_sessions()
    wait_until(lambda: Position.objects.get().status == PositionStatus.OPEN, "the position open")

    assert len(venue.orders()) == 1
    assert_equal_books(venue)


def test_a_stop_while_the_entry_s_worker_is_dead_ends_flat(venue: Venue, workers: Workers) -> None:
    order = venue.ready_order()
    die_at(workers, "order.answered", order)
    TradingSession.objects.update(status=SessionStatus.STOPPING, has_exposure=True)
    sweep_sessions()

    start(workers, "worker-light-second", "orders", "positions", "exits")
    swept_until(order, OrderStatus.CLOSED)

    def is_stopped() -> bool:
        sweep_sessions()
        sweep_exposed_sessions()
        return TradingSession.objects.get().status == SessionStatus.STOPPED

    wait_until(is_stopped, "the session stopped")

    leave = Order.objects.get(is_exit=True)
    assert (leave.status, leave.reason, leave.quantity) == (OrderStatus.CLOSED, "SESSION_STOP", Decimal("0.02"))
    assert venue.balance("BTC") == 0
    assert 10000 + Position.objects.get().realized_pnl == venue.balance("USDT")
