"""Sessions through the form and the buttons: what a trader presses is what the services are asked for."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from domain.strategy import SignalKind
from exchanges.models import Account
from orders.models import Order
from pipeline.models import Event
from pipeline.pages import SECTION_ROWS
from positions.models import Position
from sessions.admin import TradingSessionPage
from sessions.models import SessionStatus, TradingSession
from tests.admin.conftest import errors_of, signed_in, told, url_of, words_of
from tests.factories import (
    make_account,
    make_config,
    make_exchange,
    make_feed,
    make_market,
    make_open_position,
    make_order,
    make_position,
    make_session,
    make_signal,
)

S = SessionStatus
PRESSED = {"_form_submitted": "True"}


def filled_in(account: Account, config_id: int, **changes: Any) -> dict[str, Any]:
    return {
        "account": account.pk, "config": config_id, "name": "", "sizing_method": "FIXED_QUOTE", "sizing_amount": "250",
        "stop_loss_percent": "", "take_profit_percent": "3.5", "tick_seconds": "60",
        "kelly_cap_percent": "20", "kelly_min_trades": "30", "leverage": "1", "margin_mode": "ISOLATED",
        "max_entries": "1", "exits": "{}", **changes,
    }  # fmt: skip


def press(client: Client, button: str, session: TradingSession) -> Any:
    return client.post(url_of(TradingSession, button, session.pk), PRESSED)


def test_a_trader_makes_a_session_which_is_named_after_what_it_trades(desk: Client, alice: User) -> None:
    account = make_account(alice)
    config = make_config(alice, name="trend")

    response = desk.post(url_of(TradingSession, "add"), filled_in(account, config.pk))

    session = TradingSession.objects.get()
    assert response.status_code == 302
    assert (session.account, session.config, session.status) == (account, config, S.CREATED)
    assert session.name == "trend-simulator-BTC/USDT-1m"
    assert (session.sizing_amount, session.stop_loss_percent, session.take_profit_percent, session.tick_seconds) == (
        Decimal(250), None, Decimal("3.5"), 60,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"sizing_amount": "0"}, "sizing_amount", "Ensure this value is greater than or equal to 0.000001."),
        ({"stop_loss_percent": "100"}, "stop_loss_percent", "Ensure this value is less than or equal to 99.99."),
        ({"tick_seconds": "5"}, "tick_seconds", "Ensure this value is greater than or equal to 10."),
        (
            {"sizing_method": "MARTINGALE"},
            "sizing_method",
            "Select a valid choice. MARTINGALE is not one of the available choices.",
        ),
        ({"leverage": "2"}, "leverage", "wanted 1 on a spot market, was 2"),
        ({"max_entries": "51"}, "max_entries", "Ensure this value is less than or equal to 50."),
        ({"exits": "[1]"}, "exits", "wanted an object of exits, was list"),
        ({"exits": "{"}, "exits", "Enter a valid JSON."),
        ({"exits": '{"stop_los": 2}'}, "exits", "stop_los: wanted a field of an exit plan, was none"),
        (
            {"exits": '{"trailing_percent": "100"}'},
            "exits",
            "trailing_percent: Input should be less than 100, was '100'",
        ),
    ],
)
def test_what_is_wrong_with_a_session_is_said_at_its_field(
    desk: Client, alice: User, changes: dict[str, str], field: str, message: str
) -> None:
    account, config = make_account(alice), make_config(alice)

    response = desk.post(url_of(TradingSession, "add"), filled_in(account, config.pk, **changes))

    assert errors_of(response) == {field: [message]}
    assert not TradingSession.objects.exists()


def test_a_configuration_of_another_exchange_is_refused_at_its_field(desk: Client, alice: User) -> None:
    account = make_account(alice)
    elsewhere = make_config(alice, make_feed(make_market(make_exchange("other"))))

    response = desk.post(url_of(TradingSession, "add"), filled_in(account, elsewhere.pk))

    assert errors_of(response) == {"config": ["wanted a market of simulator, was BTC/USDT of other"]}


def test_only_ones_own_accounts_and_configurations_are_offered_and_taken(desk: Client, alice: User, bob: User) -> None:
    make_account(alice, name="mine")
    bobs, config = make_account(bob, name="bobs"), make_config(bob, name="bobs config")
    asked = {"app_label": "trading_sessions", "model_name": "tradingsession"}

    offered = [
        one["text"]
        for field in ("account", "config")
        for one in desk.get(reverse("admin:autocomplete"), {**asked, "field_name": field}).json()["results"]
    ]
    response = desk.post(url_of(TradingSession, "add"), filled_in(bobs, config.pk))

    assert offered == ["mine (simulator)"]
    assert set(errors_of(response)) == {"account", "config"}
    assert not TradingSession.objects.exists()


@pytest.mark.parametrize(
    ("button", "before", "after", "message"),
    [
        ("start", S.CREATED, S.ACTIVE, "started"),
        ("start", S.STOPPED, S.ACTIVE, "started"),
        ("suspend", S.ACTIVE, S.SUSPENDED, "suspended; what it holds keeps its exits"),
        ("stop", S.CREATED, S.STOPPED, "asked to stop; it is stopped when nothing is held and nothing is open"),
        ("stop", S.ACTIVE, S.STOPPING, "asked to stop; it is stopped when nothing is held and nothing is open"),
        ("stop", S.SUSPENDED, S.STOPPING, "asked to stop; it is stopped when nothing is held and nothing is open"),
        ("stop", S.HALTED, S.STOPPING, "asked to stop; it is stopped when nothing is held and nothing is open"),
    ],
)
def test_a_button_moves_the_session(
    desk: Client, alice: User, button: str, before: str, after: str, message: str
) -> None:
    session = make_session(make_account(alice), name="mine", status=before)

    response = press(desk, button, session)

    session.refresh_from_db()
    assert session.status == after
    assert told(response) == [f"mine: {message}"]
    assert response["Location"] == url_of(TradingSession, "change", session.pk)


def test_a_command_is_journaled_with_who_pressed_the_button(desk: Client, alice: User) -> None:
    session = make_session(make_account(alice), status=S.CREATED)

    press(desk, "start", session)

    event = Event.objects.get(topic="command")
    assert (event.session_id, event.data, event.actor) == (session.pk, {"command": "start"}, "alice")


@pytest.mark.parametrize("before", [S.SUSPENDED, S.HALTED])
def test_recover_asks_for_the_exchange_to_be_read_again(desk: Client, alice: User, before: str) -> None:
    session = make_session(make_account(alice), name="mine", status=before)

    response = press(desk, "recover", session)

    session.refresh_from_db()
    assert session.status == before
    assert session.recover_requested_at is not None
    assert told(response) == ["mine: recovery asked for; it trades again once the exchange has been re-read"]


@pytest.mark.parametrize(
    ("button", "before", "message"),
    [
        ("start", S.ACTIVE, "to start a session it must be CREATED or STOPPED, was ACTIVE"),
        ("suspend", S.CREATED, "to suspend a session it must be ACTIVE, was CREATED"),
        ("recover", S.ACTIVE, "to recover a session it must be SUSPENDED or HALTED, was ACTIVE"),
        ("stop", S.STOPPED, "to stop a session it must be ACTIVE or SUSPENDED or HALTED, was STOPPED"),
        ("market_exit", S.ACTIVE, "wanted a session that holds a position, was one that holds none"),
        (
            "market_exit", S.STOPPED,
            "to exit, a session must be ACTIVE or SUSPENDED or HALTED or STOPPING, was STOPPED",
        ),
    ],
)  # fmt: skip
def test_a_button_of_a_page_grown_old_says_what_was_wanted_and_what_was_found(
    desk: Client, alice: User, button: str, before: str, message: str
) -> None:
    session = make_session(make_account(alice), name="mine", status=before)

    response = press(desk, button, session)

    session.refresh_from_db()
    assert session.status == before
    assert told(response) == [f"mine: {message}"]


def test_a_session_of_a_paused_account_is_not_started(desk: Client, alice: User) -> None:
    session = make_session(make_account(alice), name="mine", status=S.CREATED)
    Account.objects.update(status=Account.Status.PAUSED, status_reason="invalid key")

    response = press(desk, "start", session)

    session.refresh_from_db()
    assert session.status == S.CREATED
    assert told(response)[0].startswith("mine: wanted an active account, was PAUSED")


def test_parameters_that_no_longer_fit_their_strategy_are_told_of_at_the_start(desk: Client, alice: User) -> None:
    account = make_account(alice)
    config = make_config(alice, parameters={"fast": 9, "slow": 3})
    session = make_session(account, config, name="mine", status=S.CREATED)

    response = press(desk, "start", session)

    assert "wanted fast below slow, was fast=9 and slow=3" in told(response)[0]


def test_market_exit_asks_for_the_position_to_be_left(desk: Client, alice: User) -> None:
    session = make_session(make_account(alice), name="mine")
    position = make_open_position(session)

    response = press(desk, "market_exit", session)

    position.refresh_from_db()
    assert position.is_exit_wanted
    assert told(response) == ["mine: asked to leave its position at market"]
    assert Event.objects.get(topic="command").actor == "alice"


def test_a_position_is_left_from_its_own_page_too(desk: Client, alice: User) -> None:
    position = make_open_position(make_session(make_account(alice)))

    desk.post(url_of(Position, "position_exit", position.pk), PRESSED)

    position.refresh_from_db()
    assert position.is_exit_wanted


def test_asking_does_nothing_until_the_answer_is_posted(desk: Client, alice: User) -> None:
    session = make_session(make_account(alice), status=S.ACTIVE)

    response = desk.get(url_of(TradingSession, "stop", session.pk))

    session.refresh_from_db()
    assert session.status == S.ACTIVE
    assert "closes what it holds at market" in words_of(response)


def test_a_button_pressed_by_another_site_is_refused(alice: User) -> None:
    session = make_session(make_account(alice), status=S.ACTIVE)

    response = press(signed_in(alice, enforce_csrf_checks=True), "stop", session)

    session.refresh_from_db()
    assert response.status_code == 403
    assert session.status == S.ACTIVE


def test_the_dialog_is_sent_on_by_a_header_of_its_own(desk: Client, alice: User) -> None:
    session = make_session(make_account(alice), status=S.ACTIVE)

    response = desk.post(url_of(TradingSession, "stop", session.pk), PRESSED, headers={"HX-Request": "true"})

    assert response.status_code == 200
    assert response["HX-Redirect"] == url_of(TradingSession, "change", session.pk)


def test_several_sessions_are_commanded_from_the_list_each_by_itself(desk: Client, alice: User) -> None:
    account = make_account(alice)
    active = make_session(account, name="first", status=S.ACTIVE)
    created = make_session(account, make_config(alice), name="second", status=S.CREATED)

    response = desk.post(
        url_of(TradingSession, "changelist"),
        {"action": "suspend_selected", "_selected_action": [active.pk, created.pk]},
    )

    assert dict(TradingSession.objects.values_list("name", "status")) == {"first": S.SUSPENDED, "second": S.CREATED}
    assert sorted(told(response)) == [
        "first: suspended; what it holds keeps its exits",
        "second: to suspend a session it must be ACTIVE, was CREATED",
    ]


@pytest.mark.parametrize(
    ("status", "holds", "offered"),
    [
        (S.CREATED, False, ["Start", "Stop"]),
        (S.ACTIVE, False, ["Suspend", "Stop"]),
        (S.ACTIVE, True, ["Suspend", "Stop", "Market exit"]),
        (S.SUSPENDED, True, ["Recover", "Stop", "Market exit"]),
        (S.HALTED, False, ["Recover", "Stop"]),
        (S.STOPPING, False, []),
        (S.STOPPED, False, ["Start"]),
    ],
)
def test_a_page_offers_the_buttons_that_are_of_use(
    desk: Client, alice: User, status: str, holds: bool, offered: list[str]
) -> None:
    session = make_session(make_account(alice), status=status)
    if holds:
        make_open_position(session)

    page = desk.get(url_of(TradingSession, "change", session.pk))

    assert [action["title"] for action in page.context["actions_detail"]] == offered


def test_the_page_shows_what_the_session_holds_and_did_and_why(desk: Client, alice: User) -> None:
    session = make_session(make_account(alice))
    position = make_open_position(session, entry_price="49880.25")
    Position.objects.filter(pk=position.pk).update(
        mark_price=Decimal("50123.4"), unrealized_pnl=Decimal("4.863"), valued_at=timezone.now()
    )
    denied = make_order(make_position(session, "ABANDONED"), status="DENIED", reason="MAX_EXPOSURE")
    make_signal(session.config)

    words = words_of(desk.get(url_of(TradingSession, "change", session.pk)))

    assert "Holds 0.02 BTC OPEN" in words
    assert "Unrealized +4.863 USDT at 50123.4" in words
    assert "The account's exposure is at the limit of its risk profile.".replace("'", "&#x27;") in words
    assert f" {denied.pk} " in words
    assert "49880.25" in words
    assert "ENTER_LONG" in words


def test_the_page_shows_the_journal_of_the_session_and_of_its_orders_only(desk: Client, alice: User) -> None:
    session = make_session(make_account(alice), name="mine")
    order = make_order(make_position(session))
    neighbour = make_session(session.account, make_config(alice))
    stranger = make_order(make_position(neighbour))
    Event.objects.create(
        topic="command", key=session.pk, session_id=session.pk, data={"command": "start"}, owner_id=alice.pk
    )
    Event.objects.create(topic="orders", key=order.pk, data={"status": "READY"}, owner_id=alice.pk)
    Event.objects.create(topic="orders", key=stranger.pk, data={"status": "REJECTED"}, owner_id=alice.pk)
    Event.objects.create(topic="command", key=neighbour.pk, session_id=neighbour.pk, data={"command": "recover"})

    page = desk.get(url_of(TradingSession, "change", session.pk))

    [journal] = [one for one in page.context["sections"].tables if one.title == "Journal"]
    assert [row[3] for row in journal.rows] == ["status READY", "command start"]


def test_a_long_history_is_shown_in_part_with_a_way_to_the_rest(desk: Client, alice: User) -> None:
    session = make_session(make_account(alice))
    close_at = timezone.now().replace(second=0, microsecond=0)
    for number in range(SECTION_ROWS + 5):
        make_signal(session.config, SignalKind.EXIT_LONG, close_at - timedelta(minutes=number))
        Event.objects.create(topic="command", key=session.pk, session_id=session.pk, data={"number": number})

    page = desk.get(url_of(TradingSession, "change", session.pk))

    tables = {one.title: one for one in page.context["sections"].tables}
    assert (len(tables["Signals"].rows), len(tables["Journal"].rows)) == (SECTION_ROWS, SECTION_ROWS)
    assert desk.get(tables["Signals"].more_url).context["cl"].result_list.count() == SECTION_ROWS + 5


def test_the_open_page_is_kept_fresh_without_its_form(desk: Client, alice: User) -> None:
    session = make_session(make_account(alice), status_reason="stale data", status=S.HALTED)

    page = desk.get(url_of(TradingSession, "change", session.pk))
    fresh = desk.get(page.context["sections_url"])

    assert "stale data" in words_of(fresh)
    assert "<form" not in fresh.content.decode()


def test_orders_and_fills_are_found_by_their_session(desk: Client, alice: User) -> None:
    account = make_account(alice)
    session = make_session(account, name="mine")
    position = make_open_position(session)
    make_open_position(make_session(account, make_config(alice), name="other"))

    rows = desk.get(url_of(Order, "changelist"), {"session": session.pk}).context["cl"].result_list
    nothing = desk.get(url_of(Order, "changelist"), {"session": "9" * 30}).context["cl"].result_list

    assert [row.intent_id for row in rows] == [position.intents.get().pk]
    assert rows[0].session_name == "mine"
    assert list(nothing) == []


def test_new_exits_are_written_without_undoing_a_stop_of_the_same_moment(
    desk: Client, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = make_session(make_account(alice), status=S.ACTIVE)
    save = TradingSessionPage.save_model

    def stopping_meanwhile(*args: Any) -> None:
        TradingSession.objects.filter(pk=session.pk).update(status=S.STOPPING)
        save(*args)

    monkeypatch.setattr(TradingSessionPage, "save_model", stopping_meanwhile)
    desk.post(
        url_of(TradingSession, "change", session.pk),
        filled_in(session.account, session.config_id, stop_loss_percent="1"),
    )

    session.refresh_from_db()
    assert (session.status, session.stop_loss_percent) == (S.STOPPING, Decimal(1))


def test_account_and_configuration_of_a_session_stay_what_they_are(desk: Client, alice: User) -> None:
    session = make_session(make_account(alice))
    other = make_account(alice, name="other")

    desk.post(url_of(TradingSession, "change", session.pk), filled_in(other, make_config(alice).pk))

    session.refresh_from_db()
    assert session.account.name == "main"


@pytest.mark.parametrize(
    ("status", "is_deleted"), [(S.CREATED, True), (S.STOPPED, True), (S.ACTIVE, False), (S.STOPPING, False)]
)
def test_a_session_is_deleted_only_while_it_rests(desk: Client, alice: User, status: str, is_deleted: bool) -> None:
    session = make_session(make_account(alice), status=status)

    desk.post(url_of(TradingSession, "delete", session.pk), {"post": "yes"})

    assert TradingSession.objects.exists() is not is_deleted


def test_a_session_that_has_traded_is_kept_for_its_history(desk: Client, alice: User) -> None:
    session = make_session(make_account(alice), status=S.STOPPED)
    make_position(session, "CLOSED")

    desk.post(url_of(TradingSession, "delete", session.pk), {"post": "yes"})

    assert TradingSession.objects.exists()


def test_exits_of_a_session_are_typed_as_json_and_read_as_words(desk: Client, alice: User) -> None:
    account, config = make_account(alice), make_config(alice)
    exits = '{"stop_loss_atr": "2", "targets": [{"percent": "2", "fraction": "0.5"}, {"percent": "5"}]}'

    desk.post(url_of(TradingSession, "add"), filled_in(account, config.pk, exits=exits, stop_loss_percent="1.5"))

    session = TradingSession.objects.get()
    assert session.exits["stop_loss_atr"] == "2"
    page = words_of(desk.get(url_of(TradingSession, "change", session.pk)))
    assert "stop loss percent 1.5, stop loss atr 2, targets: percent 2 fraction 0.5, percent 5" in page
