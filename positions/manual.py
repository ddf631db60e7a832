"""Orders by hand: valued, limited, sent and followed like all others, and placed once for each key.

They belong to a manual session of their account and market, which is made when there is none and never signals. An entry is
a wish with an upper bound: its row has a quantity from the beginning, and valuing cuts it down or denies it, never up. An
order against what the session holds leaves that, whole or in part, at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.utils import timezone
from pydantic import ValidationError as PlanError

from domain.candles import Timeframe
from domain.exit_plan import ExitPlan
from domain.exits import ExitReason
from domain.market import ONE, ZERO, OrderType, PositionSide, Side, Trigger, round_price, round_quantity
from domain.orders import LIVE_STATUSES, OrderStatus
from domain.sizing import SizingMethod
from exchanges.models import Account, Market, Quote
from exchanges.services import quotes_refresh, rests_exits
from marketdata.services import feed_ensure
from orders.ledger import orders_announce
from orders.models import Order
from orders.services import orders_cancel
from pipeline.claims import settled
from pipeline.topics import Topic
from positions.models import LIVE_POSITIONS, Intent, ManualRequest, Position
from positions.services import orders_of_positions
from positions.trading import may_only_reduce
from sessions.models import TRACKED_STATUSES, SessionStatus, TradingSession
from sessions.services import (
    UnableToCommand,
    account_require_active,
    session_create,
    session_start,
    sessions_note_exposure,
)
from strategies.library.manual import Manual
from strategies.models import StrategyConfig

S = OrderStatus

MANUAL = "MANUAL"
TIMEFRAME = Timeframe.M1
QUOTE_IS_OLD_AFTER = timedelta(seconds=15)
MOST_LEVERAGE = Decimal(125)


class KeyAlreadyUsed(UnableToCommand):
    """Another order was asked for under this key."""


@dataclass(frozen=True, slots=True)
class ManualAsk:
    """What a trader asks for: a quantity in base units (or contracts), or an ``amount`` of quote currency to spend at the
    order's price. ``exits`` are fields of an exit plan, for a position that begins with this order."""

    key: str
    side: Side
    order_type: OrderType = OrderType.MARKET
    quantity: Decimal | None = None
    amount: Decimal | None = None
    price: Decimal | None = None
    stop_price: Decimal | None = None
    leverage: Decimal = ONE
    exits: dict[str, Any] | None = None

    def asked(self, market: Market) -> dict[str, Any]:
        """The same for the same wish, however it is written."""
        figures = {name: getattr(self, name) for name in ("quantity", "amount", "price", "stop_price", "leverage")}
        return {
            "market": market.pk,
            "side": self.side.value,
            "order_type": self.order_type.value,
            **{name: None if value is None else _text(value) for name, value in figures.items()},
            "exits": None if self.exits is None else _plain(_plan(self.exits).model_dump(exclude_unset=True)),
        }


def manual_order(account: Account, market: Market, ask: ManualAsk, *, actor: str = "system") -> tuple[Order, bool]:
    """Place an order by hand; it, and whether it is new: asked again under its key, it is the one there is.

    Raises ValidationError naming the field, KeyAlreadyUsed for another wish under the same key, UnableToCommand where the
    session cannot do it now, and ExchangeUnavailable where an amount has no price to be counted by.
    """
    asked = ask.asked(market)
    known = _known(account, ask.key, asked)
    if known is not None:
        return known, False
    _check(account, market, ask)
    account_require_active(account)
    quantity = _quantity(market, ask)
    session_id = manual_session_ensure(account, market, actor=actor)
    try:
        return settled(lambda: _place(session_id, market, ask, asked, quantity, actor))
    except IntegrityError:
        # The same key at the same moment on another market: theirs was first.
        known = _known(account, ask.key, asked)
        if known is None:
            raise
        return known, False


def manual_session_ensure(account: Account, market: Market, *, actor: str = "system") -> int:
    """The session that orders by hand on this account and market belong to: made where there is none, started where it does
    not run. Raises UnableToCommand where it cannot be."""
    config = _config(account, market)
    with transaction.atomic():
        # So that of two who find none, one makes it.
        Account.objects.select_for_update(no_key=True).get(pk=account.pk)
        session = TradingSession.objects.filter(account=account, config=config).order_by("-pk").first()
        if session is None:
            name = f"by hand {market.symbol} on {account.name}"[: TradingSession.NAME_LENGTH]
            session = session_create(
                TradingSession(account=account, config=config, name=name, sizing_method=SizingMethod.FIXED_QUOTE)
            )
    if session.status in (SessionStatus.CREATED, SessionStatus.STOPPED):
        try:
            session_start(session.pk, actor=actor)
        except UnableToCommand:  # somebody else was first, or the account is not to be used
            session.refresh_from_db()
            if session.status != SessionStatus.ACTIVE:
                raise
    return session.pk


def order_cancel_by_hand(order_id: int, *, actor: str = "system") -> None:
    """Want an entry gone, whoever wished for it; asked again, it changes nothing. Raises UnableToCommand for one that has
    ended otherwise, for an exit (it would only be tried again) and for somebody else's order."""
    order = Order.objects.get(pk=order_id)
    if order.is_foreign or order.is_exit:
        was = "somebody else's order" if order.is_foreign else "an exit, which is carried through"
        raise UnableToCommand(f"to cancel an order it must be an entry of ours, was {was}")
    if order.status == S.CANCELED or order.is_cancel_wanted:
        return
    if order.status not in LIVE_STATUSES:
        raise UnableToCommand(f"to cancel an order it must be {' or '.join(LIVE_STATUSES)}, was {order.status}")
    orders_cancel([order], actor=actor)


def _check(account: Account, market: Market, ask: ManualAsk) -> None:
    """What is wrong with a wish whatever the session holds."""
    problems: dict[str, str] = {}
    if market.exchange_id != account.exchange_id:
        problems["market"] = f"wanted a market of {account.exchange.name}, was {market}"
    elif market.quote != account.currency:
        problems["market"] = f"wanted a market quoted in {account.currency}, was {market.symbol}"
    elif not market.is_active:
        problems["market"] = f"wanted a market that is traded, was {market}, which is not"
    most = ONE if market.kind == Market.Kind.SPOT else min(market.max_leverage or MOST_LEVERAGE, MOST_LEVERAGE)
    if not ONE <= ask.leverage <= most:
        problems["leverage"] = f"wanted 1 to {most} on {market.symbol}, was {_text(ask.leverage)}"
    problems |= _problems_of_type(account, market, ask) | _problems_of_quantity(market, ask)
    if problems:
        raise ValidationError(problems)
    if ask.exits is not None:
        _plan(ask.exits)


def _problems_of_type(account: Account, market: Market, ask: ManualAsk) -> dict[str, str]:
    problems = {}
    if ask.order_type is OrderType.STOP and not rests_exits(account):
        problems["order_type"] = (
            f"wanted MARKET or LIMIT, was STOP: no stop order can be sent to {account.exchange.name}"
        )
    if ask.order_type is OrderType.LIMIT and ask.price is None:
        problems["price"] = "wanted the price of a LIMIT order, was none"
    if ask.order_type is OrderType.MARKET and ask.price is not None:
        problems["price"] = f"wanted none for a MARKET order, was {_text(ask.price)}"
    if ask.order_type is OrderType.STOP and ask.stop_price is None:
        problems["stop_price"] = "wanted the stop price of a STOP order, was none"
    if ask.order_type is not OrderType.STOP and ask.stop_price is not None:
        problems["stop_price"] = f"wanted none for a {ask.order_type} order, was {_text(ask.stop_price)}"
    for name, value in (("price", ask.price), ("stop_price", ask.stop_price)):
        if (
            name not in problems
            and value is not None
            and (value <= 0 or round_price(value, market.rules, ask.side) != value)
        ):
            problems[name] = f"wanted a multiple of {_text(market.tick_size)}, was {_text(value)}"
    return problems


def _problems_of_quantity(market: Market, ask: ManualAsk) -> dict[str, str]:
    if (ask.quantity is None) == (ask.amount is None):
        return {"quantity": f"wanted quantity or amount, was {'neither' if ask.quantity is None else 'both'}"}
    if ask.amount is not None:
        return {"amount": f"wanted more than 0, was {_text(ask.amount)}"} if ask.amount <= 0 else {}
    quantity, least = ask.quantity or Decimal(0), max(market.min_quantity, market.lot_size)
    if quantity < least:
        return {"quantity": f"wanted at least {_text(least)}, was {_text(quantity)}"}
    if market.max_quantity is not None and quantity > market.max_quantity:
        return {"quantity": f"wanted at most {_text(market.max_quantity)}, was {_text(quantity)}"}
    if round_quantity(quantity, market.rules) != quantity:
        return {"quantity": f"wanted a multiple of {_text(market.lot_size)}, was {_text(quantity)}"}
    return {}


def _plan(exits: dict[str, Any], base: ExitPlan | None = None) -> ExitPlan:
    values = {} if base is None else base.model_dump()
    try:
        return ExitPlan.model_validate(values | exits)
    except PlanError as error:
        found = [f"{'.'.join(map(str, one['loc'])) or 'exits'}: {one['msg']}" for one in error.errors()]
        raise ValidationError({"exits": found}) from error


def _quantity(market: Market, ask: ManualAsk) -> Decimal:
    """What was asked for in units of the market; reads the price of a market order from the venue where ours is old."""
    if ask.quantity is not None:
        return ask.quantity
    amount = ask.amount or Decimal(0)
    price = ask.price or ask.stop_price or _last_price(market, ask.side)
    quantity = round_quantity(amount / (price * market.contract_size), market.rules)
    least = max(market.min_quantity, market.lot_size)
    if quantity < least:
        wanted = market.rules.notional(least, price)
        raise ValidationError({"amount": f"wanted at least {_text(wanted)} at this price, was {_text(amount)}"})
    return quantity


def _last_price(market: Market, side: Side) -> Decimal:
    quote = Quote.objects.filter(market=market, quoted_at__gt=timezone.now() - QUOTE_IS_OLD_AFTER).first()
    if quote is None:
        quotes_refresh(market.exchange_id, [market.symbol])
        quote = Quote.objects.filter(market=market).first()
    if quote is None:
        raise UnableToCommand(f"wanted a price of {market.symbol} to count the amount by, was none")
    price: Decimal = quote.ask if side is Side.BUY else quote.bid
    return price


def _config(account: Account, market: Market) -> StrategyConfig:
    feed = feed_ensure(market, TIMEFRAME)
    config = StrategyConfig.objects.filter(owner=account.owner, feed=feed, strategy=Manual.name).order_by("pk").first()
    if config is None:
        config, _ = StrategyConfig.objects.get_or_create(
            owner=account.owner, name=f"by hand {feed}"[:80], defaults={"feed": feed, "strategy": Manual.name}
        )
    return config


def _known(account: Account, key: str, asked: dict[str, Any]) -> Order | None:
    """The order that was placed under this key. Raises KeyAlreadyUsed where that was another wish."""
    request = ManualRequest.objects.select_related("order__account").filter(account=account, key=key).first()
    if request is None:
        return None
    if request.asked != asked:
        raise KeyAlreadyUsed(f"wanted a new key for a new order, was {key!r}, which order {request.order_id} has")
    return request.order


def _place(
    session_id: int, market: Market, ask: ManualAsk, asked: dict[str, Any], quantity: Decimal, actor: str
) -> tuple[Order, bool]:
    """Decide under the session's lock, as the tracker does: an entry to be valued, or an exit that is ready to go."""
    with transaction.atomic():
        session = TradingSession.objects.select_related("account__exchange", "config__feed").locked().get(pk=session_id)
        known = _known(session.account, ask.key, asked)
        if known is not None:
            return known, False
        position = session.positions.filter(status__in=LIVE_POSITIONS).first()
        is_exit = position is not None and ask.side is PositionSide(position.side).exit_side
        allowed = TRACKED_STATUSES if is_exit else (SessionStatus.ACTIVE,)
        if session.status not in allowed:
            raise UnableToCommand(
                f"wanted the session {session.name!r} to be {' or '.join(allowed)}, was {session.status}"
            )
        if position is not None and is_exit:
            order = _exit(position, market, ask, quantity)
            topic = Topic.ORDERS
        else:
            order = _entry(session, position, market, ask, quantity)
            topic = Topic.RAW_ORDERS
        order.account = session.account
        order.save(force_insert=True)
        ManualRequest.objects.create(account=session.account, key=ask.key, asked=asked, order=order)
        sessions_note_exposure([session], True)
        orders_announce([order], topic, actor=actor)
    return order, True


def _entry(
    session: TradingSession, position: Position | None, market: Market, ask: ManualAsk, quantity: Decimal
) -> Order:
    side = PositionSide.LONG if ask.side is Side.BUY else PositionSide.SHORT
    if side is PositionSide.SHORT and market.kind == Market.Kind.SPOT:
        raise ValidationError({"side": f"wanted BUY, was SELL: {session.name!r} holds nothing of {market.base}"})
    if position is None:
        position = Position.objects.create(
            session=session, account=session.account, market=market, side=side, leverage=ask.leverage,
            margin_mode=session.margin_mode, is_resting=session.is_resting,
            exits=_plan(ask.exits or {}, session.exit_plan).model_dump(mode="json"),
        )  # fmt: skip
    else:
        if position.is_exit_wanted or position.exit_reason:
            raise UnableToCommand("wanted a position that stays, was one that is being left")
        if ask.exits is not None:
            raise ValidationError({"exits": "wanted none for an order that adds: the position keeps its own exits"})
        if ask.leverage != position.leverage:
            raise ValidationError(
                {"leverage": f"wanted the position's, {_text(position.leverage)}, was {_text(ask.leverage)}"}
            )
    step = position.intents.filter(purpose=Intent.Purpose.ENTRY).count()
    intent = Intent.objects.create(position=position, purpose=Intent.Purpose.ENTRY, step=step, reason=MANUAL)
    return Order(
        market=market, intent_id=intent.pk, side=ask.side, position_side=side, order_type=ask.order_type,
        quantity=quantity, price=ask.price, stop_price=ask.stop_price, trigger=_trigger(market, ask),
        leverage=ask.leverage, margin_mode=position.margin_mode, reason=MANUAL,
    )  # fmt: skip


def _exit(position: Position, market: Market, ask: ManualAsk, quantity: Decimal) -> Order:
    orders = [order for _, order in orders_of_positions([position.pk])]
    # Sold already, though the tracker has not added it up yet.
    sold = sum((order.filled for order in orders if order.is_exit), ZERO) - position.exited
    held = round_quantity(max(position.quantity - max(sold, ZERO), ZERO), market.rules)
    if ask.order_type is not OrderType.MARKET:
        # One that rests would stand in the way of the position's stop: of several exits only one is at work at a time.
        raise ValidationError({"order_type": f"wanted MARKET to leave a position, was {ask.order_type}"})
    if ask.exits is not None:
        raise ValidationError({"exits": "wanted none for an order that leaves a position"})
    if quantity > held:
        name, found = ("quantity", quantity) if ask.quantity is not None else ("amount", ask.amount or quantity)
        raise ValidationError({name: f"wanted at most what is held, {_text(held)}, was {_text(found)}"})
    live = [order for order in orders if order.status in LIVE_STATUSES]
    if any(order.trigger for order in live if order.is_exit):
        # Never sold beside what rests: the tracker cancels the group, waits for its end, and then sells.
        raise UnableToCommand("wanted a position without exits that rest at the venue, was one with: leave its session")
    if any(order.is_exit for order in live):
        raise UnableToCommand("wanted a position that nothing leaves yet, was one with an exit at work")
    is_whole = quantity == held
    if is_whole and live:
        # A fill that came after the exit would be held by nobody.
        raise UnableToCommand(f"to leave all of it no entry may be at work, order {live[0].pk} is: cancel it first")
    if is_whole:
        # Begun, and from here on the tracker's to carry through, whatever comes of this attempt.
        position.is_exit_wanted, position.exit_reason = True, ExitReason.MARKET_EXIT
        position.save(update_fields=["is_exit_wanted", "exit_reason"])
    purpose = Intent.Purpose.EXIT if is_whole else Intent.Purpose.BY_HAND
    step = 0 if is_whole else position.intents.filter(purpose=purpose).count()
    reason = ExitReason.MARKET_EXIT.value if is_whole else MANUAL
    intent, _ = Intent.objects.get_or_create(position=position, purpose=purpose, step=step, defaults={"reason": reason})
    return Order(
        market=market, intent_id=intent.pk, side=ask.side, position_side=position.side, order_type=ask.order_type,
        quantity=quantity, is_exit=True, is_reduce_only=may_only_reduce(position, market), status=S.READY, reason=reason,
        leverage=position.leverage, margin_mode=position.margin_mode, valued_at=timezone.now(),
    )  # fmt: skip


def _text(value: Decimal) -> str:
    """In full, without trailing zeros."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _plain(value: Any) -> Any:
    """As JSON, every figure as it is written in full: 2 and 2.0 are one wish."""
    if isinstance(value, Decimal):
        return _text(value)
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def _trigger(market: Market, ask: ManualAsk) -> str:
    """From which side the market comes to the stop price, by where it is now."""
    if ask.stop_price is None:
        return ""
    last = Quote.objects.filter(market=market).values_list("last", flat=True).first()
    is_above = ask.side is Side.BUY if last is None else ask.stop_price > last
    return Trigger.RISING if is_above else Trigger.FALLING
