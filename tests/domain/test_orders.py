"""The states of an order: what may follow what, what counts as alive, and what quantities say about execution."""

from __future__ import annotations

from decimal import Decimal

import pytest

from domain.orders import (
    AT_VENUE_STATUSES,
    DENIAL_TEXTS,
    LIVE_STATUSES,
    ORDER_TRANSITIONS,
    Denial,
    Execution,
    OrderStatus,
    execution_of,
)

S = OrderStatus


def reachable_from(status: str) -> set[str]:
    found, ahead = set[str](), [status]
    while ahead:
        new = ORDER_TRANSITIONS[ahead.pop()] - found
        found |= new
        ahead += new
    return found


def test_the_table_knows_every_status_and_no_other() -> None:
    assert set(ORDER_TRANSITIONS) == set(OrderStatus)
    assert {target for targets in ORDER_TRANSITIONS.values() for target in targets} <= set(OrderStatus)


@pytest.mark.parametrize("status", [S.CLOSED, S.CANCELED, S.DENIED, S.REJECTED])
def test_a_finished_order_stays_as_it_is(status: OrderStatus) -> None:
    assert ORDER_TRANSITIONS[status] == frozenset()


def test_every_status_is_reached_from_requested() -> None:
    assert reachable_from(S.REQUESTED) == set(OrderStatus) - {S.REQUESTED}


@pytest.mark.parametrize("status", LIVE_STATUSES)
def test_every_live_order_can_still_end(status: OrderStatus) -> None:
    assert reachable_from(status) & {S.CLOSED, S.CANCELED}


def test_alive_is_whatever_may_yet_trade_without_a_surprise() -> None:
    finished = {S.CLOSED, S.CANCELED, S.DENIED, S.REJECTED, S.NOT_PLACED}

    assert set(LIVE_STATUSES) == set(OrderStatus) - finished
    assert set(AT_VENUE_STATUSES) < set(LIVE_STATUSES)


@pytest.mark.parametrize(
    ("status", "followers"),
    [
        (S.REQUESTED, {S.READY, S.DENIED, S.CANCELED}),
        (S.READY, {S.SUBMITTING, S.CANCELED, S.OPENED}),
        (S.SUBMITTING, {S.OPENED, S.REJECTED, S.UNKNOWN, S.READY}),
        (S.UNKNOWN, {S.OPENED, S.NOT_PLACED}),
        (S.OPENED, {S.CLOSED, S.CANCELED}),
        (S.NOT_PLACED, {S.OPENED}),
    ],
)
def test_each_status_is_followed_by_these_only(status: OrderStatus, followers: set[OrderStatus]) -> None:
    assert ORDER_TRANSITIONS[status] == followers


@pytest.mark.parametrize("status", [S.UNKNOWN, S.OPENED, S.NOT_PLACED])
def test_an_order_that_may_have_reached_the_venue_is_never_sent_again(status: OrderStatus) -> None:
    assert not reachable_from(status) & {S.READY, S.SUBMITTING}


@pytest.mark.parametrize("denied_or_rejected", [S.DENIED, S.REJECTED])
def test_our_own_no_and_the_venues_no_come_from_different_places(denied_or_rejected: OrderStatus) -> None:
    sources = {status for status, targets in ORDER_TRANSITIONS.items() if denied_or_rejected in targets}

    assert sources == {S.REQUESTED if denied_or_rejected is S.DENIED else S.SUBMITTING}


@pytest.mark.parametrize(
    ("quantity", "filled", "execution"),
    [
        (None, "0", Execution.NOT_EXECUTED),
        ("1", "0", Execution.NOT_EXECUTED),
        ("1", "0.999999", Execution.PARTIALLY_EXECUTED),
        (None, "0.5", Execution.PARTIALLY_EXECUTED),
        ("1", "1", Execution.FULLY_EXECUTED),
        ("1", "1.000001", Execution.FULLY_EXECUTED),
    ],
)
def test_execution_is_told_by_quantities(quantity: str | None, filled: str, execution: Execution) -> None:
    assert execution_of(None if quantity is None else Decimal(quantity), Decimal(filled)) is execution


def test_every_denial_is_told_in_a_sentence_of_its_own() -> None:
    assert set(DENIAL_TEXTS) == set(Denial)
    assert len(set(DENIAL_TEXTS.values())) == len(Denial)
    assert [text for text in DENIAL_TEXTS.values() if not (text[0].isupper() and text.endswith("."))] == []
