"""Scripted failures as a client meets them, and what the exchange did or did not do behind them."""

from __future__ import annotations

import threading
import time
from typing import Any

import ccxt
import pytest
import requests

from tests.simulator.conftest import Simulator

BTC = "BTC/USDT"
ORDERS = "/api/v1/hf/orders"


def buy(client: ccxt.kucoin, client_oid: str = "f-1") -> dict[str, Any]:
    order: dict[str, Any] = client.create_order(BTC, "market", "buy", 0.001, params={"clientOid": client_oid})
    return order


def placed(simulator: Simulator) -> list[str]:
    return [order["clientOid"] for order in simulator.oracle()["orders"]]


@pytest.mark.parametrize(("when", "expected"), [("before", []), ("after", ["f-1"])])
def test_a_dropped_connection_is_a_network_error_with_or_without_an_order(
    alice: ccxt.kucoin, simulator: Simulator, when: str, expected: list[str]
) -> None:
    simulator.control("faults", method="POST", path=ORDERS, kind="drop", when=when)

    with pytest.raises(ccxt.NetworkError):
        buy(alice)

    assert placed(simulator) == expected


@pytest.mark.parametrize(("when", "expected"), [("before", []), ("after", ["f-1"])])
def test_a_hanging_request_times_out_with_or_without_an_order(
    alice: ccxt.kucoin, simulator: Simulator, when: str, expected: list[str]
) -> None:
    simulator.control("faults", method="POST", path=ORDERS, kind="hang", when=when)
    alice.timeout = 300

    with pytest.raises(ccxt.RequestTimeout):
        buy(alice)

    time.sleep(0.3)  # a request that was never seen stays unseen after its client has gone
    assert placed(simulator) == expected


def test_a_hang_of_some_seconds_ends_in_a_dropped_connection(alice: ccxt.kucoin, simulator: Simulator) -> None:
    simulator.control("faults", path=ORDERS, kind="hang", seconds=0.2)
    started = time.monotonic()

    with pytest.raises(ccxt.NetworkError):
        buy(alice)

    assert 0.2 <= time.monotonic() - started < 2


@pytest.mark.parametrize(("when", "expected"), [("before", []), ("after", ["f-1"])])
@pytest.mark.parametrize(
    ("status", "error"),
    [
        (500, ccxt.ExchangeNotAvailable),
        (504, ccxt.RequestTimeout),
        (523, ccxt.ExchangeError),
        (429, ccxt.RateLimitExceeded),
    ],
)
def test_an_http_status_can_hide_an_order(
    alice: ccxt.kucoin, simulator: Simulator, when: str, expected: list[str], status: int, error: type[Exception]
) -> None:
    body = "<html>bad gateway</html>"
    simulator.control("faults", method="POST", path=ORDERS, kind="http", status=status, body=body, when=when)

    with pytest.raises(error):
        buy(alice)

    assert placed(simulator) == expected


@pytest.mark.parametrize("body", ["", "<html></html>", '{"code":"200000"}', '{"code":"200000","data":null}', '{"co'])
def test_a_success_without_an_order_id_can_hide_an_order(alice: ccxt.kucoin, simulator: Simulator, body: str) -> None:
    simulator.control("faults", method="POST", path=ORDERS, kind="body", body=body, when="after")

    answer = buy(alice)

    assert answer["id"] is None
    assert placed(simulator) == ["f-1"]


def test_an_error_code_can_be_scripted(alice: ccxt.kucoin, simulator: Simulator) -> None:
    simulator.control("faults", path=ORDERS, kind="code", code="429000", msg="Too many requests.")

    with pytest.raises(ccxt.RateLimitExceeded, match="Too many requests."):
        buy(alice)

    assert buy(alice)["id"] is not None


def test_a_delay_before_acceptance_places_the_order_even_after_its_client_has_gone(
    alice: ccxt.kucoin, simulator: Simulator
) -> None:
    simulator.control("faults", method="POST", path=ORDERS, kind="delay", seconds=0.6, when="before")
    alice.timeout = 200

    with pytest.raises(ccxt.RequestTimeout):
        buy(alice)
    at_first = placed(simulator)
    time.sleep(0.8)

    assert (at_first, placed(simulator)) == ([], ["f-1"])


def test_a_delay_after_acceptance_answers_late(alice: ccxt.kucoin, simulator: Simulator) -> None:
    simulator.control("faults", method="POST", path=ORDERS, kind="delay", seconds=0.3, when="after")
    started = time.monotonic()

    answer = buy(alice)

    assert answer["id"] is not None
    assert time.monotonic() - started >= 0.3


def test_a_delayed_request_is_refused_when_its_deadline_has_passed(alice: ccxt.kucoin, simulator: Simulator) -> None:
    simulator.control("faults", method="POST", path=ORDERS, kind="delay", seconds=0.4, when="before")
    deadline = {"clientTimestamp": alice.milliseconds(), "allowMaxTimeWindow": 200}

    with pytest.raises(ccxt.BadRequest, match="allowMaxTimeWindow"):
        alice.create_order(BTC, "market", "buy", 0.001, params={"clientOid": "f-1", **deadline})

    assert placed(simulator) == []


def test_a_fault_meets_only_the_requests_it_names_and_only_so_often(alice: ccxt.kucoin, simulator: Simulator) -> None:
    simulator.open_account("bob")
    bob = simulator.client("bob")
    bob.set_markets(alice.markets)
    simulator.control("faults", kind="code", code="500000", method="GET", path="/api/v1/hf/orders/*", count=2)
    simulator.control("faults", kind="code", code="500000", clientOid="unlucky", count=None)
    simulator.control("faults", kind="code", code="500000", apiKey="bob", count=None)

    outcomes = []
    for action in (
        lambda: buy(alice, "lucky"),
        lambda: buy(alice, "unlucky"),
        lambda: alice.cancel_order(None, BTC, {"clientOid": "unlucky"}),
        lambda: buy(bob, "bobs"),
        lambda: alice.fetch_order(None, BTC, {"clientOid": "lucky"}),
        lambda: alice.fetch_open_orders(BTC),
        lambda: alice.fetch_order(None, BTC, {"clientOid": "lucky"}),
    ):
        try:
            action()
            outcomes.append("ok")
        except ccxt.ExchangeNotAvailable:
            outcomes.append("failed")

    assert outcomes == ["ok", "failed", "failed", "failed", "failed", "failed", "ok"]
    assert placed(simulator) == ["lucky"]


def test_faults_are_listed_counted_down_and_cleared(alice: ccxt.kucoin, simulator: Simulator) -> None:
    simulator.control("faults", path=ORDERS, kind="drop", count=3)
    with pytest.raises(ccxt.NetworkError):
        buy(alice)

    [left] = simulator.get("/_sim/faults")["faults"]
    cleared = requests.delete(f"{simulator.url}/_sim/faults", timeout=5).json()

    assert (left["remaining"], left["hits"], cleared) == (2, 1, {"cleared": 1})
    assert buy(alice)["id"] is not None


def test_the_request_log_says_which_fault_a_request_met(alice: ccxt.kucoin, simulator: Simulator) -> None:
    simulator.control("faults", method="POST", path=ORDERS, kind="drop", when="after")
    with pytest.raises(ccxt.NetworkError):
        buy(alice)

    line = simulator.oracle()["requests"][-1]

    assert (line["clientOid"], line["status"], line["fault"]) == ("f-1", 0, "drop after")


def test_the_others_are_served_while_one_request_hangs(alice: ccxt.kucoin, simulator: Simulator) -> None:
    simulator.control("faults", path=ORDERS, kind="hang", clientOid="stuck", seconds=1.5)
    stuck = threading.Thread(target=lambda: pytest.raises(ccxt.NetworkError, buy, simulator.client(), "stuck"))
    stuck.start()
    time.sleep(0.1)
    started = time.monotonic()

    buy(alice, "free")

    assert time.monotonic() - started < 1
    stuck.join()
    assert placed(simulator) == ["free"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", ["html", "empty", "truncated"])
def test_an_answer_that_is_none_leaves_a_client_without_an_order_id(
    alice: ccxt.kucoin, simulator: Simulator, kind: str, when: str
) -> None:
    simulator.control("faults", method="POST", path=ORDERS, kind=kind, when=when)

    order = buy(alice)

    assert order["id"] is None
    assert placed(simulator) == (["f-1"] if when == "after" else [])


def test_a_truncated_answer_is_the_first_half_of_the_true_one(simulator: Simulator) -> None:
    whole = requests.get(f"{simulator.url}/api/v2/symbols", timeout=5).text
    simulator.control("faults", path="/api/v2/symbols", kind="truncated", when="after")

    half = requests.get(f"{simulator.url}/api/v2/symbols", timeout=5).text

    assert half == whole[: len(whole) // 2]


def test_an_html_page_may_come_with_any_status(alice: ccxt.kucoin, simulator: Simulator) -> None:
    simulator.control("faults", method="POST", path=ORDERS, kind="html", status=403)

    with pytest.raises(ccxt.ExchangeNotAvailable):
        buy(alice)

    assert placed(simulator) == []


def test_a_fault_may_let_some_requests_pass_first(alice: ccxt.kucoin, simulator: Simulator) -> None:
    simulator.control("faults", method="POST", path=ORDERS, kind="drop", skip=2, count=1)

    outcomes = []
    for number in range(4):
        try:
            outcomes.append(buy(alice, f"f-{number}")["clientOrderId"])
        except ccxt.NetworkError:
            outcomes.append("dropped")

    assert outcomes == ["f-0", "f-1", "dropped", "f-3"]


def test_a_fault_by_chance_hits_about_its_share(simulator: Simulator) -> None:
    simulator.control("faults", path="/api/v1/timestamp", kind="code", chance=0.3, count=None)

    codes = [simulator.get("/api/v1/timestamp")["code"] for _ in range(100)]

    assert 15 <= codes.count("500000") <= 45
    assert set(codes) == {"200000", "500000"}


def test_a_fault_may_be_meant_for_one_account_or_one_order(alice: ccxt.kucoin, simulator: Simulator) -> None:
    simulator.open_account("key-of-bob", USDT="10000")
    bob = simulator.client("key-of-bob")
    simulator.control("faults", apiKey="key-of-bob", path=ORDERS, kind="drop", when="after")
    simulator.control("faults", clientOid="f-9", kind="drop", when="before")

    buy(alice, "f-1")
    with pytest.raises(ccxt.NetworkError):
        buy(bob, "f-2")
    with pytest.raises(ccxt.NetworkError):
        buy(alice, "f-9")

    assert placed(simulator) == ["f-1", "f-2"]
