"""What to do about a session, decided from everything known about it at once: the position tracker's one question.

Whatever woke the tracker (a signal, an order's news, a price, a tick), it asks this function, so being woken twice or out
of turn changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from domain.exits import NO_LEVELS, ExitLevels, ExitReason, exit_due
from domain.market import ZERO, PositionSide
from domain.strategy import SignalKind


class Action(StrEnum):
    NOTHING = "NOTHING"
    ENTER = "ENTER"
    EXIT = "EXIT"
    CANCEL_ENTRY = "CANCEL_ENTRY"
    ABANDON = "ABANDON"
    FINISH = "FINISH"


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session's facts. ``side`` is of its live position (None: flat), ``quantity`` what that holds now, ``price`` the
    market's last, ``signal`` the newest one not acted on yet (an entry only while it is fresh). ``exit_begun`` is the reason
    of an exit that was decided earlier: once begun it is carried through, whatever its order came to."""

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


@dataclass(frozen=True, slots=True)
class Decision:
    action: Action
    exit_reason: ExitReason | None = None
    side: PositionSide | None = None


NOTHING = Decision(Action.NOTHING)

_ENTRY_SIDES = {SignalKind.ENTER_LONG: PositionSide.LONG, SignalKind.ENTER_SHORT: PositionSide.SHORT}


def decide(view: SessionView) -> Decision:
    """The one thing to do now. An entry that is still working is cancelled before its position is left, so that no fill
    can come after the exit; an exit that is working is waited for."""
    if view.side is None:
        return _when_flat(view)
    reason = _exit_reason(view)
    if reason is not None and view.has_live_entry:
        return Decision(Action.CANCEL_ENTRY)
    if view.has_live_exit or view.has_live_entry:
        return NOTHING
    if view.quantity <= 0:
        return Decision(Action.ABANDON)
    return NOTHING if reason is None else Decision(Action.EXIT, exit_reason=reason)


def _when_flat(view: SessionView) -> Decision:
    if view.is_stopping:
        return Decision(Action.FINISH)
    side = _ENTRY_SIDES.get(view.signal) if view.signal is not None else None
    if side is None or not view.takes_entries:
        return NOTHING
    return Decision(Action.ENTER, side=side)


def _exit_reason(view: SessionView) -> ExitReason | None:
    if view.side is None or view.exit_begun is not None:
        return view.exit_begun
    if view.is_stopping:
        return ExitReason.SESSION_STOP
    if view.is_exit_wanted:
        return ExitReason.MARKET_EXIT
    if view.quantity <= 0:
        return None  # nothing is held yet that levels or signals could speak of
    return exit_due(view.side, view.levels, view.price, view.signal)
