"""Backtests over REST: asked for, followed, stopped, repeated and compared. Each trader's are their own."""

from __future__ import annotations

from typing import Any

import django_filters
from django.contrib.auth.models import User
from django.db.models import JSONField, QuerySet
from django.db.models.fields.json import KeyTransform
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from backtesting.comparison import MOST_COMPARED, runs_compared
from backtesting.models import BacktestRun, JobStatus
from backtesting.result_api import ResultViews
from backtesting.runs import (
    run_cancel,
    run_delete,
    run_repeat,
    run_repetition,
    run_request,
    run_retry,
)
from backtesting.setups import MOST_MARKETS, Asked, candles_end
from backtesting.words import LimitsWords, SettingsWords
from domain.exit_plan import ExitPlan
from exchanges.api import ExchangeRelated
from exchanges.models import Account, Exchange
from marketdata.models import Feed
from marketdata.tables import (
    TIMEFRAMES,
    MomentField,
)
from pipeline.rest import LARGEST_ID, Filters, IdFilter, NoInput, OwnedRelated, RowSerializer
from strategies.api import ParametersField


class BacktestFeedSerializer(serializers.Serializer[Any]):
    """A feed as its reader knows it."""

    id = serializers.IntegerField(source="feed.pk")
    exchange_name = serializers.CharField(source="feed.market.exchange.name")
    symbol = serializers.CharField(source="feed.market.symbol")
    timeframe = serializers.CharField(source="feed.timeframe")


class BacktestProgressSerializer(serializers.Serializer[Any]):
    """How far it is."""

    percent = serializers.FloatField()
    done = serializers.IntegerField(help_text="Candles, of all markets together.")
    total = serializers.IntegerField(help_text="0 until they are read.")


class BacktestSerializer(RowSerializer[BacktestRun]):
    """A backtest as a line of a list."""

    owner = serializers.CharField(source="owner.username", read_only=True)
    feeds = BacktestFeedSerializer(source="places", many=True, read_only=True)
    progress = serializers.SerializerMethodField()
    stats = serializers.SerializerMethodField(help_text="Figures by name; null until it is done.")

    class Meta:
        model = BacktestRun
        fields: tuple[str, ...] = (
            "id", "owner", "name", "strategy", "feeds", "from_at", "until_at", "status", "progress", "stats", "candles",
            "seconds", "tries", "last_error", "repeats", "created_at", "started_at", "ended_at",
        )  # fmt: skip
        read_only_fields = fields

    @extend_schema_field(BacktestProgressSerializer)
    def get_progress(self, run: BacktestRun) -> dict[str, Any]:
        return {"percent": run.percent, "done": run.done, "total": run.total}

    @extend_schema_field({"type": "object", "nullable": True, "additionalProperties": {}})
    def get_stats(self, run: BacktestRun) -> Any:
        # Lists ask the database for this part alone.
        return run.stats if hasattr(run, "stats") else (run.figures or {}).get("stats")


class BacktestRepetition(serializers.Serializer[Any]):
    """How it compares with the one that it repeats."""

    has_same_code = serializers.BooleanField()
    has_same_data = serializers.BooleanField()
    has_same_trades = serializers.BooleanField()
    in_words = serializers.CharField()


class BacktestDetail(BacktestSerializer):
    """A backtest with all that it was asked and what it came to, its trades and equity apart."""

    figures = serializers.SerializerMethodField(help_text="All of them; null until it is done.")
    repetition = serializers.SerializerMethodField(help_text="Null where it repeats none, or one of them is not done.")

    class Meta(BacktestSerializer.Meta):
        fields = (
            *BacktestSerializer.Meta.fields, "parameters", "settings", "limits", "exits", "detail_timeframe", "code_hash",
            "data_hash", "figures", "repetition",
        )  # fmt: skip
        read_only_fields = fields

    @extend_schema_field({"type": "object", "nullable": True, "additionalProperties": {}})
    def get_figures(self, run: BacktestRun) -> dict[str, Any] | None:
        return run.figures_told or None

    @extend_schema_field(BacktestRepetition(allow_null=True))
    def get_repetition(self, run: BacktestRun) -> dict[str, Any] | None:
        told = run_repetition(run)
        if told is None:
            return None
        return {
            "has_same_code": told.has_same_code, "has_same_data": told.has_same_data,
            "has_same_trades": told.has_same_trades, "in_words": str(told),
        }  # fmt: skip


class FeedsField(serializers.ListField):
    """Feeds by their ids, in the order of these; asked for at once, however many they are."""

    child = serializers.IntegerField(min_value=1, max_value=LARGEST_ID)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_length=MOST_MARKETS, **kwargs)

    def to_internal_value(self, data: Any) -> list[Feed]:
        if isinstance(data, list) and len(data) > MOST_MARKETS:  # here, for validators come after this
            raise serializers.ValidationError(f"wanted at most {MOST_MARKETS} feeds, was {len(data)}")
        ids = super().to_internal_value(data)
        found = Feed.objects.select_related("market__exchange").in_bulk(ids)
        if unknown := [str(pk) for pk in dict.fromkeys(ids) if pk not in found]:
            raise serializers.ValidationError(f"wanted ids of feeds, was {', '.join(unknown)}")
        return [found[pk] for pk in ids]


class BacktestInput(serializers.Serializer[Any]):
    """What is to be tested. Its feeds are given by id, or by exchange, symbols and timeframe."""

    name = serializers.CharField(required=False, allow_blank=True, max_length=BacktestRun.NAME_LENGTH)
    strategy = serializers.CharField(max_length=60, help_text="Of `/strategies`.")
    parameters = ParametersField(default=dict, help_text="As the strategy's schema says; the rest are defaults.")
    feeds = FeedsField(required=False, help_text=f"Ids; 1 to {MOST_MARKETS}, sharing one account.")
    exchange = ExchangeRelated(queryset=Exchange.objects.all(), required=False)
    symbols = serializers.ListField(child=serializers.CharField(max_length=40), required=False, max_length=MOST_MARKETS)
    timeframe = serializers.ChoiceField(choices=TIMEFRAMES, required=False)
    from_at = MomentField(help_text="Open time of the first candle that may be traded in.")
    until_at = MomentField(required=False, help_text="Not given: up to where every feed has candles.")
    detail_timeframe = serializers.ChoiceField(
        choices=TIMEFRAMES, required=False, allow_blank=True,
        help_text="Candles that tell what came first inside a candle.",
    )  # fmt: skip
    account: OwnedRelated[Account] = OwnedRelated(
        queryset=Account.objects.select_related("exchange"), required=False,
        help_text="Whose fees and limits are taken where nothing else is said.",
    )  # fmt: skip
    settings = ParametersField(default=dict, help_text="Of `/backtests/settings`; the rest are defaults.")
    limits = ParametersField(default=dict, help_text="Of `/backtests/settings`; the rest are none.")
    exits = ParametersField(default=dict, help_text="Exits beside or instead of the strategy's.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        feeds = attrs.get("feeds") or _feeds_named(attrs)
        until_at = attrs.get("until_at") or min(map(candles_end, feeds))
        names = ("strategy", "parameters", "from_at", "settings", "limits", "exits", "account", "detail_timeframe")
        words = {name: attrs[name] for name in names if name in attrs}
        return {"name": attrs.get("name", ""), "asked": Asked(feeds=feeds, until_at=until_at, **words)}


def _feeds_named(attrs: dict[str, Any]) -> list[Feed]:
    exchange, symbols, timeframe = (attrs.get(name) for name in ("exchange", "symbols", "timeframe"))
    if exchange is None or not symbols or not timeframe:
        raise serializers.ValidationError({"feeds": "wanted ids, or exchange, symbols and timeframe, was neither"})
    rows = Feed.objects.filter(market__exchange=exchange, market__symbol__in=symbols, timeframe=timeframe)
    found = {feed.market.symbol: feed for feed in rows.select_related("market__exchange")}
    unknown = [symbol for symbol in symbols if symbol not in found]
    if unknown:
        raise serializers.ValidationError(
            {"symbols": f"wanted markets of {exchange} with a feed at {timeframe}, was {', '.join(unknown)}"}
        )
    return [found[symbol] for symbol in symbols]


class BacktestFilter(Filters):
    status = django_filters.MultipleChoiceFilter(choices=JobStatus.choices)
    strategy = django_filters.CharFilter()
    name = django_filters.CharFilter(lookup_expr="icontains", help_text="A part of it.")
    feed = IdFilter(field_name="places__feed_id", help_text="With this feed among its own.")
    symbol = django_filters.CharFilter(field_name="places__feed__market__symbol", distinct=True)
    repeats = IdFilter(field_name="repeats_id")
    since = django_filters.IsoDateTimeFilter(field_name="created_at", lookup_expr="gte")
    until = django_filters.IsoDateTimeFilter(field_name="created_at", lookup_expr="lt")

    class Meta:
        model = BacktestRun
        fields: tuple[str, ...] = ()


class CompareQuery(serializers.Serializer[Any]):
    """Which backtests."""

    ids = serializers.CharField(max_length=400, help_text="Ids with commas between them: `1,2,3`.")

    def validate_ids(self, text: str) -> list[int]:
        parts = [part.strip() for part in text.split(",")]
        if not all(part.isascii() and part.isdigit() for part in parts) or len(parts) > MOST_COMPARED:
            raise serializers.ValidationError(f"wanted 1 to {MOST_COMPARED} ids with commas between, was {text!r:.60}")
        return [min(int(part[:20]), LARGEST_ID) for part in parts]


class BacktestComparisonLine(serializers.Serializer[Any]):
    name = serializers.CharField()
    values = serializers.ListField(child=serializers.JSONField(), help_text="Of each run, in their order.")


class BacktestComparison(serializers.Serializer[Any]):
    runs = BacktestSerializer(many=True)
    figures = BacktestComparisonLine(many=True)
    differ = BacktestComparisonLine(
        many=True, help_text="What was asked, of what code and candles, where these are not all the same."
    )
    in_words = serializers.ListField(child=serializers.CharField())


class BacktestWords(serializers.Serializer[Any]):
    settings = serializers.JSONField(help_text="JSON schema of `settings`.")
    limits = serializers.JSONField(help_text="JSON schema of `limits`.")
    exits = serializers.JSONField(help_text="JSON schema of `exits`.")


class BacktestViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, mixins.DestroyModelMixin, ResultViews):
    """What trading would have come to, on candles that are stored."""

    queryset = BacktestRun.objects.select_related("owner").prefetch_related("places__feed__market__exchange")
    serializer_class = BacktestSerializer
    filterset_class = BacktestFilter
    http_method_names = ["get", "post", "delete", "head", "options"]

    def get_queryset(self) -> QuerySet[BacktestRun]:
        rows = super().get_queryset()
        if self.action != "list":
            return rows
        # Of the figures a list shows a part, and each is some kilobytes.
        stats = KeyTransform("stats", "figures", output_field=JSONField())
        return rows.defer("figures", "parameters", "settings", "limits", "exits").annotate(stats=stats)

    @extend_schema(responses=BacktestDetail)
    def retrieve(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """One backtest with all that it was asked, and its figures."""
        return Response(BacktestDetail(self.get_object(), context=self.get_serializer_context()).data)

    @extend_schema(request=BacktestInput, responses={201: BacktestDetail})
    def create(self, request: Request) -> Response:
        """Have a backtest computed. Candles that are missing are named, with the backfill that fetches them."""
        given = BacktestInput(data=request.data, context=self.get_serializer_context())
        given.is_valid(raise_exception=True)
        run = run_request(_user(request), given.validated_data["asked"], name=given.validated_data["name"])
        return self._told(run, status=201)

    def perform_destroy(self, instance: BacktestRun) -> None:
        run_delete(instance.pk)

    @extend_schema(request=NoInput, responses=BacktestDetail)
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, pk: str | None = None) -> Response:
        """End it; one that has ended already stays as it is."""
        run = self.get_object()
        run_cancel(run.pk, actor=request.user.get_username())
        return self._told(run)

    @extend_schema(request=NoInput, responses=BacktestDetail)
    @action(detail=True, methods=["post"])
    def retry(self, request: Request, pk: str | None = None) -> Response:
        """Have one computed after all that failed or was cancelled."""
        run = self.get_object()
        run_retry(run.pk, actor=request.user.get_username())
        return self._told(run)

    @extend_schema(request=NoInput, responses={201: BacktestDetail})
    @action(detail=True, methods=["post"])
    def repeat(self, request: Request, pk: str | None = None) -> Response:
        """The same words again, as a run of its own that says whether code, candles or trades have changed since."""
        return self._told(run_repeat(self.get_object(), _user(request)), status=201)

    @extend_schema(parameters=[CompareQuery], responses=BacktestComparison, filters=False)
    @action(detail=False, filterset_class=None, pagination_class=None)
    def compare(self, request: Request) -> Response:
        """Figures of several side by side, and in words what differs in what was asked of them."""
        query = CompareQuery(data=request.query_params)
        query.is_valid(raise_exception=True)
        ids = query.validated_data["ids"]
        found = {run.pk: run for run in self.get_queryset().filter(pk__in=ids)}
        unknown = [str(pk) for pk in ids if pk not in found]
        if unknown:
            raise serializers.ValidationError({"ids": [f"wanted backtests of yours, was {', '.join(unknown)}"]})
        runs = [found[pk] for pk in dict.fromkeys(ids)]
        told = runs_compared(runs)
        return Response(
            {
                "runs": self.get_serializer(runs, many=True).data,
                "figures": BacktestComparisonLine(told.figures, many=True).data,
                "differ": BacktestComparisonLine(told.differ, many=True).data,
                "in_words": told.in_words,
            }
        )

    @extend_schema(responses=BacktestWords, filters=False)
    @action(detail=False, filterset_class=None, pagination_class=None, url_path="settings")
    def words(self, request: Request) -> Response:
        """What can be said of the account, its costs, limits and exits: JSON schemas with bounds, defaults and help."""
        return Response(
            {
                "settings": SettingsWords.model_json_schema(),
                "limits": LimitsWords.model_json_schema(),
                "exits": ExitPlan.model_json_schema(),
            }
        )

    def _told(self, run: BacktestRun, status: int = 200) -> Response:
        row = self.get_queryset().get(pk=run.pk)
        return Response(BacktestDetail(row, context=self.get_serializer_context()).data, status=status)


def _user(request: Request) -> User:
    assert isinstance(request.user, User)  # IsAuthenticated let nobody else in
    return request.user
