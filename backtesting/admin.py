"""Backtests in the admin: asked for by a form, followed while they are computed, and put side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import JSONField, QuerySet
from django.db.models.fields.json import KeyTransform
from django.http import HttpRequest, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.decorators import display
from unfold.enums import ActionVariant

import backtesting.studies.admin  # noqa: F401  # the page of studies registers itself
from backtesting.comparison import MOST_COMPARED
from backtesting.forms import FIRST_SETTINGS, MORE_SETTINGS, SETTINGS, BacktestForm
from backtesting.job_page import JobPage
from backtesting.models import LIVE_JOBS, RETRIED_JOBS, BacktestRun, JobStatus
from backtesting.report import label_of
from backtesting.result_pages import HEADLINES, done_facts, figure_shown, result_tables, side_by_side, text_of
from backtesting.runs import (
    UnableToBacktest,
    run_cancel,
    run_delete,
    run_repeat,
    run_request,
    run_retry,
)
from backtesting.words import SettingsWords
from marketdata.backfill_admin import BACKFILL_BADGES as JOB_BADGES
from marketdata.backfill_admin import bar
from pipeline.pages import (
    Fact,
    Sections,
    actor_of,
    badge,
    batch,
    button,
    link,
    list_url,
    moment,
)
from strategies.forms import field_name, parameters_offered
from strategies.library import LIBRARY

# In which statuses a button is of use.
OFFERED: dict[str, Sequence[str]] = {"cancel": LIVE_JOBS, "retry": RETRIED_JOBS, "repeat": (JobStatus.DONE,)}


def _cancel(request: HttpRequest, run: BacktestRun) -> str:
    return "cancelled" if run_cancel(run.pk, actor=actor_of(request)) else "had ended already"


def _retry(request: HttpRequest, run: BacktestRun) -> str:
    run_retry(run.pk, actor=actor_of(request))
    return "is computed again"


def _repeat(request: HttpRequest, run: BacktestRun) -> str:
    again = run_repeat(run, request.user)  # type: ignore[arg-type]  # who may press it is signed in
    return f"is computed once more, as number {again.pk}"


@admin.register(BacktestRun)
class BacktestPage(JobPage):
    """Begun by adding; nothing of one is edited."""

    form = BacktestForm
    owner_path = "owner"
    refusals = (ValidationError, UnableToBacktest)
    live_seconds = 2
    list_display: Any = (
        "name_shown", "status_shown", "percent_shown", "span", "total_return", "max_drawdown", "sharpe",
        "trades", "created_at",
    )  # fmt: skip
    list_select_related = ("owner",)
    list_filter = ("status", "strategy", "created_at")
    search_fields = ("name", "places__feed__market__symbol")
    ordering = ("-id",)
    actions_detail = ("cancel", "retry", "repeat")
    actions: Any = ("compare_selected", "cancel_selected", "repeat_selected")
    conditional_fields = {
        field_name(strategy, parameter): f"strategy === '{strategy}'" for strategy, parameter in parameters_offered()
    }

    cancel = button(
        "Cancel", _cancel, icon="stop_circle", variant=ActionVariant.DANGER, permission="command",
        question="It is left where it is, and nothing of it is kept.",
    )  # fmt: skip
    retry = button(
        "Try again", _retry, icon="play_circle", variant=ActionVariant.PRIMARY, permission="command",
        question="The same is computed from the beginning.",
    )  # fmt: skip
    repeat = button(
        "Repeat", _repeat, icon="replay", variant=ActionVariant.PRIMARY, permission="command",
        question="The same words are computed once more, on the code and the candles of now; it says what has changed.",
    )  # fmt: skip
    cancel_selected = batch("Cancel", _cancel, permission="command")
    repeat_selected = batch("Repeat", _repeat, permission="command")

    def delete_model(self, request: HttpRequest, obj: BacktestRun) -> None:
        run_delete(obj.pk)

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """What can be done about it now."""
        run = self.get_object(request, str(object_id))
        prefix = f"{self.opts.app_label}_{self.opts.model_name}_"
        shown = super().get_actions_detail(request, object_id)
        return [one for one in shown if run and run.status in OFFERED[one.action_name.removeprefix(prefix)]]

    # The list

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        stats = KeyTransform("stats", "figures", output_field=JSONField())
        rows: QuerySet[Any] = super().get_queryset(request)
        return rows.annotate(stats=stats).defer("figures")  # type: ignore[no-any-return]  # annotated rows are of no type

    @display(description="name", ordering="name")
    def name_shown(self, run: BacktestRun) -> str:
        return run.name

    @display(description="status", ordering="status", label=JOB_BADGES)
    def status_shown(self, run: BacktestRun) -> str:
        return run.status

    @admin.display(description="done")
    def percent_shown(self, run: BacktestRun) -> SafeString:
        return bar(run.percent)

    @admin.display(description="span", ordering="from_at")
    def span(self, run: BacktestRun) -> SafeString:
        return format_html(
            '<span class="whitespace-nowrap">{} to {}</span>', f"{run.from_at:%Y-%m-%d}", f"{run.until_at:%Y-%m-%d}"
        )

    @admin.display(description="return")
    def total_return(self, run: BacktestRun) -> Any:
        return figure_shown(run, "total_return")

    @admin.display(description="drawdown")
    def max_drawdown(self, run: BacktestRun) -> Any:
        return figure_shown(run, "max_drawdown")

    @admin.display(description="Sharpe")
    def sharpe(self, run: BacktestRun) -> Any:
        return figure_shown(run, "sharpe")

    @admin.display(description="trades")
    def trades(self, run: BacktestRun) -> Any:
        return figure_shown(run, "trades")

    # The form

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        if obj is not None:
            return super().get_form(request, obj, change, form=forms.ModelForm, **kwargs)  # nothing of it is a field
        # The other fields are made by the form itself; Django is asked for the model's own.
        form: Any = super().get_form(request, obj, change, **{**kwargs, "fields": list(BacktestForm.Meta.fields)})
        form.trader = request.user
        return form

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """Of ``?like=ID`` the words of that run."""
        like = request.GET.get("like", "")
        known = self.get_queryset(request).filter(pk=int(like[:18])) if like.isascii() and like.isdigit() else None
        return {"like": known.first() if known is not None else None}

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None:
            return list(BacktestForm.Meta.fields)
        return [
            "feeds_shown", "strategy_shown", "from_at", "until_at", "detail_timeframe", "candles", "parameters_shown",
            "settings_shown", "limits_shown", "exits_shown", "code_shown", "data_shown", "created_at", "ended_at",
        ]  # fmt: skip

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.get_fields(request, obj) if obj is not None else ()

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is not None:
            return super().get_fieldsets(request, obj)
        first, more = ([field_name(SETTINGS, name) for name in names] for names in (FIRST_SETTINGS, MORE_SETTINGS))
        note = "Candles that open from the first time to before the second are traded in; times are UTC."
        return [
            (None, {"fields": ["name", "feeds", "from_at", "until_at", "strategy"], "description": note}),
            ("Parameters", {"fields": [field_name(*pair) for pair in parameters_offered()]}),
            ("Account", {"fields": ["account", *_pairs(first)]}),
            ("Exits and limits", {"fields": ["exits", "limits"], "classes": ["collapse"]}),
            ("More", {"fields": ["detail_timeframe", *_pairs(more)], "classes": ["collapse"]}),
        ]

    def save_model(self, request: HttpRequest, obj: BacktestRun, form: Any, change: bool) -> None:
        asked = run_request(form.trader, form.asked, name=form.cleaned_data.get("name", ""))
        obj.pk = asked.pk
        obj.refresh_from_db()

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: Any = None) -> Any:
        """To its page, where it is followed."""
        if "_addanother" in request.POST:
            return super().response_add(request, obj, post_url_continue)
        messages.success(request, f"{obj} is queued")
        return HttpResponseRedirect(reverse("admin:backtesting_backtestrun_change", args=[obj.pk]))

    # The page of one

    @admin.display(description="feeds")
    def feeds_shown(self, run: BacktestRun) -> Any:
        return format_html_join(
            ", ", "{}", ((link(place.feed),) for place in run.places.select_related("feed__market"))
        )

    @admin.display(description="strategy")
    def strategy_shown(self, run: BacktestRun) -> str:
        return run.strategy_title

    @admin.display(description="parameters")
    def parameters_shown(self, run: BacktestRun) -> str:
        kind = LIBRARY[run.strategy].parameters_type.model_fields if run.strategy in LIBRARY else ()
        return _in_words({name: run.parameters[name] for name in (*kind, *run.parameters) if name in run.parameters})

    @admin.display(description="account")
    def settings_shown(self, run: BacktestRun) -> str:
        return _in_words({name: run.settings.get(name) for name in SettingsWords.model_fields})

    @admin.display(description="limits")
    def limits_shown(self, run: BacktestRun) -> str:
        return _in_words(run.limits)

    @admin.display(description="exits")
    def exits_shown(self, run: BacktestRun) -> str:
        return _in_words(run.exits)

    @admin.display(description="code hash")
    def code_shown(self, run: BacktestRun) -> Any:
        return _unbroken(run.code_hash)

    @admin.display(description="data hash")
    def data_shown(self, run: BacktestRun) -> Any:
        return _unbroken(run.data_hash)

    def sections(self, request: HttpRequest, row: BacktestRun) -> Sections:
        figures = row.figures_told
        stats = figures.get("stats", {})
        like = f"{list_url(BacktestRun)}add/?like={row.pk}"
        facts = [
            Fact("Status", badge(row.status, JOB_BADGES), row.last_error),
            Fact("Done", f"{row.percent:g} %", bar(row.percent)),
            *(
                [Fact("Waits since", moment(row.created_at), "its turn comes")]
                if row.status == JobStatus.QUEUED
                else []
            ),
            *(Fact(label_of(name), text_of(row, name, stats[name])) for name in HEADLINES if name in stats),
        ]
        if row.seconds is not None:
            facts.append(Fact("Took", f"{row.seconds:g} s", f"{row.candles:,} candles"))
        facts.append(Fact("Another like it", format_html('<a class="text-link" href="{}">change and run</a>', like)))
        if row.status == JobStatus.DONE:
            facts += done_facts(row, figures)
        return Sections(facts, result_tables(row, figures) if figures else [])

    # Side by side

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.compare_view)
        return [path("compare/", view, name="backtesting_backtestrun_compare"), *super().get_urls()]

    @admin.action(description="Compare", permissions=["view"])
    def compare_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponseBase | None:
        ids = [str(pk) for pk in queryset.order_by("pk").values_list("pk", flat=True)[: MOST_COMPARED + 1]]
        if len(ids) > MOST_COMPARED:
            self.message_user(request, f"wanted at most {MOST_COMPARED} backtests, was more", messages.ERROR)
            return None
        return HttpResponseRedirect(reverse("admin:backtesting_backtestrun_compare") + f"?ids={','.join(ids)}")

    def compare_view(self, request: HttpRequest) -> HttpResponseBase:
        """Several of one's own, figures below one another."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        ids = [int(one[:18]) for one in request.GET.get("ids", "").split(",") if one.isascii() and one.isdigit()]
        rows = self.get_queryset(request).defer(None).filter(pk__in=ids[:MOST_COMPARED])
        runs = list(rows.prefetch_related("places__feed__market__exchange").order_by("pk"))
        context = {
            **self.admin_site.each_context(request),
            "title": "Backtests side by side",
            "opts": self.opts,
            "sections": side_by_side(runs),
        }
        return TemplateResponse(request, "backtesting/compare.html", context)


def _in_words(words: dict[str, Any]) -> str:
    """What is said, what is not left out."""
    told = []
    for name, value in words.items():
        label = name.removeprefix("is_").replace("_", " ")
        if isinstance(value, bool):
            told.append(label if value else f"not {label}")
        elif value is not None:
            told.append(f"{label} {value}")
    return ", ".join(told) or "-"


def _unbroken(digest: str) -> SafeString | str:
    return (
        format_html('<span class="font-mono text-xs" style="word-break: break-all">{}</span>', digest)
        if digest
        else "-"
    )


def _pairs(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Two fields on a line."""
    return [tuple(names[start : start + 2]) for start in range(0, len(names), 2)]
