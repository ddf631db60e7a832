"""Levels that move: with the candles that close, and with time; recomputed from rows, so that nobody need remember them."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone

from domain.candles import Timeframe
from domain.orders import OrderStatus
from exchanges.gateway import CandleReport
from exchanges.models import Exchange
from marketdata.models import Feed
from marketdata.services import candles_store
from orders.models import Order
from positions.models import Position
from positions.tasks import follow_orders, sweep_exposed_sessions, track
from positions.watch import sessions_due
from tests.factories import (
    finish,
    make_account,
    make_fill,
    make_open_position,
    make_order,
    make_position,
    make_quote,
    make_session,
    make_signal,
)
from tests.race import at_once

pytestmark = pytest.mark.django_db

TRAILING: dict[str, Any] = {"stop_loss_percent": "10", "trailing_percent": "2", "trailing_activation_percent": "4"}
MINUTE = Timeframe.M1.length


def held(exits: dict[str, Any], minutes: int = 30, **fields: Any) -> Position:
    """A position bought at 50,000 so many minutes ago."""
    position = make_open_position(fields.pop("session", None) or make_session(), exits=exits, **fields)
    opened_at = timezone.now() - minutes * MINUTE
    Position.objects.filter(pk=position.pk).update(opened_at=opened_at, followed_until=opened_at)
    position.refresh_from_db()
    return position


def candle(position: Position, high: int, low: int, after: int = 1) -> datetime:
    """A candle of the session's feed closes that opened in the minute so many after the entry's."""
    feed = position.session.config.feed
    assert position.opened_at is not None
    open_at = Timeframe.M1.open_of(position.opened_at) + after * MINUTE
    top, bottom, middle = Decimal(high), Decimal(low), Decimal(high + low) / 2
    candles_store(feed.pk, [CandleReport(open_at, middle, top, bottom, middle, Decimal(1))])
    Feed.objects.filter(pk=feed.pk).update(last_open_at=open_at)
    return open_at


def looked_at(position: Position) -> Position:
    track([position.session_id])
    position.refresh_from_db()
    return position


def test_a_trailing_stop_moves_with_the_candles_that_close_and_never_back() -> None:
    position = held(TRAILING)
    seen = []

    for after, (high, low) in enumerate([(51000, 49000), (53000, 50000), (52500, 52000), (55000, 53500)], start=1):
        candle(position, high, low, after)
        looked_at(position)
        seen.append((position.best_price, position.stop_price, position.stop_reason))

    assert seen == [
        (51000, 45000, "STOP_LOSS"),
        (53000, 51940, "TRAILING_STOP"),
        (53000, 51940, "TRAILING_STOP"),
        (55000, 53900, "TRAILING_STOP"),
    ]


def test_the_reason_that_fired_is_stored() -> None:
    position = held(TRAILING)
    candle(position, 55000, 54000)
    make_quote(position.market, "53900")

    looked_at(position)

    assert (position.exit_reason, Order.objects.get(is_exit=True).reason) == ("TRAILING_STOP", "TRAILING_STOP")


def test_a_short_s_trailing_stop_follows_the_lows() -> None:
    position = held(TRAILING, side="SHORT")
    candle(position, 50000, 47000)

    looked_at(position)

    assert (position.best_price, position.stop_price) == (Decimal(47000), Decimal(47940))


def test_the_candle_of_the_entry_does_not_count() -> None:
    position = held(TRAILING)
    candle(position, 60000, 40000, after=0)

    due = sessions_due(timezone.now())
    looked_at(position)

    assert due == []
    assert (position.best_price, position.stop_price) == (None, Decimal(45000))


def test_break_even_takes_the_loss_away() -> None:
    position = held({"stop_loss_percent": "10", "break_even_percent": "3", "break_even_offset_percent": "0.2"})
    candle(position, 51500, 50000)

    looked_at(position)

    assert (position.stop_price, position.stop_reason) == (Decimal(50100), "BREAK_EVEN")


def test_the_watch_finds_whose_stop_a_closed_candle_moves_and_nobody_else() -> None:
    following = held(TRAILING)
    fixed = held({"stop_loss_percent": "2"}, session=make_session(make_account(name="fixed")))
    candle(following, 51000, 50000)
    before = sessions_due(timezone.now())
    looked_at(following)
    between = sessions_due(timezone.now())

    candle(following, 53000, 52000, after=2)

    assert (before, between, sessions_due(timezone.now())) == ([following.session_id], [], [following.session_id])
    assert (following.is_following, fixed.is_following) == (True, False)


@pytest.mark.django_db(transaction=True)
def test_candles_whose_bells_were_lost_are_found_by_the_sweep(bells: Any) -> None:
    position = held(TRAILING)
    candle(position, 53000, 52000)
    bells.clear()

    sweep_exposed_sessions()

    assert bells.rung("exits.track") == [{"session_ids": [position.session_id]}]


@pytest.mark.django_db(transaction=True)
def test_many_that_follow_at_once_move_the_stop_to_one_place(bells: Any) -> None:
    position = held(TRAILING)
    until = candle(position, 53000, 52000)

    assert at_once([lambda: track([position.session_id])] * 5) == [None] * 5

    position.refresh_from_db()
    assert (position.stop_price, position.best_price, position.followed_until) == (51940, 53000, until)


def test_levels_are_written_only_when_they_change(django_assert_num_queries: Any) -> None:
    position = held(TRAILING, quantity="0.03")
    Position.objects.update(entry_price=Decimal(50000) / 3)
    candle(position, 53000, 52000)
    looked_at(position)

    with django_assert_num_queries(8):  # savepoint, lock, signal, position, intents, orders, fills, release
        track([position.session_id])


def test_a_lost_row_of_levels_is_what_it_was_after_the_next_look() -> None:
    position = held(TRAILING | {"targets": [{"percent": "9"}]})
    candle(position, 53000, 52000)
    candle(position, 52500, 52000, after=2)
    looked_at(position)
    names = ("stop_price", "stop_reason", "target_price", "target_reason", "best_price", "followed_until")
    before = [getattr(position, name) for name in names]

    Position.objects.update(
        stop_price=None, stop_reason="", target_price=None, target_reason="", best_price=None, followed_until=None
    )
    looked_at(position)

    assert [getattr(position, name) for name in names] == before


def test_what_it_is_measured_by_is_kept_as_it_was_at_the_entry() -> None:
    plan = {"stop_loss_atr": "2", "is_target_from_signal": True, "stop_loss_percent": "9", "targets": []}
    session = make_session(exits=plan, max_entries=3, is_resting=True, leverage=Decimal(3))
    make_signal(session.config, atr=Decimal(400), stop_price=Decimal(48000), target_price=Decimal(53000))
    track([session.pk])
    order = Order.objects.get()
    Order.objects.filter(pk=order.pk).update(quantity=Decimal("0.02"))
    order.refresh_from_db()

    follow_orders([finish(order).pk])

    position = Position.objects.get()
    assert (position.atr, position.signal_stop_price, position.signal_target_price) == (400, 48000, 53000)
    assert (position.max_entries, position.is_resting, position.leverage) == (3, True, 1)  # spot: no leverage
    assert (position.stop_price, position.stop_reason) == (Decimal(49200), "STOP_LOSS")
    assert (position.target_price, position.target_reason) == (Decimal(53000), "TAKE_PROFIT")


def test_the_liquidation_guard_counts_once_the_venue_has_said_where_it_liquidates() -> None:
    position = held({"stop_loss_percent": "20"})
    Position.objects.update(liquidation_price=Decimal(42000))

    looked_at(position)

    assert (position.stop_price, position.stop_reason) == (Decimal(43600), "LIQUIDATION_GUARD")


def test_a_position_is_left_when_its_time_is_up() -> None:
    position = held({"stop_loss_percent": "9", "max_hold_minutes": 60}, minutes=59)
    looked_at(position)
    due_at, early = position.exit_due_at, sessions_due(timezone.now())
    assert due_at is not None
    assert position.opened_at is not None
    Position.objects.update(opened_at=position.opened_at - MINUTE)

    late = sessions_due(due_at)
    looked_at(position)

    assert abs(due_at - (position.opened_at + 61 * MINUTE)) < timedelta(seconds=1)
    assert (early, late) == ([], [position.session_id])
    assert (position.exit_reason, Order.objects.get(is_exit=True).reason) == ("TIME_EXIT", "TIME_EXIT")
    assert sessions_due(due_at) == []  # it is being left: that is somebody else's wait


def test_time_is_the_venue_s() -> None:
    now = timezone.now()
    venue_at = now + timedelta(days=100)
    Exchange.objects.all().delete()
    session = make_session()
    Exchange.objects.update(clock_speed=60, clock_anchor_at=now, clock_venue_at=venue_at)
    position = make_open_position(session, exits={"max_hold_minutes": 60})
    Position.objects.update(opened_at=venue_at)

    looked_at(position)

    assert position.exit_due_at is not None
    assert abs(position.exit_due_at - now - timedelta(minutes=1)) < timedelta(seconds=1)
    Exchange.objects.update(clock_venue_at=venue_at + timedelta(minutes=61))
    assert looked_at(position).exit_reason == "TIME_EXIT"


def test_the_roi_table_moves_the_target_when_its_step_begins() -> None:
    plan = {"targets": [{"percent": "4"}], "roi": [{"minutes": 20, "percent": "2"}, {"minutes": 90, "percent": "0"}]}
    position = held(plan, minutes=10)
    early = (looked_at(position).target_price, position.target_reason)
    Position.objects.update(opened_at=timezone.now() - 20 * MINUTE)

    found = sessions_due(timezone.now() + 11 * MINUTE)
    looked_at(position)
    later = (position.target_price, position.target_reason)
    make_quote(position.market, "51000")
    looked_at(position)

    assert (early, later) == ((52000, "TAKE_PROFIT"), (51000, "ROI"))
    assert found == [position.session_id]
    assert position.exit_due_at is not None
    assert abs(position.exit_due_at - timezone.now() - 70 * MINUTE) < timedelta(seconds=2)
    assert Order.objects.get(is_exit=True).reason == "ROI"


def test_an_exit_signal_that_the_plan_does_not_use_is_seen_and_not_acted_on() -> None:
    position = held({"is_exit_signal_used": False})
    signal = make_signal(position.session.config, kind="EXIT_LONG")  # type: ignore[arg-type]  # as it is stored

    looked_at(position)

    position.session.refresh_from_db()
    assert not Order.objects.filter(is_exit=True).exists()
    assert position.session.last_signal_id == signal.pk


def test_an_entry_that_lowers_the_average_arms_no_stop_by_a_gain_from_before() -> None:
    position = held({"stop_loss_percent": "20", "break_even_percent": "4"})
    candle(position, 51000, 50000)
    looked_at(position)
    best_before = position.best_price
    filled = make_fill(make_order(position, status=OrderStatus.CLOSED, step=1), "0.02", "45000")
    Order.objects.filter(pk=filled.order_id).update(closed_at=timezone.now())

    looked_at(position)

    assert position.entry_price == Decimal(47500)
    assert (best_before, position.best_price) == (51000, None)
    assert (position.stop_price, position.stop_reason) == (38000, "STOP_LOSS")
    assert position.followed_until == filled.filled_at
    candle(position, 49400, 48000, after=32)
    assert looked_at(position).stop_reason == "BREAK_EVEN"


def test_a_position_to_be_has_no_levels() -> None:
    position = make_position(make_session(), exits=TRAILING)

    looked_at(position)

    assert (position.stop_price, position.exit_due_at, position.best_price) == (None, None, None)
