"""A stage by hand for every test that asks for one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.hand import HandStage, hand_stage
from tests.conftest import Bells
from tests.simulator.conftest import Simulator, made_exchange


@pytest.fixture
def stage(transactional_db: None, bells: Bells, monkeypatch: pytest.MonkeyPatch) -> Iterator[HandStage]:
    """The platform by hand, at a simulator of its own."""
    with Simulator(made_exchange()) as simulator, hand_stage(monkeypatch, simulator.url, bells.client) as stage:
        yield stage
