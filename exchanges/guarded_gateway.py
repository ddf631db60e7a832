"""A gateway behind the rate budgets and the circuit breaker that all workers share.

It keeps a gateway's promises and adds two: no request is sent that the venue would refuse for its rate, and none to a venue
that has stopped answering. Both refusals are ExchangeUnavailable, at once: nothing happened, ask again later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar

from domain.market import MarginMode
from exchanges import shared
from exchanges.breaker import Breaker, Entrance
from exchanges.budget import Budget, Use
from exchanges.gateway import (
    BalanceReport,
    CandleReport,
    ExchangeUnavailable,
    FillReport,
    FundingRateReport,
    FundingReport,
    Gateway,
    KeyRights,
    MarketReport,
    OrderOutcomeUnknown,
    OrderRejected,
    OrderReport,
    OrderTicket,
    PositionReport,
    QuoteReport,
    StatusReport,
    TradeReport,
)
from exchanges.venues import PUBLIC, venue_of
from pipeline.topics import ring

T = TypeVar("T")

NOTHING_KNOWN: list[bytes | None] = [None, None, None, None]


class GuardedGateway:
    """``gateway`` to the exchange of ``exchange_id``; ``account`` names the pools of whoever it trades for, ``public_weight``
    is what the exchange allows everybody together, where that is not what its kind does.

    Rings ``exchanges.read_status`` when the circuit opens or closes, and whoever reads what an order was refused for.
    """

    def __init__(
        self,
        gateway: Gateway,
        ccxt_id: str,
        exchange_id: int | None,
        account: str = "",
        public_weight: int | None = None,
    ) -> None:
        self._gateway = gateway
        self._venue = venue_of(ccxt_id)
        self._exchange_id = exchange_id
        allowance = self._venue.allowance
        self._calls = allowance.calls
        self._budgets = {
            name: Budget(f"exchange:{exchange_id}:{account}:{name}", pool)
            for name, pool in allowance.pools.items()
            if name != PUBLIC
        }
        self._budgets[PUBLIC] = public_budget(ccxt_id, exchange_id, public_weight)
        self._breaker = breaker_of(exchange_id)

    @property
    def refuses_late_requests(self) -> bool:
        return self._gateway.refuses_late_requests

    @property
    def refuses_late_stops(self) -> bool:
        return self._gateway.refuses_late_stops

    # -- public data --------------------------------------------------------------------------------------------------

    def time(self) -> datetime:
        return self._ask("time", Use.READ, self._gateway.time)

    def status(self) -> StatusReport:
        return self._ask("status", Use.READ, self._gateway.status)

    def markets(self) -> list[MarketReport]:
        return self._ask("markets", Use.READ, self._gateway.markets)

    def quotes(self, symbols: Sequence[str]) -> list[QuoteReport]:
        # Stops and targets are watched by it: candles must not use up what it needs.
        return self._ask("quotes", Use.LOOK, lambda: self._gateway.quotes(symbols))

    def candles(self, symbol: str, timeframe: str, since: datetime, limit: int) -> list[CandleReport]:
        return self._ask("candles", Use.READ, lambda: self._gateway.candles(symbol, timeframe, since, limit))

    def trades_since(self, symbol: str, since: datetime, limit: int) -> list[TradeReport]:
        return self._ask("trades_since", Use.READ, lambda: self._gateway.trades_since(symbol, since, limit))

    def funding_rates_since(self, symbol: str, since: datetime, limit: int) -> list[FundingRateReport]:
        return self._ask(
            "funding_rates_since", Use.READ, lambda: self._gateway.funding_rates_since(symbol, since, limit)
        )

    # -- orders -------------------------------------------------------------------------------------------------------

    def order_create(self, ticket: OrderTicket) -> str:
        use = Use.EXIT if ticket.is_exit else Use.ENTRY
        return self._ask("order_create", use, lambda: self._gateway.order_create(ticket))

    def margin_match(self, symbol: str, mode: MarginMode, leverage: Decimal) -> None:
        self._ask("margin_match", Use.ENTRY, lambda: self._gateway.margin_match(symbol, mode, leverage))

    def order_cancel(self, symbol: str, exchange_order_id: str) -> None:
        self._ask("order_cancel", Use.EXIT, lambda: self._gateway.order_cancel(symbol, exchange_order_id))

    def order_find(self, symbol: str, client_order_id: str) -> OrderReport | None:
        return self._ask("order_find", Use.LOOK, lambda: self._gateway.order_find(symbol, client_order_id))

    def order_get(self, symbol: str, exchange_order_id: str) -> OrderReport | None:
        return self._ask("order_get", Use.LOOK, lambda: self._gateway.order_get(symbol, exchange_order_id))

    def order_fills(self, symbol: str, exchange_order_id: str) -> list[FillReport]:
        return self._ask("order_fills", Use.LOOK, lambda: self._gateway.order_fills(symbol, exchange_order_id))

    def stop_find(self, symbol: str, client_order_id: str) -> OrderReport | None:
        return self._ask("stop_find", Use.LOOK, lambda: self._gateway.stop_find(symbol, client_order_id))

    def stops_open(self, symbol: str) -> list[OrderReport]:
        return self._ask("stops_open", Use.READ, lambda: self._gateway.stops_open(symbol))

    def stop_cancel(self, symbol: str, exchange_order_id: str) -> bool:
        return self._ask("stop_cancel", Use.EXIT, lambda: self._gateway.stop_cancel(symbol, exchange_order_id))

    # -- whatever else an account may read ----------------------------------------------------------------------------

    def orders_open(self, symbol: str) -> list[OrderReport]:
        return self._ask("orders_open", Use.READ, lambda: self._gateway.orders_open(symbol))

    def orders_done(self, symbol: str, since: datetime) -> list[OrderReport]:
        return self._ask("orders_done", Use.READ, lambda: self._gateway.orders_done(symbol, since))

    def symbols_open(self) -> list[str] | None:
        return self._ask("symbols_open", Use.READ, self._gateway.symbols_open)

    def fills_since(self, symbol: str, since: datetime) -> list[FillReport]:
        return self._ask("fills_since", Use.READ, lambda: self._gateway.fills_since(symbol, since))

    def balances(self) -> list[BalanceReport]:
        return self._ask("balances", Use.READ, self._gateway.balances)

    def positions(self) -> list[PositionReport]:
        # A stop stands on the liquidation price that it says.
        return self._ask("positions", Use.LOOK, self._gateway.positions)

    def fundings_since(self, symbol: str, since: datetime) -> list[FundingReport]:
        return self._ask("fundings_since", Use.READ, lambda: self._gateway.fundings_since(symbol, since))

    def key_rights(self) -> KeyRights:
        return self._ask("key_rights", Use.READ, self._gateway.key_rights)

    def _ask(self, name: str, use: Use, call: Callable[[], T]) -> T:
        pool, weight = self._calls[name]
        budget = self._budgets[pool]
        entrance = self._enter(budget, weight, use)
        try:
            answer = call()
        except ExchangeUnavailable as error:
            if error.retry_after is not None:
                budget.block(error.retry_after)
            # A venue that answers in its own words is there, whatever it says.
            is_failure = not (error.is_refused_key or error.is_answer or error.retry_after is not None)
            self._breaker.record(entrance, is_failure=is_failure)
            raise
        except OrderOutcomeUnknown:
            self._breaker.record(entrance, is_failure=True)
            raise
        except OrderRejected as error:
            self._breaker.record(entrance, is_failure=False)
            self._tell_of(error.code)
            raise
        self._breaker.record(entrance, is_failure=False)
        return answer

    def _tell_of(self, code: str) -> None:
        if code in self._venue.about_status:
            _ring("exchanges.read_status", self._exchange_id)
        if code in self._venue.about_market:
            _ring("exchanges.sync", self._exchange_id)

    def _enter(self, budget: Budget, weight: int, use: Use) -> Entrance:
        keys = [*self._breaker.keys, budget.blocked_key]
        state, failures, held, blocked = shared.ask(lambda: _values(keys), NOTHING_KNOWN)
        budget.check_block(blocked)
        entrance = self._breaker.admit(state, failures, held)
        try:
            budget.take(weight, use)
        except ExchangeUnavailable:
            self._breaker.withdraw(entrance)
            raise
        return entrance


def public_budget(ccxt_id: str, exchange_id: int | None, weight: int | None = None) -> Budget:
    """The pool of public data, of ``weight`` where that is not the usual. One for all workers: those at several addresses
    share what one of them may use."""
    usual = venue_of(ccxt_id).allowance.pools[PUBLIC]
    return Budget(f"exchange:{exchange_id}:public", replace(usual, weight=weight or usual.weight))


def breaker_of(exchange_id: int | None) -> Breaker:
    """The circuit to an exchange; a change of it wakes whoever tells the traders."""
    return Breaker(f"exchange:{exchange_id}", lambda: _ring("exchanges.read_status", exchange_id))


def _ring(task: str, exchange_id: int | None) -> None:
    if exchange_id is not None:
        ring(task, exchange_ids=[exchange_id])


def _values(keys: Iterable[str]) -> list[bytes | None]:
    values: Any = shared.client().mget(list(keys))
    return list(values)
