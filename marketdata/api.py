"""Feeds and their closed candles over REST; every trader sees the same market."""

from __future__ import annotations

from typing import Any

import django_filters
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import mixins, serializers, viewsets
from rest_framework.request import Request
from rest_framework.response import Response

from exchanges.api import ExchangeFilter
from marketdata.models import Candle, Feed
from pipeline.rest import Filters, IdFilter, Rows, RowSerializer

MOST_CANDLES = 1500


class FeedSerializer(RowSerializer[Feed]):
    exchange_name = serializers.CharField(source="market.exchange.name", read_only=True)
    symbol = serializers.CharField(source="market.symbol", read_only=True)

    class Meta:
        model = Feed
        fields = (
            "id", "exchange_name", "market", "symbol", "timeframe", "is_needed", "next_due_at", "last_open_at",
            "misses", "last_error", "stale_since",
        )  # fmt: skip
        read_only_fields = fields


class FeedFilter(Filters):
    exchange = ExchangeFilter(field_name="market__exchange", help_text="Its id or its name.")
    market = IdFilter(field_name="market_id")
    symbol = django_filters.CharFilter(field_name="market__symbol")

    class Meta:
        model = Feed
        fields = ("exchange", "market", "symbol", "timeframe", "is_needed")


class FeedViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, Rows[Feed]):
    """Markets and timeframes that are, or were, collected. They come into being with a configuration."""

    queryset = Feed.objects.select_related("market__exchange")
    serializer_class = FeedSerializer
    filterset_class = FeedFilter


class CandleSerializer(RowSerializer[Candle]):
    class Meta:
        model = Candle
        fields = ("open_at", "open", "high", "low", "close", "volume")
        read_only_fields = fields


class CandleQuery(serializers.Serializer[Any]):
    feed = serializers.PrimaryKeyRelatedField(queryset=Feed.objects.all())
    limit = serializers.IntegerField(default=200, min_value=1, max_value=MOST_CANDLES)


class CandleAnswer(serializers.Serializer[Any]):
    feed = serializers.IntegerField()
    results = CandleSerializer(many=True)


class CandleViewSet(viewsets.ViewSet):
    """The last closed candles of a feed."""

    @extend_schema(
        parameters=[
            OpenApiParameter("feed", int, required=True, description="The id of the feed."),
            OpenApiParameter("limit", int, description=f"How many, 1 to {MOST_CANDLES}; 200 if not given."),
        ],
        responses=CandleAnswer,
    )
    def list(self, request: Request) -> Response:
        """The last ``limit`` closed candles of ``feed``, oldest first."""
        query = CandleQuery(data=request.query_params)
        query.is_valid(raise_exception=True)
        feed, limit = query.validated_data["feed"], query.validated_data["limit"]
        newest = Candle.objects.filter(feed=feed).order_by("-open_at")[:limit]
        return Response({"feed": feed.pk, "results": CandleSerializer(list(reversed(newest)), many=True).data})
