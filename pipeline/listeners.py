"""Live listeners hear broadcast topics over Redis pub/sub. Nothing depends on it: whoever misses a word reads the rows."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import redis
from django.conf import settings

logger = logging.getLogger(__name__)

CHANNEL_PREFIX = "r3edge"


@cache
def _client() -> redis.Redis:
    return redis.Redis.from_url(settings.REDIS_URL, socket_timeout=2, socket_connect_timeout=1)


def channel_of(topic: str) -> str:
    """The pub/sub channel of a topic."""
    # Pub/sub ignores the database number, so the name carries it: two platforms on one server do not hear each other.
    database = _client().connection_pool.connection_kwargs.get("db", 0)
    return f"{CHANNEL_PREFIX}:{database}:{topic}"


def tell(topic: str, notes: Sequence[tuple[int, Mapping[str, int | None], dict[str, Any]]]) -> None:
    """Send each note to whoever listens to ``topic`` now; a Redis that is away is logged and forgotten."""
    try:
        pipe = _client().pipeline(transaction=False)
        for key, ids, data in notes:
            pipe.publish(
                channel_of(topic), json.dumps({"topic": topic, "key": key, "ids": dict(ids), "data": data}, default=str)
            )
        pipe.execute()
    except redis.RedisError as error:
        logger.warning("no live listener was told of %s (%s)", topic, type(error).__name__)


def listen(*topics: str) -> Iterator[dict[str, Any]]:
    """What is broadcast on ``topics`` from now on, as dictionaries; ends never, so break out of it."""
    subscription = _client().pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    subscription.subscribe(*(channel_of(topic) for topic in topics))
    try:
        while True:
            message = subscription.get_message(timeout=1)
            if message is not None:
                yield json.loads(message["data"])
    finally:
        subscription.close()
