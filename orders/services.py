"""The submission protocol (OrderManager): a row first, one call, and an outcome that is known or looked up.

    READY --claim--> SUBMITTING, committed --one call--> OPENED | REJECTED | UNKNOWN     (or READY: refused unseen)
    UNKNOWN --look up by client order id--> OPENED, or NOT_PLACED after the deadline and several misses
    OPENED --look up--> fills, then CLOSED or CANCELED

Nothing is ever sent twice: only the claim sends, each claim sends once, and an unknown outcome is looked up until it is
known. Every write after a call is guarded by the status it expects, so whoever comes second changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from domain.market import MarginMode, OrderType, Side, Trigger
from domain.orders import AT_VENUE_STATUSES, LIVE_STATUSES, OrderStatus
from exchanges.accounts import account_pause
from exchanges.credentials import UnableToDecrypt
from exchanges.gateway import ExchangeUnavailable, Gateway, OrderOutcomeUnknown, OrderRejected, OrderTicket, VenueStatus
from exchanges.models import Account, Exchange
from exchanges.services import gateway_for
from orders.ledger import (
    LOOK_AGAIN,
    LOOK_AGAIN_AT_WAITING,
    order_alert_once,
    order_loaded,
    order_settle,
    orders_announce,
)
from orders.lookups import LEASE, call_unknown, order_ask, orders_due
from orders.models import Order
from pipeline.claims import GuardedQuerySet
from pipeline.crashpoints import crashpoint
from pipeline.topics import Topic, ring

S = OrderStatus

# The venue refuses the request when it arrives later than this after sent_at; must be shorter than the HTTP timeout.
WINDOW = timedelta(seconds=5)
UNSEEN_PAUSE = timedelta(seconds=2)
# How soon an order is tried again whose venue says that it takes none.
HELD_PAUSE = timedelta(seconds=5)
BELL_IS_LATE_AFTER = timedelta(seconds=3)
UNKNOWN_ALERT_AFTER = timedelta(minutes=2)
EXIT_ALERT_AFTER = timedelta(seconds=60)
# An entry that could not be sent for this long is worth nothing any more; an exit always is.
ENTRY_IS_OLD_AFTER = timedelta(seconds=60)


def order_submit(order_id: int) -> str | None:
    """Send a READY order, once; the status it has afterwards, or None when it was not this call's to send.

    1. Claim READY to SUBMITTING, with the deadline, and commit.
    2. Make one call, holding no transaction.
    3. Write the outcome, guarded by the claim.
    4. A market order that waits for no price is usually done by then: look at once.
    """
    now = timezone.now()
    due = Order.objects.filter(Q(not_before_at=None) | Q(not_before_at__lte=now), pk=order_id, is_cancel_wanted=False)
    fresh = due.filter(Q(is_exit=True) | Q(valued_at__gte=now - ENTRY_IS_OLD_AFTER))
    open_accounts = Account.objects.filter(exchange__status=VenueStatus.OPEN)
    taking = fresh.filter(account__in=open_accounts)
    if not taking.move(S.SUBMITTING, sent_at=now, deadline_at=now + WINDOW, not_before_at=None, lookups=0, failures=0):
        expired = _expire(due.filter(is_exit=False, valued_at__lt=now - ENTRY_IS_OLD_AFTER), order_id)
        return expired or _hold(fresh.exclude(account__in=open_accounts), order_id)
    order = order_loaded(order_id)
    crashpoint("order.claimed")
    try:
        gateway = gateway_for(order.account.exchange, order.account, [order.market])
        if order.margin_mode == MarginMode.CROSS and not order.is_exit:
            # Its leverage is the market's at the venue, whatever the order says.
            _margin_prepare(gateway, order)
        exchange_order_id = gateway.order_create(_ticket(order))
    except UnableToDecrypt as error:
        account_pause(order.account_id, str(error), keys=order.account.credentials)
        return order_settle(order, S.REJECTED, among=(S.SUBMITTING,), reason="KEYS_UNREADABLE", detail=str(error)[:200])
    except ExchangeUnavailable as error:
        return _submit_later(order, str(error), error.retry_after)
    except OrderRejected as error:
        if error.is_other_margin and not order.is_exit and _margin_switched(gateway, order):
            return _submit_later(order, "the venue's margin mode was switched", None)
        if error.is_refused_key:
            account_pause(order.account_id, str(error), keys=order.account.credentials)
        return order_settle(order, S.REJECTED, among=(S.SUBMITTING,), reason=error.code[:40], detail=str(error)[:200])
    except OrderOutcomeUnknown as error:
        return call_unknown(order, str(error))
    crashpoint("order.answered")
    is_looked_at = order.order_type == OrderType.MARKET and order.stop_price is None
    # An order whose answer came after it had been called unknown is adopted just the same.
    order.exchange_order_id = exchange_order_id
    order.stop_order_id = exchange_order_id if order.stop_price is not None else ""
    status = order_settle(
        order,
        S.OPENED,
        among=(S.SUBMITTING, S.UNKNOWN, S.NOT_PLACED),
        exchange_order_id=exchange_order_id,
        stop_order_id=order.stop_order_id,
        opened_at=timezone.now(),
        leased_until=timezone.now() + LEASE if is_looked_at else None,
    )
    crashpoint("order.settled")
    if status == S.OPENED and is_looked_at:
        return order_ask(order)
    return status


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
        opened: dict[bool, list[int]] = {True: [], False: []}
        for order in locked:
            if order.status == S.OPENED:
                opened[order.is_exit].append(order.pk)
        transaction.on_commit(lambda: ring("exits.look", batch=1, order_ids=opened[True]), robust=True)
        transaction.on_commit(lambda: ring("orders.look", batch=1, order_ids=opened[False]), robust=True)


def orders_ready(now: datetime, *, is_exit: bool | None = None) -> list[int]:
    """Valued and not submitted, though their bell has rung or their pause is over; entries or exits, or both."""
    late = Q(not_before_at=None, valued_at__lt=now - BELL_IS_LATE_AFTER) | Q(not_before_at__lte=now)
    ready = _of_kind(Order.objects.filter(late, status=S.READY, account__exchange__is_enabled=True), is_exit)
    return list(ready.order_by("valued_at").values_list("pk", flat=True))


def orders_to_look_at(now: datetime, *, is_exit: bool | None = None) -> list[int]:
    """Claimed without an outcome, of unknown outcome, or open: whatever only the venue can tell; entries or exits, or both.
    Those of one account and market stand together: they may be looked at together."""
    asked = _of_kind(orders_due(now).filter(account__exchange__is_enabled=True), is_exit)
    return list(asked.order_by("account", "market", "not_before_at").values_list("pk", flat=True))


def _of_kind(orders: GuardedQuerySet[Order], is_exit: bool | None) -> GuardedQuerySet[Order]:
    return orders if is_exit is None else orders.filter(is_exit=is_exit)


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


def stops_hasten(market_ids: Collection[int]) -> list[int]:
    """Make due now the orders that wait for a stop price which the last quote of one of these markets has met; their ids.

    The venue goes by its own price: one that goes on waiting is looked at as often as any open order, and no more.
    """
    now = timezone.now()
    last = F("market__last_quote__last")
    met = Q(trigger=Trigger.FALLING, stop_price__gte=last) | Q(trigger=Trigger.RISING, stop_price__lte=last)
    rested = Q(not_before_at__gt=now, not_before_at__lte=now + LOOK_AGAIN_AT_WAITING - LOOK_AGAIN)
    waiting = Order.objects.filter(
        met, rested, market__in=list(market_ids), status=S.OPENED, stop_price__isnull=False, failures=0,
        exchange_order_id=F("stop_order_id"),
    )  # fmt: skip
    due = sorted(waiting.values_list("pk", flat=True))
    Order.objects.filter(pk__in=due, status=S.OPENED, failures=0, not_before_at__gt=now).update(not_before_at=now)
    return due


def accounts_with_old_balances(now: datetime) -> list[int]:
    """Accounts on which something was filled, or which were never read, since their balances were last read."""
    traded = Account.objects.filter(fills__recorded_at__gt=F("balances_synced_at"))
    unread = Account.objects.filter(balances_synced_at=None)
    asked = (traded | unread).filter(status=Account.Status.ACTIVE, exchange__is_enabled=True)
    return list(asked.values_list("pk", flat=True).distinct())


def unknown_orders_alert(now: datetime) -> int:
    """Tell, once an order, of those whose outcome stays unknown too long; how many were told of now."""
    return _alert_each(Order.objects.filter(status=S.UNKNOWN, sent_at__lt=now - UNKNOWN_ALERT_AFTER), "ORDER_UNKNOWN")


def unsent_exits_alert(now: datetime) -> int:
    """Tell, once an order, of exits that could not be sent for too long, whatever keeps them; how many were told of now."""
    late = Order.objects.filter(status__in=(S.READY, S.SUBMITTING), is_exit=True, valued_at__lt=now - EXIT_ALERT_AFTER)
    # Not of one that waits on purpose, because the attempts before it failed: of those the tracker has told.
    return _alert_each(late.exclude(sent_at=None, detail="", not_before_at__gt=now), "EXIT_KEEPS_FAILING")


def _alert_each(late: QuerySet[Order], alert: str) -> int:
    return sum(order_alert_once(late, pk, alert) for pk in list(late.values_list("pk", flat=True)))


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
        trigger=Trigger(order.trigger) if order.trigger else None,
        is_exit=order.is_exit,
        leverage=order.leverage,
        margin_mode=MarginMode(order.margin_mode),
        is_reduce_only=order.is_reduce_only,
    )


def _margin_match(gateway: Gateway, order: Order) -> None:
    gateway.margin_match(order.market.symbol, MarginMode(order.margin_mode), order.leverage)


def _margin_prepare(gateway: Gateway, order: Order) -> None:
    try:
        _margin_match(gateway, order)
    except ExchangeUnavailable as error:
        if not error.is_answer:
            raise
        # The venue does not change it now: it will refuse the order, and its reason is the one to write down.


def _margin_switched(gateway: Gateway, order: Order) -> bool:
    """Whether the venue has the order's margin mode now; not while anything is held or open on that market."""
    try:
        _margin_match(gateway, order)
    except (ExchangeUnavailable, OrderRejected):
        return False
    return True


def _submit_later(order: Order, reason: str, retry_after: timedelta | None) -> str:
    # The venue did not look at it: the same order, with the same id, may be sent again after a pause.
    mine = Order.objects.filter(pk=order.pk)
    again_at = timezone.now() + max(UNSEEN_PAUSE, retry_after or UNSEEN_PAUSE)
    with transaction.atomic():
        mine.move(S.READY, among=(S.SUBMITTING,), not_before_at=again_at, detail=reason[:200])
        if mine.filter(status=S.READY, is_cancel_wanted=True).exists():
            orders_cancel([order])  # its cancellation was asked for while it was on its way
    return str(mine.values_list("status", flat=True).get())


def _expire(too_old: GuardedQuerySet[Order], order_id: int) -> str | None:
    with transaction.atomic():
        if not too_old.move(S.CANCELED, among=(S.READY,), reason="EXPIRED", closed_at=timezone.now(), reserved=0):
            return None
        orders_announce([order_loaded(order_id)], Topic.ORDER_UPDATES)
    return S.CANCELED


def _hold(held: GuardedQuerySet[Order], order_id: int) -> str | None:
    """The venue says that it takes no orders: the row says so, and goes on by itself when it does."""
    venue = Exchange.objects.get(accounts__orders=order_id)
    detail = f"held: {venue.name} is {venue.status}, {venue.status_message or 'wanted OPEN'}"[:200]
    ready = held.filter(status=S.READY)
    return S.READY if ready.update(not_before_at=timezone.now() + HELD_PAUSE, detail=detail) else None
