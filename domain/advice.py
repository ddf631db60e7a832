"""What a strategy may have a word in while it trades, beside its signals: an entry that is about to be made, a position that
is held, an exit that is about to be made.

An ``Adviser`` is made for some candles, on which it may compute what it likes; every question names the last of them that had
closed, and the answer may use candles up to that one only. Each has an answer that changes nothing, so a strategy says only
what it cares for. Prices are exact, as everywhere where something is decided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from domain.exit_plan import ExitPlan
from domain.market import ONE, PositionSide


@dataclass(frozen=True, slots=True)
class EntryWish:
    """An entry about to be made at the open of a candle, in quote currency: ``price`` is that open, ``stake`` what the sizing
    puts in, between the ``least`` that the market takes and the ``most`` that is free. ``index`` is the candle of its signal.
    ``is_again`` where it waited at a price of the strategy's and did not fill; ``is_adding`` where it adds to a position."""

    symbol: str
    index: int
    at: datetime
    side: PositionSide
    price: Decimal
    stake: Decimal
    least: Decimal
    most: Decimal
    equity: Decimal
    tag: str = ""
    max_leverage: Decimal = ONE
    is_again: bool = False
    is_adding: bool = False


@dataclass(frozen=True, slots=True)
class EntryWord:
    """How the strategy wants an entry: with another ``stake``, which is what the position is worth; at a ``price`` of its
    own, which then waits for the rest of the candle; with a ``leverage``, up to the market's, and left by a ``plan`` of its
    own."""

    stake: Decimal | None = None
    price: Decimal | None = None
    leverage: Decimal | None = None
    plan: ExitPlan | None = None


@dataclass(frozen=True, slots=True)
class Entered:
    """One order that went into a position, or out of it."""

    at: datetime
    price: Decimal
    quantity: Decimal
    is_entry: bool


@dataclass(frozen=True, slots=True)
class PositionView:
    """A position as its strategy sees it at ``at``: when the candle at ``index`` has closed, at whose close ``price`` is; or
    right after its entry filled, at that price (``is_new``: of an answer its levels alone count).

    ``best_price`` is the best of the candles since the entry, or the entry price; ``stop`` what is in force. ``fee`` is what
    an order costs, as a fraction. ``memory`` is the strategy's, for as long as the position is held.
    """

    symbol: str
    side: PositionSide
    index: int
    at: datetime
    opened_at: datetime
    price: Decimal
    entry_price: Decimal
    quantity: Decimal
    best_price: Decimal
    stop: Decimal | None = None
    leverage: Decimal = ONE
    fee: Decimal = Decimal(0)
    least: Decimal = Decimal(0)
    most: Decimal = Decimal(0)
    tag: str = ""
    orders: Sequence[Entered] = ()
    is_new: bool = False
    memory: dict[str, Any] = field(default_factory=dict)

    @property
    def held(self) -> timedelta:
        return self.at - self.opened_at


@dataclass(frozen=True, slots=True)
class Advice:
    """What the strategy says about a position that is held. ``stop`` moves the stop there, if that is nearer to the price
    than where it was; ``target`` is where to leave, until it says another; ``leave`` names why to leave at the next open, and
    ``add`` is what to put in more there, in quote currency."""

    stop: Decimal | None = None
    target: Decimal | None = None
    leave: str = ""
    add: Decimal | None = None


@dataclass(frozen=True, slots=True)
class ExitWish:
    """An exit about to be made at ``price``: all of ``quantity``, or the part of a take-profit level. ``reason`` is an
    ``ExitReason``, ``tag`` the strategy's own name for it."""

    reason: str
    price: Decimal
    quantity: Decimal
    tag: str = ""


@dataclass(frozen=True, slots=True)
class ExitWord:
    """How the strategy wants an exit that its signal or its advice asked for: at a ``price`` of its own, for as long as the
    candle lasts."""

    price: Decimal | None = None


NOTHING_SAID = Advice()
AS_IT_IS = EntryWord()
AS_DUE = ExitWord()


class Adviser:
    """The strategy's word while it trades; None as an answer is no. ``is_watching``: it wants to be asked at every close for
    which a position is held."""

    is_watching = True

    def on_entry(self, wish: EntryWish) -> EntryWord | None:
        """How to make an entry, or None for not at all: then it is not asked about this signal again."""
        return AS_IT_IS

    def while_held(self, position: PositionView) -> Advice:
        """What to do about a position."""
        return NOTHING_SAID

    def on_exit(self, position: PositionView, wish: ExitWish) -> ExitWord | None:
        """How to make an exit, or None for not now: then what is due is asked about again with the next candle. Not asked
        where the venue liquidates or trading ends."""
        return AS_DUE
