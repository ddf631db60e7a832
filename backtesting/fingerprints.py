"""Whether two backtests are of the same code and of the same market data, as two short hashes. Pure: no Django.

The code is what decides about a trade: the strategy's own file with what it takes from beside it, all of ``domain/``, the
engine, and the versions of what computes. The data are every number that the engine and the strategy are shown.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from backtesting.engine.inputs import MarketInput
from domain.candles import Candles
from domain.strategy import Strategy

HERE = Path(__file__).resolve().parent
LENGTH = 16  # bytes
COMPUTING = ("numpy", "numba")


def code_hash(strategy: type[Strategy[Any]]) -> str:
    """Of the code that decides about a trade of ``strategy``, as this process found it."""
    told = hashlib.blake2b(_platform_hash(), digest_size=LENGTH)
    for path in sorted({Path(file) for module in _modules(strategy) if (file := module.__file__)}):
        told.update(path.name.encode() + b"\0" + _bytes_of(path))
    return told.hexdigest()


def data_hash(markets: Sequence[MarketInput]) -> str:
    """Of all that the engine and the strategies are shown of ``markets``. What is made of it (signals, the warm-up) is left
    out: other parameters on the same candles are no other data."""
    told = hashlib.blake2b(digest_size=LENGTH)
    for market in markets:
        told.update(repr((market.symbol, market.timeframe, market.rules, market.can_short)).encode())
        for name, part in _parts(market):
            told.update(f"{name} {part.dtype} {len(part)}".encode())
            told.update(np.ascontiguousarray(part).tobytes())
    return told.hexdigest()


@cache
def _platform_hash() -> bytes:
    told = hashlib.blake2b(digest_size=LENGTH)
    # What decides about a trade, and from where to where one is traded.
    deciding = [*(HERE / "engine").glob("*.py"), HERE / "gathering.py", HERE / "research" / "trials.py"]
    for path in [*sorted((HERE.parent / "domain").rglob("*.py")), *sorted(deciding)]:
        told.update(path.name.encode() + b"\0" + path.read_bytes())
    told.update(repr((sys.version_info[:2], [_version(name) for name in COMPUTING])).encode())
    return told.digest()


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


@cache
def _bytes_of(path: Path) -> bytes:
    # Read once: what runs is what the process has imported, whatever is written there since.
    return path.read_bytes()


def _modules(strategy: type[Strategy[Any]]) -> set[ModuleType]:
    """The modules that a strategy's class and its ancestors are from, and what these take from their own packages."""
    found: set[ModuleType] = set()
    todo = [sys.modules[kind.__module__] for kind in strategy.__mro__ if issubclass(kind, Strategy)]
    while todo:
        module = todo.pop()
        if module in found or module.__name__.startswith("domain."):
            continue
        found.add(module)
        package = module.__name__.rpartition(".")[0]
        for value in vars(module).values():
            name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if package and isinstance(name, str) and name.startswith(f"{package}.") and name in sys.modules:
                todo.append(sys.modules[name])
    return found


def _parts(market: MarketInput) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    facts = market.facts
    yield from _columns("candles", market.candles)
    if market.detail is not None:
        yield from _columns("detail", market.detail)
    for one in sorted(facts.candles, key=str):
        yield from _columns(str(one), facts.candles[one])
    for name, tape in (("trades", facts.trades), ("funding", facts.funding), ("paid", market.funding)):
        if tape is not None:
            yield from _columns(name, tape)


def _columns(name: str, held: Candles | Any) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    for column in held.__slots__:
        yield f"{name}.{column}", np.atleast_1d(getattr(held, column))
