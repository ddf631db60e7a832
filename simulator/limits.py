"""KuCoin's rate limits: a pool of weight per account (per address for public calls), refilled every 30 seconds."""

from __future__ import annotations

from time import monotonic_ns

from simulator.refusals import Refused
from simulator.settings import LIMIT_WINDOW_MS, Settings


class Pools:
    """What everybody has used of their pools. Always counted; enforced only when the settings say so."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._used: dict[tuple[str, str], tuple[int, int]] = {}  # (pool, who): (end of the window, weight used)

    def take(self, pool: str, who: str, weight: int) -> tuple[int, int, int]:
        """(limit, remaining, milliseconds to the refill) after ``weight`` more; a request over the limit costs too."""
        now_ms = monotonic_ns() // 1_000_000
        limit = self._settings.limits[pool]
        until, used = self._used.get((pool, who), (0, 0))
        if until <= now_ms:
            until, used = now_ms + LIMIT_WINDOW_MS, 0
        used += weight
        self._used[pool, who] = (until, used)
        return limit, limit - used, until - now_ms


def check(settings: Settings, remaining: int) -> None:
    """Raises Refused as KuCoin's gateway does when a pool is empty."""
    if remaining < 0 and settings.enforces_limits:
        raise Refused("429000", "Too many requests in a short period of time, please retry later", 429)
