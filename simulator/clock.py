"""The market clock: the time of candles, prices, orders and fills. It may run fast, stand still or be stepped.

Signatures and order deadlines are judged by the wall clock instead, as clients stamp them with theirs.
"""

from __future__ import annotations

import time


def wall_ms() -> int:
    """The wall clock, in epoch milliseconds."""
    return time.time_ns() // 1_000_000


class MarketClock:
    """Epoch milliseconds that start at ``start_ms`` and pass ``speed`` times as fast as real ones; never backward."""

    def __init__(self, start_ms: int, speed: float) -> None:
        self._base_ms = start_ms
        self._since = time.monotonic()
        self.speed = speed
        self.is_stopped = speed == 0

    def now_ms(self) -> int:
        if self.is_stopped:
            return self._base_ms
        return self._base_ms + int((time.monotonic() - self._since) * self.speed * 1000)

    def set_speed(self, speed: float) -> None:
        """Run on at ``speed``; 0 stops."""
        self._settle()
        self.speed = speed
        self.is_stopped = speed == 0

    def stop(self) -> None:
        self._settle()
        self.is_stopped = True

    def resume(self) -> None:
        """Run again at the last speed."""
        self._settle()
        self.is_stopped = self.speed == 0

    def jump_to(self, now_ms: int) -> None:
        """Set the time; ValueError when that would be backward."""
        self._settle()
        if now_ms < self._base_ms:
            raise ValueError(
                f"wanted a time not before {self._base_ms}, was {now_ms}: the market clock never goes back"
            )
        self._base_ms = now_ms

    def _settle(self) -> None:
        self._base_ms = self.now_ms()
        self._since = time.monotonic()
