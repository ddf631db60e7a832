"""Valuing orders (MoneyManager): how much an entry may be, decided under the account's row lock.

Two sessions of one account can never both take the last of a limit: whoever holds the lock sees every position and every
order valued before it. What the venue must be asked for, and how markets moved, is read before the lock is taken. Each
decision is stored with what it was made from; a hypothetical order takes the same path, and leaves nothing behind.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from domain.limits import Candidate, Check, Holding, Limits, Returns, denied_by, rooms_of, weigh
from domain.market import ONE, ZERO, OrderType, PositionSide, Side
from domain.orders import DENIAL_TEXTS, Denial, OrderStatus
from domain.sizing import Sized, Sizing, SizingMethod, kelly_percent, notional_wanted, size, stop_percent
from exchanges.accounts import balances_refresh, limits_of
from exchanges.gateway import ExchangeUnavailable
from exchanges.models import Account, Market, Quote
from exchanges.services import quotes_refresh
from money.book import AccountBook, account_book, leverage_of, price_margin, risk_fraction
from money.halts import halt_in_force
from money.history import markets_at_work, past_of, returns_of
from money.models import Valuation
from orders.ledger import orders_announce
from orders.models import Order
from pipeline.fields import LARGEST
from pipeline.rest import exact_text
from pipeline.topics import Topic
from positions.models import LIVE_POSITIONS, Intent, Position, PositionStatus
from sessions.models import SessionStatus, TradingSession
from strategies.models import Signal
from strategies.services import signals_latest

logger = logging.getLogger(__name__)

# A price or a balance older than this is read again before an order is valued with it.
QUOTE_IS_OLD_AFTER = timedelta(seconds=15)
BELL_IS_LATE_AFTER = timedelta(seconds=3)
# Where it cannot be read again, a price may be this old at most.
PRICE_IS_OLD_AFTER = timedelta(seconds=30)
# An entry nobody could value for this long is worth nothing any more.
REQUEST_IS_OLD_AFTER = timedelta(seconds=30)
# So much of a session's record counts for its Kelly fraction.
RECORD_LENGTH = 1000


class _Waiting(NamedTuple):
    """What is asked about an order before the lock is taken, named as the query names it."""

    pk: int
    market__exchange_id: int
    market__symbol: str
    market__last_quote__quoted_at: datetime | None
    account__balances_synced_at: datetime | None


@dataclass(frozen=True, slots=True)
class _Wish:
    """An entry with what it was asked for: its session, its position, and the signal that spoke."""

    order: Order
    session: TradingSession | None = None
    position: Position | None = None
    signal: Signal | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """How much an entry may be, or why it may not; with the facts. ``checks`` are as they are stored."""

    denial: Denial | None
    price: Decimal | None = None
    book: AccountBook | None = None
    sizing: Sizing | None = None
    sized: Sized | None = None
    checks: Sequence[Mapping[str, Any]] = ()
    holding: Holding | None = None

    @property
    def notional(self) -> Decimal:
        """What it is worth at the price it was valued at, in quote currency."""
        is_sized = self.sized is not None and self.sizing is not None and self.holding is not None
        return abs(self.holding.notional) / (1 + self.sizing.price_margin) if is_sized else ZERO  # type: ignore[union-attr]

    @property
    def reserved(self) -> Decimal:
        return self.notional * self.sizing.cost_rate if self.sizing is not None else ZERO


@dataclass(frozen=True, slots=True)
class _World:
    """What one account's orders are judged by, besides themselves."""

    account: Account
    limits: Limits
    book: AccountBook | None
    returns: Returns | None


def orders_value(order_ids: Sequence[int]) -> None:
    """Value REQUESTED entries: READY with a quantity, or DENIED with a reason. Orders of one account share its lock once; one
    that cannot be valued does not keep the others from it, and is denied once it is too old."""
    by_account: dict[int, list[_Waiting]] = defaultdict(list)
    rows = Order.objects.filter(pk__in=list(order_ids), status=OrderStatus.REQUESTED).order_by("pk")
    for account_id, *facts in rows.values_list("account_id", *_Waiting._fields):
        by_account[account_id].append(_Waiting(*facts))
    is_alone = len(by_account) == 1
    for account_id, waiting in by_account.items():
        try:
            _value_waiting(account_id, waiting)
        except Exception:
            if is_alone and len(waiting) == 1:
                raise
            logger.exception("a batch of %s orders could not be valued; going one by one", len(waiting))
            for one in waiting:
                _value_alone(account_id, one)


def order_quote(
    session: TradingSession,
    *,
    side: Side = Side.BUY,
    order_type: OrderType = OrderType.MARKET,
    quantity: Decimal | None = None,
    price: Decimal | None = None,
    stop_price: Decimal | None = None,
) -> Judgement:
    """What valuing would say of an entry of ``session`` now: nothing is stored, locked or sent. A price that is old is read
    from the venue first; where it holds a position of that side already, the order would add to it."""
    market = session.config.feed.market
    account = session.account
    quoted_at = Quote.objects.filter(market=market).values_list("quoted_at", flat=True).first()
    asked = _Waiting(0, market.exchange_id, market.symbol, quoted_at, account.balances_synced_at)
    _read_what_is_old(account.pk, [asked])
    returns = _returns_if_asked(account.pk, market.exchange_id, {market.symbol})
    account = Account.objects.select_related("risk_profile").get(pk=account.pk)
    market = Market.objects.select_related("last_quote").get(pk=market.pk)
    position_side = PositionSide.LONG if side is Side.BUY else PositionSide.SHORT
    signal = signals_latest([session.config_id]).get(session.config_id)
    held = session.positions.filter(status__in=LIVE_POSITIONS, side=position_side).first()
    position = held or Position(
        session=session, account=account, market=market, side=position_side, entry_signal=signal,
        exits=session.exit_plan.model_dump(mode="json"),
    )  # fmt: skip
    order = Order(
        account=account, market=market, side=side, position_side=position_side, order_type=order_type,
        quantity=quantity, price=price, stop_price=stop_price, leverage=session.leverage, requested_at=timezone.now(),
    )  # fmt: skip
    world = _World(account, limits_of(account), account_book(account), returns)
    return _judge(_Wish(order, session, position, signal), world, timezone.now())


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


def _returns_if_asked(account_id: int, exchange_id: int, symbols: set[str]) -> Returns | None:
    account = Account.objects.select_related("risk_profile").defer("credentials").get(pk=account_id)
    if not limits_of(account).wants_history:
        return None
    return returns_of(exchange_id, symbols | markets_at_work(account_id))


def _value_waiting(account_id: int, waiting: Sequence[_Waiting]) -> None:
    _read_what_is_old(account_id, waiting)
    symbols = {one.market__symbol for one in waiting}
    returns = _returns_if_asked(account_id, waiting[0].market__exchange_id, symbols)
    with transaction.atomic():
        _value_for(account_id, [one.pk for one in waiting], returns)


def _value_alone(account_id: int, one: _Waiting) -> None:
    try:
        _value_waiting(account_id, [one])
    except Exception:
        logger.exception("order %s could not be valued", one.pk)


def _value_for(account_id: int, order_ids: Sequence[int], returns: Returns | None) -> None:
    account = Account.objects.select_related("risk_profile").select_for_update(of=("self",)).get(pk=account_id)
    orders = list(
        Order.objects.filter(pk__in=list(order_ids), status=OrderStatus.REQUESTED)
        .select_related("market__last_quote")
        .defer("market__venue_info")
        .order_by("pk")
    )
    positions = _positions_of(orders)
    # Read once: under the account's lock nobody else lets an entry through, and what each of these takes is known.
    world = _World(account, limits_of(account), account_book(account), returns)
    valuations = []
    for order in orders:
        order.account = account
        wish = _wish_of(order, *positions.get(order.intent_id, (None, 0)))
        valuation, judgement = _decide(wish, world)
        if valuation is None:
            continue
        valuations.append(valuation)
        if valuation.is_approved and world.book is not None and judgement.holding is not None:
            world = replace(world, book=world.book.after_entry(order.reserved, judgement.holding))
    Valuation.objects.bulk_create(valuations)
    decided = [valuation.order for valuation in valuations]
    orders_announce([order for order in decided if order.status == OrderStatus.READY], Topic.ORDERS)
    orders_announce([order for order in decided if order.status == OrderStatus.DENIED], Topic.ORDER_UPDATES)


def _decide(wish: _Wish, world: _World) -> tuple[Valuation | None, Judgement]:
    """Move one order to READY or DENIED, and say why; no valuation when somebody else moved it first."""
    now = timezone.now()
    order = wish.order
    judgement = _judge(wish, world, now)
    denial, sized = judgement.denial, judgement.sized
    if denial is None and sized is not None:
        order.quantity, order.reserved = sized.quantity, judgement.reserved
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
    return (_valuation(order, judgement) if moved else None), judgement


def _judge(wish: _Wish, world: _World, now: datetime) -> Judgement:
    """How much the entry may be: refusals first, then every limit that is set, then the size within them."""
    order, session, position, book = wish.order, wish.session, wish.position, world.book
    quote: Quote | None = getattr(order.market, "last_quote", None)
    denial = _refusal(order, session, world.account, book, quote, now) or _netted(order, position, book)
    if denial is not None or session is None or position is None or book is None or quote is None:
        return Judgement(denial or Denial.SESSION_NOT_ACTIVE, book=book)
    price = _price_of(order, quote)
    sizing = _sizing(wish, session, position, book, price)
    wanted = notional_wanted(sizing, order.market.rules)
    wish_notional = ZERO if isinstance(wanted, Denial) else max(min(wanted, sizing.affordable), ZERO)
    candidate = _candidate(order, position, sizing, quote)
    checks = _checks(world, candidate, session, wish_notional, now)
    denial = denied_by(checks)
    sized = size(sizing, order.market.rules, rooms_of(checks)) if denial is None else None
    denial = denial or (sized.denial if sized is not None else None)
    notional = ZERO if denial or sized is None else order.market.rules.notional(sized.quantity, price)
    taken = notional * (1 + sizing.price_margin)
    return Judgement(
        denial=denial, price=price, book=book, sizing=sizing, sized=sized,
        checks=[check.told(wish_notional, notional) for check in checks],
        holding=Holding(
            position_id=position.pk, market=candidate.market, base=candidate.base,
            notional=candidate.side.sign * taken, risk=taken * candidate.risk_fraction,
        ),
    )  # fmt: skip


def _checks(world: _World, candidate: Candidate, session: TradingSession, wish: Decimal, now: datetime) -> list[Check]:
    if world.book is None:
        return []
    book, limits, returns = world.book.seen, world.limits, world.returns
    exchange = session.account.exchange
    if limits.wants_history and returns is not None:
        symbols = {candidate.market, *book.by("market")}
        if not symbols <= set(returns.markets):  # somebody entered another market since they were read
            returns = returns_of(exchange.pk, symbols)
    past = past_of(world.account, limits, session.pk, now)
    return weigh(limits, book, past, candidate, wish, returns, exchange.time_at(now))


def _refusal(
    order: Order,
    session: TradingSession | None,
    account: Account,
    book: AccountBook | None,
    quote: Quote | None,
    now: datetime,
) -> Denial | None:
    is_short_spot = order.position_side == PositionSide.SHORT and order.market.kind == Market.Kind.SPOT
    checks = (
        (session is None or session.status != SessionStatus.ACTIVE, Denial.SESSION_NOT_ACTIVE),
        (session is not None and halt_in_force(session) is not None, Denial.HALTED),
        (order.requested_at < now - REQUEST_IS_OLD_AFTER, Denial.REQUEST_TOO_OLD),
        (account.status != Account.Status.ACTIVE, Denial.ACCOUNT_PAUSED),
        (not order.market.is_active, Denial.MARKET_NOT_TRADABLE),
        (is_short_spot, Denial.SIDE_NOT_TRADABLE),
        (quote is None or quote.quoted_at < now - PRICE_IS_OLD_AFTER, Denial.NO_FRESH_PRICE),
        (book is None, Denial.BALANCE_UNKNOWN),
    )
    return next((denial for is_so, denial in checks if is_so), None)


def _netted(order: Order, position: Position | None, book: AccountBook | None) -> Denial | None:
    """A venue of contracts keeps one position of an account on a market: an entry on one side would close what another
    session holds on the other, and leave both with stops that protect nothing."""
    if book is None or order.market.kind != Market.Kind.LINEAR_FUTURE:
        return None
    sign, own = PositionSide(order.position_side).sign, position.pk if position is not None else None
    others = (one for one in book.seen.of(market=order.market.symbol) if one.position_id != own or own is None)
    return Denial.OPPOSITE_POSITION if any(one.notional * sign < 0 for one in others) else None


def _price_of(order: Order, quote: Quote) -> Decimal:
    """What the entry may come to cost per unit: what it names, else the market's price. A limit to sell is filled at the
    market's, where that is better, and then more is sold short than the limit says."""
    market: Decimal = quote.ask if order.side == Side.BUY else quote.bid
    price: Decimal = order.price or order.stop_price or market
    return max(price, market) if order.side == Side.SELL and order.order_type == OrderType.LIMIT else price


def _sizing(wish: _Wish, session: TradingSession, position: Position, book: AccountBook, price: Decimal) -> Sizing:
    method = SizingMethod(session.sizing_method)
    signal = wish.signal
    return Sizing(
        method=method,
        amount=session.sizing_amount,
        price=price,
        equity=book.equity,
        free_balance=book.free_balance,
        stop_loss_percent=_stop_percent(position, price),
        price_margin=price_margin(wish.order),
        leverage=leverage_of(wish.order),
        # The newest there is: a position that is added to was entered in other weather.
        atr=signal.atr if signal is not None and signal.atr is not None else position.atr,
        confidence=signal.confidence if signal is not None and session.is_confidence_weighted else None,
        record=_record(session) if method is SizingMethod.KELLY else (),
        kelly_min_trades=session.kelly_min_trades,
        kelly_cap_percent=session.kelly_cap_percent,
        quantity=wish.order.quantity,
    )


def _stop_percent(position: Position, price: Decimal) -> Decimal | None:
    return stop_percent(
        position.exit_plan, price=price, side=PositionSide(position.side), atr=position.atr,
        signal_stop=position.signal_stop_price,
    )  # fmt: skip


def _candidate(order: Order, position: Position, sizing: Sizing, quote: Quote) -> Candidate:
    return Candidate(
        market=order.market.symbol,
        base=order.market.base,
        side=PositionSide(order.position_side),
        # However near its stop is, what slippage and fee take of it is lost at the least.
        risk_fraction=max(risk_fraction(position, sizing.price), sizing.price_margin),
        position_id=position.pk,
        margin=sizing.price_margin,
        leverage=sizing.leverage,
        named_price=order.price if order.price is not None else order.stop_price,
        last_price=quote.last,
    )


def _record(session: TradingSession) -> tuple[float, ...]:
    """The returns of the session's closed positions, fees in: what each won or lost of what was put into it."""
    closed = session.positions.filter(status=PositionStatus.CLOSED, entered__gt=0, entry_price__gt=0)
    rows = closed.order_by("-closed_at").values_list("realized_pnl", "entered", "entry_price", "market__contract_size")[
        :RECORD_LENGTH
    ]
    return tuple(float(result / (entered * price * contract)) for result, entered, price, contract in rows)


def _valuation(order: Order, judgement: Judgement) -> Valuation:
    book, sized, denial = judgement.book, judgement.sized, judgement.denial
    return Valuation(
        order=order,
        verdict=denial.value if denial else Valuation.APPROVED,
        price=judgement.price,
        equity=book.equity if book else None,
        free_balance=book.free_balance if book else None,
        exposure=book.exposure if book else None,
        open_positions=book.open_positions if book else None,
        # Asked for by hand, or by a percentage, it may be more than a column holds.
        wanted=min(sized.wanted, LARGEST) if sized else None,
        capped=min(sized.capped, LARGEST) if sized else None,
        quantity=sized.quantity if sized else None,
        sizing=sizing_told(judgement.sizing) if judgement.sizing else {},
        checks=list(judgement.checks),
    )


def sizing_told(sizing: Sizing) -> dict[str, Any]:
    """What a size was computed from, as it is stored: figures as exact text, what plays no part left out."""
    told: dict[str, Any] = {"method": sizing.method.value if sizing.quantity is None else "BY_HAND"}
    names = ("amount", "quantity", "price", "stop_loss_percent", "atr", "confidence", "price_margin", "leverage")
    for name in names:
        value = getattr(sizing, name)
        if value is not None and not (name == "leverage" and value == ONE):
            told[name] = exact_text(value)
    if sizing.method is SizingMethod.KELLY and sizing.quantity is None:
        percent = kelly_percent(sizing)
        told |= {"trades": len(sizing.record), "kelly_min_trades": sizing.kelly_min_trades}
        told |= {"kelly_cap_percent": exact_text(sizing.kelly_cap_percent)}
        told |= {"kelly_percent": None if isinstance(percent, Denial) else exact_text(percent)}
    return told


def _wish_of(order: Order, position: Position | None, step: int) -> _Wish:
    if position is None:
        return _Wish(order)
    session = position.session
    # What adds to a position was asked for by a later signal: the last one that its session saw.
    return _Wish(order, session, position, position.entry_signal if step == 0 else session.last_signal)


def _positions_of(orders: Sequence[Order]) -> dict[UUID, tuple[Position, int]]:
    """By intent, the position that an order is for, and the step of it."""
    intents = Intent.objects.filter(pk__in=[order.intent_id for order in orders]).select_related(
        "position__session__account__exchange", "position__session__last_signal", "position__entry_signal"
    )
    hidden = intents.defer("position__session__account__credentials")
    return {intent.pk: (intent.position, intent.step) for intent in hidden}
