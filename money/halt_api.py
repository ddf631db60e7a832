"""Halts over REST: trip one, lift one with a word why, and what is in force; and, on each session, the halt that holds it."""

from __future__ import annotations

from typing import Any

import django_filters
from django.contrib.auth.models import User
from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response

from exchanges.models import Account
from money.halts import halt_is_liftable, halt_lift, halt_trip, halts_of_owner, with_halt
from money.models import HaltMode, HaltScope, TradingHalt
from pipeline.rest import LARGEST_ID, Filters, FlagFilter, IdFilter, Rows, RowSerializer
from positions import api as positions_api
from sessions.models import TradingSession


class HaltSerializer(RowSerializer[TradingHalt]):
    scope = serializers.ChoiceField(choices=HaltScope.choices, read_only=True)
    is_in_force = serializers.SerializerMethodField()

    class Meta:
        model = TradingHalt
        fields = (
            "id", "scope", "session", "account", "owner", "mode", "is_in_force", "rule", "cause", "tripped_by",
            "tripped_at", "lifted_at", "lifted_by", "lift_note",
        )  # fmt: skip
        read_only_fields = fields

    def get_is_in_force(self, halt: TradingHalt) -> bool:
        return halt.lifted_at is None


class HaltInput(serializers.Serializer[Any]):
    """Whose trading is halted, how far, and why."""

    scope = serializers.ChoiceField(choices=HaltScope.choices)
    id = serializers.IntegerField(
        required=False, allow_null=True, min_value=1, max_value=LARGEST_ID,
        help_text="Of the session, account or owner; an owner is oneself where it is left out, the platform has none.",
    )  # fmt: skip
    mode = serializers.ChoiceField(
        choices=HaltMode.choices,
        default=HaltMode.HALT,
        help_text="HALT: no entries. REDUCE_ONLY: entries at work are cancelled too. FLATTEN: positions are closed, too.",
    )
    cause = serializers.CharField(max_length=200)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        user, scope, pk = self.context["request"].user, attrs["scope"], attrs.get("id")
        if scope == HaltScope.PLATFORM:
            if not user.is_superuser:
                raise PermissionDenied("wanted a superuser to halt the platform, was an ordinary trader")
            if pk is not None:
                raise serializers.ValidationError({"id": f"wanted none for the platform, was {pk}"})
            return {**attrs, "where": {}}
        if scope == HaltScope.OWNER and pk is None:
            pk = user.pk
        if pk is None:
            raise serializers.ValidationError({"id": f"wanted the id of the {scope.lower()}, was none"})
        if not _reachable(scope, user).filter(pk=pk).exists():
            raise serializers.ValidationError({"id": f"wanted the id of one of your {scope.lower()}s, was {pk}"})
        return {**attrs, "where": {f"{scope.lower()}_id": pk}}


class LiftInput(serializers.Serializer[Any]):
    note = serializers.CharField(max_length=200, help_text="Why trading may go on.")


class HaltFilter(Filters):
    session = IdFilter(field_name="session_id")
    account = IdFilter(field_name="account_id")
    owner = IdFilter(field_name="owner_id")
    mode = django_filters.MultipleChoiceFilter(choices=HaltMode.choices)
    is_in_force = FlagFilter(field_name="lifted_at", lookup_expr="isnull")

    class Meta:
        model = TradingHalt
        fields = ("rule",)


class HaltViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, Rows[TradingHalt]):
    """Circuit breakers: who halted what, how far and why, and who let it go on."""

    queryset = TradingHalt.objects.all()
    serializer_class = HaltSerializer
    filterset_class = HaltFilter

    def get_queryset(self) -> QuerySet[TradingHalt]:
        rows = super().get_queryset()
        user = self.request.user
        if getattr(self, "swagger_fake_view", False) or (user.is_authenticated and user.is_superuser):
            return rows
        # By id: a halt stands on one of three rows, and a page must not count it once a join.
        return rows.filter(pk__in=TradingHalt.objects.filter(halts_of_owner(user.pk or 0)).values("pk"))

    @extend_schema(request=HaltInput, responses={201: HaltSerializer})
    def create(self, request: Request) -> Response:
        """Halt a session, an account, all of one's own, or (superusers) the platform. Asked for twice it is one halt."""
        wish = HaltInput(data=request.data, context=self.get_serializer_context())
        wish.is_valid(raise_exception=True)
        asked = wish.validated_data
        halt = halt_trip(asked["mode"], asked["cause"], **asked["where"], actor=request.user.get_username())
        return Response(HaltSerializer(halt).data, status=201)

    @extend_schema(request=LiftInput, responses=HaltSerializer)
    @action(detail=True, methods=["post"])
    def lift(self, request: Request, pk: str | None = None) -> Response:
        """End it. One that was lifted already stays as it is. What it cancelled or closed is not taken back."""
        halt = self.get_object()
        note = LiftInput(data=request.data)
        note.is_valid(raise_exception=True)
        user = request.user
        if not halt_is_liftable(halt, user.get_username(), is_superuser=user.is_superuser):
            raise PermissionDenied("wanted a superuser to lift what the platform decided, was an ordinary trader")
        halt_lift(halt.pk, note.validated_data["note"], actor=user.get_username())
        return Response(HaltSerializer(self.get_object()).data)


class HaltOfSession(serializers.Serializer[Any]):
    """The strongest halt over a session."""

    id = serializers.IntegerField()
    mode = serializers.ChoiceField(choices=HaltMode.choices)
    cause = serializers.CharField()
    rule = serializers.CharField()


class HaltedSessionSerializer(positions_api.HoldingSessionSerializer):
    halt = serializers.SerializerMethodField(help_text="The halt that holds it, or null.")

    class Meta(positions_api.HoldingSessionSerializer.Meta):
        fields = (*positions_api.HoldingSessionSerializer.Meta.fields, "halt")
        read_only_fields = fields

    @extend_schema_field(HaltOfSession(allow_null=True))
    def get_halt(self, session: TradingSession) -> dict[str, Any] | None:
        halt: dict[str, Any] | None = session.halt  # type: ignore[attr-defined]  # annotated by the view
        return halt


class SessionViewSet(positions_api.SessionViewSet):
    """A strategy on a market and timeframe of one account, what it holds, and whether it is halted."""

    queryset: QuerySet[TradingSession] = with_halt(positions_api.SessionViewSet.queryset)
    serializer_class = HaltedSessionSerializer


def _reachable(scope: str, user: User) -> QuerySet[Any]:
    """What this user may halt."""
    everything: dict[str, tuple[QuerySet[Any], str]] = {
        HaltScope.SESSION: (TradingSession.objects.all(), "account__owner"),
        HaltScope.ACCOUNT: (Account.objects.all(), "owner"),
        HaltScope.OWNER: (User.objects.all(), "pk"),
    }
    rows, owner_path = everything[scope]
    return rows if user.is_superuser else rows.filter(**{owner_path: user.pk})
