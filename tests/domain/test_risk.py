"""What a book may lose: cases worked out by hand, figures of real candles to 1e-8, and no figure from too little."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from domain.candles import FloatArray
from domain.risk import (
    BookRisk,
    VarMethod,
    book_risk,
    correlated_exposure,
    correlations,
    covariance,
    diversification_ratio,
    ewma_covariance,
    kelly,
    kelly_fraction,
    minimum_variance_weights,
    quantile,
    rank_correlations,
    returns_needed,
    risk_contributions,
    rolling_correlation,
    tail_mean,
)
from domain.statistics import returns_of
from tests.domain.reference import reference_columns, reference_json

PORTFOLIO = "expected/metrics/portfolio_binance_1h.json"
KELLY = "expected/metrics/kelly_vectors.json"
NAN = float("nan")
HISTORICAL, PARAMETRIC, MONTE_CARLO = VarMethod.HISTORICAL, VarMethod.PARAMETRIC, VarMethod.MONTE_CARLO


def about(value: float) -> Any:
    return pytest.approx(value, rel=1e-12, abs=1e-9)


def column(*values: float) -> FloatArray:
    """One market."""
    return np.array(values, dtype=np.float64)[:, None]


def hundred() -> FloatArray:
    """One market that moved by -50, -49 ... 49, 50 thousandths."""
    return column(*[step / 1000 for step in range(-50, 51)])


def two_markets(rows: int = 400) -> FloatArray:
    """Two markets that move together, mostly; by a percent or so."""
    draws = np.random.Generator(np.random.PCG64(7)).standard_normal((rows, 2)) / 100
    return np.column_stack([draws[:, 0], 0.8 * draws[:, 0] + 0.6 * draws[:, 1]])


def risk_of(returns: FloatArray, notionals: list[float], method: VarMethod = HISTORICAL, **fields: Any) -> BookRisk:
    return book_risk(returns, notionals, **{"method": method, "confidence": 0.95, "horizon": 1, **fields})


def test_history_says_what_was_lost_in_the_worst_twentieth() -> None:
    # Six of 101 are the worst: 50, 49 ... 45; the quantile is the sixth.
    assert risk_of(hundred(), [1000]) == BookRisk(about(45), about(47.5))


def test_a_short_loses_what_the_market_gains() -> None:
    returns = column(*[0.01] * 95, *[0.10] * 6)

    assert risk_of(returns, [-1000]) == BookRisk(about(100), about(100))
    assert risk_of(returns, [1000]).var == pytest.approx(-10, rel=1e-12)  # even then it gains


def test_what_is_long_of_a_market_and_short_of_its_twin_risks_nothing() -> None:
    twins = np.repeat(hundred(), 2, axis=1)

    for method in VarMethod:
        assert risk_of(twins, [500, -500], method) == BookRisk(about(0), about(0))


def test_history_over_a_horizon_compounds_overlapping_windows() -> None:
    returns = column(*[0.0] * 10, -0.5, -0.5, *[0.0] * 10)  # 21 windows of two: one loses 75 %, two 50 %

    found = risk_of(returns, [1000], horizon=2)

    assert found == BookRisk(about(500), about((750 + 500) / 2))


def test_a_normal_book_is_known_by_its_mean_and_deviation() -> None:
    returns = column(*[0.01, 0.03] * 10)  # mean 0.02, squares about it 1e-4
    deviation, score = math.sqrt(20e-4 / 19), 1.6448536269514722
    density = math.exp(-(score**2) / 2) / math.sqrt(2 * math.pi)

    day = risk_of(returns, [1000], PARAMETRIC)
    month = risk_of(returns, [1000], PARAMETRIC, horizon=30)

    assert day.var == pytest.approx(1000 * (score * deviation - 0.02), rel=1e-12)
    assert day.cvar == pytest.approx(1000 * (density / 0.05 * deviation - 0.02), rel=1e-12)
    assert month.var == pytest.approx(1000 * (score * deviation * 30**0.5 - 0.6), rel=1e-12)


def test_drawn_paths_come_close_to_the_normal_book_they_are_drawn_from() -> None:
    normal = risk_of(two_markets(), [1000, 500], PARAMETRIC)
    drawn = risk_of(two_markets(), [1000, 500], MONTE_CARLO, paths=200_000)

    assert drawn.var == pytest.approx(normal.var, rel=0.02)
    assert drawn.cvar == pytest.approx(normal.cvar, rel=0.02)


def test_the_same_facts_draw_the_same_figure_and_another_seed_another() -> None:
    once, again, other = (risk_of(two_markets(), [1000, 500], MONTE_CARLO, seed=seed) for seed in (0, 0, 1))

    assert once == again
    assert once != other


def test_drawn_paths_never_lose_more_than_a_market_is_worth() -> None:
    wild = column(*[1.5, -0.7] * 20)

    assert 900 < risk_of(wild, [1000], MONTE_CARLO, confidence=0.999, horizon=50).cvar < 1000
    assert risk_of(wild, [1000], PARAMETRIC, confidence=0.999, horizon=50).cvar > 1000  # which the normal book does


def test_markets_that_go_together_entirely_can_be_drawn_too() -> None:
    one, alone = hundred() / 5, risk_of(hundred() / 5, [1500], MONTE_CARLO, paths=100_000)
    together = risk_of(np.column_stack([one, one, one]), [500, 500, 500], MONTE_CARLO, paths=100_000)

    assert together.var == pytest.approx(alone.var, rel=0.02)


@pytest.mark.parametrize(
    ("method", "confidence", "horizon", "needed"),
    [
        (HISTORICAL, 0.95, 1, 20),
        (HISTORICAL, 0.9, 1, 20),
        (HISTORICAL, 0.99, 1, 100),
        (HISTORICAL, 0.99, 10, 109),
        (HISTORICAL, 0.999, 1, 1000),
        (PARAMETRIC, 0.99, 10, 20),
        (MONTE_CARLO, 0.99, 10, 20),
    ],
)
def test_history_must_have_seen_a_case_as_bad_as_is_asked_for(
    method: VarMethod, confidence: float, horizon: int, needed: int
) -> None:
    returns = np.tile(hundred(), (10, 1))
    fields = {"confidence": confidence, "horizon": horizon}

    assert returns_needed(method, confidence=confidence, horizon=horizon) == needed
    assert risk_of(returns[:needed], [1000], method, **fields).var > 0
    with pytest.raises(ValueError, match=f"wanted at least {needed} returns, was {needed - 1}"):
        risk_of(returns[: needed - 1], [1000], method, **fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"confidence": 1.0}, "wanted a confidence from 0.5 to below 1, was 1"),
        ({"confidence": 0.05}, "wanted a confidence from 0.5 to below 1, was 0.05"),
        ({"horizon": 0}, "wanted a horizon of at least 1 period, was 0"),
        ({"returns": hundred()[:, 0]}, r"wanted returns of periods by markets, was an array of shape \(101,\)"),
        ({"returns": np.vstack([hundred(), column(NAN)])}, "wanted finite returns, was some NaN or infinite"),
        ({"returns": np.vstack([hundred(), column(-1)])}, "wanted returns above -1, was -1"),
        ({"notionals": [1, 2]}, r"wanted one amount for each of 1 markets, was an array of shape \(2,\)"),
        ({"notionals": [NAN]}, "wanted finite amounts, was some NaN or infinite"),
        ({"paths": 5, "method": MONTE_CARLO}, "wanted at least 20 paths, was 5"),
    ],
)
def test_what_gives_no_figure_is_refused(change: dict[str, Any], message: str) -> None:
    asked = {"returns": hundred(), "notionals": [1000], "method": HISTORICAL, "confidence": 0.95, "horizon": 1}

    with pytest.raises(ValueError, match=message):
        book_risk(**{**asked, **change})


def test_the_worst_are_counted_by_the_rule_of_the_quantile() -> None:
    values = np.arange(21, dtype=np.float64)

    # A twentieth of 20 steps is one, also where rounding makes 1 - 0.95 a hair less or more.
    assert tail_mean(values, 0.05) == tail_mean(values, 1 - 0.95) == 0.5
    assert tail_mean(values, 1 - 0.9) == 1.0
    assert quantile(values, 0.05) == 1.0
    assert tail_mean(values[:1], 0.05) == 0.0


# What is one bet, and what is several.


def test_correlations_are_of_every_pair() -> None:
    returns = np.array([[1, 2, -1, 5], [2, 4, -2, 5], [3, 6, -3, 5], [4, 8, -4, 5]], dtype=np.float64) / 100

    expected = [[1, 1, -1, 0], [1, 1, -1, 0], [-1, -1, 1, 0], [0, 0, 0, 1]]  # who does not move goes with nobody
    np.testing.assert_allclose(correlations(returns), expected, atol=1e-12)


def test_ranks_share_their_mean_where_values_are_equal_and_do_not_see_how_far_an_outlier_is() -> None:
    returns = np.array([[1, 1], [2, 2], [2, 3], [900, 4]], dtype=np.float64)  # ranks 1 2.5 2.5 4 and 1 2 3 4

    assert rank_correlations(returns)[0, 1] == pytest.approx(4.5 / math.sqrt(4.5 * 5), rel=1e-12)


def test_one_return_has_no_correlations() -> None:
    with pytest.raises(ValueError, match="wanted at least 2 returns, was 1"):
        correlations(column(0.1))


@pytest.mark.parametrize(
    ("correlation", "notionals", "expected"),
    [
        (1.0, [300, 400], 700),
        (0.0, [300, 400], 500),
        (-1.0, [300, 400], 100),
        (1.0, [300, -300], 0),
        (-1.0, [300, -300], 600),
    ],
)
def test_exposure_counts_by_how_far_markets_go_together(
    correlation: float, notionals: list[float], expected: float
) -> None:
    matrix = np.array([[1, correlation], [correlation, 1]])

    assert correlated_exposure(matrix, notionals) == pytest.approx(expected, rel=1e-12)


def test_no_book_is_no_exposure_and_contributes_no_risk() -> None:
    matrix = np.eye(2)

    assert correlated_exposure(matrix, [0, 0]) == 0
    np.testing.assert_array_equal(risk_contributions(matrix, [0, 0]), [0, 0])
    assert diversification_ratio(matrix, [0, 0]) == 1


def test_independent_markets_are_weighed_by_the_inverse_of_their_variance() -> None:
    matrix = np.diag([1.0, 4.0])

    np.testing.assert_allclose(minimum_variance_weights(matrix), [0.8, 0.2], rtol=1e-12)
    np.testing.assert_allclose(risk_contributions(matrix, [3, 2]), [9 / 5, 16 / 5], rtol=1e-12)
    assert diversification_ratio(matrix, [3, 2]) == pytest.approx(7 / 5, rel=1e-12)


def test_a_weighted_covariance_forgets() -> None:
    returns = np.array([[1.0], [2.0], [3.0]])

    assert ewma_covariance(returns, 0.5)[0, 0] == pytest.approx(0.25 * 1 + 0.25 * 4 + 0.5 * 9, rel=1e-12)


def test_a_rolling_correlation_begins_when_its_window_is_full() -> None:
    found = rolling_correlation(np.array([1.0, 2, 3, 3, 3, 3]), np.array([1.0, 3, 2, 9, 8, 7]), 3)

    np.testing.assert_allclose(found[:3], [NAN, NAN, 0.5], rtol=1e-12)
    assert found[5] == 0  # nothing moved
    np.testing.assert_array_equal(rolling_correlation(np.ones(2), np.ones(2), 3), [NAN, NAN])
    with pytest.raises(ValueError, match="wanted a window of at least 2, was 1"):
        rolling_correlation(np.ones(2), np.ones(2), 1)


# Kelly.


@pytest.mark.parametrize(
    ("returns", "expected"),
    [
        ([0.02, 0.02, 0.02, -0.02, -0.02], 0.2),  # three of five at one to one
        ([0.02, -0.01, 0.02, -0.01, -0.01], 0.1),  # two of five at two to one
        ([0.01, -0.02], -0.5),
        ([0.02, 0.0, -0.02, 0.02, 0.02, -0.02], 0.2),  # what came out even says nothing
        ([0.01, 0.03], 1),
        ([-0.01, -0.03], -1),
        ([0.0], 0),
    ],
)
def test_kelly_bets_by_the_record(returns: list[float], expected: float) -> None:
    assert kelly_fraction(returns) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("returns", [[], [0.1, NAN], [0.1, math.inf]])
def test_kelly_says_nothing_without_a_record(returns: list[float]) -> None:
    with pytest.raises(ValueError, match="wanted at least one return and all of them finite"):
        kelly_fraction(returns)


@pytest.mark.parametrize("number", range(4))
def test_kelly_agrees_with_exact_fractions(number: int) -> None:
    case = reference_json(KELLY)["cases"][number]

    assert kelly(case["win_prob"], case["payoff_ratio"]) == pytest.approx(case["kelly"], abs=1e-8)


# Six markets of two years of hours.


@pytest.fixture(scope="module")
def closes() -> FloatArray:
    pairs = reference_json(PORTFOLIO)["pairs"]
    return np.column_stack(
        [reference_columns(f"market/binance_spot_1h/{pair}_USDT-1h.csv.gz")["close"] for pair in pairs]
    )


EQUAL = [1 / 6] * 6
FIGURES: dict[str, Callable[[FloatArray, FloatArray], Any]] = {
    "corr_pearson_log": lambda simple, logs: correlations(logs),
    "corr_spearman_log": lambda simple, logs: rank_correlations(logs),
    "cov_simple_ddof1": lambda simple, logs: covariance(simple),
    "ewma_cov_lambda094_last": lambda simple, logs: ewma_covariance(simple),
    "min_variance_weights_unconstrained": lambda simple, logs: minimum_variance_weights(covariance(simple)),
    "diversification_ratio": lambda simple, logs: diversification_ratio(covariance(simple), EQUAL),
}
OF_EQUAL_WEIGHTS: dict[str, Callable[[FloatArray], Any]] = {
    "hourly_vol": lambda simple: correlated_exposure(covariance(simple), EQUAL),
    "risk_contributions": lambda simple: risk_contributions(covariance(simple), EQUAL),
    "var95_hist": lambda simple: -risk_of(simple, EQUAL).var,
    "var99_hist": lambda simple: -risk_of(simple, EQUAL, confidence=0.99).var,
    "cvar95_worst_k": lambda simple: -risk_of(simple, EQUAL).cvar,
    "var99_normal": lambda simple: -risk_of(simple, EQUAL, PARAMETRIC, confidence=0.99).var,
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_of_real_markets_agree_with_those_computed_elsewhere(name: str, closes: FloatArray) -> None:
    expected = reference_json(PORTFOLIO)[name]

    np.testing.assert_allclose(FIGURES[name](returns_of(closes), np.diff(np.log(closes), axis=0)), expected, rtol=1e-8)


@pytest.mark.parametrize("name", OF_EQUAL_WEIGHTS)
def test_figures_of_a_real_book_agree_with_those_computed_elsewhere(name: str, closes: FloatArray) -> None:
    expected = reference_json(PORTFOLIO)["equal_weight"][name]

    np.testing.assert_allclose(OF_EQUAL_WEIGHTS[name](returns_of(closes)), expected, rtol=1e-8)


def test_every_figure_of_the_reference_is_tried_here() -> None:
    data = reference_json(PORTFOLIO)
    facts = {"pairs", "rows_aligned", "first_ts", "last_ts", "equal_weight", "rolling_corr_720h_first_pair_second"}

    assert set(data) - facts == set(FIGURES)
    assert set(data["equal_weight"]) - {"rebalanced"} == set(OF_EQUAL_WEIGHTS)


def test_a_rolling_correlation_of_real_markets_agrees_too(closes: FloatArray) -> None:
    expected = reference_json(PORTFOLIO)["rolling_corr_720h_first_pair_second"]
    opens = reference_columns("market/binance_spot_1h/BTC_USDT-1h.csv.gz")["ts"][1:]
    logs = np.diff(np.log(closes), axis=0)

    found = dict(zip(opens, rolling_correlation(logs[:, 0], logs[:, 1], 720), strict=True))

    assert len(expected) == 24
    np.testing.assert_allclose([found[at] for at, _ in expected], [value for _, value in expected], rtol=1e-8)
