"""Exits that rest at the venue too: a stop over all that is held, and its take-profit levels, kept in step with the books.

What we track stays in force whatever rests. Of each wish one order is alive at most; one that differs from what is wanted is
cancelled, and replaced once its end is certain. Whoever leaves the position has the group cancelled before anything is sold,
and no order of it stays at work when the position is gone.

A stop over all and targets are more together than what is held. On spot it is the lack of coins that keeps two of them from
filling; of an account that has coins enough for both, targets are tracked only. On contracts both only reduce what the venue
holds, which is the sum of all that the account has on that market: where that is more than the position, targets are tracked
only, and where it may be less, for another position is of the other side, nothing rests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from domain.exits import ExitReason, TakeProfit, exit_due, take_profits_ahead
from domain.market import ZERO, OrderType, PositionSide, Side, Trigger, round_price, round_quantity
from domain.orders import LIVE_STATUSES, OrderStatus
from exchanges.models import Balance, Market
from exchanges.services import rests_exits
from orders.ledger import FOREIGN
from orders.models import Order
from orders.services import orders_cancel, stops_hasten
from pipeline.topics import Topic, ring
from positions.look import RESTING, Facts, Purpose, Wishes, is_live
from positions.models import Intent, Position, PositionStatus
from positions.trading import exit_pause, may_only_reduce
from sessions.models import SessionStatus

# How long the venue may take over an exit that rests there before ours takes its place, in our time.
VENUE_HAS = timedelta(seconds=4)
# More than any target is for.
ANY = Decimal("Infinity")


@dataclass(frozen=True, slots=True)
class Rest:
    """An order that is to wait at the venue."""

    purpose: str
    step: int
    quantity: Decimal
    stop_price: Decimal
    trigger: Trigger
    reason: str


def position_rest(one: Facts, now: datetime, wishes: Wishes) -> None:
    """Bring what rests for the session's position in line with what it holds and where its levels are now."""
    position = one.position
    if position is None or not position.is_resting or position.status != PositionStatus.OPEN:
        return
    resting = [order for order in one.resting() if is_live(order)]
    if any(is_live(order) for order in [*one.orders_of(Purpose.EXIT), *one.parts()]):
        _cancel(resting)
        return
    if any(order.status == OrderStatus.OPENED and not order.waits_for_price for order in resting):
        return  # one is being carried out: what is left is known when it has ended
    wanted = {(rest.purpose, rest.step): rest for rest in _wanted(one, position)}
    live = {(one.intents[order.intent_id].purpose, one.intents[order.intent_id].step): order for order in resting}
    _cancel([order for key, order in live.items() if key not in wanted or _differs(order, wanted[key])])
    for key, rest in wanted.items():
        if key not in live:
            _place(one, position, rest, now, wishes)


def exit_rested(one: Facts) -> str:
    """The reason of a resting order that has ended the position, or all of it but what cannot be sold; empty where none has.
    A stop that was carried out in part is carried through. Which was the last is the venue's word: we may have heard of them
    the other way round."""
    position = one.position
    ended = [order for order in one.orders if order.is_exit and order.filled and order.closed_at and not is_live(order)]
    filled_at = {fill.order_id: fill.filled_at for fill in sorted(one.fills, key=lambda fill: fill.filled_at)}
    ended.sort(key=lambda order: (filled_at.get(order.pk, order.requested_at), order.closed_at))
    if position is None or not ended:
        return ""
    last, rules = ended[-1], one.market.rules
    is_over = last in one.resting() and not rules.takes(round_quantity(position.quantity, rules), last.stop_price)
    stops = [order for order in ended if one.intents[order.intent_id].purpose == Purpose.REST_STOP]
    return _reason_of(one, last) if is_over else _reason_of(one, stops[-1]) if stops else ""


def venue_has_its_turn(one: Facts, now: datetime) -> bool:
    """Whether the price has met an order that waits at the venue, so short a time ago that the venue is left to it."""
    position = one.position
    if position is None or not position.is_resting:
        return False
    is_met = _is_met(one, position)
    if is_met != (position.resting_met_at is not None):
        position.resting_met_at = now if is_met else None
        position.save(update_fields=["resting_met_at"])
    return position.resting_met_at is not None and now - position.resting_met_at < VENUE_HAS


def stops_met_look(market_ids: Sequence[int]) -> None:
    """Have the orders looked at whose stop price the last quotes of these markets have met."""
    met = stops_hasten(market_ids)
    exits = set(Order.objects.filter(pk__in=met, is_exit=True).values_list("pk", flat=True))
    ring("exits.look", batch=1, order_ids=sorted(exits))
    ring("orders.look", batch=1, order_ids=sorted(set(met) - exits))


def orders_left_behind(now: datetime) -> list[int]:
    """Resting orders at work whose position is held no more: what the sweep rings for."""
    over = Intent.objects.filter(purpose__in=RESTING).exclude(position__status=PositionStatus.OPEN)
    live = Order.objects.filter(status__in=LIVE_STATUSES, is_exit=True, is_cancel_wanted=False)
    return list(live.filter(intent_id__in=over.values("pk")).order_by("pk").values_list("pk", flat=True))


def orders_let_go(order_ids: Sequence[int], now: datetime) -> None:
    """Cancel those of these orders that are still left behind."""
    left = set(orders_left_behind(now)).intersection(order_ids)
    orders_cancel(list(Order.objects.filter(pk__in=left)))


def _reason_of(one: Facts, order: Order) -> str:
    """Which exit it was; of one that has a word of the venue's in that place, its wish's."""
    return order.reason if order.reason in set(ExitReason) else one.intents[order.intent_id].reason


def _wanted(one: Facts, position: Position) -> list[Rest]:
    if position.exit_reason or position.is_exit_wanted or one.session.status == SessionStatus.STOPPING:
        return []
    if not rests_exits(one.session.account):
        return []
    side, rules = PositionSide(position.side), one.market.rules
    if side.opposite in one.beside.values():
        return []  # the venue holds the difference: no order that only reduces fits what either side holds
    against = Trigger.FALLING if side is PositionSide.LONG else Trigger.RISING
    gains = Trigger.RISING if side is PositionSide.LONG else Trigger.FALLING
    wanted = []
    held = round_quantity(position.quantity, rules)
    if one.levels.stop is not None and rules.takes(held, one.levels.stop):
        # Towards the price: it never fires later than the one we track.
        price = round_price(one.levels.stop, rules, side.exit_side)
        wanted.append(Rest(Purpose.REST_STOP, 0, held, price, against, one.levels.stop_reason.value))
    ahead = take_profits_ahead(
        one.plan, position.entry_facts, position.targets_done, position.entered, position.exited, position.quantity, rules
    )  # fmt: skip
    spare = _spare(one, position) if ahead and wanted else ZERO
    wanted += [_target(target, gains) for target in ahead if spare < target.quantity]
    return wanted


def _target(target: TakeProfit, trigger: Trigger) -> Rest:
    return Rest(
        Purpose.REST_TARGET, target.level, target.quantity, target.price, trigger, target.reason.value
    )  # fmt: skip


def _spare(one: Facts, position: Position) -> Decimal:
    """What the account could sell after the stop has sold the position, as far as is known: a target that is for no more than
    this would be carried out as well."""
    if one.market.kind != Market.Kind.SPOT:
        # An order that only reduces is cut to what is there: one contract of somebody else's is one too many.
        return ANY if one.beside or _held_by_hand(position) > ZERO else ZERO
    balance = Balance.objects.filter(account=position.account_id, currency=one.market.base).first()
    spare: Decimal = balance.total - position.quantity if balance is not None else ZERO
    return spare


def _held_by_hand(position: Position) -> Decimal:
    """Contracts that orders of others have brought to the position's side, and that no position has adopted."""
    theirs = Order.objects.filter(
        account=position.account_id, market=position.market_id, is_foreign=True, reason=FOREIGN, filled__gt=0
    )
    adopted = Intent.objects.filter(position__account=position.account_id).values("pk")
    rows = theirs.exclude(intent_id__in=adopted).values_list("side", "filled")
    return sum((Side(side).sign * filled for side, filled in rows), ZERO) * PositionSide(position.side).sign


def _differs(order: Order, rest: Rest) -> bool:
    left = (order.quantity or ZERO) - order.filled
    return (left, order.stop_price, order.trigger) != (rest.quantity, rest.stop_price, rest.trigger)


def _cancel(orders: Sequence[Order]) -> None:
    if asked := [order for order in orders if not order.is_cancel_wanted]:
        orders_cancel(asked)


def _place(one: Facts, position: Position, rest: Rest, now: datetime, wishes: Wishes) -> None:
    """An order for the resting wish: the first, a replacement, or one more attempt after a pause."""
    attempts = one.orders_at(rest.purpose, rest.step)
    failures = _failures(attempts)
    if failures == 1 and (last := attempts[-1]).sent_at is not None:
        wishes.notes[Topic.ALERTS].append(
            one.note(
                alert="RESTING_EXIT_FAILED", what=rest.purpose, level=rest.step, status=last.status, reason=last.reason
            )
        )
    intent = one.intent_at(rest.purpose, rest.step)
    if intent is None:
        intent = Intent(position=position, purpose=rest.purpose, step=rest.step, reason=rest.reason)
        wishes.intents.append(intent)
    side = PositionSide(position.side)
    # At market once its price is met: a limit that is not reached would hold the coins that the stop needs.
    wishes.orders.append(
        Order(
            account=one.session.account, market=one.market, intent_id=intent.pk, side=side.exit_side, position_side=side,
            order_type=OrderType.STOP, stop_price=rest.stop_price, trigger=rest.trigger, is_exit=True,
            quantity=rest.quantity, status=OrderStatus.READY, reason=rest.reason, valued_at=now,
            leverage=position.leverage, margin_mode=position.margin_mode,
            is_reduce_only=may_only_reduce(position, one.market),
            not_before_at=now + exit_pause(failures) if failures else None,
        )
    )  # fmt: skip


def _failures(attempts: Sequence[Order]) -> int:
    """How many attempts in a row, up to the last, came to nothing though nobody here wanted them gone."""
    failures = 0
    # One that was taken back before it was sent says nothing.
    for order in reversed([order for order in attempts if order.sent_at is not None]):
        is_lost = order.status == OrderStatus.CANCELED and not order.is_cancel_wanted
        if order.filled or not (is_lost or order.status in (OrderStatus.REJECTED, OrderStatus.NOT_PLACED)):
            break
        failures += 1
    return failures


def _is_met(one: Facts, position: Position) -> bool:
    """Whether a level has the exit due, and an order waits for it at the venue whose own price is met too."""
    price, is_left = one.price, position.exit_reason or position.is_exit_wanted
    if price is None or is_left or one.session.status == SessionStatus.STOPPING:
        return False
    if exit_due(PositionSide(position.side), one.levels, price, None) is None:
        return False
    at_work = [order for order in one.resting() if order.status == OrderStatus.OPENED and not order.is_cancel_wanted]
    return any(_meets(price, order) for order in at_work)


def _meets(price: Decimal, order: Order) -> bool:
    if order.stop_price is None:
        return False
    return bool(price <= order.stop_price if order.trigger == Trigger.FALLING else price >= order.stop_price)
