"""The REST API under /api/v1/: the address of every app's views, and the one place where a failure becomes an answer.

Every failure is ``{"code": ..., "detail": ...}``, with ``fields`` beside them when values were wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from django.core.exceptions import ValidationError as DjangoValidationError
from django.db import IntegrityError
from django.http import HttpRequest, JsonResponse
from django.urls import re_path
from django.views.decorators.csrf import csrf_exempt
from psycopg.errors import UniqueViolation
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.routers import DefaultRouter
from rest_framework.views import exception_handler as drf_exception_handler
from rest_framework.views import set_rollback
from rest_framework.viewsets import ViewSetMixin

from backtesting.api import BacktestViewSet
from backtesting.gathering import NothingToTest
from backtesting.runs import UnableToBacktest
from backtesting.studies import UnableToStudy
from backtesting.studies.api import StudyViewSet
from exchanges.api import ExchangeViewSet, QuoteViewSet
from exchanges.credentials import UnableToDecrypt
from exchanges.gateway import ExchangeUnavailable
from marketdata.api import CollectedMarketViewSet, FeedViewSet
from marketdata.backfill_api import BackfillViewSet, GapViewSet
from marketdata.backfills import UnableToBackfill
from marketdata.candle_api import CandleViewSet, IndicatorViewSet
from marketdata.repairs import UnableToRepair
from money.api import AccountViewSet, MoneyViewSet, SessionViewSet, ValuationViewSet
from money.equity_api import EquityViewSet
from money.halt_api import HaltViewSet
from orders.api import FundingViewSet
from pipeline.rest import validation_detail
from positions.api import (
    DiscrepancyViewSet,
    EventViewSet,
    FillViewSet,
    OrderViewSet,
    PositionViewSet,
)
from positions.group_api import GroupViewSet
from positions.resolutions import UnableToResolve
from r3edge_site.tokens import TokenViewSet
from sessions.services import UnableToCommand
from strategies.api import ConfigInUse, ConfigViewSet, SignalViewSet, StrategyViewSet

# What the services raise, and the HTTP status that says it. What is not here is a bug, and is not caught.
STATUSES: dict[type[Exception], int] = {
    UnableToCommand: 409,
    UnableToResolve: 409,
    UnableToBackfill: 409,
    UnableToBacktest: 409,
    UnableToStudy: 409,
    UnableToRepair: 409,
    NothingToTest: 409,
    ConfigInUse: 409,
    ExchangeUnavailable: 503,
    UnableToDecrypt: 503,
}

ROUTES: dict[str, type[ViewSetMixin]] = {
    "tokens": TokenViewSet,
    "exchanges": ExchangeViewSet,
    "markets": CollectedMarketViewSet,
    "quotes": QuoteViewSet,
    "feeds": FeedViewSet,
    "candles": CandleViewSet,
    "backfills": BackfillViewSet,
    "gaps": GapViewSet,
    "indicators": IndicatorViewSet,
    "accounts": AccountViewSet,
    "strategies": StrategyViewSet,
    "configs": ConfigViewSet,
    "signals": SignalViewSet,
    "sessions": SessionViewSet,
    "groups": GroupViewSet,
    "orders": OrderViewSet,
    "fills": FillViewSet,
    "fundings": FundingViewSet,
    "positions": PositionViewSet,
    "discrepancies": DiscrepancyViewSet,
    "valuations": ValuationViewSet,
    "equity": EquityViewSet,
    "money": MoneyViewSet,
    "backtests": BacktestViewSet,
    "studies": StudyViewSet,
    "halts": HaltViewSet,
    "events": EventViewSet,
}


def exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """The answer to a failure, or None for a bug, which is Django's to report."""
    if isinstance(error, DjangoValidationError):
        error = exceptions.ValidationError(validation_detail(error))
    if isinstance(error, IntegrityError) and isinstance(error.__cause__, UniqueViolation):
        # Two requests for the same at once: each had looked before either wrote.
        return _answer(409, "conflict", "wanted something new, was there already")
    if isinstance(error, RecursionError):
        # Python's JSON reader raises it, and nothing of ours recurses on what a client sends.
        return _answer(400, "parse_error", "wanted JSON that is not nested so deep")
    for kind, status in STATUSES.items():
        if isinstance(error, kind):
            return _answer(status, _snake(type(error).__name__), str(error))
    response = drf_exception_handler(error, context)
    if response is None:
        return None
    if isinstance(error, exceptions.ValidationError):
        response.data = {
            "code": "invalid",
            "detail": "; ".join(_sentences(response.data)),
            "fields": _fields(response.data),
        }
    else:
        cause = error.detail if isinstance(error, exceptions.APIException) else None
        code = getattr(cause, "code", None) or _CODES.get(response.status_code, "error")
        response.data = {"code": code, "detail": str(response.data.get("detail", ""))}
    return response


_CODES = {403: "permission_denied", 404: "not_found"}


def failures_documented(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Tell the schema's reader, at every address, how a failure looks."""
    result["components"]["schemas"]["Failure"] = {
        "type": "object",
        "properties": {
            "code": {"type": "string", "description": "For programs.", "example": "unable_to_command"},
            "detail": {"type": "string", "description": "For people: what was wanted, and what was found."},
            "fields": {
                "type": "object",
                "description": "With status 400: what is wrong, by field.",
                "additionalProperties": {},
            },
        },
        "required": ["code", "detail"],
    }
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Failure"}}}
    for methods in result["paths"].values():
        for operation in methods.values():
            operation["responses"]["default"] = {"description": "Any failure.", "content": content}
    return result


def _answer(status: int, code: str, detail: str) -> Response:
    set_rollback()
    return Response({"code": code, "detail": detail}, status=status)


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _fields(detail: Any) -> Any:
    return detail if isinstance(detail, Mapping) else {"non_field_errors": detail}


def _sentences(detail: Any, path: str = "") -> Iterator[str]:
    if isinstance(detail, Mapping):
        for name, value in detail.items():
            yield from _sentences(value, path if name == "non_field_errors" else f"{path}{name}: ")
    elif isinstance(detail, list | tuple):
        for value in detail:
            yield from _sentences(value, path)
    else:
        yield f"{path}{detail}"


def _singular(plural: str) -> str:
    return f"{plural.removesuffix('ies')}y" if plural.endswith("ies") else plural.removesuffix("s")


router = DefaultRouter(trailing_slash=False)
router.include_format_suffixes = False
for prefix, viewset in ROUTES.items():
    router.register(prefix, viewset, basename=_singular(prefix))


@csrf_exempt
def not_found(request: HttpRequest) -> JsonResponse:
    """The answer at an address that there is not, in the shape of every other failure."""
    return JsonResponse({"code": "not_found", "detail": f"no such address: {request.path}"}, status=404)


urlpatterns = [*router.urls, re_path("", not_found)]
