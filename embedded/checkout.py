"""What one checkout keeps on disk: secrets, data directories, the lock of the one that runs, and what it says of itself.

Everything is under `var/`, readable by its owner only. One supervisor at a time holds `var/run/lock`; the state
beside it holds ports and addresses and no secret.
"""

import base64
import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class NotOurs(Exception):
    """A file of the checkout that this user cannot read or write."""


class AlreadyRunning(Exception):
    """Another supervisor holds the lock of this checkout."""


@dataclass(frozen=True)
class State:
    """What runs in this checkout, for the next command that is typed. No secrets."""

    pid: int
    mode: str  # up, demo or manage
    is_ready: bool = False
    postgres_port: int | None = None  # None: the DATABASE_URL of its own environment
    valkey_port: int | None = None
    urls: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkout:
    """The places of one checkout."""

    root: Path = ROOT

    @property
    def var(self) -> Path:
        return self.root / "var"

    @property
    def log_dir(self) -> Path:
        return self.var / "log"

    @property
    def run_dir(self) -> Path:
        return self.var / "run"

    @property
    def secrets_dir(self) -> Path:
        return self.var / "secrets"

    def make(self) -> None:
        """Create the directories; NotOurs when another user's run left them closed to this one."""
        try:
            self.var.mkdir(mode=0o755, parents=True, exist_ok=True)
            for private in (self.secrets_dir, self.run_dir, self.log_dir):
                private.mkdir(mode=0o700, exist_ok=True)
        except OSError as refused:
            raise NotOurs(f"cannot make the directory {refused.filename}: {refused.strerror}") from refused
        for private in (self.secrets_dir, self.run_dir, self.log_dir):
            if not os.access(private, os.R_OK | os.W_OK | os.X_OK):
                raise NotOurs(f"cannot use {private}: it belongs to another user; run r3edge as that user")

    def secret(self, name: str) -> str:
        """The secret of that name, generated on first use and then kept."""
        path = self.secrets_dir / name
        with contextlib.suppress(FileNotFoundError):
            return path.read_text().strip()
        value = _generate(name)
        half = path.with_name(f".{name}.{os.getpid()}")
        half.touch(mode=0o600)
        half.write_text(f"{value}\n")
        with contextlib.suppress(FileExistsError):  # another first run was quicker: its secret is the one
            os.link(half, path)
        half.unlink()
        return path.read_text().strip()

    def secret_env(self) -> dict[str, str]:
        """The secrets that Django needs; what the user has set wins."""
        return {
            "R3EDGE_SECRET_KEY": os.environ.get("R3EDGE_SECRET_KEY") or self.secret("django.key"),
            "R3EDGE_ENCRYPTION_KEYS": os.environ.get("R3EDGE_ENCRYPTION_KEYS") or self.secret("encryption.key"),
        }

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Be the one supervisor of this checkout; AlreadyRunning when there is another."""
        with (self.run_dir / "lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AlreadyRunning(str(self.root)) from None
            try:
                yield
            finally:
                self._state_path.unlink(missing_ok=True)

    @property
    def _state_path(self) -> Path:
        return self.run_dir / "state.json"

    def write_state(self, state: State) -> None:
        half = self._state_path.with_suffix(".half")
        half.touch(mode=0o600)
        half.write_text(json.dumps(asdict(state)))
        half.replace(self._state_path)

    def state(self) -> State | None:
        """What runs here now; None when nothing does, whatever a killed supervisor left behind."""
        with contextlib.suppress(FileNotFoundError, AlreadyRunning), (self.run_dir / "lock").open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return self._read_state()
        return None

    def _read_state(self) -> State | None:
        try:
            return State(**json.loads(self._state_path.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None  # it has the lock and has not written yet


def _generate(name: str) -> str:
    if name == "encryption.key":
        return base64.urlsafe_b64encode(os.urandom(32)).decode()  # what Fernet.generate_key() makes
    return secrets.token_urlsafe(48 if name == "django.key" else 18)
