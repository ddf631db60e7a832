"""The funding of futures positions: what the venue paid or took for all that an account held of a market, shared among the
positions that were held then."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from django.db.models import Exists, OuterRef, Q

from domain.market import ZERO, Side
from domain.positions import FillFact, Holding, funding_share
from exchanges.models import Market
from orders.models import Fill, Funding
from positions.models import Intent, Position, PositionStatus

# Shares are rounded to what every database column can hold beside a large amount.
STEP = Decimal("1e-12")
# For how long, in our time, funding is looked for that comes after a position's end.
LATE_IS_LOOKED_FOR = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Funded:
    """What a position has paid (negative) or received in quote currency, and when the newest of it was recorded."""

    total: Decimal
    recorded_at: datetime


def fundings_of(positions: Iterable[Position]) -> dict[int, Funded]:
    """By position, its funding; those without are left out. ``market`` must be loaded."""
    asked = [one for one in positions if one.market.kind == Market.Kind.LINEAR_FUTURE and one.opened_at is not None]
    found: dict[int, Funded] = {}
    for position in asked:
        paid = Funding.objects.filter(
            account=position.account_id, market=position.market_id, paid_at__gte=position.opened_at
        )
        if position.closed_at is not None:
            paid = paid.filter(paid_at__lte=position.closed_at)
        if payments := list(paid):
            found[position.pk] = Funded(_share(position, payments), max(one.recorded_at for one in payments))
    return found


def funding_is_news() -> Q:
    """That funding of a position was recorded after its fills were last added up."""
    ours = Funding.objects.filter(
        account=OuterRef("account"), market=OuterRef("market"), paid_at__gte=OuterRef("opened_at"),
        recorded_at__gte=OuterRef("folded_at"),
    )  # fmt: skip
    while_open = ours.filter(paid_at__lte=OuterRef("closed_at"))
    return Q(Exists(ours), closed_at=None) | Q(Exists(while_open), closed_at__isnull=False)


def positions_funded_late(now: datetime) -> list[int]:
    """Closed positions whose last funding was recorded after their end: what the sweep rings for."""
    lately = Position.objects.filter(status=PositionStatus.CLOSED, folded_at__gte=now - LATE_IS_LOOKED_FOR)
    return list(lately.filter(funding_is_news()).order_by("pk").values_list("pk", flat=True))


def _share(position: Position, payments: Iterable[Funding]) -> Decimal:
    others = _others(position)
    if not others:
        return sum((one.amount for one in payments), ZERO)
    own, total = _holding(position), ZERO
    for one in payments:
        among = [
            holding
            for opened_at, closed_at, holding in others
            if opened_at <= one.paid_at and (closed_at is None or one.paid_at <= closed_at)
        ]
        total += funding_share(one.amount, one.paid_at, own, [own, *among])
    return total.quantize(STEP)


def _others(position: Position) -> list[tuple[datetime, datetime | None, Holding]]:
    """The account's other positions on the market whose time overlaps this one's, each with its time."""
    same = Position.objects.filter(account=position.account_id, market=position.market_id, opened_at__isnull=False)
    others = same.filter(Q(closed_at=None) | Q(closed_at__gte=position.opened_at)).exclude(pk=position.pk)
    if position.closed_at is not None:
        others = others.filter(opened_at__lte=position.closed_at)
    return [(one.opened_at, one.closed_at, _holding(one)) for one in others if one.opened_at is not None]


def _holding(position: Position) -> Holding:
    intents = Intent.objects.filter(position=position.pk).values("pk")
    fills = Fill.objects.filter(order__intent_id__in=intents).order_by("filled_at", "pk")
    return Holding(tuple(FillFact(Side(one.side), one.quantity, one.price, filled_at=one.filled_at) for one in fills))
