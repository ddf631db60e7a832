"""Every row of the fault table is played, tested, or said to be out of reach; and what is cited is there."""

from __future__ import annotations

import re

import pytest

from chaos.scenarios import load
from chaos.scenarios.coverage import FAULTS, lines, scenarios_of
from embedded.checkout import ROOT

ROWS = range(1, 59)


@pytest.mark.parametrize("row", ROWS)
def test_a_row_of_the_fault_table_is_covered_or_says_why_not(row: int) -> None:
    fault = FAULTS[row]

    assert scenarios_of(row) or fault.tests or fault.not_here
    for test in fault.tests:
        file, _, name = test.partition("::")
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE), test


def test_the_table_has_its_rows_and_no_others() -> None:
    assert list(FAULTS) == list(ROWS)
    assert {row for scenario in load().values() for row in scenario.rows} <= set(ROWS)
    assert [line[:2].strip() for line in lines()] == [str(row) for row in ROWS]


def test_a_scenario_says_in_its_first_line_what_it_does() -> None:
    assert [one.name for one in load().values() if not one.text or not one.rows] == []
