"""Refusals before anything was looked at: how long to wait, whose clock is wrong, and what is never written down."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from typing import Any

import pytest

from exchanges.gateway import ExchangeUnavailable, OrderOutcomeUnknown, OrderRejected
from tests.exchanges.canned import Canned
from tests.exchanges.conftest import CREDENTIALS, START_AT, Desk, ticket
from tests.exchanges.test_gateway_reads import READS

BTC = {"symbol": "BTC/USDT", "id": "BTC-USDT", "base": "BTC", "quote": "USDT", "type": "spot", "spot": True}
# What is waited where nothing sensible was said.
UNSAID = timedelta(seconds=10)
TOO_MANY = {"code": "429000", "msg": "Too many requests in a short period of time, please retry later"}


def unavailable(call: Callable[[], Any]) -> ExchangeUnavailable:
    with pytest.raises(ExchangeUnavailable) as raised:
        call()
    return raised.value


def test_an_empty_pool_says_when_it_is_full_again_to_reads_and_to_orders(desk: Desk) -> None:
    desk.simulator.control("settings", enforceRateLimits=True, rateLimits={"spot": 1, "management": 1})
    desk.gateway.order_create(ticket("the-last-one"))

    read = unavailable(desk.gateway.balances)
    sent = unavailable(lambda: desk.gateway.order_create(ticket()))

    for error in (read, sent):
        assert error.retry_after is not None
        assert timedelta(seconds=20) < error.retry_after <= timedelta(seconds=30)
        assert not error.is_refused_key
    assert [order["clientOid"] for order in desk.orders()] == ["the-last-one"]


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        ({"gw-ratelimit-reset": "1500"}, timedelta(milliseconds=1500)),
        ({"GW-RateLimit-Reset": "1500"}, timedelta(milliseconds=1500)),
        ({"gw-ratelimit-reset": "0"}, timedelta(0)),
        ({"gw-ratelimit-reset": "999999999"}, timedelta(hours=1)),
        ({"gw-ratelimit-reset": "9" * 400}, UNSAID),
        ({"gw-ratelimit-reset": "-5"}, UNSAID),
        ({"gw-ratelimit-reset": "soon"}, UNSAID),
        ({}, UNSAID),
    ],
)
@pytest.mark.parametrize("status", [200, 429])
def test_the_header_says_how_long_where_it_says_anything_sensible(
    header: dict[str, str], wait: timedelta, status: int
) -> None:
    paths = ("GET /api/v1/accounts", "POST /api/v1/hf/orders")
    canned = Canned(dict.fromkeys(paths, TOO_MANY), dict.fromkeys(paths, status), header)
    gateway = canned.gateway("kucoin", {**BTC, "precision": {"amount": "0.00000001", "price": "0.1"}})

    assert unavailable(gateway.balances).retry_after == wait
    assert unavailable(lambda: gateway.order_create(ticket())).retry_after == wait


def test_a_header_of_an_earlier_answer_says_nothing_of_this_failure(desk: Desk) -> None:
    desk.gateway.balances()  # its answer has the header, like every one
    desk.fault(kind="http", status=500, body="")
    failed = unavailable(desk.gateway.balances)
    desk.fault(kind="code", code="429000", msg="slow down", status=429)  # without the header
    refused = unavailable(desk.gateway.balances)

    assert (failed.retry_after, refused.retry_after) == (None, UNSAID)


def test_a_page_that_says_429_proves_nothing_about_an_order(desk: Desk) -> None:
    desk.fault(kind="http", status=429, body="<html>slow down</html>", when="after", method="POST")

    with pytest.raises(OrderOutcomeUnknown):
        desk.gateway.order_create(ticket())

    assert len(desk.orders()) == 1


@pytest.mark.parametrize("offset_ms", [-20_000, 20_000, 3_600_000])
def test_a_clock_that_is_off_costs_one_refusal_and_is_right_afterwards(desk: Desk, offset_ms: int) -> None:
    desk.simulator.control("settings", clockOffsetMs=offset_ms)

    refused = unavailable(lambda: desk.gateway.order_create(ticket()))
    balances = desk.gateway.balances()
    desk.gateway.order_create(ticket())

    off_s = float(str(refused).split("our clock is ")[1].split(" s off")[0])
    assert abs(off_s + offset_ms / 1000) <= 1
    assert not refused.is_refused_key
    assert balances
    assert [order["clientOid"] for order in desk.orders()] == ["order-1"]


@pytest.mark.parametrize("offset_ms", [-20_000, 20_000])
def test_the_window_ends_where_ours_does_whatever_the_clocks_say(desk: Desk, offset_ms: int) -> None:
    desk.simulator.control("settings", clockOffsetMs=offset_ms)
    unavailable(desk.gateway.balances)
    long_ago = datetime.now(tz=UTC) - timedelta(seconds=8)

    with pytest.raises(OrderOutcomeUnknown, match="The request arrived after"):
        desk.gateway.order_create(ticket("too-late", sent_at=long_ago, window_ms=5000))
    desk.gateway.order_create(ticket("in-time", sent_at=long_ago, window_ms=11_000))

    assert [order["clientOid"] for order in desk.orders()] == ["in-time"]


def test_a_clock_that_was_set_right_again_is_believed_again(desk: Desk) -> None:
    desk.simulator.control("settings", clockOffsetMs=20_000)
    unavailable(desk.gateway.balances)
    desk.simulator.control("settings", clockOffsetMs=0)

    refused = unavailable(desk.gateway.balances)

    assert "our clock agrees with the Date of that answer" in str(refused)
    assert desk.gateway.balances()


def test_the_time_of_a_market_that_runs_faster_does_not_touch_our_stamps(desk: Desk) -> None:
    desk.simulator.control("clock", speed=3600, now_ms=int(START_AT.timestamp() * 1000) + 40 * 86_400_000)
    desk.gateway.time()
    desk.gateway.fills_since("BTC/USDT", START_AT)
    desk.fault(kind="code", code="400002", msg="Invalid KC-API-TIMESTAMP", status=401)

    refused = unavailable(desk.gateway.balances)

    assert "our clock agrees with the Date of that answer" in str(refused)
    assert desk.gateway.balances()


@pytest.mark.parametrize("date", ["", "yesterday", "Thu, 99 Foo 2026 00:00:00 GMT"])
def test_a_refusal_without_a_date_changes_nothing(date: str) -> None:
    answer = {"code": "400002", "msg": "Invalid KC-API-TIMESTAMP"}
    canned = Canned({"GET /api/v1/accounts": answer}, headers={"Date": date} if date else {})
    gateway = canned.gateway("kucoin", BTC)

    said = [str(unavailable(gateway.balances)) for _ in range(2)]

    stamps = [int(one.headers["KC-API-TIMESTAMP"]) for one in canned.asked]
    assert all("how far our clock is off is not known" in text for text in said)
    assert abs(stamps[1] - datetime.now(tz=UTC).timestamp() * 1000) < 2000


def test_only_a_refusal_for_the_time_teaches_the_time() -> None:
    hour_ahead = formatdate(datetime.now(tz=UTC).timestamp() + 3600, usegmt=True)
    canned = Canned({"GET /api/v1/accounts": {"code": "500000", "msg": "oops"}}, headers={"Date": hour_ahead})
    gateway = canned.gateway("kucoin", BTC)

    unavailable(gateway.balances)
    unavailable(gateway.balances)

    stamp = int(canned.asked[1].headers["KC-API-TIMESTAMP"])
    assert abs(stamp - datetime.now(tz=UTC).timestamp() * 1000) < 2000


def test_nothing_that_is_logged_at_any_level_holds_a_secret(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="urllib3")  # which our settings keep from it
    for read in READS.values():
        read(desk.gateway)
    desk.gateway.order_create(ticket())
    desk.fault(kind="code", code="400005", msg="Invalid KC-API-SIGN", status=401)
    with pytest.raises(OrderRejected):
        desk.gateway.order_create(ticket("order-2"))
    desk.fault(kind="code", code="400002", msg="Invalid KC-API-TIMESTAMP", status=401)
    unavailable(desk.gateway.balances)

    signed = [record.getMessage() for record in caplog.records if "KC-API" in record.getMessage()]
    assert caplog.records  # something is logged at that level: of whom we talk to
    assert signed == []
    assert not any(
        secret in caplog.text for secret in (CREDENTIALS.secret, CREDENTIALS.passphrase, CREDENTIALS.api_key)
    )


def test_a_new_gateway_resends_nothing_by_itself_whatever_ccxt_would_do_by_default(desk: Desk) -> None:
    assert desk.gateway._venue.options["maxRetriesOnFailure"] == 0
    assert desk.gateway._venue.session.get_adapter(desk.simulator.url).max_retries.total == 0
