"""Valuations, read-only; and the pages of orders and fills with what only this floor sees: their session and their value."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from unfold.contrib.filters.admin import TextFilter
from unfold.decorators import display

import money.equity_admin  # the pages of the equity curve register themselves
import money.halt_admin  # noqa: F401  # the pages of halts register themselves
from domain.orders import DENIAL_TEXTS, Denial
from money.models import Valuation
from orders.admin import FillPage, OrderPage
from orders.models import Fill, Order
from pipeline.pages import BADGES, Fact, LongPage, OwnRelatedFilter, Sections, Table, badge, link, plain, table
from positions.models import Intent
from sessions.models import TradingSession


class VerdictFilter(admin.SimpleListFilter):
    title = "verdict"
    parameter_name = "verdict"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(verdict, verdict) for verdict in Valuation.verdicts()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Valuation]) -> QuerySet[Valuation]:
        return queryset.filter(verdict=self.value()) if self.value() else queryset


@admin.register(Valuation)
class ValuationPage(LongPage):
    owner_path = "order__account__owner"
    list_display = (
        "decided_at", "order", "verdict_shown", "price", "equity", "free_balance", "exposure", "open_positions", "wanted",
        "capped", "quantity",
    )  # fmt: skip
    list_select_related = ("order__account__owner",)
    list_filter = (VerdictFilter, ("order__account", OwnRelatedFilter))
    search_fields = ("order__client_order_id",)
    ordering = ("-id",)
    hidden = ("sizing", "checks")  # shown as tables

    @display(description="verdict", ordering="verdict", label=BADGES)
    def verdict_shown(self, valuation: Valuation) -> str:
        return valuation.verdict

    def sections(self, request: HttpRequest, row: Valuation) -> Sections:
        facts = [verdict(row), Fact("Order", link(row.order)), Fact("Quantity", plain(row.quantity))]
        return Sections(facts, [limits_table(row), sizing_table(row)])


def limits_table(valuation: Valuation) -> Table:
    """Every limit as it was measured."""
    headers = ("Limit", "Verdict", "Before", "After", "Bound", "Room", "Unit")
    rows = (
        (
            check["limit"], badge(check["verdict"]), check["before"], check["after"], check["bound"],
            "-" if check["room"] is None else check["room"], check["unit"],
        )
        for check in valuation.checks
    )  # fmt: skip
    return table("Limits", headers, rows)


def sizing_table(valuation: Valuation) -> Table:
    """What the size was computed from."""
    rows = ((name.replace("_", " "), "-" if value is None else str(value)) for name, value in valuation.sizing.items())
    return table("Sizing", ("Fact", "Value"), rows)


def verdict(valuation: Valuation) -> Fact:
    """What was decided, and in words why not."""
    is_denial = valuation.verdict in list(Denial)
    return Fact("Verdict", badge(valuation.verdict), DENIAL_TEXTS[Denial(valuation.verdict)] if is_denial else "")


class OfSession(TextFilter):  # type: ignore[misc]  # unfold has no types
    """Rows of one session, by its number. Rows of somebody else's session are not in the list to begin with."""

    title = "session number"
    parameter_name = "session"
    intent_path = "intent_id"

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = (self.value() or "").strip()
        if not value:
            return queryset
        is_id = value.isascii() and value.isdigit() and len(value) < 19  # more would not fit the column
        intents = Intent.objects.filter(position__session=int(value) if is_id else 0).values("pk")
        return queryset.filter(**{f"{self.intent_path}__in": intents})


class FillOfSession(OfSession):
    intent_path = "order__intent_id"


def with_session(rows: QuerySet[Any], intent_path: str) -> QuerySet[Any]:
    """The rows with the number and name of the session they belong to."""
    intent = Intent.objects.filter(pk=OuterRef(intent_path))
    columns = {"session_pk": "position__session", "session_name": "position__session__name"}
    found: QuerySet[Any] = rows.annotate(**{name: Subquery(intent.values(path)[:1]) for name, path in columns.items()})
    return found


def session_link(row: Any) -> str:
    """The page of the session that a row belongs to."""
    return link(TradingSession(pk=row.session_pk), row.session_name) if row.session_pk else "-"


admin.site.unregister(Order)
admin.site.unregister(Fill)


@admin.register(Order)
class ValuedOrderPage(OrderPage):
    list_display = (*OrderPage.list_display[:2], "session", *OrderPage.list_display[2:])
    list_filter = (OfSession, *OrderPage.list_filter)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Order]:
        return with_session(super().get_queryset(request), "intent_id")

    @admin.display(description="session")
    def session(self, order: Any) -> str:
        return session_link(order)

    def sections(self, request: HttpRequest, row: Any) -> Sections:
        sections = super().sections(request, row)
        sections.facts.insert(1, Fact("Session", session_link(row)))
        valued = Valuation.objects.filter(order=row).first()
        if valued is not None:
            amounts = (
                valued.price, valued.equity, valued.free_balance, valued.exposure, valued.open_positions, valued.wanted,
                valued.capped, valued.quantity,
            )  # fmt: skip
            cells = [valued.decided_at, link(valued, badge(valued.verdict)), *amounts]
            headers = (
                "Decided at", "Verdict", "Price", "Equity", "Free balance", "Exposure", "Open positions", "Wanted", "Capped",
                "Quantity",
            )  # fmt: skip
            sections.tables[:0] = [table("Valuation", headers, [cells]), limits_table(valued), sizing_table(valued)]
        return sections


@admin.register(Fill)
class SessionFillPage(FillPage):
    list_display = (*FillPage.list_display[:2], "session", *FillPage.list_display[2:])
    list_filter = (FillOfSession, *FillPage.list_filter)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Fill]:
        return with_session(super().get_queryset(request), "order__intent_id")

    @admin.display(description="session")
    def session(self, fill: Any) -> str:
        return session_link(fill)
