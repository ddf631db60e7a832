"""The equity curve over REST, for charts: as many points as were asked for, thinned evenly where there are more."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, cast

from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, viewsets
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import replace_query_param

from exchanges.models import Account
from money.equity import curve_thinned
from money.models import EquityPoint
from pipeline.rest import OwnedRelated, RowSerializer
from sessions.models import TradingSession

MOST_POINTS = 5_000
SUBJECTS = ("session", "account", "owner")


class PointSerializer(RowSerializer[EquityPoint]):
    class Meta:
        model = EquityPoint
        fields = (
            "at", "equity", "realized_pnl", "unrealized_pnl", "fees", "funding", "exposure", "peak", "drawdown",
        )  # fmt: skip
        read_only_fields = fields


class EquityQuery(serializers.Serializer[Any]):
    session: OwnedRelated[TradingSession] = OwnedRelated(
        queryset=TradingSession.objects.all(), owner_path="account__owner", required=False
    )
    account: OwnedRelated[Account] = OwnedRelated(queryset=Account.objects.all(), required=False)
    owner = serializers.ChoiceField(choices=["me"], required=False)
    currency = serializers.CharField(max_length=16, required=False)
    since = serializers.DateTimeField(required=False)
    until = serializers.DateTimeField(required=False)
    points = serializers.IntegerField(default=500, min_value=1, max_value=MOST_POINTS)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        named = [name for name in SUBJECTS if name in attrs]
        if len(named) != 1:
            raise serializers.ValidationError(
                f"wanted one of session, account and owner, was {' and '.join(named) or 'none'}"
            )
        if "since" in attrs and attrs["since"] >= attrs.get("until", timezone.now()):
            raise serializers.ValidationError({"since": "wanted a time before until"})
        return attrs


class EquityAnswer(serializers.Serializer[Any]):
    currency = serializers.CharField(help_text="What the amounts are in; empty where there is no point at all.")
    since = serializers.DateTimeField(allow_null=True, help_text="Points after this time are asked for...")
    until = serializers.DateTimeField(help_text="...up to this one.")
    is_thinned = serializers.BooleanField(help_text="There are more points in this time than are shown.")
    previous = serializers.CharField(
        allow_null=True, help_text="The same stretch of time before; null: no points there."
    )
    next = serializers.CharField(allow_null=True, help_text="The same stretch of time after; null: no points there.")
    results = PointSerializer(many=True)


class EquityViewSet(viewsets.ViewSet):
    """What a session, an account, or all of one's accounts of a currency were worth."""

    @extend_schema(
        parameters=[
            OpenApiParameter("session", int, description="The id of one's session: what it has won or lost in all."),
            OpenApiParameter("account", int, description="The id of one's account: what it was worth."),
            OpenApiParameter("owner", enum=["me"], description="All of one's accounts together."),
            OpenApiParameter("currency", str, description="Of an owner; that of the newest point if not given."),
            OpenApiParameter("since", datetime, description="Points after this time; from the first one if not given."),
            OpenApiParameter("until", datetime, description="Points up to this time; up to the newest if not given."),
            OpenApiParameter(
                "points", int,
                description=f"How many at most, 1 to {MOST_POINTS}; 500 if not given. Where there are more, the last of "
                "each of so many equal stretches of time.",
            ),
        ],
        responses=EquityAnswer,
    )  # fmt: skip
    def list(self, request: Request) -> Response:
        """The curve of one of ``session``, ``account`` and ``owner``, oldest point first."""
        query = EquityQuery(data=request.query_params, context={"request": request})
        query.is_valid(raise_exception=True)
        asked = query.validated_data
        subject = next(name for name in SUBJECTS if name in asked)
        pk = cast(int, request.user.pk) if subject == "owner" else asked[subject].pk
        curve = EquityPoint.objects.filter(**{subject: pk})
        if "currency" in asked:
            curve = curve.filter(currency=asked["currency"])
        newest = curve.order_by("-at").first()
        currency = newest.currency if newest else asked.get("currency", "")
        curve = curve.filter(currency=currency)
        since = asked.get("since")
        is_news = newest is not None and (since is None or newest.at > since)
        until = asked.get("until") or (newest.at if newest and is_news else timezone.now())
        since = since or _before_the_first(curve, until)
        answer: dict[str, Any] = {
            "currency": currency, "since": since, "until": until, "is_thinned": False, "previous": None, "next": None,
            "results": [],
        }  # fmt: skip
        if since is not None:
            shown = curve_thinned(subject, pk, currency, since=since, until=until, points=asked["points"])
            answer |= {
                "is_thinned": curve.filter(at__gt=since, at__lte=until).count() > len(shown),
                "previous": _beside(request, curve.filter(at__lte=since), since, until, -1),
                "next": _beside(request, curve.filter(at__gt=until), since, until, 1),
                "results": PointSerializer(shown, many=True).data,
            }
        return Response(answer)


def _before_the_first(curve: QuerySet[EquityPoint], until: datetime) -> datetime | None:
    first = curve.filter(at__lte=until).order_by("at").values_list("at", flat=True).first()
    return first - timedelta(microseconds=1) if first else None


def _beside(
    request: Request, there: QuerySet[EquityPoint], since: datetime, until: datetime, direction: int
) -> str | None:
    """The address of the stretch as long as this one just before or after it, if there is a point that way."""
    if not there.exists():
        return None
    shift = (until - since) * direction
    url = request.build_absolute_uri()
    for name, at in (("since", since + shift), ("until", until + shift)):
        url = replace_query_param(url, name, at.isoformat().replace("+00:00", "Z"))
    return url
