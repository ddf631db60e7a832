"""Studies at the API: asked for, followed and stopped by their owner; trials sorted, as CSV, and made backtests."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from backtesting.models import BacktestRun, Study
from backtesting.studies.api import TrialsCsv
from backtesting.studies.slices import study_step
from tests.api.conftest import Api
from tests.api.test_backtests import wish
from tests.backtesting.test_runs import wave_feed
from tests.backtesting.test_studies import GRID, SPACE, requested
from tests.conftest import Bells

pytestmark = pytest.mark.usefixtures("no_renewals")


def asked(**changes: Any) -> dict[str, Any]:
    return {**wish(parameters={}), "kind": "OPTIMISE", "space": SPACE, "objective": "total_return", **changes}


def done(owner: Api, **words: Any) -> Study:
    study = requested(owner.user, **words)
    while study_step(study.pk):
        pass
    return Study.objects.get(pk=study.pk)


@pytest.mark.django_db(transaction=True)
def test_a_trader_asks_for_a_study_and_follows_it_to_its_result(alice: Api, bells: Bells) -> None:
    feed = wave_feed()

    answer = alice.post("studies", asked(feeds=[feed.pk], name="first"))
    row = answer.json()
    rung = bells.rung("optimising.step")
    early = alice.get(f"studies/{row['id']}/result")
    while study_step(row["id"]):
        pass
    after, result = alice.get(f"studies/{row['id']}").json(), alice.get(f"studies/{row['id']}/result").json()
    [listed] = alice.get("studies").json()["results"]

    assert answer.status_code == 201, row
    assert rung == [{"study_ids": [row["id"]]}]
    assert (row["name"], row["status"], row["progress"]) == ("first", "QUEUED", {"percent": 0.0, "done": 0, "total": 0})
    assert (row["space"], row["parameters"]) == (SPACE, {"stop_loss_percent": "2", "take_profit_percent": "4"})
    assert (early.status_code, early.json()["detail"]) == (409, "wanted a study that is done, was QUEUED")
    assert (after["status"], after["progress"]) == ("DONE", {"percent": 100.0, "done": 7, "total": 7})
    assert after["best"] == listed["best"] == result["best"]
    assert after["in_words"] == result["words"] != []
    assert "result" not in listed


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"kind": "GUESS"}, "kind", '"GUESS" is not a valid choice.'),
        ({"space": {"fast": "5"}}, "space", "wanted a list of values or a mapping of low, high and step for fast"),
        ({"space": [1]}, "space", 'Expected a dictionary of items but got type "list".'),
        ({"space": {"fast": [2, 3], "slow": ["a"]}}, "space", "wanted slow within its bounds"),
        ({"trials_wanted": 5001}, "trials_wanted", "Ensure this value is less than or equal to 5000."),
        ({"kind": "WALK_FORWARD", "options": {"train": "10d"}}, "options", "test: Field required"),
        ({"settings": {"cash": "-1"}}, "settings", "cash: "),
        ({"space": {"fast": {"low": -1e30, "high": 1e30}}}, "space", "wanted fast within its bounds"),
        (
            {"space": {"fast": {"low": 2, "high": 9, "step": "1e-999999"}}},
            "space",
            "wanted numbers for fast, was '1e-9",
        ),
        (
            {"strategy": "trend_filter", "space": {"trend_symbol": ["A\0"]}},
            "space",
            "wanted text without NUL, was some with it",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_at_its_field(
    alice: Api, changes: dict[str, Any], field: str, message: str
) -> None:
    answer = alice.post("studies", asked(feeds=[wave_feed().pk], **changes))

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid")
    assert answer.json()["fields"][field][0].startswith(message)
    assert not Study.objects.exists()


def test_trials_come_the_best_first_or_as_asked_for_page_by_page(alice: Api) -> None:
    study = done(alice)

    page = alice.get(f"studies/{study.pk}/trials", limit=4)
    rows = page.json()["results"]
    rest = alice.get(f"studies/{study.pk}/trials", limit=4, start=4).json()
    numbered = alice.get(f"studies/{study.pk}/trials", order="number").json()["results"]
    worst = alice.get(f"studies/{study.pk}/trials", order="value", limit=1).json()["results"]

    values = [row["value"] for row in (*rows, *rest["results"])]
    assert (page.json()["count"], len(rows), len(rest["results"]), rest["next"]) == (6, 4, 2, None)
    assert page["Link"].startswith("<http://testserver/api/v1/studies/")
    assert values == sorted(values, reverse=True)
    assert worst[0]["value"] == values[-1]
    assert [(row["parameters"]["fast"], row["parameters"]["slow"]) for row in numbered] == GRID
    assert {row["status"] for row in numbered} == {"DONE"}
    assert alice.get(f"studies/{study.pk}/trials", status="FAILED").json()["results"] == []
    assert alice.get(f"studies/{study.pk}/trials", order="luck").json()["fields"]["order"] == [
        '"luck" is not a valid choice.'
    ]


def test_trials_as_csv_have_a_column_for_each_parameter_that_varies(alice: Api) -> None:
    study = done(alice)

    answer = alice.get(f"studies/{study.pk}/trials", format="csv", order="number")

    rows = list(csv.DictReader(io.StringIO(answer.content.decode())))
    assert answer["Content-Type"].startswith("text/csv")
    assert list(rows[0])[:6] == ["fold", "number", "status", "value", "fast", "slow"]
    assert {"trades", "total_return", "max_drawdown", "reason"} < set(rows[0])
    assert [(int(row["fast"]), int(row["slow"])) for row in rows] == GRID
    assert float(rows[3]["value"]) == study.trials.get(number=3).value


def test_what_a_spreadsheet_would_compute_is_kept_from_that() -> None:
    row = {"fold": 0, "number": 1, "status": "FAILED", "value": -1.5, "figures": {}, "reason": "=1+1"}
    rows = [{**row, "parameters": {"name": "@x"}}, {**row, "parameters": {"name": "a-b"}}]

    text = TrialsCsv().render({"results": rows}).decode()

    assert text.splitlines()[1:] == ["0,1,FAILED,-1.5,'@x,'=1+1", "0,1,FAILED,-1.5,a-b,'=1+1"]


def test_any_trial_is_made_a_backtest_of_ones_own(alice: Api) -> None:
    study = done(alice)

    answer = alice.post(f"studies/{study.pk}/trials/2/run")
    unknown = [alice.post(f"studies/{study.pk}/trials/{text}/run").status_code for text in ("6", "x", "9" * 40)]
    elsewhere = alice.post(f"studies/{study.pk}/trials/2/run?fold=1").status_code

    run = BacktestRun.objects.get()
    assert (answer.status_code, answer.json()["id"], answer.json()["status"]) == (201, run.pk, "QUEUED")
    assert (run.owner, run.parameters["fast"], run.parameters["slow"]) == (alice.user, 3, 8)
    assert [*unknown, elsewhere] == [404, 404, 404, 404]


def test_it_is_cancelled_gone_on_with_and_deleted_once_it_has_ended(alice: Api) -> None:
    study = requested(alice.user)

    refused = alice.call("delete", f"studies/{study.pk}")
    cancelled = [alice.post(f"studies/{study.pk}/cancel").json()["status"] for _ in range(2)]
    retried, again = alice.post(f"studies/{study.pk}/retry"), alice.post(f"studies/{study.pk}/retry")
    alice.post(f"studies/{study.pk}/cancel")
    deleted = alice.call("delete", f"studies/{study.pk}")

    assert (refused.status_code, refused.json()["code"]) == (409, "unable_to_study")
    assert cancelled == ["CANCELED", "CANCELED"]
    assert (retried.json()["status"], again.status_code) == ("QUEUED", 409)
    assert (deleted.status_code, Study.objects.count()) == (204, 0)


def test_studies_are_narrowed(alice: Api) -> None:
    feed = wave_feed()
    first = requested(alice.user, feed)
    second = requested(alice.user, feed, kind="WALK_FORWARD", options={"train": "96", "test": "48"})

    assert alice.ids("studies") == [second.pk, first.pk]
    assert alice.ids("studies", kind="OPTIMISE", status="QUEUED", feed=feed.pk) == [first.pk]
    assert alice.ids("studies", name="walk", symbol="BTC/USDT", strategy="sma_cross") == [second.pk]
    assert alice.ids("studies", status="DONE") == []


def test_what_each_kind_asks_for_is_told_as_schemas(alice: Api) -> None:
    told = alice.get("studies/options").json()

    assert set(told) == {"OPTIMISE", "WALK_FORWARD", "MONTE_CARLO"}
    assert told["WALK_FORWARD"]["required"] == ["train", "test"]
    assert told["MONTE_CARLO"]["properties"]["paths"]["maximum"] == 10_000
