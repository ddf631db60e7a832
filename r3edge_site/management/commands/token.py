"""``manage token USERNAME``: an API token for a user, printed once on standard output."""

from __future__ import annotations

from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError
from knox.models import AuthToken
from knox.settings import knox_settings

LONGEST_DAYS = 3650


class Command(BaseCommand):
    help = "Make an API token for a user. It is printed once, and only its digest is kept."

    def add_arguments(self, parser: ArgumentParser) -> None:
        default = knox_settings.TOKEN_TTL.days
        parser.add_argument("username")
        parser.add_argument("--days", type=int, default=default, help=f"until it expires (default {default})")

    def handle(self, *args: Any, username: str, days: int, **options: Any) -> None:
        if not 1 <= days <= LONGEST_DAYS:
            raise CommandError(f"--days: wanted 1 to {LONGEST_DAYS}, was {days}")
        user = User.objects.filter(username=username).first()
        if user is None:
            raise CommandError(f"wanted the name of a user, was {username!r}")
        if not user.is_active:
            raise CommandError(f"wanted an active user, {username!r} is not")
        _, token = AuthToken.objects.create(user=user, expiry=timedelta(days=days))
        self.stdout.write(token)
