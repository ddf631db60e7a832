"""What is wrong with candles and what is missing: found at exactly its row, in real markets as in made ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.calendars import Calendar, expected_opens
from domain.candles import Candles, IntArray, Timeframe
from domain.quality import Finding, Flaw, Gap, gaps, inspect
from tests.domain.reference import reference_columns, reference_json

ALWAYS, M1, H1, D1 = Calendar.ALWAYS, Timeframe.M1, Timeframe.H1, Timeframe.D1
COLUMNS = ("open_ms", "open", "high", "low", "close", "volume")
FIRST = 1_700_000_040_000  # a multiple of a minute, on a Tuesday
LATER = 2**42
REAL = (
    *(
        f"market/binance_spot_1h/{coin}_USDT-1h.csv.gz"
        for coin in ("BTC", "ETH", "BNB", "LTC", "XRP", "ADA", "EOS", "TRX", "XLM", "ETC")
    ),
    *(f"market/binance_spot_{frame}/{coin}_USDT-{frame}.csv.gz" for coin in ("BTC", "ETH") for frame in ("4h", "1d")),
    "market/binance_spot_15m/MANA_USDT-15m.csv.gz",
    *(
        f"market/kucoin_{frame}/{coin}_USDT-{frame}.csv.gz"
        for coin in ("BTC", "ETH", "XRP", "ADA")
        for frame in ("1m", "5m")
    ),
    *(f"market/binance_usdm_5m/{coin}_USDT_USDT-5m.csv.gz" for coin in ("BTC", "ETH")),
    *(f"market/freqtrade_5m/{coin}_BTC-5m.csv.gz" for coin in ("ETH", "LTC", "ADA", "TRX", "UNITTEST")),
    "trades/xrp_eth/XRP_ETH-1m.csv.gz",
    "trades/xrp_eth/XRP_ETH-5m.csv.gz",
    "trades/kraken_xbtusdt/ohlc-1m.csv.gz",
    "fx/fxcm_1m/gbpusd-m1-bid-2012.csv.gz",
    "fx/fxcm_1m/gbpusd-m1-ask-2012.csv.gz",
    "fx/backtesting_py/EURUSD.csv.gz",
    "fx/oanda_1h/EURUSD-1h.csv.gz",
)
SHARES = ("equity/backtesting_py/GOOG.csv.gz", *(f"equity/lean_1d/{name}-1d.csv.gz" for name in ("AIG", "BAC", "SPY")))


@cache
def real(name: str) -> Candles:
    columns = reference_columns(name)
    return Candles(columns["ts"].astype(np.int64), *(columns[column] for column in COLUMNS[1:]))


def timeframe_of(name: str) -> Timeframe:
    return D1 if name in SHARES else Timeframe(reference_json("expected/data_quality.json")[name]["timeframe"])


def calendar_of(name: str) -> Calendar:
    return Calendar.XNYS if name in SHARES else Calendar.FX if name.startswith("fx/") else ALWAYS


def ms(when: str) -> int:
    return int(datetime.fromisoformat(when).replace(tzinfo=UTC).timestamp()) * 1000


def walk(length: int = 60, seed: int = 1, timeframe: Timeframe = M1, move: float = 0.001) -> Candles:
    """Candles of a market that moves a little, each opening where the one before closed."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(0, move, length)))
    opens = np.append(100.0, close)[:length]
    wick = 1 + np.abs(rng.normal(0, move, length))
    start = -(-FIRST // (timeframe.seconds * 1000)) * timeframe.seconds * 1000
    return Candles(
        start + np.arange(length, dtype=np.int64) * timeframe.seconds * 1000,
        opens, np.maximum(opens, close) * wick, np.minimum(opens, close) / wick, close, rng.uniform(1, 9, length),
    )  # fmt: skip


def having(candles: Candles, at: int, **values: float) -> Candles:
    """The candles with other values in one row."""
    changed = {}
    for name, value in values.items():
        changed[name] = getattr(candles, name).copy()
        changed[name][at] = value
    return replace(candles, **changed)


def picked(candles: Candles, rows: list[int]) -> Candles:
    return Candles(*(getattr(candles, name)[rows] for name in COLUMNS))


def flaws(
    candles: Candles, timeframe: Timeframe = M1, calendar: Calendar = ALWAYS, now_ms: int = LATER
) -> list[tuple[int, str]]:
    """What was found, as (row, flaw); what is not good has a finding, and what has one is not good."""
    found = inspect(candles, timeframe, calendar, now_ms=now_ms)
    assert sorted({finding.index for finding in found.findings}) == np.flatnonzero(~found.is_good).tolist()
    assert all(finding.open_ms == candles.open_ms[finding.index] for finding in found.findings)
    return [(finding.index, finding.flaw.value) for finding in found.findings]


def only(candles: Candles) -> Finding:
    [finding] = inspect(candles, M1, ALWAYS, now_ms=LATER).findings
    return finding


# -- one flaw after the other ----------------------------------------------------------------------------------------------


def test_nothing_is_wrong_with_a_clean_batch_nor_with_none_at_all() -> None:
    assert flaws(walk()) == []
    assert flaws(walk(0)) == []


def test_a_candle_is_closed_when_its_time_has_passed_and_not_a_millisecond_before() -> None:
    candles = walk(3)
    closes = int(candles.open_ms[2]) + 60_000

    assert flaws(candles, now_ms=closes) == []
    assert flaws(candles, now_ms=closes - 1) == [(2, "STILL_OPEN")]
    assert flaws(candles, now_ms=closes - 60_001) == [(1, "STILL_OPEN"), (2, "STILL_OPEN")]


@pytest.mark.parametrize("name", ["open", "high", "low", "close"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, -1.0])
def test_what_is_no_price_is_found_as_such_and_as_nothing_else(name: str, value: float) -> None:
    assert flaws(having(walk(), 7, **{name: value})) == [(7, "NOT_A_PRICE")]


@pytest.mark.parametrize(("volume", "expected"), [(float("nan"), 1), (-0.1, 1), (float("inf"), 1), (0.0, 0)])
def test_a_volume_may_be_zero_and_nothing_less(volume: float, expected: int) -> None:
    assert flaws(having(walk(), 7, volume=volume)) == [(7, "NOT_A_PRICE")] * expected


def test_rows_without_a_trade_are_counted() -> None:
    candles = having(having(walk(), 7, volume=0.0), 9, volume=0.0)

    assert inspect(candles, M1, ALWAYS, now_ms=LATER).zero_volume == 2


def test_words_say_what_was_wanted_and_what_was_found() -> None:
    flat = Candles(FIRST + np.arange(3) * 60_000, *(np.array([5.0, 5.0, 5.0]) for _ in range(5)))

    assert only(having(flat, 1, high=4.5)).detail == (
        "wanted the high highest and the low lowest, was open 5.0, high 4.5, low 5.0, close 5.0"
    )
    assert only(having(flat, 1, close=-5)).detail == "wanted four prices and a volume, was 5.0 5.0 5.0 -5.0 and 5.0"
    assert only(having(flat, 1, open_ms=FIRST + 60_001)).detail == (
        f"wanted a time of 1m candles, was {FIRST + 60_001} ms, between two of them"
    )
    assert only(having(flat, 1, high=99)).detail == "wanted prices within a factor of 5 of 5, was 5 to 99"


@pytest.mark.parametrize("change", [{"high": 0.999}, {"low": 1.001}])
def test_the_high_is_the_highest_and_the_low_the_lowest(change: dict[str, float]) -> None:
    candles = walk()
    body = max if "high" in change else min
    [(name, factor)] = change.items()
    value = body(candles.open[7], candles.close[7]) * factor

    assert flaws(having(candles, 7, **{name: value})) == [(7, "BAD_OHLC")]


def test_only_a_row_that_comes_after_a_later_one_is_out_of_order() -> None:
    assert flaws(picked(walk(6), [0, 1, 3, 4, 2, 5])) == [(4, "OUT_OF_ORDER")]


def test_a_row_that_is_not_closed_yet_makes_no_other_late() -> None:
    candles = walk(4)

    assert flaws(picked(candles, [3, 0, 1, 2]), now_ms=int(candles.open_ms[3])) == [(0, "STILL_OPEN")]


def test_of_rows_that_say_the_same_the_first_is_kept() -> None:
    assert flaws(picked(walk(4), [0, 1, 1, 1, 2, 3])) == [(2, "DUPLICATE"), (3, "DUPLICATE")]


def test_of_rows_of_one_time_that_differ_none_is_kept_and_each_says_what_the_other_was() -> None:
    candles = having(picked(walk(4), [0, 1, 1, 2, 3]), 2, volume=12.5)
    found = inspect(candles, M1, ALWAYS, now_ms=LATER)

    assert [finding.index for finding in found.findings] == [1, 2]
    assert found.findings[0].detail.startswith("wanted one row of its time, was another too: ")
    assert found.findings[0].detail.endswith(" 12.5")
    assert not found.findings[1].detail.endswith(" 12.5")


def test_a_row_that_is_wrong_anyway_does_not_spoil_the_other_of_its_time() -> None:
    candles = having(picked(walk(4), [0, 1, 1, 2, 3]), 2, high=1.0)

    assert flaws(candles) == [(2, "BAD_OHLC")]


def test_a_row_at_a_time_at_which_the_market_is_closed_is_outside_of_its_session() -> None:
    saturday = walk(5, timeframe=D1)  # from Wednesday, 15 November 2023
    assert flaws(saturday, D1, Calendar.XNYS) == [(3, "OUT_OF_SESSION"), (4, "OUT_OF_SESSION")]
    assert flaws(saturday, D1, ALWAYS) == []


# -- any flaw, anywhere ------------------------------------------------------------------------------------------------------


def _late(candles: Candles, at: int) -> tuple[Candles, int]:
    later = min(at + 3, len(candles) - 1)
    rows = [row for row in range(len(candles)) if row != at]
    return picked(candles, [*rows[:later], at, *rows[later:]]), later


INJECTIONS: dict[str, Callable[[Candles, int], tuple[Candles, int]]] = {
    "NOT_A_PRICE": lambda candles, at: (having(candles, at, low=0.0), at),
    "BAD_OHLC": lambda candles, at: (having(candles, at, low=float(candles.high[at]) * 1.0001), at),
    "OFF_GRID": lambda candles, at: (having(candles, at, open_ms=int(candles.open_ms[at]) + 1000), at),
    "OUT_OF_ORDER": _late,
    "DUPLICATE": lambda candles, at: (picked(candles, [*range(at + 1), at, *range(at + 1, len(candles))]), at + 1),
    "JUMP up": lambda candles, at: (_times(candles, at, 10.0), at),
    "JUMP down": lambda candles, at: (_times(candles, at, 0.1), at),
    "JUMP high": lambda candles, at: (having(candles, at, high=float(candles.high[at]) * 3), at),
    "JUMP low": lambda candles, at: (having(candles, at, low=float(candles.low[at]) / 3), at),
    "JUMP close": lambda candles, at: (
        having(candles, at, close=float(candles.close[at]) * 10, high=float(candles.high[at]) * 10), at
    ),
}  # fmt: skip


def _times(candles: Candles, at: int, factor: float) -> Candles:
    return having(candles, at, **{name: float(getattr(candles, name)[at]) * factor for name in COLUMNS[1:5]})


@given(
    injection=st.sampled_from(sorted(INJECTIONS)), seed=st.integers(0, 2**32 - 1), length=st.integers(30, 90),
    timeframe=st.sampled_from(Timeframe), move=st.sampled_from([1e-6, 0.0005, 0.002]), data=st.data(),
)  # fmt: skip
def test_any_one_flaw_is_found_at_its_row_and_nothing_else_is(
    injection: str, seed: int, length: int, timeframe: Timeframe, move: float, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, length - (2 if injection == "OUT_OF_ORDER" else 1)))
    candles = walk(length, seed, timeframe, move)
    assert flaws(candles, timeframe) == []

    spoiled, row = INJECTIONS[injection](candles, at)

    assert flaws(spoiled, timeframe) == [(row, injection.split()[0])]


# -- jumps -------------------------------------------------------------------------------------------------------------------


def test_a_market_that_has_not_moved_at_all_may_move_but_not_by_a_decimal() -> None:
    flat = Candles(FIRST + np.arange(300) * 60_000, *(np.full(300, 0.00000001) for _ in range(5)))
    twice = having(flat, 299, **dict.fromkeys(("high", "close"), 0.00000002))
    tenfold = having(flat, 299, **dict.fromkeys(("high", "close"), 0.0000001))

    assert (flaws(twice), flaws(tenfold)) == ([], [(299, "JUMP")])


def test_a_move_that_stays_is_a_move_and_the_last_row_is_judged_by_what_came_before() -> None:
    candles = walk(300)
    factor = np.where(np.arange(300) < 200, 1, 0.05)
    split = replace(candles, **{name: factor * getattr(candles, name) for name in COLUMNS[1:5]})

    assert flaws(split) == []
    assert flaws(split.upto(202)) == []
    assert flaws(split.upto(201)) == [(200, "JUMP")]


def test_up_to_three_wrong_rows_in_a_row_are_found_and_none_beside_them() -> None:
    candles = walk(300)
    for at in (100, 101, 102):
        candles = _times(candles, at, 10)

    assert flaws(candles) == [(100, "JUMP"), (101, "JUMP"), (102, "JUMP")]


def test_the_longer_the_market_was_not_seen_the_farther_it_may_have_gone() -> None:
    candles = _times(walk(300), 299, 1.7)
    limit = next(finding.detail for finding in inspect(candles, M1, ALWAYS, now_ms=LATER).findings)

    assert limit.startswith("wanted prices within a factor of 1.3 of")
    assert flaws(having(candles, 299, open_ms=int(candles.open_ms[299]) + 99 * 60_000)) == []


def test_a_single_row_is_measured_by_those_stored_before_it() -> None:
    candles = walk(300)
    row = picked(_times(candles, 299, 10), [299])

    measured = inspect(row, M1, ALWAYS, now_ms=LATER, before=candles.upto(299))
    alone = inspect(row, M1, ALWAYS, now_ms=LATER)

    assert [finding.flaw for finding in measured.findings] == [Flaw.JUMP]
    assert (measured.is_good.tolist(), alone.is_good.tolist()) == ([False], [True])


def test_stored_rows_of_the_batch_s_own_time_are_no_measure_of_it() -> None:
    candles = walk(300)
    revised = picked(_times(candles, 200, 10), list(range(200, 300)))

    found = inspect(revised, M1, ALWAYS, now_ms=LATER, before=candles)

    assert [(finding.index, finding.flaw) for finding in found.findings] == [(0, Flaw.JUMP)]


def test_in_all_real_candles_two_rows_jump_of_which_one_is_a_wrong_print() -> None:
    jumps = {}
    for name in (*REAL, *SHARES):
        found = inspect(real(name), timeframe_of(name), calendar_of(name), now_ms=LATER).findings
        jumps[name] = [finding.open_ms for finding in found if finding.flaw is Flaw.JUMP]

    assert {name: times for name, times in jumps.items() if times} == {
        "equity/lean_1d/AIG-1d.csv.gz": [ms("2009-05-05")],  # a high of 20.98 at a price of 1.50
        "market/binance_spot_15m/MANA_USDT-15m.csv.gz": [ms("2020-09-10T09:30")],  # a low of 0.03 at a price of 0.077
    }


def test_seen_as_they_came_one_by_one_they_jump_no_more_than_that_and_on_a_split() -> None:
    jumps = []
    for name in (*REAL, *SHARES):
        candles = real(name)
        reach = np.maximum(candles.high[1:] / candles.close[:-1], candles.close[:-1] / candles.low[1:])
        for at in (np.flatnonzero(reach > 1.2) + 1).tolist():
            row, before = picked(candles, [at]), candles.upto(at)
            found = inspect(row, timeframe_of(name), calendar_of(name), now_ms=LATER, before=before)
            jumps += [(name.split("/")[-1][:3], finding.open_ms) for finding in found.findings]

    assert sorted(jumps) == [
        ("AIG", ms("2009-05-05")), ("AIG", ms("2009-07-01")), ("MAN", ms("2020-09-10T09:30"))
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["market/binance_spot_1h/BTC_USDT-1h.csv.gz", "market/kucoin_1m/XRP_USDT-1m.csv.gz"])
@pytest.mark.parametrize("at", [0, 1, 50, 10_440, -1])  # 10,440: just after the fall of 12 March 2020
@pytest.mark.parametrize("injection", [name for name in INJECTIONS if name.startswith("JUMP")])
def test_a_spike_in_real_candles_is_found_even_in_a_crash(name: str, at: int, injection: str) -> None:
    candles = real(name)
    timeframe, row = timeframe_of(name), at % len(candles)

    spoiled, _ = INJECTIONS[injection](candles, row)

    assert flaws(spoiled, timeframe) == [(row, "JUMP")]


# -- what is missing ---------------------------------------------------------------------------------------------------------


def minutes(*numbers: int) -> IntArray:
    return FIRST + np.array(numbers, dtype=np.int64) * 60_000


def holes(opens: IntArray, first: int, until: int) -> list[tuple[int, int, int]]:
    found = gaps(opens, M1, ALWAYS, FIRST + first * 60_000, FIRST + until * 60_000)
    return [((gap.from_ms - FIRST) // 60_000, (gap.until_ms - FIRST) // 60_000, gap.missing) for gap in found]


@pytest.mark.parametrize(
    ("opens", "first", "until", "expected"),
    [
        (minutes(0, 1, 2), 0, 3, []),
        (minutes(0, 1, 4, 5, 7), 0, 8, [(2, 4, 2), (6, 7, 1)]),
        (minutes(2, 3), 0, 6, [(0, 2, 2), (4, 6, 2)]),
        (minutes(2, 3), 1, 5, [(1, 2, 1), (4, 5, 1)]),
        (minutes(0, 9), 3, 5, [(3, 5, 2)]),
        (minutes(), 0, 3, [(0, 3, 3)]),
        (minutes(1), 1, 2, []),
        (minutes(1), 5, 5, []),
        (np.append(minutes(0, 2), FIRST + 150_000), 0, 4, [(1, 2, 1), (3, 4, 1)]),
        (np.array([FIRST, FIRST + 30_000, FIRST + 90_000, FIRST + 120_000]), 0, 3, [(1, 2, 1)]),
    ],
)
def test_a_gap_begins_with_what_is_missing_and_ends_with_what_is_there(
    opens: IntArray, first: int, until: int, expected: list[tuple[int, int, int]]
) -> None:
    assert holes(opens, first, until) == expected


def test_a_closed_market_is_no_gap_and_a_gap_goes_on_over_it() -> None:
    friday, monday = ms("2024-07-05"), ms("2024-07-08")
    whole = expected_opens(Calendar.XNYS, H1, friday, monday + 86_400_000)

    assert gaps(whole, H1, Calendar.XNYS, friday, monday + 86_400_000) == []
    assert gaps(np.delete(whole, [5, 6, 7, 8]), H1, Calendar.XNYS, friday, monday + 86_400_000) == [
        Gap(ms("2024-07-05T18:00"), ms("2024-07-08T15:00"), 4)
    ]


@given(missing=st.sets(st.integers(0, 199)), calendar=st.sampled_from(Calendar))
def test_gaps_hold_exactly_what_is_missing(missing: set[int], calendar: Calendar) -> None:
    whole = expected_opens(calendar, H1, FIRST, FIRST + 200 * 86_400_000)[:200]
    until_ms = int(whole[-1]) + 1
    there = np.delete(whole, sorted(missing))

    found = gaps(there, H1, calendar, int(whole[0]), until_ms)

    inside = [expected_opens(calendar, H1, gap.from_ms, gap.until_ms) for gap in found]
    assert [len(some) for some in inside] == [gap.missing for gap in found]
    np.testing.assert_array_equal(np.concatenate([*inside, minutes()]), whole[sorted(missing)])
    assert len(found) == sum(at - 1 not in missing for at in missing)


def test_the_expected_findings_are_those_of_the_files_that_are_looked_at() -> None:
    assert set(reference_json("expected/data_quality.json")) == set(REAL)


@pytest.mark.parametrize("name", REAL)
def test_in_real_candles_exactly_what_is_missing_or_wrong_is_found(name: str) -> None:
    expected = reference_json("expected/data_quality.json")[name]
    candles, timeframe = real(name), Timeframe(expected["timeframe"])

    missing = gaps(candles.open_ms, timeframe, ALWAYS, int(candles.open_ms[0]), int(candles.open_ms[-1]) + 1)
    found = Counter(finding.flaw for finding in inspect(candles, timeframe, ALWAYS, now_ms=LATER).findings)

    assert {
        "rows": len(candles), "first": _words(candles.open_ms[0]), "last": _words(candles.open_ms[-1]),
        "n_gaps": len(missing), "missing": sum(gap.missing for gap in missing), "dups": found[Flaw.DUPLICATE],
        "out_of_order": found[Flaw.OUT_OF_ORDER], "bad_ohlc": found[Flaw.BAD_OHLC],
    } == {name: figure for name, figure in expected.items() if name not in ("gaps", "timeframe")}  # fmt: skip
    if "gaps" in expected:
        step = timeframe.seconds * 1000
        told = [
            {"after": _words(gap.from_ms - step), "next": _words(gap.until_ms), "missing": gap.missing}
            for gap in missing
        ]
        assert told == expected["gaps"]


def _words(at_ms: int) -> str:
    return datetime.fromtimestamp(int(at_ms) / 1000, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S")
