"""Markets, sides and the one crossing from floats to exact decimals.

Every price and quantity that reaches an order passes through ``round_price`` or ``round_quantity`` here, so that tick,
lot and direction of rounding are decided in one place. Money is ``Decimal``; floats live inside array computations only.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_FLOOR, Decimal
from enum import StrEnum

ZERO = Decimal(0)
ONE = Decimal(1)


class Side(StrEnum):
    """What an order does to the base currency."""

    BUY = "BUY"
    SELL = "SELL"

    @property
    def opposite(self) -> Side:
        return Side.SELL if self is Side.BUY else Side.BUY

    @property
    def sign(self) -> int:
        return 1 if self is Side.BUY else -1


class PositionSide(StrEnum):
    """Which way a position gains."""

    LONG = "LONG"
    SHORT = "SHORT"

    @property
    def entry_side(self) -> Side:
        return Side.BUY if self is PositionSide.LONG else Side.SELL

    @property
    def exit_side(self) -> Side:
        return self.entry_side.opposite

    @property
    def opposite(self) -> PositionSide:
        return PositionSide.SHORT if self is PositionSide.LONG else PositionSide.LONG

    @property
    def sign(self) -> int:
        return 1 if self is PositionSide.LONG else -1


class OrderType(StrEnum):
    MARKET = "MARKET"
    LIMIT = "LIMIT"
    STOP = "STOP"


class Trigger(StrEnum):
    """Which way the market has to come to a stop price for its order to begin."""

    FALLING = "FALLING"
    RISING = "RISING"


class MarginMode(StrEnum):
    """What stands for a position on margin: a share of its own, or the whole account."""

    ISOLATED = "ISOLATED"
    CROSS = "CROSS"


@dataclass(frozen=True, slots=True)
class MarketRules:
    """What a venue accepts on one market. Quantities are in base units (or contracts of ``contract_size`` base units),
    prices and notionals in quote units, fee rates as fractions of the notional."""

    symbol: str
    base: str
    quote: str
    tick_size: Decimal
    lot_size: Decimal
    min_quantity: Decimal = ZERO
    max_quantity: Decimal | None = None
    min_notional: Decimal = ZERO
    contract_size: Decimal = ONE
    maker_fee: Decimal = ZERO
    taker_fee: Decimal = ZERO

    def notional(self, quantity: Decimal, price: Decimal) -> Decimal:
        """The quote value of ``quantity`` at ``price``."""
        return quantity * self.contract_size * price

    def takes(self, quantity: Decimal, price: Decimal | None) -> bool:
        """Whether ``quantity`` is enough for an order; without a ``price`` its value is not judged."""
        is_worthless = price is not None and self.notional(quantity, price) < self.min_notional
        return quantity > 0 and quantity >= self.min_quantity and not is_worthless


def to_decimal(value: Decimal | float | int | str) -> Decimal:
    """The exact decimal of what ``value`` prints as; a float goes by its shortest text (0.1 becomes Decimal("0.1")).

    Raises ValueError for NaN and infinities: corrupt numbers must not become money.
    """
    number = value if isinstance(value, Decimal) else Decimal(str(value))
    if not number.is_finite():
        raise ValueError(f"wanted a finite number, was {value!r}")
    return number


def round_quantity(quantity: Decimal, rules: MarketRules) -> Decimal:
    """``quantity`` cut down to whole lots and to the market's maximum; never up, so a cap stays a cap."""
    if rules.max_quantity is not None:
        quantity = min(quantity, rules.max_quantity)
    return _to_step(quantity, rules.lot_size, ROUND_DOWN)


def round_price(price: Decimal, rules: MarketRules, side: Side) -> Decimal:
    """``price`` moved to a whole tick in the direction that does not cost us: a buy goes down, a sell goes up."""
    return _to_step(price, rules.tick_size, ROUND_FLOOR if side is Side.BUY else ROUND_CEILING)


def _to_step(value: Decimal, step: Decimal, rounding: str) -> Decimal:
    if step <= 0:
        raise ValueError(f"wanted a positive step, was {step}")
    return (value / step).to_integral_value(rounding=rounding) * step
