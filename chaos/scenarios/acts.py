"""What several scenarios do to a session: tell it what its strategy says, let it enter, let it end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal

from celery import current_app
from django.utils import timezone

from chaos.world import World
from domain.candles import Timeframe
from domain.orders import OrderStatus
from domain.strategy import SignalKind
from exchanges.models import Account
from orders.models import Order
from positions.models import Position, PositionStatus, Reconciliation
from positions.reconciliation import account_reconcile_soon
from sessions.models import SessionStatus, TradingSession
from sessions.services import UnableToCommand, session_stop
from strategies.models import Signal, StrategyConfig

S = OrderStatus


def patience(stage: World, seconds: float) -> float:
    """How long to wait for what the platform does within ``seconds`` at its own pace, on a machine that is busy."""
    return float(getattr(stage, "grace", 2)) + seconds * float(getattr(stage, "pace", 1))


def let_go_by(stage: World, seconds: float) -> None:
    """Let so much real time go by, for what must not happen meanwhile."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        stage.pause()


def say(stage: World, config: StrategyConfig, kind: SignalKind = SignalKind.ENTER_LONG) -> Signal:
    """Let a configuration say so about the candle after the last one it spoke of; nobody's bell is rung."""
    timeframe = Timeframe(config.feed.timeframe)
    last = config.signals.order_by("-candle_open_at").first()
    now = stage.exchange.time_at(timezone.now())
    open_at = timeframe.open_of(now) if last is None else max(last.candle_close_at, timeframe.open_of(now))
    return Signal.objects.create(
        config=config, candle_open_at=open_at, candle_close_at=open_at + timeframe.length, kind=kind,
        price=Decimal(50000),
    )  # fmt: skip


def tell(stage: World, config: StrategyConfig, kind: SignalKind = SignalKind.ENTER_LONG) -> Signal:
    """As ``say``, and ring whom it concerns."""
    signal = say(stage, config, kind)
    stage.ring("positions.fan_out", signal_ids=[signal.pk])
    return signal


def ring_plain(task: str) -> None:
    """Ring a task that takes no ids, as beat does."""
    current_app.send_task(task, expires=60, ignore_result=True)


def enter(stage: World, session: TradingSession) -> Position:
    """Let an ACTIVE session enter the market, and wait until it holds something."""
    tell(stage, session.config)
    held = Position.objects.filter(session=session, status=PositionStatus.OPEN)
    stage.wait(held.exists, f"{session} to hold a position")
    return held.get()


def die_at(stage: World, process: str, point: str) -> int:
    """Let ``process`` die where it next comes by ``point``; the deaths there were before, for ``wait_for_death``."""
    stage.restart(process, crash_at=point, wait=True)  # type: ignore[attr-defined]  # a stage's, by hand or not
    kills: int = stage.kills  # type: ignore[attr-defined]
    return kills


def wait_for_death(stage: World, kills: int) -> None:
    stage.wait(lambda: stage.kills > kills, "the process to die")  # type: ignore[attr-defined]


def compare(stage: World, account: Account) -> None:
    """Let an account be compared with its venue, and wait until it was, balances and all."""
    asked_at = timezone.now()
    compared = Reconciliation.objects.filter(pk=account.pk, compared_at__gte=asked_at)

    def is_compared() -> bool:
        if compared.exists():
            return True
        account_reconcile_soon(account.pk)
        let_go_by(stage, 0.1)
        return False

    stage.wait(is_compared, f"account {account} to be compared with its venue")


def wait_ended(stage: World, orders: Sequence[Order], seconds: float = 60) -> None:
    """Wait until each of these has ended, and want it to be at the venue exactly if it says so, and once."""
    waiting = Order.objects.filter(pk__in=[order.pk for order in orders]).exclude(status__in=(S.CLOSED, S.NOT_PLACED))
    stage.wait(lambda: not waiting.exists(), "every order to end", seconds)
    for order in orders:
        order.refresh_from_db()
        stage.expect_order(order, order.status, accepted=int(order.status == S.CLOSED))


def leave(stage: World, *sessions: TradingSession, seconds: float = 30) -> None:
    """Stop these sessions and wait until each is STOPPED, which sells what they hold."""
    mine = TradingSession.objects.filter(pk__in=[session.pk for session in sessions])
    for session in mine.exclude(status__in=(SessionStatus.STOPPING, SessionStatus.STOPPED)):
        try:
            session_stop(session.pk)
        except UnableToCommand:
            continue  # somebody else asked for it meanwhile
    running = mine.exclude(status=SessionStatus.STOPPED)
    stage.wait(lambda: not running.exists(), f"{mine.count()} sessions to stop", seconds)


def leave_all(stage: World, seconds: float = 60) -> None:
    """Stop whatever runs and wait until nothing is held any more."""
    leave(stage, *TradingSession.objects.exclude(status=SessionStatus.STOPPED), seconds=seconds)


def long_ago(order: Order, **changes: timedelta) -> None:
    """Move times on an order's row into the past, each by so much."""
    values = {name: getattr(order, name) - by for name, by in changes.items()}
    Order.objects.filter(pk=order.pk).update(**values)
    order.refresh_from_db()
