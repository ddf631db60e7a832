"""``--state FILE``: what a client was told outlives a kill, exactly."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import ccxt
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.market import Side
from simulator import state as state_module
from simulator.accounts import account_set
from simulator.exchange import Exchange
from simulator.oracle import oracle
from simulator.refusals import Refused
from simulator.state import StateFile, StateUnusable
from tests.simulator.conftest import KEY, PASSPHRASE, SECRET, START_MS, Simulator, made_exchange
from tests.simulator.test_books import actions as spot_actions
from tests.simulator.test_books import opened, perform
from tests.simulator.test_futures import act
from tests.simulator.test_futures import action as futures_action

ROOT = Path(__file__).parents[2]
MADE_OF = {"--seed": "7"}
Start = Callable[..., "Process"]


class Process(Simulator):
    """``python -m simulator`` as a process that can be killed."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "simulator", "--port", "0", *arguments]
        self.process = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def start() -> Iterator[Start]:
    running: list[Process] = []

    def started(*arguments: object) -> Process:
        running.append(Process(*map(str, arguments)))
        return running[-1]

    yield started
    for one in running:
        one.kill()


def books_of(simulator: Simulator) -> dict[str, Any]:
    """The oracle's word on everything but the passing of time."""
    oracle = simulator.oracle()
    return {name: oracle[name] for name in ("orders", "stopOrders", "fills", "deposits", "balances")}


def is_balanced(oracle: dict[str, Any]) -> bool:
    """Whether every balance is what deposits and fills say."""
    totals: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for deposit in oracle["deposits"]:
        totals[deposit["apiKey"], deposit["currency"]] += Decimal(deposit["amount"])
    for fill in oracle["fills"]:
        base, quote = fill["symbol"].split("-")
        sign = 1 if fill["side"] == "buy" else -1
        totals[fill["apiKey"], base] += sign * Decimal(fill["size"])
        totals[fill["apiKey"], quote] -= sign * Decimal(fill["funds"])
        totals[fill["apiKey"], fill["feeCurrency"]] -= Decimal(fill["fee"])
    shown = {
        (key, currency): Decimal(balance["balance"])
        for key, balances in oracle["balances"].items()
        for currency, balance in balances.items()
    }
    return shown == {name: totals[name] for name in shown}


def kept(path: Path, exchange: Exchange | None = None) -> Exchange:
    """An exchange that keeps its state in ``path``."""
    exchange = exchange or made_exchange()
    StateFile(path).attach(exchange, START_MS, MADE_OF)
    return exchange


def closed(exchange: Exchange) -> None:
    """Let go of the file, as the end of a process does."""
    keeper = exchange.listeners[0].__self__  # type: ignore[attr-defined]
    keeper.close()


def trade(simulator: Simulator) -> None:
    """An order of every kind and end, and a price that was set by hand."""
    client = simulator.client()
    client.create_order("BTC/USDT", "market", "buy", 0.01, params={"clientOid": "market"})
    client.create_order("BTC/USDT", "market", "buy", None, params={"funds": "25.5", "clientOid": "funds"})
    client.create_order("BTC/USDT", "limit", "buy", 0.01, 59_000, {"clientOid": "rests", "remark": "mine"})
    client.create_order("BTC/USDT", "limit", "buy", 0.01, 58_000, {"clientOid": "later"})
    gone = client.create_order("BTC/USDT", "limit", "sell", 0.002, 70_000, {"clientOid": "cancelled"})
    client.cancel_order(gone["id"], "BTC/USDT")
    stop = {"stopPrice": "57000", "stop": "loss"}
    client.create_order("BTC/USDT", "market", "sell", 0.003, params={"clientOid": "stop", **stop})
    stopped = client.create_order("BTC/USDT", "market", "sell", 0.003, params={"clientOid": "no-stop", **stop})
    client.cancel_order(stopped["id"], "BTC/USDT", {"stop": True})


def test_books_prices_and_settings_are_the_same_after_a_kill(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "simulator.state"
    before = start("--state", file, "--speed", "0", "--start", "2024-05-01T10:40:00")
    before.open_account(USDT="10000", BTC="1")
    before.open_account("key-of-bob", USDT="7")
    before.pin("60000")
    trade(before)
    before.control("settings", duplicateClientOid="always", status="cancelonly")
    before.control("symbols", symbol="SOL-USDT", minFunds="5")
    before.control("clock", advance_s=90)
    books, candles = books_of(before), before.get("/api/v1/market/candles", symbol="BTC-USDT", type="1min")
    ethers = before.get("/api/v1/market/orderbook/level1", symbol="ETH-USDT")
    settings, symbols = before.get("/_sim/settings"), before.get("/api/v2/symbols")
    before.kill()

    after = start("--state", file, "--speed", "0")

    assert books_of(after) == books
    assert len(books["orders"]) == 5
    assert after.get("/api/v1/market/candles", symbol="BTC-USDT", type="1min") == candles
    assert after.get("/api/v1/market/orderbook/level1", symbol="ETH-USDT") == ethers
    assert after.get("/_sim/settings") == settings
    assert after.get("/api/v2/symbols") == symbols
    assert after.get("/_sim/clock")["now_ms"] == START_MS + 90_000


def test_a_replay_goes_on_with_the_extreme_that_comes_first_after_a_kill(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "simulator.state"
    before = start("--state", file, "--speed", "0", "--start", "2024-05-01T10:40:00")
    before.control("market/BTC-USDT/candles", candles=[[START_MS, 100, 120, 90, 99, 1]], first="low")
    before.kill()

    after = start("--state", file, "--speed", "0")
    after.control("clock", advance_s=15)

    assert after.get("/api/v1/market/orderbook/level1", symbol="BTC-USDT")["data"]["price"] == "90"


def test_live_orders_go_on_waiting_after_a_kill(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "simulator.state"
    before = start("--state", file, "--speed", "0")
    before.open_account(USDT="10000", BTC="1")
    before.pin("60000")
    trade(before)
    before.kill()

    after = start("--state", file, "--speed", "0")
    after.pin("58500")
    first = [order["clientOid"] for order in after.oracle()["orders"] if order["active"]]
    after.pin("56000")
    client = after.client()
    client.create_order("BTC/USDT", "market", "buy", 0.001, params={"clientOid": "new"})

    oracle = after.oracle()
    assert first == ["later"]
    assert [order["clientOid"] for order in oracle["orders"] if order["active"]] == []
    assert [fill["clientOid"] for fill in oracle["fills"]] == ["market", "funds", "rests", "later", "stop", "new"]
    assert [fill["tradeId"] for fill in oracle["fills"]] == [1, 2, 3, 4, 5, 6]
    assert len({order["id"] for order in oracle["orders"]}) == 7
    assert is_balanced(oracle)
    assert all(balance["holds"] == "0" for balance in oracle["balances"][KEY].values())


def test_the_market_has_moved_on_while_the_simulator_was_dead(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "simulator.state"
    before = start("--state", file, "--speed", "60", "--start", "2024-05-01T10:40:00")
    before.control("clock", speed=600)
    first = before.get("/_sim/clock")
    before.kill()
    time.sleep(0.2)

    after = start("--state", file, "--speed", "60")

    second = after.get("/_sim/clock")
    passed = (second["wall_ms"] - first["wall_ms"]) * 600
    assert second["speed"] == 600
    assert abs(second["now_ms"] - first["now_ms"] - passed) <= 2 * 600
    fresh = start("--speed", "0", "--start", "2024-05-01T10:40:00")
    fresh.control("clock", now_ms=second["now_ms"])
    query = {"symbol": "BTC-USDT", "type": "1min", "endAt": second["now_ms"] // 60_000 * 60}
    assert after.get("/api/v1/market/candles", **query) == fresh.get("/api/v1/market/candles", **query)


class Trader(threading.Thread):
    """Places and cancels without pause, and remembers what it was told, until nobody answers."""

    def __init__(self, simulator: Simulator, name: str) -> None:
        super().__init__()
        self.client = simulator.client()
        self.client.load_markets()
        self.name = name
        self.accepted: dict[str, str] = {}  # client order id to order id
        self.cancelled: list[str] = []
        self.filled: list[dict[str, Any]] = []

    def run(self) -> None:
        number = 0
        while True:
            number += 1
            try:
                self._trade(f"{self.name}-{number}", number)
            except ccxt.NetworkError:
                return

    def _trade(self, client_oid: str, number: int) -> None:
        params = {"clientOid": client_oid}
        if number % 3:
            order = self.client.create_order(
                "BTC/USDT", "market", "buy" if number % 2 else "sell", 0.0002, None, params
            )
            self.accepted[client_oid] = order["id"]
            self.filled += self.client.fetch_order_trades(order["id"], "BTC/USDT")
        else:
            order = self.client.create_order("BTC/USDT", "limit", "buy", 0.0002, 30_000, params)
            self.accepted[client_oid] = order["id"]
            if number % 2:
                self.client.cancel_order(order["id"], "BTC/USDT")
                self.cancelled.append(order["id"])


def test_whatever_was_answered_under_load_is_there_after_a_kill(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "simulator.state"
    running = start("--state", file)
    running.open_account(USDT="1000000", BTC="10")
    accepted: dict[str, str] = {}
    for round_number in range(3):
        traders = [Trader(running, f"r{round_number}-{number}") for number in range(3)]
        for trader in traders:
            trader.start()
        time.sleep(0.6)
        running.kill()
        for trader in traders:
            trader.join(10)
            accepted |= trader.accepted

        running = start("--state", file)

        oracle = running.oracle()
        orders = {order["clientOid"]: order for order in oracle["orders"]}
        fills = {fill["tradeId"]: fill for fill in oracle["fills"]}
        canceled = {order["id"] for order in oracle["orders"] if order["status"] == "canceled"}
        assert {client_oid: orders[client_oid]["id"] for client_oid in accepted} == accepted
        assert len(accepted) > 20 * (round_number + 1)
        assert all(canceled.issuperset(trader.cancelled) for trader in traders)
        told = [(int(trade["id"]), trade["order"], trade["price"]) for one in traders for trade in one.filled]
        assert told == [(number, fills[number]["orderId"], float(fills[number]["price"])) for number, _, _ in told]
        assert is_balanced(oracle)


def test_a_last_line_that_was_cut_off_is_dropped(tmp_path: Path) -> None:
    file = tmp_path / "simulator.state"
    exchange = kept(file)
    account_set(exchange, {"apiKey": KEY, "secret": SECRET, "passphrase": PASSPHRASE, "balances": {"USDT": "10"}})
    exchange.end_step()
    whole = file.read_bytes()
    account_set(exchange, {"apiKey": KEY, "secret": SECRET, "passphrase": PASSPHRASE, "balances": {"USDT": "11"}})
    exchange.end_step()
    closed(exchange)
    file.write_bytes(file.read_bytes()[:-20])

    again = kept(file)

    assert again.books.accounts[KEY].balance("USDT").total == Decimal(10)
    assert file.read_bytes()[: len(whole)] == whole


def test_every_prefix_of_a_state_file_is_a_state(tmp_path: Path) -> None:
    file = tmp_path / "simulator.state"
    with Simulator(kept(file)) as running:
        running.open_account(USDT="10000", BTC="1")
        running.pin("60000")
        trade(running)
    lines = file.read_bytes().splitlines(keepends=True)
    closed(running.exchange)

    for number in range(1, len(lines) + 1):
        prefix = tmp_path / f"prefix-{number}"
        prefix.write_bytes(b"".join(lines[:number]))
        with Simulator(kept(prefix)) as after:
            oracle = after.oracle()
        assert is_balanced(oracle)

    assert len(lines) > 10


def test_a_long_file_is_shorter_after_a_start_and_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "simulator.state"
    with Simulator(kept(file)) as running:
        running.open_account(USDT="10000", BTC="1")
        running.pin("60000")
        for _ in range(20):
            running.control("settings", duplicateClientOid="always")
            running.control("settings", duplicateClientOid="active")
        trade(running)
        books = books_of(running)
    closed(running.exchange)
    length = len(file.read_bytes().splitlines())
    monkeypatch.setattr(state_module, "REWRITE_BEYOND_LINES", 10)

    with Simulator(kept(file)) as first:
        rewritten, after_rewriting = len(file.read_bytes().splitlines()), books_of(first)
    closed(first.exchange)
    with Simulator(kept(file)) as second:
        after_reading = books_of(second)

    assert (length, rewritten) == (53, 19)
    assert after_rewriting == books
    assert after_reading == books


def test_a_file_belongs_to_one_simulator_at_a_time(tmp_path: Path) -> None:
    file = tmp_path / "simulator.state"
    exchange = kept(file)

    with pytest.raises(StateUnusable, match="another simulator uses"):
        StateFile(file)

    closed(exchange)
    closed(kept(file))


def test_a_file_begun_with_other_options_is_refused(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "simulator.state"
    start("--state", file).kill()

    other = start("--state", file, "--seed", "8")

    assert other.process.wait(10) == 2
    assert other.process.stderr is not None
    assert f"--seed: wanted 7 as {file} was begun with, was 8" in other.process.stderr.read()


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"[]\n", "wanted a simulator's state of format 2"),
        (b'{"some": "thing else"}\n', "wanted a simulator's state of format 2"),
        (b"not JSON\n", "damaged in line 1"),
        (b"a letter without an end", "wanted a simulator's state of format 2"),
        (b'{"r3edge_simulator_state": 2, "start_ms": 1714560000000, "id_prefix": "a", "futures_id_prefix": "b",'
         b' "made_of": {}}\n'
         b'[1714560000000, ["fill", 1]]\n', "is damaged"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_state_is_refused_and_left_alone(tmp_path: Path, content: bytes, wanted: str) -> None:
    file = tmp_path / "simulator.state"
    file.write_bytes(content)

    with pytest.raises(StateUnusable, match=wanted):
        kept(file)

    assert file.read_bytes() == content


def test_only_its_owner_can_read_a_state_file(tmp_path: Path) -> None:
    file = tmp_path / "simulator.state"

    closed(kept(file))

    assert file.stat().st_mode & 0o777 == 0o600


def test_reads_write_nothing(tmp_path: Path) -> None:
    file = tmp_path / "simulator.state"
    with Simulator(kept(file)) as running:
        running.open_account()
        before = file.stat().st_size

        running.client().fetch_balance()
        requests.get(f"{running.url}/api/v1/timestamp", timeout=5)

        assert file.stat().st_size == before
    assert json.loads(file.read_bytes().splitlines()[0])["start_ms"] == START_MS


def test_futures_streams_of_settings_and_everything_else_survive_too(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "simulator.state"
    before = start("--state", file, "--speed", "0", "--symbols", "BTC-USDT,ETH-USDT,KCS-USDT")
    before.control(
        "accounts", apiKey=KEY, secret=SECRET, passphrase=PASSPHRASE, futures={"USDT": "1000"}, payFeesInKcs=True,
        balances={"USDT": "1000", "KCS": "5"},
    )  # fmt: skip
    before.pin("60000")
    before.control("symbols", symbol="XBTUSDTM", fundingRate="0.0005", maxLeverage=50)
    before.control("symbols", symbol="ETH-USDT", isDelisted=True)
    before.control("market/BTC-USDT/depth", quote="7000")
    now_ms = before.get("/_sim/clock")["now_ms"]
    before.control("market/BTC-USDT/gap", **{"from": now_ms - 600_000, "to": now_ms - 300_000})
    client = before.client()
    client.load_markets()
    leverage = {"leverage": 10}
    client.create_order("BTC/USDT:USDT", "market", "buy", 10, None, leverage)
    client.create_order("BTC/USDT:USDT", "limit", "buy", 1, 50_000, leverage)
    client.create_order("BTC/USDT:USDT", "market", "sell", 5, None, {**leverage, "stopLossPrice": 58_000})
    client.create_order("BTC/USDT", "market", "buy", 0.001, params={"clientOid": "kcs"})
    before.control("clock", advance_s=86_400)
    before.control("settings", readLagMs=3, fillRatio="0.5", keepFilledS=7)
    oracle, settings = before.oracle(), before.get("/_sim/settings")
    shown = before.get("/_futures/api/v1/contracts/active"), before.get("/api/v1/market/allTickers")
    candles = before.get("/api/v1/market/candles", symbol="BTC-USDT", type="1min")
    before.kill()

    after = start("--state", file, "--speed", "0", "--symbols", "BTC-USDT,ETH-USDT,KCS-USDT")

    again = after.oracle()
    assert again["futures"] == oracle["futures"]
    assert [again[name] for name in ("orders", "fills", "balances")] == [
        oracle[name] for name in ("orders", "fills", "balances")
    ]
    assert len(oracle["futures"]["funding"]) == 3
    assert oracle["fills"][-1]["feeCurrency"] == "KCS"
    assert after.get("/_sim/settings") == settings
    assert (after.get("/_futures/api/v1/contracts/active"), after.get("/api/v1/market/allTickers")) == shown
    assert after.get("/api/v1/market/candles", symbol="BTC-USDT", type="1min") == candles
    after.control("settings", readLagMs=0, fillRatio="1")
    after.pin("57000")
    after.pin("50000")
    [position] = after.oracle()["futures"]["positions"]
    assert position["currentQty"] == 1  # of ten, five stopped out and five liquidated; and one bought at 50,000
    assert [order["remark"] for order in after.oracle()["futures"]["orders"]] == [None, None, None, "liquidation"]


def test_a_cancel_that_was_accepted_is_carried_out_after_a_kill(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "simulator.state"
    before = start("--state", file, "--speed", "0")
    before.open_account(USDT="10000")
    before.pin("60000")
    before.control("settings", cancelDelayMs=400)
    client = before.client()
    client.create_order("BTC/USDT", "limit", "buy", 0.01, 59_000, {"clientOid": "going"})
    client.private_post_hf_orders_dead_cancel_all({"timeout": 60, "symbols": "BTC-USDT"})
    client.cancel_order(None, "BTC/USDT", {"clientOid": "going"})
    before.kill()

    after = start("--state", file, "--speed", "0")
    time.sleep(0.5)

    [order] = after.oracle()["orders"]
    assert order["status"] == "canceled"
    assert after.client().private_get_hf_orders_dead_cancel_all_query()["data"]["symbols"] == "BTC-USDT"


spot_steps = st.tuples(st.sampled_from(["alice", "bob"]), st.sampled_from(Side), spot_actions)


@settings(max_examples=60, deadline=None)
@given(
    story=st.lists(st.one_of(spot_steps, futures_action), max_size=30),
    fill_ratio=st.sampled_from(["1", "0.3"]),
    later_s=st.integers(1, 200_000),
)
def test_a_file_that_is_read_back_is_the_exchange_and_goes_on_as_it_would(
    story: list[Any], fill_ratio: str, later_s: int
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "simulator.state"
        exchange = kept(file)
        exchange.settings.change({"fillRatio": fill_ratio})
        opened(exchange, USDT="100000", BTC="2")
        account_set(exchange, {"apiKey": "alice", "futures": {"USDT": "5000"}})
        futures = exchange.futures.books.account_of(exchange.books.accounts["alice"])
        exchange.end_step()
        for step in story:
            if len(step) == 3:
                perform(exchange, *step)
            else:
                with contextlib.suppress(Refused):
                    act(exchange, futures, *step)
            exchange.advance()
            exchange.end_step()
        now_ms, before = exchange.clock.now_ms(), oracle(exchange, [], {})
        closed(exchange)

        again = kept(file)
        as_read = oracle(again, [], {})
        closed(again)
        for one in (exchange, again):
            one.clock.jump_to(now_ms + later_s * 1000)

        assert as_read == before
        assert oracle(again, [], {}) == oracle(exchange, [], {})
