"""Valuing orders (MoneyManager): how much an entry may be, decided under the account's row lock.

Two sessions of one account can never both take the last of a limit: whoever holds the lock sees every position and every
order valued before it. What the venue must be asked for is asked before the lock is taken.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from domain.market import ZERO, PositionSide, Side
from domain.orders import DENIAL_TEXTS, LIVE_STATUSES, Denial, OrderStatus
from domain.sizing import Sized, Sizing, SizingMethod, size
from exchanges.accounts import balances_refresh
from exchanges.gateway import ExchangeUnavailable
from exchanges.models import Account, Balance, Market, Quote, RiskProfile
from exchanges.services import quotes_refresh
from money.halts import halt_in_force
from money.models import Valuation
from orders.ledger import orders_announce
from orders.models import Fill, Order
from pipeline.topics import Topic
from positions.models import LIVE_POSITIONS, Intent, Position
from positions.services import orders_of_positions
from sessions.models import SessionStatus, TradingSession

logger = logging.getLogger(__name__)

# A price or a balance older than this is read again before an order is valued with it.
QUOTE_IS_OLD_AFTER = timedelta(seconds=15)
# What a market order may cost beyond the price it was valued at (slippage), on top of the fee.
SLIPPAGE_MARGIN = Decimal("0.005")
BELL_IS_LATE_AFTER = timedelta(seconds=3)
# Where it cannot be read again, a price may be this old at most.
PRICE_IS_OLD_AFTER = timedelta(seconds=30)
# An entry nobody could value for this long is worth nothing any more.
REQUEST_IS_OLD_AFTER = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class AccountBook:
    """An account as one moment sees it, in its currency: equity, what is free to spend, what is at work."""

    equity: Decimal
    free_balance: Decimal
    exposure: Decimal
    open_positions: int

    def after_entry(self, reserved: Decimal) -> AccountBook:
        """The same account once one more entry, with what it reserves, has been let through."""
        return AccountBook(self.equity, self.free_balance - reserved, self.exposure + reserved, self.open_positions + 1)


class _Waiting(NamedTuple):
    """What is asked about an order before the lock is taken, named as the query names it."""

    pk: int
    market__exchange_id: int
    market__symbol: str
    market__last_quote__quoted_at: datetime | None
    account__balances_synced_at: datetime | None


def orders_value(order_ids: Sequence[int]) -> None:
    """Value REQUESTED entries: READY with a quantity, or DENIED with a reason. Orders of one account share its lock once."""
    by_account: dict[int, list[_Waiting]] = defaultdict(list)
    rows = Order.objects.filter(pk__in=list(order_ids), status=OrderStatus.REQUESTED).order_by("pk")
    for account_id, *facts in rows.values_list("account_id", *_Waiting._fields):
        by_account[account_id].append(_Waiting(*facts))
    for account_id, waiting in by_account.items():
        _read_what_is_old(account_id, waiting)
        with transaction.atomic():
            _value_for(account_id, [one.pk for one in waiting])


def account_book(account: Account) -> AccountBook | None:
    """What the account is worth and what is at work in it; None while its balance was never read. Exact when read under the
    account's lock.

    The balance is as old as its reading; what was traded since is added from the fills. Where the venue may have counted a
    fill already when it answered, the cautious side is taken until the next reading: too little for a second, never too much.
    """
    if account.balances_synced_at is None:
        return None
    balance = Balance.objects.filter(account=account, currency=account.currency).first() or Balance(
        total=ZERO, free=ZERO, read_at=account.balances_synced_at
    )
    flow = _flow_since(account, balance.read_at)
    live = Position.objects.filter(account=account, status__in=LIVE_POSITIONS)
    positions = list(live.select_related("market__last_quote").defer("market__venue_info"))
    orders = _orders_of(positions)
    reserved = sum((_still_reserved(order) for entries, _ in orders.values() for order in entries), ZERO)
    held, at_work, count = ZERO, reserved, 0
    for position in positions:
        entries, exits = orders[position.pk]
        value = _value_held(position, entries, exits)
        if not value and not any(order.status in LIVE_STATUSES for order in entries):
            continue
        # Sold already, perhaps, and in the balance: then it is no second time in the equity.
        held += ZERO if any(_may_be_counted(order, balance.read_at) for order in exits) else value
        at_work += value
        count += 1
    return AccountBook(
        equity=balance.total + flow + held,
        free_balance=balance.free + flow - reserved,
        exposure=at_work,
        open_positions=count,
    )


def orders_unvalued(now: datetime) -> list[int]:
    """Requested and not valued: what the sweep rings for."""
    late = Order.objects.filter(status=OrderStatus.REQUESTED, requested_at__lt=now - BELL_IS_LATE_AFTER)
    return list(late.order_by("requested_at").values_list("pk", flat=True))


def _read_what_is_old(account_id: int, waiting: Sequence[_Waiting]) -> None:
    known_since = timezone.now() - QUOTE_IS_OLD_AFTER
    old: dict[int, set[str]] = defaultdict(set)
    for one in waiting:
        if one.market__last_quote__quoted_at is None or one.market__last_quote__quoted_at <= known_since:
            old[one.market__exchange_id].add(one.market__symbol)
    try:
        for exchange_id, symbols in old.items():
            quotes_refresh(exchange_id, sorted(symbols))
        if any(one.account__balances_synced_at is None for one in waiting):
            balances_refresh(account_id)
    except ExchangeUnavailable as error:
        # Not fatal here: without a price or a balance the orders are denied with that reason.
        logger.warning("account %s is valued with what is known: %s", account_id, error)


def _value_for(account_id: int, order_ids: Sequence[int]) -> None:
    account = Account.objects.select_related("risk_profile").select_for_update(of=("self",)).get(pk=account_id)
    limits = getattr(account, "risk_profile", None) or RiskProfile(account=account)
    orders = list(
        Order.objects.filter(pk__in=list(order_ids), status=OrderStatus.REQUESTED)
        .select_related("market__last_quote")
        .defer("market__venue_info")
        .order_by("pk")
    )
    sessions = _sessions_of(orders)
    # Read once: under the account's lock nobody else lets an entry through, and what each of these takes is known.
    book = account_book(account)
    valuations = []
    for order in orders:
        order.account = account
        valuation = _decide(order, sessions.get(order.intent_id), account, limits, book)
        if valuation is None:
            continue
        valuations.append(valuation)
        if valuation.is_approved and book is not None:
            book = book.after_entry(order.reserved)
    Valuation.objects.bulk_create(valuations)
    decided = [valuation.order for valuation in valuations]
    orders_announce([order for order in decided if order.status == OrderStatus.READY], Topic.ORDERS)
    orders_announce([order for order in decided if order.status == OrderStatus.DENIED], Topic.ORDER_UPDATES)


def _decide(
    order: Order, session: TradingSession | None, account: Account, limits: RiskProfile, book: AccountBook | None
) -> Valuation | None:
    """Move one order to READY or DENIED, and say why; None when somebody else moved it first."""
    now = timezone.now()
    quote = getattr(order.market, "last_quote", None)
    denial = _refusal(order, session, account, limits, book, quote, now)
    sized: Sized | None = None
    price: Decimal | None = None
    if denial is None and session is not None and book is not None and quote is not None:
        price = order.price or order.stop_price or (quote.ask if order.side == Side.BUY else quote.bid)
        margin = SLIPPAGE_MARGIN + order.market.taker_fee
        # An order by hand comes with the quantity it wishes for, which is cut down or denied, and never raised.
        wish = None if order.quantity is None else order.market.rules.notional(order.quantity, price)
        sized = size(
            Sizing(
                method=SizingMethod(session.sizing_method) if wish is None else SizingMethod.FIXED_QUOTE,
                amount=session.sizing_amount if wish is None else wish,
                price=price,
                equity=book.equity,
                free_balance=book.free_balance,
                stop_loss_percent=session.exit_percents[0],
                # What it will reserve counts as exposure, margin included.
                exposure_room=None
                if limits.max_exposure is None
                else (limits.max_exposure - book.exposure) / (1 + margin),
                price_margin=margin,
            ),
            order.market.rules,
        )
        if wish is not None and order.quantity is not None and sized.capped == wish:
            # Exactly that: what came of dividing by the price may lack a lot.
            sized = replace(sized, quantity=order.quantity)
        denial = sized.denial
    if denial is None and sized is not None and price is not None:
        order.quantity = sized.quantity
        order.reserved = order.market.rules.notional(sized.quantity, price) * (1 + margin)
        moved = Order.objects.filter(pk=order.pk).move(
            OrderStatus.READY,
            among=(OrderStatus.REQUESTED,),
            quantity=order.quantity,
            reserved=order.reserved,
            valued_at=now,
        )
        order.status = OrderStatus.READY
    else:
        order.reason = denial or ""
        told = {"reason": order.reason, "detail": DENIAL_TEXTS[Denial(order.reason)]}
        moved = Order.objects.filter(pk=order.pk).move(
            OrderStatus.DENIED, among=(OrderStatus.REQUESTED,), valued_at=now, closed_at=now, **told
        )
        order.status = OrderStatus.DENIED
    return _valuation(order, denial, price, book, sized) if moved else None


def _refusal(
    order: Order,
    session: TradingSession | None,
    account: Account,
    limits: RiskProfile,
    book: AccountBook | None,
    quote: Quote | None,
    now: datetime,
) -> Denial | None:
    is_short_spot = order.position_side == PositionSide.SHORT and order.market.kind == Market.Kind.SPOT
    is_full = (
        book is not None and limits.max_open_positions is not None and book.open_positions >= limits.max_open_positions
    )
    checks = (
        (session is None or session.status != SessionStatus.ACTIVE, Denial.SESSION_NOT_ACTIVE),
        (session is not None and halt_in_force(session) is not None, Denial.HALTED),
        (order.requested_at < now - REQUEST_IS_OLD_AFTER, Denial.REQUEST_TOO_OLD),
        (account.status != Account.Status.ACTIVE, Denial.ACCOUNT_PAUSED),
        (not order.market.is_active, Denial.MARKET_NOT_TRADABLE),
        (is_short_spot, Denial.SIDE_NOT_TRADABLE),
        (quote is None or quote.quoted_at < now - PRICE_IS_OLD_AFTER, Denial.NO_FRESH_PRICE),
        (book is None, Denial.BALANCE_UNKNOWN),
        (is_full, Denial.MAX_OPEN_POSITIONS),
    )
    return next((denial for is_so, denial in checks if is_so), None)


def _valuation(
    order: Order, denial: Denial | None, price: Decimal | None, book: AccountBook | None, sized: Sized | None
) -> Valuation:
    return Valuation(
        order=order,
        verdict=denial.value if denial else Valuation.APPROVED,
        price=price,
        equity=book.equity if book else None,
        free_balance=book.free_balance if book else None,
        exposure=book.exposure if book else None,
        open_positions=book.open_positions if book else None,
        wanted=sized.wanted if sized else None,
        capped=sized.capped if sized else None,
        quantity=sized.quantity if sized else None,
    )


def _sessions_of(orders: Sequence[Order]) -> dict[UUID, TradingSession]:
    intents = Intent.objects.filter(pk__in=[order.intent_id for order in orders])
    wanted = intents.select_related("position__session__config").only(
        "position__session__status", "position__session__sizing_method", "position__session__sizing_amount",
        "position__session__stop_loss_percent", "position__session__take_profit_percent",
        "position__session__config__strategy", "position__session__config__parameters",
    )  # fmt: skip
    return {intent.pk: intent.position.session for intent in wanted}


def _flow_since(account: Account, read_at: datetime) -> Decimal:
    """What fills changed in the account's currency since its balance was read."""
    flow = ZERO
    fills = Fill.objects.filter(account=account, recorded_at__gt=read_at, is_correction=False)
    for fill in fills.select_related("market", "order"):
        change = -Side(fill.side).sign * fill.market.rules.notional(fill.quantity, fill.price)
        change -= fill.fee if fill.fee_currency == account.currency else ZERO
        # An order sent before the reading: the venue may have booked the fill by then. What it paid is taken off all the
        # same; what it brought in is not counted twice.
        # That of an order of others says when it was found, which is later than it was filled.
        sent_at = fill.order.sent_at
        is_counted_perhaps = fill.order.is_foreign or (sent_at is not None and sent_at <= read_at)
        flow += min(change, ZERO) if is_counted_perhaps else change
    return flow


def _orders_of(positions: Sequence[Position]) -> dict[int, tuple[list[Order], list[Order]]]:
    """By position: the entries that have been valued, and the exits; those at work, or that have filled something."""
    found: dict[int, tuple[list[Order], list[Order]]] = defaultdict(lambda: ([], []))
    if not positions:
        return found
    for position_id, order in orders_of_positions(position.pk for position in positions):
        if order.status != OrderStatus.REQUESTED and (order.status in LIVE_STATUSES or order.filled):
            found[position_id][order.is_exit].append(order)
    return found


def _may_be_counted(order: Order, read_at: datetime) -> bool:
    return order.may_be_at_venue and order.sent_at is not None and order.sent_at <= read_at


def _still_reserved(order: Order) -> Decimal:
    return max(order.reserved - order.filled_quote, ZERO) if order.status in LIVE_STATUSES else ZERO


def _value_held(position: Position, entries: Iterable[Order], exits: Iterable[Order]) -> Decimal:
    """What the position is worth, with the fills that are recorded and not folded yet."""
    entered = sum((order.filled for order in entries), ZERO) - position.entered
    exited = sum((order.filled for order in exits), ZERO) - position.exited
    quote = getattr(position.market, "last_quote", None)
    paid = sum((order.filled_quote for order in entries), ZERO)
    if quote is None and not position.entered:
        return paid
    price = quote.last if quote is not None else position.entry_price
    return position.market.rules.notional(max(position.quantity + entered - exited, ZERO), price)
