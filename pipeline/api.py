"""The journal over REST: a trader reads the events of their own rows; superusers also those of nobody's."""

from __future__ import annotations

import django_filters
from rest_framework import mixins, serializers

from pipeline.models import Event
from pipeline.rest import Filters, IdFilter, NewestFirst, OwnedRows, RowSerializer
from pipeline.topics import Topic


class EventSerializer(RowSerializer[Event]):
    topic = serializers.ChoiceField(choices=[topic.value for topic in Topic], read_only=True)

    class Meta:
        model = Event
        fields = ("id", "at", "topic", "key", "ids", "data", "session_id", "actor")
        read_only_fields = fields


class EventFilter(Filters):
    topic = django_filters.ChoiceFilter(choices=[(topic.value, topic.value) for topic in Topic])
    key = IdFilter(help_text="The row that the topic is about, e.g. the order of `orders`.")
    actor = django_filters.CharFilter()
    since = django_filters.IsoDateTimeFilter(field_name="at", lookup_expr="gte")
    until = django_filters.IsoDateTimeFilter(field_name="at", lookup_expr="lt")

    class Meta:
        model = Event
        fields: tuple[str, ...] = ()


class LatestEventsFirst(NewestFirst):
    # Along the indexes: they end in time, and the table is partitioned by it.
    ordering = ("-at", "-id")


class EventViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, OwnedRows[Event]):
    """What happened, in which order, and by whom."""

    queryset = Event.objects.all()
    serializer_class = EventSerializer
    filterset_class = EventFilter
    pagination_class = LatestEventsFirst
    owner_path = "owner_id"
