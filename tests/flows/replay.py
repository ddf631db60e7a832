"""Real candles replayed by the simulator through the live platform: its clock is stepped from one moment at which something
may happen to the next, and whatever bells ring are answered before it goes on.

So the platform sees every price that matters when it is there: what is left is what it decides. The bells are those of the
broker, in the order of their queues; only processes are missing.
"""

from __future__ import annotations

import base64
import csv
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, cast

import redis
from celery import current_app
from django.db import connection, transaction
from django.utils import timezone

from domain.candles import Timeframe
from domain.market import PositionSide
from domain.orders import LIVE_STATUSES
from exchanges.accounts import KeysExamined, account_create, balances_refresh
from exchanges.credentials import Credentials
from exchanges.gateway import CandleReport
from exchanges.models import Account, Exchange, Market, Quote
from exchanges.services import exchange_clock_sync, exchange_sync, quotes_refresh
from marketdata.models import Feed
from marketdata.partitions import CANDLES, partitions_ensure
from marketdata.services import candles_store
from orders.models import Order
from pipeline.topics import QUEUES
from positions.models import Position, PositionStatus
from positions.services import sessions_unsettled
from positions.watch import sessions_due
from simulator.clock import MarketClock
from simulator.exchange import Exchange as SimulatedExchange
from simulator.market import Market as SimulatedMarket
from simulator.prices import First
from simulator.replays import CandleRow, Replay
from simulator.settings import Settings
from strategies.services import feeds_unevaluated
from tests.domain.reference import reference_path
from tests.factories import make_exchange, make_user
from tests.simulator.conftest import PASSPHRASE, SECRET, Simulator
from tests.workers import wait_until

MINUTE = timedelta(minutes=1)
FEE = Decimal("0.001")
CASH = Decimal(10_000)


@dataclass(frozen=True)
class Told:
    """A trade as either side tells it. Times of exits are those of the candle that they lie in."""

    side: str
    entry_at: datetime
    entry_price: float
    exit_at: datetime
    exit_price: float
    quantity: float
    pnl: float
    reason: str

    def __post_init__(self) -> None:
        # The fast loop computes with floats: far below a tick and a lot they are not the decimals of the books.
        for name, digits in (("entry_price", 6), ("exit_price", 6), ("quantity", 10), ("pnl", 8)):
            object.__setattr__(self, name, round(getattr(self, name), digits))


def minutes_of(name: str, since: datetime, until: datetime) -> list[CandleRow]:
    """The real one-minute candles that opened from ``since`` on and before ``until``; skips the test without them."""
    first, last = since.timestamp() * 1000, until.timestamp() * 1000
    with gzip.open(reference_path(f"market/kucoin_1m/{name}-1m.csv.gz"), "rt") as lines:
        rows = [
            (
                int(row["ts"]),
                *(Decimal(row[column]) for column in ("open", "high", "low", "close")),
                float(row["volume"]),
            )
            for row in csv.DictReader(lines)
            if first <= int(row["ts"]) < last
        ]
    return cast("list[CandleRow]", rows)


def longer(rows: Sequence[CandleRow], minutes: int) -> list[CandleRow]:
    """The same as candles of so many minutes, whole ones only."""
    length = minutes * 60_000
    parts: dict[int, list[CandleRow]] = {}
    for row in rows:
        parts.setdefault(row[0] // length, []).append(row)
    return [
        (
            number * length, part[0][1], max(row[2] for row in part), min(row[3] for row in part), part[-1][4],
            sum(row[5] for row in part),
        )
        for number, part in parts.items() if len(part) == minutes
    ]  # fmt: skip


@dataclass
class Stage:
    """A platform and its simulated exchange, at ``now``."""

    simulator: Simulator
    exchange: Exchange
    broker: redis.Redis
    rows: Mapping[str, list[CandleRow]]
    now: datetime
    accounts: list[Account] = field(default_factory=list)

    def account(self, **funds: Any) -> Account:
        """A new account of 10,000 USDT, its balances read."""
        number = len(self.accounts)
        self.simulator.control(
            "accounts", apiKey=f"key-{number}", secret=SECRET, passphrase=PASSPHRASE,
            permissions="General,Spot,Futures", **(funds or {"balances": {"USDT": str(CASH)}}),
        )  # fmt: skip
        account = account_create(
            owner=make_user(), exchange=self.exchange, name=f"account {number}", currency="USDT",
            credentials=Credentials(f"key-{number}", SECRET, PASSPHRASE), examined=KeysExamined(timezone.now(), ""),
        )  # fmt: skip
        balances_refresh(account.pk)
        self.accounts.append(account)
        return account

    def market(self, name: str) -> Market:
        """The market of that name, which is the contract's at an exchange of contracts."""
        symbol = name.replace("_", "/")
        return Market.objects.get(exchange=self.exchange, symbol__in=[symbol, f"{symbol}:USDT"])

    def remember(self, feed: Feed, name: str, before: datetime) -> None:
        """Store the candles of ``feed`` that had closed by ``before``, as a backfill would."""
        timeframe = Timeframe(feed.timeframe)
        rows = [
            CandleReport(_at(ms), open_, high, low, close, Decimal(str(volume)))
            for ms, open_, high, low, close, volume in longer(self.rows[name], timeframe.seconds // 60)
            if _at(ms) + timeframe.length <= before
        ]
        partitions_ensure(CANDLES, [row.open_at for row in rows])
        candles_store(feed.pk, rows)
        Feed.objects.filter(pk=feed.pk).update(last_open_at=rows[-1].open_at)

    def run(self, until: datetime) -> None:
        """Let the market go on to ``until``, candle by candle."""
        while self.now < until:
            self._to(self.now + MINUTE)

    def _to(self, close_at: datetime) -> None:
        """To the end of a minute: by way of every price that meets the stop or target of a position."""
        while True:
            answer = self.simulator.control("clock", now_ms=_ms(close_at), until=self._levels())
            self.now = _at(answer["now_ms"])
            exchange_clock_sync(self.exchange.pk)
            if self.now == close_at:
                break
            self.watch()
        # Whoever waits for the time that has passed for the venue waits for it by our clock, which has not moved.
        now = timezone.now()
        Position.objects.filter(exit_due_at__isnull=False).update(exit_due_at=now)
        Feed.objects.filter(is_needed=True).update(next_due_at=now)
        quotes_refresh(self.exchange.pk, self._symbols())
        self.do("marketdata.collect", feed_ids=self._closed(close_at))
        self.watch()

    def watch(self) -> None:
        """The price watch looks, until it finds nothing more to do."""
        while self.has_positions():
            before = self._moved()
            self.do("exits.watch")
            if self._moved() == before:
                return

    def do(self, name: str, **arguments: list[int]) -> None:
        """Carry out a task, and whatever it sets off."""
        current_app.tasks[name].run(**arguments)
        while (message := self._next()) is not None:
            call = json.loads(base64.b64decode(message["body"]))[1]
            current_app.tasks[message["headers"]["task"]].run(**call)

    def _next(self) -> dict[str, Any] | None:
        for queue in QUEUES:
            raw = cast("bytes | None", self.broker.rpop(queue))
            if raw is not None:
                return cast("dict[str, Any]", json.loads(raw))
        return None

    def has_positions(self) -> bool:
        return Position.objects.filter(status=PositionStatus.OPEN).exists()

    def _moved(self) -> list[Any]:
        return list(Position.objects.order_by("pk").values_list("status", "quantity", "targets_done", "stop_price"))

    def _levels(self) -> dict[str, dict[str, str]]:
        """The nearest levels of each symbol, as the simulator takes them."""
        held = Position.objects.filter(status=PositionStatus.OPEN).values_list(
            "market__symbol", "side", "stop_price", "target_price"
        )
        below: dict[str, list[Decimal]] = {}
        above: dict[str, list[Decimal]] = {}
        for symbol, side, stop, target in held:
            low, high = (stop, target) if side == PositionSide.LONG else (target, stop)
            name = symbol.partition(":")[0].replace("/", "-")
            below.setdefault(name, []).extend([low] if low is not None else [])
            above.setdefault(name, []).extend([high] if high is not None else [])
        return {
            name: {
                **({"below": str(max(below[name]))} if below[name] else {}),
                **({"above": str(min(above[name]))} if above[name] else {}),
            }
            for name in below
        }

    def _symbols(self) -> list[str]:
        feeds = Feed.objects.filter(is_needed=True, market__exchange=self.exchange)
        return sorted(set(feeds.values_list("market__symbol", flat=True)))

    def _closed(self, close_at: datetime) -> list[int]:
        """The needed feeds of which a candle closes now, the longest first: others wait for those."""
        feeds = Feed.objects.filter(is_needed=True, market__exchange=self.exchange)
        closing = [feed for feed in feeds if Timeframe(feed.timeframe).open_of(close_at) == close_at]
        return [feed.pk for feed in sorted(closing, key=lambda feed: -Timeframe(feed.timeframe).seconds)]


class WorkedStage(Stage):
    """The same, where real workers answer the bells: it goes on when nothing waits for any of them."""

    def do(self, name: str, **arguments: list[int]) -> None:
        begun = timezone.now()
        current_app.send_task(name, kwargs=arguments, ignore_result=True)
        is_done = {"marketdata.collect": self._has_collected, "exits.watch": self._has_watched}[name]

        def is_at_rest() -> bool:
            # In one picture of the database: between two looks what was a signal may become an order, and neither be seen.
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                return is_done(begun) and self._is_settled()

        wait_until(is_at_rest, f"{name} done", 60)

    def _has_collected(self, begun: datetime) -> bool:
        feeds = Feed.objects.filter(is_needed=True, market__exchange=self.exchange)
        lengths = {feed: Timeframe(feed.timeframe).length for feed in feeds}
        is_here = all(
            feed.last_open_at == self.now - length for feed, length in lengths.items() if self._closes(length)
        )
        return is_here and not feeds_unevaluated(begun)

    def _closes(self, length: timedelta) -> bool:
        return self.now.timestamp() % length.total_seconds() == 0

    def _has_watched(self, begun: datetime) -> bool:
        return Quote.objects.filter(quoted_at__gt=begun).exists() and not sessions_due(timezone.now())

    def _is_settled(self) -> bool:
        return not Order.objects.filter(status__in=LIVE_STATUSES).exists() and not sessions_unsettled(timezone.now())


@contextmanager
def stage_at(
    broker: redis.Redis, start: datetime, rows: Mapping[str, list[CandleRow]], *, first: First = First.LOW,
    slippage: str = "0", is_futures: bool = False, kind: type[Stage] | None = None,
) -> Iterator[Stage]:  # fmt: skip
    """The platform at ``start``, at an exchange whose clock stands there and whose symbols replay ``rows``; inside a candle
    the ``first`` extreme comes first."""
    current_app.loader.import_default_modules()
    market = SimulatedMarket(seed=1, start_ms=_ms(start), sigma=0, slippage=Decimal(slippage), fees=(FEE, FEE))
    for name, given in rows.items():
        tick = Decimal("0.1") if name.startswith("BTC") else Decimal("0.01")
        market.add(name.replace("_", "-"), Replay(given, tick, first), tick)
    simulated = SimulatedExchange(market, MarketClock(_ms(start), 0), Settings())
    with Simulator(simulated) as simulator:
        exchange = make_exchange(
            "replayed", base_url=simulator.url, clock_speed=0.0, markets_synced_at=None, public_weight=10**9,
            ccxt_id="kucoinfutures" if is_futures else "kucoin",
        )  # fmt: skip
        exchange_sync(exchange.pk)
        exchange.refresh_from_db()
        quotes_refresh(exchange.pk, list(Market.objects.filter(exchange=exchange).values_list("symbol", flat=True)))
        yield (kind or Stage)(simulator, exchange, broker, rows, start)


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)


def _at(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, tz=UTC)
