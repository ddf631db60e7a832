"""What all workers know together of a venue, in Redis: how much of its rate limit is used, and whether it answers.

Nothing depends on it. While Redis is away every question has the answer that lets a call pass, and the absence is remembered
for some seconds, so that no order waits for it more than once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import cache
from typing import TypeVar

import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

logger = logging.getLogger(__name__)

T = TypeVar("T")

# A question takes a tenth of a millisecond; whatever takes this long is not worth an order's while.
REDIS_TIMEOUT_SECONDS = 0.3
AWAY_SECONDS = 5.0

_lock = threading.Lock()
_away_until = 0.0
_is_away = False


def client() -> redis.Redis:
    """The connections of this process; safe between threads and after a fork."""
    return _client(settings.REDIS_URL)


@cache
def _client(url: str) -> redis.Redis:
    return redis.Redis.from_url(
        url,
        socket_timeout=REDIS_TIMEOUT_SECONDS,
        socket_connect_timeout=REDIS_TIMEOUT_SECONDS,
        # The library's own three retries would make a second of it.
        retry=Retry(NoBackoff(), 0),
    )


def ask(question: Callable[[], T], otherwise: T) -> T:
    """The answer to ``question``, or ``otherwise`` where Redis cannot be asked, or could not some seconds ago."""
    if time.monotonic() < _away_until:
        return otherwise
    try:
        answer = question()
    except redis.RedisError as error:
        _note(type(error).__name__)
        return otherwise
    if _is_away:
        _note("")
    return answer


def _note(failure: str) -> None:
    """Remember that Redis is away, or back again, and say so once."""
    global _is_away, _away_until
    with _lock:
        is_news, _is_away = _is_away != bool(failure), bool(failure)
        _away_until = time.monotonic() + AWAY_SECONDS if failure else 0.0
    if is_news and failure:
        logger.warning("Redis is away (%s): until it is back, venues are asked without a rate budget", failure)
    elif is_news:
        logger.info("Redis is back, and the rate budgets with it")
