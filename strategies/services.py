"""Evaluating strategies (StrategyExecutor): a pure call on the last window of candles, its answer stored once.

Every needed configuration has exactly one ``Signal`` row per candle it was shown, and says why when it says nothing. It is
shown a candle when all that it looks at beside it is there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from math import nan
from typing import Any

from django.core.exceptions import ValidationError
from django.db import connection, transaction
from django.db.models import Exists, OuterRef
from django.utils import timezone

from domain.candles import Candles, Timeframe
from domain.indicators import atr
from domain.informative import Others
from domain.strategy import SignalKind, Strategy
from domain.words import confidence_said, level_said, range_said
from marketdata.models import Candle, Feed
from marketdata.services import candles_window
from pipeline.topics import Note, Topic, publish_all
from strategies.informatives import PATIENCE, NotThereYet, config_rebind, others_at, warming_up
from strategies.models import Signal, StrategyConfig

logger = logging.getLogger(__name__)

# Candles shown to a strategy at least; more where its warm-up asks for more.
WINDOW = 500
# Over how many candles a signal's average true range is taken: Wilder's own.
ATR_PERIOD = 14


def config_need(config_id: int, is_needed: bool) -> None:
    """Start or end evaluation of a configuration."""
    changed = StrategyConfig.objects.filter(pk=config_id).exclude(is_needed=is_needed).update(is_needed=is_needed)
    if changed and is_needed:
        config_rebind(config_id)  # its strategy may have changed since it was saved


def feeds_unevaluated(now: datetime) -> list[int]:
    """Feeds whose last candle some needed configuration has not answered: what the sweep rings for."""
    answered = Signal.objects.filter(config=OuterRef("pk"), candle_open_at=OuterRef("feed__last_open_at"))
    waiting = StrategyConfig.objects.filter(~Exists(answered), is_needed=True, feed__last_open_at__isnull=False)
    return list(waiting.values_list("feed_id", flat=True).distinct())


def feed_evaluate(feed_id: int) -> list[int]:
    """Ask every needed configuration of a feed about its newest candle; the ids of the signals that say something.

    A candle that is older than its successor's close is answered with nothing: acting on it would be acting on old news.
    One whose configuration looks at more than is there yet is not answered, for as long as ``PATIENCE``.
    """
    configs = list(
        StrategyConfig.objects.filter(feed_id=feed_id, is_needed=True).select_related("feed__market").order_by("pk")
    )
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
    feed = (
        Feed.objects.select_related("market__exchange")
        .annotate(close=newest.values("close"), collected_at=newest.values("collected_at"))
        .get(pk=feed_id)
    )
    timeframe = Timeframe(feed.timeframe)
    close_at = open_at + timeframe.length
    is_stale = feed.market.exchange.time_at(timezone.now()) > close_at + timeframe.length
    is_patient = timezone.now() < feed.collected_at + PATIENCE
    signals = []
    for config in configs:
        try:
            answer = _answer(config, strategies[config.pk], candles, is_stale)
        except NotThereYet as late:
            if is_patient:
                continue
            answer = _Answer(SignalKind.NOTHING, f"INFORMATIVE_MISSING: {late}"[:200])
        speaks = answer.kind is not SignalKind.NOTHING
        signals.append(
            Signal(
                config=config,
                candle_open_at=open_at,
                candle_close_at=close_at,
                kind=answer.kind,
                price=feed.close,
                confidence=confidence_said(answer.confidence),
                stop_price=level_said(answer.stop, feed.market.rules),
                target_price=level_said(answer.target, feed.market.rules),
                atr=_volatility(candles) if speaks else None,
                reason=answer.reason,
            )
        )
    if not signals:
        return []
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


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a strategy said of the newest candle; NaN where it had no word."""

    kind: SignalKind
    reason: str = ""
    confidence: float = nan
    stop: float = nan
    target: float = nan


def _answer(config: StrategyConfig, strategy: Strategy[Any] | str, candles: Candles, is_stale: bool) -> _Answer:
    if isinstance(strategy, str):
        return _Answer(SignalKind.NOTHING, strategy[:200])
    if strategy.callbacks:
        # Its file came to have them while a session ran on it.
        return _Answer(SignalKind.NOTHING, f"UNUSABLE: it has a word in {', '.join(strategy.callbacks)}"[:200])
    if is_stale:
        return _Answer(SignalKind.NOTHING, "STALE: a newer candle has closed since")
    if len(candles) < strategy.warm_up:
        return _Answer(SignalKind.NOTHING, f"WARMING_UP: {len(candles)} of {strategy.warm_up} candles")
    try:
        others = others_at(config, strategy, candles)
    except ValidationError as error:
        return _Answer(SignalKind.NOTHING, f"UNUSABLE: {'; '.join(error.messages)}"[:200])
    if short := warming_up(strategy, others):
        return _Answer(SignalKind.NOTHING, f"WARMING_UP: {short}")
    return _asked(strategy, candles, others)


def _asked(strategy: Strategy[Any], candles: Candles, others: Others) -> _Answer:
    last = len(candles) - 1
    try:
        said = strategy.signals_with(candles, others)
        kind = said.kind_at(last)
        words = [nan if array is None else float(array[last]) for array in (said.confidence, said.stops, said.targets)]
    except Exception as error:
        # A strategy is somebody's code: whatever it raises must not keep its neighbours on the feed from being asked.
        logger.exception("strategy %s failed", type(strategy).__name__)
        text = "".join(char if char.isprintable() else " " for char in str(error))  # no NUL: PostgreSQL takes none
        return _Answer(SignalKind.NOTHING, f"FAILED: {type(error).__name__}: {text}"[:200])
    if kind is SignalKind.NOTHING:
        return _Answer(kind, "NO_SIGNAL")
    if kind not in (SignalKind.ENTER_LONG, SignalKind.ENTER_SHORT):
        return _Answer(kind)  # the rest is about entries
    return _Answer(kind, "", *words)


def _volatility(candles: Candles) -> Decimal | None:
    return range_said(float(atr(candles.high, candles.low, candles.close, ATR_PERIOD)[-1]))


def _insert_new(signals: Sequence[Signal]) -> list[Signal]:
    # The ORM's ignore_conflicts does not tell which rows were ours, and who won is the point.
    row = "(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, clock_timestamp())"
    values: list[Any] = []
    for signal in signals:
        values += [
            signal.config_id, signal.candle_open_at, signal.candle_close_at, signal.kind, signal.price, signal.confidence,
            signal.stop_price, signal.target_price, signal.atr, signal.reason,
        ]  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO strategies_signal"  # noqa: S608  # the placeholders only
            " (config_id, candle_open_at, candle_close_at, kind, price, confidence, stop_price, target_price, atr, reason,"
            " created_at) VALUES "
            + ", ".join([row] * len(signals))
            + " ON CONFLICT DO NOTHING RETURNING config_id, id",
            values,
        )
        ids = dict(cursor.fetchall())
    for signal in signals:
        signal.pk = ids.get(signal.config_id)
    return [signal for signal in signals if signal.pk is not None]
