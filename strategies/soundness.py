"""Strategies tried on made-up markets before anybody configures them: what raises, does not fit, sees the future or remembers
more than it declares is refused, with where and why.

No Django: the command line and the loading of one's own strategies ask the same questions as Django's checks.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import numpy as np

from domain.candles import Candles, FloatArray, IntArray, Timeframe
from domain.informative import Facts, FundingRates, Others, Trades
from domain.soundness import advises_otherwise, depends_on_older, looks_ahead, malformed
from domain.strategy import Strategy

# Candles to give signals on, after the warm-up and as much again that is cut off before it.
CANDLES = 1_500
# Long enough for two months of days, short enough for several candles in each.
TIMEFRAME = Timeframe.H1
# Cuts of each kind: a fault shows at most of them.
CUTS = 8


def unsound(kind: type[Strategy[Any]], candles: Candles | None = None, timeframe: Timeframe | None = None) -> str:
    """What is wrong with a strategy with its default parameters, on a random walk or on ``candles``, of its own timeframe
    unless another is named; empty where nothing is. Whatever else it looks at swings beside it."""
    timeframe = timeframe or kind.timeframe or TIMEFRAME
    try:
        strategy = kind.from_values({})
        shown = walk_for(strategy, timeframe) if candles is None else candles
        beside = Others(shown, timeframe, walks_beside(strategy, shown, timeframe))
        if fault := malformed(strategy, shown, strategy.signals_with(shown, beside)):
            return str(fault)
        if fault := looks_ahead(strategy, shown, beside, CUTS):
            return f"sees the future: {fault}: it changes when later candles are cut off"
        if fault := depends_on_older(strategy, shown, beside):
            return (
                f"remembers more than its warm-up of {strategy.warm_up} candles: {fault}: it changes when older candles "
                "are cut off"
            )
        if fault := advises_otherwise(strategy, shown, beside, CUTS):
            return f"sees the future or remembers more than its warm-up: {fault}: it changes when other candles are cut off"
    except Exception as error:
        return f"raises {type(error).__name__}: {error}{where(error)}"
    return ""


def where(error: BaseException, within: Path | None = None) -> str:
    """The last line, of ``within`` where that is named, that ``error`` came through: " at FILE:LINE"."""
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if within is None or frame.filename == str(within)
    ]
    return f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def walk_for(strategy: Strategy[Any], timeframe: Timeframe = TIMEFRAME) -> Candles:
    """A random walk that is long enough for the checks of ``strategy``."""
    length = max(CANDLES, 2 * strategy.warm_up + CANDLES // 2)
    steps = np.random.default_rng(7).normal(0, 0.002, length)
    close = 100 * np.exp(np.cumsum(steps))
    return _candles(np.arange(length, dtype=np.int64) * timeframe.seconds * 1000, close)


def walks_beside(strategy: Strategy[Any], candles: Candles, timeframe: Timeframe = TIMEFRAME) -> Facts:
    """Swings for each informative feed, from long before the first candle to the end of the last; a trade every ten minutes
    and a funding rate every eight hours."""
    if not len(candles):
        return Facts()
    start_ms, end_ms = int(candles.open_ms[0]), int(candles.open_ms[-1]) + timeframe.seconds * 1000
    swings = {}
    for number, one in enumerate(strategy.informative, start=1):
        length_ms = one.timeframe.seconds * 1000
        before = max(one.warm_up + 2, CANDLES)
        opens_ms = np.arange(start_ms // length_ms - before, end_ms // length_ms, dtype=np.int64) * length_ms
        # To both sides of any average and within weeks: a walk may stay on one for all of the history.
        noise = np.random.default_rng(7 + number).normal(0, 0.01, len(opens_ms))
        swings[one] = _candles(opens_ms, 100 * np.exp(0.05 * np.sin(np.arange(len(opens_ms)) * 0.7) + noise))
    if not strategy.tapes:
        return Facts(swings)
    generator = np.random.default_rng(6)
    traded_ms, paid_ms = np.arange(start_ms, end_ms, 600_000), np.arange(start_ms, end_ms, 8 * 3_600_000)
    trades = Trades(
        traded_ms,
        100 * np.exp(np.cumsum(generator.normal(0, 0.001, len(traded_ms)))),
        generator.exponential(1, len(traded_ms)),
        generator.random(len(traded_ms)) < 0.5,
    )
    return Facts(swings, trades, FundingRates(paid_ms, generator.normal(0, 0.0001, len(paid_ms))))


def _candles(opens_ms: IntArray, close: FloatArray) -> Candles:
    opened = np.concatenate(([100.0], close[:-1]))
    chance = np.random.default_rng(len(close))
    high = np.maximum(opened, close) * (1 + 0.002 * chance.random(len(close)))
    low = np.minimum(opened, close) * (1 - 0.002 * chance.random(len(close)))
    return Candles(opens_ms, opened, high, low, close, 1 + chance.random(len(close)))
