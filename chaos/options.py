"""What `./r3edge chaos` accepts: one clear line and exit 2 for anything else, before anything is started."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from embedded.cli import Parser

DEFAULT_SEED = 7
DEFAULT_MINUTES = 3.0
STORM, ALL = "storm", "all"


def parser() -> argparse.ArgumentParser:
    """The parser of `chaos`."""
    top = Parser(
        prog="r3edge chaos",
        description="Break the platform on purpose, on services of its own, and check that nothing was lost and nothing "
        "was sent twice. Exits 1 when a promise did not hold.",
        epilog="Without --scenario every scenario is played once, and then the storm rages until the minutes are over.",
        allow_abbrev=False,
    )
    top.add_argument(
        "--seed", type=_whole(0, 2**31 - 1), default=DEFAULT_SEED, metavar="N", help="of the storm (default 7)"
    )
    top.add_argument(
        "--minutes", type=_minutes, default=DEFAULT_MINUTES, metavar="M", help="how long in all (default 3)"
    )
    top.add_argument(
        "--scenario", action="append", default=[], metavar="NAME",
        help="only this one; may be given again; 'all' and 'storm' are names too (see --list)",
    )  # fmt: skip
    top.add_argument("--short", action="store_true", help="leave out the slow scenarios, and let the storm rage once")
    top.add_argument("--list", action="store_true", help="print the scenarios and the rows they cover, and end")
    top.add_argument("--json", type=_new_file, metavar="FILE", help="also write the table there")
    top.add_argument(
        "--pace", type=_pace, default=0.2, metavar="F",
        help="how much of its patience the platform has: 1 as in real use, less for quicker recoveries (default 0.2)",
    )  # fmt: skip
    top.add_argument("--mutant", default="", metavar="NAME", help="remove one guard first; the run must then fail")
    return top


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"wanted a whole number from {low} to {high}, was '{text}'")
        return int(text)

    return parse


def _number(text: str, low: float, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"wanted a number from {low:g} to {high:g}, was '{text}'")
    return value


def _minutes(text: str) -> float:
    return _number(text, 0, 24 * 60)


def _pace(text: str) -> float:
    return _number(text, 0.05, 1)


def _new_file(text: str) -> Path:
    path = Path(os.environ.get("R3EDGE_CALLER_DIR") or ".") / text
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"wanted a file in a directory that exists, was '{text}'")
    return path
