"""Whatever is ordered on paper, at whatever prices, the books add up to the last digit."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import cast

import pytest
from django.db import IntegrityError
from django.utils import timezone
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.market import ZERO, OrderType, Side, Trigger
from exchanges.accounts import account_create
from exchanges.gateway import CandleReport, Gateway, OrderRejected, OrderTicket, QuoteReport
from exchanges.models import PaperBalance, PaperFill, PaperOrder
from exchanges.paper_gateway import PaperGateway
from tests.factories import make_exchange, make_market, make_user

SYMBOL = "BTC/USDT"
START = Decimal(1000)
_names = itertools.count(1)


class Prices:
    """The public side of a venue whose one price is set by hand."""

    def __init__(self) -> None:
        self.price = Decimal(50000)

    def quotes(self, symbols: Sequence[str]) -> list[QuoteReport]:
        return [QuoteReport(symbol, self.price, self.price, self.price) for symbol in symbols]

    def candles(self, symbol: str, timeframe: str, since: datetime, limit: int) -> list[CandleReport]:
        return []


lots = st.integers(1, 3000).map(lambda lots: lots * Decimal("0.00001"))
levels = st.integers(400_000, 600_000).map(lambda ticks: ticks * Decimal("0.1"))
steps = st.one_of(
    st.tuples(st.just("price"), levels),
    st.tuples(st.just("cancel"), st.integers(0, 30)),
    st.tuples(
        st.sampled_from(OrderType), st.sampled_from(Side), lots, levels, st.sampled_from(Trigger), levels | st.none()
    ),
)


@given(steps=st.lists(steps, max_size=15))
@settings(max_examples=40, deadline=None)
@pytest.mark.django_db(transaction=True)
def test_any_sequence_of_orders_conserves_the_money(steps: list[tuple[object, ...]]) -> None:
    market = make_market(taker_fee=Decimal("0.00123"), maker_fee=Decimal("0.00077"))
    account = account_create(
        owner=make_user(), exchange=market.exchange, name=f"paper-{next(_names)}", currency="USDT", paper_balance=START
    )
    prices = Prices()
    paper = PaperGateway(market.exchange, account.pk, lambda _: cast(Gateway, prices))
    made: list[str] = []

    for number, step in enumerate(steps):
        if step[0] == "price":
            prices.price = cast(Decimal, step[1])
        elif step[0] == "cancel":
            for order_id in made[cast(int, step[1]) :][:1]:
                paper.order_cancel(SYMBOL, order_id)
        else:
            kind, side, quantity, level, trigger, beyond = cast(
                "tuple[OrderType, Side, Decimal, Decimal, Trigger, Decimal | None]", step
            )
            is_stop = kind is OrderType.STOP
            order = OrderTicket(
                SYMBOL, side, kind, quantity, f"order-{number}", timezone.now(), 5000,
                price=level if kind is OrderType.LIMIT else beyond if is_stop else None,
                stop_price=level if is_stop else None, trigger=trigger if is_stop else None,
            )  # fmt: skip
            try:
                made.append(paper.order_create(order))
            except OrderRejected as error:
                assert error.code in ("INSUFFICIENT_BALANCE", "BELOW_MIN_NOTIONAL")  # noqa: PT017

        holds = {one.currency: one for one in paper.balances()}
        fills = PaperFill.objects.filter(order__account=account).select_related("order")
        signed = [(Side(fill.order.side).sign, fill) for fill in fills]
        paid = sum((sign * fill.quantity * fill.price + fill.fee for sign, fill in signed), ZERO)
        assert holds["USDT"].total == START - paid
        assert (holds["BTC"].total if "BTC" in holds else 0) == sum(sign * fill.quantity for sign, fill in signed)
        assert all(0 <= one.free <= one.total for one in holds.values())
        open_ = PaperOrder.objects.filter(account=account, is_open=True)
        for currency, side in (("USDT", Side.BUY), ("BTC", Side.SELL)):
            held = holds[currency].total - holds[currency].free if currency in holds else ZERO
            assert held == sum((order.held for order in open_.filter(side=side)), ZERO)


@pytest.mark.django_db
@pytest.mark.parametrize(("total", "held"), [("1", "1.000000000000000001"), ("1", "-1"), ("-1", "0")])
def test_the_database_itself_refuses_a_negative_balance(total: str, held: str) -> None:
    account = account_create(
        owner=make_user(), exchange=make_exchange(), name="paper", currency="USDT", paper_balance=START
    )

    with pytest.raises(IntegrityError, match="paper_balance_holds_what_it_has"):
        PaperBalance.objects.filter(account=account).update(total=Decimal(total), held=Decimal(held))
