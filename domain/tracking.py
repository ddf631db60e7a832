"""What to do about a session, decided from everything known about it at once: the position tracker's one question.

Whatever woke the tracker (a signal, an order's news, a price, a tick), it asks this function, so being woken twice or out
of turn changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from domain.exits import NO_LEVELS, ExitDue, ExitLevels, ExitReason, exit_due
from domain.market import ZERO, PositionSide
from domain.strategy import SignalKind


class Action(StrEnum):
    NOTHING = "NOTHING"
    ENTER = "ENTER"
    ADD = "ADD"
    EXIT = "EXIT"
    CANCEL_ENTRY = "CANCEL_ENTRY"
    ABANDON = "ABANDON"
    NOT_TRADABLE = "NOT_TRADABLE"
    FINISH = "FINISH"


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session's facts. ``side`` is of its live position (None: flat), ``quantity`` what that holds now, ``price`` the
    market's last, ``signal`` the newest one not acted on yet (one to enter by only while it is fresh).

    ``exit_begun`` is the reason of an exit of everything that was decided earlier, ``part_begun`` the take-profit level whose
    part was: once begun either is carried through, whatever its order came to. ``has_live_exit`` speaks of the exit of
    everything, ``has_live_part`` of a part. ``entries_left`` is how many entries may still add to the position."""

    takes_entries: bool
    is_stopping: bool
    side: PositionSide | None = None
    quantity: Decimal = ZERO
    levels: ExitLevels = NO_LEVELS
    has_live_entry: bool = False
    has_live_exit: bool = False
    price: Decimal | None = None
    signal: SignalKind | None = None
    is_exit_wanted: bool = False
    exit_begun: ExitReason | None = None
    has_live_part: bool = False
    part_begun: int = 0
    is_time_up: bool = False
    is_exit_signal_used: bool = True
    entries_left: int = 0
    can_short: bool = True
    is_entry_overdue: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """``step`` is the take-profit level whose part is to be left; 0: all there is."""

    action: Action
    exit_reason: ExitReason | None = None
    side: PositionSide | None = None
    step: int = 0


NOTHING = Decision(Action.NOTHING)

_ENTRY_SIDES = {SignalKind.ENTER_LONG: PositionSide.LONG, SignalKind.ENTER_SHORT: PositionSide.SHORT}


def decide(view: SessionView) -> Decision:
    """The one thing to do now. An entry that is still working is cancelled before its position is left, so that no fill
    can come after the exit; an exit that is working is waited for. An exit of everything is decided beside a part at work:
    who carries it out has the part cancelled and waits for its end; and beside an entry that should have ended: what is held
    must not wait for a venue to tell, and what comes of the entry after all is left by the same exit, which has begun."""
    if view.side is None:
        return _when_flat(view)
    due = _due(view)
    waits_for_entry = view.has_live_entry
    if due is not None and due.step == 0 and view.quantity > 0 and view.is_entry_overdue:
        waits_for_entry = False
    if due is not None and waits_for_entry:
        return Decision(Action.CANCEL_ENTRY)
    if view.has_live_exit or waits_for_entry:
        return NOTHING
    if view.quantity <= 0:
        return NOTHING if view.has_live_part else Decision(Action.ABANDON)
    if due is not None:
        is_in_the_way = view.has_live_part and due.step > 0
        return NOTHING if is_in_the_way else Decision(Action.EXIT, exit_reason=due.reason, step=due.step)
    if view.has_live_part or view.entries_left <= 0 or not view.takes_entries:
        return NOTHING
    return Decision(Action.ADD, side=view.side) if entry_side(view.signal) is view.side else NOTHING


def entry_side(signal: SignalKind | None) -> PositionSide | None:
    """The side that a signal wants to enter; None for one that does not."""
    return _ENTRY_SIDES.get(signal) if signal is not None else None


def _when_flat(view: SessionView) -> Decision:
    if view.is_stopping:
        return Decision(Action.FINISH)
    side = entry_side(view.signal)
    if side is None or not view.takes_entries:
        return NOTHING
    if side is PositionSide.SHORT and not view.can_short:
        return Decision(Action.NOT_TRADABLE)
    return Decision(Action.ENTER, side=side)


def _due(view: SessionView) -> ExitDue | None:
    if view.side is None:
        return None
    if view.exit_begun is not None:
        return ExitDue(view.exit_begun)
    if view.is_stopping:
        return ExitDue(ExitReason.SESSION_STOP)
    if view.is_exit_wanted:
        return ExitDue(ExitReason.MARKET_EXIT)
    if view.quantity <= 0:
        return None  # nothing is held yet that levels or signals could speak of
    due = exit_due(
        view.side, view.levels, view.price, view.signal,
        is_time_up=view.is_time_up, is_signal_used=view.is_exit_signal_used,
    )  # fmt: skip
    if due is None and view.part_begun:
        return ExitDue(ExitReason.TAKE_PROFIT, view.part_begun)
    return due
