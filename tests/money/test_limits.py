"""What entries are sized by and held to: stored figures, sizes, additions, the past; and asking without placing."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from django.utils import timezone

from domain.orders import Denial, OrderStatus
from money import services
from money.book import account_book
from money.models import Valuation
from money.tasks import value
from orders.models import Order
from positions.models import Position
from sessions.models import SessionStatus
from tests.factories import (
    let_pass,
    make_account,
    make_limits,
    make_open_position,
    make_order,
    make_position,
    make_session,
)
from tests.money.stages import (
    added_to,
    at_price,
    by_record,
    check_of,
    lost,
    requested,
    session_of,
    signalled,
    under,
    valued,
    was_worth,
)

pytestmark = pytest.mark.django_db

D = Decimal

# -- what the decision log keeps -----------------------------------------------------------------------------------------


def test_each_limit_that_is_set_is_stored_with_its_figures_and_its_verdict() -> None:
    order = under(requested(), max_open_positions=5, max_exposure=D(503), max_market_exposure_percent=D(50))

    valued(order)

    assert order.quantity == D("0.01")
    assert check_of(order, "max_exposure") == {
        "limit": "max_exposure", "code": "MAX_EXPOSURE", "unit": "quote", "before": "0", "after": "503", "bound": "503",
        "margin": "0", "room": "500", "verdict": "CUT",
    }  # fmt: skip
    assert check_of(order, "max_open_positions") == {
        "limit": "max_open_positions", "code": "MAX_OPEN_POSITIONS", "unit": "count", "before": "0", "after": "1",
        "bound": "5", "margin": "4", "room": None, "verdict": "PASSED",
    }  # fmt: skip
    market = check_of(order, "max_market_exposure_percent")
    assert (market["bound"], market["verdict"]) == ("5000", "PASSED")


def test_a_stop_however_near_risks_what_slippage_and_fee_take() -> None:
    order = under(requested(stop_loss_percent=D("0.01")), max_risk_per_trade_percent=D("0.03"))

    # 0.6 % of what is entered may be 3 of 10,000 at most.
    assert valued(order).quantity == D("0.01")
    assert check_of(order, "max_risk_per_trade_percent")["after"] == "3"


def test_a_denial_is_stored_with_what_the_order_would_have_come_to() -> None:
    order = under(requested(), max_risk_per_trade_percent=D("0.0000001"))

    assert valued(order).reason == Denial.MAX_RISK_PER_TRADE
    check = check_of(order, "max_risk_per_trade_percent")
    assert (check["before"], check["after"], check["bound"], check["verdict"]) == ("0", "20", "0.00001", "DENIED")


def test_what_a_size_was_computed_from_is_stored() -> None:
    order = requested(sizing_method="RISK_PER_TRADE", sizing_amount=D("0.5"), stop_loss_percent=D("2.5"))

    valued(order)

    assert order.valuation.sizing == {
        "method": "RISK_PER_TRADE", "amount": "0.5", "price": "50000", "stop_loss_percent": "2.5", "price_margin": "0.006",
    }  # fmt: skip


# -- what sizes are computed from ----------------------------------------------------------------------------------------


def test_an_average_range_of_the_signal_says_how_much() -> None:
    order = signalled(requested(sizing_method="VOLATILITY", sizing_amount=D(1)), atr=D(2500))

    # 100 are won or lost when the price moves by its average range of 2,500: 0.04 of them.
    assert valued(order).quantity == D("0.04")


@pytest.mark.parametrize(
    ("is_weighted", "confidence", "quantity"), [(True, "0.25", "0.005"), (True, None, "0.02"), (False, "0.25", "0.02")]
)
def test_confidence_scales_where_the_session_says_so(is_weighted: bool, confidence: str | None, quantity: str) -> None:
    order = requested(is_confidence_weighted=is_weighted)
    signalled(order, confidence=None if confidence is None else D(confidence))

    assert valued(order).quantity == D(quantity)


def test_a_record_says_how_much_and_its_cap_how_much_at_most() -> None:
    order = by_record(requested(), least=10)
    for result in ("20",) * 6 + ("-10",) * 4:
        lost(order, result)
    capped = requested(
        order.account, sizing_method="KELLY", sizing_amount=D(50), kelly_min_trades=10, kelly_cap_percent=D(5)
    )

    valued(order)

    # Six of ten win 2 %, four lose 1 %: 0.6 - 0.4 / 2 = 0.4, half of which is 20 % of 10,000.
    assert order.quantity == D("0.04")
    assert order.valuation.sizing["kelly_percent"] == "20"
    assert valued(capped).reason == Denial.NO_RECORD  # another session's record is no record


def test_the_stop_that_the_signal_names_says_the_risk() -> None:
    order = requested(sizing_method="RISK_PER_TRADE", sizing_amount=D(1))
    Position.objects.update(exits={"is_stop_from_signal": True, "stop_loss_percent": "10"}, signal_stop_price=D(48000))

    assert valued(order).quantity == D("0.05")  # 100 lost when 2,500 fall by 4 %


def test_a_quantity_asked_for_by_hand_is_kept_or_cut_and_never_raised() -> None:
    asked, cut = requested(sizing_amount=D(5000)), requested(sizing_amount=D(5000))
    Order.objects.filter(pk=asked.pk).update(quantity=D("0.004"))
    Order.objects.filter(pk=cut.pk).update(quantity=D("0.02"))
    make_limits(asked.account, max_exposure=D(704))

    assert valued(asked).quantity == D("0.004")
    assert valued(cut).quantity == D("0.00999")
    assert asked.valuation.sizing["method"] == "BY_HAND"


def test_a_limit_order_is_valued_at_its_own_price_and_pays_no_slippage() -> None:
    order = requested(sizing_amount=D(1000))
    at_price(order, "40000")

    assert valued(order).quantity == D("0.025")
    assert order.reserved == 1000 * D("1.001")


# -- positions that are added to -----------------------------------------------------------------------------------------


def test_adding_to_an_open_position_is_no_new_position_and_meets_every_other_limit() -> None:
    account = make_account()
    make_limits(account, max_open_positions=1, max_exposure=D(1503))
    position = make_open_position(make_session(account))
    order = added_to(position)

    valued(order)

    assert (order.status, order.quantity) == (OrderStatus.READY, D("0.01"))
    book = account_book(account)
    assert book is not None
    assert (book.open_positions, book.exposure) == (1, D(1503))


def test_adding_counts_what_the_position_risks_already() -> None:
    account = make_account()
    make_limits(account, max_risk_per_trade_percent=D("0.3"))
    position = make_open_position(make_session(account))  # 1,000, of which 20 are lost at its stop

    order = added_to(position)

    # 0.3 % of 9,999 less 20 leaves 9.997 to lose, at 2 %: 499.85
    assert valued(order).quantity == D("0.00999")
    assert order.valuation.verdict == Valuation.APPROVED


# -- the past that limits look at ----------------------------------------------------------------------------------------


def test_today_s_loss_is_counted_from_the_last_word_before_midnight() -> None:
    order = under(requested(), max_daily_loss_percent=D(2))
    midnight = timezone.now().replace(hour=0, minute=0, second=0, microsecond=0)
    was_worth(order, "10200", at=midnight - timedelta(minutes=1))
    was_worth(order, "30000", at=midnight - timedelta(minutes=2))
    was_worth(order, "10001", at=midnight + timedelta(milliseconds=1))

    valued(order)

    assert order.status == OrderStatus.READY  # 200 of 10,200 are less than 2 %
    check = check_of(order, "max_daily_loss_percent")
    assert (check["before"], check["bound"], check["margin"]) == ("200", "204", "4")


def test_without_a_word_of_before_there_is_no_loss_yet() -> None:
    order = under(requested(), max_daily_loss_percent=D(2), max_drawdown_percent=D(2))

    assert valued(order).status == OrderStatus.READY


@pytest.mark.parametrize(
    ("results", "minutes_ago", "is_let_through"),
    [
        (["-1", "-1"], 10, False),
        (["-1", "-1"], 61, True),
        (["-1", "0"], 10, True),
        (["0", "-1", "-1"], 10, False),
        (["-1"], 10, True),
    ],
)
def test_two_losses_in_a_row_rest_for_an_hour(results: list[str], minutes_ago: int, is_let_through: bool) -> None:
    order = under(requested(), cooldown_losses=2)
    for step, result in enumerate(results):
        lost(order, result, minutes_ago=minutes_ago + len(results) - 1 - step)

    valued(order)

    assert order.reason == ("" if is_let_through else Denial.COOLDOWN)


def test_losses_of_other_sessions_make_the_account_rest() -> None:
    order = under(requested(), cooldown_losses=1)
    other = make_order(make_position(make_session(order.account)))
    lost(other, "-1")

    assert valued(order).reason == Denial.COOLDOWN
    assert check_of(order, "cooldown_losses of session")["verdict"] == "PASSED"


def test_entries_of_the_last_minute_are_counted_within_a_batch_too() -> None:
    account = make_account()
    make_limits(account, max_orders_per_minute=2)
    old, *orders = [requested(account) for _ in range(4)]
    valued(old)
    let_pass(old, 61)

    value([order.pk for order in orders])

    verdicts = list(Valuation.objects.order_by("order_id").values_list("verdict", flat=True))
    assert verdicts == ["APPROVED", "APPROVED", "APPROVED", Denial.MAX_ORDERS_PER_MINUTE]


# -- asking without placing ----------------------------------------------------------------------------------------------


def test_a_quote_says_what_valuing_then_does_and_leaves_nothing_behind() -> None:
    order = under(requested(), max_exposure=D(503))
    session = session_of(order).get()
    position = Position.objects.get()
    Position.objects.filter(pk=position.pk).update(status="ABANDONED")

    told = services.order_quote(session)

    assert (Valuation.objects.count(), Order.objects.count(), Position.objects.count()) == (0, 1, 1)
    assert told.denial is None
    Position.objects.filter(pk=position.pk).update(status="PENDING")
    valued(order)
    assert told.sized is not None
    assert (told.sized.quantity, told.reserved) == (order.quantity, order.reserved)
    assert list(told.checks) == order.valuation.checks


def test_a_quote_of_a_session_that_sleeps_is_refused_as_its_order_would_be() -> None:
    order = requested()
    session_of(order).update(status=SessionStatus.SUSPENDED)

    assert services.order_quote(session_of(order).get()).denial == Denial.SESSION_NOT_ACTIVE
