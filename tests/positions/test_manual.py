"""Orders by hand: one for each key, valued like all others, and against what is held an exit."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.utils import timezone

from domain.exit_plan import ExitPlan
from domain.market import OrderType, Side
from domain.orders import Denial, OrderStatus
from exchanges.models import Account, Exchange, Market
from money.halts import halt_trip
from money.services import orders_value
from orders.models import Order
from positions import manual
from positions.manual import KeyAlreadyUsed, ManualAsk, manual_order, manual_session_ensure, order_cancel_by_hand
from positions.models import Intent, ManualRequest, Position, PositionStatus
from positions.services import sessions_track
from sessions.models import SessionStatus, TradingSession
from sessions.services import UnableToCommand, session_suspend
from tests.conftest import Bells
from tests.factories import (
    finish,
    make_account,
    make_exchange,
    make_fill,
    make_limits,
    make_market,
    make_open_position,
    make_order,
    make_position,
    make_quote,
    make_session,
)
from tests.race import at_once

pytestmark = pytest.mark.django_db
# For what other connections are to see, and for bells, which ring after a commit.
committed = pytest.mark.django_db(transaction=True)

S = OrderStatus
BUY, SELL = Side.BUY, Side.SELL


@pytest.fixture
def account(bells: Bells) -> Account:
    account = make_account()
    make_limits(account)
    make_quote(make_market(account.exchange))
    return account


def market_of(account: Account) -> Market:
    return make_market(account.exchange)


def ask(key: str = "k1", side: Side = BUY, **words: Any) -> ManualAsk:
    if "amount" not in words:
        words.setdefault("quantity", Decimal("0.02"))
    return ManualAsk(key=key, side=side, **words)


def place(account: Account, *args: Any, **words: Any) -> Order:
    order, is_new = manual_order(account, market_of(account), ask(*args, **words), actor="alice")
    assert is_new
    return order


def hold(account: Account, quantity: str = "0.02", **words: Any) -> Position:
    """A position entered by hand, as the tracker leaves it."""
    order = place(account, "entry", quantity=Decimal(quantity), **words)
    orders_value([order.pk])
    order.refresh_from_db()
    finish(order)
    sessions_track([TradingSession.objects.get().pk])
    position = Position.objects.get()
    assert (position.status, position.quantity) == (PositionStatus.OPEN, Decimal(quantity))
    return position


@committed
def test_an_order_by_hand_is_a_position_to_be_in_a_session_of_its_own(account: Account, bells: Bells) -> None:
    order = place(account, exits={"stop_loss_percent": "3"})

    session, position = TradingSession.objects.get(), Position.objects.get()
    assert (session.status, session.config.strategy, session.name) == (
        SessionStatus.ACTIVE, "manual", "by hand BTC/USDT on main",
    )  # fmt: skip
    assert (position.status, position.session, position.side) == (PositionStatus.PENDING, session, "LONG")
    assert position.exit_plan == ExitPlan(stop_loss_percent=Decimal(3))
    assert (order.status, order.quantity, order.side, order.reason) == (S.REQUESTED, Decimal("0.02"), "BUY", "MANUAL")
    assert Intent.objects.get(pk=order.intent_id).position == position
    assert session.has_exposure
    assert bells.rung("money.value") == [{"order_ids": [order.pk]}]


def test_without_exits_nothing_is_left_that_was_not_asked_for(account: Account) -> None:
    place(account)

    plan = Position.objects.get().exit_plan
    assert (plan.stop_loss_percent, plan.targets) == (None, ())


def test_the_wish_is_what_is_valued_and_no_more(account: Account) -> None:
    order = place(account)

    orders_value([order.pk])

    order.refresh_from_db()
    assert (order.status, order.quantity) == (S.READY, Decimal("0.02"))


@pytest.mark.parametrize("price", ["49999.9", "33333.3", "7.7"])
def test_a_wish_that_fits_is_not_cut_by_arithmetic(account: Account, price: str) -> None:
    order = place(account, order_type=OrderType.LIMIT, price=Decimal(price), quantity=Decimal("0.12347"))

    orders_value([order.pk])

    order.refresh_from_db()
    assert (order.status, order.quantity, order.price) == (S.READY, Decimal("0.12347"), Decimal(price))


def test_a_limit_cuts_the_wish_and_a_full_account_denies_it(account: Account) -> None:
    make_limits(account, max_exposure=Decimal(500))
    cut = place(account)
    orders_value([cut.pk])
    cut.refresh_from_db()
    assert (cut.status, cut.quantity) == (S.READY, Decimal("0.00994"))

    denied = place(account, "k2")
    orders_value([denied.pk])

    denied.refresh_from_db()
    assert (denied.status, denied.reason) == (S.DENIED, Denial.MAX_EXPOSURE)


def test_under_a_halt_an_entry_by_hand_is_denied_and_an_exit_goes(account: Account) -> None:
    hold(account)
    halt_trip("HALT", "news", account_id=account.pk)

    entry = place(account, "more")
    orders_value([entry.pk])
    entry.refresh_from_db()
    sessions_track([TradingSession.objects.get().pk])
    leave = place(account, "leave", SELL)

    assert (entry.status, entry.reason) == (S.DENIED, Denial.HALTED)
    assert (leave.status, leave.is_exit) == (S.READY, True)


def test_an_amount_becomes_whole_lots_at_the_orders_price(account: Account) -> None:
    at_market = place(account, amount=Decimal("333"))
    limited = place(account, "k2", amount=Decimal("333"), order_type=OrderType.LIMIT, price=Decimal("40000"))

    assert (at_market.quantity, limited.quantity) == (Decimal("0.00666"), Decimal("0.00832"))


@committed
def test_the_same_key_is_the_same_order_however_it_is_written(account: Account, bells: Bells) -> None:
    order = place(account, quantity=Decimal("0.02"), exits={"stop_loss_percent": "3"})
    bells.clear()

    again, is_new = manual_order(
        account, market_of(account), ask(quantity=Decimal("0.0200"), exits={"stop_loss_percent": "3"})
    )

    assert (again, is_new) == (order, False)
    assert (Order.objects.count(), Position.objects.count(), TradingSession.objects.count()) == (1, 1, 1)
    assert bells.rung("money.value") == []


def test_another_wish_under_the_same_key_is_refused(account: Account) -> None:
    order = place(account)

    with pytest.raises(KeyAlreadyUsed, match=f"wanted a new key for a new order, was 'k1', which order {order.pk} has"):
        place(account, quantity=Decimal("0.03"))

    assert Order.objects.count() == 1


def test_the_same_key_on_another_account_is_another_order(account: Account) -> None:
    other = make_account(name="other")

    assert place(account) != place(other)
    assert TradingSession.objects.count() == 2


@committed
def test_ten_requests_with_one_key_at_once_are_one_order(account: Account) -> None:
    market = market_of(account)

    results = at_once([lambda: manual_order(account, market, ask())] * 10)

    assert {order.pk for order, _ in results} == {Order.objects.get().pk}
    assert sorted(is_new for _, is_new in results) == [False] * 9 + [True]
    assert (ManualRequest.objects.count(), Position.objects.count(), TradingSession.objects.count()) == (1, 1, 1)


@committed
def test_one_key_on_two_markets_at_once_is_one_order_and_one_refusal(account: Account) -> None:
    markets = [market_of(account), make_market(account.exchange, "ETH/USDT")]

    results = at_once([lambda market=market: manual_order(account, market, ask()) for market in markets])

    assert sorted(type(result).__name__ for result in results) == ["KeyAlreadyUsed", "tuple"]
    assert Order.objects.count() == 1


@committed
def test_ten_orders_at_once_share_one_session_and_position(account: Account) -> None:
    market = market_of(account)

    results = at_once([lambda n=n: manual_order(account, market, ask(f"k{n}")) for n in range(10)])

    assert all(is_new for _, is_new in results)
    assert (TradingSession.objects.count(), Position.objects.count(), Order.objects.count()) == (1, 1, 10)
    assert sorted(Intent.objects.values_list("step", flat=True)) == list(range(10))


def test_an_order_in_the_positions_direction_adds_to_it(account: Account) -> None:
    position = hold(account)

    order = place(account, "more")
    orders_value([order.pk])
    order.refresh_from_db()
    finish(order, price="40000")
    sessions_track([position.session_id])

    position.refresh_from_db()
    assert (position.quantity, position.entry_price) == (Decimal("0.04"), Decimal(45000))
    with pytest.raises(ValidationError, match="the position keeps its own exits"):
        place(account, "more exits", exits={"stop_loss_percent": "1"})


@committed
def test_a_part_is_sold_at_once_and_the_rest_is_kept(account: Account, bells: Bells) -> None:
    position = hold(account)
    bells.clear()

    order = place(account, "half", SELL, quantity=Decimal("0.01"))

    assert (order.status, order.is_exit, order.reason, order.quantity) == (S.READY, True, "MANUAL", Decimal("0.01"))
    intent = Intent.objects.get(pk=order.intent_id)
    assert (intent.purpose, intent.step) == ("BY_HAND", 0)
    assert bells.rung("exits.submit") == [{"order_ids": [order.pk]}]
    finish(order)
    sessions_track([position.session_id])
    position.refresh_from_db()
    assert (position.status, position.quantity, position.exit_reason) == (PositionStatus.OPEN, Decimal("0.01"), "")
    assert Intent.objects.get(pk=place(account, "quarter", SELL, quantity=Decimal("0.005")).intent_id).step == 1


def test_all_of_it_is_sold_and_the_tracker_carries_it_through(account: Account) -> None:
    position = hold(account)

    order = place(account, "leave", SELL)
    finish(order, S.REJECTED)
    sessions_track([position.session_id])

    second = Order.objects.filter(is_exit=True).latest("pk")
    assert second != order
    assert (second.status, second.intent_id, second.reason) == (S.READY, order.intent_id, "MARKET_EXIT")
    finish(second)
    sessions_track([position.session_id])
    position.refresh_from_db()
    assert (position.status, position.exit_reason) == (PositionStatus.CLOSED, "MARKET_EXIT")


def test_after_a_round_trip_the_next_order_opens_a_new_position(account: Account) -> None:
    position = hold(account)
    finish(place(account, "leave", SELL))
    sessions_track([position.session_id])

    place(account, "again")

    assert list(Position.objects.order_by("pk").values_list("status", flat=True)) == ["CLOSED", "PENDING"]
    assert TradingSession.objects.count() == 1


@pytest.mark.parametrize(
    ("words", "field", "message"),
    [
        ({"quantity": Decimal("0.03")}, "quantity", "wanted at most what is held, 0.02, was 0.03"),
        ({"amount": Decimal(1500)}, "amount", "wanted at most what is held, 0.02, was 1500"),
        (
            {"order_type": OrderType.LIMIT, "price": Decimal(60000)}, "order_type",
            "wanted MARKET to leave a position, was LIMIT",
        ),
        ({"exits": {"stop_loss_percent": 1}}, "exits", "wanted none for an order that leaves a position"),
    ],
)  # fmt: skip
def test_an_exit_that_does_not_fit_is_refused_by_field(
    account: Account, words: dict[str, Any], field: str, message: str
) -> None:
    hold(account)

    with pytest.raises(ValidationError) as caught:
        place(account, "leave", SELL, **words)

    assert caught.value.message_dict == {field: [message]}
    assert Order.objects.count() == 1


def test_nothing_held_is_nothing_to_sell_on_spot(account: Account) -> None:
    with pytest.raises(ValidationError) as caught:
        place(account, side=SELL)

    assert caught.value.message_dict == {
        "side": ["wanted BUY, was SELL: 'by hand BTC/USDT on main' holds nothing of BTC"]
    }
    assert not Position.objects.exists()


def test_all_is_not_left_while_an_entry_is_at_work(account: Account) -> None:
    hold(account)
    resting = place(account, "more", order_type=OrderType.LIMIT, price=Decimal(40000))

    with pytest.raises(UnableToCommand, match=f"order {resting.pk} is: cancel it first"):
        place(account, "leave", SELL)
    order_cancel_by_hand(resting.pk)

    assert place(account, "leave", SELL).status == S.READY


def test_nothing_is_added_to_or_taken_from_a_position_that_is_being_left(account: Account) -> None:
    hold(account)
    place(account, "leave", SELL)

    for side in (BUY, SELL):
        with pytest.raises(UnableToCommand, match="wanted a position that"):
            place(account, "late", side)


@pytest.mark.parametrize(
    ("words", "field", "message"),
    [
        ({"quantity": None}, "quantity", "wanted quantity or amount, was neither"),
        ({"amount": Decimal(1), "quantity": Decimal(1)}, "quantity", "wanted quantity or amount, was both"),
        ({"quantity": Decimal(0)}, "quantity", "wanted at least 0.00001, was 0"),
        ({"quantity": Decimal("0.000015")}, "quantity", "wanted a multiple of 0.00001, was 0.000015"),
        ({"amount": Decimal("0.1")}, "amount", "wanted at least 0.5 at this price, was 0.1"),
        ({"amount": Decimal(-1)}, "amount", "wanted more than 0, was -1"),
        ({"price": Decimal(1)}, "price", "wanted none for a MARKET order, was 1"),
        ({"order_type": OrderType.LIMIT}, "price", "wanted the price of a LIMIT order, was none"),
        ({"order_type": OrderType.LIMIT, "price": Decimal("1.05")}, "price", "wanted a multiple of 0.1, was 1.05"),
        ({"order_type": OrderType.LIMIT, "price": Decimal(0)}, "price", "wanted a multiple of 0.1, was 0"),
        ({"stop_price": Decimal(1)}, "stop_price", "wanted none for a MARKET order, was 1"),
        ({"order_type": OrderType.STOP}, "stop_price", "wanted the stop price of a STOP order, was none"),
        ({"leverage": Decimal(3)}, "leverage", "wanted 1 to 1 on BTC/USDT, was 3"),
        ({"exits": {"stop_loss": 3}}, "exits", "stop_loss: Extra inputs are not permitted"),
    ],
)  # fmt: skip
def test_a_wish_that_makes_no_sense_is_refused_by_field(
    account: Account, words: dict[str, Any], field: str, message: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        place(account, **words)

    assert caught.value.message_dict == {field: [message]}
    assert not Order.objects.exists()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: make_market(make_exchange("other")), "wanted a market of simulator, was BTC/USDT at other"),
        (lambda: make_market(symbol="BTC/EUR"), "wanted a market quoted in USDT, was BTC/EUR"),
        (
            lambda: make_market(symbol="OLD/USDT", is_active=False),
            "wanted a market that is traded, was OLD/USDT at simulator, which is not",
        ),
    ],
)
def test_a_market_that_does_not_fit_the_account_is_refused(
    account: Account, build: Callable[[], Market], message: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        manual_order(account, build(), ask())

    assert caught.value.message_dict == {"market": [message]}


def test_a_stop_order_says_from_which_side_the_market_comes(account: Account) -> None:
    above = place(account, order_type=OrderType.STOP, stop_price=Decimal(60000))
    below = place(account, "k2", order_type=OrderType.STOP, stop_price=Decimal(40000), price=Decimal(40100))

    assert (above.order_type, above.stop_price, above.trigger, above.price) == ("STOP", 60000, "RISING", None)
    assert (below.trigger, below.price) == ("FALLING", 40100)


def test_a_stop_order_is_refused_where_the_venue_rests_none(account: Account) -> None:
    Exchange.objects.update(ccxt_id="kraken")
    account.exchange.refresh_from_db()

    with pytest.raises(ValidationError) as refused:
        place(account, order_type=OrderType.STOP, stop_price=Decimal(60000))

    assert refused.value.message_dict == {
        "order_type": ["wanted MARKET or LIMIT, was STOP: no stop order can be sent to simulator"]
    }


def test_a_contract_is_sold_short_with_leverage_and_bought_back_reduce_only(account: Account) -> None:
    market = market_of(account)
    Market.objects.update(kind=Market.Kind.LINEAR_FUTURE)
    market.refresh_from_db()

    entry, _ = manual_order(account, market, ask(side=SELL, leverage=Decimal(3)))
    position = Position.objects.get()
    assert (position.side, position.leverage, entry.leverage, entry.position_side) == ("SHORT", 3, 3, "SHORT")
    finish(entry)
    sessions_track([position.session_id])
    leave, _ = manual_order(account, market, ask("leave", BUY))

    assert (leave.side, leave.is_exit, leave.is_reduce_only, leave.position_side) == ("BUY", True, True, "SHORT")
    with pytest.raises(ValidationError, match="wanted 1 to 125"):
        manual_order(account, market, ask("k2", side=SELL, leverage=Decimal(126)))


def test_a_session_that_was_stopped_is_started_again_and_one_that_is_suspended_is_not(account: Account) -> None:
    session_id = manual_session_ensure(account, market_of(account))
    TradingSession.objects.update(status=SessionStatus.STOPPED)
    assert manual_session_ensure(account, market_of(account)) == session_id
    session_suspend(session_id)

    with pytest.raises(UnableToCommand, match="to be ACTIVE, was SUSPENDED"):
        place(account)

    assert not Order.objects.exists()


def test_what_is_held_is_sold_by_hand_whatever_the_session_takes(account: Account) -> None:
    position = hold(account)
    session_suspend(position.session_id)

    assert place(account, "leave", SELL).status == S.READY


def test_what_was_sold_and_is_not_added_up_yet_is_not_sold_twice(account: Account) -> None:
    hold(account)
    finish(place(account, "half", SELL, quantity=Decimal("0.01")))

    with pytest.raises(ValidationError) as caught:
        place(account, "leave", SELL, quantity=Decimal("0.02"))

    assert caught.value.message_dict == {"quantity": ["wanted at most what is held, 0.01, was 0.02"]}


def test_a_paused_account_takes_no_order(account: Account) -> None:
    Account.objects.update(status=Account.Status.PAUSED, status_reason="keys")
    account.refresh_from_db()

    with pytest.raises(UnableToCommand, match="wanted an active account, was PAUSED: keys"):
        place(account)

    assert not TradingSession.objects.exists()


def test_an_entry_is_cancelled_once_and_its_position_is_let_go(account: Account) -> None:
    order = place(account)

    order_cancel_by_hand(order.pk, actor="alice")
    order_cancel_by_hand(order.pk, actor="alice")
    sessions_track([TradingSession.objects.get().pk])

    order.refresh_from_db()
    assert order.status == S.CANCELED
    assert Position.objects.get().status == PositionStatus.ABANDONED


def test_an_order_at_the_venue_is_asked_to_be_cancelled_there() -> None:
    order = make_order(make_position(make_session()), status=S.OPENED)

    order_cancel_by_hand(order.pk)

    order.refresh_from_db()
    assert (order.status, order.is_cancel_wanted) == (S.OPENED, True)


def test_what_has_ended_an_exit_and_somebody_elses_order_are_not_cancelled() -> None:
    position = make_open_position(make_session())
    done = Order.objects.get()
    leaving = make_order(position, "EXIT", status=S.READY)
    foreign = make_order(make_position(make_session(make_account(name="b"))), status=S.OPENED, is_foreign=True)

    for order, words in (
        (done, "to cancel an order it must be .* was CLOSED"),
        (leaving, "it must be an entry of ours, was an exit, which is carried through"),
        (foreign, "it must be an entry of ours, was somebody else's order"),
    ):
        with pytest.raises(UnableToCommand, match=words):
            order_cancel_by_hand(order.pk)

    assert not Order.objects.filter(is_cancel_wanted=True).exists()


def test_an_amount_without_any_price_says_so(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    market = make_market(account.exchange, "ETH/USDT")
    asked: list[Any] = []
    monkeypatch.setattr(manual, "quotes_refresh", lambda *args: asked.append(args))

    with pytest.raises(UnableToCommand, match="wanted a price of ETH/USDT"):
        manual_order(account, market, ask(amount=Decimal(100)))

    assert asked == [(account.exchange_id, ["ETH/USDT"])]


def test_a_fill_that_comes_before_the_exit_is_ready_is_part_of_it(account: Account) -> None:
    """The tracker has not added up the last fill yet: what is held is what it has added up."""
    position = hold(account)
    more = place(account, "more")
    orders_value([more.pk])
    more.refresh_from_db()
    make_fill(more, quantity="0.02")
    Order.objects.filter(pk=more.pk).update(status=S.CLOSED, closed_at=timezone.now())

    part = place(account, "leave", SELL)
    finish(part)
    sessions_track([position.session_id])
    sessions_track([position.session_id])

    position.refresh_from_db()
    left = Order.objects.filter(is_exit=True).latest("pk")
    assert (position.quantity, left.status, left.quantity) == (Decimal("0.02"), S.READY, Decimal("0.02"))
