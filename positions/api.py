"""Positions over REST; and, as only this floor knows which orders and fills a session made, what sessions hold and all that
is asked for by session."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import django_filters
from django.db.models import DecimalField, OuterRef, Prefetch, Q, QuerySet, Subquery, Sum, Value
from django.db.models.functions import Coalesce
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from exchanges import api as exchanges_api
from exchanges.models import Account
from orders import api as orders_api
from orders.models import Fill, Order
from pipeline import api as pipeline_api
from pipeline.models import Event
from pipeline.rest import ExactDecimalField, Filters, IdFilter, NoInput, OwnedRows, RowSerializer
from pipeline.topics import TOPICS
from positions.hops import DESCRIPTIONS, hops_p50, session_hops
from positions.manual import order_cancel_by_hand
from positions.manual_api import ManualInput
from positions.models import (
    LIVE_POSITIONS,
    Discrepancy,
    DiscrepancyKind,
    DiscrepancyStatus,
    Intent,
    Position,
    PositionStatus,
    Resolution,
)
from positions.reconciliation import account_reconcile_soon
from positions.resolutions import CHOICES, discrepancy_resolve
from positions.services import session_exit
from sessions import api as sessions_api
from sessions.models import TradingSession
from sessions.services import UnableToCommand

ORDER_TOPICS = tuple(topic.value for topic, route in TOPICS.items() if route.key == "order")


def intents_of(session_id: int) -> QuerySet[Intent, Any]:
    """The intents whose ids the orders of a session carry."""
    return Intent.objects.filter(position__session=session_id).values("pk")


def session_of(intent_path: str) -> Subquery:
    """The session on whose behalf an order trades, as a column."""
    return Subquery(Intent.objects.filter(pk=OuterRef(intent_path)).values("position__session")[:1])


class PositionSerializer(RowSerializer[Position]):
    session_name = serializers.CharField(source="session.name", read_only=True)
    symbol = serializers.CharField(source="market.symbol", read_only=True)

    class Meta:
        model = Position
        fields = (
            "id", "session", "session_name", "account", "market", "symbol", "entry_signal", "side", "status",
            "leverage", "margin_mode", "quantity", "entered", "exited", "entry_price", "exit_price", "fees", "funding",
            "realized_pnl", "exits", "max_entries", "is_resting", "atr", "stop_price", "stop_reason", "target_price",
            "target_reason", "targets_done", "best_price", "exit_due_at", "liquidation_price", "unprotected_at",
            "exit_reason", "is_exit_wanted",
            "dust", "mark_price", "unrealized_pnl", "valued_at", "valuations", "opened_at", "closed_at", "created_at",
        )  # fmt: skip
        read_only_fields = fields


class PositionFilter(Filters):
    session = IdFilter(field_name="session_id")
    account = IdFilter(field_name="account_id")
    market = IdFilter(field_name="market_id")
    symbol = django_filters.CharFilter(field_name="market__symbol")
    status = django_filters.MultipleChoiceFilter(choices=PositionStatus.choices)

    class Meta:
        model = Position
        fields = ("side", "exit_reason")


class PositionViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, OwnedRows[Position]):
    """Round trips: what was held, at what price, with what result."""

    queryset = Position.objects.select_related("session", "market")
    serializer_class = PositionSerializer
    filterset_class = PositionFilter
    owner_path = "account__owner"


class DiscrepancySerializer(RowSerializer[Discrepancy]):
    symbol = serializers.CharField(source="market.symbol", read_only=True, allow_null=True)
    choices = serializers.SerializerMethodField(help_text="What may be decided about it now.")

    class Meta:
        model = Discrepancy
        fields = (
            "id", "account", "kind", "subject", "market", "symbol", "order", "position", "currency", "expected", "found",
            "detail", "status", "choices", "resolution", "resolved_by", "opened_at", "resolved_at",
        )  # fmt: skip
        read_only_fields = fields

    def get_choices(self, row: Discrepancy) -> list[str]:
        is_open = row.status == DiscrepancyStatus.OPEN
        return [str(choice) for choice in CHOICES[row.kind]] if is_open else []


class Decision(serializers.Serializer[Any]):
    """What is to be done about a difference; ``row`` of the context is which."""

    choice = serializers.ChoiceField(
        choices=[Resolution.ADOPT, Resolution.CLOSE, Resolution.IGNORE, Resolution.RESIZE],
        help_text="One of the difference's choices.",
    )

    def validate_choice(self, choice: str) -> str:
        kind = self.context["row"].kind
        if choice not in CHOICES[kind]:
            raise serializers.ValidationError(
                f"for {kind} wanted {' or '.join(CHOICES[kind]) or 'nothing'}, was {str(choice)!r}"
            )
        return choice


class DiscrepancyFilter(Filters):
    account = IdFilter(field_name="account_id")
    position = IdFilter(field_name="position_id")
    order = IdFilter(field_name="order_id")
    kind = django_filters.MultipleChoiceFilter(choices=DiscrepancyKind.choices)

    class Meta:
        model = Discrepancy
        fields = ("status", "resolution", "currency")


class DiscrepancyViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, OwnedRows[Discrepancy]):
    """Differences between the books and the venue, and what was decided about them."""

    queryset = Discrepancy.objects.select_related("market")
    serializer_class = DiscrepancySerializer
    filterset_class = DiscrepancyFilter
    owner_path = "account__owner"

    @extend_schema(request=Decision, responses=DiscrepancySerializer)
    @action(detail=True, methods=["post"])
    def resolve(self, request: Request, pk: str | None = None) -> Response:
        """Decide about an open difference; 409 with the reason where that cannot be done now, or something was decided."""
        row = self.get_object()
        decision = Decision(data=request.data, context={"row": row})
        decision.is_valid(raise_exception=True)
        discrepancy_resolve(row.pk, decision.validated_data["choice"], actor=request.user.get_username())
        return Response(self.get_serializer(self.get_object()).data)


class AccountViewSet(exchanges_api.AccountViewSet):
    """One's accounts at the venues. Keys are written and never read back."""

    @extend_schema(request=None, responses={202: None})
    @action(detail=True, methods=["post"], serializer_class=NoInput)
    def reconcile(self, request: Request, pk: str | None = None) -> Response:
        """Compare the account with its venue now instead of at its time; what differs is found under discrepancies."""
        account: Account = self.get_object()
        account_reconcile_soon(account.pk)
        return Response(status=202)


class SessionOrderSerializer(orders_api.OrderSerializer):
    session = serializers.IntegerField(source="session_id", read_only=True, allow_null=True)

    class Meta(orders_api.OrderSerializer.Meta):
        fields = ("session", *orders_api.OrderSerializer.Meta.fields)
        read_only_fields = fields


class SessionOrderFilter(orders_api.OrderFilter):
    session = IdFilter(method="of_session")

    def of_session(self, rows: QuerySet[Order], name: str, value: int) -> QuerySet[Order]:
        return rows.filter(intent_id__in=intents_of(value))


class OrderViewSet(orders_api.OrderViewSet):
    """Every attempt to trade, with what became of it and why; and orders by hand."""

    queryset: QuerySet[Order] = orders_api.OrderViewSet.queryset.annotate(session_id=session_of("intent_id"))
    serializer_class = SessionOrderSerializer
    filterset_class = SessionOrderFilter

    @extend_schema(request=ManualInput, responses={200: SessionOrderSerializer, 201: SessionOrderSerializer})
    def create(self, request: Request) -> Response:
        """Place an order by hand, through the same valuing, limits and protocol. Sent again under its key it is the order
        there is (200); another order under the same key is a 409. Against what is held it leaves that, whole or in part."""
        wish = ManualInput(data=request.data, context=self.get_serializer_context())
        wish.is_valid(raise_exception=True)
        order, is_new = wish.save()
        return Response(self.get_serializer(self.get_queryset().get(pk=order.pk)).data, status=201 if is_new else 200)

    @extend_schema(request=None, responses=SessionOrderSerializer)
    @action(detail=True, methods=["post"], serializer_class=NoInput)
    def cancel(self, request: Request, pk: str | None = None) -> Response:
        """Want an entry gone: at once where it was not sent yet, else once its venue says so. 409 for one that has ended,
        and for an exit."""
        order = self.get_object()
        order_cancel_by_hand(order.pk, actor=request.user.get_username())
        return Response(SessionOrderSerializer(self.get_object(), context=self.get_serializer_context()).data)


class SessionFillSerializer(orders_api.FillSerializer):
    session = serializers.IntegerField(source="session_id", read_only=True, allow_null=True)

    class Meta(orders_api.FillSerializer.Meta):
        fields = ("session", *orders_api.FillSerializer.Meta.fields)
        read_only_fields = fields


class SessionFillFilter(orders_api.FillFilter):
    session = IdFilter(method="of_session")

    def of_session(self, rows: QuerySet[Fill], name: str, value: int) -> QuerySet[Fill]:
        return rows.filter(order__intent_id__in=intents_of(value))


class FillViewSet(orders_api.FillViewSet):
    """Every execution, as the venue reported it."""

    queryset: QuerySet[Fill] = orders_api.FillViewSet.queryset.annotate(session_id=session_of("order__intent_id"))
    serializer_class = SessionFillSerializer
    filterset_class = SessionFillFilter


class SessionEventFilter(pipeline_api.EventFilter):
    session = IdFilter(method="of_session", help_text="Events of the session and of its orders.")

    def of_session(self, rows: QuerySet[Event], name: str, value: int) -> QuerySet[Event]:
        orders = Order.objects.filter(intent_id__in=intents_of(value)).values("pk")
        return rows.filter(Q(session_id=value) | Q(topic__in=ORDER_TOPICS, key__in=orders))


class EventViewSet(pipeline_api.EventViewSet):
    """What happened, in which order, and by whom."""

    filterset_class = SessionEventFilter


class HeldSerializer(RowSerializer[Position]):
    """What a session holds, or has asked for, now."""

    class Meta:
        model = Position
        fields = (
            "id", "side", "status", "quantity", "entry_price", "stop_price", "target_price", "mark_price",
            "unrealized_pnl", "valued_at", "valuations", "opened_at", "is_exit_wanted",
        )  # fmt: skip
        read_only_fields = fields


class HoldingSessionSerializer(sessions_api.SessionSerializer):
    position = serializers.SerializerMethodField(help_text="What it holds now, or null.")
    realized_pnl = ExactDecimalField(
        read_only=True, help_text="Of every position it ever had, in the account's currency."
    )

    class Meta(sessions_api.SessionSerializer.Meta):
        fields = (*sessions_api.SessionSerializer.Meta.fields, "position", "realized_pnl")
        read_only_fields = fields

    @extend_schema_field(HeldSerializer(allow_null=True))
    def get_position(self, session: TradingSession) -> dict[str, Any] | None:
        held: list[Position] = session.held  # type: ignore[attr-defined]  # prefetched by the view
        return HeldSerializer(held[0]).data if held else None


class HopsOfOrder(serializers.Serializer[Any]):
    order_id = serializers.IntegerField()
    client_order_id = serializers.CharField()
    is_exit = serializers.BooleanField()
    status = serializers.CharField()
    hops_ms = serializers.DictField(child=serializers.FloatField(allow_null=True))


class HopsAnswer(serializers.Serializer[Any]):
    session = serializers.IntegerField()
    hops = serializers.DictField(child=serializers.CharField(), help_text="What each hop is, in their order.")
    p50_ms = serializers.DictField(
        child=serializers.FloatField(allow_null=True), help_text="Median over the orders below."
    )
    orders = HopsOfOrder(many=True)


class SessionViewSet(sessions_api.SessionViewSet):
    """A strategy on a market and timeframe of one account, and what it holds."""

    queryset: QuerySet[TradingSession] = sessions_api.SessionViewSet.queryset.annotate(
        realized_pnl=Coalesce(
            Subquery(
                Position.objects.filter(session=OuterRef("pk"))
                .values("session")
                .annotate(sum=Sum("realized_pnl"))
                .values("sum")
            ),
            Value(0),
            output_field=DecimalField(max_digits=36, decimal_places=18),
        )
    ).prefetch_related(Prefetch("positions", Position.objects.filter(status__in=LIVE_POSITIONS), to_attr="held"))
    serializer_class = HoldingSessionSerializer

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def exit(self, request: Request, pk: str | None = None) -> Response:
        """Leave the position at market now and keep the session; 409 when it holds nothing."""
        session = self.get_object()
        if not session_exit(session.pk, actor=self.request.user.get_username()):
            raise UnableToCommand("to exit a session it must hold a position, was flat")
        return self.current(session.pk)

    @extend_schema(responses=HopsAnswer)
    @action(detail=True, methods=["get"], filterset_class=None, pagination_class=None)
    def hops(self, request: Request, pk: str | None = None) -> Response:
        """How long each hop from candle to settled order took, in ms: per order, and their medians."""
        session = self.get_object()
        hops = session_hops(session.pk)
        orders = [asdict(one) for one in hops]
        return Response({"session": session.pk, "hops": DESCRIPTIONS, "p50_ms": hops_p50(hops), "orders": orders})
