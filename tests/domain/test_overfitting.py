"""How much of a Sharpe ratio is luck: the papers' own examples, cases by hand, and noise."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.candles import FloatArray
from domain.overfitting import (
    deflated_sharpe,
    deflated_sharpe_of,
    independent_trials,
    least_length,
    luckiest_sharpe,
    overfitting,
    probabilistic_sharpe,
    probabilistic_sharpe_of,
)
from domain.statistics import kurtosis, sharpe, skew

YEARLY = math.sqrt(250)


def noise(seed: int, length: int, count: int) -> FloatArray:
    return np.random.default_rng(seed).normal(0, 0.01, (length, count))


def test_two_years_of_a_hedge_fund_are_less_certain_than_a_normal_distribution_says() -> None:
    # The example of the paper of 2012: 24 months, a ratio of 0.458 a month, far from normal.
    assert probabilistic_sharpe_of(0.458, 24) == pytest.approx(0.982, abs=5e-4)
    assert probabilistic_sharpe_of(0.458, 24, -2.448, 10.164) == pytest.approx(0.913, abs=5e-4)
    assert math.isnan(probabilistic_sharpe_of(0.458, 1))


def test_the_probability_is_that_of_the_moments_of_the_returns() -> None:
    returns = noise(3, 250, 1)[:, 0] + 0.001
    found = probabilistic_sharpe(returns, 0.05)
    assert found == probabilistic_sharpe_of(sharpe(returns, 1), 250, skew(returns), kurtosis(returns) + 3, 0.05)
    assert 0.5 < found < 1
    assert probabilistic_sharpe(np.append(returns, np.nan), 0.05) == found


@pytest.mark.parametrize(("periods", "years"), [(252, 2.73), (52, 2.83), (12, 3.24)])
def test_a_ratio_of_two_against_one_takes_so_many_years(periods: int, years: float) -> None:
    root = math.sqrt(periods)
    assert least_length(2 / root, benchmark=1 / root) / periods == pytest.approx(years, abs=0.005)
    assert least_length(1 / root, benchmark=1 / root) == math.inf


def test_the_least_length_is_where_one_is_just_so_confident() -> None:
    length = least_length(0.1, -0.5, 6.0, benchmark=0.02, confidence=0.9)
    assert probabilistic_sharpe_of(0.1, math.ceil(length), -0.5, 6.0, 0.02) >= 0.9
    assert probabilistic_sharpe_of(0.1, math.floor(length), -0.5, 6.0, 0.02) < 0.9


def test_a_ratio_of_two_and_a_half_deflates_as_in_the_paper_of_2014() -> None:
    # Five years of daily returns, yearly ratio 2.5, variance of the yearly ratios 1/2.
    assert luckiest_sharpe(100, 0.5 / 250) == pytest.approx(0.1132, abs=5e-5)
    assert deflated_sharpe_of(2.5 / YEARLY, 1250, -3, 10, 100, 0.5 / 250) == pytest.approx(0.9004, abs=5e-5)
    # 46 trials would have been the most to be 95 % sure of it; of normal returns 88.
    assert deflated_sharpe_of(2.5 / YEARLY, 1250, -3, 10, 46, 0.5 / 250) == pytest.approx(0.9505, abs=5e-5)
    assert deflated_sharpe_of(2.5 / YEARLY, 1250, 0, 3, 88, 0.5 / 250) == pytest.approx(0.9505, abs=5e-5)


def test_the_luckiest_of_normal_ratios_is_about_as_lucky_as_expected() -> None:
    drawn = np.random.default_rng(1).normal(0, 0.3, (4000, 50)).max(axis=1).mean()
    # The formula is the limit of many trials.
    assert luckiest_sharpe(50, 0.09) == pytest.approx(drawn, rel=0.02)
    assert luckiest_sharpe(1, 0.09) == 0


def test_the_best_of_trials_is_deflated_by_all_of_them() -> None:
    table = noise(5, 500, 30)
    found = deflated_sharpe(table, are_independent=True)
    ratios = np.array([sharpe(column, 1) for column in table.T])
    column = table[:, found.best]
    assert (found.best, found.trials) == (int(ratios.argmax()), 30)
    assert found.sharpe == pytest.approx(ratios.max(), rel=1e-12)
    assert found.variance == pytest.approx(ratios.var(ddof=1), rel=1e-12)
    assert found.probability == pytest.approx(
        deflated_sharpe_of(ratios.max(), 500, skew(column), kurtosis(column) + 3, 30, ratios.var(ddof=1)), rel=1e-9
    )
    assert found.probability < 0.9 < probabilistic_sharpe(column)


def test_a_trial_that_never_traded_has_no_ratio_and_is_not_counted() -> None:
    table = noise(5, 500, 30)
    idle = np.column_stack((np.zeros(500), table))
    assert deflated_sharpe(idle, are_independent=True).probability == pytest.approx(
        deflated_sharpe(table, are_independent=True).probability, rel=1e-12
    )
    assert math.isnan(deflated_sharpe(np.zeros((500, 3))).probability)


def test_trials_that_repeat_each_other_count_as_fewer() -> None:
    table = noise(2, 2000, 10)
    assert independent_trials(table) == pytest.approx(10, abs=0.2)
    assert independent_trials(np.repeat(table[:, :1], 10, axis=1)) == pytest.approx(1)
    # Pairs of the same: one in nine others is a twin.
    assert independent_trials(np.repeat(table[:, :5], 2, axis=1)) == pytest.approx(1 / 9 + 8 / 9 * 10, abs=0.2)
    assert independent_trials(table[:, :1]) == 1


def test_what_is_best_in_one_half_and_worst_in_the_other_is_overfitted() -> None:
    table = np.array([[0.02, -0.02], [0.01, -0.01], [-0.02, 0.02], [-0.01, 0.01]])
    found = overfitting(table, parts=2)
    assert found.probability == 1
    np.testing.assert_allclose(found.logits, [math.log(0.5)] * 2)
    ratio = 0.015 / np.std([0.02, 0.01], ddof=1)
    np.testing.assert_allclose(found.before, [ratio, ratio])
    np.testing.assert_allclose(found.after, [-ratio, -ratio])
    assert found.loss == 1


def test_what_is_best_in_both_halves_is_not_overfitted() -> None:
    found = overfitting(np.array([[0.02, -0.02], [0.01, -0.01], [0.02, -0.02], [0.01, -0.01]]), parts=2)
    assert (found.probability, found.loss) == (0, 0)
    np.testing.assert_allclose(found.logits, [math.log(2)] * 2)


def test_every_division_into_halves_is_counted_once() -> None:
    table = noise(9, 36, 5)
    found = overfitting(table, parts=6)
    by_hand = []
    for chosen in itertools.combinations(range(6), 3):
        inside = np.concatenate([table[part * 6 : part * 6 + 6] for part in chosen])
        outside = np.concatenate([table[part * 6 : part * 6 + 6] for part in range(6) if part not in chosen])
        ratios = [[sharpe(column, 1) for column in half.T] for half in (inside, outside)]
        best = int(np.argmax(ratios[0]))
        rank = sorted(ratios[1]).index(ratios[1][best]) + 1
        by_hand.append((ratios[0][best], ratios[1][best], math.log(rank / 6 / (1 - rank / 6))))
    told = sorted(zip(found.before.tolist(), found.after.tolist(), found.logits.tolist(), strict=True))
    np.testing.assert_allclose(told, sorted(by_hand), rtol=1e-9)
    assert found.probability == np.mean([one[2] <= 0 for one in by_hand])


def test_choosing_among_noise_is_overfitting_half_of_the_time() -> None:
    found = [overfitting(noise(seed, 320, 20), parts=8).probability for seed in range(30)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.05)


def test_choosing_what_is_truly_better_is_not() -> None:
    table = noise(1, 1000, 20)
    table[:, 7] += 0.004
    found = overfitting(table)
    assert (found.probability, found.loss, len(found.logits)) == (0, 0, 12_870)
    assert deflated_sharpe(table).best == 7
    assert deflated_sharpe(table).probability > 0.999


def test_what_is_no_table_of_trials_is_refused() -> None:
    with pytest.raises(ValueError, match="wanted at least 2 trials of 32 returns, was 1 of 100"):
        overfitting(noise(1, 100, 1))
    with pytest.raises(ValueError, match="wanted an even number of parts, was 3"):
        overfitting(noise(1, 100, 2), parts=3)
    with pytest.raises(ValueError, match=r"wanted periods by trials, was an array of shape \(100,\)"):
        deflated_sharpe(np.zeros(100))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(2, 12), parts=st.sampled_from([2, 4, 6]))
def test_the_order_of_the_trials_does_not_matter(seed: int, count: int, parts: int) -> None:
    table = noise(seed, 60, count)
    one, other = overfitting(table, parts), overfitting(table[:, ::-1], parts)
    assert 0 <= one.probability <= 1
    assert one.probability == other.probability
    np.testing.assert_allclose(np.sort(one.logits), np.sort(other.logits))
