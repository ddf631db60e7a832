"""The levels of an open position, computed at every look from rows alone: its plan, what it was entered at, the candles that
closed since, the parts that were sold, and the time. What stands on the row is what the price watch finds it by; a crash
loses nothing of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Context, Decimal

from domain.exits import Progress, best_price_kept, is_time_up, levels_in_force, next_time_step
from domain.market import PositionSide
from domain.positions import PositionState
from exchanges.models import Exchange
from pipeline.topics import Topic
from positions.look import Facts, Purpose, Wishes, is_live
from positions.models import LEVEL_FIELDS, Position, PositionStatus

# The scale of the columns, and digits enough for any price at it.
STORED = Decimal("1e-18")
WIDE = Context(prec=40)


def position_follow(one: Facts, now: datetime, wishes: Wishes) -> None:
    """Bring the levels of the session's position, on its row and in ``one``, to what is known now."""
    position = one.position
    if position is None or position.status != PositionStatus.OPEN or position.opened_at is None:
        return
    before, done_before = _levels_on(position), position.targets_done
    one.plan = position.exit_plan
    position.targets_done = max(position.targets_done, _parts_done(one))
    if position.is_following and position.followed_until is None:
        position.followed_until = position.opened_at
    position.feed = one.session.config.feed
    _take_extremes(one, position)
    levels_refresh(one, now)
    if _levels_on(position) != before:
        position.save(update_fields=LEVEL_FIELDS)
    if position.targets_done > done_before:
        wishes.notes[Topic.POSITIONS].append(one.note(event="TARGET_DONE", level=position.targets_done))


def position_added_to(one: Facts, state: PositionState) -> None:
    """Before the fold ``state`` with more entries is written to the session's position: what the candles until then showed
    counts no longer where it would arm a stop only now."""
    position = one.position
    if position is None or not state.entered > position.entered > 0:
        return
    _take_extremes(one, position)
    if position.best_price is None:
        return
    before = position.entry_facts
    after = replace(before, entry_price=state.entry_price)
    position.best_price = best_price_kept(position.exit_plan, before, after, position.best_price)
    if position.best_price is None:
        entry_side = PositionSide(position.side).entry_side
        entered_at = max(fill.filled_at for fill in one.fills if fill.side == entry_side)
        position.followed_until = max(entered_at, one.session.config.feed.last_open_at or entered_at)
    position.save(update_fields=["best_price", "followed_until"])


def levels_refresh(one: Facts, now: datetime) -> None:
    """Compute the levels anew, of a position whose progress on the row is right."""
    position, exchange = one.position, one.session.account.exchange
    if position is None or position.opened_at is None:
        return
    held = exchange.time_at(now) - position.opened_at
    progress = Progress(position.best_price, position.targets_done, held)
    levels = levels_in_force(one.plan, position.entry_facts, progress)
    # As the column keeps them, so that the watch's query and the decision mean the same prices.
    levels = one.levels = replace(levels, stop=_as_stored(levels.stop), target=_as_stored(levels.target))
    one.is_time_up = is_time_up(one.plan, held)
    position.stop_price, position.target_price = levels.stop, levels.target
    position.stop_reason = levels.stop_reason.value if levels.stop is not None else ""
    position.target_reason = levels.target_reason.value if levels.target is not None else ""
    position.exit_due_at = _our_time_of(next_time_step(one.plan, held), held, exchange, position, now)


def _as_stored(price: Decimal | None) -> Decimal | None:
    return None if price is None else price.quantize(STORED, context=WIDE)


def _parts_done(one: Facts) -> int:
    """Up to which take-profit level parts have been sold: an order of it has ended, and filled something."""
    orders = one.orders_of(Purpose.EXIT, Purpose.REST_TARGET)
    sold = [order for order in orders if order.filled and not is_live(order)]
    return max((one.intents[order.intent_id].step for order in sold), default=0)


def _take_extremes(one: Facts, position: Position) -> None:
    found, one.extremes = one.extremes, None
    if found is None:
        return
    if position.side == PositionSide.LONG:
        position.best_price = max(found.high, position.best_price or found.high)
    else:
        position.best_price = min(found.low, position.best_price or found.low)
    position.followed_until = found.until


def _our_time_of(
    step: timedelta | None, held: timedelta, exchange: Exchange, position: Position, now: datetime
) -> datetime | None:
    if step is None or position.opened_at is None:
        return None
    if step > held:
        return now + exchange.wall_delay(step - held)
    return exchange.our_time_of(position.opened_at + step, now)


def _levels_on(position: Position) -> tuple[object, ...]:
    return tuple(getattr(position, "feed_id" if name == "feed" else name) for name in LEVEL_FIELDS)
