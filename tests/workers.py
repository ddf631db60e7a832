"""Real Celery workers and beat as processes, on the test's own database and broker."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from django.db import connection

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


@dataclass
class Workers:
    """The processes, by name; their output is shown when a test fails to get what it waits for."""

    run_dir: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, command: list[str], **env: str) -> None:
        environment = {
            **os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings", "DATABASE_URL": database_url(),
            "R3EDGE_RUN_DIR": str(self.run_dir), "R3EDGE_PROCESS_NAME": name, **env,
        }  # fmt: skip
        log = (self.run_dir / f"{name}.log").open("ab")
        self.processes[name] = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )

    def start_worker(self, name: str, queues: tuple[str, ...] | None = None, **env: str) -> None:
        """One worker of the supervisor's table, or one for ``queues`` only."""
        worker = next(worker for worker in WORKERS if name.startswith(worker.name))
        command = worker_command(worker, node=name, has_task_events=False)
        if queues:
            command[command.index("--queues") + 1] = ",".join(queues)
        self.start(name, command, **env)

    def wait_ready(self, *names: str) -> None:
        for name in names:
            process = self.processes[name]

            def is_decided(name: str = name, process: subprocess.Popen[bytes] = process) -> bool:
                return ready.is_marked(self.run_dir, name, process.pid) or process.poll() is not None

            wait_until(is_decided, f"{name} ready\n{self.log(name)}", START_LIMIT_SECONDS)
            assert process.poll() is None, self.log(name)

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        process = self.processes.pop(name)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        process.wait(15)

    def log(self, name: str) -> str:
        return (self.run_dir / f"{name}.log").read_text(errors="replace")[-4000:]


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
                    workers.start_worker(name)
            workers.wait_ready(*names)
            yield workers
        finally:
            for name in list(workers.processes):
                workers.kill(name)


__all__ = ["Workers", "database_url", "wait_until", "workers_running"]
