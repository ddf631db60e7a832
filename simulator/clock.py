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
        self.changes = 0  # how often somebody set it

    def now_ms(self) -> int:
        if self.is_stopped:
            return self._base_ms
        return self._base_ms + int((time.monotonic() - self._since) * self.speed * 1000)

    def set_speed(self, speed: float) -> None:
        """Run on at ``speed``; 0 stops."""
        self._settle()
        self.changes += 1
        self.speed = speed
        self.is_stopped = speed == 0

    def stop(self) -> None:
        self._settle()
        self.changes += 1
        self.is_stopped = True

    def resume(self) -> None:
        """Run again at the last speed."""
        self._settle()
        self.changes += 1
        self.is_stopped = self.speed == 0

    def jump_to(self, now_ms: int) -> None:
        """Set the time; ValueError when that would be backward."""
        self._settle()
        if now_ms < self._base_ms:
            raise ValueError(
                f"wanted a time not before {self._base_ms}, was {now_ms}: the market clock never goes back"
            )
        self._base_ms = now_ms
        self.changes += 1

    def anchor(self) -> tuple[int, int, float, bool]:
        """(market time, wall time, speed, whether it stands still): what ``resume_from`` goes on from."""
        self._settle()
        return self._base_ms, wall_ms(), self.speed, self.is_stopped

    def resume_from(self, base_ms: int, wall: int, speed: float, is_stopped: bool, not_before_ms: int) -> None:
        """Go on as if it had never been away: real time passed while nobody read it. Not before a time already told."""
        passed = 0 if is_stopped else int(max(0, wall_ms() - wall) * speed)
        self._base_ms = max(base_ms + passed, not_before_ms)
        self._since = time.monotonic()
        self.speed = speed
        self.is_stopped = is_stopped

    def _settle(self) -> None:
        self._base_ms = self.now_ms()
        self._since = time.monotonic()
