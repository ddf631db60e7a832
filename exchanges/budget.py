"""One rate budget for all workers: what a venue allows per account, and per address for public data, counted in Redis.

Of each pool a part is kept for what matters more: history stops at 20 %, other reads at 60 %, looks at orders and prices at
80 %, entries at 90 %, and the last tenth is for exits and cancellations alone. Whatever is over its part is refused at once,
with the time after which it fits: nobody sleeps, and nothing is sent that the venue would refuse.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from enum import Enum
from functools import cache

from django.conf import settings
from limits.storage.redis import RedisStorage

from exchanges import shared
from exchanges.gateway import ExchangeUnavailable
from exchanges.venues import Pool


class Use(Enum):
    """What a call is for; its value is the percentage of a pool that such calls may use up."""

    EXIT = 100
    ENTRY = 90
    LOOK = 80
    READ = 60
    HISTORY = 20


_is_history = ContextVar("is_history", default=False)


@contextmanager
def asking_for_history() -> Iterator[None]:
    """What this thread asks meanwhile, of whatever place, can wait: it has the part of HISTORY, and what is collected live
    finds the rest. Of a pool too small to be parted it has one call, when nobody else has called."""
    token = _is_history.set(True)
    try:
        yield
    finally:
        _is_history.reset(token)


# No word of a venue's blocks a pool for longer.
LONGEST_BLOCK = timedelta(minutes=2)


class Budget:
    """One pool, named alike by all workers."""

    def __init__(self, name: str, pool: Pool) -> None:
        self.pool = pool
        self._key = f"{name}:{pool.seconds}"
        self.blocked_key = f"r3edge:blocked:{name}"

    def take(self, weight: int, use: Use) -> None:
        """Count ``weight`` more; raises ExchangeUnavailable, and counts nothing, where ``use`` may not have it now."""
        limit = self.pool.weight * use.value // 100
        if _is_history.get():
            use = Use.HISTORY
            limit = max(self.pool.weight * use.value // 100, weight)
        # A counter of two windows: one script in Redis, whatever the weight. (A log of every request would be exact, and
        # would cost as many steps as the request weighs.) Asked directly, because its rate limiters keep a counter for
        # each limit, and here four limits share one.
        if shared.ask(
            lambda: _storage(settings.REDIS_URL).acquire_sliding_window_entry(
                self._key, limit, self.pool.seconds, weight
            ),
            True,
        ):
            return
        wait = shared.ask(lambda: self._wait(limit, weight), timedelta(seconds=1))
        raise ExchangeUnavailable(
            f"wanted {weight} of the {limit} that {use.name.lower()} calls may use in {self.pool.seconds} s, was used up",
            retry_after=wait,
        )

    def used(self) -> int | None:
        """How much of the pool is used now; None where nobody knows."""
        return shared.ask(lambda: math.floor(self._count()[0]), None)

    def block(self, wait: timedelta) -> None:
        """The venue refuses whoever draws from this pool: nobody asks it for ``wait``."""
        wait_ms = int(min(wait, LONGEST_BLOCK).total_seconds() * 1000)
        if wait_ms > 0:
            until_ms = int(time.time() * 1000) + wait_ms
            shared.ask(lambda: shared.client().set(self.blocked_key, until_ms, px=wait_ms), None)

    def check_block(self, until_ms: bytes | None) -> None:
        """Raises ExchangeUnavailable while the pool is blocked; ``until_ms`` is what lies under ``blocked_key``."""
        left_ms = int(until_ms) - int(time.time() * 1000) if until_ms else 0
        if left_ms > 0:
            wait = timedelta(milliseconds=left_ms)
            raise ExchangeUnavailable(
                f"wanted less than the venue's rate limit, was over it; it counts anew in {left_ms / 1000:.1f} s",
                retry_after=wait,
            )

    def _count(self) -> tuple[float, int, float, int, float]:
        before, before_left, now, now_left = _storage(settings.REDIS_URL).get_sliding_window(
            self._key, self.pool.seconds
        )
        return before * before_left / self.pool.seconds + now, before, before_left, now, now_left

    def _wait(self, limit: int, weight: int) -> timedelta:
        """How long until ``weight`` fits under ``limit``, if nothing else is counted meanwhile: the window before fades
        away evenly, and then this one does."""
        _, before, before_left, now, now_left = self._count()
        room, seconds = limit - weight, self.pool.seconds
        if now <= room and before:
            wait = before_left - max(0, room - now) * seconds / before
        else:
            wait = max(0.0, now_left - seconds) + seconds - max(0, room) * seconds / max(now, 1)
        return timedelta(seconds=min(max(wait, 0.1), 2 * seconds))


@cache
def _storage(url: str) -> RedisStorage:
    return RedisStorage(url, connection_pool=shared.client().connection_pool, key_prefix="r3edge:budget")
