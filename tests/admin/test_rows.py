"""Whose rows are whose, and what nobody edits: every page of every model, seen by its owner, a stranger and a superuser."""

from __future__ import annotations

from typing import Any, cast

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.db import connection
from django.db.models import Model
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from knox.models import AuthToken

from backtesting.models import BacktestRun, Study
from exchanges.data_markets import market_of_data
from exchanges.models import Account, Balance, Exchange, Market, Quote
from marketdata.models import Backfill, CandleGap, CandleRevision, Feed, QuarantinedCandle
from money.models import EquityPoint, TradingHalt, Valuation
from orders.models import Fill, Funding, Order
from pipeline.models import Event
from pipeline.pages import Page, ReadOnlyPage
from positions.models import Discrepancy, Position
from sessions.models import SessionGroup, SessionStatus, TradingSession
from strategies.models import Signal, StrategyConfig
from tests.admin.conftest import signed_in, told, url_of, words_of
from tests.factories import (
    KEY,
    NOON,
    PASSPHRASE,
    SECRET,
    make_account,
    make_config,
    make_discrepancy,
    make_feed,
    make_fill,
    make_funding,
    make_market,
    make_order,
    make_position,
    make_quote,
    make_session,
    make_signal,
)

OWNED: list[type[Model]] = [
    Account, Balance, StrategyConfig, Signal, TradingSession, Position, Order, Fill, Funding, Valuation, Event,
    Discrepancy, EquityPoint, TradingHalt, SessionGroup, BacktestRun, Study,
]  # fmt: skip
SHARED: list[type[Model]] = [Exchange, Market, Quote, Feed, Backfill]
READ_ONLY: list[type[Model]] = [
    Balance, Market, Quote, Signal, Position, Order, Fill, Funding, Valuation, Event, Discrepancy, EquityPoint,
]  # fmt: skip


def job_of(owner: User) -> dict[str, Any]:
    return {"owner": owner, "strategy": "sma_cross", "from_at": NOON, "until_at": timezone.now()}


def make_life(owner: User, market: str = "BTC/USDT") -> dict[type[Model], Model]:
    """One row of everything that comes of trading, all of it ``owner``'s."""
    account = make_account(owner, name=f"account of {owner.username}")
    feed = make_feed(make_market(symbol=market))
    config = make_config(owner, feed, name=f"config of {owner.username} on {market}")
    session = make_session(account, config, name=f"session of {owner.username} on {market}")
    return {
        Account: account,
        SessionGroup: SessionGroup.objects.create(owner=owner, name=f"group of {owner.username}"),
        BacktestRun: BacktestRun.objects.create(name=f"backtest of {owner.username}", status="DONE", **job_of(owner)),
        Study: Study.objects.create(name=f"study of {owner.username}", kind="OPTIMISE", status="DONE", **job_of(owner)),
        TradingHalt: TradingHalt.objects.create(account=account, cause="news", tripped_by=owner.username),
        Balance: account.balances.get(),
        StrategyConfig: config,
        TradingSession: session,
        **make_round(session, owner),
        Exchange: account.exchange,
        Market: feed.market,
        Quote: make_quote(feed.market),
        Feed: feed,
        Backfill: Backfill.objects.create(
            feed=feed, from_at=NOON, until_at=timezone.now(), cursor_at=NOON, status="DONE"
        ),
    }


def make_round(session: TradingSession, owner: User) -> dict[type[Model], Model]:
    position = make_position(session, "CLOSED")
    order = make_order(position, status="CLOSED")
    return {
        Signal: make_signal(session.config),
        Position: position,
        Discrepancy: make_discrepancy(position),
        Order: order,
        Fill: make_fill(order),
        Funding: make_funding(position),
        Valuation: Valuation.objects.create(order=order, verdict="APPROVED"),
        EquityPoint: EquityPoint.objects.create(session=session, at=timezone.now(), currency="USDT", equity=1, peak=1),
        Event: Event.objects.create(topic="orders", key=order.pk, owner_id=owner.pk, data={"status": "CLOSED"}),
    }


def listed(client: Client, model: type[Model]) -> set[Any]:
    response = client.get(url_of(model, "changelist"))
    return {row.pk for row in response.context["cl"].result_list}


@pytest.mark.parametrize("model", OWNED)
def test_a_trader_sees_their_own_rows_and_nobody_elses(
    desk: Client, alice: User, bob: User, model: type[Model]
) -> None:
    own, foreign = make_life(alice)[model], make_life(bob)[model]

    assert listed(desk, model) == {own.pk}
    assert desk.get(url_of(model, "change", own.pk)).status_code == 200
    assert desk.get(url_of(model, "sections", own.pk)).status_code == 200
    assert desk.get(url_of(model, "change", foreign.pk)).status_code == 302
    assert desk.get(url_of(model, "sections", foreign.pk)).status_code == 404
    assert desk.get(url_of(model, "history", foreign.pk)).status_code == 302


@pytest.mark.parametrize("model", [*OWNED, *SHARED])
def test_a_superuser_sees_everybodys_rows(root: User, alice: User, bob: User, model: type[Model]) -> None:
    rows = {make_life(alice)[model].pk, make_life(bob, "ETH/USDT")[model].pk}

    client = signed_in(root)

    assert listed(client, model) == rows
    assert {client.get(url_of(model, "change", pk)).status_code for pk in rows} == {200}


@pytest.mark.parametrize("model", SHARED)
def test_markets_and_feeds_are_everybodys_to_look_at(desk: Client, bob: User, model: type[Model]) -> None:
    row = make_life(bob)[model]

    assert listed(desk, model) == {row.pk}
    assert desk.get(url_of(model, "change", row.pk)).status_code == 200


def test_no_page_of_ones_own_names_anything_of_somebody_elses(desk: Client, alice: User, bob: User) -> None:
    own = make_life(alice)
    make_life(bob)

    pages = {model.__name__: desk.get(url_of(model, "change", row.pk)) for model, row in own.items()}
    pages |= {f"{model.__name__} list": desk.get(url_of(model, "changelist")) for model in own}
    pages |= {
        f"{model.__name__} add": desk.get(url_of(model, "add")) for model in (Account, StrategyConfig, TradingSession)
    }

    assert [name for name, page in pages.items() if "of bob" in words_of(page)] == []
    # A feed belongs to everybody; who uses it is nobody else's business, and its page does not tell.
    assert {page.status_code for page in pages.values()} == {200}


def test_no_page_shows_a_key(root: User, alice: User) -> None:
    rows = make_life(alice)
    client = signed_in(root)

    pages = [client.get(url_of(model, page, rows[model].pk)) for model in rows for page in ("change", "sections")]
    pages += [client.get(url_of(model, "changelist")) for model in rows]

    sealed = cast(Account, rows[Account]).credentials.token.decode()
    for secret in (KEY, SECRET, PASSPHRASE, sealed):
        assert [page.request["PATH_INFO"] for page in pages if secret in page.content.decode()] == []


@pytest.mark.parametrize("button", ["start", "suspend", "recover", "stop", "market_exit"])
def test_a_button_on_somebody_elses_session_does_nothing(desk: Client, bob: User, button: str) -> None:
    session = make_session(make_account(bob), status=SessionStatus.ACTIVE)

    response = desk.post(url_of(TradingSession, button, session.pk), {"_form_submitted": "True"})

    session.refresh_from_db()
    assert session.status == SessionStatus.ACTIVE
    assert told(response) == [f"wanted one of your sessions, was {session.pk}"]
    assert not Event.objects.exists()
    assert not LogEntry.objects.exists()


def test_somebody_elses_sessions_are_not_commanded_from_the_list(desk: Client, alice: User, bob: User) -> None:
    mine = make_session(make_account(alice), status=SessionStatus.ACTIVE)
    bobs = make_session(make_account(bob), status=SessionStatus.ACTIVE)

    desk.post(
        url_of(TradingSession, "changelist"),
        {"action": "suspend_selected", "_selected_action": [mine.pk, bobs.pk], "select_across": "1"},
    )

    bobs.refresh_from_db()
    assert bobs.status == SessionStatus.ACTIVE


def test_somebody_elses_keys_are_not_replaced(desk: Client, bob: User) -> None:
    account = make_account(bob)

    desk.post(url_of(Account, "change", account.pk), {"name": "stolen", "api_key": "mine", "secret": "mine"})

    account.refresh_from_db()
    assert (account.name, account.credentials.reveal().secret) == ("main", SECRET)


@pytest.mark.parametrize("model", READ_ONLY)
@pytest.mark.parametrize("who", ["alice", "root"])
def test_what_services_own_is_not_added_changed_or_deleted_by_hand(
    alice: User, root: User, who: str, model: type[Model]
) -> None:
    row = make_life(alice)[model]
    before = list(model._default_manager.order_by("pk").values())
    client = signed_in({"alice": alice, "root": root}[who])

    answers = [
        client.post(url_of(model, "add"), {}).status_code,
        client.post(url_of(model, "change", row.pk), {"status": "CLOSED", "_save": "1"}).status_code,
        client.post(url_of(model, "delete", row.pk), {"post": "yes"}).status_code,
    ]
    client.post(url_of(model, "changelist"), {"action": "delete_selected", "_selected_action": [row.pk], "post": "yes"})

    assert answers == [403, 403, 403]
    assert list(model._default_manager.order_by("pk").values()) == before


def test_every_page_that_is_not_read_only_is_known_here() -> None:
    own = {model for model, page in admin.site._registry.items() if isinstance(page, Page)}
    editable = {model for model in own if not isinstance(admin.site._registry[model], ReadOnlyPage)}

    assert own == {*OWNED, *SHARED, CandleGap, CandleRevision, QuarantinedCandle, AuthToken}
    assert editable == {Account, Exchange, Feed, StrategyConfig, TradingSession, SessionGroup}


@pytest.mark.parametrize("action", ["add", "change", "delete", "read_now"])
def test_exchanges_are_set_up_by_superusers_only(desk: Client, alice: User, action: str) -> None:
    exchange = make_market().exchange
    arguments = () if action == "add" else (exchange.pk,)

    response = desk.post(
        url_of(Exchange, action, *arguments),
        {"name": "inside", "ccxt_id": "kucoin", "base_url": "http://169.254.169.254", "_form_submitted": "True"},
    )

    assert response.status_code == 403
    assert list(Exchange.objects.values_list("name", "base_url")) == [("simulator", "http://127.0.0.1:9")]


def test_a_superuser_sets_up_an_exchange(root: User) -> None:
    filled = {"name": "kucoin", "ccxt_id": "kucoin", "base_url": "", "is_enabled": "on", "clock_speed": "1"}

    response = signed_in(root).post(url_of(Exchange, "add"), filled)
    signed_in(root).post(url_of(Exchange, "add"), {**filled, "name": "undescribed", "ccxt_id": "mexc"})
    refused = signed_in(root).post(url_of(Exchange, "add"), {**filled, "name": "other", "ccxt_id": "no-such-class"})

    assert response.status_code == 302
    assert list(Exchange.objects.order_by("pk").values_list("name", "ccxt_id")) == [
        ("kucoin", "kucoin"), ("undescribed", "mexc"),
    ]  # fmt: skip
    assert set(refused.context["adminform"].form.errors) == {"ccxt_id"}


def test_an_exchange_that_is_only_data_is_edited_without_a_class(root: User) -> None:
    exchange = market_of_data("nyse", "SPY/USD").exchange
    filled = {"name": "nyse", "ccxt_id": "", "base_url": "", "is_enabled": "", "clock_speed": "1"}

    response = signed_in(root).post(url_of(Exchange, "change", exchange.pk), filled)
    refused = signed_in(root).post(url_of(Exchange, "add"), {**filled, "name": "other"})

    exchange.refresh_from_db()
    assert (response.status_code, exchange.ccxt_id, exchange.is_enabled) == (302, "", False)
    assert set(refused.context["adminform"].form.errors) == {"ccxt_id"}


@pytest.mark.parametrize("model", OWNED)
def test_a_list_asks_the_database_as_often_for_many_rows_as_for_one(
    root: User, alice: User, model: type[Model]
) -> None:
    client = signed_in(root)
    make_life(alice)
    client.get(url_of(model, "changelist"))
    with CaptureQueriesContext(connection) as few:
        client.get(url_of(model, "changelist"))

    for number in range(3):
        make_life(User.objects.create(username=f"trader-{number}"), f"C{number}/USDT")
    with CaptureQueriesContext(connection) as many:
        client.get(url_of(model, "changelist"))

    assert len(many) == len(few)


def test_a_session_page_asks_the_database_as_often_for_a_long_history_as_for_a_short_one(
    desk: Client, alice: User
) -> None:
    session = cast(TradingSession, make_life(alice)[TradingSession])
    desk.get(url_of(TradingSession, "change", session.pk))
    with CaptureQueriesContext(connection) as short:
        desk.get(url_of(TradingSession, "change", session.pk))

    for _ in range(5):
        position = make_position(session, "CLOSED")
        make_fill(make_order(position, status="CLOSED"))
    with CaptureQueriesContext(connection) as long:
        desk.get(url_of(TradingSession, "change", session.pk))

    assert len(long) == len(short)
    assert len(long) <= 30
