"""Which parameters of a strategy are searched, and among which values: never one that the strategy would not take.

A study says it in plain words, ready for JSON: ``{"fast": [5, 10, 20], "slow": {"low": 20, "high": 200, "step": 10}}``. Types
and bounds are those of the strategy's own parameters; whether values fit together the strategy alone decides.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from enum import Enum
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from backtesting.wording import complaint_text, refusal_text
from domain.candles import IntArray
from domain.strategy import Strategy

# More combinations than that nobody goes over one by one.
MOST_COMBINATIONS = 1_000_000
MOST_VALUES = 100_000
# Places of a number before its point, or zeros after it; the steps between two such ends can still be counted.
MOST_PLACES = 300
RANGE_WORDS = frozenset({"low", "high", "step"})

# A place on each axis: the number of one of its values, or where it has none but any number, that number.
Point = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Axis:
    """One parameter that is searched: one of ``values``, or without any, any number from ``low`` to ``high``. Numbers are
    in ascending order (``is_ordered``), else the order means nothing."""

    name: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    is_ordered: bool = True

    def value(self, place: float) -> Any:
        return self.values[int(place)] if self.values else place

    def place(self, value: Any) -> float:
        """The inverse of ``value``. Raises ValueError for a value that is not on this axis."""
        if not self.values:
            return float(value)
        if value not in self.values:
            raise ValueError(f"wanted {self.name} to be one of {_listed(self.values)}, was {value!r}")
        return float(self.values.index(value))

    def drawn(self, random: np.random.Generator) -> float:
        """Some place, each as likely."""
        return float(random.integers(len(self.values))) if self.values else float(random.uniform(self.low, self.high))


@dataclass(slots=True, eq=False)
class _Order:
    """The numbers of all combinations in some order, how many of them were looked at, and which of those are accepted."""

    numbers: IntArray
    looked: int = 0
    found: list[Point] = field(default_factory=list)


class Space:
    """The parameters of ``strategy_type`` that are searched (``axes``), and those that are ``fixed``.

    ``said`` names for each parameter a list of values, or a mapping with any of ``low``, ``high`` and ``step``: what is left
    out comes from the parameter's own bounds, the step of a whole number is 1, and without a step a parameter with a fraction
    may be any number between. Of a parameter with choices or of a switch an empty mapping means all. Raises ValueError,
    saying which, for an unknown name, for values out of bounds, and where no combination is accepted at all.
    """

    def __init__(
        self, strategy_type: type[Strategy[Any]], said: Mapping[str, Any], fixed: Mapping[str, Any] | None = None
    ) -> None:
        self.strategy_type, fields = strategy_type, strategy_type.parameters_type.model_fields
        for name in (*said, *(fixed or {})):
            if name not in fields:
                raise ValueError(f"wanted a parameter of {strategy_type.name} ({', '.join(fields)}), was {name}")
        self.fixed = {name: _checked(name, fields[name], value) for name, value in (fixed or {}).items()}
        if twice := sorted(set(said) & set(self.fixed)):
            raise ValueError(f"wanted each parameter either searched or fixed, was both: {', '.join(twice)}")
        if not said:
            raise ValueError("wanted at least 1 parameter to search, was 0")
        self.axes = tuple(_axis(name, fields[name], words) for name, words in said.items())
        self._orders: dict[int | None, _Order] = {}

    @property
    def size(self) -> int | None:
        """How many combinations there are, those included that the strategy refuses; None: no end of them."""
        return math.prod(len(axis.values) for axis in self.axes) if all(axis.values for axis in self.axes) else None

    @property
    def is_listable(self) -> bool:
        """Whether its combinations may be gone over one by one."""
        return self.size is not None and self.size <= MOST_COMBINATIONS

    def nth(self, number: int, seed: int | None = None) -> Point | None:
        """Of the combinations that the strategy takes that of this number, from 0 on: in order, or with a ``seed`` in a
        random one of it. None: there are no more. No more of them are looked at than it takes. Raises ValueError where there
        is no end of them, or none."""
        if self.size is None or not self.is_listable:
            what = "a step for each number" if self.size is None else f"at most {MOST_COMBINATIONS} combinations"
            raise ValueError(f"wanted {what} to go over all, was {self.size or ', '.join(self._endless)}")
        if seed not in self._orders:
            all_numbers = np.arange(self.size)
            self._orders[seed] = _Order(
                all_numbers if seed is None else np.random.default_rng(seed).permutation(all_numbers)
            )
        order = self._orders[seed]
        while len(order.found) <= number and order.looked < self.size:
            point = self.point_at(int(order.numbers[order.looked]))
            order.looked += 1
            if not self.refusal(point):
                order.found.append(point)
        if not order.found and order.looked == self.size:
            raise ValueError(f"wanted a combination that {self.strategy_type.name} takes, was none among {self.size}")
        return order.found[number] if number < len(order.found) else None

    @property
    def accepted(self) -> Sequence[Point]:
        """All combinations that the strategy takes, in order. Raises ValueError as ``nth``."""
        self.nth(self.size or 0)
        return self._orders[None].found

    def point_at(self, number: int) -> Point:
        """The combination of that number: as digits, the last axis being the quickest."""
        digits = []
        for axis in reversed(self.axes):
            number, digit = divmod(number, len(axis.values))
            digits.append(float(digit))
        return tuple(reversed(digits))

    def point_of(self, values: Mapping[str, Any]) -> Point:
        """Where ``values`` lie. Raises ValueError where one is not on its axis."""
        return tuple(axis.place(values[axis.name]) for axis in self.axes)

    def values_at(self, point: Point) -> dict[str, Any]:
        """The parameters at ``point``, the fixed ones among them."""
        return {**self.fixed, **{axis.name: axis.value(place) for axis, place in zip(self.axes, point, strict=True)}}

    def refusal(self, point: Point) -> str:
        """Why the strategy does not take the parameters there; empty: it does."""
        return self._why_not({axis.name: axis.value(place) for axis, place in zip(self.axes, point, strict=True)})

    def drawn(self, random: np.random.Generator, tries: int = 1000) -> Point:
        """Some accepted point. Raises ValueError where none is found in so many tries."""
        for _ in range(tries):
            point = tuple(axis.drawn(random) for axis in self.axes)
            if not (why := self.refusal(point)):
                return point
        raise ValueError(f"wanted a combination that {self.strategy_type.name} takes, was none in {tries} tries: {why}")

    @property
    def warm_up(self) -> int:
        """How many candles the strategy needs before its first signal, at most, as far as the corners of the space tell: so
        much history is worth gathering before the span. A trial that needs more starts later."""
        return self.furthest.warm_up

    @functools.cached_property
    def furthest(self) -> Strategy[Any]:
        """The strategy that looks back furthest, over its own candles and then over others, as far as the corners of the
        space tell. Raises ValueError where none is accepted."""
        ends = [(0.0, float(len(axis.values) - 1)) if axis.values else (axis.low, axis.high) for axis in self.axes]
        corners = [*self._taken(itertools.islice(itertools.product(*ends), 4096))]
        points = corners or [self.drawn(np.random.default_rng(0))]
        return max((self.strategy_type.from_values(self.values_at(one)) for one in points), key=_reach)

    @property
    def lookers(self) -> list[Strategy[Any]]:
        """One strategy for each set of facts beside the candles that the searched ones look at, that of ``furthest`` first:
        as far as the values that have no order tell, one after the other."""
        found = {_look(self.furthest): self.furthest}
        base = self.furthest.parameters.model_dump(mode="json")
        for axis in self.axes:
            for value in axis.values if not axis.is_ordered else ():
                try:
                    strategy = self.strategy_type.from_values({**base, axis.name: value})
                except ValueError:
                    continue
                found.setdefault(_look(strategy), strategy)
        return list(found.values())

    def _taken(self, points: Iterator[Point]) -> Iterator[Point]:
        return (point for point in points if not self.refusal(point))

    def _why_not(self, searched: dict[str, Any]) -> str:
        try:
            self.strategy_type.from_values(self.fixed | searched)
        except ValueError as error:
            return refusal_text(error)
        return ""

    @property
    def _endless(self) -> list[str]:
        return [axis.name for axis in self.axes if not axis.values]


def _reach(strategy: Strategy[Any]) -> tuple[int, int]:
    return strategy.warm_up, sum(one.warm_up * one.timeframe.seconds for one in strategy.informative)


def _look(strategy: Strategy[Any]) -> frozenset[Any]:
    return frozenset((one.timeframe, one.symbol) for one in strategy.informative) | strategy.tapes


def _axis(name: str, info: FieldInfo, words: Any) -> Axis:
    kind = _kind_of(info.annotation)
    if isinstance(words, Mapping):
        return _range(name, info, kind, words) if _is_number(kind) else _all_of(name, kind, words)
    if isinstance(words, str) or not isinstance(words, Sequence):
        raise ValueError(f"wanted a list of values or a mapping of low, high and step for {name}, was {words!r}")
    values = tuple(_checked(name, info, one) for one in words)
    if not values or len(set(values)) < len(values):
        raise ValueError(f"wanted each value of {name} once and at least 1, was {_listed(values) or 'none'}")
    is_ordered = _is_number(kind) and None not in values
    return Axis(name, tuple(sorted(values)) if is_ordered else values, is_ordered=is_ordered)


def _range(name: str, info: FieldInfo, kind: type, words: Mapping[str, Any]) -> Axis:
    if unknown := sorted(set(words) - RANGE_WORDS):
        raise ValueError(f"wanted low, high and step for {name}, was {', '.join(unknown)}")
    low, high = (_end(name, info, kind, words, one) for one in ("low", "high"))
    step = _exact(name, words["step"]) if words.get("step") is not None else _own_step(info, kind)
    if low > high or (step is not None and step <= 0):
        raise ValueError(f"wanted low up to high by a step above 0 for {name}, was {low} to {high} by {step}")
    if kind is int and step is not None and any(one != one.to_integral_value() for one in (step, low)):
        raise ValueError(f"wanted whole numbers for {name}, was {low} to {high} by {step}")
    for end in (low, high):
        _checked(name, info, _number(kind, end))
    if step is None:
        return Axis(name, low=float(low), high=float(high))
    count = int((high - low) / step) + 1
    if count > MOST_VALUES:
        raise ValueError(f"wanted at most {MOST_VALUES} values of {name}, was {count}")
    return Axis(name, tuple(_checked(name, info, _number(kind, low + step * number)) for number in range(count)))


def _end(name: str, info: FieldInfo, kind: type, words: Mapping[str, Any], end: str) -> Decimal:
    """What is said of one end, else the parameter's own bound."""
    if words.get(end) is not None:
        return _exact(name, words[end])
    reached, passed, inside = ("ge", "gt", 1) if end == "low" else ("le", "lt", -1)
    for one in info.metadata:
        if (bound := getattr(one, reached, None)) is not None:
            return _exact(name, bound)
        if (bound := getattr(one, passed, None)) is not None and kind is int:
            return _exact(name, bound) + inside
    raise ValueError(f"wanted {end} of {name}, for it has no such bound of its own, was none")


def _own_step(info: FieldInfo, kind: type) -> Decimal | None:
    for one in info.metadata:
        if (multiple := getattr(one, "multiple_of", None)) is not None:
            return Decimal(str(multiple))
    return Decimal(1) if kind is int else None


def _all_of(name: str, kind: Any, words: Mapping[str, Any]) -> Axis:
    if words:
        raise ValueError(f"wanted a list of values for {name}, which is no number, was {dict(words)!r}")
    if kind is bool:
        return Axis(name, (False, True), is_ordered=False)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return Axis(name, tuple(member.value for member in kind), is_ordered=False)
    if get_origin(kind) is Literal:
        return Axis(name, get_args(kind), is_ordered=False)
    raise ValueError(f"wanted a list of values for {name}, which has no choices of its own, was none")


def _checked(name: str, info: FieldInfo, value: Any) -> Any:
    """``value`` as the parameter takes it, in JSON's words. Raises ValueError where it does not."""
    annotated: Any = Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
    adapter: TypeAdapter[Any] = _adapter(annotated)
    try:
        taken = adapter.validate_python(value)
    except ValidationError as error:
        raise ValueError(
            f"wanted {name} within its bounds ({complaint_text(error.errors()[0]['msg'])}), was {value!r}"
        ) from None
    if isinstance(taken, Enum):
        return taken.value
    return float(taken) if isinstance(taken, Decimal) else taken


@functools.lru_cache(maxsize=256)
def _adapter(annotated: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotated)


def _kind_of(annotation: Any) -> Any:
    """The type of a parameter, without the None that it may be."""
    if get_origin(annotation) not in (Union, UnionType):
        return annotation
    return next(one for one in get_args(annotation) if one is not type(None))


def _is_number(kind: Any) -> bool:
    return kind in (int, float, Decimal)


def _number(kind: type, exact: Decimal) -> int | float:
    return int(exact) if kind is int else float(exact)


def _exact(name: str, number: Any) -> Decimal:
    try:
        exact = Decimal(str(number))
    except InvalidOperation:
        exact = Decimal("NaN")
    if isinstance(number, bool) or not exact.is_finite() or abs(exact.adjusted()) > MOST_PLACES:
        raise ValueError(f"wanted numbers for {name}, was {number!r}")
    return exact


def _listed(values: Sequence[Any]) -> str:
    shown = ", ".join(map(str, values[:8]))
    return f"{shown}, … ({len(values)} in all)" if len(values) > 8 else shown
