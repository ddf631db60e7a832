"""The few indicators that strategies import as ``qtpylib``, on pandas' series and frames."""

from __future__ import annotations

import importlib
from typing import Any


def pandas() -> Any:
    """The package, which is an extra: nothing that does without strategies of freqtrade waits for its import."""
    return importlib.import_module("pandas")


def crossed(series1: Any, series2: Any, direction: str | None = None) -> Any:
    """Where ``series1`` crosses ``series2``, a series or a number: "above", "below", or either way."""
    other = series2 if isinstance(series2, pandas().Series) else pandas().Series(series2, index=series1.index)
    above = (series1 > other) & (series1.shift(1) <= other.shift(1))
    below = (series1 < other) & (series1.shift(1) >= other.shift(1))
    return above if direction == "above" else below if direction == "below" else above | below


def crossed_above(series1: Any, series2: Any) -> Any:
    return crossed(series1, series2, "above")


def crossed_below(series1: Any, series2: Any) -> Any:
    return crossed(series1, series2, "below")


def typical_price(bars: Any) -> Any:
    """A third of high, low and close together."""
    return (bars["high"] + bars["low"] + bars["close"]) / 3


def rolling_mean(series: Any, window: int = 200, min_periods: int | None = None) -> Any:
    return series.rolling(window, min_periods=min_periods or window).mean()


def rolling_std(series: Any, window: int = 200, min_periods: int | None = None) -> Any:
    """Of the sample: one less than the window in the divisor."""
    return series.rolling(window, min_periods=min_periods or window).std()


def bollinger_bands(series: Any, window: int = 20, stds: float = 2) -> Any:
    """A frame of ``upper``, ``mid`` and ``lower``: the average and so many deviations of the sample around it."""
    mid, width = rolling_mean(series, window), rolling_std(series, window)
    return pandas().DataFrame({"upper": mid + stds * width, "mid": mid, "lower": mid - stds * width})


def heikinashi(bars: Any) -> Any:
    """Candles of averages: a close is that of the candle's four prices, an open halves the way of the candle before."""
    close = (bars["open"] + bars["high"] + bars["low"] + bars["close"]) / 4
    opens: list[float] = []
    for open_, close_ in zip(bars["open"], bars["close"], strict=True):
        opens.append((open_ + close_) / 2 if not opens else (opens[-1] + close.iloc[len(opens) - 1]) / 2)
    open_series = pandas().Series(opens, index=bars.index)
    return pandas().DataFrame(
        {
            "open": open_series,
            "high": pandas().concat([bars["high"], open_series, close], axis=1).max(axis=1),
            "low": pandas().concat([bars["low"], open_series, close], axis=1).min(axis=1),
            "close": close,
        }
    )
