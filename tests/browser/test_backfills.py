"""A backfill in the browser: asked for by a form, watched while its bar moves, stopped by a button that asks."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import expect

from marketdata.models import Backfill
from tests.api.test_backfills import hours_feed
from tests.browser.conftest import Desk
from tests.factories import NOON

pytestmark = pytest.mark.browser


def test_a_trader_asks_for_history_watches_it_and_stops_it(desk: Desk, alice: User) -> None:
    hours_feed()
    desk.follow("Backfills", "/admin/marketdata/backfill/")
    desk.page.goto("/admin/marketdata/backfill/add/")
    desk.pick("feed", "BTC", "simulator-BTC/USDT-1h")
    for name, day in (("from_at", "2024-04-21"), ("until_at", "2024-05-01")):
        desk.page.locator(f"input[name={name}_0]").fill(day)
        desk.page.locator(f"input[name={name}_1]").fill("12:00:00")
    desk.page.get_by_role("button", name="Save", exact=True).click()
    desk.page.wait_for_url("**/admin/marketdata/backfill/")
    one = Backfill.objects.get()
    assert (one.requested_by, one.until_at) == (alice, NOON)

    desk.page.goto(f"/admin/marketdata/backfill/{one.pk}/change/")
    bar = desk.page.locator("#live-facts [role=progressbar]")
    expect(bar).to_have_attribute("aria-valuenow", "0.0")
    Backfill.objects.update(
        status="RUNNING",
        started_at=NOON,
        cursor_at=one.from_at + 3 * (NOON - one.from_at) / 4,
        rows_seen=180,
        rows_new=175,
    )
    expect(bar).to_have_attribute("aria-valuenow", "75.0")
    desk.link("Cancel").click()
    with desk.page.expect_navigation():
        desk.page.locator("#dialog").get_by_role("button", name="Cancel").last.click()

    one.refresh_from_db()
    assert one.status == "CANCELED"
    expect(desk.link("Go on")).to_be_visible()
