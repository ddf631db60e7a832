"""``manage candles import|export|check|backfill|list``: candles at the command line, from files, into files, and in between.

Exit code 0 when it is done, 1 with what was wanted on standard error otherwise, 2 for words it does not understand. ``check``
also ends with 1 where something is missing or flawed. Results go to standard output, progress to standard error: a line that
renews itself in a terminal, and one now and then elsewhere.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import connection
from django.utils import timezone

from domain.calendars import Calendar
from domain.candles import Timeframe
from exchanges.data_markets import MarketUnknown, market_of_data
from exchanges.models import Exchange
from marketdata.backfills import UnableToBackfill, backfill_request, progress, span_end
from marketdata.columns import Unreadable
from marketdata.gaps import Report, feed_check
from marketdata.interchange import ReadIn, UnableToWriteOut, candles_read_in, candles_write_out
from marketdata.layouts import named, require_candles
from marketdata.models import LIVE_BACKFILLS, Backfill, BackfillStatus, Feed
from marketdata.services import feed_ensure

USAGE = 2  # the exit code for what cannot be understood
# How often a backfill is looked at, and how often its progress is told where lines stay.
LOOK_EVERY_S = 1.0
TELL_EVERY_S = 10.0
# A worker that is there takes it sooner.
NOBODY_AFTER = timedelta(seconds=10)


class Command(BaseCommand):
    help = "Import, export, check and backfill candles, or list the feeds that have some."

    def add_arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        importing = verbs.add_parser(
            "import", help="read files (CSV, Parquet, freqtrade's, Binance's archive), or directories of them"
        )
        importing.add_argument("files", nargs="+", type=Path, metavar="FILE")
        _add_feed(importing, "what the names of the files do not tell")
        importing.add_argument(
            "--make", action="store_true", help="make the feed, and the market where it is only data"
        )
        importing.add_argument(
            "--calendar", choices=[calendar.value for calendar in Calendar], help="when the market of the feed is open"
        )
        importing.add_argument(
            "--take-jumps", action="store_true", help="take prices that jump: you have looked at them"
        )
        exporting = verbs.add_parser("export", help="write a file; the end of its name tells the layout")
        exporting.add_argument("file", type=Path, metavar="FILE", help=".csv, .csv.gz, .parquet or .feather")
        _add_feed(exporting)
        _add_span(exporting, "(default: the first there is)", "(default: the last there is)")
        exporting.add_argument(
            "--freqtrade", action="store_true", help="in its layout: .json, .json.gz, .feather or .parquet"
        )
        exporting.add_argument("--replace", action="store_true", help="replace the file where it is there already")
        checking = verbs.add_parser("check", help="what is missing and what is wrong; without a feed, of all of them")
        _add_feed(checking)
        checking.add_argument("--json", action="store_true", help="the same as JSON")
        filling = verbs.add_parser("backfill", help="have history fetched from a feed's sources, and follow it")
        _add_feed(filling)
        _add_span(filling, "", "(default: up to now)", is_required=True)
        filling.add_argument("--no-wait", action="store_true", help="ask for it and leave")
        verbs.add_parser("list", help="the feeds, and what is stored of them")

    def handle(self, *args: Any, verb: str, **options: Any) -> None:
        run = {
            "import": self._import, "export": self._export, "check": self._check, "backfill": self._backfill,
            "list": self._list,
        }  # fmt: skip
        try:
            run[verb](options)
        except ValidationError as error:
            raise CommandError("; ".join(error.messages)) from error
        except (Unreadable, UnableToWriteOut, UnableToBackfill, MarketUnknown, OSError) as error:
            raise CommandError(str(error)) from error

    # -- verbs ----------------------------------------------------------------------------------------------------------

    def _import(self, options: dict[str, Any]) -> None:
        _tell_from_names(options)
        if options["make"]:
            _require_new(options)
            require_candles(options["files"], options["symbol"], Timeframe(options["timeframe"]))
            feed = self._made(options)
        else:
            feed = _feed(options)
            require_candles(options["files"], feed.market.symbol, Timeframe(feed.timeframe))
        if options["calendar"] and feed.calendar != options["calendar"]:
            Feed.objects.filter(pk=feed.pk).update(calendar=options["calendar"])
            self.stdout.write(f"calendar {options['calendar']} of {feed}, was {feed.calendar}")
            feed.calendar = options["calendar"]
        with self._telling() as tell:
            try:
                done = candles_read_in(feed, options["files"], takes_jumps=options["take_jumps"], tell=tell.of)
            except KeyboardInterrupt:
                raise CommandError("interrupted: the same again takes it up where it was") from None
        self.stdout.write(_read_in_line(feed, done))

    def _export(self, options: dict[str, Any]) -> None:
        feed = _feed(options)
        with self._telling() as tell:
            try:
                rows = candles_write_out(
                    feed, options["file"], options["from_at"], options["until_at"],
                    is_freqtrade=options["freqtrade"], may_replace=options["replace"], tell=tell.of,
                )  # fmt: skip
            except KeyboardInterrupt:
                raise CommandError(f"interrupted: {options['file']} was not written") from None
        self.stdout.write(f"{feed}: {rows} rows written to {options['file']}")

    def _check(self, options: dict[str, Any]) -> None:
        feeds = [_feed(options)] if _names_feed(options) else list(_feeds())
        reports = [feed_check(feed.pk) for feed in feeds]
        if options["json"]:
            self.stdout.write(json.dumps([_as_json(report) for report in reports], indent=1))
        else:
            for report in reports:
                self.stdout.write("\n".join(_as_lines(report)))
        if bad := sum(not report.is_clean for report in reports):
            raise CommandError(f"wanted feeds without gaps and flaws, was {bad} of {len(reports)} with some")

    def _backfill(self, options: dict[str, Any]) -> None:
        feed = _feed(options)
        until_at = options["until_at"] or span_end(feed, timezone.now())
        asked = backfill_request(feed, options["from_at"], until_at)
        self.stdout.write(f"backfill {asked.pk}: {asked}")
        if options["no_wait"]:
            return
        with self._telling() as tell:
            try:
                self._follow(asked, tell)
            except KeyboardInterrupt:
                tell.end()
                self.stdout.write(f"backfill {asked.pk} goes on without you: its progress is in the admin and the API")

    def _follow(self, asked: Backfill, tell: _Teller) -> None:
        began = timezone.now()
        has_warned = False
        while True:
            asked.refresh_from_db()
            now = timezone.now()
            if asked.status not in LIVE_BACKFILLS:
                break
            if asked.status == BackfillStatus.QUEUED and now - began > NOBODY_AFTER and not has_warned:
                has_warned = True
                tell.say("it waits for a worker: ./r3edge up, or ./r3edge worker marketdata")
            how = progress(asked, now)
            error = f", waits: {asked.last_error}" if asked.last_error else ""
            tell.line(_progress_line(how.percent, how.rows_seen, how.rows_per_second, how.left) + error)
            sleep(LOOK_EVERY_S)
        tell.end()
        if asked.status != BackfillStatus.DONE:
            raise CommandError(
                f"backfill {asked.pk} ended as {asked.status} at {asked.cursor_at:%Y-%m-%d %H:%M}"
                + (f": {asked.last_error}" if asked.last_error else "")
            )
        self.stdout.write(f"backfill {asked.pk} is done: {asked.rows_seen} rows, {asked.rows_new} of them new")

    def _list(self, options: dict[str, Any]) -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT feed_id, count(*), min(open_at), max(open_at) FROM marketdata_candle GROUP BY feed_id"
            )
            stored = {pk: (rows, first, last) for pk, rows, first, last in cursor.fetchall()}
        for feed in _feeds():
            rows, first, last = stored.get(feed.pk, (0, None, None))
            span = f", {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M}" if rows else ""
            needed = ", collected now" if feed.is_needed else ""
            self.stdout.write(f"{feed.pk} {feed} ({feed.calendar}): {rows} rows{span}{needed}")

    def _made(self, options: dict[str, Any]) -> Feed:
        was_there = Exchange.objects.filter(name=options["exchange"]).exists()
        market = market_of_data(options["exchange"], options["symbol"])
        if not was_there:
            self.stdout.write(
                f"made {market.exchange}, an exchange of which there is only data: nobody is called for it"
            )
        return feed_ensure(market, Timeframe(options["timeframe"]))

    @contextmanager
    def _telling(self) -> Iterator[_Teller]:
        teller = _Teller(self.stderr)
        try:
            yield teller
        finally:
            teller.end()


class _Teller:
    """Progress, for people: one line that renews itself in a terminal, and one now and then elsewhere."""

    def __init__(self, out: Any) -> None:
        self._out = out
        self._is_terminal = out.isatty()
        self._told_at = 0.0
        self._width = 0

    def of(self, how: Any) -> None:
        self.line(_progress_line(how.percent, how.rows, how.rows_per_second, how.left))

    def line(self, text: str) -> None:
        if self._is_terminal:
            self._out.write("\r" + text.ljust(self._width), style_func=str, ending="")
            self._out.flush()
            self._width = len(text)
        elif monotonic() - self._told_at >= TELL_EVERY_S:
            self._told_at = monotonic()
            self._out.write(text, style_func=str)

    def say(self, text: str) -> None:
        """A line that stays."""
        self.end()
        self._out.write(text, style_func=str)

    def end(self) -> None:
        if self._is_terminal and self._width:
            self._out.write("", style_func=str)
        self._width = 0


# -- what is asked for --------------------------------------------------------------------------------------------------


def _add_feed(parser: ArgumentParser, why: str = "which feed") -> None:
    feed = parser.add_argument_group(why)
    feed.add_argument("--feed", type=int, metavar="N", help="its number, as `list` shows it; or all three of these")
    feed.add_argument("--exchange", metavar="NAME")
    feed.add_argument("--symbol", metavar="BASE/QUOTE")
    feed.add_argument("--timeframe", choices=[frame.value for frame in Timeframe])


def _add_span(parser: ArgumentParser, first: str, last: str, *, is_required: bool = False) -> None:
    parser.add_argument(
        "--from", dest="from_at", type=_time, metavar="TIME", required=is_required,
        help=f"open of the first candle, such as 2024-05-01 or 2024-05-01T12:00, UTC {first}".strip(),
    )  # fmt: skip
    parser.add_argument("--until", dest="until_at", type=_time, metavar="TIME", help=f"candles before it {last}")


def _time(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(f"wanted a time such as 2024-05-01 or 2024-05-01T12:00, was {text!r}") from None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _names_feed(options: dict[str, Any]) -> bool:
    return any(options[name] is not None for name in ("feed", "exchange", "symbol", "timeframe"))


def _require(options: dict[str, Any]) -> None:
    missing = [f"--{name}" for name in ("exchange", "symbol", "timeframe") if options[name] is None]
    if options["feed"] is None and missing:
        raise CommandError(f"wanted --feed, or {' and '.join(missing)} beside what was given", returncode=USAGE)
    if options["feed"] is not None and len(missing) < 3:
        raise CommandError("wanted --feed, or --exchange with --symbol and --timeframe, was both", returncode=USAGE)


def _require_new(options: dict[str, Any]) -> None:
    _require(options)
    if options["feed"] is not None:
        raise CommandError("--make: wanted --exchange, --symbol and --timeframe, was --feed", returncode=USAGE)


def _feed(options: dict[str, Any]) -> Feed:
    _require(options)
    feeds = Feed.objects.select_related("market__exchange")
    if options["feed"] is not None:
        found = feeds.filter(pk=options["feed"]).first()
        if found is None:
            raise CommandError(f"--feed: wanted the number of one there is, was {options['feed']}")
        return found
    exchange, symbol, timeframe = options["exchange"], options["symbol"], options["timeframe"]
    found = feeds.filter(market__exchange__name=exchange, market__symbol=symbol, timeframe=timeframe).first()
    if found is None:
        raise CommandError(f"wanted a feed there is, was {exchange}-{symbol}-{timeframe}; `import --make` makes one")
    return found


def _feeds() -> Iterator[Feed]:
    yield from Feed.objects.select_related("market__exchange").order_by("pk")


def _tell_from_names(options: dict[str, Any]) -> None:
    """Fill in symbol and timeframe where all files are named for the same."""
    if options["feed"] is not None:
        return
    names = {named(path) for path in options["files"]}
    name = names.pop() if len(names) == 1 else None
    if name is None:
        return
    if options["symbol"] is None and "/" in name.pair:
        options["symbol"] = name.pair
    if options["timeframe"] is None and name.timeframe in list(Timeframe):
        options["timeframe"] = name.timeframe


# -- what is said -------------------------------------------------------------------------------------------------------


def _progress_line(percent: float, rows: int, rows_per_second: float | None, left: timedelta | None) -> str:
    pace = "" if rows_per_second is None else f", {rows_per_second:,.0f} rows/s"
    wait = "" if left is None else f", {timedelta(seconds=round(left.total_seconds()))} left"
    return f"{percent:5.1f} %, {rows:,} rows{pace}{wait}"


def _read_in_line(feed: Feed, done: ReadIn) -> str:
    words = [f"{done.seen} rows of {done.files} file{'s' * (done.files != 1)}"]
    words += [f"{done.new} new", f"{done.revised} revised", f"{done.unchanged} there already"]
    if done.quarantined:
        flaws = ", ".join(f"{flaw.value} {count}" for flaw, count in sorted(done.flaws.items()))
        words.append(f"{done.quarantined} quarantined ({flaws})")
    if done.still_open:
        words.append(f"{done.still_open} still open and left out")
    if done.ahead:
        words.append(f"{done.ahead} left to the collection, which is not as far")
    span = (
        f"; {done.first_at:%Y-%m-%d %H:%M} to {done.last_at:%Y-%m-%d %H:%M}" if done.first_at and done.last_at else ""
    )
    return f"{feed}: {', '.join(words)}{span}"


def _at(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, tz=UTC)


def _as_lines(report: Report) -> Sequence[str]:
    span = (
        f", {report.first_at:%Y-%m-%d %H:%M} to {report.last_at:%Y-%m-%d %H:%M}"
        if report.first_at and report.last_at
        else ""
    )
    lines = [f"{report.feed_id} {report.feed} ({report.calendar.value}): {report.rows} rows{span}"]
    lines += [
        f"  gap of {gap.missing}: {_at(gap.from_ms):%Y-%m-%d %H:%M} to {_at(gap.until_ms):%Y-%m-%d %H:%M}"
        for gap in report.gaps
    ]
    lines += [
        f"  {finding.flaw.value} at {_at(finding.open_ms):%Y-%m-%d %H:%M}: {finding.detail}"
        for finding in report.findings
    ]
    if (untold := sum(report.flaws.values()) - len(report.findings)) > 0:
        lines.append(f"  and {untold} flaws more")
    gaps = f"{len(report.gaps)} gap{'s' * (len(report.gaps) != 1)} of {report.missing} candles"
    lines.append(
        f"  {gaps} ({report.confirmed} that nobody has), "
        f"{sum(report.flaws.values())} flaws, {report.quarantined} quarantined, {report.revisions} revised, "
        f"{report.zero_volume} without a trade"
    )
    return lines


def _as_json(report: Report) -> dict[str, Any]:
    return {
        "feed_id": report.feed_id, "feed": report.feed, "timeframe": report.timeframe.value,
        "calendar": report.calendar.value, "rows": report.rows,
        "first_at": report.first_at and report.first_at.isoformat(),
        "last_at": report.last_at and report.last_at.isoformat(),
        "missing": report.missing, "confirmed": report.confirmed,
        "gaps": [
            {"from_at": _at(gap.from_ms).isoformat(), "until_at": _at(gap.until_ms).isoformat(), "missing": gap.missing}
            for gap in report.gaps
        ],
        "flaws": {flaw.value: count for flaw, count in report.flaws.items()},
        "findings": [
            {"open_at": _at(finding.open_ms).isoformat(), "flaw": finding.flaw.value, "detail": finding.detail}
            for finding in report.findings
        ],
        "zero_volume": report.zero_volume, "revisions": report.revisions, "quarantined": report.quarantined,
        "is_clean": report.is_clean,
    }  # fmt: skip
