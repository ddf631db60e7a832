"""Every topic of the platform on one screen: what its key is, who is woken by it, whether it is journaled and broadcast.

``publish`` writes the journal row in the caller's transaction and rings the consumers after the commit. A message carries
ids only and may be lost, doubled or late: the sweeps ring again whatever still waits (``pipeline/sweeps.py``).
A task's first name is its queue. What protects a position has a queue of its own, ``exits``, with workers of its own.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from celery import current_app
from django.db import connection, transaction
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from pipeline import listeners
from pipeline.crashpoints import crashpoint

logger = logging.getLogger(__name__)

# A doorbell that nobody heard for this long is worth nothing: a sweep has rung again since.
BELL_EXPIRES_SECONDS = 60


class Topic(StrEnum):
    COMMAND = "command"
    MARKETDATA = "marketdata"
    SIGNALS = "signals"
    SESSION_SIGNALS = "sessionSignals"
    SESSION_REQUEST = "sessionRequest"
    RAW_ORDERS = "raworders"
    ORDERS = "orders"
    ORDER_UPDATES = "orderUpdates"
    TRADE_UPDATES = "tradeUpdates"
    POSITIONS = "positions"
    ALERTS = "alerts"
    RESEARCH = "research"


@dataclass(frozen=True, slots=True)
class Bell:
    """A Celery task to wake, and the argument that carries the ids; ``batch`` is how many ids one message may carry.
    ``urgent`` is its door on the queue ``exits``, woken in its place by what concerns the protection of a position."""

    task: str
    argument: str
    batch: int = 200
    urgent: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    key: str
    wakes: tuple[Bell, ...] = ()
    is_journaled: bool = True
    is_broadcast: bool = False


TOPICS: dict[Topic, Route] = {
    Topic.COMMAND: Route(
        key="session",
        wakes=(
            Bell("marketdata.collect", "feed_ids"),
            Bell("strategies.evaluate", "feed_ids"),
            Bell("positions.recover", "session_ids"),
            Bell("positions.track", "session_ids", urgent="exits.track"),
        ),
        is_broadcast=True,
    ),
    Topic.MARKETDATA: Route(key="feed", wakes=(Bell("strategies.evaluate", "feed_ids", batch=20),), is_broadcast=True),
    Topic.SIGNALS: Route(key="configuration", wakes=(Bell("positions.fan_out", "signal_ids"),), is_broadcast=True),
    Topic.SESSION_SIGNALS: Route(key="session", wakes=(Bell("positions.track", "session_ids"),), is_journaled=False),
    # A tick changes nothing by itself, and 100,000 sessions tick every five minutes: the journal keeps what came of it.
    Topic.SESSION_REQUEST: Route(
        key="session", wakes=(Bell("positions.tick", "session_ids", batch=2000),), is_journaled=False
    ),
    Topic.RAW_ORDERS: Route(key="order", wakes=(Bell("money.value", "order_ids", batch=50),)),
    # One order a message: each submission waits for the venue by itself.
    Topic.ORDERS: Route(key="order", wakes=(Bell("orders.submit", "order_ids", batch=1, urgent="exits.submit"),)),
    Topic.ORDER_UPDATES: Route(
        key="order",
        wakes=(Bell("positions.follow_orders", "order_ids", urgent="exits.follow_orders"),),
        is_broadcast=True,
    ),
    # Of fills the order's update tells; a funding payment has no other bell.
    Topic.TRADE_UPDATES: Route(
        key="order", wakes=(Bell("positions.count_fundings", "funding_ids"),), is_broadcast=True
    ),
    Topic.POSITIONS: Route(key="session", is_broadcast=True),
    Topic.ALERTS: Route(key="account or session", is_broadcast=True),
    # What becomes of backtests and studies. Their bells are rung by themselves: whose turn it is then is another question.
    Topic.RESEARCH: Route(key="backtest or study", is_broadcast=True),
}

# Who serves which queue: the owner's component names, as Flower, docker-compose.yml and the supervisor show them.
QUEUES: dict[str, str] = {
    "exits": "ExitTracker",
    "exchanges": "DataCollect",
    "marketdata": "DataCollect",
    "strategies": "StrategyExecutor",
    "sessions": "SchedulerService",
    "pipeline": "SchedulerService",
    "positions": "PositionTracker",
    "money": "MoneyManager",
    "orders": "OrderManager",
    "backtesting": "Backtester",
    "optimising": "Optimiser",
}

TASK_ROUTES: dict[str, dict[str, str]] = {f"{queue}.*": {"queue": queue} for queue in QUEUES}


@dataclass(frozen=True, slots=True)
class Note:
    """One thing to publish: the key of its topic, the ids of the rows involved, and plain facts for a reader.
    ``is_urgent`` is what a position waits for that is to be protected or left: it wakes the urgent doors."""

    key: int
    ids: Mapping[str, int | None]
    data: dict[str, Any] = field(default_factory=dict)
    is_urgent: bool = False


def publish(
    topic: Topic,
    key: int,
    *,
    data: dict[str, Any] | None = None,
    actor: str = "system",
    is_urgent: bool = False,
    **ids: int | None,
) -> None:
    """Journal one happening now and ring whom it concerns after the commit. Must run inside a transaction."""
    publish_all(topic, [Note(key, ids, data or {}, is_urgent)], actor=actor)


def publish_all(topic: Topic, notes: Sequence[Note], *, actor: str = "system", wakes: bool = True) -> None:
    """As ``publish``, for many happenings with one insert and as few messages as the topic's batches allow. ``wakes=False``
    is for what gives the topic's consumers nothing to do: journaled and broadcast only."""
    if not notes:
        return
    if not connection.in_atomic_block:
        raise RuntimeError(
            f"wanted a transaction around publish({topic.value!r}): a row is committed before its message"
        )
    route = TOPICS[topic]
    if route.is_journaled:
        _journal(topic, notes, actor)
    told = tuple(notes)
    # robust: a broker that is down must not fail a transaction that stands, nor keep later hooks from running. A function
    # and no functools.partial: Django names the hook that failed by its __qualname__, and would fail for want of one.
    transaction.on_commit(lambda: _announce(topic, told, wakes), robust=True)


def ring(task: str, *, batch: int = 200, **ids: Iterable[int]) -> bool:
    """Wake ``task`` with the ids of its one argument, in batches; whether the broker took them. One that cannot be reached
    is logged, never raised: the sweep rings again."""
    [(argument, values)] = ids.items()
    pending = list(dict.fromkeys(values))
    for start in range(0, len(pending), batch):
        try:
            current_app.send_task(
                task,
                kwargs={argument: pending[start : start + batch]},
                expires=BELL_EXPIRES_SECONDS,
                ignore_result=True,
            )
        except (OperationalError, OSError, RedisError) as error:  # away, full, read-only
            logger.warning("the bell of %s did not ring (%s); its sweep will", task, type(error).__name__)
            return False
        except Exception:  # what nobody has foreseen may not keep a sweep from ringing for the rest
            logger.exception("the bell of %s did not ring; its sweep will", task)
            return False
    return True


def _announce(topic: Topic, notes: Sequence[Note], wakes: bool) -> None:
    crashpoint("bells.before")
    route = TOPICS[topic]
    for bell in route.wakes if wakes else ():
        if not _ring_for(bell, notes):
            break  # a broker that hangs costs its timeout once, not once a bell: somebody waits for this commit
    if route.is_broadcast:
        listeners.tell(topic.value, [(note.key, note.ids, note.data) for note in notes])


def _ring_for(bell: Bell, notes: Sequence[Note]) -> bool:
    """Ring the bell's doors for what concerns each, the urgent one first; whether the broker took it."""
    id_name = bell.argument.removesuffix("s")
    ids: dict[str, list[int]] = {bell.urgent or bell.task: [], bell.task: []}
    for note in notes:
        if (value := note.ids.get(id_name)) is not None:
            ids[bell.urgent if note.is_urgent and bell.urgent else bell.task].append(value)
    return all(ring(task, batch=bell.batch, **{bell.argument: some}) for task, some in ids.items())


def _journal(topic: Topic, notes: Sequence[Note], actor: str) -> None:
    # Raw SQL: the journal row is written on every hop of the live path, and the ORM's insert costs twice as much.
    row = "(%s, %s, %s, %s, %s, %s, %s)"
    values: list[Any] = []
    for note in notes:
        owner_id, session_id = note.ids.get("owner_id"), note.ids.get("session_id")
        values += [
            topic.value,
            note.key,
            json.dumps(dict(note.ids)),
            json.dumps(note.data, default=str),
            owner_id,
            session_id,
            actor[:64],  # as long as the column; usernames may be longer
        ]
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO pipeline_event (topic, key, ids, data, owner_id, session_id, actor) VALUES "  # noqa: S608
            + ", ".join([row] * len(notes)),
            values,
        )
