"""Comparing an account with its venue: orders, fills, positions, balances. Every difference becomes a row; nothing is
adjusted in silence.

The venue is read first, holding no transaction; what it shows of orders and fills is recorded, and only then is anything
compared. Balances are compared when nothing is in flight and no fill came in between: then they are what the fills explain,
or there is a difference. A recovery is the same reading, and the session trades when it leaves nothing open.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from django.db import transaction
from django.db.models import F, Max, Q
from django.utils import timezone

from domain.market import ZERO, OrderType, PositionSide, Side
from domain.orders import AT_VENUE_STATUSES, OrderStatus
from exchanges.accounts import account_pause, balances_refresh
from exchanges.credentials import UnableToDecrypt
from exchanges.gateway import BalanceReport, ExchangeUnavailable, PositionReport
from exchanges.models import Account, Market
from exchanges.services import exchange_clock_sync, gateway_for
from orders.ledger import FOREIGN, LATE
from orders.lookups import GIVEN_UP_IS_WATCHED_FOR, market_read, market_settle, orders_look_singly
from orders.models import Order
from pipeline.crashpoints import crashpoint
from pipeline.topics import ring
from positions.contracts import contracts_compare, liquidations_take_up
from positions.discrepancies import Difference, discrepancies_settle, discrepancy_record, figure, tolerance_of
from positions.late import orders_left_over, positions_take_up
from positions.models import LIVE_POSITIONS, BalanceAnchor, Discrepancy, Intent, Position, Reconciliation
from positions.models import DiscrepancyKind as Kind
from positions.models import DiscrepancyStatus as Status
from positions.services import is_dust, sessions_track
from sessions.models import TRACKED_STATUSES, SessionStatus, TradingSession
from sessions.services import (
    UnableToCommand,
    account_require_active,
    session_recovery_delay,
    session_recovery_finish,
)

logger = logging.getLogger(__name__)

# An account that trades is compared this often, one at rest hardly ever.
PERIOD = timedelta(seconds=60)
PERIOD_AT_REST = timedelta(hours=1)
# How soon it is tried again when something was in flight.
SOON = timedelta(seconds=10)
LEASE = timedelta(minutes=3)
SHORTEST_PAUSE = timedelta(seconds=10)
LONGEST_PAUSE = timedelta(minutes=10)
# Accounts that one sweep rings for: after an outage all are due, and exits share the queue.
ACCOUNTS_PER_SWEEP = 10
# Orders that no list showed and that are looked up singly, in one reconciliation.
LOOKS_AT_MOST = 10
# Readings of one reconciliation: the second when the first one brought news.
READINGS = 2

COMPARED_ALWAYS = (Kind.FOREIGN_ORDER, Kind.LATE_ORDER)
COMPARED_AT_REST = (Kind.MANUAL_CLOSE, Kind.BALANCE_DRIFT, Kind.DUST)


@dataclass(slots=True)
class _Reading:
    """What the venue showed. ``last_fill_id`` is the newest fill we knew before the balances were read; ``is_quiet`` whether
    the balances are what the recorded fills made them."""

    totals: dict[str, Decimal]
    markets: list[Market]
    last_fill_id: int
    read_at: datetime
    is_quiet: bool = False
    shown: set[int] = field(default_factory=set)
    held: dict[str, list[Position]] = field(default_factory=dict)
    # What the venue holds of contracts; None where the account has nothing to do with any.
    contracts: list[PositionReport] | None = None


def account_reconcile(account_id: int) -> list[Discrepancy]:
    """Read everything of an account at its venue, record it, compare, and file the differences; those that are open.

    Raises ExchangeUnavailable where the venue cannot be asked, and UnableToDecrypt: then nothing was compared.
    """
    account = Account.objects.select_related("exchange").get(pk=account_id)
    try:
        for _ in range(READINGS):
            reading = _read(account)
            if reading.is_quiet:
                break
    except ExchangeUnavailable as error:
        if error.is_refused_key:
            account_pause(account_id, str(error), keys=account.credentials)
        raise
    except UnableToDecrypt as error:
        account_pause(account_id, str(error), keys=account.credentials)
        raise
    crashpoint("reconciliation.read")
    _missing_fills_tell(account)
    differences = _late_orders(account)
    foreign, kinds = _foreign_orders(account), list(COMPARED_ALWAYS)
    if reading.is_quiet:
        kinds += COMPARED_AT_REST
        missing = _missing_holdings(reading, foreign)
        if reading.contracts is not None:
            missing += contracts_compare(account, reading.markets, reading.contracts, foreign)
        told = {one.order.pk for one in missing if one.order is not None}
        differences += [*missing, *_drift(account, reading), *_dust(account, reading)]
        foreign = [one for one in foreign if one.order is not None and one.order.pk not in told]
        Reconciliation.objects.filter(pk=account_id).update(compared_at=reading.read_at)
    discrepancies_settle(account, [*differences, *foreign], kinds)
    return list(account.discrepancies.filter(status=Status.OPEN).order_by("pk"))


def account_reconcile_if_due(account_id: int) -> bool:
    """Reconcile an account whose time has come, and set its next; whether it was this call's, and done."""
    now = timezone.now()
    Reconciliation.objects.get_or_create(account_id=account_id)
    due = Reconciliation.objects.filter(Q(due_at=None) | Q(due_at__lte=now), _free(now), pk=account_id)
    if not due.update(leased_until=now + LEASE, due_at=now):
        return False
    mine = Reconciliation.objects.filter(pk=account_id)
    try:
        account_reconcile(account_id)
    except Exception as error:
        _later(mine.get(), error)
        if not isinstance(error, ExchangeUnavailable | UnableToDecrypt):
            raise
        logger.warning("account %s was not reconciled: %s", account_id, error)
        return False
    row, done_at = mine.get(), timezone.now()
    is_compared = row.compared_at is not None and row.compared_at >= now
    # Of news that came while it was read nobody knows whether the reading has it: it is due as it was made.
    mine.filter(due_at=now).update(due_at=done_at + (_period(account_id) if is_compared else SOON))
    mine.update(done_at=done_at, leased_until=None, failures=0, last_error="")
    return True


def account_reconcile_soon(account_id: int) -> None:
    """Let an account be reconciled now, whatever its period says."""
    with transaction.atomic():
        account_make_due(account_id)
        transaction.on_commit(lambda: ring("positions.reconcile", account_ids=[account_id]), robust=True)


def account_make_due(account_id: int) -> None:
    """Let the account's time have come; who calls rings, or leaves it to the sweep."""
    Reconciliation.objects.update_or_create(account_id=account_id, defaults={"due_at": timezone.now()})


def accounts_to_reconcile(now: datetime) -> list[int]:
    """Accounts never compared with their venue, or not for their period: what the sweep rings for, a few at a time."""
    due = Q(reconciliation=None) | Q(reconciliation__due_at=None) | Q(reconciliation__due_at__lte=now)
    free = Q(reconciliation__leased_until=None) | Q(reconciliation__leased_until__lte=now)
    asked = Account.objects.filter(due, free, status=Account.Status.ACTIVE, exchange__is_enabled=True)
    longest_due = asked.order_by(F("reconciliation__due_at").asc(nulls_first=True), "pk")
    return list(longest_due.values_list("pk", flat=True)[:ACCOUNTS_PER_SWEEP])


def session_recovery_carry_out(session_id: int) -> bool:
    """Read the venue's clock, reconcile the account, then let the session trade; whether it does now.

    It waits, and says why, while the exchange cannot be reached, while the fate of an order of the account is not known, and
    while the account holds less than the session's position says. The sweep asks again.
    """
    session = TradingSession.objects.select_related("account").get(pk=session_id)
    asked_at = session.recover_requested_at
    if asked_at is None:
        return False
    try:
        account_require_active(session.account)
        exchange_clock_sync(session.account.exchange_id)
        account_reconcile(session.account_id)
    except (ExchangeUnavailable, UnableToDecrypt, UnableToCommand) as error:
        session_recovery_delay(session_id, asked_at, str(error))
        return False
    unsettled = Order.objects.filter(
        account=session.account_id, status__in=(OrderStatus.SUBMITTING, OrderStatus.UNKNOWN)
    ).count()
    if unsettled:
        session_recovery_delay(session_id, asked_at, f"the fate of {unsettled} orders is not known yet")
        return False
    held = Position.objects.filter(session=session_id, status__in=LIVE_POSITIONS)
    compared = Reconciliation.objects.filter(pk=session.account_id, compared_at__gte=asked_at)
    if held.exists() and not compared.exists():
        why = "the balances were not compared yet, for orders of the account are being filled"
        session_recovery_delay(session_id, asked_at, why)
        return False
    open_close = Discrepancy.objects.filter(
        position__session=session_id, position__status__in=LIVE_POSITIONS, kind=Kind.MANUAL_CLOSE, status=Status.OPEN
    ).first()
    if open_close is not None:
        why = f"{open_close.detail}; resolve discrepancy {open_close.pk} first"
        session_recovery_delay(session_id, asked_at, why)
        return False
    return session_recovery_finish(session_id, asked_at)


def _read(account: Account) -> _Reading:
    last_fill_id, read_at = _last_fill_id(account), timezone.now()
    totals = _totals(balances_refresh(account.pk))
    markets = _markets_of_interest(account)
    reading = _Reading(totals, markets, last_fill_id, read_at)
    gateway = gateway_for(account.exchange, account, markets)
    if any(market.kind == Market.Kind.LINEAR_FUTURE for market in markets):
        reading.contracts = gateway.positions()
    is_whole = True
    for market in markets:
        settled = market_settle(account, market, market_read(gateway, account, market))
        reading.shown |= settled.shown
        is_whole &= settled.is_whole
    _look_at_what_no_list_shows(account, reading.shown)
    news = account.orders.filter(filled__gt=0, sent_at__gte=read_at - GIVEN_UP_IS_WATCHED_FOR, is_foreign=False)
    held = Position.objects.filter(account=account, status__in=LIVE_POSITIONS).values_list("session_id", flat=True)
    sessions_track(sorted({*positions_take_up(list(news.values_list("pk", flat=True))), *held}))
    sessions_track(liquidations_take_up(account))
    reading.held = _held(account)
    # A market order is filled by the time it is open: the balances may show what no list does yet.
    is_unsettled = Q(status=OrderStatus.OPENED, order_type=OrderType.MARKET, is_foreign=False)
    in_flight = account.orders.filter(is_unsettled | Q(status__in=(OrderStatus.SUBMITTING, OrderStatus.UNKNOWN)))
    reading.is_quiet = is_whole and last_fill_id == _last_fill_id(account) and not in_flight.exists()
    return reading


def _look_at_what_no_list_shows(account: Account, shown: Iterable[int]) -> None:
    ours = account.orders.filter(status__in=AT_VENUE_STATUSES).exclude(pk__in=list(shown))
    orders_look_singly(ours.order_by("not_before_at").values_list("pk", flat=True)[:LOOKS_AT_MOST])


def _markets_of_interest(account: Account) -> list[Market]:
    """Where the account's orders, sessions and positions are, and wherever it has anything open."""
    given_up_since = timezone.now() - GIVEN_UP_IS_WATCHED_FOR
    given_up = Q(status=OrderStatus.NOT_PLACED, sent_at__gte=given_up_since)
    orders = account.orders.filter(Q(status__in=AT_VENUE_STATUSES) | given_up).values("market")
    sessions = account.sessions.filter(status__in=TRACKED_STATUSES).values("config__feed__market")
    positions = account.positions.filter(status__in=LIVE_POSITIONS).values("market")
    known = Q(pk__in=orders) | Q(pk__in=sessions) | Q(pk__in=positions)
    symbols = gateway_for(account.exchange, account, account.exchange.markets.filter(known)).symbols_open()
    markets = account.exchange.markets.filter(known | Q(symbol__in=symbols or ()))
    return list(markets.select_related("last_quote").order_by("pk"))


def _missing_fills_tell(account: Account) -> None:
    """Fills of orders that had ended: they are recorded, and their position is added up again; here they are told of."""
    for fill in account.fills.filter(is_late=True).select_related("order", "market"):
        one = Difference(
            Kind.MISSING_FILL, f"fill:{fill.pk}", expected=ZERO, found=fill.quantity, market=fill.market,
            order=fill.order,
            detail=f"{figure(fill.quantity)} of {fill.order.client_order_id}, which had ended, was recorded",
        )  # fmt: skip
        if not account.discrepancies.filter(kind=one.kind, subject=one.subject).exists():
            discrepancy_record(account, one)


def _late_orders(account: Account) -> list[Difference]:
    """Orders of ours that were given up and filled after all, and that no session can hold."""
    lone = list(
        account.orders.filter(Q(filled__gt=0) | Q(status=OrderStatus.OPENED), reason=LATE).select_related("market")
    )
    told = account.discrepancies.filter(kind=Kind.LATE_ORDER, status=Status.OPEN).values("order")
    is_lately = Q(sent_at__gte=timezone.now() - timedelta(days=1)) | Q(pk__in=told)
    lately = account.orders.filter(is_lately, filled__gt=0, is_exit=False, is_foreign=False)
    left = [order for order, _ in orders_left_over(lately.select_related("market"))]
    return [
        Difference(
            Kind.LATE_ORDER, f"order:{order.pk}", expected=ZERO, found=order.filled, market=order.market, order=order,
            detail=f"{order.client_order_id} was given up and filled after all; no session holds it",
        )
        for order in {order.pk: order for order in (*lone, *left)}.values()
    ]  # fmt: skip


def _foreign_orders(account: Account) -> list[Difference]:
    """Orders of others that are at work or have filled something, and that no position has adopted."""
    adopted = Intent.objects.filter(position__account=account).values("pk")
    rows = account.orders.filter(
        Q(status=OrderStatus.OPENED) | Q(filled__gt=0), is_foreign=True, reason=FOREIGN
    ).exclude(intent_id__in=adopted)
    return [
        Difference(
            Kind.FOREIGN_ORDER, f"order:{order.pk}", expected=ZERO, found=order.filled, market=order.market, order=order,
            detail=f"{order.side} {figure(order.quantity or order.filled)} {order.market.symbol}, {order.status}: not ours",
        )
        for order in rows.select_related("market").order_by("pk")
    ]  # fmt: skip


def _held(account: Account) -> dict[str, list[Position]]:
    """The account's long positions, by the currency they are held in."""
    held: dict[str, list[Position]] = defaultdict(list)
    positions = Position.objects.filter(account=account, status__in=LIVE_POSITIONS, side=PositionSide.LONG.value)
    for position in positions.filter(market__kind=Market.Kind.SPOT).select_related("market"):
        held[position.market.base].append(position)
    return held


def _missing_holdings(reading: _Reading, foreign: Sequence[Difference]) -> list[Difference]:
    """Positions of which the account no longer holds all: sold, or taken away, by hand."""
    differences = []
    sold = {one.market.pk: one.order for one in foreign if one.market and one.order and one.order.side == Side.SELL}
    for currency, positions in reading.held.items():
        needed, found = sum((one.quantity for one in positions), ZERO), reading.totals.get(currency, ZERO)
        if needed - found <= tolerance_of(needed, found):
            continue
        differences += [
            Difference(
                Kind.MANUAL_CLOSE, f"position:{one.pk}", expected=needed, found=found, market=one.market, position=one,
                order=sold.get(one.market_id), currency=currency, is_figure=True,
                detail=f"the account holds {figure(found)} {currency}, its positions say {figure(needed)}",
            )
            for one in positions
        ]  # fmt: skip
    return differences


def _drift(account: Account, reading: _Reading) -> list[Difference]:
    """Balances that are not what they were plus the fills since; the first reading is where the account starts."""
    row, _ = Reconciliation.objects.get_or_create(account=account)
    if reading.contracts is not None:
        # What moves a wallet of contracts is the result of what is closed, and funding that is shown late: there the
        # positions are compared, and every fill and every payment is read.
        return []
    before = row.anchored_fill_id
    flows = _flows(account, before, reading.last_fill_id)
    if flows is None:
        return []
    with transaction.atomic():
        mine = Reconciliation.objects.filter(pk=account.pk, anchored_fill_id=before)
        if not mine.update(anchored_fill_id=reading.last_fill_id):
            return _drift_known(account)  # somebody else has compared just now
        anchors = {one.currency: one for one in BalanceAnchor.objects.select_for_update().filter(account=account)}
        if before is None:
            expected = dict(reading.totals)
        else:
            known = {currency: anchor.total for currency, anchor in anchors.items()}
            currencies = {*known, *flows, *reading.totals}
            expected = {one: known.get(one, ZERO) + flows.get(one, ZERO) for one in currencies}
        BalanceAnchor.objects.bulk_create(
            [
                BalanceAnchor(account=account, currency=currency, total=total, at=reading.read_at)
                for currency, total in sorted(expected.items())
            ],
            update_conflicts=True,
            unique_fields=["account", "currency"],
            update_fields=["total", "at"],
        )
    return [
        Difference(
            Kind.BALANCE_DRIFT, f"currency:{currency}", expected=total, found=found, currency=currency, is_figure=True,
            detail=f"holds {figure(found)} {currency}, its fills explain {figure(total)}",
        )
        for currency, total in sorted(expected.items())
        if abs((found := reading.totals.get(currency, ZERO)) - total) > tolerance_of(total, found)
    ]  # fmt: skip


def _drift_known(account: Account) -> list[Difference]:
    rows = account.discrepancies.filter(kind=Kind.BALANCE_DRIFT, status=Status.OPEN)
    return [
        Difference(
            Kind.BALANCE_DRIFT, row.subject, expected=row.expected or ZERO, found=row.found or ZERO, detail=row.detail,
            currency=row.currency, is_figure=True,
        )
        for row in rows
    ]  # fmt: skip


def _flows(account: Account, after_id: int | None, until_id: int) -> Mapping[str, Decimal] | None:
    """What the fills in between changed, by currency; None where some are of a kind whose money flows otherwise."""
    flows: dict[str, Decimal] = defaultdict(lambda: ZERO)
    if after_id is None:
        return flows
    fills = account.fills.filter(pk__gt=after_id, pk__lte=until_id, is_correction=False)
    for fill in fills.select_related("market").iterator():
        if fill.market.kind != Market.Kind.SPOT:
            return None
        sign = Side(fill.side).sign
        flows[fill.market.base] += sign * fill.quantity
        flows[fill.market.quote] -= sign * fill.quantity * fill.price
        if fill.fee_currency:
            flows[fill.fee_currency] -= fill.fee
    return flows


def _dust(account: Account, reading: _Reading) -> list[Difference]:
    """What positions left over that is too small to be sold."""
    differences = []
    for market in reading.markets:
        left = account.positions.filter(market=market, dust__gt=0)
        needed = sum((one.quantity for one in reading.held.get(market.base, ())), ZERO)
        found = reading.totals.get(market.base, ZERO)
        if found - needed <= tolerance_of(needed, found) or not left.exists():
            continue
        if is_dust(found - needed, market, getattr(market, "last_quote", None)):
            differences.append(
                Difference(
                    Kind.DUST, f"market:{market.pk}", expected=needed, found=found, market=market,
                    currency=market.base, is_figure=True,
                    detail=f"{figure(found - needed)} {market.base} is too little to be sold on {market.symbol}",
                )
            )  # fmt: skip
    return differences


def _last_fill_id(account: Account) -> int:
    return account.fills.aggregate(last=Max("pk"))["last"] or 0


def _totals(balances: Iterable[BalanceReport]) -> dict[str, Decimal]:
    return {balance.currency: balance.total for balance in balances}


def _free(now: datetime) -> Q:
    return Q(leased_until=None) | Q(leased_until__lte=now)


def _period(account_id: int) -> timedelta:
    tracked = TradingSession.objects.filter(Q(status=SessionStatus.ACTIVE) | Q(has_exposure=True), account=account_id)
    at_work = Order.objects.filter(account=account_id, status__in=AT_VENUE_STATUSES)
    return PERIOD if tracked.exists() or at_work.exists() else PERIOD_AT_REST


def _later(row: Reconciliation, error: Exception) -> None:
    pause = min(SHORTEST_PAUSE * 2 ** min(row.failures, 10), LONGEST_PAUSE)
    retry_after = getattr(error, "retry_after", None) or pause
    Reconciliation.objects.filter(pk=row.pk).update(
        due_at=timezone.now() + max(pause, retry_after), leased_until=None, failures=F("failures") + 1,
        last_error=f"{type(error).__name__}: {error}"[:200],
    )  # fmt: skip
