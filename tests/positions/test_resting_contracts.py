"""Exits that rest at a venue of contracts: they only reduce, and what other sessions hold there is never theirs to close."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone

from domain.market import PositionSide
from domain.orders import LIVE_STATUSES, OrderStatus
from exchanges.models import Market
from orders import lookups
from orders.models import Fill, Order
from orders.services import order_submit
from positions.models import Intent, Position
from positions.reconciliation import account_reconcile
from positions.services import orders_follow, session_exit, sessions_track
from tests.conftest import Bells
from tests.contracts import FuturesVenue
from tests.factories import let_pass, make_config, make_open_position, make_order, make_quote, make_session
from tests.race import happens_before

S = OrderStatus
LONG, SHORT = PositionSide.LONG, PositionSide.SHORT
TWO_TARGETS = {"stop_loss_percent": "2", "targets": [{"percent": "4", "fraction": "0.5"}, {"percent": "6"}]}
STOP_ONLY = {"stop_loss_percent": "2", "targets": []}
ORDERS = "/api/v1/orders"
Rows = list[tuple[str, int, Any]]


def rested(futures: FuturesVenue, side: PositionSide = LONG, **exits: Any) -> Position:
    """Ten contracts entered at 50,000, whose stop and targets rest there."""
    position = futures.opened(side)
    Position.objects.filter(pk=position.pk).update(is_resting=True, exits=exits or TWO_TARGETS)
    return moved(position)


def moved(position: Position) -> Position:
    """Everything that is due is done: sent, looked at, tracked."""
    for _ in range(3):
        sessions_track([position.session_id])
        for order in Order.objects.filter(status=S.READY, is_exit=True):
            order_submit(let_pass(order, 3).pk)
        for order in Order.objects.filter(status__in=(S.OPENED, S.UNKNOWN, S.SUBMITTING), is_exit=True):
            lookups.order_look(let_pass(order, 20).pk)
    sessions_track([position.session_id])
    position.refresh_from_db()
    return position


def at_work(position: Position) -> Rows:
    """What rests or is about to: purpose, step and quantity."""
    intents = {one.pk: one for one in position.intents.all()}
    live = Order.objects.filter(intent_id__in=intents, status__in=LIVE_STATUSES, is_cancel_wanted=False)
    return sorted(
        (intents[one.intent_id].purpose, intents[one.intent_id].step, one.quantity) for one in live.exclude(trigger="")
    )


def waiting(futures: FuturesVenue) -> list[tuple[str, str, str, int]]:
    """What waits there: side, from where, the price, and how much."""
    stops = [one for one in futures.books["stopOrders"] if one["isActive"]]
    assert {(one["reduceOnly"], one["stopPriceType"], one["leverage"]) for one in stops} <= {(True, "TP", "5")}
    return sorted((one["side"], one["stop"], one["stopPrice"], one["size"]) for one in stops)


def held_there(futures: FuturesVenue) -> list[int]:
    return [one["currentQty"] for one in futures.books["positions"] if one["currentQty"]]


def sold(position: Position) -> Any:
    intents = position.intents.exclude(purpose="ENTRY").values("pk")
    return sum((fill.quantity for fill in Fill.objects.filter(order__intent_id__in=intents)), Decimal(0))


ALL_AT_WORK: Rows = [
    ("REST_STOP", 0, Decimal(10)), ("REST_TARGET", 1, Decimal(5)), ("REST_TARGET", 2, Decimal(5)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("side", "there"),
    [
        (LONG, [("sell", "down", "49000", 10), ("sell", "up", "52000", 5), ("sell", "up", "53000", 5)]),
        (SHORT, [("buy", "down", "47000", 5), ("buy", "down", "48000", 5), ("buy", "up", "51000", 10)]),
    ],
)
def test_a_stop_over_all_and_every_target_rest_and_a_second_look_changes_nothing(
    futures: FuturesVenue, side: PositionSide, there: list[Any]
) -> None:
    position = rested(futures, side)
    first = waiting(futures)

    moved(position)

    assert first == waiting(futures) == there
    assert at_work(position) == ALL_AT_WORK
    assert len(futures.requests_of("POST", ORDERS)) == 4


def test_what_rests_is_brought_in_step_with_what_was_added_and_what_was_taken(futures: FuturesVenue) -> None:
    position = rested(futures)
    entry = make_order(position, status=S.READY, step=1, quantity=Decimal(4), leverage=Decimal(5))
    order_submit(entry.pk)
    orders_follow([entry.pk])
    moved(position)
    added = waiting(futures)

    futures.price("52000")
    moved(position)

    assert added == [("sell", "down", "49000", 14), ("sell", "up", "52000", 7), ("sell", "up", "53000", 7)]
    assert (position.targets_done, position.quantity, held_there(futures)) == (1, 7, [7])
    assert waiting(futures) == [("sell", "down", "49000", 7), ("sell", "up", "53000", 7)]


@pytest.mark.parametrize(("side", "price"), [(LONG, "48900"), (SHORT, "51100")])
def test_a_stop_that_fires_while_nobody_is_at_home_is_recorded(
    futures: FuturesVenue, side: PositionSide, price: str
) -> None:
    position = rested(futures, side)
    futures.price(price)
    gone = held_there(futures)

    moved(position)

    assert (gone, sold(position), waiting(futures)) == ([], 10, [])
    assert (position.status, position.exit_reason, position.exit_price) == ("CLOSED", "STOP_LOSS", Decimal(price))
    assert futures.wallet() == 10_000 + position.realized_pnl
    stop = Order.objects.get(reason="STOP_LOSS", filled=10)
    assert (stop.status, stop.waits_for_price, stop.is_reduce_only) == (S.CLOSED, False, True)
    assert stop.exchange_order_id in {one["id"] for one in futures.books["orders"]}


def test_a_whipsaw_while_nobody_is_at_home_sells_what_was_held_and_turns_nothing_round(futures: FuturesVenue) -> None:
    position = rested(futures)
    for price in ("52100", "48900", "53100"):
        futures.price(price)
    there = held_there(futures)

    moved(position)

    assert (there, sold(position), at_work(position), waiting(futures)) == ([], 10, [], [])
    assert (position.status, position.quantity) == ("CLOSED", 0)
    assert futures.wallet() == 10_000 + position.realized_pnl
    assert account_reconcile(futures.account.pk) == []


def test_the_group_is_cancelled_before_all_is_sold_by_hand(futures: FuturesVenue) -> None:
    position = rested(futures)
    session_exit(position.session_id)
    sessions_track([position.session_id])
    early = Order.objects.filter(is_exit=True, trigger="").exists()

    moved(position)

    assert (early, waiting(futures), held_there(futures)) == (False, [], [])
    assert (position.status, position.exit_reason, sold(position)) == ("CLOSED", "MARKET_EXIT", 10)
    assert [one["status"] for one in futures.books["orders"]] == ["done", "done"]


def test_a_stop_that_fires_just_before_it_is_cancelled_sells_once(
    futures: FuturesVenue, monkeypatch: pytest.MonkeyPatch
) -> None:
    position = rested(futures)
    session_exit(position.session_id)
    sessions_track([position.session_id])
    happens_before(monkeypatch, lookups, "_cancel_if_wanted", lambda: futures.price("48900"))

    moved(position)

    assert (position.status, sold(position), held_there(futures), waiting(futures)) == ("CLOSED", 10, [], [])


def test_lost_answers_of_placing_and_cancelling_leave_one_group_and_sell_once(futures: FuturesVenue) -> None:
    position = futures.opened()
    Position.objects.update(is_resting=True, exits=TWO_TARGETS)
    futures.fault(method="POST", path=ORDERS, when="after", kind="drop", count=3)
    moved(position)
    placed, at_first = len(futures.requests_of("POST", ORDERS)), at_work(position)
    futures.fault(method="DELETE", path=f"{ORDERS}/*", when="after", kind="drop", count=3)
    session_exit(position.session_id)

    moved(moved(position))

    assert (placed, at_first) == (4, ALL_AT_WORK)
    assert (position.status, position.exit_reason, at_work(position)) == ("CLOSED", "MARKET_EXIT", [])
    assert (sold(position), held_there(futures), waiting(futures)) == (10, [], [])


def test_what_the_venue_liquidates_takes_its_resting_stop_along(futures: FuturesVenue) -> None:
    position = rested(futures, stop_loss_percent="30", targets=[], liquidation_guard_percent=None)
    before = waiting(futures)

    futures.price("39000")  # liquidated at 40201.1
    account_reconcile(futures.account.pk)
    moved(position)

    assert before == [("sell", "down", "35000", 10)]
    assert (position.status, position.exit_reason, waiting(futures)) == ("CLOSED", "LIQUIDATED", [])
    assert (futures.wallet(), held_there(futures)) == (10_000 + position.realized_pnl, [])
    assert account_reconcile(futures.account.pk) == []


# -- several positions on one market of one account ------------------------------------------------------------------------


def test_beside_another_session_each_rests_its_stop_and_targets_are_tracked(
    futures: FuturesVenue, bells: Bells
) -> None:
    first = rested(futures)
    alone = at_work(first)
    bells.clear()
    second = futures.opened(LONG, 5)
    Position.objects.filter(pk=second.pk).update(is_resting=True, exits=TWO_TARGETS)
    rung = bells.rung("exits.track")

    moved(moved(first))
    moved(second)

    assert alone == ALL_AT_WORK
    assert {"session_ids": [first.session_id]} in rung
    assert (at_work(first), at_work(second)) == ([("REST_STOP", 0, 10)], [("REST_STOP", 0, 5)])


def test_a_whipsaw_closes_nothing_that_another_session_holds(futures: FuturesVenue) -> None:
    first = rested(futures)
    second = futures.opened(LONG, 5)
    moved(moved(first))

    for price in ("48900", "52100", "53100"):
        futures.price(price)
    there = held_there(futures)
    moved(first)
    second.refresh_from_db()

    assert (there, held_there(futures)) == ([5], [5])
    assert (first.status, sold(first), second.status, second.quantity) == ("CLOSED", 10, "OPEN", 5)
    assert waiting(futures) == []


def test_targets_rest_again_when_a_position_is_alone(futures: FuturesVenue) -> None:
    first = rested(futures)
    second = futures.opened(LONG, 5)
    moved(moved(first))
    session_exit(second.session_id)
    moved(second)

    moved(first)

    assert (second.status, held_there(futures)) == ("CLOSED", [10])
    assert at_work(first) == ALL_AT_WORK


@pytest.mark.parametrize(("by_hand", "rest"), [("buy", ALL_AT_WORK[:1]), ("sell", ALL_AT_WORK)])
def test_targets_are_only_tracked_where_more_is_held_by_hand(futures: FuturesVenue, by_hand: str, rest: Rows) -> None:
    assert account_reconcile(futures.account.pk) == []
    position = futures.opened()
    account_reconcile(futures.account.pk)
    futures.by_hand(by_hand, 3)
    account_reconcile(futures.account.pk)
    Position.objects.update(is_resting=True, exits=TWO_TARGETS)

    moved(position)

    assert at_work(position) == rest


def held(**fields: Any) -> Position:
    """Ten contracts of a market that nobody can be asked about."""
    session = make_session()
    market = session.config.feed.market
    Market.objects.filter(pk=market.pk).update(kind=Market.Kind.LINEAR_FUTURE, lot_size=1, min_quantity=1)
    return make_open_position(session, quantity="10", exits=STOP_ONLY, is_resting=True, **fields)


def beside(position: Position, side: PositionSide) -> Position:
    """A position of another session of the account on the same market."""
    session = make_session(position.account, make_config(position.account.owner, position.session.config.feed))
    return make_open_position(session, quantity="4", side=side, exits={})


def there(position: Position) -> Order:
    """Its stop waits at the venue."""
    sessions_track([position.session_id])
    intent = Intent.objects.get(position=position, purpose="REST_STOP")
    order = Order.objects.get(intent_id=intent.pk)
    order.exchange_order_id = order.stop_order_id = f"stop-{order.pk}"
    order.status, order.sent_at, order.opened_at = S.OPENED, timezone.now(), timezone.now()
    order.save()
    return order


@pytest.mark.django_db
def test_nothing_rests_beside_a_position_of_the_other_side() -> None:
    position = held()
    stop = there(position)
    other = beside(position, SHORT)
    Position.objects.filter(pk=other.pk).update(is_resting=True, exits=STOP_ONLY)

    sessions_track([position.session_id, other.session_id])

    stop.refresh_from_db()
    assert (stop.is_cancel_wanted, at_work(position), at_work(other)) == (True, [], [])
    position.refresh_from_db()
    assert position.stop_price == 49_000


@pytest.mark.django_db
@pytest.mark.parametrize(("has_other", "sent"), [(False, [Decimal(10)]), (True, [])])
def test_a_stop_that_got_lost_is_waited_for_to_its_certain_end_beside_what_it_could_sell(
    has_other: bool, sent: list[Decimal]
) -> None:
    position = held()
    lost = there(position)
    if has_other:
        beside(position, LONG)
    sent_at = timezone.now() - timedelta(seconds=11)
    Order.objects.filter(pk=lost.pk).update(status=S.UNKNOWN, sent_at=sent_at, exchange_order_id="", stop_order_id="")
    Position.objects.filter(pk=position.pk).update(folded_at=timezone.now())
    make_quote(position.market, "48900")

    sessions_track([position.session_id])
    sessions_track([position.session_id])

    position.refresh_from_db()
    exits = Order.objects.filter(intent_id__in=position.intents.filter(purpose="EXIT").values("pk"))
    assert (position.exit_reason, [order.quantity for order in exits]) == ("STOP_LOSS", sent)
