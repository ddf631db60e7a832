"""The admin's sidebar and front page: where everything is, and how one's own trading stands."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.auth.models import Group, User
from django.db.models import Model, QuerySet, Sum
from django.http import HttpRequest
from django_celery_beat.models import PeriodicTask
from knox.models import AuthToken

from backtesting.models import BacktestRun, Study
from domain.market import ZERO
from exchanges.models import Account, Balance, Exchange, Market, Quote
from marketdata.models import Backfill, CandleGap, CandleRevision, Feed, QuarantinedCandle
from money.models import EquityPoint, TradingHalt, Valuation
from orders.models import Fill, Funding, Order
from pipeline.admin import events_table
from pipeline.models import Event
from pipeline.pages import SECTION_ROWS, Fact, Sections, Table, badge, link, link_to_list, list_url, signed, table
from pipeline.topics import Topic
from positions.models import LIVE_POSITIONS, Discrepancy, DiscrepancyStatus, Position
from sessions.models import TRACKED_STATUSES, SessionGroup, SessionStatus, TradingSession
from strategies.models import Signal, StrategyConfig

Entry = tuple[str, str, type[Model]]

TRADING: tuple[Entry, ...] = (
    ("Sessions", "candlestick_chart", TradingSession),
    ("Groups of sessions", "workspaces", SessionGroup),
    ("Strategy configurations", "tune", StrategyConfig),
    ("Accounts", "account_balance_wallet", Account),
    ("Halts", "emergency_home", TradingHalt),
)
RESULTS: tuple[Entry, ...] = (
    ("Positions", "show_chart", Position),
    ("Discrepancies", "difference", Discrepancy),
    ("Orders", "receipt_long", Order),
    ("Fills", "done_all", Fill),
    ("Funding", "percent", Funding),
    ("Signals", "sensors", Signal),
    ("Valuations", "balance", Valuation),
    ("Equity", "monitoring", EquityPoint),
    ("Balances", "savings", Balance),
    ("Journal", "menu_book", Event),
)
RESEARCH: tuple[Entry, ...] = (("Backtests", "science", BacktestRun), ("Studies", "travel_explore", Study))
MARKETS: tuple[Entry, ...] = (
    ("Exchanges", "lan", Exchange),
    ("Markets", "storefront", Market),
    ("Quotes", "sell", Quote),
    ("Feeds", "rss_feed", Feed),
    ("Backfills", "history", Backfill),
    ("Gaps", "space_bar", CandleGap),
    ("Quarantine", "report", QuarantinedCandle),
    ("Revisions", "published_with_changes", CandleRevision),
)
PLATFORM: tuple[Entry, ...] = (
    ("Users", "person", User),
    ("Groups", "group", Group),
    ("API tokens", "key", AuthToken),
    ("Periodic tasks", "schedule", PeriodicTask),
)


def sidebar(request: HttpRequest) -> list[dict[str, Any]]:
    """What this user may see, by what it is about."""
    return [
        {"title": title, "separator": title != "Trading", "items": [_item(*entry) for entry in entries]}
        for title, entries in (
            ("Trading", TRADING),
            ("Results", RESULTS),
            ("Research", RESEARCH),
            ("Markets", MARKETS),
            ("Platform", PLATFORM),
        )  # fmt: skip
        if any(_may_see(request, model) for _, _, model in entries)
    ]


def front_page(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """The front page's context with one's sessions and positions, superusers' with everybody's."""
    if not _may_see(request, TradingSession):
        return context
    sessions, positions = _own(request, TradingSession), _own(request, Position)
    running = sessions.filter(status__in=TRACKED_STATUSES)
    held = positions.filter(status__in=LIVE_POSITIONS).order_by("-pk")
    differences = _own(request, Discrepancy).filter(status=DiscrepancyStatus.OPEN).count()
    halts = _own(request, TradingHalt).filter(lifted_at=None).count()
    return {
        **context,
        "front": Sections(
            _facts(running, held, positions, differences, halts), [_running(running), _held(held), _alerts(request)]
        ),
        "add_links": [
            ("Halt trading" if model is TradingHalt else f"Add {model._meta.verbose_name}", list_url(model) + "add/")
            for model in (Account, StrategyConfig, TradingSession, TradingHalt)
            if admin.site.get_model_admin(model).has_add_permission(request)
        ],
    }


def _item(title: str, icon: str, model: type[Model]) -> dict[str, Any]:
    return {
        "title": title,
        "icon": icon,
        "link": list_url(model),
        "permission": lambda request: _may_see(request, model),
    }


def _may_see(request: HttpRequest, model: type[Model]) -> bool:
    return admin.site.get_model_admin(model).has_view_permission(request)


def _own(request: HttpRequest, model: type[Model]) -> QuerySet[Any]:
    page = admin.site.get_model_admin(model)
    return page.get_queryset(request).select_related(*(page.list_select_related or ()))  # type: ignore[misc]


def _facts(
    running: QuerySet[Any], held: QuerySet[Any], positions: QuerySet[Any], differences: int, halts: int
) -> list[Fact]:
    active = running.filter(status=SessionStatus.ACTIVE).count()
    sums = positions.aggregate(unrealized=Sum("unrealized_pnl"), realized=Sum("realized_pnl"))
    return [
        Fact("Active sessions", active, f"{running.count() - active} more that are tracked"),
        Fact("Positions held", held.count()),
        Fact("Unrealized", signed(sums["unrealized"] or ZERO), "in the accounts' currencies, added up"),
        Fact("Realized", signed(sums["realized"] or ZERO), "since the beginning, after fees"),
        Fact(
            "Discrepancies",
            link_to_list(Discrepancy, differences, status__exact=DiscrepancyStatus.OPEN) if differences else 0,
            "with the venues, to be decided about",
        ),
        Fact(
            "Halts in force",
            link_to_list(TradingHalt, badge(f"{halts}", {f"{halts}": "danger"}), is_in_force="yes") if halts else 0,
            "until somebody lifts them",
        ),
    ]


def _running(running: QuerySet[Any]) -> Table:
    return table(
        "Sessions at work", ("Session", "Status", "Account", "Unrealized", "Realized", "Why"),
        (
            (
                link(one), badge(one.status), one.account, signed(one.unrealized_sum, one.account.currency),
                signed(one.realized_sum, one.account.currency), one.status_reason,
            )
            for one in running.order_by("-pk")[:SECTION_ROWS]
        ),
        list_url(TradingSession),
    )  # fmt: skip


def _held(held: QuerySet[Any]) -> Table:
    return table(
        "Positions held",
        ("Position", "Session", "Market", "Status", "Quantity", "Entry", "Stop", "Target", "Price", "Unrealized"),
        (
            (
                link(one, one.pk), link(one.session), one.market.symbol, badge(one.status), one.quantity,
                one.entry_price or None, one.stop_price, one.target_price, one.mark_price,
                signed(one.unrealized_pnl, one.market.quote),
            )
            for one in held[:SECTION_ROWS]
        ),
        list_url(Position),
    )  # fmt: skip


def _alerts(request: HttpRequest) -> Table:
    alerts = _own(request, Event).filter(topic=Topic.ALERTS).order_by("-at")[:5]
    return events_table("Alerts", alerts, topic=Topic.ALERTS.value)
