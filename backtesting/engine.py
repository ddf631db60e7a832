"""Arrays in, trades and equity out: what trading would have come to, decided by the functions that live trading asks.

An entry fills at the open after its signal; its stop and target count from that candle on; exits of one open come before
entries. What moves with the market moves when a candle has closed. The fast loop (``backtesting/kernel.py``) does what one
market with the common exits asks for; everything else goes from event to event (``backtesting/walk.py``). Both trade the
same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Any

import numpy as np

from backtesting.inputs import HUNDRED, Columns, Lazy, MarketInput, Refused, Result, Settings, at, kinds_of
from backtesting.kernel import DENIALS, Course, Loops, Terms, Walked, run
from backtesting.walk import Walk
from domain.candles import FloatArray, IntArray
from domain.exit_plan import ExitPlan
from domain.limits import Limits
from domain.market import PositionSide
from domain.sizing import SizingMethod
from domain.strategy import SignalArrays

BOTH_KNOW = frozenset({SizingMethod.FIXED_QUOTE, SizingMethod.PERCENT_OF_EQUITY})


def backtest(
    markets: Sequence[MarketInput], settings: Settings | None = None, tick: Callable[[float], None] | None = None
) -> Result:
    """What trading ``markets`` with one account would have come to. ``tick`` is called now and then with how much is done, 0
    to 1, where it takes long; what it raises ends the run. Raises ValueError for what makes no sense."""
    terms = settings or Settings()
    if len({market.symbol for market in markets}) < len(markets):
        raise ValueError(f"wanted each market once, was {', '.join(market.symbol for market in markets)}")
    if len(markets) == 1 and is_common(markets[0], terms):
        return backtest_fast(markets[0], terms)
    return Walk(markets, terms, tick).result()


def is_common(market: MarketInput, settings: Settings) -> bool:
    """Whether the fast loop knows all that is asked for."""
    plan = market.exit_plan
    asks_more = (
        settings.sizing not in BOTH_KNOW,
        settings.is_confidence_weighted,
        settings.volume_share is not None,
        settings.max_entries > 1,
        settings.leverage > 1,
        settings.limits != Limits(),
        not settings.rests_targets,
        market.detail is not None,
        market.funding is not None,
        market.is_advised,
        plan.stop_loss_atr is not None,
        plan.trailing_atr is not None,
    )
    return not any(asks_more)


def backtest_fast(market: MarketInput, settings: Settings, loops: Loops | None = None) -> Result:
    """As ``backtest``, of one market that ``is_common``, by the fast loop."""
    signals = market.said()
    course = course_of(market, signals)
    walked = run(terms_of(market, settings), course, loops)
    tagged = (
        market
        if market.tags is not None
        else replace(market, tags=None if signals.tags is None else signals.tags.tolist())
    )
    return _told(tagged, walked, course.first)


def course_of(market: MarketInput, signals: SignalArrays) -> Course:
    """The market as the fast loop takes it."""
    plan, size = market.exit_plan, len(market.candles)
    silence = np.full(size, np.nan) if signals.stops is None or signals.targets is None else np.empty(0)
    gone = Decimal(0)
    levels = []
    for target in plan.targets:
        gone += target.fraction
        levels.append((float(target.percent / HUNDRED), float(gone)))
    return Course(
        candles=market.candles,
        kinds=kinds_of(signals, market.first),
        stops=_named(signals.stops, silence),
        targets=_named(signals.targets, silence),
        levels=levels,
        roi=[(step.minutes * 60_000.0, float(step.percent / HUNDRED)) for step in plan.roi],
        first=min(market.first, size),
    )


def terms_of(market: MarketInput, settings: Settings) -> Terms:
    """The plan and the settings as the fast loop takes them."""
    plan, rules = market.exit_plan, market.rules
    is_fixed = settings.sizing is SizingMethod.FIXED_QUOTE
    return Terms(
        cash=float(settings.cash),
        is_fixed=is_fixed,
        stake=float(settings.amount if is_fixed else settings.amount / HUNDRED),
        maker_fee=float(settings.maker_fee),
        taker_fee=float(settings.taker_fee),
        worse=float(settings.worse),
        half_spread=float(settings.spread / 2),
        margin=float(settings.margin),
        can_short=market.can_short,
        tick=float(rules.tick_size) if rules else 0.0,
        lot=float(rules.lot_size) if rules else 0.0,
        min_quantity=float(rules.min_quantity) if rules else 0.0,
        max_quantity=float(rules.max_quantity) if rules and rules.max_quantity is not None else np.inf,
        min_notional=float(rules.min_notional) if rules else 0.0,
        contract=float(rules.contract_size) if rules else 1.0,
        has_signal_stop=plan.is_stop_from_signal,
        has_signal_target=plan.is_target_from_signal,
        is_closed_at_end=settings.is_closed_at_end,
        **_exits(plan),
    )


def _exits(plan: ExitPlan) -> dict[str, Any]:
    return {
        "stop": _part(plan.stop_loss_percent),
        "trailing": _part(plan.trailing_percent),
        "trailing_from": _part(plan.trailing_activation_percent),
        "break_even": _part(plan.break_even_percent),
        "break_even_offset": _part(plan.break_even_offset_percent),
        "max_hold_ms": (plan.max_hold_minutes or 0) * 60_000.0,
        "is_signal_used": plan.is_exit_signal_used,
    }


def _part(percent: Decimal | None) -> float:
    return 0.0 if percent is None else float(percent / HUNDRED)


def _named(prices: FloatArray | None, silence: FloatArray) -> FloatArray:
    return silence if prices is None else np.asarray(prices, dtype=np.float64)


def _told(market: MarketInput, walked: Walked, first: int) -> Result:
    """The rows of the fast loop as columns."""
    open_ms, (side, entered_in, left_in, entry, leave, quantity, pnl, fees, reason) = (
        market.candles.open_ms,
        walked.trades.T,
    )
    entered_at, left_at = entered_in.astype(np.int64), left_in.astype(np.int64)
    contract = float(market.rules.contract_size) if market.rules else 1.0
    tags = market.tags
    columns = Columns(
        symbols=(market.symbol,),
        market=np.zeros(len(side), np.int64),
        side=side.astype(np.int8),
        entry_ms=open_ms[entered_at],
        entry_price=entry,
        exit_ms=open_ms[left_at],
        exit_price=leave,
        quantity=quantity,
        pnl=pnl,
        gain=pnl / (entry * quantity * contract),
        fees=fees,
        funding=np.zeros(len(side)),
        reason=reason.astype(np.int8),
        tags=None if tags is None else [tags[index - 1] for index in entered_at.tolist()],
    )
    refused = Lazy(len(walked.refused), partial(_refused, market, walked.refused))
    return Result.of_columns(columns, open_ms[first:], walked.equity[first:], refused)


def _refused(market: MarketInput, rows: IntArray, number: int) -> Refused:
    index, side, denial = rows[number].tolist()
    named = DENIALS[denial]
    if named is None:
        raise RuntimeError("wanted a denial for an entry that was refused, was none")
    return Refused(
        market.symbol,
        at(int(market.candles.open_ms[index])),
        PositionSide.LONG if side > 0 else PositionSide.SHORT,
        named,
    )
