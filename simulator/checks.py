"""What an order must satisfy, and what it takes from the depth: pure functions of the order and its symbol's rules."""

from __future__ import annotations

from decimal import Decimal

from domain.market import ZERO, Side
from domain.matching import fee_of
from simulator.market import Listing
from simulator.orders import OrderRequest
from simulator.refusals import Refused
from simulator.rules import Rules, text

Execution = tuple[Decimal, Decimal]  # (price, size)


def check_rules(request: OrderRequest, market_price: Decimal | None) -> None:
    """Increments, sizes and price limits; a stop order, whose market price is not known yet, has no price limit."""
    rules = request.listing.rules
    if request.size is not None:
        if request.size < rules.base_min_size:
            raise Refused("400100", "Order size below the minimum requirement.")
        if request.size > rules.base_max_size:
            raise Refused("400100", "Order size exceeds the maximum requirement.")
        if request.size % rules.base_increment:
            raise Refused("600100", "Order size increment invalid.")
    if request.funds is not None and request.funds % rules.quote_increment:
        raise Refused("400100", "Funds increment invalid.")
    if request.price is not None:
        check_price(request.price, request.side, rules, market_price)
    worth = _worth(request, market_price)
    if worth is not None and worth < rules.min_funds:
        raise Refused("600101", f"The order funds should more then {text(rules.min_funds)} {rules.quote}.")


def check_price(price: Decimal, side: Side, rules: Rules, market_price: Decimal | None) -> None:
    if price % rules.price_increment:
        raise Refused("400100", "Price increment invalid.")
    if market_price is None:
        return
    most, least = market_price * (1 + rules.price_limit_rate), market_price * (1 - rules.price_limit_rate)
    if side is Side.BUY and price > most:
        raise Refused("400370", f"Max. price: {text(most)}")
    if side is Side.SELL and price < least:
        raise Refused("400760", f"order price should be more than {text(least)}")


def _worth(request: OrderRequest, market_price: Decimal | None) -> Decimal | None:
    if request.funds is not None:
        return request.funds
    price = request.price if request.price is not None else market_price
    return None if price is None or request.size is None else price * request.size * request.listing.rules.multiplier


def limit_cost(request: OrderRequest, size: Decimal) -> Decimal:
    """What a buy of ``size`` may cost at most, its fee included."""
    assert request.price is not None
    rules = request.listing.rules
    funds = request.price * size
    return funds + fee_of(funds, max(rules.maker_fee, rules.taker_fee, ZERO))


def executions_of(request: OrderRequest, price: Decimal) -> list[Execution]:
    """What ``request`` takes from the book at once when the price is ``price``."""
    if not request.is_limit:
        if request.size is not None:
            return _taken_by_size(request.listing, request.side, price, request.size, None)
        return _taken_by_funds(request.listing, request.side, price, request.funds or ZERO)
    assert request.size is not None
    taken = _taken_by_size(request.listing, request.side, price, request.size, request.price)
    if request.is_post_only and taken:
        return []
    if request.time_in_force == "FOK" and sum((size for _, size in taken), ZERO) < request.size:
        return []
    return taken


def would_take(request: OrderRequest, market_price: Decimal) -> bool:
    """Whether the limit order ``request`` crosses the spread."""
    best = request.listing.best(request.side, market_price)
    assert request.price is not None
    return request.price >= best if request.side is Side.BUY else request.price <= best


def _taken_by_size(
    listing: Listing, side: Side, price: Decimal, size: Decimal, limit: Decimal | None
) -> list[Execution]:
    taken: list[Execution] = []
    for level, offered in listing.levels(side, price):
        if not size or (limit is not None and (limit - level) * side.sign < 0):
            break
        part = min(size, offered)
        taken.append((level, part))
        size -= part
    return taken


def _taken_by_funds(listing: Listing, side: Side, price: Decimal, funds: Decimal) -> list[Execution]:
    """As much as ``funds`` pay for, in whole lots."""
    lot = listing.rules.base_increment
    taken: list[Execution] = []
    for level, offered in listing.levels(side, price):
        affordable = funds // (level * lot) * lot
        part = min(affordable, offered)
        if part <= 0:
            break
        taken.append((level, part))
        funds -= level * part
    return taken
