"""What an order by hand looks like over REST, and what is wrong with one, by field."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from domain.market import ONE, OrderType, Side
from exchanges.models import Account, Market
from pipeline.rest import ExactDecimalField, OwnedRelated, checked
from positions.manual import ManualAsk, manual_order


class ManualInput(serializers.Serializer[Any]):
    """An order by hand. ``key`` is yours and makes it one order however often it is sent."""

    account: OwnedRelated[Account] = OwnedRelated(queryset=Account.objects.select_related("exchange", "owner"))
    market: serializers.PrimaryKeyRelatedField[Market] = serializers.PrimaryKeyRelatedField(
        queryset=Market.objects.select_related("exchange"), required=False, allow_null=True
    )
    symbol = serializers.CharField(max_length=40, required=False, help_text="Instead of the market's id.")
    side = serializers.ChoiceField(choices=[side.value for side in Side])
    order_type = serializers.ChoiceField(choices=[kind.value for kind in OrderType], default=OrderType.MARKET.value)
    quantity = ExactDecimalField(
        required=False, allow_null=True, help_text="Of the base currency, or contracts; at most so much is entered."
    )
    amount = ExactDecimalField(
        required=False, allow_null=True, help_text="Instead of a quantity: of the quote currency, at the order's price."
    )
    price = ExactDecimalField(required=False, allow_null=True, help_text="The limit.")
    stop_price = ExactDecimalField(required=False, allow_null=True, help_text="It rests until the market comes here.")
    leverage = ExactDecimalField(default=ONE, help_text="On markets of contracts.")
    exits = serializers.DictField(
        required=False, allow_null=True, default=None,
        help_text="Fields of an exit plan, for a position that begins with this order; none: you leave it by hand.",
    )  # fmt: skip
    key = serializers.CharField(max_length=64, help_text="Any text, new for each new order of the account.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        account, market, symbol = attrs["account"], attrs.get("market"), attrs.get("symbol")
        if market is None and symbol is None:
            raise serializers.ValidationError({"market": "wanted a market's id or its symbol, was neither"})
        if market is None:
            market = (
                Market.objects.select_related("exchange").filter(exchange=account.exchange_id, symbol=symbol).first()
            )
            if market is None:
                raise serializers.ValidationError(
                    {"symbol": f"wanted a symbol of {account.exchange.name}, was {symbol!r}"}
                )
        elif symbol not in (None, market.symbol):
            raise serializers.ValidationError({"symbol": f"wanted that of the market, {market.symbol}, was {symbol!r}"})
        return {**attrs, "market": market}

    def create(self, validated_data: dict[str, Any]) -> Any:
        """The order, and whether it is new."""
        words = {name: validated_data.get(name) for name in ("quantity", "amount", "price", "stop_price")}
        ask = ManualAsk(
            key=validated_data["key"], side=Side(validated_data["side"]),
            order_type=OrderType(validated_data["order_type"]), leverage=validated_data["leverage"],
            exits=validated_data["exits"], **words,
        )  # fmt: skip
        actor = self.context["request"].user.get_username()
        return checked(lambda: manual_order(validated_data["account"], validated_data["market"], ask, actor=actor))
