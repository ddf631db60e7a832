"""A take-profit in several levels: each sells its part once, whatever fails or comes twice, and a stop takes what is left."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone

from domain.orders import OrderStatus
from domain.strategy import SignalKind
from orders.models import Order
from positions.models import Intent, Position, PositionStatus
from positions.services import session_exit
from positions.tasks import follow_orders, sweep_exposed_sessions, track, watch_prices
from positions.watch import sessions_due
from sessions.models import TradingSession
from tests.factories import (
    events,
    finish,
    make_account,
    make_market,
    make_open_position,
    make_quote,
    make_session,
    make_signal,
)
from tests.race import at_once

pytestmark = pytest.mark.django_db

# Half at 51,000, three tenths at 52,000, the rest at 53,000; a stop at 49,000.
LEVELS: dict[str, Any] = {
    "stop_loss_percent": "2",
    "targets": [
        {"percent": "2", "fraction": "0.5"},
        {"percent": "4", "fraction": "0.3"},
        {"percent": "6", "fraction": "0.2"},
    ],
}


def held(quantity: str = "0.02", exits: dict[str, Any] | None = None, **fields: Any) -> Position:
    return make_open_position(make_session(**fields), quantity=quantity, exits=exits or LEVELS)


def see(position: Position, price: str) -> None:
    make_quote(position.market, price)
    track([position.session_id])


def exit_orders() -> list[Order]:
    return list(Order.objects.filter(is_exit=True).order_by("pk"))


def step_of(order: Order) -> int:
    return Intent.objects.get(pk=order.intent_id).step


def test_each_level_sells_its_part_and_the_last_the_rest() -> None:
    position = held()
    seen = []

    for price in ("51000", "52100", "53000"):
        see(position, price)
        order = exit_orders()[-1]
        position.refresh_from_db()
        seen.append((step_of(order), order.quantity, order.reason, position.exit_reason))
        follow_orders([finish(order, price=price).pk])

    position.refresh_from_db()
    assert seen == [
        (1, Decimal("0.01"), "TAKE_PROFIT", ""),
        (2, Decimal("0.006"), "TAKE_PROFIT", ""),
        (0, Decimal("0.004"), "TAKE_PROFIT", "TAKE_PROFIT"),
    ]
    assert (position.status, position.exited, position.exit_reason) == ("CLOSED", Decimal("0.02"), "TAKE_PROFIT")
    assert position.realized_pnl == Decimal("0.01") * 1000 + Decimal("0.006") * 2100 + Decimal("0.004") * 3000 - 4
    assert [event["level"] for event in events("positions", event="TARGET_DONE")] == [1, 2]


def test_after_a_level_the_next_is_the_target_and_the_position_is_smaller() -> None:
    position = held()
    see(position, "51000")
    follow_orders([finish(exit_orders()[0], price="51000").pk])

    position.refresh_from_db()
    assert (position.status, position.quantity, position.targets_done) == ("OPEN", Decimal("0.01"), 1)
    assert (position.stop_price, position.target_price, position.target_reason) == (49000, 52000, "TAKE_PROFIT")


def test_being_looked_at_again_sells_a_part_once() -> None:
    position = held()

    see(position, "51000")
    see(position, "51500")
    track([position.session_id] * 3)
    follow_orders([finish(exit_orders()[0], price="51000").pk] * 3)

    assert len(exit_orders()) == 1


@pytest.mark.django_db(transaction=True)
def test_a_part_that_many_look_for_at_once_is_sold_once(bells: Any) -> None:
    position = held()
    make_quote(position.market, "51000")

    results = at_once([lambda: track([position.session_id])] * 5)

    assert results == [None] * 5
    assert [(step_of(order), order.quantity) for order in exit_orders()] == [(1, Decimal("0.01"))]


@pytest.mark.parametrize("status", [OrderStatus.REJECTED, OrderStatus.NOT_PLACED, OrderStatus.CANCELED])
def test_a_part_that_failed_is_tried_again_after_growing_pauses_though_the_price_went_back(
    status: OrderStatus,
) -> None:
    position = held()
    see(position, "51000")
    pauses = []

    for _ in range(3):
        follow_orders([finish(exit_orders()[-1], status).pk])
        see(position, "50000")
        not_before_at = exit_orders()[-1].not_before_at
        assert not_before_at is not None
        pauses.append(round((not_before_at - timezone.now()).total_seconds()))

    position.refresh_from_db()
    assert pauses == [2, 4, 8]
    assert {(step_of(order), order.quantity) for order in exit_orders()} == {(1, Decimal("0.01"))}
    assert (len(exit_orders()), Intent.objects.filter(purpose="EXIT").count(), position.targets_done) == (4, 1, 0)
    assert [event["failures"] for event in events("alerts", alert="EXIT_KEEPS_FAILING")] == [3]


def test_what_a_part_did_not_sell_is_sold_by_the_next_level() -> None:
    position = held()
    see(position, "51000")
    follow_orders([finish(exit_orders()[0], OrderStatus.CANCELED, filled="0.004", price="51000").pk])

    see(position, "52000")

    position.refresh_from_db()
    assert (position.targets_done, step_of(exit_orders()[-1])) == (1, 2)
    assert exit_orders()[-1].quantity == Decimal("0.012")


def test_a_level_too_small_to_be_sold_goes_with_the_next() -> None:
    make_market(min_quantity=Decimal("0.007"))
    position = held(exits=LEVELS | {"targets": [
        {"percent": "2", "fraction": "0.3"}, {"percent": "4", "fraction": "0.3"}, {"percent": "6", "fraction": "0.4"},
    ]})  # fmt: skip
    see(position, "51000")
    merged = Position.objects.get()

    see(position, "52000")

    assert (merged.targets_done, merged.target_price, merged.status) == (1, Decimal(52000), "OPEN")
    assert [event["level"] for event in events("positions", event="TARGET_MERGED")] == [1]
    assert [(step_of(order), order.quantity) for order in exit_orders()] == [(2, Decimal("0.012"))]


def test_a_part_that_would_leave_what_cannot_be_sold_takes_it_along() -> None:
    make_market(min_quantity=Decimal("0.005"))
    position = held(exits=LEVELS | {"targets": [
        {"percent": "2", "fraction": "0.8"}, {"percent": "4", "fraction": "0.2"},
    ]})  # fmt: skip

    see(position, "51000")
    follow_orders([finish(exit_orders()[0], price="51000").pk])

    position.refresh_from_db()
    assert [(step_of(order), order.quantity) for order in exit_orders()] == [(0, Decimal("0.02"))]
    assert (position.status, position.dust) == (PositionStatus.CLOSED, 0)


def test_a_rest_that_the_price_has_made_too_small_is_booked_as_dust_once() -> None:
    make_market(min_notional=Decimal(300))
    position = held()
    see(position, "51000")
    follow_orders([finish(exit_orders()[0], price="51000").pk])

    see(position, "29000")
    see(position, "29000")

    position.refresh_from_db()
    assert (position.status, position.dust, position.exit_reason) == ("CLOSED", Decimal("0.01"), "STOP_LOSS")
    assert len(exit_orders()) == len(events("alerts", alert="DUST")) == 1


@pytest.mark.parametrize("begins", ["stop", "hand", "session"])
def test_what_was_not_sent_of_a_part_is_taken_back_before_all_is_sold(begins: str) -> None:
    position = held()
    see(position, "51000")
    part = exit_orders()[0]
    if begins == "hand":
        session_exit(position.session_id)
    elif begins == "session":
        TradingSession.objects.update(status="STOPPING")

    see(position, "48000" if begins == "stop" else "51000")
    sent_before_it_ended = len(exit_orders()) > 1
    follow_orders([part.pk])

    part.refresh_from_db()
    whole = exit_orders()[-1]
    assert (part.status, sent_before_it_ended) == (OrderStatus.CANCELED, False)
    assert (step_of(whole), whole.quantity) == (0, Decimal("0.02"))
    assert whole.reason == {"stop": "STOP_LOSS", "hand": "MARKET_EXIT", "session": "SESSION_STOP"}[begins]


@pytest.mark.parametrize("status", [OrderStatus.SUBMITTING, OrderStatus.UNKNOWN, OrderStatus.OPENED])
def test_a_stop_waits_for_a_part_that_is_at_the_venue_and_sells_what_that_left(status: OrderStatus) -> None:
    position = held()
    see(position, "51000")
    part = exit_orders()[0]
    Order.objects.filter(pk=part.pk).update(status=status)

    see(position, "48000")
    see(position, "50000")  # begun, though the price came back
    part.refresh_from_db()
    while_at_work = len(exit_orders())
    follow_orders([finish(part, OrderStatus.CANCELED, filled="0.003", price="51000").pk])

    position.refresh_from_db()
    whole = exit_orders()[-1]
    assert (part.is_cancel_wanted, while_at_work) == (True, 1)
    assert (step_of(whole), whole.quantity, whole.reason) == (0, Decimal("0.017"), "STOP_LOSS")
    assert position.exit_reason == "STOP_LOSS"


def test_while_a_part_is_at_work_its_neighbours_wait() -> None:
    position = held()
    see(position, "51000")

    see(position, "52500")
    make_signal(position.session.config, SignalKind.ENTER_LONG)
    track([position.session_id])

    assert len(exit_orders()) == 1
    assert Order.objects.filter(is_exit=False).count() == 1


def test_an_exit_signal_beside_a_part_is_acted_on_once_the_part_is_sold() -> None:
    position = held()
    make_signal(position.session.config, SignalKind.EXIT_LONG)

    see(position, "51000")
    follow_orders([finish(exit_orders()[0], price="51000").pk])

    assert [(step_of(order), order.quantity, order.reason) for order in exit_orders()] == [
        (1, Decimal("0.01"), "TAKE_PROFIT"),
        (0, Decimal("0.01"), "EXIT_SIGNAL"),
    ]


@pytest.mark.django_db(transaction=True)
def test_parts_whose_bells_were_lost_are_found_by_the_sweep(bells: Any) -> None:
    crossed = held(account=make_account(name="crossed"))
    sold = held(account=make_account(name="sold"))
    see(sold, "51000")
    finish(exit_orders()[0], price="51000")
    make_quote(crossed.market, "51000")
    held(account=make_account(name="content"), exits={"stop_loss_percent": "5"})
    bells.clear()

    sweep_exposed_sessions()

    rung = {pk for bell in bells.rung("exits.track") for pk in bell["session_ids"]}
    assert rung == {crossed.session_id, sold.session_id}


def test_the_watch_sells_the_next_part_when_its_price_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("positions.watch.quotes_refresh", lambda *_: 0)
    position = held()
    see(position, "51000")
    follow_orders([finish(exit_orders()[0], price="51000").pk])
    make_quote(position.market, "51500")
    between = sessions_due(timezone.now() + timedelta(seconds=1))
    make_quote(position.market, "52000")

    watch_prices()

    assert between == []
    assert [step_of(order) for order in exit_orders()] == [1, 2]
