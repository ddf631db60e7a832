"""Filing differences: one open row per subject, kept up to date while it is true, closed when it no longer is, and never
filed again once somebody has decided to leave it."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import dataclass
from decimal import Decimal

from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils import timezone

from domain.market import ZERO
from domain.orders import LIVE_STATUSES
from exchanges.models import Account, Market
from orders.models import Order
from pipeline.topics import Topic, publish
from positions.models import Discrepancy, Position, Resolution
from positions.models import DiscrepancyKind as Kind
from positions.models import DiscrepancyStatus as Status

# What a venue's rounding may explain: a millionth of the amount, and the last digits of a small one.
TOLERANCE_RATIO = Decimal("0.000001")
TOLERANCE_LEAST = Decimal("0.0000001")
# Names the wishes that decisions make, by their discrepancies.
CLOSING = uuid.UUID("b1f7a1de-5c3e-4a4e-9b1d-0d6c7a52c0e4")


def tolerance_of(*amounts: Decimal) -> Decimal:
    """How far figures of this size may differ and still be the same."""
    return max(map(abs, amounts), default=ZERO) * TOLERANCE_RATIO + TOLERANCE_LEAST


def figure(value: Decimal) -> str:
    """A figure as a person writes it."""
    return f"{value.normalize():f}"


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference that is true now. ``is_figure``: what was decided about it holds for these figures only."""

    kind: Kind
    subject: str
    expected: Decimal
    found: Decimal
    detail: str
    market: Market | None = None
    order: Order | None = None
    position: Position | None = None
    currency: str = ""
    is_figure: bool = False


def closing_intent(row: Discrepancy) -> uuid.UUID:
    """Whose wish the order is that trades back what ``row`` is about, once it was decided to close it."""
    return uuid.uuid5(CLOSING, str(row.pk))


def discrepancies_settle(account: Account, true_now: Collection[Difference], kinds: Collection[Kind]) -> None:
    """Make the account's open rows of these kinds exactly what is ``true_now``: file what is new, renew the figures of what
    is known, close what is no longer true."""
    for one in true_now:
        _file(account, one)
    stands = {(one.kind, one.subject) for one in true_now}
    for row in account.discrepancies.filter(status=Status.OPEN, kind__in=[str(kind) for kind in kinds]):
        if (row.kind, row.subject) not in stands:
            with transaction.atomic():
                discrepancy_close(row, Resolution.VANISHED)


def discrepancy_record(account: Account, one: Difference) -> None:
    """Tell of a difference that is put right already; once."""
    with transaction.atomic():
        # Under the account's lock, so that of two readers the second sees what the first has told.
        # No key of it changes: whoever records a fill of the account need not wait, nor would be waited for in turn.
        Account.objects.select_for_update(of=("self",), no_key=True).get(pk=account.pk)
        if account.discrepancies.filter(kind=one.kind, subject=one.subject).exists():
            return
        row = _new(account, one)
        row.status, row.resolution = Status.RESOLVED, Resolution.RECORDED
        row.resolved_at, row.resolved_by = timezone.now(), "system"
        row.save()
        _tell(row, account, "DISCREPANCY", "system")


def discrepancy_close(row: Discrepancy, resolution: Resolution, *, actor: str = "system") -> bool:
    """Resolve an open row and say so; whether it was this call that did. Must run inside a transaction."""
    moved = Discrepancy.objects.filter(pk=row.pk).move(
        Status.RESOLVED, resolution=resolution, resolved_by=actor[:64], resolved_at=timezone.now()
    )
    if moved:
        row.resolution = resolution
        _tell(row, row.account, "DISCREPANCY_RESOLVED", actor, resolution=str(resolution))
    return bool(moved)


def _file(account: Account, one: Difference) -> None:
    rows = account.discrepancies.filter(kind=one.kind, subject=one.subject)
    known = rows.filter(status=Status.OPEN)
    if known.exists():
        known.exclude(expected=one.expected, found=one.found, detail=one.detail).update(
            expected=one.expected, found=one.found, detail=one.detail[:200]
        )
        return
    decided = (
        rows.filter(resolution__in=(Resolution.IGNORE, Resolution.ADOPT, Resolution.CLOSE)).order_by("-pk").first()
    )
    if decided is not None and _still_holds(decided, one):
        return
    try:
        with transaction.atomic():
            row = _new(account, one)
            row.save()
            _tell(row, account, "DISCREPANCY", "system")
    except IntegrityError:
        return  # somebody else has filed it just now


def _still_holds(decided: Discrepancy, one: Difference) -> bool:
    """Whether what was decided is about this difference, too."""
    if not one.is_figure and decided.resolution in (Resolution.IGNORE, Resolution.ADOPT):
        return True
    attempts = Order.objects.filter(intent_id=closing_intent(decided))
    if attempts.exists() and not attempts.filter(Q(filled__gt=0) | Q(status__in=LIVE_STATUSES)).exists():
        return False  # it was to be traded back, and the venue would not
    # A decision about figures is a decision about those: what was closed then may have grown since.
    change = abs(one.found - one.expected - decided.difference)
    return decided.resolution != Resolution.ADOPT and change <= tolerance_of(one.expected, one.found)


def _new(account: Account, one: Difference) -> Discrepancy:
    return Discrepancy(
        account=account, kind=one.kind, subject=one.subject, market=one.market, order=one.order, position=one.position,
        currency=one.currency, expected=one.expected, found=one.found, detail=one.detail[:200],
    )  # fmt: skip


def _tell(row: Discrepancy, account: Account, alert: str, actor: str, **data: str) -> None:
    publish(
        Topic.ALERTS, account.pk, account_id=account.pk, owner_id=account.owner_id, discrepancy_id=row.pk,
        order_id=row.order_id, position_id=row.position_id, actor=actor,
        data={
            "alert": alert, "kind": str(row.kind), "subject": row.subject, "expected": row.expected, "found": row.found,
            **data,
        },
    )  # fmt: skip
