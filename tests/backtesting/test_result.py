"""A result keeps columns; its trades are made when asked for, and say the same."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime
from decimal import Decimal

import numpy as np
import pytest

from backtesting.engine import backtest_fast
from backtesting.engine.inputs import REASONS, Columns, Lazy, MarketInput, Result, Settings, Trade
from backtesting.engine.walk import Walk
from domain.candles import Candles, Timeframe
from domain.exit_plan import ExitPlan
from domain.exits import ExitReason
from domain.market import PositionSide
from domain.strategy import SignalArrays

HOUR_MS = 3_600_000
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
LATER = datetime(2026, 1, 31, 12, 30, 0, 1000, tzinfo=UTC)
TRADES = [
    Trade(
        "A",
        PositionSide.LONG,
        NOON,
        100.0,
        LATER,
        110.0,
        2.0,
        19.5,
        0.0975,
        0.5,
        0.25,
        ExitReason.TAKE_PROFIT,
        "dip",
        "tired",
    ),
    Trade("B", PositionSide.SHORT, LATER, 50.0, LATER, 55.0, 1.0, -5.0, -0.1, 0.0),
]


def market() -> MarketInput:
    price = np.array([100.0, 100.0, 110.0, 110.0, 90.0, 90.0])
    held = Candles(np.arange(6) * HOUR_MS, price, price, price, price, np.ones(6))
    said = SignalArrays(np.array([1, 0, -1, 1, 0, 0]), np.array([0, 1, 0, 0, 0, 0]))
    return MarketInput("X", held, Timeframe.H1, said, plan=ExitPlan(), tags=["a", "b", "c", "d", "e", "f"])


def test_a_result_of_a_plain_list_of_trades_has_their_columns() -> None:
    columns = Result(TRADES, np.empty(0, np.int64), np.empty(0)).columns
    assert columns.symbols == ("A", "B")
    assert columns.market.tolist() == [0, 1]
    assert columns.side.tolist() == [1, -1]
    assert columns.entry_ms.tolist() == [1769860800000, 1769862600001]
    assert columns.exit_ms.tolist() == [1769862600001, 1769862600001]
    assert columns.pnl.tolist() == [19.5, -5.0]
    assert columns.funding.tolist() == [0.25, 0.0]
    assert columns.is_open.tolist() == [False, True]
    assert columns.tags == ["dip", ""]
    assert columns.exit_tags == ["tired", ""]
    assert [columns.trade(index) for index in range(2)] == TRADES


def test_columns_are_made_once() -> None:
    result = Result(TRADES, np.empty(0, np.int64), np.empty(0))
    assert result.columns is result.columns


def test_columns_of_no_trades_are_empty() -> None:
    columns = Result((), np.empty(0, np.int64), np.empty(0)).columns
    assert len(columns) == 0
    assert (columns.tags, columns.exit_tags) == (None, None)
    assert (str(columns.pnl.dtype), str(columns.entry_ms.dtype)) == ("float64", "int64")


def test_every_reason_has_its_number_and_the_fast_loop_s_come_first() -> None:
    assert set(REASONS) == {None, *ExitReason}
    assert len(REASONS) == len(ExitReason) + 1
    assert REASONS[:11] == (
        None, "STOP_LOSS", "BREAK_EVEN", "TRAILING_STOP", "TAKE_PROFIT", "ROI", "TIME_EXIT", "EXIT_SIGNAL", "SESSION_STOP",
        "LIQUIDATION_GUARD", "LIQUIDATED",
    )  # fmt: skip


def test_the_fast_loop_and_the_walk_give_the_same_columns() -> None:
    wanted = Settings(taker_fee=Decimal("0.001"))
    fast, exact = backtest_fast([market()], wanted).columns, Walk([market()], wanted).result().columns
    for name in ("symbols", "tags"):
        assert getattr(fast, name) == getattr(exact, name)
    assert fast.symbols == ("X",)
    assert fast.tags == ["a", "d"]
    for name in ("market", "side", "entry_ms", "exit_ms", "reason"):
        assert getattr(fast, name).tolist() == getattr(exact, name).tolist()
        assert getattr(fast, name).dtype == getattr(exact, name).dtype
    for name in ("entry_price", "exit_price", "quantity", "pnl", "gain", "fees", "funding"):
        assert getattr(fast, name) == pytest.approx(getattr(exact, name), rel=1e-12)


def test_trades_are_made_when_they_are_asked_for_and_are_equal_to_a_list_of_them() -> None:
    result = backtest_fast([market()], Settings())
    assert isinstance(result.trades, Lazy)
    first, last = result.trades
    assert (first.tag, first.entry_at.hour, first.exit_at.hour, first.exit_reason) == ("a", 1, 2, "EXIT_SIGNAL")
    assert result.trades[-1] == last == result.trades[1]
    assert result.trades[:1] == (first,)
    assert result.trades == (first, last)
    assert result.trades == [first, last]
    assert result.trades != [last, first]
    assert result.trades != [first]
    assert result.trades != "of another kind"
    with pytest.raises(IndexError):
        result.trades[2]


def test_refusals_are_made_when_they_are_asked_for_too() -> None:
    (refused,) = backtest_fast([market()], Settings()).refused
    assert (refused.symbol, refused.at.hour, refused.side, refused.denial) == ("X", 3, "SHORT", "SIDE_NOT_TRADABLE")


def test_a_result_is_told_in_one_line_and_goes_to_another_process() -> None:
    result = backtest_fast([market()], Settings())
    assert repr(result) == "<2 trades, 1 refused, 6 candles>"
    assert repr(result.trades) == "<2 made when asked for>"
    assert repr(result.columns) == "<columns of 2 trades of 1 markets>"
    copied = pickle.loads(pickle.dumps(result))
    assert copied.trades == result.trades
    assert copied.refused == result.refused


def test_columns_of_other_columns_trades_are_those() -> None:
    result = backtest_fast([market()], Settings())
    again = Columns.of(list(result.trades))
    assert again.pnl.tolist() == result.columns.pnl.tolist()
    assert again.entry_ms.tolist() == result.columns.entry_ms.tolist()
