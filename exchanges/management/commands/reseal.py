"""``manage reseal``: encrypt every account's keys with the first of the configured encryption keys."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from exchanges.accounts import credentials_reseal
from exchanges.credentials import UnableToDecrypt


class Command(BaseCommand):
    help = "Re-encrypt all exchange keys with the first of R3EDGE_ENCRYPTION_KEYS, so that the others can be dropped."

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            count = credentials_reseal()
        except UnableToDecrypt as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"{count} accounts sealed with the first key")
