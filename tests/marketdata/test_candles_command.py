"""``manage candles``: what is done, what is said of it, and with which exit code it ends."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import ManagementUtility, call_command
from django.core.management.base import CommandError
from django.utils import timezone

from domain.candles import Timeframe
from exchanges.models import Exchange
from marketdata.backfills import backfill_request
from marketdata.management.commands import candles
from marketdata.models import Backfill, BackfillStatus, Candle, Feed
from tests.factories import NOON, make_candles, make_exchange, make_feed, make_market

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def told(*arguments: object) -> str:
    """What the command says on standard output."""
    out = io.StringIO()
    call_command("candles", *map(str, arguments), stdout=out, stderr=io.StringIO())
    return out.getvalue()


def refused(*arguments: object) -> tuple[str, int]:
    with pytest.raises(CommandError) as raised:
        told(*arguments)
    return str(raised.value), raised.value.returncode


def write(path: Path, hours: range) -> Path:
    rows = "".join(f"{int((NOON + hour * HOUR).timestamp())},1.10,1.30,1,1.20,7\n" for hour in hours)
    path.write_text("ts,open,high,low,close,volume\n" + rows)
    return path


def hourly() -> Feed:
    """A feed with the candles of ten hours but the fourth and the fifth."""
    feed = make_feed(make_market(symbol="BTC/USDT"), Timeframe.H1)
    make_candles(feed, [50000.0] * 10, NOON + 9 * HOUR)
    Candle.objects.filter(feed=feed, open_at__in=[NOON + 3 * HOUR, NOON + 4 * HOUR]).delete()
    return feed


# -- import -------------------------------------------------------------------------------------------------------------


def test_files_are_imported_into_a_feed_that_is_made_with_its_market(tmp_path: Path) -> None:
    write(tmp_path / "b.csv", range(2))
    write(tmp_path / "a.csv", range(2, 5))

    said = told("import", tmp_path, "--exchange", "nyse", "--symbol", "SPY/USD", "--timeframe", "1h", "--make")

    feed = Feed.objects.get()
    assert said == (
        "made nyse, an exchange of which there is only data: nobody is called for it\n"
        "nyse-SPY/USD-1h: 5 rows of 2 files, 5 new, 0 revised, 0 there already; 2024-05-01 12:00 to 2024-05-01 16:00\n"
    )
    assert (feed.market.exchange.is_only_data, feed.candles.count(), feed.is_needed) == (True, 5, False)


def test_imported_again_all_is_there_already(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", range(2))
    arguments = ("import", path, "--exchange", "nyse", "--symbol", "SPY/USD", "--timeframe", "1h", "--make")
    told(*arguments)

    assert "2 rows of 1 file, 0 new, 0 revised, 2 there already" in told(*arguments)


def test_symbol_and_timeframe_may_be_told_by_the_names_of_the_files(tmp_path: Path) -> None:
    make_market(make_exchange("kucoin"), "BTC/USDT")
    path = write(tmp_path / "BTC_USDT-1h.csv", range(2))

    told("import", path, "--exchange", "kucoin", "--make")

    assert str(Feed.objects.get()) == "kucoin-BTC/USDT-1h"


def test_a_market_that_a_venue_does_not_list_is_not_made(tmp_path: Path) -> None:
    make_exchange("kucoin")
    path = write(tmp_path / "BTC_USDT-1h.csv", range(2))

    assert refused("import", path, "--exchange", "kucoin", "--make") == (
        "wanted a market that kucoin lists, was BTC/USDT; are its markets read?", 1,
    )  # fmt: skip
    assert not Feed.objects.exists()


@pytest.mark.parametrize(("name", "text", "words"), [
    ("ETH_USDT-1h.csv", "", "ETH_USDT-1h.csv: wanted candles of BTC/USDT 1h, was named those of ETH/USDT 1h"),
    ("a.csv", "hello", "a.csv: wanted a column for "),
])  # fmt: skip
def test_for_files_of_something_else_nothing_is_made_or_changed(
    tmp_path: Path, name: str, text: str, words: str
) -> None:
    (path := tmp_path / name).write_text(text)
    which = ("--symbol", "BTC/USDT", "--timeframe", "1h", "--calendar", "FX")

    assert refused("import", path, "--exchange", "nyse", *which, "--make")[0].startswith(words)
    assert not Exchange.objects.exists()
    feed = hourly()
    assert refused("import", path, "--exchange", "simulator", *which)[0].startswith(words)
    feed.refresh_from_db()
    assert feed.calendar == "24/7"


def test_a_calendar_is_set_and_told(tmp_path: Path) -> None:
    feed = hourly()

    said = told("import", write(tmp_path / "a.csv", range(3)), "--feed", feed.pk, "--calendar", "FX")

    assert said.startswith("calendar FX of simulator-BTC/USDT-1h, was 24/7\n")
    assert Feed.objects.get().calendar == "FX"


def test_a_file_that_cannot_be_read_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("ts,open,high,low,close,volume\n1714564800,1,x,1,1,1\n")

    assert refused("import", path, "--feed", hourly().pk) == (
        "a.csv, row 1, column high: wanted a number, was 'x'", 1,
    )  # fmt: skip


def test_an_import_that_is_interrupted_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(candles, "candles_read_in", interrupt)

    assert refused("import", write(tmp_path / "a.csv", range(3)), "--feed", hourly().pk) == (
        "interrupted: the same again takes it up where it was", 1,
    )  # fmt: skip


@pytest.mark.parametrize(("is_terminal", "sign"), [(True, "\r100.0 %, 3 rows, "), (False, "100.0 %, 3 rows, ")])
def test_progress_is_told_on_standard_error(tmp_path: Path, is_terminal: bool, sign: str) -> None:
    path, errors = write(tmp_path / "a.csv", range(3)), Terminal() if is_terminal else io.StringIO()

    call_command("candles", "import", str(path), "--feed", str(hourly().pk), stdout=io.StringIO(), stderr=errors)

    assert errors.getvalue().startswith(sign)
    assert errors.getvalue().endswith(" rows/s, 0:00:00 left\n")


# -- which feed ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["--feed", "123456"], "--feed: wanted the number of one there is, was 123456", 1),
        (["--exchange", "kucoin"], "wanted --feed, or --symbol and --timeframe beside what was given", 2),
        (["--feed", "1", "--symbol", "A/B"], "wanted --feed, or --exchange with --symbol and --timeframe, was both", 2),
        (
            ["--exchange", "kucoin", "--symbol", "A/B", "--timeframe", "1h"],
            "wanted a feed there is, was kucoin-A/B-1h; `import --make` makes one",
            1,
        ),
    ],
)
def test_a_feed_that_cannot_be_told_is_asked_for(arguments: list[str], words: str, code: int) -> None:
    assert refused("check", *arguments) == (words, code)


@pytest.mark.parametrize(
    "arguments",
    [["dance"], ["import"], ["export", "a.csv", "--from", "yesterday"], ["check", "--timeframe", "7m"]],
)
def test_words_that_are_not_understood_end_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        ManagementUtility(["manage.py", "candles", *arguments]).execute()

    assert raised.value.code == 2
    assert "usage: manage.py candles" in capsys.readouterr().err


# -- export -------------------------------------------------------------------------------------------------------------


def test_a_span_is_exported(tmp_path: Path) -> None:
    feed, path = hourly(), tmp_path / "a.csv"

    said = told("export", path, "--feed", feed.pk, "--from", "2024-05-01T14:00", "--until", "2024-05-01T19:00+02:00")

    assert said == f"simulator-BTC/USDT-1h: 1 rows written to {path}\n"
    assert path.read_text().splitlines()[1:] == ["1714572000000,50000,50000,50000,50000,1"]


def test_a_file_is_replaced_only_when_asked_to(tmp_path: Path) -> None:
    feed, path = hourly(), tmp_path / "a.csv"
    path.write_text("mine")

    refusal = refused("export", path, "--feed", feed.pk)
    kept = path.read_text()
    told("export", path, "--feed", feed.pk, "--replace")

    assert refusal == (f"wanted the name of a new file, {path} is there already", 1)
    assert kept == "mine"
    assert path.read_text().startswith("ts,open,")


def test_freqtrade_s_layout_is_exported_on_request(tmp_path: Path) -> None:
    path = tmp_path / "BTC_USDT-1h.json"

    told("export", path, "--feed", hourly().pk, "--freqtrade")

    assert len(json.loads(path.read_text())) == 8


# -- check --------------------------------------------------------------------------------------------------------------


def test_what_is_missing_is_told_and_ends_with_1() -> None:
    feed, out = hourly(), io.StringIO()

    with pytest.raises(CommandError, match="wanted feeds without gaps and flaws, was 1 of 1 with some") as raised:
        call_command("candles", "check", "--feed", str(feed.pk), stdout=out)

    assert raised.value.returncode == 1
    assert out.getvalue().splitlines() == [
        f"{feed.pk} simulator-BTC/USDT-1h (24/7): 8 rows, 2024-05-01 12:00 to 2024-05-01 21:00",
        "  gap of 2: 2024-05-01 15:00 to 2024-05-01 17:00",
        "  1 gap of 2 candles (0 that nobody has), 0 flaws, 0 quarantined, 0 revised, 0 without a trade",
    ]


def test_a_feed_that_is_whole_ends_with_0_and_all_are_checked_where_none_is_named() -> None:
    for symbol in ("BTC/USDT", "ETH/USDT"):
        make_candles(make_feed(make_market(symbol=symbol), Timeframe.H1), [50000.0] * 3, NOON)

    lines = told("check").splitlines()

    assert len(lines) == 4
    assert lines[1] == "  0 gaps of 0 candles (0 that nobody has), 0 flaws, 0 quarantined, 0 revised, 0 without a trade"


def test_the_same_as_json() -> None:
    feed, out = hourly(), io.StringIO()

    with pytest.raises(CommandError):
        call_command("candles", "check", "--feed", str(feed.pk), "--json", stdout=out)

    assert json.loads(out.getvalue()) == [
        {
            "feed_id": feed.pk, "feed": "simulator-BTC/USDT-1h", "timeframe": "1h", "calendar": "24/7", "rows": 8,
            "first_at": "2024-05-01T12:00:00+00:00", "last_at": "2024-05-01T21:00:00+00:00", "missing": 2,
            "confirmed": 0,
            "gaps": [
                {"from_at": "2024-05-01T15:00:00+00:00", "until_at": "2024-05-01T17:00:00+00:00", "missing": 2}
            ],
            "flaws": {}, "findings": [], "zero_volume": 0, "revisions": 0, "quarantined": 0, "is_clean": False,
        }
    ]  # fmt: skip


# -- backfill -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Say what happens to the backfill between two looks at it; after the last the trader presses Ctrl-C."""

    def follow(*changes: dict[str, Any]) -> None:
        rest = list(changes)

        def look_again(seconds: float) -> None:
            if not rest:
                raise KeyboardInterrupt
            Backfill.objects.update(**rest.pop(0))

        monkeypatch.setattr(candles, "sleep", look_again)

    return follow


BEGUN = {"status": BackfillStatus.RUNNING, "started_at": NOON, "cursor_at": NOON + 5 * HOUR, "rows_seen": 300}
ASKED = ("--from", "2024-05-01T12:00", "--until", "2024-05-01T22:00")


def test_a_backfill_is_asked_for_and_followed_to_its_end(looks: Callable[..., None]) -> None:
    feed, errors, out = hourly(), Terminal(), io.StringIO()
    looks(BEGUN, {"status": BackfillStatus.DONE, "rows_new": 2, "ended_at": NOON + 2 * HOUR})

    call_command("candles", "backfill", "--feed", str(feed.pk), *ASKED, stdout=out, stderr=errors)

    asked = Backfill.objects.get()
    assert (asked.feed, asked.from_at, asked.until_at) == (feed, NOON, NOON + 10 * HOUR)
    assert out.getvalue() == (
        f"backfill {asked.pk}: simulator-BTC/USDT-1h 2024-05-01 to 2024-05-01\n"
        f"backfill {asked.pk} is done: 300 rows, 2 of them new\n"
    )
    assert "\r 50.0 %, 300 rows, " in errors.getvalue()


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        ("FAILED", "no such market", "ended as FAILED at 2024-05-01 12:00: no such market"),
        ("CANCELED", "", "ended as CANCELED at 2024-05-01 12:00"),
    ],
)
def test_a_backfill_that_ends_otherwise_ends_with_1(
    looks: Callable[..., None], status: str, error: str, words: str
) -> None:
    looks({"status": status, "last_error": error})

    said, code = refused("backfill", "--feed", hourly().pk, *ASKED)

    assert (said.endswith(words), code) == (True, 1)


def test_ctrl_c_leaves_a_backfill_running_and_says_so(looks: Callable[..., None]) -> None:
    looks(BEGUN)

    said = told("backfill", "--feed", hourly().pk, *ASKED)

    asked = Backfill.objects.get()
    assert said.endswith(f"backfill {asked.pk} goes on without you: its progress is in the admin and the API\n")
    assert asked.status == BackfillStatus.RUNNING


def test_a_backfill_that_nobody_takes_says_what_is_missing(
    looks: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candles, "NOBODY_AFTER", timedelta(0))
    looks({"rows_seen": 0}, {"rows_seen": 0})
    errors = io.StringIO()

    call_command("candles", "backfill", "--feed", str(hourly().pk), *ASKED, stdout=io.StringIO(), stderr=errors)

    assert errors.getvalue().count("it waits for a worker: ./r3edge up, or ./r3edge worker marketdata\n") == 1


def test_a_backfill_may_be_asked_for_without_waiting() -> None:
    told("backfill", "--feed", hourly().pk, *ASKED, "--no-wait")

    assert Backfill.objects.get().status == BackfillStatus.QUEUED


def test_a_span_that_makes_no_sense_is_refused() -> None:
    said, code = refused("backfill", "--feed", hourly().pk, "--from", "2024-05-02", "--until", "2024-05-01")

    assert (said, code) == ("wanted a time after 2024-05-02 00:00, was 2024-05-01 00:00", 1)
    assert not Backfill.objects.exists()


def test_a_backfill_that_is_at_it_already_is_followed(looks: Callable[..., None]) -> None:
    feed = hourly()
    asked = backfill_request(feed, NOON, NOON + 10 * HOUR)
    looks({"status": BackfillStatus.DONE})

    assert f"backfill {asked.pk} is done" in told("backfill", "--feed", feed.pk, *ASKED)
    assert Backfill.objects.count() == 1


def test_without_an_end_it_goes_up_to_the_last_candle_that_has_closed(looks: Callable[..., None]) -> None:
    looks({"status": BackfillStatus.DONE})
    before = Timeframe.H1.open_of(timezone.now())

    told("backfill", "--feed", hourly().pk, "--from", "2024-05-01T12:00")

    assert before <= Backfill.objects.get().until_at <= Timeframe.H1.open_of(timezone.now())


# -- list ---------------------------------------------------------------------------------------------------------------


def test_feeds_are_listed_with_what_is_stored() -> None:
    feed = hourly()
    empty = make_feed(make_market(symbol="ETH/USDT"), is_needed=True)

    assert told("list").splitlines() == [
        f"{feed.pk} simulator-BTC/USDT-1h (24/7): 8 rows, 2024-05-01 12:00 to 2024-05-01 21:00",
        f"{empty.pk} simulator-ETH/USDT-1m (24/7): 0 rows, collected now",
    ]
    assert Exchange.objects.count() == 1
