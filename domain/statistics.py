"""What a run of returns was worth: one definition of every figure that is shown or compared.

Returns are simple returns of equal periods, oldest first, as a one-dimensional array. NaN is a period without a return: it
compounds as zero and is left out of averages. ``periods`` is how many there are in a year: 365 days or 8,760 hours of a
market that never closes, 252 trading days. The risk-free rate is zero unless given, per period. Where there are too few
returns to say anything the answer is NaN, where there is nothing to divide by it is infinite. The conventions are
empyrical's unless a docstring says otherwise. These are statistics: floats, and no book is kept by them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from domain.candles import FloatArray
from domain.risk import kelly_fraction, quantile, tail_mean

NAN, INFINITY = float("nan"), float("inf")
# Spreads of less, against the mean, are what rounding leaves of a constant.
ROUNDING = 1e-14


@dataclass(frozen=True, slots=True)
class Drawdown:
    """The deepest fall of the equity: ``depth`` as a fraction of the peak, zero or negative. ``peak``, ``trough`` and
    ``recovery`` are indices of returns, after which the equity was there; a peak of -1 is the starting capital, no recovery
    is None. The first of several as deep."""

    depth: float
    peak: int
    trough: int
    recovery: int | None


def returns_of(values: FloatArray) -> FloatArray:
    """The simple returns of prices, or of an equity curve."""
    return np.asarray(values[1:] / values[:-1] - 1, dtype=np.float64)


def total_return(returns: FloatArray) -> float:
    """What one unit of capital gained in all."""
    return float(_growth(returns)[-1] - 1) if len(returns) else NAN


def cagr(returns: FloatArray, periods: float) -> float:
    """The yearly return that compounds to the total (empyrical's annual return)."""
    return float((1 + total_return(returns)) ** (periods / len(returns)) - 1) if len(returns) else NAN


def volatility(returns: FloatArray, periods: float) -> float:
    """The sample standard deviation (n - 1), annualised by the root of ``periods``."""
    return _deviation(_known(returns)) * math.sqrt(periods)


def sharpe(returns: FloatArray, periods: float, risk_free: float | FloatArray = 0.0) -> float:
    """The mean of what is above the risk-free rate over its sample standard deviation (n - 1), annualised by the root."""
    excess = _known(returns - risk_free)
    return _ratio(float(excess.mean()), _deviation(excess)) * math.sqrt(periods) if len(excess) > 1 else NAN


def downside_risk(returns: FloatArray, periods: float, required: float | FloatArray = 0.0) -> float:
    """The root of the mean square of what is missing to the required return, annualised. The mean is over all periods, those
    that miss nothing included (Sortino's target semideviation), not over the losing ones only."""
    missing = np.minimum(_known(returns - required), 0.0)
    return math.sqrt(float((missing**2).mean()) * periods) if len(missing) else NAN


def sortino(returns: FloatArray, periods: float, required: float = 0.0) -> float:
    """The annualised mean of what is above the required return over the downside risk."""
    excess = _known(returns - required)
    return _ratio(float(excess.mean()) * periods, downside_risk(returns, periods, required)) if len(excess) else NAN


def calmar(returns: FloatArray, periods: float) -> float:
    """The yearly return over the deepest drawdown."""
    return _ratio(cagr(returns, periods), -max_drawdown(returns))


def max_drawdown(returns: FloatArray) -> float:
    """The deepest fall from a peak as a fraction of it, zero or negative. The starting capital is the first peak."""
    return deepest_drawdown(returns).depth if len(returns) else NAN


def deepest_drawdown(returns: FloatArray) -> Drawdown:
    """The deepest fall, with where it began, where it was deepest, and where the peak was reached again. Raises ValueError
    without a return."""
    if not len(returns):
        raise ValueError("wanted at least 1 return, was 0")
    falls, growth = drawdowns(returns), np.concatenate([[1.0], _growth(returns)])
    trough = int(falls.argmin())
    # The last time that the peak was touched before the fall.
    peak = int(np.flatnonzero(growth[: trough + 2] == growth[: trough + 2].max())[-1])
    recovered = np.flatnonzero(growth[trough + 1 :] >= growth[peak])
    recovery = trough + int(recovered[0]) if len(recovered) else None
    return Drawdown(float(falls[trough]), peak - 1, trough, recovery)


def deepest_drawdowns(values: FloatArray, count: int) -> list[Drawdown]:
    """The ``count`` deepest falls of an equity curve that begins with the starting capital, deepest first, each from
    a peak to where the curve is as high again. Indices are those of its returns, as everywhere here."""
    if len(values) < 2:
        return []
    highest = np.maximum.accumulate(values)
    below = values < highest
    # A fall begins after a value that is not below, and ends at the next such one.
    begins = np.flatnonzero(below[1:] & ~below[:-1])
    ends = np.flatnonzero(below[:-1] & ~below[1:]) + 1
    depths = values / highest - 1
    lows = np.minimum.reduceat(depths, begins) if len(begins) else np.empty(0)
    found = []
    for number in np.argsort(lows, kind="stable")[:count].tolist():
        begin, end = int(begins[number]), int(ends[number]) if number < len(ends) else None
        low = begin + int(depths[begin:end].argmin())
        found.append(Drawdown(float(lows[number]), begin - 1, low - 1, None if end is None else end - 1))
    return found


def drawdowns(returns: FloatArray) -> FloatArray:
    """After each period, how far the equity is below its highest so far, as a fraction of it, zero or negative."""
    growth = _growth(returns)
    return np.asarray(growth / np.maximum.accumulate(np.maximum(growth, 1.0)) - 1, dtype=np.float64)


def ulcer_index(returns: FloatArray) -> float:
    """The root mean square of the drawdowns, as a fraction: how deep and how long (Martin and McCann)."""
    return math.sqrt(float((drawdowns(returns) ** 2).mean())) if len(returns) else NAN


def omega(returns: FloatArray, required: float = 0.0) -> float:
    """What was gained above the required return, over what was missing to it."""
    excess = _known(returns - required)
    return _ratio(float(excess[excess > 0].sum()), -float(excess[excess < 0].sum())) if len(excess) else NAN


def profit_factor(outcomes: FloatArray) -> float:
    """All gains over all losses, of returns or of amounts."""
    return omega(outcomes)


def win_rate(outcomes: FloatArray) -> float:
    """The share of gains among what gained or lost; what came out even is neither."""
    known = _known(outcomes)
    decided = np.count_nonzero(known)
    return np.count_nonzero(known > 0) / decided if decided else NAN


def skew(returns: FloatArray) -> float:
    """The third standardised moment of the population (no correction for the sample)."""
    return _moment(returns, 3)


def kurtosis(returns: FloatArray) -> float:
    """The fourth standardised moment of the population, less the 3 of a normal distribution."""
    return _moment(returns, 4) - 3


def kelly_discrete(returns: FloatArray) -> float:
    """Kelly's fraction from the wins and losses there were, see ``kelly_fraction``."""
    return kelly_fraction(list(_known(returns)))


def kelly_continuous(returns: FloatArray) -> float:
    """Kelly's fraction for returns taken as normal: mean over sample variance (n - 1). Above 1 it says to borrow."""
    known = _known(returns)
    return _ratio(float(known.mean()), _deviation(known) ** 2) if len(known) > 1 else NAN


def value_at_risk(returns: FloatArray, tail: float = 0.05) -> float:
    """The return that the worst ``tail`` of periods stay below, linearly interpolated; a loss is negative."""
    return quantile(_known(returns), tail) if len(_known(returns)) else NAN


def value_at_risk_normal(returns: FloatArray, tail: float = 0.05) -> float:
    """The same, of a normal distribution with the mean and the sample standard deviation (n - 1) of the returns."""
    known = _known(returns)
    return float(known.mean()) + NormalDist().inv_cdf(tail) * _deviation(known) if len(known) > 1 else NAN


def conditional_value_at_risk(returns: FloatArray, tail: float = 0.05) -> float:
    """The mean of the worst int((n - 1) * tail) + 1 returns: the convention that limits go by, see ``tail_mean``."""
    return tail_mean(_known(returns), tail) if len(_known(returns)) else NAN


def mean_below_value_at_risk(returns: FloatArray, tail: float = 0.05) -> float:
    """The other convention: the mean of the returns at or below the value at risk. Shown for comparison only."""
    known = _known(returns)
    return float(known[known <= quantile(known, tail)].mean()) if len(known) else NAN


def tail_ratio(returns: FloatArray, tail: float = 0.05) -> float:
    """How far the best ``tail`` of periods reach up, over how far the worst reach down."""
    known = _known(returns)
    return _ratio(abs(quantile(known, 1 - tail)), abs(quantile(known, tail))) if len(known) else NAN


def stability(returns: FloatArray) -> float:
    """How straight the logarithm of the equity grows: R squared of its linear fit, 1 for a line."""
    known = _known(returns)
    if len(known) < 2:
        return NAN
    steps, heights = np.arange(len(known), dtype=np.float64), np.log1p(known).cumsum()
    steps, heights = steps - steps.mean(), heights - heights.mean()
    return _ratio(float(steps @ heights) ** 2, float(steps @ steps) * float(heights @ heights))


def beta(returns: FloatArray, benchmark: FloatArray) -> float:
    """How many times the benchmark's moves the returns repeat: their covariance over its variance."""
    ours, theirs = _both_known(returns, benchmark)
    if len(ours) < 2:
        return NAN
    moves = theirs - theirs.mean()
    return _ratio(float(moves @ (ours - ours.mean())), float(moves @ moves))


def alpha(returns: FloatArray, benchmark: FloatArray, periods: float) -> float:
    """The yearly return that the benchmark's moves do not explain, compounded from the mean of a period."""
    ours, theirs = _both_known(returns, benchmark)
    return float((1 + (ours - beta(ours, theirs) * theirs).mean()) ** periods - 1) if len(ours) > 1 else NAN


def capture(returns: FloatArray, benchmark: FloatArray, periods: float) -> float:
    """The yearly return over the benchmark's."""
    return _ratio(cagr(returns, periods), cagr(benchmark, periods))


def up_capture(returns: FloatArray, benchmark: FloatArray, periods: float) -> float:
    """The same, over the periods only in which the benchmark gained."""
    return capture(returns[benchmark > 0], benchmark[benchmark > 0], periods)


def down_capture(returns: FloatArray, benchmark: FloatArray, periods: float) -> float:
    """The same, over the periods only in which the benchmark lost."""
    return capture(returns[benchmark < 0], benchmark[benchmark < 0], periods)


def _growth(returns: FloatArray) -> FloatArray:
    return np.asarray(np.cumprod(1 + np.nan_to_num(returns, nan=0.0)), dtype=np.float64)


def _known(returns: FloatArray) -> FloatArray:
    return np.asarray(returns[~np.isnan(returns)], dtype=np.float64)


def _both_known(ours: FloatArray, theirs: FloatArray) -> tuple[FloatArray, FloatArray]:
    if len(ours) != len(theirs):  # one is empty, or they are not of the same periods
        return np.empty(0), np.empty(0)
    known = ~(np.isnan(ours) | np.isnan(theirs))
    return ours[known], theirs[known]


def _deviation(values: FloatArray) -> float:
    if len(values) < 2:
        return NAN
    deviation = float(values.std(ddof=1))
    return deviation if deviation > ROUNDING * float(np.abs(values).max()) else 0.0


def _ratio(above: float, below: float) -> float:
    if below:
        return above / below
    return math.copysign(INFINITY, above) if above else NAN


def _moment(returns: FloatArray, order: int) -> float:
    known = _known(returns)
    centered = known - known.mean() if len(known) else known
    spread = math.sqrt(float((centered**2).mean())) if len(known) else 0.0
    return float((centered**order).mean()) / spread**order if spread else NAN
