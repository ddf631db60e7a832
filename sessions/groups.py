"""Groups: the same configuration on several accounts of one owner, evaluated once, sized by account, commanded together.

A group commands nothing by itself: each of its sessions gets the command as if it had been given to it alone, and answers for
itself. So a group half of which is refused is no broken group, and a command given twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction

from exchanges.models import Account
from sessions.models import SessionGroup, SessionStatus, TradingSession
from sessions.services import (
    UnableToCommand,
    session_create,
    session_recover,
    session_start,
    session_stop,
    session_suspend,
)
from strategies.models import StrategyConfig

S = SessionStatus

COMMANDS: Mapping[str, Callable[..., Any]] = {
    "start": session_start,
    "suspend": session_suspend,
    "recover": session_recover,
    "stop": session_stop,
}
# Where a session is that has nothing left to do for the command.
SETTLED: Mapping[str, tuple[str, ...]] = {
    "start": (S.ACTIVE,),
    "suspend": (S.SUSPENDED,),
    "recover": (S.ACTIVE,),
    "stop": (S.STOPPING, S.STOPPED),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a command at one session; ``detail`` is the refusal in words where it was not done."""

    session_id: int
    account_id: int
    is_done: bool
    detail: str


def group_create(name: str, config: StrategyConfig, accounts: Sequence[Account], **fields: Any) -> SessionGroup:
    """A group with a new session of ``config`` on each of ``accounts``, all of them or none; ``fields`` are the sessions'
    (sizing, exits, period of ticks). Nothing is started. Raises ValidationError, naming the account that does not fit."""
    if not accounts:
        raise ValidationError({"accounts": "wanted at least one account, was none"})
    if len({account.pk for account in accounts}) < len(accounts):
        raise ValidationError({"accounts": "wanted each account once, was one twice"})
    group = SessionGroup(owner=config.owner, name=name.strip())
    group.clean_fields()
    with transaction.atomic():
        if SessionGroup.objects.filter(owner=group.owner, name=group.name).exists():
            raise ValidationError({"name": f"wanted a name that none of your other groups has, was {group.name!r}"})
        group.save()
        for account in accounts:
            name = f"{group.name}-{account.name}"[: TradingSession.NAME_LENGTH]
            try:
                session_create(TradingSession(group=group, account=account, config=config, name=name, **fields))
            except ValidationError as error:
                texts = [f"{account.name}: {text}" for text in error.messages]
                raise ValidationError({"accounts": texts}) from error
    return group


def group_command(group_id: int, command: str, *, actor: str = "system") -> list[Outcome]:
    """Give every session of a group the command, one after the other; what came of it at each. A session that is where the
    command leads already counts as done. Raises KeyError for a command there is not."""
    verb = COMMANDS[command]
    sessions = TradingSession.objects.filter(group=group_id).order_by("pk").values_list("pk", "account_id")
    return [_command(verb, command, session_id, account_id, actor) for session_id, account_id in sessions]


def _command(verb: Callable[..., Any], command: str, session_id: int, account_id: int, actor: str) -> Outcome:
    try:
        verb(session_id, actor=actor)
    except UnableToCommand as error:
        status = TradingSession.objects.values_list("status", flat=True).get(pk=session_id)
        if status in SETTLED[command]:
            return Outcome(session_id, account_id, True, f"was {status} already")
        return Outcome(session_id, account_id, False, str(error))
    except ValidationError as error:
        return Outcome(session_id, account_id, False, "; ".join(error.messages))
    return Outcome(session_id, account_id, True, "")
