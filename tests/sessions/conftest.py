"""What tests of sessions ask of a session's rows."""

from __future__ import annotations

from typing import Any

from sessions.models import SessionStatus, TradingSession
from tests.factories import make_session


def fresh(session: TradingSession) -> TradingSession:
    """The session as its row stands now."""
    return TradingSession.objects.select_related("config__feed", "account__exchange").get(pk=session.pk)


def needs(session: TradingSession) -> tuple[bool, bool]:
    """Whether its feed is collected, and its configuration evaluated."""
    config = fresh(session).config
    return config.feed.is_needed, config.is_needed


def created(**fields: Any) -> TradingSession:
    return make_session(status=SessionStatus.CREATED, **fields)
