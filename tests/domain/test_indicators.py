"""Indicators: small vectors worked out by hand, TA-Lib's figures on real candles, and no look at what comes later."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from domain.candles import FloatArray
from domain.indicators import (
    adx,
    atr,
    bollinger,
    cci,
    crossed_above,
    donchian,
    ema,
    macd,
    mfi,
    obv,
    roc,
    rsi,
    sma,
    stddev,
    stochastic,
    supertrend,
    vwap,
    wma,
)
from tests.domain.reference import reference_columns, reference_json

NAN = float("nan")
BITCOIN_HOURS = "market/binance_spot_1h/BTC_USDT-1h.csv.gz"
TALIB_FIGURES = "expected/indicators/talib_BTC_1h_first1500.csv.gz"

Indicator = Callable[[FloatArray, int], FloatArray]
walks = arrays.arrays(np.float64, st.integers(0, 60), elements=st.floats(1, 100_000, allow_nan=False, width=32))


def floats(*values: float) -> FloatArray:
    return np.array(values, dtype=np.float64)


@pytest.mark.parametrize(
    ("period", "expected"),
    [
        (1, [2, 4, 6, 8, 4]),
        (2, [NAN, 3, 5, 7, 6]),
        (4, [NAN, NAN, NAN, 5, 5.5]),
        (5, [NAN, NAN, NAN, NAN, 4.8]),
        (6, [NAN, NAN, NAN, NAN, NAN]),
    ],
)
def test_an_average_is_the_mean_of_its_window(period: int, expected: list[float]) -> None:
    np.testing.assert_array_equal(sma(floats(2, 4, 6, 8, 4), period), expected)


def test_an_average_forgets_a_gap_that_has_left_its_window() -> None:
    np.testing.assert_array_equal(sma(floats(1, NAN, 3, 5), 2), [NAN, NAN, NAN, 4])


def test_strength_is_seeded_with_plain_means_and_smoothed_by_wilder() -> None:
    # Changes +1 -1 +2 -1 +3. Mean gain and loss: .5 .5, then 1.25 .25, then .625 .625, then 1.8125 .3125.
    strength = rsi(floats(10, 11, 10, 12, 11, 14), 2)

    np.testing.assert_allclose(strength, [NAN, NAN, 50, 100 * 1.25 / 1.5, 50, 100 * 1.8125 / 2.125], rtol=1e-15)


@pytest.mark.parametrize(
    ("closes", "expected"),
    [
        (floats(1, 2, 3, 4), [NAN, NAN, 100, 100]),
        (floats(4, 3, 2, 1), [NAN, NAN, 0, 0]),
        (floats(5, 5, 5, 5), [NAN, NAN, 0, 0]),
        (floats(0, 0, 0.17), [NAN, NAN, 100]),  # and not a rounding error beside it
        (floats(5, 6), [NAN, NAN]),
        (floats(), []),
    ],
)
def test_strength_at_its_limits(closes: FloatArray, expected: list[float]) -> None:
    np.testing.assert_array_equal(rsi(closes, 2), expected)


@pytest.mark.parametrize("indicator", [sma, wma, ema, stddev, roc, rsi])
@pytest.mark.parametrize("period", [0, -3])
def test_a_period_below_one_is_refused(indicator: Indicator, period: int) -> None:
    with pytest.raises(ValueError, match=f"wanted a period of at least 1, was {period}"):
        indicator(floats(1, 2, 3), period)


@pytest.mark.parametrize(
    ("fast", "slow", "expected"),
    [
        ([1, 3], [2, 2], [False, True]),
        ([2, 3], [2, 2], [False, True]),  # from level counts
        ([3, 3], [2, 2], [False, False]),  # above before already
        ([1, 2], [2, 2], [False, False]),  # to level does not
        ([3, 1, 3, 3], [2, 2, 2, 2], [False, False, True, False]),
        ([NAN, 3], [2, 2], [False, False]),
        ([1, 3], [NAN, 2], [False, False]),
        ([3, NAN, 3], [2, 2, 2], [False, False, False]),
        ([3], [2], [False]),
        ([], [], []),
    ],
)
def test_a_crossing_is_above_now_and_not_above_before(
    fast: list[float], slow: list[float], expected: list[bool]
) -> None:
    assert crossed_above(floats(*fast), floats(*slow)).tolist() == expected


@given(values=walks, period=st.integers(1, 20), data=st.data())
@pytest.mark.parametrize("indicator", [sma, wma, ema, stddev, roc, rsi])
def test_no_value_depends_on_what_comes_later(
    indicator: Indicator, values: FloatArray, period: int, data: st.DataObject
) -> None:
    length = data.draw(st.integers(0, len(values)))

    known, all_along = indicator(values[:length], period), indicator(values, period)

    assert len(all_along) == len(values)
    np.testing.assert_array_equal(known, all_along[:length])


@given(values=walks, period=st.integers(1, 20), data=st.data())
def test_an_average_does_not_depend_on_what_came_before_its_window(
    values: FloatArray, period: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(values)))

    late = sma(values[start:], period)

    np.testing.assert_array_equal(late[period - 1 :], sma(values, period)[start + period - 1 :])


@pytest.mark.parametrize("period", [1, 2, 3, 7, 20, 50, 127, 200])
def test_what_is_made_of_parts_of_a_window_is_what_is_made_of_the_window(period: int) -> None:
    values = np.random.default_rng(3).lognormal(8, 1, 9000)  # longer than what is worked on at once
    windows = np.lib.stride_tricks.sliding_window_view(values, period)
    upper, _, lower = donchian(values, values, period)
    np.testing.assert_array_equal(upper[period - 1 :], windows.max(axis=1))
    np.testing.assert_array_equal(lower[period - 1 :], windows.min(axis=1))
    np.testing.assert_allclose(sma(values, period)[period - 1 :], windows.mean(axis=1), rtol=1e-14)
    np.testing.assert_allclose(stddev(values, period)[period - 1 :], windows.std(axis=1), rtol=1e-12)
    assert np.isnan(sma(values, period)[: period - 1]).all()
    assert np.isnan(stddev(values, period)[: period - 1]).all()


def test_a_deviation_keeps_its_digits_however_large_the_prices_are() -> None:
    small = np.tile([1.0, 2.0, 4.0], 30)
    np.testing.assert_allclose(stddev(small + 1e9, 20)[19:], stddev(small, 20)[19:], rtol=1e-13)
    assert stddev(np.full(100, 0.1), 50)[-1] == 0


@given(values=walks, period=st.integers(1, 20))
def test_values_are_defined_from_the_first_full_window_and_stay_in_their_range(values: FloatArray, period: int) -> None:
    average, strength = sma(values, period), rsi(values, period)

    assert np.isnan(average).tolist() == [index < period - 1 for index in range(len(values))]
    assert np.isnan(strength).tolist() == [index < period for index in range(len(values))]
    assert np.all((strength[period:] >= 0) & (strength[period:] <= 100))


@pytest.mark.parametrize(("indicator", "period", "column"), [(sma, 20, "sma20"), (rsi, 14, "rsi14")])
def test_figures_are_talibs_on_real_candles(indicator: Indicator, period: int, column: str) -> None:
    expected = reference_columns(TALIB_FIGURES)[column]
    closes = reference_columns(BITCOIN_HOURS)["close"][: len(expected)]

    figures = indicator(closes, period)

    assert len(expected) == 1500
    np.testing.assert_allclose(figures, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("indicator", "name"), [(sma, "sma"), (rsi, "rsi")])
def test_figures_are_those_of_a_second_library(indicator: Indicator, name: str) -> None:
    vectors = reference_json("reference/indicators/tulip_untest.json")["vectors"]
    [case] = [vector for vector in vectors if vector["indicator"] == name]
    values, expected = (floats(*array) for array in case["arrays"])

    figures = indicator(values, int(case["options"][0]))

    # Rounded to three decimals there.
    np.testing.assert_allclose(figures[~np.isnan(figures)], expected, rtol=0, atol=6e-4)


def test_a_true_range_reaches_back_to_the_close_before_and_is_smoothed_by_wilder() -> None:
    high, low, close = floats(10, 12, 11, 15, 9), floats(8, 9, 10, 14, 8), floats(9, 11, 10, 15, 8)

    # True ranges 3, 1, 5 (14 to 15, from 10) and 7 (15 down to 8): their mean of two, then (2 + 5) / 2, (3.5 + 7) / 2.
    np.testing.assert_array_equal(atr(high, low, close, 2), [NAN, NAN, 2, 3.5, 5.25])


@pytest.mark.parametrize("length", [0, 1, 14])
def test_a_range_of_too_few_candles_is_undefined(length: int) -> None:
    flat = np.full(length, 5.0)

    assert np.isnan(atr(flat, flat, flat, 14)).all()
    assert len(atr(flat, flat, flat, 14)) == length


def test_ranges_are_talibs_on_real_candles() -> None:
    expected = reference_columns(TALIB_FIGURES)["atr14"]
    candles = {name: column[: len(expected)] for name, column in reference_columns(BITCOIN_HOURS).items()}

    figures = atr(candles["high"], candles["low"], candles["close"], 14)

    np.testing.assert_allclose(figures, expected, rtol=0, atol=1e-6)  # as many digits as the file has
    assert np.isnan(figures).tolist() == [index < 14 for index in range(1500)]


# What TA-Lib is asked for in the file of its figures, and ours of it; where it has no value there, we have none.
TALIB_CASES: dict[str, Callable[[dict[str, FloatArray]], FloatArray]] = {
    "wma20": lambda c: wma(c["close"], 20),
    "stddev20": lambda c: stddev(c["close"], 20),
    "ema12": lambda c: ema(c["close"], 12),
    "ema26": lambda c: ema(c["close"], 26),
    "macd": lambda c: macd(c["close"], 12, 26, 9)[0],
    "macd_signal": lambda c: macd(c["close"], 12, 26, 9)[1],
    "macd_hist": lambda c: macd(c["close"], 12, 26, 9)[2],
    "bb_up": lambda c: bollinger(c["close"], 20, 2)[0],
    "bb_mid": lambda c: bollinger(c["close"], 20, 2)[1],
    "bb_low": lambda c: bollinger(c["close"], 20, 2)[2],
    "roc10": lambda c: roc(c["close"], 10),
    "stoch_k": lambda c: stochastic(c["high"], c["low"], c["close"], 14, 3, 3)[0],
    "stoch_d": lambda c: stochastic(c["high"], c["low"], c["close"], 14, 3, 3)[1],
    "adx14": lambda c: adx(c["high"], c["low"], c["close"], 14)[0],
    "plus_di14": lambda c: adx(c["high"], c["low"], c["close"], 14)[1],
    "minus_di14": lambda c: adx(c["high"], c["low"], c["close"], 14)[2],
    "cci20": lambda c: cci(c["high"], c["low"], c["close"], 20),
    "mfi14": lambda c: mfi(c["high"], c["low"], c["close"], c["volume"], 14),
    "obv": lambda c: obv(c["close"], c["volume"]),
}


@pytest.mark.parametrize("column", TALIB_CASES)
def test_each_figure_is_talibs_as_far_as_its_file_has_digits(column: str) -> None:
    expected = reference_columns(TALIB_FIGURES)[column]
    candles = {name: values[:1500] for name, values in reference_columns(BITCOIN_HOURS).items()}

    figures = TALIB_CASES[column](candles)

    np.testing.assert_allclose(figures, expected, rtol=5e-10, atol=1e-12, equal_nan=True)  # ten digits are there


TULIP_CASES: dict[str, Callable[..., FloatArray | tuple[FloatArray, ...]]] = {
    "wma": lambda values, period: wma(values, period),
    "stddev": lambda values, period: stddev(values, period),
    "roc": lambda values, period: roc(values, period) / 100,
    "bbands": lambda values, period, width: bollinger(values, period, width)[::-1],
    "cci": lambda high, low, close, period: cci(high, low, close, period),
    "mfi": lambda high, low, close, volume, period: mfi(high, low, close, volume, period),
    "stoch": lambda high, low, close, *periods: stochastic(high, low, close, *periods),
    "max": lambda values, period: donchian(values, values, period)[0],
    "min": lambda values, period: donchian(values, values, period)[2],
}


@pytest.mark.parametrize("name", TULIP_CASES)
def test_each_figure_is_that_of_a_second_library(name: str) -> None:
    vectors = reference_json("reference/indicators/tulip_untest.json")["vectors"]
    [case] = [vector for vector in vectors if vector["indicator"] == name]
    options = [int(option) for option in case["options"]]
    arrays = [floats(*array) for array in case["arrays"]]

    found = TULIP_CASES[name](*arrays[: _inputs(arrays)], *options)

    figures = found if isinstance(found, tuple) else (found,)
    for figure, expected in zip(figures, arrays[_inputs(arrays) :], strict=True):
        # Three decimals there, and some begin later than they could.
        assert np.count_nonzero(~np.isnan(figure)) >= len(expected)
        np.testing.assert_allclose(figure[-len(expected) :], expected, rtol=0, atol=6e-4)


def _inputs(arrays: list[FloatArray]) -> int:
    """How many of a vector's arrays are as long as the first: the rest are shorter by the warm-up."""
    return sum(len(array) == len(arrays[0]) for array in arrays)


def test_a_trend_is_that_of_a_third_library() -> None:
    reference = reference_json("reference/indicators/jesse_last_values.json")
    [case] = [vector for vector in reference["vectors"] if vector["indicator"] == "supertrend"]
    table = np.array(reference["candles"][case["candles"]], dtype=np.float64)
    close, high, low = table[:, 2], table[:, 3], table[:, 4]

    line, direction = supertrend(high, low, close, 10, 3)

    assert round(float(line[-1]), 2) == case["expected_last"] == 228.45
    assert direction[-1] == -1


def test_an_exponential_average_is_seeded_with_a_plain_mean() -> None:
    # The mean of 2, 4 and 6, then half of the way to each that follows.
    np.testing.assert_array_equal(ema(floats(2, 4, 6, 8, 10), 3), [NAN, NAN, 4, 6, 8])


def test_a_channel_spans_its_window_with_this_candle() -> None:
    upper, middle, lower = donchian(floats(5, 7, 6, 9), floats(1, 3, 2, 4), 2)

    np.testing.assert_array_equal(upper, [NAN, 7, 7, 9])
    np.testing.assert_array_equal(middle, [NAN, 4, 4.5, 5.5])
    np.testing.assert_array_equal(lower, [NAN, 1, 2, 2])


def test_a_trend_changes_sides_when_the_close_crosses_its_line() -> None:
    close = floats(10, 10, 10, 20, 21, 8)

    line, direction = supertrend(close + 1, close - 1, close, 2, 1)

    # True ranges 2, 2, 11, 2, 14: averages 2, 6.5, 4.25, 9.125. The rise to 20 crosses 12; the line trails to 16.75 and stays
    # there while it would fall to 8 - 9.125; 8 crosses it, and the line is above again.
    np.testing.assert_array_equal(direction, [NAN, NAN, -1, 1, 1, -1])
    np.testing.assert_array_equal(line, [NAN, NAN, 12, 13.5, 16.75, 17.125])


def test_a_days_average_begins_with_the_day_and_is_unknown_in_a_day_that_is_not_whole() -> None:
    hours = np.array([22, 23, 24, 25, 48], dtype=np.int64) * 3_600_000
    price, volume = floats(1, 2, 10, 20, 7), floats(1, 1, 1, 3, 2)

    average = vwap(hours, price, price, price, volume)
    whole = vwap(hours[2:], price[2:], price[2:], price[2:], volume[2:])
    at_eleven = vwap(hours, price, price, price, volume, 23)

    np.testing.assert_array_equal(average, [NAN, NAN, 10, 17.5, 7])
    np.testing.assert_array_equal(whole, [10, 17.5, 7])
    np.testing.assert_array_equal(at_eleven, [NAN, 2, 6, 14.4, 7])


def test_a_market_without_moves_or_trades_divides_by_nothing() -> None:
    flat, nothing = np.full(60, 5.0), np.zeros(60)
    midnights = np.arange(60, dtype=np.int64) * 86_400_000

    figures = (
        *stochastic(flat, flat, flat, 5, 3, 3), *adx(flat, flat, flat, 5), cci(flat, flat, flat, 5),
        mfi(flat, flat, flat, nothing, 5), roc(nothing, 5), obv(flat, nothing), stddev(flat, 5),
    )  # fmt: skip

    assert [set(figure[~np.isnan(figure)].tolist()) for figure in figures] == [{0.0}] * len(figures)
    assert np.isnan(vwap(midnights, flat, flat, flat, nothing)).all()
