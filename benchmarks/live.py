"""The platform's own processes around a benchmark: a database of its own, workers, beat and the simulated exchange.

They are started by the supervisor's own tables, die with the benchmark, and are watched for what they use.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psutil
import psycopg
import redis
import requests
from psycopg import sql

from embedded import memory, processes, ready
from embedded.child import launch_command
from embedded.services import free_port

START_LIMIT_SECONDS = 60.0


class CannotRun(Exception):
    """What the benchmark needs and did not find."""


def wait_until(is_so: Callable[[], object], what: str, seconds: float, pause: float = 0.05) -> None:
    """Wait for a condition; raises CannotRun with what was waited for."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise CannotRun(f"waited {seconds:g} s in vain for {what}")
        time.sleep(pause)


@contextmanager
def own_database() -> Iterator[None]:
    """A new database on the server of DATABASE_URL, dropped afterwards: figures are of a platform that starts empty, and
    nobody's data is touched. The broker must be empty too."""
    server = os.environ["DATABASE_URL"]
    if redis.Redis.from_url(os.environ["REDIS_URL"]).dbsize():
        raise CannotRun("wanted an empty Redis database at REDIS_URL, was one with keys in it")
    name = sql.Identifier(f"r3edge_bench_{os.getpid()}")
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(name))
        os.environ["DATABASE_URL"] = urlunsplit(urlsplit(server)._replace(path=f"/r3edge_bench_{os.getpid()}"))
        try:
            yield
        finally:
            os.environ["DATABASE_URL"] = server
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process and everything below it has used: CPU seconds so far, memory now."""

    cpu_s: float
    pss_mb: float
    rss_mb: float

    @classmethod
    def of(cls, pids: Sequence[int]) -> Usage:
        cpu, pss, rss = 0.0, 0.0, 0
        for pid in pids:
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                process = psutil.Process(pid)
                # Children that have ended are in their parent's account, as PostgreSQL's connections are.
                cpu += sum(process.cpu_times()[:4])
                pss += memory.megabytes(pid)
                rss += process.memory_info().rss
        return cls(cpu, pss, rss / 2**20)


@dataclass
class Live:
    """The running processes by name."""

    run_dir: Path
    started: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    servers: dict[str, int] = field(default_factory=dict)

    def start(self, name: str, command: list[str]) -> None:
        env = {**os.environ, "R3EDGE_RUN_DIR": str(self.run_dir), "R3EDGE_PROCESS_NAME": name}
        launch = launch_command(signal.SIGKILL)
        with (self.run_dir / f"{name}.log").open("ab") as log:
            self.started[name] = subprocess.Popen(
                [*launch, *command], env=env, stdout=log, stderr=log, start_new_session=True
            )

    def wait_ready(self, name: str, is_ready: Callable[[], bool] | None = None) -> None:
        process = self.started[name]
        check = is_ready or (lambda: ready.is_marked(self.run_dir, name, process.pid))
        wait_until(lambda: process.poll() is not None or check(), name, START_LIMIT_SECONDS)
        if process.poll() is not None:
            raise CannotRun(f"{name} ended before it was ready:\n{self.log(name)}")

    def log(self, name: str) -> str:
        return (self.run_dir / f"{name}.log").read_text(errors="replace")[-3000:]

    def warnings(self) -> list[str]:
        """What the processes complained of: a run with complaints is no measurement."""
        return [
            f"{name}: {line}"
            for name in self.started
            for line in (self.run_dir / f"{name}.log").read_text(errors="replace").splitlines()
            if " WARNING " in line or " ERROR " in line
        ]

    def usage(self) -> dict[str, Usage]:
        pids = {**{name: process.pid for name, process in self.started.items()}, **self.servers}
        used = {name: Usage.of(memory.descendants(pid)) for name, pid in pids.items()}
        return {**used, "this benchmark": Usage.of([os.getpid()])}

    def stop(self) -> None:
        for process in self.started.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for process in self.started.values():
            process.wait(15)


def used_between(before: Mapping[str, Usage], after: Mapping[str, Usage]) -> dict[str, float]:
    """CPU seconds by process."""
    return {name: usage.cpu_s - before[name].cpu_s for name, usage in after.items() if name in before}


@contextmanager
def platform_running(workers: Sequence[processes.Worker] = processes.WORKERS) -> Iterator[Live]:
    """Workers and beat as `./r3edge up` starts them, or other ``workers``; killed afterwards: nothing of theirs is kept."""
    with tempfile.TemporaryDirectory(prefix="r3edge-bench-") as directory:
        live = Live(Path(directory))
        live.servers = _server_pids()
        try:
            has_events = processes.has_task_events(os.environ)
            for worker in workers:
                live.start(worker.name, processes.worker_command(worker, has_task_events=has_events))
            live.start("beat", processes.beat_command())
            for name in list(live.started):
                live.wait_ready(name)
            yield live
        except CannotRun as failure:
            raise CannotRun("\n".join([str(failure), *live.warnings()[-20:]])) from failure
        finally:
            live.stop()


def simulator_start(live: Live, name: str = "simulator") -> str:
    """A simulated exchange whose market clock stands still; its address."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = processes.simulator_command("127.0.0.1", port, 0, 7, live.run_dir / f"{name}.state")
    live.start(name, command)
    live.wait_ready(name, lambda: _answers(f"{url}/_sim/health"))
    return url


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=2).ok
    except requests.RequestException:
        return False


def _server_pids() -> dict[str, int]:
    """PostgreSQL's and Valkey's processes, where they run on this machine."""
    pids = {}
    with psycopg.connect(os.environ["DATABASE_URL"]) as connection, suppress(psutil.Error):
        backend = psutil.Process(connection.info.backend_pid)
        if backend.name().startswith("postgres") and (parent := backend.parent()):
            pids["postgres"] = parent.pid
    broker = redis.Redis.from_url(os.environ["REDIS_URL"]).info("server")
    assert isinstance(broker, dict)  # redis-py types both its faces at once
    with suppress(psutil.Error):
        server = psutil.Process(int(broker["process_id"]))
        if "valkey" in server.name() or "redis" in server.name():
            pids["valkey"] = server.pid
    return pids
