"""No strategy that sees the future is let in: checked whenever Django starts, in a worker, a command or the web server."""

from __future__ import annotations

from typing import Any

import numpy as np
from django.core.checks import CheckMessage, Error

from domain.candles import Candles
from domain.strategy import Strategy, looks_ahead_at
from strategies.library import LIBRARY

# Enough candles for the longest warm-up a parameter's bounds allow, and then some to give signals on.
CANDLES = 1_500


def check_library(**_: Any) -> list[CheckMessage]:
    """An error for each strategy whose past signals change when the future is cut off."""
    return [message for kind in LIBRARY.values() for message in check_strategy(kind)]


def check_strategy(kind: type[Strategy[Any]]) -> list[CheckMessage]:
    """As ``check_library``, for one strategy with its default parameters."""
    index = looks_ahead_at(kind.from_values({}), _random_walk())
    if index is None:
        return []
    return [
        Error(
            f"strategy {kind.name!r} sees the future: its signal on candle {index} changes when later candles are cut off",
            hint="signals() may use candles up to and including the one it speaks of.",
            id="strategies.E001",
        )
    ]


def _random_walk() -> Candles:
    steps = np.random.default_rng(7).normal(0, 0.002, CANDLES)
    close = 100 * np.exp(np.cumsum(steps))
    opened = np.concatenate(([100.0], close[:-1]))
    high, low = np.maximum(opened, close) * 1.001, np.minimum(opened, close) * 0.999
    return Candles(np.arange(CANDLES, dtype=np.int64) * 60_000, opened, high, low, close, np.ones(CANDLES))
