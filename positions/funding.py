"""The funding of futures positions: what the venue paid or took for all that an account held of a market, shared among the
positions that were held then."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from functools import reduce
from operator import or_

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

# An account and one of its markets, by their ids.
_Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Funded:
    """What a position has paid (negative) or received in quote currency, and when the newest of it was recorded."""

    total: Decimal
    recorded_at: datetime


@dataclass(slots=True)
class _Held:
    """A position with its fills, as the sharing of a payment sees it."""

    position: Position
    fills: list[FillFact] = field(default_factory=list)

    @property
    def holding(self) -> Holding:
        return Holding(tuple(self.fills))


def fundings_of(positions: Iterable[Position]) -> dict[int, Funded]:
    """By position, its funding; those without are left out. ``market`` must be loaded. Four queries, however
    many they are."""
    asked = [one for one in positions if one.market.kind == Market.Kind.LINEAR_FUTURE and one.opened_at is not None]
    payments = _payments(asked)
    held = _held(asked) if payments else {}
    found: dict[int, Funded] = {}
    for position in asked:
        mine = [payment for payment in payments.get(_place(position), ()) if _was_open(position, payment.paid_at)]
        if mine:
            total = _share(position, mine, held[_place(position)])
            found[position.pk] = Funded(total, max(one.recorded_at for one in mine))
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


def _place(one: Position | Funding) -> _Place:
    return one.account_id, one.market_id


def _was_open(position: Position, at: datetime) -> bool:
    is_begun = position.opened_at is not None and position.opened_at <= at
    return is_begun and (position.closed_at is None or at <= position.closed_at)


def _payments(positions: Sequence[Position]) -> dict[_Place, list[Funding]]:
    """By account and market, what was paid since the first of these positions there was opened."""
    found: dict[_Place, list[Funding]] = defaultdict(list)
    if positions:
        since = (
            Q(account=account, market=market, paid_at__gte=at) for (account, market), at in _begun(positions).items()
        )
        for payment in Funding.objects.filter(reduce(or_, since)):
            found[_place(payment)].append(payment)
    return found


def _share(position: Position, payments: Iterable[Funding], held: Mapping[int, _Held]) -> Decimal:
    if len(held) == 1:
        return sum((one.amount for one in payments), ZERO)
    own, total = held[position.pk].holding, ZERO
    for one in payments:
        others = (other for pk, other in held.items() if pk != position.pk)
        among = [other.holding for other in others if _was_open(other.position, one.paid_at)]
        total += funding_share(one.amount, one.paid_at, own, [own, *among])
    return total.quantize(STEP)


def _held(positions: Sequence[Position]) -> dict[_Place, dict[int, _Held]]:
    """By account and market, the positions that may have been open beside these, each by its id, these among them; with what
    they held where they are several."""
    since = (
        Q(account=account, market=market) & (Q(closed_at=None) | Q(closed_at__gte=at))
        for (account, market), at in _begun(positions).items()
    )
    found: dict[_Place, dict[int, _Held]] = defaultdict(dict)
    for one in [*Position.objects.filter(reduce(or_, since), opened_at__isnull=False), *positions]:
        found[_place(one)][one.pk] = _Held(one)
    several = {pk: one for beside in found.values() if len(beside) > 1 for pk, one in beside.items()}
    if several:
        by_intent = dict(Intent.objects.filter(position__in=several).values_list("pk", "position_id"))
        fills = Fill.objects.filter(order__intent_id__in=by_intent).select_related("order").order_by("filled_at", "pk")
        for fill in fills:
            fact = FillFact(Side(fill.side), fill.quantity, fill.price, filled_at=fill.filled_at)
            several[by_intent[fill.order.intent_id]].fills.append(fact)
    return found


def _begun(positions: Iterable[Position]) -> dict[_Place, datetime]:
    """By account and market, when the first of these positions was opened."""
    begun: dict[_Place, datetime] = {}
    for one in positions:
        if one.opened_at is not None:
            begun[_place(one)] = min(one.opened_at, begun.get(_place(one), one.opened_at))
    return begun
