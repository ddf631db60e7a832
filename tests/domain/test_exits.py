"""When a position is left and how much of it: the levels that each exit means, which wins, and in which order they come."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.exit_plan import ExitPlan, RoiStep, TargetLevel
from domain.exits import (
    NO_LEVELS,
    EntryFacts,
    ExitDue,
    ExitLevels,
    ExitReason,
    Progress,
    best_price_kept,
    exit_due,
    is_time_up,
    levels_in_force,
    next_time_step,
    part_to_sell,
)
from domain.market import MarketRules, PositionSide, round_quantity
from domain.strategy import SignalKind

LONG, SHORT = PositionSide.LONG, PositionSide.SHORT
OF_LONG = ExitLevels(stop=Decimal(98), target=Decimal(104))
OF_SHORT = ExitLevels(stop=Decimal(102), target=Decimal(96))
RULES = MarketRules(
    symbol="BTC/USDT", base="BTC", quote="USDT", tick_size=Decimal("0.1"), lot_size=Decimal("0.001"),
    min_quantity=Decimal("0.002"), min_notional=Decimal(1),
)  # fmt: skip


def plan(**values: Any) -> ExitPlan:
    return ExitPlan.model_validate(values)


def entry(side: PositionSide = LONG, price: int = 100, **facts: Any) -> EntryFacts:
    return EntryFacts(side, Decimal(price), **{name: Decimal(value) for name, value in facts.items()})


def stop_of(values: dict[str, Any], facts: EntryFacts, best: str | None = None) -> tuple[Decimal | None, str]:
    levels = levels_in_force(plan(**values), facts, Progress(None if best is None else Decimal(best)))
    return levels.stop, levels.stop_reason


def targets(*levels: tuple[str, str]) -> tuple[TargetLevel, ...]:
    return tuple(TargetLevel(percent=Decimal(percent), fraction=Decimal(fraction)) for percent, fraction in levels)


@pytest.mark.parametrize(
    ("side", "stop_loss", "take_profit", "stop", "target"),
    [
        (LONG, "2", "4", "98", "104"),
        (SHORT, "2", "4", "102", "96"),
        (LONG, "0.5", None, "99.5", None),
        (SHORT, None, "12.5", None, "87.5"),
        (LONG, None, None, None, None),
    ],
)
def test_levels_lie_their_percent_from_the_entry(
    side: PositionSide, stop_loss: str | None, take_profit: str | None, stop: str | None, target: str | None
) -> None:
    of = plan(stop_loss_percent=stop_loss, targets=[{"percent": take_profit}] if take_profit else [])
    expected = [None if level is None else Decimal(level) for level in (stop, target)]

    levels = levels_in_force(of, entry(side))

    assert [levels.stop, levels.target] == expected


@pytest.mark.parametrize(
    ("values", "facts", "stop"),
    [
        pytest.param({"stop_loss_atr": 2}, entry(atr="1.5"), "97", id="atr, long"),
        pytest.param({"stop_loss_atr": 2}, entry(SHORT, atr="1.5"), "103", id="atr, short"),
        pytest.param({"stop_loss_atr": 2}, entry(), None, id="no atr, no stop"),
        pytest.param({"stop_loss_atr": 50}, entry(atr=2), None, id="at zero no price could reach it"),
        pytest.param({"is_stop_from_signal": True}, entry(signal_stop=93), "93", id="the signal's"),
        pytest.param({"is_stop_from_signal": False}, entry(signal_stop=93), None, id="not asked for"),
        pytest.param({"is_stop_from_signal": True}, entry(), None, id="the signal names none"),
        pytest.param({"stop_loss_percent": 5, "stop_loss_atr": 2}, entry(atr=1), "98", id="the tightest, long"),
        pytest.param({"stop_loss_percent": 1, "stop_loss_atr": 2}, entry(SHORT, atr=1), "101", id="the tightest, short"),
        pytest.param(
            {"stop_loss_percent": 5, "is_stop_from_signal": True}, entry(signal_stop=97), "97", id="the signal's is tighter"
        ),
    ],
)  # fmt: skip
def test_a_stop_loss_is_the_tightest_that_the_plan_gives(
    values: dict[str, Any], facts: EntryFacts, stop: str | None
) -> None:
    assert stop_of(values, facts) == (None if stop is None else Decimal(stop), ExitReason.STOP_LOSS)


@pytest.mark.parametrize(
    ("side", "best", "stop", "reason"),
    [
        (LONG, None, "90", ExitReason.STOP_LOSS),
        (LONG, "104.9", "90", ExitReason.STOP_LOSS),
        (LONG, "105", "101.85", ExitReason.TRAILING_STOP),
        (LONG, "120", "116.4", ExitReason.TRAILING_STOP),
        (LONG, "80", "90", ExitReason.STOP_LOSS),
        (SHORT, None, "110", ExitReason.STOP_LOSS),
        (SHORT, "95.1", "110", ExitReason.STOP_LOSS),
        (SHORT, "95", "97.85", ExitReason.TRAILING_STOP),
        (SHORT, "80", "82.4", ExitReason.TRAILING_STOP),
    ],
)
def test_a_trailing_stop_follows_the_best_price_once_that_was_far_enough(
    side: PositionSide, best: str | None, stop: str, reason: ExitReason
) -> None:
    values = {"stop_loss_percent": 10, "trailing_percent": 3, "trailing_activation_percent": 5}

    assert stop_of(values, entry(side), best) == (Decimal(stop), reason)


@pytest.mark.parametrize(
    ("side", "best", "stop"),
    [(LONG, None, "97"), (LONG, "99", "97"), (LONG, "101", "98"), (SHORT, None, "103"), (SHORT, "98", "101")],
)
def test_a_trailing_stop_without_activation_stands_from_the_entry_on(
    side: PositionSide, best: str | None, stop: str
) -> None:
    assert stop_of({"trailing_atr": 2}, entry(side, atr="1.5"), best) == (Decimal(stop), ExitReason.TRAILING_STOP)


@pytest.mark.parametrize(
    ("side", "best", "stop", "reason"),
    [
        (LONG, "102.9", "95", ExitReason.STOP_LOSS),
        (LONG, "103", "100.5", ExitReason.BREAK_EVEN),
        (SHORT, "97.1", "105", ExitReason.STOP_LOSS),
        (SHORT, "97", "99.5", ExitReason.BREAK_EVEN),
    ],
)
def test_the_stop_moves_to_break_even_and_its_offset(
    side: PositionSide, best: str, stop: str, reason: ExitReason
) -> None:
    values = {"stop_loss_percent": 5, "break_even_percent": 3, "break_even_offset_percent": "0.5"}

    assert stop_of(values, entry(side), best) == (Decimal(stop), reason)


@pytest.mark.parametrize(
    ("facts", "stop"),
    [
        (entry(liquidation_price=70), "76"),
        (entry(SHORT, liquidation_price=130), "124"),
        (entry(), None),
        (entry(liquidation_price=130), None),  # on the side that gains: margin that nothing can eat
        (entry(liquidation_price=0), None),
    ],
)
def test_a_position_is_left_when_so_much_of_the_way_to_its_liquidation_is_gone(
    facts: EntryFacts, stop: str | None
) -> None:
    found = stop_of({}, facts)

    assert found[0] == (None if stop is None else Decimal(stop))
    assert found[1] == (ExitReason.LIQUIDATION_GUARD if stop else ExitReason.STOP_LOSS)


def test_of_all_stops_the_tightest_wins_and_gives_its_name() -> None:
    everything = {
        "stop_loss_percent": 2, "trailing_percent": 4, "break_even_percent": 3, "break_even_offset_percent": 1,
    }  # fmt: skip
    facts = entry(liquidation_price=99)

    assert stop_of(everything, facts) == (Decimal("99.2"), ExitReason.LIQUIDATION_GUARD)
    assert stop_of(everything, facts, "103") == (Decimal(101), ExitReason.BREAK_EVEN)
    assert stop_of(everything, facts, "110") == (Decimal("105.6"), ExitReason.TRAILING_STOP)


def test_targets_come_one_after_the_other_and_the_last_takes_the_rest() -> None:
    of = plan(targets=targets(("1", "0.5"), ("2", "0.25"), ("3", "0.1")))
    found = [levels_in_force(of, entry(), Progress(targets_done=done)) for done in range(4)]

    assert [(one.target, one.target_step) for one in found] == [
        (Decimal(101), 1),
        (Decimal(102), 2),
        (Decimal(103), 0),
        (None, 0),
    ]


def test_the_signal_s_own_target_is_for_all_and_the_nearest_wins() -> None:
    of = plan(targets=targets(("1", "0.5"), ("9", "1")), is_target_from_signal=True)
    facts = entry(signal_target=105)
    first, second = (levels_in_force(of, facts, Progress(targets_done=done)) for done in (0, 1))

    assert (first.target, first.target_step) == (Decimal(101), 1)
    assert (second.target, second.target_step, second.target_reason) == (Decimal(105), 0, ExitReason.TAKE_PROFIT)


@pytest.mark.parametrize(
    ("minutes", "target", "reason"),
    [
        (0, "104", ExitReason.TAKE_PROFIT),
        (29, "104", ExitReason.TAKE_PROFIT),
        (30, "102", ExitReason.ROI),
        (120, "100", ExitReason.ROI),
        (9000, "100", ExitReason.ROI),
    ],
)
def test_the_roi_table_asks_for_less_as_time_goes_by(minutes: int, target: str, reason: ExitReason) -> None:
    table = (RoiStep(minutes=30, percent=Decimal(2)), RoiStep(minutes=120, percent=Decimal(0)))
    levels = levels_in_force(
        plan(targets=targets(("4", "1")), roi=table), entry(), Progress(held=timedelta(minutes=minutes))
    )

    assert (levels.target, levels.target_reason, levels.target_step) == (Decimal(target), reason, 0)


@pytest.mark.parametrize(
    ("minutes", "step", "is_up"),
    [
        (0, 10, False),
        (10, 30, False),
        (29, 30, False),
        (30, 60, False),
        (59, 60, False),
        (60, 60, True),
        (99, 60, True),
    ],
)
def test_time_changes_something_at_each_step_and_stays_due_at_its_end(minutes: int, step: int, is_up: bool) -> None:
    of = plan(roi=[{"minutes": 10, "percent": 2}, {"minutes": 30, "percent": 1}], max_hold_minutes=60)
    held = timedelta(minutes=minutes)

    assert next_time_step(of, held) == timedelta(minutes=step)
    assert is_time_up(of, held) is is_up


def test_a_plan_without_time_waits_for_no_step() -> None:
    roi_only = plan(roi=[{"minutes": 10, "percent": 1}])

    assert next_time_step(plan(stop_loss_percent=2), timedelta(days=9)) is None
    assert next_time_step(roi_only, timedelta(minutes=10)) is None
    assert not is_time_up(roi_only, timedelta(days=9))


def test_a_gain_that_was_never_made_arms_no_stop_because_the_average_is_lower() -> None:
    of = plan(trailing_percent=2, trailing_activation_percent=3)
    before, after = entry(price=100), entry(price=95)

    assert best_price_kept(of, before, after, Decimal(101)) is None
    assert best_price_kept(of, before, after, Decimal(97)) == 97
    assert best_price_kept(of, before, after, Decimal(103)) == 103
    assert best_price_kept(plan(break_even_percent=3), before, after, Decimal(101)) is None


@pytest.mark.parametrize(
    ("side", "levels", "price", "reason"),
    [
        (LONG, OF_LONG, "100", None),
        (LONG, OF_LONG, "98.01", None),
        (LONG, OF_LONG, "98", ExitReason.STOP_LOSS),
        (LONG, OF_LONG, "60", ExitReason.STOP_LOSS),  # a gap far past the stop
        (LONG, OF_LONG, "103.99", None),
        (LONG, OF_LONG, "104", ExitReason.TAKE_PROFIT),
        (LONG, OF_LONG, "150", ExitReason.TAKE_PROFIT),
        (SHORT, OF_SHORT, "100", None),
        (SHORT, OF_SHORT, "101.99", None),
        (SHORT, OF_SHORT, "102", ExitReason.STOP_LOSS),
        (SHORT, OF_SHORT, "150", ExitReason.STOP_LOSS),
        (SHORT, OF_SHORT, "96.01", None),
        (SHORT, OF_SHORT, "96", ExitReason.TAKE_PROFIT),
        (SHORT, OF_SHORT, "10", ExitReason.TAKE_PROFIT),
        (LONG, ExitLevels(None, Decimal(104)), "1", None),
        (LONG, ExitLevels(Decimal(98), None), "1000", None),
        (LONG, ExitLevels(None, None), "1", None),
        (LONG, OF_LONG, None, None),
    ],
)
def test_a_price_at_or_past_a_level_ends_the_position(
    side: PositionSide, levels: ExitLevels, price: str | None, reason: ExitReason | None
) -> None:
    due = exit_due(side, levels, None if price is None else Decimal(price), None)

    assert due == (None if reason is None else ExitDue(reason))


@pytest.mark.parametrize(
    ("side", "signal", "reason"),
    [
        (LONG, SignalKind.EXIT_LONG, ExitReason.EXIT_SIGNAL),
        (LONG, SignalKind.EXIT_SHORT, None),
        (SHORT, SignalKind.EXIT_SHORT, ExitReason.EXIT_SIGNAL),
        (SHORT, SignalKind.EXIT_LONG, None),
        (LONG, SignalKind.ENTER_LONG, None),
        (LONG, SignalKind.ENTER_SHORT, ExitReason.EXIT_SIGNAL),
        (SHORT, SignalKind.ENTER_LONG, ExitReason.EXIT_SIGNAL),
        (SHORT, SignalKind.ENTER_SHORT, None),
        (LONG, SignalKind.NOTHING, None),
        (LONG, None, None),
    ],
)
@pytest.mark.parametrize("price", [None, Decimal(100)])
def test_the_exit_signal_of_its_side_and_the_entry_signal_of_the_other_end_it(
    side: PositionSide, signal: SignalKind | None, reason: ExitReason | None, price: Decimal | None
) -> None:
    levels = OF_LONG if side is LONG else OF_SHORT

    assert exit_due(side, levels, price, signal) == (None if reason is None else ExitDue(reason))
    assert exit_due(side, levels, price, signal, is_signal_used=False) is None


def test_stops_come_before_targets_targets_before_time_and_time_before_signals() -> None:
    crossed = ExitLevels(Decimal(100), Decimal(100), ExitReason.TRAILING_STOP, ExitReason.ROI)
    no_stop = replace(crossed, stop=None)
    price, signal = Decimal(100), SignalKind.EXIT_LONG

    assert exit_due(LONG, crossed, price, signal, is_time_up=True) == ExitDue(ExitReason.TRAILING_STOP)
    assert exit_due(SHORT, crossed, price, signal, is_time_up=True) == ExitDue(ExitReason.TRAILING_STOP)
    assert exit_due(LONG, no_stop, price, signal, is_time_up=True) == ExitDue(ExitReason.ROI)
    assert exit_due(LONG, NO_LEVELS, price, signal, is_time_up=True) == ExitDue(ExitReason.TIME_EXIT)
    assert exit_due(LONG, NO_LEVELS, price, signal) == ExitDue(ExitReason.EXIT_SIGNAL)
    assert exit_due(LONG, NO_LEVELS, None, None, is_time_up=True) == ExitDue(ExitReason.TIME_EXIT)


def test_a_target_of_a_part_says_which() -> None:
    of_part = replace(OF_LONG, target_step=2)

    assert exit_due(LONG, of_part, Decimal(104), None) == ExitDue(ExitReason.TAKE_PROFIT, step=2)
    assert exit_due(LONG, of_part, Decimal(98), None) == ExitDue(ExitReason.STOP_LOSS, step=0)


@pytest.mark.parametrize(
    ("step", "exited", "held", "part"),
    [
        pytest.param(1, "0", "0.1", "0.033", id="its fraction, in whole lots"),
        pytest.param(2, "0.033", "0.067", "0.033", id="up to its sum"),
        pytest.param(2, "0", "0.1", "0.066", id="what the level before did not sell, too"),
        pytest.param(2, "0.01", "0.09", "0.056", id="what the level before sold only in part"),
        pytest.param(2, "0.066", "0.034", "0", id="sold already"),
        pytest.param(2, "0.065", "0.035", "0", id="too little to be sold"),
        pytest.param(2, "0", "0.067", "0.067", id="the rest could not be sold: all"),
        pytest.param(2, "0", "0.05", "0.05", id="never more than is held"),
    ],
)
def test_a_take_profit_level_sells_what_is_missing_to_its_sum(step: int, exited: str, held: str, part: str) -> None:
    thirds = plan(targets=targets(("1", "0.333"), ("2", "0.333"), ("3", "1")))
    entered = Decimal("0.1")

    found = part_to_sell(thirds, step, entered, Decimal(exited), Decimal(held), RULES, Decimal(50_000))

    assert found == Decimal(part)


prices = st.decimals(min_value="0.0001", max_value=1_000_000, places=4)
percents = st.decimals(min_value="0.01", max_value="99.99", places=2)


@given(
    price=prices,
    side=st.sampled_from(PositionSide),
    stop_loss=percents,
    take_profit=percents,
)
def test_the_stop_loses_and_the_target_gains_and_nothing_is_due_between(
    price: Decimal, side: PositionSide, stop_loss: Decimal, take_profit: Decimal
) -> None:
    of = plan(stop_loss_percent=stop_loss, targets=[{"percent": take_profit}])
    levels = levels_in_force(of, EntryFacts(side, price))

    assert levels.stop is not None
    assert levels.target is not None
    assert (levels.stop - price) * side.sign < 0 < (levels.target - price) * side.sign
    assert exit_due(side, levels, levels.stop, None) == ExitDue(ExitReason.STOP_LOSS)
    assert exit_due(side, levels, levels.target, None) == ExitDue(ExitReason.TAKE_PROFIT)
    assert exit_due(side, levels, price, None) is None


@given(
    price=prices,
    side=st.sampled_from(PositionSide),
    bests=st.lists(prices, min_size=2, max_size=8),
    stop_loss=st.none() | percents,
    trailing=st.none() | percents,
    trailing_atr=st.none() | percents,
    activation=st.decimals(min_value=0, max_value=50, places=1),
    break_even=st.none() | percents,
    liquidation=st.none() | prices,
)
def test_as_the_best_price_gets_better_the_stop_never_moves_away_from_the_price(
    price: Decimal,
    side: PositionSide,
    bests: list[Decimal],
    stop_loss: Decimal | None,
    trailing: Decimal | None,
    trailing_atr: Decimal | None,
    activation: Decimal,
    break_even: Decimal | None,
    liquidation: Decimal | None,
) -> None:
    of = plan(
        stop_loss_percent=stop_loss, trailing_percent=trailing, trailing_atr=trailing_atr,
        trailing_activation_percent=activation, break_even_percent=break_even,
    )  # fmt: skip
    facts = EntryFacts(side, price, atr=price / 50, liquidation_price=liquidation)
    improving = sorted(bests, key=lambda best: best * side.sign)

    stops = [levels_in_force(of, facts, Progress(best)).stop for best in (None, *improving)]

    given_stops = [stop for stop in stops if stop is not None]
    assert given_stops == stops[len(stops) - len(given_stops) :]
    assert given_stops == sorted(given_stops, key=lambda stop: stop * side.sign)


@given(
    entered=st.integers(min_value=2, max_value=100_000),
    cuts=st.lists(st.integers(min_value=1, max_value=99), min_size=0, max_size=9, unique=True),
    price=st.decimals(min_value="0.01", max_value=100_000, places=2),
)
def test_the_parts_and_the_rest_are_the_whole_and_each_can_be_sold(
    entered: int, cuts: list[int], price: Decimal
) -> None:
    bounds = [0, *sorted(cuts), 100]
    fractions = [Decimal(b - a) / 100 for a, b in zip(bounds, bounds[1:], strict=False)]
    of = plan(targets=[{"percent": n, "fraction": one} for n, one in enumerate(fractions, start=1)])
    whole = held = entered * RULES.lot_size
    sold = []

    for step in range(1, len(fractions)):
        if held:
            sold.append(part_to_sell(of, step, whole, whole - held, held, RULES, price))
            held -= sold[-1]
    sold.append(held)

    assert sum(sold) == whole
    assert all(part == round_quantity(part, RULES) for part in sold)
    if RULES.takes(whole, price):
        assert all(RULES.takes(part, price) for part in sold if part)
