"""``python -m simulator`` as a process: its options, its start, its end."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from simulator.__main__ import main

ROOT = Path(__file__).parents[2]
Start = Callable[..., "Running"]


class Running:
    """A simulator process that has said where it listens."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.process = process
        self.url = process.stdout.readline().strip()

    def stopped_by(self, number: signal.Signals) -> tuple[int, float]:
        """(exit code, seconds it took)."""
        started = time.monotonic()
        self.process.send_signal(number)
        return self.process.wait(10), time.monotonic() - started


@pytest.fixture
def start() -> Iterator[Start]:
    running: list[Running] = []

    def started(*arguments: str, env: dict[str, str] | None = None) -> Running:
        command = [sys.executable, "-m", "simulator", "--port", "0", *arguments]
        process = subprocess.Popen(
            command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        running.append(Running(process))
        return running[-1]

    yield started
    for one in running:
        one.process.kill()
        one.process.communicate()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "simulator", *arguments],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=20,
        check=False,
    )


def test_plain_ccxt_trades_on_it_in_the_three_lines_of_the_readme(start: Start) -> None:
    [lines] = re.findall(r"```python\nimport ccxt\n\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    running = start("--demo-account")

    program = "import ccxt\n" + lines.replace("http://127.0.0.1:8090", running.url)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)

    assert (len(lines.splitlines()), done.returncode, done.stderr) == (3, 0, "")
    [order] = requests.get(f"{running.url}/_sim/oracle", timeout=5).json()["orders"]
    assert (done.stdout.strip(), order["dealSize"]) == (order["id"], "0.01")


def test_help_explains_the_whole_thing() -> None:
    done = run("--help")

    assert done.returncode == 0
    for word in ("--speed", "two clocks", "/_sim", "oracle", "ccxt.kucoin", "faults"):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--port", "http"], "--port: wanted a whole number from 0 to 65535, was 'http'"),
        (["--port", "70000"], "--port"),
        (["--speed", "-1"], "--speed: wanted a number from 0 to 100000, was '-1'"),
        (["--speed", "nan"], "--speed"),
        (["--seed", "x"], "--seed"),
        (["--symbols", "BTCUSDT"], "--symbols: wanted symbols such as BTC-USDT,ETH-USDT, was 'BTCUSDT'"),
        (["--symbols", ","], "--symbols: wanted at least one symbol"),
        (["--start", "1969-07-20"], "--start: wanted a time between 2000 and 2200"),
        (["--start", "tomorrow"], "--start: wanted a time such as"),
        (["--candles", "BTC-USDT"], "--candles: wanted SYMBOL=FILE"),
        (["--candles", "BTC-USDT=nowhere.csv"], "No such file"),
        (["--candles", "BTC-USDT=README-that-is-not-there.csv.gz"], "No such file"),
        (["--candles", "BTC-USDT=pyproject.toml"], "wanted columns"),
        (["--taker-fee", "2"], "--taker-fee"),
        (["--maker-fee", "cheap"], "--maker-fee"),
        (["--slippage", "1"], "--slippage"),
        (["--volatility", "9"], "--volatility"),
        (["--duplicates", "sometimes"], "--duplicates: wanted active, always or never, was 'sometimes'"),
        (["--accounts", "nowhere.json"], "--accounts"),
        (["--control-token-env", "NOT_SET_ANYWHERE"], "NOT_SET_ANYWHERE"),
        (["--host", "256.0.0.1", "--port", "0"], "--host"),
        (["--unknown"], "--unknown"),
        (["stray"], "stray"),
    ],
)
def test_a_bad_option_is_one_clear_line(arguments: list[str], wanted: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: object = main(arguments)
    except SystemExit as ended:  # argparse ends the process itself
        code = ended.code

    shown = capsys.readouterr()
    assert (code, shown.out) == (2, "")
    assert len(shown.err.splitlines()) == 1
    assert wanted in shown.err


def test_a_bad_option_ends_the_process_with_code_2() -> None:
    done = run("--speed", "fast")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "simulator: --speed: wanted a number from 0 to 100000, was 'fast'\n"


def test_a_taken_port_is_said(start: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()

        done = run("--port", str(taken.getsockname()[1]))

    assert done.returncode == 2
    assert "--port: wanted a free port" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_within_a_second_even_while_a_request_hangs(start: Start, number: signal.Signals) -> None:
    running = start()
    requests.post(running.url + "/_sim/faults", json={"kind": "hang", "path": "/api/v1/timestamp"}, timeout=5)
    with pytest.raises(requests.Timeout):
        requests.get(running.url + "/api/v1/timestamp", timeout=0.2)
    requests.post(running.url + "/_sim/faults", json={"kind": "hang", "path": "/api/v1/status"}, timeout=5)
    with socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2]))) as hanging:
        hanging.sendall(b"GET /api/v1/status HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.1)

        code, seconds = running.stopped_by(number)

    assert code == 0
    assert seconds < 1
    assert running.process.stderr is not None
    assert "Traceback" not in running.process.stderr.read()


def test_the_market_starts_when_and_runs_as_fast_as_it_was_told(start: Start) -> None:
    running = start("--start", "2024-02-29T12:00:00", "--speed", "0", "--symbols", "SOL-USDT")

    health = requests.get(running.url + "/_sim/health", timeout=5).json()

    assert (health["marketMs"], health["symbols"]) == (1_709_208_000_000, ["SOL-USDT"])


def test_the_same_seed_and_start_make_the_same_prices(start: Start) -> None:
    options = ("--start", "2024-02-29T12:00:00", "--speed", "0")
    query = "/api/v1/market/candles?symbol=BTC-USDT&type=5min"

    one, same, other = (
        requests.get(start(*options, "--seed", seed).url + query, timeout=5).json()["data"] for seed in ("3", "3", "4")
    )

    assert one == same
    assert one != other


def test_a_file_is_replayed_with_a_day_of_history(start: Start, tmp_path: Path) -> None:
    lines = ["ts,open,high,low,close,volume"]
    for minute in range(2_000):
        lines.append(
            f"{1_700_000_040_000 + minute * 60_000},{minute + 1},{minute + 2.25},{minute + 1},{minute + 2},0.5"
        )
    file = tmp_path / "candles.csv"
    file.write_text("\n".join(lines))

    running = start("--candles", f"ADA-USDT={file}", "--speed", "0")

    candles = requests.get(running.url + "/api/v1/market/candles?symbol=ADA-USDT&type=1min", timeout=5).json()["data"]
    symbol = requests.get(running.url + "/api/v2/symbols/ADA-USDT", timeout=5).json()["data"]
    assert len(candles) == 1_441
    assert candles[1][1:6] == ["1440", "1441", "1441.25", "1440", "0.5"]
    assert symbol["priceIncrement"] == "0.01"


def test_accounts_are_opened_from_a_file(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "accounts.json"
    file.write_text(json.dumps([{"apiKey": "k", "secret": "s", "passphrase": "p", "balances": {"USDT": "5"}}]))

    running = start("--accounts", str(file))

    balances = requests.get(running.url + "/_sim/oracle", timeout=5).json()["balances"]
    assert balances == {"k": {"USDT": {"balance": "5", "available": "5", "holds": "0"}}}


def test_resting_orders_fill_while_nobody_asks(start: Start) -> None:
    running = start("--speed", "0", "--start", "2024-02-29T12:00:00")
    base = 1_709_208_000_000
    candles = [[base, 60000, 60000, 60000, 60000, 1], [base + 60_000, 60000, 60000, 58000, 58000, 1]]
    requests.post(running.url + "/_sim/market/BTC-USDT/candles", json={"candles": candles}, timeout=5)
    account = {"apiKey": "k", "secret": "s", "passphrase": "p", "balances": {"USDT": "1000"}}
    requests.post(running.url + "/_sim/accounts", json=account, timeout=5)

    import ccxt

    api = dict.fromkeys(["public", "private"], running.url)
    options = {"hf": True, "uta": False, "fetchMarkets": {"types": ["spot"], "fetchTickersFees": False}}
    client = ccxt.kucoin({"apiKey": "k", "secret": "s", "password": "p", "urls": {"api": api}, "options": options})
    client.load_markets(params={"marginables": False})
    client.create_order("BTC/USDT", "limit", "buy", 0.001, 59_000)
    requests.post(running.url + "/_sim/clock", json={"speed": 600}, timeout=5)
    time.sleep(0.5)

    [fill] = requests.get(running.url + "/_sim/oracle", timeout=5).json()["fills"]
    assert (fill["price"], fill["liquidity"]) == ("59000", "maker")
    assert fill["createdAt"] == base + 60_000 + 15_000 + 15_000


def test_a_quick_end_leaves_no_word_of_a_secret(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "accounts.json"
    file.write_text(json.dumps([{"apiKey": "k", "secret": "canary-1", "passphrase": "canary-2", "colour": "red"}]))

    done = run("--accounts", str(file))

    assert done.returncode == 2
    assert "colour" in done.stderr
    assert "canary" not in done.stderr + done.stdout
