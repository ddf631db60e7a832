"""What a position of linear contracts reserves, where the venue liquidates it, and how far away that is.

Linear: the contract is settled in the quote currency, so its value moves with the price. One-way: an account holds one
position on a market, long or short. Figures are of one position on its own margin (isolated); a position on the margin of
the whole account has no liquidation price of its own.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from domain.market import ONE, ZERO, MarketRules, PositionSide

HUNDRED = Decimal(100)
# What venues keep at least of a position's value: KuCoin's lowest risk level of most contracts.
MAINTENANCE = Decimal("0.005")


def margin_of(notional: Decimal, leverage: Decimal) -> Decimal:
    """What opening contracts worth ``notional`` reserves of the wallet, in quote currency, before the fee.

    Raises ValueError for a leverage below 1.
    """
    if leverage < 1:
        raise ValueError(f"wanted a leverage of at least 1, was {leverage}")
    return abs(notional) / leverage


def liquidation_price(
    side: PositionSide,
    entry_price: Decimal,
    leverage: Decimal,
    rules: MarketRules | None = None,
    maintenance: Decimal = MAINTENANCE,
) -> Decimal | None:
    """Where the margin of an isolated position has shrunk to the maintenance margin; None where no price does that.

    Per unit held: margin + side * (price - entry) = maintenance * price, with margin = entry / leverage; so

        long:  entry * (1 - 1 / leverage) / (1 - maintenance)
        short: entry * (1 + 1 / leverage) / (1 + maintenance)

    An estimate for orders that are not placed yet: the venue's own figure, which knows fees, risk levels and margin that was
    added, outranks it. With ``rules`` it lies on the tick that is nearer to the entry.
    """
    share = ONE / leverage
    exact = entry_price * (ONE - side.sign * share) / (ONE - side.sign * maintenance)
    if exact <= ZERO:
        return None
    if rules is None:
        return exact
    rounding = ROUND_CEILING if side is PositionSide.LONG else ROUND_FLOOR
    return (exact / rules.tick_size).to_integral_value(rounding=rounding) * rules.tick_size


def liquidation_distance_percent(side: PositionSide, price: Decimal, liquidation: Decimal | None) -> Decimal | None:
    """How far ``price`` may still move against the position, in percent of it; negative when it is beyond, None where there
    is no liquidation price."""
    if liquidation is None or not price:
        return None
    return (price - liquidation) * side.sign / price * HUNDRED


def wallet_equity(wallet: Decimal, unrealized: Decimal) -> Decimal:
    """What an account of contracts is worth: its wallet and what its open positions gain or lose. What they are worth is no
    part of it: nobody paid for them."""
    return wallet + unrealized
