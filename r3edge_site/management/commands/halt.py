"""``manage halt trip|lift|list``: the red button at the command line, for when nothing else is at hand.

It needs the database only: what a halt cancels and closes is carried out by the workers as soon as they run. Exit code 0 when
it is done (or was so already), 1 with what was wanted on standard error otherwise, 2 for words it does not understand.
"""

from __future__ import annotations

import getpass
from argparse import ArgumentParser
from typing import Any

from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError

from exchanges.models import Account
from money.halts import halt_lift, halt_subject, halt_trip
from money.models import HaltMode, TradingHalt
from sessions.models import TradingSession


def _who() -> str:
    try:
        return f"command line ({getpass.getuser()})"
    except (KeyError, OSError):  # a container without a name for its user
        return "command line"


class Command(BaseCommand):
    help = "Halt trading, lift a halt, or list those in force."

    def add_arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        trip = verbs.add_parser("trip", help="halt a session, an account, all of a trader's, or the platform")
        scope = trip.add_mutually_exclusive_group(required=True)
        scope.add_argument("--platform", action="store_true")
        scope.add_argument("--account", type=int, metavar="N")
        scope.add_argument("--session", type=int, metavar="N")
        scope.add_argument("--owner", metavar="NAME")
        trip.add_argument(
            "--mode", choices=HaltMode.values, default=HaltMode.HALT.value,
            help="HALT: no entries (default). REDUCE_ONLY: entries at work are cancelled. FLATTEN: positions are closed.",
        )  # fmt: skip
        trip.add_argument("--cause", required=True, help="why, for whoever reads the journal")
        lift = verbs.add_parser("lift", help="end a halt")
        lift.add_argument("halt", type=int, metavar="N")
        lift.add_argument("--note", required=True, help="why trading may go on")
        listing = verbs.add_parser("list", help="the halts in force")
        listing.add_argument("--all", action="store_true", help="and those that were lifted")

    def handle(self, *args: Any, verb: str, **options: Any) -> None:
        try:
            {"trip": self._trip, "lift": self._lift, "list": self._list}[verb](options)
        except ValidationError as error:
            raise CommandError("; ".join(error.messages)) from error

    def _trip(self, options: dict[str, Any]) -> None:
        before = set(TradingHalt.objects.filter(lifted_at=None).values_list("pk", flat=True))
        halt = halt_trip(options["mode"], options["cause"], **_scope(options), actor=_who())
        word = "in force already" if halt.pk in before else "tripped"
        self.stdout.write(f"{word}: {_line(halt)}")

    def _lift(self, options: dict[str, Any]) -> None:
        halt = TradingHalt.objects.filter(pk=options["halt"]).first()
        if halt is None:
            raise CommandError(f"wanted the number of a halt, was {options['halt']}")
        word = "lifted" if halt_lift(halt.pk, options["note"], actor=_who()) else "was lifted already"
        self.stdout.write(f"{word}: {_line(halt)}")

    def _list(self, options: dict[str, Any]) -> None:
        halts = TradingHalt.objects.select_related("session", "account__exchange", "owner").order_by("pk")
        for halt in halts if options["all"] else halts.filter(lifted_at=None):
            lifted = f", lifted by {halt.lifted_by}: {halt.lift_note}" if halt.lifted_at else ""
            self.stdout.write(_line(halt) + lifted)


def _scope(options: dict[str, Any]) -> dict[str, Any]:
    """Which row is to be halted; an error that says what there is not."""
    if options["platform"]:
        return {}
    if options["owner"] is not None:
        owner = User.objects.filter(username=options["owner"]).first()
        if owner is None:
            raise CommandError(f"--owner: wanted the name of a user, was {options['owner']!r}")
        return {"owner_id": owner.pk}
    name = "account" if options["account"] is not None else "session"
    model = Account if name == "account" else TradingSession
    if not model._default_manager.filter(pk=options[name]).exists():
        raise CommandError(f"--{name}: wanted the number of one there is, was {options[name]}")
    return {f"{name}_id": options[name]}


def _line(halt: TradingHalt) -> str:
    subject = halt_subject(halt)
    whose = f"{halt.scope.lower()} {subject.pk} ({subject})" if subject else "the platform"
    return f"halt {halt.pk} {halt.mode} of {whose}, since {halt.tripped_at:%Y-%m-%d %H:%M:%S}: {halt.cause}"
