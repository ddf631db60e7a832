"""A gateway that loses patience quickly, so that a venue which hangs costs a test half a second."""

from __future__ import annotations

import pytest

from exchanges import ccxt_gateway


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ccxt_gateway, "HTTP_TIMEOUT_MS", 400)
