"""A study goes on a slice at a time: claimed, computed outside of any transaction, stored, and left for the next.

A slice is some two seconds of trials, held by a row that is leased and stored in one transaction that the lease fences. What
a trial tries is a function of the seed, its number and the trials before it: a slice that died is computed again by
somebody else and comes to the same. Several may be at one study at once; each takes numbers that nobody has.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Exists, F, Max, OuterRef, Q, QuerySet
from django.utils import timezone

from backtesting.leases import LEASE, Hold, LeaseLost
from backtesting.models import LIVE_JOBS, JobStatus, Study, StudyKind, Trial, TrialClaim, TrialStatus
from backtesting.packing import finite, packed, printable
from backtesting.research.search import SearchMethod
from backtesting.research.trials import TrialFacts, TrialState
from backtesting.studies.setups import Bench, StudyChanged, bench_gather, bench_of, folds_planned
from backtesting.studies.work import Known, concluded, facts_of, trial_computed
from marketdata.history import free_and_due
from pipeline.claims import settled
from pipeline.crashpoints import crashpoint
from pipeline.topics import Note, Topic, publish_all, ring
from strategies.soundness import where

logger = logging.getLogger(__name__)

TASK = "optimising.step"
# What one message computes before the next one is due: a study that was cancelled is left within it and a trial.
SLICE_SECONDS = 2.0
MOST_AT_ONCE = 256
# The estimator learns from what is done: what is claimed at once it does not see.
MOST_AT_ONCE_LEARNING = 8
# A trial that so often ended the worker that was at it (for want of memory, say) is given up.
MOST_TRIES = 3
# The bell of the next slice has this long to be heard before the sweep rings; what waits in the queue for longer expires.
BELL_PATIENCE = timedelta(seconds=5)
RUNG_AT_ONCE = 4
# What one slice may take, its last trial included.
LONGEST_SECONDS = 900
ERROR_LENGTH = 500


def study_step_next() -> int | None:
    """Do a slice of the study whose turn it is; which it was. Any bell says that there is something to be computed, and none
    that it is before somebody else's."""
    for study_id in _in_turn(timezone.now()):
        if study_step(study_id):
            return study_id
    return None


def study_step(study_id: int) -> bool:
    """Do one slice of a study: begin it, compute some trials, or conclude; whether there was something to do for us. Whoever
    takes a slice rings for the next one before it computes, so that others who are free come too."""
    now = timezone.now()
    claim = settled(lambda: _claim(study_id, now))
    if claim is None:
        return False
    waiting = _in_turn(now)
    if waiting:
        ring(TASK, batch=1, study_ids=waiting[:1])
    crashpoint("study.claimed")
    if isinstance(claim, TrialClaim):
        _slice(claim, has_rung=bool(waiting))
    else:
        _whole(Study.objects.get(pk=study_id), claim)
    return True


def studies_waiting(now: datetime) -> list[int]:
    """Studies with something to be done that nobody has come for: what the sweep rings for."""
    late = now - BELL_PATIENCE
    unheard = Study.objects.filter(
        Q(stepped_at=None) | Q(stepped_at__lte=late), not_before_at__lte=late, pk__in=_in_turn(now)
    )
    return list(unheard.order_by("stepped_at", "pk").values_list("pk", flat=True)[:RUNG_AT_ONCE])


def _in_turn(now: datetime) -> list[int]:
    """Studies of which something can be claimed, in their turn: the owners by turns, who has the fewest at work and waited
    longest first, and of each the one that waited longest."""
    leased = TrialClaim.objects.filter(study=OuterRef("pk"), leased_until__gt=now)
    free = TrialClaim.objects.filter(Q(leased_until=None) | Q(leased_until__lte=now), study=OuterRef("pk"))
    live = Study.objects.filter(status__in=LIVE_JOBS)
    rows = live.filter(free_and_due(now)).filter(
        Q(data_hash="") | Q(claimed__lt=F("total") - 1) | Exists(free) | ~Exists(leased)
    )
    waiting = list(rows.values_list("pk", "owner_id", "stepped_at"))
    if len(waiting) < 2:
        return [pk for pk, *_ in waiting]
    owners = {owner_id for _, owner_id, _ in waiting}
    at_work = Counter(live.filter(owner__in=owners, leased_until__gt=now).values_list("owner_id", flat=True))
    at_work += Counter(
        TrialClaim.objects.filter(study__owner__in=owners, leased_until__gt=now).values_list(
            "study__owner_id", flat=True
        )
    )
    served = dict(Study.objects.filter(owner__in=owners).values_list("owner_id").annotate(last=Max("stepped_at")))
    long_ago = datetime.min.replace(tzinfo=now.tzinfo)

    def turn(row: tuple[int, int, datetime | None]) -> tuple[Any, ...]:
        pk, owner_id, stepped_at = row
        return at_work[owner_id], served[owner_id] or long_ago, stepped_at or long_ago, pk

    return [pk for pk, *_ in sorted(waiting, key=turn)]


def _claim(study_id: int, now: datetime) -> TrialClaim | datetime | None:
    """Take something of it: trials, or the whole row until then, to begin or to conclude it; None where there is nothing."""
    until = now + LEASE
    with transaction.atomic():
        rows = Study.objects.filter(free_and_due(now), pk=study_id, status__in=LIVE_JOBS)
        study = rows.locked().first()
        if study is None:
            return None
        claim = _trials_claimed(study, now) if study.data_hash else None
        is_whole = claim is None and not study.claims.exists()
        if is_whole and study.tries >= MOST_TRIES:
            _end(
                study, f"wanted a worker that lives to its end, was {MOST_TRIES} that ended before: too little memory?"
            )
            return None
        if claim is None and not is_whole:
            return None
        changes: dict[str, Any] = {"stepped_at": now}
        if is_whole:
            changes |= {"leased_until": until, "tries": F("tries") + 1}
        else:
            changes |= {"claimed": study.claimed}
        if study.status == JobStatus.QUEUED:
            Study.objects.filter(pk=study_id).move(JobStatus.RUNNING, started_at=study.started_at or now, **changes)
            study_tell(study, JobStatus.RUNNING)
        else:
            Study.objects.filter(pk=study_id).update(**changes)
    return until if claim is None else claim


def _trials_claimed(study: Study, now: datetime) -> TrialClaim | None:
    """Trials that nobody is at: those that somebody left, else the next ones. Holds the study's row."""
    until = now + LEASE
    free = study.claims.filter(Q(leased_until=None) | Q(leased_until__lte=now)).order_by("fold", "first")
    for claim in free[:MOST_TRIES]:
        if claim.leased_until is not None:  # whoever was at it ended without a word, perhaps because of it
            claim.tries += 1
        if claim.tries >= MOST_TRIES:
            _given_up(study, claim)
            continue
        if claim.tries and claim.end > claim.first + 1:
            # One at a time, to find the one that it is because of.
            TrialClaim.objects.create(
                study=study, fold=claim.fold, first=claim.first + 1, end=claim.end, tries=claim.tries
            )
            claim.end = claim.first + 1
        claim.leased_until, claim.values = until, None
        claim.save()
        return claim
    if study.claimed >= study.trials_total:
        return None
    fold, first = divmod(study.claimed, study.per_fold)
    most = MOST_AT_ONCE_LEARNING if study.method == SearchMethod.TPE else MOST_AT_ONCE
    end = min(first + min(study.at_once, most), study.per_fold)
    study.claimed += end - first
    return TrialClaim.objects.create(study=study, fold=fold, first=first, end=end, leased_until=until)


def _given_up(study: Study, claim: TrialClaim) -> None:
    reason = f"wanted a worker that lives to its end, was {MOST_TRIES} that ended before: too little memory?"
    Trial.objects.create(study=study, fold=claim.fold, number=claim.first, status=TrialStatus.FAILED, reason=reason)
    Study.objects.filter(pk=study.pk).update(done=F("done") + 1)
    if claim.end > claim.first + 1:
        claim.first, claim.tries, claim.leased_until = claim.first + 1, MOST_TRIES - 1, None
        claim.save()
    else:
        claim.delete()


def _slice(claim: TrialClaim, *, has_rung: bool) -> None:
    """Compute trials of the claim for as long as a slice is, and store them; what is left of it is anybody's."""
    study, until = claim.study, claim.leased_until
    if until is None:
        raise ValueError("wanted a claim that is leased, was a free one")
    begun = time.monotonic()
    hold = Hold(TrialClaim.objects.filter(pk=claim.pk), until)
    rows: list[Trial] = []
    try:
        with hold:
            bench = bench_of(study, hold.tick)
            for row in _trials(study, bench, claim):
                hold.tick()
                rows.append(row)
                if time.monotonic() - begun > SLICE_SECONDS:
                    break
    except LeaseLost:
        return
    except Exception as error:
        _fail(study.pk, hold, error)
        return
    crashpoint("study.computed")
    settled(lambda: _stored(study.pk, claim, hold, rows, has_rung=has_rung))
    crashpoint("study.stored")


def _trials(study: Study, bench: Bench, claim: TrialClaim) -> Iterator[Trial]:
    """The claim's trials, one after the other as they are computed."""
    is_learning = study.method == SearchMethod.TPE and study.kind != StudyKind.MONTE_CARLO
    known = Known(facts_of(study.trials.filter(fold=claim.fold), has_returns=False)) if is_learning else Known()
    others = TrialClaim.objects.filter(study=study, fold=claim.fold, values__isnull=False).exclude(pk=claim.pk)

    def begins(values: dict[str, Any], number: int) -> None:
        if is_learning:
            TrialClaim.objects.filter(pk=claim.pk).update(values=values)

    for number in range(claim.first, claim.end):
        if is_learning:
            known.at_work = [(values or {}, first) for values, first in others.values_list("values", "first")]
        row = Trial(study=study, fold=claim.fold, number=number, status=TrialStatus.DONE)
        try:
            facts = trial_computed(study, bench, claim.fold, number, known, begins)
        except SoftTimeLimitExceeded:
            row.status, row.reason = TrialStatus.FAILED, f"wanted at most {LONGEST_SECONDS / 60:g} minutes, took longer"
        except Exception as error:
            # A strategy is somebody's code, and what it raises is for them to read.
            logger.info("trial %s of study %s failed", number, study.pk, exc_info=True)
            row.status, row.reason = (
                TrialStatus.FAILED,
                printable(f"{type(error).__name__}: {error}{where(error)}", ERROR_LENGTH),
            )
        else:
            _written(row, facts, study.kind)
            known.done.append(facts)
        yield row


def _written(row: Trial, facts: TrialFacts, kind: str) -> None:
    row.parameters = finite(facts.values)
    if facts.state is not TrialState.DONE:
        row.status, row.reason = TrialStatus.SKIPPED, printable(facts.why, ERROR_LENGTH)
        return
    row.value, row.figures = finite(facts.value), finite(facts.figures)
    if kind != StudyKind.WALK_FORWARD:  # whose tests are what counts
        row.returns = packed(returns=facts.returns)


def _stored(study_id: int, claim: TrialClaim, hold: Hold, rows: Sequence[Trial], *, has_rung: bool) -> None:
    now = timezone.now()
    with transaction.atomic():
        study = Study.objects.filter(pk=study_id).locked().first()  # before its claims, as everybody does
        following = claim.first + len(rows)
        # First: who was overtaken, or whose study was cancelled, stores nothing.
        if study is None or not (
            hold.mine.update(first=following, leased_until=None, tries=0, values=None)
            if following < claim.end
            else hold.mine.delete()[0]
        ):
            return
        Trial.objects.bulk_create(rows)
        # So many that a slice is filled, and not so many that others wait for what one has claimed and does not come to.
        at_once = len(rows) if following < claim.end else min(max(study.at_once, 2 * len(rows)), MOST_AT_ONCE)
        Study.objects.filter(pk=study_id).update(done=F("done") + len(rows), at_once=max(at_once, 1), not_before_at=now)
        if not has_rung and study.status in LIVE_JOBS:
            study_ring(study_id)


def _whole(study: Study, until: datetime) -> None:
    """Begin a study, or conclude it: what takes the whole of it."""
    hold = Hold(Study.objects.filter(pk=study.pk, status=JobStatus.RUNNING), until)
    has_begun = bool(study.data_hash)
    try:
        with hold:
            columns = _concluded(study, hold) if has_begun else _begun(study, hold)
    except LeaseLost:
        return
    except Exception as error:
        _fail(study.pk, hold, error)
        return
    crashpoint("study.concluded" if has_begun else "study.begun")
    with transaction.atomic():
        mine: QuerySet[Any] = hold.mine
        free: dict[str, Any] = {"leased_until": None, "tries": 0, **columns}
        if not has_begun and mine.update(**free, not_before_at=timezone.now()):
            study_ring(study.pk)
        elif has_begun and mine.move(JobStatus.DONE, ended_at=timezone.now(), not_before_at=None, **free):  # type: ignore[attr-defined]
            study_tell(study, JobStatus.DONE)


def _begun(study: Study, hold: Hold) -> dict[str, Any]:
    bench = bench_gather(study, hold.tick)
    hold.tick()
    folds, each = folds_planned(study, bench)
    return {
        "data_hash": bench.data, "code_hash": bench.code, "candles": bench.candles, "folds": folds, "per_fold": each,
        "total": len(folds) * each + 1,
    }  # fmt: skip


def _concluded(study: Study, hold: Hold) -> dict[str, Any]:
    bench = bench_of(study, hold.tick)
    trials = study.trials.all()
    if not trials.exclude(status=TrialStatus.FAILED).exists() and (failed := trials.first()) is not None:
        raise StudyChanged(f"wanted a trial that is done, was none: {failed.reason}")
    return {"result": concluded(study, bench, trials), "done": F("total"), "last_error": ""}


def _fail(study_id: int, hold: Hold, error: Exception) -> None:
    """End it for a reason that no other worker could mend; what is told to fit no more begins anew with a retry. Who was
    overtaken, or whose study was cancelled, ends nothing: it may have been begun anew since."""
    if isinstance(error, ValidationError):
        reason = "; ".join(error.messages)
    elif isinstance(error, ValueError | StudyChanged):
        reason = str(error)
    else:
        logger.exception("study %s failed", study_id)
        reason = f"{type(error).__name__}: {error}{where(error)}"
    with transaction.atomic():
        study = Study.objects.filter(pk=study_id).locked().first()
        if study is not None and hold.mine.exists():
            _end(study, reason, is_void=isinstance(error, StudyChanged))


def _end(study: Study, reason: str, *, is_void: bool = False) -> None:
    changes = {"data_hash": "", "code_hash": ""} if is_void else {}
    if Study.objects.filter(pk=study.pk).move(
        JobStatus.FAILED, among=(JobStatus.RUNNING,), ended_at=timezone.now(), leased_until=None, not_before_at=None,
        last_error=printable(reason, ERROR_LENGTH), **changes,
    ):  # fmt: skip
        TrialClaim.objects.filter(study=study).update(leased_until=None, values=None)
        study_tell(Study.objects.get(pk=study.pk), JobStatus.FAILED)


def study_tell(study: Study, status: JobStatus, *, actor: str = "system") -> None:
    """Journal what became of a study. Must run inside a transaction."""
    facts = {"study": status, "name": study.name, "reason": study.last_error}
    note = Note(key=study.pk, ids={"study_id": study.pk, "owner_id": study.owner_id}, data=facts)
    publish_all(Topic.RESEARCH, [note], actor=actor)


def study_ring(study_id: int) -> None:
    """Ring for its next slice after the commit."""
    transaction.on_commit(lambda: ring(TASK, batch=1, study_ids=[study_id]), robust=True)
