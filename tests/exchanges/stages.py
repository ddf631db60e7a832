"""Where the contract of a gateway is tried: a market at a price, an account, and somebody else who trades on it too.

A gateway joins the contract by a ``Stage`` of its own and a row in ``STAGES``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from decimal import Decimal

from domain.market import Side
from exchanges.accounts import account_create
from exchanges.ccxt_gateway import CcxtGateway
from exchanges.gateway import Gateway
from exchanges.models import PaperBalance
from exchanges.services import exchange_clock_sync, exchange_sync, gateway_for
from tests.exchanges.conftest import CREDENTIALS
from tests.factories import make_exchange, make_user
from tests.simulator.conftest import KEY, PASSPHRASE, SECRET, Simulator, made_exchange


class Stage(ABC):
    """An account of 1,000,000 USDT and 1 BTC, and the market BTC/USDT at 50,000, its minute candles going back an hour.

    ``gateway`` is what is tried; everything else here happens behind its back.
    """

    gateway: Gateway

    @property
    @abstractmethod
    def now(self) -> datetime:
        """The venue's time."""

    @abstractmethod
    def wait(self, seconds: int) -> None:
        """Let the venue's time pass."""

    @abstractmethod
    def price(self, price: str) -> None:
        """Set the price, and let resting orders meet it."""

    @abstractmethod
    def order_by_somebody_else(self, side: Side, quantity: str, price: str, client_order_id: str = "") -> str | None:
        """A limit order on the same account that this gateway knows nothing of; its exchange order id, None where nobody
        else can trade on it."""

    @abstractmethod
    def fill(self, exchange_order_id: str, quantity: str) -> bool:
        """Fill so much of a resting order at its price; False where that cannot be arranged."""

    @abstractmethod
    def orders_sent(self) -> int | None:
        """How many requests to create an order the venue has seen; None where there are no requests."""


class SimulatorStage(Stage):
    """ccxt's KuCoin against the simulator."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        simulator.open_account(USDT="1000000", BTC="1")
        simulator.pin("50000")
        gateway = CcxtGateway("kucoin", simulator.url, CREDENTIALS)
        gateway.know((report.rules.symbol, report.venue_info) for report in gateway.markets())
        self.gateway = gateway

    @property
    def now(self) -> datetime:
        return self.gateway.time()

    def wait(self, seconds: int) -> None:
        self._simulator.control("clock", advance_s=seconds)

    def price(self, price: str) -> None:
        self._simulator.pin(price)

    def order_by_somebody_else(self, side: Side, quantity: str, price: str, client_order_id: str = "") -> str | None:
        client = self._simulator.client(KEY, SECRET, PASSPHRASE)
        order = {"symbol": "BTC-USDT", "side": side.value.lower(), "type": "limit", "size": quantity, "price": price}
        made = client.private_post_hf_orders(order | ({"clientOid": client_order_id} if client_order_id else {}))
        return str(made["data"]["orderId"])

    def fill(self, exchange_order_id: str, quantity: str) -> bool:
        self._simulator.control("fills", orderId=exchange_order_id, size=str(Decimal(quantity)))
        return True

    def orders_sent(self) -> int | None:
        return len([line for line in self._simulator.oracle()["requests"] if line["method"] == "POST"])


@contextmanager
def simulator_stage() -> Iterator[Stage]:
    with Simulator(made_exchange()) as simulator:
        yield SimulatorStage(simulator)


class PaperStage(Stage):
    """Virtual money on the prices of a simulator that knows nothing of the account."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._exchange = make_exchange(base_url=simulator.url, clock_speed=0.0, markets_synced_at=None)
        simulator.pin("50000")
        exchange_sync(self._exchange.pk)
        self._exchange.refresh_from_db()
        account = account_create(
            owner=make_user(), exchange=self._exchange, name="paper", currency="USDT", paper_balance=Decimal(1_000_000)
        )
        PaperBalance.objects.create(account=account, currency="BTC", total=1)
        self.gateway = gateway_for(self._exchange, account, self._exchange.markets.all())

    @property
    def now(self) -> datetime:
        return self.gateway.time()

    def wait(self, seconds: int) -> None:
        self._simulator.control("clock", advance_s=seconds)
        exchange_clock_sync(self._exchange.pk)
        self._exchange.refresh_from_db()  # the gateway's own

    def price(self, price: str) -> None:
        self._simulator.pin(price)

    def order_by_somebody_else(self, side: Side, quantity: str, price: str, client_order_id: str = "") -> str | None:
        return None

    def fill(self, exchange_order_id: str, quantity: str) -> bool:
        return False

    def orders_sent(self) -> int | None:
        return None


@contextmanager
def paper_stage() -> Iterator[Stage]:
    with Simulator(made_exchange()) as simulator:
        yield PaperStage(simulator)


# Each opens a stage for one test, which has the database for itself.
STAGES: dict[str, Callable[[], AbstractContextManager[Stage]]] = {
    "ccxt on the simulator": simulator_stage,
    "paper": paper_stage,
}
