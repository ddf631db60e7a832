"""`./r3edge backtest`: what it prints, what it writes, and what it says to those who asked for what it cannot do."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from backtesting.commandline import candles_from, main
from tests.domain.reference import ROOT

HOUR_MS = 3_600_000


@pytest.fixture
def wave(tmp_path: Path) -> Path:
    """400 hours of a wave, gzipped, its columns in an order of their own and one more."""
    path = tmp_path / "WAVE-1h.csv.gz"
    with gzip.open(path, "wt") as lines:
        lines.write("close,ts,trades,open,high,low,volume\n")
        for hour in range(400):
            price = round(100 + 10 * math.sin(hour / 9), 4)
            lines.write(f"{price},{hour * HOUR_MS},7,{price},{price},{price},1\n")
    return path


def run(*arguments: str) -> dict[str, Any]:
    out = io.StringIO()
    assert main([*arguments, "--json"], out) == 0
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


def wanted(path: Path, *more: str) -> list[str]:
    return [
        "--strategy", "sma_cross", "--candles", str(path), "--timeframe", "1h", "--set", "fast=3", "--set", "slow=10",
        "--stop-loss", "0", "--take-profit", "0", *more,
    ]  # fmt: skip


def test_it_tells_trades_figures_and_equity(wave: Path) -> None:
    told = run(*wanted(wave, "--fee", "0"))
    assert list(told)[:3] == ["stats", "trades", "equity"]
    assert set(told) == {
        "stats", "trades", "equity", "per_month", "per_reason", "per_tag", "per_market", "per_side", "drawdowns",
        "benchmark", "warnings",
    }  # fmt: skip
    assert (told["stats"]["trades"], told["stats"]["still_open"]) == (6, 1)
    assert list(told["trades"][0]) == [
        "side", "entry_at", "entry_price", "exit_at", "exit_price", "quantity", "pnl", "return", "exit_reason",
        "symbol", "fees", "funding", "tag",
    ]  # fmt: skip
    assert told["trades"][0]["exit_reason"] == "EXIT_SIGNAL"
    assert told["equity"][0] == [11 * HOUR_MS, 10_000.0]
    assert told["equity"][-1] == [399 * HOUR_MS, told["stats"]["final_equity"]]
    assert sum(one["pnl"] for one in told["trades"]) == pytest.approx(told["stats"]["final_equity"] - 10_000)


def test_fee_stake_cash_stop_and_span_are_as_asked_for(wave: Path) -> None:
    free = run(*wanted(wave, "--fee", "0", "--stake", "50%", "--cash", "2000"))["trades"][0]
    assert free["quantity"] * free["entry_price"] == pytest.approx(1000)
    costly = run(*wanted(wave, "--fee", "1%", "--stake", "50%", "--cash", "2000"))["trades"][0]
    assert costly["pnl"] == pytest.approx(free["pnl"] - 10 - 10 * free["exit_price"] / free["entry_price"])
    stopped = run(*wanted(wave), "--stop-loss", "0.5%", "--take-profit", "1%")["trades"]
    assert {one["exit_reason"] for one in stopped} <= {"STOP_LOSS", "TAKE_PROFIT"}
    short = run(*wanted(wave, "--from", "1970-01-02", "--to", "1970-01-05T00:00"))["equity"]
    assert (short[0][0], short[-1][0]) == (35 * HOUR_MS, 96 * HOUR_MS)


def test_it_writes_the_trades(wave: Path, tmp_path: Path) -> None:
    told = run(*wanted(wave, "--trades", str(tmp_path / "trades.csv")))
    with (tmp_path / "trades.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [float(row["pnl"]) for row in rows] == [one["pnl"] for one in told["trades"]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ts,open,high,low,close\n", "wanted the columns ts, open, high, low, close, volume in x.csv"),
        ("ts,open,high,low,close,volume\n0,1,1,1,1,1\n1,1,a,1,1,1\n", "in line 3 of x.csv, was 1,1,a,1,1,1"),
        ("ts,open,high,low,close,volume\n0,1,nan,1,1,1\n", "wanted finite numbers in line 2 of x.csv"),
        ("ts,open,high,low,close,volume\n5,1,1,1,1,1\n5,1,1,1,1,1\n", "each once, was otherwise at candle 2"),
        ("ts,open,high,low,close,volume\n", "wanted candles between --from and --to in x.csv, was none at all"),
        ("ts,open,high,low,close,volume\n0,1,1,1,1,1\n60000,1,1,1,1,1\n", "of 1h in x.csv, was one every 1 minutes"),
        ("ts,open,high,low,close,volume\n0,1,1,1,1,1\n7200000,1,1,1,1,1\n", "of 1h in x.csv, was one every 120 min"),
    ],
)
def test_a_file_that_is_not_as_wanted_is_refused_with_its_line(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.csv").write_text(text)
    assert main(wanted(tmp_path / "x.csv")) == 2
    assert said in capsys.readouterr().err


def test_a_parameter_that_the_strategy_does_not_take_is_named(wave: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(wanted(wave, "--set", "speed=3")) == 2
    assert (
        "speed: wanted a parameter of sma_cross (stop_loss_percent, take_profit_percent, fast, slow)"
        in capsys.readouterr().err
    )


def test_a_value_that_a_parameter_does_not_take_is_told(wave: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(wanted(wave, "--stop-loss", "200%")) == 2
    assert "stop_loss_percent: Input should be less than 100, was 200\n" in capsys.readouterr().err


def test_a_span_without_candles_says_which_there_are(wave: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(wanted(wave, "--from", "2030-01-01")) == 2
    assert f"--to in {wave.name}, was 1970-01-01 00:00:00+00:00 to 19" in capsys.readouterr().err


def test_gzipped_candles_are_known_whatever_their_name(wave: Path, tmp_path: Path) -> None:
    zipped, plain = tmp_path / "zipped.csv", tmp_path / "plain.csv.gz"
    text = gzip.decompress(wave.read_bytes()) if wave.suffix == ".gz" else wave.read_bytes()
    zipped.write_bytes(gzip.compress(text))
    plain.write_bytes(text)
    assert len(candles_from(zipped)) == len(candles_from(plain)) == len(candles_from(wave))


def test_a_file_that_is_no_text_is_refused_with_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.csv").write_bytes(b"PAR1\x15\x04\xff\xfe")
    assert main(wanted(tmp_path / "x.csv")) == 2
    assert "wanted CSV, or CSV.gz, in x.csv, was otherwise" in capsys.readouterr().err


def test_a_run_imports_nothing_heavy(wave: Path) -> None:
    code = (
        "import sys; from backtesting.commandline import main; "
        f"assert main({wanted(wave)!r}) == 0; "
        "heavy = {'django', 'numba', 'pandas', 'ccxt', 'celery'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Account\n")


def test_figures_are_printed_with_their_units_and_warnings_apart(
    wave: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = io.StringIO()
    assert main(wanted(wave, "--fee", "0"), out) == 0
    pages = {page.partition("\n")[0].split("  ")[0]: page.splitlines() for page in out.getvalue().split("\n\n")}
    assert list(pages) == ["Account", "Risk", "Trades", "Costs", "Reason", "Side", "Month"]
    assert pages["Account"][1].split() == ["from", "1970-01-01", "11:00"]
    assert "  start equity                    10,000.00" in pages["Account"]
    assert "  win rate                         100.00 %" in pages["Trades"]
    assert [line.split()[0] for line in pages["Reason"][1:]] == ["EXIT_SIGNAL", "OPEN"]
    assert len({len(line) for line in pages["Month"]}) == 1
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in said] == ["NO_FEES", "FEW_TRADES", "SHORT_SPAN", "THIN_VOLUME"]
    told = run(*wanted(wave, "--fee", "0"))["warnings"]
    assert [f"{one['code']}: {one['text']}" for one in told] == said


def test_a_reader_who_has_seen_enough_gets_no_traceback(wave: Path) -> None:
    code = f"import sys; from backtesting.commandline import main; sys.exit(main({wanted(wave, '--json')!r}))"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as shown:
        assert shown.stdout is not None
        assert shown.stderr is not None
        shown.stdout.close()
        assert "BrokenPipe" not in shown.stderr.read()
        assert shown.wait(20) == 1
