"""What a test with real transactions leaves behind, and what it must not."""

from __future__ import annotations

from django.apps import apps
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType

from domain.market import PositionSide
from pipeline.models import Event
from tests import emptying
from tests.factories import NOON, make_candles, make_fill, make_order, make_position, make_session


def test_every_row_goes_also_of_the_journal_and_of_months_of_candles_and_what_migrating_makes_stays(
    transactional_db: None,
) -> None:
    session = make_session()
    make_candles(session.config.feed, [1.0, 2.0], NOON)
    make_fill(make_order(make_position(session, side=PositionSide.LONG), status="CLOSED"))
    Event.objects.create(topic="orders", key="1", data={})
    before = Permission.objects.count(), ContentType.objects.count()
    filled = {model for model in apps.get_models() if model._default_manager.exists()}

    emptying.empty()

    assert len(filled) > 12
    assert {model for model in apps.get_models() if model._default_manager.exists()} == {Permission, ContentType}
    assert (Permission.objects.count(), ContentType.objects.count()) == before
