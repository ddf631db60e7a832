"""Files as people write them for freqtrade, and how a test comes by their strategies."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from domain.strategy import Strategy
from strategies.registry import Registry

FILES = Path(__file__).parent


def loaded(path: Path) -> type[Strategy[Any]]:
    """The strategy of a file, which is let in."""
    registry = Registry()
    names = registry.load_file(path)
    assert registry.refused == []
    return registry[names[0]]


@functools.cache
def whole(name: str) -> type[Strategy[Any]]:
    """The strategy of one of the files here, checked once."""
    return loaded(FILES / name)
