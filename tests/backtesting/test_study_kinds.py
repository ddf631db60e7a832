"""What each kind of study computes: every trial is the backtest of its parameters, whatever they decide."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import pytest

from backtesting.models import Study, Trial, TrialClaim
from backtesting.research.search import suggest
from backtesting.research.trials import TrialState
from backtesting.runs import run_compute
from backtesting.studies import setups as study_setups
from backtesting.studies import study_request, trial_to_run
from backtesting.studies import work as study_work
from backtesting.studies.setups import StudyAsked
from backtesting.studies.slices import study_step
from domain.candles import Timeframe
from tests.backtesting.test_runs import FROM_AT, UNTIL_AT, asked, wave_feed, waves
from tests.backtesting.test_studies import played, requested, tried
from tests.conftest import Bells
from tests.factories import NOON, make_candles, make_feed, make_user
from tests.workers import wait_until, workers_running

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("no_renewals")]


def backtested(trial: Trial) -> dict[str, Any]:
    """The figures of the backtest that is made of a trial."""
    run = trial_to_run(trial, trial.study.owner)
    run_compute(run.pk)
    run.refresh_from_db()
    assert run.figures is not None, run.last_error
    figures: dict[str, Any] = run.figures
    return figures


def test_exits_that_are_searched_are_those_of_each_trial_beside_those_of_the_study() -> None:
    space = {"take_profit_percent": [1, 50]}
    setup = {"parameters": {"fast": 3, "slow": 8}, "exits": {"max_hold_minutes": 300}}

    study = played(requested(space=space, setup=setup))

    reasons = []
    for trial in study.trials.order_by("number"):
        run = trial_to_run(trial, study.owner)
        run_compute(run.pk)
        run.refresh_from_db()
        assert run.figures is not None
        assert run.figures["stats"]["total_return"] == pytest.approx(trial.value, abs=1e-12)
        reasons.append({one["name"] for one in run.figures["per_reason"]})
    assert reasons == [{"TAKE_PROFIT"}, {"TIME_EXIT"}]


# -- walk-forward, Monte Carlo ------------------------------------------------------------------------------------------


def test_a_walk_forward_searches_each_training_and_judges_the_best_in_its_test() -> None:
    study = played(requested(kind="WALK_FORWARD", options={"train": "96", "test": "48"}))

    assert study.result is not None
    folds = study.result["folds"]
    assert (study.status, len(study.folds), study.per_fold, study.done) == ("DONE", 3, 6, 19)
    assert [one["train"][1] for one in folds] == [one["test"][0] for one in folds]
    for one in folds:
        trials = study.trials.filter(fold=one["number"])
        best = trials.order_by("-value", "number")[0]
        assert one["values"] == best.parameters
    assert [row[:2] for row in tried(study)] == [(fold, number) for fold in range(3) for number in range(6)]
    assert study.result["equity"][0][0] == folds[0]["test"][0]
    assert len(study.result["equity"]) == 144
    assert set(study.result["stability"]) == {"fast", "slow"}


def test_a_monte_carlo_study_draws_from_trades_and_repeats_with_neighbours_and_noise() -> None:
    ways = ["TRADE_SHUFFLE", "BLOCK_BOOTSTRAP", "PARAMETER_JITTER", "PRICE_NOISE"]
    words: dict[str, Any] = {
        "kind": "MONTE_CARLO", "options": {"ways": ways, "paths": 50, "reruns": 12},
        "space": {"fast": {"low": 2, "high": 5}, "slow": {"low": 7, "high": 12}},
        "setup": {"parameters": {"fast": 3, "slow": 8}},
    }  # fmt: skip
    feed = wave_feed()
    study, again = (played(requested(feed=feed, **words)) for _ in range(2))

    assert study.result is not None
    told = study.result["ways"]
    near = {(row[3], row[4]) for row in tried(study) if row[0] == 0 and row[2] == "DONE"}
    assert (study.status, study.done, set(told)) == ("DONE", 25, set(ways))
    assert near == {(fast, slow) for fast in (2, 3, 4) for slow in (7, 8, 9)} - {(3, 8)}
    assert {(row[3], row[4]) for row in tried(study) if row[0] == 1} == {(3, 8)}
    assert (told["PARAMETER_JITTER"]["paths"], told["PRICE_NOISE"]["paths"]) == (8, 12)
    for bands in told.values():
        low, middle, high = (bands["final_return"][level] for level in ("5", "50", "95"))
        assert low <= middle <= high
    assert told["TRADE_SHUFFLE"]["final_return"]["5"] == pytest.approx(told["TRADE_SHUFFLE"]["final_return"]["95"])
    assert study.result["words"][1].startswith(
        "Trade shuffle: in any order they end at the same; one in twenty falls by "
    )
    assert again.result == study.result


def test_a_walk_forward_of_too_many_trials_is_ended_with_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_setups, "MOST_TRIALS", 10)

    study = played(requested(kind="WALK_FORWARD", trials_wanted=6, options={"train": "96", "test": "48"}))

    assert (study.status, study.last_error) == (
        "FAILED", "wanted at most 200 folds and 10 trials in all, was 3 of 6 trials",
    )  # fmt: skip


def test_a_portfolio_is_searched_as_one_account() -> None:
    feeds = [wave_feed(), wave_feed("ETH/USDT", waves(size=6.0))]
    setup = asked(*feeds, parameters={"slow": 8}, settings={"amount": "60"})
    words: dict[str, Any] = {"space": {"fast": [2, 3]}, "objective": "total_return"}
    study = played(study_request(make_user(), StudyAsked(kind="OPTIMISE", setup=setup, **words)))

    assert study.name == "Optimise sma_cross BTC/USDT, ETH/USDT 1h"
    for trial in study.trials.all():
        figures = backtested(trial)
        assert {one["name"] for one in figures["per_market"]} == {"BTC/USDT", "ETH/USDT"}
        assert figures["stats"]["total_return"] == pytest.approx(trial.value, abs=1e-12)


def test_what_a_strategy_looks_at_beside_its_own_candles_may_be_searched() -> None:
    feed = wave_feed()
    for timeframe, count in ((Timeframe.H2, 120), (Timeframe.H4, 60)):
        other = make_feed(feed.market, timeframe)
        make_candles(other, waves(count, size=20.0), timeframe.open_of(NOON) - timeframe.length)
    space = {"lookback": [2, 6], "timeframe": ["2h", "4h"]}
    setup = {"strategy": "momentum_rotation", "from_at": FROM_AT + timedelta(hours=72), "until_at": UNTIL_AT}

    study = played(requested(feed=feed, space=space, setup=setup))

    assert study.status == "DONE", study.last_error
    assert len({trial.value for trial in study.trials.all()}) == 4
    for trial in study.trials.all():
        assert trial.status == "DONE", trial.reason
        assert backtested(trial)["stats"]["total_return"] == pytest.approx(trial.value, abs=1e-12)


def test_a_learning_search_is_told_what_others_are_at(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optuna")
    study = requested(method="TPE", trials_wanted=3)
    study_step(study.pk)
    TrialClaim.objects.create(study=study, fold=0, first=0, end=1, leased_until=NOON, values={"fast": 2, "slow": 8})
    Study.objects.update(claimed=1, at_once=1)
    TrialClaim.objects.update(leased_until=study.created_at + timedelta(hours=1))
    told: list[list[TrialState]] = []

    def asked_for(*args: Any) -> Any:
        told.append([one.state for one in args[-1]])
        return suggest(*args)

    monkeypatch.setattr(study_work, "suggest", asked_for)
    study_step(study.pk)

    assert told == [[TrialState.AT_WORK]]
    assert study.trials.get().parameters["fast"], "a trial of its own"


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(not os.environ.get("R3EDGE_LONG"), reason="two workers of their own: R3EDGE_LONG=1")
def test_two_workers_compute_a_study_as_one_process_does(bells: Bells) -> None:
    feed = wave_feed()
    space = {"fast": {"low": 2, "high": 20}, "slow": {"low": 21, "high": 60}}
    words: dict[str, Any] = {"method": "RANDOM", "trials_wanted": 400, "space": space}
    alone = played(requested(feed=feed, **words))
    bells.clear()

    with workers_running("worker-research", "worker-research-2"):
        shared = requested(feed=feed, **words)
        wait_until(lambda: Study.objects.get(pk=shared.pk).status == "DONE", "a study that is done", 90)

    shared.refresh_from_db()
    assert tried(shared) == tried(alone)
    assert shared.result == alone.result
