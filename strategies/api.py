"""The library of strategies, one's configurations of them, and what they said, over REST."""

from __future__ import annotations

import inspect
import json
import sys
from dataclasses import asdict
from typing import Any, cast

import django_filters
from django.http import Http404
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import mixins, serializers, viewsets
from rest_framework.request import Request
from rest_framework.response import Response

from domain.candles import Timeframe
from domain.strategy import Role, SignalKind, Strategy
from exchanges.api import ExchangeFilter, ExchangeRelated, market_meant
from exchanges.models import Exchange, Market
from marketdata.services import feed_ensure
from pipeline.rest import Filters, IdFilter, OwnedRows, RowSerializer, checked
from strategies.informatives import config_rebind
from strategies.library import LIBRARY
from strategies.models import Signal, StrategyConfig, informatives_validated, parameters_validated

# As JSON writes them: a NUL, and a backslash, which may stand before a u.
NUL, ESCAPED = b"\\u0000", b"\\\\"
TIMEFRAMES = [frame.value for frame in Timeframe]


class LineSerializer(serializers.Serializer[Any]):
    role = serializers.ChoiceField(
        choices=[role.value for role in Role], help_text="What it stands for; colour it by this."
    )
    indicator = serializers.CharField(help_text="Of `/indicators/catalogue`; empty for a constant.")
    output = serializers.CharField(help_text="Which of the indicator's outputs.")
    parameters = serializers.DictField(help_text="The indicator's.")
    pane = serializers.CharField(help_text="`price`, or a pane of its own below.")
    scale = serializers.FloatField(help_text="What the output is multiplied by.")
    level = serializers.FloatField(allow_null=True, help_text="Where the constant lies.")
    timeframe = serializers.CharField(help_text="Of which candles; empty for the strategy's own.")
    symbol = serializers.CharField(help_text="Of which market; empty for the strategy's own.")


class StrategySerializer(serializers.Serializer[Any]):
    name = serializers.CharField(help_text="What a configuration names it by.")
    title = serializers.CharField()
    description = serializers.CharField()
    origin = serializers.CharField(help_text="Where it came from: the library, a file, or an installed package.")
    warm_up = serializers.IntegerField(help_text="Closed candles before its first signal, with default parameters.")
    parameters = serializers.JSONField(help_text="JSON schema: bounds, defaults and help of every parameter.")
    chart = LineSerializer(many=True, help_text="The lines to draw, with default parameters.")


def strategy_described(strategy: type[Strategy[Any]]) -> dict[str, Any]:
    """A strategy for a reader: what it does, and the JSON schema of what can be set."""
    # One file each: what the class does not say of itself, its file does.
    text = strategy.__doc__ or sys.modules[strategy.__module__].__doc__ or ""
    plain = strategy.from_values({})
    return {
        "name": strategy.name,
        "title": strategy.title,
        "description": inspect.cleandoc(text),
        "origin": LIBRARY.origin(strategy.name),
        "warm_up": plain.warm_up,
        "parameters": strategy.parameters_type.model_json_schema(),
        "chart": [asdict(line) for line in plain.chart],
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
            raise Http404(LIBRARY.wanted(name))
        return Response(strategy_described(LIBRARY[name]))


class ParametersField(serializers.DictField):
    """Parameters by name. Half a surrogate pair and NUL are legal in JSON and in no other place that they go to."""

    def to_internal_value(self, data: Any) -> Any:
        values = super().to_internal_value(data)
        try:
            said = json.dumps(values, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise serializers.ValidationError("wanted text that can be written as UTF-8, was something else") from None
        if NUL in said.replace(ESCAPED, b""):
            raise serializers.ValidationError("wanted text without NUL, was some with it")
        return values


class ConfigSerializer(RowSerializer[StrategyConfig]):
    owner = serializers.CharField(source="owner.username", read_only=True)
    exchange_name = serializers.CharField(source="feed.market.exchange.name", read_only=True)
    market = serializers.IntegerField(source="feed.market_id", read_only=True)
    symbol = serializers.CharField(source="feed.market.symbol", read_only=True)
    timeframe = serializers.ChoiceField(source="feed.timeframe", choices=TIMEFRAMES, read_only=True)
    parameters = serializers.DictField(read_only=True)

    class Meta:
        model = StrategyConfig
        fields = (
            "id", "owner", "name", "exchange_name", "market", "symbol", "timeframe", "feed", "strategy", "parameters",
            "is_needed", "created_at",
        )  # fmt: skip
        read_only_fields = fields


class ConfigInput(RowSerializer[StrategyConfig]):
    """A new configuration. Its market is given by id, or by exchange and symbol."""

    market = serializers.PrimaryKeyRelatedField(queryset=Market.objects.all(), required=False)
    exchange = ExchangeRelated(queryset=Exchange.objects.all(), required=False)
    symbol = serializers.CharField(required=False, max_length=40)
    timeframe = serializers.ChoiceField(choices=TIMEFRAMES)
    parameters = ParametersField(default=dict, help_text="As the strategy's schema says; the rest are defaults.")

    class Meta:
        model = StrategyConfig
        fields = ("name", "strategy", "parameters", "market", "exchange", "symbol", "timeframe")

    def validate_name(self, name: str) -> str:
        return _free_name(self.context["request"].user.pk, name)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        strategy = checked(lambda: parameters_validated(attrs["strategy"], attrs["parameters"]))
        market = market_meant(attrs)
        checked(lambda: informatives_validated(strategy, market))
        return {**attrs, "market": market}

    def create(self, validated_data: dict[str, Any]) -> StrategyConfig:
        config = StrategyConfig.objects.create(
            owner=self.context["request"].user,
            feed=feed_ensure(validated_data["market"], Timeframe(validated_data["timeframe"])),
            **{name: validated_data[name] for name in ("name", "strategy", "parameters")},
        )
        config_rebind(config.pk)
        return config


class ConfigChange(RowSerializer[StrategyConfig]):
    """What can be changed of a configuration: its name, and its parameters while no active session uses it."""

    parameters = ParametersField(required=False)

    class Meta:
        model = StrategyConfig
        fields = ("name", "parameters")

    def validate_name(self, name: str) -> str:
        config = cast(StrategyConfig, self.instance)
        return _free_name(config.owner_id, name, but=config.pk)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "parameters" in attrs:
            config = cast(StrategyConfig, self.instance)
            strategy = checked(lambda: parameters_validated(config.strategy, attrs["parameters"]))
            checked(lambda: informatives_validated(strategy, config.feed.market))
        return attrs

    def update(self, instance: StrategyConfig, validated_data: dict[str, Any]) -> StrategyConfig:
        # Guarded: a session may start between our look and our write.
        rows = StrategyConfig.objects.filter(pk=instance.pk)
        if "parameters" in validated_data:
            rows = rows.filter(is_needed=False)
        if validated_data and not rows.update(**validated_data):
            raise ConfigInUse(
                "wanted a configuration that no active session uses, was in use: suspend or stop them first"
            )
        if "parameters" in validated_data:
            config_rebind(instance.pk)
        return instance


class ConfigInUse(Exception):
    """An active session is evaluated with these parameters."""


def _free_name(owner_id: int, name: str, but: int | None = None) -> str:
    if StrategyConfig.objects.filter(owner=owner_id, name=name).exclude(pk__in=[but] if but else []).exists():
        raise serializers.ValidationError(f"wanted a name that none of your other configurations has, was {name!r}")
    return name


class ConfigFilter(Filters):
    exchange = ExchangeFilter(field_name="feed__market__exchange", help_text="Its id or its name.")
    market = IdFilter(field_name="feed__market_id")
    feed = IdFilter(field_name="feed_id")
    symbol = django_filters.CharFilter(field_name="feed__market__symbol")
    timeframe = django_filters.ChoiceFilter(
        field_name="feed__timeframe", choices=[(frame, frame) for frame in TIMEFRAMES]
    )

    class Meta:
        model = StrategyConfig
        fields = ("name", "strategy", "is_needed")


class ConfigViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, OwnedRows[StrategyConfig]):
    """A strategy with its parameters on one market and timeframe."""

    queryset = StrategyConfig.objects.select_related("owner", "feed__market__exchange")
    serializer_class = ConfigSerializer
    filterset_class = ConfigFilter

    @extend_schema(request=ConfigInput, responses={201: ConfigSerializer})
    def create(self, request: Request) -> Response:
        """A new configuration; its feed comes into being with it."""
        config = ConfigInput(data=request.data, context=self.get_serializer_context())
        config.is_valid(raise_exception=True)
        return Response(ConfigSerializer(config.save()).data, status=201)

    @extend_schema(request=ConfigChange, responses=ConfigSerializer)
    def partial_update(self, request: Request, pk: str | None = None) -> Response:
        """Rename it, or replace its parameters while no active session uses it (409 otherwise)."""
        change = ConfigChange(self.get_object(), data=request.data, partial=True)
        change.is_valid(raise_exception=True)
        change.save()
        return Response(ConfigSerializer(self.get_object()).data)


class SignalSerializer(RowSerializer[Signal]):
    config_name = serializers.CharField(source="config.name", read_only=True)

    class Meta:
        model = Signal
        fields = (
            "id",
            "config",
            "config_name",
            "kind",
            "price",
            "confidence",
            "stop_price",
            "target_price",
            "atr",
            "reason",
            "candle_open_at",
            "candle_close_at",
            "created_at",
        )
        read_only_fields = fields


class SignalFilter(Filters):
    config = IdFilter(field_name="config_id")
    kind = django_filters.MultipleChoiceFilter(choices=[(kind.value, kind.value) for kind in SignalKind])
    candle_open_at = django_filters.IsoDateTimeFilter()
    candle_open_at__gte = django_filters.IsoDateTimeFilter(field_name="candle_open_at", lookup_expr="gte")
    candle_open_at__lt = django_filters.IsoDateTimeFilter(field_name="candle_open_at", lookup_expr="lt")

    class Meta:
        model = Signal
        fields: tuple[str, ...] = ()


class SignalViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, OwnedRows[Signal]):
    """What each configuration said about each candle, nothing included."""

    queryset = Signal.objects.select_related("config")
    serializer_class = SignalSerializer
    filterset_class = SignalFilter
    owner_path = "config__owner"
