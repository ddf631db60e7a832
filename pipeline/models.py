"""The journal: what happened, in which order, and by whom. Rows are added in the transaction of what they tell of and
never changed (a database trigger refuses it); the table is partitioned by month."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now


class Event(models.Model):
    """One thing that happened. ``key`` names the row it is about, ``ids`` every row involved, ``data`` small plain facts
    for a reader, never secrets. ``owner_id`` and ``session_id`` are repeated as columns because people ask by them; they
    are no foreign keys, for the journal stands below the tables it speaks of and outlives their rows."""

    topic = models.CharField(max_length=32)
    key = models.BigIntegerField()
    ids = models.JSONField(default=dict)
    data = models.JSONField(default=dict)
    owner_id = models.BigIntegerField(null=True)
    session_id = models.BigIntegerField(null=True)
    actor = models.CharField(max_length=64, default="system")
    # The table's default is clock_timestamp(), not the transaction's start: events of one transaction keep their order.
    at = models.DateTimeField(db_default=Now())

    class Meta:
        indexes = [
            # "the last events about this order": timelines of one row
            models.Index(fields=["topic", "key", "-at"], name="event_by_topic_and_key"),
            # "what happened in this session"
            models.Index(fields=["session_id", "-at"], name="event_by_session"),
            # "my events, newest first": the API's list
            models.Index(fields=["owner_id", "-at"], name="event_by_owner"),
        ]

    def __str__(self) -> str:
        return f"{self.topic} {self.key} {self.ids}"
