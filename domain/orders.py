"""The states of an order, the table of legal moves, and what quantities say about execution.

DENIED is our own no and never left the house; REJECTED is the venue's; UNKNOWN may have happened and is looked up, never
guessed and never sent again.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum


class OrderStatus(StrEnum):
    REQUESTED = "REQUESTED"
    READY = "READY"
    SUBMITTING = "SUBMITTING"
    OPENED = "OPENED"
    CLOSED = "CLOSED"
    CANCELED = "CANCELED"
    DENIED = "DENIED"
    REJECTED = "REJECTED"
    UNKNOWN = "UNKNOWN"
    NOT_PLACED = "NOT_PLACED"


S = OrderStatus

ORDER_TRANSITIONS: Mapping[str, frozenset[str]] = {
    S.REQUESTED: frozenset({S.READY, S.DENIED, S.CANCELED}),
    # To OPENED: the venue shows one that it said it had not looked at.
    S.READY: frozenset({S.SUBMITTING, S.CANCELED, S.OPENED}),
    # Back to READY: the venue refused before looking at the order (rate limit, clock), so sending again is safe.
    S.SUBMITTING: frozenset({S.OPENED, S.REJECTED, S.UNKNOWN, S.READY}),
    S.UNKNOWN: frozenset({S.OPENED, S.NOT_PLACED}),
    S.OPENED: frozenset({S.CLOSED, S.CANCELED}),
    # The venue shows an order we had given up: adopt it, loudly.
    S.NOT_PLACED: frozenset({S.OPENED}),
    S.CLOSED: frozenset(),
    S.CANCELED: frozenset(),
    S.DENIED: frozenset(),
    S.REJECTED: frozenset(),
}

# One intent has at most one order among these (a partial unique index says the same).
LIVE_STATUSES = (S.REQUESTED, S.READY, S.SUBMITTING, S.UNKNOWN, S.OPENED)

# Among these the venue may hold, or may yet accept, the order.
AT_VENUE_STATUSES = (S.SUBMITTING, S.UNKNOWN, S.OPENED)


class Execution(StrEnum):
    NOT_EXECUTED = "NOT_EXECUTED"
    PARTIALLY_EXECUTED = "PARTIALLY_EXECUTED"
    FULLY_EXECUTED = "FULLY_EXECUTED"


def execution_of(quantity: Decimal | None, filled: Decimal) -> Execution:
    """How far an order got, from quantities alone: a venue's own status word is not trusted with this."""
    if filled <= 0:
        return Execution.NOT_EXECUTED
    if quantity is None or filled < quantity:
        return Execution.PARTIALLY_EXECUTED
    return Execution.FULLY_EXECUTED


class Denial(StrEnum):
    """Why our own risk check refused an order; each is shown to the trader as it stands in ``DENIAL_TEXTS``."""

    SESSION_NOT_ACTIVE = "SESSION_NOT_ACTIVE"
    REQUEST_TOO_OLD = "REQUEST_TOO_OLD"
    ACCOUNT_PAUSED = "ACCOUNT_PAUSED"
    MARKET_NOT_TRADABLE = "MARKET_NOT_TRADABLE"
    SIDE_NOT_TRADABLE = "SIDE_NOT_TRADABLE"
    OPPOSITE_POSITION = "OPPOSITE_POSITION"
    NO_FRESH_PRICE = "NO_FRESH_PRICE"
    BALANCE_UNKNOWN = "BALANCE_UNKNOWN"
    NO_STOP_LOSS = "NO_STOP_LOSS"
    HALTED = "HALTED"
    COOLDOWN = "COOLDOWN"
    MAX_ORDERS_PER_MINUTE = "MAX_ORDERS_PER_MINUTE"
    MAX_DAILY_LOSS = "MAX_DAILY_LOSS"
    MAX_DRAWDOWN = "MAX_DRAWDOWN"
    PRICE_BAND = "PRICE_BAND"
    MAX_LEVERAGE = "MAX_LEVERAGE"
    NO_VOLATILITY = "NO_VOLATILITY"
    NO_RECORD = "NO_RECORD"
    NO_EDGE = "NO_EDGE"
    NO_HISTORY = "NO_HISTORY"
    MAX_RISK_PER_TRADE = "MAX_RISK_PER_TRADE"
    MAX_OPEN_RISK = "MAX_OPEN_RISK"
    MAX_MARKET_EXPOSURE = "MAX_MARKET_EXPOSURE"
    MAX_CURRENCY_EXPOSURE = "MAX_CURRENCY_EXPOSURE"
    MAX_NET_EXPOSURE = "MAX_NET_EXPOSURE"
    MAX_CORRELATED_EXPOSURE = "MAX_CORRELATED_EXPOSURE"
    MAX_VAR = "MAX_VAR"
    MAX_CVAR = "MAX_CVAR"
    MAX_OPEN_POSITIONS = "MAX_OPEN_POSITIONS"
    MAX_EXPOSURE = "MAX_EXPOSURE"
    INSUFFICIENT_BALANCE = "INSUFFICIENT_BALANCE"
    BELOW_MIN_QUANTITY = "BELOW_MIN_QUANTITY"
    BELOW_MIN_NOTIONAL = "BELOW_MIN_NOTIONAL"


DENIAL_TEXTS: Mapping[Denial, str] = {
    Denial.SESSION_NOT_ACTIVE: "The session no longer takes new positions.",
    Denial.REQUEST_TOO_OLD: "The entry waited too long to be valued; its signal is old news.",
    Denial.ACCOUNT_PAUSED: "The account is paused: the venue refused its keys.",
    Denial.MARKET_NOT_TRADABLE: "The venue does not trade this market now.",
    Denial.SIDE_NOT_TRADABLE: "This market cannot be sold short.",
    Denial.OPPOSITE_POSITION: "The account is on the other side of this market already: the venue would net the two.",
    Denial.NO_FRESH_PRICE: "There is no price recent enough to value the order with.",
    Denial.BALANCE_UNKNOWN: "The account's balance has not been read yet.",
    Denial.NO_STOP_LOSS: "Risk per trade needs a stop-loss to measure the risk by.",
    Denial.HALTED: "Trading is halted here; somebody has to lift the halt first.",
    Denial.COOLDOWN: "After so many losses in a row the session or account rests for a while.",
    Denial.MAX_ORDERS_PER_MINUTE: "The account sends as many orders a minute as its risk profile allows.",
    Denial.MAX_DAILY_LOSS: "The account has lost as much today as its risk profile allows.",
    Denial.MAX_DRAWDOWN: "The account is as far below its peak as its risk profile allows.",
    Denial.PRICE_BAND: "The order's price is too far from the last price.",
    Denial.MAX_LEVERAGE: "The leverage is above what the account's risk profile allows.",
    Denial.NO_VOLATILITY: "There is no volatility (ATR) to size the order by yet.",
    Denial.NO_RECORD: "The session has closed too few trades to size by its record.",
    Denial.NO_EDGE: "By its record so far the session has no edge: the Kelly fraction is not positive.",
    Denial.NO_HISTORY: "There are too few candles to measure this limit by.",
    Denial.MAX_RISK_PER_TRADE: "The loss at the stop would be more than one trade may risk.",
    Denial.MAX_OPEN_RISK: "All stops hit together would cost more than the account may risk.",
    Denial.MAX_MARKET_EXPOSURE: "The exposure on this market is at the limit of the account's risk profile.",
    Denial.MAX_CURRENCY_EXPOSURE: "The exposure to this currency is at the limit of the account's risk profile.",
    Denial.MAX_NET_EXPOSURE: "Long and short do not balance: the net exposure is at its limit.",
    Denial.MAX_CORRELATED_EXPOSURE: "The markets held move together: the correlated exposure is at its limit.",
    Denial.MAX_VAR: "The value at risk of the book with this order would be above its limit.",
    Denial.MAX_CVAR: "The expected loss in the worst cases with this order would be above its limit.",
    Denial.MAX_OPEN_POSITIONS: "The account already holds as many positions as its risk profile allows.",
    Denial.MAX_EXPOSURE: "The account's exposure is at the limit of its risk profile.",
    Denial.INSUFFICIENT_BALANCE: "The account has no free balance for this order.",
    Denial.BELOW_MIN_QUANTITY: "The quantity is below the venue's minimum.",
    Denial.BELOW_MIN_NOTIONAL: "The order's value is below the venue's minimum.",
}
