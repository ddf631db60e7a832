"""What orders did after their position had been let go of: it is taken up again, so that nothing is held without an exit.

An entry that was given up and filled after all brings its position back; a fill that was missing is added to a position that
had ended. Where the session can no longer hold it, the reconciliation files what is left over for the trader to decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from django.db import transaction
from django.utils import timezone

from domain.market import ZERO, PositionSide
from domain.positions import PositionState, fold
from orders.models import Fill, Order
from pipeline.topics import Topic, publish
from positions.funding import funding_is_news, fundings_of
from positions.models import FOLDED_FIELDS, LIVE_POSITIONS, Position, PositionStatus, Reconciliation
from positions.services import fact_of, orders_of_positions
from sessions.models import TRACKED_STATUSES, TradingSession


def positions_take_up(order_ids: Sequence[int]) -> list[int]:
    """Add up again the positions that had been let go of before these orders did something; the sessions of those that hold
    something again, and are to be looked at."""
    intents = Order.objects.filter(pk__in=list(order_ids), filled__gt=0).values("intent_id")
    left = Position.objects.filter(intents__in=intents).exclude(status__in=LIVE_POSITIONS)
    found = list(left.order_by("session", "pk").values_list("pk", "session_id").distinct())
    return [session_id for position_id, session_id in found if _take_up(position_id, session_id)]


def positions_fund(position_ids: Sequence[int]) -> None:
    """Add up again closed positions whose last funding was recorded after their end."""
    for pk, session_id in Position.objects.filter(pk__in=list(position_ids)).values_list("pk", "session_id"):
        with transaction.atomic():
            session = TradingSession.objects.filter(pk=session_id).select_related("account").locked().get()
            closed = Position.objects.select_related("market").filter(pk=pk, status=PositionStatus.CLOSED)
            position = closed.filter(funding_is_news()).first()
            if position is None:
                continue  # nothing new; or it was taken up again, and its look adds everything up
            before, closed_at = position.funding, position.closed_at
            # Taken before it is read: what is recorded meanwhile is later, and found again.
            folded_at = timezone.now()
            position.take(_state_of(position))
            position.closed_at, position.folded_at = closed_at, folded_at
            position.save(update_fields=FOLDED_FIELDS)
            if position.funding != before:
                _tell(position, session, "FUNDED", funding=str(position.funding))


def orders_left_over(orders: Iterable[Order]) -> list[tuple[Order, Position]]:
    """Those of these orders whose position was abandoned though they filled something, each with it."""
    by_intent = {order.intent_id: order for order in orders if order.filled > 0}
    abandoned = Position.objects.filter(intents__in=by_intent, status=PositionStatus.ABANDONED)
    found = []
    for position in abandoned.prefetch_related("intents"):
        found += [(by_intent[one.pk], position) for one in position.intents.all() if one.pk in by_intent]
    return found


def _take_up(position_id: int, session_id: int) -> bool:
    with transaction.atomic():
        session = TradingSession.objects.filter(pk=session_id).select_related("account").locked().get()
        position = Position.objects.select_related("market").get(pk=position_id)
        if position.status in LIVE_POSITIONS:
            return True
        state = _state_of(position)
        if (state.entered, state.exited, state.quantity) == (position.entered, position.exited, position.quantity):
            return False
        if state.quantity - position.dust <= 0:
            _add_up_the_end(position, state)
            return False
        is_taken = session.positions.filter(status__in=LIVE_POSITIONS).exists()
        if session.status not in TRACKED_STATUSES or is_taken:
            # The comparison files what is left over; of an account at rest it would come an hour later.
            Reconciliation.objects.filter(pk=session.account_id).update(due_at=timezone.now())
            return False
        # As it was before its entry came to anything: the look that follows adds up the rest.
        position.status, position.dust, position.closed_at = PositionStatus.PENDING, 0, None
        position.save(update_fields=["status", "dust", "closed_at"])
        _tell(position, session, "TAKEN_UP")
    return True


def _state_of(position: Position) -> PositionState:
    order_ids = [order.pk for _, order in orders_of_positions([position.pk])]
    fills = Fill.objects.filter(order__in=order_ids)
    facts = (fact_of(fill, position.market) for fill in fills)
    funded = fundings_of([position]).get(position.pk)
    return fold(facts, PositionSide(position.side), position.market.contract_size, funded.total if funded else ZERO)


def _add_up_the_end(position: Position, state: PositionState) -> None:
    position.take(state)
    position.status = PositionStatus.CLOSED
    position.closed_at = state.closed_at or timezone.now()
    position.folded_at = timezone.now()
    position.save(update_fields=FOLDED_FIELDS)
    _tell(position, position.session, "CLOSED", realized_pnl=str(position.realized_pnl))


def _tell(position: Position, session: TradingSession, event: str, **data: str) -> None:
    publish(
        Topic.POSITIONS, session.pk, session_id=session.pk, account_id=session.account_id, position_id=position.pk,
        owner_id=session.account.owner_id, data={"event": event, **data},
    )  # fmt: skip
