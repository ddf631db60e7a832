"""The simulated exchange's futures desk, and the platform's rows that point at it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from functools import cached_property
from typing import Any

from domain.market import PositionSide
from domain.orders import OrderStatus
from exchanges.accounts import balances_refresh
from exchanges.models import Account, Market
from exchanges.services import exchange_sync, quotes_refresh
from orders.services import order_submit
from positions.models import Position
from positions.services import orders_follow
from sessions.models import TradingSession
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
from tests.simulator.conftest import Simulator, made_exchange
from tests.venue import Venue

SYMBOL = "BTC/USDT:USDT"


class FuturesVenue(Venue):
    """A contract is 0.001 BTC, 50 USDT at 50,000; market orders fill at the price."""

    @cached_property
    def account(self) -> Account:
        """An account with 10,000 USDT in its futures wallet, read."""
        self.simulator.control(
            "accounts", apiKey=KEY, secret=SECRET, passphrase=PASSPHRASE, futures={"USDT": "10000"},
            permissions="General,Spot,Futures",
        )  # fmt: skip
        account = make_account(exchange=self.exchange, usdt=None)
        balances_refresh(account.pk)
        account.refresh_from_db()
        return account

    @property
    def market(self) -> Market:
        return Market.objects.get(exchange=self.exchange, symbol=SYMBOL)

    def price(self, price: str) -> None:
        self.simulator.control("market/BTC-USDT/price", price=price)
        quotes_refresh(self.exchange.pk, [SYMBOL])

    def session(self, **fields: Any) -> TradingSession:
        config = make_config(self.account.owner, make_feed(self.market))
        return make_session(self.account, config, **{"leverage": Decimal(5), **fields})

    def opened(
        self, side: PositionSide = PositionSide.LONG, contracts: int = 10, session: TradingSession | None = None
    ) -> Position:
        """A position of so many contracts, at five times its margin, entered at the venue."""
        position = make_position(session or self.session(), side=side, leverage=Decimal(5), exits={})
        order = make_order(
            position, status=OrderStatus.READY, side=side.entry_side, quantity=Decimal(contracts), leverage=Decimal(5)
        )
        order_submit(order.pk)
        orders_follow([order.pk])
        position.refresh_from_db()
        return position

    def by_hand(self, side: str, contracts: int, **params: Any) -> str:
        """An order at market that the account's owner makes at the venue; its id."""
        client = self.simulator.client(KEY, SECRET, PASSPHRASE)
        body = {"symbol": "XBTUSDTM", "side": side, "type": "market", "size": contracts, "leverage": 5, **params}
        made = client.futuresPrivatePostOrders({"clientOid": f"by-hand-{side}-{contracts}", **body})
        return str(made["data"]["orderId"])

    @property
    def books(self) -> dict[str, Any]:
        """What the venue knows of the account's contracts."""
        books: dict[str, Any] = self.simulator.oracle(apiKey=KEY)["futures"]
        return books

    def wallet(self) -> Decimal:
        return Decimal(self.books["balances"][KEY]["USDT"]["balance"])


@contextmanager
def futures_running() -> Iterator[FuturesVenue]:
    """A futures desk whose market clock stands still, BTC at 50,000, its contracts read."""
    with Simulator(made_exchange("BTC-USDT", slippage="0")) as simulator:
        exchange = make_exchange(
            "futures", base_url=simulator.url, ccxt_id="kucoinfutures", clock_speed=0.0, markets_synced_at=None
        )
        exchange_sync(exchange.pk)
        exchange.refresh_from_db()
        venue = FuturesVenue(simulator, exchange)
        venue.price("50000")
        yield venue
