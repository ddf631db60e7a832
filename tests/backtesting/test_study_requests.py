"""What a study is asked for: judged as a whole, told by field, and written down in full."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ValidationError

from backtesting import studies
from backtesting.models import JobStatus
from backtesting.studies import UnableToStudy, study_request
from tests.backtesting.test_runs import wave_feed
from tests.backtesting.test_studies import SPACE, requested, wanted
from tests.factories import make_user

pytestmark = pytest.mark.django_db


def refusal(**words: Any) -> dict[str, list[str]]:
    with pytest.raises(ValidationError) as refused:
        study_request(make_user(), wanted(wave_feed(), **words))
    return refused.value.message_dict


@pytest.mark.parametrize(
    ("words", "field", "message"),
    [
        ({"kind": "GUESS"}, "kind", "wanted one of OPTIMISE, WALK_FORWARD, MONTE_CARLO, was 'GUESS'"),
        ({"method": "LUCK"}, "method", "wanted one of GRID, RANDOM, TPE, was 'LUCK'"),
        ({"objective": "fame"}, "objective", "wanted one of the objectives sharpe, "),
        ({"trials_wanted": 0}, "trials_wanted", "wanted 1 to 5000, was 0"),
        ({"space": {}}, "space", "wanted at least 1 parameter to search, was 0"),
        ({"space": {"speed": [1]}}, "space", "wanted a parameter of sma_cross (stop_loss_percent, "),
        ({"space": {"fast": [0]}}, "space", "wanted fast within its bounds"),
        ({"space": SPACE, "setup": {"parameters": {"fast": 3}}}, "space", "wanted each parameter either searched or fixed"),
        ({"space": {"fast": [30], "slow": [20]}}, "space", "wanted a combination that sma_cross takes, was none"),
        ({"space": {"stop_loss_percent": {"low": 1, "high": 2}}}, "space", "wanted at most 1000000 combinations"),
        ({"options": {"train": "9d"}}, "options", "train: wanted one of , was none of them"),
        ({"kind": "WALK_FORWARD"}, "options", "train: Field required"),
        ({"kind": "WALK_FORWARD", "options": {"train": "x", "test": "9"}}, "options", "train: wanted a number of candles"),
        ({"kind": "MONTE_CARLO", "options": {"ways": []}}, "options", "ways: "),
        (
            {"kind": "MONTE_CARLO", "options": {"ways": ["PARAMETER_JITTER"]}, "space": {"fast": [2, 4]}}, "space",
            "wanted fast to be one of 2, 4, was",
        ),
        ({"setup": {"strategy": "nothing"}}, "strategy", "wanted a strategy that there is, was 'nothing'"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_at_its_field(words: dict[str, Any], field: str, message: str) -> None:
    problems = refusal(**words)

    assert list(problems) == [field]
    assert problems[field][0].startswith(message)


def test_every_parameter_that_is_not_searched_is_written_down() -> None:
    study = requested(setup={"parameters": {"stop_loss_percent": "3"}})

    assert study.parameters == {"stop_loss_percent": "3", "take_profit_percent": "4"}
    assert study.name == "Optimise sma_cross BTC/USDT 1h"
    assert study.status == JobStatus.QUEUED


def test_no_owner_has_more_going_on_than_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies, "MOST_LIVE", 1)
    study = requested()

    with pytest.raises(UnableToStudy, match="wanted at most 1 studies of yours that go on"):
        requested(feed=study.feeds.get())
