"""Strategy configurations, and what each said about every candle it was shown."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.http import HttpRequest
from unfold.contrib.filters.admin import RangeDateTimeFilter
from unfold.decorators import display

from domain.candles import Timeframe
from domain.strategy import SignalKind
from marketdata.services import feed_ensure
from pipeline.pages import (
    BADGES,
    SECTION_ROWS,
    Fact,
    LongPage,
    OwnRelatedFilter,
    Page,
    Sections,
    Table,
    badge,
    link,
    list_url,
    moment,
    table,
)
from strategies.forms import ConfigForm, field_name, parameters_offered
from strategies.informatives import config_rebind
from strategies.library import LIBRARY
from strategies.models import Signal, StrategyConfig


def signals_table(config: StrategyConfig) -> Table:
    """A section of what a configuration last said; candles it had nothing to say about are left to the list."""
    speaking = config.signals.exclude(kind=SignalKind.NOTHING).order_by("-candle_open_at")[:SECTION_ROWS]
    return table(
        "Signals", ("Candle closed at", "Says", "Price", "Confidence", "Average range", "Evaluated at", "Reason"),
        (
            (
                link(one, moment(one.candle_close_at)), badge(one.kind), one.price, one.confidence, one.atr,
                one.created_at, one.reason,
            )
            for one in speaking
        ),
        list_url(Signal, config__id__exact=config.pk),
    )  # fmt: skip


def last_evaluation(config: StrategyConfig) -> Fact:
    """The newest candle the configuration was asked about, and its answer."""
    last = config.signals.order_by("-candle_open_at").first()
    if last is None:
        return Fact("Last evaluation", "none yet")
    return Fact("Last evaluation", badge(last.kind), f"candle closed at {moment(last.candle_close_at)} {last.reason}")


def beside_fact(config: StrategyConfig) -> Fact:
    """What the configuration looks at beside its own feed, and waits for."""
    rows = [str(one) for one in (*config.informative_feeds.all(), *config.tapes.all())]
    return Fact("Looks at", ", ".join(rows) or "its own candles only")


def _strategy_told(name: str) -> str:
    if name not in LIBRARY:
        return f"{name}: {LIBRARY.wanted(name)}"
    return f"{LIBRARY[name].title} ({LIBRARY.origin(name)})"


@admin.register(StrategyConfig)
class ConfigPage(Page):
    form = ConfigForm
    owner_path = "owner"
    list_display = ("name", "strategy", "feed", "parameters_shown", "is_needed", "created_at")
    list_select_related = ("feed__market__exchange", "owner")
    list_filter = ("strategy", "is_needed", "feed__timeframe")
    search_fields = ("name", "feed__market__symbol")
    ordering = ("name",)
    # Only the fields of the strategy that is chosen are shown; those of the others are not looked at either way. Where
    # the strategy is settled there is no such choice, and no fields but its own.
    conditional_fields = {
        field_name(strategy, parameter): f"typeof strategy === 'undefined' || strategy === '{strategy}'"
        for strategy, parameter in parameters_offered()
    }

    @admin.display(description="parameters")
    def parameters_shown(self, config: StrategyConfig) -> str:
        return ", ".join(f"{name} {'none' if value is None else value}" for name, value in config.parameters.items())

    def get_readonly_fields(self, request: HttpRequest, obj: StrategyConfig | None = None) -> tuple[str, ...]:
        # Sessions hold positions on its market: another market or strategy is another configuration.
        return ("owner", "strategy", "feed") if obj else ()

    def get_fieldsets(self, request: HttpRequest, obj: StrategyConfig | None = None) -> Any:
        about = ["name", "feed", "strategy"] if obj else ["name", "market", "timeframe", "strategy"]
        if obj and request.user.is_superuser:
            about.insert(0, "owner")
        names = [field_name(*pair) for pair in parameters_offered(obj.strategy if obj else None)]
        note = (
            "In use by an active session: its parameters can be changed while no active session uses it."
            if obj and obj.is_needed
            else ""
        )
        return [(None, {"fields": about}), ("Parameters", {"fields": names, "description": note})]

    def get_form(
        self, request: HttpRequest, obj: StrategyConfig | None = None, change: bool = False, **kwargs: Any
    ) -> Any:
        # The fields of parameters are made by the form itself; Django is asked for the model's own.
        own = ["name"] if obj else ["name", "strategy"]
        form: Any = super().get_form(request, obj, change, **{**kwargs, "fields": own})
        form.trader = request.user
        if obj is not None:
            form.base_fields = {name: one for name, one in form.base_fields.items() if name in own}
        return form

    def save_model(self, request: HttpRequest, obj: StrategyConfig, form: ConfigForm, change: bool) -> None:
        if not change:
            obj.owner = form.trader
            obj.feed = feed_ensure(form.cleaned_data["market"], Timeframe(form.cleaned_data["timeframe"]))
            obj.save()
            config_rebind(obj.pk)
            return
        rows = StrategyConfig.objects.filter(pk=obj.pk)
        rows.update(name=obj.name)
        # Guarded: a session may have started between the page and this press of a button.
        has_new_values = bool(set(form.changed_data) - {"name"})
        if not has_new_values:
            return
        if rows.filter(is_needed=False).update(parameters=obj.parameters):
            config_rebind(obj.pk)
        else:
            messages.error(
                request,
                "Parameters were kept: wanted a configuration that no active session uses, was in use. "
                "Suspend or stop its sessions first.",
            )

    def sections(self, request: HttpRequest, row: StrategyConfig) -> Sections:
        return Sections(
            [
                Fact("Strategy", _strategy_told(row.strategy)),
                beside_fact(row),
                Fact("Evaluated", "on every candle" if row.is_needed else "not now", "while an active session uses it"),
                last_evaluation(row),
            ],
            [signals_table(row)],
        )


@admin.register(Signal)
class SignalPage(LongPage):
    owner_path = "config__owner"
    list_display = (
        "candle_close_at",
        "config",
        "says",
        "price",
        "confidence",
        "stop_price",
        "atr",
        "reason",
        "created_at",
    )
    list_select_related = ("config__owner",)
    list_filter = ("kind", ("config", OwnRelatedFilter), ("created_at", RangeDateTimeFilter))
    list_filter_submit = True
    search_fields = ("config__name",)

    @display(description="says", ordering="kind", label=BADGES)
    def says(self, signal: Signal) -> str:
        return signal.kind

    ordering = ("-id",)
