"""How much to trade: what each method asks for, what each cap leaves of it, and which reason a refusal names."""

from __future__ import annotations

from decimal import ROUND_FLOOR, Decimal
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from domain.exit_plan import ExitPlan
from domain.market import ONE, ZERO, MarketRules, PositionSide
from domain.orders import Denial
from domain.sizing import Room, Sized, Sizing, SizingMethod, notional_wanted, size, stop_percent

FIXED, PERCENT, RISK = SizingMethod.FIXED_QUOTE, SizingMethod.PERCENT_OF_EQUITY, SizingMethod.RISK_PER_TRADE
VOLATILITY, KELLY = SizingMethod.VOLATILITY, SizingMethod.KELLY
# Six in ten win, and twice what the others lose: 0.6 - 0.4 / 2 = 0.4.
GOOD = (0.02,) * 6 + (-0.01,) * 4
ALL_STOPS = {"stop_loss_percent": "5", "stop_loss_atr": "1", "is_stop_from_signal": True}
UNIT = Decimal("0.00000001")
money = st.decimals(min_value=0, max_value=100_000_000, places=8)
lots = st.sampled_from([Decimal(lot) for lot in ("0.00000001", "0.00001", "0.003", "0.1", "0.5", "1", "1000")])


def rules(**fields: Any) -> MarketRules:
    defaults: dict[str, Any] = {"tick_size": Decimal("0.1"), "lot_size": Decimal("0.001")}
    return MarketRules("BTC/USDT", "BTC", "USDT", **{**defaults, **fields})


def sizing(method: SizingMethod = FIXED, amount: str = "1000", **fields: Any) -> Sizing:
    """A wish at a price of 100 with an equity and a free balance of 10,000."""
    defaults: dict[str, Any] = {"price": "100", "equity": "10000", "free_balance": "10000"}
    given = {**defaults, **fields}
    numbers: dict[str, Any] = {
        name: Decimal(value) if isinstance(value, str) else value for name, value in given.items() if value is not None
    }
    return Sizing(method=method, amount=Decimal(amount), **numbers)


def room(notional: str, denial: Denial = Denial.MAX_EXPOSURE) -> Room:
    return Room(Decimal(notional), denial)


@pytest.mark.parametrize(
    ("method", "amount", "stop_loss", "expected"),
    [
        (FIXED, "1000", None, "1000"),
        (PERCENT, "10", None, "1000"),
        (PERCENT, "0.5", "2", "50"),
        (RISK, "1", "2", "5000"),  # 100 lost when 5,000 fall by 2 %
        (RISK, "0.5", "10", "500"),
        (RISK, "1", None, Denial.NO_STOP_LOSS),
    ],
)
def test_each_method_asks_for_its_amount(
    method: SizingMethod, amount: str, stop_loss: str | None, expected: str | Denial
) -> None:
    wanted = notional_wanted(sizing(method, amount, stop_loss_percent=stop_loss), rules())

    assert wanted == (expected if isinstance(expected, Denial) else Decimal(expected))


@pytest.mark.parametrize(
    ("facts", "rooms", "quantity", "capped"),
    [
        ({}, [], "10", "1000"),
        ({"price": "300"}, [], "3.333", "1000"),
        ({"free_balance": "600"}, [], "6", "600"),
        ({"free_balance": "606", "price_margin": "0.01"}, [], "6", "600"),
        ({}, [room("250")], "2.5", "250"),
        ({"free_balance": "200"}, [room("250")], "2", "200"),
        ({}, [room("5000"), room("300", Denial.MAX_OPEN_RISK)], "3", "300"),
        ({}, [room("5000")], "10", "1000"),
        # A quarter of the notional is paid, and the margin whole: 130 / (1/4 + 0.01)
        ({"free_balance": "130", "leverage": "4", "price_margin": "0.01"}, [], "5", "500"),
        ({"free_balance": "260", "leverage": "4", "price_margin": "0.01"}, [], "10", "1000"),
    ],
)
def test_the_narrowest_cap_decides(facts: dict[str, Any], rooms: list[Room], quantity: str, capped: str) -> None:
    sized = size(sizing(**facts), rules(), rooms)

    assert sized == Sized(Decimal(quantity), Decimal(1000), Decimal(capped))


@pytest.mark.parametrize(
    ("facts", "market", "rooms", "denial"),
    [
        ({"method": RISK}, {}, [], Denial.NO_STOP_LOSS),
        ({"free_balance": "0"}, {}, [], Denial.INSUFFICIENT_BALANCE),
        ({"free_balance": "-5"}, {}, [], Denial.INSUFFICIENT_BALANCE),
        ({"free_balance": "0.05"}, {}, [], Denial.INSUFFICIENT_BALANCE),
        ({"free_balance": "9"}, {"min_notional": Decimal(10)}, [], Denial.INSUFFICIENT_BALANCE),
        ({}, {}, [room("0")], Denial.MAX_EXPOSURE),
        ({}, {}, [room("-1000")], Denial.MAX_EXPOSURE),
        ({}, {"min_notional": Decimal(10)}, [room("9")], Denial.MAX_EXPOSURE),
        ({"free_balance": "4"}, {"min_notional": Decimal(10)}, [room("5")], Denial.INSUFFICIENT_BALANCE),
        ({"amount": "0.09"}, {}, [], Denial.BELOW_MIN_QUANTITY),
        ({"amount": "50"}, {"min_quantity": ONE}, [], Denial.BELOW_MIN_QUANTITY),
        ({"amount": "99.99"}, {"min_quantity": ONE}, [], Denial.BELOW_MIN_QUANTITY),
        ({"amount": "9.99"}, {"min_notional": Decimal(10)}, [], Denial.BELOW_MIN_NOTIONAL),
        ({"method": PERCENT, "equity": "-100"}, {}, [], Denial.BELOW_MIN_QUANTITY),
    ],
)
def test_a_refusal_names_what_stood_in_the_way(
    facts: dict[str, Any], market: dict[str, Decimal], rooms: list[Room], denial: Denial
) -> None:
    sized = size(sizing(**facts), rules(**market), rooms)

    assert (sized.quantity, sized.denial) == (ZERO, denial)
    assert sized.capped >= 0


@pytest.mark.parametrize(
    ("amount", "market"),
    [("100", {"min_quantity": ONE}), ("10", {"min_notional": Decimal(10)}), ("0.1", {})],
)
def test_exactly_the_minimum_is_enough(amount: str, market: dict[str, Decimal]) -> None:
    sized = size(sizing(amount=amount), rules(**market))

    assert (sized.quantity, sized.denial) == (Decimal(amount) / 100, None)


def test_rounding_down_to_lots_can_fall_below_the_minimum_value() -> None:
    sized = size(sizing(amount="19.9"), rules(lot_size=Decimal("0.1"), min_notional=Decimal(15)))

    assert sized == Sized(ZERO, Decimal("19.9"), Decimal("19.9"), Denial.BELOW_MIN_NOTIONAL)


def test_the_markets_maximum_cuts_the_quantity_without_a_refusal() -> None:
    assert size(sizing(), rules(max_quantity=Decimal("2.5"))).quantity == Decimal("2.5")


def test_contracts_are_counted_by_their_size() -> None:
    assert size(sizing(), rules(contract_size=Decimal("0.1"), lot_size=ONE)).quantity == 100


@st.composite
def wishes(draw: st.DrawFn) -> tuple[Sizing, MarketRules, list[Room]]:
    """A wish and a market it may well fit: every amount lies at, or a hair beside, a whole number of lots, or anywhere."""
    lot_size = draw(lots)
    contract_size = draw(st.sampled_from([ONE, Decimal("0.001"), Decimal(100)]))
    dearest = min(Decimal(1000) / (lot_size * contract_size), Decimal(1_000_000)).quantize(UNIT, ROUND_FLOOR)
    price = draw(st.decimals(min_value=UNIT, max_value=dearest, places=8))
    lot_value = lot_size * contract_size * price
    hairs = st.sampled_from([-UNIT, ZERO, UNIT])
    amounts = money | st.builds(lambda count, hair: count * lot_value + hair, st.integers(0, 10**6), hairs)
    equity = draw(amounts)
    method = draw(st.sampled_from(SizingMethod))
    wish = Sizing(
        method=method,
        amount=draw(amounts if method is FIXED else st.decimals(min_value="0.01", max_value=100, places=2)),
        price=price,
        equity=equity,
        free_balance=draw(amounts),
        stop_loss_percent=draw(st.none() | st.decimals(min_value="0.01", max_value="99.99", places=2)),
        price_margin=draw(st.just(ZERO) | st.decimals(min_value=0, max_value="0.1", places=4)),
        leverage=draw(st.sampled_from([ONE, Decimal(3), Decimal("7.5")])),
        atr=draw(st.none() | st.just(price / 50)),
        confidence=draw(st.none() | st.decimals(min_value=0, max_value=1, places=2)),
        record=draw(st.sampled_from([(), GOOD])),
    )
    market = rules(
        lot_size=lot_size,
        contract_size=contract_size,
        min_notional=draw(st.just(ZERO) | st.decimals(min_value=0, max_value=100, places=4)),
        min_quantity=lot_size * draw(st.integers(0, 3)),
    )
    rooms = [Room(notional, Denial.MAX_EXPOSURE) for notional in draw(st.lists(amounts, max_size=2))]
    return wish, market, rooms


@given(case=wishes())
@settings(max_examples=200)
def test_a_quantity_never_exceeds_wish_balance_or_exposure_room(
    case: tuple[Sizing, MarketRules, list[Room]],
) -> None:
    wish, market, rooms = case

    sized = size(wish, market, rooms)

    cost = market.notional(sized.quantity, wish.price)
    assert (sized.denial is None) == (sized.quantity > 0)
    if sized.denial is None:
        assert sized.quantity % market.lot_size == 0
        assert sized.quantity >= market.min_quantity
        assert market.min_notional <= cost <= sized.wanted
        assert cost * wish.cost_rate <= wish.free_balance * (1 + Decimal("1e-20"))
        assert all(cost <= room.notional for room in rooms)


@given(
    amount=money,
    price=st.decimals(min_value="0.01", max_value=100_000, places=2),
    lot_size=lots,
)
def test_no_whole_lot_that_was_allowed_is_left_out(amount: Decimal, price: Decimal, lot_size: Decimal) -> None:
    wish = Sizing(FIXED, amount, price, equity=amount, free_balance=amount)
    market = rules(lot_size=lot_size)

    sized = size(wish, market)

    assert market.notional(sized.quantity + lot_size, price) > amount


@given(
    percent=st.decimals(min_value="0.01", max_value=5, places=2),
    stop_loss=st.decimals(min_value="0.1", max_value=50, places=1),
    equity=st.decimals(min_value=100, max_value=1_000_000, places=2),
)
def test_risk_per_trade_loses_no_more_than_its_percent_at_the_stop(
    percent: Decimal, stop_loss: Decimal, equity: Decimal
) -> None:
    wish = Sizing(RISK, percent, Decimal(100), equity, free_balance=equity * 1000, stop_loss_percent=stop_loss)

    sized = size(wish, rules(lot_size=Decimal("0.00001")))

    assume(sized.denial is None)
    loss_at_stop = sized.quantity * 100 * stop_loss / 100
    assert loss_at_stop <= equity * percent / 100 * (1 + Decimal("1e-20"))


@pytest.mark.parametrize(
    ("method", "amount", "facts", "expected"),
    [
        (VOLATILITY, "1", {"atr": "2"}, "5000"),  # 100 gained or lost when 5,000 move by 2 %
        (VOLATILITY, "1", {}, Denial.NO_VOLATILITY),
        (VOLATILITY, "1", {"atr": "0"}, Denial.NO_VOLATILITY),
        (KELLY, "50", {"record": GOOD}, "2000"),  # half of 0.4
        (KELLY, "50", {"record": GOOD, "kelly_cap_percent": "15"}, "1500"),
        (KELLY, "50", {"record": GOOD, "kelly_min_trades": 10}, "2000"),
        (KELLY, "50", {"record": GOOD, "kelly_min_trades": 11}, Denial.NO_RECORD),
        (KELLY, "50", {}, Denial.NO_RECORD),
        (KELLY, "50", {"record": (0.01, -0.01)}, Denial.NO_EDGE),
        (KELLY, "50", {"record": (-0.02, 0.01)}, Denial.NO_EDGE),
        (FIXED, "1000", {"confidence": "0.4"}, "400"),
        (PERCENT, "10", {"confidence": "0"}, "0"),
        (RISK, "1", {"stop_loss_percent": "2", "confidence": "0.5"}, "2500"),
        (KELLY, "50", {"record": GOOD, "kelly_cap_percent": "15", "confidence": "0.5"}, "750"),
        (FIXED, "1000", {"confidence": "1.5"}, "1000"),
        (FIXED, "1000", {"confidence": "-1"}, "0"),
        (FIXED, "1000", {"quantity": "3.21", "confidence": "0.5"}, "321"),
    ],
)
def test_volatility_record_confidence_and_a_wish_by_hand_say_how_much(
    method: SizingMethod, amount: str, facts: dict[str, Any], expected: str | Denial
) -> None:
    wanted = notional_wanted(sizing(method, amount, **facts), rules())

    assert wanted == (expected if isinstance(expected, Denial) else Decimal(expected))


def test_a_quantity_by_hand_is_kept_to_the_last_lot_and_only_ever_cut() -> None:
    # 0.007 at 0.3 is 0.0021; dividing that by the price again would be rounded down to 0.006 by a hair
    asked = sizing(price="0.3", quantity="0.007")

    assert size(asked, rules()) == Sized(Decimal("0.007"), Decimal("0.0021"), Decimal("0.0021"))
    assert size(asked, rules(), [room("0.0012")]).quantity == Decimal("0.004")


@pytest.mark.parametrize(
    ("plan", "facts", "expected"),
    [
        ({}, {}, None),
        ({"stop_loss_percent": "2"}, {}, "2"),
        ({"stop_loss_atr": "1.5"}, {"atr": "4"}, "6"),
        ({"stop_loss_atr": "1.5"}, {}, None),
        ({"is_stop_from_signal": True}, {"signal_stop": "97"}, "3"),
        ({"is_stop_from_signal": True}, {}, None),
        ({}, {"signal_stop": "97"}, None),  # not asked for
        ({"is_stop_from_signal": True}, {"signal_stop": "101"}, None),  # passed already
        (
            {"stop_loss_percent": "5", "stop_loss_atr": "1", "is_stop_from_signal": True},
            {"atr": "4", "signal_stop": "97"},
            "3",
        ),
        (
            {"stop_loss_percent": "5", "stop_loss_atr": "1", "is_stop_from_signal": True},
            {"atr": "2", "signal_stop": "97"},
            "2",
        ),
    ],
)
def test_the_tightest_stop_that_can_be_measured_says_the_risk(
    plan: dict[str, Any], facts: dict[str, str], expected: str | None
) -> None:
    numbers: dict[str, Any] = {name: Decimal(value) for name, value in facts.items()}

    found = stop_percent(ExitPlan.model_validate(plan), price=Decimal(100), side=PositionSide.LONG, **numbers)

    assert found == (None if expected is None else Decimal(expected))


def test_a_short_position_s_stop_lies_above() -> None:
    plan = ExitPlan(is_stop_from_signal=True)

    def at(level: int) -> Decimal | None:
        return stop_percent(plan, price=Decimal(100), side=PositionSide.SHORT, signal_stop=Decimal(level))

    assert (at(104), at(96)) == (Decimal(4), None)
