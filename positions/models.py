"""Positions, the intents that tie a session's wishes to orders, which know no sessions, and the differences between what we
believe of an account and what its venue shows."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from decimal import Decimal
from typing import ClassVar

from django.db import models
from django.db.models import ExpressionWrapper, Q, Value
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Cast
from django.db.models.lookups import Exact, IsNull

from domain.exit_plan import ExitPlan
from domain.exits import EntryFacts, ExitReason
from domain.market import MarginMode, PositionSide
from domain.positions import PositionState
from exchanges.models import Account, Market
from marketdata.models import Feed
from orders.models import Order
from pipeline.claims import Guarded, GuardedQuerySet
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
    "status", "quantity", "entered", "exited", "entry_price", "exit_price", "fees", "realized_pnl", "funding", "opened_at",
    "closed_at", "folded_at",
)  # fmt: skip

# What following the price writes: computed anew at every look, from the plan and these.
LEVEL_FIELDS = (
    "stop_price", "stop_reason", "target_price", "target_reason", "targets_done", "best_price", "feed",
    "followed_until", "exit_due_at",
)  # fmt: skip


def _open_on(side: PositionSide) -> Q:
    return Q(status=PositionStatus.OPEN, side=side)


def _plan_names(*fields: str) -> Q:
    """That the exit plan gives one of these a figure."""
    named = Q()
    for field in fields:
        named |= Q(IsNull(KeyTextTransform(field, "exits"), False))
    return named


def _is_zero_or_missing(field: str) -> Q:
    figure = Cast(KeyTextTransform(field, "exits"), ExactField())
    return ~_plan_names(field) | Q(Exact(figure, Value(0)))


def _is_so(condition: Q) -> ExpressionWrapper[Q]:
    return ExpressionWrapper(condition, output_field=models.BooleanField())


class Position(models.Model):
    """One round trip of a session: the fold of its fills, its levels, and what it is worth at the last price."""

    session = models.ForeignKey(TradingSession, on_delete=models.PROTECT, related_name="positions")
    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="positions")
    market = models.ForeignKey(Market, on_delete=models.PROTECT, related_name="positions")
    entry_signal = models.ForeignKey(Signal, null=True, on_delete=models.SET_NULL, related_name="+")
    side = models.CharField(max_length=5, choices=[(side.value, side.value) for side in PositionSide])
    status = models.CharField(max_length=10, choices=PositionStatus.choices, default=PositionStatus.PENDING)
    leverage = ExactField(default=1)
    margin_mode = models.CharField(
        max_length=8, choices=[(mode.value, mode.value) for mode in MarginMode], default=MarginMode.ISOLATED
    )
    # How it is to be left, as its session had it when it was entered, and what that plan is measured by.
    exits = models.JSONField(default=dict)
    # Read off the plan by the database itself, so that the watch finds by an index what a plan asks for.
    is_following = models.GeneratedField(
        expression=_is_so(_plan_names("trailing_percent", "trailing_atr", "break_even_percent")),
        output_field=models.BooleanField(), db_persist=True,
    )  # fmt: skip
    has_stop = models.GeneratedField(
        expression=_is_so(
            _plan_names("stop_loss_percent", "stop_loss_atr")
            # One that waits for a gain is no stop before that.
            | _plan_names("trailing_percent", "trailing_atr") & _is_zero_or_missing("trailing_activation_percent")
            | _plan_names("is_stop_from_signal") & Q(Exact(KeyTextTransform("is_stop_from_signal", "exits"), "true"))
        ),
        output_field=models.BooleanField(), db_persist=True,
    )  # fmt: skip
    is_resting = models.BooleanField(default=False, help_text="Its stop and targets rest at the venue too.")
    resting_met_at = models.DateTimeField(
        null=True, help_text="Since when the price has met an order that rests there; our time."
    )
    max_entries = models.PositiveIntegerField(default=1)
    atr = ExactField(null=True, help_text="Average true range at the entry.")
    signal_stop_price = ExactField(null=True, help_text="The stop that its entry signal named.")
    signal_target_price = ExactField(null=True, help_text="The target that its entry signal named.")
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
    stop_price = ExactField(null=True, help_text="The nearest of its stops.")
    stop_reason = models.CharField(max_length=20, blank=True, help_text="Which of them that is.")
    target_price = ExactField(null=True, help_text="The nearest of its targets.")
    target_reason = models.CharField(max_length=20, blank=True)
    targets_done = models.PositiveIntegerField(default=0, help_text="Take-profit levels that have been carried out.")
    best_price = ExactField(null=True, help_text="The best price of the candles that closed since the entry.")
    feed = models.ForeignKey(
        Feed, null=True, on_delete=models.PROTECT, related_name="+", help_text="Whose candles its stop follows."
    )
    followed_until = models.DateTimeField(
        null=True, help_text="Up to which candle that is known, by the venue's clock."
    )
    exit_due_at = models.DateTimeField(
        null=True, help_text="When an exit by time, or the next step of the ROI table, is due; our time."
    )
    liquidation_price = ExactField(null=True, help_text="As the venue said last; empty where there is none.")
    unprotected_at = models.DateTimeField(null=True, help_text="Since when it has had no stop in force; told then.")
    funding = ExactField(default=0, help_text="Paid (negative) and received while it was open.")
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
            # "whose time has come": exits by time, and the steps of ROI tables
            models.Index(fields=["exit_due_at"], condition=Q(status="OPEN"), name="position_exit_due"),
            # "whose stop moves with a candle that has closed": the price watch
            models.Index(
                fields=["feed", "followed_until"],
                include=["session"],
                condition=Q(status="OPEN", is_following=True),
                name="position_following",
            ),
            # "whose stop is not in force", "whose is again": the alert
            models.Index(
                fields=["market"],
                condition=Q(status="OPEN", has_stop=True) | Q(unprotected_at__isnull=False),
                name="position_to_protect",
            ),
            # "whose funding came after its end", "what was lost lately": sweeps, cooldowns
            models.Index(fields=["folded_at"], condition=Q(status="CLOSED"), name="position_closed_lately"),
            # "what does this account hold": valuing, under the account's lock
            models.Index(
                fields=["account"], condition=Q(status__in=["PENDING", "OPEN"]), name="position_live_by_account"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.side} {Decimal(self.quantity).normalize():f} ({self.status})"

    @property
    def exit_plan(self) -> ExitPlan:
        """How it is to be left."""
        return ExitPlan.model_validate(self.exits)

    @property
    def entry_facts(self) -> EntryFacts:
        """What its exit plan is measured from."""
        return EntryFacts(
            side=PositionSide(self.side), entry_price=self.entry_price, atr=self.atr, signal_stop=self.signal_stop_price,
            signal_target=self.signal_target_price, liquidation_price=self.liquidation_price,
        )  # fmt: skip

    def take(self, state: PositionState) -> None:
        """Write the fold of the fills onto the row."""
        self.quantity, self.entered, self.exited = state.quantity, state.entered, state.exited
        self.entry_price, self.exit_price = state.entry_price, state.exit_price
        self.fees, self.realized_pnl, self.funding = state.fees, state.realized_pnl, state.funding
        self.opened_at, self.closed_at = state.opened_at, state.closed_at


class Intent(models.Model):
    """A wish of a position to be entered or left. Orders carry its id; a wish whose order failed may get another order,
    but never two alive at once. ``step`` tells wishes of one purpose apart: entries from 0 on; the exit of all that is left
    is 0, a part of it by its take-profit level (from 1 on); a resting stop and resting targets likewise; parts that are sold
    by hand from 0 on."""

    class Purpose(models.TextChoices):
        ENTRY = "ENTRY"
        EXIT = "EXIT"
        REST_STOP = "REST_STOP"
        REST_TARGET = "REST_TARGET"
        BY_HAND = "BY_HAND"  # a part that the trader sells

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    position = models.ForeignKey(Position, on_delete=models.CASCADE, related_name="intents")
    purpose = models.CharField(max_length=11, choices=Purpose.choices)
    step = models.PositiveIntegerField(default=0)
    reason = models.CharField(max_length=20, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["position", "purpose", "step"], name="intent_once_per_step")]

    def __str__(self) -> str:
        return f"{self.purpose} of position {self.position_id}"


class ManualRequest(models.Model):
    """An order asked for by hand: of one key of a trader's account there is one, however often it is asked for."""

    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="manual_requests")
    key = models.CharField(max_length=64)
    asked = models.JSONField(help_text="What was asked for, to tell a repetition from another wish under the same key.")
    order = models.OneToOneField(Order, on_delete=models.PROTECT, related_name="manual_request")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["account", "key"], name="manual_request_once_per_key")]

    def __str__(self) -> str:
        return self.key


class Reconciliation(models.Model):
    """When an account is next compared with its venue, and how that went last. No row yet: now."""

    account = models.OneToOneField(Account, on_delete=models.CASCADE, primary_key=True, related_name="reconciliation")
    due_at = models.DateTimeField(null=True, db_index=True)
    leased_until = models.DateTimeField(null=True, help_text="Somebody is at it; nobody else is before this.")
    done_at = models.DateTimeField(null=True)
    compared_at = models.DateTimeField(
        null=True, help_text="When balances were last compared: nothing was in flight then."
    )
    failures = models.PositiveIntegerField(default=0)
    last_error = models.CharField(max_length=200, blank=True)
    contracts_due_at = models.DateTimeField(
        null=True, help_text="When the venue is next asked what it holds of contracts."
    )
    # The balances that the anchors expect contain the fills up to this one.
    anchored_fill_id = models.BigIntegerField(null=True)

    def __str__(self) -> str:
        return (
            f"account {self.account_id} due {self.due_at:%H:%M:%S}" if self.due_at else f"account {self.account_id} due"
        )


class BalanceAnchor(models.Model):
    """What an account should hold of one currency: what it held when it was first read, and every fill since."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="anchors")
    currency = models.CharField(max_length=20)
    total = ExactField()
    at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["account", "currency"], name="anchor_once_per_currency")]

    def __str__(self) -> str:
        return f"{self.total} {self.currency}"


class DiscrepancyKind(models.TextChoices):
    FOREIGN_ORDER = "FOREIGN_ORDER"  # not ours, at work or filled
    MANUAL_CLOSE = "MANUAL_CLOSE"  # the account holds less than its positions say
    MISSING_FILL = "MISSING_FILL"  # of an order that had ended; recorded, and told
    BALANCE_DRIFT = "BALANCE_DRIFT"  # not what the fills explain
    DUST = "DUST"  # left, and too small to be sold
    LATE_ORDER = "LATE_ORDER"  # ours, given up, filled after all, and no session holds it


class DiscrepancyStatus(models.TextChoices):
    OPEN = "OPEN"
    RESOLVED = "RESOLVED"


class Resolution(models.TextChoices):
    ADOPT = "ADOPT"
    CLOSE = "CLOSE"
    IGNORE = "IGNORE"
    RESIZE = "RESIZE"
    VANISHED = "VANISHED"  # no longer true
    RECORDED = "RECORDED"  # put right by being recorded


class Discrepancy(Guarded):
    """One difference between the books and the venue. Nothing is adjusted in silence: it stays open until somebody decides,
    or until it is no longer true."""

    transitions: ClassVar[Mapping[str, frozenset[str]]] = {
        DiscrepancyStatus.OPEN: frozenset({DiscrepancyStatus.RESOLVED}),
        DiscrepancyStatus.RESOLVED: frozenset(),
    }

    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="discrepancies")
    kind = models.CharField(max_length=16, choices=DiscrepancyKind.choices)
    subject = models.CharField(max_length=64, help_text="What it is about: of one subject one difference is open.")
    market = models.ForeignKey(Market, null=True, on_delete=models.PROTECT, related_name="discrepancies")
    order = models.ForeignKey(Order, null=True, on_delete=models.PROTECT, related_name="discrepancies")
    position = models.ForeignKey(Position, null=True, on_delete=models.PROTECT, related_name="discrepancies")
    currency = models.CharField(max_length=20, blank=True)
    expected = ExactField(null=True)
    found = ExactField(null=True)
    detail = models.CharField(max_length=200, blank=True)
    status = models.CharField(max_length=8, choices=DiscrepancyStatus.choices, default=DiscrepancyStatus.OPEN)
    resolution = models.CharField(max_length=8, choices=Resolution.choices, blank=True)
    resolved_by = models.CharField(max_length=64, blank=True)
    opened_at = models.DateTimeField(auto_now_add=True)
    resolved_at = models.DateTimeField(null=True)

    objects = GuardedQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "discrepancies"
        constraints = [
            models.UniqueConstraint(
                fields=["account", "kind", "subject"], condition=Q(status="OPEN"), name="discrepancy_open_once"
            )
        ]
        indexes = [
            # "was this decided before": filing
            models.Index(fields=["account", "kind", "subject"], name="discrepancy_by_subject"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.subject}"

    @property
    def difference(self) -> Decimal:
        return (self.found or Decimal(0)) - (self.expected or Decimal(0))
