"""The decision log: what each order was valued on, and the verdict; halts; and the equity curve."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q

from domain.orders import Denial
from exchanges.models import Account
from orders.models import Order
from pipeline.fields import ExactField
from sessions.models import TradingSession


class Valuation(models.Model):
    """Why an order got its quantity, or none: the facts of that moment, under the account's lock."""

    order = models.OneToOneField(Order, on_delete=models.CASCADE, related_name="valuation")
    verdict = models.CharField(max_length=40, help_text="APPROVED, or the code of the denial.")
    price = ExactField(null=True, help_text="Expected entry price.")
    equity = ExactField(null=True)
    free_balance = ExactField(null=True)
    exposure = ExactField(null=True, help_text="Of the account before this order.")
    open_positions = models.PositiveIntegerField(null=True)
    wanted = ExactField(null=True, help_text="Notional the sizing method asked for.")
    capped = ExactField(null=True, help_text="Notional after every cap.")
    quantity = ExactField(null=True)
    sizing = models.JSONField(default=dict, help_text="What the size was computed from.")
    checks = models.JSONField(
        default=list, help_text="Each limit with its figure before and after, its bound and its verdict."
    )
    decided_at = models.DateTimeField(auto_now_add=True)

    APPROVED = "APPROVED"

    def __str__(self) -> str:
        return f"{self.order_id}: {self.verdict}"

    @property
    def is_approved(self) -> bool:
        return self.verdict == self.APPROVED

    @staticmethod
    def verdicts() -> list[str]:
        """Every verdict there is."""
        return [Valuation.APPROVED, *(denial.value for denial in Denial)]


class HaltMode(models.TextChoices):
    """How far a halt goes; each does what the one before does, too."""

    HALT = "HALT"  # no entries; positions keep their exits
    REDUCE_ONLY = "REDUCE_ONLY"  # entries that are at work are cancelled
    FLATTEN = "FLATTEN"  # positions are closed at market


class HaltScope(models.TextChoices):
    SESSION = "SESSION"
    ACCOUNT = "ACCOUNT"
    OWNER = "OWNER"
    PLATFORM = "PLATFORM"


class TradingHalt(models.Model):
    """A circuit breaker that has tripped: of a session, an account, all of an owner's, or (all three empty) the platform.
    In force until somebody lifts it."""

    mode = models.CharField(max_length=11, choices=HaltMode.choices, default=HaltMode.HALT)
    session = models.ForeignKey(
        TradingSession, null=True, blank=True, on_delete=models.CASCADE, related_name="trading_halts"
    )
    account = models.ForeignKey(Account, null=True, blank=True, on_delete=models.CASCADE, related_name="trading_halts")
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.CASCADE, related_name="trading_halts"
    )
    rule = models.CharField(max_length=24, blank=True, help_text="Which rule tripped it; empty: by hand.")
    cause = models.CharField(max_length=200)
    tripped_by = models.CharField(max_length=64)
    tripped_at = models.DateTimeField(auto_now_add=True)
    lifted_at = models.DateTimeField(null=True, editable=False)
    lifted_by = models.CharField(max_length=64, blank=True, editable=False)
    lift_note = models.CharField(max_length=200, blank=True, editable=False)

    class Meta:
        constraints = [
            # A rule that is broken trips its halt once.
            models.UniqueConstraint(
                fields=["rule", "session", "account", "owner"],
                condition=Q(lifted_at=None) & ~Q(rule=""),
                nulls_distinct=False,
                name="halt_in_force_once_per_rule",
            )
        ]
        indexes = [models.Index(fields=["tripped_at"], condition=Q(lifted_at=None), name="halt_in_force")]

    def __str__(self) -> str:
        return f"{self.mode} since {self.tripped_at:%Y-%m-%d %H:%M}"

    @property
    def scope(self) -> HaltScope:
        """Whose trading it halts."""
        if self.session_id:
            return HaltScope.SESSION
        if self.account_id:
            return HaltScope.ACCOUNT
        return HaltScope.OWNER if self.owner_id else HaltScope.PLATFORM


class EquityPoint(models.Model):
    """What a session, an account or an owner was worth at one tick; amounts in the account's currency. Exactly one of the
    three is set. Old points are thinned."""

    session = models.ForeignKey(TradingSession, null=True, on_delete=models.CASCADE, related_name="equity_points")
    account = models.ForeignKey(Account, null=True, on_delete=models.CASCADE, related_name="equity_points")
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.CASCADE, related_name="equity_points"
    )
    currency = models.CharField(max_length=16)
    at = models.DateTimeField()
    equity = ExactField(help_text="Of a session: what it has won or lost in all.")
    realized_pnl = ExactField(default=0)
    unrealized_pnl = ExactField(default=0)
    fees = ExactField(default=0)
    funding = ExactField(default=0)
    exposure = ExactField(default=0)
    peak = ExactField(help_text="The highest equity up to then.")
    drawdown = ExactField(
        default=0, help_text="How far below the peak, as a fraction of it; of a session: in currency."
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["session", "account", "owner", "currency", "at"],
                nulls_distinct=False,
                name="equity_once_per_tick",
            )
        ]
        indexes = [
            models.Index(fields=["session", "at"], condition=Q(session__isnull=False), name="equity_by_session"),
            models.Index(fields=["account", "at"], condition=Q(account__isnull=False), name="equity_by_account"),
            models.Index(fields=["owner", "at"], condition=Q(owner__isnull=False), name="equity_by_owner"),
        ]

    def __str__(self) -> str:
        return f"{self.equity} {self.currency} at {self.at:%Y-%m-%d %H:%M}"
