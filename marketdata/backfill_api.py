"""History over REST: ask for it, see how far it is, stop it and go on; and the gaps of feeds, to be asked for again.

Market data is everybody's: every trader may ask and look. A backfill is stopped by who asked for it, or by a superuser.
"""

from __future__ import annotations

from typing import Any

import django_filters
from django.contrib.auth.models import User
from django.utils import timezone
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response

from exchanges.api import ExchangeFilter
from marketdata.backfills import (
    backfill_cancel,
    backfill_is_commanded_by,
    backfill_request,
    backfill_retry,
    progress,
    span_end,
)
from marketdata.models import Backfill, BackfillStatus, CandleGap, Feed, GapStatus
from marketdata.repairs import gap_ask_again
from pipeline.rest import Filters, IdFilter, NoInput, Rows, RowSerializer


class OfFeedSerializer(serializers.Serializer[Any]):
    """What a row of a feed says of the feed."""

    exchange_name = serializers.CharField(source="feed.market.exchange.name", read_only=True)
    symbol = serializers.CharField(source="feed.market.symbol", read_only=True)
    timeframe = serializers.CharField(source="feed.timeframe", read_only=True)


OF_FEED = ("feed", "exchange_name", "symbol", "timeframe")


class ProgressSerializer(serializers.Serializer[Any]):
    """How far it is."""

    percent = serializers.FloatField(help_text="Of the span.")
    rows_seen = serializers.IntegerField(help_text="Candles that passed their checks.")
    rows_new = serializers.IntegerField(help_text="Candles of these that were not there.")
    rows_per_second = serializers.FloatField(allow_null=True)
    seconds_left = serializers.FloatField(allow_null=True, help_text="At its pace so far; null where that is unknown.")


class BackfillSerializer(OfFeedSerializer, RowSerializer[Backfill]):
    progress = serializers.SerializerMethodField()
    is_mine = serializers.SerializerMethodField(help_text="Whether you may cancel and retry it.")

    class Meta:
        model = Backfill
        fields = (
            "id", *OF_FEED, "from_at", "until_at", "cursor_at", "status", "progress", "failures", "last_error",
            "not_before_at", "created_at", "started_at", "ended_at", "is_mine",
        )  # fmt: skip
        read_only_fields = fields

    @extend_schema_field(ProgressSerializer)
    def get_progress(self, backfill: Backfill) -> dict[str, Any]:
        told = progress(backfill, timezone.now())
        return {
            "percent": told.percent,
            "rows_seen": told.rows_seen,
            "rows_new": told.rows_new,
            "rows_per_second": None if told.rows_per_second is None else round(told.rows_per_second, 1),
            "seconds_left": None if told.left is None else round(told.left.total_seconds(), 1),
        }

    def get_is_mine(self, backfill: Backfill) -> bool:
        return backfill_is_commanded_by(backfill, self.context["request"].user)


class BackfillInput(serializers.Serializer[Any]):
    """What is wanted of which feed."""

    feed = serializers.PrimaryKeyRelatedField(queryset=Feed.objects.select_related("market__exchange"))
    from_at = serializers.DateTimeField(help_text="Open time of the first candle.")
    until_at = serializers.DateTimeField(
        required=False, help_text="Candles that open then or later are not wanted; left out: all that have closed."
    )


class BackfillFilter(Filters):
    feed = IdFilter(field_name="feed_id")
    exchange = ExchangeFilter(field_name="feed__market__exchange", help_text="Its id or its name.")
    symbol = django_filters.CharFilter(field_name="feed__market__symbol")
    timeframe = django_filters.CharFilter(field_name="feed__timeframe")
    status = django_filters.MultipleChoiceFilter(choices=BackfillStatus.choices)

    class Meta:
        model = Backfill
        fields: tuple[str, ...] = ()


class BackfillViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, Rows[Backfill]):
    """History that was asked for, and how far it is."""

    queryset = Backfill.objects.select_related("feed__market__exchange")
    serializer_class = BackfillSerializer
    filterset_class = BackfillFilter

    @extend_schema(request=BackfillInput, responses={201: BackfillSerializer})
    def create(self, request: Request) -> Response:
        """Have a span of a feed fetched. The same span asked for again while it goes on is the same backfill."""
        asked = BackfillInput(data=request.data, context=self.get_serializer_context())
        asked.is_valid(raise_exception=True)
        values = asked.validated_data
        until_at = values.get("until_at") or span_end(values["feed"], timezone.now())
        user = request.user if isinstance(request.user, User) else None
        backfill = backfill_request(values["feed"], values["from_at"], until_at, user)
        return Response(self.get_serializer(backfill).data, status=201)

    @extend_schema(request=NoInput, responses=BackfillSerializer)
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, pk: str | None = None) -> Response:
        """Stop it where it is; what was stored stays. One that has ended already stays as it is."""
        backfill_cancel(self._mine(request).pk, actor=request.user.get_username())
        return Response(self.get_serializer(self.get_object()).data)

    @extend_schema(request=NoInput, responses=BackfillSerializer)
    @action(detail=True, methods=["post"])
    def retry(self, request: Request, pk: str | None = None) -> Response:
        """Go on where it stopped, after it failed or was cancelled."""
        backfill_retry(self._mine(request).pk, actor=request.user.get_username())
        return Response(self.get_serializer(self.get_object()).data)

    def _mine(self, request: Request) -> Backfill:
        backfill: Backfill = self.get_object()
        if not backfill_is_commanded_by(backfill, request.user):
            raise PermissionDenied("wanted who asked for it, or a superuser, was another trader")
        return backfill


class GapSerializer(OfFeedSerializer, RowSerializer[CandleGap]):
    class Meta:
        model = CandleGap
        fields = (
            "id", *OF_FEED, "from_at", "until_at", "missing", "status", "attempts", "last_error", "not_before_at",
            "found_at", "ended_at",
        )  # fmt: skip
        read_only_fields = fields


class GapFilter(Filters):
    feed = IdFilter(field_name="feed_id")
    exchange = ExchangeFilter(field_name="feed__market__exchange", help_text="Its id or its name.")
    symbol = django_filters.CharFilter(field_name="feed__market__symbol")
    timeframe = django_filters.CharFilter(field_name="feed__timeframe")
    status = django_filters.MultipleChoiceFilter(choices=GapStatus.choices)
    since = django_filters.IsoDateTimeFilter(field_name="until_at", lookup_expr="gt", help_text="Missing after then.")
    until = django_filters.IsoDateTimeFilter(field_name="from_at", lookup_expr="lt", help_text="Missing before then.")

    class Meta:
        model = CandleGap
        fields: tuple[str, ...] = ()


class GapViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, Rows[CandleGap]):
    """Candles that should be there and are not, and what became of each gap."""

    queryset = CandleGap.objects.select_related("feed__market__exchange")
    serializer_class = GapSerializer
    filterset_class = GapFilter

    @extend_schema(request=NoInput, responses=GapSerializer)
    @action(detail=True, methods=["post"])
    def repair(self, request: Request, pk: str | None = None) -> Response:
        """Ask every source again now, whatever the pause; also where nobody was found to have them."""
        gap_ask_again(self.get_object().pk, actor=request.user.get_username())
        return Response(self.get_serializer(self.get_object()).data)
