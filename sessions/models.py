"""Trading sessions: a strategy configuration run on one account, and the narrow table of when each is due for a tick."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, ClassVar

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from pydantic import ValidationError as PlanError
from pydantic_core import ErrorDetails

from domain.exit_plan import ExitPlan, TargetLevel
from domain.market import MarginMode
from domain.sizing import SizingMethod
from exchanges.models import Account, Market
from pipeline.claims import Guarded, GuardedQuerySet
from pipeline.fields import ExactField
from strategies.models import Signal, StrategyConfig


class SessionStatus(models.TextChoices):
    CREATED = "CREATED"
    ACTIVE = "ACTIVE"
    SUSPENDED = "SUSPENDED"
    HALTED = "HALTED"
    STOPPING = "STOPPING"
    STOPPED = "STOPPED"


S = SessionStatus

SESSION_TRANSITIONS: Mapping[str, frozenset[str]] = {
    S.CREATED: frozenset({S.ACTIVE, S.STOPPED}),
    S.ACTIVE: frozenset({S.SUSPENDED, S.HALTED, S.STOPPING}),
    S.SUSPENDED: frozenset({S.ACTIVE, S.HALTED, S.STOPPING}),
    S.HALTED: frozenset({S.ACTIVE, S.STOPPING}),
    S.STOPPING: frozenset({S.STOPPED}),
    # A new run; everything of the old one is settled, or it would not be STOPPED.
    S.STOPPED: frozenset({S.ACTIVE}),
}

# Among these the session is looked at: its positions are protected and its orders followed.
TRACKED_STATUSES = (S.ACTIVE, S.SUSPENDED, S.HALTED, S.STOPPING)


class SessionGroup(models.Model):
    """The same strategy on several accounts: evaluated once, sized by account, commanded together."""

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="session_groups")
    name = models.CharField(max_length=120)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["owner", "name"], name="group_name_once_per_owner")]

    def __str__(self) -> str:
        return self.name


class TradingSession(Guarded):
    """A strategy on a market and timeframe of one account. ``has_exposure`` is kept by the position tracker: the session
    holds a position or an order that may become one."""

    NAME_LENGTH = 160
    transitions: ClassVar[Mapping[str, frozenset[str]]] = SESSION_TRANSITIONS

    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="sessions")
    config = models.ForeignKey(StrategyConfig, on_delete=models.PROTECT, related_name="sessions")
    group = models.ForeignKey(SessionGroup, null=True, blank=True, on_delete=models.SET_NULL, related_name="sessions")
    name = models.CharField(
        max_length=NAME_LENGTH, blank=True, help_text="Left empty: made of strategy, venue, market, timeframe."
    )
    status = models.CharField(max_length=10, choices=SessionStatus.choices, default=S.CREATED, editable=False)
    status_reason = models.CharField(max_length=200, blank=True, editable=False)
    sizing_method = models.CharField(
        max_length=20,
        choices=[(method.value, method.value.replace("_", " ").capitalize()) for method in SizingMethod],
        default=SizingMethod.PERCENT_OF_EQUITY,
    )
    sizing_amount = ExactField(
        default=10,
        validators=[MinValueValidator(Decimal("0.000001"))],
        help_text="Quote currency, percent of equity, percent of equity at risk, or percent of Kelly, as the method says.",
    )
    is_confidence_weighted = models.BooleanField(
        default=False, help_text="A signal's confidence scales the size; one that says none trades whole."
    )
    kelly_cap_percent = ExactField(
        default=20, validators=[MinValueValidator(Decimal("0.01")), MaxValueValidator(Decimal(1000))],
        help_text="By Kelly: never more than so much of equity.",
    )  # fmt: skip
    kelly_min_trades = models.PositiveIntegerField(
        default=30, validators=[MinValueValidator(1)], help_text="By Kelly: not before so many closed trades."
    )
    leverage = ExactField(
        default=1, validators=[MinValueValidator(Decimal(1)), MaxValueValidator(Decimal(125))],
        help_text="On markets of contracts; 1 everywhere else.",
    )  # fmt: skip
    margin_mode = models.CharField(
        max_length=8, choices=[(mode.value, mode.value) for mode in MarginMode],
        default=MarginMode.ISOLATED,
    )  # fmt: skip
    max_entries = models.PositiveIntegerField(
        default=1, validators=[MinValueValidator(1), MaxValueValidator(50)],
        help_text="How many entry signals may add to one position; 1: none after the first.",
    )  # fmt: skip
    stop_loss_percent = ExactField(
        null=True, blank=True, validators=[MinValueValidator(Decimal("0.01")), MaxValueValidator(Decimal("99.99"))],
        help_text="Left empty: the strategy's own.",
    )  # fmt: skip
    take_profit_percent = ExactField(
        null=True, blank=True, validators=[MinValueValidator(Decimal("0.01")), MaxValueValidator(Decimal(1000))],
        help_text="Left empty: the strategy's own.",
    )  # fmt: skip
    exits = models.JSONField(
        default=dict, blank=True,
        help_text="Exits beside or instead of the strategy's: any fields of an exit plan; they come before the two above.",
    )  # fmt: skip
    is_resting = models.BooleanField(
        default=False, help_text="Keep stop and targets as orders at the venue too, where it has such orders."
    )
    tick_seconds = models.PositiveIntegerField(
        default=300, validators=[MinValueValidator(10), MaxValueValidator(86_400)],
        help_text="How often it is tracked and valued, in the venue's time.",
    )  # fmt: skip
    run = models.PositiveIntegerField(default=0, editable=False)
    # Venue time of the start: a signal on a candle that had closed before is none of this run's business.
    signals_after = models.DateTimeField(null=True, editable=False)
    last_signal = models.ForeignKey(Signal, null=True, on_delete=models.SET_NULL, related_name="+", editable=False)
    has_exposure = models.BooleanField(default=False, editable=False)
    recover_requested_at = models.DateTimeField(null=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, editable=False)
    stopped_at = models.DateTimeField(null=True, editable=False)

    objects = GuardedQuerySet.as_manager()

    class Meta:
        verbose_name = "session"
        constraints = [
            # "Strategy1 on my account" runs once: a double click or a second tab cannot start a twin.
            models.UniqueConstraint(
                fields=["account", "config"],
                condition=Q(status__in=["ACTIVE", "SUSPENDED", "HALTED", "STOPPING"]),
                name="session_runs_once_per_account_and_config",
            )
        ]
        indexes = [
            # "who is concerned by this signal": the fan-out
            models.Index(fields=["config"], condition=Q(status="ACTIVE"), name="session_active_by_config"),
            # "which sessions wait to be flattened or to recover": the sweeps
            models.Index(fields=["status"], condition=Q(status="STOPPING"), name="session_stopping"),
            models.Index(
                fields=["recover_requested_at"],
                condition=Q(recover_requested_at__isnull=False),
                name="session_recovering",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        if None in (self.account_id, self.config_id):
            return  # the form has said so already
        market = self.config.feed.market
        if self.config.owner_id != self.account.owner_id:
            raise ValidationError({"config": "wanted a configuration of the account's owner, was somebody else's"})
        if market.exchange.is_only_data:
            raise ValidationError({"config": f"wanted a market to trade on, {market.exchange.name} is only data"})
        if market.exchange_id != self.account.exchange_id:
            found = f"{market.symbol} of {market.exchange.name}"
            raise ValidationError({"config": f"wanted a market of {self.account.exchange.name}, was {found}"})
        if market.quote != self.account.currency:
            raise ValidationError({"config": f"wanted a market quoted in {self.account.currency}, was {market.symbol}"})
        if words := self.config.build().callbacks:
            # Nobody asks for its advice live, and without that it is another strategy.
            found = f"was {self.config.strategy_title}, which has a word in {', '.join(words)}"
            raise ValidationError({"config": f"wanted a strategy that decides by its signals alone, {found}"})
        self._check_contracts(market)
        self._check_exits()

    def _check_contracts(self, market: Market) -> None:
        """Leverage is of contracts; more than the venue gives there is refused before it is asked for."""
        if market.kind != Market.Kind.LINEAR_FUTURE:
            if self.leverage != 1:
                raise ValidationError({"leverage": f"wanted 1 on a spot market, was {_plain(self.leverage)}"})
            return
        most = market.max_leverage
        if most is not None and self.leverage > most:
            raise ValidationError(
                {"leverage": f"wanted at most {most} on {market.symbol}, was {_plain(self.leverage)}"}
            )

    def _check_exits(self) -> None:
        if not isinstance(self.exits, dict):
            raise ValidationError({"exits": f"wanted an object of exits, was {type(self.exits).__name__}"})
        if not self.exits:
            return  # the strategy's, and two fields with bounds of their own
        try:
            _ = self.exit_plan
        except PlanError as error:
            raise ValidationError({"exits": [_complaint(one) for one in error.errors()]}) from error

    @property
    def exit_plan(self) -> ExitPlan:
        """How a position entered now is to be left: the strategy's plan, changed by what the session says of its own.
        Raises pydantic's ValidationError for words that do not fit together."""
        values: dict[str, Any] = self.config.build().exit_plan.model_dump()
        if self.stop_loss_percent is not None:
            values |= {"stop_loss_percent": _plain(self.stop_loss_percent), "stop_loss_atr": None}
        if self.take_profit_percent is not None:
            values["targets"] = (TargetLevel(percent=_plain(self.take_profit_percent)),)
        return ExitPlan.model_validate(values | self.exits)

    @property
    def exit_plan_told(self) -> dict[str, Any] | None:
        """The exit plan as JSON, what it does not use left out; None where configuration and session do not fit any more."""
        try:
            plan: dict[str, Any] = self.exit_plan.model_dump(mode="json", exclude_defaults=True)
        except (PlanError, ValidationError):
            return None
        return plan


def _plain(value: Decimal) -> Decimal:
    """Without the zeros that fill a column."""
    return Decimal(f"{value.normalize():f}")


def _complaint(error: ErrorDetails) -> str:
    """What is wrong with an exit plan, with the field that it is about: what was wanted, and what was found."""
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{place}: wanted a field of an exit plan, was none"
    message = error["msg"].removeprefix("Value error, ")
    found = "" if isinstance(error["input"], dict) else f", was {error['input']!r:.60}"
    return f"{place}: {message}{found}" if place else message


class SessionTick(models.Model):
    """When a tracked session is next due. Narrow and apart, for every row is rewritten every few minutes."""

    session = models.OneToOneField(TradingSession, on_delete=models.CASCADE, primary_key=True, related_name="tick")
    due_at = models.DateTimeField(db_index=True)
    every = models.DurationField(help_text="Our time between ticks: tick_seconds on the venue's clock.")

    def __str__(self) -> str:
        return f"{self.session_id} due {self.due_at:%H:%M:%S}"
