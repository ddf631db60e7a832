"""What a file written for freqtrade imports from it: enough for its class to be defined and its methods to run, nothing more.

The modules are there only while such a file is read, and never where freqtrade itself is installed: what is somebody else's
package stays theirs. Names and meanings are those of its documentation.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from types import ModuleType
from typing import Any, ClassVar

from domain.advice import Entered, PositionView
from domain.candles import Timeframe
from strategies.freqtrade import qtpylib
from strategies.freqtrade.qtpylib import pandas

# How a decorated method tells what it is decorated with.
MARK = "_r3edge_informative"


class Unsupported(ValueError):
    """Something that freqtrade has and this has not; the message names it."""


class RunMode(Enum):
    """One for all runs: a strategy does the same live as in a backtest."""

    BACKTEST = "backtest"


# -- parameters -----------------------------------------------------------------------------------------------------------


class Parameter:
    """A value that an optimiser may choose, of a strategy's class; an instance of the class has its own."""

    kind: ClassVar[str] = ""

    def __init__(self, default: Any, space: str | None = None, **_: Any) -> None:
        self.default, self.value, self.space = default, default, space

    @property
    def range(self) -> Sequence[Any]:
        """The values to prepare for: the one that is chosen."""
        return [self.value]

    def chosen(self, value: Any) -> Parameter:
        """The same parameter with another value."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.value = value
        return other


class NumericParameter(Parameter):
    """Of numbers from ``low`` to ``high``, both included; or of a pair of them."""

    def __init__(self, low: Any, high: Any = None, *, default: Any, space: str | None = None, **more: Any) -> None:
        super().__init__(default, space, **more)
        self.low, self.high = (low[0], low[1]) if isinstance(low, Sequence) else (low, high)


class IntParameter(NumericParameter):
    kind = "int"


class RealParameter(NumericParameter):
    kind = "float"


class DecimalParameter(NumericParameter):
    kind = "decimal"

    def __init__(
        self, low: Any, high: Any = None, *, default: Any, decimals: int = 3, space: str | None = None, **more: Any
    ) -> None:
        super().__init__(low, high, default=round(default, decimals), space=space, **more)
        self.decimals = decimals


class CategoricalParameter(Parameter):
    kind = "category"

    def __init__(
        self, categories: Sequence[Any], *, default: Any = None, space: str | None = None, **more: Any
    ) -> None:
        super().__init__(categories[0] if default is None else default, space, **more)
        self.opt_range = list(categories)


class BooleanParameter(CategoricalParameter):
    kind = "bool"

    def __init__(self, *, default: Any = None, space: str | None = None, **more: Any) -> None:
        super().__init__([True, False], default=default, space=space, **more)


# -- what strategies call -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InformativeMark:
    """One ``@informative``. ``asset`` is empty for the market that is traded on."""

    timeframe: str
    asset: str
    fmt: str | Callable[..., str] | None
    ffill: bool


def informative(
    timeframe: str, asset: str = "", fmt: Any = None, *, candle_type: Any = None, ffill: bool = True
) -> Callable[[Any], Any]:
    """Mark a method as one that fills a frame of further candles, which is merged into that of the strategy's own."""
    if candle_type not in (None, "", "spot", "futures"):
        raise Unsupported(f"wanted candles of trades, was @informative(candle_type={candle_type!r})")

    def mark(method: Any) -> Any:
        setattr(method, MARK, [*getattr(method, MARK, []), InformativeMark(timeframe, asset, fmt, ffill)])
        return method

    return mark


def merge_informative_pair(
    dataframe: Any,
    informative: Any,
    timeframe: str,
    timeframe_inf: str,
    ffill: bool = True,
    append_timeframe: bool = True,
    date_column: str = "date",
    suffix: str | None = None,
) -> Any:
    """``dataframe`` with the columns of ``informative`` beside it, each row as it was known when the candle of
    ``dataframe`` closed; named with the timeframe or ``suffix`` behind."""
    own, other = timeframe_to_minutes(timeframe), timeframe_to_minutes(timeframe_inf)
    if other < own:
        raise ValueError(f"wanted an informative timeframe of at least {timeframe}, was {timeframe_inf}")
    if suffix and append_timeframe:
        raise ValueError("wanted a suffix or the timeframe behind the names, was both")
    known_at = informative[date_column] + pandas().Timedelta(minutes=other - own)
    behind = timeframe_inf if append_timeframe else suffix
    renamed = informative.rename(columns={name: f"{name}_{behind}" for name in informative.columns} if behind else {})
    return _merged(dataframe, renamed.assign(_known_at=known_at), date_column, ffill)


def _merged(dataframe: Any, other: Any, date_column: str, ffill: bool) -> Any:
    if ffill:
        whole = pandas().merge_asof(dataframe, other, left_on=date_column, right_on="_known_at")
    else:
        whole = pandas().merge(dataframe, other, how="left", left_on=date_column, right_on="_known_at")
    return whole.drop(columns="_known_at")


def stoploss_from_open(
    open_relative_stop: float, current_profit: float, is_short: bool = False, leverage: float = 1.0
) -> float:
    """How far below the current rate (for a short above it) a stop is that lies so far beyond the entry; 0 where it is on
    the wrong side, which moves nothing."""
    if current_profit == -1:
        return 1.0
    sign = -1 if is_short else 1
    stop, now = 1 + sign * open_relative_stop / leverage, 1 + sign * current_profit / leverage
    return max(sign * (1 - stop / now), 0.0) * leverage


def stoploss_from_absolute(
    stop_rate: float, current_rate: float, is_short: bool = False, leverage: float = 1.0
) -> float:
    """How far below the current rate (for a short above it) ``stop_rate`` is; 0 where it is on the wrong side."""
    if current_rate == 0:
        return 1.0
    return max((1 - stop_rate / current_rate) * (-1 if is_short else 1), 0.0) * leverage


def timeframe_of(text: str) -> Timeframe:
    """A timeframe by its name; raises Unsupported for one that there is not."""
    try:
        return Timeframe(text)
    except ValueError:
        raise Unsupported(f"wanted a timeframe of {', '.join(Timeframe)}, was {text!r}") from None


def timeframe_to_seconds(timeframe: str) -> int:
    return timeframe_of(timeframe).seconds


def timeframe_to_minutes(timeframe: str) -> int:
    return timeframe_of(timeframe).seconds // 60


def timeframe_to_msecs(timeframe: str) -> int:
    return timeframe_of(timeframe).seconds * 1000


def timeframe_to_prev_date(timeframe: str, date: datetime) -> datetime:
    """When the candle opened that ``date`` lies in. Wants the date: there is no clock in a backtest."""
    return timeframe_of(timeframe).open_of(date)


def timeframe_to_next_date(timeframe: str, date: datetime) -> datetime:
    """When the candle after that of ``date`` opens."""
    return timeframe_of(timeframe).open_of(date) + timeframe_of(timeframe).length


# -- what callbacks are shown ---------------------------------------------------------------------------------------------


class Order:
    """One filled order of a trade."""

    def __init__(self, one: Entered, is_short: bool) -> None:
        self.side = self.ft_order_side = "buy" if one.is_entry is not is_short else "sell"
        self.filled = self.safe_filled = self.amount = self.safe_amount = float(one.quantity)
        self.average = self.price = self.safe_price = float(one.price)
        self.cost = self.safe_cost = self.filled * self.price
        self.order_filled_date = self.order_filled_utc = one.at
        self.ft_is_open, self.status = False, "closed"


class Trade:
    """A position, to be read: what a callback is shown as ``trade``. What else freqtrade's has is refused by name."""

    is_open = True
    has_open_orders = False

    def __init__(self, view: PositionView, pair: str, leverage: float = 1.0) -> None:
        self._view, self.pair, self.leverage = view, pair, leverage
        self.is_short = view.side.sign < 0
        self.open_rate, self.amount = float(view.entry_price), float(view.quantity)
        self.stake_amount = self.open_rate * self.amount / leverage
        self.open_date = self.open_date_utc = self.date_entry_fill_utc = view.opened_at
        self.enter_tag = self.buy_tag = view.tag or None
        # The best of the candles since the entry; the worst is not kept.
        setattr(self, "min_rate" if self.is_short else "max_rate", float(view.best_price))
        self.stop_loss = None if view.stop is None else float(view.stop)
        self.fee_open = self.fee_close = float(view.fee)
        self.entry_side, self.exit_side = ("sell", "buy") if self.is_short else ("buy", "sell")
        self.trade_direction = "short" if self.is_short else "long"
        self.orders = [Order(one, self.is_short) for one in view.orders]
        self.date_last_filled_utc = self.orders[-1].order_filled_utc if self.orders else view.opened_at
        self.nr_of_successful_entries = self.nr_of_successful_buys = len(self.select_filled_orders(self.entry_side))
        self.nr_of_successful_exits = self.nr_of_successful_sells = len(self.select_filled_orders(self.exit_side))
        base, _, quote = pair.partition("/")
        self.base_currency = self.safe_base_currency = base
        self.stake_currency = self.quote_currency = self.safe_quote_currency = quote.partition(":")[0]

    def __getattr__(self, name: str) -> Any:
        raise Unsupported(f"wanted of a trade what can be read here, was trade.{name}")

    def calc_profit_ratio(self, rate: float) -> float:
        """What leaving all of it at ``rate`` would have won, after the fees of both sides, as a part of its margin."""
        paid = self.open_rate * (1 - self.fee_open if self.is_short else 1 + self.fee_open)
        got = rate * (1 + self.fee_close if self.is_short else 1 - self.fee_close)
        return (1 - got / paid if self.is_short else got / paid - 1) * self.leverage

    def calc_profit(self, rate: float) -> float:
        """The same in quote currency."""
        paid = self.open_rate * (1 - self.fee_open if self.is_short else 1 + self.fee_open)
        return self.calc_profit_ratio(rate) / self.leverage * paid * self.amount

    def select_filled_orders(self, order_side: str | None = None) -> list[Order]:
        return [one for one in self.orders if order_side in (None, one.side)]

    def get_custom_data(self, key: str, default: Any = None) -> Any:
        return self._view.memory.get(key, default)

    def set_custom_data(self, key: str, value: Any) -> None:
        """Remember something for as long as the position is held."""
        self._view.memory[key] = value

    def get_custom_data_keys(self) -> list[str]:
        return list(self._view.memory)


class DataProvider:
    """The further data that a strategy may look at: what it names as informative, of the one market that it trades on."""

    runmode = RunMode.BACKTEST

    def __init__(
        self,
        pair: str,
        read: Callable[[str, str], Any],
        analysed: Callable[[str, str], tuple[Any, datetime]] | None = None,
    ) -> None:
        self._pair, self._read, self._analysed = pair, read, analysed

    def current_whitelist(self) -> list[str]:
        return [self._pair]

    def get_pair_dataframe(self, pair: str, timeframe: str, candle_type: str = "") -> Any:
        if candle_type not in ("", "spot", "futures"):
            raise Unsupported(f"wanted candles of trades, was candle_type={candle_type!r}")
        return self._read(pair, timeframe)

    def get_analyzed_dataframe(self, pair: str, timeframe: str) -> tuple[Any, datetime]:
        """In callbacks: the strategy's frame up to the last candle that had closed, and when it had."""
        if self._analysed is None:
            raise Unsupported("wanted dp.get_analyzed_dataframe in callbacks only, was before the frame is analysed")
        return self._analysed(pair, timeframe)

    def send_msg(self, *_: Any, **__: Any) -> None:
        """Nothing is sent: notifications are the platform's."""


class IStrategy:
    """What a strategy's class derives from: every setting with freqtrade's default."""

    INTERFACE_VERSION = 3
    timeframe: str = "5m"
    can_short = False
    minimal_roi: ClassVar[dict[Any, float]] = {"0": 10.0}
    stoploss: float = -1.0
    trailing_stop = False
    trailing_stop_positive: float | None = None
    trailing_stop_positive_offset = 0.0
    trailing_only_offset_is_reached = False
    use_custom_stoploss = False
    use_exit_signal = True
    exit_profit_only = False
    exit_profit_offset = 0.0
    ignore_roi_if_entry_signal = False
    position_adjustment_enable = False
    max_entry_position_adjustment = -1
    startup_candle_count: int = 0
    dp: Any = None
    config: Any = None

    def __init__(self, config: Any = None) -> None:
        self.config = config

    def informative_pairs(self) -> Sequence[tuple[str, ...]]:
        return []

    def populate_indicators(self, dataframe: Any, metadata: dict[str, str]) -> Any:
        return dataframe

    def bot_start(self, **kwargs: Any) -> None:
        """Called once, before anything is asked."""

    def bot_loop_start(self, **kwargs: Any) -> None:
        """Called whenever a candle is about to be looked at."""

    def version(self) -> str | None:
        return None


_STRATEGY: dict[str, Any] = {
    one.__name__: one
    for one in (
        IStrategy, IntParameter, RealParameter, DecimalParameter, CategoricalParameter, BooleanParameter, informative,
        merge_informative_pair, stoploss_from_open, stoploss_from_absolute, timeframe_to_minutes, timeframe_to_seconds,
        timeframe_to_msecs, timeframe_to_prev_date, timeframe_to_next_date, Trade, Order,
    )
}  # fmt: skip
_INDICATORS = {
    one.__name__: one
    for one in (
        qtpylib.crossed, qtpylib.crossed_above, qtpylib.crossed_below, qtpylib.typical_price, qtpylib.bollinger_bands,
        qtpylib.heikinashi, qtpylib.rolling_mean, qtpylib.rolling_std,
    )
}  # fmt: skip
# Every module that there is, with all of its names.
MODULES: dict[str, dict[str, Any]] = {
    "freqtrade": {},
    "freqtrade.strategy": _STRATEGY,
    "freqtrade.strategy.interface": {"IStrategy": IStrategy},
    "freqtrade.strategy.parameters": {name: one for name, one in _STRATEGY.items() if name.endswith("Parameter")},
    "freqtrade.strategy.hyper": {name: one for name, one in _STRATEGY.items() if name.endswith("Parameter")},
    "freqtrade.strategy.strategy_helper": _STRATEGY,
    "freqtrade.persistence": {"Trade": Trade, "Order": Order},
    "freqtrade.exchange": {name: one for name, one in _STRATEGY.items() if name.startswith("timeframe_to_")},
    "freqtrade.data": {},
    "freqtrade.data.dataprovider": {"DataProvider": DataProvider},
    "freqtrade.enums": {"RunMode": RunMode},
    "freqtrade.vendor": {},
    "freqtrade.vendor.qtpylib": {},
    "freqtrade.vendor.qtpylib.indicators": _INDICATORS,
    "technical": {},
    "technical.qtpylib": _INDICATORS,
}


@contextlib.contextmanager
def in_place() -> Iterator[None]:
    """While the block runs a file finds the modules where it looks for them. Raises Unsupported where freqtrade itself is
    installed, or where what such files compute with is not."""
    if importlib.util.find_spec("freqtrade") is not None:
        raise Unsupported(
            "wanted freqtrade itself not to be installed, for the file would be given that one, was installed"
        )
    if importlib.util.find_spec("pandas") is None:
        raise Unsupported("wanted pandas and TA-Lib for strategies of freqtrade, was none: ./r3edge install freqtrade")
    is_theirs = importlib.util.find_spec("technical") is not None
    made = {name: ModuleType(name) for name in MODULES if not (is_theirs and name.split(".")[0] == "technical")}
    for name, module in made.items():
        vars(module).update(MODULES[name])
        module.__path__ = []
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(made[parent], child, module)
    sys.modules.update(made)
    try:
        yield
    finally:
        for name in made:
            sys.modules.pop(name, None)


def minutes_of(length: timedelta) -> int:
    return int(length.total_seconds() // 60)


EPOCH = datetime.fromtimestamp(0, tz=UTC)
