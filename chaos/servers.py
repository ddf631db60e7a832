"""PostgreSQL and Valkey of a run's own, to be killed, emptied and started again at will; gone when the run is.

They keep their data as the platform's own do. Only the disk is not waited for: what a killed process had written is safe
with the system, and nobody pulls the plug.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from chaos.breach import CannotRun
from chaos.proxy import Proxy
from embedded.checkout import Checkout
from embedded.child import Guard, launch_command
from embedded.running import base_env
from embedded.services import Postgres, Server, Valkey, free_port, throwaway_home

START_LIMIT_SECONDS = 60.0
# A postmaster that was killed leaves children behind, which hold its memory for a moment and keep a new one from starting.
START_PAUSE_SECONDS = 0.1


class Home:
    """The directory of a run, and who removes it, and ends what runs in it, whatever becomes of the run."""

    def __init__(self) -> None:
        self.path = throwaway_home()
        self.guard = Guard()
        self.guard.remove(self.path)
        self.checkout = Checkout(self.path)
        self.checkout.make()
        self.run_dir.mkdir(exist_ok=True)

    @property
    def run_dir(self) -> Path:
        """Where processes say that they are ready, and write their logs."""
        return self.checkout.run_dir

    def log(self, name: str) -> Path:
        return self.run_dir / f"{name}.log"

    def keep_logs(self) -> Path:
        """Copy what the processes said to where it outlives the run; over what an earlier run left there."""
        kept = Checkout().var / "chaos"
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        for log in self.run_dir.glob("*.log"):
            shutil.copy(log, kept)
        return kept

    def close(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self.guard.close()


@dataclass
class Killable:
    """One server process; ``start`` waits until it answers."""

    name: str
    server: Server
    home: Home
    arguments: tuple[str, ...] = ()
    starts: int = 0
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def url(self) -> str:
        """Straight to it, past any proxy."""
        return self.server.url

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, again and again where what was killed before is still in the way."""
        deadline = time.monotonic() + START_LIMIT_SECONDS
        self.server.prepare()
        while not (self.is_running and self._process and self.server.process().is_healthy(self._process.pid)):
            if not self.is_running:
                self._launch()
            if time.monotonic() > deadline:
                raise CannotRun(f"{self.name} did not start:\n{self.home.log(self.name).read_text()[-2000:]}")
            time.sleep(START_PAUSE_SECONDS)
        self.starts += 1

    def _launch(self) -> None:
        process = self.server.process()
        process.before_start()
        launch = launch_command(signal.SIGKILL, process.owner)
        with self.home.log(self.name).open("ab") as log:
            self._process = subprocess.Popen(
                [*launch, *process.command, *self.arguments], env=dict(process.env), stdout=log, stderr=log,
                start_new_session=True, cwd=process.cwd,
            )  # fmt: skip
        self.home.guard.watch(self._process.pid, signal.SIGKILL)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Kill it (PostgreSQL: SIGQUIT is its immediate shutdown) and wait until it is gone."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, number)
        self._process.wait(30)
        if self.name == "valkey" or number == signal.SIGKILL:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self.home.guard.forget(self._process.pid)

    def freeze(self) -> None:
        """Stop it where it stands: it accepts and answers nothing."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        if self._process is not None and self.is_running:
            os.killpg(self._process.pid, signal.SIGCONT)


@dataclass
class Ground:
    """The two servers, a proxy before each, and the environments that lead to them."""

    home: Home
    postgres: Killable
    valkey: Killable
    database_proxy: Proxy
    broker_proxy: Proxy

    @property
    def own_env(self) -> dict[str, str]:
        """For the run itself, which goes past the proxies."""
        return {
            "DJANGO_SETTINGS_MODULE": "r3edge_site.settings", **self.home.checkout.secret_env(),
            "DATABASE_URL": self.postgres.url, "REDIS_URL": self.valkey.url,
        }  # fmt: skip

    @property
    def platform_env(self) -> dict[str, str]:
        """For the platform's processes, which know the proxies only."""
        return {
            **base_env(self.home.run_dir), **self.own_env,
            "DATABASE_URL": _at_port(self.postgres.url, self.database_proxy.port),
            "REDIS_URL": _at_port(self.valkey.url, self.broker_proxy.port),
        }  # fmt: skip


@contextmanager
def ground_made() -> Iterator[Ground]:
    """Servers that are up and empty; all gone after the block."""
    home = Home()
    try:
        postgres, valkey = postgres_of(home), valkey_of(home)
        for server in (postgres, valkey):
            server.start()
        ground = Ground(home, postgres, valkey, Proxy(postgres.port), Proxy(valkey.port))
        try:
            yield ground
        finally:
            for part in (ground.database_proxy, ground.broker_proxy):
                part.close()
            for server in (postgres, valkey):
                server.thaw()
                server.kill()
    finally:
        home.close()


def _at_port(url: str, port: int) -> str:
    parts = urlsplit(url)
    address, _, _ = parts.netloc.rpartition(":")
    return urlunsplit(parts._replace(netloc=f"{address}:{port}"))


def postgres_of(home: Home) -> Killable:
    server = Postgres(home.path / "postgres", home.checkout.secret("postgres.password"), free_port())
    return Killable("postgres", server, home, arguments=("-c", "fsync=off", "-c", "restart_after_crash=on"))


def valkey_of(home: Home) -> Killable:
    return Killable("valkey", Valkey(home.path / "valkey", home.checkout.secret("valkey.password"), free_port()), home)


def valkey_data_remove(home: Home) -> None:
    """Lose what the broker has written; it must not run."""
    for part in ("appendonlydir", "dump.rdb"):
        path = home.path / "valkey" / part
        shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):
            path.unlink()
