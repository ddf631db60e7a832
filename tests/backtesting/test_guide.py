"""What the guides to backtests and strategies say is there: each warning, each cause of a difference, each option; and their
examples run."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import backtesting.suspicions
from backtesting.commandline import parser
from backtesting.drift import Code
from backtesting.engine.inputs import Settings
from domain.strategy import Strategy
from strategies.library import LIBRARY
from strategies.registry import LIBRARY_ORIGIN
from strategies.soundness import unsound, walk_for

DOCS = Path(__file__).resolve().parents[2] / "docs"
BACKTESTING, STRATEGIES = ((DOCS / f"{name}.md").read_text() for name in ("backtesting", "strategies"))


def example_of(page: str) -> dict[str, Any]:
    """What the one Python example of ``page`` defines."""
    [example] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    space: dict[str, Any] = {}
    exec(compile(example, "example", "exec"), space)  # it is our own page
    return space


def codes_of_warnings() -> set[str]:
    """The first of each pair that the checks yield."""
    tree = ast.parse(Path(backtesting.suspicions.__file__).read_text())
    pairs = [node.value for node in ast.walk(tree) if isinstance(node, ast.Yield) and isinstance(node.value, ast.Tuple)]
    return {one.elts[0].value for one in pairs if isinstance(one.elts[0], ast.Constant)}


def test_every_warning_is_explained() -> None:
    codes = codes_of_warnings()

    assert {"LOOKS_AHEAD", "NO_FEES", "HOLES"} < codes
    assert [code for code in sorted(codes) if f"`{code}`" not in BACKTESTING] == []


def test_every_cause_of_a_difference_is_explained() -> None:
    assert [code.value for code in Code if f"`{code.value}`" not in BACKTESTING] == []


def test_every_option_is_named() -> None:
    options = [name for one in parser()._actions for name in one.option_strings if name not in ("-h", "--help")]

    assert "--walk-forward" in options
    assert [name for name in options if name not in BACKTESTING] == []


def test_every_setting_is_named() -> None:
    names = [name for name in Settings.__slots__ if name != "limits"]

    assert [name for name in names if f"`{name}`" not in BACKTESTING] == []


def test_every_strategy_of_the_library_is_listed() -> None:
    library = [name for name in LIBRARY if LIBRARY.origin(name) == LIBRARY_ORIGIN]

    assert [name for name in library if f"`{name}`" not in STRATEGIES] == []


def test_the_portfolio_of_the_guide_trades() -> None:
    candles = walk_for(LIBRARY["donchian"].from_values({}))

    result = example_of(BACKTESTING)["both"](candles, candles)

    assert {trade.symbol for trade in result.trades} == {"BTC/USDT"}
    assert {(one.symbol, one.denial.value) for one in result.refused} == {("ETH/USDT", "MAX_OPEN_POSITIONS")}
    assert np.isfinite(result.equity).all()


def test_the_strategy_of_the_guide_is_sound() -> None:
    kind: type[Strategy[Any]] = example_of(STRATEGIES)["PatientCross"]

    assert unsound(kind) == ""
    assert kind.from_values({}).callbacks == ("while_held",)


@pytest.mark.parametrize("page", [BACKTESTING, STRATEGIES])
def test_no_link_leads_nowhere(page: str) -> None:
    links = [re.sub(r"\s", "", one) for one in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page)]

    assert links
    assert [one for one in links if not (DOCS / one).exists()] == []
