"""Margin mode of entries on contracts: the venue's is brought to the order's while nothing is held there."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from domain.orders import OrderStatus
from orders.models import Order
from orders.services import order_submit
from tests.contracts import FuturesVenue
from tests.factories import let_pass, make_order, make_position

S = OrderStatus
SWITCH = "/api/v2/position/changeMarginMode"


def ready(futures: FuturesVenue, mode: str, leverage: int = 5, **fields: Any) -> Order:
    """An entry of ten contracts."""
    position = make_position(futures.session(), leverage=Decimal(leverage), margin_mode=mode)
    defaults = {"status": S.READY, "quantity": Decimal(10), "leverage": Decimal(leverage), "margin_mode": mode}
    return make_order(position, **{**defaults, **fields})


def held(futures: FuturesVenue) -> list[tuple[str, int, int]]:
    positions = [one for one in futures.books["positions"] if one["currentQty"]]
    return [(one["marginMode"], one["leverage"], one["currentQty"]) for one in positions]


def test_an_entry_of_another_mode_is_sent_after_the_venue_s_was_switched(futures: FuturesVenue) -> None:
    crossed = ready(futures, "CROSS", 4)

    status = order_submit(crossed.pk)

    assert (status, held(futures)) == (S.CLOSED, [("CROSS", 4, 10)])
    assert len(futures.requests_of("POST", SWITCH)) == 1


def test_an_entry_that_was_refused_for_its_mode_is_sent_again_once_it_is_switched(futures: FuturesVenue) -> None:
    first = ready(futures, "CROSS")
    order_submit(first.pk)
    order_submit(ready(futures, "CROSS", side="SELL", is_exit=True, is_reduce_only=True).pk)
    isolated = ready(futures, "ISOLATED", 2)

    refused = order_submit(isolated.pk)
    sent = order_submit(let_pass(isolated, 3).pk)
    again = order_submit(isolated.pk)

    assert (refused, sent, again) == (S.READY, S.CLOSED, None)
    assert held(futures) == [("ISOLATED", 2, 10)]
    assert len(futures.requests_of("POST", SWITCH)) == 2


@pytest.mark.parametrize(("holding", "wanted"), [("CROSS", "ISOLATED"), ("ISOLATED", "CROSS")])
def test_what_another_session_holds_keeps_its_mode_and_the_entry_is_rejected(
    futures: FuturesVenue, holding: str, wanted: str
) -> None:
    order_submit(ready(futures, holding).pk)
    entry = ready(futures, wanted)

    status = order_submit(entry.pk)

    entry.refresh_from_db()
    assert (status, entry.reason, held(futures)) == (S.REJECTED, "330005", [(holding, 5, 10)])


def test_what_another_session_holds_keeps_its_leverage_and_the_entry_is_rejected(futures: FuturesVenue) -> None:
    order_submit(ready(futures, "CROSS", 5).pk)
    entry = ready(futures, "CROSS", 3)

    status = order_submit(entry.pk)

    entry.refresh_from_db()
    assert (status, entry.reason, held(futures)) == (S.REJECTED, "LEVERAGE", [("CROSS", 5, 10)])
    assert "wanted a leverage of 3" in entry.detail


def test_an_exit_asks_for_no_mode_and_is_refused_as_it_is(futures: FuturesVenue) -> None:
    order_submit(ready(futures, "ISOLATED").pk)
    leave = ready(futures, "CROSS", side="SELL", is_exit=True, is_reduce_only=True)

    status = order_submit(leave.pk)

    assert status == S.REJECTED
    assert futures.requests_of("GET", "/api/v2/*") == futures.requests_of("POST", SWITCH) == []


def test_a_venue_that_cannot_be_asked_for_the_mode_is_sent_nothing_and_asked_again(futures: FuturesVenue) -> None:
    crossed = ready(futures, "CROSS")
    futures.fault(method="GET", path="/api/v2/position/getMarginMode", when="before", kind="http", status=502, body="")

    first = order_submit(crossed.pk)
    sent_early = futures.requests_of("POST", "/api/v1/orders")
    second = order_submit(let_pass(crossed, 3).pk)

    assert (first, sent_early, second) == (S.READY, [], S.CLOSED)
    assert held(futures) == [("CROSS", 5, 10)]
