"""`./r3edge backtest` with a search: what it tries, tells and prints, and what it says to those who asked for too much."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from backtesting.commandline import main
from strategies.library.swing import Swing
from tests.backtesting.tape import drifting
from tests.domain.reference import ROOT

OPTUNA = pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="optuna is not installed")


@pytest.fixture(scope="module")
def tape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("tape") / "TAPE-1h.csv"
    candles = drifting(1200).candles
    with path.open("w") as lines:
        lines.write("ts,open,high,low,close,volume\n")
        for row in zip(
            candles.open_ms, candles.open, candles.high, candles.low, candles.close, candles.volume, strict=True
        ):
            lines.write(",".join(map(repr, (int(row[0]), *map(float, row[1:])))) + "\n")
    return path


def wanted(path: Path, *more: str) -> list[str]:
    return ["--strategy", "sma_cross", "--candles", str(path), "--timeframe", "1h", *more]


def told(*arguments: str) -> dict[str, Any]:
    out = io.StringIO()
    assert main([*arguments, "--json"], out) == 0
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


def printed(*arguments: str) -> str:
    out = io.StringIO()
    assert main(list(arguments), out) == 0
    return out.getvalue()


def test_a_search_tells_all_trials_the_best_first_and_what_speaks_against_it(tape: Path) -> None:
    found = told(
        *wanted(tape, "--optimise", "fast=3:9:2", "--optimise", "slow=5,20,40", "--set", "stop_loss_percent=3")
    )["search"]  # fmt: skip
    # 4 times 3, less 5 and 5, 7 and 5, 9 and 5.
    assert len(found["trials"]) == 9
    values = [one["value"] for one in found["trials"]]
    assert values == sorted(values, reverse=True)
    assert {one["values"]["stop_loss_percent"] for one in found["trials"]} == {3}
    assert all(0 <= found[name] <= 1 for name in ("deflated_sharpe", "overfitting", "loss_after"))
    assert 1 <= found["independent_trials"] <= 9


def test_the_best_trial_is_what_one_backtest_of_its_parameters_says(tape: Path) -> None:
    best = told(*wanted(tape, "--optimise", "fast=3:9:2", "--optimise", "slow=20,40"))["search"]["trials"][0]
    sets = [part for name, value in best["values"].items() for part in ("--set", f"{name}={value}")]
    alone = told(*wanted(tape, *sets))
    assert alone["stats"]["trades"] == best["figures"]["trades"] > 10
    assert alone["stats"]["final_equity"] == best["figures"]["final_equity"]


def test_a_search_over_the_timeframe_of_a_trend_shows_each_trial_its_own(tape: Path) -> None:
    swing = ["--strategy", "swing", "--candles", str(tape), "--timeframe", "1h", "--set", "period=3"]
    swing += ["--set", "trend_fast=2"]
    found = told(*swing, "--optimise", "trend_timeframe=1h,4h,12h", "--optimise", "trend_slow=3,5")["search"]["trials"]
    assert len(found) == 6
    for one in found:
        sets = [part for name, value in one["values"].items() for part in ("--set", f"{name}={value}")]
        alone = told(*swing[:6], *sets)["stats"]
        for name in ("trades", "final_equity", "sharpe"):
            assert alone[name] == one["figures"][name]
    assert len({one["figures"]["final_equity"] for one in found}) == 6


def test_a_walk_forward_trains_on_nothing_before_longer_candles_are_known(tape: Path) -> None:
    swing = ["--strategy", "swing", "--candles", str(tape), "--timeframe", "1h", "--set", "period=3"]
    swing += ["--set", "trend_fast=2", "--set", "trend_timeframe=12h", "--optimise", "trend_slow=3,5"]
    found = told(*swing, "--walk-forward", "240:120", "--min-trades", "0", "--objective", "total_return")[
        "walk_forward"
    ]
    needed = max(
        one.warm_up * one.timeframe.seconds
        for slow in (3, 5)
        for one in Swing.from_values({"trend_fast": 2, "trend_slow": slow, "trend_timeframe": "12h"}).informative
    )
    assert found["folds"][0]["train"][0] == needed * 1000


@OPTUNA
def test_each_method_keeps_to_its_trials_seed_and_objective(tape: Path) -> None:
    for method in ("random", "tpe"):
        search = ["--optimise", "fast=2:30", "--optimise", "slow=40", "--method", method, "--trials", "13"]
        one, again, other = (
            told(*wanted(tape, *search, "--objective", "total_return", "--seed", seed))["search"]
            for seed in ("1", "1", "2")
        )
        assert one == again != other
        assert len(one["trials"]) == 13
        assert one["trials"][0]["value"] == max(trial["figures"]["total_return"] for trial in one["trials"])


def test_a_walk_forward_tells_its_folds_and_what_they_kept(tape: Path) -> None:
    found = told(
        *wanted(tape, "--optimise", "fast=3,8", "--optimise", "slow=20,40", "--walk-forward", "20d:10d", "--anchored")
    )["walk_forward"]  # fmt: skip
    day_ms = 86_400_000
    assert [one["test"][0] - found["folds"][0]["train"][0] for one in found["folds"]] == [
        20 * day_ms, 30 * day_ms, 40 * day_ms
    ]  # fmt: skip
    assert len({one["train"][0] for one in found["folds"]}) == 1
    assert found["figures"]["trades"] == sum(one["test_figures"]["trades"] for one in found["folds"]) > 0
    assert set(found["stability"]) == {"fast", "slow"}


def test_luck_is_told_of_one_backtest_and_of_a_search_with_its_neighbours(tape: Path) -> None:
    found = told(*wanted(tape, "--set", "fast=5", "--set", "slow=20", "--monte-carlo", "40", "--ruin", "1%"))
    assert list(found["monte_carlo"]) == [
        "trades shuffled", "trades drawn again", "returns in blocks", "prices with noise",
    ]  # fmt: skip
    shuffled = found["monte_carlo"]["trades shuffled"]
    assert (shuffled["paths"], shuffled["ruin_at"]) == (40, 0.01)
    assert shuffled["drawdown"]["5"] <= shuffled["drawdown"]["50"] < 0
    searched = told(*wanted(tape, "--optimise", "fast=5:8", "--set", "slow=20", "--monte-carlo", "10"))
    assert searched["monte_carlo"]["neighbours"]["paths"] in (1, 2)


def test_the_page_names_the_best_and_the_doubts(tape: Path) -> None:
    page = printed(
        *wanted(
            tape, "--optimise", "fast=3,8", "--optimise", "slow=20,40", "--walk-forward", "480:240", "--monte-carlo", "20"
        )
    )  # fmt: skip
    lines = page.splitlines()
    assert lines[0] == "4 trials of sma_cross on TAPE by GRID, seed 0"
    assert lines[1].split() == ["trial", "fast", "slow", "sharpe", "return", "drawdown", "trades", "won"]
    assert "  deflated Sharpe ratio" in page
    assert "  probability of overfitting" in page
    assert "Walk-forward: 3 tests on candles not seen" in page
    assert "tests: trades shuffled" in page


def test_too_few_candles_to_say_how_overfitted_it_is_are_named(tape: Path) -> None:
    page = printed(*wanted(tape, "--optimise", "fast=2,3", "--set", "slow=5", "--to", "1970-01-02T06:00"))
    assert "probability of overfitting          -  too few trials or candles to say" in page


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--optimise", "speed=1,2"], "wanted a parameter of sma_cross"),
        (["--optimise", "fast=2:"], "wanted NAME=LOW:HIGH or NAME=LOW:HIGH:STEP after --optimise, was fast=2:"),
        (["--optimise", "fast=60:70"], "wanted a combination that sma_cross takes, was none among 11"),
        (
            ["--optimise", "fast=3,5", "--optimise", "fast=7"],
            "wanted --optimise once for each parameter, was twice for fast",
        ),
        (
            ["--optimise", "fast=3,5", "--to", "1960-01-01"],
            "wanted candles in TAPE-1h.csv to 1960-01-01 00:00, was none",
        ),
        (["--optimise", "fast", "--set", "fast=3"], "either searched or fixed, was both: fast"),
        (["--optimise", "fast=3,5", "--objective", "luck"], "wanted one of the objectives sharpe, sortino"),
        (
            ["--optimise", "fast=3,5", "--min-trades", "999"],
            "wanted a trial with at least 999 trades and a sharpe, was none",
        ),
        (["--optimise", "fast=3,5", "--trials", "0"], "wanted at least 1 trial, was 0"),
        (["--optimise", "fast=3,5", "--trades", "x.csv"], "wanted --trades with one backtest, was with a search"),
        (["--optimise", "fast=3,5", "--walk-forward", "90d"], "wanted TRAIN:TEST after --walk-forward"),
        (["--optimise", "fast=3,5", "--walk-forward", "90d:30d"], "wanted candles for a training of 90d"),
        (["--walk-forward", "9d:3d"], "wanted --optimise with --walk-forward, was none"),
        (["--trials", "5"], "wanted --optimise with --trials, was none"),
        (["--optimise", "fast=3,5", "--anchored"], "wanted --walk-forward with --anchored, was none"),
        (
            ["--optimise", "fast=3,5", "--walk-forward", "99999999999d:1d"],
            "wanted a length of at least 1 and at most 1000000000, was 99999999999",
        ),
        (["--monte-carlo", "0"], "wanted at least 1 path of at least 1 return, was 0"),
        (["--monte-carlo", "5", "--to", "1970-01-02"], "wanted at least 1 trade that has ended, was 0"),
        (["--set", "fast=60", "--monte-carlo", "5"], "wanted fast below slow, was fast=60 and slow=50"),
    ],
)
def test_what_cannot_be_searched_is_said_in_one_line(
    more: list[str], complaint: str, tape: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(wanted(tape, *more)) == 2
    said = capsys.readouterr().err
    assert complaint in said
    assert said.count("\n") == 1


def test_a_search_by_grid_imports_nothing_heavy(tape: Path) -> None:
    code = (
        "import sys; from backtesting.commandline import main; assert 'backtesting.research.search' not in sys.modules; "
        f"assert main({wanted(tape, '--optimise', 'fast=3,5', '--monte-carlo', '5')!r}) == 0; "
        "heavy = {'django', 'numba', 'pandas', 'optuna', 'celery'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
