"""Candle files of every layout become the same exact columns, or are refused with the place and what was there."""

from __future__ import annotations

import gzip
import json
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from domain.candles import Timeframe
from marketdata.columns import NUMBERS, Unreadable
from marketdata.layouts import files_of, in_order, named, parts, require_timeframe

NOON_MS = 1_714_564_800_000  # 2024-05-01 12:00 UTC
HOUR_MS = 3_600_000
ROWS: list[list[Any]] = [
    [NOON_MS, "0.1", "0.3", "0.10", "1.3773849999999999", "1413"],
    [NOON_MS + HOUR_MS, "0.00000001", "123456789.123456789", "1e-8", "0.2", "0"],
]
# As binary floats write themselves, shortest.
FLOAT_ROWS = [
    [NOON_MS, 0.1, 0.3, 0.1, 1.3773849999999999, 1413.0],
    [NOON_MS + HOUR_MS, 1e-8, 123456789.12, 1e-8, 0.2, 0.0],
]
COLUMNS = ["open_ms", *NUMBERS]


def read(path: Path) -> list[list[Any]]:
    """The rows of a file as they are handed on."""
    return [list(row.values()) for part in parts(path) for row in part.table.to_pylist()]


def refused(path: Path) -> str:
    with pytest.raises(Unreadable) as raised:
        read(path)
    return str(raised.value)


def text_of(header: str, rows: list[list[Any]], order: list[int] | None = None) -> str:
    lines = [",".join(str(row[at]) for at in (order or range(len(row)))) for row in rows]
    return "\n".join([header, *lines]) + "\n"


def written(path: Path, text: str) -> Path:
    data = text.encode()
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(data))
    elif path.suffix == ".zst":
        with pa.output_stream(str(path), compression="zstd") as stream:
            stream.write(data)
    else:
        path.write_bytes(data)
    return path


OURS = text_of("ts,open,high,low,close,volume", ROWS)


# -- text ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.csv.zst"])
def test_our_csv_keeps_every_digit(tmp_path: Path, name: str) -> None:
    assert read(written(tmp_path / name, OURS)) == ROWS


def test_columns_may_stand_in_any_order_among_others(tmp_path: Path) -> None:
    shuffled = [[*row, "x"] for row in ROWS]
    text = text_of("note, Volume ,HIGH,open,Low,ts,close", shuffled, [6, 5, 2, 1, 3, 0, 4])

    assert read(written(tmp_path / "a.csv", text)) == ROWS


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (NOON_MS // 1000, (NOON_MS + HOUR_MS) // 1000),
        (NOON_MS * 1000, (NOON_MS + HOUR_MS) * 1000),
        (NOON_MS * 1_000_000, (NOON_MS + HOUR_MS) * 1_000_000),
        ("2024-05-01 12:00", "2024-05-01T13:00:00"),
        ("2024-05-01T12:00:00Z", "2024-05-01 15:00:00.000000+02:00"),
    ],
)
def test_a_time_may_be_a_number_of_any_unit_or_iso_8601(tmp_path: Path, first: object, second: object) -> None:
    text = text_of("date,open,high,low,close,volume", [[first, *ROWS[0][1:]], [second, *ROWS[1][1:]]])

    assert read(written(tmp_path / "a.csv", text)) == ROWS


def test_a_price_that_is_missing_is_for_the_checks_to_judge(tmp_path: Path) -> None:
    text = text_of("ts,open,high,low,close,volume", [[NOON_MS, "", "null", " 1.50 ", "NaN", "None"]])

    assert read(written(tmp_path / "a.csv", text)) == [[NOON_MS, "nan", "nan", "1.50", "NaN", "nan"]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "a.csv: wanted a header and candles, was an empty line or nothing"),
        (
            "1,2,3\n",
            "a.csv: wanted a header with ts, open, high, low, close, volume, or 12 columns as Binance has, "
            "was 3 columns without a header",
        ),
        ("ts,open,high,low,Close*\n1,2,3,4,5\n", "a.csv: wanted a column for close, volume, was ts, open, high, low, Close*"),
        ("ts,open,open,high,low,close,volume\n", "a.csv: wanted one column open, was two of them"),
        (OURS + "1,2,3\n", "a.csv, line 4: wanted 6 columns, was 3: '1,2,3'"),
        (
            OURS + f"{NOON_MS + 2 * HOUR_MS},1,2,1,1'5,7\n",
            "a.csv, row 3, column close: wanted a number, was \"1'5\"",
        ),
        (
            OURS + f"{NOON_MS + 2 * HOUR_MS},1,2,1,1e18,7\n",
            "a.csv, row 3, column close: wanted a number below 10^18, was '1e18'",
        ),
        (
            OURS + "1714572000,1,2,1,1,7\n",
            "a.csv, row 3, column ts: wanted a time in the same unit as 1714564800000, was '1714572000'",
        ),
        (
            "ts,open,high,low,close,volume\n1714564800000500,1,2,1,1,7\n",
            "a.csv, row 1, column ts: wanted whole milliseconds, was '1714564800000500'",
        ),
        (
            "ts,open,high,low,close,volume\n20240501,1,2,1,1,7\n",
            "a.csv, row 1, column ts: wanted a time in s, ms, us or ns since 1970, after 1973, was 20240501",
        ),
        (
            "ts,open,high,low,close,volume\n01/05/2024,1,2,1,1,7\n",
            "a.csv, row 1, column ts: wanted a time: a number of s, ms, us or ns since 1970, or ISO 8601, was '01/05/2024'",
        ),
        (
            "ts,open,high,low,close,volume\n2024-05-01,1,2,1,1,7\n2024-05-02T01:00Z,1,2,1,1,7\n",
            "a.csv, row 2, column ts: wanted a time in ISO 8601 without a zone, as the rows before it, "
            "was '2024-05-02T01:00Z'",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_its_place(tmp_path: Path, text: str, words: str) -> None:
    assert refused(written(tmp_path / "a.csv", text)) == words


def test_the_place_is_that_in_the_file_and_not_in_its_part(tmp_path: Path) -> None:
    rows = [[NOON_MS + number * HOUR_MS, "1", "2", "1", "1", "7"] for number in range(3000)]
    rows[2900][4] = "x"
    path = written(tmp_path / "a.csv", text_of("ts,open,high,low,close,volume", rows))

    with pytest.raises(Unreadable, match="row 2901, column close: wanted a number, was 'x'"):
        list(parts(path, 4096))


def test_a_part_that_is_wrong_is_not_given_and_those_before_it_are(tmp_path: Path) -> None:
    rows = [[NOON_MS + number * HOUR_MS, "1", "2", "1", "1", "7"] for number in range(3000)]
    path = written(tmp_path / "a.csv", text_of("ts,open,high,low,close,volume", rows) + "1,2\n")
    given: list[int] = []

    with pytest.raises(Unreadable, match="line 3002: wanted 6 columns, was 2"):
        given.extend(part.table.num_rows for part in parts(path, 65536))

    assert 0 < sum(given) < 3000


def test_how_much_is_read_is_told(tmp_path: Path) -> None:
    rows = [[NOON_MS + number * HOUR_MS, "1", "2", "1", "1", "7"] for number in range(20_000)]
    path = written(tmp_path / "a.csv", text_of("ts,open,high,low,close,volume", rows))

    told = [part.done for part in parts(path, 65536)]

    assert len(told) > 5
    assert told == sorted(told)
    assert told[-1] == 1.0


@pytest.mark.parametrize("name", ["a.csv.gz", "a.csv.zst", "a.zip", "a.parquet", "a.feather", "a.json.gz"])
def test_a_broken_file_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"not at all what its name says")

    assert refused(path).startswith(f"{name}: wanted candles, was: ")


def test_a_compressed_file_that_ends_too_soon_is_refused(tmp_path: Path) -> None:
    rows = [[NOON_MS + number * HOUR_MS, str(number), "2", "1", "1", "7"] for number in range(20_000)]
    whole = gzip.compress(text_of("ts,open,high,low,close,volume", rows).encode())
    (tmp_path / "a.csv.gz").write_bytes(whole[: len(whole) // 2])

    assert refused(tmp_path / "a.csv.gz") == "a.csv.gz: wanted candles, was: Truncated compressed stream"


@pytest.mark.parametrize("name", ["a.txt", "a", "a.parquet.gz", "a.gz"])
def test_a_name_that_says_nothing_is_refused(tmp_path: Path, name: str) -> None:
    assert refused(tmp_path / name).startswith(f"{name}: wanted a file that ends in one of .csv, .json, .zip, .parquet")


# -- other people's -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["BTC_USDT-1h.json", "BTC_USDT-1h.json.gz"])
def test_freqtrade_s_json(tmp_path: Path, name: str) -> None:
    rows = [[row[0], *(float(number) for number in row[1:])] for row in ROWS]

    found = read(written(tmp_path / name, json.dumps(rows)))

    assert [[row[0], *map(Decimal, row[1:])] for row in found] == [
        [row[0], *(Decimal(repr(number)) for number in row[1:])] for row in rows
    ]


def test_freqtrade_s_json_without_a_candle(tmp_path: Path) -> None:
    assert read(written(tmp_path / "a.json", "[]")) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"error": 1}', 'a.json: wanted a list of [ms, open, high, low, close, volume], was {"error":1}'),
        ("[[1714564800000,1,2,1,1,7],[1]]", "a.json, line 2: wanted 6 columns, was 1: '1'"),
        ("[[1714564800000,1,2,1,1,[7]]]", "a.json, row 1, column volume: wanted a number, was '[7]'"),
    ],
)
def test_other_json_is_refused(tmp_path: Path, text: str, words: str) -> None:
    assert refused(written(tmp_path / "a.json", text)) == words


@pytest.mark.parametrize(("unit", "zone"), [("ns", "UTC"), ("ms", "UTC"), ("us", None), ("s", "America/New_York")])
@pytest.mark.parametrize("suffix", ["feather", "parquet"])
def test_freqtrade_s_feather_and_parquet(tmp_path: Path, suffix: str, unit: str, zone: str | None) -> None:
    times = pa.array([row[0] for row in FLOAT_ROWS], pa.timestamp("ms")).cast(pa.timestamp(unit, zone))
    table = pa.table({"date": times, **{name: [row[at] for row in FLOAT_ROWS] for at, name in enumerate(NUMBERS, 1)}})
    path = tmp_path / f"BTC_USDT-1h.{suffix}"
    if suffix == "feather":
        feather.write_feather(table, path, compression="lz4")
    else:
        parquet.write_table(table, path)

    assert read(path) == [
        [NOON_MS, "0.1", "0.3", "0.1", "1.3773849999999999", "1413"],
        [NOON_MS + HOUR_MS, "1e-8", "123456789.12", "1e-8", "0.2", "0"],
    ]


def test_numbers_of_any_type_are_exact(tmp_path: Path) -> None:
    exact = [Decimal("0.000000000000000001"), Decimal("123456789012345678.123456789012345678")]
    table = pa.table(
        {
            "ts": [row[0] for row in ROWS],
            "open": pa.array(exact, pa.decimal128(38, 18)),
            "high": pa.array([0.1, 1.5], pa.float32()),
            "low": pa.array([1, 2**60 - 1], pa.int64()).cast(pa.int64()),
            "close": ["0.10", "2"],
            "volume": pa.array([1.0, None], pa.float64()),
        }
    )
    table = table.set_column(3, "low", pa.array([1, 2**59], pa.int64()))
    parquet.write_table(table, tmp_path / "a.parquet")

    found = read(tmp_path / "a.parquet")

    assert [Decimal(row[1]) for row in found] == exact
    assert [row[2:] for row in found] == [
        ["0.1", "1", "0.10", "1"],
        ["1.5", str(2**59), "2", "nan"],
    ]


def test_a_column_that_is_no_number_is_refused(tmp_path: Path) -> None:
    table = pa.table({"ts": [NOON_MS], **{name: [True] for name in NUMBERS}})
    parquet.write_table(table, tmp_path / "a.parquet")

    assert refused(tmp_path / "a.parquet") == (
        "a.parquet, row 1, column open: wanted numbers, of open none is bool, was True"
    )


BINANCE_HEADER = (
    "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore"
)


@pytest.mark.parametrize("has_header", [False, True])
@pytest.mark.parametrize("factor", [1, 1000])
def test_binance_s_archive(tmp_path: Path, has_header: bool, factor: int) -> None:
    rows = [[row[0] * factor, *row[1:], row[0] * factor + 1, "9", 4, "1", "2", 0] for row in ROWS]
    text = text_of(BINANCE_HEADER, rows) if has_header else "".join(f"{','.join(map(str, row))}\n" for row in rows)
    path = tmp_path / "BTCUSDT-1h-2024-05.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("BTCUSDT-1h-2024-05.csv", text)

    assert read(path) == ROWS


def test_a_zip_without_a_csv_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme.md", "")

    assert refused(tmp_path / "a.zip") == "a.zip: wanted a .csv file in it, was readme.md"


# -- what names say -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "symbol", "timeframe", "is_of"),
    [
        ("BTC_USDT-1h.json", "BTC/USDT", Timeframe.H1, True),
        ("BTC_USDT-1h.json", "BTC/USDT", Timeframe.M5, False),
        ("BTC_USDT-1h.json", "ETH/USDT", Timeframe.H1, False),
        ("BTC_USDT-1h.json", "BTC/USDT:USDT", Timeframe.H1, False),
        ("BTC_USDT_USDT-5m-futures.feather", "BTC/USDT:USDT", Timeframe.M5, True),
        ("BTC_USDT_USDT-8h-mark.feather", "BTC/USDT:USDT", Timeframe.H8, False),
        ("BTC_USDT_USDT-8h-funding_rate.feather", "BTC/USDT:USDT", Timeframe.H8, False),
        ("BTCUSDT-1h-2024-05.zip", "BTC/USDT", Timeframe.H1, True),
        ("BTCUSDT-1h-2024-05-31.zip", "BTC/USDT:USDT", Timeframe.H1, True),
        ("BTCUSDT-1mo-2024-05.zip", "BTC/USDT", Timeframe.M1, False),
        ("SPY-1d.csv.gz", "SPY/USD", Timeframe.D1, True),
    ],
)
def test_a_name_tells_pair_and_timeframe(name: str, symbol: str, timeframe: Timeframe, is_of: bool) -> None:
    found = named(Path(name))

    assert found is not None
    assert found.is_of(symbol, timeframe) is is_of


def test_a_name_of_neither_tells_nothing() -> None:
    assert named(Path("gbpusd-m1-bid-2012.csv.gz")) is None


def test_the_files_of_a_directory_are_read_in_the_order_of_their_candles_and_others_left_out(tmp_path: Path) -> None:
    header = "ts,open,high,low,close,volume"
    for name, at in (
        ("b.csv", 0),
        ("a.csv", 2),
        ("BTCUSDT-1h-2024-05.csv", 1),
        ("BTC_USDT-5m.csv", 3),
        ("ETH_USDT-1h.csv", 4),
    ):
        written(tmp_path / name, text_of(header, [[NOON_MS + at * HOUR_MS, *ROWS[0][1:]]]))  # fmt: skip
    (tmp_path / "BTCUSDT-1h-2024-05.zip.CHECKSUM").write_text("0")

    found = in_order(files_of([tmp_path], "BTC/USDT", Timeframe.H1))

    assert [path.name for path in found] == ["b.csv", "BTCUSDT-1h-2024-05.csv", "a.csv"]


def test_a_file_named_for_another_market_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "ETH_USDT-1h.csv", OURS)

    with pytest.raises(Unreadable) as raised:
        files_of([path], "BTC/USDT", Timeframe.H1)

    assert str(raised.value) == "ETH_USDT-1h.csv: wanted candles of BTC/USDT 1h, was named those of ETH/USDT 1h"


@pytest.mark.parametrize("what", ["nothing", "an empty directory"])
def test_paths_without_candles_are_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "gone.csv" if what == "nothing" else tmp_path

    with pytest.raises(Unreadable, match="wanted (a file, was nothing|candles of BTC/USDT 1h in it, was none)"):
        files_of([path], "BTC/USDT", Timeframe.H1)


@pytest.mark.parametrize(
    ("step_ms", "timeframe", "is_refused"),
    [
        (HOUR_MS, Timeframe.H1, False),
        (HOUR_MS // 12, Timeframe.H1, True),
        (HOUR_MS, Timeframe.M1, True),
        (24 * HOUR_MS, Timeframe.D1, False),
    ],
)
def test_candles_of_another_timeframe_are_told_by_their_steps(
    tmp_path: Path, step_ms: int, timeframe: Timeframe, is_refused: bool
) -> None:
    rows = [[NOON_MS + number * step_ms, "1", "2", "1", "1", "7"] for number in range(30) if number != 7]
    path = written(tmp_path / "a.csv", text_of("ts,open,high,low,close,volume", rows))
    part = next(parts(path))

    if is_refused:
        with pytest.raises(Unreadable, match=f"a.csv: wanted candles of {timeframe}, was one every "):
            require_timeframe(part, timeframe, "a.csv")
    else:
        require_timeframe(part, timeframe, "a.csv")
