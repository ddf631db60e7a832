"""The library is sound with whatever parameters, and a strategy that peeks, remembers or says nonsense never is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.candles import Candles, Timeframe
from domain.catalogue import CATALOGUE, indicator_of
from domain.exit_plan import ExitPlan
from domain.indicators import crossed_above
from domain.informative import Informative, Others
from domain.soundness import Fault, depends_on_older, depends_on_older_at, looks_ahead, looks_ahead_at, malformed
from domain.strategy import Parameters, SignalArrays, Strategy
from strategies.library import LIBRARY
from strategies.soundness import TIMEFRAME, unsound, walk_for, walks_beside

FEW: dict[str, dict[str, Any]] = {
    "sma_cross": {"fast": 5, "slow": 20},
    "ema_cross": {"fast": 5, "slow": 20, "sides": "BOTH"},
    "trend_filter": {"fast": 5, "slow": 20, "trend_timeframe": "4h", "trend_period": 20},
    "macd": {"fast": 5, "slow": 10, "signal": 4, "sides": "SHORT"},
    "donchian": {"entry": 10, "leave": 30, "atr_period": 2, "sides": "BOTH"},
    "supertrend": {"period": 5, "factor": 2, "sides": "BOTH"},
    "bollinger_breakout": {"period": 10, "width": 1.5},
    "bollinger_reversion": {"period": 10, "width": 1.5},
    "rsi_reversion": {"period": 5},
    "scalping": {"period": 10, "rsi_period": 4, "oversold": 40, "patience": 6},
    "intraday": {"anchor_hour": 7, "range_minutes": 120, "entry_minutes": 600, "leave_minutes": 900},
    "swing": {"period": 5, "trend_timeframe": "4h", "trend_fast": 5, "trend_slow": 10},
    "momentum_rotation": {"rivals": "ETH/USDT, SOL/USDT", "timeframe": "4h", "lookback": 5, "least_percent": -50},
    "grid": {"period": 30, "step_percent": "0.3"},
    "dca": {"every_hours": 6, "lookback": 50},
    "manual": {},
}


def shown(strategy: Strategy[Any]) -> tuple[Candles, Others]:
    # Its warm-up is a day in minutes, and a day in hours is done sooner.
    timeframe = Timeframe.M1 if strategy.name == "intraday" else TIMEFRAME
    candles = walk_for(strategy, timeframe)
    return candles, Others(candles, timeframe, walks_beside(strategy, candles, timeframe))


def walk(seed: int, length: int = 400) -> Candles:
    close = 100 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 0.01, length)))
    opens = np.arange(length, dtype=np.int64) * 3_600_000
    return Candles(opens, close, close * 1.001, close * 0.999, close, np.ones(length))


@pytest.mark.parametrize("name", sorted(LIBRARY))
def test_every_strategy_is_sound_and_speaks_with_other_parameters_too(name: str) -> None:
    strategy = LIBRARY[name].from_values(FEW[name])
    candles, beside = shown(strategy)
    said = strategy.signals_with(candles, beside)

    assert malformed(strategy, candles, said) is None
    assert looks_ahead(strategy, candles, beside, checks=10) is None
    assert depends_on_older(strategy, candles, beside, checks=40) is None
    assert bool(said.entries.any()) is (name != "manual")


# Of these the warm-up is exact: one candle less would not do. Averages that never forget have no such edge.
@pytest.mark.parametrize(
    "name", ["sma_cross", "trend_filter", "bollinger_breakout", "bollinger_reversion", "grid", "dca"]
)
def test_a_warm_up_that_is_one_candle_short_is_caught(name: str) -> None:
    kind = LIBRARY[name]

    class Short(kind):  # type: ignore[valid-type]
        @property
        def warm_up(self) -> int:
            return int(super().warm_up) - 1

    strategy = Short.from_values(FEW[name])
    candles, beside = shown(strategy)

    assert depends_on_older(strategy, candles, beside, checks=10) is not None


@pytest.mark.parametrize(
    "name", ["ema_cross", "macd", "rsi_reversion", "supertrend", "scalping", "donchian", "intraday", "swing"]
)
def test_a_warm_up_that_is_a_tenth_of_what_it_should_be_is_caught(name: str) -> None:
    kind = LIBRARY[name]

    class Short(kind):  # type: ignore[valid-type]
        @property
        def warm_up(self) -> int:
            return int(super().warm_up) // 10

    strategy = Short.from_values({} if name == "intraday" else FEW[name])
    candles, beside = shown(strategy)

    assert depends_on_older(strategy, candles, beside, checks=10) is not None


@pytest.mark.parametrize("name", sorted(LIBRARY))
def test_every_line_of_a_chart_is_one_that_the_catalogue_can_draw(name: str) -> None:
    for line in LIBRARY[name].from_values(FEW[name]).chart:
        if not line.indicator:
            assert line.level is not None
            continue
        indicator = CATALOGUE[line.indicator]
        assert line.output in indicator.outputs
        indicator.parameters_type.model_validate(line.parameters)


class Plain(Strategy[Parameters]):
    """Enters above the average of five; made to be spoilt."""

    name, title, parameters_type = "plain", "Plain", Parameters
    warm_up = 6

    def signals(self, candles: Candles) -> SignalArrays:
        average = indicator_of(candles, "sma", period=5)["sma"]
        return SignalArrays.of_turns(crossed_above(candles.close, average), crossed_above(average, candles.close))


def test_a_plain_strategy_is_sound() -> None:
    assert unsound(Plain) == ""


@settings(max_examples=30, deadline=None)
@given(ahead=st.integers(1, 20), seed=st.integers(0, 1000))
def test_a_strategy_that_peeks_is_always_caught(ahead: int, seed: int) -> None:
    class Peeking(Plain):
        def signals(self, candles: Candles) -> SignalArrays:
            entries = np.zeros(len(candles), dtype=np.int8)
            entries[:-ahead] = candles.close[ahead:] > candles.close[:-ahead]
            return SignalArrays(entries, np.zeros_like(entries))

    assert looks_ahead_at(Peeking.from_values({}), walk(seed)) is not None


@settings(max_examples=30, deadline=None)
@given(before=st.integers(7, 50), seed=st.integers(0, 1000))
def test_a_strategy_that_remembers_more_than_it_declares_is_always_caught(before: int, seed: int) -> None:
    class Remembering(Plain):
        def signals(self, candles: Candles) -> SignalArrays:
            entries = np.zeros(len(candles), dtype=np.int8)
            entries[before:] = candles.close[before:] > candles.close[:-before]
            return SignalArrays(entries, np.zeros_like(entries))

    strategy = Remembering.from_values({})

    assert looks_ahead_at(strategy, walk(seed)) is None
    assert depends_on_older_at(strategy, walk(seed)) is not None


@settings(max_examples=30, deadline=None)
@given(before=st.integers(1, 5), seed=st.integers(0, 1000))
def test_a_strategy_that_remembers_no_more_than_it_declares_is_let_in(before: int, seed: int) -> None:
    class Modest(Plain):
        def signals(self, candles: Candles) -> SignalArrays:
            entries = np.zeros(len(candles), dtype=np.int8)
            entries[before:] = candles.close[before:] > candles.close[:-before]
            return SignalArrays(entries, np.zeros_like(entries))

    assert looks_ahead_at(Modest.from_values({}), walk(seed)) is None
    assert depends_on_older_at(Modest.from_values({}), walk(seed)) is None


def test_a_stop_that_peeks_is_caught_though_the_signals_do_not() -> None:
    class PeekingStop(Plain):
        def signals(self, candles: Candles) -> SignalArrays:
            entries = np.ones(len(candles), dtype=np.int8)
            return SignalArrays(entries, np.zeros_like(entries), stops=np.full(len(candles), candles.low.min() - 1))

    fault = looks_ahead(PeekingStop.from_values({}), walk(1))

    assert fault is not None
    assert fault.array == "stops"


def test_only_the_cuts_that_are_asked_for_are_made() -> None:
    asked = []

    class Asked(Plain):
        def signals(self, candles: Candles) -> SignalArrays:
            asked.append(len(candles))
            return super().signals(candles)

    assert looks_ahead(Asked.from_values({}), walk(1).upto(50), cuts=[30, 12, 30]) is None
    assert asked == [50, 12, 30]


def test_a_strategy_that_counts_its_calls_is_caught() -> None:
    calls = []

    class Counting(Plain):
        def signals(self, candles: Candles) -> SignalArrays:
            calls.append(1)
            entries = np.full(len(candles), len(calls) % 2, dtype=np.int8)
            return SignalArrays(entries, np.zeros_like(entries))

    assert unsound(Counting).startswith("sees the future: entries at candle 0: wanted ")


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        (None, "signals: wanted SignalArrays, was NoneType"),
        (
            {"entries": np.zeros(3, np.int8)},
            "entries: wanted one value for each of 4 candles, was an array of shape (3,)",
        ),
        ({"entries": np.zeros(4)}, "entries: wanted values of type int8, was float64"),
        ({"exits": [0, 0, 0, 0]}, "exits: wanted a numpy array, was list"),
        ({"exits": np.array([0, 0, 2, 0], np.int8)}, "exits at candle 2: wanted -1, 0 or 1, was 2"),
        ({"exits": np.array([0, 0, -128, 0], np.int8)}, "exits at candle 2: wanted -1, 0 or 1, was -128"),
        ({"confidence": np.zeros(4, np.float32)}, "confidence: wanted values of type float64, was float32"),
        (
            {"confidence": np.array([9, 0, 0, 1.5])},
            "confidence at candle 3: wanted 0 to 1, or NaN for no word, was 1.5",
        ),
        (
            {"stops": np.array([9, 0, 0, np.inf])},
            "stops at candle 3: wanted a price above 0, or NaN for no word, was inf",
        ),
        ({"stops": np.array([9, 0, 0, 10.0])}, "stops at candle 3: wanted a price below the close of 10.0, was 10.0"),
        ({"targets": np.array([9, 0, 0, 9.5])}, "targets at candle 3: wanted a price above the close of 10.0, was 9.5"),
        ({"targets": np.array([9, 0, 0, 11.0])}, ""),
        ({"stops": np.full(4, np.nan)}, ""),
    ],
)
def test_what_does_not_fit_is_named_with_array_and_candle(said: dict[str, Any] | None, fault: str) -> None:
    close = np.full(4, 10.0)
    candles = Candles(np.arange(4, dtype=np.int64) * 60_000, close, close, close, close, close)

    class Early(Plain):
        warm_up = 1

    entries, exits = np.array([0, 0, 0, 1], np.int8), np.zeros(4, np.int8)
    arrays = None if said is None else SignalArrays(**{"entries": entries, "exits": exits, **said})

    found = malformed(Early.from_values({}), candles, arrays)

    assert str(found or "") == fault


def test_a_plan_that_uses_the_stop_of_the_signal_wants_one_at_every_entry() -> None:
    class Unprotected(Plain):
        warm_up = 2
        exit_plan = ExitPlan(is_stop_from_signal=True)

    candles = walk(1, 4)
    entries, none = np.array([1, 1, 0, 1], np.int8), np.zeros(4, np.int8)
    strategy = Unprotected.from_values({})
    stops = np.array([np.nan, candles.close[1] - 1, np.nan, np.nan])

    # The first candle is of the warm-up.
    assert malformed(strategy, candles, SignalArrays(entries, none, stops=stops)) == Fault(
        "stops", 3, "a price at every entry, for its exit plan uses it", "nan"
    )
    assert malformed(strategy, candles, SignalArrays(entries, none)) == Fault(
        "stops", None, "prices, for its exit plan uses them", "none"
    )


def test_a_strategy_that_raises_is_refused_with_the_line() -> None:
    class Raising(Plain):
        def signals(self, candles: Candles) -> SignalArrays:
            raise ZeroDivisionError("by nothing")

    problem = unsound(Raising)

    assert problem.startswith("raises ZeroDivisionError: by nothing at ")
    assert "test_soundness.py:" in problem


@pytest.mark.parametrize("name", ["trend_filter", "swing", "momentum_rotation"])
def test_a_warm_up_of_another_feed_that_is_too_short_is_caught(name: str) -> None:
    kind = LIBRARY[name]

    class Short(kind):  # type: ignore[valid-type]
        @property
        def informative(self) -> tuple[Informative, ...]:
            return tuple(replace(one, warm_up=1) for one in super().informative)

    strategy = Short.from_values(FEW[name])
    candles, beside = shown(strategy)

    assert depends_on_older(strategy, candles, beside, checks=10) is not None
