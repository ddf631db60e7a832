"""Backtests: ours and the other programs on one job and one file of candles, as ratios in one run.

Each program runs in processes of its own, by small scripts (``benchmarks/peers``); the others in environments of their own
under ``var/bench``, made on their first run. Trades are counted and compared, so that the job is the same. Times are of the
processor, which a busy machine changes less than those of the clock; the table of sweeps has both.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers import PEERS
from benchmarks.report import Report, Table
from benchmarks.tapes import SEED, tape, write

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "benchmarks" / "peers"
ENVIRONMENTS = ROOT / "var" / "bench"
SMALL, LARGE, MARKETS = 43_800, 1_000_000, 10
ROUNDS = 5
PAIRS = [(fast, slow) for fast in range(5, 45, 2) for slow in range(50, 150, 2)]
LIMIT_S = 1200.0
# Of the same seed: the others count a position that is open at the end, or forget it; and may fill a stop a candle later.
TRADES_APART = 0.02


class CannotMeasure(Exception):
    """A program could not be installed or did not run; the message says why."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What one process said of its rounds, and what it took as a whole."""

    trades: int
    first_s: float
    warm_s: float
    warm_cpu_s: float
    rss_mb: float
    whole_s: float
    whole_cpu_s: float
    is_compiled: bool = True


def run(options: argparse.Namespace) -> Report:
    report = Report("backtest")
    ENVIRONMENTS.mkdir(parents=True, exist_ok=True)
    path = ENVIRONMENTS / f"tape-{SMALL}.csv"
    write(tape(SMALL), path)
    ours = _ours(report, path, options.large)
    shown = report.table(
        f"The same job on {SMALL:,} generated hourly candles (seed {SEED}), CPU ms and s; × is times ours",
        "program", "trades", "warm ms", "× ours", "goal", "whole s", "× ours", "RSS MB",
    )  # fmt: skip
    cold = _cold(path)
    shown.add("r3edge", ours.trades, 1000 * ours.warm_cpu_s, "", "", f"{cold[0]:.2f}", "", f"{cold[1]:.0f}")
    report.figures["small"] = {"r3edge": {"warm_ms": 1000 * ours.warm_cpu_s, "whole_cpu_s": cold[0], "rss_mb": cold[1]}}
    report.figures["goals"] = {"whole_cpu_s": {"found": round(cold[0], 3), "most": 1.0}}
    for name in () if options.no_peers else (options.peer or PEERS):
        _peer(report, shown, name, path, ours, cold[0])
    _sweeps(report, path, [] if options.no_peers else list(options.peer or PEERS))
    return report


def _ours(report: Report, path: Path, large: int) -> Ran:
    shown = report.table(
        f"Ours, CPU ms of the fastest of {ROUNDS}, in a process of its own (generated candles)",
        "job", "candles", "trades", "warm ms", "ns a candle", "× simple", "goal", "RSS MB",
    )  # fmt: skip
    simple = _r3edge(str(path), ROUNDS * 4, "simple", SMALL)
    most = _r3edge("-", ROUNDS, "simple", large)
    jobs = {
        "simple": (simple, SMALL, ""),
        "simple, much": (most, large, "< 50 ms at 1M"),
        "every exit": (_r3edge(str(path), ROUNDS * 4, "exits", SMALL), SMALL, "< 3"),
        "every exit, much": (_r3edge("-", ROUNDS, "exits", large), large, "< 3"),
        f"portfolio of {MARKETS}": (_r3edge("-", ROUNDS * 2, "portfolio", SMALL), SMALL * MARKETS, "< 3"),
        "event by event, exact": (_r3edge(str(path), 2, "walk", SMALL), SMALL, ""),
    }
    for name, (ran, candles, goal) in jobs.items():
        beside = most if "much" in name else simple
        size = large if "much" in name else SMALL
        nanoseconds = ran.warm_cpu_s / candles * 1e9
        ratio = nanoseconds / (beside.warm_cpu_s / size * 1e9)
        shown.add(name, candles, ran.trades, 1000 * ran.warm_cpu_s, nanoseconds, ratio, goal, ran.rss_mb)
        report.figures.setdefault("ours", {})[name] = {
            "candles": candles, "trades": ran.trades, "warm_cpu_ms": round(1000 * ran.warm_cpu_s, 3),
            "warm_ms": round(1000 * ran.warm_s, 3), "times_simple": round(ratio, 2), "rss_mb": round(ran.rss_mb, 1),
            "is_compiled": ran.is_compiled,
        }  # fmt: skip
    return simple


def _cold(path: Path) -> tuple[float, float]:
    """CPU seconds and memory of the whole command, from its start to its end; the least of three."""
    command = [sys.executable, "-m", "backtesting", "--strategy", "sma_cross", "--candles", str(path)]
    command += ["--timeframe", "1h", "--set", "fast=20", "--set", "slow=50", "--json"]
    return min(_measured(command)[1:] for _ in range(3))


def _r3edge(*arguments: object) -> Ran:
    return _ran([sys.executable, SCRIPTS / "r3edge_job.py", *arguments])


def _peer(report: Report, shown: Table, name: str, path: Path, ours: Ran, cold_s: float) -> None:
    """One other program: its row, or the word why there is none."""
    try:
        python = _environment(name)
        ran = _ran([python, "-W", "ignore", SCRIPTS / PEERS[name].script, path, PEERS[name].rounds])
        once = _ran([python, "-W", "ignore", SCRIPTS / PEERS[name].script, path, 1])
    except CannotMeasure as why:
        shown.add(name, f"skipped: {why}", *[""] * 6)
        report.figures["small"][name] = {"skipped": str(why)}
        return
    faster, whole = ran.warm_cpu_s / ours.warm_cpu_s, once.whole_cpu_s / cold_s
    goal = PEERS[name].goal
    is_same = abs(ran.trades - ours.trades) <= TRADES_APART * ours.trades
    shown.add(
        name if is_same else f"{name} (other trades)", ran.trades, 1000 * ran.warm_cpu_s, faster,
        f"> {goal}" if goal else "", f"{once.whole_cpu_s:.2f}", whole, f"{ran.rss_mb:.0f}",
    )  # fmt: skip
    report.figures["small"][name] = {
        "trades": ran.trades, "is_same_job": is_same, "warm_cpu_ms": round(1000 * ran.warm_cpu_s, 3),
        "warm_ms": round(1000 * ran.warm_s, 3), "times_ours": round(faster, 1), "whole_cpu_s": round(once.whole_cpu_s, 2),
        "whole_times_ours": round(whole, 1), "rss_mb": round(ran.rss_mb, 1),
    }  # fmt: skip


def _sweeps(report: Report, path: Path, peers: Sequence[str]) -> None:
    shown = report.table(
        f"A sweep of {len(PAIRS):,} pairs over {SMALL:,} candles, seconds by the clock and the processor",
        "program", "trades of all", "seconds", "CPU s", "pairs/s", "× ours", "goal", "RSS MB",
    )  # fmt: skip
    pairs = ",".join(f"{fast}/{slow}" for fast, slow in PAIRS)
    found: dict[str, Any] = {}
    for threads in (1, 2):
        ran = _r3edge(str(path), 30 + threads, "sweep", SMALL, pairs)
        found[f"r3edge, {threads} threads"] = ran
    # What a search does: of each pair all figures, and the returns by which luck is judged.
    found["r3edge, --optimise"] = _r3edge(str(path), 3, "trials", SMALL, pairs)
    if "vectorbt" in peers:
        try:
            script = SCRIPTS / PEERS["vectorbt"].script
            found["vectorbt"] = _ran([_environment("vectorbt"), "-W", "ignore", script, path, 1, pairs])
        except CannotMeasure as why:
            shown.add("vectorbt", f"skipped: {why}", *[""] * 6)
    one = found["r3edge, 1 threads"]
    for name, ran in found.items():
        times = ran.warm_cpu_s / one.warm_cpu_s
        is_peer = name == "vectorbt"
        shown.add(
            name, ran.trades, ran.warm_s, ran.warm_cpu_s, len(PAIRS) / ran.warm_s, times if is_peer else "",
            "> 50" if is_peer else "< 300 MB", f"{ran.rss_mb:.0f}",
        )  # fmt: skip
        report.figures.setdefault("sweep", {})[name] = {
            "trades": ran.trades, "seconds": round(ran.warm_s, 3), "cpu_s": round(ran.warm_cpu_s, 3),
            "rss_mb": round(ran.rss_mb, 1), "times_ours": round(times, 1),
        }  # fmt: skip


def _environment(name: str) -> Path:
    """The Python of a program's own environment, made where it is not there yet."""
    place = ENVIRONMENTS / name
    python, done = place / "bin" / "python", place / f"has-{'-'.join(PEERS[name].packages)}"
    if done.exists():
        return python
    for command in (
        [sys.executable, "-m", "venv", str(place)],
        [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *PEERS[name].packages],
    ):
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode:
            raise CannotMeasure(f"could not be installed ({_last_line(made.stderr)})")
    done.touch()
    return python


def _ran(command: Sequence[object]) -> Ran:
    text, cpu_s, _, whole_s = _answer([str(part) for part in command])
    try:
        return Ran(**json.loads(text.strip().splitlines()[-1]), whole_s=whole_s, whole_cpu_s=cpu_s)
    except (ValueError, IndexError, TypeError):
        raise CannotMeasure(f"wanted one line of figures, was {text[-100:]!r}") from None


def _measured(command: Sequence[str]) -> tuple[str, float, float]:
    return _answer(command)[:3]


def _answer(command: Sequence[str]) -> tuple[str, float, float, float]:
    """What a process printed; its CPU seconds with its children's, MB at most, and seconds by the clock. Raises CannotMeasure
    with its last word where it fails."""
    # Ours finds the project; another program must not.
    env = {**os.environ, "PYTHONPATH": str(ROOT) if command[0] == sys.executable else "", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        began = time.perf_counter()
        process = subprocess.Popen(list(command), stdout=out, stderr=err, env=env, cwd=ROOT)
        limit = threading.Timer(LIMIT_S, process.kill)
        limit.start()
        try:
            _, status, used = os.wait4(process.pid, 0)
        finally:
            limit.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        whole_s = time.perf_counter() - began
        out.seek(0)
        err.seek(0)
        if process.returncode < 0:
            raise CannotMeasure(f"ended by signal {-process.returncode} after {whole_s:.0f} s")
        if process.returncode:
            raise CannotMeasure(f"did not run ({_last_line(err.read())})")
        return out.read(), used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, whole_s


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:120] if lines else "it said nothing"
