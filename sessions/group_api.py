"""Groups of sessions over REST: one request for several accounts, commands to all. What they hold is added a floor above."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

from django.db.models import Prefetch
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from exchanges.models import Account
from pipeline.rest import Filters, OwnedRelated, OwnedRows, RowSerializer, checked
from sessions.api import ADJUSTABLE
from sessions.groups import Outcome, group_command, group_create
from sessions.models import SessionGroup, TradingSession
from strategies.models import StrategyConfig

PARTLY_DONE = 207


class MemberSerializer(RowSerializer[TradingSession]):
    account_name = serializers.CharField(source="account.name", read_only=True)

    class Meta:
        model = TradingSession
        fields: tuple[str, ...] = (
            "id", "name", "account", "account_name", "config", "status", "status_reason", "has_exposure", *ADJUSTABLE,
        )  # fmt: skip
        read_only_fields = fields


class GroupSerializer(RowSerializer[SessionGroup]):
    statuses = serializers.SerializerMethodField(help_text="How many sessions stand where.")
    sessions = MemberSerializer(many=True, read_only=True)

    class Meta:
        model = SessionGroup
        fields: tuple[str, ...] = ("id", "name", "created_at", "statuses", "sessions")
        read_only_fields = fields

    def get_statuses(self, group: SessionGroup) -> dict[str, int]:
        return dict(Counter(session.status for session in group.sessions.all()))


class OutcomeSerializer(serializers.Serializer[Any]):
    session_id = serializers.IntegerField()
    account_id = serializers.IntegerField()
    is_done = serializers.BooleanField()
    detail = serializers.CharField(
        help_text="The refusal in words, or how it was before; empty where it was just done."
    )


class GroupInput(RowSerializer[TradingSession]):
    """The same configuration on several accounts. Sizing and exits are those of every session of the group."""

    name = serializers.CharField(max_length=120)
    config: OwnedRelated[StrategyConfig] = OwnedRelated(queryset=StrategyConfig.objects.all())
    accounts: OwnedRelated[Account] = OwnedRelated(queryset=Account.objects.all(), many=True)
    start = serializers.BooleanField(default=False, help_text="Let them trade at once.")

    class Meta:
        model = TradingSession
        fields = ("name", "config", "accounts", *ADJUSTABLE, "tick_seconds", "start")


class GroupAnswer(serializers.Serializer[Any]):
    """The group as it is now, and what came of the command at each of its sessions."""

    group = GroupSerializer()
    results = OutcomeSerializer(many=True)


class GroupFilter(Filters):
    class Meta:
        model = SessionGroup
        fields = ("name",)


class GroupViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, OwnedRows[SessionGroup]):
    """Sessions of one configuration on several accounts, commanded together."""

    queryset = SessionGroup.objects.prefetch_related(
        Prefetch("sessions", TradingSession.objects.select_related("account").order_by("pk"))
    )
    serializer_class: type[GroupSerializer] = GroupSerializer
    filterset_class = GroupFilter

    @extend_schema(request=GroupInput, responses={201: GroupAnswer})
    def create(self, request: Request) -> Response:
        """A new group with a session on each account: all of them, or none where one does not fit. With ``start`` each is
        then started by itself, and its result says so."""
        wish = GroupInput(data=request.data, context=self.get_serializer_context())
        wish.is_valid(raise_exception=True)
        fields = dict(wish.validated_data)
        is_started = fields.pop("start")
        group: SessionGroup = checked(lambda: group_create(**fields))
        results = group_command(group.pk, "start", actor=request.user.get_username()) if is_started else []
        return self.answer(group.pk, results, 201)

    @extend_schema(request=None, responses={200: GroupAnswer, PARTLY_DONE: GroupAnswer})
    @action(detail=True, methods=["post"])
    def start(self, request: Request, pk: str | None = None) -> Response:
        """Let its new and stopped sessions trade. 207 where a session refused; each result says which, and why."""
        return self.command("start")

    @extend_schema(request=None, responses={200: GroupAnswer, PARTLY_DONE: GroupAnswer})
    @action(detail=True, methods=["post"])
    def suspend(self, request: Request, pk: str | None = None) -> Response:
        """Take no new entries on any account; positions keep their exits. 207 where a session refused."""
        return self.command("suspend")

    @extend_schema(request=None, responses={200: GroupAnswer, PARTLY_DONE: GroupAnswer})
    @action(detail=True, methods=["post"])
    def recover(self, request: Request, pk: str | None = None) -> Response:
        """Trade again after a suspension or halt, each once its exchange has been re-read. 207 where a session refused."""
        return self.command("recover")

    @extend_schema(request=None, responses={200: GroupAnswer, PARTLY_DONE: GroupAnswer})
    @action(detail=True, methods=["post"])
    def stop(self, request: Request, pk: str | None = None) -> Response:
        """End all of them: open orders are cancelled, positions closed at market. 207 where a session refused."""
        return self.command("stop")

    def command(self, name: str) -> Response:
        """Command the group in the name of who asks."""
        group: SessionGroup = self.get_object()
        results = group_command(group.pk, name, actor=self.request.user.get_username())
        return self.answer(group.pk, results, 200 if all(one.is_done for one in results) else PARTLY_DONE)

    def answer(self, group_id: int, results: list[Outcome], status: int) -> Response:
        """The group as the database has it now, with the results."""
        group = self.get_serializer(self.get_queryset().get(pk=group_id)).data
        return Response({"group": group, "results": [asdict(one) for one in results]}, status=status)
