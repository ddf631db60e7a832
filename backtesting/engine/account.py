"""The account of a backtest: what it is worth, what is free of it, and its curve along all candles.

Exact where something is decided, floats along the curve. Whatever is held costs a margin, of which leverage asks a part, and
is worth what it has won or lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np

from domain.candles import FloatArray, IntArray
from domain.exit_plan import ExitPlan
from domain.exits import EntryFacts, ExitReason
from domain.limits import Past
from domain.market import ONE, ZERO, MarketRules, PositionSide, Side
from domain.matching import fee_of
from domain.positions import FillFact, PositionState, fold, unrealized_pnl

DAY_MS = 86_400_000
MINUTE_MS = 60_000


@dataclass(slots=True)
class Leaving:
    """An exit that was begun and is not done: what is left of it. ``step`` as in ``ExitDue``."""

    reason: ExitReason
    step: int
    quantity: Decimal


@dataclass(slots=True, eq=False)
class Held:
    """A position: its fills and what they add up to, and how it has gone."""

    side: PositionSide
    rules: MarketRules
    opened_ms: int
    facts: EntryFacts
    tag: str = ""
    # Candles up to this one are not followed: they closed before, or saw the entry.
    entered_in: int = 0
    leverage: Decimal = ONE
    # Its own, where its strategy named one.
    plan: ExitPlan | None = None
    entries: int = 1
    best: Decimal | None = None
    targets_done: int = 0
    leaving: Leaving | None = None
    fills: list[FillFact] = field(default_factory=list)
    funding: Decimal = ZERO
    state: PositionState = field(default_factory=PositionState)
    stop: Decimal | None = None
    funded_ms: int = 0
    # What the strategy's adviser said: levels, why to leave at the next open, what to add there.
    advised_stop: Decimal | None = None
    advised_target: Decimal | None = None
    leave_tag: str = ""
    adding: Decimal | None = None
    # The candle for which it refused an exit, and that in which one waits at a price of its own.
    kept_in: int = -1
    offered_in: int = -1
    offer: Decimal | None = None
    exit_tag: str = ""
    memory: dict[str, Any] = field(default_factory=dict)
    # The candle of the entry, that within it in which it filled, and whether that was after its open.
    entry_index: int = -1
    entry_bar: int = 0
    is_entered_within: bool = False

    def __post_init__(self) -> None:
        self.funded_ms = self.opened_ms

    def fill(self, side: Side, quantity: Decimal, price: Decimal, rate: Decimal, at: datetime) -> Decimal:
        """Add one fill; what it changes in the wallet."""
        before = self.booked
        fee = fee_of(self.rules.notional(quantity, price), rate)
        self.fills.append(FillFact(side, quantity, price, fee_quote=fee, filled_at=at))
        self.state = fold(self.fills, self.side, self.rules.contract_size, self.funding)
        return self.booked - before

    @property
    def booked(self) -> Decimal:
        """What is in the wallet of it, funding apart: with ``worth`` all that it has won or lost. An entry after a part was
        sold changes the average that the part is measured by, too, and so what was booked of it."""
        state = self.state
        if state.is_closed:
            return state.realized_pnl - self.funding
        return self.rules.notional(state.exited, state.exit_price - state.entry_price) * self.side.sign - state.fees

    def worth(self, price: Decimal) -> Decimal:
        """What it has won or lost at ``price`` and not taken yet."""
        return unrealized_pnl(self.state, price, self.side, self.rules.contract_size)


@dataclass(slots=True, eq=False)
class Line:
    """One market along the clock: the last close at each step, and what is held of it now."""

    closes: FloatArray
    held: Held | None = None


class Account:
    """Cash, what is held, and the curve. ``clock`` are the open times of all candles of all markets."""

    def __init__(self, cash: Decimal, clock: IntArray, lines: Sequence[Line]) -> None:
        self.wallet = cash
        self.curve = np.empty(len(clock))
        self._cash, self._clock, self._lines = cash, clock, lines
        self._drawn, self._peak = 0, float(cash)
        self._entered_ms: list[int] = []
        # Newest first, as limits ask for them.
        self.closed: list[tuple[Decimal, datetime]] = []

    def draw(self, step: int) -> None:
        """Draw the curve up to before ``step``: nothing has changed since it was drawn last."""
        if step <= self._drawn:
            return
        part = self.curve[self._drawn : step]
        part[:] = float(self.wallet)
        for line in self._lines:
            if line.held is not None:
                size = float(line.held.state.quantity * line.held.rules.contract_size) * line.held.side.sign
                part += (line.closes[self._drawn : step] - float(line.held.state.entry_price)) * size
        self._peak = max(self._peak, float(part.max()))
        self._drawn = step

    @property
    def free(self) -> Decimal:
        """What is not bound as margin."""
        held = (line.held for line in self._lines if line.held is not None)
        bound = (one.rules.notional(one.state.quantity, one.state.entry_price) / one.leverage for one in held)
        return self.wallet - sum(bound, ZERO)

    def entered(self, ms: int) -> None:
        self._entered_ms.append(ms)

    def past(self, ms: int, of_session: Sequence[tuple[Decimal, datetime]]) -> Past:
        """What the account has been through by ``ms``, as far as the curve is drawn."""
        begun = int(np.searchsorted(self._clock, ms - ms % DAY_MS))
        day_start = self.curve[begun - 1] if 0 < begun <= self._drawn else float(self._cash)
        return Past(
            day_start_equity=Decimal(str(day_start)),
            peak_equity=Decimal(str(self._peak)),
            entries_last_minute=sum(1 for one in reversed(self._entered_ms[-100:]) if one > ms - MINUTE_MS),
            closed_by_session=of_session,
            closed_by_account=self.closed,
        )


def since(opened_ms: int, ms: int) -> timedelta:
    return timedelta(milliseconds=ms - opened_ms)
