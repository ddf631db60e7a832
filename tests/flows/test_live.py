"""From candle to closed position through real Celery workers, beat and the simulator over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from domain.orders import OrderStatus
from exchanges.services import exchange_clock_sync
from marketdata.models import Candle
from orders.models import Fill, Order
from positions.models import Position, PositionStatus
from sessions.models import SessionStatus, TradingSession
from sessions.services import session_create, session_start, session_stop
from tests.factories import make_config, make_feed
from tests.venue import START_MS, Venue
from tests.workers import wait_until, workers_running

SPEED = 30


def script(venue: Venue, closes: list[float], first_open_ms: int) -> None:
    rows = [[first_open_ms + index * 60_000, close, close, close, close, 1.0] for index, close in enumerate(closes)]
    venue.simulator.control("market/BTC-USDT/candles", candles=rows)


def run_clock(venue: Venue) -> None:
    """Let the venue's market time run, SPEED times as fast as ours, with our notion of it."""
    venue.exchange.clock_speed = SPEED
    venue.exchange.save()
    venue.simulator.control("clock", speed=SPEED)
    exchange_clock_sync(venue.exchange.pk)


@pytest.mark.flow
def test_a_session_lives_its_whole_life_on_real_workers(venue: Venue) -> None:
    account = venue.account
    session = session_create(
        TradingSession(
            account=account, config=make_config(account.owner, make_feed(venue.market)), sizing_method="FIXED_QUOTE",
            sizing_amount=Decimal(1000), stop_loss_percent=Decimal(1), take_profit_percent=Decimal(2),
        )
    )  # fmt: skip
    # 30 minutes of falling prices, then up within two minutes of the start, on to the target, and up again for ever.
    falling = [50000.0 - 10 * index for index in range(32)]
    script(venue, [*falling, 51000.0, 51000.0, 51000.0, 51000.0, *[53000.0] * 60], START_MS - 30 * 60_000)
    with workers_running("worker-exits", "worker-light", "worker-strategies", "beat"):
        run_clock(venue)
        session_start(session.pk)
        wait_until(lambda: Position.objects.filter(status=PositionStatus.CLOSED).exists(), "a closed position", 60)
        session_stop(session.pk)
        wait_until(lambda: TradingSession.objects.get().status == SessionStatus.STOPPED, "a stopped session")

    position = Position.objects.get(status=PositionStatus.CLOSED)
    entry, leave = Order.objects.filter(status=OrderStatus.CLOSED).order_by("pk")[:2]
    assert position.exit_reason == "TAKE_PROFIT"
    assert (entry.side, leave.side) == ("BUY", "SELL")
    assert entry.quantity == leave.quantity == position.entered
    assert len(venue.orders()) == Order.objects.filter(status=OrderStatus.CLOSED).count()
    assert Fill.objects.count() == len(venue.simulator.oracle()["fills"])
    assert 10000 + sum(p.realized_pnl for p in Position.objects.all()) == venue.balance("USDT")
    assert not Candle.objects.filter(open_at__gt=datetime.fromtimestamp(START_MS / 1000 + 3600, tz=UTC)).exists()
