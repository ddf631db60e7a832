"""Valuing orders (MoneyManager): how much an entry may be, decided under the account's row lock.

Two sessions of one account can never both take the last of a limit: whoever holds the lock sees every position and every
order valued before it. What the venue must be asked for is asked before the lock is taken.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from domain.market import ZERO, PositionSide, Side
from domain.orders import DENIAL_TEXTS, LIVE_STATUSES, Denial, OrderStatus
from domain.sizing import Sized, Sizing, SizingMethod, size
from exchanges.gateway import ExchangeUnavailable
from exchanges.models import Account, Balance, Market, Quote, RiskProfile
from exchanges.services import balances_refresh, quotes_refresh
from money.models import Valuation
from orders.models import Fill, Order
from orders.services import orders_announce
from pipeline.topics import Topic
from positions.models import LIVE_POSITIONS, Intent, Position
from sessions.models import SessionStatus, TradingSession

logger = logging.getLogger(__name__)

# A price or a balance older than this is read again before an order is valued with it.
QUOTE_IS_OLD_AFTER = timedelta(seconds=15)
# What a market order may cost beyond the price it was valued at (slippage), on top of the fee.
SLIPPAGE_MARGIN = Decimal("0.005")
BELL_IS_LATE_AFTER = timedelta(seconds=3)
# An entry nobody could value for this long is worth nothing any more.
REQUEST_IS_OLD_AFTER = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class AccountBook:
    """An account as one moment sees it, in its currency: equity, what is free to spend, what is at work."""

    equity: Decimal
    free_balance: Decimal
    exposure: Decimal
    open_positions: int


def orders_value(order_ids: Sequence[int]) -> None:
    """Value REQUESTED entries: READY with a quantity, or DENIED with a reason. Orders of one account share its lock once."""
    by_account: dict[int, list[int]] = defaultdict(list)
    waiting = Order.objects.filter(pk__in=list(order_ids), status=OrderStatus.REQUESTED)
    for order_id, account_id in waiting.order_by("pk").values_list("pk", "account_id"):
        by_account[account_id].append(order_id)
    for account_id, ids in by_account.items():
        _read_what_is_old(account_id, ids)
        with transaction.atomic():
            _value_for(account_id, ids)


def account_book(account: Account, excluding: Iterable[int] = ()) -> AccountBook | None:
    """What the account is worth and what is at work in it, without the orders ``excluding``; None while its balance was
    never read. Exact when read under the account's lock.

    The balance is as old as its reading; what was traded since is added from the fills. A fill that the venue had already
    counted when it answered is subtracted twice until the next reading: too cautious for a second, never too bold.
    """
    balance = Balance.objects.filter(account=account, currency=account.currency).first()
    if balance is None:
        return None
    flow = ZERO
    since = Fill.objects.filter(account=account, recorded_at__gt=balance.read_at).select_related("market")
    for fill in since:
        flow -= Side(fill.side).sign * fill.market.rules.notional(fill.quantity, fill.price)
        flow -= fill.fee if fill.fee_currency == account.currency else ZERO
    entries = _entries_of(account, set(excluding))
    reserved = sum((_still_reserved(order) for order in entries.values()), ZERO)
    held, at_work, count = ZERO, reserved, 0
    for position in Position.objects.filter(account=account, status__in=LIVE_POSITIONS).select_related(
        "market__last_quote"
    ):
        entry = entries.get(position.pk)
        value = _value_held(position)
        if not value and entry is None:
            continue
        if not value and entry is not None:
            value = entry.filled_quote  # filled, and not folded yet
        held += value
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


def _read_what_is_old(account_id: int, order_ids: Sequence[int]) -> None:
    account = Account.objects.get(pk=account_id)
    markets = Market.objects.filter(orders__in=list(order_ids)).distinct()
    fresh = Quote.objects.filter(market__in=markets, quoted_at__gt=timezone.now() - QUOTE_IS_OLD_AFTER)
    old = set(markets.values_list("symbol", flat=True)) - set(fresh.values_list("market__symbol", flat=True))
    try:
        if old:
            quotes_refresh(account.exchange_id, sorted(old))
        if account.balances_synced_at is None:
            balances_refresh(account_id)
    except ExchangeUnavailable as error:
        # Not fatal here: without a price or a balance the orders are denied with that reason.
        logger.warning("account %s is valued with what is known: %s", account_id, error)


def _value_for(account_id: int, order_ids: Sequence[int]) -> None:
    account = Account.objects.select_for_update().get(pk=account_id)
    limits = RiskProfile.objects.filter(account=account).first() or RiskProfile(account=account)
    orders = list(
        Order.objects.filter(pk__in=list(order_ids), status=OrderStatus.REQUESTED)
        .select_related("market__last_quote", "account")
        .order_by("pk")
    )
    sessions = _sessions_of(orders)
    valued: list[Order] = []
    denied: list[Order] = []
    for order in orders:
        # Read anew for each order: the one before it has changed what is left.
        book = account_book(account, excluding=[order.pk])
        (valued if _decide(order, sessions.get(order.intent_id), account, limits, book) else denied).append(order)
    orders_announce(valued, Topic.ORDERS)
    orders_announce(denied, Topic.ORDER_UPDATES)


def _decide(
    order: Order, session: TradingSession | None, account: Account, limits: RiskProfile, book: AccountBook | None
) -> bool:
    now = timezone.now()
    quote = getattr(order.market, "last_quote", None)
    denial = _refusal(order, session, account, limits, book, quote, now)
    sized: Sized | None = None
    price: Decimal | None = None
    if denial is None and session is not None and book is not None and quote is not None:
        price = quote.ask if order.side == Side.BUY else quote.bid
        margin = SLIPPAGE_MARGIN + order.market.taker_fee
        sized = size(
            Sizing(
                method=SizingMethod(session.sizing_method),
                amount=session.sizing_amount,
                price=price,
                equity=book.equity,
                free_balance=book.free_balance,
                stop_loss_percent=session.exit_percents[0],
                exposure_room=None if limits.max_exposure is None else limits.max_exposure - book.exposure,
                price_margin=margin,
            ),
            order.market.rules,
        )
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
    if moved:
        _log(order, denial, price, book, sized)
    return order.status == OrderStatus.READY


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
        (account.status != Account.Status.ACTIVE, Denial.ACCOUNT_PAUSED),
        (not order.market.is_active, Denial.MARKET_NOT_TRADABLE),
        (is_short_spot, Denial.SIDE_NOT_TRADABLE),
        (quote is None or quote.quoted_at < now - REQUEST_IS_OLD_AFTER, Denial.NO_FRESH_PRICE),
        (book is None, Denial.BALANCE_UNKNOWN),
        (is_full, Denial.MAX_OPEN_POSITIONS),
    )
    return next((denial for is_so, denial in checks if is_so), None)


def _log(
    order: Order, denial: Denial | None, price: Decimal | None, book: AccountBook | None, sized: Sized | None
) -> None:
    Valuation.objects.create(
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
    return {intent.pk: intent.position.session for intent in intents.select_related("position__session__config")}


def _entries_of(account: Account, excluding: set[int]) -> dict[int, Order]:
    """By position, the entry that has been valued and is at work, or has just been filled and is not folded yet."""
    positions = Position.objects.filter(account=account, status__in=LIVE_POSITIONS)
    by_intent = dict(
        Intent.objects.filter(position__in=positions, purpose=Intent.Purpose.ENTRY).values_list("pk", "position_id")
    )
    live = Q(status__in=LIVE_STATUSES) | Q(filled__gt=0)
    orders = (
        Order.objects.filter(live, intent_id__in=by_intent)
        .exclude(status=OrderStatus.REQUESTED)
        .exclude(pk__in=excluding)
    )
    return {by_intent[order.intent_id]: order for order in orders}


def _still_reserved(order: Order) -> Decimal:
    return max(order.reserved - order.filled_quote, ZERO) if order.status in LIVE_STATUSES else ZERO


def _value_held(position: Position) -> Decimal:
    quote = getattr(position.market, "last_quote", None)
    price = quote.last if quote is not None else position.entry_price
    return position.market.rules.notional(position.quantity, price)
