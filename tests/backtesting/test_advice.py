"""A strategy's word while it trades: what it is shown, when it is asked, and what its answers do, to the last digit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backtesting.engine import backtest, is_common
from backtesting.engine.inputs import MarketInput, Result, Settings
from domain.advice import Advice, Adviser, EntryWish, EntryWord, ExitWish, ExitWord, PositionView
from domain.candles import Candles, Timeframe
from domain.exit_plan import ExitPlan, TargetLevel
from domain.informative import Others
from domain.sizing import SizingMethod
from domain.soundness import advises_otherwise
from domain.strategy import Parameters, SignalArrays, Strategy

HOUR_MS, MINUTE_MS = 3_600_000, 60_000
FIXED = Settings(sizing=SizingMethod.FIXED_QUOTE, amount=Decimal(1000))
Row = tuple[float, float, float, float]
CALM: Row = (100.0, 100.0, 100.0, 100.0)


class Says(Adviser):
    """Answers what it was given, and remembers what it was asked."""

    def __init__(
        self,
        entry: Callable[[EntryWish], EntryWord | None] = lambda wish: EntryWord(),
        held: Callable[[PositionView], Advice] = lambda position: Advice(),
        leaving: Callable[[PositionView, ExitWish], ExitWord | None] = lambda position, wish: ExitWord(),
    ) -> None:
        self.entry, self.held, self.leaving = entry, held, leaving
        self.entries: list[EntryWish] = []
        self.views: list[PositionView] = []
        self.exits: list[tuple[PositionView, ExitWish]] = []

    def on_entry(self, wish: EntryWish) -> EntryWord | None:
        self.entries.append(wish)
        return self.entry(wish)

    def while_held(self, position: PositionView) -> Advice:
        self.views.append(position)
        return self.held(position)

    def on_exit(self, position: PositionView, wish: ExitWish) -> ExitWord | None:
        self.exits.append((position, wish))
        return self.leaving(position, wish)


def tape(*rows: Row, step: int = HOUR_MS) -> Candles:
    return Candles.from_rows([(index * step, *row, 1000.0) for index, row in enumerate(rows)])


def run(
    adviser: Adviser, *rows: Row, said: dict[int, int] | None = None, leave: int | None = None, **values: Any
) -> Result:
    """A run over hours; ``said`` are entries by index, the first candle's by default."""
    entries, exits = np.zeros(len(rows), np.int8), np.zeros(len(rows), np.int8)
    for index, side in (said or {0: 1}).items():
        entries[index] = side
    if leave is not None:
        exits[leave] = 1
    asked = values.pop("settings", FIXED)
    market = MarketInput(
        "X", tape(*rows), Timeframe.H1, SignalArrays(entries, exits), adviser=adviser,
        **{"plan": ExitPlan(), "can_short": True, **values},
    )  # fmt: skip
    return backtest([market], asked)


def told(result: Result) -> list[tuple[int, int, float, str | None, str]]:
    return [
        (one.entry_at.hour, one.exit_at.hour, one.exit_price, one.exit_reason, one.exit_tag) for one in result.trades
    ]


def test_it_is_shown_what_had_closed_and_the_position_as_it_stands() -> None:
    adviser = Says()
    rows = [CALM, (100.0, 103.0, 99.0, 101.0), (101.0, 105.0, 100.0, 104.0), (104.0, 104.0, 104.0, 104.0)]
    run(adviser, *rows, leave=2, settings=replace(FIXED, taker_fee=Decimal("0.001")))
    [wish] = adviser.entries
    assert (wish.index, wish.at, wish.price, wish.stake) == (0, at(1), Decimal(100), Decimal(1000))
    assert [(one.is_new, one.index, one.at, one.price, one.best_price) for one in adviser.views] == [
        (True, 0, at(1), Decimal(100), Decimal(100)),
        (False, 1, at(2), Decimal(101), Decimal(100)),  # the entry candle's own best may lie before the entry
        (False, 2, at(3), Decimal(104), Decimal(105)),
    ]
    assert {(one.entry_price, one.quantity, one.opened_at, one.fee) for one in adviser.views} == {
        (Decimal(100), Decimal(10), at(1), Decimal("0.001"))
    }
    [(view, leaving)] = adviser.exits
    assert (view.index, view.at, leaving.price, leaving.reason) == (2, at(3), Decimal(104), "EXIT_SIGNAL")
    assert view.held == timedelta(hours=2)


def at(hour: int) -> datetime:
    return datetime.fromtimestamp(hour * 3600, tz=UTC)


def test_a_stop_that_it_names_counts_from_the_next_candle_and_never_goes_back() -> None:
    stops = iter((None, 98, 99, 95))
    adviser = Says(held=lambda position: Advice(stop=None if (stop := next(stops)) is None else Decimal(stop)))
    rows = [
        CALM,
        (100.0, 100.0, 97.0, 100.0),
        (100.0, 101.0, 99.5, 100.0),
        (100.0, 100.0, 99.5, 99.5),
        (99.5, 99.5, 98.0, 98.0),
    ]
    assert told(run(adviser, *rows)) == [(1, 4, 99.0, "TRAILING_STOP", "")]
    assert [one.stop for one in adviser.views] == [None, None, 98, 99]


@pytest.mark.parametrize(("side", "level", "price"), [(1, 99, 99.0), (-1, 101, 101.0)])
def test_the_nearer_of_plan_and_advice_is_the_stop(side: int, level: int, price: float) -> None:
    adviser = Says(held=lambda position: Advice(stop=Decimal(level)))
    wide = run(
        adviser, CALM, CALM, (100.0, 104.0, 96.0, 100.0), said={0: side}, plan=ExitPlan(stop_loss_percent=Decimal(3))
    )
    assert told(wide) == [(1, 2, price, "TRAILING_STOP", "")]
    near = run(
        adviser,
        CALM,
        CALM,
        (100.0, 104.0, 96.0, 100.0),
        said={0: side},
        plan=ExitPlan(stop_loss_percent=Decimal("0.5")),
    )
    assert told(near) == [(1, 2, 100 - side * 0.5, "STOP_LOSS", "")]


def test_levels_that_it_names_when_the_entry_filled_count_in_the_entry_candle() -> None:
    adviser = Says(held=lambda position: Advice(target=Decimal(102), leave="now") if position.is_new else Advice())
    assert told(run(adviser, CALM, (100.0, 103.0, 99.0, 100.0))) == [(1, 1, 102.0, "TAKE_PROFIT", "")]


def test_it_leaves_at_the_next_open_with_its_own_word_even_where_signals_are_not_used() -> None:
    adviser = Says(held=lambda position: Advice(leave="tired") if position.held >= timedelta(hours=2) else Advice())
    result = run(
        adviser, CALM, CALM, CALM, (101.0, 101.0, 101.0, 101.0), CALM, plan=ExitPlan(is_exit_signal_used=False)
    )
    assert told(result) == [(1, 3, 101.0, "EXIT_SIGNAL", "tired")]


def test_a_level_comes_before_its_word_to_leave() -> None:
    adviser = Says(held=lambda position: Advice(leave="tired"))
    result = run(adviser, CALM, CALM, (90.0, 90.0, 90.0, 90.0), plan=ExitPlan(stop_loss_percent=Decimal(5)))
    assert told(result) == [(1, 2, 90.0, "STOP_LOSS", "")]


def test_an_entry_that_it_does_not_want_is_not_made_and_none_is_refused() -> None:
    result = run(Says(entry=lambda wish: None), CALM, CALM, CALM)
    assert (result.trades, result.refused) == ((), ())


def test_its_stake_is_cut_to_what_is_free() -> None:
    adviser = Says(entry=lambda wish: EntryWord(stake=wish.most * 2))
    [trade] = run(adviser, CALM, CALM, CALM).trades
    assert (adviser.entries[0].most, trade.quantity) == (Decimal(10_000), 100.0)


def test_an_entry_at_its_price_waits_within_the_candle_and_is_asked_about_again() -> None:
    adviser = Says(entry=lambda wish: EntryWord(price=Decimal(99 if wish.is_again else 98)))
    rows = [CALM, (100.0, 100.0, 98.5, 100.0), (100.0, 104.0, 98.9, 100.0), CALM]
    [trade] = run(adviser, *rows, settings=replace(FIXED, maker_fee=Decimal("0.001"))).trades
    assert (trade.entry_at.hour, trade.entry_price, round(trade.fees, 9)) == (2, 99.0, 0.99)
    assert [(one.is_again, one.index) for one in adviser.entries] == [(False, 0), (True, 1)]
    given_up = Says(entry=lambda wish: None if wish.is_again else EntryWord(price=Decimal(98)))
    assert run(given_up, *rows).trades == ()


@pytest.mark.parametrize(("side", "price", "paid"), [(1, 105, 100.0), (-1, 95, 100.0), (1, 100, 100.0)])
def test_a_price_that_the_open_betters_fills_there(side: int, price: int, paid: float) -> None:
    adviser = Says(entry=lambda wish: EntryWord(price=Decimal(price)))
    [trade] = run(adviser, CALM, CALM, CALM, said={0: side}).trades
    assert trade.entry_price == paid


def test_in_the_candle_that_falls_to_an_entry_the_stop_counts_and_the_target_does_not() -> None:
    adviser = Says(entry=lambda wish: EntryWord(price=Decimal(98)))
    plan = ExitPlan(stop_loss_percent=Decimal(5), targets=(TargetLevel(percent=Decimal(2)),))
    met = run(adviser, CALM, (100.0, 103.0, 97.0, 98.0), (98.0, 101.0, 98.0, 98.0), plan=plan)
    assert told(met) == [(1, 2, 99.96, "TAKE_PROFIT", "")]
    fallen = run(adviser, CALM, (100.0, 103.0, 90.0, 98.0), CALM, plan=plan)
    assert told(fallen) == [(1, 1, 93.1, "STOP_LOSS", "")]


def test_with_candles_inside_it_counts_from_the_one_in_which_it_filled() -> None:
    adviser = Says(entry=lambda wish: EntryWord(price=Decimal(98)))
    inside = [
        (100.0, 103.0, 100.0, 100.0),
        (100.0, 100.0, 97.9, 98.0),
        (98.0, 100.5, 98.0, 100.0),
        (100.0, 100.0, 100.0, 100.0),
    ]
    detail = Candles.from_rows(
        [(HOUR_MS + index * 15 * MINUTE_MS, *row, 1.0) for index, row in enumerate(inside)]
    )  # fmt: skip
    plan = ExitPlan(stop_loss_percent=Decimal(5), targets=(TargetLevel(percent=Decimal(2)),))
    [trade] = run(adviser, CALM, (100.0, 103.0, 97.9, 100.0), CALM, plan=plan, detail=detail).trades
    assert (trade.entry_at, trade.exit_at) == (at(1) + timedelta(minutes=15), at(1) + timedelta(minutes=30))
    assert trade.exit_price == 99.96


def test_an_exit_that_it_does_not_want_is_asked_about_again_with_the_next_candle() -> None:
    adviser = Says(leaving=lambda position, wish: ExitWord() if position.at >= at(3) else None)
    rows = [CALM, CALM, (90.0, 90.0, 85.0, 88.0), (88.0, 90.0, 85.0, 88.0), CALM]
    result = run(adviser, *rows, plan=ExitPlan(stop_loss_percent=Decimal(5)))
    assert told(result) == [(1, 3, 88.0, "STOP_LOSS", "")]
    assert [view.at for view, _ in adviser.exits] == [at(2), at(3)]


def test_the_venue_liquidates_whatever_it_wants() -> None:
    adviser = Says(leaving=lambda position, wish: None)
    rows = [CALM, CALM, (94.0, 94.0, 85.0, 88.0), (88.0, 90.0, 70.0, 88.0), CALM]
    plan = ExitPlan(stop_loss_percent=Decimal(5), liquidation_guard_percent=None)
    result = run(adviser, *rows, plan=plan, settings=replace(FIXED, leverage=Decimal(5)))
    assert told(result) == [(1, 3, 80.0, "LIQUIDATED", "")]


def test_an_exit_at_its_price_waits_for_as_long_as_the_candle_lasts() -> None:
    adviser = Says(leaving=lambda position, wish: ExitWord(Decimal(102)))
    rows = [CALM, CALM, (100.0, 101.0, 99.0, 100.0), (100.0, 105.0, 99.0, 100.0), CALM]
    assert told(run(adviser, *rows, leave=1)) == [(1, 4, 100.0, None, "")]
    assert told(run(adviser, *rows, leave=2)) == [(1, 3, 102.0, "EXIT_SIGNAL", "")]
    stopped = run(adviser, *rows, leave=2, plan=ExitPlan(stop_loss_percent=Decimal(1)))
    assert told(stopped) == [(1, 2, 99.0, "STOP_LOSS", "")]
    both = run(
        adviser, *rows[:3], (100.0, 105.0, 98.0, 100.0), leave=2, plan=ExitPlan(stop_loss_percent=Decimal("1.5"))
    )
    assert told(both) == [(1, 3, 98.5, "STOP_LOSS", "")]


def test_an_entry_with_its_leverage_and_plan_binds_a_part_and_is_left_by_that_plan() -> None:
    plan = ExitPlan(stop_loss_percent=Decimal(2), liquidation_guard_percent=None)
    adviser = Says(entry=lambda wish: EntryWord(stake=Decimal(30_000), leverage=Decimal(4), plan=plan))
    rows = [CALM, CALM, (100.0, 100.0, 97.0, 99.0), CALM]
    [trade] = run(adviser, *rows, plan=ExitPlan(stop_loss_percent=Decimal(10))).trades
    assert (trade.quantity, trade.exit_price, trade.exit_reason) == (300.0, 98.0, "STOP_LOSS")
    assert adviser.entries[0].max_leverage == 125
    assert [one.most for one in adviser.views] == [2500, 2500]
    [trade] = run(adviser, *rows, can_short=False).trades
    assert trade.quantity == 100.0
    loose = Says(entry=lambda wish: EntryWord(leverage=Decimal(4), plan=ExitPlan(liquidation_guard_percent=None)))
    [trade] = run(loose, *rows[:2], (100.0, 100.0, 70.0, 80.0), CALM).trades
    assert (trade.exit_price, trade.exit_reason) == (75.0, "LIQUIDATED")


def test_it_adds_at_the_next_open_as_much_as_it_says() -> None:
    adviser = Says(held=lambda position: Advice(add=Decimal(500)) if position.price < 99 else Advice())
    rows = [CALM, (100.0, 100.0, 98.0, 98.0), (95.0, 100.0, 95.0, 100.0), CALM]
    [trade] = run(adviser, *rows).trades
    assert trade.quantity == pytest.approx(10 + 500 / 95)
    assert [one.is_adding for one in adviser.entries] == [False, True]
    assert float(adviser.entries[1].stake) == pytest.approx(500)
    assert [len(one.orders) for one in adviser.views] == [1, 1, 2, 2, 2]


def test_what_it_remembers_lasts_as_long_as_the_position() -> None:
    def held(position: PositionView) -> Advice:
        position.memory["asked"] = position.memory.get("asked", 0) + 1
        return Advice(leave="three" if position.memory["asked"] == 3 else "")

    result = run(Says(held=held), *[CALM] * 8, said={0: 1, 4: 1})
    assert [(one.entry_at.hour, one.exit_at.hour) for one in result.trades] == [(1, 3), (5, 7)]


def test_one_that_has_a_word_is_not_for_the_fast_loop() -> None:
    plain = MarketInput("X", tape(CALM, CALM), Timeframe.H1, SignalArrays(np.zeros(2, np.int8), np.zeros(2, np.int8)))
    assert is_common(plain, FIXED)
    assert not is_common(replace(plain, adviser=Adviser()), FIXED)
    assert not is_common(replace(plain, strategy=Follows(Parameters())), FIXED)


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_one_that_says_nothing_changes_nothing(seed: int) -> None:
    random = np.random.default_rng(seed)
    close = np.round(100 * np.exp(np.cumsum(random.normal(0, 0.01, 120))), 2)
    open_ = np.concatenate(([100.0], close[:-1]))
    candles = Candles(
        np.arange(120) * HOUR_MS,
        open_,
        np.maximum(open_, close) + 0.4,
        np.minimum(open_, close) - 0.4,
        close,
        np.ones(120),
    )
    said = SignalArrays(random.integers(-1, 2, 120).astype(np.int8), (random.random(120) < 0.1).astype(np.int8))
    plan = ExitPlan(
        stop_loss_percent=Decimal(2), targets=(TargetLevel(percent=Decimal(3)),), trailing_percent=Decimal("1.5")
    )
    market = MarketInput("X", candles, Timeframe.H1, said, plan=plan, can_short=True)
    plain, advised = backtest([market], FIXED), backtest([replace(market, adviser=Adviser())], FIXED)
    assert [(one.entry_at, one.exit_at, one.exit_reason) for one in advised.trades] == [
        (one.entry_at, one.exit_at, one.exit_reason) for one in plain.trades
    ]
    np.testing.assert_allclose(advised.equity, plain.equity, atol=1e-6)


class Follows(Strategy[Parameters]):
    """Buys now and then; its adviser holds the lowest of the last candles as the stop."""

    name, title, parameters_type = "follows", "Follows", Parameters
    ahead = 0

    @property
    def warm_up(self) -> int:
        return 5

    @property
    def callbacks(self) -> tuple[str, ...]:
        return ("stop",)

    def signals(self, candles: Candles) -> SignalArrays:
        entries = (candles.open_ms // HOUR_MS % 7 == 0).astype(np.int8)
        return SignalArrays(entries, np.zeros(len(entries), np.int8))

    def adviser(self, candles: Candles, others: Others) -> Adviser:
        def held(position: PositionView) -> Advice:
            last = min(position.index + self.ahead, len(candles) - 1)
            return Advice(stop=Decimal(str(candles.low[max(last - 4, 0) : last + 1].min())))

        return Says(held=held)


class Peeks(Follows):
    ahead = 1


class Remembers(Follows):
    @property
    def warm_up(self) -> int:
        return 3


def test_advice_that_sees_the_future_or_remembers_too_much_is_found() -> None:
    close = 100 * np.exp(np.cumsum(np.random.default_rng(1).normal(0, 0.01, 200)))
    candles = Candles(np.arange(200) * HOUR_MS, close, close, close, close, np.ones(200))
    assert advises_otherwise(Follows(Parameters()), candles) is None
    for kind in (Peeks, Remembers):
        assert str(advises_otherwise(kind(Parameters()), candles)).startswith("advice at candle ")


def test_a_strategy_brings_its_adviser_along() -> None:
    rows = [CALM, *[(101.0, 102.0, 100.5, 101.0)] * 3, (101.0, 101.0, 99.5, 100.0), CALM]
    market = MarketInput("X", tape(*rows), Timeframe.H1, strategy=Follows(Parameters()), plan=ExitPlan(), warm_up=1)
    [trade] = backtest([market], FIXED).trades
    # The lowest of the candles that had closed when it entered, and still of those since.
    assert (trade.exit_at.hour, trade.exit_price, trade.exit_reason) == (4, 100.0, "TRAILING_STOP")
