"""One backtest from the command line, without the platform: candles from a file, a strategy of the library, figures out.

Nothing heavy is imported that one run does not need: no Django, no numba, no pandas.
"""

from __future__ import annotations

import argparse
import csv
import functools
import gzip
import importlib
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
from backtesting.figures import TRADE_FIELDS, figures_of, trade_row
from backtesting.inputs import MarketInput, Result, Settings
from backtesting.report import report_html
from domain.calendars import Calendar
from domain.candles import Candles, Timeframe
from domain.informative import Facts
from domain.resampling import resample
from domain.strategy import Strategy
from strategies.library import LIBRARY

COLUMNS = ("ts", "open", "high", "low", "close", "volume")


class CannotRun(Exception):
    """What was asked for cannot be done; the message says what was wanted."""


def parser() -> argparse.ArgumentParser:
    """What it accepts. A percentage may be written with its sign."""
    top = argparse.ArgumentParser(
        prog="r3edge backtest", description="Backtest one strategy on a file of candles.", allow_abbrev=False
    )
    top.add_argument("--strategy", required=True, choices=sorted(LIBRARY), help="a strategy of the library")
    top.add_argument("--candles", required=True, metavar="FILE", help=f"CSV, or CSV.gz, with {', '.join(COLUMNS)}")
    top.add_argument("--timeframe", required=True, choices=[one.value for one in Timeframe])
    top.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the strategy")
    top.add_argument("--stop-loss", metavar="PERCENT", type=_percent, help="default: the strategy's own")
    top.add_argument("--take-profit", metavar="PERCENT", type=_percent, help="default: the strategy's own")
    top.add_argument("--stake", metavar="PERCENT", type=_percent, default=Decimal(10), help="of equity (default 10%%)")
    top.add_argument("--cash", type=_number, default=Decimal(10_000), help="default 10000")
    top.add_argument("--fee", metavar="PERCENT", type=_percent, default=Decimal("0.1"), help="a side (default 0.1%%)")
    top.add_argument("--slippage", metavar="PERCENT", type=_percent, default=Decimal(0), help="default 0")
    top.add_argument("--from", dest="since", metavar="TIME", type=_time_ms, help="the first candle, ISO 8601")
    top.add_argument("--to", dest="until", metavar="TIME", type=_time_ms, help="the last candle, ISO 8601")
    top.add_argument("--trades", metavar="FILE.csv", help="write the trades there")
    top.add_argument("--equity", metavar="FILE.csv", help="write the equity at each close there")
    top.add_argument("--html", metavar="FILE", help="write a page with charts, figures and trades there")
    top.add_argument("--json", action="store_true", help="one JSON object on stdout")
    _add_search(top)
    return top


def _add_search(top: argparse.ArgumentParser) -> None:
    """What ``backtesting/research_command.py`` is asked for."""
    group = top.add_argument_group("search for parameters, and what luck might have done")
    group.add_argument(
        "--optimise", action="append", default=[], metavar="NAME=LOW:HIGH[:STEP]|NAME=A,B,C",
        help="search this parameter; a name alone: between its own bounds",
    )  # fmt: skip
    group.add_argument("--method", choices=["grid", "random", "tpe"], default="grid")
    group.add_argument("--trials", metavar="N", type=int, help="at most (default: all of a grid, else 100)")
    group.add_argument("--objective", metavar="NAME", default="sharpe", help="what is to be high (default sharpe)")
    group.add_argument("--min-trades", metavar="N", type=int, default=1, help="with fewer a trial is worth nothing")
    group.add_argument("--seed", metavar="N", type=int, default=0, help="of all that is drawn (default 0)")
    group.add_argument(
        "--walk-forward",
        metavar="TRAIN:TEST",
        help="search in each training, judge in its test: candles, or days as 90d",
    )
    group.add_argument("--anchored", action="store_true", help="every training begins with the first candle")
    group.add_argument("--monte-carlo", metavar="N", type=int, help="so many paths of other luck")
    group.add_argument("--ruin", metavar="PERCENT", type=_percent, default=Decimal(50), help="so deep a fall is ruin")


def main(arguments: Sequence[str] | None = None, out: TextIO | None = None) -> int:
    """Run it; the exit code: 2 for what cannot be run, with one line that says why."""
    options = parser().parse_args(arguments)
    out = out or sys.stdout
    try:
        values, settings = _values(options), _settings(options)
        if options.optimise or options.walk_forward or options.monte_carlo is not None:
            # Here, not at the top: one backtest starts quicker without.
            research = importlib.import_module("backtesting.research_command")
            return int(research.main(options, values, functools.partial(_market, options), settings, out))
        market = _market(options, values)
        result = backtest([market], settings)
        if options.trades:
            _write_trades(_path(options.trades), result)
        if options.equity:
            _write_equity(_path(options.equity), result)
        figures = figures_of(result, settings, [market])
        if options.html:
            title = f"{LIBRARY[options.strategy].title} on {market.symbol}"
            _path(options.html).write_text(report_html(title, [market], result, settings, figures), encoding="utf-8")
    except (CannotRun, ValueError, OSError) as refused:
        print(f"r3edge backtest: {_said(refused)}", file=sys.stderr)  # noqa: T201  # a command line prints
        return 2
    if options.json:
        told = {
            "stats": figures.pop("stats"),
            "trades": [trade_row(trade) for trade in result.trades],
            "equity": list(zip(result.open_ms.tolist(), result.equity.tolist(), strict=True)),
            **figures,
        }
        json.dump(told, out)
        out.write("\n")
    else:
        out.writelines(f"{name.replace('_', ' '):16} {_text(value)}\n" for name, value in figures["stats"].items())
    return 0


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


def _values(options: argparse.Namespace) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for given in options.set:
        name, is_set, value = given.partition("=")
        if not is_set:
            raise CannotRun(f"wanted NAME=VALUE after --set, was {given}")
        values[name] = value
    for name, percent in (("stop_loss_percent", options.stop_loss), ("take_profit_percent", options.take_profit)):
        if percent is not None:
            values[name] = percent or None
    return values


def _market(options: argparse.Namespace, values: dict[str, Any]) -> MarketInput:
    candles = candles_from(_path(options.candles), options.since, options.until)
    strategy = LIBRARY[options.strategy].from_values(values)
    timeframe = Timeframe(options.timeframe)
    symbol = Path(options.candles).name.split(".")[0].removesuffix(f"-{timeframe.value}")
    return MarketInput(
        symbol, candles, timeframe, strategy=strategy,
        facts=_facts(strategy, candles, timeframe),
    )  # fmt: skip


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


def _write_trades(path: Path, result: Result) -> None:
    with path.open("w", newline="") as lines:
        rows = csv.DictWriter(lines, TRADE_FIELDS)
        rows.writeheader()
        rows.writerows(trade_row(trade) for trade in result.trades)


def _write_equity(path: Path, result: Result) -> None:
    with path.open("w", newline="") as lines:
        rows = csv.writer(lines)
        rows.writerow(("ts", "equity"))
        rows.writerows(zip(result.open_ms.tolist(), result.equity.tolist(), strict=True))


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


def _text(value: Any) -> str:
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
