"""Candles read in from files and written out again: each once, inspected, with every digit; interrupted or repeated."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from domain.candles import Timeframe
from domain.quality import Flaw
from marketdata import interchange
from marketdata.columns import Unreadable
from marketdata.interchange import Progress, ReadIn, UnableToWriteOut, candles_read_in, candles_write_out
from marketdata.layouts import parts
from marketdata.models import Candle, CandleRevision, Feed, QuarantinedCandle, SourceKind
from tests.domain.reference import reference_path
from tests.factories import NOON, make_feed, make_market

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)
HEADER = "ts,open,high,low,close,volume"
Row = tuple[int, str, str, str, str, str]


def hourly(**fields: object) -> Feed:
    return make_feed(make_market(symbol="BTC/USDT"), Timeframe.H1, **fields)


def quiet(hour: int, close: str = "50001.10") -> Row:
    """A candle that opens so many hours after noon."""
    return hour, "50000", "50002", "49999.000000000000000001", close, "0.10"


def write(path: Path, rows: Sequence[Row]) -> Path:
    lines = [f"{int((NOON + row[0] * HOUR).timestamp() * 1000)},{','.join(row[1:])}" for row in rows]
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return path


def stored(feed: Feed) -> list[tuple[datetime, Decimal, Decimal, Decimal, Decimal, Decimal]]:
    names = ("open_at", "open", "high", "low", "close", "volume")
    return list(Candle.objects.filter(feed=feed).order_by("open_at").values_list(*names))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of some twenty rows."""
    monkeypatch.setattr(interchange, "parts", lambda path: parts(path, 1200))
    monkeypatch.setattr(interchange, "PART_BYTES", 1200)


# -- in -----------------------------------------------------------------------------------------------------------------


def test_a_file_is_read_in_with_every_digit(tmp_path: Path) -> None:
    feed = hourly()

    done = candles_read_in(feed, [write(tmp_path / "a.csv", [quiet(hour) for hour in range(3)])])

    assert done == ReadIn(files=1, seen=3, new=3, first_at=NOON, last_at=NOON + 2 * HOUR)
    assert stored(feed) == [
        (NOON + hour * HOUR, Decimal(50000), Decimal(50002), Decimal("49999.000000000000000001"), Decimal("50001.1"),
         Decimal("0.1"))
        for hour in range(3)
    ]  # fmt: skip
    assert set(Candle.objects.values_list("source", flat=True)) == {SourceKind.FILE}


def test_read_in_again_it_changes_nothing(tmp_path: Path) -> None:
    feed, path = hourly(), write(tmp_path / "a.csv", [quiet(hour) for hour in range(3)])
    candles_read_in(feed, [path])
    before = stored(feed)

    again = candles_read_in(feed, [path])

    assert (again.seen, again.new, again.revised, again.unchanged) == (3, 0, 0, 3)
    assert stored(feed) == before
    assert not CandleRevision.objects.exists()


def test_what_a_file_tells_otherwise_is_a_revision(tmp_path: Path) -> None:
    feed = hourly()
    candles_read_in(feed, [write(tmp_path / "a.csv", [quiet(0), quiet(1)])])

    done = candles_read_in(feed, [write(tmp_path / "a.csv", [quiet(0), quiet(1, close="50001.2")])])

    revision = CandleRevision.objects.get()
    assert (done.revised, done.unchanged) == (1, 1)
    assert (revision.open_at, revision.was_close, revision.close) == (
        NOON + HOUR,
        Decimal("50001.1"),
        Decimal("50001.2"),
    )


@pytest.mark.usefixtures("small")
def test_an_interrupted_one_is_taken_up_by_reading_in_again(tmp_path: Path) -> None:
    feed, path = hourly(), write(tmp_path / "a.csv", [quiet(hour) for hour in range(100)])

    def stop(progress: Progress) -> None:
        if progress.rows > 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        candles_read_in(feed, [path], tell=stop)
    halfway = Candle.objects.count()
    done = candles_read_in(feed, [path])

    assert 40 < halfway < 100
    assert (done.new, done.unchanged) == (100 - halfway, halfway)
    assert [row[0] for row in stored(feed)] == [NOON + hour * HOUR for hour in range(100)]


@pytest.mark.usefixtures("small")
def test_of_a_part_that_cannot_be_read_nothing_is_stored_and_those_before_stay(tmp_path: Path) -> None:
    feed = hourly()
    path = write(tmp_path / "a.csv", [quiet(hour, close="x" if hour == 70 else "50001") for hour in range(100)])

    with pytest.raises(Unreadable, match="a.csv, row 71, column close: wanted a number, was 'x'"):
        candles_read_in(feed, [path])

    opens = [row[0] for row in stored(feed)]
    assert opens == [NOON + hour * HOUR for hour in range(len(opens))]
    assert 0 < len(opens) <= 70


@pytest.mark.usefixtures("small")
def test_progress_is_told_over_all_files(tmp_path: Path) -> None:
    told: list[Progress] = []
    write(tmp_path / "b.csv", [quiet(hour) for hour in range(100)])
    write(tmp_path / "a.csv", [quiet(hour) for hour in range(100, 200)])

    done = candles_read_in(hourly(), [tmp_path], tell=told.append)

    percents = [progress.percent for progress in told]
    assert (done.files, done.seen, told[-1].rows, told[-1].percent) == (2, 200, 200, 100.0)
    assert percents == sorted(percents)
    assert len(told) > 5
    # By the rows that were read in, not by how far ahead of them the file was read.
    assert [progress.percent for progress in told] == pytest.approx([progress.rows / 2 for progress in told], abs=8)
    assert told[-1].left == timedelta(0)
    assert all(progress.rows_per_second > 0 for progress in told)


def test_a_candle_that_is_still_open_is_left_out(tmp_path: Path) -> None:
    feed = hourly()
    now = feed.market.exchange.time_at(datetime.now(NOON.tzinfo))
    hour = int((Timeframe.H1.open_of(now) - NOON) / HOUR)

    done = candles_read_in(feed, [write(tmp_path / "a.csv", [quiet(hour - 1), quiet(hour)])])

    assert (done.new, done.still_open, done.quarantined) == (1, 1, 0)
    assert not QuarantinedCandle.objects.exists()


@pytest.mark.parametrize(("is_needed", "new", "ahead"), [(True, 2, 1), (False, 3, 0)])
def test_what_is_ahead_of_a_collection_is_left_to_it(tmp_path: Path, is_needed: bool, new: int, ahead: int) -> None:
    feed = hourly(is_needed=is_needed, last_open_at=NOON + HOUR)

    done = candles_read_in(feed, [write(tmp_path / "a.csv", [quiet(hour) for hour in range(3)])])

    assert (done.new, done.ahead) == (new, ahead)


BAD_ROWS: list[tuple[Row, Flaw]] = [
    ((30, "50000", "49000", "49999", "50001", "1"), Flaw.BAD_OHLC),
    ((31, "50000", "", "49999", "50001", "1"), Flaw.NOT_A_PRICE),
    ((32, "500000", "500000", "500000", "500000", "1"), Flaw.JUMP),
    ((3, "50000", "50002", "49999", "50001", "1"), Flaw.OUT_OF_ORDER),
]


def test_rows_that_fail_their_checks_are_quarantined_as_they_came_and_the_rest_is_stored(tmp_path: Path) -> None:
    feed = hourly()
    rows = [
        *(quiet(hour) for hour in range(4, 30)),
        *(row for row, _ in BAD_ROWS),
        *(quiet(hour) for hour in range(33, 50)),
    ]

    done = candles_read_in(feed, [write(tmp_path / "a.csv", rows)])

    assert (done.seen, done.new, done.quarantined) == (47, 43, 4)
    assert dict(done.flaws) == {flaw: 1 for _, flaw in BAD_ROWS}
    kept = {(row.open_at, row.flaw): row for row in QuarantinedCandle.objects.all()}
    assert set(kept) == {(NOON + row[0] * HOUR, flaw) for row, flaw in BAD_ROWS}
    missing = kept[NOON + 31 * HOUR, Flaw.NOT_A_PRICE]
    assert missing.row == {"open": "50000", "high": "nan", "low": "49999", "close": "50001", "volume": "1"}
    assert (missing.times, missing.source) == (1, SourceKind.FILE)


def test_a_row_that_is_quarantined_twice_is_counted_and_was_taken_if_it_was_taken_as_it_is(tmp_path: Path) -> None:
    feed = hourly()
    path = write(tmp_path / "a.csv", [*(quiet(hour) for hour in range(30)), BAD_ROWS[0][0]])
    candles_read_in(feed, [path])
    QuarantinedCandle.objects.update(released_at=NOON)

    candles_read_in(feed, [path])
    kept = QuarantinedCandle.objects.get()
    assert (kept.times, kept.released_at) == (2, NOON)

    QuarantinedCandle.objects.update(row={"open": "otherwise"})
    candles_read_in(feed, [path])
    kept = QuarantinedCandle.objects.get()
    assert (kept.times, kept.released_at) == (3, None)


def test_prices_that_jump_are_taken_when_somebody_says_so(tmp_path: Path) -> None:
    feed = hourly()
    path = write(tmp_path / "a.csv", [*(quiet(hour) for hour in range(30)), BAD_ROWS[2][0], quiet(33)])

    careful = candles_read_in(feed, [path])
    bold = candles_read_in(feed, [path], takes_jumps=True)

    assert (careful.quarantined, bold.quarantined, bold.new) == (1, 0, 1)
    assert Candle.objects.get(feed=feed, open_at=NOON + 32 * HOUR).close == 500000
    jump = QuarantinedCandle.objects.get()
    assert (jump.times, jump.released_at) == (2, jump.last_seen_at)


def test_of_jumps_only_those_that_were_taken_leave_the_quarantine(tmp_path: Path) -> None:
    feed = hourly(is_needed=True, last_open_at=NOON + 31 * HOUR)
    path = write(tmp_path / "a.csv", [*(quiet(hour) for hour in range(30)), BAD_ROWS[2][0], quiet(33)])
    candles_read_in(feed, [path])

    done = candles_read_in(feed, [path], takes_jumps=True)

    assert (done.new, done.ahead) == (0, 2)
    assert QuarantinedCandle.objects.get().released_at is None


def test_a_jump_that_was_taken_is_doubted_no_more(tmp_path: Path) -> None:
    feed = hourly()
    path = write(tmp_path / "a.csv", [*(quiet(hour) for hour in range(30)), BAD_ROWS[2][0], quiet(33)])

    for takes_jumps in (False, True, False):
        candles_read_in(feed, [path], takes_jumps=takes_jumps)

    kept = QuarantinedCandle.objects.get()
    assert (kept.flaw, kept.times, kept.released_at is not None) == (Flaw.JUMP, 3, True)


def test_a_row_that_is_told_otherwise_after_it_was_taken_is_doubted_again(tmp_path: Path) -> None:
    feed, jump = hourly(), BAD_ROWS[2][0]
    calm = [*(quiet(hour) for hour in range(30)), quiet(33)]
    candles_read_in(feed, [write(tmp_path / "a.csv", [*calm[:-1], jump, calm[-1]])])
    candles_read_in(feed, [write(tmp_path / "a.csv", [*calm[:-1], jump, calm[-1]])], takes_jumps=True)

    candles_read_in(feed, [write(tmp_path / "b.csv", [*calm[:-1], (*jump[:5], "7"), calm[-1]])])

    kept = QuarantinedCandle.objects.get()
    assert (kept.row["volume"], kept.released_at) == ("7", None)


def test_the_first_rows_are_measured_by_what_is_stored(tmp_path: Path) -> None:
    feed = hourly()
    candles_read_in(feed, [write(tmp_path / "a.csv", [quiet(hour) for hour in range(30)])])

    done = candles_read_in(feed, [write(tmp_path / "b.csv", [(30, *BAD_ROWS[2][0][1:]), quiet(31)])])

    assert dict(done.flaws) == {Flaw.JUMP: 1}


def test_a_file_of_which_most_rows_fail_alike_is_taken_for_something_else_and_refused(tmp_path: Path) -> None:
    feed, rows = hourly(), [quiet(hour) for hour in range(60)]

    with pytest.raises(Unreadable) as raised:
        candles_read_in(feed, [write(tmp_path / "a.csv", rows[::-1])])

    assert str(raised.value).startswith(
        "a.csv: wanted candles of which most pass their checks, was OUT_OF_ORDER of 59 in 60, the first at 2024-05-03 22:00: "
    )
    assert not Candle.objects.exists()
    assert not QuarantinedCandle.objects.exists()


# -- out ----------------------------------------------------------------------------------------------------------------

OUT = ["a.csv", "a.csv.gz", "a.csv.zst", "a.parquet", "a.feather"]


def filled(tmp_path: Path, rows: int = 60) -> Feed:
    feed = hourly()
    candles_read_in(feed, [write(tmp_path / "given.csv", [quiet(hour) for hour in range(rows)])])
    return feed


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", [*OUT, "BTC_USDT-1h.json", "BTC_USDT-1h.json.gz"])
def test_what_is_written_out_reads_in_as_equal(tmp_path: Path, name: str) -> None:
    feed, path = filled(tmp_path), tmp_path / name
    told: list[Progress] = []

    written = candles_write_out(feed, path, is_freqtrade=".json" in name, tell=told.append)
    before = stored(feed)
    again = candles_read_in(feed, [path])
    Candle.objects.all().delete()
    anew = candles_read_in(feed, [path])

    assert (written, again.unchanged, again.revised, anew.new) == (60, 60, 0, 60)
    assert stored(feed) == before
    assert (told[-1].rows, told[-1].percent) == (60, 100.0)
    assert len(told) > 1


def test_our_csv_is_written_as_it_is_read(tmp_path: Path) -> None:
    candles_write_out(filled(tmp_path, rows=2), tmp_path / "a.csv")

    assert (tmp_path / "a.csv").read_text() == (
        "ts,open,high,low,close,volume\n"
        "1714564800000,50000,50002,49999.000000000000000001,50001.1,0.1\n"
        "1714568400000,50000,50002,49999.000000000000000001,50001.1,0.1\n"
    )


@pytest.mark.parametrize("suffix", ["feather", "parquet"])
def test_freqtrade_s_tables_have_its_columns_and_floats(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"BTC_USDT-1h.{suffix}"

    candles_write_out(filled(tmp_path, rows=2), path, is_freqtrade=True)

    table = feather.read_table(path) if suffix == "feather" else parquet.read_table(path)
    assert table.schema.names == ["date", "open", "high", "low", "close", "volume"]
    assert table.schema.types == [pa.timestamp("ms", "UTC"), *[pa.float64()] * 5]
    assert table.to_pylist()[1] == {
        "date": NOON + HOUR, "open": 50000.0, "high": 50002.0, "low": 49999.0, "close": 50001.1, "volume": 0.1,
    }  # fmt: skip


def test_freqtrade_s_json_is_a_list_of_rows(tmp_path: Path) -> None:
    path = tmp_path / "BTC_USDT-1h.json"

    candles_write_out(filled(tmp_path, rows=2), path, is_freqtrade=True)

    assert json.loads(path.read_text())[0] == [1714564800000, 50000, 50002, 49999.0, 50001.1, 0.1]


@pytest.mark.parametrize(
    ("from_hour", "until_hour", "hours"),
    [(None, 2, [0, 1]), (58, None, [58, 59]), (3, 5, [3, 4])],
)
def test_a_span_is_written_out(tmp_path: Path, from_hour: int | None, until_hour: int | None, hours: list[int]) -> None:
    at = [None if hour is None else NOON + hour * HOUR for hour in (from_hour, until_hour)]

    candles_write_out(filled(tmp_path), tmp_path / "a.csv", *at)

    (part,) = parts(tmp_path / "a.csv")
    first = int(NOON.timestamp() * 1000)
    assert ((part.candles.open_ms - first) // 3_600_000).tolist() == hours


@pytest.mark.parametrize(
    ("name", "is_freqtrade", "words"),
    [
        ("a.json", False, "wanted a file that ends in .csv, .csv.gz, .parquet or .feather, was a.json"),
        ("a.csv", True, "wanted a file that ends in .json, .json.gz, .feather or .parquet for freqtrade, was a.csv"),
        ("a.zip", False, "wanted a file that ends in .csv, .csv.gz, .parquet or .feather, was a.zip"),
        ("given.csv", False, "wanted the name of a new file, "),
        ("nowhere/a.csv", False, "wanted a directory that is there, was "),
    ],
)
def test_what_cannot_be_written_is_refused_and_no_file_is_left(
    tmp_path: Path, name: str, is_freqtrade: bool, words: str
) -> None:
    feed = filled(tmp_path)
    before = (tmp_path / "given.csv").read_text()

    with pytest.raises(UnableToWriteOut) as raised:
        candles_write_out(feed, tmp_path / name, is_freqtrade=is_freqtrade)

    assert str(raised.value).startswith(words)
    assert [path.name for path in tmp_path.iterdir()] == ["given.csv"]
    assert (tmp_path / "given.csv").read_text() == before


def test_nothing_to_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnableToWriteOut, match="wanted candles of simulator-BTC/USDT-1h in this span, was none"):
        candles_write_out(hourly(), tmp_path / "a.csv")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("small")
def test_one_that_is_interrupted_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    feed = filled(tmp_path)

    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    before = (tmp_path / "given.csv").read_text()
    with pytest.raises(KeyboardInterrupt):
        candles_write_out(feed, tmp_path / "given.csv", may_replace=True, tell=stop)

    assert (tmp_path / "given.csv").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["given.csv"]


# -- real candles -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv.gz", ".parquet", ".feather"])
@pytest.mark.parametrize(
    ("name", "symbol", "timeframe"),
    [
        ("market/binance_spot_4h/BTC_USDT-4h.csv.gz", "BTC/USDT", Timeframe.H4),
        ("market/freqtrade_5m/TRX_BTC-5m.csv.gz", "TRX/BTC", Timeframe.M5),
    ],
)
def test_real_candles_are_the_same_after_a_round_trip(
    tmp_path: Path, suffix: str, name: str, symbol: str, timeframe: Timeframe
) -> None:
    feed = make_feed(make_market(symbol=symbol), timeframe)
    done = candles_read_in(feed, [reference_path(name)], takes_jumps=True)
    before = stored(feed)

    candles_write_out(feed, tmp_path / f"a{suffix}")
    Candle.objects.all().delete()
    again = candles_read_in(feed, [tmp_path / f"a{suffix}"], takes_jumps=True)

    assert (again.new, again.seen) == (done.new, done.new)
    assert stored(feed) == before
    (given,), (back,) = (list(parts(path)) for path in (reference_path(name), tmp_path / f"a{suffix}"))
    # The columns of candles have eighteen decimals; some files have a float's twenty.
    assert np.abs(given.candles.close - back.candles.close).max() <= 1e-18
