"""Exchange keys at rest: sealed, rotated, and seen by nobody."""

from __future__ import annotations

import copy
import json
import logging
import pickle

import pytest
from cryptography.fernet import Fernet
from django.core import serializers
from django.core.management import CommandError, call_command
from django.db import connection
from pytest_django import Settings

from exchanges.accounts import account_create, account_rekey, balances_refresh
from exchanges.credentials import Credentials, SealedCredentials, UnableToDecrypt, seal, unseal
from exchanges.models import Account
from exchanges.services import gateway_for
from pipeline.models import Event
from tests.factories import KEY, PASSPHRASE, SECRET, make_account, make_exchange, make_user
from tests.venue import Venue

OLD_KEY, NEW_KEY = Fernet.generate_key().decode(), Fernet.generate_key().decode()
CREDENTIALS = Credentials(KEY, SECRET, PASSPHRASE)
CANARIES = (SECRET, PASSPHRASE)


def test_what_was_sealed_is_unsealed_whatever_characters_it_holds() -> None:
    odd = Credentials("kéy", 'se"cr\\et\n', "пароль 🔑")

    assert unseal(seal(odd)) == odd


def test_two_seals_of_one_secret_differ() -> None:
    assert seal(CREDENTIALS) != seal(CREDENTIALS)


def test_a_new_first_key_writes_and_the_old_one_still_opens(settings: Settings) -> None:
    settings.ENCRYPTION_KEYS = (OLD_KEY,)
    old = seal(CREDENTIALS)

    settings.ENCRYPTION_KEYS = (NEW_KEY, OLD_KEY)
    new = seal(CREDENTIALS)

    assert unseal(old) == unseal(new) == CREDENTIALS
    assert Fernet(NEW_KEY).decrypt(new)


def test_without_the_key_that_wrote_them_credentials_stay_shut(settings: Settings) -> None:
    settings.ENCRYPTION_KEYS = (OLD_KEY,)
    old = seal(CREDENTIALS)

    settings.ENCRYPTION_KEYS = (NEW_KEY,)

    with pytest.raises(UnableToDecrypt, match="R3EDGE_ENCRYPTION_KEYS"):
        unseal(old)


@pytest.mark.parametrize("damage", [b"", b"garbage", b"gAAAAA"])
def test_a_damaged_seal_is_told_as_one_that_cannot_be_opened(damage: bytes) -> None:
    with pytest.raises(UnableToDecrypt):
        unseal(damage)


@pytest.mark.parametrize(("key", "hint"), [("5c2db93503aa674c74a31734", "…1734"), ("", ""), ("ab", "…ab")])
def test_a_hint_shows_the_end_of_the_key_and_nothing_of_the_secret(key: str, hint: str) -> None:
    assert Credentials(key, SECRET, PASSPHRASE).hint == hint


def test_credentials_show_themselves_in_no_text() -> None:
    texts = [
        repr(CREDENTIALS),
        str(CREDENTIALS),
        f"{CREDENTIALS}",
        repr([CREDENTIALS]),
        repr(SealedCredentials(seal(CREDENTIALS))),
    ]

    assert not [text for text in texts if any(canary in text for canary in (KEY, *CANARIES))]


def test_credentials_in_the_clear_are_not_pickled() -> None:
    with pytest.raises(TypeError, match="credentials"):
        pickle.dumps(CREDENTIALS)


@pytest.mark.django_db
def test_the_database_holds_the_seal_and_the_hint_only() -> None:
    make_account()

    with connection.cursor() as cursor:
        cursor.execute("SELECT row_to_json(a)::text, convert_from(credentials, 'UTF8') FROM exchanges_account a")
        [(row, token)] = cursor.fetchall()

    assert not any(canary in row + token for canary in (KEY, *CANARIES))
    assert json.loads(row)["key_hint"] == "…lice"
    assert unseal(token.encode()) == CREDENTIALS


@pytest.mark.django_db
def test_an_account_that_travels_takes_the_seal_along_and_no_secret() -> None:
    account = make_account()

    travelled = pickle.dumps(account)

    assert not any(canary.encode() in travelled for canary in CANARIES)
    assert pickle.loads(travelled).credentials.reveal() == CREDENTIALS
    assert copy.deepcopy(account).credentials.reveal() == CREDENTIALS
    assert not any(canary in serializers.serialize("json", [account]) for canary in CANARIES)


@pytest.mark.django_db
def test_an_account_just_created_shows_no_secret_either() -> None:
    account = account_create(
        owner=make_user(), exchange=make_exchange(), name="new", currency="usdt", credentials=CREDENTIALS
    )

    assert isinstance(account.credentials, SealedCredentials)
    assert not any(canary in repr(vars(account)) for canary in CANARIES)
    assert account.currency == "USDT"
    assert account.risk_profile.max_open_positions == 5


@pytest.mark.django_db
def test_saving_an_account_again_leaves_its_keys_as_they_were() -> None:
    account = make_account()

    account.name = "renamed"
    account.save()

    assert Account.objects.get().credentials.reveal() == CREDENTIALS


@pytest.mark.django_db
def test_new_keys_make_a_new_gateway_and_a_paused_account_active() -> None:
    account = make_account()
    gateway = gateway_for(account.exchange, account)
    Account.objects.update(status=Account.Status.PAUSED, status_reason="400003")

    account_rekey(account.pk, Credentials("another-key-5678", "s", "p"))

    account.refresh_from_db()
    assert (account.status, account.status_reason, account.key_hint) == ("ACTIVE", "", "…5678")
    assert gateway_for(account.exchange, account) is not gateway
    assert gateway_for(account.exchange, account) is gateway_for(account.exchange, account)


@pytest.mark.django_db
def test_an_account_whose_encryption_key_is_lost_opens_no_gateway(settings: Settings) -> None:
    account = make_account()

    settings.ENCRYPTION_KEYS = (NEW_KEY,)

    with pytest.raises(UnableToDecrypt):
        gateway_for(account.exchange, account)


def test_no_secret_reaches_the_log_the_journal_or_an_account_that_is_refused(
    venue: Venue, caplog: pytest.LogCaptureFixture
) -> None:
    account = venue.account
    venue.simulator.control("accounts", apiKey=KEY, secret=SECRET, passphrase=PASSPHRASE, permissions="Margin")
    caplog.set_level(logging.DEBUG)

    with pytest.raises(Exception, match="400007") as raised:
        balances_refresh(account.pk)

    account.refresh_from_db()
    journal = list(Event.objects.values_list("data", "ids"))
    said = f"{caplog.text} {raised.value} {account.status_reason} {journal}"
    assert account.status == Account.Status.PAUSED
    assert "400007" in account.status_reason
    assert not any(canary in said for canary in (KEY, *CANARIES))


@pytest.mark.django_db
def test_a_dump_of_an_account_loads_again_with_its_keys_sealed() -> None:
    account = make_account()
    dumped = serializers.serialize("json", [account])

    [loaded] = serializers.deserialize("json", dumped)
    loaded.save()

    assert Account.objects.get().credentials.reveal() == CREDENTIALS


@pytest.mark.django_db
def test_after_resealing_the_old_encryption_key_is_not_needed_any_more(settings: Settings) -> None:
    settings.ENCRYPTION_KEYS = (OLD_KEY,)
    account = make_account()
    settings.ENCRYPTION_KEYS = (NEW_KEY, OLD_KEY)

    call_command("reseal")

    settings.ENCRYPTION_KEYS = (NEW_KEY,)
    account.refresh_from_db()
    assert account.credentials.reveal() == CREDENTIALS


@pytest.mark.django_db
def test_resealing_that_cannot_open_one_account_changes_none(settings: Settings) -> None:
    settings.ENCRYPTION_KEYS = (OLD_KEY,)
    first = make_account(name="first")
    sealed = first.credentials.token
    settings.ENCRYPTION_KEYS = (NEW_KEY,)

    with pytest.raises(CommandError, match="R3EDGE_ENCRYPTION_KEYS"):
        call_command("reseal")

    first.refresh_from_db()
    assert first.credentials.token == sealed
