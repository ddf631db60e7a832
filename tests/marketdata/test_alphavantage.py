"""Candles of Alpha Vantage: recorded answers to the last digit; words in place of candles are never "nothing new"."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr
from pytest_django import Settings

from marketdata.sources import SourceFailed, alphavantage
from marketdata.sources.alphavantage import AlphaVantageSource, candles_of
from tests.conftest import Bells
from tests.domain.reference import reference_json
from tests.marketdata.web import Web, web_running

KEY = "canary-key-of-alpha-vantage"
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
ROW = {"1. open": "10.1", "2. high": "10.4", "3. low": "10.0", "4. close": "10.25", "5. volume": "1200"}


@pytest.fixture
def web(bells: Bells, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """Alpha Vantage, of which nothing was asked yet, at noon."""
    settings.ALPHA_VANTAGE_KEY = SecretStr(KEY)
    monkeypatch.setattr(alphavantage, "timezone", SimpleNamespace(now=lambda: NOON))
    with web_running() as web:
        monkeypatch.setattr(alphavantage, "URL", f"{web.url}/query")
        web.says(series({"2024-05-01 07:59:00": ROW}))
        yield web


def series(rows: dict[str, Any], name: str = "Time Series (1min)", zone: str = "US/Eastern") -> dict[str, Any]:
    return {"Meta Data": {"1. Information": "Prices", "6. Time Zone": zone}, name: rows}


def refusal(symbol: str = "IBM", timeframe: str = "1m", since: datetime = NOON - MINUTE) -> SourceFailed:
    with pytest.raises(SourceFailed) as raised:
        AlphaVantageSource(symbol, timeframe).candles(since, 10)
    return raised.value


# -- what comes out -----------------------------------------------------------------------------------------------------


def test_a_recorded_answer_comes_out_whole_exact_and_oldest_first() -> None:
    answer = reference_json("api/alphavantage/mock_time_series.json")
    expected = reference_json("expected/api/alphavantage_parsed.json")["mock_time_series.json"]

    reports = candles_of(answer, KEY)

    assert len(reports) == expected["n"]
    for report, told in ((reports[0], expected["first"]), (reports[-1], expected["last"])):
        assert report.open_at == datetime.fromisoformat(told[0]).replace(tzinfo=UTC) + timedelta(hours=5)  # in winter
        cells = (report.open, report.high, report.low, report.close, report.volume)
        assert cells == tuple(Decimal(cell) for cell in told[1:])
    assert [report.open_at for report in reports] == sorted(report.open_at for report in reports)


@pytest.mark.parametrize(("name", "is_final"), [
    ("note_rate_limit_5_per_min", False), ("global_quote", False), ("mock_foreign_exchange", False),
])  # fmt: skip
def test_a_recorded_answer_without_a_series_is_a_failure_whatever_its_status(
    web: Web, name: str, is_final: bool
) -> None:
    web.says(reference_json(f"api/alphavantage/{name}.json"))

    error = refusal()

    assert error.is_final == is_final
    assert (error.retry_after is not None) == (name == "note_rate_limit_5_per_min")


def test_times_are_told_in_the_zone_that_the_answer_names_summer_and_winter() -> None:
    rows = {"2024-01-15 09:30:00": ROW, "2024-07-15 09:30:00": ROW}

    assert [report.open_at for report in candles_of(series(rows), KEY)] == [
        datetime(2024, 1, 15, 14, 30, tzinfo=UTC), datetime(2024, 7, 15, 13, 30, tzinfo=UTC),
    ]  # fmt: skip
    [report, _] = candles_of(series(rows, zone="UTC"), KEY)
    assert report.open_at == datetime(2024, 1, 15, 9, 30, tzinfo=UTC)


def test_a_day_is_named_by_its_date_at_midnight_utc() -> None:
    [report] = candles_of(series({"2024-04-30": ROW}, "Time Series (Daily)"), KEY)

    assert report.open_at == datetime(2024, 4, 30, tzinfo=UTC)
    assert report.close == Decimal("10.25")


def test_currencies_have_no_volume_and_coins_are_told_in_the_currency_asked_for() -> None:
    money = {name: value for name, value in ROW.items() if "volume" not in name}
    coin = {
        "1a. open (CNY)": "7",
        "1b. open (USD)": "1",
        "2a. high (CNY)": "9",
        "3a. low (CNY)": "6",
        "4a. close (CNY)": "8",
    }

    [pair] = candles_of(series({"2024-04-30": money}, "Time Series FX (Daily)", "UTC"), KEY)
    [old] = candles_of(series({"2024-04-30": {**coin, "5. volume": "3"}}, "Time Series (Digital Currency Daily)"), KEY)

    assert (pair.close, pair.volume) == (Decimal("10.25"), Decimal(0))
    assert [old.open, old.high, old.low, old.close, old.volume] == [7, 9, 6, 8, 3]


# -- what is asked ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("symbol", "timeframe", "wanted"), [
    ("IBM", "1d", {"function": "TIME_SERIES_DAILY", "symbol": "IBM", "outputsize": "compact"}),
    ("IBM", "5m", {"function": "TIME_SERIES_INTRADAY", "symbol": "IBM", "interval": "5min", "outputsize": "compact",
                   "adjusted": "false", "extended_hours": "false"}),
    ("EUR/USD", "1d", {"function": "FX_DAILY", "from_symbol": "EUR", "to_symbol": "USD", "outputsize": "compact"}),
    ("eur/usd", "1h", {"function": "FX_INTRADAY", "from_symbol": "EUR", "to_symbol": "USD", "interval": "60min",
                       "outputsize": "compact"}),
    ("BTC/EUR", "1d", {"function": "DIGITAL_CURRENCY_DAILY", "symbol": "BTC", "market": "EUR"}),
    ("BTC/EUR", "15m", {"function": "CRYPTO_INTRADAY", "symbol": "BTC", "market": "EUR", "interval": "15min",
                        "outputsize": "compact"}),
])  # fmt: skip
def test_each_market_is_asked_for_by_the_function_that_has_it(
    web: Web, symbol: str, timeframe: str, wanted: dict[str, str]
) -> None:
    web.says(series({"2024-05-01 11:59:00": ROW}, zone="UTC"))

    AlphaVantageSource(symbol, timeframe).candles(NOON - MINUTE, 10)

    assert web.asked == [{**wanted, "apikey": KEY}]


def test_only_candles_from_the_time_on_come_back_and_no_more_than_asked(web: Web) -> None:
    web.says(series({f"2024-05-01 11:{minute}:00": ROW for minute in (57, 55, 56, 58)}, zone="UTC"))

    reports = AlphaVantageSource("IBM", "1m").candles(NOON - 4 * MINUTE, 2)

    assert [report.open_at for report in reports] == [NOON - 4 * MINUTE, NOON - 3 * MINUTE]


@pytest.mark.parametrize(("minutes", "size"), [(99, "compact"), (100, "full")])
def test_what_the_latest_hundred_do_not_reach_is_asked_for_in_full(web: Web, minutes: int, size: str) -> None:
    AlphaVantageSource("IBM", "1m").candles(NOON - minutes * MINUTE, 10)

    assert [query["outputsize"] for query in web.asked] == [size]


def test_older_minutes_of_a_share_are_asked_for_by_month_and_the_next_where_it_has_none_left(web: Web) -> None:
    rows = {"2024-01": {}, "2024-02": {"2024-02-01 09:30:00": ROW}}
    web.answer = lambda path, query: (200, series(rows[query["month"]]))

    reports = AlphaVantageSource("IBM", "1m").candles(datetime(2024, 1, 31, 21, tzinfo=UTC), 10)

    assert [report.open_at for report in reports] == [datetime(2024, 2, 1, 14, 30, tzinfo=UTC)]
    assert [query["month"] for query in web.asked] == ["2024-01", "2024-02"]


def test_nothing_newer_is_a_failure_and_says_since_when(web: Web) -> None:
    assert str(refusal(since=NOON)) == "wanted candles from 2024-05-01 12:00 on, were none"


@pytest.mark.parametrize("timeframe", ["3m", "4h"])
def test_a_timeframe_that_it_does_not_have_is_final_and_asks_nobody(web: Web, timeframe: str) -> None:
    assert refusal(timeframe=timeframe).is_final
    assert web.asked == []


def test_without_a_key_nobody_is_asked_and_the_variable_is_named(web: Web, settings: Settings) -> None:
    settings.ALPHA_VANTAGE_KEY = None

    error = refusal()

    assert (str(error), error.is_final) == ("wanted R3EDGE_ALPHA_VANTAGE_KEY to be set, was not", True)
    assert web.asked == []


# -- words in place of candles ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("answer", "minutes", "is_final"), [
    ({"Note": "Thank you! Our standard API call frequency is 5 calls per minute and 500 calls per day."}, 1, False),
    ({"Information": "Your API key is X and our standard API rate limit is 25 requests per day."}, 60, False),
    ({"Information": "Please spread out your free API requests more sparingly (1 request per second)."}, 1, False),
    ({"Information": "Thank you for using Alpha Vantage! This is a premium endpoint."}, None, True),
    ({"Error Message": "Invalid API call. Please retry or visit the documentation for TIME_SERIES_DAILY."}, None, True),
    ({}, None, False),
])  # fmt: skip
def test_words_say_when_to_ask_again_or_that_it_is_of_no_use(
    web: Web, answer: dict[str, str], minutes: int | None, is_final: bool
) -> None:
    web.says(answer)

    error = refusal()

    assert error.retry_after == (None if minutes is None else timedelta(minutes=minutes))
    assert error.is_final == is_final


@pytest.mark.parametrize(("status", "body"), [
    (500, {}), (503, "busy"), (200, "<html>"), (200, []), (302, "/elsewhere"),
    (200, series({"2024-05-01 07:59:00": {**ROW, "4. close": "n/a"}})), (200, series({"yesterday": ROW})),
    (200, series({"2024-05-01 07:59:00": ROW}, zone="Mars/Olympus")), (200, series({"2024-05-01 07:59:00": {}})),
])  # fmt: skip
def test_whatever_cannot_be_read_is_a_failure_that_may_pass(web: Web, status: int, body: Any) -> None:
    web.says(body, status)

    error = refusal()

    assert not error.is_final
    assert len(web.asked) == 1


def test_http_429_is_a_rate_too(web: Web) -> None:
    web.says({}, 429)

    assert refusal().retry_after == MINUTE


# -- the key ------------------------------------------------------------------------------------------------------------


def test_the_key_is_in_no_error_and_in_no_log(
    web: Web, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.INFO, logger="urllib3")  # as the settings have it
    web.says(
        {"Information": f"We have detected your API key as {KEY}; the standard rate limit is 25 requests per day."}
    )
    told = [refusal()]
    forget_the_pause()
    monkeypatch.setattr(alphavantage, "URL", "http://127.0.0.1:9/query")
    told.append(refusal())

    assert str(told[0]).startswith("We have detected your API key as ***;")
    assert str(told[1]) == "wanted an answer, was ConnectionError"
    for error in told:
        assert KEY not in repr(error)
        assert error.__cause__ is None
        assert error.__suppress_context__ or error.__context__ is None
    assert KEY not in caplog.text


def test_the_settings_keep_the_key_out_of_the_log_at_debug(settings: Settings) -> None:
    settings.ALPHA_VANTAGE_KEY = SecretStr(KEY)

    assert settings.LOGGING["loggers"]["urllib3"]["level"] == "INFO"
    assert KEY not in repr(settings.ALPHA_VANTAGE_KEY)


def forget_the_pause() -> None:
    """As if the pause that was asked for were over."""
    from exchanges import shared

    shared.client().delete("r3edge:blocked:source:alphavantage")


# -- budget and circuit -------------------------------------------------------------------------------------------------


def test_what_it_allows_in_a_minute_is_never_exceeded_and_the_refusal_says_how_long(
    web: Web, settings: Settings
) -> None:
    settings.ALPHA_VANTAGE_PER_MINUTE = 2
    for _ in range(2):
        AlphaVantageSource("IBM", "1m").candles(NOON - MINUTE, 10)

    error = refusal()

    assert str(error) == "wanted one of the 2 calls that it allows in 60 s, were used up"
    assert error.retry_after is not None
    assert timedelta(0) < error.retry_after <= timedelta(minutes=2)
    assert len(web.asked) == 2


def test_what_it_allows_in_a_day_is_never_exceeded(web: Web, settings: Settings) -> None:
    settings.ALPHA_VANTAGE_PER_MINUTE, settings.ALPHA_VANTAGE_PER_DAY = 100, 3
    for _ in range(3):
        AlphaVantageSource("IBM", "1m").candles(NOON - MINUTE, 10)

    assert str(refusal()) == "wanted one of the 3 calls that it allows in 86400 s, were used up"
    assert len(web.asked) == 3


def test_a_rate_that_it_says_is_used_up_keeps_every_feed_from_asking(web: Web) -> None:
    web.says({"Note": "Our standard API call frequency is 5 calls per minute."})
    refusal()

    assert refusal(symbol="AAPL").retry_after is not None
    assert len(web.asked) == 1


def test_after_five_silences_nobody_asks_it_and_a_refusal_of_a_symbol_is_no_silence(
    web: Web, settings: Settings
) -> None:
    settings.ALPHA_VANTAGE_PER_MINUTE = 100
    web.says({"Error Message": "Invalid API call."})
    for _ in range(6):
        refusal()
    web.says("down", 500)
    for _ in range(5):
        refusal()

    assert str(refusal()) == "wanted a venue that answers, was silent for the last 5 calls"
    assert len(web.asked) == 11
