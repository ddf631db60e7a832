"""Positions, and the intents that tie a session's wishes to orders, which know no sessions."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models import Q

from domain.exits import ExitLevels, ExitReason
from domain.market import PositionSide
from domain.positions import PositionState
from exchanges.models import Account, Market
from pipeline.fields import ExactField
from sessions.models import TradingSession
from strategies.models import Signal


class PositionStatus(models.TextChoices):
    PENDING = "PENDING"  # an entry has been asked for; nothing is held yet
    OPEN = "OPEN"
    CLOSED = "CLOSED"
    ABANDONED = "ABANDONED"  # the entry came to nothing


LIVE_POSITIONS = (PositionStatus.PENDING, PositionStatus.OPEN)

# What the fold writes. The rest belongs to others (valuation, the trader's wish to leave) who may write at the same time.
FOLDED_FIELDS = (
    "status", "quantity", "entered", "exited", "entry_price", "exit_price", "fees", "realized_pnl", "opened_at", "closed_at",
    "folded_at", "stop_price", "target_price",
)  # fmt: skip


def _open_on(side: PositionSide) -> Q:
    return Q(status=PositionStatus.OPEN, side=side)


class Position(models.Model):
    """One round trip of a session: the fold of its fills, its levels, and what it is worth at the last price."""

    session = models.ForeignKey(TradingSession, on_delete=models.PROTECT, related_name="positions")
    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="positions")
    market = models.ForeignKey(Market, on_delete=models.PROTECT, related_name="positions")
    entry_signal = models.ForeignKey(Signal, null=True, on_delete=models.SET_NULL, related_name="+")
    side = models.CharField(max_length=5, choices=[(side.value, side.value) for side in PositionSide])
    status = models.CharField(max_length=10, choices=PositionStatus.choices, default=PositionStatus.PENDING)
    leverage = ExactField(default=1)
    stop_loss_percent = ExactField(null=True)
    take_profit_percent = ExactField(null=True)
    # From here to closed_at: the fold of the fills, rewritten whole.
    quantity = ExactField(default=0)
    entered = ExactField(default=0)
    exited = ExactField(default=0)
    entry_price = ExactField(default=0)
    exit_price = ExactField(default=0)
    fees = ExactField(default=0)
    realized_pnl = ExactField(default=0)
    opened_at = models.DateTimeField(null=True)
    closed_at = models.DateTimeField(null=True)
    folded_at = models.DateTimeField(null=True, help_text="When its fills were last added up.")
    stop_price = ExactField(null=True)
    target_price = ExactField(null=True)
    exit_reason = models.CharField(max_length=20, blank=True, choices=[(r.value, r.value) for r in ExitReason])
    is_exit_wanted = models.BooleanField(default=False)
    dust = ExactField(default=0, help_text="What was left and is too small to be sold.")
    mark_price = ExactField(null=True)
    unrealized_pnl = ExactField(default=0)
    valued_at = models.DateTimeField(null=True)
    valuations = models.PositiveIntegerField(default=0, help_text="Ticks that have valued it.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["session"], condition=Q(status__in=["PENDING", "OPEN"]), name="position_one_live_per_session"
            ),
            # However often a signal arrives, it opens at most one position of a session.
            models.UniqueConstraint(fields=["session", "entry_signal"], name="position_once_per_signal"),
        ]
        indexes = [
            # "whose stop or target has this price crossed": the price watch, one small index per side and level
            models.Index(
                fields=["market", "stop_price"],
                include=["session"],
                condition=_open_on(PositionSide.LONG),
                name="long_stop",
            ),
            models.Index(
                fields=["market", "target_price"],
                include=["session"],
                condition=_open_on(PositionSide.LONG),
                name="long_target",
            ),
            models.Index(
                fields=["market", "stop_price"],
                include=["session"],
                condition=_open_on(PositionSide.SHORT),
                name="short_stop",
            ),
            models.Index(
                fields=["market", "target_price"],
                include=["session"],
                condition=_open_on(PositionSide.SHORT),
                name="short_target",
            ),
            # "what does this account hold": valuing, under the account's lock
            models.Index(
                fields=["account"], condition=Q(status__in=["PENDING", "OPEN"]), name="position_live_by_account"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.side} {self.quantity} ({self.status})"

    @property
    def levels(self) -> ExitLevels:
        return ExitLevels(self.stop_price, self.target_price)

    def take(self, state: PositionState) -> None:
        """Write the fold of the fills onto the row."""
        self.quantity, self.entered, self.exited = state.quantity, state.entered, state.exited
        self.entry_price, self.exit_price = state.entry_price, state.exit_price
        self.fees, self.realized_pnl = state.fees, state.realized_pnl
        self.opened_at, self.closed_at = state.opened_at, state.closed_at


class Intent(models.Model):
    """A wish of a position to be entered or left. Orders carry its id; a wish whose order failed may get another order,
    but never two alive at once."""

    class Purpose(models.TextChoices):
        ENTRY = "ENTRY"
        EXIT = "EXIT"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    position = models.ForeignKey(Position, on_delete=models.CASCADE, related_name="intents")
    purpose = models.CharField(max_length=5, choices=Purpose.choices)
    reason = models.CharField(max_length=20, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["position", "purpose"], name="intent_once_per_purpose")]

    def __str__(self) -> str:
        return f"{self.purpose} of position {self.position_id}"
