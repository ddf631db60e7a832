"""Backtests as rows: everything that is needed to repeat one, how far it is, and what came of it.

What was asked is never altered; a run made again is a row of its own. What decides about the result beside it (code and
market data) is kept as hashes, so that two runs that differ say why.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q

from domain.candles import Timeframe
from domain.strategy import Strategy
from marketdata.models import Feed
from pipeline.claims import Guarded, GuardedQuerySet
from strategies.library import LIBRARY
from strategies.models import parameters_validated
from strategies.registry import LONGEST_NAME

TIMEFRAMES = [(frame.value, frame.value) for frame in Timeframe]


class JobStatus(models.TextChoices):
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    DONE = "DONE"
    FAILED = "FAILED"
    CANCELED = "CANCELED"


J = JobStatus

LIVE_JOBS = (J.QUEUED, J.RUNNING)
RETRIED_JOBS = (J.FAILED, J.CANCELED)

JOB_TRANSITIONS: Mapping[str, frozenset[str]] = {
    J.QUEUED: frozenset({J.RUNNING, J.CANCELED}),
    J.RUNNING: frozenset({J.DONE, J.FAILED, J.CANCELED}),
    J.FAILED: frozenset({J.QUEUED}),
    J.CANCELED: frozenset({J.QUEUED}),
}


class Job(Guarded):
    """Something to be computed for its owner: ``done`` of ``total`` steps, by whoever holds the lease. ``tries`` counts the
    workers that began it since it was asked for; one that ended without a word leaves its lease to run out."""

    NAME_LENGTH = 160
    transitions: ClassVar[Mapping[str, frozenset[str]]] = JOB_TRANSITIONS

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+", editable=False)
    name = models.CharField(max_length=NAME_LENGTH, blank=True, help_text="Left empty: made of strategy and markets.")
    status = models.CharField(max_length=8, choices=JobStatus.choices, default=J.QUEUED, editable=False)
    done = models.PositiveBigIntegerField(default=0, editable=False)
    total = models.PositiveBigIntegerField(default=0, editable=False)
    tries = models.PositiveIntegerField(default=0, editable=False)
    last_error = models.CharField(max_length=500, blank=True, editable=False)
    not_before_at = models.DateTimeField(null=True, editable=False)
    leased_until = models.DateTimeField(null=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, editable=False)
    ended_at = models.DateTimeField(null=True, editable=False)

    objects = GuardedQuerySet.as_manager()

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return self.name

    @property
    def percent(self) -> float:
        """How much of it is done; cut, not rounded: what is not done is not 100."""
        return int(1000 * min(self.done, self.total) / self.total) / 10 if self.total else 0.0


class Setup(models.Model):
    """What is traded, with what, and when: the words of a backtest, whoever asks for it. ``settings`` and ``limits`` are
    fields of ``backtesting.inputs.Settings`` and ``domain.limits.Limits`` as JSON, ``exits`` changes of the strategy's exit
    plan."""

    strategy = models.CharField(max_length=LONGEST_NAME)
    parameters = models.JSONField(default=dict, blank=True)
    detail_timeframe = models.CharField(
        max_length=4, choices=TIMEFRAMES, blank=True,
        help_text="Candles that tell what came first inside a candle; left empty: none.",
    )  # fmt: skip
    from_at = models.DateTimeField(help_text="Open time of the first candle that may be traded in, UTC.")
    until_at = models.DateTimeField(help_text="Candles that open at this time or later are left out, UTC.")
    settings = models.JSONField(default=dict, blank=True)
    limits = models.JSONField(default=dict, blank=True)
    exits = models.JSONField(
        default=dict, blank=True, help_text="Exits beside or instead of the strategy's: any fields of an exit plan."
    )
    code_hash = models.CharField(max_length=32, blank=True, editable=False)
    data_hash = models.CharField(max_length=32, blank=True, editable=False)
    candles = models.PositiveBigIntegerField(default=0, editable=False, help_text="Of all markets, with the warm-up.")

    class Meta:
        abstract = True

    def build(self) -> Strategy[Any]:
        """The strategy; raises Django's ValidationError when its parameters fit it no more."""
        return parameters_validated(self.strategy, self.parameters)

    @property
    def strategy_title(self) -> str:
        """What a reader knows its strategy by."""
        return LIBRARY[self.strategy].title if self.strategy in LIBRARY else self.strategy


class FeedPlace(models.Model):
    """One of the feeds that something is computed on, in the order in which they were named."""

    feed = models.ForeignKey(Feed, on_delete=models.PROTECT, related_name="+")
    place = models.PositiveSmallIntegerField()

    class Meta:
        abstract = True
        ordering = ("place",)

    def __str__(self) -> str:
        return str(self.feed)


class BacktestRun(Job, Setup):
    """One backtest. ``figures`` are those of ``backtesting/figures.py``, with the ``order`` of its stats and a ``curve`` of
    few points of the equity; what is long is in its ``BacktestResult``."""

    feeds = models.ManyToManyField(Feed, through="BacktestFeed", related_name="backtests")
    repeats = models.ForeignKey(
        "self", null=True, blank=True, on_delete=models.SET_NULL, related_name="repeated_by", editable=False
    )
    figures = models.JSONField(null=True, editable=False)
    seconds = models.FloatField(null=True, editable=False, help_text="How long it took, reading the candles included.")

    class Meta:
        verbose_name = "backtest"
        constraints = [
            models.CheckConstraint(condition=Q(until_at__gt=models.F("from_at")), name="backtest_goes_forward")
        ]
        indexes = [
            # "which backtests wait": every bell, and the sweep
            models.Index(fields=["owner"], condition=Q(status__in=["QUEUED", "RUNNING"]), name="backtest_live"),
            # "one's own, newest first"
            models.Index(fields=["owner", "-id"], name="backtest_by_owner"),
        ]

    @property
    def figures_told(self) -> dict[str, Any]:
        """Its figures with the ``stats`` in the order in which they were computed, which the database does not keep; empty
        until it is done."""
        figures: dict[str, Any] = self.figures or {}
        if not figures:
            return {}
        return {**figures, "stats": {name: figures["stats"][name] for name in figures["order"]}}

    def clean(self) -> None:
        """Raises ValidationError for a span that goes backwards."""
        if self.from_at and self.until_at and self.until_at <= self.from_at:
            raise ValidationError({"until_at": f"wanted a time after {self.from_at}, was {self.until_at}"})


class BacktestFeed(FeedPlace):
    run = models.ForeignKey(BacktestRun, on_delete=models.CASCADE, related_name="places")

    class Meta(FeedPlace.Meta):
        constraints = [models.UniqueConstraint(fields=["run", "feed"], name="backtest_feed_once")]


class BacktestResult(models.Model):
    """What is long of a result, apart from the row that lists are made of. ``trades`` are rows of
    ``backtesting.figures.trade_row``; ``equity`` and ``refused`` as ``backtesting/runs.py`` packs them."""

    run = models.OneToOneField(BacktestRun, on_delete=models.CASCADE, primary_key=True, related_name="result")
    trades = models.JSONField(default=list)
    refused = models.JSONField(default=list)
    equity = models.BinaryField()

    def __str__(self) -> str:
        return f"result of {self.run_id}"
