"""Sessions: made by a form, commanded by buttons. What a session holds is added one floor above (``positions/admin.py``)."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.core.exceptions import ValidationError
from django.core.serializers.json import DjangoJSONEncoder
from django.http import HttpRequest
from unfold.decorators import display
from unfold.enums import ActionVariant
from unfold.widgets import UnfoldAdminTextareaWidget

import sessions.group_admin  # noqa: F401  # the page of groups registers itself
from domain.exit_plan import ExitPlan
from pipeline.pages import BADGES, Fact, OwnRelatedFilter, Page, Sections, actor_of, badge, batch, button, link, moment
from sessions import services
from sessions.models import SessionStatus, SessionTick, TradingSession
from strategies.admin import last_evaluation, signals_table

S = SessionStatus

# In which statuses a button is of use; whether it may be pressed is decided by the service.
OFFERED: dict[str, tuple[str, ...]] = {
    "start": (S.CREATED, S.STOPPED),
    "suspend": (S.ACTIVE,),
    "recover": (S.SUSPENDED, S.HALTED),
    "stop": (S.CREATED, S.ACTIVE, S.SUSPENDED, S.HALTED),
}

EXITS_HELP = (
    "JSON; empty: the strategy's exits and the two percentages. Any of "
    + ", ".join(ExitPlan.model_fields)
    + '. Example: {"stop_loss_atr": "2", "trailing_percent": "1.5", "targets": [{"percent": "2", "fraction": "0.5"}, '
    '{"percent": "5"}]}. What each means: docs/risk.md.'
)


def exits_in_words(plan: dict[str, Any]) -> list[str]:
    """The exits that a plan names, shortly: "stop loss percent 2"."""
    said = []
    for name, value in plan.items():
        label = name.removeprefix("is_").replace("_", " ")
        if isinstance(value, list):
            said += [f"{label}: " + ", ".join(" ".join(f"{key} {part}" for key, part in one.items()) for one in value)]
        else:
            said.append(label if value is True else f"no {label}" if value in (False, None) else f"{label} {value}")
    return said


def _start(request: HttpRequest, session: TradingSession) -> str:
    services.session_start(session.pk, actor=actor_of(request))
    return "started"


def _suspend(request: HttpRequest, session: TradingSession) -> str:
    services.session_suspend(session.pk, actor=actor_of(request))
    return "suspended; what it holds keeps its exits"


def _recover(request: HttpRequest, session: TradingSession) -> str:
    services.session_recover(session.pk, actor=actor_of(request))
    return "recovery asked for; it trades again once the exchange has been re-read"


def _stop(request: HttpRequest, session: TradingSession) -> str:
    services.session_stop(session.pk, actor=actor_of(request))
    return "asked to stop; it is stopped when nothing is held and nothing is open"


@admin.register(TradingSession)
class TradingSessionPage(Page):
    owner_path = "account__owner"
    refusals = (services.UnableToCommand, ValidationError)
    list_display: Any = ("name", "status_shown", "account", "market", "strategy", "run", "started_at")
    list_select_related = ("account__exchange", "account__owner", "config__feed__market__exchange")
    list_filter = (
        "status",
        ("account", OwnRelatedFilter),
        ("config", OwnRelatedFilter),
    )
    search_fields = ("name", "config__feed__market__symbol", "account__name")
    ordering = ("-id",)
    autocomplete_fields = ("account", "config")
    actions_detail: Any = ("start", "suspend", "recover", "stop")
    actions: Any = ("start_selected", "suspend_selected", "recover_selected", "stop_selected")

    start = button(
        "Start", _start, icon="play_arrow", variant=ActionVariant.SUCCESS,
        question="It trades from the next signal on, with the sizing and exits set here.",
    )  # fmt: skip
    suspend = button(
        "Suspend", _suspend, icon="pause",
        question="No new positions. What is held keeps its stop-loss and take-profit.",
    )  # fmt: skip
    recover = button(
        "Recover", _recover, icon="restart_alt", variant=ActionVariant.SUCCESS,
        question="Re-reads clock, balances and orders from the exchange, then trades again.",
    )  # fmt: skip
    stop = button(
        "Stop", _stop, icon="stop", variant=ActionVariant.WARNING,
        question="Cancels its open orders and closes what it holds at market.",
    )  # fmt: skip
    start_selected = batch("Start", _start)
    suspend_selected = batch("Suspend", _suspend)
    recover_selected = batch("Recover", _recover)
    stop_selected = batch("Stop", _stop)

    @display(description="status", ordering="status", label=BADGES)
    def status_shown(self, session: TradingSession) -> str:
        return session.status

    @admin.display(description="market", ordering="config__feed__market__symbol")
    def market(self, session: TradingSession) -> str:
        return f"{session.config.feed.market.symbol} {session.config.feed.timeframe}"

    @admin.display(description="strategy", ordering="config__strategy")
    def strategy(self, session: TradingSession) -> str:
        return session.config.strategy_title

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """The buttons that are of use to the session as it is now."""
        session = self.get_object(request, str(object_id))
        offered: list[Any] = super().get_actions_detail(request, object_id)
        prefix = f"{self.opts.app_label}_{self.opts.model_name}_"
        return [one for one in offered if session and self.is_offered(one.action_name.removeprefix(prefix), session)]

    def is_offered(self, name: str, session: TradingSession) -> bool:
        """Whether the button ``name`` is of use to this session."""
        return session.status in OFFERED[name]

    @admin.display(description="configuration")
    def configuration(self, session: TradingSession) -> str:
        return link(session.config)

    def get_readonly_fields(self, request: HttpRequest, obj: TradingSession | None = None) -> tuple[str, ...]:
        # Its orders and positions are this account's and this market's: another pair is another session.
        return ("account", "configuration") if obj else ()

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        labels = {"config": "Configuration"}
        return super().formfield_for_foreignkey(db_field, request, label=labels.get(db_field.name), **kwargs)

    def get_fieldsets(self, request: HttpRequest, obj: TradingSession | None = None) -> Any:
        return [
            (None, {"fields": [("account", "configuration" if obj else "config"), ("name", "tick_seconds")]}),
            (
                "Size",
                {
                    "fields": [
                        ("sizing_method", "sizing_amount"), ("kelly_cap_percent", "kelly_min_trades"),
                        ("is_confidence_weighted", "max_entries"), ("leverage", "margin_mode"),
                    ],
                    "description": "Of entries that are yet to come, within the limits of the account.",
                },
            ),
            (
                "Exits",
                {
                    "fields": [("stop_loss_percent", "take_profit_percent"), "exits", "is_resting"],
                    "description": "Of positions that are yet to open; the period of ticks changes with the next start.",
                },
            ),
        ]  # fmt: skip

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "exits":
            kwargs |= {"widget": UnfoldAdminTextareaWidget(attrs={"rows": 6, "spellcheck": "false"})}
            kwargs |= {"help_text": EXITS_HELP, "required": False, "encoder": DjangoJSONEncoder}
        return super().formfield_for_dbfield(db_field, request, **kwargs)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        is_idle = obj is None or obj.status in (S.CREATED, S.STOPPED)
        return is_idle and bool(super().has_delete_permission(request, obj))

    def save_model(self, request: HttpRequest, obj: TradingSession, form: Any, change: bool) -> None:
        if change:
            super().save_model(request, obj, form, change)
        else:
            services.session_create(obj)

    def sections(self, request: HttpRequest, row: TradingSession) -> Sections:
        tick = SessionTick.objects.filter(session=row).first()
        waiting = "recovery asked for" if row.recover_requested_at else ""
        plan = row.exit_plan_told
        leaves = "unusable: see the form" if plan is None else ", ".join(exits_in_words(plan)) or "by exit signal only"
        return Sections(
            [
                Fact("Status", badge(row.status), " ".join(part for part in (waiting, row.status_reason) if part)),
                Fact("Exits", leaves, "of a position that is entered now"),
                Fact("Run", row.run or "none yet", f"started {moment(row.started_at)}" if row.started_at else ""),
                Fact(
                    "Next tick", moment(tick.due_at) if tick else "-", f"every {row.tick_seconds} s of the venue's time"
                ),
                last_evaluation(row.config),
            ],
            [signals_table(row.config)],
        )
