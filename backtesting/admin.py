"""Backtests in the admin: asked for by a form, followed while they are computed, and put side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
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

import backtesting.study_admin  # noqa: F401  # the page of studies registers itself
from backtesting.comparison import MOST_COMPARED, runs_compared
from backtesting.figure_words import Money, label_of, said
from backtesting.forms import FIRST_SETTINGS, MORE_SETTINGS, SETTINGS, BacktestForm
from backtesting.models import LIVE_JOBS, RETRIED_JOBS, BacktestResult, BacktestRun, JobStatus
from backtesting.runs import (
    UnableToBacktest,
    run_cancel,
    run_delete,
    run_repeat,
    run_repetition,
    run_request,
    run_retry,
)
from backtesting.words import SettingsWords
from marketdata.backfill_admin import BACKFILL_BADGES as JOB_BADGES
from marketdata.backfill_admin import bar
from pipeline.pages import (
    SECTION_ROWS,
    Fact,
    LongPage,
    Sections,
    Table,
    actor_of,
    badge,
    batch,
    button,
    link,
    list_url,
    moment,
    table,
)
from strategies.forms import field_name, parameters_offered
from strategies.library import LIBRARY

# In which statuses a button is of use.
OFFERED: dict[str, Sequence[str]] = {"cancel": LIVE_JOBS, "retry": RETRIED_JOBS, "repeat": (JobStatus.DONE,)}
SIDES = {"LONG": "success", "SHORT": "danger"}
# Of the figures, those that stand large above.
HEADLINES = ("total_return", "max_drawdown", "sharpe", "trades", "win_rate", "profit_factor")
CHART_WIDTH, CHART_HEIGHT = 600, 90
COLOURS = ("#0d9488", "#d97706", "#6366f1", "#db2777", "#65a30d", "#0284c7")


def _cancel(request: HttpRequest, run: BacktestRun) -> str:
    return "cancelled" if run_cancel(run.pk, actor=actor_of(request)) else "had ended already"


def _retry(request: HttpRequest, run: BacktestRun) -> str:
    run_retry(run.pk, actor=actor_of(request))
    return "is computed again"


def _repeat(request: HttpRequest, run: BacktestRun) -> str:
    again = run_repeat(run, request.user)  # type: ignore[arg-type]  # who may press it is signed in
    return f"is computed once more, as number {again.pk}"


def curves_drawn(curves: Sequence[Sequence[Sequence[float]]]) -> SafeString | str:
    """Curves of [time, value] as lines over the time of all of them, each in parts of its own beginning, in ``COLOURS``."""
    kept = [curve for curve in curves if len(curve) > 1 and curve[0][1] > 0]
    if not kept:
        return ""
    start, end = min(curve[0][0] for curve in kept), max(curve[-1][0] for curve in kept)
    shares = [[(at, value / curve[0][1]) for at, value in curve] for curve in kept]
    low, high = min(min(y for _, y in one) for one in shares), max(max(y for _, y in one) for one in shares)
    reach = (high - low) or 1.0

    def points(one: Sequence[tuple[float, float]]) -> str:
        return " ".join(
            f"{(at - start) / (end - start) * CHART_WIDTH:.1f},{CHART_HEIGHT * (1 - (y - low) / reach):.1f}"
            for at, y in one
        )

    lines = format_html_join(
        "",
        '<polyline points="{}" fill="none" stroke="{}" stroke-width="1.5" vector-effect="non-scaling-stroke"/>',
        ((points(one), COLOURS[number % len(COLOURS)]) for number, one in enumerate(shares)),
    )
    begun = CHART_HEIGHT * (1 - (1 - low) / reach)
    return format_html(
        '<svg viewBox="-1 -1 {} {}" class="w-full" preserveAspectRatio="none" style="height: 7rem" role="img" '
        'aria-label="Equity in parts of what it began with"><line x1="0" x2="{}" y1="{}" y2="{}" stroke="currentColor" '
        'stroke-dasharray="3 4" opacity="0.35" vector-effect="non-scaling-stroke"/>{}</svg>',
        CHART_WIDTH + 2, CHART_HEIGHT + 2, CHART_WIDTH, f"{begun:.1f}", f"{begun:.1f}", lines,
    )  # fmt: skip


@admin.register(BacktestRun)
class BacktestPage(LongPage):
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

    # Who may what

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("backtesting.add_backtestrun")

    def has_command_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("backtesting.change_backtestrun")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        is_over = obj is None or obj.status not in LIVE_JOBS
        return is_over and request.user.has_perm("backtesting.delete_backtestrun")

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
        return _figure(run, "total_return")

    @admin.display(description="drawdown")
    def max_drawdown(self, run: BacktestRun) -> Any:
        return _figure(run, "max_drawdown")

    @admin.display(description="Sharpe")
    def sharpe(self, run: BacktestRun) -> Any:
        return _figure(run, "sharpe")

    @admin.display(description="trades")
    def trades(self, run: BacktestRun) -> Any:
        return _figure(run, "trades")

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
            *(Fact(label_of(name), _text(row, name, stats[name])) for name in HEADLINES if name in stats),
        ]
        if row.seconds is not None:
            facts.append(Fact("Took", f"{row.seconds:g} s", f"{row.candles:,} candles"))
        facts.append(Fact("Another like it", format_html('<a class="text-link" href="{}">change and run</a>', like)))
        if row.status == JobStatus.DONE:
            facts += _done_facts(row, figures)
        return Sections(facts, _tables(row, figures) if figures else [])

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
        ids = [int(one[:18]) for one in request.GET.get("ids", "").split(",") if one.isascii() and one.isdigit()]
        rows = self.get_queryset(request).defer(None).filter(pk__in=ids[:MOST_COMPARED])
        runs = list(rows.prefetch_related("places__feed__market__exchange").order_by("pk"))
        context = {
            **self.admin_site.each_context(request),
            "title": "Backtests side by side",
            "opts": self.opts,
            "sections": _side_by_side(runs),
        }
        return TemplateResponse(request, "backtesting/compare.html", context)


def _side_by_side(runs: Sequence[BacktestRun]) -> Sections:
    told = runs_compared(runs)
    names = [f"{run.pk}: {run.name}" for run in runs]
    legend = format_html_join(
        " ",
        '<span class="mr-4 whitespace-nowrap"><span style="color: {}">■</span> {}</span>',
        ((COLOURS[number % len(COLOURS)], link(run, names[number])) for number, run in enumerate(runs)),
    )
    drawn = curves_drawn([(run.figures or {}).get("curve", []) for run in runs])
    facts = [] if told.differ else [Fact("What differs", told.in_words[0], is_wide=True)]
    if drawn:
        facts.append(Fact("Equity, in parts of what each began with", drawn, legend, is_wide=True))
    figures = [
        [label_of(line.name), *(_text(run, line.name, value) for run, value in zip(runs, line.values, strict=True))]
        for line in told.figures
    ]
    differ = [[line.name.replace("_", " "), *map(_short, line.values)] for line in told.differ]
    tables = [table("What differs", ("", *names), differ)] if differ else []
    return Sections(facts if runs else [Fact("Nothing to compare", "none of yours was named")], [
        *tables, *([table("Figures", ("", *names), figures)] if figures else []),
    ])  # fmt: skip


def _done_facts(run: BacktestRun, figures: dict[str, Any]) -> list[Fact]:
    links = format_html_join(
        " · ",
        '<a class="text-link" href="{}" target="_blank">{}</a>',
        (
            (reverse("backtest-report", args=[run.pk]), "report"),
            (reverse("backtest-trades", args=[run.pk]) + "?format=csv", "trades as CSV"),
            (reverse("backtest-equity", args=[run.pk]) + "?format=csv&limit=100000", "equity as CSV"),
        ),
    )
    facts = [Fact("All of it", links)]
    if (told := run_repetition(run)) is not None:
        facts.append(Fact("Repeats", link(run.repeats), str(told)))
    if warnings := figures.get("warnings"):
        facts.append(
            Fact("Take care", format_html_join("", "<div>{}</div>", ((one["text"],) for one in warnings)), is_wide=True)
        )
    facts.append(Fact("Equity", curves_drawn([figures.get("curve", [])]), is_wide=True))
    return facts


def _tables(run: BacktestRun, figures: dict[str, Any]) -> list[Table]:
    stats = [(name, value) for name, value in figures["stats"].items() if name not in HEADLINES]
    half = (len(stats) + 1) // 2
    pairs = [
        [cell for pair in (stats[number : number + 1] + stats[number + half : number + half + 1]) for cell in
         (label_of(pair[0]), _text(run, *pair))] + ([""] * 2 if number + half >= len(stats) else [])
        for number in range(half)
    ]  # fmt: skip
    groups = [
        table(
            title, (heading, "Trades", "Win rate", "Result"),
            (
                (one["name"] or "-", one["trades"], _text(run, "win_rate", one["win_rate"]), _text(run, "pnl", one["pnl"]))
                for one in figures.get(key, [])[:SECTION_ROWS]
            ),
        )
        for key, title, heading in (
            ("per_reason", "By exit", "Left by"), ("per_market", "By market", "Market"), ("per_side", "By side", "Side"),
        )
        if len(figures.get(key, [])) > (key != "per_reason")
    ]  # fmt: skip
    rows = BacktestResult.objects.filter(pk=run.pk).values_list("trades", flat=True).first() or []
    trades = table(
        "Last trades", ("Market", "Side", "Entered at", "Price", "Left at", "Price", "Result", "Return", "By"),
        (
            (
                one["symbol"], badge(one["side"], SIDES), _at(one["entry_at"]),
                f"{one['entry_price']:.8g}", _at(one["exit_at"]), f"{one['exit_price']:.8g}", _text(run, "pnl", one["pnl"]),
                _text(run, "return", one["return"]), one["exit_reason"] or "still held",
            )
            for one in rows[: -SECTION_ROWS - 1 : -1]
        ),
        reverse("backtest-trades", args=[run.pk]) + "?format=csv",
    )  # fmt: skip
    return [table("Figures", ("", "", "", ""), pairs), *groups, trades]


def _figure(run: Any, name: str) -> Any:
    value = (run.stats or {}).get(name) if hasattr(run, "stats") else None
    return _text(run, name, value)


def _text(run: BacktestRun, name: str, value: Any) -> Any:
    text = said(name, value, Money.of(float(run.settings.get("cash", 1))))
    if name not in ("total_return", "pnl", "return") or not isinstance(value, int | float) or not value:
        return text
    colour = "text-green-700 dark:text-green-400" if value > 0 else "text-red-700 dark:text-red-400"
    return format_html('<span class="{} whitespace-nowrap">{}</span>', colour, text)


def _at(text: str) -> SafeString:
    return format_html('<span class="whitespace-nowrap">{}</span>', text.replace("T", " ")[:16])


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) == 32 and text.isalnum() else text  # a hash


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
