"""What the books and the venue tell apart: orders found late, orders of others, sales by hand, money that moves; each is
recorded, or told of and left to the trader."""

from __future__ import annotations

import itertools
import uuid
from decimal import Decimal
from typing import Any

import requests
from django.utils import timezone

from chaos.scenarios import scenario
from chaos.scenarios.acts import compare, enter, leave, let_go_by, patience, wait_ended
from chaos.scenarios.exchange_life import by_hand, fill_there, resting_order
from chaos.world import ORDERS_PATH, World
from domain.market import OrderType, Side
from domain.orders import OrderStatus
from exchanges.gateway import OrderTicket
from exchanges.models import Account, Exchange, Market
from exchanges.services import exchange_clock_sync, gateway_for
from orders.models import Order
from positions.models import Discrepancy, Position, PositionStatus, Reconciliation
from positions.models import DiscrepancyKind as Kind
from positions.models import DiscrepancyStatus as Filed
from positions.resolutions import discrepancy_resolve
from sessions.models import SessionStatus, TradingSession
from sessions.services import session_recover, session_stop, session_suspend

S = OrderStatus

EMPTY_PAGE = '{"code": "200000", "data": {"lastId": 0, "items": []}}'
NO_ORDERS = '{"code": "200000", "data": []}'
LISTS = {
    "/api/v1/hf/orders/active": NO_ORDERS,
    "/api/v1/hf/orders/done": EMPTY_PAGE,
}


def trade_by_hand(
    account: Account, market: Market, side: Side, quantity: str, price: Decimal | None = None
) -> tuple[str, str]:
    """The trader's own order, past the platform: their id of it, and the venue's."""
    ticket = OrderTicket(
        symbol=market.symbol, side=side, order_type=OrderType.MARKET if price is None else OrderType.LIMIT,
        quantity=Decimal(quantity), price=price, client_order_id=f"mine-{uuid.uuid4().hex}",
        sent_at=timezone.now(), window_ms=5000,
    )  # fmt: skip
    return ticket.client_order_id, gateway_for(account.exchange, account, [market]).order_create(ticket)


def filed(account: Account, kind: Kind) -> list[Discrepancy]:
    """What is told of the account and not decided yet."""
    return list(account.discrepancies.filter(kind=kind, status=Filed.OPEN).order_by("pk"))


def _abandoned(order: Order) -> bool:
    return Position.objects.filter(intents=order.intent_id, status=PositionStatus.ABANDONED).exists()


@scenario("filled-after-given-up", rows=(4, 32), needs_stage=False)
def filled_after_given_up(stage: Any) -> None:
    """Entries at market are given up and had been filled: held again and sold with their session, or filed where none is."""
    answered, read, lone = orders = [stage.ready_order() for _ in range(3)]
    stage.order_fault(answered, "delay", "after", seconds=5 * stage.pace)
    for order in (read, lone):
        stage.order_fault(order, "drop", "after")
    stage.settings(readLagMs=60_000)
    stage.submit(*orders)
    stage.wait(lambda: all(stage.orders_there(order.account) for order in orders), "the orders to be accepted")
    stage.freeze("orders")
    stage.start("orders-2")
    for order in orders:
        stage.wait_order(order, S.NOT_PLACED, seconds=60)
    stage.wait(lambda: all(map(_abandoned, orders)), "their positions to be let go of")
    session_stop(stage.position_of(lone).session_id)
    stopped = TradingSession.objects.filter(pk=stage.position_of(lone).session_id, status=SessionStatus.STOPPED)
    stage.wait(stopped.exists, "the session of one to stop")
    stage.thaw("orders")
    stage.heal()
    compare(stage, read.account)
    compare(stage, lone.account)
    for order in orders:
        stage.wait_order(order, S.CLOSED)
        stage.expect_order(order, S.CLOSED, accepted=1, sent=1)
    held = Position.objects.filter(
        intents__in=[answered.intent_id, read.intent_id], status=PositionStatus.OPEN, quantity=Decimal("0.02")
    )
    stage.wait(lambda: held.count() == 2, "both to be held again", patience(stage, 30))
    stage.wait(lambda: filed(lone.account, Kind.LATE_ORDER), "what no session holds to be told of", patience(stage, 90))
    [late] = filed(lone.account, Kind.LATE_ORDER)
    stage.expect(
        (late.order_id, late.found) == (lone.pk, lone.quantity), f"wanted {lone} told of, was {late.order} {late.found}"
    )
    stage.kill("orders-2")
    leave(stage, *(stage.position_of(order).session for order in (answered, read)))
    closed = Position.objects.filter(intents__in=[answered.intent_id, read.intent_id], status=PositionStatus.CLOSED)
    stage.expect(closed.count() == 2, f"wanted both sold, were {closed.count()}")
    discrepancy_resolve(late.pk, "CLOSE", actor="chaos")
    stage.wait(lambda: _holds(lone, "BTC") == 0, "what no session held to be sold")


def _holds(order: Order, currency: str) -> Decimal:
    gateway = gateway_for(order.account.exchange, order.account)
    return next((one.total for one in gateway.balances() if one.currency == currency), Decimal(0))


@scenario("others-orders", rows=(41,), needs_stage=False)
def others_orders(stage: World) -> None:
    """The trader has orders of their own on the account, one at work and one filled: each is told of once, in the books, and
    left alone when the session stops."""
    ours = resting_order(stage)
    account, market = ours.account, ours.market
    compare(stage, account)
    at_work, _ = trade_by_hand(account, market, Side.BUY, "0.01", ours.price)
    trade_by_hand(account, market, Side.BUY, "0.01")
    stage.count("exchange", 2)
    for _ in range(2):
        compare(stage, account)
    told = filed(account, Kind.FOREIGN_ORDER)
    rows = Order.objects.filter(account=account, is_foreign=True)
    stage.expect(
        (len(told), rows.count()) == (2, 2), f"wanted 2 orders told of once, were {len(told)} and {rows.count()} rows"
    )
    drift = filed(account, Kind.BALANCE_DRIFT)
    stage.expect(not drift, f"wanted them in the books, were {[one.detail for one in drift]}")
    leave(stage, stage.position_of(ours).session)
    stage.expect_order(ours, S.CANCELED, accepted=1, sent=1)
    [theirs] = stage.orders_there(account, clientOid=at_work)
    stage.expect(theirs["status"] == "open", f"wanted the other's order left open, was {theirs['status']}")
    by_hand(account, ours).order_cancel(market.symbol, theirs["id"])
    mine = Order.objects.filter(account=account, exchange_order_id=theirs["id"])
    _hurry(mine)
    stage.wait(mine.filter(status=S.CANCELED).exists, "their cancellation to be seen")


def _hurry(orders: Any) -> None:
    # Somebody else's order is looked at once a minute.
    orders.update(not_before_at=timezone.now())


@scenario("sold-by-hand", rows=(41,), needs_stage=False)
def sold_by_hand(stage: World) -> None:
    """The trader sells at the venue what a position holds: told of, nothing adjusted, no recovery before they decide, and
    then the books are right."""
    session = stage.session(status=SessionStatus.ACTIVE)
    position = enter(stage, session)
    account = session.account
    compare(stage, account)
    trade_by_hand(account, position.market, Side.SELL, str(position.quantity))
    stage.count("exchange")
    session_suspend(session.pk)
    session_recover(session.pk)
    stage.wait(lambda: filed(account, Kind.MANUAL_CLOSE), "the sale to be told of", patience(stage, 30))
    let_go_by(stage, 3 * stage.pace)
    held, status = position.quantity, TradingSession.objects.get(pk=session.pk).status
    position.refresh_from_db()
    stage.expect(
        (position.status, position.quantity, status) == (PositionStatus.OPEN, held, SessionStatus.SUSPENDED),
        f"wanted {held} held by a SUSPENDED session, was {position.status} {position.quantity} {status}",
    )
    [one] = filed(account, Kind.MANUAL_CLOSE)
    discrepancy_resolve(one.pk, "ADOPT", actor="chaos")
    stage.wait(Position.objects.filter(pk=position.pk, status=PositionStatus.CLOSED).exists, "the position to close")
    active = TradingSession.objects.filter(pk=session.pk, status=SessionStatus.ACTIVE)
    stage.wait(active.exists, f"{session} to recover", patience(stage, 60))


@scenario("money-moves", rows=(42,), needs_stage=False)
def money_moves(stage: World) -> None:
    """The trader deposits and withdraws past the platform: told of, one difference each, and neither adjusted nor traded."""
    session = stage.session(status=SessionStatus.ACTIVE)
    account, key = session.account, session.account.name
    compare(stage, account)
    stage.sim(
        "accounts", apiKey=key, secret=f"secret-{key}", passphrase=f"pass-{key}", balances={"USDT": "7000", "ETH": "2"}
    )
    stage.count("exchange")
    for _ in range(2):
        compare(stage, account)
    drift = {one.currency: one.difference for one in filed(account, Kind.BALANCE_DRIFT)}
    wanted = {"USDT": Decimal(-3000), "ETH": Decimal(2)}
    stage.expect(drift == wanted, f"wanted {wanted} told of, was {drift}")
    stage.expect(not stage.orders_there(account), "wanted no order, was one")


@scenario("lists-show-nothing", rows=(33, 36), needs_stage=False)
def lists_show_nothing(stage: World) -> None:
    """Orders rest at the venue, their answers are lost, and its lists are empty though its look-up knows each: no list
    proves an absence."""
    account, market = stage.account("1000000"), stage.market()
    price = (market.last_quote.last / 2).quantize(market.tick_size)
    orders = [stage.ready_order(account, order_type=OrderType.LIMIT, price=price) for _ in range(4)]
    for path, body in LISTS.items():
        stage.fault(method="GET", path=path, apiKey=account.name, kind="body", body=body, count=None)
    for order in orders:
        stage.order_fault(order, "drop", "after")
    stage.submit(*orders)
    for order in orders:
        stage.wait_order(order, S.OPENED, S.NOT_PLACED)
        stage.expect_order(order, S.OPENED, accepted=1, sent=1)
    leave(stage, *(stage.position_of(order).session for order in orders))


# How long the venue takes for a look: much less than its client waits for it, who would ask again when that is over.
LOOK_SECONDS = 0.4


@scenario("one-look-at-a-time", rows=(16,), needs_stage=False)
def one_look_at_a_time(stage: World) -> None:
    """The venue takes its time for a look-up, and everybody rings for another: one look at a time."""
    order = resting_order(stage)
    key = order.account.name
    compare(stage, order.account)
    stage.fault(
        method="GET",
        path=f"{ORDERS_PATH}/client-order/*",
        apiKey=key,
        kind="delay",
        when="before",
        seconds=LOOK_SECONDS,
        count=None,
    )
    for _ in range(12):
        stage.ring("orders.look", order_ids=[order.pk])
    stage.count("bell", 12)
    let_go_by(stage, 0.8)
    times = _looked_at(stage, key)
    # What came sooner after another than that takes was asked beside it, however slow this machine is.
    beside = [later - earlier for earlier, later in itertools.pairwise(times) if later - earlier < 900 * LOOK_SECONDS]
    stage.expect(not beside, f"wanted one look at a time, were some {beside} ms after another")


def _looked_at(stage: World, key: str) -> list[int]:
    """When look-ups of the account's orders that it took its time for arrived at the venue, in ms. Those that were under
    way before it did so are none."""
    log = [line for line in stage.oracle(requests=20_000, apiKey=key)["requests"] if line["fault"]]
    found = [line["at"] for line in log if line["method"] == "GET" and f"{ORDERS_PATH}/client-order/" in line["path"]]
    return sorted(found)


@scenario("killed-before-the-cursor", rows=(8, 43), needs_stage=False)
def killed_before_the_cursor(stage: Any) -> None:
    """A reading's worker dies while it writes fills down, and the venue's time goes on: the next reading begins where the
    last whole one ended, and misses none."""
    session = stage.session(stage.account(), status=SessionStatus.ACTIVE)
    account, market = session.account, session.config.feed.market
    compare(stage, account)
    # The reading dies at the first of them, before it has a row for the second.
    theirs = [trade_by_hand(account, market, Side.BUY, quantity)[1] for quantity in ("0.01", "0.02")]
    stage.count("exchange", 2)
    # Longer than what every reading reads again, at whatever speed the venue's clock runs.
    stage.advance(3 * 3600)
    kills = stage.kills
    stage.restart("tracking", crash_at="fills.recorded", wait=True)
    _make_due(account)
    stage.ring("positions.reconcile", account_ids=[account.pk])
    stage.wait(lambda: stage.kills > kills, "the reading to break off")
    # As after its lease, and a while later.
    stage.advance(600)
    Reconciliation.objects.filter(pk=account.pk).update(leased_until=None)
    compare(stage, account)
    rows = Order.objects.filter(account=account, exchange_order_id__in=theirs)
    filled = sorted(rows.values_list("filled", flat=True))
    wanted = [Decimal("0.01"), Decimal("0.02")]
    stage.expect(filled == wanted, f"wanted their 0.01 and 0.02 in the books once, was {filled}")


def _make_due(account: Account) -> None:
    Reconciliation.objects.update_or_create(account=account, defaults={"due_at": timezone.now(), "leased_until": None})


@scenario("long-outage", rows=(43,), needs_stage=False)
def long_outage(stage: World) -> None:
    """Nobody looks for an hour, and by then the venue no longer shows the order that filled meanwhile: its fills are read
    from where the last reading ended."""
    order = resting_order(stage)
    session = stage.position_of(order).session
    compare(stage, order.account)
    venue = Exchange.objects.filter(pk=stage.exchange.pk)
    venue.update(is_enabled=False)
    try:
        let_go_by(stage, 0.3)
        stage.settings(keepFilledS=60)
        fill_there(stage, order, "0.02")
        stage.sim("clock", advance_s=3600)
    finally:
        venue.update(is_enabled=True)
    exchange_clock_sync(stage.exchange.pk)
    stage.exchange.refresh_from_db()
    stage.read_prices()
    compare(stage, order.account)
    held = Position.objects.filter(session=session, status=PositionStatus.OPEN, quantity=Decimal("0.02"))
    stage.wait(held.exists, "what it filled to be held", patience(stage, 30))
    stage.wait_order(order, S.CLOSED)
    stage.expect_order(order, S.CLOSED, accepted=1, sent=1)
    leave(stage, session)


@scenario("venue-closed", rows=(44,), needs_stage=False)
def venue_closed(stage: World) -> None:
    """The venue says that it takes no orders: none is sent, each says why, and all go on by themselves when it does again."""
    stage.settings(status="close", statusMessage="back soon")
    stage.ring("exchanges.read_status", exchange_ids=[stage.exchange.pk])
    closed = Exchange.objects.filter(pk=stage.exchange.pk).exclude(status="OPEN")
    stage.wait(closed.exists, "its status to be known")
    order = stage.ready_order()
    stage.submit(order)
    held = Order.objects.filter(pk=order.pk, status=S.READY, detail__startswith="held: ")
    stage.wait(held.exists, f"{order} to say why it waits", patience(stage, 15))
    stage.expect_order(order, S.READY, accepted=0, sent=0)
    stage.heal()
    # The sweep asks a venue that is not open every few seconds.
    stage.wait_order(order, S.CLOSED, seconds=patience(stage, 60))
    stage.expect_order(order, S.CLOSED, accepted=1, sent=1)


@scenario("limit-of-one-account", rows=(30,), needs_stage=False)
def limit_of_one_account(stage: World) -> None:
    """The venue refuses an account for its rate: that one waits as long as it was told to, and another's orders go."""
    limited, free = stage.account(), stage.account()
    first = stage.ready_order(limited)
    stage.order_fault(first, "code", "before", code="429000", msg="Too many requests")
    stage.submit(first)
    refused = Order.objects.filter(pk=first.pk, status=S.READY, not_before_at__isnull=False)
    stage.wait(refused.exists, f"{first} to be put off")
    until = refused.get().not_before_at
    order = stage.ready_order(free)
    stage.submit(order)
    for one, sent in ((order, 1), (first, 2)):
        stage.wait_order(one, S.CLOSED)
        stage.expect_order(one, S.CLOSED, accepted=1, sent=sent)
    assert until is not None
    assert order.opened_at is not None
    assert first.opened_at is not None
    stage.expect(order.opened_at < until < first.opened_at, f"wanted {order} sent before {until}, and {first} after it")


@scenario("venue-silent", rows=(30, 44), needs_stage=False)
def venue_silent(stage: World) -> None:
    """The venue hangs whoever asks: after a few who waited nobody does, and everything goes on when it answers."""
    # Far more than there are threads to begin together, and trials that a slow machine leaves time for.
    account = stage.account("10000000")
    orders = [stage.ready_order(account) for _ in range(30)]
    stage.fault(kind="drop", path="/api/*", when="before", count=None)
    stage.submit(*orders)
    let_go_by(stage, 5 * stage.pace)
    sent = sum(stage.sent(order) for order in orders)
    stage.expect(sent <= 16, f"wanted at most 16 of 30 to have asked a silent venue, were {sent}")
    requests.delete(f"{stage.url}/_sim/faults", timeout=10).raise_for_status()
    wait_ended(stage, orders)
