"""What a strategy sees beside its own candles: all that had closed by then, and nothing that had not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.candles import Candles, FloatArray, Timeframe
from domain.informative import Facts, FundingRates, Informative, Others, TapeKind, Trades, known_from
from domain.soundness import looks_ahead_at
from domain.strategy import Parameters, SignalArrays, Strategy
from strategies.library import LIBRARY

HOUR, DAY = 3_600_000, 86_400_000
DAILY = Informative(Timeframe.D1)


def candles_from(opens_ms: Any, closes: Any = None) -> Candles:
    """Candles flat at each close; without closes, at their number."""
    opens = np.array(opens_ms, dtype=np.int64)
    close = np.arange(len(opens), dtype=np.float64) if closes is None else np.array(closes, dtype=np.float64)
    return Candles(opens, close, close, close, close, np.ones(len(opens)))


def hours(first: int, count: int) -> Candles:
    return candles_from([(first + number) * HOUR for number in range(count)])


def beside(
    candles: Candles, *given: tuple[Informative, Candles], timeframe: Timeframe = Timeframe.H1, **tapes: Any
) -> Others:
    return Others(candles, timeframe, Facts(dict(given), **tapes))


def test_a_day_is_known_from_the_candle_on_that_closes_with_it() -> None:
    days = candles_from([0, DAY, 2 * DAY], [10.0, 20.0, 30.0])
    others = beside(hours(22, 27), (DAILY, days))  # opens at 22:00 of the first day to 00:00 of the third

    aligned = others.align(DAILY, others[DAILY].close)

    assert np.isnan(aligned[0])
    assert aligned[1:25].tolist() == [10.0] * 24  # from the hour that opens at 23:00 and closes at midnight
    assert aligned[25:].tolist() == [20.0] * 2


def test_what_closes_after_the_last_base_candle_is_not_there_at_all() -> None:
    days = candles_from([0, DAY, 2 * DAY], [10.0, 20.0, 30.0])

    assert beside(hours(0, 23), (DAILY, days))[DAILY].close.tolist() == []
    assert beside(hours(0, 24), (DAILY, days))[DAILY].close.tolist() == [10.0]
    assert beside(hours(0, 71), (DAILY, days))[DAILY].close.tolist() == [10.0, 20.0]


def test_trading_begins_once_the_warm_up_of_each_feed_beside_had_closed() -> None:
    days, quarters = candles_from([0, DAY, 2 * DAY]), candles_from([number * 6 * HOUR for number in range(12)])
    two_days, six = Informative(Timeframe.D1, warm_up=2), Informative(Timeframe.H6, warm_up=3)
    facts, base = Facts({two_days: days, six: quarters}), hours(5, 70)
    # The hour that opens at 17:00 closes with the third quarter, that at 23:00 of the second day with that day.
    assert known_from(facts, [six], base, Timeframe.H1) == 18 - 5
    assert known_from(facts, [six, two_days], base, Timeframe.H1) == 48 - 5
    assert known_from(facts, [Informative(Timeframe.D1, warm_up=0)], base, Timeframe.H1) == 0
    assert known_from(facts, [], base, Timeframe.H1) == 0
    # Never: too few of them, or none at all.
    assert known_from(Facts({DAILY: days.upto(0)}), [DAILY], base, Timeframe.H1) == 70
    assert known_from(facts, [Informative(Timeframe.H4)], base, Timeframe.H1) == 70


def test_without_base_candles_nothing_is_known() -> None:
    others = beside(hours(0, 0), (DAILY, candles_from([0])), trades=a_trade_at(5), funding=a_rate_at(5))

    assert (len(others[DAILY]), len(others.trades), len(others.funding)) == (0, 0, 0)
    assert len(others.align(DAILY, others[DAILY].close)) == 0
    assert len(others.align_trades(others.trades.quantity)) == len(others.align_funding()) == 0


def test_shorter_candles_are_aligned_by_their_last_within() -> None:
    quarter = Informative(Timeframe.M15, "ETH/USDT")
    others = beside(hours(0, 2), (quarter, candles_from([number * HOUR // 4 for number in range(12)])))

    assert others.align(quarter, others[quarter].close).tolist() == [3.0, 7.0]


timeframes = st.sampled_from(list(Timeframe))
numbers = st.lists(st.integers(0, 400), unique=True, max_size=40).map(sorted)


@given(timeframes, numbers, timeframes, numbers)
def test_alignment_is_that_of_a_plain_loop(
    base: Timeframe, base_numbers: list[int], other: Timeframe, other_numbers: list[int]
) -> None:
    base_ms, other_ms = base.seconds * 1000, other.seconds * 1000
    one = Informative(other)
    held = candles_from([number * other_ms for number in other_numbers])
    others = beside(candles_from([number * base_ms for number in base_numbers]), (one, held), timeframe=base)

    aligned = others.align(one, others[one].close)

    expected: list[float | None] = []
    for number in base_numbers:
        value = None
        for index, other_number in enumerate(other_numbers):
            if (other_number + 1) * other_ms <= (number + 1) * base_ms:
                value = float(index)
        expected.append(value)
    assert [None if np.isnan(value) else value for value in aligned] == expected


def test_values_that_are_not_one_for_each_candle_are_refused() -> None:
    others = beside(hours(0, 48), (DAILY, candles_from([0, DAY, 2 * DAY])))

    with pytest.raises(ValueError, match="wanted a value for each of the 2 candles of 1d, was 3"):
        others.align(DAILY, np.zeros(3))
    with pytest.raises(ValueError, match="wanted a value for each of 0 trades, was 1"):
        others.align_trades(np.zeros(1))


def test_a_feed_that_the_strategy_does_not_name_is_refused_with_those_it_does() -> None:
    with pytest.raises(KeyError, match=r"that the strategy names \(1d\), was ETH/USDT 4h"):
        beside(hours(0, 1), (DAILY, candles_from([0])))[Informative(Timeframe.H4, "ETH/USDT")]


# -- trades and funding rates ---------------------------------------------------------------------------------------------


def a_trade_at(*at_ms: int, whole_since_ms: int = 0) -> Trades:
    """One of 1, 2, 3 and so on at each of these times."""
    count = len(at_ms)
    sizes = np.arange(1, count + 1, dtype=np.float64)
    return Trades(np.array(at_ms), np.full(count, 10.0), sizes, np.ones(count, np.bool_), whole_since_ms)


def a_rate_at(*at_ms: int) -> FundingRates:
    return FundingRates(np.array(at_ms), np.arange(1, len(at_ms) + 1) / 10)


def test_trades_are_summed_within_the_candle_in_which_they_happened() -> None:
    base = candles_from([0, HOUR, 3 * HOUR])  # none at 02:00
    trades = a_trade_at(-1, 0, HOUR - 1, HOUR, 2 * HOUR, 4 * HOUR - 1, 4 * HOUR)

    others = beside(base, trades=trades)

    assert others.trades.at_ms.tolist() == [-1, 0, HOUR - 1, HOUR, 2 * HOUR, 4 * HOUR - 1]  # not that at the close
    assert others.align_trades(others.trades.quantity).tolist() == [2 + 3, 4, 6]


def test_a_candle_of_which_trades_may_be_missing_has_no_sum() -> None:
    others = beside(hours(0, 3), trades=a_trade_at(HOUR // 2, 2 * HOUR, whole_since_ms=HOUR // 2))

    sums = others.align_trades(others.trades.quantity)

    assert np.isnan(sums[0])
    assert sums[1:].tolist() == [0.0, 2.0]


def test_a_funding_rate_is_known_from_the_close_after_its_payment_on() -> None:
    others = beside(hours(0, 4), funding=a_rate_at(HOUR, 2 * HOUR + 1, 4 * HOUR))

    aligned = others.align_funding()

    assert np.isnan(aligned[0])  # paid at the very close: not before it
    assert aligned[1:].tolist() == [0.1, 0.2, 0.2]
    assert others.funding.rate.tolist() == [0.1, 0.2]


# -- no sight of the future -----------------------------------------------------------------------------------------------


class Watching(Strategy[Parameters]):
    """Buys while the day's candle, as ``seen`` at each hour, closed above 100."""

    name, title, parameters_type = "watching", "Watching", Parameters
    warm_up = 1
    informative = (DAILY,)
    tapes = frozenset({TapeKind.TRADES, TapeKind.FUNDING})

    def seen(self, candles: Candles, others: Others) -> FloatArray:
        return others.align(DAILY, others[DAILY].close)

    def signals_with(self, candles: Candles, others: Others) -> SignalArrays:
        entries = (self.seen(candles, others) > 100).astype(np.int8)
        return SignalArrays(entries, np.zeros_like(entries))


class PeekingIntoTheDay(Watching):
    """Takes the close of the day in which the hour lies."""

    def seen(self, candles: Candles, others: Others) -> FloatArray:
        days = others[DAILY]
        found = np.searchsorted(days.open_ms, candles.open_ms, side="right") - 1
        return days.close[found] if len(days) else np.full(len(candles), np.nan)


class PeekingAtTheLastDay(Watching):
    """Takes the newest day for all hours."""

    def seen(self, candles: Candles, others: Others) -> FloatArray:
        return np.full(len(candles), others[DAILY].close[-1] if len(others[DAILY]) else np.nan)


class PeekingAtTrades(Watching):
    """Takes the price of the last trade for all hours."""

    def seen(self, candles: Candles, others: Others) -> FloatArray:
        return np.full(len(candles), others.trades.price[-1])


class PeekingAtFunding(Watching):
    """Takes the last rate for all hours."""

    def seen(self, candles: Candles, others: Others) -> FloatArray:
        return np.full(len(candles), 100 + others.funding.rate[-1])


def noise(count: int, length_ms: int, seed: int, first: int = 0) -> Candles:
    """Candles on both sides of 100."""
    closes = np.random.default_rng(seed).normal(100, 1, count)
    return candles_from([(first + number) * length_ms for number in range(count)], closes)


def everything_beside(candles: Candles, informative: tuple[Informative, ...], seed: int) -> Others:
    held = {one: noise(260, one.timeframe.seconds * 1000, seed + 1, first=-220) for one in informative}
    generator = np.random.default_rng(seed + 2)
    at_ms = np.arange(0, len(candles) * HOUR, HOUR // 6)
    prices = generator.normal(100, 1, len(at_ms))
    trades = Trades(at_ms, prices, np.ones(len(at_ms)), np.ones(len(at_ms), np.bool_))
    paid_ms = np.arange(0, len(candles) * HOUR, 8 * HOUR)
    funding = FundingRates(paid_ms, generator.normal(0, 1, len(paid_ms)))
    return Others(candles, Timeframe.H1, Facts(held, trades, funding))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("peeking", [PeekingIntoTheDay, PeekingAtTheLastDay, PeekingAtTrades, PeekingAtFunding])
def test_a_strategy_that_peeks_through_what_is_beside_is_caught(peeking: type[Watching], seed: int) -> None:
    candles = noise(600, HOUR, seed)

    assert looks_ahead_at(peeking.from_values({}), candles, everything_beside(candles, (DAILY,), seed)) is not None


@pytest.mark.parametrize("seed", range(5))
def test_a_strategy_that_aligns_what_is_beside_is_not(seed: int) -> None:
    candles = noise(600, HOUR, seed)
    others = everything_beside(candles, (DAILY,), seed)

    assert Watching.from_values({}).signals_with(candles, others).entries.any()
    assert looks_ahead_at(Watching.from_values({}), candles, others, checks=100) is None


# -- the trend filter -----------------------------------------------------------------------------------------------------


def test_a_crossover_enters_only_while_the_day_closes_above_its_average_and_leaves_either_way() -> None:
    closes = [10.0, 9, 8, 7, 8, 10, 12, 11, 9, 7]  # crosses up at 5 and down at 8, see the plain crossover
    strategy = LIBRARY["trend_filter"].from_values({"fast": 2, "slow": 3, "trend_period": 2})
    [day] = strategy.informative
    base = candles_from([3 * DAY + number * HOUR for number in range(10)], closes)

    def said(day_closes: list[float]) -> list[tuple[int, int]]:
        days = candles_from([number * DAY for number in range(len(day_closes))], day_closes)
        signals = strategy.signals_with(base, beside(base, (day, days)))
        return [
            (index, int(e - x))
            for index, (e, x) in enumerate(zip(signals.entries, signals.exits, strict=True))
            if e or x
        ]

    assert said([1.0, 2.0, 3.0]) == [(5, 1), (8, -1)]
    assert said([3.0, 2.0, 1.0]) == [(8, -1)]
    assert said([1.0, 2.0, 2.0]) == [(8, -1)]  # at its average is not above it
    assert said([3.0, 2.0, 1.0, 99.0]) == [(8, -1)]  # the fourth day has not closed yet
    assert said([5.0]) == [(8, -1)]  # no average yet


def test_the_trend_filter_names_whose_trend_it_looks_at() -> None:
    plain = LIBRARY["trend_filter"].from_values({})
    other = LIBRARY["trend_filter"].from_values(
        {"trend_timeframe": "4h", "trend_symbol": "BTC/USDT", "trend_period": 50}
    )

    assert plain.informative == (Informative(Timeframe.D1, "", 200),)
    assert other.informative == (Informative(Timeframe.H4, "BTC/USDT", 50),)
    assert (plain.warm_up, plain.tapes) == (51, frozenset())
