"""How much of a good figure is luck: of few returns, of returns that are not normal, and of having tried often.

Sharpe ratios here are per period and not annualised, unless a word says otherwise; kurtosis is not the excess: 3 for a normal
distribution. Where there is too little to say anything the answer is NaN. The sources: Bailey and López de Prado, "The Sharpe
Ratio Efficient Frontier" (Journal of Risk, 2012) and "The Deflated Sharpe Ratio" (Journal of Portfolio Management, 2014);
Bailey, Borwein, López de Prado and Zhu, "The Probability of Backtest Overfitting" (Journal of Computational Finance, 2015).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from domain.candles import FloatArray
from domain.statistics import kurtosis, sharpe, skew

NAN, INFINITY = float("nan"), float("inf")
NORMAL = NormalDist()
EULER = 0.5772156649015329
# So many figures are held at once, of some divisions and all trials: what a processor's cache takes.
HELD = 65_536
# A deviation of less, against the returns, is what rounding leaves of a constant.
ROUNDING = 1e-12


def probabilistic_sharpe(returns: FloatArray, benchmark: float = 0.0) -> float:
    """The probability that the true Sharpe ratio is above ``benchmark`` (2012, equation 11), from returns."""
    found, length = sharpe(returns, 1), int(np.count_nonzero(~np.isnan(returns)))
    return probabilistic_sharpe_of(found, length, skew(returns), kurtosis(returns) + 3, benchmark)


def probabilistic_sharpe_of(
    ratio: float, length: int, skewness: float = 0.0, kurtosis_: float = 3.0, benchmark: float = 0.0
) -> float:
    """The same from the figures of ``length`` returns."""
    spread = _spread(ratio, skewness, kurtosis_)
    if length < 2 or not spread > 0:
        return NAN
    return NORMAL.cdf((ratio - benchmark) * math.sqrt(length - 1) / math.sqrt(spread))


def least_length(
    ratio: float, skewness: float = 0.0, kurtosis_: float = 3.0, benchmark: float = 0.0, confidence: float = 0.95
) -> float:
    """How many returns it takes until one can be so confident that the true Sharpe ratio is above ``benchmark`` (the minimum
    track record length, 2012, equation 13); infinite where ``ratio`` is not above it."""
    if math.isnan(ratio) or math.isnan(spread := _spread(ratio, skewness, kurtosis_)):
        return NAN
    if ratio <= benchmark:
        return INFINITY
    return 1 + spread * (NORMAL.inv_cdf(confidence) / (ratio - benchmark)) ** 2


def luckiest_sharpe(trials: float, variance: float) -> float:
    """The Sharpe ratio that the best of so many independent ``trials`` is expected to show although none is worth anything
    (2014, equation 1); ``variance`` is that of the trials' ratios."""
    if not trials > 1:
        return 0.0 if trials == 1 else NAN
    first, second = NORMAL.inv_cdf(1 - 1 / trials), NORMAL.inv_cdf(1 - 1 / (trials * math.e))
    return math.sqrt(variance) * ((1 - EULER) * first + EULER * second)


def deflated_sharpe_of(
    ratio: float, length: int, skewness: float, kurtosis_: float, trials: float, variance: float
) -> float:
    """The deflated Sharpe ratio: the probability that the true ratio of the best of ``trials`` is above what luck alone would
    have shown (2014, equation 2)."""
    benchmark = luckiest_sharpe(trials, variance)
    return NAN if math.isnan(benchmark) else probabilistic_sharpe_of(ratio, length, skewness, kurtosis_, benchmark)


@dataclass(frozen=True, slots=True)
class Deflated:
    """The best of several trials, and what is left of it. ``trials`` are those that count as independent; ``luckiest`` is
    the ratio that the best of so many worthless ones is expected to show; ``probability`` the deflated Sharpe ratio."""

    best: int
    sharpe: float
    trials: float
    variance: float
    luckiest: float
    probability: float
    least_length: float


def deflated_sharpe(returns: ArrayLike, best: int | None = None, *, are_independent: bool = False) -> Deflated:
    """The deflated Sharpe ratio of the trial ``best`` (by default that with the highest ratio) among all: ``returns`` are
    T periods by N trials, of the same periods.

    Trials that repeat each other are no N trials: with the mean correlation r between them they count as r + (1 - r) N
    (2014, appendix 3), unless they are said to be independent. Trials that never gained nor lost have no ratio and are left
    out. ``least_length`` is of the best against ``luckiest``, at 95 %. Raises ValueError for a shape that is no matrix.
    """
    table = _matrix(returns)
    ratios = _sharpes(table.sum(axis=0), (table**2).sum(axis=0), np.array(float(len(table))))
    known = np.flatnonzero(~np.isnan(ratios))
    if not len(known):
        return Deflated(-1 if best is None else best, NAN, NAN, NAN, NAN, NAN, NAN)
    chosen = int(known[np.argmax(ratios[known])]) if best is None else best
    trials = float(len(known)) if are_independent else independent_trials(table[:, known])
    variance = float(ratios[known].var(ddof=1)) if len(known) > 1 else 0.0
    luckiest, column = luckiest_sharpe(trials, variance), table[:, chosen]
    shape = skew(column), kurtosis(column) + 3
    return Deflated(
        best=chosen,
        sharpe=float(ratios[chosen]),
        trials=trials,
        variance=variance,
        luckiest=luckiest,
        probability=probabilistic_sharpe(column, luckiest),
        least_length=least_length(float(ratios[chosen]), *shape, luckiest),
    )


def independent_trials(returns: ArrayLike) -> float:
    """How many independent trials those of T by N ``returns`` are worth, by their mean correlation."""
    table = _matrix(returns)
    count = table.shape[1]
    if count < 2:
        return float(count)
    centred = table - table.mean(axis=0)
    norms = np.sqrt((centred**2).sum(axis=0))
    scaled = centred[:, norms > 0] / norms[norms > 0]
    # The sum of all entries of the correlation matrix, without making it.
    moving = int(scaled.shape[1])
    together = float((scaled.sum(axis=1) ** 2).sum()) - moving
    mean = min(max(together / (moving * (moving - 1)), 0.0), 1.0) if moving > 1 else 0.0
    return float(mean + (1 - mean) * count)


@dataclass(frozen=True, slots=True, eq=False)
class Overfitting:
    """What combinatorially symmetric cross-validation found: each entry of the arrays is one division of the time into two
    halves, the best trial of the first looked at in the second.

    ``probability`` (PBO) is the share of divisions in which it is not among the better half there: ``logits`` of its rank,
    zero or below. ``before`` and ``after`` are its Sharpe ratios in the two halves, ``slope`` how much of a ratio before is
    one after (the degradation: by least squares), ``loss`` the share in which it lost.
    """

    probability: float
    logits: FloatArray
    before: FloatArray
    after: FloatArray
    slope: float
    loss: float


def overfitting(returns: ArrayLike, parts: int = 16) -> Overfitting:
    """The probability of backtest overfitting of choosing the trial with the best Sharpe ratio, by cross-validation over all
    divisions of ``parts`` equal parts of the time (an even number; 16 make 12,870) into two halves (2015, section 3).

    ``returns`` are T periods by N trials, of the same periods; what T leaves over a multiple of ``parts`` is cut at its
    start. A trial without a ratio in a half ranks as zero there, and of trials that are equal each stands in the middle of
    them. Raises ValueError for fewer than 2 trials or 2 periods a part, and for an odd number of parts.
    """
    table = _matrix(returns)
    length, count = table.shape
    if parts < 2 or parts % 2:
        raise ValueError(f"wanted an even number of parts, was {parts}")
    if count < 2 or length < 2 * parts:
        raise ValueError(f"wanted at least 2 trials of {2 * parts} returns, was {count} of {length}")
    each = length // parts
    blocks = table[length - each * parts :].reshape(parts, each, count)
    sums, squares = blocks.sum(axis=1), (blocks**2).sum(axis=1)
    total, total_squares, half = sums.sum(axis=0), squares.sum(axis=0), np.array(each * parts / 2)
    ranks, before, after, gained = [], [], [], []
    for chosen in _halves(parts, max(HELD // count, 1)):
        inside, inside_squares = chosen @ sums, chosen @ squares
        outside, outside_squares = total - inside, total_squares - inside_squares
        first = np.nan_to_num(_sharpes(inside, inside_squares, half))
        second = np.nan_to_num(_sharpes(outside, outside_squares, half))
        # Each division speaks twice: what one looks for in the first half the other looks at in the second.
        for seen, unseen, sum_unseen in ((first, second, outside), (second, first, inside)):
            best = seen.argmax(axis=1)
            rows = np.arange(len(best))
            found = unseen[rows, best][:, np.newaxis]
            below, equal = np.count_nonzero(unseen < found, axis=1), np.count_nonzero(unseen == found, axis=1)
            ranks.append(below + (equal + 1) / 2)
            before.append(seen[rows, best])
            after.append(unseen[rows, best])
            gained.append(sum_unseen[rows, best])
    relative = np.concatenate(ranks) / (count + 1)
    logits = np.log(relative / (1 - relative))
    was, became = np.concatenate(before), np.concatenate(after)
    return Overfitting(
        probability=float((logits <= 0).mean()),
        logits=logits,
        before=was,
        after=became,
        slope=_slope(was, became),
        loss=float((np.concatenate(gained) < 0).mean()),
    )


def _halves(parts: int, most: int) -> Iterator[FloatArray]:
    """All ways to choose the half of the parts that has the first, as rows of 0 and 1, so many at a time."""
    every = itertools.combinations(range(1, parts), parts // 2 - 1)
    while some := list(itertools.islice(every, most)):
        rows = np.zeros((len(some), parts))
        rows[:, 0] = 1.0
        np.put_along_axis(rows, np.array(some, np.int64).reshape(len(some), -1), 1.0, axis=1)
        yield rows


def _sharpes(sums: FloatArray, squares: FloatArray, length: NDArray[np.float64]) -> FloatArray:
    """The ratio of mean to sample deviation (n - 1) from sums and sums of squares; NaN where nothing moved."""
    means = sums / length
    spreads = np.sqrt(np.maximum(squares - sums * means, 0.0) / (length - 1))
    moves = spreads > ROUNDING * np.sqrt(np.maximum(squares, 0.0) / length)  # a difference of sums may fall below 0
    found: FloatArray = np.divide(means, spreads, out=np.full(np.shape(means), NAN), where=moves)
    return found


def _slope(before: FloatArray, after: FloatArray) -> float:
    centred = before - before.mean()
    spread = float(centred @ centred)
    return float(centred @ (after - after.mean())) / spread if spread else NAN


def _spread(ratio: float, skewness: float, kurtosis_: float) -> float:
    """The variance of the estimate of a Sharpe ratio, times the number of returns less one."""
    return 1 - skewness * ratio + (kurtosis_ - 1) / 4 * ratio**2


def _matrix(returns: ArrayLike) -> FloatArray:
    table = np.nan_to_num(np.asarray(returns, dtype=np.float64))
    if table.ndim != 2:
        raise ValueError(f"wanted periods by trials, was an array of shape {table.shape}")
    return table
