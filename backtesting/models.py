"""Backtests as rows: everything that is needed to repeat one, how far it is, and what came of it.

What was asked is never altered; a run made again is a row of its own. What decides about the result beside it (code and
market data) is kept as hashes, so that two runs that differ say why.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

from backtesting.research.search import SearchMethod
from backtesting.research.space import Space
from backtesting.research.trials import OBJECTIVES
from backtesting.research.words import objective_words
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
    fields of the engine's ``Settings`` and of ``domain.limits.Limits`` as JSON, ``exits`` changes of the strategy's exit
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


METHODS = [(one.value, one.value) for one in SearchMethod]
OBJECTIVE_CHOICES = [(name, objective_words(name)) for name in OBJECTIVES]


class StudyKind(models.TextChoices):
    """OPTIMISE looks for the best parameters, WALK_FORWARD for the best of each time on the time after it, MONTE_CARLO for
    what else could have come of the same."""

    OPTIMISE = "OPTIMISE", "Optimise"
    WALK_FORWARD = "WALK_FORWARD", "Walk forward"
    MONTE_CARLO = "MONTE_CARLO", "Monte Carlo"


class Study(Job, Setup):
    """Many backtests for one answer. ``space`` names the parameters that are searched, in the words of
    ``backtesting/research/space.py``; ``parameters`` are the others. ``options`` are what its kind asks for beside that
    (``backtesting/research/words.py``).

    Its trials are numbered through, fold by fold; all before ``claimed`` were taken by somebody, and what of those is not
    done is in its claims. Until ``data_hash`` is known it has not begun. ``done`` counts trials, and its result as one more.
    """

    kind = models.CharField(max_length=12, choices=StudyKind.choices)
    method = models.CharField(
        max_length=6, choices=METHODS, default=SearchMethod.GRID.value,
        help_text="GRID: all combinations. RANDOM: drawn. TPE: drawn where the good ones were.",
    )  # fmt: skip
    space = models.JSONField(default=dict, blank=True)
    objective = models.CharField(max_length=20, choices=OBJECTIVE_CHOICES, default="sharpe")
    min_trades = models.PositiveIntegerField(
        default=1, help_text="A trial that traded less is worth nothing.", validators=[MaxValueValidator(1_000_000)]
    )
    trials_wanted = models.PositiveIntegerField(
        default=100, help_text="At most, and for each fold; a grid ends by itself.", validators=[MinValueValidator(1)]
    )
    seed = models.PositiveBigIntegerField(
        default=0, help_text="The same seed: the same trials.", validators=[MaxValueValidator(2**32 - 1)]
    )
    options = models.JSONField(default=dict, blank=True)
    feeds = models.ManyToManyField(Feed, through="StudyFeed", related_name="studies")
    # Where the trials of each fold begin and end, as the first to look found it; for Monte Carlo its ways.
    folds = models.JSONField(default=list, editable=False)
    per_fold = models.PositiveIntegerField(default=0, editable=False)
    claimed = models.PositiveIntegerField(default=0, editable=False)
    at_once = models.PositiveIntegerField(default=8, editable=False, help_text="Trials that are taken at a time.")
    stepped_at = models.DateTimeField(null=True, editable=False)
    result = models.JSONField(null=True, editable=False)

    class Meta:
        verbose_name_plural = "studies"
        constraints = [models.CheckConstraint(condition=Q(until_at__gt=models.F("from_at")), name="study_goes_forward")]
        indexes = [
            # "which studies wait": every bell, and the sweep
            models.Index(fields=["owner"], condition=Q(status__in=["QUEUED", "RUNNING"]), name="study_live"),
            # "one's own, newest first"
            models.Index(fields=["owner", "-id"], name="study_by_owner"),
        ]

    @property
    def trials_total(self) -> int:
        """How many trials it takes, once it has begun."""
        return len(self.folds) * self.per_fold

    def build(self) -> Strategy[Any]:
        """Of the strategies that are tried the one that looks back furthest: what it is shown is enough for all of them.
        Raises Django's ValidationError where the words fit it no more."""
        try:
            space = self.searched()
        except ValueError as error:
            raise ValidationError({"space": str(error)}) from error
        return super().build() if space is None else space.furthest

    def searched(self) -> Space | None:
        """The parameters that are searched, around those that are not; None where there are none. Raises ValueError."""
        if self.strategy not in LIBRARY:
            raise ValueError(LIBRARY.wanted(self.strategy))
        fixed = {name: value for name, value in self.parameters.items() if name not in self.space}
        return Space(LIBRARY[self.strategy], self.space, fixed) if self.space else None


class StudyFeed(FeedPlace):
    study = models.ForeignKey(Study, on_delete=models.CASCADE, related_name="places")

    class Meta(FeedPlace.Meta):
        constraints = [models.UniqueConstraint(fields=["study", "feed"], name="study_feed_once")]


class TrialClaim(models.Model):
    """Trials of one fold, from number ``first`` to before ``end``, that somebody is at until the lease runs out, or that
    nobody is at who was: what of them is done is no part of it. ``tries`` counts those who ended with it in their hands."""

    study = models.ForeignKey(Study, on_delete=models.CASCADE, related_name="claims")
    fold = models.PositiveIntegerField()
    first = models.PositiveIntegerField()
    end = models.PositiveIntegerField()
    leased_until = models.DateTimeField(null=True)
    tries = models.PositiveIntegerField(default=0)
    values = models.JSONField(null=True, help_text="The parameters that are tried now, where others learn from that.")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["study", "fold", "first"], name="claim_once_per_trial"),
            models.CheckConstraint(condition=Q(end__gt=models.F("first")), name="claim_holds_something"),
        ]

    def __str__(self) -> str:
        return f"{self.study_id}: {self.fold}.{self.first} to {self.end}"


class TrialStatus(models.TextChoices):
    """DONE; SKIPPED, for the strategy does not take such parameters or none are left to try; FAILED with a reason."""

    DONE = "DONE"
    SKIPPED = "SKIPPED"
    FAILED = "FAILED"


class Trial(models.Model):
    """What one set of parameters came to: written once, when it is known. ``value`` is what it is worth by the objective,
    more being better; ``returns`` those of equal parts of the span, packed."""

    study = models.ForeignKey(Study, on_delete=models.CASCADE, related_name="trials")
    fold = models.PositiveIntegerField()
    number = models.PositiveIntegerField()
    status = models.CharField(max_length=7, choices=TrialStatus.choices)
    parameters = models.JSONField(default=dict)
    value = models.FloatField(null=True)
    figures = models.JSONField(default=dict)
    returns = models.BinaryField(null=True)
    reason = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["study", "fold", "number"], name="trial_once")]
        indexes = [
            # "the best trials": pages of them
            models.Index(fields=["study", "-value", "id"], name="trial_by_value"),
        ]

    def __str__(self) -> str:
        return f"{self.study_id}: {self.fold}.{self.number}"
