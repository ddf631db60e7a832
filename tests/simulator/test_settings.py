"""Where a real exchange varies or misbehaves without a fault: POST /_sim/settings and its neighbours."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ccxt
import pytest
import requests

from tests.simulator.conftest import KEY, START_MS, Simulator, made_exchange

BTC = "BTC/USDT"
Start = Callable[..., Simulator]


def limit_buy(client: ccxt.kucoin, client_oid: str, price: float = 59_000, size: float = 0.01) -> str:
    order: dict[str, Any] = client.create_order(BTC, "limit", "buy", size, price, {"clientOid": client_oid})
    return str(order["id"])


def by_client_oid(client: ccxt.kucoin, client_oid: str) -> dict[str, Any]:
    order: dict[str, Any] = client.fetch_order(None, BTC, {"clientOid": client_oid})
    return order


def totals(simulator: Simulator) -> dict[str, str]:
    return {name: row["balance"] for name, row in simulator.oracle()["balances"][KEY].items()}


def test_settings_are_shown_and_changed_all_or_nothing(simulator: Simulator) -> None:
    before = simulator.get("/_sim/settings")

    refused = requests.post(f"{simulator.url}/_sim/settings", json={"readLagMs": 5, "fillRatio": "2"}, timeout=5)

    assert refused.status_code == 400
    assert refused.json() == {"error": "wanted fillRatio to be above 0 and at most 1, was '2'"}
    assert simulator.get("/_sim/settings") == before
    assert before["rateLimits"] == {"spot": 4000, "futures": 2000, "management": 2000, "public": 2000}


# -- fills -----------------------------------------------------------------------------------------------------


def test_a_resting_order_fills_in_parts_with_pauses(simulator: Simulator, alice: ccxt.kucoin) -> None:
    simulator.control("settings", fillRatio="0.4", fillPauseMs=10_000)
    limit_buy(alice, "parts")
    simulator.pin("58000")
    seen = [by_client_oid(alice, "parts")["filled"]]

    for _ in range(2):
        simulator.control("clock", advance_s=10)
        seen.append(by_client_oid(alice, "parts")["filled"])

    assert seen == [0.004, 0.008, 0.01]
    assert by_client_oid(alice, "parts")["status"] == "closed"
    assert [fill["size"] for fill in simulator.oracle()["fills"]] == ["0.004", "0.004", "0.002"]
    assert [fill["price"] for fill in simulator.oracle()["fills"]] == ["58000", "59000", "59000"]
    assert totals(simulator) == {"USDT": "9413.414", "BTC": "1.01"}


def test_a_part_of_a_resting_order_is_filled_by_hand_and_the_rest_can_be_cancelled(
    simulator: Simulator, alice: ccxt.kucoin
) -> None:
    limit_buy(alice, "parts")

    simulator.control("fills", clientOid="parts", size="0.004")
    alice.cancel_order(None, BTC, {"clientOid": "parts"})

    order = by_client_oid(alice, "parts")
    assert (order["status"], order["filled"], order["remaining"]) == ("canceled", 0.004, 0.006)
    assert simulator.oracle()["balances"][KEY]["USDT"] == {
        "balance": "9763.764",
        "available": "9763.764",
        "holds": "0",
    }


def test_a_market_order_slips_by_as_much_as_the_book_is_thin(simulator: Simulator, alice: ccxt.kucoin) -> None:
    simulator.open_account(USDT="1000000", BTC="1")
    deep = alice.create_order(BTC, "market", "buy", 1)
    simulator.control("market/BTC-USDT/depth", quote="1000")
    thin = alice.create_order(BTC, "market", "buy", 1)

    averages = [alice.fetch_order(order["id"], BTC)["average"] for order in (deep, thin)]

    assert averages[0] == pytest.approx(60_003.5, abs=0.6)
    assert averages[1] == pytest.approx(60_022.0, abs=1.5)
    assert len(simulator.oracle()["fills"]) == 2 + 11


def test_fees_are_paid_in_kcs_with_its_discount_while_there_is_enough(start_with: Start) -> None:
    simulator = start_with(made_exchange("BTC-USDT", "KCS-USDT", slippage="0"))
    simulator.open_account(USDT="10000", KCS="0.06")
    simulator.control("accounts", apiKey=KEY, payFeesInKcs=True)
    simulator.pin("60000")
    simulator.pin("10", "KCS-USDT")
    client = simulator.client()

    for _ in range(2):
        client.create_order(BTC, "market", "buy", 0.01)

    fills = simulator.oracle()["fills"]
    assert [(fill["fee"], fill["feeCurrency"]) for fill in fills] == [("0.048", "KCS"), ("0.6", "USDT")]
    assert totals(simulator) == {"USDT": "8799.4", "KCS": "0.012", "BTC": "0.02"}
    assert client.fetch_my_trades(BTC)[0]["fee"] == {"cost": 0.048, "currency": "KCS", "rate": 0.001}


# -- cancels ---------------------------------------------------------------------------------------------------


def test_a_cancel_takes_effect_later_and_a_fill_may_come_first(simulator: Simulator, alice: ccxt.kucoin) -> None:
    simulator.control("settings", cancelDelayMs=60_000)
    limit_buy(alice, "racing")
    alice.cancel_order(None, BTC, {"clientOid": "racing"})
    between = by_client_oid(alice, "racing")["status"]

    simulator.pin("58000")

    order = by_client_oid(alice, "racing")
    assert between == "open"
    assert (order["status"], order["filled"]) == ("closed", 0.01)


def test_a_delayed_cancel_does_take_effect(simulator: Simulator, alice: ccxt.kucoin) -> None:
    simulator.control("settings", cancelDelayMs=50)
    limit_buy(alice, "going")
    alice.cancel_order(None, BTC, {"clientOid": "going"})

    time.sleep(0.1)

    assert by_client_oid(alice, "going")["status"] == "canceled"
    assert simulator.oracle()["balances"][KEY]["USDT"]["holds"] == "0"


def test_a_synchronous_cancel_waits_for_nothing(simulator: Simulator, alice: ccxt.kucoin) -> None:
    simulator.control("settings", cancelDelayMs=60_000)
    order_id = limit_buy(alice, "at-once")

    answer = alice.cancel_order(order_id, BTC, {"sync": True})

    assert answer["info"]["status"] == "done"
    assert by_client_oid(alice, "at-once")["status"] == "canceled"


def test_the_dead_mans_switch_cancels_what_it_was_set_for(
    simulator: Simulator, alice: ccxt.kucoin, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_buy(alice, "watched")
    armed = alice.private_post_hf_orders_dead_cancel_all({"timeout": 5, "symbols": "BTC-USDT"})["data"]
    asked = alice.private_get_hf_orders_dead_cancel_all_query()["data"]
    account = simulator.exchange.books.accounts[KEY]
    simulator.exchange.books.set_dead_man(account, (0, ["BTC-USDT"]))  # the five seconds are over

    order = by_client_oid(alice, "watched")

    assert int(armed["triggerTime"]) - int(armed["currentTime"]) == 5
    assert asked["symbols"] == "BTC-USDT"
    assert order["status"] == "canceled"
    assert account.dead_man is None


def test_an_order_is_altered_to_another_price(simulator: Simulator, alice: ccxt.kucoin) -> None:
    order_id = limit_buy(alice, "moving")

    changed = alice.edit_order(order_id, BTC, "limit", "buy", 0.02, 58_500)

    order = by_client_oid(alice, "moving")
    assert (order["id"], order["price"], order["amount"]) == (changed["id"], 58_500, 0.02)
    assert alice.fetch_order(order_id, BTC)["status"] == "canceled"


# -- reads -----------------------------------------------------------------------------------------------------


def test_reads_lag_behind_writes(simulator: Simulator, alice: ccxt.kucoin) -> None:
    limit_buy(alice, "old")
    simulator.control("settings", readLagMs=400)
    order_id = limit_buy(alice, "new")
    with pytest.raises(ccxt.OrderNotFound):
        by_client_oid(alice, "new")
    early = {order["clientOrderId"] for order in alice.fetch_open_orders(BTC)}
    time.sleep(0.45)
    later = {order["clientOrderId"] for order in alice.fetch_open_orders(BTC)}

    simulator.pin("58000")
    lagging = by_client_oid(alice, "new")["status"], alice.fetch_closed_orders(BTC), alice.fetch_my_trades(BTC)
    still_open = len(alice.fetch_open_orders(BTC))
    time.sleep(0.45)

    assert (early, later) == ({"old"}, {"old", "new"})
    assert lagging == ("open", [], [])
    assert still_open == 2
    assert alice.fetch_order(order_id, BTC)["status"] == "closed"
    assert len(alice.fetch_my_trades(BTC)) == 2
    assert alice.fetch_open_orders(BTC) == []


def test_done_orders_are_forgotten_after_their_time(simulator: Simulator, alice: ccxt.kucoin) -> None:
    simulator.control("settings", keepFilledS=7 * 86_400, keepCanceledS=2 * 86_400)
    alice.create_order(BTC, "market", "buy", 0.001, params={"clientOid": "filled"})
    limit_buy(alice, "cancelled")
    alice.cancel_order(None, BTC, {"clientOid": "cancelled"})

    simulator.control("clock", advance_s=3 * 86_400)
    filled = by_client_oid(alice, "filled")["status"]
    with pytest.raises(ccxt.OrderNotFound):
        by_client_oid(alice, "cancelled")
    simulator.control("clock", advance_s=5 * 86_400)
    with pytest.raises(ccxt.OrderNotFound):
        by_client_oid(alice, "filled")

    assert filled == "closed"
    assert len(simulator.oracle()["orders"]) == 2


def test_candles_lag_have_gaps_and_are_revised_late(simulator: Simulator, alice: ccxt.kucoin) -> None:
    minute = 60_000
    rows = [[START_MS + n * minute, 100 + n, 100 + n, 100 + n, 100 + n, 1] for n in range(10)]
    simulator.control("market/BTC-USDT/candles", candles=rows)
    simulator.control("clock", advance_s=600)
    gap = {"from": START_MS + 2 * minute, "to": START_MS + 4 * minute, "until": START_MS + 11 * minute}
    simulator.control("market/BTC-USDT/gap", **gap)
    revised = [START_MS + 5 * minute, 105, 205, 105, 205, 7]
    simulator.control("market/BTC-USDT/revision", candles=[revised], at=START_MS + 11 * minute)

    before = {row[0]: row for row in alice.fetch_ohlcv(BTC, "1m", START_MS, 10)}
    simulator.control("clock", advance_s=60)
    after = {row[0]: row for row in alice.fetch_ohlcv(BTC, "1m", START_MS, 10)}
    simulator.control("settings", candleLagMs=5 * minute)
    lagging = [row[0] for row in alice.fetch_ohlcv(BTC, "1m", START_MS, 10)]

    assert [at for at, *_ in rows if at not in before] == [START_MS + 2 * minute, START_MS + 3 * minute]
    assert before[START_MS + 5 * minute] == [START_MS + 5 * minute, 105, 105, 105, 105, 1]
    assert sorted(after) == [row[0] for row in rows]
    assert after[START_MS + 5 * minute] == revised
    assert lagging[-1] == START_MS + 6 * minute


# -- the door --------------------------------------------------------------------------------------------------


def test_maintenance_refuses_orders_then_cancels_too(simulator: Simulator, alice: ccxt.kucoin) -> None:
    order_id = limit_buy(alice, "before")
    simulator.control("settings", status="cancelonly", statusMessage="upgrade")
    with pytest.raises(ccxt.ExchangeError, match="200001"):
        limit_buy(alice, "during")
    status = alice.fetch_status()["status"]
    alice.cancel_order(order_id, BTC)

    simulator.control("settings", status="close")

    assert status == "maintenance"
    assert simulator.get("/api/v1/status")["data"] == {"status": "close", "msg": "upgrade"}
    with pytest.raises(ccxt.ExchangeError, match="200002"):
        alice.cancel_order(order_id, BTC)


def test_a_delisted_symbol_is_gone_and_its_orders_are_cancelled(simulator: Simulator, alice: ccxt.kucoin) -> None:
    limit_buy(alice, "orphan")

    simulator.control("symbols", symbol="BTC-USDT", isDelisted=True)

    assert [row["symbol"] for row in simulator.get("/api/v2/symbols")["data"]] == ["ETH-USDT"]
    assert by_client_oid(alice, "orphan")["status"] == "canceled"
    with pytest.raises(ccxt.ExchangeError, match="900001"):
        limit_buy(alice, "late")
    with pytest.raises(ccxt.BadSymbol):
        alice.fetch_ticker(BTC)
    simulator.control("symbols", symbol="BTC-USDT", isDelisted=False)
    assert by_client_oid(alice, limit_buy(alice, "again") and "again")["status"] == "open"


def test_every_answer_says_what_is_left_of_the_rate_limit(simulator: Simulator, alice: ccxt.kucoin) -> None:
    simulator.control("settings", rateLimits={"spot": 100})

    limit_buy(alice, "one")
    first = alice.last_response_headers
    alice.fetch_open_orders(BTC)
    second = alice.last_response_headers

    assert first["gw-ratelimit-limit"] == "100"
    assert int(first["gw-ratelimit-remaining"]) - int(second["gw-ratelimit-remaining"]) == 2
    assert 0 < int(second["gw-ratelimit-reset"]) <= 30_000


def test_an_empty_pool_refuses_when_limits_are_enforced(simulator: Simulator, alice: ccxt.kucoin) -> None:
    simulator.control("settings", rateLimits={"spot": 1})
    limit_buy(alice, "counted-only")
    simulator.control("settings", enforceRateLimits=True)

    with pytest.raises(ccxt.RateLimitExceeded, match="429000"):
        limit_buy(alice, "too-many")

    assert alice.last_response_headers["gw-ratelimit-remaining"] == "0"
    assert len(simulator.oracle()["orders"]) == 1
    simulator.open_account("key-of-bob", USDT="1")
    [bob] = simulator.client("key-of-bob").private_get_accounts({"type": "trade_hf"})["data"]
    assert bob["balance"] == "1"


def test_a_clock_that_is_off_refuses_signatures(simulator: Simulator, alice: ccxt.kucoin) -> None:
    simulator.control("settings", clockOffsetMs=-6_000)

    with pytest.raises(ccxt.InvalidNonce):
        alice.fetch_balance()

    simulator.control("settings", clockOffsetMs=-4_000)
    assert alice.fetch_balance()["BTC"]["total"] == 1


def test_a_revoked_key_is_unknown_until_it_is_back(simulator: Simulator, alice: ccxt.kucoin) -> None:
    simulator.control("accounts", apiKey=KEY, isRevoked=True)

    with pytest.raises(ccxt.AuthenticationError, match="400003"):
        alice.fetch_balance()

    simulator.control("accounts", apiKey=KEY, isRevoked=False)
    assert alice.fetch_balance()["BTC"]["total"] == 1


@pytest.mark.parametrize(
    ("change", "code"), [({"permissions": "General"}, "400007"), ({"ipWhitelist": "10.1.2.3"}, "400006")]
)
def test_permissions_and_addresses_are_taken_away(
    simulator: Simulator, alice: ccxt.kucoin, change: dict[str, str], code: str
) -> None:
    simulator.control("accounts", apiKey=KEY, **change)

    with pytest.raises((ccxt.AuthenticationError, ccxt.PermissionDenied), match=code):
        limit_buy(alice, "shut-out")

    assert simulator.oracle()["orders"] == []
