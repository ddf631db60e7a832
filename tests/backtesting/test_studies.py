"""Studies: every trial computed once and the same, whoever dies, comes second or is told to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from backtesting.leases import LEASE
from backtesting.models import BacktestRun, Study, Trial, TrialClaim
from backtesting.packing import unpacked
from backtesting.runs import run_compute
from backtesting.studies import UnableToStudy, study_cancel, study_delete, study_request, study_retry, trial_to_run
from backtesting.studies import setups as study_setups
from backtesting.studies import slices as study_slices
from backtesting.studies.setups import StudyAsked, bench_of
from backtesting.studies.slices import BELL_PATIENCE, MOST_TRIES, studies_waiting, study_step, study_step_next
from backtesting.tasks import step, sweep_studies
from domain.strategy import SignalArrays
from marketdata.models import Candle, Feed
from strategies.library.sma_cross import SmaCross
from tests.backtesting.test_runs import FROM_AT, UNTIL_AT, asked, wave_feed
from tests.conftest import Bells
from tests.factories import events, make_user
from tests.race import at_once, happens_before
from tests.workers import database_url

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("no_renewals")]
in_the_open = pytest.mark.django_db(transaction=True)  # with bells that ring, or more than one connection

SPACE = {"fast": [2, 3, 4], "slow": [8, 12]}


def wanted(feed: Feed, *, setup: dict[str, Any] | None = None, **words: Any) -> StudyAsked:
    """Six combinations, judged by what they return."""
    defaults: dict[str, Any] = {"kind": "OPTIMISE", "space": SPACE, "objective": "total_return"}
    return StudyAsked(setup=asked(feed, **{"parameters": {}, **(setup or {})}), **{**defaults, **words})


def requested(owner: User | None = None, feed: Feed | None = None, **words: Any) -> Study:
    return study_request(owner or make_user(), wanted(feed or wave_feed(), **words))


def fresh(study: Study) -> Study:
    return Study.objects.get(pk=study.pk)


def played(study: Study) -> Study:
    """Step until there is nothing left to do."""
    while study_step(study.pk):
        pass
    return fresh(study)


def tried(study: Study) -> list[tuple[int, int, str, Any, Any, float | None]]:
    """Every trial as it is stored, in order."""
    rows = study.trials.order_by("fold", "number")
    return [
        (one.fold, one.number, one.status, one.parameters.get("fast"), one.parameters.get("slow"), one.value)
        for one in rows
    ]


def combinations(study: Study) -> list[tuple[Any, Any]]:
    return [row[3:5] for row in tried(study)]


GRID = [(fast, slow) for fast in (2, 3, 4) for slow in (8, 12)]


# -- optimising.step: its work, twice, lost, second ---------------------------------------------------------------------


def test_a_grid_is_gone_over_and_each_trial_is_what_a_backtest_of_it_comes_to() -> None:
    study = played(requested())

    best = study.trials.order_by("-value", "number").first()
    assert best is not None
    run = trial_to_run(best, study.owner)
    run_compute(run.pk)
    run.refresh_from_db()
    assert (study.status, study.done, study.total, study.percent) == ("DONE", 7, 7, 100.0)
    assert combinations(study) == GRID
    assert not study.claims.exists()
    assert run.figures is not None
    assert run.figures["stats"]["trades"] == best.figures["trades"] > 5
    assert run.figures["stats"]["total_return"] == pytest.approx(best.value, abs=1e-12)
    assert run.parameters["slow"] == best.parameters["slow"]
    assert run.name == f"{study.name}, trial {best.number}"
    assert [one["study"] for one in events("research") if "study" in one] == ["QUEUED", "RUNNING", "DONE"]


def test_the_result_names_the_best_and_how_much_of_it_is_luck_and_what_matters() -> None:
    study = played(requested())

    assert study.result is not None
    values = {(row[3], row[4]): row[5] or 0.0 for row in tried(study)}
    best = study.result["best"]
    luck, importance = study.result["luck"], study.result["importance"]
    means = [np.mean([values[fast, slow] for slow in (8, 12)]) for fast in (2, 3, 4)]
    [fast] = [one for one in importance if one["name"] == "fast"]
    assert best["value"] == max(values.values())
    assert (best["parameters"]["fast"], best["parameters"]["slow"]) == max(values, key=lambda one: values[one])
    assert study.result["trials"] == {"done": 6, "valued": 6, "skipped": 0, "failed": 0}
    assert 0 <= luck["deflated_sharpe"] <= 1
    assert 0 <= luck["overfitting"]["probability"] <= 1
    assert 1 <= luck["independent_trials"] <= 6
    assert [one["mean"] for one in fast["groups"]] == pytest.approx(means)
    assert fast["spread"] == pytest.approx(max(means) - min(means))
    assert sum(one["share"] for one in importance) == pytest.approx(1)
    assert any(word.startswith("fast makes ") for word in study.result["words"])


def test_a_study_without_fees_says_so() -> None:
    free, paid = (
        played(requested(setup={"settings": {"taker_fee": fee, "maker_fee": "0"}})).result for fee in ("0", "0.001")
    )

    assert free is not None
    assert paid is not None
    assert free["words"][0] == "No fee is charged: what trades most looks better than it is."
    assert not any("fee" in words for words in paid["words"])


def test_what_is_stored_of_a_trial_is_what_luck_is_judged_by() -> None:
    study = played(requested())

    one = study.trials.get(number=2)
    assert one.returns is not None
    returns = unpacked(one.returns)["returns"]
    assert len(returns) == 240
    assert np.prod(1 + returns.astype(float)) - 1 == pytest.approx(one.value, abs=1e-5)


def test_a_study_that_is_done_is_not_done_again_by_a_second_bell() -> None:
    study = played(requested())
    before = tried(study)

    step([study.pk, study.pk])

    assert tried(study) == before
    assert not study_step(study.pk)


@in_the_open
def test_a_lost_bell_is_rung_again_by_the_sweep_and_only_then(bells: Bells) -> None:
    study = requested()
    bells.clear()
    early = studies_waiting(timezone.now())

    Study.objects.update(not_before_at=timezone.now() - BELL_PATIENCE)
    sweep_studies()

    assert early == []
    assert bells.rung("optimising.step") == [{"study_ids": [study.pk]}]


@in_the_open
def test_whoever_takes_a_slice_rings_for_the_next_and_the_last_for_none(bells: Bells) -> None:
    study = requested()
    Study.objects.update(at_once=4)

    rung = []
    for _ in range(5):
        rung.append(len(bells.rung("optimising.step")))
        step([study.pk])

    # Asked for; begun; four trials, and the bell for the other two; those two; concluded.
    assert rung == [1, 2, 3, 4, 4]
    assert fresh(study).status == "DONE"


def test_trials_of_a_dead_worker_are_computed_by_another_when_their_lease_has_run_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = requested()
    study_step(study.pk)
    now = timezone.now()
    TrialClaim.objects.create(study=study, fold=0, first=0, end=6, leased_until=now + LEASE)
    Study.objects.update(claimed=6)

    while_leased = study_step(study.pk), studies_waiting(now + LEASE - timedelta(seconds=1))
    waiting = studies_waiting(now + LEASE + BELL_PATIENCE)
    TrialClaim.objects.update(leased_until=now)
    played(study)

    assert while_leased == (False, [])
    assert waiting == [study.pk]
    assert combinations(study) == GRID
    assert fresh(study).status == "DONE"


@in_the_open
def test_two_workers_at_one_study_share_its_trials_and_none_is_there_twice() -> None:
    study = requested()
    study_step(study.pk)
    Study.objects.update(at_once=2)

    stepped = at_once([lambda: study_step(study.pk)] * 3)
    alone = played(study)

    assert sum(stepped) >= 2  # a third may come when nothing is left
    assert combinations(alone) == GRID
    assert (alone.status, alone.done) == ("DONE", 7)


@in_the_open
def test_a_worker_that_was_overtaken_stores_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    study = requested()
    study_step(study.pk)

    def overtaken() -> None:
        TrialClaim.objects.update(leased_until=timezone.now())
        for _ in range(8):
            study_step(study.pk)

    happens_before(monkeypatch, study_slices, "_stored", overtaken)
    study_step(study.pk)
    done = played(study)

    assert combinations(done) == GRID
    assert (done.status, done.done) == ("DONE", 7)


@in_the_open
def test_what_fails_for_a_worker_that_was_overtaken_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    study = requested()
    study_step(study.pk)
    left = [study_setups.StudyChanged("wanted what it began with")]

    def raises_once(*words: Any) -> Any:
        if left:
            raise left.pop()
        return bench_of(*words)

    def overtaken() -> None:
        TrialClaim.objects.update(leased_until=timezone.now())
        study_step(study.pk)  # all trials; what is left is to conclude

    monkeypatch.setattr(study_slices, "bench_of", raises_once)
    happens_before(monkeypatch, study_slices, "_fail", overtaken)
    study_step(study.pk)
    done = played(study)

    assert (done.status, done.last_error, done.done) == ("DONE", "", 7)


@in_the_open
def test_who_has_done_a_part_of_what_somebody_else_is_at_now_stores_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = requested()
    study_step(study.pk)
    taken_until = timezone.now() + 2 * LEASE
    monkeypatch.setattr(study_slices, "SLICE_SECONDS", -1.0)
    happens_before(monkeypatch, study_slices, "_stored", lambda: TrialClaim.objects.update(leased_until=taken_until))

    study_step(study.pk)

    claim = study.claims.get()
    assert (claim.first, claim.end, claim.leased_until, study.trials.count()) == (0, 6, taken_until, 0)
    assert fresh(study).done == 0


class Killed(BaseException):
    """What nobody catches: nothing after it happens in this worker."""


@pytest.mark.parametrize(
    "moment", ["study.begun", "study.claimed", "study.computed", "study.stored", "study.concluded"]
)
@pytest.mark.parametrize("times", [1, 2])
def test_whoever_is_killed_loses_nothing_and_doubles_nothing(
    monkeypatch: pytest.MonkeyPatch, moment: str, times: int
) -> None:
    study = requested()
    Study.objects.update(at_once=4)
    passes = [0]

    def crashpoint(name: str) -> None:
        passes[0] += name == moment
        if name == moment and passes[0] == times:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(study_slices, "crashpoint", crashpoint)
        killed = False
        try:
            played(study)
        except Killed:
            killed = True
    TrialClaim.objects.filter(leased_until__isnull=False).update(leased_until=timezone.now())
    Study.objects.update(leased_until=None)
    done = played(study)

    assert killed == (times == 1 or moment not in ("study.begun", "study.concluded"))
    assert combinations(done) == GRID
    assert (done.status, done.done, done.claims.count()) == ("DONE", 7, 0)


@in_the_open
@pytest.mark.skipif(not os.environ.get("R3EDGE_LONG"), reason="a process of its own: R3EDGE_LONG=1")
def test_a_process_that_is_killed_in_a_slice_loses_nothing() -> None:
    study = requested()
    environment = {
        **os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings", "DATABASE_URL": database_url(),
        "R3EDGE_CRASH_AT": "study.computed",
    }  # fmt: skip
    script = f"""
import django
django.setup()
from backtesting.studies.slices import study_step
while study_step({study.pk}):
    pass
"""

    code = subprocess.run([sys.executable, "-c", script], env=environment, timeout=60, check=False).returncode
    TrialClaim.objects.update(leased_until=timezone.now())

    assert code == -signal.SIGKILL
    assert combinations(played(study)) == GRID


# -- the same wherever it was left --------------------------------------------------------------------------------------


def test_a_learning_search_that_was_left_suggests_what_it_would_have_suggested(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("optuna")
    words: dict[str, Any] = {
        "method": "TPE", "trials_wanted": 14, "seed": 5,
        "space": {"fast": {"low": 2, "high": 8}, "slow": {"low": 9, "high": 40}},
    }  # fmt: skip
    feed = wave_feed()
    whole = played(requested(feed=feed, **words))

    left = requested(feed=feed, **words)
    study_step(left.pk)
    Study.objects.filter(pk=left.pk).update(at_once=5)
    study_step(left.pk)
    with monkeypatch.context() as patch:
        patch.setattr(study_slices, "_stored", lambda *args, **kwargs: None)  # it dies with five more in its hands
        study_step(left.pk)
    TrialClaim.objects.update(leased_until=timezone.now())
    played(left)

    assert tried(fresh(left)) == tried(whole)
    assert len(set(combinations(whole))) == 14


def test_random_trials_are_the_seeds_and_no_two_are_the_same() -> None:
    feed = wave_feed()
    words: dict[str, Any] = {"method": "RANDOM", "trials_wanted": 4}
    one, same, other = (requested(feed=feed, seed=seed, **words) for seed in (1, 1, 2))
    for study in (one, same, other):
        played(study)

    assert combinations(one) == combinations(same) != combinations(other)
    assert len(set(combinations(one))) == 4


def test_what_one_slice_does_not_come_to_is_left_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_slices, "SLICE_SECONDS", -1.0)
    study = requested()
    study_step(study.pk)

    study_step(study.pk)

    left = study.claims.get()
    assert combinations(study) == GRID[:1]
    assert (left.first, left.end, left.leased_until, fresh(study).at_once) == (1, 6, None, 1)
    assert combinations(played(study)) == GRID


def test_studies_on_the_same_data_share_it_and_it_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = wave_feed()
    first = played(requested(feed=feed))
    read: list[int] = []
    monkeypatch.setattr(study_setups, "markets_of", lambda *args: read.append(1))

    assert bench_of(first).markets[0] is bench_of(first).markets[0]
    assert read == []


# -- what fails, what ends it -------------------------------------------------------------------------------------------


def test_a_trial_that_raises_says_where_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    original = SmaCross.signals

    def signals(self: SmaCross, candles: Any) -> SignalArrays:
        if self.parameters.fast == 3:
            raise RuntimeError("no threes\0")
        return original(self, candles)

    monkeypatch.setattr(SmaCross, "signals", signals)
    study = played(requested())

    failed = study.trials.filter(status="FAILED")
    assert study.status == "DONE"
    assert study.result is not None
    assert [one.number for one in failed.order_by("number")] == [2, 3]
    assert failed[0].reason.startswith("RuntimeError: no threes  at ")
    assert study.result["trials"] == {"done": 4, "valued": 4, "skipped": 0, "failed": 2}


def test_where_every_trial_fails_the_study_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def signals(self: SmaCross, candles: Any) -> SignalArrays:
        raise RuntimeError("none at all")

    monkeypatch.setattr(SmaCross, "signals", signals)
    study = played(requested())

    assert study.status == "FAILED"
    assert study.last_error.startswith("wanted a trial that is done, was none: RuntimeError: none at all")


def test_a_trial_that_ends_its_worker_each_time_is_found_and_given_up() -> None:
    study = requested()
    study_step(study.pk)
    Study.objects.update(claimed=6)
    TrialClaim.objects.create(study=study, fold=0, first=0, end=6, leased_until=timezone.now() - LEASE)

    def dies_at(number: int) -> Callable[..., Any]:
        original = study_slices._slice

        def slice_or_death(claim: TrialClaim, *, has_rung: bool) -> None:
            if claim.first <= number < claim.end:
                TrialClaim.objects.filter(pk=claim.pk).update(leased_until=timezone.now())
            else:
                original(claim, has_rung=has_rung)

        return slice_or_death

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_slices, "_slice", dies_at(2))
        for _ in range(30):
            study_step(study.pk)
    done = played(study)

    failed = done.trials.get(status="FAILED")
    assert done.status == "DONE"
    assert (failed.number, failed.reason.startswith(f"wanted a worker that lives to its end, was {MOST_TRIES}")) == (
        2,
        True,
    )
    assert [row[1] for row in tried(done)] == list(range(6))
    assert done.trials.filter(status="DONE").count() == 5


def test_what_it_cannot_begin_with_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    study = requested()
    Candle.objects.filter(feed=study.feeds.get(), open_at__lt=FROM_AT + timedelta(hours=100)).delete()

    study = played(study)

    assert study.status == "FAILED"
    assert "100 are missing" in study.last_error


def test_candles_that_changed_meanwhile_end_it_and_a_retry_begins_anew() -> None:
    study = requested()
    study_step(study.pk)
    Study.objects.update(at_once=2)
    study_step(study.pk)
    first = fresh(study).data_hash
    Candle.objects.filter(open_at=UNTIL_AT - timedelta(hours=20)).update(close=105, high=120)
    study_setups._held.clear()

    changed = played(study)
    study_retry(study.pk)
    again = played(study)

    assert (changed.status, changed.data_hash, changed.trials.count()) == ("FAILED", "", 6)
    assert changed.last_error == "wanted the market data that it began with, has changed since: a retry begins anew"
    assert (again.status, again.done, combinations(again)) == ("DONE", 7, GRID)
    assert again.data_hash != first


def test_code_that_changed_meanwhile_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    study = requested()
    study_step(study.pk)
    monkeypatch.setattr(study_setups, "code_hash", lambda kind: "other")

    assert played(study).last_error.startswith("wanted the code that it began with, has changed since")


@in_the_open
def test_one_that_is_cancelled_meanwhile_keeps_what_is_stored_and_a_retry_goes_on(
    monkeypatch: pytest.MonkeyPatch, bells: Bells
) -> None:
    study = requested()
    study_step(study.pk)
    Study.objects.update(at_once=2)
    study_step(study.pk)
    bells.clear()
    happens_before(monkeypatch, study_slices, "_stored", lambda: study_cancel(study.pk, actor="alice"))
    study_step(study.pk)

    cancelled = fresh(study)
    kept = combinations(cancelled)
    stepped = study_step(study.pk), study_cancel(study.pk)
    study_retry(study.pk)
    again = played(study)

    assert (cancelled.status, kept, stepped) == ("CANCELED", GRID[:2], (False, False))
    assert bells.rung("optimising.step")[-1] == {"study_ids": [study.pk]}
    assert (again.status, combinations(again), again.done) == ("DONE", GRID, 7)


def test_what_goes_on_or_is_done_cannot_be_retried_nor_deleted_before_its_end() -> None:
    study = requested()
    with pytest.raises(UnableToStudy, match="was QUEUED"):
        study_retry(study.pk)
    with pytest.raises(UnableToStudy, match="cancel it first"):
        study_delete(study.pk)
    played(study)
    with pytest.raises(UnableToStudy, match="was DONE"):
        study_retry(study.pk)

    study_delete(study.pk)

    assert (Study.objects.count(), Trial.objects.count()) == (0, 0)


def test_owners_take_turns_however_many_studies_one_of_them_has() -> None:
    feed = wave_feed()
    alice, bob = make_user("alice"), make_user("bob")
    for _ in range(3):
        requested(alice, feed)
    last = requested(bob, feed)
    Study.objects.update(at_once=1)

    stepped = [study_step_next() for _ in range(8)]

    assert stepped.count(last.pk) == 4


def test_a_trial_that_was_not_done_makes_no_backtest() -> None:
    study = played(requested())
    Trial.objects.filter(number=0).update(status="SKIPPED")

    with pytest.raises(UnableToStudy, match="wanted a trial that is done, was SKIPPED"):
        trial_to_run(study.trials.get(number=0), study.owner)

    assert not BacktestRun.objects.exists()
