"""Which parameters are tried next: a pure function of the seed, the trial's number and the trials that are done.

So a search goes on wherever it was left, by whichever worker, and whoever repeats it finds the same. None of the methods
suggests what the strategy refuses, nor the same values twice while there are others; None means that all were tried.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import numpy as np

from backtesting.research.space import Axis, Point, Space
from backtesting.research.trials import TrialFacts, TrialState

# So many trials at random come before the estimator has anything to learn from.
START_UP = 10
# So often it may suggest what is refused or was tried, before chance decides.
TRIES = 25


class CannotSearch(ValueError):
    """The method is not at hand; the message says what to do."""


class SearchMethod(StrEnum):
    """GRID goes over all combinations, RANDOM draws them, TPE learns from those that are done where the good ones lie."""

    GRID = "GRID"
    RANDOM = "RANDOM"
    TPE = "TPE"


def suggest(
    method: SearchMethod, space: Space, seed: int, number: int, done: Sequence[TrialFacts] = ()
) -> dict[str, Any] | None:
    """The parameters of trial ``number`` (from 0 on), the fixed ones among them; None: there is nothing left to try.

    GRID and RANDOM ask the number alone, TPE the trials in ``done``, whatever their order; those AT_WORK count as bad ones,
    so that two at work at once look at different places. Raises ValueError where a grid has no end, CannotSearch where TPE
    is not installed.
    """
    if method is SearchMethod.TPE:
        return _estimated(space, seed, number, done)
    if method is SearchMethod.RANDOM and not space.is_listable:
        return space.values_at(space.drawn(np.random.default_rng([seed, number])))
    point = space.nth(number, seed if method is SearchMethod.RANDOM else None)
    return None if point is None else space.values_at(point)


def at_work(values: dict[str, Any], number: int) -> TrialFacts:
    """A trial that somebody has begun, for ``done``."""
    return TrialFacts(values, number=number, state=TrialState.AT_WORK)


def _estimated(space: Space, seed: int, number: int, done: Sequence[TrialFacts]) -> dict[str, Any] | None:
    """By Optuna's tree-structured Parzen estimator (Bergstra et al. 2011), of all parameters together."""
    optuna = _optuna()
    by_number = sorted(done, key=lambda one: one.number)
    tried = {space.point_of(one.values): one for one in by_number if one.state is not TrialState.REFUSED}
    random = np.random.default_rng([seed, number])
    worth = [one.value for one in tried.values() if one.value is not None]
    if len(worth) < START_UP:
        return _untried(space, seed, number, tried)
    sampler = optuna.samplers.TPESampler(seed=int(random.integers(2**32)), multivariate=True, n_startup_trials=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    kinds = {axis.name: _distribution(optuna, axis) for axis in space.axes}
    worst = min(worth)
    for point, one in tried.items():
        named = dict(zip(kinds, map(_external, space.axes, point), strict=True))
        value = worst if one.value is None else one.value
        study.add_trial(optuna.trial.create_trial(params=named, distributions=kinds, value=value))
    for _ in range(TRIES):
        asked = study.ask(kinds).params
        point = tuple(float(asked[axis.name]) for axis in space.axes)
        if point not in tried and not space.refusal(point):
            return space.values_at(point)
    return _untried(space, seed, number, tried)


def _untried(space: Space, seed: int, number: int, tried: Mapping[Point, TrialFacts]) -> dict[str, Any] | None:
    """As by chance, but what was not tried."""
    if not space.is_listable:
        return space.values_at(space.drawn(np.random.default_rng([seed, number])))
    # From the number on, then from the first on: another number begins elsewhere.
    for some in (itertools.count(number), range(number)):
        for place in some:
            point = space.nth(place, seed)
            if point is None:
                break
            if point not in tried:
                return space.values_at(point)
    return None


def _distribution(optuna: Any, axis: Axis) -> Any:
    """Places on the axis, in order where the order means something."""
    if not axis.values:
        return optuna.distributions.FloatDistribution(axis.low, axis.high)
    if axis.is_ordered:
        return optuna.distributions.IntDistribution(0, len(axis.values) - 1)
    return optuna.distributions.CategoricalDistribution(list(range(len(axis.values))))


def _external(axis: Axis, place: float) -> float | int:
    return int(place) if axis.values else place


def _optuna() -> Any:
    if importlib.util.find_spec("optuna") is None:
        raise CannotSearch("wanted optuna for the method TPE, was not installed: ./r3edge install optimise")
    # Here, not at the top: it is not needed by those who search by grid or at random, nor has to be installed.
    optuna = importlib.import_module("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
