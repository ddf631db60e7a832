"""Each invariant is silent about books that balance, and says what is wrong with each way in which they do not."""

from __future__ import annotations

from copy import deepcopy
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from chaos import invariants
from domain.orders import OrderStatus
from exchanges.models import Account
from orders.ledger import orders_announce
from orders.models import Fill, Order
from orders.services import order_submit
from pipeline.topics import Topic, publish
from positions.models import Discrepancy, Position, PositionStatus
from positions.reconciliation import account_reconcile
from positions.services import sessions_track
from sessions.models import SessionStatus, TradingSession
from sessions.services import session_mark_stopped, session_stop
from tests.factories import (
    KEY,
    PASSPHRASE,
    SECRET,
    make_config,
    make_feed,
    make_open_position,
    make_order,
    make_session,
)
from tests.venue import Venue

Oracle = dict[str, Any]


@pytest.fixture
def round_trip(venue: Venue) -> tuple[Order, Order]:
    """An entry and an exit that the venue filled, of a session that is stopped now; the account is known by its key."""
    Account.objects.filter(pk=venue.account.pk).update(name="key-of-alice")
    entry = venue.ready_order()
    tell(entry)
    order_submit(entry.pk)
    [session_id] = Position.objects.filter(intents=entry.intent_id).values_list("session_id", flat=True)
    sessions_track([session_id])
    session_stop(session_id)
    sessions_track([session_id])
    exit_order = Order.objects.get(is_exit=True)
    order_submit(exit_order.pk)
    sessions_track([session_id])
    sessions_track([session_id])
    entry.refresh_from_db()
    exit_order.refresh_from_db()
    return entry, exit_order


def tell(order: Order, topic: Topic = Topic.ORDERS) -> None:
    with transaction.atomic():
        orders_announce([order], topic)


def found(oracle: Oracle, name: str) -> list[str]:
    return [finding.words for finding in invariants.check(oracle) if finding.invariant == name]


def test_books_that_balance_break_nothing(venue: Venue, round_trip: tuple[Order, Order]) -> None:
    oracle = venue.simulator.oracle()

    assert invariants.check(oracle) == []
    assert len(oracle["orders"]) == 2
    assert Position.objects.get().status == PositionStatus.CLOSED


def test_i1_sees_an_order_that_was_accepted_twice(venue: Venue, round_trip: tuple[Order, Order]) -> None:
    oracle = venue.simulator.oracle()
    oracle["orders"].append(deepcopy(oracle["orders"][0]))

    assert f"{round_trip[0].client_order_id} was accepted 2 times" in found(oracle, "I1")


def test_i1_sees_a_second_order_of_one_intent(venue: Venue, round_trip: tuple[Order, Order]) -> None:
    entry, exit_order = round_trip
    Order.objects.filter(pk=exit_order.pk).update(intent_id=entry.intent_id)

    [words] = [one for one in found(venue.simulator.oracle(), "I1") if one.startswith("intent")]

    assert words == (
        f"intent {entry.intent_id} has 2 accepted orders: {entry.client_order_id}, {exit_order.client_order_id}"
    )


def test_i1_forgives_a_second_order_after_the_first_was_cancelled(
    venue: Venue, round_trip: tuple[Order, Order]
) -> None:
    entry, exit_order = round_trip
    Order.objects.filter(pk=exit_order.pk).update(intent_id=entry.intent_id)
    oracle = venue.simulator.oracle()
    oracle["orders"][0]["status"] = "canceled"

    assert [one for one in found(oracle, "I1") if one.startswith("intent")] == []


@pytest.mark.parametrize(("seconds", "is_breach"), [(1, False), (-1, True)])
def test_i1_forgives_an_exit_that_was_asked_for_after_the_one_before_had_ended(
    venue: Venue, round_trip: tuple[Order, Order], seconds: int, is_breach: bool
) -> None:
    first, second = round_trip
    assert second.closed_at is not None
    Order.objects.filter(pk=first.pk).update(is_exit=True, closed_at=second.closed_at)
    asked_at = second.closed_at + timedelta(seconds=seconds)
    Order.objects.filter(pk=second.pk).update(intent_id=first.intent_id, requested_at=asked_at)

    words = [one for one in found(venue.simulator.oracle(), "I1") if one.startswith("intent")]

    assert len(words) == is_breach


def test_i1_sees_that_more_was_sold_than_bought(venue: Venue, round_trip: tuple[Order, Order]) -> None:
    oracle = venue.simulator.oracle()
    oracle["orders"][1]["dealSize"] = "0.03"

    assert found(oracle, "I1") == [f"position {Position.objects.get().pk}: its entries filled 0.02 and its exits 0.03"]


def test_i2_sees_an_order_without_a_row(venue: Venue, round_trip: tuple[Order, Order]) -> None:
    oracle = venue.simulator.oracle()
    oracle["orders"].append({**oracle["orders"][0], "clientOid": "r3-stranger", "id": "77"})

    assert found(oracle, "I2") == ["r3-stranger is at the venue and has no row"]


def test_i2_sees_a_row_that_does_not_know_its_order(venue: Venue, round_trip: tuple[Order, Order]) -> None:
    entry, exit_order = round_trip
    Order.objects.filter(pk=entry.pk).update(exchange_order_id="", status=OrderStatus.NOT_PLACED)
    oracle = venue.simulator.oracle()
    del oracle["orders"][1]

    assert found(oracle, "I2") == [
        f"{entry.client_order_id}: wanted the venue's id {entry.exchange_order_id}, was none",
        f"{exit_order.client_order_id} has a venue's id and is not there",
    ]


def test_i2_knows_a_stop_by_the_id_it_waits_under_and_by_the_id_of_the_order_it_becomes(
    venue: Venue, round_trip: tuple[Order, Order]
) -> None:
    entry = round_trip[0]
    oracle = venue.simulator.oracle()
    stop = {"clientOid": entry.client_order_id, "id": "s-1", "status": "TRIGGERED", "arrivedAt": 0}
    oracle["stopOrders"].append(stop)
    assert invariants.check(oracle) == []

    gone = oracle["orders"].pop(0)
    assert found(oracle, "I2") == [f"{entry.client_order_id}: wanted the venue's id s-1, was {gone['id']}"]

    Order.objects.filter(pk=entry.pk).update(exchange_order_id="s-1")
    assert found(oracle, "I2") == []


def test_i1_sees_a_stop_that_was_accepted_twice_and_one_beside_an_order_of_its_intent(
    venue: Venue, round_trip: tuple[Order, Order]
) -> None:
    entry, exit_order = round_trip
    oracle = venue.simulator.oracle()
    stop = {"clientOid": entry.client_order_id, "id": "s-1", "status": "CANCELED", "arrivedAt": 0}
    oracle["stopOrders"] += [stop, stop]
    assert found(oracle, "I1") == [f"{entry.client_order_id} was accepted 2 times"]

    oracle["stopOrders"] = [{**stop, "status": "NEW"}]
    oracle["orders"][0]["status"] = "canceled"
    Order.objects.filter(pk=exit_order.pk).update(intent_id=entry.intent_id)
    assert found(oracle, "I1")[0].startswith(f"intent {entry.intent_id} has 2 accepted orders")


def test_i3_sees_a_fill_that_was_not_recorded(venue: Venue, round_trip: tuple[Order, Order]) -> None:
    entry = round_trip[0]
    Fill.objects.filter(order=entry).delete()

    first, second = found(venue.simulator.oracle(), "I3")

    assert first == f"fill ('key-of-alice', 'BTC-USDT', '1', 'buy') of {entry.client_order_id} was not recorded"
    assert second.startswith(f"{entry}: wanted 0 filled for 0, was 0.02")


def test_i3_sees_a_fill_that_is_not_the_venues_and_one_that_differs(
    venue: Venue, round_trip: tuple[Order, Order]
) -> None:
    entry, exit_order = round_trip
    oracle = venue.simulator.oracle()
    oracle["fills"][0]["price"] = "1"
    del oracle["fills"][1]

    first, second = found(oracle, "I3")

    assert first == f"fill ('key-of-alice', 'BTC-USDT', '2', 'sell') of {exit_order.client_order_id} is not the venue's"
    assert second.startswith("fill ('key-of-alice', 'BTC-USDT', '1', 'buy'): wanted")


def test_i4_sees_money_that_nobody_can_explain(venue: Venue, round_trip: tuple[Order, Order]) -> None:
    oracle = venue.simulator.oracle()
    oracle["balances"]["key-of-alice"]["BTC"]["balance"] = "0.5"

    assert found(oracle, "I4") == ["account key-of-alice: wanted 0E-18 BTC, the venue holds 0.5"]


def test_i4_explains_deposits_and_the_fills_of_others(venue: Venue, round_trip: tuple[Order, Order]) -> None:
    venue.simulator.control("accounts", apiKey="key-of-alice", balances={"USDT": "12345"})

    assert found(venue.simulator.oracle(), "I4") == []


def test_i4_sees_a_position_that_realized_something_else(venue: Venue, round_trip: tuple[Order, Order]) -> None:
    position = Position.objects.get()
    Position.objects.update(realized_pnl=position.realized_pnl + Decimal("0.01"))

    [words] = found(venue.simulator.oracle(), "I4")

    assert words.startswith("account key-of-alice: its positions realized")


def test_i4_sees_a_holding_that_is_in_no_position_unless_somebody_was_told(
    venue: Venue, round_trip: tuple[Order, Order]
) -> None:
    entry, exit_order = round_trip
    Position.objects.update(status=PositionStatus.ABANDONED, realized_pnl=0)
    Fill.objects.filter(order=exit_order).delete()
    words = "account key-of-alice: 0.020000000000000000 BTC of what our orders bought are in no position"

    assert words in found(venue.simulator.oracle(), "I4")

    with transaction.atomic():
        publish(Topic.ALERTS, entry.account_id, order_id=entry.pk, data={"alert": "ORDER_FOUND_AFTER_NOT_PLACED"})
    assert words not in found(venue.simulator.oracle(), "I4")


def test_i4_forgives_profits_where_a_trader_corrected_a_position_or_no_session_holds_an_order(
    venue: Venue, round_trip: tuple[Order, Order]
) -> None:
    entry, _ = round_trip
    Position.objects.update(realized_pnl=0)
    assert [one for one in found(venue.simulator.oracle(), "I4") if "realized" in one] != []

    Discrepancy.objects.create(account=entry.account, kind="LATE_ORDER", subject=f"order:{entry.pk}", order=entry)
    assert [one for one in found(venue.simulator.oracle(), "I4") if "realized" in one] == []

    Discrepancy.objects.all().delete()
    Fill.objects.filter(order=entry).update(is_correction=True)
    assert [one for one in found(venue.simulator.oracle(), "I4") if "realized" in one] == []


def test_an_order_of_others_in_the_books_breaks_nothing(venue: Venue, round_trip: tuple[Order, Order]) -> None:
    make_session(venue.account, make_config(venue.account.owner, make_feed(venue.market)))
    account_reconcile(venue.account.pk)
    client = venue.simulator.client(KEY, SECRET, PASSPHRASE)
    client.load_markets()
    client.create_order("BTC/USDT", "market", "buy", "0.01")
    account_reconcile(venue.account.pk)

    [theirs] = Order.objects.filter(is_foreign=True)
    assert theirs.filled == Decimal("0.01")
    assert invariants.check(venue.simulator.oracle()) == []


@pytest.mark.parametrize("status", [OrderStatus.SUBMITTING, OrderStatus.UNKNOWN])
def test_i5_sees_what_stays_unknown_in_silence(
    venue: Venue, round_trip: tuple[Order, Order], status: OrderStatus
) -> None:
    entry = round_trip[0]
    Order.objects.filter(pk=entry.pk).update(status=status)
    now = timezone.now()

    assert invariants.nothing_unknown_in_silence(now + timedelta(seconds=140)) == []
    [words] = invariants.nothing_unknown_in_silence(now + timedelta(seconds=160))
    assert words.startswith(f"{entry} is {status} since ")

    with transaction.atomic():
        publish(Topic.ALERTS, entry.account_id, order_id=entry.pk, data={"alert": "ORDER_UNKNOWN"})
    assert invariants.nothing_unknown_in_silence(now + timedelta(seconds=160)) == []


def test_i6_sees_a_step_that_was_told_twice(venue: Venue, round_trip: tuple[Order, Order]) -> None:
    tell(round_trip[0], Topic.ORDER_UPDATES)

    assert found(venue.simulator.oracle(), "I6") == [
        f"{round_trip[0]} is CLOSED, told twice as CLOSED: the journal says READY OPENED CLOSED CLOSED"
    ]


def test_i6_sees_a_move_that_the_table_does_not_know(venue: Venue, round_trip: tuple[Order, Order]) -> None:
    round_trip[0].status = OrderStatus.UNKNOWN
    tell(round_trip[0], Topic.ORDER_UPDATES)

    assert found(venue.simulator.oracle(), "I6") == [
        f"{round_trip[0]} is CLOSED, told as UNKNOWN after CLOSED: the journal says READY OPENED CLOSED UNKNOWN"
    ]


def test_i6_sees_a_move_that_was_not_told(venue: Venue, round_trip: tuple[Order, Order]) -> None:
    Order.objects.filter(pk=round_trip[0].pk).update(status=OrderStatus.CANCELED)

    assert found(venue.simulator.oracle(), "I6") == [
        f"{round_trip[0]} is CANCELED, last told as CLOSED: the journal says READY OPENED CLOSED"
    ]


def test_i7_sees_an_order_that_was_accepted_after_its_sessions_stop(
    venue: Venue, round_trip: tuple[Order, Order]
) -> None:
    oracle = venue.simulator.oracle()
    oracle["orders"][1]["arrivedAt"] += 60_000

    [words] = found(oracle, "I7")

    assert words.startswith(f"{round_trip[1].client_order_id} was accepted 0:00:")
    assert words.endswith("after its session had stopped")


def test_i7_forgives_what_was_accepted_in_the_next_run(venue: Venue, round_trip: tuple[Order, Order]) -> None:
    session = Position.objects.get().session
    with transaction.atomic():
        publish(Topic.COMMAND, session.pk, session_id=session.pk, data={"command": "start"})
    oracle = venue.simulator.oracle()
    oracle["orders"][1]["arrivedAt"] = int((datetime.now(UTC) + timedelta(seconds=60)).timestamp() * 1000)

    assert found(oracle, "I7") == []


def held(fields: dict[str, Any]) -> Position:
    position = make_open_position(make_session())
    Position.objects.filter(pk=position.pk).update(exits={"stop_loss_percent": "2"}, **fields)
    return position


@pytest.mark.django_db
def test_i9_wants_the_stop_that_a_position_names() -> None:
    position = held({"stop_price": None})
    assert invariants.nothing_held_without_its_stop() == [f"position {position.pk} holds 0.02 without its stop"]

    Position.objects.filter(pk=position.pk).update(stop_price=Decimal(49000))
    assert invariants.nothing_held_without_its_stop() == []


@pytest.mark.django_db
@pytest.mark.parametrize("exits", [{}, {"targets": [{"percent": "4"}]}])
def test_i9_wants_no_stop_of_a_position_that_names_none(exits: dict[str, Any]) -> None:
    position = held({"stop_price": None})
    Position.objects.filter(pk=position.pk).update(exits=exits)

    assert invariants.nothing_held_without_its_stop() == []


@pytest.mark.django_db
def test_i9_takes_a_stop_that_rests_at_the_venue_for_one_and_no_other_order() -> None:
    position = held({"stop_price": None})
    make_order(position, purpose="EXIT", status=OrderStatus.OPENED)
    assert len(invariants.nothing_held_without_its_stop()) == 1

    stop = make_order(
        position,
        "REST_STOP",
        OrderStatus.OPENED,
        trigger="FALLING",
        stop_price=Decimal(49000),
        quantity=Decimal("0.02"),
    )
    assert invariants.nothing_held_without_its_stop() == []

    Order.objects.filter(pk=stop.pk).update(quantity=Decimal("0.01"))
    assert invariants.nothing_held_without_its_stop() == [
        f"position {position.pk} holds 0.02, its resting stop is over 0.01"
    ]

    Order.objects.filter(pk=stop.pk).update(quantity=Decimal("0.02"), is_cancel_wanted=True)
    assert len(invariants.nothing_held_without_its_stop()) == 1


@pytest.mark.django_db
@pytest.mark.parametrize("purpose", ["REST_STOP", "REST_TARGET"])
def test_i9_wants_no_resting_order_to_outlive_its_position(purpose: str) -> None:
    position = held({"stop_price": Decimal(49000)})
    order = make_order(position, purpose, OrderStatus.OPENED, trigger="FALLING", stop_price=Decimal(49000))
    assert invariants.nothing_held_without_its_stop() == []

    Position.objects.update(status=PositionStatus.CLOSED)
    assert invariants.nothing_held_without_its_stop() == [f"{order} rests for a position that is over"]

    Order.objects.update(status=OrderStatus.CANCELED)
    assert invariants.nothing_held_without_its_stop() == []


@pytest.mark.django_db
def test_i9_wants_a_stop_by_whatever_name_the_plan_has_for_it() -> None:
    position = held({"stop_price": None})
    for exits in ({"trailing_percent": "2"}, {"stop_loss_atr": "2"}, {"is_stop_from_signal": True}):
        Position.objects.filter(pk=position.pk).update(exits=exits)
        assert len(invariants.nothing_held_without_its_stop()) == 1


@pytest.mark.django_db
def test_i9_wants_the_end_told_of_every_spell_without_a_stop() -> None:
    position = held({"stop_price": Decimal(49000)})

    def say(alert: str) -> None:
        with transaction.atomic():
            publish(Topic.ALERTS, position.session_id, position_id=position.pk, data={"alert": alert})

    say("POSITION_UNPROTECTED")
    assert invariants.nothing_held_without_its_stop() == [
        f"position {position.pk} was told of as unprotected and of nothing since"
    ]

    say("POSITION_PROTECTED")
    assert invariants.nothing_held_without_its_stop() == []


@pytest.mark.django_db
def test_i9_wants_somebody_to_watch_a_stop_and_a_fill_to_be_added_up() -> None:
    position = held({"stop_price": Decimal(49000)})
    TradingSession.objects.update(status=SessionStatus.STOPPED)
    assert invariants.nothing_held_without_its_stop() == [
        f"position {position.pk} has a stop that nobody watches: STOPPED"
    ]

    Position.objects.update(status=PositionStatus.PENDING)
    assert invariants.nothing_held_without_its_stop() == [
        f"position {position.pk} is PENDING though its entry was filled"
    ]


def test_i8_says_what_a_second_ring_changed(venue: Venue, round_trip: tuple[Order, Order]) -> None:
    before = invariants.snapshot(venue.simulator.oracle())
    sessions_track([Position.objects.get().session_id])
    assert not session_mark_stopped(Position.objects.get().session_id)
    assert invariants.differences(before, invariants.snapshot(venue.simulator.oracle())) == []

    Order.objects.filter(pk=round_trip[0].pk).update(detail="touched")

    [words] = invariants.differences(before, invariants.snapshot(venue.simulator.oracle()))
    assert words.startswith("ringing again changed 1 of Order: ")
