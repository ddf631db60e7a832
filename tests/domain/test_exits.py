"""When a position is left: the levels that percentages mean, and which reason comes first."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.exits import ExitLevels, ExitReason, exit_due, levels_at_entry
from domain.market import PositionSide
from domain.strategy import SignalKind

LONG, SHORT = PositionSide.LONG, PositionSide.SHORT
OF_LONG = ExitLevels(stop=Decimal(98), target=Decimal(104))
OF_SHORT = ExitLevels(stop=Decimal(102), target=Decimal(96))


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
    percents = [None if percent is None else Decimal(percent) for percent in (stop_loss, take_profit)]
    expected = [None if level is None else Decimal(level) for level in (stop, target)]

    assert levels_at_entry(Decimal(100), side, *percents) == ExitLevels(*expected)


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
    assert exit_due(side, levels, None if price is None else Decimal(price), None) is reason


@pytest.mark.parametrize(
    ("side", "signal", "reason"),
    [
        (LONG, SignalKind.EXIT_LONG, ExitReason.EXIT_SIGNAL),
        (LONG, SignalKind.EXIT_SHORT, None),
        (SHORT, SignalKind.EXIT_SHORT, ExitReason.EXIT_SIGNAL),
        (SHORT, SignalKind.EXIT_LONG, None),
        (LONG, SignalKind.ENTER_LONG, None),
        (LONG, SignalKind.ENTER_SHORT, None),
        (LONG, SignalKind.NOTHING, None),
        (LONG, None, None),
    ],
)
@pytest.mark.parametrize("price", [None, Decimal(100)])
def test_only_the_exit_signal_of_its_own_side_ends_it(
    side: PositionSide, signal: SignalKind | None, reason: ExitReason | None, price: Decimal | None
) -> None:
    levels = OF_LONG if side is LONG else OF_SHORT

    assert exit_due(side, levels, price, signal) is reason


def test_stop_and_target_outrank_the_signal() -> None:
    assert exit_due(LONG, OF_LONG, Decimal(97), SignalKind.EXIT_LONG) is ExitReason.STOP_LOSS
    assert exit_due(LONG, OF_LONG, Decimal(105), SignalKind.EXIT_LONG) is ExitReason.TAKE_PROFIT


def test_the_stop_outranks_the_target() -> None:
    crossed = ExitLevels(stop=Decimal(100), target=Decimal(100))

    assert exit_due(LONG, crossed, Decimal(100), None) is ExitReason.STOP_LOSS
    assert exit_due(SHORT, crossed, Decimal(100), None) is ExitReason.STOP_LOSS


@given(
    entry=st.decimals(min_value="0.00000001", max_value=1_000_000, places=8),
    side=st.sampled_from(PositionSide),
    stop_loss=st.decimals(min_value="0.01", max_value="99.99", places=2),
    take_profit=st.decimals(min_value="0.01", max_value="99.99", places=2),
)
def test_the_stop_loses_and_the_target_gains_and_nothing_is_due_between(
    entry: Decimal, side: PositionSide, stop_loss: Decimal, take_profit: Decimal
) -> None:
    levels = levels_at_entry(entry, side, stop_loss, take_profit)

    assert levels.stop is not None
    assert levels.target is not None
    assert (levels.stop - entry) * side.sign < 0 < (levels.target - entry) * side.sign
    assert exit_due(side, levels, levels.stop, None) is ExitReason.STOP_LOSS
    assert exit_due(side, levels, levels.target, None) is ExitReason.TAKE_PROFIT
    assert exit_due(side, levels, entry, None) is None
