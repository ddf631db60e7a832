"""Strategies: bounds that hold, signals where they belong, and no sight of the future, which is caught where there is."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from domain.candles import Candles, FloatArray, Timeframe
from domain.indicators import rsi
from domain.informative import Facts, Others
from domain.soundness import looks_ahead_at
from domain.strategy import Parameters, Sides, SignalArrays, SignalKind, Strategy
from strategies.library import LIBRARY

K = SignalKind
SMALL: dict[str, dict[str, Any]] = {
    "sma_cross": {"fast": 2, "slow": 3},
    "rsi_reversion": {"period": 2},
    "trend_filter": {"fast": 2, "slow": 3, "trend_timeframe": "5m", "trend_period": 2},
    "ema_cross": {"fast": 2, "slow": 3},
    "macd": {"fast": 2, "slow": 3, "signal": 2},
    "bollinger_breakout": {"period": 5, "width": 1},
    "bollinger_reversion": {"period": 5, "width": 1},
    "donchian": {"entry": 3, "leave": 2, "atr_period": 2},
    "supertrend": {"period": 2, "factor": 1},
    "scalping": {"period": 5, "width": 1, "rsi_period": 2, "atr_period": 2, "oversold": 40},
    "intraday": {"range_minutes": 5, "entry_minutes": 60, "leave_minutes": 120},
    "swing": {"period": 2, "trend_timeframe": "5m", "trend_fast": 2, "trend_slow": 3},
    "momentum_rotation": {"timeframe": "5m", "lookback": 2},
    "grid": {"period": 10, "step_percent": "0.5"},
    "dca": {"every_hours": 1, "lookback": 10},
}
# They buy, or leave, at given times whatever the price.
BY_THE_CLOCK = {"dca", "intraday"}
# Beside markets that rise for ever a trend never turns, and these leave by their exit plan alone.
NEVER_LEAVING = {"manual", "swing", "momentum_rotation", "grid", "dca"}
EVERY_STRATEGY = [pytest.param(name, values, id=f"{name}-{size}") for name in sorted(LIBRARY) for size, values in
                  (("default", {}), ("small", SMALL.get(name, {})))]  # fmt: skip


def candles_at(closes: FloatArray) -> Candles:
    """Minute candles that are flat at each close."""
    opens = np.arange(len(closes), dtype=np.int64) * 60_000
    return Candles(opens, closes, closes, closes, closes, np.ones(len(closes)))


def walk(seed: int, length: int = 1200) -> Candles:
    """A geometric random walk, one percent a candle."""
    steps = np.random.default_rng(seed).normal(0, 0.01, length)
    return candles_at(100 * np.exp(np.cumsum(steps)))


def said(strategy: Strategy[Any], candles: Candles) -> SignalArrays:
    return strategy.signals_with(candles, beside(strategy, candles))


def beside(strategy: Strategy[Any], candles: Candles) -> Others:
    """Whatever else the strategy looks at: always rising."""
    facts = {}
    for one in strategy.informative:
        length_ms = one.timeframe.seconds * 1000
        opens, close = np.arange(-300, 300, dtype=np.int64) * length_ms, np.arange(1.0, 601.0)
        facts[one] = Candles(opens, close, close, close, close, np.ones(600))
    return Others(candles, Timeframe.M1, Facts(facts))


def kinds(strategy: Strategy[Any], closes: list[float]) -> list[SignalKind]:
    signals = said(strategy, candles_at(np.array(closes, dtype=np.float64)))
    return [signals.kind_at(index) for index in range(len(closes))]


class Peeking(Strategy[Parameters]):
    """Buys exactly when the next candle closes higher."""

    name, title, parameters_type = "peeking", "Peeking", Parameters
    warm_up = 1

    def signals(self, candles: Candles) -> SignalArrays:
        entries = np.zeros(len(candles), dtype=np.int8)
        entries[:-1] = np.diff(candles.close) > 0
        return SignalArrays(entries, np.zeros_like(entries))


class Normalising(Peeking):
    """Leaves below the mean of a history that was not over yet."""

    name, title = "normalising", "Normalising"

    def signals(self, candles: Candles) -> SignalArrays:
        exits = (candles.close < candles.close.mean()).astype(np.int8)
        return SignalArrays(np.zeros_like(exits), exits)


class Repainting(Peeking):
    """Speaks of the newest candle only, and takes it back afterwards."""

    name, title = "repainting", "Repainting"

    def signals(self, candles: Candles) -> SignalArrays:
        entries = np.zeros(len(candles), dtype=np.int8)
        entries[-1:] = 1
        return SignalArrays(entries, np.zeros_like(entries))


@pytest.mark.parametrize(
    ("entry", "leave", "kind"),
    [
        (0, 0, K.NOTHING),
        (1, 0, K.ENTER_LONG),
        (-1, 0, K.ENTER_SHORT),
        (0, 1, K.EXIT_LONG),
        (0, -1, K.EXIT_SHORT),
        (1, 1, K.EXIT_LONG),
        (1, -1, K.EXIT_SHORT),
        (-1, 1, K.EXIT_LONG),
    ],
)
def test_an_exit_outranks_an_entry_on_the_same_candle(entry: int, leave: int, kind: SignalKind) -> None:
    arrays = SignalArrays(np.array([0, entry], dtype=np.int8), np.array([0, leave], dtype=np.int8))

    assert arrays.kind_at(0) is K.NOTHING
    assert arrays.kind_at(1) is kind


def test_a_crossover_enters_when_the_fast_average_overtakes_and_leaves_when_it_falls_back() -> None:
    # Averages over two and three: 9.5 8.5 7.5 7.5 9 11 11.5 10 8 and 9 8 7.67 8.33 10 11 10.67 9.
    closes = [10.0, 9, 8, 7, 8, 10, 12, 11, 9, 7]

    strategy = LIBRARY["sma_cross"].from_values({"fast": 2, "slow": 3})

    assert kinds(strategy, closes) == [
        K.NOTHING, K.NOTHING, K.NOTHING, K.NOTHING, K.NOTHING, K.ENTER_LONG, K.NOTHING, K.NOTHING, K.EXIT_LONG, K.NOTHING,
    ]  # fmt: skip


def test_a_reversion_enters_above_oversold_and_leaves_above_recovered() -> None:
    # The RSI over two changes: 0 0 16.7 44.4 73.7 from the third close on.
    closes = [10.0, 9, 8, 7, 7.2, 7.5, 8]

    strategy = LIBRARY["rsi_reversion"].from_values({"period": 2})

    assert kinds(strategy, closes) == [
        K.NOTHING, K.NOTHING, K.NOTHING, K.NOTHING, K.NOTHING, K.ENTER_LONG, K.EXIT_LONG,
    ]  # fmt: skip


def test_a_reversion_that_jumps_over_both_levels_does_not_enter() -> None:
    # The RSI goes from 16.7 to 64.3 in one candle.
    strategy = LIBRARY["rsi_reversion"].from_values({"period": 2})

    assert kinds(strategy, [10.0, 9, 8, 7, 7.2, 8])[-1] is K.EXIT_LONG


@pytest.mark.parametrize("closes", [[], [100.0], [100.0] * 200])
@pytest.mark.parametrize(("name", "values"), [one for one in EVERY_STRATEGY if one.values[0] not in BY_THE_CLOCK])
def test_a_market_that_does_not_move_says_nothing(name: str, values: dict[str, Any], closes: list[float]) -> None:
    assert set(kinds(LIBRARY[name].from_values(values), closes)) <= {K.NOTHING}


@pytest.mark.parametrize(("name", "values"), [one for one in EVERY_STRATEGY if one.values[0] not in NEVER_LEAVING])
def test_every_strategy_enters_and_leaves_on_a_walk(name: str, values: dict[str, Any]) -> None:
    signals = said(LIBRARY[name].from_values(values), walk(seed=1, length=4000))

    assert len(signals.entries) == len(signals.exits) == 4000
    assert {np.sign(signals.entries).max(), np.sign(signals.exits).max()} == {1}


def test_by_hand_nothing_is_ever_said_and_nothing_left_that_was_not_asked_for() -> None:
    strategy = LIBRARY["manual"].from_values({})
    signals = strategy.signals(walk(seed=1))

    assert len(signals.entries) == len(signals.exits) == 1200
    assert not signals.entries.any()
    assert not signals.exits.any()
    assert (strategy.exit_plan.stop_loss_percent, strategy.exit_plan.targets) == (None, ())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("name", "values"), EVERY_STRATEGY)
def test_no_strategy_sees_the_future(name: str, values: dict[str, Any], seed: int) -> None:
    strategy, candles = LIBRARY[name].from_values(values), walk(seed, 300)

    assert looks_ahead_at(strategy, candles, beside(strategy, candles), checks=100) is None


@pytest.mark.parametrize(
    ("strategy", "closes", "index"),
    [
        (Peeking, [1.0, 2, 3, 4], 0),
        (Peeking, [4.0, 3, 2, 3], 2),
        (Normalising, [3.0, 2, 1, 3, 3], 1),
        (Repainting, [1.0, 1, 1], 0),
    ],
)
def test_a_strategy_that_sees_the_future_is_caught_at_its_first_changed_candle(
    strategy: type[Strategy[Any]], closes: list[float], index: int
) -> None:
    candles = candles_at(np.array(closes, dtype=np.float64))

    assert looks_ahead_at(strategy.from_values({}), candles) == index


def test_a_strategy_that_sees_the_future_is_caught_on_a_long_walk_by_few_checks() -> None:
    assert looks_ahead_at(Peeking.from_values({}), walk(seed=3), checks=20) is not None


def test_no_candles_are_no_proof_against_a_strategy() -> None:
    assert looks_ahead_at(Peeking.from_values({}), candles_at(np.array([]))) is None


@pytest.mark.parametrize("values", [{}, {"fast": 2, "slow": 3}, {"fast": 10, "slow": 200}])
def test_a_crossover_needs_no_more_history_than_its_warm_up(values: dict[str, Any]) -> None:
    strategy, candles = LIBRARY["sma_cross"].from_values(values), walk(seed=11)
    whole = strategy.signals(candles)

    last = [_last_kind_of_window(strategy, candles, end) for end in range(strategy.warm_up, len(candles) + 1)]

    assert last == [whole.kind_at(end - 1) for end in range(strategy.warm_up, len(candles) + 1)]
    assert {K.ENTER_LONG, K.EXIT_LONG} <= set(last)


@pytest.mark.parametrize("period", [2, 14, 50])
def test_a_reversion_differs_after_its_warm_up_only_where_its_strength_touches_a_level(period: int) -> None:
    strategy, candles = LIBRARY["rsi_reversion"].from_values({"period": period}), walk(seed=12, length=2000)
    whole, strength = strategy.signals(candles), rsi(candles.close, period)
    levels = np.array([strategy.parameters.oversold, strategy.parameters.recovered])
    is_clear = np.abs(strength[:, None] - levels).min(axis=1) > 0.5

    clear = [end for end in range(strategy.warm_up, len(candles) + 1) if is_clear[end - 2] and is_clear[end - 1]]
    last = [_last_kind_of_window(strategy, candles, end) for end in clear]

    assert last == [whole.kind_at(end - 1) for end in clear]
    assert len(clear) > 500
    assert K.EXIT_LONG in last


def _last_kind_of_window(strategy: Strategy[Any], candles: Candles, end: int) -> SignalKind:
    """What is said of the candle before ``end`` by somebody who sees exactly the warm-up."""
    window = candles_at(candles.close[end - strategy.warm_up : end])
    return strategy.signals(window).kind_at(len(window) - 1)


@pytest.mark.parametrize(
    ("name", "values", "warm_up"),
    [
        ("sma_cross", {}, 51),
        ("trend_filter", {}, 51),
        ("sma_cross", {"fast": 2, "slow": 3}, 4),
        ("rsi_reversion", {}, 212),  # 15 periods, a change before them and a strength before it
        ("ema_cross", {}, 216),
        ("macd", {}, 295),
        ("bollinger_breakout", {}, 21),
        ("bollinger_reversion", {}, 21),
        ("donchian", {}, 301),
        ("donchian", {"entry": 500}, 502),
        ("supertrend", {}, 691),
        ("scalping", {}, 296),
        ("intraday", {}, 1441),
        ("swing", {}, 168),
        ("momentum_rotation", {}, 2),
        ("grid", {}, 101),
        ("dca", {}, 200),
    ],
)
def test_the_warm_up_follows_the_parameters(name: str, values: dict[str, Any], warm_up: int) -> None:
    assert LIBRARY[name].from_values(values).warm_up == warm_up


@pytest.mark.parametrize(
    ("name", "values", "where", "complaint"),
    [
        ("sma_cross", {"fast": 1}, "fast", "greater than or equal to 2"),
        ("sma_cross", {"fast": 201}, "fast", "less than or equal to 200"),
        ("sma_cross", {"slow": 501}, "slow", "less than or equal to 500"),
        ("sma_cross", {"fast": 2.5}, "fast", "valid integer"),
        ("sma_cross", {"fast": "many"}, "fast", "valid integer"),
        ("sma_cross", {"fast": None}, "fast", "valid integer"),
        ("sma_cross", {"fast": True}, "fast", "greater than or equal to 2"),
        ("sma_cross", {"fast": 50, "slow": 50}, "", "wanted fast below slow, was fast=50 and slow=50"),
        ("sma_cross", {"fast": 60}, "", "wanted fast below slow, was fast=60 and slow=50"),
        ("sma_cross", {"speed": 3}, "speed", "Extra inputs are not permitted"),
        ("rsi_reversion", {"period": 1}, "period", "greater than or equal to 2"),
        ("rsi_reversion", {"period": 101}, "period", "less than or equal to 100"),
        ("rsi_reversion", {"oversold": 0}, "oversold", "greater than 0"),
        ("rsi_reversion", {"recovered": 100}, "recovered", "less than 100"),
        ("rsi_reversion", {"oversold": float("nan")}, "oversold", "less than 100"),
        ("rsi_reversion", {"recovered": float("inf")}, "recovered", "less than 100"),
        ("rsi_reversion", {"oversold": 55}, "", "wanted oversold below recovered, was oversold=55.0 and recovered=55"),
        ("sma_cross", {"stop_loss_percent": 0}, "stop_loss_percent", "greater than 0"),
        ("sma_cross", {"stop_loss_percent": 100}, "stop_loss_percent", "less than 100"),
        ("sma_cross", {"stop_loss_percent": "NaN"}, "stop_loss_percent", "finite number"),
        ("rsi_reversion", {"take_profit_percent": -1}, "take_profit_percent", "greater than 0"),
        ("rsi_reversion", {"take_profit_percent": 1000.5}, "take_profit_percent", "less than or equal to 1000"),
        ("rsi_reversion", {"take_profit_percent": "Infinity"}, "take_profit_percent", "finite number"),
    ],
)
def test_a_parameter_out_of_bounds_is_refused_by_name(
    name: str, values: dict[str, Any], where: str, complaint: str
) -> None:
    with pytest.raises(ValidationError) as refusal:
        LIBRARY[name].from_values(values)

    [problem] = refusal.value.errors()
    assert ".".join(str(part) for part in problem["loc"]) == where
    assert complaint in problem["msg"]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("sma_cross", {"fast": 2, "slow": 3}),
        ("sma_cross", {"fast": 200, "slow": 500}),
        ("sma_cross", {"fast": "20", "slow": 50.0}),
        ("rsi_reversion", {"period": 2, "oversold": 0.1, "recovered": 99.9}),
        ("rsi_reversion", {"period": 100}),
        ("sma_cross", {"stop_loss_percent": None, "take_profit_percent": None}),
        ("sma_cross", {"stop_loss_percent": "0.01", "take_profit_percent": 1000}),
        ("sma_cross", {"stop_loss_percent": 99.99}),
    ],
)
def test_a_parameter_at_its_bounds_is_taken(name: str, values: dict[str, Any]) -> None:
    parameters = LIBRARY[name].from_values(values).parameters.model_dump()

    assert {key: float(parameters[key]) if value else None for key, value in parameters.items() if key in values} == {
        key: None if value is None else float(value) for key, value in values.items()
    }


def test_percentages_are_exact() -> None:
    parameters = LIBRARY["sma_cross"].from_values({"stop_loss_percent": 0.1}).parameters

    assert parameters.stop_loss_percent == Decimal("0.1")


@pytest.mark.parametrize("name", sorted(LIBRARY))
def test_every_strategy_is_kept_under_its_own_name_and_explains_every_parameter(name: str) -> None:
    strategy = LIBRARY[name]
    fields = strategy.parameters_type.model_fields

    assert strategy.name == name
    assert strategy.title
    assert [key for key, field in fields.items() if not (field.title and field.description)] == []
    # A choice has its values for bounds.
    assert [
        key for key, field in fields.items() if not field.metadata and field.annotation not in (Timeframe, Sides)
    ] == []


def test_parameters_cannot_be_changed_after_they_were_checked() -> None:
    parameters = LIBRARY["sma_cross"].from_values({}).parameters

    with pytest.raises(ValidationError, match="frozen"):
        parameters.fast = 400
