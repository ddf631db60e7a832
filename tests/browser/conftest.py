"""A trader's desk: a real headless Chromium before the real pages on real PostgreSQL. Whatever a test does there, no page may
complain in the console, and none may ask any host but our own for anything."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.contrib.auth.models import User
from django.core.signals import request_finished, request_started
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright
from pytest_django.live_server_helper import LiveServer

from tests.admin.conftest import make_trader, signed_in
from tests.conftest import Bells
from tests.workers import wait_until

NAMES = ("chromium", "chromium-headless-shell", "google-chrome")
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
    # What is asked of another host is recorded below; that it is never answered keeps the tests the same offline.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost",
)  # fmt: skip
PATIENCE_MS = 20_000


@dataclass
class Desk:
    """The browser's one page, and all that it asked for and complained of."""

    page: Page
    url: str
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def watch(self, context: BrowserContext) -> None:
        context.on("request", lambda request: self.asked.append(request.url))
        context.on("weberror", lambda error: self.complaints.append(str(error.error)))
        context.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)

    def sign_in(self, trader: User) -> None:
        """As the trader who has signed in before."""
        cookie = signed_in(trader).cookies["sessionid"].value
        self.page.context.add_cookies([{"name": "sessionid", "value": cookie, "url": self.url}])

    def hosts(self) -> set[str]:
        """Everyone who was asked for something over a network."""
        addresses = [urlsplit(url) for url in self.asked]
        return {address.netloc for address in addresses if address.scheme not in ("data", "blob", "about")}

    def follow(self, name: str, address: str) -> None:
        """From the front page by a link, until the scripts of its page ran: pressed before, a control is a plain one."""
        self.page.goto("/")
        self.link(name).click()
        self.page.wait_for_url(f"**{address}")

    def link(self, name: str) -> Locator:
        return self.page.get_by_role("link", name=name)

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def field(self, name: str) -> Locator:
        """The line of a form with label, input, help and what is wrong with it."""
        return self.page.locator(f".field-{name}")

    def pick(self, name: str, term: str, choice: str) -> None:
        """Choose from a field that searches while one types."""
        self.field(name).locator(".select2-selection").click()
        self.page.get_by_role("searchbox").fill(term)
        self.page.get_by_role("option", name=choice).click()


@contextmanager
def server_at_rest_afterwards() -> Iterator[None]:
    """Leave the block when every request that began in it was answered. A page that closes takes its requests back, but
    the server goes on with them, and one that reads while the tables are emptied would be a deadlock."""
    under_way = 0
    lock = threading.Lock()

    def count(change: int) -> None:
        nonlocal under_way
        with lock:
            under_way += change

    def began(**_: Any) -> None:
        count(1)

    def ended(**_: Any) -> None:
        count(-1)

    request_started.connect(began)
    request_finished.connect(ended)
    try:
        yield
        wait_until(lambda: under_way == 0, "every request answered")
    finally:
        request_started.disconnect(began)
        request_finished.disconnect(ended)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for a file's tests; a fresh context makes each a newcomer. Ended with the file: while it is there an
    event loop runs in this thread, which the tests of other files would not expect."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no Chromium: wanted one of {', '.join(NAMES)} on PATH")
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        # That loop makes Django refuse every query of this thread. It only waits while a test runs, so they are safe.
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def alice(transactional_db: None) -> User:
    return make_trader("alice")


@pytest.fixture
def door(chromium: Browser, transactional_db: None, live_server: LiveServer, bells: Bells) -> Iterator[Desk]:
    """A browser that nobody has signed in with."""
    expect.set_options(timeout=PATIENCE_MS)
    with server_at_rest_afterwards():
        context = chromium.new_context(base_url=live_server.url, viewport={"width": 1280, "height": 1000})
        context.set_default_timeout(PATIENCE_MS)
        desk = Desk(context.new_page(), live_server.url)
        desk.watch(context)
        yield desk
        context.close()

    assert desk.hosts() == {urlsplit(live_server.url).netloc}
    assert desk.complaints == []


@pytest.fixture
def desk(door: Desk, alice: User) -> Desk:
    """Alice's browser, signed in."""
    door.sign_in(alice)
    return door
