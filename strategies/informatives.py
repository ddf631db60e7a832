"""What configurations look at beside their own feed: which rows that is, whether all of it is there, and it as arrays.

A configuration is asked about a candle only when everything that had closed by then is stored, so that its answer does not
depend on the order in which things arrived; what does not come in time is named instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Exists, OuterRef

from domain.calendars import Calendar, expected_opens
from domain.candles import Candles, Timeframe
from domain.informative import Facts, Informative, Others, TapeKind
from domain.strategy import Strategy
from marketdata.models import Feed
from marketdata.services import candles_window, feed_ensure
from marketdata.tapes import funding_window, tape_ensure, trades_window
from strategies.models import Signal, StrategyConfig, informatives_validated

MICROSECOND = timedelta(microseconds=1)
# How long after a candle was stored the rest is waited for: a venue that answers is collected within two seconds of a close,
# and one that failed is asked again several times meanwhile.
PATIENCE = timedelta(seconds=20)
# Candles of one informative feed that are read for one evaluation at most, the newest of them.
LONGEST_WINDOW = 5_000
# Whatever market it is, it was open within this time.
LONGEST_CLOSURE = timedelta(days=14)


class NotThereYet(Exception):
    """Something that had closed by then is not stored; the message names what."""


def config_bind(config: StrategyConfig) -> None:
    """Make the rows that ``config`` looks at exactly those that its strategy names, new ones where there were none. Raises
    ValidationError, naming what its exchange does not have."""
    strategy, market = config.build(), config.feed.market
    markets = informatives_validated(strategy, market)
    with transaction.atomic():
        config.informative_feeds.set(sorted(
            {feed_ensure(its_market, one.timeframe).pk for one, its_market in markets.items()}
        ))  # fmt: skip
        config.tapes.set(sorted({tape_ensure(market, kind).pk for kind in strategy.tapes}))


def config_rebind(config_id: int) -> None:
    """As ``config_bind``, for a configuration that was checked before; one that fits no more keeps what it had."""
    config = StrategyConfig.objects.select_related("feed__market__exchange").get(pk=config_id)
    try:
        config_bind(config)
    except ValidationError:
        return  # said on its next signal


def feeds_informed(feed_ids: Iterable[int]) -> list[int]:
    """Feeds of needed configurations that look at one of ``feed_ids`` and have not answered their own last candle."""
    answered = Signal.objects.filter(config=OuterRef("pk"), candle_open_at=OuterRef("feed__last_open_at"))
    waiting = StrategyConfig.objects.filter(
        ~Exists(answered), informative_feeds__in=list(feed_ids), is_needed=True, feed__last_open_at__isnull=False
    )
    return list(waiting.values_list("feed_id", flat=True).distinct())


def others_at(config: StrategyConfig, strategy: Strategy[Any], candles: Candles) -> Others:
    """What ``config`` sees beside ``candles``, its own. Raises NotThereYet, and ValidationError for what there is not."""
    feed = config.feed
    timeframe = Timeframe(feed.timeframe)
    if not strategy.informative and not strategy.tapes:
        return Others(candles, timeframe, Facts(), feed.market.symbol)
    from_at, close_at = _at(candles.open_ms[0]), _at(candles.open_ms[-1]) + timeframe.length
    feeds = _feeds_of(config, strategy)
    tapes = {TapeKind(tape.kind): tape for tape in config.tapes.all()}
    late = [str(one) for one, its_feed in feeds.items() if not _is_whole(its_feed, close_at)]
    late += [kind.lower() for kind in sorted(strategy.tapes) if not tapes[kind].reaches(close_at)]
    if late:
        raise NotThereYet(", ".join(late))
    facts = {
        # What opened a timeframe before our close had closed by then.
        one: candles_window(
            its_feed.pk, _length(one, close_at - from_at), until=close_at - one.timeframe.length + MICROSECOND
        )
        for one, its_feed in feeds.items()
    }
    tape_facts: dict[str, Any] = {}
    if TapeKind.TRADES in tapes:
        tape_facts["trades"] = trades_window(tapes[TapeKind.TRADES], from_at, close_at)
    if TapeKind.FUNDING in tapes:
        tape_facts["funding"] = funding_window(tapes[TapeKind.FUNDING], from_at, close_at)
    return Others(candles, timeframe, Facts(facts, **tape_facts), feed.market.symbol)


def warming_up(strategy: Strategy[Any], others: Others) -> str:
    """Which informative feed has too few candles yet; empty where none has."""
    for one in strategy.informative:
        if len(others[one]) < one.warm_up:
            return f"{len(others[one])} of {one.warm_up} candles of {one}"
    return ""


def _feeds_of(config: StrategyConfig, strategy: Strategy[Any]) -> dict[Informative, Feed]:
    found = _bound(config, strategy)
    has_tapes = {tape.kind for tape in config.tapes.all()} >= strategy.tapes
    if len(found) < len(set(strategy.informative)) or not has_tapes:
        # Saved before its strategy named them: its sessions find what they need with the next look of their sweep.
        config_bind(config)
        found = _bound(config, strategy)
    return found


def _bound(config: StrategyConfig, strategy: Strategy[Any]) -> dict[Informative, Feed]:
    rows = config.informative_feeds.select_related("market")
    feeds = {(feed.market.symbol, feed.timeframe): feed for feed in rows}
    own = config.feed.market.symbol
    wanted = {one: (one.symbol or own, one.timeframe.value) for one in strategy.informative}
    return {one: feeds[key] for one, key in wanted.items() if key in feeds}


def _is_whole(feed: Feed, close_at: datetime) -> bool:
    """Whether the last candle of ``feed`` that its calendar expects to have closed by ``close_at`` is stored."""
    timeframe = Timeframe(feed.timeframe)
    last_ms = round((close_at - timeframe.length).timestamp() * 1000)
    since_ms = last_ms - round((LONGEST_CLOSURE + 2 * timeframe.length).total_seconds() * 1000)
    expected = expected_opens(Calendar(feed.calendar), timeframe, since_ms, last_ms + 1)
    return feed.last_open_at is not None and (not len(expected) or feed.last_open_at >= _at(expected[-1]))


def _length(one: Informative, span: timedelta) -> int:
    return min(span // one.timeframe.length + one.warm_up + 2, LONGEST_WINDOW)


def _at(milliseconds: Any) -> datetime:
    return datetime.fromtimestamp(int(milliseconds) / 1000, tz=UTC)
