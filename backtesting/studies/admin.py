"""Studies in the admin: a form that asks for one, a page that shows how far it is and what it found, and buttons that stop
it, go on with it, and make a backtest of one of its trials."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import JSONField, QuerySet
from django.db.models.fields.json import KeyTransform
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.decorators import display
from unfold.enums import ActionVariant

from backtesting.job_page import JobPage
from backtesting.models import LIVE_JOBS, RETRIED_JOBS, Study, StudyKind, Trial, TrialStatus
from backtesting.research.monte_carlo import MonteCarlo
from backtesting.research.words import objective_words
from backtesting.runs import UnableToBacktest
from backtesting.studies import (
    UnableToStudy,
    study_cancel,
    study_delete,
    study_request,
    study_retry,
    trial_to_run,
)
from backtesting.studies.charts import equity_chart, fan_chart, heat_map, objective_chart
from backtesting.studies.forms import (
    HOW_TO_SEARCH,
    LUCK_FIELDS,
    MONEY_FIELDS,
    SEARCH_FIELDS,
    WALK_FIELDS,
    StudyForm,
    TrialForm,
)
from marketdata.backfill_admin import bar
from pipeline.pages import Fact, Sections, Table, actor_of, badge, button, table
from strategies.forms import field_name, parameters_offered

STUDY_BADGES = {"DONE": "success", "RUNNING": "info", "QUEUED": "info", "CANCELED": "warning", "FAILED": "danger"}
BEST_SHOWN = 10
FAN_NOTE = "What one unit became: the middle of all paths, where half of them go, and nine of ten."
FIGURES = (("Return", "total_return", "%"), ("Sharpe", "sharpe", ""), ("Drawdown", "max_drawdown", "%"))


def _cancel(request: HttpRequest, study: Study) -> str:
    return "stopped" if study_cancel(study.pk, actor=actor_of(request)) else "had ended already"


def _retry(request: HttpRequest, study: Study) -> str:
    study_retry(study.pk, actor=actor_of(request))
    return "goes on"


def _backtest(request: HttpRequest, study: Study, number: int, fold: int | None) -> str:
    trial = study.trials.select_related("study__owner").filter(number=number, fold=fold or 0).first()
    if trial is None:
        raise ValidationError(f"wanted a trial of it, was number {number}")
    run = trial_to_run(trial, request.user)  # type: ignore[arg-type]  # who is signed in is a user
    return f"{run.name} is computed as backtest {run.pk}"


@admin.register(Study)
class StudyPage(JobPage):
    """Begun by adding, ended by cancelling; nothing of it is edited."""

    form = StudyForm
    owner_path = "owner"
    refusals = (ValidationError, UnableToStudy, UnableToBacktest)
    live_seconds = 2
    list_display = (
        "name", "kind", "strategy", "status_shown", "percent_shown", "best_shown", "created_at", "last_error",
    )  # fmt: skip
    list_display_links = ("name",)
    list_select_related = ("owner",)
    list_filter = ("status", "kind", "strategy")
    search_fields = ("name",)
    ordering = ("-id",)
    # What of it goes on stands above, where it is kept fresh.
    hidden = (
        "owner", "status", "done", "total", "tries", "last_error", "not_before_at", "leased_until", "folds", "per_fold",
        "claimed", "at_once", "stepped_at", "result", "code_hash", "data_hash",
    )  # fmt: skip
    actions_detail = ("cancel", "retry", "backtest")
    conditional_fields = {
        **{
            field_name(strategy, parameter): f"strategy === '{strategy}'"
            for strategy, parameter in parameters_offered()
        },
        **{name: f"kind === '{StudyKind.WALK_FORWARD.value}'" for name in WALK_FIELDS},
        **{name: f"kind === '{StudyKind.MONTE_CARLO.value}'" for name in LUCK_FIELDS},
        # Where nothing is to be chosen any more they are shown with the rest.
        **{name: f"typeof kind === 'undefined' || kind !== '{StudyKind.MONTE_CARLO.value}'" for name in SEARCH_FIELDS},
    }

    cancel = button(
        "Cancel", _cancel, icon="stop_circle", variant=ActionVariant.DANGER, permission="command",
        question="It ends where it is. Trials that are stored stay.",
    )  # fmt: skip
    retry = button(
        "Go on", _retry, icon="play_circle", variant=ActionVariant.PRIMARY, permission="command",
        question="It goes on where it stopped; anew, where code or candles have changed since.",
    )  # fmt: skip
    backtest = button(
        "Backtest a trial", _backtest, icon="query_stats", permission="command", form_class=TrialForm,
        question="Its parameters are tested once more, with trades, equity and a report.",
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[Study]:
        # Of the result a list shows a part, and each may be many kilobytes.
        best = KeyTransform("best", "result", output_field=JSONField())
        rows: QuerySet[Study] = super().get_queryset(request)
        return rows.defer("result", "folds").annotate(best_told=best)

    def delete_model(self, request: HttpRequest, obj: Study) -> None:
        study_delete(obj.pk)

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """What can be done about it now."""
        study = self.get_object(request, str(object_id))
        if study is None:
            return []
        allowed = {
            "cancel": study.status in LIVE_JOBS,
            "retry": study.status in RETRIED_JOBS,
            "backtest": study.done > 0,
        }
        return [
            one
            for one in super().get_actions_detail(request, object_id)
            if any(one.action_name.endswith(name) for name, is_now in allowed.items() if is_now)
        ]

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        if obj is not None:
            return super().get_form(request, obj, change, **kwargs)
        # The fields of parameters are made by the form itself; Django is asked for the model's own.
        form: Any = super().get_form(request, obj, change, **{**kwargs, "fields": list(StudyForm.Meta.fields)})
        form.trader = request.user
        return form

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return super().get_readonly_fields(request, obj) if obj is not None else ()

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is not None:
            return super().get_fieldsets(request, obj)
        lines = [field_name(*pair) for pair in parameters_offered()]
        about = ["name", "kind", "strategy", "feeds", "from_at", "until_at", *MONEY_FIELDS]
        how = ["method", ("objective", "min_trades"), ("trials_wanted", "seed"), ("train", "test"), "is_anchored"]
        luck = ["ways", ("paths", "reruns"), ("noise", "ruin_at")]
        return [
            (None, {"fields": about, "description": "Times are UTC, and opens of the feeds' candles."}),
            ("Parameters", {"fields": lines, "description": HOW_TO_SEARCH}),
            ("Search", {"fields": [*how, *luck]}),
        ]

    def save_model(self, request: HttpRequest, obj: Study, form: Any, change: bool) -> None:
        study = study_request(form.trader, form.asked, name=form.cleaned_data.get("name") or "")
        obj.pk = study.pk
        obj.refresh_from_db()

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """Its feeds were written with it, in their order."""

    @display(description="status", ordering="status", label=STUDY_BADGES)
    def status_shown(self, study: Study) -> str:
        return study.status

    @admin.display(description="done")
    def percent_shown(self, study: Study) -> SafeString:
        return bar(study.percent)

    @admin.display(description="best")
    def best_shown(self, study: Study) -> str:
        best = getattr(study, "best_told", None)
        return f"{best['value']:.4g} {objective_words(study.objective)}" if best else "-"

    def sections(self, request: HttpRequest, row: Study) -> Sections:
        told = row.result or {}
        trials = [
            Fact("Status", badge(row.status, STUDY_BADGES), row.last_error),
            Fact("Done", f"{row.percent:g} %", bar(row.percent)),
            Fact("Trials", f"{row.trials.count():,}", f"of {max(row.total - 1, 0):,}, {row.candles:,} candles each"),
            *_luck(told),
        ]
        words = told.get("words", [])
        if words:
            trials.append(Fact("In words", format_html_join("", '<p class="font-normal">{}</p>', ((one,) for one in words)),
                               is_wide=True))  # fmt: skip
        note = FAN_NOTE if row.kind == StudyKind.MONTE_CARLO else ""
        pictures = [Fact(name, picture, note, is_wide=True) for name, picture in _pictures(row, told) if picture]
        tables = [] if row.kind == StudyKind.MONTE_CARLO else [_best(row)]
        return Sections([*trials, *pictures], [*tables, *_folds(row, told), *_ways(told)])


def _luck(told: dict[str, Any]) -> Iterator[Fact]:
    """How far the best trial is to be trusted."""
    best, luck = told.get("best"), told.get("luck")
    if best:
        yield Fact("Best", f"{best['value']:.4g}", f"trial {best['number']}")
    if luck and luck["deflated_sharpe"] is not None:
        yield Fact(
            "Deflated Sharpe", f"{luck['deflated_sharpe']:.0%}", "that it is more than the luckiest of worthless ones"
        )
    if luck and luck["overfitting"] and luck["overfitting"]["probability"] is not None:
        yield Fact(
            "Overfitting",
            f"{luck['overfitting']['probability']:.0%}",
            "that the best is not among the better half later",
        )
    if told.get("efficiency") is not None:
        yield Fact("Efficiency", f"{told['efficiency']:.0%}", "of what the trainings promised")


def _pictures(study: Study, told: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    objective = objective_words(study.objective)
    if study.kind == StudyKind.MONTE_CARLO:
        for way, bands in _in_order(told.get("ways", {})):
            if "why" not in bands:
                name = way.replace("_", " ").capitalize()
                yield name, fan_chart(bands, name)
        return
    rows = list(study.trials.order_by("fold", "number").values_list("value", "parameters"))
    yield f"{capitalised(objective)} by trial", objective_chart([value for value, _ in rows], objective)
    names = sorted(study.space)
    if len(names) == 2:  # a map is of two
        found: dict[tuple[Any, Any], list[float]] = {}
        for value, values in rows:
            if value is not None and all(name in values for name in names):
                found.setdefault((values[names[0]], values[names[1]]), []).append(value)
        cells = {pair: sum(some) / len(some) for pair, some in found.items()}
        if cells:
            yield (
                f"{capitalised(objective)} by {names[0]} and {names[1]}",
                heat_map((names[0], names[1]), cells, objective),
            )
    curve = told.get("equity", [])
    if curve:
        yield "Equity of the tests, one after the other", equity_chart(curve, (_day(curve[0][0]), _day(curve[-1][0])))


def _best(study: Study) -> Table:
    names, shown = sorted(study.space), [one for one in FIGURES if one[1] != study.objective]
    found = study.trials.filter(status=TrialStatus.DONE, value__isnull=False).defer("returns")
    fold = ("Fold",) if len(study.folds) > 1 else ()
    worth = capitalised(objective_words(study.objective))
    return table(
        "Best trials", (*fold, "Trial", worth, *names, "Trades", *(title for title, _, _ in shown)),
        (_line(study, one, names, shown) for one in found.order_by("-value", "fold", "number")[:BEST_SHOWN]),
    )  # fmt: skip


def _line(study: Study, trial: Trial, names: list[str], shown: list[tuple[str, str, str]]) -> list[Any]:
    figures = trial.figures
    return [
        *([trial.fold] if len(study.folds) > 1 else []),
        trial.number,
        f"{trial.value:.4g}",
        *(_value(trial.parameters.get(name)) for name in names),
        figures.get("trades"),
        *(_figure(figures.get(name), unit) for _, name, unit in shown),
    ]


def _folds(study: Study, told: dict[str, Any]) -> list[Table]:
    if "folds" not in told:
        return []
    names = sorted(study.space)
    rows = (
        (
            one["number"], _day(one["train"][0]), _day(one["test"][0]), _day(one["test"][1]),
            *(_value(one["values"].get(name)) for name in names), _figure(one["train_value"], ""),
            _figure(one["test_value"], ""), _figure(one["test_figures"].get("total_return"), "%"),
        )
        for one in told["folds"]
    )  # fmt: skip
    headers = ("Fold", "Trained from", "Tested from", "To", *names, "In training", "In the test", "Return of the test")
    return [table("Folds", headers, rows)]


def _ways(told: dict[str, Any]) -> list[Table]:
    if "ways" not in told:
        return []
    rows = (
        (
            way.replace("_", " ").capitalize(), bands["paths"], _figure(bands["final_return"]["5"], "%"),
            _figure(bands["final_return"]["50"], "%"), _figure(bands["final_return"]["95"], "%"),
            _figure(bands["drawdown"]["5"], "%"), _figure(bands["loss"], "%"), _figure(bands["ruin"], "%"),
        )
        for way, bands in _in_order(told["ways"])
        if "why" not in bands
    )  # fmt: skip
    headers = ("Left to luck", "Paths", "Return at 5 %", "In the middle", "At 95 %", "Drawdown at 5 %", "Loss", "Ruin")
    return [table("What luck might have done", headers, rows)]


def _in_order(ways: dict[str, Any]) -> list[tuple[str, Any]]:
    """As they are always named: JSON in a database has no order of its own."""
    return [(way.value, ways[way.value]) for way in MonteCarlo if way.value in ways]


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    return f"{value:z.1%}" if unit == "%" else f"{value:.3g}"


def capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


def _day(milliseconds: int) -> SafeString:
    return format_html("{}", f"{datetime.fromtimestamp(milliseconds / 1000, tz=UTC):%Y-%m-%d}")
