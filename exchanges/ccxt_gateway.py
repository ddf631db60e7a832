"""Any ccxt exchange as a ``Gateway``; the only file that imports ccxt, and lazily: it costs 1.7 s and 85 MB.

What venues do differently is data in ``exchanges.venues``; what ccxt's rows mean is in ``exchanges.ccxt_reports``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from domain.market import MarginMode, OrderType, to_decimal
from exchanges.ccxt_contracts import funding_age, funding_rates, funding_report, position_report
from exchanges.ccxt_reports import (
    fill_age,
    fill_report,
    market_report,
    markets_add,
    order_age,
    order_report,
    time_at,
    trade_age,
    trade_report,
)
from exchanges.ccxt_stops import BECOMES_WITHIN, StopShown
from exchanges.credentials import Credentials
from exchanges.gateway import (
    BalanceReport,
    CandleReport,
    ExchangeUnavailable,
    FillReport,
    FundingRateReport,
    FundingReport,
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
from exchanges.paging import Row, Walk
from exchanges.venues import VENUES, venue_of

HTTP_TIMEOUT_MS = 10_000

# Where a venue refuses for its rate limit and does not say until when.
RATE_LIMIT_PAUSE = timedelta(seconds=10)
# A venue that cannot be asked by our id is searched for an order so far back: longer than any outcome stays unknown.
SEARCH_BACK = timedelta(days=7)
# Whatever a header says, somebody looks again after this.
LONGEST_RETRY_AFTER = timedelta(hours=1)
# A Date header is cut to the second: on average half of one has passed.
DATE_GRAIN_MS = 1000


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


def is_ccxt_exchange(ccxt_id: str) -> bool:
    """Whether ccxt speaks to ``ccxt_id``; loads ccxt only for a venue that nobody has described."""
    return ccxt_id in VENUES or ccxt_id in ccxt_load().exchanges


class CcxtGateway:
    """One account (or nobody) at one venue through ccxt. Not thread-safe: each thread opens its own."""

    def __init__(self, ccxt_id: str, base_url: str = "", credentials: Credentials | None = None) -> None:
        if not is_ccxt_exchange(ccxt_id):
            raise ValueError(f"wanted an exchange that ccxt speaks to, was {ccxt_id!r}")
        self._traits = venue_of(ccxt_id)
        self._credentials = credentials or Credentials("", "")
        self._known: dict[str, dict[str, Any]] = {}
        config: dict[str, Any] = {
            "timeout": HTTP_TIMEOUT_MS,
            # ccxt's limiter sleeps inside the call and knows one process only; a venue of our own needs none.
            "enableRateLimit": not base_url,
            # The difference of the clocks is learned from a refusal: a simulator's time is not the world's.
            "options": {**self._traits.options, "maxRetriesOnFailure": 0, "adjustForTimeDifference": False},
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
        self._asked_ms = 0
        self._answer: Any = None
        self._fetch, self._venue.fetch = self._venue.fetch, self._fetch_answer
        self._is_elsewhere = bool(base_url)
        if base_url:
            self._point_at(base_url.rstrip("/"))

    @property
    def refuses_late_requests(self) -> bool:
        return self._traits.refuses_late_requests

    @property
    def refuses_late_stops(self) -> bool:
        return self._traits.stops is not None and self._traits.stops.refuses_late_requests

    def know(self, infos: Iterable[tuple[str, dict[str, Any]]]) -> None:
        """Take markets read earlier, so that the first order is the first request."""
        fresh = {symbol: info for symbol, info in infos if self._known.get(symbol) != info}
        if not fresh:
            return
        ids = {info["id"] for info in fresh.values()}
        is_new = self._known.keys().isdisjoint(fresh) and ids.isdisjoint(self._venue.markets_by_id)
        self._known |= fresh
        if not is_new:
            self._venue.set_markets(list(self._known.values()))
            return
        markets_add(self._venue, list(fresh.values()))

    # -- the venue ------------------------------------------------------------------------------------------------------

    def time(self) -> datetime:
        with self._reading():
            return time_at(self._time_ms())

    def status(self) -> StatusReport:
        with self._reading():
            return self._traits.status(self._venue)

    def key_rights(self) -> KeyRights:
        with self._reading():
            return self._traits.key_rights(self._venue)

    def markets(self) -> list[MarketReport]:
        errors = ccxt_load()
        if self._venue.precisionMode == errors.SIGNIFICANT_DIGITS:
            raise ExchangeUnavailable(
                f"wanted prices in steps, {self._venue.id} has significant digits: it has no tick"
            )
        is_in_places = self._venue.precisionMode == errors.DECIMAL_PLACES
        # Asked without keys: with keys ccxt adds six requests about the account.
        keys = self._venue.apiKey, self._venue.secret
        self._venue.apiKey = self._venue.secret = None
        try:
            with self._reading():
                rows = [row for row in self._venue.fetch_markets() if row.get("spot") or row.get("linear")]
                # What says no step cannot be ordered exactly.
                exact = [row for row in rows if None not in (row["precision"]["price"], row["precision"]["amount"])]
                reports = [market_report(row, is_in_places) for row in exact]
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
            rows = self._candle_rows(symbol, timeframe, _ms(since), limit)
            return [CandleReport(time_at(row[0]), *(to_decimal(value) for value in row[1:6])) for row in rows]

    def trades_since(self, symbol: str, since: datetime, limit: int) -> list[TradeReport]:
        with self._reading():
            params = {"until": self._now_ms()} if self._traits.bounds_trades else {}
            rows = self._venue.fetch_trades(symbol, _ms(since), limit, params)
            reports = [trade_report(row) for row in rows]
            return sorted((report for report in reports if report.at >= since), key=trade_age)[:limit]

    def funding_rates_since(self, symbol: str, since: datetime, limit: int) -> list[FundingRateReport]:
        if not self._known.get(symbol, {}).get("contract"):
            return []
        with self._reading():
            rates = funding_rates(self._venue, symbol, _ms(since), limit, self._now_ms())
            return [rate for rate in rates if rate.at >= since][:limit]

    def balances(self) -> list[BalanceReport]:
        with self._reading():
            return self._traits.balances(self._venue)

    def positions(self) -> list[PositionReport]:
        if not any(info.get("contract") for info in self._known.values()):
            return []
        with self._reading():
            found = [position_report(row) for row in self._venue.fetch_positions()]
            return [report for report in found if report is not None]

    def fundings_since(self, symbol: str, since: datetime) -> list[FundingReport]:
        if not self._known.get(symbol, {}).get("contract"):
            return []
        with self._reading():
            rows = self._history("fetchFundingHistory", symbol, since, self._traits.fundings)
            reports = [funding_report(row) for row in rows]
            return sorted((report for report in reports if report.paid_at >= since), key=funding_age)

    # -- orders ---------------------------------------------------------------------------------------------------------

    def order_create(self, ticket: OrderTicket) -> str:
        is_stop = ticket.stop_price is not None
        is_market = ticket.price is None if is_stop else ticket.order_type is OrderType.MARKET
        self._forget_last()
        try:
            self._require_leverage(ticket)
            params = self._order_params(ticket)
            with self._stamped(ticket):
                order = self._venue.create_order(
                    ticket.symbol,
                    "market" if is_market else "limit",
                    ticket.side.value.lower(),
                    self._traits.amount(ticket.quantity),
                    None if ticket.price is None else str(ticket.price),
                    params,
                )
        except OrderRejected:
            raise
        except Exception as error:
            raise self._create_failure(error) from error
        if not order.get("id"):
            raise OrderOutcomeUnknown("the venue answered without an order id")
        return str(order["id"])

    def margin_match(self, symbol: str, mode: MarginMode, leverage: Decimal) -> None:
        if self._traits.margin is not None:
            with self._reading():
                self._traits.margin(self._venue, symbol, mode, leverage)

    def order_find(self, symbol: str, client_order_id: str) -> OrderReport | None:
        try:
            with self._reading():
                if not (self._traits.finds_by_client_id or self._venue.has.get("fetchOrderWithClientOrderId")):
                    return self._searched(symbol, client_order_id)
                order = self._venue.fetch_order(None, symbol, {"clientOrderId": client_order_id})
                return order_report(order, client_order_id)
        except _NotFound:
            return None

    def order_get(self, symbol: str, exchange_order_id: str) -> OrderReport | None:
        try:
            with self._reading():
                report = order_report(self._venue.fetch_order(exchange_order_id, symbol))
        except _NotFound:
            return None
        if report.exchange_order_id != exchange_order_id:
            raise ExchangeUnavailable("the venue answered a look-up with something that is not the order")
        return report

    def orders_open(self, symbol: str) -> list[OrderReport]:
        with self._reading():
            rows = self._venue.fetch_open_orders(symbol, params={**self._traits.open_params})
            reports = [order_report(row) for row in rows]
            return sorted((report for report in reports if report.is_open), key=order_age)

    def orders_done(self, symbol: str, since: datetime) -> list[OrderReport]:
        with self._reading():
            reports = [order_report(row) for row in self._rows_done(symbol, since)]
            # Venues cut such a list by the time an order was done, or made: later than ``since`` in both cases.
            done = [report for report in reports if not report.is_open and order_age(report)[0] >= since]
            return sorted(done, key=order_age)

    def symbols_open(self) -> list[str] | None:
        with self._reading():
            return self._traits.symbols_open(self._venue)

    def fills_since(self, symbol: str, since: datetime) -> list[FillReport]:
        with self._reading():
            reports = [fill_report(row, symbol) for row in self._history("fetchMyTrades", symbol, since)]
            return sorted((report for report in reports if report.filled_at >= since), key=fill_age)

    def order_cancel(self, symbol: str, exchange_order_id: str) -> None:
        try:
            with self._reading():
                self._venue.cancel_order(exchange_order_id, symbol)
        except _NotFound:
            return  # already done, or never there: the look-up that follows tells which

    def order_fills(self, symbol: str, exchange_order_id: str) -> list[FillReport]:
        with self._reading():
            rows = self._rows_of_order(symbol, exchange_order_id)
            reports = [fill_report({**row, "order": exchange_order_id}, symbol) for row in rows]
            return sorted(reports, key=fill_age)

    # -- stop orders ----------------------------------------------------------------------------------------------------

    def stop_find(self, symbol: str, client_order_id: str) -> OrderReport | None:
        shown = self._stop_shown(symbol, client_order_id)
        if shown is not None and shown.met_at is None:
            return shown.report
        # Asked second: what waited at the first question and does no more is found by this one.
        report = self.order_find(symbol, client_order_id)
        if report is None and shown is not None and shown.met_at is not None:
            with self._reading():
                if time_at(self._time_ms()) < shown.met_at + BECOMES_WITHIN:
                    raise ExchangeUnavailable("the stop price was met, and the order is not shown yet", is_answer=True)
        return report

    def stops_open(self, symbol: str) -> list[OrderReport]:
        if self._traits.stops is None:
            return []
        with self._reading():
            return self._traits.stops.waiting(self._venue, symbol)

    def stop_cancel(self, symbol: str, exchange_order_id: str) -> bool:
        if self._traits.stops is None:
            return False
        try:
            with self._reading():
                return self._traits.stops.cancel(self._venue, symbol, exchange_order_id)
        except _NotFound:
            return False  # its price was met, or it is gone: the look-up that follows tells which

    def _stop_shown(self, symbol: str, client_order_id: str) -> StopShown | None:
        if self._traits.stops is None:
            return None
        try:
            with self._reading():
                return self._traits.stops.find(self._venue, symbol, client_order_id)
        except _NotFound:
            return None

    def _order_params(self, ticket: OrderTicket) -> dict[str, Any]:
        if ticket.stop_price is None:
            return self._traits.order_params(ticket, self._sent_ms(ticket))
        if self._traits.stops is None:
            # Where nobody has written down how: our look-up might not find it, and "not found" would read "not placed".
            raise OrderRejected("wanted an order without a stop price: it could not be looked up", code="LOCAL")
        if ticket.trigger is None:
            raise OrderRejected("wanted the side from which the stop price is met, was nothing", code="LOCAL")
        return self._traits.stops.order_params(ticket)

    # -- long lists -----------------------------------------------------------------------------------------------------

    def _history(self, call: str, symbol: str, since: datetime, walk: Walk | None = None) -> list[Row]:
        fetch: Callable[..., list[Row]] = getattr(self._venue, call)

        def page(since_ms: int | None, params: dict[str, Any]) -> tuple[list[Row], Any]:
            return fetch(symbol, since_ms, None, params), self._answer

        return (walk or self._traits.history)(page, _ms(since), self._now_ms())

    def _candle_rows(self, symbol: str, timeframe: str, since_ms: int, limit: int) -> list[Any]:
        """As many requests as a venue wants for so many candles, up to its present."""
        most = self._traits.candles_at_most or limit
        rows: list[Any] = self._venue.fetch_ohlcv(symbol, timeframe, since_ms, min(most, limit))
        length_ms = self._venue.parse_timeframe(timeframe) * 1000
        now_ms = 0 if limit <= most else self._now_ms()
        for done in range(most, limit, most):
            start_ms = since_ms + done * length_ms
            if start_ms > now_ms:
                break
            rows += self._venue.fetch_ohlcv(symbol, timeframe, start_ms, min(most, limit - done))
        return rows

    def _rows_done(self, symbol: str, since: datetime) -> list[Row]:
        return [row for call in self._done_lists() for row in self._history(call, symbol, since)]

    def _done_lists(self) -> tuple[str, ...]:
        has = self._venue.has
        together = ("fetchClosedOrders", "fetchCanceledOrders")
        choices = (("fetchCanceledAndClosedOrders",), ("fetchOrders",), together, ("fetchClosedOrders",))
        found = next((calls for calls in choices if all(has.get(call) for call in calls)), ())
        if not (self._traits.done_lists or found):
            raise ccxt_load().NotSupported(f"{self._venue.id} does not list orders that are done")
        return self._traits.done_lists or found

    def _searched(self, symbol: str, client_order_id: str) -> OrderReport | None:
        """The order among those that are open and those that are done. Open ones first: an order moves that way only."""
        rows = self._venue.fetch_open_orders(symbol)
        rows += self._rows_done(symbol, time_at(self._time_ms()) - SEARCH_BACK)
        for row in rows:
            if row.get("clientOrderId") == client_order_id:
                return order_report(row, client_order_id)
        if any(not row.get("clientOrderId") for row in rows):
            raise ExchangeUnavailable("the venue lists orders without their sender's id: one of them may be this one")
        return None

    def _rows_of_order(self, symbol: str, exchange_order_id: str) -> list[Row]:
        rows = self._rows_by_order(symbol, exchange_order_id)
        if rows is not None:
            return rows
        made_at = time_at(self._venue.fetch_order(exchange_order_id, symbol)["timestamp"])
        fills = self._history("fetchMyTrades", symbol, made_at)
        return [row for row in fills if str(row["order"]) == exchange_order_id]

    def _rows_by_order(self, symbol: str, exchange_order_id: str) -> list[Row] | None:
        """Page by page what the venue shows of this order alone; None where that may not be all of it."""
        size, following = self._traits.fills_page, self._traits.fills_next
        rows: dict[str, Row] = {}
        params: dict[str, Any] = {self._traits.page_size: size}
        while following is not None:
            page = self._venue.fetch_order_trades(exchange_order_id, symbol, None, None, params)
            is_news = any(str(row["id"]) not in rows for row in page)
            rows |= {str(row["id"]): row for row in page}
            if len(page) < size:
                return list(rows.values())
            if not is_news:
                break
            params = {**params, **following(page)}
        return None

    # -- talking to the venue -------------------------------------------------------------------------------------------

    def _now_ms(self) -> int:
        # A real venue lives in our time, to the day; a simulator has to be asked for its own.
        return self._time_ms() if self._is_elsewhere else int(self._venue.milliseconds())

    def _time_ms(self) -> int:
        has_clock = self._venue.has.get("fetchTime")
        return int(self._venue.fetch_time() if has_clock else self._venue.milliseconds())

    def _point_at(self, base_url: str) -> None:
        ours = urlsplit(base_url).netloc
        strays: list[str] = []

        def moved(urls: Any, prefix: str = "") -> Any:
            if isinstance(urls, dict):
                return {name: moved(url, self._traits.path_prefixes.get(name, prefix)) for name, url in urls.items()}
            url = base_url + prefix + urlsplit(urls).path
            strays.extend([url] if urlsplit(url).netloc != ours else [])
            return url

        self._venue.urls["api"] = moved(self._venue.urls["api"])
        if strays:
            raise ValueError(f"wanted every address to be {base_url}, was {strays}")

    def _require_leverage(self, ticket: OrderTicket) -> None:
        limits = self._known.get(ticket.symbol, {}).get("limits") or {}
        most = (limits.get("leverage") or {}).get("max")
        if most is not None and ticket.leverage > to_decimal(most):
            raise ValueError(f"wanted a leverage of at most {most}, was {ticket.leverage}")

    def _sent_ms(self, ticket: OrderTicket) -> int:
        return _ms(ticket.sent_at) - self._clock_difference_ms

    @contextmanager
    def _stamped(self, ticket: OrderTicket) -> Iterator[None]:
        """Sign what is sent meanwhile with the time of the ticket's claim, where that is the venue's only deadline."""
        if self._traits.is_signed_at_claim:
            self._venue.nonce = lambda: self._sent_ms(ticket)
        try:
            yield
        finally:
            self._venue.__dict__.pop("nonce", None)

    def _fetch_answer(self, url: str, method: str = "GET", headers: Any = None, body: Any = None) -> Any:
        self._is_sent, self._asked_ms = True, self._venue.milliseconds()
        answer = self._fetch(url, method, headers, body)
        if not self._traits.is_answer(answer):
            raise ccxt_load().BadResponse(f"wanted the venue's answer, was {str(answer)[:60]!r}")
        self._answer = answer
        return answer

    def _forget_last(self) -> None:
        self._is_sent, self._venue.last_http_response, self._venue.last_response_headers = False, None, None

    # -- failing --------------------------------------------------------------------------------------------------------

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Turn whatever goes wrong with a read into ExchangeUnavailable."""
        errors = ccxt_load()
        self._forget_last()
        try:
            yield
        except errors.BaseError as error:
            if self._says_not_found(error):
                raise _NotFound(self._brief(error), is_answer=True) from error
            raise self._unavailable(error, is_refused_key=self._is_refused_key(error)) from error
        except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise ExchangeUnavailable(f"the venue's answer made no sense ({type(error).__name__})") from error

    def _says_not_found(self, error: Exception) -> bool:
        # ccxt's word counts where nobody has written down the venue's own.
        if self._traits.not_found:
            return bool(self._codes() & self._traits.not_found)
        return isinstance(error, ccxt_load().OrderNotFound)

    def _create_failure(self, error: Exception) -> Exception:
        is_refused_key = self._is_refused_key(error)
        if not self._is_sent:
            return OrderRejected(self._brief(error), code="LOCAL", is_refused_key=is_refused_key)
        codes = self._codes()
        if codes & self._traits.not_looked_at:
            return self._unavailable(error)
        if is_refused_key or codes & self._traits.rejected:
            return OrderRejected(
                self._brief(error), code=min(codes, key=len), is_refused_key=is_refused_key,
                is_other_margin=bool(codes & self._traits.other_margin),
            )  # fmt: skip
        return OrderOutcomeUnknown(self._brief(error))

    def _codes(self) -> set[str]:
        """The venue's own code, alone and with its message; empty when it gave none."""
        code, message = _code_of(self._venue.last_http_response or "")
        return {code, f"{code}:{message}"} if code else set()

    def _is_refused_key(self, error: Exception) -> bool:
        """The venue's own word counts; a proxy's HTTP 401 says nothing about keys. Keys that ccxt finds incomplete never
        get as far as the venue."""
        if not self._is_sent:
            return isinstance(error, ccxt_load().AuthenticationError)
        return bool(self._codes() & self._traits.refused_key)

    def _unavailable(self, error: Exception, *, is_refused_key: bool = False) -> ExchangeUnavailable:
        errors = ccxt_load()
        message, retry_after = self._brief(error), None
        if isinstance(error, errors.InvalidNonce) and self._is_sent:
            message += self._learn_clock()
        if isinstance(error, errors.RateLimitExceeded | errors.DDoSProtection):
            said = self._retry_after()
            retry_after = RATE_LIMIT_PAUSE if said is None else said
        spoken = errors.ExchangeError | errors.InvalidNonce | errors.RateLimitExceeded | errors.DDoSProtection
        return ExchangeUnavailable(
            message,
            is_refused_key=is_refused_key,
            is_answer=self._is_sent and bool(self._codes()) and isinstance(error, spoken),
            retry_after=retry_after,
        )

    def _brief(self, error: Exception) -> str:
        # Short, and without the URL's query: it may end up in a log or a row, where PostgreSQL takes no NUL. The error
        # itself is changed too, since a traceback shows causes.
        error.args = tuple(self._credentials.hide(str(arg)) for arg in error.args)
        text = "".join(char if char.isprintable() else " " for char in str(error).split("?")[0])
        return f"{type(error).__name__}: {text[:160]}"

    def _retry_after(self) -> timedelta | None:
        headers = self._venue.last_response_headers or {}
        for name, unit in self._traits.retry_headers.items():
            value = str(headers.get(name, ""))
            if value.isascii() and value.isdecimal() and len(value) < 10:
                return min(int(value) * unit, LONGEST_RETRY_AFTER)
        return None

    @property
    def _clock_difference_ms(self) -> int:
        """How far our clock is ahead of the venue's, as far as we were told."""
        return int(self._venue.options.get("timeDifference") or 0)

    def _learn_clock(self) -> str:
        """Take the difference of the clocks from the answer that refused our time, and say so; the next request is
        stamped by it. Only its Date header tells: the venue's own time may be a simulator's, which judges by another."""
        stamp = str((self._venue.last_response_headers or {}).get("Date", ""))
        try:
            venue_ms = parsedate_to_datetime(stamp).timestamp() * 1000 + DATE_GRAIN_MS / 2
        except ValueError:
            return "; how far our clock is off is not known"
        difference = (self._asked_ms + self._venue.milliseconds()) / 2 - venue_ms
        is_off = abs(difference) > DATE_GRAIN_MS
        self._venue.options["timeDifference"] = round(difference) if is_off else 0
        if not is_off:
            return "; our clock agrees with the Date of that answer"
        return f"; our clock is {difference / 1000:+.1f} s off, requests are stamped by the venue's from now on"


class _NotFound(ExchangeUnavailable):
    """The venue knows no such order."""


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def _code_of(body: str) -> tuple[str, str]:
    try:
        answer = json.loads(body)
    except ValueError:
        return "", ""
    if not isinstance(answer, dict):
        return "", ""
    return str(answer.get("code", "")), str(answer.get("msg", ""))
