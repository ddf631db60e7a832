"""Studies on the platform, many backtests for one answer: asked for, stopped, gone on with, and any of their trials made a
backtest of its own. How they are computed is in ``backtesting/studies/slices.py``."""

from __future__ import annotations

from datetime import UTC, datetime

from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from backtesting.models import (
    LIVE_JOBS,
    BacktestRun,
    JobStatus,
    Study,
    StudyFeed,
    StudyKind,
    Trial,
    TrialClaim,
    TrialStatus,
)
from backtesting.runs import run_request
from backtesting.setups import Asked
from backtesting.studies.setups import StudyAsked, study_feeds, study_validated
from backtesting.studies.slices import study_ring, study_tell

# Of one owner's that wait or go on at once.
MOST_LIVE = 100


class UnableToStudy(Exception):
    """Its status does not allow this, or too many go on already."""


def study_request(owner: User, asked: StudyAsked, *, name: str = "") -> Study:
    """Have a study computed. Raises ValidationError, by field, and UnableToStudy."""
    columns = study_validated(asked)
    if Study.objects.filter(owner=owner, status__in=LIVE_JOBS).count() >= MOST_LIVE:
        raise UnableToStudy(f"wanted at most {MOST_LIVE} studies of yours that go on, was as many: cancel some")
    symbols = ", ".join(feed.market.symbol for feed in asked.setup.feeds)
    made = f"{StudyKind(asked.kind).label} {asked.setup.strategy} {symbols} {asked.setup.feeds[0].timeframe}"
    with transaction.atomic():
        study = Study.objects.create(
            owner=owner, name=(name or made)[: Study.NAME_LENGTH], not_before_at=timezone.now(), **columns
        )
        StudyFeed.objects.bulk_create(
            StudyFeed(study=study, feed=feed, place=place) for place, feed in enumerate(asked.setup.feeds)
        )
        study_tell(study, JobStatus.QUEUED, actor=owner.get_username())
        study_ring(study.pk)
    return study


def study_cancel(study_id: int, *, actor: str = "system") -> bool:
    """End it; whether it was going on. Trials that are stored stay; what somebody is at is not stored."""
    with transaction.atomic():
        is_mine = Study.objects.filter(pk=study_id).move(
            JobStatus.CANCELED, ended_at=timezone.now(), leased_until=None, not_before_at=None
        )
        if is_mine:
            TrialClaim.objects.filter(study=study_id).update(leased_until=None, values=None)
            study_tell(Study.objects.get(pk=study_id), JobStatus.CANCELED, actor=actor)
    return bool(is_mine)


def study_retry(study_id: int, *, actor: str = "system") -> None:
    """Go on with one that failed or was cancelled; anew, where code or market data have changed since. Raises
    UnableToStudy."""
    ended = Study.objects.filter(pk=study_id)
    with transaction.atomic():
        if not ended.move(JobStatus.QUEUED, ended_at=None, not_before_at=timezone.now(), tries=0, last_error=""):
            status = ended.values_list("status", flat=True).first()
            raise UnableToStudy(f"wanted a study that failed or was cancelled, was {status}")
        if ended.filter(data_hash="").update(claimed=0, done=0, total=0, folds=[], per_fold=0):
            Trial.objects.filter(study=study_id).delete()
            TrialClaim.objects.filter(study=study_id).delete()
        study_tell(Study.objects.get(pk=study_id), JobStatus.QUEUED, actor=actor)
        study_ring(study_id)


def study_delete(study_id: int) -> None:
    """Forget one that has ended, and all of its trials. Raises UnableToStudy."""
    _, counts = Study.objects.filter(pk=study_id).exclude(status__in=LIVE_JOBS).delete()
    if not counts:
        raise UnableToStudy("wanted a study that has ended, was one that goes on: cancel it first")


def trial_to_run(trial: Trial, owner: User) -> BacktestRun:
    """A backtest of a trial's parameters on the same words, over the span that the trial was of: with trades, curve and
    report. Raises ValidationError, UnableToBacktest, and UnableToStudy for a trial that was not done."""
    if trial.status != TrialStatus.DONE:
        raise UnableToStudy(f"wanted a trial that is done, was {trial.status}")
    study = trial.study
    span = study.folds[trial.fold].get("train")
    from_at, until_at = (
        (datetime.fromtimestamp(ms / 1000, UTC) for ms in span) if span else (study.from_at, study.until_at)
    )
    asked = Asked(
        strategy=study.strategy, feeds=study_feeds(study), from_at=from_at, until_at=until_at,
        parameters=trial.parameters, settings=study.settings, limits=study.limits, exits=study.exits,
        detail_timeframe=study.detail_timeframe,
    )  # fmt: skip
    place = f"{trial.fold}.{trial.number}" if len(study.folds) > 1 else f"{trial.number}"
    return run_request(owner, asked, name=f"{study.name}, trial {place}")
