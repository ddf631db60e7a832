"""The equity curve in the admin: its points, read-only, and a small chart on the pages of sessions and accounts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from exchanges.admin import AccountPage
from exchanges.models import Account
from money.equity import curve_thinned
from money.halt_admin import HaltedSessionPage
from money.models import EquityPoint
from pipeline.pages import Fact, LongPage, OwnRelatedFilter, Sections, link, moment, plain, signed
from sessions.models import TradingSession

CHART_POINTS = 100
CHART_WIDTH, CHART_HEIGHT = 160, 40


@admin.register(EquityPoint)
class EquityPage(LongPage):
    list_display = (
        "at", "subject", "equity", "currency", "realized_pnl", "unrealized_pnl", "fees", "funding", "exposure", "peak",
        "drawdown_shown",
    )  # fmt: skip
    list_select_related = ("session", "account__exchange", "owner")
    list_filter = (("account", OwnRelatedFilter), ("session", OwnRelatedFilter))
    ordering = ("-id",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows = super().get_queryset(request)
        if request.user.is_superuser:
            return rows
        user = request.user.pk
        return rows.filter(Q(owner=user) | Q(account__owner=user) | Q(session__account__owner=user))

    @admin.display(description="drawdown")
    def drawdown_shown(self, point: EquityPoint) -> str:
        return plain(point.drawdown) if point.session_id else f"{point.drawdown * 100:.2f} %"

    @admin.display(description="of")
    def subject(self, point: EquityPoint) -> str:
        if point.session is not None or point.account is not None:
            return link(point.session or point.account)
        return f"all of {point.owner}"


class Curved:
    """A page of something with an equity curve: its newest point and, from two on, a chart of all of it."""

    curve_of = ""

    def sections(self, request: HttpRequest, row: Any) -> Sections:
        sections: Sections = super().sections(request, row)  # type: ignore[misc]  # of the page it is mixed into
        curve = EquityPoint.objects.filter(**{self.curve_of: row.pk})
        first, newest = curve.order_by("at").first(), curve.order_by("-at").first()
        if first is not None and newest is not None:
            since = first.at - timedelta(microseconds=1)
            points = curve_thinned(
                self.curve_of, row.pk, newest.currency, since=since, until=newest.at, points=CHART_POINTS
            )
            sections.facts.append(Fact("Equity", self.figure(newest), chart(points)))
        return sections

    def figure(self, newest: EquityPoint) -> Any:
        return f"{plain(newest.equity)} {newest.currency}"


def chart(points: Sequence[EquityPoint]) -> SafeString | str:
    """The points as a line over time, from the lowest equity to the highest; nothing with less than two."""
    if len(points) < 2:
        return ""
    start, seconds = points[0].at, (points[-1].at - points[0].at).total_seconds()
    values = [float(point.equity) for point in points]
    low, reach = min(values), max(values) - min(values)
    line = " ".join(
        f"{(point.at - start).total_seconds() / seconds * CHART_WIDTH:.1f},"
        f"{CHART_HEIGHT * (1 - (value - low) / reach if reach else 0.5):.1f}"
        for point, value in zip(points, values, strict=True)
    )
    return format_html(
        '<svg viewBox="-1 -1 {} {}" class="w-full" role="img" aria-label="Equity from {} to {}">'
        '<polyline points="{}" fill="none" stroke="currentColor" vector-effect="non-scaling-stroke"/></svg>',
        CHART_WIDTH + 2, CHART_HEIGHT + 2, moment(points[0].at), moment(points[-1].at), line,
    )  # fmt: skip


admin.site.unregister(TradingSession)
admin.site.unregister(Account)


@admin.register(TradingSession)
class CurvedSessionPage(Curved, HaltedSessionPage):
    curve_of = "session"

    def figure(self, newest: EquityPoint) -> Any:
        return signed(newest.equity, newest.currency)


@admin.register(Account)
class CurvedAccountPage(Curved, AccountPage):
    curve_of = "account"
