"""What a futures position pays and receives while it is held is part of its result, once, whenever it was recorded."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from exchanges.models import Market
from orders.models import Funding, Order
from positions import late
from positions.funding import positions_funded_late
from positions.models import Position
from positions.tasks import follow_orders, fund, sweep_exposed_sessions, sweep_sessions, track
from tests.factories import (
    events,
    finish,
    make_account,
    make_config,
    make_exchange,
    make_feed,
    make_market,
    make_open_position,
    make_quote,
    make_session,
)
from tests.race import at_once, happens_after

pytestmark = pytest.mark.django_db


def held(**fields: Any) -> Position:
    """20 contracts of 0.001 BTC, held since an hour."""
    market = make_market(make_exchange(), kind=Market.Kind.LINEAR_FUTURE, contract_size=Decimal("0.001"), lot_size=1)
    session = fields.pop("session", None) or make_session()
    position = make_open_position(session, quantity="20", **fields)
    hour_ago = timezone.now() - timedelta(hours=1)
    Position.objects.filter(pk=position.pk).update(opened_at=hour_ago)
    for order in Order.objects.filter(intent_id__in=position.intents.values("pk")):
        order.fills.update(filled_at=hour_ago)
    make_quote(market)
    position.refresh_from_db()
    return position


def pays(position: Position, amount: str, paid_at: datetime | None = None) -> Funding:
    number = Funding.objects.count() + 1
    return Funding.objects.create(
        account=position.account, market=position.market, funding_id=str(number), amount=Decimal(amount),
        currency="USDT", paid_at=paid_at or timezone.now() - timedelta(minutes=number),
    )  # fmt: skip


def leave(position: Position) -> Position:
    make_quote(position.market, "48000")
    track([position.session_id])
    order = Order.objects.get(is_exit=True, position_side=position.side)
    follow_orders([finish(order, price="48000").pk])
    position.refresh_from_db()
    return position


def test_funding_is_in_the_result_of_a_position_that_is_held() -> None:
    position = held()
    pays(position, "-0.25")
    pays(position, "0.1")

    track([position.session_id])
    track([position.session_id])

    position.refresh_from_db()
    assert (position.funding, position.realized_pnl) == (Decimal("-0.15"), Decimal("-0.15"))


def test_what_was_paid_before_or_after_it_or_elsewhere_is_none_of_it() -> None:
    position = held()
    assert position.opened_at is not None
    pays(position, "-1", position.opened_at - timedelta(seconds=1))
    leave(position)
    pays(position, "-2", timezone.now() + timedelta(seconds=1))
    other = pays(position, "-3")
    Funding.objects.filter(pk=other.pk).update(account=make_account(name="other"))

    fund([position.pk])

    position.refresh_from_db()
    assert (position.status, position.funding) == ("CLOSED", 0)
    assert positions_funded_late(timezone.now()) == []


@pytest.mark.django_db(transaction=True)
def test_funding_whose_bell_was_lost_is_found_by_the_sweep_and_only_once(bells: Any) -> None:
    position = held()
    pays(position, "-0.25")
    bells.clear()

    sweep_exposed_sessions()
    rung = bells.rung("exits.track")
    track(rung[0]["session_ids"])
    bells.clear()
    sweep_exposed_sessions()

    position.refresh_from_db()
    assert rung == [{"session_ids": [position.session_id]}]
    assert bells.rung("exits.track") == []
    assert position.funding == Decimal("-0.25")


@pytest.mark.django_db(transaction=True)
def test_funding_recorded_after_the_end_is_added_by_the_sweep_once(bells: Any) -> None:
    position = leave(held())
    before = position.realized_pnl
    pays(position, "-0.25")
    bells.clear()

    sweep_sessions()
    rung = bells.rung("positions.fund")
    fund(rung[0]["position_ids"])
    fund(rung[0]["position_ids"])
    bells.clear()
    sweep_sessions()

    position.refresh_from_db()
    assert rung == [{"position_ids": [position.pk]}]
    assert bells.rung("positions.fund") == []
    assert (position.status, position.funding) == ("CLOSED", Decimal("-0.25"))
    assert (before, position.realized_pnl) == (Decimal(-42), Decimal("-42.25"))
    assert [event["funding"] for event in events("positions", event="FUNDED")] == ["-0.250000000000000000"]


@pytest.mark.django_db(transaction=True)
def test_funding_that_comes_while_late_funding_is_added_is_found_again(
    monkeypatch: pytest.MonkeyPatch, bells: Any
) -> None:
    position = leave(held())
    pays(position, "-0.25")
    happens_after(monkeypatch, late, "fundings_of", lambda: pays(position, "-0.5"))

    fund([position.pk])
    position.refresh_from_db()
    first = position.funding
    assert positions_funded_late(timezone.now()) == [position.pk]
    assert at_once([lambda: fund([position.pk])] * 3) == [None] * 3

    position.refresh_from_db()
    assert (first, position.funding) == (Decimal("-0.25"), Decimal("-0.75"))
    assert positions_funded_late(timezone.now()) == []
    assert len(events("positions", event="FUNDED")) == 2


def test_funding_that_was_written_long_and_seen_late_is_added_by_the_next_look() -> None:
    position = held()
    track([position.session_id])
    late_seen = pays(position, "-0.25")
    Funding.objects.filter(pk=late_seen.pk).update(recorded_at=timezone.now() - timedelta(minutes=1))

    track([position.session_id])

    position.refresh_from_db()
    assert position.funding == Decimal("-0.25")


def test_a_bell_for_a_position_without_news_changes_nothing() -> None:
    position = leave(held())
    before = Position.objects.values().get()

    fund([position.pk])

    assert Position.objects.values().get() == before


def test_positions_on_both_sides_share_what_the_account_paid() -> None:
    long = held()
    config = make_config(long.account.owner, make_feed(long.market))
    short = held(session=make_session(long.account, config), side="SHORT")
    Position.objects.filter(pk=short.pk).update(quantity=5, entered=5)
    Order.objects.get(side="SELL").fills.update(quantity=Decimal(5))
    pays(long, "-0.3")

    track([long.session_id, short.session_id])

    # 15 contracts are held in all: 0.02 each; the long of 20 pays 0.4, the short of 5 receives 0.1.
    assert dict(Position.objects.values_list("side", "funding")) == {"LONG": Decimal("-0.4"), "SHORT": Decimal("0.1")}


def test_spot_positions_ask_nobody_for_funding(django_assert_num_queries: Any) -> None:
    position = make_open_position(make_session())

    with django_assert_num_queries(8):  # savepoint, lock, signal, position, intents, orders, fills, release
        track([position.session_id])


def test_a_look_at_many_positions_of_contracts_reads_their_funding_at_once() -> None:
    """Ten on one market, each with its share of what the account paid."""
    first = held()
    configs = [make_config(first.account.owner, make_feed(first.market)) for _ in range(9)]
    positions = [first, *(held(session=make_session(first.account, config)) for config in configs)]
    pays(first, "-0.5")

    # What spot asks eight times, and payments, positions, intents and fills; written: positions and their levels.
    with CaptureQueriesContext(connection) as asked:
        track([one.session_id for one in positions])

    reads = [one["sql"] for one in asked if one["sql"].startswith("SELECT")]
    assert len(reads) == 10
    assert set(Position.objects.values_list("funding", flat=True)) == {Decimal("-0.05")}
