"""Publishing: the row in the caller's transaction, the bell after its commit, and nothing that a dead broker can break."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest
import redis
from celery import current_app
from django.db import transaction

from pipeline import listeners
from pipeline.models import Event
from pipeline.sweeps import SWEEP_LIMIT, Waiting, sweep
from pipeline.topics import Note, Topic, publish, publish_all, ring
from tests.conftest import Bells
from tests.workers import database_url

# Publishes, then runs a later hook, in a process whose broker is somewhere that nobody listens.
WITHOUT_A_BROKER = """
from django.db import transaction
from pipeline.topics import Topic, publish
with transaction.atomic():
    publish(Topic.ORDERS, 7, order_id=7)
    transaction.on_commit(lambda: print("the later hook ran"))
"""


def in_a_process(program: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run ``program`` by itself, on this test's database."""
    settings = {"DJANGO_SETTINGS_MODULE": "r3edge_site.settings", "DATABASE_URL": database_url(), **env}
    program = f"import django; django.setup()\n{program}"
    return subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **settings}, capture_output=True, text=True, check=False
    )


@pytest.mark.django_db(transaction=True)
def test_publishing_outside_a_transaction_is_refused(bells: Bells) -> None:
    with pytest.raises(RuntimeError, match="wanted a transaction around publish\\('orders'\\)"):
        publish(Topic.ORDERS, 7, order_id=7)

    assert not Event.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_the_journal_row_has_who_what_and_whose(bells: Bells) -> None:
    with transaction.atomic():
        publish(Topic.COMMAND, 3, session_id=3, owner_id=5, feed_id=9, data={"command": "start"}, actor="alice")

    event = Event.objects.get()
    assert (event.topic, event.key, event.actor) == ("command", 3, "alice")
    assert (event.session_id, event.owner_id) == (3, 5)
    assert event.ids == {"session_id": 3, "owner_id": 5, "feed_id": 9}
    assert event.data == {"command": "start"}


@pytest.mark.django_db(transaction=True)
def test_an_actors_name_is_cut_to_what_the_journal_holds(bells: Bells) -> None:
    with transaction.atomic():
        publish(Topic.COMMAND, 3, session_id=3, actor="x" * 150)

    assert Event.objects.get().actor == "x" * 64


@pytest.mark.django_db(transaction=True)
def test_a_transaction_that_fails_leaves_neither_row_nor_bell(bells: Bells) -> None:
    def fail_after_publishing() -> None:
        with transaction.atomic():
            publish(Topic.ORDERS, 7, order_id=7)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_after_publishing()

    assert not Event.objects.exists()
    assert bells.rung("orders.submit") == []


@pytest.mark.django_db(transaction=True)
def test_a_bell_rings_after_the_commit_and_not_before(bells: Bells) -> None:
    with transaction.atomic():
        publish(Topic.ORDERS, 7, order_id=7)
        before = bells.rung("orders.submit")

    assert before == []
    assert bells.rung("orders.submit") == [{"order_ids": [7]}]


@pytest.mark.django_db(transaction=True)
def test_bells_are_batched_as_the_topic_says_and_name_each_row_once(bells: Bells) -> None:
    sessions = [*range(1, 2502), 1, 2]

    with transaction.atomic():
        publish_all(Topic.SESSION_REQUEST, [Note(key=pk, ids={"session_id": pk}) for pk in sessions])
        publish_all(Topic.ORDERS, [Note(key=pk, ids={"order_id": pk}) for pk in (1, 2, 2)])

    rung = [message["session_ids"] for message in bells.rung("positions.tick")]
    assert [len(ids) for ids in rung] == [2000, 501]
    assert [pk for ids in rung for pk in ids] == list(range(1, 2502))
    assert bells.rung("orders.submit") == [{"order_ids": [1]}, {"order_ids": [2]}]


@pytest.mark.django_db(transaction=True)
def test_what_protects_a_position_rings_on_a_queue_of_its_own(bells: Bells) -> None:
    with transaction.atomic():
        publish_all(Topic.ORDERS, [Note(key=pk, ids={"order_id": pk}, is_urgent=pk % 2 == 0) for pk in (1, 2, 3, 4)])
        publish(Topic.ORDER_UPDATES, 5, order_id=5, is_urgent=True)
        publish(Topic.COMMAND, 6, session_id=6, feed_id=7, is_urgent=True)
        publish(Topic.RAW_ORDERS, 8, order_id=8, is_urgent=True)

    assert bells.rung("exits.submit") == [{"order_ids": [2]}, {"order_ids": [4]}]
    assert bells.rung("orders.submit") == [{"order_ids": [1]}, {"order_ids": [3]}]
    assert (bells.rung("exits.follow_orders"), bells.rung("positions.follow_orders")) == ([{"order_ids": [5]}], [])
    assert (bells.rung("exits.track"), bells.rung("positions.track")) == ([{"session_ids": [6]}], [])
    # What has no such door rings at the one it has.
    assert bells.rung("marketdata.collect") == [{"feed_ids": [7]}]
    assert bells.rung("money.value") == [{"order_ids": [8]}]


@pytest.mark.django_db(transaction=True)
def test_a_topic_that_is_not_journaled_leaves_no_row(bells: Bells) -> None:
    with transaction.atomic():
        publish(Topic.SESSION_REQUEST, 1, session_id=1)

    assert not Event.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_what_is_no_news_is_journaled_and_wakes_nobody(bells: Bells) -> None:
    with transaction.atomic():
        publish_all(Topic.ORDER_UPDATES, [Note(key=1, ids={"order_id": 1})], wakes=False)

    assert Event.objects.get().topic == "orderUpdates"
    assert bells.rung("positions.follow_orders") == []


@pytest.mark.django_db(transaction=True)
def test_a_broker_that_is_away_fails_neither_the_transaction_nor_what_comes_after() -> None:
    done = in_a_process(WITHOUT_A_BROKER, BROKER_URL="redis://127.0.0.1:9/0")

    assert (done.returncode, done.stdout) == (0, "the later hook ran\n"), done.stderr
    assert "the bell of orders.submit did not ring (OperationalError); its sweep will" in done.stderr
    assert Event.objects.get().key == 7


def test_a_bell_for_nobody_sends_nothing(bells: Bells) -> None:
    ring("orders.submit", order_ids=[])

    assert bells.rung("orders.submit") == []


@pytest.mark.django_db(transaction=True)
def test_a_listener_hears_what_is_broadcast_while_it_listens(bells: Bells) -> None:
    heard: list[dict[str, Any]] = []
    is_listening = threading.Event()

    def listen() -> None:
        for message in listeners.listen("alerts"):
            heard.append(message)
            is_listening.set()
            if message["data"].get("alert") == "REAL":
                return

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    while not is_listening.wait(0.05):  # until the subscription stands
        listeners.tell("alerts", [(0, {}, {})])
    with transaction.atomic():
        publish(Topic.ALERTS, 4, account_id=4, data={"alert": "REAL"})
    thread.join(10)

    assert heard[-1] == {"topic": "alerts", "key": 4, "ids": {"account_id": 4}, "data": {"alert": "REAL"}}


def test_nobody_to_listen_to_is_no_error(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:9/0"
    listeners._client.cache_clear()

    listeners.tell("alerts", [(1, {}, {})])

    listeners._client.cache_clear()


def test_a_sweep_rings_for_what_waits_and_says_how_many(bells: Bells) -> None:
    two = Waiting("two that wait", lambda now: [5, 6], "money.value", "order_ids", batch=1)
    none = Waiting("none that wait", lambda now: [], "orders.submit", "order_ids")

    assert sweep(two, none) == {"two that wait": 2, "none that wait": 0}
    assert bells.rung("money.value") == [{"order_ids": [5]}, {"order_ids": [6]}]
    assert bells.rung("orders.submit") == []


def test_a_sweep_after_an_outage_rings_for_a_bounded_number(bells: Bells) -> None:
    backlog = Waiting("backlog", lambda now: range(SWEEP_LIMIT + 5), "money.value", "order_ids", batch=SWEEP_LIMIT)

    found = sweep(backlog)

    [message] = bells.rung("money.value")
    assert found == {"backlog": SWEEP_LIMIT}
    assert message["order_ids"] == list(range(SWEEP_LIMIT))


@pytest.mark.parametrize(("asked", "code"), [("here", -signal.SIGKILL), ("elsewhere", 0)])
def test_a_crashpoint_kills_only_the_process_that_was_asked_to_die_there(asked: str, code: int) -> None:
    done = in_a_process("from pipeline.crashpoints import crashpoint; crashpoint('here')", R3EDGE_CRASH_AT=asked)

    assert done.returncode == code


@pytest.mark.django_db(transaction=True)
def test_a_broker_that_refuses_a_message_fails_nobody_and_the_sweep_goes_on(
    bells: Bells, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = current_app.send_task

    def refused(task: str, **options: Any) -> Any:
        if task == "orders.submit":
            raise redis.ResponseError("OOM command not allowed when used memory > 'maxmemory'.")
        return send(task, **options)

    monkeypatch.setattr(current_app, "send_task", refused)
    full = Waiting("one that waits", lambda now: [5], "orders.submit", "order_ids")
    after = Waiting("another", lambda now: [6], "money.value", "order_ids")

    assert not ring("orders.submit", order_ids=[7])
    assert sweep(full, after) == {"one that waits": 1, "another": 1}
    assert bells.rung("money.value") == [{"order_ids": [6]}]
