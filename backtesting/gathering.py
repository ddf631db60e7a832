"""What a backtest of the platform's own markets stands on, read as live trading reads it: the same candles, with as many of
them before the first that is traded as an evaluation sees; the same facts beside them; the rules, fees and limits in force.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from backtesting.engine.inputs import MarketInput, Settings
from domain.candles import Candles, Timeframe
from domain.exit_plan import ExitPlan
from domain.informative import Facts, FundingRates, Informative, TapeKind, known_from
from domain.market import ZERO
from domain.sizing import margin_kept
from domain.strategy import Strategy
from exchanges.accounts import limits_of
from exchanges.models import Account, Market
from marketdata.models import Feed, Tape
from marketdata.services import candles_arrays, candles_window
from marketdata.tapes import funding_window, trades_window
from strategies.models import informatives_validated
from strategies.services import WINDOW


class NothingToTest(ValueError):
    """Not enough is stored for a single candle to be traded in; the message says of what, what was wanted, and what was."""


def market_gather(
    feed: Feed,
    strategy: Strategy[Any],
    since: datetime,
    until: datetime,
    *,
    plan: ExitPlan | None = None,
    detail: Feed | None = None,
) -> MarketInput:
    """The market of ``feed`` with ``strategy`` on its candles that opened from ``since`` on and before ``until``, UTC. Before
    them come those of the warm-up, which are not traded in; where fewer are stored, trading begins later, as it does live.
    ``detail`` is a feed of the same market whose shorter candles tell what came first inside one.

    Raises NothingToTest; Django's ValidationError for a market to look at that its exchange does not have; and ValueError for
    a ``detail`` of something else.
    """
    market, timeframe = feed.market, Timeframe(feed.timeframe)
    if detail is not None:
        _check_detail(feed, detail)
    before = candles_window(feed.pk, max(WINDOW, strategy.warm_up + 2), until=since)
    within = candles_arrays(feed.pk, since, until)
    if not len(within):
        raise NothingToTest(f"wanted candles of {feed} from {since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M}, was none")
    candles = _joined(before, within)
    facts = _facts(market, strategy, candles, timeframe)
    warm_up = max(len(before), strategy.warm_up)
    if warm_up >= len(candles):
        raise NothingToTest(f"wanted more than {strategy.warm_up} candles of {feed} to warm up, was {len(candles)}")
    warm_up = max(warm_up, known_from(facts, strategy.informative, candles, timeframe))
    if warm_up >= len(candles):
        found = ", ".join(f"{len(held)} of {one.warm_up} of {one}" for one, held in facts.candles.items())
        raise NothingToTest(f"wanted the candles that {type(strategy).__name__} looks at beside {feed}, was {found}")
    return MarketInput(
        symbol=market.symbol,
        candles=candles,
        timeframe=timeframe,
        strategy=strategy,
        facts=facts,
        plan=plan,
        rules=market.rules,
        detail=None if detail is None else candles_arrays(detail.pk, since, until),
        funding=_funding_of(market, since, until),
        can_short=market.kind != Market.Kind.SPOT,
        warm_up=warm_up,
    )


def settings_of(account: Account, markets: Sequence[Market], **changes: Any) -> Settings:
    """How ``account`` would trade these markets, changed by ``changes``: the highest of their fees, what an entry keeps back
    of the free balance, and the limits of its risk profile. Limits that need the returns of other markets cannot be judged
    by a book alone and are left out. Exits are market orders, as live ones are, resting ones too."""
    maker_fee, taker_fee = (
        max((getattr(market, name) for market in markets), default=ZERO) for name in ("maker_fee", "taker_fee")
    )
    limits = replace(
        limits_of(account), max_correlated_exposure_percent=None, max_var_percent=None, max_cvar_percent=None
    )
    known: dict[str, Any] = {
        "maker_fee": maker_fee,
        "taker_fee": taker_fee,
        "price_margin": margin_kept(taker_fee),
        "limits": limits,
        "rests_targets": False,
    }
    return Settings(**{**known, **changes})


def _check_detail(feed: Feed, detail: Feed) -> None:
    length, shorter = Timeframe(feed.timeframe).seconds, Timeframe(detail.timeframe).seconds
    if detail.market_id != feed.market_id or shorter >= length or length % shorter:
        raise ValueError(
            f"wanted a feed of {feed.market} whose candles make up those of {feed.timeframe}, was {detail}"
        )


def _facts(market: Market, strategy: Strategy[Any], candles: Candles, timeframe: Timeframe) -> Facts:
    """What the strategy looks at beside ``candles``: all of it from the warm-up before the first to the close of the last."""
    from_at, close_at = _at(int(candles.open_ms[0])), _at(int(candles.open_ms[-1])) + timeframe.length
    markets = informatives_validated(strategy, market)
    held = {one: _informative(one, its_market, from_at, close_at) for one, its_market in markets.items()}
    tapes: dict[str, Any] = {}
    if TapeKind.TRADES in strategy.tapes:
        tapes["trades"] = trades_window(_tape_of(market, TapeKind.TRADES), from_at, close_at)
    if TapeKind.FUNDING in strategy.tapes:
        tapes["funding"] = funding_window(_tape_of(market, TapeKind.FUNDING), from_at, close_at)
    return Facts(held, **tapes)


def _informative(one: Informative, market: Market, from_at: datetime, close_at: datetime) -> Candles:
    feed = Feed.objects.filter(market=market, timeframe=one.timeframe.value).first()
    if feed is None:
        return Candles.from_rows([])
    before = candles_window(feed.pk, one.warm_up + 2, until=from_at)
    return _joined(before, candles_arrays(feed.pk, from_at, close_at))


def _funding_of(market: Market, since: datetime, until: datetime) -> FundingRates | None:
    if market.kind == Market.Kind.SPOT:
        return None
    return funding_window(_tape_of(market, TapeKind.FUNDING), since, until) or None


def _tape_of(market: Market, kind: TapeKind) -> Tape:
    """Its tape; where nobody asked for one yet, one of which nothing is known."""
    return Tape.objects.filter(market=market, kind=kind).first() or Tape(market=market, kind=kind)


def _joined(*parts: Candles) -> Candles:
    return Candles(*(np.concatenate([getattr(part, name) for part in parts]) for name in Candles.__slots__))


def _at(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, tz=UTC)


__all__ = ["NothingToTest", "market_gather", "settings_of"]
