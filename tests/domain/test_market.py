"""Sides, rounding and the crossing from floats to decimals: never worse for us, never more than was allowed."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.market import MarketRules, PositionSide, Side, round_price, round_quantity, to_decimal

prices = st.decimals(min_value=0, max_value=10_000_000, places=8)
quantities = st.decimals(min_value=0, max_value=100_000_000, places=10)
# Powers of ten, and the steps of futures and of odd venues.
steps = st.sampled_from(
    [Decimal(step) for step in ("0.00000001", "0.0001", "0.00025", "0.003", "0.05", "0.1", "1", "25", "1000")]
)


def rules(tick: Decimal = Decimal("0.1"), lot: Decimal = Decimal("0.001"), **fields: Any) -> MarketRules:
    return MarketRules("BTC/USDT", "BTC", "USDT", tick_size=tick, lot_size=lot, **fields)


@pytest.mark.parametrize(
    ("side", "entry", "leave", "sign"),
    [(PositionSide.LONG, Side.BUY, Side.SELL, 1), (PositionSide.SHORT, Side.SELL, Side.BUY, -1)],
)
def test_a_position_is_entered_on_one_side_and_left_on_the_other(
    side: PositionSide, entry: Side, leave: Side, sign: int
) -> None:
    assert (side.entry_side, side.exit_side, side.sign) == (entry, leave, sign)
    assert entry.opposite is leave
    assert entry.sign == sign


@pytest.mark.parametrize(
    ("side", "price", "expected"),
    [
        (Side.BUY, "100.19", "100.1"),
        (Side.SELL, "100.11", "100.2"),
        (Side.BUY, "100.1", "100.1"),
        (Side.SELL, "100.1", "100.1"),
        (Side.BUY, "0.05", "0"),
        (Side.SELL, "0.05", "0.1"),
    ],
)
def test_a_price_moves_to_the_tick_that_does_not_cost_us(side: Side, price: str, expected: str) -> None:
    assert round_price(Decimal(price), rules(), side) == Decimal(expected)


@given(price=prices, tick=steps, side=st.sampled_from(Side))
def test_a_rounded_price_is_a_whole_tick_less_than_one_away_and_never_worse(
    price: Decimal, tick: Decimal, side: Side
) -> None:
    rounded = round_price(price, rules(tick=tick), side)

    gained = (price - rounded) * side.sign
    assert rounded % tick == 0
    assert 0 <= gained < tick


@pytest.mark.parametrize(
    ("quantity", "max_quantity", "expected"),
    [
        ("1.2349", None, "1.234"),
        ("1.234", None, "1.234"),
        ("0.0009", None, "0"),
        ("7", "5.0005", "5"),
        ("4", "5", "4"),
    ],
)
def test_a_quantity_is_cut_to_whole_lots_and_to_the_markets_maximum(
    quantity: str, max_quantity: str | None, expected: str
) -> None:
    most = None if max_quantity is None else Decimal(max_quantity)

    assert round_quantity(Decimal(quantity), rules(max_quantity=most)) == Decimal(expected)


@given(quantity=quantities, lot=steps, most=st.none() | quantities)
def test_a_rounded_quantity_is_whole_lots_less_than_one_below_and_never_above(
    quantity: Decimal, lot: Decimal, most: Decimal | None
) -> None:
    rounded = round_quantity(quantity, rules(lot=lot, max_quantity=most))

    allowed = quantity if most is None else min(quantity, most)
    assert rounded % lot == 0
    assert 0 <= allowed - rounded < lot


@given(quantity=quantities, lot=steps)
def test_rounding_again_changes_nothing(quantity: Decimal, lot: Decimal) -> None:
    once = round_quantity(quantity, rules(lot=lot))

    assert round_quantity(once, rules(lot=lot)) == once


@pytest.mark.parametrize("step", ["0", "-0.1"])
def test_a_step_that_is_not_positive_is_refused(step: str) -> None:
    with pytest.raises(ValueError, match=f"wanted a positive step, was {step}"):
        round_price(Decimal(1), rules(tick=Decimal(step)), Side.BUY)


def test_a_notional_counts_the_contracts_size() -> None:
    assert rules().notional(Decimal("0.5"), Decimal(50_000)) == 25_000
    assert rules(contract_size=Decimal("0.001")).notional(Decimal(20), Decimal(50_000)) == 1_000


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.1, "0.1"),
        (1e-8, "0.00000001"),
        (67_123.45, "67123.45"),
        (3, "3"),
        ("2.50", "2.50"),
        (Decimal("1.000"), "1.000"),
    ],
)
def test_a_number_becomes_the_decimal_it_prints_as(value: Decimal | float | int | str, expected: str) -> None:
    assert to_decimal(value) == Decimal(expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), "NaN", "Infinity", Decimal("sNaN")])
def test_a_corrupt_number_never_becomes_money(value: Decimal | float | str) -> None:
    with pytest.raises(ValueError, match="wanted a finite number"):
        to_decimal(value)
