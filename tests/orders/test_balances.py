"""After fills the account's balance is read again; and what signs requests shows nowhere."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core import serializers
from django.utils import timezone

from domain.orders import OrderStatus
from exchanges.credentials import UnableToDecrypt
from exchanges.models import Account, Balance
from exchanges.services import gateway_for
from orders import lookups, services, tasks
from orders.models import Fill, Order
from orders.tasks import balances, sweep_orders
from pipeline.models import Event
from tests.factories import PASSPHRASE, SECRET
from tests.venue import Venue

ORDERS = "/api/v1/hf/orders"


def stale_balances(account: Account) -> None:
    Balance.objects.filter(account=account).update(read_at=timezone.now() - timedelta(minutes=1))
    Account.objects.filter(pk=account.pk).update(balances_synced_at=timezone.now() - timedelta(minutes=1))


def test_a_filled_order_rings_for_its_account_s_balances(venue: Venue, bells: Any) -> None:
    order = venue.ready_order()
    bells.clear()

    services.order_submit(order.pk)

    assert bells.rung("orders.balances") == [{"account_ids": [venue.account.pk]}]


def test_balances_are_read_again_and_twice_changes_nothing(venue: Venue) -> None:
    order = venue.ready_order()
    services.order_submit(order.pk)

    balances([venue.account.pk])
    balances([venue.account.pk])

    read = {row.currency: (row.total, row.free) for row in Balance.objects.filter(account=venue.account)}
    usdt = Decimal(10000) - Decimal("50002.5") * Decimal("0.02") * Decimal("1.001")
    assert read == {"USDT": (usdt, usdt), "BTC": (Decimal("0.02"), Decimal("0.02"))}


def test_a_lost_balance_bell_is_rung_again_until_they_are_read(venue: Venue, bells: Any) -> None:
    order = venue.ready_order()
    stale_balances(venue.account)
    services.order_submit(order.pk)
    bells.clear()

    sweep_orders()
    rung = bells.rung("orders.balances")
    balances([venue.account.pk])
    bells.clear()
    sweep_orders()

    assert rung == [{"account_ids": [venue.account.pk]}]
    assert bells.rung("orders.balances") == []


def test_balances_of_a_paused_account_or_a_disabled_exchange_are_not_asked_for(venue: Venue) -> None:
    order = venue.ready_order()
    stale_balances(venue.account)
    services.order_submit(order.pk)
    due = services.accounts_with_old_balances(timezone.now())

    Account.objects.update(status=Account.Status.PAUSED)

    assert due == [venue.account.pk]
    assert services.accounts_with_old_balances(timezone.now()) == []


def test_a_venue_that_does_not_answer_leaves_the_balances_as_they_were(venue: Venue) -> None:
    account = venue.account
    before = list(Balance.objects.values("currency", "total", "read_at"))
    venue.fault(method="GET", path="/api/v1/accounts", kind="http", status=500, body="")

    balances([account.pk])

    assert list(Balance.objects.values("currency", "total", "read_at")) == before


def test_the_fills_of_one_trade_id_are_one_fill_per_account_and_market(venue: Venue) -> None:
    order = venue.ready_order()
    services.order_submit(order.pk)
    fill = Fill.objects.get()
    fill.pk = None

    with pytest.raises(Exception, match="fill_counted_once"):
        fill.save()


def test_a_trade_with_oneself_is_two_fills_of_one_trade_id(venue: Venue) -> None:
    bought, sold = venue.ready_order(), venue.ready_order(side="SELL", is_exit=True)
    services.order_submit(bought.pk)
    services.order_submit(sold.pk)
    mine = Fill.objects.get(order=bought)
    theirs = gateway_for(venue.exchange, venue.account, [venue.market]).fills_since("BTC/USDT", mine.filled_at)
    [sale] = [fill for fill in theirs if fill.side == "SELL"]
    Fill.objects.filter(order=sold).delete()
    Order.objects.filter(pk=sold.pk).update(status=OrderStatus.OPENED, filled=0, filled_quote=0)
    sold.refresh_from_db()
    gateway = gateway_for(venue.exchange, venue.account, [venue.market])
    report = gateway.order_find("BTC/USDT", sold.client_order_id)
    assert report is not None
    reading = lookups.MarketReading(
        {report.exchange_order_id: report},
        {report.exchange_order_id: [replace(sale, trade_id=mine.trade_id)]},
        timezone.now(),
    )

    for _ in range(2):
        lookups.market_settle(venue.account, venue.market, reading)

    sold.refresh_from_db()
    assert (sold.status, sold.filled) == (OrderStatus.CLOSED, Decimal("0.02"))
    assert [(fill.trade_id, fill.side) for fill in Fill.objects.order_by("side")] == [
        (mine.trade_id, "BUY"),
        (mine.trade_id, "SELL"),
    ]


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "code", "code": "400003", "msg": "KC-API-KEY not exists", "status": 401},
        {"kind": "code", "code": "200004", "msg": "Balance insufficient!"},
        {"kind": "drop"},
        {"kind": "http", "status": 502, "body": "<html></html>"},
        None,
    ],
)
def test_secrets_show_in_no_row_no_journal_and_no_log(
    venue: Venue, caplog: pytest.LogCaptureFixture, fault: dict[str, Any] | None
) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("ccxt").setLevel(logging.INFO)  # as the settings have it
    order = venue.ready_order()
    if fault:
        venue.fault(method="POST", path=ORDERS, **fault)

    services.order_submit(order.pk)
    lookups.orders_look([order.pk])
    balances([venue.account.pk])

    rows = serializers.serialize("json", [*Order.objects.all(), *Fill.objects.all(), *Event.objects.all()])
    told = rows + json.dumps(list(Event.objects.values_list("ids", "data")), default=str)
    assert order.client_order_id in told
    for canary in (SECRET, PASSPHRASE):
        assert canary not in told
        assert canary not in caplog.text
        assert canary not in repr(vars(Order.objects.select_related("account").get(pk=order.pk)))
    assert "KC-API-SIGN" not in caplog.text


def test_balances_that_cannot_be_read_keep_no_other_account_waiting(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def refresh(account_id: int) -> None:
        asked.append(account_id)
        if account_id == 1:
            raise UnableToDecrypt("no")

    monkeypatch.setattr(tasks, "balances_refresh", refresh)

    balances([1, 2])

    assert asked == [1, 2]
