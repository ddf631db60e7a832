"""The books: who owns what, which orders were accepted, and every fill. Exact decimals, nothing rounded, nothing lost.

A balance changes by deposits and fills alone, so at any moment balance = deposits + what the fills bought and sold -
fees, currency by currency; holds are what live orders have reserved of it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from domain.market import ZERO, Side
from simulator.market import Listing, text


class Balance:
    """One currency of one account: ``total`` owned, ``holds`` of it reserved by live orders."""

    __slots__ = ("holds", "total")

    def __init__(self) -> None:
        self.total = ZERO
        self.holds = ZERO

    @property
    def available(self) -> Decimal:
        return self.total - self.holds

    def wire(self) -> dict[str, str]:
        return {"balance": text(self.total), "available": text(self.available), "holds": text(self.holds)}


@dataclass(slots=True, eq=False)
class OrderRequest:
    """An order as its sender described it, checked and in decimals; ``size`` and ``funds`` exclude each other."""

    listing: Listing
    side: Side
    is_limit: bool
    size: Decimal | None
    funds: Decimal | None
    price: Decimal | None
    client_oid: str
    time_in_force: str = "GTC"
    is_post_only: bool = False
    cancel_after_s: int = 0
    remark: str | None = None
    tags: str | None = None


class Order:
    """An accepted order. ``wire`` is its answer to every read, made once and again after a change."""

    __slots__ = (
        "account",
        "arrived_at_ms",
        "cancelled_funds",
        "cancelled_size",
        "created_at_ms",
        "deal_funds",
        "deal_size",
        "done_number",
        "fee",
        "hold",
        "id",
        "is_active",
        "is_canceled",
        "is_resting",
        "number",
        "request",
        "updated_at_ms",
        "_wire",
    )

    def __init__(
        self, number: int, order_id: str, account: Account, request: OrderRequest, at_ms: int, wall: int
    ) -> None:
        self.number = number
        self.id = order_id
        self.account = account
        self.request = request
        self.created_at_ms = at_ms
        self.updated_at_ms = at_ms
        self.arrived_at_ms = wall
        self.deal_size = ZERO
        self.deal_funds = ZERO
        self.cancelled_size = ZERO
        self.cancelled_funds = ZERO
        self.fee = ZERO
        self.hold = ZERO
        self.is_active = True
        self.is_canceled = False
        self.is_resting = False
        self.done_number = 0
        self._wire: dict[str, Any] | None = None

    @property
    def remain_size(self) -> Decimal:
        """What may still be filled; 0 for an order by funds, whose size is not known."""
        size = self.request.size
        return ZERO if size is None else size - self.deal_size - self.cancelled_size

    def touch(self, at_ms: int) -> None:
        self.updated_at_ms = at_ms
        self._wire = None

    def wire(self) -> dict[str, Any]:
        if self._wire is None:
            self._wire = self._made_wire()
        return self._wire

    def _made_wire(self) -> dict[str, Any]:
        request, rules = self.request, self.request.listing.rules
        funds = self._funds()
        remain_funds = ZERO if funds is None else funds - self.deal_funds - self.cancelled_funds
        return {
            "id": self.id,
            "clientOid": request.client_oid,
            "symbol": rules.symbol,
            "opType": "DEAL",
            "type": "limit" if request.is_limit else "market",
            "side": request.side.value.lower(),
            "price": text(request.price or ZERO),
            "size": text(request.size or ZERO),
            "funds": text(funds or ZERO),
            "dealSize": text(self.deal_size),
            "dealFunds": text(self.deal_funds),
            "remainSize": text(self.remain_size),
            "remainFunds": text(remain_funds),
            "cancelledSize": text(self.cancelled_size),
            "cancelledFunds": text(self.cancelled_funds),
            "fee": text(self.fee),
            "feeCurrency": rules.quote,
            "stp": None,
            "timeInForce": request.time_in_force,
            "postOnly": request.is_post_only,
            "hidden": False,
            "iceberg": False,
            "visibleSize": "0",
            "cancelAfter": request.cancel_after_s,
            "channel": "API",
            "remark": request.remark,
            "tags": request.tags,
            "cancelExist": self.is_canceled,
            "tradeType": "TRADE",
            "inOrderBook": self.is_resting and self.is_active,
            "active": self.is_active,
            "tax": "0",
            "createdAt": self.created_at_ms,
            "lastUpdatedAt": self.updated_at_ms,
        }

    def _funds(self) -> Decimal | None:
        """The quote amount that the order is about: given, or for a limit order size times price."""
        request = self.request
        if request.is_limit and request.price is not None and request.size is not None:
            return request.size * request.price
        return request.funds


class StopOrder:
    """An order that waits for its stop price; it reserves nothing until it becomes an ordinary order."""

    __slots__ = (
        "account",
        "arrived_at_ms",
        "created_at_ms",
        "fires_rising",
        "id",
        "is_active",
        "number",
        "order",
        "request",
        "status",
        "stop_price",
        "triggered_at_ms",
    )

    def __init__(
        self,
        number: int,
        order_id: str,
        account: Account,
        request: OrderRequest,
        stop_price: Decimal,
        fires_rising: bool,
        at_ms: int,
        wall: int,
    ) -> None:
        self.number = number
        self.id = order_id
        self.account = account
        self.request = request
        self.stop_price = stop_price
        self.fires_rising = fires_rising
        self.created_at_ms = at_ms
        self.arrived_at_ms = wall
        self.is_active = True
        self.status = "NEW"
        self.triggered_at_ms: int | None = None
        self.order: Order | None = None

    def wire(self) -> dict[str, Any]:
        request, rules = self.request, self.request.listing.rules
        return {
            "id": self.id,
            "symbol": rules.symbol,
            "userId": str(self.account.uid),
            "status": self.status,
            "type": "limit" if request.is_limit else "market",
            "side": request.side.value.lower(),
            "price": None if request.price is None else text(request.price),
            "size": None if request.size is None else text(request.size),
            "funds": None if request.funds is None else text(request.funds),
            "stp": None,
            "timeInForce": request.time_in_force,
            "cancelAfter": request.cancel_after_s or -1,
            "postOnly": request.is_post_only,
            "hidden": False,
            "iceberg": False,
            "visibleSize": None,
            "channel": "API",
            "clientOid": request.client_oid,
            "remark": request.remark,
            "tags": request.tags,
            "orderTime": self.created_at_ms * 1_000_000,
            "domainId": "kucoin",
            "tradeSource": "USER",
            "tradeType": "TRADE",
            "feeCurrency": rules.quote,
            "takerFeeRate": text(rules.taker_fee),
            "makerFeeRate": text(rules.maker_fee),
            "createdAt": self.created_at_ms,
            "stop": "entry" if self.fires_rising else "loss",
            "stopTriggerTime": self.triggered_at_ms,
            "stopPrice": text(self.stop_price),
        }


@dataclass(frozen=True, slots=True)
class Fill:
    """One execution. ``trade_id`` is unique within its symbol only, as at KuCoin; ``number`` everywhere."""

    number: int
    trade_id: int
    order: Order
    is_maker: bool
    price: Decimal
    size: Decimal
    funds: Decimal
    fee: Decimal
    fee_rate: Decimal
    at_ms: int

    def wire(self) -> dict[str, Any]:
        request = self.order.request
        return {
            "id": self.number,
            "symbol": request.listing.rules.symbol,
            "tradeId": self.trade_id,
            "orderId": self.order.id,
            "counterOrderId": f"{self.number:024x}",
            "side": request.side.value.lower(),
            "liquidity": "maker" if self.is_maker else "taker",
            "forceTaker": False,
            "price": text(self.price),
            "size": text(self.size),
            "funds": text(self.funds),
            "fee": text(self.fee),
            "feeRate": text(self.fee_rate),
            "feeCurrency": request.listing.rules.quote,
            "stop": "",
            "tradeType": "TRADE",
            "type": "limit" if request.is_limit else "market",
            "createdAt": self.at_ms,
            "tax": "0",
            "taxRate": "0",
        }


@dataclass(slots=True)
class SymbolBook:
    """An account's orders and fills on one symbol, each list in the order of happening."""

    active: dict[str, Order] = field(default_factory=dict)
    done: list[Order] = field(default_factory=list)
    fills: list[Fill] = field(default_factory=list)


class Account:
    """An API key with its balances and books. Secret and passphrase stay inside ``Credentials``."""

    def __init__(
        self, uid: int, api_key: str, credentials: Credentials, permissions: str, ip_whitelist: str, at_ms: int
    ) -> None:
        self.uid = uid
        self.api_key = api_key
        self.credentials = credentials
        self.permissions = permissions
        self.ip_whitelist = ip_whitelist
        self.created_at_ms = at_ms
        self.balances: dict[str, Balance] = {}
        self.orders: dict[str, Order] = {}
        self.by_client_oid: dict[str, Order] = {}
        self.stops: dict[str, StopOrder] = {}
        self.stop_by_client_oid: dict[str, StopOrder] = {}
        self.active_stops: dict[str, StopOrder] = {}
        self.books: dict[str, SymbolBook] = {}
        self.fills_of: dict[str, list[Fill]] = {}

    def balance(self, currency: str) -> Balance:
        found = self.balances.get(currency)
        if found is None:
            found = self.balances[currency] = Balance()
        return found

    def book(self, symbol: str) -> SymbolBook:
        found = self.books.get(symbol)
        if found is None:
            found = self.books[symbol] = SymbolBook()
        return found

    def has_permission(self, wanted: str) -> bool:
        return wanted in self.permissions.split(",")


class Credentials:
    """What a signature is checked against. Shows nothing of it: not in repr, not in an answer."""

    __slots__ = ("_passphrases", "_secret")

    def __init__(self, secret: str, passphrase: str) -> None:
        self._secret = secret.encode()
        signed = self._signature(passphrase.encode())
        self._passphrases = {"1": passphrase.encode(), "2": signed, "3": signed}

    def __repr__(self) -> str:
        return "Credentials(hidden)"

    def passphrase_matches(self, given: str, version: str) -> bool:
        wanted = self._passphrases.get(version)
        return wanted is not None and hmac.compare_digest(wanted, given.encode())

    def signature_matches(self, given: str, message: bytes) -> bool:
        return hmac.compare_digest(self._signature(message), given.encode())

    def _signature(self, message: bytes) -> bytes:
        return base64.b64encode(hmac.digest(self._secret, message, hashlib.sha256))


@dataclass(frozen=True, slots=True)
class Deposit:
    """Money that came (or, negative, went) other than by trading."""

    account: Account
    currency: str
    amount: Decimal
    at_ms: int


class Books:
    """Everything that was accepted and executed, in order; the accounts; the numbering."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.orders: list[Order] = []
        self.stops: list[StopOrder] = []
        self.fills: list[Fill] = []
        self.deposits: list[Deposit] = []
        self._number = 0
        self._trade_ids: dict[str, int] = {}
        self._id_prefix = os.urandom(7).hex()  # ids of two runs must not meet in a client's books

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def order_id(self, number: int) -> str:
        return f"{self._id_prefix}{number:010x}"

    def deposit(self, account: Account, currency: str, amount: Decimal, at_ms: int) -> None:
        account.balance(currency).total += amount
        self.deposits.append(Deposit(account, currency, amount, at_ms))

    def accept(self, order: Order) -> None:
        account, request = order.account, order.request
        self.orders.append(order)
        account.orders[order.id] = order
        if request.client_oid:
            account.by_client_oid[request.client_oid] = order
        account.book(request.listing.rules.symbol).active[order.id] = order

    def accept_stop(self, stop: StopOrder) -> None:
        self.stops.append(stop)
        stop.account.stops[stop.id] = stop
        stop.account.active_stops[stop.id] = stop
        if stop.request.client_oid:
            stop.account.stop_by_client_oid[stop.request.client_oid] = stop

    def hold(self, order: Order, amount: Decimal) -> None:
        """Reserve exactly ``amount`` for ``order``, whatever it reserved before."""
        rules = order.request.listing.rules
        currency = rules.quote if order.request.side is Side.BUY else rules.base
        order.account.balance(currency).holds += amount - order.hold
        order.hold = amount

    def fill(self, order: Order, price: Decimal, size: Decimal, fee: Decimal, is_maker: bool, at_ms: int) -> Fill:
        """Execute ``size`` of ``order`` at ``price``: the one place where trading moves money."""
        account, rules = order.account, order.request.listing.rules
        trade_id = self._trade_ids[rules.symbol] = self._trade_ids.get(rules.symbol, 0) + 1
        funds = price * size
        sign = order.request.side.sign
        account.balance(rules.base).total += sign * size
        account.balance(rules.quote).total -= sign * funds + fee
        order.deal_size += size
        order.deal_funds += funds
        order.fee += fee
        order.touch(at_ms)
        rate = rules.maker_fee if is_maker else rules.taker_fee
        made = Fill(self.next_number(), trade_id, order, is_maker, price, size, funds, fee, rate, at_ms)
        self.fills.append(made)
        account.book(rules.symbol).fills.append(made)
        account.fills_of.setdefault(order.id, []).append(made)
        return made

    def finish(self, order: Order, at_ms: int, cancelled_size: Decimal = ZERO, cancelled_funds: Decimal = ZERO) -> None:
        """Close ``order``; whatever was not executed is cancelled, whatever was reserved is free again."""
        self.hold(order, ZERO)
        order.is_active = False
        order.cancelled_size = cancelled_size
        order.cancelled_funds = cancelled_funds
        order.is_canceled = bool(cancelled_size or cancelled_funds)
        order.done_number = self.next_number()
        order.touch(at_ms)
        book = order.account.book(order.request.listing.rules.symbol)
        del book.active[order.id]
        book.done.append(order)

    def live_client_oid(self, account: Account, client_oid: str) -> bool:
        """Whether an order with this id of the client is still live."""
        order, stop = account.by_client_oid.get(client_oid), account.stop_by_client_oid.get(client_oid)
        return (order is not None and order.is_active) or (stop is not None and stop.is_active)

    def seen_client_oid(self, account: Account, client_oid: str) -> bool:
        """Whether an order with this id of the client was ever accepted."""
        return client_oid in account.by_client_oid or client_oid in account.stop_by_client_oid

    def accounts_shown(self, api_key: str | None) -> Iterator[Account]:
        for account in self.accounts.values():
            if api_key is None or account.api_key == api_key:
                yield account
