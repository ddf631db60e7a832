"""The scenarios by name: what each does to the platform, and which rows of the fault table it stands for.

A scenario takes a ``World`` (on the command line a ``Stage`` with real processes) and raises ``Breach`` where a promise
does not hold; whatever it does not look at itself, the invariants look at afterwards.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from chaos.world import World

Play = Callable[[Any], None]


@dataclass(frozen=True, slots=True)
class Scenario:
    """``play(stage)`` does it. ``rows``: of the fault table. A slow one is left out of the short run of the tests.
    ``needs_stage``: it wants real processes, servers or proxies, and cannot be played by hand."""

    name: str
    rows: tuple[int, ...]
    play: Play
    is_slow: bool = False
    needs_stage: bool = True

    @property
    def text(self) -> str:
        """Its docstring's first line."""
        return (self.play.__doc__ or "").strip().partition("\n")[0]


SCENARIOS: dict[str, Scenario] = {}


def scenario(
    name: str, rows: tuple[int, ...], *, is_slow: bool = False, needs_stage: bool = True
) -> Callable[[Play], Play]:
    """Register the function below under ``name``."""

    def register(play: Play) -> Play:
        if name in SCENARIOS:
            raise ValueError(f"wanted one scenario of the name {name!r}, were two")
        SCENARIOS[name] = Scenario(name, rows, play, is_slow, needs_stage)
        return play

    return register


def load() -> dict[str, Scenario]:
    """Every scenario there is, in the order of the fault table."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return dict(sorted(SCENARIOS.items(), key=lambda item: (item[1].rows or (99,), item[0])))


__all__ = ["SCENARIOS", "Scenario", "World", "load", "scenario"]
