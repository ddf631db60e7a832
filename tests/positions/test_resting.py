"""Exits that rest at the venue: in step with what is held, one group, and never in the way of what is tracked."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db.models import Sum
from django.utils import timezone

from domain.candles import Timeframe
from domain.orders import LIVE_STATUSES, OrderStatus
from exchanges.gateway import CandleReport
from marketdata.models import Feed
from marketdata.services import candles_store
from orders import lookups, services
from orders.models import Fill, Order
from positions import resting
from positions.models import Intent, Position, PositionStatus
from positions.services import session_exit, sessions_track
from positions.tasks import cancel_resting, sweep_exposed_sessions
from sessions.models import SessionStatus, TradingSession
from tests.factories import (
    events,
    finish,
    let_pass,
    make_account,
    make_balance,
    make_exchange,
    make_fill,
    make_open_position,
    make_order,
    make_quote,
    make_session,
)
from tests.race import at_once, happens_before
from tests.venue import Venue

pytestmark = pytest.mark.django_db

S = OrderStatus
TWO_TARGETS = {
    "stop_loss_percent": "2",
    "targets": [{"percent": "4", "fraction": "0.5"}, {"percent": "6"}],
}
Rows = list[tuple[str, int, Decimal, Decimal]]


def held(exits: dict[str, Any] | None = None, **fields: Any) -> Position:
    """0.02 BTC bought at 50,000, with a stop at 49,000 and targets at 52,000 (half) and 53,000, all of which are to rest."""
    return make_open_position(make_session(), exits=exits or TWO_TARGETS, is_resting=True, **fields)


def looked_at(position: Position) -> Position:
    sessions_track([position.session_id])
    position.refresh_from_db()
    return position


def at_work(position: Position) -> Rows:
    """What rests or is about to: purpose, step, quantity and stop price."""
    intents = {one.pk: one for one in position.intents.all()}
    live = Order.objects.filter(intent_id__in=intents, status__in=LIVE_STATUSES).exclude(trigger="")
    rows = [(intents[o.intent_id].purpose, intents[o.intent_id].step, o.quantity, o.stop_price) for o in live]
    return sorted(rows)


def of(position: Position, purpose: str, step: int = 0) -> Order:
    """The newest order of that intent."""
    intent = Intent.objects.get(position=position, purpose=purpose, step=step)
    return Order.objects.filter(intent_id=intent.pk).latest("pk")


def there(position: Position) -> Position:
    """Whatever is ready is taken by the venue, where it waits."""
    ready = Order.objects.filter(status=S.READY, is_exit=True).exclude(trigger="")
    for order in ready:
        order.exchange_order_id = order.stop_order_id = f"vs-{order.pk}"
        order.status, order.sent_at, order.opened_at = S.OPENED, timezone.now(), timezone.now()
        order.save()
    return position


def rested(exits: dict[str, Any] | None = None, **fields: Any) -> Position:
    """The same when all of it waits at the venue."""
    return there(looked_at(held(exits, **fields)))


def price(position: Position, last: str) -> None:
    Position.objects.filter(pk=position.pk).update(folded_at=timezone.now())
    make_quote(position.market, last)


ALL_AT_WORK: Rows = [
    ("REST_STOP", 0, Decimal("0.02"), Decimal(49000)),
    ("REST_TARGET", 1, Decimal("0.01"), Decimal(52000)),
    ("REST_TARGET", 2, Decimal("0.01"), Decimal(53000)),
]


def test_a_stop_over_all_and_every_target_rest_and_a_second_look_changes_nothing() -> None:
    position = looked_at(held())
    first = at_work(position)

    there(position)
    looked_at(position)

    assert first == at_work(position) == ALL_AT_WORK
    stop, target = of(position, "REST_STOP"), of(position, "REST_TARGET", 1)
    assert (stop.side, stop.trigger, stop.reason, stop.is_exit) == ("SELL", "FALLING", "STOP_LOSS", True)
    assert (target.side, target.trigger, target.reason) == ("SELL", "RISING", "TAKE_PROFIT")
    assert Order.objects.filter(is_exit=True).count() == 3


def test_what_rests_is_sent_by_the_lane_of_the_exits(transactional_db: None, bells: Any) -> None:
    position = looked_at(held())

    ids = sorted(pk for bell in bells.rung("exits.submit") for pk in bell["order_ids"])

    assert ids == sorted(Order.objects.filter(status=S.READY, is_exit=True).values_list("pk", flat=True))
    assert len(at_work(position)) == 3


def test_a_stop_that_is_no_whole_tick_is_set_towards_the_price() -> None:
    long = looked_at(held({"stop_loss_percent": "2.00011"}))

    assert at_work(long) == [("REST_STOP", 0, Decimal("0.02"), Decimal("49000.0"))]
    assert long.stop_price == Decimal("48999.945")


def test_a_position_that_does_not_rest_is_tracked_only() -> None:
    position = looked_at(make_open_position(make_session()))

    assert at_work(position) == []


def test_where_the_venue_rests_no_exits_it_is_tracked_only_and_told_once() -> None:
    session = make_session(make_account(exchange=make_exchange("kraken", ccxt_id="kraken")))
    position = make_open_position(session, is_resting=True)
    Position.objects.filter(pk=position.pk).update(status=PositionStatus.PENDING, entered=0, quantity=0, folded_at=None)

    looked_at(looked_at(position))

    assert at_work(position) == []
    assert events("positions", event="TRACKED_ONLY") == [{"event": "TRACKED_ONLY", "reason": "VENUE_RESTS_NO_EXITS"}]
    price(position, "48900")
    assert looked_at(position).exit_reason == "STOP_LOSS"


def test_targets_are_only_tracked_where_the_account_has_coins_enough_for_both() -> None:
    position = held()
    make_balance(position.account, "0.03", "BTC")

    looked_at(position)

    assert at_work(position) == ALL_AT_WORK[:1]


def test_when_more_is_held_the_group_is_cancelled_and_placed_anew_after_its_end_is_certain() -> None:
    position = rested()
    entry = make_order(position, status=S.OPENED, step=1)
    make_fill(entry, quantity="0.01")

    looked_at(position)
    asked = list(Order.objects.filter(is_cancel_wanted=True).values_list("pk", flat=True))
    looked_at(position)
    before = at_work(position)
    for order in Order.objects.filter(pk__in=asked):
        finish(order, S.CANCELED)
    looked_at(position)

    assert before == ALL_AT_WORK
    assert at_work(position) == [
        ("REST_STOP", 0, Decimal("0.03"), Decimal(49000)),
        ("REST_TARGET", 1, Decimal("0.015"), Decimal(52000)),
        ("REST_TARGET", 2, Decimal("0.015"), Decimal(53000)),
    ]
    assert events("alerts") == []


def test_a_trailing_stop_takes_the_resting_one_along_and_only_by_whole_ticks() -> None:
    position = rested({"stop_loss_percent": "10", "trailing_percent": "2", "trailing_activation_percent": "4"})
    feed = position.session.config.feed
    assert position.opened_at is not None

    def candle(high: str, after: int) -> None:
        open_at = Timeframe.M1.open_of(timezone.now()) + after * timedelta(minutes=1)
        top = Decimal(high)
        candles_store(feed.pk, [CandleReport(open_at, top, top, top, top, Decimal(1))])
        Feed.objects.filter(pk=feed.pk).update(last_open_at=open_at)
        looked_at(position)

    candle("53000", 1)
    first = of(position, "REST_STOP")
    finish(first, S.CANCELED)
    looked_at(position)
    there(position)
    moved = at_work(position)
    candle("53000.05", 2)

    assert first.is_cancel_wanted
    assert moved == [("REST_STOP", 0, Decimal("0.02"), Decimal(51940))]
    assert of(position, "REST_STOP").reason == "TRAILING_STOP"
    candle("53100", 3)
    assert of(position, "REST_STOP").is_cancel_wanted


def test_a_stop_that_fired_closes_the_position_for_its_reason_and_the_targets_are_cancelled() -> None:
    position = rested()
    finish(of(position, "REST_STOP"), price="48990")

    looked_at(position)

    assert (position.status, position.exit_reason, position.quantity) == ("CLOSED", "STOP_LOSS", 0)
    targets = Order.objects.filter(trigger="RISING")
    assert list(targets.values_list("is_cancel_wanted", flat=True)) == [True, True]
    assert not Order.objects.filter(is_exit=True, trigger="").exists()


def test_a_target_that_filled_is_done_and_the_stop_is_over_what_is_left_which_it_then_sells() -> None:
    position = rested()
    finish(of(position, "REST_TARGET", 1), price="52000")
    looked_at(position)
    done = (position.targets_done, position.quantity)
    finish(of(position, "REST_STOP"), S.CANCELED)
    looked_at(there(looked_at(position)))
    between = at_work(position)

    finish(of(position, "REST_STOP"), price="49000")
    looked_at(position)

    assert done == (1, Decimal("0.01"))
    assert between == [
        ("REST_STOP", 0, Decimal("0.01"), Decimal(49000)),
        ("REST_TARGET", 2, Decimal("0.01"), Decimal(53000)),
    ]
    assert (position.status, position.exit_reason) == ("CLOSED", "STOP_LOSS")


def test_a_stop_carried_out_in_part_is_carried_through_by_us() -> None:
    position = rested()
    finish(of(position, "REST_STOP"), S.CANCELED, filled="0.005", price="48990")
    looked_at(position)
    for order in Order.objects.filter(status=S.OPENED):
        assert order.is_cancel_wanted
        finish(order, S.CANCELED)

    looked_at(position)

    exit_ = of(position, "EXIT")
    assert (position.exit_reason, exit_.quantity, exit_.status) == ("STOP_LOSS", Decimal("0.015"), S.READY)


def test_what_a_stop_left_and_cannot_be_sold_is_dust() -> None:
    position = rested(quantity="0.020005")
    finish(of(position, "REST_STOP"), price="48990")
    looked_at(position)
    for order in Order.objects.filter(status=S.OPENED, is_cancel_wanted=True):
        finish(order, S.CANCELED)

    looked_at(position)

    assert (position.status, position.exit_reason, position.dust) == ("CLOSED", "STOP_LOSS", Decimal("0.000005"))


def test_the_venue_has_a_few_seconds_before_the_tracked_exit_takes_over() -> None:
    position = rested()
    price(position, "48900")
    looked_at(looked_at(position))
    left_alone = (position.exit_reason, Order.objects.filter(is_cancel_wanted=True).count())
    Position.objects.update(resting_met_at=timezone.now() - resting.VENUE_HAS)

    looked_at(position)
    sent_early = Order.objects.filter(is_exit=True, trigger="").exists()
    for order in Order.objects.filter(status=S.OPENED, is_cancel_wanted=True):
        finish(order, S.CANCELED)
    looked_at(position)

    assert left_alone == ("", 0)
    assert (position.exit_reason, sent_early) == ("STOP_LOSS", False)
    assert of(position, "EXIT").quantity == Decimal("0.02")


def test_a_price_that_goes_back_leaves_the_venue_its_whole_time_at_the_next_crossing() -> None:
    position = rested()
    price(position, "48900")
    met_at = looked_at(position).resting_met_at
    price(position, "49500")

    looked_at(position)

    assert met_at is not None
    assert position.resting_met_at is None


@pytest.mark.parametrize("how", ["by hand", "stop"])
def test_whoever_leaves_the_position_has_the_group_cancelled_first(how: str) -> None:
    position = rested()
    if how == "stop":
        TradingSession.objects.update(status=SessionStatus.STOPPING)
    else:
        session_exit(position.session_id)
    looked_at(looked_at(position))
    waiting = Order.objects.filter(is_exit=True, is_cancel_wanted=True, status=S.OPENED)
    count, too_early = waiting.count(), Order.objects.filter(is_exit=True, trigger="").exists()
    finish(of(position, "REST_TARGET", 1), S.CANCELED, filled="0.004", price="52000")
    for order in waiting:
        finish(order, S.CANCELED)

    looked_at(position)

    assert (count, too_early) == (3, False)
    assert of(position, "EXIT").quantity == Decimal("0.016")
    assert at_work(position) == []


@pytest.mark.parametrize(("seconds", "sold"), [(9, []), (11, [Decimal("0.02")])])
def test_a_stop_that_got_lost_on_its_way_keeps_an_exit_waiting_for_seconds_only(
    seconds: int, sold: list[Decimal]
) -> None:
    position = rested({"stop_loss_percent": "2", "targets": []})
    lost = of(position, "REST_STOP")
    sent_at = timezone.now() - timedelta(seconds=seconds)
    Order.objects.filter(pk=lost.pk).update(status=S.UNKNOWN, sent_at=sent_at, exchange_order_id="", stop_order_id="")
    price(position, "48900")
    looked_at(position)

    looked_at(position)

    lost.refresh_from_db()
    assert (lost.status, lost.is_cancel_wanted) == (S.UNKNOWN, True)
    exits = Order.objects.filter(intent_id__in=position.intents.filter(purpose="EXIT").values("pk"))
    assert [order.quantity for order in exits] == sold
    assert position.exit_reason == "STOP_LOSS"


def test_a_part_that_is_due_is_sold_by_us_only_after_the_group_has_gone() -> None:
    position = rested()
    price(position, "52100")
    looked_at(position)
    Position.objects.update(resting_met_at=timezone.now() - resting.VENUE_HAS)
    looked_at(position)
    early = Order.objects.filter(is_exit=True, trigger="").exists()
    for order in Order.objects.filter(status=S.OPENED, is_cancel_wanted=True):
        finish(order, S.CANCELED)
    price(position, "52100")

    looked_at(position)

    assert early is False
    assert of(position, "EXIT", 1).quantity == Decimal("0.01")
    assert at_work(position) == []
    finish(of(position, "EXIT", 1), price="52100")
    looked_at(position)
    assert at_work(position) == [
        ("REST_STOP", 0, Decimal("0.01"), Decimal(49000)),
        ("REST_TARGET", 2, Decimal("0.01"), Decimal(53000)),
    ]


def test_a_suspended_session_keeps_what_rests() -> None:
    position = rested()
    TradingSession.objects.update(status=SessionStatus.SUSPENDED)

    looked_at(position)

    assert (at_work(position), Order.objects.filter(is_cancel_wanted=True).count()) == (ALL_AT_WORK, 0)


@pytest.mark.parametrize("status", [S.REJECTED, S.NOT_PLACED, S.CANCELED])
def test_one_that_was_refused_or_vanished_is_tried_again_ever_later_and_told_once(status: str) -> None:
    position = rested({"stop_loss_percent": "2"})
    pauses = []
    for _ in range(3):
        finish(of(position, "REST_STOP"), status)
        looked_at(position)
        again = of(position, "REST_STOP")
        assert again.status == S.READY
        assert again.not_before_at is not None
        pauses.append(round((again.not_before_at - timezone.now()).total_seconds()))
        there(position)

    assert pauses == [2, 4, 8]
    [told] = events("alerts", alert="RESTING_EXIT_FAILED")
    assert (told["what"], told["status"]) == ("REST_STOP", status)


def test_a_lost_word_of_one_that_vanished_is_found_by_the_sweep(transactional_db: None, bells: Any) -> None:
    position = rested()
    finish(of(position, "REST_STOP"), S.CANCELED)
    bells.clear()

    sweep_exposed_sessions()

    assert bells.rung("exits.track") == [{"session_ids": [position.session_id]}]


def test_what_was_left_behind_is_found_and_cancelled_once(transactional_db: None, bells: Any) -> None:
    rested()
    Position.objects.update(status=PositionStatus.CLOSED)
    bells.clear()
    sweep_exposed_sessions()
    [bell] = bells.rung("exits.cancel_resting")
    bells.clear()

    cancel_resting(**bell)
    looks = bells.rung("exits.look")
    cancel_resting(**bell)
    sweep_exposed_sessions()

    assert len(bell["order_ids"]) == 3
    assert sorted(pk for look in looks for pk in look["order_ids"]) == sorted(bell["order_ids"])
    assert Order.objects.filter(is_cancel_wanted=True).count() == 3
    assert bells.rung("exits.look") == looks
    assert bells.rung("exits.cancel_resting") == []


def test_what_is_held_again_when_the_sweep_s_bell_comes_is_kept() -> None:
    position = rested()

    cancel_resting(list(Order.objects.filter(is_exit=True).values_list("pk", flat=True)))

    assert not Order.objects.filter(is_cancel_wanted=True).exists()
    assert at_work(position) == ALL_AT_WORK


def test_many_looks_at_once_let_one_group_rest(transactional_db: None, bells: Any) -> None:
    position = held()

    assert at_once([lambda: sessions_track([position.session_id])] * 5) == [None] * 5

    assert at_work(position) == ALL_AT_WORK
    assert Order.objects.filter(is_exit=True).count() == 3


def bought(venue: Venue) -> Position:
    """0.02 BTC really bought there at 50,000, its exits resting."""
    entry = venue.ready_order()
    position = Position.objects.get()
    Position.objects.update(is_resting=True, exits=TWO_TARGETS)
    services.order_submit(entry.pk)
    moved(position)
    return position


def moved(position: Position) -> Position:
    """Everything that is due is done: sent, looked at, tracked."""
    for _ in range(3):
        looked_at(position)
        for order in Order.objects.filter(status=S.READY, is_exit=True):
            services.order_submit(let_pass(order, 3).pk)
        for order in Order.objects.filter(status__in=(S.OPENED, S.UNKNOWN, S.SUBMITTING), is_exit=True):
            lookups.order_look(let_pass(order, 20).pk)
    return looked_at(position)


def sold(position: Position) -> Decimal:
    total = Fill.objects.filter(side="SELL").aggregate(sum=Sum("quantity"))["sum"]
    return total or Decimal(0)


def test_a_stop_that_fires_at_the_venue_while_nobody_is_at_home_is_recorded(venue: Venue) -> None:
    position = bought(venue)
    waiting = at_work(position)
    venue.price("51000")
    venue.price("48900")  # and nobody looks
    nobody = sold(position)

    moved(position)

    assert [row[:2] for row in waiting] == [("REST_STOP", 0), ("REST_TARGET", 1), ("REST_TARGET", 2)]
    assert (nobody, sold(position), venue.balance("BTC")) == (Decimal(0), Decimal("0.02"), Decimal(0))
    assert (position.status, position.exit_reason) == ("CLOSED", "STOP_LOSS")
    assert at_work(position) == []


def test_a_target_fills_at_the_venue_and_the_stop_that_follows_sells_the_rest(venue: Venue) -> None:
    position = bought(venue)
    venue.price("52100")
    moved(position)
    done, waiting = position.targets_done, at_work(position)
    venue.price("48900")

    moved(position)

    assert (done, [row[:3] for row in waiting]) == (
        1,
        [("REST_STOP", 0, Decimal("0.01")), ("REST_TARGET", 2, Decimal("0.01"))],
    )
    assert (position.status, position.exit_reason) == ("CLOSED", "STOP_LOSS")
    assert (sold(position), venue.balance("BTC"), at_work(position)) == (Decimal("0.02"), Decimal(0), [])


def test_a_stop_that_fires_just_before_it_is_cancelled_sells_once(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    position = bought(venue)
    session_exit(position.session_id)
    looked_at(position)
    happens_before(monkeypatch, lookups, "_cancel_if_wanted", lambda: venue.price("48900"))

    moved(position)

    assert (position.status, sold(position), venue.balance("BTC")) == ("CLOSED", Decimal("0.02"), Decimal(0))
    assert at_work(position) == []


def test_lost_answers_of_placing_and_cancelling_leave_one_group_and_sell_once(venue: Venue) -> None:
    venue.fault(method="POST", path="/api/v1/stop-order", when="after", kind="drop", count=3)
    position = bought(venue)
    placed = len(venue.requests_of("POST", "/api/v1/stop-order"))
    waiting = at_work(position)
    venue.fault(method="DELETE", path="/api/v1/stop-order/*", when="after", kind="drop", count=3)
    session_exit(position.session_id)

    moved(moved(position))

    # Its entry slipped to 50,002.5.
    assert placed == 3
    assert waiting == [
        ("REST_STOP", 0, Decimal("0.02"), Decimal("49002.5")),
        ("REST_TARGET", 1, Decimal("0.01"), Decimal("52002.6")),
        ("REST_TARGET", 2, Decimal("0.01"), Decimal("53002.7")),
    ]
    assert (position.status, position.exit_reason, at_work(position)) == ("CLOSED", "MARKET_EXIT", [])
    assert (sold(position), venue.balance("BTC")) == (Decimal("0.02"), Decimal(0))
