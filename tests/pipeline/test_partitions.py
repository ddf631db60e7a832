"""Partitions under load: made once whoever makes them, guarded like the table, and never a reason to hold up the journal."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from django.db import DatabaseError, connection, transaction

from pipeline import services
from pipeline.models import Event
from pipeline.services import journal_partitions_ensure
from pipeline.topics import Topic, publish
from tests.conftest import Bells
from tests.race import at_once

DECEMBER = datetime(2041, 12, 15, tzinfo=UTC)
PARTITIONS = ["pipeline_event_2041_12", "pipeline_event_2042_01", "pipeline_event_2042_02"]


@pytest.fixture
def swept(transactional_db: None) -> Iterator[None]:
    """No partitions of these months afterwards: emptying tables does not drop them."""
    yield
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS " + ", ".join(PARTITIONS))


@pytest.mark.django_db
def test_the_months_after_december_are_those_of_the_next_year() -> None:
    assert journal_partitions_ensure(DECEMBER) == PARTITIONS


@pytest.mark.django_db
def test_a_month_that_is_there_does_not_keep_the_next_from_being_made() -> None:
    journal_partitions_ensure(DECEMBER)

    assert journal_partitions_ensure(datetime(2042, 1, 1, tzinfo=UTC)) == ["pipeline_event_2042_03"]


@pytest.mark.django_db
@pytest.mark.parametrize("change", ["UPDATE {} SET key = 2", "DELETE FROM {}"])
def test_the_guard_stands_on_a_partition_made_later_too(change: str) -> None:
    journal_partitions_ensure(DECEMBER)
    Event.objects.create(topic="alerts", key=1, at=DECEMBER)

    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(change.format(PARTITIONS[0]))

    assert Event.objects.get().key == 1


def test_housekeepers_at_once_make_each_partition_once(swept: None) -> None:
    made = at_once([lambda: journal_partitions_ensure(DECEMBER)] * 6)

    assert sorted(made) == [[]] * 5 + [PARTITIONS]


def test_a_long_read_of_the_journal_makes_housekeeping_give_way_and_not_the_journal_wait(
    swept: None, bells: Bells, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(services, "LOCK_PATIENCE", "200ms")
    reader = connection.copy()
    reader.set_autocommit(False)
    try:
        with reader.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pipeline_event")
        made_meanwhile = journal_partitions_ensure(DECEMBER)
        with transaction.atomic():
            publish(Topic.ALERTS, 1)
    finally:
        reader.rollback()
        reader.close()

    assert made_meanwhile == []
    assert "no partitions were made" in caplog.text
    assert Event.objects.get().key == 1
    assert journal_partitions_ensure(DECEMBER) == PARTITIONS
