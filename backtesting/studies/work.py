"""What one trial of a study computes, and what all of them together say: by the kind of study."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from django.db.models import QuerySet

from backtesting.models import Study, StudyKind, Trial, TrialStatus
from backtesting.packing import unpacked
from backtesting.research.conclusions import drawn, plain, rerun, searched, walked
from backtesting.research.monte_carlo import MonteCarlo, jittered, noised_markets
from backtesting.research.search import SearchMethod, at_work, suggest
from backtesting.research.trials import (
    Span,
    TrialFacts,
    TrialState,
    clock_of,
    run_of,
    span_returns,
    trial,
    trial_figures,
)
from backtesting.research.walk_forward import Chosen, Fold, best_of, fold_seed, trained, walked_forward
from backtesting.research.words import RERUN, MonteCarloWords, options_said
from backtesting.studies.setups import Bench, span_of

NONE_LEFT = "wanted parameters that were not tried yet, was none"


@dataclass(slots=True)
class Known:
    """What a method may learn from: trials of the fold that are ``done``, and the parameters and numbers of those that
    others are ``at_work`` with."""

    done: list[TrialFacts] = field(default_factory=list)
    at_work: list[tuple[dict[str, Any], int]] = field(default_factory=list)


def trial_computed(
    study: Study, bench: Bench, fold: int, number: int, known: Known, begins: Callable[[dict[str, Any], int], None]
) -> TrialFacts:
    """One trial. ``begins`` is told its parameters before it is computed. Raises whatever the strategy raises."""
    options = options_said(study.kind, study.options)
    if isinstance(options, MonteCarloWords):
        return _again(study, bench, options, fold, number)
    if bench.space is None:
        raise ValueError("wanted parameters to search, was none")
    seed = fold_seed(study.seed, fold) if study.kind == StudyKind.WALK_FORWARD else study.seed
    others = [at_work(values, at) for values, at in known.at_work]
    values = suggest(SearchMethod(study.method), bench.space, seed, number, [*known.done, *others])
    if values is None:
        return TrialFacts({}, number=number, state=TrialState.REFUSED, why=NONE_LEFT)
    begins(values, number)
    settings = trained(bench.settings) if study.kind == StudyKind.WALK_FORWARD else bench.settings
    span = Span(*study.folds[fold]["train"])
    return trial(bench.markets, settings, bench.strategy_type, values, bench.objective, span=span, number=number)


def concluded(study: Study, bench: Bench, trials: QuerySet[Trial]) -> dict[str, Any]:
    """What the trials say together, ready for JSON. Raises ValueError where they say nothing."""
    told = _concluded(study, bench, trials)
    if not (bench.settings.maker_fee or bench.settings.taker_fee):
        told["words"] = ["No fee is charged: what trades most looks better than it is.", *told["words"]]
    return told


def _concluded(study: Study, bench: Bench, trials: QuerySet[Trial]) -> dict[str, Any]:
    options = options_said(study.kind, study.options)
    counts = {
        "skipped": trials.filter(status=TrialStatus.SKIPPED).count(),
        "failed": trials.filter(status=TrialStatus.FAILED).count(),
    }
    if isinstance(options, MonteCarloWords):
        return plain(_drawn(study, bench, options, trials) | {"trials": counts})
    if bench.space is None:
        raise ValueError("wanted parameters to search, was none")
    if study.kind == StudyKind.WALK_FORWARD:
        forward = walked_forward(bench.markets, bench.settings, bench.space, _chosen(study, trials), bench.objective)
        return plain(walked(forward, study.objective) | {"trials": counts})
    told = searched(facts_of(trials), [axis.name for axis in bench.space.axes], study.objective)
    told["trials"] |= counts
    return plain(told)


def facts_of(trials: QuerySet[Trial], *, has_returns: bool = True) -> list[TrialFacts]:
    """The trials that are done, by number; without their returns where a method only learns from them."""
    columns = ("parameters", "value", "figures", "number", *(("returns",) if has_returns else ()))
    rows = trials.filter(status=TrialStatus.DONE).order_by("fold", "number").values_list(*columns)
    return [
        TrialFacts(values, value, figures, number=number, **(unpacked(kept[0]) if kept and kept[0] else {}))  # type: ignore[arg-type]
        for values, value, figures, number, *kept in rows.iterator(chunk_size=500)
    ]


def _chosen(study: Study, trials: QuerySet[Trial]) -> list[Chosen]:
    """The best of each fold in which any is worth something."""
    found = []
    for number, one in enumerate(study.folds):
        best = best_of(facts_of(trials.filter(fold=number)))
        if best is not None:
            found.append(Chosen(Fold(number, Span(*one["train"]), Span(*one["test"])), best))
    return found


def _again(study: Study, bench: Bench, options: MonteCarloWords, fold: int, number: int) -> TrialFacts:
    """The backtest once more, with neighbours of its parameters or with noise on its prices."""
    values: dict[str, Any] | None = study.parameters
    markets, seed = bench.markets, fold_seed(study.seed, list(options.ways).index(options.rerun[fold]))
    if options.rerun[fold] is MonteCarlo.PRICE_NOISE:
        markets = noised_markets(markets, options.noise, seed, number)
    elif bench.space is not None:
        values = jittered(bench.space, study.parameters, seed, number, options.reach)
    if values is None:
        return TrialFacts({}, number=number, state=TrialState.REFUSED, why=NONE_LEFT)
    return trial(
        markets, bench.settings, bench.strategy_type, values, bench.objective, span=span_of(study), number=number
    )


def _drawn(study: Study, bench: Bench, options: MonteCarloWords, trials: QuerySet[Trial]) -> dict[str, Any]:
    span = span_of(study)
    base = run_of(bench.markets, bench.settings, bench.strategy_type, study.parameters, span)
    figures = trial_figures(base, bench.settings, bench.markets)
    returns = span_returns(base, bench.settings, clock_of(bench.markets, span)).astype(float)
    seeds = [fold_seed(study.seed, place) for place in range(len(options.ways))]
    told = drawn(base, bench.settings, options, returns, seeds)
    for fold, way in enumerate(options.rerun):
        told[way.value] = rerun(facts_of(trials.filter(fold=fold)), options.ruin_at)
    ways = {way.value: told[way.value] for way in options.ways}
    return {"figures": figures, "ways": ways, "words": [*_worded(figures, ways)]}


def _worded(figures: dict[str, Any], ways: dict[str, Any]) -> Iterable[str]:
    """What the bands say, in a sentence each."""
    won, depth = figures["total_return"] or 0, figures["max_drawdown"] or 0
    yield f"The backtest itself returned {won:.1%} and fell by {-depth:.1%}."
    for way, told in ways.items():
        name = way.replace("_", " ").capitalize()
        if "why" in told:
            yield f"{name}: {told['why']}."
            continue
        final, falls = told["final_return"], f"one in twenty falls by {-told['drawdown']['5']:.1%} or more"
        if way == MonteCarlo.TRADE_SHUFFLE:
            yield f"{name}: in any order they end at the same; {falls}."
            continue
        yield (
            f"{name}: nine of ten end between {final['5']:.1%} and {final['95']:.1%}, {falls}, {told['loss']:.0%} end "
            "with a loss."
        )


__all__ = ["NONE_LEFT", "RERUN", "Known", "concluded", "facts_of", "trial_computed"]
