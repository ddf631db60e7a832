"""What every endpoint shares: the call it is given, the route it is found by, and the reading of its parameters."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from simulator.books import Account
from simulator.refusals import Refused

CLIENT_OID = re.compile(r"[A-Za-z0-9_-]{1,40}")
MOST_DIGITS = 12  # a number beyond a trillion is a mistake, and would leave the precision of exact division
GENERAL, SPOT, FUTURES = "General", "Spot", "Futures"
MOST_ROWS = 500


@dataclass(slots=True)
class Call:
    """One request, after its signature was checked: ``tail`` is the last path segment where the route ends in one."""

    account: Account | None
    query: Mapping[str, str]
    body: dict[str, Any]
    tail: str
    now_ms: int
    wall_ms: int
    host: str = ""

    @property
    def owner(self) -> Account:
        """The account of a private call."""
        assert self.account is not None, "a private route was reached without its account"
        return self.account

    def param(self, name: str) -> str:
        """A query parameter that must be there."""
        value = self.query.get(name)
        if not value:
            raise Refused("400100", f"{name} is required")
        return value

    def number(self, name: str, default: int | None = None) -> int | None:
        """A whole number among the query parameters."""
        value = self.query.get(name)
        if value is None or value == "":
            return default
        if not value.lstrip("-").isdigit() or len(value) > 18:
            raise Refused("400100", f"{name} is invalid")
        return int(value)


@dataclass(frozen=True, slots=True)
class Route:
    """Where a call goes. ``permission`` is what the API key needs; None is a public route. ``weight`` of ``pool``'s."""

    answer: Callable[[Call], Any]
    permission: str | None = None
    pool: str = "public"
    weight: int = 2


Answers = Mapping[str, tuple[Callable[[Call], Any], int]]  # path: (what answers there, its weight)


def routes_of(method: str, answers: Answers, permission: str | None, pool: str) -> Routes:
    """Routes of one method, permission and pool."""
    return {(method, path): Route(answer, permission, pool, weight) for path, (answer, weight) in answers.items()}


def numbered_page(call: Call, rows: Sequence[Any]) -> dict[str, Any]:
    """The page of ``rows`` that pageSize and currentPage ask for, as KuCoin's older lists are."""
    size = min(max(call.number("pageSize", 50) or 50, 1), MOST_ROWS)
    page = max(call.number("currentPage", 1) or 1, 1)
    return {
        "currentPage": page,
        "pageSize": size,
        "totalNum": len(rows),
        "totalPage": -(-len(rows) // size),
        "items": list(rows[(page - 1) * size : page * size]),
    }


Routes = dict[tuple[str, str], Route]  # (method, path); a path that ends in "/" has one more segment, the tail


def text_field(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise Refused("400100", f"{name} is invalid")
    return value


def positive_field(body: Mapping[str, Any], name: str) -> Decimal | None:
    """A number above 0, written as text or as a JSON number."""
    value = body.get(name)
    if value is None or value == "":
        return None
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        number = Decimal("NaN")
    if isinstance(value, bool) or not number.is_finite() or number <= 0 or number.adjusted() > MOST_DIGITS:
        raise Refused("400100", f"{name} is invalid")
    return number
