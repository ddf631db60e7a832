"""Asking the venue what became of orders: by single look-ups, or by its lists where one account has many on one market.

A venue that cannot be asked proves nothing, and neither does a list that does not show an order: only misses of the
targeted look-up count, after the venue can no longer accept the request, and only while lists and fills show nothing either.
One look at an order at a time: it is leased by a guarded update before the call, and a venue that fails is asked ever more
seldom.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone

from domain.market import ZERO, OrderType, Side
from domain.orders import AT_VENUE_STATUSES, LIVE_STATUSES, OrderStatus
from exchanges.accounts import account_pause
from exchanges.gateway import ExchangeUnavailable, FillReport, Gateway, OrderReport
from exchanges.models import Account, Exchange, Market
from exchanges.services import gateway_for
from orders.ledger import LOOK_AGAIN, order_alert_once, order_loaded, order_record, order_settle, order_take_in
from orders.models import WAITS_FOR_PRICE, Fill, FillCursor, Order
from pipeline.claims import GuardedQuerySet
from pipeline.crashpoints import crashpoint

logger = logging.getLogger(__name__)

S = OrderStatus

# A claimed order whose worker never wrote an outcome is unknown after the HTTP timeout and a margin.
OUTCOME_IS_LATE_AFTER = timedelta(seconds=15)
# Before "not found" may mean "not placed": clock differences and the venue's own read-after-write lag.
NOT_PLACED_MARGIN = timedelta(seconds=5)
# The same where the venue may accept a request however late it arrives.
NOT_PLACED_MARGIN_WITHOUT_DEADLINE = timedelta(minutes=5)
NOT_PLACED_MISSES = 3
# Longer than a look at a venue that hangs takes to give up, and no longer: an order whose worker died waits as long for its
# next look. A look that outlasts its lease is made twice, which costs a request and nothing else.
LEASE = timedelta(seconds=12)
LONGEST_PAUSE = timedelta(seconds=16)
FAILURES_BEFORE_REVIEW = 20
# From so many orders of an account on one market on, its lists are read instead: three requests, whatever their number.
LIST_READ_FROM = 3
# How far back lists and fills are read again, for what the venue shows late and for the clocks' differences.
OVERLAP = timedelta(minutes=2)
# How far back orders that were given up are looked for among those that are done, by our clock.
GIVEN_UP_IS_WATCHED_FOR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class MarketReading:
    """What the venue shows of one account on one market, by its order ids; ``read_at`` is its time just before."""

    reports: Mapping[str, OrderReport]
    fills: Mapping[str, Sequence[FillReport]]
    read_at: datetime


@dataclass(slots=True)
class Settled:
    """What came of writing down a reading: the orders it showed, and whether all of it could be written."""

    shown: set[int] = field(default_factory=set)
    is_whole: bool = True


def orders_look(order_ids: Iterable[int]) -> None:
    """Look at these orders, and beside several of one market at whatever else is due there; one that cannot be looked at
    does not keep the others from it."""
    for group in _groups(list(order_ids)):
        rest = group
        if len(group) >= LIST_READ_FROM:
            rest = _look_by_lists(group)
        orders_look_singly(rest)


def orders_look_singly(order_ids: Iterable[int]) -> None:
    """Look at each of these orders by itself; one that cannot be looked at does not keep the others from it."""
    for order_id in order_ids:
        try:
            order_look(order_id)
        except Exception as error:
            logger.exception("order %s could not be looked at", order_id)
            _look_in_vain(order_loaded(order_id), error)


def order_look(order_id: int) -> str | None:
    """Ask the venue what became of an order that is, or may be, there; its status afterwards, or None if it was not due.

    A venue that cannot be asked proves nothing: the order stays as it is and is looked at again later.
    """
    order = order_loaded(order_id)
    if order.status == S.SUBMITTING:
        # Its worker died between claim and outcome: from here on it is looked up like any other unknown.
        if order.sent_at is None or timezone.now() < order.sent_at + OUTCOME_IS_LATE_AFTER:
            return None
        call_unknown(order, "no outcome was recorded")
        order = order_loaded(order_id)
    if order.status not in (S.UNKNOWN, S.OPENED):
        return None
    return order_ask(order) if _lease(order_id) else order.status


def call_unknown(order: Order, detail: str) -> str:
    """From here on the order's outcome is to be looked up; the status it has afterwards."""
    return order_settle(order, S.UNKNOWN, among=(S.SUBMITTING,), detail=detail[:200], not_before_at=timezone.now())


def order_ask(order: Order) -> str:
    """One look at an order that is leased to the caller; its status afterwards."""
    try:
        gateway = gateway_for(order.account.exchange, order.account, [order.market])
        is_said_gone = _cancel_if_wanted(gateway, order)
        report = _find(gateway, order)
        fills = gateway.order_fills(order.market.symbol, report.exchange_order_id) if report and report.filled else []
        if report is None:
            return _not_found(gateway, order, is_said_gone=is_said_gone)
    except ExchangeUnavailable as error:
        _failed(order, error)
        return order.status
    return order_record(order, report, fills)


def market_read(gateway: Gateway, account: Account, market: Market) -> MarketReading:
    """Read the account's open orders, its done ones and its fills on a market, from the cursor on, with as much overlap as
    its orders in flight and those given up lately need. Raises ExchangeUnavailable."""
    exchange = account.exchange
    read_at = exchange.time_at(timezone.now())
    cursor = _cursor(account, market, read_at)
    since = min([cursor.read_until, *_sent_times(account, market)]) - _overlap(exchange)
    # In this order: what is met or done between two requests is in the later list, and every fill of it in the fills.
    waiting = _stops_waiting(gateway, account, market)
    opened = gateway.orders_open(market.symbol)
    done = gateway.orders_done(market.symbol, since)
    fills: dict[str, list[FillReport]] = defaultdict(list)
    for fill in gateway.fills_since(market.symbol, since):
        fills[fill.exchange_order_id].append(fill)
    met = {report.client_order_id for report in (*opened, *done)}
    waiting = [report for report in waiting if report.client_order_id not in met]
    reports = {report.exchange_order_id: report for report in (*waiting, *opened, *done)}
    known = _rows(account, market, reports.values(), fills)
    for exchange_order_id in fills.keys() - reports.keys() - known.keys():
        # A fill alone does not say whose order it was.
        report = gateway.order_get(market.symbol, exchange_order_id)
        if report is not None:
            reports[exchange_order_id] = report
    for report in reports.values():
        row = known.get(report.exchange_order_id)
        read = sum((fill.quantity for fill in fills[report.exchange_order_id]), ZERO)
        if report.filled > max(read, row.filled if row is not None else ZERO):
            # Filled in part before the time from which fills were read.
            fills[report.exchange_order_id] = gateway.order_fills(market.symbol, report.exchange_order_id)
    return MarketReading(reports, fills, read_at)


def market_settle(account: Account, market: Market, reading: MarketReading) -> Settled:
    """Write down a reading: our orders as they stand, their fills, and the orders of others that are at work or did
    something since the market is watched. The cursor moves only when every fill that was read is recorded."""
    settled = Settled()
    cursor = _cursor(account, market, reading.read_at)
    rows = _rows(account, market, reading.reports.values(), reading.fills)
    trade_ids = [fill.trade_id for fills in reading.fills.values() for fill in fills]
    recorded = set(
        Fill.objects.filter(account=account, market=market, trade_id__in=trade_ids).values_list("trade_id", "side")
    )
    for exchange_order_id in {**reading.reports, **reading.fills}:
        report, fills = reading.reports.get(exchange_order_id), reading.fills.get(exchange_order_id, ())
        order = rows.get(exchange_order_id)
        has_new = any((fill.trade_id, fill.side) not in recorded for fill in fills)
        if order is None:
            if not _is_worth_a_row(cursor, report, fills):
                continue
            if report is None:
                logger.warning("no order of account %s is known for the fills of %s", account.pk, exchange_order_id)
                settled.is_whole = False
                continue
            if _may_be_ours(account, market, report):
                settled.is_whole = False
                continue
            order = order_take_in(account, market, report)
        elif not has_new and order.status not in (*LIVE_STATUSES, S.NOT_PLACED):
            if report is not None and report.is_open and not report.is_waiting and order.waits_for_price:
                # We took it for cancelled, and it became an order: nothing the program may decide.
                order_alert_once(Order.objects.all(), order.pk, "ORDER_NEEDS_REVIEW")
            continue
        settled.shown.add(order.pk)
        settled.is_whole &= _write_down(order, report, fills)
    crashpoint("market.settled")
    if settled.is_whole:
        FillCursor.objects.filter(pk=cursor.pk, read_until__lt=reading.read_at).update(read_until=reading.read_at)
    return settled


def orders_due(now: datetime) -> GuardedQuerySet[Order]:
    """Claimed without an outcome, of unknown outcome, or open, and not looked at just now."""
    due = Q(status__in=(S.UNKNOWN, S.OPENED), not_before_at__lte=now) | Q(
        status=S.SUBMITTING, sent_at__lt=now - OUTCOME_IS_LATE_AFTER
    )
    return Order.objects.filter(due, Q(leased_until=None) | Q(leased_until__lte=now))


def _groups(order_ids: Sequence[int]) -> list[list[int]]:
    """The orders by account and market; beside two or more due ones of a market stand all others that are due there."""
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    wanted = Order.objects.filter(pk__in=order_ids)
    pairs = {}
    for pk, account_id, market_id in wanted.values_list("pk", "account_id", "market_id"):
        pairs[pk] = (account_id, market_id)
    for order_id in dict.fromkeys(order_ids):
        if order_id in pairs:
            groups[pairs[order_id]].append(order_id)
    for (account_id, market_id), group in groups.items():
        due = orders_due(timezone.now()).filter(account=account_id, market=market_id).exclude(pk__in=group)
        group += due.values_list("pk", flat=True)
    return list(groups.values())


def _lease(order_id: int) -> bool:
    """Take the look at an order; whether it was free, and not in a pause for a venue that fails."""
    now = timezone.now()
    free = Q(leased_until=None) | Q(leased_until__lte=now)
    rested = Q(failures=0) | Q(not_before_at=None) | Q(not_before_at__lte=now)
    waiting = Order.objects.filter(free, rested, pk=order_id, status__in=(S.UNKNOWN, S.OPENED))
    return bool(waiting.update(leased_until=now + LEASE))


def _look_by_lists(order_ids: Sequence[int]) -> list[int]:
    """Settle what the venue's lists show of these orders of one account and market; those it takes a look of their own
    for."""
    mine = [order_id for order_id in order_ids if _lease(order_id)]
    rest = [order_id for order_id in order_ids if order_id not in mine]  # to be claimed first, or somebody else's
    if not mine:
        return rest
    orders = [order_loaded(order_id) for order_id in mine]
    account, market = orders[0].account, orders[0].market
    try:
        gateway = gateway_for(account.exchange, account, [market])
        said_gone = [order for order in orders if _cancel_if_wanted(gateway, order)]
        written = market_settle(account, market, market_read(gateway, account, market))
        for order in said_gone:
            if written.is_whole and order.pk not in written.shown:
                _stop_gone(order, "the venue says so, and shows it nowhere")
    except ExchangeUnavailable as error:
        for order in orders:
            _failed(order, error)
        return rest
    except Exception as error:
        logger.exception("the lists of account %s on %s could not be settled", account.pk, market.symbol)
        for order in orders:
            _look_in_vain(order, error)
        return rest
    # The lease stays on what they did not settle; absence from a list proves nothing.
    unseen = Order.objects.filter(pk__in=mine, status__in=(S.UNKNOWN, S.OPENED), leased_until__isnull=False)
    unseen_ids = list(unseen.values_list("pk", flat=True))
    unseen.update(leased_until=None)
    return rest + unseen_ids


def _write_down(order: Order, report: OrderReport | None, fills: Sequence[FillReport]) -> bool:
    try:
        order_record(order, report or _as_it_stands(order), fills)
    except Exception as error:
        logger.exception("order %s could not be settled", order.client_order_id)
        _look_in_vain(order, error)
        return False
    if order.status in (S.REJECTED, S.DENIED):
        # The venue has what we say it refused: nothing the program may decide.
        order_alert_once(Order.objects.all(), order.pk, "ORDER_NEEDS_REVIEW")
    return True


def _as_it_stands(order: Order) -> OrderReport:
    """The report of an order whose fills were read while no list shows it: nothing new but these. Whether they end it is
    decided by the quantities; one that was filled in part may be at work yet, for all that fills say."""
    return OrderReport(
        exchange_order_id=order.exchange_order_id, client_order_id=order.client_order_id, symbol=order.market.symbol,
        side=Side(order.side), quantity=order.quantity, filled=order.filled, filled_quote=order.filled_quote,
        is_open=True, is_canceled=False, order_type=OrderType(order.order_type), price=order.price,
    )  # fmt: skip


def _is_worth_a_row(cursor: FillCursor, report: OrderReport | None, fills: Sequence[FillReport]) -> bool:
    if report is not None and report.is_open:
        return True
    return any(fill.filled_at >= cursor.begun_at for fill in fills)


def _may_be_ours(account: Account, market: Market, report: OrderReport) -> bool:
    """Whether an order that does not say whose it is may be one of ours whose outcome is unknown: it looks like it, and was
    made when that was sent. The look-up of ours will tell."""
    if report.client_order_id:
        return False
    unknown = Order.objects.filter(
        account=account, market=market, status__in=(S.SUBMITTING, S.UNKNOWN), exchange_order_id="", side=report.side,
        quantity=report.quantity,
    )  # fmt: skip
    time_at, slack = account.exchange.time_at, _overlap(account.exchange)
    return any(
        report.created_at is None or time_at(sent_at) - slack <= report.created_at <= time_at(deadline_at) + slack
        for sent_at, deadline_at in unknown.values_list("sent_at", "deadline_at")
        if sent_at is not None and deadline_at is not None
    )


def _rows(
    account: Account, market: Market, reports: Iterable[OrderReport], fills: Mapping[str, Sequence[FillReport]]
) -> dict[str, Order]:
    """The rows of these orders by the venue's ids: found by those, or by our own where the venue's is not on the row yet."""
    ids = {report.client_order_id: report.exchange_order_id for report in reports if report.client_order_id}
    known = {*ids.values(), *fills, *(report.exchange_order_id for report in reports)}
    # One statement: an order whose answer comes in between two would be found by neither id, and be taken for a stranger's.
    mine = Order.objects.filter(
        Q(exchange_order_id__in=known) | Q(client_order_id__in=ids), account=account, market=market
    )
    rows = list(mine.select_related("account__exchange", "market"))
    found = {order.exchange_order_id: order for order in rows if order.exchange_order_id}
    for order in rows:
        # What a stop order became goes by another id than the one on its row.
        if not order.exchange_order_id or (order.waits_for_price and order.client_order_id in ids):
            found.setdefault(ids[order.client_order_id], order)
    return found


def _cursor(account: Account, market: Market, now: datetime) -> FillCursor:
    begun = {"begun_at": now, "read_until": now}
    return FillCursor.objects.get_or_create(account=account, market=market, defaults=begun)[0]


def _overlap(exchange: Exchange) -> timedelta:
    """What comes late comes late by our time, however fast the venue's clock runs."""
    return OVERLAP * max(1.0, exchange.clock_speed)


def _sent_times(account: Account, market: Market) -> list[datetime]:
    """By the venue's clock, when those of our orders were sent that a list may show as news."""
    given_up = Q(status=S.NOT_PLACED, sent_at__gte=timezone.now() - GIVEN_UP_IS_WATCHED_FOR)
    # What a waiting stop order becomes is made when its price is met: after the last reading, or shown by that.
    sent = Order.objects.filter(
        Q(status__in=AT_VENUE_STATUSES) & ~WAITS_FOR_PRICE | given_up, account=account, market=market
    )
    times = sent.filter(is_foreign=False, sent_at__isnull=False).order_by("sent_at").values_list("sent_at", flat=True)
    return [account.exchange.time_at(sent_at) for sent_at in times[:1] if sent_at is not None]


def _find(gateway: Gateway, order: Order) -> OrderReport | None:
    if order.is_foreign:
        return gateway.order_get(order.market.symbol, order.exchange_order_id)
    if order.waits_for_price:
        return gateway.stop_find(order.market.symbol, order.client_order_id)
    return gateway.order_find(order.market.symbol, order.client_order_id)


def _stops_waiting(gateway: Gateway, account: Account, market: Market) -> list[OrderReport]:
    """Those of our stop orders that wait for their price; asked for only where there may be any. Those of others are no
    orders yet, and are told of when they become some."""
    given_up = Q(status=S.NOT_PLACED, sent_at__gte=timezone.now() - GIVEN_UP_IS_WATCHED_FOR)
    ours = Order.objects.filter(
        Q(status__in=AT_VENUE_STATUSES) | given_up, account=account, market=market, stop_price__isnull=False,
        exchange_order_id=F("stop_order_id"),
    )  # fmt: skip
    ids = set(ours.values_list("client_order_id", flat=True))
    return [report for report in gateway.stops_open(market.symbol) if report.client_order_id in ids] if ids else []


def _cancel_if_wanted(gateway: Gateway, order: Order) -> bool:
    """Ask for a cancellation that is wanted; whether the venue says of a stop order that it waited and is gone."""
    if not order.is_cancel_wanted or order.status != S.OPENED:
        return False
    try:
        if order.waits_for_price:
            return gateway.stop_cancel(order.market.symbol, order.exchange_order_id)
        gateway.order_cancel(order.market.symbol, order.exchange_order_id)
    except ExchangeUnavailable as error:
        # It is asked for again at the next look; what the order did meanwhile is worth knowing all the same.
        logger.warning("order %s was not cancelled: %s", order.client_order_id, error)
    return False


def _failed(order: Order, error: ExchangeUnavailable) -> None:
    if error.is_refused_key:
        account_pause(order.account_id, str(error), keys=order.account.credentials)
    _look_again(order, str(error), error.retry_after)


def _look_again(order: Order, detail: str, retry_after: timedelta | None = None) -> None:
    pause = max(min(LOOK_AGAIN * 2 ** min(order.failures, 10), LONGEST_PAUSE), retry_after or LOOK_AGAIN)
    Order.objects.filter(pk=order.pk, status__in=LIVE_STATUSES).update(
        not_before_at=timezone.now() + pause, failures=order.failures + 1, leased_until=None, detail=detail[:200]
    )


def _look_in_vain(order: Order, error: Exception) -> None:
    """The look itself failed, by no fault of the venue's: after many times somebody has to see why."""
    _look_again(order, f"{type(error).__name__}: {error}")
    _tell_if_in_vain(order)


def _tell_if_in_vain(order: Order) -> None:
    poisoned = Order.objects.filter(failures__gte=FAILURES_BEFORE_REVIEW)
    order_alert_once(poisoned, order.pk, "ORDER_NEEDS_REVIEW")


def _not_found(gateway: Gateway, order: Order, *, is_said_gone: bool) -> str:
    now = timezone.now()
    if order.status == S.OPENED and not order.waits_for_price:
        # It was there. A venue that does not show it now is behind, or has forgotten it: never a reason to send again.
        _look_again(order, "the venue does not show the order")
        _tell_if_in_vain(order)
        return order.status
    unseen = Order.objects.filter(pk=order.pk, status=order.status, lookups=order.lookups)
    if order.not_before_at is not None and order.not_before_at > now and not is_said_gone:
        unseen.update(leased_until=None)
        return order.status  # looked at before its time: many bells are no more evidence than one
    misses = order.lookups + _is_miss(gateway, order, now)
    if misses < NOT_PLACED_MISSES and not is_said_gone:
        unseen.update(lookups=misses, not_before_at=now + LOOK_AGAIN, leased_until=None, failures=0)
        return order.status
    # The last word is the lists' and the fills': a venue whose look-up is blind to orders that are done shows it there.
    reading = market_read(gateway, order.account, order.market)
    written = market_settle(order.account, order.market, reading)
    is_shown = any(report.client_order_id == order.client_order_id for report in reading.reports.values())
    if is_shown or not written.is_whole:
        unseen.update(not_before_at=now + LOOK_AGAIN, leased_until=None)
        return str(Order.objects.values_list("status", flat=True).get(pk=order.pk))
    if order.status == S.OPENED:
        return _stop_gone(
            order, "the venue says so, and shows it nowhere" if is_said_gone else f"not found {misses} times"
        )
    gone = {"reason": "NOT_PLACED", "detail": f"not found {misses} times", "leased_until": None}
    return order_settle(order, S.NOT_PLACED, among=(S.UNKNOWN,), **gone)


def _is_miss(gateway: Gateway, order: Order, now: datetime) -> bool:
    """Whether not to be found says anything of an order: of one that was there, always; else only after the deadline, for
    before it the request may still be on its way."""
    if order.status == S.OPENED:
        return True
    refuses = gateway.refuses_late_requests if order.stop_price is None else gateway.refuses_late_stops
    margin = NOT_PLACED_MARGIN if refuses else NOT_PLACED_MARGIN_WITHOUT_DEADLINE
    return order.deadline_at is not None and now > order.deadline_at + margin


def _stop_gone(order: Order, detail: str) -> str:
    """A stop order that waited and is neither waiting nor has become anything is cancelled, by us or at the venue: those are
    forgotten there. Should it have done something after all, its fills are added when they are shown."""
    with transaction.atomic():
        # Locked: somebody else may have been shown meanwhile what it became.
        row = Order.objects.locked().get(pk=order.pk)
        if not row.waits_for_price:
            Order.objects.filter(pk=order.pk).update(leased_until=None)
            return str(row.status)
        ended = {"closed_at": timezone.now(), "reserved": 0, "not_before_at": None, "leased_until": None, "failures": 0}
        return order_settle(order, S.CANCELED, among=(S.OPENED,), detail=detail, **ended)
