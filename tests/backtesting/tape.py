"""Candles made up for tests of searches: a walk by a seed, whose trends make crosses of averages earn or lose."""

from __future__ import annotations

import numpy as np

from backtesting.engine.inputs import MarketInput
from domain.candles import Candles, Timeframe

HOUR_MS = 3_600_000


def drifting(size: int, seed: int = 5, symbol: str = "X") -> MarketInput:
    """A market of ``size`` hourly candles from the epoch on."""
    random = np.random.default_rng(seed)
    trend = 0.002 * np.sin(np.arange(size) / 40)
    close = 100 * np.exp(np.cumsum(trend + random.normal(0, 0.004, size)))
    open_ = np.concatenate(([100.0], close[:-1]))
    high, low = np.maximum(open_, close) * 1.002, np.minimum(open_, close) * 0.998
    return MarketInput(symbol, Candles(np.arange(size) * HOUR_MS, open_, high, low, close, np.ones(size)), Timeframe.H1)
