"""A strategy of ours of a class written for freqtrade: its settings as parameters and an exit plan, its frames as signals,
its callbacks as an adviser.

What it decides by signals alone trades live as in a backtest. Whatever else it has a word in is named in ``callbacks``.
Loading runs what is in the file; pandas is imported when the first frame is made.
"""

from __future__ import annotations

import inspect
import json
import re
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from domain.advice import Adviser
from domain.candles import Candles, Timeframe
from domain.exit_plan import ExitPlan
from domain.informative import Informative, Others
from domain.market import PositionSide
from domain.soundness import depends_on_older
from domain.strategy import Parameters, SignalArrays, Strategy
from strategies.freqtrade.callbacks import Callbacks, Rules
from strategies.freqtrade.qtpylib import pandas
from strategies.freqtrade.reading import Read
from strategies.freqtrade.settings import (
    NO_STAKE,
    OLDER,
    exits_of,
    has_one,
    parameters_of,
    saved_apply,
    second_trailing,
    setting_of,
    value_of,
)
from strategies.freqtrade.shims import (
    EPOCH,
    MARK,
    DataProvider,
    InformativeMark,
    IStrategy,
    Parameter,
    RunMode,
    Unsupported,
    _merged,
    timeframe_of,
    timeframe_to_minutes,
)
from strategies.soundness import walk_for, walks_beside

# What a market is called while nobody has said which it is: in trials, and where its candles are asked for before.
NO_PAIR = "BASE"
# A warm-up that is too short is doubled up to this many candles.
LONGEST_WARM_UP = 2_000
CALLBACKS = (
    "custom_exit", "custom_entry_price", "custom_exit_price", "confirm_trade_entry", "confirm_trade_exit",
    "custom_stake_amount", "custom_roi", "leverage",
)  # fmt: skip
WATCHING = {"custom_exit", "custom_stoploss", "custom_roi", "adjust_trade_position"}
Flags = NDArray[np.bool_]


class Settings(dict[str, Any]):
    """What a strategy finds as ``self.config``."""

    def __missing__(self, key: str) -> Any:
        raise Unsupported(f"wanted of the configuration {', '.join(sorted(self))}, was {key!r}")

    def get(self, key: str, default: Any = None) -> Any:
        return self[key]


class Adapted(Strategy[Parameters]):
    """What every adapted strategy does; ``written`` is the class that it is of."""

    written: ClassVar[type[IStrategy]]
    parameters_written: ClassVar[dict[str, Parameter]]
    needs: ClassVar[int]

    def __init__(self, parameters: Parameters) -> None:
        super().__init__(parameters)
        self._stake = getattr(parameters, "stake_currency", NO_STAKE)
        self._own = self._instance(self.timeframe or Timeframe.M5)
        self._is_begun = False
        self._lately: tuple[Candles, Others, Any] | None = None
        self._informative: tuple[Informative, ...] | None = None

    # -- what it says of itself -------------------------------------------------------------------------------------------

    @property
    def warm_up(self) -> int:
        return self.needs

    @property
    def exit_plan(self) -> ExitPlan:
        return super().exit_plan.model_copy(
            update=exits_of(self.written, self.parameters, is_advised=bool(self.callbacks))
        )

    @property
    def callbacks(self) -> tuple[str, ...]:
        kind = self.written
        found = [name for name in CALLBACKS if has_one(kind, name)]
        found += ["custom_stoploss"] if kind.use_custom_stoploss and hasattr(kind, "custom_stoploss") else []
        found += ["adjust_trade_position"] if kind.position_adjustment_enable else []
        found += ["exit_profit_only"] if setting_of(kind, "exit_profit_only") else []
        found += ["exits of both sides"] if kind.can_short else []
        found += ["trailing_stop_positive_offset"] if second_trailing(kind) else []
        return tuple(found)

    @property
    def informative(self) -> tuple[Informative, ...]:
        if self._informative is None:
            pair = f"{NO_PAIR}/{self._stake}"
            own = self._own
            own.dp = DataProvider(pair, self._unread)
            wanted = [(one.timeframe, self._asset(one)) for _, one in self._marked()]
            for name, timeframe, *kind in map(tuple, own.informative_pairs()):
                if kind and kind[0] not in ("", "spot", "futures"):
                    raise Unsupported(f"wanted candles of trades, was {kind[0]!r} in informative_pairs()")
                wanted.append((timeframe, "" if name == pair else name))
            feeds = [Informative(timeframe_of(frame), name, max(self.needs, 1)) for frame, name in wanted]
            self._informative = tuple(dict.fromkeys(feeds))
        return self._informative

    # -- what it says of candles ------------------------------------------------------------------------------------------

    def signals_with(self, candles: Candles, others: Others) -> SignalArrays:
        frame = self._analysed(candles, others)
        columns = {name: _flags(frame, name) for name in ("enter_long", "exit_long", "enter_short", "exit_short")}
        # Entries that collide with another word are not heard, as its documentation says.
        longs = columns["enter_long"] & ~columns["exit_long"]
        shorts = columns["enter_short"] & ~columns["exit_short"]
        if self.written.can_short:
            longs, shorts = longs & ~columns["enter_short"], shorts & ~columns["enter_long"]
        else:
            shorts = np.zeros(len(candles), np.bool_)
        exits = columns["exit_long"].astype(np.int8)
        if self.written.can_short:
            exits = np.where(longs | shorts, 0, exits - (columns["exit_short"] & ~columns["exit_long"])).astype(np.int8)
        return SignalArrays(longs.astype(np.int8) - shorts.astype(np.int8), exits, tags=_tags(frame, "enter_tag"))

    def adviser(self, candles: Candles, others: Others) -> Adviser:
        frame, own, pair = self._analysed(candles, others), self._own, self._pair(others)
        kind = self.written

        def show(index: int, now: datetime) -> str:
            def analysed(name: str, timeframe: str) -> tuple[Any, datetime]:
                if (name, timeframe) != (pair, own.timeframe):
                    raise Unsupported(
                        f"wanted the analysed frame of {pair} {own.timeframe}, the market that is traded on, "
                        f"was {name} {timeframe}"
                    )
                return frame.iloc[: index + 1], now

            def read(name: str, timeframe: str) -> Any:
                seen = candles.upto(index + 1)
                return self._frame(seen, others.upto(seen), name, timeframe)

            own.dp = DataProvider(pair, read, analysed)
            own.bot_loop_start(current_time=now)
            return pair

        rules = Rules(
            is_exit_signal_used=bool(setting_of(kind, "use_exit_signal")),
            is_exit_profit_only=bool(setting_of(kind, "exit_profit_only")),
            exit_profit_offset=float(setting_of(kind, "exit_profit_offset")),
            exits={PositionSide.LONG: _flags(frame, "exit_long"), PositionSide.SHORT: _flags(frame, "exit_short")},
            exit_tags=_tags(frame, "exit_tag"),
            plan=self.exit_plan,
            trailing=second_trailing(kind),
        )
        found = Callbacks(own, rules, show)
        # Any exit signal is a reason to ask at each close, and so is what only a position can decide.
        found.is_watching = (
            rules.is_exit_signal_used or bool(WATCHING & set(self.callbacks)) or rules.trailing is not None
        )
        return found

    # -- its own object ---------------------------------------------------------------------------------------------------

    def _instance(self, timeframe: Timeframe) -> Any:
        config = Settings(stake_currency=self._stake, timeframe=timeframe.value, runmode=RunMode.BACKTEST, dry_run=True)
        own = self.written(config)
        own.config = config
        own.timeframe = timeframe.value
        for name, parameter in self.parameters_written.items():
            value = getattr(self.parameters, name)
            setattr(own, name, parameter.chosen(value_of(parameter, value)))
        return own

    def _analysed(self, candles: Candles, others: Others) -> Any:
        """The frame after all populate methods; of the same candles once."""
        if self._lately is not None and self._lately[0] is candles and self._lately[1].symbol == others.symbol:
            return self._lately[2]
        own, pair = self._own, self._pair(others)
        own.timeframe = others.timeframe.value
        own.dp = DataProvider(pair, lambda name, timeframe: self._frame(candles, others, name, timeframe))
        if not self._is_begun:
            self._is_begun = True
            own.bot_start()
        closed_at = _closed_at(candles, others.timeframe)
        own.bot_loop_start(current_time=closed_at)
        frame, metadata = _frame_of(candles), {"pair": pair}
        for method, one in self._marked():
            frame = self._merge(frame, method, one, others, candles, pair)
        for name in ("populate_indicators", "populate_entry_trend", "populate_exit_trend"):
            method = getattr(own, name, None) or getattr(own, OLDER.get(name, name), None)
            frame = frame if method is None else method(frame, dict(metadata))
            if frame is None or len(frame) != len(candles):
                found = "none" if frame is None else str(len(frame))
                raise ValueError(f"wanted of {name} a row for each of {len(candles)} candles, was {found}")
        older = {"buy": "enter_long", "sell": "exit_long", "buy_tag": "enter_tag"}
        frame = frame.rename(columns={old: new for old, new in older.items() if new not in frame.columns})
        self._lately = (candles, others, frame)
        return frame

    def _merge(self, frame: Any, method: Any, one: InformativeMark, others: Others, candles: Candles, pair: str) -> Any:
        """``frame`` with the columns of one ``@informative`` method beside it."""
        asset = self._asset(one)
        further = method(self._frame(candles, others, asset or pair, one.timeframe), {"pair": asset or pair})
        names = {column: _column(one, asset or pair, column, is_own=not one.asset) for column in further.columns}
        wait = timeframe_to_minutes(one.timeframe) - others.timeframe.seconds // 60
        if wait < 0:
            raise Unsupported(f"wanted @informative of at least {others.timeframe}, was {one.timeframe}")
        known_at = further["date"] + pandas().Timedelta(minutes=wait)
        return _merged(frame, further.rename(columns=names).assign(_known_at=known_at), "date", one.ffill)

    def _frame(self, candles: Candles, others: Others, pair: str, timeframe: str) -> Any:
        """Candles that it asks for by name: its own, or those that it named as informative."""
        frame, own = timeframe_of(timeframe), self._pair(others)
        for symbol in [pair, ""] if pair == own else [pair]:
            found = next((one for one in self.informative if (one.timeframe, one.symbol) == (frame, symbol)), None)
            if found is not None:
                return _frame_of(others[found])
        if (pair, frame) == (own, others.timeframe):
            return _frame_of(candles)
        raise Unsupported(f"wanted candles that informative_pairs() or @informative name, was {pair} {timeframe}")

    def _unread(self, pair: str, timeframe: str) -> Any:
        raise Unsupported(f"wanted candles in populate methods and callbacks only, was {pair} {timeframe} before")

    def _marked(self) -> list[tuple[Any, InformativeMark]]:
        methods = (getattr(self._own, name) for name in dir(self.written) if hasattr(getattr(self.written, name), MARK))
        return [(method, one) for method in methods for one in getattr(method, MARK)]

    def _asset(self, one: InformativeMark) -> str:
        try:
            return one.asset.format(stake=self._stake)
        except (KeyError, IndexError):
            raise Unsupported(
                f"wanted a market's name, with {{stake}} at most, was @informative({one.asset!r})"
            ) from None

    def _pair(self, others: Others) -> str:
        base, slash, quote = (others.symbol or NO_PAIR).partition("/")
        if not slash:
            base, _, quote = base.partition("_")  # as files of candles are called
        pair = f"{base}/{quote or self._stake}"
        quote = pair.partition("/")[2].partition(":")[0]
        if quote and hasattr(self.parameters, "stake_currency") and quote != self._stake:
            raise ValueError(f"wanted a market quoted in {self._stake}, as stake_currency says, was {pair}")
        return pair


# -- of a file ------------------------------------------------------------------------------------------------------------


def adapted(module: ModuleType, found: Read, path: Path) -> list[type[Strategy[Any]]]:
    """A strategy of each class of ``module`` that derives from IStrategy and enters something."""
    kinds = [
        one
        for one in vars(module).values()
        if isinstance(one, type) and issubclass(one, IStrategy) and one.__module__ == module.__name__
    ]
    return [_adapt(one, found, path) for one in kinds if has_one(one, "populate_entry_trend")]


def _adapt(kind: type[IStrategy], found: Read, path: Path) -> type[Strategy[Any]]:
    notes = list(found.notes)
    saved = path.with_suffix(".json")
    if saved.is_file():
        saved_apply(kind, json.loads(saved.read_text())["params"])
        notes.append(f"{saved.name}: its parameters are used")
    for older in ("use_exit_signal", "exit_profit_only", "exit_profit_offset", "timeframe"):
        setattr(kind, older, setting_of(kind, older))
    parameters = {
        name: one
        for name in dir(kind)
        if not name.startswith("_") and isinstance(one := inspect.getattr_static(kind, name), Parameter)
    }
    if "max_open_trades" in vars(kind) and "max_open_trades" not in "".join(notes):
        notes.append("max_open_trades: sessions and limits say how much is held at once")
    made = type(
        kind.__name__,
        (Adapted,),
        {
            "__module__": kind.__module__, "__doc__": kind.__doc__, "name": name_of(kind.__name__), "title": kind.__name__,
            "written": kind, "parameters_written": parameters, "timeframe": timeframe_of(kind.timeframe),
            "parameters_type": parameters_of(kind, parameters, asks_for_stake=found.asks_for_stake),
            "needs": max(int(kind.startup_candle_count), 1), "notes": (),
        },
    )  # fmt: skip
    adapted_kind = cast(type[Adapted], made)
    _settle(adapted_kind, notes)
    adapted_kind.notes = tuple(notes)
    return adapted_kind


def name_of(text: str) -> str:
    """What a strategy is called here: words of small letters with underscores between."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", text)
    return re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")


def _settle(kind: type[Adapted], notes: list[str]) -> None:
    """Show it as many candles as it turns out to remember: many files say fewer than their averages do."""
    said = kind.needs
    while kind.needs <= LONGEST_WARM_UP:
        strategy = kind.from_values({})
        timeframe = kind.timeframe or Timeframe.H1
        candles = walk_for(strategy, timeframe)
        beside = Others(candles, timeframe, walks_beside(strategy, candles, timeframe))
        if depends_on_older(strategy, candles, beside) is None:
            # Once more, where it had to be found out: a trial finds most of what is remembered, not the last digit.
            kind.needs *= 1 if kind.needs == said else 2
            break
        kind.needs = max(2 * kind.needs, 50)
    else:
        kind.needs = said  # the check will say what it remembers
    if kind.needs > said:
        notes.append(f"startup_candle_count: it is {said}, and {kind.needs} are shown, for it remembers more")


# -- frames ---------------------------------------------------------------------------------------------------------------


def _frame_of(candles: Candles) -> Any:
    columns = {name: getattr(candles, name).copy() for name in ("open", "high", "low", "close", "volume")}
    return pandas().DataFrame({"date": pandas().to_datetime(candles.open_ms, unit="ms", utc=True), **columns})


def _flags(frame: Any, name: str) -> Flags:
    """Where a column of the frame is set; nowhere where there is no such column."""
    if name not in frame.columns:
        return np.zeros(len(frame), np.bool_)
    column = frame[name]
    return np.asarray((column.fillna(0) == 1).to_numpy(), dtype=np.bool_)


def _tags(frame: Any, name: str) -> NDArray[Any] | None:
    if name not in frame.columns:
        return None
    return np.array([text if isinstance(text, str) else "" for text in frame[name]], dtype=object)


def _column(one: InformativeMark, pair: str, column: str, *, is_own: bool) -> str:
    fmt = one.fmt or ("{column}_{timeframe}" if is_own else "{base}_{quote}_{column}_{timeframe}")
    base, _, quote = pair.partition(":")[0].partition("/")
    words = {
        "column": column, "timeframe": one.timeframe, "asset": pair, "BASE": base.upper(), "QUOTE": quote.upper(),
        "base": base.lower(), "quote": quote.lower(),
    }  # fmt: skip
    return fmt.format(**words) if isinstance(fmt, str) else fmt(**words)


def _closed_at(candles: Candles, timeframe: Timeframe) -> datetime:
    if not len(candles):
        return EPOCH
    return datetime.fromtimestamp(int(candles.open_ms[-1]) / 1000, tz=EPOCH.tzinfo) + timeframe.length
