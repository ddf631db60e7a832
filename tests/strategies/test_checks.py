"""A strategy that sees the future is refused before it can be configured."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from domain.candles import Candles, Timeframe
from domain.informative import Informative, Others
from domain.strategy import Parameters, SignalArrays, Strategy
from strategies.checks import check_library, check_strategy
from strategies.library import LIBRARY
from strategies.soundness import TIMEFRAME, walk_for, walks_beside


class Peeking(Strategy[Parameters]):
    """Buys when the next candle closes higher."""

    name = "peeking"
    title = "Peeking"
    parameters_type = Parameters
    warm_up = 1

    def signals(self, candles: Candles) -> SignalArrays:
        rises = np.append(np.diff(candles.close) > 0, False)
        return SignalArrays(entries=rises.astype(np.int8), exits=np.zeros(len(rises), np.int8))


def test_the_library_sees_no_future() -> None:
    assert check_library() == []


def test_a_strategy_that_sees_the_next_candle_is_an_error_that_names_it() -> None:
    [error] = check_strategy(Peeking)

    assert error.id == "strategies.E001"
    assert "strategy 'peeking' sees the future" in error.msg


class PeekingIntoTheDay(Strategy[Parameters]):
    """Buys while the day in which the hour lies closes higher than it opened, hours before it does."""

    name = "peeking_into_the_day"
    title = "Peeking into the day"
    parameters_type = Parameters
    warm_up = 1
    informative = (Informative(Timeframe.D1),)

    def signals_with(self, candles: Candles, others: Others) -> SignalArrays:
        days = others[self.informative[0]]
        found = np.searchsorted(days.open_ms, candles.open_ms, side="right") - 1
        entries = (days.close > days.open)[found].astype(np.int8)
        return SignalArrays(entries, np.zeros_like(entries))


def test_a_strategy_that_peeks_into_another_timeframe_is_an_error_too() -> None:
    [error] = check_strategy(PeekingIntoTheDay)

    assert "strategy 'peeking_into_the_day' sees the future" in error.msg
    assert "others.align" in str(error.hint)


def test_the_check_of_the_trend_filter_sees_it_enter() -> None:
    strategy = LIBRARY["trend_filter"].from_values({})
    candles = walk_for(strategy)

    said = strategy.signals_with(candles, Others(candles, TIMEFRAME, walks_beside(strategy, candles)))

    assert said.entries.any()


def test_the_strategy_in_the_docs_sees_no_future_and_speaks() -> None:
    page = Path(__file__).resolve().parents[2] / "docs/market-data.md"
    [program] = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(program, names)
    kind = names["WithTheMarket"]

    assert check_strategy(kind) == []
    strategy = kind.from_values({})
    candles = walk_for(strategy)
    said = strategy.signals_with(candles, Others(candles, TIMEFRAME, walks_beside(strategy, candles)))
    assert said.entries.any()
    assert said.exits.any()
