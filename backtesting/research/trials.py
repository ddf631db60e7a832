"""What one set of parameters comes to, in a few numbers: what a search compares, and keeps of a trial.

A trial is a backtest like any other (``backtesting/engine/__init__.py``); only what is told of it is less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from backtesting.curve import Curve, divided, known
from backtesting.engine import backtest
from backtesting.engine.inputs import MarketInput, Result, Settings
from backtesting.wording import refusal_text
from domain.candles import FloatArray, IntArray
from domain.informative import Facts
from domain.statistics import sqn
from domain.strategy import Strategy

# Returns are kept of so many equal parts of the time at most: 2,000 of them are 8 kB a trial.
MOST_SPANS = 2000
# What a ratio with nothing lost to divide by counts as.
WITHOUT_LOSS = 100.0
# What a search may be for, and the figure that says it.
OBJECTIVES = {
    "sharpe": "sharpe", "sortino": "sortino", "calmar": "calmar", "total_return": "total_return", "cagr": "cagr",
    "max_drawdown": "max_drawdown", "profit_factor": "profit_factor", "win_rate": "win_rate", "sqn": "sqn",
    "expectancy": "average_return",
}  # fmt: skip
RATIOS = frozenset({"sharpe", "sortino", "calmar", "profit_factor", "sqn"})


@dataclass(frozen=True, slots=True)
class Objective:
    """What a search is for, one of OBJECTIVES: more is better (a drawdown is negative). A trial with fewer than
    ``min_trades`` that have ended is worth nothing. Raises ValueError for another name."""

    name: str = "sharpe"
    min_trades: int = 1

    def __post_init__(self) -> None:
        if self.name not in OBJECTIVES:
            raise ValueError(f"wanted one of the objectives {', '.join(OBJECTIVES)}, was {self.name}")
        if self.min_trades < 0:
            raise ValueError(f"wanted at least 0 trades, was {self.min_trades}")

    def of(self, figures: Mapping[str, float | None]) -> float | None:
        """What a trial with these figures is worth; None: nothing can be said, or it traded too little. A ratio of a trial
        that gained and lost nothing counts as WITHOUT_LOSS."""
        if (figures["trades"] or 0) < self.min_trades:
            return None
        found = figures[OBJECTIVES[self.name]]
        if found is None and self.name in RATIOS and (figures["total_return"] or 0) > 0:
            return WITHOUT_LOSS
        return min(found, WITHOUT_LOSS) if found is not None and self.name in RATIOS else found


class TrialState(StrEnum):
    """How far a trial is: DONE, REFUSED by the strategy, which does not take such parameters, or AT_WORK with somebody."""

    DONE = "DONE"
    REFUSED = "REFUSED"
    AT_WORK = "AT_WORK"


@dataclass(frozen=True, slots=True, eq=False)
class TrialFacts:
    """What is known of one trial. ``values`` are all of its parameters that are not the strategy's defaults; ``value`` is
    what it is worth by the objective (more is better), None where that cannot be said. ``figures`` are plain numbers and
    None, ready for JSON. ``returns`` are those of the account over equal parts of the span, the same parts for every trial of
    it, before its first candle 0: at most MOST_SPANS."""

    values: dict[str, Any]
    value: float | None = None
    figures: dict[str, float | None] = field(default_factory=dict)
    returns: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    number: int = 0
    state: TrialState = TrialState.DONE
    why: str = ""


class Span(NamedTuple):
    """Candles that open from ``since_ms`` on and before ``until_ms``."""

    since_ms: int
    until_ms: int


def trial(
    markets: Sequence[MarketInput],
    settings: Settings,
    strategy_type: type[Strategy[Any]],
    values: dict[str, Any],
    objective: Objective,
    *,
    span: Span | None = None,
    number: int = 0,
) -> TrialFacts:
    """What ``strategy_type`` with ``values`` comes to on ``markets``, whose own strategies and signals are not asked. With a
    ``span`` as in ``run_of``. Parameters that the strategy refuses are no error: the facts say so."""
    try:
        strategy_type.from_values(values)
    except ValueError as error:
        return TrialFacts(values, number=number, state=TrialState.REFUSED, why=refusal_text(error))
    result = run_of(markets, settings, strategy_type, values, span)
    figures = trial_figures(result, settings, markets)
    returns = span_returns(result, settings, clock_of(markets, span))
    return TrialFacts(values, objective.of(figures), figures, returns, number)


def run_of(
    markets: Sequence[MarketInput],
    settings: Settings,
    strategy_type: type[Strategy[Any]],
    values: dict[str, Any],
    span: Span | None = None,
) -> Result:
    """The whole result of the same. With a ``span`` only its candles are traded in, and none after it is seen; the warm-up
    lies before it as far as there are candles, else at its start. Raises ValueError for values that the strategy refuses."""
    strategy = strategy_type.from_values(values)
    return backtest([_within(market, strategy, span) for market in markets], settings)


def _within(market: MarketInput, strategy: Strategy[Any], span: Span | None) -> MarketInput:
    candles, detail = market.candles, market.detail
    facts, first, end = _facts_for(strategy, market.facts), first_of(market, strategy), len(candles)
    start = 0
    if span is not None:
        since, end = (int(one) for one in np.searchsorted(candles.open_ms, span))
        first = max(first, since)
        start = min(first - strategy.warm_up, end)
        first, candles = first - start, candles.between(start, end)
        if detail is not None:
            detail = detail.between(*(int(one) for one in np.searchsorted(detail.open_ms, span)))
    return replace(
        market, candles=candles, strategy=strategy, facts=facts, signals=None, tags=None, warm_up=first, detail=detail,
    )  # fmt: skip


def first_of(market: MarketInput, strategy: Strategy[Any]) -> int:
    """The index of the first candle of ``market`` in which ``strategy`` may trade: after its warm-up, and those of what it
    looks at beside the candles, and not before the market's own."""
    tried = replace(market, strategy=strategy, facts=_facts_for(strategy, market.facts), warm_up=None)
    return max(market.warm_up or 0, tried.first)


def _facts_for(strategy: Strategy[Any], facts: Facts) -> Facts:
    """``facts`` by the names that ``strategy`` calls them: how much of a feed it needs may be one of its parameters, and is
    part of the name. What is not there is left for the strategy to miss."""
    held = {(one.timeframe, one.symbol): candles for one, candles in facts.candles.items()}
    seen = {one: held[key] for one in strategy.informative if (key := (one.timeframe, one.symbol)) in held}
    return replace(facts, candles=seen) if seen else facts


def clock_of(markets: Sequence[MarketInput], span: Span | None = None) -> IntArray:
    """The open times of all candles of ``markets``, within ``span``."""
    times = [market.candles.open_ms for market in markets]
    clock = times[0] if len(times) == 1 else np.unique(np.concatenate(times))
    return clock if span is None else clock[slice(*np.searchsorted(clock, span))]


def trial_figures(result: Result, settings: Settings, markets: Sequence[MarketInput]) -> dict[str, float | None]:
    """The figures of a trial, by the names and definitions of ``backtesting/figures.py``: those that a search asks for, None
    for what cannot be said."""
    columns, told = result.columns, Curve.of(result, settings, markets).figures()
    ended = ~columns.is_open
    pnl, gain = columns.pnl[ended], columns.gain[ended]
    won, lost = float(pnl[pnl > 0].sum()), float(pnl[pnl <= 0].sum())
    figures = {
        "trades": len(pnl),
        "still_open": len(columns) - len(pnl),
        "win_rate": float((pnl > 0).mean()) if len(pnl) else None,
        "profit_factor": divided(won, -lost),
        "average_return": float(gain.mean()) if len(gain) else None,
        "sqn": known(sqn(pnl)),
        "fees": float(columns.fees.sum()),
        "final_equity": float(result.equity[-1] if len(result.equity) else settings.cash),
    }
    of_curve = ("total_return", "cagr", "sharpe", "sortino", "calmar", "max_drawdown")
    return {**figures, **{name: cast("float | None", told[name]) for name in of_curve}}


def span_returns(result: Result, settings: Settings, clock: IntArray) -> NDArray[np.float32]:
    """The returns of the account over equal parts of ``clock``, of which ``result`` has the last candles; 0 after all is
    lost."""
    worth = np.full(len(clock), float(settings.cash))
    if len(result.equity):
        worth[len(clock) - len(result.equity) :] = np.maximum(result.equity, 0.0)
    each = max(-(-len(clock) // MOST_SPANS), 1)
    ends = np.append(np.arange(each - 1, len(clock) - 1, each), len(clock) - 1) if len(clock) else np.empty(0, np.int64)
    values = np.concatenate(([float(settings.cash)], worth[ends]))
    before, after = values[:-1], values[1:]
    ratios: FloatArray = np.divide(after, before, out=np.ones(len(before)), where=before > 0)
    return (ratios - 1).astype(np.float32)
