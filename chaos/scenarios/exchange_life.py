"""What becomes of an order at the venue: filled in parts, cancelled too late, changed by others; our books are its."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from chaos.scenarios import scenario
from chaos.scenarios.acts import enter, leave, let_go_by, patience, tell
from chaos.world import World
from domain.market import OrderType
from domain.orders import OrderStatus
from exchanges.models import Account, Balance
from exchanges.services import gateway_for
from orders.models import Fill, Order
from pipeline.models import Event
from pipeline.topics import Topic
from positions.models import Position, PositionStatus
from sessions.models import SessionStatus
from sessions.services import session_stop

S = OrderStatus


def resting_order(stage: World, account: Account | None = None, **fields: Any) -> Order:
    """An entry that waits at the venue at half the price."""
    market = stage.market()
    price = (market.last_quote.last / 2).quantize(market.tick_size)
    order = stage.ready_order(account, order_type=OrderType.LIMIT, price=price, **fields)
    stage.submit(order)
    stage.wait_order(order, S.OPENED)
    return order


def fill_there(stage: World, order: Order, size: str) -> None:
    """Let the venue fill so much of it now."""
    stage.sim("fills", clientOid=order.client_order_id, size=size)
    stage.count("exchange")


def wait_filled(stage: World, order: Order, filled: str) -> None:
    mine = Order.objects.filter(pk=order.pk, filled=Decimal(filled))
    stage.wait(mine.exists, f"{order} to be filled by {filled}")


def by_hand(account: Account, order: Order) -> Any:
    """The trader's own access to the venue, past the platform."""
    return gateway_for(account.exchange, account, [order.market])


@scenario("partial-fills", rows=(37,), needs_stage=False)
def partial_fills(stage: World) -> None:
    """An order is filled in three parts, looked at after each, and then cancelled: the sums are exact after every part."""
    order = resting_order(stage)
    position = Position.objects.filter(pk=stage.position_of(order).pk)
    for part, filled in enumerate(("0.004", "0.009", "0.015")):
        fill_there(stage, order, ("0.004", "0.005", "0.006")[part])
        wait_filled(stage, order, filled)
        stage.wait(
            position.filter(quantity=Decimal(filled)).exists, f"the position to hold {filled}", patience(stage, 30)
        )
    leave(stage, position.get().session)
    stage.expect_order(order, S.CANCELED, accepted=1, sent=1)
    stage.expect(order.fills.count() == 3, f"wanted 3 fills, were {order.fills.count()}")


@scenario("cancel-and-fill", rows=(37, 38), needs_stage=False)
def cancel_and_fill(stage: World) -> None:
    """A cancellation is accepted and takes its time, and the order fills meanwhile, in part or whole: what filled, counts."""
    whole, part = resting_order(stage), resting_order(stage)
    stage.settings(cancelDelayMs=int(8_000 * stage.pace))
    for order in (whole, part):
        session_stop(stage.position_of(order).session_id)
    wanted = Order.objects.filter(pk__in=(whole.pk, part.pk), is_cancel_wanted=True)
    stage.wait(lambda: wanted.count() == 2, "both cancellations to be asked for")
    fill_there(stage, part, "0.005")
    fill_there(stage, whole, "0.02")
    leave(stage, *(stage.position_of(order).session for order in (whole, part)))
    stage.expect_order(whole, S.CLOSED, accepted=1, sent=1)
    stage.expect_order(part, S.CANCELED, accepted=1, sent=1)
    stage.expect(part.filled == Decimal("0.005"), f"wanted 0.005 filled, was {part.filled}")


@scenario("cancel-answer-lost", rows=(38,), needs_stage=False)
def cancel_answer_lost(stage: World) -> None:
    """The answer to a cancellation is lost, carried out or not: it is asked for again, and read back."""
    done, undone = resting_order(stage), resting_order(stage)
    for order, when in ((done, "after"), (undone, "before")):
        stage.fault(method="DELETE", path="/api/v1/hf/orders*", apiKey=order.account.name, kind="drop", when=when)
    sessions = [stage.position_of(order).session for order in (done, undone)]
    leave(stage, *sessions)
    for order in (done, undone):
        stage.expect_order(order, S.CANCELED, accepted=1, sent=1)


@scenario("outcome-comes-late", rows=(4, 24), needs_stage=False)
def outcome_comes_late(stage: Any) -> None:
    """A worker is held up between the venue's answer and its row; others have long found out: it changes nothing."""
    order = stage.ready_order()
    stage.order_fault(order, "delay", "after", seconds=5 * stage.pace)
    stage.submit(order)
    stage.wait(lambda: stage.orders_there(order.account), "the order to be accepted")
    stage.freeze("orders")
    stage.start("orders-2")
    stage.wait_order(order, S.CLOSED)
    stage.thaw("orders")
    let_go_by(stage, 5 * stage.pace + 0.3)
    stage.kill("orders-2")
    stage.expect_order(order, S.CLOSED, accepted=1, sent=1)
    told = list(
        Event.objects.filter(topic=Topic.ORDER_UPDATES, key=order.pk)
        .order_by("id")
        .values_list("data__status", flat=True)
    )
    stage.expect(told.count(S.CLOSED) == 1, f"wanted it told closed once, was told {' '.join(told)}")


@scenario("found-after-given-up", rows=(32,), needs_stage=False)
def found_after_given_up(stage: Any) -> None:
    """The venue hides an order for longer than anybody waits, and its answer comes after all: adopted, loudly."""
    market = stage.market()
    price = (market.last_quote.last / 2).quantize(market.tick_size)
    order = stage.ready_order(order_type=OrderType.LIMIT, price=price)
    stage.order_fault(order, "delay", "after", seconds=5 * stage.pace)
    stage.settings(readLagMs=60_000)
    stage.submit(order)
    stage.wait(lambda: stage.orders_there(order.account), "the order to be accepted")
    stage.freeze("orders")
    stage.start("orders-2")
    stage.wait_order(order, S.NOT_PLACED, seconds=60)
    stage.thaw("orders")
    stage.wait_order(order, S.OPENED)
    stage.heal()
    alerts = Event.objects.filter(
        topic=Topic.ALERTS, ids__order_id=order.pk, data__alert="ORDER_FOUND_AFTER_NOT_PLACED"
    )
    stage.expect(alerts.count() == 1, f"wanted one alert, were {alerts.count()}")
    by_hand(order.account, order).order_cancel(order.market.symbol, Order.objects.get(pk=order.pk).exchange_order_id)
    stage.wait_order(order, S.CANCELED)
    stage.kill("orders-2")
    stage.expect_order(order, S.CANCELED, accepted=1, sent=1)


@scenario("fees-and-trade-ids", rows=(40,), needs_stage=False)
def fees_and_trade_ids(stage: World) -> None:
    """Trades of one number on two symbols, and fees in a third currency: each fill once, each fee in its own."""
    account = stage.account("100000")
    key = account.name
    stage.sim(
        "accounts", apiKey=key, secret=f"secret-{key}", passphrase=f"pass-{key}", payFeesInKcs=True,
        balances={"USDT": "100000", "KCS": "100"},
    )  # fmt: skip
    orders = [
        stage.ready_order(session=stage.session(account, stage.config(stage.feed(symbol)), SessionStatus.ACTIVE))
        for symbol in ("BTC/USDT", "ETH/USDT")
    ]
    stage.count("exchange")
    stage.submit(*orders)
    for order in orders:
        stage.wait_order(order, S.CLOSED)
        stage.expect_order(order, S.CLOSED, accepted=1, sent=1)
        currencies = set(order.fills.values_list("fee_currency", flat=True))
        stage.expect(currencies == {"KCS"}, f"wanted fees in KCS, were in {currencies}")
    leave(stage, *(stage.position_of(order).session for order in orders))


@scenario("pages-instead", rows=(28, 36), needs_stage=False)
def pages_instead(stage: World) -> None:
    """Somebody else's page answers for the venue: an account is not empty, an order not gone, for all that it says."""
    account = stage.account("10000")
    stage.fault(method="GET", path="/api/v*/accounts*", apiKey=account.name, kind="html", count=None)
    for _ in range(3):
        stage.ring("orders.balances", account_ids=[account.pk])
        let_go_by(stage, 0.2)
    total = Balance.objects.filter(account=account, currency="USDT").values_list("total", flat=True)
    stage.expect(list(total) == [Decimal(10_000)], f"wanted 10000 USDT, was {list(total)}")


@scenario("exit-keeps-failing", rows=(34, 38), needs_stage=False)
def exit_keeps_failing(stage: World) -> None:
    """An exit's answer gets lost and it is not there: it is tried again until it is sold, and sold once."""
    session = stage.session(status=SessionStatus.ACTIVE)
    position = enter(stage, session)
    stage.fault(method="POST", path="/api/v1/hf/orders", apiKey=session.account.name, kind="http", status=503)
    Position.objects.filter(pk=position.pk).update(is_exit_wanted=True)
    stage.ring("positions.track", session_ids=[session.pk])
    closed = Position.objects.filter(pk=position.pk, status=PositionStatus.CLOSED)
    stage.wait(closed.exists, "the position to close", 60)
    sold = [order for order in stage.orders_there(session.account) if order["side"] == "sell"]
    stage.expect(len(sold) == 1, f"wanted one sale, were {len(sold)}")


@scenario("two-trackers", rows=(16,), needs_stage=False)
def two_trackers(stage: World) -> None:
    """Everybody looks at one session in the moment of its signal: one position, one entry."""
    session = stage.session(status=SessionStatus.ACTIVE)
    tell(stage, session.config)
    for _ in range(12):
        stage.ring("positions.track", session_ids=[session.pk])
    stage.count("bell", 12)
    stage.wait(session.positions.filter(status=PositionStatus.OPEN).exists, f"{session} to enter")
    let_go_by(stage, 0.3)
    entered = session.positions.count()
    stage.expect(entered == 1, f"wanted one position, were {entered}")
    stage.expect(
        Fill.objects.filter(account=session.account).exclude(order__is_exit=True).values("order").distinct().count()
        == 1,
        "wanted the fills of one entry, were of more",
    )
