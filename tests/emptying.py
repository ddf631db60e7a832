"""The database as it was, after a test whose transactions were real: every row is gone but those that migrating leaves.

Django's own way truncates every table and every partition and makes all permissions anew, 0.15 s of CPU each time, some
hundreds of times; here only what has rows is touched. Content types and permissions stay: Django leaves them there too.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from django.db import connection, transaction
from django.test import TransactionTestCase

# What Django's `post_migrate` would make again, and what it knows of migrations.
KEPT = ("django_content_type", "auth_permission", "django_migrations")

# Every table that holds rows itself, with whether it is a partition. Read each time: tests make and drop partitions.
TABLES = """
    SELECT c.relname, c.relispartition FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND n.nspname = current_schema()
"""


@cache
def _probe(tables: tuple[str, ...]) -> str:
    return " UNION ALL ".join(f"(SELECT '{table}' FROM {connection.ops.quote_name(table)} LIMIT 1)" for table in tables)


def empty() -> None:
    """Remove all rows of all tables but those of ``KEPT``."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(TABLES)
        is_partition = {name: flag for name, flag in cursor.fetchall() if name not in KEPT}
        cursor.execute(_probe(tuple(sorted(is_partition))))
        filled = [name for (name,) in cursor.fetchall()]
        quoted = {name: connection.ops.quote_name(name) for name in filled}
        # The journal refuses to be deleted from, and months of candles are quicker dropped; no row refers to a partition.
        if partitions := [quoted[name] for name in filled if is_partition[name]]:
            cursor.execute(f"TRUNCATE {', '.join(partitions)}")
        # In any order: foreign keys are looked at when the transaction ends, and then nothing is left that could refer.
        for name in filled:
            if not is_partition[name]:
                cursor.execute(f"DELETE FROM {quoted[name]}")


def _fixture_teardown(self: Any) -> None:
    empty()


def install() -> None:
    """Let every test with real transactions end so."""
    TransactionTestCase._fixture_teardown = _fixture_teardown  # type: ignore[attr-defined]
