"""The broker forgets, dies, hangs or is full: commands stand, answer soon, and what was lost is rung for again."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import redis
from celery import current_app
from django.utils import timezone

from chaos.scenarios import scenario
from chaos.scenarios.acts import let_go_by, say, tell
from chaos.stage import Stage
from domain.orders import OrderStatus
from orders.models import Order
from positions.models import PositionStatus
from sessions.models import SessionStatus, TradingSession
from sessions.services import session_start, session_stop
from strategies.models import StrategyConfig

S = OrderStatus

# What a trader may wait for a click while the broker is away, and while it hangs (its own patience is 10 s).
SOON_SECONDS = 2.0
HANGING_SECONDS = 15.0


def _starts_within(stage: Stage, session: TradingSession, seconds: float) -> None:
    began = time.monotonic()
    session_start(session.pk)
    took = time.monotonic() - began
    stage.expect(took < seconds, f"wanted a start to answer within {seconds:g} s, took {took:.1f} s")
    status = TradingSession.objects.values_list("status", flat=True).get(pk=session.pk)
    stage.expect(status == SessionStatus.ACTIVE, f"wanted it to stand as ACTIVE, was {status}")


def _all_closed(stage: Stage, orders: list[Order]) -> None:
    for order in orders:
        stage.wait_order(order, S.CLOSED)
        stage.expect_order(order, S.CLOSED, accepted=1, sent=1)


@scenario("broker-forgets", rows=(12,))
def broker_forgets(stage: Stage) -> None:
    """Everything that was rung for is forgotten, again and again, and once with the broker's own restart."""
    account = stage.account("1000000")
    orders = [stage.ready_order(account) for _ in range(12)]
    session = stage.session(status=SessionStatus.ACTIVE)
    say(stage, session.config)
    for start in range(0, 12, 4):
        stage.submit(*orders[start : start + 4])
        stage.broker_lose()
    stage.broker_restart(is_data_lost=True)
    _all_closed(stage, orders)
    stage.wait(session.positions.filter(status=PositionStatus.OPEN).exists, f"{session} to enter")


@scenario("broker-away", rows=(13,))
def broker_away(stage: Stage) -> None:
    """The broker is dead for a while: a click stands and answers soon, and afterwards everything is caught up with once."""
    sessions = [stage.session(stage.account()) for _ in range(3)]
    orders = [stage.ready_order() for _ in range(3)]
    stage.broker_kill()
    for session in sessions:
        _starts_within(stage, session, SOON_SECONDS)
        say(stage, session.config)
    let_go_by(stage, 10 * stage.pace)
    stage.heal()
    _all_closed(stage, orders)
    for session in sessions:
        stage.wait(session.positions.filter(status=PositionStatus.OPEN).exists, f"{session} to enter")
        entered = session.positions.count()
        stage.expect(entered == 1, f"wanted one position of {session}, were {entered}")


@scenario("broker-hangs", rows=(14,))
def broker_hangs(stage: Stage) -> None:
    """The broker takes connections and says nothing, then swallows what it is told: nobody waits for ever, all recover."""
    for hang in (stage.broker_proxy.stall, stage.broker_proxy.drop):
        session = stage.session(stage.account())
        orders = [stage.ready_order() for _ in range(2)]
        hang()
        stage.count("broker")
        _starts_within(stage, session, HANGING_SECONDS)
        let_go_by(stage, 5 * stage.pace)
        stage.broker_proxy.heal()
        _all_closed(stage, orders)
        session_stop(session.pk)


@scenario("broker-frozen", rows=(14,))
def broker_frozen(stage: Stage) -> None:
    """The broker's process stands still and goes on."""
    orders = [stage.ready_order() for _ in range(2)]
    stage.valkey.freeze()
    stage.count("broker")
    let_go_by(stage, 10 * stage.pace)
    stage.valkey.thaw()
    _all_closed(stage, orders)


@scenario("broker-full", rows=(15,))
def broker_full(stage: Stage) -> None:
    """The broker has no room and refuses every bell: what was committed stands, and is rung for when there is room."""
    session = stage.session(stage.account())
    orders = [stage.ready_order() for _ in range(2)]
    stage.client.config_set("maxmemory-policy", "noeviction")
    stage.client.config_set("maxmemory", "1mb")
    stage.count("broker")
    try:
        _starts_within(stage, session, SOON_SECONDS)
        say(stage, session.config)
        let_go_by(stage, 5 * stage.pace)
    finally:
        stage.client.config_set("maxmemory", "0")
    _all_closed(stage, orders)
    stage.wait(session.positions.filter(status=PositionStatus.OPEN).exists, f"{session} to enter")


@scenario("bells-of-nobody", rows=(17, 56))
def bells_of_nobody(stage: Stage) -> None:
    """Bells for rows that are gone, tasks of another version, and arguments that make no sense: dropped, and no more."""
    # Also what a worker of the version before finds in its queue, or one of the next.
    strange: list[tuple[str, dict[str, Any]]] = [
        ("orders.submit", {"order_ids": [10**9]}),
        ("orders.look", {"order_ids": [10**9]}),
        ("positions.track", {"session_ids": [10**9]}),
        ("money.value", {"order_ids": [10**9]}),
        ("orders.of_the_next_version", {"order_ids": [1]}),
        ("positions.track", {"everything": True}),
        ("orders.submit", {"order_ids": "none"}),
        ("marketdata.collect", {"feed_ids": [None]}),
    ]
    for name, arguments in strange * 3:
        current_app.send_task(name, kwargs=arguments, expires=60, ignore_result=True)
    stage.count("bell", len(strange) * 3)
    with suppress(redis.RedisError):
        for queue in ("exits", "orders", "positions"):
            stage.client.lpush(queue, b"this is no message")
            stage.count("bell")
    orders = [stage.ready_order() for _ in range(3)]
    stage.submit(*orders)
    _all_closed(stage, orders)


@scenario("poison", rows=(18,))
def poison(stage: Stage) -> None:
    """One session of a batch cannot be looked at, whatever one does: its neighbours in the same bell are."""
    config = stage.config()
    sick = stage.session(config=stage.config(), status=SessionStatus.ACTIVE)
    well = [stage.session(config=config, status=SessionStatus.ACTIVE) for _ in range(4)]
    StrategyConfig.objects.filter(pk=sick.config_id).update(parameters={"fast": 9, "slow": 3})
    say(stage, sick.config)
    tell(stage, config)
    stage.ring("positions.track", session_ids=[sick.pk, *(session.pk for session in well)])
    stage.count("bell")
    began = timezone.now()
    for session in well:
        stage.wait(session.positions.filter(status=PositionStatus.OPEN).exists, f"{session} to enter")
    took = (timezone.now() - began).total_seconds()
    stage.expect(took < 15, f"wanted the others served within 15 s, took {took:.0f} s")
    StrategyConfig.objects.filter(pk=sick.config_id).update(parameters=config.parameters)


@scenario("backlog", rows=(57,), is_slow=True)
def backlog(stage: Stage) -> None:
    """Three hundred orders of six accounts are due at once after an outage: each is sent once, and no account waits for
    another to be done."""
    accounts = [stage.account("10000000") for _ in range(6)]
    config = [stage.config() for _ in range(50)]
    stage.broker_kill()
    orders = [
        stage.ready_order(
            session=stage.session(account, one, SessionStatus.ACTIVE), quantity=stage.market().min_quantity * 100
        )
        for one in config
        for account in accounts
    ]
    stage.heal()
    waiting = Order.objects.filter(pk__in=[order.pk for order in orders]).exclude(status=S.CLOSED)
    stage.wait(lambda: waiting.count() < 150, "half of the orders", 120)
    served = {
        account.pk: Order.objects.filter(account=account, status=S.CLOSED).count() for account in accounts
    }  # every one has its share before the last is done
    stage.expect(min(served.values()) > 0, f"wanted every account served, were {served}")
    stage.wait(lambda: not waiting.exists(), "every order", 180)
