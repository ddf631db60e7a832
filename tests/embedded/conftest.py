"""What the tests of the supervisor share: places where real servers may run, and a copy of the checkout."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from embedded.checkout import ROOT, Checkout
from embedded.services import throwaway_home


@pytest.fixture
def home() -> Iterator[Path]:
    """An empty directory that an unprivileged server can enter, unlike pytest's own when root runs the tests."""
    path = throwaway_home()
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def checkout(home: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    """An empty checkout; no services named by the environment."""
    for name in ("DATABASE_URL", "REDIS_URL", "R3EDGE_SECRET_KEY", "R3EDGE_ENCRYPTION_KEYS"):
        monkeypatch.delenv(name, raising=False)
    empty = Checkout(home)
    empty.make()
    return empty


@pytest.fixture
def clone(home: Path) -> Path:
    """A copy of the command and the supervisor, in a path with spaces, with the real .venv."""
    root = home / "a clone with spaces"
    root.mkdir()
    shutil.copy2(ROOT / "r3edge", root)
    for name in ("requirements.txt", "requirements-dev.txt"):
        shutil.copy2(ROOT / name, root)
    shutil.copytree(ROOT / "embedded", root / "embedded", ignore=shutil.ignore_patterns("__pycache__"))
    (root / ".venv").symlink_to(ROOT / ".venv")
    return root


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run() -> Run:
    """Run a command as a user would type it, without the services that these tests themselves run on."""

    def run(*command: str | Path, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=cwd, env={**clean_env(), **env}, capture_output=True, text=True, timeout=100, check=False
        )

    return run


def clean_env() -> dict[str, str]:
    named = ("DATABASE_URL", "REDIS_URL", "R3EDGE_SECRET_KEY", "R3EDGE_ENCRYPTION_KEYS", "DJANGO_SETTINGS_MODULE")
    return {name: value for name, value in os.environ.items() if name not in named}
