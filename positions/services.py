"""PositionTracker's one verb: look. Fold the fills, see signal, price, orders and status, decide once, write it down.

``sessions_track`` takes any number of sessions in one short transaction under their row locks; whoever woke it, and how
often, makes no difference. Which sessions need a look is found by ``positions/watch.py`` and by the sweep here.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Case, Exists, OuterRef, Q, Subquery, Value, When
from django.utils import timezone

from domain.candles import Timeframe
from domain.exits import ExitReason, speaks_against
from domain.market import ZERO, PositionSide, Side
from domain.orders import LIVE_STATUSES, Denial
from domain.positions import FillFact, fold
from domain.strategy import SignalKind
from domain.tracking import Action, Decision, SessionView, decide, entry_side
from exchanges.models import Market, Quote
from exchanges.services import rests_exits
from marketdata.services import candles_extremes
from orders.ledger import orders_announce
from orders.models import Fill, Order
from orders.services import orders_cancel
from pipeline.crashpoints import crashpoint
from pipeline.topics import Note, Topic, publish, publish_all, ring
from positions.following import position_added_to, position_follow
from positions.funding import funding_is_news, fundings_of
from positions.look import Facts, Purpose, Wishes, is_live
from positions.models import FOLDED_FIELDS, LIVE_POSITIONS, Intent, Position, PositionStatus
from positions.resting import exit_rested, position_rest, venue_has_its_turn
from positions.trading import (
    entries_made,
    position_add,
    position_close,
    position_enter,
    position_leave,
    position_leave_part,
)
from sessions.models import TRACKED_STATUSES, SessionStatus, TradingSession
from sessions.services import session_mark_stopped, sessions_note_exposure
from strategies.models import Signal
from strategies.services import signals_latest

logger = logging.getLogger(__name__)

# Sessions tracked in one transaction: larger batches hold their locks longer.
TRACK_BATCH = 100
# How long after its candle's successor closed an entry signal may still be acted on, in our time.
ENTRY_GRACE = timedelta(seconds=10)
# For how long after it was sent an entry that is to be cancelled may keep what is held waiting for its exit.
CANCEL_IS_KNOWN_AFTER = timedelta(seconds=5)
# A price older than this is no reason to act.
PRICE_IS_OLD_AFTER = timedelta(seconds=30)
# How far back the sweep looks for signals nobody acted on; older ones are no longer fresh anyway.
SIGNAL_IS_NEWS_FOR = timedelta(minutes=10)


def signals_fan_out(signal_ids: Sequence[int]) -> None:
    """Look at every session that a signal concerns: the first batch here and now, the rest by messages."""
    configs = Signal.objects.filter(pk__in=list(signal_ids)).values("config_id")
    concerned = TradingSession.objects.filter(
        Q(status=SessionStatus.ACTIVE) | Q(has_exposure=True, status__in=TRACKED_STATUSES), config__in=configs
    )
    ids = list(concerned.order_by("pk").values_list("pk", flat=True))
    if rest := ids[TRACK_BATCH:]:
        with transaction.atomic():
            publish_all(Topic.SESSION_SIGNALS, [Note(key=pk, ids={"session_id": pk}) for pk in rest])
    sessions_track(ids[:TRACK_BATCH])


def orders_follow(order_ids: Sequence[int]) -> None:
    """Look at the sessions whose orders have news."""
    sessions_track(sessions_of_orders(order_ids))


def sessions_of_orders(order_ids: Iterable[int]) -> list[int]:
    """The sessions on whose behalf these orders trade."""
    intents = Order.objects.filter(pk__in=list(order_ids)).values("intent_id")
    return list(Position.objects.filter(intents__in=intents).values_list("session_id", flat=True).distinct())


def orders_of_positions(position_ids: Iterable[int]) -> list[tuple[int, Order]]:
    """The orders of these positions in the order in which they were made, each with its position's id."""
    intents = Intent.objects.filter(position__in=list(position_ids))
    position_id = Subquery(intents.filter(pk=OuterRef("intent_id")).values("position_id"))
    orders = Order.objects.filter(intent_id__in=intents.values("pk")).annotate(position_id=position_id)
    return [(order.position_id, order) for order in orders.order_by("pk")]


def sessions_track(session_ids: Sequence[int]) -> None:
    """Look at sessions, in batches; one that cannot be looked at does not keep the others from it."""
    for start in range(0, len(session_ids), TRACK_BATCH):
        batch = session_ids[start : start + TRACK_BATCH]
        try:
            _track(batch)
        except Exception:
            if len(batch) == 1:
                raise
            logger.exception("a batch of %s sessions could not be tracked; going one by one", len(batch))
            for session_id in batch:
                _track_alone(session_id)


def session_exit(session_id: int, *, actor: str = "system", reason: ExitReason = ExitReason.MARKET_EXIT) -> bool:
    """Leave the session's position at market now, and keep the session; whether there was one to leave. By hand unless
    ``reason`` says otherwise; of an exit that has begun already the reason stays."""
    session = TradingSession.objects.select_related("account").get(pk=session_id)
    with transaction.atomic():
        asked = session.positions.filter(status__in=LIVE_POSITIONS, is_exit_wanted=False)
        changes: dict[str, Any] = {"is_exit_wanted": True}
        if reason is not ExitReason.MARKET_EXIT:
            changes["exit_reason"] = Case(When(exit_reason="", then=Value(reason)), default="exit_reason")
        # At once: a row that one transaction updates twice is checked against its session again, and waits for whoever has
        # locked that and wants this row.
        wanted = asked.update(**changes)
        if wanted:
            publish(
                Topic.COMMAND, session_id, session_id=session_id, account_id=session.account_id,
                owner_id=session.account.owner_id, data={"command": "exit"}, actor=actor, is_urgent=True,
            )  # fmt: skip
    return session.positions.filter(status__in=LIVE_POSITIONS).exists()


def sessions_unsettled(
    now: datetime, session_ids: Collection[int] | None = None, *, has_exposure: bool | None = None
) -> list[int]:
    """Sessions that wait for a look though their bell should have rung: what the sweep and the tick look for; of all, or of
    those that have something to protect, or of those that have not.

    A signal nobody has seen; a stop to be carried out; an order that finished, or funding that was recorded, after the fills
    were last added up; an exit asked for by hand.
    """
    chosen = TradingSession.objects.filter(status__in=TRACKED_STATUSES)
    if session_ids is not None:
        chosen = chosen.filter(pk__in=list(session_ids))
    if has_exposure is not None:
        chosen = chosen.filter(has_exposure=has_exposure)
    news = Signal.objects.filter(config=OuterRef("config"), created_at__gt=now - SIGNAL_IS_NEWS_FOR).exclude(
        kind=SignalKind.NOTHING
    )
    unseen = chosen.filter(
        Q(status=SessionStatus.ACTIVE) | Q(has_exposure=True),
        # By candle, as the tracker looks at them: one that was stored late is older than what was seen.
        Q(last_signal=None) & Exists(news)
        | Exists(news.filter(candle_open_at__gt=OuterRef("last_signal__candle_open_at"))),
    )
    stopping = chosen.filter(status=SessionStatus.STOPPING)
    intents = Intent.objects.filter(position=OuterRef(OuterRef("pk")))
    finished = Order.objects.filter(intent_id__in=intents.values("pk"), closed_at__isnull=False).exclude(
        status__in=LIVE_STATUSES
    )
    waiting = Position.objects.filter(
        Q(folded_at=None) & Exists(finished)
        | Exists(finished.filter(closed_at__gte=OuterRef("folded_at")))
        | funding_is_news()
        | Q(is_exit_wanted=True)
        # Being left: by an exit that has yet to be sent, or tried again.
        | ~Q(exit_reason=""),
        status__in=LIVE_POSITIONS,
        session__in=chosen,
    )
    found = {*unseen.values_list("pk", flat=True), *stopping.values_list("pk", flat=True)}
    return sorted(found | set(waiting.values_list("session_id", flat=True)))


def is_dust(quantity: Decimal, market: Market, quote: Quote | None) -> bool:
    """Whether the venue would not take an order over so little."""
    return not market.rules.takes(quantity, quote.last if quote is not None else None)


def _track_alone(session_id: int) -> None:
    try:
        _track([session_id])
    except Exception:
        logger.exception("session %s could not be tracked", session_id)


def _track(session_ids: Sequence[int]) -> None:
    now = timezone.now()
    with transaction.atomic():
        facts = _gather(session_ids)
        wishes = Wishes()
        for one in facts:
            _fold(one, now, wishes)
            position_follow(one, now, wishes)
            _act(one, now, wishes)
        sessions_note_exposure((one.session for one in facts if one.position is not None), True)
        sessions_note_exposure((one.session for one in facts if one.position is None), False)
        _write(wishes)
        crashpoint("sessions.before_commit")


def _gather(session_ids: Sequence[int]) -> list[Facts]:
    """Lock the sessions and read all that is known about them, with one query per kind of row."""
    sessions = (
        TradingSession.objects.filter(pk__in=list(session_ids), status__in=TRACKED_STATUSES)
        .select_related("account__exchange", "config__feed__market__last_quote")
        .defer("account__credentials", "config__feed__market__venue_info")
        .locked()
    )
    facts = {session.pk: Facts(session) for session in sessions}
    if not facts:
        return []
    signals = signals_latest({one.session.config_id for one in facts.values()})
    for one in facts.values():
        one.quote = _fresh_quote(one.market)
        one.signal = signals.get(one.session.config_id)
    by_position: dict[int, Facts] = {}
    for position in Position.objects.filter(session__in=facts, status__in=LIVE_POSITIONS):
        one = by_position[position.pk] = facts[position.session_id]
        position.market = one.market
        one.position = position
    if by_position:
        _gather_orders(by_position)
        _gather_progress(list(by_position.values()))
        _gather_beside(list(by_position.values()))
    return list(facts.values())


def _fresh_quote(market: Market) -> Quote | None:
    quote: Quote | None = getattr(market, "last_quote", None)
    return quote if quote is not None and quote.quoted_at > timezone.now() - PRICE_IS_OLD_AFTER else None


def _gather_orders(by_position: dict[int, Facts]) -> None:
    by_intent: dict[UUID, Facts] = {}
    for intent in Intent.objects.filter(position__in=by_position):
        one = by_intent[intent.pk] = by_position[intent.position_id]
        one.intents[intent.pk] = intent
    by_order: dict[int, Facts] = {}
    for order in Order.objects.filter(intent_id__in=by_intent).order_by("pk"):
        one = by_order[order.pk] = by_intent[order.intent_id]
        order.account = one.session.account
        one.orders.append(order)
    for fill in Fill.objects.filter(order__in=by_order):
        by_order[fill.order_id].fills.append(fill)


def _gather_beside(holding: Sequence[Facts]) -> None:
    """What else the accounts hold, or are about to, where the venue nets it with what these sessions hold. Of interest to
    what rests, and to whoever comes beside it."""
    on_contracts = [
        one
        for one in holding
        if one.market.kind == Market.Kind.LINEAR_FUTURE
        and one.position is not None
        and (one.position.is_resting or one.position.status == PositionStatus.PENDING)
    ]
    if not on_contracts:
        return
    accounts, markets = ({getattr(one.position, name) for one in on_contracts} for name in ("account_id", "market_id"))
    live = Position.objects.filter(account__in=accounts, market__in=markets, status__in=LIVE_POSITIONS)
    rows = list(live.values_list("account_id", "market_id", "session_id", "side"))
    for one in on_contracts:
        place = (one.session.account_id, one.market.pk)
        others = [row for row in rows if row[:2] == place and row[2] != one.session.pk]
        one.beside = {session_id: PositionSide(side) for _, _, session_id, side in others}


def _gather_progress(holding: Sequence[Facts]) -> None:
    """What else moves a position: funding, and the candles that closed since its stop last moved."""
    funded = fundings_of(one.position for one in holding if one.position is not None)
    asked: list[tuple[Facts, datetime]] = []
    for one in holding:
        position, feed = one.position, one.session.config.feed
        if position is None:
            continue
        one.funding = funded.get(position.pk)
        since = position.followed_until or position.opened_at
        if position.is_following and since is not None and feed.last_open_at is not None and feed.last_open_at > since:
            asked.append((one, since))
    found = candles_extremes([(one.session.config.feed_id, since) for one, since in asked])
    for (one, _), extremes in zip(asked, found, strict=True):
        one.extremes = extremes


def _fold(one: Facts, now: datetime, wishes: Wishes) -> None:
    """Make the position what its fills add up to; a position that came to its end is let go of."""
    position = one.position
    if position is None:
        return
    news = [order.closed_at for order in one.orders if order.closed_at]
    news += [one.funding.recorded_at] if one.funding else []
    is_news = any(position.folded_at is None or at >= position.folded_at for at in news)
    side, was = PositionSide(position.side), position.status
    facts = (fact_of(fill, one.market) for fill in one.fills)
    state = fold(facts, side, one.market.contract_size, one.funding.total if one.funding else ZERO)
    was_added_up = (position.entered, position.exited, position.funding)
    if not is_news and (state.entered, state.exited, state.funding) == was_added_up:
        return
    position_added_to(one, state)
    position.take(state)
    position.folded_at = now
    if state.entered and was == PositionStatus.PENDING:
        position.status = PositionStatus.OPEN
    has_live_entry = any(is_live(order) for order in one.orders_of(Purpose.ENTRY))
    if not position.exit_reason and (reason := exit_rested(one)):
        # Carried out at the venue: what is left, if anything, is ours to carry through.
        position.exit_reason = reason
        position.save(update_fields=["exit_reason"])
    if state.is_closed and not has_live_entry:
        position_close(one, position, wishes)
        return
    position.save(update_fields=FOLDED_FIELDS)
    if position.status != was:
        wishes.notes[Topic.POSITIONS].append(
            one.note(event="OPENED", quantity=state.quantity, entry_price=state.entry_price)
        )
        if others := sorted(one.beside):
            # Targets that rest for these are safe only while nothing else is held there.
            transaction.on_commit(lambda: ring("exits.track", session_ids=others), robust=True)
        if position.is_resting and not rests_exits(one.session.account):
            wishes.notes[Topic.POSITIONS].append(one.note(event="TRACKED_ONLY", reason="VENUE_RESTS_NO_EXITS"))


def _act(one: Facts, now: datetime, wishes: Wishes) -> None:
    signal = _signal_to_act_on(one, now)
    decision = decide(_view(one, signal, now))
    if venue_has_its_turn(one, now) and decision.action is Action.EXIT:
        return
    _carry_out(one, signal, decision, now, wishes)
    if decision.action in (Action.NOTHING, Action.ADD):
        position_rest(one, now, wishes)


def _carry_out(one: Facts, signal: Signal | None, decision: Decision, now: datetime, wishes: Wishes) -> None:
    session, position = one.session, one.position
    is_waiting = bool(position) and any(is_live(order) for order in one.orders_of(Purpose.ENTRY, Purpose.EXIT))
    is_new = one.signal is not None and one.signal.pk != session.last_signal_id
    if one.signal is not None and is_new and not is_waiting and not _is_kept(one, signal, decision):
        # Seen, whatever came of it. While an order is at work the signal waits: its outcome decides what it means.
        wishes.seen_signals[one.signal.pk].append(session.pk)
    if decision.action is Action.ENTER and signal is not None and decision.side is not None:
        position_enter(one, signal, decision.side, wishes)
    elif decision.action is Action.ADD:
        position_add(one, wishes)
    elif decision.action is Action.EXIT and decision.exit_reason is not None:
        _exit(one, decision.exit_reason, decision.step, now, wishes)
    elif decision.action is Action.CANCEL_ENTRY:
        orders_cancel([order for order in one.orders_of(Purpose.ENTRY) if is_live(order)])
    elif decision.action is Action.NOT_TRADABLE and signal is not None:
        note = one.note(event="NOT_TRADABLE", reason=Denial.SIDE_NOT_TRADABLE, signal=signal.kind)
        wishes.notes[Topic.POSITIONS].append(replace(note, ids={**note.ids, "signal_id": signal.pk}))
    elif decision.action is Action.ABANDON and position is not None:
        position.status = PositionStatus.ABANDONED
        position.save(update_fields=["status"])
        wishes.notes[Topic.POSITIONS].append(one.note(event="ABANDONED"))
        one.position = None
        if session.status == SessionStatus.STOPPING:
            session_mark_stopped(session.pk)
    elif decision.action is Action.FINISH:
        session_mark_stopped(session.pk)


def _view(one: Facts, signal: Signal | None, now: datetime) -> SessionView:
    """The facts as the decision sees them."""
    session, position = one.session, one.position
    flat = SessionView(
        takes_entries=session.status == SessionStatus.ACTIVE,
        is_stopping=session.status == SessionStatus.STOPPING,
        signal=SignalKind(signal.kind) if signal else None,
        price=one.price,
        can_short=one.market.kind != Market.Kind.SPOT,
    )
    if position is None:
        return flat
    entries = [order for order in one.orders_of(Purpose.ENTRY) if is_live(order)]
    return replace(
        flat,
        side=PositionSide(position.side),
        quantity=position.quantity,
        levels=one.levels,
        has_live_entry=bool(entries),
        is_entry_overdue=bool(entries) and all(_is_overdue(order, now) for order in entries),
        has_live_exit=any(is_live(order) for order in one.orders_at(Purpose.EXIT, 0)),
        has_live_part=any(is_live(order) for order in one.parts()),
        is_exit_wanted=position.is_exit_wanted,
        exit_begun=ExitReason(position.exit_reason) if position.exit_reason else None,
        part_begun=max((step for step in one.part_steps() if step > position.targets_done), default=0),
        is_time_up=one.is_time_up,
        is_exit_signal_used=one.plan.is_exit_signal_used,
        entries_left=position.max_entries - entries_made(one),
    )


def _is_overdue(entry: Order, now: datetime) -> bool:
    """Whether its cancellation was asked for, and it has been at the venue for longer than that takes to be known."""
    sent_at: datetime | None = entry.sent_at
    return entry.is_cancel_wanted and sent_at is not None and sent_at < now - CANCEL_IS_KNOWN_AFTER


def _signal_to_act_on(one: Facts, now: datetime) -> Signal | None:
    """The newest signal, if it is of this run, not seen before, and, when it wants to enter, still fresh. What speaks against
    the position that is held is never too old."""
    signal, session = one.signal, one.session
    if signal is None or signal.pk == session.last_signal_id:
        return None
    if session.signals_after is None or signal.candle_close_at <= session.signals_after:
        return None
    kind = SignalKind(signal.kind)
    is_exit = one.position is not None and speaks_against(kind, PositionSide(one.position.side))
    if entry_side(kind) is not None and not is_exit:
        timeframe = Timeframe(session.config.feed.timeframe)
        if session.account.exchange.time_at(now - ENTRY_GRACE) > signal.candle_close_at + timeframe.length:
            return None
    return signal


def _is_kept(one: Facts, signal: Signal | None, decision: Decision) -> bool:
    """Whether the signal still has something to say after what was decided: beside a part that is sold, or, as an entry of
    either side, once the position is gone."""
    if decision.action is not Action.EXIT or signal is None:
        return False
    side = entry_side(SignalKind(signal.kind))
    can_enter = side is PositionSide.LONG or (side is not None and one.market.kind != Market.Kind.SPOT)
    return decision.step > 0 or (can_enter and one.session.status == SessionStatus.ACTIVE)


def _exit(one: Facts, reason: ExitReason, step: int, now: datetime, wishes: Wishes) -> None:
    position = one.position
    if position is None:
        return
    resting = [order for order in one.live_beside_the_exit(now) if order in one.resting()]
    if step and resting:
        orders_cancel(resting)
        return
    if step:
        position_leave_part(one, step, now, wishes)
        return
    in_the_way = one.live_beside_the_exit(now)
    if not in_the_way:
        position_leave(one, reason, now, wishes)
        return
    # Begun, and carried through once what else would sell is known to have ended: nothing is sold twice.
    position.exit_reason = reason
    position.save(update_fields=["exit_reason"])
    orders_cancel(in_the_way)


def _write(wishes: Wishes) -> None:
    for signal_id, session_ids in wishes.seen_signals.items():
        TradingSession.objects.filter(pk__in=session_ids).update(last_signal=signal_id)
    Position.objects.bulk_create(wishes.positions)
    Intent.objects.bulk_create(wishes.intents)
    Order.objects.bulk_create(wishes.orders)
    orders_announce([order for order in wishes.orders if not order.is_exit], Topic.RAW_ORDERS)
    orders_announce([order for order in wishes.orders if order.is_exit], Topic.ORDERS)
    for topic, notes in wishes.notes.items():
        publish_all(topic, notes)


def fact_of(fill: Fill, market: Market) -> FillFact:
    """A fill as the fold sees it."""
    return FillFact(
        side=Side(fill.side),
        quantity=fill.quantity,
        price=fill.price,
        fee_quote=fill.fee if fill.fee_currency == market.quote else ZERO,
        fee_base=fill.fee if fill.fee_currency == market.base else ZERO,
        filled_at=fill.filled_at,
    )
