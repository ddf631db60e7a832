"""How a session stood at a moment that is over, as the journal tells."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from django.db.models import Q

from pipeline.models import Event
from pipeline.topics import Topic
from sessions.models import SessionStatus

# Which status a command leads to; what was commanded last says how the session stood.
LEADS_TO: Mapping[str, str] = {
    "start": SessionStatus.ACTIVE,
    "recovered": SessionStatus.ACTIVE,
    "suspend": SessionStatus.SUSPENDED,
    "stop": SessionStatus.STOPPING,
    "stopped": SessionStatus.STOPPED,
}
HALTED = "SESSION_HALTED"


def session_statuses(session_id: int, until: datetime) -> list[tuple[datetime, str]]:
    """What the session came to be, and when, in our time, up to ``until``; oldest first."""
    commands = Q(topic=Topic.COMMAND, data__command__in=[*LEADS_TO])
    halts = Q(topic=Topic.ALERTS, data__alert=HALTED)
    rows = Event.objects.filter(commands | halts, session_id=session_id, at__lte=until).order_by("at")
    return [
        (at, LEADS_TO.get(data.get("command", ""), SessionStatus.HALTED)) for at, data in rows.values_list("at", "data")
    ]


def status_at(statuses: list[tuple[datetime, str]], at: datetime) -> str | None:
    """The status by the last of ``statuses`` before ``at``; None where the journal does not say."""
    return next((status for since, status in reversed(statuses) if since <= at), None)
