"""One look at a session: the facts that it sees, read once under the session's lock, and the wishes that it leaves."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from domain.candles import Extremes
from domain.exit_plan import ExitPlan
from domain.exits import NO_LEVELS, ExitLevels
from domain.market import PositionSide
from domain.orders import LIVE_STATUSES, OrderStatus
from exchanges.models import Market, Quote
from orders.models import Fill, Order
from pipeline.topics import Note, Topic
from positions.funding import Funded
from positions.models import Intent, Position
from sessions.models import TradingSession
from strategies.models import Signal

Purpose = Intent.Purpose

# An order that was to rest, and of which the venue shows nothing so long after it was sent, is not waited for when all is to
# be sold: to know for certain takes minutes in which nothing would protect what is held. Its cancellation stays asked for,
# and should it come to the venue after all it finds nothing left to sell.
RESTING_IS_LOST_AFTER = timedelta(seconds=10)

# What waits at the venue beside the exits that we track.
RESTING = (Purpose.REST_STOP, Purpose.REST_TARGET)


@dataclass(slots=True)
class Facts:
    """Everything known about one session at this look. ``plan``, ``levels`` and ``is_time_up`` are of its position, once it
    holds something; ``extremes`` are of the candles that closed since it was last followed."""

    session: TradingSession
    position: Position | None = None
    intents: dict[UUID, Intent] = field(default_factory=dict)
    orders: list[Order] = field(default_factory=list)
    fills: list[Fill] = field(default_factory=list)
    funding: Funded | None = None
    extremes: Extremes | None = None
    quote: Quote | None = None
    signal: Signal | None = None
    plan: ExitPlan = field(default_factory=ExitPlan)
    levels: ExitLevels = NO_LEVELS
    is_time_up: bool = False
    # By session, the sides of the account's other positions on a market of contracts: the venue holds the sum of them all.
    beside: dict[int, PositionSide] = field(default_factory=dict)

    @property
    def market(self) -> Market:
        return self.session.config.feed.market

    @property
    def owner_id(self) -> int:
        return self.session.account.owner_id

    @property
    def price(self) -> Decimal | None:
        """The last price, if it was read after the position's fills were: an older one says nothing about them."""
        folded_at = self.position.folded_at if self.position is not None else None
        if self.quote is None or (folded_at is not None and self.quote.quoted_at <= folded_at):
            return None
        last: Decimal = self.quote.last
        return last

    def venue_time(self, now: datetime) -> datetime:
        return self.session.account.exchange.time_at(now)

    def orders_of(self, *purposes: str) -> list[Order]:
        """The position's orders of these purposes, in the order in which they were made."""
        return [order for order in self.orders if self.intents[order.intent_id].purpose in purposes]

    def orders_at(self, purpose: str, step: int) -> list[Order]:
        """Every attempt at one step of a purpose, in the order in which they were made."""
        return [order for order in self.orders_of(purpose) if self.intents[order.intent_id].step == step]

    def intent_at(self, purpose: str, step: int) -> Intent | None:
        found = (one for one in self.intents.values() if (one.purpose, one.step) == (purpose, step))
        return next(found, None)

    def parts(self) -> list[Order]:
        """Every attempt at a part of the position: for whatever take-profit level, or sold by hand."""
        levels = [order for order in self.orders_of(Purpose.EXIT) if self.intents[order.intent_id].step]
        return [*levels, *self.orders_of(Purpose.BY_HAND)]

    def part_steps(self) -> set[int]:
        """The take-profit levels whose part was ever asked for."""
        return {one.step for one in self.intents.values() if one.purpose == Purpose.EXIT and one.step}

    def resting(self) -> list[Order]:
        """Every attempt to have an exit rest at the venue, in the order in which they were made."""
        return self.orders_of(*RESTING)

    def live_beside_the_exit(self, now: datetime) -> list[Order]:
        """What must have ended before all that is left can be sold: any order at work that is no entry, and not that exit
        itself, nor one that was to rest at the venue and got lost on its way there."""
        others = [order for order in self.orders if not self._is_entry_or_whole_exit(order)]
        # Beside others it would find theirs to sell: there it is waited for until its end is certain.
        lost = {order.pk for order in self.resting() if _is_lost(order, now) and not self.beside}
        return [order for order in others if is_live(order) and order.pk not in lost]

    def note(self, **data: object) -> Note:
        ids = {"session_id": self.session.pk, "account_id": self.session.account_id, "owner_id": self.owner_id}
        if self.position is not None:
            ids["position_id"] = self.position.pk
        return Note(key=self.session.pk, ids=ids, data=data)

    def _is_entry_or_whole_exit(self, order: Order) -> bool:
        intent = self.intents[order.intent_id]
        return intent.purpose == Purpose.ENTRY or (intent.purpose == Purpose.EXIT and intent.step == 0)


@dataclass(slots=True)
class Wishes:
    """What a batch of looks decided to trade, written and published together."""

    positions: list[Position] = field(default_factory=list)
    intents: list[Intent] = field(default_factory=list)
    orders: list[Order] = field(default_factory=list)
    seen_signals: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    notes: dict[Topic, list[Note]] = field(default_factory=lambda: defaultdict(list))


def is_live(order: Order) -> bool:
    return order.status in LIVE_STATUSES


def _is_lost(order: Order, now: datetime) -> bool:
    unknown = order.status in (OrderStatus.SUBMITTING, OrderStatus.UNKNOWN)
    is_late = order.sent_at is not None and order.sent_at < now - RESTING_IS_LOST_AFTER
    return unknown and order.is_cancel_wanted and is_late
