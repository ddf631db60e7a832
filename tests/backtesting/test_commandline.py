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

from backtesting.commandline import main
from strategies.library.swing import Swing
from tests.domain.reference import ROOT

HOUR_MS = 3_600_000
HEAD = "ts,open,high,low,close,volume\n"


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
        "symbol", "fees", "funding", "tag", "exit_tag",
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
        ("ts,open,high,low,close,volume\n", "wanted candles in x.csv, was none"),
        (
            f"{HEAD}0,1,1,1,1,1\n3600000,1,1,-1,1,1\n",
            "was open 1, high 1, low -1, close 1, volume 1 in the candle of 1970-01-01 01:00",
        ),
        (
            f"{HEAD}0,1,0.5,0.4,1,1\n",
            "wanted prices above 0 from low to high and a volume from 0 on, was open 1, high 0.5",
        ),
        (f"{HEAD}0,2,2,1.5,1,1\n", "low 1.5, close 1, volume 1 in the candle of 1970-01-01 00:00"),
        (f"{HEAD}0,1,1,1,1,-1\n", "volume -1 in the candle of 1970-01-01 00:00"),
        (f"{HEAD}99999999999999999999,1,1,1,1,1\n", "wanted finite numbers in line 2 of x.csv"),
        (
            f"{HEAD}{'1' * 140_000}",
            "wanted CSV, whole and in UTF-8, gzipped where it is named .gz, was x.csv: field larger",
        ),
        (f"{HEAD}0,1,1,1,1,1\n", "wanted more candles than sma_cross needs to warm up, which are 11, was 1"),
        (f"{HEAD}0,1,1,1,1,1\n14400000,1,1,1,1,1\n", "wanted candles of 1h in x.csv, was 4:00:00 between the nearest"),
        (f"{HEAD}0,1,1,1,1,1\n60000,1,1,1,1,1\n", "wanted candles of 1h in x.csv, was 0:01:00 between the nearest"),
        (f"{HEAD}1700000000,1,1,1,1,1\n1700003600,1,1,1,1,1\n", "between the nearest, as if ts were in seconds"),
    ],
)
def test_a_file_that_is_not_as_wanted_is_refused_with_its_line(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.csv").write_text(text)
    assert main(wanted(tmp_path / "x.csv")) == 2
    assert said in capsys.readouterr().err


def test_what_is_no_text_or_no_whole_archive_is_refused(
    wave: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "y.csv.gz").write_bytes(b"ts,open")
    (tmp_path / "z.csv.gz").write_bytes(wave.read_bytes()[:-400])
    for name in ("x.csv", "y.csv.gz", "z.csv.gz"):
        assert main(wanted(tmp_path / name)) == 2
        said = capsys.readouterr().err
        assert f"wanted CSV, whole and in UTF-8, gzipped where it is named .gz, was {name}: " in said
        assert said.count("\n") == 1


def test_a_mark_of_the_encoding_and_days_of_23_hours_are_read(tmp_path: Path) -> None:
    path, days = tmp_path / "x.csv", [0, 24, 47, *range(71, 71 + 24 * 12, 24)]
    path.write_text("\ufeff" + HEAD + "".join(f"{hour * HOUR_MS},1,1,1,1,1\n" for hour in days), encoding="utf-8")
    assert run(*wanted(path)[:5], "1d", *wanted(path)[6:])["stats"]["candles"] == 4


def test_a_span_without_a_candle_is_named(wave: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(wanted(wave, "--from", "2030-01-02", "--to", "2020-01-01T05:00")) == 2
    assert capsys.readouterr().err == (
        "r3edge backtest: wanted candles in WAVE-1h.csv.gz from 2030-01-02 00:00 to 2020-01-01 05:00, was none\n"
    )


def test_what_looks_at_longer_candles_waits_until_enough_of_them_have_closed(
    wave: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    swing = ["--strategy", "swing", "--candles", str(wave), "--timeframe", "1h", "--from", "1970-01-01T02:00"]
    swing += [
        "--set", "period=2", "--set", "trend_timeframe=4h", "--set", "trend_fast=2", "--set", "trend_slow=3",
    ]  # fmt: skip
    [large] = Swing.from_values({"trend_slow": 3, "trend_fast": 2, "trend_timeframe": "4h"}).informative
    first = run(*swing)["equity"][0][0]
    # The file begins amid a candle of four hours, which is none: the first one opens at 4:00.
    assert first == 4 * HOUR_MS + large.warm_up * 4 * HOUR_MS
    assert main([*swing, "--to", "1970-01-02"]) == 2
    assert f"which are 24 and {large.warm_up} of 4h, was 23 and 5" in capsys.readouterr().err


def test_who_has_seen_enough_may_close_the_pipe(wave: Path) -> None:
    for more in ([], ["--json"]):
        command = [sys.executable, "-m", "backtesting", *wanted(wave, *more)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
            assert running.stdout is not None
            assert running.stderr is not None
            running.stdout.close()
            assert "Error" not in running.stderr.read()
        assert running.returncode == 1


def test_a_parameter_that_the_strategy_does_not_take_is_named(wave: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(wanted(wave, "--set", "speed=3")) == 2
    assert "speed: Extra inputs are not permitted" in capsys.readouterr().err


def test_a_parameter_that_may_have_no_value_is_set_to_none(wave: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = run(*wanted(wave)[:-4], "--set", "stop_loss_percent=none", "--set", "take_profit_percent=0.1")["trades"]
    assert {one["exit_reason"] for one in short} == {"TAKE_PROFIT"}
    free = run(*wanted(wave)[:-4], "--set", "stop_loss_percent=none", "--set", "take_profit_percent=None")
    assert free["trades"] == run(*wanted(wave))["trades"]
    assert main(wanted(wave, "--set", "fast=none")) == 2
    assert "fast: Input should be a valid integer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--cash", "0"], "wanted cash above 0, up to 1000000000000, was 0"),
        (["--cash", "1e400"], "wanted cash above 0, up to 1000000000000, was 1E+400"),
        (["--stake", "0%"], "wanted amount above 0, up to 1000000000000, was 0"),
        (["--fee", "100%"], "wanted maker_fee as a part of a price from 0 on, below 1, was 1"),
        (["--slippage", "150"], "wanted slippage as a part of a price from 0 on, below 1, was 1.5"),
    ],
)
def test_money_and_costs_that_mean_nothing_are_refused(
    more: list[str], said: str, wave: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(wanted(wave, *more)) == 2
    assert capsys.readouterr().err == f"r3edge backtest: {said}\n"


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
