"""The library of strategies, one's configurations of them, and what they said, over REST."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import django_filters
from django.db.models import QuerySet
from django.http import Http404
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import mixins, serializers, viewsets
from rest_framework.request import Request
from rest_framework.response import Response

from domain.candles import Timeframe
from domain.strategy import SignalKind, Strategy
from exchanges.api import ExchangeFilter, ExchangeRelated
from exchanges.models import Exchange, Market
from marketdata.services import feed_ensure
from pipeline.rest import IdFilter, OwnedRows, RowSerializer, checked
from strategies.library import LIBRARY
from strategies.models import Signal, StrategyConfig, parameters_validated


class StrategySerializer(serializers.Serializer[Any]):
    name = serializers.CharField(help_text="What a configuration names it by.")
    title = serializers.CharField()
    description = serializers.CharField()
    parameters = serializers.JSONField(help_text="JSON schema: bounds, defaults and help of every parameter.")


def strategy_described(strategy: type[Strategy[Any]]) -> dict[str, Any]:
    """A strategy for a reader: what it does, and the JSON schema of what can be set."""
    # One file each: what the class does not say of itself, its file does.
    text = strategy.__doc__ or sys.modules[strategy.__module__].__doc__ or ""
    return {
        "name": strategy.name,
        "title": strategy.title,
        "description": inspect.cleandoc(text),
        "parameters": strategy.parameters_type.model_json_schema(),
    }


class StrategyViewSet(viewsets.ViewSet):
    """The strategies there are."""

    lookup_field = "name"

    @extend_schema(responses=StrategySerializer(many=True))
    def list(self, request: Request) -> Response:
        """Every strategy of the library, on one page."""
        return Response([strategy_described(strategy) for _, strategy in sorted(LIBRARY.items())])

    @extend_schema(parameters=[OpenApiParameter("name", str, "path")], responses=StrategySerializer)
    def retrieve(self, request: Request, name: str) -> Response:
        """One strategy by its name."""
        if name not in LIBRARY:
            raise Http404(f"wanted one of {', '.join(sorted(LIBRARY))}, was {name!r:.60}")
        return Response(strategy_described(LIBRARY[name]))


class ConfigSerializer(RowSerializer[StrategyConfig]):
    """The market is given by its id, or by exchange and symbol."""

    owner = serializers.CharField(source="owner.username", read_only=True)
    exchange = ExchangeRelated(source="feed.market.exchange", queryset=Exchange.objects.all(), required=False)
    exchange_name = serializers.CharField(source="feed.market.exchange.name", read_only=True)
    market = serializers.PrimaryKeyRelatedField(source="feed.market", queryset=Market.objects.all(), required=False)
    symbol = serializers.CharField(source="feed.market.symbol", required=False)
    timeframe = serializers.ChoiceField(source="feed.timeframe", choices=[frame.value for frame in Timeframe])
    strategy = serializers.ChoiceField(choices=[(name, kind.title) for name, kind in LIBRARY.items()])
    parameters = serializers.DictField(required=False, help_text="As the strategy's schema says; what is left out is its default.")

    class Meta:
        model = StrategyConfig
        fields = (
            "id", "owner", "name", "exchange", "exchange_name", "market", "symbol", "timeframe", "feed", "strategy", "parameters",
            "is_needed", "created_at",
        )  # fmt: skip
        read_only_fields = ("feed", "is_needed", "created_at")

    def validate_name(self, name: str) -> str:
        owner = self.instance.owner if self.instance else self.context["request"].user
        others = StrategyConfig.objects.filter(owner=owner, name=name).exclude(pk=self.instance.pk if self.instance else None)
        if others.exists():
            raise serializers.ValidationError(f"wanted a name that none of your other configurations has, was {name!r}")
        return name

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        checked(lambda: parameters_validated(attrs["strategy"], attrs.get("parameters", {})))
        where = attrs.pop("feed")
        return {**attrs, "market": _market_of(where.get("market")), "timeframe": Timeframe(where["timeframe"])}

    def create(self, validated_data: dict[str, Any]) -> StrategyConfig:
        feed = feed_ensure(validated_data.pop("market"), validated_data.pop("timeframe"))
        return StrategyConfig.objects.create(owner=self.context["request"].user, feed=feed, **validated_data)


class ConfigChange(ConfigSerializer):
    """What can be changed of a configuration: its name, and its parameters while no active session uses it."""

    class Meta:
        model = StrategyConfig
        fields = ("name", "parameters")
