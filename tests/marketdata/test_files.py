"""A file as a source: what it has from a time on, read once until it changes, and nothing outside of its directory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from domain.candles import Timeframe
from exchanges.gateway import CandleReport
from marketdata.columns import Part
from marketdata.layouts import files_of, parts
from marketdata.models import Feed
from marketdata.sources import SourceFailed, files
from marketdata.sources.files import FileSource
from r3edge_site.environment import Environment
from tests.factories import NOON, make_feed, make_market

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)


@pytest.fixture
def shelf_dir(tmp_path: Path, settings: Any) -> Path:
    """The directory that R3EDGE_CANDLE_FILES names, empty, and nothing remembered of files before."""
    path = tmp_path / "candles"
    path.mkdir()
    settings.CANDLE_FILES = path
    files._read.clear()
    files._spans.clear()
    return path


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were opened."""
    names: list[str] = []

    def read(path: Path) -> Iterator[Part]:
        names.append(path.name)
        return parts(path)

    monkeypatch.setattr(files, "parts", read)
    return names


def write(path: Path, hours: range, close: str = "50000") -> Path:
    rows = "".join(f"{int((NOON + hour * HOUR).timestamp())},1,90000,1,{close},1.50\n" for hour in hours)
    path.write_text("ts,open,high,low,close,volume\n" + rows)
    return path


def hourly() -> Feed:
    return make_feed(make_market(symbol="BTC/USDT"), Timeframe.H1)


def opens(reports: Sequence[CandleReport]) -> list[int]:
    """Hours after noon."""
    return [(report.open_at - NOON) // HOUR for report in reports]


def test_a_file_gives_what_opens_at_a_time_or_later_as_many_as_asked_for(shelf_dir: Path) -> None:
    write(shelf_dir / "a.csv", range(10))
    source = FileSource(hourly(), "a.csv")

    assert source.candles(NOON + 9 * HOUR, 5) == [
        CandleReport(NOON + 9 * HOUR, Decimal(1), Decimal(90000), Decimal(1), Decimal(50000), Decimal("1.50"))
    ]
    assert opens(source.candles(NOON + 3 * HOUR, 4)) == [3, 4, 5, 6]
    assert opens(source.candles(NOON - HOUR, 2)) == [0, 1]
    assert source.candles(NOON + 10 * HOUR, 5) == []


def test_a_directory_gives_its_files_in_order_of_time_and_opens_only_what_it_needs(
    shelf_dir: Path, opened: list[str]
) -> None:
    write(shelf_dir / "c.csv", range(5))
    write(shelf_dir / "b.csv", range(5, 10))
    write(shelf_dir / "a.csv", range(10, 15))
    write(shelf_dir / "ETH_USDT-1h.csv", range(15, 20))
    source = FileSource(hourly(), ".")

    assert opens(source.candles(NOON + 3 * HOUR, 4)) == [3, 4, 5, 6]
    assert sorted(opened) == ["a.csv", "b.csv", "c.csv"]
    assert opens(source.candles(NOON + 8 * HOUR, 100)) == [8, 9, 10, 11, 12, 13, 14]
    assert len(opened) == 3


def test_files_that_overlap_tell_what_they_agree_on_once(shelf_dir: Path) -> None:
    write(shelf_dir / "a.csv", range(6))
    write(shelf_dir / "b.csv", range(2, 4))
    write(shelf_dir / "c.csv", range(5, 8), close="50001")

    found = FileSource(hourly(), ".").candles(NOON, 8)

    assert opens(found) == [0, 1, 2, 3, 4, 5, 5, 6]
    assert [report.close for report in found[5:7]] == [Decimal(50000), Decimal(50001)]


def test_a_file_is_read_again_when_it_changed_and_not_before(shelf_dir: Path, opened: list[str]) -> None:
    path = write(shelf_dir / "a.csv", range(3))
    source = FileSource(hourly(), "a.csv")
    first = [opens(source.candles(NOON, 9)) for _ in range(3)]
    write(path, range(4))
    second = [opens(FileSource(hourly(), "a.csv").candles(NOON, 9)) for _ in range(3)]

    assert first == [[0, 1, 2]] * 3
    assert second == [[0, 1, 2, 3]] * 3
    assert opened == ["a.csv", "a.csv"]


def test_a_file_of_the_same_size_is_read_again_by_its_time(shelf_dir: Path) -> None:
    path = write(shelf_dir / "a.csv", range(3))
    source = FileSource(hourly(), "a.csv")
    source.candles(NOON, 9)
    write(path, range(3), close="50001")
    os.utime(path, ns=(1, 1))

    assert [report.close for report in source.candles(NOON, 9)] == [Decimal(50001)] * 3


def test_what_is_remembered_has_a_limit(shelf_dir: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_BYTES", 1)
    write(shelf_dir / "a.csv", range(3))
    write(shelf_dir / "b.csv", range(3, 6))
    source = FileSource(hourly(), ".")
    source.candles(NOON, 9)
    opened.clear()

    assert opens(source.candles(NOON + 3 * HOUR, 9)) == [3, 4, 5]
    assert opens(source.candles(NOON, 2)) == [0, 1]
    # Where files begin and end is known without opening them.
    assert opened == ["a.csv"]
    assert len(files._read) == 1


def test_rows_out_of_order_are_found_all_the_same(shelf_dir: Path) -> None:
    path = write(shelf_dir / "a.csv", range(6))
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *reversed(rows)]) + "\n")

    assert opens(FileSource(hourly(), "a.csv").candles(NOON + HOUR, 3)) == [1, 2, 3]


def test_an_empty_file_has_no_candles(shelf_dir: Path) -> None:
    write(shelf_dir / "a.csv", range(0))

    assert FileSource(hourly(), "a.csv").candles(NOON, 9) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ts,open,high,low,close,volume\n1,2\n", "a.csv, line 2: wanted 6 columns, was 2: '1,2'"),
        ("nonsense\n", "a.csv: wanted a column for a time"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_source_that_failed_until_it_is_mended(
    shelf_dir: Path, text: str, words: str
) -> None:
    (shelf_dir / "a.csv").write_text(text)
    source = FileSource(hourly(), "a.csv")

    with pytest.raises(SourceFailed) as raised:
        source.candles(NOON, 9)
    write(shelf_dir / "a.csv", range(3))

    assert str(raised.value).startswith(words)
    assert not raised.value.is_final
    assert opens(source.candles(NOON, 9)) == [0, 1, 2]


def test_a_file_of_another_timeframe_is_refused(shelf_dir: Path) -> None:
    write(shelf_dir / "a.csv", range(20))

    with pytest.raises(SourceFailed, match="a.csv: wanted candles of 1m, was one every 60 minutes"):
        FileSource(make_feed(make_market(), Timeframe.M1), "a.csv").candles(NOON, 9)


# -- where it may read --------------------------------------------------------------------------------------------------


def outside(shelf_dir: Path) -> Path:
    return write(shelf_dir.parent / "secret.csv", range(3))


@pytest.mark.parametrize(
    ("symbol", "words"),
    [
        ("../secret.csv", "wanted a path below R3EDGE_CANDLE_FILES, was '../secret.csv'"),
        ("inside/../../secret.csv", "wanted a path below R3EDGE_CANDLE_FILES, was 'inside/../../secret.csv'"),
        ("{outside}", "wanted a path below R3EDGE_CANDLE_FILES, was "),
        ("", "wanted a path below R3EDGE_CANDLE_FILES, was ''"),
        ("a\0.csv", "wanted a path below R3EDGE_CANDLE_FILES, was 'a\\x00.csv'"),
        ("link.csv", "wanted a path below R3EDGE_CANDLE_FILES, led out of it at 'link.csv'"),
        ("away/secret.csv", "wanted a path below R3EDGE_CANDLE_FILES, led out of it at 'away/secret.csv'"),
        ("mixed", "wanted a path below R3EDGE_CANDLE_FILES, led out of it at 'mixed'"),
        ("circle", "wanted a path below R3EDGE_CANDLE_FILES, led out of it at 'circle'"),
        ("gone.csv", "wanted a file or directory below R3EDGE_CANDLE_FILES, was none at 'gone.csv'"),
    ],
)
def test_nothing_outside_of_the_directory_is_read(shelf_dir: Path, opened: list[str], symbol: str, words: str) -> None:
    secret = outside(shelf_dir)
    (shelf_dir / "inside").mkdir()
    (shelf_dir / "link.csv").symlink_to(secret)
    (shelf_dir / "away").symlink_to(secret.parent)
    (shelf_dir / "mixed").mkdir()
    (shelf_dir / "mixed" / "a.csv").symlink_to("../../secret.csv")
    (shelf_dir / "circle").symlink_to("circle")

    with pytest.raises(SourceFailed) as raised:
        FileSource(hourly(), symbol.format(outside=secret)).candles(NOON, 9)

    assert str(raised.value).startswith(words)
    assert raised.value.is_final
    assert opened == []


def test_a_link_that_stays_inside_is_followed(shelf_dir: Path) -> None:
    write(shelf_dir / "a.csv", range(2))
    (shelf_dir / "b.csv").symlink_to("a.csv")

    assert opens(FileSource(hourly(), "b.csv").candles(NOON, 9)) == [0, 1]


def test_without_a_directory_no_file_is_read(shelf_dir: Path, settings: Any) -> None:
    write(shelf_dir / "a.csv", range(2))
    settings.CANDLE_FILES = None

    with pytest.raises(SourceFailed, match="wanted a directory of candle files in R3EDGE_CANDLE_FILES, was none"):
        FileSource(hourly(), "a.csv").candles(NOON, 9)


@pytest.mark.parametrize(("value", "path"), [("", None), ("/srv/candles", Path("/srv/candles"))])
def test_the_directory_is_named_by_the_environment(
    monkeypatch: pytest.MonkeyPatch, value: str, path: Path | None
) -> None:
    monkeypatch.setenv("R3EDGE_CANDLE_FILES", value)

    assert Environment().candle_files == path


def test_a_relative_directory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R3EDGE_CANDLE_FILES", "candles")

    with pytest.raises(ValidationError, match="wanted an absolute path, was a relative one"):
        Environment()


def test_times_are_utc(shelf_dir: Path) -> None:
    write(shelf_dir / "a.csv", range(1))

    (report,) = FileSource(hourly(), "a.csv").candles(NOON, 1)

    assert report.open_at == datetime.fromisoformat("2024-05-01T12:00:00+00:00")
    assert report.open_at.utcoffset() == timedelta(0)


def test_a_file_that_goes_while_it_is_looked_at_is_a_source_that_failed(
    shelf_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(shelf_dir / "a.csv", range(3))
    source = FileSource(hourly(), "a.csv")
    source.candles(NOON, 10)

    def gone(*asked: Any) -> list[Path]:
        found = files_of(*asked)
        path.unlink()
        return found

    monkeypatch.setattr(files, "files_of", gone)

    with pytest.raises(SourceFailed, match="wanted a file, was at a.csv: No such file or directory"):
        source.candles(NOON, 10)
