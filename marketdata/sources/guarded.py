"""A source on the web behind a rate budget and a circuit breaker that all workers share: those of the exchanges.

What is over the budget is refused at once and uses nothing up, and nobody waits for a source that has stopped answering.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from exchanges import shared
from exchanges.breaker import Breaker, Entrance
from exchanges.budget import Budget, Use
from exchanges.gateway import ExchangeUnavailable
from exchanges.venues import Pool
from marketdata.sources import SourceFailed

T = TypeVar("T")

NOTHING_KNOWN: list[bytes | None] = [None, None, None, None]


class NoAnswer(SourceFailed):
    """Nothing came that the source itself had said: it counts against its circuit."""


class Guard:
    """The door to the source ``name``; every call draws one from each of ``pools``, the shortest first."""

    def __init__(self, name: str, pools: Sequence[Pool]) -> None:
        self._budgets = [Budget(f"source:{name}", pool) for pool in sorted(pools, key=lambda pool: pool.seconds)]
        self._breaker = Breaker(f"source:{name}", lambda: None)

    def ask(self, call: Callable[[], T]) -> T:
        """What ``call`` returns; raises SourceFailed where it does, or may not be made now. A failure that says how long to
        wait keeps everybody from asking for so long."""
        entrance = self._enter()
        try:
            answer = call()
        except SourceFailed as error:
            self._breaker.record(entrance, is_failure=isinstance(error, NoAnswer))
            if error.retry_after is not None:
                self._budgets[0].block(error.retry_after)
            raise
        except BaseException:
            self._breaker.record(entrance, is_failure=True)
            raise
        self._breaker.record(entrance, is_failure=False)
        return answer

    def _enter(self) -> Entrance:
        keys = [*self._breaker.keys, self._budgets[0].blocked_key]
        state, failures, held, blocked = shared.ask(lambda: _values(keys), NOTHING_KNOWN)
        try:
            self._budgets[0].check_block(blocked)
            entrance = self._breaker.admit(state, failures, held)
        except ExchangeUnavailable as error:
            raise SourceFailed(str(error), retry_after=error.retry_after) from error
        for budget in self._budgets:
            try:
                budget.take(1, Use.EXIT)  # nothing here goes before anything else: each call may have all of it
            except ExchangeUnavailable as error:
                self._breaker.withdraw(entrance)
                pool = budget.pool
                raise SourceFailed(
                    f"wanted one of the {pool.weight} calls that it allows in {pool.seconds} s, were used up",
                    retry_after=error.retry_after,
                ) from error
        return entrance


def _values(keys: Sequence[str]) -> list[bytes | None]:
    values: Any = shared.client().mget(keys)
    return list(values)
