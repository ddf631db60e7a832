"""No strategy that sees the future is let in: checked whenever Django starts, in a worker, a command or the web server."""

from __future__ import annotations

from typing import Any

import numpy as np
from django.core.checks import CheckMessage, Error

from domain.candles import Candles, FloatArray, IntArray, Timeframe
from domain.informative import Facts, FundingRates, Others, Trades
from domain.strategy import Strategy, looks_ahead_at
from strategies.library import LIBRARY

# Enough candles for the longest warm-up a parameter's bounds allow, and then some to give signals on.
CANDLES = 1_500
# Long enough for two months of days, short enough for several candles in each.
TIMEFRAME = Timeframe.H1


def check_library(**_: Any) -> list[CheckMessage]:
    """An error for each strategy whose past signals change when the future is cut off."""
    return [message for kind in LIBRARY.values() for message in check_strategy(kind)]


def check_strategy(kind: type[Strategy[Any]]) -> list[CheckMessage]:
    """As ``check_library``, for one strategy with its default parameters: on a random walk, beside others for whatever else
    it looks at."""
    strategy, candles = kind.from_values({}), _random_walk(TIMEFRAME)
    index = looks_ahead_at(strategy, candles, Others(candles, TIMEFRAME, _walks_beside(strategy)))
    if index is None:
        return []
    return [
        Error(
            f"strategy {kind.name!r} sees the future: its signal on candle {index} changes when later candles are cut off",
            hint="A signal may use candles up to and including the one it speaks of, and what others.align puts there.",
            id="strategies.E001",
        )
    ]


def _walks_beside(strategy: Strategy[Any]) -> Facts:
    """Swings for each informative feed, from long before the first candle to the end of the last; a trade every ten minutes
    and a funding rate every eight hours."""
    end_ms = CANDLES * TIMEFRAME.seconds * 1000
    swings = {}
    for number, one in enumerate(strategy.informative, start=1):
        length_ms = one.timeframe.seconds * 1000
        before, during = max(one.warm_up, CANDLES), end_ms // length_ms
        opens_ms = np.arange(-before, during, dtype=np.int64) * length_ms
        # To both sides of any average and within weeks: a walk may stay on one for all of the history.
        noise = np.random.default_rng(7 + number).normal(0, 0.01, len(opens_ms))
        swings[one] = _candles(opens_ms, 100 * np.exp(0.05 * np.sin(np.arange(len(opens_ms)) * 0.7) + noise))
    generator = np.random.default_rng(6)
    traded_ms, paid_ms = np.arange(0, end_ms, 600_000), np.arange(0, end_ms, 8 * 3_600_000)
    trades = Trades(
        traded_ms,
        100 * np.exp(np.cumsum(generator.normal(0, 0.001, len(traded_ms)))),
        generator.exponential(1, len(traded_ms)),
        generator.random(len(traded_ms)) < 0.5,
    )
    return Facts(swings, trades, FundingRates(paid_ms, generator.normal(0, 0.0001, len(paid_ms))))


def _random_walk(timeframe: Timeframe) -> Candles:
    steps = np.random.default_rng(7).normal(0, 0.002, CANDLES)
    return _candles(np.arange(CANDLES, dtype=np.int64) * timeframe.seconds * 1000, 100 * np.exp(np.cumsum(steps)))


def _candles(opens_ms: IntArray, close: FloatArray) -> Candles:
    opened = np.concatenate(([100.0], close[:-1]))
    high, low = np.maximum(opened, close) * 1.001, np.minimum(opened, close) * 0.999
    return Candles(opens_ms, opened, high, low, close, np.ones(len(close)))
