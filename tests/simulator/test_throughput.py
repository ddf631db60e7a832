"""The simulator is never what a benchmark measures: an order costs it less than a millisecond of one core."""

from __future__ import annotations

import base64
import hmac
import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.simulator.conftest import KEY, PASSPHRASE, SECRET
from tests.simulator.test_state import Process

ORDERS = 1_500
ORDERS_PER_CORE_SECOND = 1_000


@pytest.fixture(params=["without state", "with state"])
def simulator(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Process]:
    state = ["--state", str(tmp_path / "simulator.state")] if request.param == "with state" else []
    running = Process(*state)
    yield running
    running.kill()


def signature(text: str) -> str:
    return base64.b64encode(hmac.digest(SECRET.encode(), text.encode(), "sha256")).decode()


def place(connection: http.client.HTTPConnection, number: int) -> str:
    """One signed market order; the code of its answer."""
    side = "buy" if number % 2 else "sell"
    order = {"clientOid": f"o-{number}", "side": side, "symbol": "BTC-USDT", "type": "market", "size": "0.001"}
    body, stamp = json.dumps(order), str(time.time_ns() // 1_000_000)
    headers = {
        "KC-API-KEY": KEY,
        "KC-API-SIGN": signature(f"{stamp}POST/api/v1/hf/orders{body}"),
        "KC-API-TIMESTAMP": stamp,
        "KC-API-PASSPHRASE": signature(PASSPHRASE),
        "KC-API-KEY-VERSION": "2",
    }
    connection.request("POST", "/api/v1/hf/orders", body, headers)
    return str(json.loads(connection.getresponse().read())["code"])


def test_it_serves_a_thousand_orders_per_second_of_one_core(simulator: Process) -> None:
    simulator.open_account(USDT="1000000", BTC="10")
    connection = http.client.HTTPConnection(simulator.url.removeprefix("http://"))
    process = psutil.Process(simulator.process.pid)
    place(connection, 0)
    before = process.cpu_times()

    codes = {place(connection, number) for number in range(1, ORDERS + 1)}

    after = process.cpu_times()
    seconds = after.user + after.system - before.user - before.system
    assert codes == {"200000"}
    assert ORDERS / seconds > ORDERS_PER_CORE_SECOND
