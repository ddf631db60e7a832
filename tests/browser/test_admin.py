"""What a trader does in the browser, from signing in to a stopped session: forms, fields that come and go, dialogs, and
statuses that change on an open page."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.urls import reverse
from drf_spectacular.generators import SchemaGenerator
from playwright.sync_api import Locator, expect

from exchanges.models import Account
from positions.services import sessions_track
from sessions.admin import TradingSessionPage
from sessions.models import SessionStatus, TradingSession
from strategies.models import StrategyConfig
from tests.browser.conftest import Desk
from tests.factories import make_account, make_config, make_exchange, make_feed, make_market, make_session

pytestmark = pytest.mark.browser

S = SessionStatus
# Method and path of each block of the API's documentation.
OPERATIONS = """blocks => blocks.map(block => {
    const path = block.querySelector("[data-path]").getAttribute("data-path")
    return block.querySelector(".opblock-summary-method").textContent + " " + path
})"""


def open_session(desk: Desk, session: TradingSession) -> None:
    desk.page.goto(reverse("admin:trading_sessions_tradingsession_change", args=[session.pk]))


def dialog_of(desk: Desk) -> Locator:
    return desk.page.locator("#dialog")


def press(desk: Desk, label: str) -> None:
    """Press a button of the page, and the same in the dialog that asks."""
    desk.link(label).click()
    with desk.page.expect_navigation():
        dialog_of(desk).get_by_role("button", name=label).click()


def expect_status(desk: Desk, status: str) -> None:
    expect(desk.page.locator("#live-facts > div > div").filter(has_text="Status")).to_contain_text(status)


def parameters_shown(desk: Desk) -> list[str]:
    """The inputs of parameters that can be seen, as the form calls them."""
    names: list[str] = desk.page.locator("input[name*='__']:visible").evaluate_all("all => all.map(one => one.name)")
    return names


def test_a_trader_signs_in_and_sees_the_front_page(door: Desk, alice: User) -> None:
    make_session(make_account(alice), name="mine")

    door.page.goto("/")
    door.page.get_by_label("Username").fill("alice")
    door.page.get_by_label("Password").fill("wrong horse")
    door.page.keyboard.press("Enter")
    expect(door.page.get_by_text("Please enter the correct username and password")).to_be_visible()
    door.page.get_by_label("Password").fill("correct horse")
    door.page.keyboard.press("Enter")

    expect(door.page).to_have_url(door.url + reverse("admin:index"))
    expect(door.page.locator("#live-facts")).to_contain_text(re.compile(r"Active sessions\s+1\s+0 more"))
    expect(door.page.locator("#live-tables")).to_contain_text("mine")


def test_a_trader_makes_an_account(desk: Desk, alice: User) -> None:
    make_exchange()

    desk.follow("Add account", "/account/add/")
    desk.field("name").get_by_role("textbox").fill("main")
    desk.field("exchange").get_by_role("combobox").select_option("simulator")
    desk.page.get_by_label("API key").fill("canary-key-1234")
    desk.page.get_by_label("API secret").fill("canary-secret")
    desk.page.get_by_label("Passphrase").fill("canary-passphrase")
    desk.page.get_by_role("spinbutton", name="Max exposure", exact=True).fill("2500.5")
    desk.button("Save").click()
    expect(desk.page.get_by_text("was added successfully")).to_be_visible()

    account = Account.objects.get()
    assert (account.owner, account.name, account.key_hint) == (alice, "main", "…1234")
    assert account.credentials.reveal().secret == "canary-secret"
    assert (account.risk_profile.max_open_positions, account.risk_profile.max_exposure) == (5, Decimal("2500.5"))


def test_the_parameters_of_the_chosen_strategy_appear(desk: Desk) -> None:
    desk.follow("Add strategy configuration", "/strategyconfig/add/")
    strategy = desk.field("strategy").get_by_role("combobox")
    exits = ("stop_loss_percent", "take_profit_percent")

    strategy.select_option("RSI mean reversion")
    expect(desk.field("sma_cross__fast")).to_be_hidden()
    reversion = parameters_shown(desk)
    strategy.select_option("SMA crossover")
    expect(desk.field("rsi_reversion__period")).to_be_hidden()
    crossover = parameters_shown(desk)

    assert reversion == [f"rsi_reversion__{name}" for name in (*exits, "period", "oversold", "recovered")]
    assert crossover == [f"sma_cross__{name}" for name in (*exits, "fast", "slow")]


def test_a_bad_parameter_is_told_of_at_its_field_and_corrected(desk: Desk, alice: User) -> None:
    make_market()

    desk.follow("Add strategy configuration", "/strategyconfig/add/")
    desk.field("name").get_by_role("textbox").fill("reversion")
    desk.pick("market", "btc", "BTC/USDT at simulator")
    desk.field("timeframe").get_by_role("combobox").select_option("1h")
    desk.field("strategy").get_by_role("combobox").select_option("RSI mean reversion")
    period = desk.page.get_by_role("spinbutton", name="Period")
    period.fill("1")
    desk.button("Save").click()
    expect(desk.field("rsi_reversion__period")).to_contain_text("Input should be greater than or equal to 2, was 1")
    expect(desk.field("rsi_reversion__oversold")).not_to_contain_text("Input should")
    was_saved = StrategyConfig.objects.exists()
    period.fill("9")
    desk.button("Save").click()
    expect(desk.page.get_by_text("was added successfully")).to_be_visible()

    config = StrategyConfig.objects.get()
    assert not was_saved
    assert (config.owner, config.name, config.strategy, str(config.feed)) == (
        alice, "reversion", "rsi_reversion", "simulator-BTC/USDT-1h",
    )  # fmt: skip
    assert config.parameters["period"] == 9


def test_a_trader_makes_a_session_of_an_account_and_a_configuration(desk: Desk, alice: User) -> None:
    account = make_account(alice)
    config = make_config(alice, make_feed(make_market()), name="trend")

    desk.follow("Add session", "/tradingsession/add/")
    desk.pick("account", "mai", "main (simulator)")
    desk.pick("config", "tre", "trend")
    desk.field("sizing_amount").get_by_role("spinbutton").fill("250")
    desk.field("take_profit_percent").get_by_role("spinbutton").fill("3.5")
    desk.button("Save").click()
    expect(desk.page.get_by_text("was added successfully")).to_be_visible()

    session = TradingSession.objects.get()
    assert (session.account, session.config, session.status) == (account, config, S.CREATED)
    assert session.name == "trend-simulator-BTC/USDT-1m"
    assert (session.sizing_amount, session.take_profit_percent) == (Decimal(250), Decimal("3.5"))


def test_a_session_is_started_suspended_and_stopped_by_its_buttons(
    desk: Desk, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TradingSessionPage, "live_seconds", 1)
    session = make_session(make_account(alice), name="mine", status=S.CREATED)
    open_session(desk, session)
    expect_status(desk, "CREATED")

    for label, status, told in (
        ("Start", "ACTIVE", "mine: started"),
        ("Suspend", "SUSPENDED", "mine: suspended; what it holds keeps its exits"),
        ("Stop", "STOPPING", "mine: asked to stop; it is stopped when nothing is held and nothing is open"),
    ):
        press(desk, label)
        expect(desk.page.get_by_text(told)).to_be_visible()
        expect_status(desk, status)
        session.refresh_from_db()
        assert session.status == status

    sessions_track([session.pk])
    expect_status(desk, "STOPPED")


def test_a_dialog_that_is_cancelled_does_nothing(desk: Desk, alice: User) -> None:
    session = make_session(make_account(alice), status=S.ACTIVE)
    open_session(desk, session)

    desk.link("Stop").click()
    expect(dialog_of(desk)).to_contain_text("Cancels its open orders and closes what it holds at market.")
    dialog_of(desk).get_by_role("link", name="Cancel").click()
    expect(dialog_of(desk)).to_be_hidden()

    session.refresh_from_db()
    assert session.status == S.ACTIVE


def test_the_api_docs_show_every_operation_and_try_one_out(desk: Desk, alice: User) -> None:
    make_session(make_account(alice), name="mine")
    schema: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)
    operations = {f"{method.upper()} {path}" for path, methods in schema["paths"].items() for method in methods}

    desk.page.goto(reverse("docs"))
    blocks = desk.page.locator(".opblock")
    expect(blocks).to_have_count(len(operations))
    shown: list[str] = blocks.evaluate_all(OPERATIONS)
    listing = desk.page.locator(".opblock-get").filter(has=desk.page.locator("[data-path='/api/v1/sessions']"))
    listing.locator("button.opblock-summary-control").click()
    listing.get_by_role("button", name="Try it out").click()
    listing.get_by_role("button", name="Execute").click()

    expect(listing.locator(".live-responses-table .response .response-col_status")).to_contain_text("200")
    expect(listing.locator(".live-responses-table .response")).to_contain_text('"name": "mine"')
    assert set(shown) == operations


def test_every_page_of_the_sidebar_opens_in_the_browser(desk: Desk, alice: User) -> None:
    make_session(make_account(alice), name="mine")
    desk.page.goto("/")
    sidebar = desk.page.locator("#nav-sidebar a[href^='/admin/']")
    addresses: list[str] = sidebar.evaluate_all("all => all.map(one => one.getAttribute('href'))")

    assert reverse("admin:pipeline_event_changelist") in addresses
    for address in addresses:
        response = desk.page.goto(address)
        assert response is not None
        assert response.status == 200, address
