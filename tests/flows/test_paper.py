"""A session on a paper account: real prices, virtual money, and the product's own doors."""

from __future__ import annotations

from decimal import Decimal

from domain.market import OrderType
from domain.orders import Execution, OrderStatus
from exchanges.accounts import account_create, balances_refresh
from exchanges.models import PaperBalance
from marketdata.services import feed_collect
from money.services import orders_value
from orders.models import Order
from orders.services import order_submit
from positions.models import Position, PositionStatus
from positions.services import orders_follow, sessions_track, signals_fan_out
from positions.watch import prices_watch
from sessions.models import SessionStatus, TradingSession
from sessions.services import session_create, session_start, session_stop
from strategies.services import feed_evaluate
from tests.factories import make_config, make_feed, make_user
from tests.flows.test_by_hand import minute_candles
from tests.venue import START_MS, Venue


def test_a_session_on_paper_trades_a_round_trip_and_its_books_are_equal(venue: Venue) -> None:
    account = account_create(
        owner=make_user(), exchange=venue.exchange, name="paper", currency="USDT", paper_balance=Decimal(10000)
    )
    balances_refresh(account.pk)
    feed = make_feed(venue.market)
    session = session_create(
        TradingSession(
            account=account, config=make_config(account.owner, feed), sizing_method="FIXED_QUOTE",
            sizing_amount=Decimal(1000), stop_loss_percent=Decimal(1), take_profit_percent=Decimal(2),
        )
    )  # fmt: skip
    session_start(session.pk)
    falling_then_up = [50000.0 - i * 10 for i in range(20)] + [51000.0]
    venue.simulator.control("market/BTC-USDT/candles", candles=minute_candles(falling_then_up, START_MS))
    venue.advance(60)

    feed_collect(feed.pk)
    signals_fan_out(feed_evaluate(feed.pk))
    entry = Order.objects.get()
    orders_value([entry.pk])
    order_submit(entry.pk)
    orders_follow([entry.pk])

    entry.refresh_from_db()
    assert (entry.order_type, entry.status) == (OrderType.MARKET, OrderStatus.CLOSED)
    assert entry.execution == Execution.FULLY_EXECUTED
    assert Position.objects.get().status == PositionStatus.OPEN

    venue.price("52200")
    assert prices_watch() == 1
    exit_order = Order.objects.get(is_exit=True)
    order_submit(exit_order.pk)
    orders_follow([exit_order.pk])
    session_stop(session.pk)
    sessions_track([session.pk])
    balances_refresh(account.pk)

    position = Position.objects.get()
    session.refresh_from_db()
    totals = dict(PaperBalance.objects.values_list("currency", "total"))
    assert (position.status, session.status) == (PositionStatus.CLOSED, SessionStatus.STOPPED)
    assert position.realized_pnl > 0
    assert totals == {"USDT": 10000 + position.realized_pnl, "BTC": 0}
    assert account.balances.get(currency="USDT").total == totals["USDT"]
    assert venue.simulator.oracle()["orders"] == []
