"""A position is the fold of its fills: this function and nothing else says what is held, at what price, with what result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    quote currency; ``realized_pnl`` is net of the fees of what was closed and of its share of the entry fees, and holds all
    of ``funding``, which was paid (negative) or received."""

    quantity: Decimal = ZERO
    entered: Decimal = ZERO
    exited: Decimal = ZERO
    entry_price: Decimal = ZERO
    exit_price: Decimal = ZERO
    fees: Decimal = ZERO
    realized_pnl: Decimal = ZERO
    funding: Decimal = ZERO
    opened_at: datetime | None = None
    closed_at: datetime | None = None

    @property
    def is_closed(self) -> bool:
        return self.entered > 0 and self.quantity <= 0


def fold(
    fills: Iterable[FillFact], side: PositionSide, contract_size: Decimal = Decimal(1), funding: Decimal = ZERO
) -> PositionState:
    """Add up ``fills`` of one position, and its share of ``funding`` in quote currency. The order of the fills does not
    matter to any figure.

    Every figure is a ratio or a difference of sums, so replaying, splitting or shuffling the fills gives the same state.
    """
    facts = sorted(fills, key=lambda fill: (fill.filled_at is not None, fill.filled_at))
    entries = [fill for fill in facts if fill.side is side.entry_side]
    exits = [fill for fill in facts if fill.side is not side.entry_side]
    entered, entry_value = _totals(entries)
    exited, exit_value = _totals(exits)
    entry_price = entry_value / entered if entered else ZERO
    exit_price = exit_value / exited if exited else ZERO
    # What a venue keeps in base currency is missing from a long position, and still owed by a short one.
    quantity = entered - exited - side.sign * sum((fill.fee_base for fill in facts), ZERO)
    entry_fees = sum((fill.fee_quote for fill in entries), ZERO)
    exit_fees = sum((fill.fee_quote for fill in exits), ZERO)
    realized = ZERO
    if entered and exited:
        gross = (exit_value - entry_price * exited) * contract_size * side.sign
        realized = gross - exit_fees - entry_fees * min(exited / entered, Decimal(1))
    closed = bool(entered) and quantity <= 0
    if closed:
        # Nothing is left to carry a share of the entry fees, also when base fees made the exit smaller than the entry.
        # From the sums, not the averages: the result is the cash that went in and out, to the last digit.
        realized = (exit_value - entry_value) * contract_size * side.sign - exit_fees - entry_fees
    return PositionState(
        quantity=quantity,
        entered=entered,
        exited=exited,
        entry_price=entry_price,
        exit_price=exit_price,
        fees=entry_fees + exit_fees,
        realized_pnl=realized + funding,
        funding=funding,
        opened_at=entries[0].filled_at if entries else None,
        closed_at=exits[-1].filled_at if closed and exits else None,
    )


def unrealized_pnl(
    state: PositionState, price: Decimal, side: PositionSide, contract_size: Decimal = Decimal(1)
) -> Decimal:
    """What closing at ``price`` would add before its fee, in quote currency."""
    return (price - state.entry_price) * state.quantity * contract_size * side.sign


def _totals(fills: list[FillFact]) -> tuple[Decimal, Decimal]:
    """Quantity, and quantity times price, of all fills together."""
    return sum((fill.quantity for fill in fills), ZERO), sum((fill.quantity * fill.price for fill in fills), ZERO)


@dataclass(frozen=True, slots=True)
class Holding:
    """The fills of one of several positions of an account on one market."""

    fills: tuple[FillFact, ...]

    def held_at(self, at: datetime) -> Decimal:
        """What it held at ``at``, in contracts; negative for a short."""
        then = [fill for fill in self.fills if fill.filled_at is not None and fill.filled_at <= at]
        return sum((fill.quantity * fill.side.sign for fill in then), ZERO)


def funding_share(amount: Decimal, paid_at: datetime, of: Holding, among: Sequence[Holding]) -> Decimal:
    """What ``of`` bears of a funding payment that the venue made on everything the account held of the market then.

    ``among`` are all that were open then. By signed quantity: long and short pay each other, and the venue settles the
    difference. Where our books say that nothing was held then, as when a fill's time is a little off, they bear equal parts.
    """
    if list(among) == [of]:
        return amount
    total = sum((one.held_at(paid_at) for one in among), ZERO)
    return amount * of.held_at(paid_at) / total if total else amount / len(among)
