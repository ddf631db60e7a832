"""Arrays in, trades and equity out: what trading would have come to, decided by the functions that live trading asks.

An entry fills at the open after its signal; its stop and target count from that candle on; exits of one open come before
entries. What moves with the market moves when a candle has closed. The fast loop (``kernel.py``) does what most runs ask
for, of one market or many; everything else goes from event to event (``walk.py``). Both trade the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from backtesting.engine.course import METHODS, course_of, run, terms_of, told
from backtesting.engine.inputs import MarketInput, Result, Settings
from backtesting.engine.loops import Loops, loops_for
from backtesting.engine.walk import Walk
from domain.strategy import SignalArrays


def backtest(
    markets: Sequence[MarketInput], settings: Settings | None = None, tick: Callable[[float], None] | None = None
) -> Result:
    """What trading ``markets`` with one account would have come to. ``tick`` is called now and then with how much is done, 0
    to 1, where it takes long; what it raises ends the run. Raises ValueError for what makes no sense."""
    terms = settings or Settings()
    if len({market.symbol for market in markets}) < len(markets):
        raise ValueError(f"wanted each market once, was {', '.join(market.symbol for market in markets)}")
    if markets and all(is_common(market, terms) for market in markets):
        return backtest_fast(markets, terms)
    return Walk(markets, terms, tick).result()


def is_common(market: MarketInput, settings: Settings) -> bool:
    """Whether the fast loop knows all that is asked for."""
    asks_more = (
        settings.sizing not in METHODS,
        settings.volume_share is not None,
        settings.max_entries > 1,
        settings.limits.max_orders_per_minute is not None,
        settings.limits.cooldown_losses is not None,
        market.detail is not None,
        market.is_advised,
    )
    return not any(asks_more)


def backtest_fast(markets: Sequence[MarketInput], settings: Settings, loops: Loops | None = None) -> Result:
    """As ``backtest``, of markets each of which ``is_common``, by the fast loop."""
    said = [market.said() for market in markets]
    chosen = loops or loops_for(sum(len(market.candles) for market in markets))
    course = course_of(markets, settings, said, chosen)
    tagged = [_tagged(market, signals) for market, signals in zip(markets, said, strict=True)]
    return told(tagged, course, *run(terms_of(settings), course, chosen))


def _tagged(market: MarketInput, signals: SignalArrays) -> MarketInput:
    """With the tags of its signals, where it was given none."""
    return market if market.tags is not None or signals.tags is None else replace(market, tags=signals.tags.tolist())
