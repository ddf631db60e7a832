"""Orders on paper: where they fill, what they must hold and what they cost, always rounded against us."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from domain.market import MarketRules, Side, Trigger
from domain.paper import PaperTerms, fee, needed, notional, price_at, price_in, trigger_at, trigger_in, worst_price

D = Decimal
RULES = MarketRules(
    "BTC/USDT", "BTC", "USDT", tick_size=D("0.1"), lot_size=D("0.01"), maker_fee=D("0.0005"), taker_fee=D("0.001")
)


def terms(side: str, trigger: Trigger | None = None, **prices: str) -> PaperTerms:
    exact: dict[str, Any] = {name: D(value) for name, value in prices.items()}
    return PaperTerms(Side(side), D(2), trigger=trigger, **exact)


@pytest.mark.parametrize(
    ("order", "price"),
    [
        (terms("BUY"), "100.3"),  # 100.2 and its slippage, to the tick above
        (terms("SELL"), "100.0"),  # 100.1 less its slippage, to the tick below
        (terms("BUY", price="100.1"), None),
        (terms("BUY", price="100.5"), "100.2"),  # the better of the two
        (terms("SELL", price="100.2"), None),
    ],
)
def test_an_order_meets_the_other_side_of_the_quote(order: PaperTerms, price: str | None) -> None:
    assert price_at(order, RULES, bid=D("100.1"), ask=D("100.2")) == (None if price is None else D(price))


@pytest.mark.parametrize(
    ("order", "price"),
    [
        (terms("BUY", price="95"), "95"),
        (terms("BUY", price="94.9"), None),
        (terms("SELL", price="105"), "105"),
        (terms("BUY"), "100.1"),  # the open and its slippage
    ],
)
def test_a_candle_fills_what_it_reaches(order: PaperTerms, price: str | None) -> None:
    filled = price_in(order, RULES, open_=D(100), low=D(95), high=D(105))

    assert filled == (None if price is None else D(price))


FALLING, RISING = Trigger.FALLING, Trigger.RISING


@pytest.mark.parametrize("side", ["BUY", "SELL"])
@pytest.mark.parametrize(
    ("trigger", "stop", "met"),
    [
        (FALLING, "95", "95"),
        (FALLING, "94.9", None),
        (FALLING, "101", "100"),  # it opened below it
        (RISING, "105", "105"),
        (RISING, "105.1", None),
        (RISING, "99", "100"),  # it opened above it
    ],
)
def test_a_stop_price_is_met_from_the_side_that_its_trigger_says(
    side: str, trigger: Trigger, stop: str, met: str | None
) -> None:
    found = trigger_in(terms(side, trigger, stop_price=stop), open_=D(100), low=D(95), high=D(105))

    assert found == (None if met is None else D(met))


def test_at_a_quote_a_buy_goes_by_the_ask_and_a_sell_by_the_bid() -> None:
    assert trigger_at(terms("SELL", FALLING, stop_price="100.1"), bid=D("100.1"), ask=D("100.2")) == D("100.1")
    assert trigger_at(terms("BUY", FALLING, stop_price="100.1"), bid=D("100.1"), ask=D("100.2")) is None
    assert trigger_at(terms("BUY", RISING, stop_price="100.2"), bid=D("100.1"), ask=D("100.2")) == D("100.2")
    assert trigger_at(terms("SELL", RISING, stop_price="100.2"), bid=D("100.1"), ask=D("100.2")) is None
    with pytest.raises(RuntimeError, match="wanted a stop price, was none"):
        trigger_at(terms("SELL"), bid=D("100.1"), ask=D("100.2"))


def test_what_a_waiting_order_may_come_to_pay_is_its_own_price_or_its_stop_with_slippage() -> None:
    assert worst_price(terms("BUY", price="95"), RULES, D("94.8")) == D(95)
    assert worst_price(terms("BUY", stop_price="105"), RULES, None) == D("105.1")
    assert worst_price(terms("BUY"), RULES, D("100.3")) == D("100.3")
    with pytest.raises(RuntimeError, match="wanted a price for a market order, was none"):
        worst_price(terms("BUY"), RULES, None)


def test_a_buy_holds_its_value_and_the_higher_fee_and_a_sell_what_it_sells() -> None:
    assert needed(terms("BUY", price="95"), RULES, D(95)) == D("190.19")
    assert needed(terms("SELL", price="95"), RULES, D(95)) == D(2)


def test_a_value_is_rounded_up_for_who_pays_and_down_for_who_receives_and_a_fee_up() -> None:
    tiny = D("0.0000000000000000015")

    assert notional(RULES, Side.BUY, tiny, D(1)) == D("0.000000000000000002")
    assert notional(RULES, Side.SELL, tiny, D(1)) == D("0.000000000000000001")
    assert fee(RULES, Side.SELL, tiny, D(1), D("0.001")) == D("0.000000000000000001")
