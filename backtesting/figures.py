"""What a backtest came to, in figures that anybody can keep: plain numbers, words and None, ready for JSON.

Rates and returns are fractions of one, money is in the quote currency, times are ISO 8601 in UTC (``backtesting/wording.py``
says how each reads). A figure that there is too little to tell, or nothing to divide by, is None. A trade's row holds all of
the trade, so that ``trade_of`` makes the same one of it again.

Ratios and risks are of days, whatever the timeframe, so that they can be compared with each other and with what others
publish: the equity at the last candle of each UTC day that has one. A year has 365 days, and as many of them count as its
share of days with candles: 365 for a market that never closes, some 252 for a stock exchange. Drawdowns are of all candles'
closes. The formulas are those of ``domain/statistics.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backtesting.curve import DAY_MS, Curve, Stats, divided, known
from backtesting.engine.inputs import REASONS, Columns, MarketInput, Result, Settings, Trade, at
from backtesting.suspicions import RESTING, contract_sizes, suspicions
from domain import statistics
from domain.candles import FloatArray, IntArray
from domain.exits import ExitReason
from domain.market import PositionSide
from domain.statistics import deepest_drawdowns, falls, longest_run

HOUR_MS = 3_600_000
# So many of the deepest drawdowns are told.
DRAWDOWNS = 5
STILL_OPEN = "OPEN"
# What leaves when a candle opens; all else leaves within it.
AT_OPEN = [REASONS.index(one) for one in (ExitReason.EXIT_SIGNAL, ExitReason.TIME_EXIT)]


def figures_of(
    result: Result,
    settings: Settings,
    markets: Sequence[MarketInput],
    *,
    checks_look_ahead: bool = True,
    checks_holes: bool = True,
) -> dict[str, Any]:
    """All figures of ``result``, which is what ``settings`` and ``markets`` came to.

    ``stats`` by name; trades in groups (``per_month``, ``per_reason``, ``per_tag``, ``per_market``, ``per_side``), each with
    ``name`` and the figures of those that have ended, a month by when they ended, with the account's ``return`` in it;
    ``per_reason`` has those still held too, as OPEN. The deepest ``drawdowns``; ``benchmark``, what equal parts of the money
    came to that bought each market at its first open and held it, at no cost; and ``warnings``, each with ``code`` and
    ``text``. ``checks_look_ahead`` asks the strategies again about a few of their entries with the future cut off, for what
    a few thousand candles cost; ``checks_holes`` guesses what is missing from the candles there are, for who has no calendar.
    """
    checks = {"checks_look_ahead": checks_look_ahead, "checks_holes": checks_holes}
    curve = Curve.of(result, settings, markets)
    columns = result.columns
    ended = np.flatnonzero(~columns.is_open)
    per_month = _per_month(columns, ended, curve)
    holding = curve.held(markets)
    benchmark = holding.figures()
    stats: Stats = {
        **_span(curve),
        **_returns(curve, holding, benchmark),
        **_risk(curve),
        **_use(curve, columns, markets),
        **_record(columns, ended),
        "still_open": len(columns) - len(ended),
        "refused": len(result.refused),
        **_costs(columns, settings, markets),
    }
    return {
        "stats": stats,
        "per_month": per_month,
        "per_reason": _groups(columns, None, columns.reason, [one or STILL_OPEN for one in REASONS]),
        "per_tag": _per_tag(columns, ended),
        "per_market": _groups(columns, ended, columns.market, columns.symbols),
        "per_side": _groups(columns, ended, (columns.side < 0).astype(np.int8), list(PositionSide)),
        "drawdowns": curve.deepest(DRAWDOWNS),
        "benchmark": benchmark,
        "warnings": suspicions(result, settings, markets, stats, per_month, **checks),
    }


TRADE_FIELDS = (
    "side", "entry_at", "entry_price", "exit_at", "exit_price", "quantity", "pnl", "return", "exit_reason", "symbol",
    "fees", "funding", "tag", "exit_tag",
)  # fmt: skip


def trade_row(trade: Trade) -> dict[str, Any]:
    """A trade as it is written to JSON and CSV; ``return`` is its gain."""
    return {
        "side": trade.side.value, "entry_at": trade.entry_at.isoformat(), "entry_price": trade.entry_price,
        "exit_at": trade.exit_at.isoformat(), "exit_price": trade.exit_price, "quantity": trade.quantity,
        "pnl": trade.pnl, "return": trade.gain, "exit_reason": trade.exit_reason and trade.exit_reason.value,
        "symbol": trade.symbol, "fees": trade.fees, "funding": trade.funding, "tag": trade.tag,
        "exit_tag": trade.exit_tag,
    }  # fmt: skip


def trade_of(row: Mapping[str, Any]) -> Trade:
    """The trade that ``trade_row`` made ``row`` of."""
    return Trade(
        symbol=row["symbol"],
        side=PositionSide(row["side"]),
        entry_at=datetime.fromisoformat(row["entry_at"]),
        entry_price=row["entry_price"],
        exit_at=datetime.fromisoformat(row["exit_at"]),
        exit_price=row["exit_price"],
        quantity=row["quantity"],
        pnl=row["pnl"],
        gain=row["return"],
        fees=row["fees"],
        funding=row["funding"],
        exit_reason=None if row["exit_reason"] is None else ExitReason(row["exit_reason"]),
        tag=row["tag"],
        exit_tag=row["exit_tag"],
    )


def _span(curve: Curve) -> Stats:
    is_empty = not len(curve.open_ms)
    return {
        "from_at": None if is_empty else at(curve.moment(0)).isoformat(),
        "until_at": None if is_empty else at(curve.until_ms).isoformat(),
        "days": 0.0 if is_empty else (curve.until_ms - curve.moment(0)) / DAY_MS,
        "candles": len(curve.open_ms),
        "start_equity": float(curve.values[0]),
        "final_equity": float(curve.values[-1]),
        "peak_equity": float(curve.values.max()),
        "profit": float(curve.values[-1] - curve.values[0]),
    }


def _returns(curve: Curve, holding: Curve, benchmark: Stats) -> Stats:
    returns, periods = curve.days()
    held, _ = holding.days()
    return {
        **curve.figures(),
        "buy_and_hold_return": benchmark["total_return"],
        "excess_return": curve.total - holding.total if curve.years else None,
        "alpha": known(statistics.alpha(returns, held, periods)),
        "beta": known(statistics.beta(returns, held)),
        "correlation": known(statistics.correlation(returns, held)),
    }


def _risk(curve: Curve) -> Stats:
    returns, _ = curve.days()
    fallen, deepest = falls(curve.values), deepest_drawdowns(curve.values, 1)
    days = None
    for one in deepest:
        end = len(curve.open_ms) if one.recovery is None else one.recovery + 1
        days = (curve.moment(end) - curve.moment(one.peak + 1)) / DAY_MS
    amounts = curve.values[fallen.peak] * -fallen.depth
    return {
        "omega": known(statistics.omega(returns)),
        "value_at_risk": known(statistics.value_at_risk(returns)),
        "conditional_value_at_risk": known(statistics.conditional_value_at_risk(returns)),
        "skew": known(statistics.skew(returns)),
        "kurtosis": known(statistics.kurtosis(returns)),
        "tail_ratio": known(statistics.tail_ratio(returns)),
        "stability": known(statistics.stability(returns)),
        "ulcer_index": known(statistics.ulcer_index(returns)),
        "max_drawdown_days": days,
        "longest_drawdown_days": curve.longest_ms(fallen) / DAY_MS if len(fallen.peak) else None,
        "average_drawdown": float(fallen.depth.mean()) if len(fallen.depth) else None,
        "recovery_factor": divided(float(curve.values[-1] - curve.values[0]), float(amounts.max(initial=0.0))),
    }


def _use(curve: Curve, columns: Columns, markets: Sequence[MarketInput]) -> Stats:
    """How much of the time, and of the money, was at work; a candle counts in which anything was held."""
    size = len(curve.open_ms)
    # Where candles are looked into, an entry may lie within one.
    begins = np.searchsorted(curve.open_ms, columns.entry_ms, side="right") - 1
    leaves_at_open = np.isin(columns.reason, AT_OPEN)
    ends = np.where(
        leaves_at_open,
        np.searchsorted(curve.open_ms, columns.exit_ms),
        np.searchsorted(curve.open_ms, columns.exit_ms, side="right"),
    )
    contracts = contract_sizes(columns, markets)
    put_in = columns.quantity * columns.entry_price * contracts
    taken_out = np.where(columns.is_open, 0.0, columns.quantity * columns.exit_price * contracts)
    traded = float(put_in.sum() + taken_out.sum())

    def along(amounts: FloatArray) -> FloatArray:
        changes = np.bincount(begins, amounts, size + 1) - np.bincount(ends, amounts, size + 1)
        return np.asarray(changes.cumsum()[:size], dtype=np.float64)

    equity = curve.values[1:]
    mean = float(equity.mean()) if size else 0.0
    return {
        "exposure": float((along(np.ones(len(columns))) > 0.5).mean()) if size else None,
        "capital_used": float((along(put_in) / equity).mean()) if size and not curve.is_lost else None,
        "traded_value": traded,
        "turnover": divided(traded, mean * curve.years),
    }


def _record(columns: Columns, ended: IntArray) -> Stats:
    """What trades that have ended tell together; a win is a profit after fees."""
    pnl, gain = columns.pnl[ended], columns.gain[ended]
    hours = _hours(columns, ended)
    is_won = pnl > 0
    won, lost = pnl[is_won], pnl[~is_won]
    average_win, average_loss = _mean(won), _mean(lost)
    return {
        "trades": len(ended),
        "winners": len(won),
        "losers": len(lost),
        "win_rate": _mean(is_won),
        "profit_factor": divided(float(won.sum()), -float(lost.sum())),
        "payoff_ratio": divided(average_win or 0.0, -(average_loss or 0.0)),
        "expectancy": _mean(pnl),
        "average_win": average_win,
        "average_loss": average_loss,
        "largest_win": float(pnl.max()) if len(won) else None,
        "largest_loss": float(pnl.min()) if len(lost) else None,
        "average_return": _mean(gain),
        "median_return": float(np.median(gain)) if len(gain) else None,
        "best_return": float(gain.max()) if len(gain) else None,
        "worst_return": float(gain.min()) if len(gain) else None,
        "sqn": known(statistics.sqn(pnl)),
        "kelly": statistics.kelly_discrete(pnl) if len(pnl) else None,
        "most_wins_in_a_row": longest_run(is_won),
        "most_losses_in_a_row": longest_run(~is_won),
        "average_hours": _mean(hours),
        "average_winning_hours": _mean(hours[is_won]),
        "average_losing_hours": _mean(hours[~is_won]),
        "longest_hours": float(hours.max()) if len(hours) else None,
    }


def _costs(columns: Columns, settings: Settings, markets: Sequence[MarketInput]) -> Stats:
    fees, slippage = float(columns.fees.sum()), _slippage(columns, settings, markets)
    return {
        "fees": fees,
        "slippage": slippage,
        "funding": float(columns.funding.sum()),
        "profit_without_costs": float(columns.pnl.sum()) + fees + slippage,
    }


def _slippage(columns: Columns, settings: Settings, markets: Sequence[MarketInput]) -> float:
    """What slippage and half the spread cost on market orders, against the prices that were seen. A position that was left in
    parts counts as if all of it had been left as the last part was."""
    worse = float(settings.worse)
    if not worse:
        return 0.0
    quantity = columns.quantity * contract_sizes(columns, markets)
    entered = quantity * columns.entry_price * worse / (1 + columns.side * worse)
    left = quantity * columns.exit_price * worse / (1 - columns.side * worse)
    is_market = ~columns.is_open
    if settings.rests_targets:
        is_market &= ~np.isin(columns.reason, RESTING)
    return float(entered.sum() + left[is_market].sum())


def _groups(columns: Columns, rows: IntArray | None, keys: NDArray[Any], names: Sequence[str]) -> list[dict[str, Any]]:
    """Trades by ``keys``, each the place of its name in ``names``, ordered by name; of ``rows`` only, where there are any."""
    chosen = np.arange(len(columns)) if rows is None else rows
    found = {int(key): chosen[keys[chosen] == key] for key in np.unique(keys[chosen])}
    return sorted((_group(str(names[key]), columns, found[key]) for key in found), key=lambda one: str(one["name"]))


def _group(name: str, columns: Columns, rows: IntArray) -> dict[str, Any]:
    pnl, gain = columns.pnl[rows], columns.gain[rows]
    is_won = pnl > 0
    return {
        "name": name,
        "trades": len(rows),
        "win_rate": _mean(is_won),
        "pnl": float(pnl.sum()),
        "profit_factor": divided(float(pnl[is_won].sum()), -float(pnl[~is_won].sum())),
        "average_return": _mean(gain),
        "best_return": float(gain.max()) if len(gain) else None,
        "worst_return": float(gain.min()) if len(gain) else None,
        "average_hours": _mean(_hours(columns, rows)),
        "fees": float(columns.fees[rows].sum()),
    }


def _per_tag(columns: Columns, ended: IntArray) -> list[dict[str, Any]]:
    if columns.tags is None:
        return []
    names, keys = np.unique(np.array(columns.tags, dtype=str), return_inverse=True)
    return _groups(columns, ended, keys, names.tolist())


def _per_month(columns: Columns, ended: IntArray, curve: Curve) -> list[dict[str, Any]]:
    """Every month that has a candle, with the trades that ended in it. Once nothing is left there is no return: 0."""
    if not len(curve.open_ms):
        return []
    borders = np.arange(_month(curve.open_ms[0]) + 1, _month(curve.open_ms[-1]) + 1)
    begins = borders.astype("datetime64[M]").astype("datetime64[ms]").astype(np.int64)
    lasts = np.append(np.searchsorted(curve.open_ms, begins), len(curve.open_ms))
    ends = curve.values[lasts]
    trade_months = np.searchsorted(begins, columns.exit_ms[ended], side="right")
    order = np.argsort(trade_months, kind="stable")
    cuts = np.searchsorted(trade_months[order], np.arange(len(lasts) + 1))
    found, before = [], curve.values[0]
    for number, end in enumerate(ends.tolist()):
        has_candles = lasts[number] > (lasts[number - 1] if number else 0)
        if has_candles:
            name = str(np.datetime64(_month(curve.open_ms[0]) + number, "M"))
            group = _group(name, columns, ended[order[cuts[number] : cuts[number + 1]]])
            found.append({**group, "return": (end - before) / before if before > 0 else 0.0})
        before = end
    return found


def _month(ms: Any) -> int:
    return int(np.datetime64(int(ms), "ms").astype("datetime64[M]").astype(np.int64))


def _hours(columns: Columns, rows: IntArray) -> FloatArray:
    """How long each was held; one that was left within a candle is taken to have been left at its open."""
    return np.asarray((columns.exit_ms[rows] - columns.entry_ms[rows]) / HOUR_MS, dtype=np.float64)


def _mean(values: NDArray[Any]) -> float | None:
    return float(values.mean()) if len(values) else None
