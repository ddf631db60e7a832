"""What a trader may decide about a difference: done once, by the same rows and the same protocol as all trading."""

from __future__ import annotations

from decimal import Decimal

import pytest
from django.db.models import F

from domain.orders import OrderStatus
from money.book import account_book
from orders import lookups, services
from orders.models import Fill, Order
from positions.late import positions_take_up
from positions.models import Discrepancy, Position
from positions.models import DiscrepancyKind as Kind
from positions.models import DiscrepancyStatus as Status
from positions.reconciliation import account_reconcile
from positions.resolutions import CHOICES, UnableToResolve, discrepancy_resolve
from positions.services import session_exit, sessions_track
from sessions.models import SessionStatus, TradingSession
from sessions.services import session_stop
from tests.conftest import Bells
from tests.factories import (
    KEY,
    events,
    finish,
    let_pass,
    make_config,
    make_feed,
    make_order,
    make_position,
    make_session,
)
from tests.race import at_once
from tests.reconciliation.conftest import ByHand, held, lost_entry
from tests.venue import Venue

S = OrderStatus


def the_only(venue: Venue) -> Discrepancy:
    [row] = account_reconcile(venue.account.pk)
    return row


def submit_what_is_ready() -> None:
    for order in Order.objects.filter(status=S.READY):
        services.order_submit(order.pk)


def test_a_sale_by_hand_adopted_ends_the_position_with_what_it_brought(
    venue: Venue, position: Position, by_hand: ByHand
) -> None:
    venue.price("51000")
    by_hand("sell", "0.02")
    row = the_only(venue)

    discrepancy_resolve(row.pk, "ADOPT", actor="alice")

    position.refresh_from_db()
    sale = Order.objects.get(is_foreign=True)
    entry = Fill.objects.get(side="BUY")
    exit_ = Fill.objects.get(side="SELL")
    assert (position.status, position.quantity) == ("CLOSED", Decimal(0))
    assert position.realized_pnl == (exit_.price - entry.price) * Decimal("0.02") - entry.fee - exit_.fee
    assert (sale.is_exit, position.intents.get(purpose="EXIT").pk) == (True, sale.intent_id)
    assert account_reconcile(venue.account.pk) == []
    row.refresh_from_db()
    assert (row.status, row.resolution, row.resolved_by) == ("RESOLVED", "ADOPT", "alice")
    told = events("alerts", alert="DISCREPANCY_RESOLVED")
    assert [(event["kind"], event["resolution"]) for event in told] == [("MANUAL_CLOSE", "ADOPT")]
    assert len(venue.requests_of("POST", "/api/v1/hf/orders")) == 2  # the entry, and the sale by hand


def test_a_part_sold_by_hand_adopted_leaves_the_rest_protected(
    venue: Venue, position: Position, by_hand: ByHand
) -> None:
    by_hand("sell", "0.015")

    discrepancy_resolve(the_only(venue).pk, "ADOPT", actor="alice")

    position.refresh_from_db()
    assert (position.status, position.quantity, position.stop_price) == ("OPEN", Decimal("0.005"), Decimal("49002.45"))
    assert account_reconcile(venue.account.pk) == []


def test_a_purchase_adopted_is_one_more_entry(venue: Venue, position: Position, by_hand: ByHand) -> None:
    venue.price("50500")
    by_hand("buy", "0.02")

    discrepancy_resolve(the_only(venue).pk, "ADOPT", actor="alice")

    position.refresh_from_db()
    prices = Fill.objects.values_list("price", flat=True)
    assert (position.status, position.quantity) == ("OPEN", Decimal("0.04"))
    assert position.entry_price == sum(prices) / 2
    assert position.stop_price == position.entry_price * Decimal("0.98")
    assert account_reconcile(venue.account.pk) == []


def test_nothing_to_adopt_an_order_onto_is_said_and_changes_nothing(
    venue: Venue, session: TradingSession, by_hand: ByHand
) -> None:
    by_hand("buy", "0.02")
    row = the_only(venue)

    with pytest.raises(UnableToResolve, match="wanted exactly one long position on BTC/USDT, was none or several"):
        discrepancy_resolve(row.pk, "ADOPT", actor="alice")

    row.refresh_from_db()
    assert (row.status, events("alerts", alert="DISCREPANCY_RESOLVED")) == ("OPEN", [])


def test_an_order_at_work_is_not_adopted_for_it_would_stand_in_the_way_of_the_stop(
    venue: Venue, position: Position, by_hand: ByHand
) -> None:
    by_hand("sell", "0.02", "60000")

    with pytest.raises(UnableToResolve, match="wanted an order that is done, was OPENED"):
        discrepancy_resolve(the_only(venue).pk, "ADOPT", actor="alice")


def test_a_sale_of_more_than_the_position_holds_is_not_adopted(
    venue: Venue, position: Position, by_hand: ByHand
) -> None:
    by_hand("buy", "0.01")
    by_hand("sell", "0.03")
    [row] = [one for one in account_reconcile(venue.account.pk) if one.kind == Kind.MANUAL_CLOSE]

    with pytest.raises(UnableToResolve, match="wanted at most the 0.02 held, was a sale of 0.03"):
        discrepancy_resolve(row.pk, "ADOPT", actor="alice")


def test_an_order_of_others_at_work_is_cancelled_when_told_to(
    venue: Venue, session: TradingSession, by_hand: ByHand
) -> None:
    by_hand("buy", "0.01", "48000")

    discrepancy_resolve(the_only(venue).pk, "CLOSE", actor="alice")
    assert account_reconcile(venue.account.pk) == []  # decided, not told of again

    order = Order.objects.get(is_foreign=True)
    lookups.order_look(order.pk)
    order.refresh_from_db()
    assert order.status == S.CANCELED
    assert [one["status"] for one in venue.orders()] == ["canceled"]


@pytest.mark.parametrize(("side", "back"), [("buy", "SELL"), ("sell", "BUY")])
def test_what_others_traded_is_traded_back_once(
    venue: Venue, session: TradingSession, by_hand: ByHand, bells: Bells, side: str, back: str
) -> None:
    venue.simulator.open_account(KEY, USDT="10000", BTC="1")
    for row in account_reconcile(venue.account.pk):
        discrepancy_resolve(row.pk, "ADOPT", actor="alice")
    by_hand(side, "0.1")
    row = the_only(venue)
    bells.clear()

    results = at_once([lambda: discrepancy_resolve(row.pk, "CLOSE", actor="alice")] * 3)

    assert sum(isinstance(result, UnableToResolve) for result in results) == 2
    order = Order.objects.get(is_foreign=False)
    assert (order.side, order.quantity, order.status) == (back, Decimal("0.1"), S.READY)
    assert bells.rung("exits.submit") == [{"order_ids": [order.pk]}]
    submit_what_is_ready()
    assert venue.balance("BTC") == Decimal(1)
    assert account_reconcile(venue.account.pk) == []


def test_a_position_resized_is_what_the_account_holds_and_no_money_moves_for_it(
    venue: Venue, position: Position
) -> None:
    usdt = venue.balance("USDT")
    venue.simulator.open_account(KEY, USDT=str(usdt), BTC="0.005")
    rows = {row.kind: row for row in account_reconcile(venue.account.pk)}

    discrepancy_resolve(rows[Kind.MANUAL_CLOSE].pk, "RESIZE", actor="alice")
    discrepancy_resolve(rows[Kind.BALANCE_DRIFT].pk, "ADOPT", actor="alice")

    position.refresh_from_db()
    fill = Fill.objects.get(is_correction=True)
    assert (position.status, position.quantity, position.exited) == ("OPEN", Decimal("0.005"), Decimal("0.015"))
    assert (fill.trade_id, fill.price, fill.quantity) == (f"fix-{rows[Kind.MANUAL_CLOSE].pk}", 50000, Decimal("0.015"))
    assert account_reconcile(venue.account.pk) == []
    venue.account.refresh_from_db()
    book = account_book(venue.account)
    assert book is not None
    assert book.free_balance == usdt


def test_a_position_resized_to_nothing_is_closed(venue: Venue, position: Position) -> None:
    venue.simulator.open_account(KEY, USDT=str(venue.balance("USDT")), BTC="0")
    rows = {row.kind: row for row in account_reconcile(venue.account.pk)}

    discrepancy_resolve(rows[Kind.MANUAL_CLOSE].pk, "RESIZE", actor="alice")

    position.refresh_from_db()
    assert (position.status, position.quantity) == ("CLOSED", Decimal(0))
    assert not Order.objects.filter(status=S.READY).exists()


def test_a_position_closed_is_resized_and_its_rest_sold(venue: Venue, position: Position) -> None:
    venue.simulator.open_account(KEY, USDT=str(venue.balance("USDT")), BTC="0.005")
    rows = {row.kind: row for row in account_reconcile(venue.account.pk)}

    discrepancy_resolve(rows[Kind.MANUAL_CLOSE].pk, "CLOSE", actor="alice")

    exit_ = Order.objects.get(status=S.READY)
    assert (exit_.side, exit_.quantity, exit_.reason) == ("SELL", Decimal("0.005"), "MARKET_EXIT")


def test_an_exit_under_way_is_waited_for_before_a_position_is_resized(venue: Venue, position: Position) -> None:
    venue.simulator.open_account(KEY, USDT=str(venue.balance("USDT")), BTC="0.005")
    rows = {row.kind: row for row in account_reconcile(venue.account.pk)}
    make_order(position, purpose="EXIT", status=S.READY)

    with pytest.raises(UnableToResolve, match="wanted a position without an exit under way"):
        discrepancy_resolve(rows[Kind.MANUAL_CLOSE].pk, "RESIZE", actor="alice")

    assert not Fill.objects.filter(is_correction=True).exists()


def test_a_drift_ignored_is_told_of_again_only_when_it_changes(venue: Venue, session: TradingSession) -> None:
    venue.simulator.open_account(KEY, USDT="9000")
    discrepancy_resolve(the_only(venue).pk, "IGNORE", actor="alice")

    assert account_reconcile(venue.account.pk) == []
    venue.simulator.open_account(KEY, USDT="8000")

    row = the_only(venue)
    assert (row.expected, row.found) == (Decimal(10000), Decimal(8000))


def test_a_drift_adopted_is_where_the_account_goes_on_from(venue: Venue, session: TradingSession) -> None:
    venue.simulator.open_account(KEY, USDT="9000")
    discrepancy_resolve(the_only(venue).pk, "ADOPT", actor="alice")
    assert account_reconcile(venue.account.pk) == []

    venue.simulator.open_account(KEY, USDT="8000")

    row = the_only(venue)
    assert (row.expected, row.found) == (Decimal(9000), Decimal(8000))


def test_an_order_of_others_ignored_is_never_told_of_again_whatever_it_does(
    venue: Venue, session: TradingSession, by_hand: ByHand
) -> None:
    by_hand("buy", "0.01", "48000")
    discrepancy_resolve(the_only(venue).pk, "IGNORE", actor="alice")
    venue.price("47900")

    assert account_reconcile(venue.account.pk) == []
    order = Order.objects.get(is_foreign=True)
    assert (order.status, order.filled) == (S.CLOSED, Decimal("0.01"))


def test_a_late_order_is_sold_when_told_to(venue: Venue, session: TradingSession) -> None:
    lost_entry(venue, session)
    held(session)
    row = the_only(venue)

    discrepancy_resolve(row.pk, "CLOSE", actor="alice")
    submit_what_is_ready()

    assert venue.balance("BTC") == Decimal("0.02")
    assert account_reconcile(venue.account.pk) == []


@pytest.mark.parametrize("kind", sorted(CHOICES))
def test_only_what_a_kind_allows_may_be_decided(venue: Venue, kind: str) -> None:
    row = Discrepancy.objects.create(account=venue.account, kind=kind, subject="x", status=Status.OPEN)

    for choice in ("ADOPT", "CLOSE", "IGNORE", "RESIZE", "VANISHED", "RECORDED", "", "x" * 400):
        if choice not in CHOICES[kind]:
            with pytest.raises(UnableToResolve, match=f"for {kind} wanted"):
                discrepancy_resolve(row.pk, choice, actor="alice")

    row.refresh_from_db()
    assert row.status == "OPEN"


def test_what_was_decided_is_not_decided_again(venue: Venue, session: TradingSession) -> None:
    venue.simulator.open_account(KEY, USDT="9000")
    row = the_only(venue)
    discrepancy_resolve(row.pk, "IGNORE", actor="alice")

    with pytest.raises(UnableToResolve, match="wanted an open difference, was RESOLVED: IGNORE by alice"):
        discrepancy_resolve(row.pk, "ADOPT", actor="bob")

    assert venue.account.anchors.get(currency="USDT").total == Decimal(10000)


def test_a_stop_while_the_fate_of_an_entry_is_unknown_waits_for_it_and_sells_what_it_bought(
    venue: Venue, session: TradingSession
) -> None:
    order = make_order(make_position(session), status=S.READY, quantity=Decimal("0.02"))
    venue.fault(method="POST", path="/api/v1/hf/orders", when="after", kind="drop")
    assert services.order_submit(order.pk) == S.UNKNOWN

    session_stop(session.pk)
    sessions_track([session.pk])
    session.refresh_from_db()
    assert session.status == SessionStatus.STOPPING

    lookups.order_look(let_pass(order, 3).pk)
    sessions_track([session.pk])
    submit_what_is_ready()
    sessions_track([session.pk])

    session.refresh_from_db()
    assert (session.status, venue.balance("BTC")) == (SessionStatus.STOPPED, Decimal(0))
    assert [one["side"] for one in venue.orders()] == ["buy", "sell"]


def test_two_positions_on_a_market_take_no_order_of_others(venue: Venue, position: Position, by_hand: ByHand) -> None:
    held(make_session(venue.account, make_config(venue.account.owner, make_feed(venue.market))), "0.01")
    by_hand("buy", "0.01")

    with pytest.raises(UnableToResolve, match="was none or several"):
        discrepancy_resolve(the_only(venue).pk, "ADOPT", actor="alice")

    assert Position.objects.filter(entered=F("quantity")).count() == 2


@pytest.mark.parametrize(("choice", "left"), [("CLOSE", "0"), ("IGNORE", "0.02")])
def test_a_late_order_that_was_decided_about_is_not_taken_up_when_its_session_is_free(
    venue: Venue, session: TradingSession, choice: str, left: str
) -> None:
    lost_entry(venue, session)
    second = held(session)
    discrepancy_resolve(the_only(venue).pk, choice, actor="alice")
    submit_what_is_ready()
    session_exit(session.pk)
    sessions_track([session.pk])
    submit_what_is_ready()
    sessions_track([session.pk])
    second.refresh_from_db()
    assert second.status == "CLOSED"

    assert account_reconcile(venue.account.pk) == []

    submit_what_is_ready()
    assert not Position.objects.filter(status__in=("PENDING", "OPEN")).exists()
    assert venue.balance("BTC") == Decimal(left)


def test_a_late_order_that_its_session_has_taken_up_is_not_sold_beside_it(
    venue: Venue, session: TradingSession
) -> None:
    order = lost_entry(venue, session)
    second = held(session)
    row = the_only(venue)
    finish(make_order(second, purpose="EXIT", status=S.READY))
    sessions_track([session.pk])
    assert positions_take_up([order.pk]) == [session.pk]

    with pytest.raises(UnableToResolve, match="wanted an order that no position holds"):
        discrepancy_resolve(row.pk, "CLOSE", actor="alice")

    assert not Order.objects.filter(status=S.READY).exists()


def test_what_was_missing_of_two_positions_is_taken_off_once(venue: Venue, position: Position) -> None:
    held(make_session(venue.account, make_config(venue.account.owner, make_feed(venue.market))), "0.01")
    venue.simulator.open_account(KEY, USDT=str(venue.balance("USDT")), BTC="0.025")
    rows = [row for row in account_reconcile(venue.account.pk) if row.kind == Kind.MANUAL_CLOSE]
    assert [row.found for row in rows] == [Decimal("0.025")] * 2

    resolved = at_once([lambda row=row: discrepancy_resolve(row.pk, "RESIZE", actor="alice") for row in rows])

    [refused] = [result for result in resolved if isinstance(result, UnableToResolve)]
    assert "wait for the next comparison" in str(refused)
    assert sum(Position.objects.values_list("quantity", flat=True)) == Decimal("0.025")
    assert Kind.MANUAL_CLOSE not in {row.kind for row in account_reconcile(venue.account.pk)}


def test_a_position_is_not_resized_for_a_sale_that_was_adopted_already(
    venue: Venue, position: Position, by_hand: ByHand
) -> None:
    by_hand("sell", "0.004")
    by_hand("sell", "0.006")
    rows = {row.kind: row for row in account_reconcile(venue.account.pk)}
    discrepancy_resolve(rows[Kind.FOREIGN_ORDER].pk, "ADOPT", actor="alice")

    with pytest.raises(UnableToResolve, match="wanted figures that are still true"):
        discrepancy_resolve(rows[Kind.MANUAL_CLOSE].pk, "RESIZE", actor="alice")

    [row] = account_reconcile(venue.account.pk)
    discrepancy_resolve(row.pk, "ADOPT", actor="alice")
    position.refresh_from_db()
    assert (position.status, position.quantity) == ("OPEN", Decimal("0.01"))
    assert account_reconcile(venue.account.pk) == []


def test_one_sale_is_not_adopted_by_two_positions(venue: Venue, position: Position, by_hand: ByHand) -> None:
    second = held(make_session(venue.account, make_config(venue.account.owner, make_feed(venue.market))), "0.01")
    by_hand("sell", "0.005")
    rows = account_reconcile(venue.account.pk)

    discrepancy_resolve(rows[0].pk, "ADOPT", actor="alice")
    with pytest.raises(UnableToResolve):
        discrepancy_resolve(rows[1].pk, "ADOPT", actor="alice")

    for one, quantity in ((position, "0.015"), (second, "0.01")):
        sessions_track([one.session_id])
        one.refresh_from_db()
        assert one.quantity == Decimal(quantity)


def test_a_difference_whose_closing_came_to_nothing_is_filed_again(
    venue: Venue, session: TradingSession, by_hand: ByHand
) -> None:
    by_hand("buy", "0.01")
    discrepancy_resolve(the_only(venue).pk, "CLOSE", actor="alice")
    venue.fault(
        method="POST", path="/api/v1/hf/orders", when="before", kind="code", code="200004", msg="Balance insufficient!"
    )
    submit_what_is_ready()

    row = the_only(venue)

    assert (row.kind, row.found) == (Kind.FOREIGN_ORDER, Decimal("0.01"))
    discrepancy_resolve(row.pk, "CLOSE", actor="alice")
    submit_what_is_ready()
    assert account_reconcile(venue.account.pk) == []
    assert venue.balance("BTC") == 0


def test_a_late_order_is_open_until_somebody_decides_however_long_that_takes(
    venue: Venue, session: TradingSession
) -> None:
    order = lost_entry(venue, session)
    held(session)
    row = the_only(venue)
    let_pass(order, 2 * 86_400)

    assert the_only(venue).pk == row.pk
