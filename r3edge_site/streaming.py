"""The stream process: what venues say by themselves, wired to whoever acts on it. Optional; it makes things happen sooner.

    a candle begins        the feed is due now, ``marketdata.collect`` is rung and reads the candle that closed
    a price                one ``Quote`` a market, newest wins; sessions whose stop or target it crossed: ``positions.track``
    news of an own order   the order is due now, ``orders.look`` is rung and reads it; of a foreign one: the reconciliation

No message changes an order, a position or a candle, so one that is lost, doubled or late changes nothing. Polling goes on
all the time. The event loop touches neither database nor broker: two threads do, one short thing after the other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from time import monotonic
from typing import Any, NoReturn, TypeVar

from django.db import DatabaseError, InterfaceError, connections
from django.utils import timezone

from domain.candles import Timeframe
from embedded import ready
from exchanges import vitals
from exchanges.ccxt_gateway import ccxt_pro_load
from exchanges.credentials import Credentials, UnableToDecrypt
from exchanges.gateway import QuoteReport
from exchanges.models import Account, Exchange, Market
from exchanges.services import quotes_store
from exchanges.streaming import CandleSeen, Event, OrderSeen, QuoteSeen, Topics, VenueStream
from marketdata.models import Feed
from marketdata.services import feeds_hasten
from orders.services import orders_hasten
from pipeline.topics import ring
from positions.reconciliation import account_make_due
from positions.watch import sessions_concerned, sessions_due

logger = logging.getLogger(__name__)

T = TypeVar("T")

# How often the database is asked what is to be listened to, and whether the stream is looked after.
READ_EVERY, REPORT_EVERY, NOTE_EVERY = 3.0, 1.0, 3.0
# What came in this time is written and rung for together.
GATHER = 0.2
# A candle that began by the venue's clock and not yet by our notion of it is tried again.
TRY_AGAIN = 0.5
# A stream that is gone, or a feed on which polling found candles that the stream did not show, for so long is told of.
DOWN_AFTER = 10.0
RENEW_SILENT_EVERY = 60.0
# The same session, or account, is not rung for again within this time: what was rung for is on its way.
RING_AGAIN = 2.0
ENDING = 0.5

# By task: the argument that carries the ids, and how many one message carries.
BELLS = {
    "marketdata.collect": ("feed_ids", 200),
    "exits.track": ("session_ids", 200),
    "orders.look": ("order_ids", 5),
    "positions.reconcile": ("account_ids", 1),
}


class Clerk:
    """One thread that does what may wait, in the order in which it was asked."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def do(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._done, call)

    @staticmethod
    def _done(call: Callable[[], T]) -> T:
        try:
            return call()
        except (DatabaseError, InterfaceError):
            connections.close_all()  # the next thing to do gets a connection that works, if there is one
            raise

    async def close(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.do(connections.close_all), ENDING)
        self._pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class NeededFeed:
    pk: int
    last_open_at: datetime | None


@dataclass(frozen=True, slots=True)
class Wants:
    """What is to be heard of one exchange, as the database has it; ``infos`` only of the markets that were not known."""

    exchange: Exchange
    feeds: Mapping[tuple[str, str], NeededFeed]
    markets: Mapping[str, int]
    accounts: Mapping[int, Credentials]
    infos: Mapping[str, dict[str, Any]]

    @property
    def topics(self) -> Topics:
        return Topics(frozenset(self.feeds), frozenset(self.markets))


@dataclass(slots=True)
class Ear:
    """How far one feed was heard: the candle stored when listening began, the newest one heard, and since when polling is
    ahead of the stream."""

    stored_at_first: datetime | None
    heard: datetime | None = None
    behind_since: float | None = None

    def is_silent(self, stored: datetime | None, length: timedelta, now: float) -> bool:
        """Whether polling found a whole candle, of a time in which we were listening, that the stream did not show."""
        self.stored_at_first = self.stored_at_first or stored
        is_behind = (
            stored is not None
            and self.stored_at_first is not None
            and stored >= self.stored_at_first + 2 * length
            and (self.heard is None or self.heard < stored)
        )
        self.behind_since = (self.behind_since or now) if is_behind else None
        return self.behind_since is not None and now - self.behind_since > DOWN_AFTER


def wants_read(exchange_id: int, known: Collection[str]) -> Wants:
    """What is to be heard of an exchange: needed feeds, the prices of markets that matter to a session, and the orders of
    active accounts with such sessions; a paper account has no orders there."""
    exchange = Exchange.objects.get(pk=exchange_id)
    feeds = Feed.objects.filter(is_needed=True, market__exchange=exchange).values_list(
        "market__symbol", "timeframe", "pk", "last_open_at"
    )
    sessions = sessions_concerned().filter(config__feed__market__exchange=exchange)
    markets = dict(sessions.values_list("config__feed__market__symbol", "config__feed__market_id").distinct())
    wanted = {(symbol, timeframe): NeededFeed(pk, last) for symbol, timeframe, pk, last in feeds}
    fresh = ({symbol for symbol, _ in wanted} | markets.keys()) - set(known)
    infos = dict(Market.objects.filter(exchange=exchange, symbol__in=fresh).values_list("symbol", "venue_info"))
    accounts = Account.objects.filter(
        exchange=exchange, status=Account.Status.ACTIVE, is_paper=False, pk__in=sessions.values("account")
    )
    return Wants(exchange, wanted, markets, _revealed(accounts), infos)


def exchanges_to_hear(names: Collection[str]) -> list[tuple[int, str]]:
    """Enabled exchanges on which somebody has an account, those of ``names`` only where there are any."""
    used = Exchange.objects.filter(is_enabled=True, accounts__isnull=False)
    if names:
        used = used.filter(name__in=list(names))
    return list(used.order_by("pk").distinct().values_list("pk", "name"))


def _revealed(accounts: Iterable[Account]) -> dict[int, Credentials]:
    found = {}
    for account in accounts:
        try:
            found[account.pk] = account.credentials.reveal()
        except UnableToDecrypt as error:
            logger.warning("account %s is not listened to: %s", account.pk, error)
    return found


def _ring_all(bells: Mapping[str, Collection[int]]) -> None:
    for task, ids in bells.items():
        argument, batch = BELLS[task]
        if ids and not ring(task, batch=batch, **{argument: sorted(ids)}):
            return  # the broker is away; the sweeps ring


class ExchangeStream:
    """One exchange: a public connection, one for each account that trades there, and what is done with their words."""

    def __init__(self, exchange_id: int, name: str, database: Clerk, broker: Clerk) -> None:
        self._pk, self._name, self._database, self._broker = exchange_id, name, database, broker
        self._wants: Wants | None = None
        self._known: set[str] = set()
        self._lines: dict[tuple[int, Credentials] | None, tuple[VenueStream, asyncio.Task[NoReturn]]] = {}
        self._news = asyncio.Event()
        self._candles: dict[tuple[str, str], datetime] = {}
        self._quotes: dict[str, tuple[QuoteReport, datetime]] = {}
        self._orders: dict[int, set[str]] = {}
        self._ears: dict[tuple[str, str], Ear] = {}
        self._silent: set[tuple[str, str]] = set()
        self._renewed_at = 0.0
        self._rung_at: dict[tuple[str, int], float] = {}
        self._noted_at: float | None = None
        self._down_since: float | None = None
        self._has_told = False

    async def run(self) -> None:
        """Listen until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._again(self._read, READ_EVERY))
                group.create_task(self._again(self._report, REPORT_EVERY))
                group.create_task(self._again(self._serve, GATHER))
        finally:
            tasks = [task for _, task in self._lines.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def end(self) -> None:
        """Note that nobody listens any more, and that this is no accident."""
        await self._database.do(partial(vitals.stream_ended, self._pk))

    async def _again(self, work: Callable[[], Any], pause: float) -> None:
        while True:
            try:
                await work()
            except Exception as error:  # a database that is away, above all: polling is the rest of the platform's
                logger.warning("%s: %s failed: %s", self._name, work.__name__.strip("_"), type(error).__name__)
                logger.debug("why", exc_info=True)
            await asyncio.sleep(pause)

    # -- listening --------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        wants = self._wants = await self._database.do(partial(wants_read, self._pk, frozenset(self._known)))
        self._known |= wants.infos.keys()
        lines: dict[tuple[int, Credentials] | None, Credentials | None] = {None: None} if len(wants.topics) else {}
        # By its keys too: an account whose keys were replaced, or whose secret alone, gets another connection.
        lines |= {(pk, keys): keys for pk, keys in wants.accounts.items()}
        for line in self._lines.keys() - lines.keys():
            self._lines.pop(line)[1].cancel()
        for line, keys in lines.items():
            if line not in self._lines:
                self._lines[line] = self._opened(wants.exchange, None if line is None else line[0], keys)
        for line, (stream, _) in self._lines.items():
            stream.want(wants.topics if line is None else Topics(has_orders=True), wants.infos)
        self._judge_silence(wants)

    def _opened(
        self, exchange: Exchange, account_id: int | None, keys: Credentials | None
    ) -> tuple[VenueStream, asyncio.Task[NoReturn]]:
        name = self._name if account_id is None else f"{self._name}, account {account_id}"
        hear = partial(self._hear, account_id)
        stream = VenueStream(name, exchange.ccxt_id, exchange.base_url, hear, keys)
        return stream, asyncio.create_task(stream.run())

    def _hear(self, account_id: int | None, event: Event) -> None:
        match event:
            case CandleSeen(symbol, timeframe, open_at):
                key = symbol, timeframe
                ear = self._ear(key)
                if ear.heard is None or open_at > ear.heard:
                    ear.heard = self._candles[key] = open_at
                self._silent.discard(key)
            case QuoteSeen(report, priced_at) if self._wants is not None:
                now = timezone.now()
                at = now if priced_at is None else self._wants.exchange.our_time_of(priced_at, now)
                self._quotes[report.symbol] = report, at
            case OrderSeen(client_order_id) if account_id is not None:
                self._orders.setdefault(account_id, set()).add(client_order_id)
        self._news.set()

    def _ear(self, key: tuple[str, str]) -> Ear:
        feed = self._wants.feeds.get(key) if self._wants is not None else None
        return self._ears.setdefault(key, Ear(None if feed is None else feed.last_open_at))

    # -- acting -----------------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        """Do what the words of the last moment ask for."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), TRY_AGAIN if self._candles else None)
        self._news.clear()
        wants = self._wants
        if wants is None:
            return
        quotes, self._quotes = self._quotes, {}
        orders, self._orders = self._orders, {}
        seen = {wants.feeds[key].pk: open_at for key, open_at in self._candles.items() if key in wants.feeds}
        self._candles = {key: open_at for key, open_at in self._candles.items() if key in wants.feeds}
        prices = [(wants.markets[symbol], *quote) for symbol, quote in quotes.items() if symbol in wants.markets]
        bells, verdicts = await self._database.do(partial(self._act, seen, prices, orders))
        for key in [key for key in self._candles if wants.feeds[key].pk in verdicts]:
            if self._candles[key] == seen[wants.feeds[key].pk]:
                del self._candles[key]
        if any(bells.values()):
            await self._broker.do(partial(_ring_all, bells))

    def _act(
        self,
        seen: Mapping[int, datetime],
        prices: list[tuple[int, QuoteReport, datetime]],
        orders: Mapping[int, Collection[str]],
    ) -> tuple[dict[str, Collection[int]], dict[int, bool]]:
        """What is to be rung for, and which feeds have been seen to. In the thread of the database."""
        verdicts = feeds_hasten(seen) if seen else {}
        looks: list[int] = []
        foreign: list[int] = []
        for account_id, client_order_ids in orders.items():
            due, has_foreign = orders_hasten(account_id, client_order_ids)
            looks += due
            foreign += [account_id] if has_foreign else []
        due_now = sessions_due(timezone.now()) if quotes_store(prices) else []
        strangers = self._not_just_rung("positions.reconcile", foreign)
        for account_id in strangers:
            account_make_due(account_id)
        return {
            "marketdata.collect": [pk for pk, is_due in verdicts.items() if is_due],
            "orders.look": looks,
            "exits.track": self._not_just_rung("exits.track", due_now),
            "positions.reconcile": strangers,
        }, verdicts

    def _not_just_rung(self, task: str, ids: Iterable[int]) -> list[int]:
        now = monotonic()
        self._rung_at = {key: at for key, at in self._rung_at.items() if now - at < RING_AGAIN}
        fresh = [pk for pk in ids if (task, pk) not in self._rung_at]
        self._rung_at |= {(task, pk): now for pk in fresh}
        return fresh

    # -- being alive ------------------------------------------------------------------------------------------------

    def _judge_silence(self, wants: Wants) -> None:
        """Find the feeds of which polling stores candles that the stream does not show."""
        public = self._lines.get(None)
        self._silent &= wants.feeds.keys()
        if public is None or not public[0].is_alive:
            self._ears.clear()
            return
        now = monotonic()
        for key, feed in wants.feeds.items():
            if self._ear(key).is_silent(feed.last_open_at, Timeframe(key[1]).length, now):
                self._silent.add(key)
        if self._silent and now - self._renewed_at > RENEW_SILENT_EVERY:
            self._renewed_at = now
            public[0].renew(self._trouble(public[0]))

    async def _report(self) -> None:
        """Write down that the stream is alive, or tell that it is not."""
        public, now = self._lines.get(None), monotonic()
        if public is not None and (self._silent or not public[0].is_alive):
            self._noted_at, self._down_since = None, self._down_since or now
            if not self._has_told and now - self._down_since > DOWN_AFTER:
                await self._database.do(partial(vitals.stream_lost, self._pk, self._trouble(public[0])))
                self._has_told = True
            return
        self._down_since, self._has_told = None, False
        if public is None and self._noted_at is not None:
            await self.end()
            self._noted_at = None
        elif public is not None and (self._noted_at is None or now - self._noted_at >= NOTE_EVERY):
            await self._database.do(partial(vitals.stream_seen, self._pk))
            self._noted_at = now

    def _trouble(self, stream: VenueStream) -> str:
        if self._silent:
            named = ", ".join(f"{symbol} {timeframe}" for symbol, timeframe in sorted(self._silent)[:3])
            return f"it says nothing of {named}, where there are candles"
        return stream.trouble or "it says nothing"


class Streams:
    """The streams of all exchanges that are in use, or of those of ``names``."""

    def __init__(self, names: Collection[str] = ()) -> None:
        self._names = names
        self._running: dict[int, tuple[ExchangeStream, asyncio.Task[None]]] = {}
        self._database, self._broker = Clerk("database"), Clerk("broker")

    async def run(self, stop: asyncio.Event) -> None:
        """Listen until ``stop``; then every connection is closed and the rows say that nobody listens."""
        loading = asyncio.create_task(
            self._broker.do(ccxt_pro_load)
        )  # no thread that asyncio would wait for at the end
        try:
            await asyncio.wait({loading, stopped := asyncio.create_task(stop.wait())}, return_when="FIRST_COMPLETED")
            while not stop.is_set():
                await self._match()
                await asyncio.wait({stopped}, timeout=READ_EVERY)
        finally:
            await self._end(list(self._running))
            await asyncio.gather(self._database.close(), self._broker.close())

    async def _match(self) -> None:
        try:
            wanted = dict(await self._database.do(partial(exchanges_to_hear, self._names)))
        except Exception as error:  # listened to is what was wanted before
            logger.warning("the exchanges were not read: %s", type(error).__name__)
            return
        await self._end([pk for pk in self._running if pk not in wanted])
        for pk, name in wanted.items():
            if pk not in self._running or self._running[pk][1].done():
                stream = ExchangeStream(pk, name, self._database, self._broker)
                self._running[pk] = stream, asyncio.create_task(stream.run())
        ready.mark()

    async def _end(self, exchange_ids: Collection[int]) -> None:
        ending = [self._running.pop(pk) for pk in exchange_ids]
        for _, task in ending:
            task.cancel()
        if ending:
            # First what others must know, behind whatever was being written; closing connections is a courtesy.
            await asyncio.sleep(0)
            notes = [asyncio.create_task(stream.end()) for stream, _ in ending]
            await asyncio.wait([*notes, *(task for _, task in ending)], timeout=ENDING)
