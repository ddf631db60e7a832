"""What a backtest that is done came to, over REST: trades and equity as tables, and all of it as one page.

It does not change any more, and so is answered with an ETag.
"""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from drf_spectacular.utils import OpenApiTypes, extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import replace_query_param

from backtesting.figures import TRADE_FIELDS
from backtesting.models import BacktestResult, BacktestRun, JobStatus
from backtesting.packing import unpacked
from backtesting.report import report_html
from backtesting.runs import UnableToBacktest, run_result, run_trades
from marketdata.candle_api import KNOWN_ALREADY, tables
from marketdata.tables import (
    MOST_ROWS,
    MOST_ROWS_IN_BULK,
    FormatNegotiation,
    MomentField,
    Span,
    Table,
    TableArrow,
    TableCsv,
    TableJson,
    known_already,
)
from pipeline.rest import OwnedRows

# What a report may do in a browser: show itself. It has no address of ours, so that nothing in it acts for who reads it.
REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; "
    "sandbox allow-scripts allow-downloads"
)
# What a spreadsheet takes for the beginning of a formula.
FORMULAS = ("=", "+", "-", "@", "\t", "\r")


def sheet(rows: Iterable[Sequence[Any]]) -> bytes:
    """Rows as CSV. A text that a spreadsheet would compute, for it begins as a formula does, is kept from that by an
    apostrophe: tags, symbols and reasons are somebody else's words."""
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows([_word(value) for value in row] for row in rows)
    return lines.getvalue().encode()


def _word(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULAS) else value


class TradesCsv(BaseRenderer):
    """Rows as CSV under the names of a trade's fields."""

    media_type = "text/csv"
    format = "csv"

    def render(self, data: Any, accepted_media_type: str | None = None, renderer_context: Any = None) -> bytes:
        return sheet([TRADE_FIELDS, *([row.get(name, "") for name in TRADE_FIELDS] for row in data["results"])])


# A report holds all of its candles while it is written, some 500 MB of the longest run's: no process writes two at once.
_one_at_a_time = threading.Lock()


class Page(BaseRenderer):
    """A report, for the formats that an address may be asked for."""

    media_type = "text/html"
    format = "html"

    def render(self, data: Any, accepted_media_type: str | None = None, renderer_context: Any = None) -> bytes:
        return bytes(data)


class BacktestTrade(serializers.Serializer[Any]):
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
    tag = serializers.CharField(allow_blank=True, help_text="What the strategy called the entry.")
    exit_tag = serializers.CharField(allow_blank=True, help_text="What it called the exit, where its signal left.")

    def get_fields(self) -> dict[str, Any]:
        # ``return`` is no name that Python lets one give.
        return {
            **super().get_fields(),
            "return": serializers.FloatField(help_text="pnl as a part of what was entered."),
        }


class BacktestTrades(serializers.Serializer[Any]):
    count = serializers.IntegerField()
    next = serializers.URLField(allow_null=True)
    results = BacktestTrade(many=True)


class BacktestEquity(serializers.Serializer[Any]):
    run = serializers.IntegerField()
    next = serializers.URLField(allow_null=True, help_text="Where the rows after these are.")
    results = serializers.ListField(
        child=serializers.DictField(), help_text="`open_at` of each candle and `equity` at its close."
    )


class BacktestEquityQuery(serializers.Serializer[Any]):
    """Which part of the curve."""

    from_at = MomentField(required=False, help_text="Candles that open then or later.")
    until = MomentField(required=False, help_text="Candles that open before then.")
    limit = serializers.IntegerField(
        required=False, min_value=1, max_value=MOST_ROWS_IN_BULK,
        help_text=f"Rows at most: up to {MOST_ROWS} as JSON, up to {MOST_ROWS_IN_BULK} as CSV and Arrow, and so many "
        "unless it is given.",
    )  # fmt: skip

    def get_fields(self) -> dict[str, Any]:
        return {"from" if name == "from_at" else name: one for name, one in super().get_fields().items()}

    def validate_limit(self, limit: int) -> int:
        if limit > self._most:
            raise serializers.ValidationError(f"Ensure this value is less than or equal to {self._most}.")
        return limit

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        return {"limit": self._most, **attrs}

    @property
    def _most(self) -> int:
        return MOST_ROWS if self.context["format"] == "json" else MOST_ROWS_IN_BULK


class BacktestTradesQuery(serializers.Serializer[Any]):
    """Which of the trades, in the order in which they ended."""

    start = serializers.IntegerField(default=0, min_value=0, max_value=10**9, help_text="How many to pass over.")
    limit = serializers.IntegerField(
        default=200,
        min_value=1,
        max_value=MOST_ROWS_IN_BULK,
        help_text="How many at most; as CSV all, unless it is given.",
    )


class ResultViews(OwnedRows[BacktestRun]):
    """The addresses below a backtest that is done."""

    @extend_schema(
        parameters=[BacktestTradesQuery, KNOWN_ALREADY],
        responses={(200, "application/json"): BacktestTrades, (200, "text/csv"): OpenApiTypes.STR, 304: None},
        filters=False,
    )
    @action(
        detail=True, renderer_classes=[JSONRenderer, TradesCsv], content_negotiation_class=FormatNegotiation,
        filterset_class=None, pagination_class=None,
    )  # fmt: skip
    def trades(self, request: Request, pk: str | None = None) -> HttpResponseBase:
        """Its trades, in the order in which they ended."""
        run = self._done()
        query = BacktestTradesQuery(data=request.query_params)
        query.is_valid(raise_exception=True)
        headers, unchanged = known_already(request, run.pk, run.ended_at)
        if unchanged is not None:
            return unchanged
        start, limit = query.validated_data["start"], query.validated_data["limit"]
        if request.accepted_renderer.format == "csv" and "limit" not in request.query_params:
            limit = MOST_ROWS_IN_BULK
        count, rows = run_trades(run.pk, start, limit)
        after = start + limit
        url = replace_query_param(request.build_absolute_uri(), "start", after) if after < count else None
        if url is not None:
            headers["Link"] = f'<{url}>; rel="next"'
        return Response({"count": count, "next": url, "results": rows}, headers=headers)

    @extend_schema(parameters=[BacktestEquityQuery, KNOWN_ALREADY], responses=tables(BacktestEquity), filters=False)
    @action(
        detail=True, renderer_classes=[TableJson, TableCsv, TableArrow], content_negotiation_class=FormatNegotiation,
        filterset_class=None, pagination_class=None,
    )  # fmt: skip
    def equity(self, request: Request, pk: str | None = None) -> HttpResponseBase:
        """What the account was worth at the close of each candle, which is named by its open time."""
        run = self._done()
        query = BacktestEquityQuery(data=request.query_params, context={"format": request.accepted_renderer.format})
        query.is_valid(raise_exception=True)
        headers, unchanged = known_already(request, run.pk, run.ended_at)
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

    @extend_schema(responses={(200, "text/html"): OpenApiTypes.STR}, filters=False)
    @action(
        detail=True, renderer_classes=[Page], content_negotiation_class=FormatNegotiation,
        filterset_class=None, pagination_class=None,
    )  # fmt: skip
    def report(self, request: Request, pk: str | None = None) -> HttpResponseBase:
        """A page that holds all of it, without any other file: figures, curves, months, trades, and candles with entries and
        exits."""
        # Written anew each time: it tells whether candles have changed since.
        headers = {"Cache-Control": "private, no-store", "Content-Security-Policy": REPORT_POLICY}
        return HttpResponse(report_of(self._done()), headers=headers, content_type="text/html")

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


def report_of(run: BacktestRun) -> str:
    """The report of a run that is done, on its candles as they are now; its title says where these are others."""
    with _one_at_a_time:
        result, settings, markets, is_same = run_result(run)
        title = run.name if is_same else f"{run.name} (candles have changed since it was computed)"
        return report_html(title, markets, result, settings, run.figures_told)


def _ms(at: datetime) -> int:
    return round(at.astimezone(UTC).timestamp() * 1000)
