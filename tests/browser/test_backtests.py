"""A backtest in the browser: asked for by a form, followed until its figures appear by themselves, and its report read."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import expect

from backtesting.models import BacktestRun
from backtesting.runs import run_compute
from tests.backtesting.test_runs import wave_feed
from tests.browser.conftest import Desk

pytestmark = pytest.mark.browser


def test_a_trader_asks_for_a_backtest_and_sees_what_came_of_it(desk: Desk, alice: User) -> None:
    wave_feed()
    desk.follow("Backtests", "/admin/backtesting/backtestrun/")
    desk.page.goto("/admin/backtesting/backtestrun/add/")
    desk.field("feeds").locator(".select2-selection").click()
    desk.page.keyboard.type("BTC")
    desk.page.get_by_role("option", name="simulator-BTC/USDT-1h").click()
    for name, day in (("from_at", "2024-04-21"), ("until_at", "2024-05-01")):
        desk.page.locator(f"input[name={name}_0]").fill(day)
        desk.page.locator(f"input[name={name}_1]").fill("13:00:00")
    desk.field("strategy").get_by_role("combobox").select_option("SMA crossover")
    expect(desk.field("donchian__period")).to_be_hidden()
    desk.field("sma_cross__fast").get_by_role("spinbutton").fill("3")
    desk.field("sma_cross__slow").get_by_role("spinbutton").fill("8")
    desk.button("Save").click()
    desk.page.wait_for_url("**/change/")
    expect(desk.page.locator("#live-facts")).to_contain_text("QUEUED")
    run = BacktestRun.objects.get()
    assert (run.owner, run.parameters["fast"], run.parameters["slow"]) == (alice, 3, 8)

    run_compute(run.pk)
    expect(desk.page.locator("#live-facts")).to_contain_text("DONE")
    expect(desk.page.locator("#live-facts svg polyline")).to_have_count(1)
    with desk.page.expect_popup() as opened:
        desk.page.locator("#live-facts").get_by_role("link", name="report").click()

    expect(opened.value.get_by_role("heading", name="SMA crossover BTC/USDT 1h")).to_be_visible()
    expect(opened.value.locator("canvas").first).to_be_visible()
