"""What a search may try and tries next, and what one trial comes to."""

from __future__ import annotations

import importlib.util
import itertools
from dataclasses import replace
from decimal import Decimal
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from backtesting.engine import backtest
from backtesting.engine.inputs import Settings
from backtesting.research.search import CannotSearch, SearchMethod, at_work, suggest
from backtesting.research.space import MOST_COMBINATIONS, Space
from backtesting.research.trials import Objective, Span, TrialFacts, TrialState, clock_of, run_of, trial
from domain.candles import Candles, Timeframe
from domain.informative import Facts, Informative
from domain.strategy import Parameters, SignalArrays, Strategy
from strategies.library import LIBRARY
from strategies.library.donchian import Donchian
from strategies.library.ema_cross import EmaCross
from strategies.library.sma_cross import SmaCross
from strategies.library.trend_filter import TrendFilter
from tests.backtesting.tape import HOUR_MS, drifting

OPTUNA = pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="optuna is not installed")
COSTLY = Settings(maker_fee=Decimal("0.001"), taker_fee=Decimal("0.001"))
PAIRS = {"fast": [5, 10, 20], "slow": {"low": 10, "high": 30, "step": 10}}


class ChoosyParameters(Parameters):
    kind: Literal["a", "b"] = "a"
    is_bold: bool = False
    even: int = Field(default=2, ge=2, le=10, multiple_of=2)
    part: float = Field(default=0.5, gt=0, lt=1)


class Choosy(Strategy[ChoosyParameters]):
    name = "choosy"
    title = "Choosy"
    parameters_type = ChoosyParameters

    @property
    def warm_up(self) -> int:
        return self.parameters.even

    def signals(self, candles: Candles) -> SignalArrays:
        none = np.zeros(len(candles), np.int8)
        return SignalArrays(none, none)


# The space.


def test_a_range_and_a_list_become_values_within_the_bounds_of_the_parameter() -> None:
    space = Space(
        SmaCross, {"fast": [20, 5, 10], "slow": {"low": 20, "high": 45, "step": 10}}, {"stop_loss_percent": 3}
    )
    assert [axis.values for axis in space.axes] == [(5, 10, 20), (20, 30, 40)]
    assert (space.size, space.is_listable) == (9, True)
    # 20 and 20 is the one pair that is none.
    accepted = [space.nth(number) for number in range(9)]
    assert accepted[-4:] == [(1.0, 2.0), (2.0, 1.0), (2.0, 2.0), None]
    assert list(space.accepted) == accepted[:-1]
    assert space.values_at((0.0, 2.0)) == {"stop_loss_percent": 3, "fast": 5, "slow": 40}
    assert space.point_of({"stop_loss_percent": 3, "fast": 5, "slow": 40}) == (0.0, 2.0)
    assert space.warm_up == 41


def test_what_is_left_out_comes_from_the_parameter_s_own_bounds() -> None:
    space = Space(Choosy, {"even": {}, "kind": {}, "is_bold": {}})
    assert [axis.values for axis in space.axes] == [(2, 4, 6, 8, 10), ("a", "b"), (False, True)]
    assert [axis.is_ordered for axis in space.axes] == [True, False, False]
    assert Space(EmaCross, {"sides": {}}).axes[0].values == ("LONG", "SHORT", "BOTH")
    assert Space(SmaCross, {"fast": {"high": 4}}).axes[0].values == (2, 3, 4)
    # Whole numbers that must be above 0 begin with 1; steps are exact.
    assert Space(LIBRARY["supertrend"], {"factor": {"high": 0.8, "step": 0.1}}).axes[0].values == (0.5, 0.6, 0.7, 0.8)
    assert Space(SmaCross, {"stop_loss_percent": [None, 1, 2.5]}).axes[0].values == (None, 1.0, 2.5)


def test_a_parameter_with_a_fraction_and_no_step_may_be_any_number_between() -> None:
    space = Space(Choosy, {"part": {"low": 0.25, "high": 0.75}})
    assert (space.size, space.is_listable, space.axes[0].values) == (None, False, ())
    with pytest.raises(ValueError, match="wanted a step for each number to go over all, was part"):
        suggest(SearchMethod.GRID, space, 1, 0)


@pytest.mark.parametrize(
    ("said", "fixed", "complaint"),
    [
        ({"speed": [1]}, {}, r"wanted a parameter of sma_cross \(stop_loss_percent, .*fast, slow\), was speed"),
        ({"fast": [5]}, {"speed": 1}, "was speed"),
        ({"fast": [5]}, {"fast": 5}, "wanted each parameter either searched or fixed, was both: fast"),
        ({}, {}, "wanted at least 1 parameter to search, was 0"),
        (
            {"fast": [5, 500]},
            {},
            r"wanted fast within its bounds \(Input should be less than or equal to 200\), was 500",
        ),
        ({"fast": {"low": 1, "high": 9}}, {}, "fast within its bounds .*greater than or equal to 2.*, was 1"),
        ({"fast": {"low": 9, "high": 5}}, {}, "wanted low up to high by a step above 0 for fast, was 9 to 5 by 1"),
        ({"fast": {"low": 5, "high": 9, "step": 0}}, {}, "was 5 to 9 by 0"),
        ({"fast": {"low": 5, "high": 9, "step": 0.5}}, {}, "wanted whole numbers for fast, was 5 to 9 by 0.5"),
        ({"fast": {"low": "x", "high": 9}}, {}, "wanted numbers for fast, was 'x'"),
        ({"fast": {"from": 5}}, {}, "wanted low, high and step for fast, was from"),
        ({"fast": 5}, {}, "wanted a list of values or a mapping of low, high and step for fast, was 5"),
        ({"fast": "5,6"}, {}, "was '5,6'"),
        ({"fast": [5, 5]}, {}, "wanted each value of fast once and at least 1, was 5, 5"),
        ({"fast": []}, {}, "was none"),
        (
            {"stop_loss_percent": {"low": 1, "high": 99, "step": 0.0001}},
            {},
            "wanted at most 100000 values of stop_loss_p",
        ),
        (
            {"stop_loss_percent": {"high": 5}},
            {},
            "wanted low of stop_loss_percent, for it has no such bound of its own",
        ),
    ],
)
def test_a_space_that_cannot_be_is_refused_by_name(said: Any, fixed: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Space(SmaCross, said, fixed)


def test_a_space_in_which_nothing_fits_together_is_refused_with_the_strategy_s_word() -> None:
    space = Space(SmaCross, {"fast": [50, 60], "slow": [20, 30]})
    with pytest.raises(ValueError, match="wanted a combination that sma_cross takes, was none among 4"):
        suggest(SearchMethod.GRID, space, 1, 0)
    wide = Space(SmaCross, {"fast": [50], "slow": [20], "stop_loss_percent": {"low": 1, "high": 2}})
    with pytest.raises(ValueError, match="none in 1000 tries: .*wanted fast below slow, was fast=50 and slow=20"):
        suggest(SearchMethod.RANDOM, wide, 1, 0)


def test_no_grid_is_longer_than_anybody_would_wait() -> None:
    space = Space(SmaCross, {"fast": {}, "slow": {}, "stop_loss_percent": {"low": 1, "high": 11, "step": 1}})
    assert space.size == 199 * 498 * 11 > MOST_COMBINATIONS
    with pytest.raises(ValueError, match="wanted at most 1000000 combinations to go over all, was 1090122"):
        suggest(SearchMethod.GRID, space, 1, 0)
    assert suggest(SearchMethod.RANDOM, space, 1, 0) is not None


# What is tried next.


def test_a_grid_is_every_combination_that_the_strategy_takes_and_then_nothing() -> None:
    space = Space(SmaCross, PAIRS)
    found = [suggest(SearchMethod.GRID, space, 7, number) for number in range(7)]
    assert found == [
        {"fast": fast, "slow": slow} for fast, slow in itertools.product((5, 10, 20), (10, 20, 30)) if fast < slow
    ] + [None]  # fmt: skip


def test_drawn_from_a_list_each_comes_once_in_an_order_of_the_seed() -> None:
    space = Space(SmaCross, PAIRS)
    one, other = ([suggest(SearchMethod.RANDOM, space, seed, number) for number in range(7)] for seed in (1, 2))
    assert one[-1] is None
    assert one != other
    assert sorted(map(str, one)) == sorted(map(str, other))
    assert one[3] == suggest(SearchMethod.RANDOM, Space(SmaCross, PAIRS), 1, 3)


def done_to(number: int, space: Space, seed: int = 3) -> list[TrialFacts]:
    """A search by TPE for a small fast average and a middling stop, after so many trials."""
    done: list[TrialFacts] = []
    for one in range(number):
        values = suggest(SearchMethod.TPE, space, seed, one, done)
        assert values is not None
        worth = -abs(values["fast"] - 7) - abs(values["stop_loss_percent"] - 3)
        done.append(TrialFacts(values, worth, number=one))
    return done


@OPTUNA
def test_the_estimator_finds_what_is_good_sooner_than_chance() -> None:
    space = Space(SmaCross, {"fast": {"high": 100}, "stop_loss_percent": {"low": 1, "high": 9}}, {"slow": 200})
    best = max(one.value or -99 for one in done_to(50, space))
    drawn = [suggest(SearchMethod.RANDOM, space, 3, number) for number in range(50)]
    chance = max(-abs(one["fast"] - 7) - abs(one["stop_loss_percent"] - 3) for one in drawn if one)
    assert best > -1.5
    assert best > chance


@OPTUNA
def test_a_search_goes_on_the_same_wherever_it_was_left() -> None:
    space = Space(SmaCross, {"fast": {"high": 40}, "stop_loss_percent": {"low": 1, "high": 9}}, {"slow": 50})
    done = done_to(16, space)
    again = Space(SmaCross, {"fast": {"high": 40}, "stop_loss_percent": {"low": 1, "high": 9}}, {"slow": 50})
    for number in (0, 5, 12, 15):
        known = done[:number]
        assert suggest(SearchMethod.TPE, again, 3, number, known[::-1]) == done[number].values
    assert suggest(SearchMethod.TPE, again, 4, 15, done[:15]) != done[15].values


@OPTUNA
def test_two_at_work_at_once_look_at_different_places() -> None:
    space = Space(SmaCross, {"fast": {"low": 2, "high": 6}}, {"slow": 50})
    done = [TrialFacts({"fast": fast, "slow": 50}, float(-fast), number=fast) for fast in (2, 3)]
    claimed = [at_work({"fast": 4, "slow": 50}, 4), at_work({"fast": 5, "slow": 50}, 5)]
    assert suggest(SearchMethod.TPE, space, 1, 6, done + claimed) == {"slow": 50, "fast": 6}
    assert suggest(SearchMethod.TPE, space, 1, 7, [*done, *claimed, at_work({"fast": 6, "slow": 50}, 6)]) is None


@OPTUNA
def test_the_estimator_takes_switches_and_choices_and_never_what_is_refused_or_was_tried() -> None:
    said = {"fast": {"low": 2, "high": 9}, "slow": {"low": 3, "high": 10}, "sides": {}, "stop_loss_percent": [None, 2]}
    space = Space(EmaCross, said)
    done: list[TrialFacts] = []
    for number in range(40):
        values = suggest(SearchMethod.TPE, space, 9, number, done)
        assert values is not None
        assert values["fast"] < values["slow"]
        # The best lies where most is refused.
        worth = values["fast"] - 0.9 * values["slow"] + (values["sides"] == "SHORT")
        done.append(TrialFacts(values, worth if number % 5 else None, number=number))
    assert len({str(one.values) for one in done}) == 40


def test_without_optuna_the_estimator_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CannotSearch, match=r"wanted optuna .* was not installed: \./r3edge install optimise"):
        suggest(SearchMethod.TPE, Space(SmaCross, PAIRS), 1, 0)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    number=st.integers(0, 40),
    low=st.integers(2, 60),
    width=st.integers(0, 60),
    step=st.integers(1, 9),
    is_endless=st.booleans(),
)
def test_whatever_is_drawn_the_strategy_takes(
    seed: int, number: int, low: int, width: int, step: int, is_endless: bool
) -> None:
    stop: dict[str, float] = {"low": 1, "high": 2} if is_endless else {"low": 1, "high": 2, "step": 0.5}
    said = {"fast": {"low": low, "high": low + width, "step": step}, "slow": {"low": 30}, "stop_loss_percent": stop}
    space = Space(SmaCross, said)
    values = suggest(SearchMethod.RANDOM, space, seed, number)
    assert values is not None
    SmaCross.from_values(values)
    assert low <= values["fast"] <= low + width
    assert (values["fast"] - low) % step == 0
    assert 1 <= values["stop_loss_percent"] <= 2


# One trial.


def test_a_trial_comes_to_what_its_backtest_comes_to() -> None:
    market, values = drifting(1500), {"fast": 5, "slow": 20}
    facts = trial([market], COSTLY, SmaCross, values, Objective("total_return"), number=4)
    result = backtest([replace(market, strategy=SmaCross.from_values(values))], COSTLY)
    ended = [one for one in result.trades if not one.is_open]
    assert (facts.number, facts.state, facts.values) == (4, TrialState.DONE, values)
    assert facts.figures["trades"] == len(ended) > 10
    assert facts.value == facts.figures["total_return"] == result.equity[-1] / 10_000 - 1
    assert facts.figures["win_rate"] == sum(one.pnl > 0 for one in ended) / len(ended)
    assert facts.figures["average_return"] == pytest.approx(sum(one.gain for one in ended) / len(ended), rel=1e-12)
    peaks = np.maximum.accumulate(np.concatenate(([10_000.0], result.equity)))[1:]
    assert facts.figures["max_drawdown"] == pytest.approx((result.equity / peaks).min() - 1, abs=1e-15)
    assert len(facts.returns) == 1500
    assert np.prod(1 + facts.returns.astype(np.float64)) == pytest.approx(result.equity[-1] / 10_000, abs=1e-6)


@pytest.mark.parametrize("name", ["sma_cross", "donchian", "rsi_reversion"])
def test_a_trial_is_told_as_a_run_of_it_is(name: str) -> None:
    figures = pytest.importorskip("backtesting.figures")
    market = replace(drifting(2500), strategy=LIBRARY[name].from_values({}))
    told = figures.figures_of(backtest([market], COSTLY), COSTLY, [market])["stats"]
    facts = trial([market], COSTLY, LIBRARY[name], {}, Objective())
    assert facts.figures["sharpe"] is not None
    for figure, value in facts.figures.items():
        assert value == pytest.approx(told[figure], rel=1e-9), figure


def test_trials_of_one_span_have_returns_of_the_same_times() -> None:
    market = drifting(5000)
    short, long = (trial([market], COSTLY, SmaCross, {"fast": 5, "slow": slow}, Objective()) for slow in (10, 400))
    assert len(short.returns) == len(long.returns) == 1667
    assert not long.returns[:133].any()
    assert long.returns.nbytes <= 8000


def test_parameters_that_the_strategy_refuses_are_told_and_no_error() -> None:
    facts = trial([drifting(100)], COSTLY, SmaCross, {"fast": 30, "slow": 20}, Objective(), number=2)
    assert (facts.state, facts.value, facts.number) == (TrialState.REFUSED, None, 2)
    assert facts.why == "wanted fast below slow, was fast=30 and slow=20"


def test_a_trial_that_trades_too_little_is_worth_nothing() -> None:
    market, values = drifting(1500), {"fast": 5, "slow": 20}
    count = int(trial([market], COSTLY, SmaCross, values, Objective()).figures["trades"] or 0)
    assert trial([market], COSTLY, SmaCross, values, Objective(min_trades=count)).value is not None
    assert trial([market], COSTLY, SmaCross, values, Objective(min_trades=count + 1)).value is None


def test_an_objective_of_another_name_is_refused_and_a_ratio_without_loss_is_a_hundred() -> None:
    with pytest.raises(ValueError, match=r"wanted one of the objectives sharpe, .*, was luck"):
        Objective("luck")
    figures = {"trades": 3, "total_return": 0.1, "profit_factor": None, "win_rate": None}
    assert Objective("profit_factor").of(figures) == 100
    assert Objective("profit_factor").of({**figures, "profit_factor": 1e9}) == 100
    assert Objective("profit_factor").of({**figures, "total_return": 0.0}) is None
    assert Objective("win_rate").of(figures) is None


def test_within_a_span_nothing_after_it_is_seen_and_the_warm_up_lies_before() -> None:
    market, values = drifting(1000), {"fast": 5, "slow": 20}
    span = Span(300 * HOUR_MS, 700 * HOUR_MS)
    candles = market.candles
    later = np.where(candles.open_ms >= span.until_ms, 3.0, 1.0)
    bent = replace(
        candles, open=candles.open * later, high=candles.high * later, low=candles.low * later, close=candles.close * later
    )  # fmt: skip
    result = run_of([market], COSTLY, SmaCross, values, span)
    other = run_of([replace(market, candles=bent)], COSTLY, SmaCross, values, span)
    assert result.trades == other.trades
    assert (result.open_ms[0], result.open_ms[-1], len(result.equity)) == (300 * HOUR_MS, 699 * HOUR_MS, 400)
    whole = run_of([market], COSTLY, SmaCross, values)
    begun = [one.entry_at for one in whole.trades if 310 * 3600 <= one.entry_at.timestamp() < 690 * 3600]
    assert set(begun) <= {one.entry_at for one in result.trades}
    assert len(begun) > 5


def test_a_span_without_candles_before_it_begins_when_the_warm_up_is_over() -> None:
    result = run_of([drifting(1000)], COSTLY, SmaCross, {"fast": 5, "slow": 20}, Span(0, 100 * HOUR_MS))
    assert (result.open_ms[0], len(result.equity)) == (21 * HOUR_MS, 79)
    facts = trial([drifting(1000)], COSTLY, SmaCross, {"fast": 5, "slow": 20}, Objective(), span=Span(0, 100 * HOUR_MS))
    assert len(facts.returns) == 100


def test_a_feed_beside_is_seen_however_much_of_it_the_parameters_need() -> None:
    market, day_ms = drifting(24 * 90), 24 * HOUR_MS
    daily = drifting(90, 3).candles
    days = replace(daily, open_ms=np.arange(90) * day_ms)
    beside = Facts({Informative(Timeframe.D1, warm_up=1): days})
    values = {"fast": 5, "slow": 20, "trend_period": 10}
    facts = trial([replace(market, facts=beside)], COSTLY, TrendFilter, values, Objective())
    strategy = TrendFilter.from_values(values)
    named = replace(market, strategy=strategy, facts=Facts({strategy.informative[0]: days}))
    assert facts.figures["trades"] == len([one for one in backtest([named], COSTLY).trades if not one.is_open]) > 0


def test_several_markets_are_one_account_in_a_trial_too() -> None:
    markets = [drifting(600, 1, "A"), drifting(800, 2, "B")]
    facts = trial(
        markets, COSTLY, Donchian, {"entry": 10, "leave": 5}, Objective("cagr"), span=Span(200 * HOUR_MS, 10**12)
    )
    result = run_of(markets, COSTLY, Donchian, {"entry": 10, "leave": 5}, Span(200 * HOUR_MS, 10**12))
    assert {one.symbol for one in result.trades} == {"A", "B"}
    assert facts.figures["final_equity"] == result.equity[-1]
    assert len(clock_of(markets)) == len(facts.returns) + 200 == 800
