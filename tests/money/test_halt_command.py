"""The red button at the command line."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from money.halts import halt_trip
from money.models import TradingHalt
from tests.factories import make_account, make_session, make_user

pytestmark = pytest.mark.django_db


def run(*words: Any) -> str:
    out = StringIO()
    call_command("halt", *map(str, words), stdout=out)
    return out.getvalue()


def test_each_scope_is_halted_by_its_own_word() -> None:
    session = make_session(make_account(make_user("alice")))

    run("trip", "--session", session.pk, "--cause", "one")
    run("trip", "--account", session.account_id, "--mode", "REDUCE_ONLY", "--cause", "two")
    run("trip", "--owner", "alice", "--cause", "three")
    said = run("trip", "--platform", "--mode", "FLATTEN", "--cause", "four")

    halts = TradingHalt.objects.order_by("pk")
    assert [(halt.scope, halt.mode, halt.cause) for halt in halts] == [
        ("SESSION", "HALT", "one"), ("ACCOUNT", "REDUCE_ONLY", "two"), ("OWNER", "HALT", "three"),
        ("PLATFORM", "FLATTEN", "four"),
    ]  # fmt: skip
    assert halts[3].tripped_by.startswith("command line")
    assert said.startswith(f"tripped: halt {halts[3].pk} FLATTEN of the platform, since ")


def test_a_second_press_says_that_it_is_in_force() -> None:
    run("trip", "--platform", "--cause", "news")

    assert run("trip", "--platform", "--cause", "news").startswith("in force already: ")
    assert TradingHalt.objects.count() == 1


def test_a_halt_is_lifted_with_a_note_and_listed_until_then() -> None:
    account = make_account()
    halt = halt_trip("HALT", "news", account_id=account.pk)

    listed = run("list")
    lifted = run("lift", halt.pk, "--note", "over")
    again = run("lift", halt.pk, "--note", "over")

    assert listed.startswith(f"halt {halt.pk} HALT of account {account.pk} (main (simulator)), since ")
    assert listed.endswith(": news\n")
    assert (lifted.split(":")[0], again.split(":")[0], run("list")) == ("lifted", "was lifted already", "")
    assert run("list", "--all").rstrip().endswith(": over")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("trip", "--cause", "news"), "one of the arguments --platform --account --session --owner is required"),
        (("trip", "--platform", "--owner", "alice", "--cause", "news"), "not allowed with argument"),
        (("trip", "--platform"), "--cause"),
        (("trip", "--platform", "--cause", " "), "This field cannot be blank"),
        (("trip", "--platform", "--mode", "PANIC", "--cause", "news"), "invalid choice: 'PANIC'"),
        (("trip", "--owner", "carol", "--cause", "news"), "--owner: wanted the name of a user, was 'carol'"),
        (("trip", "--account", 9, "--cause", "news"), "--account: wanted the number of one there is, was 9"),
        (("trip", "--session", 9, "--cause", "news"), "--session: wanted the number of one there is, was 9"),
        (("lift", 9, "--note", "over"), "wanted the number of a halt, was 9"),
        (("lift", 9), "--note"),
    ],
)
def test_what_it_does_not_understand_is_said_and_nothing_is_halted(words: tuple[Any, ...], message: str) -> None:
    with pytest.raises(CommandError, match=message):
        run(*words)

    assert not TradingHalt.objects.exists()


def test_lifting_without_a_word_is_refused() -> None:
    halt = halt_trip("HALT", "news")

    with pytest.raises(CommandError, match="wanted why it may be lifted"):
        run("lift", halt.pk, "--note", "  ")
