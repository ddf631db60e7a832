"""Where candles come from: one file for each kind of place, all of them behind one Protocol.

A source answers for one market and timeframe. It names candles by their open time in UTC, whatever the place itself does,
raises nothing but ``SourceFailed``, writes nothing and retries nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol

from exchanges.gateway import CandleReport


class SourceFailed(Exception):
    """It gave no candles: away, over its rate, an error in place of an answer, an answer that cannot be read. Ask again not
    before ``retry_after`` where that is known. ``is_final``: asking again changes nothing until a person acts (an unknown
    symbol, a missing key)."""

    def __init__(self, message: str, *, retry_after: timedelta | None = None, is_final: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.is_final = is_final


class Source(Protocol):
    """One place, asked about one market and timeframe."""

    def candles(self, since: datetime, limit: int) -> Sequence[CandleReport]:
        """At most ``limit`` candles that open at ``since`` or later, oldest first, the open one included where there is one.
        Raises SourceFailed."""
        ...
