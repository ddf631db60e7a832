"""Who may change a row: guarded transitions, and the order in which locks are taken.

A status changes only by ``UPDATE ... WHERE status IN (...)`` along the model's transition table; the row count says who
won. Locks are row locks in short transactions, always in this order, so that no two transactions wait for each other:

    1. session    positions.track, sessions' commands: one decision about a session at a time
    2. account    money.value: two sessions cannot both take the last of a limit
    3. order      by guarded update only
    4. feed       marketdata.collect, by lease column: the holder makes network calls, so it holds no lock

Several rows of one kind are locked in the order of their ids. No network call is made while any of them is held.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Self, TypeVar

from django.db import models

M = TypeVar("M", bound="Guarded")


class GuardedQuerySet(models.QuerySet[M]):
    """A queryset whose status moves only as the transition table of its model allows."""

    def move(self, to: str, *, among: Collection[str] | None = None, **changes: Any) -> int:
        """Set ``status`` to ``to``, with ``changes``, on the rows whose status may become it; how many did.

        ``among`` narrows the statuses to move from. Raises ValueError for a move the table does not know.
        """
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
