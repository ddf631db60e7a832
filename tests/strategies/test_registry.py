"""One's own strategies: loaded from a folder and from packages, each apart from the others, refused with where and why."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from pydantic import ValidationError

from r3edge_site.environment import Environment
from strategies import registry as registry_file
from strategies.checks import check_library
from strategies.library import LIBRARY
from strategies.library.sma_cross import SmaCross
from strategies.management.commands import strategy as command
from strategies.models import parameters_validated
from strategies.registry import PACKAGE, Refusal, Registry
from strategies.template import template_of

OWN = template_of("own")


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """What was imported from a test's folder is gone after it, and the library is as it was."""
    held, origins, refused = dict(LIBRARY), dict(LIBRARY.origins), list(LIBRARY.refused)
    yield
    for name in [one for one in sys.modules if one.split(".")[0] == PACKAGE]:
        del sys.modules[name]
    LIBRARY.clear()
    LIBRARY.update(held)
    LIBRARY.origins, LIBRARY.refused = origins, refused


def told(*arguments: object) -> str:
    """What the command says on standard output."""
    out = io.StringIO()
    call_command("strategy", *map(str, arguments), stdout=out)
    return out.getvalue()


def refused(*arguments: object) -> str:
    with pytest.raises(CommandError) as raised:
        told(*arguments)
    assert raised.value.returncode == 1
    return str(raised.value)


def spoilt(line: str, by: str) -> str:
    assert line in OWN
    return OWN.replace(line, by)


def test_strategies_of_a_folder_are_added_with_where_they_came_from(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(OWN)
    (tmp_path / "b.py").write_text(template_of("other_one"))
    (tmp_path / "notes.txt").write_text("no strategy")
    registry = Registry([SmaCross])

    registry.load_folder(tmp_path)

    assert list(registry) == ["sma_cross", "own", "other_one"]
    assert registry.origin("sma_cross") == "library"
    assert registry.origin("own") == str(tmp_path / "a.py")
    assert registry["other_one"].from_values({"period": 30}).warm_up == 31
    assert registry.refused == []


def test_a_file_clashes_with_nothing_that_is_installed_or_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text(OWN)
    (tmp_path / "json.py").write_text(template_of("other_one"))
    registry = Registry()

    registry.load_folder(tmp_path)

    assert set(registry) == {"own", "other_one"}
    assert sys.modules["numpy"] is np
    assert registry["own"].__module__ == "r3edge_strategies.numpy"


def test_files_share_what_a_file_with_an_underscore_has(tmp_path: Path) -> None:
    (tmp_path / "_shared.py").write_text("PERIOD = 33\n")
    (tmp_path / "own.py").write_text(
        spoilt("default=20", "default=PERIOD").replace(
            "from pydantic", "from r3edge_strategies._shared import PERIOD\nfrom pydantic"
        )
    )
    registry = Registry()

    registry.load_folder(tmp_path)

    assert registry["own"].from_values({}).warm_up == 34


@pytest.mark.parametrize(
    ("text", "place", "why"),
    [
        ("import nothing_of_that_name\n", ":1", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("a = 1\n\ndef broken(:\n", ":3", "SyntaxError: invalid syntax"),
        ("\n\nraise SystemExit(3)\n", ":3", "SystemExit: 3"),
        ("a = 1\n", "", "wanted a class derived from Strategy, was none"),
        (spoilt('name = "own"', 'name = "sma_cross"'), ":23", "wanted a name that no other strategy has, was 'sma_cross'"),
        (spoilt('name = "own"', 'name = "my__own"'), ":23", "wanted a name of small letters, digits and single underscores"),
        (spoilt('    title = "Own"', '    title = ""'), ":23", "wanted a title, was ''"),
        (spoilt("period + 1", "period - 1"), ":23", "remembers more than its warm-up of 19 candles: entries at candle "),
        (
            spoilt("(up, down)", "(up[::-1], down)"), ":23", "sees the future: entries at candle ",
        ),
        (spoilt("(up, down)", "(up[1:], down[1:])"), ":23", "entries: wanted one value for each of 1500 candles, was"),
        (spoilt("default=20, ge", "ge"), ":23", "raises ValidationError: 1 validation error for OwnParameters"),
        (spoilt("(up, down)", "(up, down) / 0"), ":23", "raises TypeError: unsupported operand"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_strategy_is_refused_with_line_and_reason_and_the_others_load(
    tmp_path: Path, text: str, place: str, why: str
) -> None:
    (tmp_path / "bad.py").write_text(text)
    (tmp_path / "good.py").write_text(template_of("good"))
    registry = Registry([SmaCross])

    registry.load_folder(tmp_path)

    [refusal] = registry.refused
    assert refusal.where == f"{tmp_path / 'bad.py'}{place}"
    assert refusal.why.startswith(why)
    assert list(registry) == ["sma_cross", "good"]


def test_what_a_strategy_raises_when_it_is_asked_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(spoilt("(up, down)", "(up, down, sides=1 // 0)"))
    registry = Registry()

    registry.load_folder(tmp_path)

    assert str(registry.refused[0]).endswith(f"integer division or modulo by zero at {tmp_path / 'own.py'}:45")


def test_of_two_files_with_one_name_the_second_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(OWN)
    (tmp_path / "b.py").write_text(OWN)
    registry = Registry()

    registry.load_folder(tmp_path)

    assert registry.origin("own") == str(tmp_path / "a.py")
    assert [one.why for one in registry.refused] == [
        f"wanted a name that no other strategy has, was 'own', which {tmp_path / 'a.py'} has"
    ]


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    registry = Registry()

    registry.load_folder(tmp_path / "gone")

    assert registry.refused == [Refusal(str(tmp_path / "gone"), "wanted a folder of strategies, was none")]


def test_packages_offer_strategies_by_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "somebodys_strategies.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    points = [
        EntryPoint("own", "somebodys_strategies:Own", "r3edge.strategies"),
        EntryPoint("gone", "somebodys_strategies:Gone", "r3edge.strategies"),
        EntryPoint("thing", "somebodys_strategies:indicator_of", "r3edge.strategies"),
    ]
    monkeypatch.setattr(registry_file, "entry_points", lambda group: points if group == "r3edge.strategies" else [])
    registry = Registry()

    registry.load_entry_points()

    assert list(registry) == ["own"]
    assert registry.origin("own") == "a package"
    assert [one.where for one in registry.refused] == [
        "a package (somebodys_strategies:Gone)", "a package (somebodys_strategies:indicator_of)",
    ]  # fmt: skip
    assert registry.refused[1].why.startswith(
        "TypeError: wanted a class derived from Strategy, was <function indicator_of"
    )


def test_a_configuration_of_a_refused_strategy_is_told_why(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("import nothing_of_that_name\n")
    LIBRARY.load_folder(tmp_path)

    with pytest.raises(Exception, match="own.py:1: ModuleNotFoundError") as raised:
        parameters_validated("own", {})

    assert "wanted a strategy that there is, was 'own'; refused: " in str(raised.value)


def test_a_refused_strategy_is_a_warning_and_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("1 / 0\n")
    LIBRARY.load_folder(tmp_path)

    [message] = check_library()

    assert message.id == "strategies.W001"
    assert not message.is_serious()
    assert message.msg == f"a strategy was refused: {tmp_path / 'own.py'}:1: ZeroDivisionError: division by zero"


def test_a_new_strategy_passes_every_check_and_is_not_written_over(tmp_path: Path, settings: Any) -> None:
    settings.STRATEGIES = tmp_path / "mine"

    said = told("new", "night_owl")

    path = tmp_path / "mine" / "night_owl.py"
    assert said.splitlines()[0] == str(path)
    assert told("check", path) == "night_owl: sound\n"
    path.write_text("mine")
    assert "File exists" in refused("new", "night_owl")
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sma_cross", "wanted a name that no other strategy has, was 'sma_cross', which library has"),
        ("../etc", "wanted a name of small letters, digits and single underscores, was '../etc'"),
    ],
)
def test_a_new_strategy_with_a_bad_name_is_refused(tmp_path: Path, name: str, words: str) -> None:
    assert refused("new", name, "--folder", tmp_path) == words
    assert list(tmp_path.iterdir()) == []


def test_a_new_strategy_wants_a_folder(settings: Any) -> None:
    settings.STRATEGIES = None

    assert refused("new", "night_owl") == "wanted a folder in R3EDGE_STRATEGIES or --folder, was none"


def test_the_list_tells_where_each_is_from_and_what_was_refused(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "bad.py").write_text("1 / 0\n")
    LIBRARY.load_folder(tmp_path)

    lines = [" ".join(line.split()) for line in told("list").splitlines()]

    assert "sma_cross SMA crossover library, 51 candles" in lines
    assert f"own Own {tmp_path / 'own.py'}, 21 candles" in lines
    assert lines[-1] == f"refused: {tmp_path / 'bad.py'}:1: ZeroDivisionError: division by zero"


def test_the_check_of_all_names_every_strategy_and_ends_with_what_was_refused(tmp_path: Path) -> None:
    assert told("check").splitlines() == [f"{name}: sound" for name in sorted(LIBRARY)]
    (tmp_path / "bad.py").write_text("1 / 0\n")
    LIBRARY.load_folder(tmp_path)

    assert refused("check") == f"{tmp_path / 'bad.py'}:1: ZeroDivisionError: division by zero"


def test_a_file_is_checked_anew_after_it_was_loaded(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(OWN)
    LIBRARY.load_folder(tmp_path)

    assert told("check", path) == "own: sound\n"
    path.write_text(spoilt("period + 1", "period - 1"))
    assert f"{path}:23: remembers more than its warm-up of 19 candles" in refused("check", path)


def test_nothing_of_that_name_to_check_is_said() -> None:
    assert refused("check", "martingale") == "wanted a strategy that there is, was 'martingale', and a file neither"


def test_a_check_on_candles_of_a_file_sees_what_a_walk_does_not(tmp_path: Path) -> None:
    # Beyond a price that no walk reaches it peeks.
    path, hours = tmp_path / "own.py", tmp_path / "hours.csv"
    peeking = dedent(
        """
        if candles.close[-1] > 5000:
            up = up[::-1].copy()
        """
    ).replace("\n", "\n        ")
    path.write_text(spoilt("        # Entries of 1", f"{peeking}\n        # Entries of 1"))
    close = 10_000 + 100 * np.sin(np.arange(300))
    rows = "".join(f"{3600 * (400_000 + at)},{one},{one},{one},{one},1\n" for at, one in enumerate(close))
    hours.write_text("ts,open,high,low,close,volume\n" + rows)

    assert told("check", path) == "own: sound\n"
    assert f"on {hours}: sees the future: entries at candle " in refused("check", path, "--candles", hours)
    assert told("check", "sma_cross", "--candles", hours) == "sma_cross: sound\n"


def test_too_few_candles_or_none_are_no_proof(tmp_path: Path) -> None:
    hours = tmp_path / "hours.csv"
    hours.write_text(
        "ts,open,high,low,close,volume\n" + "".join(f"{3600 * (400_000 + at)},1,1,1,1,1\n" for at in range(40))
    )

    assert "wanted more candles in" in refused("check", "sma_cross", "--candles", hours)
    assert refused("check", "sma_cross", "--candles", tmp_path / "gone.csv")
    assert command.Command.requires_system_checks == ()


@pytest.mark.parametrize(("value", "path"), [("", None), ("/srv/strategies", Path("/srv/strategies"))])
def test_the_folder_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch, value: str, path: Path | None) -> None:
    monkeypatch.setenv("R3EDGE_STRATEGIES", value)

    assert Environment().strategies == path


def test_a_relative_folder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R3EDGE_STRATEGIES", "strategies")

    with pytest.raises(ValidationError, match="wanted an absolute path, was a relative one"):
        Environment()
