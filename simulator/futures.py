"""The futures desk: linear perpetuals with leverage, reduce-only orders, funding every eight hours, and liquidation.

Money is the wallet: deposits + what closed contracts realised - fees + funding. Margin only reserves part of it.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from domain.market import ZERO, Side
from domain.matching import fee_of
from simulator.books import Account, Books
from simulator.checks import Execution, executions_of
from simulator.contracts import FUNDING_EVERY_MS, next_funding_ms
from simulator.desk import Desk
from simulator.market import Listing, Market
from simulator.orders import Order, OrderRequest, StopOrder
from simulator.positions import (
    LIQUIDATION,
    UNIT,
    Funding,
    FuturesAccount,
    FuturesFill,
    FuturesOrder,
    FuturesRequest,
    FuturesStop,
    Position,
    margin_for,
)
from simulator.refusals import Refused
from simulator.settings import Settings

if TYPE_CHECKING:
    from simulator.walker import Waiting


class FuturesBooks(Books):
    """Orders, fills, positions and funding of the futures desk."""

    FILL = FuturesFill

    def __init__(self) -> None:
        super().__init__()
        self.funding: list[Funding] = []

    def account_of(self, owner: Account) -> FuturesAccount:
        """The futures side of ``owner``, opened when it is first asked for."""
        found = self.accounts.get(owner.api_key)
        if found is None:
            found = self.accounts[owner.api_key] = FuturesAccount(owner)
        return _futures(found)

    def position(self, account: FuturesAccount, listing: Listing) -> Position:
        symbol = listing.rules.symbol
        found = account.positions.get(symbol)
        if found is None:
            found = account.positions[symbol] = Position(self.next_number(), account, listing)
            found.is_cross = account.is_cross_on.get(symbol, False)
            self.note(found)
        return found

    def _held_currency(self, order: Order) -> str:
        return order.request.listing.rules.quote

    def _settle(self, account: Account, order: Order, price: Decimal, size: Decimal, funds: Decimal) -> Decimal:
        """Close what can be closed, open the rest; what the closing realised."""
        request = order.request
        assert isinstance(request, FuturesRequest)
        position = self.position(_futures(account), request.listing)
        closed = min(size, position.reducible_by(request.side))
        realised = ZERO
        if closed:
            is_all = closed == abs(position.quantity)
            share = closed / abs(position.quantity)
            cost = position.cost if is_all else (position.cost * share).quantize(UNIT)
            margin = position.margin if is_all else (position.margin * share).quantize(UNIT)
            realised = (price * closed * request.rules.multiplier - cost) * (1 if position.quantity > 0 else -1)
            position.cost -= cost
            position.margin -= margin
            position.quantity += closed * request.side.sign
            position.realised += realised
            account.balance(request.rules.quote).total += realised
        opened = size - closed
        if opened:
            if not position.quantity:
                self._open(position, request, order.updated_at_ms)
            value = price * opened * request.rules.multiplier
            position.quantity += opened * request.side.sign
            position.cost += value
            position.margin += margin_for(value, position.leverage)
        self.note(position)
        return realised

    def _open(self, position: Position, request: FuturesRequest, at_ms: int) -> None:
        position.leverage, position.is_cross = request.leverage, request.is_cross
        position.realised = position.commission = position.funding = ZERO
        position.opened_at_ms = at_ms

    def pay_funding(self, position: Position, price: Decimal, at_ms: int) -> None:
        """A long pays a short when the rate is positive."""
        rules = position.rules
        amount = (-position.quantity * price * rules.multiplier * rules.funding_rate).quantize(UNIT)
        position.funding += amount
        position.account.balance(rules.quote).total += amount
        made = Funding(
            self.next_number(),
            position.account,
            rules.symbol,
            at_ms,
            rules.funding_rate,
            position.quantity,
            price,
            position.cost,
            amount,
            rules.quote,
        )
        self.funding.append(made)
        self.note(position, position.account, made)

    def read_funding_back(self, funding: list[Funding]) -> None:
        """Fill empty books with the funding that was kept of them, after everything else."""
        self.funding = funding
        numbers = [one.number for one in funding]
        for account in self.accounts.values():
            numbers += [position.number for position in _futures(account).positions.values()]
        self._number = max([self._number, *numbers])


class Liquidation(StopOrder):
    """Waits for a position's liquidation price, beside the orders; nobody placed it and nobody sees it."""

    __slots__ = ("position",)

    def __init__(self, position: Position, price: Decimal) -> None:
        side = Side.SELL if position.quantity > 0 else Side.BUY
        request = OrderRequest(position.listing, side, False, abs(position.quantity), None, None, "")
        super().__init__(0, "", position.account, request, price, side is Side.BUY, 0, 0)
        self.position = position


class FuturesDesk(Desk):
    """The order path of contracts; see ``Desk``."""

    books: FuturesBooks

    def __init__(self, books: FuturesBooks, settings: Settings, market: Market, now_ms: int) -> None:
        super().__init__(books, settings, market.price_of)
        self._liquidations: dict[Position, Liquidation] = {}
        self._funding_due_ms = next_funding_ms(now_ms)

    # -- time ---------------------------------------------------------------------------------------------------

    def walk(self, now_ms: int) -> None:
        while self._funding_due_ms <= now_ms:
            super().walk(self._funding_due_ms)
            self._fund(self._funding_due_ms)
            self._funding_due_ms += FUNDING_EVERY_MS
        super().walk(now_ms)
        self._liquidate_cross(now_ms)

    def wait_again(self, now_ms: int) -> None:
        super().wait_again(now_ms)
        self._funding_due_ms = next_funding_ms(now_ms)
        for account in self.books.accounts.values():
            for position in _futures(account).open_positions():
                self._watch(position, now_ms)

    def _fund(self, at_ms: int) -> None:
        for account in self.books.accounts.values():
            for position in _futures(account).open_positions():
                self.books.pay_funding(position, position.listing.price_at(at_ms), at_ms)

    # -- orders -------------------------------------------------------------------------------------------------

    def _new_order(self, number: int, account: Account, request: OrderRequest, at_ms: int, wall: int) -> Order:
        return FuturesOrder(number, self.books.order_id(number), account, request, at_ms, wall)

    def _new_stop(
        self, account: Account, request: OrderRequest, stop_price: Decimal, fires_rising: bool, at_ms: int, wall: int
    ) -> StopOrder:
        number = self.books.next_number()
        return FuturesStop(number, self.books.order_id(number), account, request, stop_price, fires_rising, at_ms, wall)

    def _check_open(self, request: OrderRequest, account: Account) -> None:
        super()._check_open(request, account)
        assert isinstance(request, FuturesRequest)
        if not 1 <= request.leverage <= request.rules.max_leverage:
            raise Refused("100001", f"The leverage cannot be greater than {request.rules.max_leverage}.")
        if request.is_cross is not _futures(account).is_cross_on.get(request.rules.symbol, False):
            raise Refused(
                "330005", "The order's margin mode does not match the selected one. Please switch and try again."
            )

    def _check_funds(self, account: Account, request: OrderRequest, executions: list[Execution], now_ms: int) -> None:
        """What opens contracts needs their margin and its fee; what closes them needs nothing but them."""
        assert isinstance(request, FuturesRequest)
        owner = _futures(account)
        closes = self.books.position(owner, request.listing).reducible_by(request.side)
        if request.is_reduce_only:
            if not closes:
                raise Refused("300009", "No open positions to close.")
            return
        price = request.price
        if price is None:
            price = executions[-1][0] if executions else request.listing.price_at(now_ms)
        wanted = self._margin_and_fee(request, price, max(ZERO, (request.size or ZERO) - closes))
        if wanted > owner.funds(request.rules.quote, now_ms)[0]:
            raise Refused("300003", "Balance insufficient, please deposit funds.")

    def _id_once_triggered(self, stop: StopOrder) -> str | None:
        return stop.id

    def _margin_and_fee(self, request: FuturesRequest, price: Decimal, size: Decimal) -> Decimal:
        value = price * size * request.rules.multiplier
        return margin_for(value, request.leverage) + fee_of(value, max(request.rules.taker_fee, ZERO))

    def _executions(self, account: Account, request: OrderRequest, price: Decimal) -> list[Execution]:
        taken = executions_of(request, price)
        assert isinstance(request, FuturesRequest)
        if not request.is_reduce_only:
            return taken
        left = self.books.position(_futures(account), request.listing).reducible_by(request.side)
        kept = []
        for level, size in taken:
            part = min(size, left)
            if part:
                kept.append((level, part))
            left -= part
        return kept

    def _finish_market(self, order: Order, now_ms: int) -> None:
        self.books.finish(order, now_ms, cancelled_size=order.remain_size)

    def _hold_rest(self, order: Order) -> None:
        request = order.request
        assert isinstance(request, FuturesRequest)
        assert request.price is not None
        wanted = ZERO
        if not request.is_reduce_only:
            closes = self.books.position(_futures(order.account), request.listing).reducible_by(request.side)
            wanted = self._margin_and_fee(request, request.price, max(ZERO, order.remain_size - closes))
        self.books.hold(order, wanted)

    def _fill(self, order: Order, price: Decimal, size: Decimal, is_maker: bool, at_ms: int) -> None:
        rules = order.request.listing.rules
        fee = fee_of(price * size * rules.multiplier, rules.maker_fee if is_maker else rules.taker_fee)
        self.books.fill(order, price, size, fee, rules.quote, is_maker, at_ms)
        position = self.books.position(_futures(order.account), order.request.listing)
        position.commission += fee
        self._watch(position, at_ms)

    def _fill_resting(self, order: Order, price: Decimal, at_ms: int) -> None:
        request = order.request
        if isinstance(request, FuturesRequest) and request.is_reduce_only:
            left = self.books.position(_futures(order.account), request.listing).reducible_by(request.side)
            if left < order.remain_size:
                if left:
                    self._fill(order, price, left, is_maker=True, at_ms=at_ms)
                self._finish_cancelled(order, at_ms)
                return
        super()._fill_resting(order, price, at_ms)

    # -- liquidation --------------------------------------------------------------------------------------------

    def _fire(self, waiting: Waiting, price: Decimal, at_ms: int) -> None:
        if isinstance(waiting, Liquidation):
            waiting.is_active = False
            bankruptcy = waiting.position.bankruptcy_price()
            if bankruptcy is not None:  # the insurance fund bears what is lost beyond the margin
                price = max(price, bankruptcy) if waiting.position.quantity > 0 else min(price, bankruptcy)
            self._liquidate(waiting.position, price, at_ms)
        else:
            super()._fire(waiting, price, at_ms)

    def _watch(self, position: Position, now_ms: int) -> None:
        """Wait for the liquidation price that ``position`` has now."""
        before = self._liquidations.pop(position, None)
        if before is not None:
            before.is_active = False
        price = None if position.is_cross else position.liquidation_price()
        if price is not None:
            watch = self._liquidations[position] = Liquidation(position, price)
            self.walker(position.listing, now_ms).add(watch)

    def _liquidate(self, position: Position, price: Decimal, at_ms: int) -> None:
        """Close all of ``position`` at ``price``, by an order that nobody placed."""
        size, side = abs(position.quantity), Side.SELL if position.quantity > 0 else Side.BUY
        request = FuturesRequest(
            position.listing,
            side,
            False,
            size,
            None,
            None,
            "",
            remark=LIQUIDATION,
            leverage=position.leverage,
            is_cross=position.is_cross,
            is_reduce_only=True,
        )
        order = self._accept(position.account, request, at_ms, 0)
        self._fill(order, price, size, is_maker=False, at_ms=at_ms)
        self.books.finish(order, at_ms)

    def _liquidate_cross(self, now_ms: int) -> None:
        """Cross positions share their wallet: when that no longer bears them, all of them are closed."""
        for account in self.books.accounts.values():
            crossed = [one for one in _futures(account).open_positions() if one.is_cross]
            for currency in {one.rules.quote for one in crossed}:
                mine = [(one, one.listing.price_at(now_ms)) for one in crossed if one.rules.quote == currency]
                available, _, _ = _futures(account).funds(currency, now_ms)
                left = available + sum((one.margin for one, _ in mine), ZERO)
                if left <= sum((one.maintenance(price) for one, price in mine), ZERO):
                    for one, price in mine:
                        self._liquidate(one, price, now_ms)


def _futures(account: Account) -> FuturesAccount:
    assert isinstance(account, FuturesAccount)
    return account
