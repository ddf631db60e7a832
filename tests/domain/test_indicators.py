"""Indicators: small vectors worked out by hand, TA-Lib's figures on real candles, and no look at what comes later."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from domain.candles import FloatArray
from domain.indicators import atr, crossed_above, rsi, sma
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


@pytest.mark.parametrize("indicator", [sma, rsi])
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
@pytest.mark.parametrize("indicator", [sma, rsi])
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
