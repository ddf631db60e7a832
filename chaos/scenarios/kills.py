"""Processes die at the worst moments: whatever they held is found by others, and nothing is done a second time."""

from __future__ import annotations

import time
from signal import SIGKILL, SIGTERM

from chaos.scenarios import scenario
from chaos.scenarios.acts import die_at, enter, say, tell, wait_ended, wait_for_death
from chaos.stage import PROCESSES, Stage
from chaos.world import World
from domain.orders import OrderStatus
from orders.models import Order
from positions.models import Intent, Position, PositionStatus
from sessions.models import SessionStatus
from sessions.services import session_start, session_stop

S = OrderStatus


def _order_through(stage: World, point: str, ends: str, *, accepted: int, sent: int) -> None:
    """An order's worker dies at ``point``; how the order ends."""
    order = stage.ready_order()
    kills = die_at(stage, "orders", point)
    stage.submit(order)
    wait_for_death(stage, kills)
    stage.wait_order(order, S.CLOSED, S.NOT_PLACED, S.REJECTED, S.CANCELED)
    stage.expect_order(order, ends, accepted=accepted, sent=sent)


@scenario("killed-when-claimed", rows=(3,), needs_stage=False)
def killed_when_claimed(stage: World) -> None:
    """The worker dies between its claim and the request: nothing was sent, and it is known that nothing was."""
    _order_through(stage, "order.claimed", S.NOT_PLACED, accepted=0, sent=0)


@scenario("killed-when-answered", rows=(6,), needs_stage=False)
def killed_when_answered(stage: World) -> None:
    """The worker dies between the answer and its row: the order is adopted."""
    _order_through(stage, "order.answered", S.CLOSED, accepted=1, sent=1)


@scenario("killed-when-settled", rows=(7,), needs_stage=False)
def killed_when_settled(stage: World) -> None:
    """The worker dies after the outcome is written and before anybody is told: the sweep goes on with it."""
    _order_through(stage, "order.settled", S.CLOSED, accepted=1, sent=1)


@scenario("killed-between-fills-and-sums", rows=(8,), needs_stage=False)
def killed_between_fills_and_sums(stage: World) -> None:
    """The worker dies after the fills and before the sums and the status: all of it or none, and then once."""
    _order_through(stage, "fills.recorded", S.CLOSED, accepted=1, sent=1)


@scenario("killed-before-commit", rows=(1,), needs_stage=False)
def killed_before_commit(stage: World) -> None:
    """The tracker dies before it commits the order it decided on: as if it had not looked, and the next look decides."""
    session = stage.session(status=SessionStatus.ACTIVE)
    kills = die_at(stage, "tracking", "sessions.before_commit")
    tell(stage, session.config)
    wait_for_death(stage, kills)
    stage.wait(Position.objects.filter(session=session, status=PositionStatus.OPEN).exists, f"{session} to enter")
    entries = Order.objects.filter(intent_id__in=session.positions.values("intents"))
    stage.expect(entries.count() == 1, f"wanted one entry, were {entries.count()}")


@scenario("killed-before-the-bell", rows=(2,), needs_stage=False)
def killed_before_the_bell(stage: World) -> None:
    """The tracker dies after its commit and before it rings: the sweeps find what it wrote."""
    session = stage.session(status=SessionStatus.ACTIVE)
    kills = die_at(stage, "tracking", "bells.before")
    enter(stage, session)
    stage.expect(stage.kills > kills, "wanted a death before the bell, was none")  # type: ignore[attr-defined]


@scenario("killed-in-flight", rows=(4, 5, 9))
def killed_in_flight(stage: Stage) -> None:
    """SIGKILL while requests hang at the venue, some accepted and some not: each ends as the venue has it."""
    account = stage.account("1000000")
    orders = {when: [stage.ready_order(account) for _ in range(4)] for when in ("after", "before")}
    for when, some in orders.items():
        for order in some:
            stage.order_fault(order, "hang", when)
    stage.submit(*orders["after"], *orders["before"])
    stage.wait(lambda: all(stage.sent(order) for some in orders.values() for order in some), "every request to arrive")
    stage.restart("orders")
    for when, some in orders.items():
        for order in some:
            stage.wait_order(order, S.CLOSED, S.NOT_PLACED)
            if when == "after":
                stage.expect_order(order, S.CLOSED, accepted=1, sent=1)
            else:
                stage.expect_order(order, S.NOT_PLACED, accepted=0, sent=1)


@scenario("killed-at-random", rows=(9,))
def killed_at_random(stage: Stage) -> None:
    """SIGKILL of one process after another, at random moments, while thirty orders are on their way."""
    account = stage.account("10000000")
    orders = [stage.ready_order(account) for _ in range(30)]
    for start in range(0, len(orders), 3):
        stage.submit(*orders[start : start + 3])
        time.sleep(stage.rng.uniform(0, 0.3))
        stage.restart(stage.rng.choice(PROCESSES))
    wait_ended(stage, orders)


@scenario("terminated-in-flight", rows=(10,))
def terminated_in_flight(stage: Stage) -> None:
    """A deployment's SIGTERM while the venue takes its time: what can be finished is, and the rest is looked up."""
    account = stage.account("1000000")
    slow, endless = stage.ready_order(account), stage.ready_order(account)
    stage.order_fault(slow, "delay", "after", seconds=4 * stage.pace)
    stage.order_fault(endless, "hang", "after")
    stage.submit(slow, endless)
    stage.wait(lambda: stage.sent(slow) and stage.sent(endless), "both requests to arrive")
    stage.stop("orders", SIGTERM)
    stage.count("kill")
    stage.start("orders")
    for order in (slow, endless):
        stage.wait_order(order, S.CLOSED, S.NOT_PLACED)
        stage.expect_order(order, S.CLOSED, accepted=1, sent=1)


@scenario("power-off", rows=(11,))
def power_off(stage: Stage) -> None:
    """Everything dies at once, PostgreSQL and the broker included, with orders in the air; everything comes back."""
    sessions = [stage.session(status=SessionStatus.ACTIVE) for _ in range(3)]
    orders = [stage.ready_order() for _ in range(4)]
    for order in orders[:2]:
        stage.order_fault(order, "hang", "after")
    for session in sessions:
        tell(stage, session.config)
    stage.submit(*orders)
    stage.wait(lambda: all(stage.sent(order) for order in orders[:2]), "requests in the air")
    for name in PROCESSES:
        stage.kill(name)
    stage.broker_kill()
    stage.postgres_kill(SIGKILL)
    began = time.monotonic()
    stage.heal()
    wait_ended(stage, orders)
    for session in sessions:
        # Whose entry was claimed in that very moment does not enter on this signal: it was never sent.
        was_judged = session.positions.filter(status__in=(PositionStatus.OPEN, PositionStatus.ABANDONED))
        stage.wait(was_judged.exists, f"{session} to enter, or its entry to be known as not placed", 60)
    abandoned = Intent.objects.filter(position__session__in=sessions, position__status=PositionStatus.ABANDONED)
    sent = Order.objects.filter(intent_id__in=abandoned.values("pk")).exclude(status=S.NOT_PLACED)
    stage.expect(not sent, f"wanted no position given up but for an entry that was not placed, were {list(sent)}")
    took = time.monotonic() - began
    stage.expect(took < 60, f"wanted everything done within 60 s, was {took:.0f} s")
    # Of the others, what was only claimed when the power went was never sent, and is known not to be there.
    for order in orders[:2]:
        stage.expect_order(order, S.CLOSED, accepted=1, sent=1)


@scenario("killed-with-a-click", rows=(1, 2))
def killed_with_a_click(stage: Stage) -> None:
    """The scheduler and the tracker die while a session is started and stopped: the click stands, or can be repeated."""
    session = stage.session(stage.account())
    session_start(session.pk)
    for name in ("tracking", "sessions", "collect"):
        stage.restart(name)
    say(stage, session.config)
    session_stop(session.pk)
    stage.restart("tracking")
    stage.wait(lambda: type(session).objects.get(pk=session.pk).status == SessionStatus.STOPPED, f"{session} to stop")
