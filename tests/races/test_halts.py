"""The button is pressed in the instant in which many entries are valued: after the press none of them is let through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from domain.orders import Denial, OrderStatus
from money.halts import halt_lift, halt_trip
from money.models import HaltMode, TradingHalt, Valuation
from money.services import orders_value
from orders.models import Order
from tests.conftest import Bells
from tests.factories import (
    events,
    make_account,
    make_config,
    make_feed,
    make_limits,
    make_market,
    make_order,
    make_position,
    make_quote,
    make_session,
)
from tests.race import at_once

pytestmark = pytest.mark.django_db(transaction=True)

ENTRIES = 20
S = OrderStatus


def entries(number: int) -> list[Order]:
    account = make_account(usdt="1000000")
    make_limits(account)
    feed = make_feed(make_market(account.exchange))
    make_quote(feed.market)
    return [make_order(make_position(make_session(account, make_config(account.owner, feed)))) for _ in range(number)]


@pytest.mark.parametrize("scope", ["account_id", "owner_id", "platform"])
def test_after_a_trip_no_entry_of_its_scope_is_ready(bells: Bells, scope: str) -> None:
    orders = entries(ENTRIES)
    account = orders[0].account
    where: dict[str, Any] = {
        "account_id": {"account_id": account.pk},
        "owner_id": {"owner_id": account.owner_id},
        "platform": {},
    }[scope]
    ready_after_the_trip: list[int] = []

    def trip() -> None:
        halt_trip(HaltMode.HALT, "news", **where)
        # On another connection than those that value: what has been committed by now, and whatever comes later.
        ready_after_the_trip.append(Order.objects.filter(status=S.READY).count())

    calls: list[Callable[[], Any]] = [lambda pk=order.pk: orders_value([pk]) for order in orders]
    results = at_once([*calls[: ENTRIES // 2], trip, *calls[ENTRIES // 2 :]])

    assert [result for result in results if result is not None] == []
    assert ready_after_the_trip == [0]
    assert Order.objects.filter(status=S.READY).count() == 0
    approved = Valuation.objects.filter(verdict=Valuation.APPROVED).count()
    denied = Valuation.objects.filter(verdict=Denial.HALTED).count()
    # Each was let through before the trip and cancelled by it, or denied after it.
    assert approved + denied == ENTRIES
    assert Order.objects.filter(status=S.CANCELED).count() == approved
    assert Order.objects.filter(status=S.DENIED).count() == denied


def test_ten_presses_at_once_are_one_halt(bells: Bells) -> None:
    account = make_account()

    halts = at_once([lambda: halt_trip(HaltMode.FLATTEN, "news", account_id=account.pk)] * 10)

    assert {halt.pk for halt in halts} == {TradingHalt.objects.get().pk}
    assert len(events("alerts", alert="HALT_TRIPPED")) == 1


def test_of_two_who_lift_at_once_one_has_lifted(bells: Bells) -> None:
    halt = halt_trip(HaltMode.HALT, "news", account_id=make_account().pk)

    done = at_once([lambda name=name: halt_lift(halt.pk, "over", actor=name) for name in ("alice", "bob")])

    assert sorted(done) == [False, True]
    assert len(events("alerts", alert="HALT_LIFTED")) == 1
