"""What a look decided to trade, as rows: entries without a quantity, for money to decide; exits with theirs, ready to be
sent.

One wish is one intent, however many orders it takes: an exit that fails is tried again after a growing pause, and what is
too small to be sold is booked as what it is, once.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

from domain.exits import ExitReason, part_to_sell
from domain.market import ONE, ZERO, MarginMode, OrderType, PositionSide, round_quantity
from domain.orders import OrderStatus
from exchanges.models import Market
from orders.models import Order
from orders.services import orders_cancel
from pipeline.topics import Topic
from positions.following import levels_refresh
from positions.look import Facts, Purpose, Wishes, is_live
from positions.models import FOLDED_FIELDS, LEVEL_FIELDS, Intent, Position, PositionStatus
from strategies.models import Signal

EXIT_FAILURES_BEFORE_ALERT = 3
LONGEST_EXIT_PAUSE = timedelta(seconds=60)


def position_enter(one: Facts, signal: Signal, side: PositionSide, wishes: Wishes) -> None:
    """A position to be, which keeps what its session and signal say of it now, and the order that is to open it."""
    session = one.session
    is_margined = one.market.kind == Market.Kind.LINEAR_FUTURE
    position = Position(
        session=session, account=session.account, market=one.market, entry_signal=signal, side=side,
        exits=session.exit_plan.model_dump(mode="json"), is_resting=session.is_resting, max_entries=session.max_entries,
        leverage=session.leverage if is_margined else ONE,
        margin_mode=session.margin_mode if is_margined else MarginMode.ISOLATED,
        atr=signal.atr, signal_stop_price=signal.stop_price, signal_target_price=signal.target_price,
    )  # fmt: skip
    wishes.positions.append(position)
    one.position = position
    _ask_for_entry(one, position, 0, wishes)


def position_add(one: Facts, wishes: Wishes) -> None:
    """One more entry into the position that is held."""
    if one.position is not None:
        steps = [intent.step for intent in one.intents.values() if intent.purpose == Purpose.ENTRY]
        _ask_for_entry(one, one.position, max(steps, default=-1) + 1, wishes)


def entries_made(one: Facts) -> int:
    """How many entries of the position came to something, or may yet."""
    counted = [order for order in one.orders_of(Purpose.ENTRY) if order.filled or is_live(order)]
    return len({order.intent_id for order in counted})


def position_leave(one: Facts, reason: ExitReason, now: datetime, wishes: Wishes) -> None:
    """Sell all that is left."""
    position = one.position
    if position is None:
        return
    position.exit_reason = reason
    quantity = round_quantity(position.quantity, one.market.rules)
    if not one.market.rules.takes(quantity, _last(one)):
        # Too small for the venue to sell: booked as what it is, told once, and not tried for ever.
        position.dust = position.quantity
        position.closed_at = one.venue_time(now)
        wishes.notes[Topic.ALERTS].append(one.note(alert="DUST", quantity=position.quantity, market=one.market.symbol))
        position_close(one, position, wishes)
        return
    position.save(update_fields=["exit_reason"])
    _ask_for_exit(one, position, 0, reason, quantity, now, wishes)


def position_leave_part(one: Facts, step: int, now: datetime, wishes: Wishes) -> None:
    """Sell what the take-profit level ``step`` is for; all, where the rest could not be sold by itself; nothing, where the
    part could not: then the next level is for it, too."""
    position, price = one.position, _last(one)
    if position is None:
        return
    part = part_to_sell(
        one.plan, step, position.entered, position.exited, position.quantity, one.market.rules, price or position.entry_price
    )  # fmt: skip
    if part <= 0:
        position.targets_done = step
        levels_refresh(one, now)
        position.save(update_fields=LEVEL_FIELDS)
        wishes.notes[Topic.POSITIONS].append(one.note(event="TARGET_MERGED", level=step))
    elif part >= position.quantity:
        position_leave(one, ExitReason.TAKE_PROFIT, now, wishes)
    else:
        _ask_for_exit(one, position, step, ExitReason.TAKE_PROFIT, part, now, wishes)


def position_close(one: Facts, position: Position, wishes: Wishes) -> None:
    """Let go of a position that has come to its end."""
    orders_cancel([order for order in one.resting() if is_live(order)])
    position.status = PositionStatus.CLOSED
    position.unrealized_pnl = ZERO
    position.is_exit_wanted = False
    position.save(update_fields=[*FOLDED_FIELDS, "unrealized_pnl", "is_exit_wanted", "exit_reason", "dust"])
    wishes.notes[Topic.POSITIONS].append(
        one.note(
            event="CLOSED", realized_pnl=position.realized_pnl, exit_reason=position.exit_reason, dust=position.dust
        )
    )
    one.position = None


def _ask_for_entry(one: Facts, position: Position, step: int, wishes: Wishes) -> None:
    side = PositionSide(position.side)
    intent = Intent(position=position, purpose=Purpose.ENTRY, step=step, reason="SIGNAL")
    wishes.intents.append(intent)
    wishes.orders.append(
        Order(
            account=one.session.account, market=one.market, intent_id=intent.pk, side=side.entry_side, position_side=side,
            order_type=OrderType.MARKET, reason="SIGNAL", leverage=position.leverage, margin_mode=position.margin_mode,
        )
    )  # fmt: skip


def _ask_for_exit(
    one: Facts, position: Position, step: int, reason: ExitReason, quantity: Decimal, now: datetime, wishes: Wishes
) -> None:
    """An order of that quantity for the exit's intent, the first or one more attempt."""
    failures = sum(_is_in_vain(order) for order in one.orders_at(Purpose.EXIT, step))
    if failures == EXIT_FAILURES_BEFORE_ALERT:
        wishes.notes[Topic.ALERTS].append(one.note(alert="EXIT_KEEPS_FAILING", failures=failures, reason=reason))
    intent = one.intent_at(Purpose.EXIT, step)
    if intent is None:
        intent = Intent(position=position, purpose=Purpose.EXIT, step=step, reason=reason)
        wishes.intents.append(intent)
    side = PositionSide(position.side)
    wishes.orders.append(
        Order(
            account=one.session.account, market=one.market, intent_id=intent.pk, side=side.exit_side, position_side=side,
            order_type=OrderType.MARKET, is_exit=True, quantity=quantity, status=OrderStatus.READY, reason=reason,
            valued_at=now, leverage=position.leverage, margin_mode=position.margin_mode,
            is_reduce_only=one.market.kind == Market.Kind.LINEAR_FUTURE,
            not_before_at=now + exit_pause(failures) if failures else None,
        )
    )  # fmt: skip


def _last(one: Facts) -> Decimal | None:
    last: Decimal | None = one.quote.last if one.quote is not None else None
    return last


def _is_in_vain(order: Order) -> bool:
    """Whether an exit came to nothing: refused, not placed, or taken and cancelled by the venue without a trade."""
    failed = (OrderStatus.REJECTED, OrderStatus.NOT_PLACED)
    return order.status in failed or (order.status == OrderStatus.CANCELED and not order.filled)


def exit_pause(failures: int) -> timedelta:
    """How long an exit waits that failed so often: ever longer, up to a minute."""
    # The exponent is bounded too: an exit that fails for hours must not become a number no clock can hold.
    return min(timedelta(seconds=2 ** min(failures, 10)), LONGEST_EXIT_PAUSE)
