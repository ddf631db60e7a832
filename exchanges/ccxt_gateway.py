"""Any ccxt exchange as a ``Gateway``; the only file that imports ccxt, and lazily: it costs 1.7 s and 85 MB.

What venues do differently is data in ``VENUES``. Whether an order was refused is read from the venue's own code by a white
list, never from ccxt's exception class: a class does not tell whether the order was accepted first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from domain.market import MarketRules, OrderType, Side, to_decimal
from exchanges.credentials import Credentials
from exchanges.gateway import (
    BalanceReport,
    CandleReport,
    ExchangeUnavailable,
    FillReport,
    KeyRights,
    MarketReport,
    OrderOutcomeUnknown,
    OrderRejected,
    OrderReport,
    OrderTicket,
    QuoteReport,
    StatusReport,
    VenueStatus,
)

HTTP_TIMEOUT_MS = 10_000


@dataclass(frozen=True, slots=True)
class Venue:
    """How one ccxt exchange is set up and understood.

    ``rejected`` and ``refused_key`` are codes (or code and message) after which the order certainly does not exist;
    ``not_looked_at`` are refusals after which the very same order may be sent again. All else is an unknown outcome.
    ``is_answer`` tells an answer of the venue's from a proxy's page, which ccxt would read as "there is nothing".
    ``fills_before`` asks for the page of fills that are older than those of the page it is given.
    """

    options: dict[str, Any]
    order_params: Callable[[OrderTicket], dict[str, Any]]
    path_prefixes: dict[str, str]
    rejected: frozenset[str]
    refused_key: frozenset[str]
    not_looked_at: frozenset[str]
    is_answer: Callable[[Any], bool]
    fills_page: int
    fills_before: Callable[[Sequence[dict[str, Any]]], dict[str, Any]]


def _kucoin_order_params(ticket: OrderTicket) -> dict[str, Any]:
    params: dict[str, Any] = {
        "clientOid": ticket.client_order_id,
        # The venue refuses the request when it arrives later than this: what makes "not found" mean "not placed".
        "clientTimestamp": int(ticket.sent_at.timestamp() * 1000),
        "allowMaxTimeWindow": ticket.window_ms,
    }
    if ticket.stop_price is not None:
        params["stopLossPrice"] = str(ticket.stop_price)
    return params


def _is_kucoin_answer(answer: Any) -> bool:
    return isinstance(answer, dict) and answer.get("data") is not None


def _kucoin_fills_before(page: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"lastId": min(int(row["info"]["id"]) for row in page)}


VENUES: dict[str, Venue] = {
    "kucoin": Venue(
        # Explicit hf and uta: with injected markets ccxt would not find out, and would use the deprecated order path,
        # on which a finished order cannot be looked up by our id.
        options={"hf": True, "uta": False, "fetchMarkets": {"types": ["spot"], "fetchTickersFees": True}},
        order_params=_kucoin_order_params,
        path_prefixes={"futuresPublic": "/_futures", "futuresPrivate": "/_futures"},
        rejected=frozenset(
            {
                "200001",
                "200003",
                "200004",
                "210021",
                "230003",
                "260100",
                "600100",
                "600101",
                "600203",
                "300000",
                "300003",
                "300012",
                "400200",
                "400350",
                "400370",
                "400760",
                "400400",
                "400500",
                "400600",
                "400303",
                "101030",
                "112010",
                "900001",
                "404000",
                "400000",
                # 400100 alone is no proof: the same code says "this client order id is already live".
                "400100:account.available.amount",
                "400100:Order size below the minimum requirement.",
                "400100:The quantity is below the minimum requirement.",
            }
        ),  # fmt: skip
        refused_key=frozenset({"400001", "400003", "400004", "400005", "400006", "400007", "400401", "411100"}),
        not_looked_at=frozenset({"400002", "429000", "429"}),
        is_answer=_is_kucoin_answer,
        fills_page=100,
        fills_before=_kucoin_fills_before,
    )
}


@cache
def ccxt_load() -> Any:
    """The ccxt package; the first call in a process pays for the import."""
    import ccxt  # noqa: PLC0415  # 1.7 s and 85 MB, only where a venue is really called

    return ccxt


@cache
def ccxt_pro_load() -> Any:
    """ccxt with its streams, for the process that listens to them."""
    import ccxt.pro  # noqa: PLC0415  # 3 s and 116 MB, only where a venue is listened to

    return ccxt.pro


class CcxtGateway:
    """One account (or nobody) at one venue through ccxt. Not thread-safe: each thread opens its own."""

    def __init__(self, ccxt_id: str, base_url: str = "", credentials: Credentials | None = None) -> None:
        if ccxt_id not in VENUES:
            raise ValueError(f"wanted one of {sorted(VENUES)}, was {ccxt_id!r}")
        self._traits = VENUES[ccxt_id]
        self._known: dict[str, dict[str, Any]] = {}
        config: dict[str, Any] = {
            "timeout": HTTP_TIMEOUT_MS,
            # ccxt's limiter sleeps inside the call and knows one process only; a venue of our own needs none.
            "enableRateLimit": not base_url,
            "options": {**self._traits.options, "maxRetriesOnFailure": 0},
        }
        if credentials is not None:
            config |= {"apiKey": credentials.api_key, "secret": credentials.secret, "password": credentials.passphrase}
        self._venue = getattr(ccxt_load(), ccxt_id)(config)
        self._venue.number = str  # exact: ccxt would make floats of all money
        # A redirect would carry signed headers to wherever it points.
        self._venue.session.max_redirects = 0
        # Empty, not unknown: ccxt would read all markets, by five requests, before the first balance.
        self._venue.set_markets([])
        self._is_sent = False
        self._fetch, self._venue.fetch = self._venue.fetch, self._fetch_answer
        if base_url:
            self._point_at(base_url.rstrip("/"))

    def know(self, infos: Iterable[tuple[str, dict[str, Any]]]) -> None:
        """Take markets read earlier, so that the first order is the first request."""
        fresh = {symbol: info for symbol, info in infos if self._known.get(symbol) != info}
        if fresh:
            self._known |= fresh
            self._venue.set_markets(list(self._known.values()))

    def time(self) -> datetime:
        with self._reading():
            return _time(self._venue.fetch_time())

    def markets(self) -> list[MarketReport]:
        # Asked without keys: with keys ccxt adds six requests about the account.
        keys = self._venue.apiKey, self._venue.secret
        self._venue.apiKey = self._venue.secret = None
        try:
            with self._reading():
                rows = self._venue.fetch_markets()
                reports = [_market_report(row) for row in rows if row.get("spot") or row.get("linear")]
        finally:
            self._venue.apiKey, self._venue.secret = keys
        if not reports:
            raise ExchangeUnavailable("wanted markets, was an empty list")
        return reports

    def quotes(self, symbols: Sequence[str]) -> list[QuoteReport]:
        known = [symbol for symbol in symbols if symbol in self._known]
        if not known:
            return []
        with self._reading():
            return [
                QuoteReport(symbol, *(to_decimal(ticker[name]) for name in ("bid", "ask", "last")))
                for symbol, ticker in self._venue.fetch_tickers(known).items()
                if all(ticker.get(name) is not None for name in ("bid", "ask", "last"))
            ]

    def candles(self, symbol: str, timeframe: str, since: datetime, limit: int) -> list[CandleReport]:
        with self._reading():
            rows = self._venue.fetch_ohlcv(symbol, timeframe, int(since.timestamp() * 1000), limit)
            return [CandleReport(_time(row[0]), *(to_decimal(value) for value in row[1:6])) for row in rows]

    def balances(self) -> list[BalanceReport]:
        with self._reading():
            answer = self._venue.fetch_balance()
            return [
                BalanceReport(currency, to_decimal(total), to_decimal(answer["free"][currency]))
                for currency, total in answer["total"].items()
            ]

    def order_create(self, ticket: OrderTicket) -> str:
        arguments = (
            ticket.symbol,
            "market" if ticket.order_type is OrderType.MARKET else "limit",
            ticket.side.value.lower(),
            str(ticket.quantity),
            None if ticket.price is None else str(ticket.price),
            self._traits.order_params(ticket),
        )
        self._forget_last()
        try:
            order = self._venue.create_order(*arguments)
        except Exception as error:
            raise self._create_failure(error) from error
        if not order.get("id"):
            raise OrderOutcomeUnknown("the venue answered without an order id")
        return str(order["id"])

    def order_find(self, symbol: str, client_order_id: str) -> OrderReport | None:
        try:
            with self._reading():
                order = self._venue.fetch_order(None, symbol, {"clientOid": client_order_id})
                return _order_report(order, client_order_id)
        except _NotFound:
            return None

    def order_get(self, symbol: str, exchange_order_id: str) -> OrderReport | None:
        try:
            with self._reading():
                order = self._venue.fetch_order(exchange_order_id, symbol)
                return _order_report(order, str(order.get("clientOrderId") or ""))
        except _NotFound:
            return None

    def orders_open(self, symbol: str) -> list[OrderReport]:
        with self._reading():
            rows = self._venue.fetch_open_orders(symbol)
            return [_order_report(row, str(row.get("clientOrderId") or "")) for row in rows]

    def orders_done(self, symbol: str, since: datetime) -> list[OrderReport]:
        with self._reading():
            rows = self._paged(self._venue.fetch_closed_orders, symbol, since)
            return [_order_report(row, str(row.get("clientOrderId") or "")) for row in rows]

    def symbols_open(self) -> list[str] | None:
        with self._reading():
            answer = self._venue.privateGetHfOrdersActiveSymbols()
            return [self._venue.safe_symbol(row) for row in answer["data"]["symbols"]]

    def fills_since(self, symbol: str, since: datetime) -> list[FillReport]:
        with self._reading():
            rows = self._paged(self._venue.fetch_my_trades, symbol, since)
            return [_fill_report(row, symbol, str(row["order"])) for row in rows]

    def status(self) -> StatusReport:
        with self._reading():
            answer = self._venue.fetch_status()["info"]["data"]
        known = {"open": VenueStatus.OPEN, "cancelonly": VenueStatus.CANCEL_ONLY}
        return StatusReport(known.get(answer["status"], VenueStatus.CLOSED), str(answer.get("msg") or ""))

    def key_rights(self) -> KeyRights:
        with self._reading():
            answer = self._venue.privateGetUserApiKey()["data"]
        rights = {right.strip() for right in str(answer.get("permission") or "").split(",")}
        return KeyRights("Spot" in rights, "Transfer" in rights, bool(answer.get("ipWhitelist")))

    def _paged(self, fetch: Callable[..., Any], symbol: str, since: datetime) -> list[dict[str, Any]]:
        """Every row from ``since`` on, oldest first: windows of a week, each read page by page from its end."""
        rows: dict[str, dict[str, Any]] = {}
        start, week = int(since.timestamp() * 1000), 7 * 86_400_000
        now = self._venue.fetch_time()
        while start <= now:
            params: dict[str, Any] = {"limit": self._traits.fills_page, "endAt": min(start + week, now + 60_000)}
            while True:
                page = fetch(symbol, start, None, params)
                is_last = len(page) < self._traits.fills_page or all(str(row["id"]) in rows for row in page)
                rows |= {str(row["id"]): row for row in page}
                if is_last:
                    break
                params = {**params, "lastId": self._venue.last_json_response["data"]["lastId"]}
            start += week
        return sorted(rows.values(), key=lambda row: int(row["timestamp"]))

    def order_cancel(self, symbol: str, exchange_order_id: str) -> None:
        try:
            with self._reading():
                self._venue.cancel_order(exchange_order_id, symbol)
        except _NotFound:
            return  # already done, or never there: the look-up that follows tells which

    def order_fills(self, symbol: str, exchange_order_id: str) -> list[FillReport]:
        fills: dict[str, FillReport] = {}
        params = {"limit": self._traits.fills_page}
        while True:
            with self._reading():
                page = self._venue.fetch_order_trades(exchange_order_id, symbol, None, None, params)
                older = {str(row["id"]): _fill_report(row, symbol, exchange_order_id) for row in page}
                is_last = len(page) < self._traits.fills_page or older.keys() <= fills.keys()
                fills = {**older, **fills}
                if is_last:
                    return list(fills.values())
                params = {"limit": self._traits.fills_page, **self._traits.fills_before(page)}

    def _point_at(self, base_url: str) -> None:
        prefixes = self._traits.path_prefixes
        self._venue.urls["api"] = {name: base_url + prefixes.get(name, "") for name in self._venue.urls["api"]}
        ours = urlsplit(base_url).netloc
        strays = [url for url in self._venue.urls["api"].values() if urlsplit(url).netloc != ours]
        if strays:
            raise ValueError(f"wanted every address to be {base_url}, was {strays}")

    def _fetch_answer(self, url: str, method: str = "GET", headers: Any = None, body: Any = None) -> Any:
        self._is_sent = True
        answer = self._fetch(url, method, headers, body)
        if not self._traits.is_answer(answer):
            raise ccxt_load().BadResponse(f"wanted the venue's answer, was {str(answer)[:60]!r}")
        return answer

    def _forget_last(self) -> None:
        self._is_sent, self._venue.last_http_response = False, None

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Turn whatever goes wrong with a read into ExchangeUnavailable."""
        errors = ccxt_load()
        self._forget_last()
        try:
            yield
        except errors.OrderNotFound as error:
            raise _NotFound(_brief(error)) from error
        except errors.BaseError as error:
            raise ExchangeUnavailable(_brief(error), is_refused_key=self._is_refused_key(error)) from error
        except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise ExchangeUnavailable(f"the venue's answer made no sense ({type(error).__name__})") from error

    def _is_refused_key(self, error: Exception) -> bool:
        """The venue's own word counts; a proxy's HTTP 401 says nothing about keys. Keys that ccxt finds incomplete never
        get as far as the venue."""
        if not self._is_sent:
            return isinstance(error, ccxt_load().AuthenticationError)
        return _code_of(self._venue.last_http_response or "")[0] in self._traits.refused_key

    def _create_failure(self, error: Exception) -> Exception:
        is_refused_key = self._is_refused_key(error)
        if not self._is_sent:
            return OrderRejected(_brief(error), code="LOCAL", is_refused_key=is_refused_key)
        code, message = _code_of(self._venue.last_http_response or "")
        names = {code, f"{code}:{message}"}
        if names & self._traits.not_looked_at:
            return ExchangeUnavailable(_brief(error))
        if is_refused_key or names & self._traits.rejected:
            return OrderRejected(_brief(error), code=code, is_refused_key=is_refused_key)
        return OrderOutcomeUnknown(_brief(error))


class _NotFound(ExchangeUnavailable):
    """The venue knows no such order."""


def _market_report(row: dict[str, Any]) -> MarketReport:
    precision, limits, info = row["precision"], row["limits"], row.get("info") or {}
    return MarketReport(
        rules=MarketRules(
            symbol=row["symbol"],
            base=row["base"],
            quote=row["quote"],
            tick_size=to_decimal(precision["price"]),
            lot_size=to_decimal(precision["amount"]),
            min_quantity=to_decimal(limits["amount"]["min"] or 0),
            max_quantity=_decimal_or_none(limits["amount"]["max"]),
            # ccxt leaves KuCoin's minFunds out of its limits; it is in the raw row.
            min_notional=max(to_decimal(limits["cost"]["min"] or 0), to_decimal(info.get("minFunds") or 0)),
            contract_size=to_decimal(row.get("contractSize") or 1),
            maker_fee=to_decimal(row.get("maker") or 0),
            taker_fee=to_decimal(row.get("taker") or 0),
        ),
        kind="SPOT" if row.get("spot") else "LINEAR_FUTURE",
        is_active=bool(row.get("active", True)),
        venue_info=json.loads(json.dumps(row, default=str)),
    )


def _order_report(row: dict[str, Any], client_order_id: str) -> OrderReport:
    # An empty answer looks like an order without figures; without id or status it is none.
    if not row.get("id") or row.get("status") is None or row.get("clientOrderId") not in (None, client_order_id):
        raise ExchangeUnavailable("the venue answered a look-up with something that is not the order")
    return OrderReport(
        exchange_order_id=str(row["id"]),
        client_order_id=client_order_id,
        symbol=str(row["symbol"]),
        side=Side(str(row["side"]).upper()),
        quantity=_decimal_or_none(row.get("amount")),
        filled=to_decimal(row.get("filled") or 0),
        filled_quote=to_decimal(row.get("cost") or 0),
        is_open=row["status"] == "open",
        is_canceled=row["status"] in {"canceled", "cancelled", "expired", "rejected"},
        order_type=OrderType.LIMIT if row.get("type") == "limit" else OrderType.MARKET,
        price=_decimal_or_none(row.get("price")) if row.get("type") == "limit" else None,
        created_at=None if row.get("timestamp") is None else _time(row["timestamp"]),
    )


def _fill_report(row: dict[str, Any], symbol: str, exchange_order_id: str) -> FillReport:
    fee = row.get("fee") or {}
    return FillReport(
        trade_id=str(row["id"]),
        exchange_order_id=exchange_order_id,
        symbol=symbol,
        side=Side(str(row["side"]).upper()),
        quantity=to_decimal(row["amount"]),
        price=to_decimal(row["price"]),
        fee=to_decimal(fee.get("cost") or 0),
        fee_currency=str(fee.get("currency") or ""),
        filled_at=_time(row["timestamp"]),
    )


def _code_of(body: str) -> tuple[str, str]:
    try:
        answer = json.loads(body)
    except ValueError:
        return "", ""
    if not isinstance(answer, dict):
        return "", ""
    return str(answer.get("code", "")), str(answer.get("msg", ""))


def _time(milliseconds: Any) -> datetime:
    return datetime.fromtimestamp(int(milliseconds) / 1000, tz=UTC)


def _decimal_or_none(value: Any) -> Decimal | None:
    return None if value is None else to_decimal(value)


def _brief(error: Exception) -> str:
    # Short, and without the URL's query: it may end up in a log or a row, where PostgreSQL takes no NUL.
    text = "".join(char if char.isprintable() else " " for char in str(error).split("?")[0])
    return f"{type(error).__name__}: {text[:160]}"
