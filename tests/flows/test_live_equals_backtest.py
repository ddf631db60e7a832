"""Real candles, replayed by the simulator through the live platform: every strategy of the library trades there what its
backtest trades, the same entries and exits, to the tick and to the lot.

Each strategy has an account of its own, and all of them one market, so that its candles are walked once. ``manual`` has no
signals, and so nothing to compare. Compared is exactly, by one rule: a backtest names the candle that an exit lies in, and
not the moment within.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from backtesting.drift import session_market, session_settings
from backtesting.engine import backtest
from backtesting.engine.inputs import Result
from domain.candles import Timeframe
from domain.exits import ExitReason
from domain.orders import OrderStatus
from exchanges.accounts import risk_profile_change
from marketdata.models import Feed
from orders.models import Order
from positions.models import Intent, Position, PositionStatus
from sessions.models import TradingSession
from sessions.services import session_create, session_start
from simulator.prices import First
from strategies.library import LIBRARY
from strategies.registry import LIBRARY_ORIGIN
from tests.conftest import Bells
from tests.factories import make_config, make_feed
from tests.flows.replay import CASH, MINUTE, Stage, Told, WorkedStage, minutes_of, stage_at
from tests.workers import workers_running

IS_LONG = os.environ.get("R3EDGE_LONG") == "1"

# As many candles before as the longest warm-up asks for.
BEFORE = timedelta(minutes=1600)
MIDNIGHT = datetime(2023, 3, 20, tzinfo=UTC)
REASONS = {"STOP_LOSS", "BREAK_EVEN", "TRAILING_STOP", "TAKE_PROFIT", "ROI", "TIME_EXIT", "EXIT_SIGNAL"}


@dataclass(frozen=True)
class Case:
    """A strategy's parameters, short enough to trade within an hour, and what its session says of exits and sizes."""

    parameters: Mapping[str, Any]
    exits: Mapping[str, Any] = field(default_factory=dict)
    session: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, Any] = field(default_factory=dict)


def targets(*percents: str, part: str = "0.5") -> list[dict[str, str]]:
    """Levels of which each but the last sells a part."""
    return [*({"percent": one, "fraction": part} for one in percents[:-1]), {"percent": percents[-1]}]


NO_STOP: dict[str, Any] = {"stop_loss_percent": None, "targets": []}
CASES = {
    "sma_cross": Case(
        {"fast": 3, "slow": 8}, {"stop_loss_percent": "0.2", "targets": targets("0.3")}, limits={"max_exposure": 700}
    ),
    "ema_cross": Case({"fast": 3, "slow": 8}, {**NO_STOP, "trailing_percent": "0.15"}),
    "trend_filter": Case(
        {"fast": 3, "slow": 8, "trend_timeframe": "5m", "trend_period": 3},
        {**NO_STOP, "stop_loss_atr": "1", "targets": targets("0.1", "0.3")},
        {"sizing_method": "VOLATILITY", "sizing_amount": "0.01"},
    ),
    "macd": Case(
        {"fast": 6, "slow": 13, "signal": 5},
        {
            **NO_STOP, "stop_loss_percent": "0.3",
            "roi": [{"minutes": 0, "percent": "0.3"}, {"minutes": 3, "percent": "0.1"}, {"minutes": 6, "percent": "0"}],
        },
        {"sizing_method": "FIXED_QUOTE", "sizing_amount": "1234.5"},
    ),
    "donchian": Case(
        {"entry": 5, "leave": 3, "atr_period": 5, "stop_atr": 1.5},
        session={"sizing_method": "RISK_PER_TRADE", "sizing_amount": "0.05"},
        limits={"max_risk_per_trade_percent": "0.04"},
    ),
    "supertrend": Case({"period": 5, "factor": 1.0}),
    "bollinger_breakout": Case(
        {"period": 10, "width": 1.5},
        {"stop_loss_percent": "0.3", "break_even_percent": "0.05", "break_even_offset_percent": "0.02"},
    ),
    "rsi_reversion": Case(
        {"period": 5, "oversold": 35.0, "recovered": 60.0},
        {"stop_loss_percent": "0.3", "targets": targets("0.2"), "max_hold_minutes": 8},
    ),
    "bollinger_reversion": Case({"period": 10, "width": 1.5}, {"stop_loss_percent": None}),
    "scalping": Case(
        {"period": 10, "width": 1.5, "rsi_period": 5, "oversold": 35.0, "overbought": 65.0, "atr_period": 5},
        limits={"cooldown_losses": 1, "cooldown_minutes": 5},
    ),
    "intraday": Case({"range_minutes": 10, "entry_minutes": 1400, "leave_minutes": 1439}),
    "swing": Case({"period": 5, "trend_timeframe": "5m", "trend_fast": 2, "trend_slow": 4, "stop_atr": "2"}),
    # So near that one candle meets both.
    "momentum_rotation": Case(
        {"rivals": "ETH/USDT", "timeframe": "5m", "lookback": 3},
        {"stop_loss_percent": "0.02", "targets": targets("0.02")},
    ),
    "grid": Case(
        {"period": 10, "step_percent": "0.1", "levels": 3, "stop_loss_percent": "0.5"}, session={"max_entries": 3}
    ),
    "dca": Case(
        {"every_hours": 1, "lookback": 20, "caution": 20.0, "take_profit_percent": "0.2"},
        session={"max_entries": 3, "is_confidence_weighted": True},
    ),
}  # fmt: skip
# The same ideas the other way round, on contracts: what falls is followed, and what rises too far is sold.
SHORTS = {
    name: Case({**CASES[name].parameters, "sides": "SHORT"}, CASES[name].exits, CASES[name].session)
    for name in ("ema_cross", "macd", "donchian", "supertrend")
}


def session_of(stage: Stage, feed: Feed, name: str, case: Case, **funds: Any) -> TradingSession:
    """A session of an account of its own, trading from now on."""
    account = stage.account(**funds)
    risk_profile_change(account.pk, dict(case.limits))
    config = make_config(account.owner, feed, name, parameters=dict(case.parameters))
    config.full_clean()
    session = session_create(TradingSession(account=account, config=config, exits=dict(case.exits), **case.session))
    session_start(session.pk)
    session.refresh_from_db()
    return session


def live_of(session: TradingSession, until: datetime) -> list[Told]:
    """The session's trades that were left before ``until``, and where it was refused an entry."""
    timeframe = Timeframe(session.config.feed.timeframe)
    trades = []
    for position in Position.objects.filter(session=session, status=PositionStatus.CLOSED).order_by("closed_at"):
        assert position.opened_at is not None
        assert position.closed_at is not None
        told = Told(
            position.side, position.opened_at, float(position.entry_price), timeframe.open_of(position.closed_at),
            float(position.exit_price), float(position.entered), float(position.realized_pnl), position.exit_reason,
        )  # fmt: skip
        trades += [told] if told.exit_at < until else []
    return trades


def refused_live(session: TradingSession, until: datetime) -> list[tuple[datetime, str]]:
    """When the session was refused an entry, and why."""
    intents = Intent.objects.filter(position__session=session).values("pk")
    denied = Order.objects.filter(intent_id__in=intents, status=OrderStatus.DENIED).order_by("pk")
    asked = {
        intent.pk: intent.position.entry_signal for intent in Intent.objects.select_related("position__entry_signal")
    }
    found = [(asked[order.intent_id], order.reason) for order in denied]
    return [
        (signal.candle_close_at, reason)
        for signal, reason in found
        if signal is not None and signal.candle_close_at < until
    ]


def backtested(session: TradingSession, since: datetime, until: datetime) -> Result:
    """What the backtest of the session makes of the candles that the platform has stored."""
    return backtest([session_market(session, since, until)], session_settings(session, CASH))


def trades_of(result: Result) -> list[Told]:
    return [
        Told(
            trade.side.value, trade.entry_at, trade.entry_price, trade.exit_at, trade.exit_price, trade.quantity, trade.pnl,
            trade.exit_reason.value,
        )
        for trade in result.trades if trade.exit_reason is not None
    ]  # fmt: skip


def held_live(session: TradingSession, until: datetime) -> list[tuple[datetime | None, float]]:
    """What the session held when ``until`` came: when it was entered, and at what price."""
    entered = session.positions.filter(opened_at__lt=until).exclude(closed_at__lt=until)
    return [(position.opened_at, round(float(position.entry_price), 6)) for position in entered]


def compare(sessions: Mapping[str, TradingSession], since: datetime, until: datetime) -> dict[str, set[str]]:
    """Every trade of either side is the other's; by session, why they were left."""
    live: dict[str, Sequence[Any]] = {}
    tested: dict[str, Sequence[Any]] = {}
    for name, session in sessions.items():
        result = backtested(session, since, until)
        still_held = [(trade.entry_at, round(trade.entry_price, 6)) for trade in result.trades if trade.is_open]
        live[name] = [*live_of(session, until), *refused_live(session, until), *held_live(session, until)]
        tested[name] = [*trades_of(result), *((one.at, one.denial.value) for one in result.refused), *still_held]
    assert live == tested
    return {name: {one.reason for one in told if isinstance(one, Told)} for name, told in live.items()}


def prepared(
    stage: Stage, cases: Mapping[str, Case], market: str = "BTC_USDT", **funds: Any
) -> dict[str, TradingSession]:
    """The stage with its history, and a session for each case, by its name."""
    for name in stage.rows:
        for timeframe in (Timeframe.M1, Timeframe.M5):
            stage.remember(make_feed(stage.market(name), timeframe), name, stage.now)
    feed = make_feed(stage.market(market))
    return {name: session_of(stage, feed, name, case, **funds) for name, case in cases.items()}


def replayed(
    bells: Bells, since: datetime, minutes: int, cases: Mapping[str, Case], market: str = "BTC_USDT", *,
    first: First = First.LOW, is_short: bool = False,
) -> dict[str, set[str]]:  # fmt: skip
    """Replay so many minutes for all ``cases`` side by side, and compare them; by case, the reasons for which was left."""
    until = since + minutes * MINUTE
    rows = {name: minutes_of(name, since - BEFORE, until + MINUTE) for name in ("BTC_USDT", "ETH_USDT")}
    with stage_at(bells.client, since, rows, first=first, is_futures=is_short) as stage:
        funds: dict[str, Any] = {"futures": {"USDT": str(CASH)}} if is_short else {}
        sessions = prepared(stage, cases, market, **funds)
        bells.clear()
        stage.run(until)
        return compare(sessions, since, until)


@pytest.mark.django_db(transaction=True)
@pytest.mark.timeout(240)
def test_every_strategy_of_the_library_trades_live_what_its_backtest_trades(bells: Bells) -> None:
    library = {name for name in LIBRARY if LIBRARY.origin(name) == LIBRARY_ORIGIN}
    assert set(CASES) == library - {"manual"}

    reasons = replayed(bells, MIDNIGHT - 29 * MINUTE, 80, CASES)

    assert all(reasons.values()), "a strategy traded nothing"
    assert set().union(*reasons.values()) == REASONS
    assert {reason.value for reason in ExitReason} > REASONS  # the rest is by command, or of leverage


@pytest.mark.skipif(not IS_LONG, reason="R3EDGE_LONG=1 walks longer spans, other markets and short positions")
@pytest.mark.parametrize(
    ("since", "minutes", "market"),
    [
        (datetime(2023, 3, 12, 21, 51, tzinfo=UTC), 240, "BTC_USDT"),
        (datetime(2023, 3, 17, 23, 51, tzinfo=UTC), 180, "BTC_USDT"),
        (datetime(2023, 3, 10, 8, 1, tzinfo=UTC), 240, "ETH_USDT"),
    ],
)
@pytest.mark.django_db(transaction=True)
@pytest.mark.timeout(900)
def test_other_hours_and_other_markets(bells: Bells, since: datetime, minutes: int, market: str) -> None:
    others = {name: case for name, case in CASES.items() if market == "BTC_USDT" or name != "momentum_rotation"}
    assert any(replayed(bells, since, minutes, others, market).values())


@pytest.mark.skipif(not IS_LONG, reason="R3EDGE_LONG=1 walks longer spans, other markets and short positions")
@pytest.mark.django_db(transaction=True)
@pytest.mark.timeout(900)
def test_short_positions_on_contracts(bells: Bells) -> None:
    since = datetime(2023, 3, 14, 14, 1, tzinfo=UTC)
    assert all(replayed(bells, since, 240, SHORTS, first=First.HIGH, is_short=True).values())


@pytest.mark.flow
@pytest.mark.timeout(240)
def test_real_workers_trade_what_the_backtest_trades(transactional_db: None, bells: Bells) -> None:
    since, minutes = datetime(2023, 3, 14, 23, 31, tzinfo=UTC), 20
    cases = {name: CASES[name] for name in ("sma_cross", "bollinger_reversion", "scalping")}
    rows = {"BTC_USDT": minutes_of("BTC_USDT", since - BEFORE, since + (minutes + 1) * MINUTE)}
    with stage_at(bells.client, since, rows, kind=WorkedStage) as stage:
        sessions = prepared(stage, cases)
        bells.clear()  # they begin with the first candle that closes
        with workers_running("worker-exits", "worker-light", "worker-strategies"):
            stage.run(since + minutes * MINUTE)
        reasons = compare(sessions, since, since + minutes * MINUTE)
    assert set().union(*reasons.values()) >= {"STOP_LOSS", "EXIT_SIGNAL"}
