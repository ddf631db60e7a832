"""The one shape every venue has for us, and the three ways in which it can fail.

Whatever implements ``Gateway`` keeps these promises: figures are exact decimals, times are aware and UTC, an order is sent
at most once per call (no retries behind our back), and each failure is one of the three below. No gateway touches the
database; callers hold no transaction while they call it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, Protocol

from domain.market import ONE, MarginMode, MarketRules, OrderType, PositionSide, Side, Trigger


class ExchangeUnavailable(Exception):
    """Nothing happened: a read failed, or a request was refused before it was looked at. Ask again later, and not before
    ``retry_after`` where the venue, or our own rate budget, says so."""

    def __init__(
        self,
        message: str,
        *,
        is_refused_key: bool = False,
        is_answer: bool = False,
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(message)
        # The venue refused in its own words: it is there, and others may ask it.
        self.is_answer = is_answer
        # The venue does not accept our keys: asking again changes nothing until the trader acts.
        self.is_refused_key = is_refused_key
        self.retry_after = retry_after


class OrderRejected(Exception):
    """The venue looked at the order and refused it; final. ``code`` is the venue's own."""

    def __init__(self, message: str, *, code: str, is_refused_key: bool = False, is_other_margin: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.is_refused_key = is_refused_key
        # For its margin mode, which is not the one that the account has on that market: see ``margin_match``.
        self.is_other_margin = is_other_margin


class OrderOutcomeUnknown(Exception):
    """It may have happened. Never send it again; look it up by client order id."""


@dataclass(frozen=True, slots=True)
class OrderTicket:
    """An order as it is sent. ``sent_at`` and ``window_ms`` bound how late the venue may still accept it, where the gateway
    ``refuses_late_requests``."""

    symbol: str
    side: Side
    order_type: OrderType
    quantity: Decimal
    client_order_id: str
    sent_at: datetime
    window_ms: int
    price: Decimal | None = None
    # It rests until the market comes to ``stop_price`` from the side that ``trigger`` says; then it is a limit order where
    # it has a price, and a market order where it has none.
    stop_price: Decimal | None = None
    trigger: Trigger | None = None
    # An exit goes before everything else when the rate budget is short.
    is_exit: bool = False
    # Where the market is one of contracts.
    leverage: Decimal = ONE
    margin_mode: MarginMode = MarginMode.ISOLATED
    is_reduce_only: bool = False


@dataclass(frozen=True, slots=True)
class OrderReport:
    """What the venue says of an order. ``is_open`` is whether it can still trade; ``is_waiting`` whether it is a stop order
    whose price was not met yet; ``client_order_id`` is whatever its sender gave it, empty for an order made by hand;
    ``created_at`` is by the venue's clock."""

    exchange_order_id: str
    client_order_id: str
    symbol: str
    side: Side
    quantity: Decimal | None
    filled: Decimal
    filled_quote: Decimal
    is_open: bool
    is_canceled: bool
    order_type: OrderType = OrderType.MARKET
    price: Decimal | None = None
    created_at: datetime | None = None
    is_waiting: bool = False
    # The venue made it itself: it liquidated a position of ours.
    is_liquidation: bool = False


@dataclass(frozen=True, slots=True)
class FillReport:
    """One execution. ``fee_currency`` may be any currency."""

    trade_id: str
    exchange_order_id: str
    symbol: str
    side: Side
    quantity: Decimal
    price: Decimal
    fee: Decimal
    fee_currency: str
    filled_at: datetime


@dataclass(frozen=True, slots=True)
class PositionReport:
    """What the venue holds for the account on a market of contracts; ``quantity`` in contracts, never negative."""

    symbol: str
    side: PositionSide
    quantity: Decimal
    entry_price: Decimal
    leverage: Decimal
    margin_mode: MarginMode
    liquidation_price: Decimal | None


@dataclass(frozen=True, slots=True)
class FundingReport:
    """One payment between longs and shorts; negative when we paid."""

    funding_id: str
    symbol: str
    amount: Decimal
    currency: str
    paid_at: datetime


@dataclass(frozen=True, slots=True)
class MarketReport:
    """A market and its rules; ``venue_info`` goes back to the gateway as it came."""

    rules: MarketRules
    kind: str
    is_active: bool
    venue_info: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class QuoteReport:
    symbol: str
    bid: Decimal
    ask: Decimal
    last: Decimal


@dataclass(frozen=True, slots=True)
class BalanceReport:
    currency: str
    total: Decimal
    free: Decimal


@dataclass(frozen=True, slots=True)
class CandleReport:
    """One candle as the venue gave it; it may still be open."""

    open_at: datetime
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal


@dataclass(frozen=True, slots=True)
class TradeReport:
    """One trade between others; ``is_buy`` is whether the taker bought."""

    trade_id: str
    at: datetime
    is_buy: bool
    price: Decimal
    quantity: Decimal


@dataclass(frozen=True, slots=True)
class FundingRateReport:
    """What longs paid shorts at one time, as a fraction of the value; negative when shorts paid longs."""

    at: datetime
    rate: Decimal


class VenueStatus(StrEnum):
    """Whether a venue takes orders now."""

    OPEN = "OPEN"
    CANCEL_ONLY = "CANCEL_ONLY"
    CLOSED = "CLOSED"


@dataclass(frozen=True, slots=True)
class StatusReport:
    status: VenueStatus
    message: str = ""


@dataclass(frozen=True, slots=True)
class KeyRights:
    """What an account's keys may do; None where the venue does not say."""

    can_trade: bool | None
    can_withdraw: bool | None
    is_bound_to_addresses: bool | None


class Gateway(Protocol):
    """A venue, as seen by one account (or by nobody, for public data)."""

    @property
    def refuses_late_requests(self) -> bool:
        """Whether the venue refuses an order that reaches it after the ticket's window. Where it does not, an order that
        is not found may still arrive, and "not placed" has to wait longer."""
        ...

    @property
    def refuses_late_stops(self) -> bool:
        """The same of an order with a stop price."""
        ...

    def time(self) -> datetime:
        """The venue's clock. Raises ExchangeUnavailable."""
        ...

    def status(self) -> StatusReport:
        """Whether the venue takes orders now; OPEN where it has no such answer. Raises ExchangeUnavailable."""
        ...

    def key_rights(self) -> KeyRights:
        """What the account's keys may do. Raises ExchangeUnavailable."""
        ...

    def markets(self) -> list[MarketReport]:
        """Every market. Raises ExchangeUnavailable."""
        ...

    def quotes(self, symbols: Sequence[str]) -> list[QuoteReport]:
        """Last prices of ``symbols``, in one request whatever their number; those it does not know are left out.
        Raises ExchangeUnavailable."""
        ...

    def candles(self, symbol: str, timeframe: str, since: datetime, limit: int) -> list[CandleReport]:
        """At most ``limit`` candles from ``since`` on, oldest first, the open one included. Raises ExchangeUnavailable."""
        ...

    def trades_since(self, symbol: str, since: datetime, limit: int) -> list[TradeReport]:
        """At most ``limit`` trades between anybody on ``symbol`` at or after ``since``, oldest first, as far back as the
        venue shows them: where the first is later than one that is known, some between may be missing. Raises
        ExchangeUnavailable."""
        ...

    def funding_rates_since(self, symbol: str, since: datetime, limit: int) -> list[FundingRateReport]:
        """The first ``limit`` funding rates of ``symbol`` at or after ``since``, oldest first; nothing where it is no market
        of contracts. Raises ExchangeUnavailable."""
        ...

    def balances(self) -> list[BalanceReport]:
        """What the account holds. On a venue of contracts ``total`` is the wallet (deposits, closed results, fees and
        funding; nothing that open positions gain or lose), ``free`` the margin a new one may use. Raises
        ExchangeUnavailable."""
        ...

    def positions(self) -> list[PositionReport]:
        """What the account holds on markets of contracts; nothing where the gateway knows of none. Raises
        ExchangeUnavailable."""
        ...

    def fundings_since(self, symbol: str, since: datetime) -> list[FundingReport]:
        """Every funding payment of the account on ``symbol`` at or after ``since`` (the venue's time), oldest first, all
        pages of it; nothing where it is no market of contracts. Raises ExchangeUnavailable."""
        ...

    def order_create(self, ticket: OrderTicket) -> str:
        """Send once; the venue's order id, which for one with a stop price names it while it waits. Raises OrderRejected,
        OrderOutcomeUnknown, or ExchangeUnavailable where the venue certainly did not look at it."""
        ...

    def margin_match(self, symbol: str, mode: MarginMode, leverage: Decimal) -> None:
        """Have the account's margin mode on ``symbol``, and where all of the account stands for its positions their leverage,
        be those of the next order; asks and changes nothing where they are, or where every order brings its own. Raises
        ExchangeUnavailable, also where the venue does not change them while something is held or open there, and
        OrderRejected where it would change them for what is held."""
        ...

    def order_find(self, symbol: str, client_order_id: str) -> OrderReport | None:
        """Look up by our id; None when the venue says it does not know it (which alone proves nothing).
        Raises ExchangeUnavailable."""
        ...

    def order_get(self, symbol: str, exchange_order_id: str) -> OrderReport | None:
        """Look up by the venue's id, whoever made the order; None as for ``order_find``. Raises ExchangeUnavailable."""
        ...

    def orders_open(self, symbol: str) -> list[OrderReport]:
        """Every order of the account that can still trade on ``symbol``, oldest first, whoever made it; a stop order that
        waits for its price is none yet. Raises ExchangeUnavailable."""
        ...

    def orders_done(self, symbol: str, since: datetime) -> list[OrderReport]:
        """Every order of the account on ``symbol`` that was made at or after ``since`` (the venue's time) and is done,
        oldest first, as far back as the venue still shows them. Raises ExchangeUnavailable."""
        ...

    def symbols_open(self) -> list[str] | None:
        """The symbols on which the account has open orders; None where the venue cannot tell. Raises
        ExchangeUnavailable."""
        ...

    def fills_since(self, symbol: str, since: datetime) -> list[FillReport]:
        """Every execution of the account on ``symbol`` at or after ``since`` (the venue's time), oldest first, whoever
        made its order, all pages of it. Raises ExchangeUnavailable."""
        ...

    def order_cancel(self, symbol: str, exchange_order_id: str) -> None:
        """Ask for cancellation; only a later look-up tells what became of it. An order that is already done is no error.
        Raises ExchangeUnavailable."""
        ...

    def order_fills(self, symbol: str, exchange_order_id: str) -> list[FillReport]:
        """Every execution of one order. Raises ExchangeUnavailable."""
        ...

    # An order with a stop price: what waits may be kept apart from all other orders, under an id of its own.

    def stop_find(self, symbol: str, client_order_id: str) -> OrderReport | None:
        """Look up an order with a stop price by our id, wherever it is now: waiting, or the order that it became, whose
        ``exchange_order_id`` may be another than the one it waited under and is that of its fills. None as for
        ``order_find``; a venue may forget a stop order that was cancelled. Raises ExchangeUnavailable, also for one that
        was met a moment ago and has become nothing that is shown yet."""
        ...

    def stops_open(self, symbol: str) -> list[OrderReport]:
        """Every stop order of the account that waits for its price on ``symbol``, oldest first, whoever made it. Raises
        ExchangeUnavailable."""
        ...

    def stop_cancel(self, symbol: str, exchange_order_id: str) -> bool:
        """Ask for the cancellation of an order that waits for its price, by the id it waits under; whether the venue says
        itself that it was waiting and is gone. One that does not wait any more is no error. Raises ExchangeUnavailable."""
        ...
