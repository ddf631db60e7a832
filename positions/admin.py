"""Positions; and the session's page as a trader wants it, for only this floor knows what a session holds and did."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import DecimalField, OuterRef, QuerySet, Subquery, Sum
from django.http import HttpRequest
from unfold.contrib.filters.admin import RangeDateTimeFilter
from unfold.decorators import display
from unfold.enums import ActionVariant

from orders.admin import ORDER_TOPICS, fills_table, orders_table
from orders.models import Fill, Order
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
    actor_of,
    badge,
    batch,
    button,
    link,
    list_url,
    moment,
    plain,
    signed,
    table,
)
from positions.models import LIVE_POSITIONS, Discrepancy, DiscrepancyStatus, Intent, Position, Resolution
from positions.resolutions import CHOICES, UnableToResolve, discrepancy_resolve
from positions.services import session_exit
from sessions.admin import TradingSessionPage
from sessions.models import TRACKED_STATUSES, TradingSession
from sessions.services import UnableToCommand

# Open means that somebody has to decide; of an order or a position it is good news.
DIFFERENCES = {**BADGES, DiscrepancyStatus.OPEN.value: "warning"}
EXIT_QUESTION = "Sells what is held at the market price. The session goes on and may enter again at its next signal."


def _market_exit(request: HttpRequest, session: TradingSession) -> str:
    if session.status not in TRACKED_STATUSES:
        raise UnableToCommand(f"to exit, a session must be {' or '.join(TRACKED_STATUSES)}, was {session.status}")
    if not session_exit(session.pk, actor=actor_of(request)):
        raise UnableToCommand("wanted a session that holds a position, was one that holds none")
    return "asked to leave its position at market"


def _position_exit(request: HttpRequest, position: Position) -> str:
    if position.status not in LIVE_POSITIONS:
        raise UnableToCommand(f"wanted a position that is {' or '.join(LIVE_POSITIONS)}, was {position.status}")
    return _market_exit(request, position.session)


def _decide(request: HttpRequest, row: Discrepancy, choice: Resolution) -> str:
    discrepancy_resolve(row.pk, choice, actor=actor_of(request))
    return f"decided: {choice}"


def _adopt(request: HttpRequest, row: Discrepancy) -> str:
    return _decide(request, row, Resolution.ADOPT)


def _resize(request: HttpRequest, row: Discrepancy) -> str:
    return _decide(request, row, Resolution.RESIZE)


def _close(request: HttpRequest, row: Discrepancy) -> str:
    return _decide(request, row, Resolution.CLOSE)


def _ignore(request: HttpRequest, row: Discrepancy) -> str:
    return _decide(request, row, Resolution.IGNORE)


def orders_of(session_id: int) -> QuerySet[Order]:
    """Every order a session made, the newest first."""
    intents = Intent.objects.filter(position__session=session_id).values("pk")
    return Order.objects.filter(intent_id__in=intents).select_related("market").order_by("-pk")


def positions_table(session: TradingSession) -> Table:
    """A section of what a session held and holds."""
    return table(
        f"Positions, in {session.account.currency}",
        (
            "Position", "Status", "Held", "Entry", "Stop", "Target", "Price", "Unrealized", "Realized", "Exit", "Opened at",
        ),
        (
            (
                link(one, one.pk), badge(one.status), f"{one.side} {plain(one.quantity)}", one.entry_price or None,
                one.stop_price, one.target_price, one.mark_price, signed(one.unrealized_pnl), signed(one.realized_pnl),
                badge(one.exit_reason), one.opened_at,
            )
            for one in session.positions.order_by("-pk")[:SECTION_ROWS]
        ),
        list_url(Position, session__id__exact=session.pk),
    )  # fmt: skip


def journal_table(session: TradingSession, order_ids: list[int]) -> Table:
    """The session's own events and those of its last orders, merged. Two bounded reads along an index each."""
    own = Event.objects.filter(session_id=session.pk).order_by("-at")[:SECTION_ROWS]
    of_orders = Event.objects.filter(topic__in=ORDER_TOPICS, key__in=order_ids).order_by("-at")[:SECTION_ROWS]
    merged = sorted(
        {one.pk: one for one in (*own, *of_orders)}.values(), key=lambda one: (one.at, one.pk), reverse=True
    )
    return events_table("Journal", merged[:SECTION_ROWS], session_id=session.pk)


def pnl_of_session(column: str) -> Subquery:
    """The sum over a session's positions, as a column of the list."""
    sums = Position.objects.filter(session=OuterRef("pk")).order_by().values("session").annotate(total=Sum(column))
    return Subquery(sums.values("total"), output_field=DecimalField())


admin.site.unregister(TradingSession)


@admin.register(TradingSession)
class HoldingSessionPage(TradingSessionPage):
    list_display = (
        "name", "status_shown", "account", "market", "strategy", "unrealized", "realized", "run", "started_at",
    )  # fmt: skip
    actions_detail = (*TradingSessionPage.actions_detail, "market_exit")
    actions = (*TradingSessionPage.actions, "market_exit_selected")

    market_exit = button(
        "Market exit", _market_exit, icon="logout", variant=ActionVariant.DANGER, question=EXIT_QUESTION
    )
    market_exit_selected = batch("Market exit", _market_exit)

    def get_queryset(self, request: HttpRequest) -> QuerySet[TradingSession]:
        sums = {"unrealized_sum": pnl_of_session("unrealized_pnl"), "realized_sum": pnl_of_session("realized_pnl")}
        rows: QuerySet[TradingSession] = super().get_queryset(request).annotate(**sums)
        return rows

    @admin.display(description="unrealized", ordering="unrealized_sum")
    def unrealized(self, session: Any) -> str:
        return signed(session.unrealized_sum, session.account.currency)

    @admin.display(description="realized", ordering="realized_sum")
    def realized(self, session: Any) -> str:
        return signed(session.realized_sum, session.account.currency)

    def is_offered(self, name: str, session: TradingSession) -> bool:
        if name == "market_exit":
            is_tracked = session.status in TRACKED_STATUSES
            return is_tracked and session.positions.filter(status__in=LIVE_POSITIONS, is_exit_wanted=False).exists()
        return super().is_offered(name, session)

    def sections(self, request: HttpRequest, row: Any) -> Sections:
        sections = super().sections(request, row)
        held = row.positions.filter(status__in=LIVE_POSITIONS).select_related("market").first()
        holds = f"{plain(held.quantity)} {held.market.base}" if held else "nothing"
        note = f"at {plain(held.mark_price)}, valued {moment(held.valued_at)}" if held and held.valued_at else ""
        sections.facts[1:1] = [
            Fact("Holds", holds, badge(held.status) if held else ""),
            Fact("Unrealized", self.unrealized(row), note),
            Fact("Realized", self.realized(row)),
        ]
        orders = list(orders_of(row.pk)[:SECTION_ROWS])
        fills = Fill.objects.filter(order__in=orders_of(row.pk).order_by().values("pk")).order_by("-pk")[:SECTION_ROWS]
        sections.tables[:0] = [
            positions_table(row),
            orders_table("Orders", orders, list_url(Order, session=row.pk)),
            fills_table("Fills", fills, list_url(Fill, session=row.pk)),
        ]
        sections.tables.append(journal_table(row, [order.pk for order in orders]))
        return sections


def _after_costs(row: Position) -> str:
    funding = f" and {plain(row.funding)} of funding" if row.funding else ""
    return f"after {plain(row.fees)} {row.market.quote} of fees{funding}"


def _words(reason: str) -> str:
    return reason.replace("_", " ").lower()


def _on_stop(row: Position) -> str:
    if row.unprotected_at:
        return f"not in force since {moment(row.unprotected_at)}"
    best = f", best price {plain(row.best_price)}" if row.best_price is not None else ""
    return f"{_words(row.stop_reason)}{best}"


def _on_target(row: Position) -> str:
    levels = len(row.exit_plan.targets)
    done = f", {row.targets_done} of {levels} levels done" if levels > 1 else ""
    return f"{_words(row.target_reason)}{done}"


@admin.register(Position)
class PositionPage(LongPage):
    owner_path = "account__owner"
    refusals = (UnableToCommand, ValidationError)
    list_display = (
        "id", "session", "symbol", "status_shown", "side", "quantity", "entry_price", "mark_price", "unrealized", "realized",
        "exit_shown", "opened_at",
    )  # fmt: skip
    list_display_links = ("id",)
    list_select_related = ("session", "market__exchange", "account__owner")
    list_filter = (
        "status", "side", "exit_reason", ("session", OwnRelatedFilter),
        ("account", OwnRelatedFilter), ("opened_at", RangeDateTimeFilter),
    )  # fmt: skip
    list_filter_submit = True
    search_fields = ("session__name", "market__symbol")
    ordering = ("-id",)
    actions_detail = ("position_exit",)

    position_exit = button(
        "Market exit",
        _position_exit,
        icon="logout",
        variant=ActionVariant.DANGER,
        question=EXIT_QUESTION,
        permission="exit",
    )

    def has_exit_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Leaving a position is a command to its session."""
        return request.user.has_perm("trading_sessions.change_tradingsession")

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """The exit, while there is something to leave."""
        position = self.get_object(request, str(object_id))
        is_live = position is not None and position.status in LIVE_POSITIONS and not position.is_exit_wanted
        return list(super().get_actions_detail(request, object_id)) if is_live else []

    @admin.display(description="market", ordering="market__symbol")
    def symbol(self, position: Position) -> str:
        return position.market.symbol

    @display(description="status", ordering="status", label=BADGES)
    def status_shown(self, position: Position) -> str:
        return position.status

    @display(description="exit", ordering="exit_reason", label=BADGES)
    def exit_shown(self, position: Position) -> str:
        return position.exit_reason

    @admin.display(description="unrealized", ordering="unrealized_pnl")
    def unrealized(self, position: Position) -> str:
        return signed(position.unrealized_pnl)

    @admin.display(description="realized", ordering="realized_pnl")
    def realized(self, position: Position) -> str:
        return signed(position.realized_pnl)

    def sections(self, request: HttpRequest, row: Position) -> Sections:
        intents = row.intents.values("pk")
        orders = Order.objects.filter(intent_id__in=intents).select_related("market").order_by("-pk")[:SECTION_ROWS]
        fills = Fill.objects.filter(order__intent_id__in=intents).order_by("-pk")[:SECTION_ROWS]
        quote = row.market.quote
        return Sections(
            [
                Fact("Status", badge(row.status), f"left by {row.exit_reason}" if row.exit_reason else ""),
                Fact("Session", link(row.session)),
                Fact("Holds", f"{plain(row.quantity)} {row.market.base}", row.side),
                Fact(
                    "Unrealized",
                    signed(row.unrealized_pnl, quote),
                    f"at {plain(row.mark_price)}, {moment(row.valued_at)}",
                ),
                Fact("Realized", signed(row.realized_pnl, quote), _after_costs(row)),
                Fact("Stop", plain(row.stop_price), _on_stop(row)),
                Fact("Target", plain(row.target_price), _on_target(row)),
            ],
            [orders_table("Orders", orders), fills_table("Fills", fills)],
        )


@admin.register(Discrepancy)
class DiscrepancyPage(LongPage):
    owner_path = "account__owner"
    refusals = (UnableToResolve,)
    list_display = ("id", "kind", "status_shown", "account", "symbol", "said", "was", "detail", "opened_at")
    list_display_links = ("id", "kind")
    list_select_related = ("account__exchange", "account__owner", "market__exchange")
    list_filter = (
        "status", "kind", "resolution", ("account", OwnRelatedFilter), ("opened_at", RangeDateTimeFilter),
    )  # fmt: skip
    list_filter_submit = True
    search_fields = ("subject", "currency", "market__symbol")
    ordering = ("-id",)
    actions_detail = ("adopt", "resize", "close", "ignore")

    adopt = button(
        "Adopt", _adopt, icon="download_done", permission="resolve",
        question="Takes what the venue shows for ours: an order becomes part of the position, a balance our new start.",
    )  # fmt: skip
    resize = button(
        "Resize", _resize, icon="fit_width", permission="resolve",
        question="Fits the position to what the account holds, at the last price. Nothing is traded.",
    )  # fmt: skip
    close = button(
        "Close at market", _close, icon="logout", variant=ActionVariant.DANGER, permission="resolve",
        question="Cancels the order, or trades back at market what it traded; a position is resized and its rest sold.",
    )  # fmt: skip
    ignore = button(
        "Ignore", _ignore, icon="visibility_off", permission="resolve",
        question="Leaves everything as it is, and does not tell of it again.",
    )  # fmt: skip

    def has_resolve_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Deciding what becomes of a holding is a command to its session."""
        return request.user.has_perm("trading_sessions.change_tradingsession")

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """What may be decided about this one, while it is open."""
        row = self.get_object(request, str(object_id))
        if row is None or row.status != DiscrepancyStatus.OPEN:
            return []
        offered = {choice.lower() for choice in CHOICES[row.kind]}
        buttons = super().get_actions_detail(request, object_id)
        return [one for one in buttons if one.action_name.rsplit("_", 1)[-1] in offered]

    @admin.display(description="market", ordering="market__symbol")
    def symbol(self, row: Discrepancy) -> str:
        return row.market.symbol if row.market else row.currency or "-"

    @display(description="status", ordering="status", label=DIFFERENCES)
    def status_shown(self, row: Discrepancy) -> str:
        return row.resolution or row.status

    @admin.display(description="expected", ordering="expected")
    def said(self, row: Discrepancy) -> str:
        return "-" if row.expected is None else f"{plain(row.expected)} {row.currency}"

    @admin.display(description="found", ordering="found")
    def was(self, row: Discrepancy) -> str:
        return "-" if row.found is None else f"{plain(row.found)} {row.currency}"

    def sections(self, request: HttpRequest, row: Discrepancy) -> Sections:
        by = f"by {row.resolved_by}, {moment(row.resolved_at)}" if row.resolved_at else "wants a decision"
        return Sections(
            [
                Fact("Status", badge(row.resolution or row.status, DIFFERENCES), by),
                Fact("Expected", self.said(row), "by our books"),
                Fact("Found", self.was(row), f"at {row.account.exchange.name}"),
                *([Fact("Order", link(row.order))] if row.order else []),
                *([Fact("Position", link(row.position))] if row.position else []),
            ]
        )
