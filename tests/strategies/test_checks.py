"""A strategy that sees the future is refused before it can be configured."""

from __future__ import annotations

import numpy as np

from domain.candles import Candles
from domain.strategy import Parameters, SignalArrays, Strategy
from strategies.checks import check_library, check_strategy


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
