"""Takes, refuses, executes and cancels orders by KuCoin's rules, on one set of books. No HTTP in here.

``walk`` moves every symbol's price path on and fills what the path met. A taker trades against a depth made from the
price; its own trading does not move the price. The spot desk; the futures desk overrides what money means.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from decimal import ROUND_UP, Decimal

from domain.market import ZERO, Side
from domain.matching import fee_of
from simulator.books import Account, Books
from simulator.checks import Execution, check_rules, executions_of, limit_cost, would_take
from simulator.clock import wall_ms
from simulator.market import Listing
from simulator.orders import Order, OrderRequest, StopOrder
from simulator.refusals import Refused
from simulator.rules import Rules
from simulator.settings import DuplicatePolicy, Settings, Status
from simulator.walker import PathWalker, Waiting

NOT_CANCELABLE = "order_not_exist_or_not_allow_to_cancel"
KCS, KCS_DISCOUNT, KCS_UNIT = "KCS", Decimal("0.8"), Decimal("0.00000001")


class Desk:
    """The order path. ``price_of(currency, in_currency, at_ms)`` is the market's word on a currency, for fees in KCS."""

    def __init__(self, books: Books, settings: Settings, price_of: Callable[[str, str, int], Decimal]) -> None:
        self.books = books
        self.settings = settings
        self._price_of = price_of
        self._walkers: dict[str, PathWalker] = {}
        self._cancels: list[tuple[int, int, Order]] = []  # accepted and not yet in effect: (wall ms, number, order)

    # -- time ---------------------------------------------------------------------------------------------------

    def walk(self, now_ms: int) -> None:
        """Let every price path reach ``now_ms``, then let due cancels take effect."""
        for walker in self._walkers.values():
            walker.advance(now_ms)
        while self._cancels and self._cancels[0][0] <= wall_ms():
            order = heapq.heappop(self._cancels)[2]
            if order.is_active:
                self._finish_cancelled(order, now_ms)

    def walker(self, listing: Listing, now_ms: int) -> PathWalker:
        """The walker of ``listing``'s price path."""
        found = self._walkers.get(listing.rules.symbol)
        if found is None:
            found = self._walkers[listing.rules.symbol] = PathWalker(listing, now_ms, self._fire, self._expire)
        return found

    def wait_again(self, now_ms: int) -> None:
        """Let the live orders of books that were read back meet the price path from ``now_ms`` on."""
        resting = [order for order in self.books.orders if order.is_active and order.is_resting]
        stops = [stop for stop in self.books.stops if stop.is_active]
        waiting: list[Waiting] = [*resting, *stops]
        for one in sorted(waiting, key=lambda one: one.number):
            walker = self.walker(one.request.listing, now_ms)
            if isinstance(one, Order) and one.paused_until_ms > now_ms:
                walker.add_at(one.paused_until_ms, one)
                walker.expire(one)
            else:
                walker.add(one)
        for order in resting:
            if order.cancel_at_ms is not None:
                heapq.heappush(self._cancels, (order.cancel_at_ms, order.number, order))

    # -- placing ------------------------------------------------------------------------------------------------

    def place(
        self, account: Account, request: OrderRequest, now_ms: int, wall: int, is_test: bool = False
    ) -> Order | None:
        """Accept ``request`` and execute what can be; raises Refused. A test is checked and nothing more."""
        price = request.listing.price_at(now_ms)
        check_rules(request, price)
        self._check_open(request, account)
        executions = self._executions(account, request, price)
        self._check_funds(account, request, executions, now_ms)
        if is_test:
            return None
        order = self._accept(account, request, now_ms, wall)
        self._execute(order, executions, now_ms)
        return order

    def place_stop(
        self, account: Account, request: OrderRequest, stop_price: Decimal, fires_rising: bool, now_ms: int, wall: int
    ) -> StopOrder:
        """Accept an order that waits for ``stop_price``; it fires at once when the price is already there."""
        check_rules(request, None)
        if stop_price % request.listing.rules.price_increment:
            raise Refused("400100", "Stop price increment invalid.")
        self._check_open(request, account)
        stop = self._new_stop(account, request, stop_price, fires_rising, now_ms, wall)
        self.books.accept_stop(stop)
        price = request.listing.price_at(now_ms)
        if price >= stop_price if fires_rising else price <= stop_price:
            self._trigger(stop, price, now_ms)
        else:
            self.walker(request.listing, now_ms).add(stop)
        return stop

    def _new_order(self, number: int, account: Account, request: OrderRequest, at_ms: int, wall: int) -> Order:
        return Order(number, self.books.order_id(number), account, request, at_ms, wall)

    def _new_stop(
        self, account: Account, request: OrderRequest, stop_price: Decimal, fires_rising: bool, at_ms: int, wall: int
    ) -> StopOrder:
        number = self.books.next_number()
        stop_id = f"vs{self.books.order_id(number)[2:]}"
        return StopOrder(number, stop_id, account, request, stop_price, fires_rising, at_ms, wall)

    def _check_open(self, request: OrderRequest, account: Account) -> None:
        settings, client_oid = self.settings, request.client_oid
        if settings.status is not Status.OPEN:
            raise Refused("200001", "Order creation for this pair suspended")
        if not request.listing.rules.is_trading:
            raise Refused("400600", "validation.createOrder.symbolNotAvailable")
        if client_oid and (
            self.books.live_client_oid(account, client_oid)
            if settings.duplicates is DuplicatePolicy.ACTIVE
            else settings.duplicates is DuplicatePolicy.ALWAYS and self.books.seen_client_oid(account, client_oid)
        ):
            raise Refused("400100", "validation.createOrder.clientOidDuplicated")

    def _check_funds(self, account: Account, request: OrderRequest, executions: list[Execution], now_ms: int) -> None:
        rules = request.listing.rules
        if request.side is Side.SELL:
            wanted = request.size if request.size is not None else sum((size for _, size in executions), ZERO)
            currency = rules.base
        elif request.is_limit:
            wanted = limit_cost(request, request.size or ZERO)
            currency = rules.quote
        else:
            funds = request.funds
            if funds is None:
                funds = sum((price * size for price, size in executions), ZERO)
            wanted = funds + fee_of(funds, rules.taker_fee)
            currency = rules.quote
        if wanted > account.balance(currency).available:
            raise Refused("200004", "Balance insufficient!")

    def _executions(self, account: Account, request: OrderRequest, price: Decimal) -> list[Execution]:
        return executions_of(request, price)

    def _accept(
        self, account: Account, request: OrderRequest, now_ms: int, wall: int, order_id: str | None = None
    ) -> Order:
        order = self._new_order(self.books.next_number(), account, request, now_ms, wall)
        order.id = order_id or order.id
        self.books.accept(order)
        return order

    def _id_once_triggered(self, stop: StopOrder) -> str | None:
        """The id of the order that ``stop`` becomes; None for one of its own, as at the spot desk."""
        return None

    def _execute(self, order: Order, executions: list[Execution], now_ms: int) -> None:
        request = order.request
        for price, size in executions:
            self._fill(order, price, size, is_maker=False, at_ms=now_ms)
        if not request.is_limit:
            self._finish_market(order, now_ms)
        elif not order.remain_size:
            self.books.finish(order, now_ms)
        elif request.time_in_force in ("IOC", "FOK") or (
            request.is_post_only and would_take(request, request.listing.price_at(now_ms))
        ):
            self._finish_cancelled(order, now_ms)
        else:
            order.is_resting = True
            self._hold_rest(order)
            self.walker(request.listing, now_ms).add(order)

    def _finish_market(self, order: Order, now_ms: int) -> None:
        funds = order.request.funds
        self.books.finish(order, now_ms, cancelled_funds=ZERO if funds is None else funds - order.deal_funds)

    # -- money --------------------------------------------------------------------------------------------------

    def _hold_rest(self, order: Order) -> None:
        """Reserve what the rest of a resting order may cost."""
        request = order.request
        wanted = limit_cost(request, order.remain_size) if request.side is Side.BUY else order.remain_size
        self.books.hold(order, wanted)

    def _fill(self, order: Order, price: Decimal, size: Decimal, is_maker: bool, at_ms: int) -> None:
        rules = order.request.listing.rules
        fee = fee_of(price * size, rules.maker_fee if is_maker else rules.taker_fee)
        currency, paid = self._paid_fee(order.account, rules, fee, at_ms)
        self.books.fill(order, price, size, paid, currency, is_maker, at_ms)

    def _paid_fee(self, account: Account, rules: Rules, fee: Decimal, at_ms: int) -> tuple[str, Decimal]:
        """(currency, amount): in KCS with its discount where the account wants that and has enough of it."""
        if account.pays_fees_in_kcs and fee > 0 and KCS not in (rules.base, rules.quote):
            amount = (fee * KCS_DISCOUNT / self._price_of(KCS, rules.quote, at_ms)).quantize(
                KCS_UNIT, rounding=ROUND_UP
            )
            if amount <= account.balance(KCS).available:
                return KCS, amount
        return rules.quote, fee

    # -- what the path meets ------------------------------------------------------------------------------------

    def _fire(self, waiting: Waiting, price: Decimal, at_ms: int) -> None:
        if isinstance(waiting, StopOrder):
            self._trigger(waiting, price, at_ms)
        elif waiting.expires_at_ms is not None and waiting.expires_at_ms <= at_ms:
            self._expire(waiting, at_ms)
        else:
            self._fill_resting(waiting, price, at_ms)

    def _fill_resting(self, order: Order, price: Decimal, at_ms: int) -> None:
        """Fill ``order``, or the part of it that the settings let fill at once; the rest has its next chance later."""
        lot, ratio, size = order.request.listing.rules.base_increment, self.settings.fill_ratio, order.remain_size
        if ratio < 1 and order.request.size is not None:
            size = min(size, max(lot, order.request.size * ratio // lot * lot))
        self._fill(order, price, size, is_maker=True, at_ms=at_ms)
        if not order.remain_size:
            self.books.finish(order, at_ms)
            return
        self._hold_rest(order)
        order.paused_until_ms = at_ms + self.settings.fill_pause_ms
        self.walker(order.request.listing, at_ms).add_at(order.paused_until_ms, order)

    def fill_part(self, order: Order, size: Decimal, now_ms: int) -> None:
        """Fill ``size`` of a resting order at its own price; ValueError when it is not resting or smaller."""
        if not order.is_active or not order.is_resting or not 0 < size <= order.remain_size:
            raise ValueError(f"wanted a size of at most the {order.remain_size} that rest of a live order, was {size}")
        if size % order.request.listing.rules.base_increment:
            raise ValueError(f"wanted a size in steps of {order.request.listing.rules.base_increment}, was {size}")
        assert order.request.price is not None
        self._fill(order, order.request.price, size, is_maker=True, at_ms=now_ms)
        if order.remain_size:
            self._hold_rest(order)
        else:
            self.books.finish(order, now_ms)

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
        executions = self._executions(account, request, price)
        stop.order = order = self._accept(account, request, at_ms, stop.arrived_at_ms, self._id_once_triggered(stop))
        try:
            self._check_funds(account, request, executions, at_ms)
        except Refused:
            self._finish_cancelled(order, at_ms)
            return
        self._execute(order, executions, at_ms)

    # -- cancelling ---------------------------------------------------------------------------------------------

    def cancel(self, order: Order | None, now_ms: int, is_sync: bool = False) -> Order:
        """Cancel a live order, now or (unless ``is_sync``) after the delay that is set; Refused when there is none."""
        self._check_cancelable()
        if order is None or not order.is_active:
            raise Refused("400100", NOT_CANCELABLE)
        delay = self.settings.cancel_delay_ms
        if is_sync or not delay:
            self._finish_cancelled(order, now_ms)
        elif order.cancel_at_ms is None:
            order.cancel_at_ms = wall_ms() + delay
            heapq.heappush(self._cancels, (order.cancel_at_ms, order.number, order))
            self.books.note(order)
        return order

    def cancel_stop(self, stop: StopOrder | None) -> StopOrder:
        self._check_cancelable()
        if stop is None or not stop.is_active:
            raise Refused("400100", NOT_CANCELABLE)
        self._drop_stop(stop)
        return stop

    def _drop_stop(self, stop: StopOrder) -> None:
        stop.is_active = False
        stop.status = "CANCELED"
        self.books.note(stop)
        del stop.account.active_stops[stop.id]

    def clear(self, symbol: str, now_ms: int) -> None:
        """Cancel whatever is live on ``symbol``, as a delisting does."""
        for account in self.books.accounts.values():
            for order in list(account.book(symbol).active.values()):
                self._finish_cancelled(order, now_ms)
            for stop in list(account.active_stops.values()):
                if stop.request.listing.rules.symbol == symbol:
                    self._drop_stop(stop)

    def _check_cancelable(self) -> None:
        if self.settings.status is Status.CLOSE:
            raise Refused("200002", "Order cancellation for this pair suspended")

    def _finish_cancelled(self, order: Order, at_ms: int) -> None:
        request = order.request
        if request.size is None:
            self.books.finish(order, at_ms, cancelled_funds=(request.funds or ZERO) - order.deal_funds)
        else:
            left = order.remain_size
            self.books.finish(order, at_ms, cancelled_size=left, cancelled_funds=left * (request.price or ZERO))
