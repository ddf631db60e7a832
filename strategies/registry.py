"""The strategies there are, by name, and where each came from: the library, a file of one's own, or an installed package.

A file or package that does not import, or whose strategy fails a check, is refused with file, line and reason, and all others
are there nevertheless. Loading runs what is in the files: their folder is as trusted as the program itself. No Django.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from domain.strategy import Parameters, Strategy
from strategies.freqtrade.adapter import adapted
from strategies.freqtrade.reading import is_for_freqtrade, read
from strategies.freqtrade.shims import in_place
from strategies.soundness import unsound, where

# What is imported from the folder is called so, and cannot be taken for anything else that is installed.
PACKAGE = "r3edge_strategies"
ENTRY_POINTS = "r3edge.strategies"
LONGEST_NAME = 60
LIBRARY_ORIGIN = "library"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something that was to be a strategy and is none: ``where`` is FILE:LINE, or the package's name for it."""

    where: str
    why: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.why}"


def is_name(name: Any) -> bool:
    """Whether a strategy may be called so: forms and addresses contain it."""
    return isinstance(name, str) and len(name) <= LONGEST_NAME and bool(re.fullmatch(r"[a-z](_?[a-z0-9])*", name))


class Registry(dict[str, type[Strategy[Any]]]):
    """Strategies by name; ``origins`` tells where each is from, ``refused`` what was not let in."""

    def __init__(self, library: Iterable[type[Strategy[Any]]] = ()) -> None:
        super().__init__({strategy.name: strategy for strategy in library})
        self.origins = dict.fromkeys(self, LIBRARY_ORIGIN)
        self.refused: list[Refusal] = []

    def origin(self, name: str) -> str:
        """Where the strategy ``name`` came from."""
        return self.origins.get(name, LIBRARY_ORIGIN)

    def wanted(self, name: str) -> str:
        """What to say where there is no strategy ``name``: why it was refused, where it was."""
        reasons = [f"; refused: {one}" for one in self.refused if one.name == name]
        return f"wanted a strategy that there is, was {name!r:.60}{''.join(reasons[:1])}"

    def load_folder(self, folder: Path) -> None:
        """Add the strategies of every .py file in ``folder``; one whose name begins with _ is for the others to import
        (``from r3edge_strategies._shared import …``)."""
        if not folder.is_dir():
            self.refused.append(Refusal(str(folder), "wanted a folder of strategies, was none"))
            return
        package = ModuleType(PACKAGE)
        package.__path__ = [str(folder)]
        sys.modules[PACKAGE] = package
        for path in sorted(folder.glob("*.py")):
            if not path.name.startswith("_"):
                self.load_file(path)

    def load_file(self, path: Path) -> list[str]:
        """Add the strategies of one file, our own or written for freqtrade; the names of those let in."""
        try:
            source = path.read_text(encoding="utf-8")
            if is_for_freqtrade(source):
                return self._load_freqtrade(path, source)
            module = _imported(path)
        except (Exception, SystemExit) as error:
            self.refused.append(Refusal(_place(error, path), f"{type(error).__name__}: {error}", path.stem))
            return []
        kinds = [
            one
            for one in vars(module).values()
            if isinstance(one, type)
            and issubclass(one, Strategy)
            and one.__module__ == module.__name__
            and not inspect.isabstract(one)
        ]
        if not kinds:
            self.refused.append(Refusal(str(path), "wanted a class derived from Strategy, was none", path.stem))
        return [kind.name for kind in kinds if self._admit(kind, str(path), _line(kind, path))]

    def _load_freqtrade(self, path: Path, source: str) -> list[str]:
        found = read(source)
        for line, why in found.refused:
            self.refused.append(Refusal(f"{path}:{line}", why, path.stem))
        if found.refused:
            return []
        with in_place():
            module = _imported(path)
        kinds = adapted(module, found, path)
        if not kinds:
            self.refused.append(Refusal(str(path), "wanted a class derived from IStrategy, was none", path.stem))
        lines = {kind: found.classes.get(kind.__name__) for kind in kinds}
        places = {kind: str(path) if line is None else f"{path}:{line}" for kind, line in lines.items()}
        return [kind.name for kind in kinds if self._admit(kind, str(path), places[kind])]

    def load_entry_points(self) -> None:
        """Add what installed packages offer as ``r3edge.strategies``."""
        for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda one: one.name):
            package = f"package {point.dist.name}" if point.dist is not None else "a package"
            place = f"{package} ({point.value})"
            try:
                kind = _loaded(point)
            except (Exception, SystemExit) as error:
                self.refused.append(Refusal(place, f"{type(error).__name__}: {error}{where(error)}", point.name))
                continue
            self._admit(kind, package, place)

    def _admit(self, kind: type[Strategy[Any]], origin: str, place: str) -> bool:
        name = str(getattr(kind, "name", ""))
        problem = _unfit(kind) or self._taken(name) or unsound(kind)
        if problem:
            self.refused.append(Refusal(place, problem, name))
            return False
        self[name] = kind
        self.origins[name] = origin
        return True

    def _taken(self, name: str) -> str:
        if name not in self:
            return ""
        return f"wanted a name that no other strategy has, was {name!r}, which {self.origin(name)} has"


class _AsItStands(SourceFileLoader):
    """Without compiled files beside it: these are told apart by second and size, and an edit may change neither."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def _imported(path: Path) -> ModuleType:
    name = f"{PACKAGE}.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path, loader=_AsItStands(name, str(path)))
    if spec is None or spec.loader is None:
        raise ImportError(f"wanted a Python file, was {path.name}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _loaded(point: EntryPoint) -> type[Strategy[Any]]:
    kind = point.load()
    if not (isinstance(kind, type) and issubclass(kind, Strategy)):
        raise TypeError(f"wanted a class derived from Strategy, was {kind!r:.60}")
    return kind


def _unfit(kind: type[Strategy[Any]]) -> str:
    """What a class does not say about itself that it has to."""
    name, title = getattr(kind, "name", None), getattr(kind, "title", None)
    if not is_name(name):
        return f"wanted a name of small letters, digits and single underscores, was {name!r:.80}"
    if not (isinstance(title, str) and title.strip()):
        return f"wanted a title, was {title!r:.80}"
    parameters = getattr(kind, "parameters_type", None)
    if not (isinstance(parameters, type) and issubclass(parameters, Parameters)):
        return f"wanted a parameters_type derived from Parameters, was {parameters!r:.80}"
    return ""


def _place(error: BaseException, path: Path) -> str:
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"{path}:{error.lineno}"
    return where(error, path).removeprefix(" at ") or str(path)


def _line(kind: type[Strategy[Any]], path: Path) -> str:
    try:
        return f"{path}:{inspect.getsourcelines(kind)[1]}"
    except (OSError, TypeError):
        return str(path)
