"""The stream process's own code in a thread of the test, against the simulator's WebSockets."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from exchanges.models import Exchange
from r3edge_site import streaming
from r3edge_site.streaming import Streams
from tests.venue import Venue
from tests.workers import wait_until


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database is read often, and a loss is told soon."""
    monkeypatch.setattr(streaming, "READ_EVERY", 0.3)
    monkeypatch.setattr(streaming, "REPORT_EVERY", 0.2)
    monkeypatch.setattr(streaming, "NOTE_EVERY", 0.0)
    monkeypatch.setattr(streaming, "DOWN_AFTER", 1.0)


@contextmanager
def listening(*names: str) -> Iterator[Streams]:
    """All streams, or those of the named exchanges, running; ended as SIGTERM ends them."""
    began = threading.Event()
    parts: dict[str, Any] = {}

    async def run() -> None:
        parts["stop"], parts["loop"], parts["streams"] = asyncio.Event(), asyncio.get_running_loop(), Streams(names)
        began.set()
        await parts["streams"].run(parts["stop"])

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    assert began.wait(10)
    try:
        yield parts["streams"]
    finally:
        parts["loop"].call_soon_threadsafe(parts["stop"].set)
        thread.join(10)
        assert not thread.is_alive()


def topics_of(venue: Venue) -> set[str]:
    """What anybody listens to at the simulator."""
    connections = venue.simulator.get("/_sim/stream")["connections"]
    return {topic for one in connections for topic in one["topics"]}


def wait_for_topics(venue: Venue, *topics: str) -> None:
    wait_until(lambda: set(topics) <= topics_of(venue), f"subscriptions to {topics}, have {topics_of(venue)}", 20)


def seen_at(venue: Venue) -> Any:
    return Exchange.objects.values_list("stream_seen_at", flat=True).get(pk=venue.exchange.pk)


def wait_connected(venue: Venue) -> None:
    wait_until(lambda: seen_at(venue) is not None, "the stream alive", 20)


Spy = Callable[..., Any]
