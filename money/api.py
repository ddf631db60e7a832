"""What only this floor knows, over REST: on what facts each order was valued, what a hypothetical one would get, why a
session traded or did not, and how much an account risks."""

from __future__ import annotations

from typing import Any

import django_filters
from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import mixins, serializers, viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from domain.market import OrderType, Side
from domain.risk import VarMethod
from money import drift_api
from money.exposure import account_risk
from money.models import TradingHalt, Valuation
from money.services import Judgement, order_quote, sizing_told
from money.why import check_told, session_why, verdict_text
from orders.models import Fill
from pipeline.rest import ExactDecimalField, Filters, IdFilter, OwnedRelated, OwnedRows, RowSerializer, exact_text
from positions import api as positions_api
from positions.api import PositionSerializer, intents_of, session_of
from sessions.models import TradingSession
from strategies.api import SignalSerializer

CHECK_UNITS = ("quote", "percent", "count", "times")


class CheckSerializer(serializers.Serializer[Any]):
    """One limit, measured. Figures are in quote currency, in percent, in times or plain counts, as ``unit`` says."""

    limit = serializers.CharField(help_text="Which field of the risk profile.")
    code = serializers.CharField(help_text="The denial it leads to.")
    unit = serializers.ChoiceField(choices=CHECK_UNITS)
    before = serializers.CharField(help_text="What it measures without the order.")
    after = serializers.CharField(help_text="And with it.")
    bound = serializers.CharField()
    margin = serializers.CharField(help_text="What is left of the bound after it.")
    room = serializers.CharField(
        allow_null=True,
        help_text="The largest notional it lets through; null where size is no matter or all of it fits.",
    )
    verdict = serializers.ChoiceField(choices=("PASSED", "CUT", "DENIED"))
    text = serializers.CharField(help_text="The same as a sentence.")


class ValuationSerializer(RowSerializer[Valuation]):
    session = serializers.IntegerField(source="session_id", read_only=True, allow_null=True)
    account = serializers.IntegerField(source="order.account_id", read_only=True)
    client_order_id = serializers.CharField(source="order.client_order_id", read_only=True)
    verdict_text = serializers.SerializerMethodField(help_text="The denial as a sentence; empty when approved.")
    checks = serializers.SerializerMethodField()

    class Meta:
        model = Valuation
        fields = (
            "id", "order", "client_order_id", "session", "account", "verdict", "verdict_text", "price", "equity",
            "free_balance", "exposure", "open_positions", "wanted", "capped", "quantity", "sizing", "checks",
            "decided_at",
        )  # fmt: skip
        read_only_fields = fields

    def get_verdict_text(self, valuation: Valuation) -> str:
        return verdict_text(valuation.verdict)

    @extend_schema_field(CheckSerializer(many=True))
    def get_checks(self, valuation: Valuation) -> list[dict[str, Any]]:
        return [{**check, "text": check_told(check)} for check in valuation.checks]


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


class QuoteAsked(serializers.Serializer[Any]):
    """An entry that a session might ask for. Without a quantity the session's sizing method says how much."""

    session: OwnedRelated[TradingSession] = OwnedRelated(
        owner_path="account__owner",
        queryset=TradingSession.objects.select_related("account__exchange", "config__feed__market__exchange"),
    )
    side = serializers.ChoiceField(choices=[side.value for side in Side], default=Side.BUY.value)
    order_type = serializers.ChoiceField(choices=[kind.value for kind in OrderType], default=OrderType.MARKET.value)
    quantity = ExactDecimalField(required=False, allow_null=True, help_text="At most so much, in base or contracts.")
    price = ExactDecimalField(required=False, allow_null=True, help_text="Limit price.")
    stop_price = ExactDecimalField(required=False, allow_null=True)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        kind = OrderType(attrs["order_type"])
        wanted = {OrderType.LIMIT: "price", OrderType.STOP: "stop_price"}.get(kind)
        errors = {
            name: f"wanted more than 0, was {exact_text(attrs[name])}"
            for name in ("quantity", "price", "stop_price")
            if attrs.get(name) is not None and attrs[name] <= 0
        }
        if wanted is not None and attrs.get(wanted) is None:
            errors[wanted] = f"wanted for a {kind} order, was nothing"
        if kind is OrderType.MARKET and attrs.get("price") is not None:
            errors["price"] = "wanted nothing here for a MARKET order, was given"
        if kind is not OrderType.STOP and attrs.get("stop_price") is not None:
            errors["stop_price"] = f"wanted nothing here for a {kind} order, was given"
        if errors:
            raise serializers.ValidationError(errors)
        return attrs


class QuoteAnswer(serializers.Serializer[Any]):
    """What valuing would say now; nothing was stored or placed."""

    session = serializers.IntegerField()
    verdict = serializers.CharField(help_text="APPROVED, or the code of the denial.")
    verdict_text = serializers.CharField()
    quantity = ExactDecimalField(allow_null=True)
    notional = ExactDecimalField(help_text="In quote currency.")
    reserved = ExactDecimalField(help_text="What would be held back of the free balance.")
    price = ExactDecimalField(allow_null=True, help_text="What it was valued at.")
    equity = ExactDecimalField(allow_null=True)
    free_balance = ExactDecimalField(allow_null=True)
    wanted = ExactDecimalField(allow_null=True, help_text="Notional that was asked for.")
    capped = ExactDecimalField(allow_null=True, help_text="Notional after every cap.")
    sizing = serializers.DictField()
    checks = CheckSerializer(many=True)


class MoneyViewSet(viewsets.GenericViewSet[Valuation]):
    """Asking the money manager."""

    queryset = Valuation.objects.none()
    serializer_class = QuoteAsked
    pagination_class = None

    @extend_schema(request=QuoteAsked, responses=QuoteAnswer)
    @action(detail=False, methods=["post"])
    def quote(self, request: Request) -> Response:
        """Value a hypothetical entry of a session, by the same rules as a real one, without placing or storing it."""
        asked = QuoteAsked(data=request.data, context=self.get_serializer_context())
        asked.is_valid(raise_exception=True)
        values = asked.validated_data
        judgement = order_quote(
            values["session"], side=Side(values["side"]), order_type=OrderType(values["order_type"]),
            quantity=values.get("quantity"), price=values.get("price"), stop_price=values.get("stop_price"),
        )  # fmt: skip
        return Response(QuoteAnswer(_quote_told(values["session"].pk, judgement)).data)


def _quote_told(session_id: int, judgement: Judgement) -> dict[str, Any]:
    book, sized = judgement.book, judgement.sized
    verdict = judgement.denial.value if judgement.denial else Valuation.APPROVED
    return {
        "session": session_id,
        "verdict": verdict,
        "verdict_text": verdict_text(verdict),
        "quantity": sized.quantity if sized and not judgement.denial else None,
        "notional": judgement.notional,
        "reserved": judgement.reserved,
        "price": judgement.price,
        "equity": book.equity if book else None,
        "free_balance": book.free_balance if book else None,
        "wanted": sized.wanted if sized else None,
        "capped": sized.capped if sized else None,
        "sizing": sizing_told(judgement.sizing) if judgement.sizing else {},
        "checks": [{**check, "text": check_told(check)} for check in judgement.checks],
    }


class WhyAsked(serializers.Serializer[Any]):
    candle = serializers.DateTimeField(required=False, help_text="When the candle opened, UTC; left out: the newest.")


class WhyFill(RowSerializer[Fill]):
    class Meta:
        model = Fill
        fields = ("id", "trade_id", "side", "quantity", "price", "fee", "fee_currency", "filled_at", "is_late")
        read_only_fields = fields


class WhyOrder(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    client_order_id = serializers.CharField()
    is_exit = serializers.BooleanField()
    side = serializers.CharField()
    order_type = serializers.CharField()
    status = serializers.CharField()
    reason = serializers.CharField()
    detail = serializers.CharField()
    quantity = ExactDecimalField(allow_null=True)
    filled = ExactDecimalField()
    average_price = ExactDecimalField(allow_null=True)
    requested_at = serializers.DateTimeField()
    closed_at = serializers.DateTimeField(allow_null=True)
    verdict = serializers.CharField(allow_null=True, help_text="Of its valuation; null where there is none.")
    verdict_text = serializers.CharField()
    sizing = serializers.DictField()
    checks = CheckSerializer(many=True)
    fills = WhyFill(many=True)


class WhyAnswer(serializers.Serializer[Any]):
    """What happened on one candle, as it was stored when it was decided."""

    session = serializers.IntegerField()
    candle_open_at = serializers.DateTimeField(allow_null=True)
    signal = SignalSerializer(allow_null=True)
    status_then = serializers.CharField(
        allow_null=True, help_text="The session's, by the last command before; or null."
    )
    status_now = serializers.CharField()
    orders = WhyOrder(many=True)
    positions = PositionSerializer(many=True)
    sentences = serializers.ListField(child=serializers.CharField(), help_text="All of it, to be read.")


class SessionViewSet(drift_api.SessionViewSet):
    """A strategy on a market and timeframe of one account, and what it holds."""

    @extend_schema(
        parameters=[
            OpenApiParameter("candle", OpenApiTypes.DATETIME, description="When it opened; default: the newest.")
        ],
        responses=WhyAnswer,
    )
    @action(detail=True, methods=["get"], filterset_class=None, pagination_class=None)
    def why(self, request: Request, pk: str | None = None) -> Response:
        """Why it traded, or did not, on a candle: signal, state, sizing, every limit, the order's fate, in codes and
        sentences."""
        session = self.get_object()
        asked = WhyAsked(data=request.query_params.dict())
        asked.is_valid(raise_exception=True)
        return Response(WhyAnswer(session_why(session, asked.validated_data.get("candle"))).data)


class ConcentrationSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    net = ExactDecimalField(help_text="Long less short.")
    exposure = ExactDecimalField(help_text="Long and short together.")
    percent_of_equity = ExactDecimalField(allow_null=True)


class CorrelationsSerializer(serializers.Serializer[Any]):
    markets = serializers.ListField(child=serializers.CharField())
    matrix = serializers.ListField(child=serializers.ListField(child=serializers.FloatField()))
    periods = serializers.IntegerField(help_text="How many returns it was measured on.")
    period_seconds = serializers.IntegerField()


class ValueAtRiskSerializer(serializers.Serializer[Any]):
    method = serializers.ChoiceField(choices=[method.value for method in VarMethod])
    confidence = serializers.FloatField()
    horizon_hours = serializers.IntegerField()
    var = ExactDecimalField(allow_null=True)
    cvar = ExactDecimalField(allow_null=True)
    detail = serializers.CharField(allow_blank=True, help_text="Why there is no figure.")


class LossSerializer(serializers.Serializer[Any]):
    since = ExactDecimalField(help_text="What equity was then.")
    amount = ExactDecimalField()
    percent = ExactDecimalField(allow_null=True)


class HaltInForce(RowSerializer[TradingHalt]):
    class Meta:
        model = TradingHalt
        fields = ("id", "mode", "session", "account", "owner", "rule", "cause", "tripped_by", "tripped_at")
        read_only_fields = fields


class RiskAnswer(serializers.Serializer[Any]):
    """How much an account risks, in its currency. Where its balance was never read there are no figures."""

    account = serializers.IntegerField()
    currency = serializers.CharField()
    equity = ExactDecimalField(allow_null=True)
    free_balance = ExactDecimalField(required=False)
    exposure = ExactDecimalField(required=False)
    net_exposure = ExactDecimalField(required=False)
    open_risk = ExactDecimalField(required=False, help_text="Lost when all stops are hit.")
    open_positions = serializers.IntegerField(required=False)
    by_market = ConcentrationSerializer(many=True, required=False)
    by_currency = ConcentrationSerializer(many=True, required=False)
    correlations = CorrelationsSerializer(required=False, allow_null=True)
    value_at_risk = ValueAtRiskSerializer(many=True, required=False)
    daily_loss = LossSerializer(required=False, allow_null=True)
    drawdown = LossSerializer(required=False, allow_null=True)
    limits = CheckSerializer(many=True, required=False)
    halts = HaltInForce(many=True)


class AccountViewSet(positions_api.AccountViewSet):
    """One's accounts at the venues. Keys are written and never read back."""

    @extend_schema(responses=RiskAnswer)
    @action(detail=True, methods=["get"], filterset_fields=(), pagination_class=None)
    def risk(self, request: Request, pk: str | None = None) -> Response:
        """Concentration, correlation, value at risk, losses, and every limit with its figure, bound and margin."""
        told = account_risk(self.get_object(), timezone.now())
        told["limits"] = [{**check, "text": check_told(check)} for check in told.get("limits", [])]
        return Response(RiskAnswer(told).data)
