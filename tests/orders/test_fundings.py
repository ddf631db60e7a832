"""Funding payments: each recorded once, whoever reads them, however often, and however late they are shown."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.db.models import F
from django.utils import timezone

from domain.market import PositionSide
from exchanges.services import gateway_for
from orders import fundings, tasks
from orders.fundings import PERIOD, accounts_due, fundings_read
from orders.lookups import market_read, market_settle
from orders.models import Fill, FillCursor, Funding
from tests.conftest import Bells
from tests.contracts import FuturesVenue
from tests.factories import events
from tests.race import at_once, happens_before

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
EIGHT_HOURS = 8 * 3600


@pytest.fixture
def held(futures: FuturesVenue) -> FuturesVenue:
    """Ten contracts short since 10:40, known to the books; twice funding has fallen due."""
    futures.opened(PositionSide.SHORT)
    gateway = gateway_for(futures.exchange, futures.account, [futures.market])
    market_settle(futures.account, futures.market, market_read(gateway, futures.account, futures.market))
    futures.advance(2 * EIGHT_HOURS)
    return futures


def let_pass(since: timedelta) -> None:
    """As if so much had passed since funding was last read, and since the last fill."""
    FillCursor.objects.update(fundings_due_at=F("fundings_due_at") - since)
    Fill.objects.update(recorded_at=F("recorded_at") - since)


def due_in() -> timedelta:
    """How soon the account's funding is read again."""
    due_at = FillCursor.objects.get().fundings_due_at
    assert due_at is not None
    return due_at - timezone.now()


def recorded() -> list[tuple[Decimal, str, datetime]]:
    return list(Funding.objects.order_by("paid_at").values_list("amount", "currency", "paid_at"))


def test_funding_is_recorded_told_and_followed_by_the_balance(held: FuturesVenue, bells: Bells) -> None:
    bells.clear()

    new = fundings_read(held.account.pk)

    # A short gets 0.01 % of 500 USDT every eight hours.
    assert new == 2
    assert recorded() == [(Decimal("0.05"), "USDT", NOON), (Decimal("0.05"), "USDT", NOON + timedelta(hours=8))]
    ids = list(Funding.objects.order_by("pk").values_list("pk", flat=True))
    assert [one["funding"] for one in events("tradeUpdates") if "funding" in one] == ["0.05", "0.05"]
    assert bells.rung("positions.count_fundings") == [{"funding_ids": ids}]
    assert bells.rung("orders.balances") == [{"account_ids": [held.account.pk]}]
    assert sum(Decimal(row["funding"]) for row in held.books["funding"]) == Decimal("0.1")


def test_reading_twice_changes_nothing_and_a_reading_overlaps_the_one_before(held: FuturesVenue) -> None:
    fundings_read(held.account.pk)
    again = fundings_read(held.account.pk)
    FillCursor.objects.update(fundings_due_at=None)
    overlapping = fundings_read(held.account.pk)
    lost = Funding.objects.order_by("paid_at").last()
    assert lost is not None
    lost.delete()
    FillCursor.objects.update(fundings_due_at=None)
    late = fundings_read(held.account.pk)

    assert (again, overlapping, late) == (0, 0, 1)
    assert len(recorded()) == 2
    assert len([one for one in events("tradeUpdates") if "funding" in one]) == 3


def test_a_lost_message_is_rung_for_again_by_the_sweep(held: FuturesVenue, bells: Bells) -> None:
    due_at_first = accounts_due(timezone.now())
    fundings_read(held.account.pk)
    just_read = accounts_due(timezone.now())
    later = accounts_due(timezone.now() + PERIOD)
    FillCursor.objects.update(fundings_due_at=None)
    bells.clear()

    tasks.sweep_orders()
    [message] = bells.rung("orders.fundings")
    tasks.read_fundings(**message)

    assert (due_at_first, just_read, later) == ([held.account.pk], [], [held.account.pk])
    assert message == {"account_ids": [held.account.pk]}
    assert len(recorded()) == 2


def test_of_two_readers_at_once_one_asks_and_each_payment_is_there_once(held: FuturesVenue) -> None:
    read = at_once([lambda: fundings_read(held.account.pk)] * 2)

    assert sorted(read) == [0, 2]
    assert len(held.requests_of("GET", "*/funding-history")) == 1
    assert len(recorded()) == 2


def test_a_reader_that_was_overtaken_while_it_asked_records_nothing_twice(
    held: FuturesVenue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def somebody_else() -> None:
        FillCursor.objects.update(fundings_due_at=None)
        fundings_read(held.account.pk)

    happens_before(monkeypatch, fundings, "_record", somebody_else)

    new = fundings_read(held.account.pk)

    assert new == 0
    assert len(recorded()) == 2
    assert len([one for one in events("tradeUpdates") if "funding" in one]) == 2


def test_readings_that_come_back_at_once_are_written_down_one_after_the_other(held: FuturesVenue) -> None:
    cursor = FillCursor.objects.select_related("market").get()
    gateway = gateway_for(held.exchange, held.account, [held.market])
    reports, read_at = gateway.fundings_since(held.market.symbol, NOON), held.exchange.time_at(timezone.now())

    new = at_once([lambda: fundings._record(held.account, cursor, reports, read_at)] * 6)

    assert sorted(new) == [0, 0, 0, 0, 0, 2]
    assert len(recorded()) == 2


def test_a_venue_that_cannot_be_asked_leaves_it_due_again_and_the_cursor_where_it_was(held: FuturesVenue) -> None:
    held.fault(kind="http", status=502, path="*/funding-history")

    failed = fundings_read(held.account.pk)
    read_until, pause = FillCursor.objects.get().fundings_read_until, due_in()
    held.limits_reset()
    let_pass(PERIOD)

    assert (failed, read_until) == (0, None)
    assert timedelta(0) < pause <= PERIOD
    assert fundings_read(held.account.pk) == 2


def test_an_account_that_holds_nothing_any_more_is_read_for_an_hour_and_then_rests(held: FuturesVenue) -> None:
    fundings_read(held.account.pk)
    let_pass(timedelta(hours=2))
    fundings_read(held.account.pk)
    while_held = due_in()
    Fill.objects.update(side="BUY")
    bought = Fill.objects.get()
    Fill.objects.create(
        order=bought.order, account=bought.account, market=bought.market, trade_id="out", side="SELL", quantity=10,
        price=50_000, filled_at=bought.filled_at,
    )  # fmt: skip
    let_pass(timedelta(minutes=2))
    fundings_read(held.account.pk)
    lately_closed = due_in()
    let_pass(timedelta(hours=2))
    fundings_read(held.account.pk)
    at_rest = due_in()

    assert while_held <= PERIOD
    assert lately_closed <= PERIOD
    assert at_rest > timedelta(hours=5)
    assert accounts_due(timezone.now()) == []


def test_refused_keys_pause_the_account(held: FuturesVenue) -> None:
    held.fault(kind="code", code="400003", msg="KC-API-KEY not exists", status=401, path="*/funding-history")

    fundings_read(held.account.pk)

    held.account.refresh_from_db()
    assert held.account.status == "PAUSED"
    assert accounts_due(timezone.now() + PERIOD) == []
