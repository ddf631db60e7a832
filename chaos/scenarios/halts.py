"""Circuit breakers trip while entries are on every stage of their way and while whoever carries them out dies."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from django.utils import timezone

from chaos.scenarios import scenario
from chaos.scenarios.acts import die_at, enter, let_go_by, patience, tell, wait_for_death
from chaos.scenarios.exits import POINTS
from chaos.world import World
from domain.exits import ExitReason
from domain.orders import Denial, OrderStatus
from money.halts import halt_lift, halt_trip
from money.models import HaltMode, TradingHalt
from orders.models import Order
from positions.models import Intent, Position, PositionStatus
from sessions.models import SessionStatus

S = OrderStatus

LATER = timedelta(seconds=1)


@scenario("halt-in-flight", rows=(52, 53), needs_stage=False)
def halt_in_flight(stage: World) -> None:
    """A halt trips while entries are asked for, held back and in the air: what was not sent by then never is."""
    account = stage.account("1000000")
    in_the_air = stage.ready_order(account)
    stage.order_fault(in_the_air, "delay", "after", seconds=2 * stage.pace)
    stage.submit(in_the_air)
    stage.wait(lambda: stage.sent(in_the_air), "the request to arrive")
    held = [stage.ready_order(account, not_before_at=timezone.now() + LATER) for _ in range(2)]
    asked = [stage.ready_order(account, status=S.REQUESTED, quantity=None, valued_at=None) for _ in range(2)]
    sessions = [stage.session(account, status=SessionStatus.ACTIVE) for _ in range(4)]
    [*_, halt] = stage.together(
        *(partial(tell, stage, session.config) for session in sessions),
        lambda: halt_trip(HaltMode.HALT, "played", account_id=account.pk),
    )
    committed_at = timezone.now()
    stage.expect(isinstance(halt, TradingHalt), f"wanted a halt, was {halt!r}")
    late = stage.session(account, status=SessionStatus.ACTIVE)
    tell(stage, late.config)
    entries = Order.objects.filter(account=account, is_exit=False)
    late_entries = entries.filter(intent_id__in=Intent.objects.filter(position__session=late).values("pk"))
    stage.wait(late_entries.filter(status__in=(S.DENIED, S.CLOSED)).exists, "the late entry to be judged")
    # Past the moment at which the held ones would have been sent.
    let_go_by(stage, LATER.total_seconds() + 0.5)
    stage.wait_order(in_the_air, S.CLOSED)
    stage.expect_order(in_the_air, S.CLOSED, accepted=1, sent=1)
    for order in held:
        stage.expect_order(order, S.CANCELED, accepted=0, sent=0)
    [denied] = late_entries
    stage.expect_order(denied, S.DENIED, accepted=0, sent=0)
    stage.expect(denied.reason == Denial.HALTED, f"wanted HALTED, was {denied.reason}")
    for order in asked:
        order.refresh_from_db()
        stage.expect(order.status != S.REQUESTED, f"{order}: wanted it judged, was {order.status}")
    after = list(entries.filter(sent_at__gt=committed_at))
    stage.expect(not after, f"wanted no entry sent after the halt, were {after}")
    stage.expect(halt_lift(halt.pk, "played", actor="chaos"), "wanted the halt lifted")
    enter(stage, late)


@scenario("flatten-killed", rows=(1, 2, 3, 6, 7, 8), needs_stage=False)
def flatten_killed(stage: World) -> None:
    """A flattening's bell is lost and whoever carries it out dies at every point on the way: the position is left, once."""
    for point in POINTS:
        session = stage.session(status=SessionStatus.ACTIVE)
        position = enter(stage, session)
        kills = die_at(stage, "exits", point)
        # As if its bell had been lost.
        halt = TradingHalt.objects.create(
            mode=HaltMode.FLATTEN, session=session, cause="played", tripped_by="chaos"
        )  # fmt: skip
        closed = Position.objects.filter(pk=position.pk, status=PositionStatus.CLOSED)
        stage.wait(closed.exists, f"the position to be left, whoever dies at {point}", patience(stage, 60))
        wait_for_death(stage, kills)
        intents = Intent.objects.filter(position=position, purpose=Intent.Purpose.EXIT)
        sold = Order.objects.filter(intent_id__in=intents.values("pk"), filled__gt=0).count()
        reason = closed.get().exit_reason
        stage.expect(
            (sold, reason) == (1, ExitReason.HALT), f"{point}: wanted one sale for HALT, were {sold} for {reason}"
        )
        tell(stage, session.config)
        refused = session.positions.filter(status=PositionStatus.ABANDONED)
        stage.wait(refused.exists, "the entry of a session that is halted to be refused")
        halt_lift(halt.pk, "played", actor="chaos")
    enter(stage, session)
