"""What many trials say together, in exact figures and in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backtesting.engine.inputs import Result, Settings
from backtesting.research import conclusions
from backtesting.research.conclusions import drawn, importance_of, luck_of, plain, rerun, searched
from backtesting.research.trials import TrialFacts
from backtesting.research.words import MonteCarloWords
from domain.overfitting import deflated_sharpe, overfitting


def facts(number: int, value: float | None, returns: Any = (), **values: Any) -> TrialFacts:
    return TrialFacts(values, value, {"trades": 9}, np.array(returns, np.float32), number)


def noise(trials: int, length: int = 64, lift: float = 0.0) -> list[TrialFacts]:
    """Trials worth nothing, the last of them ``lift`` better by the period."""
    table = np.random.default_rng(3).normal(0, 0.01, (trials, length))
    table[-1] += lift
    return [facts(number, float(row.mean()), row, fast=number) for number, row in enumerate(table)]


def test_the_parameter_whose_values_lie_furthest_apart_matters_most() -> None:
    done = [facts(0, 1.0, a=1, b="x"), facts(1, 3.0, a=2, b="x"), facts(2, 2.0, a=1, b="y"), facts(3, 4.0, a=2, b="y")]

    first, second = importance_of(done, ["b", "a"])

    assert first == {
        "name": "a", "spread": 2.0, "share": 2 / 3,
        "groups": [{"value": 1, "trials": 2, "mean": 1.5}, {"value": 2, "trials": 2, "mean": 3.5}],
    }  # fmt: skip
    assert (second["name"], second["spread"], second["share"]) == ("b", 1.0, 1 / 3)
    assert [group["value"] for group in second["groups"]] == ["x", "y"]


def test_many_values_of_a_number_are_put_together_in_groups_of_the_same_size() -> None:
    done = [facts(number, float(number), a=number) for number in range(16)]

    [row] = importance_of(done, ["a"])

    assert [group["value"] for group in row["groups"]][:2] == ["0 to 1", "2 to 3"]
    assert [group["trials"] for group in row["groups"]] == [2] * 8
    assert [group["mean"] for group in row["groups"]] == [0.5 + 2 * place for place in range(8)]


def test_without_trials_nothing_matters() -> None:
    assert importance_of([], ["a"]) == [{"name": "a", "spread": 0.0, "groups": [], "share": 0.0}]
    told = searched([], ["a"], "sharpe")
    nothing = "None of 0 trials has a Sharpe ratio: they traded too little, or not at all."
    assert (told["best"], told["luck"], told["words"]) == (None, None, [nothing])


def test_luck_is_judged_by_the_returns_of_all_trials() -> None:
    done = noise(12)

    luck = luck_of(done, done[4])

    table = np.stack([one.returns for one in done], axis=1).astype(np.float64)
    deflated, found = deflated_sharpe(table, 4), overfitting(table, 16)
    assert luck is not None
    assert luck["deflated_sharpe"] == pytest.approx(deflated.probability)
    assert luck["luckiest_sharpe"] == pytest.approx(deflated.luckiest)
    assert luck["overfitting"]["probability"] == found.probability
    assert (luck["periods"], luck["overfitting"]["divisions"]) == (64, 12_870)


def test_one_that_is_truly_better_stands_up_and_noise_does_not() -> None:
    worthless, good = noise(20), noise(20, length=400, lift=0.01)

    told = [searched(one, ["fast"], "sharpe") for one in (worthless, good)]

    assert told[0]["luck"]["deflated_sharpe"] < 0.9 < 0.95 < told[1]["luck"]["deflated_sharpe"]
    assert told[1]["luck"]["overfitting"]["probability"] == 0
    assert told[1]["words"][0].endswith("it stands up.")
    assert told[0]["words"][0].endswith("that is too little to trust it.")
    assert told[1]["words"][1].endswith("the search finds something.")


def test_of_few_periods_or_one_trial_overfitting_cannot_be_told() -> None:
    short, alone = noise(5, length=7), noise(1)

    assert [luck_of(one, one[0])["overfitting"] for one in (short, alone)] == [None, None]  # type: ignore[index]
    assert luck_of([facts(0, 1.0)], facts(0, 1.0)) is None


def test_more_returns_than_may_be_held_are_put_together_and_compound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conclusions, "MOST_RETURNS", 8)
    done = [facts(0, 1.0, [0.1, 0.1, 0.0, -0.5, 0.2]), facts(1, 0.0, [0.0] * 5)]

    table = conclusions._table(done)

    assert table.shape == (2, 2)
    assert table[:, 0] == pytest.approx([1.1 * 1.1 - 1, -0.5])
    assert table[:, 1].tolist() == [0.0, 0.0]


def test_without_a_trade_or_a_trial_the_bands_say_why() -> None:
    empty = Result([], np.empty(0, np.int64), np.empty(0))
    words = MonteCarloWords(paths=10)

    told = drawn(empty, Settings(), words, np.zeros(4), [1, 2, 3])

    assert told["TRADE_SHUFFLE"] == told["TRADE_BOOTSTRAP"] == {"why": "wanted a trade that has ended, was none"}
    assert told["BLOCK_BOOTSTRAP"]["final_return"]["50"] == 0
    assert rerun([], 0.5) == {"why": "wanted a trial that was done, was none"}


def test_what_is_no_number_is_none_in_json() -> None:
    assert plain({"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": (2, "x")}}) == {
        "a": None, "b": [None, 1.5], "c": {"d": [2, "x"]},
    }  # fmt: skip
