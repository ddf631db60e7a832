"""One backtest from the command line, without the platform: candles from a file, a strategy of the library, figures out.

Nothing heavy is imported that one run does not need: no Django, no numba, no pandas.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from pydantic import ValidationError

from backtesting.engine import backtest
from backtesting.inputs import MarketInput, Result, Settings, Trade
from domain.calendars import Calendar
from domain.candles import Candles, Timeframe
from domain.informative import Facts
from domain.resampling import resample
from domain.statistics import cagr, max_drawdown, returns_of, sharpe, total_return
from domain.strategy import Strategy
from strategies.library import LIBRARY
from strategies.registry import Registry

COLUMNS = ("ts", "open", "high", "low", "close", "volume")
TRADE_FIELDS = (
    "side", "entry_at", "entry_price", "exit_at", "exit_price", "quantity", "pnl", "return", "exit_reason",
)  # fmt: skip
YEAR_SECONDS = 365 * 86_400


class CannotRun(Exception):
    """What was asked for cannot be done; the message says what was wanted."""


def parser() -> argparse.ArgumentParser:
    """What it accepts. A percentage may be written with its sign."""
    top = argparse.ArgumentParser(
        prog="r3edge backtest", description="Backtest one strategy on a file of candles.", allow_abbrev=False
    )
    top.add_argument(
        "--strategy", required=True, metavar="NAME|FILE.py", help="a strategy of the library, or a file with one"
    )
    top.add_argument("--candles", required=True, metavar="FILE", help=f"CSV, or CSV.gz, with {', '.join(COLUMNS)}")
    top.add_argument("--timeframe", required=True, choices=[one.value for one in Timeframe])
    top.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the strategy")
    top.add_argument("--stop-loss", metavar="PERCENT", type=_percent, help="default: the strategy's own")
    top.add_argument("--take-profit", metavar="PERCENT", type=_percent, help="default: the strategy's own")
    top.add_argument("--short", action="store_true", help="the market can be shorted")
    top.add_argument("--stake", metavar="PERCENT", type=_percent, default=Decimal(10), help="of equity (default 10%%)")
    top.add_argument("--cash", type=_number, default=Decimal(10_000), help="default 10000")
    top.add_argument("--fee", metavar="PERCENT", type=_percent, default=Decimal("0.1"), help="a side (default 0.1%%)")
    top.add_argument("--slippage", metavar="PERCENT", type=_percent, default=Decimal(0), help="default 0")
    top.add_argument("--from", dest="since", metavar="TIME", type=_time_ms, help="the first candle, ISO 8601")
    top.add_argument("--to", dest="until", metavar="TIME", type=_time_ms, help="the last candle, ISO 8601")
    top.add_argument("--trades", metavar="FILE.csv", help="write the trades there")
    top.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return top


def main(arguments: Sequence[str] | None = None, out: TextIO | None = None) -> int:
    """Run it; the exit code: 2 for what cannot be run, with one line that says why."""
    options = parser().parse_args(arguments)
    out = out or sys.stdout
    try:
        market, settings = _market(options), _settings(options)
        result = backtest([market], settings)
        if options.trades:
            _write_trades(_path(options.trades), result)
    except (CannotRun, ValueError, OSError) as refused:
        print(f"r3edge backtest: {_said(refused)}", file=sys.stderr)  # noqa: T201  # a command line prints
        return 2
    stats = stats_of(result, settings, market.timeframe)
    if options.json:
        told = {
            "stats": stats,
            "trades": [_row(trade) for trade in result.trades],
            "equity": list(zip(result.open_ms.tolist(), result.equity.tolist(), strict=True)),
        }
        json.dump(told, out)
        out.write("\n")
    else:
        out.writelines(f"{name.replace('_', ' '):16} {_text(value)}\n" for name, value in stats.items())
    return 0


def stats_of(result: Result, settings: Settings, timeframe: Timeframe) -> dict[str, Any]:
    """What it came to; ratios are None where there is too little to tell."""
    ended = [trade for trade in result.trades if not trade.is_open]
    won = sum(trade.pnl for trade in ended if trade.pnl > 0)
    lost = sum(trade.pnl for trade in ended if trade.pnl <= 0)
    returns = returns_of(np.concatenate(([float(settings.cash)], result.equity)))
    periods = YEAR_SECONDS / timeframe.seconds
    return {
        "trades": len(ended),
        "still_open": len(result.trades) - len(ended),
        "refused": len(result.refused),
        "win_rate": sum(trade.pnl > 0 for trade in ended) / len(ended) if ended else None,
        "profit_factor": -won / lost if lost else None,
        "fees": sum(trade.fees for trade in result.trades),
        "final_equity": float(result.equity[-1]) if len(result.equity) else float(settings.cash),
        "total_return": _known(total_return(returns)),
        "cagr": _known(cagr(returns, periods)),
        "sharpe": _known(sharpe(returns, periods)) if len(returns) > 1 else None,
        "max_drawdown": _known(max_drawdown(returns)) if len(returns) else None,
    }


def candles_from(path: Path, since: int | None = None, until: int | None = None) -> Candles:
    """The candles of a CSV file, gzipped or not: ``ts`` in epoch milliseconds or ISO, columns in any order, others ignored.
    Raises CannotRun for a file that has not what is wanted, saying where."""
    with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as lines:
        rows = csv.reader(lines)
        header = [name.strip().lower() for name in next(rows, [])]
        missing = [name for name in COLUMNS if name not in header]
        if missing:
            raise CannotRun(
                f"wanted the columns {', '.join(COLUMNS)} in {path.name}, was {', '.join(header) or 'none'}"
            )
        found = list(_numbers(rows, [header.index(name) for name in COLUMNS], path.name))
    kept = [row for row in found if (since is None or row[0] >= since) and (until is None or row[0] <= until)]
    held = Candles.from_rows(kept)
    if len(held) > 1 and int(np.diff(held.open_ms).min()) <= 0:
        first = int(np.argmax(np.diff(held.open_ms) <= 0)) + 1
        raise CannotRun(f"wanted candles from the oldest to the newest, each once, was otherwise at candle {first + 1}")
    return held


def _numbers(rows: Iterator[list[str]], places: list[int], name: str) -> Iterator[tuple[float, ...]]:
    ts, *prices = places
    for number, row in enumerate(rows, 2):
        if not row:
            continue
        try:
            numbers = tuple(float(row[place]) for place in prices)
            yield (int(row[ts]) if row[ts].isdigit() else _time_ms(row[ts]), *numbers)
        except (ValueError, IndexError, argparse.ArgumentTypeError):
            raise CannotRun(f"wanted a time and five numbers in line {number} of {name}, was {','.join(row)}") from None
        if not all(map(np.isfinite, numbers)):
            raise CannotRun(f"wanted finite numbers in line {number} of {name}, was {','.join(row)}")


def _market(options: argparse.Namespace) -> MarketInput:
    values: dict[str, Any] = {}
    for given in options.set:
        name, is_set, value = given.partition("=")
        if not is_set:
            raise CannotRun(f"wanted NAME=VALUE after --set, was {given}")
        values[name] = value
    for name, percent in (("stop_loss_percent", options.stop_loss), ("take_profit_percent", options.take_profit)):
        if percent is not None:
            values[name] = percent or None
    candles = candles_from(_path(options.candles), options.since, options.until)
    timeframe = Timeframe(options.timeframe)
    strategy = _strategy(options.strategy).from_values(values)
    # Beside its own warm-up that of the longer candles, in its own.
    beside = max((one.warm_up * one.timeframe.seconds // timeframe.seconds for one in strategy.informative), default=0)
    symbol = Path(options.candles).name.split(".")[0].removesuffix(f"-{timeframe.value}")
    return MarketInput(
        symbol, candles, timeframe, strategy=strategy, facts=_facts(strategy, candles, timeframe),
        warm_up=max(strategy.warm_up, beside), can_short=options.short,
    )  # fmt: skip


def _strategy(name: str) -> type[Strategy[Any]]:
    """A strategy of the library, or the one of a file."""
    if name in LIBRARY:
        return LIBRARY[name]
    if not name.endswith(".py"):
        raise CannotRun(f"wanted a file, or a strategy of {', '.join(sorted(LIBRARY))}, was {name}")
    found = Registry()
    names = found.load_file(_path(name).resolve())
    if len(names) != 1 or found.refused:
        raise CannotRun("; ".join(map(str, found.refused)) or f"wanted one strategy in {name}, was {', '.join(names)}")
    for note in found[names[0]].notes:
        print(f"r3edge backtest: {note}", file=sys.stderr)  # noqa: T201  # a command line prints
    return found[names[0]]


def _facts(strategy: Strategy[Any], candles: Candles, timeframe: Timeframe) -> Facts:
    """What the strategy looks at beside the file: longer candles of the same market are made of the file's own. Raises
    CannotRun for what one file cannot tell."""
    if strategy.tapes:
        raise CannotRun(f"wanted {', '.join(sorted(strategy.tapes))} beside candles, was a file of candles only")
    held = {}
    for one in strategy.informative:
        if one.symbol:
            raise CannotRun(f"wanted candles of {one} beside the file's, was one file")
        is_own = one.timeframe is timeframe
        held[one] = candles if is_own else resample(candles, timeframe, one.timeframe, Calendar.ALWAYS)
    return Facts(held)


def _settings(options: argparse.Namespace) -> Settings:
    fee = options.fee / 100
    return Settings(
        cash=options.cash, amount=options.stake, maker_fee=fee, taker_fee=fee, slippage=options.slippage / 100
    )  # fmt: skip


def _row(trade: Trade) -> dict[str, Any]:
    return {
        "side": trade.side.value, "entry_at": trade.entry_at.isoformat(), "entry_price": trade.entry_price,
        "exit_at": trade.exit_at.isoformat(), "exit_price": trade.exit_price, "quantity": trade.quantity,
        "pnl": trade.pnl, "return": trade.gain, "exit_reason": trade.exit_reason,
    }  # fmt: skip


def _write_trades(path: Path, result: Result) -> None:
    with path.open("w", newline="") as lines:
        rows = csv.DictWriter(lines, TRADE_FIELDS)
        rows.writeheader()
        rows.writerows(_row(trade) for trade in result.trades)


def _path(name: str) -> Path:
    """A file as its caller names it: from where that one stands."""
    return Path(os.environ.get("R3EDGE_CALLER_DIR") or ".") / name


def _number(text: str) -> Decimal:
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or number < 0:
        raise argparse.ArgumentTypeError(f"wanted a number from 0 on, was '{text}'")
    return number


def _percent(text: str) -> Decimal:
    return _number(text.removesuffix("%"))


def _time_ms(text: str) -> int:
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"wanted a time such as 2026-01-31T12:00, was '{text}'") from None
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)


def _said(refused: Exception) -> str:
    if isinstance(refused, ValidationError):
        return "; ".join(f"{'.'.join(map(str, one['loc'])) or 'parameters'}: {one['msg']}" for one in refused.errors())
    return str(refused)


def _known(figure: float) -> float | None:
    return figure if np.isfinite(figure) else None


def _text(value: Any) -> str:
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
