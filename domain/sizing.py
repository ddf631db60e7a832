"""How much to trade: the wish of the session's sizing method, cut to every cap, rounded down to what the venue takes.

The result never exceeds a cap nor the free balance, also after rounding: quantities are only ever cut down.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from domain.market import ZERO, MarketRules, round_quantity
from domain.orders import Denial

HUNDRED = Decimal(100)


class SizingMethod(StrEnum):
    """``amount`` means: quote currency; percent of equity; percent of equity lost when the stop is hit; percent of equity
    that a move of one average true range changes; percent of the Kelly fraction of the session's own record."""

    FIXED_QUOTE = "FIXED_QUOTE"
    PERCENT_OF_EQUITY = "PERCENT_OF_EQUITY"
    RISK_PER_TRADE = "RISK_PER_TRADE"
    VOLATILITY = "VOLATILITY"
    KELLY = "KELLY"


@dataclass(frozen=True, slots=True)
class Sizing:
    """The facts a quantity is decided from; amounts in quote currency, ``price`` the expected entry price.

    ``exposure_room`` is what the account's exposure limit still allows (None: no limit); ``price_margin`` is the fraction
    by which a market order may cost more than ``price`` says (slippage and fee), kept back from the free balance.
    """

    method: SizingMethod
    amount: Decimal
    price: Decimal
    equity: Decimal
    free_balance: Decimal
    stop_loss_percent: Decimal | None = None
    exposure_room: Decimal | None = None
    price_margin: Decimal = ZERO


@dataclass(frozen=True, slots=True)
class Sized:
    """A quantity to trade, or the reason why there is none. ``wanted`` is the notional before caps, ``capped`` after."""

    quantity: Decimal
    wanted: Decimal
    capped: Decimal
    denial: Denial | None = None


def notional_wanted(sizing: Sizing) -> Decimal | Denial:
    """What the sizing method asks for, in quote currency, before any cap."""
    if sizing.method is SizingMethod.FIXED_QUOTE:
        return sizing.amount
    if sizing.method is SizingMethod.PERCENT_OF_EQUITY:
        return sizing.equity * sizing.amount / HUNDRED
    if sizing.stop_loss_percent is None:
        return Denial.NO_STOP_LOSS
    return sizing.equity * sizing.amount / sizing.stop_loss_percent


def size(sizing: Sizing, rules: MarketRules) -> Sized:
    """The quantity for an entry under ``sizing``, in whole lots, or a denial that names the first thing in the way."""
    wanted = notional_wanted(sizing)
    if isinstance(wanted, Denial):
        return Sized(ZERO, ZERO, ZERO, wanted)
    caps = [(wanted, None), (sizing.free_balance / (1 + sizing.price_margin), Denial.INSUFFICIENT_BALANCE)]
    if sizing.exposure_room is not None:
        caps.append((sizing.exposure_room, Denial.MAX_EXPOSURE))
    capped, narrowest = min(caps, key=lambda cap: cap[0])
    capped = max(capped, ZERO)
    quantity = round_quantity(capped / (sizing.price * rules.contract_size), rules)
    denial = _too_small(quantity, sizing.price, rules)
    if denial is not None:
        return Sized(ZERO, wanted, capped, narrowest or denial)
    return Sized(quantity, wanted, capped)


def _too_small(quantity: Decimal, price: Decimal, rules: MarketRules) -> Denial | None:
    if quantity <= 0 or quantity < rules.min_quantity:
        return Denial.BELOW_MIN_QUANTITY
    if rules.notional(quantity, price) < rules.min_notional:
        return Denial.BELOW_MIN_NOTIONAL
    return None
