"""A simulated exchange of a test's own, and the platform's rows that point at it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import requests

from domain.orders import OrderStatus
from exchanges import shared
from exchanges.accounts import balances_refresh
from exchanges.models import Account, Exchange, Market
from exchanges.services import exchange_sync, quotes_refresh
from orders.models import Order
from tests.factories import (
    KEY,
    PASSPHRASE,
    SECRET,
    make_account,
    make_config,
    make_exchange,
    make_feed,
    make_order,
    make_position,
    make_session,
)
from tests.simulator.conftest import START_MS, Simulator, made_exchange


@dataclass
class Venue:
    """The simulator, with shorthands for what tests ask of it."""

    simulator: Simulator
    exchange: Exchange

    @cached_property
    def account(self) -> Account:
        """An account of 10,000 USDT there, its balances read."""
        self.simulator.control("accounts", apiKey=KEY, secret=SECRET, passphrase=PASSPHRASE, balances={"USDT": "10000"})
        account = make_account(exchange=self.exchange, usdt=None)
        balances_refresh(account.pk)
        account.refresh_from_db()
        return account

    @property
    def market(self) -> Market:
        return Market.objects.get(exchange=self.exchange, symbol="BTC/USDT")

    def price(self, price: str) -> None:
        """Pin the price there and read it."""
        self.simulator.control("market/BTC-USDT/price", price=price)
        quotes_refresh(self.exchange.pk, ["BTC/USDT"])

    def advance(self, seconds: int) -> None:
        """Step the venue's clock, and our notion of it."""
        from exchanges.services import exchange_clock_sync

        self.simulator.control("clock", advance_s=seconds)
        exchange_clock_sync(self.exchange.pk)

    def fault(self, **fault: Any) -> None:
        self.simulator.control("faults", **fault)

    def heal(self) -> None:
        """Forget every fault."""
        requests.delete(f"{self.simulator.url}/_sim/faults", timeout=10).raise_for_status()

    def limits_reset(self) -> None:
        """As if its rate limits had begun to count anew, and nothing had ever failed there."""
        for kind in ("blocked", "exchange"):
            for key in shared.client().keys(f"r3edge:{kind}:*"):  # type: ignore[union-attr]
                shared.client().delete(key)

    def ready_order(self, **fields: Any) -> Order:
        """An entry of a new session and position, valued and waiting to be sent: 0.02 BTC at market unless told."""
        session = make_session(self.account, make_config(self.account.owner, make_feed(self.market)))
        return make_order(make_position(session), status=OrderStatus.READY, **fields)

    def requests_of(self, method: str, path: str) -> list[dict[str, Any]]:
        """What it was asked on paths that match ``path``, oldest first."""
        log = self.simulator.oracle()["requests"]
        return [line for line in log if line["method"] == method and fnmatchcase(line["path"], path)]

    def orders(self) -> list[dict[str, Any]]:
        """Every order it ever accepted from our account."""
        orders: list[dict[str, Any]] = self.simulator.oracle(apiKey=KEY)["orders"]
        return orders

    def balance(self, currency: str) -> Decimal:
        balances = self.simulator.oracle(apiKey=KEY)["balances"][KEY]
        return Decimal(balances[currency]["balance"]) if currency in balances else Decimal(0)


@contextmanager
def venue_running() -> Iterator[Venue]:
    """A simulator whose market clock stands still at START_MS, BTC at 50,000, its markets read."""
    with Simulator(made_exchange()) as simulator:
        exchange = make_exchange(base_url=simulator.url, clock_speed=0.0, markets_synced_at=None)
        exchange_sync(exchange.pk)
        exchange.refresh_from_db()
        venue = Venue(simulator, exchange)
        venue.price("50000")
        yield venue


__all__ = ["START_MS", "Venue", "venue_running"]
