"""The rows of a state file: what an image of each kind of row holds, and how rows are made of images again.

An image is a list of values that JSON knows (decimals are written as text): the kind, with "f." before it at the futures
desk, then what tells rows of this kind apart, then the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from decimal import Decimal
from typing import Any

from domain.market import Side
from simulator.books import Account, Books, Deposit
from simulator.contracts import Contract
from simulator.credentials import Credentials
from simulator.exchange import Exchange
from simulator.market import Edit, Listing, Switch
from simulator.orders import Fill, Order, OrderRequest, StopOrder
from simulator.positions import (
    Funding,
    FuturesAccount,
    FuturesFill,
    FuturesOrder,
    FuturesRequest,
    FuturesStop,
    Position,
)
from simulator.prices import First
from simulator.replays import parse_rows
from simulator.rules import Rules

Image = list[Any]

_ORDER_FIELDS = (
    "updated_at_ms",
    "is_active",
    "is_canceled",
    "is_resting",
    "done_number",
    "fee_currency",
    "cancel_at_ms",
    "paused_until_ms",
)
_ORDER_AMOUNTS = ("deal_size", "deal_funds", "cancelled_size", "cancelled_funds", "fee", "hold")
_POSITION_AMOUNTS = ("quantity", "cost", "margin", "leverage", "realised", "commission", "funding")


def images_of(rows: Iterable[object], prefix: str) -> list[Image]:
    """An image of each of ``rows`` as it is now."""
    images = []
    for row in rows:
        make: Callable[[Any], Image] = _IMAGES[type(row)]
        image = make(row)
        image[0] = prefix + image[0]
        images.append(image)
    return images


def snapshot(exchange: Exchange) -> Iterator[Image]:
    """An image of every row there is."""
    market = exchange.market
    listings = [*market.listings.values(), *market.contracts.values(), *market.delisted.values()]
    for listing in listings:
        yield from images_of([listing, *listing.switches, *listing.edits], "")
    for books, prefix in ((exchange.books, ""), (exchange.futures.books, "f.")):
        rows = [*books.accounts.values(), *books.deposits, *books.stops, *books.orders, *books.fills]
        yield from images_of(rows, prefix)
    positions = [
        position
        for account in exchange.futures.books.accounts.values()
        if isinstance(account, FuturesAccount)
        for position in account.positions.values()
    ]
    yield from images_of([*positions, *exchange.futures.books.funding], "f.")


def _balances(account: Account) -> dict[str, list[Decimal]]:
    return {name: [balance.total, balance.holds] for name, balance in account.balances.items()}


def _account_image(account: Account) -> Image:
    return [
        "account",
        account.api_key,
        account.uid,
        account.credentials.kept(),
        account.permissions,
        account.ip_whitelist,
        account.created_at_ms,
        account.pays_fees_in_kcs,
        account.is_revoked,
        account.dead_man,
        _balances(account),
    ]


def _futures_account_image(account: FuturesAccount) -> Image:
    return ["account", account.api_key, account.is_cross_on, account.cross_leverage, _balances(account)]


def _request_image(request: OrderRequest) -> Image:
    image = [
        request.listing.rules.symbol,
        request.side.value,
        request.is_limit,
        request.size,
        request.funds,
        request.price,
        request.client_oid,
        request.time_in_force,
        request.is_post_only,
        request.cancel_after_s,
        request.remark,
        request.tags,
    ]
    if isinstance(request, FuturesRequest):
        image += [request.leverage, request.is_cross, request.is_reduce_only, request.is_close, request.stop_price_type]
    return image


def _order_image(order: Order) -> Image:
    return [
        "order",
        order.number,
        order.id,
        order.account.api_key,
        _request_image(order.request),
        order.created_at_ms,
        order.arrived_at_ms,
        [getattr(order, name) for name in _ORDER_FIELDS],
        [getattr(order, name) for name in _ORDER_AMOUNTS],
    ]


def _stop_image(stop: StopOrder) -> Image:
    return [
        "stop",
        stop.number,
        stop.id,
        stop.account.api_key,
        _request_image(stop.request),
        stop.stop_price,
        stop.fires_rising,
        stop.created_at_ms,
        stop.arrived_at_ms,
        stop.is_active,
        stop.status,
        stop.triggered_at_ms,
        None if stop.order is None else stop.order.number,
    ]


def _fill_image(fill: Fill) -> Image:
    amounts = [fill.price, fill.size, fill.funds, fill.fee, fill.fee_rate, fill.realised]
    rest = [fill.fee_currency, fill.at_ms, fill.arrived_at_ms]
    return ["fill", fill.number, fill.trade_id, fill.order.number, fill.is_maker, amounts, *rest]


def _listing_image(listing: Listing) -> Image:
    rules = {field.name: getattr(listing.rules, field.name) for field in fields(listing.rules)}
    return ["listing", listing.rules.symbol, rules, listing.is_delisted, listing.depth_quote]


def _position_image(position: Position) -> Image:
    return [
        "position",
        position.number,
        position.account.api_key,
        position.listing.rules.symbol,
        [getattr(position, name) for name in _POSITION_AMOUNTS],
        position.is_cross,
        position.opened_at_ms,
    ]


def _funding_image(row: Funding) -> Image:
    amounts = [row.rate, row.quantity, row.price, row.cost, row.amount]
    return ["funding", row.number, row.account.api_key, row.symbol, row.at_ms, amounts, row.currency]


_IMAGES: dict[type, Callable[[Any], Image]] = {
    Account: _account_image,
    FuturesAccount: _futures_account_image,
    Order: _order_image,
    FuturesOrder: _order_image,
    StopOrder: _stop_image,
    FuturesStop: _stop_image,
    Fill: _fill_image,
    FuturesFill: _fill_image,
    Listing: _listing_image,
    Position: _position_image,
    Funding: _funding_image,
    Deposit: lambda row: ["deposit", row.account.api_key, row.currency, row.amount, row.at_ms],
    Switch: lambda row: ["switch", row.symbol, row.at_ms, row.price, row.rows, row.first],
    Edit: lambda row: ["edit", row.symbol, row.start, row.stop, row.from_ms, row.until_ms, row.rows],
}


class Reader:
    """Makes rows of images, in an exchange that has none yet."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def read(self, images: list[Image], now_ms: int) -> None:
        """``images``: the last one of every row, in the order of the file; ``now_ms``: the time of the last step."""
        kinds: dict[str, list[Image]] = {}
        for image in images:
            kinds.setdefault(image[0], []).append(image)
        for kind, read in (
            ("listing", self._listing),
            ("f.listing", self._listing),
            ("switch", self._switch),
            ("edit", self._edit),
            ("account", self._account),
            ("f.account", self._futures_account),
        ):
            for image in kinds.get(kind, []):
                read(image)
        futures = self._exchange.futures.books
        _DeskReader(self._exchange, self._exchange.books, kinds, "").read()
        _DeskReader(self._exchange, futures, kinds, "f.").read()
        for image in kinds.get("f.position", []):
            self._position(image)
        funding = [self._funding(image) for image in kinds.get("f.funding", [])]
        futures.read_funding_back(sorted(funding, key=lambda one: one.number))
        for image in kinds.get("settings", []):
            self._exchange.settings.change(image[1])
        self._exchange.read_back_at(now_ms)
        for image in kinds.get("clock", []):
            self._exchange.clock.resume_from(image[1], image[2], image[3], image[4], not_before_ms=now_ms)

    def _listing(self, image: Image) -> None:
        _, symbol, values, is_delisted, depth_quote = image
        market = self._exchange.market
        listing = market.find(symbol) or market.add(symbol)
        kind = Contract if isinstance(listing.rules, Contract) else Rules
        kept: dict[str, Any] = {
            name: Decimal(value) if isinstance(value, str) and name not in ("symbol", "underlying") else value
            for name, value in values.items()
        }
        rules = kind(**kept)
        if kind is Contract:
            listing.rules = rules  # its timeline is its symbol's, which has its own tick
        else:
            listing.change_rules(rules)
        listing.depth_quote = Decimal(depth_quote)
        if is_delisted:
            market.delist(listing)

    def _found(self, symbol: str) -> Listing:
        listing = self._exchange.market.find(symbol)
        if listing is None:
            raise ValueError(f"wanted a symbol of the market, was {symbol}")
        return listing

    def _switch(self, image: Image) -> None:
        _, symbol, at_ms, price, rows, *later = image
        first = First(later[0]) if later and later[0] is not None else None
        self._found(symbol).switch(Switch(symbol, at_ms, _decimal(price), tuple(parse_rows(rows)), first))

    def _edit(self, image: Image) -> None:
        _, symbol, start, stop, from_ms, until_ms, rows = image
        self._found(symbol).edits.append(Edit(symbol, start, stop, from_ms, until_ms, tuple(parse_rows(rows))))

    def _account(self, image: Image) -> None:
        _, api_key, uid, credentials, permissions, ip_whitelist, created_at_ms, *rest = image
        account = Account(uid, api_key, Credentials(*credentials), permissions, ip_whitelist, created_at_ms)
        account.pays_fees_in_kcs, account.is_revoked, dead_man, balances = rest
        _read_balances(account, balances)
        self._exchange.books.accounts[api_key] = account
        if dead_man is not None:
            self._exchange.books.set_dead_man(account, (dead_man[0], dead_man[1]))

    def _futures_account(self, image: Image) -> None:
        _, api_key, is_cross_on, cross_leverage, balances = image
        account = self._exchange.futures.books.account_of(self._exchange.books.accounts[api_key])
        account.is_cross_on = is_cross_on
        account.cross_leverage = {symbol: Decimal(value) for symbol, value in cross_leverage.items()}
        _read_balances(account, balances)

    def _position(self, image: Image) -> None:
        _, number, api_key, symbol, amounts, is_cross, opened_at_ms = image
        futures = self._exchange.futures.books
        account = futures.account_of(self._exchange.books.accounts[api_key])
        position = account.positions[symbol] = Position(number, account, self._found(symbol))
        for name, value in zip(_POSITION_AMOUNTS, amounts, strict=True):
            setattr(position, name, Decimal(value))
        position.is_cross, position.opened_at_ms = is_cross, opened_at_ms

    def _funding(self, image: Image) -> Funding:
        _, number, api_key, symbol, at_ms, amounts, currency = image
        account = self._exchange.futures.books.account_of(self._exchange.books.accounts[api_key])
        rate, quantity, price, cost, amount = map(Decimal, amounts)
        return Funding(number, account, symbol, at_ms, rate, quantity, price, cost, amount, currency)


class _DeskReader:
    """Makes the orders, fills and deposits of one desk."""

    def __init__(self, exchange: Exchange, books: Books, kinds: dict[str, list[Image]], prefix: str) -> None:
        self._exchange = exchange
        self._books = books
        self._kinds = kinds
        self._is_futures = bool(prefix)
        self._prefix = prefix
        self._orders: dict[int, Order] = {}

    def read(self) -> None:
        for image in self._images("deposit"):
            _, api_key, currency, amount, at_ms = image
            self._books.deposits.append(Deposit(self._account(api_key), currency, Decimal(amount), at_ms))
        for image in self._images("order"):
            self._orders[image[1]] = self._order(image)
        self._books.read_back(
            sorted(self._orders.values(), key=lambda order: order.number),
            sorted((self._stop(image) for image in self._images("stop")), key=lambda stop: stop.number),
            sorted((self._fill(image) for image in self._images("fill")), key=lambda fill: fill.number),
        )

    def _images(self, kind: str) -> list[Image]:
        return self._kinds.get(self._prefix + kind, [])

    def _account(self, api_key: str) -> Account:
        owner = self._exchange.books.accounts[api_key]
        return self._exchange.futures.books.account_of(owner) if self._is_futures else owner

    def _request(self, image: Image) -> OrderRequest:
        symbol, side, is_limit, size, funds, price, *rest = image
        listing = self._exchange.market.find(symbol)
        if listing is None:
            raise ValueError(f"wanted a symbol of the market, was {symbol}")
        amounts = _decimal(size), _decimal(funds), _decimal(price)
        if self._is_futures and len(rest) > 6:
            rest[6] = Decimal(rest[6])  # the leverage
            return FuturesRequest(listing, Side(side), is_limit, *amounts, *rest)
        return OrderRequest(listing, Side(side), is_limit, *amounts, *rest)

    def _order(self, image: Image) -> Order:
        _, number, order_id, api_key, request, created_at_ms, arrived_at_ms, values, amounts = image
        kind = FuturesOrder if self._is_futures else Order
        order = kind(number, order_id, self._account(api_key), self._request(request), created_at_ms, arrived_at_ms)
        for name, value in zip(_ORDER_FIELDS, values, strict=True):
            setattr(order, name, value)
        for name, value in zip(_ORDER_AMOUNTS, amounts, strict=True):
            setattr(order, name, Decimal(value))
        return order

    def _stop(self, image: Image) -> StopOrder:
        _, number, stop_id, api_key, request, stop_price, fires_rising, created_at_ms, arrived_at_ms, *state = image
        kind = FuturesStop if self._is_futures else StopOrder
        stop = kind(
            number,
            stop_id,
            self._account(api_key),
            self._request(request),
            Decimal(stop_price),
            fires_rising,
            created_at_ms,
            arrived_at_ms,
        )
        stop.is_active, stop.status, stop.triggered_at_ms, order_number = state
        stop.order = None if order_number is None else self._orders[order_number]
        return stop

    def _fill(self, image: Image) -> Fill:
        _, number, trade_id, order_number, is_maker, amounts, fee_currency, at_ms, arrived_at_ms = image
        price, size, funds, fee, fee_rate, realised = map(Decimal, amounts)
        return self._books.FILL(
            number,
            trade_id,
            self._orders[order_number],
            is_maker,
            price,
            size,
            funds,
            fee,
            fee_currency,
            fee_rate,
            at_ms,
            arrived_at_ms,
            realised,
        )


def _read_balances(account: Account, balances: dict[str, list[str]]) -> None:
    for currency, (total, holds) in balances.items():
        balance = account.balance(currency)
        balance.total, balance.holds = Decimal(total), Decimal(holds)


def _decimal(value: str | None) -> Decimal | None:
    return None if value is None else Decimal(value)
