"""The environment is refused by name, and without what it said: it may have been a password."""

from __future__ import annotations

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
