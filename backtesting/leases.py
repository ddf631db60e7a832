"""Who computes a row, for as long as it takes: a lease that is made longer every second, and a word between two steps that it
is lost or the row cancelled. So a worker that died is known within half a minute, however long a computation takes.

What is stored at the end is fenced by the lease: who was overtaken, or told to stop, changes nothing.
"""

from __future__ import annotations

import logging
import threading
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

from django.db import DatabaseError, connections
from django.db.models import QuerySet
from django.utils import timezone

from backtesting.models import Job, JobStatus
from pipeline.claims import GuardedQuerySet

logger = logging.getLogger(__name__)

LEASE = timedelta(seconds=30)
# A cancelled row is left within this time and a step of what is computed.
BEAT_SECONDS = 1.0
THREAD = "lease"


class LeaseLost(Exception):
    """Somebody else has the row now, or it was cancelled: what is computed is nobody's any more."""


class Hold:
    """One worker's hold of the row that ``rows`` find, kept in a block; ``until`` is what the row says of it at the end.

    It is renewed by a thread with a connection of its own: a strategy that computes for a minute in one call is no dead
    worker. A row that is done within a second costs no such connection.
    """

    def __init__(self, rows: QuerySet[Any], until: datetime) -> None:
        self._rows = rows
        self.until = until
        self._ended, self._lost = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._beat, name=THREAD, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def tick(self, share: float = 0.0) -> None:
        """Say that ``share`` of the work, 0 to 1, is done. Raises LeaseLost."""
        if self._lost.is_set():
            raise LeaseLost

    @property
    def mine(self) -> Any:
        """The row, while it is ours; to be asked after the block."""
        return self._rows.filter(leased_until=self.until)

    def _told(self) -> dict[str, Any]:
        """What else the row is told with each renewal."""
        return {}

    def _beat(self) -> None:
        try:
            while not self._ended.wait(BEAT_SECONDS):
                self._renew()
        finally:
            connections.close_all()

    def _renew(self) -> None:
        until = timezone.now() + LEASE
        try:
            if self.mine.update(leased_until=until, **self._told()):
                self.until = until
            else:
                self._lost.set()
        except DatabaseError as error:
            # Of that lease some is left; and should it run out, another worker begins anew and the fence holds.
            logger.warning("a lease was not renewed, in a second it is tried again (%s)", type(error).__name__)
            connections.close_all()


class Lease(Hold):
    """The same of a running job, which is told how much of it is done."""

    def __init__(self, row: Job, until: datetime) -> None:
        super().__init__(GuardedQuerySet(type(row)).filter(pk=row.pk, status=JobStatus.RUNNING), until)
        self._total = row.total
        self._share = 0.0

    def tick(self, share: float = 0.0) -> None:
        self._share = share
        super().tick()

    def expect(self, total: int) -> None:
        """Say how many steps there are in all."""
        self._total = total

    def _told(self) -> dict[str, Any]:
        return {"done": int(min(max(self._share, 0.0), 1.0) * self._total), "total": self._total}
