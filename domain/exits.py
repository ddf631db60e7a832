"""When a position ends: levels fixed at entry, and the one function that says whether an exit is due and why."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from domain.market import PositionSide
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
class ExitLevels:
    """Prices at which a position is left; None where there is no such exit."""

    stop: Decimal | None
    target: Decimal | None


NO_LEVELS = ExitLevels(None, None)


def levels_at_entry(
    entry_price: Decimal, side: PositionSide, stop_loss_percent: Decimal | None, take_profit_percent: Decimal | None
) -> ExitLevels:
    """The stop and target that the percentages mean for a position entered at ``entry_price``."""

    def moved(percent: Decimal | None, direction: int) -> Decimal | None:
        return None if percent is None else entry_price * (1 + direction * side.sign * percent / HUNDRED)

    return ExitLevels(stop=moved(stop_loss_percent, -1), target=moved(take_profit_percent, 1))


def exit_due(
    side: PositionSide, levels: ExitLevels, price: Decimal | None, signal: SignalKind | None
) -> ExitReason | None:
    """Why the position should be left now, or None. The stop outranks the target, and both outrank the signal."""
    if price is not None:
        if levels.stop is not None and (price - levels.stop) * side.sign <= 0:
            return ExitReason.STOP_LOSS
        if levels.target is not None and (price - levels.target) * side.sign >= 0:
            return ExitReason.TAKE_PROFIT
    wanted = SignalKind.EXIT_LONG if side is PositionSide.LONG else SignalKind.EXIT_SHORT
    return ExitReason.EXIT_SIGNAL if signal is wanted else None
