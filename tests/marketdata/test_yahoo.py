"""Candles of Yahoo, asked by the real yfinance of a server that says what Yahoo was recorded to say."""

from __future__ import annotations

import builtins
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pytest_django import Settings

from exchanges import shared
from exchanges.gateway import CandleReport
from marketdata.sources import SourceFailed, yahoo
from marketdata.sources.yahoo import YahooSource
from tests.conftest import Bells
from tests.domain.reference import reference_json
from tests.marketdata.web import Web, web_running

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
RECORDED = sorted(
    f"{kind}-{symbol}-2020-01-01-to-2020-01-03.json"
    for kind in ("chart", "historical-via-chart")
    for symbol in ("0P000071W8.TO", "AAPL", "AMZN", "BTC-USD", "GOOG", "QQQ")
) + ["chart-AAPL-2020-08-31-to-2020-11-07.json", "chart-AAPL.json"]
NO_CANDLES = "chart-AAPL-2025-02-01-to-2025-02-02-includePrePost-false-interval-1m.json"


@pytest.fixture
def web(bells: Bells, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """Yahoo, of which nothing was asked yet, at noon; without the cookies that only the real one gives."""
    data = pytest.importorskip("yfinance.data")
    settings.YAHOO_CACHE_DIR = tmp_path / "yahoo"
    monkeypatch.setattr(data.YfData, "_get_cookie_and_crumb", lambda self, timeout=30: (None, "basic"))
    monkeypatch.setattr(yahoo, "timezone", SimpleNamespace(now=lambda: NOON))
    yahoo._client.cache_clear()
    with web_running() as web:
        monkeypatch.setattr(yahoo, "URL", f"{web.url}/v8/finance/chart")
        yield web
    yahoo._client.cache_clear()


def chart(
    *rows: tuple[float | None, ...], start: datetime = NOON - 3 * MINUTE, step: timedelta = MINUTE,
    zone: str = "UTC", events: dict[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """An answer with those rows of open, high, low, close and volume, one each ``step``."""
    times = [int((start + number * step).timestamp()) for number in range(len(rows))]
    names = ("open", "high", "low", "close", "volume")
    quote = {name: [row[column] for row in rows] for column, name in enumerate(names)}
    result = {
        "meta": {"exchangeTimezoneName": zone}, "timestamp": times, "indicators": {"quote": [quote]}, "events": events or {},
    }  # fmt: skip
    return {"chart": {"result": [result], "error": None}}


def refused(code: str, words: str) -> dict[str, Any]:
    return {"chart": {"result": None, "error": {"code": code, "description": words}}}


def asked(symbol: str = "AAPL", timeframe: str = "1m", since: datetime = NOON - 3 * MINUTE, limit: int = 1500) -> Any:
    return YahooSource(symbol, timeframe).candles(since, limit)


def refusal(symbol: str = "AAPL", timeframe: str = "1m", since: datetime = NOON - 3 * MINUTE) -> SourceFailed:
    with pytest.raises(SourceFailed) as raised:
        asked(symbol, timeframe, since)
    return raised.value


def floats(row: CandleReport) -> list[float]:
    """A row as the 32-bit floats that Yahoo has, in its digits; volumes are whole numbers."""
    prices = (row.open, row.high, row.low, row.close)
    return [*(float(np.float32(str(price))) for price in prices), int(row.volume)]


# -- recorded -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_answer_comes_out_whole_and_named_by_its_sessions_date(web: Web, name: str) -> None:
    web.says(reference_json(f"api/yahoo/{name}")["body"])
    expected = reference_json("expected/api/yahoo_chart_parsed.json")["files"][name]

    rows = asked(expected["symbol"], "1d", datetime(2000, 1, 1, tzinfo=UTC))

    assert len(rows) == expected["n_rows"]
    for row, (told_ms, *cells) in zip(
        rows[:3] + rows[-3:], expected["rows_first3"] + expected["rows_last3"], strict=True
    ):
        assert row.open_at == datetime.fromtimestamp(told_ms // 86_400_000 * 86_400, tz=UTC)
        assert floats(row) == cells[:5]
    assert sum(float(np.float32(str(row.close))) for row in rows) == pytest.approx(expected["sum_close"], abs=1e-5)


def test_a_price_is_the_shortest_decimal_that_is_the_float_yahoo_keeps(web: Web) -> None:
    web.says(reference_json("api/yahoo/chart-AAPL-2020-01-01-to-2020-01-03.json")["body"])

    [row] = asked(timeframe="1d", since=datetime(2020, 1, 1, tzinfo=UTC))

    assert (row.open, row.high, row.low, row.close, row.volume) == (
        Decimal("74.06"), Decimal("75.15"), Decimal("73.7975"), Decimal("75.0875"), Decimal(135_480_400),
    )  # fmt: skip


def test_a_split_is_told_and_prices_are_as_yahoo_divides_them_without_dividends(
    web: Web, caplog: pytest.LogCaptureFixture
) -> None:
    web.says(reference_json("api/yahoo/chart-AAPL-2020-08-31-to-2020-11-07.json")["body"])

    with caplog.at_level(logging.INFO):
        rows = asked(timeframe="1d", since=datetime(2020, 8, 31, tzinfo=UTC))

    assert (rows[0].open_at, rows[0].close) == (datetime(2020, 8, 31, tzinfo=UTC), Decimal("129.04"))
    assert "Yahoo AAPL: prices before its split 4:1 are divided by it" in caplog.text


def test_a_recorded_answer_without_candles_is_a_failure(web: Web) -> None:
    web.says(reference_json(f"api/yahoo/{NO_CANDLES}")["body"])

    assert str(refusal()) == "wanted candles from 2024-05-01 11:57 on, were none"


# -- rows ---------------------------------------------------------------------------------------------------------------


def test_rows_without_a_price_are_left_out_and_counted_in_the_log(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    web.says(chart((1, 2, 1, 2, 5), (None, None, None, None, None), (2, 3, None, 3, 4)))

    with caplog.at_level(logging.INFO):
        rows = asked()

    assert [(row.open_at, row.close) for row in rows] == [(NOON - 3 * MINUTE, 2)]
    assert "Yahoo AAPL 1m: left out 2 rows without a price" in caplog.text


def test_a_price_that_no_32_bit_float_holds_keeps_every_digit(web: Web) -> None:
    web.says(chart((0.1, 97208.17, 1e-7, 1e39, 7)))

    [row] = asked()

    assert (row.open, row.high, row.low) == (Decimal("0.1"), Decimal("97208.17"), Decimal("1E-7"))
    assert row.close == Decimal("1e39")


def test_what_is_traded_just_now_is_no_candle_of_its_own(web: Web) -> None:
    trading = chart((1, 2, 1, 2, 5), (2, 3, 2, 3, 4))
    trading["chart"]["result"][0]["timestamp"][-1] += 17
    web.says(trading)

    assert [row.open_at for row in asked()] == [NOON - 3 * MINUTE]


def test_a_session_that_comes_in_two_rows_is_one_candle(web: Web) -> None:
    start = datetime(2024, 4, 30, 13, 30, tzinfo=UTC)
    web.says(
        chart((10, 12, 9, 11, 100), (11, 13, 10, 12, 90), start=start, step=timedelta(hours=7), zone="America/New_York")
    )

    [row] = asked(timeframe="1d", since=datetime(2024, 4, 30, tzinfo=UTC))

    assert row == CandleReport(datetime(2024, 4, 30, tzinfo=UTC), *map(Decimal, (10, 13, 9, 12, 100)))


@pytest.mark.parametrize(("zone", "start"), [
    ("Europe/London", datetime(2023, 10, 27, 23, tzinfo=UTC)),  # summer time there, and winter when it was asked
    ("Australia/Sydney", datetime(2023, 10, 27, 23, tzinfo=UTC)),
    ("Asia/Tokyo", datetime(2023, 10, 28, 0, tzinfo=UTC)),
    ("America/New_York", datetime(2023, 10, 28, 13, 30, tzinfo=UTC)),
])  # fmt: skip
def test_a_session_is_named_by_its_own_date_wherever_it_is(web: Web, zone: str, start: datetime) -> None:
    web.says(chart((1, 1, 1, 1, 1), start=start, step=timedelta(days=1), zone=zone))

    [row] = asked(timeframe="1d", since=datetime(2023, 10, 28, tzinfo=UTC))

    assert row.open_at == datetime(2023, 10, 28, tzinfo=UTC)


def test_hours_that_begin_at_half_past_are_refused_for_good(web: Web) -> None:
    start = datetime(2024, 4, 30, 13, 30, tzinfo=UTC)
    web.says(chart(*[(1, 1, 1, 1, 1)] * 3, start=start, step=timedelta(hours=1)))

    error = refusal(timeframe="1h", since=start)

    assert (str(error), error.is_final) == (
        "wanted candles that open at multiples of 1h, was 13:30: those of 15m are", True,
    )  # fmt: skip


def test_only_candles_from_the_time_on_come_back_and_no_more_than_asked(web: Web) -> None:
    web.says(chart(*[(1, 1, 1, 1, 1)] * 5, start=NOON - 5 * MINUTE))

    assert [row.open_at for row in asked(since=NOON - 4 * MINUTE, limit=2)] == [NOON - 4 * MINUTE, NOON - 3 * MINUTE]


# -- what is asked ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("timeframe", "days", "reaches"), [("1m", 10, 7), ("5m", 10, 10), ("1d", 400, 400)])
def test_it_is_asked_to_the_end_but_for_no_more_minutes_than_it_answers(
    web: Web, monkeypatch: pytest.MonkeyPatch, timeframe: str, days: int, reaches: int
) -> None:
    since = datetime(2024, 5, 1, tzinfo=UTC) - timedelta(days=days)
    now = datetime(2024, 5, 1, tzinfo=UTC)
    web.says(chart((1, 1, 1, 1, 1), start=since))
    monkeypatch.setattr(yahoo, "timezone", SimpleNamespace(now=lambda: now))

    asked("M&M.NS", timeframe, since)

    lead = timedelta(days=1) if timeframe == "1d" else timedelta(0)
    assert web.paths == ["/v8/finance/chart/M%26M.NS"]
    assert web.asked == [{
        "interval": timeframe, "period1": str(int((since - lead).timestamp())),
        "period2": str(int((since + timedelta(days=reaches)).timestamp()) + 1), "includePrePost": "false", "events": "split",
    }]  # fmt: skip


@pytest.mark.parametrize("timeframe", ["3m", "30m", "4h"])
def test_a_timeframe_that_it_does_not_have_is_final_and_asks_nobody(web: Web, timeframe: str) -> None:
    assert refusal(timeframe=timeframe).is_final
    assert web.asked == []


# -- failures -----------------------------------------------------------------------------------------------------------


def test_an_unknown_symbol_is_final(web: Web) -> None:
    web.says(refused("Not Found", "No data found, symbol may be delisted"), 404)

    error = refusal("NOPE")

    assert (str(error), error.is_final) == ("Not Found: No data found, symbol may be delisted", True)


def test_a_range_that_it_does_not_keep_is_refused_in_its_words(web: Web) -> None:
    web.says(refused("Unprocessable Entity", "1m data not available"), 422)

    error = refusal()

    assert (str(error), error.is_final, error.retry_after) == (
        "Unprocessable Entity: 1m data not available", False, None,
    )  # fmt: skip


def test_over_its_rate_nobody_asks_it_for_two_minutes(web: Web) -> None:
    web.says("Too Many Requests", 429)

    first, second = refusal(), refusal("MSFT")

    assert first.retry_after == timedelta(minutes=2)
    assert second.retry_after is not None
    assert {path.rpartition("/")[2] for path in web.paths} == {"AAPL"}


@pytest.mark.parametrize(("status", "body"), [
    (500, {}), (502, "<html>"), (200, "<html>"), (200, []), (200, {"finance": {"error": {"code": "Unauthorized"}}}),
])  # fmt: skip
def test_what_is_no_answer_of_yahoos_counts_against_its_circuit(web: Web, status: int, body: Any) -> None:
    web.says(body, status)

    errors = [refusal() for _ in range(6)]

    assert not any(error.is_final for error in errors)
    assert str(errors[-1]) == "wanted a venue that answers, was silent for the last 5 calls"


def test_an_answer_that_cannot_be_read_is_a_failure(web: Web) -> None:
    broken = chart((1, 2, 1, 2, 5))
    broken["chart"]["result"][0]["indicators"]["quote"][0]["close"] = []
    web.says(broken)

    assert str(refusal()).startswith("wanted a chart that can be read, was ValueError")


def test_nobody_there_is_a_failure_after_one_try(
    web: Web, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(yahoo, "URL", "http://127.0.0.1:9/v8/finance/chart")

    assert str(refusal()) == "wanted an answer of Yahoo's, was ConnectionError"


def test_a_minutes_calls_are_those_that_are_allowed(web: Web, settings: Settings) -> None:
    settings.YAHOO_PER_MINUTE = 2
    web.says(chart((1, 1, 1, 1, 1)))
    asked()
    asked()

    assert str(refusal()) == "wanted one of the 2 calls that it allows in 60 s, were used up"
    assert len(web.asked) == 2


def test_without_yfinance_the_command_that_installs_it_is_said(bells: Bells, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] in ("yfinance", "curl_cffi"):
            raise ImportError(f"No module named {name!r}", name=name)
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    yahoo._client.cache_clear()

    error = refusal()

    assert error.is_final
    assert str(error) == "wanted yfinance to be installed, was not (yfinance): ./r3edge install sources"


# -- yfinance, tamed ----------------------------------------------------------------------------------------------------


def test_it_writes_nothing_outside_its_own_directory_and_retries_nothing(
    web: Web, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import yfinance

    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    web.says(chart((1, 1, 1, 1, 1)))

    asked()

    from yfinance import cache

    places = {db.get_location() for db in (cache._TzDBManager, cache._CookieDBManager, cache._ISINDBManager)}
    assert places == {str(settings.YAHOO_CACHE_DIR)}
    assert yfinance.config.network.retries == 0
    assert not (tmp_path / "home").exists()


def test_every_call_of_its_client_is_as_short_as_ours(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yahoo, "TIMEOUT_SECONDS", 0.2)
    started = datetime.now(tz=UTC)

    def slowly(path: str, query: dict[str, str]) -> tuple[int, Any]:
        import time

        time.sleep(1)
        return 200, {}

    web.answer = slowly
    client = yahoo._client()

    with pytest.raises(Exception, match="timed out"):
        client._session.get(f"{web.url}/cookie", timeout=30)
    assert datetime.now(tz=UTC) - started < timedelta(seconds=0.9)


def test_the_rate_is_counted_for_all_workers(web: Web) -> None:
    web.says(chart((1, 1, 1, 1, 1)))

    asked()

    assert [key for key in shared.client().keys("*source:yahoo*")] != []  # type: ignore[union-attr]
