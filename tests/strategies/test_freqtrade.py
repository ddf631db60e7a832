"""What becomes of a file written for freqtrade: its settings, parameters and callbacks mean what they mean there, and what
cannot be had here is refused by name and line."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from backtesting.commandline import main
from backtesting.engine import backtest
from backtesting.engine.inputs import MarketInput, Result, Settings
from domain.candles import Candles, Timeframe
from domain.exit_plan import ExitPlan, RoiStep
from domain.informative import Facts, Others
from domain.sizing import SizingMethod
from domain.strategy import SignalArrays, Strategy
from strategies.forms import parameter_field
from strategies.freqtrade.adapter import name_of
from strategies.freqtrade.callbacks import CallbackFailed
from strategies.freqtrade.shims import Unsupported, in_place, stoploss_from_absolute, stoploss_from_open
from strategies.library import LIBRARY
from strategies.models import Signal
from strategies.registry import PACKAGE, Registry
from strategies.services import feed_evaluate
from tests.factories import make_candles, make_config, make_exchange, make_feed, make_market
from tests.strategies.freqtrade_files import loaded

pytest.importorskip("pandas", reason="./r3edge install freqtrade")

HOUR_MS = 3_600_000
FREE = Settings(cash=Decimal(1_000_000), sizing=SizingMethod.FIXED_QUOTE, amount=Decimal(1_000))


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    for name in [one for one in sys.modules if one.split(".")[0] == PACKAGE]:
        del sys.modules[name]


SMALL = """
from datetime import datetime
from freqtrade.persistence import Trade
from freqtrade.strategy import IStrategy, IntParameter, DecimalParameter, CategoricalParameter, BooleanParameter
from pandas import DataFrame


class Small(IStrategy):
    timeframe = "1h"
    minimal_roi = {}
    stoploss = -0.1
    startup_candle_count = 10

    def populate_entry_trend(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        dataframe["enter_long"] = (dataframe["close"] > dataframe["close"].shift(1)).astype(int)
        return dataframe

    def populate_exit_trend(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        return dataframe
"""


def small(tmp_path: Path, *more: str, **lines: str) -> Path:
    """The small file with lines of its class changed, or added."""
    text = SMALL
    for name, line in lines.items():
        [old] = [one for one in text.splitlines() if one.strip().startswith(f"{name} =")]
        text = text.replace(old, f"    {line}")
    path = tmp_path / "small.py"
    path.write_text(text + "".join(f"\n{one}\n" for one in more))
    return path


def refusals(path: Path) -> list[str]:
    registry = Registry()
    assert registry.load_file(path) == []
    return [str(one).removeprefix(str(path)) for one in registry.refused]


def walked(kind: type[Strategy[Any]], *rows: tuple[float, float, float, float], **values: Any) -> Result:
    """A backtest of hours, in all of which it may trade."""
    candles = Candles.from_rows([(index * HOUR_MS, *row, 1.0) for index, row in enumerate(rows)])
    settings = values.pop("settings", FREE)
    market = MarketInput(
        "BTC/USDT", candles, Timeframe.H1, strategy=kind.from_values({}), warm_up=0, can_short=True, **values
    )
    return backtest([market], settings)


UP = ((100.0, 100.0, 100.0, 100.0), (100.0, 101.0, 100.0, 101.0))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("    def adjust_entry_price(self, **k):\n        return 3", ":21: wanted a strategy without adjust_entry_price"),
        ("    protections = [{'method': 'CooldownPeriod'}]", ":21: wanted a strategy without protections: the account's"),
        ("    ignore_roi_if_entry_signal = True", ":21: wanted a strategy without ignore_roi_if_entry_signal"),
        ("    def custom_exit(self, **k):\n        self.dp.ticker('A/B')", ":22: wanted of the data provider "),
        ("    def custom_exit(self, **k):\n        return self.wallets.get_free('A')", ":22: wanted a strategy that decides"),
        ("    def custom_exit(self, **k):\n        Trade.get_trades_proxy()", ":22: wanted the trade that a callback is"),
        ("    def custom_exit(self, trade, **k):\n        trade.close_rate", ":22: wanted of a trade what can be read here"),
        ("    def custom_exit(self, **k):\n        self.config['exchange']", ":22: wanted of the configuration dry_run, "),
        ("    def custom_exit(self, **k):\n        self.lock_pair('A/B')", ":22: wanted a strategy that decides by candles"),
        ("    def custom_exit(self, **k):\n        from freqtrade.enums import RunMode", ":22: wanted imports of freqtrade"),
        ("from freqtrade.strategy import SafeDefaults", ":21: wanted of freqtrade.strategy what there is here (BooleanPar"),
        ("from freqtrade.optimize.space import Integer", ":21: wanted of freqtrade what there is here (freqtrade.data.data"),
        ("from nowhere import nothing", ":21: ModuleNotFoundError: No module named 'nowhere'"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_refused_by_name_and_line(tmp_path: Path, code: str, said: str) -> None:
    [found] = refusals(small(tmp_path, code))
    assert found.startswith(said)
    if "module" not in found.lower():
        assert found.split(", was ")[-1].strip()


def test_of_a_file_everything_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    path = small(
        tmp_path, "    protections = [1]", "    def order_filled(self, **kwargs):\n        return self.dp.ticker('A/B')"
    )
    assert [one.split(":")[1] for one in refusals(path)] == ["21", "23", "24"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ({"minimal_roi": "minimal_roi = {'30': -0.5}"}, "wanted in minimal_roi gains, or -1 to leave, was -0.5 after 30"),
        ({"timeframe": "timeframe = '1w'"}, "6h, 8h, 12h, 1d, was '1w'"),
        ({"minimal_roi": "informative_pairs = lambda self: [('A/B', '1h', 'mark')]"}, "wanted candles of trades, was 'mark'"),
    ],
)  # fmt: skip
def test_settings_that_mean_nothing_here_are_refused_by_name(tmp_path: Path, lines: dict[str, str], said: str) -> None:
    [found] = refusals(small(tmp_path, **lines))
    assert said in found


def test_one_that_sees_the_future_is_refused_as_any(tmp_path: Path) -> None:
    path = small(tmp_path)
    path.write_text(path.read_text().replace("shift(1)", "shift(-1)"))
    [found] = refusals(path)
    assert found.startswith(":8: sees the future: entries at candle ")


def test_one_whose_callback_sees_the_future_is_refused_too(tmp_path: Path) -> None:
    code = """
    use_custom_stoploss = True
    def populate_indicators(self, dataframe, metadata):
        dataframe["soon"] = dataframe["close"].shift(-1)
        return dataframe
    def custom_stoploss(self, pair, trade, current_time, current_rate, current_profit, **kwargs):
        last = self.dp.get_analyzed_dataframe(pair, self.timeframe)[0].iloc[-1]
        return 0.5 if last["soon"] > current_rate else 0.01
    """
    [found] = refusals(small(tmp_path, code))
    assert ":8: sees the future or remembers more than its warm-up: advice at candle " in found


def test_what_only_says_how_orders_are_sent_is_told(tmp_path: Path) -> None:
    kind = loaded(
        small(tmp_path, "    order_types = {'entry': 'limit'}", "    plot_config = {}", "    max_open_trades = 3")
    )
    assert [one.split(":")[0] for one in kind.notes] == ["order_types", "plot_config", "max_open_trades"]


def test_a_warm_up_that_is_too_short_is_lengthened_and_told(tmp_path: Path) -> None:
    path = small(tmp_path)
    path.write_text(path.read_text().replace('dataframe["close"].shift(1)', 'dataframe["close"].rolling(70).mean()'))
    kind = loaded(path)
    assert kind.from_values({}).warm_up == 200
    assert kind.notes == ("startup_candle_count: it is 10, and 200 are shown, for it remembers more",)


def test_parameters_have_their_types_and_bounds_and_values(tmp_path: Path) -> None:
    code = """
    buy_a = IntParameter(1, 9, default=3, space="buy")
    buy_b = DecimalParameter(0.1, 0.9, default=0.5, decimals=2, space="buy")
    sell_c = CategoricalParameter(["x", "y", None], default="y", space="sell")
    sell_d = BooleanParameter(default=False)
    buy_params = {"buy_a": 4}
    sell_params = {"sell_d": True}
    seen = []
    def populate_indicators(self, dataframe, metadata):
        self.seen.append([self.buy_a.value, list(self.buy_a.range), self.buy_b.value, self.sell_c.value, self.sell_d.value])
        return dataframe
    """
    kind = loaded(small(tmp_path, code))
    fields = kind.parameters_type.model_fields
    assert {name: fields[name].default for name in ("buy_a", "buy_b", "sell_c", "sell_d")} == {
        "buy_a": 4, "buy_b": Decimal("0.5"), "sell_c": "y", "sell_d": True,
    }  # fmt: skip
    assert parameter_field(fields["sell_c"]).choices == [("x", "x"), ("y", "y"), ("None", "None")]  # type: ignore[attr-defined]
    assert "At least 1, at most 9." in str(parameter_field(fields["buy_a"]).help_text)
    with pytest.raises(ValueError, match="less than or equal to 9"):
        kind.from_values({"buy_a": 10})
    with pytest.raises(ValueError, match="no more than 2 decimal places"):
        kind.from_values({"buy_b": "0.123"})
    strategy = kind.from_values({"buy_a": 7, "buy_b": "0.25", "sell_c": "None", "sell_d": False})
    candles = Candles.from_rows([(0, 1.0, 1.0, 1.0, 1.0, 1.0)])
    strategy.signals_with(candles, Others(candles, Timeframe.H1, Facts(), "BTC/USDT"))
    assert strategy._own.seen[-1] == [7, [7], 0.25, None, False]  # type: ignore[attr-defined]


def test_what_their_optimiser_saved_beside_the_file_is_used(tmp_path: Path) -> None:
    saved = {
        "roi": {"0": 0.03},
        "stoploss": {"stoploss": -0.07},
        "trailing": {"trailing_stop": True},
        "buy": {"buy_a": 8},
    }
    (tmp_path / "small.json").write_text(json.dumps({"strategy_name": "Small", "params": saved}))
    kind = loaded(small(tmp_path, "    buy_a = IntParameter(1, 9, default=3, space='buy')"))
    assert kind.from_values({}).parameters.buy_a == 8
    assert kind.from_values({}).exit_plan == ExitPlan(
        stop_loss_percent=Decimal(7), trailing_percent=Decimal(7), roi=(RoiStep(minutes=0, percent=Decimal(3)),)
    )
    assert kind.notes == ("small.json: its parameters are used",)


@pytest.mark.parametrize(
    ("lines", "plan"),
    [
        ({}, {}),
        ({"minimal_roi": "minimal_roi = {'60': -1, '10': 0.01, '0': 100}"}, {
            "roi": (RoiStep(minutes=0, percent=Decimal(1000)), RoiStep(minutes=10, percent=Decimal(1))),
            "max_hold_minutes": 60,
        }),
        ({"minimal_roi": "minimal_roi = {}; trailing_stop = True"}, {"trailing_percent": Decimal(10)}),
        ({"minimal_roi": "minimal_roi = {}; trailing_stop = True; trailing_stop_positive = 0.02"}, {
            "trailing_percent": Decimal(2),
        }),
        ({"minimal_roi": "minimal_roi = {}; use_sell_signal = False"}, {"is_exit_signal_used": False}),
        ({"stoploss": "stoploss = -1"}, {"stop_loss_percent": None}),
    ],
)  # fmt: skip
def test_settings_become_a_plan(tmp_path: Path, lines: dict[str, str], plan: dict[str, Any]) -> None:
    strategy = loaded(small(tmp_path, **lines)).from_values({})
    assert strategy.exit_plan == ExitPlan(**{"stop_loss_percent": Decimal(10)} | plan)
    assert strategy.callbacks == ()


def test_the_older_names_mean_the_same(tmp_path: Path) -> None:
    path = small(tmp_path, "    def custom_sell(self, **kwargs):\n        return 'old'")
    text = path.read_text().replace("populate_entry", "populate_buy").replace("populate_exit", "populate_sell")
    path.write_text(text.replace('"enter_long"', '"buy"').replace("timeframe =", "ticker_interval ="))
    kind = loaded(path)
    assert (kind.timeframe, kind.from_values({}).callbacks) == (Timeframe.H1, ("custom_exit",))
    [trade] = walked(kind, *UP, *[(101.0, 101.0, 101.0, 101.0)] * 3).trades
    assert (trade.entry_at.hour, trade.exit_at.hour, trade.exit_tag) == (2, 3, "old")


def test_signals_that_collide_are_heard_as_documented(tmp_path: Path) -> None:
    columns = {
        #              both    with exit  other exit  both sides  alone
        "enter_long": [1,      1,         1,          1,          1],
        "exit_long": [0,       1,         0,          0,          0],
        "exit_short": [0,      0,         1,          0,          0],
        "enter_short": [1,     0,         0,          1,          0],
    }  # fmt: skip
    code = f"""
    can_short = True
    def populate_exit_trend(self, dataframe, metadata):
        for name, values in {columns!r}.items():
            dataframe[name] = (values * len(dataframe))[: len(dataframe)] if len(dataframe) == 5 else 0
        return dataframe
    """
    strategy = loaded(small(tmp_path, code)).from_values({})
    candles = Candles.from_rows([(index * HOUR_MS, 1.0, 1.0, 1.0, 1.0, 1.0) for index in range(5)])
    said: SignalArrays = strategy.signals_with(candles, Others(candles, Timeframe.H1, Facts()))
    assert said.entries.tolist() == [0, 0, 1, 0, 1]
    assert said.exits.tolist() == [0, 1, 0, 0, 0]


CALLBACK = "    def {name}(self, pair, current_time, **kwargs):\n        return {answer}"


@pytest.mark.parametrize(
    ("name", "answer", "wanted"),
    [
        ("custom_stake_amount", "kwargs['proposed_stake'] / 4", [(2, 250.0)]),
        ("custom_stake_amount", "0", []),
        ("confirm_trade_entry", "kwargs['rate'] == 103 and kwargs['side'] == 'long'", [(3, 1000.0)]),
        # Within 2 % of the open, which are 99.96 and 100.94: met in the candle that falls to it, else given up.
        ("custom_entry_price", "50.0", [(3, 1000.0)]),
        ("custom_entry_price", "None", [(2, 1000.0)]),
    ],
)
def test_an_entry_is_made_as_its_callbacks_say(tmp_path: Path, name: str, answer: str, wanted: list[Any]) -> None:
    kind = loaded(small(tmp_path, CALLBACK.format(name=name, answer=answer)))
    rows = (*UP, (102.0, 102.0, 101.5, 102.0), (103.0, 103.0, 100.0, 100.5), (100.5, 100.5, 100.5, 100.5))
    got = [(one.entry_at.hour, round(one.quantity * one.entry_price)) for one in walked(kind, *rows).trades]
    if name == "custom_entry_price" and answer == "50.0":
        assert walked(kind, *rows).trades[0].entry_price == pytest.approx(103 * 0.98)
    assert [hour for hour, _ in got] == [hour for hour, _ in wanted]
    assert [stake for _, stake in got] == pytest.approx([stake for _, stake in wanted], rel=0.05)


def test_exits_are_confirmed_priced_and_only_with_a_profit_as_said(tmp_path: Path) -> None:
    code = """
    exit_profit_only = True
    exit_profit_offset = 0.01
    asked = []
    def populate_exit_trend(self, dataframe, metadata):
        dataframe["exit_long"], dataframe["exit_tag"] = (dataframe.index > 0).astype(int), "due"
        return dataframe
    def populate_entry_trend(self, dataframe, metadata):
        dataframe["enter_long"] = 0
        dataframe.loc[dataframe.index == 0, "enter_long"] = 1
        return dataframe
    def custom_exit_price(self, pair, trade, current_time, proposed_rate, current_profit, exit_tag, **kwargs):
        return proposed_rate * 1.01
    def confirm_trade_exit(self, pair, trade, order_type, amount, rate, time_in_force, exit_reason, current_time, **kwargs):
        self.asked.append((order_type, round(rate, 2), exit_reason, trade.nr_of_successful_entries))
        return current_time.hour > 4
    """
    kind = loaded(small(tmp_path, code))
    rows = [
        *[(100.0, 100.5, 99.5, 100.5)] * 3, *[(102.0, 102.0, 102.0, 102.0)] * 3, (102.0, 103.0, 102.0, 102.0),
        (102.0, 103.5, 102.0, 103.0),
    ]  # fmt: skip
    kind.written.asked.clear()  # type: ignore[attr-defined]
    [trade] = walked(kind, *rows).trades
    # From hour 4 on 2 % are won: at 4 it is not confirmed, then 103.02 is offered at each open until it trades there.
    assert (trade.entry_at.hour, trade.exit_at.hour, trade.exit_tag) == (1, 7, "due")
    assert trade.exit_price == pytest.approx(102 * 1.01)
    assert kind.written.asked == [("limit", 103.02, "due", 1)] * 4  # type: ignore[attr-defined]


def test_a_position_is_added_to_as_adjust_trade_position_says(tmp_path: Path) -> None:
    code = """
    position_adjustment_enable = True
    max_entry_position_adjustment = 1
    def populate_entry_trend(self, dataframe, metadata):
        dataframe["enter_long"] = (dataframe.index == 0).astype(int)
        return dataframe
    def adjust_trade_position(self, trade, current_time, current_rate, current_profit, min_stake, max_stake, **kwargs):
        return trade.select_filled_orders(trade.entry_side)[0].cost * 2 if current_profit < -0.04 else None
    """
    rows = [(100.0, 100.0, 100.0, 100.0)] * 2 + [(95.0, 95.0, 95.0, 95.0)] * 4
    [trade] = walked(loaded(small(tmp_path, code)), *rows).trades
    assert trade.quantity == pytest.approx(10 + 2000 / 95)
    assert trade.entry_price == pytest.approx(3000 / (10 + 2000 / 95))


def test_a_second_trailing_distance_counts_from_its_offset(tmp_path: Path) -> None:
    settings = (
        "stoploss = -0.1; trailing_stop = True; trailing_stop_positive = 0.01; trailing_stop_positive_offset = 0.05"
    )
    code = """
    def populate_entry_trend(self, dataframe, metadata):
        dataframe["enter_long"] = (dataframe.index == 0).astype(int)
        return dataframe
    """
    kind = loaded(small(tmp_path, code, stoploss=settings))
    assert kind.from_values({}).callbacks == ("trailing_stop_positive_offset",)
    calm = (100.0, 100.0, 100.0, 100.0)
    [trade] = walked(kind, calm, calm, (100.0, 104.0, 100.0, 104.0), (104.0, 104.0, 93.0, 94.0)).trades
    assert trade.exit_price == pytest.approx(93.6)
    [trade] = walked(kind, calm, calm, (100.0, 106.0, 100.0, 106.0), (106.0, 106.0, 93.0, 94.0)).trades
    assert trade.exit_price == pytest.approx(104.94)
    assert trade.exit_reason == "TRAILING_STOP"


def test_stop_gains_and_profit_are_of_the_margin_where_it_asks_for_leverage(tmp_path: Path) -> None:
    code = """
    seen = []
    def leverage(self, pair, current_time, current_rate, proposed_leverage, max_leverage, entry_tag, side, **kwargs):
        return min(5.0, max_leverage)
    def custom_exit(self, trade, current_profit, **kwargs):
        self.seen.append((trade.leverage, round(trade.stake_amount, 6), round(current_profit, 6)))
    """
    kind = loaded(small(tmp_path, code, minimal_roi="minimal_roi = {'0': 0.2}"))
    kind.written.seen.clear()  # type: ignore[attr-defined]
    calm = (100.0, 100.0, 100.0, 100.0)
    rises = ((99.0, 99.0, 99.0, 99.0), calm)
    # A tenth of the margin at five times: 2 % of the price; a gain of a fifth: 4 %.
    [trade] = walked(kind, *rises, (100.0, 101.0, 99.0, 99.5), (99.5, 99.5, 97.0, 97.0)).trades
    assert (round(trade.exit_price, 9), str(trade.exit_reason)) == (98.0, "STOP_LOSS")
    assert trade.quantity == pytest.approx(50)
    assert kind.written.seen == [(5.0, 1000.0, -0.025)]  # type: ignore[attr-defined]
    trade = walked(kind, *rises, (100.0, 105.0, 99.0, 104.0), calm).trades[0]
    assert (round(trade.exit_price, 9), str(trade.exit_reason)) == (104.0, "ROI")


def test_custom_roi_is_a_target_from_the_entry_on(tmp_path: Path) -> None:
    kind = loaded(
        small(tmp_path, CALLBACK.format(name="custom_roi", answer="0.05 if kwargs['trade_duration'] == 0 else 0.02"))
    )
    calm = (101.0, 101.0, 101.0, 101.0)
    [trade] = walked(kind, *UP, (101.0, 107.0, 101.0, 101.0), calm).trades
    assert trade.exit_at.hour == 2
    assert trade.exit_price == pytest.approx(101 * 1.05)
    [trade] = walked(kind, *UP, calm, (101.0, 104.0, 101.0, 101.0)).trades
    assert trade.exit_at.hour == 3
    assert trade.exit_price == pytest.approx(101 * 1.02)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("1 / 0", r"^custom_exit raises ZeroDivisionError: division by zero at .*small\.py:22$"),
        ("self.dp.get_analyzed_dataframe('ETH/BTC', '1h')", "^custom_exit: wanted the analysed frame of BTC/USDT 1h"),
        ("self.dp.get_pair_dataframe('ETH/BTC', '1h')", "^custom_exit: wanted candles that informative_pairs"),
    ],
)
def test_a_callback_that_fails_is_told_with_its_line(tmp_path: Path, code: str, said: str) -> None:
    path = small(
        tmp_path,
        f"    def custom_exit(self, current_time, **kwargs):\n        {code} if current_time.year < 1970 else 0",
    )
    kind = loaded(path)
    path_code = path.read_text().replace("if current_time.year < 1970 else 0", "")
    path.write_text(path_code)
    registry = Registry()
    registry.load_file(path)
    assert "raises CallbackFailed" in registry.refused[0].why
    assert kind.from_values({}).callbacks == ("custom_exit",)
    module = sys.modules[f"{PACKAGE}.small"]
    kind.written.custom_exit = module.Small.custom_exit  # type: ignore[attr-defined]
    with pytest.raises(CallbackFailed, match=said):
        walked(kind, *UP, *[(101.0, 101.0, 101.0, 101.0)] * 3)


def test_stand_ins_are_there_while_a_file_is_read_only(tmp_path: Path) -> None:
    loaded(small(tmp_path))
    assert [one for one in sys.modules if one.split(".")[0] in ("freqtrade", "technical")] == []


def found_except(missing: str, there: str = "") -> Callable[..., Any]:
    real = importlib.util.find_spec
    return lambda name, *more: None if name == missing else object() if name == there else real(name, *more)


def test_without_pandas_and_beside_freqtrade_itself_a_file_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", found_except("pandas"))
    [said] = refusals(path)
    assert said.endswith("wanted pandas and TA-Lib for strategies of freqtrade, was none: ./r3edge install freqtrade")
    monkeypatch.setattr(importlib.util, "find_spec", found_except("", "freqtrade"))
    with pytest.raises(Unsupported, match="wanted freqtrade itself not to be installed"), in_place():
        pass


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("RsiAndEma", "rsi_and_ema"),
        ("Strategy001", "strategy001"),
        ("BBRSI_v2", "bbrsi_v2"),
        ("MACDStrategy", "macd_strategy"),
    ],
)
def test_a_class_gives_its_strategy_a_name(written: str, name: str) -> None:
    assert name_of(written) == name


@pytest.mark.django_db
def test_a_configuration_of_a_file_is_evaluated_as_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
    def populate_indicators(self, dataframe, metadata):
        assert metadata["pair"] in ("BTC/USDT", "BASE/USDT")
        return dataframe
    """
    monkeypatch.setitem(LIBRARY, "small", loaded(small(tmp_path, code)))
    last_open_at = datetime(2026, 6, 1, 11, tzinfo=UTC)
    now = last_open_at + timedelta(minutes=61)
    venue = make_exchange(clock_speed=0.0, clock_anchor_at=last_open_at, clock_venue_at=now)
    feed = make_feed(make_market(venue), Timeframe.H1)
    make_candles(feed, [10.0] * 11 + [11.0], last_open_at)
    config = make_config(feed=feed, strategy="small", parameters={}, is_needed=True)

    feed_evaluate(feed.pk)

    signal = Signal.objects.get()
    assert (signal.config, signal.kind, signal.reason) == (config, "ENTER_LONG", "")


@pytest.mark.parametrize(
    ("symbol", "pair"),
    [("", "BASE/USDT"), ("ETH/BTC", "ETH/BTC"), ("BTC_USDT", "BTC/USDT"), ("GOOG", "GOOG/USDT"), ("B/Q:Q", "B/Q:Q")],
)
def test_a_strategy_is_told_its_market_as_a_pair(tmp_path: Path, symbol: str, pair: str) -> None:
    code = """
    def populate_indicators(self, dataframe, metadata):
        self.told = metadata["pair"]
        return dataframe
    """
    strategy = loaded(small(tmp_path, code)).from_values({})
    candles = Candles.from_rows([(0, 1.0, 1.0, 1.0, 1.0, 1.0)])
    strategy.signals_with(candles, Others(candles, Timeframe.H1, Facts(), symbol))
    assert strategy._own.told == pair  # type: ignore[attr-defined]


def test_stops_by_entry_and_by_price_are_relative_to_the_current_rate() -> None:
    # Entered at 100, now 110: 4 % above the entry are 104.
    assert 110 * (1 - stoploss_from_open(0.04, 0.10)) == pytest.approx(104)
    assert 90 * (1 + stoploss_from_open(0.04, 0.10, is_short=True)) == pytest.approx(96)
    assert 110 * (1 - stoploss_from_absolute(99, 110)) == pytest.approx(99)
    assert 90 * (1 + stoploss_from_absolute(99, 90, is_short=True)) == pytest.approx(99)
    assert (stoploss_from_open(0.04, 0.02), stoploss_from_absolute(120, 110)) == (0, 0)


def test_the_command_line_runs_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        f"{hour * HOUR_MS},{price},{price},{price},{price},1"
        for hour, price in enumerate((9.0, 8.0, 7.0, 8.0, 9.0) * 20)
    ]
    (tmp_path / "hours.csv").write_text("\n".join(["ts,open,high,low,close,volume", *rows]))
    common = ["--candles", str(tmp_path / "hours.csv"), "--timeframe", "1h", "--json", "--strategy"]
    code = """
    order_types = {}
    def informative_pairs(self):
        return [(pair, "4h") for pair in self.dp.current_whitelist()]
    def custom_exit(self, pair, current_rate, **kwargs):
        return "high" if len(self.dp.get_pair_dataframe(pair, "4h")) > 11 and current_rate == 9 else None
    """
    path = small(tmp_path, code, stoploss="stoploss = -0.5")
    assert main([*common, str(path)]) == 0
    told = capsys.readouterr()
    assert {one["exit_reason"] for one in json.loads(told.out)["trades"]} == {"EXIT_SIGNAL", None}
    assert told.err.startswith("r3edge backtest: order_types: entries and exits are market orders")
    assert main([*common, str(small(tmp_path, "    protections = [1]"))]) == 2
    assert "small.py:21: wanted a strategy without protections" in capsys.readouterr().err
    path = small(tmp_path, "    informative_pairs = lambda self: [('ETH/BTC', '1h')]")
    assert main([*common, str(path)]) == 2
    assert "wanted candles of ETH/BTC 1h beside the file's, was one file" in capsys.readouterr().err
