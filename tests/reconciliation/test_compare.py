"""Comparing an account with its venue: each difference is filed once, renewed while true, and closed when it is not."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone

from domain.orders import OrderStatus
from exchanges.ccxt_gateway import CcxtGateway
from exchanges.gateway import ExchangeUnavailable
from exchanges.models import Account
from money.book import account_book
from orders import services
from orders.ledger import order_settle
from orders.lookups import order_look
from orders.models import Fill, Order
from positions import reconciliation
from positions.models import Discrepancy, Position, PositionStatus, Reconciliation
from positions.models import DiscrepancyKind as Kind
from positions.reconciliation import account_reconcile, account_reconcile_if_due, accounts_to_reconcile
from positions.services import sessions_track
from positions.tasks import follow_orders, reconcile, sweep_sessions
from sessions.models import SessionStatus, TradingSession
from tests.conftest import Bells
from tests.factories import (
    KEY,
    PASSPHRASE,
    SECRET,
    events,
    make_config,
    make_feed,
    make_order,
    make_position,
    make_session,
)
from tests.race import at_once, happens_after
from tests.reconciliation.conftest import ByHand, held, lost_entry
from tests.venue import Venue

S = OrderStatus


def found(account: Account) -> list[tuple[str, Decimal | None, Decimal | None]]:
    return [(row.kind, row.expected, row.found) for row in account_reconcile(account.pk)]


def test_an_account_that_is_as_we_believe_has_no_differences(venue: Venue, position: Position) -> None:
    assert account_reconcile(venue.account.pk) == []
    assert Discrepancy.objects.count() == 0
    row = Reconciliation.objects.get()
    assert row.compared_at is not None
    assert row.anchored_fill_id == Fill.objects.get().pk
    anchors = dict(venue.account.anchors.values_list("currency", "total"))
    assert anchors == {"USDT": venue.balance("USDT"), "BTC": Decimal("0.02")}


def test_what_an_account_holds_at_the_beginning_is_where_it_starts(venue: Venue) -> None:
    venue.simulator.open_account(KEY, USDT="777", BTC="3")

    assert account_reconcile(venue.account.pk) == []
    assert account_reconcile(venue.account.pk) == []


def test_an_order_of_somebody_else_at_work_is_told_of_and_left_alone(
    venue: Venue, session: TradingSession, by_hand: ByHand
) -> None:
    made = by_hand("buy", "0.01", "48000")

    assert found(venue.account) == [(Kind.FOREIGN_ORDER, Decimal(0), Decimal(0))]
    assert found(venue.account) == [(Kind.FOREIGN_ORDER, Decimal(0), Decimal(0))]

    order = Order.objects.get()
    assert (order.is_foreign, order.exchange_order_id, order.status) == (True, made["id"], S.OPENED)
    assert [event["kind"] for event in events("alerts", alert="DISCREPANCY")] == [Kind.FOREIGN_ORDER]
    assert venue.requests_of("DELETE", "*") == []
    assert order.pk not in services.orders_to_look_at(timezone.now() + timedelta(seconds=50))


def test_an_order_of_somebody_else_that_is_withdrawn_vanishes(
    venue: Venue, session: TradingSession, by_hand: ByHand
) -> None:
    made = by_hand("buy", "0.01", "48000")
    account_reconcile(venue.account.pk)
    client = venue.simulator.client(KEY, SECRET, PASSPHRASE)
    client.load_markets()
    client.cancel_order(made["id"], "BTC/USDT")

    assert account_reconcile(venue.account.pk) == []

    row = Discrepancy.objects.get()
    assert (row.status, row.resolution, row.resolved_by) == ("RESOLVED", "VANISHED", "system")
    assert [event["resolution"] for event in events("alerts", alert="DISCREPANCY_RESOLVED")] == ["VANISHED"]


def test_what_somebody_else_bought_is_in_the_books_and_no_drift(
    venue: Venue, session: TradingSession, by_hand: ByHand
) -> None:
    by_hand("buy", "0.1")

    assert found(venue.account) == [(Kind.FOREIGN_ORDER, Decimal(0), Decimal("0.1"))]

    fill = Fill.objects.get()
    assert (fill.order.is_foreign, fill.quantity) == (True, Decimal("0.1"))
    venue.account.refresh_from_db()
    book = account_book(venue.account)
    assert book is not None
    assert book.free_balance == venue.balance("USDT")


def test_a_position_sold_by_hand_is_one_difference_that_names_the_sale(
    venue: Venue, position: Position, by_hand: ByHand
) -> None:
    by_hand("sell", "0.015")

    assert found(venue.account) == [(Kind.MANUAL_CLOSE, Decimal("0.02"), Decimal("0.005"))]

    row = Discrepancy.objects.get()
    assert row.order is not None
    assert (row.position, row.order.side, row.order.is_foreign, row.currency) == (position, "SELL", True, "BTC")
    assert row.detail == "the account holds 0.005 BTC, its positions say 0.02"


def test_a_position_taken_away_without_an_order_is_told_of_and_the_balance_too(
    venue: Venue, position: Position
) -> None:
    venue.simulator.open_account(KEY, USDT=str(venue.balance("USDT")), BTC="0.005")

    assert found(venue.account) == [
        (Kind.MANUAL_CLOSE, Decimal("0.02"), Decimal("0.005")),
        (Kind.BALANCE_DRIFT, Decimal("0.02"), Decimal("0.005")),
    ]


def test_the_same_coins_bought_beside_a_position_are_no_manual_close(
    venue: Venue, position: Position, by_hand: ByHand
) -> None:
    by_hand("buy", "0.01")
    by_hand("sell", "0.01")

    assert [kind for kind, *_ in found(venue.account)] == [Kind.FOREIGN_ORDER, Kind.FOREIGN_ORDER]


@pytest.mark.parametrize("total", ["9000", "12000"])
def test_a_balance_that_its_fills_do_not_explain_is_told_of_and_not_adjusted(
    venue: Venue, session: TradingSession, total: str
) -> None:
    venue.simulator.open_account(KEY, USDT=total)

    for _ in range(3):
        assert found(venue.account) == [(Kind.BALANCE_DRIFT, Decimal(10000), Decimal(total))]

    assert venue.account.anchors.get(currency="USDT").total == Decimal(10000)
    venue.simulator.open_account(KEY, USDT="10000")
    assert found(venue.account) == []


def test_a_currency_that_appears_from_nowhere_is_told_of(venue: Venue, session: TradingSession) -> None:
    venue.simulator.open_account(KEY, USDT="10000", ETH="2")

    assert found(venue.account) == [(Kind.BALANCE_DRIFT, Decimal(0), Decimal(2))]


def test_a_difference_of_a_rounding_is_none(venue: Venue, session: TradingSession) -> None:
    venue.simulator.open_account(KEY, USDT="10000.00999")
    assert found(venue.account) == []

    venue.simulator.open_account(KEY, USDT="10000.02")
    assert found(venue.account) == [(Kind.BALANCE_DRIFT, Decimal(10000), Decimal("10000.02"))]


def test_balances_are_not_compared_while_an_order_may_be_anywhere(venue: Venue, session: TradingSession) -> None:
    order = venue.ready_order()
    venue.fault(method="POST", path="/api/v1/hf/orders", when="before", kind="drop")
    assert services.order_submit(order.pk) == S.UNKNOWN
    venue.simulator.open_account(KEY, USDT="9000")
    before = Reconciliation.objects.get().compared_at

    assert found(venue.account) == []

    assert Reconciliation.objects.get().compared_at == before


def test_a_trade_between_two_readings_is_read_again_and_is_no_difference(
    venue: Venue, position: Position, by_hand: ByHand, monkeypatch: pytest.MonkeyPatch
) -> None:
    happens_after(monkeypatch, CcxtGateway, "balances", lambda: by_hand("sell", "0.02"))

    assert found(venue.account) == [(Kind.MANUAL_CLOSE, Decimal("0.02"), Decimal(0))]


def test_a_fill_that_was_missing_is_recorded_told_of_once_and_added_to_its_position(
    venue: Venue, position: Position
) -> None:
    fill = Fill.objects.get()
    order = fill.order
    fill.delete()
    Order.objects.filter(pk=order.pk).update(filled=0, filled_quote=0)
    Position.objects.filter(pk=position.pk).update(status=PositionStatus.ABANDONED, quantity=0, entered=0)

    account_reconcile(venue.account.pk)
    account_reconcile(venue.account.pk)

    row = Discrepancy.objects.get()
    assert (row.kind, row.status, row.resolution, row.found) == (
        Kind.MISSING_FILL,
        "RESOLVED",
        "RECORDED",
        Decimal("0.02"),
    )
    position.refresh_from_db()
    assert (position.status, position.quantity, position.stop_price) == ("OPEN", Decimal("0.02"), Decimal("49002.45"))


def test_an_entry_given_up_and_filled_after_all_brings_its_position_back_with_its_levels(
    venue: Venue, session: TradingSession
) -> None:
    order = lost_entry(venue, session)

    assert account_reconcile(venue.account.pk) == []

    position = Position.objects.get()
    order.refresh_from_db()
    assert (order.status, order.filled) == (S.CLOSED, Decimal("0.02"))
    assert (position.status, position.quantity) == ("OPEN", Decimal("0.02"))
    assert (position.stop_price, position.target_price) == (Decimal("49002.45"), Decimal("52002.6"))
    session.refresh_from_db()
    assert session.has_exposure
    assert len(events("alerts", alert="ORDER_FOUND_AFTER_NOT_PLACED")) == 1


def test_a_holding_that_its_session_cannot_take_back_is_told_of(venue: Venue, session: TradingSession) -> None:
    order = lost_entry(venue, session)
    held(session)

    assert found(venue.account) == [(Kind.LATE_ORDER, Decimal(0), Decimal("0.02"))]

    assert Discrepancy.objects.get().order == order
    assert Position.objects.filter(status="OPEN").count() == 1


def test_a_holding_of_a_session_that_has_stopped_is_told_of(venue: Venue, session: TradingSession) -> None:
    lost_entry(venue, session)
    TradingSession.objects.update(status=SessionStatus.STOPPED)

    account_reconcile(venue.account.pk)

    assert [row.kind for row in Discrepancy.objects.all()] == [Kind.LATE_ORDER]


def test_a_holding_nobody_can_take_back_makes_its_account_due_though_it_is_at_rest(
    venue: Venue, session: TradingSession
) -> None:
    order = lost_entry(venue, session)
    TradingSession.objects.update(status=SessionStatus.STOPPED)
    in_an_hour = {"due_at": timezone.now() + timedelta(hours=1)}
    Reconciliation.objects.update_or_create(account=venue.account, defaults=in_an_hour)
    [there] = venue.orders()

    # As by the worker that had sent it and was held up.
    order_settle(order, S.OPENED, among=(S.UNKNOWN, S.NOT_PLACED), exchange_order_id=there["id"])
    order_look(order.pk)
    follow_orders([order.pk])

    assert accounts_to_reconcile(timezone.now()) == [venue.account.pk]


def test_what_is_left_and_too_small_to_be_sold_is_told_of(venue: Venue, session: TradingSession) -> None:
    venue.simulator.open_account(KEY, USDT="10000", BTC="0.000001")
    Reconciliation.objects.update(anchored_fill_id=None)
    make_position(session, status=PositionStatus.CLOSED, dust=Decimal("0.000001"))

    assert found(venue.account) == [(Kind.DUST, Decimal(0), Decimal("0.000001"))]


def test_reconciling_at_once_files_everything_once(venue: Venue, position: Position, by_hand: ByHand) -> None:
    by_hand("sell", "0.015")
    venue.simulator.open_account(KEY, USDT="5000", BTC="0.005")

    at_once([lambda: account_reconcile(venue.account.pk)] * 3)

    rows = Discrepancy.objects.filter(status="OPEN")
    assert sorted(rows.values_list("kind", "subject").distinct()) == sorted(rows.values_list("kind", "subject"))
    assert Order.objects.filter(is_foreign=True).count() == 1
    assert Fill.objects.count() == 2


def test_a_reconciliation_that_is_not_due_or_under_way_is_nobody_else_s(venue: Venue, session: TradingSession) -> None:
    assert account_reconcile_if_due(venue.account.pk)
    asked = len(venue.requests_of("GET", "*"))

    assert not account_reconcile_if_due(venue.account.pk)

    assert len(venue.requests_of("GET", "*")) == asked
    assert accounts_to_reconcile(timezone.now() + timedelta(seconds=59)) == []
    assert accounts_to_reconcile(timezone.now() + timedelta(seconds=61)) == [venue.account.pk]


def test_of_two_workers_one_reconciles(venue: Venue, session: TradingSession, monkeypatch: pytest.MonkeyPatch) -> None:
    Reconciliation.objects.update(due_at=None)

    results = at_once([lambda: account_reconcile_if_due(venue.account.pk)] * 4)

    assert sorted(results) == [False, False, False, True]


def test_a_lost_bell_and_a_dead_worker_cost_a_sweep_and_a_lease(venue: Venue, bells: Bells) -> None:
    account = venue.account
    bells.clear()
    sweep_sessions()
    assert bells.rung("positions.reconcile") == [{"account_ids": [account.pk]}]

    Reconciliation.objects.create(account=account, leased_until=timezone.now() + reconciliation.LEASE)
    assert accounts_to_reconcile(timezone.now()) == []
    assert accounts_to_reconcile(timezone.now() + reconciliation.LEASE) == [account.pk]


def test_an_account_at_rest_is_compared_every_hour(venue: Venue) -> None:
    reconcile([venue.account.pk])

    assert accounts_to_reconcile(timezone.now() + timedelta(minutes=59)) == []
    assert accounts_to_reconcile(timezone.now() + timedelta(minutes=61)) == [venue.account.pk]


def test_a_venue_that_is_away_is_asked_ever_more_seldom_and_nothing_is_concluded(
    venue: Venue, position: Position
) -> None:
    venue.fault(method="GET", path="/api/v1/hf/orders/done", kind="http", status=503, body="<html>", count=None)
    pauses = []
    for _ in range(3):
        Reconciliation.objects.update(due_at=None)
        assert not account_reconcile_if_due(venue.account.pk)
        row = Reconciliation.objects.get()
        assert row.due_at is not None
        pauses.append(round((row.due_at - timezone.now()).total_seconds()))

    assert pauses == [10, 20, 40]
    assert Reconciliation.objects.get().last_error.startswith("ExchangeUnavailable")
    assert Discrepancy.objects.count() == 0
    position.refresh_from_db()
    assert position.quantity == Decimal("0.02")


def test_a_venue_that_says_when_to_come_back_is_obeyed(
    venue: Venue, session: TradingSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: Any) -> None:
        raise ExchangeUnavailable("too many requests", retry_after=timedelta(seconds=90))

    monkeypatch.setattr(CcxtGateway, "orders_open", busy)
    Reconciliation.objects.update(due_at=None)
    before = timezone.now()
    account_reconcile_if_due(venue.account.pk)

    assert accounts_to_reconcile(before + timedelta(seconds=89)) == []


def test_refused_keys_pause_the_account_and_it_is_not_asked_again(venue: Venue, session: TradingSession) -> None:
    venue.simulator.control("accounts", apiKey=KEY, secret=SECRET, passphrase=f"not-{PASSPHRASE}")
    Reconciliation.objects.update(due_at=None)

    assert not account_reconcile_if_due(venue.account.pk)

    assert Account.objects.get().status == Account.Status.PAUSED
    assert accounts_to_reconcile(timezone.now() + timedelta(days=1)) == []


def test_two_positions_on_one_market_are_both_told_of(venue: Venue, position: Position, by_hand: ByHand) -> None:
    other = make_session(venue.account, make_config(venue.account.owner, make_feed(venue.market)))
    second = held(other, "0.01")
    by_hand("sell", "0.03")

    rows = account_reconcile(venue.account.pk)

    assert [(row.kind, row.position_id) for row in rows] == [
        (Kind.MANUAL_CLOSE, position.pk),
        (Kind.MANUAL_CLOSE, second.pk),
    ]


def test_a_quiet_reconciliation_costs_few_requests(venue: Venue, position: Position) -> None:
    before = len(venue.simulator.oracle()["requests"])

    account_reconcile(venue.account.pk)

    paths = [line["path"] for line in venue.simulator.oracle()["requests"][before:]]
    private = sorted(path for path in paths if path != "/api/v1/timestamp")
    assert private == [
        "/api/v1/accounts",
        "/api/v1/hf/fills",
        "/api/v1/hf/orders/active",
        "/api/v1/hf/orders/active/symbols",
        "/api/v1/hf/orders/done",
    ]
    sessions_track([position.session_id])


def test_an_account_that_is_made_due_while_it_is_read_is_read_again(
    venue: Venue, session: TradingSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    Reconciliation.objects.update(due_at=None)
    account_id = venue.account.pk
    happens_after(monkeypatch, reconciliation, "_read", lambda: reconciliation.account_make_due(account_id))

    assert account_reconcile_if_due(account_id)

    assert accounts_to_reconcile(timezone.now()) == [account_id]


def test_balances_are_not_compared_while_a_market_order_of_ours_may_be_filled(venue: Venue, position: Position) -> None:
    make_order(
        position, purpose="EXIT", status=S.OPENED, sent_at=timezone.now(), not_before_at=timezone.now(), failures=1,
        leased_until=timezone.now() + timedelta(minutes=1),
    )  # fmt: skip
    venue.simulator.open_account(KEY, USDT="10000", BTC="0")  # sold, and no list shows the fill yet

    assert found(venue.account) == []
