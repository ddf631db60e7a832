"""The account's book: what it is worth, what is free to spend, and what is at work in it, exact under the account's lock.

It takes either kind of market. What is bought on spot changes money into something that is worth its price; a position of
contracts costs a margin, and is worth what it has won or lost.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

from domain.limits import Book, Holding
from domain.market import ONE, ZERO, PositionSide, Side, Trigger
from domain.orders import LIVE_STATUSES, OrderStatus
from domain.sizing import HUNDRED, margin_kept, stop_percent
from exchanges.models import Account, Balance, Market
from orders.models import Fill, Order
from positions.models import LIVE_POSITIONS, Intent, Position
from positions.services import orders_of_positions


@dataclass(frozen=True, slots=True)
class AccountBook:
    """An account as one moment sees it, in its currency: equity, what is free to spend, what is at work."""

    equity: Decimal
    free_balance: Decimal
    holdings: tuple[Holding, ...] = ()

    @property
    def seen(self) -> Book:
        """The book as its limits see it."""
        return Book(self.equity, self.holdings)

    @property
    def exposure(self) -> Decimal:
        """The value of all positions and entries at work, whichever side they are on."""
        return self.seen.exposure

    @property
    def open_positions(self) -> int:
        return len(self.holdings)

    def after_entry(self, reserved: Decimal, holding: Holding) -> AccountBook:
        """The same account once one more entry, with what it reserves, has been let through: of a position of its own, or of
        one that is held."""
        is_held = holding.position_id is not None and bool(self.seen.of(position_id=holding.position_id))
        holdings = [
            one + holding if is_held and one.position_id == holding.position_id else one for one in self.holdings
        ]
        return replace(
            self,
            free_balance=self.free_balance - reserved,
            holdings=tuple(holdings) if is_held else (*holdings, holding),
        )


@dataclass(slots=True)
class _Worth:
    """What one position adds to its account's book: to equity, and to what is at work."""

    held: Decimal = ZERO  # the value of what is held
    gain: Decimal = ZERO  # what it adds to equity: its value on spot, its result on contracts
    at_work: Decimal = ZERO  # the value of entries that have not filled


def account_book(account: Account) -> AccountBook | None:
    """What the account is worth and what is at work in it; None while its balance was never read. Exact when read under the
    account's lock.

    The balance is as old as its reading; what was traded since is added from the fills. Where the venue may have counted a
    fill already when it answered, the cautious side is taken until the next reading: too little for a second, never too much.
    On contracts the balance is the wallet, without what open positions have won or lost, and what is free of it for margin.
    """
    if account.balances_synced_at is None:
        return None
    balance = Balance.objects.filter(account=account, currency=account.currency).first() or Balance(
        total=ZERO, free=ZERO, read_at=account.balances_synced_at
    )
    live = Position.objects.filter(account=account, status__in=LIVE_POSITIONS)
    positions = list(live.select_related("market__last_quote").defer("market__venue_info"))
    orders = _orders_of(positions)
    wallet, free = _flow_since(account, balance.read_at)
    reserved = sum((_kept_back(order, balance.read_at) for entries, _ in orders.values() for order in entries), ZERO)
    gain = ZERO
    holdings = []
    for position in positions:
        entries, exits = orders[position.pk]
        worth = _worth(position, entries, exits)
        if not worth.held and not any(order.status in LIVE_STATUSES for order in entries):
            continue
        # Sold already, perhaps, and in the balance: then it is no second time in the equity.
        sold_perhaps = any(_may_be_counted(order, balance.read_at) for order in exits)
        gain += min(worth.gain, ZERO) if sold_perhaps else worth.gain
        holdings.append(_holding(position, worth))
    return AccountBook(
        equity=balance.total + wallet + gain,
        free_balance=balance.free + free - reserved,
        holdings=tuple(holdings),
    )


def price_margin(order: Order) -> Decimal:
    """The fraction of an order's notional that is kept back on top of it: the fee, and slippage where it has no limit."""
    return margin_kept(order.market.taker_fee, has_limit=order.price is not None)


def leverage_of(order: Order) -> Decimal:
    """What an order is levered by; nothing is but contracts."""
    leverage: Decimal = order.leverage
    return max(leverage, ONE) if order.market.kind == Market.Kind.LINEAR_FUTURE else ONE


def _flow_since(account: Account, read_at: datetime) -> tuple[Decimal, Decimal]:
    """What fills changed in the account's currency since its balance was read: in all, and of what is free."""
    wallet, free = ZERO, ZERO
    fills = Fill.objects.filter(account=account, recorded_at__gt=read_at, is_correction=False)
    found = list(fills.select_related("market", "order"))
    entry_prices = _entry_prices(found)
    for fill in found:
        fee = fill.fee if fill.fee_currency == account.currency else ZERO
        if fill.market.kind == Market.Kind.LINEAR_FUTURE:
            change, margin = _of_contracts(fill, entry_prices.get(fill.order.intent_id))
            changes = (change - fee, change - fee - margin)
        else:
            change = -Side(fill.side).sign * fill.market.rules.notional(fill.quantity, fill.price) - fee
            changes = (change, change)
        # An order sent before the reading: the venue may have booked the fill by then. What it paid is taken off all the
        # same; what it brought in is not counted twice.
        # That of an order of others says when it was found, which is later than it was filled.
        sent_at = fill.order.sent_at
        is_counted_perhaps = fill.order.is_foreign or (sent_at is not None and sent_at <= read_at)
        wallet += min(changes[0], ZERO) if is_counted_perhaps else changes[0]
        free += min(changes[1], ZERO) if is_counted_perhaps else changes[1]
    return wallet, free


def _entry_prices(fills: Sequence[Fill]) -> dict[object, Decimal]:
    """By intent, the average entry price of its position, for the fills of contracts that close something."""
    closing = {
        fill.order.intent_id for fill in fills if fill.order.is_exit and fill.market.kind == Market.Kind.LINEAR_FUTURE
    }
    if not closing:
        return {}
    return dict(Intent.objects.filter(pk__in=closing).values_list("pk", "position__entry_price"))


def _of_contracts(fill: Fill, entry_price: Decimal | None) -> tuple[Decimal, Decimal]:
    """What a fill of contracts brought, its fee apart, and what margin it took (negative: gave back)."""
    rules, leverage = fill.market.rules, leverage_of(fill.order)
    if entry_price is None:  # an entry, or somebody else's
        return ZERO, rules.notional(fill.quantity, fill.price) / leverage
    won = rules.notional(fill.quantity, fill.price - entry_price) * PositionSide(fill.order.position_side).sign
    return won, -rules.notional(fill.quantity, entry_price) / leverage


def _orders_of(positions: Sequence[Position]) -> dict[int, tuple[list[Order], list[Order]]]:
    """By position: the entries that have been valued, and the exits; those at work, or that have filled something."""
    found: dict[int, tuple[list[Order], list[Order]]] = defaultdict(lambda: ([], []))
    if not positions:
        return found
    markets = {position.market_id: position.market for position in positions}
    for position_id, order in orders_of_positions(position.pk for position in positions):
        if order.status != OrderStatus.REQUESTED and (order.status in LIVE_STATUSES or order.filled):
            order.market = markets[order.market_id]
            found[position_id][order.is_exit].append(order)
    return found


def _may_be_counted(order: Order, read_at: datetime) -> bool:
    """Whether the venue may have counted what an exit did when it was asked for the balance. One that rests there all the
    time its position is held has done nothing before the market comes to its price."""
    return order.may_be_at_venue and order.sent_at is not None and order.sent_at <= read_at and not _rests(order)


def _rests(order: Order) -> bool:
    quote = getattr(order.market, "last_quote", None)
    price = order.stop_price if order.stop_price is not None else order.price
    if price is None or quote is None or order.filled:
        return False
    is_rising = order.trigger == Trigger.RISING if order.trigger else order.side == Side.SELL
    return bool(quote.last < price if is_rising else quote.last > price)


def _still_reserved(order: Order) -> Decimal:
    if order.status not in LIVE_STATUSES:
        return ZERO
    if order.market.kind != Market.Kind.LINEAR_FUTURE:
        left: Decimal = max(order.reserved - order.filled_quote, ZERO)
        return left
    reserved: Decimal = order.reserved
    return reserved * max(ONE - order.filled / order.quantity, ZERO) if order.quantity else reserved


def _kept_back(order: Order, read_at: datetime) -> Decimal:
    """What of the venue's free balance an entry will take. Of one that rested there when the balance was read the venue has
    set aside the price already; the fee perhaps not."""
    reserved = _still_reserved(order)
    rested = order.status == OrderStatus.OPENED and order.opened_at is not None and order.opened_at <= read_at
    if not rested or order.price is None or order.quantity is None:
        return reserved
    unfilled = order.market.rules.notional(order.quantity - order.filled, order.price) / leverage_of(order)
    return max(reserved - unfilled, ZERO)


def _at_work(order: Order) -> Decimal:
    """What an entry may still become, slippage and fee included; on spot that is what it reserves."""
    margin = price_margin(order)
    return _still_reserved(order) / (ONE / leverage_of(order) + margin) * (ONE + margin)


def _worth(position: Position, entries: Sequence[Order], exits: Sequence[Order]) -> _Worth:
    """What the position is worth, with the fills that are recorded and not folded yet."""
    is_contracts = position.market.kind == Market.Kind.LINEAR_FUTURE
    rules = position.market.rules
    live = [order for order in entries if order.status in LIVE_STATUSES]
    at_work = sum((_at_work(order) if is_contracts else _still_reserved(order) for order in live), ZERO)
    filled = sum((order.filled for order in entries), ZERO)
    paid = sum((order.filled_quote for order in entries), ZERO)
    exited = sum((order.filled for order in exits), ZERO) - position.exited
    quantity = max(position.quantity + filled - position.entered - exited, ZERO)
    quote = getattr(position.market, "last_quote", None)
    if quote is None and not position.entered:
        held = paid * rules.contract_size
        return _Worth(held, ZERO if is_contracts else held, at_work)
    price = quote.last if quote is not None else position.entry_price
    held = rules.notional(quantity, price)
    if not is_contracts:
        return _Worth(held, held, at_work)
    average = paid / filled if filled else position.entry_price
    return _Worth(held, rules.notional(quantity, price - average) * PositionSide(position.side).sign, at_work)


def _holding(position: Position, worth: _Worth) -> Holding:
    side = PositionSide(position.side)
    quote = getattr(position.market, "last_quote", None)
    price = quote.last if quote is not None else position.entry_price
    risk = worth.held
    if position.stop_price is not None and price:
        risk = worth.held * max((price - position.stop_price) * side.sign / price, ZERO)
    elif worth.held:
        risk = worth.held * risk_fraction(position, price)
    if worth.at_work:
        risk += worth.at_work * risk_fraction(position, price)
    return Holding(
        position_id=position.pk, market=position.market.symbol, base=position.market.base,
        notional=side.sign * (worth.held + worth.at_work), risk=risk,
    )  # fmt: skip


def risk_fraction(position: Position, price: Decimal) -> Decimal:
    """The part of an entry at ``price`` that is lost at the tightest stop of the position's plan; all of it without one."""
    if not price:
        return ONE
    percent = stop_percent(
        position.exit_plan, price=price, side=PositionSide(position.side), atr=position.atr,
        signal_stop=position.signal_stop_price,
    )  # fmt: skip
    return ONE if percent is None else percent / HUNDRED
