"""Tokens: got for a password, shown once, good for the API, ended at will."""

from __future__ import annotations

import base64
import itertools
import json
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone
from knox.models import AuthToken

from tests.api.conftest import Api
from tests.conftest import Bells
from tests.factories import make_user

_addresses = itertools.count(1)


@pytest.fixture
def client(db: None, bells: Bells) -> Client:
    """A client from an address of its own: attempts are counted per address."""
    number = next(_addresses)
    return Client(REMOTE_ADDR=f"10.0.{number // 256}.{number % 256}")


def ask(client: Client, body: Any = None, **headers: str) -> Any:
    return client.post("/api/v1/tokens", json.dumps(body), content_type="application/json", headers=headers)


def test_a_password_gets_a_token_that_opens_the_api(client: Client) -> None:
    make_user("alice")

    answer = ask(client, {"username": "alice", "password": "correct horse"})
    accounts = client.get("/api/v1/accounts", headers={"Authorization": f"Token {answer.json()['token']}"})

    assert answer.status_code == 201
    assert accounts.json() == {"next": None, "previous": None, "results": []}


def test_http_basic_gets_a_token_too(client: Client) -> None:
    make_user("alice")
    basic = base64.b64encode(b"alice:correct horse").decode()

    answer = ask(client, Authorization=f"Basic {basic}")

    assert answer.status_code == 201
    assert AuthToken.objects.get().user.username == "alice"


def test_a_session_gets_a_token_too(client: Client) -> None:
    client.force_login(make_user("alice"))

    answer = ask(client)

    assert answer.status_code == 201
    assert AuthToken.objects.get().user.username == "alice"


def test_a_session_without_its_csrf_token_gets_none(client: Client) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(make_user("alice"))

    answer = ask(strict)

    assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")
    assert AuthToken.objects.count() == 0


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ({"username": "alice", "password": "wrong"}, 401, "wanted the name and password of an active user"),
        ({"username": "nobody", "password": "correct horse"}, 401, "wanted the name and password of an active user"),
        ({"username": "gone", "password": "correct horse"}, 401, "wanted the name and password of an active user"),
        ({"username": "alice"}, 400, "password: This field is required."),
        ({"username": ["alice"], "password": "x"}, 400, "username: Not a valid string."),
        ({"username": "a\0", "password": "x"}, 400, "username: Null characters are not allowed."),
        ("alice", 400, "Invalid data. Expected a dictionary, but got str."),
    ],
)
def test_bad_credentials_get_no_token(client: Client, body: Any, status: int, detail: str) -> None:
    make_user("alice")
    make_user("gone", is_active=False)

    answer = ask(client, body)

    assert answer.status_code == status
    assert answer.json()["detail"].startswith(detail)
    assert AuthToken.objects.count() == 0


def test_guessing_is_slowed_down_after_ten_attempts_a_minute(client: Client) -> None:
    statuses = [ask(client, {"username": "alice", "password": "guess"}).status_code for _ in range(11)]

    answer = ask(client, {"username": "alice", "password": "guess"})

    assert statuses == [401] * 10 + [429]
    assert answer.json()["code"] == "throttled"
    assert answer.headers["Retry-After"] == "60"


def test_guessing_by_http_basic_is_slowed_down_too(client: Client) -> None:
    make_user("alice")
    wrong, right = (base64.b64encode(f"alice:{word}".encode()).decode() for word in ("guess", "correct horse"))

    statuses = [ask(client, Authorization=f"Basic {wrong}").status_code for _ in range(10)]
    answer = ask(client, Authorization=f"Basic {right}")

    assert statuses == [401] * 10
    assert answer.status_code == 429
    assert AuthToken.objects.count() == 0


def test_a_name_with_a_null_character_gets_no_token(client: Client) -> None:
    answer = ask(client, Authorization=f"Basic {base64.b64encode(b'a' + bytes(1) + b':x').decode()}")

    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Basic realm="api"'


def test_a_redis_that_is_away_keeps_nobody_from_their_token(client: Client, settings: Any) -> None:
    make_user("alice")
    settings.REDIS_URL = "redis://127.0.0.1:9/0"

    answer = ask(client, {"username": "alice", "password": "correct horse"})

    assert answer.status_code == 201


def test_a_token_makes_no_other_token(client: Client) -> None:
    _, token = AuthToken.objects.create(user=make_user("alice"))

    answer = ask(client, {}, Authorization=f"Token {token}")

    assert answer.status_code == 400
    assert AuthToken.objects.count() == 1


def test_an_expired_token_opens_nothing(client: Client) -> None:
    row, token = AuthToken.objects.create(user=make_user("alice"))
    AuthToken.objects.filter(pk=row.pk).update(expiry=timezone.now() - timedelta(seconds=1))

    answer = client.get("/api/v1/accounts", headers={"Authorization": f"Token {token}"})

    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Token"


def test_ones_tokens_are_listed_by_the_beginning_of_their_digest(alice: Api, bob: Api) -> None:
    row, token = AuthToken.objects.create(user=alice.user)
    AuthToken.objects.create(user=bob.user)

    answer = alice.get("tokens")

    assert [one["id"] for one in answer.json()["results"]] == [row.digest[:12]]
    assert token not in answer.content.decode()
    assert row.digest not in answer.content.decode()


def test_a_token_is_ended_by_its_owner_only(alice: Api, bob: Api, root: Api) -> None:
    row, _ = AuthToken.objects.create(user=alice.user)
    path = f"tokens/{row.digest[:12]}"

    refused = [bob.call("delete", path).status_code, root.call("delete", path).status_code]
    answer = alice.call("delete", path)

    assert refused == [404, 404]
    assert answer.status_code == 204
    assert AuthToken.objects.count() == 0


@pytest.mark.parametrize(
    "wrong", ["a", "%25", "%00aaaaaaaaaaa", "%25%25%25%25%25%25%25%25%25%25%25%25", "000000000000", "0" * 128]
)
def test_a_token_nobody_has_cannot_be_ended(alice: Api, wrong: str) -> None:
    AuthToken.objects.create(user=alice.user)

    answer = alice.call("delete", f"tokens/{wrong}")

    assert answer.status_code == 404
    assert AuthToken.objects.count() == 1


def test_the_command_prints_one_token_and_nothing_else(client: Client) -> None:
    make_user("alice")
    out = StringIO()

    call_command("token", "alice", "--days", "7", stdout=out)

    token = out.getvalue().removesuffix("\n")
    row = AuthToken.objects.get()
    assert client.get("/api/v1/accounts", headers={"Authorization": f"Token {token}"}).status_code == 200
    assert round((row.expiry - row.created).total_seconds()) == 7 * 86_400


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["carol"], "wanted the name of a user, was 'carol'"),
        (["gone"], "wanted an active user, 'gone' is not"),
        (["alice", "--days", "0"], "--days: wanted 1 to 3650, was 0"),
        (["alice", "--days", "99999999"], "--days: wanted 1 to 3650, was 99999999"),
    ],
)
def test_the_command_refuses_what_makes_no_sense(db: None, arguments: list[str], message: str) -> None:
    make_user("alice")
    make_user("gone", is_active=False)

    with pytest.raises(CommandError) as refusal:
        call_command("token", *arguments)

    assert str(refusal.value) == message
    assert AuthToken.objects.count() == 0
