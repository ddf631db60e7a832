"""Prices and ticks: every position is valued in one statement, and only those that need it are looked at."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from domain.orders import OrderStatus
from exchanges.models import Quote
from orders.models import Order
from positions import services, watch
from positions.models import Position
from positions.tasks import tick, watch_prices
from positions.watch import DUE, sessions_due
from sessions.models import SessionStatus, TradingSession
from tests.factories import (
    finish,
    make_account,
    make_config,
    make_exchange,
    make_feed,
    make_market,
    make_open_position,
    make_order,
    make_position,
    make_quote,
    make_session,
)
from tests.race import happens_before
from tests.venue import Venue

TICKERS = "/api/v1/market/allTickers"


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sessions the tracker was asked to look at; it does look."""
    seen: list[int] = []
    original = services.sessions_track

    def spy(session_ids: Any) -> None:
        seen.extend(session_ids)
        original(session_ids)

    monkeypatch.setattr(watch, "sessions_track", spy)
    return seen


def positions_held(number: int) -> list[Position]:
    return [make_open_position(make_session(make_account(name=f"a{n}"))) for n in range(number)]


@pytest.mark.django_db
def test_a_tick_values_open_positions_at_the_last_price() -> None:
    [position] = positions_held(1)
    make_quote(position.market, "50250")

    tick([position.session_id])
    tick([position.session_id])

    position.refresh_from_db()
    assert (position.mark_price, position.unrealized_pnl) == (Decimal(50250), Decimal(5))
    assert position.valuations == 2
    assert position.valued_at is not None


@pytest.mark.django_db
def test_a_short_position_gains_when_the_price_falls_and_contracts_count_by_their_size() -> None:
    [position] = positions_held(1)
    Position.objects.update(side="SHORT", stop_price=None, target_price=None)
    position.market.contract_size = Decimal("0.1")
    position.market.save()
    make_quote(position.market, "49500")

    watch.sessions_tick([position.session_id])

    position.refresh_from_db()
    assert position.unrealized_pnl == Decimal("0.02") * 500 * Decimal("0.1")


@pytest.mark.django_db
def test_a_tick_of_many_sessions_values_by_one_statement_and_looks_only_where_needed(
    looked_at: list[int], django_assert_num_queries: Callable[..., Any]
) -> None:
    positions = positions_held(6)
    crossed, filled, *content = positions
    Position.objects.filter(pk=crossed.pk).update(stop_price=Decimal(50400))
    finish(make_order(filled, "EXIT", OrderStatus.READY))
    not_ticked = make_open_position(make_session(make_account(name="later")))
    Position.objects.filter(pk=not_ticked.pk).update(stop_price=Decimal(50400))
    make_quote(crossed.market, "50300")

    valued = watch.sessions_tick([position.session_id for position in positions])

    assert valued == 6
    assert looked_at == sorted([crossed.session_id, filled.session_id])
    assert list(Position.objects.filter(valuations=0)) == [not_ticked]
    # One values, four find the crossed (in a transaction, with its planner setting), three find the unsettled.
    with django_assert_num_queries(8):
        watch.sessions_tick([position.session_id for position in content])


@pytest.mark.django_db
def test_sessions_that_hold_nothing_are_ticked_for_nothing(looked_at: list[int]) -> None:
    session = make_session()
    make_position(session)
    make_quote(session.config.feed.market)

    assert watch.sessions_tick([session.pk]) == 0
    assert looked_at == []


@pytest.mark.django_db
def test_only_a_fresh_price_newer_than_the_fills_crosses_a_level() -> None:
    [position] = positions_held(1)
    make_quote(position.market, "40000", age=timedelta(seconds=31))
    old = watch.sessions_due(timezone.now())
    make_quote(position.market, "40000", age=timedelta(seconds=1))
    before_the_fills = watch.sessions_due(timezone.now())
    make_quote(position.market, "40000")

    assert (old, before_the_fills, watch.sessions_due(timezone.now())) == ([], [], [position.session_id])


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("side", "stop", "target", "price", "is_crossed"),
    [
        ("LONG", 49000, 52000, "49000", True),
        ("LONG", 49000, 52000, "49000.1", False),
        ("LONG", 49000, 52000, "52000", True),
        ("LONG", 49000, 52000, "51999.9", False),
        ("LONG", None, 52000, "1", False),
        ("LONG", 49000, None, "900000", False),
        ("SHORT", 51000, 48000, "51000", True),
        ("SHORT", 51000, 48000, "50999.9", False),
        ("SHORT", 51000, 48000, "48000", True),
        ("SHORT", 51000, 48000, "48000.1", False),
    ],
)
def test_the_query_and_the_decision_agree_on_what_is_crossed(
    side: str, stop: int | None, target: int | None, price: str, is_crossed: bool
) -> None:
    from domain.exits import ExitLevels, exit_due
    from domain.market import PositionSide

    [position] = positions_held(1)
    Position.objects.update(side=side, stop_price=stop, target_price=target)
    make_quote(position.market, price)
    levels = ExitLevels(
        None if stop is None else Decimal(stop),
        None if target is None else Decimal(target),
    )

    assert watch.sessions_due(timezone.now()) == ([position.session_id] if is_crossed else [])
    assert (exit_due(PositionSide(side), levels, Decimal(price), None) is not None) is is_crossed


def test_the_watch_asks_each_exchange_once_and_looks_at_what_was_crossed(venue: Venue, looked_at: list[int]) -> None:
    config = make_config(venue.account.owner, make_feed(venue.market))
    crossed = make_open_position(make_session(venue.account, config), exits={"stop_loss_percent": "1"})
    ether = make_feed(venue.market.exchange.markets.get(symbol="ETH/USDT"))
    make_session(venue.account, make_config(venue.account.owner, ether))
    asked_before = len(venue.requests_of("GET", TICKERS))
    venue.simulator.pin("49400")

    watch_prices()

    assert looked_at == [crossed.session_id]
    assert len(venue.requests_of("GET", TICKERS)) - asked_before == 1
    assert Order.objects.get(is_exit=True).reason == "STOP_LOSS"
    assert Quote.objects.filter(market__symbol="ETH/USDT").exists()


def test_an_exchange_that_does_not_answer_leaves_the_prices_to_grow_old(venue: Venue, looked_at: list[int]) -> None:
    position = make_open_position(
        make_session(venue.account, make_config(venue.account.owner, make_feed(venue.market)))
    )
    venue.fault(method="GET", path=TICKERS, kind="http", status=500, body="", count=None)
    Quote.objects.update(quoted_at=timezone.now() - timedelta(seconds=40), last=Decimal(1))

    assert watch.prices_watch() == 0

    assert looked_at == []
    assert not Order.objects.filter(is_exit=True).exists()
    assert position.status == "OPEN"


@pytest.mark.django_db
def test_an_exchange_that_cannot_be_read_at_all_does_not_keep_the_others_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_session()
    make_session(make_account(exchange=make_exchange("other"), name="other"))
    asked: list[int] = []

    def broken(exchange_id: int, symbols: list[str]) -> int:
        asked.append(exchange_id)
        raise ZeroDivisionError

    monkeypatch.setattr(watch, "quotes_refresh", broken)

    assert watch.prices_watch() == 0

    assert len(asked) == 2


def test_an_exchange_that_is_being_asked_is_not_asked_beside_it_and_then_asked_again(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_session(venue.account, make_config(venue.account.owner, make_feed(venue.market)))
    asked_before = len(venue.requests_of("GET", TICKERS))

    with monkeypatch.context() as patch:
        happens_before(patch, watch, "quotes_refresh", watch.prices_watch)
        watch.prices_watch()

    assert len(venue.requests_of("GET", TICKERS)) - asked_before == 1
    watch.prices_watch()
    assert len(venue.requests_of("GET", TICKERS)) - asked_before == 2


def test_nobody_s_market_is_not_asked_about(venue: Venue) -> None:
    make_session(venue.account, make_config(venue.account.owner, make_feed(venue.market)), status=SessionStatus.STOPPED)
    asked_before = len(venue.requests_of("GET", TICKERS))

    watch.prices_watch()

    assert len(venue.requests_of("GET", TICKERS)) == asked_before


def test_a_suspended_session_that_holds_something_is_watched(venue: Venue) -> None:
    config = make_config(venue.account.owner, make_feed(venue.market))
    make_open_position(make_session(venue.account, config))
    TradingSession.objects.update(status=SessionStatus.SUSPENDED)
    venue.simulator.pin("48000")

    assert watch.prices_watch() == 1

    assert Order.objects.get(is_exit=True).reason == "STOP_LOSS"


@pytest.mark.django_db
def test_markets_are_valued_at_their_own_price() -> None:
    bitcoin = make_open_position(make_session())
    ether_market = make_market(symbol="ETH/USDT")
    account = make_account(name="ether")
    ether = make_open_position(make_session(account, make_config(account.owner, make_feed(ether_market))), "3000", "1")
    make_quote(bitcoin.market, "50100")
    make_quote(ether_market, "2990")

    watch.sessions_tick([bitcoin.session_id, ether.session_id])

    assert dict(Position.objects.values_list("pk", "unrealized_pnl")) == {bitcoin.pk: 2, ether.pk: -10}


@pytest.mark.django_db
def test_of_many_positions_the_watch_reads_only_those_that_are_due() -> None:
    with connection.cursor() as cursor:
        # What other tests took back is still in the tables' files, and in what the planner thinks of them.
        cursor.execute("TRUNCATE positions_position, exchanges_quote, exchanges_market, marketdata_feed CASCADE")
    due = make_open_position(make_session(), exits={"stop_loss_percent": "2", "trailing_percent": "5"})
    Position.objects.update(exit_due_at=timezone.now() + timedelta(hours=1))
    make_quote(due.market, "49000")
    copied = [str(one.column) for one in Position._meta.concrete_fields if not (one.generated or one.primary_key)]
    changed = {"session_id": "m.id * 1000 + 1000000 + number", "stop_price": "40000 + number", "market_id": "m.id"}
    columns = ", ".join(copied)
    values = ", ".join(changed.get(name, f"p.{name}") for name in copied)
    with connection.cursor() as cursor:
        # Rows that nobody's keys are checked for: 200 positions on each of 50 markets, none of them crossed.
        cursor.execute("SET LOCAL session_replication_role = replica")
        for number in range(50):
            make_quote(make_market(due.market.exchange, f"C{number}/USDT"), "50000")
        cursor.execute(
            f"INSERT INTO positions_position ({columns}) SELECT {values} FROM positions_position AS p, "
            "exchanges_market AS m, generate_series(1, 200) AS number WHERE p.id = %s AND m.id <> p.market_id",
            [due.pk],
        )
        cursor.execute("ANALYZE positions_position, exchanges_quote, marketdata_feed")
        cursor.execute("SET LOCAL enable_seqscan = off")
        now = timezone.now()
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {DUE}", {"since": now - timedelta(seconds=30), "now": now})
        [[[explained]]] = cursor.fetchall()

    read = [node for node in nodes_of(explained["Plan"]) if node.get("Relation Name") == "positions_position"]
    assert sessions_due(now) == [due.session_id]
    assert Position.objects.count() == 10_001
    assert read
    assert sum(node["Actual Rows"] * node["Actual Loops"] + removed_by(node) for node in read) < 10


def nodes_of(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for below in plan.get("Plans", []) for node in nodes_of(below))]


def removed_by(node: dict[str, Any]) -> float:
    return float(node.get("Rows Removed by Filter", 0) * node["Actual Loops"])
