"""Submitting orders: sent once, whatever happens around it."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.conf import settings
from django.utils import timezone

from domain.orders import Execution, OrderStatus
from exchanges.gateway import OrderOutcomeUnknown
from exchanges.models import Account, Exchange
from exchanges.services import gateway_for
from orders import lookups, services
from orders.models import Order
from orders.tasks import submit, submit_exits, sweep_exits
from tests.factories import KEY, events, let_pass
from tests.race import at_once, elsewhere, happens_before
from tests.venue import Venue

ORDERS = "/api/v1/hf/orders"
HTML = "<html>bad gateway</html>"

# What may go wrong around one request, and how the simulator is told to do it.
FAILURES: dict[str, dict[str, Any]] = {
    "hang": {"kind": "hang"},
    "drop": {"kind": "drop"},
    "500": {"kind": "http", "status": 500, "body": HTML},
    "502": {"kind": "http", "status": 502, "body": HTML},
    "503": {"kind": "http", "status": 503, "body": ""},
    "504": {"kind": "http", "status": 504, "body": HTML},
    "520": {"kind": "http", "status": 520, "body": HTML},
    "523": {"kind": "http", "status": 523, "body": HTML},
    "524": {"kind": "http", "status": 524, "body": HTML},
    "403 of a firewall": {"kind": "http", "status": 403, "body": HTML},
    "html": {"kind": "body", "body": HTML},
    "empty": {"kind": "body", "body": ""},
    "truncated": {"kind": "body", "body": '{"code":"200000","da'},
    "no data": {"kind": "body", "body": '{"code":"200000"}'},
    "internal error": {"kind": "code", "code": "500000"},
    "timeout at the venue": {"kind": "code", "code": "408000", "msg": "timeout"},
    "a code nobody knows": {"kind": "code", "code": "987654", "msg": "?"},
}


def test_a_ready_market_order_is_sent_filled_and_closed(venue: Venue) -> None:
    order = venue.ready_order()

    services.order_submit(order.pk)

    order.refresh_from_db()
    [sent] = venue.orders()
    assert (order.status, order.filled) == (OrderStatus.CLOSED, Decimal("0.02"))
    assert sent["clientOid"] == order.client_order_id
    assert order.fills.count() == 1
    assert order.filled_quote == Decimal("50002.5") * Decimal("0.02")
    assert order.fills.get().fee == Decimal("1.00005")


def test_a_submission_journals_each_of_its_steps_once(venue: Venue) -> None:
    order = venue.ready_order()

    submit([order.pk])

    assert [event["status"] for event in events("orderUpdates")] == ["OPENED", "CLOSED"]
    assert events("tradeUpdates") == [{"new_fills": 1, "filled": "0.020000000000000000"}]


def test_submitting_twice_sends_once(venue: Venue) -> None:
    order = venue.ready_order()

    submit([order.pk])
    submit([order.pk, order.pk])

    assert len(venue.orders()) == 1
    assert [event["status"] for event in events("orderUpdates")] == ["OPENED", "CLOSED"]


def test_two_workers_at_once_send_one_order(venue: Venue) -> None:
    order = venue.ready_order()

    results = at_once([lambda: services.order_submit(order.pk)] * 4)

    assert sorted(results, key=str) == [OrderStatus.CLOSED, None, None, None]
    assert len(venue.orders()) == 1
    assert len(venue.requests_of("POST", ORDERS)) == 1


def test_an_order_that_somebody_else_claimed_in_between_is_left_to_them(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = venue.ready_order()
    happens_before(monkeypatch, timezone, "now", lambda: services.order_submit(order.pk))

    status = services.order_submit(order.pk)

    assert status is None
    assert len(venue.requests_of("POST", ORDERS)) == 1


@pytest.mark.parametrize("status", [s for s in OrderStatus if s != OrderStatus.READY])
def test_only_a_ready_order_is_sent(venue: Venue, status: OrderStatus) -> None:
    order = venue.ready_order()
    Order.objects.filter(pk=order.pk).update(status=status)

    assert services.order_submit(order.pk) is None

    order.refresh_from_db()
    assert order.status == status
    assert venue.orders() == []


def test_an_order_whose_cancellation_is_wanted_is_not_sent(venue: Venue) -> None:
    order = venue.ready_order(is_cancel_wanted=True)

    assert services.order_submit(order.pk) is None

    assert venue.orders() == []


@pytest.mark.parametrize("name", FAILURES)
def test_an_accepted_order_whose_answer_was_lost_is_adopted_and_exists_once(
    impatient: None, venue: Venue, name: str
) -> None:
    order = venue.ready_order()
    venue.fault(method="POST", path=ORDERS, when="after", **FAILURES[name])

    submitted = services.order_submit(order.pk)
    again = services.order_submit(order.pk)
    looked = lookups.order_look(order.pk)

    order.refresh_from_db()
    [there] = venue.orders()
    assert (submitted, again, looked) == (OrderStatus.UNKNOWN, None, OrderStatus.CLOSED)
    assert (order.exchange_order_id, order.filled) == (there["id"], Decimal("0.02"))
    assert order.execution == Execution.FULLY_EXECUTED
    assert len(venue.requests_of("POST", ORDERS)) == 1


@pytest.mark.parametrize("name", FAILURES)
def test_an_order_that_never_arrived_is_not_placed_and_never_sent_again(
    impatient: None, venue: Venue, name: str
) -> None:
    order = venue.ready_order(reserved=Decimal(1006))
    venue.fault(method="POST", path=ORDERS, when="before", **FAILURES[name])

    services.order_submit(order.pk)
    looks = [lookups.order_look(let_pass(order, 11).pk) for _ in range(lookups.NOT_PLACED_MISSES)]

    order.refresh_from_db()
    assert looks == [OrderStatus.UNKNOWN, OrderStatus.UNKNOWN, OrderStatus.NOT_PLACED]
    assert (order.reason, order.reserved, order.filled) == ("NOT_PLACED", 0, 0)
    assert order.closed_at is not None
    assert services.order_submit(order.pk) is None
    assert venue.orders() == []
    assert len(venue.requests_of("POST", ORDERS)) == 1


def test_a_request_that_arrives_after_its_window_is_refused_by_the_venue(impatient: None, venue: Venue) -> None:
    order = venue.ready_order()
    Order.objects.filter(pk=order.pk).move(
        OrderStatus.SUBMITTING, sent_at=timezone.now() - timedelta(seconds=6), deadline_at=timezone.now()
    )
    order.refresh_from_db()
    order = Order.objects.select_related("account__exchange", "market").get(pk=order.pk)
    gateway = gateway_for(order.account.exchange, order.account, [order.market])

    with pytest.raises(OrderOutcomeUnknown):
        gateway.order_create(services._ticket(order))

    assert venue.orders() == []


def test_a_client_order_id_that_is_already_live_is_looked_up_and_adopted(venue: Venue) -> None:
    order = venue.ready_order(order_type="LIMIT", price=Decimal(49000))
    services.order_submit(order.pk)
    Order.objects.filter(pk=order.pk).update(status=OrderStatus.READY, exchange_order_id="", not_before_at=None)

    submitted = services.order_submit(order.pk)
    looked = lookups.order_look(order.pk)

    order.refresh_from_db()
    [there] = venue.orders()
    assert (submitted, looked) == (OrderStatus.UNKNOWN, OrderStatus.OPENED)
    assert order.exchange_order_id == there["id"]


@pytest.mark.parametrize(
    ("code", "message", "http"),
    [
        ("200004", "Balance insufficient!", 200),
        ("400100", "account.available.amount", 400),
        ("600100", "Order size increment invalid.", 200),
        ("400370", "Max. price: 55000", 200),
        ("200001", "Order creation for this pair suspended", 200),
        ("900001", "symbol not exists", 200),
    ],
)
def test_a_refusal_is_final(venue: Venue, code: str, message: str, http: int) -> None:
    order = venue.ready_order(reserved=Decimal(1006))
    venue.fault(method="POST", path=ORDERS, kind="code", code=code, msg=message, status=http)

    status = services.order_submit(order.pk)

    order.refresh_from_db()
    assert (status, order.status, order.reason) == (OrderStatus.REJECTED, OrderStatus.REJECTED, code)
    assert message in order.detail
    assert (order.reserved, order.execution) == (0, Execution.NOT_EXECUTED)
    assert services.order_submit(order.pk) is None
    assert lookups.order_look(order.pk) is None
    assert [event["status"] for event in events("orderUpdates")] == ["REJECTED"]


def test_more_than_the_account_holds_is_rejected_by_the_venue_itself(venue: Venue) -> None:
    order = venue.ready_order(quantity=Decimal(1))

    services.order_submit(order.pk)

    order.refresh_from_db()
    assert (order.status, order.reason) == (OrderStatus.REJECTED, "200004")
    assert venue.balance("USDT") == 10000


@pytest.mark.parametrize(("code", "http"), [("429000", 200), ("429000", 429), ("400002", 401)])
def test_an_order_the_venue_did_not_look_at_is_sent_again_under_the_same_id_after_a_pause(
    venue: Venue, code: str, http: int
) -> None:
    order = venue.ready_order()
    venue.fault(method="POST", path=ORDERS, kind="code", code=code, msg="later", status=http)

    first = services.order_submit(order.pk)
    at_once_again = services.order_submit(order.pk)
    paused = list(services.orders_ready(timezone.now()))
    let_pass(order, 31)  # longer than any window of the venue's limits
    venue.limits_reset()
    due = list(services.orders_ready(timezone.now()))
    second = services.order_submit(order.pk)

    [there] = venue.orders()
    assert (first, at_once_again, second) == (OrderStatus.READY, None, OrderStatus.CLOSED)
    assert (paused, due) == ([], [order.pk])
    assert there["clientOid"] == order.client_order_id
    assert [line["clientOid"] for line in venue.requests_of("POST", ORDERS)] == [order.client_order_id] * 2


def test_a_pause_is_refreshed_by_each_refusal_and_the_deadline_is_the_newest_sending_s(venue: Venue) -> None:
    order = venue.ready_order()
    venue.fault(method="POST", path=ORDERS, kind="code", code="429000", msg="later", count=2)
    services.order_submit(order.pk)
    order.refresh_from_db()
    first_deadline = order.deadline_at
    let_pass(order, 31)
    venue.limits_reset()

    services.order_submit(order.pk)

    order.refresh_from_db()
    assert first_deadline is not None
    assert order.deadline_at is not None
    assert order.deadline_at > first_deadline
    assert order.not_before_at is not None
    assert order.not_before_at > timezone.now() + timedelta(seconds=1)


@pytest.mark.parametrize(("code", "http"), [("400003", 401), ("400004", 401), ("400006", 401), ("411100", 200)])
def test_refused_keys_pause_the_account_and_say_so_once(venue: Venue, code: str, http: int) -> None:
    orders = [venue.ready_order(), venue.ready_order()]
    venue.fault(method="POST", path=ORDERS, kind="code", code=code, msg="no such key", status=http, count=2)

    statuses = [services.order_submit(order.pk) for order in orders]

    account = Account.objects.get(pk=venue.account.pk)
    assert statuses == [OrderStatus.REJECTED, OrderStatus.REJECTED]
    assert account.status == Account.Status.PAUSED
    assert "no such key" in account.status_reason
    assert len(events("alerts", alert="ACCOUNT_PAUSED")) == 1
    assert venue.orders() == []


def test_keys_that_cannot_be_decrypted_reject_the_order_and_pause_the_account(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = venue.ready_order()
    monkeypatch.setattr(settings, "ENCRYPTION_KEYS", ("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",))

    # elsewhere: this thread's gateway has the keys in memory already
    status = elsewhere(lambda: services.order_submit(order.pk))

    assert status == OrderStatus.REJECTED
    assert Account.objects.get(pk=venue.account.pk).status == Account.Status.PAUSED
    assert venue.requests_of("POST", ORDERS) == []


def test_an_entry_that_waited_too_long_is_cancelled_instead_of_sent(venue: Venue) -> None:
    order = let_pass(venue.ready_order(reserved=Decimal(1006)), 61)

    status = services.order_submit(order.pk)

    order.refresh_from_db()
    assert (status, order.status, order.reason) == (OrderStatus.CANCELED, OrderStatus.CANCELED, "EXPIRED")
    assert (order.reserved, order.execution) == (0, Execution.NOT_EXECUTED)
    assert [event["status"] for event in events("orderUpdates")] == ["CANCELED"]
    assert venue.requests_of("POST", ORDERS) == []


def test_an_exit_never_expires(venue: Venue) -> None:
    venue.simulator.open_account(KEY, USDT="10000", BTC="1")
    order = let_pass(venue.ready_order(is_exit=True, side="SELL"), 3600)

    assert services.order_submit(order.pk) == OrderStatus.CLOSED

    assert len(venue.orders()) == 1


def test_a_lost_bell_is_rung_again_by_the_sweep(venue: Venue, bells: Any) -> None:
    from orders.tasks import sweep_orders

    fresh, late, paused, resumed = (venue.ready_order() for _ in range(4))
    let_pass(late, 4)
    Order.objects.filter(pk=paused.pk).update(not_before_at=timezone.now() + timedelta(seconds=2))
    Order.objects.filter(pk=resumed.pk).update(not_before_at=timezone.now())
    bells.clear()

    sweep_orders()

    assert bells.rung("orders.submit") == [{"order_ids": [late.pk]}, {"order_ids": [resumed.pk]}]
    assert fresh.status == OrderStatus.READY


def test_an_exit_whose_bell_was_lost_is_rung_for_on_its_own_queue(venue: Venue, bells: Any) -> None:
    entry, leave = venue.ready_order(), venue.ready_order(is_exit=True)
    let_pass(entry, 4)
    let_pass(leave, 4)
    bells.clear()

    sweep_exits()

    assert bells.rung("exits.submit") == [{"order_ids": [leave.pk]}]
    assert bells.rung("orders.submit") == []
    submit_exits([leave.pk])
    submit_exits([leave.pk])
    assert len(venue.requests_of("POST", ORDERS)) == 1


def test_an_order_at_an_exchange_that_is_disabled_waits_unsent_until_it_is_enabled(venue: Venue) -> None:
    order = venue.ready_order()
    Exchange.objects.update(is_enabled=False)

    services.order_submit(order.pk)

    order.refresh_from_db()
    assert (order.status, order.detail) == (OrderStatus.READY, "wanted an exchange that is enabled, simulator is not")
    assert venue.orders() == []
    Exchange.objects.update(is_enabled=True)
    let_pass(order, services.UNSEEN_PAUSE.total_seconds())
    assert services.order_submit(order.pk) == OrderStatus.CLOSED
    assert len(venue.orders()) == 1
