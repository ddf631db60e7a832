"""When a position is left, and how much of it: which levels are in force now, and the one function that says whether an
exit is due and why.

Everything follows from the plan, what the position was entered at, and how it has gone since; there is no clock and no
state in here, so live trading and backtests ask the same functions. The tightest stop and the nearest target win and give
their name. Stops come before targets, targets before time, time before signals.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from enum import StrEnum

from domain.exit_plan import ExitPlan
from domain.market import ONE, ZERO, MarketRules, PositionSide, round_price, round_quantity
from domain.strategy import SignalKind

HUNDRED = Decimal(100)


class ExitReason(StrEnum):
    STOP_LOSS = "STOP_LOSS"
    TRAILING_STOP = "TRAILING_STOP"
    BREAK_EVEN = "BREAK_EVEN"
    LIQUIDATION_GUARD = "LIQUIDATION_GUARD"
    LIQUIDATED = "LIQUIDATED"
    TAKE_PROFIT = "TAKE_PROFIT"
    ROI = "ROI"
    TIME_EXIT = "TIME_EXIT"
    EXIT_SIGNAL = "EXIT_SIGNAL"
    MARKET_EXIT = "MARKET_EXIT"
    SESSION_STOP = "SESSION_STOP"
    HALT = "HALT"


@dataclass(frozen=True, slots=True)
class EntryFacts:
    """What a plan's figures are measured from. Prices are in quote currency; ``entry_price`` is the average of all entries,
    ``atr`` and the signal's levels are those of the first."""

    side: PositionSide
    entry_price: Decimal
    atr: Decimal | None = None
    signal_stop: Decimal | None = None
    signal_target: Decimal | None = None
    liquidation_price: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How a position has gone. ``best_price`` is the best of the candles that closed since the entry, the candle of the entry
    left out: its extreme may lie before it. ``held`` is by the venue's clock; the levels are those that the strategy's
    adviser named since."""

    best_price: Decimal | None = None
    targets_done: int = 0
    held: timedelta = timedelta(0)
    advised_stop: Decimal | None = None
    advised_target: Decimal | None = None


@dataclass(frozen=True, slots=True)
class ExitLevels:
    """Prices at which a position is left; None where there is no such exit. ``target_step`` is the take-profit level, counted
    from 1, where the target is for a part; 0 means all that is left."""

    stop: Decimal | None
    target: Decimal | None
    stop_reason: ExitReason = ExitReason.STOP_LOSS
    target_reason: ExitReason = ExitReason.TAKE_PROFIT
    target_step: int = 0


@dataclass(frozen=True, slots=True)
class ExitDue:
    """That a position is to be left now. ``step`` is the take-profit level whose part is meant; 0: all that is left."""

    reason: ExitReason
    step: int = 0


@dataclass(frozen=True, slots=True)
class TakeProfit:
    """A take-profit level, counted from 1, with what is to be sold there, in whole lots, and the price in whole ticks."""

    level: int
    price: Decimal
    quantity: Decimal
    reason: ExitReason = ExitReason.TAKE_PROFIT


NO_LEVELS = ExitLevels(None, None)
NO_PROGRESS = Progress()

_AGAINST = {
    PositionSide.LONG: (SignalKind.EXIT_LONG, SignalKind.ENTER_SHORT),
    PositionSide.SHORT: (SignalKind.EXIT_SHORT, SignalKind.ENTER_LONG),
}


def levels_in_force(plan: ExitPlan, entry: EntryFacts, progress: Progress = NO_PROGRESS) -> ExitLevels:
    """The stop and the target that count now. As the best price gets better the stop never moves away from the price."""
    sign = entry.side.sign
    stops = [(level, reason) for level, reason in _stops(plan, entry, progress) if level is not None and level > 0]
    # On a tie the first name stands, and of targets the one that takes all.
    stop = max(stops, key=lambda one: one[0] * sign, default=None)
    targets = [(price, reason, step) for price, reason, step in _targets(plan, entry, progress) if price > 0]
    target = min(targets, key=lambda one: (one[0] * sign, one[2]), default=None)
    return ExitLevels(
        stop=stop[0] if stop else None,
        target=target[0] if target else None,
        stop_reason=stop[1] if stop else ExitReason.STOP_LOSS,
        target_reason=target[1] if target else ExitReason.TAKE_PROFIT,
        target_step=target[2] if target else 0,
    )


def stop_loss_price(plan: ExitPlan, entry: EntryFacts) -> Decimal | None:
    """The tightest of the plan's stop-losses: percent, ATR multiple, the signal's own. None where it has none that can be
    computed, an ATR multiple without an ATR for one, or that a price could reach."""
    sign = entry.side.sign
    levels = []
    if plan.stop_loss_percent is not None:
        levels.append(_moved(entry, -plan.stop_loss_percent))
    if plan.stop_loss_atr is not None and entry.atr is not None:
        levels.append(entry.entry_price - sign * plan.stop_loss_atr * entry.atr)
    if plan.is_stop_from_signal and entry.signal_stop is not None:
        levels.append(entry.signal_stop)
    return max((level for level in levels if level > 0), key=lambda level: level * sign, default=None)


def trailing_stop_price(plan: ExitPlan, entry: EntryFacts, best_price: Decimal) -> Decimal | None:
    """The trailing stop under (for a short over) ``best_price``; None before it is activated. The tighter where the plan has
    both a percentage and an ATR multiple."""
    sign = entry.side.sign
    if (best_price - _moved(entry, plan.trailing_activation_percent)) * sign < 0:
        return None
    levels = []
    if plan.trailing_percent is not None:
        levels.append(best_price * (1 - sign * plan.trailing_percent / HUNDRED))
    if plan.trailing_atr is not None and entry.atr is not None:
        levels.append(best_price - sign * plan.trailing_atr * entry.atr)
    return max((level for level in levels if level > 0), key=lambda level: level * sign, default=None)


def break_even_price(plan: ExitPlan, entry: EntryFacts, best_price: Decimal) -> Decimal | None:
    """The entry price and its offset, once ``best_price`` was far enough; None before that."""
    if plan.break_even_percent is None:
        return None
    if (best_price - _moved(entry, plan.break_even_percent)) * entry.side.sign < 0:
        return None
    return _moved(entry, plan.break_even_offset_percent)


def best_price_kept(plan: ExitPlan, before: EntryFacts, after: EntryFacts, best_price: Decimal) -> Decimal | None:
    """The best price that still counts after an entry has changed the average; None where it is to be counted anew: a gain
    that was never made from the old average must not arm a stop because the new one is lower."""
    for stop_price in (trailing_stop_price, break_even_price):
        if stop_price(plan, before, best_price) is None and stop_price(plan, after, best_price) is not None:
            return None
    return best_price


def liquidation_guard_price(plan: ExitPlan, entry: EntryFacts) -> Decimal | None:
    """Where the plan's part of the way from the entry to the liquidation price is gone. None without a liquidation price, or
    with one that is not on the losing side."""
    liquidation = entry.liquidation_price
    if plan.liquidation_guard_percent is None or liquidation is None or liquidation <= 0:
        return None
    if (entry.entry_price - liquidation) * entry.side.sign <= 0:
        return None
    return entry.entry_price + (liquidation - entry.entry_price) * plan.liquidation_guard_percent / HUNDRED


def roi_target_price(plan: ExitPlan, entry: EntryFacts, held: timedelta) -> Decimal | None:
    """The gain that the ROI table asks for after ``held``: that of its last step that has begun; None before the first."""
    begun = [step for step in plan.roi if timedelta(minutes=step.minutes) <= held]
    return _moved(entry, begun[-1].percent) if begun else None


def is_time_up(plan: ExitPlan, held: timedelta) -> bool:
    """Whether the position has been held as long as the plan lets it."""
    return plan.max_hold_minutes is not None and held >= timedelta(minutes=plan.max_hold_minutes)


def next_time_step(plan: ExitPlan, held: timedelta) -> timedelta | None:
    """After how much holding, by the venue's clock, time next changes something: a step of the ROI table begins, or the time
    is up, which it stays. None where nothing of the plan depends on time any more."""
    steps = [timedelta(minutes=step.minutes) for step in plan.roi]
    ahead = [step for step in steps if step > held]
    if plan.max_hold_minutes is not None:
        ahead.append(timedelta(minutes=plan.max_hold_minutes))
    return min(ahead, default=None)


def exit_due(
    side: PositionSide,
    levels: ExitLevels,
    price: Decimal | None,
    signal: SignalKind | None,
    *,
    is_time_up: bool = False,
    is_signal_used: bool = True,
) -> ExitDue | None:
    """Why the position should be left now, and how much of it, or None. An entry signal of the other side speaks against a
    position as its exit signal does."""
    if price is not None:
        if levels.stop is not None and (price - levels.stop) * side.sign <= 0:
            return ExitDue(levels.stop_reason)
        if levels.target is not None and (price - levels.target) * side.sign >= 0:
            return ExitDue(levels.target_reason, levels.target_step)
    if is_time_up:
        return ExitDue(ExitReason.TIME_EXIT)
    if is_signal_used and speaks_against(signal, side):
        return ExitDue(ExitReason.EXIT_SIGNAL)
    return None


def speaks_against(signal: SignalKind | None, side: PositionSide) -> bool:
    """Whether a strategy that said ``signal`` would not hold a position of this side any more."""
    return signal in _AGAINST[side]


def part_to_sell(
    plan: ExitPlan,
    step: int,
    entered: Decimal,
    exited: Decimal,
    held: Decimal,
    rules: MarketRules,
    price: Decimal,
) -> Decimal:
    """What the take-profit level ``step`` leaves of a position: enough to make what has been left so far the sum of the
    fractions up to that level, of everything entered, in whole lots. ``price`` is what the venue's minimums are judged by.

    Zero where that is too small to be sold: the next level then sells it too. All that is ``held`` where the rest would be
    too small to be sold afterwards.
    """
    fraction = sum((target.fraction for target in plan.targets[:step]), ZERO)
    part = round_quantity(min(entered * min(fraction, ONE) - exited, held), rules)
    if not rules.takes(part, price):
        return ZERO
    return part if rules.takes(round_quantity(held - part, rules), price) else held


def take_profits_ahead(
    plan: ExitPlan,
    entry: EntryFacts,
    targets_done: int,
    entered: Decimal,
    exited: Decimal,
    held: Decimal,
    rules: MarketRules,
) -> list[TakeProfit]:
    """The take-profit levels still to be done, nearest first, as if each before were carried out in full; together they sell
    no more than is ``held``. One too small to be sold is left to the next."""
    found = []
    for level in range(targets_done + 1, len(plan.targets) + 1):
        price = round_price(_moved(entry, plan.targets[level - 1].percent), rules, entry.side.exit_side)
        is_last = level == len(plan.targets)
        part = held if is_last else part_to_sell(plan, level, entered, exited, held, rules, price)
        quantity = round_quantity(part, rules)
        if price <= 0 or not rules.takes(quantity, price):
            continue
        found.append(TakeProfit(level, price, quantity))
        exited, held = exited + quantity, held - quantity
    return found


def _stops(plan: ExitPlan, entry: EntryFacts, progress: Progress) -> list[tuple[Decimal | None, ExitReason]]:
    best = entry.entry_price
    if progress.best_price is not None and (progress.best_price - best) * entry.side.sign > 0:
        best = progress.best_price
    return [
        (stop_loss_price(plan, entry), ExitReason.STOP_LOSS),
        (break_even_price(plan, entry, best), ExitReason.BREAK_EVEN),
        (trailing_stop_price(plan, entry, best), ExitReason.TRAILING_STOP),
        (liquidation_guard_price(plan, entry), ExitReason.LIQUIDATION_GUARD),
        (progress.advised_stop, ExitReason.TRAILING_STOP),
    ]


def _targets(plan: ExitPlan, entry: EntryFacts, progress: Progress) -> list[tuple[Decimal, ExitReason, int]]:
    found: list[tuple[Decimal, ExitReason, int]] = []
    if progress.targets_done < len(plan.targets):
        step = progress.targets_done + 1
        # The last level takes the rest.
        price = _moved(entry, plan.targets[step - 1].percent)
        found.append((price, ExitReason.TAKE_PROFIT, step if step < len(plan.targets) else 0))
    if plan.is_target_from_signal and entry.signal_target is not None:
        found.append((entry.signal_target, ExitReason.TAKE_PROFIT, 0))
    if progress.advised_target is not None:
        found.append((progress.advised_target, ExitReason.TAKE_PROFIT, 0))
    roi = roi_target_price(plan, entry, progress.held)
    if roi is not None:
        found.append((roi, ExitReason.ROI, 0))
    return found


def _moved(entry: EntryFacts, percent: Decimal) -> Decimal:
    """``percent`` of the entry price beyond it, in the direction that gains."""
    return entry.entry_price * (1 + entry.side.sign * percent / HUNDRED)
