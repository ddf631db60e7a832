"""Trading sessions over REST: set one up, adjust its sizing and exits, command it. What it holds is added a floor above."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

import django_filters
from django.db.models import QuerySet
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from domain.exit_plan import ExitPlan
from exchanges.api import ExchangeFilter
from exchanges.models import Account
from pipeline.rest import Filters, IdFilter, OwnedRelated, OwnedRows, RowSerializer, checked
from sessions.models import SessionStatus, TradingSession
from sessions.services import session_create, session_recover, session_start, session_stop, session_suspend
from strategies.models import StrategyConfig

# What may be changed while a session runs: it is read anew for every entry.
ADJUSTABLE = (
    "sizing_method", "sizing_amount", "is_confidence_weighted", "kelly_cap_percent", "kelly_min_trades", "leverage",
    "margin_mode", "max_entries", "stop_loss_percent", "take_profit_percent", "exits", "is_resting",
)  # fmt: skip


@extend_schema_field(
    {
        "type": "object",
        "description": f"Any of {', '.join(ExitPlan.model_fields)}; null takes away what the strategy has.",
        "example": {"stop_loss_atr": "2", "targets": [{"percent": "2", "fraction": "0.5"}, {"percent": "5"}]},
    }
)
class ExitsField(serializers.JSONField):
    """Fields of an exit plan; what is wrong with them is said with the whole plan, when the session is checked."""


class SessionSerializer(RowSerializer[TradingSession]):
    exits = ExitsField(read_only=True, help_text="Exits beside or instead of the strategy's.")
    exit_plan = serializers.SerializerMethodField(
        help_text="How a position entered now would be left: the strategy's plan, changed by the session's own words."
    )
    account_name = serializers.CharField(source="account.name", read_only=True)
    exchange_name = serializers.CharField(source="account.exchange.name", read_only=True)
    config_name = serializers.CharField(source="config.name", read_only=True)
    strategy = serializers.CharField(source="config.strategy", read_only=True)
    market = serializers.IntegerField(source="config.feed.market_id", read_only=True)
    symbol = serializers.CharField(source="config.feed.market.symbol", read_only=True)
    timeframe = serializers.CharField(source="config.feed.timeframe", read_only=True)
    feed = serializers.IntegerField(source="config.feed_id", read_only=True)
    next_tick_at = serializers.DateTimeField(source="tick.due_at", read_only=True, default=None, allow_null=True)

    class Meta:
        model = TradingSession
        fields: tuple[str, ...] = (
            "id", "name", "account", "account_name", "exchange_name", "group", "config", "config_name", "strategy", "feed",
            "market", "symbol", "timeframe", "status", "status_reason", *ADJUSTABLE, "exit_plan", "tick_seconds", "run",
            "has_exposure", "last_signal", "recover_requested_at", "next_tick_at", "created_at", "started_at",
            "stopped_at",
        )  # fmt: skip
        read_only_fields = fields

    @extend_schema_field(OpenApiTypes.OBJECT)
    def get_exit_plan(self, session: TradingSession) -> dict[str, Any] | None:
        return session.exit_plan_told


class SessionInput(RowSerializer[TradingSession]):
    """A new session: which configuration on which account, how much, and when to leave."""

    account: OwnedRelated[Account] = OwnedRelated(queryset=Account.objects.all())
    config: OwnedRelated[StrategyConfig] = OwnedRelated(queryset=StrategyConfig.objects.all())
    exits = ExitsField(required=False, help_text="Any fields of an exit plan; they come before the two percentages.")

    class Meta:
        model = TradingSession
        fields = ("name", "account", "config", *ADJUSTABLE, "tick_seconds")

    def create(self, validated_data: dict[str, Any]) -> TradingSession:
        session: TradingSession = checked(lambda: session_create(TradingSession(**validated_data)))
        return session


class SessionChange(RowSerializer[TradingSession]):
    """What can be changed of a session, also while it runs; a position that is open keeps its own exits."""

    exits = ExitsField(required=False, help_text="Any fields of an exit plan; they come before the two percentages.")

    class Meta:
        model = TradingSession
        fields = ADJUSTABLE

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if self.instance is not None:
            changed = copy(self.instance)
            for name, value in attrs.items():
                setattr(changed, name, value)
            checked(changed.clean)
        return attrs

    def update(self, instance: TradingSession, validated_data: dict[str, Any]) -> TradingSession:
        # By update: a save of the whole row would undo a change of status that came meanwhile.
        if validated_data:
            TradingSession.objects.filter(pk=instance.pk).update(**validated_data)
        return instance


class SessionFilter(Filters):
    account = IdFilter(field_name="account_id")
    config = IdFilter(field_name="config_id")
    group = IdFilter(field_name="group_id")
    exchange = ExchangeFilter(field_name="account__exchange", help_text="Its id or its name.")
    symbol = django_filters.CharFilter(field_name="config__feed__market__symbol")
    status = django_filters.MultipleChoiceFilter(choices=SessionStatus.choices)

    class Meta:
        model = TradingSession
        fields = ("name", "has_exposure")


class SessionViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, OwnedRows[TradingSession]):
    """A strategy on a market and timeframe of one account."""

    queryset: QuerySet[TradingSession] = TradingSession.objects.select_related(
        "account__exchange", "config__feed__market", "tick"
    )
    serializer_class: type[SessionSerializer] = SessionSerializer
    filterset_class = SessionFilter
    owner_path = "account__owner"

    @extend_schema(request=SessionInput)
    def create(self, request: Request) -> Response:
        """A new session. It does nothing until it is started."""
        session = SessionInput(data=request.data, context=self.get_serializer_context())
        session.is_valid(raise_exception=True)
        return self.current(session.save().pk, status=201)

    @extend_schema(request=SessionChange)
    def partial_update(self, request: Request, pk: str | None = None) -> Response:
        """Change sizing and exits; everything else of a session is for ever."""
        change = SessionChange(self.get_object(), data=request.data, partial=True)
        change.is_valid(raise_exception=True)
        return self.current(change.save().pk)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def start(self, request: Request, pk: str | None = None) -> Response:
        """Let a new or stopped session trade."""
        return self.command(session_start)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def suspend(self, request: Request, pk: str | None = None) -> Response:
        """Take no new entries; positions keep their exits."""
        return self.command(session_suspend)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def recover(self, request: Request, pk: str | None = None) -> Response:
        """Trade again after a suspension or halt, once the exchange has been re-read."""
        return self.command(session_recover)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def stop(self, request: Request, pk: str | None = None) -> Response:
        """End it: open orders are cancelled, positions closed at market; STOPPED once both are confirmed."""
        return self.command(session_stop)

    def command(self, verb: Callable[..., Any]) -> Response:
        """Carry out a command in the name of who asks; the session as it is afterwards."""
        session = self.get_object()
        verb(session.pk, actor=self.request.user.get_username())
        return self.current(session.pk)

    def current(self, session_id: int, status: int = 200) -> Response:
        """The session as the database has it now."""
        session = self.get_queryset().get(pk=session_id)
        return Response(self.get_serializer_class()(session, context=self.get_serializer_context()).data, status=status)
