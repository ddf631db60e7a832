"""The books: who owns what, every accepted order and every fill. Exact decimals, nothing rounded, nothing lost.

A balance changes by deposits and fills alone, so at any moment balance = deposits + what the fills bought and sold -
fees, currency by currency; holds are what live orders have reserved of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal

from domain.market import ZERO, Side
from simulator.clock import wall_ms
from simulator.credentials import Credentials
from simulator.orders import Fill, Order, StopOrder
from simulator.rules import text


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
        self.pays_fees_in_kcs = False
        self.is_revoked = False  # a revoked key is as good as unknown
        self.dead_man: tuple[int, list[str]] | None = None  # wall ms at which to cancel on these symbols (none: on all)
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


@dataclass(frozen=True, slots=True, eq=False)
class Deposit:
    """Money that came (or, negative, went) other than by trading."""

    account: Account
    currency: str
    amount: Decimal
    at_ms: int


Row = object  # whatever the state file keeps: accounts, orders, fills, listings, positions, ...


class Books:
    """Everything that was accepted and executed, in order; the accounts; the numbering."""

    FILL: type[Fill] = Fill

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.orders: list[Order] = []
        self.stops: list[StopOrder] = []
        self.fills: list[Fill] = []
        self.deposits: list[Deposit] = []
        self.changed: dict[Row, None] = {}  # in this step
        self.with_dead_man: list[Account] = []
        self.id_prefix = os.urandom(7).hex()  # ids of two runs must not meet in a client's books
        self._number = 0
        self._trade_ids: dict[str, int] = {}

    def note(self, *rows: Row) -> None:
        """Remember that ``rows`` changed; whatever changes one must say so here."""
        self.changed.update(dict.fromkeys(rows))

    def set_dead_man(self, account: Account, dead_man: tuple[int, list[str]] | None) -> None:
        """Arm or disarm ``account``'s dead man's switch."""
        account.dead_man = dead_man
        self.with_dead_man = [one for one in self.accounts.values() if one.dead_man is not None]
        self.note(account)

    def next_number(self) -> int:
        self._number += 1
        return self._number

    @property
    def latest_number(self) -> int:
        return self._number

    def order_id(self, number: int) -> str:
        return f"{self.id_prefix}{number:010x}"

    def deposit(self, account: Account, currency: str, amount: Decimal, at_ms: int) -> None:
        account.balance(currency).total += amount
        made = Deposit(account, currency, amount, at_ms)
        self.deposits.append(made)
        self.note(account, made)

    def accept(self, order: Order) -> None:
        account, request = order.account, order.request
        self.orders.append(order)
        self.note(order)
        account.orders[order.id] = order
        if request.client_oid:
            account.by_client_oid[request.client_oid] = order
        account.book(request.listing.rules.symbol).active[order.id] = order

    def accept_stop(self, stop: StopOrder) -> None:
        self.stops.append(stop)
        self.note(stop)
        stop.account.stops[stop.id] = stop
        stop.account.active_stops[stop.id] = stop
        if stop.request.client_oid:
            stop.account.stop_by_client_oid[stop.request.client_oid] = stop

    def hold(self, order: Order, amount: Decimal) -> None:
        """Reserve exactly ``amount`` for ``order``, whatever it reserved before."""
        order.account.balance(self._held_currency(order)).holds += amount - order.hold
        order.hold = amount
        self.note(order, order.account)

    def _held_currency(self, order: Order) -> str:
        rules = order.request.listing.rules
        return rules.quote if order.request.side is Side.BUY else rules.base

    def fill(
        self, order: Order, price: Decimal, size: Decimal, fee: Decimal, fee_currency: str, is_maker: bool, at_ms: int
    ) -> Fill:
        """Execute ``size`` of ``order`` at ``price``: the one place where trading moves money."""
        account, rules = order.account, order.request.listing.rules
        trade_id = self._trade_ids[rules.symbol] = self._trade_ids.get(rules.symbol, 0) + 1
        funds = price * size * rules.multiplier
        if order.fee_currency != fee_currency:
            order.fee, order.fee_currency = ZERO, fee_currency
        order.deal_size += size
        order.deal_funds += funds
        order.fee += fee
        order.touch(at_ms)
        rate = rules.maker_fee if is_maker else rules.taker_fee
        realised = self._settle(account, order, price, size, funds)
        account.balance(fee_currency).total -= fee
        made = self.FILL(
            self.next_number(),
            trade_id,
            order,
            is_maker,
            price,
            size,
            funds,
            fee,
            fee_currency,
            rate,
            at_ms,
            wall_ms(),
            realised,
        )
        self.fills.append(made)
        self.note(order, account, made)
        account.book(rules.symbol).fills.append(made)
        account.fills_of.setdefault(order.id, []).append(made)
        return made

    def _settle(self, account: Account, order: Order, price: Decimal, size: Decimal, funds: Decimal) -> Decimal:
        """Exchange base for quote; what was realised by it, which only a futures position can tell."""
        rules, sign = order.request.listing.rules, order.request.side.sign
        account.balance(rules.base).total += sign * size
        account.balance(rules.quote).total -= sign * funds
        return ZERO

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

    def read_back(self, orders: list[Order], stops: list[StopOrder], fills: list[Fill]) -> None:
        """Fill empty books with what was kept of them; balances and holds are the accounts' own."""
        for stop in stops:
            self.accept_stop(stop)
            if not stop.is_active:
                del stop.account.active_stops[stop.id]
        for order in orders:
            self.accept(order)
        for order in sorted((order for order in orders if not order.is_active), key=lambda order: order.done_number):
            book = order.account.book(order.request.listing.rules.symbol)
            del book.active[order.id]
            book.done.append(order)
        for fill in fills:
            symbol = fill.order.request.listing.rules.symbol
            self.fills.append(fill)
            self._trade_ids[symbol] = max(fill.trade_id, self._trade_ids.get(symbol, 0))
            fill.order.account.book(symbol).fills.append(fill)
            fill.order.account.fills_of.setdefault(fill.order.id, []).append(fill)
        numbered: list[Order | StopOrder | Fill] = [*orders, *stops, *fills]
        numbers = [one.number for one in numbered] + [order.done_number for order in orders]
        self._number = max(numbers, default=0)

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
