"""The command line of `./r3edge`: what each command accepts, and one clear line with exit 2 for anything else."""

import argparse
import asyncio
import importlib
import ipaddress
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TextIO

from embedded import commands, processes
from embedded.checkout import AlreadyRunning, Checkout, NotOurs
from embedded.child import Say, StartFailed
from embedded.running import FIRST_USER, FLOWER_USER, Options, Platform, SimulatorOptions, platform


@dataclass(frozen=True)
class DemoOptions:
    """What the user asked of the demo. `once`: end after one life of a session instead of staying up."""

    is_once: bool
    is_json: bool
    speed: float
    seed: int
    timeout_s: float


class Parser(argparse.ArgumentParser):
    """One line for a mistake; the usage is what --help is for."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message} (see {self.prog} --help)", file=sys.stderr)
        sys.exit(2)


def _number(kind: type[int] | type[float], low: float, high: float) -> Callable[[str], Any]:
    def parse(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"wanted {_named(kind)} from {low:g} to {high:g}, was '{text}'") from None
        if not low <= value <= high:  # false for NaN as well
            raise argparse.ArgumentTypeError(f"wanted {_named(kind)} from {low:g} to {high:g}, was '{text}'")
        return value

    return parse


def _named(kind: type) -> str:
    return "a whole number" if kind is int else "a number"


def _host(text: str) -> str:
    if text == "localhost":
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"wanted an IP address or localhost, was '{text}'") from None


def _queue(text: str) -> str:
    if text not in processes.COMPONENTS:
        raise argparse.ArgumentTypeError(f"unknown queue '{text}', wanted some of: {', '.join(processes.COMPONENTS)}")
    return text


def _check(text: str) -> str:
    if text not in commands.checks():
        raise argparse.ArgumentTypeError(f"unknown check '{text}', wanted some of: {', '.join(commands.checks())}")
    return text


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="r3edge", description="Self-hosted trading backend.", allow_abbrev=False)
    verbs = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return verbs.add_parser(name, help=text, description=text, allow_abbrev=False)

    _demo_options(add("demo", "Start everything with a simulated exchange; run one session through its whole life."))
    _up_options(add("up", "Start the platform, on its own PostgreSQL and Valkey or on those the environment names."))
    _worker_options(
        add("worker", "Run one more Celery worker for the platform here, or the one the environment names.")
    )
    test = add("test", "Run the tests on services that are started for them. All arguments go to pytest.")
    test.usage = "r3edge test [PYTEST ARGUMENT...]"
    test.epilog = "DATABASE_URL and REDIS_URL name services to use instead. Two processes run tests; `-n 0` for one."
    check = add("check", "Lint, format, types, import floors, migrations, Django's own checks; then the verdict.")
    check.add_argument(
        "names", nargs="*", type=_check, metavar="NAME", help=f"only these of: {', '.join(commands.checks())}"
    )
    bench = add("bench", "Run one benchmark on services that are started for it.")
    bench.usage = "r3edge bench NAME [OPTION...]"
    backtest = add("backtest", "Backtest one strategy on a file of candles; nothing is started.")
    backtest.usage = "r3edge backtest --strategy NAME --candles FILE --timeframe 1h [OPTION...]"
    chaos = add("chaos", "Break the platform on purpose and check that nothing was lost and nothing was sent twice.")
    chaos.usage = "r3edge chaos [OPTION...]"
    manage = add("manage", "Django's manage.py, on the running platform's services or on its own while it runs.")
    manage.usage = "r3edge manage COMMAND [ARGUMENT...]"
    manage.epilog = "`r3edge manage help` lists Django's commands."
    return top


def _demo_options(demo: argparse.ArgumentParser) -> None:
    speed, seed, timeout = _number(float, 0.001, 100_000), _number(int, 0, 2**31 - 1), _number(float, 1, 86_400)
    demo.add_argument("--once", action="store_true", help="end with that life, its verdict as exit code")
    demo.add_argument("--json", action="store_true", help="one JSON object on stdout, all else on stderr")
    demo.add_argument("--speed", type=speed, default=60.0, metavar="N", help="market seconds per second (default 60)")
    demo.add_argument("--seed", type=seed, default=7, metavar="N", help="of the simulated market (default 7)")
    demo.add_argument(
        "--timeout",
        type=timeout,
        default=300.0,
        metavar="S",
        help="with --once: fail after so many seconds (default 300)",
    )


def _up_options(up: argparse.ArgumentParser) -> None:
    port = _number(int, 0, 65535)
    up.add_argument("--web-port", type=port, metavar="N", help="web server (default 8000 or the next free; 0: any)")
    up.add_argument("--flower-port", type=port, metavar="N", help="Flower (default 5555 or the next free; 0: any)")
    up.add_argument(
        "--host", type=_host, default="127.0.0.1", metavar="ADDRESS",
        help="what the web server listens on (default 127.0.0.1); R3EDGE_ALLOWED_HOSTS names what it answers to",
    )  # fmt: skip
    up.add_argument(
        "--stream", action="store_true", help="also listen to the exchanges' streams (some 200 MB of memory)"
    )
    up.epilog = "DATABASE_URL and REDIS_URL, each by itself, name a server to use instead of an embedded one."


def _worker_options(worker: argparse.ArgumentParser) -> None:
    known = ", ".join(processes.COMPONENTS)
    worker.epilog = (
        "On another machine set DATABASE_URL, REDIS_URL, and R3EDGE_SECRET_KEY and R3EDGE_ENCRYPTION_KEYS to what the "
        "platform's own are (var/secrets/django.key and encryption.key)."
    )
    worker.add_argument("queues", nargs="+", type=_queue, metavar="QUEUE", help=known)
    worker.add_argument(
        "--concurrency", type=_number(int, 1, 256), metavar="N", help="tasks at once (default 8 threads, 1 process)"
    )
    worker.add_argument(
        "--pool", choices=("threads", "prefork"), help="default prefork for queues that compute, else threads"
    )


def sayer(stream: TextIO) -> Say:
    def say(text: str) -> None:
        print(f"r3edge: {text}" if not text.startswith("-") else text, file=stream, flush=True)

    return say


def describe(up: Platform, say: Say) -> None:
    assert up.supervisor is not None
    supervisor = up.supervisor
    say(f"up after {supervisor.elapsed():.1f} s; {supervisor.megabytes():.0f} MB of memory in all")
    for name, url in up.urls.items():
        say(f"  {name.replace('_', ' '):10} {url}{_login(up, name)}")
    say(f"  {'logs':10} {up.checkout.log_dir}")
    say("Ctrl-C stops it")


def _login(up: Platform, name: str) -> str:
    """Who may enter there. The admin's password is the one generated for its first user, unless it was changed since."""
    user, secret = {"flower": (FLOWER_USER, "flower.password"), "admin": (FIRST_USER, "admin.password")}.get(
        name, ("", "")
    )
    if not user:
        return ""
    if sys.stderr.isatty() and sys.stdout.isatty():
        return f"  (user {user}, password {up.checkout.secret(secret)})"
    return f"  (user {user}, password in {up.checkout.secrets_dir / secret})"


async def run_up(options: Options, checkout: Checkout, say: Say) -> int:
    async with platform(options, checkout, say) as up:
        describe(up, say)
        await asyncio.Event().wait()  # until a signal cancels us
    return 0


async def run_demo(options: DemoOptions, checkout: Checkout, say: Say) -> int:
    # Only here: the demo draws with rich, which nothing else needs.
    scenario = importlib.import_module("embedded.demo")
    wanted = Options(mode="demo", simulator=SimulatorOptions(options.speed, options.seed))
    async with platform(wanted, checkout, say) as up:
        describe(up, say)
        try:
            async with asyncio.timeout(options.timeout_s if options.is_once else None):
                code = int(await scenario.run(up, options))
        except TimeoutError:
            say(f"the demo was not through after {options.timeout_s:g} s")
            return 1
        if not options.is_once and code == 0:
            await asyncio.Event().wait()
    return code


def _cancel_on_signals(say: Say) -> None:
    """The first signal asks this task to end and so to stop everything; the second leaves that to the guard."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    signals_seen: list[int] = []

    def heard(number: signal.Signals) -> None:
        signals_seen.append(number)
        if len(signals_seen) > 1:
            say("ending at once; what is left is ended within seconds")
            os._exit(130)
        say("stopping")
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, heard, number)


async def _until_signalled(work: Coroutine[Any, Any, int], say: Say) -> int:
    _cancel_on_signals(say)
    try:
        return await work
    except asyncio.CancelledError:
        say("stopped")
        return 0


def _run(work: Coroutine[Any, Any, int], say: Say) -> int:
    try:
        return asyncio.run(_until_signalled(work, say))
    except (StartFailed, AlreadyRunning) as failure:
        say(str(failure))
        return 1


def _as_the_only_one(mode: str, work: Callable[[], Coroutine[Any, Any, int]], checkout: Checkout, say: Say) -> int:
    """Run `up` or `demo`, or say what runs here already: 0 when that is what was asked for."""
    checkout.make()
    try:
        with checkout.lock():
            return _run(work(), say)
    except AlreadyRunning:
        state = checkout.state()
        if state is None:
            say("another r3edge has just begun in this checkout")
            return 1
        say(
            f"`r3edge {state.mode}` runs already in this checkout (pid {state.pid}{'' if state.is_ready else ', starting'})"
        )
        for name, url in state.urls.items():
            say(f"  {name.replace('_', ' '):10} {url}")
        return 0 if state.mode == mode == "up" else 1


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    # argparse would take pytest's, Django's and the benchmarks' own options for ours.
    is_help = given[1:] in (["-h"], ["--help"]) and given[0] not in ("backtest", "bench", "chaos")
    if given[:1] in (["backtest"], ["test"], ["manage"], ["bench"], ["chaos"]) and not is_help:
        options = argparse.Namespace(command=given[0], arguments=given[1:])
    else:
        options = parser().parse_args(given)
    say = sayer(sys.stderr if options.command != "up" else sys.stdout)
    try:
        return dispatch(options, Checkout(), say)
    except (NotOurs, StartFailed) as refused:
        say(str(refused))
        return 1


def dispatch(options: argparse.Namespace, checkout: Checkout, say: Say) -> int:
    match options.command:
        case "up":
            wanted = Options("up", options.host, options.web_port, options.flower_port, has_stream=options.stream)
            return _as_the_only_one("up", lambda: run_up(wanted, checkout, say), checkout, say)
        case "demo":
            demo = DemoOptions(options.once, options.json, options.speed, options.seed, options.timeout)
            return _as_the_only_one("demo", lambda: run_demo(demo, checkout, say), checkout, say)
        case "worker":
            commands.worker(tuple(dict.fromkeys(options.queues)), options.pool, options.concurrency, checkout)
        case "test":
            work = commands.test(options.arguments, say)
        case "check":
            work = commands.check(options.names, say)
        case "backtest":
            return commands.backtest(options.arguments)
        case "bench":
            commands.bench_options().parse_args(options.arguments)  # refused here, before anything is started
            work = commands.bench(options.arguments, say)
        case "chaos":
            commands.chaos_options().parse_args(options.arguments)
            work = commands.chaos(options.arguments)
        case _:
            checkout.make()
            work = commands.manage(options.arguments, checkout, say)
    return _run(work, say)
