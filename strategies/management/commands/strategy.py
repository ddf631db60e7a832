"""``manage strategy new|list|check``: one's own strategies at the command line.

Exit code 0 when all is well, 1 with where and why on standard error otherwise, 2 for words it does not understand.
"""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import numpy as np
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from domain.candles import Candles, Timeframe
from domain.strategy import Strategy
from marketdata.columns import Unreadable
from marketdata.layouts import parts
from strategies.library import LIBRARY
from strategies.registry import Registry, is_name
from strategies.soundness import unsound
from strategies.template import template_of


class Command(BaseCommand):
    help = "Begin a strategy of your own, list the strategies there are, or check them."
    # What is refused is what this command is asked about.
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        new = verbs.add_parser("new", help="write a commented file that passes the checks, to begin with")
        new.add_argument("name", metavar="NAME", help="small letters, digits and single underscores")
        new.add_argument("--folder", type=Path, help="where (default: what R3EDGE_STRATEGIES names)")
        verbs.add_parser("list", help="name, title, where from, and warm-up with defaults; and what was refused")
        check = verbs.add_parser("check", help="run all checks; without a name, on every strategy there is")
        check.add_argument("what", nargs="?", metavar="NAME|FILE", help="a strategy, or a Python file with some")
        check.add_argument("--candles", type=Path, metavar="FILE", help="check on these candles too")

    def handle(self, *args: Any, verb: str, **options: Any) -> None:
        if verb == "new":
            self._new(options["name"], options["folder"])
        elif verb == "list":
            self._list()
        else:
            self._check(options["what"], options["candles"])

    def _new(self, name: str, folder: Path | None) -> None:
        folder = folder or settings.STRATEGIES
        if folder is None:
            raise CommandError("wanted a folder in R3EDGE_STRATEGIES or --folder, was none")
        if not is_name(name):
            raise CommandError(f"wanted a name of small letters, digits and single underscores, was {name!r:.80}")
        if name in LIBRARY:
            raise CommandError(
                f"wanted a name that no other strategy has, was {name!r}, which {LIBRARY.origin(name)} has"
            )
        path = folder / f"{name}.py"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(template_of(name))
        except OSError as error:
            raise CommandError(f"wanted to write a new file, was {error}") from error
        self.stdout.write(f"{path}\nCheck it with: ./r3edge manage strategy check {path}")

    def _list(self) -> None:
        for name, kind in sorted(LIBRARY.items()):
            self.stdout.write(
                f"{name:<22} {kind.title:<34} {LIBRARY.origin(name)}, {kind.from_values({}).warm_up} candles"
            )
        for one in LIBRARY.refused:
            self.stdout.write(f"refused: {one}")

    def _check(self, what: str | None, path: Path | None) -> None:
        chosen, problems = _chosen(what)
        candles = None if path is None else _read(path)
        for name, kind in sorted(chosen.items()):
            found = unsound(kind) or ("" if candles is None else _on_candles(kind, candles, str(path)))
            if found:
                problems.append(f"{name} ({LIBRARY.origin(name)}): {found}")
            else:
                self.stdout.write(f"{name}: sound")
                self.stdout.writelines(f"  {note}" for note in kind.notes)
                if words := kind.from_values({}).callbacks:
                    self.stdout.write(f"  for backtests only, for it has a word in: {', '.join(words)}")
        if problems:
            raise CommandError("\n".join(problems))


def _chosen(what: str | None) -> tuple[dict[str, type[Strategy[Any]]], list[str]]:
    """The strategies to check, and what was refused already."""
    if what is None:
        return dict(LIBRARY), [str(one) for one in LIBRARY.refused]
    if what in LIBRARY:
        return {what: LIBRARY[what]}, []
    path = Path(what).resolve()
    if not path.is_file():
        raise CommandError(f"{LIBRARY.wanted(what)}, and a file neither")
    # Beside all the others, but for what this file gave before.
    trial = Registry()
    for name, kind in LIBRARY.items():
        if LIBRARY.origin(name) != str(path):
            trial[name], trial.origins[name] = kind, LIBRARY.origin(name)
    names = trial.load_file(path)
    return {name: trial[name] for name in names}, [str(one) for one in trial.refused]


def _read(path: Path) -> Candles:
    try:
        read = [part.candles for part in parts(path)]
    except (Unreadable, OSError) as error:
        raise CommandError(str(error)) from error
    if not read:
        raise CommandError(f"wanted candles in {path}, was none")
    columns = ("open_ms", "open", "high", "low", "close", "volume")
    return Candles(*(np.concatenate([getattr(one, column) for one in read]) for column in columns))


def _on_candles(kind: type[Strategy[Any]], candles: Candles, name: str) -> str:
    warm_up = kind.from_values({}).warm_up
    if len(candles) <= warm_up + 1:
        return f"wanted more candles in {name} than its warm-up of {warm_up}, was {len(candles)}"
    step_s = int(np.median(np.diff(candles.open_ms))) // 1000
    frame = next((one for one in Timeframe if one.seconds == step_s), None)
    if frame is None:
        return f"wanted candles of {', '.join(Timeframe)}, was one every {step_s} s in {name}"
    found = unsound(kind, candles, frame)
    return f"on {name}: {found}" if found else ""
