"""Orders and fills over REST, read only here: by session they are asked for, and by hand they are placed, a floor above."""

from __future__ import annotations

import django_filters
from django.db.models import QuerySet
from rest_framework import mixins, serializers

from domain.orders import DENIAL_TEXTS, Denial, Execution, OrderStatus
from orders.models import Fill, Funding, Order
from pipeline.rest import ExactDecimalField, Filters, IdFilter, OwnedRows, RowSerializer


class OrderSerializer(RowSerializer[Order]):
    account_name = serializers.CharField(source="account.name", read_only=True)
    exchange_name = serializers.CharField(source="market.exchange.name", read_only=True)
    symbol = serializers.CharField(source="market.symbol", read_only=True)
    execution = serializers.ChoiceField(choices=[one.value for one in Execution], read_only=True)
    average_price = ExactDecimalField(read_only=True, allow_null=True)
    reason_text = serializers.SerializerMethodField(
        help_text="The reason as a sentence; empty where the code says it all."
    )

    class Meta:
        model = Order
        fields: tuple[str, ...] = (
            "id", "client_order_id", "exchange_order_id", "account", "account_name", "exchange_name", "market",
            "symbol", "side", "position_side", "order_type", "is_exit", "is_foreign", "leverage", "margin_mode",
            "is_reduce_only", "quantity", "price",
            "stop_price", "filled", "filled_quote", "average_price", "status", "execution", "reason", "reason_text",
            "is_cancel_wanted", "requested_at", "valued_at", "sent_at", "opened_at", "closed_at",
        )  # fmt: skip
        read_only_fields = fields

    def get_reason_text(self, order: Order) -> str:
        if order.reason in Denial.__members__:
            return DENIAL_TEXTS[Denial(order.reason)]
        return order.detail


class OrderFilter(Filters):
    account = IdFilter(field_name="account_id")
    market = IdFilter(field_name="market_id")
    symbol = django_filters.CharFilter(field_name="market__symbol")
    status = django_filters.MultipleChoiceFilter(choices=[(status.value, status.value) for status in OrderStatus])
    since = django_filters.IsoDateTimeFilter(field_name="requested_at", lookup_expr="gte")
    until = django_filters.IsoDateTimeFilter(field_name="requested_at", lookup_expr="lt")

    class Meta:
        model = Order
        fields = ("side", "is_exit", "is_foreign", "client_order_id", "exchange_order_id", "reason")


class OrderViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, OwnedRows[Order]):
    """Every attempt to trade, with what became of it and why."""

    queryset: QuerySet[Order] = Order.objects.select_related("account", "market__exchange")
    serializer_class = OrderSerializer
    filterset_class = OrderFilter
    owner_path = "account__owner"


class FillSerializer(RowSerializer[Fill]):
    client_order_id = serializers.CharField(source="order.client_order_id", read_only=True)
    symbol = serializers.CharField(source="market.symbol", read_only=True)

    class Meta:
        model = Fill
        fields: tuple[str, ...] = (
            "id", "order", "client_order_id", "account", "market", "symbol", "trade_id", "side", "quantity", "price",
            "fee", "fee_currency", "filled_at", "recorded_at",
        )  # fmt: skip
        read_only_fields = fields


class FillFilter(Filters):
    order = IdFilter(field_name="order_id")
    account = IdFilter(field_name="account_id")
    market = IdFilter(field_name="market_id")
    since = django_filters.IsoDateTimeFilter(
        field_name="filled_at", lookup_expr="gte", help_text="By the venue's clock."
    )
    until = django_filters.IsoDateTimeFilter(
        field_name="filled_at", lookup_expr="lt", help_text="By the venue's clock."
    )

    class Meta:
        model = Fill
        fields = ("side", "trade_id")


class FillViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, OwnedRows[Fill]):
    """Every execution, as the venue reported it."""

    queryset: QuerySet[Fill] = Fill.objects.select_related("order", "market")
    serializer_class = FillSerializer
    filterset_class = FillFilter
    owner_path = "account__owner"


class FundingSerializer(RowSerializer[Funding]):
    symbol = serializers.CharField(source="market.symbol", read_only=True)

    class Meta:
        model = Funding
        fields: tuple[str, ...] = (
            "id", "account", "market", "symbol", "funding_id", "amount", "currency", "paid_at", "recorded_at",
        )  # fmt: skip
        read_only_fields = fields


class FundingFilter(Filters):
    account = IdFilter(field_name="account_id")
    market = IdFilter(field_name="market_id")
    symbol = django_filters.CharFilter(field_name="market__symbol")
    since = django_filters.IsoDateTimeFilter(field_name="paid_at", lookup_expr="gte", help_text="By the venue's clock.")
    until = django_filters.IsoDateTimeFilter(field_name="paid_at", lookup_expr="lt", help_text="By the venue's clock.")

    class Meta:
        model = Funding
        fields = ("funding_id",)


class FundingViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, OwnedRows[Funding]):
    """What positions of contracts paid (negative) and received, as the venue reported it."""

    queryset: QuerySet[Funding] = Funding.objects.select_related("market")
    serializer_class = FundingSerializer
    filterset_class = FundingFilter
    owner_path = "account__owner"
