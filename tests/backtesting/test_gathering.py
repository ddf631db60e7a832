"""What a backtest is given of the platform's rows: exactly what live trading would have seen, and on the same terms."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core.exceptions import ValidationError

from backtesting.engine import backtest
from backtesting.gathering import NothingToTest, market_gather, settings_of
from domain.candles import Timeframe
from domain.exit_plan import ExitPlan
from domain.informative import TapeKind
from domain.limits import Limits
from exchanges.accounts import risk_profile_change
from exchanges.models import Market
from marketdata.models import Feed, FundingRate
from strategies.library import LIBRARY
from strategies.services import WINDOW
from tests.factories import NOON, make_account, make_candles, make_config, make_feed, make_market, make_tape

pytestmark = pytest.mark.django_db

D = Decimal
MINUTE = timedelta(minutes=1)


def a_feed(closes: list[float], last_open_at: datetime = NOON, **fields: Any) -> Feed:
    feed = make_feed(make_market(symbol=fields.pop("symbol", "BTC/USDT"), **fields))
    make_candles(feed, closes, last_open_at)
    feed.refresh_from_db()
    return feed


def sma(**parameters: Any) -> Any:
    return LIBRARY["sma_cross"].from_values({"fast": 2, "slow": 3, **parameters})


def test_as_many_candles_come_before_the_first_as_an_evaluation_sees() -> None:
    feed = a_feed([100.0 + index for index in range(600)])

    market = market_gather(feed, sma(), NOON - 9 * MINUTE, NOON + MINUTE)

    assert (len(market.candles), market.first) == (WINDOW + 10, WINDOW)
    assert market.candles.open_ms[market.first] == (NOON - 9 * MINUTE).timestamp() * 1000
    assert market.candles.open_ms[-1] == NOON.timestamp() * 1000
    assert (market.symbol, market.timeframe, market.rules) == ("BTC/USDT", Timeframe.M1, feed.market.rules)
    assert not market.can_short


def test_a_long_warm_up_asks_for_more_than_the_usual_window() -> None:
    feed = a_feed([100.0] * 700)

    market = market_gather(feed, sma(fast=20, slow=500), NOON, NOON + MINUTE)

    assert market.first == 503
    assert market_gather(feed, sma(), NOON, NOON + MINUTE).first == WINDOW


def test_trading_begins_when_enough_is_known_where_little_was_stored_before() -> None:
    feed = a_feed([100.0] * 8)

    market = market_gather(feed, sma(), NOON - 6 * MINUTE, NOON + MINUTE)

    assert (len(market.candles), market.first) == (8, 4)  # slow + 1


def test_what_was_not_stored_cannot_be_tested() -> None:
    feed = a_feed([100.0] * 4)

    with pytest.raises(NothingToTest, match="wanted candles of .* from 2024-05-01 13:00 to 2024-05-01 14:00, was none"):
        market_gather(feed, sma(), NOON + timedelta(hours=1), NOON + timedelta(hours=2))
    with pytest.raises(NothingToTest, match="wanted more than 4 candles of .* to warm up, was 4"):
        market_gather(feed, sma(), NOON - 3 * MINUTE, NOON + MINUTE)


def test_informative_candles_come_with_their_warm_up_and_trading_waits_for_them() -> None:
    strategy = LIBRARY["trend_filter"].from_values({"fast": 2, "slow": 3, "trend_timeframe": "5m", "trend_period": 3})
    feed = a_feed([100.0] * 20)
    large = make_feed(feed.market, Timeframe.M5)
    [five] = strategy.informative
    make_candles(large, [100.0] * 9, NOON - 5 * MINUTE)

    market = market_gather(feed, strategy, NOON - 4 * MINUTE, NOON + MINUTE)

    # The candles of ours go back to 11:41; five more of five minutes come before that.
    assert market.facts.candles[five].open_ms[0] == (NOON - 40 * MINUTE).timestamp() * 1000
    assert (len(market.facts.candles[five]), market.first) == (8, 15)

    large.delete()
    late = make_feed(feed.market, Timeframe.M5)
    make_candles(late, [100.0] * 3, NOON - 5 * MINUTE)  # the third closes at noon, as our last but one does
    market = market_gather(feed, strategy, NOON - 4 * MINUTE, NOON + MINUTE)
    assert market.candles.open_ms[market.first] == NOON.timestamp() * 1000

    make_candles(make_feed(feed.market, Timeframe.M3), [100.0] * 3, NOON)
    other = LIBRARY["trend_filter"].from_values({"fast": 2, "slow": 3, "trend_timeframe": "3m", "trend_period": 200})
    with pytest.raises(NothingToTest, match="TrendFilter looks at beside .* was 3 of 200 of 3m"):
        market_gather(feed, other, NOON - 4 * MINUTE, NOON + MINUTE)


def test_a_market_to_look_at_has_to_be_there() -> None:
    strategy = LIBRARY["trend_filter"].from_values({"trend_symbol": "ETH/USDT"})
    with pytest.raises(ValidationError, match="wanted a market of simulator to look at, was 'ETH/USDT'"):
        market_gather(a_feed([100.0] * 4), strategy, NOON - 3 * MINUTE, NOON + MINUTE)
    make_market(symbol="ETH/USDT")
    with pytest.raises(NothingToTest):
        market_gather(a_feed([100.0] * 4), strategy, NOON - 3 * MINUTE, NOON + MINUTE)


def test_shorter_candles_are_of_the_same_market_and_make_up_the_longer() -> None:
    feed = a_feed([100.0] * 10)
    longer = make_feed(feed.market, Timeframe.M3)
    make_candles(longer, [100.0] * 8, NOON)

    market = market_gather(longer, sma(), NOON - 3 * MINUTE, NOON + MINUTE, detail=feed)

    assert market.detail is not None
    assert list(market.detail.open_ms) == [(NOON - minutes * MINUTE).timestamp() * 1000 for minutes in (3, 2, 1, 0)]
    with pytest.raises(ValueError, match="wanted a feed of .* whose candles make up those of 1m"):
        market_gather(feed, sma(), NOON, NOON + MINUTE, detail=longer)
    with pytest.raises(ValueError, match="wanted a feed of .* whose candles make up those of 3m"):
        market_gather(longer, sma(), NOON, NOON + MINUTE, detail=make_feed(make_market(symbol="ETH/USDT")))


def test_contracts_can_be_sold_short_and_pay_the_funding_that_is_known() -> None:
    feed = a_feed([100.0] * 10, symbol="BTC/USDT:USDT", quote="USDT", base="BTC", kind=Market.Kind.LINEAR_FUTURE)

    market = market_gather(feed, sma(), NOON - MINUTE, NOON + MINUTE)
    assert (market.can_short, market.funding) == (True, None)

    FundingRate.objects.create(market=feed.market, paid_at=NOON - timedelta(seconds=30), rate=D("0.0001"))
    market = market_gather(feed, sma(), NOON - MINUTE, NOON + MINUTE)
    assert market.funding is not None
    assert list(market.funding.rate) == [0.0001]


def test_tapes_are_read_for_whoever_looks_at_them(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = a_feed([100.0] * 10, symbol="BTC/USDT:USDT", quote="USDT", base="BTC", kind=Market.Kind.LINEAR_FUTURE)
    monkeypatch.setattr(LIBRARY["sma_cross"], "tapes", frozenset(TapeKind))
    make_tape(feed.market, TapeKind.TRADES, whole_since=NOON - 5 * MINUTE)
    FundingRate.objects.create(market=feed.market, paid_at=NOON - timedelta(hours=1), rate=D("0.0001"))

    facts = market_gather(feed, sma(), NOON - MINUTE, NOON + MINUTE).facts

    assert list(facts.funding.rate) == [0.0001]
    assert facts.trades.whole_since_ms == (NOON - 5 * MINUTE).timestamp() * 1000


def test_a_plan_of_ones_own_takes_the_place_of_the_strategys() -> None:
    feed, plan = a_feed([100.0] * 10), ExitPlan(stop_loss_percent=D(7))

    assert market_gather(feed, sma(), NOON, NOON + MINUTE, plan=plan).exit_plan == plan
    assert market_gather(feed, sma(), NOON, NOON + MINUTE).exit_plan == sma().exit_plan


def test_the_account_trades_on_its_own_terms() -> None:
    account = make_account()
    dear = make_market(symbol="BTC/USDT", taker_fee=D("0.002"), maker_fee=D("0.0005"))
    cheap = make_market(symbol="ETH/USDT", taker_fee=D("0.001"), maker_fee=D("0.001"))
    risk_profile_change(account.pk, {"max_open_positions": 2, "max_var_percent": D(3), "max_exposure": D(500)})
    account.refresh_from_db()

    settings = settings_of(account, [dear, cheap], cash=D(777))

    assert (settings.taker_fee, settings.maker_fee, settings.margin) == (D("0.002"), D("0.001"), D("0.007"))
    assert settings.limits == Limits(max_open_positions=2, max_exposure=D(500))  # of value at risk nothing is known
    assert (settings.cash, settings.rests_targets) == (D(777), False)


def test_what_was_gathered_runs() -> None:
    closes = [100.0] * 6 + [99.0, 104.0, 105.0, 106.0, 100.0, 95.0, 94.0]
    feed = a_feed(closes)
    config = make_config(feed=feed)

    market = market_gather(feed, config.build(), NOON - 6 * MINUTE, NOON + MINUTE)
    [trade] = backtest([market], settings_of(make_account(), [feed.market])).trades

    # Crossed on the candle of 104, which closes at 11:55; the candle of 95 opens below the stop.
    assert (trade.entry_at, trade.entry_price) == (NOON - 4 * MINUTE, 105.0)
    assert (trade.exit_at, trade.exit_price, trade.exit_reason) == (NOON - 2 * MINUTE, 100.0, "STOP_LOSS")
