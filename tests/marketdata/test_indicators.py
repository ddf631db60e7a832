"""Indicators of a feed: the same value whatever span is asked for, computed once, and again when a candle comes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import redis
from django.db.models import F

from domain.candles import Candles, FloatArray, IntArray, Timeframe
from domain.catalogue import CATALOGUE, Indicator, Parameters
from exchanges import shared
from marketdata import indicators
from marketdata.indicators import BLOCK, KEPT, indicator_values
from marketdata.models import Candle, Feed
from marketdata.services import candles_window
from tests.conftest import Bells
from tests.factories import NOON, make_candles, make_feed

LENGTH = 3000
MINUTE_MS = 60_000


@pytest.fixture(autouse=True)
def _nothing_kept(bells: Bells) -> Iterator[None]:
    """No block of an earlier test's, in this process or in Redis."""
    indicators._here.clear()
    yield
    indicators._here.clear()


@pytest.fixture
def feed(db: None) -> Feed:
    """A market that wandered for 3,000 minutes until noon: three blocks and part of one."""
    feed = make_feed()
    steps = np.random.default_rng(7).normal(0, 0.001, LENGTH)
    make_candles(feed, np.round(50_000 * np.exp(np.cumsum(steps)), 2).tolist(), NOON)
    feed.refresh_from_db()
    return feed


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many candles each computation was made from, in turn."""
    lengths: list[int] = []
    real = Indicator.of

    def of(self: Indicator, candles: Candles, parameters: Parameters) -> dict[str, FloatArray]:
        lengths.append(len(candles))
        return real(self, candles, parameters)

    monkeypatch.setattr(Indicator, "of", of)
    return lengths


def opens(feed: Feed, start: int = 0, end: int = LENGTH) -> IntArray:
    """The open times of the candles from the ``start``-th to before the ``end``-th."""
    first = int(NOON.timestamp() * 1000) - (LENGTH - 1) * MINUTE_MS
    return first + np.arange(start, end, dtype=np.int64) * MINUTE_MS


def values(feed: Feed, name: str, open_ms: IntArray, **parameters: Any) -> dict[str, FloatArray]:
    indicator = CATALOGUE[name]
    return indicator_values(feed, indicator, indicator.parameters_type.model_validate(parameters), open_ms)


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_value_is_that_of_the_whole_history(feed: Feed, name: str) -> None:
    candles = candles_window(feed.pk, LENGTH)
    whole = CATALOGUE[name].of(candles, CATALOGUE[name].parameters_type())

    found = values(feed, name, opens(feed))

    assert list(found) == list(whole)
    for output, expected in whole.items():
        np.testing.assert_allclose(found[output], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_value_has_the_same_bits_whatever_span_it_is_asked_for_in(feed: Feed, name: str) -> None:
    whole = values(feed, name, opens(feed))
    for start, end in ((0, 1), (2500, 2600), (900, 2100), (2999, 3000)):
        indicators._here.clear()
        Feed.objects.filter(pk=feed.pk).update(changes=F("changes") + 1)  # so that Redis has none either
        feed.refresh_from_db()

        part = values(feed, name, opens(feed, start, end))

        for output, expected in whole.items():
            np.testing.assert_array_equal(part[output], expected[start:end])


def test_what_was_computed_is_not_computed_again(
    feed: Feed, computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indicators, "KEPT", 1 << 60)  # so many places in Redis that no two of four blocks fall into one
    first = values(feed, "sma", opens(feed), period=5)
    assert len(computed) == 4
    assert max(computed) == BLOCK + 4  # its own candles and what is remembered, whatever was asked for with it

    values(feed, "sma", opens(feed, 100, 200), period=5)
    indicators._here.clear()
    from_redis = values(feed, "sma", opens(feed), period=5)

    assert len(computed) == 4
    np.testing.assert_array_equal(from_redis["sma"], first["sma"])


def test_other_parameters_indicators_and_feeds_are_computed_for_themselves(feed: Feed, computed: list[int]) -> None:
    other = make_feed(timeframe=Timeframe.H1, last_open_at=NOON)
    for one, name, parameters in (
        (feed, "sma", {"period": 5}),
        (feed, "sma", {"period": 6}),
        (feed, "wma", {"period": 5}),
    ):
        values(one, name, opens(feed, 2990), **parameters)
    values(other, "sma", opens(feed, 2990), period=5)

    assert len(computed) == 4


def test_a_new_candle_costs_the_last_block_only(feed: Feed, computed: list[int]) -> None:
    before = values(feed, "sma", opens(feed), period=5)
    computed.clear()
    make_candles(feed, [51_000.0], NOON + timedelta(minutes=1))
    feed.refresh_from_db()

    after = values(feed, "sma", opens(feed, 0, LENGTH + 1), period=5)

    assert len(computed) == 1
    assert computed[0] <= BLOCK + 4
    np.testing.assert_array_equal(after["sma"][:-1], before["sma"])
    assert after["sma"][-1] == candles_window(feed.pk, 5).close.mean()


def test_a_changed_candle_changes_the_values_from_it_on(feed: Feed, computed: list[int]) -> None:
    before = values(feed, "sma", opens(feed), period=5)["sma"]
    at = NOON - timedelta(minutes=LENGTH - 1 - 1000)
    Candle.objects.filter(feed=feed, open_at=at).update(close=1)
    Feed.objects.filter(pk=feed.pk).update(changes=F("changes") + 1)
    feed.refresh_from_db()

    after = values(feed, "sma", opens(feed), period=5)["sma"]

    assert np.flatnonzero(before != after).tolist() == [*range(4), *range(1000, 1005)]  # the first four are NaN


def test_a_candle_after_the_last_that_the_feed_knows_of_is_not_looked_at(feed: Feed) -> None:
    last = values(feed, "sma", opens(feed, LENGTH - 1), period=1)["sma"]
    Feed.objects.filter(pk=feed.pk).update(last_open_at=NOON - timedelta(minutes=1))
    feed.refresh_from_db()

    unknown = values(feed, "sma", opens(feed, LENGTH - 1), period=1)["sma"]

    assert not np.isnan(last).any()
    assert np.isnan(unknown).all()


def test_where_there_is_no_candle_there_is_no_value(feed: Feed) -> None:
    Candle.objects.filter(feed=feed, open_at=NOON - timedelta(minutes=3)).delete()

    found = values(feed, "sma", opens(feed, LENGTH - 5, LENGTH + 5), period=1)["sma"]

    assert np.isnan(found).tolist() == [False, True, False, False, False] + [True] * 5


def test_a_feed_that_never_had_a_candle_has_no_values(db: None) -> None:
    feed = make_feed()

    assert np.isnan(values(feed, "ema", opens(feed, 0, 3))["ema"]).all()


def test_without_redis_every_process_computes_its_own(
    feed: Feed, computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = values(feed, "rsi", opens(feed))["rsi"]

    def away() -> None:
        raise redis.ConnectionError("away")

    monkeypatch.setattr(shared, "client", away)
    monkeypatch.setattr(shared, "_away_until", 0.0)
    indicators._here.clear()
    computed.clear()

    found = values(feed, "rsi", opens(feed))["rsi"]

    assert len(computed) == 4
    np.testing.assert_array_equal(found, expected)
    monkeypatch.setattr(shared, "_is_away", False)
    monkeypatch.setattr(shared, "_away_until", 0.0)


def test_what_another_block_left_in_its_place_is_not_taken_for_its_own(feed: Feed, computed: list[int]) -> None:
    expected = values(feed, "sma", opens(feed, 2990), period=5)["sma"]
    places = shared.client().keys("r3edge:indicator:*")
    assert isinstance(places, list)
    for key in places:
        raw = shared.client().get(key)
        assert isinstance(raw, bytes)
        shared.client().set(key, bytes(32) + raw[32:])
    indicators._here.clear()

    found = values(feed, "sma", opens(feed, 2990), period=5)["sma"]

    assert len(computed) == 2
    np.testing.assert_array_equal(found, expected)


def test_what_is_kept_is_bounded_and_ends(feed: Feed) -> None:
    for period in range(1, 300):
        values(feed, "sma", opens(feed, 2990), period=period)

    places = shared.client().keys("r3edge:indicator:*")

    assert isinstance(places, list)
    assert len(indicators._here) == KEPT
    assert 100 < len(places) <= KEPT
    assert all(0 < shared.client().ttl(place) <= 3600 for place in places)  # type: ignore[operator]
