"""No strategy that sees the future is let in: checked whenever Django starts, in a worker, a command or the web server."""

from __future__ import annotations

from typing import Any

import numpy as np
from django.core.checks import CheckMessage, Error

from domain.candles import Candles, Timeframe
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
    """A walk for each informative feed, from long before the first candle to the end of the last; a trade every ten minutes
    and a funding rate every eight hours."""
    end_ms = CANDLES * TIMEFRAME.seconds * 1000
    walks = {}
    for number, one in enumerate(strategy.informative, start=1):
        length_ms = one.timeframe.seconds * 1000
        before, during = max(one.warm_up, CANDLES), end_ms // length_ms
        walks[one] = _random_walk(one.timeframe, before + during, before, seed=7 + number)
    generator = np.random.default_rng(6)
    traded_ms, paid_ms = np.arange(0, end_ms, 600_000), np.arange(0, end_ms, 8 * 3_600_000)
    trades = Trades(
        traded_ms,
        100 * np.exp(np.cumsum(generator.normal(0, 0.001, len(traded_ms)))),
        generator.exponential(1, len(traded_ms)),
        generator.random(len(traded_ms)) < 0.5,
    )
    return Facts(walks, trades, FundingRates(paid_ms, generator.normal(0, 0.0001, len(paid_ms))))


def _random_walk(timeframe: Timeframe, length: int = CANDLES, before: int = 0, seed: int = 7) -> Candles:
    """``before`` of its candles open before the epoch."""
    steps = np.random.default_rng(seed).normal(0, 0.002, length)
    close = 100 * np.exp(np.cumsum(steps))
    opened = np.concatenate(([100.0], close[:-1]))
    high, low = np.maximum(opened, close) * 1.001, np.minimum(opened, close) * 0.999
    opens_ms = np.arange(-before, length - before, dtype=np.int64) * timeframe.seconds * 1000
    return Candles(opens_ms, opened, high, low, close, np.ones(length))
