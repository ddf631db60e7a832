"""How long each hop of the live path took, read from the times on the rows: nothing is measured for it on the way.

All times are ours, never the venue's, so a hop means the same at a simulator that runs faster than the world.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from statistics import median

from django.db.models import DateTimeField, F, OuterRef, Subquery

from marketdata.models import Candle
from orders.models import Order
from positions.models import Intent

# Name, from, to, and what happens in between. An exit has no candle of its own and is not valued: it starts at "submit".
HOPS: tuple[tuple[str, str, str, str], ...] = (
    ("evaluate", "collected_at", "signalled_at", "closed candle stored, to signal stored"),
    ("track", "signalled_at", "requested_at", "signal stored, to order requested"),
    ("value", "requested_at", "valued_at", "entry requested, to quantity decided or denied"),
    ("submit", "decided_at", "sent_at", "quantity decided, to claimed for the one call to the venue"),
    ("accept", "sent_at", "opened_at", "claimed, to accepted by the venue"),
    ("settle", "opened_at", "closed_at", "accepted, to done with every fill recorded"),
    ("candle_to_accept", "collected_at", "opened_at", "closed candle stored, to order accepted: the whole way"),
)
DESCRIPTIONS = {name: text for name, _, _, text in HOPS}
# The newest orders of a session that are looked at.
MOST_ORDERS = 200


@dataclass(frozen=True, slots=True)
class OrderHops:
    """The hops of one order in ms; None where the order did not pass, or has not yet."""

    order_id: int
    client_order_id: str
    is_exit: bool
    status: str
    hops_ms: dict[str, float | None]


def session_hops(session_id: int, limit: int = MOST_ORDERS) -> list[OrderHops]:
    """The hops of a session's newest orders, oldest first."""
    intents = Intent.objects.filter(position__session=session_id)
    entered_by = Intent.objects.filter(pk=OuterRef("intent_id"), purpose=Intent.Purpose.ENTRY)
    signal = entered_by.annotate(at=F("position__entry_signal__created_at")).values("at")
    collected = Candle.objects.filter(
        feed=OuterRef("position__entry_signal__config__feed"),
        open_at=OuterRef("position__entry_signal__candle_open_at"),
    ).values("collected_at")
    candle = entered_by.annotate(at=Subquery(collected)).values("at")
    orders = (
        Order.objects.filter(intent_id__in=intents.values("pk"))
        .annotate(
            signalled_at=Subquery(signal, output_field=DateTimeField()),
            collected_at=Subquery(candle, output_field=DateTimeField()),
        )
        .order_by("-pk")[:limit]
    )
    return [
        OrderHops(order.pk, order.client_order_id, order.is_exit, order.status, _hops_of(_times_of(order)))
        for order in reversed(orders)
    ]


def hops_p50(hops: Iterable[OrderHops]) -> dict[str, float | None]:
    """The median of each hop over those orders that passed it."""
    rows = [one.hops_ms for one in hops]
    return {name: _median([value for row in rows if (value := row[name]) is not None]) for name in DESCRIPTIONS}


def _times_of(order: Order) -> dict[str, datetime | None]:
    times = {
        name: getattr(order, name)
        for name in ("collected_at", "signalled_at", "requested_at", "valued_at", "sent_at", "opened_at", "closed_at")
    }
    if order.is_exit:
        # An exit is born with its quantity, so nobody values it: its wait for submission begins with the row.
        return times | {"valued_at": None, "decided_at": order.requested_at}
    return times | {"decided_at": order.valued_at}


def _hops_of(times: dict[str, datetime | None]) -> dict[str, float | None]:
    return {name: _ms(times[start], times[end]) for name, start, end, _ in HOPS}


def _ms(start: datetime | None, end: datetime | None) -> float | None:
    if start is None or end is None:
        return None
    return round((end - start).total_seconds() * 1000, 3)


def _median(values: list[float]) -> float | None:
    return round(median(values), 3) if values else None
