"""What outlives the simulator: a file that knows every change before anybody is told of it.

A line is one step (a request, or a walk of the market): the market time and an image of each row that the step changed,
as it then was. A row's last image counts, so reading back is exact, whatever order things happened in; a last line that
was cut off by a kill is a step that nobody was told of, and is dropped. A long file is rewritten, shorter, on opening.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import fields
from decimal import Decimal
from pathlib import Path
from typing import Any

from domain.market import Side
from simulator.books import Account, Deposit, Row
from simulator.credentials import Credentials
from simulator.exchange import DuplicatePolicy, Exchange, Status
from simulator.market import Listing, Switch
from simulator.orders import Fill, Order, OrderRequest, StopOrder
from simulator.replays import parse_rows
from simulator.rules import Rules

FORMAT = 1
REWRITE_BEYOND_LINES = 20_000

_BEGINNING = b'{"r3edge_simulator_state":'  # of a file of ours, that its first line may have been cut off in

_encode = json.JSONEncoder(check_circular=False, separators=(",", ":"), default=str).encode

Image = list[Any]  # [kind, …]; decimals as text

_ORDER_FIELDS = ("updated_at_ms", "is_active", "is_canceled", "is_resting", "done_number")
_ORDER_AMOUNTS = ("deal_size", "deal_funds", "cancelled_size", "cancelled_funds", "fee", "hold")


class StateUnusable(Exception):
    """A state file that cannot be used, in one line."""


class StateFile:
    """One simulator's file, locked for as long as it is open. ``start_ms`` is None while it is new."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._exchange: Exchange | None = None
        self._pending = b""
        self._others: dict[str, Image] = {}  # the settings and the clock as the file knows them
        try:
            self._file = _open_locked(path)
            self._steps = _read_steps(self._file, path)
        except OSError as error:
            raise StateUnusable(f"--state: cannot use {path}: {error.strerror}") from None
        self._head: dict[str, Any] = self._steps.pop(0) if self._steps else {}
        self.start_ms: int | None = self._head.get("start_ms")

    def attach(self, exchange: Exchange, start_ms: int, made_of: dict[str, Any]) -> None:
        """Bring ``exchange``, freshly made, to what the file says, and keep its every step from now on."""
        self._exchange = exchange
        for name, value in self._head.get("made_of", made_of).items():
            if made_of.get(name) != value:
                raise StateUnusable(f"{name}: wanted {value} as {self.path} was begun with, was {made_of.get(name)}")
        head = {"r3edge_simulator_state": FORMAT, "start_ms": start_ms, "made_of": made_of}
        if self._head:
            exchange.books.id_prefix = self._head["id_prefix"]
            self._read_back(exchange)
        self._head = {**head, "id_prefix": exchange.books.id_prefix}
        exchange.books.changed = {}
        exchange.keep = self.keep
        if not self._steps:
            self._write(_line(self._head))
        elif len(self._steps) > REWRITE_BEYOND_LINES:
            self._rewrite()
        self._steps = []
        self.keep()

    def keep(self) -> None:
        """Write what changed since the last time. Raises OSError when that fails; the next call tries again."""
        assert self._exchange is not None, "a state file keeps nothing before attach"
        exchange, changed = self._exchange, self._exchange.books.changed
        images = [image_of(row) for row in changed or ()]
        others = _settings_image(exchange)
        if others != self._others.get("settings"):
            images.append(others)
            self._others["settings"] = others
        if exchange.clock.changes != self._clock_changes():
            images.append(self._clock_image(exchange))
        if changed is not None:
            changed.clear()
        if images or self._pending:
            self._write(_line([exchange.advanced_to_ms, *images]) if images else b"")

    def close(self) -> None:
        """Let go of the file; the end of the process does the same."""
        os.close(self._file)

    def _clock_changes(self) -> int:
        return int(self._others["clock"][-1]) if "clock" in self._others else -1

    def _clock_image(self, exchange: Exchange) -> Image:
        self._others["clock"] = ["clock", *exchange.clock.anchor(), exchange.clock.changes]
        return self._others["clock"][:-1]

    # -- reading ------------------------------------------------------------------------------------------------

    def _read_back(self, exchange: Exchange) -> None:
        last: dict[tuple[Any, ...], Image] = {}
        now_ms = self._head["start_ms"]
        for number, step in enumerate(self._steps):
            now_ms = max(now_ms, step[0])
            for image in step[1:]:
                last[_identity(image, number)] = image
        try:
            _Reader(exchange).read(list(last.values()), now_ms)
        except (KeyError, IndexError, TypeError, ValueError, ArithmeticError) as error:
            raise StateUnusable(f"--state: {self.path} is damaged ({type(error).__name__}: {error})") from None

    # -- writing ------------------------------------------------------------------------------------------------

    def _write(self, line: bytes) -> None:
        self._pending += line
        while self._pending:
            self._pending = self._pending[os.write(self._file, self._pending) :]

    def _rewrite(self) -> None:
        """The same state as few lines as it needs, in the file's place at once or not at all."""
        assert self._exchange is not None
        half = self.path.with_name(self.path.name + ".new")
        half.unlink(missing_ok=True)
        new, old = _open_locked(half), self._file
        self._file, at_ms = new, self._exchange.advanced_to_ms
        self._write(_line(self._head))
        for image in snapshot(self._exchange):
            self._write(_line([at_ms, image]))
        self._others["settings"] = _settings_image(self._exchange)
        self._write(_line([at_ms, self._others["settings"], self._clock_image(self._exchange)]))
        half.replace(self.path)
        os.close(old)


def _open_locked(path: Path) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise StateUnusable(f"--state: wanted a file of its own, but another simulator uses {path}") from None
    return file


def _read_steps(file: int, path: Path) -> list[Any]:
    """The lines, parsed; the rest of a last one that was cut off is removed from the file."""
    with os.fdopen(os.dup(file), "rb") as stream:
        content = stream.read()
    whole = content.rfind(b"\n") + 1
    steps = []
    for number, line in enumerate(content[:whole].splitlines(), 1):
        try:
            steps.append(json.loads(line))
        except ValueError:
            raise StateUnusable(f"--state: {path} is damaged in line {number}") from None
    is_ours = isinstance(steps[0], dict) if steps else _BEGINNING.startswith(content[: len(_BEGINNING)])
    if not is_ours or (steps and steps[0].get("r3edge_simulator_state") != FORMAT):
        raise StateUnusable(f"--state: wanted a simulator's state of format {FORMAT} in {path}")
    if whole != len(content):
        os.ftruncate(file, whole)
    return steps


def _line(value: Any) -> bytes:
    return _encode(value).encode() + b"\n"


# -- images ----------------------------------------------------------------------------------------------------


def snapshot(exchange: Exchange) -> Iterator[Image]:
    """An image of every row there is."""
    books, listings = exchange.books, exchange.market.listings.values()
    rows: list[Row] = [*listings, *books.accounts.values(), *books.deposits, *books.stops, *books.orders, *books.fills]
    for listing in listings:
        yield from (image_of(switch) for switch in listing.switches)
    for row in rows:
        yield image_of(row)


def image_of(row: Row) -> Image:
    """``row`` as it is, in values that JSON knows (and decimals, which are written as text)."""
    image: Callable[[Any], Image] = _IMAGES[type(row)]
    return image(row)


def _identity(image: Image, step: int) -> tuple[Any, ...]:
    """Which row an image is of; the rows that never change have no identity and all count."""
    if image[0] in ("order", "stop", "fill", "account", "listing"):
        return image[0], image[1]
    return (image[0],) if image[0] in ("settings", "clock") else (image[0], step, id(image))


def _account_image(account: Account) -> Image:
    balances = {name: [balance.total, balance.holds] for name, balance in account.balances.items()}
    return [
        "account",
        account.api_key,
        account.uid,
        account.credentials.kept(),
        account.permissions,
        account.ip_whitelist,
        account.created_at_ms,
        balances,
    ]


def _request_image(request: OrderRequest) -> Image:
    return [
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
    amounts = [fill.price, fill.size, fill.funds, fill.fee, fill.fee_rate]
    return ["fill", fill.number, fill.trade_id, fill.order.number, fill.is_maker, amounts, fill.at_ms]


def _listing_image(listing: Listing) -> Image:
    rules = listing.rules
    return ["listing", rules.symbol, {field.name: getattr(rules, field.name) for field in fields(rules)}]


_IMAGES: dict[type, Callable[[Any], Image]] = {
    Account: _account_image,
    Order: _order_image,
    StopOrder: _stop_image,
    Fill: _fill_image,
    Listing: _listing_image,
    Deposit: lambda row: ["deposit", row.account.api_key, row.currency, row.amount, row.at_ms],
    Switch: lambda row: ["switch", row.symbol, row.at_ms, row.price, row.rows],
}


def _settings_image(exchange: Exchange) -> Image:
    return ["settings", exchange.duplicates.value, exchange.status.value]


class _Reader:
    """Makes rows of images, in an exchange that has none yet."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._orders: dict[int, Order] = {}

    def read(self, images: list[Image], now_ms: int) -> None:
        kinds: dict[str, list[Image]] = {}
        for image in images:
            kinds.setdefault(image[0], []).append(image)
        for image in kinds.get("listing", []):
            self._listing(image)
        for image in kinds.get("switch", []):
            self._switch(image)
        for image in kinds.get("account", []):
            self._account(image)
        for image in kinds.get("deposit", []):
            self._deposit(image)
        for image in kinds.get("order", []):
            self._orders[image[1]] = self._order(image)
        self._exchange.books.read_back(
            sorted(self._orders.values(), key=lambda order: order.number),
            sorted((self._stop(image) for image in kinds.get("stop", [])), key=lambda stop: stop.number),
            sorted((self._fill(image) for image in kinds.get("fill", [])), key=lambda fill: fill.number),
        )
        self._exchange.wait_again(now_ms)
        for image in kinds.get("settings", []):
            self._exchange.duplicates, self._exchange.status = DuplicatePolicy(image[1]), Status(image[2])
        for image in kinds.get("clock", []):
            self._exchange.clock.resume_from(image[1], image[2], image[3], image[4], not_before_ms=now_ms)

    def _listing(self, image: Image) -> None:
        market, symbol = self._exchange.market, image[1]
        listing = market.listings.get(symbol) or market.add(symbol)
        kept: dict[str, Any] = {name: Decimal(value) if isinstance(value, str) else value for name, value in image[2].items()
                if name != "symbol"}  # fmt: skip
        listing.change_rules(Rules(symbol=symbol, **kept))

    def _switch(self, image: Image) -> None:
        _, symbol, at_ms, price, rows = image
        switch = Switch(symbol, at_ms, _decimal(price), tuple(parse_rows(rows)))
        self._exchange.market.listings[symbol].switch(switch)

    def _account(self, image: Image) -> None:
        _, api_key, uid, credentials, permissions, ip_whitelist, created_at_ms, balances = image
        account = Account(uid, api_key, Credentials(*credentials), permissions, ip_whitelist, created_at_ms)
        for currency, (total, holds) in balances.items():
            balance = account.balance(currency)
            balance.total, balance.holds = Decimal(total), Decimal(holds)
        self._exchange.books.accounts[api_key] = account

    def _deposit(self, image: Image) -> None:
        _, api_key, currency, amount, at_ms = image
        books = self._exchange.books
        books.deposits.append(Deposit(books.accounts[api_key], currency, Decimal(amount), at_ms))

    def _request(self, image: Image) -> OrderRequest:
        symbol, side, is_limit, size, funds, price, *rest = image
        listing = self._exchange.market.listings[symbol]
        amounts = _decimal(size), _decimal(funds), _decimal(price)
        return OrderRequest(listing, Side(side), is_limit, *amounts, *rest)

    def _order(self, image: Image) -> Order:
        _, number, order_id, api_key, request, created_at_ms, arrived_at_ms, values, amounts = image
        account = self._exchange.books.accounts[api_key]
        order = Order(number, order_id, account, self._request(request), created_at_ms, arrived_at_ms)
        for name, value in zip(_ORDER_FIELDS, values, strict=True):
            setattr(order, name, value)
        for name, value in zip(_ORDER_AMOUNTS, amounts, strict=True):
            setattr(order, name, Decimal(value))
        return order

    def _stop(self, image: Image) -> StopOrder:
        _, number, stop_id, api_key, request, stop_price, fires_rising, created_at_ms, arrived_at_ms, *state = image
        account = self._exchange.books.accounts[api_key]
        stop = StopOrder(
            number,
            stop_id,
            account,
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
        _, number, trade_id, order_number, is_maker, amounts, at_ms = image
        price, size, funds, fee, fee_rate = map(Decimal, amounts)
        order = self._orders[order_number]
        return Fill(number, trade_id, order, is_maker, price, size, funds, fee, fee_rate, at_ms)


def _decimal(value: str | None) -> Decimal | None:
    return None if value is None else Decimal(value)
