"""Why an order got its quantity, as the pages show it."""

from __future__ import annotations

from decimal import Decimal

from django.contrib.auth.models import User
from django.test import Client

from money.models import Valuation
from money.services import orders_value
from orders.models import Order
from tests.admin.conftest import url_of, words_of
from tests.factories import make_account, make_limits, make_order, make_position, make_quote, make_session


def test_a_valuation_shows_every_limit_and_what_the_size_was_computed_from(desk: Client, alice: User) -> None:
    account = make_account(alice)
    make_limits(account, max_exposure=Decimal(503))
    order = make_order(make_position(make_session(account)))
    make_quote(order.market)
    orders_value([order.pk])
    valuation = Valuation.objects.get()

    pages = [
        words_of(desk.get(url_of(Valuation, "change", valuation.pk))),
        words_of(desk.get(url_of(Order, "change", order.pk))),
    ]

    for page in pages:
        assert "max_exposure CUT 0 503 503 500 quote" in page
        assert "stop loss percent 2" in page
        assert "method FIXED_QUOTE" in page
        assert "price_margin" not in page  # and not as JSON, too
