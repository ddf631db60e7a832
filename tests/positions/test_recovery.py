"""Recovery: the exchange is re-read first, and a session whose order may exist waits until that is known."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography.fernet import Fernet
from django.utils import timezone
from pytest_django import Settings

from domain.orders import OrderStatus
from exchanges.ccxt_gateway import CcxtGateway
from exchanges.models import Account
from orders.services import order_submit
from positions import reconciliation
from positions.reconciliation import session_recovery_carry_out
from positions.tasks import recover, sweep_sessions
from sessions.models import SessionStatus, TradingSession
from sessions.services import (
    UnableToCommand,
    session_halt,
    session_recover,
    session_stop,
    session_suspend,
    sessions_awaiting_recovery,
)
from tests.conftest import Bells
from tests.factories import (
    KEY,
    PASSPHRASE,
    SECRET,
    events,
    let_pass,
    make_config,
    make_feed,
    make_order,
    make_position,
    make_session,
)
from tests.race import at_once, elsewhere, happens_after, happens_before
from tests.sessions.conftest import fresh
from tests.simulator.conftest import START_MS
from tests.venue import Venue

S = SessionStatus
START_AT = datetime.fromtimestamp(START_MS / 1000, tz=UTC)


def waiting_session(venue: Venue, status: str = S.SUSPENDED) -> TradingSession:
    """A session whose recovery was asked for ten seconds ago."""
    config = make_config(venue.account.owner, make_feed(venue.market))
    asked_at = timezone.now() - timedelta(seconds=10)
    return make_session(venue.account, config, status=status, recover_requested_at=asked_at)


@pytest.mark.parametrize("status", [S.SUSPENDED, S.HALTED])
def test_a_recovery_reads_clock_and_balances_before_the_session_trades(venue: Venue, status: str) -> None:
    session = waiting_session(venue, status)
    venue.simulator.control("clock", advance_s=120)
    venue.simulator.open_account(USDT="777")

    recover([session.pk])

    recovered = fresh(session)
    assert (recovered.status, recovered.recover_requested_at, recovered.status_reason) == (S.ACTIVE, None, "")
    assert recovered.account.exchange.clock_venue_at == START_AT + timedelta(seconds=120)
    assert recovered.signals_after == START_AT + timedelta(seconds=120)
    assert recovered.account.balances.get(currency="USDT").total == 777
    assert (recovered.config.feed.is_needed, recovered.config.is_needed) == (True, True)
    assert [event["command"] for event in events("command")] == ["recovered"]


def test_a_second_recovery_changes_nothing(venue: Venue) -> None:
    session = waiting_session(venue)
    recover([session.pk])
    before = TradingSession.objects.values().get(pk=session.pk)
    asked = len(venue.requests_of("GET", "*"))

    recover([session.pk])

    assert TradingSession.objects.values().get(pk=session.pk) == before
    assert len(venue.requests_of("GET", "*")) == asked
    assert len(events("command")) == 1


def test_a_lost_recovery_bell_is_rung_again_by_the_sweep(venue: Venue, bells: Bells) -> None:
    session = waiting_session(venue)
    bells.clear()

    sweep_sessions()

    assert bells.rung("positions.recover") == [{"session_ids": [session.pk]}]


def test_a_recovery_just_asked_for_is_left_to_its_own_bell(venue: Venue, bells: Bells) -> None:
    session = waiting_session(venue)
    TradingSession.objects.update(recover_requested_at=None)
    bells.clear()

    session_recover(session.pk, actor="alice")

    assert sessions_awaiting_recovery(timezone.now()) == []
    assert sessions_awaiting_recovery(timezone.now() + timedelta(seconds=6)) == [session.pk]
    assert bells.rung("positions.recover") == [{"session_ids": [session.pk]}]


def test_of_many_recoveries_at_once_one_is_told(venue: Venue) -> None:
    session = waiting_session(venue)

    results = at_once([lambda: session_recovery_carry_out(session.pk)] * 4)

    assert sorted(results) == [False, False, False, True]
    assert [event["command"] for event in events("command")] == ["recovered"]


def test_asking_twice_is_asking_once(venue: Venue) -> None:
    session = waiting_session(venue)
    asked_at = fresh(session).recover_requested_at

    session_recover(session.pk)

    assert fresh(session).recover_requested_at == asked_at
    assert events("command") == []


def test_a_venue_that_is_away_leaves_the_request_standing_with_the_reason(venue: Venue) -> None:
    session = waiting_session(venue)
    venue.fault(kind="http", status=503, body="<html>", count=99)

    recover([session.pk])

    waiting = fresh(session)
    assert waiting.status == S.SUSPENDED
    assert waiting.status_reason.startswith("recovery waits: ExchangeNotAvailable")
    assert sessions_awaiting_recovery(timezone.now()) == [session.pk]

    venue.heal()
    recover([session.pk])
    assert (fresh(session).status, fresh(session).status_reason) == (S.ACTIVE, "")


@pytest.mark.parametrize("path", ["/api/v1/timestamp", "/api/v1/accounts"])
def test_a_page_that_is_no_answer_recovers_nobody(venue: Venue, path: str) -> None:
    session = waiting_session(venue)
    venue.fault(kind="body", body="<html>maintenance</html>", path=path, count=99)

    recover([session.pk])

    assert fresh(session).status == S.SUSPENDED
    assert "recovery waits" in fresh(session).status_reason


def test_a_session_whose_order_may_exist_waits_until_that_is_known(venue: Venue) -> None:
    session = waiting_session(venue)
    now = timezone.now()
    order = make_order(
        make_position(session), status=OrderStatus.UNKNOWN, sent_at=now, deadline_at=now + timedelta(seconds=5)
    )

    recover([session.pk])

    waiting = fresh(session)
    assert waiting.status == S.SUSPENDED
    assert waiting.status_reason == "recovery waits: the fate of 1 orders is not known yet"

    for _ in range(3):
        let_pass(order, 60)
        recover([session.pk])

    order.refresh_from_db()
    assert (fresh(session).status, order.status) == (S.ACTIVE, OrderStatus.NOT_PLACED)


def test_an_order_that_is_there_is_adopted_before_the_session_trades(venue: Venue) -> None:
    session = waiting_session(venue)
    order = make_order(make_position(session), status=OrderStatus.READY)
    venue.fault(kind="drop", when="after", method="POST")
    order_submit(order.pk)
    order.refresh_from_db()
    assert order.status == OrderStatus.UNKNOWN

    recover([session.pk])

    order.refresh_from_db()
    assert (fresh(session).status, order.status) == (S.ACTIVE, OrderStatus.CLOSED)
    assert order.exchange_order_id == venue.orders()[0]["id"]


@pytest.mark.parametrize("status", [S.SUSPENDED, S.HALTED])
def test_a_stop_in_the_middle_of_a_recovery_wins(venue: Venue, monkeypatch: pytest.MonkeyPatch, status: str) -> None:
    session = waiting_session(venue, status)
    happens_before(monkeypatch, reconciliation, "account_reconcile", lambda: session_stop(session.pk))

    assert not session_recovery_carry_out(session.pk)

    assert fresh(session).status == S.STOPPING


def test_a_halt_in_the_middle_of_a_recovery_wins(venue: Venue, monkeypatch: pytest.MonkeyPatch) -> None:
    session = waiting_session(venue)
    happens_before(monkeypatch, reconciliation, "account_reconcile", lambda: session_halt(session.pk, "drawdown"))

    assert not session_recovery_carry_out(session.pk)

    assert (fresh(session).status, fresh(session).status_reason) == (S.HALTED, "drawdown")


def test_a_recovery_asked_for_again_meanwhile_waits_for_its_own_reading(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = waiting_session(venue)

    def recovered_suspended_and_asked_again() -> None:
        session_recovery_carry_out(session.pk)
        session_suspend(session.pk)
        session_recover(session.pk)

    happens_after(monkeypatch, CcxtGateway, "balances", recovered_suspended_and_asked_again)
    assert not session_recovery_carry_out(session.pk)

    assert fresh(session).status == S.SUSPENDED
    assert fresh(session).recover_requested_at is not None


def test_a_paused_account_recovers_no_session_until_it_has_new_keys(venue: Venue) -> None:
    session = waiting_session(venue, S.HALTED)
    Account.objects.update(status=Account.Status.PAUSED, status_reason="400004")

    recover([session.pk])

    assert fresh(session).status == S.HALTED
    assert fresh(session).status_reason == "recovery waits: wanted an active account, was PAUSED: 400004"
    with pytest.raises(UnableToCommand, match="wanted an active account, was PAUSED: 400004"):
        session_recover(session.pk)

    Account.objects.update(status=Account.Status.ACTIVE, status_reason="")
    recover([session.pk])
    assert fresh(session).status == S.ACTIVE


def test_keys_refused_on_the_way_pause_the_account_and_recover_nothing(venue: Venue) -> None:
    session = waiting_session(venue)
    venue.simulator.control("accounts", apiKey=KEY, secret=SECRET, passphrase=f"not-{PASSPHRASE}")

    recover([session.pk])

    waiting = fresh(session)
    assert (waiting.status, waiting.account.status) == (S.SUSPENDED, Account.Status.PAUSED)
    assert waiting.status_reason.startswith("recovery waits: AuthenticationError")


def test_a_session_whose_keys_nobody_can_open_says_so_and_keeps_no_other_waiting(
    venue: Venue, settings: Settings
) -> None:
    session = waiting_session(venue)
    settings.ENCRYPTION_KEYS = (Fernet.generate_key().decode(),)

    elsewhere(lambda: recover([12345, session.pk]))

    assert fresh(session).status == S.SUSPENDED
    assert "R3EDGE_ENCRYPTION_KEYS" in fresh(session).status_reason


def test_a_bell_for_a_session_that_did_not_ask_changes_nothing(venue: Venue) -> None:
    session = waiting_session(venue)
    TradingSession.objects.update(recover_requested_at=None)

    recover([session.pk])

    assert fresh(session).status == S.SUSPENDED


def test_a_session_that_holds_something_waits_until_its_balances_could_be_compared(venue: Venue) -> None:
    session = waiting_session(venue)
    order = make_order(make_position(session), status=OrderStatus.READY)
    assert order_submit(order.pk) == OrderStatus.CLOSED
    venue.simulator.open_account(KEY, USDT="9000", BTC="0")  # taken away meanwhile
    other = make_session(venue.account, make_config(venue.account.owner, make_feed(venue.market)))
    busy = make_order(
        make_position(other), status=OrderStatus.OPENED, sent_at=timezone.now(), failures=1,
        not_before_at=timezone.now() + timedelta(minutes=1),
    )  # fmt: skip

    assert not session_recovery_carry_out(session.pk)
    assert fresh(session).status_reason == (
        "recovery waits: the balances were not compared yet, for orders of the account are being filled"
    )

    busy.delete()
    assert not session_recovery_carry_out(session.pk)
    assert "the account holds 0 BTC, its positions say 0.02" in fresh(session).status_reason
