"""The decision log over REST: on what facts each order was valued, and the verdict."""

from __future__ import annotations

import django_filters
from django.db.models import QuerySet
from rest_framework import mixins, serializers

from domain.orders import DENIAL_TEXTS, Denial
from money.models import Valuation
from pipeline.rest import Filters, IdFilter, OwnedRows, RowSerializer
from positions.api import intents_of, session_of


class ValuationSerializer(RowSerializer[Valuation]):
    session = serializers.IntegerField(source="session_id", read_only=True, allow_null=True)
    account = serializers.IntegerField(source="order.account_id", read_only=True)
    client_order_id = serializers.CharField(source="order.client_order_id", read_only=True)
    verdict_text = serializers.SerializerMethodField(help_text="The denial as a sentence; empty when approved.")

    class Meta:
        model = Valuation
        fields = (
            "id", "order", "client_order_id", "session", "account", "verdict", "verdict_text", "price", "equity",
            "free_balance", "exposure", "open_positions", "wanted", "capped", "quantity", "decided_at",
        )  # fmt: skip
        read_only_fields = fields

    def get_verdict_text(self, valuation: Valuation) -> str:
        return "" if valuation.is_approved else DENIAL_TEXTS[Denial(valuation.verdict)]


class ValuationFilter(Filters):
    order = IdFilter(field_name="order_id")
    account = IdFilter(field_name="order__account_id")
    session = IdFilter(method="of_session")
    verdict = django_filters.MultipleChoiceFilter(choices=[(verdict, verdict) for verdict in Valuation.verdicts()])

    class Meta:
        model = Valuation
        fields: tuple[str, ...] = ()

    def of_session(self, rows: QuerySet[Valuation], name: str, value: int) -> QuerySet[Valuation]:
        return rows.filter(order__intent_id__in=intents_of(value))


class ValuationViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, OwnedRows[Valuation]):
    """Why each order got its quantity, or none."""

    queryset = Valuation.objects.select_related("order").annotate(session_id=session_of("order__intent_id"))
    serializer_class = ValuationSerializer
    filterset_class = ValuationFilter
    owner_path = "order__account__owner"
