"""Venues, markets, quotes and accounts over REST. Keys go in and never come out: an account shows a hint of its key."""

from __future__ import annotations

import re
from typing import Any, cast

import django_filters
from django.contrib.auth.base_user import AbstractBaseUser
from django.core.validators import MinValueValidator
from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field, extend_schema_view
from rest_framework import mixins, permissions, serializers
from rest_framework.decorators import action
from rest_framework.relations import PKOnlyObject
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from exchanges.accounts import (
    KeysExamined,
    KeysRefused,
    PaperRefused,
    account_create,
    account_rekey,
    balances_refresh,
    keys_examine,
    paper_require,
    risk_profile_change,
)
from exchanges.ccxt_gateway import is_ccxt_exchange
from exchanges.credentials import Credentials
from exchanges.models import Account, Balance, Exchange, Market, Quote, RiskProfile
from exchanges.presets import LIMIT_FIELDS
from exchanges.services import exchange_sync
from pipeline.rest import (
    LARGEST_ID,
    ExactDecimalField,
    Filters,
    IdFilter,
    NewestFirst,
    NoInput,
    OwnedRows,
    Rows,
    RowSerializer,
)

SLUG = re.compile(r"[-\w]+", re.ASCII)
NO_PUT = ("get", "post", "patch", "head", "options")


class SuperuserWrites(permissions.BasePermission):
    """Everybody reads; venues are the superuser's to set up."""

    message = "wanted a superuser, was an ordinary trader"

    def has_permission(self, request: Request, view: APIView) -> bool:
        return request.method in permissions.SAFE_METHODS or bool(request.user and request.user.is_superuser)


def named_exchange(value: Any) -> Q:
    """The exchange of this id or name."""
    text = str(value)
    if text.isascii() and text.isdigit():
        return Q(pk=min(int(text[:20]), LARGEST_ID))
    return Q(name=text)


@extend_schema_field({"oneOf": [{"type": "integer"}, {"type": "string"}], "description": "Its id or its name."})
class ExchangeRelated(serializers.RelatedField[Exchange, Any, int]):
    """An exchange by its id or its name; shown by its id."""

    def to_internal_value(self, data: Any) -> Exchange:
        is_one = isinstance(data, int | str) and not isinstance(data, bool) and SLUG.fullmatch(str(data))
        exchange = Exchange.objects.filter(named_exchange(data)).first() if is_one else None
        if exchange is None:
            raise serializers.ValidationError(f"wanted the id or the name of an exchange, was {data!r:.60}")
        return exchange

    def use_pk_only_optimization(self) -> bool:
        return True

    def to_representation(self, value: Exchange | PKOnlyObject) -> int:
        return int(value.pk)


class ExchangeFilter(django_filters.CharFilter):  # type: ignore[misc]  # untyped bases
    """Rows by an exchange's id or name; ``field_name`` leads to the exchange."""

    def filter(self, qs: QuerySet[Any], value: Any) -> QuerySet[Any]:
        if value in ("", None):
            return qs
        return qs.filter(**{f"{self.field_name}__in": Exchange.objects.filter(named_exchange(value))})


class ExchangeSerializer(RowSerializer[Exchange]):
    ccxt_id = serializers.SlugField(max_length=40, default="kucoin", help_text="Any exchange that ccxt speaks to.")
    clock_speed = serializers.FloatField(default=1.0, validators=[MinValueValidator(0.0)], max_value=1_000_000)

    class Meta:
        model = Exchange
        fields = (
            "id", "name", "ccxt_id", "base_url", "is_enabled", "public_weight", "clock_speed", "clock_anchor_at",
            "clock_venue_at",
            "markets_synced_at", "status", "status_message", "status_read_at", "unreachable_at", "stream_seen_at",
        )  # fmt: skip
        read_only_fields = (
            "clock_anchor_at", "clock_venue_at", "markets_synced_at", "status", "status_message", "status_read_at",
            "unreachable_at", "stream_seen_at",
        )  # fmt: skip

    def validate_ccxt_id(self, value: str) -> str:
        if not is_ccxt_exchange(value):
            raise serializers.ValidationError(f"wanted an exchange that ccxt speaks to, was {value!r}")
        return value

    def update(self, instance: Exchange, validated_data: dict[str, Any]) -> Exchange:
        for name, value in validated_data.items():
            setattr(instance, name, value)
        # These columns only: a clock that was read meanwhile stays as it was read.
        instance.save(update_fields=list(validated_data))
        return instance


class ExchangeSynced(ExchangeSerializer):
    markets = serializers.IntegerField(read_only=True, help_text="Markets that the venue listed.")

    class Meta(ExchangeSerializer.Meta):
        fields = (*ExchangeSerializer.Meta.fields, "markets")  # type: ignore[assignment]


class ExchangeViewSet(
    mixins.ListModelMixin,
    mixins.RetrieveModelMixin,
    mixins.CreateModelMixin,
    mixins.UpdateModelMixin,
    Rows[Exchange],
):
    """The venues we can reach. Everybody reads them, superusers set them up."""

    queryset = Exchange.objects.all()
    serializer_class = ExchangeSerializer
    permission_classes = (permissions.IsAuthenticated, SuperuserWrites)
    http_method_names = NO_PUT

    @extend_schema(request=None, responses=ExchangeSynced)
    @action(detail=True, methods=["post"], serializer_class=NoInput)
    def sync(self, request: Request, pk: str | None = None) -> Response:
        """Read the venue's clock and markets now; 503 with the reason when it cannot be reached."""
        exchange = self.get_object()
        markets = exchange_sync(exchange.pk)
        exchange.refresh_from_db()
        return Response({**ExchangeSerializer(exchange).data, "markets": markets})


class MarketSerializer(RowSerializer[Market]):
    exchange_name = serializers.CharField(source="exchange.name", read_only=True)

    class Meta:
        model = Market
        fields = (
            "id", "exchange", "exchange_name", "symbol", "base", "quote", "kind", "tick_size", "lot_size",
            "min_quantity", "max_quantity", "min_notional", "contract_size", "maker_fee", "taker_fee", "is_active",
            "synced_at",
        )  # fmt: skip
        read_only_fields = fields


def market_meant(attrs: dict[str, Any]) -> Market:
    """The traded market that is named by ``market``, or by ``exchange`` and ``symbol``."""
    market, exchange, symbol = attrs.get("market"), attrs.get("exchange"), attrs.get("symbol")
    if market is None and (exchange is None or not symbol):
        raise serializers.ValidationError({"market": "wanted a market's id, or exchange and symbol, was neither"})
    if market is None:
        market = Market.objects.filter(exchange=exchange, symbol=symbol).first()
    elif (exchange or market.exchange) != market.exchange or (symbol or market.symbol) != market.symbol:
        raise serializers.ValidationError({"market": f"wanted the exchange and symbol given with it, was {market}"})
    if market is None:
        raise serializers.ValidationError({"symbol": f"wanted a symbol of {exchange}, was {symbol!r}"})
    if not market.is_active:
        raise serializers.ValidationError({"market": f"wanted a market that is traded, was {market}, which is not"})
    return cast(Market, market)


class MarketFilter(Filters):
    exchange = ExchangeFilter(help_text="Its id or its name.")
    search = django_filters.CharFilter(
        field_name="symbol", lookup_expr="icontains", help_text="Part of its symbol, in any case."
    )

    class Meta:
        model = Market
        fields = ("exchange", "symbol", "base", "quote", "kind", "is_active")


class MarketPages(NewestFirst):
    """The newest first, or by name."""

    def get_ordering(self, request: Request, queryset: Any, view: Any) -> tuple[str, ...]:
        order = request.query_params.get("order", "newest")
        if order not in MARKET_ORDERS:
            raise serializers.ValidationError({"order": f"wanted {' or '.join(MARKET_ORDERS)}, was {order!r:.60}"})
        return MARKET_ORDERS[order]


MARKET_ORDERS = {"newest": ("-pk",), "name": ("symbol", "pk")}


@extend_schema_view(
    list=extend_schema(
        parameters=[OpenApiParameter("order", str, enum=list(MARKET_ORDERS), description="By age or by symbol.")]
    )
)
class MarketViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, Rows[Market]):
    """What the venues trade, with ticks, lots, minimums and fees."""

    queryset = Market.objects.select_related("exchange")
    serializer_class = MarketSerializer
    filterset_class = MarketFilter
    pagination_class = MarketPages


class QuoteSerializer(RowSerializer[Quote]):
    symbol = serializers.CharField(source="market.symbol", read_only=True)
    exchange_name = serializers.CharField(source="market.exchange.name", read_only=True)
    age_seconds = serializers.SerializerMethodField(help_text="How long ago it was seen.")

    class Meta:
        model = Quote
        fields = ("market", "exchange_name", "symbol", "bid", "ask", "last", "quoted_at", "age_seconds")
        read_only_fields = fields

    def get_age_seconds(self, quote: Quote) -> float:
        return round(max((timezone.now() - quote.quoted_at).total_seconds(), 0.0), 3)


class SymbolsFilter(django_filters.BaseInFilter, django_filters.CharFilter):  # type: ignore[misc]
    """Rows by any of several symbols, with commas between."""


class QuoteFilter(Filters):
    exchange = ExchangeFilter(field_name="market__exchange", help_text="Its id or its name.")
    symbol = django_filters.CharFilter(field_name="market__symbol")
    symbols = SymbolsFilter(field_name="market__symbol", lookup_expr="in", help_text="Several, with commas between.")
    market = IdFilter(field_name="market_id")

    class Meta:
        model = Quote
        fields: tuple[str, ...] = ()


class QuoteViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, Rows[Quote]):
    """The last price seen of each market that matters, by the market's id."""

    queryset = Quote.objects.select_related("market__exchange")
    serializer_class = QuoteSerializer
    filterset_class = QuoteFilter


class BalanceSerializer(RowSerializer[Balance]):
    class Meta:
        model = Balance
        fields = ("currency", "total", "free", "read_at")
        read_only_fields = fields


class RiskProfileSerializer(RowSerializer[RiskProfile]):
    preset = serializers.ChoiceField(
        choices=RiskProfile.Preset.choices,
        required=False,
        help_text="Written: sets every limit to what the preset says, before those named beside it. Read: which preset the "
        "limits are, CUSTOM when none.",
    )

    class Meta:
        model = RiskProfile
        fields = ("preset", *LIMIT_FIELDS)

    def update(self, instance: RiskProfile, validated_data: dict[str, Any]) -> RiskProfile:
        return risk_profile_change(instance.account_id, validated_data)


class AccountSerializer(RowSerializer[Account]):
    owner = serializers.CharField(source="owner.username", read_only=True)
    exchange = ExchangeRelated(queryset=Exchange.objects.all())
    exchange_name = serializers.CharField(source="exchange.name", read_only=True)
    balances = BalanceSerializer(many=True, read_only=True)
    risk_profile = RiskProfileSerializer(read_only=True)
    api_key = serializers.CharField(write_only=True, max_length=200, required=False)
    secret = serializers.CharField(write_only=True, max_length=200, required=False)
    passphrase = serializers.CharField(write_only=True, max_length=200, required=False, allow_blank=True)
    is_paper = serializers.BooleanField(
        default=False, help_text="Virtual money on the venue's real prices: wants a paper_balance and no keys."
    )
    paper_balance = ExactDecimalField(
        write_only=True, required=False, min_value=0, help_text="What a paper account starts with, in its currency."
    )

    class Meta:
        model = Account
        fields = (
            "id", "owner", "exchange", "exchange_name", "name", "currency", "is_paper", "key_hint", "status",
            "status_reason", "keys_checked_at", "keys_warning", "balances", "balances_synced_at", "risk_profile",
            "created_at", "api_key", "secret", "passphrase", "paper_balance",
        )  # fmt: skip
        read_only_fields = (
            "key_hint", "status", "status_reason", "keys_checked_at", "keys_warning", "balances_synced_at", "created_at",
        )  # fmt: skip

    def validate_name(self, name: str) -> str:
        return _free_name(self.context["request"].user, name)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        keys, balance = ("api_key", "secret", "passphrase"), ("paper_balance",)
        wanted, needless = (balance, keys) if attrs["is_paper"] else (keys[:2], balance)
        kind = "a paper account" if attrs["is_paper"] else "an account with keys"
        errors = {name: "This field is required." for name in wanted if name not in attrs}
        errors |= {name: f"wanted nothing here for {kind}, was given" for name in needless if name in attrs}
        if attrs["is_paper"]:
            try:
                paper_require(attrs["exchange"])
            except PaperRefused as error:
                errors["exchange"] = str(error)
        if errors:
            raise serializers.ValidationError(errors)
        return attrs

    def create(self, validated_data: dict[str, Any]) -> Account:
        exchange = validated_data["exchange"]
        credentials = None if validated_data["is_paper"] else _credentials(validated_data)
        return account_create(
            owner=self.context["request"].user,
            exchange=exchange,
            name=validated_data["name"],
            currency=validated_data.get("currency", "USDT"),
            credentials=credentials,
            paper_balance=validated_data.get("paper_balance"),
            examined=None if credentials is None else _examined(exchange, credentials),
        )


class AccountChange(RowSerializer[Account]):
    """What can be changed of an account: its name, and its keys all at once."""

    api_key = serializers.CharField(write_only=True, max_length=200, required=False)
    secret = serializers.CharField(write_only=True, max_length=200, required=False)
    passphrase = serializers.CharField(write_only=True, max_length=200, required=False, allow_blank=True)

    class Meta:
        model = Account
        fields = ("name", "api_key", "secret", "passphrase")

    def validate_name(self, name: str) -> str:
        return _free_name(self.instance.owner, name, but=self.instance) if self.instance else name

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        given = {"api_key", "secret", "passphrase"} & attrs.keys()
        missing = {"api_key", "secret"} - given
        if given and self.instance and self.instance.is_paper:
            raise serializers.ValidationError(
                dict.fromkeys(sorted(given), "wanted nothing here for a paper account, was given")
            )
        if given and missing:
            raise serializers.ValidationError(
                dict.fromkeys(sorted(missing), f"wanted with the other keys, was {', '.join(sorted(given))} alone")
            )
        return attrs

    def update(self, instance: Account, validated_data: dict[str, Any]) -> Account:
        credentials = _credentials(validated_data) if "api_key" in validated_data else None
        examined = _examined(instance.exchange, credentials, instance) if credentials else None
        # By update: a save of the whole row would undo a pause that came meanwhile.
        with transaction.atomic():
            if "name" in validated_data:
                Account.objects.filter(pk=instance.pk).update(name=validated_data["name"])
            if credentials:
                account_rekey(instance.pk, credentials, examined)
        return instance


def _free_name(owner: AbstractBaseUser, name: str, but: Account | None = None) -> str:
    others = Account.objects.filter(owner_id=owner.pk, name=name).exclude(pk__in=[but.pk] if but else [])
    if others.exists():
        raise serializers.ValidationError(f"wanted a name that none of your other accounts has, was {name!r}")
    return name


def _examined(exchange: Exchange, credentials: Credentials, account: Account | None = None) -> KeysExamined:
    try:
        return keys_examine(exchange, credentials, account)
    except KeysRefused as error:
        raise serializers.ValidationError({"api_key": [str(error)]}) from error


def _credentials(data: dict[str, Any]) -> Credentials:
    return Credentials(data["api_key"], data["secret"], data.get("passphrase", ""))


class AccountViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, mixins.CreateModelMixin, OwnedRows[Account]):
    """One's accounts at the venues. Keys are written and never read back."""

    queryset = Account.objects.select_related("owner", "exchange", "risk_profile").prefetch_related("balances")
    serializer_class = AccountSerializer
    filterset_fields = ("status",)
    http_method_names = NO_PUT

    @extend_schema(request=AccountChange, responses=AccountSerializer)
    def partial_update(self, request: Request, pk: str | None = None) -> Response:
        """Rename the account or replace its keys; new keys lift a pause."""
        change = AccountChange(
            self.get_object(), data=request.data, partial=True, context=self.get_serializer_context()
        )
        change.is_valid(raise_exception=True)
        change.save()
        return self._current()

    @extend_schema(request=None, responses=AccountSerializer)
    @action(detail=True, methods=["post"], serializer_class=NoInput)
    def refresh(self, request: Request, pk: str | None = None) -> Response:
        """Read the balances now; 503 with the reason when the venue cannot be reached or refuses the keys."""
        balances_refresh(self.get_object().pk)
        return self._current()

    @extend_schema(methods=["get"], request=None, responses=RiskProfileSerializer)
    @extend_schema(methods=["patch"], request=RiskProfileSerializer, responses=RiskProfileSerializer)
    @action(detail=True, methods=["get", "patch"], url_path="risk-profile", serializer_class=RiskProfileSerializer)
    def risk_profile(self, request: Request, pk: str | None = None) -> Response:
        """What the account may risk over all of its sessions; null is no limit. With ``preset`` all of it is set at once."""
        profile = RiskProfile.objects.get_or_create(account=self.get_object())[0]
        if request.method == "PATCH":
            change = RiskProfileSerializer(profile, data=request.data, partial=True)
            change.is_valid(raise_exception=True)
            profile = change.save()
        return Response(RiskProfileSerializer(profile).data)

    def _current(self) -> Response:
        return Response(AccountSerializer(self.get_object(), context=self.get_serializer_context()).data)
