"""Who may change a row: guarded transitions, and the order in which locks are taken.

A status changes only by ``UPDATE ... WHERE status IN (...)`` along the model's transition table; the row count says who
won. Locks are row locks in short transactions, always in this order, so that no two transactions wait for each other:

    1. session    positions.track, sessions' commands: one decision about a session at a time
    2. account    money.value: two sessions cannot both take the last of a limit
    3. order      by guarded update only
    4. backfill   by lease column, and before its feed by the page that moves its cursor
    5. feed       marketdata.collect, by lease column: who asks holds no lock, and stores under the rows' locks
    6. backtest   by lease column, and alone: what is computed for it holds nothing
       study      before its claims, which are leased; trials are stored under it
    7. gaps, sources and quarantined rows of a feed: under the lock of the feed

Several rows of one kind are locked in the order of their ids. No network call is made while any of them is held.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, Self, TypeVar

from django.db import OperationalError, connection, models

logger = logging.getLogger(__name__)

M = TypeVar("M", bound="Guarded")
R = TypeVar("R")

# What PostgreSQL calls a transaction that it ended in favour of another: a deadlock, a failure to serialise.
LOST_TO_ANOTHER = frozenset({"40P01", "40001"})
TRIES = 3


def settled(work: Callable[[], R]) -> R:
    """What ``work``, one whole transaction without any call outside, returns; tried again, a few times, when the database
    ended it in favour of another. Inside a transaction it is tried once: only the outermost can be repeated."""
    for left in reversed(range(1 if connection.in_atomic_block else TRIES)):
        try:
            return work()
        except OperationalError as error:
            if not left or getattr(error.__cause__, "sqlstate", None) not in LOST_TO_ANOTHER:
                raise
            logger.warning("a transaction gave way to another and is tried again: %s", type(error.__cause__).__name__)
    raise AssertionError("the last try returns or raises")


class GuardedQuerySet(models.QuerySet[M]):
    """A queryset whose status moves only as the transition table of its model allows."""

    def move(self, to: str, *, among: Collection[str] | None = None, **changes: Any) -> int:
        """Set ``status`` to ``to``, with ``changes``, on the rows whose status may become it; how many did.

        ``among`` narrows the statuses to move from. Raises ValueError for a move the table does not know, and for a
        condition on a joined table: Django puts all conditions of such an update into a subquery, which the database does
        not look at again when it has waited for somebody else's change of the row. Name the other rows by ``__in``.
        """
        if sum(count > 0 for count in self.query.alias_refcount.values()) > 1:
            raise ValueError(f"{self.model.__name__}: wanted conditions on its own columns, was a join: {self.query}")
        table = self.model.transitions
        sources = {status for status, targets in table.items() if to in targets}
        wanted = sources if among is None else set(among)
        if not wanted or not wanted <= sources:
            unknown = ", ".join(sorted(map(str, wanted - sources))) or "anywhere"
            raise ValueError(f"{self.model.__name__}: no move from {unknown} to {to}")
        return self.filter(status__in=sorted(wanted)).update(status=to, **changes)

    def locked(self) -> Self:
        """The rows, locked in the order of their ids until the transaction ends."""
        return self.select_for_update(of=("self",)).order_by("pk")


class Guarded(models.Model):
    """A model with a status and a table of its legal moves."""

    transitions: ClassVar[Mapping[str, frozenset[str]]] = {}

    class Meta:
        abstract = True
