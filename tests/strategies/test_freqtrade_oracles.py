"""Three files written for freqtrade trade what an oracle says, which follows its documented rules candle by candle on
arrays: on real candles where they are at hand, on a walk by seed elsewhere."""

from __future__ import annotations

import bisect
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from backtesting.engine import backtest
from backtesting.engine.inputs import MarketInput, Result, Settings
from domain.calendars import Calendar
from domain.candles import Candles, FloatArray, Timeframe
from domain.informative import Facts, Informative, Others
from domain.resampling import resample
from domain.sizing import SizingMethod
from tests.domain.reference import reference_columns
from tests.strategies.freqtrade_files import whole

pytest.importorskip("pandas", reason="./r3edge install freqtrade")
talib = pytest.importorskip("talib", reason="./r3edge install freqtrade")

HOUR_MS = 3_600_000
CANDLES = 6_000
FREE = Settings(cash=Decimal(1_000_000), sizing=SizingMethod.FIXED_QUOTE, amount=Decimal(1_000))
# (side, entry index, exit index, exit price, reason, tag of the exit)
Told = tuple[int, int, int, float, str, str]


def hours(base: str) -> Candles:
    """Real hours of ``base`` in USDT; where they are not at hand a walk by seed."""
    try:
        columns = reference_columns(f"market/binance_spot_1h/{base}_USDT-1h.csv.gz")
    except pytest.skip.Exception:
        random = np.random.default_rng(len(base) + ord(base[0]))
        close = 8_000 * np.exp(np.cumsum(random.normal(0, 0.007, CANDLES)))
        open_ = np.concatenate(([8_000.0], close[:-1]))
        spread = 1 + 0.004 * random.random(CANDLES)
        high, low = np.maximum(open_, close) * spread, np.minimum(open_, close) / spread
        return Candles(np.arange(CANDLES) * HOUR_MS, open_, high, low, close, np.ones(CANDLES))
    arrays = (np.ascontiguousarray(columns[name][:CANDLES]) for name in ("open", "high", "low", "close", "volume"))
    return Candles(columns["ts"][:CANDLES].astype(np.int64), *arrays)


def told(result: Result, candles: Candles) -> list[Told]:
    at = {int(ms): index for index, ms in enumerate(candles.open_ms)}
    return [
        (
            one.side.sign, at[ms(one.entry_at)], at[ms(one.exit_at)], one.exit_price, str(one.exit_reason), one.exit_tag,
        )
        for one in result.trades if not one.is_open
    ]  # fmt: skip


def ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)


def same(got: list[Told], wanted: list[Told]) -> None:
    assert [(*one[:3], *one[4:]) for one in got] == [(*one[:3], *one[4:]) for one in wanted]
    assert [one[3] for one in got] == pytest.approx([one[3] for one in wanted], rel=1e-9)


def crossed(first: FloatArray, second: FloatArray | float) -> Any:
    """Where ``first`` is above and was not on the candle before."""
    other = np.broadcast_to(second, first.shape)
    found = np.zeros(len(first), np.bool_)
    found[1:] = (first[1:] > other[1:]) & (first[:-1] <= other[:-1])
    return found


def test_a_file_with_gains_stop_and_trailing_trades_what_the_oracle_says() -> None:
    candles = hours("BTC")
    strength, average = talib.RSI(candles.close, 14), talib.EMA(candles.close, 50)
    enters = crossed(strength, 40.0) & (candles.close > average * 0.97) & ~(strength > 60)
    strategy = whole("rsi_and_ema.py").from_values({})
    wanted = rsi_and_ema_oracle(candles, enters, strength > 60, strategy.warm_up)
    result = backtest([MarketInput("BTC/USDT", candles, Timeframe.H1, strategy=strategy)], FREE)
    assert len(wanted) > 50
    assert {one[4] for one in wanted} >= {"ROI", "STOP_LOSS", "TRAILING_STOP", "EXIT_SIGNAL"}
    same(told(result, candles), wanted)
    assert {one.tag for one in result.trades} == {"recovers"}


def rsi_and_ema_oracle(candles: Candles, enters: Any, leaves: Any, first: int) -> list[Told]:
    """Its documented settings: a stop at 5 %, 1 % below the best once that was 2 % up, gains of 4 %, after 4 hours 2 %, after
    12 hours none; all from the entry candle on, moved when a candle has closed."""
    found: list[Told] = []
    entry = best = 0.0
    began = -1
    for i in range(first, len(candles)):
        o, h, lo = candles.open[i], candles.high[i], candles.low[i]
        if began >= 0:
            stop, why, target = rsi_and_ema_levels(entry, best, i - began)
            out = (
                (o, why) if o <= stop else (o, "ROI") if o >= target else (o, "EXIT_SIGNAL") if leaves[i - 1] else None
            )
            if out:
                found.append((1, began, i, *out, ""))
                began = -1
        if began < 0 and enters[i - 1]:
            entry = best = o
            began = i
        if began >= 0:
            stop, why, target = rsi_and_ema_levels(entry, best, i - began)
            out = (stop, why) if lo <= stop else (target, "ROI") if h >= target else None
            if out:
                found.append((1, began, i, *out, ""))
                began = -1
            elif i > began:
                best = max(best, h)
    return found


def rsi_and_ema_levels(entry: float, best: float, held: int) -> tuple[float, str, float]:
    gain = 0.0 if held >= 12 else 0.02 if held >= 4 else 0.04
    trails = best >= entry * 1.02
    return (best * 0.99, "TRAILING_STOP", entry * (1 + gain)) if trails else (
        entry * 0.95, "STOP_LOSS", entry * (1 + gain),
    )  # fmt: skip


def three_views() -> tuple[Candles, Candles, Candles, Candles]:
    btc, eth = hours("BTC"), hours("ETH")
    four, day = (resample(btc, Timeframe.H1, one, Calendar.ALWAYS) for one in (Timeframe.H4, Timeframe.D1))
    return btc, eth, four, day


def last_closed(candles: Candles, length_ms: int, close_ms: int) -> int:
    """The index of the last candle that had closed by then; -1 before the first."""
    return bisect.bisect_right(candles.open_ms.tolist(), close_ms - length_ms) - 1


@pytest.mark.parametrize(
    "chosen", [{}, {"buy_period": 25, "buy_rsi": "60.5", "buy_average": "sma", "buy_wants_day": False}]
)
def test_a_file_with_informative_pairs_and_parameters_trades_what_the_oracle_says(chosen: dict[str, Any]) -> None:
    btc, eth, four, day = three_views()
    values: dict[str, Any] = {"buy_period": 12, "buy_rsi": "70", "buy_average": "ema", "buy_wants_day": True} | chosen
    average = (talib.EMA if values["buy_average"] == "ema" else talib.SMA)(btc.close, values["buy_period"])
    strength, eth_mean = talib.RSI(four.close, 14), talib.SMA(eth.close, 30)
    agrees, weakens = np.zeros(len(btc), np.bool_), np.zeros(len(btc), np.bool_)
    for i in range(200, len(btc)):
        close_ms = int(btc.open_ms[i]) + HOUR_MS
        at_four, at_eth, at_day = (
            last_closed(one, length * HOUR_MS, close_ms) for one, length in ((four, 4), (eth, 1), (day, 24))
        )
        is_day_up = at_day >= 4 and day.close[at_day] > day.close[at_day - 4 : at_day + 1].mean()
        agrees[i] = strength[at_four] < float(values["buy_rsi"]) and eth.close[at_eth] > eth_mean[at_eth]
        agrees[i] &= is_day_up or not values["buy_wants_day"]
        weakens[i] = strength[at_four] > 50
    leaves = crossed(average, btc.close) & weakens
    enters = crossed(btc.close, average) & agrees & ~leaves
    wanted: list[Told] = []
    began = -1
    for i in range(300, len(btc)):
        o, stop = btc.open[i], btc.open[max(began, 0)] * 0.92
        if began >= 0 and (o <= stop or leaves[i - 1]):
            wanted.append((1, began, i, o, "STOP_LOSS" if o <= stop else "EXIT_SIGNAL", ""))
            began = -1
        if began < 0 and enters[i - 1]:
            began, stop = i, o * 0.92
        if began >= 0 and btc.low[i] <= stop:
            wanted.append((1, began, i, stop, "STOP_LOSS", ""))
            began = -1

    strategy = whole("three_views.py").from_values(chosen)
    beside = [four, eth, day]
    result = backtest(
        [
            MarketInput(
                "BTC/USDT", btc, Timeframe.H1, strategy=strategy,
                facts=Facts(dict(zip(strategy.informative, beside, strict=True))), warm_up=300,
            )
        ],
        FREE,
    )  # fmt: skip
    assert [str(one) for one in strategy.informative] == ["4h", "ETH/USDT 1h", "1d"]
    assert len(wanted) > 20
    same(told(result, btc), wanted)


def test_a_file_with_callbacks_trades_both_ways_as_the_oracle_says() -> None:
    candles, fee = hours("BTC"), 0.001
    strategy = whole("both_ways.py").from_values({})
    market = MarketInput("BTC/USDT", candles, Timeframe.H1, strategy=strategy, can_short=True)
    rate = Decimal(str(fee))
    wanted = both_ways_oracle(candles, strategy.warm_up, fee)
    assert len(wanted) > 80
    assert {one[4:] for one in wanted} == {
        ("STOP_LOSS", ""), ("TRAILING_STOP", ""), ("EXIT_SIGNAL", "turned"), ("EXIT_SIGNAL", "rsi_low"),
        ("EXIT_SIGNAL", "unclog"),
    }  # fmt: skip
    assert {one[0] for one in wanted} == {1, -1}
    same(told(backtest([market], Settings(cash=FREE.cash, taker_fee=rate, maker_fee=rate)), candles), wanted)


def both_ways_oracle(candles: Candles, first: int, fee: float) -> list[Told]:
    fast, slow = talib.EMA(candles.close, 12), talib.EMA(candles.close, 26)
    strength, up, down = talib.RSI(candles.close, 14), crossed(fast, slow), crossed(slow, fast)
    found: list[Told] = []
    sign = began = 0
    entry = advised = 0.0
    leave = ""
    for i in range(first, len(candles)):
        o, h, lo, c = (float(one[i]) for one in (candles.open, candles.high, candles.low, candles.close))
        at = datetime.fromtimestamp(int(candles.open_ms[i]) / 1000, tz=UTC)
        if sign:
            stop, why = both_ways_stop(sign, entry, advised)
            out = (o, why, "") if (o - stop) * sign <= 0 else (o, "EXIT_SIGNAL", leave) if leave else None
            if out:
                found.append((sign, began, i, *out))
                sign = 0
        # A long entry collides with nothing; a short one with no exit of shorts, for there is none.
        if not sign and (up[i - 1] or down[i - 1]) and at.weekday() != 6:
            sign, began, entry, advised, leave = (1 if up[i - 1] else -1), i, o, 0.0, ""
        if sign:
            stop, why = both_ways_stop(sign, entry, advised)
            if (lo <= stop) if sign > 0 else (h >= stop):
                found.append((sign, began, i, stop, why, ""))
                sign = 0
        if sign:
            gain = (c * (1 - fee)) / (entry * (1 + fee)) - 1 if sign > 0 else 1 - (c * (1 + fee)) / (entry * (1 - fee))
            secured = 0.02 if gain > 0.03 else 0.005 if gain > 0.015 else None
            if secured is not None:
                stop = c * (1 + sign * secured) / (1 + sign * gain)
                advised = stop if not advised or (stop - advised) * sign > 0 else advised
            days_held = (int(candles.open_ms[i]) + HOUR_MS - int(candles.open_ms[began])) // (24 * HOUR_MS)
            low = sign < 0 and strength[i] < 25
            turned = sign > 0 and bool(down[i])
            leave = "turned" if turned else "rsi_low" if low else "unclog" if gain < 0 and days_held >= 2 else ""
    return found


def both_ways_stop(sign: int, entry: float, advised: float) -> tuple[float, str]:
    first = entry * (1 - sign * 0.05)
    return (advised, "TRAILING_STOP") if advised and (advised - first) * sign > 0 else (first, "STOP_LOSS")


def test_informative_candles_of_its_own_market_are_named_by_none() -> None:
    strategy = whole("three_views.py").from_values({"stake_currency": "EUR"})
    assert strategy.informative == (
        Informative(Timeframe.H4, "", 300), Informative(Timeframe.H1, "ETH/EUR", 300), Informative(Timeframe.D1, "", 300),
    )  # fmt: skip
    candles = Candles.from_rows([(0, 1.0, 1.0, 1.0, 1.0, 1.0)])
    with pytest.raises(ValueError, match="wanted a market quoted in EUR, as stake_currency says, was BTC/USDT"):
        strategy.signals_with(candles, Others(candles, Timeframe.H1, Facts(), "BTC/USDT"))
