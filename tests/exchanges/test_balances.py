"""Balances and keys: the later reading counts, and keys the venue refuses pause the account once."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from django.utils import timezone

from exchanges.accounts import account_pause, balances_refresh
from exchanges.ccxt_gateway import CcxtGateway
from exchanges.gateway import ExchangeUnavailable
from exchanges.models import Account, Balance
from tests.factories import KEY, SECRET, events
from tests.race import at_once, happens_after
from tests.venue import Venue

HTML = "<html>maintenance</html>"


# -- balances ---------------------------------------------------------------------------------------------------------


def balances(account: Account) -> dict[str, Decimal]:
    return dict(account.balances.values_list("currency", "total"))


def test_balances_are_read_exactly_and_once_a_currency(venue: Venue) -> None:
    account = venue.account
    venue.simulator.open_account(USDT="123.456789012345678901", BTC="2")

    balances_refresh(account.pk)
    balances_refresh(account.pk)

    assert balances(account) == {"USDT": Decimal("123.456789012345678901"), "BTC": 2}


def test_a_currency_that_is_no_longer_shown_is_zero(venue: Venue) -> None:
    account = venue.account
    long_ago = timezone.now() - timedelta(days=1)
    Balance.objects.create(account=account, currency="DOGE", total=5, free=5, read_at=long_ago)

    balances_refresh(account.pk)

    assert balances(account) == {"USDT": 10000, "DOGE": 0}


@pytest.mark.parametrize("body", [HTML, '{"code":"200000"}', '{"code":"20'])
def test_a_page_that_is_no_balance_empties_no_account(venue: Venue, body: str) -> None:
    account = venue.account
    venue.fault(kind="body", body=body, path="/api/v1/accounts")

    with pytest.raises(ExchangeUnavailable):
        balances_refresh(account.pk)

    account.refresh_from_db()
    assert balances(account) == {"USDT": 10000}
    assert account.status == Account.Status.ACTIVE


def test_what_was_asked_earlier_does_not_overwrite_what_was_asked_later(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = venue.account

    def meanwhile() -> None:
        venue.simulator.open_account(USDT="7000", BTC="1")
        balances_refresh(account.pk)

    with monkeypatch.context() as patch:
        happens_after(patch, CcxtGateway, "balances", meanwhile)
        balances_refresh(account.pk)

    assert balances(account) == {"USDT": 7000, "BTC": 1}


def test_a_clock_that_was_set_back_does_not_freeze_the_balances(venue: Venue) -> None:
    account = venue.account
    Account.objects.update(balances_synced_at=timezone.now() + timedelta(hours=1))
    Balance.objects.update(read_at=timezone.now() + timedelta(hours=1), total=1)

    balances_refresh(account.pk)

    assert balances(account) == {"USDT": 10000}


def test_balances_refreshed_at_once_do_not_wait_for_each_other_in_vain(venue: Venue) -> None:
    account = venue.account
    for currency in ("AAA", "ZZZ"):
        Balance.objects.create(
            account=account, currency=currency, total=1, free=1, read_at=timezone.now() - timedelta(days=1)
        )

    results = at_once([lambda: balances_refresh(account.pk)] * 6)

    assert [[row.currency for row in result] for result in results] == [["USDT"]] * 6
    assert balances(account) == {"USDT": 10000, "AAA": 0, "ZZZ": 0}


# -- refused keys -----------------------------------------------------------------------------------------------------


def test_refused_keys_pause_the_account_once_and_say_so_once(venue: Venue) -> None:
    account = venue.account
    venue.simulator.control("accounts", apiKey=KEY, secret=SECRET, passphrase="changed")

    for _ in range(3):
        with pytest.raises(ExchangeUnavailable):
            balances_refresh(account.pk)

    account.refresh_from_db()
    assert account.status == Account.Status.PAUSED
    assert "400004" in account.status_reason
    assert len(events("alerts", alert="ACCOUNT_PAUSED")) == 1


def test_an_account_is_paused_by_one_of_many_who_try(venue: Venue) -> None:
    account = venue.account

    results = at_once([lambda: account_pause(account.pk, "400003")] * 5)

    assert sorted(results) == [False, False, False, False, True]
    assert len(events("alerts", alert="ACCOUNT_PAUSED")) == 1


def test_a_venue_that_is_away_pauses_nobody(venue: Venue) -> None:
    account = venue.account
    venue.fault(kind="http", status=401, body=HTML, count=1)

    with pytest.raises(ExchangeUnavailable):
        balances_refresh(account.pk)

    account.refresh_from_db()
    assert account.status == Account.Status.ACTIVE
    assert events("alerts") == []
