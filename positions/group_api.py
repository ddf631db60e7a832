"""What groups of sessions hold and have won, for only this floor knows it: added up over their sessions, by currency."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from typing import Any

from django.db.models import Count, DecimalField, F, OuterRef, Prefetch, Q, Subquery, Sum, Value
from django.db.models.functions import Coalesce
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from pipeline.rest import ExactDecimalField
from positions.models import LIVE_POSITIONS, Position
from sessions import group_api
from sessions.models import SessionGroup, TradingSession

MONEY = DecimalField(max_digits=36, decimal_places=18)


def _of_session(total: Any, empty: Any, output: Any = None) -> Coalesce:
    """A figure over a session's positions, as a column."""
    rows = Position.objects.filter(session=OuterRef("pk")).order_by().values("session").annotate(total=total)
    return Coalesce(Subquery(rows.values("total")), Value(empty), output_field=output)


MEMBERS = TradingSession.objects.select_related("account").order_by("pk").annotate(
    realized_pnl=_of_session(Sum("realized_pnl"), Decimal(0), MONEY),
    unrealized_pnl=_of_session(Sum("unrealized_pnl"), Decimal(0), MONEY),
    live_positions=_of_session(Count("pk", filter=Q(status__in=LIVE_POSITIONS)), 0),
    currency=F("account__currency"),
)  # fmt: skip


class HoldingMemberSerializer(group_api.MemberSerializer):
    realized_pnl = ExactDecimalField(read_only=True)
    unrealized_pnl = ExactDecimalField(read_only=True)

    class Meta(group_api.MemberSerializer.Meta):
        fields = (*group_api.MemberSerializer.Meta.fields, "realized_pnl", "unrealized_pnl")
        read_only_fields = fields


class TotalSerializer(serializers.Serializer[Any]):
    currency = serializers.CharField()
    realized_pnl = ExactDecimalField()
    unrealized_pnl = ExactDecimalField()
    positions = serializers.IntegerField(help_text="Held now, or asked for.")


class HoldingGroupSerializer(group_api.GroupSerializer):
    totals = serializers.SerializerMethodField(help_text="Over all its sessions, by the accounts' currencies.")
    sessions = HoldingMemberSerializer(many=True, read_only=True)

    class Meta(group_api.GroupSerializer.Meta):
        fields = (*group_api.GroupSerializer.Meta.fields, "totals")
        read_only_fields = fields

    @extend_schema_field(TotalSerializer(many=True))
    def get_totals(self, group: SessionGroup) -> Any:
        sums: dict[str, dict[str, Any]] = defaultdict(
            lambda: {"realized_pnl": Decimal(0), "unrealized_pnl": Decimal(0), "positions": 0}
        )
        sessions: Any = group.sessions.all()
        for session in sessions:
            total = sums[session.currency]
            total["realized_pnl"] += session.realized_pnl
            total["unrealized_pnl"] += session.unrealized_pnl
            total["positions"] += session.live_positions
        return TotalSerializer([{"currency": name, **sums[name]} for name in sorted(sums)], many=True).data


class GroupViewSet(group_api.GroupViewSet):
    """Sessions of one configuration on several accounts, commanded together, and what they hold."""

    queryset = SessionGroup.objects.prefetch_related(Prefetch("sessions", MEMBERS))
    serializer_class = HoldingGroupSerializer
