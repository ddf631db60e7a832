"""Orders by hand against a simulated venue: one that rests until the market comes, and what protects what it bought."""

from __future__ import annotations

from decimal import Decimal

from domain.market import OrderType, Side
from domain.orders import Execution, OrderStatus
from money.halts import halt_carry_out, halt_trip
from money.services import orders_value
from orders.lookups import order_look
from orders.models import Order
from orders.services import order_submit
from positions.manual import ManualAsk, manual_order, order_cancel_by_hand
from positions.models import Position, PositionStatus
from positions.services import orders_follow, sessions_track
from positions.watch import prices_watch
from sessions.models import TradingSession
from tests.contracts import FuturesVenue
from tests.factories import let_pass
from tests.venue import Venue

S = OrderStatus


def limit(venue: Venue, key: str, price: str) -> Order:
    ask = ManualAsk(
        key=key, side=Side.BUY, order_type=OrderType.LIMIT, quantity=Decimal("0.02"), price=Decimal(price),
        exits={"stop_loss_percent": "2"},
    )  # fmt: skip
    order, _ = manual_order(venue.account, venue.market, ask, actor="alice")
    orders_value([order.pk])
    order_submit(order.pk)
    order.refresh_from_db()
    return order


def looked_at(order: Order) -> Order:
    let_pass(order, 30)
    order_look(order.pk)
    orders_follow([order.pk])
    order.refresh_from_db()
    return order


def test_a_limit_order_by_hand_rests_fills_and_is_protected(venue: Venue) -> None:
    order = limit(venue, "k1", "49000")
    assert (order.status, order.execution) == (S.OPENED, Execution.NOT_EXECUTED)
    sessions_track([TradingSession.objects.get().pk])
    assert Position.objects.get().status == PositionStatus.PENDING

    venue.price("48990")
    looked_at(order)

    position = Position.objects.get()
    assert (order.status, order.execution) == (S.CLOSED, Execution.FULLY_EXECUTED)
    assert (position.status, position.entered, position.stop_price) == (
        PositionStatus.OPEN, Decimal("0.02"), position.entry_price * Decimal("0.98"),
    )  # fmt: skip

    venue.price("47000")
    assert prices_watch() == 1
    leave = Order.objects.get(is_exit=True)
    order_submit(leave.pk)
    orders_follow([leave.pk])

    position.refresh_from_db()
    assert (position.status, position.exit_reason) == (PositionStatus.CLOSED, "STOP_LOSS")
    assert venue.balance("BTC") == 0
    assert len(venue.orders()) == 2


def test_a_resting_order_by_hand_is_cancelled_at_the_venue(venue: Venue) -> None:
    order = limit(venue, "k1", "49000")

    order_cancel_by_hand(order.pk, actor="alice")
    looked_at(order)
    looked_at(order)

    assert order.status == S.CANCELED
    assert Position.objects.get().status == PositionStatus.ABANDONED


def test_a_halt_that_flattens_empties_the_venue(venue: Venue) -> None:
    held = looked_at(limit(venue, "k1", "50100"))
    ask = ManualAsk(key="k2", side=Side.BUY, order_type=OrderType.LIMIT, quantity=Decimal("0.02"), price=Decimal(40000))
    resting, _ = manual_order(venue.account, venue.market, ask)
    orders_value([resting.pk])
    order_submit(resting.pk)
    assert (held.status, Position.objects.get().status) == (S.CLOSED, PositionStatus.OPEN)

    halt = halt_trip("FLATTEN", "news", account_id=venue.account.pk, actor="alice")
    halt_carry_out(halt.pk)
    looked_at(resting)
    looked_at(resting)
    leave = Order.objects.get(is_exit=True)
    order_submit(leave.pk)
    orders_follow([leave.pk])

    position = Position.objects.get()
    assert (resting.status, resting.execution) == (S.CANCELED, Execution.NOT_EXECUTED)
    assert (position.status, position.exit_reason) == (PositionStatus.CLOSED, "HALT")
    assert venue.balance("BTC") == 0


def test_a_stop_order_by_hand_on_contracts_enters_when_its_price_comes(futures: FuturesVenue) -> None:
    ask = ManualAsk(
        key="k1", side=Side.BUY, order_type=OrderType.STOP, quantity=Decimal(10), stop_price=Decimal(51000),
        leverage=Decimal(5), exits={"stop_loss_percent": "2"},
    )  # fmt: skip
    order, _ = manual_order(futures.account, futures.market, ask, actor="alice")
    orders_value([order.pk])
    order_submit(order.pk)
    [waiting] = futures.books["stopOrders"]

    futures.price("51100")
    looked_at(order)

    position = Position.objects.get()
    assert (waiting["stop"], waiting["stopPrice"], waiting["size"], waiting["reduceOnly"]) == ("up", "51000", 10, False)
    assert (order.status, order.filled, order.execution) == (S.CLOSED, 10, Execution.FULLY_EXECUTED)
    assert (position.status, position.entry_price, position.stop_price) == (PositionStatus.OPEN, 51_100, 50_078)
    [held] = futures.books["positions"]
    assert (held["currentQty"], held["leverage"]) == (10, 5)
