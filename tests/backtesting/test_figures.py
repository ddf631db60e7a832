"""Figures of a backtest: worked out by hand, as JSON and back, and those of the reference to 1e-8."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from backtesting.engine import backtest
from backtesting.engine.inputs import MarketInput, Result, Settings, Trade
from backtesting.figures import TRADE_FIELDS, figures_of, trade_of, trade_row
from backtesting.wording import UNITS, figure_text, figure_title
from domain import statistics
from domain.candles import Candles, FloatArray, Timeframe
from domain.exit_plan import ExitPlan, TargetLevel
from domain.exits import ExitReason
from domain.market import MarketRules, PositionSide
from domain.sizing import SizingMethod
from domain.strategy import SignalArrays
from tests.backtesting.test_semantics import goog
from tests.domain.reference import reference_json

DAY, HOUR_MS, DAY_MS = timedelta(days=1), 3_600_000, 86_400_000
NEW_YEAR = datetime(2024, 1, 1, tzinfo=UTC)
NEW_YEAR_MS = int(NEW_YEAR.timestamp() * 1000)
CASH = Settings(cash=Decimal(1000))


def trade(entry: float, exit_: float, pnl: float, **values: Any) -> Trade:
    """One of 2 at 50, from day ``entry`` to day ``exit_`` of 2024, left by a signal."""
    return Trade(
        **{
            "symbol": "X", "side": PositionSide.LONG, "entry_at": NEW_YEAR + entry * DAY, "entry_price": 50.0,
            "exit_at": NEW_YEAR + exit_ * DAY, "exit_price": 50 + pnl / 2, "quantity": 2.0, "pnl": pnl,
            "gain": pnl / 100, "fees": 0.5, "exit_reason": ExitReason.EXIT_SIGNAL, **values,
        }
    )  # fmt: skip


def days(*prices: float, symbol: str = "X", begins: int = 0) -> MarketInput:
    """A market of candles of a day that open at 50 and then where the one before closed."""
    close = np.array(prices)
    open_ = np.concatenate(([50.0], close))[: len(close)]
    open_ms = NEW_YEAR_MS + (begins + np.arange(len(close))) * DAY_MS
    high, low = np.maximum(open_, close), np.minimum(open_, close)
    silent = SignalArrays(np.zeros(len(close), np.int8), np.zeros(len(close), np.int8))
    return MarketInput(symbol, Candles(open_ms, open_, high, low, close, np.ones(len(close))), Timeframe.D1, silent)


def came_to(trades: list[Trade], equity: list[float], market: MarketInput | None = None) -> dict[str, Any]:
    given = market or days(*[50.0] * len(equity))
    return figures_of(Result(trades, given.candles.open_ms[-len(equity) :], np.array(equity)), CASH, [given])


def test_a_trade_comes_back_from_its_json_as_it_was() -> None:
    ended = trade(
        1.5,
        2,
        0.1 + 0.2,
        side=PositionSide.SHORT,
        funding=-0.01,
        exit_reason=ExitReason.TRAILING_STOP,
        tag="dip",
        exit_tag="tired",
    )
    held = trade(1, 2, 5, exit_reason=None)
    for one in (ended, held):
        assert trade_of(json.loads(json.dumps(trade_row(one)))) == one
        assert tuple(trade_row(one)) == TRADE_FIELDS


def test_what_trades_tell_together_is_told_of_those_that_ended() -> None:
    stats = came_to(
        [trade(0, 1, 40), trade(1, 3, -10), trade(3, 3, -20), trade(4, 6, 30), trade(6, 7, 99, exit_reason=None)],
        [1000.0] * 8,
    )["stats"]
    expected = {
        "trades": 4, "still_open": 1, "winners": 2, "losers": 2, "win_rate": 0.5, "profit_factor": 70 / 30,
        "payoff_ratio": 35 / 15, "expectancy": 10, "average_win": 35, "average_loss": -15, "largest_win": 40,
        "largest_loss": -20, "average_return": 0.1, "median_return": 0.1, "best_return": 0.4, "worst_return": -0.2,
        "most_wins_in_a_row": 1, "most_losses_in_a_row": 2, "average_hours": 30, "average_winning_hours": 36,
        "average_losing_hours": 24, "longest_hours": 48, "fees": 2.5, "profit_without_costs": 139 + 2.5,
        # The squares about the mean of 10 are 30, 20, 30, 20 of them; Kelly's by half the bets won, at 35 to 15.
        "sqn": 2 * 10 / math.sqrt((900 + 400 + 900 + 400) / 3), "kelly": 0.5 - 0.5 / (35 / 15),
    }  # fmt: skip
    assert {name: stats[name] for name in expected} == pytest.approx(expected, rel=1e-12)


def test_time_in_the_market_counts_candles_in_which_anything_was_held() -> None:
    trades = [
        trade(0, 2, 10),  # left at the open of day 2, which it saw nothing of
        trade(1, 1, 10, exit_reason=ExitReason.STOP_LOSS),  # entered and stopped in day 1
        trade(5, 6, 10, exit_reason=ExitReason.TAKE_PROFIT),  # left within day 6
        trade(9, 9, 10, exit_reason=None),
    ]
    stats = came_to(trades, [1000.0] * 10)["stats"]
    assert stats["exposure"] == 5 / 10
    # 100 for 2 days, 1 day, 2 days and 1 day, of 1000.
    assert stats["capital_used"] == pytest.approx(0.1 * 6 / 10, rel=1e-12)
    assert stats["traded_value"] == 4 * 100 + 3 * 110
    assert stats["turnover"] == pytest.approx(730 / 1000 / (10 / 365), rel=1e-12)


def test_a_candle_counts_amid_which_an_entry_filled() -> None:
    trades = [trade(2.5, 2.75, 10, exit_reason=ExitReason.STOP_LOSS), trade(5.5, 7, 10)]
    assert came_to(trades, [1000.0] * 10)["stats"]["exposure"] == 3 / 10


def test_quantities_of_a_market_of_contracts_are_worth_their_size() -> None:
    rules = MarketRules("X", "X", "USD", Decimal("0.01"), Decimal(1), contract_size=Decimal(10))
    stats = came_to([trade(0, 2, 10)], [1000.0] * 10, replace(days(*[50.0] * 10), rules=rules))["stats"]
    assert (stats["traded_value"], stats["capital_used"]) == (2100, pytest.approx(0.2, rel=1e-12))


def test_months_have_the_account_s_return_and_the_trades_that_ended_in_them() -> None:
    equity = [1000.0] * 31 + [1100.0] * 29 + [1100.0, 990.0]
    months = came_to([trade(0, 30, 40), trade(2, 31, 60), trade(50, 59, -10), trade(50, 61, 5)], equity)["per_month"]
    assert [(one["name"], one["trades"], one["pnl"], one["win_rate"]) for one in months] == [
        ("2024-01", 1, 40, 1), ("2024-02", 2, 50, 0.5), ("2024-03", 1, 5, 1),
    ]  # fmt: skip
    assert [one["return"] for one in months] == pytest.approx([0, 0.1, -0.1], rel=1e-12)


def test_a_month_without_a_candle_is_none() -> None:
    held = days(*[50.0] * 100)
    kept = np.r_[0:20, 80:100]
    open_ms = held.candles.open_ms[kept]
    months = figures_of(Result([], open_ms, np.array([1000 + 200 * step / 39 for step in range(40)])), CASH, [held])[
        "per_month"
    ]
    assert [one["name"] for one in months] == ["2024-01", "2024-03", "2024-04"]
    assert np.prod([1 + one["return"] for one in months]) == pytest.approx(1.2, rel=1e-12)


def test_trades_are_told_by_reason_tag_market_and_side() -> None:
    trades = [
        trade(0, 1, 40, tag="dip"),
        trade(1, 2, -10, tag="dip", side=PositionSide.SHORT, exit_reason=ExitReason.STOP_LOSS),
        trade(2, 3, 20, tag="break", symbol="Y"),
        trade(3, 4, 7, exit_reason=None, symbol="Y"),
    ]
    told = came_to(trades, [1000.0] * 5)

    def short(name: str) -> list[tuple[str, int, float]]:
        return [(one["name"], one["trades"], one["pnl"]) for one in told[name]]

    assert short("per_reason") == [("EXIT_SIGNAL", 2, 60), ("OPEN", 1, 7), ("STOP_LOSS", 1, -10)]
    assert short("per_tag") == [("break", 1, 20), ("dip", 2, 30)]
    assert short("per_market") == [("X", 2, 30), ("Y", 1, 20)]
    assert short("per_side") == [("LONG", 2, 60), ("SHORT", 1, -10)]
    dip = told["per_tag"][1]
    assert (dip["win_rate"], dip["profit_factor"], dip["average_return"]) == (0.5, 4, pytest.approx(0.15))
    assert (dip["best_return"], dip["worst_return"], dip["average_hours"], dip["fees"]) == (0.4, -0.1, 24, 1.0)
    assert came_to([trade(0, 1, 40)], [1000.0] * 5)["per_tag"] == []


def test_drawdowns_say_when_and_how_long() -> None:
    told = came_to([], [900.0, 1000.0, 1200.0, 600.0, 900.0, 1200.0, 1140.0])
    assert [(one["from_at"][:10], one["low_at"][:10], (one["until_at"] or "never")[:10]) for one in told["drawdowns"]] == [
        ("2024-01-03", "2024-01-04", "2024-01-06"),
        ("2024-01-01", "2024-01-01", "2024-01-02"),
        ("2024-01-06", "2024-01-07", "never"),
    ]  # fmt: skip
    assert [one["depth"] for one in told["drawdowns"]] == pytest.approx([-0.5, -0.1, -0.05], rel=1e-12)
    stats = told["stats"]
    assert (stats["max_drawdown"], stats["max_drawdown_days"], stats["longest_drawdown_days"]) == (-0.5, 3, 3)
    assert stats["average_drawdown"] == pytest.approx(-0.65 / 3, rel=1e-12)
    assert stats["recovery_factor"] == pytest.approx(140 / 600, rel=1e-12)


def test_a_fall_that_has_not_ended_lasts_until_the_last_close() -> None:
    stats = came_to([], [1000.0, 1100.0, 1000.0, 1000.0, 1090.0])["stats"]
    assert (stats["max_drawdown_days"], stats["longest_drawdown_days"]) == (3, 3)


def test_ratios_are_of_days_whatever_the_timeframe() -> None:
    rng = np.random.default_rng(7)
    hourly: FloatArray = 1000 * np.cumprod(1 + rng.normal(0.0001, 0.002, 24 * 60), dtype=np.float64)
    open_ms = NEW_YEAR_MS + np.arange(len(hourly)) * HOUR_MS
    flat = np.full(len(hourly), 50.0)
    hours = MarketInput("X", Candles(open_ms, flat, flat, flat, flat, flat), Timeframe.H1, days().signals)
    told = figures_of(Result([], open_ms, hourly), CASH, [hours])["stats"]
    daily = came_to([], hourly[23::24].tolist())["stats"]
    names = ("sharpe", "sortino", "volatility", "value_at_risk", "conditional_value_at_risk", "cagr", "skew", "days")
    assert {name: told[name] for name in names} == pytest.approx({name: daily[name] for name in names}, rel=1e-12)
    returns = statistics.returns_of(np.concatenate(([1000.0], hourly[23::24])))
    assert told["sharpe"] == pytest.approx(statistics.sharpe(returns, 365), rel=1e-12)
    assert told["max_drawdown"] < daily["max_drawdown"]  # of all closes


def test_holding_buys_equal_parts_of_each_market_at_its_first_open() -> None:
    one, other = days(60, 75, 100), days(50, 25, symbol="Y", begins=1)
    result = Result([], one.candles.open_ms, np.array([1000.0, 1100.0, 1100.0]))
    told = figures_of(result, CASH, [one, other])
    # 500 become 600, 750, 1000; the other 500 stay, stay, become 250.
    assert told["benchmark"]["total_return"] == pytest.approx(0.25, rel=1e-12)
    assert told["benchmark"]["max_drawdown"] == 0.0
    held = statistics.returns_of(np.array([1000.0, 1100, 1250, 1250]))
    ours = np.array([0, 0.1, 0])
    stats = told["stats"]
    assert told["benchmark"]["sharpe"] == pytest.approx(statistics.sharpe(held, 365), rel=1e-12)
    assert stats["beta"] == pytest.approx(statistics.beta(ours, held), rel=1e-12)
    assert (stats["buy_and_hold_return"], stats["excess_return"]) == pytest.approx((0.25, -0.15), rel=1e-12)


def test_what_was_held_before_the_first_candle_that_is_traded_in_does_not_count() -> None:
    late = days(10, 20, 40, 60)
    told = figures_of(Result([], late.candles.open_ms[2:], np.array([1000.0, 1000.0])), CASH, [late])
    assert told["benchmark"]["total_return"] == pytest.approx(60 / 20 - 1, rel=1e-12)


@pytest.mark.parametrize("rests", [True, False])
def test_slippage_is_what_is_missing_to_the_run_without(rests: bool) -> None:
    candles = Candles.from_rows(
        [
            (i * HOUR_MS, *row, 1000.0)
            for i, row in enumerate(
                [
                    (100, 100, 100, 100),
                    (100, 120, 100, 120),
                    (120, 120, 120, 120),
                    (120, 120, 120, 120),
                    (115, 115, 115, 115),
                ]
            )
        ]
    )
    signals = SignalArrays(np.array([1, 0, -1, 0, 0], np.int8), np.array([0, 0, 0, -1, 0], np.int8))
    plan = ExitPlan(targets=(TargetLevel(percent=Decimal(10)),))
    market = MarketInput("X", candles, Timeframe.H1, signals, plan=plan, can_short=True)
    free = Settings(sizing=SizingMethod.FIXED_QUOTE, amount=Decimal(1000), rests_targets=rests)
    costly = replace(free, slippage=Decimal("0.001"), spread=Decimal("0.001"))
    without, paid = (backtest([market], settings) for settings in (free, costly))
    assert [one.exit_reason for one in paid.trades] == ["TAKE_PROFIT", "EXIT_SIGNAL"]
    stats = figures_of(paid, costly, [market])["stats"]
    # The target is measured from the entry price, which slippage has moved.
    moved = paid.trades[0].quantity * (110 * 1.0015 - 110)
    sizes = [one.quantity for one in without.trades]
    assert [one.quantity for one in paid.trades] == pytest.approx(sizes, rel=1e-3)
    same = sum(one.pnl * mine.quantity / one.quantity for one, mine in zip(without.trades, paid.trades, strict=True))
    assert stats["slippage"] == pytest.approx(same + moved - sum(one.pnl for one in paid.trades), rel=1e-9)


@pytest.mark.parametrize("equity", [[], [1000.0], [1000.0, -50.0, 20.0], [1.0, 5000.0]])
def test_figures_are_plain_numbers_words_and_none_whatever_came_of_it(equity: list[float]) -> None:
    told = came_to([], equity)
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_what_is_still_open_has_not_paid_for_its_exit() -> None:
    slipping = replace(CASH, slippage=Decimal("0.01"))
    held = days(*[50.0] * 3)
    open_ = trade(0, 2, 0, entry_price=50.5, exit_reason=None)
    stats = figures_of(Result([open_], held.candles.open_ms, np.full(3, 999.0)), slipping, [held])["stats"]
    assert stats["slippage"] == pytest.approx(2 * 0.5, rel=1e-12)


def test_an_account_that_was_lost_has_no_ratios() -> None:
    stats = came_to([], [1000.0, -50.0, 20.0])["stats"]
    assert (stats["total_return"], stats["sharpe"], stats["capital_used"]) == (-0.98, None, None)
    assert came_to([], [1000.0, -50.0])["stats"]["cagr"] == -1
    months = came_to([], [1000.0] * 30 + [-50.0] * 2 + [20.0])["per_month"]
    assert [one["return"] for one in months] == [-1.05, 0.0]


def test_figures_of_trades_are_plain_too_and_every_one_has_its_unit() -> None:
    told = came_to([trade(0, 1, 40, tag="dip"), trade(1, 3, -10)], [1040.0, 1040.0, 1040.0, 1030.0])
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert set(told["stats"]) | set(told["benchmark"]) | set(told["per_month"][0]) - {"name"} <= set(UNITS)
    assert set(told["drawdowns"][0]) <= set(UNITS)


def test_the_figures_agree_with_the_reference_or_its_convention_does() -> None:
    expected = reference_json("reference/backtest/backtesting_py_goog_smacross_stats.json")["expected"]
    market, settings = goog()
    result = backtest([market], settings)
    # The last trade is closed at the last open there, and at the last close here.
    held, columns, equity = market.candles, result.columns, result.equity.copy()
    put_in = columns.quantity * columns.entry_price
    pnl = columns.pnl - np.where(
        columns.exit_ms == held.open_ms[-1], columns.quantity * (held.close - held.open)[-1], 0
    )
    equity[-1] += (pnl - columns.pnl).sum()
    same = Result.of_columns(replace(columns, pnl=pnl, gain=pnl / put_in), result.open_ms, equity)
    stats = figures_of(same, settings, [market])["stats"]
    returns = statistics.returns_of(np.concatenate(([10_000.0], equity)))
    gains = same.columns.gain

    ours = {
        "trades": stats["trades"], "avg_drawdown_pct": stats["average_drawdown"] * 100,
        "best_trade_pct": stats["best_return"] * 100, "worst_trade_pct": stats["worst_return"] * 100,
        "equity_final": stats["final_equity"], "equity_peak": stats["peak_equity"],
        "expectancy_pct": stats["average_return"] * 100, "exposure_pct": stats["exposure"] * 100,
        "max_dd_days": stats["longest_drawdown_days"], "max_dd_pct": stats["max_drawdown"] * 100,
        "return_pct": stats["total_return"] * 100, "sqn": stats["sqn"], "kelly": stats["kelly"],
        "win_rate_pct": stats["win_rate"] * 100,
    }  # fmt: skip
    # Where its conventions differ, the same functions come to its figures by them.
    yearly = statistics.cagr(returns[1:], 252)  # of 252 days, the first of which is none
    growth = 1 + statistics.cagr(returns[1:], 1)
    volatility = math.sqrt((returns[1:].var(ddof=1) + growth**2) ** 252 - growth**504)  # of what compounds
    span_days = (held.open_ms[-1] - held.open_ms[0]) / DAY_MS  # to the last open; ours is to its close
    held_return = held.close[-1] / held.close[29] - 1  # from the close at which its averages are there
    beta = statistics.beta(np.log1p(returns[1:]), np.log1p(statistics.returns_of(held.close)))
    theirs = {
        "avg_trade_pct": statistics.cagr(gains, 1) * 100,  # the geometric mean
        "profit_factor": statistics.profit_factor(gains),  # of returns; ours is of money
        "return_ann_pct": yearly * 100, "vol_ann_pct": volatility * 100, "sharpe": yearly / volatility,
        "sortino": yearly / statistics.downside_risk(returns[1:], 252), "calmar": yearly / -stats["max_drawdown"],
        "cagr_pct": statistics.yearly(stats["total_return"], span_days / 365.25) * 100,
        "buy_hold_pct": held_return * 100, "beta": beta,
        "alpha_pct": (stats["total_return"] - beta * held_return) * 100,  # of the whole span, not of a year
    }  # fmt: skip
    assert {**ours, **theirs} == pytest.approx(expected, rel=1e-8)
    # Ours of the same, by this module's conventions.
    days_a_year = 2148 * 365 / 3117
    assert stats["sharpe"] == pytest.approx(statistics.sharpe(returns, days_a_year), rel=1e-12)
    assert stats["cagr"] == pytest.approx(statistics.yearly(stats["total_return"], 3117 / 365), rel=1e-12)
    assert stats["profit_factor"] == pytest.approx(statistics.profit_factor(pnl), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("win_rate", 0.31163, "31.16 %"), ("total_return", -12.5, "-1,250.00 %"), ("alpha", 0.00004, "0.0040 %"),
        ("cagr", -1e-9, "0.0000 %"), ("profit", -0.001, "-0.001000"), ("profit", 12_345.678, "12,345.68"),
        ("sharpe", 1.2345, "1.23"), ("candles", 43_800, "43,800"), ("days", 3.25, "3.2 d"),
        ("average_hours", 15.66, "15.7 h"), ("until_at", "2024-01-02T03:00:00+00:00", "2024-01-02 03:00"),
        ("sharpe", None, "-"), ("name", "dip", "dip"),
    ],
)  # fmt: skip
def test_figures_read_with_their_units(name: str, value: Any, text: str) -> None:
    assert figure_text(name, value) == text


def test_figures_have_words_for_names() -> None:
    assert [figure_title(name) for name in ("cagr", "until_at", "win_rate")] == ["return a year", "until", "win rate"]
