"""Who may come in, what they are told, and that nobody is shown a secret."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import ccxt
import pytest
import requests

from simulator.credentials import Credentials
from tests.simulator.conftest import KEY, PASSPHRASE, SECRET, Simulator, made_exchange


def signed(method: str, target: str, body: str = "", **changes: str) -> dict[str, str]:
    """The headers of a well-signed request, each replaceable; an empty one is left out."""
    stamp = changes.get("KC-API-TIMESTAMP") or str(int(time.time() * 1000))

    def digest(message: str) -> str:
        return base64.b64encode(hmac.digest(SECRET.encode(), message.encode(), hashlib.sha256)).decode()

    headers = {
        "KC-API-KEY": KEY,
        "KC-API-TIMESTAMP": stamp,
        "KC-API-PASSPHRASE": digest(PASSPHRASE),
        "KC-API-SIGN": digest(stamp + method + target + body),
        "KC-API-KEY-VERSION": "2",
        **changes,
    }
    return {name: value for name, value in headers.items() if value}


def test_the_documented_signature_example_is_reproduced() -> None:
    credentials = Credentials("test_api_secret", "irrelevant")

    assert credentials.signature_matches("jie/gxS38wLFFaBwl/cAzFbAzlI8MIny96jSXrB+iP4=", b"test_plain")
    assert not credentials.signature_matches("jie/gxS38wLFFaBwl/cAzFbAzlI8MIny96jSXrB+iP4=", b"other_plain")


@pytest.mark.parametrize("version", ["2", "3"])
def test_a_well_signed_request_is_answered(simulator: Simulator, version: str) -> None:
    simulator.open_account()
    target = "/api/v1/accounts?type=trade_hf"

    answer = requests.get(
        simulator.url + target, headers=signed("GET", target, **{"KC-API-KEY-VERSION": version}), timeout=5
    ).json()

    assert answer["code"] == "200000"
    assert [row["currency"] for row in answer["data"]] == ["USDT"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"KC-API-SIGN": ""}, "400001"),
        ({"KC-API-PASSPHRASE": ""}, "400001"),
        ({"KC-API-KEY": "nobody"}, "400003"),
        ({"KC-API-KEY": "nobody", "KC-API-TIMESTAMP": "1"}, "400003"),
        ({"KC-API-TIMESTAMP": "1700000000000"}, "400002"),
        ({"KC-API-TIMESTAMP": "yesterday"}, "400002"),
        ({"KC-API-PASSPHRASE": "d3Jvbmc="}, "400004"),
        ({"KC-API-KEY-VERSION": "9"}, "400004"),
        ({"KC-API-SIGN": "d3Jvbmc="}, "400005"),
    ],
)
def test_a_badly_signed_request_is_refused_with_its_code(
    simulator: Simulator, changes: dict[str, str], code: str
) -> None:
    simulator.open_account()
    target = "/api/v1/accounts?type=trade_hf"

    response = requests.get(simulator.url + target, headers=signed("GET", target, **changes), timeout=5)

    assert (response.status_code, response.json()["code"]) == (401, code)


def test_a_signature_covers_body_and_query(simulator: Simulator) -> None:
    simulator.open_account()
    body = '{"symbol":"BTC-USDT","side":"buy","type":"market","size":"0.001","clientOid":"c-1"}'
    headers = signed("POST", "/api/v1/hf/orders", body)

    altered = requests.post(
        simulator.url + "/api/v1/hf/orders", data=body.replace("0.001", "0.1"), headers=headers, timeout=5
    )
    honest = requests.post(simulator.url + "/api/v1/hf/orders", data=body, headers=headers, timeout=5)

    assert altered.json()["code"] == "400005"
    assert honest.json()["data"]["clientOid"] == "c-1"


@pytest.mark.parametrize("skew_ms", [-4_000, 4_000])
def test_a_clock_that_differs_by_less_than_five_seconds_is_accepted(simulator: Simulator, skew_ms: int) -> None:
    simulator.open_account()
    stamp = str(int(time.time() * 1000) + skew_ms)
    target = "/api/v1/hf/accounts/opened"

    answer = requests.get(
        simulator.url + target, headers=signed("GET", target, **{"KC-API-TIMESTAMP": stamp}), timeout=5
    ).json()

    assert answer == {"code": "200000", "data": True}


def test_ccxt_calls_a_wrong_secret_an_authentication_error(simulator: Simulator) -> None:
    simulator.open_account()

    with pytest.raises(ccxt.AuthenticationError, match="400004"):
        simulator.client(secret="wrong").fetch_balance()


def test_ccxt_calls_a_wrong_clock_an_invalid_nonce(simulator: Simulator) -> None:
    simulator.open_account()
    client = simulator.client()
    client.options["timeDifference"] = 20_000

    with pytest.raises(ccxt.InvalidNonce, match="400002"):
        client.fetch_balance()


def test_a_key_without_the_permission_may_read_and_not_trade(simulator: Simulator) -> None:
    simulator.control(
        "accounts", apiKey=KEY, secret=SECRET, passphrase=PASSPHRASE, permissions="General", balances={"USDT": "1000"}
    )
    client = simulator.client()

    assert client.fetch_balance()["USDT"]["total"] == 1000
    with pytest.raises(ccxt.AuthenticationError, match="400007"):
        client.create_order("BTC/USDT", "market", "buy", 0.001)


def test_a_key_is_refused_from_another_address_than_its_own(simulator: Simulator) -> None:
    simulator.control("accounts", apiKey=KEY, secret=SECRET, passphrase=PASSPHRASE, ipWhitelist="203.0.113.5")

    with pytest.raises(ccxt.AuthenticationError, match="400006"):
        simulator.client().fetch_balance()


def test_the_permissions_of_a_key_can_be_read(simulator: Simulator) -> None:
    simulator.control("accounts", apiKey=KEY, secret=SECRET, passphrase=PASSPHRASE, permissions="General,Spot,Transfer")

    assert simulator.client().privateGetUserApiKey()["data"]["permission"] == "General,Spot,Transfer"


def test_a_balance_is_shown_under_the_account_type_that_was_asked_for(simulator: Simulator) -> None:
    simulator.open_account(USDT="10000", BTC="0.5")
    client = simulator.client()

    hf, classic, main = (client.privateGetAccounts({"type": kind})["data"] for kind in ("trade_hf", "trade", "main"))

    assert [(row["type"], row["currency"], row["balance"]) for row in hf] == [
        ("trade_hf", "USDT", "10000"),
        ("trade_hf", "BTC", "0.5"),
    ]
    assert {row["type"] for row in classic} == {"trade"}
    assert main == []


def test_an_account_opened_again_takes_the_new_balance_and_books_the_difference(simulator: Simulator) -> None:
    simulator.open_account(USDT="10000")
    simulator.open_account(USDT="10250.5")

    assert simulator.client().fetch_balance()["USDT"]["total"] == 10250.5
    assert [deposit["amount"] for deposit in simulator.oracle()["deposits"]] == ["10000", "250.5"]


def test_one_account_never_sees_the_orders_of_another(simulator: Simulator) -> None:
    simulator.open_account("alice")
    simulator.open_account("bob")
    alice, bob = simulator.client("alice"), simulator.client("bob")
    placed = alice.create_order("BTC/USDT", "market", "buy", 0.001, params={"clientOid": "shared-id"})

    for search in ({}, {"clientOid": "shared-id"}):
        with pytest.raises(ccxt.OrderNotFound):
            bob.fetch_order(placed["id"], "BTC/USDT", search)
    assert bob.fetch_my_trades("BTC/USDT") == []
    assert bob.create_order("BTC/USDT", "market", "buy", 0.001, params={"clientOid": "shared-id"})["id"] != placed["id"]


def test_no_answer_and_no_log_line_contains_a_secret(simulator: Simulator, caplog: pytest.LogCaptureFixture) -> None:
    simulator.open_account()
    client = simulator.client()
    client.create_order("BTC/USDT", "market", "buy", 0.001)
    client.privateGetUserApiKey()
    opened = requests.post(
        simulator.url + "/_sim/accounts",
        json={"apiKey": KEY, "secret": SECRET, "passphrase": PASSPHRASE},
        timeout=5,
    )
    refused = requests.post(simulator.url + "/_sim/accounts", json={"secret": SECRET, "apiKey": ["x"]}, timeout=5)

    shown = [
        opened.text,
        refused.text,
        json.dumps(simulator.oracle()),
        caplog.text,
        repr(Credentials(SECRET, PASSPHRASE)),
    ]
    for text in shown:
        assert SECRET not in text
        assert PASSPHRASE not in text


def test_the_control_api_wants_its_token_when_it_has_one(start_with: Callable[..., Simulator]) -> None:
    simulator = start_with(made_exchange(), token="control-token-1")

    def status(path: str, headers: dict[str, str] | None = None) -> int:
        return requests.get(f"{simulator.url}/_sim/{path}", headers=headers, timeout=5).status_code

    assert status("oracle") == 401
    assert status("oracle", {"Authorization": "Bearer wrong"}) == 401
    assert status("oracle", {"Authorization": "Bearer control-token-1"}) == 200
    assert status("health") == 200


@pytest.mark.parametrize(
    ("path", "body", "wanted"),
    [
        ("accounts", {"apiKey": "k", "passphrase": "p"}, "secret"),
        ("accounts", {"apiKey": "k", "secret": "s", "passphrase": "p", "balances": {"USDT": "much"}}, "USDT"),
        ("accounts", {"apiKey": "k", "secret": "s", "passphrase": "p", "balances": {"USDT": "-1"}}, "USDT"),
        ("clock", {"speed": "fast"}, "speed"),
        ("clock", {"now_ms": 5}, "never goes back"),
        ("clock", {"sped": 5}, "fields among"),
        ("clock", {"speed": 1e9}, "at most 100000"),
        ("clock", {"advance_s": 1e12}, "at most 400 days"),
        ("market/BTC-USDT/price", {"price": "1e40"}, "at most"),
        ("market/BTC-USDT/candles", {"candles": [[n * 60000, 1, 1, 1, 1, 1] for n in (1, 2, 3, 1e9)]}, "days"),
        ("symbols", {"symbol": "BTC-USDT", "priceIncrement": "1e-30"}, "priceIncrement"),
        ("market/BTC-USDT/price", {"price": "0"}, "price"),
        ("market/BTC-USDT/price", {"price": "60000.05"}, "0.1"),
        ("market/BTC-USDT/candles", {"candles": []}, "at least one candle"),
        ("market/BTC-USDT/candles", {"candles": [[60000, 1, 2]]}, "wanted candles of"),
        ("market/BTC-USDT/candles", {"candles": [[60001, 1, 2, 1, 1, 1]]}, "whole minute"),
        ("market/BTC-USDT/candles", {"candles": [[60000, 1, 2, 3, 1, 1]]}, "low"),
        ("symbols", {"symbol": "btc"}, "BTC-USDT"),
        ("symbols", {"symbol": "BTC-USDT", "priceIncrement": "0"}, "priceIncrement"),
        ("settings", {"duplicateClientOid": "sometimes"}, "sometimes"),
        ("faults", {"kind": "explode"}, "explode"),
        ("faults", {"kind": "drop", "when": "during"}, "during"),
        ("faults", {"kind": "delay"}, "seconds"),
    ],
)
def test_bad_control_requests_are_refused_with_what_was_wanted(
    simulator: Simulator, path: str, body: dict[str, Any], wanted: str
) -> None:
    response = requests.post(f"{simulator.url}/_sim/{path}", json=body, timeout=5)

    assert response.status_code == 400
    assert wanted in response.json()["error"]


def test_an_endpoint_that_does_not_exist_is_not_found(simulator: Simulator) -> None:
    exchange = requests.get(simulator.url + "/api/v1/nothing", timeout=5)
    control = requests.get(simulator.url + "/_sim/nothing", timeout=5)

    assert (exchange.status_code, exchange.json()["code"]) == (404, "404000")
    assert control.status_code == 404
