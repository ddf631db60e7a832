"""What the workers do between a signal and a position, one verb after the other, and what must be true of the books after."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from domain.market import PositionSide
from domain.orders import OrderStatus
from domain.strategy import SignalKind
from money.services import orders_value
from orders.models import Order
from orders.services import order_submit
from positions.models import Position
from positions.services import orders_follow, sessions_track, signals_fan_out
from positions.watch import prices_watch, sessions_tick
from sessions.models import TradingSession
from tests.contracts import FuturesVenue
from tests.factories import KEY, make_config, make_feed, make_session, make_signal
from tests.venue import START_MS, Venue

START_AT = datetime.fromtimestamp(START_MS / 1000, tz=UTC)


def session_with(venue: Venue, exits: dict[str, Any], **fields: Any) -> TradingSession:
    """A session that leaves nothing to its strategy: these are all its exits. It asks for 0.02 BTC, or 20 contracts."""
    config = make_config(venue.account.owner, make_feed(venue.market))
    plan = {"stop_loss_percent": None, "targets": [], **exits}
    defaults = {"sizing_amount": Decimal("1000.05"), "signals_after": START_AT - timedelta(hours=1)}
    session = make_session(venue.account, config, exits=plan, **{**defaults, **fields})
    session.full_clean()
    return session


def say(session: TradingSession, kind: SignalKind = SignalKind.ENTER_LONG, minute: int = 0, **fields: Any) -> None:
    """The strategy speaks about the candle that closed ``minute`` minutes after the start, and the session hears it."""
    signal = make_signal(session.config, kind, closed_at=START_AT + timedelta(minutes=minute), **fields)
    signals_fan_out([signal.pk])


def carry_out() -> None:
    """Value, send and follow whatever waits for it."""
    waiting = Order.objects.filter(status=OrderStatus.REQUESTED).order_by("pk")
    orders_value(list(waiting.values_list("pk", flat=True)))
    for order_id in Order.objects.filter(status=OrderStatus.READY).order_by("pk").values_list("pk", flat=True):
        order_submit(order_id)
        orders_follow([order_id])


def entered(
    session: TradingSession, kind: SignalKind = SignalKind.ENTER_LONG, minute: int = 0, **fields: Any
) -> Position:
    """The open position of the session after it was told to enter."""
    say(session, kind, minute, **fields)
    carry_out()
    position = Position.objects.get(session=session)
    assert position.status == "OPEN", position.status
    return position


def watched(venue: Venue, price: str) -> None:
    """The price goes there, the watch sees it, and what that sets off is carried out."""
    venue.price(price)
    prices_watch()
    carry_out()


def exits_of(position: Position) -> list[tuple[str, Decimal]]:
    """The position's exits in the order in which they were made: why, and how much."""
    intents = position.intents.exclude(purpose="ENTRY").values_list("pk", flat=True)
    orders = Order.objects.filter(intent_id__in=list(intents), status=OrderStatus.CLOSED).order_by("pk")
    return [(order.reason, order.filled) for order in orders]


def assert_closed(venue: Venue, position: Position, reason: str, *quantities: str) -> None:
    """It was left for that reason in orders of these quantities; the venue has exactly our orders, executed our fills, and
    its money is what we say; and looking again changes nothing."""
    position.refresh_from_db()
    assert (position.status, position.exit_reason, position.quantity) == ("CLOSED", reason, position.dust)
    made = exits_of(position)
    assert [filled for _, filled in made] == [Decimal(quantity) for quantity in quantities]
    assert not made or made[-1][0] == reason
    before = _books(venue, position)
    prices_watch()
    sessions_tick([position.session_id])
    sessions_track([position.session_id])
    carry_out()
    position.refresh_from_db()
    assert _books(venue, position) == before


def said_in_tests(names: Mapping[str, Any], pattern: str) -> set[str]:
    """What the pattern's group finds in the tests among a module's ``names``, those about completeness left out."""
    tests = [one for name, one in names.items() if name.startswith("test_") and not name.startswith("test_every_")]
    return {found for test in tests for found in re.findall(pattern, inspect.getsource(test))}


def _books(venue: Venue, position: Position) -> list[tuple[str, Decimal]]:
    """Side and quantity of every order of the account, after the venue's books were found to be ours."""
    orders = list(Order.objects.filter(account=position.account).order_by("pk"))
    assert all(order.status == OrderStatus.CLOSED for order in orders), [order.status for order in orders]
    ours = [(order.side.lower(), order.filled) for order in orders]
    fills = sorted((fill.side.lower(), fill.quantity) for order in orders for fill in order.fills.all())
    if isinstance(venue, FuturesVenue):
        there, funds = venue.books, venue.wallet()
        assert not [one for one in there["positions"] if one["currentQty"]]
    else:
        there, funds = venue.simulator.oracle(apiKey=KEY), venue.balance("USDT")
        assert venue.balance("BTC") == position.dust
    assert [(one["side"], Decimal(one["size"])) for one in there["orders"]] == ours
    assert sorted((one["side"], Decimal(one["size"])) for one in there["fills"]) == fills
    assert funds == 10_000 + position.realized_pnl
    assert position.entered == sum(
        size for side, size in fills if side == PositionSide(position.side).entry_side.lower()
    )
    return ours
