"""The one fill model: at which price an order or an exit fills, given the candle that it meets.

Whatever makes fills calls these functions and no others: the simulator and paper trading now, backtests to come. They are
exact on ``Decimal`` and equally right on ``float``: nothing is converted inside, both sides of every operation have the
caller's type. Rounding to the tick is the caller's (``domain/market.py``), because only a venue knows its tick.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TypeVar

from domain.exits import ExitReason
from domain.market import PositionSide, Side

Number = TypeVar("Number", Decimal, float)


def market_fill_price(side: Side, price: Number, slippage: Number) -> Number:
    """What a market order pays when the next price is ``price``: worse by the fraction ``slippage``, never better."""
    return price * (1 + slippage) if side is Side.BUY else price * (1 - slippage)


def stop_fill_price(side: Side, stop: Number, open_: Number, low: Number, high: Number) -> Number | None:
    """Where a stop order fills in a candle, or None when the candle does not reach it.

    A sell stop waits below the market, a buy stop above it. A candle that opens past the stop fills it at the open:
    the worse of the two. Slippage comes on top (``market_fill_price``): a triggered stop is a market order.
    """
    if side is Side.SELL:
        return min(stop, open_) if low <= stop else None
    return max(stop, open_) if high >= stop else None


def limit_fill_price(side: Side, limit: Number, open_: Number, low: Number, high: Number) -> Number | None:
    """Where a resting limit order (a target is one) fills in a candle, or None when the candle does not reach it.

    A candle that opens past the limit fills it at the open: the better of the two. No slippage: a limit is a promise.
    """
    if side is Side.BUY:
        return min(limit, open_) if low <= limit else None
    return max(limit, open_) if high >= limit else None


def exit_in_candle(
    position_side: PositionSide,
    stop: Number | None,
    target: Number | None,
    open_: Number,
    high: Number,
    low: Number,
) -> tuple[ExitReason, Number] | None:
    """The exit of a position in one candle, as (reason, price), or None when it stays open; a missing price is None.

    The stop comes before the target when one candle touches both, whatever the order inside the candle may have been:
    a candle does not tell, and a model that guesses in its own favour earns money that does not exist.
    """
    side = position_side.exit_side
    if stop is not None:
        price = stop_fill_price(side, stop, open_, low, high)
        if price is not None:
            return ExitReason.STOP_LOSS, price
    if target is not None:
        price = limit_fill_price(side, target, open_, low, high)
        if price is not None:
            return ExitReason.TAKE_PROFIT, price
    return None


def fee_of(notional: Number, rate: Number) -> Number:
    """The fee of one fill, in the currency of ``notional``; a negative rate is a rebate."""
    return abs(notional) * rate
