"""What a trader may decide about a difference, and what each decision does; done once, whoever else presses the button.

A position stays the fold of its fills: to adopt an order is to make it one of the position's, and to resize a position is to
add a fill that says so. Whatever is sold or bought goes through an order's row and the submission protocol like any other.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import reduce
from operator import or_

from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone

from domain.market import ZERO, OrderType, PositionSide, Side, round_quantity
from domain.orders import LIVE_STATUSES, OrderStatus
from exchanges.models import Account, Market, Quote
from orders.ledger import FOREIGN, LATE, orders_announce
from orders.models import Fill, Order, foreign_order_id
from orders.services import orders_cancel
from pipeline.topics import Topic
from positions.contracts import contracts_held
from positions.discrepancies import closing_intent, discrepancy_close, figure, tolerance_of
from positions.models import LIVE_POSITIONS, BalanceAnchor, Discrepancy, Intent, Position, Reconciliation, Resolution
from positions.models import DiscrepancyKind as Kind
from positions.services import is_dust, session_exit, sessions_track
from sessions.models import TradingSession

# What may be decided about each kind; what the system decides by itself is no choice.
CHOICES: Mapping[str, tuple[Resolution, ...]] = {
    Kind.FOREIGN_ORDER: (Resolution.ADOPT, Resolution.CLOSE, Resolution.IGNORE),
    Kind.MANUAL_CLOSE: (Resolution.ADOPT, Resolution.RESIZE, Resolution.CLOSE, Resolution.IGNORE),
    Kind.BALANCE_DRIFT: (Resolution.ADOPT, Resolution.IGNORE),
    Kind.DUST: (Resolution.IGNORE,),
    Kind.LATE_ORDER: (Resolution.CLOSE, Resolution.IGNORE),
    Kind.MISSING_FILL: (),
}
# Reasons of the rows that decisions make.
CORRECTION = "RESIZE"
CLOSING = "CLOSE_DISCREPANCY"


class UnableToResolve(Exception):
    """This cannot be decided about the difference, now or at all."""


def discrepancy_resolve(discrepancy_id: int, choice: str, *, actor: str) -> Discrepancy:
    """Carry out what ``actor`` decided about an open difference. Raises UnableToResolve, and then changes nothing."""
    row = Discrepancy.objects.select_related("account", "order").get(pk=discrepancy_id)
    wanted = [str(one) for one in CHOICES[row.kind]]
    if choice not in wanted:
        raise UnableToResolve(f"for {row.kind} wanted {' or '.join(wanted) or 'nothing'}, was {choice[:40]!r}")
    with transaction.atomic():
        position = _locked_position(row)
        row = Discrepancy.objects.select_related("account", "order", "market").get(pk=discrepancy_id)
        if not discrepancy_close(row, Resolution(choice), actor=actor):
            raise UnableToResolve(f"wanted an open difference, was {row.status}: {row.resolution} by {row.resolved_by}")
        session_id = _VERBS[row.kind, Resolution(choice)](row, position, actor)
    if session_id is not None:
        sessions_track([session_id])
    row.refresh_from_db()
    return row


def _locked_position(row: Discrepancy) -> Position | None:
    """The position it is about, or the one that an order of others could become part of. Locked first are the sessions of
    all whose positions it concerns: those that hold the same coins, and the one whose wish the order was."""
    live = Position.objects.filter(account=row.account_id, status__in=LIVE_POSITIONS)
    mine = live.filter(pk=row.position_id) if row.position_id else live.filter(market=row.market_id)
    concerned = [mine.values("session"), live.filter(market__base=row.currency).values("session")]
    if row.order is not None:
        concerned.append(Position.objects.filter(intents=row.order.intent_id).values("session"))
    sessions = TradingSession.objects.filter(reduce(or_, (Q(pk__in=ids) for ids in concerned)))
    list(sessions.locked())
    positions = list(mine.select_related("market", "session")[:2])
    return positions[0] if len(positions) == 1 else None


def _require_true(row: Discrepancy) -> None:
    """Raise where the figures are of another moment: what one decision has put right, the next would put right again."""
    held = Position.objects.filter(account=row.account_id, market__base=row.currency, status__in=LIVE_POSITIONS)
    longs = held.filter(side=PositionSide.LONG.value, market__kind=Market.Kind.SPOT)
    is_of_contracts = row.market is not None and row.market.kind == Market.Kind.LINEAR_FUTURE
    needed = contracts_held(row) if is_of_contracts else sum(longs.values_list("quantity", flat=True), ZERO)
    compared_at = Reconciliation.objects.filter(pk=row.account_id).values_list("compared_at", flat=True).first()
    traded = Fill.objects.filter(
        account=row.account_id, market__base=row.currency, recorded_at__gt=compared_at or row.opened_at
    )
    if abs(needed - (row.expected or ZERO)) > tolerance_of(needed) or traded.exists():
        raise UnableToResolve(
            f"wanted figures that are still true, something was traded or decided since: its positions say "
            f"{figure(needed)} now, wait for the next comparison"
        )


def _ignore(row: Discrepancy, position: Position | None, actor: str) -> int | None:
    return None


def _adopt_drift(row: Discrepancy, position: Position | None, actor: str) -> int | None:
    anchors = BalanceAnchor.objects.filter(account=row.account_id, currency=row.currency)
    anchors.update(total=F("total") + row.difference)
    return None


def _adopt_sale(row: Discrepancy, position: Position | None, actor: str) -> int | None:
    _require_true(row)
    return _adopt_order(row, position, actor)


def _adopt_order(row: Discrepancy, position: Position | None, actor: str) -> int | None:
    """Make a done order of others part of the market's only position: an entry of it, or its exit."""
    order = row.order
    if order is None:
        raise UnableToResolve("wanted an order that explains it, was none: resize the position instead")
    if order.status in LIVE_STATUSES:
        raise UnableToResolve(f"wanted an order that is done, was {order.status}: close it, or wait for its end")
    is_of_contracts = order.market.kind == Market.Kind.LINEAR_FUTURE
    if position is None or (position.side != PositionSide.LONG and not is_of_contracts):
        wanted = "one position" if is_of_contracts else "one long position"
        raise UnableToResolve(f"wanted exactly {wanted} on {order.market.symbol}, was none or several")
    is_exit = order.side == PositionSide(position.side).exit_side
    if is_exit and order.filled - position.quantity > tolerance_of(order.filled):
        raise UnableToResolve(
            f"wanted at most the {figure(position.quantity)} held, was a sale of {figure(order.filled)}"
        )
    purpose = Intent.Purpose.EXIT if is_exit else Intent.Purpose.ENTRY
    intent = _intent(position, purpose)
    free = Order.objects.filter(pk=order.pk, is_foreign=True, reason=FOREIGN).exclude(status__in=LIVE_STATUSES)
    if not free.update(intent_id=intent.pk, is_exit=is_exit, reason="ADOPTED", closed_at=timezone.now()):
        raise UnableToResolve("wanted an order of others that no position has adopted, was one of a position's")
    return position.session_id


def _resize(row: Discrepancy, position: Position | None, actor: str) -> int | None:
    """Fit a position to what the account holds, by a fill at the last price that no money moved for."""
    if position is None:
        raise UnableToResolve("wanted a position that is open, was none")
    missing = min((row.expected or ZERO) - (row.found or ZERO), position.quantity)
    if missing <= 0:
        raise UnableToResolve(f"wanted a position that holds more than the account, was {figure(position.quantity)}")
    intent = _intent(position, Intent.Purpose.EXIT)
    if Order.objects.filter(intent_id=intent.pk, status__in=LIVE_STATUSES).exists():
        raise UnableToResolve("wanted a position without an exit under way, was one: wait for its end")
    _require_true(row)
    quote = Quote.objects.filter(market=position.market_id).first()
    price: Decimal = quote.last if quote is not None else position.entry_price
    now, side, name = timezone.now(), PositionSide(position.side), f"fix-{row.pk}"
    order = Order.objects.create(
        account_id=row.account_id, market=position.market, intent_id=intent.pk, is_foreign=True, is_exit=True,
        client_order_id=foreign_order_id(row.account_id, position.market.symbol, name), side=side.exit_side,
        position_side=side, quantity=missing, filled=missing, filled_quote=missing * price, status=OrderStatus.CLOSED,
        reason=CORRECTION, detail=f"discrepancy {row.pk}, decided by {actor}"[:200], sent_at=now, closed_at=now,
    )  # fmt: skip
    Fill.objects.create(
        order=order, account_id=row.account_id, market=position.market, trade_id=name, side=order.side,
        quantity=missing, price=price, filled_at=now, is_correction=True,
    )  # fmt: skip
    orders_announce([order], Topic.ORDER_UPDATES, actor=actor)
    return position.session_id


def _resize_and_leave(row: Discrepancy, position: Position | None, actor: str) -> int | None:
    session_id = _resize(row, position, actor)
    if session_id is not None:
        session_exit(session_id, actor=actor)
    return session_id


def _undo(row: Discrepancy, position: Position | None, actor: str) -> int | None:
    """Cancel an order that is at work; of one that is done, trade what it traded back, at market."""
    order = row.order
    if order is None:
        raise UnableToResolve("wanted an order, was none")
    if order.status == OrderStatus.OPENED:
        orders_cancel([order], actor=actor)
        return None
    quote = Quote.objects.filter(market=order.market_id).first()
    kept = sum((fill.fee for fill in order.fills.all() if fill.fee_currency == order.market.base), ZERO)
    quantity = round_quantity(order.filled - (kept if order.side == Side.BUY else ZERO), order.market.rules)
    if is_dust(quantity, order.market, quote):
        raise UnableToResolve(f"wanted a quantity that the venue trades, was {figure(quantity)} {order.market.base}")
    account = Account.objects.get(pk=row.account_id)
    back = Order.objects.create(
        account=account, market=order.market, intent_id=closing_intent(row), side=Side(order.side).opposite,
        position_side=order.position_side, order_type=OrderType.MARKET, is_exit=True, quantity=quantity,
        status=OrderStatus.READY, reason=CLOSING, detail=f"trades {order.client_order_id} back", valued_at=timezone.now(),
    )  # fmt: skip
    orders_announce([back], Topic.ORDERS, actor=actor)
    return None


def _undo_late(row: Discrepancy, position: Position | None, actor: str) -> int | None:
    _let_go(row)
    return _undo(row, position, actor)


def _ignore_late(row: Discrepancy, position: Position | None, actor: str) -> int | None:
    _let_go(row)
    return None


def _let_go(row: Discrepancy) -> None:
    """From here on the order stands by itself. Its position would be taken up again as soon as its session is free, and
    would sell what is sold already, or what its trader means to keep."""
    if row.order is None:
        raise UnableToResolve("wanted an order, was none")
    if Position.objects.filter(intents=row.order.intent_id, status__in=LIVE_POSITIONS).exists():
        raise UnableToResolve("wanted an order that no position holds, was one whose session has taken it up again")
    Order.objects.filter(pk=row.order.pk).update(intent_id=uuid.uuid4(), reason=LATE)


def _intent(position: Position, purpose: Intent.Purpose) -> Intent:
    return Intent.objects.get_or_create(position=position, purpose=purpose, step=0, defaults={"reason": "ADOPTED"})[0]


_Verb = Callable[[Discrepancy, Position | None, str], int | None]
_VERBS: Mapping[tuple[str, Resolution], _Verb] = {
    (Kind.FOREIGN_ORDER, Resolution.ADOPT): _adopt_order,
    (Kind.FOREIGN_ORDER, Resolution.CLOSE): _undo,
    (Kind.FOREIGN_ORDER, Resolution.IGNORE): _ignore,
    (Kind.MANUAL_CLOSE, Resolution.ADOPT): _adopt_sale,
    (Kind.MANUAL_CLOSE, Resolution.RESIZE): _resize,
    (Kind.MANUAL_CLOSE, Resolution.CLOSE): _resize_and_leave,
    (Kind.MANUAL_CLOSE, Resolution.IGNORE): _ignore,
    (Kind.BALANCE_DRIFT, Resolution.ADOPT): _adopt_drift,
    (Kind.BALANCE_DRIFT, Resolution.IGNORE): _ignore,
    (Kind.DUST, Resolution.IGNORE): _ignore,
    (Kind.LATE_ORDER, Resolution.CLOSE): _undo_late,
    (Kind.LATE_ORDER, Resolution.IGNORE): _ignore_late,
}
