"""Whether a venue takes orders and answers at all: read often, and told once to everybody who has an account there."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from exchanges import ccxt_gateway
from exchanges.ccxt_gateway import CcxtGateway
from exchanges.credentials import Credentials
from exchanges.gateway import ExchangeUnavailable
from exchanges.guarded_gateway import breaker_of
from exchanges.models import Account, Exchange
from exchanges.services import (
    exchange_status_read,
    exchanges_to_read_status_of,
    gateway_for,
)
from exchanges.tasks import read_status, watch_exchanges
from orders.services import order_submit
from pipeline.models import Event
from tests.api.conftest import Api
from tests.conftest import Bells
from tests.factories import events, make_account, make_exchange, make_user
from tests.race import at_once, elsewhere, happens_after
from tests.venue import Venue

ALERTS = ("VENUE_STATUS", "VENUE_UNREACHABLE", "VENUE_REACHABLE")


def alerts() -> list[str]:
    return [data["alert"] for data in events("alerts") if data["alert"] in ALERTS]


def status(venue: Venue) -> tuple[str, str]:
    venue.exchange.refresh_from_db()
    return venue.exchange.status, venue.exchange.status_message


def stay_silent(venue: Venue, count: int = 99) -> None:
    """The venue answers nobody, and five calls have found that out."""
    venue.fault(kind="drop", path="*", count=count)
    for _ in range(5):
        with pytest.raises(ExchangeUnavailable):
            gateway_for(venue.exchange).time()


def make_trial_due(venue: Venue, bells: Bells) -> None:
    """As if the circuit had been open for its time."""
    bells.client.delete(breaker_of(venue.exchange.pk).keys[2])


def orders_of(account: Account) -> ExchangeUnavailable | None:
    """What came of asking for its orders, if not they."""
    try:
        gateway_for(account.exchange, account, account.exchange.markets.all()).orders_open("BTC/USDT")
    except ExchangeUnavailable as error:
        return error
    return None


def is_due(venue: Venue, after: timedelta = timedelta(0)) -> bool:
    return venue.exchange.pk in exchanges_to_read_status_of(timezone.now() + after)


def test_a_change_of_the_venues_status_is_noted_and_told_once(venue: Venue) -> None:
    assert venue.account
    venue.simulator.control("settings", status="cancelonly", statusMessage="upgrade at noon")

    read_status([venue.exchange.pk])
    read_status([venue.exchange.pk])

    assert status(venue) == ("CANCEL_ONLY", "upgrade at noon")
    assert events("alerts") == [
        {
            "alert": "VENUE_STATUS", "exchange": "simulator", "status": "CANCEL_ONLY", "was": "OPEN",
            "message": "upgrade at noon",
        }
    ]  # fmt: skip


def test_a_venue_that_is_open_again_is_told_of_too(venue: Venue) -> None:
    assert venue.account
    venue.simulator.control("settings", status="close")
    read_status([venue.exchange.pk])
    venue.simulator.control("settings", status="open")

    read_status([venue.exchange.pk])

    assert status(venue) == ("OPEN", "")
    assert [(data["was"], data["status"]) for data in events("alerts")] == [("OPEN", "CLOSED"), ("CLOSED", "OPEN")]


def test_each_trader_is_told_once_however_many_accounts_they_have_there(venue: Venue) -> None:
    alice, bob = make_user("alice"), make_user("bob")
    first = make_account(alice, venue.exchange, "1")
    make_account(alice, venue.exchange, "2")
    of_bob = make_account(bob, venue.exchange, "3")
    make_account(make_user("carol"), make_exchange("other"), "4")
    venue.simulator.control("settings", status="close")

    exchange_status_read(venue.exchange.pk)

    told = Event.objects.filter(topic="alerts", data__alert="VENUE_STATUS").order_by("owner_id")
    assert list(told.values_list("key", "owner_id")) == [(first.pk, alice.pk), (of_bob.pk, bob.pk)]
    assert told[0].ids == {"account_id": first.pk, "owner_id": alice.pk, "exchange_id": venue.exchange.pk}


def test_many_readers_at_once_tell_once(venue: Venue) -> None:
    assert venue.account
    venue.simulator.control("settings", status="close")

    at_once([lambda: exchange_status_read(venue.exchange.pk)] * 5)

    assert alerts() == ["VENUE_STATUS"]


def test_a_status_that_was_asked_for_earlier_does_not_overwrite_a_later_one(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed_and_read() -> None:
        venue.simulator.control("settings", status="close")
        exchange_status_read(venue.exchange.pk)

    assert venue.account
    happens_after(monkeypatch, CcxtGateway, "status", closed_and_read)

    assert exchange_status_read(venue.exchange.pk) == "CLOSED"

    assert status(venue) == ("CLOSED", "")
    assert alerts() == ["VENUE_STATUS"]


# -- how often it is asked --------------------------------------------------------------------------------------------


def test_a_venue_that_is_open_is_asked_every_minute_by_the_sweep_and_one_that_is_not_each_time(
    venue: Venue, bells: Bells
) -> None:
    assert venue.account
    never = is_due(venue)
    exchange_status_read(venue.exchange.pk)
    just_read, a_minute_later = is_due(venue), is_due(venue, timedelta(seconds=60))
    venue.simulator.control("settings", status="cancelonly")
    exchange_status_read(venue.exchange.pk)
    bells.clear()

    watch_exchanges()

    assert (never, just_read, a_minute_later) == (True, False, True)
    assert bells.rung("exchanges.read_status") == [{"exchange_ids": [venue.exchange.pk]}]


def test_a_venue_that_nobody_uses_or_that_is_switched_off_is_not_asked(venue: Venue) -> None:
    unused = is_due(venue)
    assert venue.account
    used = is_due(venue)

    Exchange.objects.update(is_enabled=False)

    assert (unused, used, is_due(venue)) == (False, True, False)


def test_an_order_refused_because_the_venue_takes_none_has_its_status_read(venue: Venue, bells: Bells) -> None:
    order = venue.ready_order()
    venue.simulator.control("settings", status="cancelonly")
    bells.clear()

    order_submit(order.pk)
    [bell] = bells.rung("exchanges.read_status")
    read_status(**bell)

    assert status(venue)[0] == "CANCEL_ONLY"


# -- a venue that does not answer -------------------------------------------------------------------------------------


def test_a_venue_that_stops_answering_is_told_of_once_and_so_is_its_return(venue: Venue, bells: Bells) -> None:
    assert venue.account
    bells.clear()

    stay_silent(venue)
    for bell in bells.rung("exchanges.read_status"):
        read_status(**bell)
    read_status([venue.exchange.pk])
    venue.exchange.refresh_from_db()
    lost_at, told_of_loss, is_asked_again = venue.exchange.unreachable_at, alerts(), is_due(venue)
    venue.heal()
    make_trial_due(venue, bells)
    read_status([venue.exchange.pk])
    read_status([venue.exchange.pk])

    venue.exchange.refresh_from_db()
    assert lost_at is not None
    assert told_of_loss == ["VENUE_UNREACHABLE"]
    assert is_asked_again
    assert venue.exchange.unreachable_at is None
    assert alerts() == ["VENUE_UNREACHABLE", "VENUE_REACHABLE"]
    assert not breaker_of(venue.exchange.pk).is_open()


def test_the_loss_of_a_venue_is_noticed_by_the_sweep_when_its_bell_was_lost(venue: Venue, bells: Bells) -> None:
    assert venue.account
    stay_silent(venue)
    for key in bells.client.keys("exchanges*"):  # type: ignore[union-attr]
        bells.client.delete(key)

    watch_exchanges()
    [bell] = bells.rung("exchanges.read_status")
    read_status(**bell)

    assert alerts() == ["VENUE_UNREACHABLE"]


def test_many_who_notice_the_loss_at_once_tell_once(venue: Venue) -> None:
    assert venue.account
    stay_silent(venue)

    at_once([lambda: read_status([venue.exchange.pk])] * 5)

    assert alerts() == ["VENUE_UNREACHABLE"]


def test_one_failure_is_no_loss(venue: Venue) -> None:
    assert venue.account
    venue.fault(kind="drop", path="/api/v1/status", count=1)

    read_status([venue.exchange.pk])

    assert alerts() == []


def test_an_order_for_a_venue_that_does_not_answer_is_not_sent_and_waits(venue: Venue, bells: Bells) -> None:
    order = venue.ready_order()
    stay_silent(venue)
    venue.heal()

    assert order_submit(order.pk) == "READY"
    assert venue.requests_of("POST", "/api/v1/hf/orders") == []
    make_trial_due(venue, bells)
    order.refresh_from_db()
    assert order.not_before_at is not None
    type(order).objects.filter(pk=order.pk).update(not_before_at=timezone.now())

    assert order_submit(order.pk) == "CLOSED"
    assert len(venue.orders()) == 1


def test_a_venue_that_hangs_holds_up_nobody_once_the_circuit_is_open(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ccxt_gateway, "HTTP_TIMEOUT_MS", 300)
    account = venue.account
    venue.fault(kind="hang", path="*", count=99)
    hung = at_once([lambda: orders_of(account)] * 8)
    before = len(venue.requests_of("GET", "/api/v1/hf/orders/active"))

    refused = at_once([lambda: orders_of(account)] * 8)

    assert all("RequestTimeout" in str(error) for error in hung)
    assert all("wanted a venue that answers" in str(error) for error in refused)
    assert len(venue.requests_of("GET", "/api/v1/hf/orders/active")) == before


def test_over_the_venues_limit_an_account_waits_until_then_and_another_trades(venue: Venue) -> None:
    order = venue.ready_order()
    venue.simulator.control("accounts", apiKey="two", secret="s", passphrase="p", balances={"USDT": "10000"})
    other = make_account(venue.account.owner, venue.exchange, "two")
    Account.objects.filter(pk=other.pk).update(credentials=Credentials("two", "s", "p"))
    other.refresh_from_db()
    venue.simulator.control("settings", enforceRateLimits=True, rateLimits={"spot": 1})

    limited = orders_of(venue.account)
    venue.simulator.control("settings", enforceRateLimits=False)
    status_of_order = order_submit(order.pk)

    assert limited is not None
    assert limited.retry_after is not None
    assert timedelta(0) < limited.retry_after <= timedelta(seconds=30)
    assert status_of_order == "READY"
    assert venue.requests_of("POST", "/api/v1/hf/orders") == []
    assert elsewhere(lambda: orders_of(other)) is None


def test_the_api_shows_how_a_venue_does(venue: Venue) -> None:
    assert venue.account
    venue.simulator.control("settings", status="cancelonly", statusMessage="upgrade")
    read_status([venue.exchange.pk])

    row = Api(venue.account.owner).get(f"exchanges/{venue.exchange.pk}").json()

    assert (row["status"], row["status_message"], row["unreachable_at"]) == ("CANCEL_ONLY", "upgrade", None)
    assert row["status_read_at"] is not None
