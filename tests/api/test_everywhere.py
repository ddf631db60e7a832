"""What holds at every address: who may read what, how failures look, that no secret shows, and that lists stay cheap."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from decimal import Decimal
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import transaction
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from backtesting.models import BacktestRun, Study
from exchanges.models import Account
from marketdata.models import Backfill, CandleGap
from money.halts import halt_trip
from money.models import Valuation
from pipeline.rest import exact_text
from pipeline.topics import Topic, publish
from sessions.models import SessionGroup, TradingSession
from tests.api.conftest import Api
from tests.factories import (
    KEY,
    NOON,
    PASSPHRASE,
    SECRET,
    make_account,
    make_discrepancy,
    make_fill,
    make_funding,
    make_market,
    make_open_position,
    make_order,
    make_quote,
    make_session,
    make_signal,
    make_user,
)  # fmt: skip

OWNED = (
    "accounts",
    "configs",
    "signals",
    "sessions",
    "orders",
    "fills",
    "fundings",
    "positions",
    "valuations",
    "events",
    "discrepancies",
    "halts",
    "groups",
    "backtests",
    "studies",
)
SHARED = ("exchanges", "markets", "feeds", "backfills", "gaps")
PATHS = (*OWNED, *SHARED, "quotes", "tokens", "strategies", "candles", "indicators", "equity")


def cursor(text: str) -> str:
    """A page's address as the API writes it, saying what it likes."""
    return base64.b64encode(text.encode()).decode()


def populate(owner: Api, name: str) -> dict[str, int]:
    """One row of every kind for a trader; their ids by address."""
    assert owner.user is not None
    session = make_session(account=make_account(owner=owner.user, name=name))
    group = SessionGroup.objects.create(owner=owner.user, name=name)
    TradingSession.objects.filter(pk=session.pk).update(group=group)
    position = make_open_position(session)
    order = make_order(position, purpose="EXIT", status="OPENED")
    valuation = Valuation.objects.create(order=order, verdict="APPROVED")
    with transaction.atomic():
        publish(Topic.ORDERS, order.pk, order_id=order.pk, owner_id=owner.user.pk)
    quote, feed = make_quote(position.market), session.config.feed
    backfill = Backfill.objects.create(feed=feed, from_at=NOON, until_at=timezone.now(), cursor_at=NOON, status="DONE")
    gap, _ = CandleGap.objects.get_or_create(
        feed=feed, from_at=NOON, defaults={"until_at": timezone.now(), "missing": 1, "found_at": NOON}
    )
    return {
        "accounts": session.account_id, "configs": session.config_id, "signals": make_signal(session.config).pk,
        "sessions": session.pk, "groups": group.pk,
        "orders": order.pk, "fills": make_fill(order, quantity="0.01").pk,
        "fundings": make_funding(position).pk, "positions": position.pk,
        "valuations": valuation.pk, "discrepancies": make_discrepancy(position).pk,
        "events": owner.ids("events", topic="orders")[0],
        "halts": halt_trip("HALT", "news", account_id=session.account_id, actor=name).pk,
        "exchanges": session.account.exchange_id, "markets": position.market_id,
        "backtests": BacktestRun.objects.create(
            owner=owner.user, strategy="sma_cross", from_at=NOON, until_at=timezone.now(), status="DONE"
        ).pk,
        "studies": Study.objects.create(
            owner=owner.user, kind="OPTIMISE", strategy="sma_cross", from_at=NOON, until_at=timezone.now(), status="DONE",
            result={},
        ).pk,
        "feeds": session.config.feed_id, "quotes": quote.market_id, "backfills": backfill.pk, "gaps": gap.pk,
    }  # fmt: skip


def test_a_trader_sees_their_own_rows_and_a_superuser_all(alice: Api, bob: Api, root: Api) -> None:
    mine, theirs = populate(alice, "a"), populate(bob, "b")

    for path in OWNED:
        assert mine[path] in alice.ids(path), path
        assert theirs[path] not in alice.ids(path), path
        assert {mine[path], theirs[path]} <= set(root.ids(path)), path


@pytest.mark.parametrize("path", OWNED)
def test_another_traders_row_is_as_unknown_as_no_row(alice: Api, bob: Api, root: Api, path: str) -> None:
    theirs = populate(bob, "b")[path]

    answers = alice.get(f"{path}/{theirs}"), alice.get(f"{path}/99999999")

    assert [answer.status_code for answer in answers] == [404, 404]
    assert answers[0].json() == answers[1].json()
    assert root.get(f"{path}/{theirs}").status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("patch", "accounts/{accounts}"), ("post", "accounts/{accounts}/refresh"),
        ("post", "accounts/{accounts}/reconcile"), ("post", "discrepancies/{discrepancies}/resolve"),
        ("get", "accounts/{accounts}/risk-profile"),
        ("patch", "accounts/{accounts}/risk-profile"), ("patch", "configs/{configs}"), ("patch", "sessions/{sessions}"),
        ("post", "sessions/{sessions}/start"), ("post", "sessions/{sessions}/suspend"),
        ("post", "sessions/{sessions}/recover"),
        ("post", "sessions/{sessions}/stop"), ("post", "sessions/{sessions}/exit"), ("get", "sessions/{sessions}/hops"),
        ("post", "orders/{orders}/cancel"), ("post", "halts/{halts}/lift"), ("post", "groups/{groups}/start"),
        ("post", "groups/{groups}/suspend"),
        ("post", "groups/{groups}/recover"), ("post", "groups/{groups}/stop"), ("post", "backtests/{backtests}/cancel"),
        ("post", "backtests/{backtests}/retry"), ("post", "backtests/{backtests}/repeat"),
        ("delete", "backtests/{backtests}"), ("get", "backtests/{backtests}/trades"),
        ("get", "backtests/{backtests}/equity"), ("get", "backtests/{backtests}/report"),
        ("post", "studies/{studies}/cancel"), ("post", "studies/{studies}/retry"), ("delete", "studies/{studies}"),
        ("get", "studies/{studies}/trials"), ("get", "studies/{studies}/result"),
        ("post", "studies/{studies}/trials/0/run"),
    ],
)  # fmt: skip
def test_another_traders_row_cannot_be_touched(alice: Api, bob: Api, method: str, path: str) -> None:
    theirs = populate(bob, "b")

    answer = alice.call(method, path.format(**theirs), None if method == "get" else {"name": "mine"})

    assert answer.status_code == 404
    assert bob.get(f"sessions/{theirs['sessions']}").json()["status"] == "ACTIVE"
    assert Account.objects.get().name == "b"


@pytest.mark.parametrize("path", ["orders", "fills", "fundings", "events", "positions", "valuations"])
def test_asking_by_another_traders_session_finds_nothing(alice: Api, bob: Api, path: str) -> None:
    theirs = populate(bob, "b")

    found = alice.ids(path, session=theirs["sessions"])

    assert found == []
    assert bob.ids(path, session=theirs["sessions"])


@pytest.mark.parametrize("path", PATHS)
def test_who_is_not_logged_in_is_asked_to(nobody: Api, path: str) -> None:
    answer = nobody.get(path)

    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Token"
    assert answer.json() == {"code": "not_authenticated", "detail": "Authentication credentials were not provided."}


def test_a_wrong_token_is_a_401(nobody: Api) -> None:
    answer = Client().get("/api/v1/accounts", headers={"Authorization": "Token 0123456789"})

    assert (answer.status_code, answer.json()["code"]) == (401, "authentication_failed")


def test_a_browser_session_opens_the_api(alice: Api) -> None:
    client = Client()
    client.force_login(make_user("alice"))

    answer = client.get("/api/v1/accounts")

    assert answer.status_code == 200


@pytest.mark.parametrize("path", [*OWNED, *SHARED, "quotes"])
@pytest.mark.parametrize("wrong", ["abc", "0", "-1", "1.5", "99999999999999999999999999", "%00"])
def test_an_id_that_is_none_is_a_404(alice: Api, path: str, wrong: str) -> None:
    answer = alice.get(f"{path}/{wrong}")

    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("path", "query", "detail"),
    [
        ("orders", {"session": "abc"}, "session: Enter a whole number."),
        ("orders", {"account": 10**30}, f"account: Ensure this value is less than or equal to {2**63 - 1}."),
        ("orders", {"status": "FILLED"}, "status: Select a valid choice. FILLED is not one of the available choices."),
        ("orders", {"since": "yesterday"}, "since: Enter a valid date/time."),
        ("fills", {"order": "1.5"}, "order: Enter a whole number."),
        ("events", {"topic": "gossip"}, "topic: Select a valid choice. gossip is not one of the available choices."),
        ("events", {"actor": "\0"}, "actor: Null characters are not allowed."),
        ("events", {"cursor": "x"}, "Invalid cursor"),
        ("signals", {"candle_open_at": "noon"}, "candle_open_at: Enter a valid date/time."),
        ("markets", {"exchange": "\0"}, "exchange: Null characters are not allowed."),
        ("markets", {"is_active": "maybe"}, "is_active: wanted true or false, was 'maybe'"),
        ("feeds", {"is_needed": "%"}, "is_needed: wanted true or false, was '%'"),
        ("events", {"cursor": cursor("p=noon")}, "Invalid cursor"),
        ("orders", {"cursor": cursor("p=abc")}, "Invalid cursor"),
        ("orders", {"cursor": cursor("p=\0")}, "Invalid cursor"),
        ("markets", {"symbol": "\0"}, "symbol: Null characters are not allowed."),
        ("feeds", {"timeframe": "7m"}, "timeframe: Select a valid choice. 7m is not one of the available choices."),
    ],
)
def test_a_filter_of_the_wrong_kind_says_so(alice: Api, path: str, query: dict[str, Any], detail: str) -> None:
    answer = alice.get(path, **query)

    assert answer.json()["detail"] == detail
    assert answer.status_code == (404 if "cursor" in query else 400)


@pytest.mark.parametrize(
    ("content_type", "body", "status", "code", "detail"),
    [
        ("application/json", "{", 400, "parse_error", "JSON parse error - "),
        ("application/json", '{"name": NaN}', 400, "parse_error", "JSON parse error - Out of range float values"),
        ("application/json", "\xff", 400, "parse_error", "JSON parse error - "),
        ("application/json", "[]", 400, "invalid", "Invalid data. Expected a dictionary, but got list."),
        ("application/json", "[" * 100_000, 400, "parse_error", "wanted JSON that is not nested so deep"),
        ("application/json", "null", 400, "invalid", "No data provided"),
        ("text/plain", "name=x", 415, "unsupported_media_type", 'Unsupported media type "text/plain" in request.'),
    ],
)
@pytest.mark.parametrize(
    "path", ["accounts", "configs", "sessions", "halts", "groups", "orders", "backfills", "backtests", "studies"]
)
def test_a_body_that_cannot_be_read_is_refused(
    alice: Api, path: str, content_type: str, body: str, status: int, code: str, detail: str
) -> None:
    client = APIClient()
    client.force_authenticate(alice.user)

    answer = client.generic("POST", f"/api/v1/{path}", body.encode("latin-1"), content_type)  # type: ignore[arg-type]

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["detail"].startswith(detail)


def test_no_answer_shows_a_secret(alice: Api, root: Api) -> None:
    row = populate(alice, "a")
    bodies = {"api_key": KEY, "secret": SECRET, "passphrase": PASSPHRASE, "name": "second", "exchange": "simulator"}
    answers = [reader.get(path) for reader in (alice, root) for path in PATHS]
    answers += [reader.get(f"{path}/{pk}") for reader in (alice, root) for path, pk in row.items()]
    answers += [alice.post("accounts", bodies), alice.patch(f"accounts/{row['accounts']}", {**bodies, "name": "third"})]
    answers += [
        alice.post("accounts", {**bodies, "exchange": "none"}),
        alice.post(f"accounts/{row['accounts']}/refresh"),
    ]

    text = "".join(answer.content.decode() for answer in answers)

    assert "third" in text
    for secret in (KEY, SECRET, PASSPHRASE, "gAAAA", "canary"):
        assert secret not in text
    assert "canary" not in repr(Account.objects.first()) + repr(Account.objects.values()) + repr(
        vars(Account.objects.all()[0])
    )


@pytest.mark.parametrize(
    ("path", "queries"),
    [
        ("exchanges", 1), ("markets", 1), ("quotes", 1), ("feeds", 2), ("backfills", 1), ("gaps", 1),
        ("tokens", 1), ("strategies", 0),
        ("accounts", 2), ("configs", 1),
        ("signals", 1), ("sessions", 2), ("orders", 1), ("fills", 1), ("fundings", 1),
        ("positions", 1), ("valuations", 1), ("events", 1),
        ("discrepancies", 1), ("halts", 1), ("groups", 2), ("backtests", 2), ("studies", 2),
    ],
)  # fmt: skip
def test_a_list_costs_the_same_however_long(
    alice: Api, django_assert_num_queries: Callable[[int], AbstractContextManager[Any]], path: str, queries: int
) -> None:
    for name in ("a", "b", "c"):
        populate(alice, name)
    make_quote(make_market(symbol="ETH/USDT"))

    with django_assert_num_queries(queries):
        answer = alice.get(path)

    assert answer.status_code == 200


def test_the_schema_is_valid_and_documents_every_address(db: None) -> None:
    out = StringIO()

    call_command("spectacular", "--validate", "--fail-on-warn", "--format", "openapi-json", stdout=out)

    paths = json.loads(out.getvalue())["paths"]
    assert {path.split("/")[3] for path in paths} == {*PATHS, "money"}  # which has no rows, and so no list
    undocumented = [
        f"{method} {path}"
        for path, methods in paths.items()
        for method, one in methods.items()
        if not one.get("description")
    ]
    assert undocumented == []


def test_schema_and_docs_are_served_without_the_internet(db: None) -> None:
    client = Client()

    schema, docs = client.get("/api/schema/"), client.get("/api/docs/")

    assert (schema.status_code, docs.status_code) == (200, 200)
    page = docs.content.decode()
    assert re.findall(r"(?:src|href)=\"(https?://[^\"]*)\"", page) == []
    statics = re.findall(r"(?:src|href)=\"(/static/[^\"]*)\"", page)
    assert len(statics) == 4
    for static in statics:
        assert client.get(static).status_code == 200, static


def test_the_root_lists_every_address(alice: Api) -> None:
    answer = alice.get("")

    assert set(answer.json()) == set(PATHS)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("0.100000000000000000", "0.1"), ("0E-18", "0"), ("-0.000", "0"), ("1E+3", "1000"), ("100", "100"), ("-2.50", "-2.5"),
        ("123456789012345678.123456789012345678", "123456789012345678.123456789012345678"),
        ("0.3333333333333333333333333333", "0.333333333333333333"),
        ("66666.666666666666666666666667", "66666.666666666666666667"),
    ],
)  # fmt: skip
def test_a_figure_is_written_in_full_and_no_longer(value: str, text: str) -> None:
    assert exact_text(Decimal(value)) == text
