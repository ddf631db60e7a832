"""The catalogue of indicators: each by its name, within bounds, the same whatever history it is given, and computed once."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from domain import catalogue
from domain.candles import Candles
from domain.catalogue import CATALOGUE, indicator_of
from domain.indicators import sma

HOUR_MS = 3_600_000


def walk(length: int, seed: int = 1) -> Candles:
    """A market that wanders, an hour a candle, with honest highs and lows."""
    chance = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(chance.normal(0, 0.01, length)))
    open_ = np.concatenate([[100.0], close[:-1]])[:length]
    reach = 1 + chance.random(length) / 100
    return Candles(
        np.arange(length, dtype=np.int64) * HOUR_MS, open_, np.maximum(open_, close) * reach,
        np.minimum(open_, close) / reach, close, chance.random(length) * 10,
    )  # fmt: skip


def computed(name: str, candles: Candles, **parameters: Any) -> dict[str, Any]:
    indicator = CATALOGUE[name]
    return indicator.of(candles, indicator.parameters_type.model_validate(parameters))


def test_the_catalogue_has_what_traders_ask_for() -> None:
    assert set(CATALOGUE) == {
        "sma", "ema", "wma", "stddev", "bollinger", "macd", "rsi", "roc", "stochastic", "atr", "adx", "cci", "donchian",
        "supertrend", "mfi", "obv", "vwap",
    }  # fmt: skip


@pytest.mark.parametrize("name", CATALOGUE)
@settings(max_examples=20)
@given(length=st.integers(0, 120), cut=st.integers(0, 120))
def test_no_indicator_looks_ahead(name: str, length: int, cut: int) -> None:
    candles = walk(length)

    whole, known = computed(name, candles), computed(name, candles.upto(cut))

    for output, values in whole.items():
        assert len(values) == length
        np.testing.assert_array_equal(known[output], values[:cut])


@pytest.mark.parametrize("name", sorted(set(CATALOGUE) - {"obv"}))
def test_with_its_memory_before_it_a_value_does_not_depend_on_what_came_before(name: str) -> None:
    candles, indicator = walk(4000), CATALOGUE[name]
    memory = indicator.memory(indicator.parameters_type())
    assert memory is not None
    assert memory < 2500

    whole, late = computed(name, candles), computed(name, candles.between(3000 - memory, 4000))

    for output, values in whole.items():
        np.testing.assert_allclose(late[output][memory:], values[3000:], rtol=1e-12, atol=1e-12)
        assert not np.isnan(late[output][memory:]).any()


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_indicator_says_what_it_takes_with_bounds_and_words(name: str) -> None:
    indicator = CATALOGUE[name]

    schema = indicator.parameters_type.model_json_schema()

    for told in schema["properties"].values():
        assert told["description"]
        assert "default" in told
        assert {"minimum", "exclusiveMinimum"} & set(told)
        assert "maximum" in told


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("sma", {"period": 0}, "greater than or equal to 1"),
        ("sma", {"period": 1001}, "less than or equal to 1000"),
        ("sma", {"perod": 5}, "Extra inputs are not permitted"),
        ("macd", {"fast": 26}, "wanted fast below slow, was fast=26 and slow=26"),
        ("bollinger", {"width": float("nan")}, "less than or equal to 10"),
    ],
)
def test_a_parameter_out_of_bounds_is_refused(name: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        indicator_of(walk(3), name, **parameters)


def test_the_same_candles_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    candles, other = walk(50), walk(50)
    first = indicator_of(candles, "sma", period=5)

    assert indicator_of(candles, "sma", period=5) is first
    assert indicator_of(candles, "sma", period=6) is not first
    assert indicator_of(other, "sma", period=5) is not first
    np.testing.assert_array_equal(first["sma"], sma(candles.close, 5))


def test_the_default_and_the_same_value_named_are_one() -> None:
    candles = walk(50)

    assert indicator_of(candles, "rsi") is indicator_of(candles, "rsi", period=14)


def test_what_is_shared_cannot_be_written_to() -> None:
    values = indicator_of(walk(50), "sma", period=5)["sma"]

    with pytest.raises(ValueError, match="read-only"):
        values[0] = 1


def test_what_was_computed_is_forgotten_with_its_candles() -> None:
    gc.collect()
    before = len(catalogue._memo)
    candles = walk(50)
    assert Candles.__slots__ == ("open_ms", "open", "high", "low", "close", "volume")
    indicator_of(candles, "sma", period=5)
    assert len(catalogue._memo) == before + 1

    del candles
    gc.collect()

    assert len(catalogue._memo) == before
