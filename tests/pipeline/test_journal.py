"""The journal: rows are added and never changed, and every month has its partition in time."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.db import DatabaseError, connection, transaction

from pipeline.models import Event
from pipeline.services import journal_partitions_ensure
from pipeline.tasks import housekeep
from pipeline.topics import Topic, publish

pytestmark = pytest.mark.django_db


def event_at(at: datetime) -> Event:
    return Event.objects.create(topic="alerts", key=1, at=at)


def partition_of(event: Event) -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT tableoid::regclass::text FROM pipeline_event WHERE id = %s", [event.pk])
        [(name,)] = cursor.fetchall()
    return str(name)


@pytest.mark.parametrize("change", ["UPDATE pipeline_event SET key = 2", "DELETE FROM pipeline_event"])
def test_the_database_refuses_to_change_what_was_journaled(change: str) -> None:
    event_at(datetime(2024, 5, 1, tzinfo=UTC))

    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(change)

    assert Event.objects.get().key == 1


def test_events_of_one_transaction_keep_their_order() -> None:
    for key in range(5):
        publish(Topic.ALERTS, key)

    assert list(Event.objects.order_by("at").values_list("key", flat=True)) == [0, 1, 2, 3, 4]


def test_partitions_are_made_for_this_month_and_two_more_over_new_year() -> None:
    made = journal_partitions_ensure(datetime(2031, 11, 30, 23, 59, tzinfo=UTC))

    assert made == ["pipeline_event_2031_11", "pipeline_event_2031_12", "pipeline_event_2032_01"]


def test_making_partitions_twice_makes_none() -> None:
    journal_partitions_ensure(datetime(2031, 11, 1, tzinfo=UTC))

    assert journal_partitions_ensure(datetime(2031, 11, 15, tzinfo=UTC)) == []


@pytest.mark.parametrize(
    ("at", "partition"),
    [
        (datetime(2031, 12, 1, tzinfo=UTC), "pipeline_event_2031_12"),
        (datetime(2031, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), "pipeline_event_2031_12"),
        (datetime(2032, 1, 1, tzinfo=UTC), "pipeline_event_2032_01"),
        (datetime(2032, 2, 1, tzinfo=UTC), "pipeline_event_rest"),
    ],
)
def test_a_row_lands_in_the_partition_of_its_month(at: datetime, partition: str) -> None:
    journal_partitions_ensure(datetime(2031, 11, 1, tzinfo=UTC))

    assert partition_of(event_at(at)) == partition


def test_a_month_that_began_without_its_partition_stays_where_it_is() -> None:
    early = event_at(datetime(2031, 12, 5, tzinfo=UTC))

    made = journal_partitions_ensure(datetime(2031, 11, 1, tzinfo=UTC))

    assert made == ["pipeline_event_2031_11", "pipeline_event_2032_01"]
    assert partition_of(early) == "pipeline_event_rest"


def test_housekeeping_makes_the_partitions_of_now() -> None:
    housekeep()

    assert journal_partitions_ensure(datetime.now(UTC)) == []
