"""Real Celery workers and beat as processes, on the test's own database and broker.

Workers of threads that a test starts one by one are forked from a process that has imported the platform already: in a tenth
of the CPU, and to be killed as any other. Those that fork themselves, and those of ``workers_running(*names)``, are begun by
their commands, as the supervisor does it.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from urllib.parse import quote

from django.db import connection

from chaos.zygote import Zygote
from embedded import ready
from embedded.processes import WORKERS, beat_command, worker_command

START_LIMIT_SECONDS = 40


def database_url() -> str:
    """The database this test process uses, as a worker is told of it."""
    settings = connection.settings_dict
    user, password = quote(settings["USER"]), quote(settings["PASSWORD"])
    return f"postgresql://{user}:{password}@{settings['HOST']}:{settings['PORT']}/{settings['NAME']}"


def wait_until(is_so: Callable[[], object], what: str, seconds: float = 30) -> None:
    """Wait for a condition; fails with ``what`` was waited for."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s in vain: {what}")
        time.sleep(0.05)


def environment() -> dict[str, str]:
    return {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings", "DATABASE_URL": database_url()}


@cache
def zygote(url: str) -> Zygote:
    """The process that forks workers on the database at ``url``, for as long as this one lives."""
    log = Path(tempfile.gettempdir()) / f"zygote-{os.getpid()}.log"
    started = Zygote({**environment(), "DATABASE_URL": url}, log)
    atexit.register(log.unlink, missing_ok=True)
    atexit.register(started.close)
    return started


@dataclass
class Forked:
    """A process of the zygote's, with as much of ``subprocess.Popen`` as tests ask for."""

    pid: int
    zygote: Zygote
    returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self.zygote.poll(self.pid)
        return self.returncode

    def wait(self, timeout: float) -> int:
        wait_until(lambda: self.poll() is not None, f"process {self.pid} to end", timeout)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


Process = subprocess.Popen[bytes] | Forked


@dataclass
class Workers:
    """The processes, by name; their output is shown when a test fails to get what it waits for."""

    run_dir: Path
    processes: dict[str, Process] = field(default_factory=dict)

    def start(self, name: str, command: list[str], **env: str) -> None:
        """Start a command as a process of its own."""
        with self._path(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command, env={**environment(), **self._told(name), **env}, stdout=log, stderr=log, start_new_session=True
            )  # fmt: skip

    def start_worker(self, name: str, queues: tuple[str, ...] | None = None, **env: str) -> None:
        """Start one worker of the supervisor's table, or one for ``queues`` only."""
        worker = next(worker for worker in WORKERS if name.startswith(worker.name))
        command = worker_command(worker, node=name, has_task_events=False)
        if queues:
            command[command.index("--queues") + 1] = ",".join(queues)
        if worker.pool == "prefork":
            self.start(name, command, **env)
            return
        forks = zygote(database_url())
        pid = forks.fork(command[command.index("-A") :], {**self._told(name), **env}, self._path(name))
        self.processes[name] = Forked(pid, forks)

    def wait_ready(self, *names: str) -> None:
        for name in names:
            process = self.processes[name]

            def is_decided(name: str = name, process: Process = process) -> bool:
                return ready.is_marked(self.run_dir, name, process.pid) or process.poll() is not None

            wait_until(is_decided, f"{name} ready\n{self.log(name)}", START_LIMIT_SECONDS)
            assert process.poll() is None, self.log(name)

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        process = self.processes.pop(name)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        process.wait(15)

    def log(self, name: str) -> str:
        return self._path(name).read_text(errors="replace")[-4000:] if self._path(name).exists() else "(nothing)"

    def _path(self, name: str) -> Path:
        return self.run_dir / f"{name}.log"

    def _told(self, name: str) -> dict[str, str]:
        return {"R3EDGE_RUN_DIR": str(self.run_dir), "R3EDGE_PROCESS_NAME": name}


@contextmanager
def workers_running(*names: str) -> Iterator[Workers]:
    """The named processes (``worker-light``, ``worker-strategies``, ``beat``), ready; killed afterwards."""
    with tempfile.TemporaryDirectory() as directory:
        workers = Workers(Path(directory))
        try:
            for name in names:
                if name == "beat":
                    workers.start("beat", beat_command())
                else:
                    worker = next(worker for worker in WORKERS if worker.name == name)
                    workers.start(name, worker_command(worker, node=name, has_task_events=False))
            workers.wait_ready(*names)
            yield workers
        finally:
            for name in list(workers.processes):
                workers.kill(name)


__all__ = ["Workers", "database_url", "wait_until", "workers_running"]
