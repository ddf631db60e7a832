"""What an order of a paper account fills at, must hold, and costs: by the one fill model, rounded against us, exact.

A price is moved to the tick that costs us more, a value to the last digit that is kept; so paper never earns by rounding.
Exact under a decimal context of digits enough for all of it, which is the caller's: 28 are not.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from domain.market import ZERO, MarketRules, Side, Trigger, round_price
from domain.matching import fee_of, limit_fill_price, market_fill_price, stop_fill_price

# What a market order pays beyond the best price of the quote.
SLIPPAGE = Decimal("0.0005")
SMALLEST = Decimal("1e-18")  # what the database keeps


@dataclass(frozen=True, slots=True)
class PaperTerms:
    """What was ordered: a limit order where it has a ``price``, else a market order; with a ``trigger`` it waits for its
    ``stop_price`` first."""

    side: Side
    quantity: Decimal
    price: Decimal | None = None
    stop_price: Decimal | None = None
    trigger: Trigger | None = None


def price_at(terms: PaperTerms, rules: MarketRules, bid: Decimal, ask: Decimal) -> Decimal | None:
    """Where the order fills at a quote: a buy meets the ask, a sell the bid."""
    price = ask if terms.side is Side.BUY else bid
    return price_in(terms, rules, price, price, price)


def price_in(terms: PaperTerms, rules: MarketRules, open_: Decimal, low: Decimal, high: Decimal) -> Decimal | None:
    """Where the order fills in a candle; None when the candle does not reach it. It does not wait for a stop price, or no
    more."""
    if terms.price is not None:
        price = limit_fill_price(terms.side, terms.price, open_, low, high)
    else:
        price = market_fill_price(terms.side, open_, SLIPPAGE)
    # The other side's rounding is the one that costs us.
    return None if price is None else round_price(price, rules, terms.side.opposite)


def trigger_at(terms: PaperTerms, bid: Decimal, ask: Decimal) -> Decimal | None:
    """Where the market is when a quote meets the stop price; None when it does not."""
    price = ask if terms.side is Side.BUY else bid
    return trigger_in(terms, price, price, price)


def trigger_in(terms: PaperTerms, open_: Decimal, low: Decimal, high: Decimal) -> Decimal | None:
    """Where the market is when a candle meets the stop price: there, or at the open of one that opens past it; None when it
    does not meet it."""
    if terms.stop_price is None:
        raise RuntimeError("wanted a stop price, was none")
    met_by = Side.SELL if terms.trigger is Trigger.FALLING else Side.BUY
    return stop_fill_price(met_by, terms.stop_price, open_, low, high)


def worst_price(terms: PaperTerms, rules: MarketRules, price: Decimal | None) -> Decimal:
    """What the order may come to pay, as far as can be told before it is filled; ``price`` is where it would fill now."""
    if terms.price is not None:
        return terms.price
    if price is not None:
        return price
    if terms.stop_price is None:
        raise RuntimeError("wanted a price for a market order, was none")
    return round_price(market_fill_price(terms.side, terms.stop_price, SLIPPAGE), rules, terms.side.opposite)


def needed(terms: PaperTerms, rules: MarketRules, worst: Decimal) -> Decimal:
    """What the account must hold for the order: base for a sell; quote with the fee, at the ``worst`` price, for a buy."""
    if terms.side is Side.SELL:
        return terms.quantity * rules.contract_size
    rate = max(rules.taker_fee, rules.maker_fee, ZERO)
    if terms.price is None:
        rate = rules.taker_fee
    value = notional(rules, Side.BUY, terms.quantity, worst)
    return value + max(fee(rules, Side.BUY, terms.quantity, worst, rate), ZERO)


def notional(rules: MarketRules, side: Side, quantity: Decimal, price: Decimal) -> Decimal:
    """What a fill moves in quote units: up for who pays, down for who receives."""
    rounding = ROUND_CEILING if side is Side.BUY else ROUND_FLOOR
    return rules.notional(quantity, price).quantize(SMALLEST, rounding)


def fee(rules: MarketRules, side: Side, quantity: Decimal, price: Decimal, rate: Decimal) -> Decimal:
    """The fee of a fill in quote units, up; a negative one is a rebate."""
    return fee_of(notional(rules, side, quantity, price), rate).quantize(SMALLEST, ROUND_CEILING)
