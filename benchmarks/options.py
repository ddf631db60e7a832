"""What `./r3edge bench` accepts: one clear line and exit 2 for anything else, before anything is started."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from benchmarks.peers import PEERS
from embedded.cli import Parser

# What needs neither a database nor a broker.
ALONE = frozenset({"backtest"})
MOST_SESSIONS = 1_000_000


def parser() -> argparse.ArgumentParser:
    """The parser of `bench`, one sub-command for each benchmark."""
    top = Parser(prog="r3edge bench", description="Run one benchmark on services started for it.", allow_abbrev=False)
    names = top.add_subparsers(dest="name", required=True, metavar="NAME", parser_class=Parser)
    pipeline = names.add_parser(
        "pipeline",
        help="candle closed to order accepted, hop by hop",
        description="Candle closed to order accepted by the simulated exchange: one chain at a time, and many at once.",
        allow_abbrev=False,
    )
    pipeline.add_argument(
        "--chains", type=_whole(1, 10_000), default=150, metavar="N", help="chains one after the other (default 150)"
    )
    pipeline.add_argument(
        "--configs", type=_whole(1, 10_000), default=300, metavar="N",
        help="configurations that answer one candle at once, for chains per second (default 300)",
    )  # fmt: skip
    pipeline.add_argument(
        "--sessions", type=_whole(1, 10_000), default=1000, metavar="N",
        help="sessions, each on its own account, that share one configuration and candle (default 1000)",
    )  # fmt: skip
    pipeline.add_argument(
        "--accounts", type=_whole(1, 1000), default=10, metavar="N", help="accounts of the other phases (default 10)"
    )
    ticks = names.add_parser(
        "ticks",
        help="sessions valued by the tick",
        description="Sessions with open positions, all due for their tick at once, until the last is valued.",
        allow_abbrev=False,
    )
    ticks.add_argument(
        "--sessions", type=_counts, default=(1_000, 10_000, 100_000), metavar="N,N,…",
        help="how many, one run each (default 1000,10000,100000)",
    )  # fmt: skip
    ticks.add_argument(
        "--rounds", type=_whole(1, 100), default=3, metavar="N", help="rounds of each; the median counts (default 3)"
    )
    exits = names.add_parser(
        "exits",
        help="exit wanted to exit accepted, idle and under load",
        description="How soon a position is left: idle, under a saturating load of everything else, with and without a lane.",
        allow_abbrev=False,
    )
    exits.add_argument(
        "--exits", type=_whole(1, 1000), default=50, metavar="N", help="exits of each kind in each phase (default 50)"
    )
    exits.add_argument(
        "--sessions", type=_whole(1, 10_000), default=2000, metavar="N",
        help="sessions that all enter at once, for the load (default 2000)",
    )  # fmt: skip
    exits.add_argument("--only-lane", action="store_true", help="leave out the run without the lane")
    candles = names.add_parser(
        "candles",
        help="candles imported, stored live and read back",
        description="History imported by COPY, one candle of many feeds stored at once, windows and long spans read.",
        allow_abbrev=False,
    )
    candles.add_argument(
        "--rows",
        type=_whole(1_000, 2_000_000),
        default=1_000_000,
        metavar="N",
        help="rows of history (default 1000000)",
    )
    candles.add_argument(
        "--months", type=_whole(1, 600), default=60, metavar="N", help="months they span evenly (default 60)"
    )
    candles.add_argument(
        "--feeds", type=_counts, default=(1, 100, 500, 5_000), metavar="N,N,…",
        help="feeds that get one candle each (default 1,100,500,5000)",
    )  # fmt: skip
    closes = names.add_parser(
        "closes",
        help="candle closed to candle stored and signal evaluated, thousands of feeds at once",
        description="Feeds whose candles close in the same instant, until each is stored and its signal evaluated.",
        allow_abbrev=False,
    )
    closes.add_argument(
        "--feeds", type=_whole(1, 50_000), default=5000, metavar="N", help="how many close at once (default 5000)"
    )
    closes.add_argument(
        "--collectors", type=_whole(0, 16), default=0, metavar="N",
        help="collection workers beside the platform's own (default 0)",
    )  # fmt: skip
    backtest = names.add_parser(
        "backtest",
        help="backtests and sweeps beside other programs on the same job",
        description="The same backtest in ours and in other programs, which are installed under var/bench at first.",
        allow_abbrev=False,
    )
    backtest.add_argument("--no-peers", action="store_true", help="only ours: nothing is installed")
    backtest.add_argument(
        "--peer", action="append", choices=sorted(PEERS), help="only this one beside ours; may be repeated"
    )
    backtest.add_argument(
        "--large", type=_whole(10_000, 5_000_000), default=1_000_000, metavar="N",
        help="candles of the large run (default 1000000)",
    )  # fmt: skip
    for benchmark in (pipeline, ticks, exits, candles, closes, backtest):
        benchmark.add_argument("--json", type=_new_file, metavar="FILE", help="also write the figures there")
    return top


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"wanted a whole number from {low} to {high}, was '{text}'")
        return int(text)

    return parse


def _counts(text: str) -> tuple[int, ...]:
    count = _whole(1, MOST_SESSIONS)
    return tuple(count(part) for part in text.split(","))


def _new_file(text: str) -> Path:
    path = Path(os.environ.get("R3EDGE_CALLER_DIR") or ".") / text
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"wanted a file in a directory that exists, was '{text}'")
    return path
