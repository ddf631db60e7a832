"""The commands that run another program to its end: test, check, bench, chaos, manage and worker.

Each gives that program its services and its environment, the terminal, and its exit code back.
"""

import argparse
import asyncio
import contextlib
import importlib
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from embedded import processes, running
from embedded.checkout import ROOT, AlreadyRunning, Checkout, State
from embedded.child import Say, StartFailed, launch_command
from embedded.services import throwaway_home
from embedded.supervisor import supervised

JOIN_WAIT_S = 90.0

PACKAGES = (
    "domain", "pipeline", "exchanges", "marketdata", "strategies", "orders", "sessions", "positions", "money",
    "backtesting", "notifications", "dashboard", "r3edge_site", "simulator", "embedded", "benchmarks", "chaos", "tests",
)  # fmt: skip


async def foreground(command: Sequence[str], env: Mapping[str, str], cwd: Path) -> int:
    """Run a command on this terminal, tied to our life, and return its exit code."""
    loop = asyncio.get_running_loop()
    launch = launch_command(signal.SIGTERM)
    process = await asyncio.create_subprocess_exec(*launch, *command, env=dict(env), cwd=cwd)

    def forward(number: signal.Signals) -> None:
        if number == signal.SIGINT and _is_terminals_foreground():
            return  # the terminal has sent it to the command too
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, forward, number)
    code = await process.wait()
    return code if code >= 0 else 128 - code


def _is_terminals_foreground() -> bool:
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


@contextlib.asynccontextmanager
async def throwaway(say: Say, *, is_durable: bool = False) -> AsyncIterator[dict[str, str]]:
    """An environment with empty services, which are gone after the block, and their directory with them; durable ones
    wait for the disk as the platform's own do."""
    home = throwaway_home()
    try:
        async with supervised(log_dir=home / "log", say=say) as supervisor:
            services = await running.start_throwaway_services(supervisor, home, is_durable=is_durable)
            yield {**running.base_env(), **services}
    finally:
        shutil.rmtree(home, ignore_errors=True)


async def test(arguments: Sequence[str], say: Say) -> int:
    """pytest on throw-away services, two workers unless `-n` says otherwise."""
    async with throwaway(say) as env:
        command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "worksteal", *arguments]
        return await foreground(command, env, ROOT)


def backtest(arguments: Sequence[str]) -> int:
    """One backtest, here and now. Imported when asked for: no other command needs it."""
    return int(importlib.import_module("backtesting.commandline").main(arguments))


def bench_options() -> argparse.ArgumentParser:
    """What the benchmarks accept. Imported when asked for: an installation without benchmarks has all the rest."""
    parser: argparse.ArgumentParser = importlib.import_module("benchmarks.options").parser()
    return parser


async def bench(arguments: Sequence[str], say: Say) -> int:
    """One benchmark, where it needs any on services as durable as the platform's own; a figure taken without the disk would
    flatter."""
    command = [sys.executable, "-m", "benchmarks", *arguments]
    # A file named relative to where the caller stands is written there.
    caller = os.environ.get("R3EDGE_CALLER_DIR") or os.getcwd()
    if arguments[0] in importlib.import_module("benchmarks.options").ALONE:
        return await foreground(command, {**os.environ, "R3EDGE_CALLER_DIR": caller}, ROOT)
    async with throwaway(say, is_durable=True) as env:
        env["DJANGO_SETTINGS_MODULE"] = "r3edge_site.settings"
        env["R3EDGE_CALLER_DIR"] = caller
        return await foreground(command, env, ROOT)


def chaos_options() -> argparse.ArgumentParser:
    """What `chaos` accepts. Imported when asked for, as for the benchmarks."""
    parser: argparse.ArgumentParser = importlib.import_module("chaos.options").parser()
    return parser


async def chaos(arguments: Sequence[str]) -> int:
    """Break the platform on purpose; on servers that chaos starts and kills itself, whatever the environment names."""
    env = {name: value for name, value in running.base_env().items() if name not in ("DATABASE_URL", "REDIS_URL")}
    env["R3EDGE_CALLER_DIR"] = os.environ.get("R3EDGE_CALLER_DIR") or os.getcwd()
    return await foreground([sys.executable, "-m", "chaos", *arguments], env, ROOT)


def checks() -> dict[str, list[str]]:
    """Every check by its name, with its command. All go through `-m` or `-c`: the first line of an installed console
    script names this checkout, which may have spaces in its path."""
    python = [sys.executable, "-m"]
    manage = [sys.executable, str(ROOT / "manage.py")]
    packages = [package for package in PACKAGES if (ROOT / package).is_dir()]
    return {
        "lint": [*python, "ruff", "check", "."],
        "format": [*python, "ruff", "format", "--check", "."],
        "types": [*python, "mypy", *packages],
        "floors": [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command as run; run()",
            "--no-logo",
        ],
        "migrations": [*manage, "makemigrations", "--check", "--dry-run"],
        "django": [*manage, "check"],
    }


NEED_SERVICES = frozenset({"migrations", "django"})
# mypy's plugin reads the settings; nothing connects and nothing is encrypted.
ONLY_TO_LOAD_SETTINGS = {
    "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "R3EDGE_SECRET_KEY": "-",
    "R3EDGE_ENCRYPTION_KEYS": "-",
}


async def check(names: Sequence[str], say: Say) -> int:
    """The named checks, or all of them, each with its result; 1 when any failed."""
    commands = {name: command for name, command in checks().items() if name in names or not names}
    async with contextlib.AsyncExitStack() as stack:
        env = {**ONLY_TO_LOAD_SETTINGS, **running.base_env()}
        if NEED_SERVICES.intersection(commands):
            env = await stack.enter_async_context(throwaway(say))
        env["DJANGO_SETTINGS_MODULE"] = "r3edge_site.settings"
        failed = await _run_checks(commands, env, say)
    return int(bool(failed))


async def _run_checks(commands: Mapping[str, Sequence[str]], env: Mapping[str, str], say: Say) -> list[str]:
    results: list[tuple[str, int, float]] = []
    for name, command in commands.items():
        say(f"---- {name}")
        began = time.monotonic()
        code = await foreground(command, env, ROOT)
        results.append((name, code, time.monotonic() - began))
        if code == 128 + signal.SIGINT:
            break
    say("----")
    for name, code, seconds in results:
        say(f"{'ok    ' if code == 0 else 'FAILED'} {name} ({seconds:.1f} s)")
    return [name for name, code, _ in results if code != 0]


async def manage(arguments: Sequence[str], checkout: Checkout, say: Say) -> int:
    """manage.py on the services that run here, or on embedded ones started for as long as it runs."""
    caller = Path(os.environ.get("R3EDGE_CALLER_DIR") or checkout.root)
    command = [sys.executable, str(checkout.root / "manage.py"), *arguments]
    async with _services_for_manage(checkout, say) as urls:
        env = {**running.base_env(), **running.django_env(checkout), **urls}
        return await foreground(command, env, caller)


@contextlib.asynccontextmanager
async def _services_for_manage(checkout: Checkout, say: Say) -> AsyncIterator[dict[str, str]]:
    named = running.external_env()
    if len(named) == 2:
        yield named
    elif state := await _running_platform(checkout, say):
        yield _complete(running.joined_env(checkout, state))
    else:
        with checkout.lock():
            checkout.write_state(State(os.getpid(), "manage"))
            async with supervised(log_dir=checkout.log_dir, say=say) as supervisor:
                yield await running.start_services(supervisor, checkout)


async def _running_platform(checkout: Checkout, say: Say) -> State | None:
    """The platform that is up here, after waiting for one that is starting, or for another `manage` to end."""
    deadline = time.monotonic() + JOIN_WAIT_S
    has_said = False
    while state := checkout.state():
        if state.is_ready:
            return state
        if not has_said:
            say(f"waiting for `r3edge {state.mode}` (pid {state.pid}) in this checkout")
            has_said = True
        if time.monotonic() > deadline:
            raise AlreadyRunning(
                f"`r3edge {state.mode}` (pid {state.pid}) still has this checkout after {JOIN_WAIT_S:g} s"
            )
        await asyncio.sleep(0.3)
    return None


def _complete(urls: dict[str, str]) -> dict[str, str]:
    missing = [name for name in ("DATABASE_URL", "REDIS_URL") if name not in urls]
    if missing:
        raise StartFailed(f"the platform here uses a {' and a '.join(missing)} of its own; set the same here")
    return urls


def worker(
    queues: tuple[str, ...], pool: processes.Pool | None, concurrency: int | None, checkout: Checkout
) -> NoReturn:
    """Become one more Celery worker, for the platform in this checkout or the one that the environment names."""
    env = {**running.base_env(), **worker_env(checkout)}
    chosen = pool or processes.default_pool(queues)
    extra = processes.Worker("worker", queues, chosen, concurrency or (1 if chosen == "prefork" else 8))
    has_events = processes.has_task_events(env)
    command = processes.worker_command(extra, node=f"{extra.node}-{os.getpid()}", has_task_events=has_events)
    os.chdir(checkout.root)
    os.execve(command[0], command, env)  # noqa: S606 - nothing of ours remains to be done afterwards


def worker_env(checkout: Checkout) -> dict[str, str]:
    named, state = running.external_env(), checkout.state()
    if state and state.is_ready:
        return {**running.django_env(checkout), **_complete(running.joined_env(checkout, state))}
    missing = [name for name in ("DATABASE_URL", "REDIS_URL") if name not in named]
    if missing:
        raise StartFailed(
            f"no platform runs in this checkout and {' and '.join(missing)} not set; "
            "start `./r3edge up` here, or name the platform's services"
        )
    missing = [name for name in ("R3EDGE_SECRET_KEY", "R3EDGE_ENCRYPTION_KEYS") if not os.environ.get(name)]
    if missing:
        raise StartFailed(
            f"{' and '.join(missing)} not set; a worker needs the keys of the platform it joins, without which it could "
            "not read the accounts' exchange keys (on that machine: var/secrets/django.key and encryption.key)"
        )
    return {"DJANGO_SETTINGS_MODULE": "r3edge_site.settings", **named}
