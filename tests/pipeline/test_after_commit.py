"""After the commit: bells that expire, savepoints that take their bells along, and brokers that fail in any way they like."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, cast

import pytest
from celery import current_app
from django.conf import settings
from django.db import transaction

from pipeline import listeners
from pipeline.models import Event
from pipeline.topics import BELL_EXPIRES_SECONDS, TOPICS, Bell, Topic, publish, ring
from tests.conftest import Bells
from tests.pipeline.test_topics import in_a_process

ALL_IDS: dict[str, Any] = {
    "session_id": 1, "feed_id": 2, "signal_id": 3, "order_id": 4, "config_id": 5, "account_id": 6, "owner_id": 7,
    "funding_id": 8,
}  # fmt: skip
WAKING = [(topic, bell) for topic, route in TOPICS.items() for bell in route.wakes]

# Publishes on a topic with four bells, and on one with a bell and a broadcast.
PUBLISHES = """
from django.db import transaction
from pipeline.topics import Topic, publish
with transaction.atomic():
    publish(Topic.{topic}, 7, session_id=1, feed_id=2, order_id=7)
"""


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("topic", "bell"), WAKING, ids=str)
def test_every_bell_of_a_topic_rings_on_its_tasks_queue_with_the_id_of_its_argument(
    bells: Bells, topic: Topic, bell: Bell
) -> None:
    with transaction.atomic():
        publish(topic, 1, **ALL_IDS)

    assert bells.rung(bell.task) == [{bell.argument: [ALL_IDS[bell.argument.removesuffix("s")]]}]


@pytest.mark.django_db(transaction=True)
def test_a_note_without_the_id_of_a_bell_leaves_that_bell_alone(bells: Bells) -> None:
    with transaction.atomic():
        publish(Topic.COMMAND, 1, session_id=1, feed_id=None)

    assert bells.rung("positions.track") == [{"session_ids": [1]}]
    assert bells.rung("marketdata.collect") == []


def test_a_bell_that_nobody_heard_expires(bells: Bells) -> None:
    ring("money.value", order_ids=[1])

    [raw] = cast("list[bytes]", bells.client.lrange("money", 0, -1))
    headers = json.loads(raw)["headers"]
    expires_in = datetime.fromisoformat(headers["expires"]) - datetime.now(UTC)
    assert timedelta(seconds=BELL_EXPIRES_SECONDS - 20) < expires_in <= timedelta(seconds=BELL_EXPIRES_SECONDS)
    assert headers["ignore_result"] is True


@pytest.mark.django_db(transaction=True)
def test_a_savepoint_that_is_rolled_back_takes_its_row_and_its_bell_along(bells: Bells) -> None:
    with transaction.atomic():
        publish(Topic.ORDERS, 1, order_id=1)
        with suppress(ZeroDivisionError), transaction.atomic():
            publish(Topic.ORDERS, 2, order_id=2)
            raise ZeroDivisionError
        publish(Topic.ORDERS, 3, order_id=3)

    assert list(Event.objects.order_by("at").values_list("key", flat=True)) == [1, 3]
    assert bells.rung("orders.submit") == [{"order_ids": [1]}, {"order_ids": [3]}]


@pytest.mark.django_db(transaction=True)
def test_facts_keep_every_digit_in_the_journal(bells: Bells) -> None:
    facts = {"price": Decimal("0.100000000000000001"), "at": datetime(2024, 5, 1, 12, tzinfo=UTC), "new": 2}

    with transaction.atomic():
        publish(Topic.POSITIONS, 1, session_id=1, data=facts)

    assert Event.objects.get().data == {"price": "0.100000000000000001", "at": "2024-05-01 12:00:00+00:00", "new": 2}


@pytest.mark.django_db(transaction=True)
def test_a_failure_nobody_thought_of_fails_neither_the_transaction_nor_later_hooks(
    bells: Bells, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def send_task(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("Acquire on closed pool")

    monkeypatch.setattr(current_app, "send_task", send_task)
    after: list[str] = []

    with transaction.atomic():
        publish(Topic.ORDERS, 7, order_id=7)
        transaction.on_commit(lambda: after.append("later hook"))

    assert Event.objects.get().key == 7
    assert after == ["later hook"]
    assert "Acquire on closed pool" in caplog.text


@pytest.mark.django_db(transaction=True)
def test_a_broker_that_is_away_is_tried_once_however_many_bells_there_are() -> None:
    done = in_a_process(PUBLISHES.format(topic="COMMAND"), BROKER_URL="redis://127.0.0.1:9/0")

    assert done.returncode == 0, done.stderr
    assert done.stderr.count("did not ring") == 1
    assert "the bell of marketdata.collect did not ring (OperationalError); its sweep will" in done.stderr


@pytest.mark.django_db(transaction=True)
def test_listeners_are_told_though_the_broker_is_away() -> None:
    heard: list[dict[str, Any]] = []
    is_listening = threading.Event()

    def listen() -> None:
        for message in listeners.listen("orderUpdates"):
            is_listening.set()
            if message["key"] == 7:
                heard.append(message)
                return

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    while not is_listening.wait(0.05):  # until the subscription stands
        listeners.tell("orderUpdates", [(0, {}, {})])
    away = in_a_process(
        PUBLISHES.format(topic="ORDER_UPDATES"), BROKER_URL="redis://127.0.0.1:9/0", REDIS_URL=settings.REDIS_URL
    )
    thread.join(10)

    assert away.returncode == 0, away.stderr
    assert "the bell of positions.follow_orders did not ring" in away.stderr
    assert heard == [
        {"topic": "orderUpdates", "key": 7, "ids": {"session_id": 1, "feed_id": 2, "order_id": 7}, "data": {}}
    ]
