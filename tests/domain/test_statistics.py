"""Statistics of returns: small runs worked out by hand, and the figures of empyrical and of real candles, to 1e-8."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from domain import statistics, trades
from domain.candles import FloatArray
from domain.statistics import Drawdown
from domain.trades import ClosedTrade, trade_statistics
from tests.domain.reference import reference_columns, reference_json

NAN, INFINITY = float("nan"), float("inf")
EMPYRICAL = "reference/metrics/empyrical_cases.json"
REAL_SERIES = "expected/metrics/return_series_metrics.json"
LEAN = "expected/metrics/lean_trade_statistics.json"
YEARLY = {"daily": 252, "weekly": 52, "monthly": 12, "quarterly": 4, "yearly": 1}
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


def floats(*values: float) -> FloatArray:
    return np.array(values, dtype=np.float64)


def close(expected: Any) -> Any:
    return pytest.approx(expected, rel=1e-8, abs=1e-8, nan_ok=True)


# By hand: half lost, then won back in two steps, then a tenth.
UP_AND_DOWN = floats(0.1, -0.5, 0.5, 1.0, 0.1)


def test_returns_are_changes_of_prices() -> None:
    np.testing.assert_allclose(statistics.returns_of(floats(100, 110, 55)), [0.1, -0.5], rtol=1e-15)


def test_a_total_compounds_and_a_year_s_growth_is_its_root() -> None:
    assert statistics.total_return(UP_AND_DOWN) == pytest.approx(1.1 * 0.5 * 1.5 * 2 * 1.1 - 1, rel=1e-15)
    assert statistics.cagr(floats(0.1, 0.1, 0.1, 0.1), 2) == pytest.approx(0.21, rel=1e-14)


def test_a_drawdown_says_where_it_began_was_deepest_and_ended() -> None:
    assert statistics.deepest_drawdown(UP_AND_DOWN) == Drawdown(close(-0.5), 0, 1, 3)


def test_the_starting_capital_is_the_first_peak_and_a_fall_may_have_no_end() -> None:
    assert statistics.deepest_drawdown(floats(-0.2, 0.1)) == Drawdown(close(-0.2), -1, 0, None)


def test_equity_that_only_rises_has_no_depth() -> None:
    assert statistics.deepest_drawdown(floats(0.1, 0.2)).depth == 0


def test_a_year_that_lost_all_or_more_lost_all_and_one_beyond_numbers_is_infinite() -> None:
    assert statistics.yearly(-1.0, 2) == statistics.yearly(-1.5, 2) == -1
    assert statistics.cagr(floats(0.5), 10_000) == INFINITY
    assert statistics.yearly(0.21, 2) == pytest.approx(0.1, rel=1e-14)


def test_falls_are_from_the_last_at_the_peak_to_the_first_as_high_again() -> None:
    fallen = statistics.falls(floats(100, 100, 90, 80, 100, 120, 108, 126, 63, 70))
    assert fallen.peak.tolist() == [1, 5, 7]
    assert fallen.recovery.tolist() == [4, 7, 10]  # the last has none
    assert fallen.depth.tolist() == close([-0.2, -0.1, -0.5])


def test_the_deepest_drawdowns_come_first_and_count_the_starting_capital() -> None:
    curve = floats(100, 80, 100, 120, 108, 126, 63, 70)
    assert statistics.deepest_drawdowns(curve, 2) == [
        Drawdown(close(-0.5), 4, 5, None), Drawdown(close(-0.2), -1, 0, 1),
    ]  # fmt: skip
    assert [one.depth for one in statistics.deepest_drawdowns(curve, 9)] == close([-0.5, -0.2, -0.1])
    assert statistics.deepest_drawdowns(floats(100, 110), 5) == statistics.deepest_drawdowns(floats(100), 5) == []


@pytest.mark.parametrize("seed", range(20))
def test_the_deepest_of_many_falls_is_the_deepest_drawdown(seed: int) -> None:
    returns = np.random.default_rng(seed).normal(0, 0.01, 200)
    curve = np.concatenate(([1.0], np.cumprod(1 + returns)))
    assert statistics.deepest_drawdowns(curve, 1) == [statistics.deepest_drawdown(returns)]


def test_a_drawdown_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="wanted at least 1 return, was 0"):
        statistics.deepest_drawdown(floats())


@pytest.mark.parametrize(
    ("figure", "expected"),
    [
        (statistics.win_rate, 0.5),  # what came out even is neither
        (statistics.profit_factor, 2.5),
        (statistics.kelly_discrete, 0.5 - 0.5 / 2.5),
        # A twentieth of the way through six values is a quarter of a step from either end.
        (statistics.value_at_risk, -0.175),
        (statistics.conditional_value_at_risk, -0.2),
        (statistics.mean_below_value_at_risk, -0.2),
        (statistics.tail_ratio, 0.3875 / 0.175),
        (statistics.ulcer_index, math.sqrt((0.2**2 + 0.2**2 + 0.28**2 + 0.028**2 + 0.028**2) / 6)),
    ],
)
def test_a_figure_worked_out_by_hand(figure: Callable[[FloatArray], float], expected: float) -> None:
    assert figure(floats(0.4, -0.2, 0, -0.1, 0.35, 0)) == pytest.approx(expected, rel=1e-12)


def test_ratios_divide_by_the_spread_they_are_named_for() -> None:
    returns = floats(0.02, -0.01, 0.03, 0.0)  # mean 0.01; squares about it 1 4 4 1, of what is below zero 1, all e-4

    assert statistics.volatility(returns, 4) == pytest.approx(2 * math.sqrt(10e-4 / 3), rel=1e-12)
    assert statistics.sharpe(returns, 4) == pytest.approx(2 * 0.01 / math.sqrt(10e-4 / 3), rel=1e-12)
    assert statistics.sharpe(returns, 4, risk_free=0.01) == pytest.approx(0, abs=1e-12)
    assert statistics.downside_risk(returns, 4) == pytest.approx(math.sqrt(1e-4), rel=1e-12)
    assert statistics.sortino(returns, 4) == pytest.approx(4 * 0.01 / 0.01, rel=1e-12)
    assert statistics.kelly_continuous(returns) == pytest.approx(0.01 / (10e-4 / 3), rel=1e-12)


def test_a_system_s_quality_is_the_mean_over_the_spread_times_the_root_of_how_many() -> None:
    # The mean is 2, the squares about it are 1 1 4 4.
    assert statistics.sqn(floats(3, 1, 4, 0)) == pytest.approx(2 * 2 / math.sqrt(10 / 3), rel=1e-14)


@pytest.mark.parametrize(
    ("flags", "longest"), [([], 0), ([False], 0), ([True], 1), ([True, False, True, True], 2), ([True, True, False], 2)]
)
def test_the_longest_run_is_counted(flags: list[bool], longest: int) -> None:
    assert statistics.longest_run(np.array(flags, dtype=np.bool_)) == longest


def test_a_rate_of_wins_lies_between_wilson_s_bounds() -> None:
    # His interval for 1 of 10 at 95 %, as textbooks have it: 1.79 % to 40.42 %.
    assert statistics.win_rate_bounds(1, 10) == pytest.approx((0.0179, 0.4042), abs=5e-5)
    assert statistics.win_rate_bounds(0, 10)[0] == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="wanted at least 1 trade, was 0"):
        statistics.win_rate_bounds(0, 0)


def test_moments_are_those_of_the_population() -> None:
    returns = floats(0, 0, 0, 1)  # about a mean of 1/4: cubes 3/32, fourth powers 21/256, squares 3/16

    assert statistics.skew(returns) == pytest.approx((3 / 32) / (3 / 16) ** 1.5, rel=1e-12)
    assert statistics.kurtosis(returns) == pytest.approx((21 / 256) / (3 / 16) ** 2 - 3, rel=1e-12)


def test_what_half_a_benchmark_explains_leaves_no_alpha() -> None:
    benchmark = floats(0.02, -0.04, 0.06)

    assert statistics.beta(benchmark / 2 + 0.01, benchmark) == pytest.approx(0.5, rel=1e-12)
    assert statistics.alpha(benchmark / 2 + 0.01, benchmark, 2) == pytest.approx(1.01**2 - 1, rel=1e-12)
    assert statistics.down_capture(benchmark, benchmark, 12) == 1
    assert statistics.correlation(0.01 - benchmark / 2, benchmark) == pytest.approx(-1, rel=1e-12)
    assert math.isnan(statistics.correlation(floats(0.01, 0.01, 0.01), benchmark))


NAN_WITHOUT_RETURNS: list[Callable[[FloatArray], float]] = [
    statistics.total_return, statistics.max_drawdown, statistics.ulcer_index, statistics.omega, statistics.win_rate,
    statistics.skew, statistics.kurtosis, statistics.kelly_continuous, statistics.value_at_risk,
    statistics.value_at_risk_normal, statistics.conditional_value_at_risk, statistics.mean_below_value_at_risk,
    statistics.tail_ratio, statistics.stability, lambda none: statistics.cagr(none, 365),
    lambda none: statistics.volatility(none, 365), lambda none: statistics.sharpe(none, 365),
    lambda none: statistics.sortino(none, 365), lambda none: statistics.downside_risk(none, 365),
    statistics.sqn, lambda none: statistics.correlation(none, none),
    lambda none: statistics.beta(none, none), lambda none: statistics.alpha(none, none, 365),
]  # fmt: skip


@pytest.mark.parametrize("figure", NAN_WITHOUT_RETURNS)
def test_nothing_is_said_about_nothing(figure: Callable[[FloatArray], float]) -> None:
    assert math.isnan(figure(floats()))


def test_a_ratio_to_nothing_is_infinite_and_of_nothing_to_nothing_undefined() -> None:
    steady = floats(*[0.1] * 9)  # whose spread by rounding is not quite zero

    assert statistics.sharpe(steady, 365) == INFINITY
    assert statistics.sharpe(-steady, 365) == -INFINITY
    assert math.isnan(statistics.sharpe(floats(0, 0), 365))
    assert statistics.omega(steady) == INFINITY


def test_a_period_without_a_return_stands_for_none_in_what_compounds_only() -> None:
    with_gap = floats(NAN, 0.1, 0.1)

    assert statistics.total_return(with_gap) == pytest.approx(0.21, rel=1e-14)
    assert statistics.cagr(with_gap, 3) == pytest.approx(0.21, rel=1e-14)
    assert statistics.value_at_risk(with_gap) == pytest.approx(0.1, rel=1e-14)


# empyrical's own tests, by its names.


def series_of(data: Any, name: str) -> FloatArray | float:
    sign = -1 if name.startswith("-") else 1
    found = data["series"].get(name.removeprefix("-"))
    if found is None:
        return float(name)
    return sign * np.array([NAN if value is None else value for value in found["values"]], dtype=np.float64)


def by_empyrical(data: Any, function: str, args: dict[str, Any]) -> float:
    periods = YEARLY[args.get("period", "daily")]
    other = {name: series_of(data, args[name]) for name in args if name in OTHER_SERIES}
    returns: Any = series_of(data, args["returns"])
    benchmark: Any = other.get("benchmark", other.get("factor_returns"))
    figures: dict[str, Callable[[], float]] = {
        "cum_returns_final": lambda: _final(statistics.total_return(returns), args["starting_value"]),
        "max_drawdown": lambda: statistics.max_drawdown(returns),
        "annual_return": lambda: statistics.cagr(returns, periods),
        "cagr": lambda: statistics.cagr(returns, periods),
        "sharpe_ratio": lambda: statistics.sharpe(returns, periods, other["risk_free"]),
        "downside_risk": lambda: statistics.downside_risk(returns, periods, other["required_return"]),
        "alpha": lambda: statistics.alpha(returns, benchmark, periods),
        "stability_of_timeseries": lambda: statistics.stability(returns),
        "capture": lambda: statistics.capture(returns, benchmark, periods),
        "up_capture": lambda: statistics.up_capture(returns, benchmark, periods),
    }
    return figures[function]()


def _final(total: float, start: float) -> float:
    return total if not start else start * (1 + total)


OTHER_SERIES = ("risk_free", "required_return", "benchmark", "factor_returns")
# A figure per column of a table of returns: ours take one run at a time.
TABLES = {"df_simple", "df_week", "df_month"}


def test_the_figures_agree_with_empyrical_s_own_tests() -> None:
    data = reference_json(EMPYRICAL)
    cases = [case for case in data["cases"] if case["args"]["returns"] not in TABLES]
    # "inf" is a word there and NaN is null; of the totals four digits are given.
    found = [by_empyrical(data, case["function"], case["args"]) for case in cases]
    wanted = [NAN if case["args"]["expected"] is None else float(case["args"]["expected"]) for case in cases]

    assert len(cases) == 55
    for case, ours, theirs in zip(cases, found, wanted, strict=True):
        digits = 4 if case["function"] == "cum_returns_final" else 8
        assert ours == pytest.approx(theirs, abs=10**-digits, rel=1e-8, nan_ok=True), case


@pytest.mark.parametrize("name", ["market/binance_spot_1d/BTC_USDT-1d", "equity/lean_1d/SPY-1d"])
def test_the_figures_of_real_candles_agree_with_those_computed_elsewhere(name: str) -> None:
    expected = reference_json(REAL_SERIES)["series"][name]
    returns = statistics.returns_of(reference_columns(f"{name}.csv.gz")["close"])
    periods = expected["periods_per_year"]
    drawdown = statistics.deepest_drawdown(returns)
    recovery = {} if drawdown.recovery is None else {"mdd_recovery_index": drawdown.recovery}

    assert {
        "n": len(returns), "periods_per_year": periods, "total_return": statistics.total_return(returns),
        "cagr": statistics.cagr(returns, periods), "mean": float(returns.mean()),
        "std_ddof1": statistics.volatility(returns, 1), "ann_vol": statistics.volatility(returns, periods),
        "sharpe": statistics.sharpe(returns, periods), "sortino": statistics.sortino(returns, periods),
        "max_drawdown": statistics.max_drawdown(returns), "calmar": statistics.calmar(returns, periods),
        "skew_pop": statistics.skew(returns), "kurt_excess_pop": statistics.kurtosis(returns),
        "var95_hist": statistics.value_at_risk(returns, 0.05), "var99_hist": statistics.value_at_risk(returns, 0.01),
        "cvar95_worst_k": statistics.conditional_value_at_risk(returns, 0.05),
        "cvar99_worst_k": statistics.conditional_value_at_risk(returns, 0.01),
        "cvar95_below_var": statistics.mean_below_value_at_risk(returns, 0.05),
        "var95_normal": statistics.value_at_risk_normal(returns, 0.05),
        "var99_normal": statistics.value_at_risk_normal(returns, 0.01),
        "omega0": statistics.omega(returns), "win_rate_nonzero": statistics.win_rate(returns),
        "profit_factor": statistics.profit_factor(returns), "kelly_continuous": statistics.kelly_continuous(returns),
        "ulcer_index": statistics.ulcer_index(returns), "mdd_trough_index": drawdown.trough,
        "mdd_peak_index": drawdown.peak, **recovery,
        "kelly_discrete": statistics.kelly_discrete(returns),
    } == close({name: value for name, value in expected.items() if value is not None})  # fmt: skip


# Closed trades.


def trade(start: float, end: float, profit_loss: float, **fields: float) -> ClosedTrade:
    """A trade from minute ``start`` to minute ``end``."""
    minute = timedelta(minutes=1)
    return ClosedTrade(NOON + start * minute, NOON + end * minute, profit_loss, **fields)


def test_no_trades_have_statistics_of_nothing() -> None:
    none = trade_statistics([])

    assert (none.trades, none.profit_loss, none.profit_factor, none.win_rate) == (0, 0, 0, 0)
    assert (none.first_entry_at, none.longest_drawdown, none.sharpe) == (None, timedelta(0), 0)


def test_trades_are_taken_in_the_order_in_which_they_ended() -> None:
    found = trade_statistics(
        [
            trade(30, 40, 50),
            trade(0, 10, 100, adverse=-10, favourable=120),
            trade(5, 20, -30),
            trade(5, 30, -10, fees=2),
        ]
    )

    assert (found.trades, found.winners, found.losers, found.fees) == (4, 2, 2, 2)
    assert (found.profit, found.loss, found.profit_loss) == (150, -40, 110)
    assert (found.most_wins_in_a_row, found.most_losses_in_a_row) == (1, 2)
    assert (found.profit_factor, found.profit_loss_ratio, found.win_loss_ratio) == (3.75, 3.75, 1)
    # 40 below the 100 of minute 10, passed again at minute 40. The first trade may have been at 120 before it was at -10.
    assert (found.closed_drawdown, found.longest_drawdown) == (-40, timedelta(minutes=30))
    assert (found.intra_trade_drawdown, found.profit_to_drawdown) == (-130, 2.75)
    assert found.deviation == pytest.approx(math.sqrt((72.5**2 + 57.5**2 + 37.5**2 + 22.5**2) / 3))
    assert found.downside_deviation == pytest.approx(math.sqrt(200))


@pytest.mark.parametrize("number", [0, 1])
def test_the_statistics_of_trades_agree_with_lean_s(number: int) -> None:
    case = reference_json(LEAN)["cases"][number]
    found = trade_statistics(
        trade(
            row["EntryTime_min"], row["ExitTime_min"], row["ProfitLoss"], fees=row["TotalFees"], adverse=row["MAE"],
            favourable=row["MFE"],
        )
        for row in case["trades"]
    )  # fmt: skip

    assert {theirs: _figure(found, ours) for ours, theirs in LEAN_NAMES.items()} == close(case["expected"])


def _figure(found: trades.TradeStatistics, name: str) -> float:
    value = getattr(found, name)
    if isinstance(value, datetime):
        value -= NOON
    return value.total_seconds() / 60 if isinstance(value, timedelta) else float(value)


LEAN_NAMES = {
    "first_entry_at": "StartDateTime_min", "last_exit_at": "EndDateTime_min", "trades": "TotalNumberOfTrades",
    "winners": "NumberOfWinningTrades", "losers": "NumberOfLosingTrades", "profit_loss": "TotalProfitLoss",
    "profit": "TotalProfit", "loss": "TotalLoss", "largest_profit": "LargestProfit", "largest_loss": "LargestLoss",
    "average_profit_loss": "AverageProfitLoss", "average_profit": "AverageProfit", "average_loss": "AverageLoss",
    "average_duration": "AverageTradeDuration_min", "average_winning_duration": "AverageWinningTradeDuration_min",
    "average_losing_duration": "AverageLosingTradeDuration_min", "most_wins_in_a_row": "MaxConsecutiveWinningTrades",
    "most_losses_in_a_row": "MaxConsecutiveLosingTrades", "profit_loss_ratio": "ProfitLossRatio",
    "win_loss_ratio": "WinLossRatio", "win_rate": "WinRate", "loss_rate": "LossRate", "average_adverse": "AverageMAE",
    "average_favourable": "AverageMFE", "largest_adverse": "LargestMAE", "largest_favourable": "LargestMFE",
    "closed_drawdown": "MaximumClosedTradeDrawdown", "intra_trade_drawdown": "MaximumIntraTradeDrawdown",
    "deviation": "ProfitLossStandardDeviation", "downside_deviation": "ProfitLossDownsideDeviation",
    "profit_factor": "ProfitFactor", "sharpe": "SharpeRatio", "sortino": "SortinoRatio",
    "profit_to_drawdown": "ProfitToMaxDrawdownRatio", "largest_given_back": "MaximumEndTradeDrawdown",
    "average_given_back": "AverageEndTradeDrawdown", "longest_drawdown": "MaximumDrawdownDuration_min", "fees": "TotalFees",
}  # fmt: skip
