"""One supervised process: started, proved healthy, started again with back-off when it dies, stopped for certain.

Each child leads a session of its own, so that Ctrl-C in the terminal reaches the supervisor only, and whatever is
left in its process group goes when it goes.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, NamedTuple

HERE = Path(__file__).resolve().parent
LOG_LIMIT = 5_000_000  # bytes, looked at when a process starts
LOCK_WAIT_S = 12.0  # longer than the guard gives what a killed supervisor left behind

Say = Callable[[str], None]


class Owner(NamedTuple):
    """The unprivileged user that a child of root runs as."""

    uid: int
    gid: int


class StartFailed(Exception):
    """A process that ended, or was not healthy in time, when it was started."""


class DataInUse(StartFailed):
    """A data directory that another server process still has open."""


@dataclass(frozen=True)
class Process:
    """What to start and how to tell that it works. `is_healthy(pid)` runs in a thread and must return within seconds."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    is_healthy: Callable[[int], bool] = lambda _pid: True
    stop_signals: Sequence[tuple[signal.Signals, float]] = ((signal.SIGTERM, 1.5),)
    stop_rank: int = 0  # lower stops earlier
    start_timeout_s: float = 60.0
    owner: Owner | None = None
    data_lock: Path | None = None  # held by the process itself, so that it is free exactly when the last one is gone
    before_start: Callable[[], None] = lambda: None
    cwd: Path = field(default_factory=Path.cwd)


@dataclass(frozen=True)
class Backoff:
    """How long to wait before a start after a death: doubling, forgotten after a healthy time."""

    first_s: float = 0.5
    most_s: float = 30.0
    healthy_s: float = 60.0


class Guard:
    """The supervisor's end of the pipe to `guard.py`."""

    def __init__(self) -> None:
        self._groups: dict[int, int] = {}
        self._paths: list[Path] = []
        self._process = self._begin()

    def _begin(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-I", "-S", str(HERE / "guard.py")]
        # Unbuffered: what a dead guard did not take must not be tried again when its pipe is thrown away.
        return subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0, start_new_session=True, cwd="/")

    @property
    def pid(self) -> int:
        return self._process.pid

    def _tell(self, line: str) -> None:
        try:
            self._write([line])
        except BrokenPipeError:  # somebody killed the guard: a new one learns everything again
            self._process.wait()
            self._process = self._begin()
            watched = [f"watch {group} {number}" for group, number in self._groups.items()]
            self._write(watched + [f"remove {path}" for path in self._paths])

    def _write(self, lines: list[str]) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        pipe.write("".join(f"{line}\n" for line in lines).encode())

    def watch(self, group: int, number: signal.Signals) -> None:
        self._groups[group] = int(number)
        self._tell(f"watch {group} {int(number)}")

    def forget(self, group: int) -> None:
        self._groups.pop(group, None)
        self._tell(f"forget {group}")

    def remove(self, path: Path) -> None:
        """Delete that directory once the supervisor is gone."""
        self._paths.append(path)
        self._tell(f"remove {path}")

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()


class Child:
    """A process under watch. `start`, then `keep` until `stop`."""

    def __init__(
        self, process: Process, *, log_dir: Path, guard: Guard, say: Say, backoff: Backoff = Backoff()
    ) -> None:
        self.process = process
        self.log = log_dir / f"{process.name}.log"
        self.restarts = 0
        self._guard, self._say, self._backoff = guard, say, backoff
        self._running: asyncio.subprocess.Process | None = None
        self._is_stopping = False
        self._log_start = 0
        self._healthy_at: float | None = None
        self._swept: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        return self._running.pid if self._running and self._running.returncode is None else None

    async def start(self) -> None:
        """Start it and wait until it is healthy; raises StartFailed with the end of its log."""
        running = await self._spawn()
        deadline = time.monotonic() + self.process.start_timeout_s
        pause = 0.02
        while not await asyncio.to_thread(self.process.is_healthy, running.pid):
            if running.returncode is not None:
                raise StartFailed(
                    f"{self.process.name} ended ({reason_of(running.returncode)}) before it was ready; {self.log_tail()}"
                )
            if time.monotonic() > deadline:
                await self._end([(signal.SIGKILL, 1.0)])
                raise StartFailed(
                    f"{self.process.name} was not ready within {self.process.start_timeout_s:g} s; {self.log_tail()}"
                )
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.2)
        self._healthy_at = time.monotonic()

    async def run(self) -> int:
        """Start it, wait for its end and return its exit code."""
        await self._spawn()
        return await self._wait()

    async def keep(self) -> None:
        """Start it again whenever it dies, until `stop`."""
        delay = self._backoff.first_s
        while True:
            code = await self._wait()
            if self._is_stopping:
                return
            if self._healthy_at is not None and time.monotonic() - self._healthy_at >= self._backoff.healthy_s:
                delay = self._backoff.first_s
            self._say(f"{self.process.name} ended ({reason_of(code)}); starting it again in {delay:g} s")
            await asyncio.sleep(delay)
            delay = min(delay * 2, self._backoff.most_s)
            self.restarts += 1
            began = time.monotonic()
            try:
                await self.start()
            except Exception as failure:  # whatever it was, the next attempt may succeed
                self._say(str(failure).partition("\n")[0] or repr(failure))
                continue
            self._say(f"{self.process.name} is back after {time.monotonic() - began:.1f} s (pid {self.pid})")

    async def stop(self) -> None:
        """Stop it with its own signals, then by force; nothing of its group remains."""
        self._is_stopping = True
        await self._end(self.process.stop_signals)

    async def _spawn(self) -> asyncio.subprocess.Process:
        self._healthy_at = None
        await asyncio.to_thread(self.process.before_start)
        lock = await take_lock(self.process.data_lock) if self.process.data_lock else None
        death_signal = self.process.stop_signals[0][0]
        with self._open_log() as log:
            try:
                self._running = await asyncio.create_subprocess_exec(
                    *launch_command(death_signal, self.process.owner),
                    *self.process.command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=dict(self.process.env),
                    cwd=self.process.cwd,
                    start_new_session=True,
                    pass_fds=[lock.fileno()] if lock else [],
                )
            finally:
                if lock:
                    lock.close()  # the child keeps it
        self._guard.watch(self._running.pid, death_signal)
        return self._running

    async def _wait(self) -> int:
        """Wait for its end, then take away what is left of its group."""
        running = self._running
        if running is None:
            return 0
        code = await running.wait()
        if self._swept is not running:  # once: the number may belong to somebody else later
            self._swept = running
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(running.pid, signal.SIGKILL)
            self._guard.forget(running.pid)
        return code

    async def _end(self, signals: Sequence[tuple[signal.Signals, float]]) -> None:
        running = self._running
        for number, patience_s in [*signals, (signal.SIGKILL, 5.0)]:
            if running is None or running.returncode is not None:
                break
            with contextlib.suppress(ProcessLookupError):
                running.send_signal(number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(running.wait()), patience_s)
        await self._wait()

    def _open_log(self) -> IO[bytes]:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > LOG_LIMIT:
            self.log.replace(self.log.with_suffix(".log.1"))
        log = self.log.open("ab")
        os.chmod(self.log, 0o600)
        log.write(f"---- {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} starting {self.process.name}\n".encode())
        log.flush()
        self._log_start = log.tell()
        return log

    def log_tail(self, lines: int = 12) -> str:
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            tail = log.read().decode(errors="replace").splitlines()[-lines:]
        return "\n".join([f"see {self.log}:", *(f"  {line}" for line in tail)])


def launch_command(death_signal: signal.Signals, owner: Owner | None = None) -> list[str]:
    """What to put before a command for it to end with us and to run as that user."""
    user = f"{owner.uid}:{owner.gid}" if owner else "-"
    return [sys.executable, "-I", "-S", str(HERE / "launch.py"), str(os.getpid()), str(int(death_signal)), user]


async def take_lock(path: Path) -> IO[bytes]:
    """Lock that file, waiting a moment for the server of a supervisor that has just died to finish."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.open("ab")
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                lock.close()
                raise DataInUse(f"another server still uses {path.with_suffix('')}") from None
            await asyncio.sleep(0.1)
        else:
            return lock


def reason_of(code: int) -> str:
    """How a process ended, in a word."""
    return signal.Signals(-code).name if code < 0 else f"exit {code}"
