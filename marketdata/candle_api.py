"""Candles and indicators over REST: a span of them, page by page, as JSON, CSV or Arrow."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from django.http.response import HttpResponseBase
from drf_spectacular.utils import OpenApiParameter, OpenApiTypes, extend_schema, extend_schema_serializer
from pydantic import ValidationError
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from domain.calendars import Calendar, candle_of
from domain.candles import Timeframe
from domain.catalogue import CATALOGUE, Indicator, Parameters
from domain.resampling import resample_exact
from exchanges.gateway import CandleReport
from marketdata.indicators import indicator_values
from marketdata.models import Candle, Feed
from marketdata.tables import ARROW, EARLIEST, EPOCH, LATEST, Span, Table, TableQuery, TableView, rows_between
from pipeline.rest import RowSerializer, exact_text

PRICES = ("open", "high", "low", "close", "volume")
RAW_PRICES = "".join(f", {name}" for name in PRICES)
# Exact, and without the zeros that fill the columns: PostgreSQL writes them faster than we do.
EXACT_PRICES = "".join(f", trim_scale({name})::text" for name in PRICES)
# The most candles that are read for one page of longer ones; what is left of it is on the next.
MOST_READ = 100_000
DAY = timedelta(days=1)


class CandleQuery(TableQuery):
    may_resample = True
    prices = serializers.ChoiceField(
        choices=["decimal128", "float64"],
        default="decimal128",
        help_text="The type of prices and volumes in Arrow. As JSON they are texts, in full.",
    )


class CandleSerializer(RowSerializer[Candle]):
    class Meta:
        model = Candle
        fields = ("open_at", "open", "high", "low", "close", "volume")
        read_only_fields = fields


@extend_schema_serializer(many=False)
class CandleAnswer(serializers.Serializer[Any]):
    feed = serializers.IntegerField()
    timeframe = serializers.CharField(required=False, help_text="Where it is not the feed's own: made of its candles.")
    next = serializers.URLField(allow_null=True, help_text="Where the rows after these are.")
    results = CandleSerializer(many=True)


def tables(answer: type[serializers.Serializer[Any]]) -> Any:
    """The answers of a table's address, by format, for the schema."""
    return {
        (200, "application/json"): answer,
        (200, "text/csv"): OpenApiTypes.STR,
        (200, ARROW): OpenApiTypes.BINARY,
        304: None,
    }


KNOWN_ALREADY = OpenApiParameter(
    "If-None-Match", str, OpenApiParameter.HEADER, description="The ETag of what one has: 304 if it is still all."
)


class CandleViewSet(TableView):
    """Closed candles."""

    @extend_schema(parameters=[CandleQuery, KNOWN_ALREADY], responses=tables(CandleAnswer))
    def list(self, request: Request) -> HttpResponseBase:
        """Closed candles of a feed, named by their open time.

        A timeframe without a feed of its own is made of a shorter one of the market, exactly, and only where nothing is
        missing. Without a span the last ones. `next` (as JSON) or the Link header lead on, by time: pages stay put while
        candles arrive. CSV has the open time as `ts`, in epoch milliseconds, and every price in full.
        """
        query = CandleQuery(data=request.query_params, context={"format": request.accepted_renderer.format})
        query.is_valid(raise_exception=True)
        feed, span = query.validated_data["feed"], query.span
        longer: Timeframe | None = query.validated_data["longer"]
        headers, unchanged = self.known(request, feed, span.until if longer is None else _base_until(span, longer))
        if unchanged is not None:
            return unchanged
        head: dict[str, Any] = {"feed": feed.pk}
        if longer is None:
            rows, has_more = rows_between(feed, span, EXACT_PRICES)
            next_ms = span.next_after(np.array([row[0] for row in rows])) if has_more else None
        else:
            head["timeframe"] = longer.value
            rows, next_ms = _resampled(feed, longer, span)
        open_ms, *columns = zip(*rows, strict=True) if rows else [()] * 6
        table = Table(
            head, np.array(open_ms, dtype=np.int64), dict(zip(PRICES, columns, strict=True)),
            has_exact_prices=query.validated_data["prices"] == "decimal128",
        )  # fmt: skip
        return self.answer(request, headers, span, table, next_ms)


def _base_until(span: Span, longer: Timeframe) -> datetime | None:
    """Before when the candles open that those of the span are made of. A day may begin on the date before its own."""
    return None if span.until is None else span.until + max(longer.length, DAY)


def _resampled(feed: Feed, longer: Timeframe, span: Span) -> tuple[list[tuple[Any, ...]], int | None]:
    """The rows of the span in a longer timeframe, exact and complete ones only, and where to read on."""
    shorter, calendar = Timeframe(feed.timeframe), Calendar(feed.calendar)
    ratio = longer.seconds // shorter.seconds
    limit = min(span.limit, MOST_READ // ratio)
    from_at = None if span.from_at is None else span.from_at - DAY
    slack = 2 * math.ceil(DAY / shorter.length)  # for what is read at both ends and opens outside of the span
    base = Span(from_at, _base_until(span, longer), (limit + 1) * ratio + slack, span.is_forward, is_newest_first=False)
    found, has_more = rows_between(feed, base, RAW_PRICES)
    reports = [CandleReport(EPOCH + timedelta(milliseconds=open_ms), *prices) for open_ms, *prices in found]
    made = [(_ms(one.open_at), one) for one in resample_exact(reports, shorter, longer, calendar)]
    next_ms = None
    if has_more:
        # The candle at the end where the reading stopped may not be whole: the next page begins with it.
        edge = int(candle_of(calendar, longer, np.array([found[-1 if span.is_forward else 0][0]]))[0])
        made = [(at, one) for at, one in made if (at < edge if span.is_forward else at > edge)]
        next_ms = edge if span.is_forward else edge + 1
    made = [
        (at, one)
        for at, one in made
        if (span.from_at is None or one.open_at >= span.from_at) and (span.until is None or one.open_at < span.until)
    ]
    if len(made) > limit:
        made = made[:limit] if span.is_forward else made[-limit:]
        next_ms = span.next_after(np.array([at for at, _ in made]))
    if next_ms is not None and (
        next_ms >= _ms(span.until or LATEST) if span.is_forward else next_ms <= _ms(span.from_at or EARLIEST)
    ):
        next_ms = None  # all that is left lies outside of the span
    rows = [(at, *(exact_text(getattr(one, name)) for name in PRICES)) for at, one in made]
    return (rows[::-1] if span.is_newest_first else rows), next_ms


def _ms(at: datetime) -> int:
    return (at - EPOCH) // timedelta(milliseconds=1)


class IndicatorSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(help_text="What it is asked for by.")
    title = serializers.CharField()
    columns = serializers.ListField(child=serializers.CharField(), help_text="What of the candles goes into it.")
    outputs = serializers.ListField(child=serializers.CharField(), help_text="What comes out.")
    parameters = serializers.JSONField(help_text="JSON schema: bounds, defaults and help of every parameter.")


class IndicatorQuery(TableQuery):
    name = serializers.ChoiceField(choices=sorted(CATALOGUE), help_text="Of `/indicators/catalogue`.")


@extend_schema_serializer(many=False)
class IndicatorAnswer(serializers.Serializer[Any]):
    feed = serializers.IntegerField()
    name = serializers.CharField()
    parameters = serializers.DictField(help_text="All of them, those that were not given too.")
    next = serializers.URLField(allow_null=True, help_text="Where the rows after these are.")
    results = serializers.ListField(
        child=serializers.DictField(), help_text="`open_at` and each output: a number, or null while it is not defined."
    )


class IndicatorViewSet(TableView):
    """Indicators along the candles of a feed."""

    @extend_schema(
        parameters=[
            IndicatorQuery,
            OpenApiParameter(
                "parameters", {"type": "object", "additionalProperties": {"type": "number"}}, style="form", explode=True,
                description="What can be set of the indicator, each by its own name (`period=20`); the rest are defaults.",
            ),
            KNOWN_ALREADY,
        ],
        responses=tables(IndicatorAnswer),
    )  # fmt: skip
    def list(self, request: Request) -> HttpResponseBase:
        """An indicator at each candle of a span.

        The values do not depend on the span: what came before it is read as far as the indicator remembers. Pages and formats
        are those of `/candles`.
        """
        query = IndicatorQuery(data=request.query_params, context={"format": request.accepted_renderer.format})
        query.is_valid(raise_exception=True)
        indicator = CATALOGUE[query.validated_data["name"]]
        known = {*query.fields, "format"}
        parameters = _parameters(
            indicator, {name: value for name, value in request.query_params.items() if name not in known}
        )
        feed, span = query.validated_data["feed"], query.span
        headers, unchanged = self.known(request, feed, span.until)
        if unchanged is not None:
            return unchanged
        rows, has_more = rows_between(feed, span, "")
        open_ms = np.array([at for (at,) in rows], dtype=np.int64)
        head = {"feed": feed.pk, "name": indicator.name, "parameters": parameters.model_dump()}
        table = Table(head, open_ms, indicator_values(feed, indicator, parameters, open_ms))
        return self.answer(request, headers, span, table, span.next_after(open_ms) if has_more else None)

    @extend_schema(responses=IndicatorSerializer(many=True), filters=False)
    @action(detail=False, renderer_classes=[JSONRenderer])
    def catalogue(self, request: Request) -> Response:
        """Every indicator there is, with what can be set of it."""
        return Response(
            [
                {
                    "name": one.name, "title": one.title, "columns": one.columns, "outputs": one.outputs,
                    "parameters": one.parameters_type.model_json_schema(),
                }
                for _, one in sorted(CATALOGUE.items())
            ]
        )  # fmt: skip


def _parameters(indicator: Indicator, values: dict[str, Any]) -> Parameters:
    try:
        return indicator.parameters_type.model_validate(values)
    except ValidationError as error:
        detail: dict[str, list[str]] = {}
        for one in error.errors():
            name = str(one["loc"][0]) if one["loc"] else "non_field_errors"
            detail.setdefault(name[:60], []).append(one["msg"].removeprefix("Value error, "))
        raise serializers.ValidationError(detail) from error
