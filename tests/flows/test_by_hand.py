"""The life of a candle with every door opened by hand: what the workers do, one verb after the other."""

from __future__ import annotations

from decimal import Decimal

from domain.orders import Execution, OrderStatus
from domain.strategy import SignalKind
from marketdata.services import feed_collect
from money.services import orders_value
from orders.models import Order
from orders.services import order_submit
from positions.models import Position, PositionStatus
from positions.services import orders_follow, sessions_track, signals_fan_out
from positions.watch import prices_watch, sessions_tick
from sessions.models import SessionStatus, TradingSession
from sessions.services import session_create, session_start, session_stop
from strategies.models import Signal
from strategies.services import feed_evaluate
from tests.factories import make_config, make_feed
from tests.venue import START_MS, Venue


def minute_candles(closes: list[float], last_open_ms: int) -> list[list[float]]:
    first = last_open_ms - (len(closes) - 1) * 60_000
    return [[first + i * 60_000, c, c, c, c, 1.0] for i, c in enumerate(closes)]


def test_a_candle_becomes_a_closed_position_and_the_session_stops(venue: Venue) -> None:
    feed = make_feed(venue.market)
    session = session_create(
        TradingSession(
            account=venue.account, config=make_config(venue.account.owner, feed), sizing_method="FIXED_QUOTE",
            sizing_amount=Decimal(1000), stop_loss_percent=Decimal(1), take_profit_percent=Decimal(2),
        )
    )  # fmt: skip
    session_start(session.pk)
    falling_then_up = [50000.0 - i * 10 for i in range(20)] + [51000.0]
    venue.simulator.control("market/BTC-USDT/candles", candles=minute_candles(falling_then_up, START_MS))
    venue.advance(60)

    feed_collect(feed.pk)
    signal_ids = feed_evaluate(feed.pk)
    signals_fan_out(signal_ids)
    entry = Order.objects.get()
    orders_value([entry.pk])
    order_submit(entry.pk)
    orders_follow([entry.pk])

    entry.refresh_from_db()
    position = Position.objects.get()
    assert Signal.objects.get(pk=signal_ids[0]).kind == SignalKind.ENTER_LONG
    assert (entry.status, entry.execution) == (OrderStatus.CLOSED, Execution.FULLY_EXECUTED)
    assert (position.status, position.quantity) == (PositionStatus.OPEN, entry.quantity)
    assert position.target_price == position.entry_price * Decimal("1.02")

    sessions_tick([session.pk])
    position.refresh_from_db()
    assert position.valuations == 1

    venue.price("52100")
    assert prices_watch() == 1
    exit_order = Order.objects.get(is_exit=True)
    order_submit(exit_order.pk)
    orders_follow([exit_order.pk])

    position.refresh_from_db()
    assert (position.status, position.exit_reason) == (PositionStatus.CLOSED, "TAKE_PROFIT")
    assert 10000 + position.realized_pnl == venue.balance("USDT")
    assert venue.balance("BTC") == 0

    session_stop(session.pk)
    sessions_track([session.pk])
    session.refresh_from_db()
    assert session.status == SessionStatus.STOPPED
    assert len(venue.orders()) == 2
