"""Stop orders through the protocol: sent once, followed through their price, and gone only when that is certain."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone

from domain.market import MarginMode, Trigger
from domain.orders import Execution, OrderStatus
from exchanges.ccxt_gateway import CcxtGateway
from exchanges.gateway import OrderReport
from exchanges.services import gateway_for
from orders import ledger, lookups, services
from orders.models import Order
from orders.tasks import look, sweep_orders
from tests.factories import KEY, PASSPHRASE, SECRET, events, let_pass
from tests.race import at_once, elsewhere, happens_before
from tests.venue import Venue

STOPS = "/api/v1/stop-order"
STOP_LOOK_UP = f"{STOPS}/queryOrderByClientOid"
ORDERS = "/api/v1/hf/orders"
S = OrderStatus


def ready_stop(venue: Venue, **fields: Any) -> Order:
    """A buy of 0.02 BTC at market once the price has risen to 51,000, unless ``fields`` say otherwise."""
    defaults = {"order_type": "STOP", "stop_price": Decimal(51000), "trigger": "RISING"}
    return venue.ready_order(**{**defaults, **fields})


def waiting_stop(venue: Venue, **fields: Any) -> Order:
    """One that waits at the venue, and is due for a look."""
    order = ready_stop(venue, **fields)
    assert services.order_submit(order.pk) == S.OPENED
    return let_pass(order, 3)


def stop_limit(venue: Venue) -> Order:
    """One that rests at 50,500 once its price was met at 51,000."""
    return waiting_stop(venue, price=Decimal(50500))


def asked_by_look(venue: Venue, *orders: Order) -> list[str]:
    """The requests of a look, but for those that ask a simulator for its time."""
    before = len(venue.simulator.oracle()["requests"])
    lookups.orders_look([order.pk for order in orders])
    lines = venue.simulator.oracle()["requests"][before:]
    return [f"{line['method']} {line['path']}" for line in lines if line["path"] != "/api/v1/timestamp"]


def client_of(venue: Venue) -> Any:
    """The account's own keys in somebody else's hand."""
    assert venue.account
    client = venue.simulator.client(KEY, SECRET, PASSPHRASE)
    client.load_markets()
    return client


@pytest.mark.parametrize("order_type", ["STOP", "MARKET"])
def test_a_stop_order_is_sent_once_and_waits(venue: Venue, order_type: str) -> None:
    order = ready_stop(venue, order_type=order_type)

    submitted, again = services.order_submit(order.pk), services.order_submit(order.pk)

    order.refresh_from_db()
    assert (submitted, again) == (S.OPENED, None)
    assert order.exchange_order_id == order.stop_order_id != ""
    assert order.waits_for_price
    assert len(venue.requests_of("POST", STOPS)) == 1
    assert venue.requests_of("GET", STOP_LOOK_UP) == []
    assert venue.orders() == []


def test_one_that_waits_is_looked_at_less_often_than_one_at_work(venue: Venue) -> None:
    order = waiting_stop(venue)

    lookups.order_look(order.pk)

    order.refresh_from_db()
    assert order.status == S.OPENED
    assert order.not_before_at is not None
    assert timedelta(seconds=25) < order.not_before_at - timezone.now() <= ledger.LOOK_AGAIN_AT_WAITING


def test_one_whose_price_is_met_goes_over_to_the_order_it_became_and_is_filled_by_that(venue: Venue) -> None:
    order = waiting_stop(venue)
    waited_as = order.exchange_order_id
    venue.price("51100")

    status = lookups.order_look(order.pk)
    again = lookups.order_look(order.pk)

    order.refresh_from_db()
    [there] = venue.orders()
    assert (status, again, order.execution) == (S.CLOSED, None, Execution.FULLY_EXECUTED)
    assert (order.exchange_order_id, order.stop_order_id) == (there["id"], waited_as)
    assert there["clientOid"] == order.client_order_id
    assert [fill.quantity for fill in order.fills.all()] == [Decimal("0.02")]
    assert len(events("tradeUpdates")) == 1


def test_what_it_became_is_followed_by_its_own_id(venue: Venue) -> None:
    order = stop_limit(venue)
    venue.price("51100")
    first = lookups.order_look(order.pk)
    order.refresh_from_db()
    half_way = (order.waits_for_price, order.exchange_order_id, order.stop_order_id)
    venue.price("50400")

    asked = asked_by_look(venue, let_pass(order, 3))

    order.refresh_from_db()
    [there] = venue.orders()
    assert (first, order.status, order.filled) == (S.OPENED, S.CLOSED, Decimal("0.02"))
    assert half_way == (False, there["id"], order.stop_order_id)
    assert asked == [f"GET {ORDERS}/client-order/{order.client_order_id}", "GET /api/v1/hf/fills"]


def test_what_is_read_late_of_the_time_when_it_waited_does_not_bring_its_old_id_back(venue: Venue) -> None:
    order = stop_limit(venue)
    gateway = gateway_for(order.account.exchange, order.account, [order.market])
    stale = gateway.stop_find("BTC/USDT", order.client_order_id)
    venue.price("51100")
    lookups.order_look(order.pk)
    order.refresh_from_db()
    before = order.exchange_order_id
    assert isinstance(stale, OrderReport)

    ledger.order_record(order, stale, [])

    order.refresh_from_db()
    assert stale.exchange_order_id == order.stop_order_id != before
    assert (order.exchange_order_id, order.status) == (before, S.OPENED)


# -- lost answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("price", ["50000", "51100"])
def test_a_lost_answer_is_looked_up_wherever_the_order_is_by_then_and_it_is_never_sent_again(
    venue: Venue, price: str
) -> None:
    order = ready_stop(venue)
    venue.fault(method="POST", path=STOPS, when="after", kind="drop")

    submitted = services.order_submit(order.pk)
    venue.price(price)
    again = services.order_submit(order.pk)
    looked = lookups.order_look(order.pk)

    order.refresh_from_db()
    assert (submitted, again) == (S.UNKNOWN, None)
    assert looked == (S.OPENED if price == "50000" else S.CLOSED)
    assert order.waits_for_price is (price == "50000")
    assert len(venue.requests_of("POST", STOPS)) == 1
    assert len(venue.orders()) == (price != "50000")


def test_one_whose_worker_died_after_the_venue_took_it_is_adopted(venue: Venue) -> None:
    order = ready_stop(venue)
    now = timezone.now()
    Order.objects.filter(pk=order.pk).move(S.SUBMITTING, sent_at=now, deadline_at=now + services.WINDOW)
    loaded = ledger.order_loaded(order.pk)
    gateway_for(loaded.account.exchange, loaded.account, [loaded.market]).order_create(services._ticket(loaded))
    let_pass(order, 16)

    look([order.pk])

    order.refresh_from_db()
    assert order.status == S.OPENED
    assert order.waits_for_price
    assert order.exchange_order_id != ""


def test_one_that_never_arrived_is_not_placed_only_when_it_can_arrive_no_more(venue: Venue) -> None:
    order = ready_stop(venue)
    venue.fault(method="POST", path=STOPS, when="before", kind="drop")
    services.order_submit(order.pk)

    early = [lookups.order_look(let_pass(order, 60).pk) for _ in range(4)]
    let_pass(order, 120)
    late = [lookups.order_look(let_pass(order, 3).pk) for _ in range(lookups.NOT_PLACED_MISSES)]

    order.refresh_from_db()
    assert early == [S.UNKNOWN] * 4
    assert late == [S.UNKNOWN, S.UNKNOWN, S.NOT_PLACED]
    assert order.reason == "NOT_PLACED"
    assert len(venue.requests_of("POST", STOPS)) == 1


def test_one_that_was_given_up_and_waits_after_all_is_taken_back_by_a_list(venue: Venue) -> None:
    order = ready_stop(venue)
    venue.fault(method="POST", path=STOPS, when="after", kind="drop")
    services.order_submit(order.pk)
    Order.objects.filter(pk=order.pk).move(S.NOT_PLACED, among=(S.UNKNOWN,))
    account, market = order.account, order.market
    gateway = gateway_for(account.exchange, account, [market])

    lookups.market_settle(account, market, lookups.market_read(gateway, account, market))

    order.refresh_from_db()
    assert (order.status, order.waits_for_price) == (S.OPENED, True)
    assert [event["alert"] for event in events("alerts")] == ["ORDER_FOUND_AFTER_NOT_PLACED"]


# -- the end of one that waits ----------------------------------------------------------------------------------------


def test_one_that_waits_is_cancelled_at_the_venue_s_own_word_and_when_nothing_shows_it(venue: Venue) -> None:
    order = waiting_stop(venue, reserved=Decimal(1021))
    services.orders_cancel([order])

    asked = asked_by_look(venue, order)
    again = lookups.order_look(order.pk)

    order.refresh_from_db()
    assert (order.status, order.execution, order.reserved) == (S.CANCELED, Execution.NOT_EXECUTED, 0)
    assert order.closed_at is not None
    assert again is None
    assert asked == [
        f"DELETE {STOPS}/{order.stop_order_id}", f"GET {STOP_LOOK_UP}",
        f"GET {ORDERS}/client-order/{order.client_order_id}", f"GET {STOPS}", f"GET {ORDERS}/active",
        f"GET {ORDERS}/done", "GET /api/v1/hf/fills",
    ]  # fmt: skip
    assert [event["status"] for event in events("orderUpdates")] == ["OPENED", "CANCELED"]


def test_a_lost_answer_to_a_cancellation_takes_several_looks_to_be_certain(venue: Venue) -> None:
    order = waiting_stop(venue)
    services.orders_cancel([order])
    venue.fault(method="DELETE", path=f"{STOPS}/*", when="after", kind="drop")

    looks = [lookups.order_look(let_pass(order, 3).pk) for _ in range(lookups.NOT_PLACED_MISSES)]

    order.refresh_from_db()
    assert looks == [S.OPENED, S.OPENED, S.CANCELED]
    assert order.detail == "not found 3 times"


def test_one_that_somebody_cancelled_by_hand_is_cancelled_after_several_looks(venue: Venue) -> None:
    order = waiting_stop(venue)
    client_of(venue).cancel_order(order.stop_order_id, "BTC/USDT", {"trigger": True})

    hurried = [lookups.order_look(let_pass(order, 3).pk), lookups.order_look(order.pk), lookups.order_look(order.pk)]
    looks = [lookups.order_look(let_pass(order, 3).pk) for _ in range(2)]

    assert hurried == [S.OPENED] * 3
    assert looks == [S.OPENED, S.CANCELED]


def test_a_venue_that_shows_it_nowhere_and_one_list_that_cannot_be_read_prove_nothing(venue: Venue) -> None:
    order = waiting_stop(venue)
    services.orders_cancel([order])
    venue.fault(method="GET", path=f"{ORDERS}/done", kind="http", status=503, body="<html>")

    first = lookups.order_look(order.pk)
    looks = [lookups.order_look(let_pass(order, 60).pk) for _ in range(4)]

    assert first == S.OPENED
    assert looks == [S.OPENED, S.OPENED, S.CANCELED, None]


def test_a_fill_that_comes_before_the_cancellation_wins(venue: Venue, monkeypatch: pytest.MonkeyPatch) -> None:
    order = waiting_stop(venue)
    happens_before(monkeypatch, CcxtGateway, "stop_cancel", lambda: venue.simulator.pin("51100"))

    services.orders_cancel([order])
    status = lookups.order_look(order.pk)

    order.refresh_from_db()
    assert (status, order.filled) == (S.CLOSED, Decimal("0.02"))


def test_what_it_became_is_cancelled_by_its_own_id(venue: Venue) -> None:
    order = stop_limit(venue)
    venue.price("51100")
    services.orders_cancel([order])

    looks = [lookups.order_look(order.pk), lookups.order_look(let_pass(order, 3).pk)]

    order.refresh_from_db()
    [there] = venue.orders()
    assert looks == [S.OPENED, S.CANCELED]
    assert there["status"] == "canceled"
    assert order.exchange_order_id == there["id"]


def test_one_that_the_balance_does_not_cover_when_it_is_met_is_cancelled_unexecuted(venue: Venue) -> None:
    order = waiting_stop(venue, quantity=Decimal("0.19"))
    client_of(venue).create_order("BTC/USDT", "limit", "buy", 0.1, 40000)
    venue.price("51100")

    status = lookups.order_look(order.pk)

    order.refresh_from_db()
    assert (status, order.execution, order.reserved) == (S.CANCELED, Execution.NOT_EXECUTED, 0)


def test_somebody_else_is_shown_what_it_became_before_it_is_called_gone(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = waiting_stop(venue)
    services.orders_cancel([order])

    def taken_over() -> None:
        Order.objects.filter(pk=order.pk).update(exchange_order_id="the-order-it-became")

    happens_before(monkeypatch, lookups, "_stop_gone", taken_over)

    status = lookups.order_look(order.pk)

    order.refresh_from_db()
    assert (status, order.status, order.leased_until) == (S.OPENED, S.OPENED, None)


def test_one_called_gone_that_fills_after_all_has_its_fills_counted(venue: Venue) -> None:
    order = waiting_stop(venue)
    Order.objects.filter(pk=order.pk).move(S.CANCELED, among=(S.OPENED,), closed_at=timezone.now())
    account, market = order.account, order.market
    gateway = gateway_for(account.exchange, account, [market])
    lookups.market_settle(account, market, lookups.market_read(gateway, account, market))
    venue.price("51100")

    lookups.market_settle(account, market, lookups.market_read(gateway, account, market))

    order.refresh_from_db()
    [there] = venue.orders()
    assert (order.status, order.filled) == (S.CANCELED, Decimal("0.02"))
    assert order.exchange_order_id == there["id"]
    assert Order.objects.count() == 1


def test_one_called_gone_that_is_at_work_after_all_is_told_of_once(venue: Venue) -> None:
    order = stop_limit(venue)
    Order.objects.filter(pk=order.pk).move(S.CANCELED, among=(S.OPENED,), closed_at=timezone.now())
    venue.price("51100")
    account, market = order.account, order.market
    gateway = gateway_for(account.exchange, account, [market])

    for _ in range(2):
        lookups.market_settle(account, market, lookups.market_read(gateway, account, market))

    assert [event["alert"] for event in events("alerts")] == ["ORDER_NEEDS_REVIEW"]
    assert Order.objects.count() == 1


# -- many together ----------------------------------------------------------------------------------------------------


def test_many_that_wait_on_one_market_are_settled_by_four_requests(venue: Venue) -> None:
    orders = [waiting_stop(venue, stop_price=Decimal(level)) for level in (51000, 52000, 53000, 54000)]
    venue.price("52100")

    asked = asked_by_look(venue, *orders)

    found = [Order.objects.get(pk=order.pk) for order in orders]
    assert asked == [f"GET {STOPS}", f"GET {ORDERS}/active", f"GET {ORDERS}/done", "GET /api/v1/hf/fills"]
    assert [order.status for order in found] == [S.CLOSED, S.CLOSED, S.OPENED, S.OPENED]
    assert [order.waits_for_price for order in found] == [False, False, True, True]
    assert [order.filled for order in found] == [Decimal("0.02"), Decimal("0.02"), 0, 0]
    assert Order.objects.count() == 4


def test_many_are_cancelled_together_by_the_lists(venue: Venue) -> None:
    orders = [waiting_stop(venue, stop_price=Decimal(level)) for level in (51000, 52000, 53000)]
    services.orders_cancel(orders)

    asked = asked_by_look(venue, *orders)

    assert {order.status for order in Order.objects.all()} == {S.CANCELED}
    assert asked[:3] == [f"DELETE {STOPS}/{order.stop_order_id}" for order in orders]
    assert asked[3:] == [f"GET {STOPS}", f"GET {ORDERS}/active", f"GET {ORDERS}/done", "GET /api/v1/hf/fills"]


@pytest.mark.parametrize("is_answer_lost", [False, True])
def test_one_whose_price_is_met_between_two_lists_is_one_order(
    venue: Venue, monkeypatch: pytest.MonkeyPatch, is_answer_lost: bool
) -> None:
    if is_answer_lost:
        venue.fault(method="POST", path=STOPS, when="after", kind="drop", count=3)
    orders = [ready_stop(venue, price=Decimal(50500)) for _ in range(3)]
    for order in orders:
        services.order_submit(order.pk)
        let_pass(order, 3)
    happens_before(monkeypatch, CcxtGateway, "orders_open", lambda: venue.simulator.pin("51100"))

    lookups.orders_look([order.pk for order in orders])

    there = {order["clientOid"]: order["id"] for order in venue.orders()}
    assert {order.client_order_id: order.exchange_order_id for order in Order.objects.all()} == there
    assert len(there) == 3
    assert {order.status for order in Order.objects.all()} == {S.OPENED}


def test_everything_an_order_says_goes_with_its_ticket(venue: Venue) -> None:
    order = ready_stop(
        venue,
        price=Decimal(50500),
        leverage=Decimal(3),
        margin_mode="CROSS",
        is_reduce_only=True,
        sent_at=timezone.now(),
    )

    ticket = services._ticket(ledger.order_loaded(order.pk))

    assert (ticket.stop_price, ticket.trigger, ticket.price) == (Decimal(51000), Trigger.RISING, Decimal(50500))
    assert (ticket.leverage, ticket.margin_mode, ticket.is_reduce_only) == (Decimal(3), MarginMode.CROSS, True)
    assert services._ticket(ledger.order_loaded(venue.ready_order(sent_at=timezone.now()).pk)).trigger is None


def test_the_lists_do_not_go_back_to_when_a_waiting_order_was_sent(venue: Venue) -> None:
    order = let_pass(waiting_stop(venue), 86_400)

    assert lookups._sent_times(order.account, order.market) == []


def test_a_waiting_stop_order_of_somebody_else_is_no_order_yet(venue: Venue) -> None:
    mine = waiting_stop(venue)
    stranger = {"clientOid": "theirs", "triggerPrice": "52000", "stop": "entry"}
    client_of(venue).create_order("BTC/USDT", "market", "buy", 0.01, None, stranger)
    account, market = mine.account, mine.market
    gateway = gateway_for(account.exchange, account, [market])

    lookups.market_settle(account, market, lookups.market_read(gateway, account, market))
    before = Order.objects.count()
    venue.price("52100")
    lookups.market_settle(account, market, lookups.market_read(gateway, account, market))

    assert before == 1
    assert [order.is_foreign for order in Order.objects.order_by("pk")] == [False, True]


def test_looks_at_once_count_its_fill_once(venue: Venue) -> None:
    order = waiting_stop(venue)
    venue.price("51100")

    at_once([lambda: lookups.order_look(order.pk)] * 3)

    order.refresh_from_db()
    assert (order.status, order.filled, order.fills.count()) == (S.CLOSED, Decimal("0.02"), 1)


def test_a_look_that_nobody_rang_for_is_rung_for_by_the_sweep(venue: Venue, bells: Any) -> None:
    order = let_pass(waiting_stop(venue), 3)
    bells.clear()

    sweep_orders()

    assert bells.rung("orders.look") == [{"order_ids": [order.pk]}]


# -- hastened by a price ----------------------------------------------------------------------------------------------


def test_a_price_that_meets_it_makes_a_look_due_and_no_more_often_than_at_any_open_order(venue: Venue) -> None:
    met, unmet = waiting_stop(venue), waiting_stop(venue, stop_price=Decimal(52000))
    for order in (met, unmet):
        lookups.order_look(order.pk)
    venue.price("51100")
    markets = [met.market_id]

    at_once_again = services.stops_hasten(markets)
    let_pass(met, 3), let_pass(unmet, 3)
    hastened = services.stops_hasten(markets)
    elsewhere_again = elsewhere(lambda: services.stops_hasten(markets))

    assert at_once_again == []
    assert (hastened, elsewhere_again) == ([met.pk], [])
    assert services.orders_to_look_at(timezone.now()) == [met.pk]


@pytest.mark.parametrize(("trigger", "price", "is_met"), [
    ("FALLING", "49000", True), ("FALLING", "49000.1", False), ("RISING", "49000", True), ("RISING", "48999.9", False),
])  # fmt: skip
def test_a_price_meets_it_from_the_side_that_its_trigger_says(
    venue: Venue, trigger: str, price: str, is_met: bool
) -> None:
    order = ready_stop(venue, stop_price=Decimal(49000), trigger=trigger)
    Order.objects.filter(pk=order.pk).update(
        status=S.OPENED,
        exchange_order_id="vs1",
        stop_order_id="vs1",
        not_before_at=timezone.now() + timedelta(seconds=5),
    )
    venue.price(price)

    assert services.stops_hasten([order.market_id]) == ([order.pk] if is_met else [])
