"""Which spans may be asked for, and how far a backfill is: in words and figures."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from django.core.exceptions import ValidationError

from marketdata.backfills import Progress, backfill_request, progress
from marketdata.models import Backfill
from tests.factories import NOON, make_user
from tests.history.conftest import Places, minutes_feed
from tests.marketdata.conftest import MINUTE

pytestmark = pytest.mark.django_db

START = NOON - 4000 * MINUTE


# -- what may be asked for ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("from_at", "until_at", "field", "message"),
    [
        (NOON, NOON, "from_at", "wanted a candle that has closed, before 2024-05-01 12:00, was 2024-05-01 12:00"),
        (START, START - MINUTE, "until_at", "wanted a time after 2024-04-28 17:20, was 2024-04-28 17:19"),
        (START, START, "until_at", "wanted a time after 2024-04-28 17:20, was 2024-04-28 17:20"),
        (START, NOON + MINUTE, "until_at", "wanted candles that have closed, until 2024-05-01 12:00, was 2024-05-01 12:01"),
        (
            START + MINUTE / 2, NOON, "from_at",
            "wanted the open of a 1m candle, e.g. 2024-04-28 17:20, was 2024-04-28 17:20:30",
        ),
        (datetime(2008, 12, 31, tzinfo=NOON.tzinfo), NOON, "from_at", "wanted 2009-01-01 or later, was 2008-12-31 00:00"),
        (START.replace(tzinfo=None), NOON, "from_at", "wanted a time with its zone, was 2024-04-28 17:20:00"),
    ],
)  # fmt: skip
def test_a_span_that_cannot_be_is_refused_at_its_field(
    places: Places, from_at: datetime, until_at: datetime, field: str, message: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        backfill_request(minutes_feed(), from_at, until_at)

    assert refused.value.message_dict[field] == [message]
    assert not Backfill.objects.exists()


def test_whoever_asked_for_it_is_noted(places: Places) -> None:
    alice = make_user("alice")

    one = backfill_request(minutes_feed(), START, NOON, alice)

    assert one.requested_by == alice


# -- progress -----------------------------------------------------------------------------------------------------------


def test_progress_is_told_of_the_span_and_the_pace_since_it_began() -> None:
    one = Backfill(
        from_at=START, until_at=NOON, cursor_at=START + 1000 * MINUTE, started_at=NOON, status="RUNNING",
        rows_seen=900, rows_new=800,
    )  # fmt: skip

    assert progress(one, NOON + timedelta(seconds=30)) == Progress(25.0, 900, 800, 30.0, timedelta(seconds=90))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"status": "QUEUED"}, Progress(0.0, 0, 0, None, None)),
        ({"status": "RUNNING", "started_at": NOON}, Progress(0.0, 0, 0, 0.0, None)),
        (
            {"status": "DONE", "started_at": NOON, "ended_at": NOON + MINUTE, "cursor_at": NOON, "rows_seen": 6},
            Progress(100.0, 6, 0, 0.1, None),
        ),
        (
            {"status": "FAILED", "started_at": NOON, "ended_at": NOON + MINUTE, "cursor_at": NOON - MINUTE},
            Progress(99.9, 0, 0, 0.0, None),
        ),
    ],
)
def test_what_cannot_be_told_yet_or_any_more_is_left_out(fields: dict[str, object], told: Progress) -> None:
    one = Backfill(**{"from_at": START, "until_at": NOON, "cursor_at": START, **fields})

    assert progress(one, NOON + timedelta(hours=1)) == told
