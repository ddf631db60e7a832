"""Ours, in a process of its own as the others are, so that memory and first calls compare."""

from __future__ import annotations

import sys
from decimal import Decimal
from pathlib import Path

from clock import told

from backtesting.commandline import candles_from
from backtesting.engine import backtest
from backtesting.engine.course import course_of, terms_of
from backtesting.engine.inputs import MarketInput, Settings
from backtesting.engine.loops import compiled
from backtesting.engine.sweep import sweep
from backtesting.engine.walk import Walk
from backtesting.research.trials import Objective, trial
from benchmarks.tapes import tape
from domain.candles import Timeframe
from domain.exit_plan import ExitPlan, RoiStep, TargetLevel
from strategies.library.sma_cross import SmaCross

FEE = Decimal("0.001")
SETTINGS = Settings(maker_fee=FEE, taker_fee=FEE)
MARKETS = 10
# Every kind of exit at once.
EVERY_EXIT = ExitPlan(
    stop_loss_percent=Decimal(5), stop_loss_atr=Decimal(3), is_stop_from_signal=True, is_target_from_signal=True,
    targets=tuple(TargetLevel(percent=Decimal(gain), fraction=Decimal("0.3")) for gain in (2, 4, 8)),
    trailing_percent=Decimal(3), trailing_atr=Decimal(4), trailing_activation_percent=Decimal(1),
    break_even_percent=Decimal("1.5"), break_even_offset_percent=Decimal("0.2"), max_hold_minutes=3 * 1440,
    roi=(RoiStep(minutes=1440, percent=Decimal(3)), RoiStep(minutes=2880, percent=Decimal(1))),
)  # fmt: skip


def main(path: str, rounds: int, job: str, size: int, more: str = "") -> None:
    strategy = SmaCross.from_values({"fast": 20, "slow": 50})
    plan = EVERY_EXIT if job == "exits" else None
    candles = candles_from(Path(path)) if path != "-" else tape(size)
    market = MarketInput("A", candles, Timeframe.H1, strategy=strategy, plan=plan)
    if job == "walk":
        return told(lambda: len(Walk([market], SETTINGS).result().trades), rounds)
    is_compiled = compiled().is_compiled
    if job == "sweep":
        pairs = [tuple(map(int, pair.split("/"))) for pair in more.split(",")]
        threads = rounds % 10
        terms, course = terms_of(SETTINGS), course_of([market], SETTINGS, [market.said()])
        return told(
            lambda: sum(one.trades for one in sweep(terms, course, pairs, threads)), rounds // 10,
            is_compiled=is_compiled,
        )  # fmt: skip
    if job == "trials":
        pairs = [tuple(map(int, pair.split("/"))) for pair in more.split(",")]
        objective = Objective("sharpe")

        def searched() -> int:
            facts = (trial([market], SETTINGS, SmaCross, {"fast": one, "slow": two}, objective) for one, two in pairs)
            return sum(int(one.figures["trades"] or 0) for one in facts)

        return told(searched, rounds, is_compiled=is_compiled)
    markets = [market]
    if job == "portfolio":
        markets = [
            MarketInput(f"M{number}", tape(size, number), Timeframe.H1, strategy=strategy) for number in range(MARKETS)
        ]
    return told(lambda: len(backtest(markets, SETTINGS).trades), rounds, is_compiled=is_compiled)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), *sys.argv[5:])
