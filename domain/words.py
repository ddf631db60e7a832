"""What a strategy says beside its signals, as it counts: how sure it is, the prices that it names, how far the market swings.

Whoever acts on a signal asks here first, live and in a backtest, so that both act on the same figures to the last digit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from math import isfinite, nan

import numpy as np

from domain.candles import FloatArray
from domain.market import MarketRules, Side, round_price, to_decimal
from domain.strategy import SignalArrays

# What a column of prices holds; more is no price.
LARGEST_PRICE = 1e18


def confidence_said(value: float) -> Decimal | None:
    """0 to 1, whatever the strategy's scale overshot; six decimals of certainty are plenty. None where it is no number."""
    return round(to_decimal(min(max(value, 0.0), 1.0)), 6) if isfinite(value) else None


def level_said(value: float, rules: MarketRules | None) -> Decimal | None:
    """A price that the strategy named, on the market's tick; None where it is no price."""
    if not isfinite(value) or value <= 0 or value >= LARGEST_PRICE:
        return None
    price = to_decimal(value)
    return (price if rules is None else round_price(price, rules, Side.BUY)) or None


def range_said(value: float) -> Decimal | None:
    """An average true range, to ten digits; None where it is no number."""
    return to_decimal(f"{value:.10g}") if isfinite(value) else None


def signals_said(signals: SignalArrays, rules: MarketRules | None) -> SignalArrays:
    """The same signals with their words as they count: those beside an entry, NaN elsewhere and for no word."""
    if signals.confidence is None and signals.stops is None and signals.targets is None:
        return signals
    at = np.flatnonzero(signals.entries)
    return replace(
        signals,
        confidence=_words(signals.confidence, at, confidence_said),
        stops=_words(signals.stops, at, lambda value: level_said(value, rules)),
        targets=_words(signals.targets, at, lambda value: level_said(value, rules)),
    )


def _words(
    values: FloatArray | None, at: np.ndarray[tuple[int], np.dtype[np.intp]], said: Callable[[float], Decimal | None]
) -> FloatArray | None:
    if values is None:
        return None
    words = np.full(len(values), nan)
    words[at] = [nan if (word := said(value)) is None else float(word) for value in values[at].tolist()]
    return words
