"""Markets and settings as the numbers and arrays that the fast loop takes, and its rows as a result again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backtesting.engine.inputs import (
    ENTER,
    HUNDRED,
    Columns,
    Lazy,
    MarketInput,
    Refused,
    Result,
    Settings,
    at,
    kinds_of,
)
from backtesting.engine.kernel import BOOK_COLUMNS, PLAN_COLUMNS, REFUSED_COLUMNS, TRADE_COLUMNS, Terms
from backtesting.engine.loops import Loops, loops_for
from backtesting.engine.track import ATR_PERIOD
from domain.candles import FloatArray, IntArray
from domain.exit_plan import ExitPlan
from domain.indicators import atr
from domain.market import ZERO, MarketRules, PositionSide
from domain.orders import Denial
from domain.sizing import SizingMethod
from domain.strategy import SignalArray, SignalArrays

# Decimals of a lot; with more a float has no digits left to count them in.
MOST_PLACES = 12
# As ``Terms.method`` has them.
METHODS = (
    SizingMethod.FIXED_QUOTE,
    SizingMethod.PERCENT_OF_EQUITY,
    SizingMethod.RISK_PER_TRADE,
    SizingMethod.VOLATILITY,
)
# As the fast loop numbers them.
DENIALS = (
    None,
    Denial.SIDE_NOT_TRADABLE,
    Denial.INSUFFICIENT_BALANCE,
    Denial.BELOW_MIN_QUANTITY,
    Denial.BELOW_MIN_NOTIONAL,
    Denial.NO_STOP_LOSS,
    Denial.NO_VOLATILITY,
    Denial.MAX_DAILY_LOSS,
    Denial.MAX_DRAWDOWN,
    Denial.MAX_OPEN_POSITIONS,
    Denial.MAX_LEVERAGE,
    Denial.MAX_RISK_PER_TRADE,
    Denial.MAX_OPEN_RISK,
    Denial.MAX_EXPOSURE,
    Denial.MAX_MARKET_EXPOSURE,
    Denial.MAX_CURRENCY_EXPOSURE,
    Denial.MAX_NET_EXPOSURE,
)
NOTHING: FloatArray = np.empty(0)


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """What is walked: as the arguments of ``kernel.walk`` of the same names. Candles of all markets stand one after the
    other; those of the market at ``n`` begin at ``starts[n]``."""

    plans: list[list[float]]
    levels: list[tuple[float, float]]
    roi: list[tuple[float, float]]
    paid_ms: IntArray
    rates: FloatArray
    clock: IntArray
    prices: tuple[NDArray[Any], ...]  # open_ms, open, high, low, close
    kinds: SignalArray
    words: tuple[FloatArray, ...]  # stops, targets, ranges, sureness
    ask_step: IntArray
    ask_market: IntArray
    ask_place: IntArray
    first: int
    starts: tuple[int, ...]

    @property
    def close(self) -> FloatArray:
        return self.prices[4]


def terms_of(settings: Settings) -> Terms:
    """The account as the fast loop takes it."""
    limits, is_fixed = settings.limits, settings.sizing is SizingMethod.FIXED_QUOTE
    return Terms(
        cash=float(settings.cash),
        method=METHODS.index(settings.sizing),
        amount=float(settings.amount if is_fixed else settings.amount / HUNDRED),
        maker_fee=float(settings.maker_fee),
        taker_fee=float(settings.taker_fee),
        worse=float(settings.worse),
        half_spread=float(settings.spread / 2),
        margin=float(settings.margin),
        leverage=float(settings.leverage),
        is_resting=settings.rests_targets,
        is_closed_at_end=settings.is_closed_at_end,
        has_limits=limits != type(limits)(),
        most_positions=inf if limits.max_open_positions is None else float(limits.max_open_positions),
        most_leverage=_bound(limits.max_leverage),
        daily_loss=_share(limits.max_daily_loss_percent),
        drawdown=_share(limits.max_drawdown_percent),
        trade_risk=_share(limits.max_risk_per_trade_percent),
        open_risk=_share(limits.max_open_risk_percent),
        exposure=_bound(limits.max_exposure),
        exposure_part=_share(limits.max_exposure_percent),
        market_part=_share(limits.max_market_exposure_percent),
        currency_part=_share(limits.max_currency_exposure_percent),
        net_part=_share(limits.max_net_exposure_percent),
    )


def course_of(
    markets: Sequence[MarketInput], settings: Settings, said: Sequence[SignalArrays], loops: Loops | None = None
) -> Course:
    """The markets, and what is ``said`` on each, as the fast loop takes them."""
    opened = [_ready(market.candles.open_ms, np.int64) for market in markets]
    clock = _clock(opened, min(market.timeframe.seconds for market in markets) * 1000)
    starts = (0, *np.cumsum([len(one) for one in opened]).tolist())
    kinds = [kinds_of(signals, market.first) for market, signals in zip(markets, said, strict=True)]
    steps, places, numbers, firsts = [], [], [], [len(clock)]
    for number, (market, one) in enumerate(zip(markets, kinds, strict=True)):
        asks = np.flatnonzero(np.abs(one[:-1]) == ENTER) + 1
        on_clock = len(clock) == len(opened[number])  # then it has a candle at every step
        steps.append(asks if on_clock else np.searchsorted(clock, opened[number][asks]))
        places.append(asks + starts[number])
        numbers.append(np.full(len(asks), number, np.int64))
        if market.first < len(one):
            firsts.append(int(np.searchsorted(clock, opened[number][market.first])))
    ask_step, ask_place, ask_market = (np.concatenate(one) for one in (steps, places, numbers))
    if len(markets) > 1:
        order = np.lexsort((ask_market, ask_step))
        ask_step, ask_place, ask_market = ask_step[order], ask_place[order], ask_market[order]
    plans, levels, roi, paid_ms, rates = _plans(markets, starts)
    return Course(
        plans=plans,
        levels=levels,
        roi=roi,
        paid_ms=paid_ms,
        rates=rates,
        clock=clock,
        prices=(
            _joined(opened),
            *(
                _joined([_ready(getattr(market.candles, name), np.float64) for market in markets])
                for name in ("open", "high", "low", "close")
            ),
        ),
        kinds=_joined(kinds),
        words=_words(markets, settings, said, loops),
        ask_step=ask_step,
        ask_market=ask_market,
        ask_place=ask_place,
        first=min(firsts),
        starts=starts[:-1],
    )


def run(terms: Terms, course: Course, loops: Loops | None = None) -> tuple[FloatArray, IntArray, FloatArray]:
    """Walk one course: rows of trades and of refusals, and the equity of each step, as ``kernel`` says."""
    chosen = loops or loops_for(len(course.kinds))
    markets, rows, steps = len(course.plans), len(course.ask_step) + 1, len(course.clock)
    arrays: list[NDArray[Any]] = [
        course.paid_ms,
        course.rates,
        course.clock,
        *course.prices,
        course.kinds,
        *course.words,
    ]
    arrays += [course.ask_step, course.ask_market, course.ask_place]
    if chosen.is_compiled:
        trades, refused = np.empty((rows, TRADE_COLUMNS)), np.empty((rows, REFUSED_COLUMNS), np.int64)
        equity, books = np.empty(steps), np.zeros((markets, BOOK_COLUMNS))
        count, denied = chosen.walk(
            terms, *tables_of(course), *arrays, course.first, books, np.zeros(markets, np.int64), np.zeros(markets),
            equity, trades, refused,
        )  # fmt: skip
        return trades[:count], refused[:denied], equity
    # Plain Python reads a list several times quicker than an array.
    worth, found = [0.0] * steps, [[0.0] * TRADE_COLUMNS for _ in range(rows)]
    no = [[0] * REFUSED_COLUMNS for _ in range(rows)]
    count, denied = chosen.walk(
        terms, course.plans, course.levels, course.roi, *(one.tolist() for one in arrays), course.first,
        [[0.0] * BOOK_COLUMNS for _ in range(markets)], [0] * markets, [0.0] * markets, worth, found, no,
    )  # fmt: skip
    return (
        np.array(found[:count], np.float64).reshape(-1, TRADE_COLUMNS),
        np.array(no[:denied], np.int64).reshape(-1, REFUSED_COLUMNS),
        np.array(worth),
    )


def tables_of(course: Course) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Plans, levels and ROI steps as the compiled loop takes them."""
    return (
        np.array(course.plans).reshape(-1, PLAN_COLUMNS),
        np.array(course.levels, np.float64).reshape(-1, 2),
        np.array(course.roi, np.float64).reshape(-1, 2),
    )


def told(
    markets: Sequence[MarketInput], course: Course, trades: FloatArray, refused: IntArray, equity: FloatArray
) -> Result:
    """The rows of the fast loop as a result."""
    number, side, entered_in, left_in, entry, leave, quantity, pnl, fees, funding, reason = trades.T
    market, entered_at = number.astype(np.int64), entered_in.astype(np.int64)
    open_ms, first = course.prices[0], course.first
    contracts = np.array([float(one.rules.contract_size) if one.rules else 1.0 for one in markets])
    columns = Columns(
        symbols=tuple(one.symbol for one in markets),
        market=market,
        side=side.astype(np.int8),
        entry_ms=open_ms[entered_at],
        entry_price=entry,
        exit_ms=open_ms[left_in.astype(np.int64)],
        exit_price=leave,
        quantity=_in_lots(quantity, market, markets),
        pnl=pnl,
        gain=pnl / (entry * quantity * contracts[market]),
        fees=fees,
        funding=funding,
        reason=reason.astype(np.int8),
        tags=_tags(markets, market, entered_at - np.array(course.starts)[market]),
    )
    make = partial(_refused, tuple(one.symbol for one in markets), open_ms, refused)
    return Result.of_columns(columns, course.clock[first:], equity[first:], Lazy(len(refused), make))


def _in_lots(quantity: FloatArray, market: IntArray, markets: Sequence[MarketInput]) -> FloatArray:
    """What was counted in lots, each as the number that its digits say: 95,238 times 0.0001 is none."""
    exact = quantity.copy()
    for number, one in enumerate(markets):
        places = -int(one.rules_or_none.lot_size.normalize().as_tuple().exponent)
        if places <= MOST_PLACES:
            mine = market == number
            exact[mine] = np.round(quantity[mine], places)
    return exact


def _clock(opened: Sequence[IntArray], step_ms: int) -> IntArray:
    """The times of all, each once."""
    if all(np.array_equal(one, opened[0]) for one in opened[1:]):
        return opened[0]
    held = [one for one in opened if len(one)]
    begin, end = min(int(one[0]) for one in held), max(int(one[-1]) for one in held)
    count, given = (end - begin) // step_ms + 1, sum(map(len, held))
    if count > 4 * given or any(((one - begin) % step_ms).any() for one in held):
        return np.unique(np.concatenate(held))
    is_there = np.zeros(count, np.bool_)  # quicker than to sort
    for one in held:
        is_there[(one - begin) // step_ms] = True
    return np.flatnonzero(is_there) * step_ms + begin


def _tags(markets: Sequence[MarketInput], market: IntArray, entered_at: IntArray) -> list[str] | None:
    if all(one.tags is None for one in markets):
        return None
    tags = [one.tags for one in markets]
    places = zip(market.tolist(), entered_at.tolist(), strict=True)
    return ["" if (mine := tags[number]) is None else mine[index - 1] for number, index in places]


def _refused(symbols: tuple[str, ...], open_ms: IntArray, rows: IntArray, number: int) -> Refused:
    market, place, side, denial = rows[number].tolist()
    named = DENIALS[denial]
    if named is None:
        raise RuntimeError("wanted a denial for an entry that was refused, was none")
    return Refused(
        symbols[market], at(int(open_ms[place])), PositionSide.LONG if side > 0 else PositionSide.SHORT, named
    )


def _plans(
    markets: Sequence[MarketInput], starts: tuple[int, ...]
) -> tuple[list[list[float]], list[tuple[float, float]], list[tuple[float, float]], IntArray, FloatArray]:
    """A row for each market (columns as in ``kernel``), and the targets, ROI steps and funding rates of all."""
    levels: list[tuple[float, float]] = []
    roi: list[tuple[float, float]] = []
    bases: dict[str, int] = {}
    plans, paid = [], 0
    for number, market in enumerate(markets):
        plan, rules = market.exit_plan, market.rules_or_none
        base = bases.setdefault(rules.base, len(bases))
        bounds = [len(levels), len(levels) + len(plan.targets), len(roi), len(roi) + len(plan.roi), paid]
        gone = ZERO
        for target in plan.targets:
            gone += target.fraction
            levels.append((float(target.percent / HUNDRED), float(gone)))
        roi += [(step.minutes * 60_000.0, float(step.percent / HUNDRED)) for step in plan.roi]
        paid += len(market.funding.at_ms) if market.funding is not None else 0
        plans.append([
            float(market.can_short), *_rules(market.rules), *_exits(plan), base, starts[number + 1], *bounds, paid
        ])  # fmt: skip
    paying = [market.funding for market in markets if market.funding is not None]
    return (
        plans,
        levels,
        roi,
        _joined([_ready(one.at_ms, np.int64) for one in paying] or [np.empty(0, np.int64)]),
        _joined([_ready(one.rate, np.float64) for one in paying] or [NOTHING]),
    )


def _rules(rules: MarketRules | None) -> list[float]:
    if rules is None:
        return [0.0, 0.0, 0.0, inf, 0.0, 1.0]
    return [
        float(rules.tick_size), float(rules.lot_size), float(rules.min_quantity), _bound(rules.max_quantity),
        float(rules.min_notional), float(rules.contract_size),
    ]  # fmt: skip


def _exits(plan: ExitPlan) -> list[float]:
    return [
        _part(plan.stop_loss_percent), float(plan.stop_loss_atr or 0), plan.is_stop_from_signal,
        plan.is_target_from_signal, _part(plan.trailing_percent), float(plan.trailing_atr or 0),
        _part(plan.trailing_activation_percent), _part(plan.break_even_percent), _part(plan.break_even_offset_percent),
        (plan.max_hold_minutes or 0) * 60_000.0, plan.is_exit_signal_used, _part(plan.liquidation_guard_percent),
        plan.is_following,
    ]  # fmt: skip


def _words(
    markets: Sequence[MarketInput], settings: Settings, said: Sequence[SignalArrays], loops: Loops | None
) -> tuple[FloatArray, ...]:
    """What is known of each candle beside its prices: stops and targets that are named, average true ranges, how sure a
    signal is. An array of nothing where nobody asks for it."""

    def of_all(ones: Sequence[FloatArray | None]) -> FloatArray:
        if all(one is None for one in ones):
            return NOTHING
        lengths = [len(market.candles) for market in markets]
        return _joined([
            np.full(length, np.nan) if one is None else _ready(one, np.float64)
            for one, length in zip(ones, lengths, strict=True)
        ])  # fmt: skip

    plans, is_sized = [market.exit_plan for market in markets], settings.sizing is SizingMethod.VOLATILITY
    return (
        of_all([one.stops if plan.is_stop_from_signal else None for plan, one in zip(plans, said, strict=True)]),
        of_all([one.targets if plan.is_target_from_signal else None for plan, one in zip(plans, said, strict=True)]),
        of_all(
            [
                _ranges(market, signals, loops) if is_sized or _asks_ranges(market.exit_plan) else None
                for market, signals in zip(markets, said, strict=True)
            ]
        ),
        of_all([one.confidence if settings.is_confidence_weighted else None for one in said]),
    )


def _asks_ranges(plan: ExitPlan) -> bool:
    return plan.stop_loss_atr is not None or plan.trailing_atr is not None


def _ranges(market: MarketInput, signals: SignalArrays, loops: Loops | None) -> FloatArray:
    """The average true ranges; beside an entry, where they are asked for, as ``range_said`` has them."""
    candles = market.candles
    chosen = loops or loops_for(len(candles))
    smooth = chosen.smooth if chosen.is_compiled else None
    ranges = atr(candles.high, candles.low, candles.close, ATR_PERIOD, smooth)
    spoken = np.flatnonzero(signals.entries)
    ranges[spoken] = [float(f"{value:.10g}") for value in ranges[spoken].tolist()]
    return ranges


def _ready(column: NDArray[Any], kind: type[np.generic]) -> NDArray[Any]:
    """As the loop was compiled for: any other kind of array would be compiled for anew."""
    return np.require(column, kind, ["C", "W"])


def _joined(columns: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return columns[0] if len(columns) == 1 else np.concatenate(columns)


def _part(percent: Decimal | None) -> float:
    return 0.0 if percent is None else float(percent / HUNDRED)


def _share(percent: Decimal | None) -> float:
    return inf if percent is None else float(percent / HUNDRED)


def _bound(bound: Decimal | None) -> float:
    return inf if bound is None else float(bound)
