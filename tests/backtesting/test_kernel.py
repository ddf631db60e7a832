"""The fast loop, compiled and not, and the engine that goes from event to event trade as the oracle does.

Exactly means: the same trades (side, candle of entry and exit, reason) and the same refusals; prices and quantities that
are on the same tick and lot, or agree to twelve digits where there are none; results and every point of the equity within
1e-9 of the account's cash.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backtesting.engine import backtest_fast, is_common
from backtesting.engine.course import course_of, terms_of
from backtesting.engine.inputs import MarketInput, Result, Settings
from backtesting.engine.loops import PLAIN, compiled
from backtesting.engine.sweep import sweep, table
from backtesting.engine.walk import Walk
from domain.candles import Candles, Timeframe
from domain.exit_plan import ExitPlan, RoiStep, TargetLevel
from domain.exits import ExitReason
from domain.indicators import atr, crossed_above, sma
from domain.informative import FundingRates
from domain.limits import Limits
from domain.market import MarketRules
from domain.sizing import SizingMethod
from domain.strategy import SignalArrays
from tests.backtesting.oracle import Oracle

HOUR_MS = 3_600_000
NUMBA = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")
FIGURES = ("entry_price", "exit_price", "quantity", "pnl", "gain", "fees", "funding")
LOOPS = [pytest.param(lambda: PLAIN, id="plain"), pytest.param(compiled, id="compiled", marks=NUMBA)]


@st.composite
def candles(draw: st.DrawFn, most: int = 40) -> Candles:
    size = draw(st.integers(2, most))
    rows, price = [], 10_000
    gaps = draw(st.lists(st.sampled_from([1, 1, 1, 1, 3]), min_size=size, max_size=size))
    at_hour = np.cumsum(gaps)
    for index in range(size):
        open_ = max(price + draw(st.integers(-400, 400)), 100)
        close = max(open_ + draw(st.integers(-500, 500)), 100)
        high = max(open_, close) + draw(st.integers(0, 300))
        low = max(min(open_, close) - draw(st.integers(0, 300)), 50)
        rows.append((int(at_hour[index]) * HOUR_MS, open_ / 100, high / 100, low / 100, close / 100, 10.0))
        price = close
    return Candles.from_rows(rows)


def percents(low: int, high: int) -> st.SearchStrategy[Decimal]:
    return st.integers(low, high).map(lambda cents: Decimal(cents) / 100)


@st.composite
def plans(draw: st.DrawFn) -> ExitPlan:
    maybe = st.booleans()
    targets: tuple[TargetLevel, ...] = ()
    if draw(maybe):
        gains = sorted(draw(st.lists(percents(50, 900), min_size=1, max_size=3)))
        fraction = draw(st.sampled_from([Decimal("0.25"), Decimal("0.3")]))
        targets = tuple(TargetLevel(percent=gain, fraction=fraction) for gain in gains)
    break_even = draw(st.none() | percents(50, 500))
    return ExitPlan(
        stop_loss_percent=draw(st.none() | percents(50, 900)),
        stop_loss_atr=draw(st.none() | percents(30, 300)),
        is_stop_from_signal=draw(maybe),
        targets=targets,
        is_target_from_signal=draw(maybe),
        trailing_percent=draw(st.none() | percents(50, 600)),
        trailing_atr=draw(st.none() | percents(30, 400)),
        trailing_activation_percent=draw(st.just(Decimal(0)) | percents(50, 400)),
        break_even_percent=break_even,
        break_even_offset_percent=Decimal(0) if break_even is None else draw(st.sampled_from([Decimal(0), break_even])),
        max_hold_minutes=draw(st.none() | st.integers(30, 900)),
        roi=tuple(
            RoiStep(minutes=minutes, percent=draw(percents(0, 600)))
            for minutes in sorted(draw(st.lists(st.integers(0, 600), max_size=2, unique=True)))
        ),
        is_exit_signal_used=draw(maybe),
    )


@st.composite
def markets(draw: st.DrawFn) -> MarketInput:
    held = draw(candles())
    said = st.lists(st.sampled_from([0, 0, 1, -1]), min_size=len(held), max_size=len(held))
    named = st.none() | st.lists(
        st.sampled_from([float("nan"), 95.0, 98.5, 101.0, 104.25]), min_size=len(held), max_size=len(held)
    ).map(np.array)
    signals = SignalArrays(
        np.array(draw(said), np.int8), np.array(draw(said), np.int8), stops=draw(named), targets=draw(named)
    )
    rules = MarketRules(
        "X/Y", "X", "Y", tick_size=draw(st.sampled_from([Decimal("0.01"), Decimal("0.05")])),
        lot_size=draw(st.sampled_from([Decimal("0.001"), Decimal("0.5")])),
        min_quantity=draw(st.sampled_from([Decimal(0), Decimal(2)])),
        max_quantity=draw(st.none() | st.just(Decimal(20))),
        min_notional=draw(st.sampled_from([Decimal(0), Decimal(300)])),
        contract_size=Decimal(1),
    )  # fmt: skip
    return MarketInput(
        "X/Y", held, Timeframe.H1, signals, plan=draw(plans()), rules=draw(st.none() | st.just(rules)),
        can_short=draw(st.booleans()), warm_up=draw(st.integers(0, 3)),
    )  # fmt: skip


@st.composite
def terms(draw: st.DrawFn) -> Settings:
    method, amount = draw(
        st.sampled_from([
            (SizingMethod.PERCENT_OF_EQUITY, Decimal(10)), (SizingMethod.PERCENT_OF_EQUITY, Decimal(100)),
            (SizingMethod.FIXED_QUOTE, Decimal(1000)), (SizingMethod.FIXED_QUOTE, Decimal(20_000)),
        ])
    )  # fmt: skip
    rates = st.sampled_from([Decimal(0), Decimal("0.0005"), Decimal("0.002")])
    return Settings(
        sizing=method, amount=amount, maker_fee=draw(rates), taker_fee=draw(rates), slippage=draw(rates),
        spread=draw(rates), rests_targets=draw(st.booleans()),
    )  # fmt: skip


@st.composite
def portfolios(draw: st.DrawFn) -> tuple[list[MarketInput], Settings]:
    """Some markets whose candles begin, end and pause at times of their own, and all that the fast loop knows of accounts."""
    given = []
    for symbol in "ABCD"[: draw(st.integers(1, 4))]:
        one = draw(markets())
        size, later = len(one.candles), draw(st.integers(0, 10)) * HOUR_MS
        held = replace(one.candles, open_ms=one.candles.open_ms + later)
        sure = draw(
            st.none() | st.lists(st.sampled_from([0.0, 0.25, 1.0, 2.0, float("nan")]), min_size=size, max_size=size)
        )
        rules = one.rules and replace(one.rules, symbol=symbol, base=draw(st.sampled_from("XY")))
        paid = sorted(draw(st.sets(st.integers(0, 50), max_size=5)))
        rates = FundingRates(
            np.array(paid, np.int64) * HOUR_MS + draw(st.sampled_from([0, 1])),
            np.array([draw(st.sampled_from([0.0001, -0.0003, 0.01])) for _ in paid]),
        )  # fmt: skip
        said = one.said()
        words = SignalArrays(
            said.entries, said.exits, None if sure is None else np.array(sure), said.stops, said.targets
        )
        given.append(
            replace(
                one,
                symbol=symbol,
                candles=held,
                signals=words,
                rules=rules,
                tags=[str(number) for number in range(size)],
                funding=draw(st.none() | st.just(rates)),
            )  # fmt: skip
        )
    sized = draw(
        st.sampled_from([
            (SizingMethod.PERCENT_OF_EQUITY, Decimal(40)), (SizingMethod.FIXED_QUOTE, Decimal(4000)),
            (SizingMethod.RISK_PER_TRADE, Decimal(1)), (SizingMethod.VOLATILITY, Decimal("0.5")),
        ])
    )  # fmt: skip
    bounds = {
        "max_open_positions": 2, "max_exposure": Decimal(4500), "max_exposure_percent": Decimal(70),
        "max_net_exposure_percent": Decimal(40), "max_market_exposure_percent": Decimal(25),
        "max_currency_exposure_percent": Decimal(45), "max_leverage": Decimal(1),
        "max_risk_per_trade_percent": Decimal(2), "max_open_risk_percent": Decimal(3),
        "max_daily_loss_percent": Decimal(1), "max_drawdown_percent": Decimal(2),
    }  # fmt: skip
    # Few at once: each hides what others would do.
    chosen = draw(st.lists(st.sampled_from(sorted(bounds)), max_size=2, unique=True))
    limits = Limits(**{name: bounds[name] for name in chosen})  # type: ignore[arg-type]
    wanted = replace(
        draw(terms()), sizing=sized[0], amount=sized[1], leverage=draw(st.sampled_from([Decimal(1), Decimal(20)])),
        is_confidence_weighted=draw(st.booleans()), limits=limits,
        is_closed_at_end=draw(st.booleans()),
    )  # fmt: skip
    return given, wanted


def assert_equal(result: Result, exact: Result) -> None:
    """The same result, figures within what floats know of them."""
    for one, other in zip(result.trades, exact.trades, strict=True):
        rounded: Any = {name: pytest.approx(getattr(other, name), rel=1e-11, abs=1e-8) for name in FIGURES}
        assert one == replace(other, **rounded)
    assert result.refused == exact.refused
    assert result.open_ms.tolist() == exact.open_ms.tolist()
    np.testing.assert_allclose(result.equity, exact.equity, rtol=0, atol=1e-9 * 10_000)


def assert_same(result: Result, oracle: Oracle, market: MarketInput) -> None:
    open_ms = market.candles.open_ms
    index_of = {int(ms): index for index, ms in enumerate(open_ms)}
    told = [
        (
            trade.side, index_of[int(trade.entry_at.timestamp() * 1000)], index_of[int(trade.exit_at.timestamp() * 1000)],
            trade.exit_reason,
        )
        for trade in result.trades
    ]  # fmt: skip
    assert told == [one.key for one in oracle.trades]
    for trade, one in zip(result.trades, oracle.trades, strict=True):
        assert trade.entry_price == pytest.approx(float(one.entry_price), rel=1e-12)
        assert trade.exit_price == pytest.approx(float(one.exit_price), rel=1e-12)
        assert trade.quantity == pytest.approx(float(one.quantity), rel=1e-12)
        assert trade.pnl == pytest.approx(float(one.pnl), abs=1e-9 * 10_000)
    refused = [(index_of[int(one.at.timestamp() * 1000)], one.side, one.denial.value) for one in result.refused]
    assert refused == oracle.refused
    np.testing.assert_allclose(result.equity, [float(one) for one in oracle.equity], rtol=0, atol=1e-9 * 10_000)


@pytest.mark.parametrize("loops", LOOPS)
@settings(max_examples=100, deadline=None)
@given(market=markets(), wanted=terms())
def test_the_fast_loop_trades_as_the_oracle_does(loops: Any, market: MarketInput, wanted: Settings) -> None:
    assert is_common(market, wanted)
    assert_same(backtest_fast([market], wanted, loops()), Oracle(market, wanted).run(), market)


@settings(max_examples=100, deadline=None)
@given(market=markets(), wanted=terms())
def test_going_from_event_to_event_trades_as_the_oracle_does(market: MarketInput, wanted: Settings) -> None:
    assert_same(Walk([market], wanted).result(), Oracle(market, wanted).run(), market)


@pytest.mark.parametrize("loops", LOOPS)
@settings(max_examples=40, deadline=None)
@given(case=portfolios())
def test_a_portfolio_is_traded_by_the_fast_loop_as_from_event_to_event(loops: Any, case: Any) -> None:
    given, wanted = case
    assert all(is_common(one, wanted) for one in given)
    assert_equal(backtest_fast(given, wanted, loops()), Walk(given, wanted).result())


def tape(*rows: tuple[float, float, float, float]) -> Candles:
    return Candles.from_rows([(index * HOUR_MS, *row, 10.0) for index, row in enumerate(rows)])


@pytest.mark.parametrize("loops", LOOPS)
def test_a_price_that_meets_a_level_to_the_last_digit_meets_it_in_floats_too(loops: Any) -> None:
    # 103.35 less 2 % is 101.283; as floats a hair less, or more.
    for price, low in ((101.5, 99.47), (103.35, 101.283), (7.35, 7.203), (64.85, 63.553)):
        flat, met = (price, price, price, price), (price, price, low, price)
        market = MarketInput(
            "X", tape(flat, flat, met, flat), Timeframe.H1, SignalArrays(np.array([1, 0, 0, 0]), np.zeros(4, np.int8)),
            plan=ExitPlan(stop_loss_percent=Decimal(2)),
        )  # fmt: skip
        result = backtest_fast([market], Settings(), loops())
        (trade,) = result.trades
        assert trade.exit_reason is ExitReason.STOP_LOSS
        assert trade.exit_price == pytest.approx(low, rel=1e-12)
        assert_same(result, Oracle(market, Settings()).run(), market)


@NUMBA
@settings(max_examples=30, deadline=None)
@given(period=st.integers(1, 30), seed=st.integers(0, 1000), size=st.integers(0, 200))
def test_the_compiled_true_range_has_the_bits_of_the_indicator(period: int, seed: int, size: int) -> None:
    close = np.random.default_rng(seed).lognormal(8, 1, size)
    high, low = close * 1.01, close * 0.98
    slow = atr(high, low, close, period)
    for loops in (PLAIN, compiled()):
        np.testing.assert_array_equal(atr(high, low, close, period, loops.smooth), slow)


@NUMBA
@pytest.mark.parametrize("threads", [1, 2])
def test_each_pair_of_a_sweep_comes_to_what_it_comes_to_alone(threads: int) -> None:
    random = np.random.default_rng(5)
    close = 100 * np.exp(np.cumsum(random.normal(0, 0.01, 3000)))
    open_ = np.concatenate(([100.0], close[:-1]))
    held = Candles(
        np.arange(3000) * HOUR_MS, open_, np.maximum(open_, close) * 1.004, np.minimum(open_, close) * 0.996, close,
        np.ones(3000),
    )  # fmt: skip
    wanted = Settings(taker_fee=Decimal("0.001"), maker_fee=Decimal("0.001"))
    plan = ExitPlan(stop_loss_percent=Decimal(2), targets=(TargetLevel(percent=Decimal(4)),))
    silence = SignalArrays(np.zeros(3000, np.int8), np.zeros(3000, np.int8))
    market = MarketInput("X", held, Timeframe.H1, silence, plan=plan)
    pairs = [(fast, slow) for fast in (3, 5, 8, 20) for slow in (21, 50, 150)]
    swept = sweep(terms_of(wanted), course_of([market], wanted, [silence]), pairs, threads=threads)
    assert len(swept) == 12
    for (fast, slow), one in zip(pairs, swept, strict=True):
        short, long = sma(close, fast), sma(close, slow)
        signals = SignalArrays(crossed_above(short, long).astype(np.int8), crossed_above(long, short).astype(np.int8))
        alone = MarketInput("X", held, Timeframe.H1, signals, plan=plan, warm_up=slow)
        result = backtest_fast([alone], wanted, PLAIN)
        results = [trade.pnl for trade in result.trades]
        assert one.trades == len(results) > 0
        assert one.winners == sum(pnl > 0 for pnl in results)
        assert one.equity == result.equity[-1]
        assert one.profit + one.loss == pytest.approx(sum(results), abs=1e-8)
        peaks = np.maximum.accumulate(np.concatenate(([10_000.0], result.equity)))[1:]
        assert one.drawdown == pytest.approx(float((result.equity / peaks - 1).min()), abs=1e-15)


def test_a_sweep_without_numba_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    compiled.cache_clear()
    try:
        assert compiled() is PLAIN
        close = 100 + 10 * np.sin(np.arange(200) / 9)
        flat = Candles(np.arange(200) * HOUR_MS, close, close, close, close, np.ones(200))
        silence = SignalArrays(np.zeros(200, np.int8), np.zeros(200, np.int8))
        market = MarketInput("X", flat, Timeframe.H1, silence, plan=ExitPlan())
        (one,) = sweep(terms_of(Settings()), course_of([market], Settings(), [silence]), [(3, 10)])
        assert (one.trades, one.winners) == (3, 3)
    finally:
        compiled.cache_clear()


def test_averages_are_computed_once_for_all_pairs_that_share_them() -> None:
    shared = table(np.arange(300.0), [20, 50, 20, 200])
    assert sorted(shared) == [20, 50, 200]
    assert shared[200][199] == 99.5
