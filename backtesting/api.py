"""Backtests over REST: asked for, followed, stopped, repeated and compared; what came of them as JSON, CSV, Arrow and a page.

Each trader's are their own. What is done does not change any more: it is answered with an ETag.
"""

from __future__ import annotations

import csv
import hashlib
import io
from datetime import UTC, datetime
from typing import Any

import django_filters
import numpy as np
from django.contrib.auth.models import User
from django.db.models import JSONField, QuerySet
from django.db.models.fields.json import KeyTransform
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from django.utils.cache import get_conditional_response
from drf_spectacular.utils import OpenApiTypes, extend_schema, extend_schema_field
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import replace_query_param

from backtesting.comparison import MOST_COMPARED, runs_compared
from backtesting.figures import TRADE_FIELDS
from backtesting.models import BacktestResult, BacktestRun, JobStatus
from backtesting.packing import unpacked
from backtesting.report import report_html
from backtesting.runs import (
    UnableToBacktest,
    run_cancel,
    run_delete,
    run_repeat,
    run_repetition,
    run_request,
    run_result,
    run_retry,
)
from backtesting.setups import MOST_MARKETS, Asked
from backtesting.words import LimitsWords, SettingsWords
from domain.exit_plan import ExitPlan
from exchanges.api import ExchangeRelated
from exchanges.models import Account, Exchange
from marketdata.backfills import span_end
from marketdata.candle_api import KNOWN_ALREADY, tables
from marketdata.models import Feed
from marketdata.tables import (
    MOST_ROWS,
    MOST_ROWS_IN_BULK,
    TIMEFRAMES,
    FormatNegotiation,
    MomentField,
    Span,
    Table,
    TableArrow,
    TableCsv,
    TableJson,
)
from pipeline.rest import LARGEST_ID, Filters, IdFilter, NoInput, OwnedRelated, OwnedRows, RowSerializer
from strategies.api import ParametersField

# What a report may do in a browser: show itself. It has no address of ours, so that nothing in it acts for who reads it.
REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; "
    "sandbox allow-scripts allow-downloads"
)


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


class RepetitionSerializer(serializers.Serializer[Any]):
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

    @extend_schema_field(RepetitionSerializer(allow_null=True))
    def get_repetition(self, run: BacktestRun) -> dict[str, Any] | None:
        told = run_repetition(run)
        if told is None:
            return None
        return {
            "has_same_code": told.has_same_code, "has_same_data": told.has_same_data,
            "has_same_trades": told.has_same_trades, "in_words": str(told),
        }  # fmt: skip


class BacktestInput(serializers.Serializer[Any]):
    """What is to be tested. Its feeds are given by id, or by exchange, symbols and timeframe."""

    name = serializers.CharField(required=False, allow_blank=True, max_length=BacktestRun.NAME_LENGTH)
    strategy = serializers.CharField(max_length=60, help_text="Of `/strategies`.")
    parameters = ParametersField(default=dict, help_text="As the strategy's schema says; the rest are defaults.")
    feeds = serializers.PrimaryKeyRelatedField(
        many=True, required=False, queryset=Feed.objects.select_related("market__exchange"),
        help_text=f"1 to {MOST_MARKETS}, sharing one account.",
    )  # fmt: skip
    exchange = ExchangeRelated(queryset=Exchange.objects.all(), required=False)
    symbols = serializers.ListField(child=serializers.CharField(max_length=40), required=False, max_length=MOST_MARKETS)
    timeframe = serializers.ChoiceField(choices=TIMEFRAMES, required=False)
    from_at = MomentField(help_text="Open time of the first candle that may be traded in.")
    until_at = MomentField(required=False, help_text="Not given: all that have closed.")
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
        until_at = attrs.get("until_at") or min(span_end(feed, timezone.now()) for feed in feeds)
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


class TradesCsv(BaseRenderer):
    """Rows as CSV under the names of a trade's fields."""

    media_type = "text/csv"
    format = "csv"

    def render(self, data: Any, accepted_media_type: str | None = None, renderer_context: Any = None) -> bytes:
        lines = io.StringIO()
        rows = csv.DictWriter(lines, TRADE_FIELDS, lineterminator="\n", extrasaction="ignore")
        rows.writeheader()
        rows.writerows(data["results"])
        return lines.getvalue().encode()


class Page(BaseRenderer):
    """A report, for the formats that an address may be asked for."""

    media_type = "text/html"
    format = "html"

    def render(self, data: Any, accepted_media_type: str | None = None, renderer_context: Any = None) -> bytes:
        return bytes(data)


class TradeSerializer(serializers.Serializer[Any]):
    """A position from its first entry to its last exit; figures are floats, for statistics."""

    symbol = serializers.CharField()
    side = serializers.CharField()
    entry_at = serializers.DateTimeField()
    entry_price = serializers.FloatField()
    exit_at = serializers.DateTimeField()
    exit_price = serializers.FloatField()
    quantity = serializers.FloatField()
    pnl = serializers.FloatField(help_text="After fees and with funding.")
    fees = serializers.FloatField()
    funding = serializers.FloatField()
    exit_reason = serializers.CharField(allow_null=True, help_text="Null: still held, valued at the last close.")
    tag = serializers.CharField(allow_blank=True)

    def get_fields(self) -> dict[str, Any]:
        # ``return`` is no name that Python lets one give.
        return {
            **super().get_fields(),
            "return": serializers.FloatField(help_text="pnl as a part of what was entered."),
        }


class TradesAnswer(serializers.Serializer[Any]):
    count = serializers.IntegerField()
    next = serializers.URLField(allow_null=True)
    results = TradeSerializer(many=True)


class EquityAnswer(serializers.Serializer[Any]):
    run = serializers.IntegerField()
    next = serializers.URLField(allow_null=True, help_text="Where the rows after these are.")
    results = serializers.ListField(
        child=serializers.DictField(), help_text="`open_at` of each candle and `equity` at its close."
    )


class EquityQuery(serializers.Serializer[Any]):
    """Which part of the curve."""

    from_at = MomentField(required=False, help_text="Candles that open then or later.")
    until = MomentField(required=False, help_text="Candles that open before then.")
    limit = serializers.IntegerField(
        default=MOST_ROWS, min_value=1, max_value=MOST_ROWS_IN_BULK,
        help_text=f"Rows at most: up to {MOST_ROWS} as JSON, up to {MOST_ROWS_IN_BULK} as CSV and Arrow.",
    )  # fmt: skip

    def get_fields(self) -> dict[str, Any]:
        return {"from" if name == "from_at" else name: one for name, one in super().get_fields().items()}

    def validate_limit(self, limit: int) -> int:
        most = MOST_ROWS if self.context["format"] == "json" else MOST_ROWS_IN_BULK
        if limit > most:
            raise serializers.ValidationError(f"Ensure this value is less than or equal to {most}.")
        return limit


class TradesQuery(serializers.Serializer[Any]):
    """Which of the trades, in the order in which they ended."""

    start = serializers.IntegerField(default=0, min_value=0, help_text="How many to pass over.")
    limit = serializers.IntegerField(
        default=200,
        min_value=1,
        max_value=MOST_ROWS_IN_BULK,
        help_text="How many at most; as CSV all, unless it is given.",
    )


class CompareQuery(serializers.Serializer[Any]):
    """Which backtests."""

    ids = serializers.CharField(max_length=400, help_text="Ids with commas between them: `1,2,3`.")

    def validate_ids(self, text: str) -> list[int]:
        parts = [part.strip() for part in text.split(",")]
        if not all(part.isascii() and part.isdigit() for part in parts) or len(parts) > MOST_COMPARED:
            raise serializers.ValidationError(f"wanted 1 to {MOST_COMPARED} ids with commas between, was {text!r:.60}")
        return [min(int(part[:20]), LARGEST_ID) for part in parts]


class ComparisonLine(serializers.Serializer[Any]):
    name = serializers.CharField()
    values = serializers.ListField(child=serializers.JSONField(), help_text="Of each run, in their order.")


class ComparisonAnswer(serializers.Serializer[Any]):
    runs = BacktestSerializer(many=True)
    figures = ComparisonLine(many=True)
    differ = ComparisonLine(
        many=True, help_text="What was asked, of what code and candles, where these are not all the same."
    )
    in_words = serializers.ListField(child=serializers.CharField())


class SettingsAnswer(serializers.Serializer[Any]):
    settings = serializers.JSONField(help_text="JSON schema of `settings`.")
    limits = serializers.JSONField(help_text="JSON schema of `limits`.")
    exits = serializers.JSONField(help_text="JSON schema of `exits`.")


class BacktestViewSet(
    mixins.ListModelMixin, mixins.RetrieveModelMixin, mixins.DestroyModelMixin, OwnedRows[BacktestRun]
):
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

    @extend_schema(
        parameters=[TradesQuery, KNOWN_ALREADY],
        responses={(200, "application/json"): TradesAnswer, (200, "text/csv"): OpenApiTypes.STR, 304: None},
        filters=False,
    )
    @action(
        detail=True, renderer_classes=[JSONRenderer, TradesCsv], content_negotiation_class=FormatNegotiation,
        filterset_class=None, pagination_class=None,
    )  # fmt: skip
    def trades(self, request: Request, pk: str | None = None) -> HttpResponseBase:
        """Its trades, in the order in which they ended."""
        run = self._done()
        query = TradesQuery(data=request.query_params)
        query.is_valid(raise_exception=True)
        headers, unchanged = known(request, run)
        if unchanged is not None:
            return unchanged
        start, limit = query.validated_data["start"], query.validated_data["limit"]
        if request.accepted_renderer.format == "csv" and "limit" not in request.query_params:
            limit = MOST_ROWS_IN_BULK
        rows = BacktestResult.objects.values_list("trades", flat=True).get(pk=run.pk)
        after = start + limit
        url = replace_query_param(request.build_absolute_uri(), "start", after) if after < len(rows) else None
        if url is not None:
            headers["Link"] = f'<{url}>; rel="next"'
        return Response({"count": len(rows), "next": url, "results": rows[start:after]}, headers=headers)

    @extend_schema(parameters=[EquityQuery, KNOWN_ALREADY], responses=tables(EquityAnswer), filters=False)
    @action(
        detail=True, renderer_classes=[TableJson, TableCsv, TableArrow], content_negotiation_class=FormatNegotiation,
        filterset_class=None, pagination_class=None,
    )  # fmt: skip
    def equity(self, request: Request, pk: str | None = None) -> HttpResponseBase:
        """What the account was worth at the close of each candle, which is named by its open time."""
        run = self._done()
        query = EquityQuery(data=request.query_params, context={"format": request.accepted_renderer.format})
        query.is_valid(raise_exception=True)
        headers, unchanged = known(request, run)
        if unchanged is not None:
            return unchanged
        values = query.validated_data
        span = Span(values.get("from"), values.get("until"), values["limit"], is_forward=True, is_newest_first=False)
        curve = unpacked(BacktestResult.objects.values_list("equity", flat=True).get(pk=run.pk))
        open_ms = curve["open_ms"]
        first = 0 if span.from_at is None else int(np.searchsorted(open_ms, _ms(span.from_at)))
        last = len(open_ms) if span.until is None else int(np.searchsorted(open_ms, _ms(span.until)))
        part = slice(first, min(first + span.limit, last))
        url = None
        if part.stop < last:
            url = span.next_url(request.build_absolute_uri(), int(open_ms[part.stop]))
            headers["Link"] = f'<{url}>; rel="next"'
        table = Table({"run": run.pk, "next": url}, open_ms[part], {"equity": curve["equity"][part]})
        return Response(table, headers=headers)

    @extend_schema(
        parameters=[KNOWN_ALREADY], responses={(200, "text/html"): OpenApiTypes.STR, 304: None}, filters=False
    )
    @action(
        detail=True, renderer_classes=[Page], content_negotiation_class=FormatNegotiation,
        filterset_class=None, pagination_class=None,
    )  # fmt: skip
    def report(self, request: Request, pk: str | None = None) -> HttpResponseBase:
        """A page that holds all of it, without any other file: figures, curves, months, trades, and candles with entries and
        exits."""
        run = self._done()
        headers, unchanged = known(request, run)
        if unchanged is not None:
            return unchanged
        return HttpResponse(
            report_of(run), headers={**headers, "Content-Security-Policy": REPORT_POLICY}, content_type="text/html"
        )

    @extend_schema(parameters=[CompareQuery], responses=ComparisonAnswer, filters=False)
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
                "figures": ComparisonLine(told.figures, many=True).data,
                "differ": ComparisonLine(told.differ, many=True).data,
                "in_words": told.in_words,
            }
        )

    @extend_schema(responses=SettingsAnswer, filters=False)
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

    def handle_exception(self, exc: Exception) -> Response:
        response = super().handle_exception(exc)
        # A refusal is JSON, whatever was asked for.
        self.request.accepted_renderer, self.request.accepted_media_type = JSONRenderer(), JSONRenderer.media_type
        return response

    def _done(self) -> BacktestRun:
        run: BacktestRun = self.get_object()
        if run.status != JobStatus.DONE:
            raise UnableToBacktest(f"wanted a backtest that is done, was {run.status}")
        return run

    def _told(self, run: BacktestRun, status: int = 200) -> Response:
        row = self.get_queryset().get(pk=run.pk)
        return Response(BacktestDetail(row, context=self.get_serializer_context()).data, status=status)


def report_of(run: BacktestRun) -> str:
    """The report of a run that is done, on its candles as they are now; its title says where these are others."""
    result, settings, markets, is_same = run_result(run)
    title = run.name if is_same else f"{run.name} (candles have changed since it was computed)"
    return report_html(title, markets, result, settings, run.figures_told)


def known(request: Request, run: BacktestRun) -> tuple[dict[str, str], HttpResponseBase | None]:
    """The headers of an answer about what ``run``, which is done, came to, and the whole answer for who has it already."""
    state = (request.build_absolute_uri(), request.accepted_media_type, run.pk, run.ended_at)
    tag = f'"{hashlib.blake2b(repr(state).encode(), digest_size=16).hexdigest()}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    unchanged = get_conditional_response(request._request, etag=tag)
    if isinstance(unchanged, HttpResponse):
        for name, value in headers.items():
            unchanged[name] = value
    return headers, unchanged


def _user(request: Request) -> User:
    assert isinstance(request.user, User)  # IsAuthenticated let nobody else in
    return request.user


def _ms(at: datetime) -> int:
    return round(at.astimezone(UTC).timestamp() * 1000)
