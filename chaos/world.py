"""One simulated exchange and the platform's rows that point at it: what scenarios make, spoil, wait for and ask.

``World`` needs a database, a broker and a simulator that somebody else runs; ``chaos.stage.Stage`` is a world with the
platform's own processes around it.
"""

from __future__ import annotations

import inspect
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any

import requests
from celery import current_app
from django.contrib.auth.models import User
from django.db import connections, models
from django.utils import timezone

from backtesting.models import BacktestRun, Study
from chaos import invariants
from chaos.breach import Breach
from domain.candles import Timeframe
from domain.market import OrderType, PositionSide, Side
from domain.orders import LIVE_STATUSES, OrderStatus
from domain.sizing import SizingMethod
from exchanges.accounts import balances_refresh
from exchanges.credentials import Credentials
from exchanges.gateway import ExchangeUnavailable
from exchanges.models import Account, Exchange, Market, RiskProfile
from exchanges.services import exchange_clock_sync, exchange_sync, quotes_refresh
from marketdata.models import Backfill, CandleGap, Feed, Tape
from marketdata.services import feed_ensure
from money.halts import halts_undone
from money.models import TradingHalt
from orders.models import Funding, Order
from orders.services import accounts_with_old_balances
from pipeline.topics import QUEUES, ring
from positions.models import Intent, Position, PositionStatus
from positions.protection import positions_to_tell_of
from positions.services import sessions_unsettled
from sessions.models import SessionStatus, TradingSession
from strategies.models import Signal, StrategyConfig

ORDERS_PATH = "/api/v1/hf/orders"
STOPS_PATH = "/api/v1/stop-order"
PARAMETERS = {"fast": 2, "slow": 3}

# Which rows an argument of a task speaks of.
NAMED: dict[str, type[models.Model]] = {
    "account_ids": Account, "exchange_ids": Exchange, "feed_ids": Feed, "order_ids": Order, "session_ids": TradingSession,
    "signal_ids": Signal, "position_ids": Position, "halt_ids": TradingHalt, "funding_ids": Funding,
    "backfill_ids": Backfill, "gap_ids": CandleGap, "tape_ids": Tape,
    "run_ids": BacktestRun, "study_ids": Study,
}  # fmt: skip

_numbers = itertools.count(1)


def patiently(read: Callable[[], object], seconds: float = 20) -> None:
    """Read the venue for a stage that is being set: one that is busy, or still closed off by a breaker, is asked again."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            read()
            return
        except ExchangeUnavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _path_of(order: Order) -> str:
    return ORDERS_PATH if order.stop_price is None else STOPS_PATH


class World:
    """The venue at ``url`` as rows, and shorthands for what scenarios ask of both. ``pace`` is how much of its patience the
    platform has here: waits of the product's own are to be multiplied by it."""

    pace = 1.0

    def __init__(self, url: str) -> None:
        self.url = url
        self.exchange = Exchange.objects.get_or_create(
            name="chaos", defaults={"ccxt_id": "kucoin", "base_url": url, "clock_speed": 0.0}
        )[0]
        self.owner = User.objects.get_or_create(username="chaos")[0]
        # What was done to the platform, by kind: "kill", "exchange", "broker", "database", "control", ...
        self.injected: Counter[str] = Counter()
        self._faults: dict[int, int | None] = {}

    # -- the venue ----------------------------------------------------------------------------------------------

    def read_venue(self) -> None:
        """Read its markets, its clock and the prices of every market that it lists."""
        patiently(lambda: exchange_sync(self.exchange.pk))
        self.read_prices()
        self.exchange.refresh_from_db()

    def read_prices(self) -> None:
        """Read the last prices, as the price watch does."""
        active = Market.objects.filter(exchange=self.exchange, is_active=True, kind=Market.Kind.SPOT)
        symbols = list(active.values_list("symbol", flat=True))
        patiently(lambda: quotes_refresh(self.exchange.pk, symbols))

    def sim(self, path: str, /, **body: Any) -> dict[str, Any]:
        """POST to the simulator's control API (``faults``, ``settings``, ``clock``, ``market/BTC-USDT/price`` ...)."""
        response = requests.post(f"{self.url}/_sim/{path}", json=body, timeout=30)
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer

    def oracle(self, **query: Any) -> dict[str, Any]:
        """The whole truth; ``apiKey=`` one account's part, ``requests=n`` with the latest n requests (none otherwise)."""
        query.setdefault("requests", 0)
        response = requests.get(f"{self.url}/_sim/oracle", params=query, timeout=60)
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer

    def fault(self, **fault: Any) -> int:
        """Let requests meet a fault, as the simulator's ``faults`` takes it; its number. It is counted when it hits."""
        number = int(self.sim("faults", **fault)["id"])
        self._faults[number] = fault.get("count", 1)
        return number

    def order_fault(self, order: Order, kind: str, when: str = "before", **fault: Any) -> int:
        """Let the request that creates ``order`` meet a fault."""
        return self.fault(
            method="POST", path=_path_of(order), clientOid=order.client_order_id, kind=kind, when=when, **fault
        )

    def settings(self, **settings: Any) -> None:
        """Change how the venue behaves (``readLagMs``, ``status``, ``cancelDelayMs``, ``clockOffsetMs`` ...)."""
        self.sim("settings", **settings)
        self.count("exchange")

    def price(self, price: str | None, symbol: str = "BTC-USDT") -> None:
        """Pin the price there (None: let it move again)."""
        self.sim(f"market/{symbol}/price", price=price)

    def advance(self, seconds: int) -> None:
        """Step the venue's clock, and our notion of it."""
        self.sim("clock", advance_s=seconds)
        patiently(lambda: exchange_clock_sync(self.exchange.pk))
        self.exchange.refresh_from_db()

    def orders_there(self, account: Account | None = None, **wanted: Any) -> list[dict[str, Any]]:
        """Every order the venue ever accepted, of one account, with these values."""
        orders = self.oracle(**({"apiKey": account.name} if account is not None else {}))["orders"]
        return [order for order in orders if all(order.get(name) == value for name, value in wanted.items())]

    def sent(self, order: Order) -> int:
        """How often the venue was asked to create ``order``, whatever became of it (of its latest 20,000 requests)."""
        log = self.oracle(requests=20_000)["requests"]
        return sum(
            line["method"] == "POST" and line["path"] == _path_of(order) and line["clientOid"] == order.client_order_id
            for line in log
        )

    # -- rows ---------------------------------------------------------------------------------------------------

    def account(self, usdt: str = "10000", **fields: Any) -> Account:
        """An account there and here, its balances read, without limits. Its name is its API key."""
        key = f"chaos-{next(_numbers):05}"
        credentials = Credentials(key, f"secret-{key}", f"pass-{key}")
        self.sim(
            "accounts", apiKey=key, secret=credentials.secret, passphrase=credentials.passphrase,
            balances={"USDT": usdt},
        )  # fmt: skip
        account = Account.objects.create(
            owner=self.owner, exchange=self.exchange, name=key, currency="USDT", credentials=credentials, **fields
        )
        RiskProfile.objects.create(account=account, max_open_positions=None)
        # Read back: only a stored key can be revealed.
        account = Account.objects.select_related("exchange").get(pk=account.pk)
        patiently(lambda: balances_refresh(account.pk))
        account.refresh_from_db()
        return account

    def market(self, symbol: str = "BTC/USDT") -> Market:
        return Market.objects.get(exchange=self.exchange, symbol=symbol)

    def feed(self, symbol: str = "BTC/USDT", timeframe: Timeframe = Timeframe.M1) -> Feed:
        return feed_ensure(self.market(symbol), timeframe)

    def config(self, feed: Feed | None = None, **parameters: Any) -> StrategyConfig:
        """A configuration that buys when two averages cross upwards, and sells when they cross back."""
        return StrategyConfig.objects.create(
            owner=self.owner, name=f"config-{next(_numbers)}", feed=feed or self.feed(), strategy="sma_cross",
            parameters={**PARAMETERS, **parameters},
        )  # fmt: skip

    def session(
        self,
        account: Account | None = None,
        config: StrategyConfig | None = None,
        status: SessionStatus = SessionStatus.CREATED,
        **fields: Any,
    ) -> TradingSession:
        """A session of 1,000 USDT a position, not started; with another ``status``, as if it had been started."""
        now = timezone.now()
        started: dict[str, Any] = {}
        if status != SessionStatus.CREATED:
            started = {"run": 1, "started_at": now, "signals_after": self.exchange.time_at(now)}
        defaults: dict[str, Any] = {
            "sizing_method": SizingMethod.FIXED_QUOTE, "sizing_amount": Decimal(1000), "tick_seconds": 300,
        }  # fmt: skip
        return TradingSession.objects.create(
            account=account or self.account(), config=config or self.config(), name=f"session-{next(_numbers)}",
            status=status, **{**defaults, **started, **fields},
        )  # fmt: skip

    def ready_order(
        self, account: Account | None = None, session: TradingSession | None = None, **fields: Any
    ) -> Order:
        """An entry of a new position, valued and waiting to be sent (its bell is not rung): 0.02 BTC at market.

        Its session, a new one unless given, is ACTIVE."""
        session = session or self.session(account, status=SessionStatus.ACTIVE)
        position = Position.objects.create(
            session=session, account=session.account, market=session.config.feed.market, side=PositionSide.LONG,
            status=PositionStatus.PENDING,
        )  # fmt: skip
        intent = Intent.objects.create(position=position, purpose=Intent.Purpose.ENTRY, reason="SIGNAL")
        TradingSession.objects.filter(pk=session.pk).update(has_exposure=True)
        defaults: dict[str, Any] = {
            "side": Side.BUY, "order_type": OrderType.MARKET, "status": OrderStatus.READY, "reason": "SIGNAL",
            "quantity": Decimal("0.02"), "valued_at": timezone.now(),
        }  # fmt: skip
        return Order.objects.create(
            account=session.account, market=position.market, intent_id=intent.pk, position_side=PositionSide.LONG,
            **{**defaults, **fields},
        )  # fmt: skip

    def position_of(self, order: Order) -> Position:
        """The position that ``order`` trades for."""
        return Position.objects.select_related("session").get(intents=order.intent_id)

    # -- doing --------------------------------------------------------------------------------------------------

    def count(self, kind: str, number: int = 1) -> None:
        """Note that so many faults of a kind were injected."""
        self.injected[kind] += number

    def ring(self, task: str, **ids: Sequence[int]) -> None:
        """Ring a doorbell; the broker must be there."""
        self.expect(ring(task, batch=1, **ids), f"wanted the broker to take {task}, it did not")

    def submit(self, *orders: Order) -> None:
        """Ring for these orders to be sent."""
        self.ring("orders.submit", order_ids=[order.pk for order in orders])

    def ring_all(self, task: str, argument: str, ids: Sequence[int]) -> int:
        """Ring a doorbell once for each of these ids, in this order, however often one is named; how many bells."""
        for one in ids:
            self.ring(task, **{argument: [one]})
        return len(ids)

    def bells(self, latest: int | None = None) -> Iterator[tuple[str, str, list[int]]]:
        """Every task of the platform that takes ids, its argument, and the ids of the rows there are of that kind, newest
        first; all of them, or the ``latest`` so many."""
        current_app.loader.import_default_modules()
        for name, task in sorted(current_app.tasks.items()):
            arguments = list(inspect.signature(task.run).parameters) if name.split(".")[0] in QUEUES else []
            if arguments:
                [argument] = arguments
                rows = NAMED[argument]._default_manager.order_by("-pk")[:latest]
                yield name, argument, list(rows.values_list("pk", flat=True))

    def ring_everything(self, latest: int | None = None) -> int:
        """Ring every bell for every row there is, or for the ``latest`` so many of each kind; how many bells."""
        rung = 0
        for task, argument, ids in self.bells(latest):
            self.expect(ring(task, batch=200, **{argument: ids}), f"wanted the broker to take {task}, it did not")
            rung += len(ids)
        return rung

    def together(self, *actions: Callable[[], Any]) -> list[Any]:
        """Do these at the same moment, each on a thread and a connection of its own; what each returned, or raised."""
        results: list[Any] = [None] * len(actions)
        gate = threading.Barrier(len(actions))

        def act(index: int, action: Callable[[], Any]) -> None:
            try:
                gate.wait()
                results[index] = action()
            except Exception as error:  # whatever it is, the caller judges it
                results[index] = error
            finally:
                connections.close_all()

        threads = [threading.Thread(target=act, args=pair) for pair in enumerate(actions)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results

    def expect(self, is_so: object, words: str) -> None:
        """Raise Breach with ``words`` (wanted X, was Y) unless it is so."""
        if not is_so:
            raise Breach(words)

    def expect_order(self, order: Order, status: str, *, accepted: int, sent: int | None = None) -> None:
        """Wanted: this order ends so, and the venue accepted it so often (and was asked so often)."""
        order.refresh_from_db()
        there = len(self.orders_there(order.account, clientOid=order.client_order_id))
        self.expect(
            (order.status, there) == (status, accepted),
            f"{order}: wanted {status} and {accepted} at the venue, was {order.status} ({order.detail}) and {there}",
        )
        if sent is not None:
            found = self.sent(order)
            self.expect(found == sent, f"{order}: wanted {sent} requests to create it, were {found}")

    # -- waiting ------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """What a wait does between two looks. A stage starts again what has died; by hand, the platform's work is done
        here."""
        time.sleep(0.05)

    def wait(self, is_so: Callable[[], object], what: str, seconds: float = 30) -> float:
        """Wait for a condition; how long it took. Raises Breach with ``what`` was waited for."""
        began = time.monotonic()
        while not is_so():
            if time.monotonic() > began + seconds:
                raise Breach(f"waited {seconds:g} s in vain for {what}")
            self.pause()
        return time.monotonic() - began

    def wait_order(self, order: Order, *statuses: str, seconds: float = 30) -> float:
        """Wait until the order has one of these statuses."""
        mine = Order.objects.filter(pk=order.pk)
        return self.wait(lambda: mine.filter(status__in=statuses).exists(), f"{order} {'/'.join(statuses)}", seconds)

    def heal(self) -> None:
        """Undo every fault at the venue: scripts and settings, not the state of its market."""
        self.collect_hits()
        requests.delete(f"{self.url}/_sim/faults", timeout=10).raise_for_status()
        self._faults.clear()
        self.sim(
            "settings", status="open", statusMessage="", cancelDelayMs=0, readLagMs=0, fillRatio=1, fillPauseMs=1000,
            keepFilledS=None, keepCanceledS=None, candleLagMs=0, clockOffsetMs=0, enforceRateLimits=False,
            duplicateClientOid="active",
        )  # fmt: skip
        self.sim("stream")

    def collect_hits(self) -> None:
        """Add the exchange faults that have hit so far to what was injected."""
        response = requests.get(f"{self.url}/_sim/faults", timeout=10)
        response.raise_for_status()
        hits = {fault["id"]: fault["hits"] for fault in response.json()["faults"]}
        for number, wanted in list(self._faults.items()):
            # One that is gone from the list is used up.
            self.count("exchange", hits.get(number, wanted or 0))
            del self._faults[number]

    def waiting(self) -> list[str]:
        """What still waits for somebody, in words; empty once everything has come to rest."""
        now = timezone.now()
        orders = Order.objects.filter(status__in=LIVE_STATUSES).order_by("pk")
        stopping = TradingSession.objects.filter(status=SessionStatus.STOPPING)
        recovering = TradingSession.objects.exclude(recover_requested_at=None)
        return [
            *(f"order {order} is {order.status}: {order.detail}" for order in orders),
            *(f"session {session} is STOPPING" for session in stopping),
            *(f"session {session} waits for its recovery: {session.status_reason}" for session in recovering),
            *(f"session {pk} waits for a look" for pk in sessions_unsettled(now)),
            *(f"balances of account {pk} are older than its fills" for pk in accounts_with_old_balances(now)),
            *(f"halt {pk} is not carried out" for pk in halts_undone(now)),
            *(f"position {pk} is not told of as it is protected now" for pk in positions_to_tell_of(now)),
        ]

    def settle(self, limit: float = 60) -> float:
        """Wait until nothing waits; how long it took. Raises Breach with what still waits after ``limit`` seconds."""
        began = time.monotonic()
        while waiting := self.waiting():
            if time.monotonic() > began + limit:
                raise Breach(f"not at rest after {limit:g} s: {'; '.join(waiting[:10])}")
            self.pause()
        return time.monotonic() - began

    # -- judging ------------------------------------------------------------------------------------------------

    def check(self) -> list[invariants.Finding]:
        """I1 to I7 and I9 on everything there is; what they found."""
        return invariants.check(self.oracle())

    def snapshot(self) -> dict[str, Any]:
        """All that a second ring could spoil, here and at the venue."""
        return invariants.snapshot(self.oracle())
