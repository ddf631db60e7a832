"""Groups: sessions of one configuration on several accounts, made together, commanded together, each answering for itself."""

from __future__ import annotations

from decimal import Decimal

import pytest
from django.core.exceptions import ValidationError

from exchanges.models import Account
from sessions.groups import Outcome, group_command, group_create
from sessions.models import SessionGroup, SessionStatus, TradingSession
from strategies.models import StrategyConfig
from tests.conftest import Bells
from tests.factories import events, make_account, make_config, make_exchange, make_session, make_user
from tests.race import at_once

pytestmark = pytest.mark.django_db
# For what other connections are to see, and for bells, which ring after a commit.
committed = pytest.mark.django_db(transaction=True)

S = SessionStatus


@pytest.fixture(autouse=True)
def _bells(bells: Bells) -> None:
    """Every test rings into an empty broker."""


def accounts(number: int) -> list[Account]:
    return [make_account(name=f"a{index}") for index in range(number)]


def make_group(number: int = 3) -> SessionGroup:
    return group_create("trend", make_config(), accounts(number), sizing_amount=Decimal(5))


def statuses(group: SessionGroup) -> list[str]:
    return list(group.sessions.order_by("pk").values_list("status", flat=True))


def test_a_group_is_a_session_of_one_configuration_on_each_account() -> None:
    group = make_group()

    sessions = TradingSession.objects.order_by("pk")
    assert [session.name for session in sessions] == ["trend-a0", "trend-a1", "trend-a2"]
    assert {session.config_id for session in sessions} == {StrategyConfig.objects.get().pk}
    assert {(session.group, session.status, session.sizing_amount) for session in sessions} == {
        (group, S.CREATED, Decimal(5))
    }


def test_where_one_account_does_not_fit_nothing_is_made_and_it_is_named() -> None:
    config = make_config()
    fitting = make_account(name="a")
    elsewhere = make_account(name="b", exchange=make_exchange("other"))
    bobs = make_account(make_user("bob"), name="c")

    for account, word in (
        (elsewhere, "b: wanted a market of other"),
        (bobs, "c: wanted a configuration of the account's"),
    ):
        with pytest.raises(ValidationError) as caught:
            group_create("trend", config, [fitting, account])
        assert caught.value.message_dict["accounts"][0].startswith(word)

    assert (SessionGroup.objects.count(), TradingSession.objects.count()) == (0, 0)


def test_a_group_wants_a_name_of_its_own_and_each_account_once() -> None:
    group = make_group(1)
    config, account = StrategyConfig.objects.get(), Account.objects.get()

    for name, chosen, field in (
        (group.name, [account], "name"), (" ", [account], "name"), ("x" * 121, [account], "name"),
        ("second", [], "accounts"), ("second", [account, account], "accounts"),
    ):  # fmt: skip
        with pytest.raises(ValidationError) as caught:
            group_create(name, config, chosen)
        assert list(caught.value.message_dict) == [field]

    assert TradingSession.objects.count() == 1


def test_a_command_reaches_every_session_in_the_name_of_who_gave_it() -> None:
    group = make_group()

    started = group_command(group.pk, "start", actor="alice")

    assert statuses(group) == [S.ACTIVE] * 3
    assert [(one.is_done, one.detail) for one in started] == [(True, "")] * 3
    assert len(events("command", command="start")) == 3
    group_command(group.pk, "suspend")
    assert statuses(group) == [S.SUSPENDED] * 3
    group_command(group.pk, "recover")
    assert TradingSession.objects.filter(recover_requested_at=None).count() == 0
    group_command(group.pk, "stop")
    assert statuses(group) == [S.STOPPING] * 3


def test_a_command_given_twice_changes_nothing_and_says_so() -> None:
    group = make_group(2)
    group_command(group.pk, "start")

    again = group_command(group.pk, "start")

    assert [(one.is_done, one.detail) for one in again] == [(True, "was ACTIVE already")] * 2
    assert len(events("command", command="start")) == 2
    assert set(TradingSession.objects.values_list("run", flat=True)) == {1}


def test_one_refusal_does_not_keep_the_others() -> None:
    group = make_group(3)
    first, second, third = group.sessions.order_by("pk")
    Account.objects.filter(pk=first.account_id).update(status=Account.Status.PAUSED, status_reason="keys")
    make_session(second.account, second.config)

    outcomes = group_command(group.pk, "start")

    assert outcomes == [
        Outcome(first.pk, first.account_id, False, "wanted an active account, was PAUSED: keys"),
        Outcome(second.pk, second.account_id, False, "another session already runs this configuration on this account"),
        Outcome(third.pk, third.account_id, True, ""),
    ]
    assert statuses(group) == [S.CREATED, S.CREATED, S.ACTIVE]


def test_a_session_that_the_command_does_not_fit_says_what_was_wanted() -> None:
    group = make_group(1)

    [outcome] = group_command(group.pk, "suspend")

    assert (outcome.is_done, outcome.detail) == (False, "to suspend a session it must be ACTIVE, was CREATED")


@committed
def test_two_who_start_a_group_at_once_start_each_session_once() -> None:
    group = make_group(2)

    outcomes = at_once([lambda: group_command(group.pk, "start")] * 2)

    assert [one.is_done for outcome in outcomes for one in outcome] == [True] * 4
    assert set(TradingSession.objects.values_list("run", flat=True)) == {1}
    assert len(events("command", command="start")) == 2
