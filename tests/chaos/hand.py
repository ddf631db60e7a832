"""A stage without processes: the platform's work is done by threads of this one, so that a scenario costs seconds and a
spoiled build is a patched name.

Each thread takes one bell at a time and forgets it as it takes it; a second one sweeps, as beat would. A process that dies
is a bell whose work breaks off at a crash point, by an exception that nothing in the product catches.
"""

from __future__ import annotations

import base64
import importlib
import itertools
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, cast

import pytest
import redis
import requests
from celery import current_app
from django.db import connections

import orders.ledger
import orders.lookups
import orders.services
import pipeline.topics
import positions.reconciliation
import positions.services
from chaos import invariants
from chaos.breach import Breach
from chaos.pace import SCALED, SHORTENED
from chaos.scenarios import Scenario
from chaos.scenarios.acts import leave_all
from chaos.world import World
from exchanges.services import gateways_warm
from pipeline.topics import QUEUES
from positions.models import Discrepancy, DiscrepancyStatus
from positions.reconciliation import account_make_due
from r3edge_site.schedule import SCHEDULE

logger = logging.getLogger(__name__)

# With R3EDGE_LONG=1 everything is played; without, what is judged by what happened and not by how soon.
IS_LONG = os.environ.get("R3EDGE_LONG") == "1"

# The one for sound builds, which must keep every promise on a busy machine; a spoiled one may be hurried more.
PACE, HURRIED = 0.2, 0.12
THREADS = 8
SWEEP_SECONDS = 0.1
QUIET_SECONDS = 0.15
# Prices are read in every so many sweeps.
PRICES_EVERY = 5
# Wherever the product has a crash point.
CRASHING = (
    orders.ledger, orders.lookups, orders.services, pipeline.topics, positions.reconciliation, positions.services,
)  # fmt: skip
NO_ARGUMENTS = base64.b64encode(b"[[], {}]")


class Died(BaseException):
    """What stands for SIGKILL: the work of a bell breaks off here, and nobody gets to tidy up."""


class HandStage(World):
    """A ``World`` whose bells are answered by threads. ``kills`` counts the works that broke off."""

    def __init__(self, url: str, broker: redis.Redis, pace: float) -> None:
        self.broker = broker
        self.pace = pace
        self.kills = 0
        self._crash_at: str | None = None
        # Nothing is waited for longer than this, whatever a scenario grants to a busy machine.
        self.longest_wait = 60.0
        # How much a busy machine is granted: a sound build needs it only there, a spoiled one always waits it out.
        self.grace = 20.0
        self._freezes_at = ""
        self._thawed = threading.Event()
        self._is_over = threading.Event()
        self._is_sweeping = threading.Event()
        self._busy: set[int] = set()
        self._lock = threading.Lock()
        super().__init__(url)
        self.read_venue()
        self._threads = [
            threading.Thread(target=work, name=f"hand-{number}", daemon=True)
            for number, work in enumerate([*[self._answer] * THREADS, *map(self._sweeper, self._sweeps())])
        ]

    # -- what scenarios ask of a stage --------------------------------------------------------------------------

    def restart(self, name: str, *, crash_at: str = "", wait: bool = False) -> None:
        """From now on the first work that comes by ``crash_at`` breaks off there, once."""
        self._crash_at = crash_at or None

    def wait(self, is_so: Callable[[], object], what: str, seconds: float = 30) -> float:
        return super().wait(is_so, what, min(seconds, self.longest_wait))

    def freeze(self, name: str) -> None:
        """The next work that has an answer of the venue's stays there until ``thaw``."""
        self._thawed.clear()
        self._freezes_at = "order.answered"
        self.count("freeze")

    def thaw(self, name: str) -> None:
        self._thawed.set()

    def start(self, name: str, **_: Any) -> None:
        """Another one of whatever works already."""

    def kill(self, name: str) -> None:
        """One less of them."""

    def broker_lose(self) -> None:
        self.broker.flushdb()
        self.count("broker")

    def check_bells(self) -> list[str]:
        """I8: at rest, ring every bell for every row there is; what changed."""
        self._is_sweeping.clear()
        self._wait_for_bells()
        # What was told of and has gone since is news that the next comparison brings; on a busy machine it is yet to come.
        told = list(Discrepancy.objects.filter(status=DiscrepancyStatus.OPEN).values_list("account", flat=True))
        for account_id in told:
            account_make_due(account_id)
        self.ring("positions.reconcile", account_ids=told)
        self._wait_for_bells()
        before = self.snapshot()
        self.ring_everything()
        self._wait_for_bells()
        self._is_sweeping.set()
        return invariants.differences(before, self.snapshot())

    # -- the threads --------------------------------------------------------------------------------------------

    def begin(self) -> None:
        self._is_sweeping.set()
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in self._threads), "wanted every thread to end, one did not"

    def crashpoint(self, name: str) -> None:
        """Takes the place of the product's."""
        if not threading.current_thread().name.startswith("hand-"):
            return
        with self._lock:
            is_frozen, self._freezes_at = self._freezes_at == name, "" if self._freezes_at == name else self._freezes_at
        if is_frozen:
            self._thawed.wait(20)
            return
        with self._lock:
            if self._crash_at != name:
                return
            self._crash_at = None
            self.kills += 1
        self.count("crash point")
        raise Died(name)

    def _answer(self) -> None:
        me = threading.get_ident()
        try:
            while not self._is_over.is_set():
                taken = cast("tuple[bytes, bytes] | None", self.broker.brpop(list(QUEUES), timeout=0.1))
                if taken is None:
                    continue
                self._busy.add(me)
                try:
                    self._do(json.loads(taken[1]))
                finally:
                    self._busy.discard(me)
        finally:
            connections.close_all()

    def _do(self, message: dict[str, Any]) -> None:
        name = message["headers"]["task"]
        arguments = json.loads(base64.b64decode(message["body"]))[1]
        try:
            current_app.tasks[name].run(**arguments)
        except Died:
            connections.close_all()
        except Exception:
            logger.info("%s failed", name, exc_info=True)

    @staticmethod
    def _sweeps() -> list[list[str]]:
        """What is done every so often, by two threads: a venue that hangs holds up prices and not the orders."""
        tasks = [entry.task for entry in SCHEDULE if entry.seconds <= 60]
        of_orders = ["exits.sweep-orders", "orders.sweep"]
        return [of_orders, [task for task in tasks if task not in of_orders]]

    def _sweeper(self, tasks: list[str]) -> Callable[[], None]:
        without_prices = [task for task in tasks if task != "exits.watch"]

        def work() -> None:
            me = threading.get_ident()
            try:
                for number in itertools.count():
                    if self._is_over.wait(SWEEP_SECONDS):
                        return
                    # The venue's rate limit is as it is, however hurried we are.
                    for name in tasks if number % PRICES_EVERY == 0 else without_prices:
                        self._busy.add(me)
                        if self._is_sweeping.is_set() and not self._is_over.is_set():
                            self._do({"headers": {"task": name}, "body": NO_ARGUMENTS})
                        self._busy.discard(me)
            finally:
                connections.close_all()

        return work

    def _wait_for_bells(self) -> None:
        quiet_since = time.monotonic()
        deadline = quiet_since + 30
        while time.monotonic() < quiet_since + QUIET_SECONDS:
            assert time.monotonic() < deadline, "waited 30 s in vain: all bells answered"
            if self._busy or any(self.broker.llen(queue) for queue in QUEUES):
                quiet_since = time.monotonic()
            time.sleep(0.02)


@contextmanager
def hand_stage(patch: pytest.MonkeyPatch, url: str, broker: redis.Redis, pace: float = PACE) -> Iterator[HandStage]:
    """A stage at the simulator of ``url`` whose threads work until the block ends."""
    current_app.loader.import_default_modules()
    gateways_warm()
    for module, name in SCALED:
        value = getattr(importlib.import_module(module), name)
        patch.setattr(f"{module}.{name}", value * pace if isinstance(value, timedelta) else int(value * pace))
    for module, name, shortened in SHORTENED:
        patch.setattr(f"{module}.{name}", shortened * pace)
    stage = HandStage(url, broker, pace)
    for place in CRASHING:
        patch.setattr(place, "crashpoint", stage.crashpoint)
    stage.begin()
    try:
        yield stage
    finally:
        # A request that hangs at the venue would keep its thread.
        requests.delete(f"{url}/_sim/faults", timeout=10)
        stage.thaw("")
        stage.end()


def played(stage: HandStage, scenario: Scenario, limit: float = 60) -> list[str]:
    """Play a scenario by hand and judge it as the command does; every breach in words."""
    try:
        scenario.play(stage)
        stage.heal()
        leave_all(stage, limit)
        stage.settle(limit)
    except Breach as breach:
        # What it broke is one finding; what else it left is of no more interest.
        return [str(breach)]
    return [*map(str, stage.check()), *(f"I8: {words}" for words in stage.check_bells())]
