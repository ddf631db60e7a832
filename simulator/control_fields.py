"""Reading the fields of a control request; ValueError says what was found and what was wanted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

Body = Mapping[str, Any]
Query = Mapping[str, str]


class NotPossible(Exception):
    """A control request that asks for something that is not there."""

    def __init__(self, message: str, http_status: int = 404) -> None:
        super().__init__(message)
        self.http_status = http_status


def only(body: Body, known: Iterable[str]) -> None:
    """No field but the ``known`` ones."""
    unknown = sorted(set(body) - set(known))
    if unknown:
        raise ValueError(f"wanted fields among {', '.join(known)}, was {', '.join(unknown)}")


def number_of(body: Body, name: str) -> Decimal | None:
    """A number that is not negative."""
    value = decimal_of(body, name)
    if value is not None and value < 0:
        raise ValueError(f"wanted {name} not to be negative, was {value}")
    return value


def decimal_of(body: Body, name: str) -> Decimal | None:
    value = body.get(name)
    if value is None:
        return None
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        number = Decimal("NaN")
    if isinstance(value, bool) or not number.is_finite():
        raise ValueError(f"wanted {name} to be a number, was {value!r}")
    if number.adjusted() > 15:
        raise ValueError(f"wanted {name} to be at most 1e15, was {value!r}")
    return number


def truth_of(body: Body, name: str) -> bool | None:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"wanted {name} to be true or false, was {value!r}")
    return value
