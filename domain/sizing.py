"""How much to trade: the wish of the session's sizing method, cut to every cap, rounded down to what the venue takes.

The result never exceeds a cap nor the free balance, also after rounding: quantities are only ever cut down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from domain.exit_plan import ExitPlan
from domain.market import ONE, ZERO, MarketRules, PositionSide, round_quantity, to_decimal
from domain.orders import Denial
from domain.risk import kelly_fraction

HUNDRED = Decimal(100)
# What a market order may cost beyond the price it was valued at (slippage), on top of the fee.
SLIPPAGE_MARGIN = Decimal("0.005")


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

    ``price_margin`` is the fraction by which an order may cost more than ``price`` says (slippage and fee), kept back from
    the free balance; with ``leverage`` only that part of the notional is paid. ``record`` holds the returns of the trades
    the Kelly fraction is taken from (0.01 is one percent); ``confidence``, 0 to 1, scales what any method asks for.
    ``quantity`` is what somebody asked for by hand, instead of a method.
    """

    method: SizingMethod
    amount: Decimal
    price: Decimal
    equity: Decimal
    free_balance: Decimal
    stop_loss_percent: Decimal | None = None
    price_margin: Decimal = ZERO
    leverage: Decimal = ONE
    atr: Decimal | None = None
    confidence: Decimal | None = None
    record: Sequence[float] = ()
    kelly_min_trades: int = 1
    kelly_cap_percent: Decimal = HUNDRED
    quantity: Decimal | None = None

    @property
    def cost_rate(self) -> Decimal:
        """What is held back of the free balance for one unit of notional."""
        return ONE / self.leverage + self.price_margin

    @property
    def affordable(self) -> Decimal:
        """The notional that the free balance pays for."""
        return self.free_balance / self.cost_rate


@dataclass(frozen=True, slots=True)
class Room:
    """How much notional a limit still lets through."""

    notional: Decimal
    denial: Denial


@dataclass(frozen=True, slots=True)
class Sized:
    """A quantity to trade, or the reason why there is none. ``wanted`` is the notional before caps, ``capped`` after."""

    quantity: Decimal
    wanted: Decimal
    capped: Decimal
    denial: Denial | None = None


def stop_percent(
    plan: ExitPlan,
    *,
    price: Decimal,
    side: PositionSide,
    atr: Decimal | None = None,
    signal_stop: Decimal | None = None,
) -> Decimal | None:
    """How far, in percent of ``price``, the tightest stop is that ``plan`` sets at the entry: by percent, by multiples of
    the average true range, or where the signal names it. None where it sets none that can be measured; a level of the
    signal's that the price has passed already is none."""
    distances = []
    if plan.stop_loss_percent is not None:
        distances.append(plan.stop_loss_percent)
    if plan.stop_loss_atr is not None and atr is not None:
        distances.append(plan.stop_loss_atr * atr / price * HUNDRED)
    if plan.is_stop_from_signal and signal_stop is not None:
        distances.append((price - signal_stop) * side.sign / price * HUNDRED)
    return min((distance for distance in distances if distance > 0), default=None)


def margin_kept(taker_fee: Decimal, *, has_limit: bool = False) -> Decimal:
    """The fraction of an order's notional that is kept back on top of it: the fee, and slippage where it has no limit."""
    return taker_fee + (ZERO if has_limit else SLIPPAGE_MARGIN)


def notional_wanted(sizing: Sizing, rules: MarketRules) -> Decimal | Denial:
    """What the sizing method asks for, in quote currency, before any cap."""
    if sizing.quantity is not None:
        return rules.notional(sizing.quantity, sizing.price)
    wanted = _by_method(sizing)
    if isinstance(wanted, Denial) or sizing.confidence is None:
        return wanted
    return wanted * min(max(sizing.confidence, ZERO), ONE)


def kelly_percent(sizing: Sizing) -> Decimal | Denial:
    """Percent of equity by Kelly's criterion from the record, the session's share of it taken and its cap kept.

    The fraction is of equity put into a position, as for a bet whose loss is the stake: less than the growth-optimal
    amount for trades that lose a part of it, and therefore on the safe side.
    """
    if len(sizing.record) < max(sizing.kelly_min_trades, 1):
        return Denial.NO_RECORD
    fraction = round(to_decimal(kelly_fraction(sizing.record)), 12)  # floats know no more of it
    if fraction <= 0:
        return Denial.NO_EDGE
    return min(fraction * sizing.amount, sizing.kelly_cap_percent)


def size(sizing: Sizing, rules: MarketRules, rooms: Sequence[Room] = ()) -> Sized:
    """The quantity for an entry under ``sizing`` within all ``rooms``, in whole lots, or a denial that names the narrowest
    of what is in the way."""
    wanted = notional_wanted(sizing, rules)
    if isinstance(wanted, Denial):
        return Sized(ZERO, ZERO, ZERO, wanted)
    caps: list[tuple[Decimal, Denial | None]] = [(wanted, None), (sizing.affordable, Denial.INSUFFICIENT_BALANCE)]
    caps += [(room.notional, room.denial) for room in rooms]
    capped, narrowest = min(caps, key=lambda cap: cap[0])
    capped = max(capped, ZERO)
    asked = sizing.quantity if capped == wanted else None  # dividing might lose the last lot of what was asked for
    quantity = round_quantity(capped / (sizing.price * rules.contract_size) if asked is None else asked, rules)
    denial = _too_small(quantity, sizing.price, rules)
    if denial is not None:
        return Sized(ZERO, wanted, capped, narrowest or denial)
    return Sized(quantity, wanted, capped)


def _by_method(sizing: Sizing) -> Decimal | Denial:
    if sizing.method is SizingMethod.FIXED_QUOTE:
        return sizing.amount
    if sizing.method is SizingMethod.PERCENT_OF_EQUITY:
        return sizing.equity * sizing.amount / HUNDRED
    if sizing.method is SizingMethod.RISK_PER_TRADE:
        if sizing.stop_loss_percent is None:
            return Denial.NO_STOP_LOSS
        return sizing.equity * sizing.amount / sizing.stop_loss_percent
    if sizing.method is SizingMethod.VOLATILITY:
        if sizing.atr is None or sizing.atr <= 0:
            return Denial.NO_VOLATILITY
        return sizing.equity * sizing.amount / HUNDRED * sizing.price / sizing.atr
    percent = kelly_percent(sizing)
    return percent if isinstance(percent, Denial) else sizing.equity * percent / HUNDRED


def _too_small(quantity: Decimal, price: Decimal, rules: MarketRules) -> Denial | None:
    if quantity <= 0 or quantity < rules.min_quantity:
        return Denial.BELOW_MIN_QUANTITY
    if rules.notional(quantity, price) < rules.min_notional:
        return Denial.BELOW_MIN_NOTIONAL
    return None
