"""What the keys of an account may do: asked before they are saved and once a day, and never more than trading."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone

from exchanges.accounts import (
    MAY_WITHDRAW,
    NOT_CHECKED,
    KeysRefused,
    account_create,
    account_pause,
    account_rekey,
    accounts_with_unchecked_keys,
    balances_refresh,
    keys_check,
)
from exchanges.ccxt_gateway import CcxtGateway
from exchanges.credentials import Credentials
from exchanges.gateway import ExchangeUnavailable, KeyRights
from exchanges.models import Account
from exchanges.tasks import check_keys, sweep_exchanges
from orders.services import order_submit
from tests.admin.conftest import errors_of, make_trader, signed_in, url_of
from tests.api.conftest import Api
from tests.conftest import Bells
from tests.factories import KEY, PASSPHRASE, SECRET, events, make_account, make_exchange, make_user
from tests.race import at_once, happens_after, happens_before
from tests.venue import Venue

CREDENTIALS = Credentials(KEY, SECRET, PASSPHRASE)
UNBOUND = "the keys work from any address: bind them to yours at the venue"


def open_keys(venue: Venue, permissions: str = "General,Spot", **fields: Any) -> None:
    """Keys that the venue knows."""
    venue.simulator.control(
        "accounts", apiKey=KEY, secret=SECRET, passphrase=PASSPHRASE, permissions=permissions, **fields
    )


def make_unchecked(account: Account) -> None:
    Account.objects.filter(pk=account.pk).update(keys_checked_at=timezone.now() - timedelta(days=1))


def create(venue: Venue, credentials: Credentials = CREDENTIALS) -> Account:
    return account_create(
        owner=make_user(), exchange=venue.exchange, name="new", currency="USDT", credentials=credentials
    )


# -- when they are saved ----------------------------------------------------------------------------------------------


def test_keys_that_may_trade_and_are_bound_to_addresses_are_saved_without_a_warning(venue: Venue) -> None:
    open_keys(venue, ipWhitelist="127.0.0.1")
    before = timezone.now()

    account = create(venue)

    assert account.keys_checked_at is not None
    assert before <= account.keys_checked_at <= timezone.now()
    assert (account.status, account.keys_warning) == ("ACTIVE", "")


@pytest.mark.parametrize(
    ("permissions", "warning"), [("General,Spot", UNBOUND), ("General", f"the keys may not trade; {UNBOUND}")]
)
def test_what_is_unwise_about_keys_is_a_warning(venue: Venue, permissions: str, warning: str) -> None:
    open_keys(venue, permissions)

    assert create(venue).keys_warning == warning


def test_keys_that_may_withdraw_are_not_saved(venue: Venue) -> None:
    open_keys(venue, "General,Spot,Transfer")

    with pytest.raises(KeysRefused, match="wanted keys that may trade and not withdraw, was keys that may withdraw"):
        create(venue)

    assert not Account.objects.exists()


def test_moving_funds_between_wallets_of_ones_own_is_no_withdrawing(venue: Venue) -> None:
    open_keys(venue, "General,Spot,InnerTransfer")

    assert create(venue).keys_checked_at is not None


def test_keys_that_the_venue_does_not_accept_are_not_saved(venue: Venue) -> None:
    with pytest.raises(KeysRefused, match=r"wanted keys that simulator accepts, was: .*400003"):
        create(venue)

    assert not Account.objects.exists()


def test_an_account_at_a_venue_that_is_away_is_saved_and_its_keys_are_checked_soon(venue: Venue, bells: Bells) -> None:
    open_keys(venue)
    venue.fault(path="/api/v1/user/api-key", kind="http", status=503, body="away", count=1)

    account = create(venue)
    sweep_exchanges()

    assert (account.keys_checked_at, account.keys_warning) == (None, NOT_CHECKED)
    assert bells.rung("exchanges.check_keys") == [{"account_ids": [account.pk]}]
    check_keys([account.pk])
    account.refresh_from_db()
    assert account.keys_checked_at is not None
    assert account.keys_warning == UNBOUND


def test_other_keys_of_an_account_are_examined_like_its_first(venue: Venue) -> None:
    account = venue.account
    Account.objects.filter(pk=account.pk).update(status="PAUSED", status_reason="400003")
    venue.simulator.control("accounts", apiKey="rich", secret="s", passphrase="p", permissions="General,Spot,Transfer")
    venue.simulator.control("accounts", apiKey="poor", secret="s", passphrase="p", permissions="General,Spot")

    with pytest.raises(KeysRefused, match="may withdraw"):
        account_rekey(account.pk, Credentials("rich", "s", "p"))
    account.refresh_from_db()
    kept = (account.credentials.reveal(), account.status)
    account_rekey(account.pk, Credentials("poor", "s", "p"))

    account.refresh_from_db()
    assert kept == (CREDENTIALS, "PAUSED")
    assert (account.credentials.reveal().api_key, account.status, account.keys_warning) == ("poor", "ACTIVE", UNBOUND)


@pytest.mark.parametrize(
    ("permissions", "message"), [("General,Spot,Transfer", MAY_WITHDRAW), (None, "wanted keys that simulator accepts")]
)
def test_the_api_says_what_is_wrong_with_keys_and_saves_nothing(
    venue: Venue, permissions: str | None, message: str
) -> None:
    if permissions:
        open_keys(venue, permissions)
    alice = Api(make_user())
    wanted = {"exchange": "simulator", "name": "new", "api_key": KEY, "secret": SECRET, "passphrase": PASSPHRASE}

    answer = alice.post("accounts", wanted)

    assert answer.status_code == 400
    assert message in answer.json()["fields"]["api_key"][0]
    assert not any(canary in answer.content.decode() for canary in (KEY, SECRET, PASSPHRASE))
    assert not Account.objects.exists()


def test_keys_are_not_replaced_over_the_api_by_some_that_may_withdraw(venue: Venue) -> None:
    account = venue.account
    venue.simulator.control("accounts", apiKey="rich", secret="s", passphrase="p", permissions="General,Spot,Transfer")

    answer = Api(account.owner).patch(
        f"accounts/{account.pk}", {"name": "renamed", "api_key": "rich", "secret": "s", "passphrase": "p"}
    )

    account.refresh_from_db()
    assert (answer.status_code, answer.json()["fields"]) == (400, {"api_key": [MAY_WITHDRAW]})
    assert (account.name, account.credentials.reveal()) == ("main", CREDENTIALS)


def form(**values: Any) -> dict[str, Any]:
    return {
        "name": "new", "currency": "USDT", "api_key": KEY, "secret": SECRET, "passphrase": PASSPHRASE,
        "risk_profile-TOTAL_FORMS": "1", "risk_profile-INITIAL_FORMS": "0", "risk_profile-0-max_open_positions": "3",
        "risk_profile-0-max_exposure": "", "risk_profile-0-preset": "CUSTOM", "risk_profile-0-cooldown_minutes": "60",
        "risk_profile-0-var_method": "HISTORICAL", "risk_profile-0-var_confidence": "0.95",
        "risk_profile-0-var_horizon_hours": "24", **values,
    }  # fmt: skip


def test_the_form_says_what_is_wrong_with_keys_and_saves_nothing(venue: Venue) -> None:
    open_keys(venue, "General,Spot,Transfer")

    response = signed_in(make_trader("carol")).post(url_of(Account, "add"), form(exchange=venue.exchange.pk))

    assert errors_of(response)["api_key"] == [MAY_WITHDRAW]
    assert not Account.objects.exists()


def test_the_form_asks_the_venue_once_and_in_no_transaction(venue: Venue, monkeypatch: pytest.MonkeyPatch) -> None:
    open_keys(venue, ipWhitelist="127.0.0.1")
    in_transaction: list[bool] = []
    asked = CcxtGateway.key_rights

    def key_rights(gateway: CcxtGateway) -> KeyRights:
        in_transaction.append(connection.in_atomic_block)
        return asked(gateway)

    monkeypatch.setattr(CcxtGateway, "key_rights", key_rights)

    response = signed_in(make_trader("carol")).post(url_of(Account, "add"), form(exchange=venue.exchange.pk))

    account = Account.objects.get()
    assert response.status_code == 302
    assert (account.owner.username, account.keys_warning) == ("carol", "")
    assert account.keys_checked_at is not None
    assert in_transaction == [False]


def test_keys_for_somebody_elses_account_are_not_even_tried(venue: Venue) -> None:
    account = venue.account
    before = len(venue.requests_of("GET", "/api/v1/user/api-key"))

    signed_in(make_trader("carol")).post(url_of(Account, "change", account.pk), form())
    Client().post(url_of(Account, "add"), form(exchange=venue.exchange.pk))

    assert len(venue.requests_of("GET", "/api/v1/user/api-key")) == before


# -- and once a day ---------------------------------------------------------------------------------------------------


def test_the_check_notes_when_the_venue_last_said_that_keys_are_good(venue: Venue) -> None:
    account = venue.account
    make_unchecked(account)

    check_keys([account.pk])

    account.refresh_from_db()
    assert account.keys_checked_at is not None
    assert account.keys_checked_at > timezone.now() - timedelta(minutes=1)
    assert accounts_with_unchecked_keys(timezone.now()) == []
    assert accounts_with_unchecked_keys(timezone.now() + timedelta(days=1)) == [account.pk]


def test_keys_that_may_withdraw_by_now_pause_their_account_and_say_so_once(venue: Venue) -> None:
    account = venue.account
    open_keys(venue, "General,Spot,Transfer")
    make_unchecked(account)

    check_keys([account.pk])
    check_keys([account.pk])

    account.refresh_from_db()
    assert (account.status, account.status_reason) == ("PAUSED", MAY_WITHDRAW)
    assert [alert["reason"] for alert in events("alerts", alert="ACCOUNT_PAUSED")] == [MAY_WITHDRAW]
    assert accounts_with_unchecked_keys(timezone.now()) == []


def test_keys_that_are_refused_by_now_pause_their_account(venue: Venue) -> None:
    account = venue.account
    venue.simulator.control("accounts", apiKey=KEY, secret=SECRET, passphrase=PASSPHRASE, isRevoked=True)

    assert not keys_check(account.pk)

    account.refresh_from_db()
    assert account.status == "PAUSED"
    assert "4000" in account.status_reason


def test_a_venue_that_cannot_be_asked_changes_nothing_and_is_asked_again(venue: Venue) -> None:
    account = venue.account
    make_unchecked(account)
    venue.fault(path="/api/v1/user/api-key", kind="http", status=500, body="", count=1)

    check_keys([account.pk])

    account.refresh_from_db()
    assert account.status == "ACTIVE"
    assert accounts_with_unchecked_keys(timezone.now()) == [account.pk]


def test_a_lost_bell_of_a_check_is_rung_again_by_the_sweep(venue: Venue, bells: Bells) -> None:
    account = venue.account
    make_unchecked(account)
    bells.clear()

    sweep_exchanges()

    assert bells.rung("exchanges.check_keys") == [{"account_ids": [account.pk]}]


@pytest.mark.django_db
def test_accounts_that_are_paused_switched_off_or_of_paper_are_not_asked_about() -> None:
    off = make_exchange("off", is_enabled=False)
    paused, unused, paper = make_account(name="1"), make_account(name="2", exchange=off), make_account(name="3")
    Account.objects.update(keys_checked_at=None)
    Account.objects.filter(pk=paused.pk).update(status="PAUSED")
    Account.objects.filter(pk=paper.pk).update(is_paper=True)

    assert accounts_with_unchecked_keys(timezone.now()) == []
    assert unused.exchange_id == off.pk


def test_many_checks_at_once_pause_once(venue: Venue) -> None:
    account = venue.account
    open_keys(venue, "General,Spot,Transfer")

    results = at_once([lambda: keys_check(account.pk)] * 4)

    assert results == [False] * 4
    assert len(events("alerts", alert="ACCOUNT_PAUSED")) == 1


# -- old keys and new ones --------------------------------------------------------------------------------------------


def rekeyed(venue: Venue, account: Account) -> None:
    """New keys, good ones, come from elsewhere."""
    venue.simulator.control(
        "accounts", apiKey="new", secret="s", passphrase="p", permissions="General,Spot", balances={"USDT": "5"}
    )
    account_rekey(account.pk, Credentials("new", "s", "p"))


def test_a_check_of_old_keys_says_nothing_of_new_ones(venue: Venue, monkeypatch: pytest.MonkeyPatch) -> None:
    account = venue.account
    open_keys(venue, "General,Spot,Transfer")
    happens_after(monkeypatch, CcxtGateway, "key_rights", lambda: rekeyed(venue, account))

    assert not keys_check(account.pk)

    account.refresh_from_db()
    assert (account.status, account.credentials.reveal().api_key) == ("ACTIVE", "new")
    assert events("alerts", alert="ACCOUNT_PAUSED") == []


def test_a_good_check_of_old_keys_does_not_count_for_new_ones(venue: Venue, monkeypatch: pytest.MonkeyPatch) -> None:
    account = venue.account

    def rekeyed_unseen() -> None:
        Account.objects.filter(pk=account.pk).update(credentials=Credentials("new", "s", "p"), keys_checked_at=None)

    happens_after(monkeypatch, CcxtGateway, "key_rights", rekeyed_unseen)

    keys_check(account.pk)

    account.refresh_from_db()
    assert account.keys_checked_at is None


def test_balances_read_with_old_keys_that_are_refused_pause_no_account_with_new_ones(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = venue.account
    venue.simulator.control("accounts", apiKey=KEY, secret=SECRET, passphrase="changed")
    happens_before(monkeypatch, CcxtGateway, "balances", lambda: rekeyed(venue, account))

    with pytest.raises(ExchangeUnavailable, match="400004"):
        balances_refresh(account.pk)

    account.refresh_from_db()
    assert account.status == "ACTIVE"
    assert events("alerts", alert="ACCOUNT_PAUSED") == []


def test_an_order_sent_with_old_keys_that_are_refused_pauses_no_account_with_new_ones(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = venue.ready_order()
    venue.simulator.control("accounts", apiKey=KEY, secret=SECRET, passphrase="changed")
    happens_before(monkeypatch, CcxtGateway, "order_create", lambda: rekeyed(venue, venue.account))

    assert order_submit(order.pk) == "REJECTED"

    venue.account.refresh_from_db()
    assert venue.account.status == "ACTIVE"
    assert events("alerts", alert="ACCOUNT_PAUSED") == []


@pytest.mark.django_db
def test_keys_that_are_still_in_use_pause_their_account() -> None:
    account = make_account()

    assert account_pause(account.pk, "400003", keys=Account.objects.get(pk=account.pk).credentials)
    assert not account_pause(account.pk, "400003", keys=account.credentials)
