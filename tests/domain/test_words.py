"""What a strategy says beside its signals counts alike, to the last digit, for whoever acts on it."""

from __future__ import annotations

from decimal import Decimal
from math import inf, nan

import numpy as np
import pytest

from domain.market import MarketRules
from domain.strategy import SignalArrays
from domain.words import confidence_said, level_said, range_said, signals_said

D = Decimal
RULES = MarketRules("BTC/USDT", "BTC", "USDT", tick_size=D("0.1"), lot_size=D("0.00001"))


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.1234565, "0.123456"), (0.1234575, "0.123458"), (1.7, "1"), (-0.2, "0"), (nan, None), (inf, None)],
)
def test_certainty_has_six_decimals_between_nothing_and_all(value: float, said: str | None) -> None:
    assert confidence_said(value) == (None if said is None else D(said))


@pytest.mark.parametrize(
    ("value", "said"),
    [(100.19, "100.1"), (0.3, "0.3"), (0.09, None), (0.0, None), (-5.0, None), (nan, None), (inf, None), (1e18, None)],
)
def test_a_level_is_a_price_of_the_market(value: float, said: str | None) -> None:
    assert level_said(value, RULES) == (None if said is None else D(said))


def test_without_rules_a_level_is_as_it_was_said() -> None:
    assert level_said(100.19, None) == D("100.19")
    assert level_said(nan, None) is None


def test_a_range_has_ten_digits() -> None:
    assert range_said(123.45678901234) == D("123.456789")
    assert range_said(0.000123456789012) == D("0.000123456789")
    assert range_said(nan) is None


def test_words_count_beside_entries_only() -> None:
    entries = np.array([0, 1, -1, 1], dtype=np.int8)
    said = SignalArrays(
        entries, np.zeros(4, dtype=np.int8), confidence=np.array([0.5, 0.12345649, nan, 2.0]),
        stops=np.array([90.0, 90.19, 110.0, nan]), targets=np.array([99.0, nan, 80.05, 0.0]),
    )  # fmt: skip

    told = signals_said(said, RULES)

    assert told.entries is entries
    assert told.confidence is not None
    assert told.stops is not None
    assert told.targets is not None
    np.testing.assert_array_equal(told.confidence, [nan, 0.123456, nan, 1.0])
    np.testing.assert_array_equal(told.stops, [nan, 90.1, 110.0, nan])
    np.testing.assert_array_equal(told.targets, [nan, nan, 80.0, nan])


def test_signals_without_words_are_as_they_were() -> None:
    said = SignalArrays(np.ones(2, dtype=np.int8), np.zeros(2, dtype=np.int8))

    assert signals_said(said, RULES) is said
