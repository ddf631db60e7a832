"""Orders and their fills. An order's row, with its client order id, is committed before anything is sent; a fill is
counted once per account, market, trade id and side, whoever reports it how often."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from typing import ClassVar

from django.db import models
from django.db.models import F, Q

from domain.market import MarginMode, OrderType, PositionSide, Side, Trigger
from domain.orders import AT_VENUE_STATUSES, LIVE_STATUSES, ORDER_TRANSITIONS, Execution, OrderStatus, execution_of
from exchanges.models import Account, Market
from pipeline.claims import Guarded, GuardedQuerySet
from pipeline.fields import ExactField

# How our orders are told from others at the venue, and within what KuCoin accepts (40 letters, digits, - and _).
CLIENT_ORDER_ID_PREFIX = "r3-"
# Never sent to a venue: how the rows of orders that are not ours are named.
FOREIGN_ORDER_ID_PREFIX = "x-"


def _choices(kind: type[StrEnum]) -> list[tuple[str, str]]:
    return [(member.value, member.value) for member in kind]


def client_order_id_new() -> str:
    """A fresh id of ours, unguessable and unique for ever."""
    return CLIENT_ORDER_ID_PREFIX + uuid.uuid4().hex


def foreign_order_id(account_id: int, symbol: str, exchange_order_id: str) -> str:
    """What we call somebody else's order: the same name whoever finds it, so it gets one row."""
    found_at = f"{account_id}:{symbol}:{exchange_order_id}"
    return FOREIGN_ORDER_ID_PREFIX + hashlib.sha256(found_at.encode()).hexdigest()[:32]


# A stop order at the venue whose price was not met yet, for all that was seen of it.
WAITS_FOR_PRICE = Q(status=OrderStatus.OPENED, stop_price__isnull=False, exchange_order_id=F("stop_order_id"))


class Order(Guarded):
    """One attempt to trade. ``intent_id`` names whose wish it carries out (positions know); of one intent at most one
    attempt is alive, which is a fact of the database. Without ``quantity`` until it is valued."""

    transitions: ClassVar[Mapping[str, frozenset[str]]] = ORDER_TRANSITIONS

    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="orders")
    market = models.ForeignKey(Market, on_delete=models.PROTECT, related_name="orders")
    intent_id = models.UUIDField()
    client_order_id = models.CharField(max_length=40, unique=True, default=client_order_id_new)
    exchange_order_id = models.CharField(max_length=64, blank=True)
    stop_order_id = models.CharField(
        max_length=64, blank=True, help_text="What the venue called it while it waited for its stop price."
    )
    side = models.CharField(max_length=4, choices=_choices(Side))
    position_side = models.CharField(max_length=5, choices=_choices(PositionSide), default=PositionSide.LONG)
    order_type = models.CharField(max_length=6, choices=_choices(OrderType), default=OrderType.MARKET)
    is_exit = models.BooleanField(default=False)
    is_foreign = models.BooleanField(default=False, help_text="Somebody else's, found at the venue; only recorded.")
    leverage = ExactField(default=1)
    margin_mode = models.CharField(max_length=8, choices=_choices(MarginMode), default=MarginMode.ISOLATED)
    is_reduce_only = models.BooleanField(default=False, help_text="The venue lets it close what is held, and no more.")
    quantity = ExactField(null=True)
    price = ExactField(null=True, help_text="Limit price.")
    stop_price = ExactField(null=True, help_text="It rests until the market comes here.")
    trigger = models.CharField(
        max_length=7, choices=_choices(Trigger), blank=True, help_text="From which side, for one with a stop price."
    )
    reserved = ExactField(default=0, help_text="Quote currency held back for it until the venue's balance shows it.")
    filled = ExactField(default=0)
    filled_quote = ExactField(default=0)
    status = models.CharField(max_length=10, choices=_choices(OrderStatus), default=OrderStatus.REQUESTED)
    reason = models.CharField(max_length=40, blank=True, help_text="Code: why denied or rejected, or which exit.")
    detail = models.CharField(max_length=200, blank=True)
    is_cancel_wanted = models.BooleanField(default=False)
    # How often an UNKNOWN order was looked up and not found, and when any look is next due.
    lookups = models.PositiveIntegerField(default=0)
    # How often in succession it could not be looked at: what its pause grows by.
    failures = models.PositiveIntegerField(default=0)
    not_before_at = models.DateTimeField(null=True)
    leased_until = models.DateTimeField(null=True, help_text="Somebody looks at it; nobody else does before this.")
    deadline_at = models.DateTimeField(
        null=True, help_text="After this the venue refuses a request that is still on its way."
    )
    requested_at = models.DateTimeField(auto_now_add=True)
    valued_at = models.DateTimeField(null=True)
    sent_at = models.DateTimeField(null=True)
    opened_at = models.DateTimeField(null=True)
    closed_at = models.DateTimeField(null=True)

    objects = GuardedQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["intent_id"],
                condition=Q(status__in=[str(s) for s in LIVE_STATUSES]),
                name="order_one_live_per_intent",
            ),
        ]
        indexes = [
            models.Index(fields=["intent_id"], name="order_by_intent"),
            # "what still waits": every sweep, over the few rows that are not finished
            models.Index(
                fields=["status", "not_before_at"],
                condition=Q(status__in=[str(s) for s in LIVE_STATUSES]),
                name="order_waiting",
            ),
            # "what of this account may be at the venue": reservations, recovery
            models.Index(
                fields=["account"],
                condition=Q(status__in=[str(s) for s in LIVE_STATUSES]),
                name="order_live_by_account",
            ),
            models.Index(fields=["account", "-requested_at"], name="order_by_account"),
            # "whose order is this that the venue shows": reading an account's lists
            models.Index(fields=["account", "exchange_order_id"], name="order_by_exchange_id"),
            # "what does somebody else trade on this account": reconciliation
            models.Index(fields=["account"], condition=Q(is_foreign=True), name="order_foreign_by_account"),
        ]

    def __str__(self) -> str:
        return self.client_order_id

    @property
    def execution(self) -> Execution:
        """How far it got, from quantities."""
        return execution_of(self.quantity, self.filled)

    @property
    def average_price(self) -> Decimal | None:
        """What was paid or received per unit, from the fills' sums."""
        return self.filled_quote / self.filled if self.filled else None

    @property
    def waits_for_price(self) -> bool:
        """Whether it is, for all that was seen of it, a stop order whose price was not met yet."""
        return self.stop_price is not None and self.exchange_order_id == self.stop_order_id

    @property
    def may_be_at_venue(self) -> bool:
        return self.status in AT_VENUE_STATUSES


class Fill(models.Model):
    """One execution, as the venue reported it."""

    order = models.ForeignKey(Order, on_delete=models.PROTECT, related_name="fills")
    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="fills")
    market = models.ForeignKey(Market, on_delete=models.PROTECT, related_name="fills")
    trade_id = models.CharField(max_length=64)
    side = models.CharField(max_length=4, choices=_choices(Side))
    quantity = ExactField()
    price = ExactField()
    fee = ExactField(default=0)
    fee_currency = models.CharField(max_length=20, blank=True)
    filled_at = models.DateTimeField(help_text="By the venue's clock.")
    recorded_at = models.DateTimeField(auto_now_add=True)
    is_correction = models.BooleanField(
        default=False, help_text="Made by a trader's decision to fit a position to the venue; no money moved."
    )
    is_late = models.BooleanField(default=False, help_text="Recorded after its order had ended.")

    class Meta:
        constraints = [
            # Trade ids are unique per symbol only, and who trades with himself has a fill on each side of one trade. Not
            # by order: whatever rows of one order there are, what it did is counted once.
            models.UniqueConstraint(fields=["account", "market", "trade_id", "side"], name="fill_counted_once")
        ]
        indexes = [
            # "what has been traded since the balance was read": equity
            models.Index(fields=["account", "recorded_at"], name="fill_by_account"),
            # "which fills were missing": reconciliation
            models.Index(fields=["account"], condition=Q(is_late=True), name="fill_late_by_account"),
        ]

    def __str__(self) -> str:
        return f"{self.side} {self.quantity} at {self.price}"


class Funding(models.Model):
    """What a futures position paid (negative) or received at one funding time, as the venue reported it."""

    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="fundings")
    market = models.ForeignKey(Market, on_delete=models.PROTECT, related_name="fundings")
    funding_id = models.CharField(max_length=64)
    amount = ExactField()
    currency = models.CharField(max_length=20)
    paid_at = models.DateTimeField(help_text="By the venue's clock.")
    recorded_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name_plural = "funding"
        constraints = [models.UniqueConstraint(fields=["account", "market", "funding_id"], name="funding_counted_once")]
        indexes = [models.Index(fields=["account", "market", "paid_at"], name="funding_by_market")]

    def __str__(self) -> str:
        return f"{self.amount} {self.currency} at {self.paid_at:%Y-%m-%d %H:%M}"


class FillCursor(models.Model):
    """Up to when an account's fills on one market are all recorded, by the venue's clock. It moves only after they are."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="fill_cursors")
    market = models.ForeignKey(Market, on_delete=models.CASCADE, related_name="fill_cursors")
    begun_at = models.DateTimeField(help_text="What others did before this is not ours to tell of.")
    read_until = models.DateTimeField()
    # On a market of contracts: the same of its funding payments, and when they are read next, by our clock.
    fundings_read_until = models.DateTimeField(null=True)
    fundings_due_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["account", "market"], name="fill_cursor_once_per_market")]

    def __str__(self) -> str:
        return f"{self.market_id} of account {self.account_id} until {self.read_until:%H:%M:%S}"
