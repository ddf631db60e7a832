"""Evaluating strategies (StrategyExecutor): a pure call on the last window of candles, its answer stored once.

Every needed configuration has exactly one ``Signal`` row per candle it was shown, and says why when it says nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db import connection, transaction
from django.db.models import Exists, OuterRef
from django.utils import timezone

from domain.candles import Candles, Timeframe
from domain.strategy import SignalKind, Strategy
from marketdata.models import Candle, Feed
from marketdata.services import candles_window
from pipeline.topics import Note, Topic, publish_all
from strategies.models import Signal, StrategyConfig

logger = logging.getLogger(__name__)

# Candles shown to a strategy at least; more where its warm-up asks for more.
WINDOW = 500


def config_need(config_id: int, is_needed: bool) -> None:
    """Start or end evaluation of a configuration."""
    StrategyConfig.objects.filter(pk=config_id).exclude(is_needed=is_needed).update(is_needed=is_needed)


def feeds_unevaluated(now: datetime) -> list[int]:
    """Feeds whose last candle some needed configuration has not answered: what the sweep rings for."""
    answered = Signal.objects.filter(config=OuterRef("pk"), candle_open_at=OuterRef("feed__last_open_at"))
    waiting = StrategyConfig.objects.filter(~Exists(answered), is_needed=True, feed__last_open_at__isnull=False)
    return list(waiting.values_list("feed_id", flat=True).distinct())


def feed_evaluate(feed_id: int) -> list[int]:
    """Ask every needed configuration of a feed about its newest candle; the ids of the signals that say something.

    A candle that is older than its successor's close is answered with nothing: acting on it would be acting on old news.
    """
    configs = list(StrategyConfig.objects.filter(feed_id=feed_id, is_needed=True).order_by("pk"))
    if not configs:
        return []
    strategies = {config.pk: _built(config) for config in configs}
    longest = max((built.warm_up for built in strategies.values() if isinstance(built, Strategy)), default=0)
    candles = candles_window(feed_id, max(WINDOW, longest + 2))
    if not len(candles):
        return []
    open_at = datetime.fromtimestamp(int(candles.open_ms[-1]) / 1000, tz=UTC)
    newest = Candle.objects.filter(feed=OuterRef("pk"), open_at=open_at)
    # The close from its row: the arrays are floats, and a price is not.
    feed = Feed.objects.select_related("market__exchange").annotate(close=newest.values("close")).get(pk=feed_id)
    timeframe = Timeframe(feed.timeframe)
    close_at = open_at + timeframe.length
    is_stale = feed.market.exchange.time_at(timezone.now()) > close_at + timeframe.length
    signals = []
    for config in configs:
        kind, reason = _answer(strategies[config.pk], candles, is_stale)
        signals.append(
            Signal(
                config=config,
                candle_open_at=open_at,
                candle_close_at=close_at,
                kind=kind,
                price=feed.close,
                reason=reason,
            )
        )
    with transaction.atomic():
        speaking = [signal for signal in _insert_new(signals) if signal.kind != SignalKind.NOTHING]
        publish_all(
            Topic.SIGNALS,
            [
                Note(
                    key=signal.config_id,
                    ids={"config_id": signal.config_id, "signal_id": signal.pk, "owner_id": signal.config.owner_id},
                    data={"kind": signal.kind, "candle_open_at": open_at},
                )
                for signal in speaking
            ],
        )
    return [signal.pk for signal in speaking]


def signals_latest(config_ids: Iterable[int]) -> dict[int, Signal]:
    """By configuration, the last signal that says something."""
    latest = (
        Signal.objects.filter(config_id__in=list(config_ids))
        .exclude(kind=SignalKind.NOTHING)
        .order_by("config_id", "-candle_open_at")
        .distinct("config_id")
    )
    return {signal.config_id: signal for signal in latest}


def _built(config: StrategyConfig) -> Strategy[Any] | str:
    try:
        return config.build()
    except ValidationError as error:
        return f"UNUSABLE: {'; '.join(error.messages)}"


def _answer(strategy: Strategy[Any] | str, candles: Candles, is_stale: bool) -> tuple[SignalKind, str]:
    if isinstance(strategy, str):
        return SignalKind.NOTHING, strategy[:200]
    if is_stale:
        return SignalKind.NOTHING, "STALE: a newer candle has closed since"
    if len(candles) < strategy.warm_up:
        return SignalKind.NOTHING, f"WARMING_UP: {len(candles)} of {strategy.warm_up} candles"
    try:
        kind = strategy.signals(candles).kind_at(len(candles) - 1)
    except Exception as error:
        # A strategy is somebody's code: whatever it raises must not keep its neighbours on the feed from being asked.
        logger.exception("strategy %s failed", type(strategy).__name__)
        said = "".join(char if char.isprintable() else " " for char in str(error))  # no NUL: PostgreSQL takes none
        return SignalKind.NOTHING, f"FAILED: {type(error).__name__}: {said}"[:200]
    return kind, "" if kind is not SignalKind.NOTHING else "NO_SIGNAL"


def _insert_new(signals: Sequence[Signal]) -> list[Signal]:
    # The ORM's ignore_conflicts does not tell which rows were ours, and who won is the point.
    row = "(%s, %s, %s, %s, %s, %s, clock_timestamp())"
    values: list[Any] = []
    for signal in signals:
        values += [
            signal.config_id, signal.candle_open_at, signal.candle_close_at, signal.kind, signal.price, signal.reason,
        ]  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO strategies_signal"  # noqa: S608  # the placeholders only
            " (config_id, candle_open_at, candle_close_at, kind, price, reason, created_at) VALUES "
            + ", ".join([row] * len(signals))
            + " ON CONFLICT DO NOTHING RETURNING config_id, id",
            values,
        )
        ids = dict(cursor.fetchall())
    for signal in signals:
        signal.pk = ids.get(signal.config_id)
    return [signal for signal in signals if signal.pk is not None]
