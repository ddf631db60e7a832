"""Prices and candles: deterministic, consistent with one another, and in KuCoin's shape."""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import ccxt
import numpy as np
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.prices import HISTORY_DAYS, MINUTE_MS, First, Pinned, Timeline, Walk
from simulator.replays import CandleRow, Replay, parse_rows, read_candles
from tests.simulator.conftest import START_MS, Simulator, made_exchange

START = START_MS // MINUTE_MS
TICK = Decimal("0.1")
DAY = 1_440


def walk(seed: int = 7, symbol: str = "BTC-USDT", sigma: float = 0.001) -> Walk:
    return Walk(seed, symbol, START, Decimal(60_000), TICK, sigma)


def rows(*closes: str, first: int = START) -> list[CandleRow]:
    """Candles whose price goes straight from the last close to the next."""
    made, previous = [], Decimal(closes[0])
    for number, text in enumerate(closes):
        close = Decimal(text)
        extremes = max(previous, close), min(previous, close)
        made.append(((first + number) * MINUTE_MS, previous, *extremes, close, 1.5))
        previous = close
    return made


# -- the synthetic walk --------------------------------------------------------------------------------------------


def test_a_walk_is_the_same_whatever_was_read_first() -> None:
    one, other = walk(), walk()
    one.minutes(START - 10 * DAY, START)

    ahead = other.minutes(START, START + 3 * DAY)
    behind = other.minutes(START - 10 * DAY, START)

    assert np.array_equal(one.minutes(START, START + 3 * DAY).close, ahead.close)
    assert np.array_equal(one.minutes(START - 10 * DAY, START).close, behind.close)


@pytest.mark.parametrize("other", [walk(seed=8), walk(symbol="ETH-USDT")])
def test_another_seed_or_symbol_is_another_walk(other: Walk) -> None:
    assert not np.array_equal(walk().minutes(START, START + 60).close, other.minutes(START, START + 60).close)


def test_a_walk_joins_without_a_step_and_starts_at_its_price() -> None:
    minutes = walk().minutes(START - 2 * DAY, START + 2 * DAY)

    assert np.array_equal(minutes.open[1:], minutes.close[:-1])
    assert int(minutes.open[2 * DAY]) * TICK == Decimal(60_000)


def test_every_minute_of_a_walk_is_a_possible_candle() -> None:
    minutes = walk().minutes(START - 5 * DAY, START + 5 * DAY)

    assert (minutes.low >= 1).all()
    assert (minutes.low <= np.minimum(minutes.open, minutes.close)).all()
    assert (minutes.high >= np.maximum(minutes.open, minutes.close)).all()
    assert (minutes.volume > 0).all()


def test_a_walk_is_about_as_volatile_as_asked_and_calm_and_wild_by_turns() -> None:
    minutes = walk(sigma=0.001).minutes(START, START + 60 * DAY)
    returns = np.diff(np.log(minutes.close.astype(float)))
    by_half_hour = returns[: len(returns) // 30 * 30].reshape(-1, 30).std(axis=1)

    assert 0.0007 < returns.std() < 0.0016
    assert by_half_hour.max() > 4 * np.median(by_half_hour)
    assert np.corrcoef(by_half_hour[1:], by_half_hour[:-1])[0, 1] > 0.5


def test_history_reaches_back_a_year_and_more() -> None:
    assert walk().first_minute == START - HISTORY_DAYS * DAY
    assert len(walk().minutes(START - 400 * DAY, START)) == 400 * DAY


# -- replayed and pinned prices ------------------------------------------------------------------------------------


def test_a_replay_shows_exactly_the_candles_given() -> None:
    given = [(START * MINUTE_MS, Decimal("100.1"), Decimal("103"), Decimal("99.5"), Decimal("102.7"), 3.25)]

    minutes = Replay(given, TICK).minutes(START, START + 1)

    assert [int(array[0]) for array in (minutes.open, minutes.high, minutes.low, minutes.close)] == [
        1001,
        1030,
        995,
        1027,
    ]
    assert minutes.volume.tolist() == [3.25]


def test_a_gap_trades_nothing_and_keeps_the_last_close() -> None:
    replay = Replay([*rows("100", "101"), *rows("105", "106", "107", first=START + 4)], TICK)

    minutes = replay.minutes(START - 1, START + 8)

    assert minutes.close.tolist() == [1000, 1000, 1010, 1010, 1010, 1050, 1060, 1070, 1070]
    assert (minutes.volume > 0).tolist() == [False, True, True, False, False, True, True, True, True]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ([], "at least one"),
        ([(0, "1", "2", "1", "1", "1"), (0, "1", "2", "1", "1", "1")], "one candle a minute"),
        ([(60_000, "1", "2", "1.5", "1", "1")], "low <= open"),
        ([(60_000, "0", "2", "0", "1", "1")], "0 < low"),
        ([(60_000, "1", "2", "1", "1", "-1")], "low"),
        ([(0, "1", "1", "1", "1", "1"), (300_000, "1", "1", "1", "1", "1")], "every 5 minutes"),
    ],
)
def test_candles_that_cannot_be_are_refused(given: list[tuple[object, ...]], wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        Replay(parse_rows(given), TICK)


@pytest.mark.parametrize("row", [[1, 2, 3], "text", [60_000, "a", 1, 1, 1, 1], [60_000, "nan", 1, 1, 1, 1]])
def test_rows_that_are_not_candles_are_refused(row: object) -> None:
    with pytest.raises(ValueError, match="wanted"):
        parse_rows([row])  # type: ignore[list-item]


@pytest.mark.parametrize("is_zipped", [False, True])
def test_a_candle_file_is_read_by_its_column_names(tmp_path: Path, is_zipped: bool) -> None:
    text = "volume,close,ts,high,low,open\n0.5,101,60000,102,99,100\n"
    file = tmp_path / ("candles.csv.gz" if is_zipped else "candles.csv")
    file.write_bytes(gzip.compress(text.encode()) if is_zipped else text.encode())

    assert read_candles(file) == [(60_000, Decimal(100), Decimal(102), Decimal(99), Decimal(101), 0.5)]


def test_a_candle_file_without_a_column_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "candles.csv"
    file.write_text("ts,open,high,low,close\n")

    with pytest.raises(ValueError, match="missing volume"):
        read_candles(file)


def test_a_switch_in_the_middle_of_a_minute_shows_in_its_candle() -> None:
    timeline = Timeline(Replay(rows("100", "100", "100"), TICK), TICK)
    timeline.switch((START + 1) * MINUTE_MS + 20_000, Pinned(Decimal("110"), TICK))

    minute = timeline.minutes(START + 1, START + 2)

    assert timeline.price_at((START + 1) * MINUTE_MS + 19_999) == 1000
    assert timeline.price_at((START + 1) * MINUTE_MS + 20_000) == 1100
    assert [int(array[0]) for array in (minute.open, minute.high, minute.low, minute.close)] == [
        1000,
        1100,
        1000,
        1100,
    ]


@settings(max_examples=60, deadline=None)
@given(
    pins=st.lists(st.tuples(st.integers(0, 10 * MINUTE_MS), st.integers(500, 2000)), max_size=6),
    second=st.integers(0, 599),
)
def test_prices_lie_inside_their_candle_and_candles_end_where_prices_do(
    pins: list[tuple[int, int]], second: int
) -> None:
    timeline = Timeline(Walk(3, "BTC-USDT", START, Decimal(100), TICK, 0.01), TICK)
    for offset, ticks in sorted(pins):
        timeline.switch(START_MS + offset, Pinned(ticks * TICK, TICK))
    at = START_MS + second * 1000
    minute = at // MINUTE_MS

    candle = timeline.minutes(minute, minute + 1)
    price = timeline.price_at(at)
    partial = timeline.partial(at)

    assert int(candle.low[0]) <= price <= int(candle.high[0])
    assert int(candle.low[0]) <= int(partial.low[0]) <= price <= int(partial.high[0]) <= int(candle.high[0])
    assert int(partial.open[0]) == int(candle.open[0]) == timeline.price_at(minute * MINUTE_MS)
    assert int(partial.close[0]) == price
    assert len(timeline.minutes(START, START + 12)) == 12


def candle(open_: int, high: int, low: int, close: int, minute: int = 0) -> CandleRow:
    return START_MS + minute * MINUTE_MS, Decimal(open_), Decimal(high), Decimal(low), Decimal(close), 1.0


@pytest.mark.parametrize("close", [99, 101])
@pytest.mark.parametrize(("first", "visited"), [(First.LOW, [90, 120]), (First.HIGH, [120, 90])])
def test_a_replay_may_say_which_extreme_comes_first(first: First, visited: list[int], close: int) -> None:
    timeline = Timeline(Replay([candle(100, 120, 90, close)], TICK, first), TICK)

    assert [ticks for _, ticks in timeline.path(START)] == [1000, *(price * 10 for price in visited), close * 10]
    timeline.retick(Decimal(1))
    assert [ticks for _, ticks in timeline.path(START)] == [100, *visited, close]


def test_without_a_word_a_rising_candle_visits_its_low_first() -> None:
    rising, falling = Replay([candle(100, 120, 90, 101)], TICK), Replay([candle(100, 120, 90, 99)], TICK)

    assert [ticks for _, ticks in Timeline(rising, TICK).path(START)] == [1000, 900, 1200, 1010]
    assert [ticks for _, ticks in Timeline(falling, TICK).path(START)] == [1000, 1200, 900, 990]


def test_the_first_moment_of_a_price_is_found() -> None:
    given = [candle(100, 100, 90, 90), candle(95, 95, 95, 95, minute=1), candle(95, 130, 95, 130, minute=2)]
    timeline = Timeline(Replay(given, TICK), TICK)
    end = START_MS + 3 * MINUTE_MS

    # From 100 at 15 s to 90 at 45 s: a tick every 300 ms. The price is rounded down on its way.
    assert timeline.first_met(START_MS, end, 950, None) == START_MS + 15_000 + 49 * 300 + 1
    assert timeline.price_at(START_MS + 15_000 + 49 * 300) == 951
    assert timeline.first_met(START_MS + 44_000, end, 950, None) == START_MS + 44_001
    assert timeline.first_met(START_MS + 50_000, end, 900, 940) == START_MS + 50_001
    assert timeline.first_met(START_MS + 59_999, end, 900, 940) == START_MS + MINUTE_MS  # the leap between two candles
    assert timeline.first_met(START_MS + MINUTE_MS, end, 949, 951) == START_MS + 2 * MINUTE_MS + 15_000 + 86
    assert timeline.first_met(START_MS, end, 899, 1301) is None
    assert timeline.first_met(START_MS, START_MS + 20_000, 950, None) is None
    assert timeline.first_met(START_MS, end, None, None) is None


@settings(max_examples=60, deadline=None)
@given(
    pins=st.lists(st.tuples(st.integers(0, 2 * MINUTE_MS), st.integers(900, 1100)), max_size=4),
    after=st.integers(0, 2 * MINUTE_MS),
    span=st.integers(1, MINUTE_MS),
    levels=st.tuples(st.integers(900, 1000), st.integers(1000, 1100)),
)
def test_nothing_is_met_before_its_first_moment(
    pins: list[tuple[int, int]], after: int, span: int, levels: tuple[int, int]
) -> None:
    timeline = Timeline(Walk(3, "BTC-USDT", START, Decimal(100), TICK, 0.02), TICK)
    for offset, ticks in sorted(pins):
        timeline.switch(START_MS + offset, Pinned(ticks * TICK, TICK))
    below, above = levels

    found = timeline.first_met(START_MS + after, START_MS + after + span, below, above)

    every = range(START_MS + after + 1, START_MS + after + span + 1)
    assert found == next((ms for ms in every if not below < timeline.price_at(ms) < above), None)


# -- candles over HTTP ---------------------------------------------------------------------------------------------


def test_candles_come_newest_first_in_seconds_as_open_close_high_low(simulator: Simulator) -> None:
    day = [
        [START_MS, 100, 110, 90, 105, 2],
        [START_MS + MINUTE_MS, 105, 107.5, 101, 102, 3.5],
        [START_MS + 2 * MINUTE_MS, 102, 103, 102, 103, 1],
    ]
    simulator.control("market/BTC-USDT/candles", candles=day)
    simulator.control("clock", advance_s=150)

    answer = simulator.get("/api/v1/market/candles", symbol="BTC-USDT", type="1min", startAt=START_MS // 1000)

    second = START_MS // 1000
    assert answer["code"] == "200000"
    assert [row[:6] for row in answer["data"]] == [
        [str(second + 120), "102", "102.5", "102.5", "102", "0.5"],
        [str(second + 60), "105", "102", "107.5", "101", "3.5"],
        [str(second), "100", "105", "110", "90", "2"],
    ]


def test_the_start_of_a_candle_query_is_inclusive_and_its_end_exclusive(simulator: Simulator) -> None:
    second = START_MS // 1000
    simulator.control("clock", advance_s=3_600)

    answer = simulator.get("/api/v1/market/candles", symbol="BTC-USDT", type="1min", startAt=second, endAt=second + 180)

    assert [int(row[0]) - second for row in answer["data"]] == [120, 60, 0]


def test_a_candle_that_opens_before_the_end_of_a_query_is_shown_whole(simulator: Simulator) -> None:
    hour = START_MS // 3_600_000 * 3_600 - 3_600
    query = {"symbol": "BTC-USDT", "type": "1hour", "startAt": hour}

    [cut] = simulator.get("/api/v1/market/candles", **query, endAt=hour + 1)["data"]
    [whole] = simulator.get("/api/v1/market/candles", **query, endAt=hour + 3_600)["data"]

    assert cut == whole


def test_three_thousand_minutes_of_history_are_there_at_once(simulator: Simulator) -> None:
    simulator.open_account()
    client = simulator.client()

    found = []
    for page in range(2):
        found += client.fetch_ohlcv("BTC/USDT", "1m", since=START_MS - (3_000 - 1_500 * page) * MINUTE_MS, limit=1_500)

    assert [row[0] for row in found] == [START_MS - number * MINUTE_MS for number in range(3_000, 0, -1)]


def test_at_most_1500_candles_are_given_and_they_are_the_newest(simulator: Simulator) -> None:
    everything = simulator.get("/api/v1/market/candles", symbol="BTC-USDT", type="1min")["data"]

    assert len(everything) == 1_500
    assert int(everything[0][0]) == START_MS // 1000
    assert int(everything[-1][0]) == START_MS // 1000 - 1_499 * 60


@pytest.mark.parametrize(
    ("timeframe", "seconds"),
    [
        ("3min", 180),
        ("5min", 300),
        ("15min", 900),
        ("30min", 1800),
        ("1hour", 3600),
        ("2hour", 7200),
        ("4hour", 14400),
        ("6hour", 21600),
        ("8hour", 28800),
        ("12hour", 43200),
        ("1day", 86400),
        ("1week", 604800),
    ],
)
def test_longer_candles_are_made_of_the_minutes_they_cover(simulator: Simulator, timeframe: str, seconds: int) -> None:
    def candles(kind: str, start: int, end: int) -> list[list[str]]:
        found: list[list[str]] = simulator.get(
            "/api/v1/market/candles", symbol="BTC-USDT", type=kind, startAt=start, endAt=end
        )["data"]
        return found

    now = START_MS // 1000
    long = candles(timeframe, now - 3 * seconds, now + 1)[1]  # the newest closed one
    start = int(long[0])
    minutes = []
    for at in range(start, start + seconds, 1_500 * 60):
        minutes += candles("1min", at, min(at + 1_500 * 60, start + seconds))[::-1]

    assert len(minutes) == seconds // 60
    assert (long[1], long[2]) == (minutes[0][1], minutes[-1][2])
    assert Decimal(long[3]) == max(Decimal(minute[3]) for minute in minutes)
    assert Decimal(long[4]) == min(Decimal(minute[4]) for minute in minutes)
    assert float(long[5]) == pytest.approx(sum(float(minute[5]) for minute in minutes))


def test_weeks_begin_on_mondays_and_months_on_their_first_day(simulator: Simulator) -> None:
    weeks = simulator.get("/api/v1/market/candles", symbol="BTC-USDT", type="1week")["data"]
    months = simulator.get("/api/v1/market/candles", symbol="BTC-USDT", type="1month")["data"]

    assert {int(row[0]) // 86_400 % 7 for row in weeks} == {4}
    assert [int(row[0]) for row in months[:3]] == [1_714_521_600, 1_711_929_600, 1_709_251_200]  # May, April, March


def test_a_minute_without_trades_has_no_candle(simulator: Simulator) -> None:
    second = START_MS // 1000
    simulator.control(
        "market/BTC-USDT/candles",
        candles=[
            [START_MS, 1, 1, 1, 1, 1],
            [START_MS + MINUTE_MS, 1, 1, 1, 1, 1],
            [START_MS + 4 * MINUTE_MS, 1, 1, 1, 1, 1],
            [START_MS + 5 * MINUTE_MS, 1, 1, 1, 1, 1],
        ],
    )
    simulator.control("clock", advance_s=330)

    answer = simulator.get("/api/v1/market/candles", symbol="BTC-USDT", type="1min", startAt=second)

    assert [(int(row[0]) - second) // 60 for row in answer["data"]] == [5, 4, 1, 0]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"symbol": "BTC-USDT", "type": "7min"}, "This type of Candlestick is currently not provided."),
        ({"symbol": "XXX-USDT", "type": "1min"}, "Unsupported trading pair."),
        ({"symbol": "BTC-USDT"}, "type is required"),
        ({"symbol": "BTC-USDT", "type": "1min", "startAt": "noon"}, "startAt is invalid"),
    ],
)
def test_a_bad_candle_query_is_refused(simulator: Simulator, query: dict[str, str], message: str) -> None:
    answer = simulator.get("/api/v1/market/candles", **query)

    assert (answer["code"], answer["msg"]) == ("400100", message)


# -- the clock and everything that is read off it ------------------------------------------------------------------


def test_a_stopped_clock_moves_only_when_it_is_stepped(simulator: Simulator) -> None:
    before = simulator.get("/api/v1/timestamp")["data"]
    simulator.control("clock", advance_s=90.5)
    after = simulator.get("/api/v1/timestamp")["data"]
    simulator.control("clock", now_ms=START_MS + 3_600_000)

    assert (before, after) == (START_MS, START_MS + 90_500)
    assert simulator.get("/api/v1/timestamp")["data"] == START_MS + 3_600_000


def test_a_running_clock_runs_at_its_speed_and_can_be_stopped(simulator: Simulator) -> None:
    started = simulator.control("clock", speed=1_000)
    stopped = simulator.control("clock", stop=True)
    resumed = simulator.control("clock", stop=False)

    market, wall = (stopped[name] - started[name] for name in ("now_ms", "wall_ms"))
    assert abs(market - wall * 1_000) <= 4_000  # each wall figure is a whole millisecond, and read a little later
    assert (stopped["stopped"], resumed["stopped"], resumed["speed"]) == (True, False, 1_000)


def test_ticker_book_stats_and_candle_show_one_price(alice: ccxt.kucoin, simulator: Simulator) -> None:
    simulator.pin(None)
    simulator.control("clock", advance_s=7 * 60 + 13)
    level1 = simulator.get("/api/v1/market/orderbook/level1", symbol="BTC-USDT")["data"]
    candle = simulator.get("/api/v1/market/candles", symbol="BTC-USDT", type="1min")["data"][0]

    ticker, book = alice.fetch_ticker("BTC/USDT"), alice.fetch_order_book("BTC/USDT", 20)
    row = alice.fetch_tickers()["BTC/USDT"]

    assert (ticker["last"], level1["price"]) == (float(candle[2]), candle[2])
    assert (ticker["bid"], ticker["ask"]) == (book["bids"][0][0], book["asks"][0][0]) == (row["bid"], row["ask"])
    assert (ticker["bid"], ticker["ask"]) == (float(level1["bestBid"]), float(level1["bestAsk"]))
    assert ticker["low"] <= ticker["bid"] < ticker["last"] < ticker["ask"] <= ticker["high"] * 1.001
    assert len(book["bids"]) == 20
    assert alice.fetch_trades("BTC/USDT")[-1]["price"] <= ticker["high"]


def test_the_last_24_hours_are_those_of_the_candles(simulator: Simulator) -> None:
    now = START_MS // 1000
    stats = simulator.get("/api/v1/market/stats", symbol="ETH-USDT")["data"]
    candles = simulator.get(
        "/api/v1/market/candles", symbol="ETH-USDT", type="1min", startAt=now - 1_439 * 60, endAt=now + 1
    )["data"]

    assert Decimal(stats["high"]) == max(Decimal(row[3]) for row in candles)
    assert Decimal(stats["low"]) == min(Decimal(row[4]) for row in candles)
    assert Decimal(stats["changePrice"]) == Decimal(candles[0][2]) - Decimal(candles[-1][1])
    assert float(stats["vol"]) == pytest.approx(sum(float(row[5]) for row in candles))


def test_a_pinned_price_holds_until_it_is_let_go(simulator: Simulator) -> None:
    free = simulator.get("/api/v1/market/orderbook/level1", symbol="ETH-USDT")["data"]["price"]
    simulator.control("market/ETH-USDT/price", price="1234.5")
    simulator.control("clock", advance_s=600)
    pinned = simulator.get("/api/v1/market/orderbook/level1", symbol="ETH-USDT")["data"]["price"]
    candles = simulator.get("/api/v1/market/candles", symbol="ETH-USDT", type="1min", startAt=START_MS // 1000)["data"]

    released = simulator.control("market/ETH-USDT/price", price=None)["price"]

    assert math.isclose(float(free), 3_000, rel_tol=0.01)
    assert pinned == "1234.5"
    assert {tuple(row[1:5]) for row in candles[:-1]} == {("1234.5",) * 4}
    assert abs(float(released) - 3_000) < 300


def test_ccxt_lists_the_markets_with_their_rules(alice: ccxt.kucoin) -> None:
    market = alice.market("BTC/USDT")

    assert sorted(alice.markets) == ["BTC/USDT", "BTC/USDT:USDT", "ETH/USDT", "ETH/USDT:USDT"]
    assert market["active"] is True
    assert (market["precision"]["price"], market["precision"]["amount"]) == (0.1, 1e-8)
    assert (market["limits"]["amount"]["min"], market["limits"]["cost"]["min"]) == (0.00001, 0.1)
    assert (market["taker"], market["maker"]) == (0.001, 0.001)
    assert alice.currencies["BTC"]["type"] == "crypto"
    assert alice.fetch_status()["status"] == "ok"


def test_ccxt_finds_the_high_frequency_account_by_itself(simulator: Simulator) -> None:
    simulator.open_account()
    client = simulator.client(options={})

    client.load_markets()

    assert (client.options["hf"], client.options["uta"]) == (True, False)


def test_a_symbol_can_be_added_and_changed_while_it_runs(simulator: Simulator) -> None:
    added: dict[str, Any] = simulator.control("symbols", symbol="SOL-USDT", baseIncrement="0.5", minFunds="7")
    changed = simulator.control("symbols", symbol="SOL-USDT", enableTrading=False, priceIncrement="0.05")

    assert (added["baseIncrement"], added["minFunds"], added["enableTrading"]) == ("0.5", "7", True)
    assert (changed["baseIncrement"], changed["priceIncrement"], changed["enableTrading"]) == ("0.5", "0.05", False)
    price = simulator.get("/api/v1/market/orderbook/level1", symbol="SOL-USDT")["data"]["price"]
    assert Decimal(price) % Decimal("0.05") == 0
    assert math.isclose(float(price), 150, rel_tol=0.01)


def test_a_replayed_symbol_starts_where_its_candles_do(start_with: Callable[..., Simulator]) -> None:
    exchange = made_exchange("BTC-USDT")
    exchange.market.add("ADA-USDT", Replay(rows("0.4", "0.5", "0.6"), Decimal("0.1")), Decimal("0.1"))
    simulator = start_with(exchange)
    simulator.control("clock", advance_s=120)

    candles = simulator.get("/api/v1/market/candles", symbol="ADA-USDT", type="1min")["data"]

    assert [row[2] for row in candles] == ["0.5", "0.5", "0.4"]  # the third minute has just begun, at the last close


def test_a_step_of_the_clock_ends_when_a_price_is_first_there(simulator: Simulator) -> None:
    given = [[START_MS, 100, 120, 90, 99, 1], [START_MS + MINUTE_MS, 99, 99, 99, 99, 1]]
    simulator.control("market/BTC-USDT/candles", candles=given, first="low")
    simulator.control("market/ETH-USDT/price", price="2000")
    until = {"BTC-USDT": {"below": "91.25", "above": "118.8"}, "ETH-USDT": {"below": "1999"}}

    low = simulator.control("clock", now_ms=START_MS + MINUTE_MS, until=until)["now_ms"]
    price = simulator.get("/api/v1/market/orderbook/level1", symbol="BTC-USDT")["data"]["price"]
    assert (low - START_MS, price) == (13_051, "91.2")  # a tick is there for 150 ms, and the level lies between two
    high = simulator.control("clock", advance_s=60, until={"BTC-USDT": {"above": "118.75"}})["now_ms"]
    price = simulator.get("/api/v1/market/orderbook/level1", symbol="BTC-USDT")["data"]["price"]
    assert (high - START_MS, price) == (43_800, "118.8")
    end = simulator.control("clock", now_ms=START_MS + MINUTE_MS, until={"BTC-USDT": {"above": "130"}})["now_ms"]
    assert end == START_MS + MINUTE_MS


@pytest.mark.parametrize(
    ("path", "body", "wanted"),
    [
        ("clock", {"advance_s": 1, "until": {"NO-SUCH": {"below": "1"}}}, "wanted a listed symbol with prices"),
        ("clock", {"advance_s": 1, "until": {"BTC-USDT": {"beyond": "1"}}}, "wanted fields among below, above"),
        ("clock", {"advance_s": 1, "until": "BTC-USDT"}, "wanted until to be an object of symbols"),
        (
            "market/BTC-USDT/candles",
            {"candles": [[START_MS, 1, 1, 1, 1, 1]], "first": "open"},
            "wanted first to be low or",
        ),
    ],
)
def test_what_makes_no_sense_of_a_price_is_refused(
    simulator: Simulator, path: str, body: dict[str, Any], wanted: str
) -> None:
    response = requests.post(f"{simulator.url}/_sim/{path}", json=body, timeout=10)
    assert response.status_code == 400
    assert wanted in response.text
