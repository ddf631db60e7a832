"""What a book of positions may lose, and how much of it is one bet: value at risk, correlations, Kelly's fraction.

Returns are simple returns of one period (0.01 is one percent), a matrix of T periods by M markets, oldest first, unless a
function says otherwise. Notionals are in one currency, shorts negative. Losses are positive amounts of that currency. Every
function raises ValueError on NaN, on infinity, and on too few rows: a limit must never be passed by a figure that is none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from domain.candles import FloatArray

# A covariance of less is noise.
FEWEST_RETURNS = 20
# RiskMetrics' decay of daily covariances.
EWMA_DECAY = 0.94


class VarMethod(StrEnum):
    """How the book's gains and losses are foreseen: as they were; as a normal distribution with their mean and covariance;
    or by drawing paths of prices."""

    HISTORICAL = "HISTORICAL"
    PARAMETRIC = "PARAMETRIC"
    MONTE_CARLO = "MONTE_CARLO"


@dataclass(frozen=True, slots=True)
class BookRisk:
    """What the book loses at most with the confidence asked for (``var``), and on average in the cases beyond (``cvar``).
    Negative where even those cases gain."""

    var: float
    cvar: float


def book_risk(
    returns: ArrayLike,
    notionals: ArrayLike,
    *,
    method: VarMethod,
    confidence: float,
    horizon: int,
    paths: int = 10_000,
    seed: int = 0,
) -> BookRisk:
    """Value at risk and conditional value at risk of positions held unchanged for ``horizon`` periods.

    HISTORICAL revalues the book over each of the T - horizon + 1 windows there were; they overlap, and their returns are
    compounded, since that is what a quantity held unchanged gains. VaR is the linearly interpolated quantile. PARAMETRIC
    takes mean and covariance (n - 1) of one period times the horizon, and so a standard deviation times its root.
    MONTE_CARLO draws ``paths`` from a normal distribution of logarithmic returns (so no market loses more than it is worth)
    with NumPy's PCG64, seeded with ``seed``: the same facts give the same figure, today and in a dispute.

    CVaR of cases that are counted is the mean of the worst k, see ``tail_mean``. Raises ValueError with fewer rows than
    ``returns_needed`` says.
    """
    book = _matrix(returns)
    held = _vector(notionals, book.shape[1])
    needed = returns_needed(method, confidence=confidence, horizon=horizon)
    if len(book) < needed:
        raise ValueError(f"wanted at least {needed} returns, was {len(book)}")
    if method is VarMethod.PARAMETRIC:
        return _normal_risk(book, held, confidence, horizon)
    if (book <= -1).any():
        raise ValueError(f"wanted returns above -1, was {book.min():g}")
    logs = np.log1p(book)
    if method is VarMethod.HISTORICAL:
        moves = np.lib.stride_tricks.sliding_window_view(logs, horizon, axis=0).sum(axis=-1) if horizon > 1 else logs
    else:
        if paths < FEWEST_RETURNS:
            raise ValueError(f"wanted at least {FEWEST_RETURNS} paths, was {paths}")
        draws = np.random.Generator(np.random.PCG64(seed)).standard_normal((paths, book.shape[1]))
        moves = logs.mean(axis=0) * horizon + draws @ _root(covariance(logs) * horizon).T
    gains = np.expm1(moves) @ held
    tail = 1 - confidence
    return BookRisk(var=-quantile(gains, tail), cvar=-tail_mean(gains, tail))


def returns_needed(method: VarMethod, *, confidence: float, horizon: int) -> int:
    """How many returns ``book_risk`` wants: history has to have seen a case as bad as is asked for, once at least."""
    if not 0.5 <= confidence < 1:
        raise ValueError(f"wanted a confidence from 0.5 to below 1, was {confidence:g}")
    if horizon < 1:
        raise ValueError(f"wanted a horizon of at least 1 period, was {horizon}")
    if method is VarMethod.HISTORICAL:
        return max(FEWEST_RETURNS, math.ceil(round(1 / (1 - confidence), 6))) + horizon - 1
    return FEWEST_RETURNS


def quantile(values: FloatArray, fraction: float) -> float:
    """The value that ``fraction`` of ``values`` lie below, linearly interpolated between neighbours (Hyndman and Fan's
    seventh, NumPy's and empyrical's)."""
    return float(np.percentile(values, fraction * 100))


def tail_mean(values: FloatArray, fraction: float) -> float:
    """The mean of the worst k of n values, k = floor((n - 1) * fraction) + 1.

    The other convention takes the mean of what lies at or below the quantile. Both agree where no value lies between the
    quantile and its lower neighbour; ours is empyrical's, has at least one case always, and does not hang on how the
    quantile is interpolated.
    """
    worst = math.floor(round((len(values) - 1) * fraction, 9)) + 1
    return float(np.partition(values, worst - 1)[:worst].mean())


def covariance(returns: ArrayLike) -> FloatArray:
    """The sample covariance (n - 1) of the markets, M by M."""
    book = _matrix(returns, fewest=2)
    centered = book - book.mean(axis=0)
    return np.asarray(centered.T @ centered / (len(book) - 1), dtype=np.float64)


def ewma_covariance(returns: ArrayLike, decay: float = EWMA_DECAY) -> FloatArray:
    """The covariance in which each period weighs ``decay`` times the next one, about a mean of zero, as RiskMetrics has it
    (J.P. Morgan 1996, section 5.2), begun with the first period."""
    book = _matrix(returns)
    weights = (1 - decay) * decay ** np.arange(len(book) - 1, -1, -1)
    weights[0] = decay ** (len(book) - 1)
    return np.asarray((book * weights[:, None]).T @ book, dtype=np.float64)


def correlations(returns: ArrayLike) -> FloatArray:
    """Pearson's correlations, M by M. A market that did not move goes with no other: 0, and 1 with itself."""
    matrix = covariance(returns)
    deviations = np.sqrt(np.diag(matrix))
    # What a constant series leaves of rounding is no movement.
    moves = deviations > 1e-12 * np.abs(_matrix(returns)).max(axis=0)
    scale = np.where(moves, 1 / np.where(moves, deviations, 1), 0.0)
    result = np.clip(matrix * scale[:, None] * scale, -1, 1)
    np.fill_diagonal(result, 1.0)
    return result


def rank_correlations(returns: ArrayLike) -> FloatArray:
    """Spearman's correlations, M by M: Pearson's of the ranks, equal values sharing the mean of theirs. Unmoved by the size
    of outliers."""
    book = _matrix(returns, fewest=2)
    return correlations(np.column_stack([_ranks(column) for column in book.T]))


def rolling_correlation(first: FloatArray, second: FloatArray, window: int) -> FloatArray:
    """Pearson's correlation of two series over each ``window``; NaN before the first is full, 0 where one did not move."""
    if window < 2:
        raise ValueError(f"wanted a window of at least 2, was {window}")
    result = np.full(len(first), np.nan)
    if len(first) < window:
        return result
    # Sums over views of the windows: nothing is copied, and each window is summed afresh.
    ours, theirs = (
        np.lib.stride_tricks.sliding_window_view(series - series.mean(), window) for series in (first, second)
    )
    sums, products = (ours.sum(axis=1), theirs.sum(axis=1)), (_dots(ours, ours), _dots(theirs, theirs))
    spreads = [square - total**2 / window for square, total in zip(products, sums, strict=True)]
    moves = np.all([spread > 1e-12 * square for spread, square in zip(spreads, products, strict=True)], axis=0)
    together = _dots(ours, theirs) - sums[0] * sums[1] / window
    result[window - 1 :] = np.where(moves, together / np.sqrt(np.where(moves, spreads[0] * spreads[1], 1)), 0.0)
    return result


def correlated_exposure(correlations: FloatArray, notionals: ArrayLike) -> float:
    """The root of n' C n: the exposure of one market that would swing like the whole book, if all swung alike. Markets that
    move as one add up; what is short of one and long of the other cancels."""
    held = _vector(notionals, len(correlations))
    return math.sqrt(max(float(held @ correlations @ held), 0.0))


def risk_contributions(matrix: FloatArray, weights: ArrayLike) -> FloatArray:
    """How much of the book's standard deviation each market brings: w (C w) / sqrt(w' C w), which add up to it."""
    held = _vector(weights, len(matrix))
    pull = matrix @ held
    deviation = math.sqrt(max(float(held @ pull), 0.0))
    return held * pull / deviation if deviation > 0 else np.zeros(len(held))


def diversification_ratio(matrix: FloatArray, weights: ArrayLike) -> float:
    """The weighted mean of the markets' standard deviations over that of the book; 1: nothing is spread."""
    held = _vector(weights, len(matrix))
    deviation = math.sqrt(max(float(held @ matrix @ held), 0.0))
    return float(np.abs(held) @ np.sqrt(np.diag(matrix))) / deviation if deviation > 0 else 1.0


def minimum_variance_weights(matrix: FloatArray) -> FloatArray:
    """The weights, summing to 1 and free to be short, with the least variance: inverse(C) 1 / (1' inverse(C) 1)."""
    solved = np.linalg.pinv(matrix, hermitian=True).sum(axis=1)
    return np.asarray(solved / solved.sum(), dtype=np.float64)


def kelly_fraction(returns: Sequence[float]) -> float:
    """Kelly's fraction of capital for bets like these: W - (1 - W) / R, with W the share of wins among those that won or
    lost, and R the mean win over the mean loss (Kelly 1956).

    All won: 1. All lost: -1, since who bets against them wins all. None did either: 0. Raises ValueError without any.
    """
    outcomes = np.asarray(returns, dtype=np.float64)
    if not len(outcomes) or not np.isfinite(outcomes).all():
        raise ValueError(f"wanted at least one return and all of them finite, was {outcomes.tolist()[:10]}")
    wins, losses = outcomes[outcomes > 0], -outcomes[outcomes < 0]
    if not len(wins) or not len(losses):
        return float(bool(len(wins))) - float(bool(len(losses)))
    return kelly(len(wins) / (len(wins) + len(losses)), float(wins.mean() / losses.mean()))


def kelly(win_rate: float, payoff_ratio: float) -> float:
    """Kelly's fraction for a bet won with probability ``win_rate`` that pays ``payoff_ratio`` times what it costs."""
    return win_rate - (1 - win_rate) / payoff_ratio


def _normal_risk(book: FloatArray, held: FloatArray, confidence: float, horizon: int) -> BookRisk:
    gains = book @ held
    mean, deviation = float(gains.mean()) * horizon, float(gains.std(ddof=1)) * math.sqrt(horizon)
    normal = NormalDist()
    score = normal.inv_cdf(confidence)
    return BookRisk(var=score * deviation - mean, cvar=normal.pdf(score) / (1 - confidence) * deviation - mean)


def _root(matrix: FloatArray) -> FloatArray:
    """A matrix L with L L' = ``matrix``: Cholesky's, and by eigenvalues where markets that go together make it singular."""
    try:
        return np.asarray(np.linalg.cholesky(matrix), dtype=np.float64)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(matrix)
        return np.asarray(vectors * np.sqrt(np.clip(values, 0, None)), dtype=np.float64)


def _dots(ours: FloatArray, theirs: FloatArray) -> FloatArray:
    return np.asarray(np.einsum("ij,ij->i", ours, theirs), dtype=np.float64)


def _ranks(values: FloatArray) -> FloatArray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], dtype=np.float64)


def _matrix(returns: ArrayLike, fewest: int = 1) -> FloatArray:
    matrix = np.asarray(returns, dtype=np.float64)
    if matrix.ndim != 2 or not matrix.shape[1]:
        raise ValueError(f"wanted returns of periods by markets, was an array of shape {matrix.shape}")
    if len(matrix) < fewest:
        raise ValueError(f"wanted at least {fewest} returns, was {len(matrix)}")
    if not np.isfinite(matrix).all():
        raise ValueError("wanted finite returns, was some NaN or infinite")
    return matrix


def _vector(amounts: ArrayLike, length: int) -> FloatArray:
    vector = np.asarray(amounts, dtype=np.float64)
    if vector.shape != (length,):
        raise ValueError(f"wanted one amount for each of {length} markets, was an array of shape {vector.shape}")
    if not np.isfinite(vector).all():
        raise ValueError("wanted finite amounts, was some NaN or infinite")
    return vector
