"""Each source of a feed killed in turn and brought back in reverse: candles go on without a hole or a double, and the journal
tells each switch once. The exchange is a shelf, Yahoo and Alpha Vantage are servers behind the real clients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr
from pytest_django import Settings

from domain.candles import Timeframe
from exchanges import shared
from exchanges.gateway import ExchangeUnavailable
from marketdata.failover import feed_sources_set
from marketdata.models import Candle, CandleRevision, Feed, FeedSource, SourceKind
from marketdata.services import feed_collect
from marketdata.sources import alphavantage, yahoo
from tests.conftest import Bells
from tests.factories import NOON, events
from tests.marketdata.conftest import MINUTE, Shelf, needed_feed
from tests.marketdata.web import Query, Web, web_running

pytestmark = pytest.mark.django_db

FIRST = NOON - MINUTE  # the first candle that is missing
EXCHANGE, YAHOO, ALPHA, FILE = SourceKind.EXCHANGE, SourceKind.YAHOO, SourceKind.ALPHA_VANTAGE, SourceKind.FILE


@dataclass
class Sources:
    """Four sources of one feed, of which each tells another price, by the shelf's clock."""

    shelf: Shelf
    yahoo: Web
    alpha: Web
    file: Path
    feed: Feed
    dead: set[SourceKind] = field(default_factory=set)

    def minutes(self, count: int = 1) -> None:
        """Let minutes pass, and collect after each; no circuit stays open for longer than a minute."""
        for _ in range(count):
            self.shelf.now += MINUTE
            self._write_file()
            self.shelf.error = "NetworkError: kucoin GET" if EXCHANGE in self.dead else ""
            for kind in ("yahoo", "alphavantage"):
                for key in shared.client().keys(f"r3edge:source:{kind}:*"):  # type: ignore[union-attr]
                    shared.client().delete(key)
            feed_collect(self.feed.pk)

    def _write_file(self) -> None:
        """As whoever writes it does once a minute; dead, it is gone."""
        self.file.unlink(missing_ok=True)
        if FILE not in self.dead:
            opens = [self.shelf.now.replace(second=0) - number * MINUTE for number in range(90, -1, -1)]
            rows = "".join(f"{int(at.timestamp())},50003,50003,50003,50003,1\n" for at in opens)
            self.file.write_text("ts,open,high,low,close,volume\n" + rows)

    def told_by(self) -> list[SourceKind]:
        """Who gave each candle that was collected, oldest first."""
        collected = self.feed.candles.filter(open_at__gte=FIRST).order_by("open_at")
        return [SourceKind(kind) for kind in collected.values_list("source", flat=True)]

    def opens(self) -> list[datetime]:
        collected = self.feed.candles.filter(open_at__gte=FIRST).order_by("open_at")
        return list(collected.values_list("open_at", flat=True))

    def answer_of_yahoo(self, path: str, query: Query) -> tuple[int, Any]:
        if YAHOO in self.dead:
            return 503, "away"
        first, end = -(-int(query["period1"]) // 60), min(int(query["period2"]), int(self.shelf.now.timestamp()) + 1)
        times = [minute * 60 for minute in range(first, -(-end // 60))]
        quote = {name: [50001] * len(times) for name in ("open", "high", "low", "close", "volume")}
        result = {"meta": {"exchangeTimezoneName": "UTC"}, "timestamp": times, "indicators": {"quote": [quote]}}
        return 200, {"chart": {"result": [result], "error": None}}

    def answer_of_alpha(self, path: str, query: Query) -> tuple[int, Any]:
        if ALPHA in self.dead:
            return 503, "away"
        last = Timeframe.M1.open_of(self.shelf.now)
        row = {
            f"{number}. {name}": "50002" for number, name in enumerate(("open", "high", "low", "close", "volume"), 1)
        }
        rows = {f"{last - number * MINUTE:%Y-%m-%d %H:%M:%S}": row for number in range(100)}
        return 200, {"Meta Data": {"6. Time Zone": "UTC"}, "Time Series Crypto (1min)": rows}


@pytest.fixture
def sources(
    shelf: Shelf, bells: Bells, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Sources]:
    data = pytest.importorskip("yfinance.data")
    monkeypatch.setattr(data.YfData, "_get_cookie_and_crumb", lambda self, timeout=30: (None, "basic"))
    settings.YAHOO_CACHE_DIR = tmp_path / "yahoo"
    settings.CANDLE_FILES = tmp_path
    settings.ALPHA_VANTAGE_KEY = SecretStr("key")
    settings.ALPHA_VANTAGE_PER_MINUTE = settings.ALPHA_VANTAGE_PER_DAY = settings.YAHOO_PER_MINUTE = 1000
    clock = SimpleNamespace(now=lambda: shelf.now)
    with web_running() as of_yahoo, web_running() as of_alpha:
        for module, url in ((yahoo, f"{of_yahoo.url}/chart"), (alphavantage, f"{of_alpha.url}/query")):
            monkeypatch.setattr(module, "URL", url)
            monkeypatch.setattr(module, "timezone", clock)
        feed = needed_feed(shelf)
        file = tmp_path / "candles.csv"
        file.touch()
        feed_sources_set(feed, [(EXCHANGE, ""), (YAHOO, "BTC-USD"), (ALPHA, "BTC/USD"), (FILE, "candles.csv")])
        sources = Sources(shelf, of_yahoo, of_alpha, file, feed)
        of_yahoo.answer, of_alpha.answer = sources.answer_of_yahoo, sources.answer_of_alpha
        yield sources


def opens_between(first: datetime, until: datetime) -> list[datetime]:
    return [first + number * MINUTE for number in range((until - first) // MINUTE)]


def switches() -> list[tuple[str, str, bool]]:
    return [(event["was"], event["source"], event["is_back"]) for event in events("marketdata") if "was" in event]


def test_each_source_killed_in_turn_and_brought_back_in_reverse(sources: Sources) -> None:
    sources.minutes()
    assert sources.told_by() == [EXCHANGE, EXCHANGE]

    sources.dead = {EXCHANGE}
    sources.minutes(2)
    sources.dead = {EXCHANGE, YAHOO}
    sources.minutes(2)
    sources.dead = {EXCHANGE, YAHOO, ALPHA}
    sources.minutes(2)
    sources.dead = {EXCHANGE, YAHOO, ALPHA, FILE}
    sources.minutes(2)
    assert sources.told_by() == [EXCHANGE, EXCHANGE, YAHOO, YAHOO, ALPHA, ALPHA, FILE, FILE]
    sources.feed.refresh_from_db()
    assert sources.feed.last_error != ""

    sources.dead = {EXCHANGE, YAHOO, ALPHA}
    sources.minutes(62)  # a file that is not there waits for a person, and is looked for once an hour
    sources.dead = {EXCHANGE, YAHOO}
    sources.minutes(6)
    sources.dead = {EXCHANGE}
    sources.minutes(6)
    sources.dead = set()
    sources.minutes(6)

    assert sources.opens() == opens_between(FIRST, Timeframe.M1.open_of(sources.shelf.now))
    assert switches() == [
        ("Exchange", "Yahoo Finance BTC-USD", False),
        ("Yahoo Finance BTC-USD", "Alpha Vantage BTC/USD", False),
        ("Alpha Vantage BTC/USD", "File candles.csv", False),
        ("File candles.csv", "Alpha Vantage BTC/USD", True),
        ("Alpha Vantage BTC/USD", "Yahoo Finance BTC-USD", True),
        ("Yahoo Finance BTC-USD", "Exchange", True),
    ]
    told_by = sources.told_by()
    assert [kind for kind, after in zip(told_by, told_by[1:], strict=False) if kind != after] == [
        EXCHANGE, YAHOO, ALPHA, FILE, ALPHA, YAHOO,
    ]  # fmt: skip
    assert told_by[-1] == EXCHANGE
    sources.feed.refresh_from_db()
    assert (sources.feed.last_error, sources.feed.source) == ("", FeedSource.objects.get(kind=EXCHANGE))
    # What was told as new was so once.
    assert sum(event["new"] for event in events("marketdata") if "new" in event) == len(told_by)
    prices = {EXCHANGE: 50000, YAHOO: 50001, ALPHA: 50002, FILE: 50003}
    assert all(candle.close == prices[SourceKind(candle.source)] for candle in Candle.objects.all())


def test_a_later_source_does_not_revise_what_the_exchange_told(sources: Sources) -> None:
    sources.minutes()
    sources.dead = {EXCHANGE}
    sources.minutes(3)

    assert sources.told_by() == [EXCHANGE, EXCHANGE, YAHOO, YAHOO, YAHOO]
    assert not CandleRevision.objects.exists()

    sources.dead = set()
    sources.minutes()
    revised = CandleRevision.objects.get()  # the last one that Yahoo told, as the exchange tells it
    assert (revised.was_source, revised.source, revised.close) == (YAHOO, EXCHANGE, 50000)


def test_an_exchange_that_stands_still_while_another_source_has_newer_candles_is_left(sources: Sources) -> None:
    sources.minutes()
    last = Timeframe.M1.open_of(sources.shelf.now)
    sources.shelf.held_back = {last + number * MINUTE for number in range(100)}

    sources.minutes()
    assert (switches(), sources.yahoo.asked) == ([], [])  # it may only be late
    sources.minutes(7)

    assert switches() == [("Exchange", "Yahoo Finance BTC-USD", False)]
    assert sources.opens() == opens_between(FIRST, Timeframe.M1.open_of(sources.shelf.now))
    assert sources.told_by() == [EXCHANGE] * 2 + [YAHOO] * 8
    row = FeedSource.objects.get(kind=EXCHANGE)
    assert row.failures > 0
    assert row.last_error.startswith("wanted ")


def test_a_rate_that_is_short_for_some_seconds_is_waited_for_and_no_switch(sources: Sources) -> None:
    def refuse() -> None:
        raise ExchangeUnavailable("wanted less than the rate", retry_after=timedelta(seconds=10))

    sources.shelf.meanwhile = refuse
    sources.minutes()
    sources.shelf.meanwhile = lambda: None
    sources.minutes()

    assert (sources.yahoo.asked, switches(), sources.told_by()) == ([], [], [EXCHANGE] * 3)
    assert FeedSource.objects.get(kind=EXCHANGE).failures == 0


def test_a_rate_that_is_short_for_long_is_a_failure(sources: Sources) -> None:
    def refuse() -> None:
        raise ExchangeUnavailable("wanted less than the rate", retry_after=timedelta(seconds=11))

    sources.shelf.meanwhile = refuse
    sources.minutes()

    assert sources.told_by() == [YAHOO, YAHOO]
    assert FeedSource.objects.get(kind=EXCHANGE).retry_at == sources.shelf.now + timedelta(seconds=11)


def test_a_market_without_trades_anywhere_is_nobodys_failure(sources: Sources) -> None:
    sources.dead = {YAHOO, ALPHA, FILE}
    sources.minutes()
    sources.shelf.held_back = {NOON + number * MINUTE for number in range(100)}

    sources.minutes(8)

    assert switches() == []
    assert FeedSource.objects.get(kind=EXCHANGE).failures == 0


def test_a_pause_that_is_over_asks_the_exchange_first_and_nobody_else(sources: Sources) -> None:
    sources.dead = {EXCHANGE}
    sources.minutes()
    asked = len(sources.yahoo.asked)
    sources.dead = set()

    sources.minutes()

    assert len(sources.yahoo.asked) == asked
    assert sources.told_by()[-1] == EXCHANGE
