"""A position that should have a stop and has none in force is told of, once a spell, and when it is over."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from pipeline.models import Event
from positions.models import Position
from positions.protection import position_protection_tell, positions_to_tell_of
from positions.tasks import sweep_sessions, tell_protection, track
from sessions.models import SessionStatus, TradingSession
from tests.factories import events, make_open_position, make_quote, make_session
from tests.race import at_once

pytestmark = pytest.mark.django_db


def held(**fields: Any) -> Position:
    """A position with a stop at 49,000 since a minute, and a price of now."""
    position = make_open_position(make_session(), **fields)
    Position.objects.filter(pk=position.pk).update(folded_at=timezone.now() - timedelta(minutes=1))
    make_quote(position.market)
    return position


def stop_lost(position: Position) -> None:
    Position.objects.filter(pk=position.pk).update(stop_price=None)


def session_gone(position: Position) -> None:
    TradingSession.objects.filter(pk=position.session_id).update(status=SessionStatus.STOPPED)


def price_old(position: Position) -> None:
    make_quote(position.market, age=timedelta(seconds=31))


def price_missing(position: Position) -> None:
    position.market.last_quote.delete()


def found() -> list[int]:
    return positions_to_tell_of(timezone.now())


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (stop_lost, "its plan has a stop and none could be set"),
        (session_gone, "nobody tracks it: its session does not run"),
        (price_old, "there is no price recent enough to see its stop by"),
        (price_missing, "there is no price recent enough to see its stop by"),
    ],
)
def test_a_position_whose_stop_is_not_in_force_is_told_of_once(fault: Callable[[Position], None], words: str) -> None:
    position = held()
    position.market.refresh_from_db()
    fault(position)

    assert found() == [position.pk]
    tell_protection([position.pk])
    tell_protection([position.pk])

    [alert] = Event.objects.filter(topic="alerts")
    assert alert.data == {
        "alert": "POSITION_UNPROTECTED", "market": "BTC/USDT", "reason": words, "quantity": "0.020000000000000000",
    }  # fmt: skip
    assert (alert.ids["position_id"], alert.owner_id) == (position.pk, position.account.owner_id)
    assert found() == []


def test_it_is_told_of_once_more_when_it_is_over_and_anew_when_it_begins_again() -> None:
    position = held()
    for change in (price_old, lambda one: make_quote(one.market), price_old):
        change(position)
        assert found() == [position.pk]
        tell_protection([position.pk])

    told = [event["alert"] for event in events("alerts")]
    assert told == ["POSITION_UNPROTECTED", "POSITION_PROTECTED", "POSITION_UNPROTECTED"]


def test_a_look_that_sets_the_stop_ends_it() -> None:
    position = held()
    stop_lost(position)
    tell_protection([position.pk])

    track([position.session_id])
    tell_protection(found())

    assert [event["alert"] for event in events("alerts")] == ["POSITION_UNPROTECTED", "POSITION_PROTECTED"]


def test_its_end_ends_it() -> None:
    position = held()
    price_old(position)
    tell_protection([position.pk])

    Position.objects.update(status="CLOSED")
    tell_protection(found())

    assert [event["alert"] for event in events("alerts")] == ["POSITION_UNPROTECTED", "POSITION_PROTECTED"]
    assert found() == []


@pytest.mark.parametrize(
    ("exits", "is_to_be_protected"),
    [
        ({"targets": [{"percent": "4"}]}, False),
        ({"break_even_percent": "4"}, False),
        ({"is_stop_from_signal": False}, False),
        ({"stop_loss_percent": None}, False),
        ({"is_stop_from_signal": True}, True),
        ({"stop_loss_atr": "2"}, True),
        ({"trailing_percent": "2"}, True),
        ({"trailing_percent": "2", "trailing_activation_percent": "0.00"}, True),
        ({"trailing_percent": "2", "trailing_activation_percent": "3"}, False),
        ({"stop_loss_percent": "5", "trailing_percent": "2", "trailing_activation_percent": "3"}, True),
    ],
)
def test_only_a_plan_with_a_stop_is_to_have_one(exits: dict[str, Any], is_to_be_protected: bool) -> None:
    position = held(exits=exits)
    stop_lost(position)

    assert found() == ([position.pk] if is_to_be_protected else [])


def test_a_stop_of_volatility_that_nobody_measured_is_no_protection() -> None:
    position = held(exits={"stop_loss_atr": "2"})

    track([position.session_id])

    position.refresh_from_db()
    assert position.stop_price is None
    assert positions_to_tell_of(timezone.now() + timedelta(seconds=6)) == [position.pk]


def test_a_position_is_given_a_few_seconds_to_be_looked_at() -> None:
    position = held()
    stop_lost(position)
    Position.objects.update(folded_at=timezone.now())
    now = timezone.now()

    assert positions_to_tell_of(now + timedelta(seconds=4)) == []
    assert positions_to_tell_of(now + timedelta(seconds=6)) == [position.pk]


@pytest.mark.django_db(transaction=True)
def test_of_many_that_notice_at_once_one_tells(bells: Any) -> None:
    position = held()
    stop_lost(position)

    results = at_once([lambda: position_protection_tell(position.pk)] * 5)

    assert sorted(results) == [False, False, False, False, True]
    assert len(events("alerts")) == 1


@pytest.mark.django_db(transaction=True)
def test_the_sweep_rings_for_it_until_it_is_told(bells: Any) -> None:
    position = held()
    stop_lost(position)
    bells.clear()

    sweep_sessions()
    rung = bells.rung("positions.tell_protection")
    tell_protection(rung[0]["position_ids"])
    bells.clear()
    sweep_sessions()

    assert rung == [{"position_ids": [position.pk]}]
    assert bells.rung("positions.tell_protection") == []


def test_it_is_one_query(django_assert_num_queries: Any) -> None:
    held()

    with django_assert_num_queries(1):
        found()
