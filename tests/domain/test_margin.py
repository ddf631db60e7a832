"""Margin, liquidation price and its distance, by exact values."""

from __future__ import annotations

from decimal import Decimal

import pytest

from domain.margin import liquidation_distance_percent, liquidation_price, margin_of, wallet_equity
from domain.market import MarketRules, PositionSide
from domain.positions import PositionState, unrealized_pnl

LONG, SHORT = PositionSide.LONG, PositionSide.SHORT
RULES = MarketRules("BTC/USDT:USDT", "BTC", "USDT", Decimal("0.1"), Decimal(1), contract_size=Decimal("0.001"))


def test_margin_is_a_share_of_the_value_whichever_way_it_points() -> None:
    assert margin_of(Decimal(600), Decimal(10)) == 60
    assert margin_of(Decimal(-600), Decimal(10)) == 60
    assert margin_of(Decimal(500), Decimal(1)) == 500


def test_a_leverage_below_one_is_none() -> None:
    with pytest.raises(ValueError, match="wanted a leverage of at least 1, was 0.5"):
        margin_of(Decimal(600), Decimal("0.5"))


# As the simulated venue announces them for the same positions.
@pytest.mark.parametrize(
    ("side", "entry", "leverage", "expected"),
    [
        (LONG, 60_000, 10, "54271.4"),
        (SHORT, 60_000, 10, "65671.6"),
        (SHORT, 50_000, 5, "59701.4"),
        (SHORT, 50_000, 1, "99502.4"),
    ],
)
def test_a_position_is_liquidated_where_its_margin_is_the_maintenance_margin(
    side: PositionSide, entry: int, leverage: int, expected: str
) -> None:
    exact = liquidation_price(side, Decimal(entry), Decimal(leverage))
    on_tick = liquidation_price(side, Decimal(entry), Decimal(leverage), RULES)

    assert exact is not None
    assert on_tick is not None
    gained = unrealized_pnl(PositionState(quantity=Decimal(1), entry_price=Decimal(entry)), exact, side)
    assert abs(Decimal(entry) / leverage + gained - exact * Decimal("0.005")) < Decimal("1e-20")
    assert on_tick == Decimal(expected)


def test_a_long_without_leverage_is_never_liquidated() -> None:
    assert liquidation_price(LONG, Decimal(50_000), Decimal(1)) is None


def test_the_distance_is_what_the_price_may_still_move_against_us() -> None:
    assert liquidation_distance_percent(LONG, Decimal(50_000), Decimal(40_000)) == 20
    assert liquidation_distance_percent(SHORT, Decimal(50_000), Decimal(60_000)) == 20
    assert liquidation_distance_percent(SHORT, Decimal(60_000), Decimal(57_000)) == -5
    assert liquidation_distance_percent(LONG, Decimal(50_000), None) is None


def test_an_account_of_contracts_is_worth_its_wallet_and_what_is_open_gains() -> None:
    assert wallet_equity(Decimal("9999.7"), Decimal("-10.5")) == Decimal("9989.2")
