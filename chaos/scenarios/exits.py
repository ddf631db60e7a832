"""Positions are left in parts, added to and followed while processes die: each level once, each signal once, no stop moves
back, and what is sold is never more than is held."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from django.utils import timezone

from chaos.scenarios import scenario
from chaos.scenarios.acts import die_at, enter, leave, let_go_by, tell, wait_for_death
from chaos.world import ORDERS_PATH, World
from domain.candles import Timeframe
from domain.exits import ExitReason
from domain.market import round_quantity
from domain.orders import LIVE_STATUSES, OrderStatus
from exchanges.gateway import CandleReport
from marketdata.models import Feed
from marketdata.services import candles_store
from orders.models import Order
from positions.models import Intent, Position, PositionStatus
from sessions.models import SessionStatus, TradingSession

S = OrderStatus
Purpose = Intent.Purpose

# Where whoever trades for a position can die; and what of an entry is lost for good there: it was never sent.
POINTS = (
    "sessions.before_commit",
    "bells.before",
    "order.claimed",
    "order.answered",
    "order.settled",
    "fills.recorded",
)
NEVER_SENT = "order.claimed"
# Half at 2 percent, the rest at 4.
LEVELS: dict[str, Any] = {
    "stop_loss_percent": "2",
    "targets": [{"percent": "2", "fraction": "0.5"}, {"percent": "4", "fraction": "0.5"}],
}


def _price(stage: World, price: str, symbol: str = "BTC-USDT") -> None:
    stage.price(price, symbol)
    stage.read_prices()


def _orders(position: Position, purpose: str, **wanted: Any) -> list[Order]:
    intents = Intent.objects.filter(position=position, purpose=purpose)
    return list(Order.objects.filter(intent_id__in=intents.values("pk"), **wanted).order_by("pk"))


@scenario("part-killed", rows=(1, 2, 3, 6, 7, 8), needs_stage=False)
def part_killed(stage: World) -> None:
    """Whoever sells a part of a position dies at every point on the way: the level is done once, and is told once."""
    for point in POINTS:
        _price(stage, "50000")
        session = stage.session(status=SessionStatus.ACTIVE, exits=LEVELS)
        position = enter(stage, session)
        kills = die_at(stage, "exits", point)
        _price(stage, "51200")
        wait_for_death(stage, kills)
        done = Position.objects.filter(pk=position.pk, targets_done=1)
        stage.wait(done.exists, f"the first level to be done after a death at {point}")
        position = done.select_related("market").get()
        half = round_quantity(position.entered / 2, position.market.rules)
        sold = [(order.quantity, order.filled) for order in _orders(position, Purpose.EXIT, filled__gt=0)]
        stage.expect(
            (position.status, position.exited, sold) == (PositionStatus.OPEN, half, [(half, half)]),
            f"{point}: wanted {half} sold at once, was {position.status} with {position.exited} sold as {sold}",
        )
        leave(stage, session)


@scenario("scale-in-killed", rows=(1, 2, 3, 6, 7, 8), needs_stage=False)
def scale_in_killed(stage: World) -> None:
    """Whoever adds to a position dies at every point on the way: no signal adds twice, and the stop is that of the whole."""
    _price(stage, "50000")
    session = stage.session(
        stage.account("1000000"),
        status=SessionStatus.ACTIVE,
        max_entries=20,
        exits={"stop_loss_percent": "2", "targets": []},
    )
    position = enter(stage, session)
    for number, point in enumerate(POINTS, start=2):
        _price(stage, str(50000 + 100 * number))
        _add(stage, position, point, number)
    filled = len(_orders(position, Purpose.ENTRY, filled__gt=0))
    lost = POINTS.count(NEVER_SENT)
    stage.expect(filled == 1 + len(POINTS) - lost, f"wanted {1 + len(POINTS) - lost} entries filled, were {filled}")
    mine = Position.objects.filter(pk=position.pk)
    entered = sum((order.filled for order in _orders(position, Purpose.ENTRY)), Decimal(0))
    stage.wait(mine.filter(entered=entered).exists, f"{entered} to be added up")
    position = mine.get()
    stop = (position.entry_price * Decimal("0.98")).quantize(Decimal("1e-8"))
    found = position.stop_price and position.stop_price.quantize(Decimal("1e-8"))
    stage.expect(found == stop, f"wanted the stop of all entries at {stop}, was {found}")
    asked_for = Intent.objects.filter(position=position, purpose=Purpose.ENTRY).count()
    stage.expect(asked_for == 1 + len(POINTS), f"wanted {1 + len(POINTS)} entries asked for, were {asked_for}")


def _add(stage: World, position: Position, point: str, number: int) -> None:
    """A signal asks for entry ``number``, whoever carries it out dies at ``point``; told again at the end."""
    kills = die_at(stage, "orders" if point.startswith(("order", "fills")) else "tracking", point)
    signal = tell(stage, position.session.config)
    wait_for_death(stage, kills)
    asked = Intent.objects.filter(position=position, purpose=Purpose.ENTRY)
    live = Order.objects.filter(intent_id__in=asked.values("pk"), status__in=LIVE_STATUSES)
    stage.wait(lambda: asked.count() == number and not live.exists(), f"entry {number} to end after a death at {point}")
    stage.ring("positions.fan_out", signal_ids=[signal.pk])
    stage.ring("positions.track", session_ids=[position.session_id])


@scenario("trailing-killed", rows=(1, 50), needs_stage=False)
def trailing_killed(stage: World) -> None:
    """Whoever moves a trailing stop dies before it commits: it stands where the best candle puts it, and never goes back."""
    _price(stage, "3000", "ETH-USDT")
    config = stage.config(stage.feed("ETH/USDT", Timeframe.M5))
    session = stage.session(
        config=config,
        status=SessionStatus.ACTIVE,
        exits={"stop_loss_percent": "10", "trailing_percent": "2", "targets": []},
    )
    position = enter(stage, session)
    feed = Feed.objects.get(pk=config.feed_id)
    last_open_at = feed.last_open_at
    try:
        _price(stage, "3200", "ETH-USDT")
        kills = die_at(stage, "exits", "sessions.before_commit")
        first = Timeframe.M5.open_of(stage.exchange.time_at(timezone.now())) + Timeframe.M5.length
        _close(stage, session, first, "3200")
        wait_for_death(stage, kills)
        mine = Position.objects.filter(pk=position.pk)
        stage.wait(mine.filter(stop_price=Decimal("3136")).exists, "the stop to follow the candle")
        for number in (1, 2, 3):
            _close(stage, session, first + number * Timeframe.M5.length, str(3190 - number))
        stage.wait(
            mine.filter(followed_until__gte=first + 3 * Timeframe.M5.length).exists, "all candles to be followed"
        )
        stop = mine.get().stop_price
        stage.expect(stop == Decimal("3136"), f"wanted the stop to stay at 3136, was {stop}")
        _price(stage, "3130", "ETH-USDT")
        stage.wait(mine.filter(status=PositionStatus.CLOSED).exists, "the position to be stopped out")
        reason = mine.get().exit_reason
        stage.expect(reason == ExitReason.TRAILING_STOP, f"wanted TRAILING_STOP, was {reason}")
    finally:
        feed.candles.all().delete()
        Feed.objects.filter(pk=feed.pk).update(last_open_at=last_open_at)


def _close(stage: World, session: TradingSession, open_at: datetime, high: str) -> None:
    """A candle of the session's feed that opened then has closed; whoever follows it is rung."""
    top, low = Decimal(high), Decimal(high) - 1
    candles_store(session.config.feed_id, [CandleReport(open_at, low, top, low, low, Decimal(1))])
    Feed.objects.filter(pk=session.config.feed_id).update(last_open_at=open_at)
    stage.ring("exits.track", session_ids=[session.pk])


@scenario("stop-beside-a-part", rows=(53,), needs_stage=False)
def stop_beside_a_part(stage: World) -> None:
    """A target and the stop are met in the same moment: the rest waits for the part's fate, and a neighbour keeps its own."""
    _price(stage, "50000")
    account = stage.account("100000")
    session = stage.session(account, status=SessionStatus.ACTIVE, exits=LEVELS)
    neighbour = stage.session(account, status=SessionStatus.ACTIVE, exits={"stop_loss_percent": "50"})
    position, theirs = enter(stage, session), enter(stage, neighbour)
    # The venue takes its time for whatever this account sells.
    stage.fault(method="POST", path=ORDERS_PATH, apiKey=account.name, kind="delay", when="before",
                seconds=4 * stage.pace, count=None)  # fmt: skip
    _price(stage, "51200")
    stage.wait(lambda: _orders(position, Purpose.EXIT, status=S.SUBMITTING), "the part to be on its way")
    _price(stage, "48000")
    for _ in range(5):
        stage.ring("exits.track", session_ids=[session.pk])
        let_go_by(stage, 0.1)
    stage.wait(Position.objects.filter(pk=position.pk, status=PositionStatus.CLOSED).exists, f"{session} to leave")
    stage.heal()
    position.refresh_from_db()
    there = sum((order.filled for order in _orders(position, Purpose.EXIT)), Decimal(0))
    stage.expect(
        (position.exited, there) == (position.entered, position.entered),
        f"wanted {position.entered} sold, were {there} and {position.exited} of them counted",
    )
    theirs.refresh_from_db()
    stage.expect(theirs.status == PositionStatus.OPEN, f"wanted the neighbour's OPEN, was {theirs.status}")
