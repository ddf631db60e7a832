"""Every status that waits for somebody has a query that finds it; a sweep rings again for whatever it finds.

So no message is ever essential: a lost bell costs one sweep period, and a second ring changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.utils import timezone

from pipeline.topics import ring

# What one sweep rings for at most; the rest waits for the next, so that a backlog after an outage cannot flood the broker.
SWEEP_LIMIT = 10_000


@dataclass(frozen=True, slots=True)
class Waiting:
    """A status that waits: ``query(now)`` gives the ids, ``task`` serves them through ``argument``."""

    what: str
    query: Callable[[datetime], Sequence[int]]
    task: str
    argument: str
    batch: int = 200


def swept_apart(queue: str, rules: Sequence[Waiting]) -> list[Waiting]:
    """Those of ``rules`` that ring on ``queue``: what may wait for nothing else is looked for on its own queue, too."""
    return [rule for rule in rules if rule.task.startswith(f"{queue}.")]


def sweep(*rules: Waiting, now: datetime | None = None) -> dict[str, int]:
    """Ring for every row that waits under ``rules``; how many rows each found."""
    at = now or timezone.now()
    found = {}
    for rule in rules:
        ids = list(rule.query(at))[:SWEEP_LIMIT]
        if ids:
            ring(rule.task, batch=rule.batch, **{rule.argument: ids})
        found[rule.what] = len(ids)
    return found
