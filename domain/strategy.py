"""What a strategy is: typed parameters and one method from candle arrays to signal arrays.

The admin form, the API schema and (later) the optimiser all come from the parameters' bounds and help texts. A strategy
sees closed candles only, its own and those it names (``domain/informative.py``); ``looks_ahead_at`` finds one whose past
changes when the future is cut off.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from domain.candles import Candles, FloatArray
from domain.exit_plan import ExitPlan, TargetLevel
from domain.informative import Informative, Others, TapeKind, nothing_beside

SignalArray = NDArray[np.int8]


class SignalKind(StrEnum):
    """What a strategy says about one closed candle."""

    ENTER_LONG = "ENTER_LONG"
    ENTER_SHORT = "ENTER_SHORT"
    EXIT_LONG = "EXIT_LONG"
    EXIT_SHORT = "EXIT_SHORT"
    NOTHING = "NOTHING"


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
    may say how sure it is (0 to 1) and name its own stop and target prices; NaN is no word.
    """

    entries: SignalArray
    exits: SignalArray
    confidence: FloatArray | None = None
    stops: FloatArray | None = None
    targets: FloatArray | None = None

    def kind_at(self, index: int) -> SignalKind:
        """What was said on the candle at ``index``; an exit outranks an entry, for it lowers risk."""
        leave, enter = int(self.exits[index]), int(self.entries[index])
        if leave:
            return SignalKind.EXIT_LONG if leave > 0 else SignalKind.EXIT_SHORT
        if enter:
            return SignalKind.ENTER_LONG if enter > 0 else SignalKind.ENTER_SHORT
        return SignalKind.NOTHING


class Strategy(ABC, Generic[P]):
    """A trading idea: give it parameters, then candles; it answers with signals.

    ``name`` is what configurations store; ``title`` is what a trader reads.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    parameters_type: ClassVar[type[Parameters]]

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
        """How many closed candles it needs before its first signal can be trusted."""

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


def looks_ahead_at(
    strategy: Strategy[Any], candles: Candles, others: Others | None = None, checks: int = 20
) -> int | None:
    """The index of a candle whose signal changes when the candles after it, and all else that came later, are cut off, or
    None.

    A strategy that sees the future makes money only in backtests. ``checks`` cuts are spread over the history.
    """
    beside = others or nothing_beside(candles)
    whole = strategy.signals_with(candles, beside)
    first = min(strategy.warm_up, len(candles))
    for length in sorted({int(cut) for cut in np.linspace(first, len(candles), checks) if cut >= 1}):
        seen = candles.upto(length)
        part = strategy.signals_with(seen, beside.upto(seen))
        changed = (part.entries != whole.entries[:length]) | (part.exits != whole.exits[:length])
        if changed.any():
            return int(np.argmax(changed))
    return None
