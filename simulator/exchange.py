"""The exchange itself: takes, refuses, executes and cancels orders by KuCoin's rules. No HTTP in here.

Time passes through ``advance``: it walks every symbol's price path up to the market clock and fills what the path met.
A taker trades against a depth made from the price; its own trading does not move the price.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from enum import StrEnum

from domain.market import ZERO, Side
from domain.matching import fee_of
from simulator.books import Account, Books
from simulator.clock import MarketClock
from simulator.market import Listing, Market, Switch
from simulator.orders import Order, OrderRequest, StopOrder
from simulator.prices import MINUTE_MS
from simulator.replays import CandleRow, Replay
from simulator.rules import Rules, text
from simulator.walker import PathWalker, Waiting

NOT_CANCELABLE = "order_not_exist_or_not_allow_to_cancel"


class Refused(Exception):
    """The exchange says no, with a code and a message of KuCoin's."""

    def __init__(self, code: str, message: str, http_status: int = 200) -> None:
        super().__init__(f"{code} {message}")
        self.code = code
        self.message = message
        self.http_status = http_status


class DuplicatePolicy(StrEnum):
    """When a client order id may not be used again."""

    ACTIVE = "active"  # while an order with it is live
    ALWAYS = "always"  # ever again
    NEVER = "never"  # it always may


class Status(StrEnum):
    OPEN = "open"
    CANCEL_ONLY = "cancelonly"
    CLOSE = "close"


Execution = tuple[Decimal, Decimal]  # (price, size)


class Exchange:
    """All state of one simulated exchange."""

    def __init__(self, market: Market, clock: MarketClock, duplicates: DuplicatePolicy) -> None:
        self.market = market
        self.clock = clock
        self.books = Books()
        self.duplicates = duplicates
        self.status = Status.OPEN
        self.advanced_to_ms = clock.now_ms()
        self.keep: Callable[[], object] = _nothing  # called after every step, before anybody is told of its outcome
        self._walkers: dict[str, PathWalker] = {}

    # -- time and prices ----------------------------------------------------------------------------------------

    def advance(self) -> int:
        """Let the market reach its clock; returns the market time in ms."""
        now_ms = self.clock.now_ms()
        for walker in self._walkers.values():
            walker.advance(now_ms)
        self.advanced_to_ms = now_ms
        return now_ms

    def pin(self, listing: Listing, price: Decimal | None) -> None:
        """Hold ``listing`` at ``price`` from now on, or (None) let it move as before; orders meet it at once."""
        self._switch(listing, Switch(listing.rules.symbol, self.advance(), price))

    def script(self, listing: Listing, rows: Sequence[CandleRow]) -> None:
        """Replay ``rows`` on ``listing`` from the first one on; ValueError for rows that are no candles."""
        first_minute = Replay(rows, listing.rules.price_increment).first_minute
        self._switch(listing, Switch(listing.rules.symbol, first_minute * MINUTE_MS, rows=tuple(rows)))

    def _switch(self, listing: Listing, switch: Switch) -> None:
        walker = self._walker(listing, self.advance())
        listing.switch(switch)
        self.books.note(switch)
        walker.look()

    def change_rules(self, listing: Listing, rules: Rules) -> None:
        """Publish other rules; ValueError when the tick would change under live orders."""
        walker = self._walker(listing, self.advance())
        is_new_tick = rules.price_increment != listing.rules.price_increment
        if is_new_tick and walker.is_waiting:
            raise ValueError(f"wanted no live orders on {rules.symbol} while its price increment changes")
        listing.change_rules(rules)
        self.books.note(listing)
        if is_new_tick:
            walker.remeasure()

    def _walker(self, listing: Listing, now_ms: int) -> PathWalker:
        found = self._walkers.get(listing.rules.symbol)
        if found is None:
            found = self._walkers[listing.rules.symbol] = PathWalker(listing, now_ms, self._fire, self._expire)
        return found

    def wait_again(self, now_ms: int) -> None:
        """Let the live orders of books that were read back meet the price path from ``now_ms`` on."""
        self.advanced_to_ms = now_ms
        resting = [order for order in self.books.orders if order.is_active and order.is_resting]
        stops = [stop for stop in self.books.stops if stop.is_active]
        waiting: list[Waiting] = [*resting, *stops]
        for one in sorted(waiting, key=lambda one: one.number):
            self._walker(one.request.listing, now_ms).add(one)

    # -- placing ------------------------------------------------------------------------------------------------

    def place(
        self, account: Account, request: OrderRequest, now_ms: int, wall: int, is_test: bool = False
    ) -> Order | None:
        """Accept ``request`` and execute what can be; raises Refused. A test is checked and nothing more."""
        price = request.listing.price_at(now_ms)
        _check_rules(request, price)
        self._check_open(request, account)
        executions = self._executions(request, price)
        self._check_funds(account, request, executions)
        if is_test:
            return None
        order = self._accept(account, request, now_ms, wall)
        self._execute(order, executions, now_ms)
        return order

    def place_stop(
        self, account: Account, request: OrderRequest, stop_price: Decimal, fires_rising: bool, now_ms: int, wall: int
    ) -> StopOrder:
        """Accept an order that waits for ``stop_price``; it fires at once when the price is already there."""
        _check_rules(request, None)
        if stop_price % request.listing.rules.price_increment:
            raise Refused("400100", "Stop price increment invalid.")
        self._check_open(request, account)
        number = self.books.next_number()
        stop = StopOrder(
            number, f"vs{self.books.order_id(number)[2:]}", account, request, stop_price, fires_rising, now_ms, wall
        )
        self.books.accept_stop(stop)
        price = request.listing.price_at(now_ms)
        if price >= stop_price if fires_rising else price <= stop_price:
            self._trigger(stop, price, now_ms)
        else:
            self._walker(request.listing, now_ms).add(stop)
        return stop

    def _check_open(self, request: OrderRequest, account: Account) -> None:
        if self.status is not Status.OPEN:
            raise Refused("200001", "Order creation for this pair suspended")
        if not request.listing.rules.is_trading:
            raise Refused("400600", "validation.createOrder.symbolNotAvailable")
        if request.client_oid and (
            self.books.live_client_oid(account, request.client_oid)
            if self.duplicates is DuplicatePolicy.ACTIVE
            else self.duplicates is DuplicatePolicy.ALWAYS and self.books.seen_client_oid(account, request.client_oid)
        ):
            raise Refused("400100", "validation.createOrder.clientOidDuplicated")

    def _check_funds(self, account: Account, request: OrderRequest, executions: list[Execution]) -> None:
        rules = request.listing.rules
        if request.side is Side.SELL:
            wanted = request.size if request.size is not None else sum((size for _, size in executions), ZERO)
            currency = rules.base
        elif request.is_limit:
            wanted = _limit_hold(request, request.size or ZERO)
            currency = rules.quote
        else:
            funds = request.funds
            if funds is None:
                funds = sum((price * size for price, size in executions), ZERO)
            wanted = funds + fee_of(funds, rules.taker_fee)
            currency = rules.quote
        if wanted > account.balance(currency).available:
            raise Refused("200004", "Balance insufficient!")

    def _accept(self, account: Account, request: OrderRequest, now_ms: int, wall: int) -> Order:
        number = self.books.next_number()
        order = Order(number, self.books.order_id(number), account, request, now_ms, wall)
        self.books.accept(order)
        return order

    def _executions(self, request: OrderRequest, price: Decimal) -> list[Execution]:
        """What ``request`` takes from the book at once when the price is ``price``."""
        if not request.is_limit:
            if request.size is not None:
                return _taken_by_size(request.listing, request.side, price, request.size, None)
            return _taken_by_funds(request.listing, request.side, price, request.funds or ZERO)
        assert request.size is not None
        taken = _taken_by_size(request.listing, request.side, price, request.size, request.price)
        if request.is_post_only and taken:
            return []
        if request.time_in_force == "FOK" and sum((size for _, size in taken), ZERO) < request.size:
            return []
        return taken

    def _execute(self, order: Order, executions: list[Execution], now_ms: int) -> None:
        request = order.request
        for price, size in executions:
            fee = fee_of(price * size, request.listing.rules.taker_fee)
            self.books.fill(order, price, size, fee, is_maker=False, at_ms=now_ms)
        if not request.is_limit:
            left = ZERO if request.funds is None else request.funds - order.deal_funds
            self.books.finish(order, now_ms, cancelled_funds=left)
        elif not order.remain_size:
            self.books.finish(order, now_ms)
        elif request.time_in_force in ("IOC", "FOK") or (request.is_post_only and self._would_take(request, now_ms)):
            self._finish_cancelled(order, now_ms)
        else:
            order.is_resting = True
            if request.side is Side.BUY:
                self.books.hold(order, _limit_hold(request, order.remain_size))
            else:
                self.books.hold(order, order.remain_size)
            self._walker(request.listing, now_ms).add(order)

    def _would_take(self, request: OrderRequest, now_ms: int) -> bool:
        best = request.listing.best(request.side, request.listing.price_at(now_ms))
        assert request.price is not None
        return request.price >= best if request.side is Side.BUY else request.price <= best

    # -- what the path meets ------------------------------------------------------------------------------------

    def _fire(self, waiting: Waiting, price: Decimal, at_ms: int) -> None:
        if isinstance(waiting, StopOrder):
            self._trigger(waiting, price, at_ms)
            return
        if waiting.expires_at_ms is not None and waiting.expires_at_ms <= at_ms:
            self._expire(waiting, at_ms)
            return
        size = waiting.remain_size
        fee = fee_of(price * size, waiting.request.listing.rules.maker_fee)
        self.books.fill(waiting, price, size, fee, is_maker=True, at_ms=at_ms)
        self.books.finish(waiting, at_ms)

    def _expire(self, order: Order, at_ms: int) -> None:
        self._finish_cancelled(order, at_ms)

    def _trigger(self, stop: StopOrder, price: Decimal, at_ms: int) -> None:
        """Turn ``stop`` into an ordinary order; one that its balance no longer covers is cancelled unexecuted."""
        request, account = stop.request, stop.account
        stop.is_active = False
        stop.status = "TRIGGERED"
        stop.triggered_at_ms = at_ms
        self.books.note(stop)
        del account.active_stops[stop.id]
        executions = self._executions(request, price)
        stop.order = order = self._accept(account, request, at_ms, stop.arrived_at_ms)
        try:
            self._check_funds(account, request, executions)
        except Refused:
            self._finish_cancelled(order, at_ms)
            return
        self._execute(order, executions, at_ms)

    # -- cancelling ---------------------------------------------------------------------------------------------

    def cancel(self, order: Order | None, now_ms: int) -> Order:
        """Cancel a live order; Refused when there is none."""
        self._check_cancelable()
        if order is None or not order.is_active:
            raise Refused("400100", NOT_CANCELABLE)
        self._finish_cancelled(order, now_ms)
        return order

    def cancel_stop(self, stop: StopOrder | None) -> StopOrder:
        self._check_cancelable()
        if stop is None or not stop.is_active:
            raise Refused("400100", NOT_CANCELABLE)
        stop.is_active = False
        stop.status = "CANCELED"
        self.books.note(stop)
        del stop.account.active_stops[stop.id]
        return stop

    def _check_cancelable(self) -> None:
        if self.status is Status.CLOSE:
            raise Refused("200002", "Order cancellation for this pair suspended")

    def _finish_cancelled(self, order: Order, at_ms: int) -> None:
        request = order.request
        if request.size is None:
            self.books.finish(order, at_ms, cancelled_funds=(request.funds or ZERO) - order.deal_funds)
        else:
            left = order.remain_size
            self.books.finish(order, at_ms, cancelled_size=left, cancelled_funds=left * (request.price or ZERO))


def _nothing() -> None:
    """The keeping of an exchange that keeps nothing."""


def _check_rules(request: OrderRequest, market_price: Decimal | None) -> None:
    """Increments, sizes and price limits; a stop order, whose market price is not known yet, has no price limit."""
    rules = request.listing.rules
    if request.size is not None:
        if request.size < rules.base_min_size:
            raise Refused("400100", "Order size below the minimum requirement.")
        if request.size > rules.base_max_size:
            raise Refused("400100", "Order size exceeds the maximum requirement.")
        if request.size % rules.base_increment:
            raise Refused("600100", "Order size increment invalid.")
    if request.funds is not None and request.funds % rules.quote_increment:
        raise Refused("400100", "Funds increment invalid.")
    if request.price is not None:
        _check_price(request.price, request.side, rules, market_price)
    worth = _worth(request, market_price)
    if worth is not None and worth < rules.min_funds:
        raise Refused("600101", f"The order funds should more then {text(rules.min_funds)} {rules.quote}.")


def _check_price(price: Decimal, side: Side, rules: Rules, market_price: Decimal | None) -> None:
    if price % rules.price_increment:
        raise Refused("400100", "Price increment invalid.")
    if market_price is None:
        return
    most, least = market_price * (1 + rules.price_limit_rate), market_price * (1 - rules.price_limit_rate)
    if side is Side.BUY and price > most:
        raise Refused("400370", f"Max. price: {text(most)}")
    if side is Side.SELL and price < least:
        raise Refused("400760", f"order price should be more than {text(least)}")


def _worth(request: OrderRequest, market_price: Decimal | None) -> Decimal | None:
    if request.funds is not None:
        return request.funds
    price = request.price if request.price is not None else market_price
    return None if price is None or request.size is None else price * request.size


def _limit_hold(request: OrderRequest, size: Decimal) -> Decimal:
    """What a buy of ``size`` may cost at most, its fee included."""
    assert request.price is not None
    rules = request.listing.rules
    funds = request.price * size
    return funds + fee_of(funds, max(rules.maker_fee, rules.taker_fee, ZERO))


def _taken_by_size(
    listing: Listing, side: Side, price: Decimal, size: Decimal, limit: Decimal | None
) -> list[Execution]:
    taken: list[Execution] = []
    for level, offered in listing.levels(side, price):
        if not size or (limit is not None and (limit - level) * side.sign < 0):
            break
        part = min(size, offered)
        taken.append((level, part))
        size -= part
    return taken


def _taken_by_funds(listing: Listing, side: Side, price: Decimal, funds: Decimal) -> list[Execution]:
    """As much as ``funds`` pay for, in whole lots."""
    lot = listing.rules.base_increment
    taken: list[Execution] = []
    for level, offered in listing.levels(side, price):
        affordable = funds // (level * lot) * lot
        part = min(affordable, offered)
        if part <= 0:
            break
        taken.append((level, part))
        funds -= level * part
    return taken
