"""The life of a session (SessionManager) and its ticks (SchedulerService).

Commands set what is wanted and publish it; they are guarded updates, so a double click, a second tab or a retry changes
nothing twice. A stop is only done when the tracker has confirmed that nothing is held and nothing is open.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, connection, transaction
from django.db.models import F, Q
from django.utils import timezone

from exchanges.models import Account
from marketdata.models import Feed, Tape
from marketdata.services import feed_need, feed_note_told
from marketdata.tapes import tape_need
from pipeline.claims import GuardedQuerySet
from pipeline.topics import Note, Topic, publish, publish_all
from sessions.models import TRACKED_STATUSES, SessionStatus, SessionTick, TradingSession
from strategies.models import StrategyConfig
from strategies.services import config_need

# Ticks claimed by one sweep at most, in batches of one message each.
TICKS_PER_CLAIM = 2_000
TICK_CLAIMS_PER_SWEEP = 50
RECOVERY_IS_LATE_AFTER = timedelta(seconds=5)


class UnableToCommand(Exception):
    """The session's status does not allow this command."""


class SessionAlreadyRunning(UnableToCommand):
    """Another session of this account already runs this configuration."""


def session_create(session: TradingSession) -> TradingSession:
    """Save a new session after checking that account, configuration and market fit; names it when it has no name.

    Raises ValidationError.
    """
    session.full_clean()
    if not session.name:
        session.name = f"{session.config.name}-{session.config.feed}"[: TradingSession.NAME_LENGTH]
    session.save()
    return session


def session_start(session_id: int, *, actor: str = "system") -> None:
    """Let a new or stopped session trade. Raises UnableToCommand, SessionAlreadyRunning or ValidationError.

    One transaction: the guarded move, the collection of its feed, the evaluation of its configuration, its first tick.
    """
    session = TradingSession.objects.select_related("account__exchange", "config__feed__market").get(pk=session_id)
    session.clean()
    session.config.clean()
    account_require_active(session.account)
    now, exchange = timezone.now(), session.account.exchange
    try:
        with transaction.atomic():
            moved = TradingSession.objects.filter(pk=session_id).move(
                SessionStatus.ACTIVE,
                among=(SessionStatus.CREATED, SessionStatus.STOPPED),
                run=F("run") + 1,
                started_at=now,
                stopped_at=None,
                signals_after=exchange.time_at(now),
                status_reason="",
            )
            if not moved:
                raise UnableToCommand(_refusal(session_id, "start", (SessionStatus.CREATED, SessionStatus.STOPPED)))
            every = exchange.wall_delay(timedelta(seconds=session.tick_seconds))
            SessionTick.objects.update_or_create(session=session, defaults={"due_at": now + every, "every": every})
            _needs_refresh(session)
            _tell(session, "start", actor)
    except IntegrityError as error:
        raise SessionAlreadyRunning("another session already runs this configuration on this account") from error


def session_suspend(session_id: int, *, actor: str = "system") -> None:
    """Take no new entries; positions keep their exits. Raises UnableToCommand."""
    _command(session_id, "suspend", SessionStatus.SUSPENDED, (SessionStatus.ACTIVE,), actor)


def session_halt(session_id: int, reason: str, *, actor: str = "system", while_so: Q | None = None) -> bool:
    """Take no new entries until somebody recovers the session; whether it was this call that halted it. ``while_so`` is
    what must still be true of the session then."""
    with transaction.atomic():
        # A recovery asked for before the halt knew nothing of its reason.
        if not TradingSession.objects.filter(while_so or Q(), pk=session_id).move(
            SessionStatus.HALTED, status_reason=reason[:200], recover_requested_at=None
        ):
            return False
        session = TradingSession.objects.select_related("account", "config").get(pk=session_id)
        _needs_refresh(session)
        publish(
            Topic.ALERTS, session_id, session_id=session_id, owner_id=session.account.owner_id,
            data={"alert": "SESSION_HALTED", "reason": reason[:200]}, actor=actor,
        )  # fmt: skip
    return True


def session_halt_if_paused(session_id: int) -> bool:
    """Halt a session whose account's keys the venue refuses, now and not only when the bell was rung; whether it did."""
    return session_halt(
        session_id,
        "the account is paused",
        while_so=Q(status=SessionStatus.ACTIVE, account__in=Account.objects.filter(status=Account.Status.PAUSED)),
    )


def session_recover(session_id: int, *, actor: str = "system") -> None:
    """Ask for a suspended or halted session to trade again, after the exchange has been re-read. Raises UnableToCommand.
    A session that waits for its recovery already goes on waiting."""
    allowed = (SessionStatus.SUSPENDED, SessionStatus.HALTED)
    account_require_active(Account.objects.get(sessions=session_id))
    with transaction.atomic():
        recoverable = TradingSession.objects.filter(pk=session_id, status__in=allowed)
        if not recoverable.filter(recover_requested_at=None).update(recover_requested_at=timezone.now()):
            if recoverable.exists():
                return
            raise UnableToCommand(_refusal(session_id, "recover", allowed))
        _tell(TradingSession.objects.select_related("account", "config").get(pk=session_id), "recover", actor)


def session_recovery_finish(session_id: int, asked_at: datetime) -> bool:
    """Let a session trade again whose account was reconciled since ``asked_at``, when that was its last request; whether it
    does now. Suspended and asked again meanwhile, it waits for the later reading."""
    session = TradingSession.objects.select_related("account__exchange", "config").get(pk=session_id)
    with transaction.atomic():
        moved = TradingSession.objects.filter(pk=session_id, recover_requested_at=asked_at).move(
            SessionStatus.ACTIVE,
            among=(SessionStatus.SUSPENDED, SessionStatus.HALTED),
            recover_requested_at=None,
            status_reason="",
            signals_after=session.account.exchange.time_at(timezone.now()),
        )
        if moved:
            _needs_refresh(session)
            _tell(session, "recovered", "system")
    return bool(moved)


def session_recovery_delay(session_id: int, asked_at: datetime, reason: str) -> None:
    """Say on the session why its recovery waits; the request stands, and the sweep asks again."""
    asked = TradingSession.objects.filter(pk=session_id, recover_requested_at=asked_at)
    asked.update(status_reason=f"recovery waits: {reason}"[:200])


def session_stop(session_id: int, *, actor: str = "system") -> None:
    """Ask for the session to end: no new entries, open orders cancelled, positions closed at market. Raises
    UnableToCommand. A session that never started is stopped at once."""
    with transaction.atomic():
        if TradingSession.objects.filter(pk=session_id).move(
            SessionStatus.STOPPED, among=(SessionStatus.CREATED,), stopped_at=timezone.now()
        ):
            _tell(TradingSession.objects.select_related("account", "config").get(pk=session_id), "stopped", actor)
            return
    allowed = (SessionStatus.ACTIVE, SessionStatus.SUSPENDED, SessionStatus.HALTED)
    _command(session_id, "stop", SessionStatus.STOPPING, allowed, actor)


def session_mark_stopped(session_id: int) -> bool:
    """The tracker's word that a stopping session holds nothing and has nothing open; whether this call ended it."""
    with transaction.atomic():
        moved = TradingSession.objects.filter(pk=session_id).move(
            SessionStatus.STOPPED, among=(SessionStatus.STOPPING,), stopped_at=timezone.now(), has_exposure=False
        )
        if moved:
            session = TradingSession.objects.select_related("account", "config").get(pk=session_id)
            SessionTick.objects.filter(session_id=session_id).delete()
            _needs_refresh(session)
            _tell(session, "stopped", "system")
    return bool(moved)


def sessions_note_exposure(sessions: Iterable[TradingSession], has_exposure: bool) -> None:
    """The tracker's word whether these sessions hold, or may come to hold, anything."""
    changed = [session for session in sessions if session.has_exposure != has_exposure]
    if not changed:
        return
    TradingSession.objects.filter(pk__in=[session.pk for session in changed]).update(has_exposure=has_exposure)
    for session in changed:
        session.has_exposure = has_exposure
        if session.status != SessionStatus.ACTIVE:  # an active session needs its feed either way
            _needs_refresh(session)


def ticks_claim(now: datetime) -> int:
    """Take every session whose tick is due, set its next, and publish the requests in batches; how many ticked.

    The claim and the next due time are one statement, so two schedulers never tick a session twice. A scheduler that
    slept ticks once and goes on from now: missed ticks are not made up for.
    """
    total = 0
    for _ in range(TICK_CLAIMS_PER_SWEEP):
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute(
                    """
                    UPDATE trading_sessions_sessiontick
                    SET due_at = CASE WHEN due_at + every > %(now)s THEN due_at + every ELSE %(now)s + every END
                    WHERE session_id IN (
                        SELECT session_id FROM trading_sessions_sessiontick WHERE due_at <= %(now)s
                        ORDER BY due_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
                    )
                    RETURNING session_id
                    """,
                    {"now": now, "limit": TICKS_PER_CLAIM},
                )
                ids = [row[0] for row in cursor.fetchall()]
            publish_all(Topic.SESSION_REQUEST, [Note(key=pk, ids={"session_id": pk}) for pk in ids])
        total += len(ids)
        if len(ids) < TICKS_PER_CLAIM:
            break
    return total


def sessions_awaiting_recovery(now: datetime) -> list[int]:
    """Recoveries asked for and not carried out: what the sweep rings for."""
    late = TradingSession.objects.filter(recover_requested_at__lt=now - RECOVERY_IS_LATE_AFTER)
    return list(late.filter(status__in=(SessionStatus.SUSPENDED, SessionStatus.HALTED)).values_list("pk", flat=True))


def sessions_of_paused_accounts(now: datetime) -> list[int]:
    """Sessions that still trade on an account whose keys the venue refuses: what the sweep halts."""
    return list(
        TradingSession.objects.filter(status=SessionStatus.ACTIVE, account__status=Account.Status.PAUSED).values_list(
            "pk", flat=True
        )
    )


def feed_tell(feed_id: int) -> int:
    """Tell the traders whose sessions need this feed that its candles do not come, or that they come again: once each, one
    alert a trader, keyed by the first of those sessions; how many were told."""
    feed = Feed.objects.select_related("market__exchange").get(pk=feed_id)
    concerned = _needing(_looking_at(feed_id)).order_by("account__owner_id", "pk")
    by_owner: dict[int, list[tuple[int, int]]] = {}
    for owner_id, session_id, account_id in concerned.values_list("account__owner_id", "pk", "account_id"):
        by_owner.setdefault(owner_id, []).append((session_id, account_id))
    with transaction.atomic():
        if not feed_note_told(feed):
            return 0
        publish_all(
            Topic.ALERTS,
            [
                Note(
                    key=sessions[0][0],
                    ids={
                        "feed_id": feed_id, "owner_id": owner_id, "session_id": sessions[0][0], "account_id": sessions[0][1],
                    },
                    data={**_words_on(feed), "sessions": len(sessions)},
                )
                for owner_id, sessions in by_owner.items()
            ],
        )  # fmt: skip
    return len(by_owner)


def needs_align() -> None:
    """Make collection and evaluation exactly what the sessions need: two commands on one feed in the same instant may have
    left them otherwise."""
    configs = _needing(TradingSession.objects.all()).values("config")
    for config_id in StrategyConfig.objects.filter(_differs_from(Q(pk__in=configs))).values_list("pk", flat=True):
        _config_refresh(config_id)
    # What configurations look at beside their feed is theirs to say, and is right once they are.
    own = StrategyConfig.objects.filter(pk__in=configs).values("feed")
    beside = StrategyConfig.informative_feeds.through.objects.filter(strategyconfig__in=configs).values("feed")
    is_needed = Q(pk__in=own) | Q(pk__in=beside)
    for feed_id in Feed.objects.filter(_differs_from(is_needed)).values_list("pk", flat=True):
        _feed_refresh(feed_id)
    tapes = Q(pk__in=StrategyConfig.tapes.through.objects.filter(strategyconfig__in=configs).values("tape"))
    for tape_id in Tape.objects.filter(_differs_from(tapes)).values_list("pk", flat=True):
        _tape_refresh(tape_id)


def account_require_active(account: Account) -> None:
    """Raise UnableToCommand for an account whose keys are not to be used."""
    if account.status != Account.Status.ACTIVE:
        raise UnableToCommand(f"wanted an active account, was {account.status}: {account.status_reason}")


def _words_on(feed: Feed) -> dict[str, Any]:
    facts = {"feed": str(feed), "last_open_at": feed.last_open_at}
    if feed.stale_since is None:
        return {"alert": "FEED_BACK", "reason": "candles come again", **facts}
    if feed.last_error:
        reason = f"the venue cannot be read: {feed.last_error}"
    else:
        reason = "the venue answers and has no newer candle: it stands still, or nobody trades there"
    return {"alert": "FEED_STALE", "reason": f"{reason}; no entry is decided meanwhile", **facts}


def _command(session_id: int, command: str, to: SessionStatus, allowed: Collection[str], actor: str) -> None:
    with transaction.atomic():
        if not TradingSession.objects.filter(pk=session_id).move(to, among=allowed, recover_requested_at=None):
            raise UnableToCommand(_refusal(session_id, command, allowed))
        session = TradingSession.objects.select_related("account", "config").get(pk=session_id)
        _needs_refresh(session)
        _tell(session, command, actor)


def _refusal(session_id: int, command: str, allowed: Collection[str]) -> str:
    status = TradingSession.objects.values_list("status", flat=True).get(pk=session_id)
    return f"to {command} a session it must be {' or '.join(allowed)}, was {status}"


def _needing(sessions: GuardedQuerySet[TradingSession]) -> GuardedQuerySet[TradingSession]:
    return sessions.filter(Q(status=SessionStatus.ACTIVE) | Q(has_exposure=True, status__in=TRACKED_STATUSES))


def _differs_from(needed: Q) -> Q:
    return Q(is_needed=True) & ~needed | Q(is_needed=False) & needed


def _looking_at(feed_id: int) -> GuardedQuerySet[TradingSession]:
    """Sessions whose configuration is on that feed, or looks at it beside its own."""
    beside = StrategyConfig.informative_feeds.through.objects.filter(feed_id=feed_id).values("strategyconfig")
    return TradingSession.objects.filter(Q(config__feed_id=feed_id) | Q(config__in=beside))


def _needs_refresh(session: TradingSession) -> None:
    _config_refresh(session.config_id)  # first: it may look at more from now on
    beside = session.config.informative_feeds.values_list("pk", flat=True)
    for feed_id in sorted({session.config.feed_id, *beside}):
        _feed_refresh(feed_id)
    for tape_id in session.config.tapes.order_by("pk").values_list("pk", flat=True):
        _tape_refresh(tape_id)


def _feed_refresh(feed_id: int) -> None:
    """A feed is collected exactly while a session that is active or holds something needs it."""
    feed_need(feed_id, _needing(_looking_at(feed_id)).exists())


def _tape_refresh(tape_id: int) -> None:
    """As a feed, while it is looked at."""
    looking = StrategyConfig.tapes.through.objects.filter(tape_id=tape_id).values("strategyconfig")
    tape_need(tape_id, _needing(TradingSession.objects.filter(config__in=looking)).exists())


def _config_refresh(config_id: int) -> None:
    """A configuration is evaluated exactly while a session needs it that is active or holds something: of what is held, its
    exit signal is one of the exits."""
    config_need(config_id, _needing(TradingSession.objects.filter(config_id=config_id)).exists())


def _tell(session: TradingSession, command: str, actor: str) -> None:
    publish(
        Topic.COMMAND,
        session.pk,
        session_id=session.pk,
        feed_id=session.config.feed_id,
        config_id=session.config_id,
        account_id=session.account_id,
        owner_id=session.account.owner_id,
        data={"command": command},
        actor=actor,
        is_urgent=session.has_exposure,
    )
