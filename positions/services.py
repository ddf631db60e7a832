"""PositionTracker's one verb: look. Fold the fills, see signal, price, orders and status, decide once, write it down.

``sessions_track`` takes any number of sessions in one short transaction under their row locks; whoever woke it, and how
often, makes no difference. Which sessions need a look is found by ``positions/watch.py`` and by the sweep here.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from django.db import transaction
from django.db.models import Exists, OuterRef, Q, Subquery
from django.utils import timezone

from domain.candles import Timeframe
from domain.exits import NO_LEVELS, ExitReason, levels_at_entry
from domain.market import ZERO, OrderType, PositionSide, Side, round_quantity
from domain.orders import LIVE_STATUSES, OrderStatus
from domain.positions import FillFact, fold
from domain.strategy import SignalKind
from domain.tracking import Action, SessionView, decide
from exchanges.models import Market, Quote
from orders.ledger import orders_announce
from orders.models import Fill, Order
from orders.services import orders_cancel
from pipeline.crashpoints import crashpoint
from pipeline.topics import Note, Topic, publish, publish_all
from positions.models import FOLDED_FIELDS, LIVE_POSITIONS, Intent, Position, PositionStatus
from sessions.models import TRACKED_STATUSES, SessionStatus, TradingSession
from sessions.services import session_mark_stopped, sessions_note_exposure
from strategies.models import Signal
from strategies.services import signals_latest

logger = logging.getLogger(__name__)

# Sessions tracked in one transaction: larger batches hold their locks longer.
TRACK_BATCH = 100
# How long after its candle's successor closed an entry signal may still be acted on, in our time.
ENTRY_GRACE = timedelta(seconds=10)
# A price older than this is no reason to act.
PRICE_IS_OLD_AFTER = timedelta(seconds=30)
# How far back the sweep looks for signals nobody acted on; older ones are no longer fresh anyway.
SIGNAL_IS_NEWS_FOR = timedelta(minutes=10)
EXIT_FAILURES_BEFORE_ALERT = 3
LONGEST_EXIT_PAUSE = timedelta(seconds=60)


@dataclass(slots=True)
class _Facts:
    """Everything known about one session at this look."""

    session: TradingSession
    position: Position | None = None
    entries: list[Order] = field(default_factory=list)
    exits: list[Order] = field(default_factory=list)
    fills: list[Fill] = field(default_factory=list)
    quote: Quote | None = None
    signal: Signal | None = None

    @property
    def market(self) -> Market:
        return self.session.config.feed.market

    @property
    def owner_id(self) -> int:
        return self.session.account.owner_id

    @property
    def price(self) -> Decimal | None:
        """The last price, if it was read after the position's fills were: an older one says nothing about them."""
        folded_at = self.position.folded_at if self.position is not None else None
        if self.quote is None or (folded_at is not None and self.quote.quoted_at <= folded_at):
            return None
        last: Decimal = self.quote.last
        return last

    def note(self, **data: object) -> Note:
        ids = {"session_id": self.session.pk, "account_id": self.session.account_id, "owner_id": self.owner_id}
        if self.position is not None:
            ids["position_id"] = self.position.pk
        return Note(key=self.session.pk, ids=ids, data=data)


def _is_live(order: Order) -> bool:
    return order.status in LIVE_STATUSES


@dataclass(slots=True)
class _Wishes:
    """What a batch of looks decided to trade, written and published together."""

    positions: list[Position] = field(default_factory=list)
    intents: list[Intent] = field(default_factory=list)
    orders: list[Order] = field(default_factory=list)
    seen_signals: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    notes: dict[Topic, list[Note]] = field(default_factory=lambda: defaultdict(list))


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
    """The trader's market exit, or a halt's: leave the position now, keep the session; whether there was one to leave."""
    session = TradingSession.objects.select_related("account").get(pk=session_id)
    with transaction.atomic():
        live = session.positions.filter(status__in=LIVE_POSITIONS)
        wanted = live.filter(is_exit_wanted=False).update(is_exit_wanted=True)
        if reason != ExitReason.MARKET_EXIT:
            # Begun for this reason, from here on; one that has begun already keeps its own.
            live.filter(exit_reason="").update(exit_reason=reason)
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

    A signal nobody has seen; a stop to be carried out; an order that finished after the fills were last added up; an exit
    asked for by hand.
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
        | Q(is_exit_wanted=True),
        status__in=LIVE_POSITIONS,
        session__in=chosen,
    )
    found = {*unseen.values_list("pk", flat=True), *stopping.values_list("pk", flat=True)}
    return sorted(found | set(waiting.values_list("session_id", flat=True)))


def is_dust(quantity: Decimal, market: Market, quote: Quote | None) -> bool:
    """Whether the venue would not take an order over so little."""
    rules = market.rules
    is_worthless = quote is not None and rules.notional(quantity, quote.last) < rules.min_notional
    return quantity <= 0 or quantity < rules.min_quantity or is_worthless


def _track_alone(session_id: int) -> None:
    try:
        _track([session_id])
    except Exception:
        logger.exception("session %s could not be tracked", session_id)


def _track(session_ids: Sequence[int]) -> None:
    now = timezone.now()
    with transaction.atomic():
        facts = _gather(session_ids)
        wishes = _Wishes()
        for one in facts:
            _fold(one, now, wishes)
            _act(one, now, wishes)
        sessions_note_exposure((one.session for one in facts if one.position is not None), True)
        sessions_note_exposure((one.session for one in facts if one.position is None), False)
        _write(wishes)
        crashpoint("sessions.before_commit")


def _gather(session_ids: Sequence[int]) -> list[_Facts]:
    """Lock the sessions and read all that is known about them, with one query per kind of row."""
    sessions = (
        TradingSession.objects.filter(pk__in=list(session_ids), status__in=TRACKED_STATUSES)
        .select_related("account__exchange", "config__feed__market__last_quote")
        .defer("account__credentials", "config__feed__market__venue_info")
        .locked()
    )
    facts = {session.pk: _Facts(session) for session in sessions}
    if not facts:
        return []
    positions = {
        position.session_id: position
        for position in Position.objects.filter(session__in=facts, status__in=LIVE_POSITIONS)
    }
    signals = signals_latest({one.session.config_id for one in facts.values()})
    for session_id, one in facts.items():
        one.position = positions.get(session_id)
        one.quote = _fresh_quote(one.market)
        one.signal = signals.get(one.session.config_id)
    _gather_orders({position.pk: facts[session_id] for session_id, position in positions.items()})
    return list(facts.values())


def _fresh_quote(market: Market) -> Quote | None:
    quote: Quote | None = getattr(market, "last_quote", None)
    return quote if quote is not None and quote.quoted_at > timezone.now() - PRICE_IS_OLD_AFTER else None


def _gather_orders(by_position: dict[int, _Facts]) -> None:
    if not by_position:
        return
    orders: dict[int, _Facts] = {}
    for position_id, order in orders_of_positions(by_position):
        one = orders[order.pk] = by_position[position_id]
        order.account = one.session.account
        (one.exits if order.is_exit else one.entries).append(order)
    for fill in Fill.objects.filter(order__in=orders):
        orders[fill.order_id].fills.append(fill)


def _fold(one: _Facts, now: datetime, wishes: _Wishes) -> None:
    """Make the position what its fills add up to; a position that came to its end is let go of."""
    position = one.position
    if position is None:
        return
    has_finished = any(
        order.closed_at and (position.folded_at is None or order.closed_at >= position.folded_at)
        for order in (*one.entries, *one.exits)
    )
    side, was = PositionSide(position.side), position.status
    state = fold((fact_of(fill, one.market) for fill in one.fills), side, one.market.contract_size)
    if not has_finished and (state.entered, state.exited) == (position.entered, position.exited):
        return
    position.take(state)
    position.folded_at = now
    if state.entered and was == PositionStatus.PENDING:
        position.status = PositionStatus.OPEN
    if state.entered:
        plan = position.exit_plan
        target = plan.targets[0].percent if plan.targets else None
        levels = levels_at_entry(state.entry_price, side, plan.stop_loss_percent, target)
        position.stop_price, position.target_price = levels.stop, levels.target
    has_live_entry = any(_is_live(order) for order in one.entries)
    if state.is_closed and not has_live_entry:
        _close(one, position, wishes)
    else:
        position.save(update_fields=FOLDED_FIELDS)
        if position.status != was:
            wishes.notes[Topic.POSITIONS].append(
                one.note(event="OPENED", quantity=state.quantity, entry_price=state.entry_price)
            )


def _close(one: _Facts, position: Position, wishes: _Wishes) -> None:
    position.status = PositionStatus.CLOSED
    position.unrealized_pnl = ZERO
    position.is_exit_wanted = False
    position.save(update_fields=[*FOLDED_FIELDS, "unrealized_pnl", "is_exit_wanted", "exit_reason", "dust"])
    wishes.notes[Topic.POSITIONS].append(
        one.note(
            event="CLOSED", realized_pnl=position.realized_pnl, exit_reason=position.exit_reason, dust=position.dust
        )
    )
    one.position = None


def _act(one: _Facts, now: datetime, wishes: _Wishes) -> None:
    session, position = one.session, one.position
    signal = _signal_to_act_on(one, now)
    decision = decide(
        SessionView(
            takes_entries=session.status == SessionStatus.ACTIVE,
            is_stopping=session.status == SessionStatus.STOPPING,
            side=PositionSide(position.side) if position else None,
            quantity=position.quantity if position else ZERO,
            levels=position.levels if position else NO_LEVELS,
            has_live_entry=any(_is_live(order) for order in one.entries) if position else False,
            has_live_exit=any(_is_live(order) for order in one.exits) if position else False,
            price=one.price,
            signal=SignalKind(signal.kind) if signal else None,
            is_exit_wanted=bool(position and position.is_exit_wanted),
            exit_begun=ExitReason(position.exit_reason) if position and position.exit_reason else None,
        )
    )
    is_waiting = bool(position) and any(_is_live(order) for order in (*one.entries, *one.exits))
    if one.signal is not None and one.signal.pk != session.last_signal_id and not is_waiting:
        # Seen, whatever came of it. While an order is at work the signal waits: its outcome decides what it means.
        wishes.seen_signals[one.signal.pk].append(session.pk)
    if decision.action is Action.ENTER and signal is not None and decision.side is not None:
        _enter(one, signal, decision.side, wishes)
    elif decision.action is Action.EXIT and decision.exit_reason is not None:
        _leave(one, decision.exit_reason, now, wishes)
    elif decision.action is Action.CANCEL_ENTRY:
        orders_cancel([order for order in one.entries if _is_live(order)])
    elif decision.action is Action.ABANDON and position is not None:
        position.status = PositionStatus.ABANDONED
        position.save(update_fields=["status"])
        wishes.notes[Topic.POSITIONS].append(one.note(event="ABANDONED"))
        one.position = None
        if session.status == SessionStatus.STOPPING:
            session_mark_stopped(session.pk)
    elif decision.action is Action.FINISH:
        session_mark_stopped(session.pk)


def _signal_to_act_on(one: _Facts, now: datetime) -> Signal | None:
    """The newest signal, if it is of this run, not seen before, and, when it wants to enter, still fresh."""
    signal, session = one.signal, one.session
    if signal is None or signal.pk == session.last_signal_id:
        return None
    if session.signals_after is None or signal.candle_close_at <= session.signals_after:
        return None
    if signal.kind in (SignalKind.ENTER_LONG, SignalKind.ENTER_SHORT):
        timeframe = Timeframe(session.config.feed.timeframe)
        if session.account.exchange.time_at(now - ENTRY_GRACE) > signal.candle_close_at + timeframe.length:
            return None
    return signal


def _enter(one: _Facts, signal: Signal, side: PositionSide, wishes: _Wishes) -> None:
    session = one.session
    position = Position(
        session=session, account=session.account, market=one.market, entry_signal=signal, side=side,
        exits=session.exit_plan.model_dump(mode="json"),
    )  # fmt: skip
    intent = Intent(position=position, purpose=Intent.Purpose.ENTRY, reason="SIGNAL")
    order = Order(
        account=session.account, market=one.market, intent_id=intent.pk, side=side.entry_side, position_side=side,
        order_type=OrderType.MARKET, reason="SIGNAL",
    )  # fmt: skip
    wishes.positions.append(position)
    wishes.intents.append(intent)
    wishes.orders.append(order)
    one.position = position


def _leave(one: _Facts, reason: ExitReason, now: datetime, wishes: _Wishes) -> None:
    position = one.position
    if position is None:
        return
    position.exit_reason = reason
    quantity = round_quantity(position.quantity, one.market.rules)
    if is_dust(quantity, one.market, one.quote):
        # Too small for the venue to sell: booked as what it is, told once, and not tried for ever.
        position.dust = position.quantity
        position.closed_at = now
        wishes.notes[Topic.ALERTS].append(one.note(alert="DUST", quantity=position.quantity, market=one.market.symbol))
        _close(one, position, wishes)
        return
    position.save(update_fields=["exit_reason"])
    failures = sum(_is_in_vain(order) for order in one.exits)
    if failures == EXIT_FAILURES_BEFORE_ALERT:
        wishes.notes[Topic.ALERTS].append(one.note(alert="EXIT_KEEPS_FAILING", failures=failures, reason=reason))
    if one.exits:
        intent_id = one.exits[0].intent_id  # one more attempt at the same wish
    else:
        intent = Intent(position=position, purpose=Intent.Purpose.EXIT, reason=reason)
        wishes.intents.append(intent)
        intent_id = intent.pk
    side = PositionSide(position.side)
    wishes.orders.append(
        Order(
            account=one.session.account, market=one.market, intent_id=intent_id, side=side.exit_side, position_side=side,
            order_type=OrderType.MARKET, is_exit=True, quantity=quantity, status=OrderStatus.READY, reason=reason,
            valued_at=now,
            not_before_at=now + _exit_pause(failures) if failures else None,
        )
    )  # fmt: skip


def _is_in_vain(order: Order) -> bool:
    """Whether an exit came to nothing: refused, not placed, or taken and cancelled by the venue without a trade."""
    failed = (OrderStatus.REJECTED, OrderStatus.NOT_PLACED)
    return order.status in failed or (order.status == OrderStatus.CANCELED and not order.filled)


def _exit_pause(failures: int) -> timedelta:
    # The exponent is bounded too: an exit that fails for hours must not become a number no clock can hold.
    return min(timedelta(seconds=2 ** min(failures, 10)), LONGEST_EXIT_PAUSE)


def _write(wishes: _Wishes) -> None:
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
