"""An exchange of which there are only candles: it is made with its markets, called by nobody, and nobody trades there."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.utils import timezone

from domain.candles import Timeframe
from exchanges.accounts import KeysExamined, KeysRefused, PaperRefused, account_create
from exchanges.credentials import Credentials
from exchanges.data_markets import MarketUnknown, market_of_data
from exchanges.gateway import ExchangeUnavailable
from exchanges.models import Account, Exchange, Market
from exchanges.services import exchange_sync, exchanges_due, exchanges_to_read_status_of, gateway_for
from r3edge_site.streaming import exchanges_to_hear
from sessions.services import session_start
from tests.factories import make_account, make_config, make_exchange, make_feed, make_session, make_user
from tests.race import at_once

pytestmark = pytest.mark.django_db


def test_a_market_is_made_with_its_exchange() -> None:
    market = market_of_data("nyse", "SPY/USD")

    assert (market.exchange.name, market.exchange.ccxt_id, market.exchange.is_only_data) == ("nyse", "", True)
    assert (market.symbol, market.base, market.quote, market.kind) == ("SPY/USD", "SPY", "USD", "SPOT")
    assert (market.tick_size, market.lot_size) == (Decimal("0.00000001"), Decimal("0.00000001"))


def test_a_second_time_changes_nothing() -> None:
    first = market_of_data("nyse", "SPY/USD")
    Market.objects.update(tick_size=Decimal("0.01"))

    assert market_of_data("nyse", "SPY/USD") == first
    assert (Exchange.objects.count(), Market.objects.get().tick_size) == (1, Decimal("0.01"))


@pytest.mark.django_db(transaction=True)
def test_of_many_who_make_it_at_once_all_have_the_same() -> None:
    made = at_once([lambda: market_of_data("nyse", "SPY/USD").pk] * 4)

    assert len(set(made)) == 1
    assert (Exchange.objects.count(), Market.objects.count()) == (1, 1)


def test_a_contract_is_one_by_what_it_is_settled_in() -> None:
    assert market_of_data("past", "BTC/USDT:USDT").kind == Market.Kind.LINEAR_FUTURE


@pytest.mark.parametrize(
    ("name", "symbol", "words"),
    [
        ("NYSE", "SPY/USD", "wanted a name of up to 40 small letters, digits, - and _ for an exchange, was 'NYSE'"),
        ("nyse", "SPY", "wanted a symbol such as SPY/USD, was 'SPY'"),
        ("nyse", f"{'A' * 20}/{'B' * 20}", f"wanted a symbol such as SPY/USD, was '{'A' * 20}/{'B' * 20}'"),
        ("simulator", "SPY/USD", "wanted a market that simulator lists, was SPY/USD; are its markets read?"),
    ],
)
def test_what_cannot_be_made_is_refused_and_nothing_is_made(name: str, symbol: str, words: str) -> None:
    make_exchange()

    with pytest.raises(MarketUnknown) as raised:
        market_of_data(name, symbol)

    assert str(raised.value) == words
    assert (Exchange.objects.count(), Market.objects.count()) == (1, 0)


def test_nobody_calls_it() -> None:
    exchange = market_of_data("nyse", "SPY/USD").exchange
    later = timezone.now() + timedelta(days=9)

    with pytest.raises(ExchangeUnavailable, match="wanted an exchange that can be called, nyse is only data"):
        gateway_for(exchange)
    with pytest.raises(ExchangeUnavailable, match="wanted an exchange that can be called, nyse is only data"):
        exchange_sync(exchange.pk)
    assert (exchanges_due(later), exchanges_to_read_status_of(later), exchanges_to_hear(["nyse"])) == ([], [], [])


KEYS = Credentials("k", "s", "p")


@pytest.mark.parametrize(
    "way",
    [{"paper_balance": Decimal(1)}, {"credentials": KEYS}, {"credentials": KEYS, "examined": KeysExamined(None, "")}],
)
def test_nobody_has_an_account_there(way: dict[str, Any]) -> None:
    exchange = market_of_data("nyse", "SPY/USD").exchange

    with pytest.raises((PaperRefused, KeysRefused)) as raised:
        account_create(owner=make_user(), exchange=exchange, name="main", currency="USD", **way)

    assert str(raised.value) == "wanted an exchange to trade at, nyse is only data"
    assert not Account.objects.exists()


@pytest.mark.parametrize("is_there", [True, False])
def test_no_session_trades_there(is_there: bool) -> None:
    market = market_of_data("nyse", "SPY/USD")
    account = make_account()
    if is_there:  # from a time when it could be called
        Account.objects.update(exchange=market.exchange)
    session = make_session(account, make_config(account.owner, make_feed(market, Timeframe.D1)), status="CREATED")

    with pytest.raises(ValidationError, match="wanted a market to trade on, nyse is only data"):
        session_start(session.pk)
