"""A short on contracts with every door opened by hand, from its signal to the last digit of the venue's books."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from domain.candles import Timeframe
from domain.orders import OrderStatus
from domain.strategy import SignalKind
from exchanges.accounts import balances_refresh
from exchanges.models import Balance
from marketdata.models import Candle
from marketdata.services import feed_collect
from money.services import orders_value
from orders.fundings import fundings_read
from orders.models import Funding, Order
from orders.services import order_submit
from positions.contracts import contracts_read, fundings_count
from positions.models import Position, PositionStatus
from positions.reconciliation import account_reconcile
from positions.services import orders_follow, signals_fan_out
from positions.watch import prices_watch
from tests.contracts import FuturesVenue
from tests.factories import make_feed, make_signal
from tests.venue import START_MS

START_AT = datetime.fromtimestamp(START_MS / 1000, tz=UTC)


def test_a_short_on_contracts_is_entered_funded_and_left_and_the_books_are_the_venue_s(futures: FuturesVenue) -> None:
    session = futures.session(
        leverage=Decimal(3), signals_after=START_AT - timedelta(hours=1), stop_loss_percent=Decimal(5),
        take_profit_percent=Decimal(2),
    )  # fmt: skip
    session.full_clean()
    make_feed(futures.market, Timeframe.M1, is_needed=True, next_due_at=session.started_at)
    assert feed_collect(session.config.feed_id) > 200

    signals_fan_out([make_signal(session.config, SignalKind.ENTER_SHORT, closed_at=START_AT).pk])
    entry = Order.objects.get()
    orders_value([entry.pk])
    order_submit(entry.pk)
    orders_follow([entry.pk])
    contracts_read(futures.account.pk)

    position = Position.objects.get()
    # 1,000 USDT are twenty contracts of 50.
    assert (position.status, position.side, position.quantity) == (PositionStatus.OPEN, "SHORT", 20)
    assert (position.entry_price, position.stop_price, position.target_price) == (50_000, 52_500, 49_000)
    # (1000 + 333.33) / (20 * 0.001 * 1.005), on the tick below
    assert position.liquidation_price == Decimal("66334.9")
    [held] = futures.books["positions"]
    assert (held["currentQty"], held["leverage"], held["marginMode"]) == (-20, 3, "ISOLATED")

    assert account_reconcile(futures.account.pk) == []
    futures.advance(8 * 3600)
    assert fundings_read(futures.account.pk) == 1
    fundings_count(list(Funding.objects.values_list("pk", flat=True)))
    futures.price("49000")
    assert prices_watch() == 1
    leave = Order.objects.get(is_exit=True)
    assert (leave.is_reduce_only, leave.leverage) == (True, 3)
    order_submit(leave.pk)
    orders_follow([leave.pk])
    balances_refresh(futures.account.pk)

    position.refresh_from_db()
    assert (position.status, position.exit_reason, position.exit_price) == ("CLOSED", "TAKE_PROFIT", 49_000)
    books = futures.books
    # Gained 20, got 0.1 of funding, paid 0.6 and 0.588 of fees.
    assert (position.funding, position.fees) == (Decimal("0.1"), Decimal("1.188"))
    assert position.realized_pnl == Decimal("18.912") == futures.wallet() - 10_000
    assert sum(Decimal(fill["realised"]) for fill in books["fills"]) == 20
    assert sum(Decimal(row["funding"]) for row in books["funding"]) == position.funding
    usdt = Balance.objects.get(account=futures.account, currency="USDT")
    assert (usdt.total, usdt.free) == (futures.wallet(), futures.wallet())
    assert [(order["side"], order["leverage"], order["reduceOnly"]) for order in books["orders"]] == [
        ("sell", "3", False), ("buy", "3", True)
    ]  # fmt: skip
    assert Order.objects.filter(status=OrderStatus.CLOSED).count() == 2
    assert account_reconcile(futures.account.pk) == []
    assert not Candle.objects.filter(open_at__gte=START_AT).exists()
