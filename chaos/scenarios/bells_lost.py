"""A bell that nobody heard, for every status that waits for somebody: the sweep rings again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.utils import timezone

from chaos.scenarios import scenario
from chaos.scenarios.acts import enter, patience, say, wait_ended
from chaos.world import World
from domain.candles import Timeframe
from domain.market import OrderType, PositionSide, Side
from domain.orders import OrderStatus
from exchanges.models import Account, Exchange
from marketdata.models import Feed
from marketdata.services import feed_collect, feed_need
from orders.models import Order
from positions.models import Intent, Position, PositionStatus, Reconciliation
from positions.reconciliation import account_make_due
from sessions.models import SessionStatus, TradingSession
from sessions.services import session_recover
from strategies.models import Signal, StrategyConfig

S = OrderStatus

SWEPT_WITHIN = 30  # seconds, in the platform's own patience


def _exit_order(stage: World, **fields: Any) -> Order:
    """The exit of a position just entered, as the tracker writes it; nobody is rung for it."""
    position = enter(stage, stage.session(status=SessionStatus.ACTIVE))
    intent = Intent.objects.create(position=position, purpose=Intent.Purpose.EXIT, reason="MANUAL")
    return Order.objects.create(
        account=position.account, market=position.market, intent_id=intent.pk, side=Side.SELL, is_exit=True,
        position_side=PositionSide.LONG, order_type=OrderType.MARKET, quantity=position.quantity, reason="MANUAL",
        **{"valued_at": timezone.now(), **fields},
    )  # fmt: skip


def _wait_sent(stage: World, order: Order) -> None:
    """Wait until somebody has taken the order, and until it has ended: on a slow machine it may have come too late."""
    stage.count("bell")
    ready = Order.objects.filter(pk=order.pk, status=S.READY)
    stage.wait(lambda: not ready.exists(), f"{order} to be sent", patience(stage, SWEPT_WITHIN))
    wait_ended(stage, [order])


@scenario("bell-lost-orders-submit", rows=(2, 12), needs_stage=False)
def bell_lost_orders_submit(stage: World) -> None:
    """A valued order that nobody was rung for is sent."""
    _wait_sent(stage, stage.ready_order())


@scenario("bell-lost-orders-look", rows=(3, 12), needs_stage=False)
def bell_lost_orders_look(stage: World) -> None:
    """An order in the air that nobody was rung for is looked up."""
    sent_at = timezone.now() - timedelta(seconds=60)
    order = stage.ready_order(
        status=S.UNKNOWN, sent_at=sent_at, deadline_at=sent_at + timedelta(seconds=5), not_before_at=sent_at
    )
    stage.count("bell")
    stage.wait_order(order, S.NOT_PLACED, seconds=patience(stage, SWEPT_WITHIN))


@scenario("bell-lost-exits-submit", rows=(2, 12), needs_stage=False)
def bell_lost_exits_submit(stage: World) -> None:
    """An exit that nobody was rung for is sent."""
    _wait_sent(stage, _exit_order(stage, status=S.READY))


@scenario("bell-lost-exits-look", rows=(3, 12), needs_stage=False)
def bell_lost_exits_look(stage: World) -> None:
    """An exit in the air that nobody was rung for is looked up."""
    sent_at = timezone.now() - timedelta(seconds=60)
    order = _exit_order(
        stage, status=S.UNKNOWN, sent_at=sent_at, deadline_at=sent_at + timedelta(seconds=5), not_before_at=sent_at
    )
    stage.count("bell")
    stage.wait_order(order, S.NOT_PLACED, seconds=patience(stage, SWEPT_WITHIN))


@scenario("bell-lost-exits-track", rows=(7, 12), needs_stage=False)
def bell_lost_exits_track(stage: World) -> None:
    """A position is left that somebody wanted to leave and nobody was rung for."""
    position = enter(stage, stage.session(status=SessionStatus.ACTIVE))
    mine = Position.objects.filter(pk=position.pk)
    mine.update(is_exit_wanted=True)
    stage.count("bell")
    closed = mine.filter(status=PositionStatus.CLOSED)
    stage.wait(closed.exists, f"{position} to be left", patience(stage, SWEPT_WITHIN))


@scenario("bell-lost-orders-balances", rows=(12,), needs_stage=False)
def bell_lost_orders_balances(stage: World) -> None:
    """Balances that nobody was rung for are read."""
    account = Account.objects.filter(pk=stage.account().pk)
    account.update(balances_synced_at=None)
    stage.count("bell")
    read = account.filter(balances_synced_at__isnull=False)
    stage.wait(read.exists, "balances to be read", patience(stage, SWEPT_WITHIN))


@scenario("bell-lost-money-value", rows=(2, 12), needs_stage=False)
def bell_lost_money_value(stage: World) -> None:
    """A requested entry that nobody was rung for is valued."""
    order = stage.ready_order(status=S.REQUESTED, quantity=None, valued_at=None)
    stage.count("bell")
    valued = Order.objects.filter(pk=order.pk).exclude(status=S.REQUESTED)
    stage.wait(valued.exists, f"{order} to be valued", patience(stage, SWEPT_WITHIN))


@scenario("bell-lost-positions-track", rows=(7, 12), needs_stage=False)
def bell_lost_positions_track(stage: World) -> None:
    """A signal that nobody was told of is acted on."""
    # Of days there are too few for the strategy to say anything by itself, which would ring for this too.
    config = stage.config(stage.feed(timeframe=Timeframe.D1), fast=50, slow=500)
    session = stage.session(config=config, status=SessionStatus.ACTIVE)
    say(stage, config)
    stage.count("bell")
    stage.wait(session.positions.exists, f"{session} to act", patience(stage, SWEPT_WITHIN))


@scenario("bell-lost-positions-recover", rows=(12,), needs_stage=False)
def bell_lost_positions_recover(stage: World) -> None:
    """A recovery that nobody was rung for is carried out."""
    session = stage.session(status=SessionStatus.SUSPENDED)
    mine = TradingSession.objects.filter(pk=session.pk)
    mine.update(recover_requested_at=timezone.now())
    stage.count("bell")
    active = mine.filter(status=SessionStatus.ACTIVE)
    stage.wait(active.exists, f"{session} to recover", patience(stage, SWEPT_WITHIN))


@scenario("bell-lost-positions-reconcile", rows=(12, 42), needs_stage=False)
def bell_lost_positions_reconcile(stage: World) -> None:
    """An account that is due and nobody was rung for is compared with its venue."""
    account = stage.account()
    account_make_due(account.pk)
    stage.count("bell")
    compared = Reconciliation.objects.filter(pk=account.pk, compared_at__isnull=False)
    stage.wait(compared.exists, f"{account} to be compared", patience(stage, SWEPT_WITHIN))


@scenario("bell-lost-exchanges-check-keys", rows=(12, 47), needs_stage=False)
def bell_lost_exchanges_check_keys(stage: World) -> None:
    """Keys that were not checked for a day, and that nobody was rung for, are checked."""
    account = Account.objects.filter(pk=stage.account().pk)
    account.update(keys_checked_at=timezone.now() - timedelta(days=2))
    stage.count("bell")
    checked = account.filter(keys_checked_at__gt=timezone.now() - timedelta(hours=1))
    stage.wait(checked.exists, "the keys to be checked", patience(stage, 90))


@scenario("bell-lost-sessions-halt", rows=(12, 46), needs_stage=False)
def bell_lost_sessions_halt(stage: World) -> None:
    """A session of an account that was paused is halted though nobody rang, and trades again when the account does."""
    session = stage.session(status=SessionStatus.ACTIVE)
    account = Account.objects.filter(pk=session.account_id)
    account.update(status=Account.Status.PAUSED)
    stage.count("bell")
    halted = TradingSession.objects.filter(pk=session.pk, status=SessionStatus.HALTED)
    try:
        stage.wait(halted.exists, f"{session} to be halted", patience(stage, SWEPT_WITHIN))
    finally:
        account.update(status=Account.Status.ACTIVE)
    session_recover(session.pk)


@scenario("bell-lost-marketdata-collect", rows=(12,), needs_stage=False)
def bell_lost_marketdata_collect(stage: World) -> None:
    """A feed that is due and nobody was rung for is collected."""
    session = stage.session(config=stage.config(stage.feed("ETH/USDT")), status=SessionStatus.ACTIVE)
    feed = Feed.objects.get(pk=session.config.feed_id)
    feed.candles.all().delete()
    Feed.objects.filter(pk=feed.pk).update(is_needed=True, next_due_at=timezone.now(), last_open_at=None)
    stage.count("bell")
    stage.wait(feed.candles.exists, f"{feed} to be collected", patience(stage, SWEPT_WITHIN))


@scenario("bell-lost-strategies-evaluate", rows=(12,), needs_stage=False)
def bell_lost_strategies_evaluate(stage: World) -> None:
    """A candle that a configuration was never shown is shown to it."""
    feed = stage.feed()
    feed_need(feed.pk, True)
    feed_collect(feed.pk)
    config = stage.config(feed)
    stage.session(config=config, status=SessionStatus.ACTIVE)
    StrategyConfig.objects.filter(pk=config.pk).update(is_needed=True)
    stage.count("bell")
    answered = Signal.objects.filter(config=config)
    stage.wait(answered.exists, f"{config} to be asked", patience(stage, SWEPT_WITHIN))


@scenario("bell-lost-exchanges-sync", rows=(12,), needs_stage=False)
def bell_lost_exchanges_sync(stage: World) -> None:
    """An exchange that was never read is read."""
    stage.account()
    mine = Exchange.objects.filter(pk=stage.exchange.pk)
    mine.update(markets_synced_at=None)
    stage.count("bell")
    # Swept once a minute only.
    stage.wait(mine.filter(markets_synced_at__isnull=False).exists, "the exchange to be read", patience(stage, 90))


@scenario("bell-lost-exchanges-read-status", rows=(12, 44), needs_stage=False)
def bell_lost_exchanges_read_status(stage: World) -> None:
    """A venue whose status was not read lately, and of which nobody was rung for, is asked."""
    stage.account()
    mine = Exchange.objects.filter(pk=stage.exchange.pk)
    mine.update(status_read_at=None)
    stage.count("bell")
    stage.wait(mine.filter(status_read_at__isnull=False).exists, "the status to be read", patience(stage, 90))


@scenario("bell-lost-sessions-tell", rows=(12, 51), needs_stage=False)
def bell_lost_sessions_tell(stage: World) -> None:
    """A feed that stands still, and of which nobody was rung for, is told of."""
    session = stage.session(config=stage.config(stage.feed(timeframe=Timeframe.H4)), status=SessionStatus.ACTIVE)
    feed = Feed.objects.filter(pk=session.config.feed_id)
    feed.update(is_needed=True, next_due_at=timezone.now() + timedelta(hours=1), stale_since=timezone.now())
    stage.count("bell")
    stage.wait(feed.filter(stale_told_at__isnull=False).exists, "the traders to be told", patience(stage, SWEPT_WITHIN))


@scenario("bell-lost-everywhere", rows=(2, 12), needs_stage=False)
def bell_lost_everywhere(stage: World) -> None:
    """From signal to position on sweeps alone: whatever rings is thrown away as it rings."""
    session = stage.session(status=SessionStatus.ACTIVE)
    say(stage, session.config)
    held = Position.objects.filter(session=session, status=PositionStatus.OPEN)
    losses = 0
    until = timezone.now() + timedelta(seconds=60)
    while not held.exists() and timezone.now() < until:
        if losses < 10:
            stage.broker_lose()  # type: ignore[attr-defined]  # a stage's, by hand or not
            losses += 1
        stage.pause()
    stage.expect(held.exists(), f"wanted {session} to hold a position, it does not")
