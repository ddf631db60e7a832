"""The drift of a session over REST: what it did and what the backtest would have done, side by side."""

from __future__ import annotations

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from backtesting.drift import CODE_TEXTS, MOST_CANDLES, Code, Drift, Row
from backtesting.engine.inputs import Trade
from domain.market import PositionSide
from money import halt_api
from money.drift import session_drift
from pipeline.rest import ExactDecimalField

ROWS, MOST_ROWS = 200, 1000


class DriftAsked(serializers.Serializer[Any]):
    since = serializers.DateTimeField(required=False, help_text="By the venue's clock; left out: since its run began.")
    until = serializers.DateTimeField(required=False, help_text="Left out: up to the last candle that is stored.")
    limit = serializers.IntegerField(default=ROWS, min_value=1, max_value=MOST_ROWS, help_text="Rows in one answer.")
    offset = serializers.IntegerField(default=0, min_value=0, max_value=MOST_CANDLES, help_text="Rows to pass over.")


class DriftLive(serializers.Serializer[Any]):
    """What the session did. Nothing was entered where ``entry_at`` is null; nothing left yet where ``exit_at`` is."""

    position = serializers.IntegerField(source="position_id")
    asked_at = serializers.DateTimeField(allow_null=True, help_text="The close of its signal's candle; null: by hand.")
    entry_at = serializers.DateTimeField(allow_null=True)
    entry_price = ExactDecimalField(allow_null=True)
    quantity = ExactDecimalField(allow_null=True)
    exit_at = serializers.DateTimeField(allow_null=True)
    exit_price = ExactDecimalField(allow_null=True)
    exit_reason = serializers.CharField(allow_blank=True)
    pnl = ExactDecimalField(allow_null=True)
    denial = serializers.CharField(allow_blank=True, help_text="Why its entry was refused; empty where it was not.")


class DriftTested(serializers.Serializer[Any]):
    """What the backtest did. An exit inside a candle has the time at which that one opened."""

    entry_at = serializers.DateTimeField()
    entry_price = serializers.FloatField()
    quantity = serializers.FloatField()
    exit_at = serializers.DateTimeField(allow_null=True)
    exit_price = serializers.FloatField(allow_null=True)
    exit_reason = serializers.CharField(allow_blank=True)
    pnl = serializers.FloatField(allow_null=True)


class DriftDifference(serializers.Serializer[Any]):
    """Live less backtest; null where one of the two has no such figure."""

    seconds = serializers.FloatField(allow_null=True, help_text="By how much the entry was later than the open.")
    entry_price = serializers.FloatField(allow_null=True)
    exit_price = serializers.FloatField(allow_null=True)
    quantity = serializers.FloatField(allow_null=True)
    pnl = serializers.FloatField(allow_null=True)
    slippage = serializers.FloatField(allow_null=True, help_text="What other prices cost, in quote currency.")


class DriftRow(serializers.Serializer[Any]):
    candle_open_at = serializers.DateTimeField(help_text="The candle that it was, or would have been, entered in.")
    side = serializers.ChoiceField(choices=[side.value for side in PositionSide])
    codes = serializers.ListField(
        child=serializers.ChoiceField(choices=[code.value for code in Code]),
        help_text="; ".join(f"{code}: {text}" for code, text in CODE_TEXTS.items()) + ".",
    )
    text = serializers.CharField(help_text="The same as a sentence.")
    live = DriftLive(allow_null=True)
    backtest = DriftTested(allow_null=True)
    difference = DriftDifference()


class DriftTotals(serializers.Serializer[Any]):
    """Over all rows, in quote currency; of trades that have been left."""

    live_pnl = serializers.FloatField()
    backtest_pnl = serializers.FloatField()
    difference = serializers.FloatField()
    slippage = serializers.FloatField(help_text="What other prices cost, of trades that both made.")
    missed_pnl = serializers.FloatField(help_text="Of trades that only the backtest made.")
    extra_pnl = serializers.FloatField(help_text="Of trades that only the session made.")
    live_trades = serializers.IntegerField()
    backtest_trades = serializers.IntegerField()
    codes = serializers.DictField(child=serializers.IntegerField(), help_text="How often each was said.")


class DriftAnswer(serializers.Serializer[Any]):
    session = serializers.IntegerField()
    since = serializers.DateTimeField()
    until = serializers.DateTimeField()
    candles = serializers.IntegerField(help_text="That could be traded in.")
    totals = DriftTotals()
    warnings = serializers.ListField(child=serializers.CharField())
    count = serializers.IntegerField(help_text="Rows there are.")
    rows = DriftRow(many=True)


class SessionViewSet(halt_api.SessionViewSet):
    """A strategy on a market and timeframe of one account, what it holds, and how far it is from its backtest."""

    @extend_schema(
        parameters=[
            OpenApiParameter("since", OpenApiTypes.DATETIME, description="Default: since its run began."),
            OpenApiParameter("until", OpenApiTypes.DATETIME, description="Default: the last candle that is stored."),
            OpenApiParameter("limit", OpenApiTypes.INT, description=f"Rows in one answer, at most {MOST_ROWS}."),
            OpenApiParameter("offset", OpenApiTypes.INT, description="Rows to pass over."),
        ],
        responses=DriftAnswer,
    )
    @action(detail=True, methods=["get"], filterset_class=None, pagination_class=None)
    def drift(self, request: Request, pk: str | None = None) -> Response:
        """What the backtest would have done over the same candles, beside what the session did, each difference explained:
        latency, slippage, a denial, a suspension. At most 20,000 candles; 409 where too little is stored."""
        session = self.get_object()
        asked = DriftAsked(data=request.query_params.dict())
        asked.is_valid(raise_exception=True)
        values = asked.validated_data
        drift = session_drift(session, values.get("since"), values.get("until"))
        return Response(DriftAnswer(_told(session.pk, drift, values["offset"], values["limit"])).data)


def _told(session_id: int, drift: Drift, offset: int, limit: int) -> dict[str, Any]:
    return {
        "session": session_id,
        "since": drift.since,
        "until": drift.until,
        "candles": drift.candles,
        "totals": drift.totals,
        "warnings": drift.warnings,
        "count": len(drift.rows),
        "rows": [_row_told(row) for row in drift.rows[offset : offset + limit]],
    }


def _row_told(row: Row) -> dict[str, Any]:
    prices = {name: row.difference(name) for name in ("entry_price", "exit_price", "quantity", "pnl")}
    return {
        "candle_open_at": row.candle_open_at,
        "side": row.side,
        "codes": row.codes,
        "text": row.text,
        "live": row.live,
        "backtest": _tested_told(row.tested),
        "difference": {"seconds": row.seconds("entry_at"), **prices, "slippage": row.slippage},
    }


def _tested_told(trade: Trade | None) -> dict[str, Any] | None:
    """An open one without the exit that it was valued at."""
    if trade is None:
        return None
    left = {
        "exit_at": trade.exit_at,
        "exit_price": trade.exit_price,
        "exit_reason": trade.exit_reason,
        "pnl": trade.pnl,
    }
    nothing = {"exit_at": None, "exit_price": None, "exit_reason": "", "pnl": None}
    known = {"entry_at": trade.entry_at, "entry_price": trade.entry_price, "quantity": trade.quantity}
    return {**known, **(nothing if trade.is_open else left)}
