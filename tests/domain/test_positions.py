"""A position is the fold of its fills: whatever their order and however they were cut up, the books say the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.market import ONE, ZERO, PositionSide, Side
from domain.positions import FillFact, Holding, PositionState, fold, funding_share, unrealized_pnl

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
LONG, SHORT = PositionSide.LONG, PositionSide.SHORT
SATOSHI = Decimal("0.00000001")
contract_sizes = st.sampled_from([ONE, Decimal("0.001"), Decimal(10)])
sides = st.sampled_from(PositionSide)
fees = st.decimals(min_value=-10, max_value=1000, places=6)


def fill(side: Side, quantity: str, price: str, minute: int = 0, *, fee: str = "0", base_fee: str = "0") -> FillFact:
    return FillFact(
        side, Decimal(quantity), Decimal(price), Decimal(fee), Decimal(base_fee), NOON + timedelta(minutes=minute)
    )


@st.composite
def legal_fills(
    draw: st.DrawFn, side: PositionSide, *, is_closed: bool = False, has_base_fees: bool = True
) -> list[FillFact]:
    """Entries and exits of one position, an exit never of more than is held; base fees as a venue takes them: out of
    what was bought."""
    fills: list[FillFact] = []
    held = 0

    def add(fill_side: Side, units: int, base_fee: int) -> int:
        fills.append(
            FillFact(
                fill_side,
                quantity=units * SATOSHI,
                price=Decimal(draw(st.integers(1, 10**8))) / 100,
                fee_quote=draw(fees),
                fee_base=base_fee * SATOSHI,
                filled_at=NOON + timedelta(seconds=len(fills)),
            )
        )
        return side.sign * (fill_side.sign * units - base_fee)

    for _ in range(draw(st.integers(1, 6))):
        is_exit = held > 0 and draw(st.booleans())
        fill_side = side.exit_side if is_exit else side.entry_side
        units = draw(st.integers(1, held if is_exit else 10**9))
        base_fee = draw(st.integers(0, units // 100)) if has_base_fees and fill_side is Side.BUY else 0
        held += add(fill_side, units, base_fee)
    if is_closed and held:
        add(side.exit_side, held, 0)
    return fills


def cash_flow(fills: Sequence[FillFact], contract_size: Decimal = ONE) -> Decimal:
    """Quote currency received less paid, fees included."""
    return sum((-one.side.sign * one.quantity * one.price * contract_size - one.fee_quote for one in fills), start=ZERO)


def test_no_fills_are_no_position() -> None:
    state = fold([], LONG)

    assert state == PositionState()
    assert not state.is_closed


def test_entries_average_by_quantity() -> None:
    state = fold([fill(Side.BUY, "1", "100", fee="0.1"), fill(Side.BUY, "3", "104", 1, fee="0.3")], LONG)

    assert state == PositionState(
        quantity=Decimal(4), entered=Decimal(4), entry_price=Decimal(103), fees=Decimal("0.4"), opened_at=NOON
    )


def test_a_partial_exit_realizes_its_share_net_of_its_share_of_the_entry_fees() -> None:
    state = fold([fill(Side.BUY, "4", "100", fee="0.4"), fill(Side.SELL, "1", "110", 1, fee="0.11")], LONG)

    assert state.quantity == 3
    assert state.realized_pnl == Decimal(10) - Decimal("0.11") - Decimal("0.1")
    assert state.fees == Decimal("0.51")
    assert not state.is_closed
    assert state.closed_at is None


def test_the_last_exit_closes_the_position_at_its_time() -> None:
    fills = [
        fill(Side.BUY, "2", "100", 0, fee="0.2"),
        fill(Side.SELL, "1", "110", 1, fee="0.11"),
        fill(Side.SELL, "1", "90", 2, fee="0.09"),
    ]

    state = fold(fills, LONG)

    assert state.is_closed
    assert state.quantity == 0
    assert state.exit_price == 100
    assert state.realized_pnl == Decimal("-0.4")
    assert (state.opened_at, state.closed_at) == (NOON, NOON + timedelta(minutes=2))


def test_a_short_gains_when_the_price_falls() -> None:
    state = fold([fill(Side.SELL, "2", "100", fee="0.2"), fill(Side.BUY, "2", "90", 1, fee="0.18")], SHORT)

    assert state.is_closed
    assert (state.entry_price, state.exit_price) == (Decimal(100), Decimal(90))
    assert state.realized_pnl == Decimal("19.62")


def test_a_fee_in_base_currency_leaves_less_to_sell() -> None:
    entry = fill(Side.BUY, "1", "100", base_fee="0.001")

    assert fold([entry], LONG).quantity == Decimal("0.999")
    assert fold([entry], LONG).fees == 0


def test_selling_all_that_a_base_fee_left_closes_the_position_at_the_cost_of_the_fee() -> None:
    state = fold([fill(Side.BUY, "1", "100", base_fee="0.001"), fill(Side.SELL, "0.999", "100", 1)], LONG)

    assert state.is_closed
    assert state.realized_pnl == Decimal("-0.1")


def test_a_base_fee_on_buying_back_leaves_a_short_still_owing_it() -> None:
    state = fold([fill(Side.SELL, "1", "100"), fill(Side.BUY, "1", "90", 1, base_fee="0.001")], SHORT)

    assert state.quantity == Decimal("0.001")
    assert not state.is_closed


def test_contracts_are_worth_their_size() -> None:
    state = fold([fill(Side.BUY, "10", "50000"), fill(Side.SELL, "10", "50100", 1)], LONG, Decimal("0.001"))

    assert state.realized_pnl == 1


def test_a_rebate_is_a_gain() -> None:
    state = fold([fill(Side.BUY, "1", "100", fee="-0.02"), fill(Side.SELL, "1", "100", 1, fee="-0.02")], LONG)

    assert state.realized_pnl == Decimal("0.04")
    assert state.fees == Decimal("-0.04")


def test_fills_without_times_are_folded_too() -> None:
    entry = replace(fill(Side.BUY, "1", "100"), filled_at=None)

    state = fold([fill(Side.SELL, "1", "101", 1), entry, replace(entry)], LONG)

    assert (state.quantity, state.opened_at) == (Decimal(1), None)


@pytest.mark.parametrize(
    ("side", "price", "expected"),
    [(LONG, "110", "20"), (LONG, "95", "-10"), (SHORT, "110", "-20"), (SHORT, "95", "10")],
)
def test_an_open_position_is_worth_what_closing_it_would_add(side: PositionSide, price: str, expected: str) -> None:
    state = fold([fill(side.entry_side, "2", "100")], side)

    assert unrealized_pnl(state, Decimal(price), side) == Decimal(expected)
    assert unrealized_pnl(state, Decimal(price), side, Decimal("0.1")) == Decimal(expected) / 10


@given(data=st.data(), side=sides)
def test_the_order_of_the_fills_matters_to_no_figure(data: st.DataObject, side: PositionSide) -> None:
    fills = data.draw(legal_fills(side))

    shuffled = data.draw(st.permutations(fills))

    assert fold(shuffled, side) == fold(fills, side)


@given(data=st.data(), side=sides, contract_size=contract_sizes)
def test_a_fill_in_two_parts_is_the_fill(data: st.DataObject, side: PositionSide, contract_size: Decimal) -> None:
    fills = data.draw(legal_fills(side))
    index = data.draw(st.integers(0, len(fills) - 1))
    whole = fills[index]
    share = data.draw(st.integers(0, int(whole.quantity / SATOSHI))) * SATOSHI
    fee = data.draw(fees)
    part = replace(whole, quantity=share, fee_quote=fee, fee_base=ZERO)
    rest = replace(whole, quantity=whole.quantity - share, fee_quote=whole.fee_quote - fee)

    split = [*fills[:index], part, rest, *fills[index + 1 :]]

    assert fold(split, side, contract_size) == fold(fills, side, contract_size)


@given(data=st.data(), side=sides)
def test_a_legal_sequence_never_holds_less_than_nothing(data: st.DataObject, side: PositionSide) -> None:
    fills = data.draw(legal_fills(side))

    states = [fold(fills[:length], side) for length in range(1, len(fills) + 1)]

    assert min(state.quantity for state in states) >= 0
    assert all(state.is_closed == (state.quantity == 0) for state in states)


@given(data=st.data(), side=sides, contract_size=contract_sizes)
def test_a_closed_position_realizes_exactly_the_cash_that_went_in_and_out(
    data: st.DataObject, side: PositionSide, contract_size: Decimal
) -> None:
    fills = data.draw(legal_fills(side, is_closed=True))

    state = fold(fills, side, contract_size)

    assert state.is_closed
    assert state.realized_pnl == cash_flow(fills, contract_size)


@given(data=st.data(), side=sides, contract_size=contract_sizes, cents=st.integers(1, 10**8))
def test_realized_and_unrealized_together_are_cash_and_holding(
    data: st.DataObject, side: PositionSide, contract_size: Decimal, cents: int
) -> None:
    fills = data.draw(legal_fills(side, has_base_fees=False))
    price = Decimal(cents) / 100
    state = fold(fills, side, contract_size)
    entry_fees = sum((one.fee_quote for one in fills if one.side is side.entry_side), start=ZERO)
    fees_of_what_is_held = entry_fees * (1 - state.exited / state.entered)

    booked = state.realized_pnl + unrealized_pnl(state, price, side, contract_size) - fees_of_what_is_held

    worth = cash_flow(fills, contract_size) + side.sign * state.quantity * price * contract_size
    assert abs(booked - worth) < Decimal("1e-9")


def test_funding_is_part_of_the_result_whether_it_was_paid_or_received() -> None:
    fills = [fill(Side.BUY, "2", "100", fee="0.2"), fill(Side.SELL, "2", "110", 1, fee="0.22")]

    paid, held = fold(fills, LONG, funding=Decimal("-1.5")), fold(fills[:1], LONG, funding=Decimal("0.5"))

    assert (paid.realized_pnl, paid.funding) == (Decimal("18.08"), Decimal("-1.5"))
    assert (held.realized_pnl, held.funding) == (Decimal("0.5"), Decimal("0.5"))


def test_a_funding_payment_is_borne_by_what_was_held_when_it_was_made() -> None:
    long, short = Holding((fill(Side.BUY, "3", "100"),)), Holding((fill(Side.SELL, "1", "100"),))
    sold = Holding((fill(Side.BUY, "2", "100"), fill(Side.SELL, "2", "100", 1)))
    paid_at = NOON + timedelta(minutes=2)
    all_of_them = [long, short, sold]

    shares = [funding_share(Decimal(-2), paid_at, one, all_of_them) for one in all_of_them]

    # The venue took 2 for the 2 that the account held in all: a long of 3 paid 3, of which the short of 1 received 1.
    assert shares == [-3, 1, 0]
    assert funding_share(Decimal(-2), paid_at, short, [short]) == -2
    assert funding_share(Decimal(-2), NOON - timedelta(minutes=1), long, [long, sold]) == -1
