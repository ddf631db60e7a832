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
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from math import isfinite
from pathlib import Path
from typing import Any, TextIO, cast, get_args

import numpy as np
from pydantic import ValidationError

from backtesting.engine import backtest
from backtesting.engine.inputs import MarketInput, Result, Settings, at
from backtesting.figures import TRADE_FIELDS, figures_of, trade_row
from backtesting.report import report_html
from backtesting.wording import UNKNOWN, figure_text, figure_title, refusal_text, table_text
from domain.calendars import Calendar
from domain.candles import Candles, Timeframe
from domain.informative import Facts, Informative
from domain.resampling import resample
from domain.strategy import Strategy
from strategies.library import LIBRARY
from strategies.registry import Registry

HOUR_MS = 3_600_000
# The year 5138; what is later was never meant in milliseconds.
LATEST_MS = 10**14
# Some programs begin a file with a mark of its encoding.
ENCODING = "utf-8-sig"
COLUMNS = ("ts", "open", "high", "low", "close", "volume")

# What is printed of the figures, and in which order.
PAGE = {
    "Account": (
        "from_at", "until_at", "candles", "start_equity", "final_equity", "profit", "total_return", "cagr",
        "buy_and_hold_return", "excess_return",
    ),
    "Risk": (
        "max_drawdown", "max_drawdown_days", "longest_drawdown_days", "volatility", "sharpe", "sortino", "calmar",
        "value_at_risk", "conditional_value_at_risk", "alpha", "beta", "exposure", "capital_used",
    ),
    "Trades": (
        "trades", "still_open", "refused", "win_rate", "profit_factor", "payoff_ratio", "expectancy",
        "average_return", "best_return", "worst_return", "sqn", "most_wins_in_a_row", "most_losses_in_a_row",
        "average_hours",
    ),
    "Costs": ("fees", "slippage", "funding", "profit_without_costs", "turnover"),
}  # fmt: skip
TABLES = {"Reason": "per_reason", "Tag": "per_tag", "Side": "per_side", "Month": "per_month"}
GROUP_COLUMNS = ("return", "trades", "win_rate", "pnl", "average_return", "average_hours")


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
    top.add_argument("--equity", metavar="FILE.csv", help="write the equity at each close there")
    top.add_argument("--html", metavar="FILE", help="write a page with charts, figures and trades there")
    top.add_argument("--json", action="store_true", help="one JSON object on stdout")
    _add_search(top)
    return top


def _add_search(top: argparse.ArgumentParser) -> None:
    """What ``backtesting/research/command.py`` is asked for."""
    group = top.add_argument_group("search for parameters, and what luck might have done")
    group.add_argument(
        "--optimise", action="append", default=[], metavar="NAME=LOW:HIGH[:STEP]|NAME=A,B,C",
        help="search this parameter; a name alone: between its own bounds",
    )  # fmt: skip
    group.add_argument("--method", choices=["grid", "random", "tpe"], default="grid")
    group.add_argument("--trials", metavar="N", type=int, help="at most (default: all of a grid, else 100)")
    group.add_argument("--objective", metavar="NAME", default="sharpe", help="what is to be high (default sharpe)")
    group.add_argument("--min-trades", metavar="N", type=int, default=1, help="with fewer a trial is worth nothing")
    group.add_argument("--seed", metavar="N", type=_seed, default=0, help="of all that is drawn (default 0)")
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
    try:
        code = _main(parser().parse_args(arguments), out or sys.stdout)
        (out or sys.stdout).flush()
    except BrokenPipeError:  # whoever reads it has seen enough, as `| head` has
        if out is None:  # or the interpreter would complain when it flushes what is left
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _main(options: argparse.Namespace, out: TextIO) -> int:
    try:
        kind, settings = _strategy(options.strategy), _settings(options)
        values = _values(options, kind)
        _check_options(options)
        if options.optimise or options.walk_forward or options.monte_carlo is not None:
            # Here, not at the top: one backtest starts quicker without.
            research = importlib.import_module("backtesting.research.command")
            return int(research.main(options, kind, values, functools.partial(_market, options), settings, out))
        strategy = kind.from_values(values)
        market = replace(_market(options, [strategy]), strategy=strategy)
        _check_warm_up(market, strategy)
        result = backtest([market], settings)
        if options.trades:
            _write_trades(_path(options.trades), result)
        if options.equity:
            _write_equity(_path(options.equity), result)
        figures = figures_of(result, settings, [market])
        if options.html:
            title = f"{kind.title} on {market.symbol}"
            _path(options.html).write_text(report_html(title, [market], result, settings, figures), encoding="utf-8")
    except BrokenPipeError:
        raise
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
        out.write(text_of(figures))
        for warning in figures["warnings"]:
            print(f"{warning['code']}: {warning['text']}", file=sys.stderr)  # noqa: T201
    return 0


def text_of(figures: dict[str, Any]) -> str:
    """Figures as a page of text: what is asked first, first."""
    stats, pages = figures["stats"], []
    for title, names in PAGE.items():
        lines = [f"  {figure_title(name):24} {figure_text(name, stats[name]):>16}" for name in names]
        pages.append("\n".join([title, *lines]))
    pages += [_table(title, figures[name]) for title, name in TABLES.items() if figures[name]]
    return "\n\n".join(pages) + "\n"


def _table(title: str, groups: list[dict[str, Any]]) -> str:
    names = [name for name in GROUP_COLUMNS if name in groups[0]]
    rows = [[group["name"] or UNKNOWN, *(figure_text(name, group[name]) for name in names)] for group in groups]
    return table_text([title, *map(figure_title, names)], rows)


def candles_from(path: Path, since: int | None = None, until: int | None = None) -> Candles:
    """The candles of a CSV file, gzipped or not: ``ts`` in epoch milliseconds or ISO, columns in any order, others ignored;
    from ``since`` on and not after ``until``, both in epoch milliseconds. Raises CannotRun for a file that has not what is
    wanted, saying where."""
    try:
        with _opened(path) as lines:
            rows = csv.reader(lines)
            header = [name.strip().lower() for name in next(rows, [])]
            missing = [name for name in COLUMNS if name not in header]
            if missing:
                raise CannotRun(
                    f"wanted the columns {', '.join(COLUMNS)} in {path.name}, was {', '.join(header) or 'none'}"
                )
            found = list(_numbers(rows, [header.index(name) for name in COLUMNS], path.name))
    except (UnicodeDecodeError, csv.Error, gzip.BadGzipFile, EOFError, zlib.error) as broken:
        found_out = f"{path.name}: {broken}"
        raise CannotRun(f"wanted CSV, whole and in UTF-8, gzipped where it is named .gz, was {found_out}") from None
    kept = [row for row in found if (since is None or row[0] >= since) and (until is None or row[0] <= until)]
    held = Candles.from_rows(kept)
    if len(held) > 1 and int(np.diff(held.open_ms).min()) <= 0:
        first = int(np.argmax(np.diff(held.open_ms) <= 0)) + 1
        raise CannotRun(f"wanted candles from the oldest to the newest, each once, was otherwise at candle {first + 1}")
    lowest, highest = np.minimum(held.open, held.close), np.maximum(held.open, held.close)
    is_wrong = (held.low <= 0) | (held.low > lowest) | (held.high < highest) | (held.volume < 0)
    if is_wrong.any():
        one = int(np.argmax(is_wrong))
        prices = ", ".join(f"{name} {getattr(held, name)[one]:.10g}" for name in COLUMNS[1:])
        raise CannotRun(
            f"wanted prices above 0 from low to high and a volume from 0 on, was {prices} in the candle of "
            f"{at(int(held.open_ms[one])):%Y-%m-%d %H:%M}"
        )
    return held


def _opened(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return cast(TextIO, gzip.open(path, "rt", encoding=ENCODING, newline=""))
    return path.open(encoding=ENCODING, newline="")


def _numbers(rows: Iterator[list[str]], places: list[int], name: str) -> Iterator[tuple[float, ...]]:
    ts, *prices = places
    for number, row in enumerate(rows, 2):
        if not row:
            continue
        try:
            numbers = tuple(float(row[place]) for place in prices)
            ms = int(row[ts]) if row[ts].isdigit() else _time_ms(row[ts])
        except (ValueError, IndexError, argparse.ArgumentTypeError):
            raise CannotRun(f"wanted a time and five numbers in line {number} of {name}, was {','.join(row)}") from None
        if not (abs(ms) < LATEST_MS and all(map(isfinite, numbers))):
            raise CannotRun(f"wanted finite numbers in line {number} of {name}, was {','.join(row)}")
        yield (ms, *numbers)


def _values(options: argparse.Namespace, kind: type[Strategy[Any]]) -> dict[str, Any]:
    """The parameters that were set; ``none`` is no value where the parameter may have none."""
    values: dict[str, Any] = {}
    fields = kind.parameters_type.model_fields
    optional = {name for name, info in fields.items() if type(None) in get_args(info.annotation)}
    for given in options.set:
        name, is_set, value = given.partition("=")
        if not is_set:
            raise CannotRun(f"wanted NAME=VALUE after --set, was {given}")
        values[name] = None if name in optional and value.lower() == "none" else value
    for name, percent in (("stop_loss_percent", options.stop_loss), ("take_profit_percent", options.take_profit)):
        if percent is not None:
            values[name] = percent or None
    return values


def _check_options(options: argparse.Namespace) -> None:
    """Raise CannotRun for an option that means nothing without another."""
    for name, needed in (("trials", "optimise"), ("walk_forward", "optimise"), ("anchored", "walk_forward")):
        if getattr(options, name) not in (None, False) and not getattr(options, needed):
            wanted, found = (f"--{one.replace('_', '-')}" for one in (needed, name))
            raise CannotRun(f"wanted {wanted} with {found}, was none")


def _market(options: argparse.Namespace, strategies: Sequence[Strategy[Any]]) -> MarketInput:
    """The market of the file, with all that any of ``strategies`` looks at. Raises CannotRun where there is no candle, or
    where they are not of the timeframe."""
    path, timeframe = _path(options.candles), Timeframe(options.timeframe)
    candles = candles_from(path, options.since, options.until)
    if not len(candles):
        ends = (("from", options.since), ("to", options.until))
        span = "".join(f" {word} {at(ms):%Y-%m-%d %H:%M}" for word, ms in ends if ms is not None)
        raise CannotRun(f"wanted candles in {path.name}{span}, was none")
    _check_spacing(candles, timeframe, path.name)
    symbol = path.name.split(".")[0].removesuffix(f"-{timeframe.value}")
    held: dict[Informative, Candles] = {}
    for strategy in strategies:
        held |= _beside(strategy, candles, timeframe)
    return MarketInput(symbol, candles, timeframe, facts=Facts(held), can_short=options.short)


def _check_spacing(candles: Candles, timeframe: Timeframe, name: str) -> None:
    """Raise CannotRun where the nearest candles are not as far apart as the timeframe says."""
    if len(candles) < 2:
        return
    nearest, wanted = int(np.diff(candles.open_ms).min()), timeframe.seconds * 1000
    # A day by the clock of a place has an hour less once a year.
    least = wanted - (HOUR_MS if timeframe is Timeframe.D1 else 0)
    if not least <= nearest <= wanted:
        found = f"{timedelta(milliseconds=nearest)} between the nearest"
        hint = ", as if ts were in seconds" if nearest == timeframe.seconds else ""
        raise CannotRun(f"wanted candles of {timeframe.value} in {name}, was {found}{hint}")


def _check_warm_up(market: MarketInput, strategy: Strategy[Any]) -> None:
    """Raise CannotRun where there is no candle that may be traded in."""
    if market.first < len(market.candles):
        return
    beside = "".join(f" and {one.warm_up} of {one}" for one in strategy.informative)
    found = "".join(f" and {len(market.facts.candles[one])}" for one in strategy.informative)
    raise CannotRun(
        f"wanted more candles than {strategy.name} needs to warm up, which are {strategy.warm_up}{beside}, "
        f"was {len(market.candles)}{found}"
    )


def _beside(strategy: Strategy[Any], candles: Candles, timeframe: Timeframe) -> dict[Informative, Candles]:
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
    return held


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


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"wanted a whole number from 0 on, was '{text}'")
    return int(text)


def _percent(text: str) -> Decimal:
    return _number(text.removesuffix("%"))


def _time_ms(text: str) -> int:
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"wanted a time such as 2026-01-31T12:00, was '{text}'") from None
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)


def _said(refused: Exception) -> str:
    return refusal_text(refused) if isinstance(refused, ValidationError) else str(refused)
