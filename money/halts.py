"""Halts: what keeps a session from entering."""

from __future__ import annotations

from django.db.models import Q

from money.models import TradingHalt
from sessions.models import TradingSession


def halt_in_force(session: TradingSession) -> TradingHalt | None:
    """The oldest halt that the session is under, whichever scope it is of; None where there is none."""
    everywhere = Q(session=None, account=None, owner=None)
    scopes = Q(session=session.pk) | Q(account=session.account_id) | Q(owner=session.account.owner_id) | everywhere
    return TradingHalt.objects.filter(scopes, lifted_at=None).order_by("tripped_at").first()
