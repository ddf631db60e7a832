"""The journal, read-only: what happened, in which order, and by whom."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.contrib.filters.admin import RangeDateTimeFilter, TextFilter

from pipeline.models import Event
from pipeline.pages import LongPage, Table, list_url, table
from pipeline.topics import Topic


class TopicFilter(admin.SimpleListFilter):
    title = "topic"
    parameter_name = "topic"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        # From the map of topics: asking the table for its distinct values would read all of it.
        return [(topic.value, topic.value) for topic in Topic]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Event]) -> QuerySet[Event]:
        return queryset.filter(topic=self.value()) if self.value() else queryset


class NumberFilter(TextFilter):  # type: ignore[misc]  # unfold has no types
    """Rows whose column has exactly this number; anything that is no number finds nothing."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Event]) -> QuerySet[Event]:
        value = (self.value() or "").strip()
        if not value:
            return queryset
        # More digits than the column holds would be the database's error, not an empty answer.
        is_id = value.isascii() and value.isdigit() and len(value) < 19
        return queryset.filter(**{self.parameter_name: int(value)}) if is_id else queryset.none()


class SessionFilter(NumberFilter):
    title = "session number"
    parameter_name = "session_id"


class KeyFilter(NumberFilter):
    title = "key"
    parameter_name = "key"


def events_table(title: str, events: Iterable[Event], **filters: Any) -> Table:
    """A section of journal rows."""
    return table(
        title,
        ("At", "Topic", "Key", "What", "By"),
        ((one.at, one.topic, one.key, told(one), one.actor) for one in events),
        list_url(Event, **filters),
    )


def told(event: Event) -> str:
    """The facts of a journal row in one line; what says nothing is left out."""
    facts = ((name, value) for name, value in event.data.items() if value not in ("", None))
    return ", ".join(f"{name} {value if isinstance(value, str) else json.dumps(value)}" for name, value in facts)


@admin.register(Event)
class EventPage(LongPage):
    owner_path = "owner_id"
    list_display = ("at", "topic", "key", "what", "session_id", "actor")
    list_filter = (TopicFilter, SessionFilter, KeyFilter, ("at", RangeDateTimeFilter))
    list_filter_submit = True

    @admin.display(description="what")
    def what(self, event: Event) -> str:
        return told(event) or "-"

    def get_ordering(self, request: HttpRequest) -> tuple[str]:
        # Each is the order of an index: the primary key over all partitions, or one owner's events.
        return ("-id",) if request.user.is_superuser else ("-at",)
