"""Rows for tests: each function makes one thing and whatever it stands on, with exact, plain values."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.contrib.auth.models import User
from django.db.models import F
from django.utils import timezone

from domain.candles import Timeframe
from domain.exits import levels_in_force
from domain.informative import TapeKind
from domain.market import OrderType, PositionSide
from domain.orders import OrderStatus
from domain.strategy import SignalKind
from exchanges.accounts import KeysExamined, account_create
from exchanges.credentials import Credentials
from exchanges.gateway import CandleReport
from exchanges.models import Account, Balance, Exchange, Market, Quote, RiskProfile
from marketdata.models import Feed, Tape
from marketdata.services import candles_store, feed_ensure
from marketdata.tapes import tape_ensure
from orders.models import Fill, Funding, Order
from pipeline.models import Event
from positions.models import Discrepancy, DiscrepancyKind, Intent, Position, PositionStatus
from sessions.models import SessionStatus, TradingSession
from strategies.models import Signal, StrategyConfig

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
_numbers = itertools.count(1)

KEY, SECRET, PASSPHRASE = "key-of-alice", "canary-secret-of-alice", "canary-passphrase-of-alice"


def make_user(name: str = "alice", **fields: Any) -> User:
    return User.objects.filter(username=name).first() or User.objects.create_user(
        name, password="correct horse", **fields
    )


def make_exchange(name: str = "simulator", base_url: str = "http://127.0.0.1:9", **fields: Any) -> Exchange:
    """An exchange nobody listens at, unless ``base_url`` says otherwise; its clock is ours."""
    fields.setdefault("markets_synced_at", timezone.now())
    return Exchange.objects.get_or_create(name=name, defaults={"ccxt_id": "kucoin", "base_url": base_url, **fields})[0]


def make_market(exchange: Exchange | None = None, symbol: str = "BTC/USDT", **fields: Any) -> Market:
    base, quote = symbol.split("/")
    defaults: dict[str, Any] = {
        "base": base, "quote": quote, "tick_size": Decimal("0.1"), "lot_size": Decimal("0.00001"),
        "min_quantity": Decimal("0.00001"), "min_notional": Decimal("0.1"), "taker_fee": Decimal("0.001"),
        "maker_fee": Decimal("0.001"), "synced_at": timezone.now(),
    }  # fmt: skip
    return Market.objects.get_or_create(
        exchange=exchange or make_exchange(), symbol=symbol, defaults={**defaults, **fields}
    )[0]


def make_quote(market: Market, last: str | Decimal = "50000", age: timedelta = timedelta(0)) -> Quote:
    price = Decimal(last)
    return Quote.objects.update_or_create(
        market=market, defaults={"bid": price, "ask": price, "last": price, "quoted_at": timezone.now() - age}
    )[0]


def make_account(
    owner: User | None = None, exchange: Exchange | None = None, name: str = "main", usdt: str | None = "10000"
) -> Account:
    """An account whose venue said just now that its keys are good; nobody is asked."""
    account = account_create(
        owner=owner or make_user(), exchange=exchange or make_exchange(), name=name, currency="USDT",
        credentials=Credentials(KEY, SECRET, PASSPHRASE), examined=KeysExamined(timezone.now(), ""),
    )  # fmt: skip
    if usdt is not None:
        make_balance(account, usdt)
    return account


def make_balance(account: Account, total: str, currency: str = "USDT", free: str | None = None) -> Balance:
    now = timezone.now()
    Account.objects.filter(pk=account.pk).update(balances_synced_at=now)
    account.balances_synced_at = now
    return Balance.objects.update_or_create(
        account=account,
        currency=currency,
        defaults={"total": Decimal(total), "free": Decimal(free or total), "read_at": now},
    )[0]


def make_feed(market: Market | None = None, timeframe: Timeframe = Timeframe.M1, **fields: Any) -> Feed:
    feed = feed_ensure(market or make_market(), timeframe)
    if fields:
        Feed.objects.filter(pk=feed.pk).update(**fields)
        feed.refresh_from_db()
    return feed


def make_tape(market: Market | None = None, kind: TapeKind = TapeKind.TRADES, **fields: Any) -> Tape:
    tape = tape_ensure(market or make_market(), kind)
    if fields:
        Tape.objects.filter(pk=tape.pk).update(**fields)
        tape.refresh_from_db()
    return tape


def make_candles(feed: Feed, closes: list[float], last_open_at: datetime) -> None:
    """Closed candles ending with the one that opened at ``last_open_at``, each flat at its close."""
    length = Timeframe(feed.timeframe).length
    first = last_open_at - (len(closes) - 1) * length
    rows = []
    for index, close in enumerate(closes):
        price = Decimal(str(close))
        rows.append(CandleReport(first + index * length, price, price, price, price, Decimal(1)))
    candles_store(feed.pk, rows)
    Feed.objects.filter(pk=feed.pk).update(last_open_at=last_open_at)


def make_config(
    owner: User | None = None, feed: Feed | None = None, strategy: str = "sma_cross", **fields: Any
) -> StrategyConfig:
    fields.setdefault("name", f"config-{next(_numbers)}")
    fields.setdefault("parameters", {"fast": 2, "slow": 3} if strategy == "sma_cross" else {})
    return StrategyConfig.objects.create(
        owner=owner or make_user(), feed=feed or make_feed(), strategy=strategy, **fields
    )


def make_session(account: Account | None = None, config: StrategyConfig | None = None, **fields: Any) -> TradingSession:
    """An active session of fixed size, unless ``fields`` say otherwise."""
    account = account or make_account()
    config = config or make_config(owner=account.owner, feed=make_feed(make_market(account.exchange)))
    defaults: dict[str, Any] = {
        "name": f"session-{next(_numbers)}", "status": SessionStatus.ACTIVE, "sizing_method": "FIXED_QUOTE",
        "sizing_amount": Decimal(1000), "signals_after": timezone.now() - timedelta(hours=1), "started_at": timezone.now(),
    }  # fmt: skip
    return TradingSession.objects.create(account=account, config=config, **{**defaults, **fields})


def make_signal(
    config: StrategyConfig, kind: SignalKind = SignalKind.ENTER_LONG, closed_at: datetime | None = None, **fields: Any
) -> Signal:
    """A signal on the candle that closed at ``closed_at`` (default: the last one that did)."""
    timeframe = Timeframe(config.feed.timeframe)
    close_at = closed_at or timeframe.open_of(timezone.now())
    return Signal.objects.create(
        config=config,
        candle_open_at=close_at - timeframe.length,
        candle_close_at=close_at,
        kind=kind,
        **{"price": Decimal(50000), **fields},
    )


def make_position(session: TradingSession, status: str = PositionStatus.PENDING, **fields: Any) -> Position:
    defaults: dict[str, Any] = {
        "side": PositionSide.LONG,
        "exits": {"stop_loss_percent": "2", "targets": [{"percent": "4"}]},
    }
    return Position.objects.create(
        session=session,
        account=session.account,
        market=session.config.feed.market,
        status=status,
        **{**defaults, **fields},
    )


def make_order(
    position: Position, purpose: str = "ENTRY", status: str = OrderStatus.REQUESTED, step: int = 0, **fields: Any
) -> Order:
    """An order of the position's intent (made when it has none) in ``status``."""
    intent = Intent.objects.get_or_create(position=position, purpose=purpose, step=step)[0]
    of = PositionSide(position.side)
    side = of.entry_side if purpose == "ENTRY" else of.exit_side
    defaults: dict[str, Any] = {
        "account": position.account, "market": position.market, "intent_id": intent.pk, "side": side,
        "position_side": position.side, "order_type": OrderType.MARKET, "is_exit": purpose != "ENTRY", "status": status,
    }  # fmt: skip
    if status not in (OrderStatus.REQUESTED, OrderStatus.DENIED):
        defaults |= {"quantity": Decimal("0.02"), "valued_at": timezone.now()}
    return Order.objects.create(**{**defaults, **fields})


def make_fill(order: Order, quantity: str = "0.02", price: str = "50000", fee: str = "1", **fields: Any) -> Fill:
    number = next(_numbers)
    defaults: dict[str, Any] = {
        "trade_id": str(number),
        "fee_currency": order.market.quote,
        "filled_at": timezone.now(),
    }
    fill = Fill.objects.create(
        order=order, account=order.account, market=order.market, side=order.side, quantity=Decimal(quantity),
        price=Decimal(price), fee=Decimal(fee), **{**defaults, **fields},
    )  # fmt: skip
    order.filled += fill.quantity
    order.filled_quote += fill.quantity * fill.price
    order.save(update_fields=["filled", "filled_quote"])
    return fill


def make_funding(position: Position, amount: str = "-0.05", **fields: Any) -> Funding:
    """A payment on a position's market."""
    defaults: dict[str, Any] = {"funding_id": str(next(_numbers)), "currency": "USDT", "paid_at": timezone.now()}
    return Funding.objects.create(
        account=position.account, market=position.market, amount=Decimal(amount), **{**defaults, **fields}
    )


def make_open_position(
    session: TradingSession, entry_price: str = "50000", quantity: str = "0.02", **fields: Any
) -> Position:
    """A position held since its entry was filled, as the tracker leaves it: its levels are those of its plan."""
    position = make_position(session, **fields)
    order = make_order(position, status=OrderStatus.CLOSED, closed_at=timezone.now(), quantity=Decimal(quantity))
    filled = make_fill(order, quantity=quantity, price=entry_price)
    size = Decimal(quantity)
    position.status, position.quantity, position.entered = PositionStatus.OPEN, size, size
    position.entry_price, position.fees = Decimal(entry_price), Decimal(1)
    position.opened_at, position.folded_at = filled.filled_at, timezone.now()
    position.feed, position.followed_until = session.config.feed, filled.filled_at
    levels = levels_in_force(position.exit_plan, position.entry_facts)
    position.stop_price, position.target_price = levels.stop, levels.target
    position.stop_reason = levels.stop_reason if levels.stop is not None else ""
    position.target_reason = levels.target_reason if levels.target is not None else ""
    position.save()
    TradingSession.objects.filter(pk=session.pk).update(has_exposure=True)
    position.refresh_from_db()
    return position


def make_discrepancy(position: Position, kind: str = DiscrepancyKind.MANUAL_CLOSE, **fields: Any) -> Discrepancy:
    """An open difference about a position: the account holds 0.01 of the 0.02 it says."""
    defaults: dict[str, Any] = {
        "account": position.account, "subject": f"position:{position.pk}", "market": position.market,
        "position": position, "currency": "BTC", "expected": Decimal("0.02"), "found": Decimal("0.01"),
    }  # fmt: skip
    return Discrepancy.objects.create(kind=kind, **{**defaults, **fields})


def let_pass(order: Order, seconds: float) -> Order:
    """As if ``seconds`` had passed: every time on the order's row moves that much into the past."""
    times = (
        "requested_at",
        "valued_at",
        "sent_at",
        "deadline_at",
        "not_before_at",
        "leased_until",
        "opened_at",
        "closed_at",
    )
    Order.objects.filter(pk=order.pk).update(**{name: F(name) - timedelta(seconds=seconds) for name in times})
    order.refresh_from_db()
    return order


def make_limits(account: Account, **limits: Any) -> None:
    """Replace the account's limits; what is not named is unlimited."""
    RiskProfile.objects.update_or_create(
        account=account, defaults={"max_open_positions": None, "max_exposure": None, **limits}
    )


def events(topic: str, **data: Any) -> list[dict[str, Any]]:
    """The data of the journal's rows on ``topic`` that hold ``data``, oldest first."""
    found = Event.objects.filter(topic=topic, **{f"data__{name}": value for name, value in data.items()})
    return list(found.order_by("pk").values_list("data", flat=True))


def finish(order: Order, status: str = OrderStatus.CLOSED, filled: str | None = None, price: str = "50000") -> Order:
    """The order as its venue left it: ``filled`` (default: the whole quantity of a CLOSED one) at ``price``, then done."""
    if filled is None and status == OrderStatus.CLOSED:
        filled = str(order.quantity)
    if filled:
        make_fill(order, quantity=filled, price=price)
    Order.objects.filter(pk=order.pk).update(status=status, closed_at=timezone.now(), reserved=0)
    order.refresh_from_db()
    return order
