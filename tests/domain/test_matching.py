"""The fill model, by tables of cases and by what must hold for any candle."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.exits import ExitReason
from domain.market import PositionSide, Side
from domain.matching import exit_in_candle, fee_of, limit_fill_price, market_fill_price, stop_fill_price

prices = st.decimals(min_value=1, max_value=1_000_000, places=2)


@st.composite
def candles(draw: st.DrawFn) -> tuple[Decimal, Decimal, Decimal]:
    """(open, high, low) of a possible candle."""
    low, open_, high = sorted(draw(st.tuples(prices, prices, prices)))
    return open_, high, low


@pytest.mark.parametrize(
    ("side", "expected"),
    [(Side.BUY, Decimal("100.05")), (Side.SELL, Decimal("99.95"))],
)
def test_a_market_order_pays_the_slippage_on_its_own_side(side: Side, expected: Decimal) -> None:
    assert market_fill_price(side, Decimal(100), Decimal("0.0005")) == expected


@pytest.mark.parametrize(
    ("side", "stop", "open_", "low", "high", "expected"),
    [
        (Side.SELL, "95", "100", "96", "103", None),
        (Side.SELL, "95", "100", "95", "103", "95"),
        (Side.SELL, "95", "100", "90", "103", "95"),
        (Side.SELL, "95", "93", "90", "103", "93"),
        (Side.BUY, "105", "100", "96", "104", None),
        (Side.BUY, "105", "100", "96", "105", "105"),
        (Side.BUY, "105", "108", "96", "110", "108"),
    ],
)
def test_a_stop_fills_at_the_worse_of_stop_and_open(
    side: Side, stop: str, open_: str, low: str, high: str, expected: str | None
) -> None:
    price = stop_fill_price(side, Decimal(stop), Decimal(open_), Decimal(low), Decimal(high))

    assert price == (None if expected is None else Decimal(expected))


@pytest.mark.parametrize(
    ("side", "limit", "open_", "low", "high", "expected"),
    [
        (Side.BUY, "95", "100", "96", "103", None),
        (Side.BUY, "95", "100", "95", "103", "95"),
        (Side.BUY, "95", "93", "90", "103", "93"),
        (Side.SELL, "105", "100", "96", "104", None),
        (Side.SELL, "105", "100", "96", "107", "105"),
        (Side.SELL, "105", "108", "96", "110", "108"),
    ],
)
def test_a_limit_fills_at_the_better_of_limit_and_open(
    side: Side, limit: str, open_: str, low: str, high: str, expected: str | None
) -> None:
    price = limit_fill_price(side, Decimal(limit), Decimal(open_), Decimal(low), Decimal(high))

    assert price == (None if expected is None else Decimal(expected))


@pytest.mark.parametrize(
    ("side", "stop", "target", "open_", "high", "low", "expected"),
    [
        (PositionSide.LONG, "95", "105", "100", "104", "96", None),
        (PositionSide.LONG, "95", "105", "100", "104", "94", (ExitReason.STOP_LOSS, "95")),
        (PositionSide.LONG, "95", "105", "100", "106", "96", (ExitReason.TAKE_PROFIT, "105")),
        (PositionSide.LONG, "95", "105", "100", "106", "94", (ExitReason.STOP_LOSS, "95")),
        (PositionSide.LONG, "95", "105", "92", "104", "91", (ExitReason.STOP_LOSS, "92")),
        (PositionSide.LONG, "95", "105", "107", "108", "96", (ExitReason.TAKE_PROFIT, "107")),
        (PositionSide.SHORT, "105", "95", "100", "106", "94", (ExitReason.STOP_LOSS, "105")),
        (PositionSide.SHORT, "105", "95", "100", "104", "94", (ExitReason.TAKE_PROFIT, "95")),
        (PositionSide.SHORT, "105", "95", "93", "104", "92", (ExitReason.TAKE_PROFIT, "93")),
        (PositionSide.LONG, None, "105", "100", "106", "1", (ExitReason.TAKE_PROFIT, "105")),
        (PositionSide.LONG, "95", None, "100", "999", "94", (ExitReason.STOP_LOSS, "95")),
        (PositionSide.LONG, None, None, "100", "999", "1", None),
    ],
)
def test_a_position_leaves_by_its_stop_before_its_target(
    side: PositionSide,
    stop: str | None,
    target: str | None,
    open_: str,
    high: str,
    low: str,
    expected: tuple[ExitReason, str] | None,
) -> None:
    levels = [None if level is None else Decimal(level) for level in (stop, target)]

    found = exit_in_candle(side, levels[0], levels[1], Decimal(open_), Decimal(high), Decimal(low))

    assert found == (None if expected is None else (expected[0], Decimal(expected[1])))


def test_a_fee_is_charged_on_the_size_of_the_notional() -> None:
    assert fee_of(Decimal("677.176"), Decimal("0.001")) == Decimal("0.677176")
    assert fee_of(Decimal("-100"), Decimal("0.001")) == Decimal("0.1")


@given(candle=candles(), stop=prices, side=st.sampled_from(Side))
def test_a_stop_never_fills_better_than_itself_nor_outside_the_candle(
    candle: tuple[Decimal, Decimal, Decimal], stop: Decimal, side: Side
) -> None:
    open_, high, low = candle

    price = stop_fill_price(side, stop, open_, low, high)

    assert (price is not None) is (low <= stop if side is Side.SELL else high >= stop)
    if price is not None:
        assert (price - stop) * side.sign >= 0
        assert low <= price <= high


@given(candle=candles(), limit=prices, side=st.sampled_from(Side))
def test_a_limit_never_fills_worse_than_itself_nor_outside_the_candle(
    candle: tuple[Decimal, Decimal, Decimal], limit: Decimal, side: Side
) -> None:
    open_, high, low = candle

    price = limit_fill_price(side, limit, open_, low, high)

    assert (price is not None) is (low <= limit if side is Side.BUY else high >= limit)
    if price is not None:
        assert (limit - price) * side.sign >= 0
        assert low <= price <= high


@given(candle=candles(), stop=prices, target=prices, side=st.sampled_from(PositionSide))
def test_the_stop_wins_in_every_candle_that_reaches_it(
    candle: tuple[Decimal, Decimal, Decimal], stop: Decimal, target: Decimal, side: PositionSide
) -> None:
    open_, high, low = candle

    found = exit_in_candle(side, stop, target, open_, high, low)

    if stop_fill_price(side.exit_side, stop, open_, low, high) is not None:
        assert found is not None
        assert found[0] is ExitReason.STOP_LOSS


@given(
    cents=st.lists(st.integers(100, 10_000_000), min_size=5, max_size=5),
    side=st.sampled_from(PositionSide),
)
def test_floats_and_decimals_leave_at_the_same_price(cents: list[int], side: PositionSide) -> None:
    stop, target = cents[0], cents[1]
    low, open_, high = sorted(cents[2:])
    quarters = [Decimal(value) / 4 for value in (stop, target, open_, high, low)]  # exact in both types

    exact = exit_in_candle(side, *quarters)
    approximate = exit_in_candle(side, *[float(value) for value in quarters])

    if exact is None or approximate is None:
        assert exact is None
        assert approximate is None
    else:
        assert isinstance(approximate[1], float)
        assert (exact[0], float(exact[1])) == approximate
