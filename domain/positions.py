"""A position is the fold of its fills: this function and nothing else says what is held, at what price, with what result."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from domain.market import ZERO, PositionSide, Side


@dataclass(frozen=True, slots=True)
class FillFact:
    """One execution as the fold sees it. ``fee_quote`` is in quote currency; ``fee_base`` is what a venue that charges in
    base currency took out of the quantity."""

    side: Side
    quantity: Decimal
    price: Decimal
    fee_quote: Decimal = ZERO
    fee_base: Decimal = ZERO
    filled_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class PositionState:
    """What the fills add up to. ``quantity`` is held now, ``entry_price`` the average paid for all entries, amounts in
    quote currency; ``realized_pnl`` is net of the fees of what was closed and of its share of the entry fees."""

    quantity: Decimal = ZERO
    entered: Decimal = ZERO
    exited: Decimal = ZERO
    entry_price: Decimal = ZERO
    exit_price: Decimal = ZERO
    fees: Decimal = ZERO
    realized_pnl: Decimal = ZERO
    opened_at: datetime | None = None
    closed_at: datetime | None = None

    @property
    def is_closed(self) -> bool:
        return self.entered > 0 and self.quantity <= 0


def fold(fills: Iterable[FillFact], side: PositionSide, contract_size: Decimal = Decimal(1)) -> PositionState:
    """Add up ``fills`` of one position. The order of the fills does not matter to any figure.

    Every figure is a ratio or a difference of sums, so replaying, splitting or shuffling the fills gives the same state.
    """
    facts = sorted(fills, key=lambda fill: (fill.filled_at is not None, fill.filled_at))
    entries = [fill for fill in facts if fill.side is side.entry_side]
    exits = [fill for fill in facts if fill.side is not side.entry_side]
    entered, entry_price = _average(entries)
    exited, exit_price = _average(exits)
    base_fees = sum((fill.fee_base for fill in facts), ZERO)
    quantity = entered - exited - base_fees
    entry_fees = sum((fill.fee_quote for fill in entries), ZERO)
    exit_fees = sum((fill.fee_quote for fill in exits), ZERO)
    realized = ZERO
    if entered and exited:
        gross = (exit_price - entry_price) * exited * contract_size * side.sign
        realized = gross - exit_fees - entry_fees * min(exited / entered, Decimal(1))
    closed = bool(entered) and quantity <= 0
    if closed:
        # Nothing is left to carry a share of the entry fees, also when base fees made the exit smaller than the entry.
        realized = (exit_price * exited - entry_price * entered) * contract_size * side.sign - exit_fees - entry_fees
    return PositionState(
        quantity=quantity,
        entered=entered,
        exited=exited,
        entry_price=entry_price,
        exit_price=exit_price,
        fees=entry_fees + exit_fees,
        realized_pnl=realized,
        opened_at=entries[0].filled_at if entries else None,
        closed_at=exits[-1].filled_at if closed and exits else None,
    )


def unrealized_pnl(
    state: PositionState, price: Decimal, side: PositionSide, contract_size: Decimal = Decimal(1)
) -> Decimal:
    """What closing at ``price`` would add before its fee, in quote currency."""
    return (price - state.entry_price) * state.quantity * contract_size * side.sign


def _average(fills: list[FillFact]) -> tuple[Decimal, Decimal]:
    quantity = sum((fill.quantity for fill in fills), ZERO)
    if not quantity:
        return ZERO, ZERO
    return quantity, sum((fill.quantity * fill.price for fill in fills), ZERO) / quantity
