"""The whole platform as processes that can be killed, on servers that can be killed, beside a venue that can be killed.

A ``Stage`` is a ``World`` (rows, faults at the venue, waiting, judging) with hands on everything around it. Scenarios take
one; what they break, ``heal`` repairs, ``settle`` waits for, and ``check`` and ``check_bells`` judge.
"""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import redis
import requests
from django.db import connections

from chaos import invariants, mutants
from chaos.breach import Breach, CannotRun
from chaos.pace import DEFAULT_FACTOR
from chaos.servers import Ground, valkey_data_remove
from chaos.world import World
from chaos.zygote import Zygote
from embedded import ready
from embedded.child import launch_command
from embedded.processes import Worker, beat_command, worker_command
from embedded.services import free_port
from pipeline.topics import QUEUES

# A worker per group of queues, so that each can die while the others work.
GROUPS = {
    worker.name: worker
    for worker in (
        Worker("exits", ("exits",), "threads", 4),
        Worker("orders", ("orders",), "threads", 8),
        Worker("tracking", ("positions", "money"), "threads", 6),
        Worker("sessions", ("sessions", "pipeline"), "threads", 2),
        Worker("collect", ("marketdata", "exchanges"), "threads", 4),
        Worker("strategies", ("strategies",), "prefork", 1),
    )
}
PROCESSES = (*GROUPS, "beat")
CELERY_AT = 3  # python -m celery: what comes after it are Celery's own arguments

START_LIMIT_SECONDS = 60.0
# The bells of a whole database answered, while everything else is at rest.
BELLS_LIMIT_SECONDS = 60.0
MARKET_START = "2025-03-03T09:00:00+00:00"
START_MS = 1_740_992_400_000
SYMBOLS = ("BTC-USDT", "ETH-USDT", "SOL-USDT")


@dataclass(slots=True)
class Running:
    """A process that was forked: its id, a handle that no other process can ever get, and how it was started."""

    pid: int
    handle: int
    arguments: tuple[str, ...]
    crash_at: str

    @property
    def is_alive(self) -> bool:
        # The handle of a process becomes readable when it ends.
        return not select.select([self.handle], [], [], 0)[0]


class Stage(World):
    """Everything of one run. ``running`` are the platform's processes by name, see ``PROCESSES``."""

    def __init__(self, ground: Ground, *, seed: int, pace: float = DEFAULT_FACTOR, mutant: str = "") -> None:
        self.ground = ground
        self.postgres, self.valkey = ground.postgres, ground.valkey
        self.database_proxy, self.broker_proxy = ground.database_proxy, ground.broker_proxy
        self.rng = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self.pace = pace
        self.running: dict[str, Running] = {}
        self.kills = 0  # processes that died by our hand or at a crash point
        self.client = redis.Redis.from_url(ground.valkey.url, socket_timeout=10)
        env = {**ground.platform_env, "R3EDGE_CHAOS_PACE": str(pace), "R3EDGE_CHAOS_MUTANT": mutant}
        if mutant:
            mutants.drop(mutant)
        self._zygote = Zygote(env, ground.home.log("zygote"))
        self._simulator: subprocess.Popen[bytes] | None = None
        self._simulator_port = free_port()
        self.simulator_start()
        super().__init__(f"http://127.0.0.1:{self._simulator_port}")
        self.read_venue()

    # -- the platform's processes -------------------------------------------------------------------------------

    def start(self, name: str, *, crash_at: str = "", wait: bool = True, queues: Sequence[str] = ()) -> None:
        """Start a process of ``PROCESSES``, or one more under a name that begins with one of theirs (``orders-2``,
        ``beat-2``), for ``queues`` instead of its group's. ``crash_at`` is a crash point: ``name`` or ``name:nth``."""
        if name in self.running:
            raise CannotRun(f"wanted {name} not to run, it does")
        group = name.partition("-")[0]
        if group == "beat":
            command = beat_command()
        else:
            worker = GROUPS[group]
            if queues:
                worker = Worker(worker.name, tuple(queues), worker.pool, worker.concurrency)
            command = worker_command(worker, node=name, has_task_events=False)
        self._fork(name, tuple(command[CELERY_AT:]), crash_at)
        if wait:
            self.wait_ready(name)

    def start_all(self, *, crash_at: str = "") -> None:
        """Start whatever of ``PROCESSES`` does not run, and wait until all are ready; workers meet ``crash_at``."""
        for name in PROCESSES:
            if name not in self.running:
                self.start(name, crash_at="" if name == "beat" else crash_at, wait=False)
        self.wait_ready(*PROCESSES)

    def wait_ready(self, *names: str) -> None:
        """Wait until these are ready; one that dies before it is, is started again."""
        for name in names:
            deadline = time.monotonic() + START_LIMIT_SECONDS
            while name in self.running and not self.is_ready(name):
                if time.monotonic() > deadline:
                    raise CannotRun(f"{name} was not ready after {START_LIMIT_SECONDS:g} s:\n{self.log(name)}")
                self.pause()

    def is_ready(self, name: str) -> bool:
        return ready.is_marked(self.ground.home.run_dir, name, self.running[name].pid)

    def kill(self, name: str) -> None:
        """SIGKILL a process and all below it; it stays away until it is started again."""
        self._end(name)
        self.kills += 1
        self.count("kill")

    def kill_child(self, name: str) -> bool:
        """SIGKILL one process that a prefork worker computes in, as the system does when memory runs out; whether there was
        one. The worker itself lives on."""
        pid = self.running[name].pid
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except OSError:
            children = []  # it has died itself, or this is no Linux
        for child in children[:1]:
            with suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
                self.kills += 1
                self.count("kill")
        return bool(children)

    def _end(self, name: str) -> None:
        process = self.running.pop(name)
        if process.is_alive:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        select.select([process.handle], [], [], 10)
        os.close(process.handle)

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM, limit: float = 30) -> float:
        """Ask a process to end, as a deployment does, and wait until it has; how long that took."""
        process, began = self.running.pop(name), time.monotonic()
        signal.pidfd_send_signal(process.handle, number)
        if not select.select([process.handle], [], [], limit)[0]:
            # It tells where each of its threads stands (see zygote.py) before it is ended.
            signal.pidfd_send_signal(process.handle, signal.SIGUSR2)
            time.sleep(0.5)
            signal.pidfd_send_signal(process.handle, signal.SIGKILL)
            raise Breach(f"{name} had not ended {limit:g} s after {number.name}:\n{self.log(name)}")
        os.close(process.handle)
        return time.monotonic() - began

    def freeze(self, name: str) -> None:
        """SIGSTOP: it holds what it holds and does nothing, until ``thaw``."""
        os.killpg(self.running[name].pid, signal.SIGSTOP)
        self.count("freeze")

    def thaw(self, name: str) -> None:
        if name in self.running and self.running[name].is_alive:
            os.killpg(self.running[name].pid, signal.SIGCONT)

    def restart(self, name: str, *, crash_at: str = "", wait: bool = False) -> None:
        """Kill a process and start it again."""
        self.kill(name)
        self.start(name, crash_at=crash_at, wait=wait)

    def has_died(self, name: str) -> bool:
        """Whether a process has died by itself, by a crash point say, and was not started again yet."""
        return name in self.running and not self.running[name].is_alive

    def revive(self) -> list[str]:
        """Start again, without their crash points, the processes that have died; which. Waits call this over and over, as
        the platform's own supervisor would."""
        dead = [name for name, process in self.running.items() if not process.is_alive]
        for name in dead:
            process = self.running.pop(name)
            os.close(process.handle)
            if process.crash_at:
                self.kills += 1
                self.count("crash point")
            self._fork(name, process.arguments, "")
        return dead

    def pause(self) -> None:
        self.revive()
        super().pause()

    def log(self, name: str) -> str:
        """The end of what a process said."""
        path = self.ground.home.log(name)
        return path.read_text(errors="replace")[-3000:] if path.exists() else "(nothing)"

    def _fork(self, name: str, arguments: tuple[str, ...], crash_at: str) -> None:
        env = {"R3EDGE_PROCESS_NAME": name, "R3EDGE_CRASH_AT": crash_at}
        pid = self._zygote.fork(arguments, env, self.ground.home.log(name))
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            raise CannotRun(f"{name} ended before it began:\n{self.log(name)}") from None
        self.running[name] = Running(pid, handle, arguments, crash_at)

    # -- the servers --------------------------------------------------------------------------------------------

    def postgres_restart(self, number: signal.Signals = signal.SIGQUIT) -> None:
        """PostgreSQL dies (SIGQUIT: its immediate shutdown; SIGKILL: at once) and is started again."""
        self.postgres_kill(number)
        self.postgres.start()

    def postgres_kill(self, number: signal.Signals = signal.SIGQUIT) -> None:
        """PostgreSQL dies and stays away until ``postgres.start()``, or ``heal``."""
        self.postgres.kill(number)
        self.count("database")
        # Ours is dead as well; the next query makes a new one.
        connections.close_all()

    def broker_lose(self) -> None:
        """The broker forgets everything, as after a restart without its log, and lives on."""
        self.client.flushall()
        self.count("broker")

    def broker_kill(self, *, is_data_lost: bool = False) -> None:
        """The broker dies and stays away until ``valkey.start()``, or ``heal``; with or without what it had written."""
        self.valkey.kill()
        if is_data_lost:
            valkey_data_remove(self.ground.home)
        self.count("broker")

    def broker_restart(self, *, is_data_lost: bool = False) -> None:
        self.broker_kill(is_data_lost=is_data_lost)
        self.valkey.start()

    def simulator_start(self) -> None:
        """Start the venue, which goes on from where it was killed."""
        state = self.ground.home.run_dir / "simulator.state"
        command = [sys.executable, "-m", "simulator", "--port", str(self._simulator_port), "--speed", "0"]
        command += ["--symbols", ",".join(SYMBOLS), "--start", MARKET_START, "--state", str(state)]
        with self.ground.home.log("simulator").open("ab") as log:
            self._simulator = subprocess.Popen(
                [*launch_command(signal.SIGKILL), *command], env=self.ground.platform_env, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        url, deadline = f"http://127.0.0.1:{self._simulator_port}/_sim/health", time.monotonic() + START_LIMIT_SECONDS
        while not _answers(url):
            if time.monotonic() > deadline or self._simulator.poll() is not None:
                raise CannotRun(f"the simulator did not start:\n{self.log('simulator')}")
            time.sleep(0.05)

    def simulator_kill(self) -> None:
        """The venue dies and stays away until ``simulator_start()``, or ``heal``; its books are kept."""
        if self._simulator is None:
            return
        self.collect_hits()
        self._simulator.kill()
        self._simulator.wait(10)
        self._simulator = None
        self.count("exchange")

    # -- ending, judging ----------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Everything well again: servers, network, venue, and all of ``PROCESSES`` ready."""
        for server in (self.postgres, self.valkey):
            server.thaw()
            if not server.is_running:
                server.start()
        for proxy in (self.database_proxy, self.broker_proxy):
            proxy.heal()
        if self._simulator is None:
            self.simulator_start()
        for name in list(self.running):
            self.thaw(name)
        super().heal()
        self.revive()
        self.start_all()

    def check_bells(self, latest: int | None = None) -> list[invariants.Finding]:
        """I8: at rest, ring every bell for every row there is (or the ``latest`` so many of each kind); what changed of all
        there is. Wants everything settled before."""
        beats = [name for name in self.running if name.startswith("beat")]
        for name in beats:
            self._end(name)
        # What dead workers held would come back some day; that is a ring more, and today's come first.
        self.client.flushall()
        time.sleep(0.2)
        self._wait_for_bells()
        before = self.snapshot()
        self.ring_everything(latest)
        self._wait_for_bells()
        found = invariants.differences(before, self.snapshot())
        for name in beats:
            self.start(name, wait=False)
        return [invariants.Finding("I8", words) for words in found]

    def _wait_for_bells(self) -> None:
        # Twice in a row: between two looks a bell may have been taken and its work have rung another.
        calm = 0
        deadline = time.monotonic() + BELLS_LIMIT_SECONDS
        while calm < 3:
            calm = 0 if self.client.exists(*QUEUES, "unacked") else calm + 1
            if time.monotonic() > deadline:
                raise Breach(f"waited {BELLS_LIMIT_SECONDS:g} s in vain for all bells to be answered")
            time.sleep(0.05)

    def close(self) -> None:
        """End every process of this stage, and leave its servers to whoever made them."""
        for process in self.running.values():
            if process.is_alive:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            os.close(process.handle)
        self.running.clear()
        self._zygote.close()
        if self._simulator is not None:
            self._simulator.kill()
            self._simulator.wait(10)
        connections.close_all()


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=2).ok
    except requests.RequestException:
        return False


@contextmanager
def stage_set(ground: Ground, *, seed: int, pace: float = DEFAULT_FACTOR, mutant: str = "") -> Iterator[Stage]:
    """A stage with every process ready; ended after the block."""
    stage = Stage(ground, seed=seed, pace=pace, mutant=mutant)
    try:
        stage.start_all()
        yield stage
    finally:
        stage.close()
