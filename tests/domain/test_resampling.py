"""Longer candles from shorter ones and from trades: exact, whole or not at all, and those that exchanges recorded."""

from __future__ import annotations

import csv
import gzip
from dataclasses import astuple, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.calendars import Calendar, candle_of, expected_opens
from domain.candles import Candles, FloatArray, IntArray, Timeframe
from domain.resampling import (
    ExactTrade,
    TradedCandle,
    candles_of_trades,
    candles_of_trades_exact,
    require_shorter,
    resample,
    resample_exact,
)
from tests.domain.reference import reference_columns, reference_json, reference_path

T = Timeframe
ALWAYS, FX, XNYS = Calendar.ALWAYS, Calendar.FX, Calendar.XNYS
COLUMNS = ("open", "high", "low", "close", "volume")
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Told(TradedCandle):
    """A candle as some source tells it, with more than its figures."""

    source: str = field(default="told", kw_only=True)


def ms(when: str) -> int:
    return int(datetime.fromisoformat(when).replace(tzinfo=UTC).timestamp()) * 1000


def real(name: str) -> Candles:
    columns = reference_columns(name)
    return Candles(columns["ts"].astype(np.int64), *(columns[column] for column in COLUMNS))


def real_trades(name: str) -> tuple[IntArray, FloatArray, FloatArray]:
    with gzip.open(reference_path(name), "rt") as lines:
        rows = [(int(row["ts"]), float(row["price"]), float(row["amount"])) for row in csv.DictReader(lines)]
    times, price, quantity = zip(*rows, strict=True)
    return np.array(times, dtype=np.int64), np.array(price), np.array(quantity)


def real_exact(name: str) -> list[TradedCandle]:
    with gzip.open(reference_path(name), "rt") as lines:
        return [
            TradedCandle(
                datetime.fromtimestamp(int(row["ts"]) // 1000, tz=UTC), *(Decimal(row[name]) for name in COLUMNS)
            )
            for row in csv.DictReader(lines)
        ]


def of_opens(opens: IntArray, seed: int = 0) -> Candles:
    """Candles of whole prices and volumes that open then, so that sums of floats are exact."""
    rng = np.random.default_rng(seed)
    open_, close = (rng.integers(50, 150, len(opens)).astype(np.float64) for _ in range(2))
    top, bottom = np.maximum(open_, close) + 1, np.minimum(open_, close) - 1
    return Candles(opens, open_, top, bottom, close, rng.integers(0, 9, len(opens)).astype(np.float64))


def without(candles: Candles, *rows: int) -> Candles:
    return Candles(*(np.delete(getattr(candles, name), list(rows)) for name in ("open_ms", *COLUMNS)))


def assert_same(left: Candles, right: Candles) -> None:
    for name in ("open_ms", *COLUMNS):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))


# -- by hand ---------------------------------------------------------------------------------------------------------------

MINUTES = [
    Told(NOON + number * timedelta(minutes=1), *(Decimal(word) for word in row.split()))
    for number, row in enumerate(
        (
            "10 12 9 11 1.1",
            "11 15 10 14 0.3",
            "14 14 13 13 0",
            "13 13.5 8 9 2",
            "9 10 9 9.5 0.000000000000000001",
            "9 9 9 9 1",
        )
    )
]


def test_a_longer_candle_opens_with_the_first_closes_with_the_last_and_reaches_as_far_as_any() -> None:
    [five] = resample_exact(MINUTES, T.M1, T.M5, ALWAYS)

    assert astuple(five) == (
        NOON, Decimal(10), Decimal(15), Decimal(8), Decimal("9.5"), Decimal("3.400000000000000001"), "told"
    )  # fmt: skip
    assert type(five) is Told


def test_figures_of_more_digits_than_python_counts_with_are_added_exactly() -> None:
    minutes = [replace(minute, volume=Decimal("123456789012345678.123456789012345678")) for minute in MINUTES]

    [five] = resample_exact(minutes, T.M1, T.M5, ALWAYS)

    assert five.volume == Decimal("617283945061728390.617283945061728390")


def test_arrays_say_the_same() -> None:
    rows = [(int(minute.open_at.timestamp()) * 1000, *map(float, astuple(minute)[1:6])) for minute in MINUTES]

    five = resample(Candles.from_rows(rows), T.M1, T.M5, ALWAYS)

    assert [getattr(five, name).tolist() for name in ("open_ms", *COLUMNS)] == [
        [rows[0][0]], [10], [15], [8], [9.5], [pytest.approx(3.4)]
    ]  # fmt: skip


@pytest.mark.parametrize("missing", range(5))
def test_of_what_is_not_whole_nothing_is_made(missing: int) -> None:
    left = [minute for number, minute in enumerate(MINUTES) if number != missing]

    assert resample_exact(left, T.M1, T.M5, ALWAYS) == []
    assert resample_exact([], T.M1, T.M5, ALWAYS) == []
    assert len(resample(of_opens(np.empty(0, dtype=np.int64)), T.M1, T.M5, ALWAYS)) == 0


@pytest.mark.parametrize(
    ("shorter", "longer", "calendar", "words"),
    [
        (T.M5, T.M5, ALWAYS, "wanted candles that make up whole ones of 5m, was 5m"),
        (T.H1, T.M5, ALWAYS, "wanted candles that make up whole ones of 5m, was 1h"),
        (T.M3, T.M5, ALWAYS, "wanted candles that make up whole ones of 5m, was 3m"),
        (T.H8, T.H12, XNYS, "wanted candles that make up whole ones of 12h, was 8h"),
        (T.H2, T.D1, FX, "wanted candles of 1h or shorter for days of currencies, was 2h"),
    ],
)
def test_what_makes_up_no_whole_candles_is_refused(
    shorter: Timeframe, longer: Timeframe, calendar: Calendar, words: str
) -> None:
    with pytest.raises(ValueError, match=f"^{words}$"):
        require_shorter(shorter, longer, calendar)
    with pytest.raises(ValueError, match=words):
        resample(of_opens(np.empty(0, dtype=np.int64)), shorter, longer, calendar)


def test_candles_in_disorder_or_twice_are_refused() -> None:
    for rows in (MINUTES[::-1], [MINUTES[0], *MINUTES]):
        with pytest.raises(ValueError, match="wanted candles oldest first, each of its time once"):
            resample_exact(rows, T.M1, T.M5, ALWAYS)


def test_a_session_that_closes_early_makes_a_whole_day_and_a_whole_hour() -> None:
    half_day = of_opens(expected_opens(XNYS, T.M30, ms("2024-07-03"), ms("2024-07-04")))
    assert len(half_day) == 7  # 13:30 to 17:00

    [day] = resample(half_day, T.M30, T.D1, XNYS).open_ms.tolist()
    hours = resample(half_day, T.M30, T.H1, XNYS).open_ms.tolist()

    assert day == ms("2024-07-03")
    assert hours == [ms(f"2024-07-03T{hour}:00") for hour in (13, 14, 15, 16)]
    assert len(resample(without(half_day, 6), T.M30, T.D1, XNYS)) == 0
    assert len(resample(half_day, T.M30, T.D1, ALWAYS)) == 0


@pytest.mark.parametrize("longer", [T.H4, T.D1])
def test_what_was_traded_before_the_market_opened_is_no_part_of_its_candles(longer: Timeframe) -> None:
    opens = expected_opens(XNYS, T.M30, ms("2024-07-02"), ms("2024-07-03"))
    early = of_opens(np.append(opens[0] - 3_600_000, opens))

    assert_same(resample(early, T.M30, longer, XNYS), resample(without(early, 0), T.M30, longer, XNYS))
    assert len(resample(early, T.M30, longer, XNYS)) == (2 if longer is T.H4 else 1)


def test_a_day_of_currencies_is_made_of_the_hours_from_17_to_17_new_york() -> None:
    hours = of_opens(expected_opens(FX, T.H1, ms("2024-03-07T22:00"), ms("2024-03-12T21:00")))

    days = resample(hours, T.H1, T.D1, FX)

    assert days.open_ms.tolist() == [ms("2024-03-08"), ms("2024-03-11"), ms("2024-03-12")]
    assert days.open[1] == hours.open[24]  # Sunday evening, 21:00 UTC since that day


@given(
    calendar=st.sampled_from(Calendar), seed=st.integers(0, 2**32 - 1), missing=st.sets(st.integers(0, 199)),
    frames=st.sampled_from(
        [(T.M1, T.M5, T.M15), (T.M5, T.M15, T.H1), (T.M15, T.H1, T.H4), (T.M30, T.H1, T.D1), (T.H1, T.H4, T.H12)]
    ),
    start=st.datetimes(datetime(2010, 1, 1), datetime(2026, 1, 1)),  # noqa: DTZ001  # bounds are naive
)  # fmt: skip
def test_by_way_of_a_third_timeframe_the_same_candles_are_made(
    calendar: Calendar, seed: int, missing: set[int], frames: tuple[Timeframe, ...], start: datetime
) -> None:
    short, middle, long = frames
    first = ms(start.isoformat())
    opens = expected_opens(calendar, short, first, first + 60 * 86_400_000)[:200]
    candles = without(of_opens(opens, seed), *(row for row in missing if row < len(opens)))

    direct = resample(candles, short, long, calendar)

    assert_same(direct, resample(resample(candles, short, middle, calendar), middle, long, calendar))
    for name in direct.open_ms.tolist():
        wanted = expected_opens(calendar, short, name - 2 * 86_400_000, name + 2 * 86_400_000)
        wanted = wanted[candle_of(calendar, long, wanted) == name]
        assert np.isin(wanted, candles.open_ms).all()


# -- trades ------------------------------------------------------------------------------------------------------------------

TRADES = [
    ExactTrade(NOON + timedelta(seconds=seconds), Decimal(price), Decimal(quantity))
    for seconds, price, quantity in [
        (-1, "9", "1"), (0, "10", "0.1"), (20, "12", "0.2"), (59.999, "11", "0.3"), (60, "8", "1"), (190, "7", "2"),
        (190, "6", "3"), (240, "5", "1"),
    ]
]  # fmt: skip


def test_trades_make_candles_where_somebody_traded_and_all_of_the_time_is_known() -> None:
    made = candles_of_trades_exact(TRADES, T.M1, NOON - timedelta(seconds=1), NOON + timedelta(seconds=241))

    assert [astuple(candle)[1:] for candle in made] == [
        tuple(map(Decimal, row.split())) for row in ("10 12 10 11 0.6", "8 8 8 8 1", "7 7 6 6 5")
    ]
    assert [candle.open_at - NOON for candle in made] == [timedelta(minutes=number) for number in (0, 1, 3)]


def test_arrays_of_trades_say_the_same_and_none_makes_none() -> None:
    times = np.array([int(trade.traded_at.timestamp() * 1000) for trade in TRADES], dtype=np.int64)
    price, quantity = (np.array([float(getattr(trade, name)) for trade in TRADES]) for name in ("price", "quantity"))
    start = int(NOON.timestamp()) * 1000

    made = candles_of_trades(times, price, quantity, T.M1, start - 1, start + 241_000)
    none = candles_of_trades(times, price, quantity, T.M1, start + 1, start + 59_999)

    assert (made.close.tolist(), made.volume.tolist(), len(none)) == ([11, 8, 6], [pytest.approx(0.6), 1, 5], 0)


def test_trades_in_disorder_are_refused() -> None:
    with pytest.raises(ValueError, match="wanted trades oldest first"):
        candles_of_trades_exact(TRADES[::-1], T.M1, NOON, NOON + timedelta(minutes=5))


# -- as exchanges recorded them ----------------------------------------------------------------------------------------------


def compared(check: str, made: Candles, recorded: Candles) -> dict[str, object]:
    """What a check of the reference figures says of candles made and recorded of the same times."""
    _, left, right = np.intersect1d(made.open_ms, recorded.open_ms, return_indices=True)
    assert len(left) == len(made)
    differ = {name: getattr(made, name)[left] != getattr(recorded, name)[right] for name in COLUMNS[:4]}
    differ["volume(1e-6)"] = np.abs(made.volume[left] - recorded.volume[right]) > 1e-6
    counts = {f"mismatch_{name}": int(np.count_nonzero(rows)) for name, rows in differ.items()}
    return {"check": check, "bars_compared": len(left), **counts}


def expected(check: str) -> dict[str, object]:
    [found] = [row for row in reference_json("expected/resample_consistency.json") if row["check"] == check]
    return dict(found)


@pytest.mark.parametrize("coin", ["ADA", "BTC", "ETH", "XRP"])
def test_five_minutes_of_minutes_are_those_that_kucoin_recorded_where_it_was_of_one_mind(coin: str) -> None:
    minutes, recorded = (real(f"market/kucoin_{frame}/{coin}_USDT-{frame}.csv.gz") for frame in ("1m", "5m"))
    check = f"open kucoin 1m->5m {coin}_USDT"

    assert compared(check, resample(minutes, T.M1, T.M5, ALWAYS), recorded) == expected(check)


@pytest.mark.parametrize("longer", [T.H4, T.D1])
@pytest.mark.parametrize("coin", ["BTC", "ETH"])
def test_candles_made_of_hours_are_those_that_binance_recorded(coin: str, longer: Timeframe) -> None:
    hours = real(f"market/binance_spot_1h/{coin}_USDT-1h.csv.gz")
    recorded = real(f"market/binance_spot_{longer.value}/{coin}_USDT-{longer.value}.csv.gz")
    check = f"open binance 1h->{longer.value} {coin}"

    assert compared(check, resample(hours, T.H1, longer, ALWAYS), recorded) == expected(check)


@pytest.mark.parametrize("coin", ["BTC", "ETH"])
def test_days_made_of_four_hours_made_of_hours_are_those_that_the_exchange_recorded(coin: str) -> None:
    four_hours = resample(real(f"market/binance_spot_1h/{coin}_USDT-1h.csv.gz"), T.H1, T.H4, ALWAYS)
    check = f"open binance 1h->1d {coin}"

    made = resample(four_hours, T.H4, T.D1, ALWAYS)

    assert compared(check, made, real(f"market/binance_spot_1d/{coin}_USDT-1d.csv.gz")) == expected(check)


def test_in_exact_figures_every_one_of_them_is_as_recorded_to_the_last_digit() -> None:
    made = resample_exact(real_exact("market/binance_spot_1h/BTC_USDT-1h.csv.gz"), T.H1, T.H4, ALWAYS)
    recorded = {candle.open_at: candle for candle in real_exact("market/binance_spot_4h/BTC_USDT-4h.csv.gz")}

    assert len(made) == 4364
    assert [candle for candle in made if candle != recorded[candle.open_at]] == []


@pytest.mark.parametrize("timeframe", [T.M1, T.M5])
def test_candles_of_all_trades_are_those_that_the_exchange_recorded(timeframe: Timeframe) -> None:
    times, price, quantity = real_trades("trades/xrp_eth/XRP_ETH-trades.csv.gz")
    recorded = real(f"trades/xrp_eth/XRP_ETH-{timeframe.value}.csv.gz")
    until_ms = int(recorded.open_ms[-1]) + timeframe.seconds * 1000

    made = candles_of_trades(times, price, quantity, timeframe, int(recorded.open_ms[0]), until_ms)

    check = f"open freqtrade trades->{timeframe.value}"
    assert compared(check, made, recorded) == expected(check)


def test_candles_of_a_page_of_trades_are_those_between_its_first_and_its_last() -> None:
    times, price, quantity = real_trades("trades/kraken_xbtusdt/trades.csv.gz")
    recorded = "trades/kraken_xbtusdt/ohlc-1m.csv.gz"
    candles = without(real(recorded), *np.flatnonzero(reference_columns(recorded)["count"] == 0).tolist())

    made = candles_of_trades(times, price, quantity, T.M1, int(times[0]), int(times[-1]) + 1)

    check = "open kraken trades->1m (candles with count>0)"
    assert compared(check, made, candles) == expected(check)
