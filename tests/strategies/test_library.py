"""Each strategy of the library on candles where the answer is plain, and on real ones, where the number of signals stays."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from domain.calendars import Calendar
from domain.candles import Candles, Timeframe
from domain.catalogue import indicator_of
from domain.exit_plan import ExitPlan, TargetLevel
from domain.informative import Facts, Informative, Others
from domain.resampling import resample
from domain.soundness import depends_on_older, looks_ahead, malformed
from domain.strategy import SignalArrays, SignalKind, Strategy
from strategies.library import LIBRARY
from tests.domain.reference import reference_columns

K = SignalKind
MINUTE_MS = 60_000
# Falls to the fourth, rises to the seventh, falls.
TURNS = [10.0, 9, 8, 7, 8, 10, 12, 11, 9, 7]


def flat(closes: list[float], timeframe: Timeframe = Timeframe.M1) -> Candles:
    """Candles that are flat at each close, from the beginning of a day on."""
    close = np.array(closes, dtype=np.float64)
    opens = np.arange(len(close), dtype=np.int64) * timeframe.seconds * 1000
    return Candles(opens, close, close, close, close, np.ones(len(close)))


def asked(
    strategy: Strategy[Any], closes: list[float], beside: dict[Informative, Candles] | None = None
) -> SignalArrays:
    candles = flat(closes)
    return strategy.signals_with(candles, Others(candles, Timeframe.M1, Facts(beside or {})))


def spoken(said: SignalArrays) -> dict[int, SignalKind]:
    """By candle, whatever was said that is something."""
    kinds = {at: said.kind_at(at) for at in range(len(said.entries))}
    return {at: kind for at, kind in kinds.items() if kind is not K.NOTHING}


@pytest.mark.parametrize(
    ("sides", "kinds"),
    [
        ("LONG", {5: K.ENTER_LONG, 8: K.EXIT_LONG}),
        ("SHORT", {5: K.EXIT_SHORT, 8: K.ENTER_SHORT}),
        ("BOTH", {5: K.ENTER_LONG, 8: K.ENTER_SHORT}),
    ],
)
def test_exponential_averages_cross(sides: str, kinds: dict[int, SignalKind]) -> None:
    # Over two, from the third on: 8.5 7.5 7.83 9.28 11.09 11.03 9.68 7.89; over three: 9 8 8 9 10.5 10.75 9.88 8.44.
    strategy = LIBRARY["ema_cross"].from_values({"fast": 2, "slow": 3, "sides": sides})

    assert spoken(asked(strategy, TURNS)) == kinds


def test_the_macd_overtakes_its_signal_and_falls_back() -> None:
    # Line from the fourth on: -0.5 -0.17 0.28 0.59 0.28 -0.20; signal: -0.5 -0.28 0.09 0.43 0.33 -0.02.
    strategy = LIBRARY["macd"].from_values({"fast": 2, "slow": 3, "signal": 2})

    assert spoken(asked(strategy, TURNS)) == {4: K.ENTER_LONG, 7: K.EXIT_LONG}


def test_a_bollinger_breakout_enters_above_the_band_and_leaves_below_the_average() -> None:
    # Bands of the fourth: 11 and 1.41 to both sides; averages after it: 12 and 12.33.
    strategy = LIBRARY["bollinger_breakout"].from_values({"period": 3, "width": 1})

    assert spoken(asked(strategy, [10, 10, 10, 13, 13, 11])) == {3: K.ENTER_LONG, 5: K.EXIT_LONG}


def test_a_bollinger_reversion_enters_back_above_the_band_with_a_stop_and_leaves_at_the_average() -> None:
    # Lower bands of the fourth and fifth: 7.59 and 7.17; averages from there on: 9, 8.4 and 8.23.
    strategy = LIBRARY["bollinger_reversion"].from_values({"period": 3, "width": 1, "risk": 2})

    said = asked(strategy, [10, 10, 10, 7, 8.2, 9.5])

    assert spoken(said) == {4: K.ENTER_LONG, 5: K.EXIT_LONG}
    assert said.stops is not None
    assert said.stops[4] == pytest.approx(8.2 - 2 * (8.4 - 8.2))


def test_a_bollinger_reversion_that_jumps_over_the_average_does_not_enter() -> None:
    strategy = LIBRARY["bollinger_reversion"].from_values({"period": 3, "width": 1})

    assert K.ENTER_LONG not in spoken(asked(strategy, [10, 10, 10, 7, 9.5])).values()


def test_a_turtle_enters_on_a_new_high_of_three_and_leaves_on_a_new_low_of_two() -> None:
    strategy = LIBRARY["donchian"].from_values({"entry": 3, "leave": 2, "atr_period": 2, "stop_atr": 2})

    said = asked(strategy, [10, 10, 10, 11, 12, 11.5, 10.5])

    assert spoken(said) == {3: K.ENTER_LONG, 6: K.EXIT_LONG}
    assert said.stops is not None
    assert said.stops[3] == 11 - 2 * 0.5  # half of the one range of 1


@pytest.mark.parametrize(
    ("sides", "kinds"),
    [
        ("SHORT", {3: K.EXIT_SHORT, 6: K.ENTER_SHORT}),
        # The low of two breaks on the seventh as well: that of three is the entry, and an exit beside it would outrank it.
        ("BOTH", {3: K.ENTER_LONG, 6: K.ENTER_SHORT}),
    ],
)
def test_a_turtle_swims_to_the_other_side_too(sides: str, kinds: dict[int, SignalKind]) -> None:
    strategy = LIBRARY["donchian"].from_values({"entry": 3, "leave": 2, "atr_period": 2, "stop_atr": 2, "sides": sides})

    said = asked(strategy, [10, 10, 10, 11, 12, 11.5, 10.5])

    assert spoken(said) == kinds
    assert said.stops is not None
    assert said.stops[6] == 10.5 + 2 * (0.5 * (0.5 * (0.5 * (0 + 1) + 1) + 0.5) + 1) / 2


def test_a_supertrend_turns_with_the_line_as_its_stop() -> None:
    # Ranges over two from the third on: 0, 0.5, 0.75, 2.375, 2.6875.
    strategy = LIBRARY["supertrend"].from_values({"period": 2, "factor": 1})

    said = asked(strategy, [10, 10, 10, 9, 8, 12, 9])

    assert spoken(said) == {5: K.ENTER_LONG, 6: K.EXIT_LONG}
    assert said.stops is not None
    assert said.stops[5] == 12 - 2.375


def test_scalping_says_what_its_four_views_say_read_candle_by_candle() -> None:
    steps = np.random.default_rng(3).normal(0, 0.01, 3000)
    candles = flat((100 * np.exp(np.cumsum(steps))).tolist())
    strategy = LIBRARY["scalping"].from_values({})
    said = strategy.signals(candles)

    lower = indicator_of(candles, "bollinger", period=20, width=2.0)["lower"]
    strength = indicator_of(candles, "rsi", period=7)["rsi"]
    pace = indicator_of(candles, "macd", fast=12, slow=26, signal=9)["histogram"]
    reach = indicator_of(candles, "atr", period=14)["atr"]

    def agree(at: int) -> bool:
        fell = any(candles.low[back] < lower[back] and strength[back] < 30 for back in range(at - 3, at + 1))
        return bool(fell and pace[at] > pace[at - 1] and candles.close[at] > lower[at])

    leaves = [at for at in range(40, 3000) if strength[at] > 70 >= strength[at - 1]]
    enters = [at for at in range(40, 3000) if agree(at) and not agree(at - 1) and at not in leaves]
    assert len(enters) > 20
    assert np.flatnonzero(said.entries[40:]).tolist() == [at - 40 for at in enters]
    assert np.flatnonzero(said.exits[40:]).tolist() == [at - 40 for at in leaves]
    assert said.stops is not None
    assert said.targets is not None
    assert said.confidence is not None
    np.testing.assert_allclose(said.stops[enters], candles.close[enters] - 1.5 * reach[enters])
    np.testing.assert_allclose(said.targets[enters], candles.close[enters] + 2 * reach[enters])
    lowest = [min(strength[at - 3 : at + 1]) for at in enters]
    np.testing.assert_allclose(said.confidence[enters], [1 - 0.5 * one / 30 for one in lowest])


DAY = {"range_minutes": 2, "entry_minutes": 60, "leave_minutes": 120}


def test_intraday_enters_once_on_the_break_and_leaves_below_the_average_of_the_day() -> None:
    # The range is 10 to 11; averages from there on: 10.5 10.88 11.08 10.73.
    strategy = LIBRARY["intraday"].from_values(DAY)

    said = asked(strategy, [10, 11, 10.5, 12, 11.9, 9, 13, 13])

    assert spoken(said) == {3: K.ENTER_LONG, 5: K.EXIT_LONG}
    assert said.stops is not None
    assert said.stops[3] == 10


def test_intraday_enters_late_no_more_and_is_out_by_its_time_and_begins_anew_on_the_next_day() -> None:
    strategy = LIBRARY["intraday"].from_values(DAY)
    quiet = [10, 11, *[10.5] * 1438]

    late = [*quiet[:70], *[12.0] * 60]
    next_day = [*quiet, 10, 11, 10.5, 12]

    assert spoken(asked(strategy, late)) == dict.fromkeys(range(120, 130), K.EXIT_LONG)
    assert spoken(asked(strategy, next_day))[1443] is K.ENTER_LONG


def test_intraday_says_nothing_of_a_day_whose_beginning_it_did_not_see() -> None:
    strategy = LIBRARY["intraday"].from_values({**DAY, "anchor_hour": 23})

    assert spoken(asked(strategy, [10, 11, 10.5, 12, 11.9, 9])) == {}


def test_intraday_takes_the_first_candle_of_a_session_for_its_opening() -> None:
    strategy = LIBRARY["intraday"].from_values(DAY)
    before, session = flat([10.0]), flat([10, 11, 10.5, 12])
    opens = np.concatenate([before.open_ms, session.open_ms + 1440 * MINUTE_MS + 870 * MINUTE_MS])
    close = np.concatenate([before.close, session.close])
    candles = Candles(opens, close, close, close, close, np.ones(5))

    assert spoken(strategy.signals(candles)) == {4: K.ENTER_LONG}


def test_a_swing_buys_the_end_of_a_setback_while_the_large_trend_rises_and_leaves_when_it_does_not() -> None:
    strategy = LIBRARY["swing"].from_values({"period": 2, "trend_timeframe": "5m", "trend_fast": 2, "trend_slow": 3})
    [large] = strategy.informative
    closes = [100.0] * 50
    closes[20:22] = closes[32:34] = [98, 101]

    # The large trend rises from the close of its sixth candle, minute 30, to that of its ninth, minute 45.
    said = asked(strategy, closes, {large: flat(TURNS, Timeframe.M5)})

    assert spoken(said) == {33: K.ENTER_LONG, 44: K.EXIT_LONG}


def test_a_rotation_holds_its_market_while_it_is_the_strongest() -> None:
    strategy = LIBRARY["momentum_rotation"].from_values({"rivals": " ETH/USDT,", "timeframe": "5m", "lookback": 1})
    own, rival = strategy.informative
    # It rises by 10, 9, 8 and 8 %, the other by 0, 0, 20 and 0 %; both are known when the minute 10 has passed.
    beside = {
        own: flat([10, 11, 12, 13, 14], Timeframe.M5), rival: flat([10, 10, 10, 12, 12], Timeframe.M5)
    }  # fmt: skip

    assert str(rival) == "ETH/USDT 5m"
    assert spoken(asked(strategy, [1.0] * 30, beside)) == {19: K.EXIT_LONG, 24: K.ENTER_LONG}


def test_a_rotation_of_two_holds_the_second_too_but_none_that_does_not_rise() -> None:
    values = {"rivals": "ETH/USDT", "timeframe": "5m", "lookback": 1, "held": 2}
    strategy = LIBRARY["momentum_rotation"].from_values(values)
    own, rival = strategy.informative
    beside = {
        own: flat([10, 11, 12, 13, 12], Timeframe.M5), rival: flat([10, 20, 40, 80, 160], Timeframe.M5)
    }  # fmt: skip

    assert spoken(asked(strategy, [1.0] * 30, beside)) == {24: K.EXIT_LONG}


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("momentum_rotation", {"rivals": "ETH/USDT, ETH/USDT"}, "wanted each market once, was ETH/USDT, ETH/USDT"),
        ("momentum_rotation", {"rivals": ",".join(map(str, range(21)))}, "wanted at most 20 markets, was 21"),
        ("grid", {"step_percent": 10, "levels": 10}, "wanted step_percent times levels below 100, was step_percent=10"),
        ("intraday", {"range_minutes": 720}, "was range_minutes=720, entry_minutes=720 and leave_minutes=1380"),
        ("scalping", {"oversold": 70}, "wanted oversold below overbought, was oversold=70.0 and overbought=70"),
        ("swing", {"trend_fast": 50}, "wanted trend_fast below trend_slow, was trend_fast=50 and trend_slow=50"),
        ("macd", {"fast": 26}, "wanted fast below slow, was fast=26 and slow=26"),
        ("ema_cross", {"fast": 26}, "wanted fast below slow, was fast=26 and slow=26"),
    ],
)
def test_parameters_that_do_not_go_together_are_refused(name: str, values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        LIBRARY[name].from_values(values)


def test_a_grid_buys_at_each_level_that_the_price_falls_to_and_at_none_below() -> None:
    # In steps of a tenth below the averages of four, 95, 85 and 67.5: 1.6, 2.9 and 5.6.
    strategy = LIBRARY["grid"].from_values({"period": 4, "step_percent": 10, "levels": 2})

    assert spoken(asked(strategy, [100, 100, 100, 100, 80, 60, 30, 100])) == {4: K.ENTER_LONG, 5: K.ENTER_LONG}


def test_cost_averaging_buys_by_the_clock_and_less_the_deeper_the_market_has_fallen() -> None:
    strategy = LIBRARY["dca"].from_values({"every_hours": 1, "lookback": 10})
    closes = [100.0] * 200
    closes[120], closes[180] = 90, 10

    said = asked(strategy, closes)

    assert spoken(said) == {60: K.ENTER_LONG, 120: K.ENTER_LONG, 180: K.ENTER_LONG}
    assert said.confidence is not None
    assert said.confidence[[60, 120, 180]].tolist() == pytest.approx([1, 0.8, 0.2])


@pytest.mark.parametrize(
    ("name", "values", "plan"),
    [
        ("donchian", {}, ExitPlan(is_stop_from_signal=True)),
        ("supertrend", {"take_profit_percent": 9},
         ExitPlan(is_stop_from_signal=True, targets=(TargetLevel(percent=Decimal(9)),))),
        ("scalping", {}, ExitPlan(is_stop_from_signal=True, is_target_from_signal=True)),
        ("swing", {}, ExitPlan(stop_loss_atr=Decimal(3), trailing_atr=Decimal(3))),
        ("bollinger_reversion", {}, ExitPlan(stop_loss_percent=Decimal(2), is_stop_from_signal=True)),
        ("dca", {}, ExitPlan(targets=(TargetLevel(percent=Decimal(10)),))),
        ("grid", {"levels": 3, "step_percent": 2}, ExitPlan(
            stop_loss_percent=Decimal(10),
            targets=tuple(TargetLevel(percent=Decimal(at), fraction=Decimal("0.3333")) for at in (2, 4, 6)))),
        ("grid", {"take_profit_percent": 5}, ExitPlan(
            stop_loss_percent=Decimal(10), targets=(TargetLevel(percent=Decimal(5)),))),
    ],
)  # fmt: skip
def test_every_strategy_leaves_in_the_way_that_fits_it(name: str, values: dict[str, Any], plan: ExitPlan) -> None:
    strategy = LIBRARY[name].from_values(values)

    assert strategy.exit_plan == plan
    assert ExitPlan.model_validate(strategy.exit_plan.model_dump()) == plan  # what a copy changed was checked too


# Entries and exits over two years of hours; a day's first candle is bought on 722 of 729 days, the rest is warm-up.
REAL = {
    "bollinger_breakout": (541, 1098), "bollinger_reversion": (457, 1099), "dca": (722, 0), "donchian": (568, 603),
    "ema_cross": (300, 300), "grid": (785, 0), "intraday": (407, 2222), "macd": (664, 665), "manual": (0, 0),
    "momentum_rotation": (24, 23), "rsi_reversion": (210, 936), "scalping": (447, 697), "sma_cross": (214, 214),
    "supertrend": (141, 140), "swing": (785, 4), "trend_filter": (106, 214),
}  # fmt: skip


def hours(symbol: str) -> Candles:
    found = reference_columns(f"market/binance_spot_1h/{symbol.replace('/', '_')}-1h.csv.gz")
    return Candles(found["ts"].astype(np.int64), *(found[name] for name in ("open", "high", "low", "close", "volume")))


@pytest.mark.parametrize("name", sorted(LIBRARY))
def test_on_real_candles_every_strategy_is_sound_and_says_as_much_as_ever(name: str) -> None:
    candles = hours("BTC/USDT")
    strategy = LIBRARY[name].from_values({"rivals": "ETH/USDT, XRP/USDT"} if name == "momentum_rotation" else {})
    beside = Others(candles, Timeframe.H1, Facts({
        one: resample(hours(one.symbol or "BTC/USDT"), Timeframe.H1, one.timeframe, Calendar.ALWAYS)
        for one in strategy.informative
    }))  # fmt: skip

    said = strategy.signals_with(candles, beside)

    assert (int((said.entries > 0).sum()), int((said.exits > 0).sum())) == REAL[name]
    assert malformed(strategy, candles, said) is None
    assert looks_ahead(strategy, candles, beside, checks=5) is None
    assert depends_on_older(strategy, candles, beside, checks=3) is None
