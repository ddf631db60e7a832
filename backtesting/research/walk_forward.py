"""Parameters chosen on what was known, judged on what came after, again and again: what a search would have earned.

Nothing of a test is seen where its parameters are chosen: a training run ends with the last candle before the test, and
what it holds then is closed there. A test starts flat, its warm-up lies before it, and it goes on with the money of the one
before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import numpy as np

from backtesting.engine.inputs import MarketInput, Result, Settings, Trade
from backtesting.research.search import SearchMethod, suggest
from backtesting.research.space import Space
from backtesting.research.trials import Objective, Span, TrialFacts, clock_of, run_of, trial, trial_figures
from domain.candles import FloatArray, IntArray

DAY_MS = 86_400_000
LONGEST = 10**9


@dataclass(frozen=True, slots=True)
class Length:
    """So many candles, or days where ``is_days``."""

    count: int
    is_days: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.count <= LONGEST:
            raise ValueError(f"wanted a length of at least 1 and at most {LONGEST}, was {self.count}")

    @classmethod
    def of(cls, text: str) -> Length:
        """``500`` candles, ``90d`` days. Raises ValueError for anything else."""
        number = text.strip().removesuffix("d")
        if not number.isdecimal():
            raise ValueError(f"wanted a number of candles, or of days such as 90d, was '{text}'")
        return cls(int(number), text.strip().endswith("d"))

    def __str__(self) -> str:
        return f"{self.count}d" if self.is_days else str(self.count)


@dataclass(frozen=True, slots=True)
class Fold:
    """One choice and one judgement; the test begins where the training ends."""

    number: int
    train: Span
    test: Span


def folds_of(clock: IntArray, train: Length, test: Length, *, is_anchored: bool = False, skip: int = 0) -> list[Fold]:
    """The folds of candles that open at the times of ``clock``, as ``clock_of`` has them: tests follow each other without a
    gap; each training ends where its test begins and is as long as ``train``, or begins with the first where ``is_anchored``.
    Before ``skip`` candles, a warm-up, nothing is trained. The last test may be shorter, by half at most. Raises ValueError
    where there are too few candles for one fold."""
    times = clock[skip:]
    folds: list[Fold] = []
    begin = _after(times, 0, train)
    while begin is not None and (end := _end(times, begin, test)) is not None:
        since = 0 if is_anchored else _before(times, begin, train)
        middle = int(times[begin])
        until = int(times[end]) if end < len(times) else int(times[-1]) + 1
        folds.append(Fold(len(folds), Span(int(times[since]), middle), Span(middle, until)))
        begin = end
    if not folds:
        raise ValueError(f"wanted candles for a training of {train} and a test of {test}, was {len(times)}")
    return folds


def _after(times: IntArray, place: int, length: Length) -> int | None:
    """The place that lies ``length`` after ``place``; None: beyond the last candle."""
    if place >= len(times):
        return None
    found = (
        int(np.searchsorted(times, times[place] + length.count * DAY_MS)) if length.is_days else place + length.count
    )
    return found if found < len(times) else None


def _before(times: IntArray, place: int, length: Length) -> int:
    if not length.is_days:
        return place - length.count
    # A hole in the candles may be longer: then it is the last one before it.
    return min(int(np.searchsorted(times, times[place] - length.count * DAY_MS)), place - 1)


def _end(times: IntArray, begin: int, test: Length) -> int | None:
    """Where a test that begins there ends; None: too little is left to be one."""
    if (end := _after(times, begin, test)) is not None:
        return end
    half = _after(times, begin, replace(test, count=max(test.count // 2, 1)))
    is_enough = half is not None or (not test.is_days and 2 * (len(times) - begin) >= test.count)
    return len(times) if is_enough and begin < len(times) else None


def fold_seed(seed: int, number: int) -> int:
    """The seed of the search within a fold: every fold draws for itself."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """What was chosen for a fold, as it came out in training."""

    fold: Fold
    best: TrialFacts


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What was chosen for a fold and what it came to in the test: ``figures`` as a trial's, of the test alone."""

    chosen: Chosen
    value: float | None
    figures: dict[str, float | None]


@dataclass(frozen=True, slots=True, eq=False)
class WalkForward:
    """What all tests came to, one after the other, as one account: ``result`` with its trades and equity, ``figures`` of it.

    ``efficiency`` is the yearly return of the tests over the mean yearly return of the trainings (Pardo's): 1 keeps what it
    promised, None where the trainings promised nothing. ``stability`` says for each parameter which ``values`` were chosen,
    fold by fold, the ``share`` of the most frequent, and for numbers how far they are ``spread``: their standard deviation
    over the width of the axis."""

    folds: tuple[Judged, ...]
    result: Result
    figures: dict[str, float | None]
    efficiency: float | None
    stability: dict[str, dict[str, Any]]

    def told(self) -> dict[str, Any]:
        """As plain numbers, ready for JSON; without trades and equity."""
        return {
            "figures": self.figures,
            "efficiency": self.efficiency,
            "stability": self.stability,
            "folds": [
                {
                    "number": one.chosen.fold.number,
                    "train": list(one.chosen.fold.train),
                    "test": list(one.chosen.fold.test),
                    "values": one.chosen.best.values,
                    "train_value": one.chosen.best.value,
                    "train_figures": one.chosen.best.figures,
                    "test_value": one.value,
                    "test_figures": one.figures,
                }
                for one in self.folds
            ],
        }


def trained(settings: Settings) -> Settings:
    """The settings of a training run, and of a test: what is held at its end is closed there, at its cost."""
    return replace(settings, is_closed_at_end=True)


def walk_forward(
    markets: Sequence[MarketInput],
    settings: Settings,
    space: Space,
    objective: Objective,
    folds: Sequence[Fold],
    *,
    method: SearchMethod = SearchMethod.GRID,
    trials: int = 100,
    seed: int = 0,
) -> WalkForward:
    """Search in each fold's training, with at most so many ``trials``, and judge the best in its test. Raises ValueError
    where in no fold any trial came to a value."""
    chosen = []
    for fold in folds:
        done: list[TrialFacts] = []
        for number in range(trials):
            values = suggest(method, space, fold_seed(seed, fold.number), number, done)
            if values is None:
                break
            done.append(
                trial(
                    markets, trained(settings), space.strategy_type, values, objective, span=fold.train, number=number
                )  # fmt: skip
            )
        if (best := best_of(done)) is not None:
            chosen.append(Chosen(fold, best))
    return walked_forward(markets, settings, space, chosen, objective)


def best_of(done: Sequence[TrialFacts]) -> TrialFacts | None:
    """The trial that is worth most, the first of several; None where none is worth anything."""
    valued = [one for one in done if one.value is not None]
    return min(valued, key=lambda one: (-(one.value or 0.0), one.number)) if valued else None


def walked_forward(
    markets: Sequence[MarketInput],
    settings: Settings,
    space: Space,
    chosen: Sequence[Chosen],
    objective: Objective,
) -> WalkForward:
    """Judge what was ``chosen`` in the tests, one after the other: the money of one is what the next begins with. A fold for
    which nothing was chosen is not among them; its time is left out. Raises ValueError where nothing was chosen at all."""
    if not chosen:
        raise ValueError("wanted a fold in whose training a trial is worth something, was none")
    cash, judged, trades = settings.cash, [], list[Trade]()
    times: list[IntArray] = []
    worths: list[FloatArray] = []
    for one in sorted(chosen, key=lambda one: one.fold.number):
        terms = replace(trained(settings), cash=cash)
        result = run_of(markets, terms, space.strategy_type, one.best.values, one.fold.test)
        figures = trial_figures(result, terms, markets)
        # How many trades there have to be is asked of a choice: a test has those that it has.
        judged.append(Judged(one, replace(objective, min_trades=0).of(figures), figures))
        clock = clock_of(markets, one.fold.test)
        worth = np.full(len(clock), float(cash))
        worth[len(clock) - len(result.equity) :] = result.equity
        times.append(clock)
        worths.append(worth)
        trades.extend(result.trades)
        cash = Decimal(str(float(worth[-1]))) if len(worth) else cash
        if cash <= 0:  # ruined: there is nothing to go on with
            break
    whole = Result(trades, np.concatenate(times), np.concatenate(worths))
    figures = trial_figures(whole, settings, markets)
    return WalkForward(
        folds=tuple(judged),
        result=whole,
        figures=figures,
        efficiency=_efficiency(judged, figures["cagr"]),
        stability={axis.name: _stability(space, place, judged) for place, axis in enumerate(space.axes)},
    )


def _efficiency(judged: Sequence[Judged], yearly: float | None) -> float | None:
    promised = [one.chosen.best.figures["cagr"] for one in judged]
    known = [one for one in promised if one is not None]
    mean = sum(known) / len(known) if known else 0.0
    return yearly / mean if yearly is not None and mean > 0 else None


def _stability(space: Space, place: int, judged: Sequence[Judged]) -> dict[str, Any]:
    axis = space.axes[place]
    values = [one.chosen.best.values[axis.name] for one in judged]
    share = max(values.count(one) for one in values) / len(values)
    numbers = axis.values or (axis.low, axis.high)
    if not axis.is_ordered or numbers[-1] == numbers[0]:
        return {"values": values, "share": share, "spread": None}
    return {"values": values, "share": share, "spread": float(np.std(values)) / float(numbers[-1] - numbers[0])}
