"""Secrets, the lock and the state of a checkout."""

import base64
import stat

import pytest

from embedded.checkout import AlreadyRunning, Checkout, State


def test_secrets_are_readable_by_their_owner_only(checkout: Checkout) -> None:
    checkout.secret("postgres.password")

    path = checkout.secrets_dir / "postgres.password"

    assert stat.S_IMODE(checkout.secrets_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_secret_is_generated_once_and_then_kept(checkout: Checkout) -> None:
    first = checkout.secret("django.key")

    again = Checkout(checkout.root).secret("django.key")

    assert again == first
    assert len(first) == 64
    assert [path.name for path in checkout.secrets_dir.iterdir()] == ["django.key"]


def test_the_encryption_key_is_a_fernet_key(checkout: Checkout) -> None:
    key = checkout.secret("encryption.key")

    assert len(base64.urlsafe_b64decode(key)) == 32


def test_a_secret_that_the_user_set_wins(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R3EDGE_ENCRYPTION_KEYS", "theirs")

    env = checkout.secret_env()

    assert env["R3EDGE_ENCRYPTION_KEYS"] == "theirs"
    assert env["R3EDGE_SECRET_KEY"] == checkout.secret("django.key")


def test_one_supervisor_at_a_time_has_the_checkout(checkout: Checkout) -> None:
    with checkout.lock(), pytest.raises(AlreadyRunning), Checkout(checkout.root).lock():
        pytest.fail("two hold the lock")

    with checkout.lock():
        pass


def test_the_state_is_seen_while_the_lock_is_held_and_not_after(checkout: Checkout) -> None:
    state = State(pid=7, mode="up", is_ready=True, postgres_port=1, urls={"admin": "http://127.0.0.1:8000/admin/"})

    with checkout.lock():
        checkout.write_state(state)
        seen_inside = Checkout(checkout.root).state()

    assert seen_inside == state
    assert checkout.state() is None


def test_the_state_that_a_killed_supervisor_left_is_not_believed(checkout: Checkout) -> None:
    with checkout.lock():
        pass
    checkout.write_state(State(pid=7, mode="up", is_ready=True))

    assert checkout.state() is None
