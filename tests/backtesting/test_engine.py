"""What the engine does beyond one market with the common exits: several markets, candles inside candles, funding, partial
fills, adding, leverage and limits; to the last digit."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from backtesting.engine import backtest
from backtesting.engine.inputs import MarketInput, Result, Settings
from backtesting.engine.walk import Walk
from domain.candles import Candles, Timeframe
from domain.exit_plan import ExitPlan, TargetLevel
from domain.exits import ExitReason
from domain.informative import FundingRates
from domain.limits import Limits
from domain.market import MarketRules, PositionSide
from domain.orders import Denial
from domain.sizing import SizingMethod
from domain.strategy import SignalArrays
from strategies.library.sma_cross import SmaCross

MINUTE_MS, HOUR_MS = 60_000, 3_600_000
FIXED = Settings(sizing=SizingMethod.FIXED_QUOTE, amount=Decimal(1000))


def tape(*rows: tuple[float, float, float, float], volume: float = 1000.0, step: int = HOUR_MS) -> Candles:
    return Candles.from_rows([(index * step, *row, volume) for index, row in enumerate(rows)])


def flat(size: int, price: float = 100.0, volume: float = 1000.0) -> Candles:
    return tape(*[(price, price, price, price)] * size, volume=volume)


def market(held: Candles, entries: list[int], exits: list[int] | None = None, **values: Any) -> MarketInput:
    said = SignalArrays(np.array(entries, np.int8), np.array(exits or [0] * len(entries), np.int8))
    return MarketInput(
        **{"symbol": "X", "timeframe": Timeframe.H1, "plan": ExitPlan(), **values}, candles=held, signals=said
    )


def told(result: Result) -> list[tuple[str, int, int, str | None]]:
    return [
        (one.symbol, one.entry_at.hour, one.exit_at.hour, one.exit_reason) for one in result.trades
    ]  # fmt: skip


def test_an_exit_at_an_open_pays_for_an_entry_of_another_market_at_the_same_open() -> None:
    all_in = replace(FIXED, amount=Decimal(10_000))
    first = market(flat(6), [1, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0], symbol="A")
    second = market(flat(6), [0, 1, 1, 0, 0, 0], symbol="B")
    result = backtest([second, first], all_in)
    assert told(result) == [("A", 1, 3, "EXIT_SIGNAL"), ("B", 3, 5, None)]
    assert [(one.symbol, one.at.hour, one.denial) for one in result.refused] == [("B", 2, Denial.INSUFFICIENT_BALANCE)]


def test_markets_share_one_equity_and_a_market_without_a_candle_keeps_its_last_close() -> None:
    rising = tape((100, 100, 100, 100), (100, 110, 100, 110), (110, 120, 110, 120), (120, 130, 120, 130))
    gap = Candles.from_rows(
        [(0, 50, 50, 50, 50, 1.0), (HOUR_MS, 50, 60, 50, 60, 1.0), (3 * HOUR_MS, 60, 60, 60, 60, 1.0)]
    )
    one = market(rising, [1, 0, 0, 0], symbol="A")
    other = market(gap, [1, 0, 0], symbol="B")
    result = backtest([one, other], FIXED)
    assert result.open_ms.tolist() == [0, HOUR_MS, 2 * HOUR_MS, 3 * HOUR_MS]
    # 10 of A and 20 of B.
    assert result.equity.tolist() == [10_000, 10_000 + 100 + 200, 10_000 + 200 + 200, 10_000 + 300 + 200]


def test_what_is_added_after_a_part_was_sold_changes_no_money_that_was_made() -> None:
    held = tape((100, 100, 100, 100), (100, 110, 100, 110), (125, 125, 120, 120), (130, 130, 130, 130))
    plan = ExitPlan(
        targets=(TargetLevel(percent=Decimal(10), fraction=Decimal("0.5")), TargetLevel(percent=Decimal(100)))
    )
    one = market(held, [1, 1, 0, 0], [0, 0, 1, 0], plan=plan)
    result = backtest([one], replace(FIXED, max_entries=2))
    # 10 at 100, of which 5 are sold at 110; 8 more at 125; 13 sold at 130.
    assert result.equity.tolist() == [10_000, 9_000 + 550 + 5 * 110, 8_000 + 550 + 13 * 120, 8_000 + 550 + 13 * 130]
    assert [trade.pnl for trade in result.trades] == [240.0]


def test_a_rest_after_a_loss_inside_a_candle_lasts_longer_than_from_its_open() -> None:
    rest = replace(FIXED, limits=Limits(cooldown_losses=1, cooldown_minutes=120))
    inside = tape((100, 100, 100, 100), (100, 100, 80, 100), *[(100, 100, 100, 100)] * 4)
    at_open = tape((100, 100, 100, 100), (100, 100, 100, 100), (80, 80, 80, 80), *[(100, 100, 100, 100)] * 4)
    plan = ExitPlan(stop_loss_percent=Decimal(10))
    # Stopped within the candle of one o'clock: at three two hours have not passed. Stopped at two, at four they have.
    within = backtest([market(inside, [1, 0, 1, 1, 0, 0], plan=plan)], rest)
    later = backtest([market(at_open, [1, 0, 0, 1, 0, 0, 0], plan=plan)], rest)
    assert [(one.at.hour, one.denial) for one in within.refused] == [(3, Denial.COOLDOWN)]
    assert told(within) == [("X", 1, 1, "STOP_LOSS"), ("X", 4, 5, None)]
    assert (told(later)[0], told(later)[1][1], later.refused) == (("X", 1, 2, "STOP_LOSS"), 4, ())


def test_no_more_positions_are_opened_than_the_limits_let() -> None:
    markets = [market(flat(4), [1, 0, 0, 0], symbol=symbol) for symbol in "ABC"]
    result = backtest(markets, replace(FIXED, limits=Limits(max_open_positions=2)))
    assert told(result) == [("A", 1, 3, None), ("B", 1, 3, None)]
    assert [(one.symbol, one.denial) for one in result.refused] == [("C", Denial.MAX_OPEN_POSITIONS)]


def test_an_entry_is_cut_to_the_exposure_that_is_left() -> None:
    markets = [market(flat(4), [1, 0, 0, 0], symbol=symbol) for symbol in "AB"]
    result = backtest(markets, replace(FIXED, limits=Limits(max_exposure_percent=Decimal(15))))
    assert [one.quantity for one in result.trades] == [10.0, 5.0]


@pytest.mark.parametrize(
    ("limits", "sides", "quantities"),
    [
        # B is of A's currency, C of another.
        (Limits(max_currency_exposure_percent=Decimal(15)), (1, 1, 1), [10, 5, 10]),
        (Limits(max_currency_exposure_percent=Decimal(15)), (1, -1, 1), [10, 5, 10]),
        # What B sells makes room for C, on the side that is bought.
        (Limits(max_net_exposure_percent=Decimal(8)), (1, 1, -1), [8, 10]),
        (Limits(max_net_exposure_percent=Decimal(8)), (1, -1, 1), [8, 10, 10]),
        (Limits(max_market_exposure_percent=Decimal(4)), (1, 1, 1), [4, 4, 4]),
        (Limits(max_exposure=Decimal(2500)), (1, -1, 1), [10, 10, 5]),
    ],
)
def test_an_entry_is_cut_to_what_is_left_of_its_currency_its_market_and_its_side(
    limits: Limits, sides: tuple[int, int, int], quantities: list[float]
) -> None:
    bases = {"A": "X", "B": "X", "C": "Z"}
    markets = [
        market(
            flat(4), [side, 0, 0, 0], symbol=symbol, can_short=True,
            rules=MarketRules(symbol, base, "USDT", tick_size=Decimal("0.01"), lot_size=Decimal("0.001")),
        )
        for side, (symbol, base) in zip(sides, bases.items(), strict=True)
    ]  # fmt: skip
    wanted = replace(FIXED, limits=limits)
    for result in (backtest(markets, wanted), Walk(markets, wanted).result()):
        assert [one.quantity for one in result.trades] == pytest.approx(quantities)


def test_what_is_bound_by_one_position_is_not_free_for_the_next() -> None:
    markets = [market(flat(4), [1, 0, 0, 0], symbol=symbol) for symbol in "ABC"]
    wanted = replace(FIXED, amount=Decimal(6000))
    levered = replace(wanted, leverage=Decimal(2))
    for settings, quantities in ((wanted, [60, 40]), (levered, [60, 60, 60])):
        for result in (backtest(markets, settings), Walk(markets, settings).result()):
            assert [one.quantity for one in result.trades] == pytest.approx(quantities)


def test_a_position_opened_at_the_same_open_risks_no_more_than_its_stop() -> None:
    plan = ExitPlan(stop_loss_percent=Decimal(10))
    markets = [market(flat(4), [1, 0, 0, 0], symbol=symbol, plan=plan) for symbol in "AB"]
    wanted = replace(FIXED, limits=Limits(max_open_risk_percent=Decimal("1.5")))
    # A risks 100 of the 150, and 50 is what 5 of B risk.
    for result in (backtest(markets, wanted), Walk(markets, wanted).result()):
        assert [one.quantity for one in result.trades] == pytest.approx([10.0, 5.0])


def test_a_day_that_lost_its_limit_takes_no_more_entries_until_the_next() -> None:
    falling = tape(*[(100, 100, 100, 100)] * 2, (100, 100, 90, 90), *[(90, 90, 90, 90)] * 25)
    entries = [1, 0, 0, 1, *[0] * 19, 1, 0, 0, 0, 0]
    lost = market(falling, entries, [0] * 28, plan=ExitPlan(stop_loss_percent=Decimal(10)))
    result = backtest([lost], replace(FIXED, limits=Limits(max_daily_loss_percent=Decimal(1))))
    assert told(result) == [("X", 1, 2, "STOP_LOSS"), ("X", 0, 3, None)]
    assert [(one.at.hour, one.denial) for one in result.refused] == [(4, Denial.MAX_DAILY_LOSS)]


def test_candles_inside_a_candle_say_whether_the_stop_or_the_target_came_first() -> None:
    held = tape((100, 100, 100, 100), (100, 105, 97, 100), (100, 100, 100, 100))
    inside = Candles.from_rows([
        (HOUR_MS, 100, 105, 100, 104, 1.0), (HOUR_MS + 30 * MINUTE_MS, 104, 104, 97, 100, 1.0)
    ])  # fmt: skip
    plan = ExitPlan(stop_loss_percent=Decimal(2), targets=(TargetLevel(percent=Decimal(4)),))
    blind = backtest([market(held, [1, 0, 0], plan=plan)], FIXED)
    seeing = backtest([market(held, [1, 0, 0], plan=plan, detail=inside)], FIXED)
    assert [(one.exit_reason, one.exit_price) for one in blind.trades] == [("STOP_LOSS", 98.0)]
    assert [(one.exit_reason, one.exit_price) for one in seeing.trades] == [("TAKE_PROFIT", 104.0)]


def test_candles_inside_a_candle_end_the_longest_holding_time_to_their_minute() -> None:
    inside = Candles.from_rows([(index * 30 * MINUTE_MS, 100, 100, 100, 100, 1.0) for index in range(12)])
    plan = ExitPlan(max_hold_minutes=90)
    result = backtest([market(flat(6), [1, 0, 0, 0, 0, 0], plan=plan, detail=inside)], FIXED)
    (trade,) = result.trades
    assert (trade.exit_reason, trade.exit_at.hour, trade.exit_at.minute) == ("TIME_EXIT", 2, 30)


@pytest.mark.parametrize(("side", "paid"), [(1, -3.0), (-1, 3.0)])
def test_funding_is_paid_by_longs_to_shorts_while_a_position_is_held(side: int, paid: float) -> None:
    # At the entry itself, at 2 h and 4 h, and once it is gone.
    rates = FundingRates(np.array([1, 2, 4, 6]) * HOUR_MS, np.array([0.5, 0.001, 0.002, 0.5]))
    one = market(flat(8), [side, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, side, 0, 0, 0], funding=rates, can_short=True)
    result = backtest([one], FIXED)
    (trade,) = result.trades
    assert (trade.funding, trade.pnl) == (paid, paid)
    assert result.equity.tolist()[1:6] == [10_000, 10_000 + paid / 3, 10_000 + paid / 3, 10_000 + paid, 10_000 + paid]


def test_an_order_takes_no_more_than_its_share_of_the_volume_and_the_rest_later() -> None:
    held = tape(
        (100, 100, 100, 100), (100, 100, 100, 100), (102, 102, 102, 102), (104, 104, 104, 104), (104, 104, 104, 104),
        (103, 103, 103, 103), (101, 101, 101, 101), (99, 99, 99, 99), volume=40.0,
    )  # fmt: skip
    one = market(held, [1, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0, 0, 0])
    result = backtest([one], replace(FIXED, volume_share=Decimal("0.1")))
    (trade,) = result.trades
    # 4 at 100, 4 at 102 and 2 at 104; out again 4 at 103, 4 at 101, 2 at 99.
    assert (trade.quantity, trade.entry_price, trade.exit_price, trade.exit_reason) == (10, 101.6, 101.4, "EXIT_SIGNAL")
    assert (trade.exit_at.hour, round(trade.pnl, 9)) == (7, -2.0)
    assert result.equity[-1] == pytest.approx(9_998.0, abs=1e-9)


def test_a_position_is_added_to_as_often_as_is_said_and_its_stop_follows_the_average() -> None:
    held = tape((100, 100, 100, 100), (100, 100, 100, 100), (80, 80, 80, 80), (80, 80, 80, 80), (80, 80, 60, 60))
    one = market(held, [1, 1, 1, 0, 0], plan=ExitPlan(stop_loss_percent=Decimal(25)))
    (trade,) = backtest([one], replace(FIXED, max_entries=2)).trades
    # 10 at 100 and 12.5 at 80; the third signal is one too many.
    assert trade.quantity == 22.5
    assert trade.entry_price == pytest.approx(2000 / 22.5)
    assert (trade.exit_reason, trade.exit_at.hour) == ("STOP_LOSS", 4)
    assert trade.exit_price == pytest.approx(2000 / 22.5 * 0.75)


def test_a_levered_position_is_left_before_its_margin_is_gone_or_with_it() -> None:
    held = tape((100, 100, 100, 100), (100, 100, 100, 100), (100, 100, 70, 70), (70, 70, 70, 70))
    levered = replace(FIXED, amount=Decimal(40_000), leverage=Decimal(5))
    guarded = backtest([market(held, [1, 0, 0, 0])], levered)
    bare = backtest([market(held, [1, 0, 0, 0], plan=ExitPlan(liquidation_guard_percent=None))], levered)
    assert [(one.quantity, one.exit_reason, one.exit_price) for one in guarded.trades] == [
        (400, "LIQUIDATION_GUARD", 84)
    ]
    assert [(one.exit_reason, one.exit_price, one.pnl) for one in bare.trades] == [("LIQUIDATED", 80, -8000)]


def test_a_position_that_is_still_held_is_valued_at_the_last_close_or_closed_there() -> None:
    held = tape((100, 100, 100, 100), (100, 110, 100, 110))
    fee = replace(FIXED, taker_fee=Decimal("0.001"))
    (valued,) = backtest([market(held, [1, 0])], fee).trades
    assert (valued.is_open, valued.exit_price) == (True, 110)
    assert valued.pnl == pytest.approx(99)
    closing = backtest([market(held, [1, 0])], replace(fee, is_closed_at_end=True))
    assert closing.trades[0].exit_reason is ExitReason.SESSION_STOP
    assert closing.trades[0].pnl == pytest.approx(97.9)
    assert closing.equity[-1] == pytest.approx(10_097.9)


def test_slippage_and_half_the_spread_are_paid_on_market_orders_and_not_on_targets() -> None:
    held = tape((100, 100, 100, 100), (100, 120, 100, 110))
    costly = replace(FIXED, slippage=Decimal("0.01"), spread=Decimal("0.02"))
    plan = ExitPlan(targets=(TargetLevel(percent=Decimal(10)),))
    (trade,) = backtest([market(held, [1, 0], plan=plan)], costly).trades
    assert trade.entry_price == 102
    assert trade.exit_price == pytest.approx(112.2)
    (tracked,) = backtest([market(held, [1, 0], plan=plan)], replace(costly, rests_targets=False)).trades
    assert tracked.exit_price == pytest.approx(112.2 * 0.98)


def test_a_strategy_is_heard_once_it_is_warm_and_its_equity_begins_there() -> None:
    close = 100 + 10 * np.sin(np.arange(400) / 9)
    held = Candles(np.arange(400) * HOUR_MS, close, close, close, close, np.ones(400))
    strategy = SmaCross.from_values({"fast": 3, "slow": 10, "stop_loss_percent": None, "take_profit_percent": None})
    result = backtest([MarketInput("X", held, Timeframe.H1, strategy=strategy)])
    assert result.open_ms[0] == 11 * HOUR_MS
    assert len(result.equity) == 389
    assert all(trade.side is PositionSide.LONG and trade.pnl > 0 for trade in result.trades)
    assert len(result.trades) == 7


def test_what_makes_no_sense_is_refused_with_what_was_wanted() -> None:
    with pytest.raises(ValueError, match="wanted each market once, was X, X"):
        backtest([market(flat(3), [1, 0, 0]), market(flat(3), [1, 0, 0])])
    with pytest.raises(ValueError, match="wanted a signal for each of the 3 candles of X, was 2 entries and 2 exits"):
        backtest([market(flat(3), [1, 0])])
    with pytest.raises(ValueError, match="wanted signals or a strategy for X, was neither"):
        backtest([MarketInput("X", flat(3), Timeframe.H1)])
    with pytest.raises(ValueError, match="wanted at least 1 entry and leverage 1, was 0 and 1"):
        Settings(max_entries=0)
    with pytest.raises(ValueError, match="needs returns of markets"):
        Settings(limits=Limits(max_var_percent=Decimal(5)))
    assert backtest([]).trades == ()
