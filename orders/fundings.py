"""Funding: what positions of contracts paid and received, each payment recorded once.

Every account that trades contracts is asked once a minute while it holds some, and for an hour after its last fill; at rest
only now and then. A reading begins before the end of the one before it, and the cursor moves only when everything that was
read is recorded: what the venue shows late is in the next one.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from decimal import Decimal

from django.db import transaction
from django.db.models import Case, Exists, F, Min, OuterRef, Q, QuerySet, Sum, When
from django.utils import timezone

from domain.market import ZERO, Side
from exchanges.accounts import account_pause
from exchanges.credentials import UnableToDecrypt
from exchanges.gateway import ExchangeUnavailable, FundingReport
from exchanges.models import Account, Market
from exchanges.services import gateway_for
from orders.models import Fill, FillCursor, Funding, Order
from pipeline.topics import Note, Topic, publish_all, ring

logger = logging.getLogger(__name__)

PERIOD = timedelta(seconds=60)
PERIOD_AT_REST = timedelta(hours=6)
# A payment may be shown long after its time, when the position is gone.
WATCHED_AFTER_FILLS = timedelta(hours=1)
# By the venue's clock: at least one payment is read again, for venues pay every eight hours.
OVERLAP = timedelta(hours=9)


def accounts_due(now: datetime) -> list[int]:
    """Accounts whose funding was not read for its period on some market of contracts: what the sweep rings for."""
    asked = _due(now).filter(account__status=Account.Status.ACTIVE, account__exchange__is_enabled=True)
    return sorted(set(asked.values_list("account_id", flat=True)))


def fundings_read(account_id: int) -> int:
    """Read the account's funding wherever that is due; how many payments were new.

    1. Claim the cursor by moving its due time: a second reader finds nothing due.
    2. Ask the venue, holding no transaction.
    3. Record what is new, announce it and move the cursor, in one transaction.

    A venue that cannot be asked is asked again a period later.
    """
    account = Account.objects.select_related("exchange").get(pk=account_id)
    now, new = timezone.now(), 0
    for cursor in _due(now).filter(account=account).select_related("market"):
        claimed = FillCursor.objects.filter(pk=cursor.pk, fundings_due_at=cursor.fundings_due_at)
        if not claimed.update(fundings_due_at=now + PERIOD):
            continue
        try:
            gateway = gateway_for(account.exchange, account, [cursor.market])
            read_at = account.exchange.time_at(timezone.now())
            reports = gateway.fundings_since(cursor.market.symbol, _since(cursor))
        except UnableToDecrypt as error:
            account_pause(account_id, str(error), keys=account.credentials)
            return new
        except ExchangeUnavailable as error:
            if error.is_refused_key:
                account_pause(account_id, str(error), keys=account.credentials)
            logger.warning("funding of account %s on %s was not read: %s", account_id, cursor.market.symbol, error)
            continue
        new += _record(account, cursor, reports, read_at)
        if _is_at_rest(cursor, now):
            FillCursor.objects.filter(pk=cursor.pk).update(fundings_due_at=now + PERIOD_AT_REST)
    return new


def _due(now: datetime) -> QuerySet[FillCursor]:
    """Where funding is to be read: its time has come, or something was traded while it was at rest."""
    fills = Fill.objects.filter(account=OuterRef("account"), market=OuterRef("market"))
    is_woken = Q(fundings_due_at__gt=now + 2 * PERIOD) & Exists(fills.filter(recorded_at__gt=now - WATCHED_AFTER_FILLS))
    is_due = Q(fundings_due_at=None) | Q(fundings_due_at__lte=now) | is_woken
    return FillCursor.objects.filter(is_due, market__kind=Market.Kind.LINEAR_FUTURE).order_by("pk")


def _since(cursor: FillCursor) -> datetime:
    """From when on, by the venue's clock: nothing was paid before the first fill."""
    first: datetime | None = cursor.fundings_read_until
    if first is None:
        fills = Fill.objects.filter(account=cursor.account_id, market=cursor.market_id)
        first = fills.aggregate(first=Min("filled_at"))["first"] or cursor.begun_at
    return first - OVERLAP


def _record(account: Account, cursor: FillCursor, reports: list[FundingReport], read_at: datetime) -> int:
    """Write down the payments that are not there yet, and tell of them; how many."""
    market = cursor.market
    with transaction.atomic():
        # Locked, so that of two readings the second sees what the first has recorded.
        FillCursor.objects.select_for_update().get(pk=cursor.pk)
        recorded = Funding.objects.filter(
            account=account, market=market, funding_id__in=[report.funding_id for report in reports]
        )
        known = set(recorded.values_list("funding_id", flat=True))
        new = Funding.objects.bulk_create(
            Funding(
                account=account, market=market, funding_id=report.funding_id, amount=report.amount,
                currency=report.currency, paid_at=report.paid_at,
            )
            for report in {report.funding_id: report for report in reports}.values()
            if report.funding_id not in known
        )  # fmt: skip
        FillCursor.objects.filter(pk=cursor.pk).update(fundings_read_until=read_at)
        if new:
            _announce(account, market, new)
            # The wallet has moved, and no fill tells of it.
            transaction.on_commit(lambda: ring("orders.balances", account_ids=[account.pk]), robust=True)
    return len(new)


def _announce(account: Account, market: Market, new: list[Funding]) -> None:
    # A payment is of what the account's orders on the market had made by then: it is told under the last one that traded.
    traded = Order.objects.filter(account=account, market=market, filled__gt=0).order_by("-pk")
    order_id = traded.values_list("pk", flat=True).first()
    if order_id is None:
        return
    publish_all(
        Topic.TRADE_UPDATES,
        [
            Note(
                key=order_id,
                ids={
                    "order_id": order_id, "account_id": account.pk, "owner_id": account.owner_id, "funding_id": one.pk,
                },
                data={"funding": one.amount, "currency": one.currency, "paid_at": one.paid_at.isoformat()},
            )
            for one in new
        ],
    )  # fmt: skip


def _is_at_rest(cursor: FillCursor, now: datetime) -> bool:
    """Whether the fills say that nothing is held, and none came lately."""
    fills = Fill.objects.filter(account=cursor.account_id, market=cursor.market_id)
    if fills.filter(recorded_at__gt=now - WATCHED_AFTER_FILLS).exists():
        return False
    signed = Case(When(side=Side.BUY.value, then=F("quantity")), default=-F("quantity"))
    # A correction is a decision of ours that moved nothing at the venue.
    held: Decimal = fills.filter(is_correction=False).aggregate(held=Sum(signed))["held"] or ZERO
    return held == ZERO
