"""Writing down what became of an order: one guarded move and its announcement, each fill once, in one transaction.

Whoever learns something of an order, by whatever way, ends here; so it does not matter who was first, or how often.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.utils import timezone

from domain.market import ZERO
from domain.orders import Execution, OrderStatus
from exchanges.gateway import FillReport, OrderReport
from exchanges.models import Account, Market
from orders.models import Fill, Order, foreign_order_id
from pipeline.claims import GuardedQuerySet, settled
from pipeline.crashpoints import crashpoint
from pipeline.models import Event
from pipeline.topics import Note, Topic, publish, publish_all, ring

logger = logging.getLogger(__name__)

S = OrderStatus

LOOK_AGAIN = timedelta(seconds=2)
# An order that waits for its stop price: whoever hears of the price, or of the order, hastens the look.
LOOK_AGAIN_AT_WAITING = timedelta(seconds=30)
# Somebody else's order is no hurry of ours.
LOOK_AGAIN_AT_FOREIGN = timedelta(seconds=60)
# ``reason`` of an order that was given up, found after all, and whose intent is carried out by another attempt.
LATE = "LATE"
FOREIGN = "FOREIGN"
# An order that the venue made itself to close a position whose margin was used up, and that is no position's yet.
LIQUIDATION = "LIQUIDATION"
# An attempt that was never sent, because the one before it was found after all.
SUPERSEDED = {"reason": "SUPERSEDED", "reserved": 0}
# Whatever shows an order among these at the venue is the first to know. One that is READY was refused unseen, or so the venue
# said: it must not be sent again.
NOT_KNOWN_TO_BE_THERE = (S.READY, S.SUBMITTING, S.UNKNOWN, S.NOT_PLACED)
# Among these a fill should not come any more.
ENDED = (S.CLOSED, S.CANCELED, S.REJECTED, S.DENIED)


def orders_announce(
    orders: Sequence[Order], topic: Topic, *, actor: str = "system", is_news: bool = True, **data: Any
) -> None:
    """Publish where these orders stand; ``account`` must be loaded. What is no news is journaled and wakes nobody; what may
    leave a position to be protected wakes the tasks that wait behind nothing else."""
    publish_all(
        topic,
        [
            Note(
                key=order.pk,
                ids={"order_id": order.pk, "account_id": order.account_id, "owner_id": order.account.owner_id},
                data={"status": order.status, "client_order_id": order.client_order_id, **data},
                is_urgent=order.is_exit or order.status in (S.OPENED, S.CLOSED) or bool(order.exchange_order_id),
            )
            for order in orders
        ],
        actor=actor,
        wakes=is_news,
    )


def order_loaded(order_id: int) -> Order:
    """The order with everything a call to its venue needs."""
    order: Order = Order.objects.select_related("account__exchange", "market").get(pk=order_id)
    return order


def order_settle(order: Order, to: OrderStatus, *, among: Collection[str], **changes: Any) -> str:
    """Move one order and announce it, loudly when it had been given up; the status it has afterwards, whoever set it."""
    return settled(lambda: _settle(order, to, among, changes))


def order_record(order: Order, report: OrderReport, fills: Sequence[FillReport]) -> str:
    """Record what the venue shows: fills first, then the status that the quantities mean, in one transaction; the status.

    ``fills`` may lack some of the order's: it is done only when they add up to what the report says. Fills of an order that
    was done already are added all the same. Raises RuntimeError for a report that cannot be this order's.
    """
    if (report.side, report.symbol) != (order.side, order.market.symbol):
        raise RuntimeError(
            f"{order.client_order_id}: wanted {order.side} {order.market.symbol}, found {report.side} {report.symbol}"
        )
    return settled(lambda: _record(order, report, fills))


def order_take_in(account: Account, market: Market, report: OrderReport) -> Order:
    """The row of an order at the venue that is not ours: made once, whoever finds it; ``report`` is not recorded yet."""
    now = timezone.now()
    order, _ = Order.objects.get_or_create(
        client_order_id=foreign_order_id(account.pk, market.symbol, report.exchange_order_id),
        defaults={
            "account": account, "market": market, "intent_id": uuid.uuid4(), "is_foreign": True, "status": S.OPENED,
            "exchange_order_id": report.exchange_order_id, "side": report.side, "order_type": report.order_type,
            "quantity": report.quantity, "price": report.price,
            "reason": LIQUIDATION if report.is_liquidation else FOREIGN,
            "detail": f"placed by others as {report.client_order_id}"[:200] if report.client_order_id else "",
            "sent_at": now, "opened_at": now, "not_before_at": now + LOOK_AGAIN_AT_FOREIGN,
        },
    )  # fmt: skip
    order.account, order.market = account, market
    return order


def order_alert_once(among: QuerySet[Order], order_id: int, alert: str) -> bool:
    """Tell of an order that is (still) ``among`` these, unless it was told before; whether it was told now."""
    with transaction.atomic():
        # Locked, so that of two sweeps the second sees what the first has told.
        rows: GuardedQuerySet[Order] = Order.objects.filter(pk=order_id, pk__in=among.values("pk"))
        order = rows.select_related("account").locked().first()
        if order is None:
            return False
        told = Event.objects.filter(topic=Topic.ALERTS, key=order.account_id, ids__order_id=order.pk, data__alert=alert)
        if told.exists():
            return False
        _alert(order, alert)
    return True


def _settle(order: Order, to: OrderStatus, among: Collection[str], changes: dict[str, Any]) -> str:
    if to in (S.REJECTED, S.NOT_PLACED):
        changes = changes | {"reserved": 0, "closed_at": timezone.now()}
    if to in (S.UNKNOWN, S.OPENED):
        changes = {"not_before_at": timezone.now() + LOOK_AGAIN} | changes
    mine = Order.objects.filter(pk=order.pk)
    with transaction.atomic(savepoint=False):
        moved = mine.move(to, among=set(among) - {S.NOT_PLACED}, **changes)
        if moved or (S.NOT_PLACED in among and _take_back(order, changes)):
            # That an order on its way has arrived changes no decision: the tracker waits for its fills and its end.
            is_news = (order.status, to) != (S.SUBMITTING, S.OPENED)
            order.status = to
            orders_announce([order], Topic.ORDER_UPDATES, is_news=is_news)
            return to
    return str(Order.objects.values_list("status", flat=True).get(pk=order.pk))


def _take_back(order: Order, changes: dict[str, Any]) -> int:
    """Adopt an order that had been given up, and say so; whether this call did."""
    given_up = Order.objects.filter(pk=order.pk, status=S.NOT_PLACED)
    if not given_up.exists():
        return 0
    _alert(order, "ORDER_FOUND_AFTER_NOT_PLACED")
    changes = changes | {"closed_at": None, "reason": ""}
    _withdraw_next_attempt(order)
    try:
        with transaction.atomic():
            return given_up.move(S.OPENED, **changes)
    except IntegrityError:
        # Its intent has another attempt alive, and what this one does is no part of it: it is recorded by itself.
        logger.error("order %s was found at the venue beside another attempt of its intent", order.client_order_id)
        return given_up.move(S.OPENED, **(changes | {"reason": LATE, "intent_id": uuid.uuid4()}))


def _withdraw_next_attempt(order: Order) -> None:
    """What was to be tried again need not be: the attempt that has not been sent yet never is."""
    same_intent = Order.objects.filter(pk=order.pk).values("intent_id")
    others: GuardedQuerySet[Order] = Order.objects.filter(intent_id__in=same_intent).exclude(pk=order.pk)
    unsent = list(others.filter(status__in=(S.REQUESTED, S.READY)).select_related("account").locked())
    withdrawn = Order.objects.filter(pk__in=[one.pk for one in unsent])
    if withdrawn.move(S.CANCELED, among=(S.REQUESTED, S.READY), **SUPERSEDED, closed_at=timezone.now()):
        for one in unsent:
            one.status = S.CANCELED
        orders_announce(unsent, Topic.ORDER_UPDATES)


def _record(order: Order, report: OrderReport, fills: Sequence[FillReport]) -> str:
    with transaction.atomic():
        # Locked, so that two looks at it add up the fills one after the other.
        totals = Order.objects.locked().get(pk=order.pk)
        if totals.status in NOT_KNOWN_TO_BE_THERE:
            if totals.status == S.READY:
                _alert(order, "ORDER_FOUND_BEFORE_IT_WAS_SENT")
            order.status = totals.status
            order_settle(
                order,
                S.OPENED,
                among=NOT_KNOWN_TO_BE_THERE,
                exchange_order_id=report.exchange_order_id,
                stop_order_id=report.exchange_order_id if report.is_waiting else "",
                opened_at=timezone.now(),
            )
        elif totals.waits_for_price and not report.is_waiting:
            _take_over(totals, report)
        new = _add_fills(totals, fills)
        crashpoint("fills.recorded")
        is_complete = totals.filled >= report.filled
        if new:
            publish(
                Topic.TRADE_UPDATES, order.pk, order_id=order.pk, account_id=order.account_id,
                owner_id=order.account.owner_id, data={"new_fills": new, "filled": totals.filled},
            )  # fmt: skip
        if totals.status in ENDED:
            return _reopen_the_books(totals, order) if new else str(totals.status)
        is_whole = totals.execution == Execution.FULLY_EXECUTED  # then it was filled, whatever word the venue uses
        if not is_complete or (report.is_open and not is_whole):
            _wait_for_more(order, report, timezone.now())
            if new:
                orders_announce([order], Topic.ORDER_UPDATES)
            return S.OPENED
        done = S.CANCELED if report.is_canceled and not is_whole else S.CLOSED
        ended = {"closed_at": timezone.now(), "reserved": 0, "not_before_at": None, "leased_until": None, "failures": 0}
        if not order.is_foreign:
            ended["detail"] = ""
        status = order_settle(order, done, among=(S.OPENED,), **ended)
        if new:
            _balances_ask_for(order)
    return status


def _take_over(totals: Order, report: OrderReport) -> None:
    """The stop price was met: from here on the order goes by the id of what it became, and so do its fills; where that is
    the id that it waited under, none is kept for the time of its waiting. Never back: what is read late of the time when it
    waited says nothing new."""
    is_same = report.exchange_order_id == totals.exchange_order_id
    changes = {"stop_order_id": ""} if is_same else {"exchange_order_id": report.exchange_order_id}
    Order.objects.filter(pk=totals.pk).update(**changes)


def _wait_for_more(order: Order, report: OrderReport, now: datetime) -> None:
    is_hurried = not order.is_foreign or order.is_cancel_wanted or not report.is_open
    pause = LOOK_AGAIN if is_hurried else LOOK_AGAIN_AT_FOREIGN
    if report.is_waiting and not order.is_cancel_wanted:
        pause = LOOK_AGAIN_AT_WAITING
    Order.objects.filter(pk=order.pk, status=S.OPENED).update(
        not_before_at=now + pause, leased_until=None, failures=0, lookups=0
    )


def _reopen_the_books(totals: Order, order: Order) -> str:
    """A fill of an order that had ended: its end is news once more, so that its position is added up again."""
    Order.objects.filter(pk=totals.pk).update(closed_at=timezone.now())
    order.status = totals.status
    orders_announce([order], Topic.ORDER_UPDATES)
    _balances_ask_for(order)
    return str(totals.status)


def _balances_ask_for(order: Order) -> None:
    if not _is_balance_awaited(order.account_id, but=order):
        transaction.on_commit(lambda: ring("orders.balances", account_ids=[order.account_id]), robust=True)


def _is_balance_awaited(account_id: int, but: Order) -> bool:
    """Whether another order's fill has rung for the account's balances and they were not read since: a burst of fills asks
    the venue once, and the sweep asks for whatever came after that."""
    since = Account.objects.filter(pk=account_id).values("balances_synced_at")
    return Fill.objects.filter(account=account_id, recorded_at__gt=since).exclude(order=but).exists()


def _add_fills(order: Order, fills: Sequence[FillReport]) -> int:
    """Add the fills that are not there yet and sum them all up on the locked ``order``; how many were new."""
    before = order.fills.count() if order.filled else 0
    is_late = order.status in ENDED
    Fill.objects.bulk_create(
        [
            Fill(
                order=order, account_id=order.account_id, market_id=order.market_id, trade_id=fill.trade_id,
                side=fill.side, quantity=fill.quantity, price=fill.price, fee=fill.fee, fee_currency=fill.fee_currency,
                filled_at=fill.filled_at, is_late=is_late,
            )
            for fill in fills
        ],
        ignore_conflicts=True,
    )  # fmt: skip
    recorded = list(order.fills.all())
    if len(recorded) > before:
        order.filled = sum((fill.quantity for fill in recorded), ZERO)
        order.filled_quote = sum((fill.quantity * fill.price for fill in recorded), ZERO)
        order.save(update_fields=["filled", "filled_quote"])
    return len(recorded) - before


def _alert(order: Order, alert: str) -> None:
    publish(
        Topic.ALERTS, order.account_id, order_id=order.pk, account_id=order.account_id, owner_id=order.account.owner_id,
        data={"alert": alert, "client_order_id": order.client_order_id},
    )  # fmt: skip
