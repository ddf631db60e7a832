"""Rows along time as an answer: JSON for programs, CSV for files, Arrow for data frames; never a serializer per row.

Pages go by time, so that they stay put while candles arrive. Every answer has an ETag made of what its rows depend on, before
they are read: who has it already is told so for the price of one row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import numpy as np
from django.db import connection
from django.http import Http404, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import get_conditional_response
from django.utils.dateparse import parse_datetime
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers, viewsets
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import replace_query_param

from domain.calendars import Calendar
from domain.candles import FloatArray, IntArray, Timeframe
from domain.resampling import require_shorter
from exchanges.api import ExchangeRelated
from exchanges.models import Exchange
from marketdata.models import Feed

MOST_ROWS = 1500
MOST_ROWS_IN_BULK = 100_000
ARROW = "application/vnd.apache.arrow.stream"
TIMEFRAMES = [frame.value for frame in Timeframe]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Beyond these no candle is, and years that a database or a calendar cannot tell.
EARLIEST, LATEST = datetime(1900, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
# How many times as long as without a hole the span is that is looked at first.
HOLES = 4

Column = Sequence[str] | FloatArray


@dataclass(frozen=True, slots=True)
class Table:
    """Rows by open time: exact columns as texts, figures as floats, NaN where there is none; ``head`` is told beside them."""

    head: Mapping[str, Any]
    open_ms: IntArray
    columns: Mapping[str, Column]
    has_exact_prices: bool = True


class TableJson(JSONRenderer):
    """A table as JSON: times as text, exact columns as text, figures as numbers or null."""

    def render(self, data: Any, accepted_media_type: str | None = None, renderer_context: Any = None) -> bytes:
        if not isinstance(data, Table):
            return bytes(super().render(data, accepted_media_type, renderer_context))
        times = np.datetime_as_string(data.open_ms.astype("datetime64[ms]").astype("datetime64[s]")).tolist()
        columns = [
            [f'"{text}"' for text in column] if not isinstance(column, np.ndarray) else _figures(column, "null")
            for column in data.columns.values()
        ]
        row = ",".join(['{{"open_at":"{}Z"', *(f'"{name}":{{}}' for name in data.columns)]) + "}}"
        rows = ",".join(map(row.format, times, *columns))
        head = super().render({**data.head, "results": []}, None, {})  # compact, however it was to be indented
        return bytes(head)[:-2] + rows.encode() + b"]}"


class TableCsv(BaseRenderer):
    """A table as CSV: ``ts`` in epoch milliseconds, exact columns in full, an empty cell where there is no figure."""

    media_type = "text/csv"
    format = "csv"

    def render(self, data: Table, accepted_media_type: str | None = None, renderer_context: Any = None) -> bytes:
        columns = [
            column if not isinstance(column, np.ndarray) else _figures(column, "") for column in data.columns.values()
        ]
        rows = map(",".join, zip(map(str, data.open_ms.tolist()), *columns, strict=True))
        return "\n".join([",".join(("ts", *data.columns)), *rows, ""]).encode()


class TableArrow(BaseRenderer):
    """A table as an Arrow IPC stream: ``ts`` as timestamp[ms, UTC], exact columns as decimal128(38, 18), or as float64 where
    the question said so, figures as float64."""

    media_type = ARROW
    format = "arrow"
    charset = None
    render_style = "binary"

    def render(self, data: Table, accepted_media_type: str | None = None, renderer_context: Any = None) -> bytes:
        import pyarrow as pa  # noqa: PLC0415  # 40 MB that a web process without such questions does without

        exact = pa.decimal128(38, 18) if data.has_exact_prices else pa.float64()
        arrays = {"ts": pa.array(data.open_ms, pa.timestamp("ms", tz="UTC"))}
        for name, column in data.columns.items():
            if isinstance(column, np.ndarray):
                arrays[name] = pa.array(column, pa.float64(), from_pandas=True)  # NaN as null
            else:
                arrays[name] = pa.array(column, pa.string()).cast(exact)
        table = pa.table(arrays)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        return bytes(sink.getvalue().to_pybytes())


def _figures(column: FloatArray, nothing: str) -> list[str]:
    return [nothing if one != one else repr(one) for one in column.tolist()]  # NaN alone differs from itself


@extend_schema_field({"type": "string", "format": "date-time"})
class MomentField(serializers.Field[datetime, Any, str, Any]):
    """A time: ISO 8601, UTC unless it says otherwise, or epoch milliseconds."""

    def to_internal_value(self, data: Any) -> datetime:
        text = str(data)
        try:
            if text.isascii() and text.isdigit():
                at: datetime | None = EPOCH + timedelta(milliseconds=int(text[:20]))
            else:
                at = parse_datetime(text)
            if at is not None:
                at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
        except (ValueError, OverflowError):
            at = None
        if at is None or not EARLIEST <= at <= LATEST:
            raise serializers.ValidationError(f"wanted a time (ISO 8601 or epoch milliseconds), was {text!r:.60}")
        return at


class TableQuery(serializers.Serializer[Any]):
    """Which feed's rows, of when, how many, and from which end."""

    feed = serializers.PrimaryKeyRelatedField(
        queryset=Feed.objects.select_related("market__exchange"),
        required=False,
        help_text="Its id; or exchange, symbol and timeframe.",
    )
    exchange = ExchangeRelated(queryset=Exchange.objects.all(), required=False)
    symbol = serializers.CharField(required=False, max_length=40)
    timeframe = serializers.ChoiceField(choices=TIMEFRAMES, required=False)
    from_at = MomentField(required=False, help_text="Rows that open then or later: ISO 8601, or epoch milliseconds.")
    until = MomentField(required=False, help_text="Rows that open before then.")
    limit = serializers.IntegerField(
        default=200, min_value=1, max_value=MOST_ROWS_IN_BULK,
        help_text=f"How many rows at most: up to {MOST_ROWS} as JSON, up to {MOST_ROWS_IN_BULK} as CSV and Arrow.",
    )  # fmt: skip
    order = serializers.ChoiceField(
        choices=["oldest", "newest"],
        required=False,
        help_text="From which end, and in which order. Not given: from `from` on, or without it the last ones, the oldest "
        "first.",
    )

    # Whether a timeframe without a feed of its own is made of a shorter one.
    may_resample = False

    def get_fields(self) -> dict[str, Any]:
        fields = super().get_fields()
        return {"from" if name == "from_at" else name: field for name, field in fields.items()}

    def validate_limit(self, limit: int) -> int:
        most = MOST_ROWS if self.context["format"] == "json" else MOST_ROWS_IN_BULK
        if limit > most:
            raise serializers.ValidationError(f"Ensure this value is less than or equal to {most}.")
        return limit

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        feed = _feed_meant(attrs, self.may_resample)
        from_at, until = attrs.get("from"), attrs.get("until")
        if from_at is not None and until is not None and until < from_at:
            raise serializers.ValidationError(
                {"until": f"wanted a time not before {_words(from_at)}, was {_words(until)}"}
            )
        longer = attrs.get("timeframe")
        return {**attrs, "feed": feed, "longer": Timeframe(longer) if longer not in (None, feed.timeframe) else None}

    @cached_property
    def span(self) -> Span:
        values = self.validated_data
        from_at, order = values.get("from"), values.get("order")
        return Span(
            from_at, values.get("until"), values["limit"],
            is_forward=order == "oldest" or (order is None and from_at is not None), is_newest_first=order == "newest",
        )  # fmt: skip


def _feed_meant(attrs: dict[str, Any], may_resample: bool) -> Feed:
    feed, exchange, symbol, timeframe = (attrs.get(name) for name in ("feed", "exchange", "symbol", "timeframe"))
    if feed is not None:
        if (exchange or feed.market.exchange, symbol or feed.market.symbol, timeframe or feed.timeframe) != (
            feed.market.exchange, feed.market.symbol, feed.timeframe,
        ):  # fmt: skip
            raise serializers.ValidationError({"feed": f"wanted the feed that is named beside it, was {feed}"})
        return feed  # type: ignore[no-any-return]
    if exchange is None or not symbol or not timeframe:
        raise serializers.ValidationError(
            {"feed": "wanted the id of a feed, or exchange, symbol and timeframe, was neither"}
        )
    feeds = Feed.objects.filter(market__exchange=exchange, market__symbol=symbol).select_related("market__exchange")
    by_timeframe = {one.timeframe: one for one in feeds}
    if not by_timeframe:
        raise serializers.ValidationError({"symbol": f"wanted a market of {exchange} with a feed, was {symbol!r}"})
    if timeframe not in by_timeframe and may_resample:
        shorter = [one for one in by_timeframe.values() if _makes_up(one, Timeframe(timeframe))]
        if shorter:
            # The fewest rows to read, of a feed that has some.
            return max(shorter, key=lambda one: (one.last_open_at is not None, Timeframe(one.timeframe).seconds))
    if timeframe not in by_timeframe:
        known = ", ".join(frame for frame in TIMEFRAMES if frame in by_timeframe)
        raise serializers.ValidationError(
            {"timeframe": f"wanted a timeframe that {symbol} has a feed of ({known}), was {timeframe}"}
        )
    return by_timeframe[timeframe]


def _makes_up(feed: Feed, longer: Timeframe) -> bool:
    try:
        require_shorter(Timeframe(feed.timeframe), longer, Calendar(feed.calendar))
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Span:
    """Which rows: from ``from_at`` on to before ``until``, ``limit`` of them at most, those nearest the beginning if
    ``is_forward``, else those nearest the end."""

    from_at: datetime | None
    until: datetime | None
    limit: int
    is_forward: bool
    is_newest_first: bool

    def next_after(self, open_ms: IntArray) -> int:
        """Where the rows after those begin, or, going back, before which they open."""
        return int(open_ms.max()) + 1 if self.is_forward else int(open_ms.min())

    def next_url(self, url: str, at_ms: int) -> str:
        return str(replace_query_param(url, "from" if self.is_forward else "until", _iso(at_ms)))


def _words(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


def _iso(open_ms: int) -> str:
    at = EPOCH + timedelta(milliseconds=open_ms)
    return at.isoformat(timespec="milliseconds" if at.microsecond else "seconds").replace("+00:00", "Z")


def rows_between(feed: Feed, span: Span, columns: str) -> tuple[list[tuple[Any, ...]], bool]:
    """Open time in epoch milliseconds and ``columns`` (SQL of ours) of the feed's candles within the span, in its order, and
    whether there are more."""
    near = _near(feed, span)
    rows = _rows(feed, span, columns, *near)
    if len(rows) <= span.limit and near != (span.from_at, span.until):
        rows = _rows(feed, span, columns, span.from_at, span.until)
    has_more = len(rows) > span.limit
    del rows[span.limit :]
    if span.is_forward == span.is_newest_first:
        rows.reverse()
    return rows, has_more


def _near(feed: Feed, span: Span) -> tuple[datetime | None, datetime | None]:
    """Where the rows should be if there are no long holes: the fewer months are looked at, the fewer tables."""
    reach = HOLES * (span.limit + 1) * Timeframe(feed.timeframe).length
    if span.is_forward and span.from_at is not None:
        end = span.from_at + reach
        return span.from_at, end if span.until is None else min(end, span.until)
    end_at = min(filter(None, (span.until, feed.last_open_at)), default=None)
    if span.is_forward or end_at is None:
        return span.from_at, span.until
    start = end_at - reach
    return start if span.from_at is None else max(start, span.from_at), span.until


def _rows(
    feed: Feed, span: Span, columns: str, from_at: datetime | None, until: datetime | None
) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT (extract(epoch FROM open_at) * 1000)::int8 {columns} FROM marketdata_candle
            WHERE feed_id = %s AND open_at >= %s AND open_at < %s
            ORDER BY open_at {"ASC" if span.is_forward else "DESC"} LIMIT %s
            """,  # noqa: S608  # columns are ours
            [feed.pk, from_at or EARLIEST, until or LATEST, span.limit + 1],
        )
        return list(cursor.fetchall())


def known_already(request: Request, *state: object) -> tuple[dict[str, str], HttpResponseBase | None]:
    """The headers of an answer that depends on ``state`` and on what was asked, and the whole answer where who asks has it
    already."""
    asked = (request.build_absolute_uri(), request.accepted_media_type, *state)
    tag = f'"{hashlib.blake2b(repr(asked).encode(), digest_size=16).hexdigest()}"'
    # One's own copy, asked about before each use: what it is of may be revised, and that is to be seen at once.
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    unchanged = get_conditional_response(request._request, etag=tag)
    if isinstance(unchanged, HttpResponse):
        for name, value in headers.items():
            unchanged[name] = value
    return headers, unchanged


class FormatNegotiation(DefaultContentNegotiation):
    """A format that nobody speaks is told, instead of an address that is not there."""

    def filter_renderers(self, renderers: list[Any], format: str) -> list[Any]:  # type: ignore[override]
        try:
            return list(super().filter_renderers(renderers, format))
        except Http404 as error:
            known = ", ".join(renderer.format for renderer in renderers)
            raise serializers.ValidationError({"format": [f"wanted one of {known}, was {format!r:.40}"]}) from error


class TableView(viewsets.ViewSet):
    """A view whose answers are tables, in the format that is asked for."""

    renderer_classes = (TableJson, TableCsv, TableArrow)
    content_negotiation_class = FormatNegotiation

    def handle_exception(self, exc: Exception) -> Response:
        response = super().handle_exception(exc)
        # A refusal is JSON, whatever was asked for.
        self.request.accepted_renderer, self.request.accepted_media_type = TableJson(), TableJson.media_type
        return response

    def known(
        self, request: Request, feed: Feed, until: datetime | None
    ) -> tuple[dict[str, str], HttpResponseBase | None]:
        """The headers of an answer about the feed's candles that open before ``until``, and the whole answer where the one
        who asks has it already."""
        # What opened before the last candle is as it is told by ``changes``; what may still come depends on the last one.
        is_past = until is not None and feed.last_open_at is not None and until <= feed.last_open_at
        state = feed.pk, feed.calendar, feed.changes, None if is_past else feed.last_open_at
        return known_already(request, *state)

    def answer(
        self, request: Request, headers: dict[str, str], span: Span, table: Table, next_ms: int | None
    ) -> HttpResponseBase:
        """The table, with where to read on in itself (JSON) and in a Link header."""
        url = span.next_url(request.build_absolute_uri(), next_ms) if next_ms is not None else None
        if url is not None:
            headers = {**headers, "Link": f'<{url}>; rel="next"'}
        head = {**table.head, "next": url}
        return Response(Table(head, table.open_ms, table.columns, table.has_exact_prices), headers=headers)
