"""Many sessions of one account asking at once: no limit is ever passed, and none is left unused."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from domain.orders import Denial, OrderStatus
from exchanges.models import Account
from money import services
from money.book import account_book
from money.models import Valuation
from orders.models import Order
from tests.factories import (
    make_account,
    make_config,
    make_feed,
    make_limits,
    make_market,
    make_order,
    make_position,
    make_quote,
    make_session,
)
from tests.race import at_once

pytestmark = pytest.mark.django_db(transaction=True)

SESSIONS = 20
# As many as ask at once where a limit has to be met exactly.
MANY = 50


def requests_of(account: Account, number: int, **fields: Any) -> list[Order]:
    feed = make_feed(make_market(account.exchange))
    make_quote(feed.market)
    return [
        make_order(make_position(make_session(account, make_config(account.owner, feed), **fields)))
        for _ in range(number)
    ]


def valuings(orders: list[Order]) -> list[Callable[[], Any]]:
    return [lambda pk=order.pk: services.orders_value([pk]) for order in orders]


def verdicts(account: Account) -> list[str]:
    return sorted(Valuation.objects.filter(order__account=account).values_list("verdict", flat=True))


def test_twenty_sessions_and_a_limit_of_five_positions_make_exactly_five(bells: Any) -> None:
    account = make_account(usdt="100000")
    make_limits(account, max_open_positions=5)
    orders = requests_of(account, SESSIONS)

    at_once(valuings(orders))

    assert verdicts(account) == ["APPROVED"] * 5 + [Denial.MAX_OPEN_POSITIONS] * 15
    assert Order.objects.filter(status=OrderStatus.READY).count() == 5


def test_twenty_sessions_and_a_limit_of_exposure_never_pass_it(bells: Any) -> None:
    account = make_account(usdt="100000")
    make_limits(account, max_exposure=Decimal(5000))
    orders = requests_of(account, SESSIONS)

    at_once(valuings(orders))

    book = account_book(account)
    assert book is not None
    assert Decimal(4999) < book.exposure <= 5000
    assert Order.objects.filter(status=OrderStatus.READY).count() == 5
    assert verdicts(account).count(Denial.MAX_EXPOSURE) == 15


def test_twenty_sessions_never_spend_more_than_there_is(bells: Any) -> None:
    account = make_account(usdt="3000")
    make_limits(account)
    orders = requests_of(account, SESSIONS)

    at_once(valuings(orders))

    book = account_book(account)
    assert book is not None
    assert 0 <= book.free_balance < 1
    assert Order.objects.filter(status=OrderStatus.READY).count() == 3
    assert verdicts(account).count(Denial.INSUFFICIENT_BALANCE) == 17


def test_two_accounts_neither_wait_for_nor_limit_each_other(bells: Any) -> None:
    alice, bob = make_account(usdt="100000"), make_account(name="bob", usdt="100000")
    make_limits(alice, max_open_positions=2)
    make_limits(bob, max_open_positions=3)
    orders = requests_of(alice, 6) + requests_of(bob, 6)

    at_once(valuings(orders))

    assert verdicts(alice) == ["APPROVED"] * 2 + [Denial.MAX_OPEN_POSITIONS] * 4
    assert verdicts(bob) == ["APPROVED"] * 3 + [Denial.MAX_OPEN_POSITIONS] * 3


def test_fifty_requests_at_once_fill_a_limit_of_positions_and_one_of_exposure_exactly(bells: Any) -> None:
    account = make_account(usdt="1000000")
    make_limits(account, max_open_positions=20, max_exposure=Decimal("17604.497"))
    orders = requests_of(account, MANY)

    at_once(valuings(orders), seconds=60)

    # 17 of 1,000 with 0.6 % on top are 17,102; the eighteenth is cut to what is left, which is 502.497 or 499.5 of it.
    book = account_book(account)
    assert book is not None
    assert (book.open_positions, book.exposure) == (18, Decimal("17604.497"))
    assert verdicts(account) == ["APPROVED"] * 18 + [Denial.MAX_EXPOSURE] * 32
    ready = Order.objects.filter(status=OrderStatus.READY).order_by("quantity")
    assert list(ready.values_list("quantity", flat=True)) == [Decimal("0.00999")] + [Decimal("0.02")] * 17


def test_fifty_requests_at_once_fill_a_minute_s_pace_exactly(bells: Any) -> None:
    account = make_account(usdt="1000000")
    make_limits(account, max_orders_per_minute=13)
    orders = requests_of(account, MANY)

    at_once(valuings(orders), seconds=60)

    assert verdicts(account) == ["APPROVED"] * 13 + [Denial.MAX_ORDERS_PER_MINUTE] * 37
