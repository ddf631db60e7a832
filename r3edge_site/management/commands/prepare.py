"""``manage prepare``: everything a database needs before the first process starts, and nothing twice."""

from __future__ import annotations

import os
from typing import Any

from django.contrib.auth.models import User
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.utils import timezone
from django_celery_beat.models import PeriodicTask

from exchanges.models import Exchange
from pipeline.services import journal_partitions_ensure
from r3edge_site.schedule import GONE

FIRST_USER = "admin"


class Command(BaseCommand):
    help = (
        "Migrate, make the journal's partitions, drop periodic tasks that are no more, list KuCoin among the exchanges and, "
        "where there is no superuser yet, make "
        f"one named {FIRST_USER} with the password in R3EDGE_ADMIN_PASSWORD. May be run again at any time."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        call_command("migrate", interactive=False, verbosity=options["verbosity"])
        journal_partitions_ensure(timezone.now())
        PeriodicTask.objects.filter(name__in=GONE).delete()
        Exchange.objects.get_or_create(name="kucoin", defaults={"ccxt_id": "kucoin"})
        password = os.environ.get("R3EDGE_ADMIN_PASSWORD")
        if password and not User.objects.filter(is_superuser=True, is_active=True).exists():
            User.objects.create_superuser(FIRST_USER, password=password)
            self.stdout.write(f"made the first user, {FIRST_USER}")
