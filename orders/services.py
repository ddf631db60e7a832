"""The submission protocol (OrderManager): a row first, one call, and an outcome that is known or looked up.

    READY --claim--> SUBMITTING, committed --one call--> OPENED | REJECTED | UNKNOWN     (or READY: refused unseen)
    UNKNOWN --look up by client order id--> OPENED, or NOT_PLACED after the deadline and several misses
    OPENED --look up--> fills, then CLOSED or CANCELED

Nothing is ever sent twice: only the claim sends, each claim sends once, and an unknown outcome is looked up until it is
known. Every write after a call is guarded by the status it expects, so whoever comes second changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import F, Q
from django.utils import timezone

from domain.market import ZERO, OrderType, Side
from domain.orders import AT_VENUE_STATUSES, LIVE_STATUSES, Execution, OrderStatus
from exchanges.credentials import UnableToDecrypt
from exchanges.gateway import (
    ExchangeUnavailable,
    FillReport,
    Gateway,
    OrderOutcomeUnknown,
    OrderRejected,
    OrderReport,
    OrderTicket,
)
from exchanges.models import Account
from exchanges.services import account_pause, gateway_for
from orders.models import Fill, Order
from pipeline.claims import GuardedQuerySet
from pipeline.crashpoints import crashpoint
from pipeline.models import Event
from pipeline.topics import Note, Topic, publish, publish_all, ring

logger = logging.getLogger(__name__)

S = OrderStatus

# The venue refuses the request when it arrives later than this after sent_at; must be shorter than the HTTP timeout.
WINDOW = timedelta(seconds=5)
# A claimed order whose worker never wrote an outcome is unknown after the HTTP timeout and a margin.
OUTCOME_IS_LATE_AFTER = timedelta(seconds=15)
# Before "not found" may mean "not placed": clock differences and the venue's own read-after-write lag.
NOT_PLACED_MARGIN = timedelta(seconds=5)
NOT_PLACED_MISSES = 3
LOOK_AGAIN = timedelta(seconds=2)
UNSEEN_PAUSE = timedelta(seconds=2)
BELL_IS_LATE_AFTER = timedelta(seconds=3)
UNKNOWN_ALERT_AFTER = timedelta(minutes=2)
# An entry that could not be sent for this long is worth nothing any more; an exit always is.
ENTRY_IS_OLD_AFTER = timedelta(seconds=60)


def orders_announce(
    orders: Sequence[Order], topic: Topic, *, actor: str = "system", is_news: bool = True, **data: Any
) -> None:
    """Publish where these orders stand; ``account`` must be loaded. What is no news is journaled and wakes nobody."""
    publish_all(
        topic,
        [
            Note(
                key=order.pk,
                ids={"order_id": order.pk, "account_id": order.account_id, "owner_id": order.account.owner_id},
                data={"status": order.status, "client_order_id": order.client_order_id, **data},
            )
            for order in orders
        ],
        actor=actor,
        wakes=is_news,
    )


def order_submit(order_id: int) -> str | None:
    """Send a READY order, once; the status it has afterwards, or None when it was not this call's to send.

    1. Claim READY to SUBMITTING, with the deadline, and commit.
    2. Make one call, holding no transaction.
    3. Write the outcome, guarded by the claim.
    4. A market order is usually done by then: look at once.
    """
    now = timezone.now()
    due = Order.objects.filter(Q(not_before_at=None) | Q(not_before_at__lte=now), pk=order_id, is_cancel_wanted=False)
    fresh = due.filter(Q(is_exit=True) | Q(valued_at__gte=now - ENTRY_IS_OLD_AFTER))
    if not fresh.move(S.SUBMITTING, sent_at=now, deadline_at=now + WINDOW, not_before_at=None, lookups=0):
        return _expire(due.filter(is_exit=False, valued_at__lt=now - ENTRY_IS_OLD_AFTER), order_id)
    order = _loaded(order_id)
    crashpoint("order.claimed")
    try:
        gateway = gateway_for(order.account.exchange, order.account, [order.market])
        exchange_order_id = gateway.order_create(_ticket(order))
    except UnableToDecrypt as error:
        account_pause(order.account_id, str(error), keys=order.account.credentials)
        return _settle(order, S.REJECTED, among=(S.SUBMITTING,), reason="KEYS_UNREADABLE", detail=str(error)[:200])
    except ExchangeUnavailable as error:
        return _submit_later(order, str(error))
    except OrderRejected as error:
        if error.is_refused_key:
            account_pause(order.account_id, str(error), keys=order.account.credentials)
        return _settle(order, S.REJECTED, among=(S.SUBMITTING,), reason=error.code[:40], detail=str(error)[:200])
    except OrderOutcomeUnknown as error:
        return _settle(order, S.UNKNOWN, among=(S.SUBMITTING,), detail=str(error)[:200], not_before_at=timezone.now())
    crashpoint("order.answered")
    # An order whose answer came after it had been called unknown is adopted just the same.
    order.exchange_order_id = exchange_order_id
    status = _settle(
        order,
        S.OPENED,
        among=(S.SUBMITTING, S.UNKNOWN, S.NOT_PLACED),
        exchange_order_id=exchange_order_id,
        opened_at=timezone.now(),
    )
    crashpoint("order.settled")
    if status == S.OPENED and order.order_type == OrderType.MARKET:
        return _ask_venue(order)
    return status


def orders_look(order_ids: Iterable[int]) -> None:
    """Look at each of these orders; one that cannot be looked at does not keep the others from it."""
    for order_id in order_ids:
        try:
            order_look(order_id)
        except Exception as error:
            logger.exception("order %s could not be looked at", order_id)
            _look_again(_loaded(order_id), f"{type(error).__name__}: {error}")


def order_look(order_id: int) -> str | None:
    """Ask the venue what became of an order that is, or may be, there; its status afterwards, or None if it was not due.

    A venue that cannot be asked proves nothing: the order stays as it is and is looked at again later.
    """
    order = _loaded(order_id)
    if order.status == S.SUBMITTING:
        # Its worker died between claim and outcome: from here on it is looked up like any other unknown.
        if order.sent_at is None or timezone.now() < order.sent_at + OUTCOME_IS_LATE_AFTER:
            return None
        _settle(order, S.UNKNOWN, among=(S.SUBMITTING,), detail="no outcome was recorded", not_before_at=timezone.now())
        order = _loaded(order_id)
    return _ask_venue(order) if order.status in (S.UNKNOWN, S.OPENED) else None


def _ask_venue(order: Order) -> str:
    try:
        gateway = gateway_for(order.account.exchange, order.account, [order.market])
        _cancel_if_wanted(gateway, order)
        report = gateway.order_find(order.market.symbol, order.client_order_id)
        fills = gateway.order_fills(order.market.symbol, report.exchange_order_id) if report and report.filled else []
    except ExchangeUnavailable as error:
        if error.is_refused_key:
            account_pause(order.account_id, str(error), keys=order.account.credentials)
        _look_again(order, str(error))
        return order.status
    if report is None:
        return _not_found(order)
    return _found(order, report, fills)


def orders_cancel(orders: Collection[Order], *, actor: str = "system") -> None:
    """Want these orders gone. What was not sent yet is cancelled here and now; the rest is cancelled at the venue, and only
    what the venue says afterwards counts."""
    with transaction.atomic():
        # Locked first: an order that goes back from SUBMITTING to READY meanwhile would slip between the two updates.
        live = Order.objects.filter(pk__in=[order.pk for order in orders], status__in=LIVE_STATUSES)
        locked = list(live.select_related("account").locked())
        canceled = [order for order in locked if order.status in (S.REQUESTED, S.READY)]
        for order in canceled:
            order.status = S.CANCELED
        mine = Order.objects.filter(pk__in=[order.pk for order in locked])
        mine.move(S.CANCELED, among=(S.REQUESTED, S.READY), closed_at=timezone.now(), reserved=0)
        mine.filter(status__in=AT_VENUE_STATUSES, is_cancel_wanted=False).update(
            is_cancel_wanted=True, not_before_at=timezone.now()
        )
        orders_announce(canceled, Topic.ORDER_UPDATES, actor=actor)
        opened = [order.pk for order in locked if order.status == S.OPENED]
        transaction.on_commit(lambda: ring("orders.look", batch=1, order_ids=opened), robust=True)


def orders_reread(account_id: int) -> int:
    """Look at every order of an account that is or may be at the venue; how many stay unknown.

    Raises ExchangeUnavailable when the venue cannot be asked at all.
    """
    account = Account.objects.select_related("exchange").get(pk=account_id)
    gateway_for(account.exchange, account).time()
    for order_id in Order.objects.filter(account=account, status__in=(S.SUBMITTING, S.UNKNOWN, S.OPENED)).values_list(
        "pk", flat=True
    ):
        order_look(order_id)
    return Order.objects.filter(account=account, status__in=(S.SUBMITTING, S.UNKNOWN)).count()


def orders_ready(now: datetime) -> list[int]:
    """Valued and not submitted, though their bell has rung or their pause is over."""
    late = Q(not_before_at=None, valued_at__lt=now - BELL_IS_LATE_AFTER) | Q(not_before_at__lte=now)
    ready = Order.objects.filter(late, status=S.READY, account__exchange__is_enabled=True)
    return list(ready.order_by("valued_at").values_list("pk", flat=True))


def orders_to_look_at(now: datetime) -> list[int]:
    """Claimed without an outcome, of unknown outcome, or open: whatever only the venue can tell."""
    due = Q(status__in=(S.UNKNOWN, S.OPENED), not_before_at__lte=now) | Q(
        status=S.SUBMITTING, sent_at__lt=now - OUTCOME_IS_LATE_AFTER
    )
    asked = Order.objects.filter(due, account__exchange__is_enabled=True)
    return list(asked.order_by("not_before_at").values_list("pk", flat=True))


def orders_hasten(account_id: int, client_order_ids: Collection[str]) -> tuple[list[int], bool]:
    """Make due now those of the account's orders of which the venue has news; their ids, and whether any of the news is
    about an order that is not ours.

    The news changes nothing by itself. An unknown order that was looked for in vain waits its turn: misses are counted, and
    news must not make them come faster than the protocol counts on.
    """
    now = timezone.now()
    ours = Order.objects.filter(account=account_id, client_order_id__in=list(client_order_ids))
    found = {order.client_order_id: order for order in ours.only("client_order_id", "status", "lookups")}
    due = [
        order.pk
        for order in found.values()
        if order.status == S.OPENED or (order.status == S.UNKNOWN and order.lookups == 0)
    ]
    waiting = Order.objects.filter(pk__in=due, status__in=(S.UNKNOWN, S.OPENED), not_before_at__gt=now)
    waiting.update(not_before_at=now)
    return sorted(due), not found.keys() >= set(client_order_ids)


def accounts_with_old_balances(now: datetime) -> list[int]:
    """Accounts on which something was filled, or which were never read, since their balances were last read."""
    traded = Account.objects.filter(fills__recorded_at__gt=F("balances_synced_at"))
    unread = Account.objects.filter(balances_synced_at=None)
    asked = (traded | unread).filter(status=Account.Status.ACTIVE, exchange__is_enabled=True)
    return list(asked.values_list("pk", flat=True).distinct())


def unknown_orders_alert(now: datetime) -> int:
    """Tell, once an order, of those whose outcome stays unknown too long; how many were told of now."""
    late = Order.objects.filter(status=S.UNKNOWN, sent_at__lt=now - UNKNOWN_ALERT_AFTER)
    told = 0
    for order_id in list(late.values_list("pk", flat=True)):
        with transaction.atomic():
            # Locked, so that of two sweeps the second sees what the first has told.
            order = late.filter(pk=order_id).select_related("account").locked().first()
            if order is not None and not _is_told(order, "ORDER_UNKNOWN"):
                _alert(order, "ORDER_UNKNOWN")
                told += 1
    return told


def _loaded(order_id: int) -> Order:
    order: Order = Order.objects.select_related("account__exchange", "market").get(pk=order_id)
    return order


def _ticket(order: Order) -> OrderTicket:
    if order.quantity is None or order.sent_at is None:
        raise RuntimeError(f"wanted a valued and claimed order, was {order.status} with quantity {order.quantity}")
    return OrderTicket(
        symbol=order.market.symbol,
        side=Side(order.side),
        order_type=OrderType(order.order_type),
        quantity=order.quantity,
        client_order_id=order.client_order_id,
        sent_at=order.sent_at,
        window_ms=int(WINDOW.total_seconds() * 1000),
        price=order.price,
        stop_price=order.stop_price,
        is_exit=order.is_exit,
    )


def _settle(order: Order, to: OrderStatus, *, among: Collection[str], **changes: Any) -> str:
    """Move one order and announce it, loudly when it had been given up; the status it has afterwards, whoever set it."""
    if to in (S.REJECTED, S.NOT_PLACED):
        changes |= {"reserved": 0, "closed_at": timezone.now()}
    if to in (S.UNKNOWN, S.OPENED):
        changes.setdefault("not_before_at", timezone.now() + LOOK_AGAIN)
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
    """Adopt an order that had been given up, and say so; whether it is open now."""
    given_up = Order.objects.filter(pk=order.pk, status=S.NOT_PLACED)
    if not given_up.exists():
        return 0
    _alert(order, "ORDER_FOUND_AFTER_NOT_PLACED")
    try:
        with transaction.atomic():
            return given_up.move(S.OPENED, **(changes | {"closed_at": None, "reason": ""}))
    except IntegrityError:
        # Its intent has another attempt alive. The trader has been told, and the row says where the order is.
        logger.error("order %s was found at the venue beside another attempt of its intent", order.client_order_id)
        given_up.update(exchange_order_id=changes["exchange_order_id"])
        return 0


def _submit_later(order: Order, reason: str) -> str:
    # The venue did not look at it: the same order, with the same id, may be sent again after a pause.
    mine = Order.objects.filter(pk=order.pk)
    mine.move(S.READY, among=(S.SUBMITTING,), not_before_at=timezone.now() + UNSEEN_PAUSE, detail=reason[:200])
    if mine.filter(status=S.READY, is_cancel_wanted=True).exists():
        orders_cancel([order])  # its cancellation was asked for while it was on its way
    return str(mine.values_list("status", flat=True).get())


def _expire(too_old: GuardedQuerySet[Order], order_id: int) -> str | None:
    with transaction.atomic():
        if not too_old.move(S.CANCELED, among=(S.READY,), reason="EXPIRED", closed_at=timezone.now(), reserved=0):
            return None
        orders_announce([_loaded(order_id)], Topic.ORDER_UPDATES)
    return S.CANCELED


def _cancel_if_wanted(gateway: Gateway, order: Order) -> None:
    if not order.is_cancel_wanted or order.status != S.OPENED:
        return
    try:
        gateway.order_cancel(order.market.symbol, order.exchange_order_id)
    except ExchangeUnavailable as error:
        # It is asked for again at the next look; what the order did meanwhile is worth knowing all the same.
        logger.warning("order %s was not cancelled: %s", order.client_order_id, error)


def _look_again(order: Order, detail: str) -> None:
    pause = LOOK_AGAIN * min(2**order.lookups, 16)
    Order.objects.filter(pk=order.pk, status__in=LIVE_STATUSES).update(
        not_before_at=timezone.now() + pause, detail=detail[:200]
    )


def _not_found(order: Order) -> str:
    now = timezone.now()
    if order.status == S.OPENED:
        # It was there. A venue that does not show it now is behind, or has forgotten it: never a reason to send again.
        _look_again(order, "the venue does not show the order")
        return order.status
    if order.not_before_at is not None and order.not_before_at > now:
        return order.status  # looked at before its time: many bells are no more evidence than one
    # Only misses after the deadline count: before it the request may still be on its way.
    is_too_late_to_arrive = order.deadline_at is not None and now > order.deadline_at + NOT_PLACED_MARGIN
    misses = order.lookups + is_too_late_to_arrive
    if misses >= NOT_PLACED_MISSES:
        return _settle(order, S.NOT_PLACED, among=(S.UNKNOWN,), reason="NOT_PLACED", detail=f"not found {misses} times")
    Order.objects.filter(pk=order.pk, status=S.UNKNOWN, lookups=order.lookups).update(
        lookups=misses, not_before_at=now + LOOK_AGAIN
    )
    return order.status


def _found(order: Order, report: OrderReport, fills: Sequence[FillReport]) -> str:
    """Record what the venue shows: fills first, then the status that the quantities mean, in one transaction."""
    if (report.side, report.symbol) != (order.side, order.market.symbol):
        raise RuntimeError(
            f"{order.client_order_id}: wanted {order.side} {order.market.symbol}, found {report.side} {report.symbol}"
        )
    with transaction.atomic():
        # Locked, so that two looks at it add up the fills one after the other.
        totals = Order.objects.locked().get(pk=order.pk)
        if totals.status in (S.UNKNOWN, S.NOT_PLACED):
            _settle(
                order,
                S.OPENED,
                among=(S.UNKNOWN, S.NOT_PLACED),
                exchange_order_id=report.exchange_order_id,
                opened_at=timezone.now(),
            )
        new = _record_fills(totals, fills)
        crashpoint("fills.recorded")
        is_complete = totals.filled >= report.filled
        if new:
            publish(
                Topic.TRADE_UPDATES, order.pk, order_id=order.pk, account_id=order.account_id,
                owner_id=order.account.owner_id, data={"new_fills": new, "filled": totals.filled},
            )  # fmt: skip
        if report.is_open or not is_complete:
            Order.objects.filter(pk=order.pk, status=S.OPENED).update(not_before_at=timezone.now() + LOOK_AGAIN)
            if new:
                orders_announce([order], Topic.ORDER_UPDATES)
            return S.OPENED
        is_whole = totals.execution == Execution.FULLY_EXECUTED  # then it was filled, whatever word the venue uses
        done = S.CANCELED if report.is_canceled and not is_whole else S.CLOSED
        status = _settle(
            order, done, among=(S.OPENED,), closed_at=timezone.now(), reserved=0, detail="", not_before_at=None
        )
        if new and not _is_balance_awaited(order.account_id, but=order):
            transaction.on_commit(lambda: ring("orders.balances", account_ids=[order.account_id]), robust=True)
    return status


def _is_balance_awaited(account_id: int, but: Order) -> bool:
    """Whether another order's fill has rung for the account's balances and they were not read since: a burst of fills asks
    the venue once, and the sweep asks for whatever came after that."""
    since = Account.objects.filter(pk=account_id).values("balances_synced_at")
    return Fill.objects.filter(account=account_id, recorded_at__gt=since).exclude(order=but).exists()


def _record_fills(order: Order, fills: Sequence[FillReport]) -> int:
    """Add the fills that are not there yet and sum them all up on the locked ``order``; how many were new."""
    before = order.fills.count() if order.filled else 0
    Fill.objects.bulk_create(
        [
            Fill(
                order=order, account_id=order.account_id, market_id=order.market_id, trade_id=fill.trade_id,
                side=fill.side, quantity=fill.quantity, price=fill.price, fee=fill.fee, fee_currency=fill.fee_currency,
                filled_at=fill.filled_at,
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


def _is_told(order: Order, alert: str) -> bool:
    told = Event.objects.filter(topic=Topic.ALERTS, key=order.account_id, ids__order_id=order.pk, data__alert=alert)
    return told.exists()
