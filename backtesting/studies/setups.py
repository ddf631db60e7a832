"""What a study is asked to do: checked as a whole before anything is queued; and what it is computed on, gathered once by
each process however many trials it computes.

Markets are kept by the hash of all that is in them: whoever finds another one than the study began with is told so, and
computes nothing on it.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from django.core.exceptions import ValidationError

from backtesting.engine.inputs import MarketInput, Settings
from backtesting.engine.loops import WORTH_COMPILING
from backtesting.fingerprints import code_hash, data_hash
from backtesting.gathering import market_gather
from backtesting.models import Study, StudyKind
from backtesting.research.monte_carlo import MonteCarlo
from backtesting.research.search import SearchMethod
from backtesting.research.space import MOST_COMBINATIONS, Space
from backtesting.research.trials import Objective, Span, clock_of
from backtesting.research.walk_forward import Length, folds_of
from backtesting.research.words import MonteCarloWords, options_said
from backtesting.setups import Asked, markets_of, setup_validated
from backtesting.words import WrongWords, plan_said, settings_from
from domain.exit_plan import ExitPlan
from domain.strategy import Strategy
from marketdata.models import Feed
from strategies.library import LIBRARY
from strategies.models import parameters_validated

# Trials of one study, of all its folds together.
MOST_TRIALS = 5_000
MOST_FOLDS = 200
# Markets that a process keeps for the next trials: the last ones always, others while there is room.
MOST_BYTES = 256 * 2**20
# Ways of looking at other markets that a search may choose from.
MOST_LOOKS = 12
LARGEST_SEED = 2**32 - 1


class StudyChanged(Exception):
    """What the study began with is not there any more: trials of two kinds do not compare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyAsked:
    """A study in its caller's words; ``setup.parameters`` are those that are not searched."""

    kind: str
    setup: Asked
    space: dict[str, Any] = field(default_factory=dict)
    method: str = SearchMethod.GRID.value
    objective: str = "sharpe"
    min_trades: int = 1
    trials_wanted: int = 100
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)


def study_validated(asked: StudyAsked) -> dict[str, Any]:
    """The columns of a ``Study`` for what is asked, every default written out. Raises ValidationError, by field."""
    _check_words(asked)
    try:
        options = options_said(asked.kind, asked.options)
    except WrongWords as error:
        raise ValidationError(error.problems) from error
    space, is_search = _space_asked(asked, options), _is_search(asked)
    tried = dict(asked.setup.parameters)
    if space is not None and is_search:
        tried |= {axis.name: _values(space.furthest)[axis.name] for axis in space.axes}
    columns = setup_validated(replace(asked.setup, parameters=tried))
    if is_search:
        columns["parameters"] = {name: one for name, one in columns["parameters"].items() if name not in asked.space}
    elif space is not None:
        columns["parameters"] |= _placed(space, columns["parameters"])
    own = ("kind", "method", "space", "objective", "min_trades", "trials_wanted", "seed")
    return {**columns, **{name: getattr(asked, name) for name in own}, "options": options.model_dump(mode="json")}


def _check_words(asked: StudyAsked) -> None:
    if asked.kind not in StudyKind.values:
        raise ValidationError({"kind": f"wanted one of {', '.join(StudyKind.values)}, was {asked.kind!r:.60}"})
    problems: dict[str, str] = {}
    if asked.method not in SearchMethod.__members__:
        problems["method"] = f"wanted one of {', '.join(SearchMethod.__members__)}, was {asked.method!r:.60}"
    elif asked.method == SearchMethod.TPE and importlib.util.find_spec("optuna") is None:
        problems["method"] = "wanted optuna for the method TPE, was not installed: ./r3edge install optimise"
    try:
        Objective(asked.objective, asked.min_trades)
    except ValueError as error:
        problems["objective"] = str(error)
    for name, least, most in (("trials_wanted", 1, MOST_TRIALS), ("seed", 0, LARGEST_SEED)):
        if not least <= getattr(asked, name) <= most:
            problems[name] = f"wanted {least} to {most}, was {getattr(asked, name)}"
    if problems:
        raise ValidationError(problems)


def _is_search(asked: StudyAsked) -> bool:
    return asked.kind != StudyKind.MONTE_CARLO


def _values(strategy: Strategy[Any]) -> dict[str, Any]:
    values: dict[str, Any] = strategy.parameters.model_dump(mode="json")
    return values


def _space_asked(asked: StudyAsked, options: Any) -> Space | None:
    """What is searched; around given parameters where neighbours of those are tried."""
    if asked.setup.strategy not in LIBRARY:
        raise ValidationError({"strategy": LIBRARY.wanted(asked.setup.strategy)})
    if not isinstance(asked.space, dict):
        raise ValidationError({"space": f"wanted an object of parameters, was {type(asked.space).__name__}"})
    needs = _is_search(asked) or MonteCarlo.PARAMETER_JITTER in options.rerun
    if not needs and not asked.space:
        return None
    given = asked.setup.parameters
    if not _is_search(asked):
        given = _values(parameters_validated(asked.setup.strategy, given))
    fixed = {name: one for name, one in given.items() if _is_search(asked) or name not in asked.space}
    try:
        space = Space(LIBRARY[asked.setup.strategy], asked.space, fixed)
        if not _is_search(asked):
            space.point_of(_placed(space, given))
        _looks(space)
        if _is_search(asked) and asked.method == SearchMethod.GRID and not space.is_listable:
            raise ValueError(
                f"wanted at most {MOST_COMBINATIONS} combinations to go over, was {space.size or 'no end of them'}"
            )
    except ValueError as error:
        raise ValidationError({"space": str(error)}) from error
    return space


def _placed(space: Space, values: dict[str, Any]) -> dict[str, Any]:
    """Of ``values`` those that are searched, as an axis writes them."""
    said = {axis.name: [values[axis.name]] for axis in space.axes}
    return {axis.name: axis.values[0] for axis in Space(space.strategy_type, said).axes}


def _looks(space: Space) -> list[Strategy[Any]]:
    """``space.lookers``. Raises ValueError where that are too many."""
    found = space.lookers
    if len(found) > MOST_LOOKS:
        raise ValueError(f"wanted at most {MOST_LOOKS} sets of markets to look at, was {len(found)}")
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """What a study's trials are computed with: ``markets`` are shared by all studies on the same data, and their own
    strategies and plans are not asked."""

    strategy_type: type[Strategy[Any]]
    space: Space | None
    markets: list[MarketInput]
    settings: Settings
    objective: Objective
    code: str
    data: str

    @property
    def candles(self) -> int:
        return sum(len(market.candles) for market in self.markets)


def bench_gather(study: Study, tick: Callable[[], None] = lambda: None) -> Bench:
    """Read all of it now. Raises ValidationError, NothingToTest, WrongWords and ValueError for what fits no more."""
    feeds = study_feeds(study)
    markets, _ = markets_of(study, feeds, tick)
    space = study.searched()
    for looker in _looks(space)[1:] if space is not None else ():
        tick()
        markets = [_seen_too(market, feed, looker, study) for market, feed in zip(markets, feeds, strict=True)]
    # How a position is left is the trial's to say, whose parameters may decide it.
    markets = [replace(market, plan=None) for market in markets]
    bench = _bench(study, markets, data_hash(markets))
    _keep(bench.data, markets)
    return bench


def bench_of(study: Study, tick: Callable[[], None] = lambda: None) -> Bench:
    """What ``study`` has begun with, read once in each process. Raises StudyChanged where it is not that any more, and as
    ``bench_gather``."""
    if study.candles * study.trials_total >= WORTH_COMPILING and importlib.util.find_spec("numba") is not None:
        # Once it is imported the engine compiles; not at the top, for few studies are worth the seconds that it takes.
        importlib.import_module("numba")
    held = _kept(study.data_hash)
    bench = bench_gather(study, tick) if held is None else _bench(study, held, study.data_hash)
    for what, was, now in (("market data", study.data_hash, bench.data), ("code", study.code_hash, bench.code)):
        if was != now:
            raise StudyChanged(f"wanted the {what} that it began with, has changed since: a retry begins anew")
    return bench


def study_feeds(study: Study) -> list[Feed]:
    """Its feeds, in the order in which they were named."""
    return [place.feed for place in study.places.select_related("feed__market__exchange")]


def span_of(study: Study) -> Span:
    since, until = (round(at.timestamp() * 1000) for at in (study.from_at, study.until_at))
    return Span(since, until)


def folds_planned(study: Study, bench: Bench) -> tuple[list[dict[str, Any]], int]:
    """The folds of a study and how many trials each takes at most. Raises ValueError where that cannot be."""
    options = options_said(study.kind, study.options)
    if isinstance(options, MonteCarloWords):
        return [{"way": way.value} for way in options.rerun], options.reruns
    folds: list[dict[str, Any]] = [{"train": list(span_of(study))}]
    if study.kind == StudyKind.WALK_FORWARD:
        train, test = Length.of(options.train), Length.of(options.test)
        clock = clock_of(bench.markets, span_of(study))
        found = folds_of(clock, train, test, is_anchored=options.is_anchored)
        folds = [{"train": list(one.train), "test": list(one.test)} for one in found]
    each = study.trials_wanted
    if bench.space is not None and bench.space.is_listable:
        each = min(each, len(bench.space.accepted))
    if len(folds) > MOST_FOLDS or len(folds) * each > MOST_TRIALS:
        raise ValueError(
            f"wanted at most {MOST_FOLDS} folds and {MOST_TRIALS} trials in all, was {len(folds)} of {each} trials"
        )
    return folds, each


def _seen_too(market: MarketInput, feed: Feed, looker: Strategy[Any], study: Study) -> MarketInput:
    other = market_gather(feed, looker, study.from_at, study.until_at)
    candles = {**other.facts.candles, **market.facts.candles}
    tapes = {
        name: max(getattr(market.facts, name), getattr(other.facts, name), key=len) for name in ("trades", "funding")
    }
    facts = replace(market.facts, candles=candles, **tapes)
    return replace(market, facts=facts, warm_up=max(market.first, other.first))


def _bench(study: Study, markets: list[MarketInput], data: str) -> Bench:
    strategy_type = with_exits(study.strategy, json.dumps(study.exits, sort_keys=True))
    fixed = {name: value for name, value in study.parameters.items() if name not in study.space}
    words = (json.dumps(study.space), json.dumps(fixed))  # in the order of the row, which is always the same
    return Bench(
        strategy_type=strategy_type,
        space=_space(strategy_type, *words) if study.space else None,
        markets=markets,
        settings=settings_from(study.settings, study.limits),
        objective=Objective(study.objective, study.min_trades),
        code=code_hash(LIBRARY[study.strategy]),
        data=data,
    )


@functools.lru_cache(maxsize=32)
def with_exits(strategy: str, exits: str) -> type[Strategy[Any]]:
    """The strategy of that name, its exit plan changed by ``exits``, as JSON: whatever its parameters make of the rest."""
    kind, words = LIBRARY[strategy], json.loads(exits)
    if not words:
        return kind

    def exit_plan(self: Strategy[Any]) -> ExitPlan:
        return plan_said(super(changed, self).exit_plan, words)  # type: ignore[arg-type]  # made below

    changed = type(kind.__name__, (kind,), {"exit_plan": property(exit_plan), "__module__": kind.__module__})
    return changed


@functools.lru_cache(maxsize=32)
def _space(strategy_type: type[Strategy[Any]], said: str, fixed: str) -> Space:
    # Kept, for which of its combinations are accepted takes a while to find.
    return Space(strategy_type, json.loads(said), json.loads(fixed))


_held: OrderedDict[str, list[MarketInput]] = OrderedDict()
_lock = threading.Lock()


def _kept(data: str) -> list[MarketInput] | None:
    with _lock:
        if data in _held:
            _held.move_to_end(data)
        return _held.get(data)


def _keep(data: str, markets: list[MarketInput]) -> None:
    with _lock:
        _held[data] = markets
        _held.move_to_end(data)
        while len(_held) > 1 and sum(map(_bytes, _held.values())) > MOST_BYTES:
            _held.popitem(last=False)


def _bytes(markets: Sequence[MarketInput]) -> int:
    held = [
        part
        for market in markets
        for part in (market.candles, market.detail, market.funding, *market.facts.candles.values(), market.facts.trades)
        if part is not None
    ]
    return sum(np.asarray(getattr(part, name)).nbytes for part in held for name in part.__slots__)
