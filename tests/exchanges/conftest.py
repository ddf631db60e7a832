"""The gateway against a simulator of its own: no database, no rows, only requests and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
import requests

from domain.market import OrderType, Side
from exchanges import ccxt_gateway
from exchanges.ccxt_gateway import CcxtGateway
from exchanges.credentials import Credentials
from exchanges.gateway import OrderTicket
from tests.simulator.conftest import KEY, PASSPHRASE, SECRET, START_MS, Simulator, made_exchange

START_AT = datetime.fromtimestamp(START_MS / 1000, tz=UTC)
CREDENTIALS = Credentials(KEY, SECRET, PASSPHRASE)


def ticket(client_order_id: str = "order-1", **changes: Any) -> OrderTicket:
    """Buy 0.02 BTC at market, stamped now, unless ``changes`` say otherwise."""
    fields: dict[str, Any] = {
        "symbol": "BTC/USDT",
        "side": Side.BUY,
        "order_type": OrderType.MARKET,
        "quantity": Decimal("0.02"),
        "client_order_id": client_order_id,
        "sent_at": datetime.now(tz=UTC),
        "window_ms": 5000,
    }
    return OrderTicket(**{**fields, **changes})


@dataclass
class Desk:
    """A simulator, and a gateway that trades there for an account of 1,000,000 USDT and 1 BTC at a price of 50,000."""

    simulator: Simulator
    gateway: CcxtGateway

    def opened(self, credentials: Credentials | None = CREDENTIALS) -> CcxtGateway:
        """Another gateway to the same simulator, its markets known."""
        gateway = CcxtGateway("kucoin", self.simulator.url, credentials)
        gateway.know((report.rules.symbol, report.venue_info) for report in gateway.markets())
        return gateway

    def fault(self, **fault: Any) -> None:
        self.simulator.control("faults", **fault)

    def heal(self) -> None:
        requests.delete(f"{self.simulator.url}/_sim/faults", timeout=10).raise_for_status()

    def orders(self) -> list[dict[str, Any]]:
        orders: list[dict[str, Any]] = self.simulator.oracle()["orders"]
        return orders

    def asked_by(self, call: Callable[[], Any]) -> list[tuple[str, str]]:
        """Method and path of every request that ``call`` makes."""
        before = len(self.simulator.oracle()["requests"])
        call()
        return [(line["method"], line["path"]) for line in self.simulator.oracle()["requests"][before:]]


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    # A venue that hangs costs a test a second instead of ten.
    monkeypatch.setattr(ccxt_gateway, "HTTP_TIMEOUT_MS", 1000)
    with Simulator(made_exchange()) as simulator:
        simulator.open_account(USDT="1000000", BTC="1")
        simulator.pin("50000")
        desk = Desk(simulator, CcxtGateway("kucoin", simulator.url, CREDENTIALS))
        desk.gateway = desk.opened()
        yield desk
