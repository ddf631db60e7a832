"""Other orders, other draws, other neighbours, other prices: the bands of what might have come of it."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backtesting.engine import backtest
from backtesting.engine.inputs import Settings
from backtesting.research.monte_carlo import (
    LEVELS,
    Bands,
    Blocks,
    bands_of_trials,
    block_length,
    jittered,
    noised,
    noised_markets,
    redrawn,
    redrawn_in_blocks,
    shuffled,
    trade_returns,
)
from backtesting.research.space import Space
from backtesting.research.trials import Objective, TrialFacts, trial
from domain.candles import Candles, FloatArray
from strategies.library.ema_cross import EmaCross
from strategies.library.sma_cross import SmaCross
from tests.backtesting.tape import drifting

COSTLY = Settings(maker_fee=Decimal("0.001"), taker_fee=Decimal("0.001"))
SOME = np.array([0.1, -0.2, 0.05, 0.0, -0.1])


def returns(seed: int = 1, size: int = 200) -> FloatArray:
    return np.random.default_rng(seed).normal(0.001, 0.02, size)


def same(one: Bands, other: Bands) -> bool:
    return json.dumps(one.told()) == json.dumps(other.told())


# Trades.


def test_what_trades_did_to_the_account_compounds_to_what_it_came_to() -> None:
    market = replace(drifting(1500), strategy=SmaCross.from_values({"fast": 5, "slow": 20}))
    result = backtest([market], replace(COSTLY, is_closed_at_end=True))
    found = trade_returns(result, COSTLY)
    assert len(found) == len(result.trades) > 10
    assert found[0] == pytest.approx(result.trades[0].pnl / 10_000, rel=1e-12)
    assert found[1] == pytest.approx(result.trades[1].pnl / (10_000 + result.trades[0].pnl), rel=1e-12)
    assert 10_000 * np.prod(1 + found) == pytest.approx(result.equity[-1], rel=1e-12)


def test_shuffled_trades_end_alike_and_fall_between_the_best_and_the_worst_order() -> None:
    bands = shuffled(SOME, paths=2000, seed=3)
    end = 1.1 * 0.8 * 1.05 * 0.9
    np.testing.assert_allclose(bands.final_return, end - 1, rtol=1e-12)
    np.testing.assert_allclose(bands.curves[:, -1], end, rtol=1e-12)
    # Both losses in a row from the start or after the gains; at best they stand apart, and the gains between.
    assert bands.drawdown.min() == pytest.approx(0.8 * 0.9 - 1)
    assert bands.drawdown.max() == pytest.approx(-0.2)
    assert (bands.loss, bands.paths) == (1.0, 2000)


def test_ruin_is_how_often_the_fall_was_as_deep() -> None:
    # Two losses of a tenth and a fifth make 28 %, wherever they stand next to each other: two of the three places of a zero.
    bands = shuffled(np.array([-0.1, 0.3, -0.2]), paths=30_000, seed=1, ruin_at=0.25)
    assert bands.ruin == pytest.approx(2 / 3, abs=0.01)
    assert shuffled(np.array([-0.1, 0.3, -0.2]), seed=1, ruin_at=0.29).ruin == 0
    assert shuffled(np.array([0.5, -0.5]), seed=1, ruin_at=0.5).ruin == 1


def test_drawn_with_replacement_the_ends_spread_as_they_must() -> None:
    bands = redrawn(np.array([0.1, -0.1, -0.1]), paths=40_000, seed=5)
    # Of three draws none gains in 8 of 27 cases, one in 12, two in 6, all in 1.
    np.testing.assert_allclose(bands.final_return, [-0.271, -0.271, -0.109, 0.089, 0.089], atol=1e-12)
    assert bands.loss == pytest.approx(20 / 27, abs=0.01)
    assert bands.steps.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(bands.curves[:, 1], [0.9, 0.9, 0.9, 1.1, 1.1])


def test_what_is_lost_stays_lost() -> None:
    bands = shuffled(np.array([-1.5, 0.5, 0.5]), paths=100, seed=1)
    np.testing.assert_array_equal(bands.final_return, -1)
    np.testing.assert_array_equal(bands.drawdown, -1)
    assert bands.ruin == 1


# Blocks.


def test_blocks_keep_neighbours_together_and_the_last_has_the_first_after_it() -> None:
    rising = np.arange(50) / 1000
    whole = redrawn_in_blocks(rising, paths=50, seed=2, kind=Blocks.CIRCULAR, block=50)
    # One block is all of them, begun anywhere: every path ends where the returns end.
    np.testing.assert_allclose(whole.final_return, np.prod(1 + rising) - 1, rtol=1e-12)
    single = redrawn_in_blocks(rising, paths=4000, seed=2, kind=Blocks.STATIONARY, block=1)
    spread = redrawn(rising, paths=4000, seed=2)
    np.testing.assert_allclose(single.final_return, spread.final_return, rtol=0.02)


@pytest.mark.parametrize("kind", list(Blocks))
def test_long_blocks_of_what_repeats_itself_spread_more_than_single_draws(kind: Blocks) -> None:
    waves = np.repeat(np.tile([0.01, -0.01], 10), 25)
    blocks, single = redrawn_in_blocks(waves, seed=1, kind=kind, block=25), redrawn(waves, seed=1)
    assert np.ptp(blocks.final_return) > 2 * np.ptp(single.final_return)


def test_a_block_below_one_and_no_paths_are_refused() -> None:
    with pytest.raises(ValueError, match="wanted blocks of at least 1 return, was 0.5"):
        redrawn_in_blocks(SOME, block=0.5)
    with pytest.raises(ValueError, match="wanted at least 1 path of at least 1 return, was 0 of 5"):
        shuffled(SOME, paths=0)
    with pytest.raises(ValueError, match="was 1000 of 0"):
        redrawn_in_blocks(SOME[:0])


def test_the_length_of_blocks_is_that_of_theory_for_an_autoregression() -> None:
    # With y = rho y + e the rule aims at (2 rho / (1 - rho^2))^(2/3) n^(1/3), a hundred and fiftieth more for equal blocks.
    rho, size, found = 0.6, 4000, []
    for seed in range(12):
        noise, walk = np.random.default_rng(seed).normal(size=size), np.zeros(size)
        for place in range(1, size):
            walk[place] = rho * walk[place - 1] + noise[place]
        found.append((block_length(walk), block_length(walk, Blocks.CIRCULAR)))
    stationary, circular = np.mean(found, axis=0)
    assert stationary == pytest.approx((2 * rho / (1 - rho**2)) ** (2 / 3) * size ** (1 / 3), rel=0.12)
    assert circular / stationary == pytest.approx(1.5 ** (1 / 3), rel=1e-9)


def test_what_hangs_on_nothing_needs_no_blocks() -> None:
    assert np.mean([block_length(returns(seed, 1000)) for seed in range(12)]) < 6
    assert block_length(np.zeros(100)) == block_length(SOME) == block_length(SOME[:0]) == 1


def test_the_same_seed_says_the_same_and_another_something_else() -> None:
    for draw in (shuffled, redrawn, redrawn_in_blocks):
        assert same(draw(returns(), 50, 7), draw(returns(), 50, 7))
        assert not same(draw(returns(), 50, 7), draw(returns(), 50, 8))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 300), paths=st.integers(1, 80), way=st.integers(0, 3))
def test_bands_are_in_order_whatever_is_drawn(seed: int, size: int, paths: int, way: int) -> None:
    some = np.random.default_rng(seed).standard_t(2, size) / 20
    ways = (
        shuffled,
        redrawn,
        redrawn_in_blocks,
        lambda *given_: redrawn_in_blocks(*given_, kind=Blocks.CIRCULAR, block=7.4),
    )
    bands = ways[way](some, paths, seed)
    assert bands.curves.shape == (len(LEVELS), len(bands.steps))
    assert len(bands.steps) <= 201
    assert (bands.steps[0], bands.steps[-1]) == (0, size)
    for figure in (bands.curves, bands.final_return, bands.drawdown):
        assert (np.diff(figure, axis=0) >= -1e-12).all()
    assert (bands.curves >= 0).all()
    assert ((bands.drawdown <= 0) & (bands.drawdown >= -1)).all()
    assert 0 <= bands.ruin <= 1
    assert bands.paths == paths
    json.dumps(bands.told(), allow_nan=False)


# Neighbours.


def test_neighbours_are_a_step_away_each_once_and_never_the_values_themselves() -> None:
    space = Space(SmaCross, {"fast": {"low": 4, "high": 20, "step": 2}, "slow": [20, 25, 30]}, {"stop_loss_percent": 3})
    chosen = {"stop_loss_percent": 3, "fast": 10, "slow": 30}
    found = [jittered(space, chosen, 5, number) for number in range(6)]
    assert found[-1] is None
    assert sorted((one["fast"], one["slow"]) for one in found if one) == [
        (8, 25), (8, 30), (10, 25), (12, 25), (12, 30)
    ]  # fmt: skip
    assert all(one["stop_loss_percent"] == 3 for one in found if one)
    assert jittered(space, chosen, 5, 0) == found[0]
    # At the edge the strategy refuses some: 20 and 20.
    edge = {"stop_loss_percent": 3, "fast": 20, "slow": 25}
    near = [jittered(space, edge, 1, number) for number in range(5)]
    assert sorted((one["fast"], one["slow"]) for one in near if one) == [(18, 20), (18, 25), (18, 30), (20, 30)]
    far = [jittered(space, edge, 1, number, reach=2) for number in range(9)]
    assert len([one for one in far if one]) == 7


def test_any_number_moves_by_a_part_of_its_range_and_a_choice_stays() -> None:
    space = Space(EmaCross, {"sides": {}, "stop_loss_percent": {"low": 1, "high": 5}})
    chosen = {"sides": "SHORT", "stop_loss_percent": 1.1}
    found = [jittered(space, chosen, 3, number) or {} for number in range(40)]
    assert {one["sides"] for one in found} == {"SHORT"}
    stops = [one["stop_loss_percent"] for one in found]
    assert len(set(stops)) > 20
    assert min(stops) == 1
    assert 1.2 < max(stops) <= 1.1 + 0.05 * 4
    with pytest.raises(ValueError, match="wanted sides to be one of LONG, SHORT, BOTH, was 'UP'"):
        jittered(space, {**chosen, "sides": "UP"}, 3, 0)


# Prices.


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), fraction=st.floats(0, 3), flat=st.booleans())
def test_noisy_candles_are_candles_still(seed: int, fraction: float, flat: bool) -> None:
    candles = drifting(60, seed).candles
    if flat:
        candles = replace(candles, high=candles.open, low=candles.open, close=candles.open)
    found = noised(candles, fraction, seed)
    assert (found.low > 0).all()
    for one in (found.open, found.close):
        assert ((found.low <= one) & (one <= found.high)).all()
    assert found.open_ms is candles.open_ms
    assert not flat or np.array_equal(found.close, candles.close)
    np.testing.assert_array_equal(noised(candles, fraction, seed).close, found.close)


def test_no_price_falls_by_more_than_half_of_the_low_whatever_the_noise() -> None:
    wild = np.full(500, 10.0)
    found = noised(Candles(np.arange(500), wild, wild * 20, wild / 5, wild, wild), 2, 1)
    assert found.low.min() == 1
    assert found.high.max() > 500


def test_noise_is_a_fraction_of_the_range_and_none_is_none() -> None:
    size = 20_000
    flat = np.full(size, 100.0)
    candles = Candles(np.arange(size), flat, flat + 2, flat - 2, flat, flat)
    found = noised(candles, 0.1, 1)
    assert (found.close - 100).std() == pytest.approx(0.4, rel=0.02)
    assert abs((found.close - 100).mean()) < 0.01
    assert not np.array_equal(found.open, found.close)
    same_again = noised(candles, 0, 1)
    for name in ("open", "high", "low", "close"):
        np.testing.assert_array_equal(getattr(same_again, name), getattr(candles, name))
    with pytest.raises(ValueError, match="wanted a fraction of a candle's range from 0 on, was -0.1"):
        noised(candles, -0.1, 1)


def test_each_market_of_each_trial_has_noise_of_its_own() -> None:
    market = drifting(50)
    markets = [replace(market, symbol="A", detail=market.candles), replace(market, symbol="B")]
    found = [one.candles.close.tolist() for number in range(3) for one in noised_markets(markets, 0.1, 7, number)]
    assert len({tuple(one) for one in found}) == 6
    assert [one.detail for one in noised_markets(markets, 0.1, 7, 0)] == [None, None]


def test_the_bands_of_trials_are_those_of_their_figures_and_curves() -> None:
    markets, objective = [drifting(1200)], Objective("total_return")
    done = [
        trial(noised_markets(markets, 0.2, 3, number), COSTLY, SmaCross, {"fast": 5, "slow": 20}, objective)
        for number in range(20)
    ]
    refused = trial(markets, COSTLY, SmaCross, {"fast": 50, "slow": 20}, objective)
    bands = bands_of_trials([*done, refused], ruin_at=0.01)
    totals = [one.figures["total_return"] or 0.0 for one in done]
    depths = [one.figures["max_drawdown"] or 0.0 for one in done]
    np.testing.assert_allclose(bands.final_return, np.percentile(totals, LEVELS), rtol=1e-12)
    np.testing.assert_allclose(bands.curves[:, -1] - 1, bands.final_return, atol=1e-5)
    assert bands.loss == sum(one < 0 for one in totals) / 20
    assert bands.ruin == sum(one <= -0.01 for one in depths) / 20
    assert bands.paths == 20
    with pytest.raises(ValueError, match="wanted at least 1 trial that was done, was 0"):
        bands_of_trials([TrialFacts({})])


def test_a_neighbour_that_needs_more_candles_than_there_are_gained_nothing() -> None:
    done = [
        trial([drifting(60)], COSTLY, SmaCross, {"fast": 5, "slow": slow}, Objective(min_trades=0)) for slow in (20, 80)
    ]
    gained, fell = (done[0].figures[name] or 0.0 for name in ("total_return", "max_drawdown"))
    assert gained > 0 > fell
    bands = bands_of_trials(done)
    assert (bands.final_return[2], bands.drawdown[2]) == (pytest.approx(gained / 2), pytest.approx(fell / 2))
    assert bands.loss == 0
