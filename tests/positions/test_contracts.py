"""Positions of contracts as the venue has them: liquidation prices, differences, liquidations, and late funding."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone

from domain.market import PositionSide
from domain.orders import OrderStatus
from orders.fundings import fundings_read
from orders.models import FillCursor, Funding, Order
from orders.services import order_submit
from positions import contracts
from positions.contracts import PERIOD, accounts_due, contracts_read, fundings_count
from positions.funding import positions_funded_late
from positions.late import positions_fund
from positions.models import Discrepancy, Position, PositionStatus, Reconciliation
from positions.models import DiscrepancyKind as Kind
from positions.reconciliation import account_reconcile
from positions.resolutions import UnableToResolve, discrepancy_resolve
from positions.services import orders_follow
from positions.tasks import count_fundings, read_contracts, sweep_sessions
from tests.conftest import Bells
from tests.contracts import FuturesVenue
from tests.factories import events, make_order
from tests.race import at_once, happens_before

LONG, SHORT = PositionSide.LONG, PositionSide.SHORT


def found(futures: FuturesVenue) -> list[tuple[Any, ...]]:
    return [(row.kind, row.expected, row.found) for row in account_reconcile(futures.account.pk)]


def a_period_later() -> None:
    Reconciliation.objects.update(contracts_due_at=timezone.now())


def left(position: Position) -> Order:
    """Close all of a position at market, as its exit does."""
    order = make_order(
        position, purpose="EXIT", status=OrderStatus.READY, side=PositionSide(position.side).exit_side,
        quantity=position.quantity, is_reduce_only=True, leverage=Decimal(5),
    )  # fmt: skip
    order_submit(order.pk)
    orders_follow([order.pk])
    position.refresh_from_db()
    return order


# -- where the venue would liquidate --------------------------------------------------------------------------------------


def test_the_liquidation_price_of_the_venue_is_noted_and_its_session_looked_at(
    futures: FuturesVenue, monkeypatch: pytest.MonkeyPatch
) -> None:
    position = futures.opened(LONG)
    looked: list[list[int]] = []
    monkeypatch.setattr(contracts, "sessions_track", looked.append)

    is_news = contracts_read(futures.account.pk)

    position.refresh_from_db()
    # (500 - 100) / (10 * 0.001 * 0.995), on the tick above
    assert position.liquidation_price == Decimal("40201.1")
    assert (is_news, looked) == (False, [[position.session_id]])


def test_asking_twice_changes_nothing(futures: FuturesVenue, monkeypatch: pytest.MonkeyPatch) -> None:
    futures.opened(SHORT)
    contracts_read(futures.account.pk)
    contracts_read(futures.account.pk)
    asked = len(futures.requests_of("GET", "*/positions"))
    a_period_later()
    looked: list[list[int]] = []
    monkeypatch.setattr(contracts, "sessions_track", looked.append)
    contracts_read(futures.account.pk)

    assert (asked, len(futures.requests_of("GET", "*/positions"))) == (1, 2)
    assert looked == [[]]
    assert Position.objects.get().liquidation_price == Decimal("59701.4")


def test_a_lost_message_is_rung_for_again_by_the_sweep(futures: FuturesVenue, bells: Bells) -> None:
    account_id = futures.opened(LONG).account_id
    Reconciliation.objects.create(account_id=account_id, due_at=timezone.now() + timedelta(hours=1))
    bells.clear()

    sweep_sessions()
    [message] = bells.rung("positions.contracts")
    read_contracts(**message)

    assert message == {"account_ids": [account_id]}
    assert Position.objects.get().liquidation_price == Decimal("40201.1")
    assert accounts_due(timezone.now()) == []
    assert accounts_due(timezone.now() + PERIOD) == [account_id]


def test_of_two_at_once_one_asks(futures: FuturesVenue) -> None:
    futures.opened(LONG)

    at_once([lambda: contracts_read(futures.account.pk)] * 2)

    assert len(futures.requests_of("GET", "*/positions")) == 1


def test_a_venue_that_cannot_be_asked_is_asked_a_period_later_and_the_price_stays(futures: FuturesVenue) -> None:
    position = futures.opened(LONG)
    contracts_read(futures.account.pk)
    a_period_later()
    futures.fault(kind="http", status=502, path="*/positions")

    read_contracts([futures.account.pk])

    position.refresh_from_db()
    assert position.liquidation_price == Decimal("40201.1")
    assert accounts_due(timezone.now()) == []


def test_an_account_without_contracts_is_left_alone(futures: FuturesVenue) -> None:
    position = futures.opened(LONG)
    left(position)

    assert position.status == PositionStatus.CLOSED
    assert accounts_due(timezone.now() + PERIOD) == []
    assert contracts_read(futures.account.pk) is False
    assert futures.requests_of("GET", "*/positions") == []


# -- whether it holds what we say -----------------------------------------------------------------------------------------


def test_an_account_of_contracts_that_is_as_we_believe_has_no_differences(futures: FuturesVenue) -> None:
    futures.opened(LONG)
    futures.opened(LONG, 5)

    assert found(futures) == []
    futures.advance(8 * 3600)  # funding moves the wallet, and nothing is traded
    assert found(futures) == []
    assert Reconciliation.objects.get().compared_at is not None


def test_contracts_closed_by_hand_are_found_filed_once_and_adopted(futures: FuturesVenue, bells: Bells) -> None:
    position = futures.opened(SHORT)
    assert found(futures) == []
    futures.by_hand("buy", 4)
    bells.clear()

    read_contracts([futures.account.pk])
    rung = bells.rung("positions.reconcile")
    differences = found(futures)
    a_period_later()
    is_news = contracts_read(futures.account.pk)
    row = Discrepancy.objects.get()
    discrepancy_resolve(row.pk, "ADOPT", actor="alice")

    position.refresh_from_db()
    assert rung == [{"account_ids": [futures.account.pk]}]
    assert differences == [(Kind.MANUAL_CLOSE, 10, 6)]
    assert is_news is False
    assert row.detail == "the venue holds -6 of BTC/USDT:USDT, our positions say -10"
    assert (position.quantity, position.status) == (6, PositionStatus.OPEN)
    assert found(futures) == []


def test_a_stop_that_rests_does_not_hide_what_was_closed_by_hand(futures: FuturesVenue) -> None:
    position = futures.opened(LONG)
    assert found(futures) == []
    stop = make_order(
        position, purpose="REST_STOP", status=OrderStatus.READY, order_type="STOP", side="SELL", quantity=Decimal(10),
        stop_price=Decimal(49000), trigger="FALLING", is_exit=True, is_reduce_only=True, leverage=Decimal(5),
    )  # fmt: skip
    assert order_submit(stop.pk) == OrderStatus.OPENED
    futures.by_hand("sell", 4)

    is_news = contracts_read(futures.account.pk)

    assert is_news
    assert found(futures) == [(Kind.MANUAL_CLOSE, 10, 6)]


def test_contracts_on_the_other_side_are_none_of_ours_and_resizing_ends_the_position(futures: FuturesVenue) -> None:
    position = futures.opened(LONG, 4)
    assert found(futures) == []
    futures.by_hand("sell", 10)

    differences = found(futures)
    row = Discrepancy.objects.get(kind=Kind.MANUAL_CLOSE)
    with pytest.raises(UnableToResolve, match="wanted at most the 4 held, was a sale of 10"):
        discrepancy_resolve(row.pk, "ADOPT", actor="alice")
    discrepancy_resolve(row.pk, "RESIZE", actor="alice")

    position.refresh_from_db()
    assert differences == [(Kind.MANUAL_CLOSE, 4, 0)]
    assert position.status == PositionStatus.CLOSED


def test_more_than_ours_is_told_of_as_the_orders_of_others_or_else_as_a_drift(futures: FuturesVenue) -> None:
    assert futures.account
    futures.by_hand("buy", 3)  # before anybody watched
    futures.advance(60)
    futures.opened(LONG)

    before = found(futures)
    futures.by_hand("buy", 2)
    after = found(futures)

    assert before == [(Kind.BALANCE_DRIFT, 10, 13)]
    assert sorted(after) == [(Kind.BALANCE_DRIFT, 10, 15), (Kind.FOREIGN_ORDER, 0, 2)]


def test_what_others_opened_beside_us_is_told_of_once_as_their_order(futures: FuturesVenue) -> None:
    futures.opened(LONG)
    assert found(futures) == []
    futures.by_hand("buy", 2)

    assert found(futures) == [(Kind.FOREIGN_ORDER, 0, 2)]


def test_nothing_is_said_of_contracts_while_an_order_of_ours_is_on_its_way(futures: FuturesVenue) -> None:
    position = futures.opened(LONG)
    assert found(futures) == []
    order = make_order(position, purpose="EXIT", status=OrderStatus.READY, quantity=Decimal(10), leverage=Decimal(5))
    futures.fault(method="POST", path="*/orders", when="after", kind="drop")
    order_submit(order.pk)
    futures.fault(method="GET", path="*/byClientOid", kind="html", count=None)
    futures.fault(method="GET", path="*/orders", kind="body", body='{"code":"200000","data":{"items":[]}}', count=None)
    futures.fault(method="GET", path="*/fills", kind="body", body='{"code":"200000","data":{"items":[]}}', count=None)

    is_news = contracts_read(futures.account.pk)
    differences = found(futures)

    assert Order.objects.get(pk=order.pk).status == OrderStatus.UNKNOWN
    assert futures.books["positions"][0]["currentQty"] == 0
    assert (is_news, differences) == (False, [])


# -- what it liquidated ---------------------------------------------------------------------------------------------------


def test_a_liquidation_ends_its_position_by_the_venue_s_own_fill_and_is_told_loudly(futures: FuturesVenue) -> None:
    position = futures.opened(LONG)
    account_reconcile(futures.account.pk)
    futures.price("40201.1")

    is_news = contracts_read(futures.account.pk)
    differences = found(futures)
    again = found(futures)

    position.refresh_from_db()
    assert (is_news, differences, again) == (True, [], [])
    assert (position.status, position.exit_reason, position.exit_price) == ("CLOSED", "LIQUIDATED", Decimal("40201.1"))
    assert position.realized_pnl == futures.wallet() - 10_000
    [alert] = [one for one in events("alerts") if one["alert"] == "LIQUIDATED"]
    assert (Decimal(alert["quantity"]), Decimal(alert["price"])) == (Decimal(10), Decimal("40201.1"))
    forced = Order.objects.get(is_foreign=True)
    assert (forced.is_exit, forced.reason, forced.position_side) == (True, "LIQUIDATED", "LONG")


def test_one_liquidation_of_two_positions_is_divided_to_the_last_digit(futures: FuturesVenue) -> None:
    first, second = futures.opened(SHORT), futures.opened(SHORT, 4)
    account_reconcile(futures.account.pk)
    futures.price("59800")

    assert found(futures) == []

    for position in (first, second):
        position.refresh_from_db()
    assert [(one.status, one.exit_reason, one.exited) for one in (first, second)] == [
        ("CLOSED", "LIQUIDATED", 10), ("CLOSED", "LIQUIDATED", 4)
    ]  # fmt: skip
    assert first.realized_pnl + second.realized_pnl == futures.wallet() - 10_000
    assert len([one for one in events("alerts") if one["alert"] == "LIQUIDATED"]) == 2
    assert found(futures) == []


def test_a_liquidation_of_contracts_that_are_not_ours_is_a_stranger_s_order(futures: FuturesVenue) -> None:
    futures.session()
    account_reconcile(futures.account.pk)
    futures.by_hand("buy", 10)
    futures.price("40000")

    differences = found(futures)

    assert sorted(differences) == [(Kind.FOREIGN_ORDER, 0, 10), (Kind.FOREIGN_ORDER, 0, 10)]
    assert [one for one in events("alerts") if one["alert"] == "LIQUIDATED"] == []


def test_somebody_else_who_took_the_liquidation_up_first_leaves_nothing_to_do(
    futures: FuturesVenue, monkeypatch: pytest.MonkeyPatch
) -> None:
    futures.opened(LONG)
    account_reconcile(futures.account.pk)
    futures.price("40000")
    happens_before(
        monkeypatch, contracts, "_liquidation_take_up", lambda: contracts.liquidations_take_up(futures.account)
    )

    assert found(futures) == []

    assert len([one for one in events("alerts") if one["alert"] == "LIQUIDATED"]) == 1
    assert Position.objects.get().realized_pnl == futures.wallet() - 10_000


# -- funding --------------------------------------------------------------------------------------------------------------


def test_funding_that_is_shown_after_the_end_is_added_once_to_the_position_it_was_paid_on(
    futures: FuturesVenue, bells: Bells
) -> None:
    position = futures.opened(SHORT)
    account_reconcile(futures.account.pk)
    futures.advance(8 * 3600)
    left(position)
    futures.advance(8 * 3600)
    bells.clear()
    fundings_read(futures.account.pk)
    [message] = bells.rung("positions.count_fundings")

    count_fundings(**message)
    count_fundings(**message)

    position.refresh_from_db()
    assert (position.status, position.funding) == (PositionStatus.CLOSED, Decimal("0.05"))
    # 0.3 USDT of fees each way
    assert position.realized_pnl == Decimal("-0.55") == futures.wallet() - 10_000
    assert len([one for one in events("positions") if one["event"] == "FUNDED"]) == 1


def test_a_lost_bell_of_funding_is_made_up_for_by_the_sweep(futures: FuturesVenue) -> None:
    position = futures.opened(SHORT)
    account_reconcile(futures.account.pk)
    futures.advance(8 * 3600)
    left(position)
    fundings_read(futures.account.pk)

    positions_fund(positions_funded_late(timezone.now()))

    position.refresh_from_db()
    assert position.realized_pnl == Decimal("-0.55")


def test_a_payment_on_two_positions_is_shared_by_what_they_held_then(futures: FuturesVenue) -> None:
    first, second = futures.opened(LONG, 15), futures.opened(LONG, 5)
    account_reconcile(futures.account.pk)
    futures.advance(8 * 3600)
    left(first)
    left(second)
    fundings_read(futures.account.pk)

    fundings_count(list(Funding.objects.values_list("pk", flat=True)))

    for position in (first, second):
        position.refresh_from_db()
    assert (first.funding, second.funding) == (Decimal("-0.075"), Decimal("-0.025"))
    assert first.realized_pnl + second.realized_pnl == futures.wallet() - 10_000


def test_a_share_that_does_not_come_out_even_is_counted_once_all_the_same(futures: FuturesVenue) -> None:
    first, second = futures.opened(LONG, 1), futures.opened(LONG, 2)
    account_reconcile(futures.account.pk)
    futures.advance(8 * 3600)
    left(first)
    left(second)
    fundings_read(futures.account.pk)
    Funding.objects.update(amount=Decimal("-0.1"))
    ids = list(Funding.objects.values_list("pk", flat=True))

    fundings_count(ids)
    fundings_count(ids)

    for position in (first, second):
        position.refresh_from_db()
    assert (first.funding, second.funding) == (Decimal("-0.033333333333"), Decimal("-0.066666666667"))
    assert len([one for one in events("positions") if one["event"] == "FUNDED"]) == 2


def test_a_payment_on_a_live_position_lets_it_be_looked_at(
    futures: FuturesVenue, monkeypatch: pytest.MonkeyPatch
) -> None:
    position = futures.opened(SHORT)
    account_reconcile(futures.account.pk)
    futures.advance(8 * 3600)
    fundings_read(futures.account.pk)
    looked: list[list[int]] = []
    monkeypatch.setattr(contracts, "sessions_track", looked.append)

    fundings_count([Funding.objects.get().pk])

    assert looked == [[position.session_id]]
    assert FillCursor.objects.get().fundings_read_until is not None
