"""What a venue says by itself, as events: candles, prices and news of own orders, over a connection that is kept open.

An event is a doorbell and never the truth: it may come twice, late, out of order or not at all, and whoever hears it reads
the database or the venue before anything changes. Whatever goes wrong with a connection, a new one is made, with a new
token, after a pause that grows. Everything here runs in one event loop and touches no database.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from time import monotonic
from typing import Any, NoReturn

import aiohttp

from domain.market import to_decimal
from exchanges.ccxt_gateway import HTTP_TIMEOUT_MS, ccxt_pro_load
from exchanges.credentials import Credentials
from exchanges.gateway import QuoteReport
from exchanges.venues import venue_of

logger = logging.getLogger(__name__)

# KuCoin: so many topics on one connection; what is beyond them is left to polling. Prices are asked for by the hundred.
TOPICS_PER_CONNECTION = 400
TOPICS_PER_MESSAGE = 100
# Topics nobody wants any more, after which a connection is renewed instead of listened to for nothing.
MOST_LEFT = 50
# KuCoin answers a ping every 18 s at the latest: a connection that said nothing for longer is dead, whatever TCP thinks.
SILENCE = 30.0
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
# A connection that stood for so long has earned a short pause again.
STOOD = 60.0
CLOSING = 1.0
LOOK_EVERY = 1.0


@dataclass(frozen=True, slots=True)
class CandleSeen:
    """A candle of this open time has begun, so the one before has closed."""

    symbol: str
    timeframe: str
    open_at: datetime


@dataclass(frozen=True, slots=True)
class QuoteSeen:
    """A price; ``priced_at`` is by the venue's clock, None where it does not say."""

    report: QuoteReport
    priced_at: datetime | None


@dataclass(frozen=True, slots=True)
class OrderSeen:
    """Something happened to an order of the account; ``client_order_id`` is empty for one made by hand."""

    client_order_id: str


Event = CandleSeen | QuoteSeen | OrderSeen


@dataclass(frozen=True, slots=True)
class Topics:
    """What to listen to: candles by symbol and timeframe, prices by symbol, and whether own orders."""

    candles: frozenset[tuple[str, str]] = frozenset()
    prices: frozenset[str] = frozenset()
    has_orders: bool = False

    def __len__(self) -> int:
        return len(self.candles) + len(self.prices) + self.has_orders

    def cut(self, most: int = TOPICS_PER_CONNECTION) -> Topics:
        """As many of them as one connection takes, prices first: they are the fastest exit."""
        prices = frozenset(sorted(self.prices)[: most - self.has_orders])
        left = most - self.has_orders - len(prices)
        return Topics(frozenset(sorted(self.candles)[:left]), prices, self.has_orders)


class _Over(Exception):
    """The connection is of no use any more; says why."""


class VenueStream:
    """One connection to a venue, public or in the name of an account, renewed whenever it breaks.

    ``tell`` is given every event, in the event loop; it must not wait. ``name`` is how the log calls the connection.
    """

    def __init__(
        self,
        name: str,
        ccxt_id: str,
        base_url: str,
        tell: Callable[[Event], None],
        credentials: Credentials | None = None,
    ) -> None:
        self.name, self.trouble = name, ""
        self._ccxt_id, self._base_url, self._tell, self._credentials = ccxt_id, base_url.rstrip("/"), tell, credentials
        self._topics, self._infos = Topics(), dict[str, dict[str, Any]]()
        self._changed = asyncio.Event()
        self._over: asyncio.Future[NoReturn] | None = None
        self._heard_at: float | None = None

    @property
    def is_alive(self) -> bool:
        """Whether the venue has spoken on this connection lately; its answers to pings count."""
        return self._heard_at is not None and monotonic() - self._heard_at < SILENCE

    def want(self, topics: Topics, infos: Mapping[str, dict[str, Any]]) -> None:
        """From now on listen to ``topics``; ``infos`` is what the venue said of their markets, by symbol."""
        fits = topics.cut()
        if len(fits) < len(topics) and fits != self._topics:
            logger.warning("%s: wanted %s topics, %s fit; the rest is polled", self.name, len(topics), len(fits))
        self._infos.update(infos)
        if fits != self._topics:
            self._topics = fits
            self._changed.set()

    def renew(self, reason: str) -> None:
        """Give this connection up and make another."""
        if self._over is not None and not self._over.done():
            self._over.set_exception(_Over(reason))

    async def run(self) -> NoReturn:
        """Be connected, until cancelled."""
        pause = FIRST_PAUSE
        while True:
            began, self._over = monotonic(), asyncio.get_running_loop().create_future()
            try:
                await self._live(self._over)
            except Exception as error:  # whatever it was: a new connection is the answer to all of it
                self.trouble = _brief(error, self._credentials)
                logger.warning("%s: the stream broke (%s); next try in %g s", self.name, self.trouble, pause)
            finally:
                self._heard_at = None
            if monotonic() - began > STOOD:
                pause = FIRST_PAUSE
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _live(self, over: asyncio.Future[NoReturn]) -> NoReturn:
        """One connection, from its making to its end, which is an exception."""
        began = monotonic()
        watching: dict[Any, asyncio.Task[NoReturn]] = {}
        venue = self._venue(over)
        try:
            while True:
                self._changed.clear()
                left = self._match(venue, watching)
                if left > MOST_LEFT:
                    raise _Over(f"{left} topics that nobody wants any more")
                await self._while_unchanged(over, watching.values())
                if monotonic() - (self._heard_at or began) > SILENCE:
                    raise _Over(f"no word for {SILENCE:g} s")
        finally:
            over.cancel()
            for task in watching.values():
                task.cancel()
            await asyncio.gather(*watching.values(), return_exceptions=True)
            with suppress(Exception):
                await asyncio.wait_for(venue.close(), CLOSING)

    async def _while_unchanged(
        self, over: asyncio.Future[NoReturn], watching: Iterable[asyncio.Task[NoReturn]]
    ) -> None:
        """Wait until other topics are wanted or a moment has passed; raises what ended the connection or a watch."""
        changed = asyncio.create_task(self._changed.wait())
        waiting: set[asyncio.Future[Any]] = {changed, over, *watching}
        try:
            done, _ = await asyncio.wait(waiting, timeout=LOOK_EVERY, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
        for future in done:
            if not future.cancelled():
                future.result()

    def _match(self, venue: Any, watching: dict[Any, asyncio.Task[NoReturn]]) -> int:
        """Watch what is wanted and not watched yet; how many watched topics nobody wants."""
        venue.set_markets([self._infos[symbol] for symbol in sorted(self._infos)])
        topics = self._topics
        watched_prices: set[str] = {symbol for key in watching if key[0] == "prices" for symbol in key[1]}
        keys: list[tuple[Any, ...]] = [("candles", *pair) for pair in sorted(topics.candles) if pair[0] in self._infos]
        fresh = iter(sorted(symbol for symbol in topics.prices - watched_prices if symbol in self._infos))
        keys += [("prices", chunk) for chunk in _chunks(fresh)]
        keys += [("orders",)] if topics.has_orders else []
        for key in keys:
            if key not in watching:
                watching[key] = asyncio.create_task(self._watch(venue, *key))
        unwanted = [key for key in watching if key[0] == "candles" and key[1:] not in topics.candles]
        return len(unwanted) + len(watched_prices - topics.prices)

    def _watch(self, venue: Any, kind: str, *what: Any) -> Coroutine[Any, Any, NoReturn]:
        if kind == "candles":
            return self._watch_candles(venue, *what)
        return self._watch_prices(venue, *what) if kind == "prices" else self._watch_orders(venue)

    # Between two calls of a watch nothing may wait: what arrives then would be heard with the next message only.

    async def _watch_candles(self, venue: Any, symbol: str, timeframe: str) -> NoReturn:
        while True:
            rows = await venue.watch_ohlcv(symbol, timeframe)
            if rows and (symbol, timeframe) in self._topics.candles:
                self._tell(CandleSeen(symbol, timeframe, _time(max(row[0] for row in rows))))

    async def _watch_prices(self, venue: Any, symbols: tuple[str, ...]) -> NoReturn:
        told: dict[str, Any] = {}
        while True:
            await venue.watch_tickers(list(symbols))
            for symbol in symbols:
                # One call returns one of the symbols; the others may have been heard in the same breath.
                ticker = venue.tickers.get(symbol)
                if ticker is None or ticker is told.get(symbol) or symbol not in self._topics.prices:
                    continue
                told[symbol] = ticker
                if all(ticker.get(name) is not None for name in ("bid", "ask", "last")):
                    report = QuoteReport(symbol, *(to_decimal(ticker[name]) for name in ("bid", "ask", "last")))
                    self._tell(QuoteSeen(report, _time_or_none(ticker.get("timestamp"))))

    async def _watch_orders(self, venue: Any) -> NoReturn:
        while True:
            for order in await venue.watch_orders():
                self._tell(OrderSeen(str(order.get("clientOrderId") or "")))

    def _venue(self, over: asyncio.Future[NoReturn]) -> Any:
        """A ccxt.pro exchange that notes every message, and whose broken messages end the connection."""
        traits = venue_of(self._ccxt_id)
        config: dict[str, Any] = {
            "timeout": HTTP_TIMEOUT_MS,
            "enableRateLimit": not self._base_url,
            "options": dict(traits.options),
        }
        if (keys := self._credentials) is not None:
            config |= {"apiKey": keys.api_key, "secret": keys.secret, "password": keys.passphrase}
        venue = getattr(ccxt_pro_load(), self._ccxt_id)(config)
        venue.number = str  # exact: ccxt would make floats of prices
        venue.open()
        venue.session.trace_configs.append(_no_redirects())
        if self._base_url:
            venue.urls["api"] = {
                name: self._base_url + traits.path_prefixes.get(name, "") for name in venue.urls["api"]
            }
        handle = venue.handle_message

        def hear(client: Any, message: Any) -> None:
            if self._heard_at is None:
                logger.info("%s: the stream is open", self.name)
            self._heard_at, self.trouble = monotonic(), ""
            try:
                handle(client, message)
            except Exception as error:  # ccxt's receiving loop would end without a word
                if not over.done():
                    over.set_exception(error)

        venue.handle_message = hear
        return venue


def _no_redirects() -> aiohttp.TraceConfig:
    """A redirect would carry signed headers to wherever it points."""

    async def refuse(*_: Any) -> None:
        raise aiohttp.ClientError("wanted the venue's answer, was a redirect")

    traced = aiohttp.TraceConfig()
    traced.on_request_redirect.append(refuse)
    traced.freeze()
    return traced


def _chunks(symbols: Iterator[str]) -> Iterator[tuple[str, ...]]:
    while chunk := tuple(islice(symbols, TOPICS_PER_MESSAGE)):
        yield chunk


def _time(milliseconds: Any) -> datetime:
    return datetime.fromtimestamp(int(milliseconds) / 1000, tz=UTC)


def _time_or_none(milliseconds: Any) -> datetime | None:
    return None if milliseconds is None else _time(milliseconds)


def _brief(error: Exception, credentials: Credentials | None) -> str:
    # Without the URL's query: it holds the connection's token.
    said = str(error) if credentials is None else credentials.hide(str(error))
    text = "".join(char if char.isprintable() else " " for char in said.split("?")[0])
    return text[:160] if isinstance(error, _Over) else f"{type(error).__name__}: {text[:160]}"
