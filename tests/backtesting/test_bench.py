"""What the bench of backtests is made of, without installing or measuring anything."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from backtesting.commandline import candles_from
from benchmarks import backtest
from benchmarks.backtest import CannotMeasure
from benchmarks.options import ALONE, parser
from benchmarks.peers import PEERS
from benchmarks.report import Report
from benchmarks.tapes import tape, write


def test_generated_candles_are_the_same_for_everybody_and_possible() -> None:
    made, again = tape(5_000), tape(5_000)
    assert made.close.tolist() == again.close.tolist()
    assert np.diff(made.open_ms).tolist() == [3_600_000] * 4_999
    assert (made.high >= np.maximum(made.open, made.close)).all()
    assert (made.low <= np.minimum(made.open, made.close)).all()
    assert (made.low > 0).all()
    assert tape(5_000, seed=1).close.tolist() != made.close.tolist()


def test_candles_are_written_as_every_program_reads_them(tmp_path: Path) -> None:
    made = tape(200)
    write(made, tmp_path / "tape.csv")
    read = candles_from(tmp_path / "tape.csv")
    for name in ("open_ms", "open", "high", "low", "close", "volume"):
        assert getattr(read, name).tolist() == getattr(made, name).tolist()


def test_the_bench_is_registered_and_needs_no_services() -> None:
    options = parser().parse_args(["backtest", "--peer", "vectorbt", "--large", "20000"])
    assert (options.name, options.peer, options.no_peers, options.large) == ("backtest", ["vectorbt"], False, 20_000)
    assert "backtest" in ALONE
    with pytest.raises(SystemExit):
        parser().parse_args(["backtest", "--peer", "nobody"])


def test_every_peer_has_its_script_and_its_version() -> None:
    for peer in PEERS.values():
        assert (backtest.SCRIPTS / peer.script).is_file()
        assert all("==" in package for package in peer.packages)


def test_a_process_answers_with_what_it_printed_and_used() -> None:
    out, cpu_s, rss_mb, whole_s = backtest._answer([sys.executable, "-c", "print(sum(range(10**6)))"])
    assert out.strip() == "499999500000"
    assert 0 < cpu_s < 10
    assert 1 < rss_mb < 1000
    assert whole_s > 0


def test_a_program_that_fails_or_says_something_else_is_skipped_with_its_last_word() -> None:
    with pytest.raises(CannotMeasure, match=r"did not run \(No module named nothing_of_this_name\)"):
        backtest._answer([sys.executable, "-c", "import sys; sys.exit('No module named nothing_of_this_name')"])
    with pytest.raises(CannotMeasure, match="wanted one line of figures, was 'hello"):
        backtest._ran([sys.executable, "-c", "print('hello')"])


def test_a_program_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backtest, "LIMIT_S", 0.2)
    with pytest.raises(CannotMeasure, match="ended by signal 9 after 0 s"):
        backtest._answer([sys.executable, "-c", "import time; time.sleep(30)"])


def test_a_program_that_cannot_be_installed_is_told_of_in_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vectorbt").write_text("a file where the environment would be")
    monkeypatch.setattr(backtest, "ENVIRONMENTS", tmp_path)
    report = Report("backtest")
    report.figures["small"] = {}
    shown = report.table("x", *"abcdefgh")
    ran = backtest.Ran(508, 1.0, 0.001, 0.001, 100.0, 1.0, 1.0)
    backtest._peer(report, shown, "vectorbt", tmp_path / "tape.csv", ran, 0.5)
    ((name, word, *_),) = shown.rows
    assert name == "vectorbt"
    assert word.startswith("skipped: could not be installed (")
    assert report.figures["small"]["vectorbt"]["skipped"].startswith("could not be installed (")


@pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")
def test_our_own_job_says_its_trades_and_figures(tmp_path: Path) -> None:
    write(tape(3_000), tmp_path / "tape.csv")
    ran = backtest._r3edge(str(tmp_path / "tape.csv"), 2, "simple", 3_000)
    swept = backtest._r3edge(str(tmp_path / "tape.csv"), 11, "sweep", 3_000, "20/50,20/50")
    assert ran.trades == 30
    searched = backtest._r3edge(str(tmp_path / "tape.csv"), 1, "trials", 3_000, "20/50,20/50")
    assert (swept.trades, searched.trades) == (60, 60)
    assert 0 < ran.warm_cpu_s < ran.whole_cpu_s
    assert ran.is_compiled
