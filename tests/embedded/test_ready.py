"""The file by which a worker tells the supervisor that it works."""

import os
from pathlib import Path

import pytest

from embedded import ready


def test_a_marked_process_is_ready_in_its_own_group_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R3EDGE_RUN_DIR", str(tmp_path))
    monkeypatch.setenv("R3EDGE_PROCESS_NAME", "beat")

    ready.mark()

    assert ready.is_marked(tmp_path, "beat", os.getpgid(0))
    assert not ready.is_marked(tmp_path, "beat", os.getpgid(0) + 1)
    assert not ready.is_marked(tmp_path, "worker", os.getpgid(0))


def test_the_mark_of_a_process_that_has_ended_does_not_count(tmp_path: Path) -> None:
    mark = ready.path_of(tmp_path, "beat")
    mark.parent.mkdir()
    mark.write_text("4194999")  # above the largest pid

    assert not ready.is_marked(tmp_path, "beat", 4194999)


def test_marking_outside_the_supervisor_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("R3EDGE_RUN_DIR", raising=False)
    monkeypatch.chdir(tmp_path)

    ready.mark("beat")

    assert list(tmp_path.iterdir()) == []
