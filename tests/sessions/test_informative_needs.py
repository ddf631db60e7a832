"""Needs of what configurations look at beside their own feed: collected exactly while a session needs the configuration."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ValidationError

from domain.candles import Candles, Timeframe
from domain.informative import Others, TapeKind
from domain.strategy import Parameters, SignalArrays, Strategy
from exchanges.models import Market
from marketdata.models import Feed, Tape
from sessions.models import SessionStatus, TradingSession
from sessions.services import feed_tell, needs_align, session_start, session_suspend, sessions_note_exposure
from strategies.library import LIBRARY
from strategies.models import StrategyConfig
from tests.factories import (
    NOON,
    events,
    make_account,
    make_config,
    make_feed,
    make_market,
    make_session,
)
from tests.sessions.conftest import fresh

pytestmark = pytest.mark.django_db

S = SessionStatus


class OfTrades(Strategy[Parameters]):
    """Looks at trades."""

    name, title, parameters_type = "of_trades", "Of trades", Parameters
    warm_up = 1
    tapes = frozenset({TapeKind.TRADES})

    def signals_with(self, candles: Candles, others: Others) -> SignalArrays:
        raise NotImplementedError


def a_session(
    status: str = S.CREATED, name: str = "main", strategy: str = "trend_filter", **parameters: Any
) -> TradingSession:
    account = make_account(name=name)
    config = make_config(account.owner, make_feed(make_market(account.exchange)), strategy, parameters=parameters)
    return make_session(account, config, status=status)


def needed() -> list[str]:
    return sorted(str(feed) for feed in Feed.objects.filter(is_needed=True))


def test_a_session_that_starts_needs_all_that_its_configuration_looks_at() -> None:
    session = a_session()

    session_start(session.pk)

    assert needed() == ["simulator-BTC/USDT-1d", "simulator-BTC/USDT-1m"]
    assert Feed.objects.get(timeframe="1d").next_due_at is not None


def test_what_is_looked_at_is_let_go_with_the_last_session_that_needs_it() -> None:
    first, second = a_session(), a_session(name="other", trend_period=50)
    session_start(first.pk)
    session_start(second.pk)

    session_suspend(first.pk)
    with_one_left = needed()
    session_suspend(second.pk)

    assert with_one_left == ["simulator-BTC/USDT-1d", "simulator-BTC/USDT-1m"]
    assert needed() == []


def test_a_feed_that_one_looks_at_and_another_trades_on_is_needed_by_either() -> None:
    looking = a_session()
    on_days = make_session(
        make_account(name="days"), make_config(feed=make_feed(timeframe=Timeframe.D1)), status=S.CREATED
    )
    session_start(looking.pk)
    session_start(on_days.pk)

    session_suspend(looking.pk)

    assert needed() == ["simulator-BTC/USDT-1d"]


def test_a_suspended_session_that_holds_something_keeps_what_it_looks_at() -> None:
    session = a_session(S.SUSPENDED)

    sessions_note_exposure([fresh(session)], True)
    held = needed()
    sessions_note_exposure([fresh(session)], False)

    assert held == ["simulator-BTC/USDT-1d", "simulator-BTC/USDT-1m"]
    assert needed() == []


def test_needs_out_of_step_are_set_right() -> None:
    session = a_session(S.ACTIVE)
    stray = make_feed(make_market(symbol="ETH/USDT"), is_needed=True)

    needs_align()

    assert needed() == ["simulator-BTC/USDT-1d", "simulator-BTC/USDT-1m"]
    assert not Feed.objects.get(pk=stray.pk).is_needed
    assert fresh(session).config.is_needed

    Feed.objects.filter(timeframe="1d").update(is_needed=False)
    needs_align()
    assert needed() == ["simulator-BTC/USDT-1d", "simulator-BTC/USDT-1m"]

    TradingSession.objects.update(status=S.STOPPED)
    needs_align()
    assert needed() == []


def test_a_session_whose_configuration_looks_at_a_market_that_there_is_not_does_not_start() -> None:
    session = a_session(trend_symbol="MARS/USDT")

    with pytest.raises(ValidationError, match="wanted a market of simulator to look at, was 'MARS/USDT'"):
        session_start(session.pk)

    assert (fresh(session).status, needed()) == (S.CREATED, [])


def test_a_configuration_that_fits_no_more_does_not_keep_needs_from_being_set_right() -> None:
    session = a_session(S.ACTIVE, trend_symbol="ETH/USDT")
    Market.objects.filter(symbol="ETH/USDT").delete()

    needs_align()

    assert needed() == ["simulator-BTC/USDT-1m"]
    assert fresh(session).config.is_needed


def test_traders_are_told_when_candles_stand_still_that_their_configuration_looks_at() -> None:
    session = a_session()
    session_start(session.pk)
    Feed.objects.filter(timeframe="1d").update(stale_since=NOON, last_open_at=NOON)

    assert feed_tell(Feed.objects.get(timeframe="1d").pk) == 1

    assert [alert["alert"] for alert in events("alerts")] == ["FEED_STALE"]


def test_a_tape_is_needed_exactly_while_a_session_needs_its_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIBRARY, "of_trades", OfTrades)
    session = a_session(strategy="of_trades")

    session_start(session.pk)
    while_active = Tape.objects.get().is_needed
    Tape.objects.update(is_needed=False)
    needs_align()
    aligned = Tape.objects.get().is_needed
    session_suspend(session.pk)

    assert (while_active, aligned, Tape.objects.get().is_needed) == (True, True, False)
    assert list(StrategyConfig.objects.get().tapes.all()) == [Tape.objects.get()]
