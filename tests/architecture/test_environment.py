"""The environment is refused by name, and without what it said: it may have been a password."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from r3edge_site.environment import Environment


@pytest.mark.parametrize("missing", [None, "REDIS_URL"])
def test_a_refused_environment_shows_no_secret(monkeypatch: pytest.MonkeyPatch, missing: str | None) -> None:
    monkeypatch.setenv("DATABASE_URL", "mysql://trader:hunter2@host/name")
    if missing is not None:
        monkeypatch.delenv(missing)

    with pytest.raises(ValidationError) as raised:
        Environment()

    assert "DATABASE_URL" in str(raised.value)
    assert "was mysql scheme" in str(raised.value)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_key_that_is_not_set_or_blank_is_none(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("R3EDGE_ALPHA_VANTAGE_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("R3EDGE_ALPHA_VANTAGE_KEY", value)

    assert Environment().alpha_vantage_key is None


def test_a_key_of_a_source_is_shown_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R3EDGE_ALPHA_VANTAGE_KEY", "hunter2")

    assert "hunter2" not in repr(Environment())


@pytest.mark.parametrize("name", ["ALPHA_VANTAGE_PER_MINUTE", "ALPHA_VANTAGE_PER_DAY", "YAHOO_PER_MINUTE"])
def test_a_rate_that_allows_nothing_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"R3EDGE_{name}", "0")

    with pytest.raises(ValidationError, match=name.lower()):
        Environment()


@pytest.mark.parametrize("name", Environment.model_fields)
def test_every_variable_is_explained_to_operators(name: str) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/operations.md").read_text()
    plain = ("database_url", "redis_url", "broker_url")

    assert f"`{'' if name in plain else 'R3EDGE_'}{name.upper()}`" in page
