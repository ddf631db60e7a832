"""Feeds over REST, with where their candles come from and what is wrong with them; every trader sees the same market.

Any trader may make a feed, as a configuration does; it is collected while an active session needs it.
"""

from __future__ import annotations

from typing import Any

import django_filters
from django.contrib.postgres.expressions import ArraySubquery
from django.db.models import Count, Exists, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import mixins, permissions, serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from domain.candles import Timeframe
from domain.quality import Flaw
from exchanges.api import (
    ExchangeFilter,
    ExchangeRelated,
    MarketFilter,
    MarketSerializer,
    MarketViewSet,
    SuperuserWrites,
    market_meant,
)
from exchanges.models import Exchange, Market
from marketdata.failover import feed_sources_set
from marketdata.gaps import Report, feed_check
from marketdata.models import (
    CandleGap,
    CandleRevision,
    Feed,
    FeedSource,
    GapStatus,
    QuarantinedCandle,
    SourceKind,
)
from marketdata.services import feed_ensure
from pipeline.rest import Filters, FlagFilter, IdFilter, Rows, RowSerializer

TIMEFRAMES = [frame.value for frame in Timeframe]
GAPS_TOLD = 100
SOURCE_KINDS = tuple(SourceKind.names)


class CollectedMarketSerializer(MarketSerializer):
    timeframes = serializers.ListField(
        child=serializers.CharField(), read_only=True, help_text="Those that it has a feed of."
    )

    class Meta(MarketSerializer.Meta):
        fields = (*MarketSerializer.Meta.fields, "timeframes")  # type: ignore[assignment]


class CollectedMarketFilter(MarketFilter):
    has_feed = FlagFilter(method="of_feeds", help_text="Whether any timeframe of it has a feed.")

    def of_feeds(self, rows: QuerySet[Market], name: str, value: bool) -> QuerySet[Market]:
        has_feed = Exists(Feed.objects.filter(market=OuterRef("pk")))
        return rows.filter(has_feed if value else ~has_feed)


class CollectedMarketViewSet(MarketViewSet):
    """What the venues trade, with ticks, lots, minimums, fees, and the timeframes that there are feeds of."""

    queryset = Market.objects.select_related("exchange").annotate(
        timeframes=ArraySubquery(Feed.objects.filter(market=OuterRef("pk")).order_by("pk").values("timeframe"))
    )
    serializer_class = CollectedMarketSerializer
    filterset_class = CollectedMarketFilter


class SourceKindField(serializers.ChoiceField):
    """A kind of source by its name."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(choices=SOURCE_KINDS, **kwargs)

    def to_representation(self, value: Any) -> str:
        return SourceKind(value).name

    def to_internal_value(self, data: Any) -> SourceKind:  # type: ignore[override]  # what stands behind the name
        return SourceKind[str(super().to_internal_value(data))]


class FeedSourceSerializer(RowSerializer[FeedSource]):
    kind = SourceKindField(read_only=True)

    class Meta:
        model = FeedSource
        fields = ("id", "rank", "kind", "symbol", "failures", "last_error", "failed_at", "retry_at")
        read_only_fields = fields


class FeedSerializer(RowSerializer[Feed]):
    exchange_name = serializers.CharField(source="market.exchange.name", read_only=True)
    symbol = serializers.CharField(source="market.symbol", read_only=True)
    sources = FeedSourceSerializer(
        many=True, read_only=True, help_text="In the order in which they are asked; none: the market's exchange."
    )
    gaps_open = serializers.IntegerField(read_only=True, help_text="Gaps that are still to be asked for again.")
    quarantined = serializers.IntegerField(
        read_only=True, help_text="Rows that failed a check and were not taken since."
    )
    revised = serializers.IntegerField(read_only=True, help_text="How often its source told a candle otherwise later.")

    class Meta:
        model = Feed
        fields = (
            "id", "exchange_name", "market", "symbol", "timeframe", "calendar", "is_needed", "next_due_at", "last_open_at",
            "misses", "last_error", "stale_since", "source", "sources", "gaps_open", "quarantined", "revised", "changes",
        )  # fmt: skip
        read_only_fields = fields


class FeedDetail(FeedSerializer):
    """One feed: what to look up in a list of them would cost too much is told as well."""

    first_open_at = serializers.SerializerMethodField(help_text="When its first candle opened.")

    class Meta(FeedSerializer.Meta):
        fields = (*FeedSerializer.Meta.fields, "first_open_at")  # type: ignore[assignment]

    @extend_schema_field(serializers.DateTimeField(allow_null=True))
    def get_first_open_at(self, feed: Feed) -> Any:
        first = feed.candles.order_by("open_at").values_list("open_at", flat=True).first()
        return serializers.DateTimeField().to_representation(first) if first else None


class FeedInput(serializers.Serializer[Any]):
    """A feed to be. Its market is given by id, or by exchange and symbol."""

    market = serializers.PrimaryKeyRelatedField(queryset=Market.objects.all(), required=False)
    exchange = ExchangeRelated(queryset=Exchange.objects.all(), required=False)
    symbol = serializers.CharField(required=False, max_length=40)
    timeframe = serializers.ChoiceField(choices=TIMEFRAMES)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        return {**attrs, "market": market_meant(attrs)}


class SourceInput(serializers.Serializer[Any]):
    kind = SourceKindField()
    symbol = serializers.CharField(
        max_length=200,
        allow_blank=True,
        default="",
        help_text="What it calls the market, or the file, or the timeframe.",
    )


class SourcesInput(serializers.Serializer[Any]):
    sources = serializers.ListField(child=SourceInput(), max_length=10)


class FeedFilter(Filters):
    exchange = ExchangeFilter(field_name="market__exchange", help_text="Its id or its name.")
    market = IdFilter(field_name="market_id")
    symbol = django_filters.CharFilter(field_name="market__symbol")
    is_stale = FlagFilter(field_name="stale_since", lookup_expr="isnull", exclude=True)

    class Meta:
        model = Feed
        fields = ("exchange", "market", "symbol", "timeframe", "calendar", "is_needed")


class GapAnswer(serializers.Serializer[Any]):
    from_at = serializers.DateTimeField()
    until_at = serializers.DateTimeField(help_text="When the next candle opens that is there.")
    missing = serializers.IntegerField()


class FindingAnswer(serializers.Serializer[Any]):
    open_ms = serializers.IntegerField()
    flaw = serializers.ChoiceField(choices=[flaw.value for flaw in Flaw])
    detail = serializers.CharField()


class QualityAnswer(serializers.Serializer[Any]):
    """A report of ``marketdata/gaps.py``."""

    feed = serializers.IntegerField(source="feed_id")
    rows = serializers.IntegerField()
    first_at = serializers.DateTimeField(allow_null=True)
    last_at = serializers.DateTimeField(allow_null=True)
    is_clean = serializers.BooleanField(help_text="Nothing is missing and nothing flawed.")
    missing = serializers.IntegerField(help_text="Candles, over all gaps.")
    gap_count = serializers.SerializerMethodField()
    confirmed = serializers.IntegerField(help_text="Gaps that nobody has candles for.")
    gaps = serializers.SerializerMethodField(help_text=f"The last {GAPS_TOLD} at most.")
    flaws = serializers.DictField(child=serializers.IntegerField(), help_text="How many candles have each.")
    findings = FindingAnswer(many=True, help_text="The first of the flawed candles.")
    zero_volume = serializers.IntegerField()
    revisions = serializers.IntegerField()
    quarantined = serializers.IntegerField()

    def get_gap_count(self, report: Report) -> int:
        return len(report.gaps)

    @extend_schema_field(GapAnswer(many=True))
    def get_gaps(self, report: Report) -> Any:
        return GapAnswer(report.gaps[-GAPS_TOLD:], many=True).data


class RevisionSerializer(RowSerializer[CandleRevision]):
    source = SourceKindField(read_only=True)  # type: ignore[assignment]  # a field's own attribute, to the types
    was_source = SourceKindField(read_only=True)

    class Meta:
        model = CandleRevision
        fields = (
            "id", "open_at", "was_open", "was_high", "was_low", "was_close", "was_volume", "was_source", "open", "high",
            "low", "close", "volume", "source", "seen_at",
        )  # fmt: skip
        read_only_fields = fields


class QuarantineSerializer(RowSerializer[QuarantinedCandle]):
    source = SourceKindField(read_only=True)  # type: ignore[assignment]  # a field's own attribute, to the types
    flaw = serializers.ChoiceField(choices=[flaw.value for flaw in Flaw], read_only=True)

    class Meta:
        model = QuarantinedCandle
        fields = (
            "id", "open_at", "flaw", "detail", "row", "source", "times", "seen_at", "last_seen_at", "released_at",
        )  # fmt: skip
        read_only_fields = fields


def _count(rows: QuerySet[Any]) -> Coalesce:
    """How many of ``rows`` a feed has."""
    counted = rows.filter(feed=OuterRef("pk")).order_by().values("feed").annotate(count=Count("pk")).values("count")
    return Coalesce(Subquery(counted), 0)


class FeedViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, Rows[Feed]):
    """Markets and timeframes that are, or were, collected."""

    queryset = (
        Feed.objects.select_related("market__exchange")
        .prefetch_related("sources")
        .annotate(
            gaps_open=_count(CandleGap.objects.filter(status=GapStatus.OPEN)),
            quarantined=_count(QuarantinedCandle.objects.filter(released_at=None)),
            revised=_count(CandleRevision.objects.all()),
        )
    )
    serializer_class = FeedSerializer
    filterset_class = FeedFilter

    @extend_schema(responses=FeedDetail)
    def retrieve(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """One feed, with how far back its candles go."""
        return Response(FeedDetail(self.get_object()).data)

    @extend_schema(request=FeedInput, responses={200: FeedDetail, 201: FeedDetail})
    def create(self, request: Request) -> Response:
        """A feed of a market and timeframe: 201 if it is new, 200 if it was there. Sessions make it collected."""
        given = FeedInput(data=request.data)
        given.is_valid(raise_exception=True)
        market, timeframe = given.validated_data["market"], Timeframe(given.validated_data["timeframe"])
        was_there = Feed.objects.filter(market=market, timeframe=timeframe.value).exists()
        feed = self.get_queryset().get(pk=feed_ensure(market, timeframe).pk)
        return Response(FeedDetail(feed).data, status=200 if was_there else 201)

    @extend_schema(request=SourcesInput, responses=FeedDetail)
    @action(
        detail=True,
        methods=["put"],
        filterset_class=None,
        permission_classes=[permissions.IsAuthenticated, SuperuserWrites],
    )
    def sources(self, request: Request, pk: str | None = None) -> Response:
        """List the places its candles come from anew, the one to ask first first; none is the exchange of its market.
        Superusers only: it is everybody's feed."""
        given = SourcesInput(data=request.data)
        given.is_valid(raise_exception=True)
        feed = self.get_object()
        sources = [(int(one["kind"]), one["symbol"]) for one in given.validated_data["sources"]]
        feed_sources_set(feed, sources, actor=request.user.get_username())
        return Response(FeedDetail(self.get_object()).data)

    @extend_schema(responses=QualityAnswer)
    @action(detail=True, filterset_class=None)
    def quality(self, request: Request, pk: str | None = None) -> Response:
        """All that is stored of the feed, looked through now: what is missing, flawed or was doubted. A second a million
        candles."""
        return Response(QualityAnswer(feed_check(self.get_object().pk)).data)

    @extend_schema(responses=RevisionSerializer(many=True))
    @action(detail=True, filterset_class=None)
    def revisions(self, request: Request, pk: str | None = None) -> Response:
        """Candles that were told otherwise later, with both values, the last told first."""
        return self._page(self.get_object().revisions.all(), RevisionSerializer)

    @extend_schema(responses=QuarantineSerializer(many=True))
    @action(detail=True, filterset_class=None)
    def quarantine(self, request: Request, pk: str | None = None) -> Response:
        """Rows that failed a check, as they came, and why."""
        return self._page(self.get_object().quarantine.all(), QuarantineSerializer)

    def _page(self, rows: QuerySet[Any], serializer: type[RowSerializer[Any]]) -> Response:
        page = self.paginate_queryset(rows)
        assert page is not None
        return self.get_paginated_response(serializer(page, many=True).data)
