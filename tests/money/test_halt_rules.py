"""Rules that halt an account by themselves: each with the figure that just does and the one that just does not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone

from domain.orders import OrderStatus
from exchanges.models import Account
from money import halt_rules, tasks
from money.halt_rules import GRACE, RULES, Look, rules_watch
from money.halts import halt_lift
from money.history import day_start_equity
from money.models import EquityPoint, TradingHalt
from orders.models import Fill, Order
from positions.models import Position
from tests.conftest import Bells
from tests.factories import (
    events,
    let_pass,
    make_account,
    make_balance,
    make_fill,
    make_limits,
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
MINUTE = timedelta(minutes=1)
# A day with a midnight behind it, whenever the test runs.
AFTERNOON = datetime(2024, 5, 1, 15, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _bells(bells: Bells) -> None:
    """Every test rings into an empty broker."""


def worth(account: Account, equity: str, at: datetime, peak: str | None = None) -> None:
    EquityPoint.objects.create(
        account=account, currency="USDT", at=at, equity=Decimal(equity), peak=Decimal(peak or equity)
    )


def limited_account(usdt: str, **limits: str) -> Account:
    account = make_account(usdt=usdt)
    make_limits(account, **{name: Decimal(value) for name, value in limits.items()})
    return account


def trading_account(usdt: str, **limits: str) -> Account:
    return make_session(limited_account(usdt, **limits)).account


def bought_before_the_balance_was_read(row: Position | Order, usdt: str) -> None:
    Fill.objects.filter(account=row.account).update(recorded_at=timezone.now() - timedelta(hours=1))
    make_balance(row.account, usdt)


def traded_since(account: Account) -> None:
    """Something that the last point does not know, and the balance does."""
    order = make_order(make_position(account.sessions.get(), "CLOSED"), "EXIT", status=S.CLOSED)
    bought_before_the_balance_was_read(make_fill(order).order, str(account.balances.get().total))


def tripped() -> list[tuple[int | None, str, str, str]]:
    return [(halt.account_id, halt.rule, halt.mode, halt.cause) for halt in TradingHalt.objects.order_by("pk")]


@pytest.mark.parametrize(("usdt", "is_broken"), [("9500", False), ("9499.99", True)])
def test_more_lost_since_midnight_than_the_limit_halts_the_account(usdt: str, is_broken: bool) -> None:
    account = trading_account(usdt, max_daily_loss_percent="5")
    worth(account, "20000", AFTERNOON - timedelta(hours=16))  # an older day's figure
    worth(account, "10000", AFTERNOON - timedelta(hours=15))  # midnight
    worth(account, "12000", AFTERNOON - timedelta(hours=3))
    traded_since(account)

    assert rules_watch(AFTERNOON) == int(is_broken)

    cause = "5.00 % lost today, wanted at most 5 %: equity was 10000.00 and is 9499.99"
    assert tripped() == ([(account.pk, "DAILY_LOSS", "HALT", cause)] if is_broken else [])


def test_without_a_figure_from_before_midnight_the_first_one_since_counts() -> None:
    account = trading_account("9000", max_daily_loss_percent="5")
    worth(account, "9400", AFTERNOON - timedelta(hours=2))
    worth(account, "20000", AFTERNOON - timedelta(hours=1))
    traded_since(account)
    assert rules_watch(AFTERNOON) == 0

    EquityPoint.objects.filter(equity=Decimal(9400)).update(equity=Decimal(9600))

    assert rules_watch(AFTERNOON) == 1


def test_what_an_account_was_worth_days_ago_is_no_figure_of_today() -> None:
    account = trading_account("9500", max_daily_loss_percent="5")
    worth(account, "20000", AFTERNOON - timedelta(days=3))  # and then half of it was moved elsewhere
    traded_since(account)
    assert rules_watch(AFTERNOON) == 0
    assert day_start_equity(account, AFTERNOON) is None

    worth(account, "10001", AFTERNOON - timedelta(hours=2))

    assert day_start_equity(account, AFTERNOON) == 10001
    assert rules_watch(AFTERNOON) == 1


def test_what_is_not_realised_counts_as_lost() -> None:
    account = limited_account("9000", max_daily_loss_percent="5")
    worth(account, "10000", AFTERNOON - timedelta(hours=16))
    # Bought for 1,000; worth 400 now: 9,400 in all.
    position = make_open_position(make_session(account))
    bought_before_the_balance_was_read(position, "9000")
    make_quote(position.market, "20000")

    assert rules_watch(AFTERNOON) == 1
    assert "equity was 10000.00 and is 9400.00" in tripped()[0][3]


@pytest.mark.parametrize(("usdt", "is_broken"), [("9000", False), ("8999.99", True)])
def test_further_below_the_peak_than_the_limit_halts_the_account(usdt: str, is_broken: bool) -> None:
    account = trading_account(usdt, max_drawdown_percent="25")
    worth(account, "9500", AFTERNOON - MINUTE, peak="12000")
    traded_since(account)

    assert rules_watch(AFTERNOON) == int(is_broken)

    cause = "25.00 % below the peak, wanted at most 25 %: equity was 12000.00 and is 8999.99"
    assert tripped() == ([(account.pk, "DRAWDOWN", "HALT", cause)] if is_broken else [])


def test_where_nothing_is_held_and_nothing_was_traded_the_last_point_tells(django_assert_num_queries: Any) -> None:
    account = trading_account("1", max_daily_loss_percent="5")
    worth(account, "10000", AFTERNOON - timedelta(hours=16))
    worth(account, "9500", AFTERNOON - MINUTE)
    with django_assert_num_queries(2 * len(RULES)):
        assert rules_watch(AFTERNOON) == 0

    worth(account, "9499", AFTERNOON)

    assert rules_watch(AFTERNOON) == 1


def test_an_account_without_limits_or_figures_is_left_alone() -> None:
    trading_account("1")
    account = make_account(name="b", usdt="1")
    make_limits(account, max_daily_loss_percent=Decimal(5), max_drawdown_percent=Decimal(5))
    make_session(account)

    assert rules_watch(AFTERNOON) == 0


def test_an_account_on_which_nothing_runs_is_left_alone() -> None:
    account = make_account(usdt="1")
    make_limits(account, max_daily_loss_percent=Decimal(5))
    worth(account, "10000", AFTERNOON - timedelta(hours=16))

    assert rules_watch(AFTERNOON) == 0


def test_an_equity_in_doubt_halts_nobody() -> None:
    """An exit was sent before the balance was read: what it brings may be in there or not, for a second."""
    account = limited_account("9000", max_daily_loss_percent="5")
    position = make_open_position(make_session(account))
    make_quote(position.market)
    worth(account, "10000", AFTERNOON - timedelta(hours=16))
    leaving = make_order(position, "EXIT", status=S.OPENED, sent_at=timezone.now())
    bought_before_the_balance_was_read(position, "9000")

    assert rules_watch(AFTERNOON) == 0

    # Sold at half its price, and the fill is recorded after the reading: the book leaves out what may be in it already.
    make_fill(leaving, price="25000")
    Order.objects.update(status=S.CLOSED)
    assert rules_watch(AFTERNOON) == 0

    Fill.objects.update(recorded_at=timezone.now() - timedelta(hours=1))
    make_balance(account, "9499")
    assert rules_watch(AFTERNOON) == 1


def test_ten_rejections_in_five_minutes_halt_the_account() -> None:
    position = make_position(make_session())
    now = timezone.now()
    for seconds in range(10):
        make_order(position, status=S.REJECTED, closed_at=now - timedelta(seconds=seconds))
    first = Order.objects.order_by("closed_at")[0]
    Order.objects.filter(pk=first.pk).update(closed_at=now - 5 * MINUTE)
    make_order(make_position(make_session(make_account(name="b"))), status=S.REJECTED, closed_at=now)
    assert rules_watch(now) == 0

    Order.objects.filter(pk=first.pk).update(closed_at=now - 5 * MINUTE + timedelta(seconds=1))

    assert rules_watch(now) == 1
    cause = "10 orders rejected in 5 minutes, wanted fewer than 10"
    assert tripped() == [(position.account_id, "REJECTIONS", "HALT", cause)]


def test_an_order_unknown_for_five_minutes_halts_the_account() -> None:
    order = make_order(make_position(make_session()), status=S.UNKNOWN, sent_at=timezone.now())
    let_pass(order, 299)
    assert rules_watch() == 0

    let_pass(order, 2)

    assert rules_watch() == 1
    assert tripped()[0][:3] == (order.account_id, "UNKNOWN_ORDER", "HALT")
    assert order.client_order_id in tripped()[0][3]


def test_a_broken_rule_trips_once_and_again_only_after_it_was_lifted_and_given_time() -> None:
    order = make_order(make_position(make_session()), status=S.UNKNOWN, sent_at=timezone.now())
    let_pass(order, 600)
    assert [rules_watch(), rules_watch()] == [1, 0]

    halt_lift(TradingHalt.objects.get().pk, "the venue looks into it", actor="alice")
    assert rules_watch() == 0
    TradingHalt.objects.update(lifted_at=timezone.now() - GRACE - timedelta(seconds=1))

    assert [rules_watch(), rules_watch()] == [1, 0]
    assert len(tripped()) == 2
    assert len(events("alerts", alert="HALT_TRIPPED", rule="UNKNOWN_ORDER")) == 2


def test_the_guard_trips_what_is_broken() -> None:
    order = make_order(make_position(make_session()), status=S.UNKNOWN, sent_at=timezone.now())
    let_pass(order, 600)

    tasks.guard()
    tasks.guard()

    assert [row[1] for row in tripped()] == ["UNKNOWN_ORDER"]


@committed
def test_two_guards_at_once_trip_one_halt() -> None:
    order = make_order(make_position(make_session()), status=S.UNKNOWN, sent_at=timezone.now())
    let_pass(order, 600)

    at_once([rules_watch] * 4)

    assert len(tripped()) == 1


def test_a_rule_that_fails_does_not_keep_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(look: Look) -> dict[int, str]:
        raise RuntimeError("broken")

    odd = halt_rules.Rule("ODD", "fails", failing)
    monkeypatch.setattr(halt_rules, "RULES", (odd, *RULES))
    order = make_order(make_position(make_session()), status=S.UNKNOWN, sent_at=timezone.now())
    let_pass(order, 600)

    assert rules_watch() == 1


def test_every_rule_is_short_enough_for_its_column_and_says_what_it_means() -> None:
    assert all(len(rule.name) <= 24 and rule.meaning.endswith(".") for rule in RULES)
    assert len({rule.name for rule in RULES}) == len(RULES)
