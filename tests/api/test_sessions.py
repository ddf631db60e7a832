"""Sessions at the API: set up, adjusted, commanded; each answer is the session as it is then."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from exchanges.accounts import account_pause
from exchanges.models import Market
from pipeline.models import Event
from sessions.models import TradingSession
from tests.api.conftest import Api
from tests.factories import (
    make_account,
    make_config,
    make_exchange,
    make_feed,
    make_market,
    make_open_position,
    make_position,
    make_session,
    make_user,
)  # fmt: skip


def new_session(**values: Any) -> dict[str, Any]:
    account = make_account()
    return {"account": account.pk, "config": make_config(feed=make_feed(make_market(account.exchange))).pk, **values}


def test_a_session_is_created_and_does_nothing_yet(alice: Api) -> None:
    values = new_session(sizing_method="RISK_PER_TRADE", sizing_amount="0.50", stop_loss_percent="1.5")

    answer = alice.post("sessions", values)

    session = TradingSession.objects.get()
    row = answer.json()
    assert answer.status_code == 201
    assert (row["id"], row["status"], row["run"], row["position"], row["realized_pnl"]) == (
        session.pk,
        "CREATED",
        0,
        None,
        "0",
    )
    assert (row["sizing_method"], row["sizing_amount"]) == ("RISK_PER_TRADE", "0.5")
    assert (row["stop_loss_percent"], row["take_profit_percent"], row["tick_seconds"]) == ("1.5", None, 300)
    assert (row["exchange_name"], row["symbol"], row["timeframe"], row["strategy"]) == (
        "simulator",
        "BTC/USDT",
        "1m",
        "sma_cross",
    )
    assert row["name"] == f"{session.config.name}-simulator-BTC/USDT-1m"


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"account": None}, "account", "This field may not be null."),
        ({"account": 10**30}, "account", f'Invalid pk "{10**30}" - object does not exist.'),
        ({"account": "main"}, "account", "Incorrect type. Expected pk value, received str."),
        ({"account": True}, "account", "Incorrect type. Expected pk value, received bool."),
        ({"config": {}}, "config", "Incorrect type. Expected pk value, received dict."),
        ({"sizing_method": "MARTINGALE"}, "sizing_method", '"MARTINGALE" is not a valid choice.'),
        ({"sizing_amount": "0"}, "sizing_amount", "Ensure this value is greater than or equal to 0.000001."),
        ({"sizing_amount": "NaN"}, "sizing_amount", "A valid number is required."),
        ({"sizing_amount": "Infinity"}, "sizing_amount", "A valid number is required."),
        ({"sizing_amount": None}, "sizing_amount", "This field may not be null."),
        ({"stop_loss_percent": "100"}, "stop_loss_percent", "Ensure this value is less than or equal to 99.99."),
        (
            {"take_profit_percent": "0.001"},
            "take_profit_percent",
            "Ensure this value is greater than or equal to 0.01.",
        ),
        ({"tick_seconds": 9}, "tick_seconds", "Ensure this value is greater than or equal to 10."),
        ({"tick_seconds": 86_401}, "tick_seconds", "Ensure this value is less than or equal to 86400."),
        ({"name": "x" * 161}, "name", "Ensure this field has no more than 160 characters."),
    ],
)
def test_a_bad_session_is_refused_with_its_field(alice: Api, change: dict[str, Any], field: str, message: str) -> None:
    answer = alice.post("sessions", new_session(**change))

    assert answer.status_code == 400
    assert answer.json() == {"code": "invalid", "detail": f"{field}: {message}", "fields": {field: [message]}}
    assert TradingSession.objects.count() == 0


def test_a_session_on_a_market_of_another_exchange_is_refused(alice: Api) -> None:
    config = make_config(feed=make_feed(make_market(make_exchange("other"))))

    answer = alice.post("sessions", {"account": make_account().pk, "config": config.pk})

    assert answer.status_code == 400
    assert answer.json()["fields"] == {"config": ["wanted a market of simulator, was BTC/USDT of other"]}


@pytest.mark.parametrize("name", ["account", "config"])
def test_another_traders_account_or_configuration_reads_as_unknown(alice: Api, bob: Api, name: str) -> None:
    theirs = {"account": make_account(owner=bob.user, name="b").pk, "config": make_config(owner=bob.user).pk}
    values = new_session(**{name: theirs[name]})

    answer = alice.post("sessions", values)

    assert answer.status_code == 400
    assert answer.json()["fields"] == {name: [f'Invalid pk "{theirs[name]}" - object does not exist.']}


def test_sizing_and_exits_are_changed_and_nothing_else(alice: Api) -> None:
    session = make_session()
    change = {
        "sizing_amount": "25",
        "take_profit_percent": None,
        "stop_loss_percent": "3",
        "status": "STOPPED",
        "tick_seconds": 10,
        "run": 9,
    }

    answer = alice.patch(f"sessions/{session.pk}", change)

    row = answer.json()
    assert answer.status_code == 200
    assert (row["sizing_amount"], row["take_profit_percent"], row["stop_loss_percent"]) == ("25", None, "3")
    assert (row["status"], row["run"]) == ("ACTIVE", 0)


def test_a_bad_change_of_sizing_is_refused(alice: Api) -> None:
    session = make_session()

    answer = alice.patch(f"sessions/{session.pk}", {"sizing_amount": "-5"})

    assert answer.status_code == 400
    assert answer.json()["fields"] == {"sizing_amount": ["Ensure this value is greater than or equal to 0.000001."]}
    assert TradingSession.objects.get().sizing_amount == Decimal(1000)


def test_a_session_lives_by_its_commands_and_the_journal_names_who_gave_them(alice: Api) -> None:
    session = make_session(status="CREATED", started_at=None, signals_after=None)

    started, suspended, recovered, stopped = (
        alice.post(f"sessions/{session.pk}/{command}").json() for command in ("start", "suspend", "recover", "stop")
    )

    assert [one["status"] for one in (started, suspended, recovered, stopped)] == [
        "ACTIVE",
        "SUSPENDED",
        "SUSPENDED",
        "STOPPING",
    ]
    assert (started["run"], started["started_at"] is not None, started["next_tick_at"] is not None) == (1, True, True)
    assert (recovered["recover_requested_at"] is not None, stopped["recover_requested_at"]) == (True, None)
    journal = Event.objects.filter(topic="command", session_id=session.pk).order_by("id")
    assert [(event.data["command"], event.actor) for event in journal] == [
        ("start", "alice"), ("suspend", "alice"), ("recover", "alice"), ("stop", "alice"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("command", "status", "detail"),
    [
        ("start", "ACTIVE", "to start a session it must be CREATED or STOPPED, was ACTIVE"),
        ("suspend", "STOPPED", "to suspend a session it must be ACTIVE, was STOPPED"),
        ("recover", "ACTIVE", "to recover a session it must be SUSPENDED or HALTED, was ACTIVE"),
        ("stop", "STOPPING", "to stop a session it must be ACTIVE or SUSPENDED or HALTED, was STOPPING"),
        ("exit", "ACTIVE", "to exit a session it must hold a position, was flat"),
    ],
)
def test_a_command_the_status_does_not_allow_is_a_conflict(alice: Api, command: str, status: str, detail: str) -> None:
    session = make_session(status=status)

    answer = alice.post(f"sessions/{session.pk}/{command}")

    assert answer.status_code == 409
    assert answer.json() == {"code": "unable_to_command", "detail": detail}
    assert TradingSession.objects.get().status == status


def test_a_twin_of_a_running_session_does_not_start(alice: Api) -> None:
    running = make_session()
    twin = make_session(account=running.account, config=running.config, status="CREATED")

    answer = alice.post(f"sessions/{twin.pk}/start")

    assert answer.status_code == 409
    assert answer.json()["code"] == "session_already_running"
    assert TradingSession.objects.get(pk=twin.pk).status == "CREATED"


def test_a_session_on_a_paused_account_does_not_start(alice: Api) -> None:
    session = make_session(status="CREATED")
    account_pause(session.account_id, "Invalid KC-API-KEY")

    answer = alice.post(f"sessions/{session.pk}/start")

    assert answer.status_code == 409
    assert answer.json()["detail"] == "wanted an active account, was PAUSED: Invalid KC-API-KEY"


def test_a_configuration_that_no_longer_fits_its_strategy_does_not_start(alice: Api) -> None:
    session = make_session(status="CREATED")
    type(session.config).objects.update(parameters={"fast": 50, "slow": 3})

    answer = alice.post(f"sessions/{session.pk}/start")

    assert answer.status_code == 400
    assert answer.json()["fields"] == {
        "parameters": ["sma_cross: Value error, wanted fast below slow, was fast=50 and slow=3"]
    }


def test_exit_asks_for_the_position_to_be_left_and_keeps_the_session(alice: Api) -> None:
    session = make_session()
    make_open_position(session)

    answer = alice.post(f"sessions/{session.pk}/exit")

    row = answer.json()
    assert (answer.status_code, row["status"], row["position"]["is_exit_wanted"]) == (200, "ACTIVE", True)


def test_a_session_shows_what_it_holds_and_what_it_made(alice: Api) -> None:
    session = make_session()
    make_position(session, "CLOSED", realized_pnl=Decimal("12.50"))
    make_position(session, "CLOSED", realized_pnl=Decimal("-2.25"))
    held = make_open_position(session)

    row = alice.get(f"sessions/{session.pk}").json()

    assert row["realized_pnl"] == "10.25"
    position = row["position"]
    assert (position["id"], position["status"], position["quantity"]) == (held.pk, "OPEN", "0.02")
    assert (position["entry_price"], position["stop_price"], position["target_price"]) == ("50000", "49000", "52000")


def test_sessions_are_found_by_status_account_and_configuration(alice: Api) -> None:
    active = make_session()
    stopped = make_session(account=make_account(name="second"), status="STOPPED")

    found = {
        "by status": alice.ids("sessions", status="STOPPED"),
        "by two": alice.ids("sessions", status=["STOPPED", "ACTIVE"]),
        "by account": alice.ids("sessions", account=active.account_id),
        "by config": alice.ids("sessions", config=stopped.config_id),
        "by symbol": alice.ids("sessions", symbol="ETH/USDT"),
    }

    assert found == {
        "by status": [stopped.pk], "by two": [stopped.pk, active.pk], "by account": [active.pk], "by config": [stopped.pk],
        "by symbol": [],
    }  # fmt: skip


def test_a_long_user_name_is_cut_to_what_the_journal_takes(db: None) -> None:
    trader = Api(make_user("a" * 150))
    session = make_session(account=make_account(owner=trader.user), status="ACTIVE")

    answer = trader.post(f"sessions/{session.pk}/suspend")

    assert answer.status_code == 200
    assert Event.objects.get(topic="command").actor == "a" * 64


def test_sizing_and_exits_are_adjusted_and_the_plan_that_comes_of_them_is_shown(alice: Api) -> None:
    session = make_session()

    row = alice.patch(
        f"sessions/{session.pk}",
        {
            "sizing_method": "KELLY", "sizing_amount": "50", "kelly_cap_percent": "12.5", "kelly_min_trades": 40,
            "is_confidence_weighted": True, "max_entries": 3, "is_resting": True,
            "exits": {"stop_loss_atr": "1.5", "stop_loss_percent": None, "max_hold_minutes": 90},
        },
    ).json()  # fmt: skip

    assert (row["sizing_method"], row["kelly_cap_percent"], row["kelly_min_trades"]) == ("KELLY", "12.5", 40)
    assert (row["is_confidence_weighted"], row["max_entries"], row["is_resting"]) == (True, 3, True)
    assert row["exits"] == {"stop_loss_atr": "1.5", "stop_loss_percent": None, "max_hold_minutes": 90}
    assert row["exit_plan"] == {
        "stop_loss_atr": "1.5", "targets": [{"percent": "4"}], "max_hold_minutes": 90,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"leverage": "3"}, "leverage", "wanted 1 on a spot market, was 3"),
        ({"leverage": "0.5"}, "leverage", "Ensure this value is greater than or equal to 1."),
        ({"margin_mode": "SHARED"}, "margin_mode", '"SHARED" is not a valid choice.'),
        ({"exits": [1]}, "exits", "wanted an object of exits, was list"),
        ({"exits": {"stop_loss_percent": -1}}, "exits", "stop_loss_percent: Input should be greater than 0, was -1"),
        (
            {"exits": {"targets": [{"percent": "5"}, {"percent": "2"}]}},
            "exits",
            "wanted fractions of targets before the last below 1 together",
        ),
        (
            {"exits": {"targets": [{"percent": "x"}]}},
            "exits",
            "targets.0.percent: Input should be a valid decimal, was 'x'",
        ),
    ],
)
def test_exits_that_do_not_fit_are_refused_at_their_field(
    alice: Api, change: dict[str, Any], field: str, message: str
) -> None:
    session = make_session()

    answer = alice.patch(f"sessions/{session.pk}", change)

    assert (answer.status_code, answer.json()["fields"]) == (400, {field: [message]})
    session.refresh_from_db()
    assert (session.exits, session.leverage) == ({}, 1)


def test_leverage_is_bounded_by_what_the_market_of_contracts_gives(alice: Api) -> None:
    session = make_session()
    Market.objects.update(kind=Market.Kind.LINEAR_FUTURE, venue_info={"limits": {"leverage": {"max": 20}}})

    refused = alice.patch(f"sessions/{session.pk}", {"leverage": "25"})
    taken = alice.patch(f"sessions/{session.pk}", {"leverage": "20"})

    assert refused.json()["fields"] == {"leverage": ["wanted at most 20 on BTC/USDT, was 25"]}
    assert taken.json()["leverage"] == "20"
