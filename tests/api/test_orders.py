"""Orders, fills, positions, valuations and the journal at the API: read only, and asked for by session."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.db import transaction

from exchanges.models import Account
from marketdata.models import Candle
from money.models import Valuation
from orders.ledger import orders_announce
from orders.models import Order
from pipeline.models import Event
from pipeline.topics import Topic, publish
from positions.models import Position
from sessions.models import TradingSession
from strategies.models import Signal
from tests.api.conftest import Api
from tests.factories import (
    make_account,
    make_candles,
    make_fill,
    make_funding,
    make_market,
    make_open_position,
    make_order,
    make_position,
    make_session,
    make_signal,
)  # fmt: skip

READ_ONLY = (
    "orders",
    "fills",
    "fundings",
    "positions",
    "valuations",
    "events",
    "signals",
    "feeds",
    "markets",
    "quotes",
)
BEGAN = datetime(2024, 5, 1, 12, tzinfo=UTC)
A_DAY = timedelta(days=1)


def two_sessions() -> tuple[TradingSession, TradingSession]:
    return make_session(), make_session(account=make_account(name="second"))


def test_an_order_tells_all_that_became_of_it(alice: Api) -> None:
    session = make_session()
    order = make_order(make_position(session), status="OPENED", reason="SIGNAL", quantity=Decimal("0.030"))
    make_fill(order, quantity="0.01", price="50000")
    make_fill(order, quantity="0.005", price="50001")

    row = alice.get(f"orders/{order.pk}").json()

    assert (row["client_order_id"], row["session"], row["symbol"]) == (order.client_order_id, session.pk, "BTC/USDT")
    assert (row["status"], row["execution"], row["reason"]) == ("OPENED", "PARTIALLY_EXECUTED", "SIGNAL")
    assert (row["quantity"], row["filled"], row["average_price"]) == ("0.03", "0.015", "50000.333333333333333333")


def test_a_denied_order_says_why_in_a_sentence(alice: Api) -> None:
    order = make_order(make_position(make_session()), status="DENIED", reason="MAX_EXPOSURE")

    row = alice.get(f"orders/{order.pk}").json()

    assert (row["quantity"], row["average_price"], row["execution"]) == (None, None, "NOT_EXECUTED")
    assert (row["reason"], row["reason_text"]) == (
        "MAX_EXPOSURE",
        "The account's exposure is at the limit of its risk profile.",
    )


def test_a_rejected_order_says_what_the_venue_said(alice: Api) -> None:
    order = make_order(
        make_position(make_session()), status="REJECTED", reason="200004", detail="Balance insufficient!"
    )

    row = alice.get(f"orders/{order.pk}").json()

    assert (row["reason"], row["reason_text"]) == ("200004", "Balance insufficient!")


def test_orders_are_found_by_session_account_status_and_market(alice: Api) -> None:
    first, second = two_sessions()
    entry = make_order(make_position(first), status="CLOSED")
    waiting = make_order(make_position(second))
    ether = make_market(symbol="ETH/USDT")

    found = {
        "by session": alice.ids("orders", session=first.pk),
        "by account": alice.ids("orders", account=second.account_id),
        "by status": alice.ids("orders", status=["CLOSED", "OPENED"]),
        "by market": alice.ids("orders", market=ether.pk),
        "by our id": alice.ids("orders", client_order_id=waiting.client_order_id),
        "by nobody's session": alice.ids("orders", session=-1),
        "by what we do not know": alice.ids("orders", colour="red"),
    }

    assert found == {
        "by session": [entry.pk], "by account": [waiting.pk], "by status": [entry.pk], "by market": [],
        "by our id": [waiting.pk],
        "by nobody's session": [], "by what we do not know": [waiting.pk, entry.pk],
    }  # fmt: skip


def test_fills_are_found_by_session_and_order(alice: Api) -> None:
    first, second = two_sessions()
    orders = [make_order(make_position(session), status="CLOSED") for session in (first, second)]
    fills = [make_fill(order, price="49999.90", fee="0.5") for order in orders]

    one = alice.get(f"fills/{fills[0].pk}").json()

    assert (one["session"], one["client_order_id"]) == (first.pk, orders[0].client_order_id)
    assert (one["price"], one["fee"]) == ("49999.9", "0.5")
    assert alice.ids("fills", session=second.pk) == alice.ids("fills", order=orders[1].pk) == [fills[1].pk]


def test_funding_is_found_by_account_and_time(alice: Api) -> None:
    position = make_open_position(make_session())
    early, late = (
        make_funding(position, amount, paid_at=BEGAN + n * A_DAY) for n, amount in enumerate(("-0.05", "0.1"))
    )

    one = alice.get(f"fundings/{early.pk}").json()

    assert (one["amount"], one["currency"], one["symbol"]) == ("-0.05", "USDT", "BTC/USDT")
    assert alice.ids("fundings", account=position.account_id) == [late.pk, early.pk]
    assert alice.ids("fundings", since=(BEGAN + A_DAY).isoformat()) == [late.pk]


def test_positions_are_found_by_session_and_status(alice: Api) -> None:
    first, second = two_sessions()
    held, closed = make_open_position(first), make_position(second, "CLOSED", exit_reason="STOP_LOSS")

    row = alice.get(f"positions/{held.pk}").json()

    assert (row["session"], row["quantity"], row["entry_price"], row["stop_price"]) == (
        first.pk,
        "0.02",
        "50000",
        "49000",
    )
    assert alice.ids("positions", status="OPEN") == alice.ids("positions", session=first.pk) == [held.pk]
    assert alice.ids("positions", exit_reason="STOP_LOSS") == [closed.pk]


def test_valuations_tell_on_what_facts_an_order_was_valued(alice: Api) -> None:
    first, second = two_sessions()
    approved, denied = (make_order(make_position(session)) for session in (first, second))
    yes = Valuation.objects.create(
        order=approved, verdict="APPROVED", equity=Decimal("10000.50"), quantity=Decimal("0.02")
    )
    no = Valuation.objects.create(order=denied, verdict="NO_STOP_LOSS")

    row = alice.get(f"valuations/{yes.pk}").json()

    assert (row["session"], row["account"], row["equity"], row["verdict_text"]) == (
        first.pk,
        first.account_id,
        "10000.5",
        "",
    )
    assert alice.get("valuations", session=second.pk).json()["results"][0]["verdict_text"] == (
        "Risk per trade needs a stop-loss to measure the risk by."
    )
    assert alice.ids("valuations", verdict="NO_STOP_LOSS") == alice.ids("valuations", order=denied.pk) == [no.pk]


def test_the_journal_of_a_session_includes_its_orders(alice: Api) -> None:
    first, second = two_sessions()
    mine, others = (make_order(make_position(session)) for session in (first, second))
    with transaction.atomic():
        publish(
            Topic.COMMAND,
            first.pk,
            session_id=first.pk,
            owner_id=alice.user_id,
            data={"command": "start"},
        )
        publish(Topic.SIGNALS, mine.pk, config_id=mine.pk, owner_id=alice.user_id)  # same key, other topic
        orders_announce([mine, others], Topic.RAW_ORDERS, actor="alice")

    rows = alice.get("events", session=first.pk).json()["results"]

    assert [(row["topic"], row["key"], row["actor"]) for row in rows] == [
        ("raworders", mine.pk, "alice"), ("command", first.pk, "system"),
    ]  # fmt: skip
    assert rows[0]["data"] == {"status": "REQUESTED", "client_order_id": mine.client_order_id}


def test_the_journal_is_narrowed_by_topic_key_and_time(alice: Api) -> None:
    with transaction.atomic():
        for key in (1, 2):
            publish(Topic.ORDERS, key, order_id=key, owner_id=alice.user_id)
        publish(Topic.ALERTS, 1, account_id=1, owner_id=alice.user_id)
    first, second, third = Event.objects.order_by("id")

    found = {
        "by topic": alice.ids("events", topic="orders"),
        "by key": alice.ids("events", topic="orders", key=2),
        "since": alice.ids("events", since=second.at.isoformat()),
        "until": alice.ids("events", until=second.at.isoformat()),
    }

    assert found == {
        "by topic": [second.pk, first.pk], "by key": [second.pk], "since": [third.pk, second.pk], "until": [first.pk],
    }  # fmt: skip


def test_events_of_nobody_are_for_superusers(alice: Api, root: Api) -> None:
    with transaction.atomic():
        publish(Topic.MARKETDATA, 1, feed_id=1)

    seen = len(alice.ids("events")), len(root.ids("events"))

    assert seen == (0, 1)


def test_pages_of_the_journal_follow_each_other_while_it_grows(alice: Api) -> None:
    with transaction.atomic():
        for key in range(5):
            publish(Topic.ORDERS, key, owner_id=alice.user_id)

    first = alice.get("events", page_size=2).json()
    with transaction.atomic():
        publish(Topic.ORDERS, 9, owner_id=alice.user_id)
    second = alice.get(first["next"].split("/api/v1/")[1]).json()

    assert [row["key"] for row in first["results"] + second["results"]] == [4, 3, 2, 1]


def hop_times(session: TradingSession) -> tuple[Order, Order]:
    """An entry and an exit whose rows carry known times, the whole way through."""
    position = make_position(session)
    signal = make_signal(session.config, closed_at=BEGAN)
    Position.objects.filter(pk=position.pk).update(entry_signal=signal)
    make_candles(session.config.feed, [50000.0], BEGAN - timedelta(minutes=1))
    entry, leave = make_order(position, status="CLOSED"), make_order(position, purpose="EXIT", status="CLOSED")

    def at(ms: float) -> datetime:
        return BEGAN + timedelta(milliseconds=ms)

    Candle.objects.update(collected_at=at(0))
    Signal.objects.update(created_at=at(10))
    Order.objects.filter(pk=entry.pk).update(
        requested_at=at(25), valued_at=at(45.5), sent_at=at(50), opened_at=at(150), closed_at=at(1150)
    )
    Order.objects.filter(pk=leave.pk).update(
        requested_at=at(5000), valued_at=at(4999), sent_at=at(5010), opened_at=at(5210)
    )
    return entry, leave


def test_hops_measure_each_order_from_candle_to_settlement(alice: Api) -> None:
    session = make_session()
    entry, leave = hop_times(session)

    answer = alice.get(f"sessions/{session.pk}/hops").json()

    assert [(one["client_order_id"], one["is_exit"]) for one in answer["orders"]] == [
        (entry.client_order_id, False), (leave.client_order_id, True),
    ]  # fmt: skip
    assert answer["orders"][0]["hops_ms"] == {
        "evaluate": 10.0, "track": 15.0, "value": 20.5, "submit": 4.5, "accept": 100.0, "settle": 1000.0,
        "candle_to_accept": 150.0,
    }  # fmt: skip
    assert answer["orders"][1]["hops_ms"] == {
        "evaluate": None, "track": None, "value": None, "submit": 10.0, "accept": 200.0, "settle": None,
        "candle_to_accept": None,
    }  # fmt: skip
    assert answer["p50_ms"] == {
        "evaluate": 10.0, "track": 15.0, "value": 20.5, "submit": 7.25, "accept": 150.0, "settle": 1000.0,
        "candle_to_accept": 150.0,
    }  # fmt: skip
    assert list(answer["hops"]) == list(answer["p50_ms"])


def test_a_session_without_orders_has_no_hops(alice: Api) -> None:
    session = make_session()

    answer = alice.get(f"sessions/{session.pk}/hops").json()

    assert answer["orders"] == []
    assert set(answer["p50_ms"].values()) == {None}


@pytest.mark.parametrize(
    ("path", "method"),
    [
        (path, method)
        for path in (
            "orders",
            "fills",
            "fundings",
            "positions",
            "valuations",
            "events",
            "signals",
            "feeds",
            "markets",
            "quotes",
        )
        for method in ("post", "patch", "put", "delete")
        if (path, method) not in (("orders", "post"), ("feeds", "post"))  # placed, and made, by hand
    ],
)
def test_what_the_platform_writes_nobody_else_does(alice: Api, path: str, method: str) -> None:
    make_open_position(make_session())

    answer = alice.call(method, path if method == "post" else f"{path}/1", {"status": "CLOSED"})

    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert Account.objects.count() == 1
