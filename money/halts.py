"""Circuit breakers: once a trip is committed no entry in its scope becomes READY, what it asks for is carried out until
nothing is left of it, and it ends by somebody's deliberate act.

A trip holds the lock under which orders are valued, of every account in its scope: what is valued before it is cancelled by
it, and whoever values after it sees it. What is at work at the venue is left to the orders and the position tracker;
``money.guard`` asks for it again as long as any of it remains, so a lost message or a crash changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Case, OuterRef, Q, QuerySet, Subquery, Value, When
from django.db.models.functions import JSONObject
from django.utils import timezone

from domain.exits import ExitReason
from domain.orders import DENIAL_TEXTS, Denial, OrderStatus
from exchanges.models import Account
from money.models import HaltMode, HaltScope, TradingHalt
from orders.models import Order
from orders.services import orders_cancel
from pipeline.claims import settled
from pipeline.topics import Note, Topic, publish_all, ring
from positions.models import LIVE_POSITIONS, Intent, Position
from positions.services import session_exit
from sessions.models import TradingSession

logger = logging.getLogger(__name__)

S = OrderStatus

# Not at the venue yet. One that is on its way comes back READY where the venue refused it unseen, and must not be sent again.
UNSENT = (S.READY, S.SUBMITTING)
# Which entries a halt wants gone. What is merely requested is left to its valuing, which denies it and says why.
CANCELED_BY: dict[str, tuple[OrderStatus, ...]] = {
    HaltMode.HALT: UNSENT,
    HaltMode.REDUCE_ONLY: (*UNSENT, S.UNKNOWN, S.OPENED),
    HaltMode.FLATTEN: (*UNSENT, S.UNKNOWN, S.OPENED),
}
# The strongest first.
STRENGTH = Case(
    When(mode=HaltMode.FLATTEN, then=Value(0)), When(mode=HaltMode.REDUCE_ONLY, then=Value(1)), default=Value(2)
)
NOTE_LENGTH = 200
EVERYBODY = Q(session=None, account=None, owner=None)


def halt_in_force(session: TradingSession) -> TradingHalt | None:
    """The strongest halt over this session, its account, its owner or the platform, by one query; None where there is none.
    Final when it is asked under the account's lock."""
    mine = TradingSession.objects.filter(pk=session.pk)
    halts = halts_over(session.pk, mine.values("account")[:1], mine.values("account__owner")[:1])
    return halts.order_by(STRENGTH, "pk").first()


def halts_over(session: Any, account: Any, owner: Any) -> QuerySet[TradingHalt]:
    """Every halt in force over a session of this account and owner: their numbers, or expressions for them."""
    scopes = Q(session=session) | Q(account=account) | Q(owner=owner) | EVERYBODY
    return TradingHalt.objects.filter(scopes, lifted_at=None)


def with_halt(sessions: QuerySet[TradingSession]) -> QuerySet[TradingSession]:
    """The sessions, each with the strongest halt over it as ``halt``: its id, mode, cause and rule, or None."""
    halts = halts_over(OuterRef("pk"), OuterRef("account"), OuterRef("account__owner")).order_by(STRENGTH, "pk")
    facts = halts.values(facts=JSONObject(id="pk", mode="mode", cause="cause", rule="rule"))
    return sessions.annotate(halt=Subquery(facts[:1]))


def halt_trip(
    mode: str,
    cause: str,
    *,
    session_id: int | None = None,
    account_id: int | None = None,
    owner_id: int | None = None,
    rule: str = "",
    actor: str = "system",
) -> TradingHalt:
    """Halt a session, an account, all of an owner's, or, with none of the three, the platform. Where the same halt of the
    same person is in force, that one: a second press changes nothing. Raises ValidationError, naming what is wrong."""
    if sum(scope is not None for scope in (session_id, account_id, owner_id)) > 1:
        raise ValidationError({"scope": "wanted one of session, account and owner, was several"})
    halt = TradingHalt(
        mode=mode, session_id=session_id, account_id=account_id, owner_id=owner_id, rule=rule, cause=cause.strip(),
        tripped_by=actor[:64],
    )  # fmt: skip
    halt.clean_fields()
    return settled(lambda: _trip(halt, actor))


def halt_lift(halt_id: int, note: str, *, actor: str) -> bool:
    """End a halt; ``note`` says why that is right. Whether it was this call that did. What the halt has cancelled or closed,
    or begun to, stays so. Raises ValidationError for a note that says nothing."""
    note = note.strip()
    if not 0 < len(note) <= NOTE_LENGTH:
        raise ValidationError({"note": f"wanted why it may be lifted, in 1 to {NOTE_LENGTH} letters, was {len(note)}"})
    with transaction.atomic():
        in_force = TradingHalt.objects.filter(pk=halt_id, lifted_at=None)
        if not in_force.update(lifted_at=timezone.now(), lifted_by=actor[:64], lift_note=note):
            return False
        _tell(TradingHalt.objects.get(pk=halt_id), "HALT_LIFTED", actor, note=note)
    return True


def halt_carry_out(halt_id: int) -> None:
    """Cancel the entries and leave the positions that a halt in force wants gone. One position that cannot be left does not
    keep the others from it."""
    halt = TradingHalt.objects.filter(pk=halt_id, lifted_at=None).first()
    if halt is None:
        return
    actor = f"halt {halt.pk}"
    orders_cancel(list(_entries_left(halt)), actor=actor)
    for session_id in _positions_left(halt).order_by("session").values_list("session", flat=True):
        try:
            session_exit(session_id, actor=actor, reason=ExitReason.HALT)
        except Exception:  # the sweep comes again
            logger.exception("session %s was not asked to leave its position", session_id)


def halts_undone(now: datetime) -> list[int]:
    """Halts in force that have left something undone: what the guard rings for."""
    halts = TradingHalt.objects.filter(lifted_at=None, tripped_at__lte=now).order_by("pk")
    return [halt.pk for halt in halts if _entries_left(halt).exists() or _positions_left(halt).exists()]


def halt_is_liftable(halt: TradingHalt, username: str, *, is_superuser: bool) -> bool:
    """Whether this user may lift it: one's own, and what a rule tripped; what somebody of the platform decided, or what
    halts all of it, only superusers lift."""
    if is_superuser:
        return True
    return halt.scope != HaltScope.PLATFORM and (bool(halt.rule) or halt.tripped_by == username[:64])


def halts_of_owner(owner_id: int) -> Q:
    """Which halts concern a trader: on their sessions, their accounts, themselves, and on everybody."""
    return Q(session__account__owner=owner_id) | Q(account__owner=owner_id) | Q(owner=owner_id) | EVERYBODY


def halt_subject(halt: TradingHalt) -> Any:
    """The row it halts; None for the platform."""
    return halt.session or halt.account or halt.owner


def _trip(halt: TradingHalt, actor: str) -> TradingHalt:
    with transaction.atomic():
        # Not FOR UPDATE: fills refer to the account, and whoever records one may hold an order that is to be cancelled here.
        accounts = _accounts_of(halt).select_for_update(no_key=True, of=("self",)).order_by("pk")
        list(accounts.values_list("pk", flat=True))
        same = TradingHalt.objects.filter(
            lifted_at=None, rule=halt.rule, session=halt.session_id, account=halt.account_id, owner=halt.owner_id
        )
        # Another person's stands beside it: a trader's own, which they may lift, must not stand for the platform's.
        found = same.first() if halt.rule else same.filter(mode=halt.mode, tripped_by=halt.tripped_by).first()
        if found is not None:
            return found
        halt.save(force_insert=True)
        unsent = list(_entries_left(halt, UNSENT))
        orders_cancel(unsent, actor=actor)
        canceled = Order.objects.filter(pk__in=[order.pk for order in unsent], status=S.CANCELED)
        canceled.update(reason=Denial.HALTED, detail=DENIAL_TEXTS[Denial.HALTED])
        _tell(halt, "HALT_TRIPPED", actor)
        transaction.on_commit(lambda: ring("money.carry_out", halt_ids=[halt.pk]), robust=True)
    return halt


def _accounts_of(halt: TradingHalt) -> QuerySet[Account]:
    if halt.session_id:
        return Account.objects.filter(pk__in=TradingSession.objects.filter(pk=halt.session_id).values("account"))
    if halt.account_id:
        return Account.objects.filter(pk=halt.account_id)
    return Account.objects.filter(owner=halt.owner_id) if halt.owner_id else Account.objects.all()


def _entries_left(halt: TradingHalt, statuses: Collection[str] | None = None) -> QuerySet[Order]:
    wanted = CANCELED_BY[halt.mode] if statuses is None else statuses
    left = Order.objects.filter(status__in=wanted, is_exit=False, is_foreign=False, is_cancel_wanted=False)
    if halt.session_id:
        intents = Intent.objects.filter(position__session=halt.session_id)
        return left.filter(intent_id__in=intents.values("pk"))
    return left if halt.scope == HaltScope.PLATFORM else left.filter(account__in=_accounts_of(halt).values("pk"))


def _positions_left(halt: TradingHalt) -> QuerySet[Position]:
    if halt.mode != HaltMode.FLATTEN:
        return Position.objects.none()
    left = Position.objects.filter(status__in=LIVE_POSITIONS, is_exit_wanted=False)
    if halt.session_id:
        return left.filter(session=halt.session_id)
    return left if halt.scope == HaltScope.PLATFORM else left.filter(account__in=_accounts_of(halt).values("pk"))


def _tell(halt: TradingHalt, alert: str, actor: str, **data: str) -> None:
    """Journal it and tell every trader whom it concerns."""
    owners: list[int | None] = [*_accounts_of(halt).order_by("owner").values_list("owner", flat=True).distinct()]
    ids = {"halt_id": halt.pk, "session_id": halt.session_id, "account_id": halt.account_id}
    facts = {
        "alert": alert,
        "scope": halt.scope.value,
        "mode": halt.mode,
        "cause": halt.cause,
        "rule": halt.rule,
        **data,
    }
    key = halt.session_id or halt.account_id or halt.pk
    notes = [Note(key, {**ids, "owner_id": owner}, facts) for owner in owners or [halt.owner_id]]
    publish_all(Topic.ALERTS, notes, actor=actor)
