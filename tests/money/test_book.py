"""An account's book: equity, what is free, what is at work, exact at every moment of an order's life."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone

from domain.orders import OrderStatus
from exchanges.models import Account, Balance, Market
from money.book import AccountBook, account_book
from orders.models import Fill, Order
from positions.models import Position
from positions.tasks import track
from sessions.models import TradingSession
from tests.factories import (
    finish,
    make_account,
    make_balance,
    make_fill,
    make_open_position,
    make_order,
    make_position,
    make_quote,
    make_session,
)

pytestmark = pytest.mark.django_db

D = Decimal


def book(account: Account) -> AccountBook:
    found = account_book(account)
    assert found is not None
    return found


def numbers(account: Account) -> tuple[Decimal | int, Decimal | int, Decimal | int, int]:
    found = book(account)
    return found.equity, found.free_balance, found.exposure, found.open_positions


@pytest.fixture
def account() -> Account:
    """10,000 USDT, read just now."""
    return make_account()


@pytest.fixture
def session(account: Account) -> TradingSession:
    session = make_session(account)
    make_quote(session.config.feed.market, "50000")
    return session


def entry(session: TradingSession, status: str = OrderStatus.READY, **fields: Any) -> Order:
    return make_order(make_position(session), status=status, **{"reserved": D(1006), **fields})


def test_an_account_that_does_nothing_is_worth_its_balance(account: Account) -> None:
    assert numbers(account) == (10000, 10000, 0, 0)


def test_a_balance_never_read_is_no_book() -> None:
    assert account_book(make_account(usdt=None)) is None


def test_a_currency_the_venue_does_not_list_is_a_balance_of_nothing(account: Account) -> None:
    Balance.objects.all().delete()

    assert numbers(account) == (0, 0, 0, 0)


def test_an_order_not_valued_yet_takes_no_place(account: Account, session: TradingSession) -> None:
    entry(session, OrderStatus.REQUESTED, reserved=0)

    assert numbers(account) == (10000, 10000, 0, 0)


@pytest.mark.parametrize("status", [OrderStatus.READY, OrderStatus.SUBMITTING, OrderStatus.UNKNOWN, OrderStatus.OPENED])
def test_an_entry_at_work_reserves_what_it_may_cost(
    account: Account, session: TradingSession, status: OrderStatus
) -> None:
    entry(session, status)

    assert numbers(account) == (10000, D(8994), 1006, 1)


@pytest.mark.parametrize(("opened", "free"), [(-1, "9099"), (1, "8199")])
def test_what_the_venue_has_set_aside_for_a_limit_is_not_taken_off_again(
    account: Account, session: TradingSession, opened: int, free: str
) -> None:
    """0.02 at 45,000, and 1 for the fee: of an order that was there when it was asked the venue has set 900 aside. One that
    came later it cannot have known."""
    balance = make_balance(account, "10000", free="9100")
    entry(
        session, OrderStatus.OPENED, order_type="LIMIT", price=D(45000), reserved=D(901),
        opened_at=balance.read_at + timedelta(seconds=opened),
    )  # fmt: skip

    assert numbers(account) == (10000, D(free), 901, 1)


def test_half_a_limit_that_rests_sets_the_other_half_aside(account: Account, session: TradingSession) -> None:
    order = entry(session, OrderStatus.OPENED, order_type="LIMIT", price=D(45000), reserved=D("900.9"))
    make_fill(order, quantity="0.01", price="45000", fee="0.45")
    Fill.objects.update(recorded_at=timezone.now() - timedelta(minutes=1))
    Order.objects.update(opened_at=timezone.now() - timedelta(minutes=1))
    make_balance(account, "9549.55", free="9099.55")

    # 450.9 are still reserved, of which the venue has 450 already.
    assert numbers(account)[:2] == (D("10049.55"), D("9098.65"))


@pytest.mark.parametrize(
    "status", [OrderStatus.DENIED, OrderStatus.REJECTED, OrderStatus.CANCELED, OrderStatus.NOT_PLACED]
)
def test_an_entry_that_came_to_nothing_reserves_nothing(
    account: Account, session: TradingSession, status: OrderStatus
) -> None:
    entry(session, status, reserved=0)

    assert numbers(account) == (10000, 10000, 0, 0)


def test_a_fill_moves_money_from_the_balance_to_what_is_held(account: Account, session: TradingSession) -> None:
    order = entry(session, OrderStatus.OPENED)
    make_fill(order, "0.01", "50000", fee="0.5")

    # 500.5 paid; 506 of the 1,006 still reserved; 0.01 BTC held, the position not folded yet.
    assert numbers(account) == (D("9999.5"), 10000 - D("500.5") - 506, 506 + 500, 1)


def test_filled_and_not_folded_is_the_same_book_as_folded(account: Account, session: TradingSession) -> None:
    order = entry(session)
    finish(order)
    before = numbers(account)

    track([session.pk])

    assert Position.objects.get().status == "OPEN"
    assert before == numbers(account) == (9999, D(8999), 1000, 1)


def test_a_second_fill_counts_before_it_is_folded(account: Account, session: TradingSession) -> None:
    order = entry(session, OrderStatus.OPENED)
    make_fill(order, "0.01", "50000", fee="0")
    track([session.pk])
    make_fill(order, "0.01", "50000", fee="0")
    Order.objects.update(status=OrderStatus.CLOSED, reserved=0)

    assert numbers(account) == (10000, 9000, 1000, 1)


def test_an_open_position_is_worth_the_last_price(account: Account, session: TradingSession) -> None:
    position = make_open_position(session)
    make_quote(position.market, "51000")

    assert numbers(account) == (10000 - 1001 + D(1020), 8999, 1020, 1)


def test_a_reading_of_the_balance_takes_the_place_of_the_fills_before_it(
    account: Account, session: TradingSession
) -> None:
    make_open_position(session)
    make_balance(account, "8999")

    assert numbers(account) == (9999, 8999, 1000, 1)


def test_a_sold_position_is_the_same_book_before_and_after_its_fold(account: Account, session: TradingSession) -> None:
    position = make_open_position(session)
    finish(make_order(position, "EXIT", OrderStatus.READY), price="50500")
    before = numbers(account)

    track([session.pk])

    assert Position.objects.get().status == "CLOSED"
    assert before == numbers(account) == (10008, 10008, 0, 0)


def test_a_half_sold_position_counts_its_other_half(account: Account, session: TradingSession) -> None:
    position = make_open_position(session)
    make_fill(make_order(position, "EXIT", OrderStatus.OPENED, sent_at=timezone.now()), "0.01", "50000", fee="0")

    assert numbers(account) == (9999, 8999 + 500, 500, 1)


@pytest.mark.parametrize(("is_sent_before", "proceeds"), [(False, 1000), (True, 0)])
def test_a_sale_the_balance_may_show_already_is_not_counted_twice(
    account: Account, session: TradingSession, is_sent_before: bool, proceeds: int
) -> None:
    position = make_open_position(session)
    read_at = timezone.now()
    Fill.objects.update(recorded_at=read_at - timedelta(seconds=1))
    make_balance(account, "9000")
    Balance.objects.update(read_at=read_at)
    sent_at = read_at + timedelta(milliseconds=-5 if is_sent_before else 5)
    finish(make_order(position, "EXIT", OrderStatus.READY, sent_at=sent_at), price="50000")
    Fill.objects.filter(side="SELL").update(fee=0)

    assert numbers(account) == (9000 + proceeds, 9000 + proceeds, 0, 0)


def test_a_sale_under_way_when_the_balance_was_read_is_not_counted_as_held_too(
    account: Account, session: TradingSession
) -> None:
    position = make_open_position(session)
    Fill.objects.update(recorded_at=timezone.now() - timedelta(seconds=2))
    make_order(position, "EXIT", OrderStatus.OPENED, sent_at=timezone.now() - timedelta(seconds=1))
    make_balance(account, "10000")  # the venue has booked the sale; we have not seen its fill

    assert numbers(account) == (10000, 10000, 1000, 1)


def test_a_purchase_the_balance_may_show_already_is_taken_off_all_the_same(
    account: Account, session: TradingSession
) -> None:
    order = entry(session, OrderStatus.OPENED, sent_at=timezone.now() - timedelta(seconds=1))
    make_balance(account, "9000")
    make_fill(order, "0.02", "50000", fee="0")

    assert book(account).free_balance == 9000 - 1000 - 6


def test_fees_in_another_currency_do_not_touch_this_one(account: Account, session: TradingSession) -> None:
    order = entry(session, OrderStatus.CLOSED, reserved=0)
    make_fill(order, "0.02", "50000", fee="0.1", fee_currency="KCS")

    assert book(account).free_balance == 9000


def test_accounts_do_not_see_each_other(account: Account, session: TradingSession) -> None:
    other = make_account(name="other")
    make_open_position(make_session(other))

    assert numbers(account) == (10000, 10000, 0, 0)
    assert numbers(other) == (9999, 8999, 1000, 1)


# -- contracts -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def short(account: Account) -> Position:
    """A short of 20 contracts of 0.001 at 50,000, levered by 4: 1,000 of notional, a margin of 250, a fee of 1."""
    session = make_session(account)
    market = session.config.feed.market
    Market.objects.filter(pk=market.pk).update(kind=Market.Kind.LINEAR_FUTURE, contract_size=D("0.001"), lot_size=1)
    make_quote(market, "50000")
    position = make_open_position(session, quantity="20")
    Position.objects.filter(pk=position.pk).update(side="SHORT", stop_price=51000, leverage=4)
    Order.objects.update(side="SELL", position_side="SHORT", leverage=4, quantity=20)
    Fill.objects.update(side="SELL")
    position.refresh_from_db()
    return position


def test_contracts_cost_a_margin_and_are_worth_what_they_have_won(account: Account, short: Position) -> None:
    assert numbers(account) == (9999, 10000 - 250 - 1, 1000, 1)

    make_quote(short.market, "49000")

    assert numbers(account) == (9999 + D(20), 9749, 980, 1)
    assert book(account).seen.net_exposure == -980


def test_a_short_risks_what_lies_between_the_price_and_its_stop_above(account: Account, short: Position) -> None:
    make_quote(short.market, "49000")

    assert round(book(account).seen.open_risk, 12) == 40  # 2,000 of 49,000, of 980


def test_closing_contracts_brings_the_margin_back_and_what_was_won(account: Account, short: Position) -> None:
    order = make_order(short, "EXIT", OrderStatus.READY, side="BUY", quantity=20, leverage=4)
    finish(order, filled="10", price="48000")

    # Half of it won 20 and gave 125 of margin back, for a fee of 1; the other half is worth 500 at the last price.
    assert numbers(account) == (10000 - 1 + 20 - 1, 9749 + 125 + 20 - 1, 500, 1)


def test_a_reading_takes_the_place_of_what_contracts_changed_before_it(account: Account, short: Position) -> None:
    make_balance(account, "9999", free="9749")
    make_quote(short.market, "51000")

    assert numbers(account) == (9999 - D(20), 9749, 1020, 1)


def test_an_entry_of_contracts_at_work_reserves_its_margin_and_counts_whole(account: Account, short: Position) -> None:
    Fill.objects.all().delete()
    Order.objects.update(status=OrderStatus.OPENED, filled=0, filled_quote=0, reserved=D("256"))
    Position.objects.update(status="PENDING", quantity=0, entered=0, stop_price=None)

    # 1,000 * (1/4 + 0.006) are reserved for it; it counts with what slippage and fee may add.
    assert numbers(account) == (10000, 9744, 1006, 1)


def test_half_an_entry_of_contracts_reserves_half(account: Account, short: Position) -> None:
    Fill.objects.all().delete()
    Order.objects.update(status=OrderStatus.OPENED, filled=0, filled_quote=0, reserved=D("256"))
    Position.objects.update(status="PENDING", quantity=0, entered=0, entry_price=0, stop_price=None)
    make_fill(Order.objects.get(), "10", "50000", fee="0")

    assert numbers(account) == (10000, 10000 - 125 - 128, 500 + 503, 1)
