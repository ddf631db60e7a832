"""What a backtest, or a study of many, is asked to do: checked as a whole before anything is queued, and read from the
database when it is computed. Whoever asks is told by field what is wrong, and which candles are missing and how they come.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

import numpy as np
from django.core.exceptions import ValidationError
from django.db import connection
from django.utils import timezone

from backtesting.engine.inputs import MarketInput, Settings
from backtesting.gathering import market_gather, settings_of
from backtesting.models import Setup
from backtesting.words import SettingsWords, WrongWords, limits_said, plan_said, settings_from, settings_said, written
from domain.calendars import Calendar, expected_opens
from domain.candles import IntArray, Timeframe
from domain.limits import Limits
from domain.market import ZERO
from domain.strategy import Strategy
from exchanges.models import Account, Market
from marketdata.backfills import span_end
from marketdata.history import ms_missing
from marketdata.models import Candle, Feed
from strategies.models import informatives_validated, parameters_validated

# Of all markets together, those inside candles and beside them included: some 500 MB while they are read and computed.
MOST_CANDLES = 3_000_000
# Markets of one portfolio: at each step each that holds something is looked at.
MOST_MARKETS = 50
# So much of a span may be missing before it is refused; venues have holes that nobody fills.
MISSING_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Asked:
    """A backtest in its caller's words. Fees, limits and what is kept back are those of ``account`` where it is named."""

    strategy: str
    feeds: Sequence[Feed]
    from_at: datetime
    until_at: datetime
    parameters: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)
    exits: dict[str, Any] = field(default_factory=dict)
    detail_timeframe: str = ""
    account: Account | None = None


def setup_validated(asked: Asked) -> dict[str, Any]:
    """The columns of a ``Setup`` for what is asked, every default written out. Raises ValidationError, by field."""
    strategy = parameters_validated(asked.strategy, asked.parameters)
    try:
        plan_said(strategy.exit_plan, asked.exits)
        settings, limits = _terms(asked)
    except WrongWords as error:
        raise ValidationError(error.problems) from error
    _check_markets(asked, strategy, settings)
    _check_span(asked, strategy)
    candles_check(asked.feeds, asked.from_at, asked.until_at, asked.detail_timeframe)
    return {
        "strategy": asked.strategy,
        "parameters": strategy.parameters.model_dump(mode="json"),
        "settings": written(settings),
        "limits": limits,
        "exits": asked.exits,
        "detail_timeframe": asked.detail_timeframe,
        "from_at": asked.from_at,
        "until_at": asked.until_at,
    }


def markets_of(
    setup: Setup, feeds: Sequence[Feed], tick: Callable[[], None] = lambda: None
) -> tuple[list[MarketInput], Settings]:
    """What the engine takes for ``setup`` on ``feeds``, read now; ``tick`` is called between two markets.

    Raises ValidationError for what fits no more since it was asked for, and ValueError where candles are missing.
    """
    candles_check(feeds, setup.from_at, setup.until_at, setup.detail_timeframe)
    found = []
    for feed in feeds:
        tick()
        strategy = setup.build()  # one for each market: what a strategy keeps of one is none of the next one's
        found.append(
            market_gather(
                feed, strategy, setup.from_at, setup.until_at,
                plan=plan_said(strategy.exit_plan, setup.exits), detail=_detail(feed, setup.detail_timeframe),
            )
        )  # fmt: skip
    return found, settings_from(setup.settings, setup.limits)


def candles_check(feeds: Sequence[Feed], from_at: datetime, until_at: datetime, detail_timeframe: str = "") -> None:
    """Raises ValidationError, by field, where more than a hundredth of a span's candles are missing: which part, and how it
    is fetched."""
    problems: dict[str, list[str]] = {}
    for feed in feeds:
        detail = _detail(feed, detail_timeframe)
        for one in (feed, detail) if detail is not None else (feed,):
            hole = _hole(one, from_at, until_at)
            if hole is not None:
                problems.setdefault("detail_timeframe" if one is detail else hole.field, []).append(hole.text)
    if problems:
        raise ValidationError(problems)


def candles_missing(feed: Feed, from_at: datetime, until_at: datetime) -> int:
    """How many candles of ``feed`` are not there that its calendar expects in a span."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM marketdata_candle WHERE feed_id = %s AND open_at >= %s AND open_at < %s",
            [feed.pk, from_at, until_at],
        )
        [(stored,)] = cursor.fetchall()
    return max(len(_expected(feed, from_at, until_at)) - int(stored), 0)


def candles_end(feed: Feed) -> datetime:
    """When the last candle of ``feed`` that is there has closed; where there is none, when one would have."""
    latest = Candle.objects.filter(feed=feed).order_by("-open_at").values_list("open_at", flat=True).first()
    end = span_end(feed, timezone.now())
    return end if latest is None else min(end, latest + Timeframe(feed.timeframe).length)


def _terms(asked: Asked) -> tuple[SettingsWords, dict[str, Any]]:
    """Settings and limits with what was left out. Raises WrongWords."""
    words, limits = settings_said(asked.settings), limits_said(asked.limits)
    markets = [feed.market for feed in asked.feeds]
    if asked.account is not None:
        known = settings_of(asked.account, markets)
        given = words.model_dump(exclude_unset=True)
        base = {name: getattr(known, name) for name in ("maker_fee", "taker_fee", "price_margin", "rests_targets")}
        words = SettingsWords(**{**base, **given})
        limits = {**_limits_named(known.limits), **limits}
    fees: dict[str, Any] = {
        name: max((getattr(market, name) for market in markets), default=ZERO)
        for name in ("maker_fee", "taker_fee")
        if getattr(words, name) is None
    }
    words = words.model_copy(update=fees)
    settings_from(written(words), limits)
    return words, limits


def _limits_named(limits: Limits) -> dict[str, Any]:
    plain = Limits()
    changed = {one.name: getattr(limits, one.name) for one in fields(Limits)}
    return limits_said({name: value for name, value in changed.items() if value != getattr(plain, name)})


def _check_markets(asked: Asked, strategy: Strategy[Any], settings: SettingsWords) -> None:
    feeds, problems = asked.feeds, []
    if not 1 <= len(feeds) <= MOST_MARKETS:
        raise ValidationError({"feeds": f"wanted 1 to {MOST_MARKETS} feeds, was {len(feeds)}"})
    symbols = [feed.market.symbol for feed in feeds]
    if len(set(symbols)) < len(symbols):
        problems.append(f"wanted each market once, was {', '.join(symbols)}")
    quotes = sorted({feed.market.quote for feed in feeds})
    if len(quotes) > 1:
        problems.append(f"wanted markets of one quote currency, was {', '.join(quotes)}")
    if asked.account is not None and any(feed.market.exchange_id != asked.account.exchange_id for feed in feeds):
        problems.append(f"wanted markets of {asked.account.exchange}, where the account is, was {', '.join(symbols)}")
    if problems:
        raise ValidationError({"feeds": problems})
    if settings.leverage > 1 and any(feed.market.kind == Market.Kind.SPOT for feed in feeds):
        raise ValidationError({"settings": f"leverage: wanted 1 on a spot market, was {settings.leverage}"})
    for feed in feeds:
        informatives_validated(strategy, feed.market)
        _detail(feed, asked.detail_timeframe)


def _check_span(asked: Asked, strategy: Strategy[Any]) -> None:
    now = timezone.now()
    ends = {"from_at": asked.from_at, "until_at": asked.until_at}
    naive = {name: f"wanted a time with its zone, was {at}" for name, at in ends.items() if timezone.is_naive(at)}
    if naive:
        raise ValidationError(naive)
    if asked.until_at <= asked.from_at:
        raise ValidationError({"until_at": f"wanted a time after {_told(asked.from_at)}, was {_told(asked.until_at)}"})
    latest = min(span_end(feed, now) for feed in asked.feeds)
    if asked.until_at > latest:
        raise ValidationError(
            {"until_at": f"wanted candles that have closed, until {_told(latest)}, was {_told(asked.until_at)}"}
        )
    seconds = (asked.until_at - asked.from_at).total_seconds()
    lengths = [Timeframe(feed.timeframe).seconds for feed in asked.feeds]
    beside = [one.timeframe for one in strategy.informative]
    if asked.detail_timeframe:
        beside.append(Timeframe(asked.detail_timeframe))
    lengths += [timeframe.seconds for timeframe in beside] * len(asked.feeds)
    count = sum(int(seconds // length) for length in lengths)
    if count > MOST_CANDLES:
        raise ValidationError(
            {"until_at": f"wanted at most {MOST_CANDLES:,} candles of all markets together, was {count:,}"}
        )


def _detail(feed: Feed, timeframe: str) -> Feed | None:
    """The feed of the candles inside those of ``feed``. Raises ValidationError where there is none."""
    if not timeframe:
        return None
    length, shorter = Timeframe(feed.timeframe).seconds, Timeframe(timeframe).seconds
    if shorter >= length or length % shorter:
        raise ValidationError(
            {"detail_timeframe": f"wanted a timeframe whose candles make up those of {feed.timeframe}, was {timeframe}"}
        )
    found = Feed.objects.filter(market=feed.market, timeframe=timeframe).select_related("market__exchange").first()
    if found is None:
        raise ValidationError({"detail_timeframe": f"wanted a feed of {feed.market} at {timeframe}, was none"})
    return found


@dataclass(frozen=True, slots=True)
class _Hole:
    field: str
    text: str


def _hole(feed: Feed, from_at: datetime, until_at: datetime) -> _Hole | None:
    """The longest part of a span that is not there, where there is too much of that."""
    expected = _expected(feed, from_at, until_at)
    missing = candles_missing(feed, from_at, until_at)
    if len(expected) and missing <= MISSING_SHARE * len(expected):
        return None
    if not len(expected):
        text = f"wanted candles of {feed} from {_told(from_at)} to {_told(until_at)}, was a time in which none opens"
        return _Hole("until_at", text)
    places = np.searchsorted(expected, ms_missing(feed, from_at, until_at))
    if not len(places):  # they came while it was looked
        return None
    runs = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
    longest = max(runs, key=len)
    since, last = _at(expected[longest[0]]), _at(expected[longest[-1]])
    upto = last + Timeframe(feed.timeframe).length
    at_end = longest[-1] == len(expected) - 1 and longest[0] > 0
    way = f"feed {feed.pk}, from_at {_iso(since)}, until_at {_iso(upto)}"
    text = (
        f"wanted {len(expected):,} candles of {feed}, {missing:,} are missing, {len(longest):,} of them from {_told(since)} "
        f"to {_told(upto)}: have them fetched by a backfill ({way}), or choose a span without them"
    )
    return _Hole("until_at" if at_end else "from_at", text)


def _expected(feed: Feed, from_at: datetime, until_at: datetime) -> IntArray:
    since, until = (round(at.timestamp() * 1000) for at in (from_at, until_at))
    return expected_opens(Calendar(feed.calendar), Timeframe(feed.timeframe), since, until)


def _at(milliseconds: Any) -> datetime:
    return datetime.fromtimestamp(int(milliseconds) / 1000, tz=UTC)


def _told(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M}"


def _iso(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
