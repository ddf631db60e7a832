"""Reading an account's lists: three requests settle many orders, each fill counts once, and absence proves nothing."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from domain.orders import OrderStatus
from exchanges.ccxt_gateway import CcxtGateway
from exchanges.gateway import ExchangeUnavailable
from exchanges.services import gateway_for
from orders import ledger, lookups, services
from orders.models import Fill, FillCursor, Order
from orders.tasks import look
from tests.factories import (
    KEY,
    PASSPHRASE,
    SECRET,
    events,
    let_pass,
    make_account,
    make_config,
    make_feed,
    make_order,
    make_position,
    make_session,
)
from tests.race import at_once, elsewhere, happens_before
from tests.venue import Venue

ORDERS = "/api/v1/hf/orders"
LOOK_UP = "/api/v1/hf/orders/client-order/*"
ACTIVE = "/api/v1/hf/orders/active"
DONE = "/api/v1/hf/orders/done"
FILLS = "/api/v1/hf/fills"
NOT_THERE = {"kind": "code", "code": "400100", "msg": "order not exist."}
S = OrderStatus


def limit_orders(venue: Venue, count: int) -> list[Order]:
    """Buys of 0.001 BTC that wait at 49,000, and are due for a look."""
    orders = []
    for _ in range(count):
        order = venue.ready_order(order_type="LIMIT", price=Decimal(49000), quantity=Decimal("0.001"))
        assert services.order_submit(order.pk) == S.OPENED
        orders.append(let_pass(order, 3))
    return orders


def by_hand(venue: Venue, side: str, amount: str, price: str | None = None) -> dict[str, Any]:
    """An order that somebody places at the venue with the account's own keys."""
    assert venue.account
    client = venue.simulator.client(KEY, SECRET, PASSPHRASE)
    client.load_markets()
    made: dict[str, Any] = client.create_order("BTC/USDT", "limit" if price else "market", side, amount, price)
    return made


def statuses() -> list[str]:
    return sorted(Order.objects.values_list("status", flat=True))


def test_ten_orders_are_settled_by_one_reading_of_each_list(venue: Venue) -> None:
    orders = limit_orders(venue, 10)
    venue.price("48900")

    look([order.pk for order in orders[:5]])

    assert statuses() == [S.CLOSED] * 10  # whatever else was due there, too
    assert sum(Order.objects.values_list("filled", flat=True)) == Decimal("0.01")
    assert Fill.objects.count() == 10
    assert venue.requests_of("GET", LOOK_UP) == []
    assert [len(venue.requests_of("GET", path)) for path in (ACTIVE, DONE, FILLS)] == [1, 1, 1]


def test_reading_lists_twice_changes_nothing(venue: Venue) -> None:
    orders = limit_orders(venue, 4)
    venue.price("48900")
    ids = [order.pk for order in orders]

    look(ids)
    rows, told = list(Order.objects.order_by("pk").values()), len(events("orderUpdates"))
    look(ids)

    assert list(Order.objects.order_by("pk").values()) == rows
    assert (Fill.objects.count(), len(events("orderUpdates"))) == (4, told)


def test_readings_of_one_market_at_once_count_each_fill_once(venue: Venue) -> None:
    orders = limit_orders(venue, 4)
    venue.price("48900")

    at_once([lambda: look([order.pk for order in orders])] * 3)

    assert statuses() == [S.CLOSED] * 4
    assert Fill.objects.count() == 4
    assert len(events("tradeUpdates")) == 4


def test_two_orders_are_looked_up_singly(venue: Venue) -> None:
    orders = limit_orders(venue, 2)

    look([order.pk for order in orders])

    assert len(venue.requests_of("GET", LOOK_UP)) == 2
    assert venue.requests_of("GET", ACTIVE) == []


def test_an_order_that_no_list_shows_is_looked_up_and_only_that_is_a_miss(venue: Venue) -> None:
    orders = limit_orders(venue, 3)
    venue.fault(method="POST", path=ORDERS, when="before", kind="drop")
    lost = venue.ready_order()
    services.order_submit(lost.pk)
    let_pass(lost, 30)

    look([order.pk for order in (*orders, lost)])

    lost.refresh_from_db()
    assert (lost.status, lost.lookups) == (S.UNKNOWN, 1)
    assert len(venue.requests_of("GET", LOOK_UP)) == 1


def test_an_order_of_unknown_outcome_is_adopted_from_a_list(venue: Venue) -> None:
    orders = limit_orders(venue, 3)
    venue.fault(method="POST", path=ORDERS, when="after", kind="drop")
    unknown = venue.ready_order()
    assert services.order_submit(unknown.pk) == S.UNKNOWN

    look([order.pk for order in (*orders, unknown)])

    unknown.refresh_from_db()
    assert (unknown.status, unknown.filled) == (S.CLOSED, Decimal("0.02"))
    assert unknown.exchange_order_id == venue.orders()[-1]["id"]
    assert venue.requests_of("GET", LOOK_UP) == []


def test_lists_that_cannot_be_read_leave_every_order_as_it_was_and_due_later(venue: Venue) -> None:
    orders = limit_orders(venue, 3)
    venue.fault(method="GET", path=DONE, kind="http", status=503, body="<html>", count=None)

    look([order.pk for order in orders])

    assert statuses() == [S.OPENED] * 3
    assert services.orders_to_look_at(timezone.now()) == []
    assert set(Order.objects.values_list("failures", "leased_until")) == {(1, None)}
    assert venue.requests_of("GET", LOOK_UP) == []


def test_an_order_of_somebody_else_gets_one_row_with_its_fills(venue: Venue) -> None:
    orders = limit_orders(venue, 3)
    ids = [order.pk for order in orders]
    look(ids)  # watched from here on
    made = by_hand(venue, "buy", "0.1")

    look(ids)
    look(ids)

    foreign = Order.objects.get(is_foreign=True)
    assert (foreign.exchange_order_id, foreign.side, foreign.status) == (made["id"], "BUY", S.CLOSED)
    assert (foreign.filled, foreign.client_order_id[:2], len(foreign.client_order_id)) == (Decimal("0.1"), "x-", 34)
    assert foreign.detail.startswith("placed by others as ")
    assert foreign.fills.count() == 1


def test_an_order_whose_answer_comes_while_a_list_is_written_down_is_no_strangers(venue: Venue) -> None:
    order = venue.ready_order()
    venue.fault(method="POST", path=ORDERS, when="after", kind="drop")
    services.order_submit(order.pk)
    [there] = venue.orders()
    reading = lookups.market_read(
        gateway_for(venue.exchange, venue.account, [venue.market]), venue.account, venue.market
    )
    # Whatever is asked of the orders first, the answer is written down right after it.
    answers = [lambda: elsewhere(lambda: Order.objects.filter(pk=order.pk).update(exchange_order_id=there["id"]))]

    def answered(execute: Any, sql: str, *rest: Any) -> Any:
        result = execute(sql, *rest)
        if sql.startswith("SELECT") and 'FROM "orders_order"' in sql and answers:
            answers.pop()()
        return result

    with connection.execute_wrapper(answered):
        lookups.market_settle(venue.account, venue.market, reading)

    assert answers == []
    assert list(Order.objects.values_list("pk", "is_foreign", "status")) == [(order.pk, False, S.CLOSED)]


def test_what_others_did_before_the_market_is_watched_is_not_told(venue: Venue) -> None:
    by_hand(venue, "buy", "0.1")
    venue.advance(600)
    orders = limit_orders(venue, 3)

    look([order.pk for order in orders])

    assert not Order.objects.filter(is_foreign=True).exists()


def test_the_cursor_stays_where_a_fill_could_not_be_recorded(venue: Venue, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = limit_orders(venue, 3)
    ids = [order.pk for order in orders]
    look(ids)
    begun = FillCursor.objects.get().read_until
    venue.advance(60)
    venue.price("48900")
    record = ledger._record

    def failing(order: Order, *rest: Any) -> str:
        if order.pk == ids[0]:
            raise ValueError("no")
        return record(order, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(ledger, "_record", failing)
        look(ids)
    assert FillCursor.objects.get().read_until == begun
    assert Fill.objects.count() == 2

    let_pass(orders[0], 60)
    look(ids)
    orders[0].refresh_from_db()
    assert orders[0].status == S.CLOSED
    assert Fill.objects.count() == 3


def test_a_fill_of_an_order_that_had_ended_is_recorded_and_told(venue: Venue) -> None:
    orders = limit_orders(venue, 4)
    venue.price("48900")
    look([order.pk for order in orders])
    late = orders[0]
    late.fills.all().delete()
    Order.objects.filter(pk=late.pk).update(filled=0, filled_quote=0)
    account, market = venue.account, venue.market
    gateway = gateway_for(venue.exchange, account, [market])

    lookups.market_settle(account, market, lookups.market_read(gateway, account, market))

    late.refresh_from_db()
    assert [fill.order_id for fill in Fill.objects.filter(is_late=True)] == [late.pk]
    assert (late.status, late.filled, late.filled_quote) == (S.CLOSED, Decimal("0.001"), Decimal("48.9"))


def test_an_order_of_which_the_venue_shows_no_more_than_its_fills_is_done_when_they_fill_it(venue: Venue) -> None:
    orders = limit_orders(venue, 3)
    look([order.pk for order in orders])  # watched from here on
    venue.simulator.control("settings", keepFilledS=60)
    venue.price("48900")
    venue.advance(3600)
    for order in orders:
        let_pass(order, 60)

    look([order.pk for order in orders])

    assert statuses() == [S.CLOSED] * 3
    assert set(Order.objects.values_list("filled", flat=True)) == {Decimal("0.001")}


def test_a_look_that_is_under_way_is_not_doubled(venue: Venue, monkeypatch: pytest.MonkeyPatch) -> None:
    [order] = limit_orders(venue, 1)
    seen: list[Any] = []

    def looked_at_elsewhere() -> None:
        seen.append(lookups.order_look(order.pk))
        seen.append(services.orders_to_look_at(timezone.now()))

    happens_before(monkeypatch, CcxtGateway, "order_find", looked_at_elsewhere)
    lookups.order_look(order.pk)

    assert seen == [S.OPENED, []]
    assert len(venue.requests_of("GET", LOOK_UP)) == 1
    order.refresh_from_db()
    assert order.leased_until is None


def test_a_look_whose_worker_died_is_made_again_after_its_lease(venue: Venue) -> None:
    [order] = limit_orders(venue, 1)
    Order.objects.update(leased_until=timezone.now() + lookups.LEASE)

    assert services.orders_to_look_at(timezone.now()) == []
    assert services.orders_to_look_at(timezone.now() + lookups.LEASE) == [order.pk]


def test_a_venue_that_fails_is_asked_ever_more_seldom_and_at_once_when_it_is_well(venue: Venue) -> None:
    [order] = limit_orders(venue, 1)
    venue.fault(method="GET", path=LOOK_UP, kind="http", status=503, body="<html>", count=None)
    pauses = []
    for _ in range(6):
        venue.limits_reset()  # the circuit breaker would not let the sixth pass
        before = timezone.now()
        lookups.order_look(let_pass(order, 60).pk)
        order.refresh_from_db()
        assert order.not_before_at is not None
        pauses.append(round((order.not_before_at - before).total_seconds()))
        assert lookups.order_look(order.pk) == S.OPENED  # in its pause nobody asks

    assert pauses == [2, 4, 8, 16, 16, 16]
    assert len(venue.requests_of("GET", LOOK_UP)) == 6

    venue.heal()
    lookups.order_look(let_pass(order, 60).pk)
    order.refresh_from_db()
    assert order.failures == 0


@pytest.mark.parametrize("name", ["order_find", "order_create"])
def test_a_venue_that_says_when_to_ask_again_is_obeyed(
    venue: Venue, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    order = venue.ready_order() if name == "order_create" else limit_orders(venue, 1)[0]

    def busy(*_: Any) -> None:
        raise ExchangeUnavailable("too many requests", retry_after=timedelta(seconds=90))

    monkeypatch.setattr(CcxtGateway, name, busy)
    before = timezone.now()
    (services.order_submit if name == "order_create" else lookups.order_look)(order.pk)

    order.refresh_from_db()
    assert order.not_before_at is not None
    assert order.not_before_at >= before + timedelta(seconds=90)


def test_an_order_whose_look_always_fails_is_told_of_once_and_keeps_nobody_waiting(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison, fine = limit_orders(venue, 2)
    record = ledger._record
    monkeypatch.setattr(
        ledger, "_record", lambda order, *rest: 1 / 0 if order.pk == poison.pk else record(order, *rest)
    )

    for _ in range(lookups.FAILURES_BEFORE_REVIEW + 2):
        look([let_pass(poison, 60).pk, let_pass(fine, 60).pk])

    assert [event["client_order_id"] for event in events("alerts", alert="ORDER_NEEDS_REVIEW")] == [
        poison.client_order_id
    ]
    fine.refresh_from_db()
    assert fine.failures == 0


def test_an_order_that_a_blind_look_up_misses_is_found_in_the_lists(venue: Venue) -> None:
    order = venue.ready_order()
    venue.fault(method="POST", path=ORDERS, when="after", kind="drop")
    services.order_submit(order.pk)
    let_pass(order, 16)
    venue.fault(method="GET", path=LOOK_UP, count=None, **NOT_THERE)

    looks = [lookups.order_look(let_pass(order, 2).pk) for _ in range(3)]

    assert looks == [S.UNKNOWN, S.UNKNOWN, S.CLOSED]
    assert not Order.objects.filter(is_foreign=True).exists()


def test_lists_that_cannot_be_read_prove_nothing(venue: Venue) -> None:
    order = venue.ready_order()
    venue.fault(method="POST", path=ORDERS, when="before", kind="drop")
    services.order_submit(order.pk)
    let_pass(order, 60)
    venue.fault(method="GET", path=DONE, kind="http", status=503, body="<html>", count=None)

    looks = [lookups.order_look(let_pass(order, 60).pk) for _ in range(6)]

    assert looks == [S.UNKNOWN] * 6


def test_where_a_late_request_may_still_be_accepted_absence_takes_minutes_to_mean_anything(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CcxtGateway, "refuses_late_requests", False, raising=False)
    order = venue.ready_order()
    venue.fault(method="POST", path=ORDERS, when="before", kind="drop")
    services.order_submit(order.pk)
    let_pass(order, 60)

    early = [lookups.order_look(let_pass(order, 3).pk) for _ in range(5)]
    let_pass(order, 300)
    late = [lookups.order_look(let_pass(order, 3).pk) for _ in range(3)]

    assert early == [S.UNKNOWN] * 5
    assert late == [S.UNKNOWN, S.UNKNOWN, S.NOT_PLACED]


def test_an_order_that_the_lists_show_is_never_given_up_even_where_it_cannot_be_recorded(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = venue.ready_order()
    venue.fault(method="POST", path=ORDERS, when="after", kind="drop")
    services.order_submit(order.pk)
    let_pass(order, 16)
    venue.fault(method="GET", path=LOOK_UP, count=None, **NOT_THERE)
    monkeypatch.setattr(ledger, "_record", lambda *_: 1 / 0)

    looks = [lookups.order_look(let_pass(order, 20).pk) for _ in range(5)]

    assert looks == [S.UNKNOWN] * 5


def test_an_open_order_that_the_venue_has_forgotten_is_told_of_once(venue: Venue) -> None:
    [order] = limit_orders(venue, 1)
    venue.fault(method="GET", path=LOOK_UP, count=None, **NOT_THERE)

    for _ in range(lookups.FAILURES_BEFORE_REVIEW + 2):
        look([let_pass(order, 60).pk])

    order.refresh_from_db()
    assert order.status == S.OPENED
    assert [event["client_order_id"] for event in events("alerts", alert="ORDER_NEEDS_REVIEW")] == [
        order.client_order_id
    ]


def test_an_order_whose_fills_are_all_listed_is_closed_though_the_venue_forgot_the_order(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    [order] = limit_orders(venue, 1)
    account, market = venue.account, venue.market
    gateway = gateway_for(venue.exchange, account, [market])
    venue.price("48900")
    monkeypatch.setattr(CcxtGateway, "orders_done", lambda *_: [])

    lookups.market_settle(account, market, lookups.market_read(gateway, account, market))

    order.refresh_from_db()
    assert (order.status, order.filled) == (S.CLOSED, Decimal("0.001"))


def test_lists_of_an_account_whose_keys_nobody_can_read_keep_no_other_account_waiting(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = limit_orders(venue, 3)
    other = make_order(
        make_position(make_session(make_account(venue.account.owner, venue.exchange, "other"), make_config(
            venue.account.owner, make_feed(venue.market)))),
        status=S.OPENED, exchange_order_id="none", not_before_at=timezone.now(),
    )  # fmt: skip
    monkeypatch.setattr(lookups, "gateway_for", lambda exchange, account, markets: 1 / 0)

    look([*(order.pk for order in orders), other.pk])

    assert set(Order.objects.values_list("failures", "leased_until")) == {(1, None)}


@pytest.mark.parametrize(("speed", "overlap"), [(0.0, 120), (1.0, 120), (60.0, 7200)])
def test_lists_are_read_again_for_two_minutes_of_our_time_however_fast_the_venue_s_clock(
    venue: Venue, monkeypatch: pytest.MonkeyPatch, speed: float, overlap: int
) -> None:
    account, market = venue.account, venue.market
    account.exchange.clock_speed = speed
    asked: list[Any] = []

    def fills_since(gateway: CcxtGateway, symbol: str, since: Any) -> list[Any]:
        asked.append(since)
        return []

    monkeypatch.setattr(CcxtGateway, "fills_since", fills_since)
    gateway = gateway_for(venue.exchange, account, [market])

    reading = lookups.market_read(gateway, account, market)

    assert (reading.read_at - asked[0]).total_seconds() == overlap


def test_an_order_that_was_to_be_sent_again_and_is_at_the_venue_is_adopted_and_not_sent(venue: Venue) -> None:
    order = venue.ready_order()
    services.order_submit(order.pk)
    Fill.objects.all().delete()
    Order.objects.filter(pk=order.pk).update(
        status=S.READY, exchange_order_id="", filled=0, filled_quote=0, closed_at=None, not_before_at=None
    )
    account, market = venue.account, venue.market
    gateway = gateway_for(venue.exchange, account, [market])

    lookups.market_settle(account, market, lookups.market_read(gateway, account, market))
    services.order_submit(order.pk)

    order.refresh_from_db()
    assert (order.status, order.filled) == (S.CLOSED, Decimal("0.02"))
    assert len(venue.orders()) == 1
    assert len(events("alerts", alert="ORDER_FOUND_BEFORE_IT_WAS_SENT")) == 1


def test_an_order_listed_without_its_sender_s_id_is_nobody_else_s_while_it_may_be_ours(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = venue.ready_order()
    venue.fault(method="POST", path=ORDERS, when="after", kind="drop")
    services.order_submit(order.pk)
    by_hand(venue, "buy", "0.003")
    account, market = venue.account, venue.market
    gateway = gateway_for(venue.exchange, account, [market])
    done = CcxtGateway.orders_done
    monkeypatch.setattr(
        CcxtGateway, "orders_done", lambda *args: [replace(report, client_order_id="") for report in done(*args)]
    )

    settled_first = lookups.market_settle(account, market, lookups.market_read(gateway, account, market))
    found = list(Order.objects.filter(is_foreign=True).values_list("quantity", flat=True))
    lookups.order_look(order.pk)
    settled_then = lookups.market_settle(account, market, lookups.market_read(gateway, account, market))

    order.refresh_from_db()
    assert (settled_first.is_whole, settled_then.is_whole) == (False, True)
    assert found == [Decimal("0.003")]
    assert (order.status, order.filled, Fill.objects.count()) == (S.CLOSED, Decimal("0.02"), 2)
    assert Order.objects.filter(is_foreign=True).count() == 1
