"""Folds, and what a search would have earned on candles that it had not seen."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backtesting.engine.inputs import MarketInput, Settings
from backtesting.research.search import SearchMethod, suggest
from backtesting.research.space import Space
from backtesting.research.trials import Objective, Span, TrialFacts, clock_of, run_of, trial
from backtesting.research.walk_forward import (
    Chosen,
    Fold,
    Length,
    best_of,
    fold_seed,
    folds_of,
    trained,
    walk_forward,
    walked_forward,
)
from domain.exits import ExitReason
from strategies.library.sma_cross import SmaCross
from tests.backtesting.tape import HOUR_MS, drifting

COSTLY = Settings(maker_fee=Decimal("0.001"), taker_fee=Decimal("0.001"))
SPACE = Space(SmaCross, {"fast": [3, 5, 8], "slow": [20, 40]})
HOURS = np.arange(1000) * HOUR_MS


def spans(folds: list[Fold]) -> list[tuple[int, int, int]]:
    return [tuple(one // HOUR_MS for one in (*fold.train, fold.test.until_ms)) for fold in folds]


# Folds.


def test_rolling_trainings_move_on_and_anchored_ones_grow() -> None:
    rolling = folds_of(HOURS, Length(400), Length(200))
    # The last candle opens at 999; the last test ends with it.
    assert spans(rolling) == [(0, 400, 600), (200, 600, 800), (400, 800, 999)]
    assert rolling[-1].test.until_ms == 999 * HOUR_MS + 1
    assert spans(folds_of(HOURS, Length(400), Length(200), is_anchored=True)) == [
        (0, 400, 600),
        (0, 600, 800),
        (0, 800, 999),
    ]
    assert [(fold.number, fold.test.since_ms == fold.train.until_ms) for fold in rolling] == [
        (0, True), (1, True), (2, True)
    ]  # fmt: skip


def test_lengths_in_days_are_of_the_clock_whatever_candles_are_missing() -> None:
    gappy = np.concatenate((HOURS[:100], HOURS[148:]))
    assert spans(folds_of(gappy, Length.of("10d"), Length.of("5d"))) == [
        (0, 240, 360), (148, 360, 480), (240, 480, 600), (360, 600, 720), (480, 720, 840), (600, 840, 960)
    ]  # fmt: skip
    assert spans(folds_of(gappy, Length.of("5d"), Length.of("30d")))[0] == (28, 148, 868)


def test_the_last_test_is_half_as_long_at_least() -> None:
    assert spans(folds_of(HOURS[:899], Length(400), Length(200)))[-1] == (200, 600, 800)
    assert spans(folds_of(HOURS[:901], Length(400), Length(200)))[-1] == (400, 800, 900)
    assert spans(folds_of(HOURS[:841], Length.of("10d"), Length.of("10d")))[-1] == (480, 720, 840)
    assert spans(folds_of(HOURS[:700], Length.of("10d"), Length.of("10d")))[-1] == (240, 480, 699)
    assert spans(folds_of(HOURS[:590], Length.of("10d"), Length.of("10d"))) == [(0, 240, 480)]


def test_before_the_warm_up_nothing_is_trained() -> None:
    assert spans(folds_of(HOURS, Length(400), Length(200), skip=100)) == [(100, 500, 700), (300, 700, 900)] + [
        (500, 900, 999)
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", "0", "-5", "5h", "d", "1.5"])
def test_a_length_is_a_number_of_candles_or_of_days(text: str) -> None:
    with pytest.raises(ValueError, match="wanted a (number of candles|length of at least 1)"):
        Length.of(text)
    assert [str(Length.of(one)) for one in ("500", "90d")] == ["500", "90d"]


def test_too_few_candles_for_a_fold_are_refused() -> None:
    with pytest.raises(ValueError, match="wanted candles for a training of 90d and a test of 30d, was 1000"):
        folds_of(HOURS, Length.of("90d"), Length.of("30d"))
    with pytest.raises(ValueError, match="was 0"):
        folds_of(HOURS[:0], Length(1), Length(1))


@settings(max_examples=150, deadline=None)
@given(
    size=st.integers(2, 400),
    train=st.integers(1, 200),
    test=st.integers(1, 100),
    is_days=st.booleans(),
    is_anchored=st.booleans(),
    gaps=st.lists(st.integers(1, 30), max_size=20),
)
def test_no_test_is_seen_in_a_training_before_it_and_tests_follow_each_other(
    size: int, train: int, test: int, is_days: bool, is_anchored: bool, gaps: list[int]
) -> None:
    times = np.cumsum([*gaps, *[6] * size]) * HOUR_MS
    lengths = Length(-(-train // 4) if is_days else train, is_days), Length(-(-test // 4) if is_days else test, is_days)
    try:
        folds = folds_of(times, *lengths, is_anchored=is_anchored)
    except ValueError:
        return
    for fold in folds:
        inside = [int(((times >= span.since_ms) & (times < span.until_ms)).sum()) for span in (fold.train, fold.test)]
        assert min(inside) > 0
        assert fold.train.until_ms == fold.test.since_ms
        assert is_days or is_anchored or inside[0] == train
        assert not is_anchored or fold.train.since_ms == times[0]
    for one, other in zip(folds, folds[1:], strict=False):
        assert one.test.until_ms == other.test.since_ms
    assert folds[-1].test.until_ms <= times[-1] + 1


def test_a_training_that_falls_into_a_hole_is_the_candle_before_it() -> None:
    times = np.array([0, 1, 2, 200, 201, 230]) * HOUR_MS
    folds = folds_of(times, Length.of("2d"), Length.of("1d"))
    assert [(one.train, one.test) for one in folds] == [
        (Span(2 * HOUR_MS, 200 * HOUR_MS), Span(200 * HOUR_MS, 230 * HOUR_MS))
    ]


# The search within folds.


def test_each_choice_is_the_best_of_its_training_and_is_judged_in_its_test() -> None:
    # More trades than a test has: that is asked of the choice alone.
    market, objective = drifting(2000), Objective("total_return", min_trades=12)
    folds = folds_of(clock_of([market]), Length(600), Length(300), skip=SPACE.warm_up)
    walked = walk_forward([market], COSTLY, SPACE, objective, folds)
    assert len(walked.folds) == len(folds) == 5
    every = [suggest(SearchMethod.GRID, SPACE, 0, number) or {} for number in range(6)]
    cash = COSTLY.cash
    for judged, fold in zip(walked.folds, folds, strict=True):
        tried = [
            trial([market], trained(COSTLY), SmaCross, one, objective, span=fold.train).value or 0 for one in every
        ]
        assert judged.chosen.fold is fold
        assert judged.chosen.best.value == max(tried)
        assert judged.chosen.best.values == every[tried.index(max(tried))]
        terms = replace(COSTLY, cash=cash, is_closed_at_end=True)
        alone = run_of([market], terms, SmaCross, judged.chosen.best.values, fold.test)
        assert judged.figures["final_equity"] == alone.equity[-1]
        cash = Decimal(str(float(alone.equity[-1])))
        assert judged.value == judged.figures["total_return"]
    assert float(cash) == walked.result.equity[-1] == walked.figures["final_equity"]


def test_the_tests_are_one_account_without_gaps_or_doubles() -> None:
    market = drifting(2000)
    folds = folds_of(clock_of([market]), Length(600), Length(300), skip=SPACE.warm_up)
    walked = walk_forward([market], COSTLY, SPACE, Objective("total_return"), folds)
    first = folds[0].test.since_ms // HOUR_MS
    np.testing.assert_array_equal(walked.result.open_ms, np.arange(first, 2000) * HOUR_MS)
    assert (
        walked.figures["trades"] == len(walked.result.trades) == sum(one.figures["trades"] or 0 for one in walked.folds)
    )
    assert sum(one.pnl for one in walked.result.trades) == pytest.approx(walked.result.equity[-1] - 10_000, abs=1e-6)
    begins = {fold.test.since_ms for fold in folds}
    ends = [fold.test.until_ms for fold in folds]
    for one in walked.result.trades:
        entry, leave = (round(at.timestamp() * 1000) for at in (one.entry_at, one.exit_at))
        end = next(end for end in ends if entry < end)
        assert leave < end
    assert ExitReason.SESSION_STOP in {one.exit_reason for one in walked.result.trades}
    assert len(begins) == 5


def test_what_comes_after_a_training_does_not_change_what_is_chosen() -> None:
    market = drifting(1600)
    folds = folds_of(clock_of([market]), Length(600), Length(300), skip=SPACE.warm_up)[:1]
    later = np.where(market.candles.open_ms >= folds[0].test.since_ms, 5.0, 1.0)
    candles = market.candles
    bent = replace(market, candles=replace(
        candles, open=candles.open * later, high=candles.high * later, low=candles.low * later,
        close=candles.close * later,
    ))  # fmt: skip
    one, other = (
        walk_forward([seen], COSTLY, SPACE, Objective("total_return"), folds).folds[0] for seen in (market, bent)
    )
    assert one.chosen.best.values == other.chosen.best.values
    assert one.chosen.best.figures == other.chosen.best.figures
    assert one.figures != other.figures


def test_a_position_that_a_training_would_carry_into_the_test_is_closed_at_its_end() -> None:
    market = drifting(1600)
    values = {"fast": 3, "slow": 20, "stop_loss_percent": None, "take_profit_percent": None}
    whole = run_of([market], COSTLY, SmaCross, values)
    carried = max(whole.trades, key=lambda one: one.exit_at - one.entry_at)
    middle = round((carried.entry_at.timestamp() + carried.exit_at.timestamp()) / 7200) * HOUR_MS
    fold = Fold(0, Span(0, middle), Span(middle, middle + 500 * HOUR_MS))
    last = run_of([market], trained(COSTLY), SmaCross, values, fold.train).trades[-1]
    assert (last.entry_at, last.exit_reason) == (carried.entry_at, ExitReason.SESSION_STOP)
    assert last.exit_at.timestamp() * 1000 == middle - HOUR_MS
    # The test begins flat: it does not take over what was held.
    after = run_of([market], trained(COSTLY), SmaCross, values, fold.test)
    assert len(after.trades) > 3
    assert after.trades[0].entry_at > carried.exit_at


def test_efficiency_and_stability_are_as_by_hand() -> None:
    market: MarketInput = drifting(2000)
    folds = folds_of(clock_of([market]), Length(600), Length(300), skip=SPACE.warm_up)
    picks = [(3, 20), (3, 40), (3, 20), (8, 20), (3, 20)]
    chosen = [
        Chosen(fold, TrialFacts({"fast": fast, "slow": slow}, 1.0, {"cagr": cagr}))
        for fold, (fast, slow), cagr in zip(folds, picks, (0.5, 0.3, None, 0.1, 0.3), strict=True)
    ]
    walked = walked_forward([market], COSTLY, SPACE, chosen[::-1], Objective("total_return"))
    assert [one.chosen for one in walked.folds] == chosen
    assert walked.efficiency == pytest.approx((walked.figures["cagr"] or 0) / 0.3)
    assert walked.stability["fast"] == {"values": [3, 3, 3, 8, 3], "share": 0.8, "spread": pytest.approx(2 / 5)}
    assert walked.stability["slow"]["share"] == 0.8
    told = json.loads(json.dumps(walked.told()))
    assert [one["values"] for one in told["folds"]] == [{"fast": fast, "slow": slow} for fast, slow in picks]
    assert told["folds"][1]["test"] == list(folds[1].test)
    losing = [replace(one, best=replace(one.best, figures={"cagr": -0.1})) for one in chosen]
    assert walked_forward([market], COSTLY, SPACE, losing, Objective()).efficiency is None


def test_a_fold_in_which_nothing_was_worth_anything_is_left_out() -> None:
    market = drifting(2000)
    folds = folds_of(clock_of([market]), Length(600), Length(300), skip=SPACE.warm_up)
    with pytest.raises(ValueError, match="wanted a fold in whose training a trial is worth something, was none"):
        walk_forward([market], COSTLY, SPACE, Objective(min_trades=1000), folds)
    facts = TrialFacts({"fast": 3, "slow": 20}, 1.0, {"cagr": 0.1})
    walked = walked_forward([market], COSTLY, SPACE, [Chosen(folds[1], facts), Chosen(folds[3], facts)], Objective())
    assert len(walked.result.equity) == 600
    assert np.diff(walked.result.open_ms).max() == 301 * HOUR_MS


def test_the_best_is_the_one_worth_most_and_the_first_of_several() -> None:
    facts = [TrialFacts({}, value, number=number) for number, value in enumerate([None, 1.0, 3.0, 3.0, None])]
    assert best_of(facts[::-1]) is facts[2]
    assert best_of(facts[:1]) is None


def test_every_fold_draws_for_itself() -> None:
    assert len({fold_seed(seed, number) for seed in range(5) for number in range(5)}) == 25
    assert fold_seed(3, 4) == fold_seed(3, 4)
