"""Strategy configurations and what they said about each candle."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q
from pydantic import ValidationError as ParametersError
from pydantic_core import ErrorDetails

from domain.informative import Informative, TapeKind
from domain.strategy import SignalKind, Strategy
from exchanges.models import Market
from marketdata.models import Feed, Tape
from pipeline.fields import ExactField
from strategies.library import LIBRARY
from strategies.registry import LONGEST_NAME


def parameters_validated(strategy: str, parameters: dict[str, Any]) -> Strategy[Any]:
    """The strategy these values describe; raises Django's ValidationError naming each value that is wrong."""
    if strategy not in LIBRARY:
        raise ValidationError({"strategy": LIBRARY.wanted(strategy)})
    if not isinstance(parameters, dict):
        raise ValidationError({"parameters": f"wanted an object of parameters, was {type(parameters).__name__}"})
    try:
        return LIBRARY[strategy].from_values(parameters)
    except ParametersError as error:
        problems = [_problem(strategy, one) for one in error.errors()]
        raise ValidationError({"parameters": problems}) from error


def informatives_validated(strategy: Strategy[Any], market: Market) -> dict[Informative, Market]:
    """The market of each informative feed of a strategy that trades on ``market``; raises Django's ValidationError naming
    each that its exchange does not have, and what else there is not to look at."""
    wanted = {one.symbol for one in strategy.informative if one.symbol}
    found = {one.symbol: one for one in Market.objects.filter(exchange=market.exchange_id, symbol__in=wanted)}
    problems = [
        f"wanted a market of {market.exchange} to look at, was {symbol!r}"
        for symbol in sorted(wanted)
        if symbol not in found or not found[symbol].is_active
    ]
    if TapeKind.FUNDING in strategy.tapes and market.kind != Market.Kind.LINEAR_FUTURE:
        problems.append(f"wanted a market of contracts, for its funding rates are looked at, was {market.symbol}")
    if problems:
        raise ValidationError({"parameters": problems})
    return {one: found[one.symbol] if one.symbol else market for one in strategy.informative}


def _problem(strategy: str, error: ErrorDetails) -> str:
    if not error["loc"]:
        return f"{strategy}: {error['msg']}"  # of several values together: the message names them
    return f"{'.'.join(map(str, error['loc']))}: {error['msg']}, was {error['input']!r:.60}"


class StrategyConfig(models.Model):
    """A strategy with its parameters on one feed. Sessions of several accounts may share it; it is evaluated once."""

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="strategy_configs")
    name = models.CharField(max_length=80)
    feed = models.ForeignKey(Feed, on_delete=models.PROTECT, related_name="configs")
    # Of the registry, which is asked whenever it is used: strategies come and go without a migration.
    strategy = models.CharField(max_length=LONGEST_NAME)
    parameters = models.JSONField(default=dict, blank=True)
    is_needed = models.BooleanField(default=False, editable=False)
    # What its strategy looks at beside its own feed: collected while it is needed, and waited for.
    informative_feeds = models.ManyToManyField(Feed, related_name="informed_configs", editable=False)
    tapes = models.ManyToManyField(Tape, related_name="configs", editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name = "strategy configuration"
        constraints = [models.UniqueConstraint(fields=["owner", "name"], name="config_name_once_per_owner")]
        indexes = [
            # "which configurations does this candle concern": every evaluation
            models.Index(fields=["feed"], condition=Q(is_needed=True), name="config_needed_by_feed")
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def strategy_title(self) -> str:
        """What a reader knows its strategy by."""
        return LIBRARY[self.strategy].title if self.strategy in LIBRARY else self.strategy

    def clean(self) -> None:
        """Raises ValidationError where its parameters make no strategy, or one that looks at what there is not."""
        strategy = self.build()
        if self.feed_id is not None:  # a form makes the feed last, and checks it by itself
            informatives_validated(strategy, self.feed.market)

    def build(self) -> Strategy[Any]:
        """The strategy, ready to be asked; raises ValidationError when the stored parameters no longer fit it."""
        return parameters_validated(self.strategy, self.parameters)


class Signal(models.Model):
    """What a configuration said about one closed candle, nothing included: the row is also the proof of evaluation."""

    config = models.ForeignKey(StrategyConfig, on_delete=models.CASCADE, related_name="signals")
    candle_open_at = models.DateTimeField()
    candle_close_at = models.DateTimeField()
    kind = models.CharField(max_length=12, choices=[(kind.value, kind.value) for kind in SignalKind])
    price = ExactField(help_text="The candle's close.")
    confidence = ExactField(null=True, help_text="How sure the strategy is, 0 to 1; empty where it does not say.")
    stop_price = ExactField(null=True, help_text="The stop that the strategy itself names.")
    target_price = ExactField(null=True, help_text="The target that the strategy itself names.")
    atr = ExactField(null=True, help_text="Average true range of the last 14 candles, in quote currency.")
    reason = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["config", "candle_open_at"], name="signal_once_per_candle")]
        indexes = [
            # "the last thing this configuration said that matters": every look at a session
            models.Index(
                fields=["config", "-candle_open_at"], condition=~Q(kind="NOTHING"), name="signal_latest_by_config"
            )
        ]

    def __str__(self) -> str:
        return f"{self.kind} at {self.candle_close_at:%Y-%m-%d %H:%M}"
