"""What many trials say together: the best of them, how much of it is luck, and which parameter matters. Pure: no Django.

Everything is plain numbers, words and None, ready for JSON. Sharpe ratios are per period of the trials' returns, not
annualised, wherever they are compared with what luck would show.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from backtesting.engine.inputs import Result, Settings
from backtesting.packing import finite
from backtesting.research.monte_carlo import (
    MonteCarlo,
    bands_of_trials,
    redrawn,
    redrawn_in_blocks,
    shuffled,
    trade_returns,
)
from backtesting.research.trials import TrialFacts
from backtesting.research.walk_forward import WalkForward, best_of
from backtesting.research.words import RERUN, MonteCarloWords, objective_words
from domain.candles import FloatArray
from domain.overfitting import deflated_sharpe, overfitting

# So many returns of all trials are compared: 16 MB, whatever was tried; longer periods where there are more trials.
MOST_RETURNS = 2_000_000
# Divisions of the time for the probability of overfitting, most first: each takes so many periods.
PARTS = (16, 12, 10, 8, 6, 4)
# Values of one parameter that are told apart; more are put together, as many trials in each.
MOST_GROUPS = 8
CURVE_POINTS = 400
# Above these the best trial is more likely luck than not, and where a deflated ratio is trusted.
COIN, TRUSTED = 0.5, 0.95


def searched(facts: Sequence[TrialFacts], names: Iterable[str], objective: str) -> dict[str, Any]:
    """What a search over one span found; ``facts`` are its trials that are done, ``names`` the parameters it searched."""
    valued = [one for one in facts if one.value is not None]
    best = best_of(valued)
    luck = None if best is None else luck_of(facts, best)
    nothing = f"None of {len(facts)} trials has a {objective_words(objective)}: they traded too little, or not at all."
    importance = importance_of(valued, names)
    return {
        "trials": {"done": len(facts), "valued": len(valued)},
        "best": None if best is None else trial_told(best),
        "luck": luck,
        "importance": importance,
        "words": [
            *([nothing] if best is None else []),
            *_words_of_luck(luck, len(facts)),
            *_words_of_importance(importance, objective),
        ],
    }


def walked(forward: WalkForward, objective: str) -> dict[str, Any]:
    """What a walk forward came to, and its curve in few points: open times in milliseconds, and what all was worth."""
    result = forward.result
    places = np.unique(np.linspace(0, len(result.equity) - 1, min(CURVE_POINTS, len(result.equity))).astype(np.int64))
    kept = sum(one.value is not None and one.value > 0 for one in forward.folds)
    words = [f"{kept} of {len(forward.folds)} tests have a {objective_words(objective)} above 0."]
    if forward.efficiency is not None:
        words.append(f"The tests earned {forward.efficiency:.0%} of what the trainings promised, by the year.")
    for name, one in forward.stability.items():
        words.append(f"{name} was {_most(one['values'])} in {one['share']:.0%} of the folds.")
    return {
        **plain(forward.told()),
        "trades": len(result.trades),
        "equity": [[int(result.open_ms[place]), float(result.equity[place])] for place in places],
        "words": words,
    }


def drawn(
    base: Result, settings: Settings, words: MonteCarloWords, returns: FloatArray, seeds: Sequence[int]
) -> dict[str, Any]:
    """The bands of all ways that draw from what there is: trades of ``base``, and its ``returns``; for each a seed."""
    trades = trade_returns(base, settings)
    told: dict[str, Any] = {}
    for way, seed in zip(words.ways, seeds, strict=True):
        if way in RERUN:
            continue
        source = returns if way is MonteCarlo.BLOCK_BOOTSTRAP else trades
        if not len(source):
            told[way.value] = {"why": "wanted a trade that has ended, was none"}
        elif way is MonteCarlo.TRADE_SHUFFLE:
            told[way.value] = shuffled(source, words.paths, seed, words.ruin_at).told()
        elif way is MonteCarlo.TRADE_BOOTSTRAP:
            told[way.value] = redrawn(source, words.paths, seed, words.ruin_at).told()
        else:
            bands = redrawn_in_blocks(
                source, words.paths, seed, words.ruin_at, kind=words.block_kind, block=words.block
            )
            told[way.value] = bands.told()
    return plain(told)


def rerun(facts: Sequence[TrialFacts], ruin_at: float) -> dict[str, Any]:
    """The bands of backtests that were made anew."""
    if not any(len(one.returns) for one in facts):
        return {"why": "wanted a trial that was done, was none"}
    return plain(bands_of_trials(facts, ruin_at).told())


def trial_told(one: TrialFacts) -> dict[str, Any]:
    return {"number": one.number, "parameters": one.values, "value": one.value, "figures": one.figures}


def luck_of(facts: Sequence[TrialFacts], best: TrialFacts) -> dict[str, Any] | None:
    """How much of the best trial is luck: the deflated Sharpe ratio, from the number of trials and the variance of their
    ratios, and the probability of overfitting by cross-validation. None where trials have no returns."""
    compared = [one for one in facts if len(one.returns)]
    if best not in compared:
        return None
    table = _table(compared)
    deflated = deflated_sharpe(table, compared.index(best))
    told: dict[str, Any] = {
        "periods": len(table),
        "sharpe": deflated.sharpe,
        "independent_trials": deflated.trials,
        "variance_of_sharpes": deflated.variance,
        "luckiest_sharpe": deflated.luckiest,
        "deflated_sharpe": deflated.probability,
        "periods_needed": deflated.least_length,
        "overfitting": None,
    }
    parts = next((one for one in PARTS if len(table) >= 2 * one), None)
    if parts is not None and len(compared) > 1:
        found = overfitting(table, parts)
        told["overfitting"] = {
            "probability": found.probability, "divisions": len(found.logits), "slope": found.slope, "loss": found.loss,
        }  # fmt: skip
    return plain(told)


def importance_of(valued: Sequence[TrialFacts], names: Iterable[str]) -> list[dict[str, Any]]:
    """For each parameter how far the mean objective of its values lies apart (``spread``), its ``share`` of all spreads, and
    these means by value, or range of values; what matters most comes first."""
    rows: list[dict[str, Any]] = []
    for name in names:
        groups = _groups([(one.values[name], one.value or 0.0) for one in valued if name in one.values])
        means = [group["mean"] for group in groups]
        rows.append({"name": name, "spread": max(means) - min(means) if means else 0.0, "groups": groups})
    whole = sum(row["spread"] for row in rows)
    for row in rows:
        row["share"] = row["spread"] / whole if whole else 0.0
    return sorted(rows, key=lambda row: -row["spread"])


def plain(told: dict[str, Any]) -> dict[str, Any]:
    """``told`` with None for what is no number, ready for JSON."""
    return {name: finite(one) for name, one in told.items()}


def _table(compared: Sequence[TrialFacts]) -> FloatArray:
    """Periods by trials; periods are put together where that is more than may be held."""
    length = min(len(one.returns) for one in compared)
    each = -(-length * len(compared) // MOST_RETURNS)
    periods = length // each
    columns = [
        np.prod(1 + one.returns[: periods * each].astype(np.float64).reshape(periods, each), axis=1) - 1
        for one in compared
    ]
    return np.stack(columns, axis=1)


def _groups(pairs: Sequence[tuple[Any, float]]) -> list[dict[str, Any]]:
    """Trials by value of a parameter: its name, or ``low`` to ``high``, how many they are and their mean."""
    found: dict[Any, list[float]] = {}
    for key, worth in pairs:
        found.setdefault(key, []).append(worth)
    if len(found) <= MOST_GROUPS or not all(isinstance(key, int | float) for key in found):
        keys = sorted(found, key=lambda key: (isinstance(key, str), key is None, key if key is not None else 0))
        return [{"value": key, "trials": len(found[key]), "mean": float(np.mean(found[key]))} for key in keys]
    ordered = sorted(pairs)
    return [
        {
            "value": f"{ordered[part[0]][0]:g} to {ordered[part[-1]][0]:g}",
            "trials": len(part),
            "mean": float(np.mean([ordered[place][1] for place in part])),
        }
        for part in np.array_split(np.arange(len(ordered)), MOST_GROUPS)
        if len(part)
    ]


def _words_of_luck(luck: dict[str, Any] | None, trials: int) -> list[str]:
    if luck is None:
        return []
    words = []
    if (deflated := luck["deflated_sharpe"]) is not None:
        verdict = "it stands up" if deflated >= TRUSTED else "that is too little to trust it"
        words.append(
            f"With {deflated:.0%} the best of {trials} trials is better than the luckiest of as many worthless ones would "
            f"be: {verdict}."
        )
    if luck["overfitting"] is not None:
        chance = luck["overfitting"]["probability"]
        verdict = "the search fits noise" if chance >= COIN else "the search finds something"
        words.append(
            f"What is best in one half of the time is not among the better half in the other with {chance:.0%}: {verdict}."
        )
    return words


def _words_of_importance(rows: Sequence[dict[str, Any]], objective: str) -> list[str]:
    words = []
    for row in rows:
        groups = row["groups"]
        if len(groups) < 2:
            continue
        best, worst = max(groups, key=lambda one: one["mean"]), min(groups, key=lambda one: one["mean"])
        words.append(
            f"{row['name']} makes {row['share']:.0%} of the difference: a {objective_words(objective)} of "
            f"{best['mean']:.3g} on average at {best['value']}, {worst['mean']:.3g} at {worst['value']}."
        )
    return words


def _most(values: Sequence[Any]) -> Any:
    return max(values, key=values.count)
