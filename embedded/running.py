"""What `up` and `demo` start, in which order, and the environment that every process of the platform gets.

PostgreSQL and Valkey first, unless DATABASE_URL and REDIS_URL name others; then the migrations, with Flower and the
simulator, which need no tables, beside them; then the web server, the workers and beat, all at once.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from embedded import processes, ready
from embedded.checkout import Checkout, State
from embedded.child import Process, Say, StartFailed
from embedded.services import POSTGRES_PORT, VALKEY_PORT, Postgres, Server, Valkey, free_port, is_free, place_data
from embedded.supervisor import Supervisor, supervised, together

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy cannot reach our loopback
FLOWER_USER = "r3edge"
FIRST_USER = "admin"  # the superuser that `manage prepare` makes


@dataclass(frozen=True)
class SimulatorOptions:
    """How the demo's exchange moves."""

    speed: float = 1.0
    seed: int = 7


@dataclass(frozen=True)
class Options:
    """What to start. A port of None is the usual one or the next free; a port that was asked for must be free."""

    mode: str = "up"
    host: str = "127.0.0.1"
    web_port: int | None = None
    flower_port: int | None = None
    simulator: SimulatorOptions | None = None
    has_stream: bool = False


@dataclass(frozen=True)
class Platform:
    """A platform that is up: what a client of it needs."""

    urls: Mapping[str, str]  # dashboard, admin, api_docs, flower, and simulator in the demo
    env: Mapping[str, str]
    root: Path
    checkout: Checkout = field(default_factory=Checkout)
    supervisor: Supervisor | None = None

    def manage(self, *arguments: str, stdin: str | None = None) -> str:
        """Run manage.py and return what it printed; raises RuntimeError with its complaint when it fails."""
        command = [sys.executable, str(self.root / "manage.py"), *arguments]
        done = subprocess.run(
            command, env=dict(self.env), cwd=self.root, input=stdin, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"manage.py {arguments[0]} failed (exit {done.returncode}): {done.stderr.strip()}")
        return done.stdout


def base_env(run_dir: Path | None = None) -> dict[str, str]:
    """The caller's environment with what every process of ours needs."""
    env = {name: value for name, value in os.environ.items() if name != "R3EDGE_CALLER_DIR"}
    if not os.environ.get("DATABASE_URL"):  # PGSSLMODE, PGOPTIONS and the like are meant for another server
        env = {name: value for name, value in env.items() if not name.startswith("PG") or name == "PG_BIN"}
    env["PYTHONUNBUFFERED"] = "1"
    env.setdefault("OMP_NUM_THREADS", "1")  # OpenMP spins on small hosts, up to a hundred times slower
    env.setdefault("MALLOC_ARENA_MAX", "2")  # many threads, little memory
    if run_dir:
        env["R3EDGE_RUN_DIR"] = str(run_dir)
    return env


def django_env(checkout: Checkout) -> dict[str, str]:
    return {"DJANGO_SETTINGS_MODULE": "r3edge_site.settings", **checkout.secret_env()}


def external_env() -> dict[str, str]:
    """The services that the user named, and so nothing to start for them."""
    return {name: os.environ[name] for name in ("DATABASE_URL", "REDIS_URL") if os.environ.get(name)}


async def start_services(supervisor: Supervisor, checkout: Checkout) -> dict[str, str]:
    """Start what DATABASE_URL and REDIS_URL do not name, on the checkout's own data; returns the two URLs."""
    named = external_env()
    servers: dict[str, Server] = {}
    if "DATABASE_URL" not in named:
        data = place_data(checkout.var, "postgres")
        servers["DATABASE_URL"] = Postgres(data, checkout.secret("postgres.password"), free_port(POSTGRES_PORT))
    if "REDIS_URL" not in named:
        data = place_data(checkout.var, "valkey")
        servers["REDIS_URL"] = Valkey(data, checkout.secret("valkey.password"), free_port(VALKEY_PORT))
    return {**named, **await start_servers(supervisor, servers)}


async def start_throwaway_services(supervisor: Supervisor, home: Path, *, is_durable: bool = False) -> dict[str, str]:
    """Start what DATABASE_URL and REDIS_URL do not name, empty, in a directory that is removed; fast and forgetful, or
    with the platform's own settings where these are what is measured."""
    supervisor.guard.remove(home)
    checkout, named = Checkout(home), external_env()
    checkout.make()
    servers: dict[str, Server] = {
        "DATABASE_URL": Postgres(
            home / "postgres", checkout.secret("postgres.password"), free_port(), is_throwaway=not is_durable
        ),
        "REDIS_URL": Valkey(
            home / "valkey", checkout.secret("valkey.password"), free_port(), is_throwaway=not is_durable
        ),
    }
    unnamed = {name: server for name, server in servers.items() if name not in named}
    return {**named, **await start_servers(supervisor, unnamed), **checkout.secret_env()}


async def start_servers(supervisor: Supervisor, servers: Mapping[str, Server]) -> dict[str, str]:
    await together(*(_start_server(supervisor, server) for server in servers.values()))
    return {name: server.url for name, server in servers.items()}


async def _start_server(supervisor: Supervisor, server: Server, attempts: int = 3) -> None:
    """Start one; when its port was taken between our look and its bind, try another port."""
    await asyncio.to_thread(server.prepare)
    process = server.process()
    try:
        await supervisor.start(process)
    except StartFailed:
        await supervisor.discard(process.name)
        if attempts == 1 or is_free(server.port):
            raise
        server.port = free_port()
        await _start_server(supervisor, server, attempts - 1)


def is_answering(url: str, _pid: int) -> bool:
    try:
        with DIRECT.open(url, timeout=3) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def _choose(asked: int | None, usual: int, host: str, what: str) -> int:
    if asked and not is_free(asked, host):
        raise StartFailed(f"--{what}-port {asked} is busy on {host}; wanted a free one")
    if asked:
        return asked
    if asked == 0:
        return free_port(0, host)
    return next((port for port in range(usual, usual + 50) if is_free(port, host)), None) or free_port(0, host)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _url(host: str, port: int, path: str = "/") -> str:
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - only compared
    return f"http://{_bracketed(reached)}:{port}{path}"


class Plan:
    """The processes of one platform, with their environment and their health checks."""

    def __init__(self, options: Options, checkout: Checkout, service_urls: Mapping[str, str]) -> None:
        self.options, self.checkout = options, checkout
        host = options.host
        self.web_port = _choose(options.web_port, 8000, host, "web")
        self.flower_port = _choose(options.flower_port, 5555, "127.0.0.1", "flower")
        self.simulator_port = _choose(None, 8090, "127.0.0.1", "simulator")
        self.urls = {
            "dashboard": _url(host, self.web_port),
            "admin": _url(host, self.web_port, "/admin/"),
            "api_docs": _url(host, self.web_port, "/api/docs/"),
            "flower": _url("127.0.0.1", self.flower_port),
        }
        env = {**base_env(checkout.run_dir), **django_env(checkout), **service_urls}
        env["R3EDGE_WEB_PORT"] = str(self.web_port)
        # Whatever names the user adds, our own health check asks by the address.
        named = env.get("R3EDGE_ALLOWED_HOSTS", "localhost").split(",")
        env["R3EDGE_ALLOWED_HOSTS"] = ",".join(dict.fromkeys([*named, "127.0.0.1", "[::1]", _bracketed(host)]))
        if options.simulator:
            self.urls["simulator"] = _url("127.0.0.1", self.simulator_port)
            env["R3EDGE_SIMULATOR_URL"] = self.urls["simulator"].rstrip("/")
        self.env = env

    def _process(self, name: str, command: list[str], is_healthy: Callable[[int], bool], rank: int) -> Process:
        env = {**self.env, "R3EDGE_PROCESS_NAME": name}
        return Process(name, command, env, is_healthy, stop_rank=rank, cwd=self.checkout.root)

    def _marked(self, name: str, command: list[str], rank: int) -> Process:
        """A worker, beat or the stream: healthy once it has marked itself ready."""
        process = self._process(name, command, partial(self._is_marked, name), rank)
        return replace(process, before_start=partial(self._unmark, name))

    def _is_marked(self, name: str, pid: int) -> bool:
        return ready.is_marked(self.checkout.run_dir, name, pid)

    def _unmark(self, name: str) -> None:
        ready.path_of(self.checkout.run_dir, name).unlink(missing_ok=True)

    def without_tables(self) -> list[Process]:
        """What may start while the migrations run."""
        command = processes.flower_command("127.0.0.1", self.flower_port)
        flower = self._process("flower", command, partial(is_answering, self.urls["flower"] + "healthcheck"), rank=2)
        password = f"{FLOWER_USER}:{self.checkout.secret('flower.password')}"
        found = [replace(flower, env={"FLOWER_BASIC_AUTH": password, **flower.env})]
        if simulated := self.options.simulator:
            state = self.checkout.run_dir / "simulator.state"
            state.unlink(missing_ok=True)  # each demo has an exchange of its own; restarted within it, it goes on
            command = processes.simulator_command(
                "127.0.0.1", self.simulator_port, simulated.speed, simulated.seed, state
            )
            found.append(
                self._process("simulator", command, partial(is_answering, self.urls["simulator"] + "_sim/health"), 2)
            )
        return found

    def with_tables(self) -> list[Process]:
        """What needs a migrated database."""
        command = processes.web_command(self.options.host, self.web_port)
        web = self._process("web", command, partial(is_answering, self.urls["dashboard"] + "ready"), rank=2)
        # Its requests run in threads that come and go, so it needs a pool of connections where the others keep theirs.
        web = replace(web, env={"R3EDGE_DB_POOL": "8", **web.env})
        has_events = processes.has_task_events(self.env)
        workers = [
            # Warm first: a task that is running may be talking to an exchange. Then cold, then by force.
            replace(
                self._marked(worker.name, processes.worker_command(worker, has_task_events=has_events), rank=1),
                stop_signals=((processes.WARM, 3.5), (processes.COLD, 0.5)),
            )
            for worker in processes.WORKERS
        ]
        beat = replace(self._marked("beat", processes.beat_command(), rank=0), stop_signals=((processes.WARM, 1.0),))
        streams = [self._marked("stream", processes.stream_command(), rank=0)] if self.options.has_stream else []
        return [web, *workers, beat, *streams]


@contextlib.asynccontextmanager
async def platform(options: Options, checkout: Checkout, say: Say) -> AsyncIterator[Platform]:
    """The whole platform, up for the length of the block. The caller holds the checkout's lock."""
    async with supervised(log_dir=checkout.log_dir, say=say) as supervisor:
        state = State(os.getpid(), options.mode)
        checkout.write_state(state)
        say("starting PostgreSQL and Valkey" if not external_env() else "using the services that the environment names")
        urls = await start_services(supervisor, checkout)
        plan = Plan(options, checkout, urls)
        say("migrating, starting Flower" + (" and the simulated exchange" if options.simulator else ""))
        # First so that PostgreSQL has every table; the first superuser's password goes by environment, never by argument.
        prepare = [sys.executable, str(checkout.root / "manage.py"), "prepare"]
        prepare_env = {**plan.env, "R3EDGE_ADMIN_PASSWORD": checkout.secret("admin.password")}
        await together(
            supervisor.run_once("prepare", prepare, prepare_env, checkout.root),
            supervisor.start(*plan.without_tables()),
        )
        say(f"starting the web server, the workers and {'beat, and the stream' if options.has_stream else 'beat'}")
        await supervisor.start(*plan.with_tables())
        postgres_port, valkey_port = _own_port(urls, "DATABASE_URL"), _own_port(urls, "REDIS_URL")
        state = replace(state, is_ready=True, urls=plan.urls, postgres_port=postgres_port, valkey_port=valkey_port)
        checkout.write_state(state)
        yield Platform(plan.urls, plan.env, checkout.root, checkout, supervisor)


def _own_port(urls: Mapping[str, str], name: str) -> int | None:
    """The port of that service when it is ours, for commands that join."""
    return None if name in external_env() else urllib.parse.urlsplit(urls[name]).port


def joined_env(checkout: Checkout, state: State) -> dict[str, str]:
    """The services of the platform that runs here; what the user named wins."""
    found = external_env()
    if "DATABASE_URL" not in found and state.postgres_port:
        found["DATABASE_URL"] = Postgres(checkout.var, checkout.secret("postgres.password"), state.postgres_port).url
    if "REDIS_URL" not in found and state.valkey_port:
        found["REDIS_URL"] = Valkey(checkout.var, checkout.secret("valkey.password"), state.valkey_port).url
    return found
