"""The tracker's one question, case by case, and what holds whatever the facts are: all of them are tried."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from functools import cache
from itertools import product
from typing import Any

import pytest

from domain.exits import NO_LEVELS, ExitLevels, ExitReason
from domain.market import ONE, ZERO, PositionSide
from domain.strategy import SignalKind
from domain.tracking import NOTHING, Action, Decision, SessionView, decide

LONG, SHORT = PositionSide.LONG, PositionSide.SHORT
LEVELS = {LONG: ExitLevels(Decimal(98), Decimal(104)), SHORT: ExitLevels(Decimal(102), Decimal(96))}
BETWEEN, BELOW, ABOVE = Decimal(100), Decimal(90), Decimal(110)


def active(**facts: Any) -> SessionView:
    return SessionView(**{"takes_entries": True, "is_stopping": False, **facts})


def suspended(**facts: Any) -> SessionView:
    return active(takes_entries=False, **facts)


def stopping(**facts: Any) -> SessionView:
    return suspended(is_stopping=True, **facts)


def holding(side: PositionSide = LONG, **facts: Any) -> dict[str, Any]:
    return {"side": side, "quantity": ONE, "levels": LEVELS[side], "price": BETWEEN, **facts}


def holding_part(**facts: Any) -> dict[str, Any]:
    """A long position whose next target is for a part."""
    return holding(levels=replace(LEVELS[LONG], target_step=1), **facts)


def exits(reason: ExitReason, step: int = 0) -> Decision:
    return Decision(Action.EXIT, exit_reason=reason, step=step)


@cache
def every_view() -> tuple[SessionView, ...]:
    """Every combination of facts, 110,592 of them."""
    return tuple(_views())


def _views() -> Iterator[SessionView]:
    states = ((True, False), (False, False), (False, True), (True, True))
    signals = (None, *SignalKind)
    prices = (None, BELOW, BETWEEN, ABOVE)
    flags = (False, True)
    sides = (None, LONG, SHORT)
    begun = (None, ExitReason.STOP_LOSS)
    for (takes, stops), side, held, entry, leave, price, signal, wanted, reason, part, step in product(
        states, sides, (ZERO, ONE), flags, flags, prices, signals, flags, begun, flags, (0, 1)
    ):
        levels = replace(LEVELS[side], target_step=step) if side else NO_LEVELS
        yield SessionView(
            takes, stops, side, held, levels, entry, leave, price, signal, wanted, reason, has_live_part=part,
            entries_left=1, can_short=bool(step),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("view", "decision"),
    [
        pytest.param(active(), NOTHING, id="flat and no signal"),
        pytest.param(active(signal=SignalKind.ENTER_LONG), Decision(Action.ENTER, side=LONG), id="enters long"),
        pytest.param(active(signal=SignalKind.ENTER_SHORT), Decision(Action.ENTER, side=SHORT), id="enters short"),
        pytest.param(active(signal=SignalKind.EXIT_LONG), NOTHING, id="nothing to exit"),
        pytest.param(active(signal=SignalKind.NOTHING), NOTHING, id="a signal that says nothing"),
        pytest.param(active(is_exit_wanted=True), NOTHING, id="nothing to leave"),
        pytest.param(suspended(signal=SignalKind.ENTER_LONG), NOTHING, id="a suspended session takes no entry"),
        pytest.param(stopping(), Decision(Action.FINISH), id="flat and stopping"),
        pytest.param(stopping(signal=SignalKind.ENTER_LONG), Decision(Action.FINISH), id="stopping ignores signals"),
        pytest.param(
            active(signal=SignalKind.ENTER_SHORT, can_short=False),
            Decision(Action.NOT_TRADABLE),
            id="a market that cannot be sold short",
        ),
        pytest.param(
            suspended(signal=SignalKind.ENTER_SHORT, can_short=False), NOTHING, id="of no interest while suspended"
        ),
        pytest.param(
            active(signal=SignalKind.ENTER_LONG, can_short=False), Decision(Action.ENTER, side=LONG), id="but bought"
        ),
    ],
)
def test_a_flat_session(view: SessionView, decision: Decision) -> None:
    assert decide(view) == decision


@pytest.mark.parametrize(
    ("view", "decision"),
    [
        pytest.param(active(**holding()), NOTHING, id="holds"),
        pytest.param(active(**holding(price=None)), NOTHING, id="holds while there is no price"),
        pytest.param(active(**holding(signal=SignalKind.ENTER_LONG)), NOTHING, id="one position at a time"),
        pytest.param(
            active(**holding(signal=SignalKind.ENTER_SHORT)), exits(ExitReason.EXIT_SIGNAL), id="an opposite entry"
        ),
        pytest.param(
            active(**holding(signal=SignalKind.ENTER_SHORT, can_short=False)),
            exits(ExitReason.EXIT_SIGNAL),
            id="an opposite entry that could not be traded",
        ),
        pytest.param(
            active(**holding(SHORT, signal=SignalKind.ENTER_LONG)), exits(ExitReason.EXIT_SIGNAL), id="against a short"
        ),
        pytest.param(
            active(**holding(signal=SignalKind.EXIT_LONG, is_exit_signal_used=False)),
            NOTHING,
            id="signals do not count",
        ),
        pytest.param(active(**holding(is_time_up=True)), exits(ExitReason.TIME_EXIT), id="time is up"),
        pytest.param(
            active(**holding(is_time_up=True, price=ABOVE)), exits(ExitReason.TAKE_PROFIT), id="target before time"
        ),
        pytest.param(
            active(**holding(signal=SignalKind.ENTER_LONG, entries_left=1)), Decision(Action.ADD, side=LONG), id="adds"
        ),
        pytest.param(
            active(**holding(SHORT, signal=SignalKind.ENTER_SHORT, entries_left=1)),
            Decision(Action.ADD, side=SHORT),
            id="adds to a short",
        ),
        pytest.param(
            suspended(**holding(signal=SignalKind.ENTER_LONG, entries_left=1)), NOTHING, id="suspended adds nothing"
        ),
        pytest.param(
            active(**holding(signal=SignalKind.ENTER_LONG, entries_left=1, price=BELOW)),
            exits(ExitReason.STOP_LOSS),
            id="leaves instead of adding",
        ),
        pytest.param(
            active(**holding(signal=SignalKind.ENTER_LONG, entries_left=1, has_live_entry=True)),
            NOTHING,
            id="one entry at a time",
        ),
        pytest.param(active(**holding_part(price=ABOVE)), exits(ExitReason.TAKE_PROFIT, 1), id="a part"),
        pytest.param(active(**holding_part(price=BELOW)), exits(ExitReason.STOP_LOSS), id="the stop takes all"),
        pytest.param(
            active(**holding_part(part_begun=1)), exits(ExitReason.TAKE_PROFIT, 1), id="a part once begun goes on"
        ),
        pytest.param(
            active(**holding_part(part_begun=1, signal=SignalKind.EXIT_LONG)),
            exits(ExitReason.EXIT_SIGNAL),
            id="the whole outranks a part that failed",
        ),
        pytest.param(active(**holding(signal=SignalKind.EXIT_LONG)), exits(ExitReason.EXIT_SIGNAL), id="exit signal"),
        pytest.param(active(**holding(signal=SignalKind.EXIT_SHORT)), NOTHING, id="another side's exit"),
        pytest.param(active(**holding(price=BELOW)), exits(ExitReason.STOP_LOSS), id="long stop"),
        pytest.param(active(**holding(price=ABOVE)), exits(ExitReason.TAKE_PROFIT), id="long target"),
        pytest.param(active(**holding(SHORT, price=ABOVE)), exits(ExitReason.STOP_LOSS), id="short stop"),
        pytest.param(active(**holding(SHORT, price=BELOW)), exits(ExitReason.TAKE_PROFIT), id="short target"),
        pytest.param(suspended(**holding(price=BELOW)), exits(ExitReason.STOP_LOSS), id="suspended is protected"),
        pytest.param(active(**holding(is_exit_wanted=True)), exits(ExitReason.MARKET_EXIT), id="asked for by hand"),
        pytest.param(stopping(**holding()), exits(ExitReason.SESSION_STOP), id="stopping flattens"),
        pytest.param(stopping(**holding(price=None)), exits(ExitReason.SESSION_STOP), id="flattens without a price"),
        pytest.param(
            stopping(**holding(price=BELOW, is_exit_wanted=True)),
            exits(ExitReason.SESSION_STOP),
            id="stop outranks all",
        ),
        pytest.param(
            active(**holding(price=BELOW, is_exit_wanted=True)),
            exits(ExitReason.MARKET_EXIT),
            id="hand outranks levels",
        ),
        pytest.param(
            active(**holding(exit_begun=ExitReason.STOP_LOSS)), exits(ExitReason.STOP_LOSS), id="a begun exit goes on"
        ),
        pytest.param(
            stopping(**holding(exit_begun=ExitReason.TAKE_PROFIT)),
            exits(ExitReason.TAKE_PROFIT),
            id="under its first name",
        ),
    ],
)
def test_a_session_that_holds_a_position(view: SessionView, decision: Decision) -> None:
    assert decide(view) == decision


@pytest.mark.parametrize(
    ("view", "decision"),
    [
        pytest.param(active(side=LONG, has_live_entry=True), NOTHING, id="entry sent, nothing filled yet"),
        pytest.param(
            active(side=LONG, has_live_entry=True, signal=SignalKind.EXIT_LONG), NOTHING, id="nothing held to exit yet"
        ),
        pytest.param(
            active(side=LONG, has_live_entry=True, levels=LEVELS[LONG], price=BELOW),
            NOTHING,
            id="no level without holding",
        ),
        pytest.param(
            active(side=LONG, has_live_entry=True, is_exit_wanted=True),
            Decision(Action.CANCEL_ENTRY),
            id="unwanted entry",
        ),
        pytest.param(stopping(side=LONG, has_live_entry=True), Decision(Action.CANCEL_ENTRY), id="stopping unfilled"),
        pytest.param(active(**holding(has_live_entry=True)), NOTHING, id="partly entered"),
        pytest.param(
            active(**holding(has_live_entry=True, price=BELOW)),
            Decision(Action.CANCEL_ENTRY),
            id="partly entered, stop hit",
        ),
        pytest.param(
            stopping(**holding(has_live_entry=True)), Decision(Action.CANCEL_ENTRY), id="partly entered, stopping"
        ),
        pytest.param(active(side=LONG), Decision(Action.ABANDON), id="the entry came to nothing"),
        pytest.param(stopping(side=LONG), Decision(Action.ABANDON), id="the entry came to nothing while stopping"),
        pytest.param(active(side=LONG, is_exit_wanted=True), Decision(Action.ABANDON), id="nothing to leave any more"),
        pytest.param(
            active(side=LONG, has_live_entry=True, exit_begun=ExitReason.HALT),
            Decision(Action.CANCEL_ENTRY),
            id="an entry caught by a halt",
        ),
    ],
)
def test_a_session_whose_entry_is_at_work_or_has_failed(view: SessionView, decision: Decision) -> None:
    assert decide(view) == decision


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(active(**holding(has_live_exit=True, price=BELOW)), id="stop"),
        pytest.param(active(**holding(has_live_exit=True, signal=SignalKind.EXIT_LONG)), id="signal"),
        pytest.param(active(**holding(has_live_exit=True, is_exit_wanted=True)), id="by hand"),
        pytest.param(active(**holding(has_live_exit=True, exit_begun=ExitReason.STOP_LOSS)), id="begun"),
        pytest.param(stopping(**holding(has_live_exit=True)), id="stopping"),
    ],
)
def test_an_exit_at_work_is_waited_for(view: SessionView) -> None:
    assert decide(view) == NOTHING


@pytest.mark.parametrize(
    ("facts", "decision"),
    [
        pytest.param({"price": ABOVE}, NOTHING, id="the same part"),
        pytest.param({"part_begun": 1}, NOTHING, id="begun"),
        pytest.param({"signal": SignalKind.ENTER_LONG, "entries_left": 1}, NOTHING, id="nothing is added"),
        pytest.param({"price": BELOW}, exits(ExitReason.STOP_LOSS), id="stop"),
        pytest.param({"signal": SignalKind.EXIT_LONG}, exits(ExitReason.EXIT_SIGNAL), id="signal"),
        pytest.param({"is_exit_wanted": True}, exits(ExitReason.MARKET_EXIT), id="by hand"),
        pytest.param({"exit_begun": ExitReason.STOP_LOSS}, exits(ExitReason.STOP_LOSS), id="begun to leave all"),
        pytest.param({"quantity": ZERO}, NOTHING, id="sold, and not known to be over"),
    ],
)
def test_beside_a_part_at_work_only_all_is_left(facts: dict[str, Any], decision: Decision) -> None:
    assert decide(active(**holding_part(has_live_part=True) | facts)) == decision


@pytest.mark.parametrize(
    ("facts", "decision"),
    [
        pytest.param({"price": BELOW}, exits(ExitReason.STOP_LOSS), id="stop"),
        pytest.param({"exit_begun": ExitReason.HALT}, exits(ExitReason.HALT), id="begun"),
        pytest.param({"is_stopping": True}, exits(ExitReason.SESSION_STOP), id="stopping"),
        pytest.param({"price": ABOVE}, Decision(Action.CANCEL_ENTRY), id="a part can wait"),
        pytest.param({"price": BELOW, "has_live_exit": True}, NOTHING, id="its exit is at work"),
        pytest.param({}, NOTHING, id="nothing is due"),
        pytest.param(
            {"exit_begun": ExitReason.HALT, "quantity": ZERO}, Decision(Action.CANCEL_ENTRY), id="nothing is held"
        ),
    ],
)
def test_what_is_held_does_not_wait_for_an_entry_that_should_be_gone(facts: dict[str, Any], decision: Decision) -> None:
    assert decide(active(**holding_part(has_live_entry=True, is_entry_overdue=True) | facts)) == decision


def test_whatever_the_facts_an_entry_is_made_only_when_flat_and_allowed() -> None:
    entering = [view for view in every_view() if decide(view).action is Action.ENTER]

    assert entering
    assert all(view.takes_entries and not view.is_stopping and view.side is None for view in entering)
    assert {view.signal for view in entering} == {SignalKind.ENTER_LONG, SignalKind.ENTER_SHORT}
    assert all(view.can_short for view in entering if view.signal is SignalKind.ENTER_SHORT)


def test_whatever_the_facts_only_what_is_held_and_not_being_left_is_added_to() -> None:
    adding = [view for view in every_view() if decide(view).action is Action.ADD]

    assert {(view.side, view.signal) for view in adding} == {
        (LONG, SignalKind.ENTER_LONG),
        (SHORT, SignalKind.ENTER_SHORT),
    }
    assert all(view.takes_entries and not view.is_stopping and view.quantity > 0 for view in adding)
    assert not any(view.has_live_entry or view.has_live_exit or view.has_live_part for view in adding)
    assert not any(view.is_exit_wanted or view.exit_begun for view in adding)
    assert all(decide(replace(view, entries_left=0)).action is Action.NOTHING for view in adding)


def test_whatever_the_facts_no_exit_is_made_while_its_order_is_at_work_or_nothing_is_held() -> None:
    leaving = [view for view in every_view() if decide(view).action is Action.EXIT]

    assert leaving
    assert not any(view.has_live_exit or view.has_live_entry for view in leaving)
    assert all(view.side is not None and view.quantity > 0 for view in leaving)
    assert not any(view.has_live_part for view in leaving if decide(view).step)


def test_whatever_the_facts_a_session_finishes_exactly_when_stopping_and_flat() -> None:
    for view in every_view():
        assert (decide(view).action is Action.FINISH) == (view.is_stopping and view.side is None)


def test_whatever_the_facts_only_a_live_entry_is_cancelled_and_only_a_dead_one_abandoned() -> None:
    for view in every_view():
        action = decide(view).action
        assert action is not Action.CANCEL_ENTRY or view.has_live_entry
        is_at_work = view.has_live_entry or view.has_live_exit or view.has_live_part
        is_dead = view.side is not None and not view.quantity and not is_at_work
        assert (action is Action.ABANDON) == is_dead


def test_whatever_the_facts_a_stopping_session_with_a_holding_is_never_left_alone() -> None:
    views = [
        view for view in every_view() if view.is_stopping and view.side and view.quantity and not view.has_live_exit
    ]

    assert {decide(view).action for view in views} == {Action.CANCEL_ENTRY, Action.EXIT}


def test_whatever_the_facts_exits_have_a_reason_and_entries_a_side_and_nothing_else_has() -> None:
    for view in every_view():
        decision = decide(view)
        assert (decision.exit_reason is not None) == (decision.action is Action.EXIT)
        assert (decision.side is not None) == (decision.action in (Action.ENTER, Action.ADD))
        assert decision.step == 0 or decision.exit_reason is ExitReason.TAKE_PROFIT
