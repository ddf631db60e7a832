"""`./r3edge backtest` with a search: the best of many parameters, what is left of it after so many tries, what it earned on
candles that it had not seen, and what luck might have made of it. As a page of text, or one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np

from backtesting.engine.inputs import MarketInput, Settings, at
from backtesting.engine.loops import WORTH_COMPILING, compiled
from backtesting.research.monte_carlo import (
    LEVELS,
    Bands,
    bands_of_trials,
    jittered,
    noised_markets,
    redrawn,
    redrawn_in_blocks,
    shuffled,
    trade_returns,
)
from backtesting.research.search import SearchMethod, suggest
from backtesting.research.space import Space
from backtesting.research.trials import (
    Objective,
    TrialFacts,
    TrialState,
    clock_of,
    first_of,
    run_of,
    span_returns,
    trial,
)
from backtesting.research.walk_forward import Length, WalkForward, best_of, folds_of, walk_forward
from backtesting.wording import UNKNOWN, percent_text, table_text
from domain.overfitting import Deflated, Overfitting, deflated_sharpe, overfitting
from domain.strategy import Strategy

# How many trials there are where nobody says; a grid goes over all.
TRIALS = 100
# More than these are rather a mistake than meant: a minute and more without a word.
MOST_TRIALS = 10_000
SHOWN = 10
# Prices with noise and neighbours are backtests, not draws: so many are enough for bands.
MOST_RERUNS = 100
NOISE = 0.1
PARTS = 16

Values = dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What a search came to: all trials that were done, the best first, and what there is to say against the best."""

    trials: list[TrialFacts]
    deflated: Deflated
    overfitting: Overfitting | None


def main(
    options: argparse.Namespace,
    strategy_type: type[Strategy[Any]],
    values: Values,
    market_of: Callable[[Sequence[Strategy[Any]]], MarketInput],
    settings: Settings,
    out: TextIO,
) -> int:
    """Do what the options ask for, with ``values`` as the fixed parameters of the strategy; ``market_of`` strategies is the
    market with all that any of them looks at. Raises ValueError for what cannot be done."""
    for name in ("trades", "equity", "html"):
        if getattr(options, name, None):
            raise ValueError(f"wanted --{name} with one backtest, was with a search")
    objective = Objective(options.objective, options.min_trades)
    space = Space(strategy_type, _axes(options.optimise), values) if options.optimise else None
    method, first = SearchMethod(options.method.upper()), values
    trials = _trials(options, space, method)
    market = market_of([strategy_type.from_values(values)] if space is None else space.lookers)
    if trials * len(market.candles) >= WORTH_COMPILING:
        compiled()
    told: dict[str, Any] = {"strategy": strategy_type.name, "market": market.symbol, "candles": len(market.candles)}
    pages = []
    if space is not None:
        found = _searched(market, settings, space, objective, method, trials, options.seed)
        told["search"] = {"method": method.value, "seed": options.seed, "objective": objective.name, **_told(found)}
        head = f"{len(found.trials)} trials of {strategy_type.name} on {market.symbol} by {method.value}, seed {options.seed}"
        pages += [_trial_page(head, found, space, objective), _doubt_page(found)]
        first = found.trials[0].values
    walked = None
    if options.walk_forward and space is not None:
        walked = _walked(options, market, settings, space, objective, method, trials)
        told["walk_forward"] = walked.told()
        pages.append(_walk_page(walked, space, objective))
    if options.monte_carlo is not None:
        bands = _lucky(options, market, settings, strategy_type, space, first, walked)
        told["monte_carlo"] = {name: one.told() for name, one in bands.items()}
        pages.append(_bands_page(bands))
    if options.json:
        json.dump(told, out)
        out.write("\n")
    else:
        out.write("\n\n".join(pages) + "\n")
    return 0


def _axes(words: Sequence[str]) -> Values:
    axes = [_axis(one) for one in words]
    if twice := sorted({name for name, _ in axes if [name for name, _ in axes].count(name) > 1}):
        raise ValueError(f"wanted --optimise once for each parameter, was twice for {', '.join(twice)}")
    return dict(axes)


def _axis(text: str) -> tuple[str, Any]:
    """A parameter and what its axis is to be, as ``Space`` takes it."""
    name, is_set, words = text.partition("=")
    if not is_set:
        return name, {}
    if ":" in words:
        ends = words.split(":")
        if len(ends) > 3 or not all(ends):
            raise ValueError(f"wanted NAME=LOW:HIGH or NAME=LOW:HIGH:STEP after --optimise, was {text}")
        return name, dict(zip(("low", "high", "step"), ends, strict=False))
    return name, [None if one.strip().lower() == "none" else one.strip() for one in words.split(",")]


def _trials(options: argparse.Namespace, space: Space | None, method: SearchMethod) -> int:
    if options.trials is not None and options.trials < 1:
        raise ValueError(f"wanted at least 1 trial, was {options.trials}")
    if space is None:
        return MOST_RERUNS
    if method is SearchMethod.GRID and options.trials is None:
        if len(space.accepted) > MOST_TRIALS:
            raise ValueError(
                f"wanted at most {MOST_TRIALS:,} combinations, or --trials, was {len(space.accepted):,}: steps such as "
                "fast=5:50:5, or --method random or tpe, need fewer"
            )
        return len(space.accepted)
    return options.trials or TRIALS


def _searched(
    market: MarketInput,
    settings: Settings,
    space: Space,
    objective: Objective,
    method: SearchMethod,
    trials: int,
    seed: int,
) -> Found:
    done: list[TrialFacts] = []
    for number in range(trials):
        values = suggest(method, space, seed, number, done)
        if values is None:
            break
        done.append(trial([market], settings, space.strategy_type, values, objective, number=number))
    best = best_of(done)
    if best is None:
        raise ValueError(
            f"wanted a trial with at least {objective.min_trades} trades and a {objective.name}, was none of {len(done)}"
        )
    tried = [one for one in done if one.state is TrialState.DONE]
    table = np.stack([one.returns for one in tried], axis=1).astype(np.float64)
    is_enough = len(tried) > 1 and len(table) >= 2 * PARTS
    return Found(
        trials=sorted(done, key=lambda one: (one.value is None, -(one.value or 0.0), one.number)),
        deflated=deflated_sharpe(table, tried.index(best)),
        overfitting=overfitting(table, PARTS) if is_enough else None,
    )


def _walked(
    options: argparse.Namespace,
    market: MarketInput,
    settings: Settings,
    space: Space,
    objective: Objective,
    method: SearchMethod,
    trials: int,
) -> WalkForward:
    train, is_split, test = options.walk_forward.partition(":")
    if not is_split:
        raise ValueError(f"wanted TRAIN:TEST after --walk-forward, such as 180d:30d, was {options.walk_forward}")
    folds = folds_of(
        clock_of([market]),
        Length.of(train),
        Length.of(test),
        is_anchored=options.anchored,
        skip=_warm_up(market, space),
    )
    return walk_forward(
        [market], settings, space, objective, folds, method=method, trials=trials, seed=options.seed
    )  # fmt: skip


def _warm_up(market: MarketInput, space: Space) -> int:
    """How many candles pass before there is anything to train on."""
    return max(first_of(market, one) for one in space.lookers)


def _lucky(
    options: argparse.Namespace,
    market: MarketInput,
    settings: Settings,
    strategy_type: type[Strategy[Any]],
    space: Space | None,
    values: Values,
    walked: WalkForward | None,
) -> dict[str, Bands]:
    """The bands of each way to have had other luck: with the trades of the tests where there are any, else of ``values``."""
    paths, seed, ruin = options.monte_carlo, options.seed, float(options.ruin) / 100
    result = run_of([market], settings, strategy_type, values) if walked is None else walked.result
    clock = clock_of([market]) if walked is None else result.open_ms
    by_trade = trade_returns(result, settings)
    if not len(by_trade):
        raise ValueError("wanted at least 1 trade that has ended, was 0")
    by_time = span_returns(result, settings, clock).astype(np.float64)
    whose = "" if walked is None else "tests: "
    bands = {
        f"{whose}trades shuffled": shuffled(by_trade, paths, seed, ruin),
        f"{whose}trades drawn again": redrawn(by_trade, paths, seed, ruin),
        f"{whose}returns in blocks": redrawn_in_blocks(by_time, paths, seed, ruin),
    }
    objective, reruns = Objective(), range(min(paths, MOST_RERUNS))
    noisy = [
        trial(noised_markets([market], NOISE, seed, number), settings, strategy_type, values, objective)
        for number in reruns
    ]
    bands["prices with noise"] = bands_of_trials(noisy, ruin)
    if space is not None:
        near = [one for one in (jittered(space, values, seed, number) for number in reruns) if one is not None]
        if near:
            done = [trial([market], settings, strategy_type, one, objective) for one in near]
            bands["neighbours"] = bands_of_trials(done, ruin)
    return bands


def _told(found: Found) -> dict[str, Any]:
    deflated, doubt = found.deflated, found.overfitting
    return {
        "trials": [
            {"number": one.number, "values": one.values, "value": one.value, "figures": one.figures}
            for one in found.trials
        ],
        "deflated_sharpe": _finite(deflated.probability),
        "independent_trials": _finite(deflated.trials),
        "least_length": _finite(deflated.least_length),
        "overfitting": None if doubt is None else doubt.probability,
        "degradation": None if doubt is None else _finite(doubt.slope),
        "loss_after": None if doubt is None else doubt.loss,
    }


def _trial_page(head: str, found: Found, space: Space, objective: Objective) -> str:
    names = [axis.name for axis in space.axes]
    columns = ["trial", *names, objective.name, "return", "drawdown", "trades", "won"]
    rows = [
        [
            str(one.number), *(_word(one.values[name]) for name in names), _ratio(one.value),
            _percent(one.figures["total_return"]), _percent(one.figures["max_drawdown"]),
            f"{one.figures['trades'] or 0:.0f}", _percent(one.figures["win_rate"]),
        ]
        for one in found.trials[:SHOWN]
    ]  # fmt: skip
    return f"{head}\n" + _table(columns, rows)


def _doubt_page(found: Found) -> str:
    deflated, doubt = found.deflated, found.overfitting
    lines = [
        "What is left of the best after so many tries",
        f"  {'deflated Sharpe ratio':28} {_percent(deflated.probability):>8}  likely to be better than the luckiest of "
        f"{_ratio(deflated.trials)} independent trials",
    ]
    if doubt is None:
        lines.append(f"  {'probability of overfitting':28} {UNKNOWN:>8}  too few trials or candles to say")
    else:
        lines += [
            f"  {'probability of overfitting':28} {_percent(doubt.probability):>8}  of choices from one half are not "
            "among the better half in the other",
            f"  {'loss after choosing':28} {_percent(doubt.loss):>8}  of choices from one half lose in the other",
        ]
    return "\n".join(lines)


def _walk_page(walked: WalkForward, space: Space, objective: Objective) -> str:
    names = [axis.name for axis in space.axes]
    columns = ["test from", "until", *names, f"{objective.name} before", "after", "return", "trades"]
    rows = [
        [
            *(f"{at(ms):%Y-%m-%d}" for ms in one.chosen.fold.test), *(_word(one.chosen.best.values[name]) for name in names),
            _ratio(one.chosen.best.value), _ratio(one.value), _percent(one.figures["total_return"]),
            f"{one.figures['trades'] or 0:.0f}",
        ]
        for one in walked.folds
    ]  # fmt: skip
    figures = walked.figures
    whole = (
        f"return {_percent(figures['total_return'])}, Sharpe {_ratio(figures['sharpe'])}, deepest drawdown "
        f"{_percent(figures['max_drawdown'])}, efficiency {_ratio(walked.efficiency)}"
    )
    return f"Walk-forward: {len(walked.folds)} tests on candles not seen\n{_table(columns, rows)}\n  {whole}"


def _bands_page(bands: Mapping[str, Bands]) -> str:
    columns = ["", *(f"{level} %" for level in LEVELS), "loss", "ruin", "paths"]
    parts = []
    for title, name in (("Return", "final_return"), ("Deepest drawdown", "drawdown")):
        rows = [
            [way, *map(_percent, getattr(one, name)), _percent(one.loss), _percent(one.ruin), str(one.paths)]
            for way, one in bands.items()
        ]
        parts.append(f"{title}, had luck been another: percent of paths below\n{_table(columns, rows)}")
    return "\n\n".join(parts)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"  {line}" for line in table_text(columns, rows).splitlines())


def _percent(fraction: float | None) -> str:
    return UNKNOWN if fraction is None or not np.isfinite(fraction) else percent_text(fraction)


def _ratio(figure: float | None) -> str:
    return UNKNOWN if figure is None or not np.isfinite(figure) else f"{figure:,.2f}"


def _word(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else "none" if value is None else str(value)


def _finite(figure: float) -> float | None:
    return float(figure) if np.isfinite(figure) else None
