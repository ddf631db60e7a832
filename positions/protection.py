"""A position that is to have a stop and has none in force is told of, once a spell, and once more when it is over."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Case, CharField, Q, QuerySet, Value, When
from django.utils import timezone

from pipeline.topics import Topic, publish
from positions.models import Position, PositionStatus
from positions.services import PRICE_IS_OLD_AFTER
from sessions.models import TRACKED_STATUSES

# How long after its fills a position may be without a stop: the look that adds them up sets it.
UNPROTECTED_IS_TOLD_AFTER = timedelta(seconds=5)


def positions_to_tell_of(now: datetime) -> list[int]:
    """Positions whose stop is not in force, or is again, without a word about it: what the sweep rings for."""
    return list(_to_tell_of(now).order_by("pk").values_list("pk", flat=True))


def position_protection_tell(position_id: int) -> bool:
    """Tell of a position that has lost its protection, or has it back; whether this call did. Its exits go on meanwhile."""
    now = timezone.now()
    with transaction.atomic():
        # Its own row first and alone, so that of two sweeps the second sees what the first has told.
        Position.objects.select_for_update().filter(pk=position_id).first()
        row = _to_tell_of(now).select_related("account", "market").filter(pk=position_id).first()
        if row is None:
            return False
        is_lost = row.unprotected_at is None
        Position.objects.filter(pk=position_id).update(unprotected_at=now if is_lost else None)
        facts: dict[str, Any] = {
            "alert": "POSITION_UNPROTECTED" if is_lost else "POSITION_PROTECTED",
            "market": row.market.symbol,
        }
        if is_lost:
            facts |= {"reason": row.fault, "quantity": row.quantity}
        else:
            facts["since"] = row.unprotected_at
        publish(
            Topic.ALERTS, row.session_id, session_id=row.session_id, account_id=row.account_id, position_id=row.pk,
            owner_id=row.account.owner_id, data=facts,
        )  # fmt: skip
    return True


def _to_tell_of(now: datetime) -> QuerySet[Any, Any]:
    """Positions with the ``fault`` of their protection, empty where there is none, that nobody was told of as it stands."""
    is_held = Q(status=PositionStatus.OPEN, has_stop=True)
    is_old = Q(market__last_quote=None) | Q(market__last_quote__quoted_at__lt=now - PRICE_IS_OLD_AFTER)
    fault = Case(
        When(~is_held, then=Value("")),
        When(~Q(session__status__in=TRACKED_STATUSES), then=Value("nobody tracks it: its session does not run")),
        When(
            Q(stop_price=None, folded_at__lt=now - UNPROTECTED_IS_TOLD_AFTER),
            then=Value("its plan has a stop and none could be set"),
        ),
        When(is_old, then=Value("there is no price recent enough to see its stop by")),
        default=Value(""),
        output_field=CharField(),
    )
    concerned = Position.objects.filter(is_held | Q(unprotected_at__isnull=False)).annotate(fault=fault)
    return concerned.filter(~Q(fault="") & Q(unprotected_at=None) | Q(fault="", unprotected_at__isnull=False))
