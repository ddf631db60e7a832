"""How markets moved, as limits measure it: from the candles there are, side by side, or not at all."""

from __future__ import annotations

from datetime import timedelta

import pytest

from domain.candles import Timeframe
from money.history import returns_of
from tests.factories import NOON, make_candles, make_exchange, make_feed, make_market

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)


def closes(count: int, step: float = 1.0) -> list[float]:
    return [100.0 + step * number for number in range(count)]


def candles_of(symbol: str, timeframe: Timeframe, prices: list[float], until: timedelta = timedelta(0)) -> None:
    """Candles of which the last closed at noon, or ``until`` after it."""
    feed = make_feed(make_market(symbol=symbol), timeframe)
    make_candles(feed, prices, NOON + until - timeframe.length)


def test_hourly_closes_of_all_markets_make_returns_side_by_side() -> None:
    candles_of("BTC/USDT", Timeframe.H1, closes(40))
    candles_of("ETH/USDT", Timeframe.H1, closes(35, -1))

    returns = returns_of(make_exchange().pk, {"BTC/USDT", "ETH/USDT"})

    assert returns is not None
    assert (returns.period, returns.matrix.shape) == (HOUR, (34, 2))
    last = dict(zip(returns.markets, returns.matrix[-1].tolist(), strict=True))
    assert last == pytest.approx({"BTC/USDT": 139 / 138 - 1, "ETH/USDT": 66 / 67 - 1}, rel=1e-12)


def test_shorter_candles_tell_the_closes_of_hours() -> None:
    candles_of("BTC/USDT", Timeframe.M15, closes(4 * 31))

    returns = returns_of(make_exchange().pk, {"BTC/USDT"})

    assert returns is not None
    assert (returns.period, returns.matrix.shape) == (HOUR, (30, 1))
    assert returns.matrix[-1].tolist() == pytest.approx([223 / 219 - 1], rel=1e-12)


def test_a_market_of_long_candles_makes_all_be_measured_by_them() -> None:
    candles_of("BTC/USDT", Timeframe.H1, closes(4 * 31))
    candles_of("ETH/USDT", Timeframe.H4, closes(40))

    returns = returns_of(make_exchange().pk, {"BTC/USDT", "ETH/USDT"})

    assert returns is not None
    assert (returns.period, returns.matrix.shape) == (4 * HOUR, (30, 2))


def test_a_gap_is_no_return_of_an_hour() -> None:
    candles_of("BTC/USDT", Timeframe.H1, closes(20), until=-30 * HOUR)
    candles_of("BTC/USDT", Timeframe.H1, closes(20, 2))

    returns = returns_of(make_exchange().pk, {"BTC/USDT"})

    assert returns is not None
    assert returns.matrix.shape == (38, 1)
    assert round(float(returns.matrix.max()), 12) == 0.02


@pytest.mark.parametrize("count", [0, 1, 30])
def test_too_few_closes_are_no_history(count: int) -> None:
    candles_of("BTC/USDT", Timeframe.H1, closes(40))
    candles_of("ETH/USDT", Timeframe.H1, closes(count)) if count else make_market(symbol="ETH/USDT")

    assert returns_of(make_exchange().pk, {"BTC/USDT", "ETH/USDT"}) is None


def test_candles_of_other_times_are_no_common_history() -> None:
    candles_of("BTC/USDT", Timeframe.H1, closes(40))
    candles_of("ETH/USDT", Timeframe.H1, closes(40), until=-30 * HOUR)

    assert returns_of(make_exchange().pk, {"BTC/USDT", "ETH/USDT"}) is None
