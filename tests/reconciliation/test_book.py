"""What others trade on an account, as sizing sees it until the next reading of the balance."""

from __future__ import annotations

from decimal import Decimal

import pytest
from django.utils import timezone

from money.book import account_book
from tests.factories import make_account, make_fill, make_order, make_position, make_session


@pytest.mark.django_db
@pytest.mark.parametrize(("is_foreign", "free"), [(True, Decimal(10000)), (False, Decimal(10999))])
def test_a_sale_of_others_is_not_counted_twice_for_it_is_found_after_it_was_made(
    is_foreign: bool, free: Decimal
) -> None:
    account = make_account()
    position = make_position(make_session(account), status="CLOSED")
    sale = make_order(position, purpose="EXIT", status="CLOSED", sent_at=timezone.now(), is_foreign=is_foreign)
    make_fill(sale, fee="1")

    book = account_book(account)

    assert book is not None
    assert book.free_balance == free
