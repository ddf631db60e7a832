"""Trades and funding rates: read while they are needed, stored once, and a hole between two readings told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from domain.candles import Timeframe
from domain.informative import TapeKind
from exchanges.gateway import ExchangeUnavailable, FundingRateReport, TradeReport
from marketdata import tapes
from marketdata.models import FundingRate, MarketTrade, Tape
from marketdata.tapes import (
    EVERY,
    HISTORY,
    LEASE,
    funding_window,
    tape_collect,
    tape_need,
    tapes_due,
    trades_window,
)
from marketdata.tasks import collect_tapes, sweep_feeds
from tests.conftest import Bells
from tests.factories import NOON, make_exchange, make_feed, make_market, make_tape
from tests.race import at_once

pytestmark = pytest.mark.django_db
in_the_open = pytest.mark.django_db(transaction=True)  # with bells that ring, or more than one connection

SECOND = timedelta(seconds=1)
START = NOON - timedelta(minutes=1)
PAGE = 5


def trade(seconds: float, number: int | None = None) -> TradeReport:
    """At so many seconds after START; its number is its id and its quantity."""
    number = int(seconds) if number is None else number
    return TradeReport(str(number), START + seconds * SECOND, number % 2 == 0, Decimal(100), Decimal(number))


@dataclass
class Ticker:
    """A venue that shows its last ``PAGE`` trades, and all of its rates; ``meanwhile`` happens while its answer is on its
    way."""

    now: datetime = NOON
    trades: list[TradeReport] = field(default_factory=list)
    rates: list[FundingRateReport] = field(default_factory=list)
    asked: list[datetime] = field(default_factory=list)
    error: str = ""
    meanwhile: Callable[[], object] = lambda: None

    def trades_since(self, symbol: str, since: datetime, limit: int) -> list[TradeReport]:
        return [row for row in self._answer(self.trades, since)[-PAGE:] if row.at >= since]

    def funding_rates_since(self, symbol: str, since: datetime, limit: int) -> list[FundingRateReport]:
        return [row for row in self._answer(self.rates, since) if row.at >= since][:limit]

    def _answer(self, rows: list, since: datetime) -> list:  # type: ignore[type-arg]  # either kind
        self.asked.append(since)
        if self.error:
            raise ExchangeUnavailable(self.error)
        happened = [row for row in rows if row.at <= self.now]
        self.meanwhile()
        return happened


@pytest.fixture
def ticker(monkeypatch: pytest.MonkeyPatch) -> Ticker:
    """The venue behind every gateway, and the wall clock."""
    ticker = Ticker()
    monkeypatch.setattr(tapes, "gateway_for", lambda exchange, markets=(): ticker)
    monkeypatch.setattr(tapes, "timezone", SimpleNamespace(now=lambda: ticker.now))
    return ticker


def needed_tape(kind: TapeKind = TapeKind.TRADES, **fields: object) -> Tape:
    """A tape that is due, of a venue whose clock is ours."""
    market = make_market(make_exchange(clock_anchor_at=NOON, clock_venue_at=NOON))
    return make_tape(market, kind, **{"is_needed": True, "next_due_at": NOON, **fields})


def later(ticker: Ticker, tape: Tape, seconds: float) -> Tape:
    """Read again after ``seconds``."""
    ticker.now += seconds * SECOND
    Tape.objects.filter(pk=tape.pk).update(next_due_at=ticker.now)
    tape_collect(tape.pk)
    tape.refresh_from_db()
    return tape


def stored() -> list[str]:
    return list(MarketTrade.objects.order_by("traded_at", "trade_id").values_list("trade_id", flat=True))


# -- marketdata.collect_tapes: its work, twice, lost, second ---------------------------------------------------------------


def test_a_tape_that_is_due_is_read_and_says_how_far_it_reaches(ticker: Ticker) -> None:
    tape = needed_tape()
    ticker.trades = [trade(10), trade(20), trade(30)]

    collect_tapes([tape.pk])

    tape.refresh_from_db()
    row = MarketTrade.objects.get(trade_id="20")
    assert stored() == ["10", "20", "30"]
    assert (row.traded_at, row.is_buy, row.price, row.quantity) == (START + 20 * SECOND, True, 100, 20)
    assert ticker.asked == [NOON - HISTORY[TapeKind.TRADES]]
    assert (tape.last_at, tape.whole_since) == (NOON - SECOND, START + 10.001 * SECOND)
    assert (tape.next_due_at, tape.leased_until, tape.holes) == (NOON + EVERY[TapeKind.TRADES], None, 0)


def test_a_second_reading_begins_with_the_last_trade_and_stores_nothing_twice(ticker: Ticker) -> None:
    tape = needed_tape()
    ticker.trades = [trade(10), trade(20), trade(62)]
    tape_collect(tape.pk)

    collect_tapes([tape.pk, tape.pk])  # nothing is due
    not_due = stored()
    later(ticker, tape, 5)

    assert not_due == ["10", "20"]
    assert stored() == ["10", "20", "62"]
    assert ticker.asked[1:] == [START + 20 * SECOND]
    assert (tape.whole_since, tape.holes) == (START + 10.001 * SECOND, 0)


@in_the_open
def test_a_lost_bell_is_rung_again_by_the_sweep(bells: Bells, ticker: Ticker) -> None:
    tape = needed_tape()

    sweep_feeds()

    assert bells.rung("marketdata.collect_tapes") == [{"tape_ids": [tape.pk]}]


@in_the_open
def test_of_many_readers_at_once_one_asks_the_venue(ticker: Ticker) -> None:
    tape = needed_tape()
    ticker.trades = [trade(10)]

    results = at_once([lambda: tape_collect(tape.pk)] * 5)

    assert sorted(results) == [0, 0, 0, 0, 1]
    assert len(ticker.asked) == 1


@in_the_open
def test_a_reader_that_was_overtaken_moves_nothing(ticker: Ticker) -> None:
    tape = needed_tape()
    ticker.trades = [trade(10), trade(61)]

    def another_reads_after_the_lease() -> None:
        ticker.meanwhile = lambda: None
        ticker.now = NOON + LEASE + SECOND
        tape_collect(tape.pk)

    ticker.meanwhile = another_reads_after_the_lease
    tape_collect(tape.pk)

    tape.refresh_from_db()
    assert stored() == ["10", "61"]
    assert tape.last_at == NOON + LEASE


# -- holes -----------------------------------------------------------------------------------------------------------------


def test_more_trades_than_the_venue_shows_between_two_readings_are_a_hole_that_is_told(
    ticker: Ticker, caplog: pytest.LogCaptureFixture
) -> None:
    tape = needed_tape()
    ticker.trades = [trade(10)]
    tape_collect(tape.pk)
    ticker.trades += [trade(61 + number / 10, number) for number in range(1, PAGE + 2)]

    later(ticker, tape, 5)

    first_shown = START + 61.2 * SECOND
    assert stored() == ["10", "2", "3", "4", "5", "6"]  # 1 was not shown any more
    assert (tape.holes, tape.whole_since) == (1, first_shown + timedelta(milliseconds=1))
    assert "may be missing" in caplog.text


def test_as_many_trades_as_the_venue_shows_are_no_hole(ticker: Ticker) -> None:
    tape = needed_tape()
    ticker.trades = [trade(10)]
    tape_collect(tape.pk)
    ticker.trades += [trade(61 + number / 10, number) for number in range(1, PAGE)]

    later(ticker, tape, 5)

    assert (tape.holes, tape.whole_since) == (0, START + 10.001 * SECOND)


def test_a_market_without_trades_for_long_has_no_hole(ticker: Ticker) -> None:
    tape = needed_tape()
    ticker.trades = [trade(10)]
    tape_collect(tape.pk)
    for _ in range(3):
        later(ticker, tape, 400)

    assert (tape.holes, tape.whole_since) == (0, START + 10.001 * SECOND)
    assert tape.last_at == NOON + 1200 * SECOND - SECOND


def test_a_tape_that_was_not_needed_for_long_begins_anew_and_says_so(ticker: Ticker) -> None:
    tape = needed_tape()
    ticker.trades = [trade(10)]
    tape_collect(tape.pk)
    ticker.trades += [trade(3660)]

    later(ticker, tape, 3600)

    assert ticker.asked[-1] == NOON + 3600 * SECOND - HISTORY[TapeKind.TRADES]
    assert (tape.holes, tape.whole_since) == (1, START + 3660.001 * SECOND)


# -- failing, needing, waking ------------------------------------------------------------------------------------------------


def test_a_venue_that_is_away_is_asked_again_after_a_growing_pause(ticker: Ticker) -> None:
    tape = needed_tape()
    ticker.error = "away"
    pauses = []
    for _ in range(3):
        later(ticker, tape, 0)
        pauses.append((tape.next_due_at or NOON) - NOON)

    assert pauses == [1 * SECOND, 2 * SECOND, 4 * SECOND]
    assert (tape.misses, tape.last_error, tape.last_at) == (3, "away", None)

    ticker.error = ""
    later(ticker, tape, 0)
    assert (tape.misses, tape.last_error) == (0, "")


def test_a_tape_is_due_exactly_while_it_is_needed(ticker: Ticker) -> None:
    tape = make_tape(make_market())

    assert (tape_need(tape.pk, True), tape_need(tape.pk, True), tapes_due(NOON)) == (True, False, [tape.pk])
    assert (tape_need(tape.pk, False), tapes_due(NOON + LEASE), tape_collect(tape.pk)) == (True, [], 0)


@in_the_open
def test_feeds_whose_candle_closed_since_the_last_reading_are_asked(bells: Bells, ticker: Ticker) -> None:
    tape = needed_tape(last_at=NOON - 2 * SECOND)
    ticker.now = NOON + 2 * SECOND
    fields: dict[str, Any] = {"is_needed": True, "next_due_at": NOON}
    minutes = make_feed(tape.market, last_open_at=NOON - timedelta(minutes=1), **fields)
    make_feed(
        tape.market, Timeframe.M5, last_open_at=NOON - timedelta(minutes=10), **fields
    )  # its candle was not waiting
    make_feed(tape.market, Timeframe.M3, last_open_at=NOON - timedelta(minutes=3))  # nobody needs it

    tape_collect(tape.pk)

    assert bells.rung("strategies.evaluate") == [{"feed_ids": [minutes.pk]}]


def test_a_tape_is_due_when_what_came_before_a_close_can_be_read(ticker: Ticker) -> None:
    tape = needed_tape(TapeKind.FUNDING)
    make_feed(tape.market, Timeframe.M1, is_needed=True)
    ticker.now = NOON + 30 * SECOND

    tape_collect(tape.pk)

    tape.refresh_from_db()
    assert tape.next_due_at == NOON + 61 * SECOND


# -- funding rates, and what is read back ------------------------------------------------------------------------------------


def test_funding_rates_are_read_from_far_back_and_each_stored_once(ticker: Ticker) -> None:
    tape = needed_tape(TapeKind.FUNDING)
    ticker.rates = [FundingRateReport(NOON - hours * 3600 * SECOND, Decimal(hours) / 10_000) for hours in (16, 8)]
    tape_collect(tape.pk)
    ticker.rates.append(FundingRateReport(NOON + SECOND, Decimal("-0.0003")))

    later(ticker, tape, 300)

    assert ticker.asked == [NOON - HISTORY[TapeKind.FUNDING], NOON - 8 * 3600 * SECOND]
    assert list(FundingRate.objects.order_by("paid_at").values_list("rate", flat=True)) == [
        Decimal("0.0016"), Decimal("0.0008"), Decimal("-0.0003"),
    ]  # fmt: skip
    assert (tape.holes, tape.whole_since) == (0, NOON - HISTORY[TapeKind.FUNDING])


def test_what_was_stored_is_read_back_as_arrays_before_a_time_only(ticker: Ticker) -> None:
    tape = needed_tape()
    ticker.trades = [trade(0), trade(10), trade(20)]
    tape_collect(tape.pk)
    tape.refresh_from_db()

    seen = trades_window(tape, START + 5 * SECOND, START + 20 * SECOND)

    assert seen.at_ms.tolist() == [(START + 10 * SECOND).timestamp() * 1000]
    assert (seen.price.tolist(), seen.quantity.tolist(), seen.is_buy.tolist()) == ([100.0], [10.0], [True])
    assert seen.whole_since_ms == START.timestamp() * 1000 + 1
    assert seen.is_buy.dtype == np.bool_


def test_a_tape_that_was_never_read_is_whole_from_nowhere_on() -> None:
    tape = needed_tape()

    seen = trades_window(tape, START, NOON)

    assert (len(seen), seen.whole_since_ms) == (0, NOON.timestamp() * 1000)


def test_the_rate_before_a_window_is_in_it(ticker: Ticker) -> None:
    tape = needed_tape(TapeKind.FUNDING)
    FundingRate.objects.bulk_create(
        FundingRate(market=tape.market, paid_at=NOON + hours * 3600 * SECOND, rate=hours) for hours in (-8, 0, 8)
    )

    assert funding_window(tape, NOON + SECOND, NOON + 8 * 3600 * SECOND).rate.tolist() == [-8.0, 0.0]
