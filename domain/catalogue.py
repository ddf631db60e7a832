"""The indicators there are, by name: what each takes, with bounds, what it gives, and how far back it remembers.

The API's schema comes from here, and ``indicator_of`` computes each once for the same candles, whoever asks.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from domain import indicators
from domain.candles import Candles, FloatArray

LONGEST_PERIOD = 1000
# What is left of an average's seed weighs exp(-40) of it then: less than a float can tell.
_FORGOTTEN = 40


class Parameters(BaseModel):
    """What can be set of an indicator."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Period(Parameters):
    period: int = Field(default=20, ge=1, le=LONGEST_PERIOD, description="Candles it looks back.")


class WilderPeriod(Parameters):
    period: int = Field(default=14, ge=1, le=LONGEST_PERIOD, description="Candles it looks back.")


class TenPeriod(Parameters):
    period: int = Field(default=10, ge=1, le=LONGEST_PERIOD, description="Candles it looks back.")


class MacdParameters(Parameters):
    fast: int = Field(default=12, ge=1, le=LONGEST_PERIOD, description="Period of the fast average.")
    slow: int = Field(default=26, ge=2, le=LONGEST_PERIOD, description="Period of the slow average.")
    signal: int = Field(default=9, ge=1, le=LONGEST_PERIOD, description="Period of the average of their difference.")

    @model_validator(mode="after")
    def _fast_is_below_slow(self) -> Self:
        if self.fast >= self.slow:
            raise ValueError(f"wanted fast below slow, was fast={self.fast} and slow={self.slow}")
        return self


class BollingerParameters(Period):
    width: float = Field(default=2.0, gt=0, le=10, description="Standard deviations from the average to a band.")


class StochasticParameters(WilderPeriod):
    smooth: int = Field(default=3, ge=1, le=100, description="Candles that %K is averaged over.")
    signal: int = Field(default=3, ge=1, le=100, description="Candles of %K that %D is averaged over.")


class SupertrendParameters(TenPeriod):
    factor: float = Field(default=3.0, gt=0, le=20, description="Average true ranges from the middle to the line.")


class VwapParameters(Parameters):
    anchor_hour: int = Field(default=0, ge=0, le=23, description="Hour, UTC, at which its day begins.")


@dataclass(frozen=True, slots=True)
class Indicator:
    """One indicator: ``columns`` of the candles go into it and ``outputs`` come out. With ``memory`` candles before it, a
    value is what it would be with all that came before; None remembers all."""

    name: str
    title: str
    columns: tuple[str, ...]
    outputs: tuple[str, ...]
    parameters_type: type[Parameters]
    compute: Callable[..., FloatArray | tuple[FloatArray, ...]]
    memory: Callable[[Any], int | None]

    def of(self, candles: Candles, parameters: Parameters) -> dict[str, FloatArray]:
        """Its outputs along the candles. They are shared, and cannot be written to."""
        columns = (getattr(candles, name) for name in self.columns)
        found = self.compute(*columns, **parameters.model_dump())
        arrays = found if isinstance(found, tuple) else (found,)
        for array in arrays:
            array.setflags(write=False)
        return dict(zip(self.outputs, arrays, strict=True))


def indicator_of(candles: Candles, name: str, **parameters: Any) -> Mapping[str, FloatArray]:
    """The outputs of the indicator ``name`` along ``candles``: computed once for these candles and forgotten with them.
    Raises KeyError for a name that is none and pydantic's ValidationError for parameters that it does not take."""
    indicator = CATALOGUE[name]
    checked = indicator.parameters_type.model_validate(parameters)
    known = _known_of(candles)
    key = (name, checked)
    if key not in known:
        known[key] = indicator.of(candles, checked)
    return known[key]


_Known = dict[tuple[str, Parameters], dict[str, FloatArray]]
# By the identity of the candles: to compare them would cost more than most indicators. The reference takes its entry along.
_memo: dict[int, tuple[weakref.ref[Candles], _Known]] = {}


def _known_of(candles: Candles) -> _Known:
    identity = id(candles)
    entry = _memo.get(identity)
    if entry is None or entry[0]() is not candles:
        entry = weakref.ref(candles, lambda _: _memo.pop(identity, None)), {}
        _memo[identity] = entry
    return entry[1]


def _window(parameters: Any) -> int:
    return int(parameters.period) - 1


def _changes(parameters: Any) -> int:
    return int(parameters.period)


def _exponential(period: int) -> int:
    return period + math.ceil(_FORGOTTEN * (period + 1) / 2)


def _wilder(parameters: Any) -> int:
    return int(parameters.period) * (_FORGOTTEN + 1)


CLOSE, RANGE = ("close",), ("high", "low", "close")

CATALOGUE: dict[str, Indicator] = {
    one.name: one
    for one in (
        Indicator("sma", "Simple moving average", CLOSE, ("sma",), Period, indicators.sma, _window),
        Indicator(
            "ema", "Exponential moving average", CLOSE, ("ema",), Period, indicators.ema, lambda p: _exponential(p.period)
        ),
        Indicator("wma", "Weighted moving average", CLOSE, ("wma",), Period, indicators.wma, _window),
        Indicator("stddev", "Standard deviation", CLOSE, ("stddev",), Period, indicators.stddev, _window),
        Indicator(
            "bollinger", "Bollinger bands", CLOSE, ("upper", "middle", "lower"), BollingerParameters, indicators.bollinger,
            _window,
        ),
        Indicator(
            "macd", "Moving average convergence and divergence", CLOSE, ("macd", "signal", "histogram"), MacdParameters,
            indicators.macd, lambda p: _exponential(p.slow) + _exponential(p.signal),
        ),
        Indicator("rsi", "Relative strength index", CLOSE, ("rsi",), WilderPeriod, indicators.rsi, _wilder),
        Indicator("roc", "Rate of change, %", CLOSE, ("roc",), TenPeriod, indicators.roc, _changes),
        Indicator(
            "stochastic", "Stochastic oscillator", RANGE, ("k", "d"), StochasticParameters, indicators.stochastic,
            lambda p: p.period + p.smooth + p.signal,
        ),
        Indicator("atr", "Average true range", RANGE, ("atr",), WilderPeriod, indicators.atr, _wilder),
        Indicator(
            "adx", "Average directional index", RANGE, ("adx", "plus_di", "minus_di"), WilderPeriod, indicators.adx,
            lambda p: 2 * _wilder(p),
        ),
        Indicator("cci", "Commodity channel index", RANGE, ("cci",), Period, indicators.cci, _window),
        Indicator(
            "donchian", "Donchian channel", ("high", "low"), ("upper", "middle", "lower"), Period, indicators.donchian,
            _window,
        ),
        # Its bands forget what came before when the close has crossed the line.
        Indicator(
            "supertrend", "Supertrend", RANGE, ("supertrend", "direction"), SupertrendParameters, indicators.supertrend,
            lambda p: _wilder(p) + 500,
        ),
        Indicator("mfi", "Money flow index", (*RANGE, "volume"), ("mfi",), WilderPeriod, indicators.mfi, _changes),
        Indicator("obv", "On-balance volume", ("close", "volume"), ("obv",), Parameters, indicators.obv, lambda p: None),
        Indicator(
            "vwap", "Average price of the day by volume", ("open_ms", *RANGE, "volume"), ("vwap",), VwapParameters,
            indicators.vwap, lambda p: 24 * 60,
        ),
    )
}  # fmt: skip
