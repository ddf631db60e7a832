"""An installation that has candles keeps every one of them when they come to be stored by month, and on the way back."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from tests.factories import NOON, make_feed

BEFORE, AFTER = [("marketdata", "0004_feed_stale_told")], [("marketdata", "0005_market_data")]
OPENS = [NOON, NOON.replace(month=6), NOON.replace(year=2019, month=12, day=31, hour=23)]


def migrate_to(target: list[tuple[str, str]]) -> None:
    MigrationExecutor(connection).migrate(target)


@pytest.fixture
def swept(transactional_db: None) -> Iterator[None]:
    """The schema is the newest again, without the months that the test made."""
    yield
    # Of all apps: what stands on candles went back with them.
    migrate_to(MigrationExecutor(connection).loader.graph.leaf_nodes())
    with connection.cursor() as cursor:
        for at in OPENS:
            cursor.execute(f"DROP TABLE IF EXISTS marketdata_candle_{at:%Y_%m}")


def stored() -> list[tuple[object, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT feed_id, open_at, open::text, high::text, low::text, close::text, volume::text, collected_at "
            "FROM marketdata_candle ORDER BY open_at"
        )
        return list(cursor.fetchall())


def test_candles_survive_the_way_to_months_and_back(swept: None) -> None:
    feed_id = make_feed().pk
    migrate_to(BEFORE)
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO marketdata_candle (feed_id, open_at, open, high, low, close, volume, collected_at) "
            "VALUES (%s, %s, 0.1, 0.3, 0.05, 0.2, 123456789012345678.123456789012345678, %s)",
            [(feed_id, at, datetime(2024, 7, 1, tzinfo=NOON.tzinfo)) for at in OPENS],
        )
    before = stored()
    assert len(before) == 3

    migrate_to(AFTER)

    assert stored() == before
    with connection.cursor() as cursor:
        cursor.execute("SELECT tableoid::regclass::text, source FROM marketdata_candle ORDER BY open_at")
        assert cursor.fetchall() == [(f"marketdata_candle_{at:%Y_%m}", 0) for at in sorted(OPENS)]

    migrate_to(BEFORE)
    assert stored() == before
