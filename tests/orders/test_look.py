"""Looking orders up: what the venue shows is recorded once, and what it does not show is never guessed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone

from domain.orders import Execution, OrderStatus
from exchanges import ccxt_gateway
from exchanges.gateway import ExchangeUnavailable, FillReport, OrderReport
from exchanges.models import Account
from orders import ledger, lookups, services
from orders.models import Fill, Order
from orders.tasks import look, sweep_orders
from positions.models import Intent
from tests.factories import KEY, PASSPHRASE, SECRET, events, let_pass, make_order
from tests.race import at_once, happens_after, happens_before
from tests.venue import Venue

ORDERS = "/api/v1/hf/orders"
LOOK_UP = "/api/v1/hf/orders/client-order/*"
FILLS = "/api/v1/hf/fills"
NOT_THERE = {"kind": "code", "code": "400100", "msg": "order not exist."}


@pytest.fixture
def unknown_order(venue: Venue) -> Order:
    """Accepted and filled at the venue, its answer lost."""
    order = venue.ready_order()
    venue.fault(method="POST", path=ORDERS, when="after", kind="drop")
    services.order_submit(order.pk)
    order.refresh_from_db()
    assert order.status == OrderStatus.UNKNOWN
    return order


@pytest.fixture
def lost_order(venue: Venue) -> Order:
    """Of unknown outcome too, and never arrived."""
    order = venue.ready_order()
    venue.fault(method="POST", path=ORDERS, when="before", kind="drop")
    services.order_submit(order.pk)
    order.refresh_from_db()
    return order


def open_limit_order(venue: Venue, **fields: Any) -> Order:
    """A buy that waits at 49,000."""
    order = venue.ready_order(**{"order_type": "LIMIT", "price": Decimal(49000), **fields})
    assert services.order_submit(order.pk) == OrderStatus.OPENED
    order.refresh_from_db()
    return order


def partly_filled_order(venue: Venue) -> Order:
    """A buy of 1.5 BTC at up to 50,003, where 50,000 USDT worth are on offer: a part is taken at once, the rest waits."""
    assert venue.account  # opened before it is given more
    venue.simulator.open_account(KEY, USDT="100000")
    order = open_limit_order(venue, price=Decimal(50003), quantity=Decimal("1.5"))
    lookups.order_look(order.pk)
    order.refresh_from_db()
    return order


def test_an_order_with_a_live_worker_is_not_looked_up(venue: Venue) -> None:
    order = venue.ready_order()
    Order.objects.filter(pk=order.pk).move(OrderStatus.SUBMITTING, sent_at=timezone.now())

    assert lookups.order_look(order.pk) is None

    order.refresh_from_db()
    assert order.status == OrderStatus.SUBMITTING
    assert services.orders_to_look_at(timezone.now()) == []
    assert services.orders_to_look_at(timezone.now() + timedelta(seconds=16)) == [order.pk]


def test_an_order_whose_worker_died_before_the_call_is_not_placed_in_the_end(venue: Venue) -> None:
    order = venue.ready_order()
    now = timezone.now()
    Order.objects.filter(pk=order.pk).move(OrderStatus.SUBMITTING, sent_at=now, deadline_at=now + services.WINDOW)
    let_pass(order, 16)

    looks = [lookups.order_look(let_pass(order, 2).pk) for _ in range(lookups.NOT_PLACED_MISSES)]

    order.refresh_from_db()
    assert looks == [OrderStatus.UNKNOWN, OrderStatus.UNKNOWN, OrderStatus.NOT_PLACED]
    assert order.detail == "not found 3 times"
    assert [event["status"] for event in events("orderUpdates")] == ["UNKNOWN", "NOT_PLACED"]
    assert venue.orders() == []


def test_misses_before_the_deadline_prove_nothing(venue: Venue, lost_order: Order) -> None:
    for _ in range(5):
        Order.objects.filter(pk=lost_order.pk).update(not_before_at=timezone.now())
        assert lookups.order_look(lost_order.pk) == OrderStatus.UNKNOWN

    lost_order.refresh_from_db()
    assert lost_order.lookups == 0


def test_many_bells_at_once_are_no_more_evidence_than_one(venue: Venue, lost_order: Order) -> None:
    let_pass(lost_order, 11)

    for _ in range(6):
        lookups.order_look(lost_order.pk)

    lost_order.refresh_from_db()
    assert (lost_order.status, lost_order.lookups) == (OrderStatus.UNKNOWN, 1)


def test_two_looks_at_once_count_one_miss(venue: Venue, lost_order: Order) -> None:
    let_pass(lost_order, 11)

    at_once([lambda: lookups.order_look(lost_order.pk)] * 3)

    lost_order.refresh_from_db()
    assert (lost_order.status, lost_order.lookups) == (OrderStatus.UNKNOWN, 1)


def test_a_venue_that_shows_an_order_late_is_believed_when_it_does(venue: Venue, unknown_order: Order) -> None:
    venue.fault(method="GET", path=LOOK_UP, count=2, **NOT_THERE)
    let_pass(unknown_order, 11)

    looks = [lookups.order_look(let_pass(unknown_order, 2).pk) for _ in range(3)]

    unknown_order.refresh_from_db()
    assert looks == [OrderStatus.UNKNOWN, OrderStatus.UNKNOWN, OrderStatus.CLOSED]
    assert unknown_order.filled == Decimal("0.02")
    assert len(venue.orders()) == 1


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "http", "status": 500, "body": "<html></html>"},
        {"kind": "http", "status": 502, "body": ""},
        {"kind": "http", "status": 404, "body": "<html>not here</html>"},
        {"kind": "drop"},
        {"kind": "body", "body": "<html></html>"},
        {"kind": "body", "body": ""},
        {"kind": "body", "body": '{"code":"200000","data":null}'},
        {"kind": "code", "code": "429000", "msg": "Too many requests."},
        {"kind": "code", "code": "500000", "msg": "Internal Server Error"},
    ],
)
def test_a_venue_that_cannot_be_asked_proves_nothing(venue: Venue, lost_order: Order, fault: dict[str, Any]) -> None:
    venue.fault(method="GET", path=LOOK_UP, count=None, **fault)
    let_pass(lost_order, 3600)

    looks = [lookups.order_look(let_pass(lost_order, 60).pk) for _ in range(5)]

    lost_order.refresh_from_db()
    assert looks == [OrderStatus.UNKNOWN] * 5
    assert lost_order.lookups == 0
    assert lost_order.not_before_at is not None
    assert lost_order.not_before_at > timezone.now()
    assert len(venue.requests_of("POST", ORDERS)) == 1


def test_refused_keys_at_a_look_pause_the_account_and_leave_the_order_unknown(
    venue: Venue, unknown_order: Order
) -> None:
    venue.fault(method="GET", path=LOOK_UP, kind="code", code="400003", msg="no such key", status=401)

    assert lookups.order_look(unknown_order.pk) == OrderStatus.UNKNOWN

    assert Account.objects.get(pk=venue.account.pk).status == Account.Status.PAUSED
    assert lookups.order_look(let_pass(unknown_order, 2).pk) == OrderStatus.CLOSED


def test_an_open_order_that_the_venue_no_longer_shows_stays_open(venue: Venue) -> None:
    order = let_pass(open_limit_order(venue), 3600)
    venue.fault(method="GET", path=LOOK_UP, count=4, **NOT_THERE)

    looks = [lookups.order_look(let_pass(order, 60).pk) for _ in range(5)]

    assert looks == [OrderStatus.OPENED] * 5
    assert len(venue.orders()) == 1


def test_fills_are_counted_once_however_often_they_are_read(venue: Venue) -> None:
    order = open_limit_order(venue)
    venue.price("48900")

    at_once([lambda: lookups.order_look(order.pk)] * 4)
    look([order.pk, order.pk])

    order.refresh_from_db()
    assert order.status == OrderStatus.CLOSED
    assert (order.filled, order.filled_quote) == (Decimal("0.02"), Decimal("978"))
    assert Fill.objects.count() == 1
    assert [event["status"] for event in events("orderUpdates")] == ["OPENED", "CLOSED"]
    assert len(events("tradeUpdates")) == 1


def test_a_fill_shown_before_the_order_s_total_and_one_shown_after_it_both_count(venue: Venue) -> None:
    order = open_limit_order(venue)
    venue.price("48900")
    venue.fault(method="GET", path=FILLS, kind="body", body='{"code":"200000","data":{"items":[],"lastId":0}}')

    first = lookups.order_look(order.pk)
    second = lookups.order_look(order.pk)

    order.refresh_from_db()
    assert (first, second) == (OrderStatus.OPENED, OrderStatus.CLOSED)
    assert order.filled == Decimal("0.02")


def test_an_order_partly_filled_and_cancelled_by_hand_at_the_venue_says_so(venue: Venue) -> None:
    order = partly_filled_order(venue)
    part = order.filled
    [there] = venue.orders()
    client = venue.simulator.client(KEY, SECRET, PASSPHRASE)

    client.cancel_order(there["id"], "BTC/USDT")
    status = lookups.order_look(order.pk)

    order.refresh_from_db()
    assert 0 < part < Decimal("1.5")
    assert (status, order.execution) == (OrderStatus.CANCELED, Execution.PARTIALLY_EXECUTED)
    assert order.filled == part == Decimal(there["dealSize"])
    assert sum(fill.quantity for fill in order.fills.all()) == part
    assert venue.balance("BTC") == part


class ScriptedGateway:
    """A venue that answers look-ups with what it is given."""

    def __init__(self, report: OrderReport, fills: list[FillReport]) -> None:
        self.report, self.fills = report, fills

    def order_find(self, symbol: str, client_order_id: str) -> OrderReport:
        return self.report

    def order_fills(self, symbol: str, exchange_order_id: str) -> list[FillReport]:
        return self.fills

    def order_cancel(self, symbol: str, exchange_order_id: str) -> None:
        raise ExchangeUnavailable("cancelling is suspended")


def report_of(order: Order, **fields: Any) -> OrderReport:
    defaults: dict[str, Any] = {
        "exchange_order_id": "x1", "client_order_id": order.client_order_id, "symbol": "BTC/USDT", "side": "BUY",
        "quantity": Decimal("0.02"), "filled": Decimal("0.02"), "filled_quote": Decimal(1000), "is_open": False,
        "is_canceled": False,
    }  # fmt: skip
    return OrderReport(**{**defaults, **fields})


def fill_of(number: int, quantity: str, price: str = "50000") -> FillReport:
    return FillReport(
        trade_id=f"t{number}", exchange_order_id="x1", symbol="BTC/USDT", side="BUY", quantity=Decimal(quantity),  # type: ignore[arg-type]
        price=Decimal(price), fee=Decimal(0), fee_currency="USDT", filled_at=timezone.now(),
    )  # fmt: skip


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def script(report: OrderReport, *fills: FillReport) -> None:
        monkeypatch.setattr(lookups, "gateway_for", lambda *_: ScriptedGateway(report, list(fills)))

    return script


def test_an_order_filled_whole_is_closed_even_where_the_venue_calls_it_cancelled(
    venue: Venue, scripted: Callable[..., None]
) -> None:
    order = open_limit_order(venue)
    scripted(report_of(order, is_canceled=True), fill_of(1, "0.02"))

    assert lookups.order_look(order.pk) == OrderStatus.CLOSED


@pytest.mark.parametrize("order_of_fills", [(1, 2, 3), (3, 1, 2), (2, 2, 1, 3, 3)])
def test_fills_add_up_the_same_in_any_order_and_number(
    venue: Venue, scripted: Callable[..., None], order_of_fills: tuple[int, ...]
) -> None:
    order = open_limit_order(venue)
    parts = {1: fill_of(1, "0.005", "49000"), 2: fill_of(2, "0.005", "49100"), 3: fill_of(3, "0.01", "49200")}

    for place, number in enumerate(order_of_fills, 1):
        scripted(report_of(order, is_open=True, filled=parts[number].quantity), parts[number])
        lookups.order_look(order.pk)
        order.refresh_from_db()
        is_whole = len(set(order_of_fills[:place])) == len(parts)
        assert order.status == (OrderStatus.CLOSED if is_whole else OrderStatus.OPENED)
    scripted(report_of(order), *parts.values())
    lookups.order_look(order.pk)

    order.refresh_from_db()
    assert (order.status, order.filled, order.filled_quote) == (OrderStatus.CLOSED, Decimal("0.02"), Decimal("982.5"))


def test_an_order_on_the_other_side_under_our_id_is_never_taken_for_ours(
    venue: Venue, scripted: Callable[..., None]
) -> None:
    order = open_limit_order(venue)
    scripted(report_of(order, side="SELL"), fill_of(1, "0.02"))

    with pytest.raises(RuntimeError, match="wanted BUY BTC/USDT, found SELL BTC/USDT"):
        lookups.order_look(order.pk)

    order.refresh_from_db()
    assert (order.status, order.filled) == (OrderStatus.OPENED, 0)


def test_an_order_that_cannot_be_looked_at_neither_stops_the_others_nor_comes_back_at_once(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison, fine = open_limit_order(venue), open_limit_order(venue)
    venue.price("48900")
    found = ledger.order_record
    monkeypatch.setattr(
        lookups, "order_record", lambda order, *rest: 1 / 0 if order.pk == poison.pk else found(order, *rest)
    )

    look([poison.pk, fine.pk])

    poison.refresh_from_db()
    fine.refresh_from_db()
    assert (poison.status, fine.status) == (OrderStatus.OPENED, OrderStatus.CLOSED)
    assert poison.detail.startswith("ZeroDivisionError")
    assert poison.pk not in services.orders_to_look_at(timezone.now())


def test_an_answer_that_comes_after_the_order_was_called_unknown_adopts_it(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = venue.ready_order()

    def another_worker_looks() -> None:
        let_pass(order, 16)
        venue.fault(method="GET", path=LOOK_UP, **NOT_THERE)
        assert lookups.order_look(order.pk) == OrderStatus.UNKNOWN

    happens_after(monkeypatch, ccxt_gateway.CcxtGateway, "order_create", another_worker_looks)

    status = services.order_submit(order.pk)

    order.refresh_from_db()
    assert (status, order.filled) == (OrderStatus.CLOSED, Decimal("0.02"))
    assert [event["status"] for event in events("orderUpdates")] == ["UNKNOWN", "OPENED", "CLOSED"]
    assert events("alerts") == []


def hide_from_lists(venue: Venue) -> None:
    """The venue's lists show nothing, once."""
    nothing = '{"code":"200000","data":{"items":[],"lastId":0}}'
    for path, body in (
        ("/api/v1/hf/orders/active", '{"code":"200000","data":[]}'),
        ("/api/v1/hf/orders/done", nothing),
        (FILLS, nothing),
    ):
        venue.fault(method="GET", path=path, kind="body", body=body)


def given_up_elsewhere(venue: Venue, order: Order) -> None:
    let_pass(order, 16)  # longer than a look holds its lease
    venue.fault(method="GET", path=LOOK_UP, count=3, **NOT_THERE)
    hide_from_lists(venue)
    looks = [lookups.order_look(let_pass(order, 2).pk) for _ in range(3)]
    assert looks[-1] == OrderStatus.NOT_PLACED


def test_an_order_found_after_it_was_given_up_is_adopted_with_an_alert(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = venue.ready_order()
    happens_after(monkeypatch, ccxt_gateway.CcxtGateway, "order_create", lambda: given_up_elsewhere(venue, order))

    status = services.order_submit(order.pk)

    order.refresh_from_db()
    [there] = venue.orders()
    assert (status, order.filled, order.exchange_order_id) == (OrderStatus.CLOSED, Decimal("0.02"), there["id"])
    assert order.reason == ""
    assert len(events("alerts", alert="ORDER_FOUND_AFTER_NOT_PLACED")) == 1


def test_an_order_found_beside_its_next_attempt_is_told_of_and_recorded_by_itself(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = venue.ready_order()

    def given_up_and_tried_again() -> None:
        given_up_elsewhere(venue, order)
        make_order_of_same_intent(order, OrderStatus.UNKNOWN)

    happens_after(monkeypatch, ccxt_gateway.CcxtGateway, "order_create", given_up_and_tried_again)

    status = services.order_submit(order.pk)

    order.refresh_from_db()
    [there] = venue.orders()
    assert (status, order.exchange_order_id, order.filled) == (OrderStatus.CLOSED, there["id"], Decimal("0.02"))
    assert (order.reason, Intent.objects.filter(pk=order.intent_id).exists()) == ("LATE", False)
    assert len(events("alerts", alert="ORDER_FOUND_AFTER_NOT_PLACED")) == 1


def test_an_order_found_while_its_next_attempt_waits_is_carried_on_and_that_one_is_never_sent(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = venue.ready_order()
    made: list[Order] = []

    def given_up_and_to_be_tried_again() -> None:
        given_up_elsewhere(venue, order)
        made.append(make_order_of_same_intent(order, OrderStatus.READY))

    happens_after(monkeypatch, ccxt_gateway.CcxtGateway, "order_create", given_up_and_to_be_tried_again)

    status = services.order_submit(order.pk)
    services.order_submit(made[0].pk)

    order.refresh_from_db()
    made[0].refresh_from_db()
    assert (status, order.reason, order.filled) == (OrderStatus.CLOSED, "", Decimal("0.02"))
    assert (made[0].status, made[0].reason, made[0].reserved) == (OrderStatus.CANCELED, "SUPERSEDED", 0)
    assert Intent.objects.filter(pk=order.intent_id).exists()
    assert len(venue.orders()) == 1


def make_order_of_same_intent(order: Order, status: OrderStatus) -> Order:
    return make_order(Intent.objects.get(pk=order.intent_id).position, status=status, reserved=Decimal(1))


def test_a_look_that_finds_what_another_one_just_gave_up_adopts_it(
    venue: Venue, unknown_order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    happens_before(monkeypatch, lookups, "order_record", lambda: given_up_elsewhere(venue, unknown_order))

    assert lookups.order_look(unknown_order.pk) == OrderStatus.CLOSED

    assert len(events("alerts", alert="ORDER_FOUND_AFTER_NOT_PLACED")) == 1


@pytest.mark.parametrize("reason", ["", "SIGNAL", "STOP_LOSS"])
def test_an_order_unknown_too_long_is_told_of_once(venue: Venue, lost_order: Order, reason: str) -> None:
    Order.objects.filter(pk=lost_order.pk).update(reason=reason)
    early = services.unknown_orders_alert(timezone.now())
    let_pass(lost_order, 121)

    sweep_orders()
    sweep_orders()

    lost_order.refresh_from_db()
    assert (early, lost_order.reason) == (0, reason)
    assert [event["client_order_id"] for event in events("alerts", alert="ORDER_UNKNOWN")] == [
        lost_order.client_order_id
    ]


def test_two_sweeps_at_once_tell_of_an_unknown_order_once(venue: Venue, lost_order: Order) -> None:
    let_pass(lost_order, 121)

    at_once([lambda: services.unknown_orders_alert(timezone.now())] * 4)

    assert len(events("alerts", alert="ORDER_UNKNOWN")) == 1


def test_lost_look_up_bells_are_rung_again_by_the_sweep(venue: Venue, unknown_order: Order, bells: Any) -> None:
    opened = open_limit_order(venue)
    let_pass(opened, 3)
    later = open_limit_order(venue)
    bells.clear()

    sweep_orders()

    [bell] = bells.rung("orders.look")
    assert sorted(bell["order_ids"]) == sorted([unknown_order.pk, opened.pk])
    assert later.pk not in bell["order_ids"]
