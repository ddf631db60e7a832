"""Exits that rest at the venue: they fire while nobody of ours is alive, their answers are lost, and whoever places, cancels
or replaces them dies; what is held is protected once and sold once."""

from __future__ import annotations

from typing import Any

from chaos import invariants
from chaos.scenarios import scenario
from chaos.scenarios.acts import die_at, enter, leave, wait_for_death
from chaos.scenarios.exits import POINTS
from chaos.stage import PROCESSES, Stage
from chaos.world import STOPS_PATH, World
from domain.exits import ExitReason
from domain.market import round_quantity
from domain.orders import OrderStatus
from exchanges.models import Account
from orders.models import Order
from positions.models import Intent, Position, PositionStatus
from sessions.models import SessionStatus, TradingSession

S = OrderStatus

# No fills of a stop that waits.
REST_POINTS = tuple(point for point in POINTS if point != "fills.recorded")
STOP: dict[str, Any] = {"stop_loss_percent": "2", "targets": []}


def _stops(stage: World, account: Account, **wanted: Any) -> list[dict[str, Any]]:
    """Every stop order of the account that the venue ever took, with these values."""
    stops = stage.oracle(apiKey=account.name)["stopOrders"]
    return [stop for stop in stops if all(stop.get(name) == value for name, value in wanted.items())]


def _holding(stage: World, *, is_resting: bool = True) -> tuple[TradingSession, Position]:
    stage.price("50000")
    stage.read_prices()
    session = stage.session(status=SessionStatus.ACTIVE, exits=STOP, is_resting=is_resting)
    return session, enter(stage, session)


def _wait_rested(stage: World, position: Position) -> Order:
    """Wait until a stop over all that is held rests at the venue, there as here, and nothing else does; the order."""
    position = Position.objects.select_related("market", "account").get(pk=position.pk)
    intents = Intent.objects.filter(position=position, purpose=Intent.Purpose.REST_STOP)
    quantity = round_quantity(position.quantity, position.market.rules)
    rests = Order.objects.filter(intent_id__in=intents.values("pk"), status=S.OPENED, quantity=quantity)
    stage.wait(rests.exists, f"a stop of position {position.pk} to rest")
    order = rests.get()
    there = [stop["clientOid"] for stop in _stops(stage, position.account, status="NEW")]
    stage.expect(there == [order.client_order_id], f"wanted {order} alone to rest there, were {there}")
    unsound = invariants.nothing_held_without_its_stop()
    stage.expect(not unsound, f"wanted nothing held without its stop, was {unsound}")
    return order


def _expect_sold_once(stage: World, position: Position, reason: str) -> None:
    closed = Position.objects.filter(pk=position.pk, status=PositionStatus.CLOSED)
    stage.wait(closed.exists, f"position {position.pk} to be closed")
    intents = Intent.objects.filter(position=position)
    exits = Order.objects.filter(intent_id__in=intents.values("pk"), is_exit=True, filled__gt=0)
    found, left = (exits.count(), closed.get().exit_reason), len(_stops(stage, position.account, status="NEW"))
    stage.expect(
        (found, left) == ((1, reason), 0), f"wanted one sale for {reason} and no stop left, were {found}, {left}"
    )


@scenario("rest-fires-alone", rows=(9, 11))
def rest_fires_alone(stage: Stage) -> None:
    """A resting stop fires while every worker is dead: the venue has sold, and nothing is sold again by who comes back."""
    _, position = _holding(stage)
    _wait_rested(stage, position)
    for name in PROCESSES:
        stage.kill(name)
    stage.price("48500")
    stage.wait(lambda: _stops(stage, position.account, status="TRIGGERED"), "the venue to carry it out")
    stage.heal()
    _expect_sold_once(stage, position, ExitReason.STOP_LOSS)


@scenario("rest-answer-lost", rows=(24, 26, 38), needs_stage=False)
def rest_answer_lost(stage: World) -> None:
    """The answers to placing and to cancelling a resting stop are lost: one rests, and it is gone before all is sold."""
    stage.fault(method="POST", path=STOPS_PATH, kind="drop", when="after")
    session, position = _holding(stage)
    order = _wait_rested(stage, position)
    taken = len(_stops(stage, position.account))
    stage.expect((taken, stage.sent(order)) == (1, 1), f"wanted one stop asked for, were {taken} taken")
    stage.fault(method="DELETE", path=f"{STOPS_PATH}*", apiKey=position.account.name, kind="drop", when="after")
    leave(stage, session)
    _expect_sold_once(stage, position, ExitReason.SESSION_STOP)


@scenario("rest-killed", rows=(1, 2, 3, 6, 7, 8), needs_stage=False)
def rest_killed(stage: World) -> None:
    """Whoever lets a stop rest, and whoever cancels it to sell instead, dies at every point on the way."""
    for point in REST_POINTS:
        session, position = _holding(stage, is_resting=False)
        kills = die_at(stage, "exits", point)
        Position.objects.filter(pk=position.pk).update(is_resting=True)
        stage.ring("exits.track", session_ids=[session.pk])
        wait_for_death(stage, kills)
        _wait_rested(stage, position)
        kills = die_at(stage, "exits", point)
        Position.objects.filter(pk=position.pk).update(is_exit_wanted=True)
        stage.ring("exits.track", session_ids=[session.pk])
        wait_for_death(stage, kills)
        _expect_sold_once(stage, position, ExitReason.MARKET_EXIT)
        leave(stage, session)


@scenario("rest-and-track", rows=(37, 53), needs_stage=False)
def rest_and_track(stage: World) -> None:
    """The price falls through a stop that rests and is tracked: the venue and we want to sell in the same moment."""
    session, position = _holding(stage)
    _wait_rested(stage, position)
    stage.price("48500")
    stage.read_prices()
    for _ in range(5):
        stage.ring("exits.track", session_ids=[session.pk])
    _expect_sold_once(stage, position, ExitReason.STOP_LOSS)


@scenario("rest-whipsaw", rows=(9, 11, 53))
def rest_whipsaw(stage: Stage) -> None:
    """The price runs through a resting target and back through the resting stop while every worker is dead: what is held is
    sold once, part by part, and no order is left at the venue."""
    stage.price("50000")
    stage.read_prices()
    exits = {"stop_loss_percent": "2", "targets": [{"percent": "4", "fraction": "0.5"}, {"percent": "8"}]}
    session = stage.session(status=SessionStatus.ACTIVE, exits=exits, is_resting=True)
    position = enter(stage, session)
    stage.wait(lambda: len(_stops(stage, position.account, status="NEW")) == 3, "a stop and two targets to rest")
    for name in PROCESSES:
        stage.kill(name)
    stage.price("52500")
    stage.wait(lambda: _stops(stage, position.account, status="TRIGGERED"), "the venue to carry out the target")
    stage.price("48500")
    stage.heal()
    closed = Position.objects.filter(pk=position.pk, status=PositionStatus.CLOSED)
    stage.wait(closed.exists, f"position {position.pk} to be closed", 60)
    left, held = len(_stops(stage, position.account, status="NEW")), closed.get()
    stage.expect(left == 0, f"wanted no stop order left at the venue, were {left}")
    stage.expect(
        held.quantity == held.dust and held.exited + held.dust == held.entered,
        f"wanted all that was bought to be sold, was {held.entered} bought, {held.exited} sold and {held.dust} dust",
    )
