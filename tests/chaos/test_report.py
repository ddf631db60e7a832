"""The verdict of a run says what was injected, what broke and how to repeat it; options refuse what makes no sense."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from chaos.options import parser
from chaos.report import Report


@pytest.fixture
def report() -> Report:
    made = Report(seed=11, pace=0.2, facts={"orders": 4})
    calm = made.row("answer-lost")
    calm.runs, calm.faults, calm.converged_s = 2, Counter(exchange=3, kill=1), 4.25
    return made


def test_the_table_adds_up_and_names_the_seed(report: Report) -> None:
    assert report.text().splitlines() == [
        "scenario     runs  faults  lost  duplicated  unresolved  converged s  verdict",
        "answer-lost     2       4     0           0           0          4.2  ok",
        "",
        "faults: 3 exchange, 1 kill",
        "traded: 4 orders",
        "seed 11: every promise held",
    ]


def test_a_breach_is_in_the_table_and_in_words(report: Report) -> None:
    row = report.row("storm")
    row.duplicated, row.breaches = 1, ["I1: r3-1 was accepted 2 times"]

    text = report.text()

    assert "storm           0       0     0           1           0          0.0  BREACH" in text
    assert "BREACH storm: I1: r3-1 was accepted 2 times" in text
    assert text.endswith("seed 11: 1 breaches")


def test_programs_read_it_as_json(report: Report, tmp_path: Path) -> None:
    report.write(tmp_path / "chaos.json")

    written = json.loads((tmp_path / "chaos.json").read_text())
    assert (written["seed"], written["faults"], written["breaches"]) == (11, {"exchange": 3, "kill": 1}, [])
    assert written["rows"][0]["name"] == "answer-lost"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--seed", "-1"], "argument --seed: wanted a whole number from 0 to 2147483647, was '-1'"),
        (["--minutes", "soon"], "argument --minutes: wanted a number from 0 to 1440, was 'soon'"),
        (["--pace", "3"], "argument --pace: wanted a number from 0.05 to 1, was '3'"),
        (["--json", "/no/such/place.json"], "wanted a file in a directory that exists, was '/no/such/place.json'"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_one_line(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(arguments)

    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err
