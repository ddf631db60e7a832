"""What a backtest came to, in figures that anybody can keep: plain numbers, words and None, ready for JSON.

Rates and returns are fractions of one, money is in the quote currency, times are ISO 8601 in UTC. A figure that there is too
little to tell is None. A trade's row holds all of the trade, so that ``trade_of`` makes the same one of it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from backtesting.inputs import MarketInput, Result, Settings, Trade, at
from domain.candles import FloatArray, IntArray
from domain.exits import ExitReason
from domain.market import PositionSide
from domain.statistics import cagr, deepest_drawdowns, max_drawdown, returns_of, sharpe, total_return

YEAR_MS = 365 * 86_400_000
# So many of the deepest drawdowns are told.
DRAWDOWNS = 5
STILL_OPEN = "OPEN"


def figures_of(result: Result, settings: Settings, markets: Sequence[MarketInput]) -> dict[str, Any]:
    """All figures of ``result``, which is what ``settings`` and ``markets`` came to: ``stats`` by name, groups of trades
    (``per_month``, ``per_reason``, ``per_tag``, ``per_market``, ``per_side``), the deepest ``drawdowns``, ``benchmark`` (what
    buying at the start and holding came to) and ``warnings`` (``code`` and ``text``). Groups are of trades that have ended;
    ``per_reason`` has those still held, as OPEN."""
    cash = float(settings.cash)
    ended = [trade for trade in result.trades if not trade.is_open]
    values = np.concatenate(([cash], result.equity))
    returns = returns_of(values)
    step_ms = min((market.timeframe.seconds * 1000 for market in markets), default=1)
    periods = _periods(result.open_ms, step_ms)
    held = np.concatenate(([1.0], _held(markets, result.open_ms)))
    return {
        "stats": _stats(result, ended, cash, returns, periods),
        "per_month": _per_month(ended, result.open_ms, values),
        "per_reason": _groups(result.trades, lambda trade: trade.exit_reason or STILL_OPEN),
        "per_tag": _groups(ended, lambda trade: trade.tag),
        "per_market": _groups(ended, lambda trade: trade.symbol),
        "per_side": _groups(ended, lambda trade: trade.side.value),
        "drawdowns": _drawdowns(result.open_ms, values),
        "benchmark": _curve_figures(returns_of(held), periods),
        "warnings": [],
    }


def trade_row(trade: Trade) -> dict[str, Any]:
    """A trade as it is written to JSON and CSV; ``return`` is its gain."""
    return {
        "side": trade.side.value, "entry_at": trade.entry_at.isoformat(), "entry_price": trade.entry_price,
        "exit_at": trade.exit_at.isoformat(), "exit_price": trade.exit_price, "quantity": trade.quantity,
        "pnl": trade.pnl, "return": trade.gain, "exit_reason": trade.exit_reason and trade.exit_reason.value,
        "symbol": trade.symbol, "fees": trade.fees, "funding": trade.funding, "tag": trade.tag,
    }  # fmt: skip


TRADE_FIELDS = (
    "side", "entry_at", "entry_price", "exit_at", "exit_price", "quantity", "pnl", "return", "exit_reason", "symbol",
    "fees", "funding", "tag",
)  # fmt: skip


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
    )


def _stats(
    result: Result, ended: Sequence[Trade], cash: float, returns: FloatArray, periods: float
) -> dict[str, float | None]:
    counts = _group("", ended)
    return {
        "trades": len(ended),
        "still_open": len(result.trades) - len(ended),
        "refused": len(result.refused),
        "win_rate": counts["win_rate"],
        "profit_factor": counts["profit_factor"],
        "fees": sum(trade.fees for trade in result.trades),
        "final_equity": float(result.equity[-1]) if len(result.equity) else cash,
        **_curve_figures(returns, periods),
    }


def _curve_figures(returns: FloatArray, periods: float) -> dict[str, float | None]:
    return {
        "total_return": _known(total_return(returns)),
        "cagr": _known(cagr(returns, periods)),
        "sharpe": _known(sharpe(returns, periods)),
        "max_drawdown": _known(max_drawdown(returns)),
    }


def _periods(open_ms: IntArray, step_ms: int) -> float:
    """How many candles there are in a year of 365 days, by those that there are."""
    if not len(open_ms):
        return 1.0
    return len(open_ms) * YEAR_MS / float(open_ms[-1] - open_ms[0] + step_ms)


def _held(markets: Sequence[MarketInput], open_ms: IntArray) -> FloatArray:
    """What one unit of money is worth at each close when equal parts of it buy each market at the open of its first candle
    and hold it."""
    parts = []
    for market in markets:
        candles = market.candles
        start = int(np.searchsorted(candles.open_ms, open_ms[0])) if len(open_ms) else len(candles)
        if start == len(candles):
            continue
        last = np.searchsorted(candles.open_ms, open_ms, side="right") - 1
        closes = candles.close[np.maximum(last, 0)] / candles.open[start]
        parts.append(np.where(last >= start, closes, 1.0))
    return np.mean(parts, axis=0) if parts else np.ones(len(open_ms))


def _groups(trades: Iterable[Trade], key: Any) -> list[dict[str, Any]]:
    found: dict[str, list[Trade]] = {}
    for trade in trades:
        found.setdefault(str(key(trade)), []).append(trade)
    return [_group(name, found[name]) for name in sorted(found)]


def _group(name: str, trades: Sequence[Trade]) -> dict[str, Any]:
    won = sum(trade.pnl for trade in trades if trade.pnl > 0)
    lost = sum(trade.pnl for trade in trades if trade.pnl <= 0)
    return {
        "name": name,
        "trades": len(trades),
        "win_rate": sum(trade.pnl > 0 for trade in trades) / len(trades) if trades else None,
        "pnl": won + lost,
        "profit_factor": -won / lost if lost else None,
        "fees": sum(trade.fees for trade in trades),
    }


def _per_month(ended: Sequence[Trade], open_ms: IntArray, values: FloatArray) -> list[dict[str, Any]]:
    """Every month that has a candle, with the trades that ended in it."""
    if not len(open_ms):
        return []
    months = open_ms.astype("datetime64[ms]").astype("datetime64[M]")
    lasts = np.append(np.flatnonzero(months[1:] != months[:-1]), len(months) - 1)
    ends = values[lasts + 1]
    gains = returns_of(np.concatenate((values[:1], ends)))
    found: dict[str, list[Trade]] = {}
    for trade in ended:
        found.setdefault(f"{trade.exit_at:%Y-%m}", []).append(trade)
    names = [str(one) for one in months[lasts]]
    return [
        {**_group(name, found.get(name, [])), "return": float(gain)} for name, gain in zip(names, gains, strict=True)
    ]


def _drawdowns(open_ms: IntArray, values: FloatArray) -> list[dict[str, Any]]:
    """Times are opens of candles, at whose closes the equity was there; the starting capital has that of the first."""
    return [
        {
            "from_at": at(int(open_ms[max(one.peak, 0)])).isoformat(),
            "low_at": at(int(open_ms[one.trough])).isoformat(),
            "until_at": None if one.recovery is None else at(int(open_ms[one.recovery])).isoformat(),
            "depth": one.depth,
        }
        for one in deepest_drawdowns(values, DRAWDOWNS)
    ]


def _known(figure: float) -> float | None:
    return figure if np.isfinite(figure) else None
