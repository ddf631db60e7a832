"""The control and oracle API under /_sim: accounts, clock, prices, symbols, faults; and the whole truth for tests.

The oracle answers from the books themselves. Nothing here ever returns a secret or a passphrase.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from typing import Any, Protocol

from simulator.books import Account
from simulator.clock import wall_ms
from simulator.credentials import Credentials
from simulator.exchange import DuplicatePolicy, Exchange, Status
from simulator.faults import FaultScript
from simulator.market import Listing
from simulator.orders import Order, StopOrder
from simulator.replays import parse_rows
from simulator.rules import SYMBOL_PATTERN, text

DEFAULT_PERMISSIONS = "General,Spot"
MAX_STEP_MS = 400 * 86_400_000  # further would compute prices for minutes on end
MAX_SPEED = 100_000


class NotPossible(Exception):
    """A control request that asks for something that is not there."""

    def __init__(self, message: str, http_status: int = 404) -> None:
        super().__init__(message)
        self.http_status = http_status


class HasWire(Protocol):
    @property
    def api_key(self) -> str: ...

    def wire(self) -> dict[str, Any]: ...


Body = Mapping[str, Any]
Query = Mapping[str, str]


class Control:
    """One method per endpoint; ValueError for a bad request."""

    def __init__(self, exchange: Exchange, faults: FaultScript, requests: Iterable[HasWire]) -> None:
        self._exchange = exchange
        self._faults = faults
        self._requests = requests
        self._routes: dict[tuple[str, str], Callable[[Query, Body], dict[str, Any]]] = {
            ("GET", "/health"): self._health,
            ("POST", "/accounts"): self._add_account,
            ("GET", "/clock"): self._clock,
            ("POST", "/clock"): self._set_clock,
            ("POST", "/symbols"): self._set_symbol,
            ("GET", "/settings"): self._settings,
            ("POST", "/settings"): self._change_settings,
            ("GET", "/faults"): self._list_faults,
            ("POST", "/faults"): self._add_fault,
            ("DELETE", "/faults"): self._clear_faults,
            ("GET", "/oracle"): self._oracle,
        }

    def answer(self, method: str, path: str, query: Query, body: Body) -> dict[str, Any]:
        """The answer to one request; ``path`` without the prefix."""
        route = self._routes.get((method, path))
        if route is not None:
            return route(query, body)
        parts = path.strip("/").split("/")
        if method == "POST" and len(parts) == 3 and parts[0] == "market":
            if parts[2] == "candles":
                return self._script_candles(self._listing(parts[1]), body)
            if parts[2] == "price":
                return self._pin_price(self._listing(parts[1]), body)
        raise NotPossible(f"wanted an endpoint of the control API, was {method} {path}")

    def _listing(self, symbol: str) -> Listing:
        listing = self._exchange.market.listings.get(symbol)
        if listing is None:
            raise NotPossible(f"wanted a listed symbol ({', '.join(self._exchange.market.listings)}), was {symbol}")
        return listing

    # -- the state of things ------------------------------------------------------------------------------------

    def _health(self, query: Query, body: Body) -> dict[str, Any]:
        symbols = list(self._exchange.market.listings)
        return {"status": "ok", "marketMs": self._exchange.clock.now_ms(), "wallMs": wall_ms(), "symbols": symbols}

    def _settings(self, query: Query, body: Body) -> dict[str, Any]:
        return {
            "duplicateClientOid": self._exchange.duplicates.value,
            "status": self._exchange.status.value,
        }

    def _change_settings(self, query: Query, body: Body) -> dict[str, Any]:
        """{"duplicateClientOid": active|always|never, "status": open|cancelonly|close}, either or both."""
        _only(body, ("duplicateClientOid", "status"))
        duplicates, status = body.get("duplicateClientOid"), body.get("status")
        if duplicates not in (None, *DuplicatePolicy):
            raise ValueError(f"wanted duplicateClientOid to be active, always or never, was {duplicates!r}")
        if status not in (None, *Status):
            raise ValueError(f"wanted status to be open, cancelonly or close, was {status!r}")
        if duplicates is not None:
            self._exchange.duplicates = DuplicatePolicy(duplicates)
        if status is not None:
            self._exchange.status = Status(status)
        return self._settings(query, body)

    def _add_account(self, query: Query, body: Body) -> dict[str, Any]:
        account = account_set(self._exchange, body)
        return {
            "apiKey": account.api_key,
            "uid": account.uid,
            "permissions": account.permissions,
            "balances": _balances(account),
        }

    # -- time and prices ----------------------------------------------------------------------------------------

    def _clock(self, query: Query, body: Body) -> dict[str, Any]:
        clock = self._exchange.clock
        return {"now_ms": clock.now_ms(), "speed": clock.speed, "stopped": clock.is_stopped, "wall_ms": wall_ms()}

    def _set_clock(self, query: Query, body: Body) -> dict[str, Any]:
        """{"speed": x}, {"stop": true|false}, {"advance_s": n} or {"now_ms": n}; everything due is matched on return."""
        _only(body, ("speed", "stop", "advance_s", "now_ms"))
        clock = self._exchange.clock
        speed, advance_s, now_ms = (_number(body, name) for name in ("speed", "advance_s", "now_ms"))
        if body.get("stop") not in (None, True, False):
            raise ValueError(f"wanted stop to be true or false, was {body['stop']!r}")
        if speed is not None and speed > MAX_SPEED:
            raise ValueError(f"wanted a speed of at most {MAX_SPEED}, was {speed}")
        self._exchange.advance()
        if speed is not None:
            clock.set_speed(float(speed))
        if body.get("stop") is True:
            clock.stop()
        elif body.get("stop") is False:
            clock.resume()
        if now_ms is not None:
            self._jump(int(now_ms))
        if advance_s is not None:
            self._jump(clock.now_ms() + int(advance_s * 1000))
        self._exchange.advance()
        return self._clock(query, body)

    def _jump(self, now_ms: int) -> None:
        if now_ms - self._exchange.clock.now_ms() > MAX_STEP_MS:
            raise ValueError(f"wanted a step of at most {MAX_STEP_MS // 86_400_000} days, was to {now_ms}")
        self._exchange.clock.jump_to(now_ms)

    def _script_candles(self, listing: Listing, body: Body) -> dict[str, Any]:
        """{"candles": [[ms, open, high, low, close, volume], …]}: the symbol replays them from the first one on."""
        _only(body, ("candles",))
        rows = body.get("candles")
        if not isinstance(rows, list):
            raise ValueError("wanted candles to be a list")
        self._exchange.script(listing, parse_rows(rows))
        return {"symbol": listing.rules.symbol, "candles": len(rows), "price": self._price(listing)}

    def _pin_price(self, listing: Listing, body: Body) -> dict[str, Any]:
        """{"price": "…"} holds the price from now on; {"price": null} goes back to the source before the first pin."""
        _only(body, ("price",))
        if "price" not in body:
            raise ValueError("wanted a price, or null to let it move again")
        price = _decimal(body, "price")
        if price is not None and (price <= 0 or price % listing.rules.price_increment):
            raise ValueError(f"wanted a price in steps of {listing.rules.price_increment}, was {price}")
        self._exchange.pin(listing, price)
        return {"symbol": listing.rules.symbol, "price": self._price(listing)}

    def _price(self, listing: Listing) -> str:
        return text(listing.price_at(self._exchange.advance()))

    def _set_symbol(self, query: Query, body: Body) -> dict[str, Any]:
        """{"symbol": …, and any of priceIncrement, baseIncrement, …, minFunds, takerFee, makerFee, enableTrading}."""
        _only(body, ("symbol", "enableTrading", *_RULE_FIELDS))
        symbol = body.get("symbol")
        if not isinstance(symbol, str) or not SYMBOL_PATTERN.fullmatch(symbol):
            raise ValueError(f"wanted a symbol such as BTC-USDT, was {symbol!r}")
        changes: dict[str, Any] = {}
        for name, attribute in _RULE_FIELDS.items():
            number = _decimal(body, name)
            if number is not None:
                if number < 0 or (number == 0 and name.endswith("Increment")) or not -12 <= number.adjusted() <= 12:
                    raise ValueError(f"wanted {name} to be a plausible positive number, was {number}")
                changes[attribute] = number
        if "enableTrading" in body:
            if not isinstance(body["enableTrading"], bool):
                raise ValueError(f"wanted enableTrading to be true or false, was {body['enableTrading']!r}")
            changes["is_trading"] = body["enableTrading"]
        listing = self._exchange.market.listings.get(symbol)
        if listing is None:
            listing = self._exchange.market.add(symbol, **changes)
            self._exchange.books.note(listing)
        elif changes:
            self._exchange.change_rules(listing, replace(listing.rules, **changes))
        return listing.rules.wire()

    # -- faults -------------------------------------------------------------------------------------------------

    def _list_faults(self, query: Query, body: Body) -> dict[str, Any]:
        return {"faults": [fault.wire() for fault in self._faults.faults]}

    def _add_fault(self, query: Query, body: Body) -> dict[str, Any]:
        return self._faults.add(body).wire()

    def _clear_faults(self, query: Query, body: Body) -> dict[str, Any]:
        return {"cleared": self._faults.clear()}

    # -- the oracle ---------------------------------------------------------------------------------------------

    def _oracle(self, query: Query, body: Body) -> dict[str, Any]:
        """Everything that happened; ``?apiKey=`` for one account's part, ``?requests=n`` for the latest n requests."""
        now_ms = self._exchange.advance()
        books, wanted = self._exchange.books, query.get("apiKey")
        orders = [_order(order) for order in books.orders if wanted in (None, order.account.api_key)]
        stops = [_stop(stop) for stop in books.stops if wanted in (None, stop.account.api_key)]
        fills = [
            {**fill.wire(), "apiKey": fill.order.account.api_key, "clientOid": fill.order.request.client_oid}
            for fill in books.fills
            if wanted in (None, fill.order.account.api_key)
        ]
        deposits = [
            {
                "apiKey": deposit.account.api_key,
                "currency": deposit.currency,
                "amount": text(deposit.amount),
                "at": deposit.at_ms,
            }
            for deposit in books.deposits
            if wanted in (None, deposit.account.api_key)
        ]
        requests = [line.wire() for line in self._requests if wanted in (None, line.api_key)]
        latest = query.get("requests", "")
        if latest.isdigit():
            requests = requests[max(0, len(requests) - int(latest)) :]
        return {
            "now_ms": now_ms,
            "orders": orders,
            "stopOrders": stops,
            "fills": fills,
            "deposits": deposits,
            "balances": {account.api_key: _balances(account) for account in books.accounts_shown(wanted)},
            "requests": requests,
            "counts": {
                "orders": len(orders),
                "stopOrders": len(stops),
                "fills": len(fills),
                "requests": len(requests),
                "active": sum(order["active"] for order in orders),
            },
        }


_RULE_FIELDS = {
    "priceIncrement": "price_increment",
    "baseIncrement": "base_increment",
    "quoteIncrement": "quote_increment",
    "baseMinSize": "base_min_size",
    "baseMaxSize": "base_max_size",
    "quoteMinSize": "quote_min_size",
    "quoteMaxSize": "quote_max_size",
    "priceLimitRate": "price_limit_rate",
    "minFunds": "min_funds",
    "takerFee": "taker_fee",
    "makerFee": "maker_fee",
}


def account_set(exchange: Exchange, body: Body) -> Account:
    """Open the account that ``body`` describes, or change an existing one: {apiKey, secret, passphrase, balances,
    permissions, ipWhitelist}. Balances are set to what is given; the difference is booked as a deposit."""
    _only(body, ("apiKey", "secret", "passphrase", "balances", "permissions", "ipWhitelist"))
    for name in ("apiKey", "secret", "passphrase"):
        if not isinstance(body.get(name), str) or not body[name]:
            raise ValueError(f"wanted {name} as text")  # its value is not repeated: it may be a secret
    permissions, ip_whitelist = body.get("permissions", DEFAULT_PERMISSIONS), body.get("ipWhitelist", "")
    if not isinstance(permissions, str) or not isinstance(ip_whitelist, str):
        raise ValueError('wanted permissions and ipWhitelist as text, such as "General,Spot" and "127.0.0.1"')
    balances = body.get("balances", {})
    if not isinstance(balances, dict):
        raise ValueError(f'wanted balances such as {{"USDT": "10000"}}, was {balances!r}')
    amounts = {currency: _decimal(balances, currency) or Decimal(0) for currency in balances}
    books, now_ms, key = exchange.books, exchange.advance(), body["apiKey"]
    account = books.accounts.get(key)
    for currency, amount in amounts.items():
        if amount < (account.balance(currency).holds if account else 0):
            raise ValueError(f"wanted a balance of {currency} that covers what is held, was {amount}")
    credentials = Credentials(body["secret"], body["passphrase"])
    if account is None:
        uid = 10_000_000 + len(books.accounts)
        account = books.accounts[key] = Account(uid, key, credentials, permissions, ip_whitelist, now_ms)
    account.credentials, account.permissions, account.ip_whitelist = credentials, permissions, ip_whitelist
    books.note(account)
    for currency, amount in amounts.items():
        difference = amount - account.balance(currency).total
        if difference:
            books.deposit(account, currency, difference, now_ms)
    return account


def _balances(account: Account) -> dict[str, dict[str, str]]:
    return {currency: balance.wire() for currency, balance in account.balances.items()}


def _order(order: Order) -> dict[str, Any]:
    status = "open" if order.is_active else "canceled" if order.is_canceled else "done"
    return {**order.wire(), "apiKey": order.account.api_key, "arrivedAt": order.arrived_at_ms, "status": status}


def _stop(stop: StopOrder) -> dict[str, Any]:
    order_id = None if stop.order is None else stop.order.id
    return {**stop.wire(), "apiKey": stop.account.api_key, "arrivedAt": stop.arrived_at_ms, "orderId": order_id}


def _only(body: Body, known: Iterable[str]) -> None:
    unknown = sorted(set(body) - set(known))
    if unknown:
        raise ValueError(f"wanted fields among {', '.join(known)}, was {', '.join(unknown)}")


def _number(body: Body, name: str) -> Decimal | None:
    value = _decimal(body, name)
    if value is not None and value < 0:
        raise ValueError(f"wanted {name} not to be negative, was {value}")
    return value


def _decimal(body: Body, name: str) -> Decimal | None:
    value = body.get(name)
    if value is None:
        return None
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        number = Decimal("NaN")
    if isinstance(value, bool) or not number.is_finite():
        raise ValueError(f"wanted {name} to be a number, was {value!r}")
    if number.adjusted() > 15:
        raise ValueError(f"wanted {name} to be at most 1e15, was {value!r}")
    return number
