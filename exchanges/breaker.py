"""One circuit breaker per venue for all workers: after five failures in a row nobody waits for it any more.

While it is open every call is refused at once, so that a venue that hangs holds up one call at a time and not every thread;
after five seconds one call may try, and its outcome closes the circuit or opens it again. The states are pybreaker's, kept
in Redis. The calls themselves are made outside of it, because it would let only one thread of a process call at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pybreaker
from django.conf import settings

from exchanges import shared
from exchanges.gateway import ExchangeUnavailable

FAILURES = 5
OPEN_MS = 5_000
# pybreaker notes by the clock of whoever opens a circuit when that was; a trial's outcome counts whatever that clock said.
ANY_CLOCK = -86_400
# Longer than any call takes: the next one tries when whoever tried has died.
TRYING_MS = 15_000


class _Failed(Exception):
    """Stands for a failure that was handed on already."""


@dataclass(frozen=True, slots=True)
class Entrance:
    """How a call was let in: ``is_trial`` decides about an open circuit, ``is_quiet`` is a closed one without a failure."""

    is_trial: bool = False
    is_quiet: bool = True


class Breaker:
    """The circuit to one venue; ``on_change`` is called when this process has opened or closed it, or noticed either."""

    def __init__(self, name: str, on_change: Callable[[], Any]) -> None:
        self._name = f"r3edge:{name}"
        self._on_change = on_change
        # What ``admit`` wants to see; read together with whatever else the caller needs.
        self.keys = [f"{self._name}:pybreaker:state", f"{self._name}:pybreaker:fail_counter", f"{self._name}:held"]

    def admit(self, state: bytes | None, failures: bytes | None, held: bytes | None) -> Entrance:
        """Let a call in, given what lies under ``keys``. Raises ExchangeUnavailable while the circuit is open."""
        if state is None or state == pybreaker.STATE_CLOSED.encode():
            return Entrance(is_quiet=failures in (None, b"0"))
        if not held and shared.ask(lambda: bool(shared.client().set(self.keys[2], 1, nx=True, px=TRYING_MS)), True):
            return Entrance(is_trial=True, is_quiet=False)
        raise ExchangeUnavailable(f"wanted a venue that answers, was silent for the last {FAILURES} calls")

    def withdraw(self, entrance: Entrance) -> None:
        """The call that was let in is not made: another may try."""
        if entrance.is_trial:
            shared.ask(lambda: shared.client().delete(self.keys[2]), None)

    def record(self, entrance: Entrance, *, is_failure: bool) -> None:
        """Count how the call went. What changes nothing costs nothing: a success where nothing had failed."""
        if is_failure or not entrance.is_quiet:
            shared.ask(lambda: self._record(entrance, is_failure), None)

    def is_open(self) -> bool:
        """Whether calls are refused now."""
        state = shared.ask(lambda: shared.client().get(self.keys[0]), None)
        return state is not None and state != pybreaker.STATE_CLOSED.encode()

    def _record(self, entrance: Entrance, is_failure: bool) -> None:
        circuit = _circuit(settings.REDIS_URL, self._name)
        was_open = circuit.current_state == pybreaker.STATE_OPEN
        if was_open and not entrance.is_trial:
            return  # let in before it opened: that is known already
        with suppress(_Failed, pybreaker.CircuitBreakerError):
            circuit.call(_replay, is_failure)
        is_open = circuit.current_state == pybreaker.STATE_OPEN
        if is_open:
            shared.client().set(self.keys[2], 1, px=OPEN_MS)
        if is_open != was_open:
            self._on_change()


def _replay(is_failure: bool) -> None:
    if is_failure:
        raise _Failed


@lru_cache(maxsize=256)
def _circuit(url: str, name: str) -> pybreaker.CircuitBreaker:
    storage = pybreaker.CircuitRedisStorage(pybreaker.STATE_CLOSED, shared.client(), namespace=name)
    # No timeout of its own, by whichever machine's clock: a key that expires in Redis says when one call may try.
    return pybreaker.CircuitBreaker(fail_max=FAILURES, reset_timeout=ANY_CLOCK, state_storage=storage)
