"""What tests stand on: the real services that ``./r3edge test`` starts, a simulator per test, and the bells that rang."""

from __future__ import annotations

import base64
import gc
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import pytest
import redis
from django.conf import settings

from backtesting import leases
from tests import emptying
from tests.contracts import FuturesVenue, futures_running
from tests.venue import Venue, venue_running


def pytest_configure(config: pytest.Config) -> None:
    emptying.install()
    missing = [name for name in ("DATABASE_URL", "REDIS_URL") if not os.environ.get(name)]
    if missing and not config.option.collectonly:
        raise pytest.UsageError(f"wanted {' and '.join(missing)}; ./r3edge test starts services and sets them")


def pytest_collection_finish() -> None:
    # Thousands of tests and modules are there to stay: the garbage collector need not go through them again and again.
    gc.collect()
    gc.freeze()


@dataclass(frozen=True)
class Bells:
    """The doorbells waiting in the broker, as workers would take them."""

    client: redis.Redis

    def rung(self, task: str) -> list[dict[str, Any]]:
        """The arguments of every waiting message of ``task``, first rung first."""
        queue = task.split(".")[0]
        messages = [json.loads(raw) for raw in cast("list[bytes]", self.client.lrange(queue, 0, -1))]
        return [
            json.loads(base64.b64decode(message["body"]))[1]
            for message in reversed(messages)
            if message["headers"]["task"] == task
        ]

    def clear(self) -> None:
        self.client.flushdb()


@pytest.fixture
def bells() -> Iterator[Bells]:
    """The broker of this test process, empty before and after."""
    client = redis.Redis.from_url(settings.CELERY_BROKER_URL)
    client.flushdb()
    yield Bells(client)
    client.flushdb()
    client.close()


@pytest.fixture
def no_renewals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases as they were taken: what renews them has a connection of its own, and would not find the rows of a test's
    transaction."""
    monkeypatch.setattr(leases, "BEAT_SECONDS", 60.0)


@pytest.fixture
def venue(transactional_db: None, bells: Bells) -> Iterator[Venue]:
    """A simulated exchange with one market at 50,000 and an account of 10,000 USDT, known to the platform."""
    with venue_running() as running:
        yield running


@pytest.fixture
def futures(transactional_db: None, bells: Bells) -> Iterator[FuturesVenue]:
    """The same with a contract at 50,000 and 10,000 USDT in the futures wallet."""
    with futures_running() as running:
        yield running
