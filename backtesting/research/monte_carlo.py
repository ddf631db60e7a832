"""What might have come of it, had luck been another: the same trades in another order, other draws from the same returns,
parameters next to those chosen, prices a little different. Everything by a seed: asked again it answers the same.

Returns are those of the whole account, as fractions, oldest first; paths compound them. Drawdowns are negative fractions of
the highest so far, the starting capital being the first peak.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backtesting.engine.inputs import MarketInput, Result, Settings
from backtesting.research.space import Space
from backtesting.research.trials import TrialFacts
from domain.candles import Candles, FloatArray, IntArray

LEVELS = (5, 25, 50, 75, 95)
# A curve of bands has at most so many points after the first.
MOST_POINTS = 200
# So many returns are held at once, whatever the number of paths.
HELD = 1_000_000
# A parameter that may be any number moves by up to so much of its range.
NEARBY = 0.05
# More neighbours than that are drawn, not gone over.
MOST_NEIGHBOURS = 10_000


class MonteCarlo(StrEnum):
    """What is left to luck."""

    TRADE_SHUFFLE = "TRADE_SHUFFLE"
    TRADE_BOOTSTRAP = "TRADE_BOOTSTRAP"
    BLOCK_BOOTSTRAP = "BLOCK_BOOTSTRAP"
    PARAMETER_JITTER = "PARAMETER_JITTER"
    PRICE_NOISE = "PRICE_NOISE"


class Blocks(StrEnum):
    """How returns are drawn in blocks, so that what hangs together stays so: STATIONARY, of random lengths (Politis and
    Romano 1994), or CIRCULAR, all of one (1992)."""

    STATIONARY = "STATIONARY"
    CIRCULAR = "CIRCULAR"


@dataclass(frozen=True, slots=True, eq=False)
class Bands:
    """What ``paths`` paths came to. ``curves`` has a row for each of LEVELS (percent of paths that are below) and a column
    for each of ``steps`` (after how many returns; the first is 0): what one unit of capital was worth. ``final_return`` and
    ``drawdown`` have one figure for each level; at the lowest the drawdown is the deepest. ``loss`` is the share of paths
    that ended below their start, ``ruin`` that of those that fell by ``ruin_at`` of a peak or more."""

    steps: IntArray
    curves: FloatArray
    final_return: FloatArray
    drawdown: FloatArray
    loss: float
    ruin: float
    ruin_at: float
    paths: int

    def told(self) -> dict[str, Any]:
        """As plain numbers, ready for JSON: bands by level."""
        return {
            "paths": self.paths,
            "loss": self.loss,
            "ruin": self.ruin,
            "ruin_at": self.ruin_at,
            "final_return": dict(zip(map(str, LEVELS), self.final_return.tolist(), strict=True)),
            "drawdown": dict(zip(map(str, LEVELS), self.drawdown.tolist(), strict=True)),
            "steps": self.steps.tolist(),
            "curves": dict(zip(map(str, LEVELS), self.curves.tolist(), strict=True)),
        }


def trade_returns(result: Result, settings: Settings) -> FloatArray:
    """What each trade that has ended did to the account, as a fraction of what that was worth by the trades before; in the
    order in which they ended. In that order they compound to all that was won."""
    columns = result.columns
    pnl = columns.pnl[~columns.is_open]
    before = float(settings.cash) + np.concatenate(([0.0], np.cumsum(pnl)[:-1])) if len(pnl) else np.empty(0)
    found: FloatArray = np.divide(pnl, before, out=np.full(len(pnl), -1.0), where=before > 0)
    return found


def shuffled(returns: FloatArray, paths: int = 1000, seed: int = 0, ruin_at: float = 0.5) -> Bands:
    """The same returns in other orders: all end alike, but fall differently deep on their way."""
    random = np.random.default_rng(seed)

    def draw(rows: int) -> FloatArray:
        return random.permuted(np.broadcast_to(returns, (rows, len(returns))), axis=1)

    return _drawn(draw, paths, len(returns), ruin_at)


def redrawn(returns: FloatArray, paths: int = 1000, seed: int = 0, ruin_at: float = 0.5) -> Bands:
    """As many returns, each drawn from all with replacement (the bootstrap): as if none hung on another."""
    random = np.random.default_rng(seed)

    def draw(rows: int) -> FloatArray:
        return returns[random.integers(len(returns), size=(rows, len(returns)))]

    return _drawn(draw, paths, len(returns), ruin_at)


def redrawn_in_blocks(
    returns: FloatArray,
    paths: int = 1000,
    seed: int = 0,
    ruin_at: float = 0.5,
    *,
    kind: Blocks = Blocks.STATIONARY,
    block: float | None = None,
) -> Bands:
    """As many returns, drawn in blocks of neighbours; after the last comes the first. ``block`` is their length, or its
    mean; by default that of ``block_length``. Raises ValueError for one below 1."""
    length = block_length(returns, kind) if block is None else block
    if not length >= 1:
        raise ValueError(f"wanted blocks of at least 1 return, was {length}")
    random, size = np.random.default_rng(seed), len(returns)

    def draw(rows: int) -> FloatArray:
        within = np.arange(size)
        if kind is Blocks.CIRCULAR:
            begins = np.broadcast_to(within % max(round(length), 1) == 0, (rows, size))
        else:
            begins = random.random((rows, size)) < 1 / length
            begins[:, 0] = True
        begun = np.maximum.accumulate(np.where(begins, within, 0), axis=1)
        starts = random.integers(size, size=(rows, size))
        # Where a block begins is drawn for the whole round, and any turn of it is as likely.
        places = (np.take_along_axis(starts, begun, axis=1) + within) % size
        return np.asarray(returns[places], np.float64)

    return _drawn(draw, paths, size, ruin_at)


def block_length(returns: FloatArray, kind: Blocks = Blocks.STATIONARY) -> float:
    """How long blocks should be so that the variance of the mean is estimated best: the rule of Politis and White (2004) as
    corrected with Patton (2009). At least 1, which is also the answer for returns that do not move or are too few."""
    size = len(returns)
    centred = returns - returns.mean() if size else returns
    if size < 8 or not centred.any():
        return 1.0
    run = max(5, math.ceil(math.sqrt(math.log10(size))))
    most = min(math.ceil(math.sqrt(size)) + run, size - 1)
    covariances = np.array([float(centred[lag:] @ centred[: size - lag]) / size for lag in range(most + 1)])
    # The first lag after which so many in a row are no more than noise.
    noise = 2 * math.sqrt(math.log10(size) / size)
    small = np.abs(covariances[1:] / covariances[0]) < noise
    rows = np.lib.stride_tricks.sliding_window_view(small, min(run, most)).all(axis=1)
    last = int(np.argmax(rows)) if rows.any() else _last_large(small)
    bandwidth = min(2 * max(last, 1), most)
    lags = np.arange(1, bandwidth + 1)
    # The flat-top window: 1 up to half of the bandwidth, then down to 0.
    weights = np.minimum(1.0, 2 * (1 - lags / bandwidth))
    weighed = weights * covariances[1 : bandwidth + 1]
    spectrum = covariances[0] + 2 * float(weighed.sum())
    slope = 2 * float((lags * weighed).sum())
    factor = 2.0 if kind is Blocks.STATIONARY else 4 / 3
    if not spectrum:
        return 1.0
    found = (2 * slope**2 / (factor * spectrum**2)) ** (1 / 3) * size ** (1 / 3)
    return float(min(max(found, 1.0), math.ceil(min(3 * math.sqrt(size), size / 3))))


def _last_large(small: NDArray[np.bool_]) -> int:
    large = np.flatnonzero(~small)
    return int(large[-1]) + 1 if len(large) else 1


def jittered(space: Space, values: dict[str, Any], seed: int, number: int, reach: int = 1) -> dict[str, Any] | None:
    """The parameters of trial ``number`` among the neighbours of ``values``: each at most ``reach`` steps away on its axis,
    or where any number goes NEARBY of the range; what has no order stays. Never ``values`` themselves nor what the strategy
    refuses, and none twice; None: there are no more. Raises ValueError for values that are not in the space."""
    point = space.point_of(values)
    choices = [_near(space, place, axis, reach) for axis, place in enumerate(point)]
    counted = [one for one in choices if one is not None]
    if len(counted) == len(choices) and math.prod(map(len, counted)) <= MOST_NEIGHBOURS:
        near = [one for one in itertools.product(*counted) if one != point and not space.refusal(one)]
        if number >= len(near):
            return None
        return space.values_at(near[int(np.random.default_rng(seed).permutation(len(near))[number])])
    random = np.random.default_rng([seed, number])
    for _ in range(1000):
        moved = tuple(
            _moved(space, axis, place, reach, random) if one is None else one[int(random.integers(len(one)))]
            for axis, (place, one) in enumerate(zip(point, choices, strict=True))
        )
        if moved != point and not space.refusal(moved):
            return space.values_at(moved)
    return None


def _near(space: Space, place: float, number: int, reach: int) -> list[float] | None:
    """The places near ``place``, itself among them; None: any number of them."""
    axis = space.axes[number]
    if not axis.values:
        return None
    if not axis.is_ordered:
        return [place]
    return [float(one) for one in range(max(int(place) - reach, 0), min(int(place) + reach, len(axis.values) - 1) + 1)]


def _moved(space: Space, number: int, place: float, reach: int, random: np.random.Generator) -> float:
    axis = space.axes[number]
    most = NEARBY * reach * (axis.high - axis.low)
    return min(max(place + float(random.uniform(-most, most)), axis.low), axis.high)


def noised(candles: Candles, fraction: float, seed: int, number: int = 0) -> Candles:
    """Candles whose four prices are each moved by a normal deviate of ``fraction`` of the candle's range, never to less
    than half of the low; high and low are then the highest and lowest of the four. Raises ValueError for a negative
    fraction."""
    if not fraction >= 0:
        raise ValueError(f"wanted a fraction of a candle's range from 0 on, was {fraction}")
    random = np.random.default_rng([seed, number])
    prices = np.stack((candles.open, candles.high, candles.low, candles.close))
    moves = random.standard_normal(prices.shape) * (fraction * (candles.high - candles.low))
    moved = np.maximum(prices + moves, candles.low / 2)
    return replace(candles, open=moved[0], high=moved.max(axis=0), low=moved.min(axis=0), close=moved[3])


def noised_markets(markets: Sequence[MarketInput], fraction: float, seed: int, number: int) -> list[MarketInput]:
    """The markets of trial ``number``, each with noise of its own. Candles inside candles would contradict it and are left
    out; what strategies see beside their own candles stays."""
    return [
        replace(market, candles=noised(market.candles, fraction, seed, number * len(markets) + place), detail=None)
        for place, market in enumerate(markets)
    ]


def bands_of_trials(trials: Sequence[TrialFacts], ruin_at: float = 0.5) -> Bands:
    """The bands of trials over one span: of neighbours, or of noisy prices. Final returns and drawdowns are those of their
    figures, candle by candle; one without a candle that it may trade in gained nothing. Raises ValueError without a
    trial that was done."""
    done = [one for one in trials if len(one.returns)]
    if not done:
        raise ValueError("wanted at least 1 trial that was done, was 0")
    table = np.stack([one.returns for one in done]).astype(np.float64)
    finals = np.array([one.figures["total_return"] or 0.0 for one in done])
    depths = np.array([one.figures["max_drawdown"] or 0.0 for one in done])
    steps = _steps(table.shape[1])
    return _bands(steps, _growth(table)[:, steps], finals, depths, ruin_at)


def _drawn(draw: Callable[[int], FloatArray], paths: int, size: int, ruin_at: float) -> Bands:
    """The bands of ``paths`` paths of ``size`` returns, so many at a time as memory is to hold."""
    if paths < 1 or size < 1:
        raise ValueError(f"wanted at least 1 path of at least 1 return, was {paths} of {size}")
    each, steps = max(HELD // size, 1), _steps(size)
    parts = [_path_facts(draw(rows), steps) for rows in _portions(paths, each)]
    points, finals, depths = (np.concatenate(one) for one in zip(*parts, strict=True))
    return _bands(steps, points, finals, depths, ruin_at)


def _portions(whole: int, each: int) -> Iterable[int]:
    return (min(each, whole - done) for done in range(0, whole, each))


def _path_facts(returns: FloatArray, steps: IntArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    growth = _growth(returns)
    depths = (growth / np.maximum.accumulate(growth, axis=1)).min(axis=1) - 1
    return growth[:, steps], growth[:, -1] - 1, depths


def _growth(returns: FloatArray) -> FloatArray:
    """What one unit was worth before the first return and after each; what is lost stays so."""
    growth = np.ones((len(returns), returns.shape[1] + 1))
    np.cumprod(np.maximum(1 + returns, 0.0), axis=1, out=growth[:, 1:])
    return growth


def _steps(size: int) -> IntArray:
    return np.unique(np.linspace(0, size, min(size, MOST_POINTS) + 1).round().astype(np.int64))


def _bands(steps: IntArray, points: FloatArray, finals: FloatArray, depths: FloatArray, ruin_at: float) -> Bands:
    return Bands(
        steps=steps,
        curves=_quantiles(points),
        final_return=_quantiles(finals),
        drawdown=_quantiles(depths),
        loss=float((finals < 0).mean()),
        ruin=float((depths <= -ruin_at).mean()),
        ruin_at=ruin_at,
        paths=len(finals),
    )


def _quantiles(values: FloatArray) -> FloatArray:
    """LEVELS of the first axis, linearly interpolated."""
    return np.asarray(np.percentile(values, LEVELS, axis=0), np.float64)
