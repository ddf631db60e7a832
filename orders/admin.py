"""Orders and fills, read-only: what was tried, what became of it, and why."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from django.contrib import admin
from django.http import HttpRequest
from unfold.contrib.filters.admin import RangeDateTimeFilter
from unfold.decorators import display

from domain.orders import DENIAL_TEXTS, Denial
from orders.models import Fill, Funding, Order
from pipeline.admin import events_table
from pipeline.models import Event
from pipeline.pages import (
    BADGES,
    SECTION_ROWS,
    Fact,
    LongPage,
    OwnRelatedFilter,
    Sections,
    Table,
    badge,
    link,
    plain,
    table,
)
from pipeline.topics import TOPICS

ORDER_TOPICS = [topic.value for topic, route in TOPICS.items() if route.key == "order"]


def why(order: Order) -> str:
    """Why it was denied, rejected or left off, in words where there are some."""
    text = DENIAL_TEXTS.get(Denial(order.reason), "") if order.reason in list(Denial) else order.reason
    # Of one that was denied or halted the detail says the same.
    return " ".join(dict.fromkeys(part for part in (text, order.detail) if part))


def orders_table(title: str, orders: Iterable[Order], more_url: str = "") -> Table:
    """A section of orders."""
    return table(
        title, ("Requested at", "Order", "Side", "Quantity", "Filled", "Average price", "Status", "Execution", "Why"),
        (
            (
                one.requested_at, link(one, one.pk), badge(one.side), one.quantity, one.filled, one.average_price,
                badge(one.status), badge(one.execution), why(one),
            )
            for one in orders
        ),
        more_url,
    )  # fmt: skip


def fills_table(title: str, fills: Iterable[Fill], more_url: str = "") -> Table:
    """A section of fills."""
    return table(
        title, ("Filled at", "Trade", "Side", "Quantity", "Price", "Fee", "Recorded at"),
        (
            (
                one.filled_at, link(one, one.trade_id), badge(one.side), one.quantity, one.price,
                f"{plain(one.fee)} {one.fee_currency}", one.recorded_at,
            )
            for one in fills
        ),
        more_url,
    )  # fmt: skip


@admin.register(Order)
class OrderPage(LongPage):
    owner_path = "account__owner"
    list_display: Any = (
        "id", "requested_at", "symbol", "side_shown", "quantity", "average", "status_shown", "execution_shown",
        "why_shown",
    )  # fmt: skip
    list_display_links = ("id", "requested_at")
    list_select_related = ("account__exchange", "account__owner", "market__exchange")
    list_filter: ClassVar[Any] = (
        "status", "side", "is_exit", "is_foreign", ("account", OwnRelatedFilter), ("requested_at", RangeDateTimeFilter),
    )  # fmt: skip
    list_filter_submit = True
    search_fields = ("client_order_id", "exchange_order_id", "market__symbol")
    ordering = ("-id",)

    @admin.display(description="market", ordering="market__symbol")
    def symbol(self, order: Order) -> str:
        return order.market.symbol

    @display(description="side", ordering="side", label=BADGES)
    def side_shown(self, order: Order) -> str:
        return order.side

    @display(description="status", ordering="status", label=BADGES)
    def status_shown(self, order: Order) -> str:
        return order.status

    @display(description="execution", label=BADGES)
    def execution_shown(self, order: Order) -> str:
        return order.execution.value

    @admin.display(description="average price")
    def average(self, order: Order) -> str:
        return plain(order.average_price)

    @admin.display(description="why")
    def why_shown(self, order: Order) -> str:
        return why(order) or "-"

    def sections(self, request: HttpRequest, row: Order) -> Sections:
        fills = row.fills.order_by("-filled_at", "-pk")[:SECTION_ROWS]
        events = Event.objects.filter(topic__in=ORDER_TOPICS, key=row.pk).order_by("-at", "-id")[:SECTION_ROWS]
        return Sections(
            [
                Fact("Status", badge(row.status), why(row)),
                Fact("Execution", badge(row.execution), f"{plain(row.filled)} of {plain(row.quantity)}"),
                Fact("Average price", plain(row.average_price), row.market.quote),
                Fact("Side", badge(row.side), "not ours" if row.is_foreign else "exit" if row.is_exit else "entry"),
            ],
            [fills_table("Fills", fills), events_table("Journal", events, key=row.pk)],
        )


@admin.register(Fill)
class FillPage(LongPage):
    owner_path = "account__owner"
    list_display: Any = (
        "filled_at",
        "trade_id",
        "order",
        "account",
        "symbol",
        "side_shown",
        "quantity",
        "price",
        "fee_shown",
    )
    list_select_related = ("account__exchange", "account__owner", "market__exchange", "order")
    list_filter: ClassVar[Any] = (
        "side",
        ("account", OwnRelatedFilter),
        ("filled_at", RangeDateTimeFilter),
    )
    list_filter_submit = True
    search_fields = ("trade_id", "order__client_order_id", "market__symbol")
    ordering = ("-id",)

    @admin.display(description="market", ordering="market__symbol")
    def symbol(self, fill: Fill) -> str:
        return fill.market.symbol

    @display(description="side", ordering="side", label=BADGES)
    def side_shown(self, fill: Fill) -> str:
        return fill.side

    @admin.display(description="fee", ordering="fee")
    def fee_shown(self, fill: Fill) -> str:
        return f"{plain(fill.fee)} {fill.fee_currency}"


@admin.register(Funding)
class FundingPage(LongPage):
    owner_path = "account__owner"
    list_display: Any = ("paid_at", "funding_id", "account", "symbol", "amount_shown", "recorded_at")
    list_select_related = ("account__exchange", "account__owner", "market__exchange")
    list_filter: ClassVar[Any] = (("account", OwnRelatedFilter), ("paid_at", RangeDateTimeFilter))
    list_filter_submit = True
    search_fields = ("funding_id", "market__symbol")
    ordering = ("-id",)

    @admin.display(description="market", ordering="market__symbol")
    def symbol(self, funding: Funding) -> str:
        return funding.market.symbol

    @admin.display(description="paid or received", ordering="amount")
    def amount_shown(self, funding: Funding) -> str:
        return f"{plain(funding.amount)} {funding.currency}"
