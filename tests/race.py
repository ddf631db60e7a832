"""Somebody else in between: calls that start at the same moment, and calls that something happens just before or after."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from django.db import connections


def at_once(calls: Iterable[Callable[[], Any]], seconds: float = 30) -> list[Any]:
    """Run ``calls`` in a thread each, with connections of their own, let go at the same moment; what each returned or
    raised, in their order."""
    waiting = list(calls)
    barrier = threading.Barrier(len(waiting))
    results: list[Any] = [None] * len(waiting)

    def run(number: int) -> None:
        try:
            barrier.wait(seconds)
            results[number] = waiting[number]()
        except Exception as error:
            results[number] = error
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(len(waiting))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
    assert not any(thread.is_alive() for thread in threads), f"waited {seconds:g} s in vain: all calls to return"
    return results


def elsewhere(call: Callable[[], Any]) -> Any:
    """Run ``call`` on a connection of its own to its end, as another process would; what it returned."""
    [result] = at_once([call])
    if isinstance(result, Exception):
        raise result
    return result


def happens_before(patch: pytest.MonkeyPatch, owner: Any, name: str, event: Callable[[], Any]) -> None:
    """Let ``event`` happen, once and elsewhere, just before ``owner.name`` is next called."""
    original = getattr(owner, name)
    left = [event]

    def called(*args: Any, **kwargs: Any) -> Any:
        while left:
            elsewhere(left.pop())
        return original(*args, **kwargs)

    patch.setattr(owner, name, called)


def happens_after(patch: pytest.MonkeyPatch, owner: Any, name: str, event: Callable[[], Any]) -> None:
    """Let ``event`` happen, once and elsewhere, just after ``owner.name`` has next returned."""
    original = getattr(owner, name)
    left = [event]

    def called(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        while left:
            elsewhere(left.pop())
        return result

    patch.setattr(owner, name, called)
