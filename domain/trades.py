"""What closed trades tell together, by the definitions of LEAN (QuantConnect), where a reader finds them explained.

Floats: these are statistics, and no book is kept by them.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

# What LEAN shows for a ratio with nothing lost to divide by.
RATIO_WITHOUT_LOSS = 10.0


@dataclass(frozen=True, slots=True)
class ClosedTrade:
    """A round trip. Money in one currency, ``profit_loss`` before ``fees``; ``adverse`` (zero or negative) and
    ``favourable`` (zero or positive) are the furthest it ever stood against and for us."""

    entry_at: datetime
    exit_at: datetime
    profit_loss: float
    fees: float = 0.0
    adverse: float = 0.0
    favourable: float = 0.0

    @property
    def duration(self) -> timedelta:
        return self.exit_at - self.entry_at

    @property
    def given_back(self) -> float:
        """What it once stood better than it ended."""
        return self.favourable - self.profit_loss


@dataclass(frozen=True, slots=True)
class TradeStatistics:
    """What LEAN tells of closed trades. Losses and drawdowns are negative. Ratios are per trade, not annualised; 10 where
    nothing was lost to divide by, 0 where nothing was won either."""

    first_entry_at: datetime | None
    last_exit_at: datetime | None
    trades: int
    winners: int
    losers: int
    profit_loss: float
    profit: float
    loss: float
    largest_profit: float
    largest_loss: float
    average_profit_loss: float
    average_profit: float
    average_loss: float
    average_duration: timedelta
    average_winning_duration: timedelta
    average_losing_duration: timedelta
    most_wins_in_a_row: int
    most_losses_in_a_row: int
    profit_loss_ratio: float
    win_loss_ratio: float
    win_rate: float
    loss_rate: float
    average_adverse: float
    average_favourable: float
    largest_adverse: float
    largest_favourable: float
    closed_drawdown: float
    intra_trade_drawdown: float
    deviation: float
    downside_deviation: float
    profit_factor: float
    sharpe: float
    sortino: float
    profit_to_drawdown: float
    largest_given_back: float
    average_given_back: float
    longest_drawdown: timedelta
    fees: float


def trade_statistics(trades: Iterable[ClosedTrade]) -> TradeStatistics:
    """LEAN's statistics of closed trades, taken in the order in which they ended.

    The downside deviation is that of the losing trades about their own mean (n - 1), as LEAN has it, and no target
    semideviation. A drawdown of closed trades ends when its peak is passed again; one that has not ended has no duration.
    Within trades the worst is counted from the best that any had stood at until then; where one trade saw both, the best is
    taken to have come first.
    """
    ended = sorted(trades, key=lambda trade: trade.exit_at)
    results = [trade.profit_loss for trade in ended]
    won = [trade for trade in ended if trade.profit_loss > 0]
    lost = [trade for trade in ended if trade.profit_loss <= 0]
    profits, losses = [trade.profit_loss for trade in won], [trade.profit_loss for trade in lost]
    profit, loss = sum(profits), sum(losses)
    deviation, downside = _sample(results), _sample(losses)
    closed_drawdown, longest = _closed_drawdown(ended)
    given_back = [trade.given_back for trade in ended]
    adverse, favourable = [trade.adverse for trade in ended], [trade.favourable for trade in ended]
    return TradeStatistics(
        first_entry_at=min((trade.entry_at for trade in ended), default=None),
        last_exit_at=max((trade.exit_at for trade in ended), default=None),
        trades=len(ended),
        winners=len(won),
        losers=len(lost),
        profit_loss=profit + loss,
        profit=profit,
        loss=loss,
        largest_profit=max(profits, default=0.0),
        largest_loss=min(losses, default=0.0),
        average_profit_loss=_mean(results),
        average_profit=_mean(profits),
        average_loss=_mean(losses),
        average_duration=_mean_duration(ended),
        average_winning_duration=_mean_duration(won),
        average_losing_duration=_mean_duration(lost),
        most_wins_in_a_row=_longest_run([result > 0 for result in results]),
        most_losses_in_a_row=_longest_run([result <= 0 for result in results]),
        profit_loss_ratio=_mean(profits) / -_mean(losses) if loss else 0.0,
        win_loss_ratio=_lean_ratio(len(won), len(lost)),
        win_rate=len(won) / len(ended) if ended else 0.0,
        loss_rate=len(lost) / len(ended) if ended else 0.0,
        average_adverse=_mean(adverse),
        average_favourable=_mean(favourable),
        largest_adverse=min(adverse, default=0.0),
        largest_favourable=max(favourable, default=0.0),
        closed_drawdown=closed_drawdown,
        intra_trade_drawdown=_intra_trade_drawdown(ended),
        deviation=deviation,
        downside_deviation=downside,
        profit_factor=_lean_ratio(profit, -loss),
        sharpe=_mean(results) / deviation if deviation else 0.0,
        sortino=_mean(results) / downside if downside else 0.0,
        profit_to_drawdown=_lean_ratio(profit + loss, -closed_drawdown),
        largest_given_back=max(given_back, default=0.0),
        average_given_back=-_mean(given_back),
        longest_drawdown=longest,
        fees=sum(trade.fees for trade in ended),
    )


def _lean_ratio(above: float, below: float) -> float:
    if below:
        return above / below
    return RATIO_WITHOUT_LOSS if above > 0 else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _sample(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _mean_duration(trades: Sequence[ClosedTrade]) -> timedelta:
    return sum((trade.duration for trade in trades), timedelta(0)) / len(trades) if trades else timedelta(0)


def _longest_run(flags: Sequence[bool]) -> int:
    longest = run = 0
    for flag in flags:
        run = run + 1 if flag else 0
        longest = max(longest, run)
    return longest


def _closed_drawdown(trades: Sequence[ClosedTrade]) -> tuple[float, timedelta]:
    """How deep the sum of closed trades fell below its highest, and how long it took at most to pass it again."""
    total = peak = deepest = 0.0
    longest, fell_from = timedelta(0), None
    peak_at = trades[0].entry_at if trades else None
    for trade in trades:
        total += trade.profit_loss
        deepest = min(deepest, total - peak)
        if total < peak:
            fell_from = peak_at
        elif total > peak:
            if fell_from is not None:
                longest = max(longest, trade.exit_at - fell_from)
            peak, peak_at, fell_from = total, trade.exit_at, None
    return deepest, longest


def _intra_trade_drawdown(trades: Sequence[ClosedTrade]) -> float:
    total = best = deepest = 0.0
    for trade in trades:
        best = max(best, total + trade.favourable)
        deepest = min(deepest, total + trade.adverse - best)
        total += trade.profit_loss
    return deepest
