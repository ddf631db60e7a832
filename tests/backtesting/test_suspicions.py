"""Warnings about a backtest: each appears where its figures are suspicious, and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from backtesting.engine import backtest
from backtesting.engine.inputs import MarketInput, Refused, Result, Settings, Trade
from backtesting.figures import figures_of
from domain.candles import Candles, Timeframe
from domain.exit_plan import ExitPlan, RoiStep, TargetLevel
from domain.exits import ExitReason
from domain.informative import Facts, Informative, Others
from domain.market import PositionSide
from domain.orders import Denial
from domain.sizing import SizingMethod
from domain.strategy import Parameters, SignalArrays, Strategy
from strategies.library.sma_cross import SmaCross

DAY, DAY_MS, HOUR_MS = timedelta(days=1), 86_400_000, 3_600_000
NEW_YEAR = datetime(2024, 1, 1, tzinfo=UTC)
NEW_YEAR_MS = int(NEW_YEAR.timestamp() * 1000)
COSTLY = Settings(maker_fee=Decimal("0.001"), taker_fee=Decimal("0.001"))
DAYS = 240
SMA = SmaCross.from_values({"fast": 3, "slow": 10})


def market(close: Sequence[float] | None = None, **values: Any) -> MarketInput:
    """240 days at 100, of plenty of volume, that reach a tenth of a percent up and down."""
    price = np.full(DAYS, 100.0) if close is None else np.asarray(close, dtype=np.float64)
    open_ms = NEW_YEAR_MS + np.arange(len(price)) * DAY_MS
    candles = Candles(open_ms, price, price * 1.001, price * 0.999, price, np.full(len(price), 1e6))
    return MarketInput(**{"symbol": "X", "candles": candles, "timeframe": Timeframe.D1, "strategy": SMA, **values})


def trades(*results: float, every: int = 4, **values: Any) -> list[Trade]:
    """One trade after another that made ``results``, of 10 at 100 each, two days long."""
    return [
        Trade(
            **{
                "symbol": "X", "side": PositionSide.LONG, "entry_at": NEW_YEAR + (every * number + 1) * DAY,
                "entry_price": 100.0, "exit_at": NEW_YEAR + (every * number + 3) * DAY, "exit_price": 100 + pnl / 10,
                "quantity": 10.0, "pnl": pnl, "gain": pnl / 1000, "fees": 0.1, "exit_reason": ExitReason.EXIT_SIGNAL,
                **values,
            }
        ) for number, pnl in enumerate(results)
    ]  # fmt: skip


# 58 trades over 240 days, won and lost in turn.
SOUND = trades(*[30.0, -20.0] * 29)


def warned(
    made: Sequence[Trade],
    settings: Settings = COSTLY,
    markets: Sequence[MarketInput] | None = None,
    refused: Sequence[Refused] = (),
) -> dict[str, str]:
    """The warnings about ``made``, by code."""
    given = [market()] if markets is None else markets
    open_ms = given[0].candles.open_ms
    equity = np.full(len(open_ms), 10_000.0)
    for one in made:
        equity[np.searchsorted(open_ms, int(one.exit_at.timestamp() * 1000)) :] += one.pnl
    told = figures_of(Result(made, open_ms, equity, refused), settings, given)
    return {one["code"]: one["text"] for one in told["warnings"]}


def test_a_sound_backtest_is_not_suspicious() -> None:
    assert warned(SOUND) == {}


def test_few_trades_are_named_with_what_their_wins_may_be_worth() -> None:
    assert warned(trades(*[30.0, -20.0] * 10, every=11)) == {
        "FEW_TRADES": "Only 20 trades have ended, and 30 are few: 50.00 % of wins may as well be 29.93 % or 70.07 %"
    }
    assert warned([]) == {"FEW_TRADES": "No trade has ended; 30 are few"}
    assert "FEW_TRADES" not in warned(trades(*[30.0, -20.0] * 15))


def test_a_short_span_is_named() -> None:
    short = market([100.0] * 89)
    made = trades(*[30.0, -20.0] * 20, every=2)
    assert warned(made, markets=[short]) == {
        "SHORT_SPAN": "89 days of candles have seen one kind of market; wanted 90 at least"
    }
    assert warned(made, markets=[market([100.0] * 90)]) == {}


def test_one_trade_that_makes_the_profit_is_named() -> None:
    one = trades(*[20.0, -20.0] * 14, 500.0, *[20.0, -21.0] * 14)
    assert warned(one)["ONE_TRADE"] == "One trade, entered on 2024-04-23, made 500.00; the other 56 together -14.00"
    spread = trades(*[20.0, -20.0] * 14, 500.0, *[20.0, -19.0] * 14)
    assert "ONE_TRADE" not in warned(spread)


def test_a_few_trades_that_make_the_profit_are_named() -> None:
    few = trades(*[20.0, -20.0] * 10, 200.0, *[20.0, -21.0] * 10, 200.0, 200.0, *[10.0, -20.0] * 8)
    assert warned(few)["BEST_TRADES"] == "The best 3 of 59 trades made 600.00; the others together -90.00"
    assert "ONE_TRADE" not in warned(few)
    more = trades(*[20.0, -20.0] * 10, 200.0, *[20.0, -21.0] * 10, 200.0, 200.0, *[22.0, -20.0] * 8)
    assert "BEST_TRADES" not in warned(more)


def test_a_profit_that_is_less_than_the_fees_is_named() -> None:
    eaten = trades(*[20.0, -21.0] * 29, fees=1.0)
    assert warned(eaten) == {"PROFIT_ONLY_WITHOUT_FEES": "A profit of 29.00 before fees of 58.00 is -29.00 after them"}
    assert warned(trades(*[20.0, -21.0] * 29, fees=0.4)) == {}  # it loses even so


def test_slippage_counts_among_what_was_paid() -> None:
    slipping = replace(COSTLY, slippage=Decimal("0.001"))
    text = warned(trades(*[20.0, -21.0] * 29, fees=0.0), slipping)["PROFIT_ONLY_WITHOUT_FEES"]
    # 1000 in and 1020 or 979 out, each bought a thousandth dearer and sold a thousandth cheaper than was seen.
    assert text == "A profit of 86.97 before fees of 0.00 and slippage of 115.97 is -29.00 after them"


def test_a_backtest_without_fees_says_which_fee_it_would_bear() -> None:
    free = Settings()
    made = trades(*[30.0, -20.0] * 29, fees=0.0)
    # 290 of 58 times 1000 in and 1005 out on average.
    assert warned(made, free) == {"NO_FEES": "No fee was charged, and more than 0.25 % a side would make it a loss"}
    assert warned(trades(*[20.0, -21.0] * 29, fees=0.0), free)["NO_FEES"] == "No fee was charged, and it loses even so"


def test_a_month_that_makes_most_of_the_profit_is_named() -> None:
    results = [30.0, -20.0] * 29
    results[40:46] = [100.0, 90.0, 80.0, 90.0, 70.0, 80.0]
    # The trades from day 160 to 186 end in June and July.
    text = warned(trades(*results))["ONE_MONTH"]
    assert text == "57.14 % of the profit of 8 months is that of 2024-06"
    assert "ONE_MONTH" not in warned(trades(*results, every=2), markets=[market([100.0] * 150)])  # of 5 months


def test_trades_that_are_still_open_and_make_the_result_are_named() -> None:
    made = trades(*[20.0, -21.0] * 29)
    held = trades(100.0, exit_reason=None)[0]
    held = replace(held, entry_at=NEW_YEAR + 235 * DAY, exit_at=NEW_YEAR + 239 * DAY)
    assert warned([*made, held])["OPEN_TRADES"] == (
        "1 trade still open: worth 100.00 of 71.00; those that ended made -29.00"
    )
    assert "OPEN_TRADES" in warned([*SOUND, replace(held, pnl=400.0)])
    assert warned([*SOUND, held]) == {}


def test_more_entries_refused_than_made_are_named() -> None:
    refused = [Refused("X", NEW_YEAR, PositionSide.SHORT, Denial.SIDE_NOT_TRADABLE)] * 58
    poor = Refused("X", NEW_YEAR, PositionSide.LONG, Denial.INSUFFICIENT_BALANCE)
    assert warned(SOUND, refused=refused) == {}
    assert warned(SOUND, refused=[*refused, poor]) == {
        "MANY_REFUSED": "59 entries were refused (SIDE_NOT_TRADABLE 58, INSUFFICIENT_BALANCE 1) and 58 made"
    }


def test_a_lost_account_and_liquidated_positions_are_named() -> None:
    lost = trades(*[30.0, -20.0] * 28, -12_000.0, 30.0)
    assert warned(lost)["ACCOUNT_LOST"].startswith("On 2024-08-15 00:00 nothing was left of the account")
    gone = [*SOUND[:57], replace(SOUND[57], exit_reason=ExitReason.LIQUIDATED)]
    assert warned(gone) == {"LIQUIDATED": "1 of 58 positions were liquidated"}


@pytest.mark.parametrize(
    ("plan", "is_near"),
    [
        (ExitPlan(stop_loss_percent=Decimal("0.25")), True),
        (ExitPlan(stop_loss_percent=Decimal("0.35")), False),
        (ExitPlan(trailing_percent=Decimal("0.25"), stop_loss_percent=Decimal(2)), True),
        (ExitPlan(stop_loss_atr=Decimal(1)), True),  # candles of 0.2 % from low to high
        (ExitPlan(trailing_atr=Decimal(1)), True),
        (ExitPlan(stop_loss_atr=Decimal(2)), False),
        (ExitPlan(), False),
    ],
)
def test_stops_inside_the_spread_and_slippage_are_named(plan: ExitPlan, is_near: bool) -> None:
    wide = replace(COSTLY, spread=Decimal("0.002"), slippage=Decimal("0.001"))
    late = [one for one in SOUND if one.entry_at > NEW_YEAR + 20 * DAY]  # an average range is known by then
    found = warned(late, wide, [market(plan=plan)])
    assert ("STOP_INSIDE_SPREAD" in found) is is_near
    if is_near:
        near = "0.20 %" if plan.stop_loss_atr or plan.trailing_atr else "0.25 %"
        assert found["STOP_INSIDE_SPREAD"] == (
            f"53 of 53 trades had their stop inside the spread and slippage of 0.30 %: {near} away in the middle of them"
        )
    assert "STOP_INSIDE_SPREAD" not in warned(late, COSTLY, [market(plan=plan)])


def test_stops_that_signals_name_are_measured_each() -> None:
    silent, spoken = np.zeros(DAYS, np.int8), np.ones(DAYS, np.int8)
    stops = np.full(DAYS, 98.0)
    stops[4:20] = 99.9  # the signals of the trades entered on the days 5, 9, 13 and 17
    said = SignalArrays(spoken, silent, stops=stops)
    near = market(signals=said, plan=ExitPlan(is_stop_from_signal=True))
    found = warned(SOUND, replace(COSTLY, spread=Decimal("0.002")), [near])
    assert found["STOP_INSIDE_SPREAD"].startswith("4 of 58 trades")


def wild(*reaching: int, high: float = 110.0) -> MarketInput:
    """Candles that reach up to ``high`` on some days, and a plan of a target 5 % up."""
    held = market(plan=ExitPlan(stop_loss_percent=Decimal(2), targets=(TargetLevel(percent=Decimal(5)),)))
    held.candles.high[list(reaching)] = high
    held.candles.low[:] = 97.0
    return held


STOPPED = trades(*[30.0, -20.0] * 29)
STOPPED = [replace(one, exit_reason=ExitReason.STOP_LOSS) if one.pnl < 0 else one for one in STOPPED]


def test_stop_and_target_in_one_candle_are_named_where_they_are_many() -> None:
    # Trades 1, 3 and 5 are stopped on the days 7, 15 and 23.
    assert warned(STOPPED, markets=[wild(7, 15, 23)]) == {
        "STOP_AND_TARGET_IN_ONE_CANDLE": "3 of 58 trades met stop and target in one candle, and were taken to have met the "
        "stop first; a detail timeframe would tell"
    }
    assert warned(STOPPED, markets=[wild(7, 15)]) == {}  # of 58
    assert warned(STOPPED, markets=[wild(7, 15, 23, high=104.9)]) == {}
    within = wild(7, 15, 23)
    assert warned(STOPPED, markets=[replace(within, detail=within.candles)]) == {}


def test_a_candle_that_opens_beyond_the_stop_met_it_first_for_certain() -> None:
    gapped = wild(7, 15, 23)
    gapped.candles.open[[7, 15, 23]] = 97.5
    fell = [replace(one, exit_price=97.5) if one.exit_reason is ExitReason.STOP_LOSS else one for one in STOPPED]
    assert warned(fell, markets=[gapped]) == {}


def test_targets_of_signals_of_time_and_of_shorts_are_known_too() -> None:
    silent, spoken = np.zeros(DAYS, np.int8), np.ones(DAYS, np.int8)
    said = SignalArrays(spoken, silent, targets=np.full(DAYS, 105.0))
    by_signal = replace(wild(7, 15, 23), signals=said, plan=ExitPlan(is_target_from_signal=True))
    assert "STOP_AND_TARGET_IN_ONE_CANDLE" in warned(STOPPED, markets=[by_signal])
    steps = (RoiStep(minutes=0, percent=Decimal(20)), RoiStep(minutes=2 * 1440, percent=Decimal(9)))
    assert "STOP_AND_TARGET_IN_ONE_CANDLE" in warned(
        STOPPED, markets=[replace(wild(7, 15, 23), plan=ExitPlan(roi=steps))]
    )
    later = (steps[0], RoiStep(minutes=2 * 1440 + 1, percent=Decimal(9)))
    assert warned(STOPPED, markets=[replace(wild(7, 15, 23), plan=ExitPlan(roi=later))]) == {}
    short = [replace(one, side=PositionSide.SHORT, exit_price=102.0) for one in STOPPED]
    falling = wild()
    falling.candles.high[:] = 103.0
    falling.candles.low[[7, 15, 23]] = 90.0
    falling.candles.low[[11, 19]] = 96.0
    found = warned(short, markets=[falling])
    assert found["STOP_AND_TARGET_IN_ONE_CANDLE"].startswith("3 of 58")


def test_orders_above_a_part_of_their_candle_s_volume_are_named() -> None:
    thin = market()
    thin.candles.volume[[1, 7, 9]] = 99.0  # the trades of 10 entered or left there
    assert warned(SOUND, markets=[thin]) == {
        "THIN_VOLUME": "3 of 58 trades asked for more than 10.00 % of the volume of the candle that filled their entry or "
        "their exit; a volume share would fill them as the market could"
    }
    assert warned(SOUND, replace(COSTLY, volume_share=Decimal("0.1")), [thin]) == {}
    thin.candles.volume[7] = 100.0
    assert warned(SOUND, markets=[thin]) == {}
    thin.candles.volume[:] = 0.0  # none is known
    assert warned(SOUND, markets=[thin]) == {}


def without(held: MarketInput, *missing: int) -> MarketInput:
    kept = np.setdiff1d(np.arange(len(held.candles)), missing)
    return replace(held, candles=Candles(*(getattr(held.candles, name)[kept] for name in (
        "open_ms", "open", "high", "low", "close", "volume"
    ))))  # fmt: skip


def test_holes_in_the_candles_are_named() -> None:
    holed = without(market(), 100, 200, 201)
    assert warned(SOUND, markets=[holed]) == {
        "HOLES": "3 of 240 candles of X are missing, in 2 holes; the widest from 2024-07-19 00:00 to 2024-07-21 00:00"
    }


def test_a_market_that_never_trades_on_saturdays_has_weekends_and_no_holes() -> None:
    # The year began on a Monday, and so did the weeks of the days 91 and 98: one with two days off, one with three.
    weekends = [day for day in range(DAYS) if day % 7 in (5, 6)]
    assert "HOLES" not in warned(SOUND, markets=[without(market(), *weekends, 91, 92)])
    long = warned(SOUND, markets=[without(market(), *weekends, 91, 92, 98, 99, 100)])
    assert long["HOLES"].startswith("5 of 172 candles of X are missing, in 1 hole; the widest from 2024-04-06")


class Peeking(Strategy[Parameters]):
    """Knows the next close."""

    name = "peeking"
    title = "Peeking"
    parameters_type = Parameters
    warm_up = 5

    def signals(self, candles: Candles) -> SignalArrays:
        after = np.append(candles.close[1:], candles.close[-1:])
        return SignalArrays.of_turns(after > candles.close, after < candles.close)


class Failing(Peeking):
    """Cannot do with less than all candles."""

    def signals(self, candles: Candles) -> SignalArrays:
        if len(candles) < 1500:
            raise KeyError("no candles of old")
        return super().signals(candles)


class Beside(Strategy[Parameters]):
    """Goes by candles of four hours, as they had closed."""

    name = "beside"
    title = "Beside"
    parameters_type = Parameters
    warm_up = 5
    FOUR = Informative(Timeframe.H4, warm_up=2)

    def signals_with(self, candles: Candles, others: Others) -> SignalArrays:
        closes = others.align(self.FOUR, others[self.FOUR].close)
        return SignalArrays.of_turns(candles.close > closes, candles.close < closes)


def hours(strategy: type[Strategy[Any]] | None, **values: Any) -> MarketInput:
    close = 100 * np.exp(np.cumsum(np.random.default_rng(5).normal(0, 0.01, 4000)))
    candles = Candles(
        NEW_YEAR_MS + np.arange(4000) * HOUR_MS, close, close * 1.001, close * 0.999, close, np.full(4000, 1e9)
    )
    four = Candles(*(getattr(candles, name)[::4] for name in ("open_ms", "open", "high", "low", "close", "volume")))
    return MarketInput(
        "X", candles, Timeframe.H1, strategy=None if strategy is None else strategy.from_values({}), plan=ExitPlan(),
        facts=Facts({Beside.FOUR: four}), **values,
    )  # fmt: skip


def looked(held: MarketInput, **options: bool) -> dict[str, str]:
    settings = replace(COSTLY, sizing=SizingMethod.FIXED_QUOTE, amount=Decimal(1))
    told = figures_of(backtest([held], settings), settings, [held], **options)
    return {one["code"]: one["text"] for one in told["warnings"] if "LOOK" in one["code"]}


def test_a_strategy_that_looks_ahead_is_named_with_the_candle() -> None:
    text = looked(hours(Peeking))["LOOKS_AHEAD"]
    assert text.startswith("The strategy looks ahead on X: of entries at 2024-")
    assert text.endswith("wanted 1 as with all history, was 0 with a part of it")


@pytest.mark.parametrize("strategy", [SmaCross, Beside])
def test_a_strategy_that_goes_by_the_past_is_not(strategy: type[Strategy[Any]]) -> None:
    assert looked(hours(strategy)) == {}


def test_what_was_not_checked_for_looking_ahead_is_said() -> None:
    said = SignalArrays(np.tile(np.array([1, 0], np.int8), 2000), np.tile(np.array([0, 1], np.int8), 2000))
    assert looked(hours(None, signals=said)) == {
        "LOOK_AHEAD_NOT_CHECKED": "Whether the signals look ahead was not checked: they were given without a strategy for X"
    }
    assert looked(hours(Peeking), checks_look_ahead=False) == {
        "LOOK_AHEAD_NOT_CHECKED": "Whether the signals look ahead was not checked: that was not asked for"
    }
    assert looked(hours(Failing)) == {
        "LOOK_AHEAD_NOT_CHECKED": "Asked about a part of X's candles the strategy failed: KeyError: 'no candles of old'"
    }
