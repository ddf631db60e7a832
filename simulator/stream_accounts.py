"""What a step did to accounts, as messages: orders, fills, stop orders, balances, wallets, positions."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from simulator import topics
from simulator.books import Account, Books
from simulator.exchange import Exchange
from simulator.orders import Fill, Order, StopOrder
from simulator.positions import FuturesAccount, Position

Message = dict[str, Any]
News = tuple[Account, tuple[str, ...], Message]  # (whose, topics that it may go to, message)


class AccountNews:
    """Reads what the desks noted in a step. Balances are compared with what was last told."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._seen = {False: 0, True: 0}  # the highest number of an order, by desk: higher is new
        self._told: dict[tuple[str, str], tuple[Decimal, Decimal]] = {}

    def follow(self, account: Account) -> None:
        """Take ``account``'s balances as told, as a client reads them when it subscribes."""
        for currency, balance in account.balances.items():
            self._told.setdefault((account.api_key, currency), (balance.total, balance.holds))

    def forget(self) -> None:
        """Nobody listened to this step."""
        self._told.clear()
        self._note_seen()

    def of_step(self) -> Iterator[News]:
        now_ms = self._exchange.advanced_to_ms
        for is_futures, books in ((False, self._exchange.books), (True, self._exchange.futures.books)):
            yield from self._orders(is_futures, books)
            for row in books.changed:
                if isinstance(row, StopOrder):
                    name = "/contractMarket/advancedOrders" if is_futures else "/spotMarket/advancedOrders"
                    message = topics.stop_message(row, now_ms)
                    yield row.account, (name,), _of("stopOrder", message)
                elif isinstance(row, FuturesAccount):
                    for currency in row.balances:
                        data = topics.wallet_message(row, currency, now_ms)
                        yield row, ("/contractAccount/wallet",), _of("walletBalance.change", data)
                elif isinstance(row, Account):
                    yield from self._balances(row, now_ms)
                elif isinstance(row, Position):
                    names = (f"/contract/position:{row.listing.rules.symbol}", "/contract/positionAll")
                    message = topics.position_message(row, now_ms)
                    yield row.account, names, _of("position.change", message)
        self._note_seen()

    def _note_seen(self) -> None:
        for is_futures, books in ((False, self._exchange.books), (True, self._exchange.futures.books)):
            self._seen[is_futures] = books.latest_number

    def _orders(self, is_futures: bool, books: Books) -> Iterator[News]:
        fills: dict[Order, list[Fill]] = {}
        for row in books.changed:
            if isinstance(row, Fill):
                fills.setdefault(row.order, []).append(row)
        for order in books.changed:
            if isinstance(order, Order):
                is_new = order.number > self._seen[is_futures]
                symbol = order.request.listing.rules.symbol
                for message in topics.order_messages(order, fills.get(order, []), is_new):
                    if is_futures:
                        each = f"/contractMarket/tradeOrders:{symbol}"
                        yield order.account, (each,), _of("symbolOrderChange", message)
                        yield order.account, ("/contractMarket/tradeOrders",), _of("orderChange", message)
                    else:
                        names = ("/spotMarket/tradeOrders", "/spotMarket/tradeOrdersV2")
                        yield order.account, names, _of("orderChange", message)
        for order, made in fills.items():
            if not is_futures:
                for fill in made:
                    data = {**fill.wire(), "clientOid": order.request.client_oid, "time": fill.at_ms * topics.NS,
                            "orderType": fill.wire()["type"], "tradeId": str(fill.trade_id)}  # fmt: skip
                    yield order.account, ("/spot/tradeFills",), _of("/spot/tradeFills", data)

    def _balances(self, account: Account, now_ms: int) -> Iterator[News]:
        for currency, balance in account.balances.items():
            before = self._told.get((account.api_key, currency), (Decimal(0), Decimal(0)))
            if before != (balance.total, balance.holds):
                self._told[account.api_key, currency] = (balance.total, balance.holds)
                message = topics.balance_message(account, currency, balance, before, now_ms)
                yield account, ("/account/balance",), _of("account.balance", message)


def _of(subject: str, data: Message) -> Message:
    return {"type": "message", "subject": subject, "data": data}
