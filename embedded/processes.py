"""Everything that the platform starts, as data: which workers serve which queues, and each process's command.

`docker-compose.yml` says the same for containers, one worker per queue; a test compares the two with the queues.
"""

import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

APP = "r3edge_site"
MARKET_START = "2025-03-03T09:00:00+00:00"  # of the demo's simulated market
WARM, COLD = signal.SIGTERM, signal.SIGQUIT  # how a Celery worker is asked to finish its tasks, or to leave them

# Queue to the component of the design that serves it; these names are what Flower and the containers show.
COMPONENTS = {
    "exits": "ExitTracker",
    "exchanges": "DataCollect",
    "marketdata": "DataCollect",
    "strategies": "StrategyExecutor",
    "sessions": "SchedulerService",
    "pipeline": "SchedulerService",
    "positions": "PositionTracker",
    "money": "MoneyManager",
    "orders": "OrderManager",
    "backtesting": "Backtester",
    "optimising": "Optimiser",
}
CPU_BOUND = frozenset(
    {"strategies", "backtesting", "optimising"}
)  # these compute: in a thread they would hold up everything beside them

# A process that computes is replaced after the task with which it came to hold more: arrays come and go, and some stay.
MOST_MEMORY_KB = 1_000_000

Pool = Literal["threads", "prefork"]


@dataclass(frozen=True)
class Worker:
    """One Celery worker process and what it serves."""

    name: str  # of the process: its log, and its line when it dies
    queues: tuple[str, ...]
    pool: Pool
    concurrency: int

    @property
    def node(self) -> str:
        """The name in Flower: the components it stands for."""
        return "+".join(dict.fromkeys(COMPONENTS[queue] for queue in self.queues))


# What protects positions has a worker of its own: no load of anything else takes a thread from it, or makes it wait for the
# interpreter. One threads worker for all else that waits on the network or the database: measured 2 to 4 times quicker than
# a process per queue and a fifth of the memory. One prefork worker evaluates; what computes for
# minutes has another, which gives way to all the others (``r3edge_site/celery.py``).
WORKERS = (
    Worker("worker-exits", ("exits",), "threads", 4),
    Worker(
        "worker-light",
        ("exchanges", "marketdata", "sessions", "pipeline", "positions", "money", "orders"),
        "threads",
        8,
    ),
    Worker("worker-strategies", ("strategies",), "prefork", 1),
    Worker("worker-research", ("backtesting", "optimising"), "prefork", 1),
)


def default_pool(queues: tuple[str, ...]) -> Pool:
    return "prefork" if CPU_BOUND.intersection(queues) else "threads"


def celery(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "celery", "-A", APP, *arguments]


def has_task_events(env: Mapping[str, str]) -> bool:
    return env.get("R3EDGE_TASK_EVENTS", "1") not in ("0", "false", "off")


def worker_command(worker: Worker, *, node: str | None = None, has_task_events: bool = True) -> list[str]:
    """The worker's command. Gossip and mingle are off: nothing uses them and gossip makes every worker read every
    event. Heartbeats stay, Flower counts on them. Task events cost about a third of a worker's own CPU per task and are what
    Flower's task pages show; R3EDGE_TASK_EVENTS=0 leaves them out."""
    command = celery("worker", "--hostname", f"{node or worker.node}@%h", "--queues", ",".join(worker.queues))
    command += ["--pool", worker.pool, "--concurrency", str(worker.concurrency), "--loglevel", "INFO"]
    command += ["--without-gossip", "--without-mingle"]
    if worker.pool == "prefork":
        command += ["--max-memory-per-child", str(MOST_MEMORY_KB)]
    return [*command, "--task-events"] if has_task_events else command


def beat_command() -> list[str]:
    return celery(
        "beat", "--scheduler", "django_celery_beat.schedulers:DatabaseScheduler", "--loglevel", "INFO", "--pidfile="
    )


def flower_command(host: str, port: int) -> list[str]:
    # Its user and password come by FLOWER_BASIC_AUTH. Whether tasks send events is decided by the workers alone.
    return celery("flower", f"--address={host}", f"--port={port}", "--enable_events=false")


def web_command(host: str, port: int) -> list[str]:
    command = [sys.executable, "-m", "uvicorn", f"{APP}.asgi:application", "--host", host, "--port", str(port)]
    return [*command, "--no-server-header", "--timeout-graceful-shutdown", "1"]


def stream_command() -> list[str]:
    return [sys.executable, "manage.py", "stream"]


def simulator_command(host: str, port: int, speed: float, seed: int, state: Path) -> list[str]:
    command = [sys.executable, "-m", "simulator", "--host", host, "--port", str(port)]
    # Twice as lively as a calm market, and always the same week of it: the demo knows a good moment to start in.
    command += ["--volatility", "0.002", "--start", MARKET_START]
    return [*command, "--speed", f"{speed:g}", "--seed", str(seed), "--state", str(state)]
