"""The whole truth for tests: every accepted order, fill, deposit, position and balance, from the books themselves.

Nothing here ever returns a secret or a passphrase.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from simulator.books import Account, Books
from simulator.exchange import Exchange
from simulator.orders import Order, StopOrder
from simulator.positions import FuturesAccount
from simulator.rules import text


class HasWire(Protocol):
    @property
    def api_key(self) -> str: ...

    def wire(self) -> dict[str, Any]: ...


def oracle(exchange: Exchange, requests: Iterable[HasWire], query: Mapping[str, str]) -> dict[str, Any]:
    """Everything that happened; ``apiKey`` for one account's part, ``requests`` for the latest so many requests."""
    now_ms, wanted = exchange.advance(), query.get("apiKey")
    lines = [line.wire() for line in requests if wanted in (None, line.api_key)]
    latest = query.get("requests", "")
    if latest.isdigit():
        lines = lines[max(0, len(lines) - int(latest)) :]
    spot = _of(exchange.books, wanted)
    balances = {account.api_key: balances_of(account) for account in exchange.books.accounts_shown(wanted)}
    return {
        "now_ms": now_ms,
        **spot,
        "balances": balances,
        "futures": {
            **_of(exchange.futures.books, wanted),
            "balances": {one.api_key: balances_of(one) for one in exchange.futures.books.accounts_shown(wanted)},
            "positions": [
                {**position.wire(position.listing.price_at(now_ms), now_ms), "apiKey": account.api_key}
                for account in exchange.futures.books.accounts_shown(wanted)
                if isinstance(account, FuturesAccount)
                for position in account.positions.values()
            ],
            "funding": [
                {**one.wire(), "funding": text(one.amount), "apiKey": one.account.api_key}
                for one in exchange.futures.books.funding
                if wanted in (None, one.account.api_key)
            ],
        },
        "requests": lines,
        "counts": {
            "orders": len(spot["orders"]),
            "stopOrders": len(spot["stopOrders"]),
            "fills": len(spot["fills"]),
            "requests": len(lines),
            "active": sum(order["status"] == "open" for order in spot["orders"]),
        },
    }


def balances_of(account: Account) -> dict[str, dict[str, str]]:
    return {currency: balance.wire() for currency, balance in account.balances.items()}


def _of(books: Books, wanted: str | None) -> dict[str, list[dict[str, Any]]]:
    return {
        "orders": [_order(order) for order in books.orders if wanted in (None, order.account.api_key)],
        "stopOrders": [_stop(stop) for stop in books.stops if wanted in (None, stop.account.api_key)],
        "fills": [
            {
                **fill.wire(),
                "apiKey": fill.order.account.api_key,
                "clientOid": fill.order.request.client_oid,
                "realised": text(fill.realised),
            }
            for fill in books.fills
            if wanted in (None, fill.order.account.api_key)
        ],
        "deposits": [
            {
                "apiKey": deposit.account.api_key,
                "currency": deposit.currency,
                "amount": text(deposit.amount),
                "at": deposit.at_ms,
            }
            for deposit in books.deposits
            if wanted in (None, deposit.account.api_key)
        ],
    }


def _order(order: Order) -> dict[str, Any]:
    status = "open" if order.is_active else "canceled" if order.is_canceled else "done"
    return {**order.wire(), "apiKey": order.account.api_key, "arrivedAt": order.arrived_at_ms, "status": status}


def _stop(stop: StopOrder) -> dict[str, Any]:
    order_id = None if stop.order is None else stop.order.id
    return {**stop.wire(), "apiKey": stop.account.api_key, "arrivedAt": stop.arrived_at_ms, "orderId": order_id}
