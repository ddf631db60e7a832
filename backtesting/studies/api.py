"""Studies over REST: asked for, followed, stopped and gone on with; their trials sorted and as CSV, and any of them made a
backtest of its own.

Each trader's are their own.
"""

from __future__ import annotations

from typing import Any

import django_filters
from django.contrib.auth.models import User
from django.db.models import F, JSONField, QuerySet
from django.db.models.fields.json import KeyTransform
from drf_spectacular.utils import OpenApiParameter, OpenApiTypes, extend_schema, extend_schema_field
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.exceptions import NotFound
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import replace_query_param

from backtesting.api import BacktestDetail, BacktestFeedSerializer, BacktestInput
from backtesting.models import METHODS, OBJECTIVE_CHOICES, JobStatus, Study, StudyKind, Trial, TrialStatus
from backtesting.research.search import SearchMethod
from backtesting.research.words import WORDS
from backtesting.result_api import sheet
from backtesting.studies import (
    UnableToStudy,
    study_cancel,
    study_delete,
    study_request,
    study_retry,
    trial_to_run,
)
from backtesting.studies.setups import LARGEST_SEED, MOST_TRIALS, StudyAsked
from marketdata.tables import FormatNegotiation
from pipeline.rest import LARGEST_ID, Filters, IdFilter, NoInput, OwnedRows, RowSerializer
from strategies.api import ParametersField

OWN_WORDS = ("kind", "space", "method", "objective", "min_trades", "trials_wanted", "seed", "options")
ORDERS = ("-value", "value", "number")
LONGEST_NUMBER = 9  # digits


class StudyProgressSerializer(serializers.Serializer[Any]):
    """How far it is."""

    percent = serializers.FloatField()
    done = serializers.IntegerField(help_text="Trials, and the result as one more.")
    total = serializers.IntegerField(help_text="0 until it has begun.")


class StudySerializer(RowSerializer[Study]):
    """A study as a line of a list."""

    owner = serializers.CharField(source="owner.username", read_only=True)
    feeds = BacktestFeedSerializer(source="places", many=True, read_only=True)
    progress = serializers.SerializerMethodField()
    best = serializers.SerializerMethodField(help_text="Number, parameters, value and figures; null until it is done.")

    class Meta:
        model = Study
        fields: tuple[str, ...] = (
            "id", "owner", "name", "kind", "method", "strategy", "objective", "feeds", "from_at", "until_at", "status",
            "progress", "best", "last_error", "created_at", "started_at", "ended_at",
        )  # fmt: skip
        read_only_fields = fields

    @extend_schema_field(StudyProgressSerializer)
    def get_progress(self, study: Study) -> dict[str, Any]:
        return {"percent": study.percent, "done": study.done, "total": study.total}

    @extend_schema_field({"type": "object", "nullable": True, "additionalProperties": {}})
    def get_best(self, study: Study) -> Any:
        # Lists ask the database for this part alone.
        return study.best if hasattr(study, "best") else (study.result or {}).get("best")


class StudyDetail(StudySerializer):
    """A study with all that it was asked, and in words what it came to."""

    in_words = serializers.SerializerMethodField()

    class Meta(StudySerializer.Meta):
        fields = (
            *StudySerializer.Meta.fields, "parameters", "space", "options", "min_trades", "trials_wanted", "seed",
            "settings", "limits", "exits", "detail_timeframe", "candles", "folds", "per_fold", "code_hash", "data_hash",
            "in_words",
        )  # fmt: skip
        read_only_fields = fields

    @extend_schema_field(serializers.ListField(child=serializers.CharField()))
    def get_in_words(self, study: Study) -> Any:
        return (study.result or {}).get("words", [])


class StudyInput(BacktestInput):
    """What is to be studied: a backtest's words, and what is varied."""

    kind = serializers.ChoiceField(choices=StudyKind.choices)
    parameters = ParametersField(default=dict, help_text="Those that are not searched; the rest are defaults.")
    space = ParametersField(
        default=dict,
        help_text='`{"fast": [5, 10], "slow": {"low": 20, "high": 200, "step": 10}, "sides": {}}`: values, a range whose '
        "left out ends are the parameter's own bounds, or all choices. Of a Monte Carlo study those whose neighbours are "
        "tried.",
    )  # fmt: skip
    method = serializers.ChoiceField(choices=METHODS, default=SearchMethod.GRID.value)
    objective = serializers.ChoiceField(choices=OBJECTIVE_CHOICES, default="sharpe")
    min_trades = serializers.IntegerField(default=1, min_value=0, max_value=1_000_000)
    trials_wanted = serializers.IntegerField(
        default=100, min_value=1, max_value=MOST_TRIALS, help_text="At most, and for each fold; a grid ends by itself."
    )
    seed = serializers.IntegerField(default=0, min_value=0, max_value=LARGEST_SEED)
    options = ParametersField(default=dict, help_text="By kind: of `/studies/options`.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        words = {name: attrs[name] for name in OWN_WORDS}
        told = super().validate(attrs)
        return {"name": told["name"], "asked": StudyAsked(setup=told["asked"], **words)}


class StudyFilter(Filters):
    status = django_filters.MultipleChoiceFilter(choices=JobStatus.choices)
    kind = django_filters.MultipleChoiceFilter(choices=StudyKind.choices)
    strategy = django_filters.CharFilter()
    name = django_filters.CharFilter(lookup_expr="icontains", help_text="A part of it.")
    feed = IdFilter(field_name="places__feed_id", help_text="With this feed among its own.")
    symbol = django_filters.CharFilter(field_name="places__feed__market__symbol", distinct=True)
    since = django_filters.IsoDateTimeFilter(field_name="created_at", lookup_expr="gte")
    until = django_filters.IsoDateTimeFilter(field_name="created_at", lookup_expr="lt")

    class Meta:
        model = Study
        fields: tuple[str, ...] = ()


class TrialSerializer(serializers.ModelSerializer[Trial]):
    class Meta:
        model = Trial
        fields = ("fold", "number", "status", "value", "parameters", "figures", "reason", "created_at")
        read_only_fields = fields


class TrialsAnswer(serializers.Serializer[Any]):
    count = serializers.IntegerField()
    next = serializers.URLField(allow_null=True)
    results = TrialSerializer(many=True)


class TrialsQuery(serializers.Serializer[Any]):
    """Which trials, in which order."""

    order = serializers.ChoiceField(
        choices=ORDERS, default="-value", help_text="The best first, the worst first, or as they were numbered."
    )
    fold = serializers.IntegerField(required=False, min_value=0, max_value=LARGEST_ID)
    status = serializers.ChoiceField(choices=TrialStatus.choices, required=False)
    start = serializers.IntegerField(default=0, min_value=0, max_value=MOST_TRIALS, help_text="How many to pass over.")
    limit = serializers.IntegerField(
        default=100, min_value=1, max_value=MOST_TRIALS, help_text="How many at most; as CSV all, unless it is given."
    )


class TrialsCsv(BaseRenderer):
    """Trials as CSV: a column for each parameter that is not the same in all, and one for each figure."""

    media_type = "text/csv"
    format = "csv"

    def render(self, data: Any, accepted_media_type: str | None = None, renderer_context: Any = None) -> bytes:
        rows = data["results"]
        names = list(dict.fromkeys(name for row in rows for name in row["parameters"]))
        varied = [name for name in names if len({str(row["parameters"].get(name)) for row in rows}) > 1]
        figures = list(dict.fromkeys(name for row in rows for name in row["figures"]))
        head = ["fold", "number", "status", "value", *varied, *figures, "reason"]
        return sheet([head, *(_cells(row, varied, figures) for row in rows)])


def _cells(row: dict[str, Any], varied: list[str], figures: list[str]) -> list[Any]:
    own = [row["fold"], row["number"], row["status"], row["value"]]
    parameters = [row["parameters"].get(name) for name in varied]
    return [*own, *parameters, *(row["figures"].get(name) for name in figures), row["reason"]]


class OptionsAnswer(serializers.Serializer[Any]):
    """JSON schemas of `options`, by kind."""

    def get_fields(self) -> dict[str, Any]:
        return {kind: serializers.JSONField() for kind in WORDS}


class StudyViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, mixins.DestroyModelMixin, OwnedRows[Study]):
    """Searches for parameters, walks forward, and what else luck might have done."""

    queryset = Study.objects.select_related("owner").prefetch_related("places__feed__market__exchange")
    serializer_class = StudySerializer
    filterset_class = StudyFilter
    http_method_names = ["get", "post", "delete", "head", "options"]

    def get_queryset(self) -> QuerySet[Study]:
        rows = super().get_queryset()
        if self.action != "list":
            return rows
        # Of the result a list shows a part, and each may be many kilobytes.
        best = KeyTransform("best", "result", output_field=JSONField())
        return rows.defer("result", "parameters", "settings", "limits", "exits", "folds").annotate(best=best)

    @extend_schema(responses=StudyDetail)
    def retrieve(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """One study with all that it was asked."""
        return Response(StudyDetail(self.get_object(), context=self.get_serializer_context()).data)

    @extend_schema(request=StudyInput, responses={201: StudyDetail})
    def create(self, request: Request) -> Response:
        """Have a study computed, a slice at a time beside everybody else's."""
        given = StudyInput(data=request.data, context=self.get_serializer_context())
        given.is_valid(raise_exception=True)
        study = study_request(_user(request), given.validated_data["asked"], name=given.validated_data["name"])
        return self._told(study, status=201)

    def perform_destroy(self, instance: Study) -> None:
        study_delete(instance.pk)

    @extend_schema(request=NoInput, responses=StudyDetail)
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, pk: str | None = None) -> Response:
        """End it; what is stored stays. One that has ended already stays as it is."""
        study = self.get_object()
        study_cancel(study.pk, actor=request.user.get_username())
        return self._told(study)

    @extend_schema(request=NoInput, responses=StudyDetail)
    @action(detail=True, methods=["post"])
    def retry(self, request: Request, pk: str | None = None) -> Response:
        """Go on with one that failed or was cancelled; anew, where code or candles have changed since."""
        study = self.get_object()
        study_retry(study.pk, actor=request.user.get_username())
        return self._told(study)

    @extend_schema(responses={200: OpenApiTypes.OBJECT}, filters=False)
    @action(detail=True, filterset_class=None, pagination_class=None)
    def result(self, request: Request, pk: str | None = None) -> Response:
        """All of what it came to: the best trial and how much of it is luck, what matters, curves and bands."""
        study = self.get_object()
        if study.result is None:
            raise UnableToStudy(f"wanted a study that is done, was {study.status}")
        return Response(study.result)

    @extend_schema(
        parameters=[TrialsQuery],
        responses={(200, "application/json"): TrialsAnswer, (200, "text/csv"): OpenApiTypes.STR},
        filters=False,
    )
    @action(
        detail=True, renderer_classes=[JSONRenderer, TrialsCsv], content_negotiation_class=FormatNegotiation,
        filterset_class=None, pagination_class=None,
    )  # fmt: skip
    def trials(self, request: Request, pk: str | None = None) -> Response:
        """Its trials so far, the best first unless another order is asked for."""
        study = self.get_object()
        query = TrialsQuery(data=request.query_params)
        query.is_valid(raise_exception=True)
        asked = query.validated_data
        rows = study.trials.filter(**{name: asked[name] for name in ("fold", "status") if name in asked})
        start, limit = asked["start"], asked["limit"]
        if request.accepted_renderer.format == "csv" and "limit" not in request.query_params:
            limit = MOST_TRIALS
        count, after = rows.count(), start + limit
        found = rows.defer("returns").order_by(*_order(asked["order"]))[start:after]
        url = replace_query_param(request.build_absolute_uri(), "start", after) if after < count else None
        headers = {"Link": f'<{url}>; rel="next"'} if url is not None else {}
        told = {"count": count, "next": url, "results": TrialSerializer(found, many=True).data}
        return Response(told, headers=headers)

    @extend_schema(
        request=NoInput, responses={201: BacktestDetail},
        parameters=[
            OpenApiParameter("number", int, OpenApiParameter.PATH, description="Of the trial."),
            OpenApiParameter("fold", int, description="Of the trial; 0 if not given."),
        ],
    )  # fmt: skip
    @action(detail=True, methods=["post"], url_path=r"trials/(?P<number>[^/]+)/run", url_name="trial-run")
    def run(self, request: Request, pk: str | None = None, number: str = "") -> Response:
        """Have the backtest of a trial's parameters computed, over the trial's span: with trades, equity and a report."""
        study = self.get_object()
        place = {"number": number, "fold": request.query_params.get("fold", "0")}
        if not all(text.isascii() and text.isdigit() and len(text) <= LONGEST_NUMBER for text in place.values()):
            raise NotFound
        trial = study.trials.select_related("study__owner").filter(**place).first()
        if trial is None:
            raise NotFound
        run = trial_to_run(trial, _user(request))
        return Response(BacktestDetail(run, context=self.get_serializer_context()).data, status=201)

    @extend_schema(responses=OptionsAnswer, filters=False)
    @action(detail=False, filterset_class=None, pagination_class=None, url_path="options")
    def words(self, request: Request) -> Response:
        """What each kind of study asks for beside a backtest's words: JSON schemas with bounds, defaults and help."""
        return Response({kind: words.model_json_schema() for kind, words in WORDS.items()})

    def handle_exception(self, exc: Exception) -> Response:
        response = super().handle_exception(exc)
        # A refusal is JSON, whatever was asked for.
        self.request.accepted_renderer, self.request.accepted_media_type = JSONRenderer(), JSONRenderer.media_type
        return response

    def _told(self, study: Study, status: int = 200) -> Response:
        row = self.get_queryset().get(pk=study.pk)
        return Response(StudyDetail(row, context=self.get_serializer_context()).data, status=status)


def _user(request: Request) -> User:
    assert isinstance(request.user, User)  # IsAuthenticated let nobody else in
    return request.user


def _order(order: str) -> list[Any]:
    if order == "number":
        return ["fold", "number"]
    value = F("value")
    return [value.desc(nulls_last=True) if order == "-value" else value.asc(nulls_last=True), "fold", "number"]
