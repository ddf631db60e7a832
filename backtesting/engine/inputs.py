"""What a backtest is asked and what it answers, in plain words and arrays.

Rates and fractions are of one (0.001 is a tenth of a percent). Times are in epoch milliseconds inside arrays, datetimes in
trades. A trade's figures are floats: they are for statistics, and no book is kept by them. A result keeps its trades as
columns, and makes each ``Trade`` when somebody asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from operator import eq
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from domain.advice import Adviser
from domain.candles import Candles, FloatArray, IntArray, Timeframe
from domain.exit_plan import ExitPlan
from domain.exits import ExitReason
from domain.informative import Facts, FundingRates, Others, known_from
from domain.limits import Limits
from domain.market import ONE, ZERO, MarketRules, PositionSide
from domain.orders import Denial
from domain.sizing import SizingMethod
from domain.strategy import SignalArrays, Strategy
from domain.words import signals_said

HUNDRED = Decimal(100)
MOST_MONEY = 10**12
# The finest that a database column keeps: where a market has no rules nothing is rounded that anybody could see.
FINEST = Decimal("1e-18")

# What a reason is in a column: its place here, and 0 for none. The first are those of the fast loop, in its order.
_OF_THE_FAST_LOOP = (
    ExitReason.STOP_LOSS,
    ExitReason.BREAK_EVEN,
    ExitReason.TRAILING_STOP,
    ExitReason.TAKE_PROFIT,
    ExitReason.ROI,
    ExitReason.TIME_EXIT,
    ExitReason.EXIT_SIGNAL,
    ExitReason.SESSION_STOP,
    ExitReason.LIQUIDATION_GUARD,
    ExitReason.LIQUIDATED,
)
REASONS = (None, *_OF_THE_FAST_LOOP, *(one for one in ExitReason if one not in _OF_THE_FAST_LOOP))

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class MarketInput:
    """One market to trade on: its candles, what is said along them (``signals``, or a ``strategy`` with the ``facts`` it may
    look at), and how positions are left (``plan``; by default the strategy's own).

    Without ``rules`` nothing is rounded and nothing is too small. ``detail`` are candles of a shorter timeframe: where there
    are any they tell what came first inside a candle. Signals of the first ``warm_up`` candles, but the last of them, are not
    heard. ``tags`` name the entry signals, one a candle; without any the signals' own do. ``adviser`` has a word while it is
    traded; without one it is the strategy's, where that has any.
    """

    symbol: str
    candles: Candles
    timeframe: Timeframe
    signals: SignalArrays | None = None
    strategy: Strategy[Any] | None = None
    facts: Facts = field(default_factory=Facts)
    plan: ExitPlan | None = None
    rules: MarketRules | None = None
    detail: Candles | None = None
    funding: FundingRates | None = None
    can_short: bool = False
    warm_up: int | None = None
    tags: Sequence[str] | None = None
    adviser: Adviser | None = None

    @property
    def others(self) -> Others:
        """What its strategy sees beside the candles."""
        return Others(self.candles, self.timeframe, self.facts, self.symbol)

    @property
    def is_advised(self) -> bool:
        """Whether somebody has a word beside the signals."""
        return self.adviser is not None or (self.strategy is not None and bool(self.strategy.callbacks))

    def advised_by(self) -> Adviser | None:
        """Who has a word while it is traded; None: nobody."""
        if self.adviser is not None or self.strategy is None or not self.strategy.callbacks:
            return self.adviser
        return self.strategy.adviser(self.candles, self.others)

    def said(self) -> SignalArrays:
        """The signals, their words as they count: those given, else what the strategy says now. Raises ValueError where there
        are none, or not one for each candle."""
        signals = self.signals
        if signals is None:
            if self.strategy is None:
                raise ValueError(f"wanted signals or a strategy for {self.symbol}, was neither")
            signals = self.strategy.signals_with(self.candles, self.others)
        if not len(signals.entries) == len(signals.exits) == len(self.candles):
            raise ValueError(
                f"wanted a signal for each of the {len(self.candles)} candles of {self.symbol}, "
                f"was {len(signals.entries)} entries and {len(signals.exits)} exits"
            )
        return signals_said(signals, self.rules)

    @property
    def exit_plan(self) -> ExitPlan:
        if self.plan is not None:
            return self.plan
        return ExitPlan() if self.strategy is None else self.strategy.exit_plan

    @property
    def first(self) -> int:
        """The index of the first candle that may be traded in: after ``warm_up``, by default the strategy's own and that of
        what it looks at beside the candles."""
        if self.warm_up is not None:
            return self.warm_up
        if (strategy := self.strategy) is None:
            return 0
        return max(strategy.warm_up, known_from(self.facts, strategy.informative, self.candles, self.timeframe))

    @property
    def rules_or_none(self) -> MarketRules:
        """Its rules; without any, those of a market that takes everything."""
        return self.rules or MarketRules(self.symbol, self.symbol, "", tick_size=FINEST, lot_size=FINEST)


@dataclass(frozen=True, slots=True)
class Settings:
    """What is traded with, and at what cost. ``amount`` means what the sizing method says (``domain/sizing.py``).

    Market orders pay ``slippage`` and half the ``spread`` and ``taker_fee``; targets rest at the venue and pay ``maker_fee``,
    unless ``rests_targets`` is off: then they are market orders too. ``price_margin`` is kept back from the free balance on
    top of what an entry is worth; None is what such an order costs beyond its price. With ``volume_share`` an order takes no
    more of a candle's volume than that, and the rest in the candles after it.
    """

    cash: Decimal = Decimal(10_000)
    sizing: SizingMethod = SizingMethod.PERCENT_OF_EQUITY
    amount: Decimal = Decimal(10)
    is_confidence_weighted: bool = False
    kelly_min_trades: int = 20
    kelly_cap_percent: Decimal = HUNDRED
    maker_fee: Decimal = ZERO
    taker_fee: Decimal = ZERO
    slippage: Decimal = ZERO
    spread: Decimal = ZERO
    price_margin: Decimal | None = None
    volume_share: Decimal | None = None
    max_entries: int = 1
    leverage: Decimal = ONE
    limits: Limits = field(default_factory=Limits)
    rests_targets: bool = True
    is_closed_at_end: bool = False

    def __post_init__(self) -> None:
        for name in ("cash", "amount"):
            if not 0 < getattr(self, name) <= MOST_MONEY:
                raise ValueError(f"wanted {name} above 0, up to {MOST_MONEY}, was {getattr(self, name)}")
        for name in ("maker_fee", "taker_fee", "slippage", "spread"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"wanted {name} as a part of a price from 0 on, below 1, was {getattr(self, name)}")
        if self.max_entries < 1 or self.leverage < 1:
            raise ValueError(f"wanted at least 1 entry and leverage 1, was {self.max_entries} and {self.leverage}")
        if self.volume_share is not None and not 0 < self.volume_share <= 1:
            raise ValueError(f"wanted a share of volume above 0 up to 1, was {self.volume_share}")
        if self.limits.wants_history:
            raise ValueError("wanted limits that a book alone can be judged by, was one that needs returns of markets")

    @property
    def worse(self) -> Decimal:
        """By how much, as a fraction, a market order fills beyond the price that is seen."""
        return self.slippage + self.spread / 2

    @property
    def margin(self) -> Decimal:
        return self.taker_fee + self.slippage if self.price_margin is None else self.price_margin


@dataclass(frozen=True, slots=True)
class Trade:
    """One position from its first entry to its last exit. Prices are averages; ``pnl`` is after all ``fees`` and with
    ``funding``, and ``gain`` the part of what was entered that it is. An exit inside a candle has the time at which that one
    opened. One that was never left has no ``exit_reason``: it is valued at the last close. ``tag`` and ``exit_tag`` are what
    the strategy called entry and exit."""

    symbol: str
    side: PositionSide
    entry_at: datetime
    entry_price: float
    exit_at: datetime
    exit_price: float
    quantity: float
    pnl: float
    gain: float
    fees: float
    funding: float = 0.0
    exit_reason: ExitReason | None = None
    tag: str = ""
    exit_tag: str = ""

    @property
    def is_open(self) -> bool:
        return self.exit_reason is None


@dataclass(frozen=True, slots=True)
class Refused:
    """An entry that was wanted and not made."""

    symbol: str
    at: datetime
    side: PositionSide
    denial: Denial


class Lazy(Sequence[T]):
    """So many things, each made anew whenever it is asked for. Equal to any sequence of the same things."""

    __slots__ = ("_length", "_make")

    def __init__(self, length: int, make: Callable[[int], T]) -> None:
        self._length, self._make = length, make

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, place: int) -> T: ...

    @overload
    def __getitem__(self, place: slice) -> tuple[T, ...]: ...

    def __getitem__(self, place: int | slice) -> T | tuple[T, ...]:
        numbers = range(self._length)[place]
        return self._make(numbers) if isinstance(numbers, int) else tuple(map(self._make, numbers))

    def __iter__(self) -> Iterator[T]:
        return map(self._make, range(self._length))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]  # as of a list

    def __repr__(self) -> str:
        return f"<{self._length} made when asked for>"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Columns:
    """Trades as parallel arrays, in the order in which the trades ended. Figures are those of ``Trade`` by the same name.

    ``market`` is the place in ``symbols``; ``side`` 1 for long and -1 for short; ``entry_ms`` and ``exit_ms`` epoch
    milliseconds; ``reason`` the place in ``REASONS``, 0 while open; ``tags`` and ``exit_tags`` are None where no trade has
    one.
    """

    symbols: tuple[str, ...]
    market: IntArray
    side: NDArray[np.int8]
    entry_ms: IntArray
    entry_price: FloatArray
    exit_ms: IntArray
    exit_price: FloatArray
    quantity: FloatArray
    pnl: FloatArray
    gain: FloatArray
    fees: FloatArray
    funding: FloatArray
    reason: NDArray[np.int8]
    tags: Sequence[str] | None = None
    exit_tags: Sequence[str] | None = None

    @classmethod
    def of(cls, trades: Sequence[Trade]) -> Columns:
        """The columns of ``trades``."""
        symbols = tuple(dict.fromkeys(trade.symbol for trade in trades))
        places = {symbol: place for place, symbol in enumerate(symbols)}

        def floats(name: str) -> FloatArray:
            return np.array([getattr(trade, name) for trade in trades], np.float64)

        return cls(
            symbols=symbols,
            market=np.array([places[trade.symbol] for trade in trades], np.int64),
            side=np.array([trade.side.sign for trade in trades], np.int8),
            entry_ms=np.array([ms_of(trade.entry_at) for trade in trades], np.int64),
            exit_ms=np.array([ms_of(trade.exit_at) for trade in trades], np.int64),
            reason=np.array([REASONS.index(trade.exit_reason) for trade in trades], np.int8),
            tags=_or_none([trade.tag for trade in trades]),
            exit_tags=_or_none([trade.exit_tag for trade in trades]),
            **{name: floats(name) for name in _FIGURES},
        )

    def __len__(self) -> int:
        return len(self.market)

    def __repr__(self) -> str:
        return f"<columns of {len(self)} trades of {len(self.symbols)} markets>"

    @property
    def is_open(self) -> NDArray[np.bool_]:
        """Which of them were never left."""
        return np.equal(self.reason, 0)

    def trade(self, index: int) -> Trade:
        """The trade at ``index``, from 0 on."""
        figures: dict[str, Any] = {name: float(getattr(self, name)[index]) for name in _FIGURES}
        return Trade(
            symbol=self.symbols[self.market[index]],
            side=PositionSide.LONG if self.side[index] > 0 else PositionSide.SHORT,
            entry_at=at(int(self.entry_ms[index])),
            exit_at=at(int(self.exit_ms[index])),
            exit_reason=REASONS[self.reason[index]],
            tag="" if self.tags is None else self.tags[index],
            exit_tag="" if self.exit_tags is None else self.exit_tags[index],
            **figures,
        )


def _or_none(words: list[str]) -> list[str] | None:
    return words if any(words) else None


_FIGURES = ("entry_price", "exit_price", "quantity", "pnl", "gain", "fees", "funding")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Result:
    """What came of it. ``equity`` is what the account was worth at the close of each candle, which opened at ``open_ms``;
    candles before the first that may be traded in are left out. Trades may be given as a plain list of them."""

    trades: Sequence[Trade]
    open_ms: IntArray
    equity: FloatArray
    refused: Sequence[Refused] = ()
    _columns: Columns | None = None

    @classmethod
    def of_columns(
        cls, columns: Columns, open_ms: IntArray, equity: FloatArray, refused: Sequence[Refused] = ()
    ) -> Result:
        return cls(Lazy(len(columns), columns.trade), open_ms, equity, refused, columns)

    @property
    def columns(self) -> Columns:
        """The trades as arrays, for statistics: nothing is made of them that was not there already, but once."""
        columns = self._columns
        if columns is None:
            columns = Columns.of(self.trades)
            object.__setattr__(self, "_columns", columns)
        return columns

    def __repr__(self) -> str:
        return f"<{len(self.trades)} trades, {len(self.refused)} refused, {len(self.equity)} candles>"


def at(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, tz=UTC)


def ms_of(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


# What was said on a candle, as one small number: the sign is the side it speaks of.
ENTER, LEAVE = 1, 2


def kinds_of(signals: SignalArrays, first: int) -> np.ndarray[Any, np.dtype[np.int8]]:
    """For each candle ENTER or LEAVE with the sign of the side, 0 for nothing; an exit outranks an entry, as in
    ``SignalArrays.kind_at``. Before the last candle of the warm-up nothing is heard."""
    exits, entries = np.sign(signals.exits), np.sign(signals.entries)
    kinds = np.where(exits != 0, exits * LEAVE, entries * ENTER).astype(np.int8)
    kinds[: max(first - 1, 0)] = 0
    return kinds
