"""What a strategy is: typed parameters and one method from candle arrays to signal arrays.

The admin form, the API schema and (later) the optimiser all come from the parameters' bounds and help texts. A strategy
sees closed candles only, its own and those it names (``domain/informative.py``). ``domain/soundness.py`` finds one that sees
more than that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from domain.advice import Adviser
from domain.candles import Candles, FloatArray, Timeframe
from domain.exit_plan import ExitPlan, TargetLevel
from domain.informative import Informative, Others, TapeKind

SignalArray = NDArray[np.int8]


class SignalKind(StrEnum):
    """What a strategy says about one closed candle."""

    ENTER_LONG = "ENTER_LONG"
    ENTER_SHORT = "ENTER_SHORT"
    EXIT_LONG = "EXIT_LONG"
    EXIT_SHORT = "EXIT_SHORT"
    NOTHING = "NOTHING"


class Sides(StrEnum):
    """Which way a strategy trades: rising markets, falling ones, or both."""

    LONG = "LONG"
    SHORT = "SHORT"
    BOTH = "BOTH"


class Parameters(BaseModel):
    """Parameters that every strategy has. Percentages are of the entry price."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stop_loss_percent: Decimal | None = Field(
        default=Decimal(2),
        gt=0,
        lt=100,
        title="Stop-loss, %",
        description="Leave when the price is this far against us.",
    )
    take_profit_percent: Decimal | None = Field(
        default=Decimal(4),
        gt=0,
        le=1000,
        title="Take-profit, %",
        description="Leave when the price is this far for us.",
    )


P = TypeVar("P", bound=Parameters)


@dataclass(frozen=True, slots=True)
class SignalArrays:
    """Signals along the candles: +1 speaks of a long position, -1 of a short one, 0 says nothing.

    ``entries`` opens, ``exits`` closes; where both speak on one candle the exit comes first. Beside the entries a strategy
    may say how sure it is (0 to 1) and name its own stop and target prices; NaN is no word. ``tags`` name the entries.
    """

    entries: SignalArray
    exits: SignalArray
    confidence: FloatArray | None = None
    stops: FloatArray | None = None
    targets: FloatArray | None = None
    tags: NDArray[Any] | None = None

    @classmethod
    def of_turns(
        cls, up: NDArray[np.bool_], down: NDArray[np.bool_], sides: Sides = Sides.LONG, **words: FloatArray
    ) -> SignalArrays:
        """Of a market that turns up and down: what opens one side closes the other. Both sides need no exits, for an entry of
        the other side speaks against a position as an exit does, and an exit beside it would outrank it."""
        rises, falls, none = up.astype(np.int8), down.astype(np.int8), np.zeros(len(up), dtype=np.int8)
        if sides is Sides.BOTH:
            return cls(rises - falls, none, **words)
        return cls(rises, falls, **words) if sides is Sides.LONG else cls(-falls, -rises, **words)

    def between(self, start: int, end: int) -> SignalArrays:
        """What was said of the candles at indices ``start`` to before ``end``."""
        within = slice(start, end)
        confidence, stops, targets = (
            None if one is None else one[within] for one in (self.confidence, self.stops, self.targets)
        )
        tags = None if self.tags is None else self.tags[within]
        return SignalArrays(self.entries[within], self.exits[within], confidence, stops, targets, tags)

    def kind_at(self, index: int) -> SignalKind:
        """What was said on the candle at ``index``; an exit outranks an entry, for it lowers risk."""
        leave, enter = int(self.exits[index]), int(self.entries[index])
        if leave:
            return SignalKind.EXIT_LONG if leave > 0 else SignalKind.EXIT_SHORT
        if enter:
            return SignalKind.ENTER_LONG if enter > 0 else SignalKind.ENTER_SHORT
        return SignalKind.NOTHING


class Role(StrEnum):
    """What a line of a chart stands for; whoever draws it chooses the colour."""

    FAST = "FAST"
    SLOW = "SLOW"
    TREND = "TREND"
    UPPER = "UPPER"
    MIDDLE = "MIDDLE"
    LOWER = "LOWER"
    STOP = "STOP"
    OSCILLATOR = "OSCILLATOR"
    SIGNAL = "SIGNAL"
    HISTOGRAM = "HISTOGRAM"
    LEVEL = "LEVEL"


@dataclass(frozen=True, slots=True)
class Line:
    """One line to draw beside a strategy's candles, in the pane of prices or in one of its own: an output of an indicator
    of the catalogue, ``scale`` times, or without an indicator a constant ``level``. On the candles of ``symbol`` and
    ``timeframe`` where they are named."""

    role: Role
    indicator: str = ""
    output: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    pane: str = "price"
    scale: float = 1.0
    level: float | None = None
    timeframe: str = ""
    symbol: str = ""


class Strategy(ABC, Generic[P]):
    """A trading idea: give it parameters, then candles; it answers with signals.

    ``name`` is what configurations store; ``title`` is what a trader reads.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    parameters_type: ClassVar[type[Parameters]]
    # The timeframe that it was written for, where it was for one.
    timeframe: ClassVar[Timeframe | None] = None
    # What whoever uses it should know about how it is run here.
    notes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, parameters: P) -> None:
        self.parameters = parameters

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Strategy[Any]:
        """A strategy with ``values`` as parameters; raises pydantic's ValidationError, naming each bad one."""
        return cls(cls.parameters_type.model_validate(values))  # type: ignore[arg-type]  # the class pairs the two

    @property
    def exit_plan(self) -> ExitPlan:
        """How its positions are left unless the session says otherwise: by its two percentages, where it has no plan of
        its own."""
        target = self.parameters.take_profit_percent
        return ExitPlan(
            stop_loss_percent=self.parameters.stop_loss_percent,
            targets=() if target is None else (TargetLevel(percent=target),),
        )

    @property
    @abstractmethod
    def warm_up(self) -> int:
        """How many closed candles it needs before its first signal can be trusted: with so many, or any number more, it says
        the same of the last."""

    @property
    def chart(self) -> tuple[Line, ...]:
        """The lines by which a reader of its chart understands it."""
        return ()

    @property
    def informative(self) -> tuple[Informative, ...]:
        """The further markets and timeframes that it looks at; its parameters may decide."""
        return ()

    @property
    def tapes(self) -> frozenset[TapeKind]:
        """What it looks at beside candles: trades, or funding rates, of its market."""
        return frozenset()

    def signals(self, candles: Candles) -> SignalArrays:
        """Signals for every candle; the value at ``i`` may use candles up to and including ``i`` only. For a strategy that
        looks at nothing else; one that does says them in ``signals_with``."""
        raise NotImplementedError(f"{type(self).__name__} has neither signals() nor signals_with()")

    def signals_with(self, candles: Candles, others: Others) -> SignalArrays:
        """As ``signals``, beside what it names in ``informative`` and ``tapes``. This is what is asked, always: a value at
        ``i`` may use what ``others`` aligns to ``i``, and nothing later."""
        return self.signals(candles)

    @property
    def callbacks(self) -> tuple[str, ...]:
        """In what it has a word beside its signals, by names of its own; empty where in nothing: then nobody asks for its
        ``adviser``."""
        return ()

    def adviser(self, candles: Candles, others: Others) -> Adviser:
        """Who speaks for it while ``candles`` are traded (``domain/advice.py``)."""
        raise NotImplementedError(f"{type(self).__name__} has callbacks ({', '.join(self.callbacks)}) and no adviser()")
