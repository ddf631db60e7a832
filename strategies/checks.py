"""No strategy that sees the future or remembers more than it says is let in: checked whenever Django starts, in a worker, a
command or the web server."""

from __future__ import annotations

from typing import Any

from django.core.checks import CheckMessage, Error
from django.core.checks import Warning as Caution

from domain.strategy import Strategy
from strategies.library import LIBRARY
from strategies.registry import LIBRARY_ORIGIN
from strategies.soundness import unsound


def check_library(**_: Any) -> list[CheckMessage]:
    """An error for each strategy of the library that is not sound, and a warning for each of one's own that was refused: the
    platform runs without it."""
    library = [kind for name, kind in LIBRARY.items() if LIBRARY.origin(name) == LIBRARY_ORIGIN]
    return [message for kind in library for message in check_strategy(kind)] + [
        Caution(f"a strategy was refused: {one}", hint="./r3edge manage strategy check", id="strategies.W001")
        for one in LIBRARY.refused
    ]


def check_strategy(kind: type[Strategy[Any]]) -> list[CheckMessage]:
    """As ``check_library``, for one strategy with its default parameters."""
    problem = unsound(kind)
    if not problem:
        return []
    return [
        Error(
            f"strategy {kind.name!r} {problem}",
            hint="A signal may use candles up to and including the one it speaks of, and what others.align puts there.",
            id="strategies.E001",
        )
    ]
