"""Accounts through the forms: made with keys and limits, given new keys, never showing any."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from exchanges.accounts import risk_profile_change
from exchanges.admin import AccountPage
from exchanges.models import Account, Balance, Exchange, Market, RiskProfile
from tests.admin.conftest import errors_of, make_trader, signed_in, told, url_of, words_of
from tests.factories import KEY, PASSPHRASE, SECRET, make_account, make_exchange, make_session
from tests.venue import Venue

LIMITS = {
    "risk_profile-TOTAL_FORMS": "1", "risk_profile-INITIAL_FORMS": "0",
    "risk_profile-0-max_open_positions": "3", "risk_profile-0-max_exposure": "2500.5", "risk_profile-0-preset": "CUSTOM",
    "risk_profile-0-cooldown_minutes": "60", "risk_profile-0-var_method": "HISTORICAL",
    "risk_profile-0-var_confidence": "0.95", "risk_profile-0-var_horizon_hours": "24",
}  # fmt: skip
CANARIES = ("canary-key-1234", "canary-secret", "canary-passphrase")


def filled_in(exchange: Exchange, **changes: str) -> dict[str, Any]:
    keys = dict(zip(("api_key", "secret", "passphrase"), CANARIES, strict=True))
    return {"name": "main", "exchange": exchange.pk, "currency": "usdt", **keys, **LIMITS, **changes}


def changed(account: Account, **changes: str) -> dict[str, Any]:
    profile = {
        "risk_profile-INITIAL_FORMS": "1", "risk_profile-0-id": str(account.risk_profile.pk),
        "risk_profile-0-account": str(account.pk),
    }  # fmt: skip
    return {"name": account.name, "api_key": "", "secret": "", "passphrase": "", **LIMITS, **profile, **changes}


def test_a_trader_makes_an_account_with_keys_and_limits(desk: Client, alice: User) -> None:
    response = desk.post(url_of(Account, "add"), filled_in(make_exchange()))

    account = Account.objects.get()
    assert response.status_code == 302
    assert (account.owner, account.name, account.currency, account.key_hint) == (alice, "main", "USDT", "…1234")
    revealed = account.credentials.reveal()
    assert (revealed.api_key, revealed.secret, revealed.passphrase) == CANARIES
    assert (account.risk_profile.max_open_positions, account.risk_profile.max_exposure) == (3, Decimal("2500.5"))


def test_limits_left_as_they_were_offered_are_the_defaults(desk: Client) -> None:
    untouched = {"risk_profile-0-max_open_positions": "5", "risk_profile-0-max_exposure": ""}

    desk.post(url_of(Account, "add"), filled_in(make_exchange(), **untouched))

    profile = Account.objects.get().risk_profile
    assert (profile.max_open_positions, profile.max_exposure) == (5, None)


def test_a_superuser_makes_an_account_for_a_trader(root: User, bob: User) -> None:
    signed_in(root).post(url_of(Account, "add"), filled_in(make_exchange(), owner=str(bob.pk)))

    assert Account.objects.get().owner == bob


def test_a_trader_cannot_make_an_account_for_somebody_else(desk: Client, alice: User, bob: User) -> None:
    desk.post(url_of(Account, "add"), filled_in(make_exchange(), owner=str(bob.pk)))

    assert Account.objects.get().owner == alice


def test_keys_left_empty_are_kept(desk: Client, alice: User) -> None:
    account = make_account(alice)

    desk.post(url_of(Account, "change", account.pk), changed(account, name="renamed"))

    account.refresh_from_db()
    assert account.name == "renamed"
    assert account.credentials.reveal().secret == SECRET
    assert (account.risk_profile.max_open_positions, account.risk_profile.max_exposure) == (3, Decimal("2500.5"))


def test_new_keys_replace_the_old_ones_and_wake_a_paused_account(desk: Client, alice: User) -> None:
    account = make_account(alice)
    Account.objects.filter(pk=account.pk).update(status=Account.Status.PAUSED, status_reason="invalid key")

    desk.post(
        url_of(Account, "change", account.pk),
        changed(account, api_key="new-key-9876", secret="new-secret", passphrase="p"),
    )

    account.refresh_from_db()
    revealed = account.credentials.reveal()
    assert (revealed.api_key, revealed.secret, revealed.passphrase) == ("new-key-9876", "new-secret", "p")
    assert (account.key_hint, account.status, account.status_reason) == ("…9876", Account.Status.ACTIVE, "")


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"api_key": ""}, "api_key", "wanted the API key, was the others without it; new keys are entered together"),
        ({"secret": ""}, "secret", "wanted the API secret, was the others without it; new keys are entered together"),
        (
            {"api_key": "", "secret": "", "passphrase": ""},
            "secret",
            "wanted the API secret, was nothing; new keys are entered together",
        ),
        ({"name": ""}, "name", "This field is required."),
        ({"exchange": "999"}, "exchange", "Select a valid choice. That choice is not one of the available choices."),
    ],
)
def test_what_is_wrong_with_an_account_is_said_at_its_field(
    desk: Client, changes: dict[str, str], field: str, message: str
) -> None:
    response = desk.post(url_of(Account, "add"), {**filled_in(make_exchange()), **changes})

    assert response.status_code == 200
    assert errors_of(response)[field] == [message]
    assert not Account.objects.exists()


PAPER = {"api_key": "", "secret": "", "passphrase": "", "is_paper": "on", "paper_balance": "1000.5"}


def test_a_trader_makes_an_account_on_paper_without_any_keys(desk: Client, alice: User) -> None:
    response = desk.post(url_of(Account, "add"), filled_in(make_exchange(), **PAPER))

    account = Account.objects.get()
    assert response.status_code == 302
    assert (account.owner, account.is_paper, account.key_hint, account.currency) == (alice, True, "", "USDT")
    assert list(account.paper_balances.values_list("currency", "total", "held")) == [
        ("USDT", Decimal("1000.5"), Decimal(0))
    ]
    assert (account.risk_profile.max_open_positions, account.risk_profile.max_exposure) == (3, Decimal("2500.5"))
    page = words_of(desk.get(url_of(Account, "change", account.pk)))
    assert "Key on paper" in page
    assert "API key" not in page
    assert " on paper " in words_of(desk.get(url_of(Account, "changelist")))


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        (
            {"paper_balance": ""},
            "paper_balance",
            "wanted the balance that a paper account starts with, was nothing",
        ),
        ({"api_key": "k"}, "api_key", "wanted no keys for a paper account, was given some"),
        ({"paper_balance": "-1"}, "paper_balance", "Ensure this value is greater than or equal to 0."),
        (
            {"is_paper": "", "api_key": "k", "secret": "s"},
            "paper_balance",
            "wanted nothing here for an account with keys, was given",
        ),
    ],
)
def test_what_is_wrong_with_a_paper_account_is_said_at_its_field(
    desk: Client, changes: dict[str, str], field: str, message: str
) -> None:
    response = desk.post(url_of(Account, "add"), filled_in(make_exchange(), **{**PAPER, **changes}))

    assert response.status_code == 200
    assert errors_of(response)[field] == [message]
    assert not Account.objects.exists()


def test_a_paper_account_at_a_venue_of_contracts_is_refused_at_its_field(desk: Client) -> None:
    futures = make_exchange("futures", ccxt_id="kucoinfutures")

    response = desk.post(url_of(Account, "add"), filled_in(futures, **PAPER))

    [message] = errors_of(response)["exchange"]
    assert message.startswith("wanted an exchange of spot markets for a paper account")
    assert not Account.objects.exists()


def test_the_passphrase_alone_is_no_set_of_keys(desk: Client, alice: User) -> None:
    account = make_account(alice)

    response = desk.post(url_of(Account, "change", account.pk), changed(account, passphrase="alone"))

    assert set(errors_of(response)) == {"api_key", "secret"}
    account.refresh_from_db()
    assert account.credentials.reveal().passphrase == PASSPHRASE


def test_a_name_is_used_once_per_trader(desk: Client, alice: User, bob: User) -> None:
    make_account(bob, name="main")
    make_account(alice, name="second")

    first = desk.post(url_of(Account, "add"), filled_in(make_exchange()))
    again = desk.post(url_of(Account, "add"), filled_in(make_exchange(), name="second"))

    assert first.status_code == 302
    assert errors_of(again) == {"name": ["wanted a name that none of your other accounts has, was 'second'"]}


def test_negative_limits_are_refused_at_their_field(desk: Client) -> None:
    response = desk.post(url_of(Account, "add"), filled_in(make_exchange(), **{"risk_profile-0-max_exposure": "-1"}))

    formset = response.context["inline_admin_formsets"][0].formset
    assert formset.errors == [{"max_exposure": ["Ensure this value is greater than or equal to 0."]}]
    assert not Account.objects.exists()


def test_a_rename_does_not_undo_what_happened_meanwhile(
    desk: Client, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = make_account(alice)
    save = AccountPage.save_model

    def paused_meanwhile(*args: Any) -> None:
        Account.objects.filter(pk=account.pk).update(status=Account.Status.PAUSED)
        save(*args)

    monkeypatch.setattr(AccountPage, "save_model", paused_meanwhile)
    desk.post(url_of(Account, "change", account.pk), changed(account, name="renamed"))

    account.refresh_from_db()
    assert (account.name, account.status) == ("renamed", Account.Status.PAUSED)


def test_keys_are_on_no_page_not_even_when_the_form_comes_back(desk: Client, alice: User) -> None:
    account = make_account(alice)
    refused = desk.post(url_of(Account, "add"), filled_in(make_exchange(), name=""))
    rekeyed = desk.post(
        url_of(Account, "change", account.pk),
        changed(account, **dict(zip(("api_key", "secret", "passphrase"), CANARIES, strict=True))),
        follow=True,
    )

    pages = [refused, rekeyed, desk.get(url_of(Account, "changelist"))]
    pages += [desk.get(url_of(Account, page, account.pk)) for page in ("change", "sections", "history", "delete")]
    told_of = " ".join(f"{entry.object_repr} {entry.change_message}" for entry in LogEntry.objects.all())
    for secret in (*CANARIES, KEY, SECRET, PASSPHRASE, account.credentials.token.decode()):
        assert [page.request["PATH_INFO"] for page in pages if secret in page.content.decode()] == []
        assert secret not in told_of
    assert "…1234" in words_of(desk.get(url_of(Account, "change", account.pk)))


def test_an_account_that_trades_is_not_deleted_and_an_unused_one_is(desk: Client, alice: User) -> None:
    used, unused = make_account(alice, name="used"), make_account(alice, name="unused")
    make_session(used)

    desk.post(url_of(Account, "delete", used.pk), {"post": "yes"})
    desk.post(url_of(Account, "delete", unused.pk), {"post": "yes"})

    assert list(Account.objects.values_list("name", flat=True)) == ["used"]
    assert list(Balance.objects.values_list("account__name", flat=True)) == ["used"]


def test_balances_are_read_by_a_button(venue: Venue) -> None:
    Balance.objects.filter(account=venue.account).delete()

    response = signed_in(make_trader(venue.account.owner.username)).post(
        url_of(Account, "read_balances", venue.account.pk), {"_form_submitted": "True"}
    )

    assert told(response) == ["main (simulator): read the balances of 1 currencies"]
    assert Balance.objects.get(account=venue.account, currency="USDT").total == Decimal(10000)


def test_markets_and_clock_are_read_by_a_superusers_button(venue: Venue, root: User) -> None:
    Market.objects.all().delete()

    response = signed_in(root).post(url_of(Exchange, "read_now", venue.exchange.pk), {"_form_submitted": "True"})

    count = Market.objects.count()
    assert count > 0
    assert told(response) == [f"simulator: read the clock and {count} markets"]


def test_an_exchange_that_nobody_asked_does_not_look_open(desk: Client) -> None:
    exchange = make_exchange(status_read_at=None)

    assert "NOT READ" in words_of(desk.get(url_of(Exchange, "changelist")))

    Exchange.objects.filter(pk=exchange.pk).update(status_read_at=timezone.now())
    page = words_of(desk.get(url_of(Exchange, "changelist")))
    assert "NOT READ" not in page
    assert " OPEN " in page


def test_an_exchange_of_which_there_is_only_data_is_not_waited_for(desk: Client) -> None:
    exchange = make_exchange(ccxt_id="", status_read_at=None)

    assert "ONLY DATA" in words_of(desk.get(url_of(Exchange, "changelist")))
    assert "Status ONLY DATA nobody is called for it" in words_of(desk.get(url_of(Exchange, "change", exchange.pk)))


def test_an_exchange_that_cannot_be_reached_is_told_of(desk: Client, alice: User) -> None:
    account = make_account(alice)

    response = desk.post(url_of(Account, "read_balances", account.pk), {"_form_submitted": "True"})

    [message] = told(response)
    assert message.startswith("main (simulator): ")
    assert response.status_code == 302


def test_a_preset_that_is_chosen_sets_every_limit(desk: Client, alice: User) -> None:
    account = make_account(alice)

    desk.post(url_of(Account, "change", account.pk), changed(account, **{"risk_profile-0-preset": "BALANCED"}))

    profile = RiskProfile.objects.get()
    assert (profile.preset, profile.max_open_positions, profile.max_exposure) == ("BALANCED", 6, None)
    assert profile.max_daily_loss_percent == 4


def test_a_limit_that_is_changed_makes_a_preset_custom(desk: Client, alice: User) -> None:
    account = make_account(alice)
    risk_profile_change(account.pk, {"preset": "BALANCED"})

    desk.post(url_of(Account, "change", account.pk), changed(account, **{"risk_profile-0-preset": "BALANCED"}))

    profile = RiskProfile.objects.get()
    assert (profile.preset, profile.max_open_positions, profile.max_exposure) == ("CUSTOM", 3, Decimal("2500.5"))


def test_a_new_account_begins_with_the_preset_that_was_chosen(desk: Client) -> None:
    desk.post(url_of(Account, "add"), filled_in(make_exchange(), **{"risk_profile-0-preset": "CONSERVATIVE"}))

    profile = RiskProfile.objects.get()
    assert (profile.preset, profile.max_open_positions, profile.cooldown_losses) == ("CONSERVATIVE", 3, 3)
